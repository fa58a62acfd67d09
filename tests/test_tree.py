"""The network's preconditioner on random feeders against the matrix that it inverts."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.incidence import falls
from jaxgne.solvers import network as module
from jaxgne.solvers.network import network
from jaxgne.solvers.tree import Tree

from . import phased

slopes = jax.jit(jax.jacobian(model.rows, argnums=1))


@partial(jax.jit, static_argnames="dense")
def applied(
    market: jg.Market, devices: jax.Array, held: jax.Array, value: jg.Rows, dense: bool
) -> tuple[jax.Array, jax.Array, jg.Rows]:
    """Steps of flows and voltages, and Sigma times `value`; `dense` is how it is to be done."""
    found = network(market, devices, held)
    assert isinstance(found.sigma, Tree) != dense
    return found.flow, found.voltage, found(market, value)


@settings(max_examples=12, deadline=None)
@given(deep=st.booleans(), seed=st.integers(0, 10_000))
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("buses", [2, 60])
def test_the_tree_is_the_inverse(buses, dense, deep, seed):
    """Sigma A tau A^T is the identity, on chains and bushes, with held voltages and without."""
    rng = np.random.default_rng(seed)
    target = np.arange(1, buses)
    source = target - 1 if deep else rng.integers(0, target)
    drop = 10 ** rng.uniform(-5, -3, (2, buses - 1))
    grid = jg.Grid(np.ones((buses, 1)), source, target, *drop)
    people = jg.Prosumers(rng.integers(0, buses, 5), np.ones((5, 1)), import_max=9.0)
    market = jg.Market(people, grid, jg.Tariff(0.01, hours=1))
    held = jnp.asarray(rng.random(buses) < 0.3)
    devices = jnp.asarray(rng.uniform(0, 2, (2, buses)))
    nothing = model.rows_like(market)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", buses if dense else 0)
        flow, volts, _ = applied(market, devices, held, nothing, dense)

    others = np.arange(1, buses)  # the feeder's own rows are left out
    columns = ("active", "reactive", "voltage")
    tau = {"active": flow, "reactive": flow, "voltage": volts}
    change = slopes(market, model.zeros(market))

    def entries(row: str) -> np.ndarray:
        parts = [np.asarray(getattr(getattr(change, row), name)) for name in columns]
        table = np.concatenate([part[:, 0, :, 0] for part in parts], axis=1)
        table[:, 2 * (buses - 1)] = 0.0  # the feeder's voltage is fixed
        return table if row == "voltage" else table[others]

    rows = ("bus", "bus_reactive", "voltage")
    matrix = np.concatenate([entries(row) for row in rows])
    steps = np.concatenate([np.asarray(tau[name])[:, 0] for name in columns])
    normal = matrix * steps @ matrix.T
    inner = np.arange(2 * (buses - 1))
    normal[inner, inner] += np.asarray(devices)[:, others].ravel()

    wanted = rng.standard_normal(normal.shape[0])
    bus, bus_reactive, voltage = np.split(normal @ wanted, (buses - 1, 2 * (buses - 1)))
    value = replace(
        nothing,
        bus=jnp.asarray(np.concatenate([[0.0], bus])[:, None]),
        bus_reactive=jnp.asarray(np.concatenate([[0.0], bus_reactive])[:, None]),
        voltage=jnp.asarray(voltage)[:, None],
    )
    *_, got = applied(market, devices, held, value, dense)
    got = np.concatenate([got.bus[1:, 0], got.bus_reactive[1:, 0], got.voltage[:, 0]])
    assert np.allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_takes_all_phases_of_a_bus(seed: int):
    """Sigma A tau A^T is the identity with conductors that act on one another, and terminals."""
    market = phased.market(seed, buses=25, hours=1)
    grid, rng = market.grid, np.random.default_rng(seed)
    buses, lines = grid.passive.shape[0], grid.source.shape[0]
    devices = jnp.asarray(rng.uniform(0, 2, (2, buses)))
    held = jnp.asarray(rng.random(buses) < 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", 0)
        found = network(market, devices, held)
    assert isinstance(found.sigma, Tree)
    change = slopes(market, model.zeros(market))
    tau = {"active": found.flow, "reactive": found.flow, "voltage": found.voltage}
    families = ("bus", "bus_reactive", "voltage")
    matrix = np.block(
        [[np.asarray(getattr(getattr(change, r), c))[:, 0, :, 0] for c in tau] for r in families]
    )
    fed = np.isin(np.arange(buses), np.asarray(grid.feeder))
    steps = np.concatenate([np.asarray(step)[:, 0] for step in tau.values()])
    steps[2 * lines :][fed] = 0  # the feeder's voltages are fixed
    square = np.sum(np.square(np.stack(falls(grid)["voltage"])), axis=0)
    flow = np.asarray(found.flow)[:, 0]
    slack = flow * np.maximum(np.maximum(1e-6 * square.mean(), 1e-12 / flow) - square, 0)
    normal = matrix * steps @ matrix.T + np.diag(np.concatenate([*np.asarray(devices), slack]))
    used = np.concatenate([~fed, ~fed, np.ones(lines, bool)])
    wanted = rng.standard_normal(len(used)) * used
    bus, bus_reactive, voltage = np.split((normal @ wanted * used)[:, None], (buses, 2 * buses))
    value = replace(model.rows_like(market), bus=jnp.asarray(bus), voltage=jnp.asarray(voltage))
    got = found(market, replace(value, bus_reactive=jnp.asarray(bus_reactive)))
    got = np.concatenate([getattr(got, family)[:, 0] for family in families])
    assert np.allclose(got, wanted, rtol=1e-5, atol=1e-5)
