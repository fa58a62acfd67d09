"""What of a grid a report draws: every bus, or of a large grid zones with one that stands for each.

Buses that only pass power on belong to the zone of the next one below; of what is left the buses
with the most prosumers behind them are kept, and others belong to the zone above them. A zone
shows a bus and a line of its own as they are: those nearest to their limits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..market import Market
from ..plots.layout import Spots, spanning, spots_of, tidy_tree

FEW = 150  # spots up to which all are drawn
MOST = 300  # zones at most


@dataclass(frozen=True)
class Zones:
    """Places on the map, Z of them, and which zone each spot belongs to."""

    of: NDArray[np.integer]  # (S,) zone of each spot
    names: tuple[str, ...]  # of the bus at its head
    places: NDArray[np.float64]  # (Z, 2)
    spots: Spots

    @property
    def merged(self) -> NDArray[np.integer]:
        """How many buses each zone has."""
        return np.bincount(self.of, minlength=len(self.names))


def zones_of(market: Market) -> Zones:
    """The zones of a market's grid: one a bus up to `FEW` of them."""
    grid, spots = market.grid, spots_of("report", market, None)
    count = len(spots.names)
    if count <= FEW:
        return Zones(np.arange(count), spots.names, spots.places, spots)
    source, target = (spots.of[np.asarray(e)[spots.lines]] for e in (grid.source, grid.target))
    ends = np.unique(np.sort(np.stack([source, target], axis=1), axis=1), axis=0)
    fed = np.unique(spots.of[np.asarray(grid.feeder)])
    homes = np.bincount(spots.of[np.asarray(market.prosumers.bus)], minlength=count)
    head = _heads(ends, fed, homes)
    heads, of = np.unique(head, return_inverse=True)
    pairs = np.unique(np.sort(of[ends], axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    places = tidy_tree(pairs[:, 0], pairs[:, 1], np.unique(of[fed]), len(heads))
    return Zones(of, tuple(spots.names[k] for k in heads), places, spots)


def _heads(ends: NDArray, fed: NDArray, homes: NDArray) -> NDArray[np.integer]:
    """The spot at the head of each spot's zone (S,)."""
    count = len(homes)
    above, order = spanning(ends[:, 0], ends[:, 1], fed, count)
    degree = np.bincount(ends.ravel(), minlength=count)
    passes = (degree == 2) & (homes == 0) & ~np.isin(np.arange(count), fed)
    below = np.arange(count)
    behind = homes.copy()
    for spot in reversed(order):
        if above[spot] < count:
            behind[above[spot]] += behind[spot]
            if passes[above[spot]]:
                below[above[spot]] = below[spot]
    passes &= below != np.arange(count)  # the ends of loops pass nothing on
    kept = [spot for spot in order if not passes[spot]]
    rank = {spot: k for k, spot in enumerate(kept)}
    chosen = set(sorted(kept, key=lambda spot: (-behind[spot], rank[spot]))[:MOST])
    head = np.arange(count)
    for spot in kept:
        if spot in chosen:
            continue
        up = above[spot]
        while up < count and passes[up]:
            up = above[up]
        head[spot] = head[up] if up < count else spot
    return head[below]
