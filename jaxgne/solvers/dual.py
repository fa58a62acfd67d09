"""A concave, piecewise quadratic dual, maximized to rounding by damped Newton steps.

Strongly convex programs with linear rows have such a dual, once differentiable: a semismooth Newton
method with line search solves it, in one step once the last call's multipliers have the right
active set.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..record import Record

_STEPS = 400  # damped Newton steps of one call; one or two once warm
_TINY = 1e-12  # least damping
_OVERSHOOT = 0.01  # share of a slope that a step may turn around


class Solution(Record):
    """A point on the dual: its multipliers, the minimizer there, row residuals (gradient).

    `slope` is how fast each entry of `answer` yields to its price, and `error` the largest residual
    relative to the market's scales.
    """

    duals: Float[Array, "..."]
    answer: Any
    slope: Any
    residual: Float[Array, "..."]
    error: Float[Array, ""]


def tolerance(dtype: Any) -> float:
    """Relative row residual at which a local solve ends: 1e-11 in float64."""
    return max(1e-11, 64 * float(jnp.finfo(dtype).eps))


def maximize(
    respond: Callable[[Array], Solution],
    direction: Callable[[Solution, Array], Array],
    start: Array,
) -> Solution:
    """Maximize a concave, piecewise quadratic dual by damped Newton steps.

    `direction(at, damping)` blends the Newton matrix with the one in which no bound binds: 0 is
    Newton's step, 1 a step that never overshoots the maximum along it. A trial is accepted when it
    hardly overshoots (judged by the slope there, which rounding does not blur), and the damping
    falls; else it rises. Ends at `tolerance`, or after a fixed number of steps (an infeasible
    problem has no maximum).
    """
    enough = tolerance(start.dtype)

    def going(carry: tuple) -> Bool[Array, ""]:
        at, _, count = carry
        return (at.error > enough) & (count < _STEPS)

    def body(carry: tuple) -> tuple:
        at, damping, count = carry
        along = direction(at, damping)
        new = respond(at.duals + along)
        rise, ahead = jnp.sum(at.residual * along), jnp.sum(new.residual * along)
        accepted = ahead >= -_OVERSHOOT * rise
        kept = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, at)
        damping = jnp.where(accepted, damping / 4, damping * 4)
        return kept, jnp.clip(damping, _TINY, 1.0), count + 1

    first = respond(start)
    damping = jnp.clip(first.error**2, _TINY, 1e-2).astype(start.dtype)
    at, _, _ = jax.lax.while_loop(going, body, (first, damping, jnp.zeros((), jnp.int32)))
    return at
