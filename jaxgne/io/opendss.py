"""Balanced grids from OpenDSS circuits, as the engine itself has them: `docs/imports.md`.

All that joins buses is read as the engine's own admittances (`Yprim`), whatever units, line codes,
taps or connections they come from. What joins the same two buses is one branch: the voltage that a
balanced current loses on it, and how a balanced voltage comes through, on average of the phases it
has. So three single-phase regulators are a bank, and a lateral of one phase has three times the
impedance in pu that it would have as a line of three.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from ..grids import GridModel
from ..market import Grid
from .assembly import grid_of
from .network import Branches, Buses, Network
from .notes import ImportReport, Notebook, Total

_DEFAULT_AMPS = 400.0  # what the engine takes where nobody says
_UNEVEN = 1e-6  # share of a voltage that may be unbalanced by rounding
_TURN = np.exp(-2j * np.pi / 3 * np.arange(3))  # voltages of nodes 1, 2, 3
_JOINS = ("line", "transformer", "autotrans", "reactor", "capacitor", "fuse")
_MADE = {"pvsystem", "storage", "generator"}
# Of P and Q, whether a load is constant, times |v| or times |v|^2; models of the engine.
_MODELS = {1: "cc", 2: "qq", 3: "cq", 4: "iq", 5: "ii", 6: "cc", 7: "cq"}


@dataclass
class _Pair:
    """What joins two buses, or one with the ground: admittances between its nodes, siemens."""

    admittance: dict[tuple[tuple[int, int], tuple[int, int]], complex] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rating: float = 0.0  # kVA
    turns: bool = False  # whether a transformer is among them

    def add(self, nodes: list[tuple[int, int]], matrix: Complex[np.ndarray, "n n"]) -> None:
        """One element more, whose conductors end at these nodes: bus and number, 0 the ground."""
        for row, one in enumerate(nodes):
            for column, two in enumerate(nodes):
                if 0 < one[1] < 4 and 0 < two[1] < 4:
                    known = self.admittance.get((one, two), 0.0)
                    self.admittance[one, two] = known + matrix[row, column]

    def between(self, one: int, two: int) -> tuple[list[int], list[int], np.ndarray]:
        """The nodes of two buses, and the admittances from those of the first to the second's."""
        ends = sorted({node for node, _ in self.admittance})
        rows, columns = ([n for bus, n in ends if bus == at] for at in (one, two))
        found = [[self.admittance.get(((one, i), (two, j)), 0.0) for j in columns] for i in rows]
        return rows, columns, np.array(found, complex).reshape(len(rows), len(columns))


class _Circuit:
    """The buses of a solved circuit, and what is read of each element."""

    def __init__(self, engine: Any):
        self.engine, self.now = engine, engine.ActiveCircuit
        if not self.now.Solution.Converged:
            raise ValueError(
                "from_opendss: the circuit is not solved; run its `solve` first, and see why where "
                "that fails."
            )
        self.names: list[str] = [str(name) for name in self.now.AllBusNames]
        self.place = {name: k for k, name in enumerate(self.names)}
        self.kv = np.zeros(len(self.names))  # line to neutral
        self.solved: list[Float[np.ndarray, " P"]] = []  # pu, of the phases
        self.vector: list[dict[int, complex]] = []
        for name in self.names:
            self.now.SetActiveBus(name)
            bus = self.now.ActiveBus
            self.kv[self.place[name]] = bus.kVBase
            volts = np.asarray(bus.puVmagAngle).reshape(-1, 2)
            nodes = [int(node) for node in bus.Nodes]
            phased = [k for k, node in enumerate(nodes) if 1 <= node <= 3]
            self.solved.append(volts[phased, 0])
            self.vector.append(_vector({nodes[k]: volts[k, 1] for k in phased}))
        if np.any(self.kv <= 0):
            name = self.names[int(np.argmin(self.kv))]
            raise ValueError(
                f"from_opendss: bus {name} has no base voltage; run `set voltagebases=[...]`, with "
                "all of the circuit's, `calcvoltagebases` and `solve`."
            )

    def elements(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        """Enabled elements of some classes, each the engine's active one in its turn."""
        for name in self.now.AllElementNames:
            if name.split(".")[0].lower() in kinds:
                self.now.SetActiveElement(name)
                if self.now.ActiveCktElement.Enabled:
                    yield str(name), self.now.ActiveCktElement

    def bus(self, named: str) -> int:
        return self.place[named.split(".")[0].lower()]

    def read(self, element: Any) -> tuple[list[tuple[int, int]], Complex[np.ndarray, "n n"]]:
        """The nodes at which an element's conductors end, and its admittances, siemens."""
        nodes = np.asarray(element.NodeOrder).reshape(element.NumTerminals, -1)
        buses = [self.place[str(name).split(".")[0].lower()] for name in element.BusNames]
        ends = [(bus, int(node)) for bus, own in zip(buses, nodes, strict=True) for node in own]
        matrix = np.asarray(element.Yprim).view(complex).reshape(len(ends), -1, order="F")
        return ends, matrix

    def balanced(self, bus: int, nodes: list[int]) -> Complex[np.ndarray, " n"]:
        """Voltages of nodes at 1 pu, kV."""
        return self.kv[bus] * np.array([self.vector[bus][node] for node in nodes], complex)

    def shunt(self, bus: int, pair: _Pair) -> complex:
        """What a pair of a bus with the ground draws at 1 pu, as an admittance, kW + j kvar."""
        nodes, _, matrix = pair.between(bus, bus)
        volts = self.balanced(bus, nodes)
        return complex(1000 * volts.conj() @ matrix @ volts)

    def across(self, one: int, two: int, pair: _Pair) -> tuple[complex, complex]:
        """y_21 and y_22 of a pair as a two-port, kW + j kvar at 1 pu; 0 for none.

        I_2 = Y_21 V_1 + Y_22 V_2 for the phases. With I_2 balanced, V_1 = Y_21^+ (I_2 - Y_22 V_2)
        is the voltage that is needed at the first bus, of which its balanced part counts.
        """
        nodes, others, through = pair.between(two, one)
        own = pair.between(two, two)[2]
        if not np.any(through):
            return 0j, 0j
        inverse = np.linalg.pinv(through, rcond=1e-9)
        here, there = self.balanced(two, nodes), self.balanced(one, others)
        seen = inverse @ through @ there
        seen = seen.conj() / np.vdot(seen, seen).real  # what of a voltage at the first is balanced
        flows = through @ inverse @ here  # a balanced current, A per kV of the bus
        power = 1000 * np.vdot(here, flows)
        loss, passed = seen @ inverse @ flows, -(seen @ inverse @ own @ here)
        return complex(power / loss), complex(-passed * power / loss)

    def idle(self, one: int, two: int, pair: _Pair) -> tuple[complex, bool]:
        """What a pair draws at the first bus where nothing leaves at 1 pu of the second.

        And whether the voltage that this takes at the first is uneven, as taps of phases differ.
        """
        nodes, others, through = pair.between(two, one)
        here, balanced = self.balanced(two, nodes), self.balanced(one, others)
        inverse = np.linalg.pinv(through, rcond=1e-9)
        there = -inverse @ pair.between(two, two)[2] @ here
        even = inverse @ through @ balanced
        even = even * (np.vdot(even, there) / np.vdot(even, even))
        uneven = np.linalg.norm(there - even) > _UNEVEN * np.linalg.norm(there)
        current = pair.between(one, one)[2] @ there + pair.between(one, two)[2] @ here
        return complex(1000 * np.vdot(current, there)), bool(uneven)


def _vector(angles: dict[int, float]) -> dict[int, complex]:
    """Voltages of a bus's nodes in a balanced circuit; two halves of one winding are opposite."""
    if len(angles) == 2:
        one, two = sorted(angles)
        apart = abs((angles[one] - angles[two] + 180) % 360 - 180)
        if apart > 150:
            return {one: 1.0, two: -1.0}
    return {node: _TURN[node - 1] for node in angles}


def from_opendss(
    source: Any,
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    voltage: tuple[float, float] = (0.95, 1.05),
) -> tuple[Grid, ImportReport]:
    """The balanced equivalent of an OpenDSS circuit, with all loads passive, and a report.

    `source` is the engine (`dss.DSS` of dss-python) with a solved circuit in it, or the path of a
    master file, which dss-python then compiles and solves: such files are scripts of the engine's
    own language. Loads are the same in all `hours` steps. `voltage` are the limits of all buses, pu.

        from dss import DSS
        DSS.Text.Command = "redirect Master.dss"
        grid, report = jg.from_opendss(DSS)

    Regulators stay at the taps of the solution; generators, photovoltaics and storages at its
    power. `report.totals["source"]` is the power of the source in the solution and in the balanced
    state, `report.data["phases"]` what each element is by phase. Raises `ValueError` for a circuit
    that is not solved or has no base voltages, for elements that join more than two buses, and for
    loops under `lindistflow`.
    """
    circuit = _Circuit(_compiled(source) if isinstance(source, (str, Path)) else source)
    notes = Notebook()
    phases: dict[str, Any] = {}
    pairs = _pairs(circuit, notes, phases)
    buses = _buses(circuit, notes, phases, voltage)
    buses, network = _joined(circuit, buses, pairs)
    name = circuit.now.Name
    grid, report = grid_of(
        network, notes, f"OpenDSS, circuit {name!r}", model=model, hours=hours,
        data={"phases": phases},
    )  # fmt: skip
    return grid, _compared(circuit, report, grid)


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
    engine.Text.Command = "clear"
    engine.Text.Command = f'redirect "{Path(path).resolve()}"'
    if not engine.ActiveCircuit.Solution.Converged:
        engine.Text.Command = "solve"
    return engine


def _pairs(
    circuit: _Circuit, notes: Notebook, phases: dict[str, Any]
) -> dict[tuple[int, ...], _Pair]:
    """All elements that join buses, by the buses that they join."""
    pairs: dict[tuple[int, ...], _Pair] = {}
    few, default, opened = [], [], []
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
        pair = pairs.setdefault(tuple(ends), _Pair())
        pair.names.append(name)
        pair.add(nodes, matrix)
        if len(ends) == 1:
            continue
        pair.turns |= kind in ("transformer", "autotrans")
        count = len({node for bus, node in nodes if bus == ends[1] and 0 < node < 4})
        if kind == "transformer":
            circuit.now.Transformers.Name = name.split(".", 1)[1]
            pair.rating += float(circuit.now.Transformers.kVA)
        else:
            amps = float(element.NormalAmps)
            pair.rating += amps * circuit.kv[ends[1]] * count if amps > 0 else np.inf
            if kind == "line" and amps == _DEFAULT_AMPS:
                default.append(name)
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
    return pairs


def _buses(
    circuit: _Circuit, notes: Notebook, phases: dict[str, Any], voltage: tuple[float, float]
) -> Buses:
    """Loads by what they are at each voltage, and what is made, as solved."""
    count = len(circuit.names)
    drawn = {kind: np.zeros(count, complex) for kind in "ciq"}
    made = np.zeros(count, complex)
    uneven, fixed = [], []
    loads, scale = circuit.now.Loads, float(circuit.now.Solution.LoadMult)
    for name, element in circuit.elements("load"):
        loads.Name = name.split(".", 1)[1]
        bus, model = circuit.bus(element.BusNames[0]), int(loads.Model)
        power = complex(loads.kW, loads.kvar) * (1.0 if int(loads.Status) == 1 else scale)
        nodes = [int(node) for node in element.NodeOrder if 1 <= int(node) <= 3]
        phases[name] = {
            "bus": circuit.names[bus], "nodes": nodes, "kw": power.real, "kvar": power.imag,
            "delta": bool(loads.IsDelta), "model": model,
        }  # fmt: skip
        between = len(nodes) > 1 or element.NumPhases > 1
        per = circuit.kv[bus] * (np.sqrt(3) if between else 1.0) / float(loads.kV)
        for part, shares in zip((power.real, 1j * power.imag), _shares(loads, model), strict=True):
            for kind, share in shares.items():
                drawn[kind][bus] += part * share * per ** "ciq".index(kind)
        if element.NumPhases < 3:
            uneven.append(name)
    for name, element in circuit.elements(*_MADE):
        bus = circuit.bus(element.BusNames[0])
        sent = -np.asarray(element.Powers).reshape(-1, 2).sum(axis=0)
        made[bus] += complex(*sent)
        fixed.append(name)
        phases[name] = {"bus": circuit.names[bus], "kw": sent[0], "kvar": sent[1]}
    regulators = [str(n) for n in circuit.now.RegControls.AllNames if str(n).lower() != "none"]
    notes.some("phases.load", uneven)
    notes.some("element.solved", fixed, made.real.sum() if fixed else None)
    notes.some("tap.solved", [f"RegControl.{name}" for name in regulators])
    notes.add("bus.limits", number=voltage[0])
    return Buses(
        [f"bus {name}" for name in circuit.names], circuit.names, np.sqrt(3) * circuit.kv,
        load=drawn["c"], current=drawn["i"], quadratic=drawn["q"], generation=made,
        voltage_min=voltage[0], voltage_max=voltage[1],
    )  # fmt: skip


def _shares(loads: Any, model: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of P and of Q, which share is constant, times |v| and times |v|^2."""
    if model == 8:
        shares = np.asarray(loads.ZIPV, float)
        active, reactive = (dict(zip("qic", part, strict=True)) for part in shares[:6].reshape(2, 3))
        return active, reactive
    if model not in _MODELS:
        raise ValueError(
            f"from_opendss: Load.{loads.Name} has model {model}; give it a model from 1 to 8."
        )
    active, reactive = _MODELS[model]
    return {active: 1.0}, {reactive: 1.0}


def _joined(
    circuit: _Circuit, buses: Buses, pairs: dict[tuple[int, ...], _Pair]
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
    sources = circuit.now.Vsources
    for name, element in circuit.elements("vsource"):
        sources.Name = name.split(".", 1)[1]
        bus, pair = circuit.bus(element.BusNames[0]), _Pair()
        pair.add(*circuit.read(element))
        rows.append((len(labels), bus, 1 / circuit.shunt(bus, pair), 1.0, 0.0, 0.0, 0.0, name, np.inf))
        labels.append(f"{name} behind its impedance")
        names.append(name)
        nominal.append(buses.nominal[bus])
        held.append(float(sources.BasekV) * float(sources.pu) / buses.nominal[bus])
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


def _compared(circuit: _Circuit, report: ImportReport, grid: Grid) -> ImportReport:
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
