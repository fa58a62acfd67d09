"""Prices and voltages of a cleared market by hour."""

from typing import TYPE_CHECKING

import numpy as np

from ..arguments import of_tables
from ..market import Market
from ..model import energy_prices, mean_price, passive_prices
from ..result import Clearing
from ..runner import hosted
from .state import state
from .style import (
    BLACK,
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


@of_tables
@hosted
def prices(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Marginal value of energy by hour, EUR/kWh: the prosumers' range, their median, the grid's.

    A prosumer's is pi_i + mu_pb of its bus (model.md: Prices), the main grid's p0 + d_mg sigma.
    """
    note = check("prices", market, clearing)
    ax = on_clock(begin(ax, f"Price of energy{note}", TIME, "price (EUR/kWh)"), market)
    edges = hour_edges(market)
    values = np.asarray(energy_prices(market, clearing.prices))
    main = np.asarray(mean_price(market, clearing.plan))
    if len(values):
        _band(ax, values, edges, "prosumers, lowest to highest")
        median = np.median(values, axis=0)
        ax.stairs(median, edges, baseline=None, color=BLUE, label="prosumers, median")
    ax.stairs(main, edges, baseline=None, color=VERMILLION, linestyle="--", label="main grid")
    legend(ax)
    return ax


@of_tables
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
    shared = passive_prices(market, clearing.plan) + found.aggregate + found.exchange
    values = np.asarray(shared) + np.asarray(found.bus)
    rows = np.arange(buses + 1) - 0.5
    mesh = ax.pcolormesh(hour_edges(market), rows, values, cmap=SCALE, rasterized=True)
    name_rows(ax.yaxis, market.grid.names, buses)
    ax.invert_yaxis()  # the feeder on top
    ax.figure.colorbar(mesh, ax=ax, label="price (EUR/kWh)")
    return ax


@of_tables
def voltages(
    market: Market, clearing: Clearing, ax: "Axes | None" = None, *, room: bool | None = None
) -> "Axes":
    """Lowest to highest voltage of all buses by hour, pu, and limits that are near.

    Limits that differ by bus do not fit beside the range of all. There, or with `room`, drawn is
    how far the bus that is closest to its upper limit is from it, and that closest to its lower
    limit: below zero is beyond the limit. Feeders, whose voltage is held, do not count.

    Voltages are the AC power flow's where the grid model, `paper` without a reactive balance, does
    not determine them. `ValueError` for a copperplate market, which has no voltages.
    """
    grid = market.grid
    if not grid.model.networked:
        raise ValueError("plots.voltages: a copperplate market has no voltages.")
    note = check("voltages", market, clearing)
    values, _, by = state("voltages", market, clearing.plan)
    inner = np.setdiff1d(np.arange(len(values)), np.asarray(grid.feeder))
    high, low = (np.asarray(a, float)[inner] for a in (grid.voltage_max, grid.voltage_min))
    if room is None:
        room = bool(inner.size and (np.ptp(high) or np.ptp(low)))
    title, label = ("Room to voltage limits", "closest bus to its limit (pu)") if room else (
        "Voltages", "voltage (pu)"
    )  # fmt: skip
    ax = on_clock(begin(ax, f"{title}{by}{note}", TIME, label), market)
    edges = hour_edges(market)
    if room:
        _rooms(ax, edges, values[inner], high, low)
    else:
        _band(ax, values, edges, "buses, lowest to highest")
        _limits(ax, edges, values, *(float(a[0]) if a.size else np.nan for a in (high, low)))
    legend(ax)
    return ax


def _rooms(
    ax: "Axes", edges: np.ndarray, values: np.ndarray, high: np.ndarray, low: np.ndarray
) -> None:
    """Distances to limits by hour, the least of all buses."""
    for word, room, color, dash in (
        ("upper", high[:, None] - values, VERMILLION, "--"),
        ("lower", values - low[:, None], BLUE, "-"),
    ):
        least, label = room.min(axis=0), f"to the {word} limit"
        ax.stairs(least, edges, baseline=None, color=color, ls=dash, lw=1.8, label=label)
    ax.axhline(0.0, color=BLACK, linewidth=1)
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))


def _limits(ax: "Axes", edges: np.ndarray, values: np.ndarray, high: float, low: float) -> None:
    """Limits that all buses share: lines where they are near, else in words."""
    wide = max(float(np.ptp(values)), 0.005)
    ends = [edges[0], edges[-1]]
    for word, limit, room, color in (
        ("upper", high, high - values.max(), VERMILLION),
        ("lower", low, values.min() - low, BLUE),
    ):
        if np.isfinite(limit):
            near = room < wide
            label = f"{word} limit, {limit:.4g} pu" + ("" if near else " (far)")
            at = [limit, limit] if near else [np.nan, np.nan]
            ax.plot(ends, at, color=color, ls="--", label=label)


def _band(ax: "Axes", values: np.ndarray, edges: np.ndarray, label: str) -> None:
    """Lowest to highest row by hour."""
    low, high = values.min(axis=0), values.max(axis=0)
    ax.stairs(high, edges, baseline=low, fill=True, color=GRAY, alpha=0.4, lw=0, label=label)
    ax.use_sticky_edges = False  # else the band touches the frame
