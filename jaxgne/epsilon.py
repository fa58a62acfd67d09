"""One tuning of a Pareto front: an objective is made small where the other is at most a level.

Tunings that start at places which are known do not know of one another: they may run anywhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .cluster import within
from .descent import AbstractMeasure, descend
from .history import History
from .market import Market
from .result import Clearing, NotCleared
from .sensitivity.implicit import AbstractAdjoint
from .solvers.base import AbstractSolver
from .tuning import Measure

if TYPE_CHECKING:
    from optax import GradientTransformation


class Options(TypedDict, total=False):
    """What each tuning takes as it is; of a folder, each one inside."""

    optimizer: "GradientTransformation | None"
    steps: int
    solver: AbstractSolver | None
    tol: Any
    adjoint: AbstractAdjoint | None
    patience: int | None
    folder: str | Path | None


class Traded(AbstractMeasure):
    """A weighted sum of two objectives that are at most a level each; infinite for no limit."""

    both: Measure  # its constraints: the objectives, then what is to be at most 0
    weights: Float[Array, "2"]
    levels: Float[Array, "2"]
    scales: Float[Array, "2"]

    def value(self, market: Market, clearing: Clearing) -> Float[Array, ""]:
        """What is made small."""
        return self.told(market, clearing)[0]

    def limits(self, market: Market, clearing: Clearing) -> Float[Array, " C"]:
        """By how much levels are exceeded, in parts of the front's range; then the constraints."""
        return self.told(market, clearing)[1]

    def told(
        self, market: Market, clearing: Clearing
    ) -> tuple[Float[Array, ""], Float[Array, " C"]]:
        """Both, of objectives that are traced once."""
        found = self.both.limits(market, clearing)
        above = (found[:2] - self.levels) / self.scales
        levels = jnp.where(jnp.isfinite(self.levels), above, -1.0)
        return jnp.dot(self.weights, found[:2]), jnp.concatenate([levels, found[2:]])


class Start(NamedTuple):
    """Where a tuning starts: a market, and what is known of its equilibrium."""

    market: Market
    clearing: Clearing | None
    multipliers: Float[Array, " C"] | None  # of the limits of `Traded`


class Asked(NamedTuple):
    """What a tuning is asked for."""

    number: int
    start: Start
    axis: int  # of the objective that is made small
    levels: Float[np.ndarray, "2"]
    scales: Float[np.ndarray, "2"]
    drawn: bool  # whether the start is a random one, which need not clear


def tuned(
    both: Measure,
    where: Callable[[Market], Any],
    how: dict[str, Any],
    options: Options,
    folder: Path | None,
    asked: Asked,
) -> History | None:
    """What a tuning did, in a folder of its own; None where a random start does not clear."""
    own = within(folder, f"tuning-{asked.number:03d}")
    numbers = (np.eye(2)[asked.axis], asked.levels, asked.scales)
    measure = Traded(both, *(jnp.array(a, float) for a in numbers))  # of one kind: one program
    try:
        _, history = descend(
            asked.start.market,
            measure,
            where,
            start=asked.start.clearing,
            multipliers=asked.start.multipliers,
            **{**options, **how, "folder": own},
        )
    except NotCleared:
        if asked.drawn:
            return None
        raise
    return history
