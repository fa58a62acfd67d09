"""What is known when a window is cleared: forecasts, functions of the past and of the truth.

A forecast is called as `forecast(seen, window, at)`: `seen` is the truth up to step `at`, where the
window begins, `window` the truth of the window, with the contents and levels it begins with. It
returns the market that is cleared in its place: another load, sun or price, the rest as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from .market import Market


class Branches(NamedTuple):
    """Several forecasts of one window, each with a probability; these sum to 1."""

    markets: tuple[Market, ...]
    probability: Any


Forecast = Callable[[Market, Market, int], Market | Branches]


def perfect() -> Forecast:
    """Everyone knows what comes."""
    return _as_it_is


def _as_it_is(seen: Market, window: Market, at: int) -> Market:
    return window
