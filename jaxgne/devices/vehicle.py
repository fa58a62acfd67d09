"""Electric vehicles."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..market import Buffers
from .tables import Device, window


def vehicle(
    owner: Any,
    *,
    power: Any,
    capacity: Any,
    arrival: Any,
    departure: Any,
    hours: int,
    start: Any = 0.5,
    due: Any = 0.8,
    trip: Any = 0.0,
    final: Any = None,
    floor: Any = 0.1,
    efficiency: Any = 0.93,
    wear: Any = 0.0,
    v2g: bool = False,
) -> Buffers:
    """A car of `capacity` kWh, plugged in from hour `arrival` until before hour `departure`.

    Where `arrival` is the later of the two it is plugged in over midnight: the day begins with the
    car at home and ends with it back. `start`, `due`, `final` and `floor` are shares of the
    capacity: the content at first (of a car that is away at first: on arrival), the least at
    departure, the least at the end (`None`: the floor) and the least at any time. A car that comes
    back within the day has used `trip` kWh when it arrives. It charges with up to `power` kW, and
    with `v2g` gives back as much. `wear` is paid in EUR per kWh either way. Every number may differ
    by device, `power` also by hour.

        vehicle([0, 3], power=11, capacity=60, arrival=18, departure=7, trip=12, hours=24)

    Raises `ValueError` for hours outside the day, or the same hour for both; for shares outside 0
    to 1, negative or non-finite numbers, and shapes that do not fit.
    """
    read = Device("vehicle", owner, hours)
    owners, hours = read.owners, read.hours
    departure = np.where(np.asarray(departure) == 0, hours, departure)  # midnight ends the day
    if np.any(np.asarray(arrival) == departure):
        raise ValueError(
            f"vehicle: arrival={arrival} is departure too; a car that never leaves has arrival=0, "
            f"departure={hours}."
        )
    home = window("vehicle: arrival, departure", arrival, departure, owners, hours)
    begin, end = (
        np.broadcast_to(np.asarray(h, int), owners.shape)[:, None] for h in (arrival, departure)
    )
    limit, size = read.hour("power", power), read.row("capacity", capacity)
    first, low, goal = (
        read.row(name, share, "share")
        for name, share in (("start", start), ("floor", floor), ("due", due))
    )
    at, least = np.arange(hours), jnp.broadcast_to(low * size, limit.shape)
    leaving = at == end - 1  # the content at the end of its last hour at home
    least = jnp.where(leaving, jnp.maximum(least, goal * size), least)
    if final is not None:
        last = jnp.maximum(least, read.row("final", final, "share") * size)
        least = jnp.where(at == hours - 1, last, least)
    back = (at == begin - 1) & (begin > end)  # the hour before it is back
    limit = jnp.where(home, limit, 0.0)
    share = read.row("efficiency", efficiency, "efficiency")[:, 0]
    return Buffers(
        owners,
        limit,
        limit if v2g else jnp.zeros_like(limit),
        size,
        (first * size)[:, 0],
        hours=hours,
        energy_min=least,
        drain=jnp.where(back, read.row("trip", trip), 0.0),
        charge_efficiency=share,
        discharge_efficiency=share,
        linear=read.row("wear", wear)[:, 0],
    )
