"""What an importer says of its work: what it took, assumed, merged and lost, by codes that stay.

An importer returns its grid or market and an `ImportReport`. Codes are part of the package's
interface: `report.count("bus.unsupplied")` is a number a script may rely on. `docs/imports.md` has
them all, with what is done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Complex, Float, Int

if TYPE_CHECKING:
    Column = Any
else:
    Column = np.ndarray

Kind = Literal["taken", "assumed", "merged", "lost"]

# What each code means: its kind, the unit of its number, and its sentence.
CODES: dict[str, tuple[Kind, str, str]] = {
    "bus.off": ("lost", "kW", "buses out of service are left out, and the load at them"),
    "bus.unsupplied": ("lost", "kW", "buses without a path to a source are left out, with load"),
    "bus.merged": ("merged", "", "buses joined by closed switches or no impedance are one"),
    "bus.limits": ("assumed", "pu", "voltage limits that are not given are the importer's"),
    "branch.off": ("lost", "", "branches out of service or open at both ends are left out"),
    "branch.half_open": ("merged", "kvar", "what a branch open at one end draws is a load there"),
    "branch.no_impedance": ("merged", "", "lines without impedance join their two buses"),
    "branch.shorted": ("merged", "", "branches with both ends on one bus carry nothing"),
    "branch.parallel": ("merged", "", "branches side by side are one, by their admittances"),
    "branch.no_rating": ("assumed", "", "branches without a rating are not limited"),
    "branch.limit": ("taken", "", "the largest loading allowed lowers ratings"),
    "branch.shift": ("lost", "degree", "turns of the phase are left out, they change no voltage"),
    "shunt.constant": ("assumed", "kvar", "charging and shunts draw what they do in this state"),
    "iron.constant": ("assumed", "kW", "losses of iron and shunts are load, as in this state"),
    "load.voltage": ("assumed", "kW", "loads that move with voltage draw what they do here"),
    "generator.voltage": ("lost", "kvar", "voltages of generators float: P and Q are fixed here"),
    "element.off": ("lost", "kW", "loads and generation out of service are left out"),
    "load.phases": ("lost", "kW", "loads of single phases are spread over all three"),
    "line.voltages": ("assumed", "", "lines between two nominal voltages are in pu of their first"),
    "tap.ignored": ("assumed", "%", "taps without a type count nothing, as in pandapower"),
    "tap.counted": ("assumed", "%", "taps without a type count as ratios, not so in pandapower"),
    "load.negative": ("taken", "kW", "loads below 0 are generation"),
    "source.power": ("lost", "kW", "what generators at sources send is for the power flow to say"),
    "source.voltage": ("assumed", "", "sources without a generator hold the voltage of their bus"),
    "source.impedance": ("taken", "", "sources stand behind their short-circuit impedance, a line"),
    "bus.nominal": ("assumed", "", "buses without a nominal voltage have 1 kV"),
    "branch.negative": ("taken", "", "impedances below 0 stay, and no market takes them"),
    "statement.done": ("taken", "", "statements that change the tables were worked out"),
    "table.ignored": ("lost", "", "tables that are not read"),
    "units.sums": ("taken", "", "sums that show a wrong unit"),
    "units.load": ("assumed", "kA", "load draws more than any such source gives: is it in MW?"),
    "cost.ignored": ("lost", "", "costs are not read"),
    "controller.ignored": ("lost", "", "controllers do not act: positions stay as they are"),
    "branch.default_rating": ("assumed", "", "ratings are the format's default: nobody gave one"),
    "phases.few": ("merged", "", "branches of fewer phases carry as much as three, seen balanced"),
    "element.solved": ("assumed", "kW", "generators and storages send what the solution says"),
    "element.ignored": ("lost", "", "elements that are not read, nor what they draw or send"),
    "load.solved": (
        "assumed",
        "kW",
        "loads that follow shapes or growth, or stand open, draw what the solution says",
    ),
    "line.zero_sequence": (
        "assumed",
        "",
        "lines whose R0 is below R1 have, it seems, the format's default R0: nobody gave one",
    ),
    "transformer.phases": (
        "assumed",
        "",
        "transformers that mix phases are ratios by phase, as solved: what else flows is drawn",
    ),
    "neutral.grounded": ("assumed", "pu", "neutrals are at no voltage, as solved at up to so much"),
    "rows.pairs": ("taken", "", "buses without ground have rows of two phases: ab, bc, ca"),
    "service.halves": ("merged", "", "both halves of a service are one row, as if loaded alike"),
    "tap.solved": ("assumed", "", "regulators stay at the taps of the solution"),
    "state.solved": ("taken", "pu", "this state is so far from the mean of the solved phases"),
    "state.phases": ("lost", "pu", "and so far from one of the solved phases"),
    "storage.passive": ("lost", "", "storages without known energy and power stay constant loads"),
    "storage.efficiency": ("assumed", "", "storages without an efficiency have 0.95 one way"),
    "storage.profile": ("lost", "", "profiles of storages are not read: the market decides"),
    "storage.leak": ("lost", "%", "self-discharge of storages, at most so much a day"),
    "customer.device": ("taken", "kW", "heat pumps and charging points are customers themselves"),
    "customer.several": ("assumed", "", "at buses of several customers, these are the first's"),
    "customer.bus": ("assumed", "kW", "the load of a bus is one customer"),
    "customer.name": (
        "assumed",
        "",
        "customers without a name of their own are called by their row",
    ),
    "profile.typical": (
        "assumed",
        "",
        "loads and sun follow a typical day that peaks here",
    ),
    "trading.default": ("assumed", "EUR/kWh", "customers trade with one another, for this toll"),
    "profile.none": ("assumed", "kW", "rows without a profile are the same in all steps"),
    "profile.peak": ("taken", "", "profiles of photovoltaics stay below this share of their power"),
    "tariff.default": ("assumed", "EUR/kWh", "without a tariff this is the price all day"),
    "state.none": ("lost", "kW", "no AC state was found: are the units of loads and lines right?"),
    "state.other": (
        "lost",
        "pu",
        "the AC power flow of the grid finds other voltages, this far off",
    ),
    "state.limits": ("taken", "pu", "buses are out of their limits in this state, at most so far"),
    "state.voltage": ("taken", "pu", "the lowest voltage of the AC state as the source has it"),
}

_SHOWN = 3  # places of a note that are printed


def _short(number: float) -> str:
    """Six digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 1e5 else f"{number:.6g}"


@dataclass(frozen=True)
class Note:
    """One thing that an importer did, for one or many rows of its source."""

    code: str
    kind: Kind
    places: tuple[str, ...]  # table and row, with its name where it has one
    number: float | None  # of all places together, in `unit`
    unit: str
    text: str

    @property
    def brief(self) -> str:
        """The note with how many places it is about, in place of these."""
        rows = f" ({len(self.places)})" if self.places else ""
        return f"{self.code}{self._amount} {self.text}{rows}"

    @property
    def _amount(self) -> str:
        amount = "" if self.number is None else f"{_short(self.number)} {self.unit}".rstrip()
        return amount and f" [{amount}]"

    def __str__(self) -> str:
        places = ", ".join(self.places[:_SHOWN])
        more = len(self.places) - _SHOWN
        where = f": {places}" + (f" and {more} more" if more > 0 else "") if places else ""
        return f"{self.code}{self._amount} {self.text}{where}"


@dataclass(frozen=True)
class Total:
    """A sum over the source and over what was made of it."""

    before: float
    after: float
    unit: str


@dataclass(frozen=True)
class ImportReport:
    """What became of a source: notes, totals before and after, and which row is where.

    `bus[k]` is the bus of the grid that the source's k-th bus is now, -1 where it is left out;
    `line[table][k]` the line that the k-th row of a table is. `bus_label[k]` is what the source
    calls its k-th bus. `nominal` (kV) turns the grid's per unit into volts, and `state` are the AC
    voltages (pu, complex) of the grid's buses as the source stands, shunts and all; angles are
    without the turns of transformers. `constant` (kW + j kvar by bus) is the part of the passive
    load that shunts, charging and iron draw in that state: what does not follow a profile of loads.
    In three phases the source's buses are rows of the grid, and `line` says the first conductor.
    `data` keeps what the grid cannot say and the format can.
    """

    source: str
    notes: tuple[Note, ...]
    totals: Mapping[str, Total]
    bus: Int[Column, " S"]
    bus_label: tuple[str, ...]
    line: Mapping[str, Int[Column, " R"]]
    nominal: Float[Column, " B"]
    state: Complex[Column, " B"]
    constant: Complex[Column, " B"]
    data: Mapping[str, Any] = field(default_factory=dict)

    def count(self, code: str) -> int:
        """How many rows of the source a code was said of; `KeyError` for a code there is not."""
        if code not in CODES:
            raise KeyError(f"{code!r} is no code of an importer; docs/imports.md has them all.")
        return sum(max(1, len(note.places)) for note in self.notes if note.code == code)

    def of(self, kind: Kind) -> tuple[Note, ...]:
        """The notes of one kind."""
        return tuple(note for note in self.notes if note.kind == kind)

    def __str__(self) -> str:
        lines = [f"Imported from {self.source}"]
        for name, total in self.totals.items():
            unit = f" {total.unit}" if total.unit else ""
            before, after = _short(total.before), _short(total.after)
            lines.append(f"  {name:<16} {before:>12} -> {after}{unit}")
        for kind in ("lost", "assumed", "merged", "taken"):
            lines += [f"  {kind + ':':<9} {note}" for note in self.of(kind)]
        return "\n".join(lines)


class Notebook:
    """Notes while an importer is at work."""

    def __init__(self) -> None:
        self.notes: list[Note] = []

    def add(
        self,
        code: str,
        places: Iterable[str] = (),
        number: float | None = None,
        text: str | None = None,
    ) -> None:
        """A note with a code of `CODES`, in its sentence or in one that says more."""
        kind, unit, sentence = CODES[code]
        number = None if number is None else float(number)
        self.notes.append(Note(code, kind, tuple(places), number, unit, text or sentence))

    def some(self, code: str, places: Sequence[str], number: float | None = None) -> None:
        """The same, where there are such places."""
        if len(places):
            self.add(code, places, number)
