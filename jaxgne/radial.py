"""Sums over radial feeders: behind each bus, and along the path to it.

By pointer doubling, in as many passes as the depth has binary digits: O(B log depth), without a
loop over buses.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from .market import Grid


class Ladder(eqx.Module):
    """For each bus those 1, 2, 4, ... buses towards the feeder; B where there is none."""

    ancestor: Int[Array, "K B"]
    depth: Int[Array, " B"]  # 0 at feeders
    passes: Int[Array, ""]

    def behind(self, values: Num[Array, "B ..."]) -> Num[Array, "B ..."]:
        """Sums over each bus and all behind it."""
        return jax.lax.scan(lambda s, a: (s.at[a].add(s), None), values, self.ancestor)[0]

    def along(self, values: Num[Array, "B ..."]) -> Num[Array, "B ..."]:
        """Sums along the path from the feeder to each bus, its own value included."""
        return jax.lax.scan(lambda s, a: (s + lookup(s, a), None), values, self.ancestor)[0]


def climb(source: Int[Array, " L"], target: Int[Array, " L"], fed: Bool[Array, " B"]) -> Ladder:
    """The ladder of a forest whose lines point away from the buses that are `fed`."""
    buses = fed.shape[0]
    parent = jnp.full(buses, buses).at[target].set(source)

    def double(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        ahead, depth = carry
        onward = ahead.at[ahead].get(mode="fill", fill_value=buses)
        return (onward, depth + lookup(depth, ahead)), ahead

    rungs = max(1, (buses - 1).bit_length())
    start = (parent, jnp.where(fed, 0, 1))
    (_, depth), ancestor = jax.lax.scan(double, start, None, length=rungs)
    return Ladder(ancestor, depth, jnp.sum(jnp.any(ancestor < buses, axis=1)))


class Forest(eqx.Module):
    """A grid as trees below its feeders; its lines may point either way."""

    near: Int[Array, " L"]  # the end of each line that is closer to the feeder
    far: Int[Array, " L"]
    outward: Bool[Array, " L"]  # whether the line points away from the feeder
    ladder: Ladder
    ok: Bool[Array, ""]  # whether the grid is radial: else nothing here means anything


@eqx.filter_jit
def forest(grid: Grid) -> Forest:
    """The trees of a radial grid, found from the feeders bus by bus."""
    buses = grid.passive.shape[0]
    fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
    source, target = grid.source, grid.target

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        level, _ = carry
        wider = level.at[target].min(level[source] + 1).at[source].min(level[target] + 1)
        return wider, jnp.any(wider != level)

    level = jnp.where(fed, 0, buses)
    level, _ = jax.lax.while_loop(lambda carry: carry[1], spread, (level, jnp.array(True)))
    outward = level[source] < level[target]
    near, far = jnp.where(outward, source, target), jnp.where(outward, target, source)
    lines = jnp.zeros(buses, jnp.int32).at[far].add(1)
    alone = jnp.all(lines == jnp.where(fed, 0, 1)) & jnp.all(level[near] < level[far])
    return Forest(near, far, outward, climb(near, far, fed), alone & jnp.all(level < buses))


def lookup(values: Num[Array, "B ..."], index: Int[Array, "..."]) -> Num[Array, "..."]:
    """The values at an index, 0 where it is out of range."""
    return values.at[index].get(mode="fill", fill_value=0)
