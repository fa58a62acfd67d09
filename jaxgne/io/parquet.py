"""Tables as Parquet files: the columns of the CSV of that name, in binary. Takes pyarrow."""

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .faults import Faults, shown
from .parsing import CONTROL, LONGEST, Columns, Kinds

_TAKES = "Parquet takes pyarrow: pip install 'jaxgne[parquet]'."
_EXACT = 2**53  # up to which floats hold whole numbers


def check_parquet() -> None:
    """Raise `ImportError` where there is no pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(_TAKES)


class ParquetTable:
    """A table in the bytes of a Parquet file."""

    def __init__(self, data: bytes, path: str, faults: Faults):
        check_parquet()
        self.data, self.path, self.faults = data, path, faults

    head = ""

    def names(self) -> list[str] | None:
        """The names of the columns; None and a fault where this is no Parquet."""
        from pyarrow import ArrowException, parquet

        try:
            return list(parquet.read_schema(io.BytesIO(self.data)).names)
        except (ArrowException, OSError) as error:
            self.faults.add(self.path, f" is no Parquet that can be read ({error}); save it again.")
            return None

    def columns(self, names: Sequence[str], kinds: Kinds) -> Columns | None:
        """All columns; None and faults where any is of a wrong type, or a cell of it wrong."""
        from pyarrow import ArrowException, parquet

        try:
            table = parquet.read_table(io.BytesIO(self.data))
            found = {name: self._column(name, table.column(name), kinds) for name in names}
        except (ArrowException, OSError) as error:
            self.faults.add(self.path, f" cannot be read ({error}); save it again.")
            return None
        sound = {name: column for name, column in found.items() if column is not None}
        return sound if len(sound) == len(found) else None

    def place(self, row: int) -> str:
        """Where row `row` stands, for a sentence: rows count from 0."""
        return f", row {row}"

    def _column(self, name: str, column: Any, kinds: Kinds) -> "np.ndarray | list[str] | None":
        """One column, as a table of text would give it."""
        import pyarrow as pa

        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        text = name in kinds.words
        right = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if not text:
            right = pa.types.is_integer(column.type)
            right = right or (name not in kinds.whole and pa.types.is_floating(column.type))
        if not right:
            wanted = "text" if text else "whole numbers" if name in kinds.whole else "numbers"
            words = f", column {name!r}: holds {column.type}; write {wanted}."
            self.faults.add(self.path, words)
            return None
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            return self._wrong(row, name, "is empty; write one")
        if text:
            return self._words(name, column.to_pylist())
        values = np.asarray(column.to_numpy(), np.float64)
        return self._numbers(name, values, kinds)

    def _words(self, name: str, words: list[str]) -> list[str] | None:
        for row, word in enumerate(words):
            if CONTROL.search(word) or len(word.encode()) > LONGEST:
                return self._wrong(row, name, f"{shown(word)} is no plain text; shorten or mend it")
        return words

    def _numbers(self, name: str, values: np.ndarray, kinds: Kinds) -> np.ndarray | None:
        if name in kinds.whole:
            least = -1 if name in kinds.nobody else 0
            bad = (values < least) | (values > _EXACT)
            said = "is no row number; write whole numbers, counted from 0"
        else:
            bad = np.isnan(values) & (not kinds.nan)
            said = f"is no number ({kinds.fields.get(name, name)}); write one"
        if not np.any(bad):
            return values
        row = int(np.argmax(bad))
        value = values[row]
        return self._wrong(row, name, f"{'nan' if math.isnan(value) else f'{value:g}'} {said}")

    def _wrong(self, row: int, name: str, words: str) -> None:
        self.faults.add(self.path, f"{self.place(row)}, column {name!r}: {words}.")


def write_parquet(path: Path, columns: Mapping[str, np.ndarray | Sequence[Any]]) -> None:
    """Write equally long columns under their names; numbers keep their type and all their bits."""
    import pyarrow as pa
    from pyarrow import parquet

    made = {
        name: pa.array(column) if isinstance(column, np.ndarray) else pa.array(column, pa.string())
        for name, column in columns.items()
    }
    parquet.write_table(pa.table(made), path)
