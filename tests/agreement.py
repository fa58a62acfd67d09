"""What every answer is held to: the oracle's, and the signs of prices inside bounds."""

import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne import model
from jaxgne.runner import by_numpy, to_host
from tests.reference import Reference

SOLVERS = {
    "interior point": (jg.InteriorPoint(), 1e-7, None),
    "primal-dual": (jg.PrimalDual(), 1e-7, 100_000),
    "mechanism": (jg.SemiDecentralized(), 1e-6, 40_000),
}


def potential(market: jg.Market, plan: jg.Plan) -> float:
    """P, EUR; by NumPy, which compiles nothing for markets of yet another shape."""
    with by_numpy():
        return float(jg.model.potential(*to_host((market, plan))))


def check_agreement(market: jg.Market, clearing: jg.Clearing, oracle: Reference) -> None:
    """Potential, total cost and what is unique (model.md: Uniqueness), by the market's scales."""
    scales = clearing.certificate.scales
    bill, power = float(scales.bill), float(scales.power)
    assert abs(potential(market, clearing.plan) - oracle.potential) < 2e-6 * bill
    # sigma and whatever has a strictly convex cost
    slope = np.asarray(market.tariff.slope) > 0
    found = np.asarray(clearing.aggregate)
    assert np.all(np.abs(found - oracle.sigma)[slope] < 2e-3 * float(scales.total))
    curved = np.asarray(market.generators.quadratic) > 0
    made = np.asarray(clearing.plan.generation - oracle.plan.generation)[curved]
    assert np.all(np.abs(made) < 2e-2 * power)
    lowest = np.minimum(np.asarray(clearing.certificate.residuals.gap), 0)
    assert np.all(lowest > -1e-9 * bill)


def check_signs(market: jg.Market, plan: jg.Plan, prices: jg.Rows, atol: float) -> set[str]:
    """Marginal cost is price wherever an entry is strictly inside its bounds (model.md: Prices).

    Returns the names of the fields that have such an entry.
    """
    lower, upper = model.boxes(market)
    units, pairs, tariff = market.generators, market.trading, market.tariff
    value = jg.model.energy_prices(market, prices)
    sigma = jg.aggregate(market, plan)
    bought = tariff.base + tariff.slope * (sigma + tariff.anticipation * plan.imports)
    bought += market.prosumers.import_adder
    paid = pairs.fee_buyer + (pairs.toll + pairs.reluctance / 2) * jnp.sign(plan.trades)
    paid += 2 * pairs.quadratic[:, None] * plan.trades
    gaps = {
        "generation": units.linear[:, None]
        + 2 * units.quadratic[:, None] * plan.generation
        - value[units.owner],
        "imports": bought + prices.aggregate + prices.exchange - prices.balance,
        "trades": paid + jg.model.trade_prices(market, prices) - prices.balance[pairs.buyer],
    }
    looked_at = set()
    for name, gap in gaps.items():
        u, low, high = (np.asarray(getattr(p, name)) for p in (plan, lower, upper))
        room = 1e-2 * np.minimum(high - low, np.abs(market.prosumers.load).max())
        inside = (u > low + room) & (u < high - room)
        if name == "trades":  # none is a bound, too: of the toll
            inside &= np.abs(u) > 1e-2
        assert np.all(np.abs(np.asarray(gap)[inside]) < atol), name
        looked_at |= {name} if inside.any() else set()
    assert np.all(np.abs(prices.bus[market.grid.feeder]) < atol)
    return looked_at
