"""What the files of a folder hold: the one way through which every table and JSON is read."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Int

from .faults import Faults, shown
from .json_text import Document
from .parsing import Columns, Kinds
from .schema import ADDED, KIND_OF, NOBODY, OPTIONAL, WHOLE, WITHOUT, Table


class RawTable(Protocol):
    """A table in one of the forms that there are: text, a sheet, Parquet."""

    path: str

    def names(self) -> list[str] | None: ...

    @property
    def head(self) -> str: ...

    def columns(self, names: Sequence[str], kinds: Kinds) -> Columns | None: ...

    def place(self, row: int) -> str: ...


class Files(Protocol):
    """What holds a market: a folder as it is at one moment, or a workbook.

    Tables and JSON go by the names that they have in a folder of CSV; `folders` are those that are
    there, "" the whole. What is missing or cannot be read is None, and a fault.
    """

    folder: Path
    folders: set[str]
    strange: list[str]

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def path(self, name: str) -> str: ...

    def has(self, name: str) -> bool: ...

    def document(self, name: str, faults: Faults) -> Document | None: ...

    def table(self, name: str, rows: int | None, faults: Faults) -> RawTable | None: ...


class Content(NamedTuple):
    """The entries of a JSON file and the columns of tables, in order of rows and hours."""

    head: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]  # file: column: array, or list of words


def answer_marks(market: Content, answer: Content) -> dict[str, str]:
    """Fingerprints of a market and of each file of an answer to it.

    That of clearing.json is of status, steps, certificate and all other fingerprints.
    """
    marks = {file: _mark(columns) for file, columns in market.tables.items()}
    found = {"market": _mark({"market.json": dict(market.head), **marks})}
    found |= {file: _mark(columns) for file, columns in answer.tables.items()}
    others = dict(answer.head.get("sha256", found))  # as written there: each file has its own mark
    others.pop("clearing.json", None)
    return {**found, "clearing.json": _mark({**answer.head, "sha256": others})}


def _mark(value: Mapping[str, Any]) -> str:
    """The digest of entries or columns: of what they say, whatever the notation and order."""
    digest = hashlib.sha256()
    for name in sorted(value):
        column = value[name]
        digest.update(f"\n{name}:".encode())
        if isinstance(column, np.ndarray):
            kind = np.float64 if column.dtype.kind == "f" else np.int64
            column = np.array(column, kind).reshape(-1)
            if kind is np.float64:
                column[np.isnan(column)] = np.nan  # one of many
            digest.update(f"{kind.__name__} {column.size}:".encode())
            digest.update(column.tobytes())
        else:
            digest.update(json.dumps(column, sort_keys=True).encode())
    return digest.hexdigest()


def read_tables(
    files: Files,
    inside: str,
    tables: Iterable[Table],
    sizes: Mapping[str, int],
    version: int,
    dtype: type,
    faults: Faults,
) -> dict[str, dict[str, Any]]:
    """All columns of `tables`, in order of their rows; nothing of a table that has a fault.

    `sizes` says how many rows of each kind are promised; for folders from before there were
    promises, tables without hours say so themselves. Columns and tables that a folder of `version`
    did not have yet are not among what is found. Clearings (`inside`) may hold nan.
    """
    found: dict[str, dict[str, Any]] = {}
    counts = dict(sizes)
    tables = tuple(tables)
    hourly = {table.row for table in tables if table.hourly and files.has(table.file)}
    for table in sorted(tables, key=lambda table: table.hourly):
        name = f"{inside}/{table.file}" if inside else table.file
        lacking = {
            column
            for column, field in (*table.columns.items(), *table.either.items())
            if field in ADDED and ADDED[field].version > version
        }
        if table.hourly or table.row in hourly:  # where what may be by hour is
            lacking |= table.either.keys()
        if lacking >= table.columns.keys() and not files.has(name):
            continue
        rows = counts.get(table.row)
        if table.row in OPTIONAL and not rows and not files.has(name):
            continue
        hours = counts.get("hour") if table.hourly else 1
        promised = None if rows is None or hours is None else rows * hours
        raw = files.table(name, promised, faults)
        if raw is None:
            continue
        read = _Reader(raw, table, faults)
        content = read.ordered(lacking, bool(inside), dtype, rows, counts.get("hour"))
        if content is not None:
            found[table.file] = content
            if not table.hourly:
                lines = len(next(iter(content.values())))
                counts.setdefault(table.row, lines)
    return found


class _Reader:
    """One table as it is read."""

    def __init__(self, raw: RawTable, table: Table, faults: Faults):
        self.raw, self.path, self.table, self.faults = raw, raw.path, table, faults
        self.keys = (table.row, "hour") if table.hourly else (table.row,)

    def ordered(
        self, lacking: Set[str], nan: bool, dtype: type, rows: int | None, hours: int | None
    ) -> dict[str, Any] | None:
        """The columns but those that count rows and hours, in their order."""
        content = self._columns(lacking, nan)
        if content is None or not self._fits(content, dtype):
            return None
        index = [np.asarray(content.pop(key), np.int64) for key in self.keys]
        order = self._order(index, rows, hours)
        if order is None:
            return None
        return {
            name: column[order].astype(np.int64 if name in WHOLE else np.float64)
            if isinstance(column, np.ndarray)
            else [column[k] for k in order]
            for name, column in content.items()
        }

    def _columns(self, lacking: Set[str], nan: bool) -> Columns | None:
        names, table = self.raw.names(), self.table
        if names is None:
            return None
        needed = [*self.keys, *table.columns, *table.derived]
        begun = {table.curves[name].split(".")[0] for name in names if name in table.curves}
        needed += [name for name, own in table.curves.items() if own.split(".")[0] in begun]
        needed += [name for name, own in table.either.items() if own not in WITHOUT]
        more = {**table.names, **table.spare, **table.curves, **table.either}
        if not self._known(names, list(dict.fromkeys([*needed, *more])), needed, lacking):
            return None
        whole = frozenset({*self.keys, *WHOLE})
        held = {**table.columns, **table.spare, **table.curves, **table.either}
        fields = {name: f"{field[0].upper()}{field[1:]}" for name, field in held.items()}
        nobody = frozenset(name for name, field in held.items() if field in NOBODY)
        kinds = Kinds(whole, nobody, frozenset(table.names), nan, fields)
        return self.raw.columns(names, kinds)

    def _known(
        self, names: list[str], known: list[str], needed: list[str], lacking: Set[str]
    ) -> bool:
        """Whether the header names what it must, and only that, each once."""
        place = self.raw.head
        if len(names) == 1 and names[0] not in known:
            marks = {";": "semicolons", "\t": "tabs"}
            for mark, words in marks.items():
                if mark in names[0]:
                    self.faults.add(
                        self.path,
                        f"{place}: cells are separated by {words}; separate them by commas, and "
                        "write numbers with a point.",
                    )
                    return False
        sound = True
        for k, name in enumerate(names):
            wrong = ""
            if name not in known:
                wrong = f"unknown column {shown(name)}; known: {', '.join(known)}."
            elif name in names[:k]:
                wrong = f"column {name!r} is there twice; remove one."
            if wrong:
                sound = False
                self.faults.add(self.path, f"{place}, column {k + 1}: {wrong}")
        for name in needed if sound else ():  # else one of the others may be meant for it
            if name not in names and name not in lacking:
                sound = False
                self.faults.add(self.path, f"{place}: column {name!r} is missing; add it.")
        return sound

    def _fits(self, content: Columns, dtype: type) -> bool:
        """Whether indices and numbers are in range of their dtype, and kinds among those known."""
        sound = True
        for name, column in content.items():
            if not isinstance(column, np.ndarray):
                known = KIND_OF.get(self.table.names[name])
                for k in [k for k, word in enumerate(column) if known and word not in known]:
                    sound, words = False, ", ".join(known or ())
                    said = f"{shown(column[k])} is none of {words}; write one of these."
                    self._complain(k, name, said)
                continue
            if name in WHOLE or name in self.keys:
                wrong = column >= 2**31
            else:
                wrong = np.isfinite(column) & (np.abs(column) > np.finfo(dtype).max)  # float32
            for k in np.flatnonzero(wrong):
                sound = False
                self._complain(k, name, f"{column[k]:g} is too large; write a smaller number.")
        return sound

    def _order(
        self, index: list[Int[np.ndarray, " R"]], rows: int | None, hours: int | None
    ) -> Int[np.ndarray, " R"] | None:
        """The permutation that sorts lines by row and hour, if each is there once."""
        lines = len(index[0])
        if not self.table.hourly:
            bounds = (lines if rows is None else rows,)
        elif rows is None or hours is None:
            return None  # the table that says how many has a fault of its own
        else:
            bounds = (rows, hours)
        sound = True
        for key, values, bound in zip(self.keys, index, bounds, strict=True):
            for k in np.flatnonzero(values >= bound):
                sound = False
                self._complain(
                    k,
                    key,
                    f"{values[k]}, but there are {bound}, counted from 0; "
                    "mend it, or the rows in market.json.",
                )
        if not sound:
            return None
        flat = index[0] * bounds[-1] + index[1] if self.table.hourly else index[0]
        order = np.argsort(flat, kind="stable")
        ranked = flat[order]
        for k in np.flatnonzero(ranked[1:] == ranked[:-1]):
            sound = False
            where = self._called(int(ranked[k]), bounds)
            self._complain(order[k + 1], "", f"a second line of {where}; keep one.")
        promised = bounds[0] * bounds[-1] if self.table.hourly else bounds[0]
        if sound and lines < promised:
            sound = False
            gap = np.flatnonzero(ranked != np.arange(lines))
            where = self._called(int(gap[0]) if gap.size else lines, bounds)
            self.faults.add(
                self.path, f": {lines} lines of {promised}; that of {where} is missing, add it."
            )
        return order if sound else None

    def _called(self, flat: int, bounds: tuple[int, ...]) -> str:
        if not self.table.hourly:
            return f"{self.table.row} {flat}"
        return f"{self.table.row} {flat // bounds[1]}, hour {flat % bounds[1]}"

    def _complain(self, k: Any, column: str, sentence: str) -> None:
        """A fault of line `k` below the header, counted without blank lines."""
        place = f", column {column!r}" if column else ""
        self.faults.add(self.path, f"{self.raw.place(int(k))}{place}: {sentence}")
