"""One way an hour: what goes both ways for nothing is taken out, the rest is told or decided."""

import itertools
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.devices import battery
from jaxgne.model import net_load, rows, zeros
from jaxgne.one_way import freed, metered, narrowed, ways
from tests.agreement import check_agreement
from tests.markets import many_devices, random_market
from tests.reference import solve

HOURS = 6
NEGATIVE = [0.20, -0.30, -0.30, -0.05, 0.10, 0.25]  # EUR/kWh


def lone_battery(base: Any, *, load: float = 3.0, **changes: Any) -> jg.Market:
    """One prosumer with a battery of 8 kWh and 5 kW who sees its effect on the price."""
    options = {"power": 5.0, "capacity": 8.0, "hours": HOURS, "final": 0.5, "wear": 0.005}
    return jg.Market(
        jg.Prosumers([0], [[load] * HOURS], import_max=30.0),
        jg.Grid([[0.0] * HOURS], model="copperplate"),
        jg.Tariff(1e-3, hours=HOURS, base=base),
        buffers=battery(0, **(options | changes)),
    )


def overlap(plan: jg.Plan) -> np.ndarray:
    return np.minimum(np.asarray(plan.charge), np.asarray(plan.discharge))


def resold(plan: jg.Plan) -> np.ndarray:
    return np.minimum(np.asarray(plan.imports), np.asarray(plan.exports))


@pytest.mark.parametrize("seed", [None, 3])
def test_one_way_against_all_patterns(seed):
    """By the oracle, the cheapest of all 2^6 ways to open one side is within the plan's regret."""
    base = NEGATIVE if seed is None else np.random.default_rng(seed).uniform(-0.4, 0.3, HOURS)
    market = lone_battery(base, efficiency=0.95 if seed is None else 0.8)
    plain, single = jg.clear(market), jg.clear(market, one_way=True)
    assert float(np.max(overlap(plain.plan))) > 0.1
    assert float(np.max(overlap(single.plan))) < 1e-4
    found = single.certificate
    assert found.ways is not None and found.ways.regret is not None
    regret = float(found.ways.regret)

    def cost(open_: tuple[int, ...]) -> float:
        charge = jnp.asarray(open_, float)[None]
        shut = eqx.tree_at(
            lambda m: (m.buffers.charge_max, m.buffers.discharge_max),
            market,
            (5 * charge, 5 * (1 - charge)),
        )
        found = solve(shut)
        return float(found.costs[0]) if found.status == "solved" else np.inf

    least = min(cost(open_) for open_ in itertools.product((0, 1), repeat=HOURS))
    mine = float(single.costs[0])
    assert least - 1e-5 <= mine <= least + regret + 1e-5
    # with one prosumer little else can be gained but what the plan of both ways does
    saved = mine - float(plain.costs[0])
    assert saved - 1e-5 <= regret <= 1.05 * saved + 1e-5
    tight = narrowed(market, single.plan)
    assert float(jg.certify(tight, single.plan, single.prices).error) <= 1e-6
    check_agreement(tight, single, solve(tight))
    assert f"by any other plan, all together {regret:.2g} EUR" in str(found)


def test_both_ways_are_told():
    """Plain clears say which battery, when and how much, and that one_way=True is the way out."""
    clearing = jg.clear(lone_battery(NEGATIVE))
    both = overlap(clearing.plan)[0]
    found = clearing.certificate.ways
    assert found is not None
    assert int(found.batteries.count) == np.sum(both > 5e-3)
    assert float(found.batteries.energy) == pytest.approx(both[both > 5e-3].sum(), rel=1e-6)
    words = str(clearing.certificate)
    when = f"in hour {np.argmax(both)}"
    assert f"battery 0 (prosumer 0) charges and discharges at once {when}" in words
    assert "one_way=True" in words
    assert "both" not in str(jg.clear(lone_battery([0.1, 0.2, 0.1, 0.3, 0.1, 0.2])).certificate)


def test_what_burning_energy_earns():
    """4 kW in at 0.9 and 0.81 kW out at 0.9 keep 2.7 kWh, as 3 kW in do: 0.19 kW burnt.

    At -0.5 EUR/kWh that earns 0.095 EUR, less wear of 0.01 on 4.81 kWh instead of 3.
    """
    market = lone_battery(NEGATIVE, efficiency=0.9, wear=0.01)
    plan = zeros(market)
    plan = replace(
        plan, charge=plan.charge.at[0, 2].set(4.0), discharge=plan.discharge.at[0, 2].set(0.81)
    )
    prices = jg.model.rows_like(market)
    found = ways(market, plan, replace(prices, balance=prices.balance - 0.5)).batteries
    assert (int(found.count), int(found.row), int(found.hour)) == (1, 0, 2)
    assert float(found.energy) == pytest.approx(0.81)
    assert float(found.earned) == pytest.approx(0.5 * 0.19 - 0.01 * 1.81)


def test_what_is_free_is_taken_out():
    """Without losses and wear the net power alone matters: 4 in and 1 out become 3 in."""
    market = lone_battery([0.1, 0.2, 0.1, 0.3, 0.1, 0.2], wear=0.0, efficiency=1.0)
    for clearing in (jg.clear(market), jg.least_norm(market)):
        assert np.all(overlap(clearing.plan) == 0)
        check_agreement(market, clearing, solve(market))
    plan = zeros(market)
    plan = replace(plan, charge=plan.charge + 4.0, discharge=plan.discharge + 1.0)
    less = freed(market, plan)
    np.testing.assert_allclose(less.charge, 3.0)
    np.testing.assert_allclose(less.discharge, 0.0)
    for worn in ({"wear": 0.01, "efficiency": 1.0}, {"wear": 0.0, "efficiency": 0.99}):
        assert jnp.array_equal(freed(lone_battery(0.1, **worn), plan).charge, plan.charge)


@pytest.mark.parametrize("seed", range(4))
def test_taking_out_changes_no_row_and_no_cost(seed):
    rng = np.random.default_rng(seed)
    market = random_market(seed) if seed else many_devices()
    ideal, worn = jnp.ones_like(market.buffers.retention), 0 * market.buffers.linear
    stores = (ideal, ideal, worn, worn)
    tariff = (0 * market.tariff.slope, market.tariff.export)
    market = eqx.tree_at(
        lambda m: (
            *(m.buffers.charge_efficiency, m.buffers.discharge_efficiency),
            *(m.buffers.linear, m.buffers.quadratic, m.tariff.slope, m.tariff.base),
        ),
        market,
        (*stores, *tariff),
    )
    plan = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0, 5, a.shape)), zeros(market))
    less = freed(market, plan)
    assert np.all(overlap(less) == 0) and np.all(resold(less) == 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12),
        (rows(market, less), jg.costs(market, less), net_load(market, less)),
        (rows(market, plan), jg.costs(market, plan), net_load(market, plan)),
    )


def home(export: Any, base: Any, slope: float = 0.0, **more: Any) -> jg.Market:
    """A load of 2 kW with a connection that may feed in 10 kW."""
    return jg.Market(
        jg.Prosumers([0], [[2.0] * 4], import_max=20.0, export_max=10.0),
        jg.Grid([[0.0] * 4], model="copperplate"),
        jg.Tariff(slope, hours=4, base=base, export=export),
        **more,
    )


def test_nobody_sells_what_it_buys():
    """2 kWh at 0.25 cost 0.5 EUR, at -0.05 they earn 0.1 EUR: a feed-in of 0.08 adds nothing."""
    market = home(0.08, [0.25, -0.05, 0.25, 0.25])
    clearing = jg.clear(market)
    assert np.max(resold(clearing.plan)) < 1e-4
    np.testing.assert_allclose(jg.settle(market, clearing).prosumers[0], [0.5, -0.1, 0.5, 0.5],
                               atol=1e-4)  # fmt: skip
    assert float(jg.certify(market, clearing.plan, clearing.prices).error) <= 1e-6
    least = jg.least_norm(market)
    np.testing.assert_allclose(least.plan.imports, 2.0, atol=1e-4)
    with pytest.warns(UserWarning, match=r"export hour 1: 0.08 EUR/kWh .* never both"):
        jg.validate(market)


def test_net_metering_passes_nothing_through():
    market = home(0.25, 0.25)
    clearing = jg.clear(market)
    assert np.all(resold(clearing.plan) == 0)
    np.testing.assert_allclose(clearing.aggregate, 2.0, atol=1e-5)
    under_jit = jax.jit(jg.clear)(market)
    np.testing.assert_allclose(under_jit.aggregate, 2.0, atol=1e-5)


def test_neighbors_do_not_pass_on_what_no_meter_feeds_in():
    """One may buy at -0.05 and the other sell at 0.08 what it buys of the first: both load 2 kW."""
    people = jg.Prosumers(
        [0, 0], [[2.0] * 4] * 2, import_max=[[20.0], [0.0]], export_max=[[0], [9]]
    )
    market = eqx.tree_at(
        lambda m: (m.prosumers, m.trading),
        home(0.08, [0.25, -0.05, 0.25, 0.25]),
        (people, jg.Trading([1], [0], 15.0)),
    )
    clearing = jg.clear(market)
    np.testing.assert_allclose(clearing.plan.exports, 0.0, atol=1e-4)
    np.testing.assert_allclose(clearing.aggregate, 4.0, atol=1e-3)
    assert float(jg.certify(market, clearing.plan, clearing.prices).error) <= 1e-6


def test_a_battery_behind_one_meter():
    """It could be emptied into the grid at 0.08 while the house buys at -0.05."""
    store = battery(0, power=3.0, capacity=6.0, hours=4, floor=0.0, start=0.5, wear=0.0)
    market = home(0.08, [0.25, -0.05, 0.02, 0.25], buffers=store)
    clearing = jg.clear(market)
    assert np.max(resold(clearing.plan)) < 1e-3
    tight = metered(market, clearing.plan)
    assert float(jg.certify(tight, clearing.plan, clearing.prices).error) <= 1e-6
    for buys in itertools.product((0, 1), repeat=4):  # no other pattern is 10 % better
        shut = eqx.tree_at(
            lambda m: (m.prosumers.import_max, m.prosumers.export_max),
            market,
            (20.0 * jnp.asarray([buys], float), 10.0 * (1 - jnp.asarray([buys], float))),
        )
        other = jg.clear(shut, throw=False)
        if bool(other.ok):
            slack = 0.1 * abs(float(clearing.costs[0]))
            assert float(clearing.costs[0]) <= float(other.costs[0]) + slack


def test_batches_keep_to_one_meter_too():
    """The scenario with a feed-in above the price of an hour is that which `clear` finds."""
    markets = [home(0.08, [0.25, price, 0.25, 0.25]) for price in (0.25, -0.05, 0.3)]
    many = jg.clear_many(jg.scenarios.stack(markets))
    np.testing.assert_allclose(many.plan.imports[:, 0], 2.0, atol=1e-4)
    np.testing.assert_allclose(many.plan.exports, 0.0, atol=1e-4)
    np.testing.assert_allclose(many.costs[:, 0], [2.0, 1.4, 2.1], atol=1e-4)


@pytest.mark.slow  # compiles for half a minute
def test_batches_go_one_way_as_each_market_alone(tmp_path):
    """Scenarios with and without burning, and one that no plan serves, which has no regret."""
    many = [lone_battery(NEGATIVE), lone_battery(0.2), lone_battery(NEGATIVE, load=40.0)]
    markets = jg.scenarios.stack(many)
    found = jg.clear_many(markets, one_way=True, folder=tmp_path)
    assert found.ok.tolist() == [True, True, False]
    assert np.max(overlap(found.plan)[:2]) < 1e-4
    told = found.certificate.ways
    assert told is not None and told.regret is not None and told.worst is not None
    assert np.isnan(told.regret[2]) and np.isnan(told.worst[2])
    for at in range(2):
        alone = jg.clear(many[at], one_way=True)
        expected = alone.certificate.ways
        assert expected is not None and expected.regret is not None
        assert np.allclose(found.costs[at], alone.costs, atol=1e-5)
        assert np.allclose(told.regret[at], expected.regret, atol=1e-5)
    assert float(told.regret[0]) > 1e-3 > float(told.regret[1])
    _, kept = jg.load(tmp_path)
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), found, kept)
    assert all(jax.tree.leaves(same))


def test_one_way_needs_numbers():
    market = lone_battery(NEGATIVE)
    with pytest.raises(TypeError, match=r"one_way=True.* outside of jit"):
        jax.jit(lambda m: jg.clear(m, one_way=True))(market)
