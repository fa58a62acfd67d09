"""Where the buses of a grid are drawn: each once, with all its phases; else as a tidy tree."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..incidence import where
from ..market import Market, bus_name
from ..names import unphased


def tidy_tree(
    source: NDArray[np.integer],
    target: NDArray[np.integer],
    feeders: NDArray[np.integer],
    buses: int,
) -> NDArray[np.float64]:
    """Places (B, 2) of buses: across the lines to the feeder, up a row of their own.

    The deepest branch of each bus goes straight on; the others are packed above and below it as
    close as the outlines of the subtrees allow, after Reingold and Tilford (IEEE Trans. Software
    Engineering 7(2), 1981). So no two lines cross and no two buses meet. Where lines form loops the
    tree is that of shortest paths from the feeders; what they do not reach is drawn as further
    trees. O(B depth).
    """
    parent, order = spanning(source, target, feeders, buses)
    children: list[list[int]] = [[] for _ in range(buses + 1)]  # the last is above all roots
    for bus in order:
        children[parent[bus]].append(bus)
    offset, outline = np.zeros(buses + 1), [([0.0], [0.0]) for _ in range(buses + 1)]
    for bus in (*reversed(order), buses):
        branches = sorted(children[bus], key=lambda child: -len(outline[child][0]))
        low, high = _packed([outline[child] for child in branches], offset, branches)
        outline[bus] = ([0.0, *low], [0.0, *high])
        for child in branches:
            outline[child] = ([], [])  # no longer needed
    places = np.zeros((buses + 1, 2))
    places[buses, 0] = -1.0
    for bus in order:
        places[bus] = places[parent[bus]] + (1.0, offset[bus])
    return places[:buses]


def spanning(
    source: NDArray[np.integer],
    target: NDArray[np.integer],
    feeders: NDArray[np.integer],
    buses: int,
) -> tuple[list[int], list[int]]:
    """Parent of each bus, `buses` where it has none, and buses in an order with parents first."""
    near: list[list[int]] = [[] for _ in range(buses)]
    for one, other in zip(source.tolist(), target.tolist(), strict=True):
        near[one].append(other)
        near[other].append(one)
    parent, seen, order = [buses] * buses, [False] * buses, []
    for root in (*feeders.tolist(), *range(buses)):
        waiting = deque() if seen[root] else deque([root])
        seen[root] = True
        while waiting:
            bus = waiting.popleft()
            order.append(bus)
            for other in near[bus]:
                if not seen[other]:
                    seen[other], parent[other] = True, bus
                    waiting.append(other)
    return parent, order


def _packed(
    outlines: list[tuple[list[float], list[float]]], offset: NDArray, branches: list[int]
) -> tuple[list[float], list[float]]:
    """Lowest and highest row of all branches by depth; writes each branch's own row to `offset`."""
    low: list[float] = []
    high: list[float] = []
    for branch, (under, over) in zip(branches, outlines, strict=True):
        up = max((h - u for h, u in zip(high, under, strict=False)), default=-1.0) + 1.0
        down = min((b - o for b, o in zip(low, over, strict=False)), default=1.0) - 1.0
        row = up if up <= -down else down
        offset[branch] = row
        for depth, (lowest, highest) in enumerate(zip(under, over, strict=True)):
            if depth == len(low):
                low.append(row + lowest)
                high.append(row + highest)
            low[depth] = min(low[depth], row + lowest)
            high[depth] = max(high[depth], row + highest)
    return low, high


@dataclass(frozen=True)
class Spots:
    """Where a grid is drawn: buses with all their phases are one spot, terminals where they are."""

    of: NDArray[np.integer]  # (B,) the spot of each row of buses
    phase: NDArray[np.integer]  # (B,) 0, 1, 2 for a, b, c; -1 of terminals, and of one phase
    lines: NDArray[np.integer]  # those that lead from one spot to another
    names: tuple[str, ...]
    places: NDArray[np.float64]  # (S, 2)

    @property
    def phased(self) -> bool:
        return bool(np.any(self.phase >= 0))


def spots_of(name: str, market: Market, positions: Any) -> Spots:
    """Where rows of buses are drawn.

    `positions` are by spot, or by row of buses, of which the first at a spot counts; without, the
    spots are a tidy tree. Raises `ValueError` for another number.
    """
    grid, count = market.grid, len(market.grid.passive)
    of, phase = np.arange(count), np.full(count, -1)
    if grid.model.phased:
        _, first, back = np.unique(
            np.asarray(where(grid).bus), return_index=True, return_inverse=True
        )
        rank = np.argsort(np.argsort(first))  # spots in the order of rows
        of = rank[back]
        for letter, rows in enumerate(np.asarray(grid.phases).T):
            phase[rows[rows >= 0]] = letter
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    lines = np.flatnonzero(of[source] != of[target])
    first = np.unique(of, return_index=True)[1]
    names = tuple(bus_name(grid, int(k)) for k in first)
    if grid.model.phased:
        names = tuple(unphased(own) for own in names)
    return Spots(of, phase, lines, names, _places(name, market, positions, of, lines, first))


def _places(
    name: str, market: Market, positions: Any, of: NDArray, lines: NDArray, first: NDArray
) -> NDArray[np.float64]:
    grid = market.grid
    if positions is None:
        source, target = (of[np.asarray(end)[lines]] for end in (grid.source, grid.target))
        ends = np.unique(np.stack([source, target], axis=1), axis=0, return_index=True)[1]
        ends = np.sort(ends)
        fed = np.unique(of[np.asarray(grid.feeder)])
        return tidy_tree(source[ends], target[ends], fed, len(first))
    places = np.asarray(positions, float)
    if places.shape == (len(first), 2):
        return places
    if places.shape != (len(of), 2):
        phases = f", or for each of {len(of)} rows" if len(of) > len(first) else ""
        raise ValueError(
            f"plots.{name}: positions of shape {places.shape}; give one pair for each of the "
            f"{len(first)} buses{phases}."
        )
    return places[first]
