"""What a market says before anyone believes its prices: one page of figures, doubts and limits.

Totals are told in units that people have a feeling for (kWh a day of a customer, share of a line's
rating), and named doubtful where they are far from what is usual. Then whether there is a plan at
all, and which limits bind in it, with names and times.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .acflow import MOST_LOOPS, flow
from .clearing import clear
from .clock import hour_name
from .each import for_one
from .indicators import AT_LIMIT, VOLTAGE_AT_LIMIT
from .market import Market, bus_name, line_name
from .model import aggregate, has_state, voltages
from .radial import loops
from .relaxation import relax
from .result import Clearing, NotCleared
from .runner import by_numpy, to_host
from .status import status_name
from .validation import problems, structure, validate

_SHOWN = 5  # places and limits of a kind that are told
_BATCH = "take one of them, jg.scenarios.lane(markets, k)"


class Figure(NamedTuple):
    """Least, middle and most of something, which is usually `within`; None where nothing is."""

    name: str
    unit: str
    least: float
    middle: float
    most: float
    within: tuple[float, float]
    hint: str  # what is wrong where the middle is not

    @property
    def doubtful(self) -> bool:
        """Whether the middle is not what is usual."""
        return not self.within[0] <= self.middle <= self.within[1]

    def __str__(self) -> str:
        ends = " to ".join(dict.fromkeys(_short(end) for end in (self.least, self.most)))
        middle = f", half below {_short(self.middle)}" if self.least < self.most else ""
        return f"{ends} {self.unit}".rstrip() + middle


class Binding(NamedTuple):
    """A limit that a plan reaches, at one place, in which steps."""

    limit: str
    place: str
    hours: float
    when: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.when) - _SHOWN
        times = ", ".join(self.when[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{self.limit} of {self.place}, {self.hours:g} h: {times}"


@dataclass(frozen=True)
class Check:
    """What was found: sentences about what is `wrong`, `doubtful` figures and words, the outcome.

    `status` is that of the clearing, empty where there was none; `sentence` says why there is no
    plan, and `relaxed` what would have to give way.
    """

    figures: tuple[Figure, ...]
    wrong: tuple[str, ...]
    doubtful: tuple[str, ...]
    status: str
    sentence: str
    relaxed: tuple[str, ...]
    binds: tuple[Binding, ...]
    about: str

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        figures = [one._asdict() | {"doubtful": one.doubtful} for one in self.figures]
        binds = [one._asdict() for one in self.binds]
        return {"wrong": self.wrong, "doubtful": self.doubtful, "figures": figures} | {
            "status": self.status, "sentence": self.sentence, "relaxed": self.relaxed,
            "binds": binds,
        }  # fmt: skip

    def __str__(self) -> str:
        width = max((len(one.name) for one in self.figures), default=0)
        parts = {
            "Wrong": self.wrong,
            "Figures": [f"{one.name:<{width}}  {one}" for one in self.figures],
            "Doubtful": self.doubtful,
            "Outcome": [line for line in (self._outcome(), *self.relaxed) if line],
            "Binding": [str(one) for one in self.binds],
        }
        told = [
            "\n".join([title, *(f"  {line}" for line in lines)])
            for title, lines in parts.items()
            if lines
        ]
        return "\n\n".join([self.about, *told])

    def _outcome(self) -> str:
        if self.status != "cleared":
            return self.sentence
        limits = "no limit binds" if not self.binds else f"{len(self.binds)} limits bind"
        return f"there is a plan, and an equilibrium was found; {limits}"


@for_one(_BATCH)
def check(market: Market, *, cleared: bool = True) -> Check:
    """What is wrong, doubtful, out of reach and scarce in a market.

    What has no plan says what must give way. Without `cleared` nothing is solved: whether there is
    a plan stays open.
    """
    about = str(market)
    wrong = tuple(problems(market))
    if wrong:
        possible = cleared and not structure(market)  # if only without a plan, as far as one knows
        return Check((), wrong, (), *(_outcome(market) if possible else ("", "", (), ())), about)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validate(market)
    figures = tuple(_figures(market))
    doubtful = [str(one.message) for one in caught]
    doubtful += [
        f"{one.name}: {one}; usual are {_short(one.within[0])} to {_short(one.within[1])}; "
        f"{one.hint}"
        for one in figures
        if one.doubtful
    ]
    status, sentence, relaxed, binds = "", "", (), ()
    if cleared:
        status, sentence, relaxed, binds = _outcome(market)
    return Check(figures, wrong, tuple(doubtful), status, sentence, relaxed, binds, about)


def _outcome(market: Market) -> tuple[str, str, tuple[str, ...], tuple[Binding, ...]]:
    """The status of its clearing, why there is none, what must give way, and what binds."""
    try:
        clearing = clear(market)
    except NotCleared as stop:
        status = status_name(stop.clearing.status)
        if status != "infeasible":
            return status, str(stop), (), ()
        try:
            return status, str(stop), relax(market).lines[:_SHOWN], ()
        except ValueError as error:
            return status, str(stop), (str(error),), ()
    return "cleared", "", (), tuple(_binding(market, clearing))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _figure(
    name: str, unit: str, values: Any, within: tuple[float, float], hint: str
) -> Iterator[Figure]:
    """A figure of what is finite; none where nothing is."""
    found = np.asarray(values, float).ravel()
    found = found[np.isfinite(found)]
    if found.size:
        ends = (float(found.min()), float(np.median(found)), float(found.max()))
        yield Figure(name, unit, *ends, within, hint)


def _figures(market: Market) -> Iterator[Figure]:
    """What people know of such markets."""
    people, stores, tariff, grid = market.prosumers, market.buffers, market.tariff, market.grid
    load, sun = np.asarray(people.load, float), np.asarray(people.curtail_max, float)
    drawn = np.maximum(load + np.maximum(sun, 0.0), 0.0)
    hours = np.asarray(market.hour_length, float) * np.asarray(market.weight, float)
    some = drawn.max(axis=1, initial=0.0) > 0
    daily = 24 * (drawn @ hours) / hours.sum()
    units = "are loads in kW, not MW or W?"
    yield from _figure("energy of a customer", "kWh a day", daily[some], (0.5, 20_000), units)
    peaks = drawn.max(axis=1, initial=0.0)[some]
    yield from _figure("peak of a customer", "kW", peaks, (0.1, 2_000), units)
    panels = sun.max(axis=1, initial=0.0)
    hint = "is generation in kW?"
    yield from _figure("generation of an owner", "kW", panels[panels > 0], (0.1, 5_000), hint)
    size = np.asarray(stores.energy_max, float).max(axis=1, initial=0.0)
    power = np.asarray(stores.charge_max, float).max(axis=1, initial=0.0)
    full = np.divide(size, power, out=np.full(len(size), np.nan), where=power > 0)
    hint = "are contents in kWh and powers in kW?"
    yield from _figure("hours to fill a buffer", "h", full, (0.25, 100), hint)
    yield from _figure(
        "price of the main grid", "EUR/kWh", tariff.base, (-0.5, 1.0), "are prices in EUR, not ct?"
    )
    yield from _figure("price of exports", "EUR/kWh", tariff.export, (-0.5, 1.0), "is it in EUR?")
    yield from _figure("toll of a trade", "EUR/kWh", market.trading.toll, (0, 0.5), "is it in EUR?")
    if grid.model.networked and len(np.asarray(grid.source)):
        yield from _network_figures(market, drawn)


def _network_figures(market: Market, drawn: np.ndarray) -> Iterator[Figure]:
    """Lines and voltages where loads alone are served, without any generation, by AC."""
    grid = to_host(market.grid)
    resistance, reactance = np.asarray(grid.resistance, float), np.asarray(grid.reactance, float)
    ratio = np.divide(
        resistance, reactance, out=np.full(len(resistance), np.nan), where=reactance > 0
    )
    hint = "are resistance and reactance exchanged?"
    yield from _figure("r/x of lines", "", ratio, (0.02, 50), hint)
    if loops(grid) > MOST_LOOPS:
        return
    active, reactive = grid.passive.astype(float), grid.passive_reactive.astype(float)
    np.add.at(active, np.asarray(market.prosumers.bus), drawn)
    np.add.at(reactive, np.asarray(market.prosumers.bus), np.asarray(market.prosumers.reactive))
    with by_numpy():
        found = flow(grid, active, reactive)
    if not np.all(found.ok):
        return
    rating = np.asarray(grid.rating, float)[:, None]
    used = 100 * np.max(np.where(rating > 0, np.asarray(found.current) / rating, np.nan), axis=1)
    used = used[np.isfinite(rating[:, 0])]
    hint = "are ratings in kVA, impedances in pu/kW?"
    yield from _figure("lines with loads alone", "% of the rating", used, (0.01, 150), hint)
    lowest = np.asarray(found.voltage).min(axis=1)
    yield from _figure("voltage with loads alone", "pu", lowest, (0.8, 1.15), hint)


def _binding(market: Market, clearing: Clearing) -> Iterator[Binding]:
    """Limits of lines, voltages, the total exchange and caps that a plan reaches; longest first."""
    found = [*_of_network(market, clearing), *_of_total(market, clearing)]
    yield from sorted(found, key=lambda one: -one.hours)


def _bound(market: Market, limit: str, names: Any, at: np.ndarray) -> Iterator[Binding]:
    hours = np.asarray(market.hour_length, float)
    for row in np.flatnonzero(at.any(axis=1)).tolist():
        steps = np.flatnonzero(at[row])
        when = tuple(hour_name(market, step) for step in steps.tolist())
        yield Binding(limit, names(row), float(hours[steps].sum()), when)


def _of_network(market: Market, clearing: Clearing) -> Iterator[Binding]:
    grid, plan = market.grid, clearing.plan
    if not has_state(market):
        return
    used = np.hypot(np.asarray(plan.active, float), np.asarray(plan.reactive, float))
    full = used >= (1 - AT_LIMIT) * np.asarray(grid.rating, float)[:, None]
    yield from _bound(market, "rating", lambda row: f"line {line_name(grid, row)}", full)
    volts = np.asarray(voltages(market, plan), float)
    low, high = (np.asarray(a, float)[:, None] for a in (grid.voltage_min, grid.voltage_max))
    free = ~np.isin(np.arange(len(volts)), np.asarray(grid.feeder))[:, None]
    for limit, at in (
        ("lowest voltage", volts <= low + VOLTAGE_AT_LIMIT),
        ("highest voltage", volts >= high - VOLTAGE_AT_LIMIT),
    ):
        yield from _bound(market, limit, lambda row: f"bus {bus_name(grid, row)}", at & free)


def _of_total(market: Market, clearing: Clearing) -> Iterator[Binding]:
    net = np.asarray(aggregate(market, clearing.plan), float)
    net = net - np.asarray(clearing.plan.exports, float).sum(axis=0)
    near = AT_LIMIT * float(clearing.certificate.scales.total)
    tariff = market.tariff
    for limit, at in (
        ("most exchange", net >= np.asarray(tariff.total_max, float) - near),
        ("least exchange", net <= np.asarray(tariff.total_min, float) + near),
    ):
        yield from _bound(market, limit, lambda _: "the transformer", at[None])
    caps = market.caps
    if caps.names and clearing.plan.level is not None:
        level, most = np.asarray(clearing.plan.level, float), np.asarray(caps.level_max, float)
        with np.errstate(invalid="ignore"):
            at = level >= most - AT_LIMIT * np.abs(most)
        yield from _bound(market, "highest level", lambda row: f"cap {caps.names[row]}", at)
