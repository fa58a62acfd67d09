"""The inverse problem: which costs and preferences explain what was observed of a market.

The misfit is the mean square of (computed - observed) / noise over all that was observed, made
small by `tune`. Whether the observations determine the parameters, the rank of their sensitivity
tells (Ljung, System Identification, 1999, 4.6): J = d computed / d parameter, its rows over the
noise, its columns in shares of the range.
"""

import warnings
from collections.abc import Callable
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .arguments import of_tables
from .clearing import differentiable
from .coordinates import Bijection, Coordinates, is_batch, names_of, place, with_fields
from .descent import AbstractMeasure, HowToTune, cleared, descend
from .history import History
from .market import FIELDS, Market
from .record import Record
from .result import Clearing
from .sensitivity.implicit import AbstractAdjoint, Implicit

Observe = Callable[[Market, Clearing], Any]

_RANK = 1e-6  # of the largest singular value, and of what is observed: below it nothing moves
_LEAST = 1e-3  # noises by which a combination must move what is observed, over its whole range
_PART = 0.1  # of a parameter within such combinations: above it, it is not identified


class Misfit(AbstractMeasure):
    """Mean square of what is computed less what was observed, over the noise; NaN: not observed."""

    observe: Observe
    observed: Any
    noise: Any

    def value(self, market: Market, clearing: Clearing) -> Float[Array, ""]:
        """The misfit: about 1 where only noise is left, if `noise` is its standard deviation."""
        observe = jax.vmap(self.observe) if is_batch(market) else self.observe
        values = observe(market, clearing)
        ours, theirs = (jax.tree.map(jnp.shape, tree) for tree in (values, self.observed))
        if ours != theirs:
            raise ValueError(f"fit: observed has shape {theirs}, observe gives {ours}; match them.")
        off = _over_noise(values, self.observed, self.noise)
        kept = jax.tree.map(jnp.isfinite, self.observed)
        count = sum(jnp.sum(a) for a in jax.tree.leaves(kept))
        squares = jax.tree.map(lambda a, k: jnp.sum(jnp.where(k, a, 0.0) ** 2), off, kept)
        return jnp.sum(jnp.stack(jax.tree.leaves(squares))) / count

    def limits(self, market: Market, clearing: Clearing) -> Float[Array, " C"]:
        """None."""
        return jnp.zeros(0, clearing.costs.dtype)


class Identifiability(Record):
    """How well observations determine parameters: `P` of them, in shares of their range.

    `deviation` is each parameter's standard deviation that the noise makes (Cramer, Rao), in its
    own unit; infinite for those that are not `identified`.
    """

    singular_values: Float[np.ndarray, " R"]
    rank: int
    identified: Bool[np.ndarray, " P"]
    deviation: Float[np.ndarray, " P"]
    names: tuple[str, ...] = eqx.field(static=True)

    def __str__(self) -> str:
        lines = [f"rank {self.rank} of {len(self.names)} parameters"]
        for name, known, deviation in zip(self.names, self.identified, self.deviation, strict=True):
            lines.append(f"{name}: {f'+- {deviation:.2g}' if known else 'not identified'}")
        return "\n".join(lines)


@of_tables
def fit(
    market: Market,
    observed: Any,
    observe: Observe,
    where: Callable[[Market], Any],
    *,
    noise: Any = None,
    bounds: tuple[Any, Any] | None = None,
    bijection: Bijection | None = None,
    steps: int = 600,
    adjoint: AbstractAdjoint | None = None,
    **options: Unpack[HowToTune],
) -> tuple[Market, History]:
    """The fields `where(market)` that explain what was `observed` of its clearing.

    `observe(market, clearing)` computes what was observed, an array or a pytree of them: dispatch,
    trades, prices. NaN in `observed` was not observed. `noise` is the standard deviation of the
    observations, one number or one for each of its arrays; by default the root mean square of each.
    A batch of markets shares the fields; `observed` then has a leading axis of scenarios.
    `bounds`, `bijection`, `steps`, `adjoint` and the other `options` are those of `tune`.

    Returns the fitted market and the history, whose values are misfits. What `identifiability` says
    of deviations holds where these are least: costs that trade off against one another take
    hundreds of steps, and a `history.gradient` that is not small at the end tells of too few.
    Warns of parameters that the observations do not determine at the fitted market: these stay near
    where they started.

    Raises what `tune` raises, and `ValueError` for observations of another shape than computed.
    """
    observed = jax.tree.map(jnp.asarray, observed)
    noise = _noise(observed, noise)
    market = jax.tree.map(jnp.asarray, market)
    misfit = Misfit(observe, observed, noise)
    fitted, history = descend(
        market, misfit, where, bounds=bounds, bijection=bijection, steps=steps, adjoint=adjoint,
        **options,
    )  # fmt: skip
    found = identifiability(
        fitted, observe, where, observed=observed, noise=noise, bounds=bounds, bijection=bijection,
        solver=options.get("solver"), tol=options.get("tol"), adjoint=adjoint,
    )  # fmt: skip
    if not found.identified.all():
        lost = [n for n, known in zip(found.names, found.identified, strict=True) if not known]
        warnings.warn(
            f"fit: the observations do not determine {', '.join(lost)} (rank {found.rank} of "
            f"{len(found.names)}); observe more, or leave them out of where.",
            stacklevel=2,
        )
    return fitted, history


@of_tables
def identifiability(
    market: Market,
    observe: Observe,
    where: Callable[[Market], Any],
    *,
    noise: Any = 1.0,
    observed: Any = None,
    bounds: tuple[Any, Any] | None = None,
    bijection: Any = None,
    solver: Any = None,
    tol: Any = None,
    adjoint: AbstractAdjoint | None = None,
) -> Identifiability:
    """Whether `observe(market, clearing)` determines the fields near those of the market.

    The singular values of d observe / d fields by the implicit rule, over the `noise` and in shares
    of the range between `bounds`, without them of the fields' own size. Those count as none that
    are a millionth of the largest, or where the whole range moves what is observed by less than a
    thousandth of its noise, or a millionth of its size. What is NaN in `observed` does not count.
    Clears the market; raises `NotCleared` if it does not.
    """
    market = jax.tree.map(jnp.asarray, market)
    coordinates, shares = place(market, where, bounds, bijection)
    found = cleared(market, solver, tol, None, throw=True)
    adjoint = Implicit(throw=False) if adjoint is None else adjoint
    flat, unravel = ravel_pytree(shares)
    scale = jnp.ones_like(flat) if bounds is not None else jnp.where(flat != 0, abs(flat), 1.0)
    matrix = np.asarray(_jacobian(market, found, flat, unravel, observe, where, coordinates,
                                  adjoint, noise)) * np.asarray(scale)  # fmt: skip
    values = (jax.vmap(observe) if is_batch(market) else observe)(market, found)
    size = np.asarray(ravel_pytree(_over_noise(values, None, noise))[0])
    if observed is not None:
        kept = np.isfinite(np.asarray(ravel_pytree(observed)[0]))
        matrix, size = matrix[kept], size[kept]
    width = np.asarray(ravel_pytree(coordinates.width)[0]) * np.asarray(scale)
    names = parameter_names(market, where, bijection, shares)
    return _ranked(matrix, max(_LEAST, _RANK * float(np.linalg.norm(size))), width, names)


def _ranked(
    matrix: np.ndarray, floor: float, width: np.ndarray, names: tuple[str, ...]
) -> Identifiability:
    """Rank and deviations of a Jacobian in shares of the range; below `floor` is nothing."""
    _, sizes, right = np.linalg.svd(matrix, full_matrices=True)
    rank = int(np.sum(sizes > max(floor, _RANK * sizes.max(initial=0.0))))
    lost = np.sqrt(np.sum(right[rank:] ** 2, axis=0))  # of each parameter, what moves nothing
    identified = lost < _PART
    deviation = np.sqrt(np.sum((right[:rank] / sizes[:rank, None]) ** 2, axis=0)) * width
    return Identifiability(sizes, rank, identified, np.where(identified, deviation, np.inf), names)


@eqx.filter_jit
def _jacobian(
    market: Market,
    clearing: Clearing,
    flat: Float[Array, " P"],
    unravel: Callable[[Array], Any],
    observe: Observe,
    where: Callable[[Market], Any],
    coordinates: Coordinates,
    adjoint: AbstractAdjoint,
    noise: Any,
) -> Float[Array, "O P"]:
    """d (observe / noise) / d shares."""

    def computed(flat: Array) -> Array:
        here = with_fields(market, where, coordinates.fields(unravel(flat)))

        def each(market: Market, clearing: Clearing) -> Any:
            return observe(market, differentiable(market, clearing, adjoint))

        values = (jax.vmap(each) if is_batch(here) else each)(here, clearing)
        return ravel_pytree(_over_noise(values, None, noise))[0]

    return jax.jacfwd(computed)(flat)


def parameter_names(
    market: Market, where: Callable[[Market], Any], bijection: Any, shares: Any
) -> tuple[str, ...]:
    """A name for each number that is moved: `Generators.linear[2]`, `Buffers.drain[Wallbox, 3]`."""
    leaves = jax.tree.leaves(shares)
    tables = names_of(market, where) if bijection is None else ["u"] * len(leaves)
    wide = {name for name, field in FIELDS.items() if field.either and not field.timed(market)}
    return tuple(
        f"{table}{_place(market, table, index)}"
        for table, leaf in zip(tables, leaves, strict=True)
        for index in np.ndindex(leaf.shape[:-1] if table in wide else leaf.shape)
    )


def _place(market: Market, table: str, index: tuple[int, ...]) -> str:
    """Where a number is, by name where its row has one: `[Miller, 3]`."""
    if not index:
        return ""
    grid, known = market.grid, {"N": market.prosumers.names, "G": market.generators.names}
    known |= {"K": market.buffers.names, "B": grid.names, "L": grid.line_names}
    known |= {"M": market.caps.names}
    axes = FIELDS[table].axes if table in FIELDS else ("",) * len(index)
    own = (known.get(axis, ()) for axis in axes)
    words = (k[row] if k else "" for k, row in zip(own, index, strict=False))
    return f"[{', '.join(word or str(row) for word, row in zip(words, index, strict=True))}]"


def _over_noise(values: Any, observed: Any, noise: Any) -> Any:
    """(values - observed) / noise, whose deviations are one for all or one for each array."""
    zero = jax.tree.map(jnp.zeros_like, values) if observed is None else observed
    one = jax.tree.structure(noise) != jax.tree.structure(values)
    noises = jax.tree.map(lambda _: noise, values) if one else noise
    return jax.tree.map(lambda a, b, n: (a - jnp.nan_to_num(b)) / n, values, zero, noises)


def _noise(observed: Any, noise: Any) -> Any:
    if noise is not None:
        return jax.tree.map(jnp.asarray, noise)
    sizes = jax.tree.map(lambda a: jnp.sqrt(jnp.nanmean(a**2)), observed)
    return jax.tree.map(lambda a: jnp.where(a > 0, a, 1.0), sizes)
