"""The network's preconditioner on random feeders against the matrix that it inverts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.solvers import network as module
from jaxgne.solvers.network import network
from jaxgne.solvers.tree import Tree


@settings(max_examples=12, deadline=None)
@given(deep=st.booleans(), seed=st.integers(0, 10_000))
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("buses", [2, 9])
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", buses if dense else 0)
        found = network(market, devices, held)
    assert isinstance(found.sigma, Tree) != dense

    others = np.arange(1, buses)  # the feeder's own rows are left out
    columns = ("active", "reactive", "voltage")
    tau = {"active": found.flow, "reactive": found.flow, "voltage": found.voltage}
    change = jax.jacobian(lambda plan: model.rows(market, plan))(model.zeros(market))

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
    value = model.rows_like(market)
    value = replace(
        value,
        bus=value.bus.at[others, 0].set(bus),
        bus_reactive=value.bus_reactive.at[others, 0].set(bus_reactive),
        voltage=jnp.asarray(voltage)[:, None],
    )
    got = found(market, value)
    got = np.concatenate([got.bus[1:, 0], got.bus_reactive[1:, 0], got.voltage[:, 0]])
    assert np.allclose(got, wanted, rtol=1e-6, atol=1e-6)
