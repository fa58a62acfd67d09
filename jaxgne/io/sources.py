"""Nets of other programs by their name or file, and markets of them in one call.

What a name is follows from its form: the ending of a file, in JSON what it begins with, and the
codes of SimBench. A net is one state, so its customers follow a typical day that peaks there,
unless others are put on it by `populate`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import devices
from ..cases import populate as put_customers
from ..cases.builders import Behavior, pairs_of
from ..cases.customers import shape
from ..clock import Clock
from ..grids import GridModel
from ..market import Grid, Market, Prosumers, Tariff, Trading
from .matpower import from_matpower
from .network import distinct
from .notes import ImportReport, Notebook
from .opendss import from_opendss
from .pandapower import from_pandapower, read_net
from .power_grid_model import from_power_grid_model
from .simbench import BASE, EXPORT, from_simbench

_CODE = re.compile(r"\d-[A-Za-z0-9_.]+-[\w.-]*(no_)?sw")
_CUSTOMERS = ("load", "asymmetric_load")  # tables of pandapower's
_TOLL = 0.01  # EUR/kWh to each side
_ALL = 50  # customers up to which all may trade with all; with six others on average beyond
_DEGREE = 6.0

_READERS: Mapping[str, Callable[..., tuple[Grid, ImportReport]]] = {
    "matpower": from_matpower,
    "opendss": from_opendss,
    "pandapower": from_pandapower,
    "power-grid-model": from_power_grid_model,
}
_ENDINGS = {".m": "matpower", ".dss": "opendss", ".json": "", ".xlsx": "", ".xls": ""}


class Customers(NamedTuple):
    """Whose market is made of a net: `populate` invents so many, None takes the net's own loads.

    The shares are those of `cases.populate`, None is its own. The market is `hours` h long, a day
    or the one state where it is None, in steps of `hour_length` h (1, SimBench's 0.25); it begins
    at local midnight of `start` in `zone`. `connection_max` is what the wire of each customer
    carries, kVA, one number or one each (`devices.connection`); `grid` is the importer's `model`.
    """

    populate: int | None = None
    photovoltaic: float | None = None
    battery: float | None = None
    generator: float | None = None
    vehicle: float | None = None
    heat_pump: float | None = None
    start: Any = None
    zone: str | None = None
    hours: float | None = None
    hour_length: float | None = None
    connection_max: Any = None
    seed: int = 0
    behavior: Behavior | None = None
    grid: GridModel = "lindistflow"

    @property
    def shares(self) -> dict[str, Any]:
        """Those of devices that are given."""
        names = ("photovoltaic", "battery", "generator", "vehicle", "heat_pump")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def length(self) -> float:
        """Of a step, h."""
        return 1.0 if self.hour_length is None else self.hour_length

    def steps(self, usual: float) -> int:
        """How many steps there are, by default `usual` hours. `ValueError` for parts of one."""
        hours = usual if self.hours is None else self.hours
        count = hours / self.length
        if not (np.isfinite(count) and count >= 1 and np.isclose(count, round(count))):
            raise ValueError(
                f"hours={hours:g}: give whole steps of {self.length:g} h, and at least one."
            )
        return round(count)

    @property
    def clock(self) -> Clock | None:
        """When the first step begins."""
        return None if self.start is None else Clock(self.start, self.zone or "UTC")


def kind_of(source: str | Path) -> str:
    """Which program's net a name is: a key of its reader, "simbench", or "" for none of them."""
    path = Path(source)
    if _CODE.fullmatch(str(source)) and not path.exists():
        return "simbench"
    kind = _ENDINGS.get(path.suffix.lower(), "")
    if path.suffix.lower() != ".json" or not path.is_file():
        return kind
    with path.open("rb") as file:
        begun = file.read(4096)
    return "pandapower" if b"pandapower" in begun else "power-grid-model"


def read_source(source: str | Path, wanted: Customers) -> tuple[Market, ImportReport]:
    """The market of a net of another program, and what became of it on the way.

    Raises `ValueError` for a name that is of no such net, for devices that a net's own customers do
    not have, and whatever importers and `populate` refuse.
    """
    market, report = _read(source, wanted)
    if wanted.connection_max is not None:
        market = devices.connection(market, None, wanted.connection_max)
    return market, report


def _read(source: str | Path, wanted: Customers) -> tuple[Market, ImportReport]:
    """The market without house connections."""
    kind = kind_of(source)
    if kind == "simbench":
        return _of_simbench(str(source), wanted)
    if not Path(source).is_file():
        raise ValueError(f"{source} does not exist; check the path.")
    if wanted.populate is not None:
        grid, report = _READERS[kind](source, model=wanted.grid)
        return _populated(grid, wanted), report
    if wanted.shares:
        raise ValueError(
            f"{source}: {', '.join(wanted.shares)} are of customers that `populate` makes; give it "
            "a number, or give devices to the net's own customers by jg.equip."
        )
    steps = wanted.steps(wanted.length)
    tariff = Tariff(0.0, hours=steps, base=BASE, export=EXPORT, anticipation=_anticipation(wanted))
    notes = Notebook()
    if kind == "pandapower":
        net = read_net(source)
        market, report = from_pandapower(
            net, tariff=tariff, customers=_CUSTOMERS, profiles=_typical(net, wanted), hours=steps,
            clock=wanted.clock, hour_length=wanted.length, model=wanted.grid,
        )  # fmt: skip
    else:
        grid, report = _READERS[kind](source, model=wanted.grid)
        market = _by_bus(grid, report, tariff, wanted, notes)
    notes.add("tariff.default", number=BASE)
    if steps > 1:
        notes.add("profile.typical")
    market = replace(market, trading=_trading(market, wanted.seed))
    notes.add("trading.default", number=_TOLL)
    return market, replace(report, notes=(*notes.notes, *report.notes))


def _anticipation(wanted: Customers) -> float:
    return 0.0 if wanted.behavior == "wardrop" else 1.0


def _of_simbench(code: str, wanted: Customers) -> tuple[Market, ImportReport]:
    """A day of a SimBench net, or several."""
    if wanted.populate is not None or wanted.shares:
        raise ValueError(
            f"{code}: SimBench's nets have customers of their own, and no others are put there."
        )
    length = 0.25 if wanted.hour_length is None else wanted.hour_length
    days = (24 if wanted.hours is None else wanted.hours) / 24
    if days % 1:
        raise ValueError(f"{code}: {24 * days:g} hours; give whole days, 24 or 168.")
    if wanted.start is None:
        raise ValueError(
            f"{code}: give the day as start, such as 2016-01-20; profiles are of 2016."
        )
    return from_simbench(
        code, wanted.start, days=int(days), hour_length=length, toll=_TOLL, model=wanted.grid
    )


def _populated(grid: Grid, wanted: Customers) -> Market:
    """Customers of a stated mix in place of part of the net's load."""
    return put_customers(
        grid, wanted.populate or 0, wanted.seed, hours=wanted.steps(24),
        hour_length=wanted.length, clock=wanted.clock, behavior=wanted.behavior or "nash",
        **wanted.shares,
    )  # fmt: skip


def _days(wanted: Customers) -> tuple[np.ndarray, np.ndarray]:
    """What loads and sun are of what the net says, by step: all of it in a single one."""
    steps = wanted.steps(wanted.length)
    if steps == 1:
        return np.ones(1), np.ones(1)
    return shape("passive", steps, wanted.length), shape("sun", steps, wanted.length)


def _typical(net: Any, wanted: Customers) -> Any:
    """Profiles of a pandapower net's loads and generation, MW and Mvar by step."""
    import pandas

    load, sun = _days(wanted)
    day = {("load", "p_mw"): load, ("load", "q_mvar"): load, ("sgen", "p_mw"): sun}
    return {
        (kind, name): pandas.DataFrame(np.outer(by, net[kind][name]), columns=net[kind].index)
        for (kind, name), by in day.items()
    }


def _by_bus(
    grid: Grid, report: ImportReport, tariff: Tariff, wanted: Customers, notes: Notebook
) -> Market:
    """A customer at each bus that draws or sends power but for shunts and iron, which stay."""
    own = np.asarray(grid.passive, float)[:, 0] + 1j * np.asarray(grid.passive_reactive)[:, 0]
    own = own - report.constant
    bus = np.flatnonzero(np.abs(own.real) > 1e-9 * np.abs(own).max(initial=0.0))
    load, sun = _days(wanted)
    drawn = np.outer(np.maximum(own.real[bus], 0), load)
    made = np.outer(np.maximum(-own.real[bus], 0), sun)
    people = Prosumers(
        bus, drawn - made, np.outer(own.imag[bus], load), export_max=made, curtail_max=made,
        names=_names(grid, report, bus),
    )  # fmt: skip
    left = own.copy()
    left[bus] = 0
    passive = np.outer(left, load) + report.constant[:, None]
    held = np.asarray(grid.feeder_voltage)[:, :1].repeat(len(load), axis=1)
    most = np.asarray(grid.compensation_max)[:, :1].repeat(len(load), axis=1)
    wide = replace(
        grid, passive=passive.real, passive_reactive=passive.imag, feeder_voltage=held,
        compensation_max=most,
    )  # fmt: skip
    names = report.data.get("names", grid.names) or [f"bus {k}" for k in range(len(own))]
    notes.some("customer.bus", [str(names[k]) for k in bus.tolist()], own.real[bus].sum())
    return Market(people, wide, tariff, hour_length=wanted.length, clock=wanted.clock)


def _names(grid: Grid, report: ImportReport, buses: np.ndarray) -> tuple[str, ...]:
    """Customers are called like the only load at their bus, or like the bus where there are more.

    None has a name where the net has none.
    """
    at: dict[int, list[str]] = {}
    for name, bus in report.data.get("loads", ()):
        at.setdefault(int(report.bus[bus]), []).append(name)
    if not at:
        return ()
    names = [own[0] if len(own := at.get(k, ())) == 1 else grid.names[k] for k in buses.tolist()]
    return distinct(names, [f"bus {grid.names[k]}" for k in buses.tolist()])


def _trading(market: Market, seed: int) -> Trading:
    """All with all for a toll to each side, or with some others where they are many."""
    people = market.prosumers
    count = len(people.bus)
    reach = np.max(
        np.abs(np.asarray(people.load)) + np.asarray(people.curtail_max), axis=1, initial=0
    )
    if count <= _ALL:
        buyer, seller = np.triu_indices(count, 1)
    else:
        buyer, seller = pairs_of("random", count, _DEGREE, np.random.default_rng(seed))
    return Trading(buyer, seller, np.maximum(reach[buyer], reach[seller]), toll=_TOLL)
