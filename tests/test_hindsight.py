"""A simulation afterwards: its days, beside foresight and no trading, and on the shell."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, hindsight, live
from jaxgne.simulation import SimulationProgress
from tests.simulated import STEPS, village

OPTIONS: Any = {"window": 4, "step": 3, "runner": "numpy"}


def test_days_are_what_was_done():
    """Two and a half days are two, each beginning with what the one before left."""
    truth = jg.windows.window(village(3), 0, np.ones(2 * STEPS + 3, int))
    found = jg.simulate(truth, **OPTIONS)
    markets, clearings = hindsight.days(found)
    assert markets.prosumers.load.shape == (2, 3, STEPS)
    np.testing.assert_array_equal(clearings.plan.imports[1], found.plan.imports[:, 6:12])
    np.testing.assert_allclose(markets.buffers.energy_start[1], found.plan.energy[:, 5])
    bills = jg.settle(markets, clearings)
    own = np.asarray(found.bills().prosumers)[:, : 2 * STEPS].sum()
    assert float(np.sum(bills.prosumers)) == pytest.approx(own, rel=1e-9)
    assert float(np.max(clearings.certificate.residuals.infeasibility)) < 1e-6


def test_beside_foresight_and_no_trading(tmp_path: Path):
    """Each in its own folder, to one tolerance; foresight costs no more than no trading."""
    found = hindsight.beside(village(2), **OPTIONS, out=tmp_path / "runs", tol=1e-8)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"simulation", "no-trading"}
    assert float(found["perfect foresight"][1].certificate.error) <= 1e-8
    told = jg.compare(found)
    social = {name: float(one.social) for name, one in told.outcomes.items()}
    assert set(social) == {"simulation", "no trading", "perfect foresight"}
    assert (
        float(told.outcomes["no trading"].traded) == 0 < float(told.outcomes["simulation"].traded)
    )
    assert social["perfect foresight"] <= social["no trading"]


def test_all_of_it_is_one_dataset():
    """Plan, prices and what was not as planned, by step; windows by their number."""
    guess = jg.forecasts.noisy(0.2, 0.2)
    found = jg.simulate(village(1), forecast=guess, **OPTIONS)
    told = found.to_xarray()
    assert told.sizes["step"] == STEPS and told.sizes["window"] == 2
    np.testing.assert_array_equal(told["imbalance"], found.imbalance)
    assert told["imbalance"].attrs["units"] == "kW" and "step" in told["overload"].dims


def test_less_than_a_day_has_no_days():
    found = jg.simulate(jg.windows.window(village(1), 0, np.ones(4, int)), **OPTIONS)
    with pytest.raises(ValueError, match="less than a day"):
        hindsight.days(found)


def test_what_is_left_is_told():
    line = live.LiveSimulation(100)
    for done, seconds in ((41, 0.5), (42, 1.0), (46, 3.0)):  # 40 are of a folder
        line(SimulationProgress(done, 100, seconds))
    assert line.text == "46 of 100 windows, 2.0/s, 27 s left"


def test_the_shell_simulates_and_shows(tmp_path: Path):
    """A folder that `show` reads, the same call that goes on, another that is refused."""

    def call(*words: object):
        return CliRunner().invoke(cli.app, [str(word) for word in words])

    words = ("simulate", "synthetic", "--prosumers", 3, "--buses", 3, "--hours", 24, "--step", 6)
    words += ("--days", 2, "--window", "2x1+2x2", "--every", 2, "--forecast", "persistence")
    first = call(*words, "--out", tmp_path / "run", "--json")
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts["kind"] == "simulation" and facts["windows"] == 4 and facts["why"] == ""
    assert json.loads(call("show", tmp_path / "run", "--json").stdout) == facts
    assert "8 of 8 steps" in call(*words, "--out", tmp_path / "run").stdout
    page = tmp_path / "run.html"
    assert call("report", tmp_path / "run", "--no-baseline", "--out", page).exit_code == 0
    said = page.read_text()
    assert "Simulation of 8 of 8 steps in 4 windows" in said and "By hour, over 2 days" in said
    assert "scenarios" not in said.partition("Licence")[0].partition("<script")[0]
    other = call(*words, "--elastic", "--out", tmp_path / "run")
    assert other.exit_code == 1 and "another simulation" in other.stderr
    assert call(*words[:-5], "--window", "x").exit_code in (1, 2)
