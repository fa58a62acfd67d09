"""Electrolysers with a tank."""

from typing import Any

from ..clock import Made
from ..market import Buffers
from ..runner import built, jnp
from .tables import Device


@built
def electrolyser(
    owner: Any,
    *,
    power: Any,
    tank: Any,
    demand: Any,
    hours: int,
    efficiency: Any = 0.65,
    start: Any = 0.5,
    wear: Any = 0.0,
    value: Any = 0.0,
    hour_length: Any = 1.0,
    bus: Any = -1,
) -> Buffers:
    """An electrolyser of up to `power` kW that fills a `tank` of so many kWh of hydrogen.

    Hydrogen counts by its lower heating value. `demand` kW of it leave the tank, which holds the
    share `start` at first and as much at least at the end. `efficiency` is hydrogen over
    electricity, `wear` EUR per kWh of electricity, and each kWh of hydrogen more at the end is
    worth `value` EUR. `power` and `demand` may differ by device and step, of which there are
    `hours`, of `hour_length` h (one number, or one a step); the others by device. It runs at any
    part of its power: one that must not run below a share of it is not convex. `bus` is where it is
    connected, of a grid in three phases (-1: as its owner).

        electrolyser(2, power=50, tank=400, demand=15, hours=24, value=0.12)

    Raises `ValueError` for numbers out of range and shapes that do not fit.
    """
    read = Device("electrolyser", owner, hours)
    size, first = read.row("tank", tank), read.row("start", start, "share")
    length = read.step_lengths(hour_length)
    least = jnp.zeros((read.rows, read.hours)).at[:, -1].set((first * size)[:, 0])
    return Buffers(
        read.owners,
        read.hour("power", power),
        0.0,
        size,
        (first * size)[:, 0],
        hours=read.hours,
        energy_min=least,
        drain=length * read.hour("demand", demand),
        charge_efficiency=read.row("efficiency", efficiency, "efficiency")[:, 0],
        linear=read.row("wear", wear)[:, 0],
        final_value=read.row("value", value, "number")[:, 0],
        made=Made.of(length),
        kind="electrolyser",
        bus=read.buses(bus),
    )
