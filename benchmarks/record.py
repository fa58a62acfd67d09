"""What every benchmark writes: one JSON line per run, with all that is needed to read it later."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def revision() -> str:
    """The commit that is measured, with a + when the tree has changes."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def machine() -> dict[str, Any]:
    """Device, host and versions."""
    device = jax.devices()[0]
    return {
        "revision": revision(),
        "device": device.device_kind,
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jaxgne", "jax", "jaxlib", "equinox", "numpy")},
    }


def timed(run: Callable[[], Any], repeats: int = 3) -> tuple[Any, float, list[float]]:
    """The last result of `run`, seconds of the first call (compilation included), of later ones."""
    seconds, result = [], None
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        result = jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begun)
    return result, seconds[0], seconds[1:]


def write(name: str, **facts: Any) -> None:
    """Append one JSON line to results/`name`.jsonl, and print it."""
    RESULTS.mkdir(exist_ok=True)
    line = json.dumps({**machine(), **facts})
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)
