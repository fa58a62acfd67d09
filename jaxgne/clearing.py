"""Clearing a market: which solver and runner, what rules, and derivatives of the answer."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .certificate import Certificate, judge
from .choosing import Runner, chosen, default_solver, note
from .curves import crossing, curvatures, slopes
from .few_sizes import rounded
from .freed import give_back
from .market import Market, cast
from .model import (
    Plan,
    Rows,
    aggregate,
    at_prosumers,
    costs,
    grid_price,
    rows_like,
    zeros,
    zone_totals,
)
from .one_way import decide, metered, ways
from .options import checked_options, tolerance
from .ordering import ordered
from .programs import program
from .record import nameless
from .result import Clearing, NotCleared, Run, Stopped, complaint
from .runner import (
    by_numpy,
    concrete,
    held_here,
    jnp,
    lax,
    on_host,
    to_device,
    to_host,
    wide,
)
from .sensitivity.implicit import AbstractAdjoint, Implicit, equilibrium
from .size import is_quick
from .solve import Progress, Standing, answered, begin, checked, finish, reached, solved
from .solvers.base import AbstractSolver, written
from .status import Status, is_status
from .surplus import unsold
from .tables import has_zones
from .validation import gate

_LARGE = 1_000_000  # prosumer-hours from which on steps in float32 save more than they compile
# Relative error to which they are done: below it float32 gets no further, or none the sooner; and
# steps after which that has not come.
_ROUGH = 1e-4, 6_000


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

    Raises `NotCleared` if `throw` and the market did not clear, `Stopped` where Ctrl-C stops it,
    which holds what there is, and `ValueError` for a market or an option that makes no sense, or a
    `tol` below what the market's dtype can give.
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
        try:
            with by_numpy():
                found = _ruled(to_host(market), to_host(start), solve, tol, one_way)
        except Stopped as stop:
            raise Stopped(str(stop), to_device(stop.clearing)) from None
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


@nameless
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
        if is_status(start.status, Status.stopped):
            raise _stopped(checked(market, start))
        if bool(start.ok):
            return checked(market, start)
        done = int(start.steps)
    run, given, order = run_of(market, solver, tol), market, None
    if not (traced or on_host()):
        market, start, order = ordered(*rounded(market, start))
    market, solver, plan, prices = ready(market, solver, start)
    limit = jnp.asarray(solver.most if max_steps is None else max_steps, jnp.int32)
    with wide():  # the judge's float64; the market keeps its own dtype
        carry = begin(market, solver, plan, prices)
        at = Standing(replace(carry, steps=carry.steps + done))
        del start, plan, prices, carry  # large markets have no room for these beside their solves
        if not (traced or is_quick(market)):
            give_back()
        if traced:
            at.carry = solved(market, solver, at.carry, tol, limit)
        else:
            try:
                reached(market, solver, at, tol, limit, progress)
            except KeyboardInterrupt:
                at.carry = replace(at.carry, status=Status.stopped)
    clearing = replace(answered(market, solver, at, given, order), run=run)
    if not traced and is_status(clearing.status, Status.stopped):
        raise _stopped(clearing)
    return clearing


def _stopped(clearing: Clearing) -> Stopped:
    """What to raise where somebody stopped a solve, with what it came to."""
    steps, error = int(clearing.steps), float(clearing.certificate.error)
    return Stopped(f"stopped after {steps} steps, relative KKT error {error:.1e}", clearing)


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
    try:
        rough = clear(narrow, tol=goal, max_steps=most, throw=False, progress=progress)
        ended = Status.max_steps
    except Stopped as stop:
        rough, ended = stop.clearing, Status.stopped
    assert rough is not None, "of one market there is always one"
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
        status=Status.where(found.error <= tol, Status.cleared, ended),
    )


@program("a cold start", once=True)
def _autarky(market: Market) -> tuple[Plan, Rows]:
    """A cold start: everyone buys what they need of the main grid, at the price that this makes.

    Where costs are curves, as much is used or made as is worth that price.
    """
    plan, people, stores = zeros(market), market.prosumers, market.buffers
    full = jnp.broadcast_to(stores.energy_start[:, None], plan.energy.shape)
    plan = replace(
        plan,
        imports=jnp.clip(people.load, 0.0, people.import_max),
        energy=jnp.clip(full, stores.energy_min, stores.energy_max),
    )
    price = at_prosumers(market, grid_price(market, zone_totals(market, plan)))
    if market.generators.curves:
        plan = replace(plan, generation=_worth(market, price))
    nothing = rows_like(market)
    return plan, replace(nothing, balance=nothing.balance + price)


def _worth(market: Market, price: Float[Array, "#N H"]) -> Float[Array, "G H"]:
    """What generators whose costs are curves make at their owners' prices, kW; the others 0."""
    units = market.generators
    price = price[units.owner] if has_zones(market) else price

    def rise(power: Array) -> tuple[Array, Array]:
        steady = units.linear[:, None] + 2 * units.quadratic[:, None] * power - price
        bend = curvatures(units.curves, power)
        return steady + slopes(units.curves, power), 2 * units.quadratic[:, None] + bend

    middle = (units.power_min + units.power_max) / 2
    made = crossing(rise, units.power_min, units.power_max, middle)
    return jnp.where(curvatures(units.curves, middle) > 0, made, 0.0)


def blank(market: Market, solver: AbstractSolver | None) -> Clearing:
    """A clearing of the right shapes, for `eqx.filter_eval_shape`."""
    run = run_of(market, solver, tolerance(None, market.prosumers.load.dtype))
    market, solver, plan, prices = ready(market, solver, None)
    with wide():
        carry = begin(market, solver, plan, prices)
        return checked(market, replace(finish(market, solver, carry), run=run))
