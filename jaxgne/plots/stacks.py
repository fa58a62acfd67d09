"""Power and storage content of one prosumer or all, stacked by hour."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..market import Market
from ..model import bought
from ..names import owners, row_of
from ..result import Clearing
from ..runner import hosted
from .style import (
    BLACK,
    BLUE,
    CYCLE,
    GRAY,
    GREEN,
    SKY,
    TIME,
    VERMILLION,
    YELLOW,
    begin,
    check,
    hour_edges,
    legend,
    on_clock,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@hosted
def energy(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    prosumer: int | str | None = None,
) -> "Axes":
    """Where power comes from (above zero) and goes to (below), by hour, kW: both equally high.

    Of all prosumers, whose trades cancel, or of one, by number or name, whose trades show net.
    Loads are net of each prosumer's own renewables (less what is curtailed), so of those only a
    surplus shows.
    """
    note = check("energy", market, clearing)
    chosen, whose = _chosen("energy", market, prosumer)
    plan = clearing.plan
    load = (np.asarray(market.prosumers.load) + np.asarray(plan.curtailed))[chosen]
    units, stores = (chosen[np.asarray(part.owner)] for part in (market.generators, market.buffers))
    # Of all the net trades are rounding errors, which would clutter the legend.
    peers = np.asarray(bought(market, plan.trades))[chosen] * (prosumer is not None)
    ax = on_clock(begin(ax, f"Power of {whose}{note}", TIME, "power (kW)"), market)
    sources = {
        "imports": (BLUE, np.asarray(plan.imports)[chosen]),
        "generation": (VERMILLION, np.asarray(plan.generation)[units]),
        "discharge": (GREEN, np.asarray(plan.discharge)[stores]),
        "bought from peers": (SKY, np.maximum(peers, 0.0)),
        "renewable surplus": (YELLOW, np.maximum(-load, 0.0)),
    }
    uses = {
        "load": (GRAY, np.maximum(load, 0.0)),
        "charge": (GREEN, np.asarray(plan.charge)[stores]),
        "sold to peers": (SKY, np.maximum(-peers, 0.0)),
        "exports": (BLUE, np.asarray(plan.exports)[chosen]),
    }
    edges = hour_edges(market)
    _stack(ax, edges, sources, 1.0)
    _stack(ax, edges, uses, -1.0)
    ax.use_sticky_edges = False  # else stacks touch the frame
    ax.axhline(0.0, color=BLACK, linewidth=1)
    legend(ax)
    return ax


def storage(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    prosumer: int | str | None = None,
) -> "Axes":
    """What buffers hold, kWh, one on top of the other, and the bounds of the sum (dashed).

    Of all prosumers or of one, by number or name. The six that hold most are told apart, the
    others are one area. `ValueError` where there are no buffers.
    """
    note = check("storage", market, clearing)
    chosen, whose = _chosen("storage", market, prosumer)
    table = market.buffers
    owner = np.asarray(table.owner)
    kept = np.flatnonzero(chosen[owner])
    if not kept.size:
        raise ValueError(
            f"plots.storage: {whose} {'has' if prosumer is not None else 'have'} none."
        )
    ax = on_clock(begin(ax, f"Storage of {whose}{note}", TIME, "content (kWh)"), market)
    edges = hour_edges(market)
    begun = np.asarray(table.energy_start)[:, None]
    content = np.concatenate([begun, np.asarray(clearing.plan.energy)], axis=1)[kept]
    order = np.argsort(-content.max(axis=1), kind="stable")
    shown = len(CYCLE) - 1
    parts = [content[k] for k in order[:shown]]
    labels = [owners(market).device("buffer", kept[k]) for k in order[:shown]]
    colors: list[str] = list(CYCLE[: len(parts)])
    if len(order) > shown:
        parts.append(content[order[shown:]].sum(axis=0))
        labels.append(f"{len(order) - shown} others")
        colors.append(GRAY)
    ax.stackplot(edges, *parts, labels=labels, colors=colors, edgecolor="white", linewidth=0.5)
    for bound, label in ((table.energy_min, "bounds"), (table.energy_max, None)):
        total = np.asarray(bound)[kept].sum(axis=0)
        ax.plot(edges[1:], total, color=BLACK, linestyle="--", linewidth=1, label=label)
    ax.set_xlim(edges[0], edges[-1])
    legend(ax, upward=True)
    return ax


def _chosen(name: str, market: Market, prosumer: int | str | None) -> tuple[np.ndarray, str]:
    """Which prosumers are meant, and how they are called."""
    count = len(market.prosumers.bus)
    if prosumer is None:
        return np.ones(count, bool), "all prosumers"
    row = row_of(f"plots.{name}", "prosumer", prosumer, market.prosumers.names, count)
    return np.arange(count) == row, owners(market).prosumer(row)


def _stack(ax: "Axes", edges: np.ndarray, parts: dict[str, tuple[str, Any]], sign: float) -> None:
    """Sums over rows on top of one another; parts that are nothing are left out."""
    base = np.zeros(len(edges) - 1)
    for label, (color, power) in parts.items():
        total = sign * np.asarray(power, float).sum(axis=0)
        if not np.any(total):
            continue
        ax.stairs(base + total, edges, baseline=base, fill=True, color=color, label=label)
        base = base + total
