"""What does one GPU take for large markets, batches and gradients? Ten minutes, in one command.

    pip install -e ".[bench]" "jax[cuda12]" && python benchmarks/gpu.py
    python benchmarks/gpu.py --small --folder small-gpu      # tries all of it on any machine

Rows run one after the other, each in a process of its own, the most telling first, until the time
is up. Each appends a JSON line to gpu.jsonl, and gpu.md is the table of all. A row that ended on
this device is not run again: the same command goes on where the last one stopped, with what XLA
compiled kept beside the results. Beside the milliseconds of a step stands what `roofline.py`
predicts, beside clears a GPU's other solvers, where they can be imported.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/reference.py

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import record
import scale
from scipy.sparse import csr_matrix

import jaxgne as jg
from benchmarks import convex
from jaxgne import scenarios
from jaxgne.clearing import differentiable
from jaxgne.market import cast

NOISE = {"price": 0.2}  # not loads: on stressed grids more load is often infeasible
Facts = dict[str, Any]
Row = Callable[[], Facts]


def main() -> None:
    """Every row that there is time for."""
    arguments = parse()
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((folder / "gpu-compiled").resolve()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    begun, here = time.monotonic(), None
    chosen = [n for n in rows(arguments.small) if any(word in n for word in arguments.rows)]
    for name in chosen:
        left = arguments.minutes * 60 - (time.monotonic() - begun)
        if left < 20 and here is not None:
            print(f"time is up before {name}; the same command goes on from there", flush=True)
            break
        if here is None:  # the device's name, which only a child may ask for: it takes its memory
            here = within(120, "machine", arguments.small)
            if not isinstance(here, dict):
                sys.exit(f"gpu: no device to measure: {here}")
            if here["platform"] == "cpu" and not arguments.small:
                sys.exit("gpu: JAX finds no GPU here; --small tries the rows on a CPU.")
        if (name, here["device"]) in ended(folder):
            continue
        found = within(left, name, arguments.small)
        facts = found if isinstance(found, dict) else {"status": found}
        line = json.dumps({**here, "row": name, **facts})
        with (folder / "gpu.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
    table(folder)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="tiny markets, on any device")
    parser.add_argument("--rows", nargs="+", default=[""], help="words in names of rows to run")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no row begins")
    parser.add_argument("--folder", default=str(record.RESULTS), help="of gpu.jsonl and gpu.md")
    return parser.parse_args()


def rows(small: bool) -> dict[str, Row]:
    """What is measured, by name, the most telling first."""
    tiny, large = ((140, 12), (150, 12), (160, 12)), ((12_300, 123), (100_000, 36), (10**6, 36))
    first, second, third = tiny if small else large
    many, people = (4, 5) if small else (4096, 50)
    few = 10 if small else 50
    found: dict[str, Row] = {"copy": copy, "turn of a loop": turn}

    def clears(size: tuple[int, int], dtype: str, tol: float) -> None:
        label = f"clear {size[0]:,} x {size[1]} buses to {tol:.0e}, {dtype}"
        found[label] = partial(cleared, *size, dtype, tol)

    clears(first, "float32", 1e-4)
    clears(first, "float64", 1e-6)
    clears(second, "float32", 1e-4)
    found[f"{many:,} scenarios of {people}, interior point"] = partial(
        batch, many, people, jg.InteriorPoint(), 1e-6
    )
    clears(third, "float32", 1e-4)
    found[f"gradient, {few}"] = partial(gradient, few, 12 if small else 36)
    found[f"gradient, {first[0]:,} x {first[1]} buses"] = partial(gradient, *first)
    found[f"{many:,} scenarios of {people}, primal-dual"] = partial(
        batch, many, people, jg.PrimalDual(), 1e-4
    )
    for name in filter(find_spec, PEERS):
        for size in ((few, 12 if small else 36), first):
            found[f"{name}, {size[0]:,} x {size[1]} buses"] = partial(peer, name, *size)
    clears(second, "float64", 1e-6)
    clears(first, "float64", 1e-4)
    return found


def within(limit: float, name: str, small: bool) -> Any:
    """What a row finds in a process of its own, or in words why there is nothing."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, name, small))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else "time is up"
    except EOFError:
        process.join()
        return f"exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _child(pipe: Any, name: str, small: bool) -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        pipe.send(machine() if name == "machine" else {"status": "ended", **rows(small)[name]()})
    except Exception as error:  # a row's failure is a result, recorded with its words
        pipe.send(f"{type(error).__name__}: {error}"[:300])


def machine() -> Facts:
    """What is measured on."""
    return {**record.machine(), "platform": jax.devices()[0].platform}


def ended(folder: Path) -> set[tuple[str, str]]:
    """Rows that need not run again, by device."""
    return {(r["row"], r["device"]) for r in lines(folder) if r["status"] == "ended"}


def lines(folder: Path) -> list[Facts]:
    """All rows so far."""
    path = folder / "gpu.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def copy() -> Facts:
    """Bytes that the device reads and writes a second."""
    return {"bytes_per_s": round(scale.bandwidth())}


def turn() -> Facts:
    """Seconds of a turn of a loop that does next to nothing: a launch and its wait."""
    turns, few = 20_000, jnp.zeros(32, jnp.float32)

    def asked(last: Any, numbers: Any) -> Any:
        return jax.lax.fori_loop(0, last, lambda k, a: a * 0.5 + k, numbers)

    runs = {"known_turn_s": jax.jit(partial(asked, turns)), "asked_turn_s": jax.jit(asked)}
    given = {"known_turn_s": (few,), "asked_turn_s": (jnp.asarray(turns), few)}
    found = {}
    for name, run in runs.items():
        seconds = [record.timed(lambda run=run, name=name: run(*given[name]))[1] for _ in range(3)]
        found[name] = float(f"{min(seconds) / turns:.3g}")
    return found


def market_of(count: int, buses: int, dtype: str) -> jg.Market:
    """A stressed day on the device."""
    made = cast(jg.synthetic(count, degree=8.0, buses=buses, stress=True, seed=0), dtype)
    return jax.block_until_ready(jax.device_put(made, jax.devices()[0]))


def cleared(count: int, buses: int, dtype: str, tol: float) -> Facts:
    """Milliseconds of a step, and seconds of the whole solve once it is compiled."""
    market, made = record.timed(lambda: market_of(count, buses, dtype))
    least = 1e-11 if dtype == "float64" else 1e-5

    def run(steps: int) -> Any:
        return jg.clear(
            market, jg.PrimalDual(), tol=least, max_steps=steps, throw=False, runner="jax"
        )

    def solve(most: int | None = None) -> Any:
        return jg.clear(market, tol=tol, max_steps=most, throw=False, runner="jax")

    compiling = record.timed(lambda: run(scale.MANY))[1]  # with the renewals that are due by then
    times = [record.timed(lambda steps=steps: run(steps))[1] for steps in (scale.FEW, scale.MANY)]
    step = (times[1] - times[0]) / (scale.MANY - scale.FEW)
    compiling += record.timed(lambda: solve(1))[1]  # nothing more where it is the same method
    clearing, seconds = record.timed(solve)
    return {
        "prosumers": count, "buses": buses, "dtype": dtype, "tol": tol,
        "build_s": round(made, 2), "compile_s": round(compiling, 1), "step_s": float(f"{step:.4g}"),
        "traffic_bytes": scale.traffic(market), "run_s": round(seconds, 4),
        "iterations": int(clearing.steps), "error": float(clearing.certificate.error),
        "ended_as": jg.status.status_name(clearing.status), "peak_bytes": scale.peak(),
    }  # fmt: skip


def batch(count: int, people: int, solver: Any, tol: float) -> Facts:
    """Scenarios a second, once compiled, all from the clearing of the market without noise."""
    market = market_of(people, 36, "float64")
    markets = scenarios.perturb(market, jax.random.key(0), count, **NOISE)

    def run() -> Any:
        start = jg.clear(market, solver, tol=tol, throw=False, runner="jax")
        return jg.clear_many(markets, solver, tol=tol, start=start, runner="jax")

    _, first = record.timed(run)
    found, seconds = record.timed(run)
    return {
        "prosumers": people, "scenarios": count, "solver": type(solver).__name__, "tol": tol,
        "first_s": round(first, 2), "run_s": round(seconds, 4), "per_s": round(count / seconds, 1),
        "cleared": int(np.sum(found.ok)), "peak_bytes": scale.peak(),
    }  # fmt: skip


def gradient(count: int, buses: int) -> Facts:
    """A gradient by all numbers of a market, beside a difference of clears along one change."""
    market = market_of(count, buses, "float64")
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=market.tariff.slope.shape))
    change = jnp.asarray(rng.uniform(-1, 1, market.prosumers.load.shape)) * market.prosumers.load
    tol, step = 1e-8, 1e-4

    def clear(market: jg.Market) -> Any:
        return jg.clear(market, tol=tol, throw=False, runner="jax")

    @eqx.filter_jit
    def slopes(market: jg.Market, clearing: Any) -> Any:
        def output(market: jg.Market) -> Any:
            plan = differentiable(market, clearing, jg.Implicit(throw=False)).plan
            return jnp.sum(weights * plan.imports)

        return eqx.filter_grad(output)(market)

    def at(share: float) -> float:
        load = market.prosumers.load + share * change
        plan = clear(eqx.tree_at(lambda m: m.prosumers.load, market, load)).plan
        return float(jnp.sum(weights * plan.imports))

    clear(market)
    clearing, clearing_s = record.timed(lambda: clear(market))
    _, first = record.timed(lambda: slopes(market, clearing))
    found, seconds = record.timed(lambda: slopes(market, clearing))
    return {
        "prosumers": count, "buses": buses, "tol": tol, "clear_s": round(clearing_s, 4),
        "first_s": round(first, 1), "run_s": round(seconds, 4),
        "derivative": float(jnp.vdot(found.prosumers.load, change)),
        "difference": (at(step) - at(-step)) / (2 * step),
    }  # fmt: skip


def cupiqp(box: convex.Box, eps: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Proximal interior point; of two runs the second, compiled one counts."""
    module: Any = import_module("cupiqp")
    convex.refuse_discs(box)

    def table(matrix: Any) -> Any:
        rows = csr_matrix(matrix)
        rows.sort_indices()
        return rows.indptr, rows.indices, jnp.asarray(rows.data)

    data = {"P": table(box.P), "c": jnp.asarray(box.q), "A": table(box.A), "b": jnp.asarray(box.b)}
    data |= {"x_l": jnp.asarray(box.lower), "x_u": jnp.asarray(box.upper)}
    if len(box.h):
        data |= {"G": table(box.G), "h_u": jnp.asarray(box.h)}

    def run() -> tuple[np.ndarray, np.ndarray]:
        solver = module.SparseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = eps
        solver.settings.eps_duality_gap_abs = solver.settings.eps_duality_gap_rel = eps
        solver.setup(**data)
        solver.solve()
        return solver.result.x.numpy()[0], solver.result.y.numpy()[0]

    run()
    begun = time.perf_counter()
    return *run(), time.perf_counter() - begun


PEERS = {
    "cupiqp": cupiqp,
    "moreau": partial(convex.moreau, device="cuda"),
    "mpax": convex.mpax,
}
# It solves linear programs, and a market's has what many buy together squared.
WITHOUT = {"cupdlpx": "takes no quadratic objective"}


def peer(name: str, count: int, buses: int) -> Facts:
    """A GPU's other solver on the same program, asked for more until its answer is good to 1e-6."""
    market = market_of(count, buses, "float64")
    made, conic, box = convex.program(market)
    told: Facts = {"prosumers": count, "buses": buses}
    for eps in convex.ACCURACIES:
        x, y, seconds = PEERS[name](box, eps)
        plan, prices = convex.answer(market, made, conic, x, y)
        told |= {"asked": eps, "run_s": round(seconds, 4)}
        told["error"] = float(jg.certify(market, plan, prices).error)
        if told["error"] <= 1e-6:
            break
    return told


def table(folder: Path) -> None:
    """gpu.jsonl as a Markdown table: of several runs of a row on a device the last."""
    runs = {(r["device"], r["row"]): r for r in lines(folder)}
    predicted = roofline()
    head = ["device", "row", "s", "ms a step", "predicted", "of the copy bandwidth", "steps"]
    head += ["error", "compile s", "GB", "note"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (device, name), run in runs.items():
        copied = runs.get((device, "copy"), {}).get("bytes_per_s")
        cells = [device, name, _told(run.get("run_s")), "-", "-", "-"]
        if "step_s" in run:
            cells[3] = f"{1e3 * run['step_s']:.3g}"
            for gpu in ("H100", "H200"):
                key = (run["prosumers"], run["buses"], run["dtype"])
                if gpu in device and key in predicted:
                    cells[4] = f"{1e3 * predicted[key][gpu]:.3g}"
            if copied:
                cells[5] = f"{100 * run['traffic_bytes'] / run['step_s'] / copied:.0f} %"
        cells += [_told(run.get("iterations")), _told(run.get("error"), ".1e")]
        cells += [_told(run.get("compile_s", run.get("first_s")))]
        cells += [_told(run["peak_bytes"] / 1e9) if "peak_bytes" in run else "-", _note(run)]
        text.append(f"| {' | '.join(cells)} |")
    without = {name: "not installed" for name in PEERS if find_spec(name) is None} | WITHOUT
    text += ["", *(f"- {name}: {words}." for name, words in without.items())]
    (folder / "gpu.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def _told(number: float | None, form: str = ".4g") -> str:
    return "-" if number is None else f"{number:{form}}"


def _note(run: Facts) -> str:
    """What the other columns have no room for."""
    if run["status"] != "ended":
        return run["status"].splitlines()[0]
    words = []
    if "bytes_per_s" in run:
        words.append(f"{run['bytes_per_s'] / 1e9:,.0f} GB/s")
    if "known_turn_s" in run:
        both = (1e6 * run["known_turn_s"], 1e6 * run["asked_turn_s"])
        words.append(f"{both[0]:.2g} us, {both[1]:.2g} us where the host is asked")
    if "per_s" in run:
        words.append(f"{run['per_s']:,} a second, {run['cleared']:,} cleared")
    if "difference" in run:
        words.append(f"{run['derivative']:.6g}, by differences {run['difference']:.6g}; ")
        words.append(f"one clear {run['clear_s']:.4g} s")
    if run.get("ended_as", "cleared") != "cleared":
        words.append(run["ended_as"])
    return " ".join(words)


def roofline() -> dict[tuple[int, int, str], dict[str, float]]:
    """Predicted seconds of a step, looks included, by market and device."""
    path = record.RESULTS / "roofline.jsonl"
    found = {}
    for r in map(json.loads, path.read_text().splitlines()) if path.is_file() else ():
        if r["solver"] != "PrimalDual" or r["scenarios"] != 1 or "look_kernels" not in r:
            continue
        key = (r["prosumers"], r["buses"], r["dtype"])
        found[key] = {
            gpu: (39 * r[f"step_{gpu}_launched_s"] + r[f"look_{gpu}_launched_s"]) / 40
            for gpu in ("H100", "H200")
        }
    return found


if __name__ == "__main__":
    main()
