"""Several devices, and several processes, give what one gives: in processes of their own."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.batch_report import batch_summary
from jaxgne.few_sizes import fitted
from tests.markets import HAND_MADE
from tests.three_buses import loads

ROOT = Path(__file__).parent.parent

# what each process runs; prints one line of JSON
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
if sys.argv[1] == "slurm":
    jax.distributed.initialize()
import numpy as np
from jax.experimental.multihost_utils import process_allgather
import jaxgne as jg
from jaxgne import scenarios
from tests.markets import HAND_MADE
from tests.three_buses import slopes

def apart(a, b):
    if jax.process_count() > 1:
        a = process_allgather(a, tiled=True)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0.0))
        for x, y in pairs
    )

found = {"devices": len(jax.devices())}
if phased := "phased" in sys.argv:
    market = jg.synthetic(5, hours=2, hour_length=6.0, buses=12, phases=3)
else:
    market = HAND_MADE["one bus"]()
    market = scenarios.pad(market, prosumers=5)  # nothing divides it
cut = jg.spread(market, "prosumers")
tables = (cut.generators.owner, cut.buffers.owner, cut.trading.buyer)
sizes = {n: t.shape[0] for n, t in zip(("generators", "buffers", "pairs"), tables)}
whole = scenarios.pad(market, prosumers=cut.prosumers.bus.shape[0], **sizes)
spread, single = (jg.clear(m, jg.PrimalDual(), max_steps=40, throw=False) for m in (cut, whole))
found["prosumers"] = apart((spread.plan, spread.prices), (single.plan, single.prices))
found["cut"] = len(spread.plan.trades.sharding.device_set)
if sys.argv[1] == "alone":
    cleared = jg.clear(cut)
    found["ok"] = bool(cleared.ok)
    other = jg.InteriorPoint() if phased else jg.PrimalDual()
    found["total"] = apart(cleared.aggregate, jg.clear(whole, other).aggregate)
    batch = scenarios.perturb(market, jax.random.key(0), 8, load=0.05) if phased else slopes(8)
    many = jg.clear_many(jg.spread(batch), jg.PrimalDual())
    one = jg.clear_many(batch, jg.PrimalDual(), width=8)
    found["lanes"] = apart((many.plan, many.prices, many.steps), (one.plan, one.prices, one.steps))
print(json.dumps(found))
"""

# prints, by prosumers, sizes of a market and what its compiled step exchanges
EXCHANGE = """
import json, re
import jax
jax.config.update("jax_enable_x64", True)
import jaxgne as jg
from jaxgne.clearing import ready

SHAPE = re.compile(r"(f64|s32)\\[([0-9,]*)\\]")
CALL = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)")

def begun(market):
    market, solver, plan, prices = ready(market, jg.PrimalDual(), None)
    return solver.init(market, plan, prices)

for count, buses in ((32, 4), (64, 12)):
    market = jg.spread(jg.synthetic(count, hours=2, degree=4.0, buses=buses), "prosumers")
    state = jax.jit(begun)(market)
    step = jax.jit(lambda m, s: jg.PrimalDual().step(m, s)).lower(market, state).compile()
    found = {}
    for line in step.as_text().splitlines():
        if call := CALL.search(line):
            for kind, shape in SHAPE.findall(call[1]):
                size = 1
                for length in filter(None, shape.split(",")):
                    size *= int(length)
                found[call[2], kind] = found.get((call[2], kind), 0) + size
    tables = (market.trading.buyer, market.generators.owner, market.buffers.owner)
    sizes = [count, *(table.shape[0] for table in tables), buses]
    print(json.dumps([sizes, [[*key, size] for key, size in found.items()]]))
"""

# clears a large market, which the first process watches; writes what it has come to
LARGE = """
import pickle, sys
import jax
jax.config.update("jax_enable_x64", True)
jax.distributed.initialize()
from jax.experimental.multihost_utils import process_allgather
import jaxgne as jg
market = jg.synthetic(2_000, hours=6, degree=4.0, buses=12)
told, me = [], jax.process_index()
watch = None if me else lambda now: told.append(now.steps)
cut = jg.spread(market, "prosumers")
clearing = jg.clear(cut, jg.PrimalDual(), tol=1e-3, progress=watch)
found = clearing.plan, clearing.prices, clearing.costs, clearing.certificate.error
whole = process_allgather(found, tiled=True)
with open(f"{sys.argv[1]}/{me}", "wb") as file:
    pickle.dump((*whole, len(clearing.plan.trades.sharding.device_set), told), file)
"""


def run(devices: int, words: list[str], processes: int = 1) -> list[str]:
    """What Python prints in each of `processes`, which Slurm might have started."""
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),  # JAX takes its port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "SLURM_STEP_NUM_NODES": "1",
    }
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    started = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={
                **os.environ,
                **slurm,
                "SLURM_PROCID": str(process),
                "SLURM_LOCALID": str(process),
                "XLA_FLAGS": flags,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        printed = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes
    return printed


@pytest.mark.slow  # compiles for half a minute; in three phases for two
@pytest.mark.parametrize("words", [[], ["phased"]], ids=["one bus", "phased"])
def test_four_devices_give_what_one_gives(words):
    """One market cut by prosumer, and a batch by scenario."""
    found = json.loads(run(4, ["-c", SCRIPT, "alone", *words])[0].splitlines()[-1])
    assert found["devices"] == found["cut"] == 4
    assert found["prosumers"] <= 1e-12 * 100  # kW and EUR/kWh, of a hundred
    assert found["ok"] and found["total"] <= 1e-3  # kW: both within 1e-6 of an equilibrium
    assert found["lanes"] <= 1e-12 * 100


@pytest.mark.slow
def test_two_processes_give_what_one_gives():
    for printed in run(2, ["-c", SCRIPT, "slurm"], processes=2):
        found = json.loads(printed.splitlines()[-1])
        assert found["devices"] == found["cut"] == 4
        assert found["prosumers"] <= 1e-12 * 100


def test_four_processes_clear_one_large_market(tmp_path):
    """Alike, and one process' judge finds in it what they found: an equilibrium to `tol`."""
    run(1, ["-c", LARGE, str(tmp_path)], 4)
    answers = [pickle.loads((tmp_path / str(k)).read_bytes()) for k in range(4)]
    plan, prices, costs, error, devices, told = answers[0]
    assert devices == 4 and told == sorted(told) and len(told) >= 2
    for other in answers[1:]:
        for a, b in zip(jax.tree.leaves(answers[0][:4]), jax.tree.leaves(other[:4]), strict=True):
            np.testing.assert_array_equal(a, b)
    market = jg.synthetic(2_000, hours=6, degree=4.0, buses=12)
    judged = jg.certify(market, fitted(market, plan), fitted(market, prices))
    assert error <= 1e-3 and float(judged.error) == pytest.approx(float(error), rel=1e-6)
    wanted = jg.clear(market, tol=1e-6).costs
    apart = np.sum(np.abs(costs[:2_000] - wanted))
    assert apart <= 1e-2 * np.sum(np.abs(wanted)), apart


@pytest.mark.slow
def test_the_script_for_a_cluster_gives_what_one_process_gives(tmp_path):
    market = HAND_MADE["feeder"]()
    jg.save(tmp_path / "case", market)
    words = ["docs/cluster.py", str(tmp_path / "case"), "8", str(tmp_path / "runs")]
    run(2, words, processes=2)
    found = json.loads((tmp_path / "runs" / "summary.json").read_text())
    scenarios = jg.scenarios.perturb(market, jax.random.key(0), 8, load=0.05, price=0.1)
    wanted = batch_summary(scenarios, jg.clear_many(scenarios))
    assert found["status"] == wanted["status"]
    for name, quantiles in wanted["quantiles"].items():
        for share, value in quantiles.items():
            assert found["quantiles"][name][share] == pytest.approx(value, rel=1e-9)
    assert len(list((tmp_path / "runs").glob("scenarios-*.npz"))) >= 2


def test_what_cannot_be_spread_is_refused():
    """In words, on a single device too."""
    with pytest.raises(ValueError, match=r"first axis must be scenarios"):
        jg.spread(loads(2).tariff.anticipation[0])
    with pytest.raises(ValueError, match="takes one market"):
        jg.spread(loads(2), "prosumers")
    with pytest.raises(ValueError, match="give 'scenarios' or 'prosumers'"):
        jg.spread(loads(2), "hours")  # type: ignore[arg-type]


@pytest.mark.slow
def test_on_one_device_nothing_changes():
    batch = loads(3)
    spread, plain = jg.clear_many(jg.spread(batch)), jg.clear_many(batch)
    for a, b in zip(jax.tree.leaves(spread), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_step_exchanges_no_more_than_the_page_says():
    """In numbers (docs/devices.md): gathered to all, summed over all; of a market cut in four."""
    for line in run(4, ["-c", EXCHANGE])[0].splitlines():
        (prosumers, pairs, generators, buffers, buses), told = json.loads(line)
        moved = {(call, kind): size for call, kind, size in told}
        devices = generators + buffers
        assert {call for call, _ in moved} <= {"all-gather", "all-reduce"}
        assert 0 < moved["all-gather", "f64"] <= 2 * (2 * prosumers + pairs + devices)
        assert 0 < moved["all-reduce", "f64"] <= 2 * (prosumers + devices + 2 * buses + 3)
        assert moved["all-gather", "s32"] <= pairs + 2 * devices
