"""Derivatives of the Lagrangian's slope by hand: NumPy can run them, and JAX traces less.

The Lagrangian is quadratic in a plan and its prices, but for flows at their rating, which turn.
Everything is taken where these have not turned, at the equilibrium itself, and without a barrier.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Float

from ..market import Market
from ..model import (
    Plan,
    Rows,
    at_prosumers,
    counted,
    curvature,
    grid_price,
    in_zones,
    length,
    moved,
    own_gradient,
    pull,
    rows,
    rows_like,
    toll,
    weights,
    zone_slopes,
    zone_totals,
)
from ..runner import jnp
from .active import TIGHT, Active
from .lagrangian import Point, equations, net_of, plan_of


def direction(active: Active, base: Plan) -> tuple[Array, Array, Array]:
    """Whether each line's flow is at its rating, and the cosine and sine of where it points."""
    tight = active.plan.active == TIGHT
    size = jnp.where(tight, length(base.active, base.reactive), 1.0)
    return tight, base.active / size, base.reactive / size


def turned(active: Active, base: Plan, change: Plan) -> Plan:
    """How a plan moves with its free entries (`plan_of`), but for what the feeders exchange."""
    tight, cos, sin = direction(active, base)
    free = _free(active, change)
    grown = jnp.where(active.weak.reactive, change.reactive, 0.0)
    return replace(
        free,
        active=jnp.where(tight, cos * grown - sin * change.active, free.active),
        reactive=jnp.where(tight, sin * grown + cos * change.active, free.reactive),
    )


def turned_back(active: Active, base: Plan, force: Plan) -> Plan:
    """The transpose: what forces on a plan are on its free entries."""
    tight, cos, sin = direction(active, base)
    free = _free(active, force)
    around = cos * force.reactive - sin * force.active
    outward = jnp.where(active.weak.reactive, cos * force.active + sin * force.reactive, 0.0)
    return replace(
        free,
        active=jnp.where(tight, around, free.active),
        reactive=jnp.where(tight, outward, free.reactive),
    )


def moving(active: Active, point: Point) -> Point:
    """Its entries that can move, 0 for all others; and its prices."""
    tight = active.plan.active == TIGHT
    free = _free(active, point.plan)
    round_only = tight & ~active.weak.reactive
    free = replace(
        free,
        active=jnp.where(tight, point.plan.active, free.active),
        reactive=jnp.where(round_only, 0.0, free.reactive),
    )
    return replace(point, plan=free, net=net_moved(active, point.net))


def _free(active: Active, plan: Plan) -> Plan:
    free = jax.tree.map(lambda may, u: jnp.where(may, u, 0.0), active.free, plan)
    return replace(free, exchange=jnp.zeros_like(free.exchange))


def gradient(market: Market, active: Active, base: Plan, point: Point) -> Point:
    """dL/dw: zero at the equilibrium."""
    ts, given = counted(market), equations(market)
    plan, net = plan_of(market, active, base, point.plan), net_of(market, active, point.net)
    prices = times(given, point.prices)
    own = own_gradient(market, plan, jnp.zeros_like(point.price))
    force = jax.tree.map(jnp.add, own, pull(market, prices))
    tolled = force.trades + toll(market) * active.sign
    price = ts * at_prosumers(market, point.price)
    force = replace(force, imports=force.imports + price, trades=tolled)
    value = rows(market, plan)
    value = replace(value, aggregate=value.aggregate - net)
    return Point(
        plan=turned_back(active, base, force),
        total=ts * (grid_price(market, point.total) - point.price),
        net=net_moved(active, -ts * prices.aggregate),
        prices=times(weights(market), times(given, value)),
        price=ts * (zone_totals(market, plan) - point.total),
    )


def hessian(market: Market, active: Active, base: Plan, point: Point) -> Callable[[Point], Point]:
    """K, the second derivative of the Lagrangian at an equilibrium, as it acts on changes."""
    ts, given, weight, bend = (
        counted(market),
        equations(market),
        weights(market),
        curvature(market, base),
    )
    tight, cos, sin = direction(active, base)
    push = pull(market, times(given, point.prices))
    radius = jnp.where(tight, market.grid.radius, 1.0)
    curl = jnp.where(tight, -(cos * push.active + sin * push.reactive) / radius, 0.0)

    def apply(change: Point) -> Point:
        plan, net = turned(active, base, change.plan), net_moved(active, change.net)
        prices = times(given, change.prices)
        force = jax.tree.map(lambda h, u, p: h * u + p, bend, plan, pull(market, prices))
        price = ts * at_prosumers(market, change.price)
        force = replace(force, imports=force.imports + price)
        back = turned_back(active, base, force)
        value = moved(market, plan)
        value = replace(value, aggregate=value.aggregate - net)
        return Point(
            plan=replace(back, active=back.active + curl * change.plan.active),
            total=ts * (zone_slopes(market) * change.total - change.price),
            net=net_moved(active, -ts * prices.aggregate),
            prices=times(weight, times(given, value)),
            price=ts * (in_zones(market, plan.imports) - change.total),
        )

    return apply


def net_moved(active: Active, net: Float[Array, " H"]) -> Float[Array, " H"]:
    return jnp.where(active.net_free, net, 0.0)


def times(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.multiply, one, other)


def fed(market: Market, weight: Plan) -> Rows:
    """Prices of the feeders' buses that count what they exchange by a `weight`."""
    none, feeder = rows_like(market), market.grid.feeder
    bus = none.bus.at[feeder].add(weight.exchange / counted(market))
    return replace(none, bus=bus)


def unfolded_back(market: Market, active: Active, base: Plan, plan: Plan, prices: Rows) -> Point:
    """The transpose of `unfold` in a point: what weights of plan and prices are on it."""
    force = jax.tree.map(jnp.add, plan, pull(market, fed(market, plan)))
    hour, zone = jnp.zeros_like(market.tariff.slope), jnp.zeros_like(zone_slopes(market))
    priced = times(equations(market), prices)
    return Point(turned_back(active, base, force), zone, hour, priced, zone)
