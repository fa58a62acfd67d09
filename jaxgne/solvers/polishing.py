"""The last digits of an answer, row by row: near an equilibrium few own balances still miss theirs.

What a balance misses is put on its own free imports, exports or curtailment, or else passed along
free trades to neighbors until someone has one of these; an own price moves into the interval in
which none of its columns wants to move. Both are Jacobi sweeps that change nothing where all is
met. Applegate et al. (arXiv 2501.07018) polish the feasibility of a linear program in the same
place, by iterations of PDHG without costs.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..market import Market
from ..model import (
    Plan,
    Rows,
    boxes,
    by_side,
    counted,
    grid_price,
    own_gradient,
    pull,
    rows,
    toll,
    zone_totals,
)

SWEEPS = 20  # of what balances miss
PRICE_SWEEPS = 10  # of own prices
DAMPING = 0.5  # of own prices, as both sides of a trade move towards each other


def polished(market: Market, plan: Plan, prices: Rows) -> tuple[Plan, Rows]:
    """A plan and prices nearby, with own balances and prices that fit better; inside all bounds."""
    plan = fitted(market, plan)
    own = own_gradient(market, plan, grid_price(market, zone_totals(market, plan)))

    def sweep_prices(_: int, prices: Rows) -> Rows:
        least, most = _allowed(market, plan, own, prices)
        between = jnp.where(least > most, (least + most) / 2, jnp.clip(0.0, least, most))
        return replace(prices, balance=prices.balance + DAMPING * between)

    return plan, jax.lax.fori_loop(0, PRICE_SWEEPS, sweep_prices, prices)


def fitted(market: Market, plan: Plan) -> Plan:
    """A plan nearby whose own balances miss less, inside all bounds."""
    lower, upper = _one_sided(market, plan)
    free = jax.tree.map(lambda u, low, high: (u > low) & (u < high), plan, lower, upper)

    def sweep(_: int, plan: Plan) -> Plan:
        return _absorbed(market, plan, free, lower, upper)

    return jax.lax.fori_loop(0, SWEEPS, sweep, plan)


def _one_sided(market: Market, plan: Plan) -> tuple[Plan, Plan]:
    """The bounds of a plan, of trades from zero on: the direction of a trade has its price."""
    lower, upper = boxes(market)
    trades = plan.trades
    low = jnp.where(trades >= 0, 0.0, lower.trades)
    high = jnp.where(trades <= 0, 0.0, upper.trades)
    return replace(lower, trades=low), replace(upper, trades=high)


def _absorbed(market: Market, plan: Plan, free: Plan, lower: Plan, upper: Plan) -> Plan:
    """What own balances miss, on their own free columns, or on their free trades where none is."""
    pairs, dtype = market.trading, plan.imports.dtype
    missed = rows(market, plan).balance
    own = sum(getattr(free, name).astype(dtype) for name in ("imports", "exports", "curtailed"))
    sides = by_side(market, free.trades.astype(dtype))
    each = jnp.where(own > 0, missed / jnp.maximum(own, 1), 0.0)
    passed = jnp.where(own > 0, 0.0, missed / jnp.maximum(sides, 1))

    def moved(name: str, by: Array) -> Array:
        now = getattr(plan, name)
        inside = jnp.clip(now + by, getattr(lower, name), getattr(upper, name))
        return jnp.where(getattr(free, name), inside, now)

    return replace(
        plan,
        imports=moved("imports", each),
        exports=moved("exports", -each),
        curtailed=moved("curtailed", -each),
        trades=moved("trades", passed[pairs.buyer] - passed[pairs.seller]),
    )


def _allowed(
    market: Market, plan: Plan, own: Plan, prices: Rows
) -> tuple[Float[Array, "N H"], Float[Array, "N H"]]:
    """By how much own prices may change at least and at most, before some column wants to move.

    `own` is the gradient of costs, EUR/kW; the least is above the most where columns disagree.
    """
    lower, upper = boxes(market)
    slope = jax.tree.map(jnp.add, own, pull(market, prices))
    units, stores, pairs, ts = market.generators, market.buffers, market.trading, counted(market)
    everyone, tolls = slice(None), toll(market)

    def ends(name: str, sign: int) -> tuple[Array, Array]:
        """Of one table, which demands of its balance (`sign` 1) or supplies it (-1)."""
        now, more, less = getattr(plan, name), getattr(slope, name), getattr(slope, name)
        if name == "trades":
            more = more + jnp.where(now < 0, -tolls, tolls)
            less = less + jnp.where(now > 0, tolls, -tolls)
        # where there is room above, one more kW may not pay; where there is some below, one less
        up = jnp.where(now < getattr(upper, name), -more / ts, -jnp.inf)
        down = jnp.where(now > getattr(lower, name), -less / ts, jnp.inf)
        return (up, down) if sign > 0 else (-down, -up)

    least = jnp.full_like(plan.imports, -jnp.inf)
    most = -least
    for name, owner, sign in (
        ("imports", everyone, -1),
        ("exports", everyone, 1),
        ("curtailed", everyone, 1),
        ("generation", units.owner, -1),
        ("charge", stores.owner, 1),
        ("discharge", stores.owner, -1),
        ("trades", pairs.buyer, -1),
        ("trades", pairs.seller, 1),
    ):
        low, high = ends(name, sign)
        least, most = least.at[owner].max(low), most.at[owner].min(high)
    return least, most
