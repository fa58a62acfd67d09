"""Tuning a mechanism: any numbers of a market, for any function of what it clears to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .arguments import of_tables
from .coordinates import Bijection, is_batch
from .descent import AbstractMeasure, descend
from .history import History, TuningProgress
from .market import Market
from .result import Clearing
from .sensitivity.implicit import AbstractAdjoint
from .solvers.base import AbstractSolver

if TYPE_CHECKING:
    from optax import GradientTransformation

Outcome = Callable[[Market, Clearing], Any]


class Measure(AbstractMeasure):
    """Functions of one market, made one number of a batch by `reduce`."""

    objective: Outcome
    constraints: tuple[Outcome, ...]
    reduce: Callable[[Array], Array]

    def value(self, market: Market, clearing: Clearing) -> Float[Array, ""]:
        """The objective, reduced over scenarios."""
        if not is_batch(market):
            return jnp.asarray(self.objective(market, clearing))
        return self.reduce(jax.vmap(self.objective)(market, clearing))

    def limits(self, market: Market, clearing: Clearing) -> Float[Array, " C"]:
        """The constraints' values, each reduced over scenarios."""

        def each(market: Market, clearing: Clearing) -> Array:
            found = [jnp.ravel(jnp.asarray(g(market, clearing))) for g in self.constraints]
            return jnp.concatenate(found) if found else jnp.zeros(0, clearing.costs.dtype)

        if not is_batch(market):
            return each(market, clearing)
        return jax.vmap(self.reduce, in_axes=1)(jax.vmap(each)(market, clearing))


@of_tables
def tune(
    market: Market,
    objective: Outcome,
    where: Callable[[Market], Any],
    *,
    optimizer: "GradientTransformation | None" = None,
    steps: int = 50,
    bounds: tuple[Any, Any] | None = None,
    bijection: Bijection | None = None,
    constraints: Sequence[Outcome] = (),
    reduce: Callable[[Array], Array] = jnp.mean,
    solver: AbstractSolver | None = None,
    tol: Any = None,
    adjoint: AbstractAdjoint | None = None,
    patience: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[TuningProgress], None] | None = None,
) -> tuple[Market, History]:
    """Change the fields `where(market)` until `objective(market, clearing)` is small.

    Returns the best market of at most `steps` steps and how it came about. That is a local optimum
    at best: objectives of equilibria have kinks, where trades or limits switch, and are rarely
    convex; a `history.gradient` that does not become small tells. With `bounds=(low, high)`,
    numbers or pytrees like the fields, the optimizer moves shares of the range from 0 to 1, so that
    its rate needs no unit. With a `bijection`, `fields = bijection.forward(u)` and u is moved,
    within the bounds if there are: see `jaxgne.coordinates.Linear` for what ties fields to one
    another. `optimizer` is any of optax that needs gradients, and the value, only; by default Adam
    at a rate that falls from 5 % of the range to 0 along a cosine.

    `constraints` are functions of market and clearing whose values must be at most 0. A step counts
    as best only if they are, to a thousandth of the largest that they have been.

    A batch of markets, with a leading axis of scenarios, shares the fields; `reduce` makes one
    number of the scenarios' objectives, and of each constraint's values.

    A step that does not clear is halved, five times at most: `history.halved` and `history.limit`
    tell which, and what the market ran into. If it still does not clear the tuning ends, as after
    `patience` steps without a better one: `history.stopped` tells. With `folder` each step is kept
    there, and a later call with the same arguments, functions included by their code and all that
    it refers to, goes on after the last one. `solver` and `tol` are for `clear`, `adjoint` for its
    derivatives, by default `Implicit(throw=False)`: what is not unique moves as little as it can.

    Ctrl-C raises a `Stopped` that has the best market so far, `.market`, and its `.history`.

    Raises `NotCleared` if the market does not clear as it is, and `ValueError` for fields out of
    bounds or that differ between scenarios, neither bounds nor optimizer, a folder of another
    tuning, or, with a folder, functions that use what none can tell from others of its kind.
    """
    return descend(
        market,
        Measure(objective, tuple(constraints), reduce),
        where,
        optimizer=optimizer,
        steps=steps,
        bounds=bounds,
        bijection=bijection,
        solver=solver,
        tol=tol,
        adjoint=adjoint,
        patience=patience,
        folder=folder,
        progress=progress,
    )
