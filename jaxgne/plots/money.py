"""What each prosumer pays and for what, and what it gains."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import of_tables
from ..comparison import REFERENCE, Comparison, outcome
from ..market import Market
from ..result import Clearing
from ..settlement import settle
from .style import (
    BLACK,
    BLUE,
    GAIN,
    GRAY,
    GREEN,
    LOSS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    begin,
    check,
    legend,
    name_rows,
    narrow,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _across(names: tuple[str, ...]) -> str:
    """What an axis of prosumers is called."""
    return "prosumer" if names else "prosumer (index)"


@of_tables
def costs(market: Market, clearing: Clearing, ax: "Axes | None" = None) -> "Axes":
    """Cost of each prosumer and what it is made of, EUR: bills (`settle`) and devices.

    Parts that are paid to a prosumer count below zero; the dot is the sum, `outcome(...).cost`.
    """
    note = check("costs", market, clearing)
    bills, total = settle(market, clearing), np.asarray(outcome(market, clearing).cost)
    parts = {
        "main grid": (BLUE, np.asarray(bills.main_grid) + np.asarray(bills.adders)),
        "peers": (SKY, bills.peers),
        "tolls on trades": (PURPLE, bills.tolls),
        "limit on the total": (ORANGE, bills.capacity),
        "network": (VERMILLION, np.asarray(bills.congestion) + np.asarray(bills.reactive)),
        "caps": (YELLOW, np.asarray(bills.caps) + np.asarray(bills.charges)),
        "carbon": (GRAY, bills.carbon),
    }
    amounts = {name: (color, np.asarray(paid).sum(axis=1)) for name, (color, paid) in parts.items()}
    paid = sum((part for _, part in amounts.values()), np.zeros_like(total))
    amounts["devices"] = (GREEN, total - paid)
    names = market.prosumers.names
    ax = begin(ax, f"Costs by prosumer{note}", _across(names), "cost (EUR)")
    places, above, below = np.arange(len(total)), np.zeros_like(total), np.zeros_like(total)
    for name, (color, amount) in amounts.items():
        if not np.any(np.abs(amount) > 1e-9 * np.abs(total).max(initial=0.0)):
            continue
        ax.bar(places, amount, bottom=np.where(amount > 0, above, below), color=color, label=name)
        above, below = above + np.maximum(amount, 0.0), below + np.minimum(amount, 0.0)
    dot: dict[str, Any] = {"markeredgecolor": "white", "markersize": 2.5 if narrow(ax) else 5}
    ax.plot(places, total, "o", color=BLACK, label="sum", **dot)
    ax.axhline(0.0, color=BLACK, linewidth=1)
    name_rows(ax.xaxis, names, len(total))
    legend(ax)
    return ax


def benefits(
    compared: Comparison,
    ax: "Axes | None" = None,
    *,
    name: str | None = None,
    reference: str = REFERENCE,
) -> "Axes":
    """What each prosumer saves under `name` against `reference`, EUR: the difference of its costs.

    `compared` is what `compare` found, `name` by default its first but the reference. Raises
    `ValueError` where one of them was not.
    """
    known = list(compared.outcomes)
    chosen = next((k for k in known if k != reference), reference) if name is None else name
    for word in (chosen, reference):
        if word not in known:
            raise ValueError(f"plots.benefits: {word!r} was not compared, but {', '.join(known)}.")
    saved = compared.outcomes[reference].cost - compared.outcomes[chosen].cost
    saved = np.asarray(saved)
    if saved.ndim > 1:
        raise ValueError(
            f"plots.benefits: these are batches of {len(saved)} scenarios; compare one of them, "
            "jg.scenarios.lane((markets, clearings), k)."
        )
    title = f"Benefit by prosumer: {chosen} against {reference}"
    ax = begin(ax, title, _across(compared.names), "benefit (EUR)")
    colors = [GAIN if amount >= 0 else LOSS for amount in saved]
    ax.bar(np.arange(len(saved)), saved, color=colors)
    mean = float(saved.mean())
    ax.axhline(mean, color=BLACK, linestyle="--", linewidth=1, label=f"mean, {mean:.3g} EUR")
    ax.axhline(0.0, color=BLACK, linewidth=1)
    name_rows(ax.xaxis, compared.names, len(saved))
    legend(ax)
    return ax
