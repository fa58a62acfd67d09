"""Which of all boxes of net loads that keep linear limits: grown in proportion, or of most room.

A limit's worst over a box is the sum of what each prosumer adds at the end that the limit likes
least (`NetLimits.worst`), so a box is safe at all of its points where it is so row by row.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .net_limits import NetLimits, Reach

_PRECISE = 1e-9  # to which linear programs are solved


class Box(NamedTuple):
    """Net loads from `low` to `high`, kW, by prosumer and hour."""

    low: Float[np.ndarray, "N H"]
    high: Float[np.ndarray, "N H"]


def grown(limits: NetLimits, can: Reach, shares: Box) -> Box:
    """Limits that grow in proportion to `shares` of each way, as far as rows have room.

    Both ways by one factor, until a row binds; then those downward by a larger one, then those
    upward. Nobody's grow beyond its reach, and what it rests at is inside from the start.
    """
    turns = _turns(can, shares)

    def box(out: np.ndarray, into: np.ndarray) -> Box:
        return _scaled(can, shares, out, into)

    both = _largest(limits, turns, lambda t: box(t, t))
    turns = np.maximum(turns, both)
    out = _largest(limits, turns, lambda t: box(t, both))
    return box(out, _largest(limits, turns, lambda t: box(out, t)))


def filled(limits: NetLimits, can: Reach, shares: Box) -> Box:
    """Limits that grow together, of which those go on that no row holds: max-min fair ones.

    Where a row binds, all whom it feels on that side keep what they have, and the others go on in
    proportion to their `shares`. So nobody could have more but from someone who has less, for its
    share (progressive filling: Bertsekas, Gallager, Data Networks, 1992).
    """
    turns = _turns(can, shares)
    factor, found = np.zeros(turns.shape[1]), Box(can.rest, can.rest)
    goes = Box(*(np.ones(can.rest.shape, bool) for _ in range(2)))
    for _ in range(2 * len(can.rest) + 1):  # each pass ends the way of somebody, or all
        turns = np.maximum(turns, factor)

        def box(t: np.ndarray, goes: Box = goes, held: Box = found) -> Box:
            more = _scaled(can, shares, t, t)
            return Box(*(np.where(a, b, c) for a, b, c in zip(goes, more, held, strict=True)))

        factor = _largest(limits, turns, box)
        found = box(factor)
        binds = limits.left(*found) <= _PRECISE * (1 + np.abs(limits.room))
        felt = [(sign * limits.weight > 0).T.astype(float) @ binds > 0 for sign in (-1, 1)]
        goes = Box(*(a & ~b for a, b in zip(goes, felt, strict=True)))
        if np.all(factor >= turns[-1]) or not np.any(goes):
            break
    return found


def _scaled(can: Reach, shares: Box, out: np.ndarray, into: np.ndarray) -> Box:
    """Limits of so many times the shares, between what all rest at and what they can reach."""
    low = np.clip(-out * shares.low, can.low, can.rest)
    return Box(low, np.clip(into * shares.high, can.rest, can.high))


def _turns(can: Reach, shares: Box) -> Float[np.ndarray, "M H"]:
    """Factors at which somebody's limit begins to move or has all its reach, rising from 0."""
    down, up = shares
    ends = ((-can.low, down), (can.high, up), (-can.rest, down), (can.rest, up))
    turns = [np.maximum(a, 0.0) / np.where(b > 0, b, np.inf) for a, b in ends]
    return np.sort(np.concatenate([np.zeros((1, down.shape[1])), *turns]), axis=0)


def _largest(
    limits: NetLimits, turns: np.ndarray, box: Callable[[np.ndarray], Box]
) -> Float[np.ndarray, " H"]:
    """The largest factor of each hour whose `box` keeps all rows.

    What a row has left never grows with it, and is linear between two `turns` (M H, rising), of
    which the first keeps all. So the last turn that does is found by halving, and what is beyond it
    by a ratio.
    """
    steps, last = np.arange(turns.shape[1]), len(turns) - 1
    rounding = _PRECISE * (1 + np.abs(limits.room))

    def left(turn: np.ndarray) -> np.ndarray:
        return limits.left(*box(turns[turn, steps]))

    good, bad = np.zeros(len(steps), int), np.full(len(steps), last + 1)
    for _ in range(math.ceil(math.log2(last + 2))):
        middle = (good + bad) // 2
        holds = np.all(left(middle) >= -rounding, axis=0)
        good, bad = np.where(holds, middle, good), np.where(holds, bad, middle)
    after = np.minimum(good + 1, last)
    now, then = np.maximum(left(good), 0.0), left(after)
    ends = then < -rounding
    share = np.where(ends, now / np.where(ends, now - then, 1.0), 1.0)
    share = np.min(share, axis=0, initial=1.0)
    return turns[good, steps] + share * (turns[after, steps] - turns[good, steps])


def of_most_room(limits: NetLimits, can: Reach, worth: Box) -> Box:
    """The box of the largest sum of limits, a kW of each counted by its `worth` of that way.

    By HiGHS, one linear program with the hours side by side. Of several such boxes it is one.
    Raises `ValueError` where HiGHS finds none.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    rest, (count, steps) = can.rest, can.rest.shape
    rows = np.concatenate([np.maximum(limits.weight, 0.0), np.maximum(-limits.weight, 0.0)], axis=1)
    size = np.concatenate([can.high - rest, rest - can.low])
    more: dict[str, Any] = {}
    if len(rows):
        each = sparse.kron(sparse.eye_array(steps), rows, format="csr")
        more = {"A_ub": each, "b_ub": np.maximum(limits.left(rest, rest), 0.0).T.ravel()}
    found = linprog(
        -np.concatenate([worth.high, worth.low]).T.ravel(),
        bounds=np.stack([np.zeros(size.size), size.T.ravel()], axis=1),
        method="highs",
        options={
            "primal_feasibility_tolerance": _PRECISE,
            "dual_feasibility_tolerance": _PRECISE,
        },
        **more,
    )
    if found.x is None:
        raise ValueError(f"envelopes: HiGHS found no largest sum of limits: {found.message}")
    added = np.clip(found.x.reshape(steps, 2 * count).T, 0.0, size)
    return Box(rest - added[count:], rest + added[:count])
