"""Tables as CSV files: floats exact to the last bit, columns found by name, rows in any order."""

import csv
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

_CHUNK = 100_000  # rows written at once


def write_table(path: Path, columns: Mapping[str, np.ndarray | Sequence[Any]]) -> None:
    """Write equally long columns under their names; floats in the shortest form that is exact.

    Nothing is written for None.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path.name}: columns of different lengths {lengths}.")
    lists = [
        iter(column) if not isinstance(column, np.ndarray) else _numbers(column)
        for column in columns.values()
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*lists, strict=True))


def _numbers(column: np.ndarray):
    """The entries of an array as Python numbers, converted a chunk at a time."""
    for start in range(0, len(column), _CHUNK):
        yield from column[start : start + _CHUNK].tolist()


def write_hours(
    path: Path, row: str, columns: Mapping[str, Float[np.ndarray, "R H"]], shape: tuple[int, int]
) -> None:
    """Write arrays of shape (rows, hours) in long form: one line per row and hour."""
    rows, hours = shape
    index = {
        row: np.repeat(np.arange(rows), hours),
        "hour": np.tile(np.arange(hours), rows),
    }
    flat = {name: array.reshape(-1) for name, array in columns.items()}
    write_table(path, index | flat)


def header(path: Path) -> list[str]:
    """The names of the columns of a table."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this table is missing; save the market again.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(iter(csv.reader(islice(file, 1))), [])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8; save it as CSV (UTF-8).") from error


def _select(path: Path, names: Sequence[str]) -> list[int]:
    found = header(path)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{path}: column {missing[0]!r} is missing (found {', '.join(found) or 'none'}); "
            "add it, the names are case-sensitive."
        )
    return [found.index(name) for name in names]


def _parse(path: Path, columns: list[int], dtype: type) -> np.ndarray:
    """The chosen columns, shape (lines, columns)."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        next(csv.reader(file))
        first = file.readline()
        if not first.strip():
            return np.zeros((0, len(columns)), dtype)
    try:
        return np.loadtxt(
            path,
            dtype,
            delimiter=",",
            skiprows=1,
            usecols=columns,
            ndmin=2,
            comments=None,
            quotechar='"',
            encoding="utf-8-sig",
        )
    except ValueError as error:
        reason = str(error).split("; use")[0].rstrip(".")
        raise ValueError(
            f"{path}: {reason} (rows counted below the header); write plain numbers with a point, "
            "separated by commas."
        ) from error


def read_table(path: Path, names: Sequence[str]) -> dict[str, Float[np.ndarray, " R"]]:
    """Numeric columns by name; other columns are ignored."""
    values = _parse(path, _select(path, names), float)
    return {name: values[:, at].copy() for at, name in enumerate(names)}


def read_rows(path: Path, row: str, names: Sequence[str]) -> dict[str, Float[np.ndarray, " R"]]:
    """A table with one line per `row`, numbered from 0, put in order of that number."""
    table = read_table(path, [row, *names])
    order = _order(path, table.pop(row), row)
    return {name: column[order] for name, column in table.items()}


def read_names(path: Path, row: str, name: str) -> tuple[str, ...]:
    """The text column `name` in the order of `row`; empty if the table has no such column."""
    if name not in header(path):
        return ()
    order = _order(path, read_table(path, [row])[row], row)
    texts = _parse(path, _select(path, [name]), str)[:, 0]
    return tuple(str(text) for text in texts[order])


def read_hours(
    path: Path, row: str, names: Sequence[str], shape: tuple[int, int]
) -> dict[str, Float[np.ndarray, "R H"]]:
    """A table in long form as arrays of shape (rows, hours)."""
    rows, hours = shape
    table = read_table(path, [row, "hour", *names])
    first, second = table.pop(row), table.pop("hour")
    if len(first) != rows * hours:
        raise ValueError(
            f"{path}: {len(first)} lines, but {rows} rows of {row} and {hours} hours make "
            f"{rows * hours}; give one line per {row} and hour."
        )
    if len(first) and not (second.min() >= 0 and second.max() < hours):
        raise ValueError(f"{path}: column 'hour' must lie in 0 to {hours - 1}.")
    order = _order(path, first * hours + second, f"{row} and hour")
    return {name: column[order].reshape(shape) for name, column in table.items()}


def _order(path: Path, index: Float[np.ndarray, " R"], what: str) -> Int[np.ndarray, " R"]:
    """The permutation that sorts `index`, which must be 0, 1, 2, ... in any order."""
    order = np.argsort(index, kind="stable")
    if not np.array_equal(index[order], np.arange(len(index))):
        raise ValueError(
            f"{path}: there must be exactly one line per {what}, numbered from 0 without holes."
        )
    return order


def whole(path: Path, column: str, values: Float[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
    """Whole numbers read as floats, as int32."""
    wrong = np.flatnonzero(~(np.abs(values) < 2**31) | (values != np.round(values)))
    if wrong.size:
        raise ValueError(
            f"{path}: column {column!r}, row {wrong[0]}: {values[wrong[0]]:g} is not a whole "
            "number; give the index of a row, counted from 0."
        )
    return values.astype(np.int32)
