"""No feed-in for nothing: what could as well be left unused is not sold at a price of 0.

Where a prosumer's export price is 0 and nothing else pays for a feed-in, selling a surplus and
curtailing it are equal to its owner, and a solver returns some mixture of both. The rule is to
curtail.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Array, Bool, Float

from .linear_flow import tree_state
from .market import Market
from .model import (
    Plan,
    Rows,
    boxes,
    energy_prices,
    export_prices,
    net_exchange,
    uncounted,
    zone_bases,
)
from .runner import jnp

_ROUNDING = 1e-6  # of a price or a limit


def given_away(market: Market, plan: Plan) -> Float[Array, "N H"]:
    """What is sold for nothing, counts for no cap, and may be curtailed, kW."""
    room = jnp.minimum(plan.exports, market.prosumers.curtail_max - plan.curtailed)
    free = (export_prices(market) == 0) & uncounted(market, "exports", "curtailed")
    return jnp.where(free, jnp.maximum(room, 0.0), 0.0)


def unsold(market: Market, plan: Plan, prices: Rows) -> Plan | None:
    """The plan with what is given away curtailed; None where nothing is. A concrete market.

    As far as that is equal to all and the limit on the total allows, in hours in which voltages and
    ratings allow it whole. Flows and voltages follow on a radial grid; on a `paper` grid nothing
    is changed.
    """
    tariff = market.tariff
    if market.grid.model.meshed or not np.any(np.asarray(export_prices(market)) == 0):
        return None
    given = given_away(market, plan)
    worth = energy_prices(market, prices) - prices.balance + prices.aggregate + prices.exchange
    scale = jnp.max(jnp.abs(zone_bases(market))) + jnp.max(jnp.abs(prices.balance), initial=0.0)
    equal = jnp.abs(worth) <= _ROUNDING * scale
    moved = jnp.where(equal, given, 0.0)
    room = tariff.total_max - net_exchange(market, plan)
    most = jnp.maximum(jnp.sum(moved, axis=0), jnp.finfo(moved.dtype).tiny)
    moved *= jnp.clip(room / most, 0.0, 1.0)
    if not np.any(np.asarray(moved) > 0):
        return None
    moved = jnp.where(_kept(market, _curtailed(market, plan, moved)), moved, 0.0)
    return _curtailed(market, plan, moved) if np.any(np.asarray(moved) > 0) else None


def _curtailed(market: Market, plan: Plan, moved: Float[Array, "N H"]) -> Plan:
    """The plan with `moved` kW curtailed instead of sold, and what the grid carries then."""
    grid = market.grid
    plan = replace(plan, exports=plan.exports - moved, curtailed=plan.curtailed + moved)
    if not grid.model.networked:
        return plan
    drawn = jnp.zeros_like(plan.voltage).at[market.prosumers.bus].add(moved)
    none = {state: jnp.zeros_like(grid.feeder_voltage) for state in grid.model.states}
    change = tree_state(grid, drawn, jnp.zeros_like(drawn), none)
    return replace(plan, **{name: getattr(plan, name) + more for name, more in change.items()})


def _kept(market: Market, plan: Plan) -> Bool[np.ndarray, " H"]:
    """Hours in which the plan keeps voltages and ratings."""
    lower, upper = (np.asarray(bound.voltage) for bound in boxes(market))
    volts = np.asarray(plan.voltage)
    inside = (volts >= lower - _ROUNDING) & (volts <= upper + _ROUNDING)
    apparent = np.hypot(np.asarray(plan.active), np.asarray(plan.reactive))
    rated = apparent <= np.asarray(market.grid.rating)[:, None] * (1 + _ROUNDING)
    return np.all(inside, axis=0) & np.all(rated, axis=0)
