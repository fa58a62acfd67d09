"""How large a market is, and what that is small enough for."""

import numpy as np

from .market import Market

_SMALL = 128  # rows an hour up to which factoring them is faster than many cheap steps
_QUICK = 350  # and up to which NumPy's steps take tenths of a second


def rows_an_hour(market: Market) -> int:
    """Prosumers, buses, buffers and caps: the rows factored together; for a batch, of each."""
    buses = 0 if not market.grid.model.networked else market.grid.passive.shape[-2]
    states = market.buffers.owner.shape[-1] + 2 * market.caps.carry.shape[-1]
    return market.prosumers.bus.shape[-1] + buses + states


def is_small(market: Market) -> bool:
    """Whether factoring a market's rows is faster than many cheap steps; for a batch, of each."""
    return rows_an_hour(market) <= _SMALL


def is_quick(market: Market) -> bool:
    """Whether NumPy takes no more than seconds for a market of this size."""
    return rows_an_hour(market) <= _QUICK


def utmost(market: Market) -> float:
    """The sum over all loads and devices of the most that each draws or makes, kW."""
    units, stores = market.generators, market.buffers
    powers = (market.prosumers.load, units.power_min, units.power_max)
    powers += (stores.charge_max, stores.discharge_max, market.grid.passive)
    return float(sum(np.max(np.abs(np.asarray(a)), axis=-1, initial=0.0).sum() for a in powers))
