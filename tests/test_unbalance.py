"""A bound on voltage unbalance (`caps.unbalance`): against AC power flows, loops, and Clarabel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.acflow import ac_power_flow
from jaxgne.cases.circuits import PUBLISHED, published, rows
from jaxgne.cases.phased import over_hours
from jaxgne.model import OF_CAPS, zeros
from jaxgne.phases import row
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from tests.agreement import SOLVERS, check_agreement, potential
from tests.markets import _changed
from tests.phased import TURN, Tree, linear, market, random_tree
from tests.reference import solve

WORST = {"ieee13": 0.11, "ieee34": 0.23, "ieee37": 0.04, "ieee123": 0.09, "european_lv": 0.01}


def three(grid: jg.Grid) -> np.ndarray:
    """Rows a, b, c of buses that have all three phases."""
    phases = np.asarray(grid.phases)
    return phases[np.all(phases >= 0, axis=1)]


def sums(found: jg.Market, plan: Any) -> np.ndarray:
    """V2 of each bus and hour by the caps of a market: their sides at 0 and at 90 degrees of 4."""
    with by_numpy():
        here, plan = to_host((found, plan))
        given = jg.model.rows(here, plan).cap
    level = np.asarray(given).reshape(-1, 4, np.shape(given)[-1])
    np.testing.assert_allclose(level[:, 2:], -level[:, :2], atol=1e-12)
    return level[:, 0] + 1j * level[:, 1]


def bounded(base: jg.Market, most: Any, **more: Any) -> jg.Market:
    return jg.capped(base, jg.caps.unbalance(base, most, **more))


@pytest.mark.parametrize("name", PUBLISHED)
def test_linear_factor_is_near_that_of_an_ac_power_flow(name: str):
    """At spot load, within the published errors of the linear formula, in percentage points."""
    feeder = rows(published(name))
    grid = over_hours(feeder, feeder.load[:, None], feeder.reactive[:, None])
    base = jg.Market(jg.Prosumers([0], [[0.0]]), grid, jg.Tariff(1e-3, hours=1))
    buses = three(grid)
    found = bounded(base, 0.5, buses=buses[:, 0], sides=4)
    still = zeros(found)
    flow = ac_power_flow(base, zeros(base))
    volts = np.asarray(flow.voltage * np.exp(1j * flow.angle))[buses, 0]
    one, two = (np.abs(volts @ np.conj(TURN) ** k) for k in (1, 2))
    error = 100 * np.abs(np.abs(sums(found, still)[:, 0]) - two / one)
    assert error.max() == pytest.approx(WORST[name], abs=0.005)
    one = jg.caps.unbalance(base, 0.02, sides=3)  # of the bus with the highest
    highest = int(np.abs(sums(found, still)[:, 0]).argmax())
    bus = grid.names[buses[highest, 0]].rpartition(".")[0]
    assert one.names == tuple(f"unbalance at bus {bus}, {d} deg" for d in (0, 120, 240))


def negative(tree: Tree) -> np.ndarray:
    """V2 (S, H) by loops: squared voltages, and angles that fall by Im(z exp(..) conj(S))."""
    square, flow = linear(tree)
    angle = np.zeros(square.shape)
    for k in range(1, len(tree.parent)):
        for p in range(3):
            fall = 0.0
            for q in range(3):
                z = tree.z[k][p, q] * np.exp(2j * np.pi / 3 * (p - q))
                fall = fall + (z * np.conj(flow[k, q])).imag
            angle[k, p] = angle[tree.parent[k], p] - fall
    a, b, c = ((square - 1) / 2 + 1j * angle).transpose(1, 0, 2)
    h = np.exp(2j * np.pi / 3)
    return (a + h * b + h**2 * c) / 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_caps_count_what_everybody_draws(seed: int):
    """Of any plan on a random tree, with what stands between phases and devices elsewhere."""
    rng = np.random.default_rng(seed)
    tree, base = random_tree(seed, buses=7, hours=2), market(seed, 7, 2)
    count, units, stores = base.grid.passive.shape[0], base.generators, base.buffers
    places = rng.choice(np.arange(3, count), 2), rng.choice(np.arange(3, count), 2)
    base = replace(
        base,
        generators=changed(units, bus=jnp.asarray(places[0], units.bus.dtype)),
        buffers=changed(stores, bus=jnp.asarray([-1, int(places[1][0])], stores.bus.dtype)),
    )
    plan = zeros(base)
    names = ("generation", "charge", "discharge", "curtailed")
    plan = replace(plan, **{n: rng.uniform(0, 5, getattr(plan, n).shape) for n in names})
    people: Any = base.prosumers
    drawn = np.zeros((count, 2), complex)
    np.add.at(drawn, people.bus, people.load + plan.curtailed + 1j * np.asarray(people.reactive))
    np.add.at(drawn, places[0], -np.asarray(plan.generation))
    at = [int(people.bus[stores.owner[0]]), int(places[1][0])]
    np.add.at(drawn, at, np.asarray(plan.charge - plan.discharge))
    wires = int(tree.phases.sum())
    wye = tree.wye.copy()
    wye[tree.phases] += drawn[:wires]
    moved = Tree(**{**vars(tree), "wye": wye, "spanned": tree.spanned + drawn[wires:]})
    whole = np.all(tree.phases, axis=1)
    found = bounded(base, 0.9, buses=three(base.grid)[:, 1], sides=4)
    plan = replace(plan, **dict.fromkeys(OF_CAPS, zeros(found).level))
    np.testing.assert_allclose(sums(found, plan), negative(moved)[whole], atol=1e-13)


def tight(seed: int = 1, share: float = 0.97) -> tuple[jg.Market, jg.Market, np.ndarray, float]:
    """A market without a bound, one with it at a `share` of the highest |V2|, where, and pu."""
    base = market(seed, 6, 2, whole=True, voltage_min=0.5, voltage_max=1.5)
    base = _changed(base, prosumers__curtail_max=3.0)
    free, cap = jg.clear(base, runner="numpy").plan, jg.caps.unbalance(base, 0.9)
    loose = jg.capped(base, cap)
    free = replace(free, **dict.fromkeys(OF_CAPS, zeros(loose).level))
    with by_numpy():
        high = float(np.max(jg.model.rows(*to_host((loose, free))).cap))
    most = share * high / np.cos(np.pi / 12)
    bus = cap.names[0].removeprefix("unbalance at bus ").partition(",")[0]
    buses = np.array([[row(base.grid, bus, phase) for phase in "abc"]])
    return base, bounded(base, most, buses=[bus]), buses, most


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_solvers_find_the_convex_programs_answer(solver: str):
    """With the bound binding: potential and totals, and its price, the slope of the least cost."""
    base, found, buses, most = tight()
    method, tol, steps = SOLVERS[solver]
    clearing = jg.clear(found, method, tol=tol, **({"max_steps": steps} if steps else {}))
    check_agreement(found, clearing, solve(base, unbalance=(buses, most, 12)))
    step = 1e-3 * most
    less, more = (solve(base, unbalance=(buses, most + s, 12)).potential for s in (-step, step))
    price = np.asarray(clearing.prices.cap).sum() * np.cos(np.pi / 12)
    assert price > 1.0 and price == pytest.approx((less - more) / (2 * step), rel=1e-2)
    assert potential(found, clearing.plan) > solve(base).potential + 1e-5


def test_a_bound_is_kept_and_paid_for():
    """AC finds it kept up to what losses hide; who draws pays for it, and all money adds up."""
    base, found, _, most = tight()
    free, clearing = (jg.clear(each, runner="numpy") for each in (base, found))
    ac: Any = [each.certificate.ac for each in (free, clearing)]
    before, after = (float(each.unbalance.factor) for each in ac)
    assert after < before and after < most + 0.0025
    bills, price = jg.settle(found, clearing), np.asarray(clearing.prices.cap)
    assert np.all(price >= -1e-6) and price.max() > 1.0
    people = float(np.asarray(bills.caps).sum() + np.asarray(bills.passive_caps).sum())
    level = np.asarray(clearing.plan.level)
    assert people == pytest.approx(float((price * level).sum()), rel=1e-6)
    heavy = _changed(found, prosumers__load=found.prosumers.load.at[0].add(0.1))
    paid = [jg.settle(m, clearing).caps[0] for m in (found, heavy)]
    weight = sum(
        (found.caps.weight[k] * price[found.caps.cap[k]])
        for k in np.flatnonzero((np.asarray(found.caps.quantity) == 5) & (found.caps.row == 0))
    )
    np.testing.assert_allclose(paid[1] - paid[0], 0.1 * weight, atol=1e-9)


def test_loads_move_the_bound_with_them():
    """Derivatives by loads, active and reactive, against clearings of other loads."""
    _, found, _, _ = tight()
    rng = np.random.default_rng(0)
    turn = {name: rng.normal(size=found.prosumers.load.shape) for name in ("load", "reactive")}

    def cost(market: jg.Market) -> Any:
        clearing = jg.clear(market, tol=1e-10)
        return jnp.sum(clearing.prices.cap * market.caps.level_max)

    slope = eqx.filter_grad(cost)(found).prosumers
    step = 1e-5

    def ahead(sign: float) -> jg.Market:
        people = {f"prosumers__{n}": getattr(found.prosumers, n) + sign * step * turn[n]
                  for n in turn}  # fmt: skip
        return _changed(found, **people)

    expected = (cost(ahead(1)) - cost(ahead(-1))) / (2 * step)
    told = sum(float(np.vdot(getattr(slope, name), way)) for name, way in turn.items())
    assert told == pytest.approx(float(expected), rel=1e-5)


def test_what_is_out_of_reach_is_named():
    base, _, _, most = tight()
    with pytest.raises(jg.NotCleared, match=r"cap 'unbalance at bus \d+, \d+ deg' in hour"):
        jg.clear(bounded(base, most / 20), runner="numpy")


def test_files_keep_it(tmp_path: Path):
    _, found, _, _ = tight()
    jg.save(tmp_path / "market", found)
    again, _ = jg.load(tmp_path / "market")
    assert (again.caps.names, again.caps.units) == (found.caps.names, found.caps.units)
    for one, other in zip(jax.tree.leaves(again.caps), jax.tree.leaves(found.caps), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_mistakes_are_named():
    base = market(1, 7, 2)
    phases = np.asarray(base.grid.phases)
    part = int(np.flatnonzero(~np.all(phases >= 0, axis=1))[0])
    name = base.grid.names[phases[part].max()]
    helped = _changed(base, grid__compensation_max=np.ones(base.grid.passive.shape))
    refused = {
        r"a grid 'lindistflow' has no phases": lambda: jg.caps.unbalance(jg.ieee37(), 0.02),
        r"most is 2; give a share .* 0.02 for 2 %": lambda: jg.caps.unbalance(base, 2.0),
        r"sides=2; give a whole number": lambda: jg.caps.unbalance(base, 0.02, sides=2),
        rf"bus {name} does not have all three": lambda: jg.caps.unbalance(base, 0.02, buses=[name]),
        r"inverters at bus \S+ may inject reactive": lambda: jg.caps.unbalance(helped, 0.02),
        r"buses: .*nowhere": lambda: jg.caps.unbalance(base, 0.02, buses=["nowhere"]),
    }
    for words, call in refused.items():
        with pytest.raises(ValueError, match=words):
            call()
    by_step = jg.caps.unbalance(base, [0.02, 0.03], buses=["0", "0.b", 0], sides=6)
    np.testing.assert_allclose(by_step.level_max, np.cos(np.pi / 6) * np.array([[0.02, 0.03]] * 6))
