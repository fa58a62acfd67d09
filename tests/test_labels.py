"""What people read of a market whose steps are quarter hours on a clock: times, and hours else."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import matplotlib as mpl
import matplotlib.dates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import jaxgne as jg
from jaxgne import batch_report, frames, indicators, mechanisms, plots, printed, scenarios
from jaxgne.clock import hours_of, step_at

mpl.use("Agg")
BERLIN = "Europe/Berlin"
Cleared = tuple[jg.Market, jg.Clearing]


def autumn() -> jg.Market:
    """Two neighbors for ten quarter hours from 1:30 summer time on; the peak is at 2:30 again.

    2:30 winter time is two hours after 1:30 summer time.
    """
    load = np.ones((2, 10))
    load[0, 8] = 4.0
    return jg.Market(
        jg.Prosumers([1, 1], load, import_max=20.0),
        jg.Grid(0.1 * np.ones((2, 10)), [0], [1], 1e-6, 1e-6, rating=100.0),
        jg.Tariff(1e-3, hours=10, base=0.2),
        trading=jg.Trading([0], [1], 3.0, toll=0.01),
        hour_length=0.25,
        clock=jg.Clock("2025-10-26T01:30", BERLIN),
    )


@pytest.fixture(scope="module")
def cleared() -> Cleared:
    market = autumn()
    return market, jg.clear(market)


def text(market: jg.Market, clearing: jg.Clearing) -> str:
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(printed.table(market, clearing), highlight=False)
    return capture.get()


def test_tables_know_their_time(cleared: Cleared):
    """Hours since the start, and local times that pandas tells apart where they come twice."""
    found = frames.hours(*cleared)
    assert found.hour.tolist() == [0.25 * k for k in range(10)]
    expected = pd.date_range("2025-10-26 01:30", periods=10, freq="15min", tz=BERLIN)
    assert list(found.time) == list(expected)
    assert str(found.time.dtype).endswith("Europe/Berlin]")
    assert list(frames.prosumers(*cleared).time[:10]) == list(expected)
    market, clearing = cleared
    plain = frames.hours(replace(market, clock=None), clearing)
    assert "time" not in plain.columns
    whole = replace(market, clock=None, hour_length=np.asarray(1.0))
    assert hours_of(whole).tolist() == list(range(10))


def test_a_batch_of_days_has_the_times_of_each(cleared: Cleared):
    market, clearing = cleared
    clocks = [jg.Clock(f"2025-{day}T01:30", BERLIN) for day in ("10-26", "07-01")]
    days = scenarios.stack([replace(market, clock=clock) for clock in clocks])
    many = jax.tree.map(lambda a: np.stack([a, a]), clearing)
    found = frames.hours(days, many)
    assert str(found.time[10]) == "2025-07-01 01:30:00+02:00"
    assert found.time[8] == pd.Timestamp("2025-10-26 02:30:00+01:00")


def test_reports_speak_of_times(cleared: Cleared):
    """The peak of 4 + 1 + 0.2 kW is in the second half past two."""
    facts = indicators.summary(*cleared)
    assert facts["hours"] == 2.5
    assert facts["contracted_peak"]["hour"] == 2.0
    assert facts["contracted_peak"]["time"] == "2025-10-26T02:30:00+01:00"
    assert facts["start"] == "2025-10-26T01:30:00+02:00"
    assert facts["by_hour"][2]["time"] == "2025-10-26T02:00:00+02:00"
    shown = text(*cleared)
    assert "5.2 kW at 2025-10-26 02:30 CET" in shown
    assert "2025-10-26 02:30 CEST" in shown.split("By hour")[1]
    assert "2.5 hours" in shown.splitlines()[0]
    assert max(map(len, shown.splitlines())) <= 100


def test_a_batch_trades_energy():
    """2 kW for 10 quarter hours: 5 kWh."""
    market = autumn()
    clearing = jg.clear(market)
    plan = replace(clearing.plan, trades=2.0 + 0 * clearing.plan.trades)
    many = jax.tree.map(lambda a: np.stack([a, a]), replace(clearing, plan=plan))
    days = scenarios.stack([market, market])
    spread = batch_report.batch_summary(days, many)["quantiles"]["traded_kwh"]
    assert spread["0.5"] == pytest.approx(5.0)


def test_a_step_is_found_by_hour_or_time(cleared: Cleared):
    market = cleared[0]
    assert step_at(market, 2.0) == step_at(market, "2025-10-26T02:30+01:00") == 8
    assert step_at(market, pd.Timestamp("2025-10-26 02:45+02:00")) == 5
    plain = replace(market, clock=None)
    for hour, words in ((2.1, "give one from hour 0 to hour 2.25"), (8, "no step begins then")):
        with pytest.raises(ValueError, match=words):
            step_at(plain, hour)
    with pytest.raises(ValueError, match="this market has no clock"):
        step_at(plain, "2025-10-26T03:00")


def test_mistakes_are_told_by_time(cleared: Cleared):
    market = cleared[0]
    load = market.prosumers.load.at[1, 9].set(np.nan)
    wrong = replace(market, prosumers=replace(market.prosumers, load=load))
    with pytest.raises(ValueError, match=r"Prosumers\.load row 1, 2025-10-26 02:45 CET: nan"):
        jg.validate(wrong)
    with pytest.raises(ValueError, match=r"Prosumers\.load row 1, hour 2\.25: nan"):
        jg.validate(replace(wrong, clock=None))


def test_tables_of_mechanisms_count_hours(cleared: Cleared):
    slopes = mechanisms.hourly_slopes(cleared[0])
    assert slopes["hour"].tolist() == [0.25 * k for k in range(10)]


def test_figures_have_local_times(cleared: Cleared):
    """Dates along the axis of time, in the market's zone; hours without a clock."""
    market, clearing = cleared
    for draw in (plots.prices, plots.energy, plots.voltages):
        ax: Any = draw(market, clearing)
        assert ax.get_xlabel() == "time (Europe/Berlin)"
        edges = pd.DatetimeIndex(matplotlib.dates.num2date(ax.patches[-1].get_data().edges))
        assert edges[0] == pd.Timestamp("2025-10-26 01:30", tz=BERLIN)
        assert edges[-1] == pd.Timestamp("2025-10-26 03:00+01:00")
        ax.figure.canvas.draw()
    plain = replace(market, clock=None)
    hours: Any = plots.prices(plain, clearing)
    assert hours.get_xlabel() == "time (h)"
    assert hours.patches[-1].get_data().edges[-1] == 2.5
    both = plots.sigma({"one": (market, clearing), "other": (plain, clearing)})
    assert both.get_xlabel() == "time (h)"
    one = plots.sigma({"one": (market, clearing)})
    assert one.get_xlabel() == "time (Europe/Berlin)"
    feeder = plots.feeder(market, clearing, hour="2025-10-26T02:30+01:00")
    assert feeder.get_title() == "Grid and trades at 2025-10-26 02:30 CET"
    assert plots.feeder(plain, clearing, hour=0.5).get_title() == "Grid and trades in hour 0.5"
    with pytest.raises(ValueError, match="no step begins then"):
        plots.feeder(plain, clearing, hour=9)
    zero = jax.tree.map(lambda a: np.zeros(np.shape(a)), market)
    slopes = eqx.tree_at(lambda m: m.tariff.base, zero, np.arange(10.0))
    for given, word in ((market, "hour 2025-10-26 02:45 CET"), (plain, "hour 2.25")):
        bars: Any = plots.sensitivities(slopes, market=given)
        assert word in bars.get_yticklabels()[0].get_text()
    plt.close("all")
