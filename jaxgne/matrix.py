"""The market's rows as a sparse matrix, read off `model.rows` itself: for linear programs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from .market import Market, cast
from .model import Plan, Rows, families, rows, zeros
from .programs import program
from .record import changed
from .runner import jnp, vmap, wide
from .succession import depth, parents

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

    A row sees its own hour and, in contents of buffers and levels of caps, the one before. So
    entries are answered for in all hours of even depth at once, then in all others: the answer's
    hour tells which it is.
    """
    from scipy import sparse

    with wide():
        market = cast(market, jnp.float64)
        tables = _tables(market)
        value = rows(market, zeros(market))
        hours = market.prosumers.load.shape[-1]
        total = sum(a.shape[0] for a in tables.values())
        before, deep = (order(market.before, hours) for order in (parents, depth))
        started = market.buffers.owner.shape[0]
        where, families = _slices(tables, hours), _slices(_families(value), hours)
        height = sum(a.shape[0] for a in _families(value).values())
        many = max(1, min(total, _BYTES // (16 * height * hours)))
        parts: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        for first in range(0, total, many):
            index = np.minimum(np.arange(first, first + many), total - 1)
            found = np.asarray(_answers(market, jnp.asarray(index)))[: total - first]
            entry, parity, row, at = np.nonzero(found)
            numbers.append(found[entry, parity, row, at])
            own = deep[at] % 2 == parity
            hour = np.where(own, at, before[at])
            hour[first + entry >= total - started] = 0  # contents at the start stand at hour 0
            column = (first + entry) * hours + hour
            parts.append(np.stack([row * hours + at, column]))
    places = np.concatenate(parts, axis=1)
    matrix = sparse.csr_array(
        (np.concatenate(numbers), (places[0], places[1])), shape=(height * hours, total * hours)
    )
    constant = np.concatenate([np.asarray(a).ravel() for a in _families(value).values()])
    return Linear(matrix, constant, where, families, hours)


def flat(tree: Plan | Rows) -> np.ndarray:
    """A plan, or rows, as one vector, in the order of `Linear`."""
    each = [np.asarray(getattr(tree, name)).ravel() for name in families(tree)]
    return np.asarray(np.concatenate(each))


def as_rows(vector: np.ndarray, like: Rows) -> Rows:
    """What `flat` made one vector of."""
    found, at = {}, 0
    for name in families(like):
        shape = np.shape(getattr(like, name))
        size = math.prod(shape)
        found[name] = jnp.asarray(vector[at : at + size].reshape(shape))
        at += size
    return Rows(**found)


def _tables(market: Market) -> dict[str, Array]:
    plan, nothing = zeros(market), jnp.zeros_like(market.prosumers.load)
    tables = {name: getattr(plan, name) for name in families(plan)}
    return tables | dict(zip(_DATA, (nothing, nothing, plan.energy), strict=True))


def _families(value: Rows) -> dict[str, Array]:
    """Each family as a table."""
    each = {name: getattr(value, name) for name in families(value)}
    return {name: a if a.ndim == 2 else a[None] for name, a in each.items()}


def _slices(tables: dict[str, Array], hours: int) -> dict[str, slice]:
    found, at = {}, 0
    for name, table in tables.items():
        found[name] = slice(at, at + table.shape[0] * hours)
        at = found[name].stop
    return found


def _given(market: Market, load: Array, reactive: Array, start: Array) -> Market:
    """The market with nothing else given than these: its rows are linear."""
    people, grid, stores = market.prosumers, market.grid, market.buffers
    nothing = jnp.zeros_like(grid.passive)
    return changed(
        market,
        prosumers=changed(people, load=load, reactive=reactive),
        grid=changed(grid, passive=nothing, passive_reactive=nothing, tangent=None),
        buffers=changed(stores, energy_start=start, drain=jnp.zeros_like(stores.drain)),
        caps=changed(
            market.caps,
            base=jnp.zeros_like(market.caps.base),
            start=jnp.zeros_like(market.caps.start),
        ),
    )


@program("the matrix of the market's rows", once=True)
def _answers(market: Market, index: Int[Array, " C"]) -> Array:
    """What all rows say to each entry in hours of even depth, then in others: C 2 rows H."""
    tables = _tables(market)
    sizes = [a.shape[0] for a in tables.values()]
    ends = np.cumsum(sizes)[:-1].tolist()
    hours = market.prosumers.load.shape[-1]
    deep = depth(market.before, hours)

    def value(everything: Array) -> Array:
        parts = dict(zip(tables, jnp.split(everything, ends), strict=True))
        load, reactive, start = (parts.pop(name) for name in _DATA)
        there = _given(market, load, reactive, start[:, 0])
        return jnp.concatenate(list(_families(rows(there, Plan(**parts))).values()))

    nothing = jnp.zeros((sum(sizes), hours), market.prosumers.load.dtype)

    def answer(entry: Array, parity: Array) -> Array:
        return value(nothing.at[entry].set(jnp.asarray(deep) % 2 == parity))

    return vmap(lambda entry: vmap(lambda parity: answer(entry, parity))(jnp.arange(2)))(index)
