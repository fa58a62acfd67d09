"""The small program with boxes: against HiGHS where it is linear, and by its conditions else."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from jaxgne.solvers.boxed_qp import Boxed, solved


class Dense(NamedTuple):
    matrix: jax.Array

    def forth(self, x):
        return self.matrix @ x

    def back(self, y):
        return self.matrix.T @ y

    def normal(self, d):
        return (self.matrix * d) @ self.matrix.T


@jax.jit
def solve(program, matrix):
    return solved(program, Dense(matrix), jnp.asarray(1.0), jnp.asarray(1.0))


def random_program(seed: int, bent: bool, count: int = 12, rows: int = 4):
    """A program that has a plan; some of its columns are fixed, or have a bend of their own."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, count)) * (rng.random((rows, count)) < 0.6)
    low = -rng.random(count)
    high = low + np.where(rng.random(count) < 0.2, 0.0, 2 * rng.random(count))
    inside = low + rng.random(count) * (high - low)
    bend = rng.random(count) * (rng.random(count) < 0.5) if bent else np.zeros(count)
    numbers = (rng.normal(size=count), bend, low, high, matrix @ inside)
    return Boxed(*(jnp.asarray(a) for a in numbers)), matrix


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
@example(3379, True)  # went back and forth where x and prices went ways of their own
@example(6294, True)  # rows that nearly depend on others: the lift was left in what they miss
@example(9394, True)  # one column far from its end where all together were near
def test_answers_meet_all_conditions(seed, bent):
    program, matrix = random_program(seed, bent)
    x, y, good = (np.asarray(a) for a in solve(program, matrix))
    assert good
    np.testing.assert_allclose(matrix @ x, program.rows, atol=1e-6)
    assert np.all((x >= program.low) & (x <= program.high))
    slope = program.linear + program.bend * x + matrix.T @ y
    free = (x > program.low + 1e-6) & (x < program.high - 1e-6)
    np.testing.assert_allclose(slope[free], 0.0, atol=1e-5)
    room = program.high > program.low
    assert np.all(slope[room & (x <= program.low + 1e-6)] > -1e-5)
    assert np.all(slope[room & (x >= program.high - 1e-6)] < 1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_linear_programs_cost_what_highs_says(seed):
    program, matrix = random_program(seed, bent=False)
    x, _, good = solve(program, matrix)
    bounds = np.stack([program.low, program.high], axis=1)
    known = linprog(program.linear, A_eq=matrix, b_eq=program.rows, bounds=bounds)
    assert good
    assert known.status == 0
    assert float(program.linear @ x) == pytest.approx(known.fun, abs=1e-6)


def test_what_has_no_plan_is_told():
    program = Boxed(
        linear=jnp.ones(2), bend=jnp.zeros(2), low=jnp.zeros(2), high=jnp.ones(2),
        rows=jnp.asarray([3.0]),
    )  # fmt: skip
    _, _, good = solve(program, jnp.ones((1, 2)))
    assert not good
