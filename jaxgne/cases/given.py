"""Profiles that people give for their customers: for all, for each, or for some by number."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..clock import Clock
from .feeders import Floats, Ints


class Given(NamedTuple):
    """Customers whose profiles are given, and these."""

    rows: Ints
    kw: Floats  # (rows, H)


def steps_given(hours: int | None, own: Mapping[str, Any]) -> int | None:
    """The steps that were asked for, or else those of the profiles."""
    if hours is not None:
        return hours
    for value in own.values():
        for profile in value.values() if isinstance(value, Mapping) else [value]:
            if np.ndim(profile) and np.shape(profile)[-1] > 1:
                return np.shape(profile)[-1]
    return None


def clock_of(clock: Clock | None, hour_length: float, own: Mapping[str, Any]) -> Clock | None:
    """The clock that was given, or else that of the profiles. `ValueError` where these differ."""
    for name, value in own.items():
        for profile in value.values() if isinstance(value, Mapping) else [value]:
            if hasattr(profile, "misfit"):  # `Profiles`, which know their steps
                why = profile.misfit("kW", clock, hour_length)
                if why:
                    raise ValueError(f"{name} {why}.")
                clock = profile.clock
    return clock


def by_customer(name: str, value: Any, count: int, hours: int) -> Given | None:
    """What was given by customer, kW. `ValueError` for what fits no customers, or is below 0."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        for row in value:
            if not isinstance(row, int | np.integer) or not 0 <= row < count:
                raise ValueError(f"{name}: {row!r} is no customer; they are 0 to {count - 1}.")
        rows = np.array([int(row) for row in value], int)
        kw = [_profile(f"{name}[{row}]", profile, hours) for row, profile in value.items()]
        kw = np.array(kw).reshape(len(rows), hours)
    else:
        kw = np.asarray(value, float)
        if kw.shape not in ((1, hours), (count, hours)) and not kw.shape == (hours,) != (count,):
            raise ValueError(
                f"{name}: shape {kw.shape} does not fit; give (1, {hours}) for all customers, "
                f"({count}, {hours}) one each, or some by number, {{3: kW}}."
            )
        rows, kw = np.arange(count), np.broadcast_to(kw, (count, hours)).copy()
    bad = np.argwhere(~(np.isfinite(kw) & (kw >= 0)))
    if bad.size:
        row, hour = bad[0]
        raise ValueError(
            f"{name}: {kw[row, hour]:.6g} of customer {rows[row]} in hour {hour}; give finite kW "
            "of at least 0."
        )
    idle = ~np.any(kw > 0, axis=1)
    if name == "load" and np.any(idle):
        raise ValueError(
            f"load: customer {rows[np.argmax(idle)]} draws nothing, and devices are sized by the "
            "highest load; leave it out."
        )
    return Given(rows, kw)


def _profile(name: str, profile: Any, hours: int) -> Floats:
    """One customer's, kW by hour."""
    found = np.asarray(profile, float)
    if found.shape not in ((hours,), (1, hours)):
        raise ValueError(f"{name}: shape {found.shape} does not fit; give ({hours},).")
    return found.reshape(hours)
