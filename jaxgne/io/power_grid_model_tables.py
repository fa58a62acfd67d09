"""Inputs of power-grid-model as tables: from JSON in either form, structured arrays or columns."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .network import Column
from .notes import Notebook

_SENSORS = tuple(
    f"{phases}_{what}_sensor"
    for phases in ("sym", "asym")
    for what in ("power", "voltage", "current")
)
IGNORED = {
    "table.ignored": (*_SENSORS, "fault"),
    "controller.ignored": ("transformer_tap_regulator", "voltage_regulator"),
}
REFUSED = {"asym_line": "give a line with its positive sequence"}
POWERS = {"sym_load": 1, "asym_load": 1, "sym_gen": -1, "asym_gen": -1}
_BRANCHES = ("line", "transformer", "three_winding_transformer", "generic_branch")
_KNOWN = {"node", "link", "source", "shunt", *_BRANCHES, *POWERS, *REFUSED}.union(*IGNORED.values())


@dataclass(frozen=True)
class Table:
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


def _numbers(values: Any) -> Column:
    """As floats, what is missing as NaN: in integers the least that there is."""
    values = np.asarray(values)
    if values.dtype.kind == "i":
        return np.where(values == np.iinfo(values.dtype).min, np.nan, values.astype(float))
    return values.astype(float)


def read(data: Mapping[Any, Any]) -> dict[str, Table]:
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
    tables = {name: Table(name, 0, {}) for name in _KNOWN}
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


def _table(name: str, rows: Any, order: Any) -> Table:
    """From rows as dictionaries or as lists in `order`, a structured array, or columns."""
    if isinstance(rows, np.ndarray) and rows.dtype.names:
        return Table(name, len(rows), {column: rows[column] for column in rows.dtype.names})
    if isinstance(rows, Mapping):
        columns = {str(getattr(k, "value", k)): np.asarray(v) for k, v in rows.items()}
        return Table(name, max((len(v) for v in columns.values()), default=0), columns)
    told: list[Mapping[str, Any]] = []
    for k, row in enumerate(rows):
        if not isinstance(row, Mapping) and len(row) != len(order or ()):
            raise ValueError(
                f"{name} row {k} has {len(row)} values for {len(order or ())} attributes."
            )
        told.append(row if isinstance(row, Mapping) else dict(zip(order or (), row, strict=True)))
    if name in itertools.chain(*IGNORED.values()):
        told = [{"id": row.get("id")} for row in told]
    columns = {}
    for column in dict.fromkeys(column for row in told for column in row):
        phases = name in ("asym_load", "asym_gen") and column in ("p_specified", "q_specified")
        columns[column] = np.array(
            [
                _read(f"{name} row {k}", column, row.get(column), phases)
                for k, row in enumerate(told)
            ]
        )
    return Table(name, len(told), columns)


def _read(who: str, column: str, value: Any, phases: bool) -> Any:
    """A number, or three, NaN in place of none; `ValueError` for anything else."""
    parts = value if phases and isinstance(value, list) else [value]
    parts = parts * 3 if phases and value is None else parts
    parts = [np.nan if part is None else part for part in parts]
    if len(parts) != (3 if phases else 1) or not all(isinstance(p, int | float) for p in parts):
        raise ValueError(
            f"{who}: {column} is {value!r}; give {'three numbers' if phases else 'a number'}."
        )
    return [float(part) for part in parts] if phases else float(parts[0])


def on(table: Table, name: str, notes: Notebook) -> Table:
    """The rows that are in service; others are said."""
    alive = table(name) == 1
    notes.some("element.off", table.those(~alive))
    columns = {name: np.asarray(values)[alive] for name, values in table.columns.items()}
    return Table(table.kind, int(alive.sum()), columns)


def places(index: Mapping[int, int], table: Table, name: str) -> Column:
    """Where the nodes of a column are; `ValueError` for one that is not there."""
    ids = table(name).tolist()
    for label, k in zip(table.labels, ids, strict=True):
        if k not in index:
            raise ValueError(f"{label} is at node {k:.0f}, which is not in the input.")
    return np.array([index[k] for k in ids], np.int64)


def ends(table: Table, index: Mapping[int, int]) -> dict[str, Any]:
    return {
        "label": table.labels,
        "name": table.labels,
        "source": places(index, table, "from_node"),
        "target": places(index, table, "to_node"),
        "source_on": table("from_status") == 1,
        "target_on": table("to_status") == 1,
    }


def rated(kva: Column, table: Table, notes: Notebook) -> Column:
    none = ~np.isfinite(kva)
    notes.some("branch.no_rating", table.those(none))
    return np.where(none, np.inf, kva)
