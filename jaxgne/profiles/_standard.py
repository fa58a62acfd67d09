"""Standard load profiles of German utilities (BDEW), by demandlib."""

import datetime as dt
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
from jaxtyping import Float

from ._extras import extra
from ._profiles import Profiles
from ._steps import HOUR, annual_factor, onto, steps_of, years_of, zone_of

CLASSES = ("h25", "g25", "l25", "p25", "s25", "h0", "h0_dyn")
CLASSES += tuple(f"g{k}" for k in range(7)) + tuple(f"l{k}" for k in range(3))
_GWH = 1e6  # kWh a year that demandlib's classes of 2025 are for


def standard(
    annual_kwh: Any,
    klass: Any = "h25",
    *,
    clock: Any,
    steps: int,
    hour_length: Any = 1.0,
    holidays: Iterable[dt.date] = (),
) -> Profiles:
    """Standard load profiles of a class that use `annual_kwh` in a calendar year, kW by step.

    Classes are BDEW's: of 2025 "h25" (households), "g25" (trade), "l25" (farms), "p25" and "s25"
    (households with PV, and with a battery too: what they draw); of 1999 "h0" as it stands and
    "h0_dyn" with its season, "g0" to "g6", "l0" to "l2". `annual_kwh` and `klass` are one for all
    rows or one each. Days and hours are those on the clock, summer time and all; `holidays` are
    dates taken as Sundays, none unless given. A profile is the mean of many customers: a single
    one has higher peaks.

    The profiles of a calendar year do not sum to the year's energy as they stand, so each is
    multiplied; `factor` tells by what (that of the year in which the steps begin).

        load = standard([3500, 2800], "h25", clock=jg.Clock("2026-01-12", "Europe/Berlin"),
                        steps=96, hour_length=0.25)

    Raises `ValueError` for unknown classes, numbers that are negative, and steps that cut quarter
    hours; `ImportError` without demandlib (extra `profiles`).
    """
    when = steps_of("standard", clock, steps, hour_length)
    extra("standard", "demandlib.bdew", "profiles")
    count = max(np.size(annual_kwh), np.size(klass))
    names = [str(name).lower() for name in np.broadcast_to(np.ravel(klass), count)]
    for name in names:
        if name not in CLASSES:
            raise ValueError(f"standard: class {name!r}; give one of {', '.join(CLASSES)}.")
    kinds, which = np.unique(names, return_inverse=True)
    free = tuple(holidays)
    source = "the standard profile"
    edges, raw, factors = [], [], []
    years = years_of(when.edges, when.clock.tz)
    for year in years:
        ends = np.append(np.arange(year[1][0], year[1][1], HOUR // 4), year[1][1])
        shapes = np.stack([_shape(kind, year[0], when.clock.zone, free) for kind in kinds])
        unit = annual_factor("standard", ends, shapes, year, 1.0, source)
        edges.append(ends[:-1])
        raw.append(unit[:, None] * shapes)
        factors.append(unit)
    edges.append(years[-1][1][1:])
    shaped = onto("standard", np.concatenate(edges), np.concatenate(raw, axis=1), when, source)
    energy = np.asarray(annual_kwh, float)
    if energy.shape not in ((), (1,), (count,)) or not np.all(np.isfinite(energy) & (energy >= 0)):
        raise ValueError(
            f"standard: annual_kwh={annual_kwh!r:.40}: give finite kWh of at least 0, one number "
            f"or one for each of {count} rows."
        )
    energy = np.broadcast_to(energy, count)
    told = "; ".join(f"{k} times {unit:.6g}" for k, unit in zip(kinds, factors[0], strict=True))
    return Profiles(
        energy[:, None] * shaped[which],
        "kW",
        tuple(names),
        when.clock,
        when.length,
        factors[0][which],
        f"BDEW standard load profiles by demandlib, for the year's energy: {told}",
    )


@lru_cache(64)  # whole years take a second
def _shape(
    kind: str, year: int, zone: str, holidays: tuple[dt.date, ...]
) -> Float[np.ndarray, " n"]:
    """kW of a class in each quarter hour of a year, for 1 kWh a year as demandlib has it."""
    pandas = extra("standard", "pandas", "profiles")
    bdew = extra("standard", "demandlib.bdew", "profiles")
    times = pandas.date_range(
        f"{year}-01-01", f"{year + 1}-01-01", freq="15min", tz=zone_of(zone), inclusive="left"
    )
    with _left_alone():
        if kind.endswith("25"):
            of_class = getattr(bdew, kind.upper())
            return np.asarray(of_class(times, holidays=list(holidays)), float) / _GWH
        table = bdew.ElecSlp(year, holidays=list(holidays)).get_profiles(kind)
    # by what clocks show: the hour that comes twice is used twice, the skipped one not at all
    return 4 * table[kind].reindex(times.tz_localize(None)).to_numpy(float)


@contextmanager
def _left_alone() -> Iterator[None]:
    """demandlib 0.2.2 makes errors of all warnings, its own and those of the rest of a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with patch.object(warnings, "simplefilter"):
            yield
