"""Grids from MATPOWER's case files and PYPOWER's dictionaries: the same tables, read here.

Case files are programs. Their statements are read one by one and their arithmetic is done by
`matlab_terms`; nothing of a file runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..grids import GridModel
from ..market import Grid
from .assembly import grid_of
from .matlab import CONSTANTS, Workspace, read
from .network import Branches, Buses, Column, Network
from .notes import ImportReport, Notebook

# Columns of the tables, from 0.
_BUS, _BRANCH, _GEN = (
    {name: int(k) - 1 for name, k in CONSTANTS[f"idx_{table}"].items()}
    for table in ("bus", "brch", "gen")
)
_REFERENCE, _HELD, _APART = 3, 2, 4  # types of buses
_LEAST = {"bus": 13, "gen": 8, "branch": 11}  # columns that a table has
_READ = ("baseMVA", "bus", "gen", "branch", "bus_name", "version")
_LOW, _MUCH = 100.0, 10.0  # kV, and kA that no source below them gives


@dataclass(frozen=True)
class _Case:
    """The tables of a case, rows as they are told; `first` is the number of the first row."""

    base: float  # MVA
    tables: Mapping[str, Column]
    names: tuple[str, ...]
    first: int
    leak: Column  # pu, conductance of each branch: a table of pandapower's alone

    def bus(self, name: str) -> Column:
        return self.tables["bus"][:, _BUS[name]]

    def branch(self, name: str) -> Column:
        return self.tables["branch"][:, _BRANCH[name]]

    def gen(self, name: str) -> Column:
        return self.tables["gen"][:, _GEN[name]]


def from_matpower(
    case: str | Path,
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    per_phase: bool | None = None,
    voltage: tuple[float, float] = (0.9, 1.1),
) -> tuple[Grid, ImportReport]:
    """The grid of a MATPOWER case, with its loads and generation passive, and a report.

    `case` is the path of a `.m` file or its text. Statements after its tables, such as from kW to
    MW, are worked out where they are arithmetic on tables; nothing is run. Loads are the same in
    all `hours` steps. `per_phase` says whether powers and voltages are those of one phase of three,
    as in `case533mt_hi`; a file that divides nominal voltages by sqrt(3) asks for it. `voltage` are
    the limits (pu) of buses whose own are none.

        grid, report = jg.from_matpower("case33bw.m")

    The AC power flow of the grid has the voltages of `runpf` (docs/imports.md). Raises `ValueError`
    with line and statement for what is not read, with the row for what makes no grid, and for loops
    under `lindistflow`, naming their lines.
    """
    text, source = _text(case)
    notes = Notebook()
    try:
        space = read(text, _READ)
        told = _told(space)
    except ValueError as error:
        raise ValueError(f"{source}, {error}") from None
    source = space.name or source
    prefix = f"{space.struct}." if space.struct else ""
    split = any("sqrt(3)" in "".join(text.split()) for text in space.texts.get(f"{prefix}bus", []))
    if split and per_phase is None:
        raise ValueError(
            f"{source}: nominal voltages are divided by sqrt(3), as where powers are those of one "
            "phase: give per_phase=True to have all three, or per_phase=False to leave them."
        )
    notes.some("statement.done", space.changes)
    costs = [name for name in space.unread if name.endswith("gencost")]
    notes.some("cost.ignored", costs)
    notes.some("table.ignored", [name for name in space.unread if name not in costs])
    made = _case(told, 1, source, 3.0 if per_phase else 1.0)
    return _grid(made, notes, f"MATPOWER case {source}", voltage, model, hours)


def from_pypower(
    ppc: Mapping[str, Any],
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    voltage: tuple[float, float] = (0.9, 1.1),
) -> tuple[Grid, ImportReport]:
    """The grid of a PYPOWER case, `ppc` of `baseMVA`, `bus`, `gen` and `branch`, and a report.

    `hours` and `voltage` are those of `from_matpower`. Rows in messages count from 0. `branch_g`,
    where pandapower's `to_ppc` puts the
    conductance of branches (pu), is read as well."""
    missing = [name for name in ("baseMVA", *_LEAST) if name not in ppc]
    if missing:
        raise ValueError(f"from_pypower: the case has no {', '.join(missing)}.")
    notes = Notebook()
    notes.some("cost.ignored", ["gencost"] * ("gencost" in ppc))
    known = {
        *_READ,
        "branch_g",
        "gencost",
        "success",
        "et",
        "iterations",
        "order",
        "internal",
        "name",
    }
    notes.some("table.ignored", [str(name) for name in ppc if name not in known])
    made = _case(dict(ppc), 0, "from_pypower")
    return _grid(made, notes, "PYPOWER case", voltage, model, hours)


def _text(case: str | Path) -> tuple[str, str]:
    """The text of a case, and what messages call it."""
    if isinstance(case, str) and "\n" in case:
        return case, "case"
    path = Path(case)
    if not path.suffix and not path.exists():
        path = path.with_suffix(".m")
    if path.suffix != ".m":
        raise ValueError(f"from_matpower: {path.name} is no case file; give a .m file or its text.")
    return path.read_text(encoding="utf-8", errors="replace"), path.name


def _told(space: Workspace) -> dict[str, Any]:
    """What is read of a case file, by the names of fields."""
    prefix = f"{space.struct}." if space.struct else ""
    told = {name: space.values[prefix + name] for name in _READ if prefix + name in space.values}
    missing = [name for name in ("baseMVA", *_LEAST) if name not in told]
    if missing:
        raise ValueError(f"it sets no {', '.join(prefix + name for name in missing)}.")
    return told


def _case(told: Mapping[str, Any], first: int, source: str, phases: float = 1.0) -> _Case:
    """Tables with all their columns and finite numbers; `ValueError` with the row else."""
    base = np.asarray(told["baseMVA"], float).ravel()
    if base.size != 1 or not 0 < base[0] < np.inf:
        raise ValueError(f"{source}: baseMVA is {base.tolist()}; give one positive number.")
    tables = {}
    for name, least in _LEAST.items():
        table: Any = np.asarray(told[name])
        if np.iscomplexobj(table):
            if np.any(table.imag):
                raise ValueError(f"{source}: table {name} has complex numbers, which are not read.")
            table = table.real
        table = np.array(table, float)
        if table.size == 0:
            table = np.zeros((0, least))
        if table.ndim != 2 or table.shape[1] < least:
            raise ValueError(
                f"{source}: table {name} has shape {table.shape}; give {least} columns."
            )
        tables[name] = table
    names = told.get("bus_name", ())
    names = tuple(str(name) for name in np.asarray(names, object).ravel())
    leak = np.asarray(told.get("branch_g", np.zeros(len(tables["branch"]))), float)
    if leak.shape != (len(tables["branch"]),):
        raise ValueError(f"{source}: branch_g has shape {leak.shape}; give one number per branch.")
    made = _Case(float(base[0]) * phases, tables, names, first, leak)
    _check(made, source)
    if phases != 1:
        for name, columns in (("bus", "PD QD GS BS"), ("gen", "PG QG"), ("branch", "RATE_A")):
            place = {"bus": _BUS, "gen": _GEN, "branch": _BRANCH}[name]
            tables[name][:, [place[column] for column in columns.split()]] *= phases
        tables["bus"][:, _BUS["BASE_KV"]] *= np.sqrt(phases)
    return made


def _check(case: _Case, source: str) -> None:
    needed = {
        "bus": (_BUS, "BUS_I BUS_TYPE PD QD GS BS VM VA BASE_KV"),
        "gen": (_GEN, "GEN_BUS PG QG VG GEN_STATUS"),
        "branch": (_BRANCH, "F_BUS T_BUS BR_R BR_X BR_B RATE_A TAP SHIFT BR_STATUS"),
    }
    for table, (place, names) in needed.items():
        for name in names.split():
            bad = np.flatnonzero(~np.isfinite(case.tables[table][:, place[name]]))
            if bad.size and name != "RATE_A":
                raise ValueError(
                    f"{source}: {table} row {bad[0] + case.first} has no number {name}."
                )
    for table, name, lowest in (("branch", "TAP", 0.0), ("gen", "VG", 1e-3), ("bus", "VM", 1e-3)):
        column = {"bus": case.bus, "gen": case.gen, "branch": case.branch}[table](name)
        bad = np.flatnonzero(column < lowest)
        if bad.size:
            k = int(bad[0])
            raise ValueError(f"{source}: {table} row {k + case.first} has {name} {column[k]:g}.")
    number, times = np.unique(case.bus("BUS_I"), return_counts=True)
    if np.any(times > 1):
        raise ValueError(f"{source}: bus {number[np.argmax(times > 1)]:.17g} is there twice.")
    for table, column in (("gen", "GEN_BUS"), ("branch", "F_BUS"), ("branch", "T_BUS")):
        ends = (case.gen if table == "gen" else case.branch)(column)
        lost = np.flatnonzero(~np.isin(ends, number))
        if lost.size:
            raise ValueError(
                f"{source}: {table} row {lost[0] + case.first} is at bus {ends[lost[0]]:.17g}, "
                "which is not in the bus table."
            )


def _at(case: _Case, wanted: Column) -> Column:
    """Rows of buses by their numbers."""
    order = np.argsort(case.bus("BUS_I"))
    return order[np.searchsorted(case.bus("BUS_I")[order], wanted)]


def _grid(
    case: _Case,
    notes: Notebook,
    source: str,
    voltage: tuple[float, float],
    model: GridModel,
    hours: int,
) -> tuple[Grid, ImportReport]:
    buses = _buses(case, voltage, notes)
    branches = _branches(case, notes)
    _plausible(buses, branches, case.base, notes)
    ties = np.zeros((0, 2), np.int64)
    named = len(case.names) == len(buses)
    loads = tuple((name, k) for k, name in enumerate(case.names * named))
    return grid_of(
        Network(buses, branches, ties), notes, source, model=model, hours=hours,
        data={"loads": loads},
    )  # fmt: skip


def _buses(case: _Case, voltage: tuple[float, float], notes: Notebook) -> Buses:
    number, kind = case.bus("BUS_I"), case.bus("BUS_TYPE")
    labels = [f"bus {k:.17g}" for k in number.tolist()]
    names = case.names if len(case.names) == len(labels) else labels
    on = kind != _APART
    power = 1e3 * (case.bus("PD") + 1j * case.bus("QD"))
    sends = on & (power.real < 0)
    notes.some("load.negative", _those(labels, sends), -power.real[sends].sum())
    kv = case.bus("BASE_KV")
    notes.some("bus.nominal", _those(labels, kv <= 0))
    low, high = case.bus("VMIN"), case.bus("VMAX")
    source = kind == _REFERENCE  # its limits do not count, and are often both 1
    none = ~((low > 0) & (high <= 2) & ((low < high) | (source & (low == high))))
    if np.any(none):
        notes.add("bus.limits", _those(labels, none), voltage[0])
    generation, held, fed = _generation(case, labels, notes)
    return Buses(
        labels,
        names,
        np.where(kv > 0, kv, 1.0),
        load=np.where(sends, 0, power),
        generation=generation - np.where(sends, power, 0),
        shunt=1e3 * (case.bus("GS") - 1j * case.bus("BS")),
        voltage_min=np.where(none, voltage[0], low),
        voltage_max=np.where(none, voltage[1], high),
        held=held,
        fed=fed,
        angle=np.where(fed, case.bus("VA"), 0),
        on=on,
    )


def _generation(case: _Case, labels: list[str], notes: Notebook) -> tuple[Column, Column, Column]:
    """What generators send at each bus, the voltages they hold, and where the main grid does.

    As in MATPOWER, reference buses give what is left, the last generator in service at a bus says
    its voltage, and generators at PQ buses hold none.
    """
    kind = case.bus("BUS_TYPE")
    fed = kind == _REFERENCE
    at, on = _at(case, case.gen("GEN_BUS")), case.gen("GEN_STATUS") > 0
    power = 1e3 * (case.gen("PG") + 1j * case.gen("QG"))
    told = [f"gen {k + case.first} at {labels[b]}" for k, b in enumerate(at.tolist())]
    off = ~on & (power != 0)
    notes.some("element.off", _those(told, off), np.abs(power.real[off]).sum())
    slack = on & fed[at]
    notes.some("source.power", _those(told, slack & (power != 0)), power.real[slack].sum())
    held = np.full(len(kind), np.nan)
    keeps = on & (slack | (kind[at] == _HELD))
    held[at[keeps]] = case.gen("VG")[keeps]
    alone = fed & np.isnan(held)
    notes.some("source.voltage", _those(labels, alone))
    held = np.where(alone, case.bus("VM"), held)
    sent = np.zeros(len(kind), complex)
    count = on & ~slack
    np.add.at(sent, at[count], np.where(keeps, power.real, power)[count])
    return sent, held, fed


def _branches(case: _Case, notes: Notebook) -> Branches:
    ends = case.branch("F_BUS"), case.branch("T_BUS")
    names = [f"{a:.17g}-{b:.17g}" for a, b in zip(*(end.tolist() for end in ends), strict=True)]
    labels = [f"branch {k + case.first} ({name})" for k, name in enumerate(names)]
    kva = 1e3 * case.base
    on = case.branch("BR_STATUS") > 0
    rating = 1e3 * case.branch("RATE_A")
    none = ~((rating > 0) & np.isfinite(rating))
    notes.some("branch.no_rating", _those(labels, none & on))
    impedance = (case.branch("BR_R") + 1j * case.branch("BR_X")) / kva
    negative = on & ((impedance.real < 0) | (impedance.imag < 0))
    notes.some("branch.negative", _those(labels, negative))
    charging = 0.5 * kva * (case.leak - 1j * case.branch("BR_B"))
    tap = case.branch("TAP")
    return Branches(
        labels, names, _at(case, ends[0]), _at(case, ends[1]), impedance,
        tap=np.where(tap == 0, 1, tap), shift=case.branch("SHIFT"), near=charging, far=charging,
        rating=np.where(none, np.inf, rating), on=on,
    )  # fmt: skip


def _plausible(buses: Buses, branches: Branches, base: float, notes: Notebook) -> None:
    """Sums by which a wrong unit shows: load over the base, resistances, current at the source."""
    mw = 1e-3 * buses.load.real[buses.on].sum()
    ohm = branches.impedance.real * 1e3 * buses.nominal[branches.target] ** 2
    notes.add(
        "units.sums",
        [f"load {mw:.6g} MW is {mw / base:.4g} baseMVA", f"r {ohm[branches.on].sum():.4g} ohm"],
    )
    kv = np.max(buses.nominal, initial=0.0)
    if kv < _LOW and not any(note.code == "bus.nominal" for note in notes.notes):
        current = 1e-3 * np.abs(buses.load[buses.on].sum()) / (np.sqrt(3) * kv)
        if current > _MUCH:
            notes.add("units.load", number=current)


def _those(told: Any, these: Column) -> list[str]:
    return [told[k] for k in np.flatnonzero(these).tolist()]
