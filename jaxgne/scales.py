"""What is much in a market: the magnitudes by which errors, steps and stiffness are measured.

A family of entries or of rows is measured by its unit, and by whose rows they are (`measure`).
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from .fields import Field
from .market import Market
from .model import (
    Plan,
    Rows,
    counted,
    curve_slopes,
    export_prices,
    families,
    grid_price,
    import_prices,
    in_zones,
    passive_in_zones,
    rows_like,
    weight,
    zeros,
    zone_bases,
    zone_slopes,
    zone_totals,
)
from .reach import bounded
from .record import Record
from .runner import jnp, remembered
from .succession import ways
from .tables import has_caps, kw_per_unit, places

_OWN = ("prosumer", "generator", "buffer", "pair")  # rows that a prosumer decides
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


def _largest(array: Array) -> Float[Array, ""]:
    return jnp.max(array, initial=0.0)


def scales(market: Market, plan: Plan) -> Scales:
    """Natural magnitudes of a market at a plan, with floors from its data.

    Every cost of the market is a floor of the price, so that errors have a measure where energy
    is free. Where nothing costs anything, or nobody has a load or device, 1 EUR/kWh or 1 kW it is.
    """
    own, market = sizes(market), bounded(market)
    load = jnp.abs(market.prosumers.load)
    passive = jnp.abs(market.grid.passive)
    hourly = jnp.sum(load, axis=0) + jnp.sum(passive, axis=0)
    units, stores = market.generators, market.buffers
    device = jnp.maximum(
        _largest(jnp.abs(units.power_max)),
        jnp.maximum(_largest(stores.charge_max), _largest(stores.discharge_max)),
    )
    power = jnp.maximum(_largest(load), 1e-2 * jnp.maximum(device, _largest(hourly)))
    power = jnp.where(power > 0, power, 1.0)
    total = jnp.maximum(_largest(hourly), power)
    making = units.linear[:, None] + 2 * units.quadratic[:, None] * plan.generation
    if units.curves:  # which may be steep at their ends
        making += curve_slopes(units, (units.power_min + units.power_max) / 2)
    base = jnp.abs(import_prices(market, zone_bases(market)))
    steep = zone_slopes(market) * (in_zones(market, load) + passive_in_zones(market, passive))
    expected = jnp.max(base, axis=0, initial=0.0) + jnp.max(steep, axis=0)
    sigma = zone_totals(market, plan)
    price = grid_price(market, sigma)
    asked = import_prices(market, price)
    dearest = jnp.maximum(_largest(jnp.abs(price)), _largest(jnp.abs(making)))
    dearest = jnp.maximum(dearest, _largest(jnp.abs(asked)))
    least = 1e-2 * _dearest_cost(market, jnp.minimum(own, power))
    dearest = jnp.maximum(dearest, jnp.maximum(1e-2 * _largest(expected), least))
    dearest = jnp.where(dearest > 0, dearest, 1.0)
    bought = price * (sigma + in_zones(market, plan.exports))
    ts = counted(market)
    added = jnp.sum(market.prosumers.import_adder * plan.imports, axis=0)
    bill = jnp.sum(ts * jnp.abs(jnp.sum(bought, axis=0) + added)) + jnp.sum(
        ts * jnp.abs(making * plan.generation)
    )
    usual = jnp.maximum(jnp.sum(ts * expected * hourly), least * jnp.sum(ts * hourly))
    usual = jnp.maximum(usual, dearest * power * jnp.max(ts))
    return Scales(
        power=power,
        total=total,
        energy=jnp.maximum(_largest(stores.energy_max), power * jnp.max(market.hour_length)),
        price=dearest,
        bill=jnp.maximum(bill, 1e-2 * usual),
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
    plain += (pairs.toll, pairs.reluctance, pairs.fee_buyer, pairs.fee_seller)
    plain += (export_prices(market),)
    each = [2 * _largest(a) for a in curved] + [_largest(jnp.abs(a)) for a in plain]
    if has_caps(market):
        paid = jnp.abs(market.caps.price) / kw_per_unit(market.caps)[:, 0]
        each.append(_largest(paid) / jnp.min(market.hour_length))
    return jnp.max(jnp.stack(each))


@remembered
def cap_sizes(market: Market) -> tuple[Float[Array, "M 1"], Float[Array, "M 1"]]:
    """What is much of each cap's sum in a step, and of its level, in its unit.

    All that its members can do by their own sizes, and at most ten times its own limits.
    """
    caps, own = market.caps, sizes(market)
    owners = (market.generators.owner, *(market.buffers.owner,) * 2)
    traded = jnp.minimum(own[market.trading.buyer], own[market.trading.seller])
    every = [own, own, *(own[owner] for owner in owners), own, own, traded]  # as in `QUANTITIES`
    each = jnp.concatenate(every)[places(market)]
    summed = jnp.abs(caps.base).at[caps.cap].add(jnp.abs(caps.weight) * each[:, None])
    step = jnp.max(summed, axis=1, initial=0.0)
    whole = jnp.sum(summed, axis=1)
    if market.before is not None:  # of the way on which it is most
        whole = jnp.max(summed @ ways(market.before, summed.shape[1]).T, axis=1, initial=0.0)
    held = jnp.where(caps.carry * caps.adds > 0, whole, step)
    held = jnp.maximum(held, jnp.abs(caps.start))

    def limited(most: Array, ends: tuple[Array, Array]) -> Float[Array, "M 1"]:
        most = jnp.where(most > 0, most, 1.0)
        limits = [jnp.where(jnp.isfinite(end), jnp.abs(end), 0.0) for end in ends]
        limit = _SHARED * jnp.max(jnp.concatenate(limits, axis=1), axis=1, initial=0.0)
        return jnp.where(limit > _LEAST * most, jnp.minimum(limit, most), most)[:, None]

    level = limited(held, (caps.level_min, caps.level_max))
    return jnp.minimum(limited(step, (caps.rise_min, caps.rise_max)), level), level


@remembered
def sizes(market: Market) -> Float[Array, " N"]:
    """Each prosumer's own size, kW: its largest load, generator or buffer."""
    market = bounded(market)
    units, stores = market.generators, market.buffers
    made = jnp.maximum(jnp.abs(units.power_min), jnp.abs(units.power_max))
    held = jnp.maximum(stores.charge_max, stores.discharge_max)
    own = jnp.max(jnp.abs(market.prosumers.load), axis=1, initial=0.0)
    made, held = (jnp.max(a, axis=1, initial=0.0).astype(own.dtype) for a in (made, held))
    return own.at[units.owner].max(made).at[stores.owner].max(held)


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


def measure(field: Field) -> str | None:
    """Which of the `Scales` is much of a family; None where 1 is: pu and rad, shares of caps."""
    if field.unit in ("pu", "rad", ""):
        return None
    if field.unit == "kWh":
        return "energy"
    return "power" if field.row in _OWN else "total"


def much(market: Market, scale: Scales, share: Shares | None = None) -> tuple[Plan, Rows]:
    """What is much of each entry and of each row: one number a family, or with `share` one a row.

    A trade is measured by its smaller side; in pu and rad 1 is much.
    """
    one = jnp.ones_like(scale.total)
    step, level = cap_sizes(market) if has_caps(market) else (one, one)
    by_row: dict[str, Array] = {} if share is None else _by_row(market, share)

    def size(field: Field) -> Array:
        kind = measure(field)
        if field.row == "cap":
            return level if field.name.endswith("level") else step
        if kind is None:
            return one
        if kind == "energy":
            return scale.energy if share is None else share.buffer[:, None]
        return by_row[field.row] if field.row in by_row else getattr(scale, kind)

    return _plan(market, size), _rows(market, size)


def _by_row(market: Market, share: Shares) -> dict[str, Float[Array, "R 1"]]:
    """What is much of each row in kW: that of its prosumer, or line."""
    own, pairs = share.prosumer[:, None], market.trading
    return {
        "prosumer": own,
        "generator": own[market.generators.owner],
        "buffer": own[market.buffers.owner],
        "pair": jnp.minimum(own[pairs.buyer], own[pairs.seller]),
        "line": share.line[:, None],
    }


def worths(market: Market, scale: Scales) -> Plan:
    """What a unit of each entry is worth at the market's price, EUR, by hour."""
    return _plan(market, lambda field: weight(market, field) * _price(market, scale, field))


def plan_prices(market: Market, scale: Scales) -> Plan:
    """What is much of a marginal cost of each entry, EUR/kWh; in pu and rad times kW.

    Of caps it is what a unit of theirs costs at the market's price, EUR per unit, by hour.
    """
    return _plan(market, lambda field: _price(market, scale, field))


def price_sizes(market: Market, scale: Scales) -> Rows:
    """What is much of a price, EUR/kWh; of rows in pu and rad EUR/kWh times kW.

    Of caps likewise.
    """
    return _rows(market, lambda field: _price(market, scale, field))


def _price(market: Market, scale: Scales, field: Field) -> Array:
    if field.row == "cap":
        return scale.price * market.hour_length * kw_per_unit(market.caps)
    return scale.price * scale.total if measure(field) is None else scale.price


def _plan(market: Market, of: Callable[[Field], Array]) -> Plan:
    return Plan(**{name: of(field) for name, field in families(zeros(market)).items()})


def _rows(market: Market, of: Callable[[Field], Array]) -> Rows:
    return Rows(**{name: of(field) for name, field in families(rows_like(market)).items()})
