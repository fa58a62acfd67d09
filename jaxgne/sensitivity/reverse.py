"""The reverse derivative of a small market's equilibrium, which NumPy can run."""

from ..market import Market
from ..model import Plan, Rows
from .active import active_set
from .by_hand import by_market, hessian, unfolded_back
from .lagrangian import point_of, sizes
from .linear import factored
from .refinement import LEFT, refined


def reverse(
    market: Market, plan: Plan, prices: Rows, by_plan: Plan, by_prices: Rows, tol: float
) -> Market | None:
    """An output's derivative by the market, given those by plan and prices at its equilibrium.

    One system with K, to a relative residual of `tol`; None where the derivative is not determined.
    """
    active = active_set(market, plan, prices)
    point = point_of(market, active, plan, prices)
    matvec = hessian(market, active, plan, point)
    right = unfolded_back(market, active, plan, by_plan, by_prices)
    inverse = factored(market, active, plan, matvec)
    found = refined(matvec, inverse, right, sizes(market, plan), tol)
    if not found.residual <= LEFT:
        return None
    return by_market(market, active, plan, point, by_plan, found.point)
