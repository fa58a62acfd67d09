"""The level of a cap by hour, and its limits."""

from typing import TYPE_CHECKING

import numpy as np

from ..arguments import of_tables
from ..market import Market
from ..result import Clearing
from .style import BLUE, GRAY, TIME, VERMILLION, begin, check, hour_edges, legend, on_clock, pick

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@of_tables
def level(
    market: Market, clearing: Clearing, ax: "Axes | None" = None, *, cap: int | str = 0
) -> "Axes":
    """Level of a `cap`, by number or name, in its unit; its limits, and what members make of it.

    A level that nobody makes in full, as that of a demand charge off its peak, stands above what is
    counted, an area. Raises `ValueError` for a cap that there is not.
    """
    note, caps = check("level", market, clearing), market.caps
    if isinstance(cap, str) and cap not in caps.names:
        known = ", ".join(caps.names) or "none"
        raise ValueError(f"plots.level: there is no cap {cap!r}; this market has {known}.")
    number = caps.names.index(cap) if isinstance(cap, str) else cap
    row = pick("level", "cap", number, len(caps.names))
    name, unit = caps.names[row], caps.units[row] or "1"
    ax = on_clock(begin(ax, f"Cap: {name}{note}", TIME, f"level ({unit})"), market)
    edges, values = hour_edges(market), np.asarray(clearing.plan.level)[row]
    if not caps.adds[row]:
        counted = values - np.asarray(clearing.plan.spare)[row]
        ax.stairs(counted, edges, fill=True, color=GRAY, alpha=0.4, lw=0, label="counted")
    ax.stairs(values, edges, baseline=None, color=BLUE, label="level")
    for word, limit in (("upper", caps.level_max), ("lower", caps.level_min)):
        most = np.asarray(limit)[row]
        if np.isfinite(most).any():
            told = np.where(np.isfinite(most), most, np.nan)
            ax.stairs(told, edges, baseline=None, color=VERMILLION, ls="--", label=f"{word} limit")
    legend(ax)
    return ax
