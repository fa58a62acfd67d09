"""One page about a market: what is wrong, far from usual, out of reach, and scarce."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io
from jaxgne.checking import check
from tests.folders import feeder


def plain(**changes: Any) -> jg.Market:
    """Two houses of 3 and 2 kW behind a line of 20 kVA, a battery, one trade, a day in 6 steps."""
    grid = {"rating": 20.0, "resistance": 1e-4, "reactance": 5e-5, "names": ("grid", "mill")}
    shape = np.array([0.2, 0.5, 1.0, 0.6, 0.8, 0.3])
    given: dict[str, Any] = {"load": 1.0, "base": 0.3, **grid, **changes}
    return jg.Market(
        jg.Prosumers((1, 1), given["load"] * np.array([[3.0], [2.0]]) * shape, 0.1),
        jg.Grid(
            np.zeros((2, 6)), (0,), (1,), given["resistance"], given["reactance"],
            rating=given["rating"], names=given["names"], line_names=("cable",),
        ),
        jg.Tariff(1e-3, hours=6, base=given["base"], export=0.05),
        buffers=jg.devices.battery(0, power=1.0, capacity=4.0, hours=6, final=0.5),
        trading=jg.Trading((0,), (1,), 2.0, toll=0.01),
        hour_length=4.0,
        clock=jg.Clock("2026-01-20", "UTC"),
    )  # fmt: skip


def test_figures_are_in_units_that_people_know():
    """3 and 2 kW at a mean of 3.4 / 6 of that are 40.8 and 27.2 kWh a day; 4 kWh fill in 4 h."""
    found = {one.name: one for one in check(plain(), cleared=False).figures}
    energy = found["energy of a customer"]
    assert (energy.least, energy.most) == pytest.approx((27.2, 40.8))
    assert str(energy) == "27.2 to 40.8 kWh a day, half below 34"
    assert str(found["peak of a customer"]) == "2 to 3 kW, half below 2.5"
    assert found["hours to fill a buffer"].middle == pytest.approx(4)
    assert found["r/x of lines"].middle == pytest.approx(2)
    assert found["lines with loads alone"].most == pytest.approx(25, rel=0.01)
    assert found["voltage with loads alone"].least == pytest.approx(0.99947, abs=2e-5)


def test_the_sun_of_an_owner_counts_to_what_it_draws():
    """A net load of -2 kW beside 5 kW of sun is a customer of 3 kW."""
    market = plain()
    sun = eqx.tree_at(
        lambda m: (m.prosumers.load, m.prosumers.curtail_max),
        market,
        (jnp.full((2, 6), -2.0), jnp.full((2, 6), 5.0)),
    )
    found = {one.name: one for one in check(sun, cleared=False).figures}
    assert found["peak of a customer"].most == pytest.approx(3)
    assert found["generation of an owner"].most == pytest.approx(5)


SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "MW": ({"load": 1e-3}, "peak of a customer: 0.002 to 0.003 kW"),
    "W": ({"load": 1e4, "rating": 1e6}, "are loads in kW, not MW or W?"),
    "cents": ({"base": 3.0}, "price of the main grid: 3 EUR/kWh"),
    "r for x": ({"resistance": 1e-6, "reactance": 1e-4}, "are resistance and reactance exchanged"),
    "A": ({"rating": 1e6}, "are ratings in kVA, impedances in pu/kW?"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_numbers_in_another_unit_are_doubtful(name: str):
    changes, sentence = SPOILED[name]
    assert not check(plain(), cleared=False).doubtful
    assert any(sentence in doubt for doubt in check(plain(**changes), cleared=False).doubtful)


def test_what_binds_is_named_with_its_times():
    """A cable of 4.5 kVA is full where 5 kW are drawn less what the battery gives, at 08:00."""
    found = check(plain(rating=4.5))
    assert found.status == "cleared"
    (line,) = found.binds
    assert (line.limit, line.place, line.hours) == ("rating", "line cable", 4.0)
    assert line.when == ("2026-01-20 08:00",)
    assert "rating of line cable, 4 h: 2026-01-20 08:00" in str(found)
    assert not check(plain()).binds


def test_the_total_and_voltages_bind_too():
    market = plain()
    total = eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.full(6, 4.5))
    assert [str(one) for one in check(total).binds] == [
        "most exchange of the transformer, 4 h: 2026-01-20 08:00"
    ]
    least = float(jg.model.voltages(market, jg.clear(market).plan).min()) + 5e-5
    low = eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(2, least))
    (one, *_) = check(low).binds
    assert (one.limit, one.place) == ("lowest voltage", "bus mill")


def test_a_market_without_a_plan_says_why_and_what_would_do():
    found = check(plain(rating=2.0))
    assert found.status == "infeasible"
    assert "Grid.rating of line cable" in found.sentence
    assert any("Grid.rating" in line for line in found.relaxed)
    assert found.sentence in str(found) and not found.binds


def test_mistakes_are_told_all_at_once_and_nothing_else():
    market = plain()
    wrong = eqx.tree_at(
        lambda m: (m.prosumers.load, m.grid.rating),
        market,
        (market.prosumers.load.at[0, 0].set(jnp.nan), -market.grid.rating),
    )
    found = check(wrong)
    assert len(found.wrong) == 2 and not found.figures and not found.status
    assert found.wrong[0] in str(found)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["validate", *(str(word) for word in words)])


CODES: dict[str, tuple[Callable[[], jg.Market], int]] = {
    "clears": (plain, 0),
    "wrong": (lambda: eqx.tree_at(lambda m: m.grid.rating, feeder(), -jnp.ones(2)), 1),
    "infeasible": (lambda: plain(rating=2.0), 4),
}


@pytest.mark.parametrize("name", CODES)
def test_the_command_exits_by_what_it_finds(name: str, tmp_path: Path):
    make, code = CODES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        market = make()
    lacking = name == "wrong"
    io.save(tmp_path / "case", plain() if lacking else market)
    if lacking:
        table = tmp_path / "case" / "lines.csv"
        table.write_text(table.read_text().replace("20.0", "-20.0"))
    told = call(tmp_path / "case", "--json")
    assert told.exit_code == code, told.output
    facts = json.loads(told.stdout)
    assert bool(facts["wrong"]) == lacking
    page = call(tmp_path / "case")
    assert page.exit_code == code and page.stdout.startswith("Market\n")
    assert all(len(line) < 400 for line in page.stdout.splitlines())


def test_faults_of_files_come_in_one_answer(tmp_path: Path):
    io.save(tmp_path / "case", plain())
    (tmp_path / "case" / "lines.csv").write_text("line\n")
    (tmp_path / "case" / "pairs.csv").write_text("pair\n")
    told = call(tmp_path / "case")
    assert told.exit_code == 1
    assert "lines.csv" in told.stderr and "pairs.csv" in told.stderr
