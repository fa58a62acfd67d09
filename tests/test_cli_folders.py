"""What commands leave in folders and `show` tells again, and who is quiet where all goes well."""

import csv
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import pytest
import typer
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io
from tests.documents import judged
from tests.folders import feeder


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small market with names and a result."""
    folder = tmp_path_factory.mktemp("folders") / "day"
    market = feeder()
    io.save(folder, market, jg.clear(market))
    return folder


@pytest.mark.parametrize(("study", "names"), [
    ("envelope", {"bus": ["799", 'bus, "two"', "Straße"]}),
    ("reinforcement", {"line": ["main, old", "side"], "source": ["799", 'bus, "two"'],
                       "target": ['bus, "two"', "Straße"]}),
])  # fmt: skip
def test_what_tune_reads_off_is_told_by_name_and_shown_again(
    study: str, names: dict[str, list[str]], day: Path, tmp_path: Path
):
    """Printed by name, in tables by number and name; `show` prints the same, and the same JSON."""
    told = call("tune", study, day, "--out", tmp_path)
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader((tmp_path / f"{study}.csv").read_text("utf-8").splitlines()))
    for column, known in names.items():
        assert list(dict.fromkeys(row[f"{column}_name"] for row in rows)) == known
        assert all(known[int(row[column]) - min(int(r[column]) for r in rows)]
                   == row[f"{column}_name"] for row in rows)  # fmt: skip
        assert all(name in told.stdout for name in known)
        assert f"{column}_name" not in told.stdout
    assert call("show", tmp_path).stdout == told.stdout.removesuffix(f"written to {tmp_path}\n")
    for words in (("report",), ("bills",), ("plot", "--kind", "prices"), ("export", "-o", "x.nc")):
        none = call(*words, tmp_path)
        assert none.exit_code == 1 and f"holds no market; jaxgne show {tmp_path}" in none.stderr
    facts = judged(call("show", tmp_path, "--json").stdout)
    assert facts == judged(call("tune", study, day, "--json").stdout)
    for column in names:
        assert facts["table"][f"{column}_name"] == [row[f"{column}_name"] for row in rows]


def test_a_study_is_shown_again(day: Path, tmp_path: Path):
    words = ("study", "tariff", day, "--values", "0.01")
    told = call(*words, "--out", tmp_path)
    assert told.exit_code == 0, told.output
    again = call("show", tmp_path)
    assert again.stdout.strip() == told.stdout.split("\nwritten to")[0].strip()
    facts = judged(call("show", tmp_path, "--json").stdout)
    assert facts == judged(call(*words, "--json").stdout) and facts["study"] == "tariff"
    (tmp_path / "summary.json").write_text("[]")
    broken = call("show", tmp_path)
    assert broken.exit_code == 1 and "is none that jaxgne wrote, or damaged" in broken.stderr
    (tmp_path / "summary.json").write_text(json.dumps(facts | {"missed": 2}))
    missed = call("show", tmp_path, "--quiet")
    assert (missed.exit_code, missed.stdout) == (3, "") and "2 markets did not" in missed.stderr


def test_every_command_that_tells_how_it_went_can_be_quiet(day: Path, tmp_path: Path):
    """All but those that list something; where something is wrong it is told all the same."""
    commands: Any = typer.main.get_command(cli.app)
    loud = {
        name
        for name, command in commands.commands.items()
        if "--quiet" not in {word for option in command.params for word in option.opts}
    }
    assert loud == {"cases", "version"}
    for words in (
        ("validate", day), ("compare", day), ("show", day), ("new", tmp_path / "village"),
        ("import", day, "--out", tmp_path / "copy"), ("export", day, "--out", tmp_path / "d.xlsx"),
        ("bills", day, "--no-baseline", "--out", tmp_path / "bills"),
        ("plot", day, "--kind", "prices", "--out", tmp_path / "day.svg"),
    ):  # fmt: skip
        told = call(*words, "--quiet")
        assert (told.exit_code, told.output) == (0, ""), words
    full = eqx.tree_at(lambda m: m.grid.rating, feeder(), jnp.array([0.5, jnp.inf]))
    io.save(tmp_path / "full", full)
    told = call("validate", tmp_path / "full", "--quiet")
    assert told.exit_code == 4 and "Grid.rating of line main, old" in told.stdout


def test_a_slope_of_nothing_is_told(day: Path, tmp_path: Path):
    """Three times nothing is no range to tune in: it says what to do."""
    flat = eqx.tree_at(lambda m: m.tariff.slope, feeder(), jnp.zeros(2))
    io.save(tmp_path / "flat", flat)
    for command in ("tune", "pareto"):
        told = call(command, "price-slope", tmp_path / "flat")
        assert told.exit_code == 1 and told.stderr.count("\n") == 1
        assert "Tariff.slope is 0 in all hours" in told.stderr
        assert "slope_eur_per_kwh_per_kw in the table tariff" in told.stderr
    same = call("pareto", "price-slope", tmp_path / "flat", "--second", "peak")
    assert same.exit_code == 2 and "are both peak; give two objectives" in same.stderr


@pytest.mark.slow  # compiles for most of a minute
def test_a_front_is_that_of_the_objectives_asked_for(day: Path, tmp_path: Path):
    """Markets written have the values of the table, revenue with the sign that makes it small."""
    words = ("pareto", "trading-tariff", day, "--first", "revenue", "--points", 3, "--steps", 4)
    told = call(*words, "--out", tmp_path, "--json")
    assert told.exit_code == 0, told.output
    facts = judged(told.stdout)
    assert facts == judged(call("show", tmp_path, "--json").stdout)
    assert facts["first"] == "minus_revenue" and (tmp_path / "trading-tariff.png").exists()
    rows = list(csv.DictReader((tmp_path / "trading-tariff.csv").read_text("utf-8").splitlines()))
    assert 1 <= len(rows) == len(list(tmp_path.glob("point-*")))
    for k, row in enumerate(rows):
        market, clearing = jg.load(tmp_path / f"point-{k}")
        assert clearing is not None
        revenue = float(jg.objectives.operator_revenue(market, clearing))
        cost = float(jg.objectives.total_cost(market, clearing))
        assert float(row["minus_revenue"]) == pytest.approx(-revenue, abs=1e-5)
        assert float(row["total_cost"]) == pytest.approx(cost, rel=1e-5)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("tuning.npz")}
    assert files and judged(call(*words, "--out", tmp_path, "--json").stdout) == facts
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_a_market_is_never_replaced_without_a_word(day: Path, tmp_path: Path):
    """By `import`, `clear` and `new` alike: another market, one that was edited, and a result."""
    out = tmp_path / "out"
    assert call("import", day, "--out", out).exit_code == 0
    assert call("clear", day, "--out", out, "--quiet").exit_code == 0  # the same market, anew
    assert call("clear", out, "--out", out, "--quiet").exit_code == 0
    (table,) = out.glob("generators.csv")
    table.write_text(edited := table.read_text().replace("0.12", "0.13"))
    assert call("clear", out, "--out", out, "--quiet").exit_code == 0  # its own edits are kept
    io.save(tmp_path / "bare", jg.load(day)[0])
    for words in (
        ("import", day, "--out", out), ("clear", day, "--out", out), ("new", out),
        ("clear", "ieee37", "--out", out), ("clear", out, "--one-way", "--out", out),
        ("import", tmp_path / "bare", "--out", day),
    ):  # fmt: skip
        told = call(*words)
        assert told.exit_code == 1 and told.stderr.count("\n") == 1, (words, told.output)
        assert "--overwrite" in told.stderr and "written to" not in told.stdout
        assert table.read_text() == edited
    table.write_text(edited.replace("0.13", "0.1x"))
    told = call("import", day, "--out", out)
    assert told.exit_code == 1 and "holds a market that cannot be read" in told.stderr
    assert call("import", day, "--out", out, "--overwrite").exit_code == 0
    assert jg.load(out)[1] is not None
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    told = call("clear", day, "--out", tmp_path, "--overwrite")
    assert told.exit_code == 1 and "choose another folder" in told.stderr


def test_what_has_no_plan_before_anything_is_cleared_says_what_must_give_way(tmp_path: Path):
    """A house that cannot buy what it needs: validation sees it, and the way out is told too."""
    poor = eqx.tree_at(
        lambda m: (m.prosumers.import_max, m.trading.limit),
        feeder(caps=False),
        (jnp.array([[1.0], [50.0], [50.0]]) * jnp.ones((1, 2)), jnp.full((2, 1), 0.1)),
    )
    io.save(tmp_path / "poor", poor)
    refused = call("clear", tmp_path / "poor")
    assert refused.exit_code == 1 and "Prosumers.load row 0" in refused.stderr
    relaxed = jg.relax(poor)
    told = call("clear", tmp_path / "poor", "--explain")
    assert told.exit_code == 4, told.output
    assert all(line in told.stdout for line in relaxed.lines)
    facts = judged(call("clear", tmp_path / "poor", "--explain", "--json").stdout)
    assert facts["relax"]["cost_eur"] == pytest.approx(float(relaxed.cost)) and relaxed.cost > 0
    page = call("validate", tmp_path / "poor")
    assert page.exit_code == 1 and "Prosumers.load row 0" in page.stdout
    assert all(line in page.stdout for line in relaxed.lines)
    assert judged(call("validate", tmp_path / "poor", "--json").stdout)["status"] == "infeasible"
    assert call("validate", tmp_path / "poor", "--no-clear").stdout.count(relaxed.lines[0]) == 0


def test_one_spelling_of_out_and_faults_that_name_their_file(tmp_path: Path):
    """Whoever knows one command knows all; a net that is none is told by its name."""
    commands: Any = typer.main.get_command(cli.app)
    short = {
        name: "-o" in option.opts
        for name, command in commands.commands.items()
        for option in command.params
        if "--out" in option.opts
    }
    assert len(short) > 9 and all(short.values()), short
    (tmp_path / "net.json").write_text("no net")
    told = call("import", tmp_path / "net.json", "--out", tmp_path / "copy")
    assert told.exit_code == 1 and f"{tmp_path}/net.json is no JSON of a net" in told.stderr
    assert "Value error" not in call("tune", "peak", tmp_path).stderr
