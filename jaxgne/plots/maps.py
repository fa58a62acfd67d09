"""A map of the grid with a number at each line or bus: what is tuned, or worth something, where."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import of_tables
from ..each import for_one
from ..market import Market
from .layout import Spots, spots_of
from .strokes import dots, phase_names, reveal, sector, shrink, stroke
from .style import GRAY, SCALE, begin, below, narrow, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@of_tables
@for_one()
def grid_map(
    market: Market,
    values: Any,
    label: str,
    ax: "Axes | None" = None,
    *,
    of: str = "lines",
    positions: Any = None,
) -> "Axes":
    """The grid, its lines or buses (`of`) colored by `values`; `label` tells what these are.

    Values that are not finite are gray. `positions` are as for `plots.feeder`, and so are three
    phases; what is of terminals is not drawn.

    Raises `ValueError` for a copperplate market, another word, and values of another number.
    """
    grid = market.grid
    if not grid.model.networked:
        raise ValueError("plots.grid_map: a copperplate market has no network to draw.")
    counts = {"lines": len(grid.source), "buses": len(grid.passive)}
    numbers = np.asarray(values, float)
    if of not in counts or numbers.shape != (counts[of],):
        raise ValueError(
            f"plots.grid_map: {numbers.shape} values of {of!r}; give {counts['lines']} of 'lines' "
            f"or {counts['buses']} of 'buses'."
        )
    spots = spots_of("grid_map", market, positions)
    wide, high = np.ptp(spots.places, axis=0) + 1.0
    size = (9.0, float(np.clip(2.0 + 7.0 * high / wide, 4.5, 8.0)))
    ax = begin(ax, f"Grid by {label}", "", "", size=size)
    ax.set_axis_off()
    reveal(ax, spots)
    _draw(ax, market, np.where(np.isfinite(numbers), numbers, np.nan), label, of, spots)
    return ax


def _draw(
    ax: "Axes", market: Market, numbers: np.ndarray, label: str, of: str, spots: Spots
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colors = colormaps[SCALE].with_extremes(bad=GRAY)
    shown = numbers[spots.lines] if of == "lines" else numbers
    known = shown[np.isfinite(shown)]
    scale = Normalize(*((known.min(), known.max()) if known.size else (0.0, 1.0)))
    mapped: dict[str, Any] = {"cmap": colors, "norm": scale}
    panel = 0.5 if narrow(ax) else 1.0
    small = panel * (1.0 if not spots.phased else 0.75 * shrink(spots))
    if of == "lines":
        ax.scatter(*spots.places.T, color=GRAY, s=25.0 * small, zorder=2)
        look = {"array": shown, "linewidths": 4.0 * small, **mapped}
        drawn = stroke(ax, market, spots, spots.lines, zorder=1, **look)
    else:
        stroke(ax, market, spots, spots.lines, colors=GRAY, linewidths=1.5 * small, zorder=1)
        area = panel**2 * (70.0 if not spots.phased else 150.0 * shrink(spots) ** 2)
        drawn = dots(ax, spots, numbers, area, plotnonfinite=True, zorder=2, **mapped)[0]
        if spots.phased:
            ax.scatter(*spots.places.T, s=area, c="none", edgecolors="0.8", zorder=2)
    scale_of(ax, drawn, label)
    for spot in np.unique(spots.of[np.asarray(market.grid.feeder)]):
        ax.annotate(
            "main grid", tuple(spots.places[spot]), (0, 8), textcoords="offset points", ha="center"
        )
    if spots.phased:
        _order(ax, market, spots, of)


def _order(ax: "Axes", market: Market, spots: Spots, of: str) -> None:
    """Which of three is which phase."""
    from matplotlib.lines import Line2D

    names = phase_names(market, spots)
    if of == "lines":
        label = f"conductors {', '.join(names)}: from left to right, seen from the main grid"
        handles = [Line2D([], [], color=GRAY, lw=3.0, label=label)]
    else:
        look: dict[str, Any] = {"ls": "", "color": GRAY, "markersize": 13}
        handles = [
            Line2D([], [], marker=sector(k), label=f"phase {name}", **look)
            for k, name in enumerate(names)
        ]
    below(ax, handles)
