"""A cleared market, or a batch of them, as one page to open, read and hand on."""

from pathlib import Path
from typing import Literal

import numpy as np

from ..batch import clear_many
from ..clearing import clear
from ..comparison import REFERENCE, baselines
from ..market import Market
from ..result import Clearing, NotCleared
from ..status import status_name
from . import batch, one_market
from .page import Page, converter

Baseline = Clearing | tuple[Market, Clearing] | Literal["no trading"] | None


def report(
    market: Market,
    clearing: Clearing,
    *,
    baseline: Baseline = REFERENCE,
    out: str | Path = "report.html",
    title: str = "Market report",
) -> Path:
    """Write one HTML file about a clearing, or about those of a batch; its path.

    It needs no network and no other file (docs/report.md). Bills stand beside those of the
    `baseline`: by default the market without trades, which is cleared for it; a clearing of the
    same households, alone or with its own market; or None, for none. Where it does not clear it is
    left out, and the page says so.

    Raises `ValueError` for a clearing of another market and for one without a plan, and
    `ImportError` without the extra "report".
    """
    converter()
    ours, theirs = np.shape(market.prosumers.load), np.shape(clearing.plan.imports)
    if ours != theirs:
        raise ValueError(
            f"report: loads of shape {ours} but imports of shape {theirs}; pass the market, or the "
            "batch of markets, that this clearing is of."
        )
    page, many = Page(title), bool(np.ndim(clearing.steps))
    if not many and status_name(clearing.status) in ("infeasible", "nonfinite"):
        raise ValueError(
            f"report: this clearing is {status_name(clearing.status)}, so there is neither a plan "
            "nor prices to show; jg.relax(market) tells what must give way."
        )
    if many and not np.asarray(clearing.ok).any():
        raise ValueError("report: no scenario of this batch cleared, so there is nothing to show.")
    against, missing = _against(market, clearing, baseline)
    fill = batch.fill if many else one_market.fill
    data = fill(page, market, clearing, against, missing)
    target = Path(out)
    page.write(target, data)
    return target


def _against(
    market: Market, clearing: Clearing, baseline: Baseline
) -> tuple[tuple[Market, Clearing] | None, str]:
    """What bills are compared with, and a word on why there is nothing."""
    if baseline is None:
        return None, ""
    if isinstance(baseline, tuple | Clearing):
        pair = baseline if isinstance(baseline, tuple) else (market, baseline)
        ours, theirs = np.shape(market.prosumers.bus), np.shape(pair[0].prosumers.bus)
        if ours != theirs:
            raise ValueError(
                f"report: prosumers of shape {ours} but {theirs} in the baseline; compare the same "
                "households."
            )
        return pair, ""
    if baseline != REFERENCE:
        raise ValueError(
            f"report: baseline={baseline!r}; give {REFERENCE!r}, a clearing, a market with its "
            "clearing, or None."
        )
    alone = baselines(market)[REFERENCE]
    if np.ndim(clearing.steps):
        found = clear_many(alone)
        some = bool(np.any(np.asarray(found.ok) & np.asarray(clearing.ok)))
        return ((market, found), "") if some else (None, _without("no scenario clears"))
    try:
        return (market, clear(alone)), ""
    except NotCleared as stop:
        return None, _without(str(stop))


def _without(why: str) -> str:
    return f"There is no comparison with the market without trades: {why}"
