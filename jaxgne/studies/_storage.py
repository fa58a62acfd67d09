"""What batteries do to the peak of the contracted import, and to whom they pay."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ..clock import hours_of
from ..comparison import baselines
from ..devices import battery, join
from ..each import for_one
from ..market import Market
from ..model import counted
from .runner import Row, Study, Variants, Watch, clear_variants

WEARS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08)
POWER, HOURS = 0.3, 2.5  # of the owner's highest load; of full power


@for_one()
def storage(
    market: Market,
    values: Sequence[float] = WEARS,
    *,
    seed: int = 0,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """The market with batteries for none, half and all of its prosumers, and for all as they wear.

    A battery has 0.3 of its owner's highest load as power and 2.5 hours of it as capacity, half
    full at the start and again at the end; `values` (EUR per kWh in or out) are what it costs to
    use, the first of them where half or none have one. The market's own batteries stand still;
    cars and buildings stay as they are. `seed` draws who is in the half.

    The potential never rises with batteries, nor falls with their cost, and what they charge and
    discharge never rises with it. Peak and benefits are for the study to say. Raises `ValueError`
    for a cost below 0.
    """
    wears = sorted(float(value) for value in values)
    if not wears or not wears[0] >= 0:
        raise ValueError(f"storage: values={list(values)}; give costs of at least 0 EUR/kWh.")
    count, hours = market.prosumers.load.shape
    peak = np.maximum(np.asarray(market.prosumers.load), 0.0).max(axis=1)
    rank = np.random.default_rng(seed).permutation(count)
    still = baselines(market)["no storage"].buffers

    def equipped(owners: int, wear: float) -> Market:
        power = POWER * np.where(rank < owners, peak, 0.0)
        new = battery(
            np.arange(count),
            power=power[:, None],
            capacity=HOURS * power,
            hours=hours,
            final=0.5,
            wear=wear,
        )
        return eqx.tree_at(lambda m: m.buffers, market, join(still, new))

    plans = {"none": (0, wears[0]), "half": (count // 2, wears[0]), "all": (count, wears[0])}
    plans |= {f"all, {wear:g} EUR/kWh": (count, wear) for wear in wears[1:]}
    markets = {name: equipped(*plan) for name, plan in plans.items()}
    found = clear_variants(
        markets, reference="none", tol=tol, folder=folder, progress=progress, client=client
    )
    owners, paid = zip(*plans.values(), strict=True)
    rows = found.rows(owners=owners, battery_cost_eur_per_kwh=paid)
    for row in rows:
        plan = found.clearings[row["variant"]].plan
        used = (plan.charge + plan.discharge)[still.owner.shape[0] :]
        row["throughput_kwh"] = float(jnp.sum(counted(market) * used))
    costs = [
        {"variant": name, "prosumer": k, "has_battery": bool(rank[k] < plans[name][0])}
        | {"cost_eur": float(cost)}
        for name, each in found.costs().items()
        for k, cost in enumerate(each)
    ]
    times = hours_of(market).tolist()
    hourly = [
        {"variant": name, "hour": hour, "contracted_import_kw": float(sigma)}
        for name in found.compared.rows
        for hour, sigma in zip(times, found.clearings[name].aggregate, strict=True)
    ]
    shown = (
        "variant", "contracted_peak_kw", "throughput_kwh", "social_cost_eur", "prosumers_cost_eur",
        "passive_cost_eur", "mean_benefit_eur", "worst_benefit_eur", "share_that_gains",
    )  # fmt: skip
    tables = {"storage": rows, "costs": costs, "hours": hourly}
    return Study("storage", tables, shown, _finding(found, rank), found.missed)


def _finding(found: Variants, rank: np.ndarray) -> str:
    known: dict[str, Row] = dict(found.compared.rows)
    costs = found.costs()
    if not {"none", "half", "all"} <= known.keys():
        return "Some of none, half and all did not clear."
    none, half, every = (known[name] for name in ("none", "half", "all"))
    gains = costs["none"] - costs["half"]
    owners = rank < len(rank) // 2
    return (
        f"The peak of the contracted import goes from {none['contracted_peak_kw']:.1f} kW without "
        f"batteries to {half['contracted_peak_kw']:.1f} kW where half of the prosumers have one "
        f"and {every['contracted_peak_kw']:.1f} kW where all have; with half, the {owners.sum()} "
        f"owners save {gains[owners].sum():.2f} EUR together, the other {(~owners).sum()} "
        f"{gains[~owners].sum():.2f} EUR and passive consumers "
        f"{none['passive_cost_eur'] - half['passive_cost_eur']:.2f} EUR; "
        f"{100 * every['share_that_gains']:.0f} % of the prosumers gain where all have one."
    )
