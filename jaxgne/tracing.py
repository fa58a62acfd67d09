"""Convergence curves: how good a solver's answer is after so many steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .clearing import ready
from .each import for_one
from .market import Market, cast
from .model import Plan, Rows
from .optimality import residuals
from .options import checked_options
from .programs import program
from .record import Record
from .result import Clearing
from .solvers.base import AbstractSolver
from .validation import gate


class Trace(Record):
    """How an answer improves with the steps of a solver: one entry per look."""

    steps: Int[Array, " T"]
    error: Float[Array, " T"]
    infeasibility: Float[Array, " T"]
    regret: Float[Array, " T"]
    dual: Float[Array, " T"]


@for_one()
def trace(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    steps: int | None = None,
    every: int | None = None,
    start: Clearing | None = None,
) -> Trace:
    """The relative KKT error every `every` of `steps` steps: a convergence curve.

    By default that is every quarter of what `clear` does between two looks, 100 times. Raises
    `ValueError` for an option that makes no sense.
    """
    gate(market, "trace")
    checked_options("trace", market, solver, start=start, steps=steps, every=every)
    market, solver, plan, prices = ready(market, solver, start)
    every = max(1, solver.every // 4) if every is None else every
    steps = 100 * every if steps is None else steps
    return _trace(market, solver, plan, prices, looks=steps // every, every=every)


@program("the convergence curve")
def _trace(
    market: Market, solver: AbstractSolver, plan: Plan, prices: Rows, *, looks: int, every: int
) -> Trace:
    def look(carry: Any, _: None) -> tuple[Any, tuple[Array, ...]]:
        def one(_: Any, carry: Any) -> Any:
            count, state = carry
            now = count % solver.every == solver.every - 1
            state = jax.lax.cond(
                now, lambda s: solver.look(market, s), lambda s: solver.step(market, s), state
            )
            return count + 1, solver.refreshed(market, state)

        count, state = jax.lax.fori_loop(0, every, one, carry)
        found = residuals(market, *solver.point(market, state))
        return (count, state), (found.error, found.infeasibility, found.regret, found.dual)

    shown = jax.dtypes.canonicalize_dtype(float)
    with jax.enable_x64(True):
        start = (jnp.zeros((), jnp.int32), solver.init(market, plan, prices))
        _, curves = jax.lax.scan(look, start, None, length=looks)
        curves = cast(curves, shown)
    return Trace(jnp.arange(1, looks + 1, dtype=jnp.int32) * every, *curves)
