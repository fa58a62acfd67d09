"""Photovoltaic panels."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ..market import Prosumers
from .tables import column


def photovoltaic(
    prosumers: Prosumers,
    owner: Any,
    *,
    generation: Any,
    curtail: bool = True,
    feed_in: bool = True,
) -> Prosumers:
    """The prosumers with panels at some of them that make `generation` kW, `(hours,)` or by device.

    The panels' power is taken off the load; with `curtail` any of it may be left unused, with
    `feed_in` any of it sold to the main grid at `Tariff.export`. Reactive load stays as it is: PV
    runs at unity power factor. A prosumer may have several.

        prosumers = photovoltaic(prosumers, [0, 2], generation=5 * sun)

    Raises `ValueError` for an owner that is no prosumer, and where `generation` is negative or does
    not fit owners and hours.
    """
    owners, hours = jnp.atleast_1d(jnp.asarray(owner)), prosumers.load.shape[1]
    if jnp.any((owners < 0) | (owners >= prosumers.load.shape[0])):
        raise ValueError(
            f"photovoltaic: owner={owner}: give prosumers from 0 to {prosumers.load.shape[0] - 1}."
        )
    made = jnp.asarray(generation, prosumers.load.dtype)
    fits = made.shape in ((), (hours,), (1, hours), (owners.shape[0], hours))
    if not fits or jnp.any(made < 0):
        raise ValueError(
            f"photovoltaic: generation of shape {made.shape}; give 0 kW or more, ({hours},) or "
            f"({owners.shape[0]}, {hours})."
        )
    made = jnp.broadcast_to(made, (owners.shape[0], hours)) * column(1.0, owners)

    def more(table: Any, wanted: bool) -> Any:
        return table.at[owners].add(made) if wanted else table

    return replace(
        prosumers,
        load=prosumers.load.at[owners].add(-made),
        curtail_max=more(prosumers.curtail_max, curtail),
        export_max=more(prosumers.export_max, feed_in),
    )
