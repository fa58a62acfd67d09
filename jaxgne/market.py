"""The market as data: who takes part, with which devices, on which grid, at which tariff.

Every numeric field is an array, so a market is a pytree that `jax.jit`, `jax.vmap` and `jax.grad`
go through. Units are fixed: kW, kvar, kVA, kWh, EUR, EUR/kWh, hours, radians, voltages per unit.

Sizes: `N` prosumers, `H` hours, `G` generators, `K` buffers, `E` trading pairs, `B` buses,
`L` lines, `F` feeder (slack) buses.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import Reader, by_row, floats, promoted, step_count, whole, wide
from .arrays import cast as cast
from .clock import Clock, Made
from .curves import AbstractCurve
from .describe import describe
from .fields import amount, described, index, structure
from .grids import MODELS, AbstractGridModel
from .grids import GridModel as GridModel
from .record import Record
from .succession import Before, order
from .tables import Caps as Caps


class Prosumers(Record):
    """Consumers who may also produce, store and trade, one row each.

    `load` is net of the prosumer's own renewable generation, so it may be negative; `reactive` is
    that of the gross load. `import_max` (it may be infinite) and `export_max` limit what is bought
    of and sold to the main grid, not what the house draws through its wire, which trades add to:
    that is `devices.connection`. `export_max` and `curtail_max` are 0 where neither is allowed.
    """

    bus: Int[Array, " N"] = index("bus", "where it is connected")
    load: Float[Array, "N H"] = amount("kW", "load less own renewable generation")
    reactive: Float[Array, "N H"] = amount("kvar", "reactive power of the gross load")
    import_max: Float[Array, "N H"] = amount("kW", "most bought of the main grid", "[0, inf]")
    export_max: Float[Array, "N H"] = amount("kW", "most sold to the main grid", "[0, inf)")
    curtail_max: Float[Array, "N H"] = amount("kW", "most generation left unused", "[0, inf)")

    def __init__(
        self,
        bus: Any,
        load: Any,
        reactive: Any = 0.0,
        *,
        import_max: Any = np.inf,
        export_max: Any = 0.0,
        curtail_max: Any = 0.0,
    ):
        self.bus = whole("Prosumers.bus", bus)
        shape = np.shape(floats("Prosumers.load", load))
        if len(shape) != 2:
            raise ValueError(f"Prosumers.load: expected shape (prosumers, hours), got {shape}.")
        read = Reader(
            *("Prosumers.", "prosumer", *shape),
            *(load, reactive, import_max, export_max, curtail_max),
        )
        self.load = read.hour("load", load)
        self.reactive = read.hour("reactive", reactive)
        self.import_max = read.hour("import_max", import_max)
        self.export_max = read.hour("export_max", export_max)
        self.curtail_max = read.hour("curtail_max", curtail_max)


class Generators(Record):
    """Dispatchable units; cost `quadratic p^2 + linear p` per hour (no factor 1/2).

    And what each of the `curves` adds, convex costs of other forms: one of a kind, with numbers for
    all rows, 0 for those that have no such cost.
    """

    owner: Int[Array, " G"] = index("prosumer", "whose it is")
    power_min: Float[Array, "G H"] = amount("kW", "least power")
    power_max: Float[Array, "G H"] = amount("kW", "most power")
    quadratic: Float[Array, " G"] = amount("EUR/kW^2h", "cost of power squared", "[0, inf)")
    linear: Float[Array, " G"] = amount("EUR/kWh", "cost of power")
    curves: tuple[AbstractCurve, ...] = structure("further convex costs", static=False)

    def __init__(
        self,
        owner: Any,
        power_max: Any,
        *,
        hours: int,
        power_min: Any = 0.0,
        quadratic: Any = 0.0,
        linear: Any = 0.0,
        curves: tuple[AbstractCurve, ...] = (),
    ):
        self.owner = whole("Generators.owner", owner)
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


class Buffers(Record):
    """Storage: batteries, and whatever moves energy in time (cars, tanks, buildings).

    Content at the end of hour h, starting from `energy_start` (model.md: Decisions):

        x_h = retention x_{h-1} + Ts (charge_efficiency p_ch - p_ds / discharge_efficiency) - drain

    with `energy_min <= x <= energy_max`; cost `quadratic (p_ch^2 + p_ds^2) + linear (p_ch + p_ds)`.
    Each kWh more after the last hour than at the start is worth `final_value` to its owner.
    """

    owner: Int[Array, " K"] = index("prosumer", "whose it is")
    charge_max: Float[Array, "K H"] = amount("kW", "most drawn to charge", "[0, inf)")
    discharge_max: Float[Array, "K H"] = amount("kW", "most given by discharging", "[0, inf)")
    energy_min: Float[Array, "K H"] = amount("kWh", "least content at the end of the step")
    energy_max: Float[Array, "K H"] = amount("kWh", "most content at the end of the step")
    energy_start: Float[Array, " K"] = amount("kWh", "content at the start")
    drain: Float[Array, "K H"] = amount("kWh", "taken out of the content per step")
    retention: Float[Array, " K"] = amount(
        "",
        "share of the content kept per step, however long",
        "(0, 1]",
        "is out of range; give the share kept per step, at most 1",
    )
    charge_efficiency: Float[Array, " K"] = amount(
        "",
        "share that arrives in the content, or a COP",
        "(0, 20]",
        "is out of range; give a share (0.95, not 95) or a COP",
    )
    discharge_efficiency: Float[Array, " K"] = amount(
        "",
        "share that arrives at the owner",
        "(0, 1]",
        "is out of range; give a share, at most 1 (0.95, not 95)",
    )
    quadratic: Float[Array, " K"] = amount("EUR/kW^2h", "cost of power squared", "[0, inf)")
    linear: Float[Array, " K"] = amount("EUR/kWh", "cost of power")
    final_value: Float[Array, " K"] = amount("EUR/kWh", "worth of each kWh gained by the end")
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
        made: Made | None = None,
    ):
        self.owner = whole("Buffers.owner", owner)
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
        self.retention = read.row("retention", retention)
        self.charge_efficiency = read.row("charge_efficiency", charge_efficiency)
        self.discharge_efficiency = read.row("discharge_efficiency", discharge_efficiency)
        self.quadratic = read.row("quadratic", quadratic)
        self.linear = read.row("linear", linear)
        self.final_value = read.row("final_value", final_value)
        self.made = made

    def made_for(self, made: Made | None) -> "Buffers":
        """The same rows, said to be made for other steps, or for any."""
        if made == self.made:
            return self
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return Buffers(**(rows | {"made": made}), hours=self.charge_max.shape[1])


class Trading(Record):
    """Pairs that may trade, each once: a trade is positive when `buyer` buys from `seller`.

    `fee_buyer` and `fee_seller` are what each side reckons with (c_tr), `toll` is the network's
    tariff for the trade, paid by both sides (c_ta). `quadratic` is a cost `quadratic t^2` per hour
    to each side; 0 in the paper (model.md: Costs).
    """

    buyer: Int[Array, " E"] = index("prosumer", "who buys where the trade is positive")
    seller: Int[Array, " E"] = index("prosumer", "who sells there")
    limit: Float[Array, " E"] = amount("kW", "most power, either way", "[0, inf)")
    fee_buyer: Float[Array, " E"] = amount("EUR/kWh", "what the buyer reckons with")
    fee_seller: Float[Array, " E"] = amount("EUR/kWh", "what the seller reckons with")
    toll: Float[Array, " E"] = amount("EUR/kWh", "the network's tariff, paid by both", "[0, inf)")
    quadratic: Float[Array, " E"] = amount(
        "EUR/kW^2h", "cost of power squared, to each side", "[0, inf)"
    )

    def __init__(
        self,
        buyer: Any,
        seller: Any,
        limit: Any,
        *,
        fee_buyer: Any = 0.0,
        fee_seller: Any = 0.0,
        toll: Any = 0.0,
        quadratic: Any = 0.0,
    ):
        self.buyer = whole("Trading.buyer", buyer)
        self.seller = whole("Trading.seller", seller)
        read = Reader(
            *("Trading.", "pair", len(self.buyer), 1),
            *(limit, fee_buyer, fee_seller, toll, quadratic),
        )
        self.limit = read.row("limit", limit)
        self.fee_buyer = read.row("fee_buyer", fee_buyer)
        self.fee_seller = read.row("fee_seller", fee_seller)
        self.toll = read.row("toll", toll)
        self.quadratic = read.row("quadratic", quadratic)


class Grid(Record):
    """Buses and lines, the passive load at each bus, and which physics links them.

    `model` chooses the rows, by name or as an `AbstractGridModel`: `copperplate` has no network,
    `paper` is the linear model of the paper (with `reactive_balance` also reactive power balances
    at each bus), `lindistflow` is for radial feeders: lines then point away from the feeder bus,
    parents before children. Lines carry power from `source` to `target`; `rating` may be infinite.
    It stands for a current: sqrt(3) times the rated ampere times the nominal voltage, in kVA.
    Impedances are per unit per kW: ohms divided by 1000 kV^2 (kV line to line). A transformer or a
    regulator is a line whose `tap` is not 1: at its `source` stands an ideal transformer, behind
    which impedance and rating see V_source / tap, so a tap below 1 raises the voltage. That is
    MATPOWER's ratio, and pandapower's of a tap at the `source`, in per unit of the two sides'
    nominal voltages; impedance and rating are those of the target's side. Inverters and
    compensators at a bus may inject or draw up to `compensation_max` of reactive power, where the
    model balances that (none at feeder buses, where the main grid does); how much is for the
    operator to choose, and `devices.inverter` makes it depend on active power. The main grid holds
    each feeder bus at `feeder_voltage`, whatever that bus's own limits are.
    """

    source: Int[Array, " L"] = index("bus", "the end nearer to the main grid")
    target: Int[Array, " L"] = index("bus", "the other end")
    resistance: Float[Array, " L"] = amount("pu/kW", "ohms divided by 1000 kV^2", "[0, inf)")
    reactance: Float[Array, " L"] = amount("pu/kW", "ohms divided by 1000 kV^2", "[0, inf)")
    rating: Float[Array, " L"] = amount("kVA", "most apparent power at 1 pu", "[0, inf]")
    tap: Float[Array, " L"] = amount(
        "",
        "voltage at the source over that behind its transformer",
        "[0.5, 2]",
        "is no tap ratio per unit; give one from 0.5 to 2, like 0.975: 1 for plain lines, and for "
        "a transformer of 20/0.4 kV at its nominal tap",
    )
    voltage_min: Float[Array, " B"] = amount(
        "pu",
        "lowest voltage",
        "(0, 2]",
        "is no voltage per unit; give a number like 0.95, not volts or kV",
    )
    voltage_max: Float[Array, " B"] = amount("pu", "highest voltage")
    angle_min: Float[Array, " B"] = amount("rad", "lowest angle")
    angle_max: Float[Array, " B"] = amount("rad", "highest angle")
    feeder: Int[Array, " F"] = index("bus", "where the main grid connects")
    feeder_voltage: Float[Array, "F H"] = amount(
        "pu",
        "voltage that the main grid holds",
        "[0.5, 1.5]",
        "is no voltage that a main grid holds; give a number per unit like 1.04, from 0.5 to 1.5",
        written="voltage_pu",
    )
    passive: Float[Array, "B H"] = amount("kW", "load of nobody in the market")
    passive_reactive: Float[Array, "B H"] = amount("kvar", "reactive power of that load")
    compensation_max: Float[Array, "B H"] = amount(
        "kvar", "most reactive power, either way", "[0, inf)"
    )
    model: AbstractGridModel = structure("which physics: copperplate, paper or lindistflow")
    reactive_balance: bool = structure("whether buses balance reactive power (lindistflow: always)")
    names: tuple[str, ...] = structure("name of each bus, or nothing")
    line_names: tuple[str, ...] = structure("name of each line, or nothing")

    def __init__(
        self,
        passive: Any,
        source: Any = (),
        target: Any = (),
        resistance: Any = 0.0,
        reactance: Any = 0.0,
        *,
        rating: Any = np.inf,
        tap: Any = 1.0,
        voltage_min: Any = 0.95,
        voltage_max: Any = 1.05,
        angle_min: Any = -np.pi / 12,
        angle_max: Any = np.pi / 12,
        feeder: Any = (0,),
        feeder_voltage: Any = 1.0,
        passive_reactive: Any = 0.0,
        compensation_max: Any = 0.0,
        model: GridModel | AbstractGridModel = "lindistflow",
        reactive_balance: bool | None = None,
        names: tuple[str, ...] = (),
        line_names: tuple[str, ...] = (),
    ):
        if not isinstance(model, AbstractGridModel):
            if model not in MODELS:
                raise ValueError(f"Grid.model: {model!r} is none of {', '.join(MODELS)}.")
            model = MODELS[model]
        if reactive_balance is False and model.radial:
            raise ValueError(
                f"Grid.reactive_balance: {model.name} always balances reactive power; "
                "leave it out, or use model='paper'."
            )
        shape = np.shape(floats("Grid.passive", passive))
        if len(shape) != 2:
            raise ValueError(f"Grid.passive: expected shape (buses, hours), got {shape}.")
        self.source = whole("Grid.source", source)
        self.target = whole("Grid.target", target)
        given = (
            *(passive, passive_reactive, compensation_max, resistance, reactance, rating),
            *(tap, voltage_min, voltage_max, angle_min, angle_max, feeder_voltage),
        )
        self.feeder = whole("Grid.feeder", feeder)
        fed = Reader("Grid.", "feeder", len(self.feeder), shape[1], *given)
        bus = Reader("Grid.", "bus", *shape, *given)
        line = Reader("Grid.", "line", len(self.source), 1, *given)
        self.passive = bus.hour("passive", passive)
        self.passive_reactive = bus.hour("passive_reactive", passive_reactive)
        self.compensation_max = bus.hour("compensation_max", compensation_max)
        self.resistance = line.row("resistance", resistance)
        self.reactance = line.row("reactance", reactance)
        self.rating = line.row("rating", rating)
        self.tap = line.row("tap", tap)
        self.voltage_min = bus.row("voltage_min", voltage_min)
        self.voltage_max = bus.row("voltage_max", voltage_max)
        self.angle_min = bus.row("angle_min", angle_min)
        self.angle_max = bus.row("angle_max", angle_max)
        self.feeder_voltage = fed.hour("feeder_voltage", feeder_voltage)
        self.model = model
        self.reactive_balance = model.radial or bool(reactive_balance)
        self.names = tuple(names)
        self.line_names = tuple(line_names)


def bus_name(of: Any, bus: int) -> str:
    """What people call a bus: its name where `of`, a grid or a certificate, has names."""
    return of.names[bus] if of.names else str(bus)


def line_name(of: Any, line: int) -> str:
    """What people call a line: its name where `of`, a grid or a certificate, has such names."""
    return of.line_names[line] if of.line_names else str(line)


class Tariff(Record):
    """What the main grid charges: `base + slope * sigma` per kWh, sigma the total gross import.

    `total_min`, `total_max` bound the net exchange s = sigma - exports. `anticipation` (kappa) is
    1 when prosumers see their own effect on the price (Nash), 0 when they take it (Wardrop).
    """

    base: Float[Array, " H"] = amount("EUR/kWh", "price at no import")
    slope: Float[Array, " H"] = amount("EUR/kWh per kW", "price rise with total import", "[0, inf)")
    export: Float[Array, " H"] = amount("EUR/kWh", "paid for exports")
    total_min: Float[Array, " H"] = amount("kW", "least exchange with the main grid", "[-inf, inf)")
    total_max: Float[Array, " H"] = amount("kW", "most exchange with the main grid", "(-inf, inf]")
    anticipation: Float[Array, ""] = amount(
        "",
        "1: prosumers see their effect on the price (Nash), 0: they take it (Wardrop)",
        "[0, 1]",
        "is not between 0 and 1; give 1 for Nash, 0 for price takers",
    )

    def __init__(
        self,
        slope: Any,
        *,
        hours: int,
        base: Any = 0.0,
        export: Any = 0.0,
        total_min: Any = -np.inf,
        total_max: Any = np.inf,
        anticipation: Any = 1.0,
    ):
        given = (slope, base, export, total_min, total_max)
        read = Reader("Tariff.", "hour", step_count("Tariff: hours", hours), 1, *given)
        self.slope = read.row("slope", slope)
        self.base = read.row("base", base)
        self.export = read.row("export", export)
        self.total_min = read.row("total_min", total_min)
        self.total_max = read.row("total_max", total_max)
        self.anticipation = floats("Tariff.anticipation", anticipation, read.dtype)


class Market(Record):
    """Everything the equilibrium depends on; `jg.validate(market)` checks it in full.

    Each of the H steps is `hour_length` hours long: one number, or one a step. With a `clock` they
    have a time: people, tables and plots then read clock times, and hours since the start without.
    It changes no plan. `weight` is how often a step counts in costs, prices being those of the step
    itself: the probability of its branch, or how many days it stands for. `before` names the step
    that each begins from, so that steps make a tree, -1 for the start; None is one after the other.

    All tables take the widest floating dtype among them, so one in float32 does not narrow a market
    of float64. Raises `ValueError` when the tables disagree on the number of steps, or devices were
    made for steps of another length or for other hours of the day.
    """

    prosumers: Prosumers
    generators: Generators
    buffers: Buffers
    trading: Trading
    grid: Grid
    tariff: Tariff
    hour_length: Float[Array, " H"] = amount(
        "h",
        "length of the step",
        "(0, inf)",
        "is out of range; give the length of a step in hours, above 0",
    )
    weight: Float[Array, " H"] = amount(
        "",
        "how often the step counts: its probability, or the days it stands for",
        "(0, inf)",
        "is out of range; give a number above 0",
    )
    clock: Clock | None = structure("when the first step begins, if that is known", static=False)
    before: Before = structure("the step that each begins from, -1 the start; of a path nothing")
    caps: Caps = structure("limits that many share", static=False)

    def __init__(
        self,
        prosumers: Prosumers,
        grid: Grid,
        tariff: Tariff,
        generators: Generators | None = None,
        buffers: Buffers | None = None,
        trading: Trading | None = None,
        hour_length: Any = 1.0,
        clock: Clock | None = None,
        weight: Any = 1.0,
        before: Sequence[int] | None = None,
        caps: Caps | None = None,
    ):
        hours = prosumers.load.shape[-1]
        given = (prosumers, generators, buffers, trading, grid, tariff, hour_length, weight, caps)
        given = [a for a in jax.tree.leaves(given) if np.size(a)]
        dtype = wide(*given)
        nobody = (Generators((), (), hours=hours), Buffers((), (), (), (), (), hours=hours))
        self.prosumers = promoted(prosumers, dtype)
        self.grid = promoted(grid, dtype)
        self.tariff = promoted(tariff, dtype)
        self.generators = promoted(nobody[0] if generators is None else generators, dtype)
        stores = nobody[1] if buffers is None else buffers
        unfit = stores.made and stores.made.unfit(hour_length, clock, hours)
        if unfit:
            raise ValueError(unfit)
        self.buffers = promoted(stores.made_for(None), dtype)
        self.trading = promoted(Trading((), (), ()) if trading is None else trading, dtype)
        self.hour_length = by_row("Market.hour_length", hour_length, hours, "hour", dtype)
        self.weight = by_row("Market.weight", weight, hours, "hour", dtype)
        self.clock = clock
        self.before = order("Market.before", before, hours)
        self.caps = promoted(Caps((), hours=hours) if caps is None else caps, dtype)
        self._check()

    def _check(self) -> None:
        hours = self.prosumers.load.shape[-1]
        tables = {
            "Grid.passive": self.grid.passive,
            "Tariff.slope": self.tariff.slope,
            "Generators.power_max": self.generators.power_max,
            "Buffers.charge_max": self.buffers.charge_max,
            "Caps.level_max": self.caps.level_max,
        }
        for name, array in tables.items():
            if array.shape[-1] != hours:
                raise ValueError(
                    f"{name}: {array.shape[-1]} hours, but Prosumers.load has {hours}; "
                    "give every table the same number of hours."
                )
        if self.prosumers.bus.shape != self.prosumers.load.shape[:1]:
            raise ValueError(
                f"Prosumers.bus: {self.prosumers.bus.shape[0]} buses for "
                f"{self.prosumers.load.shape[0]} rows of load; give one bus per prosumer."
            )
        if self.grid.source.shape != self.grid.target.shape:
            raise ValueError(
                f"Grid.source: {self.grid.source.shape[0]} sources but "
                f"{self.grid.target.shape[0]} targets; give one of each per line."
            )
        if self.trading.buyer.shape != self.trading.seller.shape:
            raise ValueError(
                f"Trading.buyer: {self.trading.buyer.shape[0]} buyers but "
                f"{self.trading.seller.shape[0]} sellers; give one of each per pair."
            )

    def __str__(self) -> str:
        return describe(self)


FIELDS = described(Prosumers, Generators, Buffers, Trading, Grid, Tariff, Caps, Market)  # by name
