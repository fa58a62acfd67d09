"""Grids in three phases from OpenDSS circuits: what stands at each row, as solved.

Lines and transformers become the rows and links of `opendss_rows`. Everything else draws constant
power, what it does in the solution: loads and what is made at the phase, the two phases or the
three that they are connected to, shunts at phases. So the AC power flow of the grid is the
solution, but for what rows cannot say, and the report tells how far that is.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..acflow import Flow, flow
from ..market import Grid
from ..phases import by_phase
from ..record import changed
from ..runner import by_numpy, to_host
from .notes import ImportReport, Notebook, Total
from .opendss_circuit import Circuit, Pair, Source
from .opendss_rows import Link, Rows, Wire, kinds, link, rows_of_source, turned, wire
from .opendss_stands import Drawn, Place, Stands
from .reducing import Reduced

_DEAD = 1e-4  # pu of neutrals that is none
_MOVED = 1e-5  # share by which a load draws other than it says, beyond such rounding
_UNEVEN = 1e-6  # share by which what is drawn of phases may differ and still be alike
_BEYOND = 1e-6  # pu beyond limits that are no rounding


def phased_grid(
    circuit: Circuit,
    reduced: Reduced,
    pairs: Mapping[tuple[int, ...], Pair],
    elements: Sequence[Drawn],
    nominal: Mapping[str, complex],
    notes: Notebook,
    *,
    hours: int,
    voltage: tuple[float, float],
) -> tuple[Grid, ImportReport]:
    """The grid of a circuit whose balanced equivalent is a tree, and the report on it.

    `nominal` is what each load says that it draws, kW + j kvar. Raises `ValueError` for more than
    one bus with sources, and for what joins two phases of a bus to one of another.
    """
    sources = circuit.sources()
    if len(sources) > 1:
        raise ValueError(
            f"from_opendss: {' and '.join(each.name for each in sources)} are sources of different "
            "buses; a grid in three phases has one, so ask for model='lindistflow'."
        )
    wires, root, buses = _wires(circuit, reduced, pairs, sources[0])
    grounded = {each.bus for each in elements if each.unequal} | _uneven(circuit, pairs)
    held = {node: volts / circuit.kv[root] for node, volts in sources[0].held.items()}
    if np.ptp(np.abs(list(held.values()))) > _UNEVEN:
        grounded.add(root)
    kind = kinds(circuit, root, wires, grounded)
    rows, links = {}, []
    rows[root], fed = rows_of_source(kind[root], held, sources[0].name)
    for each in wires:
        rows[each.far], made = link(each, kind[each.far], rows[each.near], circuit)
        links.append(made)
    rows = turned(rows)
    stands = Stands(circuit, rows)
    for made in links:
        stands.constant[made.wire.near] += made.near
        stands.constant[made.wire.far] += made.far
    through = {id(each.pair) for each in wires}
    for ends, pair in pairs.items():
        for end in ends:
            if id(pair) not in through and end in rows:
                stands.shunt(end, pair, circuit.kv[end])
    places, left = {}, []
    for each in elements:
        live = each.at(rows[each.bus].nodes if each.bus in rows else ())
        if live.power:
            places[each.name] = [(each.bus, at) for at in stands.put(live)]
        if live is not each and reduced.bus[each.bus] >= 0:  # else told already
            left.append(each)
    stands.level(links)
    _note(notes, circuit, elements, nominal, links, rows, left)
    table = _Table(circuit, buses, rows, stands)
    grid = table.grid(links, root, fed, hours, voltage)
    return grid, _report(circuit, table, grid, links, elements, places, notes)


def _wires(
    circuit: Circuit, reduced: Reduced, pairs: Mapping[tuple[int, ...], Pair], source: Source
) -> tuple[list[Wire], int, list[int]]:
    """Wires from the source on, the bus behind its impedance, and buses in the grid's order.

    Those that no conductor reaches are left out.
    """
    root = circuit.behind(source)
    at = np.full(len(reduced.buses), -1)
    kept = np.flatnonzero(reduced.bus >= 0)
    at[reduced.bus[kept]] = kept
    fed, wires = {root: tuple(sorted(source.held))}, []
    branches = reduced.branches
    for near, far in zip(at[branches.source].tolist(), at[branches.target].tolist(), strict=True):
        ends = (near, far) if near < far else (far, near)
        pair = circuit.series(source) if near == root else pairs[ends]
        each = wire(circuit, pair, near, far, fed.get(near, ()))
        if each.ends[1]:
            wires.append(each)
            fed[far] = each.ends[1]
    return wires, root, [bus for bus in at.tolist() if bus in fed]


def _uneven(circuit: Circuit, pairs: Mapping[tuple[int, ...], Pair]) -> set[int]:
    """Buses with shunts to ground that are not alike in all three phases."""
    found: set[int] = set()
    for ends, pair in pairs.items():
        bus, *others = ends
        if others:
            continue
        nodes, _, matrix = pair.between(bus, bus)
        to_ground, least = matrix.sum(axis=1), _UNEVEN * np.abs(matrix).max(initial=0.0)
        alike = len(nodes) == 3 and np.all(np.abs(to_ground - to_ground[0]) <= least)
        if np.any(np.abs(to_ground) > least) and not alike:
            found.add(bus)
    return found


def _note(
    notes: Notebook,
    circuit: Circuit,
    elements: Sequence[Drawn],
    nominal: Mapping[str, complex],
    links: Sequence[Link],
    rows: Mapping[int, Rows],
    left: Sequence[Drawn],
) -> None:
    """What became of elements and buses on the way to rows."""
    moved = [
        each
        for each in elements
        if each.name in nominal
        and abs(each.total - nominal[each.name]) > _MOVED * abs(nominal[each.name])
    ]
    drawn = sum(each.total.real for each in moved)
    notes.some("load.voltage", [each.name for each in moved], drawn)
    mixed = ["; ".join(each.wire.pair.names) for each in links if not each.exact]
    notes.some("transformer.phases", mixed)
    neutral = [bus for bus in rows if bus < len(circuit.solved) and circuit.neutral[bus] > _DEAD]
    most = max((circuit.neutral[bus] for bus in neutral), default=0.0)
    notes.some("neutral.grounded", [f"bus {circuit.names[bus]}" for bus in neutral], most)
    for code, kind in (("rows.pairs", "pairs"), ("service.halves", "halves")):
        of = [bus for bus, own in rows.items() if own.kind == kind and bus < len(circuit.solved)]
        notes.some(code, [f"bus {circuit.names[bus]}" for bus in of])
    named = [each.name for each in left]
    notes.some("bus.unsupplied", named, sum(nominal.get(name, 0j).real for name in named))


class _Table:
    """Rows of a grid: those of buses, phase by phase, and then what spans some."""

    def __init__(
        self, circuit: Circuit, buses: Sequence[int], rows: Mapping[int, Rows], stands: Stands
    ):
        self.circuit, self.buses, self.rows, self.stands = circuit, buses, rows, stands
        self.place = {bus: k for k, bus in enumerate(buses)}
        self.own = [
            (bus, int(k)) for bus in buses for k in np.argsort(rows[bus].phase)
        ]  # bus and row of it, of each row of the grid
        self.at = {each: k for k, each in enumerate(self.own)}
        self.spans = list(stands.spans)

    def row(self, bus: int, at: Place) -> int:
        """The row of the grid at which something stands."""
        if len(at) == 1:
            return self.at[bus, at[0]]
        return len(self.own) + self.spans.index((bus, at))

    def names(self) -> list[str]:
        """`671.b`, `671.ab`."""
        letters = [(bus, (k,)) for bus, k in self.own] + self.spans
        return [
            f"{self.circuit.names[bus]}.{self._called(self.rows[bus], at)}" for bus, at in letters
        ]

    def _called(self, rows: Rows, at: Place) -> str:
        return "abc" if len(at) == 3 else "".join(rows.names[k] for k in at)

    def by_row(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """Of all rows of buses."""
        return np.array([values[bus][k] for bus, k in self.own])

    def volts(self) -> np.ndarray:
        """Solved voltages of all rows; of what spans two, theirs between, in pu of that."""
        found = list(self.by_row(self.stands.volts))
        for bus, at in self.spans:
            own = self.stands.volts[bus][list(at)]
            turn = own[0] / abs(own[0])
            pair = (own[0] - own[1]) / np.sqrt(3) if len(at) == 2 else np.abs(own).mean() * turn
            found.append(pair)
        return np.array(found)

    def nominal(self) -> np.ndarray:
        """kV of all rows: to ground, or between two phases."""
        wide = [self.rows[bus].kind == "pairs" for bus, _ in self.own]
        wide += [len(at) == 2 for _, at in self.spans]
        kv = self.circuit.kv[[bus for bus, _ in (*self.own, *self.spans)]]
        return kv * np.where(wide, np.sqrt(3), 1.0)

    def constant(self) -> np.ndarray:
        return np.append(self.by_row(self.stands.constant), np.zeros(len(self.spans)))

    def grid(
        self,
        links: Sequence[Link],
        root: int,
        fed: np.ndarray,
        hours: int,
        voltage: tuple[float, float],
    ) -> Grid:
        """As `by_phase` has it, by the circuit's own names."""
        count, lines = len(self.buses), len(links)
        phases, power = np.zeros((count, 3), bool), np.zeros((count, 3), complex)
        for bus, rows in self.rows.items():
            at = self.place[bus], list(rows.phase)
            phases[at] = True
            power[at] = self.stands.own[bus] + self.stands.constant[bus]
        impedance, tap = np.zeros((lines, 3, 3), complex), np.ones((lines, 3))
        rating, called = np.full((lines, 3), np.inf), []
        for k, made in enumerate(links):
            own = self.rows[made.wire.far]
            phase = list(own.phase)
            impedance[k][np.ix_(phase, phase)] = made.impedance
            tap[k, phase] = made.tap
            rating[k, phase] = _rating(made.wire, own)
            name = "; ".join(made.wire.pair.names)
            called += [f"{name}.{own.names[j]}" for j in np.argsort(own.phase)]
        held = np.ones(3)
        held[list(self.rows[root].phase)] = np.abs(fed)
        letters = [(self.place[bus], self._spanned(bus, at)) for bus, at in self.spans]
        spanned = np.array([self.stands.spans[each] for each in self.spans], complex)
        names = self.names()
        made = by_phase(
            phases,
            np.array([self.place[each.wire.near] for each in links], int),
            np.array([self.place[each.wire.far] for each in links], int),
            np.real(impedance),
            np.imag(impedance),
            hours=hours,
            passive=np.real(power),
            passive_reactive=np.imag(power),
            spans=letters,
            span_passive=np.real(spanned),
            span_reactive=np.imag(spanned),
            tap=tap,
            rating=rating,
            voltage_min=voltage[0],
            voltage_max=voltage[1],
            feeder=self.place[root],
            feeder_voltage=held,
        )
        return changed(made, names=tuple(names), line_names=(*called, *names[len(self.own) :]))

    def _spanned(self, bus: int, at: Place) -> str:
        """The phases of the grid that something spans."""
        return "".join("abc"[self.rows[bus].phase[k]] for k in at)


def _rating(each: Wire, rows: Rows) -> np.ndarray:
    """kVA of each row: of its conductor, the lesser of two, both halves' together."""
    own = np.array([each.pair.carried.get((each.far, node), np.inf) for node in rows.nodes])
    if rows.kind == "halves":
        return own.sum(keepdims=True)
    return np.array([own[used != 0].min() for used in rows.reading])


def _report(
    circuit: Circuit,
    table: _Table,
    grid: Grid,
    links: Sequence[Link],
    elements: Sequence[Drawn],
    places: Mapping[str, Sequence[tuple[int, Place]]],
    notes: Notebook,
) -> ImportReport:
    """What became of the circuit, and how far the grid's AC state is from the solution."""
    constant, volts = table.constant(), table.volts()
    for code, part in (("shunt.constant", np.imag(constant)), ("iron.constant", np.real(constant))):
        if np.any(part):
            notes.add(code, number=part.sum())
    one = np.asarray(grid.passive)[:, :1], np.asarray(grid.passive_reactive)[:, :1]
    with by_numpy():
        found = flow(to_host(_of_one_hour(grid)), *to_host(one))
    off = np.abs(np.asarray(found.voltage)[:, 0] - np.abs(volts))[: len(table.own)]
    if not np.all(found.ok):
        notes.add("state.none", number=one[0].sum())
    names = table.names()
    worst = [f"bus {names[int(np.argmax(off))]}"] if off.size else []
    notes.add(
        "state.solved", worst, off.max(initial=0.0),
        "the AC power flow of the grid is so far from the solved voltages",
    )  # fmt: skip
    notes.add("state.voltage", number=np.abs(volts).min())
    low, high = np.asarray(grid.voltage_min), np.asarray(grid.voltage_max)
    over = np.maximum(np.abs(volts) - high, low - np.abs(volts))
    over[np.asarray(grid.feeder)] = 0.0
    out = np.flatnonzero(over > _BEYOND)
    notes.some("state.limits", [f"bus {names[k]}" for k in out], np.max(over[out], initial=0))
    rows = {id(each): [table.row(*at) for at in places.get(each.name, ())] for each in elements}
    loads = tuple(
        (each.name.split(".", 1)[1], k)
        for each in elements
        if each.name.lower().startswith("load.")
        for k in rows[id(each)]
    )
    kept = one[0].sum() + 1j * one[1].sum() - constant.sum()
    start = np.cumsum([0, *(len(table.rows[each.wire.far].phase) for each in links)])[:-1]
    return ImportReport(
        f"OpenDSS, circuit {circuit.now.Name!r}",
        tuple(notes.notes),
        _totals(circuit, table, elements, places, complex(kept), constant, _arriving(grid, found)),
        np.arange(len(names)),
        tuple(f"bus {name}" for name in names),
        {"branch": start},
        table.nominal(),
        volts,
        constant,
        {"loads": loads},
    )


def _totals(
    circuit: Circuit,
    table: _Table,
    elements: Sequence[Drawn],
    places: Mapping[str, Sequence[tuple[int, Place]]],
    kept: complex,
    constant: np.ndarray,
    arriving: complex,
) -> dict[str, Total]:
    """Sums over the circuit, and over what became of it."""

    def power(load: bool, some: Iterable[str]) -> complex:
        return sum(
            (
                each.total
                for each in elements
                if each.name in some and each.name.lower().startswith("load.") == load
            ),
            0j,
        )

    every = {each.name for each in elements}
    load, made = ((power(of, every), power(of, places)) for of in (True, False))
    net, sent = load[0] + made[0], complex(*(-np.asarray(circuit.now.TotalPower)))
    return {
        "buses": Total(len(circuit.solved), len(table.buses), ""),
        "rows": Total(sum(map(len, circuit.solved)), len(table.own) + len(table.spans), ""),
        "load": Total(load[0].real, load[1].real, "kW"),
        "load, reactive": Total(load[0].imag, load[1].imag, "kvar"),
        "generation": Total((0 - made[0]).real, (0 - made[1]).real, "kW"),
        "shunts": Total(0.0, constant.sum().real, "kW"),
        "shunts, reactive": Total(0.0, constant.sum().imag, "kvar"),
        "net load": Total(net.real, kept.real, "kW"),
        "source": Total(sent.real, arriving.real, "kW"),
        "source, reactive": Total(sent.imag, arriving.imag, "kvar"),
    }


def _arriving(grid: Grid, found: Flow) -> complex:
    """What comes out of the source's impedance in the AC state, kW + j kvar."""
    at = np.flatnonzero(np.isin(np.asarray(grid.source), np.asarray(grid.feeder)))
    volts = np.asarray(found.voltage)[:, 0] * np.exp(1j * np.asarray(found.angle)[:, 0])
    into = np.asarray(found.active)[at, 0] + 1j * np.asarray(found.reactive)[at, 0]
    current = np.conj(into / volts[np.asarray(grid.source)[at]])
    return complex(np.sum(volts[np.asarray(grid.target)[at]] * np.conj(current)))


def _of_one_hour(grid: Grid) -> Grid:
    """All hours are alike."""
    by_hour = ("passive", "passive_reactive", "compensation_max", "feeder_voltage")
    return changed(grid, **{name: getattr(grid, name)[:, :1] for name in by_hour})
