"""The reverse derivative of a small market's equilibrium, which NumPy can run."""

from collections.abc import Callable
from typing import Any

import jax

from ..market import Market
from ..model import Plan, Rows
from .active import ajar
from .by_hand import by_market, unfolded_back
from .kinks import TORN, UNDETERMINED, sided
from .lagrangian import point_of
from .open_prices import LOOSE, loosened, named, refused
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
    ones.
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
    effects = loosened(market, active, plan, point, found.loose)
    wanted = {id(a) for a in jax.tree.leaves(asked(effects))}
    loose = [name for name, a in named(refused(effects)).items() if id(a) in wanted]
    if loose:
        raise RuntimeError(LOOSE.format(", ".join(loose)))
    return by_market(market, active, plan, point, by_plan, found.solved.point)
