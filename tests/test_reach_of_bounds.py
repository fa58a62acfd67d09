"""Bounds that no one comes near are cut, but not where limits leave no other way than to go there.

Each market has a reach of some watts by what is worth it, and a limit that forces kilowatts.
"""

from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.devices import battery
from tests.agreement import potential
from tests.reference import solve


def market(load: Any, passive: Any, tariff: Any, stores: Any, made: Any = None, **people: Any):
    hours = len(load[0])
    buyers = jg.Prosumers([0] * len(load), np.asarray(load), **people)
    priced = jg.Tariff(0.01, hours=hours, base=0.2, **tariff)
    return jg.Market(buyers, jg.Grid(passive, model="copperplate"), priced, made, stores)


def generator(owner: int) -> jg.Generators:
    """40 kW that cost more than is paid for them."""
    return jg.Generators([owner], [40.0], linear=[1.0], hours=1)


def small(owner: int) -> jg.Buffers:
    return battery(owner, power=0.001, capacity=0.01, hours=1)


FORCED = {  # a market, and what must be done in the first hour, kW
    "sold for others' load": (
        market([[0.0]], [[20.0]], {"total_max": 5.0}, small(0), generator(0), export_max=30.0),
        {"exports": 15.0},
    ),
    "sold for a neighbor's load": (
        market([[20.0], [0.0]], [[0.0]], {"total_max": 5.0}, small(1), generator(1), export_max=30),
        {"exports": 15.0, "imports": 20.0},
    ),
    "burnt, as others feed in": (
        market([[-0.001]], [[-20.0]], {"total_min": 0.0}, None, curtail_max=30.0),
        {"curtailed": 20.001, "imports": 20.0},
    ),
    "stored, as it may not leave": (
        market([[-20.0, 0.001]], [[0.0, 0.0]], {},
               battery(0, power=30.0, capacity=60.0, start=0.0, floor=0.0, hours=2)),
        {"charge": 20.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("solver", [None, pytest.param(jg.PrimalDual(), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FORCED)
def test_what_limits_force_is_in_reach(name: str, solver: Any):
    given, least = FORCED[name]
    found, oracle = jg.clear(given, solver), solve(given)
    assert oracle.status == "solved"
    bill = float(found.certificate.scales.bill)
    assert abs(float(potential(given, found.plan)) - oracle.potential) < 5e-6 * bill
    for field, power in least.items():
        assert np.asarray(getattr(found.plan, field))[:, 0].max() >= power * (1 - 1e-4), field
