"""Devices as people describe them, turned into rows of `Generators` and `Buffers`."""

from .battery import battery
from .generator import generator
from .heat_pump import heat_pump
from .photovoltaic import photovoltaic
from .shiftable import shiftable
from .tables import join
from .vehicle import vehicle

__all__ = [
    "battery",
    "generator",
    "heat_pump",
    "join",
    "photovoltaic",
    "shiftable",
    "vehicle",
]
