"""Tables of devices: columns of numbers, windows of hours, and several tables as one."""

from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..arrays import Reader, step_count, whole, whole_row
from ..clock import Made
from ..curves import AbstractCurve
from ..market import Buffers, Generators
from ..record import changed
from ..runner import built, jnp

Devices = TypeVar("Devices", Generators, Buffers)


_SHARE = (0.0, 1.0, "give a share from 0 to 1: 0.5, not 50")
_RANGES = {  # lowest, highest, and what to do
    "share": _SHARE,
    "efficiency": (1e-3, 1.0, "give a share above 0, up to 1: 0.95, not 95"),
    "cop": (1e-3, 20.0, "give heat over electricity, above 0 and up to 20: 3.2, not 320"),
    "amount": (0.0, np.inf, "give a finite number of at least 0"),
    "size": (np.nextafter(0.0, 1.0), np.inf, "give a finite number above 0"),
    "number": (-np.inf, np.inf, "give a finite number"),
}
Kind = Literal["share", "efficiency", "cop", "amount", "size", "number"]


class Device(Reader):
    """Reads the arguments of a device: their shapes as in a market's tables, and their ranges.

    Every argument of every device passes through `row` or `hour`, so that what is no share, amount
    or number is refused with its name; traced numbers have only their shapes checked.
    """

    def __init__(self, name: str, owner: Any, hours: Any):
        owners = np.atleast_1d(owner) if not isinstance(owner, jax.Array) else jnp.atleast_1d(owner)
        self.owners = whole(f"{name}: owner", owners)
        super().__init__(f"{name}: ", "device", len(owners), step_count(f"{name}: hours", hours))
        self._in_range("owner", self.owners, (0, np.inf, "prosumers are numbered from 0"))

    def row(self, field: str, value: Any, kind: Kind = "amount") -> Float[Array, "R 1"]:
        """One number a device, as a column to be met with hours."""
        array = super().row(field, value)
        self._in_range(field, array, _RANGES[kind])
        return array[:, None]

    def buses(self, bus: Any) -> Int[Array, " R"]:
        """Where each is connected, -1: as its owner."""
        return whole_row(f"{self.name}bus", bus, self.rows, "device")

    def hour(self, field: str, value: Any, kind: Kind = "amount") -> Float[Array, "R H"]:
        """One number a device and hour."""
        array = super().hour(field, value)
        self._in_range(field, array, _RANGES[kind])
        return array

    def step_lengths(self, hour_length: Any) -> Float[np.ndarray, " H"]:
        """The length of each step, h: one number, or one a step, the same for all devices."""
        fits = np.shape(hour_length) in ((), (self.hours,))
        if isinstance(hour_length, Tracer) or not fits:
            raise ValueError(
                f"{self.name}hour_length: give one number, or one a step, shape ({self.hours},), "
                "known before tracing."
            )
        self._in_range("hour_length", np.atleast_1d(hour_length), _RANGES["size"])
        return np.broadcast_to(np.asarray(hour_length, float), self.hours)

    def ordered(self, low: tuple[str, Any], high: tuple[str, Any]) -> None:
        """`ValueError` where the first of two named arguments is above the second."""
        if any(isinstance(a, Tracer) for a in (low[1], high[1])):
            return
        less, more = np.broadcast_arrays(low[1], high[1])
        bad = np.argwhere(less > more * (1 + 1e-9))
        if bad.size:
            at = tuple(bad[0])
            raise ValueError(
                f"{self.name}{low[0]}={less[at]:.6g} is above {high[0]}={more[at]:.6g}"
                f"{self.place(at[0])}; lower {low[0]} or raise {high[0]}."
            )

    def _in_range(self, field: str, array: Any, limits: tuple[float, float, str]) -> None:
        if isinstance(array, Tracer):
            return
        low, high, advice = limits
        numbers = np.asarray(array)
        bad = np.argwhere(~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high)))
        if bad.size:
            at = tuple(bad[0])
            raise ValueError(f"{self.name}{field}={numbers[at]:.6g}{self.place(at[0])}: {advice}.")

    def place(self, row: int) -> str:
        """Where a number stands, if there are several devices."""
        return f" of device {row}" if self.rows > 1 else ""


@built
def join(first: Devices, *others: Devices) -> Devices:
    """All devices in one table, `first` and `others` in order: for one prosumer, or of many kinds.

        buffers = join(battery(0, ...), battery([0, 2], ...))

    Devices keep their names. `ValueError` when the tables are not of one kind, or were made for
    other steps.
    """
    kind = type(first).__name__
    for other in others:
        if type(other) is not type(first):
            raise ValueError(
                f"join: {kind} and {type(other).__name__} are different tables; join each kind "
                "on its own."
            )
        hours = [_hours(table) for table in (first, other)]
        if hours[0] != hours[1]:
            raise ValueError(
                f"join: {kind} of {hours[0]} and of {hours[1]} steps; give all the same `hours`."
            )
    tables = (first, *others)
    if isinstance(first, Buffers):
        made = Made.of_all([table.made for table in tables if isinstance(table, Buffers)])
        tables = [table.made_for(made) for table in tables if isinstance(table, Buffers)]
    if isinstance(first, Generators):
        tables = _alike([table for table in tables if isinstance(table, Generators)])
    names = tuple(name for table in tables for name in table.names or [""] * len(table.owner))
    names = names if any(names) else ()
    tables = [changed(table, names=names) for table in tables]
    return jax.tree.map(_below, *tables)


def _below(*tables: Array) -> Array:
    """One table below the other, in one column where all are."""
    width = max(np.shape(table)[-1] for table in tables)
    wide = [
        jnp.broadcast_to(table, (len(table), width)) if np.ndim(table) == 2 else table
        for table in tables
    ]
    return jnp.concatenate(wide)


def _alike(tables: list[Generators]) -> list[Generators]:
    """The tables with the same kinds of curves, numbers of 0 where one had none."""
    known = {type(curve): curve for table in tables for curve in table.curves}

    def all_of(table: Generators) -> tuple[AbstractCurve, ...]:
        none = jnp.zeros_like(table.linear)
        found = {k: jax.tree.map(lambda _: none, curve) for k, curve in known.items()}
        return tuple((found | {type(curve): curve for curve in table.curves}).values())

    return [changed(table, curves=all_of(table)) for table in tables]


def _hours(table: Generators | Buffers) -> int:
    return (table.power_max if isinstance(table, Generators) else table.charge_max).shape[1]
