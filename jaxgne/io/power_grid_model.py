"""Grids from power-grid-model's input: its JSON file, that as a dictionary, or arrays of its own.

No code of power-grid-model's runs. Units of the format are V, A, W, var, VA, ohm, S, F and radians.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..grids import GridModel
from ..market import Grid
from .assembly import grid_of
from .network import Branches, Buses, Column, Network, joined, per_unit
from .notes import ImportReport, Notebook
from .power_grid_model_tables import (
    IGNORED,
    POWERS,
    REFUSED,
    Table,
    ends,
    on,
    places,
    rated,
    read,
)
from .power_grid_model_windings import three_windings, transformers

_SHORT_CIRCUIT, _RX = 1e10, 0.1  # VA and r/x of sources that say nothing


def from_power_grid_model(
    data: str | Path | Mapping[Any, Any],
    *,
    model: GridModel = "lindistflow",
    hours: int = 1,
    frequency: float = 50.0,
    voltage: tuple[float, float] = (0.9, 1.1),
) -> tuple[Grid, ImportReport]:
    """The grid of an input of power-grid-model (1.x), with loads and generation passive; a report.

    `data` is the path of a JSON file, its content, or arrays by component as `calculate_power_flow`
    takes them. Loads are the same in all `hours` steps; `frequency` (Hz) turns capacities into
    charging; `voltage` are the limits in pu, of which the format knows none.

        grid, report = jg.from_power_grid_model("input.json")

    The AC power flow of the grid has the voltages of `calculate_power_flow` (docs/imports.md). Each
    source is a bus of its own behind its short-circuit impedance. Raises `ValueError` for what is
    no such input, what no grid can say, and loops under `lindistflow`.
    """
    told = data if isinstance(data, Mapping) else _read(Path(data))
    tables = read(told)
    notes = Notebook()
    _unread(tables, notes)
    node, source = tables["node"], on(tables["source"], "status", notes)
    index = {int(k): place for place, k in enumerate(node("id").tolist())}
    if len(index) < node.rows:
        raise ValueError("from_power_grid_model: two nodes have the same id.")
    kv = 1e-3 * node.positive("u_rated")
    at_source = places(index, source, "node")
    buses = _buses(tables, index, kv, source, at_source, voltage, notes)
    three, star = tables["three_winding_transformer"], node.rows + source.rows
    made = {
        "line": [_lines(tables["line"], index, kv, frequency, notes)],
        "transformer": [transformers(tables["transformer"], index, kv, notes)],
        "generic_branch": [_generic(tables["generic_branch"], index, kv, notes)],
        "source": [_behind(source, at_source, node.rows, notes)],
        "three_winding_transformer": three_windings(three, index, kv, star, notes),
    }
    parts = [part for each in made.values() for part in each]
    counts = {name: sum(len(part) for part in each) for name, each in made.items()}
    network = Network(buses, joined(parts), _links(tables["link"], index, notes))
    return grid_of(
        network, notes, "power-grid-model input", model=model, hours=hours, tables=counts,
        data={"loads": _loads(tables, index)},
    )  # fmt: skip


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:  # no UTF-8 either
        raise ValueError(
            f"{path} is no JSON of a net ({error}); save it again from pandapower or "
            "power-grid-model."
        ) from None


def _loads(tables: Mapping[str, Table], index: Mapping[int, int]) -> tuple[tuple[str, int], ...]:
    """What each load that is on is called, by component and id, and its node's row."""
    on_ = [on(tables[kind], "status", Notebook()) for kind, sign in POWERS.items() if sign > 0]
    return tuple(
        pair
        for table in on_
        for pair in zip(table.labels, places(index, table, "node").tolist(), strict=True)
    )


def _unread(tables: Mapping[str, Table], notes: Notebook) -> None:
    for code, kinds in IGNORED.items():
        notes.some(code, [label for kind in kinds for label in tables[kind].labels])
    for kind, instead in REFUSED.items():
        if tables[kind].rows:
            raise ValueError(f"{tables[kind].labels[0]} is not read; {instead}.")


def _buses(
    tables: Mapping[str, Table],
    index: Mapping[int, int],
    kv: Column,
    source: Table,
    at_source: Column,
    voltage: tuple[float, float],
    notes: Notebook,
) -> Buses:
    """Nodes, behind them one bus for each source, and the stars of three windings."""
    three = tables["three_winding_transformer"]
    inside = 1e-3 * three.positive("u1")
    count = len(kv) + source.rows + three.rows
    powers = {k: np.zeros(count, complex) for k in ("load", "generation", "current", "quadratic")}
    for kind, sign in POWERS.items():
        table = on(tables[kind], "status", notes)
        kva = 1e-3 * (table("p_specified") + 1j * table("q_specified"))
        if kva.ndim > 1:
            uneven = np.ptp(kva.real, axis=1) + np.ptp(kva.imag, axis=1) > 0
            notes.some("load.phases", table.those(uneven), kva.real[uneven].sum())
            kva = kva.sum(axis=1)
        at, how = places(index, table, "node"), table("type")
        constant, across = ("load", sign) if sign > 0 else ("generation", sign)
        for what, to, times in (
            (0, constant, 1), (1, "quadratic", across), (2, "current", across),
        ):  # fmt: skip
            np.add.at(powers[to], at[how == what], times * kva[how == what])
    shunt = on(tables["shunt"], "status", notes)
    at = places(index, shunt, "node")
    shunts = np.zeros(count, complex)
    np.add.at(shunts, at, 1e3 * (shunt("g1") - 1j * shunt("b1")) * kv[at] ** 2)
    labels = [*tables["node"].labels, *source.labels, *(f"star of {k}" for k in three.labels)]
    notes.add("bus.limits", tables["node"].labels, voltage[0])
    added = np.arange(count) >= len(kv)
    fed = added & (np.arange(count) < len(kv) + source.rows)
    held, angle = np.full(count, np.nan), np.zeros(count)
    held[fed], angle[fed] = source.positive("u_ref"), np.rad2deg(source("u_ref_angle", 0.0))
    return Buses(
        labels,
        labels,
        np.concatenate([kv, kv[at_source], inside]),
        **powers,
        shunt=shunts,
        voltage_min=np.where(added, 0.01, voltage[0]),
        voltage_max=np.where(added, 2.0, voltage[1]),
        held=held,
        fed=fed,
        angle=angle,
    )


def _lines(
    table: Table, index: Mapping[int, int], kv: Column, hz: float, notes: Notebook
) -> Branches:
    joins = ends(table, index)
    base = kv[joins["source"]]
    siemens = 2 * np.pi * hz * table("c1") * (table("tan1") + 1j)
    half = 500 * np.conj(siemens) * base**2
    kva = rated(np.sqrt(3) * base * table("i_n", np.nan), table, notes)
    ohm = table("r1") + 1j * table("x1")
    return Branches(**joins, impedance=per_unit(ohm, base), near=half, far=half, rating=kva)


def _generic(table: Table, index: Mapping[int, int], kv: Column, notes: Notebook) -> Branches:
    joins = ends(table, index)
    base = kv[joins["target"]]
    half = 500 * (table("g1", 0.0) - 1j * table("b1", 0.0)) * base**2
    ohm = table("r1") + 1j * table("x1")
    return Branches(
        **joins, impedance=per_unit(ohm, base), tap=table.positive("k", 1.0),
        shift=np.rad2deg(table("theta", 0.0)), near=half, far=half,
        rating=rated(1e-3 * table("sn", np.nan), table, notes),
    )  # fmt: skip


def _behind(source: Table, at: Column, nodes: int, notes: Notebook) -> Branches:
    """From each source's own bus to its node, what its short-circuit power says."""
    notes.some("source.impedance", source.labels)
    size = 1e3 / source.positive("sk", _SHORT_CIRCUIT)
    ratio = source("rx_ratio", _RX)
    impedance = size * (ratio + 1j) / np.hypot(ratio, 1)
    return Branches(
        source.labels, source.labels, nodes + np.arange(source.rows), at, impedance
    )  # fmt: skip


def _links(table: Table, index: Mapping[int, int], notes: Notebook) -> Column:
    """Pairs of nodes that links join: those closed at both ends."""
    closed = (table("from_status") == 1) & (table("to_status") == 1)
    notes.some("branch.off", table.those(~closed))
    both = [places(index, table, f"{end}_node") for end in ("from", "to")]
    return np.stack(both, axis=1)[closed]
