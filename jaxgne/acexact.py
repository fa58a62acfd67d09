"""Clearings on the AC power flow itself: losses are bought and priced, and limits are those of AC.

The game has AC power flow equations where `clear` has a linear model: the operator buys the losses
of its lines on the main grid, which counts them in its price, and everybody's prices carry what one
more kW changes of losses, voltages and currents. That is not convex; what is found is a local
equilibrium (Scarabaggio, Carli, Grammatico, Dotoli, 2025).

Round by round the linear model is laid about the AC state of the last plan (`jaxgne.aclinear`),
with costs of flows that bend as losses do, as in sequential quadratic programming. Where rounds are
slow the next state is by the secant of the last two; where the model has no plan, limits give way
by some of what the state misses, round by round less, until none is missed or they have to for
good.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .acflow import Flow, flow, unexamined
from .aclinear import (
    Point,
    about,
    eased,
    kept,
    laid,
    missed,
    point_of,
    solved,
    tangent_of,
    with_state,
)
from .clearing import clear
from .each import LANE, for_one
from .market import Market
from .model import counted, rows_like, zeros
from .options import checked_options, tolerance
from .record import Record, changed
from .result import Clearing, NotCleared, Stopped
from .runner import built, jnp
from .settlement import Bills, settle
from .solve import Progress
from .solvers.base import AbstractSolver
from .solvers.semidecentralized import SemiDecentralized
from .status import Status, is_status

if TYPE_CHECKING:
    from xarray import Dataset

_FIRST = 3e-3  # error to which the first clear goes, without AC
_AHEAD = 0.03  # and those of rounds, in the error of the last
_SHARE = 0.5  # but no further than this share of the tolerance
_SLOW = 0.1  # of the error, which a round brings it to where nothing slows it down
_FURTHEST, _TINY = 0.5, 1e-300  # share of a secant that is taken, and least that is divided by
_LITTLE, _MOST = 0.1, 0.8  # shares of what limits are missed by: that count as none, and as all
_TERMS, _LAST = 60, 1e-9  # of the series of a derivative, and its last of the first


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
        over, beyond = missed(self.flow, grid)
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

    def to_xarray(self) -> "Dataset":
        """`Clearing.to_xarray` with the linear model, whose plan has the AC state."""
        return self.clearing.to_xarray(self.linear)

    @property
    def losses(self) -> Float[Array, " H"]:
        """Of all lines, kW."""
        return jnp.sum(self.flow.losses, axis=0)


class _Round(Record):
    """A round: the point that the model was laid about, what it came to, and its AC state."""

    at: Point
    reached: Point
    state: Flow


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
    equilibrium of the AC game, no more. At most `rounds` are cleared. Takes what `clear` takes
    otherwise; a `start` is a clearing of this market on any model.

    Raises `NotCleared` where no plan keeps the limits on AC, which it names, where a round does not
    clear or the AC power flow has no solution, and after that many rounds; `ValueError` for a
    market that has no grid, or whose AC state cannot be examined (`ac_power_flow`); `TypeError`
    when traced.
    """
    if isinstance(market.prosumers.load, Tracer):
        raise TypeError("clear_ac() runs on the host: call it outside of jit and vmap.")
    checked_options(
        "clear_ac", market, solver, max_steps=max_steps, start=start, progress=progress,
        rounds=rounds,
    )  # fmt: skip
    if not market.grid.model.networked:
        raise ValueError("clear_ac: copperplate has no grid; build the market with one.")
    reason = unexamined(market.grid)
    if reason:
        raise ValueError(f"clear_ac: {reason}")
    plain = _plain(market)
    wanted = float(tolerance(tol, market.prosumers.load.dtype))
    bent = not isinstance(solver, SemiDecentralized)  # whose operator's costs are linear
    given: dict[str, Any] = {"max_steps": max_steps, "progress": progress}
    now = _first(plain, solver, start=start, tol=max(wanted, _FIRST), **given)
    at = point_of(plain, now.plan, now.prices)
    state, error, share = solved(at, now, plain), _FIRST, 0.0
    exact, answer, last, stuck = plain, now, None, None
    for count in range(1, rounds + 1):
        linear, begin = eased(about(plain, at, state, bent), state, share), now if last else None
        near = max(_SHARE * wanted, _AHEAD * error)
        try:
            now = clear(linear, solver, start=begin, tol=near, **given)
        except Stopped as stop:
            raise Stopped(f"{stop} (round {count} on AC)", stop.clearing, linear) from None
        except NotCleared as stop:
            if not is_status(stop.clearing.status, Status.infeasible):
                words = f"clear_ac: about the AC state of round {count} the market is {stop}"
                raise NotCleared(words, stop.clearing, linear) from None
            stuck = stuck or (stop, linear)
            if share > _MOST:
                raise _no_plan(*stuck, state) from None
            share = (1 + share) / 2
            at, state = (last.reached, last.state) if last else (at, state)
            continue
        reached = point_of(linear, now.plan, now.prices)
        state = solved(reached, now, linear)
        exact = about(plain, reached, state)
        answer = with_state(exact, now, state)
        before, error = error, float(answer.certificate.error)
        if error <= wanted and kept(state, exact):
            return AcExact(answer, plain, exact, state, count)
        this = _Round(at, reached, state)
        slow = not share and error > _SLOW * before
        at = _secant(last, this) if last and slow else reached
        state = solved(at, now, linear) if at is not reached else state
        share, last = (share / 2 if share > _LITTLE else 0.0), this
    if stuck and share:
        raise _no_plan(*stuck, state)
    raise NotCleared(
        f"clear_ac: no local equilibrium of the AC game after {rounds} rounds: "
        f"{str(answer.certificate).splitlines()[0]}; give more rounds, or a larger tol.",
        answer,
        exact,
    )


def _no_plan(stop: NotCleared, linear: Market, state: Flow) -> NotCleared:
    """What is said where limits have to give way for good."""
    volts, over = missed(state, linear.grid)
    return NotCleared(
        lambda: (
            f"clear_ac: no plan keeps the limits on AC, as far as rounds tell. The last misses "
            f"them by {volts:.1e} pu and {100 * over:.2g} % of a rating; about an AC state the "
            f"market is {stop}"
        ),
        stop.clearing,
        linear,
    )


@built
def _secant(last: _Round, this: _Round) -> Point:
    """Where the secant through two rounds' moves has none (Anderson acceleration of depth one).

    With moves m, this less last, the point is reached - c (reached - last reached) with the c that
    makes the move least, each table of a point in its own largest entry; at most one half.
    """
    moved = jax.tree.map(jnp.subtract, this.reached, this.at)
    further = jax.tree.map(jnp.subtract, this.reached, last.reached)
    turned = jax.tree.map(lambda m, a, b: m - (a - b), moved, last.reached, last.at)

    def dot(one: Point, other: Point) -> Array:
        def each(a: Array, b: Array, of: Array) -> Array:
            return jnp.sum(a * b) / jnp.maximum(jnp.max(of**2, initial=0.0), _TINY)

        return sum(jax.tree.leaves(jax.tree.map(each, one, other, this.reached)), jnp.zeros(()))

    part = dot(moved, turned) / jnp.maximum(dot(turned, turned), _TINY)
    part = jnp.clip(part, -_FURTHEST, _FURTHEST)
    point = jax.tree.map(lambda a, b: a - part * b, this.reached, further)
    return replace(point, loading=jnp.maximum(point.loading, 0.0))


@built
def _plain(market: Market) -> Market:
    """The market without an AC state, and with reactive balances."""
    passive, inert = market.grid.consumed
    grid = changed(market.grid, passive=passive, passive_reactive=inert, tangent=None)
    return changed(market, grid=changed(grid, reactive_balance=True))


def _first(market: Market, solver: AbstractSolver | None, **given: Any) -> Clearing:
    """A clearing without AC to begin from; where there is none, what is drawn without anybody."""
    try:
        return clear(market, solver, **given)
    except NotCleared as stop:
        if not is_status(stop.clearing.status, Status.infeasible):
            raise
        return replace(stop.clearing, plan=zeros(market), prices=rows_like(market))


def gradient(found: AcExact, measure: Callable[[Market, Clearing], Float[Array, ""]]) -> Market:
    """The derivative of a measure of market and AC clearing by each number of the market.

    By the implicit-function rule: what the last round makes of the point that it was laid about is
    that point again, so its derivatives are a series in those of a round, of which the first few
    are enough, as a round brings errors to a tenth and less. `found` is from `clear_ac`; its market
    in float64 gives numbers to about its tolerance. Entries that are no real numbers are None.

    Raises `RuntimeError` where the series does not end, and what derivatives of `clear` raise.
    """
    numbers, rest = eqx.partition(found.market, eqx.is_inexact_array)
    last = point_of(found.linear, found.clearing.plan, found.clearing.prices)

    def once(numbers: Market, point: Point) -> tuple[Clearing, Point]:
        market = eqx.combine(numbers, rest)
        state = flow(market.grid, point.active, point.reactive)
        linear = laid(market, tangent_of(market, point, state))
        answer = clear(linear, start=found.clearing)
        return answer, point_of(linear, answer.plan, answer.prices)

    def told(numbers: Market, point: Point) -> tuple[Array, Point]:
        answer, after = once(numbers, point)
        return measure(eqx.combine(numbers, rest), answer), after

    (value, after), back = jax.vjp(told, numbers, last)
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
