"""Customers whose loads and sun are given stay what was given, in any grid."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.cases import populate
from jaxgne.profiles import solar, standard

HOURS = 24
CLOCK = jg.Clock("2025-06-21", "Europe/Berlin")
DAY = 1.0 + np.sin(np.arange(HOURS) / 24 * 2 * np.pi) ** 2  # kW


def grid(load: float = 80.0) -> jg.Grid:
    """Buses 0 - 1 - 2 with 80 and 40 kW."""
    passive = np.array([[0.0], [load], [load / 2]])
    return jg.Grid(passive, [0, 1], [1, 2], 1e-5, 5e-6, passive_reactive=0.3 * passive)


def gross(market: jg.Market) -> np.ndarray:
    """Load before the sun is taken off, kW (N, H)."""
    return np.asarray(market.prosumers.load + market.prosumers.curtail_max)


def total(market: jg.Market) -> np.ndarray:
    """All that is drawn before the sun, kW (H)."""
    return gross(market).sum(0) + np.asarray(market.grid.passive).sum(0)


def test_each_customer_has_the_load_that_was_given():
    """Their buses have as much less, so that the grid draws what it did; devices as before."""
    loads = DAY * np.array([[1.0], [2.0], [0.5], [3.0]])
    mine = populate(grid(), 4, hours=HOURS, load=loads)
    usual = populate(grid(), 4, hours=HOURS)
    np.testing.assert_allclose(gross(mine), loads, rtol=1e-12)
    np.testing.assert_allclose(total(mine), total(usual), rtol=1e-12)
    assert np.array_equal(mine.prosumers.bus, usual.prosumers.bus)
    assert np.array_equal(mine.buffers.owner, usual.buffers.owner)
    assert len(populate(grid(), 4, load=loads).grid.passive[0]) == HOURS  # the steps of the loads
    one = populate(grid(), 4, load=DAY[None])
    np.testing.assert_allclose(gross(one), np.tile(DAY, (4, 1)), rtol=1e-12)


def test_some_customers_have_loads_by_number():
    """The others are those they were, and the panels as well."""
    mine = populate(grid(), 4, hours=HOURS, load={2: DAY, 0: 2 * DAY}, photovoltaic=0)
    usual = populate(grid(), 4, hours=HOURS, photovoltaic=0)
    np.testing.assert_allclose(gross(mine)[[0, 2]], [2 * DAY, DAY], rtol=1e-12)
    np.testing.assert_allclose(total(mine), total(usual), rtol=1e-12)
    assert np.all(gross(mine)[[1, 3]] > 0)
    added = populate(grid(), 4, hours=HOURS, load={2: DAY}, photovoltaic=0, replace=None)
    same = populate(grid(), 4, hours=HOURS, photovoltaic=0, replace=None)
    assert np.array_equal(gross(added)[[0, 1, 3]], gross(same)[[0, 1, 3]])
    np.testing.assert_allclose(gross(added)[2], DAY, rtol=1e-12)


def test_the_sun_is_that_which_was_given():
    """For two of four, whatever the share of panels."""
    sun = np.maximum(np.sin((np.arange(HOURS) - 6) / 12 * np.pi), 0)
    mine = populate(grid(), 4, hours=HOURS, generation={3: 5 * sun, 1: 2 * sun}, photovoltaic=0.9)
    expected = np.array([0, 2, 0, 5])[:, None] * sun
    np.testing.assert_allclose(mine.prosumers.curtail_max, expected, atol=1e-12)
    np.testing.assert_allclose(mine.prosumers.export_max, expected, atol=1e-12)
    usual = populate(grid(), 4, hours=HOURS, photovoltaic=0)
    np.testing.assert_allclose(gross(mine), gross(usual), rtol=1e-12)


def test_profiles_of_a_place_make_a_market_that_clears():
    """Standard loads and pvlib's sun on one clock, which the market has."""
    when: dict[str, Any] = {"clock": CLOCK, "steps": HOURS}
    load = standard([3500, 2800, 4200], "h25", **when)
    sun = solar([5, 8, 3], latitude=51.3, longitude=9.5, tilt=35, azimuth=[180, 90, 270], **when)
    market = populate(grid(), 3, load=load, generation=sun, clock=CLOCK, vehicle=0.5)
    assert str(market.clock) == "2025-06-21 00:00 Europe/Berlin"
    np.testing.assert_allclose(gross(market), load.values, rtol=1e-9)
    assert jg.clear(market).certificate.worst()


def test_profiles_bring_their_clock_and_must_have_the_markets_steps():
    """Quarter hours in a market of hours would be four times the energy."""
    quarters = standard([3500], clock=CLOCK, steps=96, hour_length=0.25)
    market: Any = populate(grid(), 4, load=quarters, hour_length=0.25)
    assert int(market.clock.start) == int(CLOCK.start)
    with pytest.raises(ValueError, match=r"load is for steps of 0.25 h, not of 1 h; give hour_len"):
        populate(grid(), 4, load=quarters)
    hours = standard([3500], clock=CLOCK, steps=HOURS)
    later = jg.Clock("2025-06-22", "Europe/Berlin")
    with pytest.raises(ValueError, match=r"load begins at 2025-06-21 .*, not at 2025-06-22"):
        populate(grid(), 4, load={1: hours}, clock=later)
    with pytest.raises(ValueError, match="generation is in W/m2, not in kW"):
        populate(grid(), 4, generation=replace(hours, unit="W/m2"))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"load": np.ones((3, HOURS))}, r"load: shape \(3, 24\) does not fit; give \(1, 24\) for all"),
    ({"load": {4: DAY}}, "load: 4 is no customer; they are 0 to 3"),
    ({"load": {"a": DAY}}, "load: 'a' is no customer"),
    ({"load": {1: DAY[:5]}}, r"load\[1\]: shape \(5,\) does not fit; give \(24,\)"),
    ({"load": {1: -DAY}}, "load: -1 of customer 1 in hour 0; give finite kW of at least 0"),
    ({"load": {1: 0 * DAY}}, "customer 1 draws nothing"),
    (
        {"load": 100 * DAY[None]},
        r"load: customers at .* draw .* kW more in hour 0 than replace=0.6",
    ),
    ({"clock": jg.Clock("2025-06-21 06:00", "UTC")}, "give one that begins at midnight"),
    ({"clock": jg.Clock("2025-03-30", "Europe/Berlin")}, "whose clocks do not change within"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_what_fits_no_customers_is_refused(wrong: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        populate(grid(), 4, hours=HOURS, **wrong)
