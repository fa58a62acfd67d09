"""A retailer who leads: its price by hour, and whether what gradients find is the best there is."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..clearing import clear
from ..clock import hours_of
from ..each import for_one
from ..fingerprint import fingerprint
from ..leader import Leading, MarginFloor, lead
from ..market import Market
from ..mechanisms import base_knob
from ..model import mean_price
from ..objectives import main_grid_revenue, retail_margin, social_cost
from ..result import Clearing, NotCleared
from .flexible import flexible
from .runner import Row, Runs, Study, Watch, percent

ELASTICITIES = (0.2, 0.6)
_NEAR = 1e-7  # of the floor: what the uniform markup may miss of it


@for_one()
def stackelberg(
    market: Market,
    values: Sequence[float] = ELASTICITIES,
    *,
    share: float = 0.3,
    recover: float = 0.1,
    starts: int = 4,
    seed: int = 0,
    tol: float = 1e-8,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The main grid's base price by hour, set by a retailer who knows how prosumers answer.

    Its energy costs the retailer what the main grid asks today, by hour; above that it must earn
    the part `recover` of what it receives today. A `share` of what each prosumer draws on average
    follows the price, with each of `values` as its elasticity. The same markup in all hours that
    just earns that much is held against markups by hour for which all together pay least: from that
    uniform markup and from `starts - 1` places that `seed` draws, by `leader.lead`.

    Given by theory: the best of the starts costs no more than the uniform markup, and earns what it
    must. Raises `ValueError` for an elasticity that is not above 0, a `share` or `recover` that is
    not in (0, 1], and where no uniform markup earns as much.
    """
    if not values or not all(0 < value < np.inf for value in values):
        raise ValueError(f"stackelberg: values={list(values)}; give elasticities above 0.")
    if not 0 < recover <= 1:
        raise ValueError(f"stackelberg: recover={recover}; give a part above 0 and at most 1.")
    bent, how = sorted(map(float, values)), (share, recover, starts, seed, tol)
    asked = ((fingerprint("stackelberg", market, value, *how), value) for value in bent)
    found = Runs(len(bent), folder, progress, client)(partial(_run, market, *how), asked)
    rows: list[Row] = [{"elasticity": value} | row for value, row in zip(bent, found, strict=True)]
    hours = [
        {"elasticity": row["elasticity"], "hour": hour, **dict(zip(each, numbers, strict=True))}
        for row in rows
        for each in [row.pop("hours")]
        if each is not None
        for hour, numbers in zip(hours_of(market), zip(*each.values(), strict=True), strict=True)
    ]
    shown = (
        "elasticity", "uniform_markup_eur_per_kwh", "uniform_cost_eur", "best_cost_eur",
        "median_cost_eur", "worst_cost_eur", "starts_at_best", "equilibria",
    )  # fmt: skip
    missed = sum(row["status"] != "cleared" for row in rows)
    tables = {"stackelberg": rows, "prices": hours}
    return Study("stackelberg", tables, shown, _finding(rows), missed)


class Problem(NamedTuple):
    """What the retailer decides: the market at the uniform markup, and what it must keep to."""

    market: Market
    clearing: Clearing
    markup: float  # EUR/kWh, the same in all hours
    wholesale: Float[np.ndarray, " H"]  # EUR/kWh
    floor: float  # EUR of margin
    bounds: tuple[Array, Array]  # of the base price by hour


def set_up(market: Market, elasticity: float, share: float, recover: float, tol: float) -> Problem:
    """The retailer's problem where a `share` of loads follows the price with this `elasticity`."""
    today = clear(market, tol=tol)
    wholesale = np.asarray(mean_price(market, today.plan))
    floor = recover * float(main_grid_revenue(market, today))
    here = flexible(market, wholesale.mean(), share, elasticity)
    flat, first, markup = _uniform(here, wholesale, floor, tol)
    low, high = base_knob(here, tol=tol).bounds
    base = flat.tariff.base
    bounds = jnp.minimum(low, base), jnp.maximum(high, base)
    return Problem(flat, first, markup, wholesale, floor, bounds)


def _run(
    market: Market, share: float, recover: float, starts: int, seed: int, tol: float,
    elasticity: float,
) -> Row:  # fmt: skip
    """One elasticity: the uniform markup, and where the leader ends from each start."""
    try:
        at = set_up(market, elasticity, share, recover, tol)
        earn = [MarginFloor(at.wholesale, at.floor)]
        found = lead(
            at.market, social_cost, _base, at.bounds, constraints=earn, starts=starts, seed=seed,
            tol=tol,
        )  # fmt: skip
    except NotCleared as stop:
        return {"status": "not cleared", "why": str(stop), "hours": None}
    return {"status": "cleared"} | _told(found, at)


def _base(market: Market) -> Any:
    return market.tariff.base


def _uniform(
    market: Market, wholesale: np.ndarray, floor: float, tol: float
) -> tuple[Market, Clearing, float]:
    """The market with the lowest markup, the same in all hours, that earns `floor`, EUR."""
    from scipy.optimize import brentq

    base, last = np.asarray(market.tariff.base), None

    def at(markup: float) -> tuple[Market, Clearing]:
        nonlocal last
        here = eqx.tree_at(_base, market, jnp.asarray(base + markup, market.tariff.base.dtype))
        last = clear(here, tol=tol, start=last)
        return here, last

    def missing(markup: float) -> float:
        return floor - float(retail_margin(*at(markup), wholesale=wholesale))

    typical = float(np.abs(wholesale).mean())
    tried = [0.0, *(0.1 * typical * 2.0 ** np.arange(6))]
    least = next((k for k, markup in enumerate(tried) if missing(markup) <= 0), None)
    if least is None:
        raise ValueError(
            f"stackelberg: no markup up to {tried[-1]:.3g} EUR/kWh earns {floor:.4g} EUR, as "
            "prosumers rather do without; lower recover, or share, or the elasticity."
        )
    markup: Any = 0.0
    if least:
        markup = brentq(missing, tried[least - 1], tried[least], xtol=_NEAR * typical)
    return *at(float(markup)), float(markup)


def _told(found: Leading, at: Problem) -> Row:
    flat, first, wholesale = at.market, at.clearing, at.wholesale
    costs = found.value[found.met]
    best = found.clearing
    return {
        "uniform_markup_eur_per_kwh": at.markup,
        "uniform_cost_eur": float(social_cost(flat, first)),
        "best_cost_eur": float(found.value[found.best]),
        "median_cost_eur": float(np.median(costs)),
        "worst_cost_eur": float(costs.max()),
        "starts": len(found.value) + found.unstarted,
        "starts_at_best": found.alike,
        "equilibria": int(found.clears.sum()),
        "floor_eur": at.floor,
        "margin_eur": float(retail_margin(found.market, best, wholesale=wholesale)),
        "hours": {
            "wholesale_eur_per_kwh": wholesale.tolist(),
            "uniform_price_eur_per_kwh": _price(flat, first),
            "best_price_eur_per_kwh": _price(found.market, best),
            "uniform_import_kw": np.asarray(first.aggregate).tolist(),
            "best_import_kw": np.asarray(best.aggregate).tolist(),
        },
    }


def _price(market: Market, clearing: Clearing) -> list[float]:
    return np.asarray(mean_price(market, clearing.plan)).tolist()


def _finding(rows: list[Row]) -> str:
    known = [row for row in rows if row["status"] == "cleared"]
    if not known:
        return "No market cleared."
    gains = [row["uniform_cost_eur"] - row["best_cost_eur"] for row in known]
    most = int(np.argmax(gains))
    row = known[most]
    text = (
        f"Markups by hour save all together up to {gains[most]:.4g} EUR against the same markup in "
        f"all hours ({percent(gains[most], row['floor_eur'])} of what is to be earned), at an "
        f"elasticity of {row['elasticity']:g}; "
    )
    lost = [row["worst_cost_eur"] - row["best_cost_eur"] for row in known]
    alike, all_ = (sum(row[key] for row in known) for key in ("starts_at_best", "starts"))
    if alike == all_:
        return f"{text}all {all_} starts end there."
    return (
        f"{text}{alike} of {all_} starts end at the best, the worst {max(lost):.3g} EUR above it."
    )
