"""What a toll on trades does: to what is traded, to what all pay, to what it brings in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..each import for_one
from ..market import Market
from .runner import Study, Watch, clear_variants, percent

FORBIDDEN = "forbidden"
CHARGES = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)


@for_one()
def tariff(
    market: Market,
    values: Sequence[float] = CHARGES,
    *,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The market with `values` (EUR/kWh) as every pair's toll c_ta, and with trades forbidden.

    Traded energy never rises with the toll, and the potential never falls (its slope is twice
    the traded energy); forbidding trades makes it highest. What social costs and receipts do is
    for the study to say. At a toll of 0 trades around a circle are free, so that their volume is
    not unique.

    Raises `ValueError` for a market without pairs, or a toll below 0.
    """
    if not market.trading.limit.size:
        raise ValueError("tariff: nobody may trade in this market; give it Trading pairs.")
    tolls = sorted(float(value) for value in values)
    if not tolls or not tolls[0] >= 0:
        raise ValueError(f"tariff: values={list(values)}; give tolls of at least 0 EUR/kWh.")

    def charged(value: float) -> Market:
        toll = jnp.full_like(market.trading.toll, value)
        return eqx.tree_at(lambda m: m.trading.toll, market, toll)

    closed = eqx.tree_at(lambda m: m.trading.limit, market, jnp.zeros_like(market.trading.limit))
    markets = {f"{value:g}": charged(value) for value in tolls} | {FORBIDDEN: closed}
    found = clear_variants(
        markets, reference=FORBIDDEN, tol=tol, folder=folder, progress=progress, client=client
    )
    rows = found.rows(toll_eur_per_kwh=[*tolls, None])
    for row in rows:
        toll, volume = row["toll_eur_per_kwh"], row.get("traded_kwh")
        if volume is not None:
            row["tariff_receipts_eur"] = 2 * toll * volume if toll is not None else 0.0
    costs = [
        {"variant": name, "prosumer": k, "cost_eur": float(cost)}
        for name, each in found.costs().items()
        for k, cost in enumerate(each)
    ]
    shown = (
        "variant", "traded_kwh", "social_cost_eur", "prosumers_cost_eur", "tariff_receipts_eur",
        "operator_receipts_eur", "contracted_peak_kw", "worst_benefit_eur", "share_that_gains",
    )  # fmt: skip
    return Study("tariff", {"tariff": rows, "costs": costs}, shown, _finding(rows), found.missed)


def _finding(rows: list[dict]) -> str:
    open_ = [row for row in rows[:-1] if row["status"] == "cleared"]
    if not open_:
        return "No market with trades cleared."
    first, last = open_[0], open_[-1]
    best = open_[int(np.argmax([row["tariff_receipts_eur"] for row in open_]))]
    text = (
        f"Traded energy falls from {first['traded_kwh']:.1f} kWh at {first['variant']} EUR/kWh to "
        f"{last['traded_kwh']:.1f} kWh at {last['variant']}; the tariff brings in most, "
        f"{best['tariff_receipts_eur']:.2f} EUR, at {best['variant']}"
    )
    if rows[-1]["status"] == "cleared":
        cost, none = first["social_cost_eur"], rows[-1]["social_cost_eur"]
        own, alone = first["prosumers_cost_eur"], rows[-1]["prosumers_cost_eur"]
        text += (
            f"; without trades all together pay {none - cost:+.2f} EUR "
            f"({percent(none - cost, cost)}) and the prosumers {alone - own:+.2f} EUR "
            f"({percent(alone - own, own)}) compared with the lowest toll"
        )
    return text + "."
