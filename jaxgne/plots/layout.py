"""Where to draw the buses of a grid that has no coordinates: as a tidy tree."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..market import Market


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
    parent, order = _spanning(source, target, feeders, buses)
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


def _spanning(
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


def places_of(name: str, market: Market, positions: Any) -> np.ndarray:
    """Where buses are drawn (B, 2)."""
    grid = market.grid
    buses = len(grid.passive)
    if positions is None:
        ends = (np.asarray(grid.source), np.asarray(grid.target))
        return tidy_tree(*ends, np.asarray(grid.feeder), buses)
    places = np.asarray(positions, float)
    if places.shape != (buses, 2):
        raise ValueError(
            f"plots.{name}: positions of shape {places.shape}; give one pair for each of the "
            f"{buses} buses."
        )
    return places
