"""Markets that know when they begin: zones, days of 23 and 25 hours, what steps are called."""

import datetime as dt
import zoneinfo
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxgne as jg
from jaxgne import scenarios
from jaxgne.clock import hour_name, in_hour, times

BERLIN = "Europe/Berlin"
SPRING, AUTUMN = dt.date(2025, 3, 30), dt.date(2025, 10, 26)


def flat(hours: int = 24, clock: jg.Clock | None = None, length: float = 1.0) -> jg.Market:
    """One consumer of 1 kW, who buys of the main grid at 0.2 EUR/kWh and a slope."""
    return jg.Market(
        jg.Prosumers([0], [[1.0] * hours], import_max=30.0),
        jg.Grid([[0.0] * hours], model="copperplate"),
        jg.Tariff(1e-3, hours=hours, base=0.2),
        hour_length=length,
        clock=clock,
    )


@pytest.mark.parametrize(
    ("start", "zone"),
    [
        ("2025-03-30T00:00", BERLIN),
        ("2025-03-30", BERLIN),
        ("2025-03-30T00:00+01:00", BERLIN),
        ("2025-03-29T23:00Z", BERLIN),
        (SPRING, BERLIN),
        (dt.datetime(2025, 3, 30), BERLIN),
        (dt.datetime(2025, 3, 30, tzinfo=zoneinfo.ZoneInfo(BERLIN)), None),
        (pd.Timestamp("2025-03-30", tz=BERLIN), None),
        (pd.Timestamp("2025-03-30"), BERLIN),
        (np.datetime64("2025-03-30"), BERLIN),
        (np.int32(29054820), BERLIN),
    ],
)
def test_a_start_is_a_moment_however_it_is_written(start: Any, zone: str | None):
    """Midnight in Berlin on 30 March 2025 is 23:00 UTC the day before: 20176 days and 23 hours."""
    clock = jg.Clock(start, zone)
    assert int(clock.start) == (20176 * 24 + 23) * 60
    assert clock.start.dtype == jnp.int32
    assert clock.zone == BERLIN
    assert str(clock) == "2025-03-30 00:00 Europe/Berlin"


def test_offsets_are_zones_of_their_own():
    assert jg.Clock("2025-07-01T00:00Z").zone == "UTC"
    fixed = jg.Clock("2025-07-01T00:00-03:30")
    assert str(fixed) == "2025-07-01 00:00 -03:30"
    assert jg.Clock(fixed.iso()).start == fixed.start


@pytest.mark.parametrize(
    ("start", "zone", "words"),
    [
        ("2025-03-30T02:30", BERLIN, "does not exist in Europe/Berlin"),
        ("2025-10-26T02:30", BERLIN, r"comes twice .* 2025-10-26T02:30:00\+02:00 or 2025-10-26T02"),
        ("2025-10-26T02:30", None, "no offset and no zone"),
        ("30.3.2025", BERLIN, "is no ISO time"),
        ("2025-01-01", "Berlin", "zone 'Berlin' is not known"),
        ("2025-01-01", "Europe", "zone 'Europe' is not known"),
        ("2025-01-01", ["UTC"], "is not known"),
        (pd.NaT, "UTC", "is no time"),
        (None, "UTC", "is no time"),
        ("9999-12-31", "UTC", "years 1800 to 2200"),
        ("2025-01-01T00:00:30", "UTC", "no whole minute"),
        (np.int32(5), None, "minutes need a zone"),
    ],
)
def test_what_is_no_moment_is_refused(start: Any, zone: Any, words: str):
    with pytest.raises(ValueError, match=words):
        jg.Clock(start, zone)


def test_a_time_that_comes_twice_may_be_told_apart():
    """02:30 summer time is half past midnight UTC, 02:30 winter time an hour later."""
    first, second = (jg.Clock(f"2025-10-26T02:30+0{k}:00", BERLIN) for k in (2, 1))
    assert int(second.start) - int(first.start) == 60
    assert str(first) == "2025-10-26 02:30 CEST Europe/Berlin"
    assert str(second) == "2025-10-26 02:30 CET Europe/Berlin"


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25)])
def test_days_of_23_and_25_hours_end_at_midnight(day: dt.date, hours: int):
    """The index is pandas' own of that local day, with and without quarter hours."""
    for length in (1.0, 0.25):
        clock = jg.Clock(day, BERLIN)
        market = flat(round(hours / length), clock, length)
        index = pd.date_range(
            day, periods=round(hours / length), freq=f"{60 * length:g}min", tz=BERLIN
        )
        assert list(pd.DatetimeIndex(times(market))) == list(index)
        assert times(market)[-1].date() == day
        after = clock.after(hours)
        assert (after.hour, after.date()) == (0, day + dt.timedelta(days=1))


def test_steps_have_names_for_people():
    """Step 73 of quarter hours begins at 18:15, and is hour 18.25 where there is no clock."""
    assert hour_name(flat(), 19) == "hour 19"
    assert hour_name(flat(96, length=0.25), 73) == "hour 18.25"
    assert hour_name(flat(144, length=1 / 6), 1) == "hour 0.1667"
    market = flat(96, jg.Clock("2025-01-01", BERLIN), 0.25)
    assert hour_name(market, 73) == "2025-01-01 18:15"
    assert in_hour(market, 73) == "at 2025-01-01 18:15"
    assert in_hour(flat(), 19) == "in hour 19"
    autumn = flat(25, jg.Clock(AUTUMN, BERLIN))
    assert [hour_name(autumn, k)[11:] for k in (1, 2, 3, 4)] == [
        *("01:00", "02:00 CEST", "02:00 CET", "03:00"),
    ]


def test_times_needs_one_market_with_a_clock():
    with pytest.raises(ValueError, match="has no clock"):
        times(flat())
    days = scenarios.stack([flat(clock=jg.Clock("2025-01-01", BERLIN))] * 2)
    with pytest.raises(ValueError, match="this is a batch"):
        times(days)
    assert times(scenarios.lane(days, 1))[0].isoformat() == "2025-01-01T00:00:00+01:00"


def test_validate_looks_at_clocks():
    """A start in fractions, one out of this world, and a batch are told apart."""
    market = flat(2, jg.Clock("2025-01-01", BERLIN))
    assert jg.validate(market) is market
    wrong = eqx.tree_at(lambda m: m.clock.start, market, jnp.asarray(1.5))
    with pytest.raises(ValueError, match=r"Clock\.start: float64 instead of an array of integers"):
        jg.validate(wrong)
    wrong = eqx.tree_at(lambda m: m.clock.start, market, jnp.asarray(2**31 - 1, jnp.int32))
    with pytest.raises(ValueError, match="no year from 1800 to 2200"):
        jg.validate(wrong)
    assert "from 2025-01-01 00:00 Europe/Berlin" in str(market)
    assert "Clock.start" in str(scenarios.stack([market, market]))


def test_stack_refuses_markets_in_different_zones():
    here, there = (flat(2, jg.Clock("2025-01-01", zone)) for zone in (BERLIN, "UTC"))
    with pytest.raises(ValueError, match="market 1 has time zone 'UTC', market 0 'Europe/Berlin'"):
        scenarios.stack([here, there])
    with pytest.raises(ValueError, match="market 1 has time zone None"):
        scenarios.stack([here, flat(2)])


@pytest.fixture(scope="module")
def spring() -> tuple[jg.Market, jg.Clearing]:
    """The hours from 1:00 on of the day that has no 2:00."""
    market = flat(3, jg.Clock("2025-03-30T01:00", BERLIN))
    return market, jg.clear(market)


def test_a_clock_changes_no_plan_and_words_only(spring):
    clearing = spring[1]
    plain = jg.clear(flat(3))
    assert np.array_equal(plain.plan.imports, clearing.plan.imports)
    assert np.array_equal(plain.prices.balance, clearing.prices.balance)
    late = replace(clearing.certificate, residuals=_violated(clearing, 2))
    assert late.worst().endswith("2025-03-30 04:00")
    late = replace(plain.certificate, residuals=_violated(plain, 2))
    assert late.worst().endswith("own balance of prosumer 0, hour 2")


def _violated(clearing: jg.Clearing, step: int) -> Any:
    """Residuals as if the balance were off by 1 kW in one step."""
    found = clearing.certificate.residuals
    rows = replace(found.rows, balance=jnp.asarray(1.0))
    return replace(found, rows=rows, row_places=replace(found.row_places, balance=step))


def test_infeasible_markets_say_when():
    market = flat(8, jg.Clock("2025-03-30T01:00", BERLIN), 0.25)
    load = market.prosumers.load.at[0, 5].set(31.0)
    market = eqx.tree_at(lambda m: m.prosumers.load, market, load)
    with pytest.raises(jg.NotCleared, match="Prosumers row 0 at 2025-03-30 03:15: its load"):
        jg.clear(market)
    with pytest.raises(jg.NotCleared, match=r"Prosumers row 0 in hour 1\.25: its load"):
        jg.clear(replace(market, clock=None))


def test_folders_keep_the_clock(spring, tmp_path):
    """Bit by bit: start and zone of the market, and what the certificate calls its steps."""
    market, clearing = spring
    jg.save(tmp_path / "day", market, clearing)
    head = (tmp_path / "day" / "market.json").read_text(encoding="utf-8")
    assert '"start": "2025-03-30T01:00:00+01:00"' in head
    loaded, found = jg.load(tmp_path / "day")
    assert eqx.tree_equal(loaded, market)
    assert found is not None
    assert str(found.certificate) == str(clearing.certificate)
    edited = head.replace("01:00:00+01:00", "02:30:00")
    (tmp_path / "day" / "market.json").write_text(edited, encoding="utf-8")
    with pytest.raises(ValueError, match="2025-03-30T02:30:00 does not exist"):
        jg.load(tmp_path / "day")


def test_days_at_other_times_share_a_program(spring):
    """Clocks batch: each scenario has its day, derivatives and vmap pass by the whole minutes."""
    market, clearing = spring
    starts = [jg.Clock(f"2025-{month}-30T01:00", BERLIN) for month in ("01", "03")]
    days = scenarios.stack([replace(market, clock=clock) for clock in starts])
    many = jg.clear_many(days)
    assert np.all(many.ok)
    assert np.allclose(many.plan.imports, clearing.plan.imports, atol=1e-9)
    winter = scenarios.lane(many.certificate, 0)
    assert hour_name(winter, 2) == "2025-01-30 03:00"
    assert hour_name(scenarios.lane(many.certificate, 1), 2) == "2025-03-30 04:00"
    mapped = jax.vmap(lambda m: jg.clear(m).costs)(jax.tree.map(jnp.asarray, days))
    assert np.allclose(mapped, many.costs, atol=1e-9)
    slopes = eqx.filter_grad(lambda m: jnp.sum(jg.clear(m).costs))(market)
    assert np.allclose(slopes.tariff.base, 1.0, atol=1e-6)
    assert slopes.clock.start is None
    traces = []

    @eqx.filter_jit
    def load(market: jg.Market) -> jax.Array:
        traces.append(market.clock)
        return jnp.sum(market.prosumers.load)

    for clock in starts:
        load(replace(market, clock=clock))
    assert len(traces) == 1
