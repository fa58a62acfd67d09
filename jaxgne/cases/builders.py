"""The built-in cases: published feeders and random ones. Every market they return is feasible."""

from typing import get_args

import numpy as np

from ..grids import MODELS
from ..market import Grid, GridModel, Market
from .circuits import published, random_circuit, rows
from .customers import settle
from .days import Behavior, Graph, check, choose, day_on, in_phases, market_on, pairs_of
from .european import european_lv
from .feeders import given_feeder, ieee37_feeder, ieee123_feeder, random_feeder
from .phased import given_phased


def ieee37(
    prosumers: int = 25,
    seed: int = 0,
    *,
    hours: int = 24,
    hour_length: float = 1.0,
    degree: float = 6.0,
    connectivity: float | None = None,
    grid: GridModel = "lindistflow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
    stress: bool = False,
) -> Market:
    """A day on the IEEE 37-node feeder: 2457 kW of spot load, of which prosumers draw a part.

    Prosumers of six kinds sit at the load buses, drawn in proportion to the spot load; their gross
    load replaces at most 60 % of it and the rest is passive. 60 % own PV (which may be sold or
    curtailed), half a battery, a quarter a generator. They trade on a connected random graph of
    mean `degree`, or the share `connectivity` of all pairs. `stress` tightens lines, voltages and
    the total exchange until they bind, with dearer generators at as many buses as there can be;
    ratings are this project's own, none are published.

    With `grid="lindist3flow"` it is the feeder in three wires, of which each bus has the rows ab,
    bc and ca: customers stand between two phases, as the published loads do, behind the regulator's
    three line voltages.
    Deterministic in `seed`. Raises `ValueError` for a word or number out of range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    feeder = rows(published("ieee37")) if in_phases(grid) else ieee37_feeder()
    return day_on(feeder, *sizes, words, stress)


def ieee123(
    prosumers: int = 80,
    seed: int = 0,
    *,
    hours: int = 24,
    hour_length: float = 1.0,
    degree: float = 6.0,
    connectivity: float | None = None,
    grid: GridModel = "lindistflow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
    stress: bool = False,
) -> Market:
    """A day on the IEEE 123-node feeder, scaled: 125 buses, 3490 kW of spot load.

    Customers, devices, prices and options are those of `ieee37`. The feeder is a balanced
    equivalent that gives single-phase laterals three phases: a test case of its shape and size, not
    the feeder itself. That is `grid="lindist3flow"`: 128 buses with one to three phases, where
    customers stand as the published loads do, with capacitors, and regulators at a ratio of 1: at
    the taps of the published peak every hour of less load is above 1.05 pu. Voltages may fall to
    0.91 pu there. Deterministic in `seed`. Raises `ValueError` for a word or number out of
    range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    feeder = ieee123_feeder()
    if in_phases(grid):
        feeder = rows(published("ieee123").regulated(1.0))
    return day_on(feeder, *sizes, words, stress)


def ieee13(
    prosumers: int = 25,
    seed: int = 0,
    *,
    hours: int = 24,
    hour_length: float = 1.0,
    degree: float = 6.0,
    connectivity: float | None = None,
    grid: GridModel = "lindist3flow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
    stress: bool = False,
) -> Market:
    """A day on the IEEE 13-node feeder in three phases: 15 buses, 3466 kW of spot load.

    Customers, devices, prices and options are those of `ieee37`; they stand as the published loads
    do, at one phase, between two, or on three that are equal. The regulator has a ratio of 1: at
    the taps of the published peak every hour of less load is above 1.05 pu. Voltages may fall to
    0.89 pu instead. Another `grid` model has the balanced equivalent (`jg.grids.balanced`).
    Deterministic in `seed`. Raises `ValueError` for a word or number out of range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    return day_on(rows(published("ieee13").regulated(1.0)), *sizes, words, stress)


def ieee34(
    prosumers: int = 25,
    seed: int = 0,
    *,
    hours: int = 24,
    hour_length: float = 1.0,
    degree: float = 6.0,
    connectivity: float | None = None,
    grid: GridModel = "lindist3flow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
    stress: bool = False,
) -> Market:
    """A day on the IEEE 34-node feeder in three phases: 36 buses, half of its 1769 kW of spot load.

    Customers, devices, prices and options, `grid` too, are those of `ieee13`. Regulators have a
    ratio of 1: at the taps of the published peak hours of less load are up to 1.18 pu, and without
    these the feeder, which is 60 km long and loses 17 %, carries about half of its peak. So all
    loads and capacitors are half of the published ones. Voltages may be 0.90 to 1.08 pu; the main
    grid holds 1.05.
    Deterministic in `seed`. Raises `ValueError` for a word or number out of range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    return day_on(rows(published("ieee34").regulated(1.0).scaled(0.5)), *sizes, words, stress)


def synthetic(
    prosumers: int = 1000,
    degree: float = 8.0,
    buses: int = 100,
    hours: int = 24,
    seed: int = 0,
    stress: bool = False,
    *,
    feeder: Grid | None = None,
    graph: Graph = "random",
    hour_length: float = 1.0,
    grid: GridModel = "lindistflow",
    reactive_balance: bool | None = None,
    behavior: Behavior = "nash",
    phases: int = 1,
) -> Market:
    """A market of any size on a random radial feeder, like `ieee37` otherwise.

    With `phases=3`, which is `grid="lindist3flow"`, it has a trunk of three phases and laterals of
    one to three, and each customer stands at one phase.

    The feeder has `buses`. With `feeder`, a radial `Grid`, its lines and names are used instead and
    its highest passive loads are the spot loads; ratings and voltage limits are made anew. The
    trading `graph` is random with mean `degree`, or a ring. 100,000 prosumers take seconds.
    Deterministic in `seed`. Raises `ValueError` for a word or number out of range, and for a
    `feeder` that is no tree.
    """
    check(prosumers=prosumers, hours=hours, hour_length=hour_length, degree=degree, buses=buses)
    choose("graph", graph, get_args(Graph))
    rng = np.random.default_rng(seed)
    if _three_phases(phases, grid, feeder):
        grid, load = "lindist3flow", 35.0 * prosumers
        tree = rows(random_circuit(buses, load, rng)) if feeder is None else given_phased(feeder)
    elif feeder is None:
        tree = random_feeder(buses, 35.0 * prosumers, rng)
    else:
        tree = given_feeder(feeder)
    customers = settle(tree, prosumers, hours, hour_length, rng)
    pairs = pairs_of(graph, prosumers, degree, rng)
    words = (grid, reactive_balance, behavior)
    return market_on(tree, customers, pairs, hour_length, words, stress, rng)


def _three_phases(phases: int, grid: GridModel, feeder: Grid | None) -> bool:
    """Whether a synthetic market has three. `ValueError` where what is asked for does not agree."""
    if phases not in (1, 3):
        raise ValueError(f"phases={phases}: give 1 or 3.")
    given = feeder is not None and feeder.model.phased
    three = phases == 3 or in_phases(grid) or given
    if three and not MODELS[grid].radial:
        raise ValueError(f"phases=3 goes with grid='lindist3flow', not with grid={grid!r}.")
    if three and feeder is not None and not given:
        raise ValueError(
            f"feeder: its model is {feeder.model.name}, which has one phase; for phases=3 give a "
            "Grid of lindist3flow."
        )
    return three


CASES = {
    "ieee37": ieee37,
    "ieee123": ieee123,
    "synthetic": synthetic,
    "ieee13": ieee13,
    "ieee34": ieee34,
    "european_lv": european_lv,
}
