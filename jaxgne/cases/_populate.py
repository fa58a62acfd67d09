"""Customers for any grid: a stated mix of them with a stated mix of devices."""

from collections.abc import Mapping
from dataclasses import replace as altered
from typing import Any, get_args

import equinox as eqx
import numpy as np

from .. import devices
from ..clock import Clock
from ..market import Grid, Market, Prosumers, Tariff, Trading
from ..runner import built
from ..validation import validate
from .customers import KINDS, KVAR_PER_KW, at_buses, daily, shape, sunshine
from .days import Behavior, Graph, check, check_parts, choose, pairs_of, tariff
from .feeders import Floats, Ints
from .given import Given, by_customer, clock_of, steps_given
from .limits import called, servable
from .owned import batteries, generators, heat_pumps, owned_by, shiftables, vehicles


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

    `photovoltaic`, `battery`, `generator`, `vehicle`, `heat_pump` and `shiftable` are the shares of
    prosumers who own such a device, rounded to whole owners; all are sized by their owner's highest
    load. `kinds` gives the shares of customers that are a house, apartments, hospital, office,
    school or restaurant; they sum to 1.

    The market has the hours of `grid.passive`, of `hour_length` h each, the first at midnight, of
    the day that a `clock` says; a grid with a single hour gets a typical day of `hours` that peaks
    there. Trading `graph`, behavior and prices are those of `synthetic`.

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
    check_parts(hour_length)
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
    owned = {name: owned_by(share, size, rng[name]) for name, share in shares.items()}
    buffers = devices.join(
        batteries(*owned["battery"], steps),
        vehicles(*owned["vehicle"], steps, hour_length),
        heat_pumps(*owned["heat_pump"], steps, hour_length),
        shiftables(*owned["shiftable"], steps, hour_length),
    )
    market = Market(
        _under_sun(people, owned["photovoltaic"][0], hour_length, rng["photovoltaic"], sun),
        left,
        _prices(people, left, hour_length, behavior),
        generators(*owned["generator"], steps),
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


def _prices(people: Prosumers, grid: Grid, hour_length: float, behavior: Behavior) -> Tariff:
    """As in the built-in cases; exports earn less in hours when passive buses feed in."""
    passive = np.asarray(grid.passive)
    total = np.maximum(passive, 0.0).sum(axis=0) + np.asarray(people.load).sum(axis=0)
    made = tariff(total.max(), len(total), hour_length, behavior)
    export = made.export + made.slope * np.minimum(passive.sum(axis=0), 0.0)
    return eqx.tree_at(lambda t: t.export, made, export)
