"""Negative cycles of a directed graph, in NumPy."""

import numpy as np
from jaxtyping import Float, Int

_ROUNDS = 50


def negative_cycle(
    start: Int[np.ndarray, " A"],
    end: Int[np.ndarray, " A"],
    weight: Float[np.ndarray, " A"],
    nodes: int,
) -> list[int]:
    """The nodes of a cycle whose arcs have a negative total weight, in order; empty if none.

    Bellman and Ford, all arcs at once: whenever every node remembers the arc that last improved it,
    a cycle of such arcs is negative. At most 50 rounds, so a very long cycle may go unseen.
    """
    cost, before = np.zeros(nodes), np.full(nodes, -1)
    for turn in range(1, _ROUNDS + 1):
        offered, least = cost[start] + weight, cost.copy()
        np.minimum.at(least, end, offered)
        better = (offered < cost[end]) & (offered == least[end])
        if not np.any(better):
            return []
        before[end[better]], cost = start[better], least
        if turn & (turn - 1) == 0 or turn == _ROUNDS:  # rounds 1, 2, 4, ... and the last
            cycle = _cycle(before)
            if cycle:
                return cycle
    return []


def _cycle(before: Int[np.ndarray, " N"]) -> list[int]:
    """A cycle of the graph in which each node has one predecessor or none (-1)."""
    ancestor = np.append(before, -1)  # index -1 is the last entry: none stays none
    for _ in range(len(before).bit_length()):
        ancestor = ancestor[ancestor]
    caught = ancestor[ancestor >= 0]
    if not len(caught):
        return []
    cycle = [int(caught[0])]
    while before[cycle[-1]] != cycle[0]:
        cycle.append(int(before[cycle[-1]]))
    return cycle[::-1]
