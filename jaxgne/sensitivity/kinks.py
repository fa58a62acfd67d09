"""Derivatives where bounds are about to switch: between the one-sided ones, or refused.

Along a change of the market what is weak leaves its bounds by v >= 0, or these hold it with prices
p >= 0, where one of the two is zero for each bound (Robinson, Math. Oper. Res. 5, 1980). A linear
derivative that holds all of them misses c . v of an output, with c what leaving adds to it; one
that lets all go misses u . p, with u how far the output's own force moves what is let go. Where all
entries of c, or of u, have one sign, so has what is missed; for the opposite change it counts the
other way. So the derivative lies between the one-sided ones, whatever changes. Forward, c is what a
change adds to the bounds' prices and u how far it moves what is let go, and one sign means that
this is the derivative on one side.
"""

from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Bool

from ..market import Market
from ..model import Plan
from ..record import Record
from ..runner import jnp, lax
from .active import Active, inward
from .lagrangian import Point, sizes
from .linear import inverse_of, matvec_of
from .refinement import LEFT, Solved, add, norm, refined

_NONE = 1e-6  # share of the whole that has no sign

UNDETERMINED = (
    "The derivative asked for is not determined: what is differentiated is not unique at this "
    "equilibrium, or the linear system did not converge. jaxgne.trust(market, clearing, "
    "output) says which; adjoint=jaxgne.Smoothed() gives a derivative all the same."
)
TORN = (
    "The derivative asked for is not the same on both sides: several limits are about to switch, "
    "and no value is known to lie between. adjoint=jaxgne.Smoothed() gives a mean of all sides; "
    "jaxgne.trust(market, clearing, output) counts the limits."
)


class Sided(Record):
    """A solution of K w = b, with what is weak held or let go."""

    solved: Solved
    torn: Bool[Array, ""]  # it may not lie between the derivatives on both sides


def sided(
    market: Market,
    active: Active,
    plan: Plan,
    point: Point,
    right: Point,
    *,
    tol: float,
    max_steps: int,
) -> Sided:
    """All that is weak held, or where signs refuse that let go, or where they refuse both held."""
    size, weak, inner = sizes(market, plan), (active.weak, active.net_weak), inward(active)
    much = size.plan, size.net
    every = matvec_of(market, active, plan, point)  # all that is weak may move

    def attempt(go: Array) -> tuple[Solved, Array]:
        """The solution with all that is weak held, or let `go`, and whether signs allow it."""
        loose, net_loose = jax.tree.map(lambda weak: weak & go, weak)
        here = replace(active, weak=loose, net_weak=net_loose)
        matvec = matvec_of(market, here, plan, point)
        moving = jax.tree.map(lambda weak, b: jnp.where(weak & ~go, 0.0, b), weak, _entries(right))
        asked = replace(right, plan=moving[0], net=moving[1])
        inverse = inverse_of(market, here, plan, matvec, max_steps)
        found = refined(matvec, inverse, asked, size, tol)
        push = _entries(add(right, -1.0, every(found.point)))
        moves = jax.tree.map(lambda a, s: a / s, _entries(found.point), much)
        whole = jnp.where(go, _largest(moves), norm(right, size))
        signs = jax.tree.map(
            lambda w, i, a, b, s: jnp.where(w, i * jnp.where(go, a, b * s), 0.0),
            weak, inner, moves, push, much,
        )  # fmt: skip
        least, most = -_largest(signs, -1.0), _largest(signs, 1.0)
        one = (least >= -_NONE * whole) | (most <= _NONE * whole)
        return found, one & (found.residual <= LEFT)

    def turn(carry: tuple[Solved, Array, Array]) -> tuple[Solved, Array, Array]:
        best, _, count = carry
        found, good = attempt(count > 0)
        best = jax.tree.map(lambda a, b: jnp.where(good | (count < 1), a, b), found, best)
        return best, good, count + 1

    def going(carry: tuple[Solved, Array, Array]) -> Array:
        _, good, count = carry
        return ~good & (count < tries)

    tries = jnp.where(_largest(jax.tree.map(lambda w: w * 1.0, weak)) > 0, 2, 1)
    none = jax.tree.map(jnp.zeros_like, right)
    count, one = jnp.zeros((), jnp.int32), norm(right, size)
    begin = Solved(none, one, count), count < 0, count
    best, good, _ = lax.while_loop(going, turn, begin)
    return Sided(best, ~good & (best.residual <= LEFT))


def _entries(point: Point) -> tuple[Plan, Array]:
    """What bounds can hold."""
    return point.plan, point.net


def _largest(tree: Any, sign: float = 0.0) -> Array:
    """The largest entry, with its `sign` or whatever it has."""
    each = [jnp.max(sign * a if sign else jnp.abs(a), initial=0.0) for a in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(each))
