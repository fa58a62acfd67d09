"""What bills are compared with: the market without trades, cleared for it, or what is given."""

from typing import Literal, NamedTuple

import numpy as np

from ..batch import clear_many
from ..clearing import clear
from ..comparison import REFERENCE, baselines
from ..market import Market
from ..result import Clearing, NotCleared

Baseline = Clearing | tuple[Market, Clearing] | Literal["no trading"] | None


class Compared(NamedTuple):
    """What bills are compared with, why there is nothing, and how that and its gain are called."""

    pair: tuple[Market, Clearing] | None
    missing: str = ""
    called: str = "without P2P"
    saved: str = "saved by P2P"


def against(caller: str, market: Market, clearing: Clearing, baseline: Baseline) -> Compared:
    """What is asked for as a baseline; `ValueError` for other households."""
    if baseline is None:
        return Compared(None)
    if isinstance(baseline, tuple | Clearing):
        pair = baseline if isinstance(baseline, tuple) else (market, baseline)
        ours, theirs = np.shape(market.prosumers.bus), np.shape(pair[0].prosumers.bus)
        if ours != theirs:
            raise ValueError(
                f"{caller}: prosumers of shape {ours} but {theirs} in the baseline; compare "
                "the same households."
            )
        return Compared(pair, called="in the baseline", saved="saved against it")
    if baseline != REFERENCE:
        raise ValueError(
            f"{caller}: baseline={baseline!r}; give {REFERENCE!r}, a clearing, a market with its "
            "clearing, or None."
        )
    alone = baselines(market)[REFERENCE]
    if np.ndim(clearing.steps):
        found = clear_many(alone)
        some = bool(np.any(np.asarray(found.ok) & np.asarray(clearing.ok)))
        return Compared((market, found)) if some else _without("no scenario clears")
    try:
        return Compared((market, clear(alone)))
    except NotCleared as stop:
        return _without(str(stop))


def _without(why: str) -> Compared:
    return Compared(None, f"There is no comparison with the market without trades: {why}")
