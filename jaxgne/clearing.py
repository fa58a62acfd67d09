"""Clearing a market: the only loop."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .acflow import check
from .certificate import Certificate, judge, owners
from .choosing import Runner, chosen, default_solver, note
from .elastic import fits, proof
from .feasibility import infeasibility_proof
from .few_sizes import fitted, rounded
from .market import Market, cast
from .model import Plan, Rows, aggregate, costs, grid_price, rows_like, zeros
from .one_way import decide, freed, metered, ways
from .optimality import pin, residuals
from .options import checked_options, tolerance
from .programs import program
from .record import Record
from .result import Clearing, NotCleared, Run, complaint
from .runner import (
    by_numpy,
    concrete,
    held_here,
    jnp,
    lax,
    on_host,
    runs_here,
    to_device,
    to_host,
    wide,
)
from .sensitivity.implicit import AbstractAdjoint, Implicit, equilibrium
from .size import is_quick
from .solvers.base import AbstractSolver, written
from .status import Status, either, is_status
from .surplus import unsold
from .validation import gate

_LARGE = 1_000_000  # prosumer-hours from which on steps in float32 save more than they compile
_ROUGH = 1e-5, 6_000  # relative error that float32 reaches, and steps after which it has not
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


def clear(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    throw: bool = True,
    adjoint: AbstractAdjoint | None = None,
    progress: Callable[[Progress], None] | None = None,
    one_way: bool = False,
    runner: Runner | None = None,
) -> Clearing:
    """Find the variational generalized Nash equilibrium of a market (model.md: Equilibrium).

    Runs `solver` until the relative KKT error (model.md: Yardstick), recomputed from plan and
    prices every `solver.every` steps, is at most `tol` (default 1e-6 in float64, 1e-4 in float32)
    or `max_steps` (default `solver.most`), rounded up to a multiple of `every`, are done. By
    default that is `InteriorPoint()` where prosumers, buses and buffers are 128 at most,
    `PrimalDual()` where they are more; a million prosumer-hours in float64 are first cleared in
    float32, at half the traffic. `start` warm-starts from another clearing of a market of the same
    shape. `progress` is called about twice a second. Goes through `jax.jit` and `jax.vmap`; there
    it never raises and `status` tells.

    `runner` is "numpy", which compiles nothing, "jax", or None for whichever is sooner done: NumPy
    for the first clears of a small shape, JAX once these took seconds, and for all others
    (`docs/runners.md`). `clearing.runner` tells which it was.

    Where the main grid pays more than it asks nobody sells what it buys: such a market is cleared
    anew with one way of a meter shut (`jaxgne.one_way`). With `one_way` each battery charges or
    discharges in an hour, too. The plan is then an equilibrium of `one_way.narrowed(market, plan)`,
    and `certificate.ways.regret` bounds what any other plan would save, EUR. Neither is done in
    `jit` and `vmap`, where `one_way` raises `TypeError`.

    Plan, prices, costs and aggregate can be differentiated with respect to every number of the
    market, forward and in reverse, by `adjoint`: `Implicit()` unless given, or `Smoothed()`.

    Raises `NotCleared` if `throw` and the market did not clear, and `ValueError` for a market or an
    option that makes no sense, or a `tol` below what the market's dtype can give.
    """
    checked_options(
        "clear", market, solver, max_steps=max_steps, start=start, adjoint=adjoint,
        progress=progress,
    )  # fmt: skip
    given = market
    if not concrete((market, start)):
        market, start = lax.stop_gradient((market, start))
    if not concrete((market, tol, start)):
        if one_way:
            raise TypeError(
                "clear(one_way=True) runs on the host: call it outside of jit and vmap."
            )
        clearing = _clear(
            market, start, solver=solver, tol=tol, max_steps=max_steps, progress=progress
        )
        return differentiable(given, clearing, adjoint)

    ran, used = chosen(market, solver, start, runner, partial(_stored, market, solver))
    begun, asked = time.perf_counter(), used if ran == "numpy" else solver
    solve = partial(_clear, solver=asked, tol=tol, max_steps=max_steps, progress=progress)
    if ran == "numpy":
        with by_numpy():
            found = _ruled(to_host(market), to_host(start), solve, tol, one_way)
        clearing, ruled = to_device(found)
    else:
        clearing, ruled = _ruled(market, start, solve, tol, one_way)
    note(market, solver, ran, time.perf_counter() - begun)
    if throw and not bool(clearing.ok):
        raise NotCleared(partial(complaint, ruled, clearing), clearing)
    return differentiable(given, clearing, adjoint)


def _ruled(
    market: Market, start: Clearing | None, solve: Callable[..., Clearing], tol: Any, one_way: bool
) -> tuple[Clearing, Market]:
    """The clearing of a concrete market under the rules of meters, and the market it clears."""
    if not held_here(market.prosumers.load):
        return solve(market, start=start), market
    first, clearing, ruled = decide(market, solve, one_way, start)
    if bool(clearing.ok):
        clearing = _unsold(ruled, clearing, tol)
    if one_way:
        clearing = _regretted(metered(market, clearing.plan), clearing, first.prices)
    return clearing, ruled


def _unsold(market: Market, clearing: Clearing, tol: Any) -> Clearing:
    """The clearing without feed-in for nothing, where that is an equilibrium too."""
    plan = unsold(market, clearing.plan, clearing.prices)
    if plan is None:
        return clearing
    found = _judge(market, plan, clearing.prices)
    if not float(found.error) <= float(tolerance(tol, market.prosumers.load.dtype)):
        return clearing
    found = cast(found, jax.dtypes.canonicalize_dtype(float))
    return checked(market, replace(clearing, plan=plan, certificate=found))


def _regretted(market: Market, clearing: Clearing, before: Rows) -> Clearing:
    """The clearing with what its prosumers gain at most by any plan of `market`.

    Whatever values a prosumer's own rows are given bound its gain: the clearing's, or those of
    `before` one way was shut, whichever bounds it better.
    """
    found, prices = clearing.certificate, clearing.prices
    relaxed = replace(prices, balance=before.balance, energy=before.energy)
    gaps = [_judge(market, clearing.plan, y).residuals.gap for y in (prices, relaxed)]
    gap = min((cast(g, jax.dtypes.canonicalize_dtype(float)) for g in gaps), key=jnp.sum)
    seen = ways(market, clearing.plan, prices) if found.ways is None else found.ways
    told = replace(seen, regret=jnp.sum(gap), worst=jnp.max(gap))
    return replace(clearing, certificate=replace(found, ways=told))


def with_regret(clearing: Clearing) -> Clearing:
    """A batch with a regret for each scenario, which is NaN until `clear` finds it."""
    found = clearing.certificate
    unknown = found.error * np.nan
    told = replace(found.ways, regret=unknown, worst=unknown)  # pyright: ignore
    return replace(clearing, certificate=replace(found, ways=told))


def differentiable(
    market: Market, clearing: Clearing, adjoint: AbstractAdjoint | None = None
) -> Clearing:
    """A clearing of `market` as a function of it: the same numbers, with derivatives."""
    if concrete(market):
        return clearing
    chosen = Implicit() if adjoint is None else adjoint
    numbers: AbstractAdjoint = jax.tree.map(  # arrays, so that new ones do not compile again
        lambda a: jnp.asarray(a) if isinstance(a, float) else a, chosen
    )
    found = lax.stop_gradient((clearing.plan, clearing.prices, clearing.ok))
    at_once = concrete(clearing) and clearing.runner == "numpy"
    plan, prices = equilibrium(market, *found, numbers, at_once)
    return moved_to(lax.stop_gradient(clearing), market, plan, prices)


def moved_to(clearing: Clearing, market: Market, plan: Plan, prices: Rows) -> Clearing:
    """The clearing with another plan and other prices, and what follows from these."""
    cost, sigma = _followed(market, plan)
    return replace(clearing, plan=plan, prices=prices, costs=cost, aggregate=sigma)


@eqx.filter_jit
def _followed(market: Market, plan: Plan) -> tuple[Array, Array]:
    return costs(market, plan), aggregate(market, plan)


@program("the certificate", once=True)
def _judge(market: Market, plan: Plan, prices: Rows) -> Certificate:
    return judge(market, plan, prices)


def _stored(market: Market, solver: AbstractSolver | None) -> bool:
    """Whether the programs of a concrete market's shape are in memory or on disk."""
    market = rounded(market)[0]
    with by_numpy():
        nothing = zeros(to_host(market)), rows_like(to_host(market))
    plan, prices = to_device(nothing)
    start: Any = SimpleNamespace(plan=plan, prices=prices)
    with wide():
        return begin.ready(*ready(market, solver, start))


def _clear(
    market: Market,
    start: Clearing | None,
    *,
    solver: AbstractSolver | None,
    tol: Any,
    max_steps: int | None,
    progress: Callable[[Progress], None] | None,
) -> Clearing:
    """`clear` without derivatives; what did not clear is returned."""
    traced = not concrete((market, tol, start))
    gate(market)
    dtype = market.prosumers.load.dtype
    tol, done = tolerance(tol, dtype), 0
    if not traced and start is None and solver is None and _worth_float32(market):
        start = _roughly(market, tol, max_steps, progress)
        if bool(start.ok):
            return checked(market, start)
        done = int(start.steps)
    run, given = run_of(market, solver, tol), market
    if not (traced or on_host()):
        market, start = rounded(market, start)
    market, solver, plan, prices = ready(market, solver, start)
    limit = jnp.asarray(solver.most if max_steps is None else max_steps, jnp.int32)
    with wide():  # the judge's float64; the market keeps its own dtype
        carry = begin(market, solver, plan, prices)
        carry = replace(carry, steps=carry.steps + done)
        if traced:
            carry = _solved(market, solver, carry, tol, limit)
        else:
            begun, doubt = time.perf_counter(), jnp.minimum(limit, solver.doubtful)
            carry = _run(market, solver, carry, tol, doubt, progress, begun)
            if in_doubt(carry, solver) and held_here(market.prosumers.load):
                carry = decided(market, carry)
            if bool(going(carry, limit)):
                carry = anew(market, solver, carry)
                carry = _run(market, solver, carry, tol, limit, progress, begun)
    return replace(_answered(market, solver, carry, given), run=run)


def run_of(market: Market, solver: AbstractSolver | None, tol: Array) -> Run:
    """What `clear` with these options notes of itself; no program depends on it."""
    used = default_solver(market) if solver is None else solver
    run = Run(written(used), tol, jnp.asarray(not on_host()))
    return cast(run, jax.dtypes.canonicalize_dtype(float))


def ready(
    market: Market, solver: AbstractSolver | None, start: Clearing | None
) -> tuple[Market, AbstractSolver, Plan, Rows]:
    """Market and solver in one dtype, the solver's numbers as arrays, and where to start."""
    dtype = market.prosumers.load.dtype
    chosen = default_solver(market) if solver is None else solver
    arrays: AbstractSolver = jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if isinstance(a, float) else a, chosen.prepare(market)
    )
    plan, prices = _autarky(market) if start is None else (start.plan, start.prices)
    return cast(market, dtype), arrays, cast(plan, dtype), cast(prices, dtype)


def _worth_float32(market: Market) -> bool:
    load = market.prosumers.load
    return load.dtype == jnp.float64 and load.size >= _LARGE


def _roughly(
    market: Market,
    tol: Array,
    max_steps: int | None,
    progress: Callable[[Progress], None] | None,
) -> Clearing:
    """The clearing of the market in float32, judged by the market itself: at best the answer."""
    enough, most = _ROUGH
    narrow = cast(market, jnp.float32)
    most = most if max_steps is None else min(most, max_steps)
    goal = max(float(tol), enough)
    rough = clear(narrow, tol=goal, max_steps=most, throw=False, progress=progress)
    plan, prices = cast((rough.plan, rough.prices), jnp.float64)
    found = _judge(market, plan, prices)
    return Clearing(
        plan=plan,
        prices=prices,
        costs=costs(market, plan),
        aggregate=aggregate(market, plan),
        certificate=found,
        steps=rough.steps,
        run=run_of(market, None, tol),
        status=Status.where(found.error <= tol, Status.cleared, Status.max_steps),
    )


@program("a cold start", once=True)
def _autarky(market: Market) -> tuple[Plan, Rows]:
    """A cold start: everyone buys what they need of the main grid, at the price that this makes."""
    plan, people, stores = zeros(market), market.prosumers, market.buffers
    full = jnp.broadcast_to(stores.energy_start[:, None], plan.energy.shape)
    plan = replace(
        plan,
        imports=jnp.clip(people.load, 0.0, people.import_max),
        energy=jnp.clip(full, stores.energy_min, stores.energy_max),
    )
    price = grid_price(market, aggregate(market, plan))
    nothing = rows_like(market)
    return plan, replace(nothing, balance=nothing.balance + price)


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
    state, steps = solver.look(market, state), carry.steps + solver.every
    carry = replace(carry, state=state, steps=steps)
    worth = solver.worth_a_look(market, state, steps, tol)
    if worth is True:
        return _judged(market, solver, carry, tol)
    worth = worth | (steps >= limit)
    return lax.cond(worth, lambda: _judged(market, solver, carry, tol), lambda: carry)


def _judged(market: Market, solver: AbstractSolver, carry: Carry, tol: Array) -> Carry:
    """What a look at the new state says: only what decides whether to go on."""
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
def _solved(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array
) -> Carry:
    """Step until cleared, proven infeasible, non-finite, or `limit` steps are done."""
    return lax.while_loop(
        lambda carry: going(carry, limit),
        lambda carry: advance(market, solver, carry, tol, limit),
        carry,
    )


@program("the solver's steps")
def _steps(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array
) -> tuple[Carry, Bool[Array, ""]]:
    """The same, or until a renewal is due; and whether it is."""

    def due(carry: Carry) -> Bool[Array, ""]:
        return going(carry, limit) & solver.outdated(carry.state)

    carry = lax.while_loop(
        lambda carry: going(carry, limit) & ~due(carry),
        lambda carry: _onward(market, solver, carry, tol, limit),
        carry,
    )
    return carry, due(carry)


@program("the solver's renewal", once=True)
def _renewed(market: Market, solver: AbstractSolver, carry: Carry) -> Carry:
    return replace(carry, state=solver.renew(market, carry.state))


def _advance(
    market: Market, solver: AbstractSolver, carry: Carry, tol: Array, limit: Array
) -> Carry:
    """`_solved` from the host, whose renewals, which are seldom due, are a program of their own."""
    carry, due = _steps(market, solver, carry, tol, limit)
    while bool(due):
        carry, due = _steps(market, solver, _renewed(market, solver, carry), tol, limit)
    return carry


def _answered(market: Market, solver: AbstractSolver, carry: Carry, given: Market) -> Clearing:
    """The clearing of a solve that has ended, for the market `given`, before it was `rounded`.

    What is judged by JAX is judged with all rows, so that no program depends on how many there are.
    """
    if on_host() or not _by_numpy(market, carry):
        found = checked(market, finish(market, solver, carry))
        if market.trading.buyer.shape == given.trading.buyer.shape:
            return found
        plan, prices = fitted(given, found.plan), fitted(given, found.prices)
        told = replace(found.certificate, owners=owners(given))
        return replace(found, plan=plan, prices=prices, certificate=told)
    plan, prices = _point(market, solver, carry)
    plan, prices = fitted(given, plan), fitted(given, prices)
    rest = replace(carry, state=None, prices=fitted(given, carry.prices))
    with by_numpy():
        here, plan, prices, rest = to_host((given, plan, prices, rest))
        return to_device(checked(here, _concluded(here, plan, prices, rest)))


def _by_numpy(market: Market, carry: Carry) -> bool:
    """Whether NumPy writes the answer: where a solve takes long, that costs less than compiling."""
    return not is_quick(market) and runs_here((market, carry))


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


def _run(
    market: Market,
    solver: AbstractSolver,
    carry: Carry,
    tol: Array,
    limit: Array,
    progress: Callable[[Progress], None] | None,
    begun: float,
) -> Carry:
    """The loop in one call, or in jitted chunks from the host that call `progress` each."""
    if progress is None:
        return _advance(market, solver, carry, tol, limit)
    chunk = solver.every
    going = True
    while going:
        since = time.perf_counter()
        stop = jnp.minimum(carry.steps + chunk, limit)
        carry = _advance(market, solver, carry, tol, stop)
        now = time.perf_counter()
        with by_numpy(False):
            progress(Progress(int(carry.steps), float(carry.error), now - begun))
        going = bool(is_status(carry.status, Status.max_steps)) and int(carry.steps) < int(limit)
        if chunk > solver.every or now - since < 0.5:  # the first chunk may hold the compilation
            chunk = solver.every * max(1, round(0.5 * chunk / (now - since) / solver.every))
    return carry


def blank(market: Market, solver: AbstractSolver | None) -> Clearing:
    """A clearing of the right shapes, for `eqx.filter_eval_shape`."""
    run = run_of(market, solver, tolerance(None, market.prosumers.load.dtype))
    market, solver, plan, prices = ready(market, solver, None)
    with wide():
        carry = begin(market, solver, plan, prices)
        return checked(market, replace(finish(market, solver, carry), run=run))
