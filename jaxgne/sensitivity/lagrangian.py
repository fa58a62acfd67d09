"""The market's conditions as those of a stationary point of one function of what is left free."""

from dataclasses import replace

import jax
from jaxtyping import Array, Float

from ..market import Market
from ..model import (
    Plan,
    Rows,
    boxes,
    counted,
    curvature,
    curve_costs,
    grid_price,
    length,
    limits,
    net_exchange,
    own_gradient,
    rows,
    toll,
    weights,
    without_curves,
    zeros,
    zone_bases,
    zone_slopes,
    zone_totals,
)
from ..record import Record
from ..runner import jnp
from ..scales import much, price_sizes, scales
from .active import FREE, HIGH, LOW, TIGHT, Active


class Point(Record):
    """What can move at an equilibrium, and the prices that hold it.

    Entries of `plan` at a bound do not count, but weak ones: they are how far these have left it, 0
    at the equilibrium. The flow of a line at its rating can only turn: its `active` is how far
    along the circle, kVA, 0 at the equilibrium; its `reactive`, where weak, by how much the circle
    has grown. Imports of zones and net exchange are variables of their own, tied to the plan by the
    main grid's `price` there and `prices.aggregate`.
    """

    plan: Plan
    total: Float[Array, "Z H"]  # sigma of each zone, kW
    net: Float[Array, " H"]  # s, kW
    prices: Rows  # EUR/kWh
    price: Float[Array, "Z H"]  # of the main grid, EUR/kWh


def equations(market: Market) -> Rows:
    """1 for rows that hold a price, 0 for those that the grid model lacks.

    The balance of a feeder's bus says what is exchanged there, the row of exchange follows from the
    others: neither has a price (`optimality.pin`).
    """
    low, high = limits(market)
    given = jax.tree.map(lambda a, b: (jnp.isfinite(a) & (a == b)).astype(b.dtype), low, high)
    return replace(
        given,
        aggregate=jnp.ones_like(given.aggregate),
        bus=given.bus.at[market.grid.feeder].set(0.0),
        exchange=jnp.zeros_like(given.exchange),
    )


def sizes(market: Market, plan: Plan) -> Point:
    """What is much, of each entry of a point: the market's scales."""
    scale = scales(market, plan)
    entries, _ = much(market, scale)
    return Point(entries, scale.total, scale.total, price_sizes(market, scale), scale.price)


def point_of(market: Market, active: Active, plan: Plan, prices: Rows) -> Point:
    """An equilibrium as such a point."""
    sigma = zone_totals(market, plan)
    turned = jnp.where(active.plan.active == TIGHT, 0.0, plan.active)
    entries = jax.tree.map(lambda may, u: jnp.where(may, 0.0, u), active.leaving, plan)
    return Point(
        plan=replace(entries, active=turned),
        total=sigma,
        net=jnp.where(active.net_weak, 0.0, net_exchange(market, plan)),
        prices=jax.tree.map(jnp.multiply, prices, equations(market)),
        price=grid_price(market, sigma),
    )


def plan_of(market: Market, active: Active, base: Plan, free: Plan) -> Plan:
    """The plan with its free entries as given, all others at the bounds that hold them.

    `base` is the equilibrium's plan, for the direction of flows at their rating. What the feeders
    exchange follows.
    """
    lower, upper = boxes(market)

    def put(code: Array, may: Array, u: Array, low: Array, high: Array) -> Array:
        held = jnp.where(code == LOW, low, jnp.where(code == HIGH, high, 0.0))
        return jnp.where(code == FREE, u, jnp.where(may, held + u, held))

    placed = jax.tree.map(put, active.plan, active.leaving, free, lower, upper)
    tight = active.plan.active == TIGHT
    radius = jnp.where(tight, market.grid.radius, 1.0)
    size = length(base.active, base.reactive)
    size = jnp.where(tight, size, 1.0)
    cos, sin = base.active / size, base.reactive / size
    angle = jnp.where(tight, free.active / radius, 0.0)
    radius = jnp.where(active.weak.reactive, radius + free.reactive, radius)
    placed = replace(
        placed,
        active=jnp.where(
            tight, radius * (cos * jnp.cos(angle) - sin * jnp.sin(angle)), placed.active
        ),
        reactive=jnp.where(
            tight, radius * (sin * jnp.cos(angle) + cos * jnp.sin(angle)), placed.reactive
        ),
    )
    drawn = rows(market, replace(placed, exchange=jnp.zeros_like(placed.exchange))).bus
    return replace(placed, exchange=drawn[market.grid.feeder])


def unfold(market: Market, active: Active, base: Plan, point: Point) -> tuple[Plan, Rows]:
    """Plan and prices of a point; rows that have no price have 0."""
    prices = jax.tree.map(jnp.multiply, point.prices, equations(market))
    return plan_of(market, active, base, point.plan), prices


def net_of(market: Market, active: Active, free: Float[Array, " H"]) -> Float[Array, " H"]:
    """The net exchange, likewise."""
    tariff = market.tariff
    held = jnp.where(active.net == LOW, tariff.total_min, tariff.total_max)
    held = jnp.where(active.net_weak, held + free, held)
    return jnp.where(active.net == FREE, free, held)


def lagrangian(market: Market, active: Active, base: Plan, point: Point) -> Float[Array, ""]:
    """L, EUR: the potential, with sigma a variable of its own, and what all rows are worth."""
    plan, net = plan_of(market, active, base, point.plan), net_of(market, active, point.net)
    flat, none = without_curves(market), zeros(market)
    linear = own_gradient(flat, none, jnp.zeros_like(point.price))
    own = jax.tree.map(
        lambda u, g, h: jnp.sum((g + h / 2 * u) * u), plan, linear, curvature(flat, none)
    )
    if market.generators.curves:
        bent = counted(market) * curve_costs(market.generators, plan.generation)
        own = replace(own, generation=own.generation + jnp.sum(bent))
    paid = toll(market) * plan.trades
    if active.barrier is None:
        tolls = jnp.sum(active.sign * paid)
    else:
        tolls = jnp.sum(jnp.sqrt(paid**2 + active.barrier**2))
        tolls += jnp.sum(active.barrier * walls(market, active, plan, net))
    shared = zone_bases(market) * point.total + zone_slopes(market) / 2 * point.total**2
    value = rows(market, plan)
    value = replace(value, aggregate=value.aggregate - net)
    worth = jax.tree.map(
        lambda w, here, y, a: jnp.sum(w * here * y * a),
        weights(market),
        equations(market),
        point.prices,
        value,
    )
    drawn = point.price * (zone_totals(market, plan) - point.total)
    parts = jax.tree.leaves((own, worth))
    return sum(parts) + tolls + jnp.sum(counted(market) * (shared + drawn))


def slope(market: Market, active: Active, base: Plan, point: Point) -> Point:
    """dL/dw: zero at the equilibrium."""
    return jax.grad(lambda w: lagrangian(market, active, base, w))(point)


def walls(market: Market, active: Active, plan: Plan, net: Array) -> Float[Array, " H"]:
    """The logarithmic barrier of all bounds that can hold, by hour, dimensionless."""
    lower, upper = boxes(market)
    tariff, grid = market.tariff, market.grid

    def wall(code: Array, u: Array, low: Array, high: Array) -> Array:
        def side(room: Array) -> Array:
            there = (code == FREE) & jnp.isfinite(room)
            each = jnp.where(there, -jnp.log(jnp.where(there, room, 1.0)), 0.0)
            return jnp.sum(jnp.atleast_2d(each), axis=0)

        return side(u - low) + side(high - u)

    each = jax.tree.map(wall, active.plan, plan, lower, upper)
    each = replace(each, active=0.0, reactive=0.0, exchange=0.0)
    rated = jnp.broadcast_to(jnp.isfinite(grid.rating) & (grid.rating > 0), plan.active.T.shape).T
    rated &= grid.model.networked
    rating = jnp.where(rated, grid.radius, 1.0)
    load = jnp.where(rated, plan.active**2 + plan.reactive**2, 0.0)
    discs = -jnp.sum(jnp.log(1 - load / rating**2), axis=0)
    shared = wall(active.net, net, tariff.total_min, tariff.total_max)
    return sum(jax.tree.leaves(each)) + discs + shared
