"""Grids in three phases, made of buses and lines: a row for each phase, and for what spans some."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .market import Grid
from .names import CONNECTIONS, unphased


def by_phase(
    phases: Bool[np.ndarray, "S 3"],
    source: Int[np.ndarray, " W"],
    target: Int[np.ndarray, " W"],
    resistance: Float[np.ndarray, "W 3 3"],
    reactance: Float[np.ndarray, "W 3 3"],
    *,
    hours: int,
    passive: Any = 0.0,
    passive_reactive: Any = 0.0,
    spans: Sequence[tuple[int, str]] = (),
    span_passive: Any = 0.0,
    span_reactive: Any = 0.0,
    tap: Any = 1.0,
    rating: Any = np.inf,
    voltage_min: Any = 0.95,
    voltage_max: Any = 1.05,
    feeder: int = 0,
    feeder_voltage: Any = 1.0,
    names: Sequence[str] = (),
    line_names: Sequence[str] = (),
) -> Grid:
    """A radial grid of S buses, of which each has some of three `phases`, and W = S - 1 lines.

    Lines lead from `source` to `target`, away from `feeder`, the bus of the main grid. A line has
    the phases of its `target`; `resistance` and `reactance` are its symmetric matrices, pu/kW: ohms
    divided by 1000 kV^2 (kV line to neutral), of missing phases anything. `tap`, `rating` (kVA of a
    conductor) may be by line, or by line and phase; `voltage_min` and `voltage_max` by bus, or by
    bus and phase; `passive` and `passive_reactive` (kW, kvar) by bus and phase, (S, 3), or also by
    hour; `feeder_voltage` by phase, or by phase and hour.

    What draws on more than one phase stands at a row of its own: `spans` lists bus and connection,
    `ab`, `bc`, `ca` or `abc`, of such rows, `span_passive` and `span_reactive` what draws there
    whatever the market does, one a span, or also by hour.

    Rows are called like `632.b` or `632.ab`, where buses have `names` (else numbers), conductors
    like `650-632.b`, or as `line_names` say; `row` finds them. Raises `ValueError` where a line has
    a phase that its source lacks, or a span one that its bus lacks.
    """
    phases = np.asarray(phases, bool)
    count, buses = len(phases), tuple(map(str, names)) or tuple(map(str, range(len(phases))))
    source, target = np.asarray(source, int), np.asarray(target, int)
    lacking = np.argwhere(phases[target] & ~phases[source])
    if lacking.size:
        line, phase = lacking[0]
        raise ValueError(
            f"by_phase: line {line} from bus {buses[source[line]]} to bus {buses[target[line]]} "
            f"has phase {'abc'[phase]}, which its source lacks; give the phases of each bus."
        )
    rows = np.full((count, 3), -1)
    rows[phases] = np.arange(phases.sum())
    bus, phase = np.nonzero(phases)
    line, of = np.nonzero(phases[target])
    wires = np.full((len(target), 3), -1)
    wires[line, of] = np.arange(len(line))
    first, ends, last = _spans(spans, rows, buses)
    total, many = len(bus), len(spans)
    own = tuple(f"{buses[b]}.{'abc'[p]}" for b, p in zip(bus, phase, strict=True))
    called = tuple(map(str, line_names)) or tuple(
        f"{buses[a]}-{buses[b]}" for a, b in zip(source, target, strict=True)
    )

    def each(values: Any, shape: tuple[int, ...], keep: Any) -> np.ndarray:
        """A number for each row and phase, of the rows that there are."""
        table = np.asarray(values, float)
        if table.shape == shape[:1]:
            table = table[:, None]
        return np.broadcast_to(table, shape)[keep]

    def powers(values: Any, spanned: Any) -> np.ndarray:
        table, more = np.asarray(values, float), np.asarray(spanned, float)
        table = np.broadcast_to(table[..., None] if table.ndim < 3 else table, (count, 3, hours))
        more = np.broadcast_to(more[:, None] if more.ndim == 1 else more, (many, hours))
        return np.concatenate([table[phases], more])

    def limit(values: Any, widest: Any) -> np.ndarray:
        table = np.asarray(values, float)
        table = np.broadcast_to(table[:, None] if table.ndim == 1 else table, (count, 3))
        own = [widest([table[b, "abc".index(letter)] for letter in kind]) for b, kind in spans]
        return np.concatenate([table[phases], np.array(own, float)])

    near, after = wires[line, of], wires[line, (of + 1) % 3]
    coupled = after >= 0
    matrix = np.asarray(resistance, float), np.asarray(reactance, float)
    held = np.asarray(feeder_voltage, float)
    held = np.broadcast_to(held[:, None] if held.ndim == 1 else held, (3, hours))
    present = (len(target), 3)
    kept = phases[target]
    none = np.zeros(many)
    return Grid(
        passive=powers(passive, span_passive),
        passive_reactive=powers(passive_reactive, span_reactive),
        source=np.concatenate([rows[source[line], of], first]),
        target=np.concatenate([rows[target[line], of], total + np.arange(many)]),
        resistance=np.concatenate([matrix[0][line, of, of], none]),
        reactance=np.concatenate([matrix[1][line, of, of], none]),
        rating=np.concatenate([each(rating, present, kept), none + np.inf]),
        tap=np.concatenate([each(tap, present, kept), none + 1]),
        voltage_min=limit(voltage_min, min),
        voltage_max=limit(voltage_max, max),
        feeder=rows[feeder][rows[feeder] >= 0],
        feeder_voltage=held[phases[feeder]],
        phase_a=rows[:, 0],
        phase_b=rows[:, 1],
        phase_c=rows[:, 2],
        coupled=near[coupled],
        following=after[coupled],
        mutual_resistance=matrix[0][line, of, (of + 1) % 3][coupled],
        mutual_reactance=matrix[1][line, of, (of + 1) % 3][coupled],
        terminal=len(line) + np.arange(many),
        second=ends,
        third=last,
        model="lindist3flow",
        names=own + tuple(f"{buses[b]}.{kind}" for b, kind in spans),
        line_names=tuple(f"{called[k]}.{'abc'[p]}" for k, p in zip(line, of, strict=True))
        + tuple(f"{buses[b]}.{kind}" for b, kind in spans),
    )


def _spans(
    spans: Sequence[tuple[int, str]], rows: Int[np.ndarray, "S 3"], buses: tuple[str, ...]
) -> tuple[Int[np.ndarray, " V"], Int[np.ndarray, " V"], Int[np.ndarray, " V"]]:
    """The rows of the phases that each span draws on, -1 for the third of two."""
    found = []
    for bus, kind in spans:
        if kind not in CONNECTIONS[3:]:
            raise ValueError(
                f"by_phase: a span {kind!r} at bus {buses[bus]}; give ab, bc, ca or abc."
            )
        ends = [int(rows[bus, "abc".index(letter)]) for letter in kind]
        if min(ends) < 0:
            raise ValueError(f"by_phase: bus {buses[bus]} lacks a phase of the span {kind!r}.")
        found.append((*ends, -1)[:3])
    first, second, third = np.array(found, int).reshape(-1, 3).T
    return first, second, third


def row(grid: Grid, bus: str, connection: str) -> int:
    """The row of a phase of a bus, or of what spans some: `row(grid, "632", "ab")`.

    Raises `ValueError` where there is none.
    """
    name = f"{bus}.{connection}"
    if name not in grid.names:
        raise ValueError(f"the grid has no row {name!r}; list it among the spans of by_phase.")
    return grid.names.index(name)


def connections(grid: Grid) -> tuple[list[str], list[str]]:
    """The bus that each row of a grid in three phases is of, and the phases: `632` and `ab`.

    By the rows' names, where all say both; else buses are numbers, as the grid has them.
    """
    split = [(unphased(name), name.rpartition(".")[2]) for name in grid.names]
    if split and all(phase in CONNECTIONS for _, phase in split):
        return [bus for bus, _ in split], [phase for _, phase in split]
    rows, count = np.asarray(grid.phases), grid.passive.shape[-2]
    bus, phase = np.zeros(count, int), np.full(count, "", dtype="U3")
    site, letter = np.nonzero(rows >= 0)
    bus[rows[site, letter]] = site
    phase[rows[site, letter]] = np.array(["a", "b", "c"])[letter]
    first, second, third = (
        np.asarray(ends) for ends in (grid.source[grid.terminal], grid.second, grid.third)
    )
    at = np.asarray(grid.target)[np.asarray(grid.terminal)]
    bus[at] = bus[first]
    last = np.where(third >= 0, phase[third], "")
    phase[at] = np.strings.add(np.strings.add(phase[first], phase[second]), last)
    return [str(number) for number in bus], phase.tolist()
