"""A batch of clearings for people: how its scenarios ended, and how costs and prices spread."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .arguments import of_tables
from .comparison import outcome
from .market import Market
from .programs import program
from .result import Clearing, stragglers
from .status import STATUSES, Status, is_status

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CHUNK = 64  # scenarios whose bills are written at once


@of_tables
def batch_summary(markets: Market, clearing: Clearing) -> dict[str, Any]:
    """What a batch says, as plain Python numbers: counts by status, quantiles over what cleared.

    Keys carry their units; `bill_total_eur` is what all prosumers pay, `cost_total_eur` that and
    what their devices cost. A quantity has None for its quantiles where no scenario cleared.
    """
    if np.ndim(clearing.steps) != 1:
        raise ValueError(
            "batch_summary() takes the clearings of a batch; of one market use "
            "jaxgne.indicators.summary(market, clearing)."
        )
    ended = {w: int(is_status(clearing.status, getattr(Status, w)).sum()) for w in STATUSES}
    ok = np.asarray(clearing.ok | is_status(clearing.status, Status.uncontrolled))
    sigma = np.asarray(clearing.aggregate, float)
    price = np.asarray(clearing.prices.balance, float)
    quantities = {
        **_means(markets, clearing),
        "contracted_peak_kw": sigma.max(axis=1),
        "own_energy_value_mean_eur_per_kwh": price.mean(axis=(1, 2)),
        "own_energy_value_max_eur_per_kwh": price.max(axis=(1, 2)),
        "steps": np.asarray(clearing.steps, float),
    }
    return {
        "scenarios": int(ok.size),
        "status": {
            word: count
            for word, count in ended.items()
            if count or word not in ("uncontrolled", "stopped")  # which few scenarios end as
        },
        "quantiles": {
            name: {
                f"{q:g}": float(np.quantile(values[ok], q)) if ok.any() else None for q in QUANTILES
            }
            for name, values in quantities.items()
        },
    }


@program("what scenarios mean", once=True)
@jax.vmap
def _totals(market: Market, clearing: Clearing) -> dict[str, Array]:
    found = outcome(market, clearing)
    return {
        "bill_total_eur": jnp.sum(found.bill),
        "cost_total_eur": jnp.sum(found.cost),
        "traded_kwh": found.traded,
        "transformer_in_kwh": found.transformer_in,
        "transformer_peak_in_kw": found.peak_in,
    }


def _means(markets: Market, clearing: Clearing) -> dict[str, np.ndarray]:
    """What each scenario means in cash and energy, a chunk of scenarios at a time."""

    count, parts = clearing.steps.shape[0], []
    for start in range(0, count, _CHUNK):
        at = slice(start, start + _CHUNK)
        parts.append(_totals(*jax.tree.map(lambda a, at=at: a[at], (markets, clearing))))
    return jax.tree.map(lambda *each: np.concatenate([np.asarray(a, float) for a in each]), *parts)


@of_tables
def batch_table(markets: Market, clearing: Clearing) -> Group:
    """The same for the eye."""
    facts = batch_summary(markets, clearing)
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
    late = stragglers(clearing)
    return Group(heading, *[Text(late)] * bool(late), grid)
