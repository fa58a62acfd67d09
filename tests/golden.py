"""Published instances with certified optima, kept outside the project.

The folder is named by the environment variable `JAXGNE_GOLDEN`: one `NAME.npz` (arrays) and one
`NAME.json` (scalars) each, in cents and with power flowing *into* a line's first bus. Everything
returned here is in EUR, kW and the package's signs.
"""

import json
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.market import GridModel

VARIABLE = "JAXGNE_GOLDEN"
EUR = 0.01  # per cent
Behavior = Literal["nash", "wardrop"]

needs_golden = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of golden instances"
)


@dataclass(frozen=True)
class Expected:
    """The certified optimum; only what is unique is worth comparing.

    Prices (and everything hourly but sigma and generation) are kept for `nash` only. Lines as in
    the market; `trades` and `costs` are of one of many equilibria.
    """

    potential: float  # EUR
    total_cost: float  # EUR
    sigma: np.ndarray  # (H,) kW
    generation: np.ndarray  # (G, H) kW
    costs: np.ndarray  # (N,) EUR
    volume: float  # kWh traded, each trade once
    imports: np.ndarray | None = None  # (N, H) kW
    charge: np.ndarray | None = None  # (K, H) kW
    discharge: np.ndarray | None = None  # (K, H) kW
    trades: np.ndarray | None = None  # (E, H) kW
    active: np.ndarray | None = None  # (L, H) kW
    balance: np.ndarray | None = None  # (N, H) pi, EUR/kWh
    bus: np.ndarray | None = None  # (B, H) mu_pb, EUR/kWh
    aggregate: np.ndarray | None = None  # (H,) lambda, EUR/kWh
    trade_prices: np.ndarray | None = None  # (E, H) mu_tr, EUR/kWh


@dataclass(frozen=True)
class Run:
    """One of the authors' saved runs, always Nash; `record` is its entry in the JSON file.

    `reverse` holds the sellers' own copies of the trades. `residuals` are the first 200 rounds of
    reciprocity, bus balance, primal step and exchange (kW).
    """

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def costs(self) -> np.ndarray:
        """(N,) EUR, without payments for trades."""
        return EUR * self.arrays["J"]

    @property
    def trade_prices(self) -> np.ndarray:
        """(E, H) mu_tr - mu_tg, EUR/kWh: free of the constant."""
        return EUR * (self.arrays["mu_tr"].astype(float) - self.arrays["mu_tg"])

    @property
    def bus_prices(self) -> np.ndarray:
        """(B, H) mu_pb + mu_tg, EUR/kWh: free of the constant."""
        return EUR * (self.arrays["mu_pb"].astype(float) + self.arrays["mu_tg"])


def folder() -> Path:
    """Where the instances lie."""
    return Path(os.environ[VARIABLE])


def names() -> list[str]:
    """Every instance; none where the variable is unset."""
    if VARIABLE not in os.environ:
        return []
    return sorted(path.stem for path in folder().glob("*.npz"))


@cache
def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The raw arrays and scalars of one instance."""
    with np.load(folder() / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads((folder() / f"{name}.json").read_text())


def orientation(lines: np.ndarray, feeder: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the lines, parents first, and whether each points away from the feeder already.

    A line as published points from its second bus to its first.
    """
    order, away, reached = [], [], {feeder}
    waiting = list(range(len(lines)))
    while waiting:
        ready = [k for k in waiting if lines[k, 1] in reached or lines[k, 0] in reached]
        if not ready:
            raise ValueError(f"lines {waiting} are not connected to bus {feeder}")
        order.append(ready[0])
        away.append(lines[ready[0], 1] in reached)
        reached.update(lines[ready[0]].tolist())
        waiting.remove(ready[0])
    return np.array(order), np.array(away)


def golden_grid(z: dict[str, np.ndarray], model: GridModel, tree_order: bool) -> jg.Grid:
    """The feeder; z = 1 / (g - jb) gives back r and x in pu per kW."""
    order, away = orientation(z["lines"], int(z["grid_bus"][0]))
    if not tree_order:
        order, away = np.arange(len(order)), np.ones(len(order), bool)
    lines = z["lines"][order]
    g, b = z["line_g_kw"][order], z["line_b_kw"][order]
    hours = int(z["n_hours"])
    passive = np.zeros((int(z["n_buses"]), hours))
    np.add.at(passive, z["passive_bus"], z["passive_load_kw"])
    reactive = "q_load_kvar" in z
    return jg.Grid(
        passive,
        source=np.where(away, lines[:, 1], lines[:, 0]),
        target=np.where(away, lines[:, 0], lines[:, 1]),
        resistance=g / (g**2 + b**2),
        reactance=b / (g**2 + b**2),
        rating=z["line_smax_kva"][order],
        voltage_min=z["v_min"],
        voltage_max=z["v_max"],
        angle_min=z["theta_min"],
        angle_max=z["theta_max"],
        feeder=z["grid_bus"],
        passive_reactive=z["q_load_kvar"] if reactive else 0.0,
        model=model,
        reactive_balance=reactive if model == "paper" else None,
    )


def golden_market(
    name: str,
    behavior: Behavior = "nash",
    *,
    grid: GridModel = "paper",
    tree_order: bool | None = None,
) -> jg.Market:
    """One instance as a market.

    Lines as published, or with `tree_order` away from the feeder, parents first (the default for
    `lindistflow`, which needs it). The published optima are those of `paper`.
    """
    z, _ = load(name)
    hours = int(z["n_hours"])
    units, stores = np.flatnonzero(z["pdi_max_kw"] > 0), np.flatnonzero(z["has_storage"])
    return jg.Market(
        jg.Prosumers(z["prosumer_bus"], z["load_kw"]),
        golden_grid(z, grid, grid == "lindistflow" if tree_order is None else tree_order),
        jg.Tariff(
            EUR * z["d_mg"],
            hours=hours,
            total_min=z["sigma_min_kw"],
            total_max=z["sigma_max_kw"],
            anticipation=1.0 if behavior == "nash" else 0.0,
        ),
        jg.Generators(
            units,
            z["pdi_max_kw"][units],
            hours=hours,
            power_min=z["pdi_min_kw"][units],
            quadratic=EUR * z["q_di"][units],
            linear=EUR * z["c_di"][units],
        ),
        jg.Buffers(
            stores,
            z["pch_max_kw"][stores],
            z["pds_max_kw"][stores],
            z["soc_max_kwh"][stores],
            z["soc0_kwh"][stores],
            hours=hours,
            energy_min=z["soc_min_kwh"][stores],
            retention=z["leak_a"][stores],
            charge_efficiency=z["eta_ch"][stores],
            discharge_efficiency=z["eta_ds"][stores],
            quadratic=EUR * z["q_st"][stores],
            linear=EUR * z["c_st"][stores],
        ),
        jg.Trading(
            z["edges"][:, 0],
            z["edges"][:, 1],
            z["ptr_max_kw"],
            fee_buyer=EUR * z["c_tr"],
            fee_seller=EUR * z["c_tr_rev"],
            toll=EUR * z["c_ta"],
        ),
        hour_length=z["ts_hours"],
    )


def golden_expected(name: str, behavior: Behavior = "nash") -> Expected:
    """The certified optimum of `golden_market(name, behavior)`, lines as published."""
    z, scalars = load(name)
    units, stores = z["pdi_max_kw"] > 0, z["has_storage"] > 0
    nash = behavior == "nash"
    prefix = "opt" if nash else "optw"
    found = scalars["optimum_nash_kappa1" if nash else "optimum_wardrop_kappa0"]
    shared = Expected(
        potential=EUR * found["potential"],
        total_cost=EUR * found["total_prosumer_cost"],
        sigma=z[f"{prefix}_sigma"],
        generation=z[f"{prefix}_p_di"][units],
        costs=EUR * z[f"{prefix}_J"],
        volume=found["trade_volume_kwh_one_sided"],
    )
    if not nash:
        return shared
    return replace(
        shared,
        imports=z["opt_p_mg"],
        charge=z["opt_p_ch"][stores],
        discharge=z["opt_p_ds"][stores],
        trades=z["opt_p_tr"],
        active=z["opt_p_l"],
        balance=-EUR * z["opt_nu"],
        bus=EUR * z["opt_mu_pb"],
        aggregate=EUR * (z["opt_lambda_up"] - z["opt_lambda_lo"]),
        trade_prices=EUR * z["opt_mu_tr"],
    )


def saved_runs(name: str) -> list[Run]:
    """The authors' own runs of one instance: last iterates and what they recorded."""
    z, scalars = load(name)
    runs = []
    for record in scalars["authors"]:
        prefix = record["array_prefix"]
        arrays = {k.removeprefix(prefix): v for k, v in z.items() if k.startswith(prefix)}
        runs.append(Run(record, arrays))
    return runs
