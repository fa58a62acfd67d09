"""Devices for customers that are there: who owns them, and that markets with them clear."""

from dataclasses import replace

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.equipment import equip

COUNT, STEPS = 5, 96


def street(clock: jg.Clock | None = None) -> jg.Market:
    """Five meters behind one bus, one of which only feeds in."""
    load = np.full((COUNT, STEPS), 0.4)
    load[4] = -1.0
    return jg.Market(
        jg.Prosumers([0] * COUNT, load, export_max=10.0),
        jg.Grid(np.zeros((1, STEPS)), model="copperplate"),
        jg.Tariff(1e-4, hours=STEPS, base=0.3, export=0.05),
        buffers=jg.devices.battery(0, power=1.0, capacity=2.0, hours=STEPS),
        hour_length=0.25,
        clock=clock,
    )


def test_a_share_of_those_who_have_a_load_get_cars():
    """Half of four customers are two; more cars keep the owners, another seed has others."""
    half, most = (equip(street(), vehicle=share, seed=3) for share in (0.5, 1.0))
    owners = np.asarray(half.buffers.owner)
    assert owners.tolist()[0] == 0  # the battery that was there
    assert len(owners) == 3
    assert set(owners[1:]) <= set(np.asarray(most.buffers.owner)[1:])
    assert np.asarray(most.buffers.owner)[1:].tolist() == [0, 1, 2, 3]
    assert float(np.asarray(half.buffers.charge_max)[1:].max()) == 11.0
    assert np.asarray(half.buffers.energy_max)[1:].max() == 60.0
    drawn = {
        tuple(np.asarray(equip(street(), vehicle=0.5, seed=s).buffers.owner)) for s in range(8)
    }
    assert len(drawn) > 1


def test_numbers_may_differ_by_prosumer():
    """The power and the content of each owner are those of its row."""
    power = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = equip(street(), battery=1.0, power=power, capacity=2 * power).buffers
    np.testing.assert_allclose(np.asarray(found.charge_max)[1:, 0], power[:4])
    np.testing.assert_allclose(np.asarray(found.energy_max)[1:, 0], 2 * power[:4])


def test_cars_of_a_day_charge_what_they_drive():
    """From midnight to midnight, too: what they hold in the end is what they held at first."""
    market = equip(street(), vehicle=1.0)
    driven = np.asarray(market.buffers.drain).sum()
    charged = 0.25 * 0.93 * np.asarray(jg.clear(market).plan.charge)[1:].sum()
    assert driven > 0
    np.testing.assert_allclose(charged, driven, rtol=1e-3)


@pytest.mark.parametrize("clock", [None, jg.Clock("2025-01-15T06:00", "Europe/Berlin")])
def test_markets_with_cars_and_heat_pumps_clear(clock):
    market = equip(street(clock), vehicle=0.5, power=4.0)
    cold = 3 + 4 * np.sin(np.arange(STEPS) / 15)
    market = equip(market, heat_pump=0.5, power=6.0, outdoor=cold)
    assert len(market.buffers.owner) == 5
    clearing = jg.clear(market)
    assert clearing.ok
    assert float(np.asarray(clearing.plan.charge)[1:].sum()) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vehicle": 60}, "equip: vehicle=60; give a share from 0 to 1"),
        ({}, "equip: one kind of device a call, not none"),
        ({"vehicle": 0.5, "battery": 0.5}, "not vehicle and battery; call it for each"),
        ({"heat_pump": 0.5}, "goes by the weather; give outdoor="),
        ({"heat_pump": 0.5, "capacity": 5}, "a heat pump has no capacity; leave capacity= out"),
        ({"vehicle": 0.5, "outdoor": 5}, "a vehicle has no outdoor; leave outdoor= out"),
        ({"battery": 0.5, "power": [1.0, 2.0]}, r"power has the shape \(2,\); give one number"),
        ({"heat_pump": 0.5, "outdoor": [1.0]}, r"outdoor has the shape \(1,\)"),
    ],
)
def test_mistakes_are_told(given, said):
    with pytest.raises(ValueError, match=said):
        equip(street(), **given)


def test_house_connections_of_those_who_have_a_load():
    """A bus each behind a line of 13.8 kVA, with a car or without; none for the sun's meter."""
    grid = jg.Grid(np.zeros((2, STEPS)), [0], [1], 1e-5, 1e-5)
    market = replace(street(), grid=grid)
    wired = equip(market, connection_max=13.8)
    assert np.asarray(wired.grid.rating)[1:].tolist() == [13.8] * 4
    assert np.asarray(wired.prosumers.bus).tolist() == [2, 3, 4, 5, 0]
    most = [9.0, np.inf, 9.0, 9.0, 9.0]
    charged = equip(market, vehicle=1.0, connection_max=most)
    assert np.asarray(charged.grid.rating)[1:].tolist() == [9.0] * 3
    assert len(charged.buffers.owner) == 5
    with pytest.raises(ValueError, match="have house connections already"):
        equip(wired, connection_max=20)
    with pytest.raises(ValueError, match="have house connections already"):
        equip(jg.devices.inverter(wired, [0, 1, 2, 3], rating=5), connection_max=20)
    sunny = jg.devices.inverter(market, [0], rating=5)
    assert len(equip(sunny, connection_max=20).grid.rating) == len(sunny.grid.rating) + 4
