"""Rounds and seconds of the mechanism, its variants and the default solver, to one KKT error."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..clearing import clear
from ..fingerprint import fingerprint
from ..market import Market
from ..selection import traded
from ..solvers.base import AbstractSolver
from ..solvers.semidecentralized import SemiDecentralized
from ..status import status_name
from .runner import Row, Runs, Watch

Build = Callable[..., Market]  # options of a case to a market

DEFAULT = "default"
MECHANISM: dict[str, AbstractSolver | None] = {
    "basic": SemiDecentralized(),
    "inertia 0.3": SemiDecentralized(inertia=0.3),
    "relaxation 1.8": SemiDecentralized(relaxation=1.8),
}
SOLVERS = {**MECHANISM, DEFAULT: None}
MOST = 20_000  # rounds after which the mechanism gives up


def measured(
    build: Build,
    axis: str,
    plans: Mapping[Any, tuple[dict[str, Any], Sequence[str]]],
    *,
    seeds: int,
    tol: float,
    folder: str | Path | None,
    progress: Watch,
    client: Any = None,
) -> list[Row]:
    """One row a market and solver: its value of `axis`, its seed, and how its clearing went.

    `plans` gives for each value of `axis` the options of `build`, and the names of the solvers to
    run. What is known from `folder` is not run again. Seconds are those of whoever runs, a worker
    of the `client` where there is one.
    """
    heads: list[Row] = [
        {axis: value, "seed": seed, "solver": name}
        for value, (_, names) in plans.items()
        for seed in range(seeds)
        for name in names
    ]

    def asked() -> Iterator[tuple[str, tuple[Any, Market, AbstractSolver | None]]]:
        for value, (options, names) in plans.items():
            markets = [build(**options, seed=seed) for seed in range(seeds)]
            chosen = {name: spacious(SOLVERS[name], markets) for name in names}
            for market in markets:
                for name, solver in chosen.items():
                    mark = fingerprint(market, SOLVERS[name], name, tol, MOST)
                    yield mark, (value, market, solver)

    found = Runs(len(heads), folder, progress, client)(partial(_run, tol), asked())
    return [head | row for head, row in zip(heads, found, strict=True)]


_last: list[Any] = [None]  # the value of the axis whose programs this process has


def _run(tol: float, item: tuple[Any, Market, AbstractSolver | None]) -> Row:
    """One clearing, after programs of another value of the axis are dropped.

    Of the many shapes of a study none comes back, and together they exhaust a process's memory
    maps.
    """
    value, market, solver = item
    if value != _last[0]:
        eqx.clear_caches()
        jax.clear_caches()
        _last[0] = value
    return run(market, solver, tol)


def spacious(solver: AbstractSolver | None, markets: Sequence[Market]) -> AbstractSolver | None:
    """The mechanism with slots for the busiest prosumer of all `markets`, which compile once."""
    if not isinstance(solver, SemiDecentralized):
        return solver
    ready = [solver.prepare(market) for market in markets]
    slots = ("generators", "buffers", "pairs")
    return replace(solver, **{slot: max(getattr(one, slot) for one in ready) for slot in slots})


def run(market: Market, solver: AbstractSolver | None, tol: float) -> Row:
    """One clearing, timed once compiled; what ended at `MOST` rounds says so in `status`."""
    most = None if solver is None else MOST
    jax.block_until_ready(clear(market, solver, tol=tol, max_steps=1, throw=False))
    begun = time.perf_counter()
    found = jax.block_until_ready(clear(market, solver, tol=tol, max_steps=most, throw=False))
    seconds = time.perf_counter() - begun
    error = float(found.certificate.error)
    return {
        "pairs": market.trading.limit.shape[0],
        "status": status_name(found.status),
        "rounds": int(found.steps),
        "seconds": seconds,
        "kkt_error": error if np.isfinite(error) else None,
        "traded_kwh": float(traded(market, found.plan)),
        "device": jax.devices()[0].device_kind,
    }


def spread_of(rows: list[Row], axis: str) -> list[Row]:
    """Median, least and most over seeds, by `axis` and solver, of the runs that cleared."""
    groups: dict[tuple[Any, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row[axis], row["solver"]), []).append(row)
    table = []
    for (value, solver), group in groups.items():
        fine = [row for row in group if row["status"] == "cleared"]
        line: Row = {axis: value, "solver": solver, "runs": len(group), "cleared": len(fine)}
        for key in ("rounds", "seconds", "traded_kwh"):
            numbers = [row[key] for row in fine]
            for word, of in (("median", np.median), ("min", np.min), ("max", np.max)):
                line[f"{key}_{word}"] = float(of(numbers)) if numbers else None
        table.append(line)
    return table


def medians(table: list[Row], axis: str, solver: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Points of a curve: values of `axis`, and the medians of `key` there, where some cleared."""
    lines = [row for row in table if row["solver"] == solver and row["cleared"]]
    x, y = [row[axis] for row in lines], [row[f"{key}_median"] for row in lines]
    return np.array(x, float), np.array(y, float)


def exponent(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """k of the least squares fit y ~ x^k; None of fewer than two points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(set(x)) > 1 else None
