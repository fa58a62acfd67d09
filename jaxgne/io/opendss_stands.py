"""What elements of a solved OpenDSS circuit draw, and at which rows of a grid they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .opendss_circuit import Circuit, Pair
from .opendss_rows import PAIRS, Link, Rows

_ROUNDED = 1e-7  # share of what an element draws that is the solution's rounding
Place = tuple[int, ...]  # one, two or three rows of a bus


@dataclass(frozen=True)
class Drawn:
    """What an element draws in the solution: by node, and between which it is connected."""

    name: str
    bus: int
    power: dict[int, complex]  # kW + j kvar
    between: list[tuple[int, int]]  # nothing where it is connected to ground

    @property
    def total(self) -> complex:
        return sum(self.power.values(), 0j)

    def at(self, nodes: tuple[int, ...]) -> "Drawn":
        """What of it is at these: where another node is dead, what it draws of each."""
        live = {node: power for node, power in self.power.items() if node in nodes}
        return self if len(live) == len(self.power) else replace(self, power=live, between=[])

    @property
    def unequal(self) -> bool:
        """Whether it draws from phases to ground, and not from all three."""
        return not self.between and len(self.power) < 3


def drawn_by(circuit: Circuit, name: str, element: Any) -> Drawn:
    """The element that is the engine's active one."""
    count = int(element.NumConductors)
    powers = np.asarray(element.Powers).reshape(-1, 2)[:count] @ [1, 1j]
    ends = [int(node) for node in element.NodeOrder[:count]]
    shut = [not element.IsOpen(1, k + 1) for k in range(count)]
    told = list(zip(ends, powers.tolist(), shut, strict=True))
    nodes = [node for node in ends if 0 < node < 4]  # beside them, it is to ground
    delta = False
    if name.lower().startswith("load."):
        circuit.now.Loads.Name = name.split(".", 1)[1]
        delta = bool(circuit.now.Loads.IsDelta)
    phases = int(element.NumPhases)
    between = []
    if (delta or phases == 1) and len(nodes) == count > 1:
        around = [*zip(nodes, [*nodes[1:], nodes[0]], strict=True)]
        between = around if phases == 3 else around[: count - 1]
    power = {node: s if on else 0j for node, s, on in told if 0 < node < 4}
    return Drawn(name, circuit.bus(element.BusNames[0]), power, between)


class Stands:
    """What draws where, of the solution: at rows of buses, and at what spans some of them."""

    def __init__(self, circuit: Circuit, rows: Mapping[int, Rows]):
        self.rows = rows
        self.nodal = {
            bus: np.array([circuit.phasor[bus][node] for node in own.nodes])
            for bus, own in rows.items()
        }
        self.volts = {bus: own.reading @ self.nodal[bus] for bus, own in rows.items()}
        self.own = {bus: np.zeros(len(v), complex) for bus, v in self.volts.items()}
        self.constant = {bus: np.zeros(len(v), complex) for bus, v in self.volts.items()}
        self.taken = {bus: np.zeros(len(v), complex) for bus, v in self.volts.items()}  # currents
        self.spans: dict[tuple[int, Place], complex] = {}

    def put(self, each: Drawn) -> list[Place]:
        """An element at its rows, and what it draws beside that as constant; where it stands."""
        rows, volts = self.rows[each.bus], self.volts[each.bus]
        places, taken = _places(rows, each), np.zeros(len(volts), complex)
        for at, power in places:
            if len(at) == 1:
                self.own[each.bus][at[0]] += power
            else:
                self.spans[each.bus, at] = self.spans.get((each.bus, at), 0j) + power
            if len(at) == 2:
                taken[list(at)] += np.array([1, -1]) * np.conj(
                    power / (volts[at[0]] - volts[at[1]])
                )
            else:
                taken[list(at)] += np.conj(power / len(at) / volts[list(at)])
        self.taken[each.bus] += taken
        if rows.kind != "halves":
            currents = np.zeros(len(rows.nodes), complex)
            for node, power in each.power.items():
                k = rows.nodes.index(node)
                currents[k] += np.conj(power / self.nodal[each.bus][k])
            left = volts * np.conj(rows.currents(currents - rows.reading.T @ taken))
            rounded = np.abs(left) <= _ROUNDED * abs(each.total)
            self.constant[each.bus] += np.where(rounded, 0.0, left)
        return [at for at, _ in places]

    def shunt(self, bus: int, pair: Pair, kv: float) -> None:
        """What joins a bus with the ground."""
        rows = self.rows[bus]
        nodes, _, matrix = pair.between(bus, bus)
        kept = [k for k, node in enumerate(nodes) if node in rows.nodes]
        at = [rows.nodes.index(nodes[k]) for k in kept]
        currents = np.zeros(len(rows.nodes), complex)
        currents[at] = 1000 * kv**2 * matrix[np.ix_(kept, kept)] @ self.nodal[bus][at]
        self.constant[bus] += self.volts[bus] * np.conj(rows.currents(currents))

    def level(self, links: Sequence[Link]) -> None:
        """Currents that are alike in all three rows of pairs end where these rows do.

        They are nothing at nodes. Where pairs become phases, or ratios differ, they would be
        something there, and are drawn as constant in front of the link.
        """
        flow = {
            bus: taken + np.conj(self.constant[bus] / self.volts[bus])
            for bus, taken in self.taken.items()
        }
        for each in reversed(links):
            near, far = each.wire.near, each.wire.far
            above, below = self.rows[near], self.rows[far]
            round_ = flow[far] - below.currents(below.reading.T @ flow[far])
            extra = above.currents(above.reading.T @ each.back @ round_)
            extra[np.abs(extra) <= _ROUNDED * np.abs(flow[far]).max(initial=0.0)] = 0.0
            self.constant[near] -= self.volts[near] * np.conj(extra)
            flow[near] += each.back @ flow[far] - extra


def _places(rows: Rows, each: Drawn) -> list[tuple[Place, complex]]:
    """The rows at which an element stands, and its power at each.

    Three phases to ground are one place, and so are three between phases where rows are of pairs.
    None is what pairs of phases have for what is left of an element beside a dead node.
    """
    if rows.kind == "halves":
        return [((0,), each.total)]
    pairs, three = rows.kind == "pairs", len(each.power) == len(rows.phase) == 3
    if three and (not each.between or (pairs and len(each.between) == 3)):
        return [((*np.argsort(rows.phase).tolist(),), each.total)]
    if not each.between:
        if pairs:
            return []
        return [((rows.nodes.index(node),), power) for node, power in each.power.items()]
    share = each.total / len(each.between)
    return [(_ends(rows, ends), share) for ends in each.between]


def _ends(rows: Rows, ends: tuple[int, int]) -> Place:
    """The row of two nodes, or the rows of both, of which the second's phase is the next."""
    if rows.kind == "pairs":
        return (rows.names.index(PAIRS.get(ends) or PAIRS[ends[1], ends[0]]),)
    one, other = (rows.nodes.index(node) for node in ends)
    return (one, other) if (rows.phase[other] - rows.phase[one]) % 3 == 1 else (other, one)
