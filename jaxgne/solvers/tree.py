"""The inverse of A tau A^T on a radial feeder, by elimination from its leaves.

With the voltages' own changes w kept as unknowns, the rows of a bus meet only its parent's.
Eliminating the leaves first leaves a block of 3 x 3 (prices of active and reactive power, w) a bus,
and what a bus passes on to its parent is linear. What climbs the tree does so by doubling, as in
`radial`: O(B log depth) an hour.
"""

import jax
import jax.numpy as jnp
from jax.ops import segment_sum
from jaxtyping import Array, Bool, Float, Int

from ..radial import Ladder, lookup
from ..record import Record


class Tree(Record):
    """(A tau A^T)^-1 of a feeder whose lines point away from the main grid."""

    source: Int[Array, " L"]
    target: Int[Array, " L"]
    share: Float[Array, "L 3"]  # of a line's voltage row in the equations of its two buses
    lean: Float[Array, " L"]  # and in its own price
    pivot: Float[Array, "B 3 3"]  # its inverse; 0 at feeders
    passed: Float[Array, "K B 3 3"]  # what a bus adds to the equations of each ancestor
    ladder: Ladder

    def __call__(
        self,
        bus: Float[Array, "B H"],
        bus_reactive: Float[Array, "B H"],
        voltage: Float[Array, "L H"],
    ) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "L H"]]:
        """The inverse times rows of buses and lines; feeders' own rows are left out."""
        share = self.share[:, :, None] * voltage[:, None]
        known = jnp.stack([bus, bus_reactive, jnp.zeros_like(bus)], axis=1)
        known = known.at[self.target].add(share).at[self.source].add(-share)
        ancestor, passes = self.ladder.ancestor, self.ladder.passes

        def collect(k: Array, at: Array) -> Array:
            return at.at[ancestor[k]].add(self.passed[k] @ at)

        def hand_out(k: Array, at: Array) -> Array:
            return at + self.passed[k].mT @ lookup(at, ancestor[k])

        known = jax.lax.fori_loop(0, passes, collect, known)
        solved = jax.lax.fori_loop(0, passes, hand_out, self.pivot @ known)
        change = solved[self.target] - solved[self.source]
        own = self.lean[:, None] * voltage
        return solved[:, 0], solved[:, 1], own + jnp.sum(self.share[:, :, None] * change, axis=1)


def eliminate(
    source: Int[Array, " L"],
    target: Int[Array, " L"],
    fed: Bool[Array, " B"],
    ladder: Ladder,
    flow: Float[Array, "L 2 2"],
    slack: Float[Array, " L"],
    voltage: Float[Array, " B"],
    devices: Float[Array, "2 B"],
    drop: Float[Array, "2 L"],
) -> Tree:
    """The inverse for steps `flow` of lines' active and reactive flows and `voltage` of buses.

    `devices` is what other columns add to a bus's own two rows, `slack` to a line's; `drop` is how
    much the squared voltage falls per unit of active and of reactive flow. Inside w is referred to
    the feeders, so that it sees no transformer (`Ladder.base`).
    """
    moved = jnp.einsum("lij,jl->il", flow, drop)
    square = jnp.sum(drop * moved, axis=0) + slack
    fall, lean, base = moved / square, 1 / square, ladder.base**2
    behind = base[target]
    seen, part = behind * fall, behind * lean
    # a line's part of the equations at its lower end; the other blocks are this or its negative
    own = flow.transpose(1, 2, 0) - moved[:, None] * fall[None]
    upper = jnp.concatenate([own, seen[:, None]], axis=1)
    lower = jnp.concatenate([seen, -(behind * part)[None]])[None]
    lines = jnp.concatenate([upper, lower]).transpose(2, 0, 1)
    coupling = jnp.zeros((fed.shape[0], 3, 3), flow.dtype).at[target].set(lines)
    diagonal = jnp.stack([*devices, -(base**2) / voltage], axis=1)
    start = coupling + jax.vmap(jnp.diag)(diagonal)
    parent = ladder.ancestor[0]

    def onward(_: int, pivot: Array) -> Array:
        """Pivots that are right one bus further from the leaves."""
        pivot = jnp.where(fed[:, None, None], jnp.eye(3), pivot)
        left = coupling - coupling @ jnp.linalg.solve(pivot, coupling)
        return start + segment_sum(left, parent, fed.shape[0])

    pivot = jax.lax.fori_loop(0, jnp.max(ladder.depth), onward, start)
    pivot = jnp.linalg.inv(jnp.where(fed[:, None, None], jnp.eye(3), pivot))
    pivot = jnp.where(fed[:, None, None], 0.0, pivot)

    def double(passed: Array, ahead: Array) -> tuple[Array, Array]:
        return lookup(passed, ahead) @ passed, passed

    _, passed = jax.lax.scan(double, coupling @ pivot, ladder.ancestor)
    share = jnp.concatenate([-fall, part[None]]).T
    return Tree(source, target, share, lean, pivot, passed, ladder)
