"""Today as it is: what everyone does at a tariff, without a market, a plan or the network's say.

Cars charge when they arrive, heat pumps hold their temperature, batteries keep the own sun, and
generators that are cheaper than the tariff serve their own house. Nobody trades, and what the
network can carry is nobody's concern (docs/comparison.md).
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from .acflow import drawn
from .arguments import of_tables
from .certificate import certify
from .curves import crossing, curvatures, slopes
from .each import for_each
from .kinds import KINDS
from .linear_flow import grid_state
from .market import Market
from .model import (
    Plan,
    Rows,
    aggregate,
    burdens,
    by_owner,
    costs,
    export_prices,
    grid_price,
    import_prices,
    in_zones,
    members,
    net_load,
    passive_in_zones,
    rows_like,
    zeros,
    zone_totals,
)
from .record import Record
from .result import Clearing
from .runner import jnp
from .status import Status
from .succession import backward, onward
from .tables import has_caps, retained
from .validation import gate

Until = Literal["due", "full"]

_WORDS = ("battery", "vehicle", "shiftable load", "heat pump", "electrolyser")  # what habits know


class Habits(Record):
    """What each buffer does by itself."""

    fills: Bool[Array, " K"]  # charges as soon and as fast as it may: cars, washing machines
    holds: Bool[Array, " K"]  # keeps the content that it begins with: heat pumps, tanks
    keeps: Bool[Array, " K"]  # takes the owner's surplus and gives it back: batteries


@for_each
def habits(market: Market) -> Habits:
    """The habit of each buffer, by its kind, and where that is not told by what it can do.

    Then a battery is what can give back, is there in every step and has nothing drained. Of the
    others, what leaks or is drained in every step holds its content, and the rest fills up.
    """
    stores = market.buffers
    told = [stores.kind == KINDS["buffer"].index(word) for word in _WORDS]
    battery, filling, holding = told[0], told[1] | told[2], told[3] | told[4]
    known = battery | filling | holding
    gives = jnp.any(stores.discharge_max > 0, axis=1)
    away = jnp.any(stores.charge_max <= 0, axis=1)
    can_keep = gives & ~away & ~jnp.any(stores.drain != 0, axis=1)
    leaks = jnp.any(stores.retention < 1, axis=1) | jnp.all(stores.drain != 0, axis=1)
    keeps = jnp.where(known, battery, can_keep)
    holds = jnp.where(known, holding, leaks & ~can_keep)
    return Habits(fills=~holds & ~keeps, holds=holds, keeps=keeps)


@of_tables
def today(market: Market, *, until: Until = "due", price: Any = None) -> Clearing:
    """What everyone does today, and what it costs at the tariff: a clearing for tables and plots.

    `plan_today` says what that is, and what `until` and `price` are. Nothing is traded, limits and
    the network have no price, and `settle` gives bills by the tariff alone. `prices.balance` is
    what a kWh less would save: what is asked for a kWh of the main grid, or paid where power is
    sold. The status is `uncontrolled`, as this is no equilibrium, and `certificate.ac` says what
    the grid makes of it. Of a batch all has its leading axis.
    """
    gate(market, "today", batch=True)
    plan = plan_today(market, until=until, price=price)
    return told(market, plan, _prices(market, plan))


@for_each
def told(market: Market, plan: Plan, prices: Rows) -> Clearing:
    """A `plan` that is no equilibrium, and `prices` that settle it, as a clearing."""
    return Clearing(
        plan=plan,
        prices=prices,
        costs=costs(market, plan),
        aggregate=aggregate(market, plan),
        certificate=certify(market, plan, prices),
        steps=jnp.zeros((), jnp.int32),
        status=Status.uncontrolled,
        run=None,
    )


@for_each
def _prices(market: Market, plan: Plan) -> Rows:
    bought = import_prices(market, grid_price(market, zone_totals(market, plan)))
    balance = jnp.where(plan.exports > 0, export_prices(market), bought)
    return replace(rows_like(market), balance=balance)


@of_tables
def plan_today(market: Market, *, until: Until = "due", price: Any = None) -> Plan:
    """What everyone does without a market, step by step.

    - Cars, and all else that is to be full in time, charge as fast as they may as soon as they may:
      `until` the most that is ever `due`, or until they are `full`.
    - Heat pumps and tanks that are drained all the time hold the content that they begin with.
    - Batteries take their owner's surplus and serve its load. What is due in them later they keep,
      but for what their owner's own surplus brings back until then.
    - Generators that are cheaper than the `price` serve what is left of their owner's load, the
      cheapest first, and elastic consumers use what is worth it. The price is in EUR/kWh, one
      number or by step; `None` is that of the main grid where it serves all loads, with what the
      owner's contract adds.
    - What is left over is sold up to `Prosumers.export_max`, then curtailed, and what cannot be is
      fed in all the same; what is lacking is bought. `unmet` tells which limits that breaks.

    Levels of caps follow from what their members do, with the least rise. `habits` says which
    buffer does what. The grid's state is that of its own model, where it is radial, else that of an
    AC power flow. Traceable, on paths and trees of steps; of a batch the plan has its leading axis.
    Raises `ValueError` for another `until` and a `price` that does not fit.
    """
    if until not in ("due", "full"):
        raise ValueError(f"plan_today: until={until!r}; give 'due' or 'full'.")
    steps = market.prosumers.load.shape[-1]
    if price is not None and np.shape(price) not in ((), (steps,)):
        raise ValueError(
            f"plan_today: price of shape {np.shape(price)}; give one number, or one a step, "
            f"({steps},)."
        )
    if price is not None and not isinstance(price, Tracer) and not np.all(np.isfinite(price)):
        raise ValueError("plan_today: price is not finite; give EUR/kWh.")
    return _plan_today(market, until == "full", price)


@for_each
def _plan_today(market: Market, full: bool, price: Any) -> Plan:
    people, units = market.prosumers, market.generators
    alone = in_zones(market, jnp.maximum(people.load, 0.0))
    alone = alone + passive_in_zones(market, market.grid.passive)
    asked = import_prices(market, grid_price(market, alone))[units.owner]
    asked = asked if price is None else jnp.zeros_like(asked) + jnp.asarray(price)
    wanted = _worth_it(market, asked)
    least = jnp.clip(wanted, units.power_min, jnp.maximum(units.power_min, 0.0))
    rest = people.load - by_owner(market, least, units.owner)
    charge, discharge, energy = _stored(market, rest, full)
    rest = rest + by_owner(market, charge - discharge, market.buffers.owner)
    generation = least + _served(market, wanted - least, jnp.maximum(rest, 0.0))
    rest = rest - by_owner(market, generation - least, units.owner)
    left = jnp.maximum(-rest, 0.0)
    unused = jnp.minimum(jnp.maximum(left - people.export_max, 0.0), people.curtail_max)
    plan = replace(
        zeros(market),
        generation=generation,
        charge=charge,
        discharge=discharge,
        energy=energy,
        imports=jnp.maximum(rest, 0.0),
        exports=left - unused,
        curtailed=unused,
    )
    # what is drawn to the last digit, so that balances and the grid have no rounding between them
    net = net_load(market, plan)
    plan = replace(plan, imports=jnp.maximum(net, 0.0), exports=jnp.maximum(-net, 0.0))
    return with_state(market, plan)


@for_each
def with_state(market: Market, plan: Plan) -> Plan:
    """The `plan` with the state of the grid and the levels of caps that follow from it.

    The grid's is that of its own model, or of an AC power flow where lines close loops
    (`linear_flow.grid_state`); levels rise as little as they may.
    """
    plan = replace(plan, **grid_state(market, *drawn(market, plan)))
    return _with_levels(market, plan) if has_caps(market) else plan


def _worth_it(market: Market, price: Float[Array, "G H"]) -> Float[Array, "G H"]:
    """The power at which a kWh more costs the price, or the bound that this leads to."""
    units = market.generators
    low, high = units.power_min, units.power_max
    linear, double = units.linear[:, None], 2 * units.quadratic[:, None]
    if units.curves:

        def above(power: Array) -> tuple[Array, Array]:
            slope = linear + double * power + slopes(units.curves, power) - price
            return slope, double + curvatures(units.curves, power)

        return crossing(above, low, high, (low + high) / 2)
    bends = double > 0
    inner = (price - linear) / jnp.where(bends, double, 1.0)
    ends = jnp.where(price > linear, high, low)
    return jnp.where(bends, jnp.clip(inner, low, high), ends)


def _served(
    market: Market, more: Float[Array, "G H"], load: Float[Array, "N H"]
) -> Float[Array, "G H"]:
    """What generators make of `more` for their owner's load, the cheapest first."""
    units = market.generators
    order = jnp.lexsort((units.linear, units.owner))
    owner, most = units.owner[order], more[order]
    before = jnp.cumsum(most, axis=0) - most
    first = jnp.full_like(load, jnp.inf).at[owner].min(before)
    made = jnp.clip(load[owner] - (before - first[owner]), 0.0, most)
    return jnp.zeros_like(more).at[order].set(made)


def _stored(
    market: Market, rest: Float[Array, "N H"], full: bool
) -> tuple[Float[Array, "K H"], ...]:
    """Charging and discharging power, and content, where loads less generation are `rest`."""
    stores, before, ts = market.buffers, market.before, market.hour_length
    which = habits(market)
    due = jnp.max(stores.energy_min, axis=1, keepdims=True, initial=-jnp.inf)
    goal = stores.energy_max if full else jnp.minimum(due, stores.energy_max)
    first = stores.energy_start[:, None]
    held = jnp.clip(first, stores.energy_min, stores.energy_max)
    goal = jnp.where(which.holds[:, None], held, jnp.where(which.fills[:, None], goal, -jnp.inf))
    shares = stores.charge_efficiency, stores.discharge_efficiency
    shares = retained(market).T, *(jnp.broadcast_to(a, stores.drain.shape).T for a in shares)
    bounds = (stores.charge_max.T, stores.discharge_max.T, stores.energy_max.T, stores.drain.T, ts)

    def to_goal(content: Array, x: Any) -> tuple[Array, Array]:
        goal, (most, _, _, drain, length), (kept, into, _) = x
        left = kept * content - drain
        power = jnp.clip((goal - left) / (length * into), 0.0, most)
        return left + length * into * power, power

    asked = onward(before, to_goal, stores.energy_start, (goal.T, bounds, shares))
    net = rest + by_owner(market, asked.T, stores.owner)
    need = _needed(market, net, which.keeps)

    def keep(content: Array, x: Any) -> tuple[Array, tuple[Array, ...]]:
        net, asked, need, (most, least, top, drain, length), (kept, into, out) = x
        left = kept * content - drain
        room = jnp.clip((top - left) / (length * into), 0.0, most)
        spare = jnp.clip((left - need) * out / length, 0.0, least)
        room, spare = jnp.where(which.keeps, room, 0.0), jnp.where(which.keeps, spare, 0.0)
        charge = asked + room * _share(market, room, -net)
        discharge = spare * _share(market, spare, net)
        content = left + length * (into * charge - discharge / out)
        return content, (charge, discharge, content)

    found = onward(before, keep, stores.energy_start, (net.T, asked, need, bounds, shares))
    charge, discharge, energy = (table.T for table in found)
    return charge, discharge, energy


def _share(market: Market, able: Float[Array, " K"], power: Float[Array, " N"]) -> Array:
    """The share of what they are able to that buffers of one owner take on, of a `power`."""
    owner = market.buffers.owner
    total = jnp.zeros_like(power).at[owner].add(able)
    share = jnp.clip(power / jnp.where(total > 0, total, 1.0), 0.0, 1.0)
    return share[owner]


def _needed(
    market: Market, net: Float[Array, "N H"], keeps: Bool[Array, " K"]
) -> Float[Array, "H K"]:
    """The least that batteries keep at the end of each step, for what is due later.

    What their owner's surplus brings back in time they need not keep.
    """
    stores, owner = market.buffers, market.buffers.owner
    power = jnp.where(keeps[:, None], stores.charge_max, 0.0)
    total = by_owner(market, power, owner)
    share = jnp.clip(-net / jnp.where(total > 0, total, 1.0), 0.0, 1.0)
    gain = market.hour_length * stores.charge_efficiency * power * share[owner]

    def step(asked: Array, x: Any) -> tuple[Array, Array]:
        least, gain, drain, keep = x
        need = jnp.maximum(least, asked)
        return (need + drain - gain) / keep, need

    nothing = jnp.full_like(stores.energy_start, -jnp.inf)
    over = (stores.energy_min.T, gain.T, stores.drain.T, retained(market).T)
    return backward(market.before, step, nothing, over)


def _with_levels(market: Market, plan: Plan) -> Plan:
    """The plan with levels of caps, which rise as little as they may."""
    caps, adds = market.caps, market.caps.adds > 0
    summed = caps.base + burdens(market) + members(market, plan)

    def step(level: Array, x: Any) -> tuple[Array, tuple[Array, ...]]:
        counted, least_level, least_rise = x
        kept = caps.carry * level
        low = jnp.maximum(least_level - jnp.where(adds, kept, 0.0),
                          least_rise + jnp.where(adds, 0.0, kept))  # fmt: skip
        spare = jnp.clip(low - counted, 0.0, caps.slack)
        rise = counted + spare - jnp.where(adds, 0.0, kept)
        level = kept + rise
        return level, (level, rise, spare)

    over = (summed.T, caps.level_min.T, caps.rise_min.T)
    level, rise, spare = (t.T for t in onward(market.before, step, caps.start, over))
    return replace(plan, level=level, rise=rise, spare=spare)
