"""Limits that many share, by what they are for: rows of `Caps`, made of a market and a number.

    market = jg.capped(market, jg.caps.carbon(market, 120.0, grid=0.4), jg.caps.ramp(market, 25.0))

All run on the host. Amounts are of the whole horizon or of a step, as each says; what a limit costs
is told by `clearing.prices.cap`, EUR per unit, and by `jg.settle` (model.md: Caps, Money). Where
steps make a tree the horizon is each path of it, and the step before is the one that a step begins
from.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .arrays import by_hour, by_row, promoted
from .each import for_one
from .market import Market
from .names import owners, rows_of
from .record import changed
from .succession import earlier, leaves, roots
from .tables import QUANTITIES, Caps, device_buses
from .unbalance import unbalance as unbalance

_NET = {"imports": 1.0, "exports": -1.0}  # what goes through the transformer


@for_one()
def carbon(
    market: Market,
    most: float = np.inf,
    *,
    grid: Any,
    generators: Any = 0.0,
    price: float = 0.0,
    members: Iterable[int | str] | None = None,
    passive: bool = True,
    name: str = "carbon",
) -> Caps:
    """At most `most` kg of CO2 over the horizon, and `price` EUR for each (docs/carbon.md).

    What prosumers buy of the main grid makes `grid` kg/kWh (one number, or by step), what each
    generator makes `generators` kg/kWh (one number, or by row). `members` are the prosumers that
    count, by number or name, all by default; the passive load counts beside them unless
    `passive=False`. In a tree of steps the limit holds on each path, not on average. Raises
    `ValueError` for numbers that do not fit, and for prosumers that there are not.
    """
    if not 0 <= price < np.inf:
        raise ValueError(f"carbon: price={price!r}; give EUR/kg, 0 or more.")
    lengths, hours = _lengths(market)
    by_step = by_hour("carbon: grid", grid, 1, hours, "market")[0] * lengths
    own = _rows(market, "carbon", "imports", members)
    made = _rows(market, "carbon", "generation", members)
    count = np.shape(market.generators.owner)[0]
    per_unit = np.asarray(by_row("carbon: generators", generators, count, "generator"))[made]
    weight = np.concatenate(
        [np.broadcast_to(by_step, (len(own), hours)), per_unit[:, None] * lengths]
    )
    return Caps(
        _at_the_end(market, "carbon", most),
        hours=hours,
        base=(by_step * _passive(market))[None] if passive else 0.0,
        carry=1.0,
        price=price,
        carbon=[1],
        cap=np.zeros(len(weight), int),
        quantity=np.repeat(
            [QUANTITIES.index("imports"), QUANTITIES.index("generation")], [len(own), len(made)]
        ),
        row=np.concatenate([own, made]),
        weight=weight,
        names=(name,),
        units=("kg",),
    )


@for_one()
def budget(
    market: Market,
    most: float,
    *,
    of: str | Mapping[str, float] = "imports",
    members: Iterable[int | str] | None = None,
    buses: Iterable[Any] | None = None,
    devices: Iterable[int | str] | None = None,
    name: str = "budget",
) -> Caps:
    """At most `most` kWh over the horizon, each path of it.

    `of`, `members`, `buses` and `devices` say whose and of what, as in `group`.
    """
    lengths, hours = _lengths(market)
    return Caps(
        _at_the_end(market, "budget", most),
        hours=hours,
        carry=1.0,
        **_terms(market, "budget", of, members, buses, devices, lengths),
        names=(name,),
        units=("kWh",),
    )


@for_one()
def group(
    market: Market,
    most: Any,
    *,
    of: str | Mapping[str, float] = "imports",
    members: Iterable[int | str] | None = None,
    buses: Iterable[Any] | None = None,
    devices: Iterable[int | str] | None = None,
    name: str = "group",
) -> Caps:
    """At most `most` kW of some together in each step: one number, or by step.

    `of` is what counts: "imports", "exports", "generation", "charge", "discharge", "load" (of a
    prosumer without its devices, and what it curtails) or "reactive" (of that, kvar), or several
    with what a kW of each counts, as {"imports": 1, "exports": -1}. `members` are prosumers,
    `buses` where they are, `devices` rows of generators or buffers, each by number or name; all by
    default. So what the operator may dim at a bus by the German EnWG, section 14a, heat pumps and
    chargers, is `group(market, 12.0, of="charge", buses=["17"], devices=pumps_and_chargers)`.
    """
    _, hours = _lengths(market)
    return Caps(
        by_hour("group: most", most, 1, hours, "cap"),
        hours=hours,
        **_terms(market, "group", of, members, buses, devices, np.ones(hours)),
        names=(name,),
        units=("kW",),
    )


@for_one()
def ramp(
    market: Market,
    most: Any,
    *,
    start: float | None = None,
    passive: bool = True,
    name: str = "ramp",
) -> Caps:
    """The net exchange of all with the main grid changes by at most `most` kW a step, either way.

    One number, or by step. `start` is that exchange before the first step, kW, into which any
    change is allowed by default. Passive load counts unless `passive=False`. In a tree each step
    changes from the one that it begins from.
    """
    _, hours = _lengths(market)
    by = np.array(by_hour("ramp: most", most, 1, hours, "cap"))
    if start is None:
        by[:, roots(market.before, hours)] = np.inf
    if not np.all(by >= 0):
        raise ValueError("ramp: most must be 0 or more, in kW a step.")
    return Caps(
        [np.inf],
        hours=hours,
        rise_min=-by,
        rise_max=by,
        carry=1.0,
        start=0.0 if start is None else start,
        adds=[0],
        **_whole_exchange(market, "ramp", passive, name),
    )


@for_one()
def demand_charge(
    market: Market,
    price: Any,
    *,
    prosumers: Iterable[int | str] | None = None,
    free: Any = 0.0,
    name: str = "demand charge",
) -> Caps:
    """Each of `prosumers` (all by default) pays `price` EUR per kW of its own highest import.

    Prosumers are given by number or name. One price, or one a prosumer; of what is above `free` kW,
    which was paid for before. One cap a prosumer, who owns it. In a tree it is the highest of each
    path, and counts as often as that does. Raises `ValueError` where weights say otherwise, steps
    that others begin from one number and these another.
    """
    people = np.shape(market.prosumers.bus)[0]
    names, called = market.prosumers.names, owners(market).prosumer
    asked = range(people) if prosumers is None else prosumers
    own = rows_of("demand_charge: prosumers", "prosumer", asked, names, people)
    count = len(own)
    return _peaks(
        market,
        by_row("demand_charge: price", price, count, "prosumer"),
        by_row("demand_charge: free", free, count, "prosumer"),
        owner=own,
        cap=np.arange(count),
        quantity=np.full(count, QUANTITIES.index("imports")),
        row=own,
        names=tuple(f"{name} of {called(i)}" for i in own),
        units=("kW",) * count,
    )


@for_one()
def total_demand_charge(
    market: Market,
    price: float,
    *,
    free: float = 0.0,
    passive: bool = True,
    name: str = "demand charge",
) -> Caps:
    """All together pay `price` EUR per kW of their highest net exchange with the main grid.

    Of what is above `free` kW, by the price of the cap in the steps of the peak. Passive load
    counts unless `passive=False`. In a tree it is the highest of each path, as in `demand_charge`.
    """
    return _peaks(
        market,
        by_row("total_demand_charge: price", price, 1, "cap"),
        by_row("total_demand_charge: free", free, 1, "cap"),
        **_whole_exchange(market, "total_demand_charge", passive, name),
    )


def joined(*tables: Caps) -> Caps:
    """Rows of several `tables` as one. Raises `ValueError` for other steps and names used twice."""
    if not tables:
        raise ValueError("joined: no caps; give at least one table.")
    steps = {np.shape(table.level_max)[-1] for table in tables}
    if len(steps) > 1:
        raise ValueError(f"joined: caps of {sorted(steps)} steps; give those of one market.")
    names = tuple(name for table in tables for name in table.names)
    twice = next((one for k, one in enumerate(names) if one in names[:k]), None)
    if twice is not None:
        raise ValueError(f"joined: two caps are called {twice!r}; give one another name=.")
    first = np.cumsum([0, *(len(table.names) for table in tables)])
    fields = ("level_max", "level_min", "rise_min", "rise_max", "base", "start", "carry", "slack")
    fields += ("price", "adds", "owner", "carbon", "quantity", "row", "weight")

    def rows(field: str) -> Any:
        return np.concatenate([np.asarray(getattr(table, field)) for table in tables])

    return Caps(
        **{field: rows(field) for field in fields},
        cap=np.concatenate(
            [np.asarray(t.cap) + k for t, k in zip(tables, first, strict=False)]
        ).astype(int),
        names=names,
        units=tuple(unit for table in tables for unit in table.units),
        hours=steps.pop(),
    )


@for_one()
def capped(market: Market, *caps: Caps) -> Market:
    """The market with `caps` beside those that it has.

    Raises `ValueError` where caps have other steps than the market, or a name twice.
    """
    hours = np.shape(market.prosumers.load)[-1]
    for table in caps:
        steps = np.shape(table.level_max)[-1]
        if steps != hours:
            raise ValueError(
                f"capped: caps of {steps} steps for {hours}; make them of this market."
            )
    every = joined(market.caps, *caps)
    return changed(market, caps=promoted(every, market.prosumers.load.dtype))


def _lengths(market: Market) -> tuple[Float[np.ndarray, " H"], int]:
    """Hours of each step, and how many there are."""
    hours = np.shape(market.prosumers.load)[-1]
    return np.broadcast_to(np.asarray(market.hour_length, float), hours), hours


def _passive(market: Market) -> Float[np.ndarray, " H"]:
    return np.asarray(market.grid.passive, float).sum(axis=0)


def _at_the_end(market: Market, caller: str, most: Any) -> Float[np.ndarray, "1 H"]:
    """A level that is limited after the last step of each path."""
    _, hours = _lengths(market)
    limit = by_row(f"{caller}: most", most, 1, "cap")[0]
    return np.where(leaves(market.before, hours), limit, np.inf)[None]


def _peaks(market: Market, price: Any, free: Any, **more: Any) -> Caps:
    """Levels that never fall, and are at least the sum in each step: the highest so far."""
    if not (np.all(np.asarray(price) >= 0) and np.all(np.asarray(free) >= 0)):
        raise ValueError("demand_charge: price (EUR/kW) and free (kW) must be 0 or more.")
    _, hours = _lengths(market)
    weight = np.broadcast_to(np.asarray(market.weight, float), hours)
    follow = weight @ earlier(market.before, hours)
    odd = ~leaves(market.before, hours) & ~np.isclose(follow, weight, rtol=1e-5)
    if np.any(odd):
        step = int(np.argmax(odd))
        raise ValueError(
            f"demand_charge: step {step} has a weight of {weight[step]:.6g}, the steps that begin "
            f"from it {follow[step]:.6g} in all; a peak counts as often as its path, so give them "
            "as much."
        )
    return Caps(
        np.full((len(price), 1), np.inf),
        hours=hours,
        rise_min=0.0,
        start=free,
        carry=1.0,
        slack=np.inf,
        price=price,
        adds=np.zeros(len(price), int),
        **more,
    )


def _whole_exchange(market: Market, caller: str, passive: bool, name: str) -> dict[str, Any]:
    """A level that is the net exchange of all, kW."""
    _, hours = _lengths(market)
    return {
        "base": _passive(market)[None] if passive else 0.0,
        "names": (name,),
        "units": ("kW",),
        **_terms(market, caller, _NET, None, None, None, np.ones(hours)),
    }


def _terms(
    market: Market,
    caller: str,
    of: str | Mapping[str, float],
    members: Iterable[int | str] | None,
    buses: Iterable[Any] | None,
    devices: Iterable[int | str] | None,
    per_kw: Float[np.ndarray, " H"],
) -> dict[str, Any]:
    """The terms of one cap: what a kW counts in each step, times what it counts of its quantity."""
    each = {of: 1.0} if isinstance(of, str) else dict(of)
    found = {name: _rows(market, caller, name, members, buses, devices) for name in each}
    sizes = [len(rows) for rows in found.values()]
    if not sum(sizes):
        raise ValueError(f"{caller}: nobody there has {' or '.join(each)} to count; choose others.")
    return {
        "cap": np.zeros(sum(sizes), int),
        "quantity": np.repeat([QUANTITIES.index(name) for name in found], sizes),
        "row": np.concatenate(list(found.values())),
        "weight": np.repeat(list(each.values()), sizes)[:, None] * per_kw,
    }


def _rows(
    market: Market,
    caller: str,
    quantity: str,
    members: Iterable[int | str] | None = None,
    buses: Iterable[Any] | None = None,
    devices: Iterable[int | str] | None = None,
) -> Int[np.ndarray, " R"]:
    """Rows of what is summed: of these prosumers, at these buses, or these devices."""
    if quantity not in QUANTITIES:
        raise ValueError(f"{caller}: of={quantity!r} is none of {', '.join(QUANTITIES)}.")
    bus = np.asarray(market.prosumers.bus)
    chosen, there = np.ones(len(bus), bool), np.ones(np.shape(market.grid.passive)[0], bool)
    if members is not None:
        people = market.prosumers.names
        chosen &= _among(f"{caller}: members", "prosumer", members, people, len(bus))
    if buses is not None:
        there = _among(f"{caller}: buses", "bus", buses, market.grid.names, len(there))
    if quantity == "trades":
        raise ValueError(f"{caller}: trades have two sides; zones.with_tie_lines counts them.")
    if quantity in ("imports", "exports", "load", "reactive"):
        if devices is not None:
            raise ValueError(f"{caller}: devices have no {quantity}; give members= or buses=.")
        return np.flatnonzero(chosen & there[bus])
    made = quantity == "generation"
    table, at = (market.generators if made else market.buffers), device_buses(market)
    owner = np.asarray(table.owner)
    taken = chosen[owner] & there[np.asarray(at[0 if made else 1])]
    if devices is not None:
        taken &= _among(f"{caller}: devices", "device", devices, table.names, len(owner))
    return np.flatnonzero(taken)


def _among(
    where: str, one: str, which: Any, names: Sequence[str], count: int
) -> Bool[np.ndarray, " R"]:
    """Which of `count` rows are given, by number or name. `ValueError` for any that is not."""
    found = np.zeros(count, bool)
    found[rows_of(where, one, which, names, count)] = True
    return found
