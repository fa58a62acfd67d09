"""The European low-voltage test feeder: 55 houses on one phase each, and what they own."""

from typing import get_args

import numpy as np

from .. import devices
from ..market import GridModel, Market, Prosumers, Trading
from ..runner import built
from ..validation import validate
from .circuits import published, rows
from .customers import KINDS, daily, sunshine
from .days import Behavior, check, check_parts, choose, pairs_for, restated, tariff
from .limits import servable, within
from .owned import batteries, heat_pumps, owned_by, vehicles
from .phased import over_hours

_OWNED = {"photovoltaic": 0.6, "battery": 0.5, "vehicle": 0.25, "heat_pump": 0.25}


@built
def european_lv(
    seed: int = 0,
    *,
    hours: int = 24,
    hour_length: float = 1.0,
    degree: float = 6.0,
    connectivity: float | None = None,
    grid: GridModel = "lindist3flow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
) -> Market:
    """A day on the European low-voltage feeder in three phases: 907 buses, 55 houses, 57 kW.

    Each house is a prosumer at its one phase, whose highest load is the published one at the
    minute of the feeder's peak, 0.03 to 13 kW; nothing is passive. 60 % own PV of 1 to 4.5 kW, half
    a battery of 0.6 to 2 kW, a quarter each a car that charges at 2 to 7.5 kW and a heat pump. They
    trade on a connected random graph of mean `degree`, or the share `connectivity` of all pairs.

    Voltages are in pu of 0.416 kV / sqrt(3) and may be 0.90 to 1.10; the main grid holds 1.05.
    Conductors have 1.5 times what the peak needs and 10 kVA more, as no ratings are published.
    Another `grid` model has the balanced equivalent (`jg.grids.balanced`), which takes the houses'
    unbalance, most of what voltages fall by, for nothing. Deterministic in `seed`. Raises
    `ValueError` for a word or number out of range.
    """
    check(hours=hours, hour_length=hour_length, degree=degree)
    check_parts(hour_length)
    choose("grid", grid, get_args(GridModel))
    choose("behavior", behavior, get_args(Behavior))
    feeder = rows(published("european_lv"))
    at = np.flatnonzero(feeder.load)
    count, streams = len(at), ("customers", "trading", *_OWNED)
    rng = {name: np.random.default_rng([seed, k]) for k, name in enumerate(streams)}
    kind = np.full(count, list(KINDS).index("house"))
    load = daily(kind, feeder.load[at], hours, hour_length, rng["customers"])
    reactive = (feeder.reactive[at] / feeder.load[at])[:, None] * load
    size = 4.0 * rng["customers"].uniform(0.75, 1.25, count)  # kW, of a house's devices
    owned = {name: owned_by(share, size, rng[name]) for name, share in _OWNED.items()}
    who, large, draw = owned["photovoltaic"]
    sun = sunshine(draw(0.3, 0.9) * large, hours, hour_length, rng["photovoltaic"])
    people = devices.photovoltaic(Prosumers(at, load, reactive), who, generation=sun)
    none = np.zeros((len(feeder.load), hours))
    drawn, kvar = none.copy(), none.copy()
    drawn[at], kvar[at] = load, reactive
    limits = within(feeder, drawn, kvar, spare=10.0)
    market = Market(
        people,
        over_hours(feeder, none, none, rating=limits.rating, voltage_min=0.90, voltage_max=1.10),
        tariff(feeder.load.sum(), hours, hour_length, behavior),
        buffers=devices.join(
            batteries(*owned["battery"], hours),
            vehicles(*owned["vehicle"], hours, hour_length),
            heat_pumps(*owned["heat_pump"], hours, hour_length),
        ),
        trading=Trading(*pairs_for(count, degree, connectivity, rng["trading"]), 30.0, toll=0.01),
        hour_length=hour_length,
    )
    return restated(servable(validate(market)), grid, reactive_balance)
