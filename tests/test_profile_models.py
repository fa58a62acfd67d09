"""Sun, standard loads, heat pumps and cars: against pvlib's own chain, demandlib, and by hand."""

import datetime as dt
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pvlib
import pytest
from demandlib import bdew

import jaxgne as jg
from jaxgne.profiles import heat_pumps, solar, standard, vehicles

BERLIN = "Europe/Berlin"
JUNE = jg.Clock("2025-06-21", BERLIN)
KASSEL: dict[str, Any] = {"latitude": 51.3, "longitude": 9.5, "clock": JUNE}
YEAR: dict[str, Any] = {"clock": jg.Clock("2026-01-01", BERLIN), "steps": 8760}


def chain(times: Any, weather: Any, tilt: int, azimuth: int) -> Any:
    """AC power of 5 kWp by pvlib's ModelChain, of 14 % losses, kW."""
    place = pvlib.location.Location(51.3, 9.5, altitude=0)
    if weather is None:
        clear: Any = place.get_clearsky(times)
        weather = clear.assign(temp_air=12.0, wind_speed=1.0)
    warm = pvlib.temperature.TEMPERATURE_MODEL_PARAMETERS["sapm"]["open_rack_glass_glass"]
    system = pvlib.pvsystem.PVSystem(
        surface_tilt=tilt, surface_azimuth=azimuth,
        module_parameters={"pdc0": 5000.0, "gamma_pdc": -0.0035},
        inverter_parameters={"pdc0": 5000.0 / 0.96}, temperature_model_parameters=warm,
        losses_parameters=dict.fromkeys(
            ("soiling", "mismatch", "wiring", "connections", "lid", "nameplate_rating", "age",
             "availability"), 0.0) | {"shading": 14.0},
    )  # fmt: skip
    made: Any = pvlib.modelchain.ModelChain.with_pvwatts(
        system, place, transposition_model="haydavies"
    ).run_model(weather)
    return made.results.ac.fillna(0.0).to_numpy() / 1000


def test_given_irradiance_gives_what_a_model_chain_gives():
    """In the middle of each of 24 hours; with direct and diffuse light, and by Erbs without.

    At 12 degC, that of pvlib's refraction; where air differs the chain's sun is up to 2e-5 higher.
    """
    times = pd.date_range("2025-06-21 00:30", periods=24, freq="1h", tz=BERLIN)
    clear: Any = pvlib.location.Location(51.3, 9.5, altitude=0).get_clearsky(times)
    air = np.full(24, 12.0)
    weather = (0.8 * clear).assign(temp_air=air, wind_speed=3.0)
    sky = {name: weather[name].to_numpy()[None] for name in ("ghi", "dni", "dhi")}
    panels = {"tilt": 35, "azimuth": [180, 90], "steps": 24, "temperature": air[None], "wind": 3.0}
    found = solar(5, **panels, **sky, **KASSEL)
    for row, azimuth in enumerate((180, 90)):
        expected = chain(times, weather, 35, azimuth)
        assert expected.max() > 2
        np.testing.assert_allclose(found.values[row], expected, atol=1e-9)
    zenith = pvlib.location.Location(51.3, 9.5).get_solarposition(times)["zenith"]
    split = pvlib.irradiance.erbs(weather["ghi"], zenith, times)
    alone = solar(5, **panels, ghi=sky["ghi"], **KASSEL)
    weather = weather.assign(dni=split["dni"], dhi=split["dhi"])
    np.testing.assert_allclose(alone.values[0], chain(times, weather, 35, 180), atol=1e-9)
    air = 10 + np.arange(24) / 2
    weather = weather.assign(temp_air=air)
    warm = solar(5, **{**panels, "temperature": air[None]}, ghi=sky["ghi"], **KASSEL)
    np.testing.assert_allclose(warm.values[0], chain(times, weather, 35, 180), atol=1e-4)
    assert np.max(np.abs(warm.values - alone.values)) > 0.04


def test_a_clear_sky_is_the_mean_of_its_quarter_hours():
    """And the model chain's for their middles."""
    times = pd.date_range("2025-06-21 00:07:30", periods=96, freq="15min", tz=BERLIN)
    quarters = chain(times, None, 35, 180)
    panels = {"tilt": 35, "azimuth": 180, "temperature": 12, **KASSEL}
    fine = solar(5, steps=96, hour_length=0.25, **panels)
    np.testing.assert_allclose(fine.values[0], quarters, atol=1e-9)
    hours = solar([5, 10], steps=24, **panels)
    np.testing.assert_allclose(hours.values[0], quarters.reshape(24, 4).mean(1), atol=1e-9)
    np.testing.assert_allclose(hours.values[1], 2 * hours.values[0], rtol=1e-12)
    assert np.all(hours.values[0, [0, 1, 2, 3, 22, 23]] == 0)  # the sun is up from 5:05 to 21:36
    assert np.all(hours.values[0, 6:20] > 0)


def test_an_inverter_caps_its_panels():
    panels = {"tilt": 35, "azimuth": 180, "steps": 24, **KASSEL}
    free, capped, none = solar(5, inverter=[5, 2, 0], **panels).values
    assert free.max() > 3 and capped.max() == 2 and np.all(none == 0)


WRONG_SUN: list[tuple[dict[str, Any], str]] = [
    ({"azimuth": -45}, "azimuth=-45 in row 0: give degrees from north by east"),
    ({"latitude": 95}, "latitude=95 in row 0"),
    ({"kwp": [5, -1]}, "kwp=-1 in row 1"),
    ({"losses": 14}, "losses=14 .*0.14, not 14"),
    ({"ghi": np.full((1, 24), -1.0)}, "ghi=-1 in row 0, step 0"),
    ({"ghi": 100.0, "dni": 50.0}, "give ghi alone, or ghi with both"),
    ({"ghi": np.zeros((1, 23))}, r"solar: ghi: shape \(1, 23\) does not fit"),
    ({"clock": None}, "solar: clock=None: give one"),
    ({"steps": 0}, "solar: steps=0"),
    ({"hour_length": -1}, "solar: hour_length=-1"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_SUN)
def test_suns_that_cannot_be_are_refused(wrong: dict[str, Any], words: str):
    panels = {"kwp": 5, "tilt": 35, "azimuth": 180, "steps": 24, **KASSEL, **wrong}
    with pytest.raises(ValueError, match=words):
        solar(panels.pop("kwp"), **panels)


def test_a_standard_load_uses_the_energy_that_was_asked_for():
    """demandlib's G25 is for 1.018 GWh in 2026, so it is multiplied by 0.982."""
    index = pd.date_range("2026-01-01", periods=35_040, freq="15min", tz=BERLIN)
    raw = np.asarray(bdew.G25(index), float)
    factor = 1e6 / (raw.sum() / 4)
    assert abs(1 / factor - 1.018) < 5e-4
    found = standard([3500, 2800], "G25", **YEAR)
    np.testing.assert_allclose(found.energy(), [3500, 2800], rtol=1e-12)
    np.testing.assert_allclose(found.factor, factor, rtol=1e-9)
    hours = raw.reshape(-1, 4).mean(1) * factor * 3500 / 1e6
    np.testing.assert_allclose(found.values[0], hours, rtol=1e-9)
    assert f"g25 times {factor:.6g}" in str(found)


def test_classes_of_1999_go_by_the_clock_and_leave_warnings_alone():
    """Noon of a Wednesday in July and in January is at noon on the clock, whatever the offset."""
    before = list(warnings.filters)
    found: Any = standard(1000, ["h0", "g1"], clock=jg.Clock("2026-01-01", BERLIN), steps=35_040,
                     hour_length=0.25)  # fmt: skip
    assert list(warnings.filters) == before
    np.testing.assert_allclose(found.energy(), 1000, rtol=1e-12)
    with warnings.catch_warnings():
        table: Any = bdew.ElecSlp(2026).get_scaled_power_profiles({"h0": 1000.0, "g1": 1000.0})
    for day in ("2026-07-01", "2026-01-07"):
        noon = pd.Timestamp(f"{day} 12:00")
        summer = 4 * (day == "2026-07-01")  # quarter hours that were skipped
        at = (noon - pd.Timestamp("2026-01-01")).days * 96 + 48 - summer
        for row, name in enumerate(("h0", "g1")):
            np.testing.assert_allclose(
                found.values[row, at], table[name][noon] * found.factor[row], rtol=1e-12
            )


def test_a_holiday_is_a_sunday():
    """The shop of a Monday that is a holiday draws what it does on the Sunday before."""
    when = {"clock": jg.Clock("2026-05-24", BERLIN), "steps": 48}
    shop = standard(9000, "g25", holidays=[dt.date(2026, 5, 25)], **when).values[0]
    np.testing.assert_allclose(shop[24:], shop[:24], rtol=1e-12)
    usual = standard(9000, "g25", **when).values[0]
    assert usual[24:].sum() > 1.1 * usual[:24].sum()


def test_a_night_of_new_year_has_both_years_factors():
    """Each calendar year has its energy: steps of both are those of each year alone."""
    night = standard(3500, "h25", clock=jg.Clock("2026-12-31", BERLIN), steps=48).values[0]
    old = standard(3500, "h25", clock=jg.Clock("2026-12-31", BERLIN), steps=24)
    new = standard(3500, "h25", clock=jg.Clock("2027-01-01", BERLIN), steps=24)
    np.testing.assert_allclose(night, np.concatenate([old.values[0], new.values[0]]), rtol=1e-12)
    assert old.factor[0] != new.factor[0]


def test_standard_loads_refuse_what_they_do_not_know():
    when = {"clock": JUNE, "steps": 24}
    for arguments, words in (
        ((3500, "h26"), "class 'h26'; give one of h25, g25"),
        ((-1, "h25"), "annual_kwh=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            standard(*arguments, **when)
    with pytest.raises(ValueError, match="cuts an interval of the standard profile"):
        standard(3500, clock=JUNE, steps=6, hour_length=1 / 6)


@pytest.mark.parametrize(("library", "call"), [("pvlib", solar), ("demandlib.bdew", standard)])
def test_a_missing_library_is_named(library: str, call: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, library, None)
    place = {**KASSEL, "tilt": 0, "azimuth": 0} if call is solar else {"clock": JUNE}
    with pytest.raises(ImportError, match=f"{library[:5]}.*pip install 'jaxgne.profiles.'"):
        call(5, steps=24, **place)


def test_heat_falls_with_the_cold_and_costs_less_where_water_is_cool():
    """8 kW at -12 degC, 4 in the middle between it and 15, none above; at 0 degC and water of 35
    heat over electricity is 6.81 - 0.121 * 35 + 0.00063 * 35^2 = 3.34675."""
    outdoor = [[-12.0, 1.5, 15.0, 25.0, 0.0]]
    found = heat_pumps(8, outdoor, clock=JUNE, steps=5, flow=35)
    np.testing.assert_allclose(found.heat[0], [8, 4, 0, 0, 8 * 15 / 27], rtol=1e-12)
    np.testing.assert_allclose(found.cop[0, 4], 3.34675, rtol=1e-12)
    np.testing.assert_allclose(found.load.values, found.heat / found.cop, rtol=1e-12)
    deep = heat_pumps(8, outdoor, clock=JUNE, steps=5, flow=35, source="ground", ground=8)
    np.testing.assert_allclose(deep.cop, 8.77 - 0.150 * 27 + 0.000734 * 27**2, rtol=1e-12)


def test_a_heat_pump_of_a_market_needs_the_same_at_the_set_point():
    """Power that holds the content at 0, indoor temperature 20: drain over efficiency and time."""
    outdoor = [-5.0, 3.0, 10.0, 20.0]
    found = heat_pumps([8, 5], outdoor, clock=JUNE, steps=4, hour_length=0.5)
    stores = jg.devices.heat_pump([0, 1], **found.device)
    held = np.asarray(stores.drain) / (0.5 * np.asarray(stores.charge_efficiency))
    constant = found.heat / np.asarray(found.device["cop"])
    np.testing.assert_allclose(held, constant, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(held.sum(1), found.load.values.sum(1), rtol=1e-9)
    np.testing.assert_allclose(stores.energy_start, 0, atol=1e-12)
    with pytest.raises(ValueError, match="outdoor=285 in step 0: give degC"):
        heat_pumps(8, [[285.0, 286.0]], clock=JUNE, steps=2)
    with pytest.raises(ValueError, match="design_outdoor below limit"):
        heat_pumps(8, 3.0, clock=JUNE, steps=2, design_outdoor=16)


def test_weather_comes_as_series_in_its_unit_and_on_the_same_steps():
    """degC and W/m2 by hour; a load is neither, and quarter hours are refused."""
    index = pd.date_range("2025-06-21", periods=24, freq="1h", tz=BERLIN)
    rise = pd.Series(np.linspace(0, 11.5, 24), index)
    air = jg.profiles.series(rise, unit="degC", clock=JUNE, steps=24)
    found = heat_pumps(8, air, clock=JUNE, steps=24)
    assert np.array_equal(found.heat, heat_pumps(8, air.values, clock=JUNE, steps=24).heat)
    panels = {"tilt": 35, "azimuth": 180, "steps": 24, **KASSEL}
    light = jg.profiles.series(40 * rise, unit="W/m2", clock=JUNE, steps=24)
    same = solar(5, ghi=40 * rise.to_numpy(), temperature=rise.to_numpy(), **panels)
    assert np.array_equal(solar(5, ghi=light, temperature=air, **panels).values, same.values)
    with pytest.raises(ValueError, match="outdoor is in W/m2, not in degC"):
        heat_pumps(8, light, clock=JUNE, steps=24)
    with pytest.raises(ValueError, match=r"ghi is for steps of 1 h, not of 0.25 h"):
        solar(5, ghi=light, **{**panels, "hour_length": 0.25})
    with pytest.raises(ValueError, match=r"outdoor begins at .*, not at"):
        heat_pumps(8, air, clock=jg.Clock("2025-06-22", BERLIN), steps=24)


ONE: dict[str, Any] = {"arrival": (17.5, 0), "departure": (7.5, 0), "distance": (35, 0)}
QUARTERS: dict[str, Any] = {"clock": JUNE, "steps": 96, "hour_length": 0.25}


def test_a_car_charges_from_arrival_until_its_trip_is_made_good():
    """6.3 kWh are 6.774 from the grid: two quarters of 11 kW, and 1.274 kWh in the next."""
    car = vehicles(1, **ONE, **QUARTERS)
    load = np.zeros(96)
    load[70:73] = 11, 11, (35 * 0.18 / 0.93 - 5.5) / 0.25
    np.testing.assert_allclose(car.load.values[0], load, atol=1e-12)
    slow = vehicles(1, **ONE, **QUARTERS, power=1).load.values[0]  # until 24.27 h
    np.testing.assert_allclose(slow[[0, 1, 2, 69, 70, 95]], [1, 0.0967742, 0, 0, 1, 1], atol=1e-6)


def test_cars_are_drawn_by_their_statistics_and_their_seed():
    """Arrivals are put to the next step, 1/8 h later on average, departures before."""
    many, few = (vehicles(count, 3, **QUARTERS) for count in (4000, 5))
    assert np.array_equal(few.load.values, many.load.values[:5])
    assert not np.array_equal(vehicles(5, 4, **QUARTERS).trip, few.trip)
    assert abs(many.arrival.mean() - 17.5 - 0.125) < 0.1
    assert abs(many.departure.mean() - 7.5 + 0.125) < 0.1
    assert abs(many.departure.std() - 1.0) < 0.05
    driven = many.trip / 0.18
    assert abs(driven.mean() - 35) < 1.5 and abs(driven.std() - 25) < 1.5
    np.testing.assert_allclose(many.load.energy(), many.trip / 0.93, rtol=1e-9)


@pytest.mark.parametrize("begin", ["2025-06-21", "2025-06-21 12:00", "2025-06-21 18:30"])
def test_cars_end_a_day_as_full_as_charging_at_once_leaves_them(begin: str):
    """Of 6.3 kWh 6.5 h of 1 kW bring 6.045 until midnight, and 1 h until half past six 0.93.

    What they must hold in the end can be reached, whenever they come, and is not there for nothing.
    """
    when: dict[str, Any] = {**QUARTERS, "clock": jg.Clock(begin, BERLIN)}
    slow = vehicles(1, **ONE, **when, power=1).device
    short = {"2025-06-21": 0.255, "2025-06-21 12:00": 0.0, "2025-06-21 18:30": 5.37}[begin]
    np.testing.assert_allclose(slow["final"], 0.8 - short / 60, rtol=1e-9)
    cars = vehicles(30, 5, **when, arrival=(17.5, 4), departure=(7.5, 3), power=2)
    market = jg.validate(
        jg.Market(
            jg.Prosumers(np.zeros(30, int), np.ones((30, 96))),
            jg.Grid(np.zeros((1, 96)), model="copperplate"),
            jg.Tariff(0.0, hours=96, base=0.3),
            buffers=jg.devices.vehicle(range(30), **cars.device),
            hour_length=0.25,
            clock=when["clock"],
        )
    )
    clearing = jg.clear(market)
    charged = 0.25 * 0.93 * np.asarray(clearing.plan.charge).sum(1)
    needed = np.asarray(market.buffers.drain).sum(1) + 60 * (
        cars.device["final"] - cars.device["start"]
    )
    np.testing.assert_allclose(charged, np.maximum(needed, 0.0), atol=1e-3)


def test_cars_go_into_a_market_whose_clocks_change():
    """The device is away when the habit says so, on the day without 2 o'clock as well."""
    clock = jg.Clock("2025-03-30", BERLIN)
    cars = vehicles(3, clock=clock, steps=92, hour_length=0.25)
    table = jg.devices.vehicle([0, 1, 2], **cars.device)
    shown = clock.local(0.25 * np.arange(92))
    away = (shown >= cars.departure[:, None]) & (shown < cars.arrival[:, None])
    assert np.array_equal(np.asarray(table.charge_max) == 0, away)
    assert np.all(cars.load.values[away] == 0)
    assert np.all(np.asarray(table.drain).sum(1) == cars.trip)


@pytest.mark.parametrize("begin", ["2025-06-21", "2025-06-21 12:00"])
def test_a_week_of_a_market_charges_what_cars_charge_at_once(begin: str):
    """They are as full in the end as they were at first: seven trips, in a market or without."""
    when: dict[str, Any] = {"clock": jg.Clock(begin, BERLIN), "steps": 168}
    cars = vehicles(2, 1, **when)
    night = jg.Tariff(1e-3, hours=168, base=0.3)
    market = jg.Market(
        jg.Prosumers([0, 0], np.ones((2, 168))),
        jg.Grid(np.zeros((1, 168)), model="copperplate"),
        night, buffers=jg.devices.vehicle([0, 1], **cars.device), clock=when["clock"],
    )  # fmt: skip
    drained = np.asarray(market.buffers.drain).sum(1)
    full = 0.8 * 60 - np.asarray(market.buffers.energy_start)
    np.testing.assert_allclose((drained + full) / 0.93, cars.load.energy(), rtol=1e-9)
    assert np.all(cars.load.energy() > 6.9 * cars.trip / 0.93)


def test_cars_that_cannot_be_are_refused_and_trips_fit_the_night():
    """A car of 20 kWh has 14 kWh between 0.1 and 0.8 of that; one at home for 2 h gets 3.72."""
    far = {**ONE, "distance": (500, 0), **QUARTERS}
    np.testing.assert_allclose(vehicles(1, **far, capacity=20).trip, 14)
    short = vehicles(1, **{**far, "departure": (19.5, 0)}, power=2)
    np.testing.assert_allclose(short.trip, 2 * 2 * 0.93)
    for wrong, words in (
        ({"arrival": (25, 1)}, "arrival="),
        ({"power": 0}, "power: give finite numbers above 0"),
        ({"due": 0.05}, "give due above 0.1"),
        ({"hour_length": [0.25] * 95 + [1]}, "steps of 0.25 to 1 h"),
    ):
        with pytest.raises(ValueError, match=words):
            vehicles(1, **{**QUARTERS, **wrong})
