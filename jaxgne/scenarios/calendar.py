"""A long series of hours as a batch of days, cut where days end on the clock."""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int

from ..clock import Clock, even
from ..each import for_one
from ..market import FIELDS, Market
from ..names import owners
from .rows import moved_base, shared
from .sun import CAPS, check_caps, moved_caps, reactive_of, series, told_sun

_LONG = 180.0  # days after which clocks have changed, where they change at all
_EXACT = 1e-6  # of a step, what rounding makes of times


class _Days(NamedTuple):
    """Where days begin in the series, how many steps each has, and which hour of the market's day
    each step is on the clock."""

    first: Int[np.ndarray, " D"]
    steps: Int[np.ndarray, " D"]
    column: Int[np.ndarray, " L"]
    clock: Clock | None  # of the series


@for_one()
def days(
    market: Market,
    load: Any,
    *,
    times: Any = None,
    skip_uneven: bool = False,
    generation: Any = None,
    reactive: Any = None,
    import_max: Any = None,
    export_max: Any = None,
    curtail_max: Any = None,
    passive: Any = None,
    passive_reactive: Any = None,
    base: Any = None,
    export: Any = None,
) -> Market:
    """One scenario a day: `load` (N, steps) kW instead of the market's, day after day.

    `times` says when the steps of the series are: a time index that knows its zone (pandas'
    DatetimeIndex, or datetimes), or the `Clock` of the first; by default the market's own clock.
    Days then begin at the same local time as the first and have 23 or 25 hours where clocks change,
    each scenario has its clock, and everything that is not given is taken from the hour of the
    market's day that it is on the clock. Days of another length than the market's cannot be in its
    batch: they are refused, or left out with `skip_uneven`; `days_by_length` gives them all.
    Without times every H steps are a day, whatever clocks do.

    With `generation` (N, steps) kW, the sun, `load` is gross; else it is net of it. Curtailable sun
    and caps on exports that are the sun move with it (`perturb` says how), as reactive power does
    with the gross load where power factors are constant; what else they are is given, like the
    load or one number a prosumer `(N, 1)`: `reactive` kvar, `import_max`, `export_max` and
    `curtail_max` kW. So may be `passive` and `passive_reactive` (B, steps), `base` and `export`
    (steps,) EUR/kWh; what `Caps.base` counts moves with the passive load. Buffers and caps start
    every day as the market says: a week as one long market carries their content.

    Raises `ValueError` where a series makes no whole days, for times that are no steps of the
    market, and where sun, reactive power or caps do not follow from what is given.
    """
    fields = {
        "generation": generation,
        "reactive": reactive,
        "import_max": import_max,
        "export_max": export_max,
        "curtail_max": curtail_max,
        "passive": passive,
        "passive_reactive": passive_reactive,
        "base": base,
        "export": export,
    }
    cut, given = read("days", market, load, times, fields)
    hours = np.shape(market.prosumers.load)[1]
    if not skip_uneven:
        _even(market, cut, hours)
    return _batch(market, cut, given, hours)


@for_one()
def days_by_length(market: Market, load: Any, *, times: Any = None, **fields: Any) -> list[Market]:
    """`days` of every length: a batch of the days of 23 hours, one of 24 and one of 25.

    `load`, `times` and the other `fields` are those of `days`; the clock of each scenario says
    which day it is.
    """
    cut, given = read("days", market, load, times, fields)
    return [_batch(market, cut, given, int(steps)) for steps in np.unique(cut.steps)]


def read(
    who: str, market: Market, load: Any, times: Any, fields: dict[str, Any]
) -> tuple[_Days, dict[str, np.ndarray]]:
    """Where days begin, and the series that are given, over all steps."""
    load = np.asarray(load, float)
    count = np.shape(market.prosumers.load)[0]
    if load.ndim != 2 or load.shape[0] != count:
        raise ValueError(f"{who}: load has shape {load.shape}; give ({count}, steps).")
    tables = dict.fromkeys(("passive", "passive_reactive"), market.grid)
    tables |= dict.fromkeys(("base", "export"), market.tariff)
    given = {"load": series(who, "load", load, load.shape)}
    for name, values in fields.items():
        if name not in ("generation", "reactive", *CAPS, *tables):
            raise TypeError(f"{who}: there is no argument {name!r}.")
        if values is not None:
            rows = np.shape(getattr(tables[name], name))[:-1] if name in tables else (count,)
            given[name] = series(who, name, values, (*rows, load.shape[1]))
    return _cut(who, market, times, load.shape[1]), given


def _cut(who: str, market: Market, times: Any, steps: int) -> _Days:
    """Where the days of a series of so many steps begin."""
    hours, length = np.shape(market.prosumers.load)[1], even(who, market)
    clock = market.clock if times is None else _clock(who, times, steps, length)
    whole = round(hours * length / 24)  # local days that the market is long
    if clock is None or whole < 1 or abs(hours * length - 24 * whole) > 1 + _EXACT:
        if steps % hours:
            raise ValueError(f"{who}: load has {steps} steps; give a multiple of {hours}.")
        if clock is None and steps * length >= 24 * _LONG:
            _warn(who, steps, hours)
        first = np.arange(0, steps, hours)
        return _Days(first, np.full(len(first), hours), np.arange(steps) % hours, clock)
    if abs(hours * length - 24 * whole) > _EXACT:
        raise ValueError(
            f"{who}: the market has {hours * length:g} hours; give one of {24 * whole}, from which "
            "days on which clocks change take their hours."
        )
    ahead = round((24 * whole + 3) / length)  # to see where the last day ends
    passed = length * np.arange(steps + ahead)
    naive = [moment.replace(tzinfo=None) for moment in clock.moments(passed)]
    local = np.array([(at - naive[0]).total_seconds() / 3600 for at in naive])  # on the clock
    period = 24 * whole
    day = np.floor(np.maximum.accumulate(local) / period + _EXACT).astype(int)
    first = np.searchsorted(day, np.arange(day[steps - 1] + 2))
    if first[-1] != steps:
        raise ValueError(
            f"{who}: the last day, from {clock.after(first[-2] * length):%Y-%m-%d %H:%M} on, has "
            f"{steps - first[-2]} of its {first[-1] - first[-2]} steps; give whole days."
        )
    column = np.floor((local - day * period) / length + _EXACT).astype(int)
    return _Days(first[:-1], np.diff(first), np.clip(column[:steps], 0, hours - 1), clock)


def _clock(who: str, times: Any, steps: int, length: float) -> Clock:
    """The clock of a series whose steps are at these times."""
    if isinstance(times, Clock):
        return times
    if len(times) != steps:
        raise ValueError(
            f"{who}: times has {len(times)} entries, load {steps} steps; give as many."
        )
    clock = Clock(times[0])
    for k, (time, right) in enumerate(
        zip(times, clock.moments(length * np.arange(steps)), strict=True)
    ):
        known = getattr(time, "tzinfo", None) is not None
        if not known or abs(time.timestamp() - right.timestamp()) > 1:  # their == is wall time
            raise ValueError(
                f"{who}: times[{k}] is {time}, where a step of {length:g} h after another begins "
                f"at {right}; give every step once, with its zone."
            )
        if time.utcoffset() != right.utcoffset():
            raise ValueError(
                f"{who}: times[{k}] is {time}, not in the zone {clock.zone} of the first; give all "
                "in one zone (tz_convert), or the Clock of the first."
            )
    return clock


def _warn(who: str, steps: int, hours: int) -> None:
    warnings.warn(
        f"{who}: {steps} steps are cut every {hours}, though in most zones days of 23 and 25 hours "
        'are among them; give times=, or times=Clock(..., "UTC") where clocks never change.',
        stacklevel=5,
    )


def _even(market: Market, cut: _Days, hours: int) -> None:
    """Refuse days of other lengths than the market's."""
    other, ts = np.flatnonzero(cut.steps != hours), even("days", market)
    if not other.size or cut.clock is None:
        return
    dates = [f"{cut.clock.after(float(cut.first[d] * ts)):%Y-%m-%d}" for d in other[:2]]
    named = [f"{date} has {cut.steps[d]} steps" for date, d in zip(dates, other[:2], strict=True)]
    more = f" and {other.size - 2} more days other numbers" * (other.size > 2)
    raise ValueError(
        f"days: {', '.join(named)}{more}, the market {hours}; use days_by_length for a batch of "
        "each length, or skip_uneven=True to leave such days out."
    )


def _batch(market: Market, cut: _Days, given: dict[str, np.ndarray], steps: int) -> Market:
    """All days of so many steps, in order."""
    first = cut.first[cut.steps == steps]
    if not first.size:
        raise ValueError(f"days: no day has {steps} steps; give a longer series.")
    at = first[:, None] + np.arange(steps)
    patterns, which = np.unique(cut.column[at], axis=0, return_inverse=True)
    which = which.reshape(-1)
    parts = []
    for k, pattern in enumerate(patterns):
        here = at[which == k]
        now = {name: np.moveaxis(a[..., here], -2, 0) for name, a in given.items()}
        parts.append(filled("days", hours_of(market, pattern), now))
    varied = parts[0]
    if len(parts) > 1:  # in the order of the days again
        order = np.argsort(np.argsort(which, kind="stable"), kind="stable")
        varied = jax.tree.map(lambda *a: np.concatenate(a)[order], *parts)
    if cut.clock is None:
        return varied
    minutes = int(cut.clock.start) + np.round(60 * first * even("days", market))
    clock = Clock(minutes.astype(np.int32), cut.clock.zone)
    return eqx.tree_at(lambda m: m.clock, varied, clock, is_leaf=lambda a: a is None)


def filled(who: str, market: Market, given: dict[str, np.ndarray]) -> Market:
    """The market in as many scenarios as there are loads, with what is given, kW and EUR/kWh."""
    moved = _people(who, market, given)
    grid = market.grid
    for name in ("passive", "passive_reactive"):
        if name in given:
            moved[f"grid.{name}"] = given[name]
    if "passive" in given and "passive_reactive" not in given:
        moved["grid.passive_reactive"] = reactive_of(
            who, "passive_reactive", grid.passive, grid.passive_reactive, given["passive"]
        )
    for name in ("base", "export"):
        if name in given:
            moved[f"tariff.{name}"] = given[name]
    if "passive" in given:
        moved["caps.base"] = moved_base(market, given["passive"])
    varied = shared(market, len(given["load"]))
    for name, values in moved.items():
        table, field = name.split(".")
        like = getattr(getattr(varied, table), field)
        varied = eqx.tree_at(
            lambda m, table=table, field=field: getattr(getattr(m, table), field),
            varied,
            np.broadcast_to(np.asarray(values, like.dtype), like.shape),
        )
    return varied


def _people(who: str, market: Market, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Loads, reactive power and caps of the prosumers, by dotted name."""
    people, gross, sun = market.prosumers, given["load"], given.get("generation")
    caps = {name: given[name] for name in CAPS if name in given}
    before = told_sun(market)
    if sun is None:
        shines = np.flatnonzero(np.any(np.asarray(people.curtail_max) > 0, axis=1))
        if shines.size and "curtail_max" not in caps:
            called = owners(market).prosumer(shines[0])
            raise ValueError(
                f"{who}: curtail_max of {called} is the sun of the market's own day; "
                "give generation=, and the gross load, or curtail_max=, kW by prosumer."
            )
        load = gross
    else:
        if np.any(sun < 0) or np.any((gross < 0) & (sun > 0)):
            raise ValueError(
                f"{who}: with generation=, load is gross: neither may be negative; give the load "
                "before the sun is taken off."
            )
        load = gross - sun
    caps = moved_caps(who, market, before, before if sun is None else sun, caps)
    check_caps(who, market, load, caps, given)
    reactive = given.get("reactive")
    if reactive is None:
        active = np.asarray(people.load) + before
        reactive = reactive_of(who, "reactive", active, people.reactive, gross)
    return {
        f"prosumers.{name}": a for name, a in {"load": load, "reactive": reactive, **caps}.items()
    }


def hours_of(market: Market, column: Int[np.ndarray, " H"]) -> Market:
    """The market on a day whose steps are these of its own day: skipped ones, and some twice.

    What a buffer must hold at the end of a skipped step it holds at the end of the step before; a
    trip, drained while nothing can be charged, is made once in any case.
    """
    hours = np.shape(market.prosumers.load)[1]
    if np.array_equal(column, np.arange(hours)):
        return market
    taken = market
    for field in FIELDS.values():
        if field.timed(market):
            taken = eqx.tree_at(field.find, taken, np.asarray(field.find(market))[..., column])
    stores = market.buffers
    least, most, drain = (
        np.array(getattr(taken.buffers, name)) for name in ("energy_min", "energy_max", "drain")
    )
    floor, ceiling = np.asarray(stores.energy_min), np.asarray(stores.energy_max)
    trip = np.where(np.asarray(stores.charge_max) == 0, np.asarray(stores.drain), 0.0)
    for skipped in np.setdiff1d(np.arange(hours), column):
        before = np.searchsorted(column, skipped) - 1
        drain[:, max(before, 0)] += trip[:, skipped]
        if before >= 0:
            floor, ceiling = (
                np.asarray(a)[:, skipped] for a in (stores.energy_min, stores.energy_max)
            )
            least[:, before] = np.maximum(least[:, before], floor)
            most[:, before] = np.minimum(most[:, before], ceiling)
    for again in np.flatnonzero(column[1:] <= column[:-1]) + 1:
        drain[:, again] -= trip[:, column[again]]
    return eqx.tree_at(
        lambda m: (m.buffers.energy_min, m.buffers.energy_max, m.buffers.drain),
        taken,
        (least, most, drain),
    )
