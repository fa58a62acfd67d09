"""Devices as people describe them, turned into rows of a market's tables."""

from ._battery import battery
from ._elastic import elastic
from ._electrolyser import electrolyser
from ._generator import generator
from ._heat_pump import heat_pump
from ._inverter import connection, inverter
from ._photovoltaic import photovoltaic
from ._shiftable import shiftable
from ._vehicle import vehicle
from .reach import recover
from .tables import join

__all__ = [
    "battery",
    "connection",
    "elastic",
    "electrolyser",
    "generator",
    "heat_pump",
    "inverter",
    "join",
    "photovoltaic",
    "recover",
    "shiftable",
    "vehicle",
]
