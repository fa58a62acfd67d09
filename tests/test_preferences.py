"""Preferences about whom one deals with: what a pair reckons with, and that nobody is paid it."""

from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.record import changed
from tests.reference import solve


def street(**trading: Any) -> jg.Market:
    """Who needs 2 kW; sun next door, and at the end of the line; a gas engine in between.

    The main grid asks 0.30 and pays 0.05; the engine costs 0.10 + 2 * 0.02 p.
    """
    return jg.Market(
        jg.Prosumers([1, 2, 3, 2], [[2.0], [-3.0], [-3.0], [0.0]], export_max=9.0),
        jg.Grid([[0.0]] * 4, [0, 1, 2], [1, 2, 3], [1e-4, 2e-4, 5e-4], 1e-5),
        jg.Tariff(0.0, hours=1, base=0.3, export=0.05),
        jg.Generators([3], 2.0, hours=1, quadratic=0.02, linear=0.1),
        trading=jg.Trading([0, 0, 0], [1, 2, 3], 9.0, **trading),
    )


def test_reluctance_moves_decisions_and_no_money():
    """Sun is worth 0.05 to who sells it. Both sides reckon with 0.02 of 0.05 a kWh: it is bought at
    the mean of 0.05 + 0.01 and as little as the buyer's value of energy, 0.05 + 0.02 less 0.01.
    """
    market = street(reluctance=[0.02, 0.04, 0.02])
    clearing = jg.clear(market, tol=1e-8)
    trades = np.asarray(clearing.plan.trades)[:, 0]
    np.testing.assert_allclose(trades, [2.0, 0.0, 0.0], atol=1e-4)
    pi = np.asarray(jg.model.energy_prices(market, clearing.prices))[:, 0]
    np.testing.assert_allclose(pi[:2], [0.07, 0.05], atol=1e-5)
    paid = jg.settle(market, clearing)
    assert not np.any(np.asarray(paid.tolls))
    np.testing.assert_allclose(np.asarray(paid.trades)[0, 0], 2 * 0.06, atol=1e-5)
    costs = np.asarray(jg.costs(market, clearing.plan))
    np.testing.assert_allclose(costs[0], 0.01 * 2, atol=1e-5)  # reckoned with, though not paid
    np.testing.assert_allclose(costs[1], -0.05 * 1 + 0.01 * 2, atol=1e-5)


def test_a_reluctance_is_twice_a_toll_to_each_in_what_is_decided():
    """The same plan and potential, by a convex solver too; bills differ by the tolls alone."""
    asked, tolled = street(reluctance=0.04), street(toll=0.02)
    a, b = (jg.clear(market, tol=1e-8) for market in (asked, tolled))
    np.testing.assert_allclose(a.plan.trades, b.plan.trades, atol=1e-4)
    by_solver = solve(asked)
    assert float(jg.model.potential(asked, a.plan)) == pytest.approx(by_solver.potential, abs=1e-5)
    one, other = jg.settle(asked, a), jg.settle(tolled, b)
    assert float(np.sum(other.tolls)) == pytest.approx(0.04 * 2.0, abs=1e-4)
    np.testing.assert_allclose(
        np.asarray(one.prosumers), np.asarray(other.prosumers - other.tolls), atol=1e-4
    )


def test_criteria_by_hand():
    """Distances 2, 7, 2 of 1e-4; sun, sun and gas; scores; friends."""
    market, weigh = street(reluctance=9.0), jg.preferences.with_preferences

    def found(weights: dict[str, float], **given: Any) -> np.ndarray:
        return np.asarray(weigh(market, weights, **given).trading.reluctance)[:, 0]

    np.testing.assert_allclose(found({"local": 0.07}), [0.02, 0.07, 0.02], rtol=1e-6)
    np.testing.assert_allclose(found({"green": 0.1}), [0.0, 0.0, 0.1], atol=1e-9)
    np.testing.assert_allclose(
        found({"green": 0.1}, green=[0.0, 0.5, 1.0, 0.2]), [0.05, 0.0, 0.08], atol=1e-8
    )
    np.testing.assert_allclose(
        found({"reputation": 0.1}, reputation=[1.0, 0.5, 0.0, 1.0]), [0.025, 0.05, 0.0], atol=1e-8
    )
    np.testing.assert_allclose(found({"social": 0.1}, social=[(2, 0)]), [0.1, 0.0, 0.1], atol=1e-9)
    named = changed(market, prosumers=changed(market.prosumers, names=("a", "b", "c", "d")))
    known = weigh(named, {"social": 0.1}, social=[("c", 0), (2, "a")]).trading.reluctance
    np.testing.assert_allclose(np.asarray(known)[:, 0], [0.1, 0.0, 0.1], atol=1e-9)
    close = np.zeros((4, 4))
    close[0, 1], close[1, 0], close[0, 3] = 1.0, 0.5, 1.0
    np.testing.assert_allclose(found({"social": 0.1}, social=close), [0.025, 0.1, 0.05], atol=1e-8)
    both = found({"local": 0.07, "social": 0.1}, social=[(2, 0)])
    np.testing.assert_allclose(both, [0.12, 0.07, 0.12], rtol=1e-6)


def test_green_is_by_hour():
    """Sun in the first hour alone, beside an engine of 3 kW: 3 of 6 kW, then none."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[2.0, 2.0], [-3.0, 1.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.3),
        jg.Generators([1], 3.0, hours=2),
        trading=jg.Trading([0], [1], 9.0),
    )
    found = jg.preferences.with_preferences(market, {"green": 0.1}).trading.reluctance
    np.testing.assert_allclose(found, [[0.05, 0.1]], rtol=1e-6)


def test_weights_make_a_front():
    """Sun is worth 0.2 elsewhere, the engine costs 0.1 + 0.04 p: it makes all 2 kW, until its
    weight w is 0.04 and 0.1 + w + 0.04 p = 0.2 at 1.5 kW, or above 0.1 and it makes none.
    """
    market = street()
    shut = np.array([[0.0], [9.0], [9.0], [0.0]])
    market = changed(
        market,
        tariff=changed(market.tariff, export=0.2 + 0 * market.tariff.export),
        prosumers=changed(market.prosumers, export_max=shut),
    )
    weights = [{"green": weight} for weight in (0.0, 0.04, 0.15)]
    cleared = jg.clear_many(jg.preferences.with_preferences(market, weights), tol=1e-7)
    assert np.all(np.asarray(cleared.ok))
    found = np.asarray(cleared.plan.trades)[:, 2, 0]
    np.testing.assert_allclose(found, [2.0, 1.5, 0.0], atol=1e-3)


def test_what_is_no_preference_is_told():
    market, weigh = street(), jg.preferences.with_preferences
    cases: list[tuple[Any, Any, str]] = [
        ({"near": 0.1}, {}, "'near'; choose from local, green, reputation, social"),
        ([], {}, "has none"),
        ("local", {}, "weights is 'local'; give EUR/kWh by criterion"),
        ({"local": -1.0}, {}, r"weight -1.0 of 'local'"),
        ({"reputation": 0.1}, {}, "give reputation= as well"),
        ({"local": 0.1}, {"social": [(0, 1)]}, "social has no weight"),
        ({"reputation": 0.1}, {"reputation": [0.5, 2.0, 0, 0]}, r"from 0 to 2; give \(4,\)"),
        ({"green": 0.1}, {"green": [0.5]}, r"green has shape \(1,\)"),
        ({"social": 0.1}, {"social": [(0, 9)]}, "there is no prosumer 9; give 0 to 3"),
    ]
    for weights, given, words in cases:
        with pytest.raises(ValueError, match=words):
            weigh(market, weights, **given)
