"""Grids from OpenDSS circuits, as the engine itself has them: `docs/imports.md`.

All that joins buses is read as the engine's own admittances (`Yprim`), whatever units, line codes,
taps or connections they come from. In a balanced grid what joins the same two buses is one branch:
the voltage that a balanced current loses on it, and how a balanced voltage comes through, on
average of the phases it has. So three single-phase regulators are a bank, and a lateral of one
phase has three times the impedance in pu that it would have as a line of three. `opendss_phases`
makes grids in three phases of the same.
"""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..grids import MODELS, GridModel
from ..market import Grid
from .assembly import grid_of, loop_of, outward
from .network import Branches, Buses, Network
from .notes import ImportReport, Notebook, Total
from .opendss_circuit import Circuit, Pair, is_solved
from .opendss_phases import phased_grid
from .opendss_stands import drawn_by
from .reducing import reduce

_DEFAULT_AMPS = 400.0  # what the engine takes where nobody says
_JOINS = ("line", "transformer", "autotrans", "reactor", "capacitor", "fuse")
_MADE = ("pvsystem", "storage", "generator", "isource", "vccs", "indmach012")
_QUIET = ("monitor", "sensor", "energymeter")  # which only look; controls are where they are
_BALANCED = ("phases.few", "load.phases")  # what notes say of balanced grids only
# Of P and Q, whether a load is constant, times |v| or times |v|^2; models of the engine.
_MODELS = {1: "cc", 2: "qq", 3: "cq", 4: "iq", 5: "ii", 6: "cc", 7: "cq"}


def from_opendss(
    source: Any,
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    voltage: tuple[float, float] = (0.95, 1.05),
) -> tuple[Grid, ImportReport]:
    """The grid of an OpenDSS circuit, with all loads passive, and a report.

    It is the balanced equivalent, or with `model="lindist3flow"` a grid in three phases, a row for
    each phase of a bus. `source` is the engine (`dss.DSS` of dss-python) with a solved circuit in
    it, or the path of a master file, which dss-python then compiles and solves: such files are
    scripts of the engine's own language. Loads are the same in all `hours` steps. `voltage` are
    limits of all buses, pu.

        from dss import DSS
        DSS.Text.Command = "redirect Master.dss"
        grid, report = jg.from_opendss(DSS)

    Regulators stay at the taps of the solution; generators, photovoltaics and storages at its
    power, and so do loads of a solution by shapes or growth (`mode`, `year`); in three phases all
    of them. `report.totals["source"]` is the power of the source in the solution and in the grid's
    state, `report.data["phases"]` what each element is by phase, and `report.data["loads"]` the
    name of each load and the row of its bus: in three phases each of its rows, of the grid. Raises
    `ValueError` for a circuit that is not solved or has no base voltages, for elements that join
    more than two buses, for loops but under `paper`, and for what no rows of phases can say.
    """
    circuit = Circuit(_compiled(source) if isinstance(source, (str, Path)) else source)
    notes = Notebook()
    phases: dict[str, Any] = {}
    pairs = _pairs(circuit, notes, phases)
    buses = _buses(circuit, notes, phases, voltage)
    buses, network = _joined(circuit, buses, pairs)
    if MODELS[model].phased:
        return _phased(circuit, network, pairs, phases, notes, hours=hours, voltage=voltage)
    name, rows = circuit.now.Name, {bus: k for k, bus in enumerate(circuit.names)}
    loads = tuple(
        (element.split(".", 1)[1], rows[each["bus"]])
        for element, each in phases.items()
        if element.lower().startswith("load.")
    )
    grid, report = grid_of(
        network, notes, f"OpenDSS, circuit {name!r}", model=model, hours=hours,
        data={"phases": phases, "loads": loads},
    )  # fmt: skip
    return grid, _compared(circuit, report, grid)


def _phased(
    circuit: Circuit,
    network: Network,
    pairs: dict[tuple[int, ...], Pair],
    phases: dict[str, Any],
    notes: Notebook,
    **options: Any,
) -> tuple[Grid, ImportReport]:
    """The grid in three phases along the tree of the balanced one."""
    notes.notes = [note for note in notes.notes if note.code not in _BALANCED]
    reduced, tree = outward(reduce(network, notes))
    if tree.chords.size:
        raise ValueError(loop_of(reduced, tree, "lindist3flow"))
    elements = [drawn_by(circuit, *each) for each in circuit.elements("load", *_MADE)]
    nominal = {
        name: complex(each["kw"], each["kvar"])
        for name, each in phases.items()
        if name.lower().startswith("load.")
    }
    grid, report = phased_grid(circuit, reduced, pairs, elements, nominal, notes, **options)
    voltages = dict(zip(circuit.names, circuit.solved, strict=False))
    return grid, replace(report, data={**report.data, "phases": phases, "voltages": voltages})


def _compiled(path: str | Path) -> Any:
    try:
        from dss import DSS  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "reading OpenDSS files takes dss-python: pip install 'jaxgne[opendss]'."
        ) from None
    if not Path(path).is_file():
        raise ValueError(f"from_opendss: {path} is no file; give the master file of a circuit.")
    engine = DSS.NewContext()
    engine.AllowForms = engine.AllowChangeDir = False
    with tempfile.TemporaryDirectory() as folder:  # for what scripts write
        for command in ("clear", f'set datapath="{folder}"', f'redirect "{Path(path).resolve()}"'):
            engine.Text.Command = command
        if not is_solved(engine):
            engine.Text.Command = "solve"
    return engine


def _pairs(
    circuit: Circuit, notes: Notebook, phases: dict[str, Any]
) -> dict[tuple[int, ...], Pair]:
    """All elements that join buses, by the buses that they join."""
    pairs: dict[tuple[int, ...], Pair] = {}
    few, default, opened, zero = [], [], [], []
    for name, element in circuit.elements(*_JOINS):
        nodes, matrix = circuit.read(element)
        ends = sorted({bus for bus, node in nodes if node > 0})
        if len(ends) > 2:
            joined = ", ".join(circuit.names[end] for end in ends)
            raise ValueError(
                f"from_opendss: {name} joins {joined}: more than two buses, which no branch does; "
                "model it as transformers of two windings."
            )
        if not ends:
            continue
        kind = name.split(".")[0].lower()
        pair = pairs.setdefault(tuple(ends), Pair())
        pair.names.append(name)
        pair.add(nodes, matrix)
        if len(ends) == 1:
            continue
        pair.turns |= kind in ("transformer", "autotrans")
        count = len({node for bus, node in nodes if bus == ends[1] and 0 < node < 4})
        if kind == "transformer":
            circuit.now.Transformers.Name = name.split(".", 1)[1]
            most = float(circuit.now.Transformers.kVA)
            pair.rating += most
            share = Counter(bus for bus, node in nodes if 0 < node < 4)
            pair.carry(nodes, np.array([most / max(share[bus], 1) for bus, _ in nodes]))
        else:
            amps = float(element.NormalAmps)
            most = amps if amps > 0 else np.inf
            pair.rating += most * circuit.kv[ends[1]] * count
            pair.carry(nodes, most * circuit.kv[[bus for bus, _ in nodes]])
            if kind == "line" and amps == _DEFAULT_AMPS:
                default.append(name)
            if kind == "line" and circuit.short_of_zero(name):
                zero.append(name)
        if count < 3:
            few.append(name)
        if any(element.IsOpen(k, 0) for k in range(1, element.NumTerminals + 1)):
            opened.append(name)
        phases[name] = {
            "buses": [circuit.names[end] for end in ends],
            "nodes": np.asarray(element.NodeOrder).reshape(element.NumTerminals, -1).tolist(),
            "admittance": matrix,  # siemens
        }
    notes.some("phases.few", few)
    notes.some("branch.default_rating", default)
    notes.some("branch.off", opened)
    notes.some("line.zero_sequence", zero)
    return pairs


def _buses(
    circuit: Circuit, notes: Notebook, phases: dict[str, Any], voltage: tuple[float, float]
) -> Buses:
    """Loads by what they are at each voltage, and what is made, as solved."""
    count = len(circuit.names)
    drawn = {kind: np.zeros(count, complex) for kind in "ciq"}
    made = np.zeros(count, complex)
    uneven, fixed, alone = [], [], 0.0
    moved, drawn_so = [], 0.0
    loads, scale = circuit.now.Loads, float(circuit.now.Solution.LoadMult)
    for name, element in circuit.elements("load"):
        loads.Name = name.split(".", 1)[1]
        bus, model = circuit.bus(element.BusNames[0]), int(loads.Model)
        power = complex(loads.kW, loads.kvar) * (scale if int(loads.Status) == 0 else 1.0)
        shares, solved = _shares(loads, model), circuit.moves or element.IsOpen(1, 0)
        if solved:
            power = _drawn(element)
            shares = _shares(loads, 1)
            moved.append(name)
            drawn_so += power.real
        nodes = [int(node) for node in element.NodeOrder if 1 <= int(node) <= 3]
        phases[name] = {
            "bus": circuit.names[bus], "nodes": nodes, "kw": power.real, "kvar": power.imag,
            "delta": bool(loads.IsDelta), "model": model,
        }  # fmt: skip
        between = len(nodes) > 1 or element.NumPhases > 1
        per = circuit.kv[bus] * (np.sqrt(3) if between else 1.0) / float(loads.kV)
        for part, each in zip((power.real, 1j * power.imag), shares, strict=True):
            for kind, share in each.items():
                drawn[kind][bus] += part * share * per ** "ciq".index(kind)
        if element.NumPhases < 3:
            uneven.append(name)
            alone += power.real
    for name, element in circuit.elements(*_MADE):
        bus = circuit.bus(element.BusNames[0])
        sent = -np.asarray(element.Powers).reshape(-1, 2).sum(axis=0)
        made[bus] += complex(*sent)
        fixed.append(name)
        phases[name] = {"bus": circuit.names[bus], "kw": sent[0], "kvar": sent[1]}
    regulators = [str(n) for n in circuit.now.RegControls.AllNames if str(n).lower() != "none"]
    notes.some("load.phases", uneven, alone)
    notes.some("load.solved", moved, drawn_so)
    notes.some("element.ignored", circuit.others(*_JOINS, *_MADE, *_QUIET, "load", "vsource"))
    notes.some("element.solved", fixed, float(np.real(made).sum()) if fixed else None)
    notes.some("tap.solved", [f"RegControl.{name}" for name in regulators])
    notes.add("bus.limits", number=voltage[0])
    return Buses(
        [f"bus {name}" for name in circuit.names], circuit.names, np.sqrt(3) * circuit.kv,
        load=drawn["c"], current=drawn["i"], quadratic=drawn["q"], generation=made,
        voltage_min=voltage[0], voltage_max=voltage[1],
    )  # fmt: skip


def _drawn(element: Any) -> complex:
    """What a load draws in the solution, kW + j kvar; the engine tells open conductors' as well."""
    powers = np.asarray(element.Powers).reshape(-1, 2)
    shut = [not element.IsOpen(1, k + 1) for k in range(len(powers))]
    return complex(*powers[shut].sum(axis=0))


def _shares(loads: Any, model: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of P and of Q, which share is constant, times |v| and times |v|^2."""
    if model == 8:
        shares = np.asarray(loads.ZIPV, float)
        active, reactive = (dict(zip("qic", part, strict=True)) for part in np.split(shares[:6], 2))
        return active, reactive
    if model not in _MODELS:
        raise ValueError(
            f"from_opendss: Load.{loads.Name} has model {model}; give it a model from 1 to 8."
        )
    active, reactive = _MODELS[model]
    return {active: 1.0}, {reactive: 1.0}


def _joined(
    circuit: Circuit, buses: Buses, pairs: dict[tuple[int, ...], Pair]
) -> tuple[Buses, Network]:
    """The network: a branch for each two buses, and a bus for each source behind its impedance."""
    shunt = buses.shunt.copy()
    rows = []
    for ends, pair in pairs.items():
        if len(ends) == 1:
            shunt[ends[0]] += np.conj(circuit.shunt(ends[0], pair))
            continue
        one, two = ends
        (y21, y22), (y12, y11) = circuit.across(one, two, pair), circuit.across(two, one, pair)
        if y21 == 0 or y12 == 0:  # open
            for end in ends:
                shunt[end] += np.conj(circuit.shunt(end, pair))
            continue
        idle, uneven = circuit.idle(one, two, pair)
        if pair.turns and uneven:
            turn = -y22 / y21  # of the phases on average
            port = (-1 / (y21 * turn), abs(turn), float(np.degrees(np.angle(turn))), idle, 0j)
        else:
            port = _two_port(y11, y12, y21, y22, turns=pair.turns)
        rows.append((one, two, *port, "; ".join(pair.names), pair.rating))
    labels, names, nominal = list(buses.label), list(buses.name), list(buses.nominal)
    held, fed = [np.nan] * len(buses), [False] * len(buses)
    angles = [0.0] * len(buses)
    for source in circuit.sources():
        bus, name = source.bus, source.name
        port = (1 / circuit.shunt(bus, source.pair), 1.0, 0.0, 0.0, 0.0)
        rows.append((len(labels), bus, *port, name, np.inf))
        labels.append(f"{name} behind its impedance")
        names.append(name)
        nominal.append(buses.nominal[bus])
        held.append(float(np.mean(np.abs(list(source.held.values()))) / circuit.kv[bus]))
        fed.append(True)
        angles.append(0.0)
    more = len(labels) - len(buses)
    wide = {
        name: np.append(getattr(buses, name), np.zeros(more))
        for name in ("load", "current", "quadratic", "generation")
    }
    limits = {
        name: np.append(getattr(buses, name), np.full(more, getattr(buses, name)[0]))
        for name in ("voltage_min", "voltage_max")
    }
    all_buses = Buses(
        labels, names, np.array(nominal), shunt=np.append(shunt, np.zeros(more)),
        held=np.array(held), fed=np.array(fed), angle=np.array(angles), **wide, **limits,
    )  # fmt: skip
    columns = list(zip(*rows, strict=True))
    source, target, impedance, tap, shift, near, far, called, rating = map(list, columns)
    branches = Branches(
        called, called, np.array(source), np.array(target), np.array(impedance),
        tap=np.array(tap), shift=np.array(shift), near=np.array(near), far=np.array(far),
        rating=np.array(rating),
    )  # fmt: skip
    return all_buses, Network(all_buses, branches, np.zeros((0, 2), int))


def _two_port(
    y11: complex, y12: complex, y21: complex, y22: complex, *, turns: bool
) -> tuple[complex, float, float, complex, complex]:
    """Impedance, tap, shift (degree), near and far shunt of what joins two buses.

    With y behind an ideal transformer of ratio t e^(j phi) at the first,

        y11 = (y + near) / t^2, y12 = -y / t e^(j phi), y21 = -y / t e^(-j phi), y22 = y + far:

    the shunts take up what is left, so the two-port is the same for any t.
    """
    if not turns:
        return -1 / y21, 1.0, 0.0, np.conj(y11 + y21), np.conj(y22 + y21)
    phi, tap = np.angle(y12 / y21) / 2, abs(y22 / y21)
    series = -y21 * tap * np.exp(1j * phi)
    if series.real < 0 and abs(series.real) > 1e-6 * abs(series):  # the other of two square roots
        series, phi = -series, phi + np.pi
    near, far = y11 * tap**2 - series, y22 - series
    return 1 / series, tap, float(np.degrees(phi)), np.conj(near), np.conj(far)


def _compared(circuit: Circuit, report: ImportReport, grid: Grid) -> ImportReport:
    """The report with the balanced state beside the solved circuit."""
    mean = np.array([np.mean(volts) if len(volts) else np.nan for volts in circuit.solved])
    at = report.bus[: len(mean)]
    kept = (at >= 0) & ~np.isnan(mean)
    balanced = np.abs(report.state)[at]
    off = np.where(kept, np.abs(balanced - mean), 0.0)
    spread = np.array([
        np.max(np.abs(volts - now)) if held and len(volts) else 0.0
        for volts, now, held in zip(circuit.solved, balanced, kept, strict=True)
    ])  # fmt: skip
    notes = Notebook()
    for code, far in (("state.solved", off), ("state.phases", spread)):
        notes.add(code, [f"bus {circuit.names[int(np.argmax(far))]}"], far.max(initial=0.0))
    sent = complex(*(-np.asarray(circuit.now.TotalPower)))
    drawn = _source_power(report, grid)
    totals = dict(report.totals)
    totals["source"] = Total(sent.real, drawn.real, "kW")
    totals["source, reactive"] = Total(sent.imag, drawn.imag, "kvar")
    data = {**report.data, "voltages": dict(zip(circuit.names, circuit.solved, strict=True))}
    return replace(report, notes=(*report.notes, *notes.notes), totals=totals, data=data)


def _source_power(report: ImportReport, grid: Grid) -> complex:
    """What comes out of the impedances of sources in the balanced state, kW + j kvar."""
    fed = np.isin(np.asarray(grid.source), np.asarray(grid.feeder))
    source, target = np.asarray(grid.source)[fed], np.asarray(grid.target)[fed]
    ohm = np.asarray(grid.resistance)[fed] + 1j * np.asarray(grid.reactance)[fed]
    here = report.state[target]
    current = (report.state[source] / np.asarray(grid.tap)[fed] - here) / ohm
    return complex(np.sum(here * np.conj(current)))
