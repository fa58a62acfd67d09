"""Figures of results; matplotlib (extra `plot`) is imported when one is drawn.

Each function draws on `ax`, or on a new figure, and returns the axes. Labels carry units, colors
are those of `style`, and titles of results that did not clear say so; an infeasible market has
neither plan nor prices to draw: `ValueError`.
"""

from .curves import convergence, sigma
from .fans import fan
from .feeders import feeder
from .fronts import front
from .hourly import bus_prices, prices, voltages
from .levels import level
from .maps import grid_map
from .money import benefits, costs
from .sensitivity import sensitivities
from .stacks import energy, storage

__all__ = [
    "benefits",
    "bus_prices",
    "convergence",
    "costs",
    "energy",
    "fan",
    "feeder",
    "front",
    "grid_map",
    "level",
    "prices",
    "sensitivities",
    "sigma",
    "storage",
    "voltages",
]
