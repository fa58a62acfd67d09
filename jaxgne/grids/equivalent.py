"""The balanced equivalent of a market in three phases: one row a bus, as if phases were equal."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

M = TypeVar("M")


def balanced(market: M) -> M:
    """The balanced equivalent of a `Market` on a grid of `lindist3flow`, which `lindistflow` has.

    Each bus is one row, where everybody of any of its phases stands. Lines have their
    positive-sequence impedance, mean self less mean mutual impedance (of one phase its own), in pu
    of three-phase kW, a third of that by phase; what they are rated, what draws passively and what
    compensates is summed over the phases. Ratios of regulators and voltages of the main grid are
    means, voltage limits the tightest of the bus's rows. What stands on several phases behind a
    line with a rating (`devices.connection`) keeps that line.

    Where phases are equal it is the same market; else it shows what neglect of unbalance costs.
    Raises `ValueError` for a market on a grid of another model, and for a batch.
    """
    whole: Any = market
    grid = whole.grid
    if not grid.model.phased:
        raise ValueError(
            f"balanced: a grid with model='lindist3flow' is needed, this one is "
            f"{grid.model.name!r}."
        )
    if np.ndim(grid.passive) != 2:
        raise ValueError("balanced: takes one market; take one, jg.scenarios.lane(markets, k).")
    of, first, own = _merged(grid)
    count, names = len(first), _stems(grid.names, first, own[first])
    people = replace(whole.prosumers, bus=of[np.asarray(whole.prosumers.bus)])
    feeders, fed = np.unique(of[np.asarray(grid.feeder)], return_inverse=True)

    def total(rows: Any) -> np.ndarray:
        table = np.asarray(rows, float)
        return _sums(of, table, count)

    def tightest(function: np.ufunc, rows: Any, start: float) -> np.ndarray:
        found = np.full(count, start)
        function.at(found, of, np.asarray(rows, float))
        return found

    voltage = np.asarray(grid.feeder_voltage, float)
    equivalent = type(grid)(
        total(grid.passive),
        **_lines(grid, of, own),
        voltage_min=tightest(np.maximum, grid.voltage_min, -np.inf),
        voltage_max=tightest(np.minimum, grid.voltage_max, np.inf),
        angle_min=tightest(np.maximum, grid.angle_min, -np.inf),
        angle_max=tightest(np.minimum, grid.angle_max, np.inf),
        feeder=feeders,
        feeder_voltage=_sums(fed, voltage, len(feeders)) / np.bincount(fed)[:, None],
        passive_reactive=total(grid.passive_reactive),
        compensation_max=total(grid.compensation_max),
        zone=np.asarray(grid.zone)[first],
        model="lindistflow",
        names=names,
    )
    return replace(whole, prosumers=people, grid=equivalent)


def balanced_bus(grid: Any) -> np.ndarray:
    """The bus of the balanced equivalent that each row of a `Grid` in three phases is part of."""
    return _merged(grid)[0]


def _merged(grid: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The new bus of each row, the first row of each, and which rows are no phase of one."""
    bus = _buses(grid)
    own = bus < 0
    bus[own] = len(grid.phase_a) + np.arange(np.sum(own))
    _, first, of = np.unique(bus, return_index=True, return_inverse=True)
    return of, first, own


def _buses(grid: Any) -> np.ndarray:
    """The bus of each row: of a phase its own, of a terminal that of its phases, else -1.

    A terminal behind a rated line is a bus of its own, too.
    """
    bus, terminal = np.full(len(grid.voltage_min), -1), np.asarray(grid.terminal)
    for rows in (grid.phase_a, grid.phase_b, grid.phase_c):
        there = np.flatnonzero(np.asarray(rows) >= 0)
        bus[np.asarray(rows)[there]] = there
    free = terminal[np.isinf(np.asarray(grid.rating)[terminal])]
    bus[np.asarray(grid.target)[free]] = bus[np.asarray(grid.source)[free]]
    return bus


def _lines(grid: Any, of: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """Lines between buses, of which each joins the conductors between the same two."""
    ends = np.stack([of[np.asarray(grid.source)], of[np.asarray(grid.target)]], axis=1)
    conductors = np.flatnonzero(ends[:, 0] != ends[:, 1])  # all but to terminals
    _, first, line = np.unique(ends[conductors], axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as the conductors came, so parents before children
    first, line = conductors[first[order]], np.argsort(order)[line.ravel()]
    at = np.full(len(ends), -1)
    at[conductors] = line
    many = np.bincount(line)
    couplings = np.maximum(many * (many - 1) / 2, 1)

    def mean(self_: Any, mutual: Any) -> np.ndarray:
        alone = _sums(line, np.asarray(self_, float)[conductors], len(many)) / many
        beside = _sums(at[np.asarray(grid.coupled)], np.asarray(mutual, float), len(many))
        return (alone - beside / couplings) / 3

    ratio = _sums(line, 1 / np.asarray(grid.tap, float)[conductors], len(many)) / many
    return {
        "source": ends[first, 0],
        "target": ends[first, 1],
        "resistance": mean(grid.resistance, grid.mutual_resistance),
        "reactance": mean(grid.reactance, grid.mutual_reactance),
        "rating": _sums(line, np.asarray(grid.rating, float)[conductors], len(many)),
        "tap": 1 / ratio,
        "line_names": _stems(grid.line_names, first, own[np.asarray(grid.target)[first]]),
    }


def _sums(of: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros((count, *rows.shape[1:]))
    np.add.at(found, of, rows)
    return found


def _stems(names: tuple[str, ...], rows: np.ndarray, own: np.ndarray) -> tuple[str, ...]:
    """Names of buses or lines: 632 for 632.b, but what is `own` keeps its name."""
    return tuple(
        names[k] if whole else names[k].rpartition(".")[0] or names[k]
        for k, whole in zip(rows.tolist() if names else (), own, strict=False)
    )
