"""Which plans are possible at all: finite bounds, and proofs that there are none."""

from dataclasses import replace

import jax
from jaxtyping import Array, Float

from .commitments import COMMITTED, mean
from .incidence import most_turned
from .market import Market
from .model import (
    OF_CAPS,
    Plan,
    Rows,
    agreed,
    boxes,
    burdens,
    by_owner,
    by_side,
    falls,
    length,
    limits,
    members,
    pull,
    ratios,
    rows,
    weights,
    zeros,
)
from .reach import bounded
from .runner import jnp, remembered
from .succession import depth
from .tables import has_caps, weighty


@remembered
def implied_boxes(market: Market) -> tuple[Plan, Plan]:
    """Finite bounds that every feasible plan meets: `boxes` with none left open (model.md: Gaps).

    Purchases are bounded through the own balance, flows by the total load and, with the paper's
    grid, by the boxes on voltages and angles, exchange with the main grid by the total load.
    """
    market = bounded(market)
    lower, upper = boxes(market)
    prosumers, grid = market.prosumers, market.grid
    most = jax.tree.map(lambda low, high: jnp.maximum(jnp.abs(low), jnp.abs(high)), lower, upper)
    tradable = by_side(market, most.trades)
    charging = by_owner(market, upper.charge, market.buffers.owner)
    discharging = by_owner(market, upper.discharge, market.buffers.owner)
    least_made = by_owner(market, lower.generation, market.generators.owner)
    most_made = by_owner(market, upper.generation, market.generators.owner)
    drawn = prosumers.load + upper.curtailed + charging - least_made
    needed = jnp.maximum(drawn + upper.exports + tradable, 0.0)
    imports = jnp.minimum(upper.imports, needed)
    injected = jnp.maximum(jnp.abs(drawn), jnp.abs(prosumers.load - most_made - discharging))
    total = jnp.sum(injected, axis=0) + jnp.sum(jnp.abs(grid.passive), axis=0)
    at_buses = jnp.abs(grid.passive_reactive) + upper.compensation
    reactive = jnp.sum(jnp.abs(prosumers.reactive), axis=0) + jnp.sum(at_buses, axis=0)
    rating = grid.radius
    total, reactive = most_turned(grid, total, reactive)
    active_most = jnp.minimum(rating, total)
    reactive_most = jnp.minimum(rating, reactive)
    if len(grid.model.states) == 2:  # then these fix the flow
        ends = [_reach(market, s, getattr(lower, s), getattr(upper, s)) for s in grid.model.states]
        (a, b), (c, d) = falls(grid).values()
        scale = jnp.abs(a * d - b * c)
        impedance = jnp.where(scale > 0, scale, 1.0)  # of a line without: no bound from its ends
        a, b, c, d = (jnp.abs(part / impedance)[:, None] for part in (a, b, c, d))
        without = (scale == 0)[:, None]
        carried, circled = d * ends[0] + b * ends[1], c * ends[0] + a * ends[1]
        loops = jnp.where(without, active_most, jnp.minimum(rating, carried))
        circling = jnp.where(without, reactive_most, jnp.minimum(rating, circled))
        radial = market.grid.source.shape[0] < market.grid.passive.shape[0]
        active_most = jnp.minimum(active_most, loops) if radial else loops
        reactive_most = (
            jnp.minimum(reactive_most, circling) if radial and grid.reactive_balance else circling
        )
    upper = replace(upper, imports=imports)
    if market.committed is not None:
        lower, upper = agreed(market, lower, upper)
    if has_caps(market):
        lower, upper = _with_levels(market, lower, upper)
    if not grid.model.networked:
        return replace(lower, imports=jnp.zeros_like(imports)), upper
    exchange = jnp.broadcast_to(total, lower.exchange.shape)
    return (
        replace(lower, active=-active_most, reactive=-reactive_most, exchange=-exchange),
        replace(upper, active=active_most, reactive=reactive_most, exchange=exchange),
    )


def _with_levels(market: Market, lower: Plan, upper: Plan) -> tuple[Plan, Plan]:
    """The same with levels, rises and spares of caps no further than members can take them."""
    caps, steps = market.caps, market.caps.level_max.shape[1]
    steps = 1 + int(depth(market.before, steps).max())
    most = jax.tree.map(lambda low, high: jnp.maximum(jnp.abs(low), jnp.abs(high)), lower, upper)

    def largest(*ends: Array) -> Array:
        finite = [jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0) for end in ends]
        return jnp.max(jnp.concatenate(finite, axis=1), axis=1, initial=0.0)

    # spare that may be any costs, so no more of it is needed than makes good what others lack
    summed = members(weighty(market), most) + jnp.abs(caps.base + burdens(market))
    rise = largest(caps.rise_min, caps.rise_max) + largest(summed) + largest(caps.slack[:, None])
    level = jnp.abs(caps.start) + largest(caps.level_min, caps.level_max) + steps * rise
    reach = 2 * jnp.where(level > 0, level, 1.0)[:, None]
    low = {name: jnp.maximum(getattr(lower, name), -reach) for name in OF_CAPS}
    high = {name: jnp.minimum(getattr(upper, name), reach) for name in OF_CAPS}
    return replace(lower, **low), replace(upper, **high)


def _reach(market: Market, state: str, low: Array, high: Array) -> Float[Array, "L H"]:
    """Largest fall of a state along each line, either way, that bus bounds allow."""
    near, far = market.grid.source, market.grid.target
    ratio = ratios(market.grid)[state][:, None]
    return jnp.maximum(high[near] / ratio - low[far], high[far] - low[near] / ratio)


def existing(market: Market, prices: Rows) -> Rows:
    """Prices without those of limits that do not exist."""
    lower, upper = limits(market)

    def keep(price: Array, low: Array, high: Array) -> Array:
        above = jnp.where(jnp.isfinite(high), jnp.maximum(price, 0.0), 0.0)
        below = jnp.where(jnp.isfinite(low), jnp.minimum(price, 0.0), 0.0)
        return above + below

    return jax.tree.map(keep, prices, lower, upper)


def support(market: Market, gradient: Plan, lower: Plan, upper: Plan) -> tuple[Plan, Array]:
    """Least value of `gradient . u` over the finite sets, per entry; lines jointly.

    For a line the set is the smaller of its disc and its box: both bounds hold, the better counts.
    What is committed counts in equal parts in each of its steps.
    """

    def lowest(g: Array, low: Array, high: Array) -> Array:
        return jnp.minimum(g * low, g * high)

    least = jax.tree.map(lowest, gradient, lower, upper)
    if market.committed is not None:
        ends = {n: (getattr(lower, n), getattr(upper, n)) for n in COMMITTED}
        means = {n: mean(market, n, getattr(gradient, n)) for n in COMMITTED}
        least = replace(least, **{n: lowest(means[n], *ends[n]) for n in COMMITTED})
    radius = jnp.minimum(market.grid.radius, length(upper.active, upper.reactive))
    disc = -radius * length(gradient.active, gradient.reactive)
    return least, jnp.maximum(disc, least.active + least.reactive)


def proof_terms(market: Market, prices: Rows) -> tuple[Rows, Plan]:
    """What each row and each (implied) bound adds to Farkas' sum along the ray `prices`, EUR.

    If `y . rows(u) > y . r` for every u in the boxes and every r within the limits, no u has its
    rows within the limits. The sum of all terms is the least value of `y . (rows(u) - r)`; a line's
    term stands in `active`.
    """
    lower, upper = implied_boxes(market)
    market = bounded(market)
    y = existing(market, prices)
    least, lines = support(market, pull(market, y), lower, upper)
    low, high = limits(market)

    def term(y: Array, weight: Array, constant: Array, lo: Array, up: Array) -> Array:
        bound = jnp.where(y > 0, up, jnp.where(y < 0, lo, constant))
        return weight * y * (constant - bound)

    constant = rows(market, zeros(market))
    by_row = jax.tree.map(term, y, weights(market), constant, low, high)
    return by_row, replace(least, active=lines, reactive=jnp.zeros_like(lines))


def infeasibility_proof(market: Market, prices: Rows) -> Float[Array, ""]:
    """How clearly `prices`, read as a ray, prove that no plan meets all limits.

    The sum of `proof_terms` relative to the sum of their sizes: positive is a proof, whatever the
    ray (Farkas' lemma).
    """
    terms = jax.tree.leaves(proof_terms(market, prices))
    value = sum(jnp.sum(term) for term in terms)
    size = sum(jnp.sum(jnp.abs(term)) for term in terms)
    return jnp.where(size > 0, value / jnp.where(size > 0, size, 1.0), 0.0)
