"""Small markets of several days, for tests of simulations."""

from typing import Any

import jax
import numpy as np

import jaxgne as jg
from jaxgne import journal

STEPS = 6  # a day, of four hours each


def village(days: int = 3, seed: int = 0, **battery: float) -> jg.Market:
    """Three houses behind two lines: sun, a generator, a battery, pairs; no two days are alike."""
    rng, steps = np.random.default_rng(seed), STEPS * days
    shine = np.tile([0.0, 0.2, 1.0, 0.9, 0.1, 0.0], days)
    sun = np.array([[8.0], [0.0], [5.0]]) * shine * np.repeat(rng.uniform(0.3, 1.2, days), STEPS)
    gross = np.array([[3.0], [6.0], [4.0]]) * rng.uniform(0.5, 1.5, (3, steps))
    base = np.tile([0.08, 0.2, 0.12, 0.1, 0.35, 0.2], days) * rng.uniform(0.8, 1.2, steps)
    usual = {"charge_efficiency": 0.93, "discharge_efficiency": 0.93, "linear": 0.004}
    stores: Any = usual | battery
    return jg.Market(
        jg.Prosumers([1, 2, 2], gross - sun, 0.2 * gross, export_max=sun, curtail_max=sun),
        jg.Grid(np.tile([[0.0], [2.0], [1.0]], steps), [0, 1], [1, 2], 5e-4, 3e-4, rating=60.0),
        jg.Tariff(0.004, hours=steps, base=base, export=0.03, total_max=60.0),
        jg.Generators([1], 4.0, hours=steps, quadratic=0.01, linear=0.15),
        jg.Buffers([0, 2], 3.0, 3.0, [12.0, 6.0], 3.0, hours=steps, **stores),
        jg.Trading([0, 0, 1], [1, 2, 2], 4.0, toll=0.005),
        hour_length=4.0,
        clock=jg.Clock("2025-06-01T00:00", "Europe/Berlin"),
    )


def run(folder: Any, days: int) -> Any:
    """A simulation by NumPy with wrong forecasts, written after every window."""
    jax.config.update("jax_enable_x64", True)
    journal._WINDOWS = 1
    guess = jg.forecasts.noisy(0.2, 0.2, seed=3)
    truth = village(days)
    return jg.simulate(truth, window=2, step=1, forecast=guess, out=folder, runner="numpy")
