"""Heat pumps that keep a building within a comfort band."""

from typing import Any

import jax.numpy as jnp

from ..market import Buffers
from .tables import column


def heat_pump(
    owner: Any,
    *,
    power: Any,
    cop: Any,
    outdoor: Any,
    resistance: Any,
    capacity: Any,
    hours: int,
    comfort: tuple[Any, Any] = (20.0, 22.0),
    start: Any = None,
    hour_length: float = 1.0,
) -> Buffers:
    """A heat pump of up to `power` kW (electric) that warms a building with thermal mass.

    The building loses (T - `outdoor`) / `resistance` kW (degC, K/kW) and holds `capacity` kWh/K.
    Its temperature, at `start` degC first (`None`: the middle), stays within `comfort` (lowest and
    highest degC; each one number, by device, or `(devices, hours)`). `outdoor` is `(hours,)` or
    `(devices, hours)`, `cop` heat over electricity. With R C = resistance capacity and
    a = exp(-Ts / RC), exactly for powers that are constant within an hour (MODEL 2):

        T' = a T + (1 - a) (outdoor + resistance cop p).

    The buffer's content is capacity (T - lowest comfort), kWh of heat.

        heat_pump(1, power=3, cop=3.2, outdoor=degrees, resistance=6, capacity=4, hours=24)

    Raises `ValueError` where arrays do not fit the hours.
    """
    owners = jnp.atleast_1d(jnp.asarray(owner))
    shape = (owners.shape[0], hours)
    low, high = (_table("comfort", bound, shape) for bound in comfort)
    cold = _table("outdoor", outdoor, shape)
    mass, loss = column(capacity, owners), column(resistance, owners)
    kept = jnp.exp(-hour_length / (loss * mass))
    ground = jnp.min(low, axis=1, keepdims=True)  # the content is 0 there
    first = (low[:, :1] + high[:, :1]) / 2 if start is None else column(start, owners)
    # what the mass takes up of an hour's heat while it leaks
    taken = (1 - kept) * loss * mass / hour_length
    return Buffers(
        owners,
        column(power, owners),
        0.0,
        mass * (high - ground),
        (mass * (first - ground))[:, 0],
        hours=hours,
        energy_min=mass * (low - ground),
        drain=(1 - kept) * mass * (ground - cold),
        retention=kept[:, 0],
        charge_efficiency=(column(cop, owners) * taken)[:, 0],
    )


def _table(name: str, value: object, shape: tuple[int, int]) -> jnp.ndarray:
    array = jnp.asarray(value, float)
    if array.ndim == 1 and array.shape[0] == shape[0] != shape[1]:
        array = array[:, None]
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError as error:
        raise ValueError(
            f"heat_pump: {name} has shape {array.shape}; give one number, one a device, or "
            f"{shape[1]} hours."
        ) from error
