"""Does it pay to take part: every prosumer as a passive consumer against as a trader."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..cap_money import cap_money
from ..comparison import baselines
from ..each import for_one
from ..market import Buffers, Market
from ..model import (
    Plan,
    counted,
    device_costs,
    export_prices,
    grid_price,
    import_prices,
    zone_totals,
)
from ..result import Clearing
from ..settlement import network_money
from .runner import Study, Variants, Watch, clear_variants, percent

ACTIVE, PASSIVE = "all active", "all passive"


@for_one()
def participation(
    market: Market,
    *,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The market, the market of passive consumers alone, and with each prosumer alone passive.

    A passive consumer has its load and its panels, neither generator, storage nor trades, and pays
    the price at its bus; units that must run, cars and buildings stay. `cost_passive_eur` is what
    a prosumer pays where only it is passive, `cost_all_passive_eur` where all are,
    `cost_passive_at_market_prices_eur` what its passive plan costs at the market's own prices: for
    price takers never less than its cost as a trader, as it could have chosen that plan. The first
    two move prices for all, so they may be less.
    """
    count = market.prosumers.load.shape[0]
    still = baselines(market)["no storage"].buffers
    markets = {ACTIVE: market, PASSIVE: without(market, still, np.ones(count, bool))}
    for k in range(count):
        markets[f"{k} passive"] = without(market, still, np.arange(count) == k)
    found = clear_variants(
        markets, reference=PASSIVE, tol=tol, folder=folder, progress=progress, client=client
    )
    rows = [row for row in found.rows() if row["variant"] in (ACTIVE, PASSIVE)]
    each = _each(market, found)
    shown = (
        "prosumer", "cost_trader_eur", "cost_passive_eur", "cost_all_passive_eur",
        "cost_passive_at_market_prices_eur", "gain_eur",
    )  # fmt: skip
    tables = {"participation": each, "scenarios": rows}
    return Study("participation", tables, shown, _finding(each, rows), found.missed)


def without(market: Market, still: Buffers, who: Bool[np.ndarray, " N"]) -> Market:
    """The market in which prosumers `who` are passive; `still` is its storage when standing still.

    Units that must run do so at their least power.
    """
    pairs, units = market.trading, market.generators
    off = who[np.asarray(units.owner)][:, None]
    stands = who[np.asarray(market.buffers.owner)]

    def chosen(moving: Array, standing: Array) -> Array:
        return jnp.where(stands.reshape(-1, *[1] * (moving.ndim - 1)), standing, moving)

    closed = who[np.asarray(pairs.buyer)] | who[np.asarray(pairs.seller)]
    return eqx.tree_at(
        lambda m: (m.generators.power_max, m.buffers, m.trading.limit),
        market,
        (
            jnp.where(off, units.power_min, units.power_max),
            jax.tree.map(chosen, market.buffers, still),
            jnp.where(closed[:, None], 0.0, pairs.limit),
        ),
    )


def bills_at(market: Market, plan: Plan, clearing: Clearing) -> Float[Array, " N"]:
    """What each prosumer would pay for what it does in `plan`, without trades, EUR.

    At the prices of `clearing`, the main grid's held at its total import. Owners of caps are paid
    for what the plan counts, and pay for its rises.
    """
    prices, caps = clearing.prices, cap_money(market, plan, clearing.prices)
    scarce = prices.aggregate + prices.exchange
    asked = import_prices(market, grid_price(market, zone_totals(market, clearing.plan)))
    hourly = (asked + scarce) * plan.imports - (export_prices(market) + scarce) * plan.exports
    network = network_money(market, plan, prices)
    paid = caps.paid + caps.charges + network.active + network.reactive
    own = device_costs(market, plan) + jnp.sum(paid, axis=1)
    return own + jnp.sum(counted(market) * hourly, axis=1)


def _each(market: Market, found: Variants) -> list[dict]:
    """One line a prosumer; None where a market it needs did not clear."""
    costs, owner = found.costs(), np.asarray(market.generators.owner)
    trader, together = costs.get(ACTIVE), costs.get(PASSIVE)
    held = None
    if trader is not None and together is not None:
        plan = found.clearings[PASSIVE].plan
        held = np.asarray(bills_at(market, plan, found.clearings[ACTIVE]))
    rows = []
    for k in range(market.prosumers.load.shape[0]):
        alone = costs.get(f"{k} passive")
        row = {
            "prosumer": k,
            "generators": int((owner == k).sum()),
            "buffers": int((np.asarray(market.buffers.owner) == k).sum()),
            "cost_trader_eur": None if trader is None else float(trader[k]),
            "cost_passive_eur": None if alone is None else float(alone[k]),
            "cost_all_passive_eur": None if together is None else float(together[k]),
            "cost_passive_at_market_prices_eur": None if held is None else float(held[k]),
        }
        mine, other = row["cost_trader_eur"], row["cost_passive_eur"]
        row["gain_eur"] = None if mine is None or other is None else other - mine
        rows.append(row)
    return rows


def _finding(each: list[dict], rows: list[dict]) -> str:
    gains = np.array([row["gain_eur"] for row in each if row["gain_eur"] is not None])
    if not gains.size:
        return "No prosumer's two markets both cleared."
    text = (
        f"{int((gains >= -1e-6 * np.abs(gains).max()).sum())} of {len(gains)} prosumers pay no "
        f"more as traders than alone as passive consumers (gains of {gains.min():.2f} to "
        f"{gains.max():.2f} EUR)"
    )
    both = {row["variant"]: row for row in rows if row["status"] == "cleared"}
    if len(both) == 2:
        now, then = both[ACTIVE], both[PASSIVE]
        fewer = then["prosumers_cost_eur"] - now["prosumers_cost_eur"]
        text += (
            f"; against a market of passive consumers only, {100 * now['share_that_gains']:.0f} % "
            f"gain, prosumers save {fewer:.2f} EUR ({percent(fewer, then['prosumers_cost_eur'])}), "
            f"passive consumers {then['passive_cost_eur'] - now['passive_cost_eur']:.2f} EUR, and "
            f"the operator receives {now['operator_receipts_eur']:.2f} instead of "
            f"{then['operator_receipts_eur']:.2f} EUR"
        )
    return text + "."
