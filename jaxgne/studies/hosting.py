"""How far what a grid carries may grow with a plan held, by each model of it, and how steeply.

Loads or the sun grow by a factor, generators, storage, trades and what is curtailed stay: what
buses draw is then linear in the factor, and the largest factor at which a model's limits all hold
is a root, found by bisection, about which voltages and currents have derivatives.
"""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from ..acflow import drawn, flow
from ..each import for_each
from ..linear_flow import grid_state
from ..market import Market
from ..model import Plan
from ..programs import program
from ..record import changed
from ..runner import jnp

Grown = Literal["load", "sun"]
GROWN = ("load", "sun")

_MOST = 64.0  # the largest factor that is tried
_NEAR = 1e-7  # of a factor, to which it is found
_LEAST = 1e-9  # kVA, which stands for a rating of 0


class Hosting(NamedTuple):
    """The largest factor, which limit is met there, and what moves it."""

    factor: float
    limit: str  # "lowest voltage", "highest voltage" or "rating"
    row: int  # of the bus, or the line
    hour: int
    slope: float  # of that voltage, pu, or share of the rating in use, by the factor


def grown(market: Market, factor: Any, of: Grown = "load") -> Market:
    """The market with `factor` times what is drawn, passive loads included, or times the sun.

    The sun is what may be curtailed, and what loads feed in without; reactive power goes with
    loads. As the question is what the grid carries, the limit on the total exchange on that side
    grows as well, but never shrinks.
    """
    people, grid, tariff = market.prosumers, market.grid, market.tariff
    sun = jnp.maximum(people.curtail_max, -jnp.minimum(people.load, 0.0))
    wider = jnp.maximum(factor, 1.0)
    if of == "sun":
        new = {
            "load": people.load - (factor - 1) * sun,
            "curtail_max": factor * people.curtail_max,
            "export_max": people.export_max + (factor - 1) * jnp.minimum(people.export_max, sun),
        }
        priced = changed(tariff, total_min=jnp.minimum(tariff.total_min, wider * tariff.total_min))
        return changed(market, prosumers=changed(people, **new), tariff=priced)
    new = {"load": factor * (people.load + sun) - sun, "reactive": factor * people.reactive}
    passive = {name: factor * getattr(grid, name) for name in ("passive", "passive_reactive")}
    priced = changed(tariff, total_max=jnp.maximum(tariff.total_max, wider * tariff.total_max))
    return changed(
        market, prosumers=changed(people, **new), grid=changed(grid, **passive), tariff=priced
    )


def hosting(market: Market, plan: Plan, *, ac: bool, of: Grown = "load") -> Hosting | None:
    """The largest factor up to which the grid with the plan keeps its limits; None without one.

    `ac` is by the AC power flow, of which no solution is a limit too, else by the market's own
    linear model. None where limits are broken whatever the factor, or hold up to 64 times.
    """

    def kept(factor: float) -> bool:
        return bool(np.max(_beyond(market, plan, factor, ac, of)) <= 0)

    low, high = 0.0, 1.0
    while kept(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    if low == 0 and not kept(low):
        return None
    while high - low > _NEAR * high:
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) else (low, middle)
    beyond = np.asarray(_beyond(market, plan, low, ac, of))
    place, hour = np.unravel_index(int(beyond.argmax()), beyond.shape)
    buses = market.grid.passive.shape[0]
    kind, row = divmod(int(place), buses)
    if kind > 1:
        kind, row = 2, int(place) - 2 * buses

    slope = float(_slopes(market, plan, jnp.asarray(low), ac, of)[place, hour])
    limit = ("lowest voltage", "highest voltage", "rating")[kind]
    return Hosting(low, limit, row, int(hour), -slope if kind == 0 else slope)


@for_each
def _beyond(market: Market, plan: Plan, factor: Any, ac: bool, of: Grown) -> Float[Array, "R H"]:
    """How far voltages are below and above limits, pu, and flows beyond, in shares of ratings.

    Above 0 a limit is broken; infinite where the AC power flow has no solution.
    """
    at = grown(market, factor, of)
    grid, (active, reactive) = at.grid, drawn(at, plan)
    if ac:
        found = flow(grid, active, reactive)
        voltage, used, ok = found.voltage, found.current, jnp.all(found.ok)
    else:
        state = grid_state(at, active, reactive)
        voltage = jnp.maximum(state["voltage"], 0.0) ** (1 / grid.model.power)
        squares = state["active"] ** 2 + state["reactive"] ** 2
        used = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) * (squares > 0)
        ok = jnp.all(state["voltage"] > 0)
    free = jnp.ones(active.shape[0], bool).at[grid.feeder].set(False)[:, None]
    low = jnp.where(free, grid.voltage_min[:, None] - voltage, -1.0)
    high = jnp.where(free, voltage - grid.voltage_max[:, None], -1.0)
    over = used / jnp.maximum(grid.rating, _LEAST)[:, None] - 1
    return jnp.where(ok, jnp.concatenate([low, high, over]), jnp.inf)


@program("what moves the limits", once=True)
def _slopes(
    market: Market, plan: Plan, factor: Float[Array, ""], ac: bool, of: Grown
) -> Float[Array, "R H"]:
    """What `_beyond` changes by with the factor."""
    one = jnp.ones_like(factor)
    return jax.jvp(lambda f: _beyond(market, plan, f, ac, of), (factor,), (one,))[1]
