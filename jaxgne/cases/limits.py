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


def relief(flow: Floats, capacity: Floats) -> Floats:
    """What generators of some `capacity` (G) make to cut the day's highest `flow` (G, H), both kW.

    Each levels its flow from the top, by 40 % at most and with 80 % of its capacity at most.
    """
    highest = flow.max(axis=1)
    target = highest - np.minimum(0.9 * capacity, 0.5 * highest)
    return np.clip(flow - target[:, None], 0.0, 0.9 * capacity[:, None])


def stressed(feeder: Feeder, most: Floats, reactive: Floats, at: Ints, capacity: Floats) -> Limits:
    """Limits between two plans: what the buses draw without any generator, and with `relief`.

    `most` kW and `reactive` kvar (B, H) are drawn without; generators of `capacity` kW (G) stand
    `at` buses. Every other generator levels the line to its bus, the rest level the total. On the
    way to the former lines are rated, before the latter the voltage is held, and the total is
    limited, all close to that second plan, which stays feasible.
    """
    free = loose(feeder)
    line_to = {int(bus): line for line, bus in enumerate(feeder.target)}
    before = flows(feeder, most)
    made = relief(before[[line_to[int(bus)] for bus in at]], capacity)
    least = most.copy()
    np.subtract.at(least, at, made)
    carried = [np.hypot(flows(feeder, drawn), flows(feeder, reactive)) for drawn in (least, most)]
    low, high = (flow.max(axis=1) for flow in carried)
    behind = np.zeros((len(feeder.load), 1))
    behind[at] = 1.0
    rated = flows(feeder, behind)[:, 0] > 0
    squared = [squared_voltages(feeder, drawn, reactive) for drawn in (least, most)]
    up, down = (np.sqrt(w.min(axis=1)) for w in squared)
    voltage_min = up - _ROOM * (up - down) - 1e-5
    totals = [drawn.sum(axis=0).max() for drawn in (least, most)]
    return Limits(
        rating=np.where(
            rated, np.maximum(low, low + _ROOM * (high - low)) + 1e-3 * high, free.rating
        ),
        voltage_min=voltage_min,
        voltage_max=free.voltage_max,
        total_max=np.asarray(totals[0] + _ROOM * (totals[1] - totals[0])),
    )


_ROOM = 0.02  # of the way from the plan with generators to the one without
