"""A street to begin with: small, plausible, and something in every table that people fill in."""

import numpy as np

from .. import devices
from ..clock import Clock
from ..market import Grid, Market, Prosumers, Tariff, Trading
from .customers import KVAR_PER_KW, shape

_HOURS = 24


def street() -> Market:
    """Four houses and a workshop behind one transformer, on a winter day in hours.

    The first house has panels and a battery, the second a car, the workshop a small generator. All
    may trade with all.
    """
    day = shape("house", _HOURS, 1.0)
    load = np.array([2.5, 3.0, 4.0, 2.0])[:, None] * day
    load = np.concatenate([load, 12.0 * shape("office", _HOURS, 1.0)[None]]).round(3)
    people = devices.photovoltaic(
        Prosumers((1, 2, 3, 3, 4), load, (KVAR_PER_KW * load).round(3)),
        (0,),
        generation=(5.0 * shape("sun", _HOURS, 1.0)[None]).round(3),
    )
    buyer, seller = np.triu_indices(5, 1)
    return Market(
        people,
        Grid(
            np.outer([0.0, 0.0, 0.0, 0.3, 0.0], np.ones(_HOURS)),  # street lights
            (0, 1, 2, 3),
            (1, 2, 3, 4),
            np.array([0.008, 0.02, 0.02, 0.03]) / 160,  # ohm / (1000 kV^2)
            np.array([0.03, 0.008, 0.008, 0.012]) / 160,
            rating=(100.0, 130.0, 130.0, 90.0),
            names=("main grid", "station", "street 1", "street 2", "workshop"),
            line_names=("transformer", "cable 1", "cable 2", "cable 3"),
        ),
        Tariff(0.0, hours=_HOURS, base=0.30, export=0.08),
        generators=devices.generator(4, power=5.0, hours=_HOURS, linear=0.25, quadratic=0.002),
        buffers=devices.join(
            devices.battery(0, power=4.0, capacity=8.0, hours=_HOURS, final=0.5),
            devices.vehicle(
                1, power=11.0, capacity=50.0, arrival=18, departure=7, hours=_HOURS, trip=8.0,
                final=0.5,
            ),
        ),
        trading=Trading(buyer, seller, 10.0, toll=0.01),
        clock=Clock("2026-01-20", "Europe/Berlin"),
    )  # fmt: skip
