"""How long lines are how full: the duration curve of their loading."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import of_tables
from ..market import Market
from ..model import counted
from ..result import Clearing
from ..runner import hosted
from .state import line_title, loadings
from .style import BLACK, CYCLE, DASHES, GRAY, begin, check, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@of_tables
@hosted
def duration(
    market: Market, clearing: Clearing, ax: "Axes | None" = None, *, top: int = 5
) -> "Axes":
    """How many hours lines are at least how full, % of the rating: the `top` fullest, by name.

    The others lie in the gray area. Each line's hours are sorted on their own, the fullest first,
    and count by length and weight. Lines that are transformers are called so. Loadings are those of
    `plots.feeder`. Raises `ValueError` for a copperplate market, and where no line has a rating.
    """
    if not market.grid.model.networked:
        raise ValueError("plots.duration: a copperplate market has no lines.")
    note = check("duration", market, clearing)
    used, by = loadings("duration", market, clearing.plan)
    rated = np.flatnonzero(np.isfinite(used).all(axis=1))
    if not rated.size:
        raise ValueError("plots.duration: no line has a rating (Grid.rating).")
    hours = np.asarray(counted(market), float)
    order = np.argsort(-used[rated], axis=1, kind="stable")
    values = np.take_along_axis(used[rated], order, axis=1)
    edges = np.concatenate([np.zeros((len(rated), 1)), np.cumsum(hours[order], axis=1)], axis=1)
    ranked = np.argsort(-values[:, 0], kind="stable")
    ax = begin(ax, f"Loading{by}{note}", "time at least that full (h)", "loading (% of rating)")
    for k, row in enumerate(ranked[:top]):
        look: dict[str, Any] = {
            "color": CYCLE[k % len(CYCLE)],
            "linestyle": DASHES[k % len(DASHES)],
        }
        name = line_title(market.grid, int(rated[row]))
        ax.stairs(values[row], edges[row], baseline=None, linewidth=1.8, label=name, **look)
    rest = ranked[top:]
    if rest.size:
        _others(ax, values[rest], edges[rest])
    ax.axhline(100.0, color=BLACK, linestyle="--", linewidth=1)
    ax.set_ylim(bottom=0.0)
    legend(ax)
    return ax


def _others(ax: "Axes", values: np.ndarray, edges: np.ndarray) -> None:
    """The area up to the highest of the curves, each of which ends at the same time."""
    ends = np.unique(edges.round(9))
    inside = (ends[:-1] + ends[1:]) / 2
    at = [row[np.searchsorted(edge, inside) - 1] for row, edge in zip(values, edges, strict=True)]
    label = f"{len(values)} others, at most"
    ax.stairs(np.max(at, axis=0), ends, fill=True, color=GRAY, alpha=0.4, lw=0, label=label)
