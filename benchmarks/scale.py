"""What do a step and a market's memory cost, as the number of prosumers grows?

    python benchmarks/scale.py --prosumers 1000 5000 20000 100000 --dtypes float64 float32

Stressed random markets (degree 8, 36 buses, 24 hours), the primal-dual solver, each in a process of
its own. A step's time has its share of the looks in it. The model beside it counts what a step
cannot help moving (`traffic`) and what a solve keeps (`memory`), on top of what JAX, its compiler
and a market of 150 prosumers took before; the copy bandwidth is measured in the same process. One
JSON line a market in results/scale.jsonl, all of them as a table in results/scale.md.
"""

import argparse
import json
import multiprocessing
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import record

import jaxgne as jg
from jaxgne.market import cast

FEW, MANY = 40, 240  # steps of the two runs whose difference is timed


def main() -> None:
    """Every size and dtype."""
    arguments = parse()
    context = multiprocessing.get_context("spawn")
    for dtype in arguments.dtypes:
        for count in arguments.prosumers:
            process = context.Process(target=one, args=(count, dtype, arguments.tol))
            process.start()
            process.join()
            if process.exitcode:
                record.write(
                    "scale", prosumers=count, dtype=dtype, status=f"exit code {process.exitcode}"
                )
    table()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prosumers", type=int, nargs="+", default=[1000, 5000, 20_000, 100_000])
    parser.add_argument("--dtypes", nargs="+", default=["float64"], choices=["float64", "float32"])
    parser.add_argument("--tol", type=float, help="also clear to this relative KKT error")
    return parser.parse_args()


def one(count: int, dtype: str, tol: float | None) -> None:
    """One market: build it, step it, clear it."""
    jax.config.update("jax_enable_x64", True)
    least = 1e-11 if dtype == "float64" else 1e-5

    def run(market: jg.Market, steps: int) -> jg.Clearing:
        return jg.clear(market, jg.PrimalDual(), tol=least, max_steps=steps, throw=False)

    # what JAX and compiling take is not the market's: a small one tells it
    run(cast(jg.synthetic(150, degree=8.0, buses=36, stress=True), dtype), FEW)
    before = peak()
    begun = time.perf_counter()
    market = jg.synthetic(count, degree=8.0, buses=36, stress=True)
    market = jax.block_until_ready(cast(market, dtype))
    built = time.perf_counter() - begun

    record.timed(lambda: run(market, FEW))  # compiles
    times = [record.timed(lambda steps=steps: run(market, steps))[1] for steps in (FEW, MANY)]
    step = (times[1] - times[0]) / (MANY - FEW)
    held = peak()
    facts: dict[str, Any] = {}
    if tol is not None:
        clearing, seconds = record.timed(lambda: jg.clear(market, tol=tol, throw=False))
        facts = {
            "tol": tol,
            "status": jg.status.status_name(clearing.status),
            "iterations": int(clearing.steps),
            "error": float(clearing.certificate.error),
            "run_s": round(seconds, 2),
            "peak_with_clear_bytes": peak(),
        }
    copied = bandwidth()
    record.write(
        "scale",
        prosumers=count,
        pairs=market.trading.limit.shape[0],
        dtype=dtype,
        build_s=round(built, 2),
        step_s=round(step, 6),
        traffic_bytes=traffic(market),
        copy_bytes_per_s=round(copied),
        share_of_copy=round(traffic(market) / step / copied, 3),
        program_bytes=before,
        peak_bytes=held,
        memory_bytes=before + memory(market),
        **facts,
    )


def sizes(market: jg.Market) -> tuple[int, int, int, int, int, int]:
    """Prosumers, pairs, generators, buffers, hours, and bytes of a number."""
    load, pairs = market.prosumers.load, market.trading.limit.shape[0]
    units, stores = market.generators.owner.shape[0], market.buffers.owner.shape[0]
    return load.shape[0], pairs, units, stores, load.shape[1], load.dtype.itemsize


def traffic(market: jg.Market) -> int:
    """Bytes that a step moves at least, each number read once and written once.

    Of a decision: anchor, travel and step read, travel written, and its bounds read; of a price of
    a row the same without bounds, and the anchor's row. A pair also reads two prices, and adds to
    two balances. Travels, what they add to rows, and step sizes are in float32.
    """
    prosumers, pairs, generators, buffers, hours, width = sizes(market)
    numbers = 8 * prosumers + 3 * pairs + 3 * generators + 10 * buffers
    few = 14 * prosumers + 7 * pairs + 5 * generators + 14 * buffers
    return hours * (width * numbers + 4 * few)


def memory(market: jg.Market) -> int:
    """Bytes that a solve keeps at its peak: the market, its state twice, and what a look makes.

    The state is two points of a plan and prices (image, anchor), the rows of the anchor, travel,
    step sizes and omegas in float32, and a byte for each decision whether it rests; a look at the
    answer makes seven and a half plans in float64.
    """
    prosumers, pairs, generators, buffers, hours, width = sizes(market)
    given = 8 * prosumers + 2 * generators + 6 * buffers
    plan = 3 * prosumers + pairs + generators + 3 * buffers
    prices = prosumers + buffers
    state = width * (2 * plan + 3 * prices) + 4 * (2 * (plan + prices) + prosumers) + plan
    return round(hours * (width * given + 2 * state + 8 * 7.5 * plan))


def peak() -> int:
    """Most bytes ever in use: of the device where it tells, else of the process."""
    told = jax.devices()[0].memory_stats()
    if told is not None:
        return told["peak_bytes_in_use"]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bandwidth() -> float:
    """Bytes read and written a second by adding 1 to a large array in place, the best of five."""
    numbers, times = jnp.zeros(2**25, jnp.float32), 20
    add = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, a: a + 1, a))
    jax.block_until_ready(add(numbers))
    best = min(record.timed(lambda: add(numbers))[1] for _ in range(5))
    return 2 * times * numbers.nbytes / best


def table() -> None:
    """results/scale.jsonl as a Markdown table: of several runs the last."""
    lines = (record.RESULTS / "scale.jsonl").read_text().splitlines()
    runs = {(r["dtype"], r["prosumers"]): r for r in map(json.loads, lines)}
    head = ["prosumers", "pairs", "dtype", "ms a step", "MB a step (model)", "of copy bandwidth"]
    head += ["peak MB", "model MB", "steps", "seconds"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (dtype, count), run in sorted(runs.items(), reverse=False):
        if "step_s" not in run:
            text.append(f"| {count} | - | {dtype} | {run['status']} |" + " - |" * (len(head) - 4))
            continue
        cells = [
            f"{count}",
            f"{run['pairs']}",
            dtype,
            f"{1e3 * run['step_s']:.3g}",
            f"{run['traffic_bytes'] / 1e6:.3g}",
            f"{100 * run['share_of_copy']:.0f} %",
            f"{run['peak_bytes'] / 1e6:.0f}",
            f"{run['memory_bytes'] / 1e6:.0f}",
        ]
        cells += [f"{run['iterations']}", f"{run['run_s']:.3g}"] if "tol" in run else ["-", "-"]
        text.append(f"| {' | '.join(cells)} |")
    (record.RESULTS / "scale.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
