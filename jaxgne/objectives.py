"""What a mechanism may be tuned for: plain functions of a market and its clearing, differentiable.

Each tells a quantity. `tune` makes its objective small: put a minus before what should grow, as in

    lambda market, clearing: -self_sufficiency(market, clearing).

Costs are those of `jaxgne.comparison`: cash and devices, without preferences. What measures against
another clearing of the same market clears that one inside, to `tol` and with its derivatives: that
costs a clear without warm start each time.
"""

from typing import Any

from jaxtyping import Array, Float

from .clearing import clear
from .comparison import REFERENCE, baselines, evenness, inequality, outcome
from .market import Market
from .model import aggregate, counted, net_exchange
from .record import changed
from .result import Clearing
from .runner import jnp
from .sensitivity.implicit import Implicit
from .settlement import for_each_priced, settle

Scalar = Float[Array, ""]


@for_each_priced
def peak(market: Market, clearing: Clearing) -> Scalar:
    """Highest contracted import sigma, kW."""
    return jnp.max(aggregate(market, clearing.plan))


@for_each_priced
def transformer_peak(market: Market, clearing: Clearing) -> Scalar:
    """Highest power that flows in from the main grid, net of exports, kW."""
    return outcome(market, clearing).peak_in


@for_each_priced
def total_cost(market: Market, clearing: Clearing) -> Scalar:
    """What all prosumers pay, devices and bills, EUR."""
    return jnp.sum(outcome(market, clearing).cost)


@for_each_priced
def worst_cost(market: Market, clearing: Clearing) -> Scalar:
    """What the prosumer who pays most pays, EUR.

    Where single trades or storage schedules are not unique, neither is this.
    """
    return jnp.max(outcome(market, clearing).cost)


@for_each_priced
def social_cost(market: Market, clearing: Clearing) -> Scalar:
    """What all, passive consumers too, pay the main grid and for devices, EUR."""
    return outcome(market, clearing).social


@for_each_priced
def operator_revenue(market: Market, clearing: Clearing) -> Scalar:
    """What the operator receives: the tariff on trades, and for limits that bind, EUR."""
    return outcome(market, clearing).operator


@for_each_priced
def trading_revenue(market: Market, clearing: Clearing) -> Scalar:
    """What the tariff on trades (c_ta, paid by both sides) alone brings, EUR."""
    return jnp.sum(settle(market, clearing).tolls)


@for_each_priced
def operator_budget(market: Market, clearing: Clearing, *, cost: Any) -> Scalar:
    """What the operator receives less its `cost` of running the grid (EUR); 0: it breaks even."""
    return operator_revenue(market, clearing) - cost


@for_each_priced
def main_grid_revenue(market: Market, clearing: Clearing) -> Scalar:
    """What the main grid receives, less what it pays for exports, EUR."""
    return jnp.sum(settle(market, clearing).sales)


@for_each_priced
def retail_margin(market: Market, clearing: Clearing, *, wholesale: Any) -> Scalar:
    """What the main grid receives above what its energy costs it, EUR.

    `wholesale` (EUR/kWh, one number or by hour) is what it pays for each kWh that it delivers, net
    of exports.
    """
    delivered = counted(market) * net_exchange(market, clearing.plan)
    return main_grid_revenue(market, clearing) - jnp.sum(wholesale * delivered)


@for_each_priced
def congestion_rent(market: Market, clearing: Clearing) -> Scalar:
    """What everyone pays the operator for lines and voltages at their limits, EUR."""
    bills = settle(market, clearing)
    reactive = jnp.sum(bills.reactive) + jnp.sum(bills.passive_reactive)
    paid = jnp.sum(bills.congestion) + jnp.sum(bills.passive_congestion) + reactive
    return paid - jnp.sum(bills.losses)


@for_each_priced
def carbon(
    market: Market, clearing: Clearing, *, grid_carbon: Any, generator_carbon: Any = 0.0
) -> Scalar:
    """kg of CO2, for factors in kg/kWh: `grid_carbon` (one or by hour), `generator_carbon`."""
    factors = {"grid_carbon": grid_carbon, "generator_carbon": generator_carbon}
    return outcome(market, clearing, **factors).carbon


@for_each_priced
def self_sufficiency(market: Market, clearing: Clearing) -> Scalar:
    """Share of what is used here that does not come through the transformer, net by hour."""
    return outcome(market, clearing).self_sufficiency


@for_each_priced
def benefits(market: Market, clearing: Clearing, *, tol: Any = None) -> Float[Array, " N"]:
    """What each prosumer saves against the same market without trades, EUR."""
    alone = _cleared(baselines(market)[REFERENCE], tol)
    return outcome(market, alone).cost - outcome(market, clearing).cost


@for_each_priced
def gini(market: Market, clearing: Clearing, *, tol: Any = None) -> Scalar:
    """Gini index of the benefits: 0 where all benefit alike. Means little where someone loses."""
    return inequality(benefits(market, clearing, tol=tol))


@for_each_priced
def jain(market: Market, clearing: Clearing, *, tol: Any = None) -> Scalar:
    """Jain's index of the benefits: 1 where all benefit alike. Means little where someone loses."""
    return evenness(benefits(market, clearing, tol=tol))


@for_each_priced
def welfare_loss(market: Market, clearing: Clearing, *, tol: Any = None) -> Scalar:
    """Social cost above the least that any plan within the limits has, EUR.

    That plan is the one of price takers who pay the marginal price of the main grid, without tariff
    on trades and without preferences.
    """
    best = baselines(market)["social optimum"]
    names = ("toll", "reluctance", "fee_buyer", "fee_seller")
    free = {name: jnp.zeros_like(getattr(best.trading, name)) for name in names}
    best = changed(best, trading=changed(best.trading, **free))
    return social_cost(market, clearing) - social_cost(market, _cleared(best, tol))


def _cleared(market: Market, tol: Any) -> Clearing:
    return clear(market, tol=tol, adjoint=Implicit(throw=False))
