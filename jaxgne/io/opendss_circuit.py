"""A solved OpenDSS circuit as its engine has it: admittances, seen by balanced voltages."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

_UNEVEN = 1e-6  # share of a voltage that may be unbalanced by rounding
_TURN = np.exp(-2j * np.pi / 3 * np.arange(3))  # voltages of nodes 1, 2, 3


@dataclass
class Pair:
    """What joins two buses, or one with the ground: admittances between its nodes, siemens."""

    admittance: dict[tuple[tuple[int, int], tuple[int, int]], complex] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rating: float = 0.0  # kVA
    carried: dict[tuple[int, int], float] = field(default_factory=dict)  # kVA, at each node
    turns: bool = False  # whether a transformer is among them

    def add(self, nodes: list[tuple[int, int]], matrix: Complex[np.ndarray, "n n"]) -> None:
        """One element more, whose conductors end at these nodes: bus and number, 0 the ground."""
        for row, one in enumerate(nodes):
            for column, two in enumerate(nodes):
                if 0 < one[1] < 4 and 0 < two[1] < 4:
                    known = self.admittance.get((one, two), 0.0)
                    self.admittance[one, two] = known + matrix[row, column]

    def carry(self, nodes: list[tuple[int, int]], kva: Float[np.ndarray, " n"]) -> None:
        """What one element more carries at each of these nodes."""
        for end, each in zip(nodes, kva.tolist(), strict=True):
            if 0 < end[1] < 4:
                self.carried[end] = self.carried.get(end, 0.0) + each

    def between(self, one: int, two: int) -> tuple[list[int], list[int], np.ndarray]:
        """The nodes of two buses, and the admittances from those of the first to the second's."""
        ends = sorted({node for node, _ in self.admittance})
        rows, columns = ([n for bus, n in ends if bus == at] for at in (one, two))
        found = [[self.admittance.get(((one, i), (two, j)), 0.0) for j in columns] for i in rows]
        return rows, columns, np.array(found, complex).reshape(len(rows), len(columns))


@dataclass(frozen=True)
class Source:
    """What holds the voltages of a bus behind an impedance."""

    bus: int
    names: list[str]
    pair: Pair  # of the bus with the ground: the impedance's
    held: dict[int, complex]  # kV to ground, behind it, by node

    @property
    def name(self) -> str:
        return "; ".join(self.names)


def is_solved(engine: Any) -> bool:
    """Whether the state is that of the circuit: `calcvoltagebases` says it has converged, too."""
    now = engine.ActiveCircuit.Solution
    return bool(now.Converged and not now.SystemYChanged)


class Circuit:
    """The buses of a solved circuit, and what is read of each element."""

    def __init__(self, engine: Any):
        self.engine, self.now = engine, engine.ActiveCircuit
        if not is_solved(engine):
            raise ValueError(
                "from_opendss: the circuit is not solved, or was changed since; run its `solve` "
                "first, and see why where that fails."
            )
        self.names: list[str] = [str(name) for name in self.now.AllBusNames]
        self.place = {name: k for k, name in enumerate(self.names)}
        self.kv = np.zeros(len(self.names))  # line to neutral
        self.solved: list[Float[np.ndarray, " P"]] = []  # pu, of the phases
        self.vector: list[dict[int, complex]] = []
        self.phasor: list[dict[int, complex]] = []  # pu, of the phases as solved
        self.neutral: list[float] = []  # pu, the most of other nodes
        for name in self.names:
            self.now.SetActiveBus(name)
            bus = self.now.ActiveBus
            self.kv[self.place[name]] = bus.kVBase
            volts = np.asarray(bus.puVmagAngle).reshape(-1, 2)
            nodes = [int(node) for node in bus.Nodes]
            phased = [k for k, node in enumerate(nodes) if 1 <= node <= 3]
            self.solved.append(volts[phased, 0])
            self.vector.append(_vector({nodes[k]: volts[k, 1] for k in phased}))
            turned = volts[:, 0] * np.exp(1j * np.radians(volts[:, 1]))
            self.phasor.append({nodes[k]: complex(turned[k]) for k in phased})
            others = [volts[k, 0] for k in range(len(nodes)) if k not in phased]
            self.neutral.append(float(max(others, default=0.0)))
        # whether loads are other than they say: by shapes of the mode, or growth of the year
        self.moves = int(self.now.Solution.Mode) != 0 or int(self.now.Solution.Year) != 0
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

    def others(self, *kinds: str) -> list[str]:
        """Enabled elements of no such class, controls aside."""
        found = sorted({str(name).split(".")[0].lower() for name in self.now.AllElementNames})
        controls = ("control", "controller", "dispatcher", "relay", "recloser")
        left = [kind for kind in found if kind not in kinds and not kind.endswith(controls)]
        return [name for name, _ in self.elements(*left)]

    def sources(self) -> "list[Source]":
        """What holds voltages, by bus: three of one phase are one."""
        found: dict[int, Source] = {}
        for name, element in self.elements("vsource"):
            own = self.now.Vsources
            own.Name = name.split(".", 1)[1]
            bus, count = self.bus(element.BusNames[0]), int(element.NumPhases)
            one = found.setdefault(bus, Source(bus, [], Pair(), {}))
            one.names.append(name)
            one.pair.add(*self.read(element))
            size = own.BasekV * own.pu / (1.0 if count == 1 else 2 * np.sin(np.pi / count))
            turn = np.exp(1j * np.radians(own.AngleDeg - 360 / count * np.arange(count)))
            nodes = np.asarray(element.NodeOrder)[:count].tolist()
            one.held.update(zip(nodes, (size * turn).tolist(), strict=True))
        return list(found.values())

    def behind(self, source: Source) -> int:
        """A bus more: that behind the impedance of a source."""
        self.names.append(source.name)
        self.kv = np.append(self.kv, self.kv[source.bus])
        self.phasor.append({n: v / self.kv[source.bus] for n, v in source.held.items()})
        return len(self.names) - 1

    def series(self, source: Source) -> Pair:
        """Its impedance as what joins the bus behind it, the last one, with its own."""
        made, own, last = Pair(names=source.names), source.bus, len(self.names) - 1
        for ((_, one), (_, other)), value in source.pair.admittance.items():
            for near, far, sign in (
                (own, own, 1), (last, last, 1), (own, last, -1), (last, own, -1)
            ):  # fmt: skip
                made.admittance[(near, one), (far, other)] = sign * value
        return made

    def short_of_zero(self, line: str) -> bool:
        """Whether a line of several phases is told by its sequences, with R0 below R1."""
        lines = self.now.Lines
        lines.Name = line.split(".", 1)[1]
        if lines.Phases < 2 or lines.R0 >= lines.R1:
            return False
        mean = (2 * lines.R1 + lines.R0) / 3  # of a phase; else a matrix tells it
        return bool(np.isclose(np.asarray(lines.Rmatrix).ravel()[0], mean, rtol=1e-6))

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

    def shunt(self, bus: int, pair: Pair) -> complex:
        """What a pair of a bus with the ground draws at 1 pu, as an admittance, kW + j kvar."""
        nodes, _, matrix = pair.between(bus, bus)
        volts = self.balanced(bus, nodes)
        return complex(1000 * volts.conj() @ matrix @ volts)

    def across(self, one: int, two: int, pair: Pair) -> tuple[complex, complex]:
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

    def idle(self, one: int, two: int, pair: Pair) -> tuple[complex, bool]:
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
