"""Feeders in three phases as the rows of a grid: their spot loads, flows and voltages."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..acphases import returning
from ..incidence import beside, falls, has_terminals, shares, where
from ..linear_flow import tree_state
from ..market import Grid
from ..radial import forest
from ..record import changed
from ..runner import by_numpy, to_host
from .feeders import Floats, Ints


@dataclass(frozen=True)
class Phased:
    """A grid in three phases, and the spot loads at its rows; otherwise like a `Feeder`.

    `grid` has one hour without loads, but with its capacitors; `load` (kW) and `reactive` (kvar)
    are the highest of the day at each row, phases, pairs or all three of a bus.
    """

    grid: Grid
    load: Floats
    reactive: Floats

    @property
    def source(self) -> Ints:
        return np.asarray(self.grid.source)

    @property
    def target(self) -> Ints:
        return np.asarray(self.grid.target)

    @property
    def roots(self) -> Ints:
        """Where the main grid connects: the phases of its bus."""
        return np.asarray(self.grid.feeder)

    def flows(self, drawn: Floats, reactive: Floats) -> tuple[Floats, Floats]:
        """What every conductor carries when the rows draw so much (B, H): kW and kvar (L, H).

        Capacitors are counted beside that.
        """
        found = self._state(drawn, reactive)
        return found["active"], found["reactive"]

    def squared_voltages(self, drawn: Floats, reactive: Floats) -> Floats:
        """The squared voltage of every row then, (B, H)."""
        return self._state(drawn, reactive)["voltage"]

    def alike(self, carried: Floats) -> Floats:
        """What is carried (L), of lines in pairs what the fullest of them does, at each.

        No wire has the rating of a pair: a wire carries the difference of two pairs' currents, at
        most 2 / sqrt(3) of the larger's kVA.
        """
        with by_numpy():
            grid = to_host(self.grid)
            bus, alone = where(grid).bus[grid.target], ~returning(grid)
        alone[np.asarray(grid.terminal)] = False
        alone &= np.asarray(bus) >= 0
        found, most = carried.copy(), np.zeros(len(self.grid.phase_a))
        np.maximum.at(most, bus[alone], carried[alone])
        found[alone] = most[bus[alone]]
        return found

    def _state(self, drawn: Floats, reactive: Floats) -> dict[str, Floats]:
        with by_numpy():
            fed = np.square(np.asarray(self.grid.feeder_voltage)) + 0 * drawn[:1]
            kvar = reactive + np.asarray(self.grid.passive_reactive)
            grid, p, q, fed = to_host((self.grid, drawn, kvar, fed))
            found = tree_state(changed(grid, passive=p), p, q, {"voltage": fed})
        return {name: np.asarray(field) for name, field in found.items()}


def given_phased(grid: Grid) -> Phased:
    """A grid in three phases; its highest passive loads are the spot loads.

    What makes reactive power at rows without load is a capacitor, of its mean over the hours.
    `ValueError` where the voltage of the main grid changes, or there is no load.
    """
    held = np.asarray(grid.feeder_voltage, float)
    if np.ptp(held, axis=1).max(initial=0.0) > 0:
        raise ValueError(
            "feeder: its Grid.feeder_voltage changes from hour to hour; give one for all hours, or "
            "use populate, which keeps the grid as it is."
        )
    load = np.asarray(grid.passive, float).max(axis=1, initial=0.0)
    if not load.sum() > 0:
        raise ValueError("feeder: give a Grid with passive load; prosumers take their share of it.")
    kvar = np.asarray(grid.passive_reactive, float)
    idle = np.where(load > 0, 0.0, kvar.mean(axis=1))[:, None]
    bare = replace(
        grid, passive=0 * idle, passive_reactive=idle, feeder_voltage=held[:, :1],
        compensation_max=0.0,
    )  # fmt: skip
    return Phased(bare, load, np.where(load > 0, kvar.max(axis=1, initial=0.0), 0.0))


def over_hours(feeder: Phased, passive: Floats, reactive: Floats, **limits: Any) -> Grid:
    """The grid with passive loads over hours, kW and kvar (B, H), beside its capacitors."""
    return replace(
        feeder.grid,
        passive=passive,
        passive_reactive=reactive + np.asarray(feeder.grid.passive_reactive),
        compensation_max=0.0,
        **limits,
    )


def possible(
    grid: Grid, least: Floats, most: Floats, kvar: Floats, injected: Floats
) -> tuple[Floats, Floats]:
    """What conductors carry at least, kVA (L, H), and the highest squared voltages that may be.

    Rows draw from `least` to `most` kW, and `kvar` less or more `injected`. Flows are in intervals
    that are summed up the tree, falls of voltage in those of flows down: load on a phase may lift
    another, so no end of an interval is the worst for all.
    """
    with by_numpy():
        grid, low, high, q, dq = to_host((grid, least, most, kvar, injected))
        state = tree_state(grid, (low + high) / 2, q, {"voltage": grid.feeder_voltage**2})
        dp, dq = _spread(grid, (high - low) / 2, dq)
        carried = np.hypot(
            np.maximum(np.abs(state["active"]) - dp, 0.0),
            np.maximum(np.abs(state["reactive"]) - dq, 0.0),
        )
        fall = np.zeros_like(dp)
        pairs = (grid.coupled, grid.following), (grid.following, grid.coupled)
        own = np.arange(len(fall))
        for (row, by), found in zip(
            ((own, own), *pairs), (falls(grid), *beside(grid)), strict=True
        ):
            active, reactive = (np.abs(each)[:, None] for each in found["voltage"])
            np.add.at(fall, row, active * dp[by] + reactive * dq[by])
        wide, spans = np.zeros_like(low), _ends(grid)
        ends = list(zip(grid.source.tolist(), grid.target.tolist(), strict=True))
        for _ in range(2):  # what spans phases once these are known
            for line, (source, target) in enumerate(ends):
                if line in spans:
                    wide[target] = wide[spans[line]].mean(axis=0)
                else:
                    wide[target] = wide[source] / grid.tap[line] ** 2 + fall[line]
        return np.asarray(carried), np.asarray(state["voltage"] + wide)


def _ends(grid: Grid) -> dict[int, list[int]]:
    """The rows of the phases that each line to a terminal comes from."""
    first = grid.source[grid.terminal]
    rows = np.stack([first, grid.second, grid.third], axis=1).tolist()
    lines = grid.terminal.tolist()
    return {line: [r for r in row if r >= 0] for line, row in zip(lines, rows, strict=True)}


def _spread(grid: Grid, active: Any, reactive: Any) -> tuple[Any, Any]:
    """How far flows may be from their middle, where what rows draw may be so far from its own."""
    ladder, at, found = forest(grid).ladder, grid.terminal, []
    for own, other in ((active, reactive), (reactive, active)):
        drawn = own
        if has_terminals(grid):
            share = shares(grid)
            real, turn, last = (each[:, None] for each in (share.real, share.turn, share.last))
            p, q = (ladder.behind(each)[grid.target[at]] for each in (own, other))
            drawn = own.at[grid.source[at]].add((real - 1) * p + turn * q)
            drawn = drawn.at[grid.second].add(real * p + turn * q)
            drawn = drawn.at[share.third].add(last * p)
        found.append(ladder.behind(drawn)[grid.target])
    return found[0], found[1]
