"""Times of a source as moments: localized where they are wall-clock times, and even, or refused."""

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ._extras import extra
from ._steps import name_of, zone_of

MINUTE = 60_000_000
DAY = 1440 * MINUTE


class Source(NamedTuple):
    """A table by time as it was read."""

    index: Any  # pandas' DatetimeIndex
    values: Float[np.ndarray, "n R"]
    names: tuple[str, ...]
    file: str  # its name, or ""
    first: int  # line of the first row in its file

    def row(self, row: Any) -> str:
        """Where a row stands, for people."""
        where = f"{self.file}, " if self.file else ""
        return f"{where}line {self.first + int(row)}" if self.first else f"{where}row {int(row)}"

    @property
    def called(self) -> str:
        return self.file or "the series"


class Moments(NamedTuple):
    """When the intervals of a source begin and end."""

    edges: Int[np.ndarray, " n+1"]  # microseconds since 1970 in UTC
    zone: Any  # of the times, as `Clock` takes it


def moments(caller: str, read: Source, zone: str | None, stamps: str) -> Moments:
    """When the rows of a source begin, and the last one ends. `ValueError` unless they are even."""
    index = read.index
    if len(index) < 2:
        raise ValueError(f"{caller}: {read.called} has {len(index)} rows; give at least two.")
    if index.hasnans:
        row = int(np.argmax(index.isna()))
        raise ValueError(f"{caller}: {read.row(row)} has no time; give it one, or drop the row.")
    text = _Text(read, _micro(index.tz_localize(None)))
    if index.tz is not None:
        if zone is not None:
            raise ValueError(
                f"{caller}: the times of {read.called} know their offset; leave zone= out."
            )
        at, known = _micro(index), index[0]
    elif zone is None:
        raise ValueError(
            f"{caller}: {text.of(0)} has no zone; give zone= as the clock showed it: "
            '"Europe/Berlin" with summer time, "+01:00" without, or "UTC".'
        )
    else:
        at, known = _localized(caller, text, index, zone), zone
    step = _even(caller, text, at, zone)
    first = at[0] - step if stamps == "end" else at[0]
    return Moments(first + step * np.arange(len(at) + 1), known)


class _Text(NamedTuple):
    """Rows of a source in words, by the times that stand there."""

    read: Source
    naive: Int[np.ndarray, " n"]

    def of(self, row: Any) -> str:
        return f"{self.read.row(row)} ({self.time(row)})"

    def time(self, row: Any) -> str:
        return name_of(self.naive[int(row)], dt.UTC)


def _micro(index: Any) -> Int[np.ndarray, " n"]:
    """Microseconds, whatever unit pandas keeps times in."""
    return np.asarray(index.as_unit("us").asi8)


def _localized(caller: str, text: _Text, index: Any, zone: str) -> Int[np.ndarray, " n"]:
    """Moments of wall-clock times: of an hour that comes twice, the order tells which it is."""
    tz, naive = zone_of(zone), text.naive
    days, which = np.unique(naive // DAY, return_inverse=True)
    around = np.array([[_offset(day + side, tz) for side in (-1, 1)] for day in days.tolist()])
    early = naive - around[which, 0]
    change = np.flatnonzero((around[:, 0] != around[:, 1])[which])
    if not change.size:
        return early
    near, late = index[change], early.copy()  # all at once takes seconds a year
    either = [
        near.tz_localize(tz, ambiguous=np.full(len(near), first), nonexistent="NaT")
        for first in (True, False)
    ]
    if either[0].hasnans:
        row = change[int(np.argmax(either[0].isna()))]
        raise ValueError(
            f"{caller}: {text.of(row)} does not exist in {zone}, whose clocks skip it; times "
            f'without summer time have a zone such as "+01:00", or "UTC".'
        )
    one, other = (_micro(found) for found in either)
    early[change], late[change] = np.minimum(one, other), np.maximum(one, other)
    if np.array_equal(early, late):
        return early
    return np.where(_second(caller, text, early, late, zone), late, early)


def _offset(day: int, tz: dt.tzinfo) -> int:
    """What a zone's clocks are ahead of UTC at noon of a day, microseconds."""
    noon = dt.datetime(1970, 1, 1, 12, tzinfo=tz) + dt.timedelta(days=day)
    ahead = noon.utcoffset()
    return 0 if ahead is None else round(ahead / dt.timedelta(microseconds=1))


def _second(
    caller: str, text: _Text, early: Int[np.ndarray, " n"], late: Int[np.ndarray, " n"], zone: str
) -> Bool[np.ndarray, " n"]:
    """Which rows are in the second of two hours of one name: those after the clock went back."""
    naive, twice = text.naive, early != late
    inside = np.concatenate([[False], twice[:-1]]) & twice
    back = np.concatenate([[False], naive[1:] <= naive[:-1]]) & inside
    backs = np.cumsum(back)
    before = np.maximum.accumulate(np.where(twice & ~inside, backs, 0))
    second = twice & (backs > before)
    ends = int(np.argmin(twice)) if not np.all(twice) else len(twice)
    if twice[0] and not np.any(back[:ends]):  # it begins within such an hour, and never goes back
        if ends == len(twice):
            raise ValueError(
                f"{caller}: {text.of(0)} comes twice in {zone}, and nothing tells which it is; "
                "give times with their offset."
            )
        apart = np.diff(naive)
        usual = int(np.median(apart[apart > 0]))
        second[:ends] = early[ends] - late[ends - 1] == usual
    return second


def _even(caller: str, text: _Text, at: Int[np.ndarray, " n"], zone: str | None) -> int:
    """Microseconds from each row to the next. `ValueError` where that differs."""
    apart = np.diff(at)
    sizes, counts = np.unique(apart[apart > 0], return_counts=True)
    usual = int(sizes[np.argmax(counts)]) if sizes.size else 0
    bad = apart != usual
    if not np.any(bad):
        return usual
    row = int(np.argmax(bad)) + 1
    found = int(apart[row - 1])
    here, before = text.of(row), text.time(row - 1)
    if found == 0:
        raise ValueError(f"{caller}: {here} is there twice; keep one row of each time.")
    if found < 0:
        raise ValueError(f"{caller}: {here} comes after {before}; put the rows in order.")
    shown = f"{caller}: {here} is {found / MINUTE:.6g} min after {before}, others"
    shown += f" {usual / MINUTE:.6g} min"
    if zone is not None and int(text.naive[row] - text.naive[row - 1]) == usual:
        raise ValueError(
            f"{shown}: clocks of {zone} change there, these times do not; give the zone that they "
            'are in, such as "+01:00" or "UTC".'
        )
    missing = f"{found // usual - 1} rows are missing" if found % usual == 0 else "rows are uneven"
    raise ValueError(
        f"{shown}: {missing}; fill them in, or give each part of one resolution by itself."
    )


def parsed(caller: str, read: Source, texts: Any, form: str | None) -> Any:
    """Texts as pandas' DatetimeIndex, in UTC where they have offsets. `read` has no index yet."""
    pandas = extra(caller, "pandas", "tables")
    given = pandas.Series(np.asarray(texts, object)).astype("string").str.strip()
    aware = given.str.contains(r":\d\d(?:\.\d+)?\s?(?:Z|[+-]\d\d(?::?\d\d)?)$").fillna(False)
    aware = np.asarray(aware, bool)
    offset = bool(aware.all()) or (form is not None and "%z" in form)
    if aware.any() and not offset:
        row = int(np.argmax(aware != aware[0]))
        raise ValueError(
            f"{caller}: {read.row(row)} ({given[row]}) and the row before differ in having an "
            "offset; give all times one, or none."
        )
    found = pandas.to_datetime(given, format=form or "ISO8601", utc=offset, errors="coerce")
    wrong = np.asarray(found.isna())
    if wrong.any():
        row = int(np.argmax(wrong))
        text = "nothing" if given.isna()[row] else repr(given[row])
        wanted = f"of the form {form}" if form else "an ISO time"
        raise ValueError(
            f"{caller}: {read.row(row)} has {text} as its time, not one {wanted}; give form=, such "
            'as form="%d.%m.%Y %H:%M", or mend the row.'
        )
    return pandas.DatetimeIndex(found)
