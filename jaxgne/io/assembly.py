"""From a network as a format tells it to a `Grid`: what all importers have in common.

In this order: what is out of service goes, branches open at one end become what they draw, buses
without impedance between them become one, what no source reaches goes, branches side by side become
one (all by `reduce`), loops are refused or kept, and shunts become constant draws at the voltages
of the AC state. Nothing of this is silent: each step leaves a note.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order

from ..acflow import MOST_LOOPS, flow
from ..grids import MODELS, GridModel
from ..market import Grid
from ..radial import loops
from ..runner import by_numpy, to_host
from .network import Branches, Buses, Column, Network, distinct, picked
from .notes import ImportReport, Notebook, Total
from .reducing import Reduced, reduce
from .steady import admittance, drawn, steady

_TURN = 1e-6  # degree by which the turns of a loop's transformers may differ
_SAME = 1e-6  # pu between the AC state and what markets' power flow finds
_SHOWN = 12  # lines of a loop that are named


def grid_of(
    network: Network,
    notes: Notebook,
    source: str,
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    apart: Complex[Column, " S"] | float = 0.0,
    tables: Mapping[str, int] | None = None,
    data: Mapping[str, Any] | None = None,
) -> tuple[Grid, ImportReport]:
    """The grid of a network and the report on it.

    `apart` is the part of load less generation that is in the market and not passive, kW + j kvar
    at each of the network's buses: the AC state has it, the grid's passive load does not. `tables`
    says how many of the branches are of each table of the source, in their order. Lines are in the
    order of `lindistflow` where the model wants it; raises `ValueError` for a network with loops
    then, naming the lines of one, and where turns of the phase in a loop do not cancel.
    """
    if MODELS[model].phased:
        raise ValueError(
            f"{source} is read as a balanced grid; give model='lindistflow': in three phases are "
            "OpenDSS circuits."
        )
    reduced, tree = outward(reduce(network, notes))
    _check_turns(reduced, tree, notes)
    if MODELS[model].radial and tree.chords.size:
        raise ValueError(loop_of(reduced, tree, MODELS[model].name))
    buses, volts = _state(reduced, tree, notes)
    constant = _constant(buses, reduced.branches, volts, notes)
    aside = np.zeros(len(buses), complex)
    kept = reduced.bus >= 0
    np.add.at(aside, reduced.bus[kept], np.broadcast_to(apart, kept.shape)[kept])
    moving = buses.quadratic * np.abs(volts) ** 2
    passive = drawn(buses, volts) + moving + constant - aside
    grid = _grid(buses, reduced.branches, passive, model, hours)
    _check_state(grid, volts, load=passive + aside, notes=notes)
    _check_limits(buses, np.abs(volts), notes)
    line, start = {}, 0
    for table, rows in (tables or {"branch": len(network.branches)}).items():
        line[table] = reduced.line[start : start + rows]
        start += rows
    report = ImportReport(
        source, tuple(notes.notes), _totals(network, reduced, constant, grid, aside), reduced.bus,
        tuple(network.buses.label), line, buses.nominal, volts, constant, data or {},
    )  # fmt: skip
    return grid, report


@dataclass(frozen=True)
class Tree:
    """Trees below the sources, and the branches beside them."""

    parent: Int[Column, " B"]  # B at sources
    line: Int[Column, " B"]  # the branch from there, -1 at sources
    chords: Int[Column, " C"]

    def along(self, step: Float[Column, " B"]) -> Float[Column, " B"]:
        """Sums of `step` on the path from a source to each bus, both ends included."""
        total, ahead = np.append(step, 0.0), np.append(self.parent, len(self.parent))
        for _ in range(len(step).bit_length()):
            total, ahead = total + total[ahead], ahead[ahead]
        return total[:-1]


def tree_of(reduced: Reduced) -> Tree:
    """Breadth first, so that each bus has as few branches as possible to its source."""
    count, branches = len(reduced.buses), reduced.branches
    fed = np.flatnonzero(reduced.buses.fed)
    source = np.concatenate([branches.source, np.full(len(fed), count)])
    target = np.concatenate([branches.target, fed])
    rows = np.arange(1, len(source) + 1)
    shape = (count + 1, count + 1)
    graph = coo_matrix((rows, (source, target)), shape=shape).tocsr()
    parent = breadth_first_order(graph, count, directed=False)[1][:count]
    both = (graph + graph.T).tocsr()
    line = np.asarray(both[parent, np.arange(count)]).ravel() - 1
    line = np.where(parent == count, -1, line).astype(np.int64)
    chords = np.setdiff1d(np.arange(len(branches)), line)
    return Tree(parent.astype(np.int64), line, chords)


def outward(reduced: Reduced) -> tuple[Reduced, Tree]:
    """The network as `jg.oriented` would have it: branches away from sources, the nearest first.

    Those that close loops are last, as they were told.
    """
    tree, branches = tree_of(reduced), reduced.branches
    line = tree.line[tree.line >= 0]
    bus = np.flatnonzero(tree.line >= 0)
    back = np.zeros(len(branches), bool)
    back[line] = branches.source[line] != tree.parent[bus]
    depth = np.full(len(branches), len(branches) + 1.0)
    depth[line] = tree.along(np.ones(len(tree.line)))[bus]
    order = np.argsort(depth, kind="stable")
    rank = np.full(len(branches) + 1, -1)
    rank[order] = np.arange(len(order))
    told = replace(
        reduced, branches=picked(branches.reversed(back), order), line=rank[reduced.line]
    )
    return told, Tree(tree.parent, rank[tree.line], rank[tree.chords])


def _down(reduced: Reduced, tree: Tree, first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """`first` at sources, and less `step` of each branch on the way, told from source to target."""
    line = np.maximum(tree.line, 0)
    if not len(reduced.branches):
        return first
    outward = reduced.branches.source[line] == tree.parent
    fall = np.where(outward, -step[line], step[line])
    return tree.along(np.where(tree.line < 0, first, fall))


def _check_turns(reduced: Reduced, tree: Tree, notes: Notebook) -> None:
    """Turns of the phase move no voltage where they cancel in each loop; `ValueError` else."""
    branches = reduced.branches
    turned = np.abs(branches.shift) > 0
    notes.some("branch.shift", [branches.label[k] for k in np.flatnonzero(turned).tolist()])
    angle = _down(reduced, tree, reduced.buses.angle, branches.shift)
    b, at = branches, tree.chords
    left = angle[b.source[at]] - b.shift[at] - angle[b.target[at]]
    wrong = np.flatnonzero(np.abs((left + 180) % 360 - 180) > _TURN)
    if wrong.size:
        k = int(at[wrong[0]])
        raise ValueError(
            f"{branches.label[k]} closes a loop in which transformers or sources turn the phase by "
            f"{(left[wrong[0]] + 180) % 360 - 180:g} degree; open it: no grid model has that."
        )


def loop_of(reduced: Reduced, tree: Tree, model: str) -> str:
    """A sentence that names the branches of the shortest loop, or between two sources."""
    depth = tree.along(np.ones(len(tree.parent)))
    b = reduced.branches
    chord = int(min(tree.chords, key=lambda k: depth[b.source[k]] + depth[b.target[k]]))
    ends, paths = [int(b.source[chord]), int(b.target[chord])], ([], [])
    top = len(tree.parent)
    while ends[0] != ends[1]:
        k = int(np.argmax([-1 if end == top else depth[end] for end in ends]))
        if tree.line[ends[k]] >= 0:
            paths[k].append(int(tree.line[ends[k]]))
        ends[k] = int(tree.parent[ends[k]])
    around = [*paths[0][::-1], chord, *paths[1]]
    named = ", ".join(b.label[k] for k in around[:_SHOWN])
    named += f" and {len(around) - _SHOWN} more" if len(around) > _SHOWN else ""
    does = "join two sources" if ends[0] == top else "close a loop"
    many = f" (one of {tree.chords.size})" if tree.chords.size > 1 else ""
    return (
        f"{named} {does}{many}, and {model} needs a tree; open one of them, or ask for "
        "model='paper', which takes loops."
    )


def _state(reduced: Reduced, tree: Tree, notes: Notebook) -> tuple[Buses, Complex[Column, " B"]]:
    """The AC state, and the buses with the reactive power that generators need for it."""
    buses, branches = reduced.buses, reduced.branches
    held = np.where(buses.fed, buses.held, 1.0)
    empty = np.exp(_down(reduced, tree, np.log(held), np.log(branches.tap)))  # of load
    volts = steady(buses, branches, empty)
    if volts is None:
        notes.add("state.none", number=(buses.load - buses.generation).real.sum())
        return buses, empty.astype(complex)
    kept = np.flatnonzero(~np.isnan(buses.held) & ~buses.fed)
    if kept.size:
        sent = volts * np.conj(admittance(buses, branches) @ volts) + drawn(buses, volts)
        needed = sent.imag[kept]
        notes.add("generator.voltage", [buses.label[k] for k in kept.tolist()], needed.sum())
        generation = buses.generation.copy()
        generation[kept] += 1j * needed
        buses = replace(buses, generation=generation)
    return buses, volts


def _constant(
    buses: Buses, branches: Branches, volts: np.ndarray, notes: Notebook
) -> Complex[Column, " B"]:
    """What shunts draw at each bus in this state, kW + j kvar."""
    square = np.abs(volts) ** 2
    constant = buses.shunt * square
    near = branches.near * square[branches.source] / branches.tap**2
    np.add.at(constant, branches.source, near)
    np.add.at(constant, branches.target, branches.far * square[branches.target])
    if np.any(constant.imag):
        notes.add("shunt.constant", number=constant.imag.sum())
    if np.any(constant.real):
        notes.add("iron.constant", number=constant.real.sum())
    moves = (buses.current != 0) | (buses.quadratic != 0)
    moving = buses.current * np.sqrt(square) + buses.quadratic * square
    places = [buses.label[k] for k in np.flatnonzero(moves).tolist()]
    notes.some("load.voltage", places, moving.real.sum())
    return constant


def _grid(buses: Buses, branches: Branches, passive: Column, model: GridModel, hours: int) -> Grid:
    feeder = np.flatnonzero(buses.fed)
    passive = np.repeat(passive[:, None], hours, axis=1)
    return Grid(
        passive.real,
        branches.source,
        branches.target,
        branches.impedance.real,
        branches.impedance.imag,
        rating=branches.rating,
        tap=branches.tap,
        voltage_min=buses.voltage_min,
        voltage_max=buses.voltage_max,
        feeder=feeder,
        feeder_voltage=np.repeat(buses.held[feeder, None], hours, axis=1),
        passive_reactive=passive.imag,
        model=model,
        names=distinct(buses.name, buses.label),
        line_names=distinct(branches.name, branches.label),
    )


def _check_state(grid: Grid, volts: Column, load: Column, notes: Notebook) -> None:
    """Beside the state: what the AC power flow of markets finds for the same powers."""
    if any(note.code == "state.none" for note in notes.notes):
        return
    notes.add("state.voltage", number=np.min(np.abs(volts)))
    if loops(grid) > MOST_LOOPS:
        return
    one = replace(
        grid,
        feeder_voltage=grid.feeder_voltage[:, :1],
        passive=grid.passive[:, :1],
        passive_reactive=grid.passive_reactive[:, :1],
        compensation_max=grid.compensation_max[:, :1],
    )  # all steps are alike
    with by_numpy():
        found = flow(to_host(one), *to_host([load.real[:, None], load.imag[:, None]]))
    apart = np.max(np.abs(np.asarray(found.voltage)[:, 0] - np.abs(volts)))
    if not (np.all(found.ok) and apart <= _SAME):
        notes.add("state.other", number=apart if np.all(found.ok) else np.nan)


def _check_limits(buses: Buses, size: Column, notes: Notebook) -> None:
    """Buses that the source itself has beyond their limits: with its load there is no plan."""
    if any(note.code == "state.none" for note in notes.notes):
        return
    over = np.maximum(size - buses.voltage_max, buses.voltage_min - size)
    out = np.flatnonzero((over > _SAME) & ~buses.fed)
    notes.some("state.limits", [buses.label[k] for k in out], np.max(over[out], initial=0))


def _totals(
    network: Network, reduced: Reduced, constant: np.ndarray, grid: Grid, aside: np.ndarray
) -> dict[str, Total]:
    told, left = network.buses, reduced.buses
    passive = np.asarray(grid.passive)[:, 0] + 1j * np.asarray(grid.passive_reactive)[:, 0]
    kept = passive.sum() + aside.sum() - constant.sum()

    def load(buses: Buses) -> complex:
        return complex((buses.load + buses.current + buses.quadratic).sum())

    sent = told.generation.sum(), left.generation.sum()
    return {
        "buses": Total(len(told), len(left), ""),
        "lines": Total(len(network.branches), len(reduced.branches), ""),
        "load": Total(load(told).real, load(left).real, "kW"),
        "load, reactive": Total(load(told).imag, load(left).imag, "kvar"),
        "generation": Total(sent[0].real, sent[1].real, "kW"),
        "shunts": Total(0.0, constant.sum().real, "kW"),
        "shunts, reactive": Total(0.0, constant.sum().imag, "kvar"),
        "net load": Total((load(told) - sent[0]).real, kept.real, "kW"),
    }
