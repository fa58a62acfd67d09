"""Why a market has no plan, in words: what is out of reach, by how much, and what would do."""

import numpy as np

from .certificate import explain_infeasible
from .clock import hour_name
from .elastic import fits
from .market import Market
from .model import Rows
from .relax import GaveWay, relax

_TOLD = 50_000  # entries of a plan up to which a sentence may take a linear program


def why_infeasible(market: Market, prices: Rows) -> str:
    """What the proof in `prices` speaks of, what lacks, and the cheapest way out (`relax`).

    The first alone where the market is large, or where no limit that `relax` moves would do.
    """
    said = explain_infeasible(market, prices)
    if not fits(market, _TOLD):
        return said
    try:
        found = relax(market)
    except ValueError:  # also where other limits than these would have to give way
        return said
    if not found.lines:
        return said
    more = len(found.lines) - 1
    others = f" and {more} more" if more else ""
    first = found.lines[0].rsplit(":", 1)[0]
    return (
        f"{said} {_lack(market, prices)}Cheapest way out: {first}{others}, "
        f"{float(found.cost):.4g} EUR (jg.relax(market) lists it)."
    )


def _lack(market: Market, prices: Rows) -> str:
    """What buffers lack by when, where contents are part of the proof; else nothing."""
    if not np.any(np.asarray(prices.energy)):
        return ""
    try:
        found = relax(market, limits=["Buffers.energy_min"])
    except ValueError:  # contents are not what is wrong
        return ""
    if not found.table:
        return ""
    worst: dict[int, GaveWay] = {}
    for row in found.table:
        if row.row not in worst or row.amount > worst[row.row].amount:
            worst[row.row] = row
    told = sorted(worst.values(), key=lambda row: -row.amount)
    words = [
        f"{row.amount:.4g} kWh in {row.place} by the end of {hour_name(market, row.hours[0])}"
        for row in told[:3]
    ]
    return f"Lacking: {', '.join(words)}{', ...' * (len(told) > 3)}. "
