"""A feeder as a tree of buses with all their phases: whose rows are which, and what ties them.

With one phase a bus is a group of one row. In three phases a group has three slots, for a, b and c,
some of them empty; each terminal is a group of its own, in the slot of its first phase.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..incidence import beside, falls, has_terminals, shares, where
from ..market import Grid
from ..radial import climb, lookup
from ..record import Record
from .contraction import Contraction, contract


class Groups(Record):
    """Rows of buses and lines by group and slot, and what a group's line does there.

    G groups of n slots. A line belongs to the group of its target. Squared voltages w are referred
    to the feeders: they are `scale` times as large.
    """

    rows: Int[Array, "G n"] | None  # of buses, beyond the last where a slot is empty; none: G = B
    wires: Int[Array, "G n"]  # of lines, likewise
    group: Int[Array, " B"]  # of each bus, and its slot
    slot: Int[Array, " B"]
    target: Int[Array, " L"]  # the bus where each line ends
    parent: Int[Array, " G"]  # the group before each; G at feeders
    contraction: Contraction  # of the forest below feeders
    fed: Bool[Array, " G"]
    scale: Float[Array, "G n"]
    drop: Float[Array, "G n 2n"]  # what active, then reactive flows take of the squared voltages
    near: Float[Array, "G 3n 3n"] | None  # prices and w of the group before as its line sees them

    def at_rows(self, values: Float[Array, "B ..."]) -> Float[Array, "G n ..."]:
        """Values of buses, 0 in empty slots."""
        return values[:, None] if self.rows is None else _taken(values, self.rows)

    def at_wires(self, values: Float[Array, "L ..."], empty: float = 0.0) -> Array:
        """Values of lines, `empty` where there is none."""
        return _taken(values, self.wires, empty)

    def to_rows(self, values: Float[Array, "G m ..."], first: int) -> Float[Array, "B ..."]:
        """Values of slots from the `first` on, by bus."""
        if self.rows is None:
            return values[:, first]
        return values[self.group, self.slot + first]

    def to_wires(self, values: Float[Array, "G n ..."]) -> Float[Array, "L ..."]:
        """Values of slots, by line."""
        return values[self.group[self.target], self.slot[self.target]]

    def seen(self, values: Float[Array, "G 3n m"]) -> Float[Array, "G 3n m"]:
        """What lines see of the group before; 0 at feeders."""
        before = values.at[self.parent].get(mode="fill", fill_value=0)
        return before if self.near is None else self.near @ before

    def with_behind(self, at: Float[Array, "G 3n m"], values: Array) -> Float[Array, "G 3n m"]:
        """The transpose: `at` and what groups get of the lines that begin there."""
        return at.at[self.parent].add(values if self.near is None else self.near.mT @ values)


def _taken(values: Array, index: Array, empty: float = 0.0) -> Array:
    if not values.shape[0]:  # a grid of one bus has no lines
        return jnp.full((*index.shape, *values.shape[1:]), empty, values.dtype)
    return values.at[index].get(mode="fill", fill_value=empty)


def groups(grid: Grid) -> Groups:
    """The groups of a radial grid, lines parents first."""
    buses, lines = grid.voltage_min.shape[0], grid.source.shape[0]
    fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
    ladder = climb(grid.source, grid.target, grid.tap, fed)
    line = jnp.arange(lines, dtype=jnp.int32)
    line_of = jnp.full(buses, lines, jnp.int32).at[grid.target].set(line)
    own = falls(grid)["voltage"]
    if not grid.model.phased:
        drop = _taken(jnp.stack(own, axis=1), line_of[:, None])
        scale = ladder.base[:, None] ** grid.model.power
        parent, each = ladder.ancestor[0], jnp.arange(buses, dtype=jnp.int32)
        order, wires = _below(parent, fed), line_of[:, None]
        at = each, jnp.zeros_like(each), grid.target
        return Groups(None, wires, *at, parent, order, fed, scale, drop, None)

    rows, at = grid.phases, grid.terminal
    end = grid.target[at]
    slot = jnp.maximum(where(grid).phase, 0)
    alone = jnp.full((at.shape[0], 3), buses, rows.dtype)
    alone = alone.at[jnp.arange(at.shape[0]), slot[end]].set(end)
    rows = jnp.concatenate([jnp.where(rows < 0, buses, rows), alone])
    each = jnp.arange(rows.shape[0], dtype=rows.dtype)
    group = jnp.zeros(buses, rows.dtype).at[rows].set(each[:, None])
    wires = _taken(line_of, rows, lines)
    starts = _taken(group, _taken(grid.source, wires, buses), rows.shape[0])
    parent = jnp.min(starts, axis=1).astype(jnp.int32)
    none = parent == rows.shape[0]
    scale = _taken(ladder.base, rows, 1) ** grid.model.power

    drop = jnp.zeros((rows.shape[0], 3, 2, 3), grid.resistance.dtype)
    of, place = group[grid.target], slot[grid.target]
    drop = drop.at[of, place, :, place].set(jnp.stack(own, axis=1))
    for (one, other), found in zip(
        ((grid.coupled, grid.following), (grid.following, grid.coupled)), beside(grid), strict=True
    ):
        drop = drop.at[of[one], place[one], :, place[other]].set(
            jnp.stack(found["voltage"], axis=1)
        )
    drop = drop.reshape(rows.shape[0], 3, 6)
    near = _near(grid, slot, group, scale) if has_terminals(grid) else None
    order = _below(parent, none)
    return Groups(rows, wires, group, slot, grid.target, parent, order, none, scale, drop, near)


def _below(parent: Int[Array, " G"], fed: Bool[Array, " G"]) -> Contraction:
    return contract(jnp.where(lookup(fed, parent), parent.shape[0], parent))


def _near(
    grid: Grid, slot: Int[Array, " B"], group: Int[Array, " B"], scale: Float[Array, "G 3"]
) -> Float[Array, "G 9 9"]:
    """The shares of terminals in the phases that they are of; all other lines see what there is."""
    at, share, count = grid.terminal, shares(grid), grid.phases.shape[0]
    first, second = slot[grid.source[at]], slot[grid.second]
    third = jnp.where(grid.third < 0, first, slot[share.third])
    each = jnp.arange(at.shape[0])
    whole = jnp.zeros((at.shape[0], 3, 3, 3, 3), scale.dtype)  # by price or w, slot; twice

    def put(table: Array, to: int, of: int, place: Array, value: Array) -> Array:
        return table.at[each, to, first, of, place].add(value)

    for power in (0, 1):
        other, sign = 1 - power, 2 * power - 1
        for place, real, turn in (
            (first, share.real, sign * share.turn),
            (second, share.real, -sign * share.turn),
            (third, share.last, 0 * share.turn),
        ):
            whole = put(whole, power, power, place, real)
            whole = put(whole, power, other, place, turn)
    home = group[grid.source[at]]
    own = scale[count + each, first]
    for place, real in ((first, share.real), (second, share.real), (third, share.last)):
        whole = put(whole, 2, 2, place, real * scale[home, place] / own)
    plain = jnp.broadcast_to(jnp.eye(9, dtype=scale.dtype), (count, 9, 9))
    return jnp.concatenate([plain, whole.reshape(-1, 9, 9)])


def blocks(groups: Groups, flow: Float[Array, "L 2 2"]) -> Float[Array, "G 2n 2n"]:
    """Steps of a group's flows: active ones of all slots, then reactive ones."""
    each = groups.at_wires(flow)
    n = each.shape[1]
    return jnp.einsum("gnij,nm->ginjm", each, jnp.eye(n)).reshape(-1, 2 * n, 2 * n)
