"""What pages say in Python runs as they say it."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .circuits import END, START
from .pages import ROOT, blocks, read

MATPOWER = """function mpc = case33bw
mpc.version = '2';
mpc.baseMVA = 10;
mpc.bus = [
  1 3 0 0 0 0 1 1 0 12.66 1 1.1 0.9;
  2 1 0.1 0.06 0 0 1 1 0 12.66 1 1.1 0.9;
];
mpc.gen = [1 0 0 10 -10 1 100 1 10 0];
mpc.branch = [1 2 0.006 0.003 0 0 0 0 0 0 1 -360 360];
"""
LONG = (
    "admm", "batches", "cluster", "devices", "gallery", "imports", "messages", "own", "retail",
    "robustness", "runners", "simulation", "studies/paper", "tracking", "uncertainty",
)  # fmt: skip
CIRCUIT = f"""{START}
new line.a bus1=lv bus2=671 linecode=c length=0.1
new load.x bus1=671.2 phases=1 kv=0.2309 kw=6 kvar=1
{END}
"""
ALONE = (
    "ac", "auctions", "balancing", "carbon", "charges", "comparison", "envelopes", "fairness",
    "infeasible", "learn/phases", "on_off", "one_way", "pool", "preferences", "profiles",
    "reserve", "sharing",
    "tables", "tariffs", "time", "units", "zones",
)  # fmt: skip


LEARN = ("first", "grid", "money", "tuning", "batches", "solvers", "cases")


def test_the_readme_runs(tmp_path: Path):
    read("README.md", {}, tmp_path)


def test_the_tutorial_runs(tmp_path: Path):
    """Page after page as a reader goes through them; C sells all its surplus, 5 kW in hour 1."""
    names: dict[str, Any] = {}
    printed = [read(f"docs/learn/{page}.md", names, tmp_path) for page in LEARN]
    said = re.findall(r"^infeasible: .*$", (ROOT / "docs/learn/first.md").read_text("utf-8"), re.M)
    assert len(said) == 1
    assert said[0] in printed[0]
    np.testing.assert_allclose(names["clearing"].plan.trades[:, 1], [1.78, 3.22], atol=0.006)
    assert names["cleared"].all()


@pytest.mark.parametrize("page", ALONE)
def test_a_page_runs_as_it_stands(page: str, tmp_path: Path):
    """Its blocks need nothing but one another, and print what it says."""
    read(f"docs/{page}.md", {}, tmp_path)


@pytest.mark.parametrize("page", LONG)
def test_a_page_whose_blocks_take_long_runs(page: str, tmp_path: Path):
    """Files that the page of imports names are there."""
    (tmp_path / "case33bw.m").write_text(MATPOWER)
    (tmp_path / "Master.dss").write_text(CIRCUIT)
    read(f"docs/{page}.md", {}, tmp_path)


DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", *DOCS]


def test_no_page_with_python_is_left_out():
    """Each is read by a test here."""
    have = {page for page in PAGES if blocks(page)}
    told = {f"docs/{page}.md" for page in (*ALONE, *LONG)}
    assert have == told | {f"docs/learn/{page}.md" for page in LEARN} | {"README.md"}


def test_every_page_is_on_the_menu_of_the_site_and_its_links_lead_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As `docs/pages.py` writes them; what it cannot tell, such as anchors, its build does."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    pages: Any = importlib.import_module("pages")
    monkeypatch.setattr(pages, "OUT", tmp_path)
    pages.write()
    with pytest.raises(ValueError, match=r"docs/a\.md: docs/nowhere\.md is no file"):
        pages.linked("docs/a.md", "a.md", "see `docs/nowhere.md`", {})


def test_what_is_cited_is_this_version():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {said}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"version = {{{said}}}" in (ROOT / "docs" / "citing.md").read_text("utf-8")
