"""Saved markets come back bit by bit, folders appear whole or not at all, aliens are refused."""

import json
import os
import re
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import io
from jaxgne.grids import LinDistFlow
from jaxgne.io import loading, reading, saving, schema, swap
from tests.folders import bare, feeder, replace, same, unfinished


def odd() -> jg.Market:
    """Numbers that are hard to write: infinities, negative zero, the smallest and thirds."""
    market = feeder(total_min=-np.inf, total_max=(np.inf, 1e300))
    load = jnp.array([[1 / 3, -0.0], [5e-324, 1e-17], [np.nextafter(1.0, 2.0), 1e22]])
    return eqx.tree_at(lambda m: m.prosumers.load, market, load)


MARKETS = {
    "lindistflow": feeder,
    "paper": lambda: feeder("paper"),
    "copperplate": lambda: feeder("copperplate"),
    "empty tables": bare,
    "odd numbers": odd,
}


@pytest.mark.parametrize("name", MARKETS)
def test_market_comes_back_bit_by_bit(name: str, tmp_path: Path):
    market = MARKETS[name]()
    io.save(tmp_path / "case", market)
    loaded, clearing = io.load(tmp_path / "case")
    assert same(market, loaded)
    assert clearing is None


@pytest.mark.parametrize("name", ["lindistflow", "paper", "empty tables"])
@pytest.mark.parametrize("status", ["cleared", "max_steps", "infeasible", "nonfinite"])
def test_clearing_comes_back_bit_by_bit_with_its_status(name: str, status: str, tmp_path: Path):
    """Plan, prices (a NaN among them), costs, certificate and status; a result keeps its name."""
    market = MARKETS[name]()
    clearing = unfinished(market, getattr(jg.Status, status))
    io.save(tmp_path / "case", market, clearing)
    loaded, again = io.load(tmp_path / "case")
    assert again is not None
    assert same(market, loaded)
    assert same(clearing, again)
    assert jg.status.status_name(again.status) == status
    assert again.certificate.sentences() == clearing.certificate.sentences()


def test_single_precision_comes_back_in_single_precision(tmp_path: Path):
    single = jax.tree.map(
        lambda a: a.astype(np.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, feeder()
    )
    io.save(tmp_path / "case", single)
    assert same(single, io.load(tmp_path / "case")[0])


def test_numbers_beyond_single_precision_are_refused_in_it(tmp_path: Path):
    """1e300 would become infinite, which means no limit: in a table and in market.json."""
    io.save(tmp_path / "case", feeder())
    replace("market.json", "float64", "float32")(tmp_path / "case")
    replace("market.json", "0.25", "1e300")(tmp_path / "case")
    replace("lines.csv", "20.0", "1e300")(tmp_path / "case")
    with pytest.raises(ValueError, match="too large") as caught:
        io.load(tmp_path / "case")
    in_head, in_table = str(caught.value).splitlines()
    assert "entry 'hour_length_h' is 1e+300, too large for float32" in in_head
    assert "lines.csv, line 2, column 'rating_kva': 1e+300 is too large" in in_table


def test_tables_may_be_edited_by_hand(tmp_path: Path):
    """Lines in another order, columns moved, cells quoted, blank lines, a byte order mark, CRLF."""
    market = feeder()
    io.save(tmp_path / "case", market)
    table = tmp_path / "case" / "prosumer_hours.csv"
    head, *lines = (line.split(",") for line in table.read_text().splitlines())
    edited = [head[::-1], *([f'"{cell}"' for cell in line[::-1]] for line in lines[::-1])]
    text = "\r\n\r\n".join(map(",".join, edited))
    table.write_text(f"\n{text}\r\n\r\n", encoding="utf-8-sig", newline="")
    assert same(market, io.load(tmp_path / "case")[0])


def test_bulk_and_line_by_line_read_the_same(tmp_path: Path):
    """One cell in quotes sends a table the slow way; every number comes back bit by bit."""
    market = odd()
    io.save(tmp_path / "case", market)
    for path in (tmp_path / "case").glob("*_hours.csv"):
        head, *lines = path.read_text().splitlines()
        quoted = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
        path.write_text("".join(f"{line}\n" for line in [head, *quoted]))
    assert same(market, io.load(tmp_path / "case")[0])


def without(path: Path, column: str) -> None:
    """Take a column out of a table."""
    head, *lines = (line.split(",") for line in path.read_text().splitlines())
    at = head.index(column)
    kept = [[*line[:at], *line[at + 1 :]] for line in (head, *lines)]
    path.write_text("".join(",".join(line) + "\n" for line in kept))


def test_folder_of_version_1_loads_with_defaults_for_what_came_later(tmp_path: Path, monkeypatch):
    """What version 2 added (a table, a column, an entry) may lack in version 1, and only there."""
    market = feeder(caps=False)
    io.save(tmp_path / "case", market)
    added = {**schema.ADDED, "trading.toll": schema.Added(2, 0.5)}
    for module in (loading, reading):
        monkeypatch.setattr(module, "ADDED", added)
    without(tmp_path / "case" / "pairs.csv", "toll_eur_per_kwh")
    (tmp_path / "case" / "feeder_hours.csv").unlink()
    head = tmp_path / "case" / "market.json"
    content = json.loads(head.read_text())
    del content["rows"]
    head.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is missing") as caught:
        io.load(tmp_path / "case")
    assert len(str(caught.value).splitlines()) == 2
    head.write_text(json.dumps(content | {"version": 1}))
    loaded, _ = io.load(tmp_path / "case")
    assert np.all(np.asarray(loaded.trading.toll) == 0.5)
    assert np.all(np.asarray(loaded.grid.feeder_voltage) == 1.0)
    assert same(market.tariff, loaded.tariff) and same(market.buffers, loaded.buffers)


def test_only_open_text_formats_are_written(tmp_path: Path):
    market = feeder()
    io.save(tmp_path / "case", market, unfinished(market, jg.Status.cleared), summary={"a": 1.5})
    files = [path for path in (tmp_path / "case").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".csv", ".json"}
    assert all(path.read_bytes().decode("utf-8") for path in files)
    for path in files:
        if path.suffix == ".json":  # standard JSON: no NaN, no Infinity
            json.loads(path.read_text(), parse_constant=pytest.fail)
    assert json.loads((tmp_path / "case" / "clearing" / "summary.json").read_text()) == {"a": 1.5}


def test_failure_in_the_middle_leaves_the_old_folder_intact(tmp_path: Path, monkeypatch):
    """The disk fills up while the clearing is written: the earlier result still stands, alone."""
    market = feeder()
    io.save(tmp_path / "case", market)

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(saving, "_answer_content", fail)
    with pytest.raises(OSError, match="No space left"):
        io.save(tmp_path / "case", bare(), unfinished(bare(), jg.Status.cleared))
    assert same(market, io.load(tmp_path / "case")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_failure_of_the_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch):
    """Where names cannot be exchanged: the second of two renames fails."""
    market = feeder()
    io.save(tmp_path / "case", market)
    rename = os.rename

    def fail(source: Path, target: Path):
        if target.name == "case" and source.suffix != ".old":
            raise OSError("device is busy")
        return rename(source, target)

    monkeypatch.setattr(swap, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="device is busy"):
        io.save(tmp_path / "case", bare())
    monkeypatch.undo()
    assert same(market, io.load(tmp_path / "case")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_what_cannot_be_written_is_told_by_its_name(tmp_path: Path):
    """Not by that of a hidden folder beside it, whose name is too long for a disk here."""
    with pytest.raises(OSError, match=f"/{'a' * 230}'$"):
        io.save(tmp_path / ("a" * 230), feeder())
    assert list(tmp_path.iterdir()) == []


def test_folder_of_ours_is_replaced_whole(tmp_path: Path):
    """An older clearing does not survive beside a new market."""
    market = feeder()
    io.save(tmp_path / "case", market, unfinished(market, jg.Status.cleared))
    io.save(tmp_path / "case", bare())
    assert not (tmp_path / "case" / "clearing").exists()
    assert same(bare(), io.load(tmp_path / "case")[0])
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def alien_file(folder: Path):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def alien_market(folder: Path):
    folder.mkdir()
    (folder / "market.json").write_text('{"format": "another program"}')


def alien_beside_ours(folder: Path):
    io.save(folder, bare())
    (folder / "clearing").mkdir()
    (folder / "clearing" / "notes.txt").write_text("mine")


def plain_file(folder: Path):
    folder.write_text("a file")


@pytest.mark.parametrize("make", [alien_file, alien_market, alien_beside_ours, plain_file])
def test_what_is_not_ours_is_never_replaced(make, tmp_path: Path):
    make(tmp_path / "out")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match="choose another") as caught:
        io.save(tmp_path / "out", feeder())
    assert "\n" not in str(caught.value)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


BUS_HOURS = "passive_kw,passive_reactive_kvar,compensation_max_kvar"


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def append(name: str, text: str):
    return lambda f: (f / name).write_text((f / name).read_text() + text)


def add_entry(text: str):
    return replace("market.json", "{", "{" + text + ", ")


PROSUMER = r"prosumer_hours\.csv, line 2"
BROKEN = {
    "no folder": (shutil.rmtree, r"case does not exist; check the path"),
    "a file": (
        lambda f: (shutil.rmtree(f), f.write_text("")),
        r"case is no folder that jaxgne\.save wrote; check the path",
    ),
    "other tables": (
        lambda f: ((f / "market.json").unlink(), write("envelope.csv", "a\n")(f)),
        r"market\.json does not exist.*check the path",
    ),
    "no head": (
        lambda f: (f / "market.json").unlink(),
        r"market\.json does not exist.*check the path",
    ),
    "not JSON": (write("market.json", "{"), r"market\.json, line 1, column 2: no valid JSON"),
    "a list": (write("market.json", "[]"), r"market\.json: expected a JSON object"),
    "alien": (write("market.json", "{}"), r"market\.json: its format is not 'jaxgne market'"),
    "newer": (replace("market.json", '"version": 3', '"version": 9'), r"version 9.*install"),
    "true version": (replace("market.json", '"version": 3', '"version": true'), r"version True"),
    "no entry": (
        replace("market.json", '  "hour_length_h": 0.25,\n', ""),
        r"market\.json: entry 'hour_length_h' is missing",
    ),
    "strange entry": (add_entry('"note": 1'), r"line 1, column 2: unknown entry 'note'; known: f"),
    "entry twice": (add_entry('"dtype": "float32"'), r"line \d+, column 3: entry 'dtype' is given"),
    "no number": (
        replace("market.json", "0.25", '"long"'),
        r"line 16, .*'hour_length_h' is 'long'",
    ),
    "true": (replace("market.json", "0.25", "true"), r"'hour_length_h' is True, but must be a num"),
    "NaN": (replace("market.json", "0.25", "NaN"), r"line 16, column 20: NaN is no JSON"),
    "nan": (replace("market.json", "0.25", '"nan"'), r"'hour_length_h' is 'nan', but must be"),
    "1e999": (replace("market.json", "0.25", "1e999"), r"line 16, column 20: 1e999 is too large"),
    "digits": (replace("market.json", "0.25", "1" * 5000), r"line 16, .*a number of 5000 digits"),
    "1_0": (replace("market.json", "0.25", '"1_0"'), r"'hour_length_h' is '1_0', but must be a"),
    "deep": (
        add_entry('"note": ' + "[" * 100_000 + "]" * 100_000),
        r"line 1, column 13: lists nested more than 4 levels deep",
    ),
    "half a bus": (
        replace("market.json", "    0\n", "    0.9\n"),
        r"'feeder_buses' is \[0\.9\], bu",
    ),
    "far bus": (
        replace("market.json", "    0\n", "    99999999999\n"),
        r"'feeder_buses'.*2147483647",
    ),
    "dtype": (
        replace("market.json", "float64", "object"),
        r"line 15, .*'dtype' is 'object', but mu",
    ),
    "grid model": (replace("market.json", "lindistflow", "magic"), r"'grid_model' is 'magic', but"),
    "no table": (lambda f: (f / "lines.csv").unlink(), r"lines\.csv is missing; put it back"),
    "strange table": (
        write("feeder_hour.csv", "a\n"),
        r"feeder_hour\.csv is no file of the format",
    ),
    "folder for a table": (
        lambda f: ((f / "lines.csv").unlink(), (f / "lines.csv").mkdir()),
        r"lines\.csv is no plain file",
    ),
    "pipe for a table": (
        lambda f: ((f / "lines.csv").unlink(), os.mkfifo(f / "lines.csv")),
        r"lines\.csv is no plain file",
    ),
    "vast file": (
        lambda f: os.truncate(f / "lines.csv", 2**40),
        r"lines\.csv: 1099511627776 bytes, it may have \d+ here",
    ),
    "no column": (
        replace("tariff.csv", ",slope_eur_per_kwh_per_kw", ""),
        r"line 1: column 'slope_e",
    ),
    "renamed": (
        replace("tariff.csv", "slope_eur", "slop_eur"),
        r"line 1, column 3: unknown column 's",
    ),
    "column twice": (
        replace("tariff.csv", "export_eur_per_kwh", "base_eur_per_kwh"),
        r"line 1, column 4: column 'base_eur_per_kwh' is there twice",
    ),
    "semicolons": (
        lambda f: (f / "lines.csv").write_text((f / "lines.csv").read_text().replace(",", ";")),
        r"lines\.csv, line 1: cells are separated by semicolons; separate them by commas",
    ),
    "word": (
        replace("buses.csv", "1.05", "high"),
        r"buses\.csv, line 2, column 'voltage_max_pu': 'hi",
    ),
    "binary": (
        lambda f: (f / "buses.csv").write_bytes(b"\xff\xfe\x00"),
        r"line 1: no text in UTF-8",
    ),
    "null": (replace("buses.csv", "799", "7\x009"), r"buses\.csv, line 2: holds the control char"),
    "quote": (
        replace("buses.csv", "799", '"799'),
        r"buses\.csv, line 2: a quotation mark is not clo",
    ),
    "quote inside": (
        replace("buses.csv", "799", '7"9'),
        r"buses\.csv, line 2: a quotation mark is",
    ),
    "comma": (
        replace("prosumer_hours.csv", "0.3,", "0,3,"),
        PROSUMER + ": 8 cells, the header has 7",
    ),
    "quoted comma": (
        replace("prosumer_hours.csv", "0.3,", '"0,3",'),
        PROSUMER + r", column 'reactive_kvar': '0,3' has a decimal comma; write 0\.3",
    ),
    "cell less": (
        replace("prosumer_hours.csv", "0.3,", ""),
        PROSUMER + ": 6 cells, the header has 7",
    ),
    "empty cell": (
        replace("prosumer_hours.csv", "0.3,", ","),
        PROSUMER + r".*'reactive_kvar': '' is e",
    ),
    "space": (
        replace("prosumer_hours.csv", "0.3,", " 0.3,"),
        PROSUMER + r".*' 0\.3' is no plain num",
    ),
    "underscore": (
        replace("prosumer_hours.csv", "0.3,", "1_0,"),
        PROSUMER + r".*'1_0' is no plain",
    ),
    "hexadecimal": (
        replace("prosumer_hours.csv", "0.3,", "0x1,"),
        PROSUMER + r".*'0x1' is no plain",
    ),
    "plus": (replace("prosumer_hours.csv", "0.3,", "+0.3,"), PROSUMER + r".*'\+0\.3' is no plain"),
    "full width": (replace("prosumer_hours.csv", "0.3,", "３,"), PROSUMER + r".*'３' is no pl"),
    "no nan": (
        replace("prosumer_hours.csv", "0.3,", "nan,"),
        PROSUMER + r".*'nan' is no number \(P",
    ),
    "infinity": (
        replace("prosumer_hours.csv", "0.3,", "1e999,"),
        PROSUMER + r".*'1e999' is too large",
    ),
    "long cell": (
        replace("prosumer_hours.csv", "0.3,", "0." + "3" * 200 + ","),
        PROSUMER + r".*is longer than 100 characters",
    ),
    "long line": (
        replace("prosumer_hours.csv", "0.3,", "0." + "3" * 200_000 + ","),
        PROSUMER + r": 200\d\d\d bytes, a line has 4096 at most",
    ),
    "half an index": (
        replace("pairs.csv", "0,0,1", "0,0.5,1"),
        r"pairs\.csv, line 2, .*'0\.5' is no r",
    ),
    "signed index": (
        replace("pairs.csv", "0,0,1", "0,+0,1"),
        r"line 2, column 'buyer': '\+0' is no",
    ),
    "large index": (
        replace("pairs.csv", "0,0,1", "0,9999999999,1"),
        r"line 2, .*1e\+10 is too large",
    ),
    "twice": (
        replace("pairs.csv", "1,1,2", "0,1,2"),
        r"pairs\.csv, line 3: a second line of pair 0",
    ),
    "fewer": (
        replace("pairs.csv", "1,1,2,2.0,0.0,0.0,0.001,0.0\n", ""),
        r"pairs\.csv: 1 lines of 2;",
    ),
    "more": (
        append("pairs.csv", "2,0,2,1,0,0,0,0\n"),
        r"line 4, column 'pair': 2, but there are 2",
    ),
    "cut off": (
        lambda f: os.truncate(f / "pairs.csv", (f / "pairs.csv").stat().st_size - 1),
        r"pairs\.csv, line 3: the file ends inside this line",
    ),
    "returns": (
        replace("pairs.csv", "0.0\n", "0.0\r\r\n"),
        r"pairs\.csv, line 2: holds the control character '\\r'",
    ),
    "hole": (
        replace("prosumer_hours.csv", "0,1,", "0,0,"),
        r"line 3: a second line of prosumer 0, ho",
    ),
    "hour": (
        replace("bus_hours.csv", "0,1,", "0,2,"),
        r"line 3, column 'hour': 2, but there are 2",
    ),
    "short": (
        write("bus_hours.csv", f"bus,hour,{BUS_HOURS}\n"),
        r"0 lines of 6; that of bus 0, hour 0",
    ),
    "status": (
        replace("clearing/clearing.json", '"max_steps"', '"great"'),
        r"'status' is 'great', but",
    ),
    "better": (
        replace("clearing/clearing.json", '"max_steps"', '"cleared"'),
        r"clearing\.json was edited since it was saved",
    ),
    "tighter": (
        replace("clearing/clearing.json", '"tol": 1e-06', '"tol": 1e-09'),
        r"clearing\.json was edited since it was saved",
    ),
    "other solver": (
        replace("clearing/clearing.json", "InteriorPoint()", "PrimalDual()"),
        r"clearing\.json was edited since it was saved",
    ),
    "edited": (replace("tariff.csv", "0.1", "0.2"), r"clearing belongs to another market.*edited"),
    "longer": (
        append("clearing/hours.csv", "2,0,0,0,0,0\n"),
        r"clearing/hours\.csv, line 4, column 'hour': 2, but there are 2",
    ),
    "certificate": (
        replace("clearing/clearing.json", "residuals.error", "residuals.joy"),
        r"clearing\.json was edited since it was saved",
    ),
    "a file for a folder": (
        lambda f: (shutil.rmtree(f / "clearing"), (f / "clearing").write_text("")),
        r"clearing is no file of the format; move it away",
    ),
    "no clearing": (
        lambda f: (f / "clearing" / "clearing.json").unlink(),
        r"clearing/clearing\.json is missing",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder_is_refused_in_one_sentence(name: str, tmp_path: Path):
    """Each damage gives one line that names the file; none gives a market."""
    damage, sentence = BROKEN[name]
    market = feeder()
    io.save(tmp_path / "case", market, unfinished(market, jg.Status.max_steps))
    damage(tmp_path / "case")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        io.load(tmp_path / "case")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["lindistflow", "paper"])
@pytest.mark.parametrize("name", ["case", "case.xlsx"])
def test_a_market_about_an_ac_state_comes_back(
    model: jg.market.GridModel, name: str, tmp_path: Path
):
    """Bit by bit, and judged alike; a table that is missing or edited is told."""
    found = jg.clear_ac(feeder(model, caps=False), tol=1e-5)
    io.save(tmp_path / name, found.linear, found.clearing)
    market, clearing = io.load(tmp_path / name)
    assert same(market, found.linear) and same(clearing, found.clearing)
    assert "about an AC state" in str(market)
    if name == "case":
        replace("ac_bus_hours.csv", "0,0,", "0,0,1")(tmp_path / name)
        with pytest.raises(ValueError, match="belongs to another market"):
            io.load(tmp_path / name)
        (tmp_path / name / "ac_bus_hours.csv").unlink()
        with pytest.raises(ValueError, match=r"ac_bus_hours\.csv is missing"):
            io.load_case(tmp_path / name)


def test_a_copperplate_has_no_ac_state(tmp_path: Path):
    io.save(tmp_path / "case", bare())
    (tmp_path / "case" / "ac_bus_hours.csv").write_text("bus,hour,losses_kw,losses_kvar\n0,0,0,0\n")
    with pytest.raises(ValueError, match="'copperplate' has no grid for an AC state; delete it"):
        io.load(tmp_path / "case")


def test_market_can_be_edited_and_loaded_without_its_old_clearing(tmp_path: Path):
    """`load_case` of an edited folder gives the edited market; the clearing of old is not used."""
    market = feeder()
    io.save(tmp_path / "case", market, unfinished(market, jg.Status.cleared))
    replace("prosumers.csv", "2,2", "2,1")(tmp_path / "case")
    assert io.load_case(tmp_path / "case").prosumers.bus.tolist() == [0, 1, 1]


UNITS = {
    **{"_eur_per_kwh_per_kw": "EUR/kWh/kW", "_eur_per_kw2h": "EUR/kW²h", "_pu_per_kw": "pu/kW"},
    **{"_eur_per_kvarh": "EUR/kvarh", "_eur_per_kwh": "EUR/kWh", "_eur_per_pu": "EUR/pu"},
    **{"_eur_per_rad": "EUR/rad", "_pu2": "pu²", "_kwh": "kWh", "_kvar": "kvar", "_kva": "kVA"},
    **{"weight_per_kw": "1/kW", "unit": "text", "kind": "text", "before": "step", "moment": "step"},
    **{"_kw": "kW", "_pu": "pu", "_rad": "rad", "_eur": "EUR", "_length_h": "h", "name": "text"},
}


def unit(column: str) -> str:
    """What the name of a column ends with, as people write it."""
    ends = (of for end, of in UNITS.items() if column.endswith(end))
    return next(ends, "index" if column in schema.WHOLE else "1")


def test_documentation_names_each_file_and_column_with_its_unit():
    """The tables of docs/files.md are those of the schema, in its order; entries of JSON too."""
    text = Path(__file__).parents[1].joinpath("docs", "files.md").read_text(encoding="utf-8")
    table = r"\n`([\w/.]+)`: (.*)\n\n\| column.*\n\|.*\n((?:\|.*\n)+)"
    found = {
        file: (re.findall(r"`(\w+)`", keys), re.findall(r"(?m)^\| `(\w+)` \| (\S+) \|", lines))
        for file, keys, lines in re.findall(table, text)
    }
    expected = {
        prefix + table.file: (
            [table.row, "hour"] if table.hourly else [table.row],
            [
                (name, unit(name))
                for name in (
                    *schema.ordered(table),
                    *table.spare,
                    *table.curves,
                    *table.names,
                    *table.derived,
                )
            ],
        )
        for prefix, tables in (
            ("", (*schema.MARKET, *schema.ac_tables(LinDistFlow()))),
            ("clearing/", schema.clearing_tables(LinDistFlow())),
        )
        for table in tables
    }
    assert found == expected
    for name in (*schema.MARKET_ENTRIES, *schema.CLEARING_ENTRIES):
        assert f"`{name}`" in text, name


def test_clearing_of_another_market_is_not_saved(tmp_path: Path):
    with pytest.raises(ValueError, match="of another market"):
        io.save(tmp_path / "case", feeder(), unfinished(bare(), jg.Status.cleared))
    assert not any(tmp_path.iterdir())


def test_batch_of_clearings_is_not_saved(tmp_path: Path):
    market = feeder()
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), unfinished(market, jg.Status.cleared))
    with pytest.raises(ValueError, match="leading axis of 2: save them one by one"):
        io.save(tmp_path / "case", market, batch)


def test_unknown_case_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no case or folder 'ieee38'.*ieee37, ieee123, synthetic"):
        io.load_case("ieee38")


def test_unknown_option_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"ieee37 has no option 'colour'; it takes .*seed"):
        io.load_case("ieee37", colour="red")


def test_folder_takes_no_options(tmp_path: Path):
    io.save(tmp_path / "case", bare())
    with pytest.raises(ValueError, match=r"takes no options \(got seed\)"):
        io.load_case(tmp_path / "case", seed=1)


def test_large_market_is_saved_and_loaded_exactly(tmp_path: Path):
    """More rows than one chunk of the writer: 6,000 prosumers and 24 hours, 144,000 lines."""
    load = np.random.default_rng(0).normal(size=(6000, 24))
    market = jg.Market(
        jg.Prosumers(np.zeros(6000, int), load),
        jg.Grid(np.zeros((1, 24)), model="copperplate"),
        jg.Tariff(0.1, hours=24),
    )
    io.save(tmp_path / "case", market)
    assert same(market, io.load(tmp_path / "case")[0])
