"""Loads that may run at another time."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..market import Buffers
from .tables import Device, window


def shiftable(
    owner: Any, *, energy: Any, power: Any, earliest: Any, latest: Any, hours: int
) -> Buffers:
    """A load of `energy` kWh, up to `power` kW, from hour `earliest` on and done before `latest`.

    In part and in pieces, as the model is convex: a machine that must run through is none. Every
    number may differ by device. It takes the energy from its owner's balance and gives none back.

        shiftable(2, energy=3.5, power=2.0, earliest=9, latest=17, hours=24)

    Raises `ValueError` for hours outside the day, a window that is empty or goes past midnight, and
    numbers that are negative, not finite or do not fit.
    """
    read = Device("shiftable", owner, hours)
    owners, hours = read.owners, read.hours
    open_ = window("shiftable: earliest, latest", earliest, latest, owners, hours)
    if np.any(np.asarray(earliest) >= np.asarray(latest)):
        raise ValueError(
            f"shiftable: latest={latest} is not after earliest={earliest}; a window lies within "
            "the day."
        )
    need, at = read.row("energy", energy), np.arange(hours)
    done = at >= np.broadcast_to(np.asarray(latest), owners.shape)[:, None] - 1
    return Buffers(
        owners,
        jnp.where(open_, read.hour("power", power), 0.0),
        0.0,
        need,
        0.0,
        hours=hours,
        energy_min=jnp.where(done, need, 0.0),
    )
