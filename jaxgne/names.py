"""What people call prosumers and devices: by name where there is one, else by kind and number.

`battery 4 (Miller)`, and `battery 4 (prosumer 0)` of a market without names. All sentences, tables
and plots ask here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from .fields import naming
from .kinds import KINDS
from .market import Market, bus_name, line_name
from .record import Record

CONNECTIONS = ("a", "b", "c", "ab", "bc", "ca", "abc")  # what may stand at a bus, of which phases


class Owners(Record):
    """Whose rows are whose, and what they are called: prosumers of devices and pairs, feeders."""

    generator: Int[Array, " G"]
    generator_kind: Int[Array, " G"]
    buffer: Int[Array, " K"]
    buffer_kind: Int[Array, " K"]
    buyer: Int[Array, " E"]
    seller: Int[Array, " E"]
    feeder: Int[Array, " F"]  # its bus
    prosumers: tuple[str, ...] = naming("name of each prosumer, or nothing")
    generators: tuple[str, ...] = naming("name of each generator, or nothing")
    buffers: tuple[str, ...] = naming("name of each buffer, or nothing")

    def prosumer(self, row: Any) -> str:
        """`prosumer Miller`, `prosumer 3`."""
        return f"prosumer {prosumer_name(self.prosumers, row)}"

    def device(self, one: str, row: Any) -> str:
        """A generator or buffer with its owner: `battery 4 (prosumer 0)`, `Wallbox (Miller)`."""
        owner, kind = (np.asarray(getattr(self, name)) for name in (one, f"{one}_kind"))
        name = device_name(one, getattr(self, f"{one}s"), kind[row], row)
        return f"{name} ({self._person(owner[row])})"

    def whose(self, one: str, row: Any) -> str:
        """What stands behind the number of a row: `vehicle of Miller`, `prosumer 0`."""
        owner, kind = (np.asarray(getattr(self, name)) for name in (one, f"{one}_kind"))
        names = getattr(self, f"{one}s")
        name = (names[int(row)] if names else "") or KINDS[one][kind[row]] * bool(kind[row] > 0)
        return f"{name} of " * bool(name) + self._person(owner[row])

    def _person(self, row: Any) -> str:
        return self.prosumers[int(row)] if self.prosumers else self.prosumer(row)

    def pair(self, row: Any) -> str:
        """`pair 3 (prosumers 0 and 2)`, `pair 3 (Miller and Bakery)`."""
        sides = np.asarray(self.buyer), np.asarray(self.seller)
        ends = (prosumer_name(self.prosumers, end[row]) for end in sides)
        return f"pair {row} ({'' if self.prosumers else 'prosumers '}{' and '.join(ends)})"


def called(own: Owners | None, grid: Any, each: str, row: Any) -> str:
    """What people call a row of a table: `bus 742`, `battery 4 (Miller)`, `pair 3 (0 and 2)`.

    `grid` has the names of buses and lines: a grid or a certificate.
    """
    if each == "bus":
        return f"bus {bus_name(grid, row)}"
    if each == "line":
        return f"line {line_name(grid, row)}"
    if own is None:
        return f"{each} {row}"
    if each == "prosumer":
        return own.prosumer(row)
    if each in KINDS:
        return own.device(each, row)
    if each == "pair":
        return own.pair(row)
    if each == "feeder":
        return f"feeder {row} (bus {bus_name(grid, int(own.feeder[row]))})"
    return f"{each} {row}"


def owners(market: Market) -> Owners:
    """Whose the rows of a market are, and what they are called."""
    pairs, units, stores = market.trading, market.generators, market.buffers
    return Owners(
        generator=units.owner,
        generator_kind=units.kind,
        buffer=stores.owner,
        buffer_kind=stores.kind,
        buyer=pairs.buyer,
        seller=pairs.seller,
        feeder=market.grid.feeder,
        prosumers=market.prosumers.names,
        generators=units.names,
        buffers=stores.names,
    )


def prosumer_name(names: tuple[str, ...], row: Any) -> str:
    """The name of a prosumer, or its number."""
    return names[int(row)] if names else str(int(row))


def unphased(name: str) -> str:
    """The bus, or the line, of which a name is that of a phase: `632` of `632.b` or `632.ab`."""
    own, _, phases = name.rpartition(".")
    return own if own and phases in CONNECTIONS else name


def row_of(
    where: str, one: str, who: int | str, names: Sequence[str] = (), count: int | None = None
) -> int:
    """The row of a prosumer, bus or device (`one`) that is given by number or by name.

    `ValueError`, which begins with `where`, for what there is not; `count` rows, one a name.
    """
    count = len(names) if count is None else count
    if isinstance(who, str):
        if who and who in names:
            return [*names].index(who)
    elif not isinstance(who, bool) and 0 <= who < count and who == int(who):
        return int(who)
    known = f"0 to {count - 1}" if count else "none, as there are none"
    some = next(filter(None, names), None)
    told = repr(who) if isinstance(who, str) else who
    more = "" if some is None else f", or a name, such as {some!r}"
    raise ValueError(f"{where}: there is no {one} {told}; give {known}{more}.")


def rows_of(
    where: str, one: str, which: Any, names: Sequence[str] = (), count: int | None = None
) -> list[int]:
    """`row_of` of each, or of the only one."""
    each = [which] if isinstance(which, str) or np.ndim(which) == 0 else which
    return [row_of(where, one, who, names, count) for who in each]


def device_name(one: str, names: tuple[str, ...], kind: Any, row: Any) -> str:
    """The own name of a generator or buffer, or its kind and number: `battery 4`."""
    own = names[int(row)] if names else ""
    return own or f"{KINDS[one][int(kind)]} {int(row)}"


def device_names(one: str, table: Any) -> tuple[str, ...]:
    """What the rows of a market's generators or buffers are called, without their owners."""
    kinds = np.asarray(table.kind).tolist()
    return tuple(device_name(one, table.names, kind, row) for row, kind in enumerate(kinds))


def by_column(market: Market) -> tuple[tuple[tuple[str, ...], set[str]], ...]:
    """What rows are called where they have names, and the columns that tell of them."""
    grid, units, stores = market.grid, market.generators, market.buffers
    return (
        (market.prosumers.names, {"prosumer", "owner", "buyer", "seller"}),
        (units.names and device_names("generator", units), {"generator"}),
        (stores.names and device_names("buffer", stores), {"buffer"}),
        (grid.names, {"bus", "source", "target"}),
        (grid.line_names, {"line"}),
    )
