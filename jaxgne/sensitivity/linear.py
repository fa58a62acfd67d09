"""The inverse of K, the second derivative of the Lagrangian: all but exact.

What moves is eliminated, after a proximal term, small in the market's scales, has made that
possible. What is left, A theta A^T in the prices of rows, is factored where it is small and solved
by conjugate gradients where it is large. K may be singular, where equilibria are not unique, and
what is asked for outside of its range, where it is not unique either. Everything is in float64.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from ..market import Market
from ..model import (
    Plan,
    Rows,
    at_prosumers,
    counted,
    in_zones,
    moved,
    pull,
    weights,
    zeros,
    zone_slopes,
)
from ..record import Record
from ..runner import jnp, on_host
from ..scales import much, scales, worths
from ..size import is_small
from ..solvers.newton import Compliance, Worth, factor
from .active import TIGHT, Active
from .by_point import hessian, turned, turned_back
from .lagrangian import Point, equations, sizes, slope
from .preconditioner import Rowwise, is_deep, preconditioner
from .refinement import Linear

_LEAST = 1e-7  # proximal stiffness where A theta A^T is factored, a share of the market's scales
_STIFF, _DEEP = 1e-5, 3e-4  # and for conjugate gradients; on deep trees
_SPARE = 1e-4  # compliance that is added to rows, in the market's scales: none is held by nothing
_SOLVED = 1e-5  # relative residual to which conjugate gradients go; the rest is refined

Moves = tuple[Plan, Array, Array]  # or forces: of free entries, imports of zones, net exchange


class Compliances(Record):
    """How far each entry moves under a force, 1/(h + proximal): 0 where a bound holds it."""

    free: Plan  # of free entries; a line's `active` at its rating is its turning
    cross: Float[Array, "L H"]  # between a line's active and reactive flow
    whole: Compliance  # of the plan's own entries

    def __call__(self, force: Plan) -> Plan:
        """How free entries move under forces."""
        moved = jax.tree.map(jnp.multiply, self.free, force)
        return replace(
            moved,
            active=moved.active + self.cross * force.reactive,
            reactive=moved.reactive + self.cross * force.active,
        )


def compliances(
    market: Market, active: Active, plan: Plan, matvec: Linear, proximal: Plan, link: Array
) -> Compliances:
    """Compliances, given a proximal stiffness in EUR per unit^2.

    The second derivatives of the Lagrangian in free entries are a diagonal, but for a line's block.
    """
    zero, hour = zeros(market), jnp.zeros_like(market.tariff.slope)
    zone = jnp.zeros_like(zone_slopes(market))
    none, only = jax.tree.map(jnp.zeros_like, equations(market)), jnp.ones_like(zero.reactive)
    ones = replace(jax.tree.map(jnp.ones_like, zero), reactive=zero.reactive)
    bend = matvec(Point(ones, zone + 1, hour, none, zone))
    bulge = matvec(Point(replace(zero, reactive=only), zone, hour + 1, none, zone))
    moves = active.free
    tight = active.plan.active == TIGHT
    round_only = tight & ~active.weak.reactive
    moves = replace(moves, active=moves.active | tight, reactive=moves.reactive & ~round_only)
    stiff = replace(bend.plan, reactive=bulge.plan.reactive)
    stiff = jax.tree.map(jnp.add, stiff, proximal)
    free = jax.tree.map(lambda moves, h: jnp.where(moves, 1 / h, 0.0), moves, stiff)
    cross = jnp.where(moves.active & moves.reactive, bend.plan.reactive, 0.0)
    shrunk = 1 / (1 - cross**2 * free.active * free.reactive)
    cross = -cross * free.active * free.reactive * shrunk
    free = replace(free, active=free.active * shrunk, reactive=free.reactive * shrunk)
    turn, swell = (
        turned(active, plan, replace(zero, **{name: only})) for name in ("active", "reactive")
    )

    def block(first: str, second: str) -> Array:
        a, b = (getattr(turn, name) for name in (first, second))
        c, d = (getattr(swell, name) for name in (first, second))
        return a * b * free.active + c * d * free.reactive + (a * d + b * c) * cross

    return Compliances(
        free,
        cross,
        Compliance(
            plan=replace(
                free, active=block("active", "active"), reactive=block("reactive", "reactive")
            ),
            cross=block("active", "reactive"),
            total=1 / (bend.total + link),
            net=jnp.where(active.net_free, 1 / (bulge.net + link), 0.0),
        ),
    )


def stiffness(market: Market, plan: Plan, share: float) -> tuple[Plan, Array]:
    """Proximal stiffness, a share of the market's scales, EUR per unit^2.

    Of a plan's entries, and of total import and net exchange.
    """
    scale = scales(market, plan)
    entries = jax.tree.map(jnp.divide, worths(market, scale), much(market, scale)[0])
    total = counted(market) * scale.price / scale.total
    return jax.tree.map(lambda s: share * s, (entries, total))


def matvec_of(market: Market, active: Active, plan: Plan, point: Point) -> Linear:
    """K, as it acts on changes of a point."""
    if active.barrier is None:
        return hessian(market, active, plan, point)
    return jax.linearize(lambda w: slope(market, active, plan, w), point)[1]


def inverse_of(
    market: Market, active: Active, plan: Plan, matvec: Linear, max_steps: int
) -> Linear:
    """An approximate inverse of K: factored, or by at most `max_steps` conjugate gradients."""
    if is_small(market) or on_host():
        return factored(market, active, plan, matvec)
    return iterated(market, active, plan, matvec, max_steps)


def factored(market: Market, active: Active, plan: Plan, matvec: Linear) -> Linear:
    """An approximate inverse of K for a small market, as the interior point does it."""
    theta = compliances(market, active, plan, matvec, *stiffness(market, plan, _LEAST))
    newton = factor(market, theta.whole)
    return _eliminated(market, active, plan, theta, lambda _: lambda value: newton(market, value))


def iterated(market: Market, active: Active, plan: Plan, matvec: Linear, most: int) -> Linear:
    """An approximate inverse of K for a large market, by at most `most` conjugate gradients."""
    stiff = stiffness(market, plan, _DEEP if is_deep(market) else _STIFF)
    theta = compliances(market, active, plan, matvec, *stiff)
    size, ts = sizes(market, plan), counted(market)
    # prices are counted in their sizes, and rows so that products are in EUR
    unit = Worth(jax.tree.map(jnp.multiply, size.prices, weights(market)), ts * size.price)
    spare = _SPARE * ts * size.price * size.plan.imports
    rough = preconditioner(market, theta.whole, jax.tree.map(lambda u: spare / u**2, unit.rows))

    def invert(system: Rowwise) -> Rowwise:
        def scaled(prices: Worth) -> Worth:
            value = system(jax.tree.map(jnp.multiply, unit, prices))
            return jax.tree.map(lambda u, v, y: u * v + spare * y, unit, value, prices)

        def approximately(value: Worth) -> Worth:
            prices = rough(jax.tree.map(jnp.divide, value, unit))
            return jax.tree.map(jnp.divide, prices, unit)

        def solve(value: Worth) -> Worth:
            right = jax.tree.map(jnp.multiply, unit, value)
            prices, _ = cg(scaled, right, tol=_SOLVED, maxiter=most, M=approximately)
            return jax.tree.map(jnp.multiply, unit, prices)

        return solve

    return _eliminated(market, active, plan, theta, invert)


def _eliminated(
    market: Market,
    active: Active,
    plan: Plan,
    theta: Compliances,
    invert: Callable[[Rowwise], Rowwise],
) -> Linear:
    """The inverse of K, exact but for the proximal term, given how A theta A^T is inverted."""
    ts, whole = counted(market), theta.whole
    given, weight = equations(market), weights(market)

    def bent(force: Moves) -> Moves:
        """How forces move what is free."""
        return theta(force[0]), whole.total * force[1], whole.net * force[2]

    def felt(moves: Moves) -> Worth:
        """What moves do to the rows."""
        change = turned(active, plan, moves[0])
        value = moved(market, change)
        value = replace(value, aggregate=value.aggregate - moves[2])
        value = jax.tree.map(jnp.multiply, given, value)
        return Worth(value, in_zones(market, change.imports) - moves[1])

    def prices_of(worth: Worth) -> Rows:
        return jax.tree.map(lambda y, w, here: here * y / w, worth.rows, weight, given)

    def pulled(worth: Worth) -> Moves:
        """The forces that prices are."""
        prices = prices_of(worth)
        force = pull(market, prices)
        force = replace(force, imports=force.imports + at_prosumers(market, worth.total))
        return turned_back(active, plan, force), -worth.total, -ts * prices.aggregate

    solve = invert(lambda worth: felt(bent(pulled(worth))))

    def inverse(right: Point) -> Point:
        force = (right.plan, right.total, right.net)
        value = felt(bent(force))
        missed = jax.tree.map(
            lambda v, r, w, here: v - here * r / w, value.rows, right.prices, weight, given
        )
        worth = solve(Worth(missed, value.total - right.price / ts))
        moved, total, net = bent(jax.tree.map(jnp.subtract, force, pulled(worth)))
        return Point(moved, total, net, prices_of(worth), worth.total / ts)

    return inverse
