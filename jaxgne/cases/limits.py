"""Ratings, voltage bounds and the limit on the total exchange: loose, or such that they bind.

No ratings of these feeders are published: all are this project's own. Every limit is drawn from
explicit plans that meet it, so that what comes out is feasible by construction.
"""

from dataclasses import dataclass

import numpy as np

from .feeders import Feeder, Floats, Ints, flows, squared_voltages


@dataclass(frozen=True)
class Limits:
    """What the network admits."""

    rating: Floats  # kVA (L)
    voltage_min: Floats  # pu (B)
    voltage_max: Floats
    total_max: Floats  # kW (H)


def loose(feeder: Feeder) -> Limits:
    """Limits that the spot load meets with a margin: everybody may import what they draw.

    Ratings 1.5 times the spot load's flow and 100 kVA more; 0.94 to 1.05 pu; 1.2 times the total.
    """
    carried = np.hypot(flows(feeder, feeder.load), flows(feeder, feeder.reactive))
    buses = len(feeder.load)
    return Limits(
        rating=1.5 * carried + 100.0,
        voltage_min=np.full(buses, 0.94),
        voltage_max=np.full(buses, 1.05),
        total_max=np.asarray(1.2 * feeder.load.sum()),
    )


def stressed(feeder: Feeder, most: Floats, least: Floats, reactive: Floats, at: Ints) -> Limits:
    """Limits between two plans: what the buses draw without (`most`) and with (`least`) generators.

    Both in kW (B, H); `at` are the buses of generators, which alone can relieve the grid. Behind
    every other one the line is rated, before the rest the voltage is held, near the `least` plan,
    which stays feasible; the total likewise.
    """
    free = loose(feeder)
    parents = {int(target): line for line, target in enumerate(feeder.target)}
    sides = np.unique(at)
    lines = np.array([parents[int(bus)] for bus in sides[::2] if int(bus) in parents], dtype=int)
    carried = [np.hypot(flows(feeder, drawn), flows(feeder, reactive)) for drawn in (least, most)]
    low, high = (flow.max(axis=1) for flow in carried)
    rating = free.rating.copy()
    rating[lines] = (low + _ROOM * np.maximum(high - low, 0.01 * high))[lines]
    squared = [squared_voltages(feeder, drawn, reactive) for drawn in (least, most)]
    up, down = (np.sqrt(w.min(axis=1)) for w in squared)
    voltage_min = free.voltage_min.copy()
    held = sides[1::2]
    voltage_min[held] = (up - _ROOM * np.maximum(up - down, 1e-4))[held]
    totals = [drawn.sum(axis=0).max() for drawn in (least, most)]
    total_max = totals[0] + _ROOM * (totals[1] - totals[0])
    return Limits(rating, voltage_min, free.voltage_max, np.asarray(total_max))


_ROOM = 0.3  # of the way from the plan with generators to the one without
