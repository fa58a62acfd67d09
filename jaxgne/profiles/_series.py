"""Time series that are given, of any resolution, on the steps of a market."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from ..clock import Clock
from ._profiles import Profiles
from ._reading import read
from ._stamps import moments
from ._steps import HOUR, Steps, annual_factor, onto, steps_of, years_of

Unit = Literal[
    "W", "kW", "MW", "Wh", "kWh", "MWh", "degC", "W/m2", "m/s", "EUR/kWh", "EUR/MWh", "ct/kWh", "1"
]
Stamps = Literal["begin", "end"]
_OURS = {  # what a unit is made, and times what
    "W": ("kW", 1e-3),
    "kW": ("kW", 1.0),
    "MW": ("kW", 1e3),
    "degC": ("degC", 1.0),
    "W/m2": ("W/m2", 1.0),
    "m/s": ("m/s", 1.0),
    "EUR/kWh": ("EUR/kWh", 1.0),
    "EUR/MWh": ("EUR/kWh", 1e-3),
    "ct/kWh": ("EUR/kWh", 1e-2),
    "1": ("1", 1.0),
}


def series(
    source: Any,
    *,
    unit: Unit,
    zone: str | None = None,
    clock: Clock | None = None,
    steps: int | None = None,
    hour_length: Any = None,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    form: str | None = None,
    stamps: Stamps = "begin",
    annual_kwh: Any = None,
) -> Profiles:
    """A time series on a market's steps, a row for each column of the source.

    `source` is a file (`.csv`, `.parquet`), a pandas Series or DataFrame, or an xarray DataArray
    with one time dimension and at most one other; of a table `columns` are taken, by default all
    that are numbers. Times are its index, or the column `time`, by default the first of a CSV: ISO,
    or of the `form` that `strftime` names. They know their offset or are local times of a `zone`:
    then a day on which clocks change has 23 or 25 hours, and of an hour that comes twice the order
    tells which it is. Each is when its interval begins, or with `stamps="end"` ends.

    `unit` is that of the numbers; Wh, kWh and MWh are per interval. They come out in kW, EUR/kWh,
    degC, W/m2, m/s or 1. A step of several intervals has their mean, so energy stays; shorter steps
    hold what their interval has. Steps are those of `clock`, `steps` and `hour_length`, as a market
    has them; what is left out is the source's own: its first time, all that it has, its resolution.
    With `annual_kwh`, one number or one a row, each row is multiplied so that the calendar year in
    which the steps begin has so much; `factor` tells by what.

        load = series("meters.csv", unit="kWh", zone="Europe/Berlin", clock=clock, steps=96,
                      hour_length=0.25)

    Raises `ValueError` in one sentence with the row for gaps, doubles, times without a zone or that
    their zone does not have, uneven rows and missing numbers; for steps that cut intervals, and
    those that the source does not have. `ImportError` without pandas (extra `tables`).
    """
    known, energy = _unit(unit), unit.endswith("Wh") and "/" not in unit
    if stamps not in get_args(Stamps):
        raise ValueError(f'series: stamps={stamps!r}: give "begin" or "end".')
    found = read("series", source, time, columns, form)
    edges, own = moments("series", found, zone, stamps)
    interval = (edges[1] - edges[0]) / HOUR
    values = found.values.T * known[1] / (interval if energy else 1.0)
    wanted = _steps(edges, own, clock, steps, hour_length)
    factor = np.ones(len(values))
    if annual_kwh is not None:
        if known[0] != "kW":
            raise ValueError(f"series: annual_kwh= is for powers and energies, not for {unit}.")
        year = years_of(wanted.edges, wanted.clock.tz)[0]
        factor = annual_factor("series", edges, values, year, annual_kwh, found.called)
    return Profiles(
        factor[:, None] * onto("series", edges, values, wanted, found.called),
        known[0],
        found.names,
        wanted.clock,
        wanted.length,
        factor,
        f"{found.called}: {unit} every {60 * interval:.6g} min, from {wanted.name(edges[0])} to "
        f"{wanted.name(edges[-1])}",
    )


def _unit(unit: Any) -> tuple[str, float]:
    """What a unit becomes, and times what."""
    if unit not in get_args(Unit):
        raise ValueError(f"series: unit={unit!r}: give one of {', '.join(get_args(Unit))}.")
    return _OURS[unit.removesuffix("h") if unit in ("Wh", "kWh", "MWh") else unit]


def _steps(edges: np.ndarray, own: Any, clock: Any, steps: Any, hour_length: Any) -> Steps:
    """The steps that were asked for, those of the source where nothing was."""
    if clock is None:
        minutes, rest = divmod(int(edges[0]), 60_000_000)
        if rest:
            raise ValueError("series: the first interval begins within a minute; give a clock=.")
        clock = Clock(np.int32(minutes), own if isinstance(own, str) else Clock(own).zone)
    if hour_length is None:
        hour_length = (edges[1] - edges[0]) / HOUR
    if steps is None:
        if np.ndim(hour_length):
            steps = len(hour_length)
        else:
            left = (int(edges[-1]) - int(clock.start) * 60_000_000) / HOUR
            steps = max(1, int(np.floor(left / float(hour_length) + 1e-9)))
    return steps_of("series", clock, steps, hour_length)
