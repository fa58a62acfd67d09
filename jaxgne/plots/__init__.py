"""Figures of results; matplotlib (extra `plot`) is imported when one is drawn.

Each function draws on `ax`, or on a new figure, and returns the axes. Labels carry units, colors
are those of `style`, and titles of results that did not clear say so; an infeasible market has
neither plan nor prices to draw: `ValueError`.

Axes less than 3 inches wide, panels of a figure of several, have small words and their legend
below. Where that does not suit, `ax.get_legend()` can be moved (`set_loc`) or left out (`remove`).
Legends have room where the figure has `layout="constrained"`:

    figure, axes = plt.subplots(1, 3, figsize=(7, 2.3), layout="constrained")
    plots.energy(market, clearing, axes[0])
"""

from .curves import convergence, sigma, transformer
from .durations import duration
from .envelopes import envelope_map
from .fans import fan
from .feeders import feeder
from .fronts import front
from .hourly import bus_prices, prices, voltages
from .levels import level
from .maps import grid_map
from .merit import merit_order
from .money import benefits, costs
from .sensitivity import sensitivities
from .stacks import energy, storage
from .talks import conversation
from .tracks import tracking

__all__ = [
    "benefits",
    "bus_prices",
    "convergence",
    "conversation",
    "costs",
    "duration",
    "energy",
    "envelope_map",
    "fan",
    "feeder",
    "front",
    "grid_map",
    "level",
    "merit_order",
    "prices",
    "sensitivities",
    "sigma",
    "storage",
    "tracking",
    "transformer",
    "voltages",
]
