"""What do three phases cost next to their balanced equivalent, and AC next to a linear model?

    OPENBLAS_NUM_THREADS=1 python benchmarks/phases.py [--peer PYTHON]

Markets in three phases and their balanced equivalents (`jg.grids.balanced`: the same prosumers and
hours) are cleared in turns, once compiled, and the medians compared; then AC clearings of both
kinds, next to one plain clear. PYTHON is an interpreter with distopf 1.0.2: its LinDist3Flow OPF of
one hour is timed beside, whole run against whole run, both warm. One JSON line a case in
results/phases.jsonl, all of them as tables in results/phases.md.
"""

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import jax
import record

import jaxgne as jg
from jaxgne import acflow

CASES: dict[str, Callable[[], jg.Market]] = {
    "european_lv, 24 hours": jg.cases.european_lv,
    "european_lv, 96 quarter-hours": partial(jg.cases.european_lv, hours=96, hour_length=0.25),
    "ieee123, 500 prosumers": partial(jg.ieee123, 500, grid="lindist3flow"),
    "1,000 buses, 1,000 prosumers": partial(jg.synthetic, 1000, buses=1000, phases=3),
}
EXACT: dict[str, Callable[[], jg.Market]] = {
    "ieee37": jg.ieee37,
    "ieee37, stress": partial(jg.ieee37, stress=True),
    "ieee37 in three phases": partial(jg.ieee37, grid="lindist3flow"),
    "ieee123": jg.ieee123,
    "ieee123, stress": partial(jg.ieee123, stress=True),
    "1,000 buses, stress": lambda: _wider(jg.synthetic(200, buses=1000, stress=True), 1.01),
    "european_lv": jg.cases.european_lv,
}
TURNS, LOOKS = 3, 20  # of clears, and of AC checks in each

PEER = """
import json, time
import distopf as opf
for name in ("ieee123_30der", "9500-primary-network"):
    for turn in range(2):
        begun = time.perf_counter()
        case = opf.create_case(opf.CASES_DIR / "csv" / name)
        case.bus_data.v_min, case.bus_data.v_max = 0.5, 1.5
        case.run_opf(objective="loss", control_variable="Q", wrapper="matrix")
        seconds = time.perf_counter() - begun
    print(json.dumps([name, seconds]), flush=True)
"""


def main() -> None:
    """Every case, then the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="a Python with distopf 1.0.2")
    parser.add_argument("--only", help="cases whose name has this")
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for name, build in CASES.items():
        if not asked.only or asked.only in name:
            beside_balanced(name, build())
            jax.clear_caches()
    for name, build in EXACT.items():
        if not asked.only or asked.only in name:
            beside_plain(name, build())
            jax.clear_caches()
    if asked.peer:
        peer(asked.peer)
    tables()


def _wider(market: jg.Market, ratings: float) -> jg.Market:
    """The market with ratings so many times as wide.

    As it is made, a line of the stressed feeder of 1,000 buses carries 100.4 % on AC in one hour
    when all generators run and all batteries discharge: no plan keeps that limit.
    """
    rating = market.grid.rating * ratings
    return replace(market, grid=replace(market.grid, rating=rating))


def _size(market: jg.Market) -> dict[str, int]:
    prosumers, hours = market.prosumers.load.shape
    return {"prosumers": prosumers, "rows": market.grid.passive.shape[0], "hours": hours}


def beside_balanced(name: str, market: jg.Market) -> None:
    """A market in three phases, and the same on the balanced equivalent of its grid."""
    markets = {"phases": market, "balanced": jg.grids.balanced(market)}
    found, first = {}, {}
    for word, one in markets.items():
        found[word], first[word] = record.timed(partial(jg.clear, one))
    times: dict[str, list[float]] = {word: [] for word in markets}
    for _ in range(TURNS):
        for word, one in markets.items():
            times[word].append(record.timed(partial(jg.clear, one))[1])
    seconds = {word: median(each) for word, each in times.items()}
    record.write(
        "phases",
        what="beside balanced",
        case=name,
        **_size(market),
        steps={word: int(one.steps) for word, one in found.items()},
        first_s={word: round(one, 2) for word, one in first.items()},
        clear_s={word: round(one, 3) for word, one in seconds.items()},
        ratio=round(seconds["phases"] / seconds["balanced"], 2),
    )


def beside_plain(name: str, market: jg.Market) -> None:
    """A clearing on AC, next to a plain one."""
    plain, exact = partial(jg.clear, market), partial(jg.clear_ac, market)
    cleared = plain()
    try:
        found = exact()
    except jg.NotCleared as failed:
        record.write("phases", what="not on AC", case=name, **_size(market), status=str(failed))
        return
    times: list[tuple[float, float, float]] = []
    look = partial(acflow.check, market, cleared.plan)
    for _ in range(TURNS):
        looks = [record.timed(look)[1] for _ in range(LOOKS)]
        times.append((record.timed(plain)[1], record.timed(exact)[1], median(looks)))
    before, after, check = (median(each) for each in zip(*times, strict=True))
    ac, loss = cleared.certificate.ac, found.clearing.certificate
    assert ac is not None
    record.write(
        "phases",
        what="beside plain",
        case=name,
        **_size(market),
        rounds=found.rounds,
        plain_s=round(before, 3),
        exact_s=round(after, 3),
        clears=round(after / before, 2),
        check_share=round(check / before, 5),
        error=float(loss.error),
        plain_excess_pu=float(ac.excess),
        plain_loading=float(ac.loading),
        losses_share=float(found.losses.sum() / found.clearing.aggregate.sum()),
    )


def peer(python: str) -> None:
    """distopf's OPF of one hour, building the model included, the second of two runs."""
    done = subprocess.run([python, "-c", PEER], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("["):
            case, seconds = json.loads(line)
            record.write("phases", what="distopf 1.0.2", case=case, seconds=round(seconds, 2))


NOTE = """Compiled, float64, one BLAS thread, relative KKT error 1e-6; medians of three interleaved
repeats on two cores of a shared, busy machine, so ratios mean more than seconds. Check: of the AC
state of a plan, which is part of each clear, as a share of one. Ratings of 1,000 buses under stress
are 1 % wider than they are made, as no plan keeps those on AC."""


def tables() -> None:
    """results/phases.jsonl as Markdown: of several runs of a case the last."""
    lines = map(json.loads, (record.RESULTS / "phases.jsonl").read_text().splitlines())
    runs = {(run["what"], run["case"]): run for run in lines}
    head = (
        "| market | prosumers | rows | hours | steps, balanced | clear, s | balanced, s | times |"
    )
    text = ["# Three phases, and AC", "", head, "|---" * 8 + "|"]
    for (what, case), run in runs.items():
        if what == "beside balanced":
            text.append(
                f"| {case} | {run['prosumers']:,} | {run['rows']:,} | {run['hours']} "
                f"| {run['steps']['phases']:,}, {run['steps']['balanced']:,} "
                f"| {run['clear_s']['phases']:.3g} | {run['clear_s']['balanced']:.3g} "
                f"| {run['ratio']:.1f} |"
            )
    text += ["", "| market | rows | rounds | plain clear, s | on AC, s | clears | check | losses |"]
    text.append("|---" * 8 + "|")
    for (what, case), run in runs.items():
        if what == "beside plain":
            text.append(
                f"| {case} | {run['rows']:,} | {run['rounds']} | {run['plain_s']:.3g} "
                f"| {run['exact_s']:.3g} | {run['clears']:.1f} | {100 * run['check_share']:.2g} % "
                f"| {100 * run['losses_share']:.1f} % |"
            )
    for (what, case), run in runs.items():
        if what == "not on AC":
            text += ["", f"{case}, {run['rows']:,} rows: {run['status']}"]
    told = [run for (what, _), run in runs.items() if what == "distopf 1.0.2"]
    text += [""] + [f"distopf 1.0.2, one hour of {r['case']}: {r['seconds']:.1f} s." for r in told]
    text += ["", NOTE]
    (record.RESULTS / "phases.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
