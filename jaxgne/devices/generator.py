"""Dispatchable generation."""

from typing import Any

import jax.numpy as jnp

from ..market import Generators


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
