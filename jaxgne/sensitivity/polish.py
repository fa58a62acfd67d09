"""An equilibrium to rounding, from one to a clearing's tolerance."""

from typing import Any

import jax
from jaxtyping import Array

from ..market import Market
from ..model import Plan, Rows, counted
from ..runner import jnp, lax
from .active import TIE, Active, active_set, firm, nearest
from .at_rest import begun
from .by_point import gradient, hessian
from .lagrangian import Point, point_of, sizes, unfold
from .linear import factored
from .refinement import add

_TURNS = 6
_STILL = 1e-13  # of the scales: what is left of the conditions where steps end
_NEAR = 0.1  # share of the root of what is left that is no distance from a bound
_ENDED = 1e-10  # of the scales: where more is left, steps came to no end


def polished(market: Market, plan: Plan, prices: Rows) -> tuple[Active, Plan, Rows]:
    """A small market's equilibrium by semismooth Newton steps, and the bounds that hold at it.

    A clearing knows how far a bound is from switching to about the root of its error, so steps are
    taken as long as one is nearer than that; the bounds that hold are read anew after each. Where
    these leave a price open, or several are about to switch, steps may not end: the best point met
    is returned then, and all that its error leaves in doubt is about to switch.
    """
    size = sizes(market, plan)
    unit = counted(market) * size.price * size.plan.imports  # EUR

    def largest(some: Any, scale: Any) -> Array:
        each = jax.tree.map(lambda a, s: jnp.max(jnp.abs(a * s), initial=0.0), some, scale)
        return jnp.max(jnp.stack(jax.tree.leaves(each)))

    def look(plan: Plan, prices: Rows) -> tuple[tuple[Active, Plan, Rows], Point, Point, Array]:
        """What holds there, and what is left of the conditions, by entry and relative."""
        active = active_set(market, plan, prices)
        point = point_of(market, firm(active), plan, prices)
        left = gradient(market, firm(active), plan, point)
        off = jax.tree.map(jnp.subtract, unfold(market, firm(active), plan, point)[0], plan)
        error = largest(left, size) / jnp.max(unit)
        error = jnp.maximum(error, largest(off, jax.tree.map(lambda s: 1 / s, size.plan)))
        return (active, plan, prices), point, left, error

    def step(carry: Any) -> Any:
        ((active, plan, _), point, left, _), best, least, count = carry
        held = firm(active)
        move = factored(market, held, plan, hessian(market, held, plan, point))(left)
        here = look(*unfold(market, held, plan, add(point, -1.0, move)))
        found, error = here[0], here[-1]
        best = jax.tree.map(lambda a, b: jnp.where(error < least, a, b), found, best)
        return here, best, jnp.minimum(error, least), count + 1

    def going(carry: Any) -> Array:
        _, (active, _, _), least, count = carry
        unsure = nearest(active) < _NEAR * jnp.sqrt(least)
        return unsure & (least > _STILL) & (count < _TURNS)

    here = look(plan, prices)
    begin = here, here[0], here[-1], jnp.zeros((), jnp.int32)
    _, (active, plan, prices), least, _ = lax.while_loop(going, step, begin)
    doubt = (nearest(active) < _NEAR * jnp.sqrt(least)) & (least > _ENDED)
    tie = jnp.where(doubt, jnp.sqrt(least), TIE)
    active, prices = begun(market, active_set(market, plan, prices, tie), plan, prices)
    return active, plan, prices
