"""Voltages and loadings to draw: the grid model's, or what an AC power flow finds."""

import numpy as np
from jaxtyping import Float

from ..acflow import ac_power_flow
from ..clock import in_hour
from ..market import Market
from ..model import Plan, has_state, voltages


def state(
    name: str, market: Market, plan: Plan
) -> tuple[Float[np.ndarray, "B H"], Float[np.ndarray, "L H"], str]:
    """Voltages (pu), what lines carry (kVA, or by AC the current), and a word on where from.

    Where the grid model does not determine them (`paper` without a reactive balance), the AC power
    flow's. Raises `ValueError` where that does not converge, or cannot be examined.
    """
    if has_state(market):
        carried = np.hypot(np.asarray(plan.active), np.asarray(plan.reactive))
        return np.asarray(voltages(market, plan)), carried, ""
    found = ac_power_flow(market, plan)
    if not np.all(found.ok):
        raise ValueError(
            f"plots.{name}: this grid model determines no voltages, and the AC power flow of the "
            f"plan does not converge {in_hour(market, int(np.argmin(np.asarray(found.ok))))}."
        )
    return np.asarray(found.voltage), np.asarray(found.current), ", AC power flow"
