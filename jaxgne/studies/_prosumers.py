"""How the work of clearing grows with the number of prosumers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cases import ieee37
from .published import published
from .rounds import DEFAULT, MECHANISM, SOLVERS, Build, exponent, measured, medians, spread_of
from .runner import Row, Study, Watch

COUNTS = (40, 50, 60, 70, 80, 90, 200, 500, 1000, 2000, 5000, 10_000)
CONNECTIVITY, PARTNERS = 0.6, 54.0  # of all pairs, as in the paper; partners at most, of 90 on
MOST_PROSUMERS = 90  # of the mechanism, as in the paper: it would take days at 10,000


def prosumers(
    build: Build = ieee37,
    values: Sequence[int] = COUNTS,
    *,
    seeds: int = 3,
    tol: float = 1e-3,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """Rounds, seconds and traded energy by the number of prosumers, `values`.

    `build(prosumers=..., degree=..., seed=...)` makes the markets, `seeds` of each size; by default
    on the IEEE 37 feeder, whose loads the prosumers share. 60 % of all pairs may trade, and from 91
    prosumers on everyone has 54 partners. Mechanism and variants run up to 90 prosumers, as in the
    paper, the default solver on all, to the relative KKT error `tol`. Nothing here is given by
    theory. Raises `ValueError` for a number of prosumers that is not whole.
    """
    if any(not np.isfinite(value) or value != int(value) for value in values):
        raise ValueError(f"prosumers: values={list(values)}; give whole numbers of prosumers.")
    plans = {
        count: (
            {"prosumers": count, "degree": min(CONNECTIVITY * (count - 1), PARTNERS)},
            tuple(SOLVERS) if count <= MOST_PROSUMERS else (DEFAULT,),
        )
        for count in map(int, values)
    }
    rows = measured(
        build, "prosumers", plans, seeds=seeds, tol=tol, folder=folder, progress=progress,
        client=client,
    )  # fmt: skip
    table = spread_of(rows, "prosumers")
    shown = (
        "prosumers", "solver", "cleared", "rounds_median", "rounds_min", "rounds_max",
        "seconds_median", "traded_kwh_median",
    )  # fmt: skip
    tables = {"prosumers": table, "runs": rows, "published": published()}
    missed = sum(row["status"] != "cleared" for row in rows)
    return Study("prosumers", tables, shown, _finding(table, tol), missed)


def _finding(table: list[Row], tol: float) -> str:
    theirs = [row for row in published() if row["feeder"] == "IEEE 37"]
    parts = []
    for solver in MECHANISM:
        x, y = medians(table, "prosumers", solver, "rounds")
        own = [row for row in theirs if row["solver"] == solver]
        sizes, counts = ([row[key] for row in own] for key in ("prosumers", "rounds_mean"))
        if (grows := exponent(x, y)) is not None:
            parts.append(
                f"{solver} {y[0]:.0f} to {y[-1]:.0f} from {x[0]:.0f} to {x[-1]:.0f} prosumers, as "
                f"N^{grows:.2f} (the authors' as N^{exponent(sizes, counts):.2f})"
            )
    x, seconds = medians(table, "prosumers", DEFAULT, "seconds")
    if not len(x):
        return f"The default solver cleared no market to {tol:g}."
    grown = f"; rounds of the mechanism: {', '.join(parts)}" if parts else ""
    return (
        f"The default solver clears {x[-1]:.0f} prosumers to a relative KKT error of {tol:g} in "
        f"{seconds[-1]:.3g} s{grown}."
    )
