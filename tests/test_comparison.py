"""Outcomes in cash and energy, baselines, and the table that compares them."""

import equinox as eqx
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxgne as jg
from jaxgne.comparison import baselines, compare, gini, jain, outcome
from tests.markets import many_devices, one_bus


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


def test_indices():
    assert gini(np.array([1.0, 1.0, 1.0])) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 3.0])) == pytest.approx(2 / 3)
    assert jain(np.array([2.0, 2.0])) == pytest.approx(1.0)
    assert jain(np.array([0.0, 0.0, 0.0, 5.0])) == pytest.approx(0.25)
    assert gini(np.array([1.0, -1.0])) is None
    assert jain(np.array([0.0, 0.0])) is None
