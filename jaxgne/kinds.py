"""What kind of device a row of generators or buffers is: one list of words for each table.

A kind tells people, files and studies a car from a battery; to a clearing all rows of a table are
alike. It is a number, so markets of other kinds are cleared by the same compiled programs.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from .arrays import whole_row

KINDS = {  # by what a row is called; the number of a kind is its place, 0 is that of any other
    "generator": ("generator", "photovoltaic", "wind", "hydro", "chp", "elastic load"),
    "buffer": ("buffer", "battery", "vehicle", "heat pump", "shiftable load", "electrolyser"),
}


def kinds_of(name: str, one: str, kind: Any, rows: int) -> Int[Array, " R"]:
    """The numbers of kinds that are given by word or number, one for all or one a row.

    `ValueError` for a word that is none of those of a `one`, and for another number of rows.
    """
    given = kind if isinstance(kind, jax.Array) else np.asarray(kind)
    if given.dtype.kind in "UO":
        words = np.ravel(given).tolist()
        lost = [word for word in words if word not in KINDS[one]]
        if lost:
            raise ValueError(f"{name}: {lost[0]!r} is none of {', '.join(KINDS[one])}.")
        given = np.array([KINDS[one].index(word) for word in words], int).reshape(given.shape)
    return whole_row(name, given, rows, one)
