"""What deviations of the total cost, from the cheapest on."""

from typing import TYPE_CHECKING

import numpy as np

from ..balancing import Curve
from ..clock import hour_name
from .style import BLACK, CYCLE, DASHES, begin, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def merit_order(found: Curve, ax: "Axes | None" = None) -> "Axes":
    """The price of balancing energy over the deviation that is asked: `found` by `balancing.curve`.

    A line for each step of which it is asked. Where limits leave less there is no line.
    """
    ax = begin(
        ax, "Balancing energy", "asked of the total (kW)", "price (EUR/kWh)", size=(6.0, 4.0)
    )
    kw, price = np.asarray(found.deviations), np.asarray(found.price)
    order = np.argsort(kw)
    for k, h in enumerate(np.flatnonzero(np.asarray(found.asked)).tolist()):
        ax.plot(
            kw[order],
            price[order, h],
            "o",
            color=CYCLE[k % len(CYCLE)],
            linestyle=DASHES[k % len(DASHES)],
            markersize=4,
            label=hour_name(found.market, h),
        )
    ax.axhline(0.0, color=BLACK, linewidth=1)
    legend(ax)
    return ax
