"""The four functions of the model against first principles and the independent oracle."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.runner import built
from tests.markets import HAND_MADE, random_market
from tests.reference import solve

ORACLE_SEEDS = [3, 4, 6, 7, 10, 11]
rows, pseudo_gradient = jax.jit(model.rows), jax.jit(model.pseudo_gradient)
prox = built(model.prox)  # by NumPy: the shapes are many; that JAX finds the same see test_runner
PARAMETERS = pytest.mark.parametrize("name", HAND_MADE)


def random_plan(market: jg.Market, seed: int) -> jg.Plan:
    """Any plan, admissible or not."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 5, a.shape)), model.zeros(market))


def random_prices(market: jg.Market, seed: int) -> jg.Rows:
    """Any prices."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), model.rows_like(market))


def inner(first: Any, second: Any) -> float:
    """Sum of products over all entries."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return float(sum(np.sum(np.asarray(a) * np.asarray(b)) for a, b in pairs))


def assert_close(first: Any, second: Any, atol: float) -> None:
    """Every field equal to `atol`."""
    for name in model.families(first):
        a, b = getattr(first, name), getattr(second, name)
        assert np.allclose(a, b, atol=atol), name


@PARAMETERS
def test_rows_are_affine(name: str):
    market = HAND_MADE[name]()
    u, v = random_plan(market, 0), random_plan(market, 1)
    blend = rows(market, jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, u, v))
    parts = rows(market, u), rows(market, v)
    assert_close(blend, jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, *parts), 1e-10)


@PARAMETERS
def test_pull_is_the_transpose_of_rows(name: str):
    """<pull(y), u> = sum of y (rows(u) - rows(0)), a kW row counted Ts times, a kWh row once."""
    market = HAND_MADE[name]()
    plan, prices = random_plan(market, 2), random_prices(market, 3)
    moved = jax.tree.map(jnp.subtract, rows(market, plan), rows(market, model.zeros(market)))
    ts = market.hour_length
    weighted = replace(jax.tree.map(lambda y: ts * y, prices), energy=prices.energy)
    expected = inner(weighted, moved)
    assert inner(jax.jit(model.pull)(market, prices), plan) == pytest.approx(expected, rel=1e-10)


@PARAMETERS
def test_pseudo_gradient_is_each_players_own_marginal_cost(name: str):
    """d J_i / d u_i, less the own effect on the price that is not anticipated.

    Both sides own a trade, one as bought and one as sold: their derivatives add up; the kink
    2 c_ta |t| is left to `prox`.
    """
    market = HAND_MADE[name]()
    plan = random_plan(market, 4)
    jacobian = jax.jit(jax.jacrev(partial(model.costs, market)))(plan)  # (N, ...) a field
    everyone = np.arange(market.prosumers.bus.shape[0])
    owner = {
        **dict.fromkeys(["generation"], np.asarray(market.generators.owner)),
        **dict.fromkeys(["charge", "discharge", "energy"], np.asarray(market.buffers.owner)),
        **dict.fromkeys(["imports", "exports", "curtailed"], everyone),
    }
    found, ts = pseudo_gradient(market, plan), market.hour_length
    unseen = (1 - market.tariff.anticipation) * ts * market.tariff.slope * plan.imports
    kink = 2 * ts * market.trading.toll * jnp.sign(plan.trades)
    for name in model.families(plan):
        own = getattr(jacobian, name)
        if name in owner:
            players = owner[name]
            expected = own[players, np.arange(len(players))]
            expected = expected - unseen if name == "imports" else expected
        elif name == "trades":
            expected = own.sum(axis=0) - kink
        else:  # the operator has no cost
            expected = jnp.zeros_like(own[0])
        assert np.allclose(getattr(found, name), expected, atol=1e-11), name


@PARAMETERS
def test_pseudo_gradient_is_the_gradient_of_the_potential(name: str):
    market = HAND_MADE[name]()
    plan = random_plan(market, 5)
    slope = jax.jit(jax.grad(partial(model.potential, market)))(plan)
    kink = 2 * market.hour_length * market.trading.toll * jnp.sign(plan.trades)
    assert_close(replace(slope, trades=slope.trades - kink), pseudo_gradient(market, plan), 1e-11)


@pytest.mark.parametrize("seed", ORACLE_SEEDS)
def test_the_oracle_agrees_on_costs_rows_and_prices(seed: int):
    """Potential and J_i to 1e-9, rows and bounds to 1e-6 of the peak, and the prices price the
    plan: a projected step along the priced pseudo-gradient leads nowhere."""
    market = random_market(seed)
    found = solve(market)
    assert found.status == "solved"
    plan, scale = found.plan, float(np.abs(market.prosumers.load).max())
    assert float(model.potential(market, plan)) == pytest.approx(found.potential, rel=1e-9)
    assert np.allclose(model.costs(market, plan), found.costs, atol=1e-9 * scale)
    assert np.allclose(model.aggregate(market, plan), found.sigma, atol=1e-7 * scale)
    lower, upper = model.limits(market)
    held = zip(*map(jax.tree.leaves, (model.rows(market, plan), lower, upper)), strict=True)
    for row, low, high in held:
        assert np.all(row >= low - 1e-6 * scale)
        assert np.all(row <= high + 1e-6 * scale)
    assert np.allclose(model.trade_prices(market, found.prices), found.trade_prices, atol=1e-12)
    slope = jax.tree.map(
        jnp.add, model.pseudo_gradient(market, plan), model.pull(market, found.prices)
    )
    unit = jax.tree.map(jnp.ones_like, plan)
    moved = prox(market, jax.tree.map(jnp.subtract, plan, slope), unit)
    for name in model.families(plan):
        gone = np.abs(getattr(moved, name) - getattr(plan, name)).max(initial=0.0)
        assert gone < 2e-5 * scale, name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_flows_at_their_rating_stay_there_however_xla_rounds(dtype: str):
    """Their square is the rating's but for rounding, over it in one kernel and not in another.

    As the solver's loop is compiled: what was compared twice took some to a thousand times it.
    """
    rng = np.random.default_rng(0)
    rating = rng.uniform(100, 1000, (300, 1)).astype(dtype)
    angle = rng.uniform(0, 2 * np.pi, (300, 24))
    flows = [(rating * turn(angle)).astype(dtype) for turn in (np.cos, np.sin)]

    def shrunk(active, reactive, rating):
        active = jnp.maximum(active, -jnp.inf)
        shrink, _ = model.into_discs(active**2 + reactive**2, rating)
        return active * shrink, reactive * shrink

    options: Any = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": True}
    fast = jax.jit(shrunk).lower(*flows, rating).compile(compiler_options=options)
    np.testing.assert_allclose(np.hypot(*fast(*flows, rating)) / rating, 1, rtol=1e-6)
    inside, _ = model.into_discs(
        jnp.array([0.0, 1.0, 4.0, 0.0]), jnp.array([0.0, 0.0, 1.0, jnp.inf])
    )
    np.testing.assert_allclose(inside, [1.0, 0.0, 0.5, 1.0])


@given(st.integers(0, 40), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_prox_is_the_cheapest_admissible_point(seed: int, draw: int):
    """With F(u) = Ts sum 2 c_ta |t| + sum (u - wish)^2 / (2 step), strongly convex: for every
    admissible v, F(v) - F(prox) >= sum (v - prox)^2 / (2 step)."""
    market = random_market(seed)
    rng = np.random.default_rng(draw)
    wish = jax.tree.map(lambda a: 4 * a, random_plan(market, draw))
    step = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 50, a.shape)), wish)
    step = replace(step, reactive=step.active)
    best = prox(market, wish, step)
    assert_close(prox(market, best, jax.tree.map(lambda a: 0 * a, step)), best, 1e-12)

    def price(plan: jg.Plan, center: jg.Plan) -> float:
        gone = jax.tree.map(lambda u, w, s: (u - w) ** 2 / (2 * s), plan, center, step)
        return float(sum(jnp.sum(a) for a in jax.tree.leaves(gone)))

    def toll(plan: jg.Plan) -> float:
        volume = market.trading.toll * jnp.abs(plan.trades)
        return float(2 * jnp.sum(market.hour_length * volume))

    none = jax.tree.map(lambda a: 0 * a, step)
    for k in range(3):
        other = jax.tree.map(lambda a, k=k: a * 3.0**k, random_plan(market, draw + 1 + k))
        other = prox(market, other, none)  # any admissible plan
        gain = toll(other) + price(other, wish) - toll(best) - price(best, wish)
        assert gain >= price(other, best) - 1e-9 * (1 + price(other, wish))
