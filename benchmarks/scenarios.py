"""How many scenarios a second does each solver clear, to one and the same accuracy?

    python benchmarks/scenarios.py --prosumers 25 50 --scenarios 1 16 256 4096

Days of 24 hours on 36 buses, stressed, whose loads and prices vary from scenario to scenario
(`scenarios.perturb`), float64: `clear_many` with either solver, against convex solvers in a loop
(`convex.py`, built and set up once and then updated where they allow it, warm) and moreau's batch.
Accuracy is the relative KKT error, recomputed from plan and prices by `jaxgne.certify` for all; a
peer is asked for ever more until the worst of its scenarios is as good as wanted. A size that would
take longer than the limit, by the rate at the size before, is recorded as such. One JSON line a run
in results/scenarios.jsonl, and a table of them in results/scenarios.md.

On a CPU `clear_many` uses one device a core (`spread`), as XLA's threads gain little on such small
markets; peers run on one core each, and on `--processes` of them at once.
"""

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

CORES = len(os.sched_getaffinity(0))
if "--processes" not in sys.argv[0]:
    wanted = f"--xla_force_host_platform_device_count={CORES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {wanted}"

import jax
import numpy as np
import record

import jaxgne as jg
from benchmarks import convex
from jaxgne import scenarios

TARGETS = (1e-4, 1e-6)
NOISE = {"load": 0.02, "price": 0.1}
SOLVERS = {"interior point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}
LOOPED = 16  # scenarios that a peer clears: its rate does not depend on how many follow


def main() -> None:
    """Every size, number of scenarios and solver."""
    jax.config.update("jax_enable_x64", True)
    arguments = parse()
    for count in arguments.prosumers:
        market = jg.synthetic(count, degree=8.0, buses=36, stress=True)
        facts = {"prosumers": count, "limit_s": arguments.limit}
        for name in arguments.solvers:
            if name in SOLVERS:
                ours(market, name, facts, arguments)
            else:
                peer(market, name, facts)
    table()


def parse() -> argparse.Namespace:
    """The command line."""
    everyone = [*SOLVERS, *convex.LOOPS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--scenarios", type=int, nargs="+", default=[1, 16, 256, 4096])
    parser.add_argument("--solvers", nargs="+", default=everyone, choices=everyone)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one run")
    return parser.parse_args()


def batch_of(market: jg.Market, count: int) -> jg.Market:
    """The first `count` of the same scenarios, whatever their number."""
    many = scenarios.perturb(market, jax.random.key(0), max(count, LOOPED), **NOISE)
    return jax.tree.map(lambda a: a[:count], many)
