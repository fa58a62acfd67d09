"""Limits that give way: columns of a linear program that move them, and the fewest that must."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .elastic import Program
from .market import FIELDS, Market
from .model import counted, weight
from .tables import has_caps

NOTHING = 1e-8  # amounts, relative to the market's, that are the linear program's rounding
_EXACT = 400  # places up to which the fewest are found exactly
_CUTS = 20  # rounds of tangents in that search
_FAR = 1e3  # times the market's power, which no limit moves
_REWEIGHTED = 8  # rounds where places are more
_PATIENCE = 30.0  # seconds that the search for the fewest may take


class Limit(NamedTuple):
    """How a limit gives way: by hour, or one number for all hours of its row."""

    name: str
    verb: str
    price: float  # EUR per kWh by hour, or per unit (of caps theirs)
    table: str  # of the plan
    ways: tuple[int, ...]  # 1: its upper bounds rise, -1: its lower bounds fall
    usual: bool = True  # gives way unless told otherwise

    @property
    def unit(self) -> str:
        return FIELDS[self.name].unit

    def timed(self, market: Market) -> bool:
        """Whether it gives way hour by hour."""
        return FIELDS[self.name].timed(market)


LIMITS: dict[str, Limit] = {
    limit.name: limit
    for limit in (
        Limit("Prosumers.load", "shed", 10.0, "load", ()),
        Limit("Prosumers.import_max", "raise", 1.0, "imports", (1,)),
        Limit("Prosumers.export_max", "raise", 1.0, "exports", (1,)),
        Limit("Prosumers.curtail_max", "raise", 1.0, "curtailed", (1,)),
        Limit("Generators.power_min", "lower", 1.0, "generation", (-1,)),
        Limit("Generators.power_max", "raise", 5.0, "generation", (1,), usual=False),
        Limit("Buffers.charge_max", "raise", 5.0, "charge", (1,), usual=False),
        Limit("Buffers.discharge_max", "raise", 5.0, "discharge", (1,), usual=False),
        Limit("Buffers.energy_min", "lower", 2.0, "energy", (-1,)),
        Limit("Buffers.energy_max", "raise", 2.0, "energy", (1,)),
        Limit("Buffers.energy_start", "move", 5.0, "energy_start", (1, -1), usual=False),
        Limit("Trading.limit", "raise", 1.0, "trades", (1, -1)),
        Limit("Tariff.total_max", "raise", 1.0, "total", (1,)),
        Limit("Tariff.total_min", "lower", 1.0, "total", (-1,)),
        Limit("Caps.level_max", "raise", 1.0, "level", (1,)),
        Limit("Caps.level_min", "lower", 1.0, "level", (-1,)),
        Limit("Caps.rise_max", "raise", 1.0, "rise", (1,)),
        Limit("Caps.rise_min", "lower", 1.0, "rise", (-1,)),
        Limit("Grid.rating", "raise", 5.0, "active", ()),
        Limit("Grid.voltage_max", "raise", 1000.0, "voltage", (1,)),
        Limit("Grid.voltage_min", "lower", 1000.0, "voltage", (-1,)),
        Limit("Grid.angle_max", "raise", 100.0, "angle", (1,)),
        Limit("Grid.angle_min", "lower", 100.0, "angle", (-1,)),
        Limit("Grid.compensation_max", "raise", 5.0, "compensation", (1, -1), usual=False),
    )
}


@dataclass
class Slack:
    """Columns by which one limit gives way: entry of its table, and what each costs a unit."""

    name: str
    columns: np.ndarray
    rows: np.ndarray
    hours: np.ndarray  # -1: all
    way: np.ndarray
    unit: Any  # physical size of 1, of all or of each column


def give(made: Program, name: str, price: float) -> list[Slack]:
    """Let a limit give way; what it does not limit is left out."""
    limit = LIMITS[name]
    if not made.market.grid.model.networked and name.startswith("Grid."):
        return []
    if not has_caps(made.market) and name.startswith("Caps."):
        return []
    if name == "Prosumers.load":
        return _shed(made, price)
    if name == "Buffers.energy_start":
        return _start(made, price)
    table = made.total[None] if limit.table == "total" else made.table(limit.table)
    if not limit.timed(made.market):
        return _widen(made, name, table, price)
    length = np.asarray(weight(made.market, FIELDS[name]))
    found = []
    for way in limit.ways:
        bound = (made.upper if way > 0 else made.lower)[table]
        able = (table >= 0) & np.isfinite(bound)
        most = np.full(table.shape, np.inf)
        if name == "Prosumers.curtail_max":  # no more than is there
            surplus = np.maximum(-np.asarray(made.market.prosumers.load), 0.0) / made.power
            most = np.maximum(surplus - bound, 0.0)
        if name == "Generators.power_min":
            most = np.maximum(bound, 0.0)
        row, hour = np.nonzero(able & (most > 0))
        at = table[row, hour]
        unit = made.power if limit.table == "total" else made.unit[at]
        columns = made.add(
            way * made.equal[:, at], 0.0, most[row, hour], price * length[hour] * unit
        )
        found.append(Slack(name, columns, row, hour, np.full(len(at), way), unit))
    return found


def _shed(made: Program, price: float) -> list[Slack]:
    """Load that is not served, and its share of reactive load."""
    people, of = made.market.prosumers, made.of
    load = np.asarray(people.load)
    row, hour = np.nonzero(load > 0)
    flat = row * of.hours + hour
    share = (np.asarray(people.reactive)[row, hour] / load[row, hour])[None]
    at = [of.matrix[made.kept][:, of.columns[name].start + flat]
          for name in ("load", "load_reactive")]  # fmt: skip
    scaled = _by_row(made, at[0] + at[1] * share)
    unit = price * np.asarray(counted(made.market))[hour] * made.power
    columns = made.add(-scaled, 0.0, load[row, hour] / made.power, unit)
    return [Slack("Prosumers.load", columns, row, hour, np.full(len(row), -1), made.power)]


def _start(made: Program, price: float) -> list[Slack]:
    """Contents at the start, either way."""
    of, start = made.of, np.asarray(made.market.buffers.energy_start)
    rows = np.arange(len(start))
    at = of.matrix[made.kept][:, of.columns["energy_start"].start + rows * of.hours]
    found = []
    for way, most in ((1, np.full(len(rows), np.inf)), (-1, np.maximum(start, 0) / made.power)):
        columns = made.add(way * _by_row(made, at), 0.0, most, price * made.power)
        every, ways = np.full(len(rows), -1), np.full(len(rows), way)
        found.append(Slack("Buffers.energy_start", columns, rows, every, ways, made.power))
    return found


def _by_row(made: Program, columns: Any) -> Any:
    """Columns per kW, scaled as the program's."""
    from scipy import sparse

    return sparse.csr_array(sparse.diags_array(made.power / made.row_unit) @ columns)


def _widen(made: Program, name: str, table: np.ndarray, price: float) -> list[Slack]:
    """Limits with one number a row: the same slack in all hours."""
    from scipy import sparse

    limit, grid = LIMITS[name], made.market.grid
    unit = made.power if limit.table in ("trades", "active") else 1.0
    rows = np.arange(len(table))
    if name == "Grid.rating":
        rows = made.lines
    elif limit.unit in ("pu", "rad"):
        if limit.table not in grid.model.states:
            return []
        rows = np.setdiff1d(rows, np.asarray(grid.feeder))
    none = sparse.csr_array((made.equal.shape[0], len(rows)))
    columns = made.add(none, 0.0, np.inf, price * unit)
    if name == "Grid.rating":
        made.slack = columns
    steep = np.ones(len(rows))
    if limit.unit == "pu" and grid.model.squared:  # of the squared voltage
        steep = 2 * np.asarray(grid.voltage_min if -1 in limit.ways else grid.voltage_max)[rows]
    at = table[rows]
    for way in limit.ways:
        bounds = made.upper if way > 0 else made.lower
        edge = bounds[at].ravel()
        finite = np.isfinite(edge)
        each = [np.repeat(a, made.of.hours)[finite] for a in (columns, steep)]
        made.below([(at.ravel()[finite], float(way)), (each[0], -each[1])], way * edge[finite])
        bounds[at] = way * np.inf
    every, ways = np.full(len(rows), -1), np.full(len(rows), limit.ways[-1] if limit.ways else 1)
    return [Slack(name, columns, rows, every, ways, unit)]


def fewest(made: Program, slacks: list[Slack]) -> set[int]:
    """Columns of as few places (limit and row) as can be."""
    places: dict[tuple[str, int], list[int]] = {}
    for slack in slacks:
        for row, column in zip(slack.rows, slack.columns, strict=True):
            places.setdefault((slack.name, int(row)), []).append(int(column))
    groups = [np.array(columns) for columns in places.values()]
    chosen = _exactly(made, groups) if len(groups) <= _EXACT else None
    if chosen is None or not _suffices(made, groups, chosen):
        chosen = _reweighted(made, groups)
    return {int(column) for group in chosen for column in groups[group]}


def _suffices(made: Program, groups: list[np.ndarray], chosen: list[int]) -> bool:
    """Whether there is a plan where these places alone give way."""
    upper, others = made.upper.copy(), set(range(len(groups))) - set(chosen)
    for group in others:
        made.upper[groups[group]] = 0.0
    found = made.solve().x is not None
    made.upper = upper
    return found


def _exactly(made: Program, groups: list[np.ndarray]) -> list[int] | None:
    """By a mixed-integer program; None where that fails."""
    from scipy import optimize as module
    from scipy import sparse

    optimize: Any = module  # whose annotations know no arrays
    free = made.solve()  # finds the tangents that matter
    if free.x is None:
        return None
    width, count = len(made.cost), len(groups)
    column = np.concatenate(groups)
    group = np.repeat(np.arange(count), [len(g) for g in groups])
    most = _reach(made)
    tied = sparse.csr_array(
        (np.concatenate([np.ones(len(column)), np.full(len(column), -most)]),
         (np.tile(np.arange(len(column)), 2), np.concatenate([column, width + group]))),
        shape=(len(column), width + count),
    )  # fmt: skip
    total, found = float(made.cost @ free.x), None
    if total <= NOTHING:
        return []
    for _ in range(_CUTS):
        less = [sparse.csr_array((a.data, a.indices, a.indptr), (a.shape[0], width + count))
                for a in made.less]  # fmt: skip
        equal = sparse.hstack([made.equal, sparse.csr_array((made.equal.shape[0], count))])
        found = optimize.milp(
            np.concatenate([1e-3 / total * made.cost, np.ones(count)]),
            integrality=np.concatenate([np.zeros(width), np.ones(count)]),
            bounds=optimize.Bounds(
                np.concatenate([made.lower, np.zeros(count)]),
                np.concatenate([made.upper, np.ones(count)]),
            ),
            constraints=[
                optimize.LinearConstraint(equal, made.side, made.side),
                optimize.LinearConstraint(sparse.vstack(less), -np.inf, np.concatenate(made.most)),
                optimize.LinearConstraint(tied, -np.inf, 0.0),
            ],
            options={"time_limit": _PATIENCE, "mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        if not made.cut(found.x[:width]):
            break
    return None if found is None else np.flatnonzero(found.x[width:] > 0.5).tolist()


def _reach(made: Program) -> float:
    """More than any limit need move, in the program's units."""
    finite = np.concatenate([made.lower, made.upper])
    finite = np.abs(finite[np.isfinite(finite)])
    hours = max(1.0, float(np.sum(made.market.hour_length)))
    return float(2.0 * hours + min(2.0 * finite.max(initial=1.0), _FAR))


def _reweighted(made: Program, groups: list[np.ndarray]) -> list[int]:
    """By linear programs in which what moved little becomes dear (reweighted l1)."""
    own = made.cost.copy()
    moved = np.zeros(len(groups))
    for _ in range(_REWEIGHTED):
        found = made.solve()
        if found.x is None:
            break
        moved = np.array([found.x[g].sum() for g in groups])
        scale = max(float(moved.max()), 1e-300)
        for group, size in zip(groups, moved, strict=True):
            made.cost[group] = 1 / (size / scale + 1e-3)
    made.cost = own
    return np.flatnonzero(moved > NOTHING).tolist()


def only(made: Program, slacks: list[Slack], chosen: set[int]) -> None:
    """Only the chosen columns may give way."""
    if not chosen:
        return
    for slack in slacks:
        shut = np.array([c for c in slack.columns if int(c) not in chosen], int)
        made.upper[shut] = 0.0
