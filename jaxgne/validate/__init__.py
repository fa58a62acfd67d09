"""Whether a market makes sense: every mistake at once, in the user's words, before anything runs.

All of it is NumPy on the host, and none of it is needed to clear a market.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float

from ..market import Market
from .cycles import negative_cycle
from .tables import POINTS_TO, TYPES, Values, indices, number, shapes, structure, traced, unit, walk

__all__ = ["preference_cycle", "problems", "structure", "validate"]

_MAY_BE_INFINITE = {
    "Prosumers.import_max": np.inf,
    "Grid.rating": np.inf,
    "Tariff.total_max": np.inf,
    "Tariff.total_min": -np.inf,
}
_NOT_NEGATIVE = (
    *("Prosumers.import_max", "Prosumers.export_max", "Prosumers.curtail_max"),
    *("Generators.quadratic", "Buffers.charge_max", "Buffers.discharge_max", "Buffers.quadratic"),
    *("Trading.limit", "Trading.charge", "Trading.quadratic", "Tariff.slope"),
    *("Grid.resistance", "Grid.reactance", "Grid.rating", "Grid.compensation_max"),
)
_BOUNDS = ("Generators.power", "Buffers.energy", "Grid.voltage", "Grid.angle", "Tariff.total")


def problems(market: Market) -> list[str]:
    """Everything wrong with `market`, one sentence each, `structure` first; empty if nothing.

    Besides `structure`: finite numbers, signs, bounds in order, an export price below the purchase
    price, buffers that can keep their bounds, and necessary conditions for demand to be met.
    """
    wrong = structure(market)
    if traced(market) or shapes(market):
        return wrong
    v = Values(market)
    with np.errstate(all="ignore"):  # what is not finite is reported once, by _numbers
        wrong += _numbers(v) + _bounds(v)
        if not indices(v):
            wrong += _islands(v)
            give, take, unkept = _storage(v)
            wrong += unkept + _supply(v, give, take)
    return wrong


def validate(market: Market) -> Market:
    """`market` unchanged, or `ValueError` with all its `problems`, one sentence a line.

    Warns (`UserWarning`) of preferences that send trades round in a circle. A market with traced
    arrays has only its shapes checked.
    """
    wrong = problems(market)
    if wrong:
        raise ValueError("\n".join(wrong))
    cycle = [] if traced(market) else preference_cycle(market)
    if cycle:
        shown = cycle if len(cycle) <= 8 else [*cycle[:6], "..."]
        warnings.warn(
            f"Trading.fee_buyer and fee_seller: energy passed round prosumers "
            f"{' to '.join(str(i) for i in [*shown, cycle[0]])} is worth more to them than the "
            "charges they pay, so these trades run to their limits; raise Trading.charge or bring "
            "the two fees of a pair closer together.",
            stacklevel=2,
        )
    return market


def preference_cycle(market: Market) -> list[int]:
    """Prosumers round whom energy is passed at a negative cost, seller first; empty if none.

    A kW more from seller to buyer costs the two `fee_buyer - fee_seller + 2 charge` (MODEL 3), one
    the other way `fee_seller - fee_buyer + 2 charge`. A very long cycle may go unseen.
    """
    v = Values(market)
    able = v["Trading.limit"] > 0
    buyer, seller = v["Trading.buyer"][able], v["Trading.seller"][able]
    dislike = (v["Trading.fee_buyer"] - v["Trading.fee_seller"])[able]
    toll = 2 * v["Trading.charge"][able]
    fees = np.max(np.abs(dislike), initial=0.0)
    if not np.any(v.beyond(np.abs(dislike), toll, fees)):
        return []
    return negative_cycle(
        np.concatenate([seller, buyer]),
        np.concatenate([buyer, seller]),
        np.concatenate([toll + dislike, toll - dislike]) + v.rounding() * fees,
        len(v["Prosumers.bus"]),
    )


def _numbers(v: Values) -> list[str]:
    """Numbers that are not finite, or negative where they may not be."""
    wrong = []
    for name in (name for name in TYPES if name not in POINTS_TO):
        odd = ~np.isfinite(v[name])
        if name in _MAY_BE_INFINITE:
            odd &= v[name] != _MAY_BE_INFINITE[name]
        wrong += v.complain(
            name,
            odd,
            lambda at, name=name: (
                f"{v[name][at]} is not a finite number; give one"
                + f" in {unit(name)}" * bool(unit(name))
            ),
        )
    for name in _NOT_NEGATIVE:
        wrong += v.complain(
            name,
            (v[name] < 0) & (v[name] > -np.inf),  # that one is in the list already
            lambda at, name=name: f"{v.text(name, at)} is negative; give 0 or more",
        )
    return wrong


def _bounds(v: Values) -> list[str]:
    """Bounds out of order, and numbers that contradict one another or what they stand for."""
    wrong = []
    for pair in _BOUNDS:
        low, high = f"{pair}_min", f"{pair}_max"
        wrong += v.complain(
            high,
            v[high] < v[low],
            lambda at, low=low, high=high: (
                f"{v.text(high, at)} is below {low.split('.')[1]} "
                f"{v.text(low, at)}; swap or raise it"
            ),
        )
    wrong += v.complain(
        "Grid.voltage_min",
        (v["Grid.voltage_min"] <= 0) | (v["Grid.voltage_min"] > 2),
        lambda at: (
            f"{v.text('Grid.voltage_min', at)} is no voltage per unit; give a number like "
            "0.95, not volts or kV"
        ),
    )
    wrong += v.complain(
        "Grid.feeder_voltage",
        (v["Grid.feeder_voltage"] < 0.5) | (v["Grid.feeder_voltage"] > 1.5),
        lambda at: (
            f"{v.text('Grid.feeder_voltage', at)} is no voltage that a main grid holds; give a "
            "number per unit like 1.04, from 0.5 to 1.5"
        ),
    )
    anticipation = v["Tariff.anticipation"]
    wrong += v.complain(
        "Tariff.anticipation",
        (anticipation < 0) | (anticipation > 1),
        lambda at: (
            f"{anticipation:.6g} is not between 0 and 1; give 1 for Nash, 0 for price takers"
        ),
    )
    gain = v["Buffers.charge_efficiency"] * v["Buffers.discharge_efficiency"]
    wrong += v.complain(
        "Buffers.charge_efficiency",
        (gain > 1) & np.any(v["Buffers.discharge_max"] > 0, axis=1),
        lambda at: (
            f"charging and discharging 1 kWh returns {gain[at]:.6g} kWh; lower an "
            "efficiency, or set discharge_max to 0 for a heat pump"
        ),
    )
    grid = v.market.grid
    if grid.model == "paper" and not grid.reactive_balance:
        wrong += v.complain(
            "Grid.compensation_max",
            v["Grid.compensation_max"] > 0,
            lambda at: (
                f"{v.text('Grid.compensation_max', at)} does nothing where reactive power is not "
                "balanced; give the grid reactive_balance=True, or 0 here"
            ),
        )
    if grid.model == "paper":
        wrong += v.complain(
            "Grid.reactance",
            (v["Grid.resistance"] == 0) & (v["Grid.reactance"] == 0),
            lambda at: (
                "resistance and reactance are both 0, so the line has no admittance; give "
                "it an impedance or merge its two buses"
            ),
        )
    return wrong


def _islands(v: Values) -> list[str]:
    """Buses of the paper's grid that use power and have no path to a feeder bus."""
    if v.market.grid.model != "paper" or not len(v["Grid.feeder"]):
        return []
    used = np.any(v["Grid.passive"] != 0, axis=1)
    used[v["Prosumers.bus"]] = True
    return v.complain(
        "Grid.passive",
        used & (walk(v)[0] < 0),
        lambda at: (
            f"{v.bus(at[0])} has a load or a prosumer but no path to a feeder bus; add the "
            "missing line or feeder bus"
        ),
        axes="B",
    )


def _by_owner(v: Values, owner: str, values: np.ndarray) -> Float[np.ndarray, "N H"]:
    """Sum of `values`, hourly or one a row, over the rows of each prosumer."""
    count = len(v["Prosumers.bus"])
    columns = values.T if values.ndim == 2 else values[None]
    return np.stack([np.bincount(v[owner], column, count) for column in columns], axis=1)


def _storage(v: Values) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What each prosumer's buffers can give and take per hour, kW; and bounds they cannot keep.

    The contents a buffer can have at the end of an hour form an interval, found hour by hour from
    `energy_start` with everything charged or discharged. From its top a buffer gives most, down to
    `energy_min`; from its bottom it takes most, up to `energy_max`, also by charging and
    discharging at once, which loses energy.
    """
    ts, keep = v["Market.hour_length"], v["Buffers.retention"]
    gain, loss = v["Buffers.charge_efficiency"], 1 / v["Buffers.discharge_efficiency"]
    most_in, most_out, drain = (
        v[f"Buffers.{name}"] for name in ("charge_max", "discharge_max", "drain")
    )
    floor, ceiling = v["Buffers.energy_min"], v["Buffers.energy_max"]
    give, take, high, low = (np.empty_like(floor) for _ in range(4))
    top = bottom = v["Buffers.energy_start"]
    for h in range(floor.shape[1]):
        left, least = keep * top - drain[:, h], keep * bottom - drain[:, h]
        high[:, h] = left + ts * gain * most_in[:, h]
        low[:, h] = least - ts * loss * most_out[:, h]
        spare, room = (left - floor[:, h]) / ts, (ceiling[:, h] - least) / ts
        give[:, h] = np.minimum(np.where(spare > 0, spare / loss, spare / gain), most_out[:, h])
        charged = np.minimum(most_in[:, h], (room + loss * most_out[:, h]) / gain)
        take[:, h] = charged - np.maximum(gain * charged - room, 0) / loss
        top = np.clip(high[:, h], floor[:, h], ceiling[:, h])
        bottom = np.clip(low[:, h], floor[:, h], ceiling[:, h])
    scale = np.abs(floor) + np.abs(ceiling)
    unkept = v.complain(
        "Buffers.energy_min",
        v.beyond(floor, high, scale),
        lambda at: (
            f"{v.text('Buffers.energy_min', at)} is out of reach, charging all the time "
            f"gives {number(high[at], 'kWh')}; lower it, or raise energy_start or charge_max"
        ),
    ) + v.complain(
        "Buffers.energy_max",
        v.beyond(low, ceiling, scale),
        lambda at: (
            f"{v.text('Buffers.energy_max', at)} cannot be kept, discharging all the time "
            f"leaves {number(low[at], 'kWh')}; raise it or discharge_max, or lower energy_start"
        ),
    )
    return _by_owner(v, "Buffers.owner", give), _by_owner(v, "Buffers.owner", take), unkept


def _supply(v: Values, give: Float[np.ndarray, "N H"], take: Float[np.ndarray, "N H"]) -> list[str]:
    """Loads that cannot be met, surpluses that cannot go anywhere, prices that invite reselling.

    Necessary conditions only, from what each prosumer and all together can at most do: the network
    may still forbid it.
    """
    load, ends = v["Prosumers.load"], ("buyer", "seller")
    trade = sum(_by_owner(v, f"Trading.{end}", v["Trading.limit"]) for end in ends)
    made, forced = (
        _by_owner(v, "Generators.owner", v[f"Generators.power_{end}"]) for end in ("max", "min")
    )
    drawn = {  # least and most that each prosumer takes from its bus
        "least": load - made - give,
        "most": load - forced + take + v["Prosumers.curtail_max"],
    }
    size = np.abs(load) + np.abs(made) + np.abs(forced) + np.abs(give) + np.abs(take)
    bought, sold = v["Prosumers.import_max"] + trade, v["Prosumers.export_max"] + trade
    lacking, spilling = drawn["least"] - bought, -sold - drawn["most"]
    short = v.beyond(drawn["least"], bought, size)
    stuck = v.beyond(-sold, drawn["most"], size)
    wrong = v.complain(
        "Prosumers.load",
        short,
        lambda at: (
            f"{v.text('Prosumers.load', at)} is {number(lacking[at], 'kW')} more than generators, "
            "buffers, trades and imports can serve; raise import_max, a trading limit or a device, "
            "or lower the load"
        ),
    ) + v.complain(
        "Prosumers.load",
        stuck,
        lambda at: (
            f"{v.text('Prosumers.load', at)} leaves a surplus {number(spilling[at], 'kW')} above "
            "what buffers, trades, exports and curtailment can take; raise export_max, "
            "curtail_max or a trading limit"
        ),
    )
    least_bought = np.sum(np.maximum(drawn["least"] - trade, 0), axis=0)
    known = np.any(short | stuck, axis=0)
    return (
        wrong
        + _totals(v, drawn["least"], drawn["most"], known)
        + _resale(v, drawn["least"], least_bought)
    )


def _totals(
    v: Values,
    least: Float[np.ndarray, "N H"],
    most: Float[np.ndarray, "N H"],
    known: Bool[np.ndarray, " H"],
) -> list[str]:
    """What all prosumers together draw, `least` to `most`, against imports, exports and limits.

    Trades cancel, so the net exchange is s = b + what all draw, and between b - exports and
    b + imports. Hours `known` to be wrong already are left out.
    """
    low, high = np.sum(least, axis=0), np.sum(most, axis=0)
    passive = np.sum(v["Grid.passive"], axis=0)
    imports, exports = (np.sum(v[f"Prosumers.{way}_max"], axis=0) for way in ("import", "export"))
    size = np.sum(np.abs(v["Prosumers.load"]), axis=0) + np.sum(np.abs(v["Grid.passive"]), axis=0)
    floor = passive + np.maximum(low, -exports)
    ceiling = passive + np.minimum(high, imports)
    deficit, surplus = v.beyond(low, imports, size), v.beyond(-exports, high, size)
    wrong = v.complain(
        "Prosumers.import_max",
        deficit & ~known,
        lambda at: (
            f"all prosumers together need {number(low[at], 'kW')} from the main grid and may "
            f"import {number(imports[at], 'kW')}; raise import_max or add generation"
        ),
        axes="H",
    ) + v.complain(
        "Prosumers.export_max",
        surplus & ~known,
        lambda at: (
            f"all prosumers together must send {number(-high[at], 'kW')} to the main grid and "
            f"may export {number(exports[at], 'kW')}; raise export_max or curtail_max"
        ),
        axes="H",
    )
    wrong += v.complain(
        "Tariff.total_max",
        v.beyond(floor, v["Tariff.total_max"], size),
        lambda at: (
            f"{v.text('Tariff.total_max', at)} is below {number(floor[at], 'kW')}, the least "
            "that load needs after generation, discharge and exports; raise it or add generation"
        ),
    )
    return wrong + v.complain(
        "Tariff.total_min",
        v.beyond(v["Tariff.total_min"], ceiling, size),
        lambda at: (
            f"{v.text('Tariff.total_min', at)} is above {number(ceiling[at], 'kW')}, the most "
            "that load, charging and curtailment can draw; lower it"
        ),
    )


def _resale(
    v: Values, least: Float[np.ndarray, "N H"], bought: Float[np.ndarray, " H"]
) -> list[str]:
    """Export prices at which buying to resell pays (MODEL 3), in hours when both are allowed.

    The rule: `export` may not exceed `base + slope sigma` at the least total import there can be,
    passive demand plus what prosumers must buy (`bought`: one by one, `least`: together). With a
    slope of 0 it may not even equal it.
    """
    passive = np.sum(v["Grid.passive"], axis=0)
    sigma = passive + np.maximum(bought, np.sum(least, axis=0))
    base, slope, export = (v[f"Tariff.{name}"] for name in ("base", "slope", "export"))
    price = base + slope * sigma
    pays = v.beyond(export, price, np.abs(base)) | ((slope == 0) & (export >= price))
    able = [np.any(v[f"Prosumers.{way}_max"] > 0, axis=0) for way in ("import", "export")]
    return v.complain(
        "Tariff.export",
        pays & able[0] & able[1],
        lambda at: (
            f"{v.text('Tariff.export', at)} is not below the purchase price, which may be as low "
            f"as {number(price[at], 'EUR/kWh')}, so buying to resell pays; lower it or raise base"
        ),
    )
