"""Prosumers at rest: hours in which nothing of theirs moves, and what would move first.

As long as its energy is worth more than what it would sell for, and less than what it would cost, a
prosumer stays as it is, one without load at night, say: its price is open, and no plan depends on
it. With its load one entry begins to move: on either side the one whose marginal cost the price
meets first as it rises, or falls. With that entry free a derivative is the one on that side.
"""

from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array

from ..market import Market
from ..model import Plan, Rows, boxes, counted, grid_price, own_gradient, pull, toll, zone_totals
from ..runner import jnp
from ..scales import scales
from .active import FREE, HIGH, LOW, NONE, TIE, Active

_DEMANDS = ("exports", "curtailed", "charge")  # what a higher price makes less of


def begun(market: Market, active: Active, plan: Plan, prices: Rows) -> tuple[Active, Rows]:
    """The same equilibrium, but with what would move first at prosumers at rest `opened`.

    Their prices are where that begins, on the nearer side. Where an entry tells that is shared with
    another prosumer at rest, or with other hours, nothing is changed.
    """
    pairs, makes, stores = market.trading, market.generators.owner, market.buffers.owner
    may = jax.tree.map(lambda code, weak: (code == FREE) & ~weak, active.plan, active.weak)
    moves = may.imports | may.exports | may.curtailed
    moves = moves.at[makes].max(may.generation).at[stores].max(may.charge | may.discharge)
    moves = moves.at[pairs.buyer].max(may.trades).at[pairs.seller].max(may.trades)
    both = ~(moves[pairs.buyer] | moves[pairs.seller])  # sides of a trade are at rest

    # columns: as the price rises, then as it falls
    rooms = _rooms(market, active, plan, prices)
    hours = moves.shape[1]
    sells, twice = jnp.roll(rooms.trades, hours, axis=1), jnp.concatenate([both, both], axis=1)
    own = jnp.minimum(jnp.minimum(rooms.imports, rooms.exports), rooms.curtailed)
    own = own.at[makes].min(rooms.generation)
    shared = jnp.full_like(own, jnp.inf).at[stores].min(jnp.minimum(rooms.charge, rooms.discharge))
    first = jnp.concatenate([own, shared], axis=1)
    for side, room in ((pairs.buyer, rooms.trades), (pairs.seller, sells)):
        parts = [jnp.where(twice, jnp.inf, room), jnp.where(twice, room, jnp.inf)]
        first = first.at[side].min(jnp.concatenate(parts, axis=1))
    up, down, shared_up, shared_down = jnp.split(first, 4, axis=1)
    rises = ~moves & jnp.isfinite(up) & (up <= shared_up / 2)
    falls = ~moves & jnp.isfinite(down) & (down <= shared_down / 2)
    rises &= ~falls | (up <= down)
    falls &= ~rises
    step = jnp.where(rises, up, jnp.where(falls, -down, 0.0))

    goes = jnp.concatenate([rises, falls], axis=1)
    far = jnp.concatenate([step, -step], axis=1) + TIE * scales(market, plan).price

    def meets(room: Array, at: Any) -> tuple[Array, Array]:
        """Which entries their owners' prices meet, on either side."""
        found = goes[at] & (room <= far[at])
        return found[:, :hours], found[:, hours:]

    def either(room: Array, at: Any = slice(None)) -> Array:
        return jnp.logical_or(*meets(room, at))

    more, less = meets(rooms.trades, pairs.buyer)
    also_less, also_more = meets(sells, pairs.seller)
    opened = replace(
        jax.tree.map(jnp.zeros_like, active.weak),
        imports=either(rooms.imports),
        exports=either(rooms.exports),
        curtailed=either(rooms.curtailed),
        generation=either(rooms.generation, makes),
        trades=(more | less | also_more | also_less) & ~both,
    )
    begins = opened.trades & (active.plan.trades == NONE)
    sign = jnp.where(more | also_more, 1.0, -1.0)
    active = replace(
        active,
        sign=jnp.where(begins, sign, active.sign),
        weak=jax.tree.map(lambda weak, free: weak & ~free, active.weak, opened),
        opened=opened,
    )
    return active, replace(prices, balance=prices.balance + step)


def _rooms(market: Market, active: Active, plan: Plan, prices: Rows) -> Plan:
    """How far the price of a prosumer's energy can move till an entry does, EUR/kWh.

    Two tables beside each other: as it rises, and as it falls; of trades it is the buyer's.
    """
    ts, lower, upper = counted(market), *boxes(market)
    price = grid_price(market, zone_totals(market, plan))
    force = jax.tree.map(jnp.add, own_gradient(market, plan, price), pull(market, prices))

    def room(name: str) -> Array:
        code, f = getattr(active.plan, name), getattr(force, name)
        kept = getattr(lower, name) < getattr(upper, name)
        low = jnp.where(kept & (code == LOW), jnp.maximum(f, 0.0) / ts, jnp.inf)
        high = jnp.where(kept & (code == HIGH), jnp.maximum(-f, 0.0) / ts, jnp.inf)
        return jnp.concatenate([high, low] if name in _DEMANDS else [low, high], axis=1)

    def traded(f: Array, limited: int) -> Array:
        """Till a trade grows, or with the opposite force shrinks."""
        code, paid = active.plan.trades, toll(market)
        left = jnp.where(code == limited, f - paid, jnp.where(code == NONE, f + paid, jnp.inf))
        return jnp.where(upper.trades > 0, jnp.maximum(left, 0.0) / ts, jnp.inf)

    names = ("generation", "charge", "discharge", "imports", "exports", "curtailed")
    trades = jnp.concatenate([traded(force.trades, LOW), traded(-force.trades, HIGH)], axis=1)
    return replace(force, trades=trades, **{name: room(name) for name in names})
