"""The built-in cases: `ieee37`, `ieee123` and `synthetic`. Every market they return is feasible."""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from ..market import Buffers, Generators, Grid, GridModel, Market, Prosumers, Tariff, Trading
from ..validation import validate
from .customers import Customers, at_buses, passive, settle, shape, spread
from .feeders import (
    Feeder,
    Ints,
    given_feeder,
    ieee37_feeder,
    ieee123_feeder,
    random_feeder,
)
from .graphs import random_pairs, ring_pairs
from .limits import loose, stressed

Behavior = Literal["nash", "wardrop"]
Graph = Literal["random", "ring"]

_MOST = 10_000_000  # prosumers, buses, hours: far beyond what any memory holds


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
    Deterministic in `seed`. Raises `ValueError` for a word or number out of range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    return _day_on(ieee37_feeder(), *sizes, words, stress)


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
    the feeder itself. Deterministic in `seed`. Raises `ValueError` for a word or number out of
    range.
    """
    words = (grid, reactive_balance, behavior)
    sizes = (prosumers, seed, hours, hour_length, degree, connectivity)
    return _day_on(ieee123_feeder(), *sizes, words, stress)


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
) -> Market:
    """A market of any size on a random radial feeder, like `ieee37` otherwise.

    With `feeder`, a radial `Grid`, its lines and names are used instead and its highest passive
    loads are the spot loads; ratings and voltage limits are made anew. The trading graph is random
    with mean `degree`, or a ring. 100,000 prosumers take seconds. Deterministic in `seed`. Raises
    `ValueError` for a word or number out of range, and for a `feeder` that is no tree.
    """
    check(prosumers=prosumers, hours=hours, hour_length=hour_length, degree=degree, buses=buses)
    choose("graph", graph, get_args(Graph))
    rng = np.random.default_rng(seed)
    tree = random_feeder(buses, 35.0 * prosumers, rng) if feeder is None else given_feeder(feeder)
    customers = settle(tree, prosumers, hours, hour_length, rng)
    pairs = pairs_of(graph, prosumers, degree, rng)
    words = (grid, reactive_balance, behavior)
    return _market(tree, customers, pairs, hour_length, words, stress, rng)


CASES = {"ieee37": ieee37, "ieee123": ieee123, "synthetic": synthetic}


def _day_on(
    feeder: Feeder,
    prosumers: int,
    seed: int,
    hours: int,
    hour_length: float,
    degree: float,
    connectivity: float | None,
    words: tuple[GridModel, bool | None, Behavior],
    stress: bool,
) -> Market:
    """A published feeder with prosumers at its load buses."""
    check(prosumers=prosumers, hours=hours, hour_length=hour_length, degree=degree)
    rng = np.random.default_rng(seed)
    customers = settle(feeder, prosumers, hours, hour_length, rng)
    wanted = prosumers * degree / 2
    if connectivity is not None:
        if not 0 < connectivity <= 1:
            raise ValueError(
                f"connectivity={connectivity:g}: give a share above 0, up to 1: 0.3, not 30."
            )
        wanted = connectivity * prosumers * (prosumers - 1) / 2
    pairs = random_pairs(prosumers, round(wanted), rng)
    return _market(feeder, customers, pairs, hour_length, words, stress, rng)


def _market(
    feeder: Feeder,
    customers: Customers,
    pairs: tuple[Ints, Ints],
    hour_length: float,
    words: tuple[GridModel, bool | None, Behavior],
    stress: bool,
    rng: np.random.Generator,
) -> Market:
    """Feeder, customers and trading graph put together, with devices, prices and limits."""
    grid, reactive_balance, behavior = words
    choose("grid", grid, get_args(GridModel))
    choose("behavior", behavior, get_args(Behavior))
    if stress:
        customers = replace(customers, generator=spread(customers, rng))
    hours = customers.gross.shape[1]
    load = customers.gross - customers.sun
    generators = _generators(feeder, customers, hours, stress, rng)
    left, left_reactive = passive(feeder, customers, hours, hour_length)
    limits = loose(feeder)
    export_max = customers.sun.copy()
    if stress:
        power = np.asarray(generators.power_max)
        export_max[customers.generator] += power
        most = left + at_buses(len(feeder.load), customers.bus, np.maximum(load, 0.0))
        reactive = left_reactive + at_buses(len(feeder.load), customers.bus, customers.reactive)
        capacity = np.bincount(customers.bus[customers.generator], power[:, 0], len(left)).astype(
            float
        )
        limits = stressed(feeder, most, reactive, capacity)
    market = Market(
        prosumers=Prosumers(
            customers.bus,
            load,
            customers.reactive,
            export_max=export_max,
            curtail_max=customers.sun,
        ),
        grid=Grid(
            left,
            feeder.source,
            feeder.target,
            feeder.resistance,
            feeder.reactance,
            rating=limits.rating,
            voltage_min=limits.voltage_min,
            voltage_max=limits.voltage_max,
            feeder_voltage=feeder.voltage,
            tap=feeder.tap,
            passive_reactive=left_reactive,
            model=grid,
            reactive_balance=reactive_balance,
            names=feeder.names,
        ),
        tariff=tariff(feeder.load.sum(), hours, hour_length, behavior, limits.total_max),
        generators=generators,
        buffers=_batteries(customers, hours),
        trading=Trading(*pairs, 30.0, toll=0.01),
        hour_length=hour_length,
    )
    return validate(market)


def pairs_of(
    graph: Graph, count: int, degree: float, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Who trades with whom: on a ring, or on a connected random graph of mean `degree`."""
    if graph == "ring":
        return ring_pairs(count, degree)
    return random_pairs(count, round(count * degree / 2), rng)


def tariff(
    load: float, hours: int, hour_length: float, behavior: Behavior, total_max: Any = np.inf
) -> Tariff:
    """0.12 EUR/kWh over a day, 0.10 more at a total of `load` kW; exports earn a third."""
    base = 0.12 * shape("price", hours, hour_length)
    return Tariff(
        0.10 / load,
        hours=hours,
        base=base,
        export=base / 3,
        total_max=total_max,
        anticipation={"nash": 1.0, "wardrop": 0.0}[behavior],
    )


def _generators(
    feeder: Feeder, customers: Customers, hours: int, stress: bool, rng: np.random.Generator
) -> Generators:
    """0.8 of the owner's peak at 0.10 to 0.25 EUR/kWh.

    In stress their capacity is the spot load of their bus and they cost 0.16 EUR/kWh more: only
    scarcity calls for them.
    """
    owner = customers.generator
    power = 0.8 * customers.peak[owner]
    if stress:
        bus = customers.bus[owner]
        power = feeder.load[bus] / np.bincount(bus, minlength=len(feeder.load))[bus]
    linear = rng.uniform(0.08, 0.14, len(power)) + (0.16 if stress else 0.0)
    steep = rng.uniform(0.08, 0.12, len(power)) / (2 * power)
    return Generators(owner, power[:, None], hours=hours, quadratic=steep, linear=linear)


def _batteries(customers: Customers, hours: int) -> Buffers:
    """Two and a half hours at 0.3 of the owner's peak; half full at the start and at the end."""
    power = 0.3 * customers.peak[customers.battery]
    capacity = 2.5 * power
    floor = np.tile(0.1 * capacity[:, None], (1, hours))
    floor[:, -1] = 0.5 * capacity
    return Buffers(
        customers.battery,
        power[:, None],
        power[:, None],
        capacity[:, None],
        0.5 * capacity,
        hours=hours,
        energy_min=floor,
        charge_efficiency=0.95,
        discharge_efficiency=0.95,
        quadratic=1e-4,
        linear=0.001,
        kind="battery",
    )


def choose(name: str, word: str, allowed: tuple[str, ...]) -> None:
    """`ValueError` for a word that is none of `allowed`."""
    if word not in allowed:
        raise ValueError(f"{name}={word!r}: choose one of {', '.join(allowed)}.")


def check(**numbers: float) -> None:
    """Counts must be whole and positive; the degree at least 0, the length of an hour positive."""
    for name, value in numbers.items():
        if name == "degree":
            right, wanted = value >= 0, "a number of at least 0"
        elif name == "hour_length":
            right, wanted = value > 0, "a positive number"
        else:
            right = 1 <= value <= _MOST and value == int(value)
            wanted = f"a whole number of at least 1, at most {_MOST:,}"
        if not (right and np.isfinite(value)):
            raise ValueError(f"{name}={value:g}: give {wanted}.")
