"""Tables of devices: columns of numbers, windows of hours, and several tables as one."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ..market import Buffers, Generators

Devices = TypeVar("Devices", Generators, Buffers)


def column(value: Any, owners: Array) -> Array:
    """One number a device, as a column to be met with hours."""
    return jnp.broadcast_to(jnp.asarray(value, float), owners.shape)[:, None]


def window(name: str, first: Any, end: Any, owners: Array, hours: int) -> Bool[np.ndarray, "K H"]:
    """Hours from `first` on and before `end`, by device; past midnight where `first` is later.

    `ValueError` for hours that are not whole numbers from 0 to `hours`.
    """
    ends = []
    for value in (first, end):
        hour = np.broadcast_to(np.asarray(value), owners.shape)
        if np.any((hour != np.floor(hour)) | (hour < 0) | (hour > hours)):
            raise ValueError(f"{name}={value}: give whole hours from 0 to {hours}.")
        ends.append(hour.astype(int)[:, None])
    (first, end), at = ends, np.arange(hours)
    inside, late = (at >= first) & (at < end), (at >= first) | (at < end)
    return np.where(first < end, inside, late)


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
