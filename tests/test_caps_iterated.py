"""Derivatives of markets with caps where K is not factored, as in large ones: by iterations."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.model import rows_like, zeros
from jaxgne.record import Record
from jaxgne.runner import by_numpy, to_device, to_host
from jaxgne.sensitivity import preconditioner
from jaxgne.sensitivity.active import Active, active_set, firm
from jaxgne.sensitivity.by_point import hessian, unfolded_back
from jaxgne.sensitivity.lagrangian import Point, point_of, sizes
from jaxgne.sensitivity.linear import factored, iterated
from jaxgne.sensitivity.refinement import Solved, refined
from tests.capped import capped_market
from tests.markets import SHAPES, random_zones

SLOW = pytest.mark.slow
STEPS = 40  # conjugate gradients a turn, where there are six rows of caps and six of levels an hour


class Case(Record):
    """A market with caps at its equilibrium, what is asked for, and K's exact answer."""

    market: jg.Market
    active: Active
    plan: jg.Plan
    point: Point
    right: Point
    exact: Solved


def at_equilibrium(market: jg.Market) -> Case:
    """Asked for is a sum of the total import and of prices, of balances and caps, by the hour."""
    clearing = jg.clear(market, jg.InteriorPoint(), tol=1e-11, runner="numpy")
    with by_numpy():
        here, plan, prices = to_host((market, clearing.plan, clearing.prices))
        active = firm(active_set(here, plan, prices))
        point, wave = point_of(here, active, plan, prices), np.cos(np.arange(plan.imports.shape[1]))
        none = rows_like(here)
        by_plan = replace(zeros(here), imports=wave + zeros(here).imports)
        by_prices = replace(none, balance=wave + none.balance, cap=wave + none.cap)
        right = unfolded_back(here, active, plan, by_plan, by_prices)
        matvec = hessian(here, active, plan, point)
        inverse = factored(here, active, plan, matvec)
        exact = refined(matvec, inverse, right, sizes(here, plan), 1e-12)
    return to_device(Case(market, active, plan, point, right, exact))


@jax.jit
def by_iterations(case: Case) -> Solved:
    market, active, plan = case.market, case.active, case.plan
    matvec = hessian(market, active, plan, case.point)
    inverse = iterated(market, active, plan, matvec, STEPS)
    return refined(matvec, inverse, case.right, sizes(market, plan), 1e-11)


@pytest.mark.parametrize(
    ("grid", "dense", "seeds"),
    [
        ("lindistflow", 150, (4,)),
        pytest.param("lindistflow", 150, (2, 3), marks=SLOW),
        pytest.param("lindistflow", 0, (2, 3, 4), marks=SLOW),  # by trees, as large grids are
        pytest.param("copperplate", 150, (1, 2, 3), marks=SLOW),
    ],
)
def test_few_iterations_solve_what_elimination_does(
    grid: Any, dense: int, seeds: tuple[int, ...], monkeypatch: Any
):
    """With carbon, a group, a ramp, demand charges and a budget that bind, or nearly so."""
    monkeypatch.setattr(preconditioner, "_DENSE", dense)
    jax.clear_caches()  # of the same shape, preconditioned otherwise
    for seed in seeds:
        check(capped_market(seed, shape=SHAPES[0], grid=grid))


def check(market: jg.Market):
    """Iterations find what elimination does."""
    case = at_equilibrium(market)
    found, exact = by_iterations(case), case.exact
    assert float(exact.residual) < 1e-9
    assert float(found.residual) < 1e-8
    asked = [(p.total, p.price, p.prices.cap) for p in (exact.point, found.point)]
    for a, b in zip(*asked, strict=True):
        assert np.allclose(a, b, atol=1e-6 * float(jnp.abs(a).max()))


@SLOW
@pytest.mark.parametrize("grid", ["lindistflow", "copperplate"])
def test_zones_take_few_iterations_too(grid: Any):
    """Each has a row in every hour that its prosumers share."""
    check(random_zones(capped_market(4, shape=SHAPES[0], grid=grid), 4))
