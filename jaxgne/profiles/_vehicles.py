"""Cars by statistics of when they come, go, and how far they drive."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..arrays import by_row, step_count
from ..clock import Clock, one_length
from ..devices.windows import windows
from ._profiles import Profiles
from ._steps import Steps, steps_of


@dataclass(frozen=True)
class Vehicles:
    """Cars that charge at once when they come home, and the same as arguments of a device.

    `jg.devices.vehicle(owners, **cars.device)` may charge at any time that they are at home.
    """

    load: Profiles  # kW
    arrival: Float[np.ndarray, " K"]  # hour of the day
    departure: Float[np.ndarray, " K"]  # hour of the day
    trip: Float[np.ndarray, " K"]  # kWh a day
    device: dict[str, Any]  # arguments of `jg.devices.vehicle`


def vehicles(
    count: int,
    seed: int = 0,
    *,
    clock: Any,
    steps: int,
    hour_length: Any = 1.0,
    arrival: tuple[float, float] = (17.5, 1.5),
    departure: tuple[float, float] = (7.5, 1.0),
    distance: tuple[float, float] = (35.0, 25.0),
    consumption: Any = 0.18,
    power: Any = 11.0,
    capacity: Any = 60.0,
    due: float = 0.8,
    efficiency: float = 0.93,
) -> Vehicles:
    """`count` cars with habits of their own, the same every day: when they come and go, how far.

    `arrival` and `departure` are mean and standard deviation of a normal distribution, in hours of
    the day; `distance` of a gamma distribution, in km a day. The defaults are round numbers, not a
    survey's: give those of yours. Arrivals are put to the next step, departures to the one before.
    A trip uses `consumption` kWh/km, at most what the hours at home and the battery between its
    floor of 0.1 and `due` have room for. `power` kW, `capacity` kWh and `consumption` may be one
    for each car; of a kWh drawn the share `efficiency` arrives.

    `load` is what they draw when they charge from arrival on with full power until the trip is made
    good; `device` has what `jg.devices.vehicle` takes, for cars that begin as full as they must
    leave, and end as full as these would. The same `seed` gives the same cars, and the first of
    them whatever `count` is.

    Raises `ValueError` for numbers out of range, and steps that differ in length.
    """
    count = step_count("vehicles: count", count)
    when = steps_of("vehicles", clock, steps, hour_length)
    length = one_length("vehicles", when.length)
    rows = {
        name: np.asarray(by_row(f"vehicles: {name}", value, count, "car"), float)
        for name, value in (("consumption", consumption), ("power", power), ("capacity", capacity))
    }
    _check(rows, arrival, departure, distance, due, efficiency)
    draw = [np.random.default_rng([seed, k]) for k in range(3)]
    offset = float(when.clock.local([0.0])[0]) % length
    come, go = (
        offset + length * side((mean + spread * rng.standard_normal(count) - offset) / length)
        for (mean, spread), rng, side in (
            (arrival, draw[0], np.ceil), (departure, draw[1], np.floor),
        )
    )  # fmt: skip
    come, go = (np.round(hour % 24, 9) for hour in (come, go))
    come = np.where(come == go, (come + length) % 24, come)
    mean, spread = distance
    driven = np.full(count, mean)
    if spread > 0 and mean > 0:
        driven = draw[2].gamma((mean / spread) ** 2, spread**2 / mean, count)
    home = (go - come) % 24
    room = np.minimum((due - 0.1) * rows["capacity"], efficiency * rows["power"] * home)
    trip = np.minimum(rows["consumption"] * driven, room)
    begin, end = (float(when.clock.local([at])[0]) for at in (0.0, float(np.sum(when.length))))
    away = (begin - come) % 24 >= home  # at first
    since = (end - come) % 24  # in the end, of those at home
    missing = np.where(since < home, trip - efficiency * rows["power"] * since, 0.0)
    device = {
        "power": rows["power"][:, None],
        "capacity": rows["capacity"],
        "arrival": come,
        "departure": go,
        "trip": trip,
        "start": due - np.where(away, trip / rows["capacity"], 0.0),  # as `load` has it
        "hours": len(when.length),
        "due": due,
        "final": due - np.maximum(missing, 0.0) / rows["capacity"],
        "efficiency": efficiency,
        "hour_length": length,
        "clock": when.clock,
    }
    load = Profiles(
        _at_once(when, length, come, go, trip / efficiency, rows["power"]),
        "kW",
        tuple(f"car {k}" for k in range(count)),
        when.clock,
        when.length,
        np.ones(count),
        f"cars that charge from arrival on, drawn with seed {seed}",
    )
    return Vehicles(load, come, go, trip, device)


def _at_once(
    when: Steps,
    length: float,
    come: Float[np.ndarray, " K"],
    go: Float[np.ndarray, " K"],
    energy: Float[np.ndarray, " K"],
    power: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "K H"]:
    """What is drawn from arrival on until `energy` is, kW; from the evening before as well."""
    day = int(np.ceil(24 / length))
    before = Clock(np.int32(int(when.clock.start) - round(60 * day * length)), when.clock.zone)
    hours = day + len(when.length)
    stays = windows(
        "vehicles", ("arrival", come), ("departure", go), rows=len(come), steps=hours,
        length=np.full(hours, length), clock=before,
    )  # fmt: skip
    car, window = np.nonzero(stays.real & (stays.first >= 0))
    first, end = stays.first[car, window], stays.end[car, window]
    passed = np.arange(day + 1)
    at = first[:, None] + passed
    left = energy[car, None] / length - power[car, None] * passed  # kW, over a whole step
    drawn = np.clip(left, 0.0, power[car, None])
    inside = (at < end[:, None]) & (at < hours)
    load = np.zeros((len(come), hours))
    np.add.at(load, (np.broadcast_to(car[:, None], at.shape)[inside], at[inside]), drawn[inside])
    return load[:, day:]


def _check(
    rows: dict[str, Any], arrival: Any, departure: Any, distance: Any, due: float, gain: float
) -> None:
    """`ValueError` for numbers that make no car."""
    for name, values in rows.items():
        low = 0.0 if name == "consumption" else np.nextafter(0.0, 1.0)
        if not np.all(np.isfinite(values) & (values >= low)):
            raise ValueError(f"vehicles: {name}: give finite numbers above 0.")
    for name, pair in (("arrival", arrival), ("departure", departure), ("distance", distance)):
        most = np.inf if name == "distance" else 24.0
        if np.shape(pair) != (2,) or not (0 <= pair[0] <= most and 0 <= pair[1] < np.inf):
            raise ValueError(
                f"vehicles: {name}={pair!r}: give mean and standard deviation, such as (17.5, 1.5)."
            )
    if not (0.1 < due <= 1 and 0 < gain <= 1):
        raise ValueError("vehicles: give due above 0.1 up to 1, efficiency above 0 up to 1.")
