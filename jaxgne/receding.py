"""One window of a simulation after the other: what is planned, what of it is done, what is left."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from .choosing import Runner
from .clearing import clear
from .clock import in_hour
from .forecasts import Branches, Forecast
from .imbalance import Closed, closed
from .market import Market
from .model import Plan, Rows, families
from .record import Record, changed
from .relaxation import relax
from .result import Clearing, complaint
from .runner import to_device
from .solvers.base import AbstractSolver
from .status import STATUSES, status_name
from .tables import has_caps
from .windows import DAY, Lengths, joined, later, past, quiet, window, within_reach, worth_at

Terminal = Literal["water", "market"]


class Setting(NamedTuple):
    """All that a simulation is asked for; `truth` holds NumPy's arrays."""

    truth: Market
    lengths: Lengths
    step: int
    forecast: Forecast
    terminal: Any
    solver: AbstractSolver | None
    tol: Any
    runner: Runner
    first: Runner  # who clears what has no window before it to start from
    elastic: bool

    @property
    def water(self) -> bool:
        """Whether content is worth what windows find it is."""
        buffers = self.truth.buffers.owner.shape[0]
        return isinstance(self.terminal, str) and self.terminal == "water" and buffers > 0

    @property
    def horizon(self) -> int:
        """How many steps are to be done."""
        return self.truth.prosumers.load.shape[1]


class Start(Record):
    """Plan and prices that a clear starts from."""

    plan: Plan
    prices: Rows


class State(Record):
    """Where a simulation stands, in NumPy's arrays."""

    at: Int[np.ndarray, ""]  # the step that comes next
    energy: Float[np.ndarray, " K"]  # kWh
    level: Float[np.ndarray, " M"]
    value: Float[np.ndarray, " K"]  # EUR/kWh, of content at the end of the next window
    start: Start | None  # what the next window is cleared from; None before the first


class Part(Record):
    """What one window did: its first steps, carried out, and how it was cleared."""

    done: Closed
    prices: Rows
    at: Int[np.ndarray, " 1"]
    error: Float[np.ndarray, " 1"]
    steps: Int[np.ndarray, " 1"]
    status: Int[np.ndarray, " 1"]
    gave_way: Float[np.ndarray, " 1"]


class Failed(Exception):
    """A window did not clear: why, in words."""


def begin(setting: Setting) -> State:
    """The state before the first window.

    Of content nothing is known yet: by water values it is worth what a first clear of the first
    window finds.
    """
    truth = setting.truth
    first = State(
        at=np.asarray(0),
        energy=np.asarray(truth.buffers.energy_start),
        level=np.asarray(truth.caps.start),
        value=np.asarray(truth.buffers.final_value),
        start=None,
    )
    if not isinstance(setting.terminal, str):
        return replace(first, value=setting.terminal)
    if not setting.water:
        return first
    view = ahead_of(setting, first)
    found = _cleared(setting, view, None)
    if not bool(found.ok):
        return first
    return replace(first, value=_water(setting, view, found, 0, 0))


def advance(setting: Setting, state: State) -> tuple[State, Part, list[str]]:
    """Clear the next window, do its first steps; and what had to give way, in sentences.

    Raises `Failed` where it does not clear.
    """
    truth, at = setting.truth, int(state.at)
    view, gave, notes = ahead_of(setting, state), 0.0, []
    found = _cleared(setting, view, state.start)
    if setting.elastic and not bool(found.ok):
        relaxed = relax(to_device(view))
        gave, when = float(np.sum(relaxed.cost)), in_hour(truth, at)
        notes = [f"window {when}: {line}" for line in relaxed.lines]
        found = _cleared(setting, relaxed.market, None)
    if not bool(found.ok):
        raise Failed(f"the window {in_hour(truth, at)}: {complaint(view, found)}")
    count = min(setting.step, setting.horizon - at)
    now = window(truth, at, np.ones(count, int), energy=state.energy, level=state.level)
    first = slice(0, count)
    done: Closed = _held(closed(now, _cut(found.plan, first)))
    part = Part(
        done=done,
        prices=_cut(found.prices, first),
        at=np.full(1, at),
        error=np.reshape(np.asarray(found.certificate.error), 1),
        steps=np.reshape(np.asarray(found.steps), 1),
        status=np.full(1, STATUSES.index(status_name(found.status))),
        gave_way=np.full(1, gave),
    )
    hours = float(np.sum(np.asarray(now.hour_length)))
    after = State(
        at=np.asarray(at + count),
        energy=np.asarray(done.plan.energy)[:, -1],
        level=np.asarray(done.plan.level)[:, -1] if has_caps(truth) else state.level,
        value=_water(setting, view, found, at, count) if setting.water else state.value,
        start=_shifted(setting, view, found, at + count, hours),
    )
    return after, part, notes


_STATES = ("energy", "voltage", "angle", "level", "spare")  # of a plan in which nothing happens


def _shifted(setting: Setting, view: Market, found: Clearing, at: int, hours: float) -> Start:
    """What the window that begins `hours` later, at step `at`, is cleared from."""
    ahead = later(view, hours)
    plan, prices = jax.tree.map(lambda a: np.asarray(a)[..., ahead], (found.plan, found.prices))
    idle = _idle(setting, at)
    if not 0 < idle < len(setting.lengths) or view.before is not None:
        return Start(plan, prices)
    quiet = {}
    for name in families(plan):
        table = getattr(plan, name).copy()
        table[..., -idle:] = table[..., -idle - 1, None] if name in _STATES else 0.0
        quiet[name] = table
    return Start(changed(plan, **quiet), prices)


def _idle(setting: Setting, at: int) -> int:
    """How many steps of the window that begins at a step are beyond the end."""
    return int(np.sum(at + np.cumsum(setting.lengths) - setting.lengths >= setting.horizon))


def _cleared(setting: Setting, view: Market, start: Start | None) -> Clearing:
    given: Any = start if start is None else to_device(start)
    return clear(
        to_device(view),
        setting.solver,
        tol=setting.tol,
        start=given,
        throw=False,
        runner=setting.first if start is None else setting.runner,
    )


def ahead_of(setting: Setting, state: State) -> Market:
    """The market that is cleared: what is forecast of a window that begins where things stand."""
    truth, at = setting.truth, int(state.at)
    total = int(np.sum(setting.lengths))
    last = at + total >= setting.horizon  # what is left then is worth what the market says
    cut = window(
        truth,
        at,
        setting.lengths,
        energy=state.energy,
        level=state.level,
        final_value=None if last else state.value,
    )
    real = within_reach(cut)
    found = setting.forecast(past(truth, at), real, at)
    idle = _idle(setting, at)
    if isinstance(found, Branches):
        each = [quiet(market, real, idle) for market in found.markets]
        return joined(each, found.probability, setting.step)
    return quiet(found, real, idle)


def _water(
    setting: Setting, view: Market, found: Clearing, at: int, count: int
) -> Float[np.ndarray, " K"]:
    """What content is worth at the end of the next window, by the water values of this one.

    That is what it is worth a day earlier, or in the mean where this window does not see that hour.
    """
    hours = np.asarray(setting.truth.hour_length, float)
    end = at + count + int(np.sum(setting.lengths))
    after = float(np.sum(hours[at:end]))
    return worth_at(view, np.asarray(found.prices.energy), after - DAY)


def _cut(tables: Any, steps: slice) -> Any:
    """Tables in some steps, in NumPy's arrays: JAX would compile each slice."""
    return jax.tree.map(lambda a: np.asarray(a)[..., steps], tables)


def _held(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
