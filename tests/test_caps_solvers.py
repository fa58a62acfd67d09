"""Limits that many share, by every solver that knows them: against the oracle, and by hand."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.feasibility import infeasibility_proof
from jaxgne.runner import by_numpy, to_host
from jaxgne.status import status_name
from jaxgne.tables import Caps
from tests.agreement import check_agreement
from tests.markets import GRIDS, SHAPES, levels, random_caps, random_market
from tests.reference import Reference, solve, violations

SOLVERS: dict[str, tuple[Any, float, int | None]] = {
    "interior point": (jg.InteriorPoint(), 1e-7, None),
    "primal-dual": (jg.PrimalDual(), 1e-7, 100_000),
    "mechanism": (jg.SemiDecentralized(), 1e-6, 40_000),
}
IMPORTS, EXPORTS, GENERATION, CHARGE, DISCHARGE = range(5)
SLOW = pytest.mark.slow


def home(load: Any, *, hour_length: float = 1.0, **tables: Any) -> jg.Market:
    """One prosumer on one bus, who takes a price of 0.1 EUR/kWh that does not rise."""
    load = np.atleast_2d(load)
    hours = load.shape[1]
    return jg.Market(
        jg.Prosumers([0], load),
        jg.Grid(np.zeros((1, hours)), model="copperplate"),
        jg.Tariff(0.0, hours=hours, base=0.1),
        hour_length=hour_length,
        **tables,
    )


def capped(market: jg.Market, **caps: Any) -> jg.Market:
    """The market with one table of caps."""
    table = Caps(**({"level_max": [np.inf], "hours": market.prosumers.load.shape[1]} | caps))
    return eqx.tree_at(lambda m: m.caps, market, table)


def changed(market: jg.Market, **fields: Any) -> jg.Market:
    """The market with other numbers in fields of its caps."""
    for name, value in fields.items():
        market = eqx.tree_at(lambda m, name=name: getattr(m.caps, name), market, jnp.asarray(value))
    return market


def cleared(market: jg.Market, tol: float = 1e-9) -> jg.Clearing:
    return jg.clear(market, jg.InteriorPoint(), tol=tol, runner="numpy")


# By hand


@pytest.mark.parametrize("battery_cost", [0.02, 0.1])
def test_a_demand_charge_is_paid_on_the_peak(battery_cost: float):
    """0.3 EUR per kW of the peak of 2 and 6 kW, in half-hours; a battery's two ways cost q x^2 each.

    Moving x kW to the first saves 0.3 x and costs Ts 2 q x^2: x = 0.3 / (4 Ts q), at most 2, where
    both are the peak. The peak's price is on whoever makes it: 0.3 EUR per kW in all.
    """
    ts, price = 0.5, 0.3
    battery = jg.Buffers([0], 9.0, 9.0, 9.0, 0.0, hours=2, quadratic=battery_cost)
    market = capped(
        home([2.0, 6.0], hour_length=ts, buffers=battery),
        rise_min=0.0, rise_max=[[np.inf, 0.0]], carry=1.0, slack=np.inf, price=price, adds=[0],
        owner=[0], cap=[0], kind=[IMPORTS], row=[0],
    )  # fmt: skip
    clearing = cleared(market)
    moved = min(price / (4 * ts * battery_cost), 2.0)
    assert np.allclose(clearing.plan.imports, [[2 + moved, 6 - moved]], atol=1e-6)
    assert np.allclose(clearing.plan.level, 6 - moved, atol=1e-6)
    bill = ts * (0.1 * 8 + 2 * battery_cost * moved**2) + price * (6 - moved)
    assert float(clearing.costs[0]) == pytest.approx(bill, abs=1e-7)
    first = (price - 4 * ts * battery_cost * moved) / 2  # what the second is dearer by is the use
    assert np.allclose(clearing.prices.cap, [[first, price - first]], atol=1e-6)


def test_a_ramp_has_a_price_in_both_of_its_hours():
    """Imports may rise by 3 kW a half-hour from 1 kW: 4 kW at most, 4 of 8 kW are made at 0.25.

    A kW of room in the second is worth 0.5 h (0.25 - 0.1), a kW more in the first as much.
    """
    unit = jg.Generators([0], 20.0, hours=2, linear=0.25)
    market = capped(
        home([1.0, 8.0], hour_length=0.5, generators=unit),
        rise_min=-3.0, rise_max=3.0, start=[1.0], carry=1.0, adds=[0],
        cap=[0], kind=[IMPORTS], row=[0],
    )  # fmt: skip
    clearing = cleared(market)
    assert np.allclose(clearing.plan.imports, [[1.0, 4.0]], atol=1e-6)
    assert np.allclose(clearing.plan.rise, [[0.0, 3.0]], atol=1e-6)
    assert np.allclose(clearing.prices.cap, [[-0.075, 0.075]], atol=1e-6)


def test_a_carbon_cap_makes_the_dirty_unit_dearer():
    """0.5 kg/kWh of a unit at 0.05, none of the grid at 0.1; 2 kg in a day of 2 x 4 h at 3 kW.

    4 kWh are made, the rest imported; a kg less costs (0.1 - 0.05) / 0.5 = 0.1 EUR. A leak of a
    quarter per step leaves room: the first step's kg count 0.75, and each kWh of it is as good.
    """
    unit = jg.Generators([0], 3.0, hours=2, linear=0.05)
    market = capped(
        home([3.0, 3.0], hour_length=4.0, generators=unit),
        level_max=[2.0], carry=1.0, cap=[0], kind=[GENERATION], row=[0], weight=0.5 * 4.0,
        names=("carbon",), units=("kg",),
    )  # fmt: skip
    clearing = cleared(market)
    assert float(clearing.plan.generation.sum()) == pytest.approx(1.0, abs=1e-6)  # kW: 4 kWh
    assert np.allclose(clearing.prices.cap, 0.1, atol=1e-6)
    leaky = cleared(changed(market, carry=[0.75], level_max=[[np.inf, 2.0]]))
    assert np.allclose(
        leaky.plan.generation, [[4 / 3, 0.0]], atol=1e-5
    )  # 2 kg / 0.75 / 2 kg per kW
    assert np.allclose(leaky.prices.cap, [[0.1, 0.1 / 0.75]], atol=1e-5)


# Against the oracle


def multipliers(market: jg.Market, prices: jg.Rows) -> dict[str, np.ndarray]:
    """Derivatives of the least potential by what caps are, from prices alone (EUR per unit).

    By the Lagrangian of the docstring's equations: of what is left of each level, rise and spare,
    a positive part is the price of its upper limit, a negative one that of its lower one.
    """
    caps = market.caps
    cap, level = np.asarray(prices.cap), np.asarray(prices.level)
    adds, carry = np.asarray(caps.adds)[:, None] == 1, np.asarray(caps.carry)[:, None]
    later = np.concatenate([level[:, 1:], 0 * level[:, :1]], axis=1)
    scarce = {
        "level": np.where(adds, 0, cap) - level + carry * later,
        "rise": np.where(adds, cap, 0) + level - np.asarray(caps.price)[:, None],
        "slack": -cap,
    }
    return {
        "base": cap,
        "start": -carry[:, 0] * level[:, 0],
        "level_max": -np.maximum(scarce["level"], 0),
        "level_min": np.maximum(-scarce["level"], 0),
        "rise_max": -np.maximum(scarce["rise"], 0),
        "rise_min": np.maximum(-scarce["rise"], 0),
        "slack": -np.maximum(scarce["slack"], 0).sum(axis=1),
    }


def check_prices(market: jg.Market, clearing: jg.Clearing, oracle: Reference, seed: int) -> None:
    """The potential, convex in all that caps are, lies above the plane that prices span.

    So to either side of here the oracle's is no less than they say: where it has no kink, they
    are its slopes.
    """
    rng, bill = np.random.default_rng(seed), float(clearing.certificate.scales.bill)
    slopes, step, told = multipliers(market, clearing.prices), {}, 0.0
    for name, slope in slopes.items():
        value = np.asarray(getattr(market.caps, name))
        step[name] = np.where(np.isfinite(value), rng.uniform(-0.1, 0.1, value.shape), 0.0)
        told += float(np.sum(np.where(np.isfinite(value), slope, 0.0) * step[name]))
        assert np.all(np.abs(slope[~np.isfinite(value)]) < 1e-5), name
    for sign in (1, -1):
        values = {name: getattr(market.caps, name) + sign * d for name, d in step.items()}
        there = solve(changed(market, **values))
        if there.status == "solved":  # else there is none: more than any plane
            assert there.potential >= oracle.potential + sign * told - 2e-6 * bill


def check_caps(market: jg.Market, clearing: jg.Clearing) -> None:
    """Levels and rises follow, step by step, from what members do, and stay within limits."""
    caps, plan = market.caps, jax.tree.map(np.asarray, clearing.plan)
    size = 1e-5 * (1 + np.abs(plan.level).max())
    names = ("imports", "exports", "generation", "charge", "discharge")
    counted = np.asarray(caps.base) + plan.spare
    for cap, kind, row, weight in zip(caps.cap, caps.kind, caps.row, caps.weight, strict=True):
        counted[cap] += np.asarray(weight) * getattr(plan, names[kind])[row]
    level, rise = levels(counted, *(np.asarray(a) for a in (caps.adds, caps.carry, caps.start)))
    for name, value in (("level", level), ("rise", rise)):
        assert np.allclose(getattr(plan, name), value, atol=size)
        assert np.all(value >= np.asarray(getattr(caps, f"{name}_min")) - size)
        assert np.all(value <= np.asarray(getattr(caps, f"{name}_max")) + size)
    assert max(violations(market, clearing.plan).values()) < 1e-5 * (
        1 + float(np.abs(market.prosumers.load).max())
    )


def at_once(function: Any, *given: Any) -> Any:
    """`function` by NumPy, which compiles nothing."""
    with by_numpy():
        return function(*to_host(given))


def check_random(seed: int, name: str = "interior point", runner: Any = None, **kind: Any) -> str:
    """One random market: it ends as the oracle says, with its potential, quantities and prices."""
    market = random_caps(random_market(seed, **kind), seed)
    solver, tol, most = SOLVERS[name]
    clearing = jg.clear(market, solver, tol=tol, max_steps=most, runner=runner, throw=False)
    oracle = solve(market)
    if oracle.status == "failed":
        return "oracle failed"
    ended = status_name(clearing.status)
    if ended == "max_steps" and most is not None:
        return ended
    assert ended == ("cleared" if oracle.status == "solved" else "infeasible")
    if ended == "infeasible":
        assert float(at_once(infeasibility_proof, market, clearing.prices)) > 0
        return ended
    found = at_once(jg.optimality.residuals, market, clearing.plan, clearing.prices)
    assert float(found.error) <= 1.01 * tol
    check_agreement(market, clearing, oracle)
    check_caps(market, clearing)
    check_prices(market, clearing, oracle, seed)
    return ended


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_random_caps_by_numpy(seed: int):
    check_random(seed, runner="numpy")


@pytest.mark.parametrize("name", ["primal-dual", pytest.param("interior point", marks=SLOW)])
def test_random_caps_by_programs(name: str):
    """Twenty of one shape; a program for each solver."""
    kind = {"shape": SHAPES[0], "grid": "copperplate"}
    ended = Counter(check_random(seed, name, "jax", **kind) for seed in range(20))
    assert min(ended["cleared"], ended["infeasible"]) > 3


@SLOW
def test_no_status_is_false_by_numpy(record_property: Any):
    """Some hundred random markets, of which enough end either way."""
    ended = Counter(check_random(seed, runner="numpy") for seed in range(1000, 1400))
    record_property("counts", dict(ended))
    assert min(ended["cleared"], ended["infeasible"]) > 100


@SLOW
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [0, 1, 3])
def test_no_status_is_false_by_programs(shape: int, grid: Any, name: str, record_property: Any):
    kind = {"shape": SHAPES[shape], "grid": grid}
    ended = Counter(check_random(seed, name, "jax", **kind) for seed in range(2000, 2080))
    record_property("counts", dict(ended))
    assert ended["cleared"] > 20
    assert ended["max_steps"] < 2
