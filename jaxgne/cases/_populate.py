"""Customers for any grid: a stated mix of them with a stated mix of devices."""

from collections.abc import Callable, Mapping
from dataclasses import replace as altered
from typing import Any, get_args

import equinox as eqx
import jax
import numpy as np

from .. import devices
from ..clock import Clock
from ..market import Buffers, Generators, Grid, Market, Prosumers, Tariff, Trading
from ..runner import built, jnp
from ..validation import validate
from .builders import Behavior, Graph, check, choose, pairs_of, tariff
from .customers import KINDS, KVAR_PER_KW, at_buses, daily, shape, sunshine
from .feeders import Floats, Ints
from .given import Given, by_customer, clock_of, steps_given
from .limits import called, servable

Draw = Callable[[float, float], Floats]  # uniform, one number a device


@built
def populate(
    grid: Grid,
    prosumers: int,
    seed: int = 0,
    *,
    photovoltaic: float = 0.6,
    battery: float = 0.5,
    generator: float = 0.25,
    vehicle: float = 0.0,
    heat_pump: float = 0.0,
    shiftable: float = 0.0,
    kinds: Mapping[str, float] | None = None,
    weights: Any = None,
    replace: float | None = 0.6,
    hours: int | None = None,
    hour_length: float = 1.0,
    clock: Clock | None = None,
    load: Any = None,
    generation: Any = None,
    connection_max: Any = None,
    degree: float = 6.0,
    graph: Graph = "random",
    behavior: Behavior = "nash",
) -> Market:
    """A market of `prosumers` customers with devices on your own `grid`, of any model.

    Lines, ratings, voltage limits, names and model stay as they are. Customers are put at buses by
    `weights` (B), by default the highest passive load of each. What those at a bus draw is taken
    off its passive load, and scaled down to the share `replace` of it hour by hour, so that both
    together stay what the grid had. `replace=None` adds them at full size instead, to passive load
    that stays as it is.

    `photovoltaic` to `shiftable` are the shares of prosumers who own such a device, rounded to
    whole owners; all are sized by their owner's highest load. `kinds` gives the shares of customers
    that are a house, apartments, hospital, office, school or restaurant; they sum to 1.

    The market has the hours of `grid.passive`, of `hour_length` h each, the first at midnight, of
    the day that a `clock` says; a grid with a single hour gets a typical day of `hours` that peaks
    there. Trading graph, behavior and prices are those of `synthetic`.

    `load` are profiles of your own, kW before the sun is taken off: one for all, `(1, hours)`, one
    each, `(prosumers, hours)`, as `jaxgne.profiles` gives them; or for some customers by number,
    `{3: kW}`. They bring their clock and stay as they are: more than `replace` of the passive load
    at a bus is refused. With `generation`, given in the same way, the panels are these, whatever
    `photovoltaic` says. `connection_max` is what house connections carry either way, kVA, one
    number or one each (`devices.connection`): each then has a bus of its own.

    Deterministic in `seed`, each kind of device by itself: other shares leave its owners and
    numbers as they were, and a higher share keeps the owners of a lower one.

        market = populate(grid, 200, vehicle=0.3, kinds={"house": 0.9, "office": 0.1})

    Raises `ValueError` for a word or number out of range, and where a line or a voltage could not
    keep its limits whatever the devices do. That looks at every hour by itself; `clear` tells the
    rest.
    """
    check(prosumers=prosumers, degree=degree)
    choose("graph", graph, get_args(Graph))
    choose("behavior", behavior, get_args(Behavior))
    if not (0 < hour_length <= 6 and np.isclose(12 / hour_length, round(12 / hour_length))):
        raise ValueError(
            f"hour_length={hour_length:g}: give a part of 12 hours, such as 0.25, 1, 3 or 6."
        )
    shares = _shares(
        photovoltaic=photovoltaic, battery=battery, generator=generator, vehicle=vehicle,
        heat_pump=heat_pump, shiftable=shiftable,
    )  # fmt: skip
    streams = ("customers", "trading", *shares)  # a new one goes to the end
    rng = {name: np.random.default_rng([seed, k]) for k, name in enumerate(streams)}
    own = {"load": load, "generation": generation}
    clock = clock_of(clock, hour_length, own)
    grid = _over_hours(grid, steps_given(hours, own), hour_length)
    mine, sun = (
        by_customer(name, value, prosumers, grid.passive.shape[1]) for name, value in own.items()
    )
    _check_clock(clock, grid.passive.shape[1], hour_length)
    people, left = _settle(
        grid, prosumers, kinds, weights, replace, hour_length, rng["customers"], mine
    )
    steps, size = people.load.shape[1], np.asarray(people.load).max(axis=1)
    owned = {name: _owned(share, size, rng[name]) for name, share in shares.items()}
    buffers = devices.join(
        _batteries(*owned["battery"], steps),
        _vehicles(*owned["vehicle"], steps, hour_length),
        _heat_pumps(*owned["heat_pump"], steps, hour_length),
        _shiftables(*owned["shiftable"], steps, hour_length),
    )
    market = Market(
        _under_sun(people, owned["photovoltaic"][0], hour_length, rng["photovoltaic"], sun),
        left,
        _prices(people, left, hour_length, behavior),
        _generators(*owned["generator"], steps),
        buffers,
        Trading(*pairs_of(graph, prosumers, degree, rng["trading"]), 30.0, toll=0.01),
        hour_length=hour_length,
        clock=clock,
    )
    if connection_max is not None:
        market = devices.connection(market, None, connection_max)
    return servable(validate(market))


def _check_clock(clock: Clock | None, hours: int, hour_length: float) -> None:
    """`ValueError` unless the hours of the day are those that devices and loads here go by."""
    passed = hour_length * np.arange(hours)
    if clock is not None and not np.allclose(clock.local(passed), passed, atol=1e-3):
        raise ValueError(
            f"clock={clock}: give one that begins at midnight, in a zone whose clocks do not "
            "change within the hours."
        )


def _shares(**shares: float) -> dict[str, float]:
    """The shares of prosumers who own each kind of device, each from 0 to 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share:g}: give a share from 0 to 1: 0.3, not 30.")
    return shares


def _owned(share: float, size: Floats, rng: np.random.Generator) -> tuple[Ints, Floats, Draw]:
    """Owners of a kind of device, their sizes, and how to draw numbers for them.

    A prosumer's numbers do not depend on how many own such a device.
    """
    count = len(size)
    who = np.sort(rng.permutation(count)[: round(share * count)])
    return who, size[who], lambda low, high: rng.uniform(low, high, count)[who]


def _over_hours(grid: Grid, hours: int | None, hour_length: float) -> Grid:
    """Passive loads of one hour as a typical day's; of several, they must be as many as asked."""
    given = grid.passive.shape[1]
    if hours in (None, given):
        return grid
    check(hours=hours)
    if given != 1:
        raise ValueError(
            f"hours={hours}: Grid.passive has {given} hours; leave `hours` out, or give one hour, "
            "the highest load of a day."
        )
    day = shape("passive", hours, hour_length)
    return altered(grid, passive=grid.passive * day, passive_reactive=grid.passive_reactive * day)


def _settle(
    grid: Grid,
    count: int,
    kinds: Mapping[str, float] | None,
    weights: Any,
    replace: float | None,
    hour_length: float,
    rng: np.random.Generator,
    own: Given | None,
) -> tuple[Prosumers, Grid]:
    """Customers without devices, and the grid with the passive load that they leave."""
    passive = np.asarray(grid.passive, float)
    buses, hours = passive.shape
    if replace is not None and not 0 < replace <= 1:
        raise ValueError(
            f"replace={replace:g}: give a share above 0, up to 1 (0.6, not 60), or None to add "
            "customers to the passive load."
        )
    weight = passive.max(axis=1).clip(min=0.0) if weights is None else np.asarray(weights, float)
    if weight.shape != (buses,) or not np.all(np.isfinite(weight) & (weight >= 0)):
        raise ValueError(f"weights: give each of the {buses} buses a finite number of at least 0.")
    if not weight.sum() > 0:
        fix = "Grid.passive has no load to put customers at" if weights is None else "all are 0"
        raise ValueError(f"weights: {fix}; give the buses that get customers a positive one.")
    bare = (weight > 0) & (passive.max(axis=1) <= 0)
    if replace is not None and np.any(bare):
        raise ValueError(
            f"weights: {called(grid, int(np.argmax(bare)))} has no passive load that customers "
            "could take over; give it 0, or add them with replace=None."
        )
    bus = rng.choice(buses, count, p=weight / weight.sum())
    kind = rng.permutation(_kinds(kinds, count))
    nominal = np.array([peak for peak, _ in KINDS.values()])
    gross = daily(kind, nominal[kind] * rng.uniform(0.75, 1.25, count), hours, hour_length, rng)
    made = np.ones(count, bool)
    if own is not None:
        gross[own.rows], made[own.rows] = own.kw, False
    if replace is None:
        return Prosumers(bus, gross, KVAR_PER_KW * gross), grid
    room = replace * np.maximum(passive, 0.0)
    if own is not None:
        room -= at_buses(buses, bus[own.rows], own.kw)
        _check_room(grid, room, replace)
    asked = at_buses(buses, bus[made], gross[made])
    gross[made] *= np.minimum(1.0, room / np.maximum(asked, 1e-9))[bus[made]]
    kvar = np.asarray(grid.passive_reactive) / np.where(passive > 0, passive, 1.0)
    reactive = kvar[bus] * gross
    left = altered(
        grid,
        passive=passive - at_buses(buses, bus, gross),
        passive_reactive=grid.passive_reactive - at_buses(buses, bus, reactive),
    )
    return Prosumers(bus, gross, reactive), left


def _check_room(grid: Grid, room: Floats, replace: float) -> None:
    """`ValueError` where loads that are given leave none of the passive load's share."""
    short = np.argwhere(room < -1e-9 * np.max(np.abs(grid.passive)))
    if short.size:
        at, hour = short[0]
        raise ValueError(
            f"load: customers at {called(grid, int(at))} draw {-room[at, hour]:.4g} kW more in "
            f"hour {hour} than replace={replace:g} of its passive load; add them with "
            "replace=None, or put them elsewhere by weights."
        )


def _kinds(kinds: Mapping[str, float] | None, count: int) -> Ints:
    """The kind of each of `count` customers in order, every share within one customer of exact."""
    given = {name: share for name, (_, share) in KINDS.items()} if kinds is None else kinds
    for name, share in given.items():
        choose("kinds", name, tuple(KINDS))
        if not 0 <= share <= 1:
            raise ValueError(
                f"kinds: {share:g} of {name!r}; give a share from 0 to 1: 0.3, not 30."
            )
    if abs(sum(given.values()) - 1) > 1e-6:
        raise ValueError(f"kinds: the shares sum to {sum(given.values()):g}; they must sum to 1.")
    ends = np.cumsum([0.0, *(given.get(name, 0.0) for name in KINDS)])
    return np.repeat(np.arange(len(KINDS)), np.diff(np.rint(ends * count).astype(int)))


def _under_sun(
    people: Prosumers,
    owner: Ints,
    hour_length: float,
    rng: np.random.Generator,
    own: Given | None,
) -> Prosumers:
    """The panels that are given, else some of 0.3 to 0.9 of the owner's highest load."""
    if own is not None:
        return devices.photovoltaic(people, own.rows, generation=own.kw)
    count, hours = people.load.shape
    panels = rng.uniform(0.3, 0.9, count) * np.asarray(people.load).max(axis=1)
    sun = sunshine(panels, hours, hour_length, rng)[owner]
    return devices.photovoltaic(people, owner, generation=sun)


def _generators(owner: Ints, size: Floats, draw: Draw, hours: int) -> Generators:
    """0.8 of the owner's highest load; a kWh costs 0.08 to 0.14 EUR, the last 0.08 to 0.12 more."""
    power = 0.8 * size
    return devices.generator(
        owner,
        power=power[:, None],
        hours=hours,
        linear=draw(0.08, 0.14),
        quadratic=draw(0.04, 0.06) / power,
    )


def _batteries(owner: Ints, size: Floats, draw: Draw, hours: int) -> Buffers:
    """0.2 to 0.4 of the owner's highest load, for two to three hours; half full at both ends."""
    power = draw(0.2, 0.4) * size
    capacity = draw(2.0, 3.0) * power
    return devices.battery(owner, power=power[:, None], capacity=capacity, hours=hours, final=0.5)


def _vehicles(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """Cars (27 to 90 kWh at a house of 4.5 to 7.5 kW) that charge in eight hours.

    They leave at 6 to 8 o'clock with 0.8 of that at least, and are back at 16 to 20, having used
    0.1 to 0.3 of it.
    """
    capacity = draw(6.0, 12.0) * size
    departure, arrival = draw(6, 9).astype(int), draw(16, 21).astype(int)
    day = devices.vehicle(
        owner,
        power=capacity[:, None] / 8,
        capacity=capacity,
        arrival=_edge(arrival, hour_length, np.ceil),
        departure=_edge(departure, hour_length, np.floor),
        hours=round(24 / hour_length),
        hour_length=hour_length,
        trip=draw(0.1, 0.3) * capacity,
        final=0.5,
    )
    days = -(-hours * hour_length // 24)  # a day ends as it began, so it may be repeated
    return jax.tree.map(lambda a: jnp.tile(a, (1, int(days)))[:, :hours] if a.ndim == 2 else a, day)


def _heat_pumps(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """They hold 20 to 22 degC on a day of 2 to 10, with half again the power that takes."""
    clock = np.arange(hours) * hour_length
    outdoor = 6 + 4 * np.cos(2 * np.pi * (clock - 15) / 24)
    loss, cop = draw(0.02, 0.04) * size, draw(2.8, 3.8)  # kW/K
    return devices.heat_pump(
        owner,
        power=(1.5 * 20 * loss / cop)[:, None],
        cop=cop[:, None],
        outdoor=outdoor[None],
        resistance=1 / loss,
        capacity=draw(40, 80) * loss,
        hours=hours,
        hour_length=hour_length,
    )


def _shiftables(owner: Ints, size: Floats, draw: Draw, hours: int, hour_length: float) -> Buffers:
    """One run a day of two hours at most, within a window from the morning until 18 to 22 o'clock.

    A row for each owner and day whose window ends within the hours.
    """
    power = 0.25 * size
    energy = draw(0.8, 2.0) * power
    earliest, latest = draw(6, 13).astype(int), draw(18, 23).astype(int)
    midnights = np.arange(0, hours * hour_length, 24)
    first, end = (
        np.add.outer(_edge(hour, hour_length, side), midnights)
        for hour, side in ((earliest, np.ceil), (latest, np.floor))
    )
    who, day = np.nonzero(end <= hours * hour_length * (1 + 1e-9))
    return devices.shiftable(
        owner[who],
        energy=energy[who],
        power=power[who, None],
        earliest=first[who, day],
        latest=end[who, day],
        hours=hours,
        once=True,
        hour_length=hour_length,
    )


def _edge(clock: Ints, hour_length: float, side: Callable[[Floats], Floats]) -> Floats:
    """The hour at which a step begins, at an hour of the day or next to it on one side."""
    return side(np.round(clock / hour_length, 6)) * hour_length


def _prices(people: Prosumers, grid: Grid, hour_length: float, behavior: Behavior) -> Tariff:
    """As in the built-in cases; exports earn less in hours when passive buses feed in."""
    passive = np.asarray(grid.passive)
    total = np.maximum(passive, 0.0).sum(axis=0) + np.asarray(people.load).sum(axis=0)
    made = tariff(total.max(), len(total), hour_length, behavior)
    export = made.export + made.slope * np.minimum(passive.sum(axis=0), 0.0)
    return eqx.tree_at(lambda t: t.export, made, export)
