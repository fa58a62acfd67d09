"""Markets at the edge of what AC can carry, and another program's word on their plans."""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne import acflow, model
from tests.power_flows import by_power_grid_model

KINDS = ("low voltage", "sun", "overload")


def stressed(kind: str, seed: int, share: float = 1.0) -> jg.Market:
    """Five buses in a row of random loads, whose limits the linear model just meets.

    Generators at the ends can relieve lines and voltages at a price; surplus can be curtailed: the
    `share` of what is drawn or fed in at each bus.
    """
    rng = np.random.default_rng(seed)
    buses, hours = 5, 3
    sun = kind == "sun"
    load = rng.uniform(10, 30, (4, hours)) * (-1.0 if sun else 1.0)
    size = 10 ** rng.uniform(-4.0, -3.6, (2, buses - 1))
    relief = share * np.abs(load)
    grid = {"voltage_max": 1.02} if sun else {"voltage_min": 0.97}
    if kind == "overload":
        grid = {"rating": 0.8 * np.cumsum(load.max(axis=1)[::-1])[::-1], "voltage_min": 0.8}
    return jg.Market(
        jg.Prosumers(
            np.arange(1, buses), load, 0.3 * np.abs(load),
            export_max=50.0 if sun else 0.0, curtail_max=relief if sun else 0.0,
        ),
        jg.Grid(np.zeros((buses, hours)), np.arange(buses - 1), np.arange(1, buses), *size, **grid),
        jg.Tariff(0.001, hours=hours, base=0.15, export=0.05),
        jg.Generators(np.arange(4), relief, hours=hours, quadratic=0.002, linear=0.3),
        trading=jg.Trading([0, 1, 2], [1, 2, 3], 5.0, toll=0.01),
    )  # fmt: skip


def relieved(market: jg.Market) -> jg.Plan:
    """The plan that no other can beat: all relief there is, as all flows point one way."""
    most = market.generators.power_max * jnp.any(market.prosumers.load > 0)
    return replace(model.zeros(market), generation=most, curtailed=market.prosumers.curtail_max)


class Found(NamedTuple):
    """By another program: pu beyond the voltage limits and share beyond the ratings, at most."""

    volts: float
    share: float

    def within(self, volts: float, share: float) -> bool:
        return self.volts <= volts and self.share <= share


def excess(market: jg.Market, plan: jg.Plan) -> Found:
    """How far a plan's AC state is outside the limits, by power-grid-model."""
    grid = market.grid
    volts = by_power_grid_model(grid, *(np.asarray(a) for a in acflow.drawn(market, plan)))
    outside = np.maximum(
        np.asarray(grid.voltage_min)[:, None] - np.abs(volts),
        np.abs(volts) - np.asarray(grid.voltage_max)[:, None],
    )
    ends = volts[np.asarray(grid.source)], volts[np.asarray(grid.target)]
    impedance = np.asarray(grid.resistance + 1j * grid.reactance)[:, None]
    current = np.abs((ends[0] - ends[1]) / impedance)
    return Found(outside[1:].max(), (current / np.asarray(grid.rating)[:, None]).max() - 1)
