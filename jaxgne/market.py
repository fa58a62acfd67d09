"""The market as data: who takes part, with which devices, on which grid, at which tariff.

Every numeric field is an array, so a market is a pytree that `jax.jit`, `jax.vmap` and `jax.grad`
go through. Units are fixed: kW, kvar, kVA, kWh, EUR, EUR/kWh, hours, radians, voltages per unit.

Sizes: `N` prosumers, `H` hours, `G` generators, `K` buffers, `E` trading pairs, `B` buses,
`L` lines, `F` feeder (slack) buses; in three phases `S` buses of several phases, `J`
couplings of conductors, `V` terminals; `Z` price zones.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import Reader, by_row, floats, promoted, whole, whole_row, wide
from .arrays import cast as cast
from .clock import Clock
from .commitments import Commitment as Commitment
from .commitments import commitment
from .describe import describe
from .fields import amount, described, index, naming, structure
from .grids import MODELS, AbstractGridModel
from .grids import GridModel as GridModel
from .pricing import Tariff as Tariff
from .pricing import Trading as Trading
from .pricing import Zones as Zones
from .record import Record, changed, words
from .runner import jnp
from .succession import Before, order
from .tables import Buffers as Buffers
from .tables import Caps as Caps
from .tables import Generators as Generators
from .tables import Prosumers as Prosumers
from .tangent import Tangent


class Grid(Record):
    """Buses and lines, the passive load at each bus, and which physics links them.

    `model` chooses the rows, by name or as an `AbstractGridModel`: `copperplate` has no network,
    `paper` is the linear model of the paper (with `reactive_balance` also reactive power balances
    at each bus), `lindistflow` is for radial feeders: lines then point away from the feeder bus,
    parents before children. Lines carry power from `source` to `target`; `rating` may be infinite.
    It stands for a current, sqrt(3) times the rated ampere times the nominal voltage, in kVA:
    `jg.grids.rating(ampere, kv)`.
    Impedances are per unit per kW: ohms divided by 1000 kV^2 (kV line to line). A transformer or a
    regulator is a line whose `tap` is not 1: at its `source` stands an ideal transformer, behind
    which impedance and rating see V_source / tap, so a tap below 1 raises the voltage. That is
    MATPOWER's ratio, and pandapower's of a tap at the `source`, in per unit of the two sides'
    nominal voltages; impedance and rating are those of the target's side. Inverters and
    compensators at a bus may inject or draw up to `compensation_max` of reactive power, where the
    model balances that (none at feeder buses, where the main grid does); how much is for the
    operator to choose, and `devices.inverter` makes it depend on active power. The main grid holds
    each feeder bus at `feeder_voltage`, whatever that bus's own limits are.

    Under `lindist3flow` each row of buses is one phase of a bus, and each line one conductor:
    `phase_a`, `phase_b` and `phase_c` say which rows are those of a bus, -1 for what it lacks. Per
    unit is then of 1 kW a phase and of volts to ground: ohms divided by 1000 kV^2 with kV line to
    neutral; ratings are of each conductor.
    Conductors of a line act on one another by `mutual_resistance` and `mutual_reactance`, one
    coupling for each two, of which the phase of `following` comes next to that of `coupled` (b to
    a, c to b, a to c). What draws on two or three phases at once stands at a row of its own, a
    terminal: its line has no impedance, comes from one phase, and from those of `second` and
    `third` (-1 for what stands between two) as well. Between two phases a constant power draws
    S exp(-j 30 deg) / sqrt(3) of the first and S exp(j 30 deg) / sqrt(3) of the next, on three a
    third of each. `jaxgne.phases.by_phase` makes such grids.
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
    phase_a: Int[Array, " S"] = index("bus or none", "the row of its phase a, or ab", "phase_a_bus")
    phase_b: Int[Array, " S"] = index("bus or none", "the row of its phase b, or bc", "phase_b_bus")
    phase_c: Int[Array, " S"] = index("bus or none", "the row of its phase c, or ca", "phase_c_bus")
    coupled: Int[Array, " J"] = index("line", "a conductor beside another", "coupled_line")
    following: Int[Array, " J"] = index("line", "that, of the next phase", "following_line")
    mutual_resistance: Float[Array, " J"] = amount("pu/kW", "mutual, as resistance")
    mutual_reactance: Float[Array, " J"] = amount("pu/kW", "mutual, as reactance")
    zone: Int[Array, " B"] = index("zone", "where passive consumers buy of the main grid")
    terminal: Int[Array, " V"] = index("line", "what leads to it from its first phase", "line")
    second: Int[Array, " V"] = index("bus", "its next phase", "second_bus")
    third: Int[Array, " V"] = index("bus or none", "the one after that, or -1", "third_bus")
    model: AbstractGridModel = structure(
        "which physics: copperplate, paper, lindistflow or lindist3flow"
    )
    reactive_balance: bool = structure("whether buses balance reactive power (lindistflow: always)")
    tangent: Tangent | None = structure("the AC state that the model is about", static=False)
    names: tuple[str, ...] = naming("name of each bus, or nothing")
    line_names: tuple[str, ...] = naming("name of each line, or nothing")

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
        phase_a: Any = (),
        phase_b: Any = (),
        phase_c: Any = (),
        coupled: Any = (),
        following: Any = (),
        mutual_resistance: Any = 0.0,
        mutual_reactance: Any = 0.0,
        terminal: Any = (),
        second: Any = (),
        third: Any = (),
        zone: Any = 0,
        model: GridModel | AbstractGridModel = "lindistflow",
        reactive_balance: bool | None = None,
        tangent: Tangent | None = None,
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
            *(mutual_resistance, mutual_reactance),
        )
        self.feeder = whole("Grid.feeder", feeder)
        fed = Reader("Grid.", "feeder", len(self.feeder), shape[1], *given)
        at_bus = Reader("Grid.", "bus", *shape, *given)
        line = Reader("Grid.", "line", len(self.source), 1, *given)
        self.passive = at_bus.hour("passive", passive)
        self.passive_reactive = at_bus.hour("passive_reactive", passive_reactive)
        self.compensation_max = at_bus.hour("compensation_max", compensation_max)
        self.resistance = line.row("resistance", resistance)
        self.reactance = line.row("reactance", reactance)
        self.rating = line.row("rating", rating)
        self.tap = line.row("tap", tap)
        self.voltage_min = at_bus.row("voltage_min", voltage_min)
        self.voltage_max = at_bus.row("voltage_max", voltage_max)
        self.angle_min = at_bus.row("angle_min", angle_min)
        self.angle_max = at_bus.row("angle_max", angle_max)
        self.feeder_voltage = fed.hour("feeder_voltage", feeder_voltage)
        self.phase_a = whole("Grid.phase_a", phase_a)
        self.phase_b = whole("Grid.phase_b", phase_b)
        self.phase_c = whole("Grid.phase_c", phase_c)
        self.coupled = whole("Grid.coupled", coupled)
        self.following = whole("Grid.following", following)
        beside = Reader("Grid.", "coupling", len(self.coupled), 1, *given)
        self.mutual_resistance = beside.row("mutual_resistance", mutual_resistance)
        self.mutual_reactance = beside.row("mutual_reactance", mutual_reactance)
        self.zone = whole_row("Grid.zone", zone, shape[0], "bus")
        self.terminal = whole("Grid.terminal", terminal)
        self.second = whole("Grid.second", second)
        self.third = whole("Grid.third", third)
        self.model = model
        self.reactive_balance = model.radial or bool(reactive_balance)
        self.tangent = tangent
        self.names = words(names)
        self.line_names = words(line_names)

    @property
    def phases(self) -> Int[Array, "S 3"]:
        """The rows of the phases a, b, c of each bus that has some, -1 for what it lacks."""
        return jnp.stack([self.phase_a, self.phase_b, self.phase_c], axis=-1)

    @property
    def radius(self) -> Float[Array, "L #H"]:
        """The most kVA of each line, by hour about an AC state."""
        return self.rating[:, None] if self.tangent is None else self.tangent.rating

    @property
    def consumed(self) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
        """What passive consumers draw, kW and kvar: about an AC state, `passive` has losses too."""
        about = self.tangent
        if about is None:
            return self.passive, self.passive_reactive
        return self.passive - about.losses, self.passive_reactive - about.losses_reactive


def bus_name(of: Any, bus: int) -> str:
    """What people call a bus: its name where `of`, a grid or a certificate, has names."""
    return of.names[bus] if of.names else str(bus)


def line_name(of: Any, line: int) -> str:
    """What people call a line: its name where `of`, a grid or a certificate, has such names."""
    return of.line_names[line] if of.line_names else str(line)


class Market(Record):
    """Everything the equilibrium depends on; `jg.validate(market)` checks it in full.

    `prosumers`, `generators` and `buffers` are who takes part with which devices, `trading` which
    pairs may trade, `grid` and `tariff` where and at what price the main grid is bought from,
    `caps` what limits many share, `zones` where the main grid's price is another; what is left out
    there is none of.

    Each of the H steps is `hour_length` hours long: one number, or one a step. With a `clock` they
    have a time: people, tables and plots then read clock times, and hours since the start without.
    It changes no plan. `weight` is how often a step counts in costs, prices being those of the step
    itself: the probability of its branch, or how many days it stands for. `before` names the step
    that each begins from, so that steps make a tree, -1 for the start; None is one after the other.
    `committed` says of which steps imports and trades are one decision (`Commitment`).

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
    committed: Commitment | None = structure("which steps share their imports and trades, if any")
    caps: Caps = structure("limits that many share", static=False)
    zones: Zones = structure("where the main grid's price is another", static=False)

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
        committed: Commitment | Sequence[int] | None = None,
        zones: Zones | None = None,
    ):
        hours = prosumers.load.shape[-1]
        given = (prosumers, generators, buffers, trading, grid, tariff, hour_length, weight, caps)
        given = (*given, zones)
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
        people = prosumers.load.shape[0]
        self.committed = commitment("Market.committed", committed, hours, people)
        self.caps = promoted(Caps((), hours=hours) if caps is None else caps, dtype)
        self.zones = promoted(Zones(()) if zones is None else zones, dtype)
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
        for field in FIELDS.values():
            width = field.find(self).shape[-1] if field.either else 1
            if width not in (1, hours):
                raise ValueError(
                    f"{field.name}: {width} hours, but Prosumers.load has {hours}; give one number "
                    f"a {field.row}, or one an hour."
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


FIELDS = described(  # by name
    *(Prosumers, Generators, Buffers, Trading, Grid, Tariff, Zones, Caps, Market)
)


def replaced(market: Market, tables: dict[str, Any]) -> Market:
    """The market with other tables, by dotted name (`prosumers.load`), in its own precision."""
    dtype, parts, own = market.prosumers.load.dtype, {}, {}
    for name, table in tables.items():
        whole = np.asarray(table, dtype)
        head, _, field = name.rpartition(".")
        (parts.setdefault(head, {}) if head else own)[field] = whole
    made = {head: changed(getattr(market, head), **fields) for head, fields in parts.items()}
    return changed(market, **made, **own)
