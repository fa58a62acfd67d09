"""Grids from power-grid-model's input: its JSON file, that as a dictionary, or arrays of its own.

No code of power-grid-model's runs. Units of the format are V, A, W, var, VA, ohm, S, F and radians.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..grids import GridModel
from ..market import Grid
from .assembly import grid_of
from .network import Branches, Buses, Column, Network, joined, per_unit
from .notes import ImportReport, Notebook

_SENSORS = tuple(
    f"{phases}_{what}_sensor"
    for phases in ("sym", "asym")
    for what in ("power", "voltage", "current")
)
_IGNORED = {
    "table.ignored": (*_SENSORS, "fault"),
    "controller.ignored": ("transformer_tap_regulator", "voltage_regulator"),
}
_REFUSED = {
    "three_winding_transformer": "give three transformers that meet at a node",
    "asym_line": "give a line with its positive sequence",
}
_BRANCHES = ("line", "transformer", "generic_branch")
_POWERS = {"sym_load": 1, "asym_load": 1, "sym_gen": -1, "asym_gen": -1}
_KNOWN = {"node", "link", "source", "shunt", *_BRANCHES, *_POWERS, *_REFUSED}.union(
    *_IGNORED.values()
)
_SHORT_CIRCUIT, _RX = 1e10, 0.1  # VA and r/x of sources that say nothing


@dataclass(frozen=True)
class _Table:
    """One kind of component: rows by names of columns."""

    kind: str
    rows: int
    columns: Mapping[str, Any]

    def __call__(self, name: str, default: float | None = None) -> Column:
        """A column of numbers; `ValueError` for what is missing where there is no default."""
        values = self.columns.get(name) if self.rows else np.zeros(0)
        values = np.full(self.rows, np.nan) if values is None else _numbers(values)
        if default is not None:
            return np.where(np.isnan(values), default, values)
        bad = np.unique(np.argwhere(~np.isfinite(values))[:, 0])
        if bad.size:
            raise ValueError(f"{self.labels[bad[0]]} has no number {name}.")
        return values

    def positive(self, name: str, default: float | None = None) -> Column:
        """A column of numbers above 0; `ValueError` else."""
        values = self(name, default)
        bad = np.flatnonzero(values <= 0)
        if bad.size:
            raise ValueError(
                f"{self.labels[bad[0]]} has {name} {values[bad[0]]:g}; give more than 0."
            )
        return values

    @property
    def labels(self) -> list[str]:
        ids = _numbers(self.columns["id"]) if "id" in self.columns else np.arange(self.rows)
        return [f"{self.kind} {k:.0f}" for k in ids.tolist()]

    def those(self, these: Column) -> list[str]:
        told = self.labels
        return [told[k] for k in np.flatnonzero(these).tolist()]


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
    told = data if isinstance(data, Mapping) else json.loads(Path(data).read_text("utf-8"))
    tables = _tables(told)
    notes = Notebook()
    _unread(tables, notes)
    node, source = tables["node"], _on(tables["source"], "status", notes)
    index = {int(k): place for place, k in enumerate(node("id").tolist())}
    if len(index) < node.rows:
        raise ValueError("from_power_grid_model: two nodes have the same id.")
    kv = 1e-3 * node.positive("u_rated")
    at_source = _places(index, source, "node")
    buses = _buses(tables, index, kv, source, at_source, voltage, notes)
    makers = (_lines, _transformers, _generic)
    parts = [make(tables, index, kv, frequency, notes) for make in makers]
    parts.append(_behind(source, at_source, node.rows, notes))
    counts = {part: tables[part].rows for part in _BRANCHES} | {"source": source.rows}
    network = Network(buses, joined(parts), _links(tables["link"], index, notes))
    return grid_of(
        network, notes, "power-grid-model input", model=model, hours=hours, tables=counts
    )


def _numbers(values: Any) -> Column:
    """As floats, what is missing as NaN: nothing in JSON, the least integer in arrays."""
    values = np.asarray(values)
    if values.dtype.kind == "i":
        return np.where(values == np.iinfo(values.dtype).min, np.nan, values.astype(float))
    if values.dtype == object:
        values = np.array([[np.nan if x is None else x for x in np.atleast_1d(v)] for v in values])
        values = values[:, 0] if values.shape[1:] == (1,) else values
    return values.astype(float)


def _tables(data: Mapping[Any, Any]) -> dict[str, _Table]:
    """All components of an input, empty ones for those that it has not."""
    attributes: Mapping[Any, Any] = {}
    if "data" in data:
        told = {name: data.get(name) for name in ("version", "type", "is_batch")}
        if told != {"version": "1.0", "type": "input", "is_batch": False}:
            raise ValueError(
                f"from_power_grid_model: the file is of version {told['version']!r}, type "
                f"{told['type']!r}, is_batch {told['is_batch']!r}; give one input of version '1.0'."
            )
        attributes, data = data.get("attributes") or {}, data["data"]
    tables = {name: _Table(name, 0, {}) for name in _KNOWN}
    for key, rows in data.items():
        name = str(getattr(key, "value", key))
        if name not in _KNOWN:
            raise ValueError(
                f"from_power_grid_model: {name!r} is no component that is known here; leave it out."
            )
        tables[name] = _table(name, rows, attributes.get(name))
    for name in ("node", "source"):
        if not tables[name].rows:
            raise ValueError(f"from_power_grid_model: the input has no {name}.")
    return tables


def _table(name: str, rows: Any, order: Any) -> _Table:
    """From rows as dictionaries or as lists in `order`, a structured array, or columns."""
    if isinstance(rows, np.ndarray) and rows.dtype.names:
        return _Table(name, len(rows), {column: rows[column] for column in rows.dtype.names})
    if isinstance(rows, Mapping):
        columns = {str(getattr(k, "value", k)): np.asarray(v) for k, v in rows.items()}
        return _Table(name, max((len(v) for v in columns.values()), default=0), columns)
    told: list[Mapping[str, Any]] = [
        row if isinstance(row, Mapping) else dict(zip(order or (), row, strict=True))
        for row in rows
    ]
    names = dict.fromkeys(column for row in told for column in row)
    columns = {}
    for column in names:
        values = [row.get(column) for row in told]
        wide = np.empty(len(told), object)
        wide[:] = [
            [np.nan if x is None else x for x in v] if isinstance(v, list) else v for v in values
        ]
        columns[column] = wide
    return _Table(name, len(told), columns)


def _unread(tables: Mapping[str, _Table], notes: Notebook) -> None:
    for code, kinds in _IGNORED.items():
        notes.some(code, [label for kind in kinds for label in tables[kind].labels])
    for kind, instead in _REFUSED.items():
        if tables[kind].rows:
            raise ValueError(f"{tables[kind].labels[0]} is not read; {instead}.")


def _on(table: _Table, name: str, notes: Notebook) -> _Table:
    """The rows that are in service; others are said."""
    on = table(name) == 1 if table.rows else np.zeros(0, bool)
    notes.some("element.off", table.those(~on))
    columns = {name: np.asarray(values)[on] for name, values in table.columns.items()}
    return _Table(table.kind, int(on.sum()), columns)


def _places(index: Mapping[int, int], table: _Table, name: str) -> Column:
    """Where the nodes of a column are; `ValueError` for one that is not there."""
    ids = table(name).tolist()
    for label, k in zip(table.labels, ids, strict=True):
        if k not in index:
            raise ValueError(f"{label} is at node {k:.0f}, which is not in the input.")
    return np.array([index[k] for k in ids], np.int64)


def _buses(
    tables: Mapping[str, _Table],
    index: Mapping[int, int],
    kv: Column,
    source: _Table,
    at_source: Column,
    voltage: tuple[float, float],
    notes: Notebook,
) -> Buses:
    """Nodes, and behind them one bus for each source."""
    count = len(kv) + source.rows
    powers = {k: np.zeros(count, complex) for k in ("load", "generation", "current", "quadratic")}
    for kind, sign in _POWERS.items():
        table = _on(tables[kind], "status", notes)
        kva = 1e-3 * (table("p_specified") + 1j * table("q_specified"))
        if kva.ndim > 1:
            uneven = np.ptp(kva.real, axis=1) + np.ptp(kva.imag, axis=1) > 0
            notes.some("load.phases", table.those(uneven), kva.real[uneven].sum())
            kva = kva.sum(axis=1)
        at, how = _places(index, table, "node"), table("type")
        constant, across = ("load", sign) if sign > 0 else ("generation", sign)
        for what, to, times in (
            (0, constant, 1), (1, "quadratic", across), (2, "current", across),
        ):  # fmt: skip
            np.add.at(powers[to], at[how == what], times * kva[how == what])
    shunt = _on(tables["shunt"], "status", notes)
    at = _places(index, shunt, "node")
    shunts = np.zeros(count, complex)
    np.add.at(shunts, at, 1e3 * (shunt("g1") - 1j * shunt("b1")) * kv[at] ** 2)
    labels = [*tables["node"].labels, *source.labels]
    notes.add("bus.limits", tables["node"].labels, voltage[0])
    fed = np.arange(count) >= len(kv)
    behind = np.zeros(len(kv))
    return Buses(
        labels,
        labels,
        np.append(kv, kv[at_source]),
        **powers,
        shunt=shunts,
        voltage_min=np.where(fed, 0.01, voltage[0]),
        voltage_max=np.where(fed, 2.0, voltage[1]),
        held=np.append(np.full(len(kv), np.nan), source.positive("u_ref")),
        fed=fed,
        angle=np.append(behind, np.rad2deg(source("u_ref_angle", 0.0))),
    )


def _ends(table: _Table, index: Mapping[int, int]) -> dict[str, Any]:
    return {
        "label": table.labels,
        "name": table.labels,
        "source": _places(index, table, "from_node"),
        "target": _places(index, table, "to_node"),
        "source_on": table("from_status") == 1,
        "target_on": table("to_status") == 1,
    }


def _rated(kva: Column, table: _Table, notes: Notebook) -> Column:
    none = ~np.isfinite(kva)
    notes.some("branch.no_rating", table.those(none))
    return np.where(none, np.inf, kva)


def _lines(
    tables: Mapping[str, _Table], index: Mapping[int, int], kv: Column, hz: float, notes: Notebook
) -> Branches:
    table = tables["line"]
    ends = _ends(table, index)
    base = kv[ends["source"]]
    siemens = 2 * np.pi * hz * table("c1") * (table("tan1") + 1j)
    half = 500 * np.conj(siemens) * base**2
    kva = _rated(np.sqrt(3) * base * table("i_n", np.nan), table, notes)
    ohm = table("r1") + 1j * table("x1")
    return Branches(**ends, impedance=per_unit(ohm, base), near=half, far=half, rating=kva)


def _transformers(
    tables: Mapping[str, _Table], index: Mapping[int, int], kv: Column, hz: float, notes: Notebook
) -> Branches:
    """Of two windings; a tap moves the rated voltage of its side, and impedances by its place."""
    table = tables["transformer"]
    ends = _ends(table, index)
    least, most, nominal = table("tap_min"), table("tap_max"), table("tap_nom", 0.0)
    place = table("tap_pos", np.nan)
    place = np.where(np.isnan(place), nominal, place)
    place = np.clip(place, np.minimum(least, most), np.maximum(least, most))
    change = np.where(most >= least, 1, -1) * (place - nominal) * table("tap_size")
    at_from = table("tap_side") == 0
    high = table.positive("u1") + np.where(at_from, change, 0)
    low = table.positive("u2") + np.where(at_from, 0, change)
    uk, pk = (
        _at_tap(place, least, nominal, most, table(name), table(f"{name}_min", np.nan),
                table(f"{name}_max", np.nan))
        for name in ("uk", "pk")
    )  # fmt: skip
    sn = table.positive("sn")
    real, whole = pk * (low / sn) ** 2, uk * low**2 / sn
    ohm = real + 1j * np.sign(whole) * np.sqrt(np.maximum(whole**2 - real**2, 0))
    watt, va = table("p0"), table("i0") * sn
    iron = 1e-3 * (watt + 1j * np.sqrt(np.maximum(va**2 - watt**2, 0)))
    base = kv[ends["target"]]
    half = 0.5 * iron * (1e3 * base / low) ** 2
    ratio = (high / low) / (kv[ends["source"]] / base)
    kva = 1e-3 * sn * 1e3 * base / low
    return Branches(
        **ends, impedance=per_unit(ohm, base), tap=ratio, shift=30 * table("clock"), near=half,
        far=half, rating=_rated(kva, table, notes),
    )  # fmt: skip


def _at_tap(
    place: Column,
    least: Column,
    nominal: Column,
    most: Column,
    value: Column,
    low: Column,
    high: Column,
) -> Column:
    """Straight from the value at the nominal tap to those at the ends, where these are given."""
    low, high = np.where(np.isnan(low), value, low), np.where(np.isnan(high), value, high)
    down = (place < nominal) == (least < most)
    other, end = np.where(down, low, high), np.where(down, least, most)
    span = np.where(end == nominal, 1, end - nominal)
    return value + (other - value) * np.where(end == nominal, 0, (place - nominal) / span)


def _generic(
    tables: Mapping[str, _Table], index: Mapping[int, int], kv: Column, hz: float, notes: Notebook
) -> Branches:
    table = tables["generic_branch"]
    ends = _ends(table, index)
    base = kv[ends["target"]]
    half = 500 * (table("g1", 0.0) - 1j * table("b1", 0.0)) * base**2
    ohm = table("r1") + 1j * table("x1")
    return Branches(
        **ends, impedance=per_unit(ohm, base), tap=table.positive("k", 1.0),
        shift=np.rad2deg(table("theta", 0.0)), near=half, far=half,
        rating=_rated(1e-3 * table("sn", np.nan), table, notes),
    )  # fmt: skip


def _behind(source: _Table, at: Column, nodes: int, notes: Notebook) -> Branches:
    """From each source's own bus to its node, what its short-circuit power says."""
    notes.some("source.impedance", source.labels)
    size = 1e3 / source.positive("sk", _SHORT_CIRCUIT)
    ratio = source("rx_ratio", _RX)
    impedance = size * (ratio + 1j) / np.hypot(ratio, 1)
    return Branches(
        source.labels, source.labels, nodes + np.arange(source.rows), at, impedance
    )  # fmt: skip


def _links(table: _Table, index: Mapping[int, int], notes: Notebook) -> Column:
    """Pairs of nodes that links join: those closed at both ends."""
    closed = (table("from_status") == 1) & (table("to_status") == 1)
    notes.some("branch.off", table.those(~closed))
    ends = [_places(index, table, f"{end}_node") for end in ("from", "to")]
    return np.stack(ends, axis=1)[closed]
