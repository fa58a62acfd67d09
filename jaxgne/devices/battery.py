"""Stationary batteries."""

from typing import Any

import jax.numpy as jnp

from ..market import Buffers
from .tables import column


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
) -> Buffers:
    """A battery of `capacity` kWh that charges and discharges with up to `power` kW, per owner.

    `start`, `floor`, `ceiling` and `final` are shares of the capacity: its content at first, its
    bounds, and the least it may hold at the end (`None`: the floor). `efficiency` is that of one
    way, so a round trip keeps its square. `wear` is paid in EUR per kWh charged and per kWh
    discharged; above 0 it keeps a battery from cycling for nothing. `value` is what each kWh more
    at the end than at first is worth to the owner, EUR/kWh. Every number may differ by device.

        battery([0, 4], power=5, capacity=[10, 13.5], hours=24, final=0.5)
    """
    owners = jnp.atleast_1d(jnp.asarray(owner))
    size = column(capacity, owners)
    least = jnp.broadcast_to(column(floor, owners) * size, (owners.shape[0], hours))
    if final is not None:
        due = (column(final, owners) * size)[:, 0]
        least = least.at[:, -1].set(jnp.maximum(least[:, -1], due))
    return Buffers(
        owners,
        column(power, owners),
        column(power, owners),
        column(ceiling, owners) * size,
        (column(start, owners) * size)[:, 0],
        hours=hours,
        energy_min=least,
        charge_efficiency=efficiency,
        discharge_efficiency=efficiency,
        linear=wear,
        final_value=value,
    )
