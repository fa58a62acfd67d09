"""Days cut from a long series, and sun and caps that move with the load."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxgne as jg
from jaxgne import scenarios
from jaxgne.clock import times

BERLIN = "Europe/Berlin"
YEAR = pd.date_range("2025-01-01", "2026-01-01", freq="h", inclusive="left", tz=BERLIN)
SPRING = pd.date_range("2025-03-29", "2025-04-01", freq="h", inclusive="left", tz=BERLIN)


def day(hours: int = 24, buffers: jg.Buffers | None = None, length: float = 1.0) -> jg.Market:
    """One consumer; the price of hour k is k cents."""
    price = 0.01 * length * np.arange(hours)
    return jg.Market(
        jg.Prosumers([0], [[1.0] * hours], [[0.2] * hours]),
        jg.Grid([[0.0] * hours], model="copperplate"),
        jg.Tariff(1e-3, hours=hours, base=price),
        buffers=buffers,
        hour_length=length,
    )


def roof(share: float, feed_in: bool = True, curtail: bool = True, **more: Any) -> jg.Market:
    """Two prosumers, panels at the first: 5 kW at noon times `share`; 1 and 2 kW of load."""
    gross = np.array([[1.0] * 6, [2.0] * 6])
    sun = share * np.array([0, 2.0, 5, 5, 2, 0])
    people = jg.devices.photovoltaic(
        jg.Prosumers([0, 0], gross, 0.1 * gross, **more),
        *([0],), generation=sun, feed_in=feed_in, curtail=curtail,
    )  # fmt: skip
    return jg.Market(
        people, jg.Grid([[0.0] * 6], model="copperplate"), jg.Tariff(1e-3, hours=6, base=0.3)
    )


SUN = np.array([[0, 2.0, 5, 5, 2, 0], [0.0] * 6])  # of `roof(1.0)`


def test_a_year_of_local_days_has_the_evening_in_the_evening():
    """A load at 19 o'clock is there in all 365 days, step 18 of the short day, 20 of the long."""
    load = np.array([[float(at.hour == 19) for at in YEAR]])
    short, usual, long = scenarios.days_by_length(day(), load, times=YEAR)
    for batch, hours, many, peak in ((short, 23, 1, 18), (usual, 24, 363, 19), (long, 25, 1, 20)):
        assert batch.prosumers.load.shape == (many, 1, hours)
        assert set(np.argmax(batch.prosumers.load[:, 0], axis=1)) == {peak}
        for k in (0, many - 1):
            assert times(scenarios.lane(batch, k))[peak].hour == 19
    assert np.allclose(short.tariff.base[0], 0.01 * np.delete(np.arange(24), 2))
    assert np.allclose(long.tariff.base[0], 0.01 * np.insert(np.arange(24), 2, 2))
    skipped = scenarios.days(day(), load, times=jg.Clock("2025-01-01", BERLIN), skip_uneven=True)
    assert np.array_equal(skipped.prosumers.load, usual.prosumers.load)
    assert np.array_equal(_starts(skipped), _starts(usual))
    with pytest.raises(ValueError, match="2025-03-30 has 23 steps, 2025-10-26 has 25 steps, the m"):
        scenarios.days(day(), load, times=YEAR)
    with pytest.warns(UserWarning, match="cut every 24, though in most zones days of 23 and 25"):
        scenarios.days(day(), load)


def _starts(days: jg.Market) -> Any:
    assert days.clock is not None
    return days.clock.start


def test_quarter_hours_of_the_day_on_which_clocks_change():
    """92 steps, of which none is between 2 and 3; base is that of the clock."""
    index = SPRING[24:47]
    index = pd.date_range(index[0], index[-1] + pd.Timedelta("45min"), freq="15min")
    (batch,) = scenarios.days_by_length(day(96, length=0.25), np.ones((1, 92)), times=index)
    market = scenarios.lane(batch, 0)
    wall = [at.hour + at.minute / 60 for at in times(market)]
    assert market.prosumers.load.shape == (1, 92)
    assert np.allclose(market.tariff.base, 0.01 * np.array(wall))


def test_days_may_begin_in_the_morning_and_last_a_week():
    """From 6:00 to 6:00, and two weeks of 168 hours of which the second has 167."""
    index = pd.date_range("2025-03-28 06:00", periods=3 * 24 - 1, freq="h", tz=BERLIN)
    short, usual = scenarios.days_by_length(day(), np.ones((1, 71)), times=index)
    assert usual.prosumers.load.shape == (2, 1, 24)
    assert times(scenarios.lane(short, 0))[0].hour == 6
    assert np.allclose(short.tariff.base[0], 0.01 * np.delete(np.arange(24), 20))
    fortnight = pd.date_range("2025-03-17", periods=335, freq="h", tz=BERLIN)
    weeks = scenarios.days_by_length(day(168), np.ones((1, 335)), times=fortnight)
    assert [w.prosumers.load.shape for w in weeks] == [(1, 1, 167), (1, 1, 168)]


def test_what_a_buffer_must_do_in_a_skipped_hour_it_does_before():
    """A car due at 3:00 with 40 kWh and home again at 3:00 next time: the short day keeps both.

    Its trip of 6 kWh ends within the hour from 2 to 3, which there is not in March, and is twice in
    October: 6 kWh are used either way, and 40 kWh are there before it.
    """
    hours = np.arange(24)
    power, floor, trip = (np.where(hours == 2, a, b)[None] for a, b in ((0, 11), (40, 5), (6, 0)))
    car = jg.Buffers([0], power, 0.0, 60.0, 30.0, hours=24, energy_min=floor, drain=trip)
    autumn = pd.date_range("2025-10-26", periods=25, freq="h", tz=BERLIN)
    for index, at in ((SPRING[24:47], 1), (autumn, 2)):
        (found,) = scenarios.days_by_length(day(24, car), np.ones((1, len(index))), times=index)
        stores = found.buffers
        assert np.flatnonzero(stores.drain[0, 0]).tolist() == [at]
        assert stores.drain.sum() == 6.0
        assert stores.energy_min[0, 0, at] == 40.0


@pytest.mark.parametrize(
    ("index", "steps", "words"),
    [
        (pd.date_range("2025-01-01", periods=48, freq="h"), 48, "no offset and no zone"),
        (YEAR[:47], 48, "times has 47 entries, load 48"),
        (YEAR[:96:2], 48, r"times\[1\] is 2025-01-01 02:00:00\+01:00, where a step of 1 h"),
        (YEAR[3:50], 47, "the last day, from 2025-01-02 03:00 on, has 23 of its 24 steps"),
        ([pd.Timestamp(t.isoformat()) for t in SPRING[:47]], 47, "not in the zone .01:00 of the"),
    ],
)
def test_times_that_are_no_steps_of_the_market_are_refused(index: Any, steps: int, words: str):
    with pytest.raises(ValueError, match=words):
        scenarios.days(day(), np.ones((1, steps)), times=index)


def test_the_markets_own_clock_cuts_its_series():
    """From 29 March on: the second of three days is short; 23 hours are no day to take from."""
    market = replace(day(), clock=jg.Clock("2025-03-29", BERLIN))
    two = scenarios.days(market, np.ones((1, 71)), skip_uneven=True)
    assert [str(scenarios.lane(two, k).clock)[:10] for k in (0, 1)] == ["2025-03-29", "2025-03-31"]
    with pytest.raises(ValueError, match="the market has 23 hours; give one of 24"):
        scenarios.days(day(23), np.ones((1, 71)), times=SPRING)


def test_a_cloudy_day_curtails_no_more_than_its_sun():
    """Load, sun, caps and reactive power of each day are those of a market made for that day."""
    gross = np.array([[1.0] * 12, [2.0] * 12])
    sun = np.concatenate([SUN, 0.1 * SUN], axis=1)
    both = scenarios.days(roof(1.0), gross, generation=sun)
    for k, share in enumerate((1.0, 0.1)):
        alone, found = roof(share), scenarios.lane(both, k)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            assert np.allclose(one, other)
    with pytest.raises(ValueError, match="curtail_max of prosumer 0 is the sun of the"):
        scenarios.days(roof(1.0), gross - sun)
    kept = scenarios.days(roof(1.0), gross - sun, curtail_max=sun, export_max=sun, reactive=0.0)
    assert np.array_equal(kept.prosumers.curtail_max, both.prosumers.curtail_max)
    with pytest.raises(ValueError, match="with generation=, load is gross"):
        scenarios.days(roof(1.0), gross - sun, generation=sun)
    with pytest.raises(ValueError, match="reactive of row 0 does not follow from the new load"):
        scenarios.days(roof(1.0), gross - sun, curtail_max=sun, export_max=sun)


def test_other_series_of_a_day_are_given_by_name():
    """Prices, passive loads at their power factor, and one cap a prosumer."""
    grid = jg.Grid([[2.0] * 24], passive_reactive=0.5, model="copperplate")
    market = replace(day(), grid=grid)
    load = np.ones((1, 48))
    two = scenarios.days(market, load, passive=2 * load, base=np.arange(48.0), import_max=[[7.0]])
    assert np.allclose(two.grid.passive_reactive, 0.5)
    assert np.array_equal(two.tariff.base[1], np.arange(24.0) + 24)
    assert np.all(two.prosumers.import_max == 7.0)
    assert np.allclose(two.prosumers.reactive, 0.2)
    with pytest.raises(ValueError, match=r"export has shape \(47,\); give shape \(48,\)"):
        scenarios.days(market, load, export=np.ones(47))
    with pytest.raises(ValueError, match=r"load has shape \(48,\); give \(1, steps\)"):
        scenarios.days(market, np.ones(48))
    with pytest.raises(TypeError, match="no argument 'sun'"):
        scenarios.days_by_length(market, load, sun=load)


def test_caps_below_a_new_load_are_refused_or_given():
    """30 kW of load and 10 kW of import_max, where the old load of 1 kW had room."""
    market = replace(day(), prosumers=jg.Prosumers([0], [[1.0] * 24], import_max=10.0))
    load = np.concatenate([np.ones((1, 24)), np.full((1, 24), 30.0)], axis=1)
    with pytest.raises(ValueError, match=r"import_max of prosumer 0 .* 1 of 2 scenarios \(first 1"):
        scenarios.days(market, load)
    kept = scenarios.days(market, load, import_max=market.prosumers.import_max[:, :1])
    assert np.all(kept.prosumers.import_max == 10.0)
    surplus = np.concatenate([np.ones((1, 24)), np.full((1, 24), -3.0)], axis=1)
    with pytest.raises(ValueError, match="export_max of prosumer 0 is too low for its load of -3"):
        scenarios.days(market, surplus)


def test_perturbed_sun_moves_load_and_caps_together():
    """net = gross - sun f, curtail_max = sun f, export_max = sun f + 3 kW of a generator's."""
    market = roof(1.0)
    export = market.prosumers.export_max.at[0].add(3.0)
    market = replace(market, prosumers=replace(market.prosumers, export_max=export))
    many = scenarios.perturb(market, jax.random.key(0), 50, renewable=0.5).prosumers
    gross = np.array([[1.0] * 6, [2.0] * 6])
    sun = gross - many.load
    assert sun[:, 0, 2].std() > 1.0
    assert np.allclose(sun[:, 1], 0.0)
    assert np.allclose(many.curtail_max, sun)
    assert np.allclose(many.export_max[:, 0], sun[:, 0] + 3.0)
    assert np.all(many.export_max[:, 1] == 0.0)
    assert np.allclose(many.reactive, market.prosumers.reactive)


def test_a_perturbed_plant_may_sell_what_it_makes():
    """10 kW of sun and nothing else, all of it sold: both vary by the same factor."""
    plant = jg.Market(
        jg.Prosumers([0], [[-10.0, -5.0]], export_max=[[10.0, 5.0]]),
        jg.Grid([[0.0] * 2], model="copperplate"),
        jg.Tariff(1e-3, hours=2, base=0.3),
    )
    many = scenarios.perturb(plant, jax.random.key(0), 20, load=0.2, renewable=0.5).prosumers
    assert np.allclose(many.load, -many.export_max)
    assert many.load[:, 0, 0].std() > 2.0
    wired = replace(
        plant, prosumers=replace(plant.prosumers, export_max=0 * plant.prosumers.load + 11)
    )
    with pytest.raises(ValueError, match="export_max of prosumer 0 is too low for its load of -"):
        scenarios.perturb(wired, jax.random.key(0), 20, renewable=0.5)
    cut = scenarios.perturb(wired, jax.random.key(0), 20, renewable=0.5, curtail_max=99.0)
    assert np.all(cut.prosumers.export_max == 11.0)


def test_sun_that_a_market_does_not_tell_must_be_given():
    """Used at home and not curtailable: unknown, whether there is a surplus or not."""
    key = jax.random.key(0)
    for share in (1.0, 0.1):
        market = roof(share, feed_in=False, curtail=False)
        with pytest.raises(ValueError, match="give generation="):
            scenarios.perturb(market, key, 2, renewable=0.3)
        sun = share * SUN
        many = scenarios.perturb(
            market, key, 20, renewable=0.3, generation=sun, export_max=np.inf
        ).prosumers
        made = market.prosumers.load + sun - many.load
        assert made[:, 0, 2].std() > 0.2 * share
        assert np.all(many.curtail_max == 0.0)
    hidden = roof(1.0, feed_in=False, curtail=False)
    with pytest.raises(ValueError, match=r"load of -1 kW in hour 1 and a curtail_max of 0 kW, so"):
        scenarios.perturb(hidden, key, 2, load=0.3, renewable=0.3)
    moved = scenarios.perturb(hidden, key, 20, load=0.3).prosumers.load[:, 0].std(axis=0)
    assert np.all(moved[1:5] == 0) and np.all(moved[[0, 5]] > 0.1)  # a surplus is all sun
    small = roof(0.1, curtail=False)
    with pytest.raises(ValueError, match="export_max of prosumer 0 varies by hour"):
        scenarios.perturb(small, key, 2, renewable=0.3, generation=0.05 * SUN)
    with pytest.raises(ValueError, match="generation is negative somewhere"):
        scenarios.perturb(roof(1.0), key, 2, renewable=0.3, generation=-SUN)
