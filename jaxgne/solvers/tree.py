"""The inverse of A tau A^T on a radial feeder, by elimination from its leaves.

With the voltages' own changes w kept as unknowns, the rows of a bus meet only its parent's.
Eliminating the leaves first leaves a block of 3 x 3 (prices of active and reactive power, w) a bus
and phase, and what a bus passes on to its parent is linear. What climbs the tree does so by
doubling, as in `radial`: O(B log depth) an hour. `groups` has buses with all their phases.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..radial import lookup
from ..record import Record
from .groups import Groups, blocks


class Tree(Record):
    """(A tau A^T)^-1 of a feeder whose lines point away from the main grid."""

    groups: Groups
    share: Float[Array, "G 3n n"]  # of a line's voltage rows in the equations of its two buses
    lean: Float[Array, "G n n"]  # and in their own prices
    pivot: Float[Array, "G 3n 3n"]  # its inverse; 0 at feeders
    passed: Float[Array, "K G 3n 3n"]  # what a bus adds to the equations of each ancestor

    def __call__(
        self,
        bus: Float[Array, "B H"],
        bus_reactive: Float[Array, "B H"],
        voltage: Float[Array, "L H"],
    ) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "L H"]]:
        """The inverse times rows of buses and lines; feeders' own rows are left out."""
        groups, ladder = self.groups, self.groups.ladder
        active, reactive = groups.at_rows(bus), groups.at_rows(bus_reactive)
        drop, n = groups.at_wires(voltage), active.shape[1]
        share = self.share @ drop
        known = jnp.concatenate([active, reactive, jnp.zeros_like(active)], axis=1)
        known = known + share - groups.behind(share)

        def collect(k: Array, at: Array) -> Array:
            return at.at[ladder.ancestor[k]].add(self.passed[k] @ at)

        def hand_out(k: Array, at: Array) -> Array:
            return at + self.passed[k].mT @ lookup(at, ladder.ancestor[k])

        known = jax.lax.fori_loop(0, ladder.passes, collect, known)
        solved = jax.lax.fori_loop(0, ladder.passes, hand_out, self.pivot @ known)
        change = solved - groups.seen(solved)
        price = self.lean @ drop + self.share.mT @ change
        active, reactive = (groups.to_rows(solved[:, k : k + n], len(bus)) for k in (0, n))
        return active, reactive, groups.to_wires(price, len(voltage))


def eliminate(
    groups: Groups,
    flow: Float[Array, "L 2 2"],
    slack: Float[Array, " L"],
    voltage: Float[Array, " B"],
    devices: Float[Array, "2 B"],
) -> Tree:
    """The inverse for steps `flow` of lines' active and reactive flows and `voltage` of buses.

    `devices` is what other columns add to a bus's own two rows, `slack` to a line's. Inside w is
    referred to the feeders, so that it sees no transformer.
    """
    drop, scale, fed = groups.drop, groups.scale, groups.fed
    n, count = scale.shape[1], scale.shape[0]
    steps, one = blocks(groups, flow), jnp.eye(n)
    there = groups.at_wires(jnp.ones_like(slack))
    moved = steps @ drop.mT
    square = drop @ moved + (groups.at_wires(slack) + 1 - there)[:, :, None] * one
    lean = jnp.linalg.inv(square) if n > 1 else 1 / square
    lean = lean * there[:, :, None] * there[:, None, :]
    fall = moved @ lean
    # a line's part of the equations at its lower end; the other blocks are this or its negative
    own = steps - fall @ moved.mT
    across = fall * scale[:, None, :]
    within = scale[:, :, None] * lean * scale[:, None, :]
    upper = jnp.concatenate([own, across], axis=2)
    coupling = jnp.concatenate([upper, jnp.concatenate([across.mT, -within], axis=2)], axis=1)
    coupling = jnp.where(fed[:, None, None], 0.0, coupling)

    rows, held = groups.at_rows(devices.T), groups.at_rows(voltage)
    empty = held == 0  # a slot without a row, whose equations say nothing
    own = -(scale**2) / jnp.where(empty, 1.0, held)
    diagonal = jnp.concatenate([rows[..., 0] + empty, rows[..., 1] + empty, own], axis=1)
    start = jax.vmap(jnp.diag)(diagonal)
    unit = jnp.eye(3 * n)

    def back(blocks: Array) -> Array:
        """What blocks at the far ends of lines are at their near ends, summed by group."""
        if groups.near is not None:
            blocks = groups.near.mT @ blocks @ groups.near
        return jax.ops.segment_sum(blocks, groups.parent, count)

    def onward(_: Array, pivot: Array) -> Array:
        """Pivots that are right one bus further from the leaves."""
        pivot = jnp.where(fed[:, None, None], unit, pivot)
        return start + coupling + back(coupling - coupling @ jnp.linalg.solve(pivot, coupling))

    pivot = jax.lax.fori_loop(0, jnp.max(groups.ladder.depth), onward, start + coupling)
    pivot = jnp.linalg.inv(jnp.where(fed[:, None, None], unit, pivot))
    pivot = jnp.where(fed[:, None, None], 0.0, pivot)
    step = coupling @ pivot
    if groups.near is not None:
        step = groups.near.mT @ step

    def double(passed: Array, ahead: Array) -> tuple[Array, Array]:
        return lookup(passed, ahead) @ passed, passed

    _, passed = jax.lax.scan(double, step, groups.ladder.ancestor)
    share = jnp.concatenate([-fall, scale[:, :, None] * lean], axis=1)
    return Tree(groups, share, lean, pivot, passed)
