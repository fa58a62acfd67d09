"""Three-phase power flows by other programs, as oracles: complex voltages of a tree, pu (S, 3)."""

from typing import Any

import numpy as np
from power_grid_model import (
    ComponentType,
    DatasetType,
    LoadGenType,
    PowerGridModel,
    initialize_array,
)

from tests.phased import PAIRS, Tree

KV = 1.0  # line to neutral, of the other program's buses; any will do
OHM = 1000 * KV**2  # per pu/kW


def by_opendss(tree: Tree, hour: int) -> np.ndarray:
    """By OpenDSS, whose regulators have an impedance of 1e-10 pu/kW; nan where a phase is missing.

    All loads are constant powers at any voltage, delta ones between two phases.
    """
    import dss  # takes a second

    engine: Any = dss.DSS.NewContext()
    engine.AllowForms = False
    said = ["clear", *_sources(tree), *_branches(tree), *_loads(tree, hour)]
    said += [f"set voltagebases=[{KV * np.sqrt(3)}]", "calcvoltagebases"]
    said += ["set tolerance=1e-12", "set maxiterations=500", "solve"]
    for line in said:
        engine.Text.Command = line
    circuit = engine.ActiveCircuit
    assert circuit.Solution.Converged
    volts = np.asarray(circuit.AllBusVolts).reshape(-1, 2) @ [1, 1j] / (1000 * KV)
    at = dict(zip(circuit.AllNodeNames, volts, strict=True))
    engine.Text.Command = "clear"
    found = np.full(tree.phases.shape, np.nan, complex)
    for bus, phase in np.argwhere(tree.phases):
        found[bus, phase] = at[f"{bus}.{phase + 1}"]
    return found


def _sources(tree: Tree) -> list[str]:
    """One source a phase; the first makes the circuit."""
    return [
        f"new {'vsource' if k else 'circuit'}.s{phase} phases=1 bus1=0.{phase + 1} basekv={KV} "
        f"pu={float(tree.source[phase])!r} angle={-120 * phase} r1=0 x1=1e-10 r0=0 x0=1e-10"
        for k, phase in enumerate(np.flatnonzero(tree.phases[0]))
    ]


def _branches(tree: Tree) -> list[str]:
    said = []
    for bus in range(1, len(tree.parent)):
        own, start = np.flatnonzero(tree.phases[bus]), f"{tree.parent[bus]}"
        if np.any(tree.tap[bus] != 1):
            said += [
                f"new transformer.t{bus}_{p} phases=1 windings=2 "
                f"buses=({start}.{p + 1} r{bus}.{p + 1}) kvs=({KV} {KV}) kvas=(100 100) xhl=1e-6 "
                "%rs=(0 0) %imag=0 %noloadloss=0 ppm_antifloat=0 maxtap=2 mintap=0.2 "
                f"taps=(1 {float(tree.tap[bus][p])!r})"
                for p in own
            ]
            start = f"r{bus}"
        ohm, nodes = OHM * tree.z[bus][np.ix_(own, own)], ".".join(str(p + 1) for p in own)
        rows = {
            kind: "|".join(
                " ".join(repr(float(x)) for x in row[: k + 1]) for k, row in enumerate(m)
            )
            for kind, m in (("r", ohm.real), ("x", ohm.imag), ("c", 0 * ohm.real))
        }
        matrices = " ".join(f"{kind}matrix=({values})" for kind, values in rows.items())
        said.append(
            f"new line.l{bus} phases={len(own)} bus1={start}.{nodes} bus2={bus}.{nodes} length=1 "
            f"{matrices}"
        )
    return said


def _loads(tree: Tree, hour: int) -> list[str]:
    drawn = [
        (f"{bus}.{p + 1}", KV, "wye", tree.wye[bus, p, hour]) for bus, p in np.argwhere(tree.phases)
    ]
    for (bus, kind), power in zip(tree.spans, tree.spanned[:, hour], strict=True):
        first = "abc".index(kind[0])
        if kind in PAIRS:
            nodes = f"{bus}.{first + 1}.{(first + 1) % 3 + 1}"
            drawn.append((nodes, KV * np.sqrt(3), "delta", power))
        else:
            drawn += [(f"{bus}.{p + 1}", KV, "wye", power / 3) for p in range(3)]
    return [
        f"new load.d{k} phases=1 bus1={nodes} kv={kv} conn={conn} kw={float(power.real)!r} "
        f"kvar={float(power.imag)!r} model=1 vminpu=0.05 vmaxpu=5"
        for k, (nodes, kv, conn, power) in enumerate(drawn)
    ]


def by_power_grid_model(tree: Tree, hour: int) -> np.ndarray:
    """By power-grid-model's Newton method: of trees with all phases, without taps or pairs."""
    assert tree.phases.all() and np.all(tree.tap == 1) and np.ptp(tree.source) == 0

    def table(kind: Any, count: int, **columns: Any) -> np.ndarray:
        made = initialize_array(DatasetType.input, kind, count)
        for name, value in columns.items():
            made[name] = value
        return made

    buses = len(tree.parent)
    each, ohm = np.arange(buses), OHM * tree.z[1:]
    matrices = {
        f"{kind}_{'abc'[i]}{'abc'[j]}": part[:, i, j]
        for kind, part in (("r", ohm.real), ("x", ohm.imag))
        for i in range(3)
        for j in range(i + 1)
    }
    power = tree.wye[:, :, hour].copy()
    for (bus, kind), spanned in zip(tree.spans, tree.spanned[:, hour], strict=True):
        assert kind == "abc"
        power[bus] += spanned / 3
    kinds = ComponentType
    data = {
        kinds.node: table(kinds.node, buses, id=each, u_rated=1000 * KV * np.sqrt(3)),
        kinds.asym_line: table(
            kinds.asym_line, buses - 1, id=buses + each[:-1], from_node=tree.parent[1:],
            to_node=each[1:], from_status=1, to_status=1, c0=0.0, c1=0.0, **matrices,
        ),
        kinds.source: table(
            kinds.source, 1, id=2 * buses, node=0, status=1, u_ref=tree.source[0], sk=1e20
        ),
        kinds.asym_load: table(
            kinds.asym_load, buses, id=3 * buses + each, node=each, status=1,
            type=LoadGenType.const_power, p_specified=1e3 * power.real,
            q_specified=1e3 * power.imag,
        ),
    }  # fmt: skip
    found = PowerGridModel(data).calculate_power_flow(
        symmetric=False, error_tolerance=1e-10, max_iterations=50
    )
    nodes = found[kinds.node]
    return nodes["u_pu"] * np.exp(1j * nodes["u_angle"])
