"""Loads, generation and storage of a pandapower net, row by row: passive, or customers' own.

Rows keep their order in the net's tables. Power is what is drawn, kW + j kvar, so generation is
negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int

from ..clock import Clock
from ..devices import battery
from ..market import Buffers, Grid, Market, Prosumers, Tariff, Trading
from ..profiles import Profiles as Series
from ..record import changed
from .network import Column, distinct
from .notes import ImportReport, Notebook, Total
from .pandapower_tables import by_phase, column, labels, motors, places, rated, shares

CONSUMERS = ("load", "motor", "asymmetric_load")
PRODUCERS = ("sgen", "asymmetric_sgen", "gen")
_DRAWN = {"p_mw": 1e3, "q_mvar": 1e3j}

Profiles = Mapping[tuple[str, str], Any]


@dataclass(frozen=True)
class Units:
    """The supplied rows in service of some tables, one after the other."""

    kind: tuple[str, ...]
    row: tuple[int, ...]  # in its table
    label: tuple[str, ...]
    name: tuple[str, ...]  # "" where the net has none
    place: Int[Column, " U"]  # of its bus in the net
    bus: Int[Column, " U"]  # of the grid
    now: Complex[Column, " U"]  # drawn in the net as it stands, at its voltage
    power: Complex[Column, "U H"]  # by hour, at the same voltage

    def of(self, *kinds: str) -> Column:
        """The rows of some tables."""
        return np.flatnonzero(np.isin(np.array(self.kind, object), kinds))


def steps_of(profiles: Profiles | None, hours: int | None) -> int:
    """How many steps there are; `ValueError` where profiles disagree."""
    lengths = {len(frame) for frame in (profiles or {}).values()}
    lengths |= set() if hours is None else {hours}
    if len(lengths) > 1:
        raise ValueError(
            f"from_pandapower: profiles and hours have {', '.join(map(str, sorted(lengths)))} "
            "steps; give all the same number."
        )
    return lengths.pop() if lengths else 1


def frames_of(net: Any, series: Mapping[str, Series]) -> Profiles:
    """What loads and sgens of their own (kW, a row each) are in MW and Mvar by time, as tables are.

    Rows go by name or index of the table's, or all in order where there is one for each and their
    names are of none. Reactive power follows at the table's ratio; `scaling` does not count.
    Raises `ValueError` for another unit or other steps, and for rows that are of no load.
    """
    found: dict[tuple[str, str], Any] = {}
    first = next(iter(series.values()))
    for kind, own in series.items():
        if kind not in ("load", "sgen"):
            raise ValueError(f"from_pandapower: profiles[{kind!r}]: give those of load and sgen.")
        why = own.misfit("kW", first.clock, first.hour_length)
        if why:
            raise ValueError(f"from_pandapower: profiles[{kind!r}] {why}.")
        found |= _frames(net[kind], kind, own)
    return found


def _frames(table: Any, kind: str, own: Series) -> Profiles:
    import pandas

    named = {str(k): k for k in table.index}
    named |= {str(name): k for k, name in table["name"].items() if name is not None}
    rows: list[Any] = [named.get(str(name)) for name in own.names]
    if len(rows) == len(table) and (None in rows or len(set(rows)) < len(rows)):
        rows = list(table.index)
    if None in rows or len(set(rows)) < len(rows):
        at = next(at for at, row in enumerate(rows) if row is None or row in rows[:at])
        raise ValueError(
            f"from_pandapower: profiles[{kind!r}]: {own.names[at]!r} is the name or index of no "
            f"{kind} of its own; give a row for each of the {len(table)}, or name them alike."
        )
    table = table.loc[rows]
    scaling = column(table, "scaling", 1)
    drawn, kvar = column(table, "p_mw"), column(table, "q_mvar", 0)
    ratio = np.divide(kvar, drawn, out=np.zeros(len(rows)), where=drawn != 0)
    mw = np.divide(1e-3, scaling, out=np.zeros(len(rows)), where=scaling != 0) * own.values.T
    frames = {"p_mw": mw, "q_mvar": ratio * mw}
    at = table.index
    return {(kind, name): pandas.DataFrame(each, columns=at) for name, each in frames.items()}


def units_of(net: Any, report: ImportReport, hours: int, profiles: Profiles | None) -> Units:
    """All rows that draw or send power, with their profiles.

    Raises `ValueError` for profiles of tables, columns or rows that there are not, and with gaps.
    """
    kinds = (*CONSUMERS, *PRODUCERS, "storage")
    _check_profiles(net, kinds, profiles or {})
    parts: list[tuple[Any, ...]] = []
    for kind in kinds:
        table, sign = net[kind], -1 if kind in PRODUCERS else 1
        at = places(net.bus.index, table.bus.to_numpy(), kind)
        kept = (column(table, "in_service") == 1) & (report.bus[at] >= 0)
        kept &= column(table, "slack", 0) != 1  # a gen that is the main grid
        power = _now(kind, table)[:, None].repeat(hours, axis=1)
        for name, unit in _DRAWN.items():
            if (kind, name) in (profiles or {}):
                _follow(power, table, (profiles or {})[kind, name], unit)
        bus = report.bus[at]
        felt = _felt(kind, table, np.abs(report.state)[bus])
        now, power = sign * _times(_now(kind, table), felt), sign * _times(power, felt[..., None])
        told, named = labels(table, kind)
        rows = np.flatnonzero(kept).tolist()
        parts.append(
            ((kind,) * len(rows), rows, [told[k] for k in rows], [named[k] for k in rows],
             at[kept], bus[kept], now[kept], power[kept])
        )  # fmt: skip
    words, arrays = (list(zip(*parts, strict=True))[part] for part in (slice(4), slice(4, None)))
    flat = [tuple(x for part in each for x in part) for each in words]
    return Units(*flat, *(np.concatenate(each) for each in arrays))


def _now(kind: str, table: Any) -> Column:
    """What rows draw or send in the net as it stands, at 1 pu."""
    if kind == "motor":
        return motors(table)
    if kind == "gen":
        return rated(table).real + 0j  # what holding its voltage takes stays passive
    return by_phase(table).sum(axis=1) if kind.startswith("asymmetric") else rated(table)


def _felt(kind: str, table: Any, volts: Column) -> Column:
    """By what the voltage changes active and reactive power, (2, rows)."""
    if kind != "load":
        return np.ones((2, len(table)))
    return np.stack([1 + i * (volts - 1) + z * (volts**2 - 1) for i, z in shares(table)])


def _times(power: Column, felt: Column) -> Column:
    return power.real * felt[0] + 1j * power.imag * felt[1]


def _check_profiles(net: Any, kinds: Sequence[str], profiles: Profiles) -> None:
    for (kind, name), frame in profiles.items():
        where = f"from_pandapower: profiles[{kind!r}, {name!r}]"
        if kind not in kinds or name not in _DRAWN or kind.startswith(("motor", "asym", "gen")):
            raise ValueError(f"{where}: profiles are of load, sgen, storage and p_mw, q_mvar.")
        lost = frame.columns.difference(net[kind].index)
        if len(lost):
            raise ValueError(f"{where}: column {lost[0]} is no row of net.{kind}.")
        gaps = np.argwhere(~np.isfinite(frame.to_numpy(float)))
        if len(gaps):
            row, at = gaps[0].tolist()
            raise ValueError(
                f"{where}: no number for {kind} {frame.columns[at]} in row {row} "
                f"({frame.index[row]}); fill the gap."
            )


def _follow(power: Column, table: Any, frame: Any, unit: complex) -> None:
    """Puts a profile, MW or Mvar by time and row's name, in place of what the table says."""
    at = table.index.get_indexer(frame.columns)
    made = unit * frame.to_numpy(float).T * column(table, "scaling", 1)[at, None]
    if unit.imag:
        power[at] = power[at].real + made
    else:
        power[at] = made + 1j * power[at].imag


def with_profiles(grid: Grid, units: Units, customers: Column) -> Grid:
    """The grid whose passive load follows the profiles, without what customers draw."""
    moves = np.where(customers[:, None], 0, units.power) - units.now[:, None]
    passive: Any = np.asarray(grid.passive) + 1j * np.asarray(grid.passive_reactive, float)
    kept = grid.passive.dtype
    rounding = 8 * np.finfo(kept).eps * np.abs(passive)
    np.add.at(passive, units.bus, moves)
    passive = np.where(np.abs(passive) <= rounding, 0, passive)  # all of it in the market
    return replace(
        grid, passive=passive.real.astype(kept), passive_reactive=passive.imag.astype(kept)
    )


@dataclass(frozen=True)
class Customers:
    """Who takes part, and what belongs to whom."""

    unit: Int[Column, " N"]  # the row each is named after
    owner: Int[Column, " U"]  # of each row, -1 where it is passive


def customers_of(units: Units, tables: Sequence[str], stored: Column) -> Customers:
    """A customer for each row of the tables, in their order.

    Generation, and storage where `stored`, is that of the first customer at its bus of the net;
    where there is none, it is a customer itself.
    """
    unknown = [name for name in tables if name not in CONSUMERS]
    if unknown:
        raise ValueError(
            f"from_pandapower: customers={unknown[0]!r}: give some of {', '.join(CONSUMERS)}."
        )
    first = units.of(*tables)
    owner = np.full(len(units.kind), -1)
    owner[first] = np.arange(len(first))
    at_bus = np.full(int(units.place.max(initial=-1)) + 1, -1)
    at_bus[units.place[first[::-1]]] = owner[first[::-1]]
    unit = list(first)
    for k in (*units.of(*PRODUCERS), *units.of("storage")[stored]):
        if at_bus[units.place[k]] < 0:
            at_bus[units.place[k]] = len(unit)
            unit.append(k)
        owner[k] = at_bus[units.place[k]]
    return Customers(np.array(unit, np.int64), owner)


def _contested(units: Units, found: Customers, tables: Sequence[str]) -> list[str]:
    """Generation and storage at buses of several customers."""
    many = np.bincount(units.place[units.of(*tables)], minlength=units.place.max(initial=0) + 1)
    owned = [k for k in units.of(*PRODUCERS, "storage").tolist() if found.owner[k] >= 0]
    return [units.label[k] for k in owned if many[units.place[k]] > 1]


def _names(units: Units, found: Customers, notes: Notebook) -> tuple[str, ...]:
    """The names of customers, each its own; none where the net has none."""
    names, told = ([of[k] for k in found.unit.tolist()] for of in (units.name, units.label))
    if not any(names):
        return ()
    made = distinct(names, told)
    notes.some(
        "customer.name", [label for a, b, label in zip(made, names, told, strict=True) if a != b]
    )
    return made


def _own_names(units: Units, rows: Column) -> tuple[str, ...]:
    """The names of devices, each its own, and nothing for those without."""
    names, told = ([of[k] for k in rows.tolist()] for of in (units.name, units.label))
    return tuple(made * bool(own) for made, own in zip(distinct(names, told), names, strict=True))


def market_of(
    net: Any,
    grid: Grid,
    report: ImportReport,
    units: Units,
    tariff: Tariff,
    *,
    customers: Sequence[str],
    toll: float | None,
    clock: Clock | None,
    hour_length: Any,
) -> tuple[Market, ImportReport]:
    """The market of a net's customers, and the report with who they are.

    `report.data["customers"]` are the labels of the prosumers' rows, `report.data["owner"]` who
    owns each row of loads, generation and storage, by its label, None where it is passive.
    """
    notes = Notebook()
    notes.notes += report.notes
    size = _storages(net, units, notes)
    found = customers_of(units, customers, size.stored)
    notes.some("customer.several", _contested(units, found, customers))
    mine = found.owner >= 0
    plain = mine & ~np.isin(np.array(units.kind, object), ["storage"])
    count, hours = len(found.unit), units.power.shape[1]
    drawn, made = np.zeros((count, hours)), np.zeros((count, hours))
    kvar = np.zeros((count, hours))
    np.add.at(drawn, found.owner[plain], np.maximum(units.power.real[plain], 0))
    np.add.at(made, found.owner[plain], np.maximum(-units.power.real[plain], 0))
    np.add.at(kvar, found.owner[plain], units.power.imag[plain])
    people = Prosumers(
        units.bus[found.unit], drawn - made, kvar, export_max=made, curtail_max=made,
        names=_names(units, found, notes),
    )  # fmt: skip
    stores = units.of("storage")[size.stored]
    buffers = size.buffers(found.owner[stores], hours)
    called = _own_names(units, stores)
    if buffers is not None and any(called):
        buffers = changed(buffers, names=called)
    reach = np.max(drawn + made, axis=1, initial=0)
    np.add.at(reach, found.owner[stores], size.power[size.stored])
    pairs = np.triu_indices(count if toll is not None else 0, 1)
    most = np.maximum(reach[pairs[0]], reach[pairs[1]])
    trading = Trading(*pairs, most, toll=0.0 if toll is None else toll)
    market = Market(
        people, with_profiles(grid, units, mine), tariff, buffers=buffers, trading=trading,
        hour_length=hour_length, clock=clock,
    )  # fmt: skip
    told = tuple(units.label[k] for k in found.unit.tolist())
    owners = (told[k] if k >= 0 else None for k in found.owner.tolist())
    data = {"customers": told, "owner": dict(zip(units.label, owners, strict=True))}
    totals = {
        "customers": Total(len(units.of(*customers)), count, ""),
        "customers' load": Total(
            units.now.real[units.of(*customers)].sum(), drawn[:, 0].sum(), "kW"
        ),
        "customers' generation": Total(
            0 - units.now.real[units.of(*PRODUCERS)].sum(), made[:, 0].sum(), "kW"
        ),
    }
    return market, replace(
        report, notes=tuple(notes.notes), totals={**report.totals, **totals},
        data={**report.data, **data},
    )  # fmt: skip


@dataclass(frozen=True)
class Storages:
    """What the storages of a net can hold and do, in the order of their rows."""

    stored: Column  # whether capacity and power are known
    power: Float[Column, " K"]
    capacity: Float[Column, " K"]
    floor: Float[Column, " K"]
    start: Float[Column, " K"]
    efficiency: Float[Column, " K"]

    def buffers(self, owner: Column, hours: int) -> Buffers | None:
        """Batteries of these owners, which hold at the end what they did at first."""
        if not len(owner):
            return None
        parts = (self.power, self.capacity, self.floor, self.start, self.efficiency)
        power, capacity, floor, start, efficiency = (part[self.stored] for part in parts)
        start = np.clip(start, floor, 1)
        return battery(
            owner, power=power[:, None], capacity=capacity, hours=hours, floor=floor, start=start,
            final=start, efficiency=efficiency,
        )  # fmt: skip


def _storages(net: Any, units: Units, notes: Notebook) -> Storages:
    """By energy and power limits, or rated power; an efficiency up to 1 is a share, no percent."""
    which = units.of("storage")
    table = net.storage.iloc[[units.row[k] for k in which.tolist()]]
    limits = [np.abs(column(table, f"{end}_p_mw", 0)) for end in ("min", "max")]
    power = 1e3 * np.maximum(*limits)
    power = np.where(power > 0, power, 1e3 * column(table, "sn_mva", 0))
    capacity = 1e3 * column(table, "max_e_mwh", 0)
    stored = (capacity > 0) & (power > 0) & np.isfinite(capacity) & np.isfinite(power)
    told = [units.label[k] for k in which.tolist()]
    notes.some("storage.passive", [told[k] for k in np.flatnonzero(~stored).tolist()])
    efficiency = column(table, "efficiency_percent")
    assumed = np.isnan(efficiency)
    notes.some("storage.efficiency", [told[k] for k in np.flatnonzero(stored & assumed).tolist()])
    efficiency = np.where(efficiency > 1, efficiency / 100, efficiency)
    size = np.where(stored, capacity, 1)
    return Storages(
        stored, power, capacity, np.clip(1e3 * column(table, "min_e_mwh", 0) / size, 0, 1),
        np.clip(column(table, "soc_percent", 50) / 100, 0, 1), np.where(assumed, 0.95, efficiency),
    )  # fmt: skip
