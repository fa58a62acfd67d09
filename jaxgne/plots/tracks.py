"""How near solvers stay to an equilibrium that moves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..tracking import Tracking
from .style import BLACK, CYCLE, DASHES, begin, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Tracked = Literal["distance", "violation", "error", "regret"]

_LABELS = {
    "distance": "distance to the equilibrium (1)",
    "violation": "violation of limits (1)",
    "error": "relative KKT error (1)",
    "regret": "regret so far (EUR)",
}


def tracking(
    tracked: Mapping[str, Tracking], quantity: Tracked = "distance", ax: "Axes | None" = None
) -> "Axes":
    """One `quantity` by instant of `tracked`, `{"10 rounds": track(markets, rounds=10), ...}`.

    `distance` and `error` are on a logarithmic axis, with a dotted line of how far the equilibrium
    moves from instant to instant beside the first; `violation` and `regret` are not. Instants
    without an equilibrium have gaps.

    Raises `ValueError` for nothing to draw, and for another quantity.
    """
    if not tracked:
        raise ValueError("plots.tracking: nothing to draw; give at least one, by name.")
    if quantity not in get_args(Tracked):
        raise ValueError(f"plots.tracking: {quantity!r} is none of {', '.join(get_args(Tracked))}.")
    ax = begin(ax, "Tracking", "instant (number)", _LABELS[quantity])
    for k, (name, found) in enumerate(tracked.items()):
        values = found.total_regret if quantity == "regret" else getattr(found, quantity)
        ax.plot(
            np.asarray(values),
            color=CYCLE[k % len(CYCLE)],
            linestyle=DASHES[k % len(DASHES)],
            linewidth=1.8,
            label=name,
        )
    if quantity == "distance":
        drift = np.asarray(next(iter(tracked.values())).drift)
        steps = np.arange(len(drift))
        label = "its move since the last instant"
        ax.plot(steps, np.where(drift > 0, drift, np.nan), ":", color=BLACK, label=label)
    if quantity in ("distance", "error"):
        ax.set_yscale("log")
    ax.grid(color="0.9")
    legend(ax)
    return ax
