"""Which step each step begins from: on a path the one before, in a tree its parent.

`before` is None for a path; in a tree it names for each step an earlier one, or -1 for a step that
begins from the start. What is known of a market's time before any number is, is static: a path
keeps the programs of a path.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .runner import jnp, lax

Before = tuple[int, ...] | None


def order(name: str, before: Any, steps: int) -> Before:
    """`before` as it is kept. `ValueError` unless each names an earlier step, or -1."""
    if before is None:
        return None
    given = np.asarray(before)
    fits = given.shape == (steps,) and np.issubdtype(given.dtype, np.number)
    if not fits or np.any((given != np.floor(given)) | (given < -1) | (given >= np.arange(steps))):
        raise ValueError(
            f"{name}: {before!r:.60}; give for each of {steps} steps the number of an earlier one "
            "that it begins from, or -1 for the start."
        )
    found = tuple(int(step) for step in given)
    return None if found == tuple(range(-1, steps - 1)) else found


def parents(before: Before, steps: int) -> Int[np.ndarray, " H"]:
    """The step that each begins from; -1 where that is the start."""
    return np.arange(-1, steps - 1) if before is None else np.array(before)


def roots(before: Before, steps: int) -> Bool[np.ndarray, " H"]:
    """Steps that begin from the start."""
    return parents(before, steps) < 0


def leaves(before: Before, steps: int) -> Bool[np.ndarray, " H"]:
    """Steps from which none begins."""
    last = np.ones(steps, bool)
    last[parents(before, steps)[~roots(before, steps)]] = False
    return last


def depth(before: Before, steps: int) -> Int[np.ndarray, " H"]:
    """How many steps lie before each."""
    found = np.zeros(steps, int)
    for step, parent in enumerate(parents(before, steps)):
        found[step] = found[parent] + 1 if parent >= 0 else 0
    return found


def ways(before: Before, steps: int) -> Float[np.ndarray, "H H"]:
    """1 in the row of each step at all that lead to it, and at itself."""
    found = np.eye(steps)
    for step, parent in enumerate(parents(before, steps)):
        if parent >= 0:
            found[step] += found[parent]
    return found


def way_to(before: Before, steps: int, leaf: int) -> list[int]:
    """The steps that lead to one, and that itself, in order."""
    way, parent = [leaf], parents(before, steps)
    while parent[way[-1]] >= 0:
        way.append(int(parent[way[-1]]))
    return way[::-1]


def earlier(before: Before, steps: int) -> Float[np.ndarray, "H H"]:
    """1 in the row of each step at the one that it begins from."""
    return (parents(before, steps)[:, None] == np.arange(steps)).astype(float)


def entered(
    before: Before, first: Float[Array, " K"], ends: Float[Array, "K H"]
) -> Float[Array, "K H"]:
    """What steps begin with: what those that they begin from ended with, or `first`."""
    if before is None:
        return jnp.concatenate([first[:, None], ends[:, :-1]], axis=1)
    return jnp.concatenate([ends, first[:, None]], axis=1)[:, np.array(before)]


def handed(before: Before, values: Float[Array, "K H"]) -> Float[Array, "K H"]:
    """The transpose of `entered` in the ends: the sum over the steps that begin from each."""
    nothing = jnp.zeros_like(values[:, :1])
    if before is None:
        return jnp.concatenate([values[:, 1:], nothing], axis=1)
    each = jnp.concatenate([jnp.zeros_like(values), nothing], axis=1)
    return each.at[:, np.array(before)].add(values)[:, :-1]


def siblings(before: Before, steps: int) -> Float[np.ndarray, "H H"]:
    """1 where two steps begin from the same one."""
    both = earlier(before, steps) @ earlier(before, steps).T
    return both - np.diag(np.diag(both))


def to_roots(before: tuple[int, ...], step: Callable, table: Array, over: Any) -> Any:
    """Steps of a tree, each ahead of the one that it begins from.

    `table` has a row for each step and, last, one for the start. `step(own, there, x)` has the row
    of the step, as those that begin from it have left it, and of the one that it begins from, and
    returns what that becomes, and an output. Returns the outputs of all steps, in order.
    """

    def turn(table: Array, now: Any) -> Any:
        here, parent, x = now
        left, out = step(table[here], table[parent], x)
        return table.at[parent].set(left), out

    return lax.scan(turn, table, (*_places(before), over), reverse=True)[1]


def to_leaves(before: tuple[int, ...], step: Callable, table: Array, over: Any) -> Any:
    """The other way round: `step(there, x)` returns its own row, what the row of the step that it
    begins from becomes, and an output.
    """

    def turn(table: Array, now: Any) -> Any:
        here, parent, x = now
        own, left, out = step(table[parent], x)
        return table.at[parent].set(left).at[here].set(own), out

    return lax.scan(turn, table, (*_places(before), over))[1]


def onward(before: Before, step: Callable, first: Array, over: Any) -> Any:
    """Steps of a path or a tree, each after the one that it begins from.

    `step(there, x)` has what that one became, `first` at the start, and returns what its own step
    becomes, and an output. Returns the outputs of all steps, in order.
    """
    if before is None:
        return lax.scan(step, first, over)[1]

    def turn(there: Array, x: Any) -> tuple[Array, Array, Any]:
        own, out = step(there, x)
        return own, there, out

    return to_leaves(before, turn, blank(before, first).at[-1].set(first), over)


def backward(before: Before, step: Callable, nothing: Array, over: Any) -> Any:
    """The other way round: `step(asked, x)` has the most that steps that begin from it ask.

    That is `nothing` at the last; it returns what it asks itself, and an output.
    """
    if before is None:
        return lax.scan(step, nothing, over, reverse=True)[1]

    def turn(asked: Array, there: Array, x: Any) -> tuple[Array, Any]:
        asks, out = step(asked, x)
        return jnp.maximum(there, asks), out

    return to_roots(before, turn, blank(before, nothing) + nothing, over)


def blank(before: tuple[int, ...], nothing: Array) -> Array:
    """A table for `to_roots` and `to_leaves` whose rows are `nothing`."""
    return jnp.zeros((len(before) + 1, *nothing.shape), nothing.dtype)


def _places(before: tuple[int, ...]) -> tuple[Array, Array]:
    """The rows of steps, and of those that they begin from."""
    parent = np.where(np.array(before) < 0, len(before), before)
    return jnp.arange(len(before)), jnp.asarray(parent)
