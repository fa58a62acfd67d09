"""What it costs to fix trades and imports a day ahead, by how wrong forecasts are, and to whom."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from ..commitments import COMMITTED
from ..each import for_one
from ..fingerprint import fingerprint
from ..foresight import ahead
from ..market import Market
from ..model import counted
from ..result import Clearing, NotCleared
from ..risk import averse, branch_costs, cvar, probabilities
from ..scenarios import committed, perturb
from ..tables import refuse_zones
from .runner import Row, Runs, Study, Watch

Swept = Literal["all", "spread", "branches", "weight"]
SWEEPS: Mapping[str, tuple[float, ...]] = {
    "spread": (0.05, 0.1, 0.2),
    "branches": (4, 8, 16),
    "weight": (0.0, 0.3, 0.6, 0.9),
}
USUAL = {"spread": 0.1, "branches": 8, "weight": 0.0}  # where another is swept
SUN = 2.0  # times as wrong as loads
LEVEL = 0.75
_SOLD, _BOUGHT = 2.0, 0.1  # of the highest and lowest price that a day ahead may have


@for_one()
def uncertainty(
    market: Market,
    values: Sequence[float] | None = None,
    *,
    of: Swept = "all",
    seed: int = 0,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """Trades and imports of a day fixed ahead, for branches in which loads and sun differ.

    Branches are equally likely, drawn by `seed` (`scenarios.perturb`): loads are wrong by `spread`
    (a standard deviation, 0.1), sun by twice that, in 8 `branches`; the cost of the worst quarter
    of branches counts `weight` more (0). One of the three is swept over `values`, or each over its
    usual ones where `of` is "all". What is missing in a branch costs twice the highest price of
    the main grid at all loads, what is left over brings a tenth of the lowest.

    Where neither is committed but trades, or imports alone, tells which of the two costs. Costs are
    potentials, what equilibria make small: so planning for all branches is never worth less than
    nothing, nor is knowing the branch. Raises `ValueError` for an `of` that is none of these, and
    for values out of range.
    """
    if of not in get_args(Swept):
        raise ValueError(f"uncertainty: of={of!r} is none of {', '.join(get_args(Swept))}.")
    if values is not None and of == "all":
        raise ValueError(f"uncertainty: say by of= what values={list(values)} are.")
    swept = SWEEPS if of == "all" else {of: tuple(values or SWEEPS[of])}
    plans: dict[str, dict[str, Any]] = {}
    for name, numbers in swept.items():
        _check(name, numbers)
        for number in sorted(numbers):
            plans[f"{name} {number:g}"] = USUAL | {name: number}
    if of == "all":
        plans |= {f"{table} only": USUAL | {"tables": (table,)} for table in COMMITTED}
    asked = ((fingerprint("uncertainty", market, plan, seed, tol), plan) for plan in plans.values())
    run = partial(_run, market, _balancing(market), seed, tol)
    found = Runs(len(plans), folder, progress, client)(run, asked)
    rows = [{"variant": name} | row for name, row in zip(plans, found, strict=True)]
    shown = (
        "variant", "spread", "branches", "risk_weight", "expected_cost_eur", "cvar_eur",
        "known_ahead_eur", "vss_eur", "evpi_eur", "balancing_kwh",
    )  # fmt: skip
    missed = sum(row["status"] != "cleared" for row in rows)
    return Study("uncertainty", {"uncertainty": rows}, shown, _finding(rows), missed)


def _check(name: str, numbers: Sequence[float]) -> None:
    fits = {
        "spread": lambda a: 0 <= a <= 1,
        "branches": lambda a: a == int(a) and 2 <= a <= 256,
        "weight": lambda a: 0 <= a < 1,
    }[name]
    wrong = [number for number in numbers if not fits(number)]
    if wrong:
        ranges = {"spread": "0 to 1", "branches": "2 to 256, whole", "weight": "0 to below 1"}
        raise ValueError(f"uncertainty: {name} {wrong[0]:g}; give numbers from {ranges[name]}.")


def _balancing(market: Market) -> dict[str, float]:
    """What the desk asks and pays: EUR/kWh."""
    refuse_zones("uncertainty", market)
    people, tariff = market.prosumers, market.tariff
    loads = np.maximum(np.asarray(people.load), 0).sum(0) + np.asarray(market.grid.passive).sum(0)
    price = np.asarray(tariff.base) + np.asarray(tariff.slope) * loads
    low = max(float(np.asarray(tariff.base).min()), 0.0)
    return {"up": _SOLD * float(price.max()), "down": _BOUGHT * low}


def _run(
    market: Market, prices: dict[str, float], seed: int, tol: float, plan: Mapping[str, Any]
) -> Row:
    """One market of two stages, cleared, beside what foresight is worth in it."""
    count, spread, weight = int(plan["branches"]), float(plan["spread"]), float(plan["weight"])
    sunny = bool(np.any(np.asarray(market.prosumers.curtail_max) > 0))
    days = perturb(market, jax.random.key(seed), count, load=spread, renewable=SUN * spread * sunny)
    tables = plan.get("tables", COMMITTED)
    staged = committed(days, np.full(count, 1 / count), **prices, tables=tables)
    row: Row = {"spread": spread, "branches": count, "risk_weight": weight}
    row |= {"committed": " and ".join(tables), "status": "cleared"}
    names = ("expected_cost_eur", "cvar_eur", "known_ahead_eur", "planned_for_mean_eur", "vss_eur",
             "evpi_eur", "balancing_kwh")  # fmt: skip
    row |= dict.fromkeys(names)
    try:
        if weight:
            wary = averse(staged, weight, LEVEL, tol=tol)
            return row | _told(staged, wary.clearing, np.asarray(wary.costs))
        worth = ahead(staged, tol=tol)
    except NotCleared:
        return row | {"status": "not cleared"}
    known = {"known_ahead_eur": worth.wait_and_see, "planned_for_mean_eur": worth.expected_value}
    known |= {"vss_eur": worth.value_of_stochastic_solution}
    known |= {"evpi_eur": worth.value_of_perfect_information}
    numbers = {name: float(value) for name, value in known.items()}
    told = _told(staged, worth.clearing, np.asarray(branch_costs(staged, worth.clearing.plan)))
    return row | told | {k: v if np.isfinite(v) else None for k, v in numbers.items()}


def _told(market: Market, clearing: Clearing, phi: np.ndarray) -> Row:
    """The mean and the worst quarter of branches' costs, and what the desk made and took."""
    share = probabilities(market)
    often = np.asarray(counted(market))
    desk = np.abs(np.asarray(clearing.plan.generation)[-2:]).sum(0)
    return {
        "expected_cost_eur": float(share @ phi),
        "cvar_eur": float(cvar(phi, share, LEVEL)),
        "balancing_kwh": float(often @ desk),
    }


def _finding(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row["status"] == "cleared"]
    neutral = [row for row in known if not row["risk_weight"]]
    both = [row for row in neutral if row["committed"] == "imports and trades"]
    if not both:
        return "None of the markets without a weight on risk cleared."
    most = max(both, key=lambda row: (row["spread"], row["branches"]))
    words = [
        f"Where loads are wrong by {100 * most['spread']:.0f} %, in {most['branches']} branches, "
        f"fixing trades and imports ahead costs {most['evpi_eur']:.2f} EUR of "
        f"{most['expected_cost_eur']:.0f}"
    ]
    if most["vss_eur"] is not None:
        words.append(f"planning for the mean alone {most['vss_eur']:.2f} EUR more")
    alone = [row for row in neutral if row["committed"] != "imports and trades"]
    words += [
        f"{row['committed']} alone cost {max(row['evpi_eur'], 0.0):.2f} EUR at "
        f"{100 * row['spread']:.0f} %"
        for row in alone
    ]
    wary = [row for row in known if row["risk_weight"]]
    if wary:
        last = max(wary, key=lambda row: row["risk_weight"])
        first = next((row for row in both if row["branches"] == last["branches"]
                      and row["spread"] == last["spread"]), None)  # fmt: skip
        if first is not None:
            words.append(
                f"with a weight of {last['risk_weight']:g} on the worst quarter of branches its "
                f"mean is {first['cvar_eur'] - last['cvar_eur']:.2f} EUR lower, and the expected "
                f"cost {last['expected_cost_eur'] - first['expected_cost_eur']:.2f} EUR higher"
            )
    return "; ".join(words) + "."
