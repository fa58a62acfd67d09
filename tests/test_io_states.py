"""Readers see one state of a folder, results are those that were saved, nothing else is touched."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import io
from jaxgne.grids import LinDistFlow
from jaxgne.io import loading, schema, snapshot, swap
from tests.folders import bare, feeder, replace, same, unfinished

HIDDEN = ".case." + "0a" * 16


def test_a_reader_beside_a_writer_has_one_state(tmp_path: Path):
    """Two markets of different sizes take turns in one folder; what loads is one of them, whole."""
    markets = feeder(), bare()
    io.save(tmp_path / "case", markets[0])
    done, found = threading.Event(), []

    def read():
        while not done.is_set():
            found.append(io.load_market(tmp_path / "case"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for k in range(1, 12):
            io.save(tmp_path / "case", markets[k % 2])
    finally:
        done.set()
        reader.join()
    assert found
    assert all(any(same(market, one) for one in markets) for market in found)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_two_writers_leave_one_state(exchange: bool, tmp_path: Path, monkeypatch):
    """Both begin where there is nothing; neither fails, and the last one's folder stays, whole."""
    if not exchange:
        monkeypatch.setattr(swap, "_exchange", lambda *_: False)
    monkeypatch.setattr(swap, "_flush", lambda _: None)  # faster, so they meet more often
    markets, start = (feeder(), bare()), threading.Barrier(2)
    failed = []

    def write(market: jg.Market):
        start.wait()
        try:
            for _ in range(10):
                io.save(tmp_path / "case", market)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(market,)) for market in markets]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    assert any(same(io.load_market(tmp_path / "case"), market) for market in markets)
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_a_folder_put_in_place_by_another_writer_meanwhile_is_replaced(tmp_path: Path, monkeypatch):
    """Where there was nothing a moment ago, a rename meets the other's folder."""
    other = tmp_path / "other"
    io.save(other, feeder())
    rename = os.rename

    def late(source: Path, target: Path):
        if other.exists():
            rename(other, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    io.save(tmp_path / "case", bare())
    monkeypatch.undo()
    assert same(bare(), io.load_market(tmp_path / "case"))
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_a_folder_replaced_after_it_was_opened_is_read_as_it_was(tmp_path: Path, monkeypatch):
    """The writer is done before the first table is read: the reader has the old state, whole."""
    market, answer = feeder(), unfinished(feeder(), jg.Status.cleared)
    io.save(tmp_path / "case", market, answer)
    read = loading.read_tables

    def late(*arguments):
        io.save(tmp_path / "case", bare())
        return read(*arguments)

    monkeypatch.setattr(loading, "read_tables", late)
    loaded, again = io.load(tmp_path / "case")
    assert same(market, loaded) and same(answer, again)


def test_a_folder_replaced_while_it_is_opened_is_opened_again(tmp_path: Path, monkeypatch):
    """Between the market's files and those of its result: the reader has the new state, whole."""
    io.save(tmp_path / "case", feeder(), unfinished(feeder(), jg.Status.cleared))
    opened, replaced = snapshot.Snapshot._open_files, []

    def late(self, prefix, *arguments):
        if prefix and not replaced:
            replaced.append(prefix)
            io.save(tmp_path / "case", bare())
        return opened(self, prefix, *arguments)

    monkeypatch.setattr(snapshot.Snapshot, "_open_files", late)
    loaded, again = io.load(tmp_path / "case")
    assert replaced and again is None
    assert same(bare(), loaded)


def test_a_reader_waits_where_names_cannot_be_exchanged(tmp_path: Path, monkeypatch):
    """Between two renames the folder is not there; a hidden one tells that it will be."""
    io.save(tmp_path / "case", feeder())
    os.rename(tmp_path / "case", tmp_path / HIDDEN)
    monkeypatch.setattr(
        snapshot.time, "sleep", lambda _: os.rename(tmp_path / HIDDEN, tmp_path / "case")
    )
    assert same(feeder(), io.load_market(tmp_path / "case"))


def test_a_state_moved_aside_by_a_killed_writer_is_put_back(tmp_path: Path, monkeypatch):
    """The next save fails for another reason: the folder is there again, as it was."""
    io.save(tmp_path / "case", feeder())
    os.rename(tmp_path / "case", tmp_path / f"{HIDDEN}.old")
    monkeypatch.setattr(swap, "_flush", lambda _: (tmp_path / "no" / "such").rmdir())
    with pytest.raises(OSError, match="such"):
        io.save(tmp_path / "case", bare())
    assert same(feeder(), io.load_market(tmp_path / "case"))
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_leftovers_of_killed_writers_go_with_the_next_save(tmp_path: Path):
    """Those without a writer and with our files alone; all else beside the folder stays."""
    dead, strange, other = (tmp_path / f".case.{c * 32}" for c in "abc")
    elsewhere = tmp_path / f".cases.{'a' * 32}"
    for path in (dead, strange, elsewhere):
        path.mkdir()
        (path / "tariff.csv").write_text("hour,")
    (strange / "thesis.tex").write_text("years of work")
    other.write_text("a file")
    alive, lock = swap._create(tmp_path / "case")
    io.save(tmp_path / "case", bare())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"case", strange.name, other.name, elsewhere.name, alive.name}
    os.close(lock)  # as the end of its process does
    io.save(tmp_path / "case", bare())
    assert not alive.exists()


def test_a_large_folder_is_not_walked(tmp_path: Path, monkeypatch):
    """A folder in which anything is not ours is refused by its first entry, unlisted below it."""
    (tmp_path / "home" / "deep" / "deeper").mkdir(parents=True)
    scan, seen = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: (seen.append(Path(path)), scan(path))[1])
    for walk in ("walk", "listdir"):
        monkeypatch.delattr(os, walk)
    with pytest.raises(ValueError, match="holds deep, which is not part of a saved market"):
        io.check_replaceable(tmp_path / "home")
    assert seen == [tmp_path / "home"]
    with pytest.raises(ValueError, match="not part of a saved market"):
        io.check_replaceable("/")


@pytest.fixture(scope="module")
def cleared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cleared") / "case"
    io.save(folder, feeder(), unfinished(feeder(), jg.Status.cleared))
    return folder


COLUMNS = [
    (table.file, column)
    for table in schema.clearing_tables(LinDistFlow())
    for column in (*table.columns, *table.derived)
]


@pytest.mark.parametrize(("file", "column"), COLUMNS)
def test_a_result_with_an_edited_number_does_not_load(cleared: Path, tmp_path: Path, file, column):
    """Any number of any column, those for readers too; the sentence names the file and the fix."""
    folder = shutil.copytree(cleared, tmp_path / "case")
    path = folder / "clearing" / file
    head, *lines = (line.split(",") for line in path.read_text().splitlines())
    at = head.index(column)
    lines[-1][at] = "0.125"
    path.write_text("".join(",".join(line) + "\n" for line in (head, *lines)))
    with pytest.raises(ValueError, match=rf"clearing/{file} was edited.*delete.*clear") as caught:
        io.load(folder)
    assert "\n" not in str(caught.value)


EDITED = {
    "status": ('"status": "cleared"', '"status": "max_steps"', r"clearing\.json was edited"),
    "steps": ('"steps": 7', '"steps": 6', r"clearing\.json was edited"),
    "certificate": ('"residuals.error": ', '"residuals.error": 1e-9, "old": ', r"json was edited"),
}


@pytest.mark.parametrize("name", EDITED)
def test_a_result_with_an_edited_verdict_does_not_load(cleared: Path, tmp_path: Path, name: str):
    folder = shutil.copytree(cleared, tmp_path / "case")
    old, new, sentence = EDITED[name]
    replace("clearing/clearing.json", old, new)(folder)
    with pytest.raises(ValueError, match=sentence):
        io.load(folder)


def test_a_result_does_not_load_with_its_market_in_another_precision(cleared: Path, tmp_path: Path):
    folder = shutil.copytree(cleared, tmp_path / "case")
    replace("market.json", "float64", "float32")(folder)
    with pytest.raises(ValueError, match="belongs to another market"):
        io.load(folder)
    assert io.load_market(folder).prosumers.load.dtype == np.float32


def test_a_result_of_another_market_does_not_load(cleared: Path, tmp_path: Path):
    """A clearing folder copied beside another market of the same shape."""
    io.save(tmp_path / "case", feeder(total_max=100.0))
    shutil.copytree(cleared / "clearing", tmp_path / "case" / "clearing")
    with pytest.raises(ValueError, match="belongs to another market"):
        io.load(tmp_path / "case")


def test_a_result_may_be_written_otherwise(cleared: Path, tmp_path: Path):
    """Lines turned round, CRLF, JSON on one line: the same numbers, so the same result."""
    folder = shutil.copytree(cleared, tmp_path / "case")
    for path in [*folder.rglob("*.csv")]:
        head, *lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\r\n" for line in (head, *lines[::-1])), newline="")
    for path in [*folder.rglob("*.json")]:
        path.write_text(json.dumps(json.loads(path.read_text())))
    market, clearing = io.load(folder)
    assert same(market, feeder())
    assert same(clearing, unfinished(feeder(), jg.Status.cleared))


def test_results_of_version_1_are_not_taken_on_trust(cleared: Path, tmp_path: Path):
    folder = shutil.copytree(cleared, tmp_path / "case")
    replace("market.json", '"version": 3', '"version": 1')(folder)
    with pytest.raises(ValueError, match=r"clearing: was written by version 1.*clear the market"):
        io.load(folder)
    assert same(io.load_market(folder), feeder())


def test_results_that_do_not_say_how_they_were_found_are_not_taken_on_trust(
    cleared: Path, tmp_path: Path
):
    folder = shutil.copytree(cleared, tmp_path / "case")
    path = folder / "clearing" / "clearing.json"
    said = json.loads(path.read_text())
    for name in ("solver", "tol", "runner"):
        del said[name]
    path.write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"clearing: .*which solver.*clear the market") as caught:
        io.load(folder)
    assert "\n" not in str(caught.value)
    assert same(io.load_market(folder), feeder())


def test_all_faults_of_a_folder_are_told_at_once(cleared: Path, tmp_path: Path):
    """Four files, three of them with one fault, one with six, of which five are told: 3 + 5 + 1."""
    folder = shutil.copytree(cleared, tmp_path / "case")
    replace("market.json", '"anticipation": 1.0', '"anticipation": "Nash"')(folder)
    replace("pairs.csv", "0,0,1", "0,0,1.0")(folder)
    (folder / "lines.csv").unlink()
    text = (folder / "prosumer_hours.csv").read_text()
    (folder / "prosumer_hours.csv").write_text(text.replace(",0.3,", ",0;3,"))
    with pytest.raises(ValueError, match="Nash") as caught:
        io.load(folder)
    told = str(caught.value).splitlines()
    assert len(told) == 9
    for file in ("market.json", "pairs.csv", "lines.csv", "prosumer_hours.csv"):
        assert sum(f"{folder / file}" in line for line in told) == (5 if "hours" in file else 1)
    assert told[-1] == "... and 1 more faults of these kinds."


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "\ud800", "a" * 1001])
def test_a_name_that_could_not_be_read_is_not_written(name: str, tmp_path: Path):
    market = jg.Market(
        jg.Prosumers((0,), [[1.0]]),
        jg.Grid([[0.0]], model="copperplate", names=(name,)),
        jg.Tariff(0.1, hours=1),
    )
    with pytest.raises(ValueError, match="control character or is longer"):
        io.save(tmp_path / "case", market)
