"""Every solver in a batch, differentiated, in float32 and from a warm start."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.market import cast
from tests.agreement import SOLVERS
from tests.three_buses import neighbors

TOL = 1e-7
ONE_QUICK = [pytest.param(n, marks=() if n == "mechanism" else pytest.mark.slow) for n in SOLVERS]
LOADS = jnp.array([[[1.0], [1.5]], [[3.0], [4.0]], [[0.5], [6.0]]])  # kW


def at(load: jax.Array) -> jg.Market:
    return eqx.tree_at(lambda m: m.prosumers.load, neighbors(), load)


def found(load: jax.Array) -> jg.Clearing:
    """The answer to 1e-10, by the method that none of these tests is about."""
    return jg.clear(at(load), jg.InteriorPoint(), tol=1e-10, runner="numpy")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_batches_have_the_values_and_derivatives_of_each(name: str):
    """Of the total import, in one program: beside single answers, and differences of them."""
    solver, _, most = SOLVERS[name]
    way, step = jnp.array([[1.0], [-0.3]]), 1e-4

    def total(load: jax.Array) -> jax.Array:
        return jg.clear(at(load), solver, tol=TOL, max_steps=most).aggregate[0]

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total)))(LOADS)
    for load, value, slope in zip(LOADS, values, slopes, strict=True):
        before, here, after = (
            float(found(load + s * way).aggregate[0]) for s in (-step, 0.0, step)
        )
        assert float(value) == pytest.approx(here, abs=1e-4)
        difference = (after - before) / (2 * step)
        assert float(jnp.vdot(slope, way)) == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize("name", ONE_QUICK)
def test_float32_ends_near_float64(name: str):
    solver, _, most = SOLVERS[name]
    narrow = jg.clear(cast(at(LOADS[1]), jnp.float32), solver, max_steps=most)
    assert narrow.plan.imports.dtype == jnp.float32
    assert float(narrow.certificate.error) <= 1e-4
    np.testing.assert_allclose(narrow.aggregate, found(LOADS[1]).aggregate, rtol=1e-2)


@pytest.mark.parametrize("first", SOLVERS)
@pytest.mark.parametrize("name", SOLVERS)
def test_any_answer_starts_any_solver(name: str, first: str):
    """Warm, it takes no more steps than cold, and ends at the same answer."""
    market = at(LOADS[0])
    (one, _, few), (solver, _, most) = SOLVERS[first], SOLVERS[name]
    start = jg.clear(market, one, tol=TOL, max_steps=few, runner="jax")
    cold = jg.clear(market, solver, tol=1e-6, max_steps=most, runner="jax")
    warm = jg.clear(market, solver, tol=1e-6, max_steps=most, runner="jax", start=start)
    assert int(warm.steps) <= int(cold.steps)
    np.testing.assert_allclose(warm.aggregate, found(LOADS[0]).aggregate, atol=1e-3)
