"""A simulation afterwards: as clearings for tables, plots and reports, and beside other ways.

What was done is judged here as if all had been known ahead: the certificate's error tells how far
it is from an equilibrium of the truth.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .certificate import certify
from .clearing import clear
from .clock import even
from .market import Market, replaced
from .model import Plan, Rows, aggregate, costs
from .result import Clearing
from .runner import to_device
from .simulation import Simulation
from .simulations import simulate_many
from .status import Status
from .windows import DAY, window

if TYPE_CHECKING:
    from xarray import Dataset


def judged(simulation: Simulation) -> Clearing:
    """What a `simulation` did as one clearing of its market, for `jg.compare`, frames and plots.

    Its status is `cleared`, as all its windows are; prices are those of the windows.
    """
    return _clearing(simulation.market, simulation.plan, simulation.prices, simulation.steps)


def days(simulation: Simulation) -> tuple[Market, Clearing]:
    """What a `simulation` did day by day, each of 24 hours from its start, as a batch.

    `jg.report(*days(simulation), about=simulation)` shows its quantiles by hour of the day. What is
    left of a day at the end is left out. Raises `ValueError` for less than a day, and steps of
    unequal length.
    """
    market, steps = simulation.market, simulation.plan.imports.shape[1]
    per = round(DAY / even("days", market))
    if steps < per:
        raise ValueError(f"days: {steps} steps are less than a day of {per}; simulate a day.")
    found = []
    for first in range(0, steps - per + 1, per):
        own = slice(first, first + per)
        energy = np.asarray(simulation.plan.energy)[:, first - 1] if first else None
        level = None
        if first and simulation.plan.level is not None:
            level = np.asarray(simulation.plan.level)[:, first - 1]
        day = window(market, first, np.ones(per, int), energy=energy, level=level)
        tables = (simulation.plan, simulation.prices)
        plan, prices = jax.tree.map(lambda a, own=own: np.asarray(a)[..., own], tables)
        begun = (simulation.at >= first) & (simulation.at < first + per)
        found.append((day, _clearing(day, plan, prices, simulation.steps[begun])))
    return jax.tree.map(lambda *each: np.stack([np.asarray(a) for a in each]), *found)


def beside(
    truth: Market, *, foresight: bool = True, client: Any = None, **options: Any
) -> dict[str, tuple[Market, Clearing]]:
    """A simulation with the `options` of `simulate`, the same without trades, and `foresight`.

    Perfect foresight is one clear of all of `truth`, which takes memory and time for long ones:
    `foresight=False` leaves it out. `jg.compare` takes what this gives, with money against no
    trading. With `out` each simulation has a folder of its own in that; workers of a `client` take
    one each, as of `simulate_many`. Raises `ValueError` where one of them ends before its time.
    """
    alone = replaced(truth, {"trading.limit": 0 * np.asarray(truth.trading.limit)})
    both: dict[str, dict[str, Any]] = {"simulation": {}, "no trading": {"truth": alone}}
    found = {}
    for name, run in simulate_many(truth, both, client=client, **options).items():
        if not run.ok:
            raise ValueError(f"beside: {name} ended before its time: {run.why}")
        found[name] = (to_device(run.market), judged(run))
    if foresight:
        whole = to_device(truth)
        known = clear(whole, options.get("solver"), tol=options.get("tol"))
        found["perfect foresight"] = (whole, known)
    return found


def to_xarray(simulation: Simulation) -> "Dataset":
    """All of a `simulation` as one xarray `Dataset`: that of `judged`, and what was not as planned.

    Imbalances, what is unserved and spilled by prosumer and step, limits that are broken by step,
    with units, and of each window the step at which it began, its error and its solver steps.
    Raises `ImportError` without xarray, naming the extra.
    """
    found = judged(simulation).to_xarray(simulation.market)
    for name, (unit, axes) in _TOLD.items():
        found[name] = (axes, np.asarray(getattr(simulation, name)), {"units": unit})
    for name in ("at", "error", "steps", "gave_way"):
        found[f"window_{name}"] = ("window", np.asarray(getattr(simulation, name)))
    return found


_TOLD = {  # unit and axes of what a simulation tells beside plan and prices
    "imbalance": ("kW", ("prosumer", "step")),
    "imbalance_cost": ("EUR", ("prosumer", "step")),
    "unserved": ("kW", ("prosumer", "step")),
    "spilled": ("kW", ("prosumer", "step")),
    "short": ("kWh", ("buffer", "step")),
    "outside": ("pu", ("step",)),
    "overload": ("kVA", ("step",)),
    "beyond": ("kW", ("step",)),
}


def _clearing(market: Market, plan: Plan, prices: Rows, steps: Any) -> Clearing:
    market, plan, prices = to_device((market, plan, prices))
    return Clearing(
        plan=plan,
        prices=prices,
        costs=costs(market, plan),
        aggregate=aggregate(market, plan),
        certificate=certify(market, plan, prices),
        steps=to_device(np.asarray(np.sum(steps), np.int32)),
        status=Status.cleared,
        run=None,
    )
