"""A map of the grid in one hour: voltages of buses, loadings of lines, trades as arcs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import of_tables
from ..clock import in_hour, step_at
from ..market import Market
from ..model import net_exchange
from ..result import Clearing
from .arcs import draw_trades
from .layout import Spots, spots_of
from .state import loadings_of, state
from .strokes import PHASES, dots, phase_names, reveal, sector, shrink, stroke
from .style import BLACK, GRAY, SCALE, begin, below, check, narrow, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 60  # buses up to which all have their names, if there is room
_LONG = 12  # letters of a name at most
_SPAN = 0.04  # pu: the scale of voltages spans no less, so that equal ones look equal


@of_tables
def feeder(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    hour: Any = None,
    least: float | None = None,
    positions: Any = None,
) -> "Axes":
    """The grid at an `hour`, by default in that of the highest loading of a line.

    Hours are counted from the start (18, 18.25); with a clock a local time does as well, such as
    "2025-03-30 18:15".

    Buses are colored by voltage (pu), lines by loading (% of the rating; dotted where they have
    none). Arrows go from where power is sold to where it is bought, as wide as the trade (kW):
    trades between prosumers at two buses, summed. Drawn are those of `least` kW and more, by
    default the largest that carry 80 % of all, at most 20, if they are a hundredth of what the
    prosumers draw and feed in. `positions` (B, 2) are the buses'
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
    volts, carried, _ = state("feeder", market, clearing.plan)
    step = _fullest(market, clearing, carried) if hour is None else step_at(market, hour)
    spots = spots_of("feeder", market, positions)
    wide, high = np.ptp(spots.places, axis=0) + 1.0
    size = (9.0, float(np.clip(2.0 + 7.0 * high / wide, 4.5, 8.0)))
    most = ", of the highest loading" if hour is None else ""
    ax = begin(ax, f"Grid and trades {in_hour(market, step)}{most}{note}", "", "", size=size)
    ax.set_axis_off()
    reveal(ax, spots)
    draw = _conductors if spots.phased else _lines
    shown = [
        *draw(ax, market, spots, carried[:, step]),
        *_buses(ax, market, spots, volts[:, step]),
        *draw_trades(ax, market, spots, clearing.plan, step, least),
    ]
    below(ax, shown)  # beside it stand the scales
    return ax


def _fullest(market: Market, clearing: Clearing, carried: np.ndarray) -> int:
    """The step in which a line is fullest; without ratings that of the most power from the grid."""
    used = loadings_of(market.grid, carried)
    if np.isfinite(used).any():
        return int(np.nanmax(used, axis=0, initial=-np.inf).argmax())
    return int(np.abs(np.asarray(net_exchange(market, clearing.plan))).argmax())


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
        look: dict[str, Any] = {"cmap": grays, "zorder": 1}
        look["linewidths"] = (2.0 + 0.03 * loading) * (0.5 if narrow(ax) else 1.0)
        lines = stroke(ax, market, spots, np.flatnonzero(rated), array=loading, **look)
        lines.set_clim(0.0, max(100.0, float(np.nan_to_num(loading).max())))
        scale_of(ax, lines, "loading (% of rating)")
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

    grid, count = market.grid, len(spots.places)
    scarce = min(1.0, _NAMED / count) ** 0.75  # dots get smaller slower than room for them
    room = 0.4 if narrow(ax) else 1.0
    area, ring = 70.0 * scarce * room, 1.2 * scarce * room**0.5
    fed, homes = (
        np.isin(np.arange(count), spots.of[np.asarray(rows)])
        for rows in (grid.feeder, market.prosumers.bus)
    )
    rings = np.where(homes, BLACK, "0.8")
    middle, half = (volts.min() + volts.max()) / 2, max(np.ptp(volts), _SPAN) / 2
    ends = {"vmin": middle - half, "vmax": middle + half}
    scale: dict[str, Any] = {"cmap": SCALE, "zorder": 3, **ends}
    mapped: Any = None
    if spots.phased:
        area = 150.0 * scarce * room
        mapped = dots(ax, spots, volts, area, linewidths=0.0, **scale)[-1]
        scale, area = {"zorder": 3}, 1.2 * area
    for marker, kept in (("o", ~fed), ("s", fed)):
        here = np.flatnonzero(kept & (homes | fed | (count <= _NAMED) | (not spots.phased)))
        look = {"marker": marker, "edgecolors": rings[here].tolist(), "linewidths": ring, **scale}
        inside = "none" if spots.phased else volts[here]
        drawn = ax.scatter(*spots.places[here].T, s=area, c=inside, **look)
        mapped = drawn if here.size and not spots.phased else mapped
    scale_of(ax, mapped, "voltage (pu)")
    _names(ax, market, spots, volts, homes)
    look = {"ls": "", "color": BLACK, "markerfacecolor": "white", "markersize": 7}
    return [
        Line2D([], [], marker="s", markeredgecolor=GRAY, label="main grid", **look),
        Line2D([], [], marker="o", markeredgecolor=BLACK, label="bus with prosumers", **look),
        Line2D([], [], marker="o", markeredgecolor="0.8", label="other bus", **look),
    ]


def _names(ax: "Axes", market: Market, spots: Spots, volts: np.ndarray, homes: np.ndarray) -> None:
    """Names of buses where there is room: the feeders' and outermost voltages' first, then homes'.

    What all names begin with is left out.
    """
    from matplotlib.patheffects import withStroke

    low, high = min(spots.names), max(spots.names)
    alike = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), 0)
    begun = low[: max(low.rfind(mark, 0, alike) for mark in " ._-") + 1]
    first = [*np.unique(spots.of[np.asarray(market.grid.feeder)])]
    first += [spots.of[volts.argmin()], spots.of[volts.argmax()]]
    few = [] if len(homes) > _NAMED else [*np.flatnonzero(homes), *np.flatnonzero(~homes)]
    small = narrow(ax)
    taken: list[Any] = []
    for spot in dict.fromkeys(int(k) for k in [*first, *few]):
        name = spots.names[spot].removeprefix(begun)
        drawn = ax.annotate(
            name if len(name) <= _LONG else f"{name[: _LONG - 1]}…",
            tuple(spots.places[spot]),
            (0, -10 if spots.phased else -6),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=4 if small else "xx-small",
            zorder=4,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )
        box = drawn.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            drawn.remove()
        else:
            taken.append(box)
