"""What the ratings of lines do: to flows, to prices at buses, and to what everyone pays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..acflow import ac_power_flow
from ..each import for_one
from ..market import Market, bus_name
from ..model import has_state, passive_prices
from ..result import Clearing
from .runner import Row, Study, Watch, clear_variants

FREE, RATED = "no ratings", "1 x ratings"
FACTORS = (1.0, 1.05, 1.1, 1.2)
_ROUNDING = 1e-3  # share of a rating beyond it that counts as respected


@for_one()
def line_limits(
    market: Market,
    values: Sequence[float] = FACTORS,
    *,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The market without line ratings, with them, and with `values` times them.

    Loadings are shares of the ratings given, by the grid model and by an AC power flow of the plan
    (None where that does not converge); all other limits hold throughout. Ratings are respected
    wherever they are set, and the potential never falls as they get tighter. Raises `ValueError`
    for a market without rated lines, or a factor that is not above 0.
    """
    grid = market.grid
    if not grid.model.networked or not np.any(np.isfinite(np.asarray(grid.rating))):
        raise ValueError("line-limits: no line of this market has a rating; set Grid.rating.")
    factors = sorted({1.0, *(float(value) for value in values)})
    if not factors[0] > 0:
        raise ValueError(f"line-limits: values={list(values)}; give factors above 0.")

    def rated(rating: Array) -> Market:
        return eqx.tree_at(lambda m: m.grid.rating, market, rating)

    markets = {f"{factor:g} x ratings": rated(factor * grid.rating) for factor in factors}
    markets |= {FREE: rated(jnp.full_like(grid.rating, jnp.inf))}
    found = clear_variants(
        markets, reference=FREE, tol=tol, folder=folder, progress=progress, client=client
    )
    rows, lines, buses = found.rows(rating_factor=[*factors, None]), [], []
    for row in rows:
        name = row["variant"]
        if name not in found.compared.rows:
            continue
        loading, true = _loadings(market, found.clearings[name])
        row["highest_loading_percent"] = 100 * float(loading.max())
        row["ac_highest_loading_percent"] = None if true is None else 100 * float(true.max())
        row["line_hours_above_rating"] = int((loading > 1 + _ROUNDING).sum())
        if name in (FREE, RATED):
            lines += _line_rows(market, name, loading, true)
            buses += _bus_rows(market, name, found.clearings[name])
    costs = [
        {
            "variant": name,
            "prosumer": k,
            "bus": bus_name(market.grid, int(market.prosumers.bus[k])),
            "cost_eur": float(cost),
        }
        for name, each in found.costs().items()
        for k, cost in enumerate(each)
    ]
    shown = (
        "variant", "highest_loading_percent", "ac_highest_loading_percent",
        "line_hours_above_rating", "social_cost_eur", "prosumers_cost_eur", "passive_cost_eur",
        "operator_receipts_eur", "worst_benefit_eur",
    )  # fmt: skip
    tables = {"line-limits": rows, "lines": lines, "buses": buses, "costs": costs}
    return Study("line-limits", tables, shown, _finding(rows), found.missed)


def _loadings(
    market: Market, clearing: Clearing
) -> tuple[Float[np.ndarray, "L H"], Float[np.ndarray, "L H"] | None]:
    """Apparent flows over ratings of the grid model, and currents of an AC power flow.

    Of active power alone where the model leaves reactive flows open. 0 where a line has no rating,
    or one of 0.
    """
    plan, rating = clearing.plan, np.asarray(market.grid.rating)[:, None]

    def share(flows: np.ndarray) -> np.ndarray:
        return np.divide(flows, rating, out=np.zeros_like(flows), where=rating > 0)

    reactive = np.asarray(plan.reactive) if has_state(market) else 0.0
    loading = share(np.hypot(np.asarray(plan.active), reactive))
    ac = clearing.certificate.ac
    if ac is None or not bool(ac.converged):
        return loading, None
    return loading, share(np.asarray(ac_power_flow(market, plan).current))


def _line_rows(
    market: Market, name: str, loading: np.ndarray, true: np.ndarray | None
) -> list[Row]:
    grid = market.grid
    return [
        {
            "variant": name,
            "line": k,
            "source": bus_name(market.grid, int(grid.source[k])),
            "target": bus_name(market.grid, int(grid.target[k])),
            "rating_kva": float(grid.rating[k]) if np.isfinite(grid.rating[k]) else None,
            "highest_loading_percent": 100 * float(loading[k].max()),
            "ac_highest_loading_percent": None if true is None else 100 * float(true[k].max()),
            "hour_of_highest": int(loading[k].argmax()),
        }
        for k in range(len(loading))
    ]


def _bus_rows(market: Market, name: str, clearing: Clearing) -> list[Row]:
    """What energy costs at every bus and hour: p0 + d_mg sigma + lambda + mu_tg + mu_pb."""
    prices = clearing.prices
    shared = passive_prices(market, clearing.plan) + prices.aggregate + prices.exchange
    price = np.asarray(jnp.asarray(shared) + prices.bus)
    return [
        {
            "variant": name,
            "bus": bus_name(market.grid, bus),
            "hour": hour,
            "price_eur_per_kwh": float(p),
        }
        for bus, each in enumerate(price)
        for hour, p in enumerate(each)
    ]


def _finding(rows: list[Row]) -> str:
    known = {row["variant"]: row for row in rows if row["status"] == "cleared"}
    if not {FREE, RATED} <= known.keys():
        return "The market did not clear both with and without ratings."
    free, held = known[FREE], known[RATED]

    def more(key: str) -> str:
        change = held[f"{key}_eur"] - free[f"{key}_eur"]
        return f"{abs(change):.2f} EUR {'more' if change >= 0 else 'less'}"

    return (
        f"Without ratings lines carry up to {free['highest_loading_percent']:.1f} % of them "
        f"({free['line_hours_above_rating']} line-hours above), with them "
        f"{held['highest_loading_percent']:.1f} %; then the prosumers pay "
        f"{more('prosumers_cost')}, passive consumers {more('passive_cost')}, the operator "
        f"receives {more('operator_receipts')}, and energy costs all together "
        f"{more('social_cost')}."
    )
