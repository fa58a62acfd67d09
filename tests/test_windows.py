"""Cars, heat pumps and shiftable loads in quarter hours, over days, and when clocks change."""

import datetime as dt
from typing import Any

import equinox as eqx
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.devices import battery, heat_pump, join, shiftable, vehicle

BERLIN = "Europe/Berlin"
CAR = {"power": 10.0, "capacity": 50.0, "arrival": 18, "departure": 7, "trip": 6.0, "start": 0.6}
RUN = {"energy": 3.0, "power": 2.0, "earliest": 9, "latest": 17}


def home(car: jg.Buffers) -> np.ndarray:
    return np.asarray(car.charge_max[0]) > 0


def market(stores: jg.Buffers, length: float, clock: jg.Clock | None = None) -> jg.Market:
    steps = stores.charge_max.shape[1]
    return jg.Market(
        jg.Prosumers([0], [[1.0] * steps]),
        jg.Grid([[0.0] * steps], model="copperplate"),
        jg.Tariff(1e-3, hours=steps, base=0.2),
        buffers=stores,
        hour_length=length,
        clock=clock,
    )


@pytest.mark.parametrize("length", [1.0, 0.5, 0.25])
def test_a_car_due_at_seven_leaves_at_seven_whatever_a_step_is(length: float):
    """Home before 7 and from 18 o'clock on, 40 kWh at 7, 6 kWh of driving before 18."""
    steps = round(24 / length)
    car = vehicle(0, **CAR, hours=steps, hour_length=length)
    hour = length * np.arange(steps)
    assert np.array_equal(home(car), (hour < 7) | (hour >= 18))
    due = np.flatnonzero(np.isclose(car.energy_min[0], 40.0))
    assert (length * (due + 1)).tolist() == [7.0]
    assert (length * (np.flatnonzero(car.drain[0]) + 1)).tolist() == [18.0]
    assert np.allclose(car.drain.sum(), 6.0)


@pytest.mark.parametrize("hour", ["7:15", "07:15:00", dt.time(7, 15), 7.25])
def test_hours_of_the_day_may_be_written_as_on_a_clock(hour: Any):
    car = vehicle(0, **{**CAR, "departure": hour}, hours=96, hour_length=0.25)
    assert np.flatnonzero(~home(car)).tolist() == list(range(29, 72))
    two = vehicle([0, 1], **{**CAR, "departure": [hour, 8]}, hours=96, hour_length=0.25)
    assert np.array_equal(two.charge_max[0], car.charge_max[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"departure": 7.1}, r"vehicle: departure=7\.1 is between two steps of 0\.25 h"),
        ({"arrival": 25}, "arrival=25: give an hour of the day from 0 to 24"),
        ({"arrival": "6 pm"}, "arrival='6 pm': give an hour of the day"),
        ({"arrival": True}, "arrival=True: give an hour of the day"),
        ({"arrival": [17, 18]}, "arrival: 2 hours for 1 devices"),
        ({"arrival": "7:00"}, "arrival=7:00 is departure too"),
        ({"hour_length": 0.0}, r"vehicle: hour_length=0: give a finite number above 0"),
    ],
)
def test_what_is_no_hour_of_the_day_is_refused(given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        vehicle(0, **{**CAR, "hour_length": 0.25, **given}, hours=96)


def test_windows_come_every_day():
    """Three days: the car leaves and is back thrice, and 3 kWh run by 17 o'clock of each."""
    hour = np.arange(72) % 24
    car = vehicle(0, **CAR, hours=72)
    assert np.array_equal(home(car), (hour < 7) | (hour >= 18))
    assert np.flatnonzero(np.isclose(car.energy_min[0], 40.0)).tolist() == [6, 30, 54]
    assert np.flatnonzero(car.drain[0]).tolist() == [17, 41, 65]
    run = shiftable(0, **RUN, hours=72)
    assert np.array_equal(home(run), (hour >= 9) & (hour < 17))
    assert run.energy_min[0, [15, 16, 39, 40, 63, 64]].tolist() == [0, 3, 3, 6, 6, 9]
    assert run.energy_max[0, [0, 32, 33, 56, 57, 71]].tolist() == [3, 3, 6, 6, 9, 9]
    single = shiftable(0, **{**RUN, "earliest": 33, "latest": 41}, hours=72, once=True)
    assert np.flatnonzero(home(single)).tolist() == list(range(33, 41))
    at_night = vehicle(0, **{**CAR, "arrival": 8, "departure": 16}, hours=48)
    assert np.flatnonzero(at_night.drain[0]).tolist() == [31]  # before the second return only


def test_a_car_that_never_leaves_is_due_at_the_end_only():
    car = vehicle(0, **{**CAR, "arrival": 0, "departure": 24}, hours=48)
    assert home(car).all()
    assert not car.drain.any()
    assert np.flatnonzero(np.isclose(car.energy_min[0], 40.0)).tolist() == [47]


@pytest.mark.parametrize(("day", "steps"), [("2025-03-30", 92), ("2025-10-26", 100)])
def test_days_on_which_clocks_change_keep_local_times(day: str, steps: int):
    """7:00 is 24 quarter hours after midnight in March and 32 in October, not 28; so are others."""
    clock = jg.Clock(day, BERLIN)
    car = vehicle(0, **CAR, hours=steps, hour_length=0.25, clock=clock)
    run = shiftable(0, **RUN, hours=steps, hour_length=0.25, clock=clock)
    wall = np.array([t.hour + t.minute / 60 for t in jg.clock.times(market(car, 0.25, clock))])
    assert np.array_equal(home(car), (wall < 7) | (wall >= 18))
    assert np.array_equal(home(run), (wall >= 9) & (wall < 17))
    shift = (steps - 96) // 1
    assert np.flatnonzero(np.isclose(car.energy_min[0], 40.0)).tolist() == [27 + shift]
    assert np.flatnonzero(car.drain[0]).tolist() == [71 + shift]
    assert np.flatnonzero(run.energy_min[0]).min() == 67 + shift


def test_a_window_in_the_hour_that_clocks_skip_or_show_twice():
    """Due at 2:30: gone from 3:00 summer time on in March, from the first 2:30 on in October."""
    for day, steps, leaves in (("2025-03-30", 92, 8), ("2025-10-26", 100, 10)):
        clock = jg.Clock(day, BERLIN)
        car = vehicle(0, **{**CAR, "departure": "2:30"}, hours=steps, hour_length=0.25, clock=clock)
        assert np.flatnonzero(~home(car))[0] == leaves


def test_steps_that_begin_in_the_morning():
    """From 6:00 to 6:00 of the next day: an hour at home, away to 18 o'clock, home at night."""
    clock = jg.Clock("2025-01-15T06:00", BERLIN)
    car = vehicle(0, **CAR, hours=24, clock=clock)
    assert np.flatnonzero(~home(car)).tolist() == list(range(1, 12))
    run = shiftable(0, **{**RUN, "earliest": 4, "latest": 8}, hours=48, clock=clock)
    assert np.flatnonzero(home(run)).tolist() == list(range(22, 26))  # the one that is whole
    with pytest.raises(ValueError, match="is not within the 24 steps of 1 h"):
        shiftable(0, **{**RUN, "earliest": 4, "latest": 8}, hours=24, clock=clock)


@pytest.mark.parametrize(("steps", "length"), [(24, 1.0), (96, 0.25), (23, 1.0), (100, 0.25)])
def test_a_heat_pump_needs_energy_by_hours_not_by_steps(steps: int, length: float):
    """15 K over 6 K/kW are 2.5 kW of heat: at a COP of 3, 2.5 / 3 kWh in each hour of the day."""
    pump = heat_pump(
        0, power=3.0, cop=3.0, outdoor=5.0, resistance=6.0, capacity=4.0, start=20.0, hours=steps,
        hour_length=length,
    )  # fmt: skip
    held = np.asarray(pump.drain[0]) / float(pump.charge_efficiency[0, 0])  # kWh of power a step
    assert held.sum() == pytest.approx(steps * length * 2.5 / 3)


def test_a_market_refuses_devices_made_for_other_steps():
    """What 96 hours are for a car are no 96 quarter hours for a market; a battery fits any."""
    car = vehicle(0, **CAR, hours=96)
    words = r"made for steps of 1 h, the market's are 0\.25 h; give the devices hour_length=0\.25"
    with pytest.raises(ValueError, match=words):
        market(car, 0.25)
    pump = heat_pump(
        0, power=3.0, cop=3.0, outdoor=5.0, resistance=6.0, capacity=4.0, hours=96, hour_length=0.25
    )
    with pytest.raises(ValueError, match="steps of other lengths"):
        join(pump, car)
    store = battery(0, power=1.0, capacity=2.0, hours=96)
    for both in (join(store, pump), join(pump, store)):
        with pytest.raises(ValueError, match=r"made for steps of 0\.25 h"):
            market(both, 1.0)
        assert market(both, 0.25).buffers.made is None
    assert market(store, 0.25).buffers.made is None


def test_a_market_refuses_devices_made_for_other_hours_of_the_day():
    """Made from midnight on without changes of clocks, or by another clock than the market's."""
    car = vehicle(0, **CAR, hours=24)
    for start in ("2025-01-15T06:00", "2025-03-30"):
        with pytest.raises(ValueError, match="give the devices the same clock="):
            market(car, 1.0, jg.Clock(start, BERLIN))
    clock = jg.Clock("2025-01-15", BERLIN)
    assert market(car, 1.0, clock).buffers.made is None
    by_clock = vehicle(0, **CAR, hours=24, clock=clock)
    assert market(by_clock, 1.0, clock).buffers.made is None
    with pytest.raises(ValueError, match="give the devices the same clock="):
        market(by_clock, 1.0, jg.Clock("2025-01-16", BERLIN))
    with pytest.raises(ValueError, match="other hours of the day"):
        join(car, by_clock)


def test_a_table_put_into_a_market_later_is_looked_at_too():
    store = market(battery(0, power=1.0, capacity=2.0, hours=48), 0.5)
    car = vehicle(0, **CAR, hours=48)
    with pytest.raises(ValueError, match=r"made for steps of 1 h, the market's are 0\.5 h"):
        jg.validate(eqx.tree_at(lambda m: m.buffers, store, car))


def test_a_car_is_charged_by_the_clock_on_the_short_day(tmp_path):
    """40 kWh at 7:00, in step 5 of the day without 2 o'clock, charged at home; files keep it."""
    clock = jg.Clock("2025-03-30", BERLIN)
    made = market(vehicle(0, **CAR, hours=23, clock=clock), 1.0, clock)
    clearing = jg.clear(made)
    plan = clearing.plan
    wall = np.array([t.hour for t in jg.clock.times(made)])
    assert np.all(np.asarray(plan.charge[0])[(wall >= 7) & (wall < 18)] <= 1e-6)
    assert wall[5] == 6
    assert float(plan.energy[0, 5]) == pytest.approx(40.0, abs=1e-3)
    assert float(plan.charge.sum()) == pytest.approx(10.0 / 0.93, abs=1e-3)  # 30 to 40 kWh
    jg.save(tmp_path / "day", made, clearing)
    loaded, found = jg.load(tmp_path / "day")
    assert eqx.tree_equal(loaded, made)
    assert found is not None
    assert "2025-03-30 " in str(found)
