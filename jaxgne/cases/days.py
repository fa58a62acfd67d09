"""A feeder, customers and what they own, put together to a market: its prices, graph and limits."""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from ..grids import MODELS, balanced
from ..market import Buffers, Generators, Grid, GridModel, Market, Prosumers, Tariff, Trading
from ..validation import validate
from .customers import Customers, at_buses, passive, settle, shape, spread
from .feeders import Feeder, Floats, Ints
from .graphs import random_pairs, ring_pairs
from .limits import Limits, loose, stressed, within
from .phased import Phased, over_hours

Behavior = Literal["nash", "wardrop"]
Graph = Literal["random", "ring"]

_MOST = 10_000_000  # prosumers, buses, hours: far beyond what any memory holds


def day_on(
    feeder: Feeder | Phased,
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
    pairs = pairs_for(prosumers, degree, connectivity, rng)
    return market_on(feeder, customers, pairs, hour_length, words, stress, rng)


def market_on(
    feeder: Feeder | Phased,
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
    most = left + at_buses(len(feeder.load), customers.bus, np.maximum(load, 0.0))
    reactive = left_reactive + at_buses(len(feeder.load), customers.bus, customers.reactive)
    limits = within(feeder, most, reactive) if isinstance(feeder, Phased) else loose(feeder)
    export_max = customers.sun.copy()
    if stress:
        power = np.asarray(generators.power_max)
        export_max[customers.generator] += power
        capacity = np.bincount(customers.bus[customers.generator], power[:, 0], len(left)).astype(
            float
        )
        limits = stressed(feeder, limits, most, reactive, capacity)
    market = Market(
        prosumers=Prosumers(
            customers.bus,
            load,
            customers.reactive,
            export_max=export_max,
            curtail_max=customers.sun,
        ),
        grid=_grid(feeder, limits, left, left_reactive, grid, reactive_balance),
        tariff=tariff(feeder.load.sum(), hours, hour_length, behavior, limits.total_max),
        generators=generators,
        buffers=_batteries(customers, hours),
        trading=Trading(*pairs, 30.0, toll=0.01),
        hour_length=hour_length,
    )
    if isinstance(feeder, Phased):
        market = restated(market, grid, reactive_balance)
    return validate(market)


def _grid(
    feeder: Feeder | Phased,
    limits: Limits,
    left: Floats,
    left_reactive: Floats,
    model: GridModel,
    reactive_balance: bool | None,
) -> Grid:
    """The feeder with limits and passive loads, kW and kvar (B, H); in three phases always so."""
    if isinstance(feeder, Phased):
        return over_hours(
            feeder, left, left_reactive, rating=limits.rating, voltage_min=limits.voltage_min,
            voltage_max=limits.voltage_max,
        )  # fmt: skip
    return Grid(
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
        model=model,
        reactive_balance=reactive_balance,
        names=feeder.names,
    )


def restated(market: Market, model: GridModel, reactive_balance: bool | None) -> Market:
    """A market in three phases, or its balanced equivalent on a grid of another model."""
    even = market if in_phases(model) else balanced(market)
    grid = replace(even.grid, model=model, reactive_balance=reactive_balance)
    return replace(even, grid=grid)


def pairs_for(
    count: int, degree: float, connectivity: float | None, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """A connected random graph of mean `degree`, or of the share `connectivity` of all pairs."""
    wanted = count * degree / 2
    if connectivity is not None:
        if not 0 < connectivity <= 1:
            raise ValueError(
                f"connectivity={connectivity:g}: give a share above 0, up to 1: 0.3, not 30."
            )
        wanted = connectivity * count * (count - 1) / 2
    return random_pairs(count, round(wanted), rng)


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
    feeder: Feeder | Phased,
    customers: Customers,
    hours: int,
    stress: bool,
    rng: np.random.Generator,
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


def in_phases(grid: GridModel) -> bool:
    """Whether a grid model has buses in three phases; `ValueError` for a word that is none."""
    choose("grid", grid, get_args(GridModel))
    return MODELS[grid].phased


def check_parts(hour_length: float) -> None:
    """`ValueError` for steps that do not divide half a day, which devices' habits go by."""
    if not (0 < hour_length <= 6 and np.isclose(12 / hour_length, round(12 / hour_length))):
        raise ValueError(
            f"hour_length={hour_length:g}: give a part of 12 hours, such as 0.25, 1, 3 or 6."
        )


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
