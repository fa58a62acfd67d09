"""The studies: what theory gives is asserted, what is kept is not run again, what is told is so."""

import csv
import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, studies
from jaxgne.phases import by_phase
from jaxgne.studies import Study, rounds, runner
from jaxgne.studies._phases import AC, BALANCED, LINEAR, laid
from jaxgne.studies.figures import _FIGURES
from jaxgne.studies.flexible import flexible
from jaxgne.studies.hosting import grown, hosting
from jaxgne.studies.published import published
from tests.markets import feeder, lone_importer
from tests.simulated import village

TIGHT = 1e-8


def small(rating: float = np.inf, behavior: float = 1.0) -> jg.Market:
    """Four prosumers on five buses for three hours; a surplus of 6 kW may be curtailed.

    With as many buffers, of no power, as `storage` makes of it: all studies compile once.
    """
    market = jg.scenarios.pad(feeder(rating=rating, behavior=behavior), buffers=5)
    spare = jnp.maximum(-market.prosumers.load, 0.0)
    return eqx.tree_at(lambda m: m.prosumers.curtail_max, market, spare)


def houses(homes: str = "aaabbc") -> jg.Market:
    """Houses on the phases of a street of three spans, for two hours; the first has a generator.

    All draw 5 and 8 kW; the last has panels, which make 7 kW in the first hour.
    """
    r, x = (np.full((3, 3), 4e-4) + own * np.eye(3) for own in (6e-4, 3e-4))
    three = np.ones((4, 3), bool)
    grid = by_phase(
        three, np.arange(3), np.arange(1, 4), np.tile(r, (3, 1, 1)), np.tile(x, (3, 1, 1)),
        hours=2, voltage_min=0.95, rating=60.0, passive=np.r_[0, 1, 1, 1][:, None],
        names=("sub", "one", "two", "three"),
    )  # fmt: skip
    count = len(homes)
    bus = [9 - 3 * (k % 2) + "abc".index(home) for k, home in enumerate(homes)]
    load = np.tile([5.0, 8.0], (count, 1))
    people = jg.devices.photovoltaic(
        jg.Prosumers(bus, load, 0.2 * load), [count - 1], generation=[7.0, 0.0]
    )
    return jg.Market(
        people, grid, jg.Tariff(2e-4, hours=2, base=0.2, export=0.04),
        jg.Generators([0], 9.0, hours=2, quadratic=0.01, linear=0.3),
        trading=jg.Trading([1, 2], [0, 0], 5.0, toll=0.01),
    )  # fmt: skip


def column(rows: list[dict], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], float)


@pytest.fixture(scope="module")
def tariff() -> Study:
    return studies.tariff(small(), (0.001, 0.01, 0.03), tol=TIGHT)


@pytest.fixture(scope="module")
def storage() -> Study:
    market = small()
    own = jax.tree.map(lambda a: a[:1], market.buffers)
    market = eqx.tree_at(lambda m: m.buffers, market, own)
    return studies.storage(market, (0.001, 0.02), tol=TIGHT)


@pytest.fixture(scope="module")
def line_limits() -> Study:
    return studies.line_limits(small(rating=31.0), (1.0, 1.1, 1.2), tol=TIGHT)


@pytest.fixture(scope="module")
def selection() -> Study:
    return studies.selection(small(), tol=TIGHT)


@pytest.fixture(scope="module")
def participation() -> Study:
    return studies.participation(small(behavior=0.0), tol=TIGHT)


@pytest.fixture(scope="module")
def phases() -> Study:
    return studies.phases(houses(), (0.6, 1.0), exact=False, tol=1e-7)


@pytest.fixture(scope="module")
def horizon() -> Study:
    return studies.horizon(village(1), (24.0,), seeds=1, days=1)


@pytest.fixture(scope="module")
def uncertainty() -> Study:
    return studies.uncertainty(small(), (0.0, 0.5, 0.9), of="weight", tol=1e-7)


@pytest.fixture(scope="module")
def stackelberg() -> Study:
    return studies.stackelberg(small(), (0.2, 0.5), starts=2, tol=TIGHT)


@pytest.fixture(scope="module")
def near_potential() -> Study:
    return studies.near_potential(small(), (0.0, 0.5), tol=TIGHT)


def between_slopes(x: np.ndarray, potential: np.ndarray, slope: np.ndarray) -> None:
    """A concave function of x rises between two points by less than its slope at the first says,
    and by more than that at the second; what it falls short of is the solver's tolerance."""
    rise, step = np.diff(potential), np.diff(x)
    assert (rise <= slope[:-1] * step + 1e-5).all()
    assert (rise >= slope[1:] * step - 1e-5).all()
    assert (rise > 1e-3).all()


def test_traded_energy_is_the_slope_of_the_potential(tariff: Study):
    """dP/dc_ta = 2 sum |t|: traded energy falls with the toll, and no trade is dearest."""
    rows = tariff.tables["tariff"]
    assert [row["variant"] for row in rows] == ["0.001", "0.01", "0.03", "forbidden"]
    traded, potential = column(rows, "traded_kwh"), column(rows, "potential_eur")
    between_slopes(column(rows[:3], "toll_eur_per_kwh"), potential[:3], 2 * traded[:3])
    assert (np.diff(traded) <= 1e-5).all() and traded[0] > 1 and traded[-1] < 1e-5
    assert potential[-1] >= potential[-2] - 1e-7
    assert rows[1]["tariff_receipts_eur"] == pytest.approx(0.02 * traded[1])
    without = column([r for r in tariff.tables["costs"] if r["variant"] == "forbidden"], "cost_eur")
    assert without.sum() == pytest.approx(rows[-1]["prosumers_cost_eur"])


def test_batteries_widen_what_can_be_done(storage: Study):
    """dP/dc_st is what goes in and out; nobody's battery moves the potential up."""
    none, half, every, dear = storage.tables["storage"]
    assert none["throughput_kwh"] < 1e-6 and [r["owners"] for r in (none, half, every)] == [0, 2, 4]
    potential = column([none, half, every], "potential_eur")
    assert (np.diff(potential) < -1e-3).all()
    used = column([every, dear], "throughput_kwh")
    between_slopes(
        column([every, dear], "battery_cost_eur_per_kwh"), column([every, dear], "potential_eur"),
        used,
    )  # fmt: skip
    assert used[0] > used[1]
    owners = [row for row in storage.tables["costs"] if row["variant"] == "half"]
    assert sum(row["has_battery"] for row in owners) == 2
    sigma = column(
        [r for r in storage.tables["hours"] if r["variant"] == "all"], "contracted_import_kw"
    )
    assert sigma.max() == every["contracted_peak_kw"]


def test_ratings_are_respected_where_they_are_set(line_limits: Study):
    """31 kVA lie below what line 0-1 carries freely; prices part where it is full, nowhere else."""
    rows = line_limits.tables["line-limits"]
    loading, potential = column(rows, "highest_loading_percent"), column(rows, "potential_eur")
    assert (loading[:3] <= [100.01, 110.01, 120.01]).all()
    assert loading[3] > 101 and rows[3]["line_hours_above_rating"] > 0
    assert rows[0]["line_hours_above_rating"] == 0
    assert (np.diff(potential) <= 1e-7).all() and potential[0] > potential[3] + 1e-4
    assert column(rows, "ac_highest_loading_percent")[0] > 100  # losses come on top
    buses = line_limits.tables["buses"]
    price = {
        kind: column([r for r in buses if r["variant"] == kind], "price_eur_per_kwh").reshape(5, 3)
        for kind in ("no ratings", "1 x ratings")
    }
    assert np.ptp(price["no ratings"], axis=0).max() < 1e-6
    assert np.ptp(price["1 x ratings"], axis=0).max() > 1e-3
    assert rows[0]["operator_receipts_eur"] > rows[3]["operator_receipts_eur"]


def test_price_takers_never_lose_by_taking_part(participation: Study):
    """At prices that all take, a passive plan is one that a trader could have chosen.

    Prosumer 0 owns nothing: passive it pays the price of its load, hour by hour.
    """
    rows = participation.tables["participation"]
    trader, held = (column(rows, f"cost_{k}_eur") for k in ("trader", "passive_at_market_prices"))
    assert (trader <= held + 1e-6).all() and (trader < held - 1e-3).any()
    market = small(behavior=0.0)
    four = jg.clear_many(jg.scenarios.stack([market] * 4), tol=TIGHT)
    clearing = jax.tree.map(jnp.asarray, jg.scenarios.lane(four, 0))
    np.testing.assert_allclose(trader, jg.comparison.outcome(market, clearing).cost, atol=1e-4)
    grid = market.tariff.base + market.tariff.slope * clearing.aggregate
    price = grid + clearing.prices.bus[market.prosumers.bus[0]]
    assert held[0] == pytest.approx(float(price @ market.prosumers.load[0]), abs=1e-5)
    active, passive = participation.tables["scenarios"]
    assert passive["traded_kwh"] < 1e-5 < active["traded_kwh"]
    assert active["potential_eur"] < passive["potential_eur"]
    assert column(rows, "cost_all_passive_eur").sum() == pytest.approx(
        passive["prosumers_cost_eur"]
    )


def test_each_choice_has_the_least_of_its_own(selection: Study):
    """And none leaves the set of equilibria: one potential, certificates within the tolerance."""
    rows = selection.tables["selection"]
    assert [row["status"] for row in rows] == ["cleared"] * 5
    keys = ("congestion_kva2", "traded_kwh", "spread_eur", "norm_kw")
    for row, key in zip(rows[1:], keys, strict=True):
        values = column(rows, key)
        assert row[key] <= values.min() + 1e-4 * max(abs(values.min()), 1.0)
    potentials = column(rows, "potential_eur")
    assert np.ptp(potentials) < 1e-6 * abs(potentials[0])
    assert column(rows, "error").max() <= TIGHT


def test_the_balanced_market_hides_the_worst_phase(phases: Study):
    """Three of six houses are on phase a, whose generator has to run; the mean phase needs none."""
    rows = {(row["factor"], row["variant"]): row for row in phases.tables["phases"]}
    assert rows[0.6, BALANCED]["ac_safe"] and rows[0.6, LINEAR]["ac_safe"]
    even, linear = rows[1.0, BALANCED], rows[1.0, LINEAR]
    assert even["lowest_pu"] > 0.965 and even["lowest_bus"] == "three" and not even["full_lines"]
    assert even["ac_lowest_pu"] < 0.93 and even["ac_lowest_bus"] == "three.a"
    assert even["ac_outside_pu"] == pytest.approx(0.95 - even["ac_lowest_pu"])
    assert not even["ac_safe"] and not linear["ac_safe"]
    assert linear["lowest_pu"] == pytest.approx(0.95, abs=1e-6)
    assert linear["ac_lowest_pu"] == pytest.approx(0.949, abs=1e-3)  # losses come on top
    assert linear["social_cost_eur"] > even["social_cost_eur"] + 1
    # below the limits neither model of the grid changes a bill
    small, more = (
        column([row for row in phases.tables["prosumers"] if row["factor"] == f], "more_eur")
        for f in (0.6, 1.0)
    )
    assert np.abs(small).max() < 1e-4
    paid = {row["phase"]: row["more_eur"] for row in phases.tables["by-phase"][3:]}
    assert paid["a"] > paid["b"] > paid["c"] and sum(paid.values()) == pytest.approx(more.sum())
    assert more.sum() == pytest.approx(linear["prosumers_cost_eur"] - even["prosumers_cost_eur"])


def test_room_ends_where_an_ac_state_meets_its_limit(phases: Study):
    """There the lowest voltage is at its limit, and its slope that of a difference of AC states."""
    rooms = {row["model"]: row for row in phases.tables["hosting"]}
    factors = [rooms[name]["factor"] for name in (BALANCED, "balanced, AC", LINEAR, AC)]
    assert factors == sorted(factors, reverse=True) and factors[0] > 2 * factors[3]
    market = houses()
    plan = laid(market, jg.clear(jg.grids.balanced(market), tol=1e-7).plan)

    def lowest(factor: float) -> float:
        return float(jg.ac_power_flow(grown(market, factor), plan).voltage.min())

    found, step = rooms[AC], 1e-4
    assert (found["limit"], found["where"], found["hour"]) == ("lowest voltage", "three.a", 1)
    assert lowest(found["factor"]) == pytest.approx(0.95, abs=1e-8)
    slope = (lowest(found["factor"] + step) - lowest(found["factor"] - step)) / (2 * step)
    assert found["slope_by_factor"] == pytest.approx(slope, rel=1e-6)


def test_equal_phases_have_the_room_of_their_balanced_equivalent():
    """Of loads that grow, by either model of the grid; what grows is what was asked."""
    market = houses("abcabc")
    even = jg.grids.balanced(market)
    plan = jg.clear(even, tol=1e-7).plan
    for ac in (False, True):
        one, three = hosting(even, plan, ac=ac), hosting(market, laid(market, plan), ac=ac)
        assert one is not None and three is not None
        assert three.factor == pytest.approx(one.factor, rel=1e-6)
        assert three.slope == pytest.approx(one.slope, rel=1e-6)
    sunny = grown(market, 3.0, "sun")
    np.testing.assert_allclose(sunny.prosumers.load[5], [5.0 - 21.0, 8.0])
    np.testing.assert_allclose(sunny.prosumers.curtail_max[5], [21.0, 0.0])
    np.testing.assert_allclose(sunny.prosumers.load[:5], market.prosumers.load[:5])
    np.testing.assert_allclose(grown(market, 3.0).prosumers.load[5], [15.0 - 7.0, 24.0])
    with pytest.raises(ValueError, match="give factors above 0"):
        studies.phases(market, (0.0,))
    with pytest.raises(ValueError, match="none of load, sun"):
        studies.phases(market, of="wind")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lindist3flow"):
        studies.phases(small())


def test_inverters_share_what_they_do_in_the_balanced_plan():
    """By what each may; what a bus draws of all phases together stays, and the sum of exchanges."""
    market = houses()
    grid = market.grid
    most = np.zeros(grid.passive.shape)
    most[9:11] = [[6.0], [2.0]]  # of phases a and b at the end of the street
    low = np.full(len(most), 0.973)
    market = eqx.tree_at(
        lambda m: (m.grid.compensation_max, m.grid.voltage_min), market, (most, low)
    )
    plan = jg.clear(jg.grids.balanced(market), tol=1e-7).plan
    whole = laid(market, plan)
    injected = np.asarray(whole.compensation)
    assert plan.compensation[3, 1] > 1
    np.testing.assert_allclose(injected[9:11], np.outer([0.75, 0.25], plan.compensation[3]))
    assert np.abs(np.delete(injected, [9, 10], axis=0)).max() == 0
    np.testing.assert_allclose(whole.exchange.sum(0), plan.exchange.sum(0), atol=1e-5)


def test_a_rating_may_end_the_room():
    """30 kVA of the conductor of phase a, which carries three houses: by differences of AC."""
    market = houses()
    rating = jnp.full_like(market.grid.rating, 30.0)
    free = jnp.full_like(market.grid.voltage_min, 0.5)
    market = eqx.tree_at(lambda m: (m.grid.rating, m.grid.voltage_min), market, (rating, free))
    plan = laid(market, jg.clear(jg.grids.balanced(market), tol=1e-7).plan)
    found = hosting(market, plan, ac=True)
    assert found is not None and (found.limit, found.row, found.hour) == ("rating", 0, 1)

    def used(factor: float) -> float:
        return float(jg.ac_power_flow(grown(market, factor), plan).current[0, 1]) / 30.0

    assert used(found.factor) == pytest.approx(1.0, abs=1e-6)
    slope = (used(found.factor + 1e-4) - used(found.factor - 1e-4)) / 2e-4
    assert found.slope == pytest.approx(slope, rel=1e-6)


@pytest.mark.slow
def test_only_ac_equations_make_a_safe_plan():
    """At a higher cost, as losses are bought and cost voltage; 1.2 times the load has no plan."""
    found = studies.phases(houses(), (1.0, 1.2), tol=1e-7)
    (even, linear, exact), (rest, *without) = found.tables["phases"][:3], found.tables["phases"][3:]
    assert [row["ac_safe"] for row in (even, linear, exact)] == [False, False, True]
    assert exact["ac_lowest_pu"] == pytest.approx(0.95, abs=1e-6)
    assert exact["lowest_pu"] == pytest.approx(exact["ac_lowest_pu"], abs=1e-9)
    assert exact["social_cost_eur"] > linear["social_cost_eur"] + 0.1
    assert rest["status"] == "cleared" and not rest["ac_safe"]
    assert [row["status"] for row in without] == ["infeasible"] * 2 and not found.missed
    assert all(row["more_eur"] is None for row in found.tables["by-phase"][3:])


def test_markups_by_hour_earn_as_much_and_cost_no_more(stackelberg: Study):
    """Than the same markup in all hours, which is where the first start is."""
    market, rows = small(), stackelberg.tables["stackelberg"]
    today = jg.clear(market, tol=TIGHT)
    floor = 0.1 * float(jg.objectives.main_grid_revenue(market, today))
    assert [row["status"] for row in rows] == ["cleared"] * 2
    for row in rows:
        assert row["best_cost_eur"] < row["uniform_cost_eur"] - 1e-4
        assert row["best_cost_eur"] <= row["median_cost_eur"] <= row["worst_cost_eur"]
        assert row["margin_eur"] >= floor * (1 - 1e-4)
        mine = [r for r in stackelberg.tables["prices"] if r["elasticity"] == row["elasticity"]]
        price, bought = column(mine, "uniform_price_eur_per_kwh"), column(mine, "uniform_import_kw")
        earned = (price - column(mine, "wholesale_eur_per_kwh")) @ bought
        assert earned == pytest.approx(floor, rel=1e-4)  # nothing is exported
    with pytest.raises(ValueError, match="give elasticities above 0"):
        studies.stackelberg(market, (0.0,))


def test_who_has_no_potential_saves_no_more_than_its_bound(near_potential: Study):
    """Nothing where all slopes are one, nor at the equilibrium of own slopes."""
    one, other = near_potential.tables["near-potential"]
    assert one["largest_regret_eur"] < 1e-4 and one["its_bound_eur"] == one["distance_eur"] == 0
    assert one["moved_kw"] < 1e-4 < other["moved_kw"] and other["stood_still"]
    mine = [row for row in near_potential.tables["regrets"] if row["spread"] == 0.5]
    saved, most = column(mine, "regret_eur"), column(mine, "bound_eur")
    assert (saved <= most + 1e-5).all() and saved.max() > 1e-3
    assert most.max() <= other["distance_eur"]
    assert other["regret_at_own_equilibrium_eur"] < 1e-4
    with pytest.raises(ValueError, match="give spreads from 0 to 1"):
        studies.near_potential(small(), (1.5,))


def test_a_part_of_the_load_follows_the_price():
    """A quarter of 4 kW: all as before at the price, at 1.21 times that 1 / 1.1 kW, by a power of
    0.5; of elasticity 1, worth its logarithm, 1 / 1.21 kW."""
    market = eqx.tree_at(lambda m: m.tariff.slope, lone_importer(), jnp.zeros(1))
    for elasticity, less in ((0.5, 1.1), (1.0, 1.21)):
        some = flexible(market, 0.2, 0.25, elasticity)
        assert float(some.prosumers.load[0, 0]) == pytest.approx(3.0)
        for price, used in ((0.2, 1.0), (0.242, 1 / less)):
            here = eqx.tree_at(lambda m: m.tariff.base, some, jnp.full(1, price))
            plan = jg.clear(here, tol=1e-9).plan
            assert float(plan.imports[0, 0]) == pytest.approx(3 + used, abs=1e-4)
    with pytest.raises(ValueError, match=r"share=0\.0: give a share"):
        flexible(market, 0.2, 0.0, 0.5)


@pytest.mark.parametrize("name", list(studies.ON_MARKETS))
def test_every_study_is_told_and_drawn(name: str, request, tmp_path: Path):
    """What is printed is the first table; files hold the numbers exactly."""
    found: Study = request.getfixturevalue(name.replace("-", "_"))
    rows, text = found.tables[name], str(found).splitlines()
    assert len(text) >= len(rows) + 3 and text[-1] == found.finding and found.finding[-1] == "."
    assert "nan" not in found.finding and not found.missed
    found.save(tmp_path)
    with (tmp_path / f"{name.replace('-', '_')}.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        for key, value in row.items():
            assert line[key] == ("" if value is None else str(value))
    studies.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / f"{name}.txt").read_text() == f"{found}\n"
    assert len(list(tmp_path.iterdir())) == len(found.tables) + 2


def test_variants_that_do_not_clear_are_left_blank():
    """5 kVA cannot carry what must be served; the rest of the study stands."""
    found = studies.line_limits(small(rating=5.0), (1.0, 8.0, 10.0), tol=TIGHT)
    first = found.tables["line-limits"][0]
    assert first["status"] == "infeasible" and first["potential_eur"] is None
    assert found.missed == 1 and "did not clear" in found.finding
    with pytest.raises(ValueError, match="no line of this market has a rating"):
        studies.line_limits(small())
    with pytest.raises(ValueError, match="at least 0 EUR/kWh"):
        studies.tariff(small(), (-0.1,))


def test_foresight_is_worth_more_the_more_forecasts_err(uncertainty: Study):
    """Nothing where they are right; else never less than nothing. Who minds risk pays more in the
    mean for a lower mean of the worst quarter, and the plan for the mean is never cheaper."""
    market = small()
    none, some, much = studies.uncertainty(
        market, (0.0, 0.05, 0.2), of="spread", tol=1e-7
    ).tables["uncertainty"]  # fmt: skip
    scale = 1e-6 * some["expected_cost_eur"]
    assert abs(none["evpi_eur"]) < scale and abs(none["vss_eur"]) < scale
    assert none["balancing_kwh"] < 1e-3 < much["balancing_kwh"]
    for row in (some, much):
        assert row["vss_eur"] > -scale and row["evpi_eur"] > -scale
        planned = row["planned_for_mean_eur"] - row["expected_cost_eur"]
        assert row["vss_eur"] == pytest.approx(planned, abs=scale)
    assert much["evpi_eur"] > 10 * scale
    rows = uncertainty.tables["uncertainty"]
    assert (np.diff(column(rows, "expected_cost_eur")) > -10 * scale).all()
    assert (np.diff(column(rows, "cvar_eur")) < 10 * scale).all()
    assert "a weight of 0.9" in uncertainty.finding and uncertainty.missed == 0


def test_what_no_study_of_uncertainty_sweeps_is_refused():
    for values, of, sentence in (
        ((0.1,), "all", "say by of="),
        ((0.1,), "sun", "none of all, spread"),
        ((2.0,), "spread", "spread 2; give numbers from 0 to 1"),
        ((1.5,), "branches", "branches 1.5"),
        ((1.0,), "weight", "weight 1; give"),
    ):
        with pytest.raises(ValueError, match=sentence):
            studies.uncertainty(small(), values, of=of)  # type: ignore[arg-type]


def call(*words: object):
    return CliRunner().invoke(cli.app, ["study", *map(str, words)])


def test_the_command_writes_what_it_finds_and_goes_on(tmp_path: Path, monkeypatch):
    jg.save(tmp_path / "case", small())
    words = ("tariff", tmp_path / "case", "--values", "0.001,0.01,0.03", "--out", tmp_path / "out")
    first = call(*words)
    assert first.exit_code == 0, first.output
    assert "Traded energy falls" in first.stdout
    table = (tmp_path / "out" / "tariff.csv").read_text()
    assert (tmp_path / "out" / "tariff.png").is_file()
    monkeypatch.setattr("jaxgne.batch._with_room", None)  # clears nothing any more
    (tmp_path / "out" / "tariff.csv").unlink()
    assert call(*words).exit_code == 0
    assert (tmp_path / "out" / "tariff.csv").read_text() == table
    for wrong, code, sentence in (
        (("tarif",), 2, "no study"),
        (("participation", "--values", "1"), 2, "takes no --values"),
        (("tariff", "--of", "sun"), 2, "takes no --of"),
        (("phases", "ieee13", "--of", "wind"), 1, "none of load, sun"),
        (("connectivity", "--seed", "3"), 2, "takes no --seed"),
        (("tariff", tmp_path / "case", "--values", "a"), 1, "numbers with commas"),
        (("connectivity", "synthetic", "--values", "0.5"), 1, "takes no --connectivity"),
    ):
        refused = call(*wrong)
        assert refused.exit_code == code and sentence in " ".join(refused.output.split())


def line(count: int) -> dict:
    """What a run of so many rounds would say."""
    made = {"pairs": 3, "kkt_error": 1e-4, "traded_kwh": 7.0, "device": "cpu"}
    return {"status": "cleared", "rounds": count, "seconds": 0.5, **made}


def test_connectivity_tells_medians_of_seeds(monkeypatch, tmp_path: Path):
    """Three seeds of 100, 110 and 150 rounds at 0.1, twice as many at 1.0; one does not clear."""
    asked, market = [], small()

    def build(connectivity: float, seed: int) -> jg.Market:
        asked.append((connectivity, seed))
        return eqx.tree_at(
            lambda m: m.hour_length,
            market,
            np.full(market.hour_length.shape, 10 * seed + connectivity),
        )

    def run(market: jg.Market, solver, tol: float) -> dict:
        seed, share = divmod(float(market.hour_length[0]), 10)
        fine = not (share == 1.0 and seed == 1 and solver is None)
        count = (100, 110, 150)[int(seed)] * (2 if share == 1.0 else 1)
        return {**line(count), "status": "cleared" if fine else "max_steps"}

    monkeypatch.setattr(rounds, "run", run)
    found = studies.connectivity(build, (0.1, 1.0), folder=tmp_path)
    assert asked == [(share, seed) for share in (0.1, 1.0) for seed in range(3)]
    table = {(r["connectivity"], r["solver"]): r for r in found.tables["connectivity"]}
    basic = table[0.1, "basic"]
    assert [basic[f"rounds_{k}"] for k in ("median", "min", "max")] == [110, 100, 150]
    assert table[1.0, "default"]["cleared"] == 2 and found.missed == 1
    assert table[1.0, "default"]["rounds_median"] == 250
    assert "110 to 220 (basic)" in found.finding
    studies.draw(found, tmp_path / "connectivity.svg")
    assert len(list((tmp_path / "runs").iterdir())) == 24
    again = studies.connectivity(build, (0.1, 1.0), folder=tmp_path)
    assert again.tables == found.tables


def test_the_authors_counts_are_those_of_their_files():
    """Ten sizes and three variants; means of the 36-bus runs as the follow-up's figures show."""
    rows = published()
    assert len(rows) == 30
    assert all(r["rounds_min"] <= r["rounds_mean"] <= r["rounds_max"] for r in rows)
    basic = {r["prosumers"]: r["rounds_mean"] for r in rows if r["solver"] == "basic"}
    assert basic[40] == 5721.0 and basic[150] == 19047.0


@pytest.mark.slow
def test_prosumers_runs_all_solvers_to_one_error(tmp_path: Path, monkeypatch):
    """Two sizes are really cleared; a later call reads them, and goes on with a third."""
    build = partial(jg.synthetic, buses=3, hours=2)
    found = studies.prosumers(build, (4,), seeds=1, tol=1e-3, folder=tmp_path)
    runs = found.tables["runs"]
    assert [row["solver"] for row in runs] == ["basic", "inertia 0.3", "relaxation 1.8", "default"]
    assert all(row["status"] == "cleared" and row["kkt_error"] <= 1e-3 for row in runs)
    assert {row["pairs"] for row in runs} == {4}  # 60 % of six pairs
    monkeypatch.setattr(rounds, "run", lambda *_: line(10))
    more = studies.prosumers(build, (4, 200), seeds=1, tol=1e-3, folder=tmp_path)
    assert more.tables["runs"][:4] == runs
    assert [row["solver"] for row in more.tables["runs"][4:]] == ["default"]
    assert "The default solver clears 200 prosumers" in more.finding
    with pytest.raises(ValueError, match="whole numbers"):
        studies.prosumers(build, (4.5,))  # type: ignore[arg-type]


RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "studies"
PAGES = Path(__file__).parent.parent / "docs" / "studies"


@pytest.mark.parametrize("name", [*studies.ON_MARKETS, *studies.ON_CASES])
def test_pages_say_what_the_committed_results_say(name: str):
    """Each page has the command, the picture, and the sentence of the committed result."""
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    finding = (RESULTS / name / f"{name}.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert finding in " ".join(page.split())
    assert f"jaxgne study {name}" in page
    assert (RESULTS / name / f"{name}.png").is_file()
    assert f"../../benchmarks/results/studies/{name}/{name}.png" in page


def test_fingerprints_differ_with_any_number():
    market = small()
    other = eqx.tree_at(
        lambda m: m.prosumers.load, market, market.prosumers.load.at[0, 0].add(1e-9)
    )
    marks = {
        runner.fingerprint(*parts)
        for parts in (
            (market, 1e-3), (other, 1e-3), (market, 1e-4),
            (market, 1e-3, jg.SemiDecentralized()), (market, 1e-3, jg.SemiDecentralized(1.0)),
        )
    }  # fmt: skip
    assert len(marks) == 5
    assert runner.fingerprint(small(), 1e-3) == runner.fingerprint(market, 1e-3)


def test_every_study_has_a_figure_and_what_was_published_is_json():
    assert set(_FIGURES) == {*studies.ON_MARKETS, *studies.ON_CASES}
    json.dumps(published(), allow_nan=False)


def test_a_reference_that_does_not_clear_leaves_the_others_compared():
    """Passive consumers alone overload the lines of this day; each trader's gain is told."""
    found = studies.participation(jg.ieee37(8, hours=6, hour_length=4.0, stress=True))
    rows = {row["variant"]: row["status"] for row in found.tables["scenarios"]}
    assert rows == {"all active": "cleared", "all passive": "infeasible"}
    gains = [row["gain_eur"] for row in found.tables["participation"]]
    assert sum(gain is not None for gain in gains) == 6 and found.missed == 3
