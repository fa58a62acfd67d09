"""What surrounds the mathematics runs on the host: concrete markets compile nothing for it."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import devices
from jaxgne.model import zeros
from jaxgne.runner import by_numpy, jnp, to_host

from .markets import feeder

COUNTED = """
import collections, json, sys, tempfile
from pathlib import Path
import jax
import matplotlib
import numpy as np
from jax import monitoring

matplotlib.use("Agg")
jax.config.update("jax_enable_x64", True)
compiled = []
monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)
import jaxgne as jg
from jaxgne import devices, frames, indicators, plots

steps = dict(hours=24)
market = jg.Market(
    devices.photovoltaic(jg.Prosumers([1, 2], np.ones((2, 24))), [0], generation=np.ones(24)),
    jg.Grid(np.zeros((3, 24)), [0, 1], [1, 2], 1e-6, 1e-6, rating=50.0),
    jg.Tariff(0.001, base=0.1, **steps),
    devices.generator([1], power=2.0, linear=0.1, **steps),
    devices.join(
        devices.battery([0, 1], power=5, capacity=[10, 13.5], final=0.5, **steps),
        devices.vehicle(0, power=11, capacity=60, arrival=18, departure="7:00", trip=12, **steps),
        devices.heat_pump(
            1, power=3, cop=3.2, outdoor=5.0, resistance=6, capacity=4, **steps
        ),
        devices.shiftable(1, energy=3.5, power=2.0, earliest=9, latest="17:00", **steps),
    ),
    jg.Trading([0], [1], 3.0),
    clock=jg.Clock("2025-03-30T00:00", "UTC"),
)
market = devices.connection(devices.inverter(market, [0], rating=40.0), [1], rating=40.0)
market = jg.scenarios.pad(market, prosumers=3, buffers=6, pairs=2, buses=6)
populated = jg.cases.populate(jg.ieee37().grid, 20, vehicle=0.2, heat_pump=0.2, shiftable=0.2)
jg.scenarios.stack([market, market])
clearing = jg.clear(jg.validate(market))
words = [str(market), str(clearing), clearing.why(), repr(clearing), str(jg.relax(market))]
facts = indicators.summary(market, clearing)
tables = [
    getattr(frames, name)(market, clearing)
    for name in "prosumers generators buffers trades buses lines hours bills price_parts".split()
]
drawn = [
    getattr(plots, name)(market, clearing)
    for name in "prices bus_prices voltages energy storage feeder costs".split()
]
jg.compare({"market": (market, clearing)})
assert clearing.certificate.ac.answer
with tempfile.TemporaryDirectory() as folder:
    jg.save(Path(folder) / "x", market, clearing, summary=facts)
    jg.load(Path(folder) / "x")
print(json.dumps({"compiled": len(compiled), "runner": clearing.runner}))
"""


def printed(script: str) -> str:
    """What a process of its own prints."""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_building_reporting_and_files_compile_nothing():
    """Devices, cases, a small clear, words, tables, figures and folders: not one program."""
    assert json.loads(printed(COUNTED)) == {"compiled": 0, "runner": "numpy"}


DEVICES = {
    "battery": lambda kw: devices.battery([0, 1], power=kw, capacity=[4, 9], hours=6, final=0.4),
    "generator": lambda kw: devices.generator([0, 2], power=kw, linear=[0.1, 0.2], hours=6),
    "heat_pump": lambda kw: devices.heat_pump(
        0, power=kw, cop=3.0, outdoor=2.0, resistance=6.0, capacity=4.0, hours=6
    ),
    "shiftable": lambda kw: devices.shiftable(
        [0, 1], energy=2.0, power=kw, earliest=1, latest=5, hours=6, once=True
    ),
    "vehicle": lambda kw: devices.vehicle(
        0, power=kw, capacity=30, arrival=3, departure=2, trip=4, hours=6, v2g=True
    ),
    "inverter": lambda kw: devices.connection(feeder(), [1], rating=40.0).buffers.charge_max * kw,
    "photovoltaic": lambda kw: devices.photovoltaic(feeder().prosumers, [0, 0], generation=kw),
}


@pytest.mark.parametrize("kind", DEVICES)
def test_devices_are_the_same_traced_and_not(kind: str):
    """NumPy builds what is concrete, JAX what is traced: the same numbers in the same dtypes."""
    host, traced = DEVICES[kind](2.5), jax.jit(DEVICES[kind])(2.5)
    assert jax.tree.structure(host) == jax.tree.structure(traced)
    for ours, theirs in zip(jax.tree.leaves(host), jax.tree.leaves(traced), strict=True):
        assert isinstance(ours, jax.Array) and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_singular_matrices_have_no_answer_and_raise_nothing():
    """NumPy's LAPACK raises where JAX's gives no finite number; so here: each matrix by itself."""
    one, nothing = np.eye(2), np.ones((2, 2))
    with by_numpy():
        inverses = np.asarray(jnp.linalg.inv(to_host(np.stack([2 * one, nothing]))))
        solved = np.asarray(jnp.linalg.solve(to_host(nothing), to_host(one)))
    np.testing.assert_array_equal(inverses[0], one / 2)
    assert not np.isfinite(inverses[1]).any() and not np.isfinite(solved).any()


def test_a_loop_without_impedance_is_told_of_a_concrete_market():
    """Its currents are not determined: a sentence says so, by NumPy and within a gradient."""
    grid = jg.Grid(np.zeros((3, 1)), [0, 1, 2], [1, 2, 0], 0.0, 0.0, model="paper")
    market = jg.Market(jg.Prosumers([1], [[1.0]]), grid, jg.Tariff(0.1, hours=1))
    plan = zeros(market)

    def losses(factor: float):
        return factor * jg.ac_power_flow(market, plan).losses.sum()

    for look in (losses, jax.grad(losses)):
        with pytest.raises(ValueError, match="without impedance close a loop"):
            look(1.0)


def test_a_concrete_market_under_a_trace():
    """What a traced function closes over is traced with it: nothing there is run by NumPy."""
    market = jg.synthetic(6, buses=4, degree=2.0)
    clearing = jg.clear(market)
    peers = jax.jit(lambda: jg.settle(market, clearing).peers)()
    np.testing.assert_allclose(peers, jg.settle(market, clearing).peers, atol=1e-12)
    losses, costs = jax.eval_shape(
        lambda: (jg.ac_power_flow(market, clearing.plan).losses, jg.clear(market).costs)
    )
    assert losses.shape == clearing.plan.active.shape and costs.shape == clearing.costs.shape
