"""A market as one Excel workbook: a sheet for each table, with the columns of the folder's CSV.

The sheet `market` has what is in market.json, an entry a row; after a clearing `clearing` and
sheets `clearing NAME` follow. Sheets are read as tables of text are, by the same parser, so that
what is wrong is told in the same words with sheet, row and column. Formulas are never run: a cell
counts as what it showed when the workbook was saved. Takes openpyxl, as pandas would, which itself
guesses at types and takes the name "NA" for a gap.
"""

import csv
import io
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from .faults import Faults
from .json_text import Document
from .parsing import TextTable

NOTES = "notes"  # a sheet for people, which is not read
_MOST_ROWS = 2**20  # of a sheet
_LARGEST = 2**31  # bytes of a workbook, unpacked
_INSIDE = "clearing"
_TAKES = "workbooks take openpyxl: pip install 'jaxgne[excel]'."


def is_book(path: str | Path) -> bool:
    """Whether a name is that of a workbook."""
    return Path(path).suffix.lower() == ".xlsx"


def sheet_of(name: str) -> str:
    """The sheet that has what a file of a folder has: `clearing hours` of clearing/hours.csv."""
    stem = name.removesuffix(".csv").removesuffix(".json")
    return _INSIDE if stem == f"{_INSIDE}/{_INSIDE}" else stem.replace("/", " ")


class Workbook:
    """A workbook to read, in the names of a folder's files."""

    def __init__(self, path: Path, known: Mapping[str, Iterable[str]]):
        """The file at `path`, whole; `known` files by folder, of others nothing is read.

        Raises `ValueError` for what is no workbook.
        """
        self.folder = path
        self._sheets = {
            name: rows
            for name, rows in _read(path).items()
            if _INSIDE in known or name.partition(" ")[0] != _INSIDE
        }
        names = {
            sheet_of(f"{inside}/{name}" if inside else name)
            for inside, files in known.items()
            for name in files
        }
        strange = set(self._sheets) - names - {NOTES}
        self.folders = {""} | ({_INSIDE} if _INSIDE in self._sheets else set())
        self.strange = [name for name in self._sheets if name in strange]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sheets = {}

    def path(self, name: str) -> str:
        """What people call the sheet of a file."""
        return f"{self.folder}, sheet {sheet_of(name)!r}"

    def has(self, name: str) -> bool:
        return sheet_of(name) in self._sheets

    def document(self, name: str, faults: Faults) -> Document | None:
        """The entries of a sheet: a name in column A, what it is from column B on."""
        rows = self._rows(name, faults)
        if rows is None:
            return None
        content: dict[str, Any] = {}
        lines, sound = [], True
        for number, (entry, *values) in enumerate((row or [None] for row in rows), 1):
            lines.append(f'"{entry}":')
            if number == 1 or (entry is None and not any(v is not None for v in values)):
                continue
            outer, _, inner = str(entry).partition("/")
            held = content.setdefault(outer, {}) if inner else content
            if not isinstance(held, dict) or (inner or outer) in held:
                faults.add(self.path(name), f", line {number}: entry {entry!r} is there twice.")
                sound = False
                continue
            held[inner or outer] = _entry(outer, values)
        return Document(self.path(name), "\n".join(lines), content) if sound else None

    def table(self, name: str, rows: int | None, faults: Faults) -> TextTable | None:
        """A sheet as the text of a table whose lines are its rows, however many `rows` are due."""
        found = self._rows(name, faults)
        if found is None:
            return None
        text, width = io.StringIO(), 0
        writer = csv.writer(text, lineterminator="\n")
        for number, cells in enumerate(found, 1):
            shown = [_text(cell) for cell in cells]
            while shown and not shown[-1]:
                shown.pop()
            if not shown:
                text.write("\n")
                continue
            width = width or len(shown)
            if any("\n" in cell or "\r" in cell for cell in shown):
                faults.add(self.path(name), f", line {number}: a cell has a line break; remove it.")
                return None
            writer.writerow(shown + [""] * (width - len(shown)))
        return TextTable(text.getvalue().encode(), self.path(name), faults)

    def _rows(self, name: str, faults: Faults) -> list[list[Any]] | None:
        rows = self._sheets.get(sheet_of(name))
        if rows is None:
            faults.add(self.path(name), " is missing; put it back, or save again.")
        return rows


def _entry(name: str, values: list[Any]) -> Any:
    """What an entry is: a list of all its cells, of feeder buses, else the one."""
    whole = [_whole(value) for value in values if value is not None]
    return whole if name == "feeder_buses" else whole[0] if len(whole) == 1 else whole or None


def _whole(value: Any) -> Any:
    """A number without a fraction as a whole one; a zero below 0 stays what it is."""
    plain = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if plain and (value or math.copysign(1, value) > 0) else value


def _text(value: Any) -> str:
    """A cell as it would stand in CSV, numbers with all their bits."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).upper()
    return repr(_whole(value)) if isinstance(value, int | float) else str(value)


def _read(path: Path) -> dict[str, list[list[Any]]]:
    """The cells of all sheets by name. `ValueError` for what is no workbook, or far too large."""
    openpyxl = _openpyxl()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path.") from None
    try:
        unpacked = sum(part.file_size for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > _LARGEST:
            raise ValueError(f"it unpacks to {unpacked} bytes")
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        found = {}
        for sheet in book.worksheets:
            sheet.reset_dimensions()
            found[sheet.title] = [list(row) for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # whatever it trips over in a file that is none
        raise ValueError(
            f"{path}: is no workbook that can be read ({error}); save it as .xlsx."
        ) from error
    return found


def notes_of(path: Path) -> str:
    """The notes in a workbook, a row a line; empty where there are none."""
    rows = _read(path).get(NOTES, [])
    return "\n".join("\t".join(map(_text, row)).rstrip() for row in rows)


def write_book(
    path: Path,
    entries: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Mapping[str, Any]],
    notes: str = "",
) -> None:
    """Write sheets of entries, then those of tables, all by the names that their files have.

    Lines of `notes` are rows of a sheet before them.
    """
    made: dict[str, Iterable[Iterable[Any]]] = {}
    if notes:
        made[NOTES] = [line.split("\t") for line in notes.split("\n")]
    made |= {
        sheet_of(name): [["entry", "value"], *_entry_rows(content)]
        for name, content in entries.items()
    }
    for name, columns in tables.items():
        lists = [
            column.tolist() if isinstance(column, np.ndarray) else list(column)
            for column in columns.values()
        ]
        if lists and len(lists[0]) >= _MOST_ROWS:
            raise ValueError(
                f"{path}: {sheet_of(name)} has {len(lists[0])} lines, a sheet takes "
                f"{_MOST_ROWS - 1}; save a folder instead, of CSV or Parquet."
            )
        made[sheet_of(name)] = [[*columns], *zip(*lists, strict=True)]
    book = _openpyxl().Workbook(write_only=True)
    for title, rows in made.items():
        sheet = book.create_sheet(title)
        if title != NOTES:
            sheet.freeze_panes = "A2"
        for row in rows:
            sheet.append([_cell(sheet, value) for value in row])
    book.save(path)


def _entry_rows(content: Mapping[str, Any]) -> Iterable[list[Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from ([f"{name}/{inner}", one] for inner, one in value.items())
        else:
            yield (
                [name, *value]
                if isinstance(value, Sequence) and not isinstance(value, str)
                else [name, value]
            )


def _cell(sheet: Any, value: Any) -> Any:
    """A number with all its bits; text as text, also where it begins like a formula."""
    kind = "s"
    if isinstance(value, float):
        if value and math.isfinite(value) and float(f"{value:.16g}") == value:  # openpyxl's digits
            return value
        kind, value = "n" if math.isfinite(value) else "s", repr(value)
    if not isinstance(value, str):
        return value
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet)
    cell.value, cell.data_type = value, kind
    return cell


def _openpyxl() -> Any:
    try:
        import openpyxl
    except ImportError:
        raise ImportError(_TAKES) from None
    return openpyxl
