"""Costs and bounds bend each entry of a plan alone, as solvers and derivatives take for granted."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgne as jg
from jaxgne.curves import Exponential, Isoelastic
from jaxgne.devices import elastic, join
from jaxgne.model import curvature, own_gradient
from jaxgne.sensitivity.active import Active, active_set, smoothed_set
from jaxgne.sensitivity.by_point import moving
from jaxgne.sensitivity.lagrangian import Point, lagrangian, point_of
from jaxgne.sensitivity.linear import compliances, matvec_of, stiffness
from tests.capped import capped_market


def bent(seed: int) -> jg.Market:
    """Caps, quadratic costs and two curves of use, on a feeder with ratings."""
    market = capped_market(seed, grid="lindistflow", behavior="nash")
    hours = market.prosumers.load.shape[1]
    curves = (Isoelastic(0.3, 1.5, 0.7), Exponential(0.6, 1.2))
    units = [elastic(0, power=2.0, least=0.1, hours=hours, utility=curve) for curve in curves]
    return eqx.tree_at(lambda m: m.generators, market, join(market.generators, *units))


@pytest.fixture(scope="module")
def cleared() -> tuple[jg.Market, jg.Clearing]:
    market = bent(0)
    return market, jg.clear(market)


def test_marginal_costs_follow_their_own_entry_alone(cleared: tuple[jg.Market, jg.Clearing]):
    """d own_gradient / d plan is a diagonal, that of `curvature`, with the main grid's price held.

    The interior point, the mechanism and the derivatives by hand have no room for more.
    """
    market, plan = cleared[0], cleared[1].plan
    price = market.tariff.base
    flat, unravel = ravel_pytree(plan)

    def slope(entries: Any) -> Any:
        return ravel_pytree(own_gradient(market, unravel(entries), price))[0]

    dense = np.asarray(jax.jit(jax.jacfwd(slope))(flat))
    bend = ravel_pytree(curvature(market, plan))[0]
    assert np.count_nonzero(bend) > 10
    np.testing.assert_allclose(dense, np.diag(bend), atol=1e-12)


def setting(
    market: jg.Market, clearing: jg.Clearing, width: float | None
) -> tuple[Active, Any, Point]:
    """The bounds that hold at an equilibrium, or smoothed ones; the plan, and its point."""
    plan, prices = clearing.plan, clearing.prices
    if width is None:
        active = active_set(market, plan, prices)
        return active, plan, point_of(market, active, plan, prices)
    active, plan, net = smoothed_set(market, plan, prices, width)
    return active, plan, replace(point_of(market, active, plan, prices), net=net)


@pytest.mark.slow
@pytest.mark.parametrize("width", [None, 0.1])
def test_compliances_invert_what_the_lagrangian_bends(
    cleared: tuple[jg.Market, jg.Clearing], width: float | None
):
    """theta (H + proximal) = 1, with H its dense second derivative in all that moves at once.

    A cost that ties two entries together would be in H, and not in theta: that is found entry by
    entry, but for the two flows of a line. With bounds held, and with all of them smoothed.
    """
    market, clearing = cleared
    active, plan, point = setting(market, clearing, width)
    flat, unravel = ravel_pytree((point.plan, point.total, point.net))

    def value(free: Any) -> Any:
        return lagrangian(
            market, active, plan, Point(*unravel(free), prices=point.prices, price=point.price)
        )

    proximal = stiffness(market, plan, 1e-7)
    theta = compliances(market, active, plan, matvec_of(market, active, plan, point), *proximal)

    def yielding(force: Any) -> Any:
        entries, total, net = unravel(force)
        moves = (theta(entries), theta.whole.total * total, theta.whole.net * net)
        return ravel_pytree(moves)[0]

    one = jnp.ones_like(flat)
    may = moving(active, Point(*unravel(one), prices=point.prices, price=point.price))
    entries = replace(may.plan, exchange=jnp.ones_like(may.plan.exchange))  # which costs nothing
    free = np.flatnonzero(ravel_pytree((entries, may.total, may.net))[0])
    stiff = ravel_pytree(jax.tree.map(jnp.add, (*proximal, proximal[1]), unravel(0 * flat)))[0]
    dense = np.asarray(jax.jit(jax.hessian(value))(flat) + jnp.diag(stiff))
    ours = np.asarray(jax.vmap(yielding)(jnp.eye(flat.size)).T)
    inner = np.ix_(free, free)
    assert free.size > 30
    np.testing.assert_allclose(ours[inner] @ dense[inner], np.eye(free.size), atol=1e-6)
    held = np.setdiff1d(np.arange(flat.size), free)
    assert not ours[held].any() and not ours[:, held].any()
