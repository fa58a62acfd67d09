"""Where the feeder is tight: lines, voltages, the total exchange and caps, with hour and price."""

from typing import Any

import numpy as np

from .. import frames
from ..market import Market, bus_name, line_name
from ..result import Clearing
from .facts import step_of

TOP = 10  # lines and buses each
_AT_PRICE = 1e-6  # EUR/kWh, below which a price is what solvers leave of 0

HEADS = [
    {"name": "where"},
    {"name": "tightest at", "jump": True},
    {"name": "state then"},
    {"name": "limit"},
    {"name": "hours tight", "unit": "h", "digits": 2},
    {"name": "relief needed", "unit": "kW", "digits": 1},
    {"name": "price of tightness", "unit": "EUR/kWh", "digits": 4},
]


def tight_places(
    market: Market, clearing: Clearing, facts: dict[str, Any], labels: list[str]
) -> dict[str, Any]:
    """A table of the fullest lines and outermost voltages, limits on totals and caps that bind.

    The price of a line is what energy costs more behind it, that of a bus what it costs more there
    than at the feeder, of the total exchange what its limit adds to all prices.
    """
    rows = [*_network(market, clearing, labels), *_total(market, clearing, facts, labels)]
    return {"heads": HEADS, "rows": rows + _caps(facts, labels)}


def _step(label: str, step: int) -> dict[str, Any]:
    return {"text": label, "step": step}


def _network(market: Market, clearing: Clearing, labels: list[str]) -> list[list[Any]]:
    if not market.grid.model.networked:
        return []
    grid, found = market.grid, []
    spots = frames.hot_spots(market, clearing, TOP)
    extra = np.asarray(clearing.prices.bus, float)  # above the price at the feeder
    buses = {bus_name(grid, k): k for k in range(len(grid.passive))}
    lines = {line_name(grid, k): k for k in range(len(grid.source))}
    for spot in spots.to_dict("records"):
        step = int(spot["step"])
        if spot["what"] == "line":
            line = lines[str(spot["name"])]
            source, target = int(grid.source[line]), int(grid.target[line])
            ends = f"{bus_name(grid, source)}-{bus_name(grid, target)}"
            name = f"line {spot['name']} ({ends})" if grid.line_names else f"line {ends}"
            price = extra[target, step] - extra[source, step]
            state, limit = f"{spot['loading_percent']:.1f} % of rating", "100 %"
            over = _number(spot["hours_over_80_percent"])
        else:
            bus = buses[str(spot["name"])]
            name, price = f"bus {spot['name']}", extra[bus, step]
            low, high = float(grid.voltage_min[bus]), float(grid.voltage_max[bus])
            volt = spot["voltage_pu"]
            limit = (
                f"{low:.4g} pu at least" if volt - low < high - volt else f"{high:.4g} pu at most"
            )
            state, over = f"{volt:.4f} pu", _number(spot["hours_outside_limits"])
        when = _step(labels[step], step)
        found.append([name, when, state, limit, over, _number(spot["relief_kw"]), _number(price)])
    return found


def _total(
    market: Market, clearing: Clearing, facts: dict[str, Any], labels: list[str]
) -> list[list[Any]]:
    price = np.asarray(clearing.prices.aggregate, float)
    step = int(np.argmax(np.abs(price)))
    if abs(price[step]) < _AT_PRICE:
        return []
    net = facts["by_hour"][step]["transformer_kw"]
    bound = market.tariff.total_max if price[step] > 0 else market.tariff.total_min
    when = _step(labels[step], step)
    state, limit = f"{net:,.1f} kW", f"{float(bound[step]):,.1f} kW"
    return [["total exchange", when, state, limit, None, None, _number(price[step])]]


def _caps(facts: dict[str, Any], labels: list[str]) -> list[list[Any]]:
    found = []
    for cap in facts["caps"]:
        if not cap["binding_hours"]:
            continue
        step = step_of(facts, cap["highest_level"])
        unit, high = cap["unit"], cap["level_max"]
        state = f"{cap['highest_level']['level']:,.4g} {unit}"
        limit = "-" if high is None else f"{high:,.4g} {unit}"
        price = cap["price_eur_per_unit"] if unit == "kW" else None
        when = _step(labels[step], step)
        found.append([f"cap {cap['name']}", when, state, limit, None, None, price])
    return found


def _number(value: Any) -> float | None:
    """A number as JSON has it; what rounding leaves of 0 is 0."""
    found = float(value)
    return (round(found, 6) + 0.0) if np.isfinite(found) else None
