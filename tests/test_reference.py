"""The oracle: certified optima of published instances, hand-solved markets, signs of its prices."""

from typing import Any

import equinox as eqx
import numpy as np
import pytest

import jaxgne as jg
from tests import golden
from tests.markets import (
    HAND_MADE,
    curtailer,
    exporter,
    lone_importer,
    random_market,
    two_neighbors,
    unequal_fees,
)
from tests.reference import Reference, solve, violations

SEEDS = range(24)


@golden.needs_golden
@pytest.mark.parametrize("behavior", ["nash", "wardrop"])
@pytest.mark.parametrize("name", golden.names())
def test_published_optima_are_reproduced(name: str, behavior: golden.Behavior):
    """The files are certified to a relative gap of 6e-10, so powers to some 1e-6 of the peak."""
    market, expected = golden.golden_market(name, behavior), golden.golden_expected(name, behavior)
    found = solve(market)
    assert found.status == "solved"
    assert found.potential == pytest.approx(expected.potential, rel=1e-9)
    assert found.total_cost == pytest.approx(expected.total_cost, rel=1e-7)
    assert np.allclose(found.sigma, expected.sigma, atol=1e-6 * expected.sigma.max())
    assert np.allclose(found.plan.generation, expected.generation, atol=2e-3)
    if behavior == "nash":
        compare_prices(found, expected)


def compare_prices(found: Reference, expected: golden.Expected) -> None:
    """All prices on the gauge mu_tg = 0; mu_tr where a trade is neither zero nor at its limit."""
    trades, mu = np.asarray(expected.trades), np.asarray(expected.trade_prices)
    inside = (np.abs(trades) > 1e-3) & (np.abs(trades) < 29.99)
    for one, other, atol in [
        (found.plan.imports, expected.imports, 1e-2),
        (found.prices.balance, expected.balance, 2e-6),
        (found.prices.bus, expected.bus, 2e-6),
        (found.prices.aggregate, expected.aggregate, 1e-9),
        (found.trade_prices[inside], mu[inside], 2e-6),
    ]:
        assert np.allclose(one, np.asarray(other), atol=atol)
    assert np.abs(found.plan.trades).sum() == pytest.approx(expected.volume, rel=1e-6)


@golden.needs_golden
def test_the_authors_stopped_near_the_optimum():
    """Their last iterate of run 0 is off by 8.3e-4 kW in sigma, 1.5e-6 in cost (as recorded)."""
    run = golden.saved_runs("n040a_b37")[0]
    expected = golden.golden_expected("n040a_b37")
    assert np.abs(run.arrays["sigma"] - expected.sigma).max() == pytest.approx(8.3e-4, rel=0.01)
    assert run.costs.sum() == pytest.approx(expected.total_cost, rel=2e-6)


@golden.needs_golden
def test_line_order_does_not_change_the_optimum():
    name = "n020_b37_congested_derived"
    ordered = solve(golden.golden_market(name, tree_order=True))
    assert ordered.potential == pytest.approx(golden.golden_expected(name).potential, rel=1e-9)


def test_generator_sets_the_price_of_a_trade():
    """3 kW from a unit costing 0.10 p + 0.02 p^2: 0.10 + 0.04 * 3 = 0.22; 0.01 of charge a side."""
    found = solve(two_neighbors(toll=0.01))
    assert np.allclose(found.plan.trades, 3.0, atol=1e-6)
    assert np.allclose(found.prices.balance[:, 0], [0.24, 0.22], atol=1e-6)
    assert found.trade_prices[0, 0] == pytest.approx(0.23, abs=1e-6)
    assert found.costs == pytest.approx([0.03, 0.10 * 3 + 0.02 * 9 + 0.03], abs=1e-6)


@pytest.mark.parametrize(("behavior", "price"), [(1.0, 0.28), (0.0, 0.24), (0.5, 0.26)])
def test_anticipation_adds_the_own_effect_to_the_energy_value(behavior: float, price: float):
    """0.2 + 0.01 * 4, and 0.01 * 4 more times kappa; the bill is 0.24 * 4 either way."""
    found = solve(lone_importer(behavior=behavior))
    assert found.prices.balance[0, 0] == pytest.approx(price, abs=1e-7)
    assert found.total_cost == pytest.approx(0.96, abs=1e-7)


def test_surplus_is_sold_traded_or_curtailed():
    """8 kW: 5 sold, 3 traded, so 7 of 10 are bought next door. 6 kW: 2 traded, 4 curtailed."""
    sold, lost = solve(exporter()), solve(curtailer())
    assert np.allclose(sold.plan.exports[0], 5.0, atol=1e-6)
    assert np.allclose(sold.plan.imports[1], 7.0, atol=1e-6)
    assert np.allclose(lost.plan.curtailed[0], 4.0, atol=1e-6)


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_markets_have_an_answer(name: str):
    market = HAND_MADE[name]()
    found = solve(market)
    assert found.status == "solved"
    assert found.error < 1e-8
    assert max(violations(market, found.plan).values()) < 1e-6


def test_quarter_hours_cost_a_quarter():
    """Without storage, the same powers over 0.25 h instead of 1 h: a quarter of the cost."""
    market = unequal_fees()
    short = eqx.tree_at(lambda m: m.hour_length, market, 0.25 * market.hour_length)
    whole, quarter = solve(market), solve(short)
    assert quarter.total_cost == pytest.approx(whole.total_cost / 4, rel=1e-7)
    assert np.allclose(quarter.prices.balance, whole.prices.balance, atol=1e-6)


def test_unserved_load_is_proven_infeasible():
    """12 kW of load, no import, and a neighbor who may sell 8 kW."""
    market = two_neighbors(load=12.0)
    found = solve(market)
    assert found.status == "infeasible"
    assert np.isnan(found.potential)


@pytest.mark.parametrize("seed", SEEDS)
def test_prices_are_the_marginal_costs_of_what_is_inside_its_bounds(seed: int):
    """The conditions that test all signs, at random markets (model.md: Prices)."""
    market = random_market(seed)
    found = solve(market)
    if found.status == "infeasible":
        return
    assert found.status == "solved"
    scale = float(np.abs(market.prosumers.load).max())
    assert max(violations(market, found.plan).values()) < 1e-6 * scale
    first_order(market, found, 1e-3 * scale)


def first_order(market: jg.Market, found: Reference, margin: float) -> None:
    """Marginal cost equals price for units, imports, trades and charging inside their bounds."""
    plan, units, stores, pairs = found.plan, market.generators, market.buffers, market.trading
    pi = np.asarray(found.prices.balance)
    value = pi + np.asarray(found.prices.bus)[np.asarray(market.prosumers.bus)]

    def inside(power: Any, low: Any, high: Any) -> np.ndarray:
        return np.asarray((power > low + margin) & (power < high - margin))

    def equal(left: Any, right: Any, where: np.ndarray) -> None:
        assert np.abs(np.asarray(left - right))[where].max(initial=0.0) < 2e-5

    p = plan.generation
    marginal = units.linear[:, None] + 2 * units.quadratic[:, None] * p
    equal(marginal, value[units.owner], inside(p, units.power_min, units.power_max))
    tariff, p = market.tariff, plan.imports
    paid = tariff.base + tariff.slope * (found.sigma + tariff.anticipation * p)
    equal(
        paid + found.prices.aggregate, pi, inside(p, np.zeros_like(p), market.prosumers.import_max)
    )
    limit = pairs.limit
    bought = pairs.fee_buyer + (pairs.toll + pairs.reluctance / 2) * np.sign(plan.trades)
    bought += 2 * pairs.quadratic[:, None] * plan.trades
    equal(bought + found.trade_prices, pi[pairs.buyer],
          inside(np.abs(plan.trades), np.zeros_like(limit), limit))  # fmt: skip
    p = plan.charge
    marginal = stores.linear[:, None] + 2 * stores.quadratic[:, None] * p + value[stores.owner]
    gained = stores.charge_efficiency * found.prices.energy
    equal(marginal, gained, inside(p, np.zeros_like(p), stores.charge_max))
