"""Voltages and loadings to draw: the grid model's, or what an AC power flow finds."""

import numpy as np
from jaxtyping import Float

from ..acflow import ac_power_flow
from ..clock import in_hour
from ..market import Grid, Market, bus_name, line_name
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


def loadings(name: str, market: Market, plan: Plan) -> tuple[Float[np.ndarray, "L H"], str]:
    """How full lines are, % of the rating, NaN of those without; and a word on where from."""
    _, carried, by = state(name, market, plan)
    return loadings_of(market.grid, carried), by


def loadings_of(grid: Grid, carried: Float[np.ndarray, "L H"]) -> Float[np.ndarray, "L H"]:
    """What lines carry, % of their rating, NaN without."""
    rating = np.asarray(grid.rating, float)[:, None]
    rated = np.isfinite(rating) & (rating > 0)
    return 100 * np.divide(carried, rating, out=np.full(carried.shape, np.nan), where=rated)


def line_title(grid: Grid, line: int) -> str:
    """`line 7 (701-702)`, or by its name; `transformer T1` where that says so, or it has a tap."""
    name = line_name(grid, line)
    if grid.names and not grid.line_names:
        ends = (bus_name(grid, int(np.asarray(end)[line])) for end in (grid.source, grid.target))
        name = f"{name} ({'-'.join(ends)})"
    if "transformer" in name.lower():
        return name
    one = "trafo" in name.lower() or float(np.asarray(grid.tap)[line]) != 1.0
    return f"transformer {name.removeprefix('trafo ')}" if one else f"line {name}"
