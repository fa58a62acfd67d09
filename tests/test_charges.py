"""Network charges by distance, by loss and by area: closed forms, a dense inverse, differences."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import charges
from jaxgne.model import mean_price
from jaxgne.record import changed
from tests import phased
from tests.power_flows import meshed


def line(**trading: Any) -> jg.Market:
    """Four buses in a line: who needs 2 kW at the first, and 3 kW of sun next door and far away."""
    return jg.Market(
        jg.Prosumers([1, 2, 3, 1], [[2.0], [-3.0], [-3.0], [0.0]], export_max=9.0),
        jg.Grid([[0.0]] * 4, [0, 1, 2], [1, 2, 3], [1e-4, 2e-4, 5e-4], 1e-5),
        jg.Tariff(0.0, hours=1, base=0.3, export=0.05),
        trading=jg.Trading([0, 0, 1, 0], [1, 2, 2, 3], 9.0, **trading),
    )


def on(grid: jg.Grid, bus: list[int], pairs: list[tuple[int, int]]) -> jg.Market:
    hours = grid.passive.shape[1]
    buyer, seller = zip(*pairs, strict=True) if pairs else ((), ())
    return jg.Market(
        jg.Prosumers(bus, np.zeros((len(bus), hours))),
        grid,
        jg.Tariff(0.0, hours=hours, base=0.3),
        trading=jg.Trading(buyer, seller, 5.0),
    )


def test_without_pairs_there_is_nothing_to_charge():
    market = on(line().grid, [1, 2], [])
    assert jg.charges.distances(market).shape == (0,)
    assert jg.charges.by_distance(market, 0.01).trading.toll.shape == (0, 1)


def test_on_a_feeder_distance_is_the_resistance_of_the_path():
    """2, 7, 5 and 0 of 1e-4: both sides pay 0.014 on the average, each 0.014 d / (3.5 * 2)."""
    market = line(toll=9.0)
    np.testing.assert_allclose(charges.distances(market), [2e-4, 7e-4, 5e-4, 0.0], rtol=1e-12)
    found = charges.by_distance(market, mean=0.014)
    np.testing.assert_allclose(found.trading.toll[:, 0], [0.004, 0.014, 0.010, 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["ring", "twins", "lattice", "two feeders"])
def test_with_loops_distance_is_that_of_the_pseudo_inverse(name: str):
    """(e_i - e_j)' L+ (e_i - e_j), by a dense Laplacian, in which feeders are short-circuited."""
    grid = meshed(name, np.random.default_rng(3))
    size = grid.passive.shape[0]
    pairs = [(i, j) for i in range(size) for j in range(i)]
    matrix = np.zeros((size, size))
    feeders = np.asarray(grid.feeder)
    tied = [(a, b, 1e-13) for a, b in pairwise(feeders)]
    lines = zip(*map(np.asarray, (grid.source, grid.target, grid.resistance)), strict=True)
    for a, b, resistance in [*lines, *tied]:
        edge = np.eye(size)[a] - np.eye(size)[b]
        matrix += np.outer(edge, edge) / resistance
    inverse = np.linalg.pinv(matrix, rcond=1e-14, hermitian=True)
    expected = [inverse[i, i] + inverse[j, j] - 2 * inverse[i, j] for i, j in pairs]
    found = charges.distances(on(grid, list(range(size)), pairs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_what_a_line_without_resistance_joins_is_one_place():
    """As a regulator is: the line's other resistances add up; and a feeder is still the feeder."""
    market = line()
    pairs = [(0, 3), (1, 2), (2, 3)]
    for bare, expected in (([1e-4, 0.0, 2e-4], [3.0, 0.0, 2.0]), ([0.0, 1e-4, 2e-4], [3, 1, 2])):
        grid = changed(market.grid, resistance=np.array(bare))
        found = charges.distances(on(grid, [0, 1, 2, 3], pairs))
        np.testing.assert_allclose(found, 1e-4 * np.array(expected), atol=1e-12)
    named = jg.preferences.with_preferences(jg.ieee13(6, hours=1), {"local": 0.1})
    assert float(np.max(np.asarray(named.trading.reluctance))) == pytest.approx(0.1)


def test_in_three_phases_a_line_counts_once():
    """From phase to phase of one bus it is nowhere; else the conductors' mean conductance."""
    market = phased.market(2)
    grid = market.grid
    rows = np.arange(grid.passive.shape[0])
    of_bus = np.full(len(rows), -1)
    for bus, phases in enumerate(np.asarray(grid.phases)):
        of_bus[phases[phases >= 0]] = bus
    found = charges.distances(on(grid, rows.tolist(), [(k, 0) for k in rows.tolist()]))
    for bus in range(of_bus.max() + 1):  # all rows of a bus are as far from the feeder
        np.testing.assert_allclose(found[of_bus == bus], found[of_bus == bus][0], rtol=1e-9)
    lines = zip(*map(np.asarray, (grid.source, grid.target, grid.resistance)), strict=True)
    parts: dict[tuple[int, int], list[float]] = {}
    for a, b, resistance in lines:
        if of_bus[b] >= 0 and of_bus[a] != of_bus[b]:
            parts.setdefault((int(of_bus[a]), int(of_bus[b])), []).append(1 / resistance)
    assert parts
    for (a, b), conductance in parts.items():
        step = found[of_bus == b][0] - found[of_bus == a][0]
        np.testing.assert_allclose(step, 1 / np.mean(conductance), rtol=1e-9)


def test_marginal_losses_are_differences_of_the_losses():
    """Of an AC power flow where the buyer draws a little more, and the seller as much less."""
    market = jg.ieee37(6, hours=2)
    clearing = jg.clear(market)
    toll = np.asarray(charges.by_loss(market, clearing).trading.toll)
    price = np.asarray(mean_price(market, clearing.plan))
    trades, step, seen = np.asarray(clearing.plan.trades), 1e-2, []
    ends = zip(*map(np.asarray, (market.trading.buyer, market.trading.seller)), strict=True)
    for pair, (buyer, seller) in enumerate(ends):
        lost = []
        for sign in (1, -1):
            load = np.array(market.prosumers.load)
            load[buyer] += sign * step
            load[seller] -= sign * step
            moved = changed(market, prosumers=changed(market.prosumers, load=load))
            lost.append(np.asarray(jg.ac_power_flow(moved, clearing.plan).losses).sum(axis=0))
        slope = (lost[0] - lost[1]) / (2 * step)
        idle = np.abs(trades[pair]) < 1e-3
        slope = np.where(idle, np.abs(slope), np.sign(trades[pair]) * slope)
        seen.append(slope > 0)
        np.testing.assert_allclose(toll[pair], np.maximum(price * slope, 0) / 2, 2e-3, 1e-8)
    assert np.any(seen) and not np.all(seen)


def test_on_a_line_losses_grow_by_2_r_p():
    """6 kW of sun come down the line; one from the far end adds 2 r p of what lies between."""
    market = line()
    clearing = jg.clear(market, tol=1e-8)
    flow = np.abs(np.asarray(clearing.plan.active))[:, 0]
    np.testing.assert_allclose(flow, [4.0, 6.0, 3.0], atol=1e-5)
    toll = np.asarray(charges.by_loss(market, clearing).trading.toll)[:, 0]
    near, far = 2 * 2e-4 * 6, 2 * 2e-4 * 6 + 2 * 5e-4 * 3
    np.testing.assert_allclose(toll, 0.15 * np.array([near, far, far - near, 0]), 0.02, 1e-9)


@pytest.mark.parametrize("rule", ["distance", "loss", "area"])
def test_near_trades_take_the_place_of_far_ones(rule: str):
    """Both have sun enough; with any charge that knows the way, all 2 kW come from next door."""
    market = line()
    if rule == "distance":
        market = charges.by_distance(market, mean=0.02)
    elif rule == "loss":
        market = charges.by_loss(market, jg.clear(market))
    else:
        market = jg.charges.by_area(market, 0.01, 0.04, transformers=[2])
        np.testing.assert_allclose(market.trading.toll[:, 0], [0.005, 0.02, 0.02, 0.005])
    clearing = jg.clear(market, tol=1e-8)
    assert clearing.status == jg.Status.cleared
    np.testing.assert_allclose(np.asarray(clearing.plan.trades)[:2, 0], [2.0, 0.0], atol=1e-3)


def test_fees_of_areas_may_differ_by_hour_and_feeder():
    """Two feeders: below one transformer, on the same feeder, on another one."""
    grid = jg.Grid(
        np.zeros((6, 2)),
        [0, 1, 1, 4],
        [1, 2, 3, 5],
        1e-4,
        1e-5,
        feeder=[0, 4],
        line_names=tuple("abcd"),
    )
    market = on(grid, [2, 2, 3, 5], [(0, 1), (0, 2), (0, 3)])
    found = charges.by_area(market, [0.0, 0.01], 0.04, 0.1, transformers=["b"])
    np.testing.assert_allclose(found.trading.toll, [[0.0, 0.005], [0.02, 0.02], [0.05, 0.05]])
    assert charges.by_area(market, 0.01, 0.04).trading.toll.shape == (3, 1)
    # between feeders distance goes through the main grid, at 0: two lines there, one here
    np.testing.assert_allclose(charges.distances(market), [0.0, 2e-4, 3e-4], rtol=1e-12)


def test_what_has_no_charge_is_told():
    flat = jg.Market(
        jg.Prosumers([0, 0], [[1.0], [1.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1),
        trading=jg.Trading([0], [1], 1.0),
    )
    with pytest.raises(ValueError, match="'copperplate' has no lines"):
        charges.by_distance(flat, 0.01)
    with pytest.raises(ValueError, match="copperplate has no grid"):
        charges.by_loss(flat, jg.clear(flat))
    market = line()
    wrong: Any = "dear"
    with pytest.raises(ValueError, match="feeder: 'dear' is not all numbers"):
        charges.by_area(market, 0.01, wrong)
    with pytest.raises(ValueError, match="mean=-1; give EUR/kWh"):
        charges.by_distance(market, -1)
    together = changed(market, trading=jg.Trading([0], [3], 1.0))
    with pytest.raises(ValueError, match="within one place"):
        charges.by_distance(together, 0.01)
    with pytest.raises(ValueError, match=r"near=-0.1; give EUR/kWh"):
        charges.by_area(market, -0.1, 0.02)
    with pytest.raises(ValueError, match=r"across=\[0.1, 0.2\].*each of 1 steps"):
        charges.by_area(market, 0.1, 0.2, [0.1, 0.2])
    with pytest.raises(ValueError, match="transformers: there is no line 7"):
        charges.by_area(market, 0.1, 0.2, transformers=[7])
    lost = on(jg.Grid([[0.0]] * 3, [0], [1], 1e-4, 1e-5), [1, 2], [(0, 1)])
    with pytest.raises(ValueError, match="no line leads from a feeder to bus 2"):
        charges.by_distance(lost, 0.01)
