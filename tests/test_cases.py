"""The built-in cases: the feeder is the published one, and every market has a plan.

Feasibility is shown by an explicit plan made here from the market alone, checked by the oracle's
rows (`tests/reference.py`), which share no code with the builders.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import jaxgne as jg
from jaxgne.cases.feeders import ieee37_feeder, ieee123_feeder, squared_voltages, table

from .reference import solve, violations

GRIDS: tuple[dict[str, Any], ...] = (
    {"grid": "lindistflow"},
    {"grid": "paper"},
    {"grid": "paper", "reactive_balance": True},
    {"grid": "copperplate"},
)


def downstream(grid: jg.Grid, drawn: np.ndarray) -> np.ndarray:
    """What each line of a tree carries: all that is drawn behind it, (L, H)."""
    total = drawn.copy()
    for source, target in reversed(list(zip(grid.source, grid.target, strict=True))):
        total[int(source)] += total[int(target)]
    return total[np.asarray(grid.target)]


def down_the_tree(grid: jg.Grid, fall: np.ndarray, start: float) -> np.ndarray:
    """`start` at the feeder bus less what is lost along the lines to each bus, (B, H)."""
    value = np.full((len(grid.passive), fall.shape[1]), start)
    for line, (source, target) in enumerate(zip(grid.source, grid.target, strict=True)):
        value[int(target)] = value[int(source)] - fall[line]
    return value


def generated(market: jg.Market) -> np.ndarray:
    """What generators make when those at a bus level all that it and the buses behind it draw.

    From the ends of the tree inwards; the highest draw of the day is cut by 60 % or 90 % of their
    capacity, whichever is less (G, H).
    """
    grid, units, bus = market.grid, market.generators, np.asarray(market.prosumers.bus)
    behind = np.asarray(grid.passive).copy()
    np.add.at(behind, bus, np.maximum(np.asarray(market.prosumers.load), 0.0))
    at, power = bus[np.asarray(units.owner)], np.asarray(units.power_max)
    capacity = np.bincount(at, power[:, 0], len(behind))
    made = np.zeros_like(behind)
    parent = dict(zip(np.asarray(grid.target), np.asarray(grid.source), strict=True))
    for y in [*np.asarray(grid.target)[::-1], 0]:
        depth = min(0.9 * capacity[y], 0.6 * behind[y].max())
        made[y] = np.clip(behind[y] - behind[y].max() + depth, 0.0, depth)
        behind[y] -= made[y]
        if y in parent:
            behind[parent[y]] += behind[y]
    return made[at] * power / capacity[at][:, None]


def plan_without_trade(market: jg.Market, generation: np.ndarray) -> jg.Plan:
    """Everybody imports what they lack and sells what generators make beyond their load.

    Sun beyond the load is curtailed, batteries rest, flows and voltages follow from the tree.
    """
    prosumers, grid = market.prosumers, market.grid
    load = np.asarray(prosumers.load)
    own = np.zeros_like(load)
    np.add.at(own, np.asarray(market.generators.owner), generation)
    curtailed = np.maximum(-load, 0.0)
    net = load + curtailed - own
    resting = np.zeros_like(market.buffers.charge_max)
    content = resting + np.asarray(market.buffers.energy_start)[:, None]
    drawn, kvar = np.asarray(grid.passive).copy(), np.asarray(grid.passive_reactive).copy()
    np.add.at(drawn, np.asarray(prosumers.bus), net)
    np.add.at(kvar, np.asarray(prosumers.bus), np.asarray(prosumers.reactive))
    active, reactive = downstream(grid, drawn), downstream(grid, kvar)
    r, x = np.asarray(grid.resistance)[:, None], np.asarray(grid.reactance)[:, None]
    drop = 2.0 if grid.model.name == "lindistflow" else 1.0
    present = float(grid.model.name != "copperplate")
    voltage = present * down_the_tree(grid, drop * (r * active + x * reactive), 1.0)
    angle = (grid.model.name == "paper") * down_the_tree(grid, x * active - r * reactive, 0.0)
    tables = (
        generation, resting, resting, content, np.maximum(net, 0.0), np.maximum(-net, 0.0),
        curtailed, np.zeros((len(market.trading.limit), load.shape[1])), present * active,
        present * reactive, voltage, angle, 0 * angle, present * drawn.sum(axis=0, keepdims=True),
    )  # fmt: skip
    return jg.Plan(*(jnp.asarray(table) for table in tables))


def worst_violation(market: jg.Market, *, stress: bool) -> float:
    """Of the explicit plan, relative to the highest total load for kW, kvar and kWh."""
    made = generated(market) if stress else np.zeros(np.shape(market.generators.power_max))
    found = violations(market, plan_without_trade(market, made))
    assert np.isfinite(list(found.values())).all()
    return max(found.values()) / float(np.asarray(market.grid.passive).sum(axis=0).max())


def binding(market: jg.Market) -> tuple[float, int, int]:
    """Share of line-hours, bus-hours of low voltage, hours of the total at the equilibrium."""
    answer = solve(market)
    assert answer.status == "solved"
    plan, grid = answer.plan, market.grid
    apparent = np.hypot(plan.active, plan.reactive)
    loaded = apparent > (1 - 1e-5) * np.asarray(grid.rating)[:, None]
    low = jg.model.voltages(market, plan) < np.asarray(grid.voltage_min)[:, None] + 1e-7
    exchange = answer.sigma - np.asarray(plan.exports).sum(axis=0)
    full = exchange > (1 - 1e-6) * np.asarray(market.tariff.total_max)
    return float(loaded.mean()), int(np.asarray(low)[1:].sum()), int(full.sum())


def components(market: jg.Market) -> int:
    """In how many parts the trading graph falls."""
    pairs, count = market.trading, len(market.prosumers.bus)
    graph = coo_matrix((np.ones(len(pairs.limit)), (pairs.buyer, pairs.seller)), (count, count))
    return int(connected_components(graph, directed=False)[0])


def same(first: jg.Market, second: jg.Market) -> bool:
    leaves = [jax.tree.leaves(market) for market in (first, second)]
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_feeder_is_the_published_tree():
    """36 buses, 35 lines from 799 outwards, each bus reached once and after its parent."""
    grid = jg.ieee37().grid
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    assert (len(grid.names), len(source)) == (36, 35)
    assert grid.names[int(grid.feeder[0])] == "799" and grid.names[int(target[0])] == "701"
    assert np.array_equal(np.sort(target), np.arange(1, 36))
    assert np.all(source < target)


def test_feeder_has_the_published_totals():
    """2457 kW and 1201 kvar at 25 buses; 18,010 ft of line; 799-701 is 1850 ft of 721: 0.2272 +
    j 0.2333 ohm a mile, per unit and kW after division by 1000 4.8^2."""
    feeder = ieee37_feeder()
    assert feeder.load.sum() == 2457 and feeder.reactive.sum() == 1201
    assert np.count_nonzero(feeder.load) == 25
    assert sum(map(float, table("ieee37_lines")["length_ft"])) == 18_010
    impedance = np.array([feeder.resistance[0], feeder.reactance[0]]) * 1000 * 4.8**2
    assert impedance == pytest.approx(np.array([0.2272, 0.2333]) * 1850 / 5280, rel=2e-4)


def test_spot_load_gives_the_known_lowest_voltage():
    """AC power flow has 0.9572 pu; LinDistFlow reads at most 0.0006 above it, never below."""
    feeder = ieee37_feeder()
    lowest = squared_voltages(feeder, feeder.load[:, None], feeder.reactive[:, None]).min() ** 0.5
    assert 0.9572 <= lowest <= 0.9572 + 0.0007


def test_passive_and_prosumers_together_are_the_spot_load():
    """Passive load peaks at what the prosumers leave; their gross peaks are 60 % at most."""
    spot, market = ieee37_feeder().load, jg.ieee37(200, seed=3)
    left = np.asarray(market.grid.passive).max(axis=1)
    assert np.all(left <= spot + 1e-9) and np.all(left >= 0.4 * spot - 1e-9)
    gross = np.asarray(market.prosumers.load + market.prosumers.curtail_max)
    drawn = np.zeros_like(market.grid.passive)
    np.add.at(drawn, np.asarray(market.prosumers.bus), gross)
    assert np.all(np.asarray(market.grid.passive) >= 0)
    assert np.all(drawn.max(axis=1) <= spot - left + 1e-9)


@pytest.mark.parametrize("prosumers", [1, 2, 7, 25, 200])
def test_half_own_a_battery_and_a_quarter_a_generator(prosumers: int):
    for stress in (False, True):
        market = jg.ieee37(prosumers, stress=stress)
        batteries = np.unique(market.buffers.owner)
        generators = np.unique(market.generators.owner)
        assert (len(batteries), len(generators)) == (prosumers // 2, prosumers // 4)
        assert len(market.buffers.owner) == len(batteries)


def test_loads_and_prices_are_plausible():
    """Prosumers of 0.3 to 115 kW; at the highest total the main grid asks 0.10 to 0.35 EUR/kWh."""
    market = jg.ieee37()
    gross = np.asarray(market.prosumers.load + market.prosumers.curtail_max).max(axis=1)
    assert gross.min() > 0.3 and gross.max() < 115
    total = np.asarray(market.prosumers.load).sum(axis=0) + np.asarray(market.grid.passive).sum(0)
    price = np.asarray(market.tariff.base) + np.asarray(market.tariff.slope) * total
    assert price.min() > 0.10 and price.max() < 0.35
    assert np.all(np.asarray(market.tariff.export) < np.asarray(market.tariff.base))


def test_the_ieee123_feeder_is_as_published():
    """118 lines of 39,250 ft and six closed switches make a tree of 125 buses; 85 have loads."""
    feeder, lines = ieee123_feeder(), table("ieee123_lines")
    length = np.array(lines["length_ft"], float)
    assert (len(feeder.load), len(feeder.source), int((length > 0).sum())) == (125, 124, 118)
    assert length.sum() == 39_250
    assert (length == 0).tolist() == (feeder.resistance == 0).tolist()
    assert int((feeder.load > 0).sum()) == 85
    assert (feeder.load.sum(), feeder.reactive.sum()) == pytest.approx((3490.0, 1920.0))
    market = jg.ieee123(12, hours=2)
    assert market.grid.names[0] == "150"
    total = np.asarray(market.grid.passive).sum(axis=0) + np.asarray(market.prosumers.load).sum(0)
    assert total.max() < 3490.0


@pytest.mark.parametrize("build", [jg.ieee37, jg.synthetic])
def test_same_seed_same_market(build: Callable[..., jg.Market]):
    assert same(build(20, seed=5), build(20, seed=5))
    assert not same(build(20, seed=5), build(20, seed=6))


def test_stress_keeps_loads_and_pairs():
    """A stressed market differs in generators and limits only."""
    calm, tense = jg.ieee37(seed=2), jg.ieee37(seed=2, stress=True)
    assert np.array_equal(calm.prosumers.load, tense.prosumers.load)
    assert np.array_equal(calm.trading.buyer, tense.trading.buyer)
    assert np.array_equal(calm.grid.passive, tense.grid.passive)
    assert np.all(np.asarray(tense.grid.rating) <= np.asarray(calm.grid.rating))


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"degree": 6.0}, 120),  # 40 prosumers of mean degree 6
        ({"degree": 0.0}, 39),  # a tree, no fewer
        ({"connectivity": 0.5}, 390),  # of 780
        ({"connectivity": 1.0}, 780),
    ],
)
def test_trading_graph_is_connected_and_as_dense_as_asked(options: dict[str, Any], pairs: int):
    market = jg.ieee37(40, seed=1, **options)
    ends = np.stack([market.trading.buyer, market.trading.seller])
    assert len(market.trading.limit) == pairs and components(market) == 1
    assert np.unique(ends, axis=1).shape[1] == pairs and np.all(ends[0] < ends[1])


def test_ring_links_the_nearest():
    """Degree 4: the two next on either side, 2 pairs a prosumer."""
    market = jg.synthetic(50, 4.0, graph="ring", hours=2)
    gap = np.asarray(market.trading.seller - market.trading.buyer)
    assert len(gap) == 100 and components(market) == 1
    assert set(np.minimum(gap, 50 - gap)) == {1, 2}


@settings(max_examples=40, deadline=None)
@given(
    prosumers=st.integers(1, 200),
    seed=st.integers(0, 10_000),
    grid=st.sampled_from(GRIDS),
    stress=st.booleans(),
    hours=st.sampled_from([1, 5, 24, 30]),
)
def test_every_ieee37_has_a_plan(
    prosumers: int, seed: int, grid: dict[str, Any], stress: bool, hours: int
):
    market = jg.ieee37(prosumers, seed, stress=stress, hours=hours, **grid)
    assert worst_violation(market, stress=stress) < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    prosumers=st.integers(1, 300),
    buses=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    grid=st.sampled_from(GRIDS),
    stress=st.booleans(),
    graph=st.sampled_from(["random", "ring"]),
    hours=st.sampled_from([1, 6, 24]),
)
def test_every_synthetic_market_has_a_plan(
    prosumers: int,
    buses: int,
    seed: int,
    grid: dict[str, Any],
    stress: bool,
    graph: Any,
    hours: int,
):
    market = jg.synthetic(prosumers, 4.0, buses, hours, seed, stress, graph=graph, **grid)
    assert components(market) == 1
    assert worst_violation(market, stress=stress) < 1e-12


@pytest.mark.parametrize("hour_length", [0.25, 0.5, 2.0])
def test_other_hours_follow_the_same_day(hour_length: float):
    """Two days: the price of hour h is that of 24 h earlier, and whole hours agree with 1 h."""
    hours = round(48 / hour_length)
    market = jg.ieee37(8, hours=hours, hour_length=hour_length, stress=True)
    base = np.asarray(market.tariff.base)
    assert np.allclose(base[: hours // 2], base[hours // 2 :])
    hourly = np.asarray(jg.ieee37(8).tariff.base)
    step = max(1, round(1 / hour_length))
    assert np.allclose(base[: hours // 2 : step], hourly[:: max(1, round(hour_length))])
    assert worst_violation(market, stress=True) < 1e-12


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("behavior", ["nash", "wardrop"])
def test_oracle_clears_calm_and_stressed(grid: dict[str, Any], behavior: Any):
    for stress in (False, True):
        market = jg.ieee37(12, 4, stress=stress, behavior=behavior, **grid)
        assert float(market.tariff.anticipation) == {"nash": 1.0, "wardrop": 0.0}[behavior]
        assert solve(market).status == "solved"


@pytest.mark.parametrize("behavior", ["nash", "wardrop"])
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_stress_makes_lines_voltages_and_the_total_bind(seed: int, behavior: Any):
    """5 to 10 % of the line-hours at their rating, some voltages and hours of the total."""
    lines, voltages, total = binding(jg.ieee37(seed=seed, stress=True, behavior=behavior))
    assert 0.05 <= lines <= 0.10
    assert voltages >= 2 and total >= 1


@pytest.mark.parametrize("balanced", [None, True])
def test_stress_binds_on_the_grid_of_the_paper(balanced: bool | None):
    """Without a reactive balance voltages cost nothing; lines and the total bind all the same."""
    lines, voltages, total = binding(
        jg.ieee37(stress=True, grid="paper", reactive_balance=balanced)
    )
    assert lines >= 0.03 and total >= 1 and (voltages >= 1) == bool(balanced)


def test_nothing_binds_without_stress():
    assert binding(jg.ieee37()) == (0.0, 0, 0)


def test_stress_binds_on_a_random_feeder():
    lines, voltages, total = binding(jg.synthetic(60, buses=20, seed=1, stress=True))
    assert 0.03 <= lines <= 0.12 and voltages >= 1 and total >= 1


@pytest.mark.parametrize("stress", [False, True])
def test_given_grid_keeps_its_lines_and_names(stress: bool):
    """A feeder whose slack is its last bus: the same lines, buses numbered from the slack."""
    grid = jg.Grid(
        [[30.0], [50.0], [0.0]], [2, 0], [0, 1], [2e-4, 1e-4], [1e-4, 1e-4],
        feeder=[2], passive_reactive=[[10.0], [20.0], [0.0]], names=("a", "b", "slack"),
    )  # fmt: skip
    market = jg.synthetic(9, feeder=grid, stress=stress)
    assert market.grid.names == ("slack", "a", "b")
    assert np.array_equal(market.grid.source, [0, 1])
    assert np.array_equal(market.grid.resistance, grid.resistance)
    assert float(np.max(market.grid.passive)) <= 50.0
    assert worst_violation(market, stress=stress) < 1e-12


def test_a_hundred_thousand_prosumers_build():
    market = jg.synthetic(100_000, hours=4, stress=True)
    assert market.prosumers.load.shape == (100_000, 4)
    assert len(market.trading.limit) == 400_000 and components(market) == 1


def no_tree() -> jg.Grid:
    return jg.Grid([[1.0], [1.0]], [1], [0], 1e-4, 1e-4)


def weak() -> jg.Grid:
    return jg.Grid([[0.0], [100.0]], [0], [1], 1e-2, 1e-2)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (jg.ieee37, {"prosumers": 0}, r"prosumers=0: give a whole number of at least 1"),
        (jg.ieee37, {"prosumers": 2.5}, r"prosumers=2\.5: give a whole number"),
        (jg.ieee37, {"hours": 0}, r"hours=0: give a whole number of at least 1"),
        (jg.ieee37, {"hour_length": 0}, r"hour_length=0: give a positive number"),
        (jg.ieee37, {"hour_length": np.inf}, r"hour_length=inf: give a positive number"),
        (jg.ieee37, {"degree": -1}, r"degree=-1: give a number of at least 0"),
        (jg.ieee37, {"degree": np.nan}, r"degree=nan: give a number of at least 0"),
        (jg.ieee37, {"connectivity": 1.5}, r"connectivity=1\.5: give a share above 0, up to 1"),
        (jg.ieee37, {"grid": "dc"}, r"grid='dc': choose one of copperplate, paper, lindistflow"),
        (jg.ieee37, {"behavior": "kind"}, r"behavior='kind': choose one of nash, wardrop"),
        (jg.ieee37, {"reactive_balance": False}, r"reactive_balance: lindistflow always balances"),
        (jg.synthetic, {"graph": "star"}, r"graph='star': choose one of random, ring"),
        (jg.synthetic, {"buses": 0}, r"buses=0: give a whole number of at least 1"),
        (jg.synthetic, {"feeder": no_tree()}, r"feeder: give a radial Grid with one feeder bus"),
        (jg.synthetic, {"feeder": weak()}, r"feeder: its voltage falls to 0\.000 pu"),
        (jg.synthetic, {"feeder": jg.Grid([[0.0]])}, r"feeder: give a Grid with passive load"),
    ],
)
def test_bad_option_gets_a_sentence(
    build: Callable[..., jg.Market], options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
