"""What every benchmark writes: one JSON line per run, with all that is needed to read it later."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


@cache
def revision() -> str:
    """The commit that is measured, with a + when the tree has changes other than results."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
    )
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def processor() -> str:
    """The processor's name where Linux tells it, else its kind."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def machine() -> dict[str, Any]:
    """Device, host and versions."""
    device = jax.devices()[0]
    return {
        "revision": revision(),
        "device": device.device_kind,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jaxgne", "jax", "jaxlib", "equinox", "numpy")},
    }


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `run` and the seconds until it is there."""
    begun = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - begun


def write(name: str, **facts: Any) -> None:
    """Append one JSON line to results/`name`.jsonl, and print it."""
    RESULTS.mkdir(exist_ok=True)
    line = json.dumps({**machine(), **facts})
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
