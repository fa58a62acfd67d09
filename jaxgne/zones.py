"""Price zones: parts of a market whose main grid has a price and a total of its own.

    market = jg.zones.with_zones(market, [0, 0, 1, 1], base=[0.10, 0.25], slope=[0.001, 0.004])
    clearing = jg.clear(market)
    jg.zones.totals(market, clearing.plan), jg.zones.prices(market, clearing.plan)

In each zone the price rises with what is bought there alone, so that several populations play
several aggregative games, which trades between them and the network tie together (model.md: Zones).
The rows are `Market.zones`; who is where say `Prosumers.zone` and `Grid.zone`.

Microgrids are such zones, on feeders of their own, and tie lines limit what they trade:

    tied = jg.zones.with_tie_lines(market, source="town", target="hill", limit=5.0, fee=0.01)
    jg.zones.ties(tied, jg.clear(tied)).price  # of the line, EUR/kWh
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import by_hour, by_row, floats, put, whole_row
from .caps import capped
from .each import for_each, for_one
from .market import Market, Zones, bus_name
from .model import Plan, grid_price, pairs_of_parties, zone_totals
from .names import rows_of
from .record import Record, changed
from .result import Clearing
from .tables import QUANTITIES, Caps

_TRADES = QUANTITIES.index("trades")


@for_one()
def with_zones(
    market: Market,
    zone: Any,
    *,
    base: Any = None,
    slope: Any = None,
    export: Any = None,
    buses: Any = None,
    names: Sequence[str] = (),
) -> Market:
    """The market with prosumers in price zones: `zone` of each by number from 0, or by name.

    `base` and `slope` are what the main grid asks in each zone, EUR/kWh and EUR/kWh per kW of the
    zone's own import, and `export` what it pays, EUR/kWh: a plain list is by zone, shapes
    (zones, hours), (zones, 1) and (1, hours) say what is by hour. What is left out is as `Tariff`
    has it, in all zones alike. Tariff stays, and `Market.zones` holds what is more or less than it.
    `buses` is the zone of each bus, where its passive consumers buy: by default that of its
    prosumers. `names` are those of the zones, by which `zone` and `buses` may tell them.

    Runs on the host. Raises `ValueError` for numbers that do not fit, for a zone that has neither
    a tariff nor a prosumer, and where the zone of passive load does not follow from prosumers.
    """
    people, grid, tariff = market.prosumers, market.grid, market.tariff
    count, hours = np.shape(people.load)
    zone, buses = (_numbered(which, names) for which in (zone, buses))
    homes = np.asarray(whole_row("with_zones: zone", zone, count, "prosumer"))
    given = {"base": base, "slope": slope, "export": export}
    given = {name: value for name, value in given.items() if value is not None}
    rows = {len(value) for value in map(np.asarray, given.values()) if _by_zone(value)}
    many = max(int(np.max(homes, initial=0)) + 1, len(names), *rows)
    if np.any(homes < 0):
        raise ValueError(f"with_zones: zone {int(np.min(homes))} is none; count zones from 0.")
    added = {}
    for name in ("base", "slope", "export"):
        own = np.asarray(getattr(tariff, name), float)
        asked = _spread(f"with_zones: {name}", given[name], many, hours) if name in given else own
        added[name] = put(np.asarray(asked - own + np.zeros((many, hours)), people.load.dtype))
    places = _of_buses(market, homes) if buses is None else buses
    places = whole_row("with_zones: buses", places, grid.passive.shape[0], "bus")
    if np.any((np.asarray(places) < 0) | (np.asarray(places) >= many)):
        raise ValueError(f"with_zones: buses has zones beyond 0 to {many - 1}; give one of these.")
    return changed(
        market,
        prosumers=changed(people, zone=put(homes.astype(np.int32))),
        grid=changed(grid, zone=places),
        zones=Zones(added["base"], added["slope"], export=added["export"], names=names),
    )


def _numbered(which: Any, names: Sequence[str]) -> Any:
    """Zones by number, where they are given by their names."""
    each = [which] if isinstance(which, str) else which
    if not names or not isinstance(each, list | tuple | np.ndarray):
        return which
    if not any(isinstance(one, str) for one in each):
        return which
    found = rows_of("with_zones", "zone", each, names)
    return found[0] if isinstance(which, str) else found


def _by_zone(value: Any) -> bool:
    """Whether it has a number for each zone, not one for all."""
    return np.ndim(value) > 0 and len(value) > 1


def _spread(name: str, value: Any, many: int, hours: int) -> Float[np.ndarray, "Z H"]:
    """Numbers by zone and hour; a plain list is by zone."""
    numbers = np.asarray(floats(name, value))
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    return np.asarray(by_hour(name, numbers, many, hours, "zone"), float)


def _of_buses(market: Market, homes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " B"]:
    """The zone of each bus, that of its prosumers."""
    bus, passive = np.asarray(market.prosumers.bus), np.asarray(market.grid.passive)
    low, high = np.full(len(passive), np.iinfo(np.int32).max), np.full(len(passive), -1)
    np.minimum.at(low, bus, homes)
    np.maximum.at(high, bus, homes)
    open_ = np.any(passive != 0, axis=1) & (low != high) & (np.max(homes, initial=0) > 0)
    if np.any(open_):
        at = int(np.argmax(open_))
        where = bus_name(market.grid, at)
        why = "has no prosumer" if high[at] < 0 else f"has prosumers of zones {low[at]}, {high[at]}"
        raise ValueError(
            f"with_zones: bus {where} has passive load and {why}; say in buses where "
            "it buys, one zone for all buses or one a bus."
        )
    return np.maximum(high, 0)


@for_each
def totals(market: Market, plan: Plan) -> Float[Array, "Z H"]:
    """What each zone draws from the main grid, kW; their sum is `jg.aggregate`."""
    return zone_totals(market, plan)


@for_each
def prices(market: Market, plan: Plan) -> Float[Array, "Z H"]:
    """What the main grid asks in each zone, EUR/kWh, without what own contracts add."""
    return grid_price(market, zone_totals(market, plan))


@for_one()
def with_tie_lines(
    market: Market,
    *,
    source: Any,
    target: Any,
    limit: Any,
    fee: Any = 0.0,
    names: Sequence[str] = (),
) -> Market:
    """The market whose zones trade with one another by tie lines alone, limited and charged.

    A line goes from each zone of `source` to the one of `target`, by number or name, and carries at
    most `limit` kW either way (one number, by line or by line and hour, as in `Grid`): that is the
    sum of what pairs of the two trade, positive where it goes to `target`. A traded kWh costs
    `fee` EUR (one number, or by line), of which each side pays half to the operator, beside
    `Trading.toll`. Pairs whose zones no line joins cannot trade. `names` are those of the lines.

    Each line is a cap (`jg.Caps`), counted in kWh a step, so that its price, `clearing.prices.cap`,
    is in EUR/kWh: by as much more energy is worth at its target than at its source, beyond fees,
    where the line is full. `ties` tells of them. Runs on the host. Raises `ValueError` for zones
    that there are not, two lines between the same zones, and numbers that do not fit.
    """
    where, called, count = "with_tie_lines", market.zones.names, market.zones.base.shape[0]
    if not count:
        raise ValueError(f"{where}: the market has one zone; make some by zones.with_zones first.")
    ends = [rows_of(f"{where}: {n}", "zone", one, called, count)
            for n, one in (("source", source), ("target", target))]  # fmt: skip
    if len(ends[0]) != len(ends[1]):
        raise ValueError(
            f"{where}: {len(ends[0])} of source, {len(ends[1])} of target; give one of each a line."
        )
    first, last, many = *map(np.array, ends), len(ends[0])
    lines = [f"{called[a]} - {called[b]}" for a, b in zip(first, last, strict=True)]
    labels = tuple(names) or tuple(f"tie {line}" for line in lines)
    if len(labels) != many:
        raise ValueError(f"{where}: {len(labels)} names for {many} lines; give one each, or none.")
    line_of = np.full((count, count), -1)
    line_of[first, last] = line_of[last, first] = np.arange(many)
    bad = (first == last) | (line_of[first, last] != np.arange(many))
    if np.any(bad):
        raise ValueError(
            f"{where}: {lines[int(np.argmax(bad))]} begins and ends in one zone, or is there "
            "twice; give one line for two zones, of all that joins them."
        )
    hours, length = market.prosumers.load.shape[1], np.asarray(market.hour_length, float)
    most = _spread(f"{where}: limit", limit, many, hours) * length
    extra = np.asarray(by_row(f"{where}: fee", fee, many, "line"), float)
    if not np.all(most >= 0) or not np.all((extra >= 0) & np.isfinite(extra)):
        raise ValueError(f"{where}: limit (kW) and fee (EUR/kWh) are 0 or more.")
    pairs, zone = market.trading, np.asarray(market.prosumers.zone)
    buys, sells = zone[np.asarray(pairs.buyer)], zone[np.asarray(pairs.seller)]
    at = line_of[buys, sells]  # of a pair, -1 where there is none
    across = np.flatnonzero(at >= 0)
    if np.any(extra[at[across]] > 0) and not np.all(np.asarray(pairs_of_parties(market))[across]):
        raise ValueError(
            f"{where}: fee is asked of pairs with a pool, where neighbors of one zone would pay it "
            "twice; leave fee out, or give each zone a pool of its own members."
        )
    shut = (buys != sells) & (at < 0)
    tolls = np.where(at >= 0, extra[at] / 2, 0.0)[:, None]
    trading = changed(
        pairs,
        limit=put(np.where(shut[:, None], 0.0, np.asarray(pairs.limit))),
        toll=put(np.asarray(pairs.toll + tolls, np.asarray(pairs.toll).dtype)),
    )
    way = np.where(buys[across] == last[at[across]], 1.0, -1.0)
    caps = Caps(
        most,
        level_min=-most,
        hours=hours,
        adds=np.zeros(many, int),
        cap=at[across],
        quantity=np.full(len(across), _TRADES),
        row=across,
        weight=way[:, None] * length,
        names=labels,
        units=("kWh",) * many,
    )
    return capped(changed(market, trading=trading), caps)


class Ties(Record):
    """What tie lines do, by their `names`: `flow` kW to the target, at a `price` in EUR/kWh.

    `rent` is what the price earns of the flow, EUR by hour; with fees it is the operator's.
    """

    names: tuple[str, ...]
    flow: Float[np.ndarray, "T H"]
    price: Float[np.ndarray, "T H"]
    rent: Float[np.ndarray, "T H"]

    def __str__(self) -> str:
        axes = tuple(k for k in range(np.ndim(self.rent)) if k != np.ndim(self.rent) - 2)
        each = (np.min(self.flow, axes), np.max(self.flow, axes), np.max(np.abs(self.price), axes))
        return "\n".join(
            f"{name}: {low:.4g} to {high:.4g} kW, at most {price:.4f} EUR/kWh, {rent:.2f} EUR"
            for name, low, high, price, rent in zip(
                self.names, *each, np.sum(self.rent, axes), strict=True
            )
        )


def ties(market: Market, clearing: Clearing) -> Ties:
    """What the tie lines of a market do: flows, prices and rents, line by line.

    They are its caps that count trades. Of a batch all have its leading axis. The price is above 0
    where more could not flow to the target, and below 0 where more could not flow back. Raises
    `ValueError` where the market has no such line.
    """
    caps, plan, prices = market.caps, clearing.plan, clearing.prices
    term, quantity = (np.atleast_2d(a)[0] for a in (caps.cap, caps.quantity))
    rows = np.unique(term[quantity == _TRADES])
    if not rows.size or plan.level is None or prices.cap is None:
        raise ValueError("ties: the market has no tie lines; make some by zones.with_tie_lines.")
    level, price = (np.asarray(a)[..., rows, :] for a in (plan.level, prices.cap))
    length, weight = (np.asarray(a)[..., None, :] for a in (market.hour_length, market.weight))
    names = tuple(caps.names[row] for row in rows.tolist())
    return Ties(names, level / length, price, weight * price * level)
