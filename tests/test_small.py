"""The smallest prosumer has its price and its load, over nine decades of sizes."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.model import energy_prices
from jaxgne.scales import scales, shares

SOLVERS = {"interior point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}


def neighbors(sizes: list[float], seed: int) -> jg.Market:
    """Three price takers behind one line: a consumer, a cheap and a dear generator, a battery."""
    rng, size = np.random.default_rng(seed), np.array(sizes)[:, None]
    load = size * rng.uniform(0.3, 1.0, (3, 2))
    line = 1e-3 / max(sizes)
    return jg.Market(
        jg.Prosumers([1, 1, 1], load),
        jg.Grid(np.zeros((2, 2)), [0], [1], line, line),
        jg.Tariff(0.2 / load.sum(axis=0), hours=2, base=0.05, anticipation=0.0),
        jg.Generators([1, 2], 0.2 * size[1:], hours=2, linear=[0.1, 0.41]),
        jg.Buffers([2], 0.3 * size[2:], 0.3 * size[2:], size[2], 0.5 * size[2], hours=2,
                   charge_efficiency=0.95, discharge_efficiency=0.95, linear=0.01,
                   energy_min=size[2] * np.array([[0.0, 0.5]])),
        jg.Trading([0], [1], 0.1 * size[1], toll=0.01),
    )  # fmt: skip


def check(market: jg.Market, solver: str, right: float = 1e-4) -> None:
    """Everyone imports, so that energy costs everyone what the main grid asks.

    The cheap generator runs to its limit, the dear one rests; nobody's load is served by less.
    """
    clearing = jg.clear(market, SOLVERS[solver], throw=False)
    assert bool(clearing.ok), str(clearing)
    tariff = market.tariff
    asked = np.asarray(tariff.base + tariff.slope * clearing.aggregate)
    prices = np.asarray(energy_prices(market, clearing.prices))
    imports = np.asarray(clearing.plan.imports)
    load = np.asarray(market.prosumers.load)
    buys = imports > 1e-3 * load
    assert np.all(buys)
    np.testing.assert_allclose(prices, np.broadcast_to(asked, prices.shape), rtol=1e-4)
    most = np.asarray(market.generators.power_max)
    np.testing.assert_allclose(clearing.plan.generation[0], most[0], rtol=right)
    assert np.all(np.asarray(clearing.plan.generation[1]) <= right * most[1])
    missed = np.abs(np.asarray(jg.model.rows(market, clearing.plan).balance))
    assert np.all(missed <= right * load.max(axis=1, keepdims=True))
    assert np.all(np.asarray(clearing.certificate.residuals.own.share) <= 10 * right)


@pytest.mark.parametrize("solver", SOLVERS)
@given(st.floats(-6, 0), st.floats(-6, 0), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 1e5]))
@settings(max_examples=10, deadline=None)
def test_prices_are_right_down_to_a_millionth_of_the_largest(solver, second, third, seed, unit):
    market = neighbors([unit, unit * 10**second, unit * 10**third], seed)
    check(market, solver)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("decades", [(-9, -9), (-9, 0), (-7, -3)])
def test_smaller_ones_are_served_too(solver, decades):
    """Not promised: 0.1 W beside 100 MW has its price, and its load to a tenth at worst."""
    check(neighbors([1e5, *(1e5 * 10.0**k for k in decades)], 0), solver, right=0.1)


def test_those_of_whom_nothing_is_promised_are_named():
    market = neighbors([1e5, 1e5 * 4e-6, 1e5 * 0.5e-6], 0)
    with pytest.warns(UserWarning, match=r"Prosumers row 2 \(0\.0.* kW\): smaller than 0\.0.* kW"):
        jg.validate(market)
    jg.validate(neighbors([1e5, 1e5 * 4e-6, 1e5 * 4e-6], 0))


def test_a_device_without_a_limit_makes_no_one_small():
    market = neighbors([10.0, 10.0, 1.0], 0)
    far = jnp.full_like(market.generators.power_max, 1e9)
    jg.validate(eqx.tree_at(lambda m: m.generators.power_max, market, far))


def test_a_small_line_is_held_to_its_own_rating():
    """A rating of 4 kVA beside 1e6 kW of load is held to 4e-4 kVA at 1e-6; it was 1 kVA."""
    market = jg.Market(
        jg.Prosumers([0, 1], [[1e6], [6.0]]),
        jg.Grid([[0.0], [0.0]], [0], [1], 1e-9, 1e-9, rating=4.0),
        jg.Tariff(1e-7, hours=1),
    )
    found = shares(market, scales(market, jg.model.zeros(market)))
    assert found.line.tolist() == [400.0]
    assert found.prosumer.tolist() == [1e6, 600.0]


def test_costs_of_a_small_one_are_measured_at_its_own_size():
    """A trade of 1 mW at 0.05 EUR/kWh per mW is a matter of 0.1 EUR/kWh, not of 1e5 at 1 kW.

    The highest price is that of the main grid: 0.05 + 0.2 at full load, from a load of at least
    0.3 of the sizes on.
    """
    market = neighbors([1.0, 1e-6, 1.0], 0)
    curved = eqx.tree_at(lambda m: m.trading.quadratic, market, jnp.array([0.05e6]))
    plan = jg.model.zeros(curved)
    assert float(scales(curved, plan).price) == float(scales(market, plan).price) < 0.5
