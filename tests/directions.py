"""Small markets to differentiate, and directions in which all their fields move."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxgne as jg

SMALL: dict[str, Any] = {"prosumers": 6, "hours": 4, "buses": 8, "degree": 3.0}


def stressed(grid: Any = "lindistflow", behavior: Any = "nash", seed: int = 0) -> jg.Market:
    """A small market in which limits bind."""
    return jg.synthetic(**SMALL, grid=grid, behavior=behavior, stress=True, seed=seed)


def varied(market: jg.Market) -> tuple[Any, ...]:
    """Fields of every table."""
    units, stores, grid = market.generators, market.buffers, market.grid
    fields = (market.prosumers.load, units.quadratic, units.linear, units.power_max)
    fields += (stores.quadratic, stores.charge_efficiency, stores.charge_max)
    fields += (market.trading.toll, market.trading.limit, market.tariff.base, market.tariff.slope)
    if grid.model.name != "copperplate":
        fields += (grid.resistance, grid.reactance, grid.voltage_min, grid.rating, grid.passive)
        fields += (grid.feeder_voltage,)
    return fields


def along(market: jg.Market, rng: np.random.Generator) -> tuple[Any, ...]:
    """A direction of all of `varied`, relative to their size; of voltages, to their range."""
    pu = (market.grid.voltage_min, market.grid.feeder_voltage)
    units = (0.02 if any(a is volts for volts in pu) else 1.0 for a in varied(market))
    return tuple(
        unit * jnp.where(jnp.isfinite(a), a, 0.0) * jnp.asarray(rng.uniform(-1, 1, a.shape))
        for a, unit in zip(varied(market), units, strict=True)
    )


def moved(market: jg.Market, direction: tuple[Any, ...], step: Any) -> jg.Market:
    new = [a + step * d for a, d in zip(varied(market), direction, strict=True)]
    return eqx.tree_at(varied, market, tuple(new))


def square() -> jg.Market:
    """Two with loads, two with equal generators, each pair of them may trade; main grid shut."""
    return jg.Market(
        jg.Prosumers([0, 0, 0, 0], [[2.0], [3.0], [0.0], [0.0]], import_max=0.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1),
        jg.Generators([2, 3], 10.0, hours=1, quadratic=0.01, linear=0.1),
        trading=jg.Trading([0, 0, 1, 1], [2, 3, 2, 3], 10.0, toll=0.005),
    )
