"""Results in files of other programs: read back equal, whole or not at all, nobody else's lost."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import jaxgne as jg
from jaxgne import exporting, frames, scenarios
from jaxgne.record import changed
from tests import phased
from tests.markets import feeder, random_caps, random_market
from tests.told import Cleared, day, found, stacked

FILES = ("day.nc", "day.zarr", "day.xlsx", "day")


def drawn(seed: int) -> Cleared:
    """A small market of some kind and an answer that nobody asked for."""
    rng = np.random.default_rng(seed)
    kind = ("any", "phases", "tree")[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
    if kind == "phases":
        market = phased.market(seed)
    elif kind == "tree":
        market = scenarios.tree([feeder(), feeder()], [0.25, 0.75], 1)
    else:
        market = random_market(seed)
    if rng.uniform() < 0.5:
        names = tuple(f'Müller {k}, "=1"' for k in range(len(market.prosumers.bus)))
        market = changed(market, prosumers=changed(market.prosumers, names=names))
    if kind == "any" and rng.uniform() < 0.4:
        market = random_caps(market, seed)
    if rng.uniform() < 0.6:
        zone = str(rng.choice(["Europe/Berlin", "UTC", "+05:30"]))
        market = changed(market, clock=jg.Clock("2025-10-26T00:45", zone))
    return market, found(market, seed, judged=True)


def test_what_is_read_is_what_was_written():
    """By xarray and pandas: all bits, NaN, names, units and times; here with caps and a clock."""
    check(*drawn(8))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999))
def test_what_is_read_of_many_is_what_was_written(seed: int):
    check(*drawn(seed))


def test_a_batch_is_read_as_it_was_written():
    """With what is infeasible, which has no numbers."""
    lanes = [found(day(), 0), found(day(), 1, jg.Status.infeasible)]
    check(stacked([day()] * 2), stacked(lanes))


def check(market: jg.Market, clearing: jg.Clearing) -> None:
    whole, tables = clearing.to_xarray(market), frames.tables(market, clearing)
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            jg.export(Path(folder) / name, market, clearing)
        with xr.open_dataset(Path(folder, "day.nc"), engine="h5netcdf") as read:
            xr.testing.assert_identical(read.load(), whole)
        with xr.open_zarr(Path(folder, "day.zarr")) as read:
            xr.testing.assert_identical(read.load(), whole)
        assert {path.stem for path in Path(folder, "day").iterdir()} == set(tables)
        book = openpyxl.load_workbook(Path(folder, "day.xlsx"))
        assert set(book.sheetnames) == {"columns", *tables}
        for name, table in tables.items():
            path = Path(folder, "day", f"{name}.parquet")
            exact: dict[str, Any] = {"check_exact": True, "check_dtype": False}  # of times
            pd.testing.assert_frame_equal(pd.read_parquet(path), table, **exact)
            units = {f.name: f.metadata[b"units"].decode() for f in parquet.read_schema(path)}
            for column, unit in units.items():
                assert column.endswith(unit.lower().replace("/", "_per_")) or column == "hour"
            in_sheet([*book[name].values], table)


def in_sheet(cells: list[Any], table: pd.DataFrame) -> None:
    """Number by number; empty is what is none, infinities are words, times are local."""
    columns = zip(*cells, strict=True)
    for (head, *read), (name, values) in zip(columns, table.items(), strict=True):
        zone = getattr(values.dtype, "tz", None)
        assert head == (name if zone is None else f"{name} ({zone})")
        if zone is not None:
            assert read == values.dt.tz_localize(None).tolist()
        elif values.dtype.kind == "f":
            numbers = [np.nan if cell is None else float(cell) for cell in read]
            np.testing.assert_array_equal(numbers, values.to_numpy())
        else:
            assert read == [None if pd.isna(value) or value == "" else value for value in values]


@pytest.fixture(scope="module")
def cleared() -> Cleared:
    return day(), found(day(), 0, judged=True)


@pytest.mark.parametrize("name", FILES)
def test_a_write_that_fails_leaves_what_was_there(
    name: str, cleared: Cleared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All of it, and nothing beside it."""
    target = tmp_path / name
    jg.export(target, *cleared)
    before = content(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # of all that is written, before it has its name
    with pytest.raises(OSError, match="No space left on device"):
        jg.export(target, *cleared)
    assert content(tmp_path) == before


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FILES)
def test_only_what_was_exported_is_replaced(name: str, cleared: Cleared, tmp_path: Path):
    """A market's workbook and somebody's folder stay; so does what other programs wrote."""
    target, market = tmp_path / name, cleared[0]
    if name == "day.nc":
        xr.Dataset({"a": 1.0}).to_netcdf(target, engine="h5netcdf")
    elif name == "day.zarr":
        xr.Dataset({"a": 1.0}).to_zarr(target, zarr_format=2)
    else:
        jg.save(target, market)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"^export: .* is there, and not of export; give another"):
        jg.export(target, *cleared)
    assert content(tmp_path) == before


def test_what_cannot_be_written_is_told_first(
    cleared: Cleared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Endings, rows that a sheet does not have, and libraries that are missing, by their extra."""
    with pytest.raises(ValueError, match=r"'day\.csv' has an ending .* give a name in \.nc"):
        jg.export("day.csv", *cleared)
    monkeypatch.setattr(exporting, "_MOST_ROWS", 10)
    with pytest.raises(ValueError, match=r"prosumers has 12 rows, and a sheet of Excel takes 9;"):
        jg.export(tmp_path / "day.xlsx", *cleared)
    for name, library, extra in (
        ("day.nc", "h5netcdf", "xarray"),
        ("day.zarr", "zarr", "xarray"),
        ("day.xlsx", "openpyxl", "excel"),
        ("day", "pyarrow", "parquet"),
        ("day", "pandas", "tables"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, library, None)
            with pytest.raises(ImportError, match=rf"takes {library}: .*'jaxgne\[{extra}\]'"):
                jg.export(tmp_path / name, *cleared)
    assert list(tmp_path.iterdir()) == []
