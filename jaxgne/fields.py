"""What a field of a market holds: its unit, its rows, what it may be and means, said once.

The classes of `market.py` say it where they declare a field. Checks, columns of files, labels of
plots, limits that give way and the tables in `docs/fields.md` are made from it.
"""

from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

ROWS = {  # what one row is called, by the axis of the annotation
    "N": "prosumer",
    "G": "generator",
    "K": "buffer",
    "E": "pair",
    "L": "line",
    "B": "bus",
    "F": "feeder",
    "S": "site",
    "J": "coupling",
    "V": "terminal",
    "M": "cap",
    "C": "term",
    "Z": "zone",
    "H": "hour",
    "#H": "hour",  # or one number for all
}


class Field(NamedTuple):
    """One array of a record: `name` is like `Prosumers.load`, `axes` like `("N", "H")`.

    An axis `#H` is 1 long where one number holds in all hours, which then broadcasts.

    `unit` is empty for shares and indices. Numbers lie `within` an interval such as `(0, 1]`, whose
    end at infinity belongs to it where no limit is meant; of one that does not, `otherwise` says
    what is wrong and what to give. An index is a row of what it is `of`, such as `bus`.
    """

    unit: str
    means: str
    within: str = "[0, inf)"
    otherwise: str = ""
    of: str = ""
    written: str = ""  # its column in files, where that does not follow from name and unit
    name: str = ""
    axes: tuple[str, ...] = ()

    @property
    def dotted(self) -> str:
        """Where it is in a market: `prosumers.load`."""
        table, own = self.name.split(".")
        return own if table == "Market" else f"{table.lower()}.{own}"

    def find(self, market: Any) -> Any:
        """The array in a market."""
        return attrgetter(self.dotted)(market)

    @property
    def row(self) -> str:
        """What one row of it is called; empty for a single number."""
        return ROWS[self.axes[0]] if self.axes else ""

    @property
    def hourly(self) -> bool:
        """Whether it has a number an hour."""
        return self.axes[-1:] == ("H",)

    @property
    def either(self) -> bool:
        """Whether it has a number an hour where one is given, or else one for all hours."""
        return self.axes[-1:] == ("#H",)

    def timed(self, market: Any) -> bool:
        """Whether it has a number an hour in this market, or in each of a batch."""
        return self.hourly or (self.either and np.shape(self.find(market))[-1] != 1)

    @property
    def symbol(self) -> str:
        """Its unit as plots and tables print it: `EUR/kWh/kW`, and 1 of shares."""
        unit = f"1 {self.unit}" if self.unit.startswith("per ") else self.unit
        return unit.replace("^2", "²").replace(" per ", "/") or "1"

    @property
    def column(self) -> str:
        """Its name in files, with the unit: `slope_eur_per_kwh_per_kw`."""
        unit = self.unit.lower().replace("/", "_per_").replace(" ", "_").replace("^", "")
        return self.written or self.name.split(".")[1] + f"_{unit}" * bool(unit)

    @property
    def ends(self) -> tuple[np.float64, np.float64]:
        """The least and the most that a number may be."""
        low, high = (np.float64(end) for end in self.within[1:-1].split(","))
        least = low if self.within[0] == "[" else np.nextafter(low, high)
        return least, high if self.within[-1] == "]" else np.nextafter(high, low)


def amount(
    unit: str,
    means: str,
    within: str = "(-inf, inf)",
    otherwise: str = "is negative; give 0 or more",
    written: str = "",
) -> Any:
    """Declares a field of real numbers by what its `Field` holds."""
    return eqx.field(metadata={"says": Field(unit, means, within, otherwise, written=written)})


def optional(unit: str, means: str) -> Any:
    """Declares a field of real numbers that is None where a market has nothing of its kind."""
    return eqx.field(default=None, metadata={"says": Field(unit, means)})


def index(of: str, means: str, written: str = "") -> Any:
    """Declares a field of indices: rows of what it is `of`, counted from 0."""
    return eqx.field(metadata={"says": Field("", means, of=of, written=written)})


def structure(means: str, *, static: bool = True) -> Any:
    """Declares a field that is no array."""
    return eqx.field(static=static, metadata={"says": Field("", means)})


def naming(means: str) -> Any:
    """Declares a field of names, which no number depends on: a word for each row, or () for none.

    Compiled programs do not see them (`record.nameless`).
    """
    return eqx.field(static=True, metadata={"says": Field("", means), "names": True})


@cache
def axes_of(kind: Any) -> dict[str, tuple[str, ...]]:
    """The axes of every array that a class is annotated with, by field."""
    kinds: dict[str, Any] = {one.name: one.type for one in fields(kind)}
    return {own: tuple(a.dim_str.split()) for own, a in kinds.items() if hasattr(a, "dim_str")}


def described(*kinds: Any) -> dict[str, Field]:
    """What classes say of their arrays, by name, in the order of declaration."""
    found = {}
    for kind in kinds:
        for own, axes in axes_of(kind).items():
            name, says = f"{kind.__name__}.{own}", kind.__dataclass_fields__[own].metadata["says"]
            found[name] = says._replace(name=name, axes=axes)
    return found
