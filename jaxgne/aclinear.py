"""The linear model about an AC state, whose equilibria are those of the AC game if it stands still.

Its rows hold there exactly, and costs of flows make up for what its derivatives lack, by the last
prices (Diehl, Walther, Bock, Kostina, Optimization Methods and Software 25(4), 2010: steps with
inexact Jacobians and exact gradients). For a round costs bend as losses do, as second derivatives
of the Lagrangian do in sequential quadratic programming.
"""

from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Float

from .acflow import Flow, drawn, flow
from .certificate import certify
from .incidence import across, fallen, left, ratios, seen
from .linear_flow import worths
from .market import Grid, Market, cast
from .model import Plan, Rows, at_passive, counted, grid_price, length, pull
from .payoffs import costs, own_gradient
from .plan import aggregate, zone_totals
from .programs import program
from .record import Record, changed
from .result import Clearing, NotCleared
from .runner import built, hosted, jnp, wide
from .tables import has_zones
from .tangent import Tangent

_VOLTAGE, _LOADING = 1e-6, 1e-4  # pu, and share of a rating, by which limits may be missed
_NONE = 1e-6  # kVA, up to which a line that is rated 0 carries nothing


class Point(Record):
    """What all buses draw, and which limits of the network have which multipliers."""

    active: Float[Array, "B H"]  # kW
    reactive: Float[Array, "B H"]  # kvar
    states: dict[str, Float[Array, "B H"]]  # EUR per unit of each
    loading: Float[Array, "L H"]  # EUR/kVA, of the current
    energy: Float[Array, "#B H"]  # EUR/kWh, what losses cost at each bus, where zones differ


def solved(at: Point, now: Clearing, market: Market) -> Flow:
    """The AC state of a point. `NotCleared` where there is none."""
    state = flow(market.grid, at.active, at.reactive)
    if not np.all(np.asarray(state.ok)):
        raise NotCleared(
            "clear_ac: the AC power flow of the plan has no solution; lower loads or ratings.",
            now,
            market,
        )
    return state


@program("the multipliers of the network's limits", once=True)
def point_of(market: Market, plan: Plan, prices: Rows) -> Point:
    """What a plan draws, and the multipliers that its prices tell."""
    with wide():
        market, plan, prices = cast((market, plan, prices), jnp.float64)
        price = grid_price(market, zone_totals(market, plan))
        force = jax.tree.map(jnp.add, own_gradient(market, plan, price), pull(market, prices))
        active, reactive = drawn(market, plan)
        # a flow at its rating is pushed outward by as much as the rating is worth
        size = length(plan.active, plan.reactive)
        outward = -(force.active * plan.active + force.reactive * plan.reactive)
        held = (size > 0) & jnp.isfinite(market.grid.radius)
        pressed = jnp.where(held, outward / jnp.where(size > 0, size, 1.0), 0.0)
        # of kVA on the line; of its current by how much this is of that
        rated = held & (market.grid.rating > 0)[:, None]
        radius, rating = (
            jnp.where(rated, most, 1.0)
            for most in (market.grid.radius, market.grid.rating[:, None])
        )
        share = radius / rating
        fed = jnp.zeros(active.shape[0], bool).at[market.grid.feeder].set(True)[:, None]
        # on the gauge of a clearing, without an exchange price
        energy = at_passive(market, price) + prices.aggregate
        return Point(
            active,
            reactive,
            states={n: jnp.where(fed, 0.0, -getattr(force, n)) for n in market.grid.model.states},
            loading=jnp.maximum(pressed, 0.0) * share,
            energy=energy,
        )


def about(market: Market, at: Point, state: Flow, bent: bool = False) -> Market:
    """The market with its grid's linear model about an AC state; `bent`, with curved losses."""
    tangent = tangent_of(market, at, state)
    return laid(market, _bent(market, tangent, at, state) if bent else tangent)


@program("the curvature of losses", once=True)
def _bent(market: Market, tangent: Tangent, at: Point, state: Flow) -> Tangent:
    """The tangent with what losses bend the costs of flows by; its slopes at the state stay.

    A conductor loses r (p^2 + q^2) / v^2, whose second derivatives are 2 r / v^2: nearly all that
    the second derivative of the AC game has where no voltage binds.
    """
    with wide():
        market, tangent, at = cast((market, tangent, at), jnp.float64)
        grid = market.grid
        near, _ = seen(grid, state.voltage)
        worth = at.energy[grid.target] if has_zones(market) else at.energy
        bend = jnp.maximum(2 * worth * grid.resistance[:, None] / near**2, 0.0)
        return replace(
            tangent,
            active=tangent.active - bend * state.active,
            reactive=tangent.reactive - bend * state.reactive,
            bend=bend,
        )


@built
def laid(market: Market, tangent: Tangent) -> Market:
    """The market with a tangent, whose losses are loads at buses."""
    tangent = cast(tangent, market.prosumers.load.dtype)
    grid = market.grid
    return changed(
        market,
        grid=changed(
            grid,
            passive=grid.passive + tangent.losses,
            passive_reactive=grid.passive_reactive + tangent.losses_reactive,
            tangent=tangent,
        ),
    )


@built
def eased(market: Market, state: Flow, share: float) -> Market:
    """Limits that an AC state misses give way by a share of what they are missed by.

    Where `share` is 1 the model about the state has a plan, that of the state itself. So Powell
    relaxes constraints that have no solution together (Lecture Notes in Mathematics 630, 1978).
    Voltage limits have one number for all hours, and give way in all of them.
    """
    grid = market.grid
    if grid.tangent is None or share == 0:
        return market
    rating = jnp.where(grid.rating > 0, grid.rating, jnp.inf)[:, None]
    over = jnp.maximum(state.current / rating - 1, 0.0)
    volts = state.voltage
    under = jnp.max(jnp.maximum(grid.voltage_min[:, None] - volts, 0.0), axis=1)
    above = jnp.max(jnp.maximum(volts - grid.voltage_max[:, None], 0.0), axis=1)
    moved = cast(
        (
            grid.tangent.rating * (1 + share * over),
            grid.voltage_min - share * under,
            grid.voltage_max + share * above,
        ),
        market.prosumers.load.dtype,
    )
    wider = replace(grid.tangent, rating=moved[0])
    grid = changed(grid, tangent=wider, voltage_min=moved[1], voltage_max=moved[2])
    return changed(market, grid=grid)


@program("the AC power flow's derivatives", once=True)
def tangent_of(market: Market, at: Point, state: Flow) -> Tangent:
    """What makes rows hold at an AC state, and prices those of its derivatives."""
    with wide():
        market, at = cast((market, at), jnp.float64)
        grid, ts = market.grid, counted(market)
        free = jnp.ones(at.active.shape[0], bool).at[grid.feeder].set(False)[:, None]
        out = left(grid, state.active, state.reactive)
        losses = _at_buses(grid, at.active, state)
        inert = jnp.where(free, -(at.reactive + out[1]), 0.0)
        offset = {}
        for name, ratio in ratios(grid).items():
            near, far = seen(grid, states(grid, state)[name])
            fall = fallen(grid, name, state.active, state.reactive)
            offset[name] = near / ratio[:, None] - far - fall
        size = length(state.active, state.reactive)
        used = (state.current > 0) & (size > 0)
        share = jnp.where(used, size / jnp.where(used, state.current, 1.0), 1.0)

        def truth(active: Array, reactive: Array) -> Array:
            found = flow(grid, active, reactive)
            lost = jnp.sum(found.losses, axis=0, keepdims=True)
            lost = _at_buses(grid, active, found) if has_zones(market) else lost
            worth = jnp.sum(ts * at.energy * lost)
            worth += sum(jnp.sum(at.states[n] * a) for n, a in states(grid, found).items())
            return worth + jnp.sum(at.loading * found.current)

        exact = jax.grad(truth, argnums=(0, 1))(at.active, at.reactive)
        outward = at.loading / share / jnp.where(size > 0, size, 1.0)
        flows = {"active": outward * state.active, "reactive": outward * state.reactive}
        linear = worths(grid, at.states | flows)
        more = [(a - b) / ts for a, b in zip(exact, linear, strict=True)]
        by_active, by_reactive = across(grid, *more)
        rated = jnp.isfinite(grid.rating)[:, None]
        rating = jnp.where(rated, jnp.where(rated, grid.rating[:, None], 1.0) * share, jnp.inf)
        return Tangent(losses, inert, offset, -by_active, -by_reactive, rating)


def _at_buses(grid: Grid, active: Float[Array, "B H"], state: Flow) -> Float[Array, "B H"]:
    """Losses of an AC state by the bus whose balance has them, kW, where buses draw `active`."""
    losses = -(active + left(grid, state.active, state.reactive)[0])
    return losses.at[grid.feeder].add(state.exchange)  # where lines end at a feeder


def states(grid: Grid, state: Flow) -> dict[str, Float[Array, "B H"]]:
    """The states that the grid's model has, as it has them."""
    found = {"voltage": state.voltage**grid.model.power, "angle": state.angle}
    return {name: found[name] for name in grid.model.states}


@built
def with_state(market: Market, found: Clearing, state: Flow) -> Clearing:
    """The clearing with the AC state as its plan's network, judged on the model about that."""
    dtype = found.plan.active.dtype
    names = {"active": state.active, "reactive": state.reactive, "exchange": state.exchange}
    names |= states(market.grid, state)
    plan = replace(found.plan, **{name: a.astype(dtype) for name, a in names.items()})
    judged = certify(market, plan, found.prices)
    sigma, paid = aggregate(market, plan), costs(market, plan)
    return replace(found, plan=plan, aggregate=sigma, costs=paid, certificate=judged)


def kept(state: Flow, market: Market) -> bool:
    """Whether the AC state keeps the limits of the grid."""
    outside, over = missed(state, market.grid)
    return outside <= _VOLTAGE and over <= _LOADING


@hosted
def missed(state: Flow, grid: Grid) -> tuple[float, float]:
    """How far an AC state is outside of limits at most: pu, and share of a rating."""
    free = np.ones(len(grid.voltage_min), bool)
    free[np.asarray(grid.feeder)] = False
    low, high = (np.asarray(a)[:, None] for a in (grid.voltage_min, grid.voltage_max))
    volts, current = np.asarray(state.voltage), np.asarray(state.current)
    outside = np.max(np.maximum(low - volts, volts - high)[free], initial=0.0)
    rating = np.asarray(grid.rating)[:, None]
    used = np.divide(current, rating, out=np.where(current > _NONE, np.inf, 0.0), where=rating > 0)
    return float(outside), float(np.max(used - 1, initial=0.0))
