"""Loads that may run at another time."""

from typing import Any

import numpy as np

from ..clock import Clock, Made, lengths
from ..market import Buffers
from ..runner import built, jnp
from .tables import Device
from .windows import windows


@built
def shiftable(
    owner: Any,
    *,
    energy: Any,
    power: Any,
    earliest: Any,
    latest: Any,
    hours: int,
    once: bool = False,
    hour_length: Any = 1.0,
    clock: Clock | None = None,
    bus: Any = -1,
) -> Buffers:
    """A load of `energy` kWh, up to `power` kW, from `earliest` on and done by `latest`, each day.

    Both are hours of the day (9, 9.5, "9:30" or `datetime.time`), whatever the length of a step:
    there are `hours` steps of `hour_length` h (one number, or one a step), from midnight on or as
    the `clock` says. Days whose window is not all within the steps have no run. With `once` it runs
    once, and both are hours since the first step. It runs in part and in pieces, as the model is
    convex: a machine that must run through is none. Every number may differ by device. It takes the
    energy from its owner's balance and gives none back. `bus` is where it is connected, of a grid
    in three phases (-1: as its owner).

        shiftable(2, energy=3.5, power=2.0, earliest=9, latest="17:30", hours=48, hour_length=0.5)

    Raises `ValueError` for what is no hour of the day or between two steps, a window that is empty
    or goes past midnight, and numbers that are negative, not finite or do not fit.
    """
    read = Device("shiftable", owner, hours)
    hours, length = read.hours, read.step_lengths(hour_length)
    found = windows(
        "shiftable", ("earliest", earliest), ("latest", latest), rows=read.rows, steps=hours,
        length=length, clock=clock, once=once,
    )  # fmt: skip
    if np.any(found.order <= 0):
        raise ValueError(
            f"shiftable: latest={latest} is not after earliest={earliest}; a window lies within "
            "the day."
        )
    run = found.whole(hours)
    if not np.all(np.any(run.real, axis=1)):
        raise ValueError(
            f"shiftable: the window from earliest={earliest} to latest={latest} is not within the "
            f"{hours} steps of {lengths(length)}; give more steps or another window."
        )
    need = read.row("energy", energy)
    due = np.cumsum(run.ends(hours), axis=1)
    begun = np.cumsum(run.starts(hours), axis=1)
    return Buffers(
        read.owners,
        jnp.where(run.inside(hours), read.hour("power", power), 0.0),
        0.0,
        need * np.maximum(begun, 1),
        0.0,
        hours=hours,
        energy_min=need * due,
        made=Made.by(length, None if once else clock),
        kind="shiftable load",
        bus=read.buses(bus),
    )
