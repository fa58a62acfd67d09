"""Days that follow one another: windows are cleared, their first steps done, and so on.

At each step that many are planned ahead, with what is known then, only the first `step` of them are
done, and contents of buffers and levels of caps are carried over. Where the truth comes out
otherwise than the plan `imbalance` closes the balance.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .arguments import of_tables
from .arrays import by_row
from .choosing import Runner
from .each import refuse_batch
from .forecasts import Forecast, perfect
from .journal import Journal, Memory, is_simulation, read
from .market import Market
from .model import Plan, Rows
from .options import checked_options
from .receding import Failed, Setting, Terminal, advance
from .record import Record
from .runner import runs_here
from .settlement import Bills, bills
from .size import is_quick, rows_an_hour
from .solvers.base import AbstractSolver
from .validation import gate
from .windows import check, lengths_of, window

if TYPE_CHECKING:
    from xarray import Dataset

_NOTHING = 1e-3  # kWh that a tolerance makes
_FINE = {"pu": 1e-4, "kVA": 1e-2, "kW": 1e-2}  # beyond limits, likewise
_QUICK = 20.0  # seconds that NumPy may take for all windows: about what compiling takes
_PER_CLEAR, _PER_CELL = 0.03, 1e-4  # seconds that it takes: a window, and a row and step of it


class SimulationProgress(Record):
    """What a progress callback of `simulate` is told: windows done, of so many, and how long."""

    done: int
    total: int
    seconds: float


class Simulation(Record):
    """What was done, step by step, and at which prices: the steps of `market`, the truth.

    `plan` is what everyone did, `prices` are those of the windows that planned it. The others are
    those of `imbalance.Closed`, by step, and of windows, one number each: the step `at` which it
    began, the relative KKT `error`, solver `steps`, the `status` as its place in `STATUSES`, and
    what it cost to let limits give way, `gave_way` (EUR), 0 where none had to.
    """

    market: Market
    plan: Plan
    prices: Rows
    imbalance: Float[Array, "N H"]  # kW drawn from the main grid beyond the plan
    imbalance_cost: Float[Array, "N H"]  # EUR
    unserved: Float[Array, "N H"]  # kW
    spilled: Float[Array, "N H"]  # kW
    short: Float[Array, "K H"]  # kWh that contents are outside their limits
    outside: Float[Array, " H"]  # pu that voltages are outside theirs
    overload: Float[Array, " H"]  # kVA over ratings
    beyond: Float[Array, " H"]  # kW that the total exchange is over its limits
    at: Int[Array, " W"]
    error: Float[Array, " W"]
    steps: Int[Array, " W"]
    status: Int[Array, " W"]
    gave_way: Float[Array, " W"]
    horizon: int = eqx.field(static=True)  # steps that were to be done
    why: str = eqx.field(static=True)  # it ended before; "" where all are done
    notes: tuple[str, ...] = eqx.field(static=True)  # what gave way

    @property
    def ok(self) -> bool:
        """Whether all steps are done."""
        return not self.why

    def bills(self) -> Bills:
        """Who pays whom for what was done, EUR by step; imbalances are within `main_grid`."""
        return bills(self.market, self.plan, self.prices)

    def to_xarray(self) -> "Dataset":
        """All of it as one xarray `Dataset`: `jaxgne.hindsight.to_xarray`."""
        from .hindsight import to_xarray

        return to_xarray(self)

    def facts(self) -> dict[str, Any]:
        """What it comes to, as plain numbers; keys carry their units."""
        hours, paid = np.asarray(self.market.hour_length), self.bills()
        over, under = (np.sum(hours * np.maximum(s * self.imbalance, 0)) for s in (1, -1))
        return {
            "steps": int(self.imbalance.shape[1]),
            "horizon": self.horizon,
            "windows": len(self.at),
            "why": self.why,
            "relative_kkt_error_max": float(np.max(self.error)),
            "solver_steps_mean": float(np.mean(self.steps)),
            "bill_total_eur": float(np.sum(paid.prosumers)),
            "bill_by_prosumer_eur": np.sum(np.asarray(paid.prosumers), axis=1).tolist(),
            "imbalance_bought_kwh": float(over),
            "imbalance_sold_kwh": float(under),
            "imbalance_cost_eur": float(np.sum(self.imbalance_cost)),
            "unserved_kwh": float(np.sum(hours * self.unserved)),
            "spilled_kwh": float(np.sum(hours * self.spilled)),
            "content_outside_limits_kwh": float(np.sum(self.short)),
            "voltage_outside_max_pu": float(np.max(self.outside)),
            "overload_max_kva": float(np.max(self.overload)),
            "exchange_beyond_max_kw": float(np.max(self.beyond)),
            "windows_that_gave_way": int(np.count_nonzero(self.gave_way)),
            "gave_way_eur": float(np.sum(self.gave_way)),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        says, why = self.facts(), f": {self.why}" if self.why else ""
        lines = [
            f"Simulation of {says['steps']} of {self.horizon} steps in {len(self.at)} windows{why}",
            f"largest relative KKT error of a window {says['relative_kkt_error_max']:.1e}, "
            f"{says['solver_steps_mean']:.1f} solver steps each",
            f"all prosumers pay {says['bill_total_eur']:.2f} EUR",
            f"imbalances: {says['imbalance_bought_kwh']:.2f} kWh bought beyond plans, "
            f"{says['imbalance_sold_kwh']:.2f} kWh less or sold, "
            f"{round(says['imbalance_cost_eur'], 2) + 0.0:.2f} EUR of that",
        ]
        for name, key in (
            ("unserved", "unserved_kwh"),
            ("spilled", "spilled_kwh"),
            ("contents outside limits", "content_outside_limits_kwh"),
        ):
            if says[key] > _NOTHING:
                lines.append(f"{name}: {says[key]:.6g} kWh")
        for name, unit, most in (
            ("voltages outside limits", "pu", self.outside),
            ("lines above ratings", "kVA", self.overload),
            ("total exchange outside its limits", "kW", self.beyond),
        ):
            count = np.count_nonzero(most > _FINE[unit])
            if count:
                lines.append(f"{name} in {count} steps, by up to {np.max(most):.3g} {unit}")
        if says["windows_that_gave_way"]:
            lines.append(
                f"limits gave way in {says['windows_that_gave_way']} windows, "
                f"{says['gave_way_eur']:.6g} EUR"
            )
        return "\n".join(lines)


@of_tables
def simulate(
    truth: Market,
    *,
    window: int | Sequence[int] = 96,
    step: int = 4,
    forecast: Forecast | None = None,
    terminal: Terminal | Any = "water",
    solver: AbstractSolver | None = None,
    tol: Any = None,
    elastic: bool = False,
    out: str | Path | None = None,
    runner: Runner | None = None,
    progress: Callable[[SimulationProgress], None] | None = None,
) -> Simulation:
    """Plan a window ahead, do the first steps of it, and so on to the end of a long market.

    `window` is how many steps are planned, or how many steps of `truth` each step of a window
    merges: (1,) * 4 + (4,) * 23 are quarter hours for an hour, and then hours for 23. The first
    `step` of them are done. `forecast` says what is known then (`jaxgne.forecasts`), by default all
    that comes; `imbalance.closed` says what is done where the truth is another.

    `terminal` says what content is worth at the end of a window that does not reach the end of
    `truth`, EUR/kWh: "water", what it was worth for the window before a day earlier than that, or
    in the mean over windows shorter than a day; "market", `Buffers.final_value`; or numbers (K,).

    Each window starts from the one before. All have one shape, so they are cleared by one compiled
    program, the first ahead of it by NumPy, or all by NumPy where that is sooner done; `runner`
    chooses, as in `clear`. `solver` and
    `tol` are those of `clear`. A window that does not clear ends the simulation: `why` tells, and
    what was done is kept. With `elastic` the limits of one that has no plan give way at the least
    cost (`relax`); `notes` tell which.

    With `out`, a folder, what is done is written there every 96 windows or half a minute, and a
    later call with the same arguments goes on from there, to the same bits; `load` reads it. Memory
    then holds the truth and no window but the last. Ctrl-C keeps what is done.

    Raises `ValueError` for a market or an option that makes no sense, and for a folder that holds
    another simulation.
    """
    setting = asked(truth, window, step, forecast, terminal, solver, tol, elastic, runner)
    checked_options("simulate", truth, solver, progress=progress)
    begun, total = time.perf_counter(), -(-setting.horizon // step)
    journal = Memory(setting) if out is None else Journal(out, setting)
    why = ""
    try:
        while int(journal.state.at) < setting.horizon:
            try:
                journal.add(*advance(setting, journal.state))
            except Failed as stop:
                why = str(stop)
                break
            if progress is not None:
                done = -(-int(journal.state.at) // step)
                progress(SimulationProgress(done, total, time.perf_counter() - begun))
    except KeyboardInterrupt:
        journal.flush()
        raise
    journal.flush(why)
    done, notes = journal.all()
    if done is None:
        raise ValueError(f"simulate: {why}")
    return _told(setting.truth, setting.horizon, done, notes, why)


def load(folder: str | Path) -> Simulation:
    """What `simulate(out=folder)` has done so far.

    Raises `ValueError` for a folder that is none, or damaged, and where nothing is done yet.
    """
    if not is_simulation(folder):
        raise ValueError(f"{folder} holds no simulation; give the out= of simulate.")
    truth, horizon, done, notes, why = read(folder)
    if done is None:
        raise ValueError(f"{folder}: nothing is done yet. {why}".rstrip())
    steps = done.done.plan.imports.shape[1]
    if not why and steps < horizon:
        why = "it was stopped; the call that began it goes on"
    return _told(truth, horizon, done, notes, why)


def asked(
    truth: Market,
    window: Any = 96,
    step: Any = 4,
    forecast: Forecast | None = None,
    terminal: Any = "water",
    solver: AbstractSolver | None = None,
    tol: Any = None,
    elastic: bool = False,
    runner: Runner | None = None,
) -> Setting:
    """The setting that `simulate` is asked for. Raises `ValueError` where it makes no sense."""
    refuse_batch("simulate", market=truth)
    gate(truth, "simulate")
    truth = jax.tree.map(np.asarray, truth)
    lengths = lengths_of(window, truth.prosumers.load.shape[1])
    check(truth, merged=bool(np.any(lengths > 1)))
    whole = isinstance(step, int | np.integer) and not isinstance(step, bool)
    if not whole or not 1 <= step <= len(lengths) or np.any(lengths[:step] != 1):
        raise ValueError(
            f"simulate: step={step!r}; give how many of a window's {len(lengths)} steps are done, "
            "of which none may be merged."
        )
    if isinstance(terminal, str):
        if terminal not in ("water", "market"):
            raise ValueError(
                f"simulate: terminal={terminal!r}; give 'water', 'market', or EUR/kWh by buffer."
            )
    else:
        count = len(truth.buffers.owner)
        terminal = np.asarray(by_row("simulate: terminal", terminal, count, "buffer"))
    setting = Setting(
        truth=truth,
        lengths=lengths,
        step=int(step),
        forecast=forecast or perfect(),
        terminal=terminal,
        solver=solver,
        tol=tol,
        runner=runner or "jax",
        first=runner or "jax",
        elastic=elastic,
    )
    return _with_runners(setting) if runner is None else setting


def _with_runners(setting: Setting) -> Setting:
    """Who clears: NumPy the first window, so that something is known soon, and all where it is
    sooner done than a compiler; the same whenever a simulation goes on."""
    one = window(setting.truth, 0, setting.lengths)
    able = setting.solver is None or setting.solver.by_numpy
    if not (able and is_quick(one) and runs_here(one)):
        return setting
    cells = rows_an_hour(one) * len(setting.lengths)
    taken = setting.horizon / setting.step * (_PER_CLEAR + _PER_CELL * cells)
    return setting._replace(first="numpy", runner="numpy" if taken <= _QUICK else "jax")


def _told(truth: Market, horizon: int, found: Any, notes: list[str], why: str) -> Simulation:
    """What all windows did, for people."""
    done, steps = found.done, found.done.plan.imports.shape[1]
    market = truth
    if steps < horizon:
        market = window(market, 0, np.ones(steps, int))
    return Simulation(
        market=market,
        plan=done.plan,
        prices=found.prices,
        imbalance=done.imbalance,
        imbalance_cost=done.cost,
        unserved=done.unserved,
        spilled=done.spilled,
        short=done.short,
        outside=done.outside,
        overload=done.overload,
        beyond=done.beyond,
        at=found.at,
        error=found.error,
        steps=found.steps,
        status=found.status,
        gave_way=found.gave_way,
        horizon=horizon,
        why=why,
        notes=tuple(notes),
    )
