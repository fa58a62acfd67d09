"""When a market begins, and what its steps are called: clock times, or hours since the start.

Steps are `Market.hour_length` hours of absolute time, which may differ from step to step, so a
local day on which clocks change has 23 or 25 hours. Whatever names a step for people asks
`hour_name`.
"""

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from .arrays import put
from .succession import Before, parents

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_YEARS = 1800, 2200
_LIMITS = tuple((dt.datetime(y, 1, 1, tzinfo=dt.UTC) - _EPOCH).days * 1440 for y in _YEARS)
_OFFSET = re.compile(r"([+-])(\d\d):([0-5]\d)")
_EXAMPLE = 'such as Clock("2025-03-30T00:00", "Europe/Berlin")'


class Made(NamedTuple):
    """What steps a device was made for: their length, and when they begin where that matters."""

    length: float | tuple[float, ...]  # h, of each step or of all
    start: int | None = None  # minutes since 1970-01-01 UTC; None: midnight, or any time
    zone: str | None = None
    by_hour: bool = False  # whether it goes by hours of the day

    @classmethod
    def of(cls, length: Float[np.ndarray, " H"]) -> "Made":
        """For steps of these lengths."""
        one = _one(length)
        return cls(tuple(length.tolist()) if one is None else one)

    @classmethod
    def by(cls, length: Float[np.ndarray, " H"], clock: "Clock | None") -> "Made":
        """For steps of hours of the day, from midnight on or by a clock."""
        start, zone = (None, None) if clock is None else (int(clock.start), clock.zone)
        return cls(cls.of(length).length, start, zone, by_hour=True)

    @staticmethod
    def of_all(each: "Sequence[Made | None]") -> "Made | None":
        """What several devices in one table were made for; `ValueError` where that differs."""
        known = sorted((made for made in each if made), key=lambda made: not made.by_hour)
        for made in known[1:]:
            if made.length != known[0].length or (made.by_hour and made != known[0]):
                raise ValueError(
                    "join: these are made for steps of other lengths, or for other hours of the "
                    "day; give all the same hour_length= and clock=."
                )
        return known[0] if known else None

    def unfit(self, hour_length: Any, clock: "Clock | None", steps: int) -> str | None:
        """Why it does not fit a market's steps, in a sentence; None where it does."""
        if isinstance(hour_length, Tracer) or np.shape(hour_length) not in ((), (steps,)):
            return None
        length, own = np.broadcast_to(np.asarray(hour_length, float), steps), np.array(self.length)
        if own.shape not in ((), length.shape) or np.any(np.abs(length - own) > 1e-6 * length):
            return (
                f"Buffers: made for steps of {lengths(own)}, the market's are {lengths(length)}; "
                f"give the devices hour_length={_one(length) or 'that of the market'}."
            )
        known = clock is not None and not isinstance(clock.start, Tracer)
        if not self.by_hour or clock is None or not known:
            return None
        passed = begun(length)
        if self.zone is None:
            same = np.allclose(clock.local(passed), passed, atol=1e-3)
        else:
            same = (self.start, self.zone) == (int(clock.start), clock.zone)
        return (
            None
            if same
            else (
                "Buffers: made for other hours of the day than the market's clock shows; give the "
                "devices the same clock=."
            )
        )


class Clock(eqx.Module):
    """The moment at which a market's first step begins, and the zone whose clocks people read.

    `start` is an ISO text, a `datetime` or a pandas Timestamp; `zone` a name of the time zone
    database ("Europe/Berlin"), "UTC" or a fixed offset ("+01:00"), and may be left out where the
    start knows its own. Without an offset `start` is local time. An array of whole numbers is taken
    as it is stored, minutes since 1970-01-01 in UTC, with a leading axis in a batch of days.

        Clock("2025-03-30T00:00", "Europe/Berlin")

    Raises `ValueError` for a start or a zone that cannot be read, and for a local start that the
    clock skips or shows twice.
    """

    start: Int[Array, ""]  # minutes since 1970-01-01 UTC; an array, so days batch uncompiled
    zone: str = eqx.field(static=True)

    def __init__(self, start: Any, zone: str | None = None):
        if getattr(getattr(start, "dtype", None), "kind", None) in ("i", "u"):
            if zone is None:
                raise ValueError(f"Clock: minutes need a zone, {_EXAMPLE}.")
            self.start, self.zone = put(start.astype(np.int32)), zone
            _zone(zone)
        else:
            moment, self.zone = _moment(_datetime(start), zone)
            self.start = put(np.int32(_minutes(moment)))

    def __str__(self) -> str:
        if np.ndim(self.start) or isinstance(self.start, Tracer) or self.start is None:
            return f"Clock of a batch, or traced ({self.zone})"
        return f"{label(self.after(0.0))} {self.zone}"

    @property
    def tz(self) -> dt.tzinfo:
        """The zone for `datetime` and pandas."""
        return _zone(self.zone)

    def after(self, hours: float) -> dt.datetime:
        """The local time `hours` hours after the start, to the second."""
        return self.moments([hours])[0]

    def moments(self, hours: Iterable[float]) -> list[dt.datetime]:
        """`after`, of each of `hours`."""
        start, zone = _EPOCH + dt.timedelta(minutes=int(self.start)), _zone(self.zone)
        return [
            (start + dt.timedelta(seconds=round(3600 * float(after)))).astimezone(zone)
            for after in hours
        ]

    def local(self, hours: Iterable[float]) -> Float[np.ndarray, " n"]:
        """Hours on the clock, `hours` after the start, since the midnight before it."""
        naive = [moment.replace(tzinfo=None) for moment in self.moments([0.0, *hours])]
        midnight = dt.datetime.combine(naive[0].date(), dt.time())
        return np.array([(at - midnight).total_seconds() / 3600 for at in naive[1:]])

    def iso(self) -> str:
        """The start in ISO form, local with its offset."""
        return self.after(0.0).isoformat()

    def wrong(self) -> str | None:
        """Why the start cannot be one; None where it can."""
        start = int(self.start)
        if _LIMITS[0] <= start < _LIMITS[1]:
            return None
        return (
            f"Clock.start: {start} minutes since 1970 is no year from {_YEARS[0]} to {_YEARS[1]}; "
            f"give a start {_EXAMPLE}."
        )


def times(market: Any) -> list[dt.datetime]:
    """When each step of a market begins, on its clock: `H` datetimes that know their zone.

    The pandas index of its tables is `pandas.DatetimeIndex(times(market))`. Raises `ValueError` for
    a market without a clock, and for a batch.
    """
    if market.clock is None:
        raise ValueError(f"times: this market has no clock; give it one, {_EXAMPLE}.")
    if np.ndim(market.hour_length) > 1:
        raise ValueError("times: this is a batch; take one scenario, scenarios.lane(batch, k).")
    return market.clock.moments(hours_of(market))


def begun(length: Float[np.ndarray, "... H"], before: Before = None) -> Any:
    """Hours since the start at which steps of these lengths begin (... H)."""
    first = np.zeros_like(length)
    for step, parent in enumerate(parents(before, length.shape[-1])):
        if parent >= 0:
            first[..., step] = first[..., parent] + length[..., parent]
    return np.round(first, 9)


def hours_of(of: Any) -> np.ndarray:
    """Hours since the start at which steps begin (H), of a batch (S, H): whole where steps are."""
    length = np.asarray(of.hour_length, float)
    first = begun(length, of.before)
    return first.astype(int) if np.all(length == 1) else first


def lengths(length: Any) -> str:
    """How long steps are, for people: "0.25 h", or "0.25 to 1 h" where that differs."""
    ends = np.unique([np.min(length), np.max(length)])
    return " to ".join(f"{end:.6g}" for end in ends) + " h"


def even(caller: str, market: Any) -> float:
    """The length of each step, h. `ValueError` where they differ."""
    if market.before is not None:
        raise ValueError(
            f"{caller}: this market's steps make a tree; give one with a path of steps."
        )
    return one_length(caller, market.hour_length)


def one_length(caller: str, length: Any) -> float:
    """The length of all steps, h. `ValueError` where they differ."""
    found = _one(length)
    if found is None:
        raise ValueError(
            f"{caller}: steps of {lengths(length)}; give hour_length= as one number, for steps of "
            "one length."
        )
    return found


def _one(length: Any) -> float | None:
    """The one length of all steps, if it is one."""
    found = np.asarray(length, float)
    return float(found.flat[0]) if np.all(found == found.flat[0]) else None


def step_at(market: Any, hour: Any) -> int:
    """The step of a market that begins at an hour: hours since the start, 18 or 18.25.

    With a clock also a local time, a datetime or "2025-03-30 18:15". `ValueError` where no step
    begins then.
    """
    at = hours_of(market)
    if isinstance(hour, str | dt.date | np.datetime64):
        if market.clock is None:
            raise ValueError(
                f"hour {hour!r}: this market has no clock; give hours since the start."
            )
        moment = Clock(hour, market.clock.zone)
        passed = (int(moment.start) - int(market.clock.start)) / 60
    else:
        passed = float(hour)
    found = np.flatnonzero(np.abs(at - passed) < 1e-3)
    if not found.size:
        first, last = (hour_name(market, k) for k in (0, len(at) - 1))
        raise ValueError(f"hour {hour!r}: no step begins then; give one from {first} to {last}.")
    return int(found[0])


def hour_name(of: Any, step: int) -> str:
    """What people call a step of a market or certificate: "2025-03-30 18:15", else "hour 18.25".

    Either is when the step begins; in a tree the step's number stands behind it. Local times that
    come twice, as clocks go back, name their zone's time as well.
    """
    name = _hour_name(of, float(hours_of(of)[step]))
    return name if of.before is None else f"{name} (step {step})"


def _hour_name(of: Any, after: float) -> str:
    """What people call the moment so many hours after the start."""
    if of.clock is None or of.clock.wrong() or not abs(after) < 1e7:  # such are told elsewhere
        return f"hour {hour(after)}"
    return label(of.clock.after(after))


def in_hour(of: Any, step: int) -> str:
    """`hour_name` within a sentence: "at 2025-03-30 18:15", "in hour 18.25"."""
    return f"{'in' if of.clock is None else 'at'} {hour_name(of, step)}"


def in_hours(of: Any, steps: list[int]) -> str:
    """Several of them: "in hours 3 to 7, 9", "at 2025-03-30 18:15 to 2025-03-30 19:00"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    shown = [
        " to ".join(
            hour_name(of, end).removeprefix("hour ") for end in dict.fromkeys((r[0], r[-1]))
        )
        for r in runs[:4]
    ]
    word = "at" if of.clock is not None else "in hours" if len(steps) > 1 else "in hour"
    return f"{word} {', '.join(shown)}" + ", ..." * (len(runs) > 4)


def hour(after: float) -> str:
    """Hours since the start as a short number: 18, 18.25, 0.3333."""
    return f"{round(after, 4):.10g}"


def local_text(iso: str, zone: str) -> str:
    """A moment in ISO form as people in a zone call it."""
    return label(dt.datetime.fromisoformat(iso).astimezone(_zone(zone)))


def label(moment: dt.datetime) -> str:
    """A local time for people: 2025-03-30 18:15."""
    text = moment.replace(tzinfo=None).isoformat(" ", "seconds")
    text = text.removesuffix(":00")
    again = moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()
    return f"{text} {moment.tzname()}" if again else text


def _datetime(start: Any) -> dt.datetime:
    """A start as a plain datetime, with or without an offset."""
    if isinstance(start, np.datetime64):
        start = start.astype("datetime64[us]").item()
    if isinstance(start, str):
        try:
            start = dt.datetime.fromisoformat(start)
        except ValueError as error:
            raise ValueError(f"Clock: start {start!r} is no ISO time; give one {_EXAMPLE}.") from (
                error
            )
    if isinstance(start, dt.date) and not isinstance(start, dt.datetime):
        start = dt.datetime(start.year, start.month, start.day)
    known = isinstance(start, dt.datetime) and start == start  # pandas' NaT is none
    if not known or not _YEARS[0] < start.year < _YEARS[1]:
        raise ValueError(
            f"Clock: start {start!r} is no time in the years {_YEARS[0]} to {_YEARS[1]}; give one "
            f"{_EXAMPLE}."
        )
    parts = (start.year, start.month, start.day, start.hour, start.minute)
    return dt.datetime(
        *parts, start.second, start.microsecond, tzinfo=start.tzinfo, fold=start.fold
    )


def _moment(start: dt.datetime, zone: str | None) -> tuple[dt.datetime, str]:
    """The moment in UTC, and the name of the zone."""
    own = start.tzinfo
    if zone is None:
        zone = _name(start)
    elif own is None:
        start = start.replace(tzinfo=_zone(zone))
    _zone(zone)
    moment = start.astimezone(dt.UTC)
    if moment.astimezone(start.tzinfo).replace(tzinfo=None) != start.replace(tzinfo=None):
        raise ValueError(
            f"Clock: start {start.replace(tzinfo=None).isoformat()} does not exist in {zone}, "
            "whose clocks skip it; give a time before or after."
        )
    other = start.replace(fold=1)
    if own is None and not start.fold and other.utcoffset() != start.utcoffset():
        raise ValueError(
            f"Clock: start {start.replace(tzinfo=None).isoformat()} comes twice in {zone}; give "
            f"its offset, {start.isoformat()} or {other.isoformat()}."
        )
    return moment, zone


def _name(start: dt.datetime) -> str:
    """The name of a datetime's own zone."""
    own = start.tzinfo
    if own is None:
        raise ValueError(
            f"Clock: start {start.isoformat()} has no offset and no zone; give the zone, "
            f"{_EXAMPLE}."
        )
    name = getattr(own, "key", None) or getattr(own, "zone", None)  # zoneinfo's, pytz's
    if name is None and isinstance(own, dt.timezone):
        name = "UTC" if own == dt.UTC else start.isoformat()[-6:]
    if not isinstance(name, str):
        raise ValueError(f"Clock: the zone {own!r} has no name; give the zone, {_EXAMPLE}.")
    return name


def _zone(name: str) -> dt.tzinfo:
    """The zone of that name, or `ValueError`."""
    try:
        return _known_zone(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ValueError(
            f"Clock: zone {name!r} is not known; give a name of the time zone database such as "
            '"Europe/Berlin", "UTC", or an offset such as "+01:00".'
        ) from error


@cache
def _known_zone(name: str) -> dt.tzinfo:
    fixed = _OFFSET.fullmatch(name)
    if not fixed:
        return zoneinfo.ZoneInfo(name)
    size = dt.timedelta(hours=int(fixed[2]), minutes=int(fixed[3]))
    return dt.timezone(-size if fixed[1] == "-" else size)


def _minutes(moment: dt.datetime) -> int:
    minutes, rest = divmod(moment - _EPOCH, dt.timedelta(minutes=1))
    if rest:
        raise ValueError(f"Clock: start {moment.isoformat()} is no whole minute; round it.")
    return minutes
