"""A bound on the voltage unbalance factor of buses with three phases, as caps (`caps.unbalance`).

About voltages of 1 pu that are 120 degrees apart, v_p = exp(j theta_p) (1 + e_p) with

    e_p = (w_p - 1) / 2 + j (angle_p - theta_p),    V2 = (e_a + h e_b + h^2 e_c) / 3,    |V1| = 1

and h = exp(j 120 deg), linear in what everybody draws: w is the squared voltage of LinDist3Flow,
and where that falls by 2 sum_q (rt_pq P_q + xt_pq Q_q) along a line, the angle falls by
sum_q (xt_pq P_q - rt_pq Q_q) (Sankur, Dobbe, Von Meier, Stewart, Arnold, arXiv 1804.02080).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, Complex, Float, Int

from .arrays import by_hour
from .each import for_one
from .incidence import across, has_terminals, pulled_back, where
from .linear_flow import tree_state
from .market import Grid, Market, bus_name
from .names import rows_of
from .radial import forest
from .record import changed
from .runner import by_numpy, to_host
from .tables import QUANTITIES, Caps, device_buses

_SHARE = np.exp(2j * np.pi / 3 * np.arange(3)) / 3  # of V2 in e_a, e_b, e_c
_NONE = 1e-9  # share of the largest weight of a bus, below which a member counts nothing


@for_one()
def unbalance(
    market: Market,
    most: Any,
    *,
    buses: Iterable[Any] | None = None,
    sides: int = 12,
    name: str = "unbalance",
) -> Caps:
    """The voltage unbalance factor |V2| / |V1| of some buses is at most `most`, 0.02 for 2 %.

    One number, or by step. `buses` have all three phases: by name, with a phase or without, or by
    row of the grid. By default it is the one with the highest factor if all devices rest: unbalance
    adds up along a feeder, whose other buses mostly follow, and each bus is as many caps as a
    polygon inside the circle of radius `most` has `sides`, with terms of everybody behind the
    feeder. The AC power flow of a certificate (`clearing.certificate.ac.unbalance`) names the bus
    with the highest factor then: give both where that is another.

    Caps count V2 in pu, turned to one side of the polygon each, and are limited to
    `most` cos(pi / sides), so that 12 sides are inside the circle by 3.4 % at most; a price is in
    EUR per pu: a hundredth of it for a percentage point. They count what prosumers draw, whose
    loads may change later, and what the passive load draws now: make them anew where that changes.

    Raises `ValueError` for a grid of one phase, a bus without three, and numbers that do not fit;
    and where inverters may inject reactive power (`Grid.compensation_max`) that would move V2, as
    no cap counts that.
    """
    grid, hours = market.grid, np.shape(market.prosumers.load)[-1]
    if not grid.model.phased:
        raise ValueError(
            f"unbalance: a grid {grid.model.name!r} has no phases; give one in three phases, as of "
            'Grid(model="lindist3flow").'
        )
    if not (isinstance(sides, int | np.integer) and sides >= 3):
        raise ValueError(f"unbalance: sides={sides!r}; give a whole number, 3 or more.")
    limit = np.array(by_hour("unbalance: most", most, 1, hours, "cap"), float)[0]
    if not np.all((limit > 0) & ((limit < 1) | np.isinf(limit))):
        raise ValueError(
            f"unbalance: most is {limit[~((limit > 0) & (limit < 1))][0]:.6g}; give a share of the "
            "voltage between 0 and 1, as 0.02 for 2 %."
        )
    with by_numpy():
        here = to_host(market)
        rows = np.asarray(here.grid.phases)[_chosen(here, buses)]
        active, reactive = (np.asarray(part) for part in _worths(here.grid, rows))
        still = np.asarray(_negative(here.grid, rows, *here.grid.consumed))
        made, kept = (np.asarray(bus) for bus in device_buses(here))
    _refuse_inverters(market, rows, reactive)
    home = np.asarray(market.prosumers.bus)
    worth = {
        "generation": -active[made],
        "charge": active[kept],
        "discharge": -active[kept],
        "load": active[home],
        "reactive": reactive[home],
    }
    turn = np.exp(-2j * np.pi * np.arange(sides) / sides)
    every = np.concatenate(list(worth.values()))
    member, bus = np.nonzero(np.abs(every) > _NONE * np.abs(every).max(axis=0, initial=0.0))
    sizes = [len(part) for part in worth.values()]
    quantity = np.repeat([QUANTITIES.index(name) for name in worth], sizes)
    row = np.concatenate([np.arange(size) for size in sizes])
    at = np.arange(sides)
    return Caps(
        np.tile(limit * np.cos(np.pi / sides), (len(rows) * sides, 1)),
        hours=hours,
        base=np.real(turn[:, None] * still[:, None]).reshape(-1, hours),
        cap=(bus[:, None] * sides + at).ravel(),
        quantity=np.repeat(quantity[member], sides),
        row=np.repeat(row[member], sides),
        weight=np.real(every[member, bus][:, None] * turn).reshape(-1, 1),
        names=tuple(
            f"{name} at bus {_called(grid, phases)}, {360 * k / sides:.4g} deg"
            for phases in rows
            for k in at
        ),
        units=("pu",) * (len(rows) * sides),
    )


def _chosen(market: Market, which: Iterable[Any] | None) -> Int[np.ndarray, " S"]:
    """The buses, of those whose phases the grid lists: each once, in the order given."""
    grid = market.grid
    phases = np.asarray(grid.phases)
    whole = np.all(phases >= 0, axis=1)
    if which is None:
        if not whole.any():
            raise ValueError("unbalance: no bus of the grid has all three phases.")
        people, drawn = market.prosumers, grid.consumed
        active = drawn[0].at[people.bus].add(people.load)
        reactive = drawn[1].at[people.bus].add(people.reactive)
        factor = np.abs(_negative(grid, phases[whole], active, reactive))
        return np.flatnonzero(whole)[[int(factor.max(axis=1).argmax())]]
    first = np.where(phases >= 0, phases, np.inf).min(axis=1).astype(int)
    if grid.names:  # a bus by its name stands for its first row
        alone = {_called(grid, [row]): row for row in first}
        given = [which] if isinstance(which, str) else list(which)
        which = [alone.get(bus, bus) if isinstance(bus, str) else bus for bus in given]
    count = np.shape(grid.passive)[0]
    found = rows_of("unbalance: buses", "bus", which, grid.names, count)
    at = np.asarray(where(grid).bus)[found]
    lacking = np.flatnonzero((at < 0) | ~whole[at])
    if lacking.size:
        told = bus_name(grid, int(found[lacking[0]]))
        raise ValueError(
            f"unbalance: bus {told} does not have all three phases, so that there is no unbalance "
            "factor; choose buses that do."
        )
    return np.array(list(dict.fromkeys(at.tolist())), int)


def _called(grid: Grid, rows: Any) -> str:
    """What people call the bus of these phases: its name without one, or its first row."""
    return bus_name(grid, int(rows[0])).rpartition(".")[0] or str(int(rows[0]))


def _refuse_inverters(
    market: Market, rows: Int[np.ndarray, "S 3"], reactive: Complex[np.ndarray, "B S"]
) -> None:
    """`ValueError` where reactive power that nobody counts moves V2 of these buses."""
    most = np.any(np.asarray(market.grid.compensation_max) > 0, axis=1)
    at, bus = np.nonzero(most[:, None] & (np.abs(reactive) > 0))
    if at.size:
        raise ValueError(
            f"unbalance: inverters at bus {bus_name(market.grid, int(at[0]))} may inject reactive "
            f"power, which moves the unbalance at bus {_called(market.grid, rows[bus[0]])} and "
            "which no cap counts; set Grid.compensation_max to 0 there, or choose other buses."
        )


def _turned(grid: Grid) -> Grid:
    """The same grid, whose angles are what another model takes for squared voltages.

    2 (r P + x Q) with x/2 for r and -r/2 for x is x P - r Q; ratios leave angles as they are.
    """
    names = ("resistance", "reactance", "mutual_resistance", "mutual_reactance")
    r, x, own, other = (getattr(grid, name) for name in names)
    turned = dict(zip(names, (x / 2, -r / 2, other / 2, -own / 2), strict=True))
    return changed(grid, **turned, tap=grid.tap**0)


def _negative(
    grid: Grid,
    rows: Int[np.ndarray, "S 3"],
    active: Float[Array, "B H"],
    reactive: Float[Array, "B H"],
) -> Complex[np.ndarray, "S H"]:
    """V2 of buses with these phases, pu, when all draw `active` kW and `reactive` kvar."""
    held = grid.feeder_voltage
    square = tree_state(grid, active, reactive, {"voltage": held**2})["voltage"]
    angle = tree_state(_turned(grid), active, reactive, {"voltage": 0 * held})["voltage"]
    return np.einsum("p,sph->sh", _SHARE, np.asarray(square / 2 + 1j * angle)[rows])


def _worths(
    grid: Grid, rows: Int[np.ndarray, "S 3"]
) -> tuple[Complex[Array, "B S"], Complex[Array, "B S"]]:
    """What a kW and a kvar more drawn at each row add to V2 of these buses: the transpose, pu."""
    share = np.zeros((np.shape(grid.passive)[0], len(rows)), complex)
    share[rows, np.arange(len(rows))[:, None]] = _SHARE
    square = _pulled(grid, to_host(share / 2))
    angle = _pulled(_turned(grid), to_host(1j * share))
    return square[0] + angle[0], square[1] + angle[1]


def _pulled(
    grid: Grid, weights: Complex[Array, "B S"]
) -> tuple[Complex[Array, "B S"], Complex[Array, "B S"]]:
    """What a kW and a kvar more at each row add to weighted sums of phases' squared voltages."""
    tree = forest(grid)
    ladder, far, base = tree.ladder, tree.far, tree.ladder.base[:, None] ** 2
    felt = ladder.behind(base * weights)[far] / base[far]
    none = 0 * weights
    active, reactive = (
        ladder.along(none.at[far].set(-along)) for along in pulled_back(grid, "voltage", felt)
    )
    if not has_terminals(grid):
        return active, reactive
    at = grid.terminal  # rows there, and behind, are at the worth of their first phase so far
    more = across(grid, active, reactive)
    active, reactive = (
        worth + ladder.along(none.at[grid.target[at]].set(each[at]))
        for worth, each in zip((active, reactive), more, strict=True)
    )
    return active, reactive
