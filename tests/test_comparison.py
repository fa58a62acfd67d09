"""Outcomes in cash and energy, baselines, and the table that compares them."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxgne as jg
from jaxgne import devices, model, settlement, uncontrolled
from jaxgne.comparison import baselines, compare, gini, jain, outcome
from jaxgne.settlement import bills
from tests.markets import feeder, many_devices, one_bus


@pytest.fixture(scope="module")
def cleared() -> dict[str, tuple[jg.Market, jg.Clearing]]:
    """The one-bus market and its baselines, all reckoned under its own tariff."""
    market = one_bus()
    return {name: (market, jg.clear(m, tol=1e-9)) for name, m in baselines(market).items()}


def test_money_only_changes_hands(cleared):
    """What all pay, less what the operator gets, is what the grid and the devices cost."""
    for market, clearing in cleared.values():
        found, plan = outcome(market, clearing), clearing.plan
        paid = float(found.cost.sum() + found.passive - found.operator)
        assert paid == pytest.approx(float(found.social), abs=1e-8)
        sigma, tariff = np.asarray(clearing.aggregate), market.tariff
        units, stores = market.generators, market.buffers
        p, c, d = (np.asarray(a) for a in (plan.generation, plan.charge, plan.discharge))
        by_hand = ((np.asarray(tariff.base) + np.asarray(tariff.slope) * sigma) * sigma).sum()
        by_hand += (np.asarray(units.quadratic)[:, None] * p**2).sum()
        by_hand += (np.asarray(units.linear)[:, None] * p).sum()
        by_hand += (np.asarray(stores.quadratic)[:, None] * (c**2 + d**2)).sum()
        assert float(found.social) == pytest.approx(by_hand, rel=1e-9)
        assert float(found.peak) == sigma.max()


def test_the_social_optimum_is_the_least_cost(cleared):
    """Nobody's plan is cheaper for all together; the price of anarchy is at least 1."""
    table = compare(cleared)
    anarchy = {name: row["price_of_anarchy"] or 0.0 for name, row in table.rows.items()}
    assert anarchy["social optimum"] == pytest.approx(1.0)
    assert min(anarchy.values()) >= 1 - 1e-7
    assert anarchy["market"] > 1 + 1e-5
    # one prosumer with a generator: min (0.2 + 0.05 s) s + 0.3 g, s + g = 8, in closed form
    market = jg.Market(
        jg.Prosumers([0], [[8.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.05, hours=1, base=0.2, anticipation=0.0),
        jg.Generators([0], 10.0, hours=1, linear=0.3, quadratic=1e-4),
    )
    best = jg.clear(baselines(market)["social optimum"], tol=1e-9)
    by_hand = minimize(
        lambda s: (0.2 + 0.05 * s[0]) * s[0] + 0.3 * (8 - s[0]) + 1e-4 * (8 - s[0]) ** 2, [1.0]
    )
    assert float(best.aggregate[0]) == pytest.approx(by_hand.x[0], abs=1e-4)


def test_what_baselines_leave_out(cleared):
    plans = {name: clearing.plan for name, (_, clearing) in cleared.items()}
    assert float(abs(plans["no trading"].trades).max()) < 1e-6
    assert float(abs(plans["market"].trades).max()) > 0.1
    assert float(plans["no storage"].charge.max()) < 1e-6
    assert float(plans["market"].charge.max() + plans["market"].discharge.max()) > 0.1
    assert float(baselines(one_bus())["price taking"].tariff.anticipation) == 0.0
    stores = baselines(many_devices())["no storage"].buffers  # the second drains, like a car
    assert float(stores.charge_max[0].max()) == 0.0
    assert float(stores.charge_max[1].max()) == 2.5
    assert bool(jg.clear(baselines(many_devices())["no storage"]).ok)


def test_what_is_due_is_still_bought_without_storage():
    """A shiftable load and a car are demand; a battery stands still."""
    market = one_bus()
    made = devices.join(
        devices.shiftable(0, energy=2.0, power=2.0, earliest=0, latest=3, hours=3),
        devices.vehicle(0, power=11.0, capacity=60.0, arrival=0, departure=2, hours=3),
        devices.battery(1, power=2.0, capacity=8.0, hours=3),
    )
    without = baselines(eqx.tree_at(lambda m: m.buffers, market, made))["no storage"].buffers
    np.testing.assert_allclose(without.energy_min[:2], made.energy_min[:2])
    np.testing.assert_allclose(without.charge_max[:2], made.charge_max[:2])
    np.testing.assert_allclose(without.charge_max[2], 0.0)


def test_physical_indicators_by_hand():
    """Two houses, two half-hours. A uses 2 and 5 kW under 6 and 1 kW of sun, 1 kW of it curtailed.

    B uses 3 kW, of which its unit makes 1 in step 1. The street lamp takes 0.5 kW. In step 0 A
    sells 1 kW to B and 2 kW to the main grid, which sells 2 kW to B: 0.5 kW flow in. In step 1 A
    buys 4 and B 2 kW: 6.5 kW flow in. Used (2 + 5 + 6 + 1) / 2 = 7 kWh, made (6 - 1 + 1 + 1) / 2.
    """
    market = jg.Market(
        jg.Prosumers([0, 0], [[-4.0, 4.0], [3.0, 3.0]], export_max=9.0, curtail_max=[[6.0, 1.0],
                     [0.0, 0.0]]),
        jg.Grid([[0.5, 0.5]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.3),
        jg.Generators([1], 1.0, hours=2),
        trading=jg.Trading([1], [0], 4.0),
        hour_length=0.5,
    )  # fmt: skip
    plan = replace(
        model.zeros(market),
        imports=jnp.asarray([[0.0, 4.0], [2.0, 2.0]]),
        exports=jnp.asarray([[2.0, 0.0], [0.0, 0.0]]),
        curtailed=jnp.asarray([[1.0, 0.0], [0.0, 0.0]]),
        generation=jnp.asarray([[0.0, 1.0]]),
        trades=jnp.asarray([[1.0, 0.0]]),
    )
    assert float(jnp.abs(model.rows(market, plan).balance).max()) == 0.0
    clearing = eqx.tree_at(
        lambda c: (c.plan, c.prices), jg.clear(market), (plan, model.rows_like(market))
    )
    found = outcome(market, clearing)
    assert float(found.consumed) == pytest.approx(7.0)
    assert float(found.made) == pytest.approx(3.5)
    assert float(found.transformer_in) == pytest.approx(3.5)
    assert float(found.transformer_out) == 0.0
    assert (float(found.peak_in), float(found.peak_out)) == (6.5, 0.0)
    assert float(found.self_sufficiency) == pytest.approx(0.5)
    assert float(found.self_consumption) == pytest.approx(1.0)
    # contracts: 9 kW are bought of 11 kW, loads net of own sun and the lamp
    assert float(found.contracted_self_sufficiency) == pytest.approx(1 - 9.0 / 11.0)
    assert float(found.peak) == 6.5
    sent = replace(plan, imports=jnp.asarray([[0.0, 4.0], [0.0, 2.0]]),
                   generation=jnp.asarray([[2.0, 1.0]]))  # fmt: skip
    out = outcome(market, eqx.tree_at(lambda c: c.plan, clearing, sent))
    assert float(out.transformer_out) == pytest.approx(0.75)
    assert float(out.peak_out) == pytest.approx(1.5)
    assert float(out.self_consumption) == pytest.approx(1 - 0.75 / 4.5)


def test_a_bill_is_what_is_paid_and_a_trade_no_cost_of_all():
    """3 kWh change hands at p: the two pay -3 p and 3 p, while J_i knows fees of 0.05 alone."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[-4.0], [3.0]], import_max=[[0.0], [50.0]],
                     curtail_max=[[4.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.40),
        trading=jg.Trading([1], [0], limit=3.0, fee_buyer=-0.05, fee_seller=0.05),
    )  # fmt: skip
    clearing = jg.clear(market, tol=1e-9)
    price = float(settlement.settled_prices(market, clearing.prices)[0, 0])
    found = outcome(market, clearing)
    np.testing.assert_allclose(found.bill, [-3 * price, 3 * price], atol=1e-6)
    np.testing.assert_allclose(found.cost, found.bill, atol=1e-12)
    np.testing.assert_allclose(clearing.costs, [-0.15, -0.15], atol=1e-6)


def test_storage_makes_nothing_and_trades_may_cost():
    """5 kW charged and discharged again leave a lone importer without any of its own energy."""
    plan = replace(
        model.zeros(market := battery_and_pair()),
        imports=jnp.asarray([[10.0, 0.0], [0.0, 0.0]]),
        charge=jnp.asarray([[5.0, 0.0]]),
        discharge=jnp.asarray([[0.0, 5.0]]),
        trades=jnp.asarray([[3.0, 0.0]]),
    )
    clearing = eqx.tree_at(
        lambda c: (c.plan, c.prices), jg.clear(market), (plan, model.rows_like(market))
    )
    found = outcome(market, clearing)
    assert float(found.contracted_self_sufficiency) == pytest.approx(0.0)
    assert float(found.self_sufficiency) == pytest.approx(0.0)
    paid = np.asarray(bills(market, plan, clearing.prices).prosumers).sum(axis=1)
    np.testing.assert_allclose(found.cost - paid, 0.01 * 9.0, atol=1e-12)


def battery_and_pair() -> jg.Market:
    return jg.Market(
        jg.Prosumers([0, 0], [[5.0, 5.0], [0.0, 0.0]]),
        jg.Grid(np.zeros((1, 2)), model="copperplate"),
        jg.Tariff(0.01, hours=2, base=0.1),
        buffers=jg.Buffers([0], 5.0, 5.0, 10.0, 0.0, hours=2),
        trading=jg.Trading([0], [1], 4.0, quadratic=0.01),
    )


def test_the_table(cleared):
    table = compare(cleared, grid_carbon=0.4, generator_carbon=[0.2, 0.7])
    rows, (market, clearing) = table.rows, cleared["market"]
    alone = outcome(*cleared["no trading"]).cost
    benefit = np.asarray(alone - outcome(market, clearing).cost)
    assert rows["no trading"]["mean_benefit_eur"] == 0.0
    assert rows["market"]["worst_benefit_eur"] == pytest.approx(benefit.min())
    made = np.asarray(clearing.plan.generation).sum(axis=1)
    net = float((clearing.aggregate - clearing.plan.exports.sum(axis=0)).sum())
    assert rows["market"]["co2_kg"] == pytest.approx(0.4 * net + made @ [0.2, 0.7])
    lines = str(table).splitlines()
    assert " ".join(lines[0].split()) == " ".join(cleared)
    assert len(lines) == 1 + len(rows["market"])
    ended = eqx.tree_at(lambda c: c.status, clearing, jg.Status.max_steps)
    with pytest.raises(ValueError, match="'late' did not clear"):
        compare({"late": (market, ended)})


def test_today_stands_beside_the_market():
    """Benefits against it, fees of 0.1 on what is bought; 7 kW of sun that only neighbors take."""
    market = eqx.tree_at(
        lambda m: m.prosumers.load, one_bus(), one_bus().prosumers.load.at[1, 1].set(-7.0)
    )
    with pytest.warns(UserWarning, match="'no trading' is left out: infeasible"):
        found = jg.side_by_side(market, tol=1e-8)
    assert list(found)[:2] == ["today", "market"] and "no trading" not in found
    rows = compare(found, network_fee=0.1, reference="today").rows
    assert rows["today"]["mean_benefit_eur"] == 0.0
    now, then = (outcome(*found[name]) for name in ("market", "today"))
    gained = float((then.cost - now.cost).mean())
    assert rows["market"]["mean_benefit_eur"] == pytest.approx(gained)
    for name, (_, clearing) in found.items():
        bought = 0.1 * float(clearing.aggregate.sum())
        tolls = 2 * 0.01 * float(abs(clearing.plan.trades).sum())
        assert rows[name]["network_fees_eur"] == pytest.approx(bought + tolls)
        assert rows[name]["losses_kwh"] == pytest.approx(0.0)
    assert rows["today"]["operator_receipts_eur"] == 0.0
    assert rows["today"]["traded_kwh"] == 0.0
    assert rows["today"]["unmet_kwh"] == pytest.approx(4.0)  # beside 3 kW that the battery takes
    assert rows["market"]["unmet_kwh"] == 0.0
    with pytest.raises(ValueError, match="reference='yesterday' is none of those compared: today"):
        compare(found, reference="yesterday")
    tight = eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.full(3, -30.0))
    with pytest.raises(jg.NotCleared, match="infeasible"):
        jg.side_by_side(tight)


def test_fees_of_contracts_fall_where_trades_replace_purchases():
    """0.05 EUR/kWh of 3 kW; a neighbor's sun instead pays only its toll, 0.01 to each side."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[3.0], [-3.0]], export_max=9.0, import_adder=0.05),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.3, export=0.08),
        trading=jg.Trading([0], [1], 9.0, toll=0.01),
    )
    rows = compare(jg.side_by_side(market), network_fee=0.1).rows
    assert rows["today"]["contract_fees_eur"] == pytest.approx(0.15)
    assert rows["today"]["network_fees_eur"] == pytest.approx(0.3)
    assert rows["market"]["contract_fees_eur"] == pytest.approx(0.0, abs=1e-4)
    assert rows["market"]["network_fees_eur"] == pytest.approx(0.06, abs=1e-4)
    assert rows["today"]["prosumers_bill_eur"] == pytest.approx(3 * 0.35 - 3 * 0.08)


def test_storage_ends_as_full_as_today_where_that_is_asked():
    """A heat pump would let the house cool by 1 K: 4 kWh of heat that are no gain of a market."""
    pump = devices.heat_pump(
        0, power=3.0, cop=3.0, outdoor=0.0, resistance=5.0, capacity=4.0, hours=3
    )
    market = eqx.tree_at(lambda m: m.buffers, one_bus(), pump)
    market = eqx.tree_at(lambda m: m.prosumers.load, market, abs(market.prosumers.load))
    stored = {
        asked: compare(jg.side_by_side(market, same_end=asked)).rows for asked in (False, True)
    }
    assert stored[False]["today"]["stored_kwh"] == pytest.approx(0.0)
    assert stored[False]["market"]["stored_kwh"] == pytest.approx(-4.0, abs=1e-3)
    assert stored[True]["market"]["stored_kwh"] == pytest.approx(0.0, abs=1e-3)


def test_tight_lines_and_voltages_outside_limits_are_counted():
    """By the AC state step by step; a copperplate has none of this."""
    market = eqx.tree_at(
        lambda m: (m.grid.rating, m.grid.voltage_min), feeder(), (
        jnp.asarray([45.0, 20.0, 30.0, 13.0]), jnp.full(5, 0.98)))  # fmt: skip
    clearing = uncontrolled.today(market)
    state = jg.ac_power_flow(market, clearing.plan)
    used = np.asarray(state.current) / np.asarray(market.grid.rating)[:, None]
    low = np.asarray(state.voltage) < 0.98 - 1e-4
    assert 0 < (used > 0.8).sum() < used.size
    assert 0 < low.sum() < low.size
    found = outcome(market, clearing)
    assert (float(found.tight), float(found.outside)) == ((used > 0.8).sum(), low.sum())
    assert float(found.losses) == pytest.approx(float(state.losses.sum()))
    flat = eqx.tree_at(lambda m: m.grid, market, jg.Grid(market.grid.passive, model="copperplate"))
    table = compare({"today": (flat, uncontrolled.today(flat))}).rows["today"]
    assert table["losses_kwh"] is None
    assert table["line_hours_over_80_percent"] is None


def test_indices():
    assert gini(np.array([1.0, 1.0, 1.0])) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 3.0])) == pytest.approx(2 / 3)
    assert jain(np.array([2.0, 2.0])) == pytest.approx(1.0)
    assert jain(np.array([0.0, 0.0, 0.0, 5.0])) == pytest.approx(0.25)
    assert gini(np.array([1.0, -1.0])) is None
    assert jain(np.array([0.0, 0.0])) is None
