"""How near an equilibrium is to that of a game without a potential, prosumer by prosumer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..clearing import clear
from ..each import for_one
from ..fingerprint import fingerprint
from ..market import Market
from ..model import costs, mean_price
from ..near_potential import bounds, distance, regrets, settled
from ..result import NotCleared
from .flexible import flexible
from .runner import Row, Runs, Study, Watch

SPREADS = (0.0, 0.1, 0.2, 0.4)


@for_one()
def near_potential(
    market: Market,
    values: Sequence[float] = SPREADS,
    *,
    share: float = 0.3,
    elasticity: float = 0.5,
    tol: float = 1e-8,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """Prosumers whose slopes of the main grid's price differ, by each of `values`, a spread.

    Slopes go from 1 - spread to 1 + spread times the market's, evenly from the first prosumer to
    the last; all know their own effect on what they pay. A `share` of what each draws on average
    follows the price with this `elasticity`, worth a power of what is used, or its logarithm at 1.
    The market clears with one slope and its own anticipation: what each could then still save is
    held against what it can save at most, and against the distance of the game from its potential
    (`jaxgne.near_potential`); beside it the equilibrium at own slopes.

    Given by theory: nobody saves more than its bound, no bound is above the distance, and where all
    slopes are one and all anticipate their effect nobody saves. Raises `ValueError` for spreads
    outside of 0 to 1, a slope of the market that is 0 in all hours, and for markets that
    `near_potential.regrets` does not take.
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"near_potential: values={list(values)}; give spreads from 0 to 1.")
    slope = np.asarray(market.tariff.slope)
    if not slope.max() > 0:
        raise ValueError("near_potential: Tariff.slope is 0 in all hours; give the market one.")
    today = clear(market, tol=tol)
    price = float(np.asarray(mean_price(market, today.plan)).mean())
    here = flexible(market, price, share, elasticity)
    ramp = np.linspace(-1.0, 1.0, max(here.prosumers.load.shape[0], 2))
    ramp = ramp[: here.prosumers.load.shape[0], None]
    spreads = sorted(map(float, values))
    asked = (
        (
            fingerprint("near-potential", market, value, share, elasticity, tol),
            (1 + value * ramp) * slope,
        )
        for value in spreads
    )
    found = Runs(len(spreads), folder, progress, client)(partial(_run, here, tol), asked)
    rows: list[Row] = [{"spread": value} | row for value, row in zip(spreads, found, strict=True)]
    each = [
        {"spread": row["spread"], "prosumer": prosumer, **dict(zip(mine, numbers, strict=True))}
        for row in rows
        for mine in [row.pop("prosumers")]
        if mine is not None
        for prosumer, numbers in enumerate(zip(*mine.values(), strict=True))
    ]
    shown = (
        "spread", "largest_regret_eur", "its_bound_eur", "all_regrets_eur", "all_bounds_eur",
        "distance_eur", "regret_at_own_equilibrium_eur", "moved_kw",
    )  # fmt: skip
    missed = sum(row["status"] != "cleared" for row in rows)
    tables = {"near-potential": rows, "regrets": each}
    return Study("near-potential", tables, shown, _finding(rows), missed)


def _run(market: Market, tol: float, slopes: np.ndarray) -> Row:
    """One spread: what each could save at the market's equilibrium, and at that of own slopes."""
    try:
        found = clear(market, tol=tol)
        end = settled(market, slopes, tol=tol)
    except NotCleared as stop:
        return {"status": "not cleared", "why": str(stop), "prosumers": None}
    saved, most = regrets(market, found, slopes, tol=tol), bounds(market, found.plan, slopes)
    after = regrets(market, end.clearing, slopes, tol=tol)
    worst = int(np.argmax(saved))
    return {
        "status": "cleared",
        "slopes_apart_eur_per_kwh_per_kw": float(np.ptp(slopes, axis=0).max()),
        "largest_regret_eur": float(saved[worst]),
        "its_bound_eur": float(most[worst]),
        "all_regrets_eur": float(saved.sum()),
        "all_bounds_eur": float(most.sum()),
        "distance_eur": distance(market, slopes),
        "cost_eur": float(np.sum(np.asarray(costs(market, found.plan)))),
        "regret_at_own_equilibrium_eur": float(after.max()),
        "markets_to_it": end.rounds,
        "stood_still": end.still,
        "moved_kw": float(np.abs(np.asarray(end.clearing.aggregate - found.aggregate)).max()),
        "prosumers": {
            "slope_eur_per_kwh_per_kw": slopes.mean(axis=1).tolist(),
            "regret_eur": saved.tolist(),
            "bound_eur": most.tolist(),
            "regret_at_own_equilibrium_eur": after.tolist(),
        },
    }


def _finding(rows: list[Row]) -> str:
    known = [row for row in rows if row["status"] == "cleared"]
    if not known:
        return "No market cleared."
    last = known[-1]
    return (
        f"Where slopes differ by up to {100 * last['spread']:.0f} % either way nobody saves more "
        f"than {last['largest_regret_eur']:.3g} EUR by moving alone, where the bound says "
        f"{last['its_bound_eur']:.3g} EUR and the distance from the potential "
        f"{last['distance_eur']:.3g} EUR; {last['markets_to_it']} markets lead to the equilibrium "
        f"at own slopes, where total import is up to {last['moved_kw']:.3g} kW another."
    )
