"""Names of people, devices, buses and lines: what they are called wherever they are told of."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.describe import describe
from jaxgne.devices import join
from jaxgne.fitting import parameter_names
from jaxgne.names import owners, unphased
from jaxgne.padding import pad
from jaxgne.programs import program
from jaxgne.record import Unnamed, changed, renamed, unnamed
from tests.folders import feeder, same

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def called(market: jg.Market, words: str) -> jg.Market:
    """The market in which all that can have a name has one that begins with `words`."""
    grid = market.grid
    buses, lines = (range(np.shape(a)[0]) for a in (grid.passive, grid.source))
    grid = replace(
        grid,
        names=tuple(f"{words} bus {k}" for k in buses),
        line_names=tuple(f"{words} line {k}" for k in lines),
    )
    return replace(market, grid=grid)


def test_programs_are_for_markets_of_any_names():
    """One program serves a market under two names and under none, and gives back those it had."""

    @program("an echo", once=True)
    def echo(market: jg.Market) -> tuple[jg.market.Grid, jax.Array]:
        assert isinstance(market.grid.names, Unnamed)
        return replace(market.grid, rating=2 * market.grid.rating), market.prosumers.load.sum()

    plain = replace(feeder(), grid=replace(feeder().grid, names=(), line_names=()))
    for market in (called(plain, "old"), called(plain, "new"), plain):
        grid, _ = echo(market)
        assert (grid.names, grid.line_names) == (market.grid.names, market.grid.line_names)
    assert len(echo._found) == 1  # pyright: ignore


def test_names_are_told_apart_by_what_they_are_of():
    """Two grids of the same names stand for one another, one of other names does not."""
    one, other = called(feeder(), "old"), called(feeder(), "new")
    (a, b, c), names = unnamed((one, one, other))
    assert a.grid.names == b.grid.names != c.grid.names
    assert renamed(c, names).grid.names == other.grid.names
    assert jax.tree.structure(unnamed(one)[0]) == jax.tree.structure(unnamed(other)[0])


@pytest.mark.slow
def test_names_change_no_number_and_compile_nothing():
    """All programs of a clearing and a derivative are there, and its sentences tell the names."""
    one, other = called(feeder(), "old"), called(feeder(), "new")
    first = jg.clear(one, runner="jax")
    jax.grad(lambda m: jg.clear(m, runner="jax").costs.sum(), allow_int=True)(one)
    before = len(compiled)
    second = jg.clear(other, runner="jax")
    jax.grad(lambda m: jg.clear(m, runner="jax").costs.sum(), allow_int=True)(other)
    assert len(compiled) == before
    assert same((first.plan, first.prices, first.costs), (second.plan, second.prices, second.costs))
    assert "new bus" in str(second.certificate) and "old" not in str(second.certificate)


def people(market: jg.Market) -> jg.Market:
    """Three prosumers, a generator and a battery with names."""
    return replace(
        market,
        prosumers=replace(market.prosumers, names=("Miller", "Bakery", "School")),
        generators=changed(market.generators, names=("Engine",)),
    )


def test_a_bus_is_called_without_its_phases():
    """Of phases, two or three of them; what else a name ends in is its own."""
    told = ("632.b", "701.ab", "x.y.abc", "632", "feeder.1", "house.d", ".a")
    assert [unphased(name) for name in told] == ["632", "701", "x.y", *told[3:]]


def test_sentences_name_people_and_devices():
    market = people(feeder())
    own = owners(market)
    assert own.prosumer(1) == "prosumer Bakery"
    assert own.device("generator", 0) == "Engine (Bakery)"
    assert own.device("buffer", 0) == "battery 0 (Miller)"
    assert own.pair(1) == "pair 1 (Bakery and School)"
    plain = owners(feeder())
    assert plain.device("buffer", 0) == "battery 0 (prosumer 0)"
    assert plain.device("generator", 0) == "generator 0 (prosumer 1)"
    assert plain.pair(1) == "pair 1 (prosumers 1 and 2)"
    assert own.whose("buffer", 0) == "battery of Miller"
    assert (own.whose("generator", 0), plain.whose("generator", 0)) == (
        "Engine of Bakery", "prosumer 1",
    )  # fmt: skip


def test_certificates_and_frames_tell_names():
    """Whoever fares worst is told by name, limits that are missed by device and owner."""
    pytest.importorskip("pandas")
    market = people(feeder(caps=False))
    clearing = jg.clear(market)
    assert "by its own size prosumer " in str(clearing.certificate)
    assert any(name in str(clearing.certificate) for name in market.prosumers.names)
    beyond = replace(clearing.plan, energy=clearing.plan.energy + 9.0)
    said = "\n".join(jg.certify(market, beyond, clearing.prices).violations())
    assert "content of battery 0 (Miller)" in said
    assert list(jg.frames.prosumers(market, clearing)["prosumer"].unique()) == [
        *market.prosumers.names
    ]
    table = jg.frames.generators(market, clearing)
    assert (set(table["generator"]), set(table["owner"])) == ({"Engine"}, {"Bakery"})
    bills = jg.frames.bills(market, clearing)
    assert bills["prosumer"].tolist()[:2] == ["Miller", "Miller"]


@pytest.mark.parametrize(
    ("table", "names", "said"),
    [
        ("prosumers", ("a", "b"), r"Prosumers.names: 2 different names for 3 prosumers; give"),
        ("prosumers", ("a", "b", "a"), r"Prosumers.names: 2 different names for 3 prosumers"),
        ("prosumers", ("a", "b", ""), r"Prosumers.names: an empty name among those of 3 pros"),
        ("buffers", ("a", "b"), r"Buffers.names: 2 different names for 1 buffers; give each"),
    ],
)
def test_names_that_do_not_fit_are_refused(table: str, names: tuple[str, ...], said: str):
    market = feeder()
    wrong = changed(market, **{table: changed(getattr(market, table), names=names)})
    with pytest.raises(ValueError, match=said):
        jg.validate(wrong)


def test_files_keep_the_names_of_people(tmp_path: Path):
    market = people(feeder())
    jg.save(tmp_path / "street", market, jg.clear(market))
    again, clearing = jg.load(tmp_path / "street")
    assert same(again, market)
    told = clearing and clearing.certificate.owners
    assert told and told.prosumers == market.prosumers.names
    assert "Bakery" in (tmp_path / "street" / "prosumers.csv").read_text()


def test_caps_and_plots_tell_names():
    """Of prosumers who pay for their peaks, and of those whose storage is drawn."""
    pytest.importorskip("matplotlib")
    market = people(feeder(caps=False))
    assert jg.caps.demand_charge(market, 1.0, prosumers=[1]).names == (
        "demand charge of prosumer Bakery",
    )
    ax = jg.plots.storage(market, jg.clear(market), prosumer=0)
    told = [str(area.get_label()) for area in ax.collections]
    assert [name for name in told if not name.startswith("_")] == ["battery 0 (Miller)"]
    assert ax.get_title().startswith("Storage of prosumer Miller")
    compared = jg.compare({"market": (market, jg.clear(market))}, reference="no trading")
    ax = jg.plots.benefits(compared, reference="market")
    assert ax.get_xlabel() == "prosumer"
    assert [text.get_text() for text in ax.get_xticklabels()] == [*market.prosumers.names]


def test_names_go_with_their_rows():
    """Joined, padded and in a batch: whoever is new has none, or one that says so."""
    market = people(feeder())
    both = join(market.generators, feeder().generators)
    assert both.names == ("Engine", "") and join(*[feeder().buffers] * 2).names == ()
    wide = pad(market, prosumers=5, generators=2)
    assert wide.prosumers.names == (*market.prosumers.names, "pad0", "pad1")
    assert wide.generators.names == ("Engine", "") and wide.buffers.names == ()
    assert jg.scenarios.stack([market, market]).prosumers.names == market.prosumers.names
    assert jg.scenarios.stack([market, feeder()]).prosumers.names == ()


def test_prosumers_and_devices_are_found_by_name():
    """In caps, connections and bills, as by number; whoever there is not is told, with a name."""
    market, caps = people(feeder(caps=False)), jg.caps
    for named, numbered in (
        (caps.demand_charge(market, 1.0, prosumers=["Bakery", 0]),
         caps.demand_charge(market, 1.0, prosumers=[1, 0])),
        (caps.group(market, 3.0, members="School"), caps.group(market, 3.0, members=[2])),
        (caps.budget(market, 9.0, of="generation", devices=["Engine"]),
         caps.budget(market, 9.0, of="generation", devices=[0])),
    ):  # fmt: skip
        assert same(named, numbered)
    wired = jg.devices.connection(market, ["School", "Miller"], 9.0)
    assert same(wired, jg.devices.connection(market, [2, 0], 9.0))
    with pytest.raises(
        ValueError, match="members: there is no prosumer 'Baker'; give 0 to 2, or a"
    ):
        caps.group(market, 3.0, members=["Baker"])
    with pytest.raises(
        ValueError, match=r"connection: there is no prosumer 'x'; .*such as 'Miller'"
    ):
        jg.devices.connection(market, "x", 9.0)


def test_descriptions_count_devices_by_kind():
    market = feeder()
    hours = market.prosumers.load.shape[1]
    stores = jg.devices.join(*[jg.devices.battery(0, power=1, capacity=2, hours=hours)] * 4)
    stores = changed(stores, kind=np.array([1, 2, 0, 2]))
    assert "4: 1 battery, 2 vehicles, 1 without a kind, 8 kWh" in describe(
        changed(market, buffers=stores)
    )


def test_mistakes_and_warnings_tell_names():
    market = people(feeder())
    pairs = changed(market.trading, seller=np.array([0, *market.trading.seller[1:].tolist()]))
    loop = changed(market, trading=changed(pairs, buyer=0 * np.asarray(pairs.buyer)))
    with pytest.raises(ValueError, match="prosumer Miller is buyer and seller; remove the pair"):
        jg.validate(loop)
    late = jg.devices.battery(0, power=0.1, capacity=10, start=0.05, floor=0.3, hours=2)
    with pytest.warns(UserWarning, match=r"recover: Wallbox \(prosumer 0\) holds"):
        jg.devices.recover(changed(late, names=("Wallbox",)))


def test_finished_blocks_of_a_batch_are_for_any_names(tmp_path: Path):
    both = [jg.scenarios.stack([called(feeder(), name)] * 2) for name in ("old", "new")]
    first, again = (jg.clear_many(m, runner="numpy", folder=tmp_path) for m in both)
    assert same(first.plan, again.plan)
    assert again.certificate.names == both[1].grid.names


def test_what_is_fitted_is_told_by_name():
    """Each row of a table that has names; rows without one, and hours, by number."""
    market = people(feeder())
    told = parameter_names(market, lambda m: m.prosumers.load, None, np.zeros((2, 2)))
    assert told[1:3] == ("Prosumers.load[Miller, 1]", "Prosumers.load[Bakery, 0]")
    assert parameter_names(market, lambda m: m.buffers.energy_start, None, np.zeros(1)) == (
        "Buffers.energy_start[0]",
    )
    slope = parameter_names(market, lambda m: m.tariff.anticipation, None, np.zeros(()))
    assert slope == ("Tariff.anticipation",)
