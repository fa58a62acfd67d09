"""What the fields of a market say of themselves: all of them, in one way, and printed as it is."""

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgne import market
from jaxgne.fields import Field
from jaxgne.market import FIELDS
from jaxgne.record import Record

DOCS = Path(__file__).parents[1] / "docs"


def test_pages_are_those_that_the_package_writes():
    """Who changes a field writes them again: `.venv/bin/python docs/fields.py`."""
    written: Any = runpy.run_path(str(DOCS / "fields.py"))
    names = ("fields.md", "files.md", "tables.md")
    text = {name: (DOCS / name).read_text(encoding="utf-8") for name in names}
    assert text["fields.md"] == written["page"]()
    assert text["files.md"] == written["with_tables"](text["files.md"])
    assert text["tables.md"] == written["with_families"](text["tables.md"])


@pytest.mark.parametrize("name", sorted({name.split(".")[0] for name in FIELDS}))
def test_every_field_says_what_it_means(name: str):
    """But those of a market that are tables, which say so themselves."""
    kind = getattr(market, name)
    silent = [one for one in fields(kind) if "says" not in one.metadata]
    assert all(isinstance(one.type, type) and issubclass(one.type, Record) for one in silent)
    assert name == "Market" or silent == []
    assert all(field.means for field in FIELDS.values())


def test_least_and_most_are_alike():
    """The two ends of a range have one unit and one shape, and so have the ends of a pair."""
    for name, field in FIELDS.items():
        for one, other in (("_min", "_max"), ("buyer", "seller"), ("source", "target")):
            twin = FIELDS.get(name.removesuffix(one) + other)
            if name.endswith(one) and twin is not None:
                assert (twin.unit, twin.axes, twin.of) == (field.unit, field.axes, field.of)


def test_units_are_those_of_the_mathematics():
    """The page of the model, written by hand, has a table of costs with units: the same ones."""
    text = (DOCS / "model.md").read_text(encoding="utf-8")
    table = re.search(r"in the code \| unit \|\n.*\n((?:\|.*\n)+)", text)
    assert table is not None
    seen = 0
    for line in table[1].splitlines():
        _, _, code, units, _ = line.split("|")
        for name in re.findall(r"`(\w+\.\w+)`", code):
            assert FIELDS[name].unit in [unit.strip() for unit in units.split(",")], name
            seen += 1
    assert seen == 16


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        ("(0, 1]", (5e-324, 1.0), (0.0, 1.0 + 2.3e-16)),
        ("[0.5, 1.5]", (0.5, 1.5), (0.49, 1.51)),
        ("[0, inf)", (0.0, 1.7e308), (-5e-324, np.inf)),
        ("[-inf, inf)", (-np.inf, 0.0), (np.inf, np.nan)),
        ("(-inf, inf]", (-1.7e308, np.inf), (-np.inf, np.nan)),
    ],
)
def test_ends_of_a_range(within: str, inside: tuple[float, ...], outside: tuple[float, ...]):
    """A bracket takes its end in, infinity too; a parenthesis leaves it out, to the last bit."""
    low, high = Field("", "", within).ends
    assert [low <= a <= high for a in (*inside, *outside)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("unit", "column", "symbol"),
    [
        ("EUR/kWh per kW", "slope_eur_per_kwh_per_kw", "EUR/kWh/kW"),
        ("EUR/kW^2h", "slope_eur_per_kw2h", "EUR/kW²h"),
        ("kvar", "slope_kvar", "kvar"),
        ("", "slope", "1"),
    ],
)
def test_units_in_files_and_on_plots(unit: str, column: str, symbol: str):
    """Column names are lower case and plain; plots and tables print units as people write them."""
    field = Field(unit, "", name="Tariff.slope")
    assert (field.column, field.symbol) == (column, symbol)
