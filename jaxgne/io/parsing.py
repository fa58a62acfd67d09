"""CSV tables as strictly as people can be told about: one sentence for what is not plain.

A table in plain form is parsed in bulk by NumPy; anything else goes line by line, which reads what
may be read and says what is wrong with the rest.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .faults import Faults, shown

LONGEST = 4096  # bytes of a line
LARGEST = 2**32  # bytes of a table
_CELL = 100  # characters of a number
_INDEX = 10  # digits of an index
_BLOCK = 2**22  # bytes parsed at once
_BOM = b"\xef\xbb\xbf"
_BULK = b"0123456789+-.eEinf,\n"
_BULK_NAN = _BULK + b"a"
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?inf")
_DIGITS = re.compile(f"[0-9]{{1,{_INDEX}}}")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FIELD = re.compile(r'(?:"((?:[^"]|"")*+)"|([^"]*?))(,|\Z)')


class Kinds(NamedTuple):
    """What the columns of a table hold; any that is in none of these must hold numbers."""

    whole: frozenset[str]
    nobody: frozenset[str]  # of these, those that may be -1
    words: frozenset[str]
    nan: bool  # whether nan is a number
    fields: Mapping[str, str]  # what people call a column in Python


Columns = dict[str, "np.ndarray | list[str]"]


class TextTable:
    """A table as text: the names in its first line, and its columns by these."""

    def __init__(self, data: bytes, path: str, faults: Faults):
        self.data, self.path, self.faults = data, path, faults
        self.start = 0

    def names(self) -> list[str] | None:
        """The names of the columns; None and a fault where there are none."""
        found = header(self.data, self.path, self.faults)
        if found is None:
            return None
        names, self.start = found
        return names

    @property
    def head(self) -> str:
        """Where the names stand, for a sentence."""
        return f", line {_newlines(self.data, max(self.start - 1, 0)) + 1}"

    def columns(self, names: Sequence[str], kinds: Kinds) -> Columns | None:
        """All columns; None and faults where any cell is wrong."""
        return columns(self.data, self.start, names, kinds, self.path, self.faults)

    def place(self, row: int) -> str:
        """Where row `row` stands, for a sentence."""
        return f", line {self._lines[row]}"

    @cached_property
    def _lines(self) -> list[int]:
        return line_numbers(self.data, self.start)


def header(data: bytes, path: str, faults: Faults) -> tuple[list[str], int] | None:
    """The names of the columns, and where the lines below them begin."""
    begin = len(_BOM) if data.startswith(_BOM) else 0
    while data.startswith((b"\n", b"\r\n"), begin):
        begin = data.index(b"\n", begin) + 1
    end = data.find(b"\n", begin)
    end = len(data) if end < 0 else end
    place = f", line {_newlines(data, begin) + 1}"
    line = _line(data[begin:end].removesuffix(b"\r"), path, place, faults)
    if line is None:
        return None
    names = _fields(line)
    if names is None:
        faults.add(path, f"{place}: a quotation mark is not closed, or stands inside a name.")
        return None
    return names, end + 1


def columns(
    data: bytes, start: int, names: Sequence[str], kinds: Kinds, path: str, faults: Faults
) -> Columns | None:
    """All columns of the lines from `start` on; None and faults where any cell is wrong."""
    if not data[start:].strip(b"\r\n"):
        return {name: [] if name in kinds.words else np.zeros(0) for name in names}
    if not data.endswith(b"\n"):
        last = data.count(b"\n") + 1
        faults.add(
            path,
            f", line {last}: the file ends inside this line; if it is whole, end it with a line "
            "break, else save again.",
        )
        return None
    at = [k for k, name in enumerate(names) if name in kinds.whole]
    values = None
    if not (kinds.words | kinds.nobody) & set(names):
        values = _bulk(data, start, len(names), at, kinds.nan)
    if values is not None:
        return {name: values[:, k].copy() for k, name in enumerate(names)}
    return _by_line(data, start, names, kinds, path, faults)


def line_numbers(data: bytes, start: int) -> list[int]:
    """The number in the file of each line from `start` on that is not blank."""
    lines = enumerate(data[start:].split(b"\n"), _newlines(data, start) + 1)
    return [number for number, line in lines if line.rstrip(b"\r")]


def _newlines(data: bytes, end: int) -> int:
    return data.count(b"\n", 0, end)


def _bulk(
    data: bytes, start: int, width: int, whole: Sequence[int], nan: bool
) -> Float[np.ndarray, "R C"] | None:
    """All cells of lines in plain form: no quotes, nothing odd; else None."""
    found = []
    while start < len(data):
        stop = data.rfind(b"\n", start, start + _BLOCK) + 1
        block = _block(data[start:stop], width, whole, nan) if stop > start else None
        if block is None:
            return None
        found.append(block)
        start = stop
    return np.concatenate(found)


def _block(
    body: bytes, width: int, whole: Sequence[int], nan: bool
) -> Float[np.ndarray, "R C"] | None:
    """The cells of whole lines, where each has `width` and all are plain; else None."""
    body = body.replace(b"\r\n", b"\n").lstrip(b"\n")
    while b"\n\n" in body:
        body = body.replace(b"\n\n", b"\n")
    if not body:
        return np.zeros((0, width))
    if body.translate(None, _BULK_NAN if nan else _BULK) or b"-na" in body:
        return None
    plus = body.count(b"+")
    if plus and plus != body.count(b"e+") + body.count(b"E+"):
        return None
    letters = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero((letters == ord(",")) | (letters == ord("\n")))
    if ends.size % width:
        return None
    lengths = (np.diff(ends, prepend=-1) - 1).reshape(-1, width)
    marks = letters[ends].reshape(-1, width)
    if np.any(marks[:, -1] != ord("\n")) or np.any(marks[:, :-1] != ord(",")):
        return None
    if lengths.min() < 1 or lengths.max() > _CELL:
        return None
    begins = ends.reshape(-1, width) - lengths
    for k in whole:
        if not _all_digits(letters, begins[:, k], lengths[:, k]):
            return None
    try:
        values = np.fromstring(body.replace(b"\n", b","), sep=",")
    except (DeprecationWarning, ValueError):  # or it stops early, by NumPy's version
        return None
    infinite = np.count_nonzero(np.isinf(values))
    if values.size != ends.size or (infinite and infinite != body.count(b"inf")):
        return None  # a cell is no number, or too large for one
    return values.reshape(-1, width)


def _all_digits(letters: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> bool:
    most = int(lengths.max())
    if most > _INDEX:
        return False
    for k in range(most):
        letter = letters[np.minimum(begins + k, letters.size - 1)]
        if not np.all((k >= lengths) | ((letter >= ord("0")) & (letter <= ord("9")))):
            return False
    return True


def _by_line(
    data: bytes, start: int, names: Sequence[str], kinds: Kinds, path: str, faults: Faults
) -> Columns | None:
    """All columns, read line by line; every cell that is wrong is a fault."""
    rows: list[list[float | str]] = []
    sound = True
    for number, raw in enumerate(data[start:].split(b"\n"), _newlines(data, start) + 1):
        raw = raw.removesuffix(b"\r")
        if not raw:
            continue
        place = f", line {number}"
        line = _line(raw, path, place, faults)
        fields = None if line is None else _fields(line)
        if line is not None and fields is None:
            faults.add(path, f"{place}: a quotation mark is not closed, or stands inside a cell.")
        elif line is not None and len(fields or ()) != len(names):
            faults.add(path, f"{place}: {_count(len(fields or ()), len(names), line)}")
            fields = None
        if fields is None:
            sound = False
            continue
        row, wrong = [], ""
        for name, cell in zip(names, fields, strict=True):
            value, wrong = _cell(name, cell, kinds)
            if wrong:
                sound = False
                faults.add(path, f"{place}, column {name!r}: {shown(cell)} {wrong}.")
            row.append(value)
        rows.append(row)
    if not sound:
        return None
    by_name = dict(zip(names, zip(*rows, strict=True), strict=True))
    return {
        name: [str(cell) for cell in cells] if name in kinds.words else np.array(cells, float)
        for name, cells in by_name.items()
    }


def _line(raw: bytes, path: str, place: str, faults: Faults) -> str | None:
    """The text of a line; None and a fault where it is none or too long."""
    if len(raw) > LONGEST:
        faults.add(path, f"{place}: {len(raw)} bytes, a line has {LONGEST} at most; shorten it.")
        return None
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        faults.add(path, f"{place}: no text in UTF-8; save it as CSV (UTF-8).")
        return None
    if control := CONTROL.search(line):
        faults.add(path, f"{place}: holds the control character {control[0]!r}; remove it.")
        return None
    return line


def _fields(line: str) -> list[str] | None:
    """The cells of a line (RFC 4180); None where a quotation mark stands where it must not."""
    if '"' not in line:
        return line.split(",")
    found, at = [], 0
    while True:
        match = _FIELD.match(line, at)
        if match is None:
            return None
        quoted, plain, end = match.groups()
        found.append(plain if quoted is None else quoted.replace('""', '"'))
        if not end:
            return found
        at = match.end()


def _count(found: int, expected: int, line: str) -> str:
    """What to say of a line with another number of cells than the header."""
    if found == 1 and (";" in line or "\t" in line):
        hint = "put commas between cells, and a point into numbers"
    elif found > expected:
        hint = "write 4.5 with a point, not 4,5, and nothing behind the last cell"
    else:
        hint = "a comma or a cell is missing"
    return f"{found} cells, the header has {expected}; {hint}."


def _cell(name: str, cell: str, kinds: Kinds) -> tuple[float | str, str]:
    """What a cell holds, and what is wrong with it."""
    if name in kinds.words:
        return cell, ""
    if name in kinds.whole:
        if _DIGITS.fullmatch(cell) or (cell == "-1" and name in kinds.nobody):
            return int(cell), ""
        return 0, f"is no row number; write plain digits, counted from 0, {_INDEX} at most"
    if len(cell) <= _CELL and _NUMBER.fullmatch(cell):
        value = float(cell)
        if math.isinf(value) and "inf" not in cell:
            return 0.0, "is too large for a number; write inf for no limit"
        return value, ""
    if cell == "nan":
        field = kinds.fields.get(name, name)
        return math.nan, "" if kinds.nan else f"is no number ({field}); write one"
    if len(cell) > _CELL:
        return 0.0, f"is longer than {_CELL} characters; write fewer digits"
    if re.fullmatch(r"-?[0-9]*,[0-9]+", cell):
        return 0.0, f"has a decimal comma; write {cell.replace(',', '.')}"
    if not cell:
        return 0.0, "is empty; write a number (inf for no limit)"
    return 0.0, "is no plain number; write digits with a point, such as 4.5 or 1e-4, or inf"
