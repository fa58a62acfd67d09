"""Trees below feeders, sums behind each bus and along the path to it, and lines that close loops.

By pointer doubling, in as many passes as the depth has binary digits: O(B log depth), without a
loop over buses.
"""

from dataclasses import replace

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Num

from .each import for_each
from .market import FIELDS, Grid, Market
from .programs import program
from .record import Record
from .runner import built, jnp, lax

_RADIAL = "give a radial grid, in which one path leads from a feeder bus to each other bus."


class Ladder(Record):
    """For each bus those 1, 2, 4, ... buses towards the feeder; B where there is none.

    Voltages divided by `base` see no transformers: they are referred to the feeder.
    """

    ancestor: Int[Array, "K B"]
    depth: Int[Array, " B"]  # 0 at feeders
    base: Float[Array, " B"]  # voltage at no load where its feeder has 1, by the taps between

    def behind(self, values: Num[Array, "B ..."]) -> Num[Array, "B ..."]:
        """Sums over each bus and all behind it."""
        return lax.scan(lambda s, a: (s.at[a].add(s), None), values, self.ancestor)[0]

    def along(self, values: Num[Array, "B ..."]) -> Num[Array, "B ..."]:
        """Sums along the path from the feeder to each bus, its own value included."""
        return lax.scan(lambda s, a: (s + lookup(s, a), None), values, self.ancestor)[0]


def climb(
    source: Int[Array, " L"],
    target: Int[Array, " L"],
    tap: Float[Array, " L"],
    fed: Bool[Array, " B"],
) -> Ladder:
    """The ladder of a forest whose lines point away from the buses that are `fed`."""
    buses = fed.shape[0]
    parent = (
        jnp.full(buses + 1, buses).at[target].set(source)
    )  # of the last, beyond feeders: itself
    below = jnp.zeros(buses + 1, jnp.int32).at[:buses].set(jnp.where(fed, 0, 1))
    passed = jnp.ones(buses + 1, tap.dtype).at[target].set(1 / tap)

    def double(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], Array]:
        ahead, depth, base = carry
        return (ahead[ahead], depth + depth[ahead], base * base[ahead]), ahead[:buses]

    rungs = max(1, (buses - 1).bit_length())
    (_, depth, base), ancestor = lax.scan(double, (parent, below, passed), None, length=rungs)
    return Ladder(ancestor, depth[:buses], base[:buses])


class Forest(Record):
    """A grid as trees below its feeders, and the lines beside these; lines may point either way."""

    near: Int[Array, " L"]  # the end of each line that is closer to the feeder
    far: Int[Array, " L"]
    outward: Bool[Array, " L"]  # whether the line points away from the feeder
    branch: Int[Array, " T"]  # the lines of the trees, one to each bus that is no feeder
    chord: Int[Array, " C"]  # the others: each closes a loop, or joins two trees
    ladder: Ladder
    ok: Bool[Array, ""]  # whether all buses have a feeder: else nothing here means anything

    @property
    def radial(self) -> Bool[Array, ""]:
        """Whether one path leads from a feeder to each other bus."""
        return self.ok & (self.chord.shape[-1] == 0)


def loops(grid: Grid) -> int:
    """How many lines a grid has beyond those of trees, if all its buses have a feeder."""
    return max(0, grid.source.shape[-1] - grid.passive.shape[-2] + grid.feeder.shape[-1])


@program("the trees of the grid", once=True)
def forest(grid: Grid) -> Forest:
    """The trees of a grid, found from the feeders bus by bus."""
    buses = grid.passive.shape[0]
    fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
    source, target = grid.source, grid.target

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        level, _ = carry
        wider = level.at[target].min(level[source] + 1).at[source].min(level[target] + 1)
        return wider, jnp.any(wider != level)

    level = jnp.where(fed, 0, buses)
    level, _ = lax.while_loop(lambda carry: carry[1], spread, (level, jnp.array(True)))
    outward = level[source] < level[target]
    near, far = jnp.where(outward, source, target), jnp.where(outward, target, source)
    deeper, line = level[near] < level[far], jnp.arange(source.shape[0], dtype=jnp.int32)
    tap = jnp.where(outward, grid.tap, 1 / grid.tap)
    lines = near, far, tap
    if loops(grid):
        first = jnp.full(buses, line.size, jnp.int32)
        first = first.at[far].min(jnp.where(deeper, line, line.size))
        order = jnp.argsort(first[far] != line, stable=True).astype(jnp.int32)
        branch, chord = jnp.split(order, [line.size - loops(grid)])
        lines = near[branch], far[branch], tap[branch]
        ok = jnp.all(level < buses)
    else:
        branch, chord = line, line[:0]
        count = jnp.zeros(buses, jnp.int32).at[far].add(1)
        ok = jnp.all(count == jnp.where(fed, 0, 1)) & jnp.all(deeper) & jnp.all(level < buses)
    ladder = climb(*lines, fed)
    return Forest(near, far, outward, branch, chord, ladder, ok)


def radial(caller: str, market: Market) -> None:
    """Refuse a grid, or a scenario's, that is not radial; a traced one cannot be looked at."""
    if isinstance(market.grid.source, Tracer):
        return
    good = np.ravel(_is_radial(market))
    if not good.all():
        where = f" of scenario {np.argmin(good)}" if good.size > 1 else ""
        raise ValueError(f"{caller}: Grid.source/target{where}: {_RADIAL}")


@built
def oriented(grid: Grid) -> Grid:
    """The same `grid` with its lines in the order of `lindistflow`; buses stay as they are.

    Lines are sorted by their distance from the feeder, in lines, and point away from it, whichever
    way and in whatever order they were given. A transformer that is turned has ratio 1 / tap, and
    its impedance and rated current are referred to its other side: z tap^2 and rating / tap. Raises
    `ValueError` where the grid is not radial.
    """
    tree = forest(grid)
    if not tree.radial:
        raise ValueError(f"oriented: Grid.source/target: {_RADIAL}")
    order = jnp.argsort(tree.ladder.depth[tree.far], stable=True)
    own = [field.name.split(".")[1] for field in FIELDS.values() if field.axes == ("L",)]
    lines = {name: getattr(grid, name)[order] for name in own}
    seen = jnp.where(tree.outward, 1.0, grid.tap)[order]
    lines |= {"source": tree.near[order], "target": tree.far[order], "tap": lines["tap"] / seen**2}
    lines |= {name: lines[name] * seen**2 for name in ("resistance", "reactance")}
    place = jnp.argsort(order).astype(order.dtype)  # where each line has come to
    both = {name: place[getattr(grid, name)] for name in ("coupled", "following")}
    turn = seen[both["coupled"]] * seen[both["following"]]
    both |= {
        f"mutual_{name}": getattr(grid, f"mutual_{name}") * turn
        for name in ("resistance", "reactance")
    }
    lines |= both | {"terminal": place[grid.terminal]}
    lines |= {"rating": lines["rating"] / seen}
    names = grid.line_names and tuple(grid.line_names[line] for line in np.asarray(order))
    return replace(grid, **lines, line_names=names)


@for_each
def _is_radial(market: Market) -> Bool[Array, ""]:
    return forest(market.grid).radial


def lookup(values: Num[Array, "B ..."], index: Int[Array, "..."]) -> Num[Array, "..."]:
    """The values at an index, 0 where it is out of range."""
    return values.at[index].get(mode="fill", fill_value=0)
