"""Tables of a tuning on the command line: columns by name, as CSV, and as the rows that matter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .cli_shared import NOT_CLEARED, fail
from .files import whole
from .io.tables import write_table
from .market import Market
from .names import by_column

_NAME = "_name"  # ending of the column beside one of numbers, which says what people call them
_ROUNDING = 1e-9  # of any unit: less is what a solver leaves
_SHOWN = 12  # rows of a table that are printed


def named(market: Market, table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A table with what people call its buses, lines and prosumers beside their numbers."""
    names = {column: called for called, columns in by_column(market) for column in columns}
    found: dict[str, np.ndarray] = {}
    for column, values in table.items():
        found[column] = np.asarray(values)
        if called := names.get(column):
            found[column + _NAME] = np.array(called)[found[column]]
    return found


def written(target: Path, table: Mapping[str, Any]) -> None:
    """Write a table, complete or not at all."""
    with whole(target) as fresh:
        write_table(fresh, {name: np.asarray(column) for name, column in table.items()})


def kept_text(target: Path, text: str) -> None:
    """Write what is printed, complete or not at all."""
    with whole(target) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def check_ended(ended: str) -> None:
    """Exit where a tuning did not end as it should."""
    if ended not in ("steps", "patience"):
        raise fail(f"stopped early: {ended}; the best market so far is kept.", NOT_CLEARED)


def rows_shown(table: Mapping[str, Any], least: str | None = None) -> str:
    """The rows of the largest last column, or of the least of column `least`, as they are printed.

    With names in place of numbers where there are names.
    """
    columns = {name: np.asarray(column) for name, column in table.items()}
    count = len(next(iter(columns.values())))
    by = least or next(reversed(columns))
    order = np.argsort(columns[by] if least else -columns[by], kind="stable")[:_SHOWN]
    cells = {
        name: [name, *map(_cell, columns.get(name + _NAME, column)[np.sort(order)])]
        for name, column in columns.items()
        if not name.endswith(_NAME)
    }
    widths = [max(map(len, column)) for column in cells.values()]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in zip(*cells.values(), strict=True)]
    if len(order) < count:
        lines.append(f"({count} rows, those of the {'least' if least else 'largest'} {by} shown)")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{0 if abs(value) < _ROUNDING else value:.5g}"
