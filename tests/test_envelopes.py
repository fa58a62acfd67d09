"""Joint operating envelopes: every point inside is safe, by flows that are written out here."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import acflow, cli, envelopes
from jaxgne.corners import at_corners, patterns
from jaxgne.model import net_load, potential
from jaxgne.net_limits import net_limits, reach
from jaxgne.plots.envelopes import _spread
from jaxgne.runner import by_numpy, to_host
from tests.documents import judged
from tests.markets import downstream, falls
from tests.phased import linear, random_tree
from tests.reference import solve

N, H = 4, 2
BESIDE: list[envelopes.Rule] = ["equal", "most"]
CORNERS = np.array(list(itertools.product([False, True], repeat=N)))
Measure = Callable[[np.ndarray], np.ndarray]  # of net loads (N H): all that is limited, (R H)
FEW = settings(max_examples=6, deadline=None, derandomize=True)


def people(rng: np.random.Generator, rows: np.ndarray, grid: jg.Grid, **limits: Any) -> jg.Market:
    """Four prosumers with loads, generators and batteries, who may trade what they like."""
    load = rng.uniform(-2, 8, (N, H))
    one, other = np.triu_indices(N, k=1)
    return jg.Market(
        jg.Prosumers(rows, load, rng.uniform(-1, 2, (N, H)), export_max=50.0),
        grid,
        jg.Tariff(1e-3, hours=H, base=[0.3, 0.2], export=0.05, **limits),
        jg.Generators([0, 1, 2], rng.uniform(2, 15, (3, 1)), hours=H, quadratic=1e-3, linear=0.15),
        jg.Buffers([1, 3], rng.uniform(2, 9, (2, 1)), 5.0, 40.0, 20.0, hours=H, quadratic=1e-3),
        jg.Trading(one, other, 50.0, toll=1e-3),
    )


def inside(rng: np.random.Generator, measure: Measure, market: jg.Market, side: int) -> Any:
    """A limit of each thing that is measured, between what it is at rest and at any corner."""
    can = reach(market)
    corners = [measure(np.where(c[:, None], can.high, can.low)) for c in CORNERS]
    rest, most = measure(can.rest).max(axis=1), np.max(corners, axis=(0, 2))
    if side < 0:
        rest, most = measure(can.rest).min(axis=1), np.min(corners, axis=(0, 2))
    return rest + rng.uniform(0.05, 1.1, len(rest)) * (most - rest)


@cache
def balanced_case(
    seed: int, model: Literal["lindistflow", "paper"], reactive_balance: bool = True
) -> tuple[jg.Market, Measure]:
    """A random tree in one phase, and by how much net loads exceed what is limited."""
    rng = np.random.default_rng(seed)
    buses = int(rng.integers(3, 7))
    parent = np.array([rng.integers(0, y) for y in range(1, buses)])
    r, x = rng.uniform(2e-4, 2e-3, (2, buses - 1))
    passive, kvar = rng.uniform(0, 5, (buses, H)), rng.uniform(0, 2, (buses, H))
    passive[0] = kvar[0] = 0
    rows = rng.integers(1, buses, N)
    square = 2 if model == "lindistflow" else 1

    def grid(**limits: Any) -> jg.Grid:
        return jg.Grid(
            passive, parent, np.arange(1, buses), r, x, passive_reactive=kvar, model=model,
            reactive_balance=reactive_balance, feeder_voltage=1.01, **limits,
        )  # fmt: skip

    market = people(rng, rows, grid())
    reactive = kvar.copy()
    np.add.at(reactive, rows, np.asarray(market.prosumers.reactive))
    reactive *= reactive_balance

    def states(net: np.ndarray) -> tuple[np.ndarray, ...]:
        active = passive.copy()
        np.add.at(active, rows, net)
        p, q = downstream(parent, active), downstream(parent, reactive)
        fall = falls(parent, square * (r[:, None] * p + x[:, None] * q))[1:]
        turn = falls(parent, x[:, None] * p - r[:, None] * q)[1:]
        total = active.sum(axis=0, keepdims=True)
        return np.maximum(1.01**square - fall, 1e-6) ** (1 / square), np.hypot(p, q), total, -turn

    ends = [inside(rng, lambda n, k=k: states(n)[k], market, side)
            for k, side in ((0, 1), (0, -1), (1, 1), (2, 1), (2, -1), (3, 1), (3, -1))]  # fmt: skip
    high, low, rating, most, least, *angles = ends
    rating = 1.05 * rating
    angles = angles if square == 1 else [1.0 + 0 * high, -1.0 + 0 * high]
    limits = {"voltage_max": high, "voltage_min": low, "angle_max": angles[0]}
    limits = {k: np.append(v[:1], v) for k, v in (limits | {"angle_min": angles[1]}).items()}
    market = eqx.tree_at(lambda m: m.grid, market, grid(rating=rating, **limits))
    totals = [jnp.full(H, float(end[0])) for end in (most, least)]
    market = eqx.tree_at(lambda m: (m.tariff.total_max, m.tariff.total_min), market, totals)

    def over(net: np.ndarray) -> np.ndarray:
        volts, flow, total, angle = states(net)
        pairs = ((volts, high), (-volts, -low), (flow, rating), (total, most), (-total, -least))
        pairs = (*pairs, (angle, angles[0]), (-angle, -angles[1])) if square == 1 else pairs
        return np.concatenate([value - end[:, None] for value, end in pairs])

    return market, over


@cache
def phased_case(seed: int, rated: bool = True) -> tuple[jg.Market, Measure]:
    """The same in three phases, with who stands on one, on two or on all of them."""
    rng = np.random.default_rng(seed)
    tree = random_tree(seed, buses=5, hours=H, taps=False)
    tree.wye[:] /= 4
    tree.spanned[:] /= 4
    places = [(b + 1, p) for b, p in np.argwhere(tree.phases[1:]).tolist()]
    where = [*places, *range(len(tree.spans))]
    chosen = [where[k] for k in rng.choice(len(where), N, replace=False)]
    row = {place: k for k, place in enumerate(map(tuple, np.argwhere(tree.phases).tolist()))}
    rows = np.array([row[w] if isinstance(w, tuple) else len(row) + w for w in chosen])
    market = people(rng, rows, tree.grid())
    kvar = np.asarray(market.prosumers.reactive)

    def states(net: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wye, spanned = tree.wye.copy(), tree.spanned.copy()
        for place, power in zip(chosen, net + 1j * kvar, strict=True):
            (wye if isinstance(place, tuple) else spanned)[place] += power
        square, flow = linear(replace(tree, wye=wye, spanned=spanned))
        kept = tree.phases[1:]
        return np.sqrt(square[1:][kept]), np.abs(flow[1:][kept])

    volts, flow = (lambda n, k=k: states(n)[k] for k in (0, 1))
    high, low = inside(rng, volts, market, 1).max(), inside(rng, volts, market, -1).min()
    size = np.full(tree.phases[1:].shape, np.inf)
    if rated:
        size[tree.phases[1:]] = 1.01 * inside(rng, flow, market, 1)
    grid = tree.grid(rating=size, voltage_max=high, voltage_min=low)

    def over(net: np.ndarray) -> np.ndarray:
        v, f = states(net)
        return np.concatenate([v - high, low - v, f - size[tree.phases[1:]][:, None]])

    return eqx.tree_at(lambda m: m.grid, market, grid), over


CASES: dict[str, Callable[[int], tuple[jg.Market, Measure]]] = {
    "lindistflow": lambda seed: balanced_case(seed, "lindistflow"),
    "paper": lambda seed: balanced_case(seed, "paper"),
    "paper without reactive power": lambda seed: balanced_case(seed, "paper", False),
    "three phases": phased_case,
    "three phases without ratings": lambda seed: phased_case(seed, rated=False),
}

KINDS = ["lindistflow", "paper", "three phases"]


def ends(envelope: envelopes.Envelope) -> tuple[np.ndarray, np.ndarray]:
    return -np.asarray(envelope.exports), np.asarray(envelope.imports)


def worst(over: Measure, low: np.ndarray, high: np.ndarray) -> float:
    """The most by which a limit is exceeded at any corner of a box."""
    return max(float(over(np.where(c[:, None], high, low)).max()) for c in CORNERS)


@pytest.mark.parametrize("case", [*KINDS, "paper without reactive power"])
@FEW
@given(seed=st.integers(0, 10_000))
def test_rows_say_what_flows_do(case: str, seed: int):
    """Of any net loads, within reach or beyond: a limit is exceeded where its row has no room."""
    market, over = CASES[case](seed)
    can, limits, rng = reach(market), net_limits(market), np.random.default_rng(seed)
    for _ in range(30):
        net = can.low + rng.uniform(-0.2, 1.2, can.low.shape) * (can.high - can.low)
        room, most = limits.left(net, net).min(axis=0), over(net).max(axis=0)
        if case == "three phases":  # by polygons inside of discs
            assert np.all((most < 1e-9) | (room < 1e-9))
        else:
            assert np.all((most < 1e-9) == (room > -1e-9))


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("rule", envelopes.RULES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_every_point_of_an_envelope_is_safe(case: str, rule: envelopes.Rule, seed: int):
    """All 2^n corners and points drawn within, by flows that share nothing with the package."""
    market, over = CASES[case](seed)
    low, high = ends(envelopes.joint(market, rule))
    can, rng = reach(market), np.random.default_rng(seed)
    assert np.all(low >= can.low) and np.all(high <= can.high)
    assert np.all((low <= can.rest) & (can.rest <= high))
    assert worst(over, low, high) < 1e-7
    for _ in range(20):
        assert over(low + rng.uniform(size=low.shape) * (high - low)).max() < 1e-7


@pytest.mark.parametrize("case", ["lindistflow", "paper", "three phases without ratings"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 0.5, 0.0])])
def test_limits_grow_as_far_as_bisection_finds(case: str, seed: int, weights: Any):
    """Equal, and in proportion: both ways together, exports, then imports, each to the first row.

    Hour by hour, by the same corners.
    """
    market, over = CASES[case](seed)
    can, share = reach(market), np.ones(N) if weights is None else weights
    found = envelopes.joint(market, "equal" if weights is None else "proportional", weights=weights)
    for h in range(H):

        def safe(out: float, into: float, h: int = h) -> bool:
            low = np.clip(-out * share[:, None], can.low, can.rest)
            high = np.clip(into * share[:, None], can.rest, can.high)
            return max(over(np.where(c[:, None], high, low))[:, h].max() for c in CORNERS) < 1e-12

        def largest(holds: Callable[[float], bool], least: float) -> float:
            most = 200.0
            for _ in range(45):
                middle = (least + most) / 2
                least, most = (middle, most) if holds(middle) else (least, middle)
            return least

        both = largest(lambda t: safe(t, t), 0.0)
        out = largest(lambda t, both=both: safe(t, both), both)
        into = largest(lambda t, out=out: safe(out, t), both)
        low, high = ends(found)
        expected = np.clip(into * share, can.rest[:, h], can.high[:, h])
        np.testing.assert_allclose(high[:, h], expected, rtol=1e-6, atol=1e-6)
        expected = np.clip(-out * share, can.low[:, h], can.rest[:, h])
        np.testing.assert_allclose(low[:, h], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("weights", [np.ones(N), np.array([1.0, 2.0, 0.5, 0.3])])
@FEW
@given(seed=st.integers(0, 10_000))
def test_fair_limits_have_a_bottleneck_each(case: str, weights: np.ndarray, seed: int):
    """Whoever has not all its reach is felt by a row without room, and has the most of all there.

    For its weight, and but for those who rest at more than that: then and only then limits are
    max-min fair.
    """
    market, _ = CASES[case](seed)
    can, limits = reach(market), net_limits(market)
    found = envelopes.joint(market, "fair", weights=weights)
    low, high = ends(found)
    left = limits.left(low, high)
    for way in (1, -1):
        size, most = (high, can.high) if way > 0 else (-low, -can.low)
        for k, h in np.argwhere(size < most - 1e-6):
            rows = limits.weight[(left[:, h] < 1e-6) & (way * limits.weight[:, k] > 0)]
            own = np.maximum(size[k, h] / weights[k], 0.0) + 1e-6
            theirs = np.where(rows > 0, high[:, h], -low[:, h]) / weights
            resting = theirs <= np.where(rows > 0, can.rest[:, h], -can.rest[:, h]) / weights + 1e-6
            assert np.any(np.all((rows == 0) | resting | (theirs <= own), axis=1)), (k, h, way)


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_most_room_is_that_of_a_program_over_all_corners(case: str, seed: int):
    """The largest sum of limits where each of 2^n corners keeps each row by itself."""
    market, over = CASES[case](seed)
    can, limits, weights = reach(market), net_limits(market), np.array([1.0, 3.0, 0.5, 2.0])
    found = envelopes.joint(market, "most", weights=weights)
    both = [np.concatenate([limits.weight * c, -limits.weight * ~c], axis=1) for c in CORNERS]
    room = np.tile(limits.left(can.rest, can.rest), (len(CORNERS), 1))
    size = np.concatenate([can.high - can.rest, can.rest - can.low])
    worth = np.concatenate([weights, weights])
    for h in range(H):
        bounds = np.stack([np.zeros(2 * N), size[:, h]], axis=1)
        oracle = linprog(-worth, np.concatenate(both), room[:, h], bounds=bounds)
        grown = np.concatenate([found.imports - can.rest, found.exports + can.rest])[:, h]
        assert worth @ grown == pytest.approx(-oracle.fun, rel=1e-7, abs=1e-7)
    if case != "three phases":  # and no limit alone could be 1 kW larger
        low, high = ends(found)
        for k, h in np.ndindex(low.shape):
            more, less = high.copy(), low.copy()
            more[k, h], less[k, h] = high[k, h] + 1, low[k, h] - 1
            assert more[k, h] > can.high[k, h] or worst(over, low, more) > 0
            assert less[k, h] < can.low[k, h] or worst(over, less, high) > 0


def line(**limits: Any) -> jg.Market:
    """Two houses along a line, of 1e-3 and 2e-3 pu/kW; either may draw or feed in up to 40 kW."""
    flexible = {"hours": 1, "power_min": -40.0, "linear": 0.1, "quadratic": 1e-3}
    return jg.Market(
        jg.Prosumers([1, 2], [[0.0], [0.0]], export_max=40.0),
        jg.Grid([[0.0]] * 3, [0, 1], [1, 2], [1e-3, 2e-3], 0.0, **limits),
        jg.Tariff(1e-3, hours=1, base=0.2),
        jg.Generators([0, 1], 40.0, **flexible),
        trading=jg.Trading([0], [1], 10.0),
    )


def test_a_line_in_closed_form():
    """v^2 at its end is 1 - 2 (1e-3 n_1 + 3e-3 n_2), between 0.95^2 and 1.05^2."""
    market = line()
    down, up = (1 - 0.95**2) / 2, (1.05**2 - 1) / 2
    equal = envelopes.joint(market)
    np.testing.assert_allclose(equal.imports[:, 0], down / 4e-3)  # 12.19 kW
    np.testing.assert_allclose(equal.exports[:, 0], up / 4e-3)  # 12.81 kW
    thrice = envelopes.joint(market, "proportional", weights=[3.0, 1.0])
    np.testing.assert_allclose(thrice.imports[:, 0], [3 * down / 6e-3, down / 6e-3])
    most = envelopes.joint(market, "most")  # the near one first, the rest for the other
    np.testing.assert_allclose(most.imports[:, 0], [40.0, (down - 0.04) / 3e-3])
    worthy = envelopes.joint(market, "most", weights=[1.0, 4.0])
    np.testing.assert_allclose(worthy.imports[:, 0], [0.0, down / 3e-3], atol=1e-9)
    assert equal.held == (("the highest voltage of bus 2", "the lowest voltage of bus 2"),)
    rated = envelopes.joint(line(rating=[20.0, 15.0]))
    np.testing.assert_allclose(rated.exports[:, 0], 10.0)
    assert rated.held == (("the rating of line 0",),)
    assert "10.00" in str(rated) or "20.00" in str(rated)
    with_load = eqx.tree_at(lambda m: m.prosumers.load, market, jnp.array([[0.0], [60.0]]))
    must = envelopes.joint(with_load, "most", around=[[-40.0], [20.0]])
    np.testing.assert_allclose(must.imports[:, 0], [(down - 60e-3) / 1e-3, 20.0])
    np.testing.assert_allclose(must.exports[:, 0], [40.0, -20.0])


@cache
def tight() -> tuple[jg.Market, jg.Clearing, dict[str, tuple[jg.Market, jg.Clearing]]]:
    market = balanced_case(5, "lindistflow")[0]
    found = envelopes.beside(market, BESIDE)
    return market, found["network"][1], found


def test_trading_within_envelopes_is_safe_and_costs_no_less():
    """Beside the market on its network, by the oracle's objective too; what it costs is told."""
    market, cleared, found = tight()
    assert [*found] == ["network", "no network", *BESIDE]
    least = float(potential(market, cleared.plan))
    over = balanced_case(5, "lindistflow")[1]
    assert over(np.asarray(net_load(market, found["no network"][1].plan))).max() > 1e-4
    told = envelopes.decoupling(found)
    for rule in BESIDE:
        envelope = envelopes.joint(market, rule)
        low, high = ends(envelope)
        within = envelopes.embedded(market, envelope)
        net = np.asarray(net_load(market, found[rule][1].plan))
        assert np.all(net > low - 1e-4) and np.all(net < high + 1e-4)
        assert over(net).max() < 1e-5
        cost = float(potential(market, found[rule][1].plan))
        assert cost == pytest.approx(solve(within).potential, rel=1e-6)
        assert cost > least - 1e-6
        assert told["decoupling_eur"][told["market"].index(rule)] == pytest.approx(cost - least)
    assert max(told["decoupling_eur"]) > 1e-3
    assert told["objective_eur"][1] < least - 1e-3  # without the network it is cheaper
    assert "social_cost_eur" in jg.compare(found, reference="network").rows["most"]


def test_trading_within_envelopes_is_safe_in_three_phases():
    """Without the network some conductor carries too much; within fair envelopes none does."""
    market, over = phased_case(7)
    within = envelopes.embedded(market, envelopes.joint(market, "fair"))
    cost, excess = {}, {}
    for name, variant in {
        "network": market, "none": envelopes.without_network(market), "fair": within
    }.items():  # fmt: skip
        plan = jg.clear(variant).plan
        cost[name] = float(potential(variant, plan))
        excess[name] = over(np.asarray(net_load(variant, plan))).max()
    assert excess["none"] > 1.0 and max(excess["network"], excess["fair"]) < 1e-4
    assert cost["none"] + 0.1 < cost["network"] < cost["fair"] - 1e-3


def test_around_a_plan_the_same_plan_is_found():
    """Envelopes about the net loads of the equilibrium cost nothing more than it does."""
    market, cleared, _ = tight()
    about = envelopes.joint(market, "most", around=net_load(market, cleared.plan))
    again = jg.clear(envelopes.embedded(market, about))
    cost = float(potential(envelopes.embedded(market, about), again.plan))
    assert cost == pytest.approx(float(potential(market, cleared.plan)), rel=1e-6)


@pytest.mark.parametrize("case", ["lindistflow", "three phases"])
def test_corners_have_the_state_of_the_power_flow(case: str):
    """A box of one point: what `acflow` finds for a plan that draws as much."""
    market, _ = CASES[case](3)
    cleared = jg.clear(eqx.tree_at(lambda m: m.grid.rating, market, market.grid.rating / 2 + 0.5),
                       throw=False, max_steps=6)  # fmt: skip
    with by_numpy():
        host, plan = to_host((market, cleared.plan))
        net = np.asarray(net_load(host, plan))
        plan = replace(plan, compensation=0 * plan.compensation)
        safety = acflow.check(host, plan)
        flow = acflow.flow(host.grid, *acflow.drawn(host, plan))
    assert safety is not None
    found = at_corners(market, net, net, np.ones((1, N), bool))
    outside = np.maximum(found.above, found.below).max()
    assert outside == pytest.approx(float(safety.excess), abs=1e-9)
    assert np.max(found.loading) == pytest.approx(float(safety.loading), rel=1e-9)
    assert found.converged.all() and found.corners == 1
    total = np.sum(flow.exchange, axis=0)
    limits = np.stack([total - market.tariff.total_max, market.tariff.total_min - total])
    np.testing.assert_allclose(found.beyond, np.maximum(limits, 0.0), atol=1e-6)


@pytest.mark.parametrize(("case", "seed"), [("lindistflow", 1), ("three phases", 1)])
@pytest.mark.parametrize("rule", envelopes.RULES)
def test_the_ac_power_flow_agrees_where_it_is_asked(case: str, seed: int, rule: envelopes.Rule):
    """Of the linear model alone some corner breaks a limit; of those tightened by AC none does."""
    market, _ = CASES[case](seed)
    loose, safe = envelopes.joint(market, rule), envelopes.joint(market, rule, ac=True)
    seen = envelopes.check(market, loose)
    assert not seen.safe and seen.worst(market) != "no limit exceeded"
    low, high = ends(safe)
    every = at_corners(market, low, high, CORNERS)
    assert every.safe and every.worst(market) == "no limit exceeded"
    again = envelopes.check(market, safe, corners=7)
    assert again.safe and again.corners > 7
    assert str(again).startswith("safe at") and str(seen).startswith("not safe at")
    before = ends(loose)
    if rule != "most":  # grown as before, to limits that are tighter
        assert np.all(high <= before[1] + 1e-9) or case == "three phases"
    assert (high - low).sum() < (before[1] - before[0]).sum()
    assert (high - low).sum() > 0.5 * (before[1] - before[0]).sum()


def test_few_corners_are_the_worst_of_all():
    """Of voltages in one phase two; of a line also those behind it against the others."""
    both = [[False] * 2, [True] * 2]
    np.testing.assert_array_equal(patterns(net_limits(line())), both)
    rated = patterns(net_limits(line(rating=20.0)))
    np.testing.assert_array_equal(rated, [both[0], [False, True], [True, False], both[1]])


def test_who_is_on_several_phases_is_on_the_map_of_each():
    """By its share; nobody is lost."""
    market, _ = phased_case(1)
    power = np.arange(1.0, N + 1)
    rows, each = _spread(market, power)
    assert each.sum() == pytest.approx(power.sum())
    terminals = np.asarray(market.grid.target)[np.asarray(market.grid.terminal)]
    assert not np.isin(rows, terminals).any() and len(rows) > N


def test_the_command_tells_and_writes_all(tmp_path: Path):
    """As CSV with names, as a map, and as one JSON document."""
    market = line(names=("main", "near", "far"))
    jg.save(tmp_path / "line", market)
    words = ["envelopes", tmp_path / "line", "--rule", "most", "--corners", 3, "--beside"]
    words += ["--out", tmp_path / "a.csv", "--map", tmp_path / "a.svg"]
    done = CliRunner().invoke(cli.app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert "the lowest voltage of bus far" in done.stdout and "decoupling_eur" in done.stdout
    lines = (tmp_path / "a.csv").read_text("utf-8").splitlines()
    assert lines[0] == "prosumer,bus,bus_name,hour,import_max_kw,export_max_kw"
    assert lines[1].startswith("0,1,near,0,40.0,") and (tmp_path / "a.svg").exists()
    done = CliRunner().invoke(cli.app, ["envelopes", str(tmp_path / "line"), "--json"])
    facts = judged(done.stdout)
    assert facts["beside"] is None and not facts["ac"]["safe"]
    assert facts["held"] == [["the highest voltage of bus far", "the lowest voltage of bus far"]]


def test_without_a_network_the_total_is_shared():
    """12 kW for two who draw 2 kW at least, one of them 3 more at most; and no limit an hour on."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[2.0] * 2] * 2, names=("Ada", "Bo")),
        jg.Grid([[4.0] * 2], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.2, total_max=[16.0, np.inf]),
        buffers=jg.devices.battery([0, 1], power=[[3.0], [20.0]], capacity=40.0, hours=2),
    )
    for rule in envelopes.RULES:
        found = envelopes.joint(market, rule)
        np.testing.assert_allclose(found.imports[:, 1], [5.0, 22.0])
        assert found.imports[:, 0].sum() == pytest.approx(12.0)
    found = envelopes.joint(market)
    np.testing.assert_allclose(found.imports[:, 0], [5.0, 7.0])
    np.testing.assert_allclose(found.exports[:, 0], [0.0, 0.0])  # none may be exported
    assert found.held == (("Tariff.total_max",), ())
    within = envelopes.embedded(market, found)
    assert within.caps.names == ("envelope of prosumer Bo",)
    told = envelopes.table(market, found)
    assert [*told] == ["prosumer", "bus", "hour", "import_max_kw", "export_max_kw"]
    np.testing.assert_allclose(told["import_max_kw"], [5.0, 5.0, 7.0, 22.0])
    free = eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.array([99.0, 99.0]))
    assert not envelopes.embedded(free, envelopes.joint(free)).caps.names
    assert "all can do what they like" in str(envelopes.joint(free))


def test_what_cannot_be_is_said_in_words():
    """With the limit, the prosumer or the option, before anything is computed."""
    market = line()
    loaded = eqx.tree_at(lambda m: m.prosumers.load, market, jnp.array([[0.0], [80.0]]))
    with pytest.raises(ValueError, match="the lowest voltage of bus 2 does not hold in hour 0"):
        envelopes.joint(loaded)
    words = {
        "is none of equal, proportional, fair, most": {"rule": "greedy"},
        "rule='equal' takes no weights": {"weights": [1.0, 1.0]},
        "weights of shape": {"rule": "most", "weights": [1.0]},
        "0 or more": {"rule": "most", "weights": [1.0, -1.0]},
        "around= goes with rule='most'": {"around": [[0.0], [0.0]]},
        r"around= has the shape \(2,\)": {"rule": "most", "around": [0.0, 0.0]},
        r"around= says 50 kW of prosumer 1": {"rule": "most", "around": [[0.0], [50.0]]},
    }
    for match, options in words.items():
        with pytest.raises(ValueError, match=match):
            envelopes.joint(market, **options)
    found = envelopes.joint(market)
    other = balanced_case(1, "lindistflow")[0]
    for function in (envelopes.embedded, envelopes.check, envelopes.table):
        with pytest.raises(ValueError, match=r"Envelope\.imports has 2; give the market"):
            function(other, found)
    plate = envelopes.without_network(market)
    with pytest.raises(ValueError, match="copperplate has no grid"):
        envelopes.check(plate, envelopes.joint(plate))
    mesh = jg.Market(
        jg.Prosumers([1], [[1.0]]),
        jg.Grid([[0.0]] * 3, [0, 1, 0], [1, 2, 2], 1e-3, 1e-3, model="paper"),
        jg.Tariff(0.0, hours=1, base=0.2),
    )
    with pytest.raises(ValueError, match="1 lines close loops"):
        envelopes.joint(mesh)
    phased, _ = phased_case(1)
    home = int(phased.prosumers.bus[0])
    away = eqx.tree_at(lambda m: m.generators.bus, phased, jnp.array([home + 1, -1, -1]))
    with pytest.raises(ValueError, match=r"generator 0 is at bus .* its owner at another"):
        envelopes.joint(away)


def test_envelopes_that_there_are_not_are_left_out():
    """Two houses draw 20 kW through 12: they need a neighbor's generator, which may stand still."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[20.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.2, total_max=12.0),
        jg.Generators([1], 15.0, hours=1, linear=0.5),
        trading=jg.Trading([0], [1], 30.0),
    )
    with pytest.warns(
        UserWarning, match=r"'equal' is left out: .* Tariff\.total_max does not hold"
    ):
        found = envelopes.beside(market, ["equal"])
    assert [*found] == ["network", "no network"]
    assert np.isnan(envelopes.decoupling(found)["loading"]).all()


def test_what_does_not_clear_is_left_out():
    """Within equal envelopes the car cannot have its 30 kWh."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[0.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.2, total_max=32.0),
        buffers=jg.Buffers(
            [0, 1], [[30.0], [30.0]], 0.0, 40.0, 0.0, hours=1, energy_min=[[30.0], [0.0]]
        ),
    )
    with pytest.warns(UserWarning, match="'equal' is left out: infeasible"):
        assert [*envelopes.beside(market, ["equal"])] == ["network", "no network"]
