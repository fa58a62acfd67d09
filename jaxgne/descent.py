"""Descent: a measure of what a market clears to is made small, step by step.

Each step clears the market from the last equilibrium, outside of any trace, and then takes the
gradient by the implicit rule: one compiled program and one linear system a step. Constraints on
outcomes g <= 0 enter by an augmented Lagrangian (Birgin, Martinez, Practical Augmented Lagrangian
Methods, 2014): with multipliers y and penalties r the gradient is that of f + max(0, y + r g) g.
"""

import abc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .batch import clear_many
from .checkpoint import read, write
from .clearing import blank, clear, differentiable
from .coordinates import Bijection, Coordinates, is_batch, norm, place, with_fields
from .fingerprint import fingerprint
from .history import History, TuningProgress
from .market import Market
from .options import checked_options
from .programs import program
from .record import Record
from .result import Clearing, NotCleared, Stopped
from .sensitivity.implicit import AbstractAdjoint, Implicit
from .solvers.base import AbstractSolver
from .status import status_name

if TYPE_CHECKING:
    from optax import GradientTransformation

_RATE = 0.05  # of the range between the bounds, for the optimizer taken by default
_UPDATE = 5  # steps between updates of the multipliers
_STIFF = 10.0  # a constraint's penalty over objective, per range of what is tuned
_HALVED = 5  # times that a step which does not clear is halved
_LESS = 0.5  # of its violation at the last update: above it a penalty is doubled


class HowToTune(TypedDict, total=False):
    """What functions that tune hand on to `tune` as it is."""

    optimizer: "GradientTransformation | None"
    solver: AbstractSolver | None
    tol: Any
    patience: int | None
    folder: str | Path | None
    progress: Callable[[TuningProgress], None] | None


class AbstractMeasure(eqx.Module):
    """What a market or a batch is judged by."""

    @abc.abstractmethod
    def value(self, market: Market, clearing: Clearing) -> Float[Array, ""]:
        """What is to become small."""

    @abc.abstractmethod
    def limits(self, market: Market, clearing: Clearing) -> Float[Array, " C"]:
        """What is to be at most 0."""

    def told(
        self, market: Market, clearing: Clearing
    ) -> tuple[Float[Array, ""], Float[Array, " C"]]:
        """Both."""
        return self.value(market, clearing), self.limits(market, clearing)


class State(Record):
    """Where a tuning stands before a step."""

    shares: Any  # what the optimizer moves
    before: Any  # where the last step stood, which cleared
    memory: Any  # the optimizer's own
    multipliers: Float[Array, " C"]
    penalties: Float[Array, " C"]  # 0 until a constraint is first missed, or has a multiplier
    missed: Float[Array, " C"]  # by how much at the last update of the multipliers


class TuningStopped(Stopped):
    """Raised where Ctrl-C stops a tuning: `.history` holds the steps that were done.

    `.market` is that of the best of them, None where there is none; `.clearing` is the last.
    """

    def __init__(self, steps: int, job: "_Job", clearing: Clearing | None, history: History):
        best = job.best(history) if len(history.value) else None
        words = f"stopped after {len(history.value)} of {steps} steps"
        super().__init__(words, clearing, best)
        self.history = history


def descend(
    market: Market,
    measure: AbstractMeasure,
    where: Callable[[Market], Any],
    *,
    optimizer: "GradientTransformation | None" = None,
    steps: int = 50,
    bounds: tuple[Any, Any] | None = None,
    bijection: Bijection | None = None,
    solver: AbstractSolver | None = None,
    tol: Any = None,
    adjoint: AbstractAdjoint | None = None,
    patience: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[TuningProgress], None] | None = None,
    start: Clearing | None = None,
    multipliers: Float[Array, " C"] | None = None,
) -> tuple[Market, History]:
    """`tune` for any measure of a market or batch, from a clearing and multipliers near by."""
    checked_options(
        "tune", market, solver, adjoint=adjoint, progress=progress, steps=steps, patience=patience
    )
    if optimizer is None and bounds is None:
        raise ValueError("tune: give bounds, or an optimizer whose rate fits the fields' unit.")
    market = jax.tree.map(jnp.asarray, market)
    coordinates, shares = place(market, where, bounds, bijection)
    rule = _rule(optimizer, steps)
    adjoint = Implicit(throw=False) if adjoint is None else adjoint
    job = _Job(market, measure, where, coordinates, adjoint)
    like = eqx.filter_eval_shape(lambda m: _each(m, lambda one: blank(one, solver)), market)
    count = eqx.filter_eval_shape(measure.limits, market, like).shape
    none = jnp.zeros(count)
    multipliers = none if multipliers is None else multipliers
    state = State(shares, shares, rule.init(shares), multipliers, none, none)
    clearing, history = start, job.blank(state)
    store = folder and (Path(folder) / "tuning.npz", fingerprint(job, rule, solver, tol))
    if store and (kept := read(*store, (state, like, history))):
        state, clearing = jax.tree.map(jnp.asarray, kept[:2])
        history = kept[2]
    begun = time.perf_counter()
    try:
        while (step := len(history.value)) < steps:
            if patience is not None and step and step - 1 - history.best >= patience:
                return job.best(history), history.ended("patience")
            if step == 0:
                clearing = cleared(job.market_at(state.shares), solver, tol, clearing, throw=True)
            else:
                state, now, share, why = _backed_off(job, state, solver, tol, clearing)
                history = history.hindered(share, why) if why else history
                if not bool(jnp.all(now.ok)):
                    return job.best(history), history.ended(_word(now))
                clearing = now
            state, row, slope = job.measured(state, clearing)
            if not np.isfinite(row.value + row.gradient):
                if step == 0:
                    raise ValueError(
                        "tune: the objective or its gradient is not finite at the start."
                    )
                return job.best(history), history.ended("nonfinite")
            state, foretold = _moved(state, slope, row, rule, coordinates)
            history = history.extended(replace(row, foretold=foretold))
            state = _weighed(state, row.constraints) if (step + 1) % _UPDATE == 0 else state
            if store:
                write(*store, (state, clearing, history))
            if progress:
                seconds = time.perf_counter() - begun
                progress(_told(history, steps, seconds))
    except KeyboardInterrupt:
        raise TuningStopped(steps, job, clearing, history) from None
    return job.best(history), history


class _Job(Record):
    """What stays the same from step to step."""

    market: Market
    measure: AbstractMeasure
    where: Callable[[Market], Any]
    coordinates: Coordinates
    adjoint: AbstractAdjoint

    def market_at(self, shares: Any) -> Market:
        """The market at the optimizer's numbers."""
        return with_fields(self.market, self.where, self.coordinates.fields(shares))

    def best(self, history: History) -> Market:
        """The market of the best step."""
        fields = jax.tree.map(lambda a: jnp.asarray(a[history.best]), history.tuned)
        return with_fields(self.market, self.where, fields)

    def blank(self, state: State) -> History:
        """No steps yet."""
        fields = jax.tree.map(np.asarray, self.coordinates.fields(state.shares))
        none, limits = np.zeros(0), np.zeros((0, *state.multipliers.shape))
        tuned = jax.tree.map(lambda a: np.zeros((0, *a.shape), a.dtype), fields)
        words = np.zeros(0, "<U1")
        return History(none, limits, limits, none, none, none, words, np.zeros(0, int), tuned)

    def measured(self, state: State, clearing: Clearing) -> tuple[State, History, Any]:
        """What a step finds: the state with its penalties, a row of history, and the gradient."""
        slope_of = partial(_slope, self, state.shares, clearing)
        nothing = jnp.zeros_like(state.multipliers)
        weights = (state.multipliers, state.penalties)
        value, limits, weighed, slope = slope_of(jnp.asarray(1.0), *weights)
        felt = (np.asarray(limits) > 0) | (np.asarray(state.multipliers) > 0)
        new = np.flatnonzero(felt & (np.asarray(state.penalties) == 0))
        if new.size:
            *_, plain = slope_of(jnp.asarray(1.0), nothing, nothing)
            reach = 1.0 if self.coordinates.bounded else norm(state.shares) or 1.0
            penalties = state.penalties
            for index in new.tolist():
                one = nothing.at[index].set(1.0)
                *_, row = slope_of(jnp.asarray(0.0), one, nothing)
                size = norm(row)
                if size > 0:
                    stiff = _STIFF * (norm(plain) or size) / (size**2 * reach)
                    penalties = penalties.at[index].set(stiff)
            state = replace(state, penalties=penalties)
            weights = (state.multipliers, state.penalties)
            value, limits, weighed, slope = slope_of(jnp.asarray(1.0), *weights)
        row = History(
            value=np.asarray(value),
            constraints=np.asarray(limits),
            weights=np.asarray(weighed),
            gradient=np.asarray(self.coordinates.steepness(state.shares, slope)),
            foretold=np.zeros(()),
            halved=np.ones(()),
            limit=np.array(""),
            solver_steps=np.max(np.asarray(clearing.steps)),
            tuned=self.coordinates.fields(state.shares),
        )
        return state, row, slope


@program("the derivative of an objective", named=True)
def _slope(
    job: _Job, shares: Any, clearing: Clearing, lead: Array, shift: Array, penalties: Array
) -> tuple[Array, Array, Array, Any]:
    """Value, limits g, weights w = max(0, shift + penalties g), gradient of lead value + w g."""

    def at(shares: Any) -> tuple[Array, Array]:
        here = job.market_at(shares)
        if is_batch(here):
            found = jax.vmap(lambda m, c: differentiable(m, c, job.adjoint))(here, clearing)
        else:
            found = differentiable(here, clearing, job.adjoint)
        return job.measure.told(here, found)

    (value, limits), pull = jax.vjp(at, shares)
    weights = jnp.maximum(0.0, shift + penalties * limits).astype(limits.dtype)
    (slope,) = pull((lead.astype(value.dtype), weights))
    return value, limits, weights, slope


class Slopes:
    """A measure's limits and their slopes, by the program that `descend` takes its gradients with.

    At any numbers of the optimizer, of which `shares` are where the market stands.
    """

    def __init__(
        self,
        market: Market,
        measure: AbstractMeasure,
        where: Callable[[Market], Any],
        clearing: Clearing,
        *,
        bounds: tuple[Any, Any] | None = None,
        bijection: Bijection | None = None,
        adjoint: AbstractAdjoint | None = None,
    ):
        market = jax.tree.map(jnp.asarray, market)
        self.coordinates, self.shares = place(market, where, bounds, bijection)
        adjoint = Implicit(throw=False) if adjoint is None else adjoint
        self.job = _Job(market, measure, where, self.coordinates, adjoint)
        self.none = jnp.zeros(eqx.filter_eval_shape(measure.limits, market, clearing).shape)

    def __call__(self, shares: Any, clearing: Clearing) -> tuple[np.ndarray, np.ndarray]:
        """Limits (C) and their slopes by the optimizer's numbers (C, n)."""
        found, rows = self.none, []
        for index in range(self.none.size):
            one = self.none.at[index].set(1.0)
            _, found, _, row = _slope(self.job, shares, clearing, jnp.asarray(0.0), one, self.none)
            rows.append(_flat(row))
        return np.asarray(found), np.stack(rows)


def slopes(
    market: Market,
    measure: AbstractMeasure,
    where: Callable[[Market], Any],
    clearing: Clearing,
    **how: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A measure's limits (C), their slopes by the optimizer's numbers (C, n), and these (n).

    `how` is what `Slopes` takes besides.
    """
    at = Slopes(market, measure, where, clearing, **how)
    return *at(at.shares, clearing), _flat(at.shares)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def _moved(
    state: State, slope: Any, row: History, rule: Any, coordinates: Coordinates
) -> tuple[State, np.ndarray]:
    """The state after the optimizer's step, and the change that the gradient says this makes."""
    value = jnp.asarray(row.value)
    updates, memory = rule.update(slope, state.memory, state.shares, value=value, grad=slope)
    shares = coordinates.project(jax.tree.map(jnp.add, state.shares, updates))
    went = jax.tree.map(lambda new, old, g: jnp.vdot(new - old, g), shares, state.shares, slope)
    moved = replace(state, shares=shares, before=state.shares, memory=memory)
    return moved, np.asarray(sum(jax.tree.leaves(went)))


def _backed_off(
    job: _Job, state: State, solver: Any, tol: Any, start: Clearing | None
) -> tuple[State, Clearing, float, str]:
    """The state where a step ends that clears, the clearing, its share of the step, and the limit.

    Where the market does not clear, half-way back to where it did, up to `_HALVED` times; what it
    ran into at first is told in words.
    """
    share, why, moved = 1.0, "", state
    while True:
        try:
            return (
                moved,
                cleared(job.market_at(moved.shares), solver, tol, start, throw=True),
                share,
                why,
            )
        except NotCleared as stop:
            why = why or str(stop)
            if share <= 0.5**_HALVED:
                return moved, stop.clearing, share, why
        share /= 2
        went = jax.tree.map(lambda a, b, k=share: a + k * (b - a), state.before, state.shares)
        moved = replace(state, shares=went)


def _weighed(state: State, limits: Any) -> State:
    """Multipliers moved to where the penalties push; stiffer penalties where that helped little."""
    missed = jnp.maximum(0.0, limits)
    slow = (missed > _LESS * state.missed) & (state.missed > 0)
    return replace(
        state,
        multipliers=jnp.maximum(0.0, state.multipliers + state.penalties * limits),
        penalties=jnp.where(slow, 2 * state.penalties, state.penalties),
        missed=missed,
    )


def _each(market: Market, function: Callable[[Market], Any]) -> Any:
    return jax.vmap(function)(market) if is_batch(market) else function(market)


def _rule(optimizer: "GradientTransformation | None", steps: int) -> Any:
    """The optimizer, able to take the value; imported here, as it loads much of SciPy."""
    import optax

    usual = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
    return optax.with_extra_args_support(usual if optimizer is None else optimizer)


def cleared(
    market: Market, solver: Any, tol: Any, start: Clearing | None, *, throw: bool
) -> Clearing:
    if not is_batch(market):
        return clear(market, solver, tol=tol, start=start, throw=throw)
    found = jax.tree.map(jnp.asarray, clear_many(market, solver, tol=tol, start=start))
    if throw and not bool(found.ok.all()):
        raise NotCleared(
            f"tune: {int((~found.ok).sum())} of {found.ok.size} scenarios do not clear as they "
            f"are, the first: {_word(found)}.",
            found,
        )
    return found


def _word(clearing: Clearing) -> str:
    """The status of the market, or of the first scenario, that did not clear."""
    index = int(jnp.argmin(jnp.ravel(clearing.ok)))
    return status_name(jax.tree.map(lambda a: jnp.ravel(a)[index], clearing.status))


def _told(history: History, total: int, seconds: float) -> TuningProgress:
    return TuningProgress(
        step=len(history.value) - 1,
        total=total,
        value=float(history.value[-1]),
        violation=float(history.violation[-1]),
        gradient=float(history.gradient[-1]),
        solver_steps=int(history.solver_steps[-1]),
        seconds=seconds,
    )
