"""What an AC power flow finds at corners of a box of net loads: each prosumer at an end of its own.

Limits of the linear grid are worst at corners that the signs of its rows tell, a few for a feeder:
all at their most, all at their least, those behind a line against the others. Errors of the linear
model are largest where much flows, so it is there that AC is asked.
"""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .acflow import LOADING_SLACK, VOLTAGE_SLACK, flow
from .clock import in_hour
from .market import Market, bus_name, line_name
from .net_limits import NetLimits
from .record import Record, changed
from .runner import by_numpy, to_host

_AT_ONCE = 2_000_000  # voltages of power flows that are made together


class Found(Record):
    """By how much an AC power flow exceeds limits, the most of all corners, hour by hour.

    0 where a limit holds. The total counts losses. Numbers of an hour without an AC state at some
    corner mean nothing.
    """

    above: Float[np.ndarray, "B H"]  # pu, of voltages over their highest
    below: Float[np.ndarray, "B H"]  # pu, under their lowest
    overload: Float[np.ndarray, "L H"]  # kVA at 1 pu, of currents over the rating
    loading: Float[np.ndarray, "L H"]  # share of the rating by current
    beyond: Float[np.ndarray, "T H"]  # kW: the total over `Tariff.total_max`, under `total_min`
    converged: Bool[np.ndarray, " H"]
    slack: Float[np.ndarray, "T H"]  # kW of the total that still count as none
    corners: int = eqx.field(static=True)

    @property
    def safe(self) -> bool:
        """Whether all limits hold, to 1e-4 pu and 0.1 % of ratings and totals."""
        volts = np.maximum(self.above, self.below).max(initial=0.0) <= VOLTAGE_SLACK
        lines = np.max(self.loading, initial=0.0) <= 1 + LOADING_SLACK
        total = np.all(np.asarray(self.beyond) <= np.asarray(self.slack))
        return bool(np.all(self.converged) and volts and lines and total)

    def __str__(self) -> str:
        """What was found, as a sentence."""
        volts, beyond = (
            float(max(np.max(np.asarray(a), initial=0.0) for a in parts))
            for parts in ((self.above, self.below), (self.beyond,))
        )
        lines = float(np.max(np.asarray(self.loading), initial=0.0))
        lost = int(np.sum(~np.asarray(self.converged)))
        word = "safe" if self.safe else "not safe"
        more = f"; no AC state in {lost} hours" if lost else ""
        return (
            f"{word} at {self.corners} corners: voltages {volts:.4f} pu outside their limits at "
            f"most, lines up to {100 * lines:.1f} % by current, the total {beyond:.4g} kW beyond"
            f"{more}"
        )

    def worst(self, market: Market) -> str:
        """The largest violation, in words, with its place; of voltages, then lines, then totals."""
        if not np.all(self.converged):
            step = int(np.argmin(self.converged))
            return f"no AC state {in_hour(market, step)}"
        volts = np.maximum(self.above, self.below)
        if np.max(volts, initial=0.0) > VOLTAGE_SLACK:
            bus, step = _place(volts)
            way = "above" if self.above[bus, step] > 0 else "below"
            where = f"{volts[bus, step]:.4f} pu {way} its limit {in_hour(market, step)}"
            return f"bus {bus_name(market.grid, bus)} {where}"
        if np.max(self.loading, initial=0.0) > 1 + LOADING_SLACK:
            line, step = _place(self.loading)
            share = f"{100 * float(self.loading[line, step]):.1f} %"
            return f"line {line_name(market.grid, line)} at {share} {in_hour(market, step)}"
        if not self.safe:
            side, step = _place(np.asarray(self.beyond) - np.asarray(self.slack))
            end = ("total_max", "total_min")[side]
            over = f"{float(self.beyond[side, step]):.4g} kW"
            return f"the total {over} beyond Tariff.{end} {in_hour(market, step)}"
        return "no limit exceeded"


def _place(values: Any) -> tuple[int, int]:
    row, step = np.unravel_index(np.argmax(values), np.shape(values))
    return int(row), int(step)


def patterns(limits: NetLimits) -> Bool[np.ndarray, "C N"]:
    """Who is at its upper end at the corners that some limit likes least, each corner once.

    Whoever a linear limit does not feel is at its upper end in one and at its lower in another:
    it moves the voltages at which others' currents flow. All up and all down are among them.
    """
    weight = np.asarray(limits.weight)
    up = [
        weight > 0,
        weight >= 0,
        np.array([True, False])[:, None] & np.ones(weight.shape[1], bool),
    ]
    return np.unique(np.concatenate(up), axis=0)


def drawn_patterns(count: int, people: int, seed: int) -> Bool[np.ndarray, "C N"]:
    """Corners that are drawn: each prosumer at either end, alike."""
    return np.random.default_rng(seed).uniform(size=(count, people)) < 0.5


def at_corners(market: Market, low: Any, high: Any, up: Bool[np.ndarray, "C N"]) -> Found:
    """What an AC power flow finds where prosumers draw `low` or, of those `up`, `high` (N H, kW).

    Reactive power is what `Prosumers.reactive` and passive consumers draw, and no inverter helps.
    Always in float64, by NumPy.
    """
    with by_numpy():
        market = to_host(market)
        grid, steps = market.grid, np.shape(low)[1]
        count = max(1, _AT_ONCE // max(1, grid.passive.shape[0] * steps))
        parts = [up[first : first + count] for first in range(0, len(up), count)]
        each = [_at(market, np.where(part[:, :, None], high, low)) for part in parts]
    most = [np.max(tables, axis=0) for tables in zip(*each, strict=True)]
    above, below, current, drawn, fed, failed = most
    rating = np.asarray(grid.rating)[:, None]
    rounding = 1e-6 * np.abs(np.stack([low, high])).sum(axis=1).max(initial=0.0)
    current = np.where(current > rounding, current, 0.0)  # a line rated 0 carries noise
    ends = np.stack([market.tariff.total_max, market.tariff.total_min])
    total = np.stack([drawn - ends[0], fed + ends[1]])
    return Found(
        above=np.maximum(above, 0.0),
        below=np.maximum(below, 0.0),
        overload=np.maximum(current - rating, 0.0),
        loading=np.divide(current, rating, out=np.zeros_like(current), where=current > 0),
        beyond=np.maximum(total, 0.0),
        converged=failed == 0,
        slack=LOADING_SLACK * np.where(np.isfinite(ends), np.abs(ends), 0.0),
        corners=len(up),
    )


def _at(market: Market, net: Float[np.ndarray, "C N H"]) -> tuple[np.ndarray, ...]:
    """The largest of what the AC state at these corners has, by row and hour."""
    grid, people = market.grid, market.prosumers
    many, _, steps = net.shape

    def spread(table: Any) -> np.ndarray:
        """A table by hour, again for each corner."""
        return np.tile(np.asarray(table), (1, many))

    active, reactive = spread(grid.passive), np.array(grid.passive_reactive)
    np.add.at(active, np.asarray(people.bus), net.transpose(1, 0, 2).reshape(net.shape[1], -1))
    np.add.at(reactive, np.asarray(people.bus), people.reactive)
    hourly = ("passive", "passive_reactive", "compensation_max", "feeder_voltage")
    wide = changed(grid, **{name: spread(getattr(grid, name)) for name in hourly})
    found = flow(to_host(wide), *to_host((active, spread(reactive))))
    volts = np.array(found.voltage)
    over, under = volts - grid.voltage_max[:, None], grid.voltage_min[:, None] - volts
    over[np.asarray(grid.feeder)] = under[np.asarray(grid.feeder)] = -np.inf
    total = np.sum(found.exchange, axis=0, keepdims=True)
    tables = (over, under, found.current, total, -total, ~np.asarray(found.ok)[None])

    def most(table: Any) -> np.ndarray:
        return np.max(np.asarray(table, float).reshape(-1, many, steps), axis=1)

    above, below, current, drawn, fed, failed = map(most, tables)
    return above, below, current, drawn[0], fed[0], failed[0]
