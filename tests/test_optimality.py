"""The yardstick: it sees every fault, bounds every regret, and depends on no unit and no gauge."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import feasibility, model, optimality
from jaxgne.causes import explain_infeasible
from jaxgne.optimality import pin
from jaxgne.record import Record
from jaxgne.runner import built, to_host
from tests.markets import random_market
from tests.reference import solve

# By NumPy, which compiles nothing; that JAX finds the same tests/test_runner.py tells.
residuals = built(optimality.residuals)
implied_boxes = built(feasibility.implied_boxes)
infeasibility_proof = built(feasibility.infeasibility_proof)


def importer(behavior: float = 0.0) -> jg.Market:
    """3 kW of load, 0.30 EUR/kWh from the main grid at any quantity, own power at 0.10 EUR/kWh."""
    return jg.Market(
        jg.Prosumers([0], [[3.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.30, anticipation=behavior),
        jg.Generators([0], 5.0, hours=1, linear=0.10),
    )


def randomly(market: jg.Market, seed: int) -> tuple[jg.Plan, jg.Rows]:
    """A plan inside its boxes and prices of any sign, both random."""
    rng = np.random.default_rng(seed)
    lower, upper = implied_boxes(market)
    plan = jax.tree.map(
        lambda low, high: jnp.asarray(low + (high - low) * rng.uniform(size=low.shape)),
        *to_host((lower, upper)),
    )
    prices = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), model.rows_like(market))
    return plan, prices


def test_gap_is_what_deviating_saves():
    """All 3 kW imported: making them saves (0.30 - 0.10) 3 = 0.60 EUR, whatever the own price."""
    market = importer()
    plan = replace(model.zeros(market), imports=jnp.asarray([[3.0]]))
    for price in (0.10, 0.20, 0.30):
        prices = replace(model.rows_like(market), balance=jnp.asarray([[price]]))
        gap = residuals(market, plan, prices).gap
        assert gap[0] >= 0.60 - 1e-12
    own = replace(model.rows_like(market), balance=jnp.asarray([[0.10]]))
    assert residuals(market, plan, own).gap[0] == pytest.approx(0.60, abs=1e-12)


def test_anticipation_makes_the_gap_an_upper_bound():
    """Slope d: own effect held at kappa d/2 p^2, so gap = cost + d/2 p^2 - least of the same."""
    market = eqx.tree_at(lambda m: m.tariff.slope, importer(1.0), jnp.asarray([0.02]))
    plan = replace(model.zeros(market), imports=jnp.asarray([[3.0]]))
    prices = replace(model.rows_like(market), balance=jnp.asarray([[0.10]]))
    # price 0.36 held: imports are worth 0.10, so none: 0.36*3 + 0.01*9 - 0.10*3 = 0.87
    assert residuals(market, plan, prices).gap[0] == pytest.approx(0.87, abs=1e-12)
    made = replace(model.zeros(market), generation=jnp.asarray([[3.0]]))
    true_regret = model.costs(market, plan)[0] - model.costs(market, made)[0]
    assert true_regret <= 0.87


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6])
def test_oracle_answers_have_no_error(seed):
    market = random_market(seed)
    answer = solve(market)
    assert answer.status == "solved"
    found = jg.certify(market, answer.plan, answer.prices)
    assert float(found.error) < 1e-5


@pytest.mark.parametrize("field", [f.name for f in model.Plan.__dataclass_fields__.values()])
def test_every_entry_of_a_plan_counts(field):
    """Moving any one entry of an equilibrium by 1 % of its scale shows."""
    market = random_market(3, grid="paper")
    if field in ("level", "rise", "spare"):
        market = jg.capped(market, jg.caps.demand_charge(market, 0.5))
    answer = solve(market)
    entry = getattr(answer.plan, field)
    if not entry.size:
        pytest.skip(f"this market has no {field}")
    scale = float(jnp.max(jnp.abs(market.prosumers.load)))
    step = 0.01 if field in ("voltage", "angle") else 0.01 * scale
    before = jg.certify(market, answer.plan, answer.prices).error
    for sign in (1, -1):
        moved = replace(answer.plan, **{field: entry.at[0, 0].add(sign * step)})
        assert jg.certify(market, moved, answer.prices).error > before + 1e-4


@given(st.integers(0, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(max_examples=6, deadline=None)
def test_error_depends_on_no_unit(seed, money, power):
    """Other currency (prices times c) and other power unit (kW times k): the same error."""
    market = random_market(seed)
    plan, prices = randomly(market, seed)
    rescaled = rescale(market, money, power)
    squeeze = ("voltage", "angle")
    moved = replace(
        jax.tree.map(lambda a: a * power, to_host(plan)),
        **{name: getattr(plan, name) for name in squeeze},
    )
    # a voltage row's multiplier is EUR/kWh times kW per pu
    charged = replace(
        jax.tree.map(lambda a: a * money / power, to_host(prices)),
        **{name: getattr(prices, name) * money for name in squeeze},
    )
    before, after = (
        residuals(market, plan, prices),
        residuals(rescaled, moved, charged),
    )
    assert float(after.error) == pytest.approx(float(before.error), rel=1e-8)
    assert np.allclose(after.gap, money * before.gap, rtol=1e-7, atol=1e-9 * money)


def rescale(market: jg.Market, money: float, power: float) -> jg.Market:
    """The same market in a currency and a power unit that are smaller by these factors."""

    def times(table: Record, **factors: float) -> Record:
        names = list(factors)
        return eqx.tree_at(
            lambda t: [getattr(t, n) for n in names],
            table,
            [np.asarray(getattr(table, n)) * factors[n] for n in names],
        )

    per = money / power  # EUR/kWh
    curve = money / power**2  # EUR/kW^2h
    m = market
    return eqx.tree_at(
        lambda m: (m.prosumers, m.generators, m.buffers, m.trading, m.grid, m.tariff),
        m,
        (
            times(
                m.prosumers,
                load=power,
                reactive=power,
                import_max=power,
                export_max=power,
                curtail_max=power,
            ),
            times(m.generators, power_min=power, power_max=power, quadratic=curve, linear=per),
            times(
                m.buffers,
                charge_max=power,
                discharge_max=power,
                energy_min=power,
                energy_max=power,
                energy_start=power,
                drain=power,
                quadratic=curve,
                linear=per,
                final_value=per,
            ),
            times(
                m.trading,
                limit=power,
                fee_buyer=per,
                fee_seller=per,
                toll=per,
                quadratic=curve,
            ),
            times(
                m.grid,
                resistance=1 / power,
                reactance=1 / power,
                rating=power,
                passive=power,
                passive_reactive=power,
                compensation_max=power,
            ),
            times(m.tariff, base=per, slope=curve, export=per, total_min=power, total_max=power),
        ),
    )


@given(st.integers(0, 50), st.floats(-5, 5))
@settings(max_examples=8, deadline=None)
def test_nothing_depends_on_the_free_constant(seed, constant):
    """(mu_pb + c, pi - c, mu_tg - c) is the same answer: same certificate, same pinned prices."""
    market = random_market(seed, grid="lindistflow")
    plan, prices = randomly(market, seed)
    shifted = replace(
        prices,
        bus=prices.bus + constant,
        balance=prices.balance - constant,
        exchange=prices.exchange - constant,
    )
    first, second = jg.certify(market, plan, prices), jg.certify(market, plan, shifted)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(
        jax.tree.leaves(pin(market, prices)), jax.tree.leaves(pin(market, shifted)), strict=True
    ):
        assert np.allclose(a, b, atol=1e-12)


@given(st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_no_ray_proves_a_feasible_market_infeasible(seed):
    market = random_market(seed % 40)
    if solve(market).status != "solved":
        return
    _, ray = randomly(market, seed)
    assert float(infeasibility_proof(market, ray)) <= 1e-12


def test_a_ray_proves_an_infeasible_market():
    """3 kW of load, 1 kW from the main grid, 1 kW own: a positive own price is the proof."""
    market = eqx.tree_at(
        lambda m: (m.prosumers.import_max, m.generators.power_max),
        importer(),
        (jnp.asarray([[1.0]]), jnp.asarray([[1.0]])),
    )
    ray = replace(model.rows_like(market), balance=jnp.asarray([[1.0]]))
    # y (3 - 1 - 1) = 1 of |3| + |1| + |1|
    assert float(infeasibility_proof(market, ray)) == pytest.approx(0.2)
    assert "Prosumers row 0 in hour 0" in explain_infeasible(market, ray)


@given(st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_implied_bounds_hold_for_feasible_plans(seed):
    market = random_market(seed)
    answer = solve(market)
    if answer.status != "solved":
        return
    lower, upper = implied_boxes(market)
    for u, low, high in zip(*map(jax.tree.leaves, (answer.plan, lower, upper)), strict=True):
        assert np.all(np.isfinite(low)) and np.all(np.isfinite(high))
        size = 1e-6 * (1 + np.abs(u))
        assert np.all(u >= low - size) and np.all(u <= high + size)


@pytest.mark.parametrize(
    "grid",
    ["lindistflow", *(pytest.param(g, marks=pytest.mark.slow) for g in ("copperplate", "paper"))],
)
def test_the_yardstick_has_finite_derivatives(grid):
    """At a plan of zeros, where norms and |trades| have kinks."""
    market = random_market(1, grid=grid)
    plan, prices = model.zeros(market), model.rows_like(market)

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(given):
        market, plan = given
        return optimality.residuals(market, plan, prices).error

    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(slope((market, plan))))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_limit_on_the_total_is_measured_by_itself(sign):
    """1e-4 kW beyond a limit of 1 kW, beside a load and a generator of 1e4 kW, are 1e-5 off."""
    limit = {"total_max": 1.0} if sign > 0 else {"total_min": -1.0}
    market = jg.Market(
        jg.Prosumers([0, 0], [[1e4], [0.0]], import_max=2e4, export_max=2e4),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.3, **limit),
        jg.Generators([1], 2e4, hours=1, linear=0.10),
    )
    made = jnp.full((1, 1), 1e4 - sign * (1 + 1e-4))
    plan = replace(
        model.zeros(market),
        imports=jnp.array([[1e4], [0.0]]),
        exports=jnp.concatenate([jnp.zeros((1, 1)), made]),
        generation=made,
    )
    found = optimality.residuals(market, plan, model.rows_like(market))
    assert np.isclose(found.infeasibility, 1e-5, rtol=1e-6)


def test_judged_in_float64_whatever_the_market():
    """A float32 market is judged as the float64 market with the same numbers."""
    market = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, random_market(5)
    )
    wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, market)
    plan, prices = randomly(wide, 0)
    judged = jax.jit(optimality.residuals)
    assert judged(market, plan, prices).error == judged(wide, plan, prices).error
