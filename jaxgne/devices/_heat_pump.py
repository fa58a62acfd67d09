"""Heat pumps that keep a building within a comfort band."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..clock import Made
from ..market import Buffers
from ..runner import built, jnp
from .tables import Device


@built
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
    hour_length: Any = 1.0,
    bus: Any = -1,
) -> Buffers:
    """A heat pump of up to `power` kW (electric) that warms a building with thermal mass.

    The building loses (T - `outdoor`) / `resistance` kW (degC, K/kW) and holds `capacity` kWh/K.
    Its temperature, at `start` degC first (`None`: the middle), stays within `comfort` (lowest and
    highest degC). These, `outdoor`, `power` and `cop`, heat over electricity, may differ by device
    and step, of which there are `hours`, of `hour_length` h each; the others by device. With
    R C = resistance capacity and a = exp(-Ts / RC), exactly for powers that are constant within a
    step (model.md: Decisions):

        T' = a T + (1 - a) (outdoor + resistance cop p).

    The buffer's content is capacity (T - lowest comfort), kWh of heat. `bus` is where it is
    connected, of a grid in three phases (-1: as its owner).

        heat_pump(1, power=3, cop=3.2, outdoor=degrees, resistance=6, capacity=4, hours=24)

    Raises `ValueError` for numbers out of range, and shapes that do not fit.
    """
    read = Device("heat_pump", owner, hours)
    ends = np.shape(comfort)[:1] if isinstance(comfort, np.ndarray) else (len(comfort),)
    if ends != (2,):
        raise ValueError(f"heat_pump: comfort={comfort}: give two, the lowest and highest degC.")
    low, high = (read.hour(f"comfort[{k}]", bound, "number") for k, bound in enumerate(comfort))
    read.ordered(("comfort[0]", low), ("comfort[1]", high))
    cold = read.hour("outdoor", outdoor, "number")
    mass, loss = read.row("capacity", capacity, "size"), read.row("resistance", resistance, "size")
    length = read.step_lengths(hour_length)
    made = Made.of(length)
    length = length[:1] if isinstance(made.length, float) else length
    kept = jnp.exp(-length / (loss * mass))
    ground = jnp.min(low, axis=1, keepdims=True)  # the content is 0 there
    first = (low[:, :1] + high[:, :1]) / 2 if start is None else read.row("start", start, "number")
    # what the mass takes up of an hour's heat while it leaks
    taken = (1 - kept) * loss * mass / length
    return Buffers(
        read.owners,
        read.hour("power", power),
        0.0,
        mass * (high - ground),
        (mass * (first - ground))[:, 0],
        hours=read.hours,
        energy_min=mass * (low - ground),
        drain=(1 - kept) * mass * (ground - cold),
        retention=kept,
        charge_efficiency=_performance(read, cop) * taken,
        made=made,
        kind="heat pump",
        bus=read.buses(bus),
    )


def _performance(read: Device, cop: Any) -> Float[Array, "K #H"]:
    """Heat over electricity by device, and by step where it is given so."""
    shape = np.shape(cop)
    timed = read.hours > 1 and shape[-1:] == (read.hours,) and shape != (read.rows, 1)
    return read.hour("cop", cop, "cop") if timed else read.row("cop", cop, "cop")
