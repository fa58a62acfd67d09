"""Tables as CSV files, with floats exact to the last bit."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

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


def by_hour(
    row: str, columns: Mapping[str, Float[np.ndarray, "R H"]], shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Arrays of shape (rows, hours) in long form: one line per row and hour."""
    rows, hours = shape
    index = {
        row: np.repeat(np.arange(rows), hours),
        "hour": np.tile(np.arange(hours), rows),
    }
    return index | {name: array.reshape(-1) for name, array in columns.items()}
