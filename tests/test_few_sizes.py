"""Tables rounded up to few sizes: the same answers, and no program more for another number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import solve
from jaxgne.choosing import few_sizes
from jaxgne.few_sizes import rounded
from jaxgne.model import rows_like
from jaxgne.runner import by_numpy, to_host
from jaxgne.status import Status, status_name

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def without(market: jg.Market, pairs: int) -> jg.Market:
    """The market with so many pairs fewer."""
    fewer = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[:-pairs]), market.trading)
    return eqx.tree_at(lambda m: m.trading, market, fewer)


def shapes(market: jg.Market) -> list[tuple[int, ...]]:
    return [np.shape(a) for a in jax.tree.leaves(rounded(market)[0])]


def same(one: jg.Clearing, other: jg.Clearing) -> None:
    assert int(one.steps) == int(other.steps)
    for a, b in zip(
        jax.tree.leaves((one.plan, one.prices, one.certificate.owners)),
        jax.tree.leaves((other.plan, other.prices, other.certificate.owners)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_another_number_of_pairs_finds_its_programs():
    """19 and 20 pairs are cleared as 20 by one program, and give what NumPy gives of each."""
    full = jg.synthetic(10, hours=3, buses=4, degree=4.0)
    fewer = without(full, 1)
    assert [m.trading.buyer.shape[0] for m in (full, fewer)] == [20, 19]
    assert shapes(full) == shapes(fewer)
    first = jg.clear(full, tol=1e-8, runner="jax")
    before = len(compiled)
    second = jg.clear(fewer, tol=1e-8, runner="jax")
    assert len(compiled) == before
    for market, found in ((full, first), (fewer, second)):
        same(found, jg.clear(market, tol=1e-8, runner="numpy"))
        assert float(jg.certify(market, found.plan, found.prices).error) <= 1e-8
    again = jg.clear(fewer, tol=1e-8, start=second, runner="jax")
    assert int(again.steps) <= int(second.steps)


def test_sizes_are_few_and_near():
    """Eight from each power of two to the next, at most an eighth too large; small ones exact."""
    market = jg.synthetic(10, hours=3, buses=4, degree=4.0)

    def next_of(pairs: int) -> int:
        table = jax.tree.map(lambda a: np.zeros(pairs, a.dtype), market.trading)
        return few_sizes(eqx.tree_at(lambda m: m.trading, market, table))["pairs"]

    sizes = [next_of(pairs) for pairs in range(1, 2048)]
    assert all(n <= size <= n * 9 / 8 for n, size in enumerate(sizes, 1))
    assert sizes[:16] == list(range(1, 17))
    assert len({size for size in sizes if 1024 < size <= 2048}) == 8


@pytest.mark.slow
def test_another_number_of_prosumers_finds_its_programs():
    """375 and 380 prosumers are cleared as 384; the answer is one of the market itself."""
    markets = [jg.synthetic(n, hours=4, buses=8, degree=4.0) for n in (380, 375)]
    assert shapes(markets[0]) == shapes(markets[1])
    clearings = [jg.clear(market) for market in markets]
    for market, found in zip(markets, clearings, strict=True):
        assert found.runner == "jax"
        assert found.plan.imports.shape == market.prosumers.load.shape
        assert found.costs.shape == (len(market.prosumers.load),)
        again = jg.certify(market, found.plan, found.prices)
        assert float(again.error) == pytest.approx(float(found.certificate.error), rel=1e-6)
        exact = jg.clear(market, jg.InteriorPoint(), tol=1e-8, runner="numpy")
        assert np.allclose(found.aggregate, exact.aggregate, rtol=1e-4)
    assert int(jg.clear(markets[1], start=clearings[1]).steps) <= jg.PrimalDual().every


def test_numpy_writes_the_answer_of_the_market_itself_whatever_the_state_is_in():
    """Step sizes are in float32 where the market is in float64."""
    market = jg.synthetic(380, hours=1, buses=4, degree=4.0)
    assert few_sizes(market)["prosumers"] == 384
    zero, few = jnp.zeros(()), np.zeros(3, np.float32)
    with by_numpy():
        prices = rows_like(to_host(market))
    assert solve._by_numpy(market, solve.Carry(few, prices, zero, zero, Status.max_steps))


def test_what_has_no_plan_is_said_of_the_market_itself():
    """The prices that prove it are as many as the market has rows."""
    market = without(jg.synthetic(10, hours=3, buses=4, degree=4.0), 1)
    short = eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.full(3, 1e-3))
    found = jg.clear(short, runner="jax", throw=False)
    assert status_name(found.status) == "infeasible"
    assert found.prices.balance.shape == market.prosumers.load.shape
    assert found.plan.trades.shape[0] == 19
