"""A feeder of three buses, two neighbors without one, and batches of them."""

import numpy as np

import jaxgne as jg
from jaxgne import scenarios


def feeder(model_name: jg.market.GridModel = "lindistflow") -> jg.Market:
    """Three buses in a row; a consumer at the end, a battery and a generator in the middle."""
    hours = 4
    load = np.array([[20.0, 30.0, 40.0, 25.0], [10.0, 10.0, 15.0, 12.0]])
    return jg.Market(
        jg.Prosumers([2, 1], load, 0.3 * load),
        jg.Grid(
            np.full((3, hours), [[0.0], [5.0], [5.0]]),
            [0, 1],
            [1, 2],
            2e-5,
            1e-5,
            rating=200.0,
            model=model_name,
            reactive_balance=True,
            names=("feeder", "middle", "end"),
        ),
        jg.Tariff(0.002, hours=hours, base=[0.1, 0.1, 0.3, 0.2]),
        jg.Generators([1], 12.0, hours=hours, quadratic=0.004, linear=0.12),
        jg.Buffers(
            [1], 8.0, 8.0, 20.0, 10.0, hours=hours, energy_min=2.0,
            charge_efficiency=0.95, discharge_efficiency=0.94,
        ),
        jg.Trading([0], [1], 15.0, toll=0.01),
    )  # fmt: skip


def loads(count: int) -> jg.Market:
    return scenarios.sweep(
        feeder(), lambda m: m.prosumers.load, scaled(np.linspace(0.7, 1.1, count))
    )


def scaled(factors: np.ndarray) -> np.ndarray:
    return np.asarray(feeder().prosumers.load) * factors[:, None, None]


def neighbors() -> jg.Market:
    """Two who may trade, on no grid: its programs compile in half the time of the feeder's."""
    return jg.Market(
        jg.Prosumers([0, 0], [[3.0], [4.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.02, hours=1, base=0.1),
        jg.Generators([0, 1], 2.0, hours=1, quadratic=0.02, linear=0.1),
        trading=jg.Trading([0], [1], 5.0),
    )


def slopes(count: int) -> jg.Market:
    """Neighbors who pay from 1e-5 to 0.1 EUR/kWh more for each kW: PrimalDual's steps differ."""
    steeper = np.geomspace(1e-5, 0.1, count)[:, None]
    return scenarios.sweep(neighbors(), lambda m: m.tariff.slope, steeper)
