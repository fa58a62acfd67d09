"""Whether curves among costs are costs within the bounds of their generators: finite and convex."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from ..clock import hour_name
from ..curves import AbstractCurve
from ..market import Generators, Market
from ..runner import by_numpy, to_host


def crooked(units: Generators) -> Bool[np.ndarray, "*S G H"]:
    """Where a curve is no convex cost at the bounds of power; also of a batch."""
    found = np.zeros(np.shape(units.power_min), bool)
    for _, _, bad in _faults(units):
        found |= bad
    return found


def crooked_rows(market: Market) -> list[str]:
    """A sentence for each kind of curve and of fault, on the first place that has it."""
    wrong = []
    for curve, fault, bad in _faults(market.generators):
        if np.any(bad):
            row, hour = np.argwhere(bad)[0]
            powers = market.generators.power_min, market.generators.power_max
            low, high = (f"{float(np.asarray(power)[row, hour]):.6g}" for power in powers)
            at = hour_name(market, int(hour))
            wrong.append(
                f"Generators.curves row {row}, {at}: {type(curve).__name__} {fault} from power_min "
                f"{low} kW to power_max {high} kW; move the bounds to where it is a convex cost "
                "(consumption is negative), or give other numbers, 0 for none."
            )
    return wrong


def _faults(units: Generators) -> Iterator[tuple[AbstractCurve, str, Bool[np.ndarray, "*S G H"]]]:
    """Each curve with what may be wrong with it, and where it is."""
    with by_numpy():
        units = to_host(units)
        for curve in units.curves:
            ends = units.power_min, units.power_max
            values = [(curve.cost(u), curve.slope(u), curve.curvature(u)) for u in ends]
            whole = [np.isfinite(value) for at_end in values for value in at_end]
            (_, least, first), (_, most, last) = (
                [np.asarray(value) for value in at_end] for at_end in values
            )
            rough = ~np.all(np.stack(np.broadcast_arrays(*whole)), axis=0)
            yield curve, "is not finite everywhere", np.asarray(rough)
            yield curve, "bends downward", ~rough & ((first < 0) | (last < 0) | (least > most))
