"""Tables by time, read from files, from pandas and from xarray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._extras import extra
from ._stamps import Source, parsed

_SEPARATORS = ",;\t"


def read(
    caller: str, source: Any, time: str | None, columns: Sequence[str] | None, form: str | None
) -> Source:
    """The columns of a source as numbers by time. `ValueError` for what is no such table."""
    pandas = extra(caller, "pandas", "tables")
    file, first, frame = "", 0, source
    if isinstance(source, str | Path):
        file = Path(source).name
        first, frame = _file(caller, Path(source))
    elif type(source).__module__.split(".")[0] == "xarray":
        frame = _unpacked(caller, source)
    if isinstance(frame, pandas.Series):
        frame = frame.to_frame(name="0" if frame.name is None else frame.name)
    if not isinstance(frame, pandas.DataFrame):
        raise ValueError(
            f"{caller}: {type(source).__name__} is no series; give a file (.csv, .parquet), a "
            "pandas Series or DataFrame with a time index, or an xarray DataArray."
        )
    frame, index = _indexed(caller, frame, file, first, time, form)
    if columns is not None:
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise ValueError(
                f"{caller}: there is no column {missing[0]!r}; give some of "
                f"{', '.join(map(repr, frame.columns[:8]))}."
            )
        frame = frame[list(columns)]
    if not len(frame.columns):
        raise ValueError(f"{caller}: {file or 'the table'} has no columns of numbers.")
    names = tuple(str(name) for name in frame.columns)
    return _checked(caller, Source(index, _numbers(caller, frame, file, first), names, file, first))


def _file(caller: str, path: Path) -> tuple[int, Any]:
    """The line of the first row, where lines are rows, and the table."""
    pandas = extra(caller, "pandas", "tables")
    if path.suffix in (".parquet", ".pq"):
        extra(caller, "pyarrow", "profiles")
        return 0, pandas.read_parquet(path)
    if path.suffix != ".csv":
        raise ValueError(f"{caller}: {path.name} is no .csv and no .parquet; give one of these.")
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(_SEPARATORS, key=header.count)
    # before 3.1 pandas reads numbers to the last bit only where asked to
    old = tuple(int(part) for part in pandas.__version__.split(".")[:2]) < (3, 1)
    exact = {"float_precision": "round_trip"} if old else {}
    frame = pandas.read_csv(
        path, sep=separator, encoding="utf-8-sig", skip_blank_lines=False, low_memory=False, **exact
    )
    empty = np.asarray(frame.isna().all(axis=1))
    rows = len(frame) - int(np.argmin(empty[::-1])) if not empty.all() else 0
    return 2, frame.iloc[:rows]


def _unpacked(caller: str, array: Any) -> Any:
    """An xarray DataArray as a table by its time dimension."""
    if not hasattr(array, "dims") or hasattr(array, "data_vars"):
        raise ValueError(f"{caller}: give one DataArray, such as dataset['load'], not a Dataset.")
    timed = [name for name in array.dims if name in array.indexes and array[name].dtype.kind == "M"]
    if len(timed) != 1 or array.ndim > 2:
        raise ValueError(
            f"{caller}: dimensions {array.dims}; give a DataArray with one of times (datetime64), "
            "and at most one other."
        )
    return array.transpose(timed[0], ...).to_pandas()


def _indexed(
    caller: str, frame: Any, file: str, first: int, time: str | None, form: str | None
) -> tuple[Any, Any]:
    """The table without its times, and these."""
    pandas = extra(caller, "pandas", "tables")
    if time is None and isinstance(frame.index, pandas.DatetimeIndex):
        return frame, frame.index
    dated = [name for name in frame.columns if frame[name].dtype.kind == "M"]
    if time is None and (dated or first):
        time = dated[0] if dated else frame.columns[0]
    if time is None or time not in frame.columns:
        raise ValueError(
            f"{caller}: {file or 'the table'} has no time index"
            + (f" and no column {time!r}" if time is not None else "")
            + "; give time=, the name of the column of times."
        )
    column, rest = frame[time], frame.drop(columns=time)
    if column.dtype.kind == "M":
        return rest, pandas.DatetimeIndex(column)
    here = Source(None, np.zeros((0, 0)), (), file, first)
    return rest, parsed(caller, here, column, form)


def _numbers(caller: str, frame: Any, file: str, first: int) -> np.ndarray:
    """The columns as numbers, those that are not refused with their row."""
    pandas = extra(caller, "pandas", "tables")
    here = Source(None, np.zeros((0, 0)), (), file, first)
    for name, kind in frame.dtypes.items():
        if kind.kind in "iuf":
            continue
        column = frame[name]
        bad = np.asarray(pandas.to_numeric(column, errors="coerce").isna() & column.notna())
        if kind.kind == "b" or not bad.any():
            bad = np.ones(len(bad), bool) if kind.kind in "bMm" else bad
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{caller}: {here.row(row)}, column {name!r}: {str(column.iloc[row])!r} is no "
                "number; give numbers with a decimal point, or choose columns=."
            )
    return frame.apply(pandas.to_numeric).to_numpy(float)


def _checked(caller: str, found: Source) -> Source:
    """The same, all its numbers finite."""
    bad = np.argwhere(~np.isfinite(found.values))
    if bad.size:
        row, column = bad[0]
        number = found.values[row, column]
        raise ValueError(
            f"{caller}: {found.row(row)} ({found.index[row]}), column {found.names[column]!r}: "
            f"{'no number' if np.isnan(number) else number}; fill it in, or drop the column by "
            "columns=."
        )
    return found
