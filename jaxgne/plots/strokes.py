"""Lines and buses of a map: in three phases conductors side by side, and buses as three sectors."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..names import CONNECTIONS
from .layout import Spots
from .style import BLUE, GREEN, PURPLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES = (BLUE, GREEN, PURPLE)  # a, b, c
_SECTORS = ((30, 150), (-90, 30), (150, 270))  # degree: a on top, then clockwise
_GAP = 4.0  # points from conductor to conductor
_FULL = 60  # spots up to which things have their full size


def phase_names(market: Any, spots: Spots) -> list[str]:
    """What most rows of each phase are called by: a, b, c, or without ground ab, bc, ca."""
    found, names = [], market.grid.names
    for k, letter in enumerate("abc"):
        own = [names[row].rpartition(".")[2] for row in np.flatnonzero(spots.phase == k) if names]
        most = Counter(name for name in own if name in CONNECTIONS).most_common(1)
        found.append(most[0][0] if most else letter)
    return found


def shrink(spots: Spots) -> float:
    """How much smaller things are on a crowded map, 1 where there is room."""
    return float(min(1.0, max(0.25, (_FULL / max(len(spots.places), 1)) ** 0.5)))


def ends_of(market: Any, spots: Spots, lines: np.ndarray) -> np.ndarray:
    """Both ends of lines (L, 2, 2)."""
    rows = (np.asarray(end)[lines] for end in (market.grid.source, market.grid.target))
    return np.stack([spots.places[spots.of[row]] for row in rows], axis=1)


def stroke(ax: "Axes", market: Any, spots: Spots, lines: np.ndarray, **look: Any) -> Any:
    """Lines as a collection, those of phases moved aside: a left of b, c right, seen outwards.

    To be called once the axes show all spots: which side that is follows from where they are.
    """
    from matplotlib.collections import LineCollection

    ends = ends_of(market, spots, lines)
    if not spots.phased:
        return ax.add_collection(LineCollection(list(ends), **look))
    phase = spots.phase[np.asarray(market.grid.target)[lines]]
    shown = ax.transData.transform(ends.reshape(-1, 2)).reshape(ends.shape)
    along = shown[:, 1] - shown[:, 0]
    aside = np.stack([-along[:, 1], along[:, 0]], axis=1)
    aside = aside / np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-9)
    steps = (1 - phase)[:, None] * _GAP * shrink(spots)
    figure: Any = ax.figure
    drawn = LineCollection(
        list(ends), offsets=aside * steps / 72, offset_transform=figure.dpi_scale_trans, **look
    )
    return ax.add_collection(drawn, autolim=False)


def sector(phase: int) -> Any:
    """The marker of a phase: a third of a disk."""
    from matplotlib.path import Path

    return Path.wedge(*_SECTORS[phase])


def dots(ax: "Axes", spots: Spots, values: np.ndarray, area: float, **look: Any) -> list[Any]:
    """Values of rows at their spots: disks, or sectors by phase; terminals have none."""
    parts = [(np.arange(len(spots.of)), "o")]
    if spots.phased:
        parts = [(np.flatnonzero(spots.phase == k), sector(k)) for k in range(3)]
    return [
        ax.scatter(*spots.places[spots.of[rows]].T, s=area, c=values[rows], marker=marker, **look)
        for rows, marker in parts
        if rows.size
    ]


def reveal(ax: "Axes", spots: Spots) -> None:
    """Let the axes show all spots, with room around them."""
    ax.update_datalim(spots.places)
    ax.margins(0.08)
    ax.autoscale_view()
