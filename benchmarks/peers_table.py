"""results/peers.jsonl as a Markdown table and a picture: seconds to each accuracy, by solver.

    python benchmarks/peers_table.py

A run counts for a target when its error, recomputed from plan and prices, is at most the target;
of several the quickest counts. `over 300` is a run that its limit ended, `-` one that was not tried
or never got so far.
"""

import json
import math
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from peers import TARGETS
from record import RESULTS

Key = tuple[int, str]


def main() -> None:
    """Write results/peers.md and results/peers.png."""
    lines = (RESULTS / "peers.jsonl").read_text().splitlines()
    runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    markets: list[Key] = list(dict.fromkeys((r["prosumers"], r["behaviour"]) for r in runs))
    solvers = list(dict.fromkeys(r["solver"] for r in runs))
    text = ["| prosumers | behaviour | solver | " + " | ".join(f"{t:g}" for t in TARGETS) + " |"]
    text.append("|---" * (3 + len(TARGETS)) + "|")
    for market in markets:
        for solver in solvers:
            own = [r for r in runs if r["solver"] == solver]
            here = [r for r in own if (r["prosumers"], r["behaviour"]) == market]
            cells = [cell(here, target) for target in TARGETS]
            text.append(f"| {market[0]} | {market[1]} | {solver} | {' | '.join(cells)} |")
    text += ["", "Shifted geometric means (shift 1 s) over the markets that a peer was tried on;"]
    text += ["what was not solved counts as the limit:", ""]
    shared = {(r["prosumers"], r["behaviour"]) for r in runs if r["solver"] != "jaxgne"}
    text.append("| solver | " + " | ".join(f"{t:g}" for t in TARGETS) + " |")
    text.append("|---" * (1 + len(TARGETS)) + "|")
    limit = max(r["limit_s"] for r in runs)
    for solver in solvers:
        means = [mean(runs, sorted(shared), solver, target, limit) for target in TARGETS]
        text.append(f"| {solver} | " + " | ".join(f"{m:.3g}" for m in means) + " |")
    (RESULTS / "peers.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    picture(runs, markets, solvers)


def seconds(runs: list[dict[str, Any]], target: float) -> float:
    """Least median seconds of the runs that met the target; infinite if none did."""
    met = [r for r in runs if (r.get("error") or math.inf) <= target]
    return min((sorted(r["run_s"])[len(r["run_s"]) // 2] for r in met), default=math.inf)


def cell(runs: list[dict[str, Any]], target: float) -> str:
    """One entry of the table."""
    found = seconds(runs, target)
    if math.isfinite(found):
        return f"{found:.3g}"
    ended = [r for r in runs if r["status"] == "time is up"]
    return f"over {ended[0]['limit_s']:g}" if ended else "-"


def mean(runs: Any, markets: list[Key], solver: str, target: float, limit: float) -> float:
    """Shifted geometric mean over all markets."""
    times = []
    for market in markets:
        here = [
            r for r in runs if r["solver"] == solver and (r["prosumers"], r["behaviour"]) == market
        ]
        times.append(min(seconds(here, target), limit))
    return math.exp(sum(math.log(t + 1) for t in times) / len(times)) - 1


def picture(runs: Any, markets: list[Key], solvers: list[str]) -> None:
    """Seconds against prosumers, one panel per target."""
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(11, 3.6), sharey=True)
    sizes = sorted({size for size, behaviour in markets if behaviour == markets[0][1]})
    for panel, target in zip(panels, TARGETS, strict=True):
        for solver in solvers:
            times = []
            for size in sizes:
                here = [
                    r
                    for r in runs
                    if (r["solver"], r["prosumers"]) == (solver, size)
                    and r["behaviour"] == markets[0][1]
                ]
                times.append(seconds(here, target))
            panel.loglog(sizes, times, "o-", label=solver)
        panel.set(title=f"relative KKT error {target:g}", xlabel="prosumers")
    panels[0].set_ylabel("seconds")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "peers.png", dpi=120)


if __name__ == "__main__":
    main()
