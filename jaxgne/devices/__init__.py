"""Devices as people describe them, turned into rows of a market's tables."""

from .battery import battery
from .generator import generator
from .heat_pump import heat_pump
from .inverter import connection, inverter
from .photovoltaic import photovoltaic
from .reach import recover
from .shiftable import shiftable
from .tables import join
from .vehicle import vehicle

__all__ = [
    "battery",
    "connection",
    "generator",
    "heat_pump",
    "inverter",
    "join",
    "photovoltaic",
    "recover",
    "shiftable",
    "vehicle",
]
