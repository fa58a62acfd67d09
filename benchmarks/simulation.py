"""How fast is a receding horizon: warm, from scratch, and against PIQP's warm-started loop?

    python benchmarks/simulation.py --windows 120

Windows of quarter hours of 50 prosumers on the IEEE 37-node feeder, an hour done at a time, with
forecasts that err. Some windows are done from the one before, from scratch, and cleared by PIQP on
the same program (`convex.py`), which is set up once and updated where the program keeps its
pattern; one after the other, so that whatever else the machine does weighs on all. PIQP's time is
that of its own calls alone, ours that of all a window takes: forecast, clear, balances. One JSON
line a run in results/simulation.jsonl, all of them as a table in results/simulation.md, with the
seconds to the first window done, and the resident memory's slope over the later half.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
import record
import scipy.sparse as sparse

import jaxgne as jg
from benchmarks.convex import ACCURACIES, answer, program
from jaxgne import receding
from jaxgne.simulation import asked

WINDOWS_A_YEAR = 365 * 24  # an hour done at a time
SOLVERS = {"interior-point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}
WARM_UP = 3  # windows before which something may be compiled


def main() -> None:
    """Run the windows, and write what was measured."""
    jax.config.update("jax_enable_x64", True)
    given = parse()
    truth = long(given.prosumers, given.windows)
    begun = time.perf_counter()
    setting = asked(
        truth,
        window=(1,) * 4 + (4,) * 23 if given.uneven else 96,
        step=4,
        forecast=jg.forecasts.noisy(0.1, 0.3, seed=1),
        solver=SOLVERS.get(given.solver),
    )
    again = setting._replace(first=setting.runner)
    state, memory, peer = receding.begin(setting), [], Peer()
    first, solver_steps = 0.0, {"warm": [], "cold": []}
    seconds: dict[str, list[float]] = {"warm": [], "cold": [], "peer": []}
    for k in range(given.windows):
        alone = replace(state, start=None)
        compared = given.every and k >= WARM_UP and k % given.every == 0
        if compared or k == 1:
            took, (_, part, _) = timed(lambda at=alone: receding.advance(again, at))
            if compared:
                seconds["cold"].append(took)
                solver_steps["cold"].append(int(part.steps[0]))
                if given.peer:
                    seconds["peer"].append(peer.seconds(receding.ahead_of(setting, state)))
        took, (state, part, _) = timed(lambda at=state: receding.advance(setting, at))
        first = first or time.perf_counter() - begun
        if k >= WARM_UP:
            seconds["warm"].append(took)
            solver_steps["warm"].append(int(part.steps[0]))
        memory.append(resident())
    half = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0])
    warm = float(np.mean(seconds["warm"]))
    record.write(
        "simulation",
        case="ieee37",
        prosumers=given.prosumers,
        window="4x1+23x4" if given.uneven else "96x1",
        windows=given.windows,
        solver=given.solver or "default",
        first_window_s=round(first, 2),
        seconds_a_window={name: spread(found) for name, found in seconds.items() if found},
        solver_steps={name: float(np.mean(n)) for name, n in solver_steps.items() if n},
        peer="PIQP" if given.peer else None,
        peer_updates=peer.updates,
        peer_errors=[float(f"{e:.2e}") for e in peer.errors],
        warm_over_peer=ratio(seconds, "peer"),
        warm_over_cold=ratio(seconds, "cold"),
        year_hours=round(WINDOWS_A_YEAR * warm / 3600, 2),
        load_average=round(os.getloadavg()[0], 1),
        resident_mb=round(memory[-1], 1),
        resident_mb_per_100_windows=round(100 * slope, 3),
    )
    table()


def table() -> None:
    """All runs so far as results/simulation.md."""
    lines = (record.RESULTS / "simulation.jsonl").read_text().splitlines()
    text = [
        "| window | solver | windows | steps, warm | from scratch | s a window, warm "
        "| from scratch | PIQP | scratch over warm | PIQP over warm | first window, s | a year, h "
        "| MB per 100 windows | load |",
        "|---" * 14 + "|",
    ]
    for run in map(json.loads, lines):
        middle = {name: found[1] for name, found in run["seconds_a_window"].items()}
        steps = [run["solver_steps"].get(name) for name in ("warm", "cold")]
        cells = [run["window"], run["solver"], run["windows"]]
        cells += [None if n is None else round(n) for n in steps] + [middle["warm"]]
        cells += [middle.get("cold"), middle.get("peer"), run["warm_over_cold"]]
        cells += [run["warm_over_peer"], run["first_window_s"], run["year_hours"]]
        alone = run["windows"] >= 100  # programs of a peer are in no simulation's memory
        cells += [run["resident_mb_per_100_windows"] if alone else None, run["load_average"]]
        text.append("| " + " | ".join("-" if c is None else str(c) for c in cells) + " |")
    (record.RESULTS / "simulation.md").write_text("\n".join(text) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, default=50)
    parser.add_argument("--windows", type=int, default=120, help="hours that are done")
    parser.add_argument(
        "--every", type=int, default=10, help="windows from one compared to another"
    )
    parser.add_argument("--uneven", action="store_true", help="an hour in quarters, then 23 hours")
    parser.add_argument("--solver", choices=SOLVERS, help="by default what is chosen by size")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="leave PIQP out")
    return parser.parse_args()


def long(prosumers: int, windows: int) -> jg.Market:
    """So many hours and the day beyond them, no two days alike, with batteries for 40 %."""
    day = jg.equip(jg.ieee37(prosumers, hours=96, hour_length=0.25), battery=0.4)
    days = -(-windows // 24) + 1
    each = jg.scenarios.perturb(day, jax.random.key(0), days, load=0.1, renewable=0.3)
    return jg.scenarios.chain(each)


class Peer:
    """PIQP, set up once and updated while programs keep their pattern; to 1e-6 by our judge."""

    def __init__(self):
        self.solver: Any = None
        self.pattern: Any = None
        self.updates, self.errors, self.accuracy = 0, [], 0

    def seconds(self, market: jg.Market) -> float:
        """How long its calls take for one window, at the accuracy that is good enough."""
        market = jax.tree.map(jax.numpy.asarray, market)
        made, conic, box = program(market)
        while True:
            eps = ACCURACIES[self.accuracy]
            took, (x, y) = timed(lambda eps=eps: self.solved(box, eps))
            plan, prices = answer(market, made, conic, x, y)
            error = float(jg.certify(market, plan, prices).error)
            if error <= 1e-6 or self.accuracy + 1 == len(ACCURACIES):
                self.errors.append(error)
                return took
            self.accuracy += 1

    def solved(self, box: Any, eps: float) -> tuple[np.ndarray, np.ndarray]:
        P = sparse.csc_matrix(box.P)
        pattern = [(a.indptr.tobytes(), a.indices.tobytes()) for a in (P, box.A, box.G)]
        data = (P, box.q, box.A, box.b, box.G, np.full(len(box.h), -np.inf), box.h)
        if self.solver is not None and pattern == self.pattern:
            self.solver.update(*data, box.lower, box.upper)
            self.updates += 1
        else:
            self.solver, self.pattern = import_module("piqp").SparseSolver(), pattern
            self.solver.settings.max_iter = 500
            self.solver.setup(*data, box.lower, box.upper)
        settings = self.solver.settings
        settings.eps_abs = settings.eps_rel = eps
        settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = eps
        self.solver.solve()
        return np.array(self.solver.result.x), np.array(self.solver.result.y)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that `run` takes, and what it gives."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def spread(seconds: list[float]) -> list[float]:
    """Quartiles."""
    return [round(float(s), 4) for s in np.quantile(seconds, (0.25, 0.5, 0.75))]


def ratio(seconds: dict[str, list[float]], other: str) -> float | None:
    """How many times as long another takes as a warm window, by medians."""
    if not seconds[other]:
        return None
    return round(float(np.median(seconds[other]) / np.median(seconds["warm"])), 2)


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
