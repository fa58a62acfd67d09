"""What everyone does and which equations hold: `Plan`, `Rows`, their sums, and what they count."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from .each import for_each
from .fields import Field, amount, described, optional
from .market import Market
from .record import Record
from .runner import jnp, lax, remembered
from .succession import handed
from .tables import QUANTITIES, device_buses, has_caps, has_zones, places, weighty


class Plan(Record):
    """What everyone does, hour by hour.

    `trades` is what `buyer` buys from `seller` (negative the other way). `voltage` is the squared
    magnitude under lindistflow (`voltages` gives pu); network fields are 0 under copperplate.
    """

    generation: Float[Array, "G H"] = amount("kW", "power")
    charge: Float[Array, "K H"] = amount("kW", "charging power")
    discharge: Float[Array, "K H"] = amount("kW", "discharging power")
    energy: Float[Array, "K H"] = amount("kWh", "content")  # at the end of the hour
    imports: Float[Array, "N H"] = amount("kW", "import")
    exports: Float[Array, "N H"] = amount("kW", "export")
    curtailed: Float[Array, "N H"] = amount("kW", "curtailment")
    trades: Float[Array, "E H"] = amount("kW", "trade")
    active: Float[Array, "L H"] = amount("kW", "active power")
    reactive: Float[Array, "L H"] = amount("kvar", "reactive power")
    voltage: Float[Array, "B H"] = amount("pu", "voltage")  # pu^2 under lindistflow
    angle: Float[Array, "B H"] = amount("rad", "angle")
    compensation: Float[Array, "B H"] = amount("kvar", "compensation")  # injected by inverters
    exchange: Float[Array, "F H"] = amount("kW", "exchange")
    level: Float[Array, "M H"] = optional("", "level")  # of caps, in units of their own
    rise: Float[Array, "M H"] = optional("", "change of the level")
    spare: Float[Array, "M H"] = optional("", "part of the level that no member makes")


class Rows(Record):
    """One entry per linear constraint, *demand minus supply*; as `prices`, EUR/kWh.

    `balance` (pi, own energy value), `energy` (water value), `aggregate` (lambda), `bus` and
    `bus_reactive` (mu_pb), `exchange` (mu_tg), `voltage` and `angle` (drops along lines; in pu or
    rad, so their multipliers are EUR/kWh times kW per unit). Rows that the grid model lacks are
    unlimited and their multipliers 0.
    """

    balance: Float[Array, "N H"] = amount("kW", "own balance")
    energy: Float[Array, "K H"] = amount("kWh", "content left by charging and draining")
    aggregate: Float[Array, " H"] = amount("kW", "limit on the total exchange")
    bus: Float[Array, "B H"] = amount("kW", "power balance")
    bus_reactive: Float[Array, "B H"] = amount("kvar", "reactive power balance")
    exchange: Float[Array, " H"] = amount("kW", "exchange with the main grid")
    voltage: Float[Array, "L H"] = amount("pu", "voltage drop")  # pu^2 under lindistflow
    angle: Float[Array, "L H"] = amount("rad", "angle")
    cap: Float[Array, "M H"] = optional("", "sum over the terms")  # EUR per unit
    level: Float[Array, "M H"] = optional("", "level left by its rise")


PLAN_FIELDS, ROW_FIELDS = (
    {name.split(".")[1]: field for name, field in described(kind).items()} for kind in (Plan, Rows)
)


OF_CAPS = ("level", "rise", "spare")  # tables of a plan that there are where there are caps
OF_LOADS = ("load", "reactive")  # what caps can count of `Prosumers`, beside what a plan chooses


def families(tables: Plan | Rows) -> dict[str, Field]:
    """What a plan, or rows, are made of: without what their market has nothing of."""
    fields = PLAN_FIELDS if isinstance(tables, Plan) else ROW_FIELDS
    return {name: field for name, field in fields.items() if getattr(tables, name) is not None}


@remembered
def zeros(market: Market) -> Plan:
    """The plan in which nothing happens."""
    prosumers, grid = market.prosumers, market.grid
    dtype, hours = prosumers.load.dtype, prosumers.load.shape[1]

    def table(size: int) -> Array:
        return jnp.zeros((size, hours), dtype)

    count, stores = prosumers.bus.shape[0], market.buffers.owner.shape[0]
    lines, buses = grid.source.shape[0], grid.passive.shape[0]
    caps: Any = table(market.caps.carry.shape[0]) if has_caps(market) else None
    return Plan(
        generation=table(market.generators.owner.shape[0]),
        charge=table(stores),
        discharge=table(stores),
        energy=table(stores),
        imports=table(count),
        exports=table(count),
        curtailed=table(count),
        trades=table(market.trading.buyer.shape[0]),
        active=table(lines),
        reactive=table(lines),
        voltage=table(buses),
        angle=table(buses),
        compensation=table(buses),
        exchange=table(grid.feeder.shape[0]),
        level=caps,
        rise=caps,
        spare=caps,
    )


@remembered
def rows_like(market: Market) -> Rows:
    """Prices of zero: the shape of `Rows` for this market."""
    plan = zeros(market)
    lines, buses, nought = plan.active, plan.voltage, jnp.zeros_like(market.tariff.slope)
    return Rows(
        balance=plan.imports,
        energy=plan.energy,
        aggregate=nought,
        bus=buses,
        bus_reactive=buses,
        exchange=nought,
        voltage=lines,
        angle=lines,
        cap=plan.level,
        level=plan.level,
    )


def by_owner(market: Market, values: Float[Array, "D H"], owner: Any) -> Float[Array, "N H"]:
    """Sum device values over each prosumer's devices."""
    count = market.prosumers.load.shape[0]
    return jnp.zeros((count, *values.shape[1:]), values.dtype).at[owner].add(values)


def by_side(market: Market, values: Float[Array, "E H"]) -> Float[Array, "N H"]:
    """Sum over each prosumer's trades, whichever side of them it is."""
    pairs = market.trading
    return by_owner(market, values, pairs.buyer) + by_owner(market, values, pairs.seller)


def parties(market: Market) -> Bool[Array, " N"]:
    """Who has a load, a device or a contract with the main grid.

    Others, as a pool, only pass on what they are sold, or take part in nothing.
    """
    people, units, stores = market.prosumers, market.generators, market.buffers
    own = (people.load, people.reactive, people.import_max, people.export_max, people.curtail_max)
    made = (units.power_min, units.power_max)
    held = (stores.charge_max, stores.discharge_max, stores.energy_start[:, None])

    def some(tables: Any) -> Array:
        return jnp.sum(jnp.concatenate([table != 0 for table in tables], axis=1), axis=1)

    rows = some(own) + by_owner(market, some(made), units.owner)
    return rows + by_owner(market, some(held), stores.owner) > 0


def sides(market: Market) -> tuple[Float[Array, " E"], Float[Array, " E"]]:
    """How much of both tolls the buyer and the seller of each pair pay: 1 and 1, 2 in all.

    Who is no party pays none, and the other side both.
    """
    party, pairs = parties(market), market.trading
    own = party.astype(market.prosumers.load.dtype)
    lead = own[pairs.buyer] - own[pairs.seller]
    return 1 + lead, 1 - lead


def pairs_of_parties(market: Market) -> Bool[Array, " E"]:
    """Whether both sides of each pair are parties, and neither is a pool."""
    party, pairs = parties(market), market.trading
    return party[pairs.buyer] & party[pairs.seller]


def bought(market: Market, trades: Float[Array, "E H"]) -> Float[Array, "N H"]:
    """What each prosumer buys from its neighbours in total, kW."""
    nothing = jnp.zeros((market.prosumers.load.shape[0], *trades.shape[1:]), trades.dtype)
    return traded(market, nothing, -trades)


def traded(market: Market, balance: Float[Array, "N H"], trades: Array) -> Float[Array, "N H"]:
    """Balances, demand minus supply, with the trades on top: one pass over pairs for each side."""
    less = balance.at[market.trading.buyer].subtract(trades)
    return less.at[market.trading.seller].add(trades)


@for_each
def aggregate(market: Market, plan: Plan) -> Float[Array, " H"]:
    """sigma: what prosumers and passive consumers draw from the main grid, kW (model.md: Costs)."""
    return jnp.sum(plan.imports, axis=0) + jnp.sum(market.grid.passive, axis=0)


def in_zones(market: Market, imports: Float[Array, "N H"]) -> Float[Array, "Z H"]:
    """What prosumers of each zone import together, kW; one row where there are no zones."""
    if not has_zones(market):
        return jnp.sum(imports, axis=0, keepdims=True)
    count = market.zones.base.shape[0]
    return (
        jnp.zeros((count, imports.shape[1]), imports.dtype).at[market.prosumers.zone].add(imports)
    )


def passive_in_zones(market: Market, passive: Float[Array, "B H"]) -> Float[Array, "Z H"]:
    """What passive consumers of each zone draw together, kW, likewise."""
    if not has_zones(market):
        return jnp.sum(passive, axis=0, keepdims=True)
    count = market.zones.base.shape[0]
    return jnp.zeros((count, passive.shape[1]), passive.dtype).at[market.grid.zone].add(passive)


@for_each
def zone_totals(market: Market, plan: Plan) -> Float[Array, "Z H"]:
    """sigma_z: what all in each zone draw from the main grid, kW; one row where there are no zones.

    With `aggregate` as their sum (model.md: Zones).
    """
    return in_zones(market, plan.imports) + passive_in_zones(market, market.grid.passive)


@for_each
def net_exchange(market: Market, plan: Plan) -> Float[Array, " H"]:
    """s: what goes through the transformer, total import less all exports, kW."""
    return aggregate(market, plan) - jnp.sum(plan.exports, axis=0)


@for_each
def net_load(market: Market, plan: Plan) -> Float[Array, "N H"]:
    """n_i: what each prosumer physically draws from its buses, kW (model.md: Decisions)."""
    return net_with(market, plan, market.prosumers.load)


def at_buses(
    market: Market,
    table: Float[Array, "B H"],
    whole: Float[Array, "N H"],
    own: Float[Array, "N H"],
    made: Float[Array, "G H"],
    kept: Float[Array, "K H"],
) -> Float[Array, "B H"]:
    """A `table` by bus with what is connected there added to it.

    That is what each prosumer has `whole`, with its devices; in three phases what it has of its
    `own`, and what its generators (`made`) and its buffers (`kept`) have, each at its bus.
    """
    if not market.grid.model.phased:
        return table.at[market.prosumers.bus].add(whole)
    there = device_buses(market)
    return table.at[market.prosumers.bus].add(own).at[there[0]].add(made).at[there[1]].add(kept)


def with_draws(
    market: Market, table: Float[Array, "B H"], plan: Plan, load: Float[Array, "N H"], net: Array
) -> Float[Array, "B H"]:
    """A `table` by bus with what prosumers draw there added, kW: `net` in all, with this `load`."""
    stored = plan.charge - plan.discharge
    return at_buses(market, table, net, load + plan.curtailed, -plan.generation, stored)


def asked_at_buses(
    market: Market, prices: Float[Array, "B H"], plan: Plan, net: Float[Array, "N H"]
) -> Float[Array, "N H"]:
    """What buses ask each prosumer for what it draws, at `prices` by bus: `net` kW in all."""
    own = prices[market.prosumers.bus]
    if not market.grid.model.phased:
        return own * net
    made, kept = device_buses(market)
    stored = by_owner(market, prices[kept] * (plan.charge - plan.discharge), market.buffers.owner)
    sold = by_owner(market, prices[made] * plan.generation, market.generators.owner)
    return own * (market.prosumers.load + plan.curtailed) + stored - sold


def net_with(market: Market, plan: Plan, load: Float[Array, "N H"]) -> Float[Array, "N H"]:
    """`net_load` with another `load`, as with none for a change of plan, kW."""
    net = (load + plan.curtailed).at[market.generators.owner]
    net = net.subtract(plan.generation).at[market.buffers.owner]
    return net.add(plan.charge - plan.discharge)


def chosen(plan: Plan) -> dict[str, Array]:
    """Of each of the `QUANTITIES` what a plan chooses, kW: of loads what is curtailed."""
    loads = {"load": plan.curtailed, "reactive": jnp.zeros_like(plan.curtailed)}
    return {name: loads[name] if name in loads else getattr(plan, name) for name in QUANTITIES}


def terms(market: Market, plan: Plan) -> Float[Array, "C H"]:
    """What caps count of a plan, term by term: powers of members, kW; without loads."""
    return jnp.concatenate(list(chosen(plan).values()))[places(market)]


@remembered
def loads(market: Market) -> Float[Array, "C H"]:
    """What caps count beside, term by term: loads of members, kW and kvar."""
    given = chosen(zeros(market)) | {name: getattr(market.prosumers, name) for name in OF_LOADS}
    return jnp.concatenate(list(given.values()))[places(market)]


def members(market: Market, plan: Plan) -> Float[Array, "M H"]:
    """Each cap's sum over what its members do, in its unit; without their loads."""
    return _summed(market, terms(market, plan))


@remembered
def burdens(market: Market) -> Float[Array, "M H"]:
    """Each cap's sum over loads of its members, in its unit."""
    return _summed(market, loads(market))


def _summed(market: Market, each: Float[Array, "C H"]) -> Float[Array, "M H"]:
    caps = market.caps
    each = caps.weight * each
    return jnp.zeros(caps.level_max.shape, each.dtype).at[caps.cap].add(each)


def asked_by_caps(market: Market, prices: Float[Array, "M H"]) -> dict[str, Array]:
    """What a price of each cap's sum makes each of the `QUANTITIES` cost: the transpose."""
    caps, like = market.caps, chosen(zeros(market))
    ends = np.cumsum([table.shape[0] for table in like.values()])
    nothing = jnp.zeros((ends[-1], prices.shape[1]), prices.dtype)
    each = nothing.at[places(market)].add(caps.weight * prices[caps.cap])
    return dict(zip(like, jnp.split(each, ends[:-1].tolist()), strict=True))


def shared_out(market: Market, prices: Float[Array, "M H"]) -> dict[str, Array]:
    """The same of what a plan chooses, by its tables."""
    asked = asked_by_caps(market, prices)
    own = {name: table for name, table in asked.items() if name not in OF_LOADS}
    return own | {"curtailed": asked["load"]}


def uncounted(market: Market, *names: str) -> Bool[Array, "R H"] | bool:
    """Which entries of these tables of a plan no cap counts."""
    if not has_caps(market):
        return True
    counts = shared_out(weighty(market), jnp.ones_like(market.caps.level_max))
    return sum(counts[name] for name in names) == 0


def counted(market: Market) -> Float[Array, " H"]:
    """What a kW of each step counts in costs and in the Lagrangian, h: w Ts (model.md: Time)."""
    return market.weight * market.hour_length


def ended(market: Market) -> Float[Array, " H"]:
    """What a kWh left at the end of each step counts: its weight less those of what begins from it.

    So content counts in the end of each path, by its probability, and what a step gains counts as
    often as the step does. Weights that agree but for their rounding leave nothing.
    """
    left = market.weight - handed(market.before, market.weight[None])[0]
    return left - lax.stop_gradient(jnp.where(jnp.abs(left) < 1e-5 * market.weight, left, 0.0))


def weight(market: Market, field: Field) -> Float[Array, " H"]:
    """What a unit of an entry or a row counts in costs and in the Lagrangian: w Ts, of kWh w.

    And w of caps, whatever their unit.
    """
    return market.weight if field.unit in ("kWh", "") else counted(market)


@remembered
def weights(market: Market) -> Rows:
    """What a unit of each row counts in the Lagrangian."""
    present = families(rows_like(market))
    return Rows(**{name: weight(market, field) for name, field in present.items()})
