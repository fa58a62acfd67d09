"""The report of a batch: quantiles over scenarios by hour, of what they mean, and by household."""

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch_report import QUANTILES, batch_summary
from ..comparison import outcome
from ..market import Market
from ..model import aggregate, energy_prices, has_state, voltages
from ..names import prosumer_name
from ..result import Clearing
from ..scenarios import lane
from . import charts
from .baseline import Compared
from .page import Page, table
from .shrunk import short

_UNITS = {
    "_eur_per_kwh": "EUR/kWh",
    "_eur": "EUR",
    "_kwh": "kWh",
    "_kw": "kW",
}


def fill(
    page: Page,
    markets: Market,
    clearings: Clearing,
    other: Compared,
    about: Any = None,
) -> dict[str, Any]:
    """The page of a batch, and the data of its charts; of the days of a simulation, `about` it."""
    ended, spread = spreads(markets, clearings)
    count, cleared = len(np.asarray(clearings.steps)), ended.get("cleared", 0)
    words = f"{cleared} of {count} scenarios cleared"
    others = [f"{n} {word}" for word, n in ended.items() if n and word != "cleared"]
    lines = [f"Others: {', '.join(others)}; they are left out below."] if others else []
    errors = np.asarray(clearings.certificate.error, float)[np.asarray(clearings.ok)]
    lines.append(f"Relative KKT error of those that cleared: at most {errors.max():.1e}.")
    one, which = "scenarios", "the scenarios that cleared"
    if about is not None:  # whose days have no equilibrium of their own
        one = which = f"{count} days"
        words, *lines = str(about).splitlines()
    page.heading(words, cleared == count if about is None else about.ok, lines)
    rows = fans(markets, clearings)
    steps = markets.prosumers.load.shape[2]
    own = [charts.fan(row["key"], row["words"], row["unit"], "hour", steps, which) for row in rows]
    page.section("fans", f"By hour, over {one}", page.charts(own))
    page.section("spreads", "Quantiles", table("spreads", "quantiles"))
    note = f'<p class="note">{escape(other.missing)}</p>' if other.missing else ""
    note += f'<p class="note">EUR of all hours, over {which}.</p>'
    page.section("bills", "Costs by household", note + table("bills", "costs"))
    hours = np.asarray(markets.hour_length, float)[0]
    begun = np.concatenate([[0.0], np.cumsum(hours)[:-1]])
    return {
        "labels": [f"{hour:.6g}" for hour in begun],
        "hour": -1,
        "people": [],
        "rows": {"fans": rows},
        "tables": {
            "spreads": spread,
            "bills": households(markets, clearings, other),
        },
    }


def fans(markets: Market, clearings: Clearing) -> list[dict[str, Any]]:
    """Rows with quantiles by hour over the scenarios that cleared, and what they are of."""
    ok = np.asarray(clearings.ok)
    plan = clearings.plan
    sigma = np.asarray(aggregate(markets, plan))
    found: list[tuple[str, str, str, NDArray]] = [
        ("transformer", "transformer import", "kW", sigma - np.asarray(plan.exports).sum(axis=1)),
        ("price", "mean price of prosumers", "EUR/kWh",
         np.asarray(energy_prices(markets, clearings.prices)).mean(axis=1)),
        ("traded", "traded among prosumers", "kW", np.abs(np.asarray(plan.trades)).sum(axis=1)),
    ]  # fmt: skip
    if has_state(markets):
        volts = np.asarray(voltages(markets, plan))
        found.append(("lowest", "lowest voltage, grid model", "pu", volts.min(axis=1)))
        found.append(("highest", "highest voltage, grid model", "pu", volts.max(axis=1)))
        rating = np.asarray(markets.grid.rating)[:, :, None]
        rated = np.isfinite(rating) & (rating > 0)
        carried = np.hypot(np.asarray(plan.active), np.asarray(plan.reactive))
        if rated.any():
            full = np.where(rated, 100 * carried / np.where(rated, rating, 1.0), 0.0)
            found.append(("full", "fullest line, grid model", "% of rating", full.max(axis=1)))
    rows = []
    for key, words, unit, values in found:
        if np.ptp(values[ok]) <= 1e-9 * np.abs(values[ok]).max():
            continue  # as the highest voltage is where that is the feeder's
        spread = short(np.quantile(values[ok], QUANTILES, axis=0), 6)
        names = (f"q{round(100 * q):02d}" for q in QUANTILES)
        rows.append(
            {"key": key, "words": words, "unit": unit, **dict(zip(names, spread, strict=True))}
        )
    return rows


def spreads(markets: Market, clearings: Clearing) -> tuple[dict[str, int], dict[str, Any]]:
    """How many scenarios ended how, and a table of quantiles of what they mean."""
    facts = batch_summary(markets, clearings)
    heads: list[dict[str, Any]] = [{"name": "quantity"}, {"name": "unit"}]
    heads += [{"name": f"{100 * q:g} %", "digits": 5, "significant": True} for q in QUANTILES]
    rows = []
    for name, spread in facts["quantiles"].items():
        ending = next((end for end in _UNITS if name.endswith(end)), "")
        words = name.removesuffix(ending).replace("_", " ")
        values = [None if q is None else float(f"{q:.6g}") for q in spread.values()]
        rows.append([words, _UNITS.get(ending, "steps" if name == "steps" else ""), *values])
    return facts["status"], {"heads": heads, "rows": rows}


def households(markets: Market, clearings: Clearing, other: Compared) -> dict[str, Any]:
    """A table of all prosumers: quantiles of costs over the scenarios that cleared, and savings."""
    ok = np.asarray(clearings.ok)
    if other.pair is not None:
        ok = ok & np.asarray(other.pair[1].ok)
    cost = _costs(markets, clearings, ok)
    low, middle, high = np.quantile(cost, (0.05, 0.5, 0.95), axis=0)
    columns = {"cost, 5 %": low, "cost, median": middle, "cost, 95 %": high}
    if other.pair is not None:
        saved = _costs(*other.pair, ok) - cost
        columns |= {
            f"{other.saved}, 5 %": np.quantile(saved, 0.05, axis=0),
            f"{other.saved}, mean": saved.mean(axis=0),
        }
    names = lane(markets, 0).prosumers.names
    words = [prosumer_name(names, k) for k in range(cost.shape[1])]
    shown = [short(np.round(values, 2), 12) for values in columns.values()]
    heads = [{"name": "prosumer"}]
    heads += [{"name": name, "unit": "EUR", "digits": 2} for name in columns]
    return {"heads": heads, "rows": [list(row) for row in zip(words, *shown, strict=True)]}


def _costs(markets: Market, clearings: Clearing, ok: NDArray) -> NDArray[np.float64]:
    """What each prosumer pays and what its devices cost, by scenario, EUR."""
    kept = lane((markets, clearings), ok)
    return np.asarray(outcome(*kept).cost, float)
