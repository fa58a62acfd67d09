"""How the share of pairs that may trade changes the work of clearing, and what is traded."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..cases import ieee37
from .published import published
from .rounds import DEFAULT, SOLVERS, Build, measured, medians, spread_of
from .runner import Study, Watch

SHARES = tuple(k / 10 for k in range(1, 11))
FIFTY = partial(ieee37, 50)  # prosumers, as in the paper


def connectivity(
    build: Build = FIFTY,
    values: Sequence[float] = SHARES,
    *,
    seeds: int = 3,
    tol: float = 1e-3,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """Rounds, seconds and traded energy where the share `values` of all pairs may trade.

    `build(connectivity=..., seed=...)` makes the markets, by default 50 prosumers on the IEEE 37
    feeder, and `seeds` of them for each share. Mechanism, variants and default solver run to the
    relative KKT error `tol`. Nothing here is given by theory.
    """
    plans = {float(value): ({"connectivity": float(value)}, tuple(SOLVERS)) for value in values}
    rows = measured(
        build, "connectivity", plans, seeds=seeds, tol=tol, folder=folder, progress=progress,
        client=client,
    )  # fmt: skip
    table = spread_of(rows, "connectivity")
    shown = (
        "connectivity", "solver", "cleared", "rounds_median", "rounds_min", "rounds_max",
        "seconds_median", "traded_kwh_median",
    )  # fmt: skip
    theirs = [row for row in published() if row["feeder"] == "IEEE 37" and row["prosumers"] == 50]
    tables = {"connectivity": table, "runs": rows, "published": theirs}
    missed = sum(row["status"] != "cleared" for row in rows)
    return Study("connectivity", tables, shown, _finding(table, tol), missed)


def _finding(table: list[dict], tol: float) -> str:
    parts = []
    for solver in SOLVERS:
        x, rounds = medians(table, "connectivity", solver, "rounds")
        if len(x):
            parts.append(f"{rounds[0]:.0f} to {rounds[-1]:.0f} ({solver})")
    x, traded = medians(table, "connectivity", DEFAULT, "traded_kwh")
    if not len(x):
        return f"The default solver cleared no market to {tol:g}."
    return (
        f"From a connectivity of {x[0]:g} to {x[-1]:g} the median of the rounds to a relative KKT "
        f"error of {tol:g} goes from {', '.join(parts)}, and what is traded from {traded[0]:.0f} "
        f"to {traded[-1]:.0f} kWh."
    )
