"""A network without what carries nothing: out of service, half open, without impedance, apart.

Each step tells what it did by a note.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from .network import Branches, Buses, Column, Network, picked
from .notes import Notebook

_TURN = 1e-6  # degree, by which turns of the phase may differ
_SUMS = ("load", "generation", "current", "quadratic", "shunt")


@dataclass(frozen=True)
class Reduced:
    """A network whose buses are all in service, supplied and apart, and no two branches twins."""

    buses: Buses
    branches: Branches
    bus: Int[Column, " S"]  # where each of the network's buses is now, -1 where it is not
    line: Int[Column, " R"]  # and each of its branches


def reduce(network: Network, notes: Notebook) -> Reduced:
    """The network that has the same voltages and currents, and buses that matter.

    Raises `ValueError` where no bus is fed, a switch joins two nominal voltages or two sources that
    hold different ones, and for transformers without impedance whose ratio is not 1.
    """
    buses = network.buses
    if not np.any(buses.fed & buses.on):
        raise ValueError("no source is in service; give the grid an external grid that is.")
    notes.some("bus.off", _labels(buses, ~buses.on), buses.load.real[~buses.on].sum())
    branches = replace(network.branches, row=np.arange(len(network.branches)))
    branches, shunts = _closed(buses, branches, notes)
    zero = _without_impedance(branches, notes)
    ties = network.ties[np.all(buses.on[network.ties], axis=1)]
    ties = np.concatenate([ties.reshape(-1, 2), zero])
    bus, count = _groups(buses, ties, notes)
    buses = _merged(replace(buses, shunt=buses.shunt + shunts), bus, count)
    branches = replace(branches, source=bus[branches.source], target=bus[branches.target])
    buses, branches = _apart(buses, branches, notes)
    kept = _supplied(buses, branches)
    notes.some("bus.unsupplied", _labels(buses, ~kept), buses.load.real[~kept].sum())
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    line = np.full(len(network.branches), -1)
    branches = picked(branches, kept[branches.source])
    branches = replace(branches, source=place[branches.source], target=place[branches.target])
    branches, twin = _single(branches, notes)
    line[twin[:, 0]] = twin[:, 1]
    bus = np.where(bus >= 0, place[bus], -1)
    return Reduced(picked(buses, kept), branches, bus, line)


def _labels(told: Buses | Branches, these: np.ndarray) -> list[str]:
    return [told.label[k] for k in np.flatnonzero(these).tolist()]


def _closed(buses: Buses, branches: Branches, notes: Notebook) -> tuple[Branches, np.ndarray]:
    """Branches closed at both ends, and what those with one closed end draw at each bus.

    Behind its ratio an open branch draws `near`, and through its impedance `far`; from the other
    end alike.
    """
    at_source = branches.source_on & buses.on[branches.source]
    at_target = branches.target_on & buses.on[branches.target]
    gone = ~branches.on | ~(at_source | at_target)
    half = ~gone & (at_source != at_target)
    notes.some("branch.off", _labels(branches, gone))
    shunts = np.zeros(len(buses), complex)
    if np.any(half):
        open_ones = picked(branches, half)
        turned = open_ones.reversed(~at_source[half])
        near, far = np.conj(turned.near), np.conj(turned.far)
        drawn = np.conj(near + far / (1 + turned.impedance * far)) / turned.tap**2
        np.add.at(shunts, turned.source, drawn)
        notes.some("branch.half_open", _labels(branches, half), drawn.imag.sum())
    return picked(branches, ~gone & ~half), shunts


def _without_impedance(branches: Branches, notes: Notebook) -> np.ndarray:
    """Pairs of buses that branches without impedance join."""
    zero = branches.impedance == 0
    odd = zero & ((np.abs(branches.tap - 1) > 1e-12) | (branches.shift != 0))
    if np.any(odd):
        k = int(np.argmax(odd))
        raise ValueError(
            f"{branches.label[k]} has no impedance and a ratio of {branches.tap[k]:.6g} or a turn "
            f"of {branches.shift[k]:g} degree; give it an impedance, or a ratio of 1 and no turn."
        )
    notes.some("branch.no_impedance", _labels(branches, zero))
    return np.stack([branches.source[zero], branches.target[zero]], axis=1)


def _groups(buses: Buses, ties: np.ndarray, notes: Notebook) -> tuple[np.ndarray, int]:
    """Which bus each bus is part of, -1 out of service; numbered by their first rows."""
    count = len(buses)
    graph = coo_matrix((np.ones(len(ties)), (ties[:, 0], ties[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    _, first, kind = np.unique(
        np.where(buses.on, label, -1), return_index=True, return_inverse=True
    )
    first = np.where(buses.on[first], first, count)  # those out of service are last
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    bus = np.where(buses.on, rank[kind], -1)
    first = np.sort(first)[: bus.max() + 1]
    away = buses.on.copy()
    away[first] = False
    notes.some("bus.merged", _labels(buses, away))
    return bus, len(first)


def _merged(buses: Buses, bus: np.ndarray, count: int) -> Buses:
    """Buses of the same group as one: draws add up, the tighter limits count."""
    rows = np.flatnonzero(buses.on)
    first = np.full(count, len(buses))
    np.minimum.at(first, bus[rows], rows)
    sums = csr_matrix((np.ones(len(rows)), (bus[rows], rows)), shape=(count, len(buses)))
    lowest, highest = np.full(count, -np.inf), np.full(count, np.inf)
    np.maximum.at(lowest, bus[rows], buses.voltage_min[rows])
    np.minimum.at(highest, bus[rows], buses.voltage_max[rows])
    apart = np.abs(buses.nominal[rows] / buses.nominal[first[bus[rows]]] - 1) > 1e-6
    if np.any(apart):
        k = int(rows[np.argmax(apart)])
        raise ValueError(
            f"{buses.label[k]} ({buses.nominal[k]:g} kV) and {buses.label[first[bus[k]]]} "
            f"({buses.nominal[first[bus[k]]]:g} kV) are joined without a transformer; give one "
            "nominal voltage, or open what joins them."
        )
    # a bus is called by its source where it has one, by its first row else
    speaker = first.copy()
    holding = rows[~np.isnan(buses.held[rows])]
    speaker[bus[holding[::-1]]] = holding[::-1]
    fed = rows[buses.fed[rows]]
    speaker[bus[fed[::-1]]] = fed[::-1]
    other = fed[np.abs(buses.held[fed] - buses.held[speaker[bus[fed]]]) > 1e-9]
    if other.size:
        k, j = int(other[0]), int(speaker[bus[other[0]]])
        raise ValueError(
            f"{buses.label[k]} and {buses.label[j]} are one bus, at which sources hold "
            f"{buses.held[k]:g} and {buses.held[j]:g} pu; give one voltage."
        )
    made: dict[str, Any] = {name: sums @ getattr(buses, name) for name in _SUMS}
    return replace(picked(buses, speaker), voltage_min=lowest, voltage_max=highest, **made)


def _apart(buses: Buses, branches: Branches, notes: Notebook) -> tuple[Buses, Branches]:
    """Branches between two buses, and the others' shunts at their one bus."""
    short = branches.source == branches.target
    told = short & (branches.impedance != 0)
    notes.some("branch.shorted", _labels(branches, told))
    shunts = np.zeros(len(buses), complex)
    drawn = branches.near / branches.tap**2 + branches.far
    np.add.at(shunts, branches.source[short], drawn[short])
    return replace(buses, shunt=buses.shunt + shunts), picked(branches, ~short)


def _supplied(buses: Buses, branches: Branches) -> Bool[Column, " B"]:
    """Whether a path of branches leads from a source to each bus."""
    ends = (branches.source, branches.target)
    graph = coo_matrix((np.ones(len(branches)), ends), shape=(len(buses), len(buses)))
    part = connected_components(graph, directed=False)[1]
    return np.isin(part, part[buses.fed])


def _single(branches: Branches, notes: Notebook) -> tuple[Branches, np.ndarray]:
    """Branches side by side as one, and which branch each row of the network's is part of.

    Two-ports in parallel add their admittances. Of transformers with unequal ratios the current
    that they drive round one another becomes shunts at both ends: the same two-port still.
    """
    pair = np.sort(np.stack([branches.source, branches.target]), axis=0)
    _, first, kind, count = np.unique(
        pair, axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    kind = kind.ravel()
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    kind, first, count = rank[kind], first[order], count[order]
    twin = np.stack([branches.row, kind], axis=1)
    if np.all(count == 1):
        return branches, twin
    many = count[kind] > 1
    b = branches.reversed(many & (branches.source > branches.target))
    extra = np.setdiff1d(np.flatnonzero(many), first)
    notes.some("branch.parallel", [branches.label[k] for k in extra.tolist()])
    turn = (b.shift - b.shift[first[kind]] + 180) % 360 - 180
    if np.any(np.abs(turn) > _TURN):
        k = int(np.argmax(np.abs(turn) > _TURN))
        raise ValueError(
            f"{b.label[k]} and {b.label[first[kind[k]]]} lie side by side and turn the phase by "
            f"{b.shift[k]:g} and {b.shift[first[kind[k]]]:g} degree; open one of them."
        )
    sums = csr_matrix((np.ones(len(b)), (kind, np.arange(len(b)))), shape=(len(first), len(b)))
    series = 1 / b.impedance
    through = sums @ (series / b.tap)
    tap = np.where(count > 1, np.abs(sums @ series) / np.abs(through), b.tap[first])
    one = through * tap
    near = (sums @ ((series + np.conj(b.near)) / b.tap**2)) * tap**2 - one
    far = sums @ (series + np.conj(b.far)) - one
    rating = np.full(len(first), np.inf)
    np.minimum.at(rating, kind, b.rating * np.abs(one[kind] / series))
    single = count == 1
    alone = picked(b, first)
    return (
        replace(
            alone,
            impedance=np.where(single, alone.impedance, 1 / one),
            tap=np.where(single, alone.tap, tap),
            near=np.where(single, alone.near, np.conj(near)),
            far=np.where(single, alone.far, np.conj(far)),
            rating=np.where(single, alone.rating, rating),
        ),
        twin,
    )
