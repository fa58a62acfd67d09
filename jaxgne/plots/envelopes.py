"""A map of envelopes: how much who is at each bus may draw or feed in, in one hour."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import of_tables
from ..clock import in_hour, step_at
from ..each import for_one
from ..envelopes import Envelope
from ..market import Market
from .maps import grid_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@of_tables
@for_one()
def envelope_map(
    market: Market,
    envelope: Envelope,
    ax: "Axes | None" = None,
    *,
    way: Literal["imports", "exports"] = "imports",
    hour: Any = None,
    positions: Any = None,
) -> "Axes":
    """The grid, its buses colored by what all prosumers there may draw, or feed in, together.

    `way` says which limits of the `envelope`: "imports" or "exports", kW net. At an `hour` (as for
    `plots.feeder`), by default that of the least sum, of those in which a limit of the grid holds
    it back. Buses without prosumers are gray. In three phases who stands on several counts at each
    of them by its share; `positions` are as for `plots.feeder`.

    Raises `ValueError` for a copperplate market, another way, and an hour that there is not.
    """
    if way not in ("imports", "exports"):
        raise ValueError(f"plots.envelope_map: way={way!r}; give 'imports' or 'exports'.")
    limits, held = np.asarray(getattr(envelope, way)), [*map(bool, envelope.held)]
    kept = np.array(held) if any(held) else np.ones(len(held), bool)
    least = int(np.argmin(np.where(kept, limits.sum(axis=0), np.inf)))
    step = least if hour is None else step_at(market, hour)
    values = np.full(len(market.grid.passive), np.nan)
    rows, power = _spread(market, limits[:, step])
    values[rows] = 0.0
    np.add.at(values, rows, power)
    verb = {"imports": "draw", "exports": "feed in"}[way]
    label = f"what all there may {verb} at most {in_hour(market, step)} (kW)"
    return grid_map(market, values, label, ax, of="buses", positions=positions)


def _spread(market: Market, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of buses and kW there, of who is at a terminal at each of its phases."""
    grid, bus = market.grid, np.asarray(market.prosumers.bus)
    line = np.asarray(grid.terminal)
    ends = np.stack(
        [np.asarray(grid.source)[line], np.asarray(grid.second), np.asarray(grid.third)]
    )
    at = np.full(len(grid.passive), -1)
    at[np.asarray(grid.target)[line]] = np.arange(len(line))
    own = at[bus] < 0
    rows, shares = [bus[own]], [power[own]]
    for end in ends:
        there = end[at[bus[~own]]]
        count = np.sum(ends[:, at[bus[~own]]] >= 0, axis=0)
        rows.append(there[there >= 0])
        shares.append((power[~own] / count)[there >= 0])
    return np.concatenate(rows), np.concatenate(shares)
