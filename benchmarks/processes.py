"""One market on several processes of this machine: the answer of each, seconds and bytes.

    python benchmarks/processes.py [--prosumers 20000] [--hours 6] [--tol 1e-3] [--processes 4]

Each process has one CPU device and finds the others by `jax.distributed`, as those of a cluster do
(docs/devices.md). It clears the market twice, since the first time compiles. What goes through the
loopback device is counted while the second clear is under way, and stands beside what the table of
that page says of as many steps; looks at the answer, and whatever else this machine sends to
itself, come on top. One process then judges the answer. One JSON line in results/processes.jsonl.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import record
from jax.experimental.multihost_utils import process_allgather, sync_global_devices

import jaxgne as jg
from jaxgne.few_sizes import fitted
from jaxgne.model import rows_like, zeros

LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")


def main() -> None:
    """Start the processes, wait, and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, default=20_000)
    parser.add_argument("--hours", type=int, default=6)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--port", type=int, default=47_123)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--me", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    if asked.me is not None:
        jax.config.update("jax_num_cpu_devices", 1)
        jax.distributed.initialize(f"localhost:{asked.port}", asked.processes, asked.me)
    market = jg.synthetic(asked.prosumers, hours=asked.hours, degree=4.0, buses=12)
    if asked.me is not None:
        share(asked, market)
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--me"]
        started = [subprocess.Popen([*words, str(k)]) for k in range(asked.processes)]
        try:
            ended = [process.wait() for process in started]
        finally:
            for process in started:
                process.kill()
        if any(ended):
            raise SystemExit(f"processes ended with {ended}")
        told = [json.loads((Path(folder) / str(k)).read_text()) for k in range(asked.processes)]
        with np.load(Path(folder) / "answer.npz") as kept:
            leaves = [kept[f"arr_{k}"] for k in range(len(kept.files))]
    made = jax.tree.structure((zeros(market), rows_like(market)))
    plan, prices = made.unflatten(leaves)
    judged = jg.certify(market, fitted(market, plan), fitted(market, prices))
    first = told[0]
    record.write(
        "processes",
        prosumers=asked.prosumers,
        hours=asked.hours,
        tol=asked.tol,
        processes=asked.processes,
        alike=all(each["answer"] == first["answer"] for each in told),
        judged_by_one=float(judged.error),
        page_mb_a_step=round(page(market, asked.processes) / 1e6, 2),
        **{name: value for name, value in first.items() if name != "answer"},
    )


def share(asked: argparse.Namespace, market: jg.Market) -> None:
    """What one of the processes does: clears with the others, and notes its answer."""
    cut = jg.spread(market, "prosumers")

    def cleared() -> jg.Clearing:
        sync_global_devices("begin")
        return jg.clear(cut, jg.PrimalDual(), tol=asked.tol)

    begun = time.perf_counter()
    cleared()
    first, sent, begun = time.perf_counter() - begun, moved(), time.perf_counter()
    clearing = jax.block_until_ready(cleared())
    seconds, sent = time.perf_counter() - begun, moved() - sent
    answer: Any = process_allgather((clearing.plan, clearing.prices), tiled=True)
    error, steps = float(clearing.certificate.error), int(clearing.steps)
    bits = b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(answer))
    facts = {
        "steps": steps,
        "error": error,
        "seconds_first": round(first, 1),
        "seconds": round(seconds, 1),
        "mb_a_step": round(sent / steps / 1e6, 2),
        "answer": hashlib.sha256(bits).hexdigest(),
    }
    (asked.folder / str(asked.me)).write_text(json.dumps(facts))
    if asked.me == 0:  # as arrays alone: what is read back is no code
        np.savez(asked.folder / "answer.npz", *jax.tree.leaves(answer))


def moved() -> int:
    """Bytes that this machine has sent to itself, where Linux tells it."""
    return int(LOOPBACK.read_text()) if LOOPBACK.is_file() else 0


def page(market: jg.Market, devices: int) -> float:
    """Bytes that all devices together receive in a step, by the table of docs/devices.md."""
    people, hours = market.prosumers.load.shape
    pairs, units = market.trading.buyer.shape[0], market.generators.owner.shape[0]
    stores, buses = market.buffers.owner.shape[0], market.grid.passive.shape[0]
    gathered = 8 * hours * (2 * people + pairs + units + stores)
    gathered += 4 * (pairs + 2 * units + 2 * stores)
    summed = 8 * hours * (people + units + stores + 2 * buses + 3)
    return (gathered + 2 * summed) * (devices - 1)


if __name__ == "__main__":
    main()
