"""Polishing: own balances and prices near an equilibrium fit better, and those that fit stay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import jaxgne as jg
from jaxgne.model import Plan, Rows, boxes, rows
from jaxgne.optimality import residuals
from jaxgne.solvers import primal_dual
from jaxgne.solvers.polishing import polished
from tests.bounds import hold_to_bounds
from tests.markets import markets

polish = jax.jit(polished)
judge = jax.jit(residuals)


@pytest.fixture(scope="module")
def cleared() -> tuple[jg.Market, Plan, Rows]:
    market = jg.synthetic(40, hours=4, seed=3)
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-10)
    # an interior point stops just inside of bounds; what is at one is put there
    lower, upper = boxes(market)

    def at_bounds(u, low, high):
        u = jnp.where(u - low < 1e-5, low, jnp.where(high - u < 1e-5, high, u))
        return jnp.where(jnp.abs(u) < 1e-5, jnp.clip(0.0, low, high), u)

    named = ("imports", "exports", "curtailed", "trades", "generation", "charge", "discharge")
    plan = found.plan
    bounded = {n: at_bounds(*(getattr(p, n) for p in (plan, lower, upper))) for n in named}
    return market, replace(plan, **bounded), found.prices


def test_an_equilibrium_stays(cleared):
    market, plan, prices = cleared
    before = judge(market, plan, prices)
    again = polish(market, plan, prices)
    after = judge(market, *again)
    assert before.error < 1e-5
    assert after.error < 2 * before.error
    scale = np.abs(np.asarray(prices.balance)).max()
    moved = np.abs(np.asarray(again[1].balance - prices.balance)).max()
    assert moved < 1e-4 * scale


def test_what_balances_miss_is_bought(cleared):
    """Imports off by a thousandth: free ones take up the rest again, of neighbors too."""
    market, plan, prices = cleared
    off = np.random.default_rng(0).normal(size=plan.imports.shape) * 1e-3
    free = np.asarray(plan.imports) > 1e-2
    wrong = replace(plan, imports=plan.imports + jnp.asarray(off * free))
    missed = np.abs(np.asarray(rows(market, wrong).balance)).max()
    better, _ = polish(market, wrong, prices)
    assert missed > 1e-3
    assert np.abs(np.asarray(rows(market, better).balance)).max() < 1e-2 * missed


def test_no_trade_turns_round():
    """A trade that is almost nothing ends at nothing: the other way it would cost a toll more."""
    market = jg.Market(
        jg.Prosumers(
            bus=[0, 0, 0],
            load=[[1.0], [1.0], [1.0]],
            import_max=[[0.0], [jnp.inf], [jnp.inf]],
        ),
        jg.Grid(passive=[[0.0]], model="copperplate"),
        jg.Tariff(base=0.1, slope=0.01, hours=1),
        trading=jg.Trading(buyer=[0, 0], seller=[1, 2], toll=[0.01, 0.02], limit=10.0),
    )
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-9)
    np.testing.assert_allclose(found.plan.trades[:, 0], [1.0, 0.0], atol=1e-6)
    wrong = replace(found.plan, trades=jnp.asarray([[0.999], [-2e-4]]))
    better, prices = polish(market, wrong, found.prices)
    np.testing.assert_allclose(better.trades[:, 0], [1.0, 0.0], atol=1e-5)
    assert better.trades[1, 0] <= 0.0
    assert judge(market, better, prices).error < 1e-4


def test_a_miss_goes_along_free_trades():
    """Who has no column of its own that is free gets what it misses from a neighbor who has."""
    market = jg.Market(
        jg.Prosumers(
            bus=[0, 0, 0],
            load=[[2.0], [1.0], [1.0]],
            import_max=[[0.0], [0.0], [jnp.inf]],
        ),
        jg.Grid(passive=[[0.0]], model="copperplate"),
        jg.Tariff(base=0.1, slope=0.01, hours=1),
        trading=jg.Trading(buyer=[0, 1], seller=[1, 2], limit=10.0),
    )
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-9)
    np.testing.assert_allclose(found.plan.trades[:, 0], [2.0, 3.0], atol=1e-5)
    wrong = replace(found.plan, trades=jnp.asarray([[1.99], [3.01]]))
    better, _ = polish(market, wrong, found.prices)
    np.testing.assert_allclose(rows(market, better).balance, 0.0, atol=1e-4)
    np.testing.assert_allclose(better.imports[2, 0], 4.0, atol=1e-4)


def test_own_prices_come_back(cleared):
    """A price that is off by more than its columns bear moves to where they are content."""
    market, plan, prices = cleared
    rng = np.random.default_rng(1)
    off = 1e-4 * (rng.random(prices.balance.shape) < 0.02) * rng.normal(size=prices.balance.shape)
    wrong = replace(prices, balance=prices.balance + jnp.asarray(off))
    before, after = judge(market, plan, wrong), judge(market, *polish(market, plan, wrong))
    assert before.dual > 1e-4
    assert after.dual < 0.1 * before.dual


@settings(max_examples=8, deadline=None)
@given(markets())
def test_bounds_are_kept(market):
    """Whatever the plan: what was inside of all bounds still is, and no number is lost."""
    lower, upper = boxes(market)
    rng = np.random.default_rng(0)

    def inside(low, high):
        low, high = np.maximum(low, -1e3), np.minimum(high, 1e3)
        return jnp.asarray(rng.choice([0.0, 0.3, 1.0], low.shape) * (high - low) + low)

    plan = jax.tree.map(inside, lower, upper)
    prices = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), rows(market, plan))
    better, found = polish(market, plan, prices)
    hold_to_bounds(market, better, ("imports", "exports", "curtailed", "trades"))
    assert np.isfinite(np.asarray(found.balance)).all()


def test_a_solve_that_polishes_ends_at_the_same_answer(monkeypatch, cleared):
    """With polishing, which only large markets get, fewer or as many steps, and the same costs."""
    market = cleared[0]
    plain = jg.clear(market, jg.PrimalDual(), tol=1e-8)
    traced = []

    def told(*arguments):
        traced.append(arguments)
        return polished(*arguments)

    monkeypatch.setattr(primal_dual, "_MANY", 1)
    monkeypatch.setattr(primal_dual, "polished", told)
    found = jax.jit(lambda m: jg.clear(m, jg.PrimalDual(), tol=1e-8, throw=False))(market)
    assert traced
    assert found.ok
    assert int(found.steps) <= 1.2 * int(plain.steps)
    exact = judge(market, found.plan, found.prices)
    assert exact.error <= 1e-8
    np.testing.assert_allclose(found.costs, plain.costs, rtol=1e-6, atol=1e-6)
