"""What it is worth to look ahead, and to forecast well: a receding horizon beside foresight."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..clearing import clear
from ..clock import even
from ..comparison import outcome
from ..each import for_one
from ..fingerprint import fingerprint
from ..forecasts import Forecast, noisy, perfect, persistence
from ..hindsight import judged
from ..market import Market
from ..result import Clearing
from ..runner import to_device
from ..scenarios import chain, perturb
from ..simulation import simulate
from .runner import Row, Runs, Study, Watch

AHEAD = (3.0, 6.0, 12.0, 24.0)  # h
NOISE = (0.1, 0.2, 0.4)  # deviation of loads a day ahead; that of the sun is twice as large
FORESIGHT, PERFECT, YESTERDAY, NOISY = "foresight", "perfect", "persistence", "noisy"
_DONE = 3.0  # h of each window
_LOAD, _SUN = 0.1, 0.3  # by which days differ


@for_one()
def horizon(
    market: Market,
    values: Sequence[float] = AHEAD,
    *,
    seeds: int = 3,
    days: int = 3,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """Days like that of the market, planned `values` hours ahead, and with forecasts that err.

    `days` days follow one another, whose loads differ by 10 % and whose sun by 30 %. Windows of
    each length are planned knowing what comes, three hours of each are done (`simulate`); the
    longest also with the day before as a forecast, and with noise of three sizes, `seeds` times
    each. All is beside one clear of all days: `more_eur` is what all together pay more than then,
    devices included. With water values beyond the window, and the content that the market asks for
    at the end.

    Raises `ValueError` for hours that are less than what is done, and steps of unequal length.
    """
    length = even("horizon", market)
    ahead = sorted({float(value) for value in values})
    done = max(1, round(_DONE / length))
    if not ahead or not done * length <= ahead[0] < np.inf:
        raise ValueError(
            f"horizon: values={list(values)}; give hours, at least the {done * length:g} that are "
            "done of a window."
        )
    sun = _SUN * bool(np.any(np.asarray(market.prosumers.curtail_max) > 0))
    truth = chain(perturb(market, jax.random.key(0), days, load=_LOAD, renewable=sun))
    asked: list[tuple[Row, Forecast]] = [
        ({"ahead_h": hours, "forecast": PERFECT, "noise": 0.0, "seed": 0}, perfect())
        for hours in ahead
    ]
    last: Row = {"ahead_h": ahead[-1], "seed": 0}
    asked.append((last | {"forecast": YESTERDAY, "noise": None}, persistence()))
    asked += [
        (last | {"forecast": NOISY, "noise": size, "seed": seed}, noisy(size, 2 * size, seed=seed))
        for size in NOISE
        for seed in range(seeds)
    ]
    marks = [fingerprint("foresight", truth, tol)]
    plans: list[dict[str, Any] | None] = [None]
    for row, forecast in asked:
        steps = max(done, round(row["ahead_h"] / length))
        options: dict[str, Any] = {"window": steps, "step": done, "tol": tol}
        marks.append(fingerprint("horizon", truth, options, row))
        plans.append({"forecast": forecast, **options})
    runs = Runs(len(plans), folder, progress, client)
    found = runs(partial(_run, truth, tol), zip(marks, plans, strict=True))
    heads = [{"ahead_h": None, "forecast": FORESIGHT, "noise": 0.0, "seed": 0}]
    heads += [row for row, _ in asked]
    rows = [head | row for head, row in zip(heads, found, strict=True)]
    for row in rows:
        known = row["social_cost_eur"], rows[0]["social_cost_eur"]
        row["more_eur"] = None if None in known else known[0] - known[1]
    tables = {"horizon": rows, "spread": _spread(rows)}
    shown = (
        "ahead_h", "forecast", "noise", "seed", "status", "more_eur", "prosumers_cost_eur",
        "imbalance_kwh", "imbalance_cost_eur",
    )  # fmt: skip
    missed = sum(row["status"] != "cleared" for row in rows)
    return Study("horizon", tables, shown, _finding(tables), missed)


def _foresight(truth: Market, tol: float) -> Row:
    """One clear of all days."""
    whole = to_device(truth)
    return {"status": "cleared", **_costs(whole, clear(whole, tol=tol)), **_NOTHING}


_NOTHING: Row = {"imbalance_kwh": 0.0, "imbalance_cost_eur": 0.0, "unserved_kwh": 0.0, "why": ""}


def _run(truth: Market, tol: float, options: dict[str, Any] | None) -> Row:
    """One simulation, or foresight without options; what did not come to its end has no costs."""
    if options is None:
        return _foresight(truth, tol)
    found = simulate(truth, elastic=True, **options)
    facts = found.facts()
    row: Row = {
        "status": "cleared" if found.ok else "ended",
        "social_cost_eur": None,
        "prosumers_cost_eur": None,
    }
    if found.ok:
        row |= _costs(to_device(found.market), judged(found))
    return row | {
        "imbalance_kwh": facts["imbalance_bought_kwh"] + facts["imbalance_sold_kwh"],
        "imbalance_cost_eur": facts["imbalance_cost_eur"],
        "unserved_kwh": facts["unserved_kwh"],
        "why": found.why,
    }


def _costs(market: Market, clearing: Clearing) -> Row:
    told = outcome(market, clearing)
    return {
        "social_cost_eur": float(told.social),
        "prosumers_cost_eur": float(np.sum(np.asarray(told.cost))),
    }


def _spread(rows: list[Row]) -> list[Row]:
    """Over seeds: mean, least and most of what is paid more."""
    kinds = dict.fromkeys((row["ahead_h"], row["forecast"], row["noise"]) for row in rows)
    found = []
    for kind in kinds:
        own = [
            row["more_eur"]
            for row in rows
            if (row["ahead_h"], row["forecast"], row["noise"]) == kind
            and row["more_eur"] is not None
        ]
        told: Row = dict(zip(("ahead_h", "forecast", "noise"), kind, strict=True))
        told |= {"runs": len(own)}
        for word, of in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            told[f"more_eur_{word}"] = float(of(own)) if own else None
        found.append(told)
    return found


def _finding(tables: dict[str, list[Row]]) -> str:
    spread = [row for row in tables["spread"] if row["more_eur_mean"] is not None]
    known = {(row["forecast"], row["ahead_h"], row["noise"]): row for row in spread}
    whole = next((row for row in tables["horizon"] if row["forecast"] == FORESIGHT), None)
    seen = [row for row in spread if row["forecast"] == PERFECT]
    if not seen or whole is None:
        return "No simulation came to its end."
    near, far = seen[0], seen[-1]
    text = (
        f"Knowing what comes, windows of {near['ahead_h']:g} h cost all together "
        f"{_eur(near['more_eur_mean'])} more than foresight of all days "
        f"({whole['social_cost_eur']:.2f} EUR), those of {far['ahead_h']:g} h "
        f"{_eur(far['more_eur_mean'])}"
    )
    blind = known.get((YESTERDAY, far["ahead_h"], None))
    if blind:
        text += f"; with the day before as a forecast {_eur(blind['more_eur_mean'])}"
    noise = [row for row in spread if row["forecast"] == NOISY]
    if noise:
        last = noise[-1]
        text += (
            f", with {100 * last['noise']:.0f} % noise of loads {_eur(last['more_eur_mean'])} "
            f"({last['more_eur_min']:.2f} to {last['more_eur_max']:.2f})"
        )
    return text + "."


def _eur(amount: float) -> str:
    """An amount for a sentence; of what a tolerance makes 0."""
    return f"{round(amount, 2) + 0.0:.2f} EUR"
