"""A map of the grid with a number at each line or bus: what is tuned, or worth something, where."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..each import for_one
from ..market import Market
from .layout import places_of
from .style import GRAY, SCALE, begin

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    """The grid, its `lines` or `buses` colored by `values`, of which `label` tells what they are.

    Values that are not finite are gray. `positions` are as for `plots.feeder`.

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
    places = places_of("grid_map", market, positions)
    wide, high = np.ptp(places, axis=0) + 1.0
    size = (9.0, float(np.clip(2.0 + 7.0 * high / wide, 4.5, 8.0)))
    ax = begin(ax, f"Grid by {label}", "", "", size=size)
    ax.set_axis_off()
    _draw(ax, market, np.where(np.isfinite(numbers), numbers, np.nan), label, of, places)
    ax.margins(0.08)
    return ax


def _draw(
    ax: "Axes", market: Market, numbers: Any, label: str, of: str, places: np.ndarray
) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    grid = market.grid
    colors = colormaps[SCALE].with_extremes(bad=GRAY)
    ends = np.stack([places[np.asarray(grid.source)], places[np.asarray(grid.target)]], axis=1)
    fed = np.isin(np.arange(len(places)), np.asarray(grid.feeder))
    lines = LineCollection(list(ends), linewidths=4.0 if of == "lines" else 1.5, zorder=1)
    dots: dict[str, Any] = {"s": 70.0 if of == "buses" else 25.0, "zorder": 2}
    shown: Any = lines
    if of == "lines":
        lines.set(array=numbers, cmap=colors)
        ax.scatter(*places.T, color=GRAY, **dots)
    else:
        lines.set_color(GRAY)
        shown = ax.scatter(*places.T, c=numbers, cmap=colors, plotnonfinite=True, **dots)
    ax.add_collection(lines)
    ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.7, pad=0.01)
    for bus in np.flatnonzero(fed):
        ax.annotate("main grid", places[bus], (0, 8), textcoords="offset points", ha="center")
