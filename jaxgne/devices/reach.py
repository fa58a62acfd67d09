"""Floors that a storage cannot keep, lowered to what it can."""

import warnings
from typing import Any

import equinox as eqx
import numpy as np

from ..arrays import put
from ..market import Buffers
from ..names import device_name


def recover(stores: Buffers, *, hour_length: Any = 1.0) -> Buffers:
    """The same `stores`, each floor and due lowered to what charging all the time reaches.

    A battery found below its floor charges as soon as it can and keeps the floor from then on; a
    car that cannot be full in time takes what it can. What is missing then is told (`UserWarning`):
    device, kWh, step. Where the floors can be kept nothing changes. `hour_length` is the
    market's.

        recover(battery(0, power=2, capacity=10, start=0.05, floor=0.3, hours=8))
    """
    rows = ("charge_max", "energy_min", "energy_max", "drain", "energy_start")
    most, floor, ceiling, drain, top = (np.asarray(getattr(stores, name), float) for name in rows)
    keep, gain = (
        np.broadcast_to(np.asarray(a, float), floor.shape)
        for a in (stores.retention, stores.charge_efficiency)
    )
    reached = np.empty_like(floor)
    for h, ts in enumerate(np.broadcast_to(hour_length, floor.shape[1])):
        high = keep[:, h] * top - drain[:, h] + ts * gain[:, h] * most[:, h]
        reached[:, h] = top = np.minimum(high, ceiling[:, h])
    missing = floor - reached
    missing[missing <= 1e-9 * np.abs(ceiling)] = 0.0
    owner, kind = np.asarray(stores.owner), np.asarray(stores.kind)
    for row in np.flatnonzero(missing.any(axis=1)):
        last = int(np.flatnonzero(missing[row])[-1])
        name = device_name("buffer", stores.names, kind[row], row)
        warnings.warn(
            f"recover: {name} (prosumer {owner[row]}) holds {reached[row, last]:.4g} kWh at "
            f"the end of step {last} where {floor[row, last]:.4g} kWh are due: "
            f"{missing[row, last]:.4g} kWh are missing.",
            stacklevel=2,
        )
    lowered = put((floor - missing).astype(stores.energy_min.dtype))
    return eqx.tree_at(lambda s: s.energy_min, stores, lowered)
