"""Prices and voltages of a cleared market by hour."""

from typing import TYPE_CHECKING

import numpy as np

from ..market import Market
from ..model import aggregate, energy_prices, grid_price
from ..result import Clearing
from ..runner import hosted
from .state import state
from .style import (
    BLUE,
    GRAY,
    SCALE,
    TIME,
    VERMILLION,
    begin,
    check,
    hour_edges,
    legend,
    name_rows,
    on_clock,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@hosted
def prices(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Marginal value of energy by hour, EUR/kWh: the prosumers' range, their median, the grid's.

    A prosumer's is pi_i + mu_pb of its bus (model.md: Prices), the main grid's p0 + d_mg sigma.
    """
    note = check("prices", market, clearing)
    ax = on_clock(begin(ax, f"Prices{note}", TIME, "price (EUR/kWh)"), market)
    edges = hour_edges(market)
    values = np.asarray(energy_prices(market, clearing.prices))
    main = np.asarray(grid_price(market, aggregate(market, clearing.plan)))
    if len(values):
        _band(ax, values, edges, "prosumers, lowest to highest")
        median = np.median(values, axis=0)
        ax.stairs(median, edges, baseline=None, color=BLUE, label="prosumers, median")
    ax.stairs(main, edges, baseline=None, color=VERMILLION, linestyle="--", label="main grid")
    legend(ax)
    return ax


@hosted
def bus_prices(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Price of energy at each bus and hour, EUR/kWh, which passive consumers there pay.

    p0 + d_mg sigma + lambda + mu_tg + mu_pb (model.md: Money); `settlement.price_parts` has its
    parts.
    """
    note = check("bus_prices", market, clearing)
    buses = len(market.grid.passive)
    size = (8.0, min(7.0, 3.0 + 0.08 * buses))
    ax = on_clock(begin(ax, f"Prices by bus{note}", TIME, "bus", size=size), market)
    found = clearing.prices
    shared = grid_price(market, aggregate(market, clearing.plan)) + found.aggregate + found.exchange
    values = np.asarray(shared) + np.asarray(found.bus)
    rows = np.arange(buses + 1) - 0.5
    mesh = ax.pcolormesh(hour_edges(market), rows, values, cmap=SCALE, rasterized=True)
    name_rows(ax.yaxis, market.grid.names, buses)
    ax.invert_yaxis()  # the feeder on top
    ax.figure.colorbar(mesh, ax=ax, label="price (EUR/kWh)")
    return ax


def voltages(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Lowest to highest voltage of all buses by hour, pu, and how close limits are.

    Limits differ by bus: drawn are, by hour, the voltage and the limit (dashed) of the bus that
    is closest to its lower limit, and of the one closest to its upper limit. Feeders, whose voltage
    is held, have none. Voltages are the AC power flow's where the grid model, `paper` without a
    reactive balance, does not determine them. `ValueError` for a copperplate market, which has no
    voltages.
    """
    grid = market.grid
    if not grid.model.networked:
        raise ValueError("plots.voltages: a copperplate market has no voltages.")
    note = check("voltages", market, clearing)
    values, _, by = state("voltages", market, clearing.plan)
    ax = on_clock(begin(ax, f"Voltages{by}{note}", TIME, "voltage (pu)"), market)
    edges = hour_edges(market)
    _band(ax, values, edges, "buses, lowest to highest")
    inner = np.setdiff1d(np.arange(len(values)), np.asarray(grid.feeder))
    for word, limit, sign, color in (
        ("upper", np.asarray(grid.voltage_max), 1.0, VERMILLION),
        ("lower", np.asarray(grid.voltage_min), -1.0, BLUE),
    ):
        if not inner.size:
            continue
        room = sign * (limit[inner, None] - values[inner])
        closest = inner[room.argmin(axis=0)]
        at = values[closest, np.arange(values.shape[1])]
        ax.stairs(limit[closest], edges, baseline=None, color=color, ls="--", label=f"{word} limit")
        ax.stairs(at, edges, baseline=None, color=color, label=f"bus closest to its {word} limit")
    legend(ax)
    return ax


def _band(ax: "Axes", values: np.ndarray, edges: np.ndarray, label: str) -> None:
    """Lowest to highest row by hour."""
    low, high = values.min(axis=0), values.max(axis=0)
    ax.stairs(high, edges, baseline=low, fill=True, color=GRAY, alpha=0.4, lw=0, label=label)
    ax.use_sticky_edges = False  # else the band touches the frame
