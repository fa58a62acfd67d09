"""Fitting recovers costs and preferences from noisy observations, and says what it cannot know."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgne as jg
from jaxgne.fitting import identifiability

NOISE = 0.02  # kW


def neighbors() -> jg.Market:
    """Two owners of generators and a consumer on one bus, four hours of different prices and loads.

    The consumer reckons with -0.02 EUR/kWh for what it buys of prosumer 0: a preference. Quadratic
    costs of trades make these unique, and inside of their limits.
    """
    return jg.Market(
        jg.Prosumers([0, 0, 0], [[4.0, 6.0, 3.0, 5.0], [3.0, 2.0, 5.0, 4.0], [9.0, 7.0, 8.0, 6.0]]),
        jg.Grid([[5.0] * 4], model="copperplate"),
        jg.Tariff(0.004, hours=4, base=[0.10, 0.18, 0.14, 0.24]),
        jg.Generators([0, 1], [9.0, 8.0], hours=4, quadratic=[0.012, 0.008], linear=[0.08, 0.11]),
        trading=jg.Trading(
            [2, 2], [0, 1], 6.0, fee_buyer=[-0.02, 0.0], toll=0.002, quadratic=0.005
        ),
    )


def costs(m: jg.Market) -> tuple:
    return m.generators.quadratic, m.generators.linear, m.trading.fee_buyer


def seen(m: jg.Market, c: jg.Clearing) -> tuple:
    return c.plan.generation, c.plan.trades


LOW = (jnp.full(2, 0.002), jnp.full(2, 0.02), jnp.full(2, -0.06))
HIGH = (jnp.full(2, 0.03), jnp.full(2, 0.2), jnp.full(2, 0.06))
GUESS = (jnp.full(2, 0.02), jnp.full(2, 0.15), jnp.full(2, 0.02))


@pytest.mark.slow
def test_costs_and_preferences_are_recovered_from_noisy_dispatch():
    """Within four of the standard deviations that the noise makes, at the least misfit.

    There it is below the misfit of the truth, which the fit could have chosen; before it has
    converged it is not.
    """
    true = neighbors()
    clearing = jg.clear(true, tol=1e-9)
    rng = np.random.default_rng(1)
    observed = tuple(np.asarray(a) + rng.normal(0, NOISE, a.shape) for a in seen(true, clearing))
    observed[1][0, 0] = np.nan  # one trade was not metered
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted, history = jg.fit(
            eqx.tree_at(costs, true, GUESS),
            observed,
            seen,
            where=costs,
            noise=NOISE,
            bounds=(LOW, HIGH),
            steps=600,
            tol=1e-8,
        )
    known = identifiability(fitted, seen, costs, noise=NOISE, bounds=(LOW, HIGH), tol=1e-8)
    found, wanted = (np.concatenate([np.ravel(a) for a in costs(m)]) for m in (fitted, true))
    assert known.rank == 6 and known.names[4] == "Trading.fee_buyer[0]"
    assert np.all(np.abs(found - wanted) < 4 * known.deviation)
    assert np.all(known.deviation < 0.2 * np.array([0.012, 0.008, 0.08, 0.11, 0.02, 0.02]))
    off = [(a - b) / NOISE for a, b in zip(seen(true, clearing), observed, strict=True)]
    truth = np.nanmean(np.concatenate([np.ravel(a) for a in off]) ** 2)
    assert history.value[history.best] < truth < 2 < 100 < history.value[0]
    assert history.gradient[history.best] < 1e-3 * history.gradient[0]


@pytest.mark.slow
def test_what_is_not_observed_is_warned_of():
    """A generator that always runs at its most tells nothing of its cost."""
    true = eqx.tree_at(lambda m: m.generators.power_max, neighbors(), jnp.array([[9.0], [0.5]]))
    true = eqx.tree_at(
        lambda m: m.generators.power_max, true, jnp.broadcast_to(true.generators.power_max, (2, 4))
    )
    observed = jg.clear(true, tol=1e-9).plan.generation

    def linear(m: jg.Market) -> Any:
        return m.generators.linear

    def dispatch(m: jg.Market, c: jg.Clearing) -> Any:
        return c.plan.generation

    with pytest.warns(UserWarning, match=r"do not determine Generators\.linear\[1\] \(rank 1 of 2"):
        fitted, _ = jg.fit(
            eqx.tree_at(linear, true, jnp.array([0.1, 0.12])),
            observed,
            dispatch,
            where=linear,
            bounds=(0.02, 0.2),
            steps=100,
            tol=1e-8,
        )
    np.testing.assert_allclose(fitted.generators.linear, [0.08, 0.12], atol=2e-4)
    with pytest.raises(ValueError, match="observed has shape"):
        jg.fit(true, observed[:1], dispatch, where=linear, bounds=(0.02, 0.2))


@pytest.mark.parametrize(
    ("power", "base"),
    [pytest.param(10.0, 0.30, marks=pytest.mark.slow), (3.0, 0.30), (10.0, 0.05)],
)
def test_what_nothing_determines_is_not_identified(power: float, base: float):
    """One generator with nobody to sell to, of which the dispatch tells no cost.

    Cheaper than the grid it covers the load of 4 and 5 kW, or runs at its 3 kW; dearer it rests.
    What 0.55 EUR/kWh of cost move of that is rounding, not 1e10 deviations.
    """
    market = jg.Market(
        jg.Prosumers([0], [[4.0, 5.0]], import_max=50.0),
        jg.Grid([[20.0, 30.0]], model="copperplate"),
        jg.Tariff(0.002, hours=2, base=base),
        jg.Generators([0], power, hours=2, quadratic=0.001, linear=0.2),
    )

    def dispatch(m: jg.Market, c: jg.Clearing) -> Any:
        return c.plan.generation

    def linear(m: jg.Market) -> Any:
        return m.generators.linear

    for noise in (1.0, NOISE):
        found = identifiability(market, dispatch, linear, bounds=(0.05, 0.6), noise=noise)
        assert found.rank == 0 and not found.identified[0] and np.isinf(found.deviation[0])
    assert "not identified" in str(found)


@pytest.mark.slow
def test_sensitivities_are_those_of_differences():
    """Singular values of dispatch by the implicit rule and by differences of clearings."""
    market = neighbors()
    found = identifiability(market, seen, costs, tol=1e-10, bounds=(LOW, HIGH))
    start, columns = costs(market), []
    flat, unravel = ravel_pytree(start)
    width = ravel_pytree(jax.tree.map(jnp.subtract, HIGH, LOW))[0]
    for index in range(flat.size):
        ends = []
        for sign in (1, -1):
            here = eqx.tree_at(costs, market, unravel(flat.at[index].add(sign * 1e-6)))
            values = seen(here, jg.clear(here, tol=1e-10))
            ends.append(ravel_pytree(values)[0])
        columns.append((ends[0] - ends[1]) / 2e-6 * width[index])
    sizes = np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)
    np.testing.assert_allclose(found.singular_values, sizes, rtol=1e-3)
