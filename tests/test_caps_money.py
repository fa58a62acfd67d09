"""What caps cost whom: payments cancel, the operator's rent is its receipts, and sums by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import model
from jaxgne.comparison import outcome
from jaxgne.record import changed
from jaxgne.settlement import bills, price_parts
from jaxgne.studies._participation import bills_at
from tests.capped import capped_market


def balance(paid: Any) -> np.ndarray:
    """What all pay less what all receive, by hour."""
    out = np.asarray(paid.prosumers).sum(axis=0) + np.asarray(paid.passive).sum(axis=0)
    return out + np.asarray(
        paid.passive_caps + paid.passive_carbon - paid.sales - paid.receipts - paid.levies
    )


def test_payments_cancel_for_any_plan_and_prices():
    """Also of caps that somebody owns, with terms of all kinds and a base."""
    market, rng = capped_market(), np.random.default_rng(1)

    def drawn(tree: Any, size: float) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(size * rng.standard_normal(a.shape)), tree)

    paid = bills(market, drawn(model.zeros(market), 10.0), drawn(model.rows_like(market), 0.3))
    assert (
        np.abs(np.asarray(paid.caps)).max() > 1.0 and np.abs(np.asarray(paid.charges)).max() > 0.1
    )
    np.testing.assert_allclose(balance(paid), 0.0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 2])
def test_receipts_are_rent_with_caps(seed: int):
    """On any market with caps of all kinds, binding or not."""
    market = capped_market(seed)
    found: Any = jg.clear(market, tol=1e-9)
    paid = jg.settle(market, found)
    np.testing.assert_allclose(balance(paid), 0.0, atol=1e-9)
    np.testing.assert_allclose(paid.receipts, paid.rent, atol=1e-5)


def test_what_all_pay_for_carbon_is_its_price_times_the_cap():
    """Passive consumers too: by hour they pay for what they emit, in all for what is allowed."""
    market = capped_market()
    found: Any = jg.clear(market, tol=1e-9)
    price, limit = np.asarray(found.prices.cap)[0], float(market.caps.level_max[0, -1])
    assert price[0] * limit > 1.0
    carbon = price @ np.asarray(model.members(market, found.plan)[0] + market.caps.base[0])
    assert carbon == pytest.approx(price[-1] * limit, rel=1e-6)


def lone(load: list[list[float]], passive: float = 0.0) -> jg.Market:
    """A price of 0.10 EUR/kWh; the first prosumer may move up to 5 kWh between two hours."""
    return jg.Market(
        jg.Prosumers([0] * len(load), load),
        jg.Grid([[passive] * 2], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.10),
        buffers=jg.Buffers([0], 9.0, 9.0, 10.0, 5.0, hours=2, energy_min=[[0.0, 5.0]]),
    )


def test_a_demand_charge_is_paid_by_its_owner():
    """4 kW at 0.30 EUR and 8 kWh at 0.10; what prosumers pay for caps of their own is nothing."""
    market = lone([[2.0, 6.0], [1.0, 1.0]])
    market = jg.capped(market, jg.caps.demand_charge(market, 0.30))
    paid = jg.settle(market, jg.clear(market, tol=1e-9))
    np.testing.assert_allclose(np.asarray(paid.charges).sum(axis=1), [1.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(paid.caps), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(paid.levies), [1.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.asarray(paid.prosumers).sum(axis=1), [2.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(paid.receipts), 0.0, atol=1e-6)


def test_the_peak_of_all_is_paid_by_who_makes_it():
    """5 and 9 kW become 7 and 7: 2.10 EUR, of which 3 of 7 kW are the passive consumers'."""
    market = lone([[2.0, 6.0]], passive=3.0)
    market = jg.capped(market, jg.caps.total_demand_charge(market, 0.30))
    found = jg.clear(market, tol=1e-9)
    paid = jg.settle(market, found)
    assert float(paid.caps.sum()) == pytest.approx(0.30 * 4.0, rel=1e-6)
    assert float(paid.passive_caps.sum()) == pytest.approx(0.30 * 3.0, rel=1e-6)
    assert float(paid.levies.sum()) == pytest.approx(2.10, rel=1e-6)
    assert float(paid.receipts.sum()) == pytest.approx(0.0, abs=1e-6)
    meant = outcome(market, found)
    assert float(meant.passive) == pytest.approx(0.10 * 6 + 0.90, rel=1e-6)
    assert float(meant.social) == pytest.approx(0.10 * 14 + 2.10, rel=1e-6)


def test_a_free_peak_leaves_the_operator_its_worth():
    """Of 7 kW at 0.30 EUR 2 were paid for before: the operator keeps 0.60 EUR."""
    market = lone([[2.0, 6.0]], passive=3.0)
    market = jg.capped(market, jg.caps.total_demand_charge(market, 0.30, free=2.0))
    paid = jg.settle(market, jg.clear(market, tol=1e-9))
    assert float(paid.levies.sum()) == pytest.approx(0.30 * 5, rel=1e-6)
    assert float(paid.receipts.sum()) == pytest.approx(0.60, rel=1e-6)
    assert float(paid.rent.sum()) == pytest.approx(0.60, rel=1e-6)


def test_who_answers_for_a_cap_receives_what_it_is_worth():
    """Two members of 3 and 1 kW of a cap at 0.2 EUR per kW, the first of whom owns it."""
    market = lone([[3.0, 3.0], [1.0, 1.0]])
    capped = jg.capped(market, changed(jg.caps.group(market, 9.0), owner=np.array([0], np.int32)))
    found = jg.clear(capped)
    plan = changed(found.plan, imports=jnp.asarray([[3.0, 3.0], [1.0, 1.0]]))
    prices = changed(found.prices, cap=jnp.full((1, 2), 0.2))
    paid = bills(capped, plan, prices)
    np.testing.assert_allclose(paid.caps, [[0.6 - 0.8] * 2, [0.2] * 2], rtol=1e-9)
    np.testing.assert_allclose(paid.passive_caps, 0.0)


def test_caps_are_a_part_of_what_members_pay_for_energy():
    """Beside the main grid's price: p0 + d_mg sigma + caps is what energy is worth to who buys."""
    market = capped_market()
    found = jg.clear(market, tol=1e-9)
    parts = price_parts(market, found)
    buys = np.asarray(found.plan.imports) > 1e-3
    buys &= np.asarray(found.plan.imports) < np.asarray(market.prosumers.import_max) - 1e-3
    seen = float(market.tariff.anticipation) * market.tariff.slope * found.plan.imports
    shared = parts.energy + found.prices.aggregate + found.prices.exchange
    asked, worth = (
        np.asarray(shared + parts.caps + parts.carbon + seen),
        np.asarray(found.prices.balance),
    )
    np.testing.assert_allclose(asked[buys], worth[buys], atol=1e-5)
    assert float((parts.caps + parts.carbon).max()) > 0.05


def test_what_a_plan_would_cost_counts_what_its_owner_pays_for_rises():
    """A demand charge of 0.5 EUR/kW above 1 kW; the market draws 1 and 3 kW, its price is [0, 0.5].

    A plan of 4 and 1 kW costs 0.2 EUR/kWh for 5 kWh and 0.5 EUR/kW for 4 - 1 kW: 2.5 EUR, though
    at its price the second hour's kW alone would be charged. What the market does costs 0.8 + 1.
    """

    def market(load: list[float]) -> jg.Market:
        bare = jg.Market(
            jg.Prosumers([0], [load]),
            jg.Grid([[0.0, 0.0]], model="copperplate"),
            jg.Tariff(0.0, hours=2, base=0.2, anticipation=0.0),
        )
        return jg.capped(bare, jg.caps.demand_charge(bare, 0.5, free=1.0))

    here, other = market([1.0, 3.0]), market([4.0, 1.0])
    now, then = (jg.clear(one, tol=1e-8) for one in (here, other))
    assert np.allclose(bills_at(here, then.plan, now), 2.5, atol=1e-5)
    assert np.allclose(bills_at(here, now.plan, now), 1.8, atol=1e-5)
    assert np.allclose(outcome(here, now).cost, 1.8, atol=1e-5)
