"""Several devices, and several processes, give what one gives: in processes of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgne as jg
from tests.test_batch import loads

ROOT = Path(__file__).parent.parent

# what each process runs; prints one line of JSON
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
if sys.argv[1] != "alone":
    jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import numpy as np
from jax.experimental.multihost_utils import process_allgather
import jaxgne as jg
from jaxgne import scenarios
from tests.test_batch import loads

def host(tree):
    many = jax.process_count() > 1
    return jax.tree.map(lambda a: process_allgather(a, tiled=True) if many else a, tree)

def apart(a, b):
    pairs = zip(jax.tree.leaves(host(a)), jax.tree.leaves(b), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0.0))
        for x, y in pairs
    )

found = {"devices": len(jax.devices())}
batch = loads(20)
many = jg.clear_many(jg.spread(batch), jg.PrimalDual(), width=16)
one = jg.clear_many(batch, jg.PrimalDual(), width=20)
found["lanes"] = apart((many.plan, many.prices, many.steps), (one.plan, one.prices, one.steps))
found["ok"] = bool(np.all(one.ok))

market = jg.ieee37(11)
cut = jg.spread(market, "prosumers")
tables = (cut.generators.owner, cut.buffers.owner, cut.trading.buyer)
names = ("generators", "buffers", "pairs")
sizes = {name: table.shape[0] for name, table in zip(names, tables)}
same = scenarios.pad(market, prosumers=cut.prosumers.bus.shape[0], **sizes)
for name, solver, steps in (("first", jg.PrimalDual(), 40), ("newton", jg.InteriorPoint(), 8)):
    spread, whole = (jg.clear(m, solver, max_steps=steps, throw=False) for m in (cut, same))
    found[name] = apart((spread.plan, spread.prices), (whole.plan, whole.prices))
cleared = jg.clear(cut, jg.PrimalDual())
found["cleared"] = bool(cleared.ok)
found["total"] = apart(cleared.aggregate, jg.clear(same, jg.PrimalDual()).aggregate)
found["cut"] = len(cleared.plan.trades.sharding.device_set)
print(json.dumps(found))
"""


def run(devices: int, *arguments: tuple[str, ...]) -> list[dict]:
    """The script in a process for each list of arguments, side by side."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *each],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in arguments
    ]
    printed = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(text.splitlines()[-1]) for text in printed]


def check(found: dict, devices: int) -> None:
    assert found["devices"] == devices and found["cut"] == devices
    assert found["ok"] and found["cleared"]
    assert found["lanes"] <= 1e-9  # lanes step alike; sums in another order differ in the last bits
    assert found["first"] <= 1e-12 * 1e3 and found["newton"] <= 1e-9  # kW, of hundreds
    assert found["total"] <= 1e-2  # kW: both within 1e-6 of an equilibrium


def test_four_devices_give_what_one_gives():
    check(run(4, ("alone",))[0], 4)


def test_two_processes_give_what_one_gives():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for found in run(2, (port, "0"), (port, "1")):
        check(found, 4)


def test_what_cannot_be_spread_is_refused():
    """In words, on a single device too."""
    with pytest.raises(ValueError, match=r"first axis must be scenarios"):
        jg.spread(loads(2).tariff.anticipation[0])
    with pytest.raises(ValueError, match="takes one market"):
        jg.spread(loads(2), "prosumers")
    with pytest.raises(ValueError, match="give 'scenarios' or 'prosumers'"):
        jg.spread(loads(2), "hours")  # type: ignore[arg-type]


def test_on_one_device_nothing_changes():
    batch = loads(3)
    spread, plain = jg.clear_many(jg.spread(batch)), jg.clear_many(batch)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)
