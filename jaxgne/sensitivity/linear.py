"""The inverse of K, the second derivative of the Lagrangian: all but exact, or an approximation.

K may be singular, where equilibria are not unique, and what is asked for outside of its range,
where it is not unique either. Everything is in float64.
"""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax.linalg import tridiagonal_solve
from jaxtyping import Array, Float

from ..feasibility import weights
from ..market import Market
from ..model import Plan, Rows, by_owner, pull, rows, zeros
from ..optimality import scales
from ..solvers.columns import PROXIMAL
from ..solvers.newton import (
    Compliance,
    Worth,
    factor,
    network_block,
    stack_network,
    unstack_network,
)
from ..solvers.preconditioner import Metric, metric
from .active import FREE, TIGHT, Active
from .krylov import Linear
from .lagrangian import Point, equations, plan_of

_DENSE = 150  # buses up to which the network's rows are inverted hour by hour
_FLOOR = 1e-9  # relative: rows that nothing free can move do not count
_SPARE = 1e-4  # relative, added to the rows of storage
_LEAST = 1e-3  # compliance of a row, at least, in that of one power


class Compliances(eqx.Module):
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
    none, only = jax.tree.map(jnp.zeros_like, equations(market)), jnp.ones_like(zero.reactive)
    ones = replace(jax.tree.map(jnp.ones_like, zero), reactive=zero.reactive)
    bend = matvec(Point(ones, hour + 1, hour, none, hour))
    bulge = matvec(Point(replace(zero, reactive=only), hour, hour + 1, none, hour))
    moves = jax.tree.map(lambda code: code == FREE, active.plan)
    tight = active.plan.active == TIGHT
    moves = replace(moves, active=moves.active | tight, reactive=moves.reactive & ~tight)
    stiff = replace(bend.plan, reactive=bulge.plan.reactive)
    stiff = jax.tree.map(jnp.add, stiff, proximal)
    free = jax.tree.map(lambda moves, h: jnp.where(moves, 1 / h, 0.0), moves, stiff)
    cross = jnp.where(moves.active & moves.reactive, bend.plan.reactive, 0.0)
    shrunk = 1 / (1 - cross**2 * free.active * free.reactive)
    cross = -cross * free.active * free.reactive * shrunk
    free = replace(free, active=free.active * shrunk, reactive=free.reactive * shrunk)
    turn, swell = (
        jax.jvp(
            lambda u: plan_of(market, active, plan, u), (zero,), (replace(zero, **{name: only}),)
        )[1]
        for name in ("active", "reactive")
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
            net=jnp.where(active.net == FREE, 1 / (bulge.net + link), 0.0),
        ),
    )


def factored(market: Market, active: Active, plan: Plan, matvec: Linear) -> Linear:
    """An approximate inverse of K: exact but for a proximal term a ten-millionth of the scales.

    By elimination, as the interior point does (`solvers.newton`).
    """
    zero, scale, ts = zeros(market), scales(market, plan), market.hour_length
    given, weight = equations(market), weights(market)
    power, total = (ts * scale.price / size for size in (scale.power, scale.total))
    volts = ts * scale.price * scale.total
    stiff = replace(
        jax.tree.map(lambda _: power, zero),
        energy=scale.price / scale.energy,
        active=total,
        reactive=total,
        compensation=total,
        exchange=total,
        voltage=volts,
        angle=volts,
    )
    stiff, link = jax.tree.map(lambda s: PROXIMAL * s, (stiff, total))
    theta = compliances(market, active, plan, matvec, stiff, link)
    newton = factor(market, theta.whole)
    soft, ease = theta.whole.net, theta.whole.total

    def placed(free: Plan) -> Plan:
        return plan_of(market, active, plan, free)

    _, back = jax.vjp(placed, zero)

    def linear(moved: Plan, net: Array) -> Rows:
        """What a move of the plan and of the net exchange does to the rows."""
        _, value = jax.jvp(lambda u: rows(market, u), (zero,), (moved,))
        return replace(value, aggregate=value.aggregate - net)

    def inverse(right: Point) -> Point:
        net, total = soft * right.net, ease * right.total
        _, moved = jax.jvp(placed, (zero,), (theta(right.plan),))
        missed = jax.tree.map(lambda a, r, w: a - r / w, linear(moved, net), right.prices, weight)
        drawn = jnp.sum(moved.imports, axis=0) - total - right.price / ts
        worth = newton(market, Worth(missed, drawn))
        prices = jax.tree.map(lambda y, w, here: here * y / w, worth.rows, weight, given)
        price = worth.total / ts
        pulled = pull(market, prices)
        (pulled,) = back(replace(pulled, imports=pulled.imports + ts * price))
        return Point(
            plan=theta(jax.tree.map(jnp.subtract, right.plan, pulled)),
            total=ease * (right.total + ts * price),
            net=soft * (right.net + ts * prices.aggregate),
            prices=prices,
            price=price,
        )

    return inverse


def preconditioner(market: Market, active: Active, plan: Plan, matvec: Linear) -> Linear:
    """A positive definite approximation of the inverse of K, for many prosumers.

    With D the diagonal of K in the free entries and the proximal term of the primal-dual solver's
    metric, D^-1 for these, and for the rows the inverse of A D^-1 A^T without what links different
    groups of them: a prosumer's own balance and the contents of its buffers (as if each were alone,
    tridiagonal over the hours), the network, and what the main grid's price links.
    """
    scale, ts = scales(market, plan), market.hour_length
    given, weight = equations(market), weights(market)
    held = jnp.any(active.plan.voltage != FREE, axis=1).at[market.grid.feeder].set(False)
    geometry = metric(market, held)
    usual = ts * scale.price / scale.power
    names = ("active", "reactive", "voltage", "angle", "compensation", "exchange")
    stiff = replace(
        jax.tree.map(lambda _: 2 * usual, zeros(market)),
        trades=4 * usual,
        energy=usual / ts**2,
        **{name: usual * getattr(geometry.networked, name) for name in names},
    )
    link = usual / geometry.total
    theta = compliances(market, active, plan, matvec, stiff, link)
    whole, stores, pairs = theta.whole, market.buffers, market.trading
    moved = whole.plan
    own = by_owner(market, moved.generation, market.generators.owner)
    own += by_owner(market, moved.charge + moved.discharge, stores.owner)
    own += moved.imports + moved.exports + moved.curtailed
    own += by_owner(market, moved.trades, pairs.buyer)
    own += by_owner(market, moved.trades, pairs.seller)
    own = jnp.maximum(own, _LEAST / usual)
    balanced = _storage(market, moved, own, _LEAST * ts**2 / usual)
    drawn, sold = jnp.sum(moved.imports, axis=0), jnp.sum(moved.exports, axis=0)
    shared = jnp.maximum(drawn + sold + whole.net, _LEAST / link)
    grid = _network(market, geometry, whole, usual)

    def inverse(right: Point) -> Point:
        value = jax.tree.map(lambda r, w, here: here * r / w, right.prices, weight, given)
        balance, energy = balanced(value.balance, value.energy)
        prices = replace(
            grid(value), balance=balance, energy=energy, aggregate=value.aggregate / shared
        )
        return Point(
            plan=theta(right.plan),
            total=whole.total * right.total,
            net=whole.net * right.net,
            prices=jax.tree.map(lambda y, w, here: here * y / w, prices, weight, given),
            price=right.price / ts**2 / (drawn + whole.total),
        )

    return inverse


def _storage(
    market: Market, moved: Plan, own: Float[Array, "N H"], least: Array
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The inverse of A theta A^T in own balances and contents of buffers, each buffer alone.

    Each buffer has its share of its owner's balance; with balances eliminated, a buffer's rows make
    a tridiagonal system over the hours.
    """
    stores, ts = market.buffers, market.hour_length
    if not stores.owner.size:
        return lambda balance, energy: (balance / own, energy)
    into = ts * stores.charge_efficiency[:, None]
    out, keep = ts / stores.discharge_efficiency[:, None], stores.retention[:, None]
    count = by_owner(market, jnp.ones_like(into), stores.owner)[stores.owner]
    shared = -(into * moved.charge + out * moved.discharge)
    tie = shared / own[stores.owner]
    none = jnp.zeros_like(keep)
    before = jnp.concatenate([none, moved.energy[:, :-1]], axis=1)
    diagonal = moved.energy + keep**2 * before + into**2 * moved.charge + out**2 * moved.discharge
    # a buffer that may not end elsewhere has a row more than what is free
    diagonal = (1 + _SPARE) * jnp.maximum(diagonal, least) - count * tie * shared
    ahead = -keep * jnp.concatenate([moved.energy[:, :-1], none], axis=1)
    behind = jnp.concatenate([none, ahead[:, :-1]], axis=1)

    def inverse(balance: Array, energy: Array) -> tuple[Array, Array]:
        reduced = energy - tie * balance[stores.owner]
        solved = tridiagonal_solve(behind, diagonal, ahead, reduced[..., None])[..., 0]
        return balance / own - by_owner(market, tie * solved, stores.owner), solved

    return inverse


def _network(
    market: Market, geometry: Metric, whole: Compliance, usual: Array
) -> Callable[[Rows], Rows]:
    """The inverse of A theta A^T in the network's rows: hour by hour, or that of the metric."""
    if market.grid.model == "copperplate":
        return lambda value: value
    if market.grid.passive.shape[0] > _DENSE:
        return lambda value: jax.tree.map(lambda a: a * usual, geometry.network(market, value))
    block, used = network_block(market, whole)
    home, moved = market.prosumers.bus, whole.plan
    devices = moved.curtailed + by_owner(market, moved.generation, market.generators.owner)
    devices += by_owner(market, moved.charge + moved.discharge, market.buffers.owner)
    buses = jnp.arange(market.grid.passive.shape[0])
    block = block.at[:, buses, buses].add(
        jnp.zeros_like(market.grid.passive).at[home].add(devices).T
    )
    size = jnp.sqrt(jnp.diagonal(block, axis1=1, axis2=2))
    size = jnp.where(size > 0, size, 1.0)
    both = size[:, :, None] * size[:, None, :]
    inverses = jnp.linalg.inv(block / both + _FLOOR * jnp.eye(size.shape[1])) / both
    inverses = jnp.where(used[:, None] & used[None, :], inverses, 0.0)

    def inverse(value: Rows) -> Rows:
        stacked = stack_network(market, value).T
        return unstack_network(market, jnp.einsum("hij,hj->ih", inverses, stacked))

    return inverse
