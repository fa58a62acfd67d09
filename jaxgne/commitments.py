"""What is decided once for many steps: the first stage of a market of two stages.

Steps of one `moment` are the same hour of different branches, of which nobody knows which will
come when trades and imports of that hour are fixed. What is committed is one decision: the same in
all steps of a moment, a part of the private sets as bounds are (model.md: Commitments).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .runner import jnp

COMMITTED = ("imports", "trades")  # tables of a plan with entries that may be


class Commitment(NamedTuple):
    """Which steps share their imports and trades, and who does not.

    `moment` numbers for each step the moment that it is one of, -1 for a step that decides by
    itself. The imports of prosumers in `free`, and trades of which they are a side, are decided in
    each step; `tables` may leave out imports, or trades, of all.
    """

    moment: tuple[int, ...]
    free: tuple[int, ...] = ()
    tables: tuple[str, ...] = COMMITTED


def commitment(name: str, given: Any, steps: int, prosumers: int) -> Commitment | None:
    """A commitment as it is kept; None where nothing is committed. `ValueError` if it does not fit.

    Given is a `Commitment`, or the moments alone.
    """
    if given is None:
        return None
    moment, free, tables = given if isinstance(given, Commitment) else Commitment(given)
    number = _whole(moment)
    if number is None or len(number) != steps or min(number, default=0) < -1:
        raise ValueError(
            f"{name}: moment={moment!r:.60}; give for each of {steps} steps the number of its "
            "moment from 0, or -1 where it decides by itself."
        )
    rows = _whole(free)
    if rows is None or not all(0 <= row < prosumers for row in rows):
        raise ValueError(
            f"{name}: free={free!r:.60}; give rows of prosumers from 0 to {prosumers - 1}."
        )
    if isinstance(tables, str) or not {*tables} <= {*COMMITTED}:
        raise ValueError(f"{name}: tables={tables!r}; give of {', '.join(COMMITTED)}.")
    kept = tuple(table for table in COMMITTED if table in tables)
    found = Commitment(number, tuple(sorted({*rows})), kept)
    return found if kept and len(steps_of(found)[0]) else None


def refuse(name: str, market: Any, instead: str = "") -> None:
    """Raise `ValueError` in one sentence if `name` cannot take a market that has commitments."""
    if market.committed is not None:
        instead = instead or "clear it by jaxgne.PrimalDual(), which clear takes by itself"
        raise ValueError(
            f"{name}: this market decides for several steps at once (Market.committed); {instead}."
        )


def _whole(numbers: Sequence[Any]) -> tuple[int, ...] | None:
    """A list of whole numbers; None where it is none."""
    array = np.asarray(numbers)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        return None
    return None if np.any(array != np.floor(array)) else tuple(int(n) for n in array)


@cache
def steps_of(given: Commitment) -> tuple[Int[np.ndarray, "T S"], Int[np.ndarray, " H"]]:
    """The steps of each moment of several, H where it has fewer; and its row there, -1 for none."""
    moment = np.array(given.moment, int)
    numbers, count = np.unique(moment[moment >= 0], return_counts=True)
    numbers, count = numbers[count > 1], count[count > 1]
    steps = np.full((len(numbers), max(count, default=0)), len(moment))
    row = np.full(len(moment), -1)
    for k, number in enumerate(numbers):
        found = np.flatnonzero(moment == number)
        steps[k, : len(found)] = found
        row[found] = k
    return steps, row


def is_committed(market: Any, name: str) -> Bool[Array, "R H"]:
    """Which entries of a table of a plan, one of `COMMITTED`, are one decision with others."""
    given: Commitment = market.committed
    bound = np.full(market.prosumers.bus.shape[0], name in given.tables)
    bound[list(given.free)] = False
    own, pairs = jnp.asarray(bound), market.trading
    own = own if name == "imports" else own[pairs.buyer] & own[pairs.seller]
    return own[:, None] & jnp.asarray(steps_of(given)[1] >= 0)


def at_once(
    market: Any, name: str, values: Array, by: Literal["sum", "min", "max"] = "sum"
) -> Float[Array, "R H"]:
    """Of each committed entry the sum (least, largest) over its moment; all others as they are."""
    steps, row = steps_of(market.committed)
    values = values + jnp.zeros((1, len(row)), values.dtype)
    neutral = {"sum": 0.0, "min": np.inf, "max": -np.inf}[by]
    padded = jnp.concatenate([values, jnp.full_like(values[:, :1], neutral)], axis=1)
    found = getattr(jnp, by)(padded[:, steps], axis=2)[:, np.maximum(row, 0)]
    return jnp.where(is_committed(market, name), found, values)


def mean(market: Any, name: str, values: Array, weight: Array | None = None) -> Array:
    """Of each committed entry the mean over its moment, by positive weights; others as they are."""
    weight = jnp.ones_like(values) if weight is None else weight + jnp.zeros_like(values)
    return at_once(market, name, values * weight) / at_once(market, name, weight)


def apart(market: Any, plan: Any) -> dict[str, Array]:
    """By table, how far committed entries are from one decision, kW."""
    tables = {name: getattr(plan, name) for name in COMMITTED}
    return {name: jnp.abs(table - mean(market, name, table)) for name, table in tables.items()}


def ties(market: Any, columns: dict[str, slice]) -> Int[np.ndarray, "2 C"]:
    """Columns of a program over plans that are one decision: each, and the first of its moment.

    `columns` says where the tables of a plan stand, row after row (`matrix.Linear`).
    """
    found = [np.zeros((2, 0), int)]
    given: Commitment | None = market.committed
    if given is None:
        return found[0]
    steps, hours = steps_of(given)[0], len(given.moment)
    first, others = np.broadcast_arrays(steps[:, :1], steps[:, 1:])
    there = others < hours
    each = np.stack([others[there], first[there]])
    for name in COMMITTED:
        rows = np.flatnonzero(np.any(np.asarray(is_committed(market, name)), axis=1))
        found.append((columns[name].start + rows[:, None] * hours + each[:, None]).reshape(2, -1))
    return np.concatenate(found, axis=1)
