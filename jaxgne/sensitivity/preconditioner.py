"""An approximate inverse of A theta A^T, the system of prices, for many prosumers.

Rows that share columns of different kinds are solved as if they did not: a prosumer's balances and
its buffers, the network, what the main grid's price links, each by a method of its own. Pairs that
trade freely tie their prices together, through whole clusters of prosumers: what such a cluster
balances together is solved once more, beside each of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax.linalg import tridiagonal_solve
from jaxtyping import Array, Bool, Float, Int

from ..market import Market
from ..model import Plan, Rows, at_buses, by_owner, by_side, rows_like
from ..solvers.groups import groups
from ..solvers.newton import (
    Compliance,
    Worth,
    network_block,
    stack_network,
    unstack_network,
)
from ..solvers.tree import Tree, eliminate
from ..succession import Before, blank, entered, handed, to_leaves, to_roots
from ..tables import retained
from .shared_rows import Rowwise, shared_rows

_DENSE = 150  # buses up to which the network's rows are inverted as dense matrices
_FLOOR = 1e-12  # relative, for rounding


def is_deep(market: Market) -> bool:
    """Whether the network is inverted as a tree, which loses digits that dense matrices keep."""
    return market.grid.model.radial and market.grid.passive.shape[0] > _DENSE


def preconditioner(market: Market, theta: Compliance, spare: Rows) -> Rowwise:
    """A positive definite approximation of the inverse of A theta A^T + `spare`."""
    moved, stores = theta.plan, market.buffers
    alone = by_owner(market, moved.generation, market.generators.owner)
    alone += by_owner(market, moved.charge + moved.discharge, stores.owner)
    alone += moved.imports + moved.exports + moved.curtailed + spare.balance
    own = alone + by_side(market, moved.trades)
    balanced = _storage(market, moved, own, spare.energy)
    together = _clusters(market, moved.trades, alone, own)
    grid = _network(market, theta, spare)
    shared = shared_rows(market, theta, spare, alone, lambda r: r / own + together(r))

    def inverse(value: Worth) -> Worth:
        prices, rows = shared(value), value.rows
        balance, energy = balanced(rows.balance, rows.energy)
        balance += together(rows.balance) + prices.rows.balance
        known = {name: getattr(prices.rows, name) for name in ("aggregate", "cap", "level")}
        return Worth(replace(grid(rows), balance=balance, energy=energy, **known), prices.total)

    return inverse


def _clusters(
    market: Market,
    traded: Float[Array, "E H"],
    alone: Float[Array, "N H"],
    own: Float[Array, "N H"],
) -> Callable[[Array], Array]:
    """The inverse of what each cluster of freely trading prosumers balances together.

    A pair ties its sides where its trade gives way more easily than all else of either.
    """
    pairs, (count, hours) = market.trading, own.shape
    buyer, seller = pairs.buyer, pairs.seller
    tied = traded > jnp.maximum(alone[buyer], alone[seller])
    label = clusters(buyer, seller, tied, count)
    place = label * hours + jnp.arange(hours)
    member = by_side(market, tied.astype(own.dtype)) > 0
    inside = jnp.where(label[buyer] == label[seller], traded, 0.0)

    def gathered(values: Array) -> Array:
        return jnp.zeros(count * hours).at[place].add(jnp.where(member, values, 0.0))

    shared = gathered(own) - jnp.zeros(count * hours).at[place[buyer]].add(2 * inside)
    ease = jnp.where(shared > 0, 1 / jnp.where(shared > 0, shared, 1.0), 0.0)

    def inverse(balance: Array) -> Array:
        return jnp.where(member, (ease * gathered(balance))[place], 0.0)

    return inverse


def clusters(
    first: Int[Array, " E"], second: Int[Array, " E"], tied: Bool[Array, "E H"], count: int
) -> Int[Array, "N H"]:
    """The least number in each one's cluster, hour by hour, of `count` that pairs tie together."""
    hours = tied.shape[1]

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        label, _ = carry
        least = jnp.where(tied, jnp.minimum(label[first], label[second]), count)
        lower = label.at[first].min(least).at[second].min(least)
        lower = jnp.take_along_axis(lower, lower, axis=0)
        return lower, jnp.any(lower != label)

    each = jnp.broadcast_to(jnp.arange(count)[:, None], (count, hours))
    return jax.lax.while_loop(lambda carry: carry[1], spread, (each, jnp.array(True)))[0]


def _storage(
    market: Market, moved: Plan, own: Float[Array, "N H"], spare: Array
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The inverse of A theta A^T in own balances and contents of buffers, each buffer alone.

    Each buffer has its share of its owner's balance; with balances eliminated, a buffer's rows make
    a tridiagonal system over the hours, or one of the shape of their tree.
    """
    stores, ts = market.buffers, market.hour_length
    if not stores.owner.size:
        return lambda balance, energy: (balance / own, energy)
    into, out = ts * stores.charge_efficiency, ts / stores.discharge_efficiency
    keep = retained(market)
    count = by_owner(market, jnp.ones_like(into), stores.owner)[stores.owner]
    shared = -(into * moved.charge + out * moved.discharge)
    tie = shared / own[stores.owner]
    before = entered(market.before, jnp.zeros_like(stores.energy_start), moved.energy)
    diagonal = moved.energy + keep**2 * before + into**2 * moved.charge + out**2 * moved.discharge
    diagonal = diagonal + spare - count * tie * shared
    solve = _in_time(market.before, keep, diagonal, moved.energy, before)

    def inverse(balance: Array, energy: Array) -> tuple[Array, Array]:
        reduced = energy - tie * balance[stores.owner]
        solved = solve(reduced)
        return balance / own - by_owner(market, tie * solved, stores.owner), solved

    return inverse


def _in_time(
    before: Before,
    keep: Float[Array, "K H"],
    diagonal: Float[Array, "K H"],
    ends: Array,
    begins: Array,
) -> Callable[[Array], Array]:
    """The inverse of a `diagonal` and, beside it, what hours share in contents, row by row.

    `ends` and `begins` are the compliances of what they end and begin with, of which hours `keep` a
    share.
    """
    if before is None:
        behind = -keep * begins
        ahead = handed(None, behind)
        return lambda right: tridiagonal_solve(behind, diagonal, ahead, right[..., None])[..., 0]
    table = blank(before, keep[:, 0])  # as in `solvers.newton`, where blocks are matrices

    def factor(give: Array, there: Array, now: tuple[Array, Array]) -> tuple[Array, Any]:
        here, keep = now
        alone = here + give
        inverse = 1 / (alone + keep**2 * there)
        return there * alone * inverse, (inverse, keep * there)

    own = (diagonal - ends - keep**2 * begins).T, keep.T
    both = to_roots(before, factor, table.at[:-1].set(ends.T), own)

    def forward(felt: Array, there: Array, now: tuple[Array, Array, Array, Array]) -> Any:
        right, inverse, handed, keep = now
        alone = inverse * (right + felt - keep * there)
        return there + handed * alone, alone

    def backward(there: Array, now: tuple[Array, Array, Array, Array]) -> Any:
        alone, inverse, handed, keep = now
        solved = alone + inverse * handed * there
        return solved, there - keep * solved, solved

    def solve(right: Array) -> Array:
        alone = to_roots(before, forward, table, (right.T, *both, keep.T))
        return to_leaves(before, backward, table, (alone, *both, keep.T)).T

    return solve


def _network(market: Market, theta: Compliance, spare: Rows) -> Callable[[Rows], Rows]:
    """The inverse in the network's rows, hour by hour."""
    if not market.grid.model.networked:
        return lambda value: value
    moved, none = theta.plan, jnp.zeros_like(market.grid.passive)
    made, stored = moved.generation, moved.charge + moved.discharge
    devices = moved.curtailed + by_owner(market, made, market.generators.owner)
    devices += by_owner(market, stored, market.buffers.owner)
    at_bus = at_buses(market, none, devices, moved.curtailed, made, stored)
    spares = jax.tree.map(lambda s, a: s + jnp.zeros_like(a), spare, rows_like(market))
    build = _radial if is_deep(market) else _general
    return build(market, theta, at_bus, spares)


def _radial(
    market: Market, theta: Compliance, devices: Float[Array, "B H"], spare: Rows
) -> Callable[[Rows], Rows]:
    grid, plan = market.grid, theta.plan
    tree = groups(grid)

    def hour(
        real: Array, other: Array, cross: Array, slack: Array, voltage: Array, buses: Array
    ) -> Tree:
        flow = jnp.stack([jnp.stack([real, cross]), jnp.stack([cross, other])]).transpose(2, 0, 1)
        return eliminate(tree, flow, slack, voltage, buses)

    held = jnp.maximum(plan.voltage, _FLOOR * (jnp.max(plan.voltage) + jnp.mean(spare.voltage)))
    buses = jnp.stack([devices + spare.bus, plan.compensation + spare.bus_reactive])
    trees = jax.vmap(hour, in_axes=-1)(
        plan.active, plan.reactive, theta.cross, spare.voltage, held, buses
    )

    def inverse(value: Rows) -> Rows:
        known = (value.bus, value.bus_reactive, value.voltage)
        each = jax.vmap(lambda tree, *rows: tree(*rows), in_axes=(0, -1, -1, -1), out_axes=-1)
        bus, bus_reactive, voltage = each(trees, *(a[:, None] for a in known))
        solved = (bus[:, 0], bus_reactive[:, 0], voltage[:, 0])
        return replace(value, bus=solved[0], bus_reactive=solved[1], voltage=solved[2])

    return inverse


def _general(
    market: Market, theta: Compliance, devices: Float[Array, "B H"], spare: Rows
) -> Callable[[Rows], Rows]:
    block, used = network_block(market, theta)
    buses = jnp.arange(devices.shape[0])
    block = block.at[:, buses, buses].add(devices.T)
    rest = stack_network(market, spare).T
    size = jnp.sqrt(jnp.diagonal(block, axis1=1, axis2=2) + rest)
    both = size[:, :, None] * size[:, None, :]
    block = block / both + (rest / size**2 + _FLOOR)[:, :, None] * jnp.eye(size.shape[1])
    inverses = jnp.where(used[:, None] & used[None, :], jnp.linalg.inv(block) / both, 0.0)

    def inverse(value: Rows) -> Rows:
        stacked = stack_network(market, value).T
        return unstack_network(market, jnp.einsum("hij,hj->ih", inverses, stacked))

    return inverse
