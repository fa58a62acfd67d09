"""A quarter-hour day of a SimBench net whose customers have sun, batteries, cars and heat pumps."""

from dataclasses import replace

import numpy as np
import pytest

import jaxgne as jg

CODE, DAY, STEPS = "1-LV-semiurb4--1-sw", "2016-03-20", 96


def street() -> jg.Market:
    """44 customers, 946 pairs, a flat tariff; half of them with a device that moves energy."""
    hours = {"hours": STEPS}
    flat = jg.Tariff(0.0, base=0.3, export=0.08, **hours)
    market, _ = jg.from_simbench(CODE, DAY, tariff=flat)
    rng, count = np.random.default_rng(0), market.prosumers.bus.shape[0]
    time = {"clock": market.clock, "steps": STEPS, "hour_length": 0.25}
    roofs, cars, warm = (rng.permutation(count)[:some] for some in (20, 16, 10))
    sun = jg.profiles.solar(
        rng.uniform(4, 10, len(roofs)),
        latitude=51.3,
        longitude=9.5,
        tilt=35,
        azimuth=rng.uniform(120, 240, len(roofs)),
        **time,
    )
    outside = 4 + 4 * np.cos(2 * np.pi * (np.arange(STEPS) / 4 - 15) / 24)
    heat = jg.profiles.heat_pumps(rng.uniform(5, 9, len(warm)), outside, flow=45, **time)
    driven = jg.profiles.vehicles(len(cars), seed=1, **time)
    stores = jg.devices.join(
        market.buffers,
        jg.devices.battery(roofs[:12], power=5.0, capacity=10.0, start=0.2, final=0.2, **hours),
        jg.devices.vehicle(cars, **driven.device),
        jg.devices.heat_pump(warm, **heat.device),
    )
    people = jg.devices.photovoltaic(market.prosumers, roofs, generation=sun.values)
    pairs = jg.Trading(*np.triu_indices(count, 1), 11.0, toll=0.01)
    return jg.validate(replace(market, prosumers=people, buffers=stores, trading=pairs))


@pytest.mark.slow
def test_a_day_of_a_simbench_street_clears_safely_and_its_bills_sum():
    """Rows that hours share once took 133 steps, of 150: hours stuck at bounds make room first."""
    market = street()
    clearing = jg.clear(market)
    assert int(clearing.steps) <= 60
    safe = clearing.certificate.ac
    assert safe is not None and bool(safe.safe)
    paid = jg.settle(market, clearing)
    given = np.sum(paid.prosumers) + np.sum(paid.passive) + np.sum(paid.passive_caps)
    taken = np.sum(paid.sales) + np.sum(paid.levies) + np.sum(paid.receipts)
    assert abs(given - taken) <= 1e-9 * taken
