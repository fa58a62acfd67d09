"""What a grid's limits ask of all net loads together: linear rows, and the room that they leave.

On a radial grid in its linear model squared voltages, flows and the total are linear in what
prosumers draw. So each limit is a row, and what a box of net loads does to it at worst is known in
closed form: each prosumer at the end of its own interval that the row likes least.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .linear_flow import answers, check_linear, grid_state
from .market import Market, bus_name, line_name
from .model import boxes, by_owner, by_side
from .record import Record
from .runner import by_numpy, to_host

FAMILIES = ("voltage", "angle", "line", "total")  # of limits, in the order of their numbers
_SIDES = 32  # of the polygon within a disc: it lacks 0.5 % of the radius at most
_ENDLESS = 1e30  # kW, the room of a row in hours without a limit
_NOTHING = 1e-12  # relative: a prosumer by which a row moves less does not move it


class NetLimits(Record):
    """Rows `weight @ net <= room` of the net loads of all prosumers, in each hour.

    A row is in kW of the prosumer that moves it most, of which `unit` are one of the limit's own:
    pu (squared, where the grid model keeps squares), rad, kVA or kW. `family` is its place in
    `FAMILIES`, `place` its bus or line, and `side` 1 for an upper limit, -1 for a lower one.
    """

    weight: Float[np.ndarray, "R N"]
    room: Float[np.ndarray, "R H"]
    unit: Float[np.ndarray, " R"]
    family: Int[np.ndarray, " R"]
    place: Int[np.ndarray, " R"]
    side: Int[np.ndarray, " R"]

    def worst(self, low: Any, high: Any) -> Float[np.ndarray, "R H"]:
        """The most that a box of net loads from `low` to `high` (N H, kW) makes of each row."""
        up = np.maximum(self.weight, 0.0)
        return up @ high + (self.weight - up) @ low

    def left(self, low: Any, high: Any) -> Float[np.ndarray, "R H"]:
        """The room that such a box leaves, kW; below 0 where some of it breaks the limit."""
        return self.room - self.worst(low, high)

    def named(self, market: Market, row: int) -> str:
        """What people call the limit: `the lowest voltage of bus 742`."""
        family, place = FAMILIES[int(self.family[row])], int(self.place[row])
        end = "highest" if self.side[row] > 0 else "lowest"
        if family == "line":
            return f"the rating of line {line_name(market.grid, place)}"
        if family == "total":
            return f"Tariff.total_{'max' if self.side[row] > 0 else 'min'}"
        return f"the {end} {family} of bus {bus_name(market.grid, place)}"


def rows_of(limits: NetLimits, which: Any) -> NetLimits:
    """Some of the rows, by number or by a truth value each."""
    return NetLimits(**{name: np.asarray(a)[which] for name, a in vars(limits).items()})


def net_limits(market: Market, caller: str = "net_limits") -> NetLimits:
    """All limits of a market's grid, and those of the total, as rows of its net loads.

    Reactive power is what `Prosumers.reactive` and passive consumers draw, whatever net loads are;
    inverters and compensators make none, and flows that nothing balances are 0. So active power on
    a line with a rating is within a chord, or where it turns the reactive power as well, between
    phases, within a polygon of 32 sides inside the disc. Errors name the `caller`. Raises
    `ValueError` for grids whose lines close loops, a market about an AC state, and devices at
    another bus than their owner's.
    """
    check_linear(caller, market)
    _check_homes(market, caller)
    with by_numpy():
        host = to_host(market)
        parts = [*_of_total(host), *(_of_grid(host) if host.grid.model.networked else ())]
    fields = [np.concatenate(each) for each in zip(*parts, strict=True)]
    weight, room, family, place, side = fields
    felt = np.abs(weight).max(axis=1, initial=0.0)
    weight = np.where(np.abs(weight) > _NOTHING * felt[:, None], weight, 0.0)
    unit = np.where(felt > 0, felt, 1.0)
    room = np.minimum(room / unit[:, None], _ENDLESS)
    found = NetLimits(weight / unit[:, None], room, unit, family, place, side)
    never = (felt == 0) & np.all(room >= 0, axis=1)
    return rows_of(found, ~never & np.any(room < _ENDLESS, axis=1))


_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _part(family: str, place: np.ndarray, side: int, weight: Any, room: Any) -> _Part:
    """Rows of one family: their weights, room, and the columns that say what they are."""
    number = np.full(len(place), FAMILIES.index(family))
    return np.asarray(weight), np.asarray(room), number, place, np.full(len(place), side)


def _of_total(market: Market) -> list[_Part]:
    passive = np.asarray(market.grid.passive).sum(axis=0)
    one = np.ones((1, len(market.prosumers.bus)))
    tariff, place = market.tariff, np.zeros(1, int)
    return [
        _part("total", place, 1, one, (tariff.total_max - passive)[None]),
        _part("total", place, -1, -one, (passive - tariff.total_min)[None]),
    ]


def _of_grid(market: Market) -> list[_Part]:
    grid, people = market.grid, market.prosumers
    drawn = grid.passive_reactive.at[people.bus].add(people.reactive)
    idle: dict[str, Any] = grid_state(market, grid.passive, drawn)
    by_kw = answers(market)[0]
    free = np.setdiff1d(np.arange(len(grid.passive)), grid.feeder)
    found = []
    for state in grid.model.states:
        power = grid.model.power if state == "voltage" else 1
        felt, now = (np.asarray(table[state])[free] for table in (by_kw, idle))
        ends = (getattr(grid, f"{state}_{end}")[free, None] ** power for end in ("max", "min"))
        high, low = ends
        found.append(_part(state, free, 1, felt, high - now))
        found.append(_part(state, free, -1, -felt, now - low))
    return [*found, *_of_lines(grid, by_kw, idle)]


def _of_lines(grid: Any, by_kw: dict[str, Any], idle: dict[str, Any]) -> list[_Part]:
    """The discs of rated lines, as chords, or as polygons where the reactive power moves too."""
    rating = np.asarray(grid.rating)
    rated = np.isfinite(rating)
    turned = rated & np.any(np.asarray(by_kw["reactive"]) != 0, axis=1)
    chord, round_ = np.flatnonzero(rated & ~turned), np.flatnonzero(turned)
    p, q = (np.asarray(by_kw[name]) for name in ("active", "reactive"))
    p0, q0 = (np.asarray(idle[name]) for name in ("active", "reactive"))
    size, across = rating[chord, None], np.abs(q0[chord])
    # of more reactive power than the rating no active power is right: both rows cannot hold
    half = np.where(across <= size, np.sqrt(np.maximum(size**2 - across**2, 0.0)), size - across)
    found = [
        _part("line", chord, side, side * p[chord], half - side * p0[chord]) for side in (1, -1)
    ]
    for way in 2 * np.pi * np.arange(_SIDES) / _SIDES if round_.size else ():
        cos, sin = np.cos(way), np.sin(way)
        weight = cos * p[round_] + sin * q[round_]
        room = rating[round_, None] * np.cos(np.pi / _SIDES) - cos * p0[round_] - sin * q0[round_]
        found.append(_part("line", round_, 1 if cos > 0 else -1, weight, room))
    return found


class Reach(Record):
    """What each prosumer can draw at least and at most, hour by hour, kW; below 0 it feeds in.

    `rest` is the draw between them that is nearest to none: what is no choice of its own.
    """

    low: Float[np.ndarray, "N H"]
    high: Float[np.ndarray, "N H"]
    rest: Float[np.ndarray, "N H"]

    @property
    def free(self) -> Bool[np.ndarray, "N H"]:
        """Who has a choice, and when."""
        return np.asarray(self.high > self.low)


def reach(market: Market) -> Reach:
    """Net loads that devices and contracts allow, each hour by itself.

    That is load, less what generators and discharging make, more what is curtailed and charged, and
    no more than may be imported and bought of peers, no less than may be exported and sold.
    Contents of buffers are not looked at, so some of it may be out of reach for long.
    """
    with by_numpy():
        host = to_host(market)
        low, high = boxes(host)
        units, stores = host.generators.owner, host.buffers.owner

        def owned(table: Any, owner: Any) -> np.ndarray:
            return np.asarray(by_owner(host, table, owner))

        load = np.asarray(host.prosumers.load)
        most = load + high.curtailed - owned(low.generation, units) + owned(high.charge, stores)
        least = load - owned(high.generation, units) - owned(high.discharge, stores)
        traded = np.asarray(by_side(host, high.trades))
        most = np.clip(most, least, np.maximum(high.imports + traded, least))
        least = np.clip(least, np.minimum(-high.exports - traded, most), most)
    return Reach(*(np.array(table) for table in (least, most, np.clip(0.0, least, most))))


def _check_homes(market: Market, caller: str) -> None:
    """Raise `ValueError` for a device at another bus than its owner's."""
    home = np.asarray(market.prosumers.bus)
    for one, table in (("generator", market.generators), ("buffer", market.buffers)):
        bus, owner = np.asarray(table.bus), np.asarray(table.owner)
        away = np.flatnonzero((bus >= 0) & (bus != home[owner]) & market.grid.model.phased)
        if away.size:
            raise ValueError(
                f"{caller}: {one} {away[0]} is at bus {bus_name(market.grid, int(bus[away[0]]))}, "
                "its owner at another, and a net load is drawn at one bus; give it the bus of its "
                "owner, or an owner of its own there."
            )
