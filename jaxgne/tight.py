"""Where a grid is tight: its fullest lines and outermost voltages, and what would relieve them."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from .acflow import TIGHT, VOLTAGE_SLACK, Flow, drawn, flow
from .each import for_one
from .market import Market, bus_name, line_name
from .model import Plan, counted
from .radial import forest, loops
from .runner import hosted, jnp


@for_one()
@hosted
def spots(market: Market, plan: Plan, top: int = 10) -> dict[str, list[Any]]:
    """Columns of the `top` lines and buses that are tightest by the AC power flow, tightest first.

    Each row is a line or a bus (`what`, `name`) in its worst `step`. Of a line: the share of its
    rated current in use and the hours above 80 % of that. Of a bus: its voltage, how far that is
    beyond its limit (below 0: within), and the hours in which it is. `relief_kw` is how much less
    active power would have to flow then, reactive power as it is, for the limit to hold: through
    the line; or to or from the bus, where there is one phase and lines close no loops. 0 where the
    limit holds, NaN where that cannot be told. No rows where there is no grid or no AC state.
    """
    if not market.grid.model.networked:
        return _rows([], [], top)
    with np.errstate(all="ignore"):
        found = flow(market.grid, *drawn(market, plan))
        ok = np.asarray(found.ok)
        lines, buses = _lines(market, found, ok), _buses(market, found, ok)
    return _rows(lines, buses, top)


def _lines(market: Market, found: Flow, ok: np.ndarray) -> list[dict[str, Any]]:
    """A row for each line with a rating, in its fullest step."""
    grid, hours = market.grid, np.asarray(counted(market))
    rating = np.asarray(grid.rating, float)[:, None]
    current, apparent = np.asarray(found.current), np.asarray(found.apparent)
    used = np.where(ok & np.isfinite(rating) & (rating > 0), current / rating, -np.inf)
    active = np.abs(found.active)
    power = np.hypot(active, np.asarray(found.reactive))
    share = np.divide(active, power, out=np.ones_like(power), where=power > 0)
    inert = current**2 * (1 - share**2)
    kept = np.sqrt(np.maximum(rating**2 - inert, 0.0))
    volts = np.divide(apparent, current, out=np.ones_like(current), where=current > 0)
    less = np.where(used > 1, np.maximum(current * share - kept, 0.0) * volts, 0.0)
    rows = []
    for line in np.flatnonzero(np.max(used, axis=1, initial=-np.inf) > -np.inf):
        step = int(np.argmax(used[line]))
        rows.append({
            "name": line_name(grid, int(line)),
            "step": step,
            "loading_percent": 100 * float(used[line, step]),
            "hours_over_80_percent": float(np.sum(hours * (used[line] > TIGHT))),
            "relief_kw": float(less[line, step]),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["loading_percent"])


def _buses(market: Market, found: Flow, ok: np.ndarray) -> list[dict[str, Any]]:
    """A row for each bus but feeders, in the step in which its voltage is outermost."""
    grid, hours = market.grid, np.asarray(counted(market))
    volts = np.asarray(found.voltage)
    low, high = (np.asarray(a, float)[:, None] for a in (grid.voltage_min, grid.voltage_max))
    beyond = np.where(ok, np.maximum(low - volts, volts - high), -np.inf)
    beyond[np.asarray(grid.feeder)] = -np.inf
    limit = np.where(low - volts > volts - high, low, high)
    less = np.where(beyond > VOLTAGE_SLACK, _less(market, volts, limit), 0.0)
    rows = []
    for bus in np.flatnonzero(np.max(beyond, axis=1, initial=-np.inf) > -np.inf):
        step = int(np.argmax(beyond[bus]))
        rows.append({
            "name": bus_name(grid, int(bus)),
            "step": step,
            "voltage_pu": float(volts[bus, step]),
            "beyond_pu": float(beyond[bus, step]),
            "hours_outside_limits": float(np.sum(hours * (beyond[bus] > VOLTAGE_SLACK))),
            "relief_kw": float(less[bus, step]),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["beyond_pu"])


def _less(market: Market, volts: np.ndarray, limit: np.ndarray) -> Float[np.ndarray, "B H"]:
    """How much less a bus would have to draw or feed in, kW, to come back to a limit.

    By the squared voltage, which falls by twice the resistance on the way for each kW.
    """
    grid = market.grid
    if loops(grid) or grid.model.phased:
        return np.full_like(volts, np.nan)
    tree = forest(grid)
    base = np.asarray(tree.ladder.base)[:, None]
    each: Array = jnp.zeros_like(grid.voltage_min).at[tree.far].set(grid.resistance)
    way = np.asarray(tree.ladder.along(each[:, None] / base**2))
    gap = np.abs(limit**2 - volts**2) / base**2
    return np.divide(gap, 2 * way, out=np.full_like(volts, np.nan), where=way > 0)


_NUMBERS = (
    *("loading_percent", "voltage_pu", "beyond_pu", "relief_kw"),
    *("hours_over_80_percent", "hours_outside_limits"),
)


def _rows(
    lines: list[dict[str, Any]], buses: list[dict[str, Any]], top: int
) -> dict[str, list[Any]]:
    """The first of both as columns, NaN for what a row does not have."""
    told = [{"what": "line"} | row for row in lines[:top]]
    told += [{"what": "bus"} | row for row in buses[:top]]
    columns = {key: [row[key] for row in told] for key in ("what", "name", "step")}
    return columns | {key: [row.get(key, np.nan) for row in told] for key in _NUMBERS}
