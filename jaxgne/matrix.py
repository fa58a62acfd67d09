"""The market's rows as a sparse matrix, read off `model.rows` itself: for linear programs."""

import math
from dataclasses import dataclass, fields
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .market import Market, cast
from .model import Plan, Rows, rows, zeros

_BYTES = 2**25  # of answers that are probed for at once
_DATA = ("load", "load_reactive", "energy_start")  # tables beside the plan that rows are linear in


@dataclass(frozen=True)
class Linear:
    """`matrix @ columns + constant` are the rows, all of them hour by hour, row after row.

    `columns` says where each table stands: a `Plan`'s, and `load`, `load_reactive` and
    `energy_start` (its first hour), changes of the market's own. `rows` says it of each family.
    """

    matrix: Any  # a scipy.sparse.csr_array
    constant: np.ndarray
    columns: dict[str, slice]
    rows: dict[str, slice]
    hours: int


def linear(market: Market) -> Linear:
    """`model.rows` of a market as a matrix.

    A row sees its own hour and, in the content of buffers, the one before. So entries are answered
    for in all even hours at once, then in all odd ones: the answer's hour tells which it is.
    """
    from scipy import sparse

    with jax.enable_x64(True):
        market = cast(market, jnp.float64)
        tables = _tables(market)
        value = rows(market, zeros(market))
        hours = market.prosumers.load.shape[-1]
        total = sum(a.shape[0] for a in tables.values())
        where, families = _slices(tables, hours), _slices(_families(value), hours)
        height = sum(a.shape[0] for a in _families(value).values())
        wide = max(1, min(total, _BYTES // (16 * height * hours)))
        parts: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        for first in range(0, total, wide):
            index = np.minimum(np.arange(first, first + wide), total - 1)
            found = np.asarray(_answers(market, jnp.asarray(index)))[: total - first]
            entry, parity, row, at = np.nonzero(found)
            numbers.append(found[entry, parity, row, at])
            column = (first + entry) * hours + at - ((at + parity) % 2)
            parts.append(np.stack([row * hours + at, column]))
    places = np.concatenate(parts, axis=1)
    matrix = sparse.csr_array(
        (np.concatenate(numbers), (places[0], places[1])), shape=(height * hours, total * hours)
    )
    constant = np.concatenate([np.asarray(a).ravel() for a in _families(value).values()])
    return Linear(matrix, constant, where, families, hours)


def flat(tree: Plan | Rows) -> np.ndarray:
    """A plan, or rows, as one vector, in the order of `Linear`."""
    return np.concatenate([np.asarray(getattr(tree, f.name)).ravel() for f in fields(tree)])


def as_rows(vector: np.ndarray, like: Rows) -> Rows:
    """What `flat` made one vector of."""
    found, at = {}, 0
    for f in fields(Rows):
        shape = np.shape(getattr(like, f.name))
        size = math.prod(shape)
        found[f.name] = jnp.asarray(vector[at : at + size].reshape(shape))
        at += size
    return Rows(**found)


def _tables(market: Market) -> dict[str, Array]:
    plan, nothing = zeros(market), jnp.zeros_like(market.prosumers.load)
    tables = {f.name: getattr(plan, f.name) for f in fields(Plan)}
    return tables | dict(zip(_DATA, (nothing, nothing, plan.energy), strict=True))


def _families(value: Rows) -> dict[str, Array]:
    """Each family as a table."""
    each = {f.name: getattr(value, f.name) for f in fields(Rows)}
    return {name: a if a.ndim == 2 else a[None] for name, a in each.items()}


def _slices(tables: dict[str, Array], hours: int) -> dict[str, slice]:
    found, at = {}, 0
    for name, table in tables.items():
        found[name] = slice(at, at + table.shape[0] * hours)
        at = found[name].stop
    return found


def _data(market: Market) -> tuple[Array, Array, Array]:
    people = market.prosumers
    return people.load, people.reactive, market.buffers.energy_start


@eqx.filter_jit
def _answers(market: Market, index: Int[Array, " C"]) -> Array:
    """What all rows say to each entry in even hours, then in odd ones: C 2 rows H."""
    tables = _tables(market)
    sizes = [a.shape[0] for a in tables.values()]
    ends = np.cumsum(sizes)[:-1].tolist()
    hours = market.prosumers.load.shape[-1]

    def value(everything: Array) -> Array:
        parts = dict(zip(tables, jnp.split(everything, ends), strict=True))
        load, reactive, start = (parts.pop(name) for name in _DATA)
        old = _data(market)
        new = (old[0] + load, old[1] + reactive, old[2] + start[:, 0])
        there = eqx.tree_at(_data, market, new)
        return jnp.concatenate(list(_families(rows(there, Plan(**parts))).values()))

    nothing = jnp.zeros((sum(sizes), hours), market.prosumers.load.dtype)

    def answer(entry: Array, parity: Array) -> Array:
        asked = nothing.at[entry].set(jnp.arange(hours) % 2 == parity)
        return jax.jvp(value, (nothing,), (asked,))[1]

    each = jax.vmap(jax.vmap(answer, (None, 0)), (0, None))
    return each(index, jnp.arange(2))
