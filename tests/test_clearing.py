"""Clearing: hand-solved markets, statuses, transformations, and the oracle on random markets."""

import gc
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import clearing as clears
from jaxgne import solve as module
from jaxgne.causes import explain_infeasible
from jaxgne.model import net_load
from tests.agreement import check_signs
from tests.three_buses import feeder


def neighbors(load: float = 3.0) -> jg.Market:
    """A consumer and a generator owner (0.10 + 0.04 p EUR/kWh) who may trade; two hours.

    Nobody may import: the price is the generator's.
    """
    hours = 2
    return jg.Market(
        jg.Prosumers([0, 0], [[load] * hours, [0.0] * hours], import_max=0.0),
        jg.Grid(np.zeros((1, hours)), model="copperplate"),
        jg.Tariff(0.01, hours=hours, base=0.5),
        jg.Generators([1], 5.0, hours=hours, quadratic=0.02, linear=0.10),
        trading=jg.Trading([0], [1], 10.0, toll=0.01, fee_buyer=0.02, fee_seller=0.02),
    )


def test_seller_is_paid_marginal_cost():
    """3 kW are made at 0.10 + 0.04 3 = 0.22; the buyer pays both charges: 0.22 + 2 0.01 = 0.24.

    mu_tr = (0.22 + 0.24 - 0.04) / 2 = 0.21: what the trade costs beyond the fees.
    """
    market = neighbors()
    clearing = jg.clear(market, tol=1e-10)
    assert bool(clearing.ok)
    assert jnp.allclose(clearing.plan.generation, 3.0, atol=1e-7)
    assert jnp.allclose(clearing.plan.trades, 3.0, atol=1e-7)
    assert jnp.allclose(clearing.prices.balance[1], 0.22, atol=1e-7)
    assert jnp.allclose(clearing.prices.balance[0], 0.24, atol=1e-7)
    assert jnp.allclose(jg.model.trade_prices(market, clearing.prices), 0.21, atol=1e-7)


@pytest.mark.parametrize(("anticipation", "price"), [(0.0, 0.8), (1.0, 1.1)])
def test_own_effect_on_the_price_is_anticipated_or_not(anticipation, price):
    """Two buy 30 kW each at 0.2 + 0.01 sigma: Wardrop values 0.8, Nash 0.8 + 0.01 30 = 1.1."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[30.0], [30.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.2, anticipation=anticipation),
    )
    clearing = jg.clear(market, tol=1e-10)
    assert jnp.allclose(clearing.prices.balance, price, atol=1e-8)
    assert jnp.allclose(clearing.costs, 0.8 * 30.0, atol=1e-6)


SLOW = [pytest.param(grid, marks=pytest.mark.slow) for grid in ("copperplate", "paper")]


@pytest.mark.parametrize("grid", ["lindistflow", *SLOW])
def test_voltages_and_flows_follow_from_the_plan(grid):
    """The flow into the last bus is what is drawn there; lindistflow: w falls by 2 (r p + x q)."""
    market = feeder(grid)
    plan = jg.clear(market, tol=1e-9).plan
    drawn = net_load(market, plan)[0] + market.grid.passive[2]
    if grid == "copperplate":
        assert not np.any(plan.active)
        return
    assert jnp.allclose(plan.active[1], drawn, atol=1e-4)
    reactive = market.prosumers.reactive[0]
    assert jnp.allclose(plan.reactive[1], reactive, atol=1e-4)
    low, high = plan.voltage[2], plan.voltage[1]
    factor = 2 if grid == "lindistflow" else 1
    fall = factor * (2e-5 * plan.active[1] + 1e-5 * plan.reactive[1])
    assert jnp.allclose(high - low, fall, atol=1e-8)
    volts = jg.model.voltages(market, plan)
    assert np.all((volts < 1.0)[1:]) and np.all(volts > 0.9)


FAULTS = {
    "aggregate": (lambda m: m.tariff.total_max, jnp.full(4, 20.0), "Tariff.total_max in hour"),
    "line": (lambda m: m.grid.rating, jnp.asarray([200.0, 5.0]), "Grid.rating of line 1"),
    "voltage": (lambda m: m.grid.voltage_min, jnp.full(3, 0.9999), "voltage_min"),
    "deficit": (
        lambda m: (m.prosumers.import_max, m.trading.limit),
        (jnp.asarray([[np.inf] * 4, [np.inf] * 4]).at[0].set(10.0), jnp.asarray([[5.0]])),
        "Prosumers row 0 in hour",
    ),
    "storage": (lambda m: m.buffers.drain, jnp.full((1, 4), 12.0), "Buffers row 0 (prosumer"),
}


@pytest.mark.parametrize("solver", [jg.PrimalDual(), jg.InteriorPoint()])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_infeasible_market_ends_as_such_and_names_the_limit(fault, solver):
    where, value, words = FAULTS[fault]
    market = eqx.tree_at(where, feeder(), value)
    with pytest.raises(jg.NotCleared, match="infeasible") as caught:
        jg.clear(market, solver)
    assert words in str(caught.value)
    assert jg.status.status_name(caught.value.clearing.status) == "infeasible"
    again = jg.clear(market, solver, throw=False)
    assert words in explain_infeasible(market, again.prices)
    assert "infeasible" in str(again)


@pytest.mark.parametrize(("solver", "least"), [(jg.PrimalDual(), 40), (jg.InteriorPoint(), 1)])
def test_a_step_limit_is_reported(solver, least):
    with pytest.raises(jg.NotCleared, match=f"max_steps after {least} steps"):
        jg.clear(feeder(), solver, max_steps=1)
    stopped = jg.clear(feeder(), solver, max_steps=1, throw=False)
    assert not bool(stopped.ok)
    assert int(stopped.steps) == least


def test_arrays_of_numpy_are_cleared_judged_and_explained():
    """As a scenario of a batch holds them."""
    market = jax.tree.map(np.asarray, neighbors())
    clearing = jax.tree.map(np.asarray, jg.clear(market))
    error = float(jg.certify(market, clearing.plan, clearing.prices).error)
    assert error == pytest.approx(float(clearing.certificate.error), abs=1e-12)
    with pytest.raises(jg.NotCleared, match="infeasible"):
        jg.clear(jax.tree.map(np.asarray, neighbors(99.0)))


@jax.jit
@jax.vmap
def cleared_with(load: jax.Array, rating: jax.Array) -> jg.Clearing:
    """One program for all tests of traced clears, which take three lanes."""
    return jg.clear(
        eqx.tree_at(lambda m: (m.prosumers.load, m.grid.rating), feeder(), (load, rating))
    )


def ratings() -> jax.Array:
    return jnp.stack([feeder().grid.rating] * 3)


def test_a_nan_never_comes_back_silently():
    """Given: refused, or traced its status. Made, as 1e200 squared has no number: its status."""

    def with_load(value: float) -> jg.Market:
        load = feeder().prosumers.load.at[1, 2].set(value)
        return eqx.tree_at(lambda m: m.prosumers.load, feeder(), load)

    with pytest.raises(ValueError, match=r"Prosumers.load row 1, hour 2: nan is not a finite"):
        jg.clear(with_load(jnp.nan), throw=False)
    three = jnp.stack([with_load(value).prosumers.load for value in (15.0, jnp.nan, 15.0)])
    traced = jg.status.is_status(cleared_with(three, ratings()).status, jg.Status.nonfinite)
    assert traced.tolist() == [False, True, False]
    clearing = jg.clear(with_load(1e200), throw=False)
    assert jg.status.status_name(clearing.status) == "nonfinite"
    with pytest.raises(jg.NotCleared, match="validate"):
        jg.clear(with_load(1e200))


def test_nonsense_is_refused_before_any_computation():
    market = feeder()
    broken = eqx.tree_at(lambda m: m.prosumers.bus, market, jnp.asarray([2, 7]))
    with pytest.raises(ValueError, match="bus 7"):
        jg.clear(broken)


def test_tolerances_below_the_dtype_are_refused():
    with pytest.raises(ValueError, match="ask for 1e-11 or more"):
        jg.clear(feeder(), tol=1e-14)
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, feeder()
    )
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jg.clear(single, tol=1e-8)


def test_float32_clears_to_its_tolerance():
    """The same equilibrium to 1e-3 kW of 60; certificate within 1e-4, judged in float64."""
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, feeder()
    )
    narrow, wide = jg.clear(single), jg.clear(feeder(), runner="numpy")
    assert narrow.plan.imports.dtype == jnp.float32
    assert float(narrow.certificate.error) <= 1e-4
    assert jnp.allclose(narrow.aggregate, wide.aggregate, atol=0.05)
    assert jnp.allclose(narrow.prices.balance, wide.prices.balance, atol=1e-3)


def test_large_markets_go_through_float32(monkeypatch):
    """The fine answer of a market that float32 begins; and a coarse one, which float32 gives."""
    market = jg.synthetic(140, hours=2, seed=1)
    plain = jg.clear(market, runner="jax")
    kept, roughly = [], clears._roughly

    def told(*arguments):
        kept.append(roughly(*arguments))
        return kept[-1]

    monkeypatch.setattr(clears, "_LARGE", 1)
    monkeypatch.setattr(clears, "_roughly", told)
    fine = jg.clear(market, runner="jax")
    assert 1e-6 < kept[0].certificate.error <= 1.1e-4 and kept[0].steps < fine.steps
    assert fine.plan.imports.dtype == jnp.float64 and fine.certificate.error <= 1e-6
    np.testing.assert_allclose(fine.costs, plain.costs, rtol=1e-4, atol=1e-4)
    coarse = jg.clear(market, tol=2e-4, runner="jax")
    assert coarse.steps == kept[1].steps and coarse.ok
    assert coarse.plan.imports.dtype == jnp.float64 and coarse.certificate.error <= 2e-4


def test_jit_and_vmap_equal_a_loop():
    market = feeder()
    loads = market.prosumers.load * jnp.asarray([0.8, 1.0, 1.1])[:, None, None]

    def at(load: jax.Array) -> jg.Clearing:
        return jg.clear(eqx.tree_at(lambda m: m.prosumers.load, market, load))

    batch = cleared_with(loads, ratings())
    assert batch.plan.imports.shape == (3, 2, 4)
    assert str(batch).startswith("Clearing of 3 scenarios")
    for scenario in range(3):
        alone = at(loads[scenario])
        assert bool(batch.ok[scenario])
        assert int(alone.steps) == int(batch.steps[scenario])
        for a, b in zip(jax.tree.leaves(alone.plan), jax.tree.leaves(batch.plan), strict=True):
            assert jnp.allclose(a, b[scenario], atol=1e-8)


def test_one_bad_lane_does_not_end_a_batch():
    loads = jnp.stack([feeder().prosumers.load] * 3)
    batch = cleared_with(loads, ratings().at[1, 1].set(5.0))
    ended = [jax.tree.map(lambda a, k=k: a[k], batch.status) for k in range(3)]
    names = [jg.status.status_name(status) for status in ended]
    assert names == ["cleared", "infeasible", "cleared"]


@pytest.mark.parametrize("large", [False, True])
def test_other_numbers_do_not_recompile(large, monkeypatch):
    """Same shapes, other loads, tolerance, step limit, tariff: one compilation of each part."""
    monkeypatch.setattr(module, "is_quick", lambda _: not large)
    parts = (module.begin, module._steps, module._point if large else module.finish)
    market = feeder()
    jg.clear(market, jg.PrimalDual(), throw=False, max_steps=200)
    before = [len(part._found) for part in parts]
    other = eqx.tree_at(
        lambda m: (m.prosumers.load, m.tariff.slope, m.tariff.anticipation, m.grid.rating),
        market,
        (
            market.prosumers.load * 1.01,
            market.tariff.slope * 2,
            jnp.asarray(0.5),
            market.grid.rating * 1.1,
        ),
    )
    jg.clear(other, jg.PrimalDual(), throw=False, tol=1e-3, max_steps=300)
    jg.clear(other, jg.PrimalDual(sufficient=0.3), throw=False, tol=1e-4, max_steps=400)
    assert [len(part._found) for part in parts] == before


@pytest.mark.parametrize("runner", ["numpy", "jax"])
@pytest.mark.parametrize("most", [None, 2])
def test_the_certificate_is_of_the_answer(runner, most):
    """What ends a solve is its error alone; the rest is judged once, of what is returned."""
    market = feeder()
    found = jg.clear(market, jg.InteriorPoint(), runner=runner, max_steps=most, throw=False)
    judged = jg.certify(market, found.plan, found.prices)
    for one, other in zip(*map(jax.tree.leaves, (found.certificate, judged)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", [jg.PrimalDual(), jg.InteriorPoint()])
def test_large_markets_are_cleared_alike(solver, monkeypatch):
    """NumPy writes their answer: as JAX does."""
    market = feeder()
    whole = jg.clear(market, solver, runner="jax")
    short = jg.clear(market, solver, runner="jax", max_steps=1, throw=False)
    monkeypatch.setattr(module, "is_quick", lambda _: False)
    for want, most in ((whole, None), (short, 1)):
        found = jg.clear(market, solver, runner="jax", max_steps=most, throw=False)
        assert int(found.steps) == int(want.steps) and found.runner == "jax"
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            assert (one.shape, one.dtype, type(one)) == (other.shape, other.dtype, type(other))
        np.testing.assert_allclose(found.plan.imports, want.plan.imports, atol=1e-7)
        assert float(found.certificate.error) == pytest.approx(float(want.certificate.error), 1e-4)


def test_a_warm_start_needs_no_steps_to_speak_of():
    market = feeder()
    first = jg.clear(market, jg.PrimalDual())
    again = jg.clear(market, jg.PrimalDual(), start=first)
    assert int(again.steps) < int(first.steps) / 2
    assert jnp.allclose(again.aggregate, first.aggregate, atol=1e-3)


def test_progress_reports_while_it_runs():
    seen = []
    clearing = jg.clear(feeder(), progress=seen.append)
    assert seen[-1].steps == int(clearing.steps)
    assert [p.steps for p in seen] == sorted({p.steps for p in seen})
    assert seen[-1].error == pytest.approx(float(clearing.certificate.error))
    alone = jg.clear(feeder())
    assert int(alone.steps) == int(clearing.steps)


def test_between_looks_a_solve_holds_its_state_once():
    """Of large markets it is most of what there is; who keeps an earlier one doubles it."""

    def held() -> int:
        return sum(isinstance(each, module.Carry) for each in gc.get_objects())

    gc.collect()
    before, seen = held(), []
    jg.clear(feeder(), jg.PrimalDual(), progress=lambda _: seen.append(held() - before))
    assert seen and set(seen) == {1}


@pytest.mark.parametrize(
    ("solver", "looks"),
    [(jg.PrimalDual(), 50), pytest.param(jg.InteriorPoint(), 30, marks=pytest.mark.slow)],
)
def test_trace_is_the_path_of_clear(solver, looks):
    market = feeder()
    curve = jg.trace(market, solver, steps=looks * solver.every, every=solver.every)
    clearing = jg.clear(market, solver)
    at = int(clearing.steps) // solver.every - 1
    assert np.all(np.isfinite(curve.error))
    assert float(curve.error[at]) == pytest.approx(float(clearing.certificate.error), rel=1e-3)
    assert np.all(curve.error[:at] > 1e-6)


def test_a_shifted_start_changes_nothing_a_user_sees():
    """Prices of a start may stand on any gauge: c added to mu_tg and taken from pi."""
    market = feeder()
    first = jg.clear(market)
    shifted = replace(
        first.prices,
        exchange=first.prices.exchange - 0.7,
        balance=first.prices.balance - 0.7,
        bus=first.prices.bus + 0.7,
    )
    moved = eqx.tree_at(lambda c: c.prices, first, shifted)
    one, two = jg.clear(market, start=first), jg.clear(market, start=moved)
    seen = [
        (c.plan, c.prices, c.costs, c.aggregate, c.steps, c.certificate.error) for c in (one, two)
    ]
    for a, b in zip(
        *map(jax.tree.leaves, seen), strict=True
    ):  # places of rounding errors may differ
        assert jnp.allclose(a, b, atol=1e-9)
    assert not np.any(two.prices.exchange)


def test_printing_says_the_status_first():
    clearing = jg.clear(feeder())
    text = str(clearing)
    assert text.startswith("cleared after")
    assert "EUR by deviating" in text
    assert str(jg.clear(feeder(), max_steps=2, throw=False)).startswith("max_steps after 2 ")


def test_certificate_is_that_of_plan_and_prices():
    market = feeder()
    clearing = jg.clear(market)
    again = jg.certify(market, clearing.plan, clearing.prices)
    assert float(again.error) == pytest.approx(float(clearing.certificate.error), rel=1e-9)
    assert float(again.error) <= 1e-6


@pytest.mark.parametrize("grid", ["lindistflow", *SLOW])
def test_first_order_conditions_hold(grid):
    """c + 2 q p = pi + mu_pb, p0 + d (sigma + kappa p_mg) + lambda + mu_tg = pi, and
    c_tr + c_ta + mu_tr = pi strictly inside the bounds (model.md: Prices)."""
    market = feeder(grid)
    clearing = jg.clear(market, tol=1e-10)
    assert check_signs(market, clearing.plan, clearing.prices, atol=1e-5)
    assert not np.any(clearing.prices.bus[market.grid.feeder])  # exact: left out of the iteration


@pytest.mark.parametrize("share", [0.999, 0.5])
def test_reactive_power_alone_may_be_too_much(share):
    """A line that carries what is drawn behind it of reactive power, all but none, or less."""
    market = feeder()
    clearing = jg.clear(market, jg.InteriorPoint(reactive=True))
    most = float(np.abs(np.asarray(clearing.plan.reactive[1])).max())
    assert most > 0
    rating = market.grid.rating.at[1].set(share * most)
    tight = eqx.tree_at(lambda m: m.grid.rating, market, rating)
    found = jg.clear(tight, jg.InteriorPoint(), throw=False)
    assert jg.status.status_name(found.status) == "infeasible"
    assert int(found.steps) <= 6
    assert "Grid.rating of line 1" in explain_infeasible(tight, found.prices)


def test_given_reactive_flows_change_nothing():
    """Found by the method or taken from the loads: the same equilibrium, prices and certificate."""
    market = jg.ieee37(stress=True)
    found = jg.clear(market, jg.InteriorPoint(reactive=True), tol=1e-8)
    given = jg.clear(market, jg.InteriorPoint(), tol=1e-8)
    for name in ("imports", "active", "reactive", "voltage"):
        a, b = getattr(found.plan, name), getattr(given.plan, name)
        np.testing.assert_allclose(a, b, atol=1e-4)
    price = float(given.certificate.scales.price)
    for name in ("balance", "bus", "bus_reactive", "voltage"):
        a, b = getattr(found.prices, name), getattr(given.prices, name)
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max() + price))
