"""Photovoltaic panels."""

from dataclasses import replace
from typing import Any

import numpy as np
from jax.core import Tracer

from ..market import Prosumers
from ..runner import built
from .tables import Device


@built
def photovoltaic(
    prosumers: Prosumers,
    owner: Any,
    *,
    generation: Any,
    curtail: bool = True,
    feed_in: bool = True,
) -> Prosumers:
    """The prosumers with panels at some of them that make `generation` kW, by hour or device.

    The panels' power is taken off the load; with `curtail` any of it may be left unused, with
    `feed_in` any of it sold to the main grid at `Tariff.export`. Reactive load stays as it is: PV
    runs at unity power factor. A prosumer may have several.

        prosumers = photovoltaic(prosumers, [0, 2], generation=5 * sun)

    Raises `ValueError` for an owner that is no prosumer, and where `generation` is negative or does
    not fit owners and hours.
    """
    count, hours = prosumers.load.shape
    read = Device("photovoltaic", owner, hours)
    owners = read.owners
    if not isinstance(owners, Tracer) and np.any(np.asarray(owners) >= count):
        raise ValueError(f"photovoltaic: owner={owner}: give prosumers from 0 to {count - 1}.")
    made = read.hour("generation", generation).astype(prosumers.load.dtype)

    def more(table: Any, wanted: bool) -> Any:
        return table.at[owners].add(made) if wanted else table

    return replace(
        prosumers,
        load=prosumers.load.at[owners].add(-made),
        curtail_max=more(prosumers.curtail_max, curtail),
        export_max=more(prosumers.export_max, feed_in),
    )
