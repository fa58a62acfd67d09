"""results/peers.jsonl as a Markdown table and a picture: seconds to each accuracy, by solver.

    python benchmarks/peers_table.py

A run counts for a target when its error, recomputed from plan and prices, is at most the target;
of several the quickest counts. `over 300` is a run that its limit ended, `-` one that was not tried
or never got so far; with a `*` other programs ran beside it (`"busy": true`), so that it may have
been twice as quick alone.
"""

import json
import math
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from peers import MARKETS, TARGETS
from record import RESULTS


def main() -> None:
    """Write results/peers.md and results/peers.png."""
    lines = (RESULTS / "peers.jsonl").read_text().splitlines()
    runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    markets = sorted({r["market"] for r in runs}, key=list(MARKETS).index)
    solvers = list(dict.fromkeys(r["solver"] for r in runs))
    text = ["| prosumers | solver | " + " | ".join(f"{t:g}" for t in TARGETS) + " |"]
    text.append("|---" * (2 + len(TARGETS)) + "|")
    for market in markets:
        for solver in solvers:
            here = [r for r in runs if (r["solver"], r["market"]) == (solver, market)]
            if here:
                cells = [cell(here, target) for target in TARGETS]
                text.append(f"| {market} | {solver} | {' | '.join(cells)} |")
    shared = [m for m in markets if m in {r["market"] for r in runs if r["solver"] == "mechanism"}]
    text += [
        "",
        f"Shifted geometric means (shift 1 s) over {' and '.join(shared)} prosumers, where all",
    ]
    text += [
        "were tried or had run out of time before; what was not solved counts as the limit:",
        "",
    ]
    text.append("| solver | " + " | ".join(f"{t:g}" for t in TARGETS) + " |")
    text.append("|---" * (1 + len(TARGETS)) + "|")
    limit = max(r["limit_s"] for r in runs if r["market"] in shared)
    for solver in solvers:
        means = [mean(runs, shared, solver, target, limit) for target in TARGETS]
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
        return f"{found:.3g}" + ("*" if any(r.get("busy") for r in runs) else "")
    ended = [r for r in runs if r["status"] == "time is up"]
    return f"over {ended[0]['limit_s']:g}" if ended else "-"


def mean(runs: Any, markets: list[str], solver: str, target: float, limit: float) -> float:
    """Shifted geometric mean over all markets."""
    times = []
    for market in markets:
        here = [r for r in runs if (r["solver"], r["market"]) == (solver, market)]
        times.append(min(seconds(here, target), limit))
    return math.exp(sum(math.log(t + 1) for t in times) / len(times)) - 1


def picture(runs: Any, markets: list[str], solvers: list[str]) -> None:
    """Seconds against prosumers, one panel per target, on the markets that differ in size only."""
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(11, 3.6), sharey=True)
    sizes = sorted(int(market) for market in markets if market.isdecimal())
    for panel, target in zip(panels, TARGETS, strict=True):
        for solver in solvers:
            own = [r for r in runs if r["solver"] == solver]
            times = [seconds([r for r in own if r["market"] == f"{n}"], target) for n in sizes]
            panel.loglog(sizes, times, "o-", label=solver)
        panel.set(title=f"relative KKT error {target:g}", xlabel="prosumers")
    panels[0].set_ylabel("seconds")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "peers.png", dpi=120)


if __name__ == "__main__":
    main()
