"""Auctions of surpluses: merit orders by hand, nobody worse off than alone, money that cancels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import frames, model
from jaxgne.auctions import Offers, alone, auctioned, crossing, pay_as_bid, plan_alone, uniform
from jaxgne.comparison import baselines, outcome
from jaxgne.record import changed
from tests.markets import feeder

BASE, EXPORT = 0.30, 0.10


def street(toll: float = 0.0, limit: Any = 9.0) -> jg.Market:
    """Two who feed in 3 and 2 kW, two who draw 4 and 3, for an hour; contracts of their own.

    A kWh is worth 0.10 and 0.14 to those, 0.30 and 0.20 to these.
    """
    return jg.Market(
        jg.Prosumers(
            [0] * 4,
            [[-3.0], [-2.0], [4.0], [3.0]],
            export_max=10.0,
            export_adder=[0.0, 0.04, 0.0, 0.0],
            import_adder=[0.0, 0.0, 0.0, -0.10],
        ),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=BASE, export=EXPORT),
        trading=jg.Trading([2, 3, 2, 3], [0, 0, 1, 1], limit, toll=toll),
    )


def community(seed: int, *, slope: float = 2e-3, toll: float = 0.01) -> jg.Market:
    """Five behind one bus for four hours: sun, batteries, a generator, contracts of their own.

    One may feed in nothing and has to let sun go to waste.
    """
    rng = np.random.default_rng(seed)
    load = np.round(rng.uniform(-6.0, 6.0, (5, 4)), 2)
    buys, sells = rng.uniform(0, 0.05, 5), rng.uniform(0, 0.03, 5)
    pairs = np.array([[0, 0, 1, 2, 3], [1, 2, 3, 4, 4]])
    return jg.Market(
        jg.Prosumers([0] * 5, load, export_max=[0.0, 20.0, 20.0, 20.0, 20.0],
                     curtail_max=np.maximum(-load, 0.0), import_adder=buys, export_adder=sells),
        jg.Grid(np.full((1, 4), 3.0), model="copperplate"),
        jg.Tariff(slope, hours=4, base=rng.uniform(0.2, 0.3, 4), export=0.08),
        jg.Generators([1], 4.0, hours=4, quadratic=0.01, linear=0.15),
        jg.Buffers([2], 2.0, 2.0, 5.0, 1.0, hours=4, charge_efficiency=0.9, quadratic=0.001),
        jg.Trading(*pairs, limit=rng.uniform(0.5, 8.0, 5), toll=toll),
    )  # fmt: skip


def test_what_tolerances_leave_makes_no_price():
    """Halfway between 0.10 and 0.30; who has 1e-7 kW left over would ask 0.20 for it."""
    market = jg.Market(
        jg.Prosumers([0] * 3, [[-3.0], [-1e-7], [4.0]], export_max=9.0, export_adder=[0, 0.1, 0]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=BASE, export=EXPORT),
    )
    _, found = uniform(market, plan_alone(market))
    np.testing.assert_allclose(np.asarray(found.prices.balance)[[0, 2], 0], 0.20, atol=1e-6)


def offers(left: Any, lacks: Any, value: Any) -> Offers:
    return Offers(*(np.reshape(np.asarray(a, float), (-1, 1)) for a in (left, lacks, value)))


def test_merit_orders_by_hand():
    """5 kW at 0.10 and 0.14 meet 7 at 0.30 and 0.20; with tolls of 0.04 only 4 are worth it."""
    given_ = offers([3, 2, 0, 0], [0, 0, 4, 3], [0.10, 0.14, 0.30, 0.20])
    free, tolled = crossing(given_), crossing(given_, toll=0.04)
    assert free.price[0] == pytest.approx(0.17) and free.volume[0] == 5
    np.testing.assert_allclose(free.sold[:, 0], [3, 2, 0, 0])
    np.testing.assert_allclose(free.bought[:, 0], [0, 0, 4, 1])
    assert tolled.price[0] == pytest.approx((0.18 + 0.26) / 2) and tolled.volume[0] == 4
    np.testing.assert_allclose(tolled.sold[:, 0], [3, 1, 0, 0])
    equals = crossing(offers([3, 2, 0], [0, 0, 4], [0.1, 0.1, 0.3]))
    np.testing.assert_allclose(equals.sold[:, 0], [2.4, 1.6, 0])
    none = crossing(offers([3, 0], [0, 4], [0.3, 0.1]))
    assert none.volume[0] == 0 and np.isnan(none.price[0]) and not none.sold.any()


def test_an_auction_pays_its_price():
    market = street()
    planned = plan_alone(market)
    pool, found = uniform(market, planned)
    bills = jg.settle(pool, found)
    np.testing.assert_allclose(bills.peers[:, 0], 0.17 * np.array([-3, -2, 4, 1]), atol=1e-9)
    np.testing.assert_allclose(found.plan.imports[:, 0], [0, 0, 0, 2], atol=1e-9)
    np.testing.assert_allclose(np.sum(bills.prosumers, axis=1), [-0.51, -0.34, 0.68, 0.57])
    shaded = np.array([[0.10], [0.18], [0.30], [0.20]])
    pool, found = uniform(market, planned, values=shaded)
    assert float(found.prices.balance[0, 0]) == pytest.approx(0.19)


def test_pay_as_bid_by_hand():
    """The widest spread first: 3 kW of 0.30 with 0.10, 1 with 0.14, then 0.20 with 0.14."""
    market = street()
    planned = plan_alone(market)
    found = pay_as_bid(market, planned)
    np.testing.assert_allclose(found.plan.trades[:, 0], [3, 0, 1, 1], atol=1e-9)
    paid = jg.settle(market, found).trades[:, 0]
    np.testing.assert_allclose(paid, [0.20 * 3, 0, 0.22, 0.17], atol=1e-9)
    far = pay_as_bid(market, planned, distance=[0.2, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(far.plan.trades[:, 0], [0, 3, 2, 0], atol=1e-9)
    known = pay_as_bid(market, planned, reputation=[0.0, 0.0, 0.0, 0.5])
    np.testing.assert_allclose(known.plan.trades[:, 0], [0, 3, 2, 0], atol=1e-9)
    narrow = pay_as_bid(street(limit=[1.0, 1.0, 1.0, 1.0]), planned)
    np.testing.assert_allclose(narrow.plan.trades[:, 0], [1, 1, 1, 1], atol=1e-9)
    tolled = pay_as_bid(street(toll=0.06), planned)
    np.testing.assert_allclose(tolled.plan.trades[:, 0], [3, 0, 1, 0], atol=1e-9)
    pairs = changed(market.trading, reluctance=jnp.full((4, 1), 0.12))  # as much as both tolls
    loath = changed(market, trading=pairs)
    found = pay_as_bid(loath, planned)
    np.testing.assert_allclose(found.plan.trades, tolled.plan.trades, atol=1e-9)
    np.testing.assert_allclose(jg.settle(loath, found).tolls, 0.0)


kilowatts = st.lists(st.integers(0, 4), min_size=3, max_size=3)
cents = st.lists(st.integers(1, 9), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(left=kilowatts, lacks=kilowatts, value=cents)
def test_volume_is_where_single_kilowatts_cross(left, lacks, value):
    """Merit orders kW by kW: as many trade as bids, in falling order, are no less than asks."""
    found = crossing(offers([*left, 0, 0, 0], [0, 0, 0, *lacks], value))
    asks = np.sort(np.repeat(value[:3], left))
    bids = np.sort(np.repeat(value[3:], lacks))[::-1]
    size = min(len(asks), len(bids))
    volume = int(np.sum(bids[:size] >= asks[:size]))
    assert found.volume[0] == volume
    assert found.sold.sum() == pytest.approx(volume) == pytest.approx(found.bought.sum())
    if volume:
        assert found.price[0] == (asks[volume - 1] + bids[volume - 1]) / 2
    gain = np.sum(bids[:volume] - asks[:volume])
    of = np.reshape(value, (-1, 1)) * (found.bought - found.sold)
    assert of.sum() == pytest.approx(gain)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), toll=st.sampled_from([0.0, 0.01, 0.03]))
def test_nobody_is_worse_off_than_alone(seed, toll):
    """Balances hold, peers' money cancels, prices are within those of the main grid alone."""
    market = community(seed, toll=toll)
    found = auctioned(market, distance=np.arange(5) / 50, reputation=np.arange(5) / 50)
    planned = found["alone"][1]
    before = np.asarray(outcome(market, planned).cost)
    asked = model.import_prices(
        market, model.grid_price(market, model.zone_totals(market, planned.plan))
    )
    for name, (where, clearing) in found.items():
        plan, bills = clearing.plan, jg.settle(where, clearing)
        assert np.max(np.abs(model.rows(where, plan).balance)) < 1e-9
        for table in (plan.imports, plan.exports, plan.curtailed):
            assert np.min(table) >= 0
        np.testing.assert_allclose(np.sum(bills.peers, axis=0), 0.0, atol=1e-12)
        after = np.asarray(outcome(where, clearing).cost)
        assert np.all(after <= before + 1e-9), name
        pairs, trades = where.trading, np.asarray(plan.trades)
        assert np.all(np.abs(trades) <= np.asarray(pairs.limit) + 1e-9)
        price = (clearing.prices.balance[pairs.buyer] + clearing.prices.balance[pairs.seller]) / 2
        for side, way in ((pairs.buyer, 1), (pairs.seller, -1)):
            trading = np.abs(trades) > 1e-9
            buys = trading & (way * trades > 0)
            paid = np.asarray(price + pairs.toll)
            assert np.all(paid[buys] <= np.asarray(asked[side])[buys] + 1e-9)
            earned = np.asarray(price - pairs.toll)
            least = np.broadcast_to(model.export_prices(market)[side], trades.shape)
            sells = trading & ~buys
            assert np.all(earned[sells] >= least[sells] - 1e-9)
    traded = [np.abs(np.asarray(c.plan.trades)).sum() for _, c in found.values()]
    assert traded[0] == 0 and traded[1] > 0


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_auction_costs_less_than_the_social_optimum(seed):
    """The same pairs, cleared at the social optimum: what all pay outside, tolls included."""
    market = community(seed)
    for name, (where, clearing) in auctioned(market).items():
        best = jg.clear(baselines(where)["social optimum"], tol=1e-8)
        least, found = (outcome(where, one) for one in (best, clearing))
        gap = (found.social + found.network_fees) - (least.social + least.network_fees)
        assert gap >= -1e-6, name


def test_the_grid_is_asked_afterwards():
    """Tables, bills and the AC power flow take an auction as they take any clearing."""
    market = feeder()
    found = auctioned(market)
    found["market"] = (market, jg.clear(market))
    rows = jg.compare(found, reference="alone").rows
    worst = rows["uniform auction"]["worst_benefit_eur"]
    assert worst is not None and worst >= 0
    for name in ("alone", "uniform auction", "pay as bid"):
        where, clearing = found[name]
        judged = clearing.certificate
        assert judged.ac is not None and bool(judged.ac.converged)
        flow = jg.ac_power_flow(where, clearing.plan)
        assert float(judged.ac.losses) == pytest.approx(float(np.sum(flow.losses)))
        assert rows[name]["losses_kwh"] == pytest.approx(rows["alone"]["losses_kwh"])
        assert len(frames.trades(where, clearing)) == where.trading.buyer.size * 3


def test_what_is_no_auction_is_refused():
    market = street()
    planned = plan_alone(market)
    with pytest.raises(ValueError, match="distance has the shape"):
        pay_as_bid(market, planned, distance=[0.1, 0.2])
    with pytest.raises(ValueError, match="distance has NaN"):
        pay_as_bid(market, planned, distance=np.nan)
    with pytest.raises(ValueError, match="values has NaN"):
        uniform(market, planned, values=np.full((4, 1), np.nan))
    with pytest.raises(ValueError, match="values have the shape"):
        uniform(market, planned, values=[0.1])
    two = jg.Market(
        jg.Prosumers([0], [[1.0, 2.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=BASE),
        before=[-1, -1],
        weight=0.5,
        committed=[0, 0],
    )
    with pytest.raises(ValueError, match="share imports and trades"):
        alone(two)
