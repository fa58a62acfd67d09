"""What buses and lines see of a plan, by the grid's own model and by an AC power flow."""

from collections.abc import Callable
from operator import attrgetter as get
from typing import Any

import numpy as np

from ..grids import ampere
from ..model import has_state, passive_prices, voltages
from ..radial import loops
from ._record import Column, Family, given
from ._told import Told, by_hour


def _voltage(told: Told) -> Any:
    """The model's, where that determines it."""
    if has_state(told.market):
        return told.each(voltages, told.clearing.plan)
    return np.full(np.shape(told.market.grid.passive), np.nan)


def _ac_voltage(told: Told) -> np.ndarray:
    if told.market.grid.model.networked:
        return told.ac["voltage"]
    return np.full(np.shape(told.market.grid.passive), np.nan)


def _price(told: Told) -> np.ndarray:
    prices = told.prices
    asked = told.each(passive_prices, told.clearing.plan)
    return asked + by_hour(prices.aggregate + prices.exchange) + prices.bus


def _active(told: Told) -> np.ndarray:
    """Where the model determines it: without a state there, flows around loops are open."""
    known = has_state(told.market) or not loops(told.market.grid)
    return told.plan.active if known else np.full(np.shape(told.plan.active), np.nan)


def _reactive(told: Told) -> np.ndarray:
    known = has_state(told.market)
    return told.plan.reactive if known else np.full(np.shape(told.plan.reactive), np.nan)


def _loading(told: Told, apparent: np.ndarray) -> np.ndarray:
    """The share of the rating in use, percent; NaN where that is 0."""
    rating = np.asarray(told.market.grid.rating)[..., None]
    undefined = np.full_like(apparent, np.nan)
    return np.divide(100 * apparent, rating, out=undefined, where=rating > 0)


BUSES = Family(
    "buses",
    "bus",
    "bus",
    (
        given("Grid.passive"),
        given("Grid.passive_reactive"),
        Column("drawn", "kW", "active power drawn by all at the bus", lambda t: t.drawn[0]),
        Column(
            "compensation",
            "kvar",
            "reactive power given by inverters and compensators",
            get("plan.compensation"),
        ),
        Column(
            "drawn_reactive",
            "kvar",
            "reactive power drawn by all at the bus",
            lambda t: t.drawn[1],
            written="drawn_kvar",
        ),
        Column("voltage", "pu", "voltage by the grid's model", _voltage),
        Column("ac_voltage", "pu", "voltage by an AC power flow", _ac_voltage),
        Column("energy_price", "EUR/kWh", "price of active power at the bus", _price),
    ),
)


def _lineless(told: Told) -> str | None:
    return None if told.market.grid.model.networked else "a copperplate market has no lines."


LINES = Family(
    "lines",
    "line",
    "line",
    (
        given("Grid.source"),
        given("Grid.target"),
        given("Grid.rating"),
        Column("active", "kW", "active power from source to target", _active),
        Column("reactive", "kvar", "reactive power from source to target", _reactive),
        Column(
            "loading",
            "percent",
            "share of the rating in use, by the grid's model",
            lambda t: _loading(t, np.hypot(t.plan.active, _reactive(t))),
        ),
        Column(
            "ac_loading",
            "percent",
            "share of the rated current in use, by an AC power flow",
            lambda t: _loading(t, t.ac["current"]),
        ),
        Column("ac_losses", "kW", "losses by an AC power flow", lambda t: t.ac["losses"]),
    ),
    _lineless,
)


def in_ampere(kv: Any) -> tuple[Column, ...]:
    """Further columns of lines: ratings and currents, for a nominal voltage line to line, kV."""

    def volts(told: Told) -> np.ndarray:
        grid = told.market.grid
        own = (np.asarray(kv) + np.zeros(np.shape(grid.rating)))[..., None]
        return own / 3 if grid.model.phased else own  # kVA are a third of those of all phases

    def rated(told: Told) -> Any:
        return ampere(np.asarray(told.market.grid.rating)[..., None], volts(told))[..., 0]

    def current(told: Told) -> Any:
        return ampere(told.ac["current"], volts(told))

    return (
        Column("rated_current", "A", "rated current", rated, False, "rating_a"),
        Column("ac_current", "A", "current by an AC power flow", current),
    )


def _part(name: str, means: str, of: Callable[[Told], Any]) -> Column:
    return Column(name, "EUR/kWh", means, of)


def _energy(parts: Any) -> np.ndarray:
    """The main grid's price at each bus, which is one for all where there are no zones."""
    energy = np.asarray(parts.energy)
    return energy if energy.ndim == np.ndim(parts.limit) else by_hour(energy)


def _total(told: Told) -> np.ndarray:
    parts = told.parts
    return _energy(parts) + parts.limit + parts.lines + parts.voltage + parts.losses


def _pathless(told: Told) -> str | None:
    return None if told.radial else "Grid.source/target: give a radial grid."


PRICE_PARTS = Family(
    "price_parts",
    "bus",
    "price_part",
    (
        _part("energy", "price of the main grid", lambda t: _energy(t.parts)),
        _part("limit", "what the limit on the total exchange adds", get("parts.limit")),
        _part("lines", "what full lines on the way add", get("parts.lines")),
        _part("voltage", "what voltages at their limits add", get("parts.voltage")),
        _part("losses", "what losses about an AC state add", get("parts.losses")),
        _part("total", "price of active power at the bus, the sum of its parts", _total),
    ),
    _pathless,
)
