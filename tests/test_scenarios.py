"""Batches of markets: what is drawn, swept, split and padded."""

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import scenarios
from tests.markets import inverters
from tests.reference import solve
from tests.three_buses import feeder


@pytest.fixture(scope="module")
def many() -> jg.Market:
    noise = {"load": 0.2, "renewable": 0.3, "price": 0.1, "persistence": 0.8, "common": 0.5}
    market = jg.synthetic(40, buses=6, seed=1)
    return scenarios.perturb(market, jax.random.key(0), 2000, **noise)


def test_perturb_draws_what_it_says(many):
    """Mean 1, the deviation asked for, correlation over hours and between prosumers."""
    market = jg.synthetic(40, buses=6, seed=1)
    price = np.asarray(many.tariff.slope) / np.asarray(market.tariff.slope)
    assert abs(price.mean() - 1) < 0.01
    assert abs(price.std() - 0.1) < 0.01
    drawn = np.asarray(many.grid.passive_reactive)[:, 1:] / np.asarray(
        market.grid.passive_reactive[1:]
    )
    assert abs(drawn.mean() - 1) < 0.01
    assert abs(drawn.std() - 0.2) < 0.01
    logs = np.log(drawn)
    over_hours = np.corrcoef(logs[:, 0, 3], logs[:, 0, 4])[0, 1]
    between = np.corrcoef(logs[:, 0, 3], logs[:, 1, 3])[0, 1]
    assert abs(over_hours - 0.8) < 0.05
    assert abs(between - 0.5) < 0.06


def test_perturb_is_deterministic_and_leaves_the_rest(many):
    market = jg.synthetic(40, buses=6, seed=1)
    again = scenarios.perturb(market, jax.random.key(3), 4, load=0.1)
    same = scenarios.perturb(market, jax.random.key(3), 4, load=0.1)
    assert np.array_equal(again.prosumers.load, same.prosumers.load)
    assert np.array_equal(again.tariff.slope[2], market.tariff.slope)
    assert np.array_equal(many.grid.rating[7], market.grid.rating)
    still = scenarios.perturb(market, jax.random.key(3), 2)
    assert np.allclose(still.prosumers.load, np.asarray(market.prosumers.load), atol=1e-12)


def test_bad_noise_is_refused():
    with pytest.raises(ValueError, match=r"load=-0\.1 is below 0"):
        scenarios.perturb(feeder(), jax.random.key(0), 2, load=-0.1)
    with pytest.raises(ValueError, match="common=2; give a correlation"):
        scenarios.perturb(feeder(), jax.random.key(0), 2, common=2)


def test_sweep_sets_one_field():
    market = feeder()
    swept = scenarios.sweep(market, lambda m: m.trading.toll, [0.0, 0.01, 0.02])
    assert swept.trading.toll.shape == (3, *market.trading.toll.shape)
    assert np.all(swept.trading.toll[2] == 0.02)
    assert np.array_equal(scenarios.lane(swept, 1).prosumers.load, market.prosumers.load)
    with pytest.raises(ValueError, match="do not fit a field"):
        scenarios.sweep(market, lambda m: m.tariff.slope, np.ones((3, 7)))
    with pytest.raises(ValueError, match="no axis of scenarios"):
        scenarios.sweep(market, lambda m: m.tariff.slope, 1.0)


def test_days_split_a_series():
    market = feeder()
    load = np.arange(2 * 12.0).reshape(2, 12)
    split = scenarios.days(market, load, base=np.linspace(0.1, 0.2, 12))
    assert np.array_equal(split.prosumers.load[1], load[:, 4:8])
    assert np.array_equal(split.tariff.base[2], np.linspace(0.1, 0.2, 12)[8:])
    with pytest.raises(ValueError, match="load has 11 steps; give a multiple of 4"):
        scenarios.days(market, load[:, :-1])
    with pytest.raises(ValueError, match=r"passive has shape \(3, 8\); give shape \(3, 12\)"):
        scenarios.days(market, load, passive=np.ones((3, 8)))


def test_stack_refuses_what_cannot_be_padded():
    with pytest.raises(ValueError, match="market 1 has grid model 'paper', market 0 'lindistflow'"):
        scenarios.stack([jg.ieee37(5), jg.ieee37(5, grid="paper")])
    with pytest.raises(ValueError, match="no markets"):
        scenarios.stack([])


def test_stack_pads_to_the_largest():
    small, large = jg.synthetic(6, buses=4, seed=0), jg.synthetic(9, buses=7, seed=1)
    both = scenarios.stack([small, large])
    assert both.prosumers.load.shape == (2, 9, 24)
    assert both.grid.passive.shape == (2, 7, 24)
    assert np.array_equal(scenarios.lane(both, 1).prosumers.load, large.prosumers.load)
    assert not np.any(both.prosumers.load[0, 6:])


def test_pad_needs_somebody_to_trade_with():
    with pytest.raises(ValueError, match="more than 2 prosumers can form"):
        scenarios.pad(feeder(), pairs=9)


def test_padding_keeps_what_inverters_can_do():
    """More buses and prosumers who do nothing: the oracle finds the same potential."""
    market = inverters()
    sizes = {"buses": market.grid.passive.shape[0] + 2, "prosumers": 6}
    padded = scenarios.pad(market, **sizes)
    assert np.all(np.asarray(padded.grid.compensation_max)[-2:] == 0)
    assert solve(padded).potential == pytest.approx(solve(market).potential, rel=1e-6)
