"""How many clears, and how long, does tuning take by gradient and without?

    python benchmarks/tuning.py --clears 300 --limit 40
    python benchmarks/tuning.py --table

A day of 25 prosumers on ieee37 with 200 trading pairs, and three mechanisms: one tariff for all
trades (1 number), the price's slope by hour (24), a tariff for each pair (200). Adam on gradients
by the implicit rule, against Nelder-Mead (SciPy), CMA-ES (`cma`) and random search, from the same
start, within the same bounds, on the same warm-started clears to 1e-6. A gradient counts as part of
its step, which is one clear; seconds tell what it costs. Everything is compiled first. Each run
ends after `--clears` clears or `--limit` seconds. One JSON line a run in results/tuning.jsonl, the
last of each as a table and a picture in results/tuning.md and .png.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import record
from scipy.optimize import minimize

import jaxgne as jg
from jaxgne import objectives
from jaxgne.coordinates import Linear

SEED, STEPS = 0, 60
METHODS = ("gradient", "Nelder-Mead", "CMA-ES", "random")


class Enough(Exception):
    """The clears or the seconds of a run are used up."""


def revenue(market: jg.Market, clearing: jg.Clearing) -> Any:
    """What the operator receives, EUR, to be made large."""
    return -objectives.operator_revenue(market, clearing)


def unevenness(market: jg.Market, clearing: jg.Clearing) -> Any:
    """Variance of the total import over the day, kW^2."""
    return jnp.var(jg.aggregate(market, clearing.plan))


def problems(market: jg.Market) -> dict[int, dict[str, Any]]:
    """By number of parameters: what `tune` is given, and how a flat array fills the fields."""
    pairs = market.trading.toll.shape[0]
    tied = Linear(jnp.ones((pairs, 1)))
    return {
        1: {"objective": revenue, "where": lambda m: m.trading.toll, "bounds": (0.0, 0.05),
            "bijection": tied},
        24: {"objective": unevenness, "where": lambda m: m.tariff.slope,
             "bounds": (0.0, 3 * float(market.tariff.slope.max()))},
        pairs: {"objective": revenue, "where": lambda m: m.trading.toll, "bounds": (0.0, 0.05)},
    }  # fmt: skip


class Run:
    """Clears of one run: each one's seconds since the start, and the least value so far."""

    def __init__(self, market: jg.Market, problem: dict[str, Any], clears: int, limit: float):
        self.market, self.problem, self.clears, self.limit = market, problem, clears, limit
        self.value = eqx.filter_jit(problem["objective"])
        self.last: jg.Clearing | None = None
        self.seconds: list[float] = []
        self.least: list[float] = []
        self.begun = time.perf_counter()

    def told(self, value: float) -> None:
        """Note a clear; `Enough` where it was the last."""
        self.seconds.append(time.perf_counter() - self.begun)
        self.least.append(min(value, self.least[-1] if self.least else np.inf))
        if len(self.least) >= self.clears or self.seconds[-1] >= self.limit:
            raise Enough

    def __call__(self, shares: np.ndarray) -> float:
        """The objective at shares of the range."""
        low, high = self.problem["bounds"]
        fields = low + (high - low) * jnp.clip(jnp.asarray(shares), 0.0, 1.0)
        if "bijection" in self.problem:
            fields = self.problem["bijection"].forward(fields)
        here = eqx.tree_at(self.problem["where"], self.market, fields)
        found = jg.clear(here, start=self.last, throw=False)
        value = float(self.value(here, found)) if bool(found.ok) else np.inf
        self.last = found if bool(found.ok) else self.last
        self.told(value)
        return value


def start(market: jg.Market, problem: dict[str, Any]) -> np.ndarray:
    """Shares of the range at which the market stands."""
    fields = problem["where"](market)
    if "bijection" in problem:
        fields = problem["bijection"].inverse(fields)
    low, high = problem["bounds"]
    return np.asarray((fields - low) / (high - low))


def gradient(run: Run, first: np.ndarray) -> None:
    jg.tune(run.market, **run.problem, steps=STEPS, progress=lambda now: run.told(now.value))


def nelder_mead(run: Run, first: np.ndarray) -> None:
    minimize(run, first, method="Nelder-Mead", bounds=[(0.0, 1.0)] * first.size,
             options={"maxfev": run.clears, "adaptive": first.size > 1})  # fmt: skip


def cma_es(run: Run, first: np.ndarray) -> None:
    module: Any = import_module("cma")

    options = {"bounds": [0.0, 1.0], "seed": SEED + 1, "verbose": -9}
    strategy = module.CMAEvolutionStrategy(first, 0.2, options)
    run(first)
    while not strategy.stop():
        asked = strategy.ask()
        strategy.tell(asked, [run(shares) for shares in asked])


def random(run: Run, first: np.ndarray) -> None:
    rng = np.random.default_rng(SEED)
    run(first)
    while True:
        run(rng.uniform(size=first.size))


RUNS: dict[str, Callable[[Run, np.ndarray], None]] = dict(
    zip(METHODS, (gradient, nelder_mead, cma_es, random), strict=True)
)


def one(market: jg.Market, size: int, problem: dict[str, Any], method: str, args: Any) -> None:
    """One method on one problem."""
    first = start(market, problem)
    if method == "CMA-ES" and size == 1:
        return  # it needs two numbers at least
    warm = Run(market, problem, 3, np.inf)
    with suppress(Enough):
        RUNS[method](warm, first)
    run = Run(market, problem, args.clears, args.limit)
    with suppress(Enough):
        RUNS[method](run, first)
    keep = (np.unique(np.geomspace(1, len(run.least), 60).astype(int)) - 1).tolist()
    record.write(
        "tuning",
        parameters=size,
        objective=problem["objective"].__name__,
        method=method,
        clears=len(run.least),
        seconds=run.seconds[-1],
        first=run.least[0],
        best=run.least[-1],
        curve=[[k + 1, run.seconds[k], run.least[k]] for k in keep],
    )


def table() -> None:
    """results/tuning.md and .png from the last run of each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = (record.RESULTS / "tuning.jsonl").read_text().splitlines()
    runs = {(run["parameters"], run["method"]): run for run in map(json.loads, lines)}
    sizes = sorted({size for size, _ in runs})
    rows = ["| numbers | objective | method | clears | seconds | improvement | of the best "
            "| clears to half of the best | seconds to it |", "|" + "---|" * 9]  # fmt: skip
    figure, axes = plt.subplots(2, len(sizes), figsize=(4 * len(sizes), 6), squeeze=False)
    for column, size in enumerate(sizes):
        here = {method: runs[size, method] for method in METHODS if (size, method) in runs}
        best = max(run["first"] - run["best"] for run in here.values())
        for method, run in here.items():
            curve = np.array(run["curve"])
            share = (run["first"] - curve[:, 2]) / best
            half = next((k for k, s in enumerate(share) if s >= 0.5), None)
            when = (
                ("-", "-") if half is None else (f"{curve[half, 0]:.0f}", f"{curve[half, 1]:.1f}")
            )
            rows.append(
                f"| {size} | {run['objective']} | {method} | {run['clears']} | "
                f"{run['seconds']:.1f} | {run['first'] - run['best']:.4g} | {share[-1]:.1%} | "
                f"{when[0]} | {when[1]} |"
            )
            for row, (at, unit) in enumerate(((0, "clears"), (1, "seconds"))):
                color = f"C{METHODS.index(method)}"  # alike where a method is missing
                axes[row, column].step(curve[:, at], share, where="post", label=method, color=color)
                axes[row, column].set(xlabel=unit, ylabel="improvement / the best's")
        axes[0, column].set_title(f"{size} number{'s' * (size > 1)}")
        axes[0, column].set_xscale("log")
    axes[0, 1].legend()  # where all methods are
    figure.tight_layout()
    figure.savefig(record.RESULTS / "tuning.png", dpi=120)
    last = json.loads(lines[-1])
    about = (
        "Improvement of the objective from the same start, as a share of the best method's; a day "
        f"of 25 prosumers on ieee37, clears to 1e-6 from the last one, {last['processor']}, "
        f"{last['cores']} cores. Other work ran beside, so seconds tell factors only. "
        "`benchmarks/tuning.py` says how."
    )
    text = "\n".join(["# Tuning by gradient and without", "", about, "", *rows, "",
                      "![Improvement by clears and by seconds](tuning.png)", ""])  # fmt: skip
    (record.RESULTS / "tuning.md").write_text(text)


def main() -> None:
    """Every problem by every method, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clears", type=int, default=300)
    parser.add_argument("--limit", type=float, default=40.0, help="seconds a run")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if not args.table:
        market = jg.ieee37(degree=16.0)
        for size, problem in problems(market).items():
            for method in METHODS:
                one(market, size, problem, method, args)
    table()


if __name__ == "__main__":
    main()
