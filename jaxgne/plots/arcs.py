"""Trades on a map: arrows from where power is sold to where it is bought."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..market import Market
from ..model import Plan, net_load
from .layout import Spots
from .style import VERMILLION, narrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 20  # arrows drawn by themselves
_SHARE = 0.8  # of what is traded that they carry
_LEAST = 0.01  # of what prosumers draw and feed in: what a trade must be to be drawn


def draw_trades(
    ax: "Axes", market: Market, spots: Spots, plan: Plan, step: int, least: float | None
) -> list[Any]:
    """Arrows from seller to buyer, as wide as the trade; legend entries."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    sold = bus_trades(market, spots, np.asarray(plan.trades)[:, step])
    ranked = sorted(sold.items(), key=lambda item: -item[1])
    power = np.array([kw for _, kw in ranked])
    moved = np.abs(np.asarray(net_load(market, plan))[:, step]).sum()
    shown = ranked[: largest(power, moved) if least is None else int((power >= least).sum())]
    widest = shown[0][1] if shown else 0.0
    small = 0.5 if narrow(ax) else 1.0
    for (seller, buyer), kw in shown:
        width = (0.5 + 3.0 * kw / widest) * small
        arrow = FancyArrowPatch(
            tuple(spots.places[seller]),
            tuple(spots.places[buyer]),
            connectionstyle="arc3,rad=0.25",
            arrowstyle="-|>",
            mutation_scale=6.0 * small + 1.5 * width,
            shrinkA=4.0 * small,
            shrinkB=4.0 * small,
            linewidth=width,
            color=VERMILLION,
            alpha=0.6,
            zorder=2,
        )
        ax.add_patch(arrow)
    if not sold:
        return []
    look: dict[str, Any] = {"color": VERMILLION, "alpha": 0.6, "linewidth": 3.5 * small}
    if not shown:
        return [Line2D([], [], label=f"no trade drawn: none above {power[0]:.2g} kW", **look)]
    label = f"trade, widest {widest:.3g} kW"
    if len(shown) < len(sold):
        share = power[: len(shown)].sum() / power.sum()
        label += "\n" if narrow(ax) else " "
        label += f"({len(shown)} of {len(sold)}, {100 * share:.0f} % of all)"
    return [Line2D([], [], label=label, **look)]


def largest(power: np.ndarray, moved: float) -> int:
    """How many of trades, kW, the largest first, are drawn where prosumers move so many kW."""
    needed = 1 + int(np.searchsorted(np.cumsum(power), _SHARE * power.sum()))
    return min(needed, _MOST, int((power >= _LEAST * moved).sum()))


def bus_trades(market: Market, spots: Spots, trades: np.ndarray) -> dict[tuple[int, int], float]:
    """What the buses' prosumers sell to those of another, kW: (seller, buyer) to net power.

    Less than a thousandth of the largest is a solver's rounding and left out.
    """
    bus, pairs = spots.of[np.asarray(market.prosumers.bus)], market.trading
    buyer, seller = bus[np.asarray(pairs.buyer)], bus[np.asarray(pairs.seller)]
    net: dict[tuple[int, int], float] = {}
    for one, other, power in zip(buyer.tolist(), seller.tolist(), trades.tolist(), strict=True):
        first, sign = ((one, other), 1.0) if one < other else ((other, one), -1.0)
        net[first] = net.get(first, 0.0) + sign * power
    flows = {
        (to, at) if power > 0 else (at, to): abs(power)
        for (at, to), power in net.items()
        if at != to
    }
    least = 1e-3 * max(flows.values(), default=0.0)
    return {ends: power for ends, power in flows.items() if power > least}
