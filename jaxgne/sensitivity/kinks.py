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
from ..model import Plan, counted
from ..record import Record
from ..runner import jnp, lax, on_host
from ..size import is_small
from .active import Active, ajar, inward
from .by_point import moving
from .lagrangian import Point, sizes
from .linear import inverse_of, matvec_of
from .open_prices import FELT, of_storage, priced, shared, told, torn_prices
from .refinement import LEFT, Solved, add, largest, norm, refined

_NONE = 1e-6  # share of the whole that has no sign
_STILL = 1e-5  # share of the largest move that is none

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
    loose: Point  # prices that are open, where what depends on them does not lie between
    resting: Point  # open prices of what is stored


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
    """All that is weak held, or where signs refuse that let go, or where they refuse both held.

    `right` and `point` are those where every bound is `ajar`. Where an entry moves that is free
    only to determine a price, that price is asked for, or what changes it; then the residual is
    infinite.
    """
    size, weak, inner = sizes(market, plan), (active.weak, active.net_weak), inward(active)
    wide, much = ajar(market, active), (size.plan, size.net)
    every = matvec_of(market, wide, plan, point)
    unit = jnp.max(counted(market) * size.price * size.plan.imports)
    whole = norm(right, size)
    whole = jnp.where(whole > 0, whole, 1.0)
    none, count = jax.tree.map(jnp.zeros_like, right), jnp.zeros((), jnp.int32)
    nothing = Solved(none, whole, count)

    def attempt(go: Array) -> tuple[Sided, Array]:
        """The solution with all that is weak held, or let `go`, and whether signs allow it."""
        loose, net_loose = jax.tree.map(lambda weak: weak & go, weak)
        here = replace(active, weak=loose, net_weak=net_loose)
        matvec = matvec_of(market, here, plan, point)
        inverse = inverse_of(market, here, plan, matvec, max_steps)

        def look(carry: Any) -> Any:
            """What is asked for, then which open prices share what bounds miss, if any.

            Turn 0 is what is asked for, turn 1 tells whether any price is open. Then come those
            shared by bounds that are pushed on (2, 3), by bounds that are pulled at (4, 5), and by
            bounds that these prices press as they rise (6, 7) and as they fall (8, 9). Each twice:
            what is left the first time K may hardly notice, the second time it does not.
            """
            k, found, missed, felt, ways = carry
            sign = jnp.where(k < 2, 0.0, jnp.where(k % 4 == 2, 1.0, -1.0))
            again = (k > 1) & (k % 2 == 1)
            way = _pick(again, ways[-1], shared(market, wide, felt, size, every, sign))
            asked = _pick(k < 1, right, every(way))
            new = refined(matvec, inverse, moving(here, asked), size, tol)
            still = _pick(k < 1, none, priced(add(way, -1.0, new.point)))
            ways = _pick(again | (k < 2), (*ways[:-1], still), (*ways[1:], still))
            push = every(_pick(k < 1, new.point, add(ways[-1], 1.0, ways[-2])))
            push = _entries(_pick(k < 1, add(right, -1.0, push), push))
            push = jax.tree.map(lambda i, a, s: i * a * s, inner, push, much)
            first, press = (jax.tree.map(lambda a, u=u: a / u, push) for u in (whole, unit))
            felt = _pick(k == 0, first, _pick(k == 5, press, felt))
            return k + 1, _pick(k < 1, new, found), _pick(k < 1, first, missed), felt, ways

        def more(carry: Any) -> Array:
            k, *_, ways = carry
            prices = add(ways[-1], -1.0, of_storage(ways[-1])).prices
            loose = largest(jax.tree.map(lambda a, s: a / s, prices, size.prices))
            return (k < turns) & ((k != 2) | (loose > FELT))

        turns = 10 if active.barrier is None and (is_small(market) or on_host()) else 1
        start = count, nothing, _entries(none), _entries(none), (none,) * 5
        k, found, pushed, _, ways = lax.while_loop(more, look, start)
        loose = torn_prices(size, *ways[1:])
        resting = of_storage(told(_pick(k == 2, ways[-1], ways[0]), size))
        relative = jax.tree.map(lambda a, s: a / s, found.point, size)
        moves = _entries(relative)
        begun = jax.tree.map(lambda a, o: jnp.where(o, a, 0.0), moves[0], active.opened)
        still = largest(begun) <= _STILL * largest(relative)
        found = replace(found, residual=jnp.where(still, found.residual, jnp.inf))
        signs = jax.tree.map(
            lambda w, i, a, b: jnp.where(w, jnp.where(go, i * a, b), 0.0),
            weak, inner, moves, pushed,
        )  # fmt: skip
        least, most = -largest(signs, -1.0), largest(signs, 1.0)
        least_told = _NONE * jnp.where(go, largest(moves), 1.0)
        good = (least >= -least_told) | (most <= least_told)
        good &= found.residual <= LEFT
        return Sided(found, ~good & (found.residual <= LEFT), loose, resting), good

    def turn(carry: tuple[Sided, Array, Array]) -> tuple[Sided, Array, Array]:
        best, _, count = carry
        found, good = attempt(count > 0)
        best = jax.tree.map(lambda a, b: jnp.where(good | (count < 1), a, b), found, best)
        return best, good, count + 1

    def going(carry: tuple[Sided, Array, Array]) -> Array:
        _, good, count = carry
        return ~good & (count < tries)

    tries = jnp.where(largest(jax.tree.map(lambda w: w * 1.0, weak)) > 0, 2, 1)
    begin = Sided(nothing, count < 0, none, none), count < 0, count
    return lax.while_loop(going, turn, begin)[0]


def _pick(first: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _entries(point: Point) -> tuple[Plan, Array]:
    """What bounds can hold."""
    return point.plan, point.net
