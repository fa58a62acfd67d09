"""What is said of caps: out of reach, what must give way, reports, tables, and the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, frames, indicators, printed
from jaxgne.causes import explain_infeasible
from jaxgne.feasibility import infeasibility_proof
from jaxgne.record import changed
from tests.capped import capped_market

HOURS = 4


def lone(passive: float = 0.0, cars: bool = False) -> jg.Market:
    """6 kW for four hours, of which a generator makes up to 2; `cars` lack 8 kWh."""
    due = np.where(np.arange(HOURS) == HOURS - 1, 8.0, 0.0)
    return jg.Market(
        jg.Prosumers([0], [[6.0] * HOURS]),
        jg.Grid([[passive] * HOURS], model="copperplate"),
        jg.Tariff(0.01, hours=HOURS, base=0.2),
        generators=jg.devices.generator(0, power=2.0, hours=HOURS, linear=0.31),
        buffers=jg.Buffers([0], 11.0, 0.0, 8.0, 0.0, hours=HOURS, energy_min=due) if cars else None,
    )


# What is out of reach, the sentence, and by how much it must give way.
OUT_OF_REACH = {
    "carbon": (  # 16 kWh are bought at least, 6.4 kg
        lambda m: jg.caps.carbon(m, 5.0, grid=0.4),
        "cap 'carbon' in hour 3: 5 kg is out of reach of what it counts; raise Caps.level_max.",
        "raise Caps.level_max of cap 'carbon' in hour 3 by 1.4 kg: 1.4 EUR",
        {},
    ),
    "group": (  # 4 kW in each hour
        lambda m: jg.caps.group(m, 3.0),
        "cap 'group' in hours 0 to 3: 3 kW is out of reach of what it counts; raise",
        "raise Caps.level_max of cap 'group' in hours 0 to 3 by 1 kW: 4 EUR",
        {},
    ),
    "ramp": (  # from 10 kW at most 3 kW less an hour: 7, where 6 are used at most
        lambda m: jg.caps.ramp(m, 3.0, start=10.0),
        "cap 'ramp' in hour 0: -3 kW is out of reach of what it counts; lower Caps.rise_min.",
        "lower Caps.rise_min of cap 'ramp' in hour 0 by 1 kW: 1 EUR",
        {},
    ),
    "budget": (  # a car that lacks 8 kWh
        lambda m: jg.caps.budget(m, 6.0, of="charge", name="car"),
        "cap 'car' in hour 3: 6 kWh is out of reach of what it counts; raise Caps.level_max.",
        "raise Caps.level_max of cap 'car' in hour 3 by 2 kWh: 2 EUR",
        {"cars": True},
    ),
}


@pytest.mark.parametrize("kind", OUT_OF_REACH)
def test_a_cap_out_of_reach_is_named_and_gives_way(kind: str):
    """By any plan: the proof is checked by the market alone, and the relaxed market clears."""
    make, why, way, more = OUT_OF_REACH[kind]
    base = lone(**more)
    market = jg.capped(base, make(base))
    found = jg.clear(market, throw=False)
    assert found.status == jg.Status.infeasible
    assert float(infeasibility_proof(market, found.prices)) > 0
    assert explain_infeasible(market, found.prices).startswith(why)
    named = [name for name in jg.slack.LIMITS if name.startswith("Caps.")]
    relaxed = jg.relax(market, limits=named)
    assert relaxed.lines == (way,)
    assert bool(jg.clear(relaxed.market).ok)
    assert f"of cap {market.caps.names[0]!r}" in found.why()


def test_fewest_limits_and_prices_of_caps():
    """Of two caps that are each out of reach both give way; the price of a limit counts."""
    base = lone()
    market = jg.capped(base, jg.caps.carbon(base, 5.0, grid=0.4), jg.caps.group(base, 3.0))
    found = jg.relax(market, prices={"Caps.level_max": 3.0}, limits=["Caps.level_max"])
    assert float(found.cost) == pytest.approx(3.0 * (1.4 + 4.0), rel=1e-6)
    few = jg.relax(market, how="fewest", limits=["Caps.level_max"])
    assert {row.place for row in few.table} == {"cap 'carbon'", "cap 'group'"}
    assert [row.unit for row in few.table if row.place == "cap 'carbon'"] == ["kg"]


def test_caps_that_can_be_kept_prove_nothing():
    base = lone()
    market = jg.capped(base, jg.caps.carbon(base, 6.41, grid=0.4), jg.caps.group(base, 4.01))
    assert bool(jg.clear(market).ok)
    assert jg.relax(market).lines == ()


def test_reports_name_caps_that_bind():
    """Level, when, and what a unit costs; the others are counted."""
    base = lone()
    market = jg.capped(base, jg.caps.carbon(base, 7.2, grid=0.4), jg.caps.group(base, 50.0))
    found: Any = jg.clear(market, tol=1e-9)
    carbon, group = indicators.summary(market, found)["caps"]
    assert carbon["highest_level"] == {"level": pytest.approx(7.2), "hour": 3}
    assert carbon["binding_hours"] == [0, 1, 2, 3] and group["binding_hours"] == []
    # 18 kWh are bought, 4.5 kW at 0.2 + 0.01 x 4.5 and as much anticipated, the rest made for 0.31
    worth = (0.31 - (0.2 + 2 * 0.01 * 4.5)) / 0.4
    assert carbon["price_eur_per_unit"] == pytest.approx(worth, abs=1e-6)


def text(market: jg.Market, clearing: jg.Clearing) -> str:
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(printed.table(market, clearing), highlight=False)
    return " ".join(capture.get().split())


def test_tables_for_the_eye_and_for_pandas():
    market = capped_market()
    found: Any = jg.clear(market)
    words = text(market, found)
    assert "Caps carbon up to 132.1 kg in hour 5, 6 h with a price of up to 2.02" in words
    assert "EUR per kg" in words and "3 without a price" in words
    table = frames.caps(market, found)
    wide = table.pivot(index="cap", columns="hour", values="level").to_numpy()
    np.testing.assert_array_equal(wide, found.plan.level)
    assert table.groupby("name").unit.first()["carbon"] == "kg"
    paid, hours = frames.bills(market, found), frames.hours(market, found)
    received = (
        hours.sales_eur
        + hours.receipts_eur
        + hours.levies_eur
        - hours.passive_caps_eur
        - hours.passive_carbon_eur
    )
    assert paid.total_eur.sum() == pytest.approx(float(received.sum()), abs=1e-9)
    assert len(frames.caps(lone(), jg.clear(lone()))) == 0


def test_a_market_describes_its_caps():
    said = str(capped_market())
    assert "caps        carbon at most 132 kg; group at most 21.8 kW; ramp;" in said
    assert said.endswith("2 more")
    assert "caps" not in str(lone())


def test_a_folder_with_caps_is_cleared_by_the_command(tmp_path: Path):
    market = capped_market()
    jg.save(tmp_path / "day", market)
    run = CliRunner().invoke(
        cli.app, ["clear", str(tmp_path / "day"), "--json", "--out", str(tmp_path / "run")]
    )
    assert run.exit_code == 0, run.output
    told = {cap["name"]: cap for cap in json.loads(run.stdout)["caps"]}
    assert told["carbon"]["price_eur_per_unit"] > 1.0
    again, answer = jg.load(tmp_path / "run")
    assert answer is not None and bool(answer.ok) and again.caps.names == market.caps.names
    tight = changed(market.caps, level_max=0.5 * market.caps.level_max)
    jg.save(tmp_path / "tight", changed(market, caps=tight))
    failed = CliRunner().invoke(cli.app, ["clear", str(tmp_path / "tight"), "--explain"])
    assert failed.exit_code != 0
    assert "Caps.level_max of cap 'carbon'" in " ".join((failed.stdout + failed.stderr).split())
