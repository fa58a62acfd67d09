"""Who may trade with whom: connected graphs, each pair once, the smaller index first."""

import numpy as np

from .feeders import Ints


def random_pairs(count: int, pairs: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """A random tree over `count` prosumers and further random pairs, `pairs` in all if there are.

    Never fewer than the tree's `count - 1`, so that the graph is connected.
    """
    pairs = min(max(pairs, count - 1), count * (count - 1) // 2)
    later = np.arange(1, count)
    label = rng.permutation(count)
    tree = np.floor(rng.uniform(size=max(count - 1, 0)) * later).astype(np.int64)
    codes = _codes(label[later], label[tree], count)
    while len(codes) < pairs:
        missing = pairs - len(codes)
        if 4 * pairs > count * (count - 1) // 2:  # dense: draw from what is left
            first, second = np.triu_indices(count, 1)
            left = np.setdiff1d(_codes(first, second, count), codes)
            more = rng.choice(left, missing, replace=False)
        else:
            ends = rng.integers(0, count, (2, missing))
            ends = ends[:, ends[0] != ends[1]]
            more = _codes(ends[0], ends[1], count)
        codes = np.union1d(codes, more)
    return codes // count, codes % count


def ring_pairs(count: int, degree: float) -> tuple[Ints, Ints]:
    """Everybody trades with the `degree / 2` next on either side of a ring."""
    reach = min(max(1, round(degree / 2)), max(1, (count - 1) // 2))
    here = np.repeat(np.arange(count), reach)
    there = (here + np.tile(np.arange(1, reach + 1), count)) % count
    codes = _codes(here[here != there], there[here != there], count)
    return codes // count, codes % count


def _codes(first: Ints, second: Ints, count: int) -> Ints:
    """One number per pair, sorted and unique."""
    return np.unique(np.minimum(first, second) * count + np.maximum(first, second))
