"""The primal-dual solver's step sizes: as long as they may be, whatever omega and active set."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgne as jg
from jaxgne import model
from jaxgne.solvers import preconditioner
from tests.markets import HAND_MADE


def random_balance(rng: np.random.Generator, like: preconditioner.Balance):
    """Balances between 0.01 and 100, each entry its own."""
    return jax.tree.map(lambda a: jnp.asarray(10 ** rng.uniform(-2, 2, a.shape)), like)


def ones(market: jg.Market) -> preconditioner.Balance:
    hours, stores = market.tariff.slope.shape, (market.buffers.owner.shape[0], 1)
    own = market.prosumers.load.shape
    return preconditioner.Balance(*(jnp.ones(size) for size in (own, hours, hours, stores)))


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize(
    "name",
    [
        n if n in ("many devices", "one bus") else pytest.param(n, marks=pytest.mark.slow)
        for n in HAND_MADE
    ],
)
def test_steps_never_overshoot(name, seed):
    """Sigma A tau A^T has no eigenvalue above 1: the condition for convergence."""
    market, rng = HAND_MADE[name](), np.random.default_rng(seed)
    buses = market.grid.passive.shape[0]
    none = preconditioner.nowhere(model.zeros(market))
    resting = jax.tree.map(lambda a: jnp.asarray(rng.random(a.shape) < 0.5), none)
    kept = ("energy", "active", "reactive", "voltage", "angle", "compensation", "exchange")
    resting = replace(resting, **{field: getattr(none, field) for field in kept})
    resting = resting if seed else none
    activity = preconditioner.activities(market, resting)
    geometry = preconditioner.metric(market, jnp.asarray(rng.random(buses) < 0.5 * seed))
    omega = random_balance(rng, ones(market)) if seed else ones(market)
    size = preconditioner.steps(market, geometry, omega, resting)
    tau = jax.tree.map(lambda t, a: jnp.where(a > 0, t, 0.0), size.plan, activity)
    nothing = (model.rows_like(market), jnp.zeros_like(market.tariff.slope))
    flat, tree = ravel_pytree(nothing)
    ts = market.hour_length

    def turn(y: jax.Array) -> jax.Array:
        prices, price = tree(y)
        pulled = model.pull(market, prices)
        # the link z = sum p_mg + b has its own price
        pulled = replace(pulled, imports=pulled.imports + ts * price)
        plan = jax.tree.map(jnp.multiply, tau, pulled)
        value = jax.tree.map(
            jnp.subtract, model.rows(market, plan), model.rows(market, model.zeros(market))
        )
        drawn = jnp.sum(plan.imports, axis=0) + size.total * ts * price
        moves = jax.tree.map(lambda a: size.network * a, geometry.network(market, value))
        stored = ((value.energy @ geometry.modes) * size.energy) @ geometry.modes.T
        moves = replace(
            moves,
            balance=size.balance * value.balance,
            energy=stored,
            aggregate=size.link * value.aggregate,
        )
        return ravel_pytree((moves, size.link * drawn))[0]

    matrix = np.asarray(jax.jit(jax.jacobian(turn))(jnp.zeros_like(flat)))
    worst = np.linalg.eigvals(matrix)
    assert np.abs(worst.imag).max() < 1e-6
    # lines without impedance condition the network's block badly
    assert worst.real.max() <= 1 + (1e-7 if name == "inverters" else 1e-9)
    assert worst.real.max() > 0.3  # nor are they timid


def test_squares_in_own_balances_are_those_of_the_steps():
    """Of powers, u^2 / tau over all columns is omega . squares over all own balances."""
    market, rng = HAND_MADE["many devices"](), np.random.default_rng(0)
    geometry = preconditioner.metric(market, jnp.zeros(market.grid.passive.shape[0], bool))
    plan = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), model.zeros(market))
    omega = jnp.asarray(10 ** rng.uniform(-2, 2, market.prosumers.load.shape))
    inverse = preconditioner.at_home(market, geometry, omega)
    counted = jax.tree.map(lambda u, i: jnp.sum(u**2 * i), plan, inverse)
    resting = preconditioner.nowhere(plan)
    nothing = jnp.zeros_like(market.tariff.slope)
    change = preconditioner.Point(plan, nothing, model.rows_like(market), nothing)
    primal, _ = preconditioner.squares(market, geometry, resting, change)
    assert np.isclose(jnp.sum(omega * primal.local), sum(jax.tree.leaves(counted)), rtol=1e-12)


def test_lengths_are_those_of_the_metric():
    """y = Sigma r has the squared length y . r in the network's part of the metric."""
    market, rng = HAND_MADE["feeder"](), np.random.default_rng(0)
    plan, names = model.zeros(market), ("bus", "bus_reactive", "voltage", "angle")
    prices = jax.tree.map(
        lambda a: jnp.asarray(rng.standard_normal(a.shape)), model.rows_like(market)
    )

    @jax.jit
    def lengths(prices: jg.Rows) -> tuple[jax.Array, jax.Array]:
        geometry = preconditioner.metric(market, jnp.zeros(market.grid.passive.shape[0], bool))
        value = geometry.network(market, prices)  # Sigma y: its squared length is y . Sigma y
        nothing = jnp.zeros_like(market.tariff.slope)
        change = preconditioner.Point(plan, nothing, value, nothing)
        resting = preconditioner.nowhere(plan)
        _, dual = preconditioner.squares(market, geometry, resting, change)
        inner = sum(jnp.sum(getattr(value, n) * getattr(prices, n), axis=0) for n in names)
        return dual.network, market.hour_length**2 * inner

    assert np.allclose(*lengths(prices), rtol=1e-9)


def test_a_column_at_rest_is_told_from_one_that_moves():
    market = HAND_MADE["feeder"]()
    lower, upper = model.boxes(market)
    before = model.prox(market, model.zeros(market), jax.tree.map(jnp.zeros_like, upper))
    inside = jnp.clip(before.imports + 1.0, lower.imports, upper.imports)
    found = preconditioner.rests(market, before, replace(before, imports=inside))
    assert not np.any(found.imports) and np.all(found.trades)
    activity = preconditioner.activities(market, found)
    assert np.all(activity.imports == 1.0)
    assert np.all(activity.trades == preconditioner.REST)


@pytest.mark.parametrize("name", ["many devices", "feeder", "inverters"])
def test_the_length_by_steps_is_that_of_all_groups(name):
    """Steps in float32 tell squared lengths to six digits, whatever rests and whatever bends."""
    market, rng = HAND_MADE[name](), np.random.default_rng(0)
    plan, prices = model.zeros(market), model.rows_like(market)
    geometry = preconditioner.metric(market, jnp.zeros(market.grid.passive.shape[0], bool))
    resting = jax.tree.map(lambda a: jnp.asarray(rng.random(a.shape) < 0.5), plan)
    omega = random_balance(rng, ones(market))
    size = preconditioner.steps(market, geometry, omega, resting)
    lively = jax.tree.map(
        lambda a: a * rng.standard_normal(a.shape), preconditioner.movable(market)
    )
    anything = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), prices)
    hourly = (jnp.asarray(rng.standard_normal(market.tariff.slope.shape)) for _ in range(2))
    change = preconditioner.Point(lively, next(hourly)[None], anything, next(hourly)[None])
    groups = preconditioner.squares(market, geometry, resting, change)
    parts = jax.tree.map(lambda w, p, d: jnp.sum(w * p + d / w), omega, *groups)
    found = preconditioner.squared(market, geometry, omega, size, change)
    assert np.isclose(found, sum(jax.tree.leaves(parts)), rtol=1e-6)
