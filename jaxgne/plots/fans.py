"""How a batch spreads: quantile bands over its scenarios by hour."""

from typing import TYPE_CHECKING, Literal, get_args

import jax
import numpy as np

from ..arguments import of_tables
from ..market import Market
from ..model import aggregate, energy_prices, has_state
from ..model import voltages as magnitudes
from ..result import Clearing
from .style import BLUE, TIME, begin, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Quantity = Literal["sigma", "price", "voltage"]

_BANDS = ((0.05, 0.95, 0.2), (0.25, 0.75, 0.4))  # from, to, opacity
_LABELS = {
    "sigma": "contracted import (kW)",
    "price": "mean price of prosumers (EUR/kWh)",
    "voltage": "lowest voltage (pu)",
}


@of_tables
def fan(
    markets: Market, clearings: Clearing, quantity: Quantity = "sigma", ax: "Axes | None" = None
) -> "Axes":
    """Median and quantile bands by hour over the scenarios of a batch that cleared.

    `markets` and `clearings` (`clear_many`) have a leading axis of scenarios. The `quantity` drawn
    is the total import, the mean over prosumers of pi_i + mu_pb, or the lowest voltage of all
    buses. Scenarios that did not clear are left out, which the title says.

    Raises `ValueError` for one market, where no scenario cleared, where steps differ in length, and
    for voltages that the grid model does not determine (copperplate; `paper` without a reactive
    balance).
    """
    if quantity not in get_args(Quantity):
        raise ValueError(f"plots.fan: {quantity!r} is none of {', '.join(get_args(Quantity))}.")
    if not np.ndim(clearings.steps):
        raise ValueError("plots.fan: this is one clearing; draw a batch, as clear_many gives it.")
    if quantity == "voltage" and not has_state(markets):
        model = markets.grid.model
        raise ValueError(
            f"plots.fan: {model.name} markets have no voltages"
            + (" without a reactive balance." if model.networked else ".")
        )
    lengths = np.asarray(markets.hour_length)
    if np.any(lengths != lengths[0]):
        raise ValueError("plots.fan: Market.hour_length differs between scenarios.")
    cleared = np.asarray(clearings.ok)
    if not cleared.any():
        raise ValueError("plots.fan: no scenario cleared, so there is nothing to draw.")
    values = _values(markets, clearings, quantity)[cleared]
    title, missed = f"{len(cleared)} scenarios", int((~cleared).sum())
    title += f" ({missed} NOT CLEARED, left out)" if missed else ""
    ax = begin(ax, title, TIME, _LABELS[quantity])
    edges = np.append(0.0, np.cumsum(lengths[0]))  # since each start
    for low, high, opacity in _BANDS:
        bottom, top = np.quantile(values, (low, high), axis=0)
        label = f"{100 * low:g} to {100 * high:g} %"
        ax.stairs(
            top, edges, baseline=bottom, fill=True, color=BLUE, alpha=opacity, lw=0, label=label
        )
    ax.stairs(np.median(values, axis=0), edges, baseline=None, color=BLUE, lw=1.8, label="median")
    ax.use_sticky_edges = False  # else bands touch the frame
    legend(ax)
    return ax


def _values(markets: Market, clearings: Clearing, quantity: Quantity) -> np.ndarray:
    """The quantity by scenario and hour."""
    if quantity == "sigma":
        return np.asarray(jax.vmap(aggregate)(markets, clearings.plan))
    if quantity == "price":
        return np.asarray(jax.vmap(energy_prices)(markets, clearings.prices)).mean(axis=1)
    return np.asarray(jax.vmap(magnitudes)(markets, clearings.plan)).min(axis=1)
