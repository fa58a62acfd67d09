"""Stationary batteries."""

from typing import Any

from ..market import Buffers
from ..runner import built, jnp
from .tables import Device


@built
def battery(
    owner: Any,
    *,
    power: Any,
    capacity: Any,
    hours: int,
    start: Any = 0.5,
    floor: Any = 0.1,
    ceiling: Any = 1.0,
    efficiency: Any = 0.95,
    wear: Any = 0.005,
    final: Any = None,
    value: Any = 0.0,
    bus: Any = -1,
) -> Buffers:
    """A battery of `capacity` kWh that charges and discharges with up to `power` kW, per owner.

    `start`, `floor`, `ceiling` and `final` are shares of the capacity: its content at first, its
    bounds, and the least it may hold at the end (`None`: the floor). `efficiency` is that of one
    way, so a round trip keeps its square. `wear` is paid in EUR per kWh charged and per kWh
    discharged; above 0 it keeps a battery from cycling for nothing. `value` is what each kWh more
    at the end than at first is worth to the owner, EUR/kWh. Every number may differ by device,
    `power` also by hour. `bus` is where it is connected, of a grid in three phases (-1: as its
    owner).

        battery([0, 4], power=5, capacity=[10, 13.5], hours=24, final=0.5)

    Raises `ValueError` for shares outside 0 to 1, negative or non-finite numbers, bounds out of
    order, and shapes that do not fit.
    """
    read = Device("battery", owner, hours)
    limit, size = read.hour("power", power), read.row("capacity", capacity)
    begin, low, high = (
        read.row(name, share, "share")
        for name, share in (("start", start), ("floor", floor), ("ceiling", ceiling))
    )
    read.ordered(("floor", low), ("ceiling", high))
    read.ordered(("start", begin), ("ceiling", high))
    least = jnp.broadcast_to(low * size, limit.shape)
    if final is not None:
        last = read.row("final", final, "share")
        read.ordered(("final", last), ("ceiling", high))
        least = least.at[:, -1].set(jnp.maximum(least[:, -1], (last * size)[:, 0]))
    share = read.row("efficiency", efficiency, "efficiency")[:, 0]
    return Buffers(
        read.owners,
        limit,
        limit,
        high * size,
        (begin * size)[:, 0],
        hours=read.hours,
        energy_min=least,
        charge_efficiency=share,
        discharge_efficiency=share,
        linear=read.row("wear", wear)[:, 0],
        final_value=read.row("value", value, "number")[:, 0],
        kind="battery",
        bus=read.buses(bus),
    )
