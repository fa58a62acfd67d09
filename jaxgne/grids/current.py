"""Ratings in ampere: a line's `rating` in kVA stands for a current at the nominal voltage."""

import math
from typing import Any

import numpy as np


def rating(ampere: Any, kv: Any) -> np.ndarray:
    """What lines that may carry `ampere` are rated, kVA: sqrt(3) I V, `kv` nominal line to line.

        jg.Grid(..., rating=jg.grids.rating([270, 142], kv=0.4))  # 187 and 98.4 kVA

    Behind a transformer that is a line of the grid `kv` is that of its target's side. Raises
    `ValueError` for negative or undefined numbers, and voltages that are not above 0.
    """
    current, volts = np.asarray(ampere, float), _nominal("rating", kv)
    if not np.all(current >= 0):
        raise ValueError(f"rating: ampere={ampere}: give numbers of at least 0.")
    return math.sqrt(3) * current * volts


def ampere(kva: Any, kv: Any) -> np.ndarray:
    """The other way round: the current of `kva` at the nominal voltage of `kv`, A."""
    return np.asarray(kva, float) / (math.sqrt(3) * _nominal("ampere", kv))


def _nominal(caller: str, kv: Any) -> np.ndarray:
    volts = np.asarray(kv, float)
    if not np.all((volts > 0) & np.isfinite(volts)):
        raise ValueError(f"{caller}: kv={kv}: give the nominal voltage, line to line, in kV: 0.4.")
    return volts
