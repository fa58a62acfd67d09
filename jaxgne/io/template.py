"""What people need to know to fill in the tables of a market: each column with unit and meaning."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..arguments import of_tables
from ..market import FIELDS, Market
from .saving import save, tables_of
from .schema import MARKET, Table

_HEAD = """\
A market for jaxgne: who is where, draws, makes, stores and trades what, where and at what price.

Change the tables in any editor or spreadsheet, then
    jaxgne validate {name}  tells all mistakes at once, what is doubtful, and which limits bind
    jaxgne clear {name}     finds the plan and the prices

Rows count from 0: the first column of a table is the number of its row. A table ..._hours has a
line for each row and hour. Who adds a customer adds it in prosumers, and all its hours in
prosumer_hours; so it is for generators, buffers (batteries, cars, heat pumps), lines and buses.
Numbers have a point and no thousands marks; inf means no limit. Lines lead away from the main grid,
whose bus is feeder_buses in market. This text is for you: change it as you like, it is not read.
"""


def notes_on(lines: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """What each column of these tables holds, under a few words on how to go on."""
    parts = [_HEAD.format(name=name)]
    for table in MARKET:
        if table.file in lines:
            told = [f"{column}\t{what}" for column, what in _columns(table, lines[table.file])]
            parts.append("\n".join([table.file.removesuffix(".csv"), *told, ""]))
    return "\n".join(parts)


def _columns(table: Table, written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each column that is written, with unit, meaning and range."""
    dotted = {field.dotted: field for field in FIELDS.values()}
    for column in written:
        field = dotted.get(_field_of(table, column))
        if column in (table.row, "hour"):
            yield column, f"which {column}, counted from 0"
        elif field is None or column in table.names:
            yield column, "text; may be left out as a whole"
        else:
            unit = f"a row of {field.of}" if field.of else field.symbol
            yield column, f"{unit}; {field.means}; {field.within if not field.of else 'from 0'}"


def _field_of(table: Table, column: str) -> str:
    """The field of a column, in whichever part of the table it stands."""
    for part in table:
        if isinstance(part, Mapping) and column in part:
            return part[column]
    return ""


@of_tables
def save_template(
    path: str | Path, market: Market, *, tables: Literal["csv", "parquet"] = "csv"
) -> None:
    """`save` a market for people to fill in: with notes on each column, and rows not counted."""
    lines = tables_of(market)
    save(path, market, tables=tables, notes=notes_on(lines, Path(path).name), counted=False)
