"""The reverse derivative of a small market's equilibrium, which NumPy can run."""

from ..market import Market
from ..model import Plan, Rows
from .by_hand import by_market, unfolded_back
from .kinks import TORN, UNDETERMINED, sided
from .lagrangian import point_of
from .polish import polished
from .refinement import LEFT


def reverse(
    market: Market, plan: Plan, prices: Rows, by_plan: Plan, by_prices: Rows, tol: float
) -> Market:
    """An output's derivative by the market, given those by plan and prices at its equilibrium.

    By a system with K, to a relative residual of `tol`. Raises `RuntimeError` where the derivative
    is not determined, or not known to lie between the one-sided ones.
    """
    active, plan, prices = polished(market, plan, prices)
    point = point_of(market, active, plan, prices)
    right = unfolded_back(market, active, plan, by_plan, by_prices)
    found = sided(market, active, plan, point, right, tol=tol, max_steps=0)
    if found.torn:
        raise RuntimeError(TORN)
    if not found.solved.residual <= LEFT:
        raise RuntimeError(UNDETERMINED)
    return by_market(market, active, plan, point, by_plan, found.solved.point)
