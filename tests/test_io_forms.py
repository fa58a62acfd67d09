"""A market as a workbook, and as a folder of Parquet: the same numbers, the same sentences."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

import jaxgne as jg
from jaxgne import io
from jaxgne.io import sheets
from tests.folders import bare, feeder, replace, same, unfinished


def odd() -> jg.Market:
    """Numbers that openpyxl would round or lose, and names that are formulas or gaps to others."""
    market = feeder(total_min=-np.inf, total_max=(np.inf, 1e300))
    load = jnp.array([[1 / 3, -0.0], [5e-324, 1e-17], [np.nextafter(1.0, 2.0), 1e22]])
    names = ("=HYPERLINK(1)", "NA", "007")
    market = dataclasses.replace(market, grid=dataclasses.replace(market.grid, names=names))
    return eqx.tree_at(lambda m: m.prosumers.load, market, load)


MARKETS = {"caps": feeder, "paper": lambda: feeder("paper"), "bare": bare, "odd": odd}
FORMS: dict[str, Any] = {"book.xlsx": {}, "folder": {"tables": "parquet"}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MARKETS)
def test_markets_and_clearings_come_back_bit_by_bit(name: str, form: str, tmp_path: Path):
    market = MARKETS[name]()
    clearing = unfinished(market, jg.Status.max_steps)
    io.save(tmp_path / form, market, clearing, **FORMS[form])
    loaded, again = io.load(tmp_path / form)
    assert again is not None
    assert same(market, loaded) and same(clearing, again)
    assert same(market, io.load_market(tmp_path / form))
    io.save(tmp_path / form, bare(), **FORMS[form])  # ours, so it may be replaced
    assert same(bare(), io.load_market(tmp_path / form))


def book(path: Path, edit: Callable[[Any], Any]) -> str:
    """What is said of a good workbook after an edit."""
    io.save(path, feeder())
    opened = openpyxl.load_workbook(path)
    edit(opened)
    opened.save(path)
    with pytest.raises(ValueError, match=path.name) as caught:
        io.load(path)
    return str(caught.value)


def put(sheet: str, **cells: Any) -> Callable[[Any], Any]:
    def edit(opened: Any) -> None:
        for cell, value in cells.items():
            opened[sheet][cell] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (put("lines", A2=1.5), "sheet 'lines', row 2, column 'line': '1.5' is no row number"),
        (put("prosumer_hours", E3=True), "row 3, column 'import_max_kw': 'TRUE' is no plain num"),
        (put("prosumer_hours", C4="=1+1"), "row 4, column 'load_kw': '' is empty; write a number"),
        (put("prosumer_hours", D5="4,5"), "row 5, column 'reactive_kvar': '4,5' has a decimal com"),
        (put("prosumer_hours", J6=3), "'prosumer_hours', row 6: 10 cells, the header has 7"),
        (put("buses", F3="a\nb"), "sheet 'buses', row 3: a cell has a line break; remove it"),
        (put("tariff", B1="price"), "sheet 'tariff', row 1, column 2: unknown column 'price'"),
        (put("market", A5="note"), "sheet 'market', row 5, column 1: unknown entry 'note'"),
        (put("market", A4="version"), "sheet 'market', row 4: entry 'version' is there twice"),
        (lambda b: b.create_sheet("Sheet1"), "sheet 'Sheet1' is no file of the format"),
        (lambda b: b.remove(b["pairs"]), "sheet 'pairs' is missing"),
    ],
)
def test_what_is_wrong_in_a_sheet_is_told_with_its_row(edit, sentence: str, tmp_path: Path):
    assert sentence in book(tmp_path / "book.xlsx", edit)


def test_notes_empty_rows_and_another_order_change_nothing(tmp_path: Path):
    path, market = tmp_path / "book.xlsx", feeder()
    io.save(path, market)
    opened = openpyxl.load_workbook(path)
    opened.create_sheet("notes", 0)["A1"] = "=HYPERLINK(1)"
    rows = list(opened["bus_hours"].iter_rows(values_only=True))
    opened["bus_hours"].delete_rows(2, len(rows))
    for row in [(), *rows[:0:-1]]:
        opened["bus_hours"].append(row)
    opened.save(path)
    assert same(market, io.load_market(path))


def test_an_edited_result_in_a_workbook_is_refused(tmp_path: Path):
    path, market = tmp_path / "book.xlsx", feeder()
    io.save(path, market, unfinished(market, jg.Status.cleared))
    opened = openpyxl.load_workbook(path)
    opened["clearing pair_hours"]["C2"] = 0.5
    opened.save(path)
    with pytest.raises(ValueError, match="'clearing pair_hours' was edited since it was saved"):
        io.load(path)


def test_no_workbook_is_neither_read_nor_replaced(tmp_path: Path, monkeypatch):
    path = tmp_path / "book.xlsx"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        io.load(path)
    path.write_text("mine")
    for call in (lambda: io.load(path), lambda: io.save(path, bare())):
        with pytest.raises(ValueError, match=r"book\.xlsx: is no workbook that can be read"):
            call()
    assert path.read_text() == "mine"
    monkeypatch.setattr(sheets, "_LARGEST", 1000)
    io.save(tmp_path / "vast.xlsx", bare())
    with pytest.raises(ValueError, match="it unpacks to"):
        io.load(tmp_path / "vast.xlsx")
    monkeypatch.setattr(sheets, "_MOST_ROWS", 2)
    with pytest.raises(ValueError, match="a sheet takes 1; save a folder instead"):
        io.save(tmp_path / "long.xlsx", feeder())
    assert not (tmp_path / "long.xlsx").exists()


def spoiled(path: Path, **columns: Any) -> None:
    """Put other columns into a table; None takes one away."""
    table = parquet.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values))
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"bus": [0.0, 1.0, 2.0]}, "column 'bus': holds double; write whole numbers"),
        ({"bus": ["0", "1", "2"]}, "column 'bus': holds string; write whole numbers"),
        ({"bus": [0, -1, 2]}, "row 1, column 'bus': -1 is no row number"),
        ({"bus": [0, 1, None]}, "row 2, column 'bus': is empty"),
        ({"prosumer": [0, 1, 1]}, "row 2: a second line of prosumer 1; keep one"),
        ({"prosumer": [0, 1, 3]}, "row 2, column 'prosumer': 3, but there are 3"),
    ],
)
def test_what_is_wrong_in_parquet_is_told_with_its_row(columns, sentence: str, tmp_path: Path):
    io.save(tmp_path / "case", feeder(), tables="parquet")
    spoiled(tmp_path / "case" / "prosumers.parquet", **columns)
    with pytest.raises(ValueError, match=r"prosumers\.parquet") as caught:
        io.load(tmp_path / "case")
    assert sentence in str(caught.value)


def test_a_table_is_there_in_one_form(tmp_path: Path):
    """Forms may differ from table to table, but none may be there twice, or be no Parquet."""
    folder, market = tmp_path / "case", feeder()
    io.save(folder, market, tables="parquet")
    io.save(tmp_path / "other", market)
    (folder / "lines.parquet").unlink()
    (folder / "lines.csv").write_bytes((tmp_path / "other" / "lines.csv").read_bytes())
    assert same(market, io.load_market(folder))
    (folder / "buses.csv").write_bytes((tmp_path / "other" / "buses.csv").read_bytes())
    (folder / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"buses\.parquet is there beside buses\.csv") as caught:
        io.load(folder)
    assert "pairs.parquet is no Parquet that can be read" in str(caught.value)


def test_rows_may_be_left_out_and_then_tables_say_how_many(tmp_path: Path):
    """Who adds a prosumer then edits only its tables; hours that lack are still told."""
    io.save(tmp_path / "case", feeder())
    text = (tmp_path / "case" / "market.json").read_text()
    begin, end = text.index('  "rows"'), text.index('  "dtype"')
    (tmp_path / "case" / "market.json").write_text(text[:begin] + text[end:])
    assert same(feeder(), io.load_market(tmp_path / "case"))
    replace("pairs.csv", "\n1,1,2,2.0", "\n2,0,2,2.0,0.0,0.0,0.001,0.0\n1,1,2,2.0")(
        tmp_path / "case"
    )
    assert io.load_market(tmp_path / "case").trading.buyer.tolist() == [0, 1, 0]
    replace("buffer_hours.csv", "\n0,1", "\n0,0")(tmp_path / "case")
    (tmp_path / "case" / "caps.csv").unlink()
    with pytest.raises(ValueError, match="a second line of buffer 0, hour 0") as caught:
        io.load(tmp_path / "case")
    assert "cap_hours.csv" in str(caught.value)
