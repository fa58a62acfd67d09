"""The reverse derivative of a small market's equilibrium, which NumPy can run."""

import warnings
from collections.abc import Callable
from typing import Any

import jax

from ..market import Market
from ..model import Plan, Rows
from .active import ajar
from .by_hand import by_market
from .by_point import unfolded_back
from .kinks import TORN, UNDETERMINED, sided
from .lagrangian import Point, point_of
from .open_prices import LOOSE, SHARES, is_part, loosened, named, refused
from .polish import polished
from .refinement import LEFT


def reverse(
    market: Market,
    plan: Plan,
    prices: Rows,
    by_plan: Plan,
    by_prices: Rows,
    tol: float,
    asked: Callable[[Market], Any] = lambda market: market,
) -> Market:
    """An output's derivative by the market, given those by plan and prices at its equilibrium.

    By a system with K, to a relative residual of `tol`. Raises `RuntimeError` where the derivative
    is not determined, by one of the fields `asked` for, or not known to lie between the one-sided
    ones. Warns where some fields are asked for that only count together.
    """
    active, plan, prices = polished(market, plan, prices)
    wide = ajar(market, active)
    point = point_of(market, wide, plan, prices)
    right = unfolded_back(market, wide, plan, by_plan, by_prices)
    found = sided(market, active, plan, point, right, tol=tol, max_steps=0)
    if found.torn:
        raise RuntimeError(TORN)
    if not found.solved.residual <= LEFT:
        raise RuntimeError(UNDETERMINED)

    def felt(loose: Point, by: Callable[[Market], Market], word: str) -> str:
        """The sentence of the fields asked for that feel it, if any."""
        effects = loosened(market, active, plan, point, loose)
        wanted = {id(a) for a in jax.tree.leaves(asked(effects))}
        names = [name for name, a in named(by(effects)).items() if id(a) in wanted]
        return word.format(", ".join(names)) if names else ""

    if words := felt(found.loose, refused, LOOSE):
        raise RuntimeError(words)
    if is_part(asked(market), market) and (
        words := felt(found.resting, lambda effects: effects, SHARES)
    ):
        warnings.warn(words, stacklevel=2)
    return by_market(market, active, plan, point, by_plan, found.solved.point)
