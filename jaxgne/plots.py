"""Figures of a cleared market, hour by hour; matplotlib is imported when one is drawn.

Each function draws on `ax`, or on a new figure, and returns the axes. Titles of results that did
not clear say so.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .clearing import Clearing, status_name
from .market import Market
from .model import aggregate, energy_prices, grid_price
from .model import voltages as magnitudes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAND: dict[str, Any] = {"fill": True, "alpha": 0.35}


def prices(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Marginal value of energy by hour, EUR/kWh: the prosumers' range, their median, the grid's.

    A prosumer's is pi_i + mu_pb of its bus (MODEL 4), the main grid's p0 + d_mg sigma. Prices of
    an infeasible market are the proof of that, not prices: `ValueError`.
    """
    if not np.ndim(clearing.steps) and status_name(clearing.status) == "infeasible":
        raise ValueError("plots.prices: an infeasible market has no prices; they are its proof.")
    ax, edges = _begin(market, clearing, "Prices", "EUR/kWh", ax)
    values = np.asarray(energy_prices(market, clearing.prices))
    main = np.asarray(grid_price(market, aggregate(market, clearing.plan)))
    if len(values):
        low, high = values.min(axis=0), values.max(axis=0)
        ax.stairs(high, edges, baseline=low, label="prosumers, lowest to highest", **_BAND)
        ax.stairs(np.median(values, axis=0), edges, baseline=None, label="prosumers, median")
    ax.stairs(main, edges, baseline=None, linestyle="--", label="main grid")
    ax.legend()
    return ax


def voltages(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Lowest to highest voltage of all buses by hour, pu, and the tightest limits (dashed).

    `ValueError` for a copperplate market, which has none.
    """
    grid = market.grid
    if grid.model == "copperplate":
        raise ValueError("plots.voltages: a copperplate market has no voltages.")
    ax, edges = _begin(market, clearing, "Voltages", "pu", ax)
    values = np.asarray(magnitudes(market, clearing.plan))
    low, high = values.min(axis=0), values.max(axis=0)
    ax.stairs(high, edges, baseline=low, label="buses, lowest to highest", **_BAND)
    inner = np.setdiff1d(np.arange(len(values)), np.asarray(grid.feeder))
    if inner.size:
        least = float(np.asarray(grid.voltage_min)[inner].max())
        most = float(np.asarray(grid.voltage_max)[inner].min())
        for limit, label in ((least, "limits"), (most, None)):
            ax.axhline(limit, color="black", linestyle="--", linewidth=1, label=label)
    ax.legend()
    return ax


def energy(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Where the prosumers' power comes from (above zero) and goes to (below), by hour, kW.

    Loads are net of each prosumer's own renewables (less what is curtailed), so of those only a
    surplus shows. Trades are between prosumers and cancel: both stacks are equally high.
    """
    ax, edges = _begin(market, clearing, "Power of all prosumers", "kW", ax)
    plan = clearing.plan
    load = np.asarray(market.prosumers.load) + np.asarray(plan.curtailed)
    sources = {
        "imports": plan.imports,
        "generation": plan.generation,
        "discharge": plan.discharge,
        "renewable surplus": np.maximum(-load, 0.0),
    }
    uses = {"load": np.maximum(load, 0.0), "charge": plan.charge, "exports": plan.exports}
    _stack(ax, edges, sources, 1.0)
    _stack(ax, edges, uses, -1.0)
    ax.axhline(0.0, color="black", linewidth=1)
    ax.legend(ncols=2)
    return ax


def _begin(
    market: Market, clearing: Clearing, title: str, unit: str, ax: "Axes | None"
) -> tuple["Axes", np.ndarray]:
    """Axes with title and labels, and the edges of the hours, h. One market only."""
    if np.ndim(clearing.steps):
        raise ValueError(
            f"plots: this is a batch of {clearing.steps.shape[0]} clearings; draw one, "
            "jax.tree.map(lambda a: a[0], clearing)."
        )
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3.5), layout="constrained")
    name = status_name(clearing.status)
    ax.set_title(title if name == "cleared" else f"{title} (NOT CLEARED: {name})")
    ax.set_xlabel("hour")
    ax.set_ylabel(unit)
    hours = market.prosumers.load.shape[-1]
    return ax, np.arange(hours + 1) * float(market.hour_length)


def _stack(ax: "Axes", edges: np.ndarray, parts: dict[str, Any], sign: float) -> None:
    """Sums over rows on top of one another; parts that are nothing are left out."""
    base = np.zeros(len(edges) - 1)
    for label, power in parts.items():
        total = sign * np.asarray(power, float).sum(axis=0)
        if not np.any(total):
            continue
        color = f"C{len(ax.patches)}"
        ax.stairs(base + total, edges, baseline=base, fill=True, color=color, label=label)
        base = base + total
