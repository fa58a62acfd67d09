"""The rows that many share, in an approximate inverse of A theta A^T: totals, caps and levels.

What many do for one price, as they import, ties each one's own price to it nearly one to one. So
all own balances are eliminated from these rows, trades included: what is left is a block of each
hour, that levels tie to the next. Without that conjugate gradients find each of these rows on its
own, one after the other.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from ..market import Market
from ..model import (
    Rows,
    at_prosumers,
    in_zones,
    moved,
    pull,
    rows_like,
    traded,
    weights,
    zeros,
    zone_slopes,
)
from ..solvers.newton import Compliance, Worth
from ..solvers.sweeps import path
from ..tables import has_caps

_ELIMINATED = 1e-6  # relative residual to which own balances are
_STEPS = 100  # conjugate gradients for that, at most
_MEMBERS = ("generation", "charge", "discharge", "imports", "exports", "curtailed", "trades")
_LEVELS = ("level", "rise", "spare")

Rowwise = Callable[[Worth], Worth]


def shared_rows(
    market: Market,
    theta: Compliance,
    spare: Rows,
    alone: Float[Array, "N H"],
    rough: Callable[[Array], Array],
) -> Rowwise:
    """The inverse in rows that many share, with own balances eliminated: what it adds to prices.

    `alone` is what moves each balance but trades, `rough` an approximate inverse in balances.
    """
    pairs = market.trading
    hours, count = market.tariff.slope.shape[0], _count(market)

    def balances(own: Array) -> Array:
        price = own[pairs.seller] - own[pairs.buyer]
        return traded(market, alone * own, theta.plan.trades * price)

    def follow(unit: Array) -> Array:
        """How own prices follow a shared one, in every hour."""
        seen = felt(market, theta, spare, _placed(market, unit)).rows.balance
        return cg(balances, -seen, tol=_ELIMINATED, maxiter=_STEPS, M=rough)[0]

    units = jnp.broadcast_to(jnp.eye(count)[:, :, None], (count, count, hours))
    follows = jax.lax.map(follow, units)

    def meet(given: tuple[Array, Array]) -> Array:
        """What rows feel of a shared price with which own ones follow."""
        unit, own = given
        worth = _placed(market, unit)
        worth = replace(worth, rows=replace(worth.rows, balance=own))
        value = felt(market, theta, spare, worth)
        return _shared(market, value) + jnp.einsum("snh,nh->sh", follows, value.rows.balance)

    block = jnp.moveaxis(jax.lax.map(meet, (units, follows)), 2, 0)
    solve = _with_levels(market, theta, spare, (block + block.mT) / 2)

    def inverse(value: Worth) -> Worth:
        reduced = _shared(market, value)
        reduced += jnp.einsum("snh,nh->sh", follows, value.rows.balance)
        shared, levels = solve(reduced, value.rows.level)
        prices = _placed(market, shared)
        own = jnp.einsum("snh,sh->nh", follows, shared)
        return replace(prices, rows=replace(prices.rows, balance=own, level=levels))

    return inverse


def felt(market: Market, theta: Compliance, spare: Rows, worth: Worth) -> Worth:
    """A theta A^T + `spare` without network and contents."""
    moves = {name: getattr(theta.plan, name) for name in (*_MEMBERS, *_LEVELS)}
    prices = jax.tree.map(jnp.divide, worth.rows, weights(market))
    force = pull(market, prices)
    force = replace(force, imports=force.imports + at_prosumers(market, worth.total))
    plan = replace(
        zeros(market), **{n: a * getattr(force, n) for n, a in moves.items() if a is not None}
    )
    rows = moved(market, plan)
    rows = jax.tree.map(lambda a, s, y: a + s * y, rows, spare, worth.rows)
    rows = replace(rows, aggregate=rows.aggregate + theta.net * worth.rows.aggregate)
    return Worth(rows, in_zones(market, plan.imports) + theta.total * worth.total)


def _count(market: Market) -> int:
    """Rows that many share in an hour: imports of zones, the limit on the exchange, caps."""
    return zone_slopes(market).shape[0] + 1 + market.caps.carry.shape[0]


def _shared(market: Market, worth: Worth) -> Float[Array, "S H"]:
    """These rows, one below the other."""
    both = jnp.concatenate([worth.total, worth.rows.aggregate[None]])
    return jnp.concatenate([both, worth.rows.cap]) if has_caps(market) else both


def _placed(market: Market, shared: Float[Array, "S H"]) -> Worth:
    """Undone, 0 in all others."""
    none, zones = rows_like(market), zone_slopes(market).shape[0]
    caps = shared[zones + 1 :] if has_caps(market) else None
    return Worth(replace(none, aggregate=shared[zones], cap=caps), shared[:zones])


def _with_levels(
    market: Market, theta: Compliance, spare: Rows, block: Float[Array, "H S S"]
) -> Callable[[Array, Any], tuple[Array, Any]]:
    """The inverse in shared rows, of which hours have a `block` each, and in rows of levels.

    Where hours make a tree it is that of a path: positive definite, but nothing more.
    """
    caps, plan, (hours, count, _) = market.caps, theta.plan, block.shape
    size = jnp.diagonal(block, axis1=1, axis2=2).T
    if not has_caps(market):
        sweep = path(block, jnp.zeros_like(size.T), size)
        return lambda right, _: (sweep(right.T).T, None)
    adds, keep = (caps.adds[:, None] > 0) * 1.0, caps.carry[:, None]
    level, rise = plan.level, plan.rise
    before = jnp.concatenate([jnp.zeros_like(level[:, :1]), level[:, :-1]], axis=1)
    own = level + keep**2 * before + rise + spare.level
    many = caps.carry.shape[0]
    cap = count - many + jnp.arange(many)
    at = cap + many
    tie = (adds * rise - (1 - adds) * level).T
    whole = jnp.zeros((hours, count + many, count + many)).at[:, :count, :count].set(block)
    ahead = jnp.zeros_like(whole).at[:, cap, at].set((keep * (1 - adds) * level).T)
    ahead = ahead.at[:, at, at].set(-(keep * level).T)
    whole = whole.at[:, cap, at].add(tie).at[:, at, cap].add(tie).at[:, at, at].add(own.T)
    sweep = path(whole, ahead, jnp.concatenate([size, own]))

    def solve(right: Array, levels: Array) -> tuple[Array, Array]:
        solved = sweep(jnp.concatenate([right, levels]).T).T
        return solved[:count], solved[count:]

    return solve
