"""Devices as people describe them, turned into rows of `Generators` and `Buffers`."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .market import Buffers, Generators

Devices = TypeVar("Devices", Generators, Buffers)


def _column(value: Any, owners: Array) -> Array:
    """One number a device, as a column to be met with hours."""
    return jnp.broadcast_to(jnp.asarray(value, float), owners.shape)[:, None]


def generator(
    owner: Any,
    *,
    power: Any,
    hours: int,
    linear: Any,
    quadratic: Any = 0.0,
    minimum: Any = 0.0,
) -> Generators:
    """A unit that makes between `minimum` and `power` kW, one for each prosumer in `owner`.

    It costs `quadratic p^2 + linear p` EUR per hour (EUR/kW^2h, EUR/kWh; no factor 1/2). Every
    number may differ by device, the powers also by hour, shape `(devices, hours)`.

        generator(3, power=40, hours=24, linear=0.12, quadratic=0.002)
    """
    return Generators(
        jnp.atleast_1d(jnp.asarray(owner)),
        power,
        hours=hours,
        power_min=minimum,
        linear=linear,
        quadratic=quadratic,
    )


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
) -> Buffers:
    """A battery of `capacity` kWh that charges and discharges with up to `power` kW, per owner.

    `start`, `floor`, `ceiling` and `final` are shares of the capacity: its content at first, its
    bounds, and the least it may hold at the end (`None`: the floor). `efficiency` is that of one
    way, so a round trip keeps its square. `wear` is paid in EUR per kWh charged and per kWh
    discharged; above 0 it keeps a battery from cycling for nothing. Every number may differ by
    device.

        battery([0, 4], power=5, capacity=[10, 13.5], hours=24, final=0.5)
    """
    owners = jnp.atleast_1d(jnp.asarray(owner))
    size = _column(capacity, owners)
    least = jnp.broadcast_to(_column(floor, owners) * size, (owners.shape[0], hours))
    if final is not None:
        due = (_column(final, owners) * size)[:, 0]
        least = least.at[:, -1].set(jnp.maximum(least[:, -1], due))
    return Buffers(
        owners,
        _column(power, owners),
        _column(power, owners),
        _column(ceiling, owners) * size,
        (_column(start, owners) * size)[:, 0],
        hours=hours,
        energy_min=least,
        charge_efficiency=efficiency,
        discharge_efficiency=efficiency,
        linear=wear,
    )


def join(first: Devices, *others: Devices) -> Devices:
    """One table of all devices, in order: several for one prosumer, or of several kinds.

        buffers = join(battery(0, ...), battery([0, 2], ...))

    `ValueError` when the tables are not of one kind or differ in their hours.
    """
    kind = type(first).__name__
    for other in others:
        if type(other) is not type(first):
            raise ValueError(
                f"join: {kind} and {type(other).__name__} are different tables; join each kind "
                "on its own."
            )
        hours = [_hours(table) for table in (first, other)]
        if hours[0] != hours[1]:
            raise ValueError(
                f"join: {kind} of {hours[0]} and of {hours[1]} hours; give all the same `hours`."
            )
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), first, *others)


def _hours(table: Generators | Buffers) -> int:
    return (table.power_max if isinstance(table, Generators) else table.charge_max).shape[1]
