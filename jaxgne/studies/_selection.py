"""Which equilibrium: the choices that prices leave open, and what each leads to."""

from pathlib import Path
from typing import Any

from ..clearing import clear
from ..each import for_one
from ..fingerprint import fingerprint
from ..market import Market
from ..result import NotCleared
from ..selection import CHOICES, measured, select
from ..status import status_name
from .runner import Row, Runs, Study, Watch, percent

PLAIN = "as cleared"


@for_one()
def selection(
    market: Market,
    *,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The equilibrium as cleared, and of all at its prices those with the least of each objective.

    `congestion_kva2` is half the sum of squared flows, `traded_kwh` what is traded, `spread_eur`
    the standard deviation of the prosumers' costs, `norm_kw` that of trades and storage powers; the
    potential and the certificate's error show that no choice leaves the set of equilibria.
    """

    def chosen(name: Any) -> Row:
        try:
            found = clear(market, tol=tol) if name == PLAIN else select(market, name, tol=tol)
        except NotCleared as missed:
            return {"choice": name, "status": status_name(missed.clearing.status)}
        values = measured(market, found)
        units = {"congestion": "_kva2", "traded": "_kwh", "spread": "_eur", "norm": "_kw"}
        units["potential"] = "_eur"
        named = {f"{key}{units.get(key, '')}": value for key, value in values.items()}
        return {"choice": name, "status": "cleared", **named}

    names = (PLAIN, *CHOICES)
    runs = Runs(len(names), folder, progress, client)
    rows = runs(chosen, ((fingerprint(market, tol, name), name) for name in names))
    shown = ("choice", "congestion_kva2", "traded_kwh", "spread_eur", "norm_kw", "potential_eur")
    missed = sum(row["status"] != "cleared" for row in rows)
    return Study("selection", {"selection": rows}, (*shown, "error"), _finding(rows), missed)


def _finding(rows: list[Row]) -> str:
    known = {row["choice"]: row for row in rows if row["status"] == "cleared"}
    if len(known) < len(rows):
        missing = [row["choice"] for row in rows if row["choice"] not in known]
        return f"{', '.join(missing)} did not clear."
    plain = known[PLAIN]
    parts = []
    for name, key in zip(CHOICES, ("congestion_kva2", "traded_kwh", "spread_eur", "norm_kw"),
                         strict=True):  # fmt: skip
        less = plain[key] - known[name][key]
        parts.append(f"{name} by {percent(max(less, 0.0), plain[key])}")
    apart = max(abs(row["potential_eur"] - plain["potential_eur"]) for row in rows)
    share = apart / max(abs(plain["potential_eur"]), 1e-12)
    return (
        f"Of all equilibria at the same prices the best lowers {', '.join(parts)} below that of "
        f"the market as cleared; potentials differ by {share:.0e} at most."
    )
