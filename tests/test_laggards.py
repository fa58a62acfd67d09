"""Laggards: who is far from an equilibrium answers its neighbors' prices, and all others stay."""

from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.market import cast
from jaxgne.model import Plan, Rows, boxes
from jaxgne.optimality import misses, residuals
from jaxgne.solvers import laggards, primal_dual
from jaxgne.solvers.laggards import heard
from tests.bounds import hold_to_bounds

judge, answer = jax.jit(residuals), jax.jit(heard)
TOL = jnp.asarray(1e-4)


@pytest.fixture(scope="module")
def cleared() -> tuple[jg.Market, Plan, Rows]:
    market = jg.synthetic(60, degree=6.0, hours=8, stress=True, seed=5)
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-10)
    return market, found.plan, found.prices


def lagging(market: jg.Market, plan: Plan, prices: Rows, count: int) -> tuple[Plan, Rows, list]:
    """The batteries that move most idle, prices of their owners and contents far off; owners."""
    stores = np.argsort(-np.ptp(np.asarray(plan.energy), axis=1))[:count]
    owners = np.asarray(market.buffers.owner)[stores]
    start = market.buffers.energy_start[stores, None]
    low, high = ((b.energy + 0 * plan.energy)[stores] for b in boxes(market))
    wrong = replace(
        plan,
        charge=plan.charge.at[stores].set(0.0),
        discharge=plan.discharge.at[stores].set(0.0),
        energy=plan.energy.at[stores].set(jnp.clip(start, low, high)),
    )
    far = replace(
        prices,
        balance=prices.balance.at[owners].add(0.05),
        energy=prices.energy.at[stores].add(0.05),
    )
    return wrong, far, list(owners)


def test_a_battery_comes_back_to_its_price(cleared):
    """One whose own price, and the price of what it stores, went a long way, with its plan."""
    market, plan, prices = cleared
    wrong, far, owner = lagging(market, plan, prices, 1)
    better, found = answer(market, wrong, far, TOL)
    assert judge(market, wrong, far).error > 1e-2
    assert judge(market, better, found).error < 1e-5
    others = np.setdiff1d(np.arange(market.prosumers.bus.shape[0]), owner)
    np.testing.assert_allclose(found.balance[others], prices.balance[others], atol=1e-3)


def test_who_deals_with_those_who_answered_answers_next(monkeypatch, cleared):
    """Of twelve batteries some are neighbors: one round leaves what they miss of one another."""
    market, plan, prices = cleared
    wrong, far, _ = lagging(market, plan, prices, 12)
    better, found = answer(market, wrong, far, TOL)
    after = judge(market, better, found).error
    monkeypatch.setattr(laggards, "ROUNDS", 1)
    better, found = jax.jit(lambda *given: heard(*given))(market, wrong, far, TOL)
    once = judge(market, better, found).error
    assert after < 0.5 * once < 0.05 * judge(market, wrong, far).error


def test_an_equilibrium_stays(cleared):
    """Nobody lags, so nobody answers: only what balances miss is passed on."""
    market, plan, prices = cleared
    better, found = answer(market, plan, prices, TOL)
    assert np.array_equal(found.balance, prices.balance)
    assert np.array_equal(found.energy, prices.energy)
    assert judge(market, better, found).error < 1e-5


def test_a_market_of_laggards_stays(monkeypatch, cleared):
    """Where more lag than may answer, nothing is touched."""
    market, plan, prices = cleared
    monkeypatch.setattr(laggards, "MOST", 4)
    far = replace(prices, balance=prices.balance + 0.1)
    assert int(jnp.sum(misses(market, plan, far) > TOL)) > 4
    found = jax.jit(lambda *given: heard(*given))(market, plan, far, TOL)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, (plan, far)))


def test_a_battery_whose_contents_do_not_add_up_answers(cleared):
    """All prices are right, and what it charges is less than what it holds."""
    market, plan, prices = cleared
    lower, upper = boxes(market)
    inside = (plan.charge > lower.charge + 0.1) & (plan.charge < upper.charge - 0.1)
    store, hour = np.argwhere(np.asarray(inside))[0]
    owner = int(market.buffers.owner[store])
    more = replace(
        plan,
        charge=plan.charge.at[store, hour].add(0.05),
        imports=plan.imports.at[owner, hour].add(0.05),
    )
    before = judge(market, more, prices)
    assert before.dual < 0.3 * TOL
    assert before.infeasibility > 2 * TOL
    better, found = answer(market, more, prices, TOL)
    assert judge(market, better, found).error < 0.1 * before.error


def test_misses_are_the_judges(cleared):
    """The largest of all prosumers is what the judge says of what prosumers decide and balance."""
    market, plan, prices = cleared
    far = replace(prices, balance=prices.balance.at[7].add(0.02))
    missed = np.asarray(misses(market, plan, far))
    assert missed.argmax() == 7 or missed.max() == pytest.approx(missed[7])
    assert missed.max() == pytest.approx(float(judge(market, plan, far).dual), rel=1e-6)
    short = replace(plan, imports=plan.imports.at[9].add(-1.0))
    missed = np.asarray(misses(market, short, prices))
    assert missed.argmax() == 9
    assert missed[9] == pytest.approx(float(judge(market, short, prices).infeasibility), rel=1e-6)


def test_what_is_beyond_its_sizes_stands(monkeypatch, cleared):
    """One who would buy of all its neighbors, and has room for two trades, leaves the others."""
    market, plan, prices = cleared
    pairs = market.trading
    one = int(np.bincount(np.concatenate([pairs.buyer, pairs.seller])).argmax())
    cheap = replace(prices, balance=(prices.balance - 0.1).at[one].set(prices.balance[one]))
    only = jnp.zeros(market.prosumers.bus.shape[0]).at[one].set(1.0)
    theirs = np.asarray((pairs.buyer != one) & (pairs.seller != one))

    def moved() -> tuple[Plan, np.ndarray]:
        found, _ = jax.jit(lambda *given: laggards._round(*given))(market, plan, cheap, only, TOL)
        return found, np.asarray(jnp.any(found.trades != plan.trades, axis=1))

    _, free = moved()
    monkeypatch.setattr(laggards, "TRADES", 2)
    found, held = moved()
    assert free.sum() > 2
    assert 1 <= held.sum() <= 2
    assert not np.any((free | held) & theirs)
    names = ("imports", "exports", "curtailed", "trades", "generation", "charge", "energy")
    hold_to_bounds(market, found, names, 1e-9)


def test_float32_that_hears_them_ends_at_the_same_answer(monkeypatch):
    """With laggards heard, which only large markets do, no more steps, and a plan as good."""
    market = jg.synthetic(60, degree=6.0, hours=8, stress=True, seed=5)
    narrow = cast(market, jnp.float32)
    plain = jg.clear(narrow, jg.PrimalDual(), tol=1e-4, runner="jax")
    traced = []

    def told(*given):
        traced.append(given)
        return heard(*given)

    monkeypatch.setattr(primal_dual, "_MANY", 1)
    monkeypatch.setattr(primal_dual, "heard", told)
    found = jax.jit(lambda m: jg.clear(m, jg.PrimalDual(), tol=1e-4, throw=False))(narrow)
    assert traced
    assert found.ok
    assert int(found.steps) <= int(plain.steps)
    exact = judge(market, *cast((found.plan, found.prices), jnp.float64))
    assert exact.error <= 2e-4
    np.testing.assert_allclose(jnp.sum(found.costs), jnp.sum(plain.costs), rtol=1e-3)


def test_a_gpu_does_not_hear_them(cleared):
    """Its program hands on what it gets: many small kernels would take it longer than steps do."""
    exported = jax.export.export(answer, platforms=["cuda"])(*cleared, TOL)
    assert "while" not in exported.mlir_module()
    assert "while" in jax.export.export(answer, platforms=["cpu"])(*cleared, TOL).mlir_module()
