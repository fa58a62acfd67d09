"""Whether plans are inside of their bounds."""

from collections.abc import Iterable

import numpy as np

from jaxgne import Market
from jaxgne.model import Plan, boxes


def hold_to_bounds(market: Market, plan: Plan, names: Iterable[str], slack: float = 0.0) -> None:
    """Assert that tables of a plan, by name, are outside of no bound by more than `slack`."""
    lower, upper = boxes(market)
    for name in names:
        table, low, high = (np.asarray(getattr(p, name)) for p in (plan, lower, upper))
        assert np.all((table >= low - slack) & (table <= high + slack)), name
