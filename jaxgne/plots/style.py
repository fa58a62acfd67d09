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
_NARROW = 3.0  # inches below which axes are a panel of several
_SMALL = 6  # points: ticks and legends of such a panel
GAIN, LOSS = BLUE, VERMILLION  # signs, where the axis does not show them


def pyplot() -> Any:
    """matplotlib's pyplot, or `ImportError` that tells how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as missing:
        raise ImportError(
            'jaxgne.plots needs matplotlib: install the extra "plot" (pip install "jaxgne[plot]").'
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
    small = narrow(ax)
    head: dict[str, Any] = {"fontsize": 8} if small else {}
    words: dict[str, Any] = {"fontsize": 7} if small else {}
    for mark in (" (NOT", ", of the", ", AC") if small else ():  # long titles in two lines
        title = title.replace(mark, f"\n{mark.removeprefix(', ').strip()}")
    ax.set_title(title, **head)
    ax.set_xlabel(across, **words)
    ax.set_ylabel(up, **words)
    if small:
        ax.tick_params(labelsize=_SMALL)
    if across == TIME:
        from matplotlib.ticker import MaxNLocator

        few: dict[str, Any] = {"nbins": 5} if small else {}
        ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 3, 6, 10], **few))  # parts of a day
    return ax


def narrow(ax: "Axes") -> bool:
    """Whether axes are a panel of a small figure, in which words are small and legends below."""
    figure: Any = ax.figure
    return bool(ax.get_position().width * figure.get_figwidth() < _NARROW)


def on_clock(ax: "Axes", market: Market) -> "Axes":
    """The axes with local times along the time axis, where the market has a clock."""
    clock = market.clock
    if clock is not None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        ticks = AutoDateLocator(tz=clock.tz, minticks=3, maxticks=5 if narrow(ax) else None)
        ax.xaxis.set_major_locator(ticks)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(ticks, clock.tz))
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
    """The legend, not on the data: beside it, in a narrow panel below; `upward` like stacks.

    To be called last, once it is known how high the ticks are.
    """
    if narrow(ax):
        below(ax, ax.get_legend_handles_labels()[0])
        return
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(**place, frameon=False, borderaxespad=0.2, reverse=upward)


def below(ax: "Axes", handles: list[Any]) -> None:
    """A legend of two columns below the axes, their ticks and their label."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.figure
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 2}
    if narrow(ax):
        ticks: Any = ax.xaxis.get_tightbbox() if ax.axison else None
        lower = 0.0 if ticks is None else ax.get_window_extent().y0 - ticks.y0
        down = ScaledTranslation(0.0, -lower / figure.dpi, figure.dpi_scale_trans)
        place |= {"bbox_transform": ax.transAxes + down, "borderaxespad": 0.3}
        place |= {"fontsize": _SMALL, "handlelength": 1.2, "labelspacing": 0.2}
        place |= {"columnspacing": 0.8, "handletextpad": 0.4}
        if not ax.axison:  # a map: it may reach below the scales
            place |= {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "markerscale": 0.5}
    ax.legend(handles=handles, frameon=False, **place)


def name_rows(axis: Any, names: tuple[str, ...], count: int, most: int = 40) -> None:
    """Ticks of an axis whose places are rows: their names, if all fit, else whole numbers."""
    if names and count <= (most // 4 if narrow(axis.axes) else most):
        turn = 90 if axis.axis_name == "x" else 0
        axis.set_ticks(range(count), labels=names, fontsize="xx-small", rotation=turn)
        return
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    few: dict[str, Any] = {"nbins": 5} if narrow(axis.axes) else {}
    axis.set_major_locator(MaxNLocator(integer=True, **few))
    if names:
        axis.set_major_formatter(
            FuncFormatter(lambda at, _: names[int(at)] if 0 <= at < count else "")
        )


def scale_of(ax: "Axes", mapped: Any, label: str) -> None:
    """The scale of what is colored by a number, beside a map; in a panel above its legend."""
    figure: Any = ax.figure
    if not narrow(ax):
        figure.colorbar(mapped, ax=ax, label=label, shrink=0.7, pad=0.01)
        return
    beside = ax.inset_axes((1.04 + 0.28 * len(ax.child_axes), 0.1, 0.05, 0.75))
    figure.colorbar(mapped, cax=beside)
    beside.set_title(label.split("(")[-1].split(" of ")[0].rstrip(")"), fontsize=_SMALL)
    beside.tick_params(labelsize=_SMALL, length=2, pad=1)
