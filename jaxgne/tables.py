"""Tables of a market: people, their devices, limits that many share.

A carbon cap, an energy budget, a limit on the chargers of a street, a ramp of the total, a demand
charge: all are rows of `Caps`. What its members do in a step is summed, and the sum either adds to
a level, as emissions do, or is the level, as a power is (model.md: Caps).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import Reader, floats, step_count, whole, whole_row
from .clock import Made
from .curves import AbstractCurve
from .fields import amount, index, naming, structure
from .kinds import KINDS, kinds_of
from .record import Record, changed, words
from .runner import jnp

QUANTITIES = ("imports", "exports", "generation", "charge", "discharge")
QUANTITIES += ("load", "reactive", "trades")  # what can be summed


class Prosumers(Record):
    """Consumers who may also produce, store and trade, one row each.

    `load` is net of the prosumer's own renewable generation, so it may be negative; `reactive` is
    that of the gross load. `import_max` (it may be infinite) and `export_max` limit what is bought
    of and sold to the main grid, not what the house draws through its wire, which trades add to:
    that is `devices.connection`, the `connection_max` of importers, `populate` and `equip`.
    `export_max` and `curtail_max` are 0 where neither is allowed.

    `import_adder` and `export_adder` are what the own contract adds to the main grid's price for
    what is bought, and to `Tariff.export` for what is sold: network fee, taxes, another supplier.
    `zone` says where the main grid is bought from, where prices differ by zone (`Market.zones`).
    """

    bus: Int[Array, " N"] = index("bus", "where it is connected")
    load: Float[Array, "N H"] = amount("kW", "load less own renewable generation")
    reactive: Float[Array, "N H"] = amount("kvar", "reactive power of the gross load")
    import_max: Float[Array, "N H"] = amount("kW", "most bought of the main grid", "[0, inf]")
    export_max: Float[Array, "N H"] = amount("kW", "most sold to the main grid", "[0, inf)")
    curtail_max: Float[Array, "N H"] = amount("kW", "most generation left unused", "[0, inf)")
    import_adder: Float[Array, "N #H"] = amount("EUR/kWh", "added to the price of what it buys")
    export_adder: Float[Array, "N #H"] = amount("EUR/kWh", "added to the price of what it sells")
    zone: Int[Array, " N"] = index("zone", "where it buys of the main grid")
    names: tuple[str, ...] = naming("name of each prosumer, or nothing")

    def __init__(
        self,
        bus: Any,
        load: Any,
        reactive: Any = 0.0,
        *,
        import_max: Any = np.inf,
        export_max: Any = 0.0,
        curtail_max: Any = 0.0,
        import_adder: Any = 0.0,
        export_adder: Any = 0.0,
        zone: Any = 0,
        names: Sequence[str] = (),
    ):
        self.bus = whole("Prosumers.bus", bus)
        shape = np.shape(floats("Prosumers.load", load))
        if len(shape) != 2:
            raise ValueError(f"Prosumers.load: expected shape (prosumers, hours), got {shape}.")
        read = Reader(
            *("Prosumers.", "prosumer", *shape),
            *(load, reactive, import_max, export_max, curtail_max, import_adder, export_adder),
        )
        self.load = read.hour("load", load)
        self.reactive = read.hour("reactive", reactive)
        self.import_max = read.hour("import_max", import_max)
        self.export_max = read.hour("export_max", export_max)
        self.curtail_max = read.hour("curtail_max", curtail_max)
        self.import_adder = read.either("import_adder", import_adder, shape[1])
        self.export_adder = read.either("export_adder", export_adder, shape[1])
        self.zone = whole_row("Prosumers.zone", zone, shape[0], "prosumer")
        self.names = words(names)


class Generators(Record):
    """Dispatchable units; cost `quadratic p^2 + linear p` per hour (no factor 1/2).

    And what each of the `curves` adds, convex costs of other forms: one of a kind, with numbers for
    all rows, 0 for those that have no such cost. A `kind` is given by its word or number, one for
    all or one a row; so is a `bus`, by number. One that is not its owner's is of grids in three
    phases only: the panels of a house on one phase may stand on all three.
    """

    owner: Int[Array, " G"] = index("prosumer", "whose it is")
    bus: Int[Array, " G"] = index("bus or none", "where it is connected, or -1: as its owner")
    kind: Int[Array, " G"] = index("kind", f"what it is, of {', '.join(KINDS['generator'])}")
    power_min: Float[Array, "G H"] = amount("kW", "least power")
    power_max: Float[Array, "G H"] = amount("kW", "most power")
    quadratic: Float[Array, " G"] = amount("EUR/kW^2h", "cost of power squared", "[0, inf)")
    linear: Float[Array, " G"] = amount("EUR/kWh", "cost of power")
    curves: tuple[AbstractCurve, ...] = structure("further convex costs", static=False)
    names: tuple[str, ...] = naming('name of each, "" of one without, or nothing')

    def __init__(
        self,
        owner: Any,
        power_max: Any,
        *,
        hours: int,
        power_min: Any = 0.0,
        quadratic: Any = 0.0,
        linear: Any = 0.0,
        kind: Any = 0,
        bus: Any = -1,
        curves: tuple[AbstractCurve, ...] = (),
        names: Sequence[str] = (),
    ):
        self.owner = whole("Generators.owner", owner)
        self.bus = whole_row("Generators.bus", bus, len(self.owner), "generator")
        self.kind = kinds_of("Generators.kind", "generator", kind, len(self.owner))
        read = Reader(
            *("Generators.", "generator", len(self.owner), step_count("Generators: hours", hours)),
            *(power_max, power_min, quadratic, linear, *jax.tree.leaves(curves)),
        )
        self.power_max = read.hour("power_max", power_max)
        self.power_min = read.hour("power_min", power_min)
        self.quadratic = read.row("quadratic", quadratic)
        self.linear = read.row("linear", linear)
        if len({type(curve) for curve in curves}) < len(curves):
            raise ValueError("Generators.curves: give one of a kind, with a number a generator.")
        self.curves = jax.tree.map(lambda a: read.row("curves", a), tuple(curves))
        self.names = words(names)


class Buffers(Record):
    """Storage: batteries, and whatever moves energy in time (cars, tanks, buildings).

    Content at the end of hour h, starting from `energy_start` (model.md: Decisions):

        x_h = retention x_{h-1} + Ts (charge_efficiency p_ch - p_ds / discharge_efficiency) - drain

    with `energy_min <= x <= energy_max`; cost `quadratic (p_ch^2 + p_ds^2) + linear (p_ch + p_ds)`.
    Each kWh more after the last hour than at the start is worth `final_value` to its owner. A
    `kind` is given by its word or number, one for all or one a row; so is a `bus`, by number. One
    that is not its owner's is of grids in three phases only: a car may be on another phase.
    """

    owner: Int[Array, " K"] = index("prosumer", "whose it is")
    bus: Int[Array, " K"] = index("bus or none", "where it is connected, or -1: as its owner")
    kind: Int[Array, " K"] = index("kind", f"what it is, of {', '.join(KINDS['buffer'])}")
    charge_max: Float[Array, "K H"] = amount("kW", "most drawn to charge", "[0, inf)")
    discharge_max: Float[Array, "K H"] = amount("kW", "most given by discharging", "[0, inf)")
    energy_min: Float[Array, "K H"] = amount("kWh", "least content at the end of the step")
    energy_max: Float[Array, "K H"] = amount("kWh", "most content at the end of the step")
    energy_start: Float[Array, " K"] = amount("kWh", "content at the start")
    drain: Float[Array, "K H"] = amount("kWh", "taken out of the content per step")
    retention: Float[Array, "K #H"] = amount(
        "",
        "share of the content kept in a step, however long",
        "(0, 1]",
        "is out of range; give the share kept per step, at most 1",
    )
    charge_efficiency: Float[Array, "K #H"] = amount(
        "",
        "share that arrives in the content, or a COP",
        "(0, 20]",
        "is out of range; give a share (0.95, not 95) or a COP",
    )
    discharge_efficiency: Float[Array, "K #H"] = amount(
        "",
        "share that arrives at the owner",
        "(0, 1]",
        "is out of range; give a share, at most 1 (0.95, not 95)",
    )
    quadratic: Float[Array, " K"] = amount("EUR/kW^2h", "cost of power squared", "[0, inf)")
    linear: Float[Array, " K"] = amount("EUR/kWh", "cost of power")
    final_value: Float[Array, " K"] = amount("EUR/kWh", "worth of each kWh gained by the end")
    names: tuple[str, ...] = naming('name of each, "" of one without, or nothing')
    made: Made | None = structure("what steps devices are for, until in a market")

    def __init__(
        self,
        owner: Any,
        charge_max: Any,
        discharge_max: Any,
        energy_max: Any,
        energy_start: Any,
        *,
        hours: int,
        energy_min: Any = 0.0,
        drain: Any = 0.0,
        retention: Any = 1.0,
        charge_efficiency: Any = 1.0,
        discharge_efficiency: Any = 1.0,
        quadratic: Any = 0.0,
        linear: Any = 0.0,
        final_value: Any = 0.0,
        kind: Any = 0,
        bus: Any = -1,
        names: Sequence[str] = (),
        made: Made | None = None,
    ):
        self.owner = whole("Buffers.owner", owner)
        self.bus = whole_row("Buffers.bus", bus, len(self.owner), "buffer")
        self.kind = kinds_of("Buffers.kind", "buffer", kind, len(self.owner))
        read = Reader(
            *("Buffers.", "buffer", len(self.owner), step_count("Buffers: hours", hours)),
            *(charge_max, discharge_max, energy_max, energy_start, energy_min, drain, retention),
            *(charge_efficiency, discharge_efficiency, quadratic, linear, final_value),
        )
        self.charge_max = read.hour("charge_max", charge_max)
        self.discharge_max = read.hour("discharge_max", discharge_max)
        self.energy_min = read.hour("energy_min", energy_min)
        self.energy_max = read.hour("energy_max", energy_max)
        self.energy_start = read.row("energy_start", energy_start)
        self.drain = read.hour("drain", drain)
        self.retention = read.either("retention", retention)
        self.charge_efficiency = read.either("charge_efficiency", charge_efficiency)
        self.discharge_efficiency = read.either("discharge_efficiency", discharge_efficiency)
        self.quadratic = read.row("quadratic", quadratic)
        self.linear = read.row("linear", linear)
        self.final_value = read.row("final_value", final_value)
        self.names = words(names)
        self.made = made

    def made_for(self, made: Made | None) -> "Buffers":
        """The same rows, said to be made for other steps, or for any."""
        return changed(self, made=made)


class Caps(Record):
    """Shared limits, one row each, in units of their own; and the terms of their sums.

    A term is what one prosumer imports or exports, one generator makes, or one buffer charges or
    discharges, in kW, times a `weight` by step; what a prosumer's `load` draws, with what it
    curtails, or its `reactive` load, in kvar; or what a pair `trades`, as its buyer buys it. With
    s_h the sum of a cap's terms and `base`, its level is

        level_h = carry level_(h-1) + rise_h,   from `start`
        rise_h = s_h + spare_h where `adds` is 1, level_h = s_h + spare_h where it is 0

    with `level_min <= level <= level_max`, `rise_min <= rise <= rise_max`, 0 <= spare <= `slack`.
    Each unit of rise costs `price`, which its `owner` pays; of a cap of nobody's (-1) all its
    members do, by the price of the sum (`Rows.cap`). What is paid for `carbon` is a part of bills
    and prices of its own.
    """

    level_min: Float[Array, "M H"] = amount("", "least level at the end of a step", "[-inf, inf)")
    level_max: Float[Array, "M H"] = amount("", "most level at the end of a step", "(-inf, inf]")
    rise_min: Float[Array, "M H"] = amount("", "least change of the level", "[-inf, inf)")
    rise_max: Float[Array, "M H"] = amount("", "most change of the level", "(-inf, inf]")
    base: Float[Array, "M H"] = amount("", "what is counted beside the terms")
    start: Float[Array, " M"] = amount("", "level at the start")
    carry: Float[Array, " M"] = amount(
        "", "share of the level kept per step", "[0, 1]", "is out of range; give a share, at most 1"
    )
    slack: Float[Array, " M"] = amount(
        "", "most by which more may be counted than is summed", "[0, inf]"
    )
    price: Float[Array, " M"] = amount("EUR", "cost of a unit of rise")
    adds: Int[Array, " M"] = index("switch", "1: the sum is the rise, 0: it is the level")
    owner: Int[Array, " M"] = index("payer", "prosumer who pays for the rise, or -1")
    carbon: Int[Array, " M"] = index("switch", "1: what it counts is kg of CO2, 0: anything else")
    cap: Int[Array, " C"] = index("cap", "whose term it is")
    quantity: Int[Array, " C"] = index("quantity", f"what is summed, of {', '.join(QUANTITIES)}")
    row: Int[Array, " C"] = index("member", "row of the prosumer, generator, buffer or pair")
    weight: Float[Array, "C H"] = amount("per kW", "what a kW counts")
    names: tuple[str, ...] = naming("name of each cap")
    units: tuple[str, ...] = naming("unit of each cap's level")

    def __init__(
        self,
        level_max: Any,
        *,
        hours: int,
        level_min: Any = -np.inf,
        rise_min: Any = -np.inf,
        rise_max: Any = np.inf,
        base: Any = 0.0,
        start: Any = 0.0,
        carry: Any = 0.0,
        slack: Any = 0.0,
        price: Any = 0.0,
        adds: Any = None,
        owner: Any = None,
        carbon: Any = None,
        cap: Any = (),
        quantity: Any = (),
        row: Any = (),
        weight: Any = 1.0,
        names: Sequence[str] = (),
        units: Sequence[str] = (),
    ):
        count, steps = len(level_max), step_count("Caps: hours", hours)
        given = (level_max, level_min, rise_min, rise_max, base, start, carry, slack, price, weight)
        read = Reader("Caps.", "cap", count, steps, *given)
        self.level_min = read.hour("level_min", level_min)
        self.level_max = read.hour("level_max", level_max)
        self.rise_min = read.hour("rise_min", rise_min)
        self.rise_max = read.hour("rise_max", rise_max)
        self.base = read.hour("base", base)
        self.start = read.row("start", start)
        self.carry = read.row("carry", carry)
        self.slack = read.row("slack", slack)
        self.price = read.row("price", price)
        self.adds = whole("Caps.adds", np.ones(count, int) if adds is None else adds)
        self.owner = whole("Caps.owner", np.full(count, -1) if owner is None else owner)
        self.carbon = whole("Caps.carbon", np.zeros(count, int) if carbon is None else carbon)
        self.cap = whole("Caps.cap", cap)
        self.quantity = whole("Caps.quantity", quantity)
        self.row = whole("Caps.row", row)
        self.weight = Reader("Caps.", "term", len(self.cap), steps, *given).hour("weight", weight)
        self.names = words(names) or tuple(f"cap {k}" for k in range(count))
        self.units = words(units) or ("",) * count


def has_caps(market: Any) -> bool:
    """Whether a market, or each of a batch, has any."""
    return market.caps.carry.shape[-1] > 0


def has_zones(market: Any) -> bool:
    """Whether a market, or each of a batch, has more zones than one."""
    return market.zones.base.shape[-2] > 0


def refuse_ties(caller: str, market: Any) -> None:
    """Raise `ValueError` where caps count trades, as `caller` has other pairs than these are of."""
    if np.any(np.asarray(market.caps.quantity) == QUANTITIES.index("trades")):
        raise ValueError(
            f"{caller}: caps of this market count trades of its pairs, as tie lines do, and here "
            "it gets other pairs; leave these caps out, or make them afterwards."
        )


def zones_by_hour(market: Any) -> Any:
    """The market with what zones add written for each hour, where it is one number for all."""
    zones, hours = market.zones, market.tariff.slope.shape[-1]
    names = ("base", "slope", "export")
    wide = {name: getattr(zones, name) + jnp.zeros(hours, zones.base.dtype) for name in names}
    return changed(market, zones=changed(zones, **wide))


def refuse_zones(caller: str, market: Any) -> None:
    """Raise `ValueError` where zones differ, as `caller` knows one price of the main grid only."""
    if has_zones(market):
        raise ValueError(
            f"{caller}: the main grid's price differs by zone here, and this reckons with one for "
            "all; give a market without Market.zones, such as one of its zones."
        )


def retained(market: Any) -> Float[Array, "K H"]:
    """The share of its content that each buffer keeps in each step."""
    stores = market.buffers
    return jnp.broadcast_to(stores.retention, stores.energy_max.shape)


def device_buses(market: Any) -> tuple[Int[Array, " G"], Int[Array, " K"]]:
    """Where generators and buffers are connected: each at a bus of its own, or as its owner.

    Only grids in three phases have buses of devices' own; others do not look at them.
    """
    home, tables = market.prosumers.bus, (market.generators, market.buffers)
    if not market.grid.model.phased:
        made, kept = (home[table.owner] for table in tables)
        return made, kept
    made, kept = (jnp.where(t.bus < 0, home[t.owner], t.bus) for t in tables)
    return made, kept


def weighty(market: Any) -> Any:
    """The market with caps whose terms count as much as they may, whatever their sign."""
    return changed(market, caps=changed(market.caps, weight=jnp.abs(market.caps.weight)))


def kw_per_unit(caps: Caps) -> Float[Array, "M 1"]:
    """How many kW a unit of each cap stands for: one by its heaviest term."""
    weight = jnp.max(jnp.abs(caps.weight), axis=1, initial=0.0)
    most = jnp.zeros_like(caps.price).at[caps.cap].max(weight)[:, None]
    return 1 / jnp.where(most > 0, most, 1.0)


def places(market: Any) -> Int[Array, " C"]:
    """Row of each term where the tables of `QUANTITIES` stand one below the other."""
    people = market.prosumers.bus.shape[0]
    stores = market.buffers.owner.shape[0]
    counts = (people, people, market.generators.owner.shape[0], stores, stores, people, people)
    first = np.concatenate([[0], np.cumsum(counts)])
    return jnp.asarray(first, market.caps.row.dtype)[market.caps.quantity] + market.caps.row
