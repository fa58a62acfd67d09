"""A solved OpenDSS circuit as rows of a grid in three phases: which, and how they fall.

Along the tree each bus has rows of one kind. `phases`: one for each phase. `pairs`: one for each
two wires of a part that has no ground, between transformers with deltas, which then are ratios as
others are (`cases.circuits.Circuit`: three wires). `halves`: one for both halves of a 120/240 V
service, as though loaded alike. What an element says of nodes, in matrices, becomes what it says of
rows: voltages by `Rows.reading`, currents so that powers stay.
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

from .opendss_circuit import Circuit, Pair

Kind = Literal["phases", "pairs", "halves"]
PAIRS = {(1, 2): "ab", (2, 3): "bc", (3, 1): "ca"}
_NEAR = 1e-5  # share of a voltage by which a ratio may miss it: shunts of transformers
_OPEN = 1e-4  # share of admittances that is what open conductors have by charging
_LOOSE = 1e-5  # share of its admittances that windings without ground have to it


@dataclass(frozen=True)
class Rows:
    """The rows of a bus: voltages are `reading` times those of its nodes, both pu.

    Currents of nodes are `reading.T` times those of rows, so that powers agree.
    """

    kind: Kind
    nodes: tuple[int, ...]
    reading: Float[np.ndarray, "R n"]
    names: tuple[str, ...]  # a, ab
    phase: tuple[int, ...]  # 0, 1, 2: whose place in the grid each row takes

    def currents(self, at_nodes: Complex[np.ndarray, "n ..."]) -> Complex[np.ndarray, "R ..."]:
        """Those of rows that are nearest to these of nodes."""
        return np.linalg.pinv(self.reading.T) @ at_nodes


def reading(kind: Kind, nodes: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """What rows of a kind read of nodes, and their names."""
    if kind == "halves":
        own = np.ones(1) if len(nodes) == 1 else np.array([1.0, -1.0]) / 2
        return own[None], ("",)
    if kind == "phases":
        return np.eye(len(nodes)), tuple("abc"[node - 1] for node in nodes)
    table = np.zeros((3, 3))
    for row, (one, other) in enumerate(PAIRS):
        table[row, one - 1], table[row, other - 1] = 1.0, -1.0
    there = [k for k, ends in enumerate(PAIRS) if set(ends) <= set(nodes)]
    names = tuple(PAIRS.values())
    columns = [node - 1 for node in nodes]
    return table[np.ix_(there, columns)] / np.sqrt(3), tuple(names[k] for k in there)


@dataclass(frozen=True)
class Wire:
    """What leads from bus `near` to bus `far`: its nodes, and admittances in kW per pu^2.

    Of the near nodes, those `joined` lead on; others are of conductors that are open.
    """

    near: int
    far: int
    pair: Pair
    ends: tuple[tuple[int, ...], tuple[int, ...]]  # nodes
    joined: list[int]  # rows of the near ones
    own: tuple[Complex[np.ndarray, "n n"], Complex[np.ndarray, "m m"]]  # of either end
    there: Complex[np.ndarray, "n m"]  # current at the near end by voltage at the far
    back: Complex[np.ndarray, "m n"]

    @property
    def loose(self) -> tuple[bool, bool]:
        """Whether either end has no way to the ground, as deltas: its currents sum to 0."""
        if not self.pair.turns:
            return False, False
        near, far = np.hstack([self.own[0], self.there]), np.hstack([self.back, self.own[1]])
        return _sums_to_nothing(near), _sums_to_nothing(far)

    @property
    def through(self) -> Complex[np.ndarray, "m n"]:
        """The voltage that comes through where nothing flows; of lines, that of each conductor."""
        if self.pair.turns:
            return -self._impedance @ self._back
        return np.eye(len(self.joined))[np.abs(self._back).argmax(axis=1)]

    @property
    def impedance(self) -> Complex[np.ndarray, "m m"]:
        """What it falls by behind that, pu/kW."""
        if self.pair.turns:
            return self._impedance
        return -np.linalg.inv(self._back @ self.through.T)

    @property
    def _back(self) -> Complex[np.ndarray, "m j"]:
        return self.back[:, self.joined]

    @property
    def _impedance(self) -> Complex[np.ndarray, "m m"]:
        if self.loose[1]:
            return np.linalg.pinv(self.own[1], rcond=_LOOSE)
        return np.linalg.inv(self.own[1])


def _sums_to_nothing(currents: Complex[np.ndarray, "n N"]) -> bool:
    """Whether those of several nodes do so, whatever the voltages."""
    left = np.abs(currents.sum(axis=0)).max(initial=0.0)
    return len(currents) > 1 and bool(left < _LOOSE * np.abs(currents).max(initial=0.0))


def wire(circuit: Circuit, pair: Pair, near: int, far: int, fed: tuple[int, ...]) -> Wire:
    """A pair of buses as what leads away from the `fed` nodes of the near one."""
    nodes, others, back = pair.between(far, near)
    kept = np.flatnonzero(np.isin(others, fed))
    joins = np.abs(back) > _OPEN * np.abs(back).max(initial=0.0)
    reached = np.flatnonzero(np.any(joins[:, kept], axis=1))
    joined = np.flatnonzero(np.any(joins[np.ix_(reached, kept)], axis=0)).tolist()
    if not pair.turns and len(joined) != len(reached):
        raise ValueError(
            f"from_opendss: {'; '.join(pair.names)} joins {len(joined)} to {len(reached)} nodes; "
            "give it as many conductors at both ends."
        )

    def scaled(one: int, other: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        matrix = pair.between(one, other)[2][np.ix_(rows, columns)]
        return 1000 * circuit.kv[one] * circuit.kv[other] * matrix

    return Wire(
        near, far, pair, (tuple(others[k] for k in kept), tuple(nodes[k] for k in reached)), joined,
        (scaled(near, near, kept, kept), scaled(far, far, reached, reached)),
        scaled(near, far, kept, reached), scaled(far, near, reached, kept),
    )  # fmt: skip


def is_service(circuit: Circuit, bus: int) -> bool:
    """Whether its two nodes are the halves of one winding."""
    return set(circuit.vector[bus].values()) == {1.0, -1.0}


def kinds(circuit: Circuit, root: int, wires: list[Wire], grounded: Set[int]) -> dict[int, Kind]:
    """Which rows buses have; those of `grounded` draw from phases to ground unequally.

    Parts between transformers with deltas are alike. One has rows of pairs where such a transformer
    asks for it and nothing needs its ground.
    """
    part, asks, whole, halves = {root: 0}, [False], [root not in grounded], [False]
    for each in wires:
        here, (near, far) = part[each.near], each.loose
        service = is_service(circuit, each.far) and not halves[here]
        apart = near or far or service
        asks[here] |= near
        if apart:
            whole[here] &= near
            part[each.far] = len(asks)
            asks, whole, halves = [*asks, far], [*whole, True], [*halves, service]
        else:
            part[each.far] = here
            whole[here] &= _even(each)
        whole[part[each.far]] &= each.far not in grounded and len(each.ends[1]) > 1
    found: dict[int, Kind] = {}
    for bus, k in part.items():
        found[bus] = "halves" if halves[k] else "pairs" if asks[k] and whole[k] else "phases"
    return found


def _even(each: Wire) -> bool:
    """Whether it has no ratios that differ from phase to phase, each by itself."""
    through = each.through
    if through.shape[0] != through.shape[1]:
        return False
    own = np.diag(through)
    aside = np.abs(through - np.diag(own)).max(initial=0.0)
    return aside > _NEAR or float(np.ptp(np.abs(own))) < _NEAR


def rows_of_source(kind: Kind, held: dict[int, complex], name: str) -> tuple[Rows, np.ndarray]:
    """Rows of what a source holds at its nodes, pu, and these voltages.

    Raises `ValueError` where they are not 120 degrees apart, a, b, c in sequence.
    """
    nodes = tuple(sorted(held))
    table, names = reading(kind, nodes)
    volts = table @ np.array([held[node] for node in nodes])
    turned = np.degrees(np.angle(volts[0] / volts)) / 120
    phase = (nodes[0] - 1 if kind == "phases" else 0) + np.round(turned).astype(int)
    if np.max(np.abs(turned - np.round(turned))) > 1e-3 or len(set(phase % 3)) < len(phase):
        raise ValueError(
            f"from_opendss: {name} holds phases that are not 120 degrees apart; give it `angle` "
            "0, -120 and 120 for phases 1, 2 and 3, or ask for model='lindistflow'."
        )
    return Rows(kind, nodes, table, names, tuple((phase % 3).tolist())), volts


def turned(rows: Mapping[int, Rows]) -> dict[int, Rows]:
    """The rows, all turned alike, so that most take the place that their name says."""
    apart = Counter(
        ("abc".index(name[0]) - phase) % 3
        for kind in ("phases", "pairs")
        for own in rows.values()
        if own.kind == kind
        for name, phase in zip(own.names, own.phase, strict=True)
        for _ in range(3 if kind == "phases" else 1)
    )
    turn = apart.most_common(1)[0][0] if apart else 0
    return {
        bus: replace(own, phase=tuple((phase + turn) % 3 for phase in own.phase))
        for bus, own in rows.items()
    }


@dataclass(frozen=True)
class Link:
    """A wire between rows: the row that each comes from, ratios, impedances, and what it draws."""

    wire: Wire
    back: Complex[np.ndarray, "Q R"]  # currents at rows of the near bus by those of the far
    tap: Float[np.ndarray, " R"]
    impedance: Complex[np.ndarray, "R R"]  # pu/kW
    near: Complex[np.ndarray, " Q"]  # kW + j kvar drawn at the rows of the near bus, as solved
    far: Complex[np.ndarray, " R"]
    exact: bool  # whether ratios say all that comes through


def link(each: Wire, kind: Kind, above: Rows, circuit: Circuit) -> tuple[Rows, Link]:
    """The rows of the far bus of a wire, below those of the near one.

    Where it is no ratio by rows, as a delta beside loads to ground, ratios are those of the solved
    voltages, and what flows otherwise is drawn. Raises `ValueError` where rows come from two.
    """
    nodes = each.ends[1]
    table, names = reading(kind, nodes)
    here = np.array([circuit.phasor[each.near][node] for node in each.ends[0]])
    there = np.array([circuit.phasor[each.far][node] for node in nodes])
    at = [above.nodes.index(node) for node in each.ends[0]]
    seen, through = above.reading[:, at][:, each.joined], table @ each.through
    norms = np.maximum((seen**2).sum(axis=1), 1e-12)
    ratio = through @ seen.T / norms  # (R, Q), of each row to each
    missed = np.linalg.norm(through[:, None] - ratio[..., None] * seen, axis=2)
    missed = np.where(np.any(seen, axis=1), missed, np.inf)
    best = missed.argmin(axis=1)
    exact = bool(np.all(missed.min(axis=1) <= _NEAR * np.linalg.norm(through, axis=1)))
    if not exact and len(each.joined) == 3:
        comes, own = through @ here[each.joined], seen @ here[each.joined]
        best = np.abs(np.angle(comes[:, None] / own)).argmin(axis=1)
        ratio = comes[:, None] / own
    if len(set(best.tolist())) < len(best) or (not exact and len(each.joined) < 3):
        raise ValueError(
            f"from_opendss: {'; '.join(each.pair.names)} makes of phases of bus "
            f"{circuit.names[each.near]} what is no phase of its own; connect it from a phase to "
            "ground, give its load to the two phases, or ask for model='lindistflow'."
        )
    ratio = ratio[np.arange(len(best)), best]
    phase = tuple(above.phase[k] for k in best)
    names = names if kind != "halves" else tuple(above.names[k] for k in best)
    rows = Rows(kind, nodes, table, names, phase)
    impedance = table @ each.impedance @ table.T
    back = np.zeros((len(above.reading), len(best)), complex)
    back[best, np.arange(len(best))] = np.conj(ratio)
    near, far = _drawn(each, above, rows, back, here, there)
    volts = table @ there
    solved = above.reading @ np.array([circuit.phasor[each.near][node] for node in above.nodes])
    return rows, Link(
        each, back, 1 / np.abs(ratio), impedance, solved * np.conj(near),
        volts * np.conj(far), exact,
    )  # fmt: skip


def _drawn(
    each: Wire,
    above: Rows,
    rows: Rows,
    back: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Currents at rows of the near and the far bus beside those that flow through, as solved."""
    spread = np.equal.outer(above.nodes, each.ends[0]).astype(float)
    if not each.pair.turns:
        comes, behind = here.copy(), each.through.T @ there  # the far voltages, at the near nodes
        comes[each.joined] = behind
        near = each.own[0] @ here + each.there @ each.through @ here[each.joined]
        far = each.own[1] @ there + each.back @ comes
        return above.currents(spread @ near), rows.currents(far)
    into = above.reading.T @ back  # what goes round in rows of pairs is nothing at nodes
    by_near = spread @ each.own[0] + into @ rows.currents(each.back)
    by_far = spread @ each.there + into @ rows.currents(each.own[1])
    return above.currents(by_near @ here + by_far @ there), np.zeros(len(back.T), complex)
