"""Why a market has no plan, in words: what is out of reach, by how much, and what would do."""

from typing import Any

import numpy as np

from .causes import explain_infeasible
from .clock import hour_name, in_hours
from .elastic import fits
from .market import Market
from .model import Rows, families
from .names import called
from .relaxation import GaveWay, relax

_HEARD = 0.05  # share of a ray's largest entry from which on a row is named
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


def said_by_ray(of: Any, prices: Rows) -> str:
    """Which rows a proof in `prices` rests on, without the market: `of` is its certificate."""
    told, most = [], max(float(np.abs(np.asarray(a)).max(initial=0.0)) for a in _tables(prices))
    for field, table in zip(families(prices).values(), _tables(prices), strict=True):
        share = np.abs(table) / (most or 1.0)
        if share.max(initial=0.0) <= _HEARD:
            continue
        row = int(share.max(axis=1).argmax())
        when = in_hours(of, np.flatnonzero(share[row] > _HEARD).tolist())
        name = called(of.owners, of, field.row, row)
        name = f"cap {of.caps.names[row]!r}" if field.row == "cap" else name
        where = f" of {name}" if len(field.axes) > 1 else ""
        told.append(f"{field.means}{where} {when}")
    return f"the proof rests on {', '.join(told)}"


def _tables(prices: Rows) -> list[np.ndarray]:
    return [np.atleast_2d(np.asarray(getattr(prices, family))) for family in families(prices)]
