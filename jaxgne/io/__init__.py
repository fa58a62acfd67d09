"""Markets and clearings on disk in the project's own folder format, grids from those of others.

    market.json            hour length, behavior, grid model, feeder buses, how many rows of each
    prosumers.csv ...      one line per prosumer, generator, buffer, pair, line, bus
    prosumer_hours.csv ... one line per row and hour; units are in the column names
    clearing/              the result: the same kind of tables, clearing.json, summary.json

The tables may be Parquet, and all of it one Excel workbook, a sheet for each table.

Tables of the market may be edited by hand: columns are found by name, lines may come in any order.
Whatever is not exactly of the format is refused, all of it in one answer with file, line and
column (docs/files.md). Floats are exact to the last bit. A result that was edited, or whose market
was, does not load.
"""

from .batches import load
from .case import load_case, read_case
from .loading import load_market
from .matpower import from_matpower, from_pypower
from .notes import ImportReport
from .opendss import from_opendss
from .pandapower import from_pandapower
from .power_grid_model import from_power_grid_model
from .saving import check_replaceable, save, written_alike
from .sheets import is_book
from .simbench import from_simbench
from .sources import kind_of
from .template import save_template

__all__ = [
    "ImportReport",
    "check_replaceable",
    "from_matpower",
    "from_opendss",
    "from_pandapower",
    "from_power_grid_model",
    "from_pypower",
    "from_simbench",
    "is_book",
    "kind_of",
    "load",
    "load_case",
    "load_market",
    "read_case",
    "save",
    "save_template",
    "written_alike",
]
