"""Lines side by side: imports of several clearings, convergence of several solvers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import check_cleared
from ..market import Market
from ..model import aggregate, net_exchange
from ..result import Clearing
from ..tracing import Trace
from .style import BLACK, CYCLE, DASHES, TIME, begin, check, hour_edges, legend, on_clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sigma(cleared: Mapping[str, tuple[Market, Clearing]], ax: "Axes | None" = None) -> "Axes":
    """Total import by hour, kW, of `cleared`: `{"market": (market, clearing), ...}`.

    That is what prosumers and passive consumers have contracted of the main grid, whatever others
    export at the same time; `plots.transformer` has both. The names of those that did not clear say
    so, and so does the title.
    """
    return _totals("sigma", "Total import", "contracted import (kW)", aggregate, cleared, ax)


def transformer(cleared: Mapping[str, tuple[Market, Clearing]], ax: "Axes | None" = None) -> "Axes":
    """Power at the transformer by hour, kW, of `cleared`, as for `sigma`: below zero it flows out.

    What all import less what all export, over all feeders. As for `plots.sigma` names and title
    tell which did not clear.
    """
    label = "power from the main grid (kW)"
    ax = _totals("transformer", "Power at the transformer", label, net_exchange, cleared, ax)
    ax.axhline(0.0, color=BLACK, linewidth=1)
    return ax


def _totals(
    name: str,
    title: str,
    label: str,
    total: Callable[[Market, Any], Any],
    cleared: Mapping[str, tuple[Market, Clearing]],
    ax: "Axes | None",
) -> "Axes":
    """Lines of a total by hour, one for each clearing."""
    check_cleared(f"plots.{name}", cleared, Market, Clearing)
    _some(name, cleared)
    notes = {one: check(name, *pair) for one, pair in cleared.items()}
    missed = sum(bool(note) for note in notes.values())
    title += f" ({missed} of {len(notes)} NOT CLEARED)" if missed else ""
    ax = begin(ax, title, TIME, label)
    zones = {market.clock and market.clock.zone for market, _ in cleared.values()}
    one = len(zones) == 1  # else hours since each start
    if one:
        on_clock(ax, next(iter(cleared.values()))[0])
    for k, (word, (market, clearing)) in enumerate(cleared.items()):
        ax.stairs(
            np.asarray(total(market, clearing.plan)),
            hour_edges(market if one else replace(market, clock=None)),
            baseline=None,
            color=CYCLE[k % len(CYCLE)],
            linestyle=DASHES[k % len(DASHES)],
            linewidth=1.8,
            label=word + notes[word],
        )
    legend(ax)
    return ax


def convergence(traces: Mapping[str, Trace], ax: "Axes | None" = None) -> "Axes":
    """Relative KKT error against the steps of solvers: `traces` are `{"name": trace(market, ...)}`.

    Both axes are logarithmic, as solvers differ by orders of magnitude in how many steps they take
    and how much each does.
    """
    _some("convergence", traces)
    ax = begin(ax, "Convergence", "steps (number)", "relative KKT error (1)")
    for k, (name, found) in enumerate(traces.items()):
        ax.loglog(
            np.asarray(found.steps),
            np.asarray(found.error),
            color=CYCLE[k % len(CYCLE)],
            linestyle=DASHES[k % len(DASHES)],
            linewidth=1.8,
            label=name,
        )
    ax.grid(color="0.9")
    legend(ax)
    return ax


def _some(name: str, given: Mapping[str, object]) -> None:
    if not given:
        raise ValueError(f"plots.{name}: nothing to draw; give at least one, by name.")
