"""Settlement by rule: payments cancel for any plan, and prices inside are what papers say."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.comparison import baselines
from jaxgne.settlement import bills
from jaxgne.sharing import RULES, allotted, share, shared, who_gains
from tests.markets import GRIDS, SHAPES, anything, feeder, random_market

PRICE, EXPORT = 0.30, 0.10


def street(load=(4.0, 2.0, -3.0), limit: float = 9.0) -> tuple[jg.Market, jg.Clearing]:
    """Three neighbors behind one bus, who trade what they can: the main grid's spread is wide."""
    market = jg.Market(
        jg.Prosumers([0, 0, 0], np.reshape(load, (-1, 1)), export_max=10.0, import_max=20.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=PRICE, export=EXPORT),
        trading=jg.Trading([0, 1, 0], [2, 2, 1], limit),
    )
    return market, jg.clear(market, tol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from(GRIDS))
def test_every_rule_balances(seed, grid):
    """What is paid is received in every step, for any plan and prices, rent kept or handed back."""
    market = random_market(seed, shape=SHAPES[0], grid=grid)
    plan, prices = anything(market, seed)
    rng = np.random.default_rng(seed)
    keys = rng.choice([0.0, 1.0, 2.5], size=market.prosumers.load.shape)
    tolls = np.asarray(bills(market, plan, prices).tolls).sum(axis=0)
    for rule in RULES:
        for rent in ("kept", "by energy", "by head"):
            more = {"keys": keys} if rule == "keys" else {}
            found = shared(market, plan, prices, rule, rent=rent, **more)
            np.testing.assert_allclose(np.asarray(found.bills.peers).sum(axis=0), 0.0, atol=1e-9)
            paid = np.asarray(found.prosumers).sum(axis=0) + np.asarray(found.passive).sum(axis=0)
            received = np.asarray(found.bills.sales + found.bills.receipts)
            np.testing.assert_allclose(paid, received, atol=1e-9)
            if rent != "kept":
                np.testing.assert_allclose(np.asarray(found.bills.receipts), tolls, atol=1e-12)


def test_the_mid_market_rate_serves_consumers_alike():
    """Demand 6, supply 3: half of each kW is inside at 0.20, half outside at 0.30."""
    market, clearing = street()
    found = np.asarray(share(market, clearing, "mid-market").prosumers)[:, 0]
    np.testing.assert_allclose(found, [4 * 0.25, 2 * 0.25, -3 * 0.20], atol=1e-6)


def test_a_surplus_beyond_demand_falls_on_those_who_feed_in():
    """Demand 2, supply 3 and 1: consumers pay 0.20; of 4 kW fed in half is sold at 0.10."""
    market, clearing = street((2.0, -1.0, -3.0))
    found = np.asarray(share(market, clearing, "mid-market").prosumers)[:, 0]
    np.testing.assert_allclose(found, [0.40, -0.15, -0.45], atol=1e-6)


def test_the_supply_demand_ratio_prices_as_its_paper_says():
    """Ratio 1/2: sellers get 0.03 / (0.2 / 2 + 0.1) = 0.15, buyers pay 0.15 / 2 + 0.30 / 2."""
    market, clearing = street()
    found = np.asarray(share(market, clearing, "supply-demand").prosumers)[:, 0]
    np.testing.assert_allclose(found, [4 * 0.225, 2 * 0.225, -3 * 0.15], atol=1e-6)


def test_a_surplus_makes_the_ratio_ask_the_export_price():
    """From a ratio of 1 on all is worth what exports are."""
    market, clearing = street((2.0, -1.0, -3.0))
    found = np.asarray(share(market, clearing, "supply-demand").prosumers)[:, 0]
    np.testing.assert_allclose(found, [0.20, -0.10, -0.30], atol=1e-6)


def test_without_a_price_for_exports_the_ratio_goes_straight():
    """Ratio 1/2 between 0.30 and 0: 0.15, where the formula would give nothing to sellers."""
    market, clearing = street()
    market = replace(market, tariff=jg.Tariff(0.0, hours=1, base=PRICE))
    found = np.asarray(share(market, clearing, "supply-demand").bills.peers)[2, 0]
    paid = np.asarray(jg.settle(market, clearing).main_grid)[2, 0]
    assert found + paid == pytest.approx(-3 * 0.15, abs=1e-6)


def test_keys_say_who_gets_what_is_fed_in():
    """Of 3 kW the first has three parts of four: 2.25; the second 0.75. The rest costs 0.30."""
    market, clearing = street()
    found = np.asarray(share(market, clearing, "keys", keys=[3.0, 1.0, 0.0]).prosumers)[:, 0]
    by_hand = [2.25 * 0.2 + 1.75 * 0.3, 0.75 * 0.2 + 1.25 * 0.3, -0.6]
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_nobody_is_allotted_more_than_it_draws():
    """Of 3 kW the second wants 2 of the 2.7 that its key gives: the first gets the other."""
    market, clearing = street()
    found = np.asarray(share(market, clearing, "keys", keys=[1.0, 9.0, 0.0]).prosumers)[:, 0]
    np.testing.assert_allclose(found, [0.2 + 3 * 0.3, 2 * 0.2, -0.6], atol=1e-6)


def test_keys_by_what_is_drawn_are_the_mid_market_rate():
    market, clearing = street((4.0, 1.0, -2.0))
    keys = np.maximum(np.asarray(market.prosumers.load), 0.0)
    by_key = share(market, clearing, "keys", keys=keys).prosumers
    np.testing.assert_allclose(by_key, share(market, clearing, "mid-market").prosumers, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_allotments_fill_as_one_level_would(seed):
    """Against bisection on the level; what keys of 0 leave goes by what is wanted."""
    rng = np.random.default_rng(seed)
    wants = rng.exponential(size=(6, 4)) * (rng.random((6, 4)) < 0.8)
    keys = rng.exponential(size=(6, 4)) * (rng.random((6, 4)) < 0.7)
    total = wants.sum(axis=0) * rng.choice([0.0, 0.3, 0.9, 1.0], size=4)
    got = np.asarray(jax.jit(allotted)(wants, keys, total))
    for h in range(4):
        asks, key = wants[:, h], keys[:, h]
        low, high = 0.0, 1e9
        for _ in range(200):
            level = (low + high) / 2
            more = np.minimum(level * key, asks).sum() < total[h]
            low, high = (level, high) if more else (low, level)
        expected = np.minimum(high * key, asks)
        rest = total[h] - expected.sum()
        others = np.where(key > 0, 0.0, asks)
        if rest > 1e-9:
            expected = expected + others * rest / others.sum()
        np.testing.assert_allclose(got[:, h], expected, atol=1e-7)


def test_uniform_trades_have_one_price_an_hour():
    """All trades of a step settle at the mean of their prices by energy."""
    market = feeder(rating=60.0)
    clearing = jg.clear(market, tol=1e-8)
    trades = np.asarray(clearing.plan.trades)
    before = np.asarray(jg.settle(market, clearing).trades)
    after = np.asarray(share(market, clearing, "uniform").bills.trades)
    priced = np.abs(trades) > 1e-6
    assert priced.any()
    hours = np.asarray(market.hour_length)
    for h in np.flatnonzero(priced.any(axis=0)):
        prices = (after / np.where(priced, trades, 1.0) / hours)[priced[:, h], h]
        assert np.ptp(prices) <= 1e-9
        value = (np.sign(trades) * after)[:, h].sum()
        assert value == pytest.approx((np.sign(trades) * before)[:, h].sum(), abs=1e-9)
    assert priced.sum(axis=0).max() > 1  # or one price would be no claim


def test_rules_go_through_jit_and_vmap():
    market, clearing = street()

    def bill(export):
        priced = replace(market, tariff=jg.Tariff(0.0, hours=1, base=PRICE, export=export))
        return share(priced, clearing, "mid-market").prosumers.sum()

    slope = jax.grad(
        lambda e: share(
            eqx.tree_at(lambda m: m.tariff.export, market, e), clearing, "mid-market"
        ).prosumers[2, 0]
    )(market.tariff.export)
    assert float(slope[0]) == pytest.approx(-1.5)  # half of a mid price, 3 kW
    assert jax.jit(jax.vmap(bill))(jnp.array([0.1, 0.2])).shape == (2,)


def test_who_gains_knows_zones_and_asks_for_a_pair():
    """Rules with one price of the main grid inside are left out where that differs by zone."""
    market = feeder()
    zoned = jg.zones.with_zones(market, np.arange(len(market.prosumers.bus)) % 2, base=[0.2, 0.3],
                                buses=0)  # fmt: skip
    cleared = jg.clear(zoned)
    gains = who_gains(zoned, cleared, (zoned, cleared)).gains
    assert list(gains) == ["marginal", "uniform"]
    np.testing.assert_allclose(gains["marginal"], 0.0, atol=1e-9)
    wrong: Any = cleared
    with pytest.raises(ValueError, match="reference is a Clearing; give a market and its clearing"):
        who_gains(zoned, cleared, wrong)


def test_who_gains_is_told_by_rule():
    """The reference pays 0.30 x 6 - 0.10 x 3; inside each kW of 3 is 0.20 cheaper for both."""
    market, clearing = street()
    alone = baselines(market)["no trading"]
    found = who_gains(market, clearing, (alone, jg.clear(alone, tol=1e-9)))
    np.testing.assert_allclose(found.gains["mid-market"], [4 * 0.05, 2 * 0.05, 3 * 0.10], atol=1e-6)
    # scarce sun is worth the main grid's price to everyone: the producer gains all
    np.testing.assert_allclose(found.gains["marginal"], [0.0, 0.0, 3 * 0.20], atol=1e-5)
    for gain in found.gains.values():
        assert float(gain.sum()) == pytest.approx(0.60, abs=1e-5)
    assert "supply-demand" in str(found)


def test_without_trades_all_rules_are_the_main_grid():
    """Nothing is fed in that was not sold outside, so no rule moves a cent."""
    market, clearing = street(limit=0.0)
    for rule in RULES:
        peers = share(market, clearing, rule).bills.peers
        np.testing.assert_allclose(peers, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rule": "fair"}, "share: rule='fair'; choose one of marginal"),
        ({"rent": "mine"}, "share: rent='mine'; choose one of kept"),
        (
            {"rule": "keys", "keys": [1.0]},
            r"share: keys have the shape \(1,\); give one a prosumer",
        ),
        ({"rule": "keys", "keys": [1.0, -1.0, 0.0]}, "share: keys are at least 0"),
        ({"rule": "uniform", "keys": [1.0, 1.0, 0.0]}, "share: keys belong to rule='keys'"),
    ],
)
def test_mistakes_are_told(given, said):
    market, clearing = street()
    with pytest.raises(ValueError, match=said):
        share(market, clearing, **given)


def test_net_loads_sum_to_what_the_pool_takes():
    """Guard of the tests above: demand and supply are those of meters, not of contracts."""
    market, clearing = street()
    np.testing.assert_allclose(model.net_load(market, clearing.plan)[:, 0], [4, 2, -3], atol=1e-6)
