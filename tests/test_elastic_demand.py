"""Consumption that falls with its price, against closed forms and the oracle."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.devices import elastic, join
from tests.agreement import check_agreement
from tests.markets import random_market
from tests.reference import solve


def taker(devices: jg.Generators, slope: float = 0.0, base: float = 0.25) -> jg.Market:
    """One prosumer who takes the main grid's price as it is, at a load of 1 kW."""
    return jg.Market(
        jg.Prosumers([0], [[1.0, 1.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(slope, hours=2, base=base, anticipation=0.0),
        devices,
    )


def test_what_is_used_is_worth_its_price():
    """0.3 - 0.02 c = 0.1 + 0.01 (1 + c) at c = 19/3 kW; the second hour has room for 4 kW.

    0.01 EUR/kWh more of the base takes a third of a kW off the first.
    """
    market = taker(
        elastic(0, power=np.array([[8.0, 4.0]]), hours=2, worth=0.3, slope=0.02), 0.01, 0.1
    )
    clearing = jg.clear(market, tol=1e-9)
    assert np.allclose(-clearing.plan.generation[0], [19 / 3, 4.0], atol=1e-6)
    assert np.allclose(clearing.plan.imports[0], [22 / 3, 5.0], atol=1e-6)

    def used(base: Any) -> Any:
        dearer = eqx.tree_at(lambda m: m.tariff.base, market, base)
        return -jnp.sum(jg.clear(dearer, tol=1e-9).plan.generation)

    assert np.allclose(jax.grad(used)(market.tariff.base), [-1 / 0.03, 0.0], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.5, 3.0), price=st.floats(0.1, 0.4))
def test_a_utility_is_met_by_its_pieces(scale: float, price: float):
    """a log(1 + c) is worth a / (1 + c) a kWh more: c = a / price - 1, within 0 and 5 kW.

    Between the ends of a piece of width w the marginal worth is off by w^2 / 8 times its second
    derivative 2 a / (1 + c)^3, so what is used by that over its slope a / (1 + c)^2.
    """
    width = 5.0 / 50
    devices = elastic(0, power=5.0, hours=2, utility=lambda c: scale * jnp.log1p(c), pieces=50)
    used = -jg.clear(taker(devices, base=price)).plan.generation.sum(axis=0)
    assert np.allclose(used, np.clip(scale / price - 1, 0.0, 5.0), atol=width**2 / 4 + 1e-4)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_elastic_prosumers_among_others_against_the_oracle(seed: int):
    """One with a straight line, one with a curve, in a random market."""
    rng = np.random.default_rng(seed)
    market = random_market(seed)
    people, hours = market.prosumers.load.shape
    straight = elastic(
        rng.integers(people), power=rng.uniform(0.5, 3), hours=hours, worth=rng.uniform(0.1, 0.6),
        slope=rng.uniform(0, 0.2),
    )  # fmt: skip
    curve = elastic(
        rng.integers(people), power=rng.uniform(0.5, 3), hours=hours, pieces=3,
        utility=lambda c: 0.5 * jnp.log1p(c),
    )  # fmt: skip
    market = eqx.tree_at(lambda m: m.generators, market, join(market.generators, straight, curve))
    clearing, reference = jg.clear(market, throw=False), solve(market)
    if reference.status == "infeasible":
        assert clearing.status == jg.Status.infeasible
    else:
        check_agreement(market, clearing, reference)


def test_a_room_by_hour_cuts_the_last_pieces():
    """Three pieces of 1 kW, of which 1.5 kW are there in the second hour."""
    table = elastic(
        0, power=np.array([[3.0, 1.5]]), hours=2, utility=lambda c: -((c - 4) ** 2), pieces=3
    )
    assert table.power_min.tolist() == [[-1, -1], [-1, -0.5], [-1, 0]]
    assert np.allclose(table.linear, [8, 6, 4])
    assert np.allclose(table.quadratic, 1.0)  # (c - 4)^2 itself


def test_one_of_several_may_use_nothing():
    """0.6 / (1 + c) is worth 0.25 at 1.4 kW; the second device is shut off."""
    table = elastic(
        [0, 0], power=np.array([[3.0], [0.0]]), hours=2, utility=lambda c: 0.6 * jnp.log1p(c)
    )
    assert np.all(np.isfinite(table.quadratic))
    used = -jg.clear(taker(table)).plan.generation
    assert np.allclose(used[:10].sum(axis=0), 1.4, atol=0.02)
    assert np.allclose(used[10:], 0.0)


def test_a_utility_has_a_slope_that_falls():
    with pytest.raises(ValueError, match=r"not concave: a kWh more is worth 0 EUR at 0 kW and 2"):
        elastic(0, power=3.0, hours=1, utility=lambda c: c**2, pieces=3)
    with pytest.raises(ValueError, match=r"slope of utility is inf at 0 kW; give a function"):
        elastic(0, power=3.0, hours=1, utility=jnp.sqrt)
    with pytest.raises(ValueError, match="either utility, or worth and slope"):
        elastic(0, power=3.0, hours=1, utility=jnp.log1p, worth=0.2)
