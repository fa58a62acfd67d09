"""A batch of clearings for people: how its scenarios ended, and how costs and prices spread."""

from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .clearing import Clearing

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORDS = ("cleared", "max_steps", "infeasible", "nonfinite")  # by the status' number


def batch_summary(clearing: Clearing) -> dict[str, Any]:
    """What a batch says, as plain Python numbers: counts by status, quantiles over what cleared.

    Keys carry their units; a quantity has None for its quantiles where no scenario cleared.
    """
    if np.ndim(clearing.steps) != 1:
        raise ValueError(
            "batch_summary() takes the clearings of a batch; of one market use "
            "jaxgne.report.summary(market, clearing)."
        )
    status = np.asarray(clearing.status._value)  # type: ignore[attr-defined]
    ok = np.asarray(clearing.ok)
    sigma = np.asarray(clearing.aggregate, float)
    price = np.asarray(clearing.prices.balance, float)
    quantities = {
        "cost_total_eur": np.asarray(clearing.costs, float).sum(axis=1),
        "peak_import_kw": sigma.max(axis=1),
        "own_energy_value_mean_eur_per_kwh": price.mean(axis=(1, 2)),
        "own_energy_value_max_eur_per_kwh": price.max(axis=(1, 2)),
        "traded_kw_hours": np.abs(np.asarray(clearing.plan.trades, float)).sum(axis=(1, 2)),
        "steps": np.asarray(clearing.steps, float),
    }
    return {
        "scenarios": int(status.size),
        "status": {word: int((status == k).sum()) for k, word in enumerate(_WORDS)},
        "quantiles": {
            name: {
                f"{q:g}": float(np.quantile(values[ok], q)) if ok.any() else None for q in QUANTILES
            }
            for name, values in quantities.items()
        },
    }


def batch_table(clearing: Clearing) -> Group:
    """The same for the eye."""
    facts = batch_summary(clearing)
    ended = ", ".join(f"{count} {word}" for word, count in facts["status"].items() if count)
    fine = facts["status"]["cleared"] == facts["scenarios"]
    heading = Text(
        f"{facts['scenarios']} scenarios: {ended}", style="bold green" if fine else "bold red"
    )
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("of the cleared ones")
    for q in QUANTILES:
        grid.add_column(f"{100 * q:g} %", justify="right")
    for name, spread in facts["quantiles"].items():
        cells = ("-" if value is None else f"{value:,.4g}" for value in spread.values())
        grid.add_row(name.replace("_", " "), *cells)
    return Group(heading, grid)
