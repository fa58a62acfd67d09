"""Three-phase feeders and markets for tests: random trees with missing phases, and what they do.

`linear` and `sweep` are written from the equations with loops over buses, and share nothing with
the package but the tables of a `Tree`.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne.phases import by_phase
from tests.markets import _changed

TURN = np.exp(-2j * np.pi / 3 * np.arange(3))  # phases a, b, c at 0, -120, +120 degrees
PAIRS = ("ab", "bc", "ca")


@dataclass
class Tree:
    """A random feeder: each bus behind the first hangs on one before it by a line of its phases."""

    phases: np.ndarray  # (S, 3)
    parent: np.ndarray  # (S,), -1 of the first
    z: Any  # (S, 3, 3) pu/kW, of the line that leads to the bus; 0 in missing phases
    tap: np.ndarray  # (S, 3)
    source: np.ndarray  # (3,) pu
    spans: tuple[tuple[int, str], ...]
    wye: Any  # (S, 3, H) kVA drawn of phases, complex
    spanned: Any  # (V, H) kVA drawn by spans

    @property
    def hours(self) -> int:
        return self.wye.shape[2]

    def grid(self, **limits: Any) -> jg.Grid:
        """As the package has it."""
        return by_phase(
            self.phases,
            self.parent[1:],
            np.arange(1, len(self.parent)),
            self.z[1:].real,
            self.z[1:].imag,
            hours=self.hours,
            passive=self.wye.real,
            passive_reactive=self.wye.imag,
            spans=self.spans,
            span_passive=self.spanned.real,
            span_reactive=self.spanned.imag,
            tap=1 / self.tap[1:],
            feeder_voltage=self.source,
            **limits,
        )


def random_tree(
    seed: int, buses: int = 8, hours: int = 2, whole: bool = False, taps: bool = True
) -> Tree:
    """A random tree; `whole` has all phases everywhere."""
    rng = np.random.default_rng(seed)
    parent = np.array([-1, *(int(rng.integers(0, k)) for k in range(1, buses))])
    phases = np.ones((buses, 3), bool)
    for k in range(1, buses):
        own = phases[parent[k]] & (whole | (rng.uniform(size=3) < 0.8))
        phases[k] = own if own.any() else phases[parent[k]]
    own = rng.uniform(0.5, 1.5, (buses, 1, 1)) * 4e-4
    z = own * (np.eye(3) * (1 + 1.6j) + (1 - np.eye(3)) * (0.3 + 0.7j))
    noise = rng.uniform(0.8, 1.2, (buses, 3, 3))
    z = z * (noise + noise.transpose(0, 2, 1)) / 2
    z = np.where(phases[:, :, None] & phases[:, None, :], z, 0)
    z[0] = 0
    tap = np.ones((buses, 3))
    if taps and buses > 2:
        tap[rng.integers(1, buses)] = rng.uniform(0.97, 1.05, 3)
    wye = rng.uniform(0, 8, (buses, 3, hours)) + 1j * rng.uniform(-1, 3, (buses, 3, hours))
    wye = np.where(phases[:, :, None], wye, 0)
    wye[0] = 0
    spans = []
    for k in range(1, buses):
        for kind in (*PAIRS, "abc"):
            if all(phases[k]["abc".index(p)] for p in kind) and rng.uniform() < 0.4:
                spans.append((k, kind))
    spanned = rng.uniform(0, 8, (len(spans), hours)) + 1j * rng.uniform(0, 3, (len(spans), hours))
    source = rng.uniform(0.99, 1.03, 3)
    return Tree(phases, parent, z, tap, source, tuple(spans), wye, spanned)


def linear(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """LinDist3Flow: squared voltages (S, 3, H), and P + jQ into each bus."""
    flow = tree.wye.copy()
    for (bus, kind), power in zip(tree.spans, tree.spanned, strict=True):
        first = "abc".index(kind[0])
        if kind == "abc":
            flow[bus] += power / 3
        else:
            flow[bus, first] += power * np.exp(-1j * np.pi / 6) / np.sqrt(3)
            flow[bus, (first + 1) % 3] += power * np.exp(1j * np.pi / 6) / np.sqrt(3)
    for k in range(len(tree.parent) - 1, 0, -1):
        flow[tree.parent[k]] += flow[k]
    square = np.zeros(flow.shape)
    square[0] = tree.source[:, None] ** 2
    for k in range(1, len(tree.parent)):
        turned = tree.z[k] * np.conj(TURN[:, None] / TURN[None, :])
        fall = 2 * (turned.real @ flow[k].real + turned.imag @ flow[k].imag)
        square[k] = tree.tap[k][:, None] ** 2 * square[tree.parent[k]] - fall
    return np.where(tree.phases[:, :, None], square, np.nan), flow


def sweep(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """The AC state: complex voltages (S, 3, H) and currents into each bus (kVA at 1 pu)."""
    start = np.empty(tree.wye.shape, complex)
    start[0] = (tree.source * TURN)[:, None]
    for k in range(1, len(tree.parent)):
        start[k] = tree.tap[k][:, None] * start[tree.parent[k]]
    volts, current = start.copy(), np.zeros_like(start)
    for _ in range(200):
        current = np.conj(tree.wye / volts)
        for (bus, kind), power in zip(tree.spans, tree.spanned, strict=True):
            first, second = "abc".index(kind[0]), ("abc".index(kind[0]) + 1) % 3
            if kind == "abc":
                current[bus] += np.conj(power / 3 / volts[bus])
            else:
                between = np.conj(power / (volts[bus, first] - volts[bus, second]))
                current[bus, first] += between
                current[bus, second] -= between
        for k in range(len(tree.parent) - 1, 0, -1):
            current[tree.parent[k]] += tree.tap[k][:, None] * current[k]
        new = start.copy()
        for k in range(1, len(tree.parent)):
            new[k] = tree.tap[k][:, None] * new[tree.parent[k]] - tree.z[k] @ current[k]
        moved, volts = np.max(np.abs(np.where(tree.phases[:, :, None], new - volts, 0))), new
        if moved < 1e-13:
            break
    return volts, current


def market(
    seed: int,
    buses: int = 6,
    hours: int = 3,
    whole: bool = False,
    feeder: int | None = None,
    **limits: Any,
) -> jg.Market:
    """A small market on such a feeder: people on phases, between two, and on three.

    Markets on one random `feeder`, by its seed, have one shape.
    """
    rng = np.random.default_rng(1000 + seed)
    tree = random_tree(seed if feeder is None else feeder, buses, hours, whole)
    grid = tree.grid(**limits)
    count = 5
    places = rng.choice(np.arange(3, grid.passive.shape[0]), count)
    surplus = rng.uniform(-6, 8, (count, hours))
    chance = rng if feeder is None else np.random.default_rng(feeder)
    pairs = [(i, j) for i in range(count) for j in range(i) if chance.uniform() < 0.5]
    return jg.Market(
        jg.Prosumers(
            places, surplus, rng.uniform(0, 1, (count, hours)), import_max=60.0, export_max=20.0
        ),
        grid,
        jg.Tariff(2e-4, hours=hours, base=rng.uniform(0.1, 0.3, hours), export=0.04),
        jg.Generators([0, 1], 6.0, hours=hours, quadratic=0.004, linear=rng.uniform(0.05, 0.2, 2)),
        jg.Buffers([2, 3], 4.0, 4.0, 9.0, 3.0, hours=hours, energy_min=1.0,
                   charge_efficiency=0.95, discharge_efficiency=0.95, quadratic=1e-3),
        jg.Trading([i for i, _ in pairs], [j for _, j in pairs], 4.0, toll=0.01),
    )  # fmt: skip


def busy_market(seed: int, capped: bool | None = None, **fixed: Any) -> jg.Market:
    """A small market on a random feeder in which much binds: ratings, voltages, caps, inverters.

    Limits are drawn around what it does without them, so that some have no plan. `fixed` are
    sizes for `market`.
    """
    rng = np.random.default_rng([seed, 3])
    sizes: Any = {"buses": int(rng.integers(3, 7)), "hours": int(rng.integers(1, 4))}
    sizes |= {"whole": bool(rng.integers(2))} | fixed
    base = market(seed, voltage_min=0.5, voltage_max=1.5, **sizes)
    grid, hours = base.grid, base.prosumers.load.shape[1]
    rows = len(grid.passive)
    length = rng.choice([0.25, 1.0]) if rng.uniform() < 0.5 else rng.uniform(0.5, 2, hours)
    base = _changed(
        base,
        grid__feeder_voltage=grid.feeder_voltage + rng.uniform(-0.005, 0.005, (3, hours)),
        tariff__anticipation=rng.choice([0.0, 0.5, 1.0]),
        prosumers__curtail_max=rng.choice([0.0, 3.0]),
        prosumers__import_adder=rng.uniform(0, 0.03, base.prosumers.import_adder.shape),
    )
    base = replace(base, hour_length=jnp.broadcast_to(length, hours))
    free: Any = jg.clear(base, runner="numpy").plan
    volts = np.sqrt(np.asarray(free.voltage))
    carried = np.hypot(free.active, free.reactive).max(axis=1)

    def some(share: float, count: int) -> np.ndarray:
        return rng.uniform(size=count) < share

    rating = np.where(some(0.15, len(carried)), carried * rng.uniform(0.95, 1.2), np.inf)
    room = rng.choice([0.002, 0.005, 0.02])
    low = volts.min(axis=1) - np.where(some(0.15, rows), -0.1, 1) * room * rng.uniform(0, 1, rows)
    high = volts.max(axis=1) + np.where(some(0.1, rows), -0.1, 1) * room * rng.uniform(0, 1, rows)
    helps = some(0.4, rows)[:, None] * rng.uniform(0, 15, (rows, hours)) * (rng.uniform() < 0.6)
    found = _changed(
        base,
        grid__rating=rating + 0.1,
        grid__voltage_min=low,
        grid__voltage_max=np.full(rows, 1.2) if some(0.3, 1) else np.maximum(high, low + 1e-4),
        grid__compensation_max=helps,
    )
    if rng.uniform() < 0.3 if capped is None else capped:
        bought = float(found.hour_length @ np.asarray(free.imports).sum(axis=0))
        most = 0.4 * rng.uniform(0.95, 1.1) * bought + 1.0
        caps = [jg.caps.carbon(found, most, grid=0.4, generators=0.3, passive=False)]
        caps += [jg.caps.demand_charge(found, 0.3, prosumers=[2, 0], free=1.0)]
        found = jg.capped(found, *caps)
    return found
