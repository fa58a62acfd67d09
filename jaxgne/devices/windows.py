"""Hours of the day at which devices come and go, as steps of a market: every day, by the clock."""

import datetime as dt
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..clock import Clock, begun, lengths

_EXACT = 1e-6  # of a step, what rounding makes of hours
_TIME = re.compile(r"(\d\d?):([0-5]\d)(?::([0-5]\d))?")


class Windows(NamedTuple):
    """Steps of each device and window: from `first` on and before `end`, with those that are real.

    -1 is before the first step, H + 1 after the last; H is as the last step ends.
    """

    first: Int[np.ndarray, "K D"]
    end: Int[np.ndarray, "K D"]
    real: Bool[np.ndarray, "K D"]  # whether it reaches into the steps
    order: Int[np.ndarray, " K"]  # 1 where it ends later on its day, 0 at once, -1 on the next

    def inside(self, steps: int) -> Bool[np.ndarray, "K H"]:
        """Steps within a window."""
        change = np.zeros((len(self.first), steps + 1), int)
        rows = np.nonzero(self.real)[0]
        np.add.at(change, (rows, np.maximum(self.first[self.real], 0)), 1)
        np.add.at(change, (rows, np.minimum(self.end[self.real], steps)), -1)
        return np.cumsum(change, axis=1)[:, :steps] > 0

    def starts(self, steps: int) -> Bool[np.ndarray, "K H"]:
        """First steps of windows."""
        begun = np.zeros((len(self.first), steps), bool)
        rows, at = np.nonzero(self.real & (self.first >= 0) & (self.first < steps))
        begun[rows, self.first[rows, at]] = True
        return begun

    def whole(self, steps: int) -> "Windows":
        """Those that lie within the steps from first to end."""
        return self._replace(real=self.real & (self.first >= 0) & (self.end <= steps))

    def ends(self, steps: int) -> Bool[np.ndarray, "K H"]:
        """Last steps of windows, without those after which the next one begins at once."""
        last = np.zeros((len(self.first), steps), bool)
        goes_on = np.zeros(self.real.shape, bool)
        goes_on[:, :-1] = (self.end[:, :-1] == self.first[:, 1:]) & (self.end[:, :-1] < steps)
        rows, at = np.nonzero(self.real & (self.end <= steps) & ~goes_on)
        last[rows, self.end[rows, at] - 1] = True
        return last


def windows(
    device: str,
    start: tuple[str, Any],
    stop: tuple[str, Any],
    *,
    rows: int,
    steps: int,
    length: Float[np.ndarray, " H"],
    clock: Clock | None = None,
    once: bool = False,
) -> Windows:
    """Windows from one hour to another of every day; over midnight where the first is later.

    `start` and `stop` are named: hours of the day (18, 17.5), "18:00" or `datetime.time`, one for
    all devices or one each. The first step begins at midnight, or when the `clock` says so. With
    `once` they are hours since the first step and come once. `ValueError` for what is no hour of
    the day, or lies between two steps.
    """
    passed = np.append(begun(length), np.sum(length))
    local = passed if clock is None or once else clock.local(passed)
    period = max(24.0, passed[-1]) if once else 24.0
    most = min(period, passed[-1]) if clock is None or once else period
    first, last = (_hours(f"{device}: {name}", given, rows, most) for name, given in (start, stop))
    last = np.where(last == 0, most, last)  # midnight ends the day
    order = np.sign(last - first).astype(int)
    last = last + np.where(order < 0, period, 0.0)
    days = period * np.arange(-1, np.ceil(local[-1] / period) + 1)
    edges, close = np.maximum.accumulate(local), _EXACT * np.min(length)
    for (name, given), hour in ((start, first), (stop, last)):
        into = hour[:, None] + days
        within = np.searchsorted(edges, into + close, side="right") - 1
        step = np.clip(within, 0, steps - 1)
        past = into - edges[step]
        if np.any((within == step) & (past > close) & (past < length[step] - close)):
            raise ValueError(
                f"{device}: {name}={given!r} is between two steps of {lengths(length)}; give an "
                "hour at which one begins."
            )
    begins, done = (_steps(edges, hour[:, None] + days, close) for hour in (first, last))
    return Windows(begins, done, (done >= 1) & (begins <= steps) & (begins < done), order)


def _hours(name: str, given: Any, rows: int, most: float) -> Float[np.ndarray, " K"]:
    """Hours of the day, one a device."""
    listed = isinstance(given, list | tuple) or np.ndim(given) > 0
    hours = np.array([_hour(name, value, most) for value in (given if listed else [given])], float)
    if len(hours) not in (1, rows):
        raise ValueError(f"{name}: {len(hours)} hours for {rows} devices; give one, or one each.")
    return np.broadcast_to(hours, (rows,))


def _hour(name: str, value: Any, most: float) -> float:
    """One hour of the day as a number."""
    known = _TIME.fullmatch(value) if isinstance(value, str) else None
    if known:
        parts = [float(part or 0) for part in known.groups()]
    elif isinstance(value, dt.time) and value.tzinfo is None:
        parts = [value.hour, value.minute, value.second]
    elif isinstance(value, str | bytes | bool | dt.time) or np.ndim(value):
        parts = [np.nan]
    else:
        parts = [float(value)]
    hour = sum(part / 60**k for k, part in enumerate(parts))
    if not 0 <= hour <= most:
        raise ValueError(
            f"{name}={value!r}: give an hour of the day from 0 to {most:g}, such as 17.5 or "
            '"17:30".'
        )
    return hour


def _steps(
    edges: Float[np.ndarray, " H+1"], hour: Float[np.ndarray, "K D"], close: float
) -> Int[np.ndarray, "K D"]:
    """The step that begins at an hour on the clock, the next where clocks skip it."""
    return np.where(hour < edges[0] - close, -1, np.searchsorted(edges + close, hour))
