"""What does the gradient of an equilibrium cost, and how exact is it?

    python benchmarks/gradients.py --prosumers 50 1000 10000 --limit 300

Congested random markets (`synthetic`, stressed) of 24 hours, float64. The output is a weighted sum
of all imports; its gradient, in reverse, is with respect to every number of the market (peers: of
their program). Seconds are those of a solution and of the gradient that follows it; the error is
that of the derivative along a random change of all loads, against central differences of the
oracle (Clarabel, 1e-11). Peers are diffcp, which cvxpylayers calls, and moreau, each with the
accuracy that gave the least error. One JSON line a run in results/gradients.jsonl, all of them as
a table in results/gradients.md.
"""

import argparse
import json
import multiprocessing
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import record
from scipy import sparse

import jaxgne as jg
from benchmarks import convex
from jaxgne.clearing import differentiable
from jaxgne.threads import one_thread
from tests import reference

ACCURACIES = (1e-6, 1e-9)
STEP = 1e-4  # of differences, relative to the loads
ORACLE = 200  # prosumers up to which the oracle is asked


def main() -> None:
    """Every size and solver."""
    jax.config.update("jax_enable_x64", True)
    arguments = parse()
    for count in arguments.prosumers:
        market = jg.synthetic(count, degree=8.0, buses=36, stress=True)
        rng = np.random.default_rng(0)
        weights = rng.normal(size=market.tariff.slope.shape)
        change = rng.uniform(-1, 1, market.prosumers.load.shape) * market.prosumers.load
        told = {"prosumers": count, "limit_s": arguments.limit}
        expected = differences(market, weights, change) if count <= ORACLE else None
        if "jaxgne" in arguments.solvers:
            ours(market, weights, change, expected, told)
        for name in [n for n in arguments.solvers if n in PEERS]:
            peer(market, name, weights, change, expected, told)
    table()


def parse() -> argparse.Namespace:
    """The command line."""
    everyone = ["jaxgne", *PEERS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, nargs="+", default=[50, 1000, 10_000])
    parser.add_argument("--solvers", nargs="+", default=everyone, choices=everyone)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one run of a peer")
    return parser.parse_args()


def loaded(market: jg.Market, change: Any, step: float) -> jg.Market:
    """The market with other loads."""
    return eqx.tree_at(lambda m: m.prosumers.load, market, market.prosumers.load + step * change)


def differences(market: jg.Market, weights: Any, change: Any) -> float:
    """The output's derivative along a change of loads, by the oracle."""
    ends = []
    for sign in (1, -1):
        found = reference.solve(loaded(market, change, sign * STEP), tol=1e-11)
        if found.status != "solved":
            return float("nan")
        ends.append(float(np.sum(weights * np.asarray(found.plan.imports))))
    return (ends[0] - ends[1]) / (2 * STEP)


def error(found: float, expected: float | None) -> float | None:
    """Relative; None where there is nothing to compare with."""
    return None if expected is None else abs(found - expected) / abs(expected)


def ours(
    market: jg.Market, weights: Any, change: Any, expected: float | None, told: dict[str, Any]
) -> None:
    """A clear to 1e-6, and the gradient at what it found."""

    @eqx.filter_jit
    def gradient(market: jg.Market, clearing: jg.Clearing) -> Any:
        def output(market: jg.Market) -> Any:
            plan = differentiable(market, clearing).plan
            return jnp.sum(weights * plan.imports)

        return eqx.filter_grad(output)(market)

    clearing, first = record.timed(lambda: jg.clear(market, tol=1e-6))
    clears = [record.timed(lambda: jg.clear(market, tol=1e-6))[1] for _ in range(3)]
    with one_thread():
        slopes, compiled = record.timed(lambda: gradient(market, clearing))
        seconds = [record.timed(lambda: gradient(market, clearing))[1] for _ in range(3)]
    found = float(jnp.vdot(slopes.prosumers.load, change))
    record.write(
        "gradients",
        **told,
        solver="jaxgne",
        clear_s=[round(s, 4) for s in clears],
        gradient_s=[round(s, 4) for s in seconds],
        compile_s=round(first + compiled, 1),
        steps=int(clearing.steps),
        derivative=found,
        error=error(found, expected),
    )


def peer(
    market: jg.Market,
    name: str,
    weights: Any,
    change: Any,
    expected: float | None,
    told: dict[str, Any],
) -> None:
    """A peer in a process of its own."""
    made, conic, box = convex.program(market)
    wanted = np.zeros(len(conic.unit))
    wanted[made.columns["imports"]] = np.tile(weights, len(market.prosumers.bus))
    wanted = (wanted * conic.unit)[conic.free]
    for eps in ACCURACIES:
        found = within(told["limit_s"], name, box, wanted, eps)
        if isinstance(found, str):
            record.write("gradients", **told, solver=name, asked=eps, status=found)
            return
        slopes, solving, seconds = found
        derivative = along_loads(market, conic, slopes, change)
        record.write(
            "gradients",
            **told,
            solver=name,
            asked=eps,
            clear_s=[round(solving, 4)],
            gradient_s=[round(seconds, 4)],
            derivative=derivative,
            error=error(derivative, expected),
        )


def along_loads(market: jg.Market, conic: Any, slopes: np.ndarray, change: Any) -> float:
    """The derivative along a change of loads, from that with respect to the right-hand sides."""
    total = 0.0
    change = np.asarray(change)
    at_buses = np.zeros_like(np.asarray(market.grid.passive))
    np.add.at(at_buses, np.asarray(market.prosumers.bus), change)
    for family, keep, where in conic.kept:
        moves = {"balance": change, "bus": at_buses}.get(family.name)
        if moves is not None:
            moved = (
                moves if moves.shape == family.constant.shape else _without_feeders(market, moves)
            )
            total -= float(slopes[where] @ moved.ravel()[keep]) / family.unit
    return total


def _without_feeders(market: jg.Market, moves: np.ndarray) -> np.ndarray:
    return np.delete(moves, np.asarray(market.grid.feeder), axis=0)


def diffcp(box: convex.Box, wanted: np.ndarray, eps: float) -> tuple[np.ndarray, float, float]:
    """Clarabel, then LSQR on the derivative of the homogeneous embedding.

    It takes no quadratic objective with LSQR: as cvxpy does for it, 1/2 x'Px <= t is made a cone,
    |(P^1/2 x, t - 1/2)| <= t + 1/2.
    """
    module: Any = import_module("diffcp")

    A, b, zeros, others = convex.stacked(box)
    root = sparse.diags(np.sqrt(sparse.csc_matrix(box.P).diagonal()))
    curved = np.flatnonzero(root.diagonal())
    root = sparse.csr_matrix(root)[curved]
    none = sparse.csr_matrix((1, len(box.q)))
    table = sparse.bmat([[A, None], [none, [[-1.0]]], [-root, None], [none, [[-1.0]]]])
    side = np.concatenate([b, [0.5], np.zeros(len(curved)), [-0.5]])
    cones = {module.ZERO: zeros, module.POS: others, module.SOC: [len(curved) + 2]}
    begun = time.perf_counter()
    found = module.solve_and_derivative(
        sparse.csc_matrix(table), side, np.append(box.q, 1.0), cones, solve_method="Clarabel",
        verbose=False, tol_feas=eps, tol_gap_abs=eps, tol_gap_rel=eps,
    )  # fmt: skip
    solved = time.perf_counter()
    slopes = found[4](np.append(wanted, 0.0), np.zeros(len(side)), np.zeros(len(side)))[1]
    return slopes[:zeros], solved - begun, time.perf_counter() - solved


def moreau(box: convex.Box, wanted: np.ndarray, eps: float) -> tuple[np.ndarray, float, float]:
    """Its interior point, and its backward pass."""
    module: Any = import_module("moreau")

    A, b, zeros, others = convex.stacked(box)
    inner = module.IPMSettings(tol_feas=eps, tol_gap_abs=eps, tol_gap_rel=eps)
    settings = module.Settings(solver="ipm", device="cpu", enable_grad=True, ipm_settings=inner)
    cones = module.Cones(num_zero_cones=zeros, num_nonneg_cones=others)
    begun = time.perf_counter()
    solver = module.Solver(sparse.csr_array(box.P), box.q, sparse.csr_array(A), b, cones, settings)
    solver.solve()
    solved = time.perf_counter()
    slopes = np.asarray(solver.backward(wanted)["db"])
    return slopes[:zeros], solved - begun, time.perf_counter() - solved


PEERS = {"diffcp": diffcp, "moreau": moreau}


def within(limit: float, name: str, box: convex.Box, wanted: np.ndarray, eps: float) -> Any:
    """What a peer returns, or why there is nothing, after at most `limit` seconds and a start."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, name, box, wanted, eps))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit + 15.0) else "time is up"
    except EOFError:
        return "crashed"
    finally:
        process.kill()
        process.join()


def _child(pipe: Any, name: str, box: convex.Box, wanted: np.ndarray, eps: float) -> None:
    try:
        pipe.send(PEERS[name](box, wanted, eps))
    except Exception as failure:  # a peer's failure is a result, recorded with its words
        pipe.send(f"{type(failure).__name__}: {failure}"[:200])


def table() -> None:
    """results/gradients.jsonl as a Markdown table: of several runs the last."""
    lines = (record.RESULTS / "gradients.jsonl").read_text().splitlines()
    runs: dict[tuple, dict[str, Any]] = {}
    for run in map(json.loads, lines):
        runs[run["prosumers"], run["solver"], run.get("asked")] = run
    text = ["| prosumers | solver | asked | solution, s | gradient, s | error |", "|---" * 6 + "|"]
    for (count, solver, asked), run in runs.items():
        if "gradient_s" not in run:
            cells = [run["status"], "-", "-"]
        else:
            cells = [f"{min(run['clear_s']):.3g}", f"{min(run['gradient_s']):.3g}"]
            cells.append("-" if run["error"] is None else f"{run['error']:.1e}")
        text.append(f"| {count} | {solver} | {asked or '-'} | {' | '.join(cells)} |")
    (record.RESULTS / "gradients.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
