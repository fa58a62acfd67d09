"""Ratings, voltage bounds and the limit on the total exchange: loose, or such that they bind.

No ratings of these feeders are published: all are this project's own. Every limit is drawn from
explicit plans that meet it, so that what comes out is feasible by construction.
"""

from dataclasses import dataclass

import numpy as np

from ..clock import in_hour
from ..market import Grid, Market
from ..tables import device_buses
from .customers import at_buses
from .feeders import Feeder, Floats, flows, squared_voltages
from .phased import Phased, possible


@dataclass(frozen=True)
class Limits:
    """What the network admits."""

    rating: Floats  # kVA (L)
    voltage_min: Floats  # pu (B)
    voltage_max: Floats
    total_max: Floats  # kW (H)


def loose(feeder: Feeder) -> Limits:
    """Limits that the spot load meets with a margin: everybody may import what they draw.

    Ratings 1.5 times the spot load's flow and 100 kVA more; 0.94 to 1.05 pu, or from 0.01 below
    what the spot load gives where that is less; 1.2 times the total.
    """
    carried = np.hypot(flows(feeder, feeder.load), flows(feeder, feeder.reactive))
    reactive = np.maximum(feeder.reactive, 0.4 * feeder.load)  # prosumers' share: 0.395
    lowest = squared_voltages(feeder, feeder.load[:, None], reactive[:, None]).min()
    if lowest < 0.9**2:
        raise ValueError(
            f"feeder: its voltage falls to {np.sqrt(max(lowest, 0.0)):.3f} pu when all passive "
            "loads peak; give one that stays above 0.9 pu (impedances are in pu per kW)."
        )
    buses, none = len(feeder.load), np.zeros((len(feeder.load), 1))
    idle = np.sqrt(squared_voltages(feeder, none, none).max())
    return Limits(
        rating=1.5 * carried + 100.0,
        voltage_min=np.full(buses, min(0.94, np.sqrt(lowest) - 0.01)),
        voltage_max=np.full(buses, max(1.05, idle + 0.05)),
        total_max=np.asarray(1.2 * feeder.load.sum()),
    )


def within(feeder: Phased, drawn: Floats, reactive: Floats, spare: float = 100 / 3) -> Limits:
    """The same in three phases, of the spot load and of what is `drawn` over the hours, (B, H).

    Both, as load on one phase may lift another. Ratings 1.5 times the highest flow and `spare` kVA
    more by conductor; 0.95 to 1.05 pu, or from 0.01 below the lowest voltage and to 0.03 above the
    highest where these are beyond, in hundredths.
    """
    spot = feeder.load[:, None], np.maximum(feeder.reactive, 0.4 * feeder.load)[:, None]
    power = [np.concatenate(each, axis=1) for each in zip(spot, (drawn, reactive), strict=True)]
    squared = feeder.squared_voltages(*power)
    lowest, highest = np.sqrt(np.maximum([squared.min(), squared.max()], 0.0))
    if lowest < 0.85:
        raise ValueError(
            f"feeder: its voltage falls to {lowest:.3f} pu when all passive loads peak; give one "
            "that stays above 0.85 pu (impedances are in pu per kW of a phase)."
        )
    rating = 1.5 * feeder.alike(np.hypot(*feeder.flows(*power)).max(axis=1)) + spare
    rating[np.asarray(feeder.grid.terminal)] = np.inf
    rows = np.ones(len(feeder.load))
    return Limits(
        rating=rating,
        voltage_min=rows * min(0.95, np.floor(100 * (lowest - 0.01)) / 100),
        voltage_max=rows * max(1.05, np.ceil(100 * (highest + 0.03)) / 100),
        total_max=np.asarray(1.2 * feeder.load.sum()),
    )


def leveled(feeder: Feeder | Phased, most: Floats, capacity: Floats) -> Floats:
    """What the buses draw once their generators have cut the highest flows, kW (B, H).

    From the ends of the feeder inwards, the generators at a bus, of `capacity` kW together (B),
    level what the bus and all behind it draw of the main grid: from the top, by 60 % at most and
    with 90 % of their capacity at most. `most` is what the buses draw without them.
    """
    drawn, behind = most.copy(), most.copy()
    line_to = dict(zip(feeder.target.tolist(), feeder.source.tolist(), strict=True))
    for bus in [*reversed(feeder.target.tolist()), *feeder.roots.tolist()]:
        highest = behind[bus].max()
        depth = min(0.9 * capacity[bus], 0.6 * max(highest, 0.0))
        made = np.clip(behind[bus] - (highest - depth), 0.0, depth)
        drawn[bus] -= made
        behind[bus] -= made
        if bus in line_to:
            behind[line_to[bus]] += behind[bus]
    return drawn


def stressed(
    feeder: Feeder | Phased, free: Limits, most: Floats, reactive: Floats, capacity: Floats
) -> Limits:
    """Limits that bind in some hours and that the plan `leveled` meets, so that it stays feasible.

    `most` kW and `reactive` kvar (B, H) are what the buses draw without any generator; `capacity`
    kW (B) is that of all generators at a bus, and `free` what holds elsewhere. First lines are
    rated: those on which `leveled` cuts most hours, until these are 10 % of all line-hours; then
    voltages held and the total limited where generators behind rated lines alone would leave them
    too low (14 % of the hours) or it too high (18 %). Scarcity then calls for generators that no
    price of the main grid would.
    """
    least = leveled(feeder, most, capacity)
    made, (kw, kvar) = most - least, feeder.flows(least, reactive)
    low, high = (np.hypot(*feeder.flows(drawn, reactive)).max(axis=1) for drawn in (least, most))
    tight = low + 1e-3 * high
    arriving = np.hypot(kw + made[feeder.target], kvar)
    busy = np.mean(arriving > tight[:, None], axis=1) * ~np.isin(feeder.source, feeder.roots)
    busy *= np.isfinite(free.rating)
    order = np.argsort(-busy, kind="stable")
    rated = np.zeros(len(busy), dtype=bool)
    rated[order] = np.cumsum(busy[order]) <= _LINE_HOURS * len(busy)
    rated &= busy > 0
    relieved = most.copy()
    relieved[feeder.target[rated]] = least[feeder.target[rated]]
    held, wished = (feeder.squared_voltages(drawn, reactive) for drawn in (least, relieved))
    lowest = np.minimum(held.min(axis=1), np.quantile(wished, _LOW_HOURS, axis=1))
    highest = np.quantile(relieved.sum(axis=0), 1 - _HIGH_HOURS)
    return Limits(
        rating=np.where(rated, tight, free.rating),
        voltage_min=np.sqrt(lowest) - 1e-5,
        voltage_max=np.maximum(free.voltage_max, np.sqrt(held.max()) + 1e-5),
        total_max=np.asarray(1.0001 * max(least.sum(axis=0).max(), highest)),
    )


def servable(market: Market) -> Market:
    """`market`, or `ValueError` where its grid cannot serve it in some hour, whatever devices do.

    Necessary only, every hour by itself: prosumers draw at least their load less sun, generators
    and discharge, all at full power, and at most their load and charging without any of these. On a
    tree every line then carries at least what is drawn behind it; in three phases what their flows
    may be bounds voltages on the way. Elsewhere the lines at a bus, and at all feeder buses, carry
    what it and all others draw.
    """
    grid, people = market.grid, market.prosumers
    passive, bus = np.asarray(grid.passive), np.asarray(people.bus)
    least = _drawn(market, least=True)
    if grid.model.radial:
        kvar = at_buses(len(passive), bus, np.asarray(people.reactive))
        kvar += np.asarray(grid.passive_reactive)
        injected = np.array(grid.compensation_max)
        injected[np.asarray(grid.feeder)] = 0.0
        if grid.model.phased:
            most = _drawn(market, least=False)
            _reached(market, *possible(grid, least, most, kvar, injected))
        else:
            _reached(market, *_on_tree(grid, least, kvar, injected))
    elif grid.model.networked:
        _on_mesh(market, least)
    return market


def _drawn(market: Market, least: bool) -> Floats:
    """What is drawn at each bus at least, or at most, whatever prosumers do, kW (B, H)."""
    people, units, stores = market.prosumers, market.generators, market.buffers
    drawn, home = np.array(market.grid.passive), np.asarray(people.bus)
    made, kept = (np.asarray(bus) for bus in device_buses(market))
    np.add.at(drawn, home, people.load)
    if least:
        np.subtract.at(drawn, made, units.power_max)
        np.subtract.at(drawn, kept, stores.discharge_max)
    else:
        np.add.at(drawn, home, people.curtail_max)
        np.subtract.at(drawn, made, units.power_min)
        np.add.at(drawn, kept, stores.charge_max)
    return drawn


def _on_tree(grid: Grid, drawn: Floats, kvar: Floats, injected: Floats) -> tuple[Floats, Floats]:
    """What lines carry at least, kVA (L, H), and the highest squared voltages that may be (B, H).

    Of what buses draw, `drawn` kW and `kvar`, inverters make up to `injected` kvar there.
    """
    held = np.ones_like(drawn)
    held[np.asarray(grid.feeder)] = grid.feeder_voltage
    ends, ohms = (grid.source, grid.target), (grid.resistance, grid.reactance)
    lines = tuple(np.asarray(a) for a in (*ends, *ohms))
    peak = (drawn.max(axis=1), kvar.max(axis=1))
    feeder = Feeder(
        lines[0], lines[1], lines[2], lines[3], *peak, voltage=held, tap=np.asarray(grid.tap)
    )
    reactive = np.maximum(np.abs(flows(feeder, kvar)) - flows(feeder, injected), 0.0)
    carried = np.hypot(np.maximum(flows(feeder, drawn), 0.0), reactive)
    return carried, squared_voltages(feeder, drawn, kvar - injected)


def _reached(market: Market, carried: Floats, squared: Floats) -> None:
    """Raises where a line carries more than its rating, or a bus falls below its voltage."""
    grid = market.grid
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    rating = np.asarray(grid.rating)[:, None]
    if place := _beyond(carried, rating):
        line, hour = place
        ends = (called(grid, end[line]) for end in (source, target))
        raise ValueError(
            f"grid: the line from {' to '.join(ends)} has to carry {carried[line, hour]:.4g} kVA "
            f"{in_hour(market, hour)} whatever devices do, above its rating of "
            f"{rating[line, 0]:.4g}; raise it or lower the load behind it."
        )
    best = np.sqrt(np.maximum(squared, 0.0))[target]
    lowest = np.asarray(grid.voltage_min)[target, None]
    if place := _beyond(lowest, best):
        line, hour = place
        raise ValueError(
            f"grid: {called(grid, target[line])} has {best[line, hour]:.4f} pu at most "
            f"{in_hour(market, hour)} whatever devices do, below its voltage_min of "
            f"{lowest[line, 0]:.4f}; lower that or the load."
        )


def _on_mesh(market: Market, drawn: Floats) -> None:
    """Raises where a bus, or all but the feeder buses, draw more than the lines to them carry."""
    grid = market.grid
    source, target, rating = (np.asarray(a) for a in (grid.source, grid.target, grid.rating))
    fed = np.isin(np.arange(len(drawn)), np.asarray(grid.feeder))
    inner = np.flatnonzero(~fed)
    able = [rating[(source == bus) | (target == bus)].sum() for bus in inner]
    able = np.array([*able, rating[fed[source] != fed[target]].sum()])[:, None]
    need = np.vstack([drawn[inner], drawn[inner].sum(axis=0)])
    if place := _beyond(need, able):
        row, hour = place
        where = called(grid, inner[row]) if row < len(inner) else "all beyond the feeder buses"
        raise ValueError(
            f"grid: {where} needs {need[row, hour]:.4g} kW {in_hour(market, hour)} whatever "
            f"devices do, and the lines to it carry {able[row, 0]:.4g} kVA; raise their rating or "
            "lower the load."
        )


def _beyond(more: Floats, less: Floats) -> tuple[int, int] | None:
    """The row and hour where `more` exceeds `less` most; None where it nowhere does."""
    excess = more - less * (1 + 1e-5)
    if not np.any(excess > 0):
        return None
    row, hour = np.unravel_index(np.argmax(excess), excess.shape)
    return int(row), int(hour)


def called(grid: Grid, bus: int) -> str:
    """What people call a bus: its name where it has one."""
    return f"bus {grid.names[bus]!r}" if grid.names else f"bus {bus}"


_LINE_HOURS = 0.10  # of all lines and hours: where ratings are to bind
_LOW_HOURS = 0.14  # of the hours: where voltages are to be held up
_HIGH_HOURS = 0.18  # of the hours: where the total is to be cut
