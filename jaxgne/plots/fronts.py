"""What two aims cost one another."""

from typing import TYPE_CHECKING

import numpy as np

from ..front import Front
from .style import BLUE, GRAY, begin, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def front(
    found: Front, ax: "Axes | None" = None, *, labels: tuple[str, str] | None = None
) -> "Axes":
    """The front that `pareto` `found`, the second objective across, and all outcomes on the way.

    `labels` of first and second objective say their units; by default they are the functions'
    names. What lies far from the front is outside of the axes.
    """
    names = found.names if labels is None else labels
    ax = begin(ax, "Pareto front", names[1], names[0], size=(6.0, 4.0))
    up, across = found.values.T
    ax.plot(*found.seen.T[::-1], ".", color=GRAY, markersize=3, label="outcomes on the way")
    ax.plot(across, up, "o--", color=BLUE, linewidth=1, label="front")
    for limits, values in ((ax.set_xlim, across), (ax.set_ylim, up)):
        room = 0.25 * np.ptp(values) or 0.05 * abs(float(values[0])) or 1.0
        limits(float(values.min() - room), float(values.max() + room))
    legend(ax)
    return ax
