"""The one table of what results tell: families of columns with units, for frames and for arrays.

A `Family` says what its rows stand for, a `Column` what a number means, its unit, and how it is
found of what is `Told`: a market and its clearing, or a batch of both. `jaxgne.frames` makes
pandas tables of it, `jaxgne.dataset` an xarray Dataset, `docs/fields.py` the page `docs/tables.md`.
"""

from ._grid import BUSES, LINES, PRICE_PARTS, in_ampere
from ._money import BILLS, CAPS, CLEARING, GAINS, HOURS, PASSIVE_BILLS, ZONES
from ._people import BUFFERS, GENERATORS, PROSUMERS, TRADES
from ._record import Column, Family
from ._told import Told

__all__ = [
    "BILLS",
    "BUFFERS",
    "BUSES",
    "CAPS",
    "CLEARING",
    "FAMILIES",
    "GAINS",
    "GENERATORS",
    "HOURS",
    "LINES",
    "PASSIVE_BILLS",
    "PRICE_PARTS",
    "PROSUMERS",
    "TRADES",
    "ZONES",
    "Column",
    "Family",
    "Told",
    "in_ampere",
]

FAMILIES = (  # all of them, in the order in which people are shown them
    *(PROSUMERS, GAINS, GENERATORS, BUFFERS, TRADES, BUSES, PRICE_PARTS, LINES, CAPS),
    *(BILLS, PASSIVE_BILLS, HOURS, ZONES, CLEARING),
)
