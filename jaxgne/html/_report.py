"""A cleared market, or a batch of them, as one page to open, read and hand on."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import of_tables
from ..comparison import REFERENCE
from ..files import check_place
from ..market import Market
from ..result import Clearing
from ..status import status_name
from . import batch, one_market
from .baseline import Baseline, against
from .page import Page, converter

if TYPE_CHECKING:
    from ..simulation import Simulation


@of_tables
def report(
    market: Market,
    clearing: Clearing,
    *,
    baseline: Baseline = REFERENCE,
    out: str | Path = "report.html",
    title: str = "Market report",
    about: "Simulation | None" = None,
) -> Path:
    """Write one HTML file about a clearing, or about those of a batch; its path.

    The file is `out`, headed by `title`. It needs no network and no other file (docs/report.md).
    Bills stand beside those of the `baseline`: by default the market without trades, which is
    cleared for it; a clearing of the same households, alone or with its own market; or None, for
    none. Where it does not clear it is left out, and the page says so. Of the days of a simulation
    (`hindsight.days`) the page is `about` that: it begins with what the simulation says of itself.

    Raises `ValueError` for a clearing of another market and for one without a plan, `OSError` where
    `out` cannot be written, and `ImportError` without the extra "report".
    """
    converter()
    target = Path(out)
    check_place(target)
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
    other = against("report", market, clearing, baseline)
    if many:
        data = batch.fill(page, market, clearing, other, about)
    else:
        data = one_market.fill(page, market, clearing, other)
    page.write(target, data)
    return target
