"""Markets that shun risk, against the epigraph written out, and against hand-made numbers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model, risk, scenarios
from jaxgne.record import changed
from tests.branched import SHARE, SPLIT, drawn
from tests.epigraph import least_risk


def hedging(more: float = 0.0) -> jg.Market:
    """A battery of 4 kWh to be filled at 0.1 EUR/kWh, of use if the next hour is dear.

    Of b kWh in it one branch costs 0.9 + 0.1 b + 0.5 (9 - b) = 5.4 - 0.4 b EUR, the other
    0.9 + 0.1 b + 0.02 (170 - b) = 4.3 + 0.08 b: the same, 4.4833, at b = 1.1 / 0.48 = 2.2917.
    """

    def day(price: float, load: float) -> jg.Market:
        return jg.Market(
            jg.Prosumers([0], [[9.0, load]]), jg.Grid([[0.0] * 2], model="copperplate"),
            jg.Tariff(more, hours=2, base=[0.1, price]),
            buffers=jg.Buffers([0], 4.0, 4.0, 4.0, 0.0, hours=2),
        )  # fmt: skip

    return scenarios.tree([day(0.5, 9.0), day(0.02, 170.0)], [0.5, 0.5], 1)


def test_value_at_risk_and_cvar_of_numbers_in_closed_form():
    """Of 1, 2, 3, 4 with 0.4, 0.3, 0.2, 0.1: the worst 20 % are 4 and half of 3, the worst 10 % 4,
    the worst 60 % (0.1 * 4 + 0.2 * 3 + 0.3 * 2) / 0.6; level 0 is the mean."""
    values, share = np.array([[3.0, 1.0, 4.0, 2.0]]), np.array([0.2, 0.4, 0.1, 0.3])
    for level, edge, mean in (
        (0.8, 3.0, 3.5), (0.9, 3.0, 4.0), (0.95, 4.0, 4.0), (0.4, 1.0, 1.6 / 0.6), (0.0, 1.0, 2.0)
    ):  # fmt: skip
        assert float(risk.value_at_risk(values, share, level)[0]) == edge
        assert float(risk.cvar(values, share, level)[0]) == pytest.approx(mean)
    rng = np.random.default_rng(0)
    for _ in range(20):  # Rockafellar and Uryasev: the least of eta + E[(v - eta)+] / (1 - level)
        v, p, level = rng.normal(size=7), rng.dirichlet(np.ones(7)), rng.uniform(0.0, 0.99)
        least = min(e + p @ np.maximum(v - e, 0) / (1 - level) for e in v)
        assert float(risk.cvar(v, p, level)) == pytest.approx(least)


def test_who_shuns_risk_fills_the_battery_half():
    """The expected cost falls with each kWh, 0.16 EUR; who minds the worst stops where both
    branches cost the same. There the dear one counts 1/6: 0.4 / 6 = 0.08 * 5/6."""
    market = hedging()
    found = risk.averse(market, 0.9, 0.6, tol=1e-8)
    np.testing.assert_allclose(found.clearing.plan.energy[0, 0], 1.1 / 0.48, atol=1e-6)
    np.testing.assert_allclose(found.costs, 4.3 + 0.08 * 1.1 / 0.48, atol=1e-6)
    np.testing.assert_allclose(found.priced, [1 / 6, 5 / 6], atol=1e-6)
    assert float(found.measure - found.bound) < 1e-6
    assert float(found.clearing.certificate.error) < 1e-6
    assert "which no plan brings below" in str(found)
    plain = risk.averse(market, 0.0, 0.6)
    assert plain.clears == 1
    np.testing.assert_allclose(plain.clearing.plan.energy[0, 0], 4.0, atol=1e-4)


def agrees(market: jg.Market, oracle: float, weight: float, level: float) -> None:
    found = risk.averse(market, weight, level, tol=1e-7)
    bill = float(found.clearing.certificate.scales.bill)
    assert abs(float(found.measure) - oracle) < 1e-6 * bill
    assert abs(float(found.bound) - oracle) < 1e-6 * bill
    phi = sum(p * float(c) for p, c in zip(found.priced, found.costs, strict=True))
    assert phi == pytest.approx(float(model.potential(found.market, found.clearing.plan)), rel=1e-6)


@pytest.mark.parametrize("seed", [1, 4])
def test_the_least_risk_is_that_of_the_epigraph(seed: int):
    market = scenarios.tree(drawn(seed), SHARE, SPLIT)
    agrees(market, least_risk(market, 0.5, 0.6), 0.5, 0.6)


@pytest.mark.slow
@given(st.integers(5, 400), st.floats(0.05, 0.99), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_random_least_risks_are_those_of_epigraphs(seed: int, weight: float, level: float):
    market = scenarios.tree(drawn(seed), SHARE, SPLIT)
    oracle = least_risk(market, weight, level)
    assume(np.isfinite(oracle))
    agrees(market, oracle, weight, level)


def test_branches_that_trade_off_are_weighed():
    """Eight branches whose costs cross: the share of each is between its bounds, by a few clears;
    derivatives by weight and level against central differences of the epigraph."""
    rng, count = np.random.default_rng(3), 8
    a, b = rng.uniform(2, 14, (2, count))
    p, r = rng.uniform(0.05, 0.4, (2, count))
    days = [
        jg.Market(
            jg.Prosumers([0, 0], [[9.0, 8.0, x, y], [5.0, 4.0, y, x]]),
            jg.Grid([[0.0] * 4], model="copperplate"),
            jg.Tariff(0.004, hours=4, base=[0.1, 0.1, s, t]),
            jg.Generators([0], [6.0], hours=4, quadratic=0.01, linear=0.12),
            jg.Buffers([0, 1], 4.0, 4.0, [8.0, 6.0], [0.0, 0.0], hours=4),
            jg.Trading([0], [1], 5.0, toll=0.003),
        )
        for x, y, s, t in zip(a, b, p, r, strict=True)
    ]
    market = scenarios.tree(days, rng.dirichlet(np.ones(count)), 2)
    for weight, level in ((0.95, 0.3), (0.6, 0.7)):
        found = risk.averse(market, weight, level, tol=1e-8)
        oracle = least_risk(market, weight, level)
        assert abs(float(found.measure) - oracle) < 1e-7 * oracle
        for k, slope in enumerate(found.slopes):
            moved = (np.array([weight, level]) + s * np.eye(2)[k] for s in (1e-4, -1e-4))
            ends = [least_risk(market, *numbers) for numbers in moved]
            assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-4)


def test_bills_of_branches_have_the_mean_of_bills():
    market = scenarios.tree(drawn(1), SHARE, SPLIT)
    found = jg.clear(market, tol=1e-9)
    bills, expected = risk.branch_bills(market, found), jg.settle(market, found).prosumers.sum(1)
    np.testing.assert_allclose(bills @ np.array(SHARE), expected, rtol=1e-9)
    told = risk.bill_risk(market, found, 0.5)
    np.testing.assert_allclose(told.expected, expected, rtol=1e-9)
    worst = risk.bill_risk(market, found, 0.8)  # one branch, the third, is 20 %
    dear = np.all(bills[:, 2:] >= bills, axis=1)
    assert dear.any()
    np.testing.assert_allclose(worst.cvar[dear], bills[dear, 2])
    assert np.all(np.asarray(told.cvar) >= np.asarray(told.value_at_risk) - 1e-9)


@pytest.mark.slow
def test_committed_markets_shun_risk():
    market = scenarios.committed(drawn(1), SHARE, up=0.9, down=0.02)
    oracle = least_risk(market, 0.8, 0.6)
    found = risk.averse(market, 0.8, 0.6, tol=1e-7)
    assert abs(float(found.measure) - oracle) < 1e-6 * oracle


def test_what_is_no_measure_of_risk_is_refused():
    market = hedging()
    with pytest.raises(ValueError, match="weight=1; give a number from 0 to below 1"):
        risk.averse(market, 1)
    with pytest.raises(ValueError, match=r"level=1\.2; give a share"):
        risk.averse(market, 0.5, 1.2)
    with pytest.raises(ValueError, match="do not count by the probability of their branches"):
        risk.averse(changed(market, weight=2 * market.weight))
    with pytest.raises(jg.NotCleared, match="1 clears left"):
        risk.averse(market, 0.9, 0.6, most=1)
