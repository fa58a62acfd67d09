"""The one judge of every answer: how far a plan and prices are from an equilibrium.

Its measure is the relative KKT error (model.md: Yardstick). Nothing here knows how an answer was
found. Everything is computed in float64, also when the market is in float32: rounding is the
solver's problem, not the judge's.
"""

from dataclasses import replace

import jax
from jaxtyping import Array, Float, Int

from .feasibility import existing, implied_boxes, support, weights
from .market import Market, cast
from .model import (
    Plan,
    Rows,
    aggregate,
    boxes,
    by_owner,
    by_side,
    curvature,
    energy_prices,
    grid_price,
    length,
    limits,
    net_exchange,
    own_gradient,
    prox,
    pull,
    rows,
    toll,
    zeros,
)
from .reach import bounded
from .record import Record
from .runner import jnp, remembered, wide

_LEAST = 1e-6  # size, as a share of the largest, below which nothing is promised
_ROOM = 100.0  # times its own size, by which what is small is measured
_SHARED = 10.0  # and a limit on the total, which all meet together


class Scales(Record):
    """The market's own magnitudes, by which errors are measured; no bare 1 among them."""

    power: Float[Array, ""]  # kW, of one prosumer
    total: Float[Array, ""]  # kW, of all together
    energy: Float[Array, ""]  # kWh, of the largest buffer
    price: Float[Array, ""]  # EUR/kWh, the highest marginal price
    bill: Float[Array, ""]  # EUR, gross cost of the energy used


class Shares(Record):
    """What small ones are measured by: a hundred times their own size, the market's at most.

    And 1e-4 of the market's at least. So an error of 1e-6 is 1e-4 of whatever is at least 1e-6 as
    large as the largest of its kind, and what is at least 1e-2 as large is measured by the largest.
    A limit on the total exchange is measured by ten times itself: the error is 1e-5 of it at most.
    """

    prosumer: Float[Array, " N"]  # kW
    buffer: Float[Array, " K"]  # kWh
    line: Float[Array, " L"]  # kVA
    total: tuple[Float[Array, " H"], Float[Array, " H"]]  # kW, of limits on total exchange


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


def scales(market: Market, plan: Plan) -> Scales:
    """Natural magnitudes of a market at a plan, with floors from its data.

    Every cost of the market is a floor of the price, so that errors have a measure where energy
    is free. Where nothing costs anything, or nobody has a load or device, 1 EUR/kWh or 1 kW it is.
    """
    own, market = sizes(market), bounded(market)
    load = jnp.abs(market.prosumers.load)
    passive = jnp.abs(market.grid.passive)
    hourly = jnp.sum(load, axis=0) + jnp.sum(passive, axis=0)
    units, stores, tariff = market.generators, market.buffers, market.tariff
    device = jnp.maximum(
        _largest(jnp.abs(units.power_max)),
        jnp.maximum(_largest(stores.charge_max), _largest(stores.discharge_max)),
    )
    power = jnp.maximum(_largest(load), 1e-2 * jnp.maximum(device, _largest(hourly)))
    power = jnp.where(power > 0, power, 1.0)
    total = jnp.maximum(_largest(hourly), power)
    making = units.linear[:, None] + 2 * units.quadratic[:, None] * plan.generation
    expected = jnp.abs(tariff.base) + tariff.slope * hourly
    price = grid_price(market, aggregate(market, plan))
    dearest = jnp.maximum(_largest(jnp.abs(price)), _largest(jnp.abs(making)))
    least = 1e-2 * _dearest_cost(market, jnp.minimum(own, power))
    dearest = jnp.maximum(dearest, jnp.maximum(1e-2 * _largest(expected), least))
    dearest = jnp.where(dearest > 0, dearest, 1.0)
    bought_kw = aggregate(market, plan) + jnp.sum(plan.exports, axis=0)
    bill = jnp.sum(jnp.abs(price * bought_kw)) + jnp.sum(jnp.abs(making * plan.generation))
    usual = jnp.maximum(jnp.sum(expected * hourly), least * jnp.sum(hourly))
    usual = jnp.maximum(usual, dearest * power)
    return Scales(
        power=power,
        total=total,
        energy=jnp.maximum(_largest(stores.energy_max), power * market.hour_length),
        price=dearest,
        bill=market.hour_length * jnp.maximum(bill, 1e-2 * usual),
    )


def _dearest_cost(market: Market, own: Array) -> Float[Array, ""]:
    """The highest price in the market's data, EUR/kWh: every cost there is, at its owner's size.

    Costs of a mW prosumer that rise by 1 EUR/kWh per mW would rise by 1e9 EUR/kWh at a MW, which
    is no measure of anything; a trade is as large as its smaller side.
    """
    units, stores, pairs = market.generators, market.buffers, market.trading
    curved = (
        units.quadratic * own[units.owner],
        stores.quadratic * own[stores.owner],
        pairs.quadratic * jnp.minimum(own[pairs.buyer], own[pairs.seller]),
    )
    plain = (units.linear, stores.linear, stores.final_value)
    plain += (pairs.charge, pairs.fee_buyer, pairs.fee_seller, market.tariff.export)
    each = [2 * _largest(a) for a in curved] + [_largest(jnp.abs(a)) for a in plain]
    return jnp.max(jnp.stack(each))


@remembered
def sizes(market: Market) -> Float[Array, " N"]:
    """Each prosumer's own size, kW: its largest load, generator or buffer."""
    market = bounded(market)
    units, stores = market.generators, market.buffers
    made = jnp.maximum(jnp.abs(units.power_min), jnp.abs(units.power_max))
    held = jnp.maximum(stores.charge_max, stores.discharge_max)
    own = jnp.max(jnp.abs(market.prosumers.load), axis=1, initial=0.0)
    own = own.at[units.owner].max(jnp.max(made, axis=1, initial=0.0))
    return own.at[stores.owner].max(jnp.max(held, axis=1, initial=0.0))


def shares(market: Market, scale: Scales, room: float = _ROOM) -> Shares:
    """What each prosumer, buffer and line is measured by, `room` times its own size; and limits."""
    market = bounded(market)

    def by(own: Array, largest: Array) -> Array:
        return jnp.clip(room * own, _LEAST * room * largest, largest)

    def limit(own: Array) -> Array:
        """By the market where nothing may be exchanged, which has no size."""
        none = own <= _LEAST * scale.total
        return jnp.where(none, scale.total, jnp.minimum(_SHARED * own, scale.total))

    full = jnp.max(jnp.abs(market.buffers.energy_max), axis=1, initial=0.0)
    limits = market.tariff.total_min, market.tariff.total_max
    return Shares(
        prosumer=by(sizes(market), scale.power),
        buffer=by(full, scale.energy),
        line=by(market.grid.rating, scale.total),
        total=jax.tree.map(lambda a: limit(jnp.abs(a)), limits),
    )


def pin(market: Market, prices: Rows) -> Rows:
    """Prices on the gauge mu_tg = 0, as one constant per hour is free (model.md: Gauge).

    `copperplate` has no such constant. Trade prices follow from `balance`.
    """
    if market.grid.model == "copperplate":
        return prices
    constant = prices.exchange
    return replace(
        prices,
        balance=prices.balance - constant,
        bus=prices.bus + constant,
        exchange=jnp.zeros_like(constant),
    )


def gaps(market: Market, plan: Plan, prices: Rows) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """What each prosumer, and the operator, could gain at most by deviating, EUR (model.md: Gaps).

    With sigma and all prices held: priced perceived cost of the plan minus its least value over
    the private set, the private rows priced by their multipliers, entry by entry in closed form.
    """
    lower, upper = implied_boxes(market)
    bend = curvature(market)
    inside = jax.tree.map(jnp.clip, plan, lower, upper)
    price = grid_price(market, aggregate(market, plan))
    slope = jax.tree.map(jnp.add, own_gradient(market, inside, price), pull(market, prices))
    linear = jax.tree.map(lambda g, h, u: g - h * u, slope, bend, inside)
    zero = zeros(market)
    tolls = replace(zero, trades=zero.trades + toll(market))

    def gain(u: Array, g: Array, h: Array, c: Array, low: Array, high: Array) -> Array:
        def cost(v: Array) -> Array:
            return h / 2 * v**2 + g * v + c * jnp.abs(v)

        curved = h > 0
        corner = jnp.where(g > 0, low, high)
        pulled = jnp.sign(g) * jnp.maximum(jnp.abs(g) - c, 0.0)
        best = jnp.where(curved, jnp.clip(-pulled / jnp.where(curved, h, 1.0), low, high), corner)
        return cost(u) - jnp.minimum(cost(best), cost(jnp.clip(0.0, low, high)))

    each = jax.tree.map(gain, inside, linear, bend, tolls, lower, upper)
    owner, store = market.generators.owner, market.buffers.owner
    hourly = (
        by_owner(market, each.generation, owner)
        + by_owner(market, each.charge + each.discharge + each.energy, store)
        + each.imports
        + each.exports
        + each.curtailed
        + by_side(market, each.trades / 2)
    )
    _, lines = support(market, linear, lower, upper)
    worth = linear.active * inside.active + linear.reactive * inside.reactive
    own = (each.voltage, each.angle, each.compensation, each.exchange)
    network = sum(jnp.sum(a) for a in own)
    scarce = market.hour_length * jnp.sum(_complementarity(market, plan, prices))
    return jnp.sum(hourly, axis=1), jnp.sum(worth - lines) + network + scarce


def _complementarity(market: Market, plan: Plan, prices: Rows) -> Float[Array, " H"]:
    """Price of the aggregate limit times what is left of it, EUR/h."""
    s = net_exchange(market, plan)
    high, low = market.tariff.total_max, market.tariff.total_min
    price = prices.aggregate
    room = jnp.where(price > 0, high - s, jnp.where(price < 0, s - low, 0.0))
    return jnp.where(price == 0, 0.0, jnp.abs(price) * jnp.abs(jnp.where(price == 0, 0.0, room)))


def pushed(
    market: Market, plan: Plan, prices: Rows, scale: Scales, share: Shares | None = None
) -> tuple[Plan, Plan]:
    """Where marginal costs push each entry of a plan, u - rho g, and rho, one per field or row.

    A price of `scale.price` moves a prosumer's entry by `scale.power`, or its `share`; a trade by
    that of the smaller side; others likewise by theirs.
    """
    network = scale.total / scale.price / market.hour_length
    unit = 1 / (scale.price * scale.total * market.hour_length)
    made = stored = own = traded = scale.power / scale.price / market.hour_length
    energy, lines = scale.energy / scale.price, network
    if share is not None:
        by, pairs = share.prosumer[:, None] / scale.price / market.hour_length, market.trading
        own, made, stored = by, by[market.generators.owner], by[market.buffers.owner]
        traded = jnp.minimum(by[pairs.buyer], by[pairs.seller])
        energy = share.buffer[:, None] / scale.price
        lines = share.line[:, None] / scale.price / market.hour_length
    rho = Plan(
        generation=made,
        charge=stored,
        discharge=stored,
        energy=energy,
        imports=own,
        exports=own,
        curtailed=own,
        trades=traded,
        active=lines,
        reactive=lines,
        voltage=unit,
        angle=unit,
        compensation=network,
        exchange=network,
    )
    price = grid_price(market, aggregate(market, plan))
    slope = jax.tree.map(jnp.add, own_gradient(market, plan, price), pull(market, prices))
    return jax.tree.map(lambda u, g, r: u - r * g, plan, slope, rho), rho


def _natural(
    market: Market, plan: Plan, prices: Rows, scale: Scales, share: Shares
) -> tuple[Plan, Plan]:
    """Natural residual |u - prox(u - rho g)| / rho, and what it is measured by, per field."""
    wish, rho = pushed(market, plan, prices, scale, share)
    step = jax.tree.map(lambda r, u: jnp.broadcast_to(r, u.shape), rho, plan)
    moved = prox(market, wish, step)
    residual = jax.tree.map(lambda u, v, r: jnp.abs(u - v) / r, plan, moved, rho)
    kwh = scale.price * market.hour_length
    size = replace(
        jax.tree.map(lambda _: kwh, rho),
        energy=scale.price,
        voltage=kwh * scale.total,
        angle=kwh * scale.total,
    )
    return residual, size


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
    over = jnp.maximum(length(plan.active, plan.reactive) - market.grid.rating[:, None], 0.0)
    total, one = scale.total, jnp.ones_like(scale.total)
    row_scale = Rows(
        balance=share.prosumer[:, None],
        energy=share.buffer[:, None],
        aggregate=jnp.where(value.aggregate < low.aggregate, *share.total),
        bus=total,
        bus_reactive=total,
        exchange=total,
        voltage=one,
        angle=one,
    )
    pairs, by = market.trading, share.prosumer[:, None]
    held = by[market.buffers.owner]
    bound_scale = Plan(
        generation=by[market.generators.owner],
        charge=held,
        discharge=held,
        energy=share.buffer[:, None],
        imports=by,
        exports=by,
        curtailed=by,
        trades=jnp.minimum(by[pairs.buyer], by[pairs.seller]),
        active=total,
        reactive=total,
        compensation=total,
        exchange=total,
        voltage=one,
        angle=one,
    )
    relative = jax.tree.leaves(
        jax.tree.map(lambda a, s: _largest(a / s), (outside, beyond), (row_scale, bound_scale))
    )
    infeasibility = jnp.max(jnp.stack([*relative, _largest(over / share.line[:, None])]))
    gap, operator_gap = gaps(market, plan, used)

    def unpaid(y: Array, weight: Array, a: Array, lo: Array, up: Array) -> Array:
        bound = jnp.where(y > 0, up, jnp.where(y < 0, lo, a))
        return weight * jnp.sum(y * (a - bound))

    missed = jax.tree.map(unpaid, used, weights(market), value, low, high)
    missed = replace(missed, aggregate=jnp.zeros_like(total))  # in the operator's gap already
    duality_gap = jnp.sum(gap) + operator_gap - sum(jax.tree.leaves(missed))
    left, measure = _natural(market, plan, used, scale, share)
    by_own, _ = _natural(market, plan, used, scale, shares(market, scale, 1.0))
    stationarity = jax.tree.map(_largest, left)
    wrong = jax.tree.map(lambda a, b: _largest(jnp.abs(a - b)), prices, used)
    per_unit = {"voltage": wrong.voltage / total, "angle": wrong.angle / total}
    sign = jnp.max(jnp.stack(jax.tree.leaves(replace(wrong, **per_unit))))
    dual = jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.divide, stationarity, measure))))
    dual = jnp.maximum(dual, sign / scale.price)
    regret = jnp.maximum(jnp.sum(gap) + operator_gap, jnp.abs(duality_gap)) / scale.bill
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
        stationarity=stationarity,
        loose=_loose(market),
        own=_own(market, used, scale, (outside, beyond, by_own)),
        sign=sign,
        infeasibility=infeasibility,
        regret=regret,
        dual=dual,
        error=jnp.maximum(jnp.maximum(infeasibility, regret), dual),
    )


@remembered
def _loose(market: Market) -> Int[Array, ""]:
    """In how many hours total import may be another at the same prices."""
    low, high = boxes(market)
    flexible = (high.charge, high.discharge, high.exports, high.curtailed)
    moves = [jnp.any(a > 0, axis=0) for a in flexible]
    linear = market.generators.quadratic[:, None] == 0
    moves.append(jnp.any((high.generation > low.generation) & linear, axis=0))
    open_hours = (market.tariff.slope == 0) & jnp.any(jnp.stack(moves), axis=0)
    return jnp.sum(open_hours, dtype=jnp.int32)


def _own(market: Market, prices: Rows, scale: Scales, found: tuple[Rows, Plan, Plan]) -> Own:
    """What is wrong by prosumer: violated rows and bounds, and natural residuals."""
    outside, beyond, left = found
    units, stores, pairs = market.generators, market.buffers, market.trading
    ts, tiny = market.hour_length, jnp.finfo(scale.power.dtype).tiny

    def powers(each: Plan) -> Array:
        own = jnp.maximum(_by_row(each.imports), _by_row(each.exports))
        own = jnp.maximum(own, _by_row(each.curtailed))
        own = own.at[units.owner].max(_by_row(each.generation))
        own = own.at[stores.owner].max(jnp.maximum(_by_row(each.charge), _by_row(each.discharge)))
        traded = _by_row(each.trades)
        return own.at[pairs.buyer].max(traded).at[pairs.seller].max(traded)

    def contents(each: Array) -> Array:
        return jnp.zeros_like(size).at[stores.owner].max(_by_row(each))

    size, energy = sizes(market), jnp.abs(energy_prices(market, prices))
    value = jnp.maximum(_by_row(energy), 1e-2 * scale.price)
    missed = jnp.maximum(_by_row(outside.balance), powers(beyond))
    content = contents(jnp.maximum(outside.energy, beyond.energy))
    price = jnp.maximum(powers(left) / ts, contents(left.energy))
    store = contents(jnp.abs(stores.energy_max))
    share = jnp.maximum(missed / jnp.maximum(size, tiny), content / jnp.maximum(store, tiny))
    used = jnp.sum(energy * jnp.abs(market.prosumers.load), axis=1)
    return Own(
        size=size,
        bill=ts * jnp.maximum(used, value * size),
        missed=missed,
        content=content,
        price=price,
        share=jnp.maximum(share, price / value),
    )


def _beyond(value: Array, low: Array, high: Array) -> Array:
    """How far values are outside of limits."""
    return jnp.maximum(jnp.maximum(value - high, low - value), 0.0)


def _by_row(array: Array) -> Array:
    """The largest entry of each row."""
    return jnp.max(array, axis=1, initial=0.0)
