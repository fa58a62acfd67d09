"""The structured Newton system, against the matrix that it factors."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgne as jg
from jaxgne.model import limits, rows, zeros, zone_slopes, zone_totals
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from jaxgne.scenarios import tree
from jaxgne.solvers.newton import Compliance, Worth, factor
from tests.infeasible import SMALL
from tests.markets import GRIDS, SHAPES, random_caps, random_market, random_zones


@partial(jax.jit, static_argnums=2)
def solved(market: jg.Market, theta: Compliance, reactive: bool, right: Worth) -> Worth:
    """The solution y of (A theta A^T) y = `right`."""
    return factor(market, theta, reactive)(market, right)


RADIAL = GRIDS.index("lindistflow")


def drawn(market: jg.Market, reactive: bool) -> Compliance:
    """Random compliances."""
    rng = np.random.default_rng(0)
    plan, hour = zeros(market), market.tariff.slope

    def some(like: jax.Array) -> jax.Array:
        return jnp.asarray(rng.uniform(0.1, 3.0, like.shape))

    theta = jax.tree.map(some, replace(plan, exchange=plan.exchange[:0]))
    cross = jnp.asarray(rng.uniform(-0.05, 0.05, plan.active.shape))
    if not reactive:  # then these do not move
        theta, cross = replace(theta, reactive=0 * theta.reactive), 0 * cross
    return Compliance(
        replace(theta, exchange=plan.exchange), cross, some(zone_slopes(market)), some(hour)
    )


def dense(
    market: jg.Market, theta: Compliance, reactive: bool
) -> tuple[np.ndarray, np.ndarray, Callable[[jax.Array], Worth]]:
    """A theta A^T, which of its rows exist, and what makes `Worth` of a vector."""
    plan, hour, zone = zeros(market), market.tariff.slope, zone_slopes(market)
    columns, unravel = ravel_pytree((plan, 0 * zone, 0 * hour))

    def value(flat: jax.Array) -> jax.Array:
        plan, total, net = unravel(flat)
        found = rows(market, plan)
        found = replace(found, aggregate=found.aggregate - net)
        return ravel_pytree(Worth(found, zone_totals(market, plan) - total))[0]

    diagonal, _ = ravel_pytree((theta.plan, theta.total, theta.net))
    weight = np.diag(np.asarray(diagonal))
    place, _ = ravel_pytree((plan, 0 * zone, 0 * hour))
    index = unravel(jnp.arange(place.size, dtype=place.dtype))[0]
    real, other = (np.asarray(a, int).ravel() for a in (index.active, index.reactive))
    weight[real, other] = weight[other, real] = np.asarray(theta.cross).ravel()

    # rows that exist; the exchange and the feeders' own follow from the others
    low, high = limits(market)
    exists = jax.tree.map(lambda a, b: (a == b).astype(float), low, high)
    at_feeder = exists.bus.at[market.grid.feeder].set(0.0)
    exists = replace(exists, aggregate=1 + 0 * hour, exchange=0 * hour, bus=at_feeder)
    if not reactive:
        exists = replace(exists, bus_reactive=0 * exists.bus_reactive)
    used, back = ravel_pytree(Worth(exists, 1 + 0 * zone))
    matrix = np.asarray(jax.jit(jax.jacfwd(value))(columns))
    return matrix @ weight @ matrix.T, np.asarray(used), back


@pytest.mark.parametrize("shape", [0, 3])
@pytest.mark.parametrize(
    ("grid", "reactive"), [*((grid, True) for grid in range(len(GRIDS))), (RADIAL, False)]
)
def test_newton_solves_the_dense_system(grid, reactive, shape):
    """(A theta A^T) y for random y and theta, given to it, comes back as y."""
    market = random_market(7, shape=SHAPES[shape], grid=GRIDS[grid])
    market = random_zones(market, 7) if shape else market
    theta = drawn(market, reactive)
    normal, used, back = dense(market, theta, reactive)
    wanted = used * np.random.default_rng(1).standard_normal(used.size)
    found = solved(market, theta, reactive, back(jnp.asarray(normal @ wanted)))
    assert np.allclose(ravel_pytree(found)[0], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "before",
    [(-1, 0, 1, 0), *(pytest.param(b, marks=pytest.mark.slow) for b in (None, (-1, 0, -1, 0)))],
)
def test_newton_solves_it_for_levels_of_caps(before: tuple[int, ...] | None):
    """Likewise where these reach from step to step, in a tree, on a path and on two."""
    market = random_caps(random_market(7, shape=SMALL, grid="copperplate"), 7)
    market = random_zones(market, 7, 2)
    market = changed(market, before=before)
    theta = drawn(market, True)
    normal, used, back = dense(market, theta, True)
    wanted = used * np.random.default_rng(1).standard_normal(used.size)
    with by_numpy():
        here, its, right = to_host((market, theta, back(jnp.asarray(normal @ wanted))))
        found = factor(here, its)(here, right)
    assert np.allclose(ravel_pytree(found)[0], wanted, rtol=1e-6, atol=1e-6)


def test_rows_are_met_in_a_tree_whose_last_steps_cannot_move():
    """Two branches with batteries at rest ask the step before for 1 kWh each, which is free to give
    it: a step in all columns, theta A^T y, meets the rows, though they could move by 1e-12 of it.
    """
    first = random_market(7, shape=SHAPES[0], grid="copperplate")
    market = tree([first, first], (0.5, 0.5), 3)
    moving = np.array([1.0, 1.0, 1.0, 1e-6, 1e-6])
    theta = drawn(market, True)
    stores = {name: getattr(theta.plan, name) * moving for name in ("charge", "discharge")}
    stores["energy"] = theta.plan.energy * np.array([1.0, 1.0, 1e6, 1e-6, 1e-6])
    theta = replace(theta, plan=replace(theta.plan, **stores))
    normal, used, back = dense(market, theta, True)
    right = back(jnp.asarray(normal @ (used * np.random.default_rng(1).standard_normal(used.size))))
    asked = np.array([0.0, 0.0, 1.0, 0.0, 0.0]) - market.buffers.retention * (moving < 1)
    right = replace(right, rows=replace(right.rows, energy=right.rows.energy + asked))
    with by_numpy():
        here, its, wanted = to_host((market, theta, right))
        prices = factor(here, its)(here, wanted)
    missed = normal @ ravel_pytree(prices)[0] - ravel_pytree(right)[0]
    assert np.max(np.abs(used * missed)) < 1e-5


THREADS = """
from concurrent.futures import ThreadPoolExecutor
import jax
jax.config.update("jax_enable_x64", True)
import jaxgne as jg
market = jg.synthetic(50, buses=36)
steps = int(jg.clear(market, jg.InteriorPoint()).steps)
with ThreadPoolExecutor(4) as threads:
    found = threads.map(lambda _: int(jg.clear(market, jg.InteriorPoint()).steps), range(40))
    assert set(found) == {steps}
"""


@pytest.mark.slow
def test_threads_do_not_wait_for_one_another():
    """Batches of LAPACK calls from several threads at once would, forever."""
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=240)
