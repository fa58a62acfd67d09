"""Which names fit on a map: at each width as many as do not overlap, those that matter first."""

import numpy as np
from numpy.typing import NDArray

_WIDTHS = (180, 240, 320, 420, 560, 740, 980, 1300)  # px of a map, without what is around it
_MOST = 60  # names on a map
_LETTER, _LINE = 6.6, 13.0  # px of a letter across, and of a line of text
_DISK = 5.0  # px, the radius of a place
LONGEST = 140  # px, what is longer is cut
BELOW = 17  # px from a place to the middle of its name
_ROOM = 0.7  # around the map, in steps of it
_NEVER = 1e9
ALWAYS = 3.0  # weight of a place that has its name at any width


def extent(places: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The lower left and upper right of the map of `places` (Z, 2), and its height in px."""
    low, high = places.min(axis=0) - _ROOM, places.max(axis=0) + _ROOM
    return low, high, int(np.clip(46 * (high[1] - low[1]), 260, 640))


def least_widths(names: list[str], places: NDArray, weights: NDArray) -> list[float]:
    """The least width of the map, px, at which each place has its name below it.

    Those of larger `weights` (Z,) take their room first, and keep it at larger widths; where there
    are many, those of weight 0 have none.
    """
    low, high, height = extent(places)
    share = (places - low) / (high - low)
    least = np.full(len(names), _NEVER)
    half = np.minimum(_LETTER * np.array([max(len(name), 1) for name in names]), LONGEST) / 2
    order = np.argsort(-weights, kind="stable")
    order = order if len(names) <= _MOST else order[weights[order] > 0]
    taken: list[int] = []
    for width in _WIDTHS:
        x, y = width * share[:, 0], height * share[:, 1]
        for k in order.tolist():
            if least[k] < _NEVER or len(taken) == _MOST:
                continue
            inside = weights[k] >= ALWAYS or half[k] <= min(x[k], width - x[k]) + 3 * _LETTER
            beside = np.abs(x[taken] - x[k]) < half[taken] + half[k] + 2
            on_name = beside & (np.abs(y[taken] - y[k]) < _LINE)
            on_place = np.abs(x - x[k]) < half[k] + _DISK
            on_place &= np.abs(y - (y[k] - BELOW)) < _LINE / 2 + _DISK
            free = weights[k] >= ALWAYS or not np.any(on_place)
            if inside and free and not np.any(on_name):
                taken.append(k)
                least[k] = width
    return least.tolist()
