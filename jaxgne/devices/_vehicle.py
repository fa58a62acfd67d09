"""Electric vehicles."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from ..clock import Clock, Made
from ..market import Buffers
from ..runner import built, jnp
from .tables import Device
from .windows import Windows, windows


@built
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
    hour_length: Any = 1.0,
    clock: Clock | None = None,
    bus: Any = -1,
) -> Buffers:
    """A car of `capacity` kWh, plugged in from `arrival` until `departure`, every day.

    Both are hours of the day (18, 17.5, "17:30" or `datetime.time`), whatever the length of a step:
    there are `hours` steps of `hour_length` h (one number, or one a step), from midnight on or as
    the `clock` says. Where `arrival` is the later of the two it is plugged in over midnight: the
    first day begins with the car at home. `start`, `due`, `final` and `floor` are shares of the
    capacity: the content at first (of a car that is away at first: on arrival), the least at each
    departure, the least at the end (`None`: the floor) and the least at any time. A car that comes
    back has used `trip` kWh when it arrives. It charges with up to `power` kW, and with `v2g` gives
    back as much; of each kWh the share `efficiency` arrives, and `wear` is paid in EUR per kWh,
    either way. Every number may differ by device, `power` also by step. `bus` is where it is
    connected, of a grid in three phases (-1: as its owner).

        vehicle([0, 3], power=11, capacity=60, arrival=18, departure="7:15", trip=12,
                hours=96, hour_length=0.25)

    Raises `ValueError` for what is no hour of the day or between two steps, and the same hour for
    both; for shares outside 0 to 1, negative or non-finite numbers, and shapes that do not fit.
    """
    read = Device("vehicle", owner, hours)
    owners, hours = read.owners, read.hours
    length = read.step_lengths(hour_length)
    home = windows(
        "vehicle", ("arrival", arrival), ("departure", departure), rows=read.rows, steps=hours,
        length=length, clock=clock,
    )  # fmt: skip
    if np.any(home.order == 0):
        raise ValueError(
            f"vehicle: arrival={arrival} is departure too; a car that never leaves has arrival=0, "
            "departure=24."
        )
    at_home, leaving = home.inside(hours), home.ends(hours)
    limit, size = read.hour("power", power), read.row("capacity", capacity)
    first, low, goal = (
        read.row(name, share, "share")
        for name, share in (("start", start), ("floor", floor), ("due", due))
    )
    at, least = np.arange(hours), jnp.broadcast_to(low * size, limit.shape)
    least = jnp.where(leaving, jnp.maximum(least, goal * size), least)
    if final is not None:
        last = jnp.maximum(least, read.row("final", final, "share") * size)
        least = jnp.where(at == hours - 1, last, least)
    limit = jnp.where(at_home, limit, 0.0)
    share = read.row("efficiency", efficiency, "efficiency")[:, 0]
    return Buffers(
        owners,
        limit,
        limit if v2g else jnp.zeros_like(limit),
        size,
        (first * size)[:, 0],
        hours=hours,
        energy_min=least,
        drain=jnp.where(_back(home, hours), read.row("trip", trip), 0.0),
        charge_efficiency=share,
        discharge_efficiency=share,
        linear=read.row("wear", wear)[:, 0],
        made=Made.by(length, clock),
        kind="vehicle",
        bus=read.buses(bus),
    )


def _back(home: Windows, steps: int) -> Bool[np.ndarray, "K H"]:
    """The step before it is back from where it has gone since the first step."""
    away = home.real[:, :-1] & (home.end[:, :-1] < home.first[:, 1:]) & home.real[:, 1:]
    rows, window = np.nonzero(away)
    back = np.zeros((len(home.first), steps), bool)
    back[rows, home.first[rows, window + 1] - 1] = True
    return back
