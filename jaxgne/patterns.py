"""Patterns of on/off units: when each may be on, and the cheapest pattern at given values.

A generator, or an elastic load as `jg.devices.elastic` makes them, is off, at 0 kW, or on, within
its bounds. Once on it stays so for some steps, once off as well, and a start costs money. Where
each step says what being on is worth, the cheapest pattern of a unit is that of a small dynamic
program, whose state is on or off and how many steps it has to stay so.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .arrays import by_row
from .each import for_one
from .market import Market
from .names import device_names, rows_of
from .record import Record, changed
from .runner import built, jnp, lax, to_device


class Units(Record):
    """On/off units, one row each: which `generator` it is, and what it is held to.

    On, its power is from `low` to `high` (negative for what draws), off it is 0; in steps in which
    `low` is above `high` it is off. A start costs `start_cost` EUR. It stays on for `up` steps at
    least, off for `down`; what is left of these after the last step does not count. `on` is its
    state before the first step, in which it has been for long.
    """

    generator: Int[Array, " U"]
    low: Float[Array, "U H"]  # kW
    high: Float[Array, "U H"]  # kW
    up: Int[Array, " U"]  # steps
    down: Int[Array, " U"]  # steps
    start_cost: Float[Array, " U"]  # EUR
    on: Bool[Array, " U"]


@for_one()
def units(
    market: Market,
    generators: Any = None,
    *,
    minimum: Any = None,
    up: Any = 1,
    down: Any = 1,
    start_cost: Any = 0.0,
    on: Any = False,
) -> Units:
    """A table of on/off units: these `generators` of a market, by number or name; all by default.

    On, a unit makes at least `minimum` kW, or draws as much where its bounds are those of a load;
    by default what its own `power_min` says. It stays on for `up` steps at least and off for
    `down`, a start costs `start_cost` EUR, and `on` says whether it is on before the first step.
    Each is one number, or one a unit.

    Raises `ValueError` for generators that there are not or that are given twice, for one that both
    makes and draws, one whose cost is a curve, numbers that are negative or not finite, and a
    `minimum` that no step allows.
    """
    table = market.generators
    count, names = len(table.owner), device_names("generator", table)
    given = range(count) if generators is None else generators
    rows = np.array(rows_of("units: generators", "generator", given, names, count), int)
    name = [names[row] for row in rows.tolist()]
    number = len(rows)
    for k in range(1, number):
        if rows[k] in rows[:k]:
            raise ValueError(f"units: generators: {name[k]} is given twice; give each once.")

    def read(word: str, value: Any, least: float) -> np.ndarray:
        found = np.array(by_row(f"units: {word}", value, number, "unit"), float)
        wrong = ~(np.isfinite(found) & (found >= least))
        if np.any(wrong):
            k = int(np.argmax(wrong))
            raise ValueError(
                f"units: {word} of {name[k]} is {found[k]:g}; give a number from {least:g}."
            )
        return found

    low, high = (np.array(getattr(table, f"power_{end}"), float)[rows] for end in ("min", "max"))
    makes = np.all(low >= 0, axis=1)
    both = ~makes & ~np.all(high <= 0, axis=1)
    if np.any(both):
        raise ValueError(
            f"units: {name[int(np.argmax(both))]} both makes and draws power; give a unit bounds "
            "of one sign, Generators.power_min and power_max."
        )
    if minimum is not None:
        least = read("minimum", minimum, 0.0)[:, None]
        low = np.where(makes[:, None], least, low)
        high = np.where(makes[:, None], high, -least)
    never = ~np.any(low <= high, axis=1)
    if np.any(never):
        k = int(np.argmax(never))
        most = np.abs(np.where(makes[k], high[k], low[k])).max()
        raise ValueError(
            f"units: minimum of {name[k]} is above the {most:g} kW that it may have in any step; "
            "lower it, or raise its bound."
        )
    bent = np.zeros(count, bool)
    for curve in table.curves:
        for numbers in vars(curve).values():
            bent |= np.asarray(numbers) != 0
    if np.any(bent[rows]):
        raise ValueError(
            f"units: the cost of {name[int(np.argmax(bent[rows]))]} is a curve; give units linear "
            "and quadratic costs."
        )
    dtype = table.power_max.dtype
    return Units(
        generator=to_device(rows.astype(np.int32)),
        low=to_device(low.astype(dtype)),
        high=to_device(high.astype(dtype)),
        up=to_device(np.ceil(read("up", up, 1.0)).astype(np.int32)),
        down=to_device(np.ceil(read("down", down, 1.0)).astype(np.int32)),
        start_cost=to_device(read("start_cost", start_cost, 0.0).astype(dtype)),
        on=to_device(np.array(by_row("units: on", np.asarray(on, float), number, "unit")) > 0),
    )


def starts(units: Units, on: Bool[Any, "U H"]) -> Bool[np.ndarray, "U H"]:
    """In which steps of a pattern each unit is switched on."""
    now = np.asarray(on)
    return now & ~np.concatenate([np.asarray(units.on)[:, None], now[:, :-1]], axis=1)


@built
def cheapest(
    units: Units, worth: Float[Any, "U H"]
) -> tuple[Bool[Array, "U H"], Float[Array, " U"]]:
    """The pattern of each unit that costs least, and what it costs with its starts, EUR.

    `worth` is what each step costs where the unit is on, infinite where it cannot be; off costs
    nothing. Backward over the steps, of a unit that is on or off (s) and has to stay so for r steps
    more,

        V_h(s, r) = cost_h(s) + V_h+1(s, r - 1),   r > 0,
        V_h(s, 0) = cost_h(s) + min( V_h+1(s, 0), start + V_h+1(other s, its length - 1) ).
    """
    count, hours = worth.shape
    stays = jnp.stack([units.down, units.up], axis=1) - 1
    longest = 1 + max(int(np.max(np.asarray(stays), initial=0)), 0)
    dear = jnp.stack([units.start_cost, jnp.zeros_like(units.start_cost)], axis=1)
    none = jnp.zeros_like(units.start_cost)

    def back(ahead: Array, cost: Array) -> tuple[Array, Array]:
        entered = jnp.take_along_axis(ahead, stays[:, :, None], axis=2)[:, :, 0]
        kept, switched = ahead[:, :, 0], entered[:, ::-1] + dear
        after = jnp.concatenate([jnp.minimum(kept, switched)[:, :, None], ahead[:, :, :-1]], axis=2)
        here = jnp.stack([none, cost], axis=1)[:, :, None] + after
        return here, switched < kept

    end = jnp.zeros((count, 2, longest), worth.dtype)
    padded = jnp.concatenate([none[None], worth.T])  # the state before the first step costs nothing
    value, switch = lax.scan(back, end, padded, reverse=True)

    def ahead(state: tuple[Array, Array], switch: Array) -> tuple[tuple[Array, Array], Array]:
        on, left = state
        chosen = jnp.where(on, switch[:, 1], switch[:, 0]) & (left == 0)
        on = on ^ chosen
        held = jnp.where(on, stays[:, 1], stays[:, 0])
        return (on, jnp.where(chosen, held, jnp.maximum(left - 1, 0))), on

    first = (units.on, jnp.zeros_like(units.up))
    _, on = lax.scan(ahead, first, switch[:hours])
    return on.T, jnp.where(units.on, value[:, 1, 0], value[:, 0, 0])


def cost_of(units: Units, worth: Any, on: Any) -> Float[np.ndarray, " U"]:
    """What a pattern costs each unit with its starts, EUR, by what `worth` says of each step."""
    running = np.where(np.asarray(on), np.asarray(worth), 0.0).sum(axis=1)
    return running + np.asarray(units.start_cost) * starts(units, on).sum(axis=1)


def bounded(market: Market, units: Units, low: Any, high: Any) -> Market:
    """The market whose units have these bounds of power, kW."""
    table, rows = market.generators, np.asarray(units.generator)
    bounds = {}
    for end, value in (("min", low), ("max", high)):
        bound = np.array(getattr(table, f"power_{end}"))
        bound[rows] = value
        bounds[f"power_{end}"] = to_device(bound)
    return changed(market, generators=changed(table, **bounds))


def relaxed(market: Market, units: Units) -> Market:
    """The market whose units take any power from 0 to that of being on."""
    low, high = np.asarray(units.low), np.asarray(units.high)
    there = low <= high
    least, most = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return bounded(market, units, np.where(there, least, 0.0), np.where(there, most, 0.0))


def switched(market: Market, units: Units, on: Bool[Any, "U H"]) -> Market:
    """The market whose units are on where the pattern says so, and off elsewhere."""
    chosen = np.asarray(on)
    ends = (np.where(chosen, np.asarray(end), 0.0) for end in (units.low, units.high))
    return bounded(market, units, *ends)
