"""The command line: what it prints, what it writes, and how it exits."""

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, cli_source, io
from jaxgne.cases import CASES
from jaxgne.causes import explain_infeasible
from tests.folders import feeder
from tests.markets import two_neighbors


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small market that can be cleared."""
    folder = tmp_path_factory.mktemp("cases") / "small"
    io.save(folder, feeder())
    return folder


@pytest.fixture(scope="module")
def overloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a market whose first line, rated 4 kVA, must carry 5 kW to the loads: 8 kW
    behind it, less 2 kW of a generator and 1 kW of surplus; every prosumer by itself can buy."""
    folder = tmp_path_factory.mktemp("cases") / "overloaded"
    market = eqx.tree_at(
        lambda m: (m.grid.rating, m.prosumers.load),
        feeder(),
        (jnp.array([4.0, jnp.inf]), jnp.array([[3.0], [8.0], [-1.0]]) * jnp.ones((1, 2))),
    )
    io.save(folder, market)
    return folder


def test_json_is_one_document_with_a_certificate_below_tol(case: Path):
    result = call("clear", case, "--json", "--tol", 1e-7)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["status"] == "cleared"
    assert facts["certificate"]["relative_kkt_error"] <= 1e-7
    assert len(facts["by_hour"]) == 2
    assert result.stderr == ""


def test_table_leads_with_the_status(case: Path):
    result = call("clear", case)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Cleared after ")
    assert "no prosumer gains more than" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert result.stderr == ""


def test_one_way_writes_what_it_cleared(tmp_path: Path):
    """At a price below 0 burning energy pays; the plan written charges or discharges in an hour."""
    market = eqx.tree_at(
        lambda m: (m.tariff.base, m.buffers.energy_start, m.prosumers.export_max),
        feeder(),
        (jnp.full(2, -2.0), jnp.full(1, 4.0), jnp.zeros((3, 2))),
    )
    market = eqx.tree_at(lambda m: m.prosumers.load, market, jnp.abs(market.prosumers.load) + 2.0)
    io.save(tmp_path / "case", market)
    assert "charges and discharges at once" in call("clear", tmp_path / "case", "--json").stdout
    found = call("clear", tmp_path / "case", "--one-way", "--json", "--out", tmp_path / "run")
    assert found.exit_code == 0, found.output
    assert "one way an hour: no prosumer gains more than" in found.stdout
    narrow, clearing = io.load(tmp_path / "run")
    assert clearing is not None and bool(clearing.ok)
    assert float(jnp.minimum(clearing.plan.charge, clearing.plan.discharge).max()) < 1e-3
    assert float(jnp.minimum(narrow.buffers.charge_max, narrow.buffers.discharge_max).min()) == 0
    assert call("clear", tmp_path / "case", "--one-way", "--least-norm").exit_code == 2


def test_where_no_plan_keeps_limits_on_ac(case: Path, tmp_path: Path):
    """A full line has no room for its own losses: it is named, and written beside the proof."""
    market, _ = io.load(case)
    grid = (jnp.array([5.3, jnp.inf]), jnp.array([3e-3, 1e-4]))
    tight = eqx.tree_at(lambda m: (m.grid.rating, m.grid.resistance), market, grid)
    loads = jnp.array([[3.0], [8.0], [-1.0]]) * jnp.ones((1, 2))
    io.save(tmp_path / "case", eqx.tree_at(lambda m: m.prosumers.load, tight, loads))
    assert call("clear", tmp_path / "case", "--quiet").exit_code == 0
    failed = call("clear", tmp_path / "case", "--ac", "--out", tmp_path / "run")
    assert failed.exit_code == 4, failed.output
    assert "no plan keeps the limits on AC" in failed.stderr and "Grid.rating" in failed.stderr
    kept, clearing = io.load(tmp_path / "run")
    assert clearing is not None and kept.grid.tangent is not None
    assert "." in explain_infeasible(kept, clearing.prices)


def test_compare_tells_what_a_market_is_worth(case: Path, overloaded: Path, tmp_path: Path):
    table = tmp_path / "table.csv"
    result = call("compare", case, "--reference", "today", "--network-fee", 0.1, "--out", table)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["today", "market", "no", "trading"]
    assert any(line.startswith("price_of_anarchy ") for line in lines)
    written = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["market"] for row in written][:2] == ["today", "market"]
    assert float(written[0]["mean_benefit_eur"]) == 0.0
    prices = tmp_path / "tariff.toml"
    prices.write_text("[contract]\nnetwork = 0.1\nvat = 0.2")
    asked = ("compare", case, "--json", "--auctions", "--grid-carbon", 0.4, "--tariff", prices)
    rows = json.loads(call(*asked).stdout)["markets"]
    assert rows["today"]["contract_fees_eur"] > 0.0 == float(written[0]["contract_fees_eur"])
    assert rows["market"]["co2_kg"] == pytest.approx(0.4 * rows["market"]["net_import_kwh"])
    assert rows["no trading"]["mean_benefit_eur"] == 0.0
    assert [*rows][-3:] == ["alone", "uniform auction", "pay as bid"]
    refused = call("compare", case, "--tol", 1e-13)
    assert (refused.exit_code, refused.stderr[:15]) == (1, "jaxgne: tol=1e-")
    failed = call("compare", overloaded)
    assert failed.exit_code == 4
    assert "infeasible: Grid.rating" in failed.stderr


@pytest.mark.filterwarnings("default")
def test_compare_leaves_out_what_nobody_can_do_alone(tmp_path: Path):
    io.save(tmp_path / "island", two_neighbors())
    result = call("compare", tmp_path / "island", "--auctions", "--json")
    assert result.exit_code == 0, result.output
    assert not {"no trading", "alone"} & {*json.loads(result.stdout)["markets"]}
    assert "auctions are left out, not all can do alone: infeasible" in result.stderr


def test_quiet_prints_nothing_and_out_holds_the_result(case: Path, tmp_path: Path):
    """The written clearing is the market's own: recomputed, its error is what its file says."""
    result = call("clear", case, "--quiet", "--out", tmp_path / "run")
    assert (result.exit_code, result.output) == (0, "")
    market, clearing = io.load(tmp_path / "run")
    assert clearing is not None
    assert bool(clearing.ok)
    error = float(eqx.filter_jit(jg.certify)(market, clearing.plan, clearing.prices).error)
    assert error == pytest.approx(float(clearing.certificate.error), rel=1e-6)
    assert error <= 1e-6
    facts = json.loads((tmp_path / "run" / "clearing" / "summary.json").read_text())
    assert facts["certificate"]["relative_kkt_error"] == float(clearing.certificate.error)
    assert call("clear", tmp_path / "run", "--quiet").exit_code == 0


def test_step_limit_exits_3_and_is_kept_as_such(case: Path, tmp_path: Path):
    result = call("clear", case, "--max-steps", 1, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert result.stdout.startswith("NOT CLEARED (max_steps) after 1 steps")
    assert "Raise max_steps" in result.stderr
    clearing = io.load(tmp_path / "run")[1]
    assert clearing is not None
    assert jg.status.status_name(clearing.status) == "max_steps"


def test_infeasible_exits_4_and_names_the_limit(overloaded: Path):
    """The sentence names the line and its buses; what is no plan is not shown as one."""
    shown = call("clear", overloaded).stdout
    assert shown.startswith("NOT CLEARED (infeasible)") and "Grid.rating" in shown
    assert "Energy" not in shown and "AC-safe" not in shown
    result = call("clear", overloaded, "--quiet")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "infeasible: Grid.rating of line main, old (799-" in result.stderr
    assert "Cheapest way out: raise Grid.rating of line" in result.stderr


def test_infeasible_json_is_still_one_document(overloaded: Path):
    """With --explain it says what must give way, and what that costs adds up."""
    result = call("clear", overloaded, "--json", "--explain")
    assert result.exit_code == 4
    facts = json.loads(result.stdout)
    rows = facts["relax"]["table"]
    assert any(row["limit"] == "Grid.rating" for row in rows)
    assert sum(row["eur"] for row in rows) == pytest.approx(facts["relax"]["cost_eur"])
    assert facts["status"] == "infeasible"
    assert "Grid.rating of line main, old" in facts["message"]
    assert facts["by_hour"][0]["energy_price_mean_eur_per_kwh"] is None


BAD_INPUT = {
    "unknown case": (["ieee38"], "no case or folder 'ieee38'"),
    "option of a folder": (["{case}", "--behavior", "nash"], "takes no --behavior"),
    "tol out of reach": (["{case}", "--tol", "1e-15"], "tol=1e-15 is below"),
    "tol not a number": (["{case}", "--tol", "nan"], "tol=nan"),
    "alien folder": (["{alien}"], "market.json does not exist"),
    "out is alien": (["{case}", "--out", "{alien}"], "choose another folder"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_exits_1_with_one_sentence(name: str, case: Path, tmp_path: Path):
    words, sentence = BAD_INPUT[name]
    (tmp_path / "thesis.tex").write_text("years of work")
    result = call("clear", *(word.format(case=case, alien=tmp_path) for word in words))
    assert result.exit_code == 1, result.output
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["clear"],
        ["clear", "ieee37", "--grid", "dc"],
        ["clear", "ieee37", "--behavior", "greedy"],
        ["clear", "ieee37", "--prosumers", "0"],
        ["clear", "ieee37", "--colour"],
        ["melt"],
    ],
)
def test_wrong_usage_exits_2(words: list[str]):
    assert call(*words).exit_code == 2


NUMBERS = [
    ["clear", "{case}", "--max-steps", "3000000000"],
    ["clear", "{case}", "--max-steps", "3e9"],
    ["clear", "ieee37", "--seed", "-1"],
    ["clear", "ieee37", "--prosumers", "1" + 30 * "0"],
    ["batch", "{case}", "--load-noise", "1e300"],
    ["batch", "{case}", "--load-noise", "nan"],
    ["batch", "{case}", "--price-noise", "-0.1"],
    ["batch", "{case}", "--seed", 23 * "9"],
    ["batch", "{case}", "--scenarios", 20 * "9"],
    ["batch", "{case}", "--scenarios", "-0"],
    ["compare", "{case}", "--grid-carbon", "inf"],
    ["tune", "envelope", "{case}", "--steps", 20 * "9"],
    ["study", "tariff", "--hours", "-1"],
    ["study", "tariff", "--step", "nan"],
    ["plot", "{case}", "--kind", "feeder", "--hour", "nan"],
]


@pytest.mark.parametrize("words", NUMBERS, ids=lambda words: " ".join(words[2:])[:40])
def test_numbers_out_of_range_exit_2_with_one_sentence(words: list[str], case: Path):
    result = call(*(word.format(case=case) for word in words))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("jaxgne: Invalid value for '--")
    assert result.stderr.count("\n") == 1


REFUSED = {
    "tol of 1": (["clear", "{case}", "--tol", "inf"], "tol=inf is no small relative error"),
    "no steps of tol": (["tune", "price-slope", "{case}", "--tol", "0"], "tol=0 is below"),
    "endless values": (["study", "tariff", "--values", "1,inf"], "give numbers with commas"),
    "too many": (["study", "prosumers", "--values", "1e12"], "give numbers with commas"),
    "very many": (["study", "prosumers", "--values", "1e8"], "prosumers=1e+08: give a whole"),
    "file for a case": (["compare", "{file}"], "no case or folder"),
    "long name": (["clear", 5000 * "a"], "File name too long"),
    "file for a batch": (["batch", "{case}", "--out", "{file}"], "give a folder of its own"),
    "market for a batch": (["batch", "{case}", "--out", "{case}"], "give a folder of its own"),
    "below a file": (["tune", "envelope", "{case}", "--out", "{file}/x"], "Not a directory"),
    "nothing to draw": (["plot", "{file}/x", "--kind", "prices"], "file/x"),
    "no memory": (["batch", "{large}", "--scenarios", "1000000"], "GB are free; ask for fewer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_exits_1_with_one_sentence(name: str, case: Path, tmp_path: Path):
    words, sentence = REFUSED[name]
    (tmp_path / "file").write_text("")
    if "{large}" in words:
        io.save(tmp_path / "large", jg.ieee37(60))
    names = {"case": case, "file": tmp_path / "file", "large": tmp_path / "large"}
    result = call(*(word.format(**names) for word in words))
    assert result.exit_code == 1, result.output
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


ENDS = {
    "memory": (
        MemoryError("Unable to allocate 9 TiB"),
        1,
        "this is too large for this machine: Unable",
    ),
    "overflow": (
        OverflowError("out of range"),
        1,
        "this is too large for this machine: out of range",
    ),
    "disk": (OSError(28, "No space left on device", "run"), 1, "run: No space left on device."),
    "device": (OSError(28, "runs: no space"), 1, "runs: no space."),
    "package": (ImportError("no matplotlib: pip install it"), 1, "no matplotlib: pip install it"),
    "our fault": (KeyError("bus"), 1, "unexpected KeyError: 'bus' ("),
    "stopped": (KeyboardInterrupt(), 130, "stopped"),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_exception_ends_in_a_sentence(name: str, case: Path, monkeypatch: pytest.MonkeyPatch):
    """What is the program's own fault also tells where, and where to report it."""
    error, code, sentence = ENDS[name]

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("jaxgne.cli_clear.made", fails)
    result = call("clear", case)
    assert result.exit_code == code
    assert result.stderr.startswith(f"jaxgne: {sentence}")
    assert result.stderr.count("\n") == 1
    assert ("/issues" in result.stderr) == (name == "our fault")


def test_folder_with_a_nan_is_bad_input(tmp_path: Path):
    """A rating that is not a number could pass for none: it is found before anything runs."""
    io.save(
        tmp_path / "nan", eqx.tree_at(lambda m: m.grid.rating, feeder(), jnp.array([20.0, 30.0]))
    )
    (table,) = (tmp_path / "nan").rglob("lines.csv")
    table.write_text(table.read_text().replace("30.0", "nan"))
    result = call("clear", tmp_path / "nan")
    assert result.exit_code == 1
    assert "Grid.rating" in result.stderr


@pytest.mark.slow
def test_both_solvers_agree(case: Path):
    """The total cost of the mechanism of the paper and of primal-dual differ by less than 1e-4."""
    costs = []
    for solver in ("primal-dual", "semidecentralized"):
        result = call("clear", case, "--solver", solver, "--tol", 1e-5, "--json")
        assert result.exit_code == 0, result.output
        costs.append(json.loads(result.stdout)["cost_eur"]["total"])
    assert costs[0] == pytest.approx(costs[1], rel=1e-4)


def test_single_precision_market_is_cleared_in_double(tmp_path: Path):
    single = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, feeder()
    )
    io.save(tmp_path / "single", single)
    result = call("clear", tmp_path / "single", "--tol", 1e-8, "--json")
    assert json.loads(result.stdout)["certificate"]["relative_kkt_error"] <= 1e-8


def test_cases_lists_names_and_options():
    result = call("cases")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line[0] != " "] == [
        "ieee37",
        "ieee123",
        "synthetic",
        "ieee13",
        "ieee34",
        "european_lv",
    ]
    assert "--seed 0, --hours 24, --step 1" in lines[1]


def test_built_in_case_clears_with_its_options():
    result = call(
        "clear", "ieee37", "--prosumers", 4, "--seed", 1, "--grid", "copperplate", "--behavior",
        "wardrop", "--tol", 1e-4, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["prosumers"], facts["grid_model"]) == (4, "copperplate")


def test_version_tells_versions_and_device():
    result = call("version")
    assert result.exit_code == 0
    words = [line.split()[0] for line in result.stdout.splitlines()]
    assert words == ["jaxgne", "jax", "python", "device"]


def test_module_runs_as_the_command_in_double_precision(case: Path):
    """A process of its own, in which nobody set the precision: 1e-15 is refused as below float64,
    not as below float32."""
    run = subprocess.run(
        [sys.executable, "-m", "jaxgne", "clear", case, "--tol", "1e-15"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert "tol=1e-15 is below what float64 can give" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_batch_tells_how_costs_spread_and_goes_on(case: Path, tmp_path: Path):
    """Six variants of a small market; a second call reads the first one's files."""
    words = ("batch", case, "--scenarios", 6, "--price-noise", 0.1, "--out", tmp_path / "runs")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("6 scenarios: 6 cleared")
    assert "bill total eur" in result.stdout
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.npz")}
    again = call(*words, "--json")
    assert again.exit_code == 0, again.output
    facts = json.loads(again.stdout)
    assert facts["status"] == {"cleared": 6, "max_steps": 0, "infeasible": 0, "nonfinite": 0}
    spread = list(facts["quantiles"]["bill_total_eur"].values())
    assert spread == sorted(spread)
    assert spread[0] < spread[-1]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.npz")} == files
    markets, found = io.load(tmp_path / "runs")
    assert found is not None and found.steps.shape == markets.prosumers.load.shape[:1] == (6,)
    assert call("clear", tmp_path / "runs").stderr.count("holds a batch of markets") == 1
    drawn = call("plot", tmp_path / "runs", "--kind", "prices")
    assert drawn.exit_code == 1 and "holds a batch of 6 scenarios" in drawn.stderr
    other = call(*words, "--noise-seed", 1)
    assert other.exit_code == 1
    assert "holds other scenarios" in other.stderr


@pytest.mark.slow
def test_a_batch_with_infeasible_scenarios_says_so(overloaded: Path):
    result = call("batch", overloaded, "--scenarios", 2)
    assert result.exit_code == 3
    assert result.stdout.startswith("2 scenarios: 2 infeasible")
    assert "2 of 2 scenarios did not clear" in result.stderr


def test_ac_shows_and_writes_a_local_equilibrium(tmp_path: Path):
    """Losses are bought, what is found is said to be local, and what is written is judged alike."""
    out = tmp_path / "run"
    found = call("clear", "ieee37", "--hours", 3, "--prosumers", 8, "--ac", "--out", out)
    assert found.exit_code == 0 and "A local equilibrium of the game on AC" in found.output
    market, clearing = jg.load(out)
    assert clearing is not None and market.grid.tangent is not None
    exact = jg.clear_ac(jg.ieee37(8, hours=3))
    np.testing.assert_allclose(clearing.aggregate, exact.clearing.aggregate, rtol=1e-6)
    again = jg.certify(market, clearing.plan, clearing.prices)
    assert float(again.error) == float(clearing.certificate.error) <= 1e-6
    losses = float(np.sum(jg.settle(market, clearing).losses))
    assert losses > 0
    assert losses == pytest.approx(float(np.sum(exact.bills.losses)), rel=1e-6)
    assert call("clear", "ieee37", "--ac", "--one-way").exit_code == 2


def test_all_commands_that_take_a_market_take_the_same_options():
    commands: Any = typer.main.get_command(cli.app)
    made = {
        name: {word for option in command.params for word in option.opts}
        for name, command in commands.commands.items()
        if any(option.name == "source" for option in command.params)
    }
    named = "validate import clear simulate compare batch tune pareto study envelopes messages"
    assert made.keys() == {*named.split()}
    shared = set.intersection(*made.values())
    named = "prosumers hours step stress grid seed behavior degree populate start battery tariff"
    assert {f"--{word}" for word in named.split()} <= shared
    builders = [inspect.signature(builder).parameters for builder in CASES.values()]
    known = {f"--{name.replace('_', '-')}" for names in builders for name in names}
    assert known - shared == {"--hour-length", "--feeder"}  # which is --step, and an array


def test_steps_and_hours_make_a_day_and_less(tmp_path: Path):
    """Quarter hours make 96 steps unless hours are given; a step that does not fit is refused."""
    assert cli_source.market_of("ieee37", {"hour_length": 0.25})[0].prosumers.load.shape[1] == 96
    short, _ = cli_source.market_of("ieee37", {"hours": 3.0, "hour_length": 0.5, "seed": 3})
    assert short.prosumers.load.shape == (25, 6) and float(short.hour_length[0]) == 0.5
    refused = call("clear", "ieee37", "--hours", 1, "--step", 0.7)
    assert refused.exit_code == 1 and "whole steps of 0.7 h" in refused.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ieee37", "--buses", 9), "ieee37 takes no --buses; it takes --prosumers, --stress"),
        (("ieee37", "--start", "2026-01-20"), "ieee37 takes no --start"),
        (("{case}", "--hours", 3), "is a saved market, which takes no --hours; it takes --seed,"),
        (("net.m", "--stress"), "net.m takes no --stress; it takes --grid, --behavior"),
        (("{case}", "--battery", 1.5), "Invalid value for '--battery'"),
    ],
)
def test_what_a_source_does_not_take_is_told(words: tuple, sentence: str, case: Path):
    result = call("batch", *(str(word).format(case=case) for word in words))
    assert result.exit_code in (1, 2) and sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_result_is_shown_as_it_was_printed(case: Path, overloaded: Path, tmp_path: Path):
    """Judged anew; a plan that was written worse than it says is found out."""
    cleared = call("clear", case, "--out", tmp_path / "run")
    assert call("show", tmp_path / "run").stdout == cleared.stdout.split("\nwritten")[0]
    facts = json.loads(call("show", tmp_path / "run", "--json").stdout)
    assert facts == json.loads(call("clear", case, "--json").stdout)
    market, clearing = io.load(tmp_path / "run")
    assert clearing is not None
    off = eqx.tree_at(lambda c: c.plan.imports, clearing, clearing.plan.imports + 0.1)
    io.save(tmp_path / "off", market, off)
    found = call("show", tmp_path / "off")
    assert found.exit_code == 3 and "its plan has an error of" in found.stderr
    call("clear", overloaded, "--out", tmp_path / "full")
    full = call("show", tmp_path / "full")
    assert full.exit_code == 4 and "infeasible: Grid.rating of line main" in full.stderr
    assert call("show", case).stderr.startswith(f"jaxgne: {case} holds no clearing")
