"""Rows in an order for memory: the market is the same one, and its answer comes back as asked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import model, ordering
from jaxgne.caps import Caps
from jaxgne.commitments import commitment
from jaxgne.curves import Exponential
from jaxgne.feasibility import infeasibility_proof
from jaxgne.market import cast
from jaxgne.ordering import Order, ordered, restored
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from jaxgne.status import status_name
from jaxgne.tables import QUANTITIES
from tests.markets import Shape, anything, random_contracts, random_market, random_zones

ALL = Shape(prosumers=7, hours=3, generators=6, buffers=5, pairs=9, buses=4)


@pytest.fixture(autouse=True)
def small_markets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "_LEAST", 1)


def rich(seed: int) -> jg.Market:
    """A market with something in every table that has rows: caps of all quantities, curves."""
    market = random_zones(random_contracts(random_market(seed, shape=ALL), seed), seed)
    rng = np.random.default_rng(seed)
    quantity = np.repeat(np.arange(len(QUANTITIES)), 2)
    rows = [7, 7, 6, 5, 5, 7, 7, 9]
    caps = Caps(
        [np.inf, 5.0], hours=3, cap=rng.integers(2, size=16), quantity=quantity, price=[0.1, 0.0],
        row=rng.integers(np.array(rows)[quantity]), weight=rng.uniform(size=(16, 3)), owner=[-1, 4],
    )  # fmt: skip
    costs = tuple(rng.uniform(0.1, 1.0, (2, 6)))
    bent = changed(market.generators, curves=(Exponential(*map(jnp.asarray, costs)),))
    names = tuple(f"house {k}" for k in range(7))
    people = changed(market.prosumers, names=names)
    return changed(market, caps=caps, generators=bent, prosumers=people)


def taken(order: Order, tables: Any) -> Any:
    """The inverse of `restored`, by hand."""
    found = {
        name: np.asarray(getattr(tables, name))[order[field.row]]
        for name, field in model.families(tables).items()
        if field.row in order
    }
    return changed(tables, **found)


@pytest.mark.parametrize("seed", range(4))
def test_a_market_in_order_is_the_same_market(seed: int):
    """Rows, costs, bounds and gradients of the market in order are those of the market, in order.

    The plan is one that nobody asked for, the order one in which no kind of row stays where it is.
    """
    market = rich(seed)
    plan, prices = anything(market, seed)
    there, _, order = ordered(market)
    assert order is not None
    assert all(sorted(rows) == list(range(len(rows))) for rows in order.values())
    assert all(np.any(rows != np.arange(len(rows))) for rows in order.values())
    moved, asked = taken(order, plan), taken(order, prices)

    def same(found: Any, wanted: Any) -> None:
        found = restored(found, order)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
                     found, wanted)  # fmt: skip

    same(moved, plan)
    with by_numpy():
        market, plan, prices, there, moved, asked = to_host(
            (market, plan, prices, there, moved, asked)
        )
        same(model.rows(there, moved), model.rows(market, plan))
        same(model.pull(there, asked), model.pull(market, prices))
        same(model.pseudo_gradient(there, moved), model.pseudo_gradient(market, plan))
        for end, wanted in zip(model.boxes(there), model.boxes(market), strict=True):
            same(end, wanted)
        costs = [np.asarray(model.costs(*both)) for both in ((there, moved), (market, plan))]
    np.testing.assert_allclose(costs[0], costs[1][order["prosumer"]], rtol=1e-12)
    assert there.prosumers.names == ()


def test_neighbors_lie_near_whatever_order_they_came_in():
    """On a ring of 500 whose rows are shuffled, all partners come to lie within a few rows."""
    market = jg.synthetic(500, degree=4.0, hours=1, buses=4, graph="ring")
    shuffled = np.random.default_rng(0).permutation(500)
    pairs = market.trading
    ends = {name: shuffled[np.asarray(getattr(pairs, name))] for name in ("buyer", "seller")}
    apart = np.abs(ends["buyer"] - ends["seller"]).mean()
    there = ordered(changed(market, trading=changed(pairs, **ends)))[0].trading
    near = np.abs(np.asarray(there.buyer) - np.asarray(there.seller))
    assert apart > 100 and near.max() <= 8
    assert np.all(np.diff(np.minimum(there.buyer, there.seller)) >= 0)


def test_nothing_is_done_where_it_would_not_pay(monkeypatch: pytest.MonkeyPatch):
    """To markets below the size, nor without pairs, nor with steps that are one decision."""
    market = jg.synthetic(10, hours=2, buses=4)
    committed = changed(market, committed=commitment("committed", (0, 0), 2, 10))
    alone = changed(market, trading=jg.Trading((), (), ()))
    for other in (committed, alone):
        assert ordered(other)[2] is None
    monkeypatch.setattr(ordering, "_LEAST", 11)
    assert ordered(market) == (market, None, None)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_answers_come_in_the_order_that_was_asked_for(dtype: str, monkeypatch: pytest.MonkeyPatch):
    """The same prices as without an order, a certificate of the market itself, a start that helps.

    In float32 JAX judges, in float64 NumPy may.
    """
    market = cast(jg.synthetic(40, hours=4, buses=8, degree=4.0, stress=True), dtype)
    solver, tol = jg.PrimalDual(), 1e-4 if dtype == "float32" else 1e-6
    options = {"tol": tol, "runner": "jax"}
    found = jg.clear(market, solver, **options)
    again = jg.certify(market, found.plan, found.prices)
    assert float(again.error) <= 1.01 * tol
    np.testing.assert_allclose(again.residuals.gap, found.certificate.residuals.gap, atol=1e-6)
    assert again.owners == found.certificate.owners
    assert str(again).splitlines()[2] == str(found.certificate).splitlines()[2]
    assert int(jg.clear(market, solver, start=found, **options).steps) <= solver.every
    early = jg.clear(market, solver, max_steps=40, throw=False, **options)
    assert early.certificate.worst() == jg.certify(market, early.plan, early.prices).worst()
    monkeypatch.setattr(ordering, "_LEAST", 41)
    plain = jg.clear(market, solver, **options)
    scale = float(plain.certificate.scales.price)
    np.testing.assert_allclose(found.prices.balance, plain.prices.balance, atol=500 * tol * scale)
    np.testing.assert_allclose(found.aggregate, plain.aggregate, rtol=500 * tol)


def test_what_a_stopped_solve_had_come_to_is_in_order():
    """Whoever presses Ctrl-C gets a plan of the market, and where it misses most."""
    market = jg.synthetic(40, hours=4, buses=8, degree=4.0, stress=True)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(jg.Stopped) as stopped:
        jg.clear(market, jg.PrimalDual(), tol=1e-6, runner="jax", progress=stop)
    held = stopped.value.clearing
    assert held is not None
    assert held.certificate.worst() == jg.certify(market, held.plan, held.prices).worst()


def test_what_has_no_plan_is_proven_by_prices_of_its_own_rows():
    """The ray is one of the market: by its own rows, it proves that there is no plan."""
    market = jg.synthetic(40, hours=4, buses=8, degree=4.0)
    total = jnp.full(4, 1e-3)
    short = changed(market, tariff=changed(market.tariff, total_max=total))
    found = jg.clear(short, jg.PrimalDual(), runner="jax", throw=False)
    assert status_name(found.status) == "infeasible"
    assert float(infeasibility_proof(short, found.prices)) > 0
