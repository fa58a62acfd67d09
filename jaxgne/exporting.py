"""Results as files that other programs read: netCDF, Zarr, Parquet, Excel, whole or not at all."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import frames
from .arguments import of_tables
from .dataset import to_xarray
from .families import FAMILIES, PASSIVE_BILLS
from .files import whole
from .io.sheets import write_book
from .io.swap import replacing
from .market import Market
from .result import Clearing

if TYPE_CHECKING:
    from pandas import DataFrame

_MAKER = "jaxgne "  # with which the source of what is exported begins
_COLUMNS = "columns"  # the sheet that says what columns are
_MOST_ROWS = 2**20  # of a sheet, with its head
_TABLES = {family.name for family in FAMILIES} - {PASSIVE_BILLS.name}
_EXTRAS = {  # by library
    **dict.fromkeys(("xarray", "h5netcdf", "zarr"), "xarray"),
    **{"openpyxl": "excel", "pandas": "tables", "pyarrow": "parquet"},
}
_KEYS = {  # by column: unit and meaning
    "scenario": ("", "number of the scenario"),
    "status": ("", "how the clearing ended"),
    "step": ("", "number of the step"),
    "hour": ("h", "when the step begins, since the start"),
    "time": ("", "when the step begins, by local clocks"),
    "payer": ("", "who pays: a prosumer, or passive consumers at the bus"),
}


class Form(NamedTuple):
    """A kind of file: what it takes, how it is written, and whether a file there is ours."""

    what: str
    libraries: tuple[str, ...]
    write: Callable[[Path, Market, Clearing], None]
    ours: Callable[[Path], bool]


@of_tables
def export(path: str | Path, market: Market, clearing: Clearing) -> None:
    """Write a clearing, or a batch of them, as `path` says.

    `day.nc` is netCDF and `day.zarr` Zarr, both of `clearing.to_xarray(market)`, `day.xlsx` a
    workbook with a sheet for each table of `jaxgne.frames`, and a name without an ending a folder
    of these as Parquet. xarray, pandas and whatever reads such files has the same numbers again,
    with units and names. Excel knows no zones, so times there are local, and the zone is in the
    head of the column; cells of what is not a number are empty.

    It appears whole or not at all, and replaces only what `export` wrote: `ValueError` for anything
    else that stands there, for another ending, and for more rows than a sheet has. `ImportError`
    names the extra that is missing; `OSError` where the disk refuses.
    """
    target = Path(path).resolve()
    form = FORMS.get(target.suffix.lower())
    if form is None:
        raise ValueError(
            f"export: {str(path)!r} has an ending of none that can be written; give a name in .nc "
            "(netCDF), .zarr or .xlsx (Excel), or one without an ending: a folder of Parquet."
        )
    for library in form.libraries:
        try:
            import_module(library)
        except ImportError as missing:
            raise ImportError(
                f"export: {form.what} takes {library}: pip install 'jaxgne[{_EXTRAS[library]}]'."
            ) from missing
    if target.exists() and not form.ours(target):
        raise ValueError(
            f"export: {target} is there, and not of export; give another name, or move it away."
        )
    form.write(target, market, clearing)


def _write_netcdf(target: Path, market: Market, clearing: Clearing) -> None:
    made = to_xarray(market, clearing)
    with whole(target) as fresh, open(fresh, "r+b") as file:  # HDF5 would lock a name, as we do
        made.to_netcdf(file, engine="h5netcdf")


def _is_netcdf(path: Path) -> bool:
    import xarray

    try:
        with xarray.open_dataset(path, engine="h5netcdf") as found:
            return str(found.attrs.get("source", "")).startswith(_MAKER)
    except (OSError, ValueError, KeyError):
        return False


def _write_zarr(target: Path, market: Market, clearing: Clearing) -> None:
    """Format 2: words have no specification in format 3 yet, and not every reader takes them."""
    made = to_xarray(market, clearing)
    with replacing(target, Path.is_dir) as fresh:
        made.to_zarr(fresh, mode="a", zarr_format=2, consolidated=True)


def _is_zarr(path: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        attributes = json.loads((path / ".zattrs").read_text("utf-8"))
        return str(attributes.get("source")).startswith(_MAKER)
    return _is_empty(path)


def _write_parquet(target: Path, market: Market, clearing: Clearing) -> None:
    import pyarrow
    from pyarrow import parquet

    tables = frames.tables(market, clearing)
    with replacing(target, Path.is_dir) as fresh:
        for name, frame in tables.items():
            says = _says(name)
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            fields = [
                field.with_metadata(
                    dict(zip(("units", "long_name"), says[field.name], strict=True))
                )
                for field in table.schema
            ]
            schema = pyarrow.schema(fields, metadata=table.schema.metadata)
            parquet.write_table(table.cast(schema), fresh / f"{name}.parquet")


def _is_parquet(path: Path) -> bool:
    return path.is_dir() and {each.name for each in path.iterdir()} <= {
        f"{name}.parquet" for name in _TABLES
    }


def _write_excel(target: Path, market: Market, clearing: Clearing) -> None:
    tables = frames.tables(market, clearing)
    for name, frame in tables.items():
        if len(frame) >= _MOST_ROWS:
            raise ValueError(
                f"export: {name} has {len(frame):,} rows, and a sheet of Excel takes "
                f"{_MOST_ROWS - 1:,}; give a name in .nc or .zarr, or one without an ending."
            )
    said = [
        (name, column, *says)
        for name, frame in tables.items()
        for column, says in ((str(column), _says(name)[str(column)]) for column in frame)
    ]
    heads = ("table", "column", "unit", "meaning")
    sheets: dict[str, Mapping[str, Any]] = {}
    sheets[_COLUMNS] = dict(zip(heads, zip(*said, strict=True), strict=True))
    sheets |= {name: _cells(frame) for name, frame in tables.items()}
    with whole(target) as fresh:
        write_book(fresh, {}, sheets)


def _cells(frame: "DataFrame") -> dict[str, list[Any]]:
    """Columns of what Excel can hold: no zones, and nothing where there is no number."""
    found: dict[str, list[Any]] = {}
    for name in frame:
        column, head = frame[name], str(name)
        zone = getattr(column.dtype, "tz", None)
        if zone is not None:
            head, column = f"{head} ({zone})", column.dt.tz_localize(None)
        lacking = column.isna().tolist()
        pairs = zip(column.tolist(), lacking, strict=True)
        found[head] = [None if lacks else _cell(value) for value, lacks in pairs]
    return found


def _cell(value: Any) -> Any:
    return value.to_pydatetime() if hasattr(value, "to_pydatetime") else value


def _is_excel(path: Path) -> bool:
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True)
    except Exception:  # openpyxl raises whatever its readers of ZIP and XML do
        return False
    sheets = book.sheetnames
    book.close()
    return sheets[:1] == [_COLUMNS] and set(sheets[1:]) <= _TABLES


def _says(table: str) -> dict[str, tuple[str, str]]:
    """Unit and meaning of the columns that a table may have."""
    family = next(family for family in FAMILIES if family.name == table)
    row = {family.row: ("", f"{family.row}, by name or number")}
    return _KEYS | row | {c.column: (c.unit or "", c.means) for c in family.columns}


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None


FORMS = {
    ".nc": Form("netCDF", ("xarray", "h5netcdf"), _write_netcdf, _is_netcdf),
    ".zarr": Form("Zarr", ("xarray", "zarr"), _write_zarr, _is_zarr),
    ".xlsx": Form("Excel", ("openpyxl", "pandas"), _write_excel, _is_excel),
    "": Form("Parquet", ("pyarrow", "pandas"), _write_parquet, _is_parquet),
}
