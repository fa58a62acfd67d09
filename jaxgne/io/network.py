"""A network as formats tell it: buses at several voltages, branches with shunts and open ends.

What importers fill, and what `assembly.grid_of` makes a `Grid` of. Everything is per unit of each
bus's own nominal voltage and of 1 kW: an impedance in ohm divided by 1000 kV^2 (`per_unit`), an
admittance as the power it draws at 1 pu, kW + j kvar, so that a capacitor of 5 kvar is -5j.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

if TYPE_CHECKING:
    Column = Any  # arrays, and what is spread to one: a number for all rows
    Texts = Any
else:
    Column = np.ndarray
    Texts = Sequence[str]


@dataclass(frozen=True)
class Buses:
    """Buses and what is drawn at them; numbers may be given for all at once."""

    label: Texts  # what messages call each: table, row, name
    name: Texts
    nominal: Float[Column, " B"]  # kV
    load: Complex[Column, " B"] = 0.0  # kW + j kvar, whatever the voltage
    generation: Complex[Column, " B"] = 0.0  # injected
    current: Complex[Column, " B"] = 0.0  # times |v|
    quadratic: Complex[Column, " B"] = 0.0  # times |v|^2, of loads
    shunt: Complex[Column, " B"] = 0.0  # times |v|^2, of others
    voltage_min: Float[Column, " B"] = 0.9  # pu
    voltage_max: Float[Column, " B"] = 1.1
    held: Float[Column, " B"] = np.nan  # pu, where a voltage is held
    fed: Bool[Column, " B"] = False  # by the main grid, which also
    angle: Float[Column, " B"] = 0.0  # has this angle, degree
    on: Bool[Column, " B"] = True

    def __post_init__(self) -> None:
        _spread(self, len(self.label))

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Branches:
    """Lines, transformers and what else joins two buses, each with its shunts and its switches.

    An ideal transformer of ratio `tap` (voltages of its two sides in pu) stands at the source;
    behind it come the shunt `near`, the impedance and the shunt `far`, in pu of the target's side.
    """

    label: Texts
    name: Texts
    source: Int[Column, " L"]
    target: Int[Column, " L"]
    impedance: Complex[Column, " L"]  # pu/kW
    tap: Float[Column, " L"] = 1.0
    shift: Float[Column, " L"] = 0.0  # degree, source before target
    near: Complex[Column, " L"] = 0.0  # kW + j kvar drawn at 1 pu
    far: Complex[Column, " L"] = 0.0
    rating: Float[Column, " L"] = np.inf  # kVA at 1 pu: a current
    source_on: Bool[Column, " L"] = True
    target_on: Bool[Column, " L"] = True
    on: Bool[Column, " L"] = True
    row: Int[Column, " L"] = -1  # of the network they are from

    def __post_init__(self) -> None:
        _spread(self, len(self.label))

    def __len__(self) -> int:
        return len(self.label)

    def reversed(self, these: np.ndarray) -> "Branches":
        """The same branches, of which `these` are told from their other end."""
        ratio = np.where(these, self.tap, 1.0)

        def other(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.where(these, b, a)

        return replace(
            self,
            source=other(self.source, self.target),
            target=other(self.target, self.source),
            source_on=other(self.source_on, self.target_on),
            target_on=other(self.target_on, self.source_on),
            near=other(self.near, self.far) / ratio**2,
            far=other(self.far, self.near) / ratio**2,
            impedance=self.impedance * ratio**2,
            rating=self.rating / ratio,
            tap=self.tap / ratio**2,
            shift=np.where(these, -self.shift, self.shift),
        )


R = TypeVar("R", Buses, Branches)


@dataclass(frozen=True)
class Network:
    """Buses, branches, and pairs of buses that a closed switch makes one."""

    buses: Buses
    branches: Branches
    ties: Int[Column, "T 2"]


def joined(parts: Sequence[Branches]) -> Branches:
    """The branches of several tables, one table after the other."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Branches)}
    texts = ("label", "name")
    made: dict[str, Any] = {name: sum(map(tuple, columns[name]), ()) for name in texts}
    made |= {name: np.concatenate(a) for name, a in columns.items() if name not in texts}
    return Branches(**made)


def picked(record: R, rows: np.ndarray) -> R:
    """Some buses or branches, by a mask or by their rows."""
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    texts = {n: tuple(v[k] for k in rows.tolist()) for n, v in values.items() if type(v) is tuple}
    return type(record)(**{n: v if n in texts else v[rows] for n, v in (values | texts).items()})


def per_unit(ohm: np.ndarray, kv: np.ndarray) -> np.ndarray:
    """Impedances in ohm, or one over siemens, in pu/kW at buses of so many kV line to line."""
    return ohm / (1000 * kv**2)


def distinct(names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Names that differ: those that do not are followed by the label of their row."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    made = tuple(
        (name if seen[name] == 1 and name else f"{name} ({label})" if name else label)
        for name, label in zip(names, labels, strict=True)
    )
    return made if len(set(made)) == len(made) else tuple(labels)


def _spread(record: Any, rows: int) -> None:
    """Columns in their shapes and types, also where one number was given for all."""
    kinds: dict[str, Any] = {"Float": float, "Complex": complex, "Bool": bool, "Int": np.int64}
    for f in fields(record):
        kind = next((k for word, k in kinds.items() if word in str(f.type)), None)
        value = getattr(record, f.name)
        if kind is not None:
            value = np.array(np.broadcast_to(np.asarray(value, kind), (rows,)))
        else:
            value = tuple(value)
        object.__setattr__(record, f.name, value)
