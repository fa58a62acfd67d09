"""What a report shows of the network: voltages, loadings and prices at buses, trades between them.

Rows for charts: one a bus (in three phases one a phase of it), a line, and two places that trade,
each with a list by hour.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import frames
from ..market import Market, bus_name, line_name
from ..plots.arcs import bus_trades
from ..plots.strokes import phase_names
from ..result import Clearing
from .map_names import ALWAYS, least_widths
from .shrunk import short
from .zones import Zones, zones_of

_PU = 6  # digits of a voltage, of which 5 are shown
_ARCS = 60  # trades between places an hour, the largest
_WIDE = 2.0  # how much wider than high the map is
_BEND = 0.22  # of an arc, of its length
_APART = 0.055  # of a step across: conductors side by side
# Sectors of a disk: a on top, then clockwise.
_SECTORS = (
    "M0,0L-0.866,-0.5A1,1,0,0,1,0.866,-0.5Z",
    "M0,0L0.866,-0.5A1,1,0,0,1,0,1Z",
    "M0,0L0,1A1,1,0,0,1,-0.866,-0.5Z",
)


class Network(NamedTuple):
    """Rows of charts, and at which place each prosumer is."""

    rows: dict[str, list[dict[str, Any]]]
    at: NDArray[np.integer]  # (N,) places
    names: tuple[str, ...]  # of places


def network(market: Market, clearing: Clearing) -> Network:
    """What is shown of a network, of which `market.grid.model.networked` says that there is one."""
    zones = zones_of(market)
    spot_of_bus, grid = zones.spots.of, market.grid
    hours = market.prosumers.load.shape[1]
    buses = frames.buses(market, clearing)
    lines = frames.lines(market, clearing)
    volts = {
        "ac": _square(buses, "ac_voltage_pu", hours),
        "model": _square(buses, "voltage_pu", hours),
    }
    at = zones.of[spot_of_bus[np.asarray(market.prosumers.bus)]]
    homes = np.bincount(at, minlength=len(zones.names))
    fed = np.unique(zones.of[spot_of_bus[np.asarray(grid.feeder)]]).tolist()
    phases = phase_names(market, zones.spots) if zones.spots.phased else ()
    price = _square(buses, "energy_price_eur_per_kwh", hours)
    loads = {
        "ac": _square(lines, "ac_loading_percent", hours),
        "model": _square(lines, "loading_percent", hours),
        "kw": _square(lines, "active_kw", hours),
    }
    rating = np.asarray(grid.rating, float)
    for key in ("ac", "model"):  # without a rating there is no share of one
        loads[key][~(np.isfinite(rating) & (rating > 0))] = np.nan
    drawn = _buses(market, zones, phases, volts, price)
    cables = _lines(market, zones, phases, loads)
    rows = {
        "places": _places(zones, homes, fed, _tight(drawn, cables)),
        "buses": drawn,
        "lines": cables,
        "trades": _trades(market, clearing, zones),
    }
    return Network(rows, at, zones.names)


def _places(zones: Zones, homes: NDArray, fed: list[int], tight: set[int]) -> list[dict[str, Any]]:
    """Where buses are drawn, and from which width of the map on their names have room.

    Names of the main grid and of `tight` places come first, then those where most prosumers are.
    """
    count = len(zones.names)
    label = [f"{name}, main grid" if k in fed else name for k, name in enumerate(zones.names)]
    share = homes / max(homes.max(), 1)
    weight = np.array([ALWAYS * (k in fed) + (k in tight) + share[k] for k in range(count)])
    room = least_widths(label, zones.places, weight)
    return [
        {"place": k, "name": name, "label": label[k], "x": x, "y": y, "fed": k in fed,
         "homes": int(homes[k]), "merged": int(zones.merged[k]), "room": room[k]}
        for k, (name, (x, y)) in enumerate(zip(zones.names, short(zones.places), strict=True))
    ]  # fmt: skip


def _tight(buses: list[dict[str, Any]], lines: list[dict[str, Any]]) -> set[int]:
    """The places with the lowest and the highest voltage, and behind the fullest line."""
    found = set()
    for rows, signs in ((buses, (-1.0, 1.0)), (lines, (1.0,))):
        both = (np.array([row[key] for row in rows], float) for key in ("ac", "model"))
        best = _known(*both)
        for sign in signs:
            score = np.nan_to_num(sign * best, nan=-np.inf)
            if np.any(np.isfinite(score)):
                found.add(rows[int(score.argmax()) // score.shape[1]]["place"])
    return found


def _square(frame: Any, column: str, hours: int) -> NDArray[np.float64]:
    """A column of a long table as rows by hours."""
    return frame[column].to_numpy(float, copy=True).reshape(-1, hours)


def _known(ac: NDArray, model: NDArray) -> NDArray:
    """By the AC power flow, or else by the model."""
    return np.where(np.isfinite(ac), ac, model)


def _outermost(score: NDArray, group: NDArray) -> NDArray[np.integer]:
    """The row with the highest score of each group, groups below 0 left out."""
    order = np.lexsort((-score, group))
    order = order[group[order] >= 0]
    return order[np.unique(group[order], return_index=True)[1]]


def _buses(
    market: Market, zones: Zones, phases: Any, volts: dict[str, NDArray], price: NDArray
) -> list[dict[str, Any]]:
    grid, spots = market.grid, zones.spots
    low, high = (np.asarray(a, float) for a in (grid.voltage_min, grid.voltage_max))
    best = _known(volts["ac"], volts["model"])
    beyond = np.maximum(low[:, None] - best, best - high[:, None])
    score = np.max(np.nan_to_num(beyond, nan=-np.inf), axis=1)
    score[np.asarray(grid.feeder)] = -np.finfo(float).max
    score = np.maximum(score, -np.finfo(float).max)
    zone = zones.of[spots.of]
    phase = spots.phase if spots.phased else np.zeros(len(zone), int)
    shown = _outermost(score, np.where(phase >= 0, 3 * zone + phase, -1))
    columns = {key: short(values[shown], _PU) for key, values in volts.items()}
    columns["price"] = short(price[shown])
    limits = short(np.stack([low, high], axis=1)[shown], _PU)
    found = []
    for k, row in enumerate(shown.tolist()):
        place = int(zone[row])
        x, y = zones.places[place].tolist()
        found.append({
            "place": place, "name": bus_name(grid, row), "x": x, "y": y,
            "phase": phases[phase[row]] if spots.phased else "",
            "shape": _SECTORS[phase[row]] if spots.phased else "circle",
            "low": limits[k][0], "high": limits[k][1],
            **{key: values[k] for key, values in columns.items()},
        })  # fmt: skip
    return found


def _lines(
    market: Market, zones: Zones, phases: Any, loads: dict[str, NDArray]
) -> list[dict[str, Any]]:
    grid, spots = market.grid, zones.spots
    source, target = (np.asarray(end) for end in (grid.source, grid.target))
    start, end = (zones.of[spots.of[rows]] for rows in (source, target))
    phase = spots.phase[target] if spots.phased else np.zeros(len(target), int)
    outer = np.zeros(len(target), bool)
    outer[spots.lines] = True
    best = np.max(np.nan_to_num(_known(loads["ac"], loads["model"])), axis=1, initial=0.0)
    crossing = np.flatnonzero(outer & (start != end) & (phase >= 0))
    inside = np.flatnonzero(outer & (start == end) & (phase >= 0))
    fullest = _outermost(best[inside], 3 * end[inside] + phase[inside])
    full = {int(3 * end[k] + phase[k]): int(k) for k in inside[fullest]}
    shown = np.array(
        [_fuller(int(k), full.get(int(3 * end[k] + phase[k])), best) for k in crossing]
    )
    shown = shown.astype(int)
    columns = {key: short(values[shown]) for key, values in loads.items()}
    rated = np.isfinite(np.asarray(grid.rating)) & (np.asarray(grid.rating) > 0)
    stretch, found = _stretch(zones.places), []
    for k, (cross, row) in enumerate(zip(crossing.tolist(), shown.tolist(), strict=True)):
        ends = zones.places[[start[cross], end[cross]]]
        if spots.phased:
            aside = _aside(ends[1] - ends[0], stretch)
            long = float(np.hypot(aside[0], aside[1] / stretch))
            ends = ends + (1 - phase[cross]) * _APART / max(long, 1e-9) * aside
        (x, y), (x2, y2) = short(ends)
        found.append({
            "line": k, "place": int(end[cross]), "name": _line_words(market, row),
            "phase": phases[phase[cross]] if spots.phased else "", "rated": bool(rated[row]),
            "x": x, "y": y, "x2": x2, "y2": y2,
            **{key: values[k] for key, values in columns.items()},
        })  # fmt: skip
    return found


def _fuller(one: int, other: int | None, loading: NDArray) -> int:
    return one if other is None or loading[one] >= loading[other] else other


def _line_words(market: Market, row: int) -> str:
    """What people call a line: its name and ends, `702-705`, `cable 4 (702-705)`."""
    grid = market.grid
    ends = "-".join(bus_name(grid, int(end[row])) for end in (grid.source, grid.target))
    return f"{line_name(grid, row)} ({ends})" if grid.line_names else ends


def _trades(market: Market, clearing: Clearing, zones: Zones) -> list[dict[str, Any]]:
    """What prosumers of one place sell those of another, and the arc between."""
    trades = np.asarray(clearing.plan.trades)
    between: dict[tuple[int, int], NDArray] = {}
    for hour in range(trades.shape[1]):
        sold = bus_trades(market, _as_spots(zones), trades[:, hour])
        for ends, power in sorted(sold.items(), key=lambda item: -item[1])[:_ARCS]:
            between.setdefault(ends, np.zeros(trades.shape[1]))[hour] = power
    powers = short(np.array([*between.values()]).reshape(-1, trades.shape[1]))
    return [
        {"seller": zones.names[one], "buyer": zones.names[other], "kw": power,
         **arc(zones.places[one], zones.places[other], _stretch(zones.places))}
        for (one, other), power in zip(between, powers, strict=True)
    ]  # fmt: skip


def _as_spots(zones: Zones) -> Any:
    """Where rows of buses are drawn, by zone."""
    return replace(zones.spots, of=zones.of[zones.spots.of])


def arc(one: NDArray, other: NDArray, stretch: float) -> dict[str, Any]:
    """Three points of a curve from one place to another that bends aside."""
    bend = (one + other) / 2 + _BEND * _aside(other - one, stretch)
    points = short(np.stack([one, bend, other]))
    return {"xs": [x for x, _ in points], "ys": [y for _, y in points]}


def _stretch(places: NDArray) -> float:
    """How many steps up are as long on the screen as one across."""
    across, up = np.ptp(places, axis=0) + 1.0
    return float(up / across) * _WIDE


def _aside(along: NDArray, stretch: float) -> NDArray[np.float64]:
    """As long on the screen as a way, at a right angle to it."""
    return np.array([-along[1] / stretch, along[0] * stretch])
