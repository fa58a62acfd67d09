"""What should a step take on a GPU, by the bytes that its kernels move and how many there are?

    pip install --no-deps jax-cuda12-pjrt==0.10.2 jax-cuda12-plugin==0.10.2   # JAX's own version
    python benchmarks/roofline.py
    python benchmarks/roofline.py --cases prosumers --dtypes float32 --no-look

A prediction, made without a GPU: XLA compiles the very program that `clear` runs for an H100, of
which this machine needs none, and its kernels are counted (`hlo.py` says by which rule). A kernel
takes what its bytes do at the memory's full bandwidth, or its operations at full rate, or the time
of a launch where that is longer; a loop of which XLA does not know the turns counts as one turn.
One JSON line a case in results/roofline.jsonl, all of them as a table in results/roofline.md.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import record
import scale
from hlo import Kernel, Program
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxgne as jg
from jaxgne import scenarios
from jaxgne.clearing import ready
from jaxgne.market import cast
from jaxgne.placement import TABLES
from jaxgne.solve import _judged, begin
from jaxgne.solvers import network

BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}  # B/s, of the SXM boards' data sheets
RATE = {"float32": 67e12, "float64": 34e12}  # operations a second of either, without tensor cores
CACHE = 50e6  # bytes of L2 of either
LAUNCH = 4e-6  # s from one launch to the next; 3 to 5 us are usual without CUDA graphs
STEPS = 39  # between two looks of the primal-dual method

# What the compiler has to know of an H100 (SXM, 80 GB).
TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  shared_memory_per_block: 49152
  shared_memory_per_core: 233472  threads_per_core_limit: 2048  core_count: 132
  fpus_per_core: 128  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535
  block_dim_limit_z: 65535  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  clock_rate_ghz: 1.98  device_memory_size: 84929347584  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Prosumers, buses and scenarios of each case.
CASES: dict[str, list[tuple[int, int, int]]] = {
    "prosumers": [(12_300, 123, 1), (100_000, 36, 1), (1_000_000, 36, 1)],
    "scenarios": [(50, 36, 4096)],
}


def main() -> None:
    """Every case."""
    jax.config.update("jax_enable_x64", True)
    arguments = parse()
    if arguments.cases and importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
        sys.exit("roofline: XLA's compiler for CUDA is missing; install the two packages above.")
    network.DENSE = network.DENSE_ELSEWHERE  # as on a GPU
    for kind in arguments.cases:
        for count, buses, many in CASES[kind]:
            if kind == "scenarios":
                one(jg.InteriorPoint(), count, buses, many, "float64", arguments.look)
            for dtype in arguments.dtypes:
                one(jg.PrimalDual(), count, buses, many, dtype, arguments.look)
    table()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--look", action=argparse.BooleanOptionalAction, default=True,
                        help="also what a look at the answer takes, every forty steps")  # fmt: skip
    return parser.parse_args()


def one(solver: Any, count: int, buses: int, many: int, dtype: str, look: bool) -> None:
    """A step of one case, and the look at the answer."""
    market = shaped(count, buses, many, dtype)
    facts: dict[str, Any] = {
        "solver": type(solver).__name__,
        "prosumers": count,
        "buses": buses,
        "scenarios": many,
        "dtype": dtype,
        "traffic_bytes": many * scale.traffic(shaped(count, buses, 1, dtype)),
    }
    begun = time.perf_counter()
    for what, program in programs(solver, market, many).items():
        if what == "look" and not look:
            continue
        found, memory = compiled(program)
        kernels = list(found.kernels(_repeated(found) if what == "step" else None))
        facts |= {f"{what}_{name}": value for name, value in counted(kernels).items()}
        if what == "step":
            facts["memory_bytes"] = memory
    record.write("roofline", **facts, compile_s=round(time.perf_counter() - begun, 1))


def _repeated(program: Program) -> str:
    """What the loop over steps repeats."""
    (loop,) = (loop for loop, turns in program.loops() if turns == STEPS)
    return program.body(loop)


def counted(kernels: list[Kernel]) -> dict[str, Any]:
    """Kernels, bytes, operations, and what they should take, s."""
    total = {name: sum(getattr(k, name) * k.times for k in kernels)
             for name in ("bytes", "narrow", "wide")}  # fmt: skip
    facts: dict[str, Any] = {
        "kernels": round(sum(k.times for k in kernels)),
        "unknown_turns": sum(k.name.startswith("?") for k in kernels),
        "bytes": round(total["bytes"]),
        "operations": {"float32": round(total["narrow"]), "float64": round(total["wide"])},
    }
    for name, bandwidth in BANDWIDTH.items():
        for word, least in (("graph", 0.0), ("launched", LAUNCH)):
            seconds = sum(k.times * max(taken(k, bandwidth), least) for k in kernels)
            facts[f"{name}_{word}_s"] = float(f"{seconds:.4g}")
    return facts


def taken(kernel: Kernel, bandwidth: float) -> float:
    """Seconds of a kernel once it runs."""
    work = kernel.narrow / RATE["float32"] + kernel.wide / RATE["float64"]
    return max(kernel.bytes / bandwidth, work)


def shaped(count: int, buses: int, many: int, dtype: str) -> jg.Market:
    """A market's shapes, without its numbers: that of a small one, with more rows."""
    small = min(count, max(buses, 50))
    market = cast(
        jg.synthetic(small, degree=8.0, buses=buses, hours=24, stress=True, seed=0), dtype
    )
    if many > 1:
        market = scenarios.stack([market])

    def put(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        shape, at = list(leaf.shape), int(many > 1)
        if many > 1:
            shape[0] = many
        if path[0].name in TABLES:
            shape[at] = round(shape[at] * count / small)
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(put, market)


def programs(solver: Any, market: jg.Market, many: int) -> dict[str, tuple[Any, Any]]:
    """A function and the shapes it takes: of the steps between two looks, and of the look."""

    def every(function: Callable[..., Any]) -> Callable[..., Any]:
        return eqx.filter_vmap(function) if many > 1 else function

    def given(market: jg.Market) -> Any:
        asked = ready(market, solver, None)
        return asked[0], begin(*asked)

    def steps(market: jg.Market, carry: Any) -> Any:
        asked = ready(market, solver, None)[1]
        one = asked.look if solver.every == 1 else asked.step
        return jax.lax.fori_loop(0, STEPS, lambda _, state: one(market, state), carry.state)

    def look(market: jg.Market, carry: Any) -> Any:
        asked = ready(market, solver, None)[1]
        if solver.every > 1:
            carry = replace(carry, state=asked.look(market, carry.state))
        return _judged(market, asked, carry, jnp.asarray(1e-6))

    with jax.enable_x64(True):
        start = eqx.filter_eval_shape(every(given), market)
    return {"step": (every(steps), start), "look": (every(look), start)}


def compiled(program: tuple[Any, Any]) -> tuple[Program, int]:
    """The program for an H100, and the bytes that it takes there."""
    function, given = program
    topology = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
    place = NamedSharding(Mesh(np.asarray(topology.devices), ("one",)), PartitionSpec())

    def is_shape(a: Any) -> bool:
        return isinstance(a, jax.ShapeDtypeStruct)

    arrays, rest = eqx.partition(given, is_shape)
    arrays = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arrays)

    def run(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, rest, is_leaf=is_shape)), eqx.is_array)

    with jax.enable_x64(True):
        made = jax.jit(run).lower(arrays).compile()
    used: Any = made.memory_analysis()
    total = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return Program(made.as_text() or "", CACHE), total


def table() -> None:
    """results/roofline.jsonl as a Markdown table: of several runs the last."""
    lines = (record.RESULTS / "roofline.jsonl").read_text().splitlines()
    runs = {
        tuple(r[k] for k in ("solver", "scenarios", "prosumers", "buses", "dtype")): r
        for r in map(json.loads, lines)
    }
    head = ["solver", "market", "dtype", "kernels", "MB", "of the model"]
    head += [f"ms, {gpu}" for gpu in BANDWIDTH]
    head += [f"ms, {gpu}, {1e6 * LAUNCH:.0f} us a launch" for gpu in BANDWIDTH]
    head += ["look: kernels", "MB", "ms, H100, launched", "GB taken"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (solver, many, count, buses, dtype), run in runs.items():
        what = f"{count:,} x {buses} buses" if many == 1 else f"{many:,} of {count} x {buses} buses"
        moved = run["step_bytes"]
        cells = [solver, what, dtype, f"{run['step_kernels']:,}", f"{moved / 1e6:,.3g}"]
        modeled = solver == "PrimalDual"
        cells.append(f"{moved / run['traffic_bytes']:.2f}" if modeled else "-")
        for word in ("graph", "launched"):
            cells += [f"{1e3 * run[f'step_{gpu}_{word}_s']:.3g}" for gpu in BANDWIDTH]
        if "look_kernels" in run:
            cells += [f"{run['look_kernels']:,}", f"{run['look_bytes'] / 1e6:,.3g}"]
            cells.append(f"{1e3 * run['look_H100_launched_s']:.3g}")
        else:
            cells += ["-"] * 3
        cells.append(f"{run['memory_bytes'] / 1e9:.2g}")
        text.append(f"| {' | '.join(cells)} |")
    (record.RESULTS / "roofline.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
