"""What a tuning did, step by step."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from .record import Record

_SLACK = 1e-3  # of the largest that a constraint has been: within it, it counts as met


class TuningProgress(Record):
    """What a progress callback of `tune` is told after each step."""

    step: int  # from 0
    total: int
    value: float
    violation: float
    gradient: float
    solver_steps: int
    seconds: float


class History(Record):
    """What a tuning did: arrays by step, `T` of them, and why it `stopped`.

    `stopped` is `steps` where all were done, `patience` where none was better for long, or why a
    market did not clear: `infeasible`, `max_steps`, `nonfinite`; the latter also where objective or
    gradient became so. Where only part of the step after a row clears, `halved` and `limit` tell.
    All but a market's own numbers are in the optimizer's coordinates.
    """

    value: Float[np.ndarray, " T"]  # of the objective
    constraints: Float[np.ndarray, "T C"]  # what is to be at most 0
    weights: Float[np.ndarray, "T C"]  # what each of them weighed in the gradient
    gradient: Float[np.ndarray, " T"]  # its norm, without what only pushes against bounds
    foretold: Float[np.ndarray, " T"]  # the change that the gradient says its step makes
    halved: Float[np.ndarray, " T"]  # share of its step that was taken: 1, 1/2, ... where not all
    limit: Any  # words (T): what the market ran into where not all of its step was taken
    solver_steps: Int[np.ndarray, " T"]  # that clearing took; of a batch the most
    tuned: Any  # the fields, each with a leading axis of steps
    stopped: str = eqx.field(static=True, default="steps")

    @property
    def violation(self) -> Float[np.ndarray, " T"]:
        """The largest value above 0 of a constraint."""
        return np.max(self.constraints, axis=1, initial=0.0)

    @property
    def made(self) -> Float[np.ndarray, " T-1"]:
        """The change that each step made of the objective and its weighted constraints.

        Far from `foretold` steps are too long, or what is differentiated is not unique there.
        """
        weighed = np.sum(self.weights[:-1] * np.diff(self.constraints, axis=0), axis=1)
        return np.diff(self.value) + weighed

    @property
    def best(self) -> int:
        """The step of the least value that meets all constraints; else that which misses least."""
        scale = np.max(np.abs(self.constraints), axis=0, initial=0.0)
        missed = np.max(self.constraints / np.where(scale > 0, scale, 1.0), axis=1, initial=0.0)
        met = missed <= _SLACK
        return int(np.argmin(np.where(met, self.value, np.inf) if met.any() else missed))

    def extended(self, row: "History") -> "History":
        """With one step more, whose arrays have no axis of steps."""
        return jax.tree.map(lambda a, b: np.concatenate([a, np.asarray(b)[None]]), self, row)

    def hindered(self, share: float, why: str) -> "History":
        """With the last step no longer than this share of what it was, and why."""
        foretold, halved, limit = self.foretold.copy(), self.halved.copy(), self.limit.tolist()
        foretold[-1] *= share
        halved[-1], limit[-1] = share, why
        return replace(self, foretold=foretold, halved=halved, limit=np.array(limit))

    def ended(self, why: str) -> "History":
        """The same, stopped for a reason."""
        return replace(self, stopped=why)

    def __str__(self) -> str:
        if not len(self.value):
            return f"no steps, stopped: {self.stopped}"
        best = self.best
        lines = [
            f"{len(self.value)} steps, stopped: {self.stopped}",
            f"objective {self.value[0]:.6g} at first, {self.value[best]:.6g} in step {best}, the "
            "best",
            f"norm of the gradient {self.gradient[0]:.3g} at first, {self.gradient[best]:.3g}",
            f"solver steps a clear: {self.solver_steps[0]} at first, "
            f"{np.median(self.solver_steps[1:]) if len(self.value) > 1 else 0:.0f} later",
        ]
        short = np.flatnonzero(self.halved < 1)
        if short.size:
            lines.append(f"{short.size} steps were cut short, the last by: {self.limit[short[-1]]}")
        if self.constraints.shape[1]:
            lines.append(
                f"largest constraint {self.constraints[best].max():.3g} (at most 0 is met)"
            )
        return "\n".join(lines)
