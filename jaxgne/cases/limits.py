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
    """Limits between two plans: what the buses draw without any generator, and `leveled`.

    `most` kW and `reactive` kvar (B, H) are drawn without; `capacity` kW (B) is that of all
    generators at a bus. Lines with generators behind them are rated, voltages held and the total
    limited close to the second plan, which stays feasible: scarcity then calls for generators that
    no price of the main grid would.
    """
    free = loose(feeder)
    least = leveled(feeder, most, capacity)
    carried = [np.hypot(flows(feeder, drawn), flows(feeder, reactive)) for drawn in (least, most)]
    low, high = (flow.max(axis=1) for flow in carried)
    eased = np.where(feeder.source > 0, (high - low) / np.maximum(high, 1e-9), 0.0)
    rated = eased > max(0.01, np.quantile(eased, 1 - _RATED)) if len(eased) else eased > 0
    squared = [squared_voltages(feeder, drawn, reactive) for drawn in (least, most)]
    up, down = (np.sqrt(w.min(axis=1)) for w in squared)
    totals = [drawn.sum(axis=0).max() for drawn in (least, most)]
    return Limits(
        rating=np.where(rated, low + 1e-3 * high, free.rating),
        voltage_min=up - _VOLTAGE_ROOM * (up - down) - 1e-5,
        voltage_max=free.voltage_max,
        total_max=np.asarray(totals[0] + _TOTAL_ROOM * (totals[1] - totals[0])),
    )


_RATED = 0.5  # of all lines at most: those that generators can ease most
_VOLTAGE_ROOM = 0.42  # of the way from the plan with generators to the one without
_TOTAL_ROOM = 0.5  # likewise
