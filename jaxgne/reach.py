"""What "no limit", written as a large number, stands for: a bound that no one comes near.

A pair's limit of 1e8 kW among houses means the same as none at all, but a gap measured over it, a
power scale taken from it, or an interior point in the middle of it says nothing. Here such bounds
come to where no plan needs to go.
"""

import equinox as eqx
from jaxtyping import Array, Float

from .incidence import all_falls, falls, most_turned
from .market import FIELDS, Market
from .model import curve_slopes, export_prices, import_prices, zone_bases
from .runner import jnp, lax, remembered
from .tables import Buffers, retained

_FAR = 1e3  # times what can be reached, from which on a bound is no limit
_WIDER = 1.5  # how far beyond what can be reached bounds are put


@remembered
def bounded(market: Market) -> Market:
    """The market with each bound that is a thousand times out of reach put where it still is.

    Equilibria stay as they are: where some plan meets all limits, one does within these bounds, and
    where no energy is had for nothing an equilibrium lies there too. Bounds that matter, or are
    less far out, keep their very numbers. Reach is counted by hour over all prosumers: nobody
    makes, buys or passes on more than all together can use, sells more than all can make, curtails
    more than has to be made, or fills a buffer beyond its content.
    """
    people, units, stores = market.prosumers, market.generators, market.buffers
    pairs, tariff = market.trading, market.tariff
    surplus = jnp.sum(jnp.maximum(-people.load, 0.0), axis=0)
    exports = _within(people.export_max, surplus + _sold(market, surplus))
    used = jnp.sum(jnp.maximum(people.load, 0.0), axis=0) + jnp.sum(exports, axis=0)
    content = _content(market, used)
    charge, discharge = _powers(market, content)
    left = jnp.sum(jnp.maximum(stores.energy_start, 0.0) * _given(stores))
    spare = surplus + left / market.hour_length
    # what has to be made, or is paid for being made or drawn, may have to be curtailed
    must = jnp.where(_least(market) < 0, units.power_max, units.power_min)
    must = jnp.sum(jnp.maximum(must, 0.0), axis=0) + _unwanted(market)
    curtailed = _within(people.curtail_max, spare + must)
    used = used + jnp.sum(charge, axis=0) + jnp.sum(curtailed, axis=0)
    made = jnp.maximum(_within(units.power_max, used), units.power_min)
    # passed round at a profit, trades run to their limits
    paid = jnp.abs(pairs.fee_buyer - pairs.fee_seller) > 2 * pairs.toll + pairs.reluctance
    most = jnp.max(used, initial=0.0)[None]
    limit = jnp.where(jnp.any(paid), pairs.limit, _within(pairs.limit, most))
    carried = used + surplus + jnp.sum(discharge, axis=0)
    carried += jnp.sum(made, axis=0) + jnp.sum(jnp.abs(market.grid.passive), axis=0)
    far = _FAR * jnp.max(carried, initial=0.0)
    free = (tariff.total_min < -far, tariff.total_max > far, people.import_max > far)
    changed = {
        "Tariff.total_min": jnp.where(free[0], -jnp.inf, tariff.total_min),
        "Tariff.total_max": jnp.where(free[1], jnp.inf, tariff.total_max),
        "Prosumers.import_max": jnp.where(free[2], jnp.inf, people.import_max),
        "Prosumers.export_max": exports,
        "Prosumers.curtail_max": curtailed,
        "Generators.power_max": made,
        "Buffers.charge_max": charge,
        "Buffers.discharge_max": discharge,
        "Buffers.energy_max": content,
        "Trading.limit": limit,
        **_network(market, jnp.max(carried, initial=0.0)),
    }

    def fields(m: Market) -> list[Array]:
        return [FIELDS[name].find(m) for name in changed]

    return eqx.tree_at(fields, market, list(changed.values()))


def _within(bound: Array, reach: Array) -> Array:
    """A bound, or where it is far out of `reach` (the last axis are hours) one that is near."""
    reach = lax.stop_gradient(reach)
    most = jnp.max(reach, axis=-1, keepdims=True, initial=0.0)
    return jnp.where((bound > _FAR * most) & (most > 0), _WIDER * (reach + most), bound)


def _unwanted(market: Market) -> Float[Array, " H"]:
    """What may have to be drawn though no one needs it, kW: no end of it at negative prices."""
    return jnp.where(jnp.any(_asked(market) < 0), jnp.inf, _fed(market))


def _fed(market: Market) -> Float[Array, " H"]:
    """What is fed in or has to be imported whatever prices are, kW.

    Limits on lines, voltages, exports and the total may leave no other way than to take it.
    """
    least = market.tariff.total_min
    least = jnp.where(jnp.isfinite(least), jnp.maximum(least, 0.0), 0.0)
    given = (-market.prosumers.load, -market.grid.passive, market.generators.power_min)
    return least + sum(jnp.sum(jnp.maximum(power, 0.0), axis=0) for power in given)


def _asked(market: Market) -> Float[Array, "N H"]:
    """What each prosumer pays for a kWh of the main grid at no import, EUR/kWh."""
    return import_prices(market, zone_bases(market))


def _sold(market: Market, surplus: Array) -> Float[Array, " H"]:
    """What generators and buffers may sell to the main grid, kW.

    Generators up to where they cost what it pays; buffers, where it never pays more than the least
    price of an hour, what they were given for less: by the start, surplus and generators. And all
    that is drawn, as limits on lines, voltages and the total may leave no other way to bring it.
    """
    units, stores, tariff = market.generators, market.buffers, market.tariff
    best = jnp.max(export_prices(market), initial=-jnp.inf)
    gain = jnp.maximum(best - _least(market), 0.0)
    curved = units.quadratic[:, None] > 0
    worth = gain / jnp.where(curved, 2 * units.quadratic[:, None], 1.0)
    worth = jnp.where((gain > 0) & ~curved, jnp.inf, worth)
    made = jnp.sum(jnp.clip(worth, units.power_min, units.power_max), axis=0)
    given = jnp.sum(market.hour_length * (surplus + made))
    given += jnp.sum(jnp.maximum(stores.energy_start, 0.0) * _given(stores))
    stored = jnp.sum(stores.discharge_max, axis=0)
    bought = best > jnp.min(_asked(market), initial=jnp.inf)
    stored = jnp.where(bought, stored, jnp.minimum(stored, given / market.hour_length))
    forced = jnp.where(jnp.isfinite(tariff.total_max), jnp.maximum(-tariff.total_max, 0.0), 0.0)
    return made + stored + forced + _drawn(market)


def _drawn(market: Market) -> Float[Array, " H"]:
    """What loads draw, and buffers that have to be filled, kW, prosumers' and others'."""
    into = jnp.min(market.buffers.charge_efficiency, axis=1, initial=1.0)
    filled = jnp.sum(_before_losses(market, _owed(market.buffers)) / into)
    loads = (market.prosumers.load, market.grid.passive)
    used = sum(jnp.sum(jnp.maximum(load, 0.0), axis=0) for load in loads)
    return used + filled / market.hour_length


def _owed(stores: Buffers) -> Float[Array, " K"]:
    """What each buffer has to hold, and to drain, kWh."""
    drained = jnp.sum(jnp.maximum(stores.drain, 0.0), axis=1)
    return drained + jnp.max(stores.energy_min, axis=1, initial=0.0)


def _before_losses(market: Market, content: Float[Array, " K"]) -> Float[Array, " K"]:
    """What leaves so much of itself in each buffer after all steps, kWh."""
    return content / jnp.prod(jnp.minimum(retained(market), 1.0), axis=1)


def _given(stores: Buffers) -> Float[Array, " K"]:
    """Most that discharging gives of a content."""
    return jnp.max(stores.discharge_efficiency, axis=1, initial=0.0)


def _least(market: Market) -> Float[Array, "G #H"]:
    """Least that a kWh more of each generator costs, but for its quadratic cost, EUR/kWh."""
    units, linear = market.generators, market.generators.linear[:, None]
    return linear + curve_slopes(units, units.power_min) if units.curves else linear


def _content(market: Market, used: Array) -> Float[Array, "K H"]:
    """Most that each buffer needs to hold, kWh: what it may be given, or what is of use later.

    Or has to be taken, as what is fed in.
    """
    stores, ts = market.buffers, market.hour_length
    given = jnp.sum(ts * stores.charge_efficiency * stores.charge_max, axis=1)
    full = jnp.maximum(stores.energy_start, 0.0) + given
    used = used + _fed(market)
    needed = jnp.sum(ts * used) / jnp.min(stores.discharge_efficiency, axis=1, initial=1.0)
    needed = _before_losses(market, needed + _owed(stores))
    kept_for_itself = (stores.final_value > 0) | jnp.any(_asked(market) < 0)
    full = jnp.where(kept_for_itself, full, jnp.minimum(full, needed))
    return jnp.maximum(_within(stores.energy_max, full[:, None]), stores.energy_min)


def _powers(market: Market, content: Array) -> tuple[Array, Array]:
    """Charging and discharging powers that fill and empty each buffer within a step, kW.

    Both at once burn what is drawn unwanted, where the way through the buffer has losses.
    """
    stores, ts, start = market.buffers, market.hour_length, market.buffers.energy_start
    top = jnp.maximum(jnp.max(content, axis=1, initial=-jnp.inf), start)
    bottom = jnp.minimum(jnp.min(stores.energy_min, axis=1, initial=jnp.inf), start)
    span = top - bottom + jnp.max(jnp.abs(stores.drain), axis=1, initial=0.0)
    lost = jnp.max(1 - stores.retention, axis=1, initial=0.0)
    span = (span + lost * jnp.maximum(jnp.abs(top), jnp.abs(bottom)))[:, None]
    into, out = stores.charge_efficiency, stores.discharge_efficiency
    lost = 1 - into * out
    burnt = jnp.where(lost > 0, _unwanted(market) / jnp.where(lost > 0, lost, 1.0), 0.0)
    charge = span / into / ts + burnt
    discharge = span * out / ts + burnt
    return _within(stores.charge_max, charge), _within(stores.discharge_max, discharge)


def _network(market: Market, carried: Array) -> dict[str, Array]:
    """Bounds of voltages, angles and reactive power, as far as `carried` kW can take them."""
    grid = market.grid
    if not grid.model.networked:
        return {}
    at_buses = jnp.sum(jnp.abs(grid.passive_reactive), axis=0)
    drawn = jnp.max(at_buses + jnp.sum(jnp.abs(market.prosumers.reactive), axis=0), initial=0.0)
    carried, drawn = most_turned(grid, carried, drawn)
    lower, none = falls(grid), jnp.zeros_like(drawn)
    most = {
        state: sum(
            (
                jnp.sum(jnp.abs(each[state][0]) * carried + jnp.abs(each[state][1]) * drawn)
                for each in all_falls(grid)
            ),
            none,
        )
        for state in lower
    }
    drop, turn = most.get("voltage", none), most.get("angle", none)
    raised = jnp.prod(jnp.maximum(1 / grid.tap, 1.0))  # by all transformers one after the other
    top = _within(grid.voltage_max, raised * (1 + drop[None]))
    widest = _within(jnp.maximum(grid.angle_max, -grid.angle_min), 1 + turn[None])
    # what a line's reactive flow may be by the voltages at its ends
    span = (raised * jnp.max(top, initial=0.0)) ** grid.model.power + drop
    steep = lower["voltage"][1] if "voltage" in lower else none[None]
    alone = jnp.asarray(not grid.coupled.shape[0])  # else the voltages also tell of others' flows
    by_line = jnp.where((steep > 0) & alone, span / jnp.where(steep > 0, steep, 1.0), jnp.inf)
    injected = _within(grid.compensation_max, drawn[None] + jnp.sum(by_line, keepdims=True))
    return {
        "Grid.voltage_max": top,
        "Grid.angle_max": jnp.minimum(grid.angle_max, widest),
        "Grid.angle_min": jnp.maximum(grid.angle_min, -widest),
        "Grid.compensation_max": injected,
    }
