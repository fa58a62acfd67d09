"""Commands of the shell on pages run as they stand: page by page, line by line, in a folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandapower
import pandapower.networks
import pytest
from typer.main import get_command

import jaxgne as jg
from jaxgne.cli import app

from .circuits import END, START
from .pages import ROOT, blocks

CALL = re.compile(r"(?:^|(?<=\s)|(?<=/))jaxgne (?=[-a-z])")

JQ = "import functools as f, json, operator as o, sys; " + (
    'print(f.reduce(o.getitem, sys.argv[1][1:].split("."), json.load(sys.stdin)))'
)

NOT_RUN = {  # how a line begins, and why no test types it
    "jaxgne --install-completion": "changes the shell of whoever runs the tests",
    "jaxgne batch ieee37 --scenarios 4096": "needs a scheduler; tests/test_cluster.py asks one",
    "jaxgne study horizon ieee37 --prosumers 50 --out": "the same, and the same test",
    "jaxgne pareto price-slope ieee37 --points 9": "the same, and the same test",
    "jaxgne simulate ieee37 --days 30": "the same, and the same test",
    "sbatch docs/cluster.sbatch": "needs Slurm; tests/test_placement.py runs the script it starts",
}
SMALLER = {  # how a line begins that takes from ten minutes to hours, and what makes it small
    "jaxgne study connectivity --out": "--prosumers 8 --hours 2 --values 0.3,1 --seeds 1",
    "jaxgne study connectivity --hours": "--prosumers 8 --values 0.3,1 --seeds 1",
    "jaxgne study horizon --prosumers": "--prosumers 2 --hours 12 --step 3 --values 3 --seeds 1",
    "jaxgne simulate ieee37 --days 7": "--days 2 --window 6 --every 6 --prosumers 4",
    "jaxgne pareto price-slope ieee37": "--prosumers 4 --hours 4 --points 2 --steps 2 --starts 1",
    "jaxgne study stackelberg": "--values 0.3",
    "jaxgne study near-potential": "--values 0,0.3",
    "jaxgne study prosumers": "--hours 2 --step 1 --values 8,12 --seeds 1",
}
HALF = {"jaxgne clear --ac", "jaxgne clear --one-way", "jaxgne clear folder"}  # no whole lines
OWN = {"CASE": "ieee37", "SOURCE": "ieee37", "FOLDER": "street", "RESULT": "day", "NAME": "tariff"}

PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def lines(page: str) -> list[str]:
    """Lines of a page's blocks of the shell that call jaxgne, or Slurm."""
    every = (line.strip() for line in "".join(blocks(page, "sh")).splitlines())
    return [line for line in every if CALL.search(line) or line.startswith("sbatch ")]


def mentioned(page: str) -> list[str]:
    """Commands in the running text of a page, such as `jaxgne cases`."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)
    return [" ".join(each.split()) for each in re.findall(r"`(jaxgne\s[^`]+)`", text)]


def first(line: str, told: dict[str, str]) -> str | None:
    """What is told of lines that begin as this one does."""
    return next((word for start, word in told.items() if line.startswith(start)), None)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What pages name as the reader's own: a pandapower net, an OpenDSS circuit, a saved market."""
    folder = tmp_path_factory.mktemp("own")
    net = pandapower.networks.create_kerber_landnetz_freileitung_1()
    pandapower.to_json(net, str(folder / "net.json"))
    load = "new load.x bus1=671.2 phases=1 kv=0.2309 kw=6 kvar=1"
    line = "new line.a bus1=lv bus2=671 linecode=c length=0.1"
    (folder / "Master.dss").write_text("\n".join([START, line, load, END]))
    jg.save(folder / "my-market", jg.ieee37(prosumers=6, hours=4))
    return {path.name: path for path in folder.iterdir()}


def typed(line: str, folder: Path) -> str:
    """What a line of the shell prints, typed in a folder; raises AssertionError where it fails."""
    call = line[CALL.search(line).start() :]  # type: ignore[union-attr]
    run = f'jaxgne() {{ "{sys.executable}" -m jaxgne "$@"; }}\n'
    if "| jq " in call:  # not installed everywhere
        run += f'jq() {{ "{sys.executable}" -c \'{JQ}\' "$1"; }}\n'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", run + call], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if lines(page)])
def test_lines_of_the_shell_run(page: str, own: dict[str, Path], tmp_path: Path):
    for name, path in own.items():
        (tmp_path / name).symlink_to(path)
    for line in lines(page):
        if first(line, NOT_RUN) is None:
            small = first(line, SMALLER)
            typed(line if small is None else f"{line.partition(' #')[0]} {small}", tmp_path)


def test_commands_in_running_text_run(own: dict[str, Path], tmp_path: Path):
    """Those that name a market and no place of the reader's, as `jaxgne compare ieee37`."""
    for name, path in own.items():
        (tmp_path / name).symlink_to(path)
    every = {words for page in PAGES for words in mentioned(page)}
    whole = [
        words for words in every if len(words.split()) > 2 and not re.search("[A-Z]{3}", words)
    ]
    whole = sorted(set(whole) - HALF)
    assert len(whole) > 1
    for words in whole:
        typed(words, tmp_path)


def test_commands_on_pages_are_those_of_the_program():
    """Their names, options and values are read as the shell would have them."""
    group: Any = get_command(app)
    found = 0
    for page in PAGES:
        for line in (*lines(page), *mentioned(page)):
            partial = line in mentioned(page)
            called = re.search(r"(?:^|bin/)jaxgne ([a-z][^|>]*)", line)
            if not called:
                continue
            found += 1
            words = [OWN.get(word, word) for word in shlex.split(called[1], comments=True)]
            context = group.make_context("jaxgne", [*words], resilient_parsing=True)
            try:
                name, command, rest = group.resolve_command(context, [*words])
                command.make_context(name, rest, parent=context)
            except Exception as error:
                if partial and type(error).__name__ == "MissingParameter":
                    continue
                raise AssertionError(f"{page}: {line}: {error}") from error
    assert found > 80


def test_what_is_not_run_or_made_smaller_is_on_a_page():
    """So that no exception outlives its line."""
    every = [line for page in PAGES for line in lines(page)]
    for start in (*NOT_RUN, *SMALLER):
        assert any(line.startswith(start) for line in every), start
