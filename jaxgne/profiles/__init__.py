"""What customers draw and make over time: series that are given, sun, standard loads, heat, cars.

Each function gives `Profiles`: kW by row and step (R, H) on a `Clock`, which go where a market or a
device takes such an array (docs/profiles.md). What a function needs beyond the core is imported
when it runs, and named where it is missing.
"""

from ._heat_pumps import HeatPumps, heat_pumps
from ._profiles import Profiles
from ._series import series
from ._solar import solar
from ._standard import standard
from ._vehicles import Vehicles, vehicles

__all__ = [
    "HeatPumps",
    "Profiles",
    "Vehicles",
    "heat_pumps",
    "series",
    "solar",
    "standard",
    "vehicles",
]
