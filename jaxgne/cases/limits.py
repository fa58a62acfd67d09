"""Ratings, voltage bounds and the limit on the total exchange: loose, or such that they bind.

No ratings of these feeders are published: all are this project's own. Every limit is drawn from
explicit plans that meet it, so that what comes out is feasible by construction.
"""

from dataclasses import dataclass

import numpy as np

from .feeders import Feeder, Floats, flows, squared_voltages


@dataclass(frozen=True)
class Limits:
    """What the network admits."""

    rating: Floats  # kVA (L)
    voltage_min: Floats  # pu (B)
    voltage_max: Floats
    total_max: Floats  # kW (H)


def loose(feeder: Feeder) -> Limits:
    """Limits that the spot load meets with a margin: everybody may import what they draw.

    Ratings 1.5 times the spot load's flow and 100 kVA more; 0.94 to 1.05 pu, or from 0.01 below
    what the spot load gives where that is less; 1.2 times the total.
    """
    carried = np.hypot(flows(feeder, feeder.load), flows(feeder, feeder.reactive))
    reactive = np.maximum(feeder.reactive, 0.4 * feeder.load)  # prosumers' share: 0.395
    lowest = squared_voltages(feeder, feeder.load[:, None], reactive[:, None]).min()
    if lowest < 0.9**2:
        raise ValueError(
            f"feeder: its voltage falls to {np.sqrt(max(lowest, 0.0)):.3f} pu when all passive "
            "loads peak; give one that stays above 0.9 pu (impedances are in pu per kW)."
        )
    buses = len(feeder.load)
    return Limits(
        rating=1.5 * carried + 100.0,
        voltage_min=np.full(buses, min(0.94, np.sqrt(lowest) - 0.01)),
        voltage_max=np.full(buses, 1.05),
        total_max=np.asarray(1.2 * feeder.load.sum()),
    )


def leveled(feeder: Feeder, most: Floats, capacity: Floats) -> Floats:
    """What the buses draw once their generators have cut the highest flows, kW (B, H).

    From the ends of the feeder inwards, the generators at a bus, of `capacity` kW together (B),
    level what the bus and all behind it draw of the main grid: from the top, by 60 % at most and
    with 90 % of their capacity at most. `most` is what the buses draw without them.
    """
    drawn, behind = most.copy(), most.copy()
    line_to = dict(zip(feeder.target.tolist(), feeder.source.tolist(), strict=True))
    for bus in [*reversed(feeder.target.tolist()), 0]:
        highest = behind[bus].max()
        depth = min(0.9 * capacity[bus], 0.6 * max(highest, 0.0))
        made = np.clip(behind[bus] - (highest - depth), 0.0, depth)
        drawn[bus] -= made
        behind[bus] -= made
        if bus in line_to:
            behind[line_to[bus]] += behind[bus]
    return drawn


def stressed(feeder: Feeder, most: Floats, reactive: Floats, capacity: Floats) -> Limits:
    """Limits that bind in some hours and that the plan `leveled` meets, so that it stays feasible.

    `most` kW and `reactive` kvar (B, H) are what the buses draw without any generator; `capacity`
    kW (B) is that of all generators at a bus. First lines are rated: those on which `leveled` cuts
    most hours, until these are 10 % of all line-hours; then voltages held and the total limited
    where generators behind rated lines alone would leave them too low (14 % of the hours) or it
    too high (18 %). Scarcity then calls for generators that no price of the main grid would.
    """
    free = loose(feeder)
    least = leveled(feeder, most, capacity)
    made, kvar = most - least, flows(feeder, reactive)
    low, high = (np.hypot(flows(feeder, drawn), kvar).max(axis=1) for drawn in (least, most))
    tight = low + 1e-3 * high
    arriving = np.hypot(flows(feeder, least) + made[feeder.target], kvar)
    busy = np.mean(arriving > tight[:, None], axis=1) * (feeder.source > 0)
    order = np.argsort(-busy, kind="stable")
    rated = np.zeros(len(busy), dtype=bool)
    rated[order] = np.cumsum(busy[order]) <= _LINE_HOURS * len(busy)
    rated &= busy > 0
    relieved = most.copy()
    relieved[feeder.target[rated]] = least[feeder.target[rated]]
    held, wished = (squared_voltages(feeder, drawn, reactive) for drawn in (least, relieved))
    lowest = np.minimum(held.min(axis=1), np.quantile(wished, _LOW_HOURS, axis=1))
    highest = np.quantile(relieved.sum(axis=0), 1 - _HIGH_HOURS)
    return Limits(
        rating=np.where(rated, tight, free.rating),
        voltage_min=np.sqrt(lowest) - 1e-5,
        voltage_max=free.voltage_max,
        total_max=np.asarray(1.0001 * max(least.sum(axis=0).max(), highest)),
    )


_LINE_HOURS = 0.10  # of all lines and hours: where ratings are to bind
_LOW_HOURS = 0.14  # of the hours: where voltages are to be held up
_HIGH_HOURS = 0.18  # of the hours: where the total is to be cut
