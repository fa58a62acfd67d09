"""Whatever happens to a folder: it loads as what is written in it, or a sentence tells each fault.

A good folder is written once; each example spoils copies of its files. The oracle is Python's own
`csv` and `json`: what loads must be what they find under the names of row, hour and column.
"""

import csv
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import io
from jaxgne.io import loading, schema
from tests.folders import feeder, same, unfinished

Files = dict[str, bytes | None]  # None: a folder of that name
CLEARING = ("clearing/clearing.json", "clearing/prosumer_hours.csv", "clearing/bus_hours.csv")
HEAD, QUOTED = "market.json", "buses.csv"
ODD = ("+1", " 1", "1 ", "1_0", "0x1", "1d0", "１", "", "-", "1e", "1..0", "1.0.0", '"1,5"', "NaN")
ODD += ("nan", "Inf", "Infinity", "1e999", "true", "1\t", "1\x00", "=1+1", "0" * 101, "1'000", "−1")
NO_INDEX = (
    "0.0",
    "+0",
    "0e0",
    "0.9",
    "-1",
    "-0",
    "1_0",
    " 0",
    "",
    "2147483648",
    "9" * 30,
    "0x0",
    "٠",
)
NO_JSON = ("NaN", "Infinity", "1e999", "1" * 400, "1" * 5000, "[" * 9999 + "]" * 9999, "nul", "'a'")
NO_VALUE = ("null", "[[0]]", '{"a": {"b": [{}]}}', '"1_0"', '"0x1"', "[true]", "[0.5]", "[1e0]")


class Good(NamedTuple):
    """The good folder and what it holds."""

    path: Path
    files: Files
    market: jg.Market
    clearing: jg.Clearing


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    path = tmp_path_factory.mktemp("fuzz") / "case"
    market = eqx.tree_at(
        lambda m: m.clock,
        feeder(),
        jg.Clock("2025-03-30T01:00", "Europe/Berlin"),
        is_leaf=lambda x: x is None,
    )
    clearing = unfinished(market, jg.Status.cleared)
    io.save(path, market, clearing)
    files: Files = {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    return Good(path, files, market, clearing)


def table(draw: Callable, files: Files, quoted: bool = True) -> str:
    """The name of a table that is still a file."""
    names = [n for n, data in files.items() if n.endswith(".csv") and data]
    return draw(st.sampled_from(sorted(n for n in names if quoted or n != QUOTED)))


def cells(files: Files, name: str) -> list[list[str]]:
    return [line.split(",") for line in (files[name] or b"").decode("latin-1").split("\n")[:-1]]


def put(files: Files, name: str, lines: list[list[str]]) -> None:
    files[name] = "".join(",".join(line) + "\n" for line in lines).encode("latin-1", "replace")


def spoil_cell(draw: Callable, files: Files) -> bool:
    """A cell gone, twice, in quotes, or in an odd notation; like all here, whether harmless."""
    name = table(draw, files)
    lines = cells(files, name)
    line = draw(st.sampled_from(lines or [[""]]))
    at = draw(st.integers(0, len(line) - 1))
    how = draw(st.sampled_from(("drop", "twice", "swap", "quote", "odd", "index", "comma", "long")))
    if how == "drop":
        del line[at]
    elif how == "twice":
        line.insert(at, line[at])
    elif how == "swap":
        other = draw(st.integers(0, len(line) - 1))
        line[at], line[other] = line[other], line[at]
    elif how == "comma":
        line[at] = line[at].replace(".", ",")
    else:
        odd = st.sampled_from(ODD if how == "odd" else NO_INDEX)
        line[at] = {"quote": f'"{line[at]}"', "long": "1" * draw(st.integers(90, 5000))}.get(
            how
        ) or draw(odd)
    files[name] = "".join(",".join(line) + "\n" for line in lines).encode("utf-8", "replace")
    return how == "quote" and name != QUOTED


def spoil_lines(draw: Callable, files: Files) -> bool:
    """Lines gone, twice, moved, blank, cut off or ended otherwise; a mark at the beginning."""
    name = table(draw, files)
    lines = (files[name] or b"").split(b"\n")[:-1] or [b""]
    at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    how = draw(st.sampled_from(("drop", "twice", "move", "blank", "spaces", "returns", "mark")))
    if how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(to, lines[at])
    elif how == "move":
        lines.insert(to, lines.pop(at))
    elif how in ("blank", "spaces"):
        lines.insert(at, b"" if how == "blank" else b"  ")
    end = draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b"\r\r\n"))) if how == "returns" else b"\n"
    mark = b"\xef\xbb\xbf" if how == "mark" else b""
    files[name] = mark + b"".join(line + end for line in lines)
    return (
        how in ("blank", "mark")
        or (how == "move" and 0 not in (at, to))
        or (how == "returns" and end in (b"\r\n", b"\n\n"))
    )


def spoil_columns(draw: Callable, files: Files) -> bool:
    """Columns gone, twice, moved, renamed; all cells in quotes; another delimiter."""
    name = table(draw, files, quoted=False)
    lines = [line for line in cells(files, name) if line]
    width = min(map(len, lines), default=0)
    if not width:
        return False
    at, to = (draw(st.integers(0, width - 1)) for _ in range(2))
    how = draw(st.sampled_from(("drop", "twice", "move", "name", "quote", "between", "points")))
    for line in lines:
        if how == "drop":
            del line[at]
        elif how == "twice":
            line.insert(to, line[at])
        elif how == "move":
            line.insert(to, line.pop(at))
        elif how == "quote":
            line[:] = [f'"{cell}"' for cell in line]
        elif how == "points":
            line[:] = [cell.replace(".", ",") for cell in line]
    if how == "name":
        lines[0][at] = draw(st.sampled_from(("", " ", "hour", lines[0][at].upper(), "load_kw")))
    put(files, name, lines)
    if how == "between":
        between = draw(st.sampled_from((b";", b"\t", b"|", b", ")))
        files[name] = (files[name] or b"").replace(b",", between)
    return how in ("move", "quote")


def spoil_bytes(draw: Callable, files: Files) -> bool:
    """A file cut off anywhere, or bytes put in, left out or changed."""
    name = draw(st.sampled_from(sorted(n for n, data in files.items() if data is not None)))
    data = bytearray(files[name] or b"\n")
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    strange = draw(
        st.sampled_from((b"\0", b"\xff", b"\xc3\xa9", b'"', b",", b".", b"\n", b"\r", b"7"))
    )
    how = draw(st.sampled_from(("cut", "add", "change", "remove")))
    if how == "cut":
        del data[at:]
    else:
        data[at : at + (how != "add")] = b"" if how == "remove" else strange
    files[name] = bytes(data)
    return False


def spoil_json(draw: Callable, files: Files) -> bool:
    """Entries gone, twice, unknown, in another order, of another kind, too deep or too long."""
    name = draw(st.sampled_from((HEAD, "clearing/clearing.json")))
    try:
        content = json.loads(files.get(name) or b"{}")
    except (ValueError, RecursionError):  # spoiled already, as deep as it goes
        return False
    entries = [[json.dumps(k), json.dumps(v)] for k, v in content.items()] if content else []
    if not entries:
        return False
    at, to = (draw(st.integers(0, len(entries) - 1)) for _ in range(2))
    how = draw(st.sampled_from(("drop", "twice", "move", "name", "value", "broken")))
    if how == "drop":
        del entries[at]
    elif how == "twice":
        entries.insert(to, entries[at])
    elif how == "move":
        entries.insert(to, entries.pop(at))
    elif how == "name":
        entries[at][0] = draw(st.sampled_from(('"note"', '"Dtype"', '"\\ud800"', '""', "dtype")))
    else:
        entries[at][1] = draw(st.sampled_from(NO_VALUE if how == "value" else NO_JSON))
    files[name] = "{{{}}}\n".format(",\n".join(": ".join(entry) for entry in entries)).encode()
    return how == "move"


def spoil_files(draw: Callable, files: Files) -> bool:
    """A file missing, empty, a folder, another one's, or one too many."""
    name, other = (draw(st.sampled_from(sorted(files))) for _ in range(2))
    how = draw(st.sampled_from(("missing", "empty", "folder", "other", "strange", "note")))
    if how == "missing":
        del files[name]
    elif how == "strange":
        files[draw(st.sampled_from(("feeder_hour.csv", "clearing/x.csv", "old.json")))] = b"a\n"
    elif how == "note":
        files["notes.txt"] = b"\xff"
    else:
        files[name] = {"empty": b"", "folder": None, "other": files[other]}[how]
    return how == "note"


SPOIL = (spoil_cell, spoil_lines, spoil_columns, spoil_bytes, spoil_json, spoil_files)


def oracle(files: Files, prefix: str, tables: tuple[schema.Table, ...]) -> dict[str, np.ndarray]:
    """Every column by its field, as Python's own reader finds it."""
    found = {}
    for one in tables:
        text = (files.get(prefix + one.file) or b"").decode("utf-8-sig")
        lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
        rows = list(csv.DictReader(lines))
        keys = (one.row, "hour") if one.hourly else (one.row,)
        rows.sort(key=lambda row: [int(row[key]) for key in keys])
        for column, field in one.columns.items():
            found[field] = np.array([float(row[column]) for row in rows])
        for column, field in one.either.items():
            if rows and column in rows[0]:
                found[field] = np.array([float(row[column]) for row in rows])
        for column, field in one.names.items():
            words = tuple(row[column] for row in rows if column in row)
            known = schema.KIND_OF.get(field)
            numbers = known and [known.index(word) for word in words or known[:1] * len(rows)]
            found[field] = words if numbers is None else np.array(numbers)
    return found


def field(tree, dotted: str):
    for name in dotted.split("."):
        tree = getattr(tree, name)
    return tree


def check(good: Good, files: Files) -> bool:
    """Write the files and load them, as they stand or with clear sentences; whether all loaded."""
    shutil.rmtree(good.path)
    (good.path / "clearing").mkdir(parents=True)
    for name, data in files.items():
        if data is None:
            (good.path / name).mkdir()
        else:
            (good.path / name).write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numbers as written may look wrong
            market = io.load_case(good.path)
    except (ValueError, OSError) as error:
        sentences(str(error))
    else:
        head = json.loads((files[HEAD] or b"").decode("utf-8-sig"))
        for dotted, column in oracle(files, "", schema.MARKET).items():
            stored = field(market, dotted)
            if isinstance(column, tuple):
                assert stored == column
            else:
                np.testing.assert_array_equal(np.asarray(stored).reshape(-1), column)
        assert market.grid.feeder.tolist() == head["feeder_buses"]
        assert np.all(np.asarray(market.hour_length) == head["hour_length_h"])
        assert market.grid.model.name == head["grid_model"]
        assert market.prosumers.load.dtype == head["dtype"]
    try:
        market, clearing = io.load(good.path)
    except (ValueError, OSError) as error:
        sentences(str(error))
    else:  # an answer loads with the market and the numbers that it was saved with, or not at all
        assert same(market, good.market)
        assert clearing is not None
        assert same(clearing, good.clearing)
        return True
    return False


def sentences(words: str) -> None:
    for line in words.splitlines():
        assert line.endswith("."), words
        assert len(line) < 600, words
        assert "Traceback" not in line and "NoneType" not in line, words


def spoiled(good: Good, data: st.DataObject) -> None:
    files = dict(good.files)
    many = data.draw(st.sampled_from((1, 1, 1, 2, 3)))
    harmless = [data.draw(st.sampled_from(SPOIL))(data.draw, files) for _ in range(many)]
    loaded = check(good, files)
    assert loaded or harmless != [True]


@pytest.fixture
def quick(good: Good, monkeypatch: pytest.MonkeyPatch) -> Good:
    """No tracing of a certificate's form for each example: the numbers stand in the good one's."""

    def filled(market: jg.Market, stored):
        certificate = good.clearing.certificate
        return eqx.tree_at(
            lambda c: (c.residuals.error, c.residuals.gap),
            certificate,
            (
                np.asarray(stored["residuals.error"], certificate.residuals.error.dtype),
                np.asarray(stored["residuals.gap"], certificate.residuals.gap.dtype),
            ),
        )

    monkeypatch.setattr(loading, "_certificate", filled)
    return good


FIXED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(FIXED, max_examples=100)
@given(st.data())
def test_a_spoiled_folder_loads_as_it_is_written_or_says_why_not(quick: Good, data):
    """One to three mutations of a hundred good folders; never a traceback, never other numbers."""
    spoiled(quick, data)


@pytest.mark.slow
@settings(FIXED, max_examples=2500)
@given(st.data())
def test_many_spoiled_folders_load_as_they_are_written_or_say_why_not(quick: Good, data):
    """The same of 2,500 folders."""
    spoiled(quick, data)


def test_the_good_folder_loads_as_it_is(good: Good):
    """The check itself: the unspoiled files pass, and random.Random(0) shuffles lines in vain."""
    files = dict(good.files)
    assert check(good, files)
    for name in [n for n in files if n.endswith(".csv")]:
        head, *lines = (files[name] or b"").splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        files[name] = b"".join([head, *lines])
    assert check(good, files)
    files["tariff.csv"] = (files["tariff.csv"] or b"").replace(b"0.1", b"0.2", 1)
    assert not check(good, files)
