"""The structured Newton system, against the matrix that it factors."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxgne as jg
from jaxgne.model import aggregate, limits, rows, zeros
from jaxgne.solvers.newton import Compliance, Worth, factor
from tests.markets import GRIDS, SHAPES, random_market


@partial(jax.jit, static_argnums=2)
def solved(market: jg.Market, theta: Compliance, reactive: bool, right: Worth) -> Worth:
    """The solution y of (A theta A^T) y = `right`."""
    return factor(market, theta, reactive)(market, right)


RADIAL = GRIDS.index("lindistflow")


@pytest.mark.parametrize("shape", [0, 3])
@pytest.mark.parametrize(
    ("grid", "reactive"), [*((grid, True) for grid in range(len(GRIDS))), (RADIAL, False)]
)
def test_newton_solves_the_dense_system(grid, reactive, shape):
    """(A theta A^T) y for random y and theta, given to it, comes back as y."""
    market = random_market(7, shape=SHAPES[shape], grid=GRIDS[grid])
    rng = np.random.default_rng(0)
    plan, hour = zeros(market), market.tariff.slope
    columns, unravel = ravel_pytree((plan, 0 * hour, 0 * hour))

    def value(flat: jax.Array) -> jax.Array:
        plan, total, net = unravel(flat)
        found = rows(market, plan)
        found = replace(found, aggregate=found.aggregate - net)
        return ravel_pytree(Worth(found, aggregate(market, plan) - total))[0]

    def drawn(like: jax.Array) -> jax.Array:
        return jnp.asarray(rng.uniform(0.1, 3.0, like.shape))

    theta = jax.tree.map(drawn, replace(plan, exchange=plan.exchange[:0]))
    cross = jnp.asarray(rng.uniform(-0.05, 0.05, plan.active.shape))
    if not reactive:  # then these do not move
        theta, cross = replace(theta, reactive=0 * theta.reactive), 0 * cross
    own = Compliance(replace(theta, exchange=plan.exchange), cross, drawn(hour), drawn(hour))
    diagonal, _ = ravel_pytree((own.plan, own.total, own.net))
    weight = np.diag(np.asarray(diagonal))
    place, _ = ravel_pytree((plan, 0 * hour, 0 * hour))
    index = unravel(jnp.arange(place.size, dtype=place.dtype))[0]
    real, other = (np.asarray(a, int).ravel() for a in (index.active, index.reactive))
    weight[real, other] = weight[other, real] = np.asarray(cross).ravel()

    # rows that exist; the exchange and the feeders' own follow from the others
    low, high = limits(market)
    exists = jax.tree.map(lambda a, b: (a == b).astype(float), low, high)
    at_feeder = exists.bus.at[market.grid.feeder].set(0.0)
    exists = replace(exists, aggregate=1 + 0 * hour, exchange=0 * hour, bus=at_feeder)
    if not reactive:
        exists = replace(exists, bus_reactive=0 * exists.bus_reactive)
    used, back = ravel_pytree(Worth(exists, 1 + 0 * hour))

    matrix = np.asarray(jax.jit(jax.jacfwd(value))(columns))
    normal = matrix @ weight @ matrix.T
    wanted = np.asarray(used) * rng.standard_normal(used.size)
    right = back(jnp.asarray(normal @ wanted))
    found = solved(market, own, reactive, right)
    assert np.allclose(ravel_pytree(found)[0], wanted, rtol=1e-6, atol=1e-6)


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
