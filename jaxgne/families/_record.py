"""What a table of results is: what its rows stand for, and its columns with their units."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..market import FIELDS
from ._told import Told

_PLAIN = {"": "1", "pu": "1"}  # what UDUNITS and pint call shares and voltages per unit


class Column(NamedTuple):
    """One quantity of each row: its name, its unit, what it means and how it is found.

    `of` gives an array of shape (R, H), rows and steps, or (R,) of what is not `hourly`, each with
    a leading axis of scenarios in a batch; an axis one long holds for all. A family of totals has
    no axis of rows. A `unit` of None is that of words and of numbers of rows, which tell rows from
    one another: in arrays these are coordinates.
    """

    name: str
    unit: str | None
    means: str
    of: Callable[[Told], Any]
    hourly: bool = True
    written: str = ""  # its column in tables, where that is not name and unit

    @property
    def column(self) -> str:
        """Its name in tables, with the unit: `imports_kw`."""
        unit = (self.unit or "").lower().replace("/", "_per_")
        return self.written or self.name + f"_{unit}" * bool(unit)

    @property
    def attributes(self) -> dict[str, str]:
        """What arrays say of it: `long_name`, and `units` of numbers."""
        says = {"long_name": self.means + ", per unit" * (self.unit == "pu")}
        return says if self.unit is None else says | {"units": _PLAIN.get(self.unit, self.unit)}


def present(told: Told) -> str | None:
    """Of a family that every market has."""
    return None


class Family(NamedTuple):
    """A table of results: `row` is what its rows stand for, nothing for totals.

    Arrays call its columns `prefix` and name: `prosumer_imports`. `lacks` says why a market has no
    such table, None where it has.
    """

    name: str
    row: str
    prefix: str
    columns: tuple[Column, ...]
    lacks: Callable[[Told], str | None] = present

    def variable(self, column: Column) -> str:
        """What arrays call a column."""
        return f"{self.prefix}_{column.name}" if self.prefix else column.name


def given(field: str, name: str = "") -> Column:
    """A column that is a field of the market, in the field's own words: `Prosumers.load`."""
    says = FIELDS[field]
    return Column(
        name or field.split(".")[1],
        None if says.of else says.unit,
        says.means,
        lambda told: says.find(told.market),
        says.hourly or says.either,
    )
