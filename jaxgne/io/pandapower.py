"""Grids from pandapower nets, read from their tables: `docs/imports.md` says what is read how.

Nothing of pandapower runs but its reader of files, and that only where a path is given.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import devices
from ..clock import Clock
from ..grids import GridModel
from ..market import Grid, Tariff
from ..profiles import Profiles as Series
from .assembly import grid_of
from .network import Buses, Column, Network
from .notes import ImportReport, Notebook
from .pandapower_branches import Taps, branches_of, tables_of, ties_of
from .pandapower_tables import by_phase, column, labels, motors, places, rated, shares
from .pandapower_units import Profiles, frames_of, market_of, steps_of, units_of, with_profiles

# What holds voltages or turns direct current, which no grid of a market has.
_STRANGE = ("xward", "dcline", "svc", "ssc", "tcsc", "vsc", "vsc_stacked", "vsc_bipolar")
_UNREAD = {"cost.ignored": ("poly_cost", "pwl_cost"), "controller.ignored": ("controller",)}
_READ = (
    *("bus", "load", "sgen", "motor", "asymmetric_load", "asymmetric_sgen", "storage", "gen"),
    *("switch", "shunt", "ext_grid", "line", "trafo", "trafo3w", "impedance", "ward"),
)
_APART = ("group", "measurement", "loadcases")  # and places and characteristics: no part of a state


def from_pandapower(
    net: Any,
    *,
    tariff: Tariff | None = None,
    customers: Sequence[str] = ("load",),
    profiles: Profiles | Mapping[str, Series] | Series | None = None,
    hours: int | None = None,
    toll: float | None = None,
    connection_max: Any = None,
    clock: Clock | None = None,
    hour_length: Any = None,
    model: GridModel = "lindistflow",
    taps: Taps | None = None,
    voltage: tuple[float, float] = (0.9, 1.1),
) -> tuple[Any, ImportReport]:
    """The grid of a pandapower net (3.5), or with a tariff the market of its customers; a report.

    `net` is the net or the path of a JSON file that pandapower wrote. `profiles` are those of
    `jaxgne.profiles` in kW, `{"load": loads, "sgen": sun}` or loads alone: a row by the name or
    index of each, or one for each in order. They bring clock and length of steps (else 1 h). Or
    they are powers by time, `{("load", "p_mw"): frame}` in MW and Mvar with a column for each row
    that has one, as `simbench.get_absolute_values` makes them, on top of which `scaling` counts.
    All else stays what it is in the tables for all `hours` steps. `taps` says what a tap changer
    without a type means where it is off its neutral position: nothing, as to `runpp`
    ("pandapower"), or what it says, as to other programs ("all"). `voltage` are the limits in
    pu of buses that name none (EN 50160's else).

        grid, report = jg.from_pandapower(net)
        market, report = jg.from_pandapower(net, tariff=tariff, profiles=profiles, toll=0.02)
        print(report)

    Without a `tariff` all load and generation is passive. With one, each row of the tables
    `customers` ("load", "motor", "asymmetric_load") that is in service and supplied is a prosumer,
    in their order. An sgen or gen, and a storage whose energy and power are known, is of the first
    customer at its bus, or a prosumer itself where there is none; generation may be curtailed and
    sold. Everything else stays passive. With a `toll`, in EUR/kWh to each side, all may trade with
    all, at most what the larger of the two can draw or send. `connection_max` is what the wire of
    each customer carries, kVA, one number or one each (`devices.connection`). `clock` and
    `hour_length` are the market's.

    The AC power flow of the grid has the voltages of `runpp` (docs/imports.md). Raises `ValueError`
    for what no grid can say, naming the row: loops under `lindistflow`, voltages held by anything
    but generators, tables of taps; for taps without a type that `taps` does not decide; and for
    profiles with gaps, or of rows that there are not.
    """
    if isinstance(net, (str, Path)):
        net = read_net(net)
    if taps not in (None, "pandapower", "all"):
        raise ValueError(f"from_pandapower: taps={taps!r}: give 'pandapower', 'all' or nothing.")
    own: Any = {"load": profiles} if isinstance(profiles, Series) else profiles
    series = [each for each in (own or {}).values() if isinstance(each, Series)]
    if series:
        length = series[0].hour_length if hour_length is None else hour_length
        if why := series[0].misfit("kW", clock, length):
            raise ValueError(f"from_pandapower: profiles: the first {why}.")
        clock, hour_length = series[0].clock, length
        own = frames_of(net, own)
    hour_length = 1.0 if hour_length is None else hour_length
    steps = steps_of(own, hours)
    grid, report = _grid(net, model, steps, taps, voltage)
    if tariff is None and own is None:
        return grid, report
    units = units_of(net, report, steps, own)
    if tariff is None:
        return with_profiles(grid, units, np.zeros(len(units.kind), bool)), report
    market, report = market_of(
        net, grid, report, units, tariff, customers=customers, toll=toll, clock=clock,
        hour_length=hour_length,
    )  # fmt: skip
    if connection_max is not None:
        market = devices.connection(market, None, connection_max)
    return market, report


def _grid(
    net: Any, model: GridModel, hours: int, taps: Taps | None, voltage: tuple[float, float]
) -> tuple[Grid, ImportReport]:
    """The grid as the net stands, all passive."""
    notes = Notebook()
    _refuse(net)
    for code, tables in _UNREAD.items():
        rows = [f"{kind} {k}" for kind in tables if kind in net for k in net[kind].index]
        notes.some(code, rows)
    notes.some("table.ignored", _unread(net))
    buses, phases = _buses(net, voltage, notes)
    branches = branches_of(net, buses.nominal, taps, notes)
    negative = branches.on & ((branches.impedance.real < 0) | (branches.impedance.imag < 0))
    told = [branches.label[k] for k in np.flatnonzero(negative).tolist()]
    notes.some("branch.negative", told)
    name = f" {net.name!r}" if getattr(net, "name", None) else ""
    source = f"pandapower {getattr(net, 'version', '')}, net{name}".replace(" ,", ",")
    return grid_of(
        Network(buses, branches, ties_of(net)), notes, source, model=model, hours=hours,
        tables=tables_of(net), data={"phases": phases},
    )  # fmt: skip


def _unread(net: Any) -> list[str]:
    """Tables with rows that this module does not know, as those of versions to come."""
    known = {*_READ, *_STRANGE, *_APART, *(name for names in _UNREAD.values() for name in names)}
    return [
        f"{name} ({len(table)} rows)"
        for name, table in net.items()
        if name not in known and hasattr(table, "columns") and len(table)
        if not name.startswith(("_", "res_")) and not name.endswith("geodata")
        if "characteristic" not in name
    ]


def read_net(path: str | Path) -> Any:
    """The net in a JSON file of pandapower's."""
    try:
        from pandapower import from_json  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "reading a file of pandapower's takes pandapower: pip install 'jaxgne[pandapower]'."
        ) from None
    return from_json(str(path))


def _refuse(net: Any) -> None:
    """`ValueError` for rows in service that a grid has no words for."""
    for kind in _STRANGE:
        if kind in net and len(net[kind]) and np.any(column(net[kind], "in_service", 1) == 1):
            told, _ = labels(net[kind], kind)
            k = int(np.argmax(column(net[kind], "in_service", 1) == 1))
            raise ValueError(
                f"{told[k]} is in service, which no grid model has; give the net without it "
                "(in_service False), or with loads in its place."
            )
    for kind in ("trafo", "trafo3w", "shunt"):
        which = "step_dependency_table" if kind == "shunt" else "tap_dependency_table"
        bad = (column(net[kind], which, 0) == 1) & (column(net[kind], "in_service") == 1)
        if np.any(bad):
            told, _ = labels(net[kind], kind)
            raise ValueError(
                f"{told[int(np.argmax(bad))]} depends on its tap or step by a table, which is not "
                f"read; set {which} to False and its values to those of the position."
            )


def _buses(net: Any, voltage: tuple[float, float], notes: Notebook) -> tuple[Buses, Column]:
    """All buses, the stars of three-winding transformers last; and loads by phase, kW + j kvar."""
    told, names = labels(net.bus, "bus")
    stars = len(net.trafo3w)
    kv = column(net.bus, "vn_kv")
    at_star = places(net.bus.index, net.trafo3w.hv_bus.to_numpy(), "trafo3w")
    star_told, star_names = labels(net.trafo3w, "star of trafo3w")
    low, high = column(net.bus, "min_vm_pu"), column(net.bus, "max_vm_pu")
    none = np.isnan(low) | np.isnan(high)
    if np.any(none):
        notes.add("bus.limits", [told[k] for k in np.flatnonzero(none).tolist()], voltage[0])
    low, high = (np.where(np.isnan(a), v, a) for a, v in zip((low, high), voltage, strict=True))
    powers, phases = _powers(net, kv, notes)
    held, fed, angle = _sources(net)

    def wide(values: Column, fill: Any = 0) -> Column:
        return np.concatenate([values, np.full(stars, fill, np.asarray(values).dtype)])

    return Buses(
        [*told, *star_told],
        [*names, *star_names],
        np.append(kv, kv[at_star]),
        **{name: wide(values) for name, values in powers.items()},
        voltage_min=wide(np.clip(low, 0.01, 2), 0.01),
        voltage_max=wide(np.clip(high, 0.01, 2), 2.0),
        held=wide(held, np.nan),
        fed=wide(fed, False),
        angle=wide(angle),
        on=np.append(column(net.bus, "in_service") == 1, np.ones(stars, bool)),
    ), np.concatenate([phases, np.zeros((stars, 3))])


def _sources(net: Any) -> tuple[Column, Column, Column]:
    """Voltages that are held at buses, whether the main grid does, and its angle in degree."""
    count = len(net.bus)
    held, fed, angle = np.full(count, np.nan), np.zeros(count, bool), np.zeros(count)
    gen, grid = net.gen, net.ext_grid
    for table, kind in ((gen, "gen"), (grid, "ext_grid")):
        on = column(table, "in_service") == 1
        at = places(net.bus.index, table.bus.to_numpy()[on], kind)
        held[at] = column(table, "vm_pu", 1)[on]
        slack = np.ones(len(at), bool) if kind == "ext_grid" else column(table, "slack", 0)[on] == 1
        fed[at[slack]] = True
        if kind == "ext_grid":
            angle[at] = column(table, "va_degree", 0)[on]
    return held, fed, angle


def _powers(net: Any, kv: Column, notes: Notebook) -> tuple[dict[str, Column], Column]:
    """What is drawn and made at each bus, in kW + j kvar, and the part that names its phases."""
    count = len(net.bus)
    kinds = ("load", "generation", "current", "quadratic", "shunt")
    powers = {name: np.zeros(count, complex) for name in kinds}
    phases = np.zeros((count, 3), complex)
    off: list[str] = []
    idle = 0.0

    def put(kind: str, kw: Column, to: str, table: Any = None) -> None:
        table = net[kind] if table is None else table
        nonlocal idle
        on = (column(table, "in_service") == 1) & (kw != 0)
        if to in ("load", "generation"):
            out = (column(table, "in_service") != 1) & (kw != 0)
            off.extend(f"{kind} {k}" for k in table.index[out])
            idle += float(np.abs(kw.real[out]).sum())
        at = places(net.bus.index, table.bus.to_numpy()[on], kind)
        np.add.at(powers[to], at, kw[on])

    whole = rated(net.load)
    (i, z), (i_reactive, z_reactive) = shares(net.load)
    current = whole.real * i + 1j * whole.imag * i_reactive
    quadratic = whole.real * z + 1j * whole.imag * z_reactive
    put("load", whole - current - quadratic, "load")
    put("load", current, "current")
    put("load", quadratic, "quadratic")
    put("motor", motors(net.motor), "load")
    put("storage", rated(net.storage), "load")
    put("sgen", rated(net.sgen), "generation")
    free = column(net.gen, "slack", 0) == 1  # these send what the power flow says
    put("gen", np.where(free, 0, rated(net.gen).real + 0j), "generation")
    for kind, to, sign in (
        ("asymmetric_load", "load", 1),
        ("asymmetric_sgen", "generation", -1),
    ):
        each = by_phase(net[kind])
        put(kind, each.sum(axis=1), to)
        on = column(net[kind], "in_service") == 1
        np.add.at(
            phases, places(net.bus.index, net[kind].bus.to_numpy()[on], kind), sign * each[on]
        )
        uneven = on & (np.ptp(each.real, axis=1) + np.ptp(each.imag, axis=1) > 0)
        told = [f"{kind} {k}" for k in net[kind].index[uneven]]
        notes.some("load.phases", told, each.real[uneven].sum())
    for name, to in (("s", "load"), ("z", "shunt")):
        watt, var = column(net.ward, f"p{name}_mw", 0), column(net.ward, f"q{name}_mvar", 0)
        put("ward", 1e3 * (watt + 1j * var), to)
    at = places(net.bus.index, net.shunt.bus.to_numpy(), "shunt")
    own = column(net.shunt, "vn_kv")
    ratio = kv[at] / np.where(np.isnan(own), kv[at], own)
    kva = 1e3 * (column(net.shunt, "p_mw") + 1j * column(net.shunt, "q_mvar"))
    put("shunt", kva * column(net.shunt, "step", 1) * ratio**2, "shunt")
    notes.some("element.off", off, idle)
    return powers, phases
