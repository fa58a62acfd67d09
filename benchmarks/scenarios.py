"""How many scenarios a second does each solver clear, to one and the same accuracy?

    python benchmarks/scenarios.py --prosumers 25 50 --scenarios 1 16 256 4096

Days of 24 hours on 36 buses, stressed, whose prices vary from scenario to scenario
(`scenarios.perturb`), float64: `clear_many` with either solver, on one device a core (`spread`),
all scenarios but a single one from the clearing of the market without noise (its time counts),
against convex solvers in a loop, set up once and then updated, and moreau's batch (`loops.py`).
Accuracy is the relative KKT error, recomputed from plan and prices by `jaxgne.certify` for all; a
peer is asked for ever more until the worst of its scenarios is as good as wanted. A number of
scenarios that would take longer than the limit, by the rate of the one before, is recorded as such.
One JSON line a run in results/scenarios.jsonl, all of them as a table in results/scenarios.md.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

import jax
import record

import jaxgne as jg
from benchmarks import convex, loops
from jaxgne import scenarios

TARGETS = (1e-4, 1e-6)
NOISE = {"price": 0.2}  # not loads: on stressed grids more load is often infeasible
SOLVERS = {"interior point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}
LOOPED = 16  # scenarios that a peer clears: its rate does not depend on how many follow


SHORT = 256  # scenarios that are cleared once before they are timed: chunks end in fewer lanes,
# by programs of their own


def main() -> None:
    """Every size, number of scenarios and solver."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
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
    everyone = [*SOLVERS, *loops.PEERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, nargs="+", default=[25, 50])
    parser.add_argument("--scenarios", type=int, nargs="+", default=[1, 16, 256, 4096])
    parser.add_argument("--solvers", nargs="+", default=everyone, choices=everyone)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one run")
    return parser.parse_args()


def batch_of(market: jg.Market, count: int) -> jg.Market:
    """`count` scenarios."""
    return scenarios.perturb(market, jax.random.key(0), count, **NOISE)


def ours(market: jg.Market, name: str, facts: Any, arguments: argparse.Namespace) -> None:
    """`clear_many`, for every number of scenarios and target."""
    rate = dict.fromkeys(TARGETS, 0.0)
    for count in arguments.scenarios:
        batch = batch_of(market, count)
        devices = len(jax.devices()) if count % len(jax.devices()) == 0 else 1
        if devices > 1:
            batch = jg.spread(batch)
        told = {**facts, "solver": name, "scenarios": count, "devices": devices}
        for tol in TARGETS:
            if rate[tol] and count / rate[tol] > arguments.limit:
                guess = round(count / rate[tol])
                record.write("scenarios", **told, tol=tol, status=f"would take {guess} s")
                continue

            def run(
                tol: float = tol, batch: jg.Market = batch, most: int | None = None
            ) -> jg.Clearing:
                solver, start = SOLVERS[name], None
                if batch.prosumers.load.shape[0] > 1:
                    start = jg.clear(market, solver, tol=tol, max_steps=most, throw=False)
                return jg.clear_many(batch, solver, tol=tol, start=start, max_steps=most)

            run(most=None if count <= SHORT else 1)  # compiles
            cleared, seconds = record.timed(run)
            rate[tol] = count / seconds
            record.write(
                "scenarios",
                **told,
                tol=tol,
                status="ended",
                cleared=int(cleared.ok.sum()),
                run_s=round(seconds, 4),
                per_s=round(rate[tol], 2),
            )


def peer(market: jg.Market, name: str, facts: Any) -> None:
    """A convex solver on the first scenarios, asked for ever more accuracy."""
    batch = batch_of(market, LOOPED)
    markets = [scenarios.lane(batch, lane) for lane in range(LOOPED)]
    programs = [convex.program(market) for market in markets]
    boxes = [box for _, _, box in programs]
    missing, told = list(TARGETS), {**facts, "solver": name, "scenarios": LOOPED, "devices": 1}
    errors = [float("inf")]
    for eps in convex.ACCURACIES:
        try:
            answers, seconds = loops.PEERS[name](boxes, eps)
        except Exception as error:  # a peer's failure is a result, recorded with its words
            words = f"{type(error).__name__}: {error}"[:200]
            record.write("scenarios", **told, tol=missing[0], status=words)
            return
        errors = []
        for one, (made, conic, _), (x, y) in zip(markets, programs, answers, strict=True):
            plan, prices = convex.answer(one, made, conic, x, y)
            errors.append(float(jg.certify(one, plan, prices).error))
        for tol in [t for t in missing if max(errors) <= t]:
            missing.remove(tol)
            record.write(
                "scenarios",
                **told,
                tol=tol,
                asked=eps,
                status="ended",
                cleared=LOOPED,
                error=max(errors),
                run_s=round(seconds, 4),
                per_s=round(LOOPED / seconds, 2),
            )
        if not missing:
            return
    for tol in missing:
        record.write("scenarios", **told, tol=tol, status=f"worst error {max(errors):.1e}")


def table() -> None:
    """results/scenarios.jsonl as a Markdown table: of several runs the last."""
    lines = (record.RESULTS / "scenarios.jsonl").read_text().splitlines()
    runs: dict[tuple, dict[str, Any]] = {}
    for run in map(json.loads, lines):
        runs[run["prosumers"], run["solver"], run["scenarios"], run["tol"]] = run
    text = ["| prosumers | solver | scenarios | " + " | ".join(f"{t:g}, per s" for t in TARGETS)]
    text = [f"{text[0]} |", "|---" * (3 + len(TARGETS)) + "|"]
    for count, solver, size in dict.fromkeys(key[:3] for key in runs):
        found = (runs.get((count, solver, size, tol)) for tol in TARGETS)
        cells = ("-" if r is None else f"{r.get('per_s', r['status'])}" for r in found)
        text.append(f"| {count} | {solver} | {size} | {' | '.join(cells)} |")
    (record.RESULTS / "scenarios.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
