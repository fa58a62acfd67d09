"""Radial feeders: published test feeders, random trees, and flows and voltages on a tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO

import numpy as np
from numpy.typing import NDArray

from ..market import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Feeder:
    """A tree of lines, each pointing away from bus 0, parents before children, and its spot loads.

    `resistance`, `reactance` in pu per kW, behind a transformer of ratio `tap`; `load` (kW) and
    `reactive` (kvar) are the highest of the day at each bus, `voltage` pu that of the feeder bus.
    """

    source: Ints
    target: Ints
    resistance: Floats
    reactance: Floats
    load: Floats
    reactive: Floats
    names: tuple[str, ...] = ()
    voltage: Floats | float = 1.0
    tap: Floats | float = 1.0

    @property
    def roots(self) -> Ints:
        """Where the main grid connects."""
        return np.zeros(1, np.int64)

    def flows(self, drawn: Floats, reactive: Floats) -> tuple[Floats, Floats]:
        """What every line carries when the buses draw so much (B, H): kW and kvar (L, H)."""
        return flows(self, drawn), flows(self, reactive)

    def squared_voltages(self, drawn: Floats, reactive: Floats) -> Floats:
        """The squared voltage of every bus then, (B, H)."""
        return squared_voltages(self, drawn, reactive)


def table(name: str) -> dict[str, list[str]]:
    """Columns of one of the package's CSV files; lines that start with # are comments."""
    text = files("jaxgne.cases").joinpath("data", f"{name}.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in StringIO(text).read().splitlines() if line[:1] != "#"]
    return {head: [row[k] for row in rows[1:]] for k, head in enumerate(rows[0])}


def ieee37_feeder() -> Feeder:
    """The IEEE 37-node test feeder as a balanced equivalent: 36 buses, 35 lines, 2457 kW.

    Substation bus 799 is the feeder bus, at 1.0 pu (the regulator is left out); bus 775 behind an
    unloaded transformer is left out too. Positive-sequence impedances.
    """
    return _published("ieee37", 4.8)


def ieee123_feeder() -> Feeder:
    """The IEEE 123-node test feeder as a scaled test case: 125 buses, 124 lines, 3490 kW.

    Most laterals of the feeder have one or two phases; here all have three, so voltages fall less
    than on the feeder itself. Six closed switches are lines without impedance. Substation bus 150
    is the feeder bus, at 1.0 pu; regulators, capacitors and the transformer 61-610 are left out.
    """
    return _published("ieee123", 4.16)


def _published(name: str, kv: float) -> Feeder:
    """A feeder of the package's CSV files; `kv` line to line."""
    lines, loads = table(f"{name}_lines"), table(f"{name}_loads")
    names = (lines["source"][0], *lines["target"])
    index = {name: k for k, name in enumerate(names)}
    at = [index[name] for name in loads["bus"]]
    load, reactive = np.zeros(len(names)), np.zeros(len(names))
    load[at], reactive[at] = _numbers(loads["load_kw"]), _numbers(loads["load_kvar"])
    base = 1000 * kv**2  # ohm per pu/kW
    return Feeder(
        source=np.array([index[name] for name in lines["source"]]),
        target=np.array([index[name] for name in lines["target"]]),
        resistance=_numbers(lines["resistance_ohm"]) / base,
        reactance=_numbers(lines["reactance_ohm"]) / base,
        load=load,
        reactive=reactive,
        names=names,
    )


def given_feeder(grid: Grid) -> Feeder:
    """Lines, impedances and names of a radial `grid`; its highest passive loads are the spot loads.

    Buses are numbered anew, the feeder bus first. `ValueError` where `grid` is no tree.
    """
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    order = np.concatenate([np.asarray(grid.feeder), target])
    buses = len(grid.passive)
    position = np.full(buses, -1)
    if len(grid.feeder) == 1 and len(order) == buses:
        position[order] = np.arange(buses)
    if np.any(position < 0) or np.any(position[source] >= position[target]):
        raise ValueError(
            "feeder: give a radial Grid with one feeder bus, whose lines point away from it, "
            "parents before children."
        )
    held = np.unique(np.asarray(grid.feeder_voltage))
    if len(held) > 1:
        raise ValueError(
            "feeder: its Grid.feeder_voltage changes from hour to hour; give one for all hours, or "
            "use populate, which keeps the grid as it is."
        )
    load = np.asarray(grid.passive, dtype=float).max(axis=1, initial=0.0)[order]
    if not load.sum() > 0:
        raise ValueError("feeder: give a Grid with passive load; prosumers take their share of it.")
    return Feeder(
        source=position[source],
        target=position[target],
        resistance=np.asarray(grid.resistance, dtype=float),
        reactance=np.asarray(grid.reactance, dtype=float),
        load=load,
        reactive=np.asarray(grid.passive_reactive, dtype=float).max(axis=1, initial=0.0)[order],
        names=tuple(grid.names[bus] for bus in order) if grid.names else (),
        voltage=float(held[0]) if len(held) else 1.0,
        tap=np.asarray(grid.tap, dtype=float),
    )


def random_feeder(buses: int, load: float, rng: np.random.Generator) -> Feeder:
    """A random recursive tree: every bus hangs on one drawn from those before it.

    `load` kW are spread at random over all buses but the feeder; impedances are scaled so that the
    lowest voltage at full load is 0.965 pu.
    """
    target = np.arange(1, buses)
    source = np.floor(rng.uniform(size=buses - 1) * target).astype(np.int64)
    share = rng.uniform(0.5, 1.5, buses)
    share[0] = 0.0 if buses > 1 else 1.0
    spot = load * share / share.sum()
    reactive = 0.4 * spot
    length = rng.uniform(0.5, 1.5, buses - 1)
    feeder = Feeder(source, target, length, 0.7 * length, spot, reactive)
    if buses == 1:
        return feeder
    lowest = squared_voltages(feeder, spot[:, None], reactive[:, None]).min()
    scale = (1 - 0.965**2) / (1 - lowest)
    return Feeder(source, target, scale * length, scale * 0.7 * length, spot, reactive)


def flows(feeder: Feeder, drawn: Floats) -> Floats:
    """What every line carries when the buses draw `drawn` (B, H): sums of all behind it (L, H)."""
    behind = drawn.copy()
    for source, target in reversed(list(_ends(feeder))):
        behind[source] += behind[target]
    return behind[feeder.target]


def squared_voltages(feeder: Feeder, drawn: Floats, reactive: Floats) -> Floats:
    """LinDistFlow: w falls by 2 (r p + x q) behind every line's transformer (B, H)."""
    fall = 2 * (
        feeder.resistance[:, None] * flows(feeder, drawn)
        + feeder.reactance[:, None] * flows(feeder, reactive)
    )
    squared = np.broadcast_to(np.square(feeder.voltage), drawn.shape).astype(float)
    seen = np.broadcast_to(np.square(feeder.tap), feeder.source.shape)
    for line, (source, target) in enumerate(_ends(feeder)):
        squared[target] = squared[source] / seen[line] - fall[line]
    return squared


def _ends(feeder: Feeder) -> Iterator[tuple[int, int]]:
    return zip(feeder.source.tolist(), feeder.target.tolist(), strict=True)


def _numbers(column: list[str]) -> Floats:
    return np.array(column, dtype=float)
