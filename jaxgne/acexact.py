"""Clearings on the AC power flow itself: losses are bought and priced, and limits are those of AC.

The game has AC power flow equations where `clear` has a linear model: the operator buys the losses
of its lines on the main grid, which counts them in its price, and everybody's prices carry what one
more kW changes of losses, voltages and currents. That is not convex; what is found is a local
equilibrium (Scarabaggio, Carli, Grammatico, Dotoli, 2025).

Round by round the linear model is laid about the AC state of the last plan (`Tangent`): its rows
hold there exactly, and costs of flows make up for what its derivatives lack, by the last prices
(Diehl, Walther, Bock, Kostina, Optimization Methods and Software 25(4), 2010: steps with inexact
Jacobians and exact gradients). Its equilibria are the same as the AC game's where it stands still.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .acflow import Flow, drawn, flow, unexamined
from .certificate import certify
from .clearing import clear
from .each import LANE, for_one
from .incidence import across, fallen, left, ratios, seen
from .linear_flow import worths
from .market import Grid, Market, cast
from .model import Plan, Rows, counted, grid_price, length, pull, rows_like, zeros
from .options import checked_options, tolerance
from .payoffs import costs, own_gradient
from .plan import aggregate
from .programs import program
from .record import Record, changed
from .result import Clearing, NotCleared
from .runner import built, hosted, jnp, wide
from .settlement import Bills, settle
from .solve import Progress
from .solvers.base import AbstractSolver
from .status import Status, is_status
from .tangent import Tangent

_VOLTAGE, _LOADING = 1e-6, 1e-4  # pu, and share of a rating, by which limits may be missed
_SHORTER = 0.5  # of a step after which AC and linear model are further apart than before
_LEAST = 0.1  # of a step
_FIRST = 1e-3  # error to which the first clear goes, without AC
_AHEAD = 0.03  # and those of rounds, in the error of the last
_MISSED = 4  # rounds whose model has no plan, after which there may be none
_TERMS, _LAST = 60, 1e-9  # of the series of a derivative, and its last of the first
_NONE = 1e-6  # kVA, up to which a line that is rated 0 carries nothing
_SHARE = 0.5  # but no further than this share of the tolerance


class AcExact(Record):
    """A local equilibrium of the game with AC power flow equations.

    The plan's network is the AC state. `market` is the one that was given, `linear` its linear
    model about that state, on which the clearing's certificate judges plan and prices: nobody gains
    more by deviating than it says, as long as AC is as its derivatives there say.
    """

    clearing: Clearing
    market: Market
    linear: Market
    flow: Flow
    rounds: int = eqx.field(static=True)

    def __str__(self) -> str:
        found, grid = self.clearing.certificate.residuals, self.linear.grid
        over, beyond = _missed(self.flow, grid)
        return (
            f"local equilibrium of the AC game after {self.rounds} rounds: limits missed by "
            f"{over:.1e} pu and {100 * beyond:.1e} % of ratings at most; about this AC state "
            f"nobody gains more than {float(np.max(found.gap, initial=0.0)):.2g} EUR by deviating, "
            f"the operator {float(found.operator_gap):.2g} EUR; losses "
            f"{float(jnp.sum(counted(self.market) * self.losses)):,.1f} kWh"
        )

    @property
    def bills(self) -> Bills:
        """Who pays whom: `settle` of the linear model and its clearing; see `jaxgne.losses`."""
        return settle(self.linear, self.clearing)

    @property
    def losses(self) -> Float[Array, " H"]:
        """Of all lines, kW."""
        return jnp.sum(self.flow.losses, axis=0)


class _Point(Record):
    """What all buses draw, and which limits of the network have which multipliers."""

    active: Float[Array, "B H"]  # kW
    reactive: Float[Array, "B H"]  # kvar
    states: dict[str, Float[Array, "B H"]]  # EUR per unit of each
    loading: Float[Array, "L H"]  # EUR/kVA, of the current
    energy: Float[Array, " H"]  # EUR/kWh, what losses cost


@for_one(f"{LANE}, one after the other")
def clear_ac(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    rounds: int = 12,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AcExact:
    """Clear on AC power flow equations, balanced or in three phases, instead of a linear model.

    Ends when the AC state of the plan keeps its limits to 1e-6 pu and 1e-4 of ratings, and plan and
    prices are an equilibrium, to `tol`, of the game that is linear about that state: a local
    equilibrium of the AC game, no more. Takes what `clear` takes otherwise; a `start` is a clearing
    of this market on any model.

    Raises `NotCleared` where a round does not clear, where the AC power flow has no solution, or
    after `rounds`; `ValueError` for a market without a grid, or with one whose AC state cannot be
    examined (`ac_power_flow`); `TypeError` when traced.
    """
    if isinstance(market.prosumers.load, Tracer):
        raise TypeError("clear_ac() runs on the host: call it outside of jit and vmap.")
    checked_options(
        "clear_ac", market, solver, max_steps=max_steps, start=start, progress=progress,
        rounds=rounds,
    )  # fmt: skip
    grid = changed(market.grid, tangent=None, reactive_balance=True)
    if not grid.model.networked:
        raise ValueError("clear_ac: copperplate has no grid; build the market with one.")
    reason = unexamined(grid)
    if reason:
        raise ValueError(f"clear_ac: {reason}")
    plain = changed(market, grid=grid)
    wanted = float(tolerance(tol, market.prosumers.load.dtype))
    given: dict[str, Any] = {"max_steps": max_steps, "progress": progress}
    now = _first(plain, solver, start=start, tol=max(wanted, _FIRST), **given)
    at = _point(plain, now.plan, now.prices)
    linear, apart, step, error = _about(plain, at, _solved(at, now, plain)), np.inf, 1.0, _FIRST
    exact, answer, held, missed = linear, now, plain, 0
    for count in range(1, rounds + 1):
        near, begin = max(_SHARE * wanted, _AHEAD * error), now if count > 1 else None
        try:
            now = clear(linear, solver, start=begin, tol=near, **given)
        except NotCleared as stop:
            missed += 1
            if is_status(stop.clearing.status, Status.infeasible) and missed <= _MISSED:
                linear = _halfway(held, linear)  # the plan's own AC state may ask for too much
                continue
            words = f"clear_ac: about the AC state of round {count} the market is {stop}"
            raise NotCleared(words, stop.clearing, linear) from None
        held = linear
        there = _point(linear, now.plan, now.prices)
        state = _solved(there, now, linear)
        exact = _about(plain, there, state)
        answer = _with_state(exact, now, state)
        error = float(answer.certificate.error)
        if error <= wanted and _kept(state, exact):
            return AcExact(answer, plain, exact, state, count)
        further = _distance(linear, now.plan, state)
        step = max(step * _SHORTER, _LEAST) if further > apart else min(1.0, step / _SHORTER)
        apart, before = further, at
        at = there if step == 1 else _between(before, there, step)
        linear = exact if step == 1 else _about(plain, at, _solved(at, now, linear))
    raise NotCleared(
        f"clear_ac: no local equilibrium of the AC game after {rounds} rounds: "
        f"{str(answer.certificate).splitlines()[0]}; give more rounds, or a larger tol.",
        answer,
        exact,
    )


@built
def _halfway(held: Market, market: Market) -> Market:
    """A linear model half-way between one that has a plan and one that has none."""
    about, grid = market.grid.tangent, market.grid
    if about is None:
        return market
    before = held.grid.tangent
    if before is None:  # without AC
        none = jax.tree.map(jnp.zeros_like, about)
        before = replace(none, rating=jnp.broadcast_to(grid.rating[:, None], about.rating.shape))
    middle = jax.tree.map(lambda a, b: (a + b) / 2, before, about)
    less = about.losses - middle.losses, about.losses_reactive - middle.losses_reactive
    passive, inert = grid.passive - less[0], grid.passive_reactive - less[1]
    grid = changed(grid, passive=passive, passive_reactive=inert, tangent=middle)
    return changed(market, grid=grid)


def _first(market: Market, solver: AbstractSolver | None, **given: Any) -> Clearing:
    """A clearing without AC to begin from; where there is none, what is drawn without anybody."""
    try:
        return clear(market, solver, **given)
    except NotCleared as stop:
        if not is_status(stop.clearing.status, Status.infeasible):
            raise
        return replace(stop.clearing, plan=zeros(market), prices=rows_like(market))


def _solved(at: _Point, now: Clearing, market: Market) -> Flow:
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
def _point(market: Market, plan: Plan, prices: Rows) -> _Point:
    """What a plan draws, and the multipliers that its prices tell."""
    with wide():
        market, plan, prices = cast((market, plan, prices), jnp.float64)
        sigma = aggregate(market, plan)
        price = grid_price(market, sigma)
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
        energy = price + prices.aggregate  # on the gauge of a clearing, without an exchange price
        return _Point(
            active,
            reactive,
            states={n: jnp.where(fed, 0.0, -getattr(force, n)) for n in market.grid.model.states},
            loading=jnp.maximum(pressed, 0.0) * share,
            energy=energy,
        )


@built
def _between(first: _Point, second: _Point, step: float) -> _Point:
    return jax.tree.map(lambda a, b: a + step * (b - a), first, second)


def _about(market: Market, at: _Point, state: Flow) -> Market:
    """The market with its grid's linear model about an AC state."""
    return _laid(market, _tangent(market, at, state))


@built
def _laid(market: Market, tangent: Tangent) -> Market:
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


@program("the AC power flow's derivatives", once=True)
def _tangent(market: Market, at: _Point, state: Flow) -> Tangent:
    """What makes rows hold at an AC state, and prices those of its derivatives."""
    with wide():
        market, at = cast((market, at), jnp.float64)
        grid, ts = market.grid, counted(market)
        free = jnp.ones(at.active.shape[0], bool).at[grid.feeder].set(False)[:, None]
        out = left(grid, state.active, state.reactive)
        losses = jnp.where(free, -(at.active + out[0]), 0.0)
        inert = jnp.where(free, -(at.reactive + out[1]), 0.0)
        offset = {}
        for name, ratio in ratios(grid).items():
            near, far = seen(grid, _states(grid, state)[name])
            fall = fallen(grid, name, state.active, state.reactive)
            offset[name] = near / ratio[:, None] - far - fall
        size = length(state.active, state.reactive)
        used = (state.current > 0) & (size > 0)
        share = jnp.where(used, size / jnp.where(used, state.current, 1.0), 1.0)

        def truth(active: Array, reactive: Array) -> Array:
            found = flow(grid, active, reactive)
            worth = jnp.sum(ts * at.energy * jnp.sum(found.losses, axis=0))
            worth += sum(jnp.sum(at.states[n] * a) for n, a in _states(grid, found).items())
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


def _states(grid: Grid, state: Flow) -> dict[str, Float[Array, "B H"]]:
    """The states that the grid's model has, as it has them."""
    found = {"voltage": state.voltage**grid.model.power, "angle": state.angle}
    return {name: found[name] for name in grid.model.states}


@built
def _with_state(market: Market, found: Clearing, state: Flow) -> Clearing:
    """The clearing with the AC state as its plan's network, judged on the model about that."""
    dtype = found.plan.active.dtype
    names = {"active": state.active, "reactive": state.reactive, "exchange": state.exchange}
    names |= _states(market.grid, state)
    plan = replace(found.plan, **{name: a.astype(dtype) for name, a in names.items()})
    judged = certify(market, plan, found.prices)
    sigma, paid = aggregate(market, plan), costs(market, plan)
    return replace(found, plan=plan, aggregate=sigma, costs=paid, certificate=judged)


def _kept(state: Flow, market: Market) -> bool:
    """Whether the AC state keeps the limits of the grid."""
    outside, over = _missed(state, market.grid)
    return outside <= _VOLTAGE and over <= _LOADING


@hosted
def _missed(state: Flow, grid: Grid) -> tuple[float, float]:
    """How far an AC state is outside of limits at most: pu, and share of a rating."""
    free = np.ones(len(grid.voltage_min), bool)
    free[np.asarray(grid.feeder)] = False
    low, high = (np.asarray(a)[:, None] for a in (grid.voltage_min, grid.voltage_max))
    volts, current = np.asarray(state.voltage), np.asarray(state.current)
    outside = np.max(np.maximum(low - volts, volts - high)[free], initial=0.0)
    rating = np.asarray(grid.rating)[:, None]
    used = np.divide(current, rating, out=np.where(current > _NONE, np.inf, 0.0), where=rating > 0)
    return float(outside), float(np.max(used - 1, initial=0.0))


@hosted
def _distance(market: Market, plan: Plan, state: Flow) -> float:
    """How far AC and the linear model of a plan are apart, pu."""
    volts = np.sqrt(np.maximum(np.asarray(plan.voltage), 0.0))
    return float(np.max(np.abs(volts - np.asarray(state.voltage)), initial=0.0))


def gradient(found: AcExact, measure: Callable[[Market, Clearing], Float[Array, ""]]) -> Market:
    """The derivative of a measure of market and AC clearing by each number of the market.

    By the implicit-function rule: what the last round makes of the point that it was laid about is
    that point again, so its derivatives are a series in those of a round, of which the first few
    are enough, as a round brings errors to a tenth and less. `found` is from `clear_ac`; its market
    in float64 gives numbers to about its tolerance. Entries that are no real numbers are None.

    Raises `RuntimeError` where the series does not end, and what derivatives of `clear` raise.
    """
    numbers, rest = eqx.partition(found.market, eqx.is_inexact_array)
    point = _point(found.linear, found.clearing.plan, found.clearing.prices)

    def once(numbers: Market, point: _Point) -> tuple[Clearing, _Point]:
        market = eqx.combine(numbers, rest)
        state = flow(market.grid, point.active, point.reactive)
        linear = _laid(market, _tangent(market, point, state))
        answer = clear(linear, start=found.clearing)
        return answer, _point(linear, answer.plan, answer.prices)

    def told(numbers: Market, point: _Point) -> tuple[Array, _Point]:
        answer, after = once(numbers, point)
        return measure(eqx.combine(numbers, rest), answer), after

    (value, after), back = jax.vjp(told, numbers, point)
    one, none = jnp.ones_like(value), jax.tree.map(jnp.zeros_like, after)
    own, weight = back((one, none))
    total, first = own, _most(weight)
    for _ in range(_TERMS):
        more, weight = back((0 * one, weight))
        total = jax.tree.map(jnp.add, total, more)
        if _most(weight) <= _LAST * first:
            return eqx.combine(total, jax.tree.map(lambda _: None, rest))
    raise RuntimeError(
        "acexact.gradient: rounds do not draw nearer to this equilibrium, so its derivative is not "
        "known; clear at other limits, or to a smaller tol."
    )


def _most(tree: Any) -> float:
    """The largest entry of any size."""
    return max(float(jnp.max(jnp.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(tree))
