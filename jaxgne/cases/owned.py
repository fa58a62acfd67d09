"""Who owns which device, and how large it is beside its owner's load."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from .. import devices
from ..market import Buffers, Generators
from ..runner import jnp
from .feeders import Floats, Ints

Draw = Callable[[float, float], Floats]  # uniform, one number a device


def owned_by(share: float, size: Floats, rng: np.random.Generator) -> tuple[Ints, Floats, Draw]:
    """Owners of a kind of device, their sizes, and how to draw numbers for them.

    A prosumer's numbers do not depend on how many own such a device.
    """
    count = len(size)
    who = np.sort(rng.permutation(count)[: round(share * count)])
    return who, size[who], lambda low, high: rng.uniform(low, high, count)[who]


def generators(owner: Ints, size: Floats, draw: Draw, hours: int) -> Generators:
    """0.8 of the owner's highest load; a kWh costs 0.08 to 0.14 EUR, the last 0.08 to 0.12 more."""
    power = 0.8 * size
    return devices.generator(
        owner,
        power=power[:, None],
        hours=hours,
        linear=draw(0.08, 0.14),
        quadratic=draw(0.04, 0.06) / power,
    )


def batteries(owner: Ints, size: Floats, draw: Draw, hours: int) -> Buffers:
    """0.2 to 0.4 of the owner's highest load, for two to three hours; half full at both ends."""
    power = draw(0.2, 0.4) * size
    capacity = draw(2.0, 3.0) * power
    return devices.battery(owner, power=power[:, None], capacity=capacity, hours=hours, final=0.5)


def vehicles(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """Cars (27 to 90 kWh at a house of 4.5 to 7.5 kW) that charge in eight hours.

    They leave at 6 to 8 o'clock with 0.8 of that at least, and are back at 16 to 20, having used
    0.1 to 0.3 of it.
    """
    capacity = draw(6.0, 12.0) * size
    departure, arrival = draw(6, 9).astype(int), draw(16, 21).astype(int)
    day = devices.vehicle(
        owner,
        power=capacity[:, None] / 8,
        capacity=capacity,
        arrival=_edge(arrival, hour_length, np.ceil),
        departure=_edge(departure, hour_length, np.floor),
        hours=round(24 / hour_length),
        hour_length=hour_length,
        trip=draw(0.1, 0.3) * capacity,
        final=0.5,
    )
    days = -(-hours * hour_length // 24)  # a day ends as it began, so it may be repeated

    def again(table: Array) -> Array:
        timed = table.shape[1:] == day.drain.shape[1:]
        return jnp.tile(table, (1, int(days)))[:, :hours] if timed else table

    return jax.tree.map(again, day)


def heat_pumps(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """They hold 20 to 22 degC on a day of 2 to 10, with half again the power that takes."""
    clock = np.arange(hours) * hour_length
    outdoor = 6 + 4 * np.cos(2 * np.pi * (clock - 15) / 24)
    loss, cop = draw(0.02, 0.04) * size, draw(2.8, 3.8)  # kW/K
    return devices.heat_pump(
        owner,
        power=(1.5 * 20 * loss / cop)[:, None],
        cop=cop[:, None],
        outdoor=outdoor[None],
        resistance=1 / loss,
        capacity=draw(40, 80) * loss,
        hours=hours,
        hour_length=hour_length,
    )


def shiftables(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """One run a day of two hours at most, within a window from the morning until 18 to 22 o'clock.

    A row for each owner and day whose window ends within the hours.
    """
    power = 0.25 * size
    energy = draw(0.8, 2.0) * power
    earliest, latest = draw(6, 13).astype(int), draw(18, 23).astype(int)
    midnights = np.arange(0, hours * hour_length, 24)
    first, end = (
        np.add.outer(_edge(hour, hour_length, side), midnights)
        for hour, side in ((earliest, np.ceil), (latest, np.floor))
    )
    who, day = np.nonzero(end <= hours * hour_length * (1 + 1e-9))
    return devices.shiftable(
        owner[who],
        energy=energy[who],
        power=power[who, None],
        earliest=first[who, day],
        latest=end[who, day],
        hours=hours,
        once=True,
        hour_length=hour_length,
    )


def _edge(clock: Ints, hour_length: float, side: Callable[[Floats], Floats]) -> Floats:
    """The hour at which a step begins, at an hour of the day or next to it on one side."""
    return side(np.round(clock / hour_length, 6)) * hour_length
