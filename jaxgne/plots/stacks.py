"""Power and storage content of one prosumer or all, stacked by hour."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import of_tables
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
    ORANGE,
    PURPLE,
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


@of_tables
@hosted
def energy(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    prosumer: int | str | None = None,
    passive: bool = False,
) -> "Axes":
    """Where power comes from (above zero) and goes to (below), by hour, kW: both equally high.

    Of all prosumers, whose trades cancel and are drawn as a line, what is traded in all; or of one
    `prosumer`, by number or name, whose trades show net. With `passive` also what passive consumers
    draw or feed in, and import for it. Sun is what may be curtailed and is not, or where loads are
    below zero that surplus, as `docs/indicators.md` counts it; of sun that is neither, only that
    what is left of the load shows. `ValueError` for `passive` and a prosumer.
    """
    if passive and prosumer is not None:
        raise ValueError(
            "plots.energy: passive consumers are no prosumer's; leave one of them out."
        )
    note = check("energy", market, clearing)
    chosen, whose = _chosen("energy", market, prosumer)
    plan, people = clearing.plan, market.prosumers
    load, room = np.asarray(people.load)[chosen], np.asarray(people.curtail_max)[chosen]
    sun = np.maximum(room, -np.minimum(load, 0.0))
    units, stores = (chosen[np.asarray(part.owner)] for part in (market.generators, market.buffers))
    # Of all the net trades are rounding errors, which would clutter the legend.
    peers = np.asarray(bought(market, plan.trades))[chosen] * (prosumer is not None)
    others = np.asarray(market.grid.passive) * passive
    whose += " and passive consumers" * passive
    ax = on_clock(begin(ax, f"Power of {whose}{note}", TIME, "power (kW)"), market)
    sources = {
        "imports": ({"color": BLUE}, [*np.asarray(plan.imports)[chosen], *others]),
        "generation": ({"color": VERMILLION}, np.asarray(plan.generation)[units]),
        "sun": ({"color": YELLOW}, sun - np.asarray(plan.curtailed)[chosen]),
        "discharge": ({"color": GREEN}, np.asarray(plan.discharge)[stores]),
        "bought from peers": ({"color": SKY}, np.maximum(peers, 0.0)),
    }
    uses = {
        "load": ({"color": GRAY}, load + sun),
        "passive consumers": ({"color": "0.8"}, others),
        "charge": ({"color": ORANGE}, np.asarray(plan.charge)[stores]),
        "sold to peers": (
            {"color": SKY, "hatch": "////", "edgecolor": "white", "lw": 0},
            np.maximum(-peers, 0.0),
        ),
        "exports": ({"color": PURPLE}, np.asarray(plan.exports)[chosen]),
    }
    edges = hour_edges(market)
    _stack(ax, edges, sources, uses)
    traded = np.abs(np.asarray(plan.trades)).sum(axis=0)
    if prosumer is None and traded.any():
        look: dict[str, Any] = {"color": BLACK, "linestyle": "--", "label": "traded among peers"}
        ax.stairs(traded, edges, baseline=None, **look)
    ax.use_sticky_edges = False  # else stacks touch the frame
    ax.axhline(0.0, color=BLACK, linewidth=1)
    legend(ax)
    return ax


@of_tables
def storage(
    market: Market,
    clearing: Clearing,
    ax: "Axes | None" = None,
    *,
    prosumer: int | str | None = None,
) -> "Axes":
    """What buffers hold, kWh, one on top of the other, and the bounds of the sum (dashed).

    The lower bound is what each must hold in its freest hour; triangles are hours at whose end more
    is due, as at a car's departure. Of all prosumers or of one `prosumer`, by number or name. The
    six that hold most are told apart, the others are one area. `ValueError` where there are no
    buffers.
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
    low, high = (np.asarray(b)[kept] for b in (table.energy_min, table.energy_max))
    due, base = low.sum(axis=0), low.min(axis=1).sum()
    dashed: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 1}
    ax.stairs(high.sum(axis=0), edges, baseline=None, label="bounds", **dashed)
    ax.hlines(base, edges[0], edges[-1], **dashed)
    more = due > base + 1e-6 * np.abs(high).sum(axis=0)
    if more.any():
        ax.plot(
            edges[1:][more], due[more], "v", color=BLACK, markersize=4, label="due", clip_on=False
        )
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


def _stack(ax: "Axes", edges: np.ndarray, *sides: dict[str, tuple[dict[str, Any], Any]]) -> None:
    """Sums over rows on top of one another, those of the first side up, of the other down.

    Parts that are nothing, to a solver's rounding, are left out.
    """
    sums = [
        {label: (look, np.sum(rows, axis=0)) for label, (look, rows) in parts.items() if len(rows)}
        for parts in sides
    ]
    least = 1e-4 * max(
        (np.abs(row).max() for parts in sums for _, row in parts.values()), default=0
    )
    for parts, sign in zip(sums, (1.0, -1.0), strict=True):
        base = np.zeros(len(edges) - 1)
        for label, (look, total) in parts.items():
            if np.abs(total).max() <= least:
                continue
            top = base + sign * total
            ax.stairs(top, edges, baseline=base, fill=True, label=label, **look)
            base = top
