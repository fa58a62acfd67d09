"""jaxgne clears peer-to-peer energy markets on distribution grids."""

from .market import Buffers, Generators, Grid, Market, Prosumers, Tariff, Trading
from .model import Plan, Rows

__all__ = [
    "Buffers",
    "Generators",
    "Grid",
    "Market",
    "Plan",
    "Prosumers",
    "Rows",
    "Tariff",
    "Trading",
]
