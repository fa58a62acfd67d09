"""How long does each solver take for one market, to one and the same accuracy?

    python benchmarks/peers.py --markets 50 200 "200, ring" --limit 300

Congested random markets (`synthetic`, stressed) of 24 hours, float64: the library's solvers, and
convex solvers on the potential's program. Accuracy is the relative KKT error, recomputed from plan
and prices by `jaxgne.certify` for all. A peer is asked for 1e-4, 1e-6, ... until its answer is as
good as the strictest target or its time is up, and is then not tried on larger markets. One JSON
line a run in results/peers.jsonl; `peers_table.py` sums them up.
"""

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

import jax
import numpy as np
import record

import jaxgne as jg
from benchmarks import convex

TARGETS = (1e-4, 1e-6, 1e-8)
MARKETS: dict[str, dict[str, Any]] = {  # what differs from degree 8, 36 buses, stressed, Nash
    **{f"{count}": {"prosumers": count} for count in (10, 50, 200, 1000, 5000, 20_000, 100_000)},
    "200, ring": {"prosumers": 200, "graph": "ring"},
    "200, 60 % dense": {"prosumers": 200, "degree": 0.6 * 199},
    "200, 1000 buses": {"prosumers": 200, "buses": 1000},
    "200, wardrop": {"prosumers": 200, "behavior": "wardrop"},
    "200, paper": {"prosumers": 200, "grid": "paper"},
    "200, copperplate": {"prosumers": 200, "grid": "copperplate"},
    "200, not stressed": {"prosumers": 200, "stress": False},
}


def main() -> None:
    """Every solver on every market."""
    jax.config.update("jax_enable_x64", True)
    arguments = parse()
    out: dict[str, int] = {}  # peers whose time was up, and at how many prosumers
    for label in arguments.markets:
        chosen = {"degree": 8.0, "buses": 36, "stress": True, **MARKETS[label]}
        market = jg.synthetic(**chosen)
        facts = {
            "case": "synthetic",
            "market": label,
            **chosen,
            "pairs": market.trading.limit.shape[0],
            "limit_s": arguments.limit,
        }
        library = {"jaxgne": None, "mechanism": jg.SemiDecentralized()}
        for name in arguments.solvers:
            if chosen["prosumers"] >= out.get(name, sys.maxsize):
                continue
            if name in library:
                done = ours(market, facts, name, library[name], arguments.limit)
            else:
                done = peer(market, facts, name, arguments.limit)
            if not done and name != "jaxgne":
                out[name] = min(chosen["prosumers"], out.get(name, sys.maxsize))


def parse() -> argparse.Namespace:
    """The command line."""
    everyone = ["jaxgne", "mechanism", *convex.PEERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--markets", nargs="+", default=list(MARKETS), choices=list(MARKETS))
    parser.add_argument("--solvers", nargs="+", default=everyone, choices=everyone)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one run")
    return parser.parse_args()


class _TimeUpError(Exception):
    """Raised from a progress callback."""


def ours(market: jg.Market, facts: Any, name: str, solver: Any, limit: float) -> bool:
    """One of the library's solvers, target by target; whether it met all in time."""

    def stop(told: jg.solve.Progress) -> None:
        if told.seconds > limit:
            raise _TimeUpError

    def run(tol: float, most: int | None = None) -> jg.Clearing:
        return jg.clear(market, solver, tol=tol, max_steps=most, throw=False, progress=stop)

    _, first = record.timed(lambda: run(0.5, 1))
    _, again = record.timed(lambda: run(0.5, 1))
    for tol in TARGETS:
        try:
            clearing, seconds = record.timed(lambda tol=tol: run(tol))
            runs = [seconds]
            while len(runs) < 3 and sum(runs) < 20:
                runs.append(record.timed(lambda tol=tol: run(tol))[1])
        except _TimeUpError:
            record.write("peers", **facts, solver=name, asked=tol, status="time is up")
            return False
        record.write(
            "peers",
            **facts,
            solver=name,
            asked=tol,
            status=jg.status.status_name(clearing.status),
            iterations=int(clearing.steps),
            error=float(clearing.certificate.error),
            compile_s=round(first - again, 3),
            run_s=[round(s, 4) for s in runs],
        )
        if not bool(clearing.ok):
            return False
    return True


def peer(market: jg.Market, facts: Any, name: str, limit: float) -> bool:
    """A convex solver in a process of its own; whether it met all targets in time."""
    made, conic, box = convex.program(market)
    for eps in convex.ACCURACIES:
        found = within(limit, name, box, eps)
        if isinstance(found, str):
            record.write("peers", **facts, solver=name, asked=eps, status=found)
            return found != "time is up"
        x, y, seconds = found
        finite = np.all(np.isfinite(x)) and np.all(np.isfinite(y))
        error = float("inf")
        if finite:
            plan, prices = convex.answer(market, made, conic, x, y)
            error = float(jg.certify(market, plan, prices).error)
        record.write(
            "peers",
            **facts,
            solver=name,
            asked=eps,
            status="ended",
            error=error if np.isfinite(error) else None,
            run_s=[round(seconds, 4)],
        )
        if error <= TARGETS[-1]:
            return True
    return True


def within(limit: float, name: str, box: convex.Box, eps: float) -> Any:
    """What a peer returns, or why there is nothing, after at most `limit` seconds and a start."""
    context = multiprocessing.get_context("spawn")
    ours_, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, name, box, eps))
    process.start()
    theirs.close()
    begun = time.perf_counter()
    found: Any = "time is up"
    try:
        if ours_.poll(limit + 15.0):
            found = ours_.recv()
    except EOFError:
        found = "crashed"
    finally:
        process.kill()
        process.join()
    slow = not isinstance(found, str) and found[2] > limit
    return "time is up" if slow or time.perf_counter() - begun > 2 * limit + 30 else found


def _child(pipe: Any, name: str, box: convex.Box, eps: float) -> None:
    try:
        pipe.send(convex.PEERS[name](box, eps))
    except Exception as error:  # a peer's failure is a result, recorded with its words
        pipe.send(f"{type(error).__name__}: {error}"[:200])


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
