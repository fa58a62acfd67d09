"""The inverse of A tau A^T on a radial feeder, by elimination bus by bus.

With the voltages' own changes w kept as unknowns, the rows of a bus meet only those of its parent
and its children: blocks of 3 x 3 (prices of active and reactive power, w), three times that with
all phases of a bus, as `groups` has them. Buses go in the order of `contraction`: O(B) an hour.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..radial import lookup
from ..record import Record
from .contraction import Contraction, inside, most
from .groups import Groups, blocks


class Tree(Record):
    """(A tau A^T)^-1 of a feeder whose lines point away from the main grid."""

    groups: Groups
    share: Float[Array, "G 3n n"]  # of a line's voltage rows in the equations of its two buses
    lean: Float[Array, "G n n"]  # and in their own prices
    solution: Float[Array, "G+1 3n 9n"]  # as groups go: of what each has, its parent and its child

    def __call__(
        self,
        bus: Float[Array, "B H"],
        bus_reactive: Float[Array, "B H"],
        voltage: Float[Array, "L H"],
    ) -> tuple[Float[Array, "B H"], Float[Array, "B H"], Float[Array, "L H"]]:
        """The inverse times rows of buses and lines; feeders' own rows are left out."""
        groups, plan = self.groups, self.groups.contraction
        active, reactive = groups.at_rows(bus), groups.at_rows(bus_reactive)
        drop, n = groups.at_wires(voltage), active.shape[1]
        share = _times(self.share, drop)
        known = jnp.concatenate([active, reactive, jnp.zeros_like(active)], axis=1)
        known = groups.with_behind(known + share, -share)
        steps, m = most(plan.steps), 3 * n

        def go(at: Array, values: Array) -> Array:
            place, ends = plan.step(at)
            table, own = inside(self.solution, place), inside(values, ends[:, 0])
            given = _times(table[:, :, m:].mT, own).reshape(-1, *own.shape[1:])
            return values.at[ends[:, 1:].ravel()].add(given, mode="promise_in_bounds")

        def come_back(at: Array, values: Array) -> Array:
            place, ends = plan.step(steps - 1 - at)
            felt = inside(values, ends).reshape(len(ends), 3 * m, -1)
            found = inside(self.solution, place) @ felt
            return values.at[ends[:, 0]].set(found, mode="promise_in_bounds")

        none = jnp.zeros_like(known[:1])  # of who is not there
        known = jax.lax.fori_loop(0, steps, go, jnp.concatenate([known, none]))
        known = known.at[-1].set(0.0)
        solved = jax.lax.fori_loop(0, steps, come_back, known)[:-1]
        change = solved - groups.seen(solved)
        price = _times(self.lean, drop) + _times(self.share.mT, change)
        return groups.to_rows(solved, 0), groups.to_rows(solved, n), groups.to_wires(price)


def _times(matrix: Float[Array, "W i k"], values: Float[Array, "W k H"]) -> Float[Array, "W i H"]:
    """`matrix @ values` as a sum of products, which XLA takes together with what is around it."""
    each = range(values.shape[1])
    return sum((matrix[:, :, k, None] * values[:, k, None] for k in each), jnp.zeros(()))


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
    n = scale.shape[1]
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
    ahead = coupling if groups.near is None else coupling @ groups.near
    begun = groups.with_behind(jax.vmap(jnp.diag)(diagonal) + coupling, ahead)
    begun = jnp.where(fed[:, None, None], jnp.eye(3 * n), begun)
    ahead = jnp.where(lookup(fed, groups.parent)[:, None, None], 0.0, -ahead)
    solution = _solutions(groups.contraction, begun, ahead)
    went = groups.contraction.ends[:-1, 0]
    solution = jnp.where(fed[went, None, None], 0.0, solution)
    solution = jnp.concatenate([solution, jnp.zeros_like(solution[:1])])
    share = jnp.concatenate([-fall, scale[:, :, None] * lean], axis=1)
    return Tree(groups, share, lean, solution)


def _solutions(
    plan: Contraction, own: Float[Array, "G m m"], ahead: Float[Array, "G m m"]
) -> Float[Array, "G m 3*m"]:
    """What gives each node of a forest as it goes: of its own, its parent's and its child's.

    `own` are the matrix's blocks on the diagonal, `ahead` those of nodes' rows in their parents'
    columns. Where x goes and S = own_x^-1, its parent is left with own - ahead_x^T S ahead_x, and
    its child c with own - ahead_c S ahead_c^T and, ahead of it now, -ahead_c S ahead_x.
    """

    def go(at: Array, now: tuple[Array, ...]) -> tuple[Array, ...]:
        own, ahead, solution = now
        place, ends = plan.step(at)
        node, parent, child = ends.T
        up, down = lookup(ahead, node), lookup(ahead, child)
        inverse = jnp.linalg.inv(own.at[node].get(mode="clip"))
        by_parent, by_child = -inverse @ up, -inverse @ down.mT
        own = own.at[parent].add(up.mT @ by_parent).at[child].add(down @ by_child)
        ahead = ahead.at[child].set(down @ by_parent)
        found = jnp.concatenate([inverse, by_parent, by_child], axis=2)
        return own, ahead, solution.at[place].set(found)

    none = jnp.zeros((*own.shape[:2], 3 * own.shape[2]), own.dtype)
    return jax.lax.fori_loop(0, most(plan.steps), go, (own, ahead, none))[2]
