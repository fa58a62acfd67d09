"""In what order the nodes of a forest are eliminated: few wide steps, however deep it is.

Leaves go, and every other node of a chain, round by round until none is left (Miller, Reif,
"Parallel tree contraction and its application", FOCS 1985). A node that goes has at most one child,
and neither its parent nor its child go with it: what is left is a forest again, in which the child
stands below the parent, and nodes of a round may go at once. O(log G) rounds, O(G) work in all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int, Num

from ..radial import lookup
from ..record import Record

_SHARE = 24  # one in so many nodes goes in a step, at most


class Step(NamedTuple):
    """The nodes that go in a step; G stands for none, and fills the step up."""

    place: Int[Array, " W"]  # in the order of all
    ends: Int[Array, "W 3"]  # each node, its parent and its child as it goes


class Contraction(Record):
    """The order in which nodes go, in steps of one round each."""

    ends: Int[Array, "G+1 3"]  # each node, its parent and its child as it goes; G for none, as last
    first: Int[Array, " G+1"]  # place of each step, up to the last; then G
    steps: Int[Array, ""]

    def step(self, at: Int[Array, ""]) -> Step:
        """One of the steps; one after the last has no nodes."""
        count = self.first.shape[0] - 1
        place = self.first[at] + jnp.arange(_width(count), dtype=self.first.dtype)
        place = jnp.where(place < self.first[at + 1], place, count)
        return Step(place, inside(self.ends, place))


def inside(values: Num[Array, "B ..."], index: Int[Array, "..."]) -> Num[Array, "..."]:
    """The values at an index that is never out of range, which then need not be compared."""
    return values.at[index].get(mode="promise_in_bounds")


def _width(count: int) -> int:
    return -(-count // _SHARE)


@custom_vmap
def most(count: Int[Array, ""]) -> Int[Array, ""]:
    """A number, of a batch the largest: so that none waits in a loop that is as long for all."""
    return count


@most.def_vmap
def _(_: int, batched: list[bool], count: Array) -> tuple[Array, bool]:
    return (jnp.max(count) if batched[0] else count), False


def contract(parent: Int[Array, " G"]) -> Contraction:
    """In what order the nodes of a forest go; `parent` is G for roots."""
    count, parent = parent.shape[0], parent.astype(jnp.int32)
    each = jnp.arange(count, dtype=parent.dtype)
    none = jnp.full(count, count, parent.dtype)

    def once(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        parent, left, turn, near, now, _ = carry
        above = jnp.where(left, parent, count)
        children = jnp.zeros_like(parent).at[above].add(1)
        child = none.at[above].min(each)
        leaf, only = left & (children == 0), left & (children == 1)
        goes = leaf | (only & _odd(parent) & ~lookup(leaf, child))
        both = jnp.stack([parent, jnp.where(only, child, count)], axis=1)
        return (
            jnp.where(lookup(goes, parent), _known(parent, parent), parent),
            left & ~goes,
            jnp.where(goes, now, turn),
            jnp.where(goes[:, None], both, near),
            now + 1,
            jnp.any(goes),  # it ends even where parents go round in a circle
        )

    nobody, now = jnp.stack([none, none], axis=1), jnp.zeros((), parent.dtype)
    start = parent, jnp.ones(count, bool), none, nobody, now, jnp.array(True)
    _, _, turn, near, *_ = jax.lax.while_loop(lambda carry: carry[-1], once, start)
    node = jnp.argsort(turn, stable=True).astype(parent.dtype)
    turn = turn[node]
    begun = none.at[turn].min(each)[turn]
    new = (each - begun) % _width(count) == 0
    step = jnp.cumsum(new, dtype=parent.dtype)
    first = jnp.full(count + 1, count, parent.dtype).at[step - 1].min(each)
    ends = jnp.concatenate([node[:, None], near[node]], axis=1)
    last = jnp.full((1, 3), count, parent.dtype)
    return Contraction(jnp.concatenate([ends, last]), first, step[-1])


def _odd(parent: Int[Array, " G"]) -> Bool[Array, " G"]:
    """Which nodes are at odd depths, by pointer doubling."""

    count = parent.shape[0]

    def double(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        ahead, odd, passes = carry
        return _known(ahead, ahead), odd ^ lookup(odd, ahead), passes + 1

    def more(carry: tuple[Array, ...]) -> Array:
        return jnp.any(carry[0] < count) & (carry[2] < count.bit_length())

    start = parent, parent < count, jnp.zeros((), parent.dtype)
    return jax.lax.while_loop(more, double, start)[1]


def _known(values: Int[Array, "G ..."], index: Int[Array, " W"]) -> Int[Array, "W ..."]:
    """Values at an index, none where that is none."""
    return values.at[index].get(mode="fill", fill_value=values.shape[0])
