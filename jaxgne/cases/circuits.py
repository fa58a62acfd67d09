"""Circuits in three phases: published test feeders, random ones, and their rows in a grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..market import Grid
from ..phases import by_phase
from .feeders import Floats, Ints, table
from .phased import Phased

Complexes = NDArray[np.complex128]
Bools = NDArray[np.bool_]

PUBLISHED = ("ieee13", "ieee34", "ieee37", "ieee123", "european_lv")
PAIRS = ("ab", "bc", "ca")
_LOOP = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]])  # (v_ab, v_bc, v_ca) of (v_a, v_b, v_c)
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_LV_KV, _LV_SOURCE = 0.240177712, 1.05


@dataclass(frozen=True)
class Circuit:
    """A feeder of S buses, the source first, each of the others behind a line of its phases.

    Where it has `three_wires` and no ground, a, b, c stand for ab, bc, ca throughout: voltages are
    in pu of sqrt(3) times the base, impedances D z D^T / 3, loads as if from a phase to ground.
    That is exact.
    """

    names: tuple[str, ...]
    line_names: tuple[str, ...]
    phases: Bools  # (S, 3)
    source: Ints  # (W,) bus that the line to bus 1, 2, ... comes from
    impedance: Complexes  # (W, 3, 3) pu/kW, of missing phases 0
    ratio: Floats  # (W, 3): voltage behind an ideal regulator over that before it
    voltage: Floats  # (3,) pu, of the source
    wye: Complexes  # (S, 3) kVA drawn from each phase to ground
    delta: Complexes  # (S, 3) kVA drawn from a to b, b to c, c to a
    capacitor: Floats  # (S, 3) kvar injected
    three_wires: bool = False

    def regulated(self, ratio: float) -> "Circuit":
        """With all regulators at one ratio."""
        return replace(self, ratio=np.full_like(self.ratio, ratio))

    def scaled(self, by: float) -> "Circuit":
        """With so many times its loads and capacitors."""
        return replace(
            self, wye=by * self.wye, delta=by * self.delta, capacitor=by * self.capacitor
        )


def published(name: str) -> Circuit:
    """One of the test feeders `PUBLISHED`, with the taps set for its peak, as constant powers.

    Their tables say what they are. Lines of the European feeder are called like the bus behind.
    """
    lines, loads = table(f"{name}_conductors"), table(f"{name}_spot")
    if name == "european_lv":
        names = (lines["source"][0], *lines["target"])
        phases, ratio = np.ones((len(names), 3), bool), np.ones((len(names) - 1, 3))
        impedance, called = _by_codes(lines), ("transformer", *lines["target"][1:])
        voltage, source = np.full(3, _LV_SOURCE), lines["source"]
    else:
        names, called = tuple(lines["target"]), tuple(lines["name"][1:])
        phases = np.array([[p in has for p in "abc"] for has in lines["phases"]])
        ratio = np.stack([_numbers(lines[f"ratio_{p}"], 1.0) for p in "abc"], axis=1)
        (voltage, ratio), source = (ratio[0], ratio[1:]), lines["source"][1:]
        impedance = _by_phases(lines, names)
    at = {bus: k for k, bus in enumerate(names)}
    drawn = {kind: np.zeros((len(names), 3), complex) for kind in ("wye", "delta", "capacitor")}
    power = [_numbers(loads[f"kw_{k}"]) + 1j * _numbers(loads[f"kvar_{k}"]) for k in (1, 2, 3)]
    for bus, kind, kva in zip(loads["bus"], loads["connection"], np.stack(power, 1), strict=True):
        drawn[kind][at[bus]] += kva
    circuit = Circuit(
        names, called, phases, np.array([at[bus] for bus in source]), impedance, ratio, voltage,
        drawn["wye"], drawn["delta"], np.imag(-drawn["capacitor"]),
    )  # fmt: skip
    return _in_pairs(circuit) if name == "ieee37" else circuit


def _numbers(column: list[str], empty: float = 0.0) -> Floats:
    return np.array([float(value or empty) for value in column])


def _by_phases(lines: dict[str, list[str]], names: tuple[str, ...]) -> Complexes:
    """Of lines whose matrices are given, pu/kW; a line has the base of the bus it leads to."""
    ohm = np.zeros((len(names), 3, 3), complex)  # and then pu/kW
    for i, j in _UPPER:
        pair = "abc"[i] + "abc"[j]
        ohm[:, i, j] = _numbers(lines[f"r_{pair}"]) + 1j * _numbers(lines[f"x_{pair}"])
        ohm[:, j, i] = ohm[:, i, j]
    kv: dict[str, float] = {}
    for bus, before, own in zip(names, lines["source"], lines["kv"], strict=True):
        kv[bus] = float(own) if own else kv[before]
    ohm /= 1000 * np.array([kv[bus] for bus in names])[:, None, None] ** 2
    return ohm[1:]


def _by_codes(lines: dict[str, list[str]]) -> Complexes:
    """Of transposed lines by code and length, whose sequences have impedances per km, pu/kW."""
    codes = table("european_lv_codes")
    sequences = np.zeros((2, len(codes["code"])), complex)
    for k in (0, 1):
        sequences[k] = _numbers(codes[f"r{k}"]) + 1j * _numbers(codes[f"x{k}"])
    zero, one = sequences[:, [codes["code"].index(code) for code in lines["code"]], None, None]
    km = _numbers(lines["length_m"])[:, None, None] / 1000
    return (one * np.eye(3) + (zero - one) / 3) * km / (1000 * _LV_KV**2)


def _in_pairs(circuit: Circuit) -> Circuit:
    """A feeder whose loads are all between phases as one of three wires; its voltages are so."""
    return replace(
        circuit,
        impedance=_LOOP @ circuit.impedance @ _LOOP.T / 3,
        wye=circuit.delta,
        delta=np.zeros_like(circuit.delta),
        three_wires=True,
    )


def rows(circuit: Circuit) -> Phased:
    """The circuit as rows of a grid.

    Three equal loads from phases to ground stand on all three, `abc`; others at their phase or
    between their two.
    """
    whole = np.all(circuit.wye == circuit.wye[:, :1], axis=1) & (circuit.wye[:, 0] != 0)
    whole &= not circuit.three_wires
    at_phase = np.where(whole[:, None], 0, circuit.wye)[circuit.phases]
    spans = [
        *((bus, PAIRS[k]) for bus, k in np.argwhere(circuit.delta != 0).tolist()),
        *((bus, "abc") for bus in np.flatnonzero(whole).tolist()),
    ]
    kva = np.concatenate([at_phase, circuit.delta[circuit.delta != 0], 3 * circuit.wye[whole, 0]])
    return Phased(_grid(circuit, spans), kva.real, kva.imag)


def _grid(circuit: Circuit, spans: Sequence[tuple[int, str]]) -> Grid:
    grid = by_phase(
        circuit.phases,
        circuit.source,
        np.arange(1, len(circuit.names)),
        circuit.impedance.real,
        circuit.impedance.imag,
        hours=1,
        passive_reactive=-circuit.capacitor,
        spans=spans,
        tap=1 / circuit.ratio,
        feeder_voltage=circuit.voltage,
        names=circuit.names,
        line_names=circuit.line_names,
    )
    if not circuit.three_wires:
        return grid
    pairs = dict(zip("abc", PAIRS, strict=True))

    def between(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{name[:-1]}{pairs[name[-1]]}" for name in names)

    return replace(grid, names=between(grid.names), line_names=between(grid.line_names))


def random_circuit(buses: int, load: float, rng: np.random.Generator) -> Circuit:
    """A random tree: a trunk of three phases, the first third of its buses, and laterals of any.

    Every bus hangs on one drawn from those before it; behind the trunk a bus keeps the phases it
    is fed by in half of the cases, else one or two of them. `load` kW are spread at random over all
    phases of all buses but the first; impedances are scaled so that the lowest voltage at full load
    is 0.965 pu.
    """
    source = np.floor(rng.uniform(size=buses - 1) * np.arange(1, buses)).astype(np.int64)
    phases, kept = np.ones((buses, 3), bool), rng.uniform(size=buses)
    order = np.argsort(rng.uniform(size=(buses, 3)), axis=1)
    for bus in range(1 + buses // 3, buses):
        above = phases[source[bus - 1]]
        own = [p for p in order[bus] if above[p]]
        count = len(own) if kept[bus] < 0.5 else 1 + int(kept[bus] > 0.8)
        phases[bus] = np.isin(np.arange(3), own[:count])
    share = np.where(phases, rng.uniform(0.5, 1.5, (buses, 3)), 0.0)
    share[0] = 0.0 if buses > 1 else share[0]
    kva = (1 + 0.4j) * load * share / share.sum()
    length = rng.uniform(0.5, 1.5, buses - 1)[:, None, None]
    each = np.where(np.eye(3) > 0, 1 + 1j, 0.3 + 0.4j) * length
    each = np.where(phases[1:, :, None] & phases[1:, None, :], each, 0)
    plain = np.ones((buses - 1, 3))
    names, lines = tuple(map(str, range(buses))), tuple(f"line {k}" for k in range(1, buses))
    none = np.zeros((buses, 3))
    found = Circuit(
        names, lines, phases, source, each, plain, np.ones(3), kva, none.astype(complex), none
    )  # fmt: skip
    if buses == 1:
        return found
    weak = rows(replace(found, impedance=1e-9 * each / load))
    lowest = weak.squared_voltages(weak.load[:, None], weak.reactive[:, None]).min()
    return replace(found, impedance=(1 - 0.965**2) / (1 - lowest) * 1e-9 * each / load)
