"""Floors that cannot be kept are lowered to what charging reaches, and the rest is told."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgne.devices import battery, recover, vehicle


def test_a_battery_below_its_floor_charges_until_it_is_there():
    """0.5 of 10 kWh, floor 3: 1.9 kWh a step at 2 kW and 0.95, so 2.4, then 3 for good."""
    stores = battery(0, power=2.0, capacity=10.0, start=0.05, floor=0.3, hours=4)
    with pytest.warns(UserWarning, match=r"battery 0 \(prosumer 0\) holds 2.4 kWh .* 0.6 kWh are"):
        found = recover(stores)
    assert np.allclose(found.energy_min, [[2.4, 3.0, 3.0, 3.0]])


def test_a_car_that_cannot_be_full_takes_what_it_can():
    """12 of 60 kWh, due 48 in 7 hours at 3.7 kW and 0.93: 24.087 more, 11.91 are missing."""
    car = vehicle(0, power=3.7, capacity=60.0, arrival=0, departure=7, start=0.2, due=0.8, hours=8)
    with pytest.warns(UserWarning, match=r"end of step 6 where 48 kWh are due: 11.91 kWh are"):
        found = recover(car)
    assert float(found.energy_min[0, 6]) == pytest.approx(12 + 7 * 3.7 * 0.93)


def test_floors_that_can_be_kept_stay():
    stores = battery([0, 1], power=2.0, capacity=10.0, hours=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jnp.array_equal(recover(stores).energy_min, stores.energy_min)
