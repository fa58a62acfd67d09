"""Steps of a market as moments, and what holds for intervals of a source brought onto them."""

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from ..arrays import step_count
from ..clock import Clock, label

HOUR = 3_600_000_000  # microseconds, in which all moments are
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Steps(NamedTuple):
    """The steps that profiles are for."""

    clock: Clock
    length: Float[np.ndarray, " H"]  # h
    edges: Int[np.ndarray, " H+1"]  # microseconds since 1970 in UTC

    def name(self, moment: Any) -> str:
        """What people call a moment, on the clock."""
        return name_of(moment, self.clock.tz)


def name_of(moment: Any, zone: dt.tzinfo) -> str:
    """What people in a zone call a moment."""
    return label((EPOCH + dt.timedelta(microseconds=int(moment))).astimezone(zone))


def steps_of(caller: str, clock: Any, steps: Any, hour_length: Any) -> Steps:
    """`steps` steps of `hour_length` h, one number or one a step, from the `clock` on."""
    if not isinstance(clock, Clock) or np.ndim(clock.start) or isinstance(clock.start, Tracer):
        raise ValueError(
            f'{caller}: clock={clock!r:.40}: give one, such as Clock("2025-03-30", "Europe/Berlin")'
            "."
        )
    count = step_count(f"{caller}: steps", steps)
    length = np.asarray(hour_length, float)
    if length.shape not in ((), (count,)) or not np.all(np.isfinite(length) & (length > 0)):
        raise ValueError(
            f"{caller}: hour_length={hour_length!r:.40}: give hours above 0, one number or one for "
            f"each of the {count} steps."
        )
    length = np.broadcast_to(length, count)
    # step by step, as a sum of many twelfths of an hour is no whole number of minutes
    passed = np.cumsum(np.rint(length * HOUR).astype(np.int64))
    first = int(clock.start) * 60_000_000
    return Steps(clock, length, np.concatenate([[first], first + passed]))


def zone_of(name: str) -> dt.tzinfo:
    """The zone of that name, as a clock has it."""
    return Clock(np.int32(0), name).tz


def years_of(
    edges: Int[np.ndarray, " n"], zone: dt.tzinfo
) -> list[tuple[int, Int[np.ndarray, "2"]]]:
    """The calendar years in a zone that intervals reach into, and when each begins and ends."""
    first, last = (
        (EPOCH + dt.timedelta(microseconds=int(moment))).astimezone(zone).year
        for moment in (edges[0], edges[-1] - 1)
    )
    starts = [
        round((dt.datetime(year, 1, 1, tzinfo=zone) - EPOCH) / dt.timedelta(microseconds=1))
        for year in range(first, last + 2)
    ]
    return [(first + k, np.array(starts[k : k + 2])) for k in range(last - first + 1)]


def onto(
    caller: str,
    edges: Int[np.ndarray, " n+1"],
    values: Float[np.ndarray, "R n"],
    steps: Steps,
    source: str,
) -> Float[np.ndarray, "R H"]:
    """Means over steps of what holds from each edge to the next.

    A step is whole intervals, of which it is the mean, so that energy stays, or a part of one,
    which it holds. `ValueError` where it is neither, or where the source does not reach.
    """
    begin, end = steps.edges[:-1], steps.edges[1:]
    if begin[0] < edges[0] or end[-1] > edges[-1]:
        has, need = (
            f"{steps.name(first)} to {steps.name(last)}"
            for first, last in ((edges[0], edges[-1]), (begin[0], end[-1]))
        )
        raise ValueError(
            f"{caller}: {source} has {has}, the steps are {need}; give a longer series, or another "
            "clock or fewer steps."
        )
    first = np.searchsorted(edges, begin, side="right") - 1
    last = np.searchsorted(edges, end, side="left")
    held = last == first + 1
    split = ~held & ((edges[first] != begin) | (edges[last] != end))
    if np.any(split):
        k = int(np.argmax(split))
        apart = (edges[1] - edges[0]) / HOUR * 60
        raise ValueError(
            f"{caller}: the step from {steps.name(begin[k])} to {steps.name(end[k])} cuts an "
            f"interval of {source}, which are {apart:.6g} min from {steps.name(edges[0])} on; give "
            "steps that are whole intervals, or equal parts of one."
        )
    # reduceat gives one interval where the next step begins in the same one
    total = np.add.reduceat(values[:, : last[-1]], first, axis=1)
    return total / np.where(held, 1, last - first)


def annual_factor(
    caller: str,
    edges: Int[np.ndarray, " n+1"],
    values: Float[np.ndarray, "R n"],
    year: tuple[int, Int[np.ndarray, "2"]],
    annual_kwh: Any,
    source: str,
) -> Float[np.ndarray, " R"]:
    """What each row is multiplied by so that a calendar year has `annual_kwh`."""
    rows = len(values)
    wanted = np.asarray(annual_kwh, float)
    if wanted.shape not in ((), (rows,)) or not np.all(np.isfinite(wanted) & (wanted >= 0)):
        raise ValueError(
            f"{caller}: annual_kwh={annual_kwh!r:.40}: give finite kWh of at least 0, one number "
            f"or one for each of {rows} rows."
        )
    number, (start, end) = year
    if edges[0] > start or edges[-1] < end:
        raise ValueError(
            f"{caller}: {source} is no whole year {number}, so it does not tell the year's energy; "
            "give all of it, or leave annual_kwh= out."
        )
    inside = np.diff(np.clip(edges, start, end)) / HOUR  # h of each interval
    energy = values @ inside
    if np.any((energy <= 0) & (np.broadcast_to(wanted, rows) > 0)):
        row = int(np.argmin(energy))
        raise ValueError(
            f"{caller}: row {row} of {source} has {energy[row]:.4g} kWh in {number}, which no "
            "factor makes the annual_kwh asked for; leave it out."
        )
    return np.divide(wanted, energy, out=np.zeros(rows), where=energy != 0)
