"""What `--help` shows can be typed, what `--json` prints is of its schema, and how one waits."""

import json
import re
import runpy
import shlex
import shutil
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jsonschema
import pytest
import typer
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io, live, programs
from jaxgne.batch import BatchProgress
from jaxgne.solve import Progress
from tests.documents import DOCS, judged, strict
from tests.folders import feeder
from tests.terminal import stopped

PACKAGE = Path(jg.__file__).parent
COMMANDS: Any = typer.main.get_command(cli.app)
NET = """
mpc.baseMVA = 1;
mpc.bus = [1 3 0 0 0 0 1 1 0 0.4 1 1.1 0.9; 2 1 0.03 0.01 0 0.002 1 1 0 0.4 1 1.1 0.9];
mpc.gen = [1 0 0 1 -1 1.02 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0];
mpc.branch = [1 2 0.2 0.1 0 0.1 0 0 0 0 1 -360 360];
"""


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def examples(name: str) -> list[list[str]]:
    """The words of each example in a command's help, without `jaxgne`."""
    text = COMMANDS.commands[name].epilog
    return [shlex.split(line)[1:] for line in text.split("\n") if line.startswith("jaxgne ")]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what examples start from: a village, contracts, a net, and a result."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "net.m").write_text(NET)
    with chdir(folder):
        for words in (*examples("new"), examples("clear")[0]):
            assert call(*words).exit_code == 0
    return folder


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_examples_run_and_their_json_is_of_its_schema(name: str, begun: Path, tmp_path: Path):
    """Each as it stands in `--help`, and the first with `--json` too."""
    assert examples(name)
    for run in (examples(name), [[word for word in examples(name)[0] if word != "--json"]]):
        here = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(begun, here)
        if name == "new":
            shutil.rmtree(here / "village")
            (here / "tariff.toml").unlink()
        with chdir(here):
            for words in run:
                result = call(*words)
                assert result.exit_code == 0, (words, result.output)
                if "--json" in words:
                    judged(result.stdout)
    with chdir(here):
        again = call(*examples(name)[0][: 1 + ("--json" in examples(name)[0])], "--help")
        assert again.exit_code == 0 and "Examples:" in again.stdout


def test_all_that_a_clearing_may_say_is_of_the_schema(tmp_path: Path):
    """In three phases with caps; and what must give way where there is no plan."""
    phased = jg.ieee13(3, hours=2)
    net = jg.caps.ramp(phased, 1e4)
    io.save(tmp_path / "phased", jg.capped(phased, net))
    facts = judged(call("clear", tmp_path / "phased", "--json").stdout)
    assert facts["caps"] and facts["ac"]["largest_unbalance"]["factor"] > 0
    full = eqx.tree_at(lambda m: m.grid.rating, feeder(), jnp.array([0.5, jnp.inf]))
    io.save(tmp_path / "full", full)
    told = call("clear", tmp_path / "full", "--explain", "--json")
    assert told.exit_code == 4
    facts = judged(told.stdout)
    assert facts["relax"]["table"] and facts["bill_eur"]["total"] is None


def test_the_published_schema_is_that_of_the_page():
    """Who changes the page writes it again: `.venv/bin/python docs/json_schema.py`."""
    made: Any = runpy.run_path(str(DOCS / "json_schema.py"))
    assert (DOCS / "schema-1.json").read_text("utf-8") == made["written"]()
    jsonschema.Draft202012Validator.check_schema(json.loads(made["written"]()))
    kinds = {one["properties"]["kind"]["const"] for one in strict()["oneOf"]}
    source = "".join(path.read_text("utf-8") for path in PACKAGE.glob("cli*.py"))
    assert set(re.findall(r'document\(\s*"(\w+)"', source)) == kinds


@pytest.mark.parametrize(
    ("line", "word"),
    [("clear iee", "ieee37"), ("clear ieee37 --grid lin", "lindist3flow"),
     ("clear ieee37 --solver pr", "primal-dual"),
     ("validate vil", "village/"), ("tune env", "envelope"), ("study tar", "tariff")],
)  # fmt: skip
def test_shells_complete_words(line: str, word: str, begun: Path):
    words = ["jaxgne", *line.split()]
    asked = {"_JAXGNE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    with chdir(begun):
        found = CliRunner().invoke(
            cli.app, [], env=asked | {"COMP_CWORD": str(len(words) - 1)}, prog_name="jaxgne"
        )
    assert word in found.stdout.split(), found.output


def test_pace_tells_rate_and_what_is_left():
    """80 of 100 that were kept do not count for the rate of those that are cleared."""
    batch = live.LiveBatch("scenarios", 100)
    assert batch.text == "0 of 100 scenarios"
    batch(BatchProgress(80, 100, 0.01))
    batch(BatchProgress(84, 100, 2.01))
    assert batch.text == "84 of 100 scenarios, 2.0/s, 8 s left"
    solve = live.Live(1e-6)
    for k in range(1, 5):  # ten times better each second
        solve(Progress(10 * k, 10.0**-k, float(k)))
    assert solve.text == "40 steps, relative KKT error 1.0e-04, 10/s, about 2 s left"
    solve.awaited(f"jaxgne: compiling it{programs._sizes([feeder()])} ... 3 s")
    assert solve.now().endswith("; compiling it for 3 prosumers x 2 steps, once per shape ... 3 s")


def test_where_nothing_can_change_in_place_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(live, "_EVERY", 0.02)
    with live.LiveBatch("runs", 5) as told:
        told(BatchProgress(2, 5, 1.0))
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[-1] == "jaxgne: 2 of 5 runs, 2.0/s, 2 s left, 0 s"
    with live.LiveBatch("runs", 5, silent=True):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_who_stops_a_study_hears_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxgne.batch._with_room", stop)
    io.save(tmp_path / "case", feeder())
    told = call("study", "tariff", tmp_path / "case", "--values", "0.01", "--out", tmp_path / "out")
    assert told.exit_code == 130 and told.stdout == ""
    assert f"stopped after 0 scenarios; what is done is in {tmp_path / 'out'}" in told.stderr


def test_stopped_work_is_kept_and_goes_on(tmp_path: Path):
    """Ctrl-C while a batch is at work, on a terminal that has told so from the start."""
    io.save(tmp_path / "case", feeder())
    words = ["batch", "case", "--scenarios", "32", "--load-noise", "0.05", "--out", "runs"]
    written = (tmp_path / "runs").glob
    code, text = stopped(words, tmp_path, lambda _: list(written("scenarios-*.npz")))
    assert code == 130
    assert "0 of 32 scenarios" in text
    assert "what is done is in runs, and the same call goes on after it" in text
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("scenarios-*.npz")}
    assert 0 < len(files) < 4  # of eight scenarios each
    with chdir(tmp_path):
        result = call(*words, "--json")
    assert judged(result.stdout)["status"]["cleared"] == 32
    assert {path: path.stat().st_mtime_ns for path in files} == files
