"""Markets in three phases, by the oracle; what phases have in common, and what they do not."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.causes import explain_infeasible
from jaxgne.grids import LinDistFlow
from jaxgne.linear_flow import grid_state
from jaxgne.runner import by_numpy, to_host
from tests.agreement import SOLVERS, check_agreement, check_signs
from tests.markets import _changed
from tests.phased import PAIRS, TURN, Tree, busy_market, linear, market, random_tree
from tests.reference import solve, violations

SEEDS = st.integers(0, 100_000)


def agrees(seed: int) -> str:
    """The status of a random market, by NumPy, which is the oracle's; cleared it agrees with it."""
    market, tol = busy_market(seed), 1e-7
    clearing = jg.clear(market, tol=tol, runner="numpy", throw=False)
    oracle, name = solve(market), jg.status.status_name(clearing.status)
    assert {"cleared": "solved", "infeasible": "infeasible"}[name] == oracle.status
    if name == "infeasible":
        return name
    check_agreement(market, clearing, oracle)
    assert max(violations(market, clearing.plan).values()) < 1e-4
    if not len(market.caps.carry):  # their prices are beside those that are looked at
        with by_numpy():
            one, found = to_host((market, clearing))
            check_signs(one, found.plan, found.prices, 2e-3 * float(found.certificate.scales.price))
    return "congested" if np.abs(oracle.prices.bus).max() > 1e-3 else name


@pytest.mark.parametrize("seed", range(14))
def test_random_markets_by_numpy(seed: int):
    agrees(seed)


@pytest.mark.slow
def test_five_hundred_random_markets_by_numpy():
    counts = Counter(agrees(seed) for seed in range(1000, 1500))
    assert min(counts.values()) > 40 and len(counts) == 3


@partial(jax.jit, static_argnums=(1, 2))
def clear_all(stacked: jg.Market, name: str, most: int | None) -> jg.Clearing:
    solver = SOLVERS[name][0]
    return jax.vmap(lambda market: jg.clear(market, solver, max_steps=most))(stacked)


@pytest.mark.slow
@pytest.mark.parametrize(("feeder", "whole", "capped"), [(0, True, False), (3, False, True)])
@pytest.mark.parametrize(("name", "most", "count"), [
    ("interior point", None, 40), ("primal-dual", 50_000, 20), ("mechanism", 40_000, 8),
])  # fmt: skip
def test_random_markets_by_jax(feeder, whole, capped, name, most, count):
    """No false status by any solver, and whatever is cleared agrees."""
    sizes: Any = {"buses": 5, "hours": 3, "whole": whole, "feeder": feeder}
    markets = [busy_market(seed, capped, **sizes) for seed in range(count)]
    stacked = jax.tree.map(lambda *each: np.stack(each), *markets)
    cleared = jax.tree.map(np.asarray, clear_all(stacked, name, most))
    ends = Counter()
    for k, one in enumerate(markets):
        clearing = jax.tree.map(lambda a, k=k: a[k], cleared)
        status, oracle = jg.status.status_name(clearing.status), solve(one)
        ends[status] += 1
        if status == "cleared":
            check_agreement(one, clearing, oracle)
        assert status == "max_steps" or (status == "cleared") == (oracle.status == "solved")
    assert ends["max_steps"] <= (0 if most is None else count // 2 * (name == "mechanism"))


def no_plan(field: str, place: str, value: float) -> str:
    """Why a market on a whole feeder has no plan once one number is `value`, in words."""
    base = market(1, buses=4, whole=True, voltage_min=0.9, voltage_max=1.1)
    names = base.grid.line_names if field == "rating" else base.grid.names
    numbers = np.array(getattr(base.grid, field), float)
    numbers[names.index(place)] = value
    tight = _changed(base, **{f"grid__{field}": numbers})
    assert solve(tight).status == "infeasible"
    clearing = jg.clear(tight, runner="numpy", throw=False)
    assert jg.status.status_name(clearing.status) == "infeasible"
    with by_numpy():  # what compiles for seconds
        one, prices = to_host((tight, clearing.prices))
        return explain_infeasible(one, prices)


def test_what_has_no_plan_is_named_by_phase():
    """A voltage out of reach by bus and phase, a rating by line and conductor, with the hour."""
    assert "Grid.voltage_min/voltage_max of bus 3.b in hour" in no_plan("voltage_min", "3.b", 1.09)
    assert "Grid.rating of line 0-2.c (0.c-2.c) in hour" in no_plan("rating", "0-2.c", 0.0)
    assert "Grid.rating of line 1.abc (1.a-1.abc) in hour" in no_plan("rating", "1.abc", 0.01)


def state(grid: jg.Grid) -> dict[str, Any]:
    """What passive loads alone do, by the package."""
    people = jg.Prosumers([0], np.zeros((1, grid.passive.shape[1])))
    alone = jg.Market(people, grid, jg.Tariff(1e-3, hours=grid.passive.shape[1]))
    with by_numpy():
        here: Any = to_host(alone)
        return grid_state(here, here.grid.passive, here.grid.passive_reactive)


def at_phases(tree: Tree, found: dict[str, Any]) -> np.ndarray:
    """Squared voltages, (S, 3, H), NaN where a phase is missing."""
    table = np.full(tree.wye.shape, np.nan)
    table[tree.phases] = np.asarray(found["voltage"])[: tree.phases.sum()]
    return table


def feeder_of(tree: Tree, **changes: Any) -> jg.Grid:
    return replace(tree, **changes).grid()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_state_is_that_of_the_equations(seed: int):
    """Voltages and flows of passive loads, missing phases, taps and spans included."""
    tree = random_tree(seed, buses=6)
    square, flow = linear(tree)
    found = state(tree.grid())
    np.testing.assert_allclose(at_phases(tree, found), square, atol=1e-12)
    own = tree.phases[1:]
    into = np.asarray(found["active"]) + 1j * np.asarray(found["reactive"])
    np.testing.assert_allclose(into[: own.sum()], flow[1:][own], atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_equal_mutuals_and_loads_are_one_phase(seed: int):
    """r_self - r_mutual is what LinDistFlow has, and all three phases are as its one."""
    tree = random_tree(seed, buses=6, whole=True, taps=False)
    own, mutual = tree.z[:, :1, :1], tree.z[:, :1, 1:2]
    z = mutual + (own - mutual) * np.eye(3)
    power: Any = np.broadcast_to(tree.wye[:, :1], tree.wye.shape)
    none: Any = {"spans": (), "spanned": np.zeros((0, tree.hours))}
    three = state(feeder_of(tree, z=z, wye=power, source=np.full(3, 1.02), **none))
    one = jg.Grid(power[:, 0].real, tree.parent[1:], np.arange(1, 6),
                  (own - mutual)[1:, 0, 0].real, (own - mutual)[1:, 0, 0].imag,
                  passive_reactive=power[:, 0].imag, feeder_voltage=1.02)  # fmt: skip
    found = at_phases(tree, three)
    alone = np.asarray(state(one)["voltage"])
    for phase in range(3):
        np.testing.assert_allclose(found[:, phase], alone, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 2])
def test_without_mutuals_there_are_three_feeders(seed: int):
    """The same plan and prices as LinDistFlow has with three feeder buses, people on phases."""
    base = market(seed, buses=4, hours=2, voltage_min=0.5, voltage_max=1.5)
    grid = base.grid
    apart = np.isin(np.asarray(base.prosumers.bus), np.asarray(grid.target)[grid.terminal])
    bus = np.where(apart, 4, base.prosumers.bus)  # no one between phases
    base = replace(base, prosumers=replace(base.prosumers, bus=bus))
    idle = np.isin(np.arange(len(grid.passive)), np.asarray(grid.target)[grid.terminal])[:, None]
    base = _changed(
        base,
        grid__mutual_resistance=0.0,
        grid__mutual_reactance=0.0,
        grid__passive=np.where(idle, 0.0, grid.passive),
        grid__passive_reactive=np.where(idle, 0.0, grid.passive_reactive),
    )
    free: Any = jg.clear(base).plan  # and more of the generator that makes less is called for
    row = int(base.prosumers.bus[np.argmin(np.asarray(free.generation).max(axis=1))])
    low = np.full(len(grid.passive), 0.5)
    low[row] = np.sqrt(free.voltage[row]).min() + 2e-4
    base = _changed(base, grid__voltage_min=low)
    nothing: Any = np.zeros(0, np.int32)
    pairs = dict.fromkeys(("coupled", "following", "terminal", "second", "third"), nothing)
    pairs |= dict.fromkeys(("mutual_resistance", "mutual_reactance"), np.zeros(0))
    single = replace(base, grid=replace(base.grid, model=LinDistFlow(), **pairs))
    one, two = (jg.clear(each, tol=1e-9) for each in (base, single))
    rows = ~idle[:, 0]
    for name in ("bus", "bus_reactive"):
        found, expected = (np.asarray(getattr(c.prices, name))[rows] for c in (one, two))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(one.prices.balance, two.prices.balance, atol=1e-6)
    np.testing.assert_allclose(one.plan.voltage[rows], two.plan.voltage[rows], atol=1e-5)
    assert np.abs(one.prices.bus[rows]).max() > 1e-3


def relabelled(tree: Tree, places: tuple[int, int, int]) -> Tree:
    """Phase p of all is phase `places[p]` now; pairs turn with it, if they still are pairs."""
    order = np.argsort(places)
    spans = []
    for bus, kind in tree.spans:
        named = "".join("abc"["abc".index(p) if kind == "abc" else places["abc".index(p)]]
                        for p in kind)  # fmt: skip
        spans.append((bus, named if named in (*PAIRS, "abc") else named[::-1]))
    return replace(
        tree,
        phases=tree.phases[:, order],
        z=tree.z[:, order][:, :, order],
        tap=tree.tap[:, order],
        source=tree.source[order],
        wye=tree.wye[:, order],
        spans=tuple(spans),
    )


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_phases_may_be_named_in_turn_but_not_exchanged(seed: int):
    """a, b, c as b, c, a or c, a, b are the same feeder; as a, c, b it is another one."""
    tree = random_tree(seed, buses=5, whole=True)
    found = at_phases(tree, state(tree.grid()))
    for places in ((1, 2, 0), (2, 0, 1)):
        again = relabelled(tree, places)
        turned = at_phases(again, state(again.grid()))
        np.testing.assert_allclose(turned[:, list(places)], found, atol=1e-12)
    other = relabelled(tree, (0, 2, 1))
    swapped = at_phases(other, state(other.grid()))[:, [0, 2, 1]]
    assert np.abs(swapped - found).max() > 1e-4


def on(tree: Tree, base: jg.Market, names: list[str]) -> jg.Market:
    """The market on another grid, its people where these rows are."""
    grid = replace(
        tree.grid(voltage_min=0.9, voltage_max=1.1),
        voltage_min=base.grid.voltage_min,
        voltage_max=base.grid.voltage_max,
    )
    bus = np.array([grid.names.index(name) for name in names], np.int32)
    return replace(base, grid=grid, prosumers=replace(base.prosumers, bus=bus))


def test_plan_and_prices_turn_with_the_names_of_phases():
    """A market whose voltages bind: b's prices are what a's were; with b and c exchanged not."""
    tree = random_tree(2, buses=4, hours=2, whole=True)
    base = market(2, buses=4, hours=2, whole=True, voltage_min=0.5, voltage_max=1.5)
    low = np.sqrt(np.asarray(jg.clear(base).plan.voltage)).min(axis=1).min() + 1e-3
    base = _changed(base, grid__voltage_min=low)
    names = [base.grid.names[bus] for bus in np.asarray(base.prosumers.bus)]

    def named(places: tuple[int, int, int]) -> list[str]:
        kinds = [name.split(".") for name in names]
        turned = [relabelled(replace(tree, spans=((0, k),)), places).spans[0][1]
                  if len(k) > 1 else "abc"[places["abc".index(k)]] for _, k in kinds]  # fmt: skip
        return [f"{bus}.{kind}" for (bus, _), kind in zip(kinds, turned, strict=True)]

    worth = jg.model.energy_prices
    first = jg.clear(on(tree, base, names), tol=1e-9)
    assert np.abs(first.prices.bus).max() > 1e-2
    expected = worth(base, first.prices)
    for places, same in (((1, 2, 0), True), ((0, 2, 1), False)):
        turned = on(relabelled(tree, places), base, named(places))
        found = jg.clear(turned, tol=1e-9, throw=False)
        gap = np.abs(worth(turned, found.prices) - expected).max()
        assert (gap < 1e-6) == same
        if same:
            np.testing.assert_allclose(found.plan.generation, first.plan.generation, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_what_draws_between_phases_alone_is_a_feeder_of_pairs(seed: int):
    """Line voltages are those that D z D^T / 3 gives of loads at pairs, as if these were phases.

    Of squared voltages w and angles t of phases, w_ab = (w_a + w_b) / 2 + (t_a - t_b) / sqrt(3),
    to first order as the model itself: to rounding.
    """
    rng = np.random.default_rng(seed)
    tree = random_tree(seed, buses=5, whole=True, taps=False)
    spans = tuple((k, kind) for k in range(1, 5) for kind in PAIRS)
    power = rng.uniform(0, 8, (len(spans), 2)) + 1j * rng.uniform(0, 3, (len(spans), 2))
    alone = {"source": np.ones(3), "wye": 0 * tree.wye}
    found = state(feeder_of(tree, spans=spans, spanned=power, **alone))
    square = at_phases(tree, found)
    flow = (np.asarray(found["active"]) + 1j * np.asarray(found["reactive"]))[:12].reshape(4, 3, 2)
    angle = np.zeros(square.shape)
    for k in range(1, 5):
        turned = tree.z[k] * np.conj(TURN[:, None] / TURN[None, :])
        part = turned.imag @ flow[k - 1].real - turned.real @ flow[k - 1].imag
        angle[k] = angle[tree.parent[k]] - part
    after = [1, 2, 0]
    pair = (square + square[:, after]) / 2 + (angle - angle[:, after]) / np.sqrt(3)
    d = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]])
    wye = np.zeros_like(tree.wye)
    wye[1:] = power.reshape(4, 3, 2)
    none: Any = {"spans": (), "spanned": np.zeros((0, 2))}
    wires = feeder_of(tree, z=d @ tree.z @ d.T / 3, source=np.ones(3), wye=wye, **none)
    np.testing.assert_allclose(pair, at_phases(tree, state(wires)), atol=1e-12)
