"""Margins: how much limits are tightened, so that a plan holds them whatever loads turn out to be.

The rule is that of a plan that nobody changes: devices do as planned, and the main grid meets what
loads and sun are more or less than foreseen. Then flows, voltages and the total are linear in the
errors, and the worst of a box of errors is, for each limit by itself, a sum of absolute values
(its support function): exact on the linear model of a radial grid, for lines as far as a disc can
be told by active and reactive power apart.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from .clock import in_hour
from .each import for_one
from .linear_flow import answers, check_linear
from .market import Market, bus_name, line_name
from .programs import program
from .record import Record, changed
from .runner import jnp
from .scenarios.sun import sun_of
from .validation import gate


class Errors(Record):
    """Relative errors of forecasts: of gross loads, active and reactive, and of the sun.

    One row a prosumer, or one for all. Passive consumers are as foreseen.
    """

    load: Float[Array, "n H"]
    sun: Float[Array, "n H"]


class Margins(Record):
    """How far each limit is moved in, at least 0.

    Limits of voltages and angles hold in all hours, and so do their margins; voltages are in pu,
    squared where the grid model keeps squares.
    """

    voltage_min: Float[Array, " B"]
    voltage_max: Float[Array, " B"]
    angle: Float[Array, " B"]  # rad, either way
    line: Float[Array, " L"]  # kVA less
    total: Float[Array, " H"]  # kW, either way


def with_errors(market: Market, sun: Float[Array, "N H"], errors: Errors) -> Market:
    """The market whose loads and sun came out otherwise; traceable.

    What of the sun may be left unused stays the same share of it, and so does an `export_max` that
    is the sun; other limits stay.
    """
    people = market.prosumers
    gross, more, shine = people.load + sun, 1 + errors.load, 1 + errors.sun
    close = jnp.abs(people.export_max - sun) <= 1e-5 * jnp.abs(sun)
    solar = jnp.all(close, axis=1, keepdims=True) & jnp.any(sun > 0, axis=1, keepdims=True)
    moved = changed(
        people,
        load=gross * more - sun * shine,
        reactive=people.reactive * more,
        curtail_max=people.curtail_max * shine,
        export_max=people.export_max * jnp.where(solar, shine, 1.0),
    )
    return changed(market, prosumers=moved)


@for_one()
def margins(
    market: Market, error: float, *, generation: Any = None, common: bool = False
) -> Margins:
    """What loads and sun that are wrong by up to a share `error` do to each limit at worst.

    Each prosumer and hour has errors of its own, of its gross load and of its sun; with `common`
    all prosumers have the same in an hour. `generation` is the sun in kW by prosumer and hour,
    where `Prosumers.curtail_max` does not tell all of it.

    Raises `ValueError` for an error below 0, sun that is not known, lines that close loops, and a
    market about an AC state.
    """
    gate(market, "margins")
    if not error >= 0:
        raise ValueError(f"margins: error={error:g}; give a share of 0 or more.")
    check_linear("margins", market)
    sun = jnp.asarray(sun_of("margins", market, generation), market.prosumers.load.dtype)
    return _margins(market, sun, jnp.asarray(error, sun.dtype), common=common)


@for_one()
def tightened(market: Market, margins: Margins) -> Market:
    """The market whose limits are moved in by `margins`: a plan that clears it is safe for them.

    Limits may cross: then no plan is. A rating is at least 0.
    """
    grid, tariff = market.grid, market.tariff
    power = grid.model.power if grid.model.networked else 1
    low = (grid.voltage_min**power + margins.voltage_min) ** (1 / power)
    high = jnp.maximum(grid.voltage_max**power - margins.voltage_max, 0.0) ** (1 / power)
    grid = changed(
        grid,
        voltage_min=low,
        voltage_max=high,
        angle_min=grid.angle_min + margins.angle,
        angle_max=grid.angle_max - margins.angle,
        rating=jnp.maximum(grid.rating - margins.line, 0.0),
    )
    tariff = changed(
        tariff,
        total_min=tariff.total_min + margins.total,
        total_max=tariff.total_max - margins.total,
    )
    return changed(market, grid=grid, tariff=tariff)


def crossed(market: Market, margins: Margins) -> str:
    """Which limit has no room left between margins, in words; nothing where all have."""
    grid, tariff = market.grid, market.tariff
    tight = tightened(market, margins)
    inner = np.setdiff1d(np.arange(grid.passive.shape[0]), np.asarray(grid.feeder))
    for name in grid.model.states if grid.model.networked else ():
        ends = (getattr(tight.grid, f"{name}_{end}") for end in ("max", "min"))
        room = np.subtract(*(np.asarray(end)[inner] for end in ends))
        if room.size and room.min() < 0:
            bus = bus_name(grid, int(inner[room.argmin()]))
            return f"limits of the {name} at bus {bus} leave no room for errors either way"
    if grid.model.networked:
        room = np.asarray(grid.rating - margins.line)
        if room.size and room.min() < 0:
            line = line_name(grid, int(room.argmin()))
            return f"errors alone are more than the rating of line {line}"
    room = np.asarray(tariff.total_max - tariff.total_min - 2 * margins.total)
    if room.min() < 0:
        step = int(room.argmin())
        return f"limits of the total leave no room for errors either way {in_hour(market, step)}"
    return ""


@program("margins of limits")
def _margins(market: Market, sun: Array, error: Array, *, common: bool) -> Margins:
    people, grid = market.prosumers, market.grid
    gross = people.load + sun

    def worst(active: Array, reactive: Array) -> Float[Array, "R H"]:
        """By how much rows are moved that answer so to a kW and a kvar of each prosumer."""
        if common:
            loads = jnp.abs(active @ gross + reactive @ people.reactive)
            return error * (loads + jnp.abs(active @ sun))
        loads = jnp.abs(active[:, :, None] * gross + reactive[:, :, None] * people.reactive)
        return error * (jnp.sum(loads, axis=1) + jnp.abs(active) @ sun)

    nothing, by_bus = jnp.zeros_like(grid.rating), jnp.zeros_like(grid.voltage_min)
    found = {"voltage": by_bus, "angle": by_bus, "active": nothing, "reactive": nothing}
    if grid.model.networked:
        by_active, by_reactive = answers(market)
        for name in ("active", "reactive", *grid.model.states):
            worse = worst(by_active[name], by_reactive[name])
            found[name] = jnp.max(worse, axis=1, initial=0.0)
    ones = jnp.ones((1, gross.shape[0]), gross.dtype)
    total = worst(ones, jnp.zeros_like(ones))[0]
    line = jnp.hypot(found["active"], found["reactive"])
    return Margins(found["voltage"], found["voltage"], found["angle"], line, total)
