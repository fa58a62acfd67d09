"""A map of the grid in one hour: voltages of buses, loadings of lines, trades as arcs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..clock import in_hour, step_at
from ..market import Market
from ..model import aggregate
from ..result import Clearing
from .layout import Spots, spots_of
from .state import state
from .strokes import PHASES, dots, phase_names, reveal, sector, shrink, stroke
from .style import BLACK, GRAY, SCALE, VERMILLION, begin, check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ARCS = 40  # trades drawn at most, the largest
_NAMED = 60  # buses up to which they have their names written beside them


def feeder(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    hour: Any = None,
    positions: Any = None,
) -> "Axes":
    """The grid at an `hour`, by default in that of the highest contracted import.

    Hours are counted from the start (18, 18.25); with a clock a local time does as well, such as
    "2025-03-30 18:15".

    Buses are colored by voltage (pu), lines by loading (% of the rating; dotted where they have
    none). Arrows go from where power is sold to where it is bought, as wide as the trade (kW):
    trades between prosumers at two buses, summed, the 40 largest. `positions` (B, 2) are the buses'
    coordinates; without, a radial grid is laid out as a tidy tree, in which lengths mean nothing.
    Voltages and loadings are the AC power flow's where the grid model does not determine them.

    In three phases a bus is a disk of three sectors, and a line up to three strokes side by side,
    colored by phase and as wide as they are full; who draws on several phases is at the bus.
    `positions` may then be one for each bus, or for each row.

    Raises `ValueError` for a copperplate market, which has no network, an hour that there is not,
    and positions of another shape.
    """
    grid = market.grid
    if not grid.model.networked:
        raise ValueError("plots.feeder: a copperplate market has no network to draw.")
    note = check("feeder", market, clearing)
    total = np.asarray(aggregate(market, clearing.plan))
    step = int(total.argmax()) if hour is None else step_at(market, hour)
    spots = spots_of("feeder", market, positions)
    wide, high = np.ptp(spots.places, axis=0) + 1.0
    size = (9.0, float(np.clip(2.0 + 7.0 * high / wide, 4.5, 8.0)))
    ax = begin(ax, f"Grid and trades {in_hour(market, step)}{note}", "", "", size=size)
    ax.set_axis_off()
    reveal(ax, spots)
    volts, carried, _ = state("feeder", market, clearing.plan)
    draw = _conductors if spots.phased else _lines
    shown = [
        *draw(ax, market, spots, carried[:, step]),
        *_buses(ax, market, spots, volts[:, step]),
        *_trades(ax, market, spots, np.asarray(clearing.plan.trades)[:, step]),
    ]
    # Below the map: beside it stand the scales.
    ax.legend(handles=shown, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, frameon=False)
    return ax


def _lines(ax: "Axes", market: Market, spots: Spots, carried: np.ndarray) -> list[Any]:
    """Lines, the darker and wider the fuller; legend entries."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D

    rating = np.asarray(market.grid.rating)
    rated = np.isfinite(rating) & (rating > 0)
    handles = []
    if rated.any():
        loading = 100 * carried[rated] / rating[rated]
        grays = LinearSegmentedColormap.from_list("grays", ["0.85", "0"])
        look: dict[str, Any] = {"cmap": grays, "linewidths": 2.0 + 0.03 * loading, "zorder": 1}
        lines = stroke(ax, market, spots, np.flatnonzero(rated), array=loading, **look)
        lines.set_clim(0.0, max(100.0, float(np.nan_to_num(loading).max())))
        ax.figure.colorbar(lines, ax=ax, label="loading (% of rating)", shrink=0.7, pad=0.01)
    if not rated.all():
        dotted: dict[str, Any] = {"color": GRAY, "linestyle": ":", "linewidth": 2.0}
        stroke(ax, market, spots, np.flatnonzero(~rated), zorder=1, label="", **dotted)
        handles.append(Line2D([], [], label="line without rating", **dotted))
    return handles


def _conductors(ax: "Axes", market: Market, spots: Spots, carried: np.ndarray) -> list[Any]:
    """Conductors by phase, the wider the fuller; legend entries."""
    from matplotlib.lines import Line2D

    grid, small = market.grid, shrink(spots)
    rating = np.asarray(grid.rating)
    rated = np.isfinite(rating) & (rating > 0)
    full = np.zeros(len(rating))
    full[rated] = np.minimum(carried[rated] / rating[rated], 1.5)
    phase = spots.phase[np.asarray(grid.target)[spots.lines]]
    for k, color in enumerate(PHASES):
        for those, style in ((rated, "-"), (~rated, ":")):
            lines = spots.lines[(phase == k) & those[spots.lines]]
            width = (0.6 + 3.0 * full[lines]) * small
            look: dict[str, Any] = {"colors": color, "linewidths": width, "linestyles": style}
            if lines.size:
                stroke(ax, market, spots, lines, zorder=1, **look)
    handles = []
    for k, (name, color) in enumerate(zip(phase_names(market, spots), PHASES, strict=True)):
        if np.any(spots.phase == k):
            look = {"marker": sector(k), "markersize": 13, "lw": 2.0}
            handles.append(Line2D([], [], color=color, label=f"phase {name}", **look))
    for share in (0.1, 1.0) if rated[spots.lines].any() else ():
        label = f"loading {100 * share:g} % of rating"
        handles.append(Line2D([], [], color=GRAY, lw=0.6 + 3.0 * share, label=label))
    if not rated[spots.lines].all():
        handles.append(Line2D([], [], color=GRAY, ls=":", lw=0.6, label="line without rating"))
    return handles


def _buses(ax: "Axes", market: Market, spots: Spots, volts: np.ndarray) -> list[Any]:
    """Buses by voltage, with a ring where prosumers are, feeders square; legend entries."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    grid, count = market.grid, len(spots.places)
    area = 70.0 if count <= _NAMED else max(8.0, 4000.0 / count)
    fed, homes = (
        np.isin(np.arange(count), spots.of[np.asarray(rows)])
        for rows in (grid.feeder, market.prosumers.bus)
    )
    rings = np.where(homes, BLACK, "0.8")
    scale: dict[str, Any] = {"cmap": SCALE, "vmin": volts.min(), "vmax": volts.max(), "zorder": 3}
    mapped: Any = None
    if spots.phased:
        area = 150.0 if count <= _NAMED else max(8.0, 8000.0 / count)
        mapped = dots(ax, spots, volts, area, linewidths=0.0, **scale)[-1]
        scale, area = {"zorder": 3}, 1.2 * area
    for marker, kept in (("o", ~fed), ("s", fed)):
        here = np.flatnonzero(kept & (homes | fed | (count <= _NAMED) | (not spots.phased)))
        look = {"marker": marker, "edgecolors": rings[here].tolist(), "linewidths": 1.2, **scale}
        inside = "none" if spots.phased else volts[here]
        drawn = ax.scatter(*spots.places[here].T, s=area, c=inside, **look)
        mapped = drawn if here.size and not spots.phased else mapped
    ax.figure.colorbar(mapped, ax=ax, label="voltage (pu)", shrink=0.7, pad=0.01)
    if count <= _NAMED:
        for name, (x, y) in zip(spots.names, spots.places, strict=True):
            ax.annotate(
                name,
                (x, y),
                (0, -10 if spots.phased else -6),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize="xx-small",
                zorder=4,
                path_effects=[withStroke(linewidth=2.0, foreground="white")],
            )
    look = {"ls": "", "color": BLACK, "markerfacecolor": "white", "markersize": 7}
    return [
        Line2D([], [], marker="s", markeredgecolor=GRAY, label="main grid", **look),
        Line2D([], [], marker="o", markeredgecolor=BLACK, label="bus with prosumers", **look),
        Line2D([], [], marker="o", markeredgecolor="0.8", label="other bus", **look),
    ]


def _trades(ax: "Axes", market: Market, spots: Spots, trades: np.ndarray) -> list[Any]:
    """Arrows from seller to buyer, as wide as the trade; legend entries."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    sold, most = bus_trades(market, spots, trades), 0.0
    largest = sorted(sold.items(), key=lambda item: -item[1])[:_ARCS]
    for (seller, buyer), power in largest:
        most = max(most, power)
        width = 0.5 + 3.0 * power / most
        arrow = FancyArrowPatch(
            tuple(spots.places[seller]),
            tuple(spots.places[buyer]),
            connectionstyle="arc3,rad=0.25",
            arrowstyle="-|>",
            mutation_scale=6.0 + 1.5 * width,
            shrinkA=4.0,
            shrinkB=4.0,
            linewidth=width,
            color=VERMILLION,
            alpha=0.6,
            zorder=2,
        )
        ax.add_patch(arrow)
    if not largest:
        return []
    label = f"trade, widest {most:.3g} kW"
    if len(sold) > len(largest):
        label += f" (the {len(largest)} largest of {len(sold)})"
    return [Line2D([], [], color=VERMILLION, alpha=0.6, linewidth=3.5, label=label)]


def bus_trades(market: Market, spots: Spots, trades: np.ndarray) -> dict[tuple[int, int], float]:
    """What the buses' prosumers sell to those of another, kW: (seller, buyer) to net power.

    Less than a thousandth of the largest is a solver's rounding and left out.
    """
    bus, pairs = spots.of[np.asarray(market.prosumers.bus)], market.trading
    buyer, seller = bus[np.asarray(pairs.buyer)], bus[np.asarray(pairs.seller)]
    net: dict[tuple[int, int], float] = {}
    for one, other, power in zip(buyer.tolist(), seller.tolist(), trades.tolist(), strict=True):
        first, sign = ((one, other), 1.0) if one < other else ((other, one), -1.0)
        net[first] = net.get(first, 0.0) + sign * power
    flows = {
        (to, at) if power > 0 else (at, to): abs(power)
        for (at, to), power in net.items()
        if at != to
    }
    least = 1e-3 * max(flows.values(), default=0.0)
    return {ends: power for ends, power in flows.items() if power > least}
