"""The one judge of every answer: how far a plan and prices are from an equilibrium.

Its measure is the relative KKT error (model.md: Yardstick). Nothing here knows how an answer was
found. Everything is computed in float64, also when the market is in float32: rounding is the
solver's problem, not the judge's.
"""

from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from .commitments import COMMITTED, apart, mean
from .curves import crossing, curvatures, slopes, totals
from .feasibility import existing, implied_boxes, support
from .market import Market, cast
from .model import (
    OF_CAPS,
    Plan,
    Rows,
    boxes,
    by_owner,
    by_side,
    counted,
    curvature,
    energy_prices,
    families,
    grid_price,
    length,
    limits,
    net_exchange,
    own_gradient,
    prox,
    pull,
    rows,
    toll,
    weights,
    without_curves,
    zeros,
    zone_slopes,
    zone_totals,
)
from .record import Record
from .runner import jnp, remembered, wide
from .scales import Scales, Shares, much, plan_prices, price_sizes, scales, shares, sizes, worths
from .tables import has_caps


class Own(Record):
    """How far an answer may be from an equilibrium for each prosumer, and by its own measure."""

    size: Float[Array, " N"]  # kW, the largest load, generator or buffer
    bill: Float[Array, " N"]  # EUR, its load, or its size for an hour, at its price of energy
    missed: Float[Array, " N"]  # kW, of the own balance and of all own bounds
    content: Float[Array, " N"]  # kWh, of what buffers hold and may hold
    price: Float[Array, " N"]  # EUR/kWh, natural residual of all that the prosumer decides
    share: Float[Array, " N"]  # the largest of these by size, largest buffer and own price


class Residuals(Record):
    """What is wrong with an answer, by family. A scalar per field, `places` are flat indices.

    `error` is the relative KKT error: the largest of `infeasibility`, `regret` and `dual` below.
    """

    rows: Rows  # largest violation of each family, kW, kvar, kWh, pu, rad
    row_places: Rows
    bounds: Plan  # largest violation of each bound, kW, kvar, kWh, pu, rad
    bound_places: Plan
    rating: Float[Array, ""]  # kVA above a line's rating
    rating_place: Int[Array, ""]
    gap: Float[Array, " N"]  # EUR each prosumer could save at most by deviating
    operator_gap: Float[Array, ""]  # EUR
    duality_gap: Float[Array, ""]  # EUR
    stationarity: Plan  # largest natural residual of each field, EUR/kWh (EUR/h per pu, rad)
    own: Own
    loose: Int[Array, ""]  # hours of a flat tariff in which devices may move total import
    sign: Float[Array, ""]  # EUR/kWh, prices of limits that do not exist (per total kW for pu, rad)
    infeasibility: Float[Array, ""]  # relative
    regret: Float[Array, ""]  # relative
    dual: Float[Array, ""]  # relative
    error: Float[Array, ""]  # relative KKT error


def _largest(array: Array) -> Float[Array, ""]:
    return jnp.max(array, initial=0.0)


def _place(array: Array) -> Int[Array, ""]:
    """Flat index of the largest entry, -1 if there is none.

    Not argmax: its lowering fails for float64 where the program around it is in float32.
    """
    flat = array.reshape(-1)
    index = jnp.arange(flat.size, dtype=jnp.int32)
    at_most = jnp.where(flat == jnp.max(flat, initial=0.0), index, jnp.int32(flat.size))
    return jnp.min(at_most, initial=jnp.int32(flat.size if flat.size else -1))


def pin(market: Market, prices: Rows) -> Rows:
    """Prices on the gauge mu_tg = 0, as one constant per hour is free (model.md: Gauge).

    `copperplate` has no such constant. Trade prices follow from `balance`.
    """
    if not market.grid.model.networked:
        return prices
    constant = prices.exchange
    return replace(
        prices,
        balance=prices.balance - constant,
        bus=prices.bus + constant,
        exchange=jnp.zeros_like(constant),
    )


def gaps(
    market: Market, plan: Plan, prices: Rows, pulled: Plan
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """What each prosumer, and the operator, could gain at most by deviating, EUR (model.md: Gaps).

    With sigma and all prices held: priced perceived cost of the plan minus its least value over
    the private set, the private rows priced by their multipliers, entry by entry in closed form.
    `pulled` is what prices make each entry cost (`model.pull`).
    """
    lower, upper = implied_boxes(market)
    flat, units = without_curves(market), market.generators
    bend = curvature(flat, plan)
    inside = jax.tree.map(jnp.clip, plan, lower, upper)
    price = grid_price(market, zone_totals(market, plan))
    slope = jax.tree.map(jnp.add, own_gradient(flat, inside, price), pulled)
    linear = jax.tree.map(lambda g, h, u: g - h * u, slope, bend, inside)
    zero = zeros(market)
    tolls = replace(zero, trades=zero.trades + toll(market))

    def cost(v: Array, g: Array, h: Array, c: Array) -> Array:
        return h / 2 * v**2 + g * v + c * jnp.abs(v)

    def least(g: Array, h: Array, c: Array, low: Array, high: Array) -> Array:
        curved = h > 0
        corner = jnp.where(g > 0, low, high)
        pulled = jnp.sign(g) * jnp.maximum(jnp.abs(g) - c, 0.0)
        best = jnp.where(curved, jnp.clip(-pulled / jnp.where(curved, h, 1.0), low, high), corner)
        return jnp.minimum(cost(best, g, h, c), cost(jnp.clip(0.0, low, high), g, h, c))

    paid = jax.tree.map(cost, inside, linear, bend, tolls)
    if market.committed is not None:  # a decision's part in each of its steps is the mean
        for name in COMMITTED:
            means = [
                mean(market, name, getattr(a, name) + getattr(zero, name))
                for a in (linear, bend, tolls)
            ]
            linear, bend, tolls = (
                replace(a, **{name: m}) for a, m in zip((linear, bend, tolls), means, strict=True)
            )
    bests = jax.tree.map(least, linear, bend, tolls, lower, upper)
    each = jax.tree.map(jnp.subtract, paid, bests)
    if units.curves:
        bounds = lower.generation, upper.generation
        more = _curved_gain(market, inside.generation, linear.generation, bend.generation, *bounds)
        each = replace(each, generation=more)
    owner, store = market.generators.owner, market.buffers.owner
    hourly = (
        by_owner(market, each.generation, owner)
        + by_owner(market, each.charge + each.discharge + each.energy, store)
        + each.imports
        + each.exports
        + each.curtailed
        + by_side(market, each.trades / 2)
    )
    _, lines = support(market, slope, lower, upper)  # of costs of flows that bend, the slope
    worth = slope.active * inside.active + slope.reactive * inside.reactive
    own = (each.voltage, each.angle, each.compensation, each.exchange)
    network = sum(jnp.sum(a) for a in own)
    if has_caps(market):
        caps = market.caps
        held = sum(getattr(each, name) for name in OF_CAPS)
        paid = jnp.where(caps.owner[:, None] < 0, 0.0, held)
        hourly = hourly.at[jnp.maximum(caps.owner, 0)].add(paid)
        network += jnp.sum(held - paid)
    scarce = jnp.sum(counted(market) * _complementarity(market, plan, prices))
    return jnp.sum(hourly, axis=1), jnp.sum(worth - lines) + network + scarce


def _curved_gain(
    market: Market, u: Array, g: Array, h: Array, low: Array, high: Array
) -> Float[Array, "G H"]:
    """What of h/2 u^2 + g u and the curves' costs is above its least within bounds, EUR."""
    ts, curves = counted(market), market.generators.curves

    def cost(v: Array) -> Array:
        return h / 2 * v**2 + g * v + ts * totals(curves, v)

    def rise(v: Array) -> tuple[Array, Array]:
        return h * v + g + ts * slopes(curves, v), h + ts * curvatures(curves, v)

    return cost(u) - cost(crossing(rise, low, high, u))


def _complementarity(market: Market, plan: Plan, prices: Rows) -> Float[Array, " H"]:
    """Price of the aggregate limit times what is left of it, EUR/h."""
    s = net_exchange(market, plan)
    high, low = market.tariff.total_max, market.tariff.total_min
    price = prices.aggregate
    room = jnp.where(price > 0, high - s, jnp.where(price < 0, s - low, 0.0))
    return jnp.where(price == 0, 0.0, jnp.abs(price) * jnp.abs(jnp.where(price == 0, 0.0, room)))


def pushed(
    market: Market, plan: Plan, pulled: Plan, scale: Scales, share: Shares | None = None
) -> tuple[Plan, Plan]:
    """Where marginal costs push each entry of a plan, u - rho g, and rho, by hour or row and hour.

    `pulled` is what prices make each entry cost (`model.pull`).

    A price of `scale.price` moves a prosumer's entry by `scale.power`, or its `share`; a trade by
    that of the smaller side; others likewise by theirs.
    """
    rho = jax.tree.map(jnp.divide, much(market, scale, share)[0], worths(market, scale))
    price = grid_price(market, zone_totals(market, plan))
    slope = jax.tree.map(jnp.add, own_gradient(market, plan, price), pulled)
    return jax.tree.map(lambda u, g, r: u - r * g, plan, slope, rho), rho


def _natural(market: Market, plan: Plan, pulled: Plan, scale: Scales, share: Shares) -> Plan:
    """Natural residual |u - prox(u - rho g)| / rho, relative to what entries are worth."""
    wish, rho = pushed(market, plan, pulled, scale, share)
    step = jax.tree.map(lambda r, u: jnp.broadcast_to(r, u.shape), rho, plan)
    moved = prox(market, wish, step)
    worth = worths(market, scale)
    return jax.tree.map(lambda u, v, r, w: jnp.abs(u - v) / r / w, plan, moved, rho, worth)


def residuals(market: Market, plan: Plan, prices: Rows) -> Residuals:
    """Every way in which `(plan, prices)` falls short of a v-GNE, in float64 (model.md: Yardstick).

    Prices may be on any gauge; they are pinned first.
    """
    with wide():
        market, plan, prices = cast((market, plan, prices), jnp.float64)
        return _residuals(market, plan, pin(market, prices))


def _residuals(market: Market, plan: Plan, prices: Rows) -> Residuals:
    scale = scales(market, plan)
    share = shares(market, scale)
    used = existing(market, prices)
    value = rows(market, plan)
    low, high = limits(market)
    outside = jax.tree.map(_beyond, value, low, high)
    beyond = jax.tree.map(_beyond, plan, *boxes(market))
    if market.committed is not None:
        far = apart(market, plan)
        beyond = replace(beyond, **{n: jnp.maximum(getattr(beyond, n), far[n]) for n in far})
    over = jnp.maximum(length(plan.active, plan.reactive) - market.grid.radius, 0.0)
    size, row_size = much(market, scale, share)
    total = jnp.where(value.aggregate < low.aggregate, *share.total)
    row_size = replace(row_size, aggregate=total)
    relative = jax.tree.leaves(
        jax.tree.map(lambda a, s: _largest(a / s), (outside, beyond), (row_size, size))
    )
    infeasibility = jnp.max(jnp.stack([*relative, _largest(over / share.line[:, None])]))
    pulled = pull(market, used)
    gap, operator_gap = gaps(market, plan, used, pulled)

    def unpaid(y: Array, weight: Array, a: Array, lo: Array, up: Array) -> Array:
        bound = jnp.where(y > 0, up, jnp.where(y < 0, lo, a))
        return jnp.sum(weight * y * (a - bound))

    missed = jax.tree.map(unpaid, used, weights(market), value, low, high)
    nothing = jnp.zeros_like(operator_gap)
    missed = replace(missed, aggregate=nothing)  # in the operator's gap already
    duality_gap = jnp.sum(gap) + operator_gap - sum(jax.tree.leaves(missed))
    left = _natural(market, plan, pulled, scale, share)
    by_own = _natural(market, plan, pulled, scale, shares(market, scale, 1.0))
    unbalanced = jax.tree.map(_largest, left)
    wrong = jax.tree.map(
        lambda a, b, s: _share(jnp.abs(a - b), s), prices, used, price_sizes(market, scale)
    )
    sign = jnp.max(jnp.stack(jax.tree.leaves(wrong)))
    dual = jnp.maximum(jnp.max(jnp.stack(jax.tree.leaves(unbalanced))), sign)
    regret = jnp.maximum(jnp.sum(gap) + operator_gap, jnp.abs(duality_gap)) / scale.bill
    outside, beyond = (_own_share(*pair) for pair in ((outside, row_size), (beyond, size)))
    return Residuals(
        rows=jax.tree.map(_largest, outside),
        row_places=jax.tree.map(_place, outside),
        bounds=jax.tree.map(_largest, beyond),
        bound_places=jax.tree.map(_place, beyond),
        rating=_largest(over),
        rating_place=_place(over),
        gap=gap,
        operator_gap=operator_gap,
        duality_gap=duality_gap,
        stationarity=jax.tree.map(_priced, unbalanced, plan_prices(market, scale)),
        loose=_loose(market),
        own=_own(market, used, scale, (outside, beyond, by_own)),
        sign=sign * scale.price,
        infeasibility=infeasibility,
        regret=regret,
        dual=dual,
        error=jnp.maximum(jnp.maximum(infeasibility, regret), dual),
    )


def misses(market: Market, plan: Plan, prices: Rows) -> Float[Array, " N"]:
    """How far each prosumer is from an equilibrium, relative as in `dual` and `infeasibility`.

    The largest of the natural residuals of all that it decides, its own balance, and its buffers'.
    """
    scale = scales(market, plan)
    share = shares(market, scale)
    left = _natural(market, plan, pull(market, existing(market, prices)), scale, share)
    price = _by_prosumer(market, left, left.charge, left.discharge, left.energy)
    outside = jax.tree.map(_beyond, rows(market, plan), *limits(market))
    _, size = much(market, scale, share)
    unmet = jnp.maximum(price, _by_row(outside.balance / size.balance))
    return unmet.at[market.buffers.owner].max(_by_row(outside.energy / size.energy))


def _share(found: Array, size: Array) -> Float[Array, ""]:
    """The largest, as a share of one size for all or of one a row."""
    return _largest(found / size) if jnp.ndim(size) else _largest(found) / size


def _priced(share: Array, price: Array) -> Float[Array, ""]:
    """A share of a price in its unit; of prices by row and hour, of the largest."""
    return share * (_largest(price) if jnp.ndim(price) else price)


def _own_share(found: Any, size: Any) -> Any:
    """The same, but of caps as shares of what is much of each: their units differ."""
    names = [name for name, field in families(found).items() if field.row == "cap"]
    return replace(found, **{name: getattr(found, name) / getattr(size, name) for name in names})


@remembered
def _loose(market: Market) -> Int[Array, ""]:
    """In how many hours total import may be another at the same prices."""
    low, high = boxes(market)
    flexible = (high.charge, high.discharge, high.exports, high.curtailed)
    moves = [jnp.any(a > 0, axis=0) for a in flexible]
    units = market.generators
    linear = units.quadratic[:, None] == 0
    if units.curves:
        linear = linear & (curvatures(units.curves, units.power_min) == 0)
    moves.append(jnp.any((high.generation > low.generation) & linear, axis=0))
    open_hours = jnp.any(zone_slopes(market) == 0, axis=0) & jnp.any(jnp.stack(moves), axis=0)
    return jnp.sum(open_hours, dtype=jnp.int32)


def _own(market: Market, prices: Rows, scale: Scales, found: tuple[Rows, Plan, Plan]) -> Own:
    """What is wrong by prosumer: violated rows and bounds, and natural residuals."""
    outside, beyond, left = found
    stores = market.buffers
    ts, tiny = counted(market), jnp.finfo(scale.power.dtype).tiny

    def powers(each: Plan) -> Array:
        return _by_prosumer(market, each, each.charge, each.discharge)

    def contents(each: Array) -> Array:
        return jnp.zeros_like(size).at[stores.owner].max(_by_row(each))

    size, energy = sizes(market), jnp.abs(energy_prices(market, prices))
    value = jnp.maximum(_by_row(energy), 1e-2 * scale.price)
    missed = jnp.maximum(_by_row(outside.balance), powers(beyond))
    content = contents(jnp.maximum(outside.energy, beyond.energy))
    price = scale.price * jnp.maximum(powers(left), contents(left.energy))
    store = contents(jnp.abs(stores.energy_max))
    # who has nothing of its own is measured by the market
    whole = jnp.where(size > tiny, size, scale.power), jnp.where(store > tiny, store, scale.energy)
    share = jnp.maximum(missed / whole[0], content / whole[1])
    used = jnp.sum(ts * energy * jnp.abs(market.prosumers.load), axis=1)
    return Own(
        size=size,
        bill=jnp.maximum(used, jnp.max(ts) * value * size),
        missed=missed,
        content=content,
        price=price,
        share=jnp.maximum(share, price / value),
    )


def _by_prosumer(market: Market, each: Plan, *kept: Float[Array, "K H"]) -> Float[Array, " N"]:
    """The largest entry of all that each prosumer decides, of its buffers of what is `kept`."""
    units, stores, pairs = market.generators, market.buffers, market.trading
    own = jnp.maximum(_by_row(each.imports), _by_row(each.exports))
    own = jnp.maximum(own, _by_row(each.curtailed))
    own = own.at[units.owner].max(_by_row(each.generation))
    for table in kept:
        own = own.at[stores.owner].max(_by_row(table))
    traded = _by_row(each.trades)
    return own.at[pairs.buyer].max(traded).at[pairs.seller].max(traded)


def _beyond(value: Array, low: Array, high: Array) -> Array:
    """How far values are outside of limits."""
    return jnp.maximum(jnp.maximum(value - high, low - value), 0.0)


def _by_row(array: Array) -> Array:
    """The largest entry of each row."""
    return jnp.max(array, axis=1, initial=0.0)
