"""A pool beside pairs: one price for all, by hand, by a row of its own, and as pairs of all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import jaxgne as jg
from jaxgne import coalitions, household, model, pool
from jaxgne.auctions import pooled
from jaxgne.comparison import measured
from jaxgne.record import changed
from jaxgne.sharing import share
from tests.good import good
from tests.markets import feeder
from tests.reference import best, build, lengths, pick, read, scale, size


def village(**tariff: Any) -> jg.Market:
    """One who needs 2 kW, at 0.30 of the main grid, and two generators, for an hour."""
    return jg.Market(
        jg.Prosumers([0] * 3, [[2.0], [0.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.30, **tariff),
        jg.Generators([1, 2], 5.0, hours=1, quadratic=[0.02, 0.04]),
        trading=jg.Trading([0], [1], limit=9.0, toll=0.1),
    )


def street() -> jg.Market:
    """A house, a roof next door and a roof at the end of the line, charged by distance."""
    market = jg.Market(
        jg.Prosumers([1, 2, 3], [[2.0], [-3.0], [-3.0]], export_max=9.0),
        jg.Grid([[0.0]] * 4, [0, 1, 2], [1, 2, 3], [1e-4, 2e-4, 5e-4], 1e-5),
        jg.Tariff(0.0, hours=1, base=0.30, export=0.05),
        trading=jg.Trading([0, 0, 1], [1, 2, 2], 9.0),
    )
    return jg.charges.by_distance(market, mean=0.014)


@pytest.mark.parametrize("fee", [0.0, 0.01])
def test_one_price_by_hand(fee: float):
    """2 q p = P - fee of both who sell, and 2 kW of them: P = fee + 2 / (25 + 12.5)."""
    market = pool.with_pool(village(), fee=fee)
    clearing = jg.clear(market, tol=1e-9)
    wanted = fee + 2 / 37.5
    assert float(pool.price(market, clearing)[0]) == pytest.approx(wanted, abs=1e-7)
    found = pool.deals(market, clearing)
    np.testing.assert_allclose(found.bought[:, 0], [2, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.sold[:, 0], [0, 4 / 3, 2 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(
        found.paid[:, 0], wanted * np.array([2, -4 / 3, -2 / 3, 0]), atol=1e-7
    )
    np.testing.assert_allclose(found.charges[:, 0], fee * np.array([2, 4 / 3, 2 / 3, 0]), atol=1e-7)
    bills = jg.settle(market, clearing)
    np.testing.assert_allclose(bills.prosumers, found.paid + found.charges, atol=1e-7)
    assert "bought, kWh" in str(found) and "1.333" in str(found)


def by_a_row(market: jg.Market, fee: float, limit: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The convex program with purchases and sales by member, and one row: they are the same.

    Potential, own energy values, and the multiplier of that row.
    """
    program, (count, hours) = build(market), market.prosumers.load.shape
    power, price = size(market)
    ts = lengths(market)
    none, most = np.zeros((count, hours)), np.full((count, hours), limit)
    for name in ("bought", "sold"):
        program.column(name, none, most, power, fee * ts)
    (balance,) = (family for family in program.families if family.name == "balance")
    for name, sign in (("bought", -1.0), ("sold", 1.0)):
        balance.matrix[name] = sparse.kron(sign * sparse.eye(count), sparse.eye(hours))
    everyone = pick(np.zeros(count, int), 1)
    program.rows("pool", np.zeros((1, hours)), power, bought=everyone, sold=-everyone)
    conic = scale(program, power * price * float(ts.mean()))
    status, answer = best(conic, 1e-10)
    assert status == "solved" and answer is not None
    (x, _, prices), (pooled_at,) = (
        read(market, program, conic, answer.x, answer.z),
        ((f, k, w) for f, k, w in conic.kept if f.name == "pool"),
    )
    value = np.zeros(hours)
    value[pooled_at[1]] = answer.z[pooled_at[2]] * conic.euros / power
    linear, quadratic = (np.concatenate(a) for a in (program.linear, program.quadratic))
    cost = float(linear @ x + quadratic @ x**2)
    return cost, np.asarray(prices.balance), value / ts


@pytest.mark.parametrize(("fee", "limit"), [(0.0, 3.0), (0.006, 9.0)])
def test_a_pool_is_one_more_row(fee: float, limit: float):
    """Pairs, lines and voltages of a feeder that is loaded, and a pool that all may use."""
    market = feeder(rating=30.0)
    both = pool.with_pool(market, fee=fee, limit=limit)
    clearing = jg.clear(both, tol=1e-9)
    cost, own, price = by_a_row(market, fee, limit)
    assert float(model.potential(both, clearing.plan)) == pytest.approx(cost, rel=1e-6)
    np.testing.assert_allclose(clearing.prices.balance[:-1], own, atol=2e-5)
    moved = np.abs(np.asarray(clearing.plan.trades)[len(market.trading.buyer) :])
    open_ = ((moved > 1e-3) & (moved < limit - 1e-3)).any(axis=0)  # else prices are in an interval
    assert open_.any()
    np.testing.assert_allclose(pool.price(both, clearing)[open_], price[open_], atol=2e-5)
    assert float(np.sum(pool.deals(both, clearing).bought)) > 1.0


def test_a_free_pool_is_as_good_as_all_pairs():
    market = changed(feeder(), trading=jg.Trading([], [], []))
    among, through = pooled(market), pool.with_pool(market, pairs=False)
    one, other = jg.clear(among, tol=1e-9), jg.clear(through, tol=1e-9)
    for cost in (model.potential, lambda m, p: np.sum(model.costs(m, p))):
        assert float(cost(among, one.plan)) == pytest.approx(float(cost(through, other.plan)))
    np.testing.assert_allclose(one.prices.balance, other.prices.balance[:-1], atol=1e-6)
    assert np.ptp(np.asarray(other.prices.balance), axis=0).max() < 1e-6  # one price for all


@pytest.mark.parametrize("seed", range(3))
def test_money_of_any_plan(seed: int):
    """The pool pays and earns nothing, whatever the prices, where limits bind too."""
    market = pool.with_pool(good(), fee=0.01, limit=0.5)
    clearing = jg.clear(market)
    rng = np.random.default_rng(seed)
    prices = replace(clearing.prices, balance=rng.uniform(0.1, 0.5, clearing.prices.balance.shape))
    for given in (clearing, replace(clearing, prices=prices)):
        bills = jg.settle(market, given)
        found = pool.deals(market, given)
        moved = np.sum(np.abs(np.asarray(bills.peers))) + 1e-3
        assert np.max(np.abs(np.asarray(bills.prosumers)[-1])) <= 1e-9 * moved + 1e-9
        assert np.max(np.abs(np.sum(np.asarray(found.paid), axis=0))) <= 1e-9 * moved + 1e-9
        paid = np.sum(np.asarray(bills.prosumers), axis=0) + np.sum(bills.passive, axis=0)
        paid += np.asarray(bills.passive_caps + bills.passive_carbon)
        received = bills.sales + bills.receipts + bills.fees + bills.levies
        np.testing.assert_allclose(paid + np.asarray(bills.losses), received, atol=1e-9)
        for row, account in enumerate(household.household_bills(market, given)):
            assert account.total == pytest.approx(float(np.sum(bills.prosumers[row])), abs=1e-8)
    assert float(jg.settle(market, clearing).rent.sum()) == pytest.approx(
        float(jg.settle(market, clearing).receipts.sum()), abs=1e-4
    )


def test_the_pool_is_nobody():
    """Heads, benefits and shares of coalitions are those of people; the grid does not feel it."""
    market = street()
    both = pool.with_pool(market, fee=0.001)
    clearing = jg.clear(both, tol=1e-9)
    assert both.prosumers.names == ("0", "1", "2", "pool")
    assert np.asarray(model.parties(both)).tolist() == [True, True, True, False]
    assert np.allclose(np.asarray(model.net_load(both, clearing.plan))[-1], 0.0, atol=1e-7)
    assert clearing.certificate.ac is not None and bool(clearing.certificate.ac.safe)
    handed = np.asarray(share(both, clearing, rent="by head").rebates)
    assert handed[-1] == 0 and np.allclose(handed[0], handed[1])
    alone = changed(both, trading=changed(both.trading, limit=0 * both.trading.limit))
    table = jg.compare({"no trading": (alone, jg.clear(alone)), "both": (both, clearing)}).rows
    saved = np.asarray(measured(alone, jg.clear(alone)).cost - measured(both, clearing).cost)[:3]
    assert table["both"]["mean_benefit_eur"] == pytest.approx(saved.mean(), abs=1e-6)
    split = coalitions.compare(both)
    for rule, gains in split.gains.items():
        assert abs(gains[-1]) < 1e-6 and gains.sum() == pytest.approx(saved.sum(), abs=1e-4), rule
        assert 3 not in split.cores[rule].coalition
    np.testing.assert_allclose(split.gains["equal"][:3], saved.sum() / 3, atol=1e-5)
    np.testing.assert_allclose(coalitions.equal(both).gains, split.gains["equal"], atol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        lambda m: jg.charges.by_distance(m, mean=0.03),
        lambda m: jg.charges.by_area(m, 0.01, 0.02),
        lambda m: jg.charges.by_loss(m, jg.clear(m)),
        lambda m: jg.preferences.with_preferences(m, {"local": 0.02, "green": 0.01}),
    ],
    ids=["distance", "area", "loss", "preferences"],
)
def test_charges_and_preferences_are_of_peoples_pairs(asked: Any):
    """Before or after the pool is the same, and what deals with it pay stays its fee."""
    market = street()
    before, after = pool.with_pool(asked(market), fee=0.02), asked(pool.with_pool(market, fee=0.02))
    for name in ("toll", "reluctance"):
        one, other = (np.asarray(getattr(m.trading, name)) for m in (before, after))
        np.testing.assert_allclose(one + 0 * other, other + 0 * one, atol=1e-6)
    np.testing.assert_allclose(np.asarray(after.trading.toll)[-3:], 0.01)


def test_free_riding():
    """All flee from pairs, whose nearest asks 0.003 of both sides for 2 kW, into a free pool."""
    market = street()
    found = pool.beside(market)
    charges = {name: float(np.sum(one.charges)) for name, one in found.members.items()}
    assert charges == pytest.approx({"pairs only": 0.012, "pool only": 0.0, "both": 0.0}, abs=1e-6)
    np.testing.assert_allclose(found.members["both"].pooled, [2, 1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(found.members["pairs only"].paired, [2, 2, 0, 0], atol=1e-4)
    assert "pool only" in str(found) and "both" in found.by_member("charges")


def test_a_fee_brings_back_what_the_network_earned():
    """As much as the nearest pair asks: above that, the house and the roof next door trade."""
    fee = pool.restoring_fee(street())
    assert fee.fee == pytest.approx(0.003, abs=1e-4)
    assert fee.income == pytest.approx(0.012, rel=1e-3) and "0.003" in str(fee)
    with pytest.raises(ValueError, match="at most"):
        pool.restoring_fee(street(), income=9.0, most=0.1)


def test_nothing_is_restored_where_pairs_pay_nothing():
    """Two who draw have nothing to trade: what tolerance leaves is no income that is wanted."""
    market = jg.Market(
        jg.Prosumers([1, 2], [[2.0], [3.0]]),
        jg.Grid([[0.0]] * 3, [0, 1], [1, 2], 1e-4, 1e-5),
        jg.Tariff(0.01, hours=1, base=0.30),
        trading=jg.Trading([0], [1], 9.0, toll=0.01),
    )
    found = pool.restoring_fee(market)
    assert (found.fee, found.wanted) == (0.0, 0.0)


def test_members_and_pairs_are_chosen():
    market = pool.with_pool(village(), [0, "2"], limit=[0.5, 0.25], pairs=False, name="club")
    assert market.trading.buyer.tolist() == [0, 2] and market.trading.seller.tolist() == [3, 3]
    clearing = jg.clear(market, tol=1e-9)
    found = pool.deals(market, clearing, "club")
    np.testing.assert_allclose(found.bought[:, 0], [0.25, 0, 0, 0], atol=1e-6)
    by_hour = pool.with_pool(feeder(), [0, 3], fee=[[0.01, 0.02, 0.03], [0.0, 0.0, 0.0]])
    assert by_hour.trading.toll.shape == (6, 3) and jg.clear(by_hour).ok
    twice = pool.with_pool(pool.with_pool(village(), [0, 1]), [1, 2], name="another")
    assert twice.prosumers.names == ("0", "1", "2", "pool", "another") and jg.clear(twice).ok


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"members": [0, 0]}, "twice"),
        ({"members": []}, "none"),
        ({"members": [7]}, "there is no prosumer 7"),
        ({"limit": -1.0}, "limit"),
        ({"fee": np.inf}, "fee"),
        ({"limit": [1.0, 2.0]}, "limit"),
        ({"name": "1"}, "taken"),
    ],
)
def test_what_is_no_pool_is_told(given: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        pool.with_pool(village(), **given)


def test_a_market_without_a_pool_is_told():
    market = village()
    with pytest.raises(ValueError, match="there is no prosumer 'pool'"):
        pool.price(market, jg.clear(market))


def test_a_batch_has_deals_by_scenario():
    """And one of its scenarios, in NumPy's arrays, has those."""
    markets = jg.scenarios.sweep(
        pool.with_pool(village()), lambda m: m.generators.linear, [[0.0, 0.0], [0.1, 0.2]]
    )
    clearings = jg.clear_many(markets)
    many = pool.deals(markets, clearings)
    assert many.bought.shape == (2, 4, 1) and pool.price(markets, clearings).shape == (2, 1)
    one = pool.deals(*jg.scenarios.lane((markets, clearings), 1))
    np.testing.assert_allclose(one.paid, many.paid[1], atol=1e-12)
