"""A guard: the solvers' steps (not its seconds) on fixed markets do not creep up."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import model
from jaxgne.cases.builders import Behavior
from tests.markets import random_market

STEPS: dict[tuple[str, Behavior, bool], int] = {  # to 1e-6, when last changed on purpose
    ("ieee37", "nash", False): 440,
    ("ieee37", "wardrop", False): 360,
    ("ieee37", "nash", True): 1640,
    ("ieee37", "wardrop", True): 1720,
    ("synthetic", "nash", True): 2360,
    ("synthetic", "wardrop", True): 1760,
}


def market(case: str, behavior: Behavior, stress: bool) -> jg.Market:
    if case == "ieee37":
        return jg.ieee37(behavior=behavior, stress=stress)
    return jg.synthetic(50, degree=8, buses=36, behavior=behavior, stress=stress)


def test_steps_have_not_grown_by_a_fifth():
    """In the geometric mean: restarts make single counts jump with the last bits of the numbers."""
    solver = jg.PrimalDual()
    taken = {
        fixed: int(jg.clear(market(*fixed), solver, max_steps=20_000).steps) for fixed in STEPS
    }
    grown = [taken[fixed] / STEPS[fixed] for fixed in STEPS]
    assert np.exp(np.mean(np.log(grown))) <= 1.2, taken
    assert max(grown) <= 1.6, taken


@pytest.mark.parametrize("solver", [jg.PrimalDual(), jg.InteriorPoint()])
def test_a_warm_start_saves_steps(solver):
    """A day with 1 % less load, from the answer to the day itself; and the day itself again."""
    day = market("ieee37", "nash", False)
    other = eqx.tree_at(lambda m: m.prosumers.load, day, 0.99 * day.prosumers.load)
    start = jg.clear(day, solver)
    cold, warm = jg.clear(other, solver), jg.clear(other, solver, start=start)
    assert int(warm.steps) <= 0.8 * int(cold.steps)
    assert int(jg.clear(day, solver, start=start).steps) <= 0.3 * int(start.steps)


def test_the_interior_point_takes_two_dozen_steps():
    """A fifth above what they take; what progress tells on the way depends on the clock."""
    for fixed in STEPS:
        for tol, most in ((1e-6, 19), (1e-10, 26)):
            assert int(jg.clear(market(*fixed), jg.InteriorPoint(), tol=tol).steps) <= most


@pytest.mark.parametrize("power", [0.5, 2.0, 2.5, 10.0])
def test_a_lone_linear_generator_is_found_at_once(power: float):
    """The price 0.2 + 0.02 p_mg meets 0.3 at 5 kW of 6, so it makes 1 kW, or all it can."""
    market = jg.Market(
        jg.Prosumers([0], [[6.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.2),
        jg.Generators([0], power, hours=1, linear=0.3),
    )
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-7)
    assert int(found.steps) <= 8
    np.testing.assert_allclose(found.plan.generation, [[min(power, 1.0)]], atol=1e-3)


@pytest.mark.parametrize(
    ("steps", "error", "residual", "wanted"),
    [
        (40, np.inf, 1.0, True),  # nothing is known yet
        (80, 1.0, 0.5, False),
        (80, 1e-4, 0.2, True),  # 2e-5 by the residual, of 3e-5
        (80, 1e-4, 0.4, False),
        (200, 1.0, 0.5, True),  # every fifth time, for a proof that there is no plan
        (80, 1.0, np.nan, True),  # what is no number has to be told
    ],
)
def test_answers_are_judged_where_the_residual_says_so(steps, error, residual, wanted):
    """To 1e-6, a look is worth it from 30 times that on, by the fall since the last."""
    market, solver = random_market(0), jg.PrimalDual()
    state = solver.init(market, model.zeros(market), model.rows_like(market))
    judged = np.inf if np.isinf(error) else 1.0
    state = replace(state, last=jnp.asarray(residual), judged=jnp.asarray(judged))
    given = (jnp.asarray(steps), jnp.asarray(error), jnp.asarray(1e-6))
    assert bool(solver.worth_a_look(market, state, *given)) == wanted


@pytest.mark.parametrize("stress", [False, True])
def test_a_way_in_float32_loses_no_digits_in_float64(stress: bool):
    """A point kept in float32 would stay at some 1e-7."""
    one = jg.synthetic(30, degree=4.0, buses=8, stress=stress, seed=1)
    clearing = jg.clear(one, jg.PrimalDual(), tol=1e-10, max_steps=2000)
    assert clearing.certificate.error <= 1e-10
    assert clearing.plan.trades.dtype == jnp.float64
