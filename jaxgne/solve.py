"""One solve, from a start to an answer: the only loop."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

from .acflow import check
from .certificate import judge
from .elastic import fits, proof
from .feasibility import infeasibility_proof
from .few_sizes import fitted
from .freed import give_back
from .market import Market, cast
from .model import Plan, Rows, aggregate, costs
from .names import owners
from .one_way import freed, ways
from .optimality import pin, residuals
from .ordering import Order, restored
from .programs import program
from .record import Record
from .result import Clearing
from .runner import by_numpy, held_here, jnp, lax, on_host, runs_here, to_device, to_host, wide
from .size import is_quick
from .solvers.base import AbstractSolver
from .status import Status, either, is_status

# Seconds, and looks at least, from one time that the host is asked to the next, each of which takes
# 0.05 s at 20,000 prosumers and 0.2 at 100,000; and where somebody watches.
_PACE = 1.0, 2
_TOLD = 0.5, 1
_TOGETHER = 0.0, 10  # and where processes share a market: their clocks disagree
_PROVEN = 1e-9  # relative size of a proof of infeasibility that rounding cannot make


class Progress(Record):
    """What a progress callback is told."""

    steps: int
    error: float
    seconds: float


class Carry(Record):
    """Where a solve stands."""

    state: Any
    prices: Rows  # at the last look
    error: Float[Array, ""]  # relative KKT error at the last look, in float64
    steps: Int[Array, ""]
    status: Status


class Standing:
    """Where a solve stands on the host: who alone holds a carry, so that the next one frees it."""

    def __init__(self, carry: Carry):
        self.carry = carry


@program("the solver's start", once=True)
def begin(market: Market, solver: AbstractSolver, plan: Plan, prices: Rows) -> Carry:
    state = solver.init(market, plan, prices)
    with wide():
        unseen = jnp.full((), jnp.inf, jnp.float64)
    return Carry(state, prices, unseen, jnp.zeros((), jnp.int32), Status.max_steps)


def _proof(
    market: Market, now: Rows, before: Rows, change: Bool[Array, ""]
) -> tuple[Bool[Array, ""], Rows]:
    """Whether prices, or their `change` since the last look, prove infeasibility; and that ray.

    Where no plan meets all limits, the prices of a convergent method run off along such a ray.
    """
    market, now, before = cast((market, now, before), jnp.float64)
    ray = jax.tree.map(lambda a, b: jnp.where(change, a - b, a), now, before)
    return infeasibility_proof(market, ray) > _PROVEN, ray


def going(carry: Carry, limit: Array) -> Bool[Array, ""]:
    """Whether a solve has neither ended nor done its steps."""
    unseen = jnp.isinf(carry.error)
    return is_status(carry.status, Status.max_steps) & ((carry.steps < limit) | unseen)


def advance(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array
) -> Carry:
    """Steps up to the next look at the answer, and what that look says if it is worth it."""
    carry = replace(carry, state=solver.refreshed(market, carry.state))
    return _onward(market, solver, carry, tol, limit)


def _onward(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array
) -> Carry:
    """The same with a solver that needs no renewal."""
    state = carry.state
    if solver.every > 1:  # a loop of no turns would be compiled all the same
        state = lax.fori_loop(
            0, solver.every - 1, lambda _, state: solver.step(market, state), state
        )
        # else XLA makes of the market what looks need ahead of the loop, and keeps it all along
        market, state = lax.optimization_barrier((market, state))
    state, steps = solver.look(market, state), carry.steps + solver.every
    carry = replace(carry, state=state, steps=steps)
    worth = solver.worth_a_look(market, state, steps, carry.error, tol)
    if worth is True:
        return _judged(market, solver, carry, tol)
    worth = worth | (steps >= limit)
    return lax.cond(worth, lambda: _judged(market, solver, carry, tol), lambda: carry)


def _judged(market: Market, solver: AbstractSolver, carry: Carry, tol: Array) -> Carry:
    """What a look at the new state says: only what decides whether to go on."""
    carry = replace(carry, state=solver.nearer(market, carry.state, carry.error, tol))
    plan, prices = solver.point(market, carry.state)
    error = residuals(market, plan, prices).error
    pinned = pin(market, prices)
    change = (carry.steps // solver.every - 1) % 2 == 0
    proven, ray = _proof(market, pinned, carry.prices, change)
    kept = jax.tree.map(lambda a, y: jnp.where(proven, a.astype(y.dtype), y), ray, pinned)
    status = either(proven, Status.infeasible, Status.max_steps)
    status = either(error <= tol, Status.cleared, status)
    status = either(jnp.isfinite(error), status, Status.nonfinite)
    return replace(carry, prices=kept, error=error, status=status)


@program("the solver's steps")
def solved(market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array) -> Carry:
    """Step until cleared, proven infeasible, non-finite, or `limit` steps are done."""
    return lax.while_loop(
        lambda carry: going(carry, limit),
        lambda carry: advance(market, solver, carry, tol, limit),
        carry,
    )


@program("the solver's steps")
def _steps(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, stop: Array, limit: Array
) -> tuple[Carry, Bool[Array, ""]]:
    """The same, or until `stop`, or until a renewal is due; and whether it is."""

    def due(carry: Carry) -> Bool[Array, ""]:
        return going(carry, stop) & solver.outdated(carry.state)

    carry = lax.while_loop(
        lambda carry: going(carry, stop) & ~due(carry),
        lambda carry: _onward(market, solver, carry, tol, limit),
        carry,
    )
    return carry, due(carry)


@program("the solver's renewal", once=True)
def _renewed(market: Market, solver: AbstractSolver, carry: Carry) -> Carry:
    return replace(carry, state=solver.renew(market, carry.state))


def _advance(
    market: Market, solver: AbstractSolver, at: Standing, tol: Array, stop: Array, limit: Array
) -> None:
    """`solved` from the host, whose renewals, which are seldom due, are a program of their own."""
    at.carry, due = _steps(market, solver, at.carry, tol, stop, limit)
    while bool(due):
        at.carry = _renewed(market, solver, at.carry)
        at.carry, due = _steps(market, solver, at.carry, tol, stop, limit)


def answered(
    market: Market, solver: AbstractSolver, at: Standing, given: Market, order: Order | None = None
) -> Clearing:
    """The clearing of a solve that has ended, for the market `given`, before it was `rounded`.

    What is judged by JAX is judged with all rows, so that no program depends on how many there are,
    unless these stand in an `order` that the market given has not.
    """
    carry = at.carry
    here = not on_host() and _by_numpy(market, carry)
    if not here and order is None:
        found = checked(market, finish(market, solver, carry))
        if market.trading.buyer.shape == given.trading.buyer.shape:
            return found
        plan, prices = fitted(given, found.plan), fitted(given, found.prices)
        told = replace(found.certificate, owners=owners(given))
        return replace(found, plan=plan, prices=prices, certificate=told)
    plan, prices = _point(market, solver, carry)
    plan, prices = fitted(given, restored(plan, order)), fitted(given, restored(prices, order))
    ray = fitted(given, restored(carry.prices, order))
    rest = at.carry = replace(carry, state=None, prices=ray)
    del carry, ray  # the solver's state gives way to the judge
    give_back()
    if not here:
        return checked(given, _answer(given, plan, prices, rest))
    with by_numpy():
        given, plan, prices, rest = to_host((given, plan, prices, rest))
        found = to_device(checked(given, _concluded(given, plan, prices, rest)))
    give_back()
    return found


def _by_numpy(market: Market, carry: Carry) -> bool:
    """Whether NumPy writes the answer: where a solve takes long, that costs less than compiling.

    It reads no state of a solver, which may be in float32 where the market is not.
    """
    return not is_quick(market) and runs_here((market, replace(carry, state=None)))


@program("the solver's answer", once=True)
def _point(market: Market, solver: AbstractSolver, carry: Carry) -> tuple[Plan, Rows]:
    with wide():
        return solver.point(market, carry.state)


@program("the answer", once=True)
def finish(market: Market, solver: AbstractSolver, carry: Carry) -> Clearing:
    with wide():
        plan, prices = solver.point(market, carry.state)
    return _concluded(market, plan, prices, carry)


def _concluded(market: Market, plan: Plan, prices: Rows, carry: Carry) -> Clearing:
    """What a solve says of the plan and prices that it has come to."""
    found = cast(judge(market, plan, prices), jax.dtypes.canonicalize_dtype(float))
    plan = freed(market, plan)
    prices = jax.tree.map(
        lambda ray, price: jnp.where(is_status(carry.status, Status.infeasible), ray, price),
        carry.prices,
        pin(market, prices),
    )
    return Clearing(
        plan=plan,
        prices=prices,
        costs=costs(market, plan),
        aggregate=aggregate(market, plan),
        certificate=found,
        steps=carry.steps,
        status=carry.status,
        run=None,
    )


@program("the answer", once=True)
def _answer(market: Market, plan: Plan, prices: Rows, carry: Carry) -> Clearing:
    return _concluded(market, plan, prices, carry)


def checked(market: Market, clearing: Clearing) -> Clearing:
    """The clearing with what its certificate says beyond the error: AC power flow, both ways."""
    found = cast(check(market, clearing.plan), jax.dtypes.canonicalize_dtype(float))
    both = cast(ways(market, clearing.plan, clearing.prices), jax.dtypes.canonicalize_dtype(float))
    more = {"ac": found, "ways": both, "owners": owners(market)}
    return replace(clearing, certificate=replace(clearing.certificate, **more))


def in_doubt(carry: Carry, solver: AbstractSolver) -> bool:
    """Whether a solve has come to no end, or to none that says anything; on the host."""
    lasted = bool(is_status(carry.status, Status.max_steps)) and int(carry.steps) >= solver.doubtful
    return lasted or bool(is_status(carry.status, Status.nonfinite))


def decided(market: Market, carry: Carry) -> Carry:
    """The same, or infeasible where a linear program finds a proof of that."""
    ray = proof(market, _PROVEN) if fits(market) else None
    if ray is None:
        return carry
    with wide():
        pinned = pin(cast(market, jnp.float64), ray)
    prices = cast(pinned, market.prosumers.load.dtype)
    return replace(carry, prices=prices, status=Status.infeasible)


def anew(market: Market, solver: AbstractSolver, carry: Carry) -> Carry:
    """A solve in doubt that has a plan, begun again from where it stands; its steps count on.

    Products that fell apart over decades of bounds start alike again.
    """
    found = finish(market, solver, carry)
    return replace(begin(market, solver, found.plan, found.prices), steps=carry.steps)


def reached(
    market: Market,
    solver: AbstractSolver,
    at: Standing,
    tol: Array,
    limit: Array,
    progress: Callable[[Progress], None] | None,
) -> None:
    """To the end of a solve, from the host; what comes to none is decided, or begun anew.

    Where somebody stops it, `at` is where it stood when the host last saw it.
    """
    begun, doubt = time.perf_counter(), jnp.minimum(limit, solver.doubtful)
    _looped(market, solver, at, tol, doubt, progress, begun)
    if in_doubt(at.carry, solver) and held_here(market.prosumers.load):
        at.carry = decided(market, at.carry)
    if bool(going(at.carry, limit)):
        at.carry = anew(market, solver, at.carry)
        _looped(market, solver, at, tol, limit, progress, begun)


def _looped(
    market: Market,
    solver: AbstractSolver,
    at: Standing,
    tol: Array,
    limit: Array,
    progress: Callable[[Progress], None] | None,
    begun: float,
) -> None:
    """The loop in chunks of about a second, between which Ctrl-C is heard, or `progress` called.

    For `progress` the answer is looked at after each; else chunks change nothing. Processes that
    share a market must all call the same programs with the same numbers, or what they exchange
    does not meet: no clock sets their chunks, and who has a `progress` has no look more.
    """
    alone = held_here(market.prosumers.load)
    pace, looks = (_PACE if progress is None else _TOLD) if alone else _TOGETHER
    chunk = solver.every
    more = True
    while more:
        since = time.perf_counter()
        stop = jnp.minimum(at.carry.steps + chunk, limit)
        _advance(market, solver, at, tol, stop, stop if progress and alone else limit)
        now, steps = time.perf_counter(), int(at.carry.steps)
        if progress:
            with by_numpy(False):
                progress(Progress(steps, float(at.carry.error), now - begun))
        more = bool(is_status(at.carry.status, Status.max_steps)) and steps < int(limit)
        chunk = solver.every * max(looks, round(pace * chunk / (now - since) / solver.every))
