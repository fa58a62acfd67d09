"""What do the AC check of a plan and an AC-safe clearing cost, next to one clear to 1e-6?

    OPENBLAS_NUM_THREADS=1 python benchmarks/ac.py

Built-in feeders and a random one of 1,000 buses. Everything is compiled first; then clear, check
and AC-safe clearing take turns, so that what else the machine does meets all three, and the medians
of their times are compared. With more than one BLAS thread the interior point's small systems take
2 to 45 times as long on a busy machine, which would hide the check. One JSON line a case in
results/ac.jsonl, all of them as a table in results/ac.md.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from statistics import median

import jax
import record

import jaxgne as jg
from jaxgne import acflow
from jaxgne.acsafe import clear_ac_safe

CASES: dict[str, Callable[[], jg.Market]] = {
    "ieee37": jg.ieee37,
    "ieee37, stress": partial(jg.ieee37, stress=True),
    "ieee123, stress": partial(jg.ieee123, stress=True),
    "1000 buses, stress": partial(jg.synthetic, 200, buses=1000, stress=True),
}
TURNS, LOOKS = 3, 20  # a turn is one clear, some checks and one AC-safe clearing


def main() -> None:
    """Every case, then the table."""
    jax.config.update("jax_enable_x64", True)
    for name, build in CASES.items():
        one(name, build())
        jax.clear_caches()
    table()


def one(name: str, market: jg.Market) -> None:
    """One market: what it takes once compiled, in turns."""
    clearing = jg.clear(market, tol=1e-6)
    status, found = "AC-safe", None
    try:
        found = clear_ac_safe(market, tol=1e-6)
    except jg.NotCleared as failed:
        status = str(failed)
    runs: dict[str, Callable[[], object]] = {
        "clear": lambda: jg.clear(market, tol=1e-6),
        "check": lambda: acflow.check(market, clearing.plan),
    }
    if found is not None:
        runs["safe"] = lambda: clear_ac_safe(market, tol=1e-6)
    seconds: dict[str, list[float]] = {word: [] for word in runs}
    for _ in range(TURNS):
        for word, run in runs.items():
            times = LOOKS if word == "check" else 1
            seconds[word] += [record.timed(run)[1] for _ in range(times)]
    ac = clearing.certificate.ac
    assert ac is not None
    least = {word: median(times) for word, times in seconds.items()}
    record.write(
        "ac",
        case=name,
        prosumers=market.prosumers.load.shape[0],
        buses=market.grid.passive.shape[0],
        hours=market.prosumers.load.shape[1],
        tol=1e-6,
        steps=int(clearing.steps),
        turns=TURNS,
        blas_threads=os.environ.get("OPENBLAS_NUM_THREADS"),
        clear_s=round(least["clear"], 4),
        check_s=round(least["check"], 6),
        check_share=round(least["check"] / least["clear"], 5),
        plain_safe=bool(ac.safe),
        plain_excess_pu=float(ac.excess),
        plain_loading=float(ac.loading),
        status=status,
        rounds=found.rounds if found else None,
        last_steps=int(found.clearing.steps) if found else None,
        safe_s=round(least["safe"], 4) if found else None,
        safe_clears=round(least["safe"] / least["clear"], 2) if found else None,
    )


def table() -> None:
    """results/ac.jsonl as a Markdown table: of several runs the last."""
    lines = (record.RESULTS / "ac.jsonl").read_text().splitlines()
    runs = {run["case"]: run for run in map(json.loads, lines)}
    head = ["case", "prosumers", "buses", "one clear, s", "AC check, ms", "of a clear"]
    head += ["plain clearing AC-safe", "AC-safe after rounds", "in clears", "steps, first and last"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case, run in runs.items():
        cells = [
            case,
            f"{run['prosumers']}",
            f"{run['buses']}",
            f"{run['clear_s']:.3g}",
            f"{1e3 * run['check_s']:.3g}",
            f"{100 * run['check_share']:.2g} %",
            "yes" if run["plain_safe"] else "no",
        ]
        reached = run["rounds"] is not None
        cells += [f"{run['rounds']}", f"{run['safe_clears']:.2g}"] if reached else ["-", "-"]
        cells += [f"{run['steps']}, {run['last_steps']}" if reached else f"{run['steps']}, -"]
        text.append(f"| {' | '.join(cells)} |")
    text += ["", NOTE]
    (record.RESULTS / "ac.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


NOTE = """Compiled, float64, 24 hours, relative KKT error 1e-6, one BLAS thread; medians of three
interleaved repeats on two cores of a shared, busy machine, so ratios mean more than seconds. One AC
check is part of each clear."""


if __name__ == "__main__":
    main()
