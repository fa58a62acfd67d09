"""Six kinds of customer, what they draw over a day, and what they own."""

from dataclasses import dataclass

import numpy as np

from .feeders import Feeder, Floats, Ints, table
from .phased import Phased

# kind: highest load of a day in kW, share of all customers
KINDS = {
    "house": (6.0, 0.45),
    "apartments": (25.0, 0.20),
    "hospital": (90.0, 0.05),
    "office": (50.0, 0.12),
    "school": (45.0, 0.08),
    "restaurant": (30.0, 0.10),
}
_PROSUMERS_SHARE = 0.6  # of a bus's spot load, at most, is drawn by its prosumers
KVAR_PER_KW = np.tan(np.arccos(0.93))


@dataclass(frozen=True)
class Customers:
    """Prosumers before they become a market: one row each, hours along the second axis."""

    bus: Ints
    peak: Floats  # kW
    gross: Floats  # kW
    reactive: Floats  # kvar, of the gross load
    sun: Floats  # kW available from PV
    battery: Ints  # indices of those who own one
    generator: Ints


def shape(name: str, hours: int, hour_length: float) -> Floats:
    """A column of the typical day at the start of each hour, repeated and interpolated (H)."""
    values = np.array(table("day")[name], dtype=float)
    return np.interp(np.arange(hours) * hour_length % 24, np.arange(25), [*values, values[0]])


def settle(
    feeder: Feeder | Phased, count: int, hours: int, hour_length: float, rng: np.random.Generator
) -> Customers:
    """Put `count` prosumers on a feeder's load buses, drawn in proportion to the spot load.

    Kinds are drawn by their shares, peaks scatter by a quarter; where the peaks at a bus exceed
    60 % of its spot load all are scaled down to that, the rest of the spot load stays passive.
    60 % own PV; half a battery; a quarter a generator.
    """
    bus = rng.choice(len(feeder.load), count, p=feeder.load / feeder.load.sum())
    kind = rng.choice(len(KINDS), count, p=[share for _, share in KINDS.values()])
    nominal = np.array([peak for peak, _ in KINDS.values()])
    peak = nominal[kind] * rng.uniform(0.75, 1.25, count)
    room = _PROSUMERS_SHARE * feeder.load
    asked = np.bincount(bus, peak, len(room))
    peak *= np.minimum(1.0, room / np.maximum(asked, 1e-9))[bus]
    gross = daily(kind, peak, hours, hour_length, rng)
    panels = np.where(rng.uniform(size=count) < 0.6, rng.uniform(0.3, 0.9, count) * peak, 0.0)
    sun = sunshine(panels, hours, hour_length, rng)
    return Customers(
        bus=bus,
        peak=peak,
        gross=gross,
        reactive=KVAR_PER_KW * gross,
        sun=sun,
        battery=np.sort(rng.permutation(count)[: count // 2]),
        generator=np.sort(rng.permutation(count)[: count // 4]),
    )


def daily(
    kind: Ints, peak: Floats, hours: int, hour_length: float, rng: np.random.Generator
) -> Floats:
    """What customers draw over the hours: the day of their kind up to `peak` kW, kW (N, H)."""
    day = np.stack([shape(name, hours, hour_length) for name in KINDS])
    noise = rng.normal(1.0, 0.08, (len(peak), hours))
    return peak[:, None] * np.maximum(np.minimum(day[kind] * noise, 1.0), 0.05)


def sunshine(panels: Floats, hours: int, hour_length: float, rng: np.random.Generator) -> Floats:
    """What panels of `panels` kW make under one changing sky, kW (N, H)."""
    sky = shape("sun", hours, hour_length) * rng.uniform(0.75, 1.0, hours)
    return panels[:, None] * sky * rng.uniform(0.9, 1.0, (len(panels), hours))


def at_buses(buses: int, bus: Ints, values: Floats) -> Floats:
    """Sum rows of (rows, H) by bus, (B, H)."""
    total = np.zeros((buses, values.shape[1]))
    np.add.at(total, bus, values)
    return total


def spread(customers: Customers, rng: np.random.Generator) -> Ints:
    """As many owners of generators, drawn anew: one at each bus before any bus gets a second."""
    order = rng.permutation(len(customers.bus))
    first = np.unique(customers.bus[order], return_index=True)[1]
    later = np.ones(len(order), dtype=bool)
    later[first] = False
    return np.sort(order[np.argsort(later, kind="stable")][: len(customers.generator)])


def passive(
    feeder: Feeder | Phased, customers: Customers, hours: int, hour_length: float
) -> tuple[Floats, Floats]:
    """What is left of the spot loads over a day, kW and kvar (B, H): the passive consumers."""
    day = shape("passive", hours, hour_length)
    drawn = np.bincount(customers.bus, customers.peak, len(feeder.load))
    left = (feeder.load - drawn)[:, None] * day
    ratio = feeder.reactive / np.maximum(feeder.load, 1e-9)
    return left, ratio[:, None] * left
