"""What all figures share: colors that everyone can tell apart, labeled axes, refusals.

The palette is that of Okabe and Ito ("Color Universal Design", 2008), which color-blind readers
can tell apart; lines of several colors differ in their dashes, too. Scales are cividis, which reads
alike with and without color vision (Nuñez, Anderton, Renslow, PLoS ONE 13(7), 2018), and gray.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..clock import hours_of
from ..market import Market
from ..result import Clearing
from ..status import status_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY = "0.6"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
DASHES = ("-", "--", "-.", ":")
SCALE = "cividis"

TIME = "time (h)"
GAIN, LOSS = BLUE, VERMILLION  # signs, where the axis does not show them


def pyplot() -> Any:
    """matplotlib's pyplot, or `ImportError` that tells how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as missing:
        raise ImportError(
            'jaxgne.plots needs matplotlib: install the extra "plot" (pip install ".[plot]").'
        ) from missing
    return plt


def begin(
    ax: "Axes | None",
    title: str,
    across: str,
    up: str,
    *,
    size: tuple[float, float] = (8.0, 3.5),
) -> "Axes":
    """The axes to draw on, new ones of `size` inches if there are none, with title and labels."""
    if ax is None:
        _, ax = pyplot().subplots(figsize=size, layout="constrained")
    assert ax is not None
    ax.set_title(title)
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    if across == TIME:
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 3, 6, 10]))  # parts of a day
    return ax


def on_clock(ax: "Axes", market: Market) -> "Axes":
    """The axes with local times along the time axis, where the market has a clock."""
    clock = market.clock
    if clock is not None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        ax.xaxis.set_major_locator(AutoDateLocator(tz=clock.tz))
        ax.xaxis.set_major_formatter(ConciseDateFormatter(AutoDateLocator(tz=clock.tz), clock.tz))
        ax.set_xlabel(f"time ({clock.zone})")
    return ax


def check(name: str, market: Market, clearing: Clearing) -> str:
    """What the title of a clearing must add: nothing, or that it did not clear.

    Raises `ValueError` for a batch, for a clearing of another market, and for an infeasible one.
    """
    if np.ndim(clearing.steps):
        raise ValueError(
            f"plots.{name}: this is a batch of {clearing.steps.shape[0]} clearings; draw one, "
            "jg.scenarios.lane((markets, clearings), k), or all with plots.fan."
        )
    ours, theirs = np.shape(market.prosumers.load), np.shape(clearing.plan.imports)
    if ours != theirs:
        raise ValueError(
            f"plots.{name}: loads of shape {ours} but imports of shape {theirs}; pass the market "
            "that this clearing is of."
        )
    ended = status_name(clearing.status)
    if ended == "infeasible":
        raise ValueError(f"plots.{name}: an infeasible market has neither plan nor prices.")
    return "" if ended == "cleared" else f" (NOT CLEARED: {ended})"


def hour_edges(market: Market) -> np.ndarray:
    """When each step begins, and when the last one ends: h, or matplotlib's dates with a clock."""
    if market.before is not None:
        raise ValueError(
            "plots: this market's steps make a tree; draw one branch, jg.scenarios.branch."
        )
    hours = hours_of(market)
    edges = np.append(hours, hours[-1] + float(np.asarray(market.hour_length)[-1]))
    if market.clock is None:
        return edges
    from matplotlib.dates import date2num

    return np.asarray(date2num(market.clock.moments(edges)))


def pick(name: str, what: str, index: int, count: int) -> int:
    """`index`, or `ValueError` where there is none of that number."""
    if not 0 <= index < count:
        raise ValueError(f"plots.{name}: {what} {index}; give one of 0 to {count - 1}.")
    return index


def legend(ax: "Axes", *, upward: bool = False) -> None:
    """The legend, beside the data and not on it; `upward` like stacks that grow from below."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(**place, frameon=False, borderaxespad=0.2, reverse=upward)


def name_rows(axis: Any, names: tuple[str, ...], count: int, most: int = 40) -> None:
    """Ticks of an axis whose places are rows: their names, if all fit, else whole numbers."""
    if names and count <= most:
        turn = 90 if axis.axis_name == "x" else 0
        axis.set_ticks(range(count), labels=names, fontsize="xx-small", rotation=turn)
        return
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    if names:
        axis.set_major_formatter(
            FuncFormatter(lambda at, _: names[int(at)] if 0 <= at < count else "")
        )
