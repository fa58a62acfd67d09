"""Customers for any grid: how many own what, where, and that the grid can serve them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.cases import populate
from tests.agreement import check_agreement
from tests.reference import solve

SPOT = np.array([[0.0], [80.0], [60.0], [40.0], [0.0], [20.0]])  # kW
MIX: dict[str, Any] = {
    "battery": 0.5,
    "vehicle": 0.3,
    "heat_pump": 0.2,
    "shiftable": 0.4,
    "kinds": {"house": 0.6, "office": 0.4},
}


def spots(model: Any = "lindistflow", **limits: Any) -> jg.Grid:
    """Buses 0 - 1 - 2 - 4 and 1 - 3, 0 - 5; on the paper's grid 3 - 2 closes a loop. One hour."""
    loop = model == "paper"
    return jg.Grid(
        SPOT, [0, 1, 1, 2, 0] + [3] * loop, [1, 2, 3, 4, 5] + [2] * loop, 1e-4, 5e-5,
        passive_reactive=0.3 * SPOT, model=model, names=tuple("abcdef"), **limits,
    )  # fmt: skip


def over(grid: jg.Grid, hours: int) -> jg.Grid:
    """The same passive load in each of many hours."""

    def tables(grid: jg.Grid) -> tuple:
        hourly = grid.passive, grid.passive_reactive, grid.compensation_max
        return *hourly, grid.feeder_voltage

    return eqx.tree_at(tables, grid, tuple(np.tile(a, hours) for a in tables(grid)))


@pytest.fixture(scope="module")
def market() -> jg.Market:
    return populate(spots(), 10, hours=24, **MIX)


def gross(market: jg.Market) -> np.ndarray:
    """Load before the sun is taken off, kW (N, H)."""
    return np.asarray(market.prosumers.load + market.prosumers.curtail_max)


def drawn(market: jg.Market, table: Any) -> np.ndarray:
    """A table of prosumers summed by bus."""
    total = np.zeros(market.grid.passive.shape)
    np.add.at(total, np.asarray(market.prosumers.bus), np.asarray(table))
    return total


def by_kind(market: jg.Market) -> dict[str, jg.Buffers]:
    """The buffers by what tells them apart: batteries give back, buildings leak, cars drive."""
    b = market.buffers
    back, leaks = np.any(b.discharge_max > 0, axis=1), np.any(b.retention < 1, axis=1)
    drives = ~leaks & np.any(b.drain > 0, axis=1)
    rows = {"battery": back, "heat_pump": leaks, "vehicle": drives}
    rows["shiftable"] = ~(back | leaks | drives)
    return {name: jax.tree.map(lambda a, at=at: a[at], b) for name, at in rows.items()}


def same(first: Any, second: Any) -> bool:
    leaves = (jax.tree.leaves(tree) for tree in (first, second))
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_same_seed_same_market(market: jg.Market):
    assert same(market, populate(spots(), 10, hours=24, **MIX))
    assert not same(market.prosumers, populate(spots(), 10, 1, hours=24, **MIX).prosumers)


def test_shares_are_counts(market: jg.Market):
    """Of ten: 6 with panels, 5, 3, 2, 4 with buffers, 2 (a quarter, rounded) with generators."""
    counts = {name: len(np.unique(table.owner)) for name, table in by_kind(market).items()}
    assert counts == {"battery": 5, "heat_pump": 2, "vehicle": 3, "shiftable": 4}
    assert len(market.buffers.owner) == 14 and len(np.unique(market.generators.owner)) == 2
    sunny = np.any(market.prosumers.curtail_max > 0, axis=1)
    assert sunny.sum() == 6
    assert np.array_equal(market.prosumers.export_max, market.prosumers.curtail_max)
    added = populate(spots(), 10, hours=24, replace=None, **MIX)
    assert (gross(added).max(axis=1) < 7.5).sum() == 6  # houses; an office draws 37.5 kW at least


def test_devices_fit_their_owners(market: jg.Market):
    """Powers follow the highest load of the owner, who sits where there is a load."""
    assert np.all(SPOT[market.prosumers.bus] > 0)
    peak, kinds = gross(market).max(axis=1), by_kind(market)
    made = market.generators.power_max[:, 0] / peak[market.generators.owner]
    np.testing.assert_allclose(made, 0.8)
    for name, low, high in (
        ("battery", 0.2, 0.4),
        ("vehicle", 0.75, 1.5),
        ("shiftable", 0.25, 0.25),
    ):
        share = np.asarray(kinds[name].charge_max).max(axis=1) / peak[kinds[name].owner]
        assert np.all((share > low - 1e-9) & (share < high + 1e-9)), name
    content = np.asarray(kinds["battery"].energy_start / kinds["battery"].energy_max[:, 0])
    np.testing.assert_allclose(content, 0.5)


def check_hours(market: jg.Market) -> None:
    """Cars are away from 8 to 16 o'clock, shiftable loads run from 6 to 22, once a day."""
    kinds, hours = by_kind(market), market.prosumers.load.shape[1]
    clock = np.arange(hours) * float(market.hour_length[0]) % 24
    cars, loads = kinds["vehicle"], kinds["shiftable"]
    home = np.asarray(cars.charge_max) > 0
    assert not np.any(home[:, (clock >= 8) & (clock < 16)])
    assert np.all(home[:, (clock < 6) | (clock >= 20)])
    days = round(hours * float(market.hour_length[0]) / 24)
    assert np.all((np.asarray(cars.drain) > 0).sum(axis=1) == days)
    runs = np.asarray(loads.charge_max) > 0
    assert not np.any(runs[:, (clock < 6) | (clock >= 22)])
    due = np.asarray(loads.energy_min)[:, -1] / np.asarray(loads.charge_max).max(axis=1)
    assert np.all(due <= 2.0) and np.all(runs.sum(axis=1) * float(market.hour_length[0]) >= 4)
    assert len(loads.owner) == days * len(np.unique(loads.owner))


def test_hours_of_the_day(market: jg.Market):
    check_hours(market)


def test_two_days_in_half_hours():
    """Passive loads by the half hour; every device does on the second day what it did before."""
    market = populate(over(spots(), 96), 10, hour_length=0.5, **MIX)
    check_hours(market)
    assert solve(market).status == "solved"


def test_another_share_leaves_the_rest(market: jg.Market):
    """More cars: the first ones stay, and nothing else moves. None: only they go."""
    more, none = (populate(spots(), 10, hours=24, **dict(MIX, vehicle=v)) for v in (0.8, 0.0))
    first, kinds, fewer = by_kind(market), by_kind(more), by_kind(none)
    for other in (more, none):
        for table in ("prosumers", "generators", "trading", "grid", "tariff"):
            assert same(getattr(market, table), getattr(other, table)), table
    for name in ("battery", "heat_pump", "shiftable"):
        assert same(first[name], kinds[name]) and same(first[name], fewer[name])
    kept = np.isin(kinds["vehicle"].owner, first["vehicle"].owner)
    assert (len(kept), kept.sum(), len(fewer["vehicle"].owner)) == (8, 3, 0)
    assert same(first["vehicle"], jax.tree.map(lambda a: a[kept], kinds["vehicle"]))


def test_a_share_of_the_passive_load_is_theirs(market: jg.Market):
    """Customers and what is left are the spot loads' day, which peaks at the spot loads."""
    total = np.asarray(market.grid.passive) + drawn(market, gross(market))
    np.testing.assert_allclose(total.max(axis=1), SPOT[:, 0], rtol=1e-12)
    np.testing.assert_allclose(total[1:4] / SPOT[1:4], np.tile(total[1] / 80.0, (3, 1)))
    kvar = np.asarray(market.grid.passive_reactive) + drawn(market, market.prosumers.reactive)
    np.testing.assert_allclose(kvar, 0.3 * total)
    assert np.all(drawn(market, gross(market)) <= 0.6 * total + 1e-9)


def test_or_it_stays_and_customers_are_added():
    """At the given weights; the grid is the one that was given."""
    day = over(spots(voltage_min=0.9), 24)
    market = populate(day, 10, replace=None, weights=[0, 0, 1, 0, 3, 0], **MIX)
    assert same(market.grid, day) and market.grid.names == day.names
    assert set(np.asarray(market.prosumers.bus).tolist()) == {2, 4}
    np.testing.assert_allclose(
        market.prosumers.reactive, gross(market) * np.tan(np.arccos(0.93)), rtol=1e-12
    )


def test_plants_among_the_passive_loads():
    """120 kW of negative load at bus 3: nobody lives there, and no price invites reselling."""
    spot = SPOT.copy()
    spot[3] = -120.0
    grid = eqx.tree_at(lambda g: g.passive, over(spots(), 6), np.tile(spot, 6))
    market = populate(grid, 10, hour_length=4.0, **MIX)
    assert not np.any(market.prosumers.bus == 3)
    np.testing.assert_allclose(market.grid.passive[3], -120.0)
    assert solve(market).status == "solved"


def test_a_mix_clears_as_the_oracle_says():
    """One of each buffer on six steps of four hours: test_devices clears this shape too."""
    buffers = dict.fromkeys(("battery", "vehicle", "heat_pump", "shiftable"), 1 / 3)
    grid = jg.Grid([[20.0]], model="copperplate")
    small = populate(grid, 3, hours=6, hour_length=4.0, degree=0.0, generator=0.0, **buffers)
    assert len(small.buffers.owner) == 4
    check_agreement(small, jg.clear(small), solve(small))


@pytest.mark.slow
def test_a_mix_on_a_feeder_clears_as_the_oracle_says(market: jg.Market):
    check_agreement(market, jg.clear(market), solve(market))


DEVICES = ("battery", "generator", "vehicle", "heat_pump", "shiftable")


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    model=st.sampled_from(["lindistflow", "paper", "copperplate"]),
    shares=st.fixed_dictionaries(dict.fromkeys(DEVICES, st.sampled_from([0.0, 0.3, 1.0]))),
    replace=st.sampled_from([0.3, 1.0, None]),
)
def test_random_mixes_can_be_served(seed: int, model: Any, shares: Any, replace: float | None):
    """On a grid with room for them, whoever owns what; the oracle finds the plan."""
    grid = spots(model, rating=600.0, voltage_min=0.9)
    mixed = populate(grid, 6, seed, hours=12, hour_length=2.0, replace=replace, **shares)
    assert solve(mixed).status == "solved"


@pytest.mark.parametrize(
    ("grid", "field", "limit", "message"),
    [
        (spots(), "rating", 90.0, r"the line from bus 'a' to bus 'b' has to carry \d+"),
        (spots(), "voltage_min", 0.99, r"bus '[cd]' has 0\.9\d+ pu at most"),
        (spots("paper"), "rating", 75.0, r"all beyond the feeder buses needs \d+"),
        (spots("paper"), "rating", [300, 300, 8, 300, 300, 8], r"bus 'd' needs \d+"),
    ],
)
def test_a_grid_too_weak_is_named(grid: jg.Grid, field: str, limit: Any, message: str):
    """And the oracle proves the same market, on a grid with that limit, infeasible."""

    def weaken(tree: Any, at: Any) -> Any:
        return eqx.tree_at(at, tree, np.broadcast_to(np.asarray(limit, float), at(tree).shape))

    with pytest.raises(ValueError, match=rf"grid: {message}.* in hour \d+ whatever") as caught:
        populate(weaken(grid, lambda g: getattr(g, field)), 10, hours=24, **MIX)
    assert "\n" not in str(caught.value)
    market = populate(grid, 10, hours=24, **MIX)
    limited = weaken(market, lambda m: getattr(m.grid, field))
    assert solve(limited).status == "infeasible"


def test_what_inverters_can_do_counts():
    """With them the voltage that was out of reach is held, and the oracle's plan holds it."""
    weak = spots(voltage_min=0.985)
    with pytest.raises(ValueError, match="pu at most"):
        populate(weak, 6, hours=24)
    most = jnp.full(weak.passive.shape, 60.0)
    helped = eqx.tree_at(lambda g: g.compensation_max, weak, most)
    assert solve(populate(helped, 6, hours=24)).status == "solved"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"battery": 1.5}, r"battery=1\.5: give a share from 0 to 1"),
        ({"vehicle": -0.1}, r"vehicle=-0\.1: give a share"),
        ({"shiftable": np.nan}, r"shiftable=nan: give a share"),
        ({"kinds": {"factory": 1.0}}, r"kinds='factory': choose one of house, apartments"),
        ({"kinds": {"house": 2.0, "office": -1.0}}, r"kinds: 2 of 'house'; give a share"),
        ({"kinds": {"house": 0.5}}, r"kinds: the shares sum to 0\.5; they must sum to 1"),
        ({"weights": [1.0, 2.0]}, r"weights: give each of the 6 buses a finite number"),
        ({"weights": [0, 1, 1, 1, -1, 1]}, r"weights: give each of the 6 buses"),
        ({"weights": [0] * 6}, r"weights: all are 0"),
        ({"weights": [0, 1, 0, 0, 1, 0]}, r"weights: bus 'e' has no passive load .* replace=None"),
        ({"replace": 0.0}, r"replace=0: give a share above 0"),
        ({"prosumers": 0}, r"prosumers=0: give a whole number"),
        ({"hour_length": 5.0}, r"hour_length=5: give a part of 12 hours"),
        ({"hour_length": 0.0}, r"hour_length=0: give a part of 12 hours"),
        ({"graph": "star"}, r"graph='star': choose one of random, ring"),
        ({"grid": jg.Grid([[0.0]])}, r"weights: Grid\.passive has no load to put customers at"),
        ({"grid": jg.Grid([[1.0, 1.0]]), "hours": 3}, r"hours=3: Grid\.passive has 2 hours"),
        ({"grid": jg.Grid([[1.0], [1.0]], [1], [0])}, r"Grid\.source row 0: the line from bus 1"),
    ],
)
def test_bad_options_get_a_sentence(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        populate(**{"grid": spots(), "prosumers": 4} | options)
