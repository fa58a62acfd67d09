"""How long does a user wait for the first answers, with and without programs on disk?

    python benchmarks/first.py --base main~20

Each run is a process of its own, `cold` with an empty folder for compiled programs and `warm` with
the one that a run before left. What is measured: commands from the shell, `import jaxgne`, the
first clear of a process, the next of another shape, of the same shape once compiled, a first
gradient, and how many memory maps a process holds after twenty shapes. Peers solve the same program
of 25 to 1,000 prosumers through CVXPY, which is given its matrices: import and first answer at a
prompt, for at most `--peer-limit` seconds. Medians of the runs; `--base` measures another revision
too, in turns. One JSON line a question in results/first.jsonl; results/first.md is a table of the
latest of each, beside the first release.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

import jax
import numpy as np
import record
from scipy import sparse

import jaxgne as jg
from benchmarks import convex

ROOT = Path(__file__).parent.parent

PRELUDE = """
import json, sys, time
told, begun = {}, time.perf_counter()
import jax
jax.config.update("jax_enable_x64", True)
import jaxgne as jg
told["import"] = time.perf_counter() - begun

def measured(name, run):
    begun = time.perf_counter()
    jax.block_until_ready(run())
    told[name] = time.perf_counter() - begun

def synthetic(count):
    return jg.synthetic(count, degree=8.0, buses=36, stress=True)

def compiled(market):
    try:
        return jg.clear(market, runner="jax")
    except TypeError:  # earlier revisions compile everything
        return jg.clear(market)
"""
FIRST = """
market, other = {market}, synthetic({other})
measured("first clear", lambda: jg.clear(market))
measured("another shape", lambda: jg.clear(other))
measured("first clear, compiled", lambda: compiled(market))
for _ in range(5):
    measured("once compiled", lambda: compiled(market))
"""
QUESTIONS: dict[str, str | list[str]] = {  # a script, or a command's words
    "jaxgne clear ieee37": ["clear", "ieee37"],
    "jaxgne batch ieee37": ["batch", "ieee37", "--scenarios", "16"],
    "import": "",
    "ieee37": FIRST.format(market='jg.load_case("ieee37")', other=26),
    "50 prosumers": FIRST.format(market="synthetic(50)", other=51),
    "200 prosumers": FIRST.format(market="synthetic(200)", other=201),
    "1000 prosumers": 'market = synthetic(1000)\nmeasured("first clear", lambda: jg.clear(market))',
    "gradient, 50 prosumers": """
import equinox as eqx
market = synthetic(50)
measured("first gradient", lambda: eqx.filter_grad(lambda m: jg.clear(m).costs.sum())(market))
""",
    "sensitivities, 50 prosumers": """
market = synthetic(50)
measured("first gradient", lambda: jg.sensitivities(market, lambda m, c: c.costs.sum()))
""",
    "20 shapes": """
for count in range(10, 30):
    compiled(jg.synthetic(count))
with open("/proc/self/maps") as lines:
    told["memory maps"] = sum(1 for _ in lines)
""",
}
ABOUT = """Seconds (or a number), medians of {fewest} to {most} runs.

"First clear, compiled" asks for JAX. A revision that always compiles has done so in its first clear
before; one that NumPy gave the first answer compiles there.

Peers solve the same program through CVXPY; "none in time" is no answer within 50 s.

"""
LATE = "none in time"  # of a peer without an answer within its limit
RELEASE = "4f06506"  # the first one
SIZES = (25, 50, 200, 1000)
PEERS = ("PIQP", "CLARABEL", "MOREAU")
PEER = """
import json, sys, time
begun = time.perf_counter()
import cvxpy as cp
import numpy as np
from scipy import sparse
P, A, G = (sparse.load_npz(f"{sys.argv[1]}/{name}.npz") for name in "PAG")
vectors = np.load(f"{sys.argv[1]}/vectors.npz")
q, b, h, lower, upper = (vectors[name] for name in ("q", "b", "h", "lower", "upper"))
x = cp.Variable(len(q))
limits = [A @ x == b, G @ x <= h, x >= lower, x <= upper]
problem = cp.Problem(cp.Minimize(cp.quad_form(x, cp.psd_wrap(P)) / 2 + q @ x), limits)
problem.solve(solver=sys.argv[2])
print(json.dumps({"first answer": time.perf_counter() - begun}))
"""


def main() -> None:
    """Every question, of this revision and the other one."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch, trees(arguments.base, scratch) as places:
        for name in arguments.questions:
            for place, found in asked(name, places, Path(scratch), arguments).items():
                write(name, place, found)
        if not arguments.no_peers:
            peers(Path(scratch), arguments)
    table()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--questions", nargs="*", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--runs", type=int, default=5, help="of which the median is told")
    parser.add_argument("--base", help="a revision to measure beside this one")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one process")
    parser.add_argument("--peer-limit", type=float, default=50.0, help="seconds for a peer")
    parser.add_argument("--no-peers", action="store_true")
    return parser.parse_args()


@contextmanager
def trees(base: str | None, scratch: str) -> Iterator[dict[str, Path]]:
    """Where the package lies, by revision: this tree, and a checkout of `base`."""
    places = {record.revision(): ROOT}
    if base is None:
        yield places
        return
    git, place = ["git", "-C", str(ROOT)], Path(scratch) / "base"
    subprocess.run([*git, "worktree", "add", "-q", "--detach", str(place), base], check=True)
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", base], capture_output=True, text=True, check=True
        )
        yield {name.stdout.strip(): place, **places}
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(place)], check=True)


def asked(
    name: str, places: dict[str, Path], scratch: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Seconds by revision and measure, one a run; revisions in turns, so that both see the load."""
    found: dict[str, dict[str, list[float]]] = {place: defaultdict(list) for place in places}
    for run in range(1 if name == "20 shapes" else arguments.runs):
        for revision, place in places.items():
            caches = scratch / f"{revision}-{name.replace(' ', '-')}-{run}"
            for state in ("cold", "warm"):
                told = process(QUESTIONS[name], place, caches, arguments.limit)
                for measure, value in told.items():
                    found[revision][f"{measure}, {state}"].append(value)
    return found


def process(question: str | list[str], place: Path, caches: Path, limit: float) -> dict[str, float]:
    """What one process says, or seconds of a command."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("JAX")}
    env |= {"PYTHONPATH": str(place), "JAXGNE_CACHE": str(caches)}
    command = isinstance(question, list)
    script = PRELUDE + str(question) + "\nprint(json.dumps(told))"
    words = ["-m", "jaxgne", *question] if command else ["-c", script]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        env=env,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=limit,
    )
    seconds = time.perf_counter() - begun
    return {"command": seconds} if command else json.loads(done.stdout.splitlines()[-1])


def peers(scratch: Path, arguments: argparse.Namespace) -> None:
    """The same program through CVXPY, by each solver that is installed, and here, in turns."""
    if find_spec("cvxpy") is None:
        print("peers: CVXPY is not installed.")
        return
    jax.config.update("jax_enable_x64", True)
    names = [name for name in PEERS if find_spec(name.lower()) is not None]
    for size in SIZES:
        _, _, box = convex.program(jg.synthetic(size, degree=8.0, buses=36, stress=True))
        for name in "PAG":
            sparse.save_npz(scratch / f"{name}.npz", getattr(box, name))
        vectors = {name: getattr(box, name) for name in ("q", "b", "h", "lower", "upper")}
        np.savez(scratch / "vectors.npz", **vectors)
        seconds: dict[str, list[float]] = defaultdict(list)
        ours = f'measured("first clear", lambda: jg.clear(synthetic({size})))'
        for run in range(arguments.runs):
            caches = scratch / f"peers-{size}-{run}"
            told = process(ours, ROOT, caches, arguments.limit)
            seconds[record.revision()].append(told["import"] + told["first clear"])
            for name in names:
                seconds[f"CVXPY, {name}"].append(answered(scratch, name, arguments.peer_limit))
        for subject, times in seconds.items():
            write(f"{size:,} prosumers", subject, {"import and first answer": times})


def answered(scratch: Path, solver: str, limit: float) -> float:
    """Seconds of a peer; infinite where there is no answer within `limit`."""
    command = [sys.executable, "-c", PEER, str(scratch), solver]
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return float("inf")
    return json.loads(told.stdout)["first answer"]


def write(question: str, subject: str, found: dict[str, list[float]]) -> None:
    """One line: the median of each measure, and all runs."""
    medians = {measure: known(statistics.median(values)) for measure, values in found.items()}
    runs = {measure: [known(value) for value in values] for measure, values in found.items()}
    record.write("first", question=question, subject=subject, medians=medians, runs=runs)


def known(value: float) -> float | str:
    """A number, or words where there was no answer."""
    return value if np.isfinite(value) else LATE


def table() -> None:
    """The latest of each question, measure and subject, side by side."""
    lines = (record.RESULTS / "first.jsonl").read_text().splitlines()
    rows: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for line in map(json.loads, lines):
        subject = line["subject"]
        subject = subject if subject == RELEASE or "CVXPY" in subject else "now"
        for measure, value in line["medians"].items():
            rows[line["question"], measure][subject] = value
    subjects = list(dict.fromkeys(subject for row in rows.values() for subject in row))
    head = ["| question | measure |", *(f" {subject} |" for subject in subjects)]
    out = ["".join(head), "|---|---|" + "---|" * len(subjects)]
    for (question, measure), row in rows.items():
        cells = (shown(row.get(subject), measure) for subject in subjects)
        out.append(f"| {question} | {measure} | " + " | ".join(cells) + " |")
    runs = [len(times) for line in map(json.loads, lines) for times in line["runs"].values()]
    text = ABOUT.format(fewest=min(runs), most=max(runs)) + "\n".join(out) + "\n"
    (record.RESULTS / "first.md").write_text(text)
    print(text)


def shown(value: Any, measure: str) -> str:
    """A number of the table."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if measure.startswith("memory maps") else f"{value:.3g}"


if __name__ == "__main__":
    main()
