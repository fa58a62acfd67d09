"""Of all plans that are equilibria at the same prices, the one with the least of something.

The interior point on a market with a `Preference` on top, over what is free. What is preferred is
said by entry of a plan, never by column.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from ..market import Market
from ..model import (
    Plan,
    Rows,
    counted,
    curvature,
    grid_price,
    net_exchange,
    zone_slopes,
    zone_totals,
)
from ..programs import program
from ..runner import jnp
from ..scales import scales
from .columns import alike, pack, parts, sets_of, slopes, unpack
from .interior_point import InteriorPoint
from .preference import Preference

_EXACT = 1e-10  # relative error that it is solved to
_PATIENCE = 8  # steps without a smaller error after which rounding lets it come no closer


def at_prices(market: Market, plan: Plan, prices: Rows, free: Any) -> Preference:
    """None yet, over the plans that are equilibria at these prices, as `plan` is.

    An entry whose reduced cost is above `free`, relative to the market's price, or whose cost is
    strictly convex, is held where `plan` has it.
    """
    ts, sets, scale = counted(market), sets_of(market), scales(market, plan)
    sigma = zone_totals(market, plan)
    columns = pack(market, plan, sigma, net_exchange(market, plan))
    columns = jnp.clip(columns, sets.lower, sets.upper)
    flows = jnp.stack([plan.active, plan.reactive])
    slope, drift = slopes(market, columns, flows, prices, grid_price(market, sigma))
    bend, none = curvature(market, plan), jnp.zeros_like(ts)
    curved = alike(market, bend, ts * zone_slopes(market), none) > 0
    pull = jnp.sqrt(jnp.sum(drift**2, axis=0))
    return Preference(
        columns=columns,
        flows=flows,
        held=(jnp.abs(slope) > free * sets.unit) | curved,
        shut=pull > free * ts * scale.price,
        linear=jnp.zeros_like(columns),
        stiff=jnp.zeros_like(columns),
        line=jnp.zeros_like(pull),
        parts=jnp.zeros((0, *columns.shape)),
        offset=jnp.zeros(0),
    )


def weighing(market: Market, entries: Plan, net: Float[Array, " H"]) -> Float[Array, "C H"]:
    """Weights of a plan's entries and of the net exchange, as a preference counts them.

    That of a trade is on both sides of it, so on |t|, and on t^2 where only one is not 0.
    """
    return alike(market, entries, jnp.zeros_like(net), net)


def evening(
    market: Market,
    among: Preference,
    each: Callable[[Market, Plan, Float[Array, "E H"]], Float[Array, " N"]],
    size: Float[Array, ""],
) -> Preference:
    """The preference for what `each` makes of a plan to be the same for all, in sizes of `size`.

    `each(market, plan, |trades|)` must be affine in what is free: it is linearized.
    """

    def found(columns: Array) -> Array:
        *_, bought, sold, _, _ = parts(market, columns)
        return each(market, unpack(market, columns, among.flows), bought + sold)

    count = market.prosumers.bus.shape[0]
    slant = jax.jacrev(found)(among.columns)
    slant = (slant - jnp.mean(slant, axis=0)) * jnp.sqrt(count / size)
    value = found(among.columns)
    value = (value - jnp.mean(value)) * jnp.sqrt(count / size)
    offset = value - jnp.einsum("rch,ch->r", slant, among.columns)
    return replace(among, parts=slant, offset=offset)


@program("the second stage's steps")
def preferred(
    market: Market, preference: Preference, plan: Plan, prices: Rows, limit: Array
) -> tuple[Plan, Int[Array, ""], Float[Array, ""]]:
    """The plan of least preference, the steps that took, and the relative error left.

    Plan and prices are those to start from: an equilibrium. Ends where rounding lets the error
    become no smaller, or after `limit` steps.
    """
    solver = InteriorPoint(preference)

    def going(carry: tuple) -> Array:
        _, _, steps, left, stale = carry
        return (left > _EXACT) & (steps < limit) & (stale < _PATIENCE)

    def advance(carry: tuple) -> tuple:
        state, best, steps, left, stale = carry
        state = solver.step(market, state)
        now = solver.left(market, state)
        better = now < left
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state, best)
        return state, best, steps + 1, jnp.minimum(now, left), jnp.where(better, 0, stale + 1)

    begun, none = solver.init(market, plan, prices), jnp.zeros((), jnp.int32)
    start = (begun, begun, none, jnp.full((), jnp.inf), none)
    _, best, steps, left, _ = jax.lax.while_loop(going, advance, start)
    return solver.point(market, best)[0], steps, left
