"""Small markets for the tests: hand-made ones with arithmetic one can follow, and random ones.

Random shapes come from the few in `SHAPES`, so that compiled code is shared between seeds.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.market import Zones
from jaxgne.record import changed
from jaxgne.tables import QUANTITIES, Caps
from tests.reference import least_peak, solve

GridWord = Literal["copperplate", "paper", "paper with reactive power", "lindistflow"]
GRIDS: tuple[GridWord, ...] = (
    "lindistflow",
    "paper",
    "paper with reactive power",
    "copperplate",
)


class Shape(NamedTuple):
    """Sizes of a random market."""

    prosumers: int
    hours: int
    buses: int
    generators: int
    buffers: int
    pairs: int


SHAPES = (
    Shape(4, 4, 3, 3, 2, 4),
    Shape(6, 6, 5, 5, 4, 8),
    Shape(3, 6, 4, 2, 3, 3),
    Shape(5, 2, 5, 6, 2, 7),
    Shape(2, 1, 2, 2, 1, 1),
    Shape(1, 3, 1, 1, 1, 0),
)


def two_neighbors(
    load: float = 3.0, *, behavior: float = 1.0, toll: float = 0.0, import_max: float = 0.0
) -> jg.Market:
    """A consumer and an owner of a generator costing 0.10 p + 0.02 p^2; one hour, one bus.

    With the main grid shut the generator serves the load: its marginal cost 0.10 + 0.04 load is
    the price of the trade, plus `toll` on either side.
    """
    return jg.Market(
        jg.Prosumers([0, 0], [[load], [0.0]], import_max=import_max),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.3, anticipation=behavior),
        jg.Generators([1], 10.0, hours=1, quadratic=0.02, linear=0.10),
        trading=jg.Trading([0], [1], 8.0, toll=toll),
    )


def lone_importer(load: float = 4.0, *, behavior: float = 1.0) -> jg.Market:
    """One prosumer, no device, no partner, no line: imports its load, pays 0.2 + 0.01 load.

    Its energy value is 0.2 + 0.01 (1 + behavior) load.
    """
    return jg.Market(
        jg.Prosumers([0], [[load]]),
        jg.Grid([[0.0]]),
        jg.Tariff(0.01, hours=1, base=0.2, anticipation=behavior),
    )


def one_bus() -> jg.Market:
    """Three prosumers, passive load and a battery behind one bus, three hours; no lines."""
    return jg.Market(
        jg.Prosumers([0, 0, 0], [[5.0, 9.0, 4.0], [2.0, -3.0, 6.0], [4.0, 4.0, 4.0]]),
        jg.Grid([[6.0, 8.0, 5.0]]),
        jg.Tariff(0.004, hours=3, base=[0.05, 0.15, 0.10]),
        jg.Generators([0, 2], [6.0, 3.0], hours=3, quadratic=0.004, linear=[0.09, 0.14]),
        jg.Buffers([1], 3.0, 3.0, 10.0, 4.0, hours=3, charge_efficiency=0.95,
                   discharge_efficiency=0.95, quadratic=0.001),
        jg.Trading([0, 0, 1], [1, 2, 2], 5.0, fee_buyer=0.02, fee_seller=0.02, toll=0.01),
    )  # fmt: skip


def feeder(
    model: Literal["paper", "lindistflow"] = "lindistflow",
    *,
    rating: float = np.inf,
    tap: Any = 1.0,
    voltage_min: float = 0.95,
    feeder_voltage: Any = 1.0,
    hour_length: float = 1.0,
    reactive_balance: bool | None = None,
    behavior: float = 1.0,
    compensation: float = 0.0,
) -> jg.Market:
    """Buses 0 - 1 - 2, 1 - 3 and 0 - 4; 40 kW of load lower the voltage at bus 2 by some 3 %."""
    return jg.Market(
        jg.Prosumers(
            [1, 2, 3, 4],
            [[8.0, 12.0, 10.0], [15.0, 20.0, 6.0], [5.0, 4.0, -6.0], [9.0, 11.0, 7.0]],
            [[2.0, 3.0, 2.0], [4.0, 5.0, 2.0], [1.0, 1.0, 1.0], [2.0, 3.0, 2.0]],
        ),
        jg.Grid(
            [[0.0] * 3, [4.0, 6.0, 5.0], [3.0, 3.0, 3.0], [0.0] * 3, [2.0, 2.0, 2.0]],
            [0, 1, 1, 0],
            [1, 2, 3, 4],
            [4e-4, 5e-4, 3e-4, 2e-4],
            [3e-4, 3e-4, 3e-4, 1e-4],
            rating=rating,
            tap=tap,
            voltage_min=voltage_min,
            feeder_voltage=feeder_voltage,
            passive_reactive=[[0.0] * 3, [1.0, 2.0, 1.0], [1.0] * 3, [0.0] * 3, [0.5] * 3],
            compensation_max=compensation,
            model=model,
            reactive_balance=reactive_balance,
        ),
        jg.Tariff(0.003, hours=3, base=[0.05, 0.10, 0.02], anticipation=behavior),
        jg.Generators([1, 3], [14.0, 6.0], hours=3, quadratic=[0.006, 0.004], linear=[0.12, 0.2]),
        jg.Buffers([2], 4.0, 4.0, 12.0, 6.0, hours=3, energy_min=[[2.0, 2.0, 6.0]],
                   charge_efficiency=0.93, discharge_efficiency=0.93, linear=0.005),
        jg.Trading([0, 1, 0, 2], [1, 2, 3, 3], [6.0, 6.0, 4.0, 5.0], fee_buyer=0.03,
                   fee_seller=0.03, toll=0.008),
        hour_length=hour_length,
    )  # fmt: skip


def inverters() -> jg.Market:
    """Voltages that nobody can hold without the reactive power of two prosumers' inverters.

    A battery is the fuller at the end, as its content is worth more than it cost.
    """
    market = jg.devices.inverter(feeder(voltage_min=0.985), [0, 2], [25.0, 20.0])
    return eqx.tree_at(lambda m: m.buffers.final_value, market, jnp.array([0.3]))


def tight_inverter() -> jg.Market:
    """A load of 20 kW and 10 kvar behind a voltage limit; a neighbor with 6 kW of sun beside it.

    The sun's inverter of 10 kVA makes up to 8 kvar.
    """
    market = jg.Market(
        jg.Prosumers([1, 1], [[20.0], [-6.0]], [[10.0], [0.0]], export_max=6.0),
        jg.Grid([[0.0], [0.0]], [0], [1], 8e-4, 8e-4, voltage_min=0.988),
        jg.Tariff(0.002, hours=1, base=0.1, export=0.1),
        jg.Generators([0], 20.0, hours=1, quadratic=0.004, linear=0.25),
    )
    return jg.devices.inverter(market, [1], 10.0)


def exporter() -> jg.Market:
    """8 kW of surplus at night cost nothing: 5 kW are sold at 0.06, the rest goes to the neighbor.

    Load of the neighbor 10 kW, so 3 kW are traded and 7 kW imported.
    """
    return jg.Market(
        jg.Prosumers([0, 0], [[-8.0], [10.0]], export_max=[[5.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.002, hours=1, base=0.05, export=0.06, total_max=20.0),
        trading=jg.Trading([0], [1], 3.0, toll=0.001),
    )


def curtailer() -> jg.Market:
    """6 kW of surplus, 2 kW of demand next door over a pair of 4 kW: 4 kW are curtailed."""
    return jg.Market(
        jg.Prosumers([0, 0], [[-6.0], [2.0]], curtail_max=[[9.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.1),
        trading=jg.Trading([0], [1], 4.0, toll=0.01),
    )


def unequal_fees() -> jg.Market:
    """A buyer that likes its partner (fee -0.05) and a seller that does not care (fee 0.02)."""
    return jg.Market(
        jg.Prosumers([0, 0, 0], [[6.0, 4.0], [5.0, 5.0], [3.0, 8.0]]),
        jg.Grid([[1.0, 2.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2, base=0.1, anticipation=0.5),
        jg.Generators([1, 1], [[6.0], [4.0]], hours=2, quadratic=0.005, linear=[0.1, 0.15]),
        trading=jg.Trading([0, 2], [1, 1], 4.0, fee_buyer=[-0.05, 0.03], fee_seller=[0.02, 0.0],
                           toll=0.004),
    )  # fmt: skip


def many_devices() -> jg.Market:
    """One prosumer with two generators and two buffers (one drains like a car), one without."""
    return jg.Market(
        jg.Prosumers([1, 1], [[9.0, 4.0, 12.0, 3.0], [2.0, 2.0, 2.0, 2.0]]),
        jg.Grid([[0.0] * 4, [1.0] * 4], [0], [1], 5e-4, 4e-4, rating=30.0),
        jg.Tariff(0.01, hours=4, base=[0.05, 0.02, 0.2, 0.1], total_max=16.0),
        jg.Generators([0, 0], [4.0, 2.0], hours=4, power_min=[0.0, 0.5],
                      quadratic=[0.01, 0.0], linear=[0.1, 0.12]),
        jg.Buffers([0, 0], [3.0, 2.5], [3.0, 0.0], [8.0, 12.0], [4.0, 5.0], hours=4,
                   drain=[[0.0] * 4, [0.0, 0.0, 3.0, 0.0]], retention=[0.99, 1.0],
                   charge_efficiency=0.92, discharge_efficiency=0.92, quadratic=0.002),
        jg.Trading([1], [0], 2.0, fee_buyer=0.01, fee_seller=0.01, toll=0.005),
        hour_length=0.25,
    )  # fmt: skip


HAND_MADE: dict[str, Callable[[], jg.Market]] = {
    "two neighbors": two_neighbors,
    "two price takers": lambda: two_neighbors(behavior=0.0, toll=0.01, import_max=9.0),
    "one importer": lone_importer,
    "one bus": one_bus,
    "feeder": feeder,
    "feeder with tight lines": lambda: feeder(rating=31.0, behavior=0.0),
    "feeder with tight voltages": lambda: feeder(voltage_min=0.979),
    "feeder held at other voltages": lambda: feeder(
        voltage_min=0.989, feeder_voltage=[[1.01, 1.01, 1.03]]
    ),
    "mesh held at another voltage": lambda: feeder(
        "paper", reactive_balance=True, voltage_min=1.018, feeder_voltage=1.04
    ),
    "paper feeder": lambda: feeder("paper", rating=29.0),
    "paper feeder with reactive power": lambda: feeder(
        "paper", reactive_balance=True, voltage_min=0.978, hour_length=0.25, compensation=0.5
    ),
    "inverters": inverters,
    "exports": exporter,
    "curtailment": curtailer,
    "unequal fees": unequal_fees,
    "many devices": many_devices,
}


def chance(rng: np.random.Generator, share: float) -> bool:
    """True in `share` of the draws."""
    return bool(rng.uniform() < share)


def random_market(
    seed: int,
    *,
    shape: Shape | None = None,
    grid: GridWord | None = None,
    behavior: Literal["nash", "wardrop"] | None = None,
    hour_length: float | None = None,
) -> jg.Market:
    """A market drawn from `seed`; whatever is not given is drawn too. It may be infeasible.

    kW of a house to a shop, EUR/kWh of a retail tariff; in about half of the draws each of the
    aggregate limits, line ratings and voltages is tight enough to matter.
    """
    rng = np.random.default_rng(seed)
    drawn = SHAPES[int(rng.choice(len(SHAPES), p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05]))]
    word = GRIDS[int(rng.choice(4, p=[0.4, 0.25, 0.2, 0.15]))]
    anticipation = float(rng.choice([1.0, 0.0, 0.5], p=[0.5, 0.35, 0.15]))
    ts = float(rng.choice([1.0, 0.5, 0.25]))
    sizes, word = shape or drawn, grid or word
    anticipation = anticipation if behavior is None else float(behavior == "nash")
    prosumers = random_prosumers(rng, sizes)
    units = random_generators(rng, sizes)
    network = random_grid(rng, sizes, prosumers, units, word)
    tariff = random_tariff(rng, prosumers, network, anticipation)
    buffers = random_buffers(rng, sizes, hour_length or ts)
    extra = np.random.default_rng([seed, 1])  # so that it moves no other draw
    worth = extra.uniform(0, 0.3, sizes.buffers) * (extra.uniform(size=sizes.buffers) < 0.3)
    inverters = extra.uniform(0, 5, (sizes.buses, 1)) * (extra.uniform(size=(sizes.buses, 1)) < 0.3)
    return jg.Market(
        prosumers,
        eqx.tree_at(lambda g: g.compensation_max, network, inverters + 0 * network.passive),
        tariff,
        units,
        eqx.tree_at(lambda b: b.final_value, buffers, jnp.asarray(worth)),
        random_trading(rng, sizes),
        hour_length=hour_length or ts,
    )


def random_prosumers(rng: np.random.Generator, sizes: Shape) -> jg.Prosumers:
    """Loads up to 30 kW, some with more sun than load; curtailment, exports and import limits."""
    table = (sizes.prosumers, sizes.hours)
    gross = rng.uniform(3, 30, (sizes.prosumers, 1)) * rng.uniform(0.3, 1.0, table)
    sunny = rng.uniform(size=(sizes.prosumers, 1)) < 0.4
    sun = sunny * rng.uniform(0, 1.4, table) * gross
    export = rng.uniform(3, 20, (sizes.prosumers, 1)) * (
        rng.uniform(size=(sizes.prosumers, 1)) < 0.5
    )
    entitled = rng.uniform(size=(sizes.prosumers, 1)) < 0.7
    ceiling = np.where(rng.uniform(size=(sizes.prosumers, 1)) < 0.5, np.inf,
                       gross.max(axis=1, keepdims=True) * rng.uniform(0.9, 2.0))  # fmt: skip
    return jg.Prosumers(
        rng.integers(0, sizes.buses, sizes.prosumers),
        gross - sun,
        gross * np.tan(np.arccos(rng.uniform(0.9, 1.0, (sizes.prosumers, 1)))),
        import_max=ceiling,
        export_max=export,
        curtail_max=sun * entitled,
    )


def downstream(parent: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums over each bus but the first and all buses below it: what its line carries."""
    total = values.copy()
    for y in range(len(values) - 1, 0, -1):
        total[parent[y - 1]] += total[y]
    return total[1:]


def falls(parent: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Sums from the first bus down to each bus of what is lost along the lines."""
    total = np.zeros((len(parent) + 1, along.shape[1]))
    for y, above in enumerate(parent, start=1):
        total[y] = total[above] + along[y - 1]
    return total


def random_grid(
    rng: np.random.Generator,
    sizes: Shape,
    prosumers: jg.Prosumers,
    units: jg.Generators,
    word: GridWord,
) -> jg.Grid:
    """A tree below bus 0 whose voltage falls by 2 to 8 % to its worst bus without own generation.

    Ratings and the lower voltage lie between what flows without own generation and with 80 % of
    it, or a little beyond, so that they matter but can mostly be met.
    """
    buses, bus = sizes.buses, np.asarray(prosumers.bus)
    passive = rng.uniform(0, 25, (buses, 1)) * rng.uniform(0.4, 1.0, (buses, sizes.hours))
    passive *= rng.uniform(size=(buses, 1)) < 0.7
    parent = np.array([rng.integers(0, y) for y in range(1, buses)], int)
    idle, kvar, made = passive.copy(), 0.3 * passive, np.zeros_like(passive)
    np.add.at(idle, bus, np.asarray(prosumers.load))
    np.add.at(kvar, bus, np.asarray(prosumers.reactive))
    np.add.at(made, bus[np.asarray(units.owner)], 0.8 * np.asarray(units.power_max))
    idle, kvar, made = (downstream(parent, a) for a in (idle, kvar, made))
    busy = np.where(idle > 0, np.maximum(idle - made, 0.0), idle)
    resistance = rng.uniform(0.5, 1.5, buses - 1) * (rng.uniform(size=buses - 1) > 0.08)
    reactance = resistance * rng.uniform(0.3, 1.5, buses - 1)  # some lines are ideal
    worst, least = (
        falls(parent, resistance[:, None] * flow + reactance[:, None] * kvar).max(initial=1e-3)
        for flow in (idle, busy)
    )
    unit = rng.uniform(0.02, 0.08) / worst
    most, fewest = (np.hypot(flow, kvar).max(axis=1) for flow in (idle, busy))
    share = rng.uniform(0.0, 1.0, buses - 1)
    tight = chance(rng, 0.7)
    return jg.Grid(
        passive,
        parent,
        np.arange(1, buses),
        resistance * unit,
        reactance * unit,
        rating=0.95 * fewest + share * (most - fewest) + 0.5 if tight else np.inf,
        voltage_min=1 - unit * (0.95 * least + rng.uniform(0.0, 1.0) * (worst - least)) - 0.001,
        voltage_max=rng.uniform(1.02, 1.08),
        passive_reactive=0.3 * passive,
        model="paper" if word == "paper with reactive power" else word,
        reactive_balance=True if word == "paper with reactive power" else None,
    )


def random_tariff(
    rng: np.random.Generator, prosumers: jg.Prosumers, grid: jg.Grid, anticipation: float
) -> jg.Tariff:
    """0.05 to 0.3 EUR/kWh at full load on top of a base that may be negative; exports pay less."""
    hours = prosumers.load.shape[1]
    passive = np.asarray(grid.passive).sum(0)
    total = np.maximum(np.asarray(prosumers.load), 0.0).sum(0) + passive
    net = np.asarray(prosumers.load).sum(0) + passive
    slope = rng.uniform(0.05, 0.3) / max(total.max(), 1.0) * rng.uniform(0.7, 1.3, hours)
    base = rng.uniform(-0.05, 0.2, hours) * (rng.uniform() < 0.7)
    export = base + 0.5 * slope * passive - 0.01
    return jg.Tariff(
        slope,
        hours=hours,
        base=base,
        export=export,
        total_min=rng.uniform(-0.1, 0.5) * net.max() if chance(rng, 0.3) else -np.inf,
        total_max=rng.uniform(0.55, 1.1) * net.max() + 2.0 if chance(rng, 0.7) else np.inf,
        anticipation=anticipation,
    )


def random_generators(rng: np.random.Generator, sizes: Shape) -> jg.Generators:
    """Units of 3 to 25 kW; some must run, some have flat costs, some are away for an hour."""
    count = sizes.generators
    most = rng.uniform(3, 25, (count, 1)) * (rng.uniform(size=(count, sizes.hours)) < 0.9)
    least = most * rng.uniform(0, 0.3, (count, 1)) * (rng.uniform(size=(count, 1)) < 0.2)
    return jg.Generators(
        rng.integers(0, sizes.prosumers, count),
        most,
        hours=sizes.hours,
        power_min=least,
        quadratic=rng.uniform(0.001, 0.02, count) * (rng.uniform(size=count) < 0.85),
        linear=rng.uniform(0.03, 0.3, count),
    )


def random_buffers(rng: np.random.Generator, sizes: Shape, hour_length: float) -> jg.Buffers:
    """Batteries of 5 to 40 kWh, some due full at the end, some drained or away for an hour."""
    count, table = sizes.buffers, (sizes.buffers, sizes.hours)
    capacity = rng.uniform(5, 40, count)
    start = rng.uniform(0.3, 0.8, count) * capacity
    floor = 0.1 * capacity[:, None] * np.ones(table)
    due = rng.uniform(size=count) < 0.3
    floor[due, -1] = np.minimum(start, 0.6 * capacity)[due]
    power = rng.uniform(0.2, 0.5, (count, 1)) * capacity[:, None]
    home = rng.uniform(size=table) < 0.9
    drain = 0.03 * hour_length * capacity[:, None] * (rng.uniform(size=(count, 1)) < 0.2)
    return jg.Buffers(
        rng.integers(0, sizes.prosumers, count),
        power * home,
        power * home * (rng.uniform(size=(count, 1)) < 0.8),
        capacity[:, None],
        start,
        hours=sizes.hours,
        energy_min=floor,
        drain=drain * np.ones(table),
        retention=rng.choice([1.0, 0.99, 0.98], count),
        charge_efficiency=rng.choice([1.0, 0.95, 0.9], count),
        discharge_efficiency=rng.choice([1.0, 0.95, 0.9], count),
        quadratic=rng.uniform(0, 0.002, count) * (rng.uniform(size=count) < 0.6),
        linear=rng.uniform(0, 0.02, count) * (rng.uniform(size=count) < 0.5),
    )


def random_trading(rng: np.random.Generator, sizes: Shape) -> jg.Trading:
    """Distinct pairs, either side first; fees equal in half of the markets, some pairs are shut."""
    first, second = np.triu_indices(sizes.prosumers, 1)
    chosen = rng.permutation(len(first))[: sizes.pairs]
    swap = rng.uniform(size=len(chosen)) < 0.5
    first, second = first[chosen], second[chosen]
    fee = rng.uniform(0.0, 0.08, len(chosen))
    other = fee if chance(rng, 0.5) else fee + rng.uniform(-0.02, 0.02, len(chosen))
    return jg.Trading(
        np.where(swap, second, first),
        np.where(swap, first, second),
        rng.uniform(2, 15, len(chosen)) * (rng.uniform(size=len(chosen)) < 0.95),
        fee_buyer=fee,
        fee_seller=other,
        toll=rng.uniform(0.002, 0.02, len(chosen)) * (rng.uniform(size=len(chosen)) < 0.9),
        quadratic=rng.uniform(0, 0.004, len(chosen)) * (rng.uniform(size=len(chosen)) < 0.3),
    )


def random_caps(market: jg.Market, seed: int, caps: int = 3, terms: int = 7) -> jg.Market:
    """The market with limits that many share, drawn from `seed`; it may be infeasible.

    Of whatever a plan chooses, by weights of either sign or 0, some without a term, some priced and
    paid by one prosumer. Limits lie about where a plan without them is, some far beyond and some
    out of reach; some fix the level, or its rise, in a step.
    """
    rng = np.random.default_rng([seed, 5])
    people, hours = market.prosumers.load.shape
    units, stores = market.generators.owner.shape[0], market.buffers.owner.shape[0]
    quantity = rng.integers(5, size=terms)  # of what a plan chooses
    row = rng.integers(np.array([people, people, units, stores, stores])[quantity])
    weight = rng.choice([1.0, 0.3, -1.0, 0.0], (terms, 1), p=[0.5, 0.2, 0.2, 0.1])
    weight = weight * np.where(rng.uniform(size=(terms, 1)) < 0.5, 1.0, rng.uniform(size=hours))
    cap = rng.integers(caps, size=terms)
    free, table = solve(market), np.zeros((caps, hours))
    if free.status == "solved":
        of = [np.asarray(getattr(free.plan, QUANTITIES[k])) for k in quantity]
        each = [powers[r] for powers, r in zip(of, row, strict=True)]
        np.add.at(table, cap, weight * np.stack(each))
    adds, carry = rng.integers(2, size=caps), rng.choice([0.0, 1.0, rng.uniform()], caps)
    base = rng.uniform(-2, 2, (caps, hours)) * (rng.uniform(size=(caps, 1)) < 0.3)
    start = rng.uniform(-5, 5, caps) * (rng.uniform(size=caps) < 0.4)
    level, rise = levels(table + base, adds, carry, start, market.before)
    ends = {}
    for name, value in (("level", level), ("rise", rise)):
        reach = 0.1 + np.abs(value).max(axis=1, keepdims=True)
        tight = rng.choice([-2.0, 0.02, 0.1], (2, caps, 1), p=[0.5, 0.4, 0.1])
        most = value.max(axis=1, keepdims=True) - reach * tight[0] + 0 * value
        least = value.min(axis=1, keepdims=True) + reach * tight[1] + 0 * value
        fixed = rng.uniform(size=value.shape) < 0.05
        most = np.where(fixed, value, np.where(rng.uniform(size=(caps, 1)) < 0.5, most, np.inf))
        least = np.where(rng.uniform(size=(caps, 1)) < 0.2, least, -np.inf)
        ends |= {f"{name}_max": most, f"{name}_min": np.where(fixed, most, np.minimum(least, most))}
    slack = rng.choice([0.0, 1.0, np.inf], caps, p=[0.6, 0.2, 0.2])
    price = rng.uniform(0.0, 0.2, caps) * (rng.uniform(size=caps) < 0.4)
    return eqx.tree_at(lambda m: m.caps, market, Caps(
        **ends, hours=hours, base=base, start=start, carry=carry, slack=slack, price=price,
        adds=adds, owner=rng.integers(-1, people, caps), cap=cap, quantity=quantity, row=row,
        weight=weight,
    ))  # fmt: skip


def random_contracts(market: jg.Market, seed: int) -> jg.Market:
    """The market with contracts of its prosumers' own, and by hour what pairs may trade and pay.

    Of what each adds to the main grid's prices one is by hour and one by prosumer alone, or both.
    """
    rng = np.random.default_rng([seed, 9])
    (people, hours), pairs = market.prosumers.load.shape, market.trading
    count = pairs.buyer.shape[0]
    table = (count, hours)
    fields = {
        "import_adder": rng.uniform(-0.02, 0.2, (people, hours if seed % 2 else 1)),
        "export_adder": rng.uniform(-0.1, 0.0, (people, 1 if seed % 3 else hours)),
        "limit": pairs.limit * rng.uniform(0, 1.5, table) * (rng.uniform(size=table) < 0.8),
        "fee_buyer": pairs.fee_buyer * rng.uniform(0.5, 1.5, table),
        "toll": pairs.toll * rng.choice([0.0, 0.5, 1.0, 2.0], table),
        "reluctance": rng.choice([0.0, 0.005, 0.02], table),
    }
    return eqx.tree_at(priced_by_contract, market, tuple(map(jnp.asarray, fields.values())))


def random_zones(market: jg.Market, seed: int, count: int = 3) -> jg.Market:
    """The market in `count` zones with prices of their own; one of them may have a flat price.

    Buses are in zones of their own, whatever zone those are in that live there.
    """
    rng = np.random.default_rng([seed, 11])
    tariff, hours = market.tariff, market.prosumers.load.shape[1]
    slope, passive = np.asarray(tariff.slope), np.asarray(market.grid.passive).sum(0)
    base = rng.uniform(-0.03, 0.08, (count, hours if seed % 2 else 1))
    steep = rng.choice([-1.0, -0.3, 0.0, 1.5], (count, 1)) * slope
    export = base - 0.5 * slope * passive  # so that nobody is paid more than it would pay
    people, grid = market.prosumers, market.grid
    homes = rng.permutation(np.arange(people.bus.shape[0]) % count)
    buses = rng.integers(0, count, grid.passive.shape[0])
    return changed(
        market,
        prosumers=changed(people, zone=jnp.asarray(homes, jnp.int32)),
        grid=changed(grid, zone=jnp.asarray(buses, jnp.int32)),
        zones=Zones(base, steep, export=export),
    )


def priced_by_contract(m: jg.Market) -> tuple[Any, ...]:
    """What `random_contracts` changes."""
    people, pairs = m.prosumers, m.trading
    charged = pairs.fee_buyer, pairs.toll, pairs.reluctance
    return people.import_adder, people.export_adder, pairs.limit, *charged


def levels(
    counted: np.ndarray,
    adds: np.ndarray,
    carry: np.ndarray,
    start: np.ndarray,
    before: tuple[int, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Levels and rises of caps, step by step, from what is counted (model.md: Caps)."""
    level, rise = np.zeros_like(counted), np.zeros_like(counted)
    for h in range(counted.shape[1]):
        parent = h - 1 if before is None else before[h]
        begun = carry * (start if parent < 0 else level[:, parent])
        level[:, h] = np.where(adds == 1, begun, 0) + counted[:, h]
        rise[:, h] = level[:, h] - begun
    return level, rise


def markets(**fixed: Any) -> st.SearchStrategy[jg.Market]:
    """Random markets by seed; `fixed` goes to `random_market`."""
    return st.integers(0, 999).map(lambda seed: random_market(seed, **fixed))


ADVERSE = (  # several devices each, none at all, one hour, a day of quarter-hours, a longer feeder
    Shape(3, 4, 3, 5, 5, 2),
    Shape(4, 3, 4, 0, 0, 0),
    Shape(4, 1, 4, 4, 2, 5),
    Shape(2, 96, 2, 1, 2, 1),
    Shape(6, 4, 7, 4, 3, 9),
)


def adversarial_market(seed: int, *, shape: Shape, grid: GridWord) -> jg.Market:
    """A market drawn to be awkward: a random one after some of `TORMENTS`.

    What each does is drawn from `seed`; it may be infeasible.
    """
    rng = np.random.default_rng([seed, 2])
    market = random_market(seed, shape=shape, grid=grid, hour_length=24 / max(shape.hours, 24))
    for torment in TORMENTS:
        if chance(rng, 0.3):
            market = torment(rng, market)
    return market


def _changed(market: jg.Market, **fields: Any) -> jg.Market:
    """The market with other numbers in some fields, `table__field=values`."""
    for name, values in fields.items():
        table, field = name.split("__")

        def where(m: jg.Market, table: str = table, field: str = field) -> Any:
            return getattr(getattr(m, table), field)

        old = where(market)
        new = jnp.asarray(np.broadcast_to(np.asarray(values, old.dtype), old.shape))
        market = eqx.tree_at(where, market, new)
    return market


def nine_decades(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Prosumers from MW to mW, their devices and trades with them; one keeps its size."""
    people, units, stores, pairs = (
        market.prosumers, market.generators, market.buffers, market.trading,
    )  # fmt: skip
    size = 10.0 ** rng.uniform(-7, 2, people.bus.shape[0])
    size[rng.integers(len(size))] = 1.0
    each, makes, stored = size[:, None], size[units.owner][:, None], size[stores.owner][:, None]
    small = np.minimum(size[pairs.buyer], size[pairs.seller])
    return _changed(
        market,
        **{f"prosumers__{name}": each * np.asarray(getattr(people, name))
           for name in ("load", "reactive", "import_max", "export_max", "curtail_max")},
        **{f"generators__{name}": makes * np.asarray(getattr(units, name))
           for name in ("power_min", "power_max")},
        generators__quadratic=np.asarray(units.quadratic) / makes[:, 0],
        **{f"buffers__{name}": stored * np.asarray(getattr(stores, name))
           for name in ("charge_max", "discharge_max", "energy_min", "energy_max", "drain")},
        buffers__energy_start=stored[:, 0] * np.asarray(stores.energy_start),
        buffers__quadratic=np.asarray(stores.quadratic) / stored[:, 0],
        trading__limit=np.asarray(pairs.limit) * small[:, None],
        trading__quadratic=np.asarray(pairs.quadratic) / np.maximum(small, 1e-9),
        tariff__slope=np.asarray(market.tariff.slope) / max(size.mean(), 1.0),
        tariff__export=np.minimum(market.tariff.export, market.tariff.base - 0.01),
        tariff__total_min=-np.inf,
        tariff__total_max=np.inf,
        grid__resistance=np.asarray(market.grid.resistance) / max(size.max(), 1.0),
        grid__reactance=np.asarray(market.grid.reactance) / max(size.max(), 1.0),
        grid__rating=np.asarray(market.grid.rating) * size.max(),
    )  # fmt: skip


def free_energy(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Prices of the main grid that are zero, negative or flat; sometimes nothing costs anything."""
    kind, hours = rng.integers(4), market.prosumers.load.shape[1]
    base = (np.zeros(hours), -rng.uniform(0, 0.2, hours), rng.uniform(-0.1, 0.2, hours))[kind % 3]
    slope = np.asarray(market.tariff.slope) * rng.integers(0, 2, hours)
    slope = slope if kind == 2 else 0 * slope
    market = _changed(
        market, tariff__base=base, tariff__slope=slope, tariff__export=np.minimum(base, 0) - 0.01
    )
    if kind < 3:
        return market
    costs = {
        "generators": ("linear", "quadratic"),
        "buffers": ("linear", "quadratic", "final_value"),
        "trading": ("fee_buyer", "fee_seller", "toll", "quadratic"),
    }
    gone = {f"{t}__{f}": 0.0 for t, fields in costs.items() for f in fields}
    return _changed(market, **gone, tariff__base=0.0, tariff__export=0.0)


def no_room(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Bounds of zero width: generators that must run, full batteries, shut pairs and imports."""
    units, stores, pairs = market.generators, market.buffers, market.trading
    runs = rng.uniform(size=units.power_max.shape) < 0.3
    idle = rng.uniform(size=stores.charge_max.shape) < 0.3
    shut = rng.uniform(size=pairs.limit.shape) < 0.3
    return _changed(
        market,
        generators__power_min=np.where(runs, units.power_max, units.power_min),
        buffers__charge_max=np.where(idle, 0.0, stores.charge_max),
        buffers__discharge_max=np.where(idle, 0.0, stores.discharge_max),
        trading__limit=np.where(shut, 0.0, pairs.limit),
        prosumers__curtail_max=0.0 * np.asarray(market.prosumers.curtail_max),
    )


def ties(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Generators that cost just what the main grid does, batteries and trades alike."""
    cost = float(np.asarray(market.tariff.base).max(initial=0.05))
    return _changed(
        market,
        tariff__base=cost,
        tariff__slope=np.asarray(market.tariff.slope) * rng.integers(0, 2),
        tariff__export=cost - 0.02,
        generators__linear=cost,
        generators__quadratic=0.0,
        buffers__linear=0.0,
        buffers__quadratic=0.0,
        trading__toll=0.01,
        trading__fee_buyer=0.0,
        trading__fee_seller=0.0,
        trading__quadratic=0.0,
    )


def stretched(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Impedances a thousandfold apart, the same in the mean."""
    grid = market.grid
    factor = 10.0 ** rng.uniform(-1.5, 1.5, grid.resistance.shape)
    factor /= max(factor.mean(), 1.0) if len(factor) else 1.0
    return _changed(
        market,
        grid__resistance=factor * np.asarray(grid.resistance),
        grid__reactance=factor * np.asarray(grid.reactance),
    )


def huge_limits(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """No limit, written as 1e6, 1e8 or 1e9 kW; trades are free half of the time."""
    huge = 10.0 ** rng.choice([6, 8, 9])
    pairs = market.trading
    free = 0.0 if chance(rng, 0.5) else 1.0
    total = np.asarray(market.tariff.total_max)
    return _changed(
        market,
        prosumers__import_max=huge,
        trading__limit=np.where(np.asarray(pairs.limit) > 0, huge, 0.0),
        trading__fee_seller=pairs.fee_buyer,  # else they run in circles
        trading__toll=free * np.asarray(pairs.toll),
        grid__rating=np.where(np.isinf(market.grid.rating), huge, market.grid.rating),
        tariff__total_max=np.where(np.isinf(total), huge, total),
    )


def at_the_edge(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """The least limit on the total, or rating of a line, that is possible, 1e-4 more or less."""
    share = 1 + rng.choice([-1e-4, 1e-4])
    lines = market.grid.source.shape[0]
    if market.grid.model.name != "copperplate" and lines and chance(rng, 0.5):
        line = int(rng.integers(lines))
        least = least_peak(market, line)
        if least is None or not least > 1e-3 * float(np.abs(market.prosumers.load).max()):
            return market
        rating = np.array(market.grid.rating)
        rating[line] = share * least
        return _changed(market, grid__rating=rating)
    least = least_peak(market, None)
    if least is None or not least > 0:
        return market
    return _changed(market, tariff__total_min=-np.inf, tariff__total_max=share * least)


def own_contracts(rng: np.random.Generator, market: jg.Market) -> jg.Market:
    """Prosumers who pay more or less than the main grid asks, one far more; and are paid less."""
    count = (market.prosumers.bus.shape[0], 1)
    size = max(float(np.abs(market.tariff.base).max()), 0.01)
    adders = rng.uniform(-0.5, 2.0, count) * size * (rng.uniform(size=count) < 0.7)
    adders[rng.integers(count[0])] *= rng.choice([1.0, 10.0])
    paid = np.minimum(adders, 0.0) - rng.uniform(0.0, 0.5, count) * size
    return _changed(market, prosumers__import_adder=adders, prosumers__export_adder=paid)


TORMENTS = (
    *(nine_decades, free_energy, no_room, ties, stretched, huge_limits, at_the_edge),
    own_contracts,
)


def anything(market: jg.Market, seed: int) -> tuple[jg.Plan, jg.Rows]:
    """A plan and prices that nobody asked for."""
    rng = np.random.default_rng(seed)

    def drawn(tree, size):
        return jax.tree.map(lambda a: jnp.asarray(size * rng.standard_normal(a.shape)), tree)

    return drawn(model.zeros(market), 10.0), drawn(model.rows_like(market), 0.3)
