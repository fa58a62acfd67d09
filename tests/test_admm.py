"""Rounds by alternating directions of multipliers: they end where the oracle says."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import admm, model, pool
from jaxgne.market import cast
from jaxgne.solvers.admm import ADMM
from tests.agreement import check_agreement, check_signs
from tests.good import good
from tests.markets import feeder, two_neighbors
from tests.reference import solve


def zoned() -> jg.Market:
    """Two prosumers each in two zones, at prices of their own."""
    market = jg.Market(
        jg.Prosumers([0, 0, 1, 1], [[4.0, 5.0], [3.0, 2.0], [6.0, 3.0], [2.0, 4.0]]),
        jg.Grid([[1.0, 1.0], [2.0, 2.0]], model="copperplate"),
        jg.Tariff(0.002, hours=2, base=0.10),
        jg.Generators([0, 1], 12.0, hours=2, quadratic=[0.010, 0.012], linear=0.05),
        trading=jg.Trading([2, 3], [0, 1], 10.0, toll=0.002),
    )
    return jg.zones.with_zones(market, [0, 0, 1, 1], base=[0.10, 0.16], slope=[0.002, 0.006])


MARKETS = {
    "zones": zoned,
    "two neighbors": two_neighbors,
    "full lines": lambda: feeder(rating=30.0),  # of one shape with those below
    "price takers": lambda: feeder(rating=30.0, behavior=0.0),
    "half hours": lambda: feeder(voltage_min=0.97, hour_length=0.5),
    "a pool": lambda: pool.with_pool(two_neighbors(), fee=0.01),
}


@pytest.mark.parametrize("name", MARKETS)
def test_rounds_end_where_the_oracle_is(name: str):
    market = MARKETS[name]()
    found = jg.clear(market, ADMM(), tol=1e-8, max_steps=4000)
    check_agreement(market, found, solve(market))
    if name != "zones":  # whose prices differ
        check_signs(market, found.plan, found.prices, 1e-4)


def capped() -> jg.Market:
    """Exports, curtailment and a limit on the total that binds, on a line of four buses."""
    return good(tariff={"total_max": 12.0, "total_min": 8.0})


def test_limits_on_the_total_have_their_price():
    market = capped()
    found, oracle = jg.clear(market, ADMM(), tol=1e-8, max_steps=20_000), solve(market)
    assert float(jnp.min(found.prices.aggregate)) < -0.001
    np.testing.assert_allclose(found.prices.aggregate, oracle.prices.aggregate, atol=1e-4)
    np.testing.assert_allclose(found.prices.bus, oracle.prices.bus, atol=1e-4)
    check_agreement(market, found, oracle)


def test_an_equilibrium_is_a_fixed_point():
    """Rounds from there move nothing: any point at rest meets the conditions of optimality."""
    market = feeder(rating=30.0)
    exact = jg.clear(market, tol=1e-10)
    solver = ADMM().prepare(market)
    state = solver.init(market, exact.plan, exact.prices)
    for _ in range(3):
        state = jax.jit(solver.step)(market, state)
    plan, prices = solver.point(market, state)
    assert float(jg.certify(market, plan, prices).error) < 1e-7
    assert float(jnp.max(jnp.abs(state.apart))) < 1e-5
    assert abs(float(model.potential(market, plan) - model.potential(market, exact.plan))) < 1e-6


def test_any_penalty_converges():
    market = feeder(rating=30.0)
    solver = ADMM()
    own = jg.solvers.setting.default_balance(market)
    rounds = {}
    for factor in (0.1, 1.0, 10.0):
        chosen = eqx.tree_at(lambda s: s.penalty, solver, own * factor, is_leaf=lambda a: a is None)
        rounds[factor] = int(jg.clear(market, chosen, tol=1e-5, max_steps=10_000).steps)
    assert rounds[1.0] <= min(rounds[0.1], rounds[10.0])


def test_batches_and_float32():
    market = two_neighbors()
    markets = jg.scenarios.sweep(market, lambda m: m.tariff.base, [0.1, 0.2])
    many = jg.clear_many(markets, ADMM(), tol=1e-6)
    for k in range(2):
        lane = jg.scenarios.lane(markets, k)
        alone = jg.clear(lane, tol=1e-9)
        np.testing.assert_allclose(many.aggregate[k], alone.aggregate, atol=1e-3)
    narrow = jg.clear(cast(market, jnp.float32), ADMM(), max_steps=2000)
    assert narrow.plan.imports.dtype == jnp.float32 and float(narrow.certificate.error) <= 1e-4


def test_rounds_and_bytes_are_counted():
    """Of two prosumers, a pair and an hour: reports of two numbers, as many prices, and trades."""
    found = admm.beside(two_neighbors(), rounds=60, every=3)
    for rounds in found.values():
        assert rounds.sent[0, 0] == 3 * 8 * (2 * 2 + 2 * 2 + 2)
        (most,) = rounds.rounds_to(1e-3)
        assert most <= 60 and rounds.error[0, -1] < 1e-3 and rounds.distance[0, -1] < 1e-2
        assert rounds.bytes_to(1e-3)[0] == most * 80 and "kB" in str(rounds)
    start = jg.clear(two_neighbors(), tol=1e-9)
    again = admm.run(two_neighbors(), rounds=60, every=3, start=start, exact=start)
    assert again.error[0, 0] < 1e-6 and again.prices.balance.shape == (1, 2, 1)


def committed() -> Any:
    both = [two_neighbors(), two_neighbors()]
    return jg.scenarios.committed(both, [0.5, 0.5], up=1.0, down=0.0)


@pytest.mark.parametrize(
    ("market", "told"),
    [
        (lambda: jg.capped(feeder(), jg.caps.ramp(feeder(), 5.0)), "caps"),
        (committed, "committed"),
    ],
)
def test_what_it_does_not_take_is_told(market: Any, told: str):
    with pytest.raises(ValueError, match=told):
        jg.clear(market(), ADMM())


@pytest.mark.parametrize("penalty", [0.0, -1.0, np.inf])
def test_a_penalty_is_positive(penalty: float):
    with pytest.raises(ValueError, match="penalty"):
        ADMM(penalty)
