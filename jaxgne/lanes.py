"""Scenarios that share a program: begun together, stepped until all have ended.

On a CPU, whose cores one scenario keeps busy, they are cleared one after the other, in one program.
Elsewhere they step together: one that has ended stays as it is, but still costs its share of each
step; so when three quarters of a program's scenarios have ended, the others go on in one of a
quarter its width.

Either way a scenario whose error has not halved for long waits until the others have ended or wait
too. Then the few that are far behind all others are stopped, and the rest goes on.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from .clearing import ready
from .market import Market
from .model import Plan, Rows, rows_like, zeros
from .placement import place
from .programs import program
from .record import Record, unnamed
from .result import Clearing
from .runner import by_numpy, to_host
from .solve import Carry, advance, anew, begin, checked, decided, finish, going
from .solvers.base import AbstractSolver
from .status import Status, either, is_status

_IN_TURN = ("cpu",)  # platforms on which scenarios are cleared one after the other
_NARROWER = 4  # how much narrower each next program is
_NARROWEST = 4  # scenarios below which a program is not split
_FEW = 4  # of so many scenarios one may be stopped
_LEAST = 0.01  # of a solver's most steps: what the slowest is taken to need at least


class Group(NamedTuple):
    """What all scenarios share: how they are cleared, and over which devices."""

    solver: AbstractSolver
    tol: Array
    limit: Array  # of steps
    mesh: Mesh | None
    patience: float  # times the steps of the slowest that cleared, after which few are waited for

    @property
    def devices(self) -> int:
        """How many."""
        return 1 if self.mesh is None else self.mesh.size

    def whole(self, width: int) -> int:
        """A width that the devices divide."""
        return -(-width // self.devices) * self.devices

    def placed(self, tree: Any) -> Any:
        """Scenarios on their devices."""
        return jax.tree.map(jnp.asarray, tree) if self.mesh is None else place(tree, self.mesh)


class Lane(Record):
    """Where the solve of a scenario stands, and where it was when its error had last halved."""

    carry: Carry
    error: Array  # then
    steps: Array  # then


def lanes_of(tree: Any, lanes: Any) -> Any:
    """Some scenarios of a batch, or one, as NumPy's arrays."""
    return jax.tree.map(lambda a: np.asarray(a[lanes]), tree)


def together(
    group: Group, markets: Market, start: tuple[Plan, Rows] | None, count: int
) -> Clearing:
    """A batch's clearing in one program, or in narrower ones; cold without a start.

    Scenarios from `count` on are copies that fill the program up: whether they have a plan is not
    asked. Rules of meters and batteries are not applied.
    """
    markets = group.placed(markets)
    plans, prices = _cold(markets) if start is None else group.placed(start)
    with jax.enable_x64(True):
        lanes = _watched(_begin_all(markets, plans, prices, group.solver, mesh=group.mesh))
        doubtful = jnp.minimum(group.limit, group.solver.doubtful)
        lanes = _run(group, markets, lanes, doubtful, count)
        lanes = _decided(group, markets, lanes, count)
        lanes = _run(group, markets, lanes, group.limit, count)
    return _finish_all(markets, lanes.carry, group.solver, mesh=group.mesh)


def _watched(carry: Carry) -> Lane:
    """Where a solve stands that was just begun."""
    return Lane(carry, carry.error, carry.steps)


def size_of(one: Any, solver: AbstractSolver) -> int:
    """Bytes that market and state of one scenario take, given the shapes of its arrays."""
    both, _ = unnamed((one, eqx.filter_eval_shape(lambda s: s, solver)))
    leaves, structure = jax.tree.flatten(both)
    return _bytes(structure, tuple(leaves))


@cache
def _bytes(structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    """What market and state of one scenario take; cached, as finding out takes 60 ms."""

    def both(market: Market, solver: AbstractSolver) -> tuple[Market, Carry]:
        market, solver, plan, prices = ready(market, solver, None)
        return market, begin(market, solver, plan, prices)

    with jax.enable_x64(True):
        found = eqx.filter_eval_shape(both, *jax.tree.unflatten(structure, leaves))
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(found))


def is_stored(group: Group, markets: Market, width: int) -> bool:
    """Whether programs for so many of these scenarios are compiled already, on one device."""
    lane = np.zeros(width, int)
    one = to_host(lanes_of(markets, 0))
    with by_numpy():
        nothing = zeros(one), rows_like(one)
    plans, prices = jax.tree.map(lambda a: jnp.asarray(np.stack([a])[lane]), nothing)
    with jax.enable_x64(True):
        markets = group.placed(lanes_of(markets, lane))
        return _begin_all.ready(markets, plans, prices, group.solver, mesh=None)


def _decided(group: Group, markets: Market, lanes: Lane, count: int) -> Lane:
    """The same, with the proofs that linear programs find for scenarios in doubt."""
    carry = lanes.carry
    lasted = (carry.status == Status.max_steps) & (carry.steps >= group.solver.doubtful)
    ended = (carry.status == Status.nonfinite) | (carry.status == Status.stopped)
    doubt = np.asarray(lasted | ended)
    for at in np.flatnonzero(doubt[:count]):
        same = at if at < count - 1 else slice(at, None)  # the last one fills the program up
        market, one = lanes_of((markets, carry), int(at))
        new = decided(market, one)
        if bool(going(new, group.limit)):
            new = anew(market, group.solver, new)
        if new is not one:
            lanes = jax.tree.map(lambda a, b: a.at[same].set(b), lanes, _watched(new))  # noqa: B023
            lanes = lanes if group.mesh is None else group.placed(lanes)
    return lanes


def _run(group: Group, markets: Market, lanes: Lane, limit: Array, count: int) -> Lane:
    """Step until all scenarios have ended, done `limit`, or are stopped as stragglers.

    These are at most one in `_FEW` of the `count`, and the others have ended. Each stalls, and has
    taken `patience` times the steps of the slowest that cleared, or of `_LEAST` if that is more.
    """
    most, few = int(limit), count // _FEW
    least = group.patience * _LEAST * group.solver.most
    waits = min(least, most) if few else most
    while True:
        lanes = _until_stalled(group, markets, lanes, limit, jnp.asarray(int(waits), jnp.int32))
        left = np.asarray(_live(lanes.carry, limit))
        if not left.any():
            return lanes
        steps = np.asarray(lanes.carry.steps)
        cleared = steps[:count][np.asarray(is_status(lanes.carry.status, Status.cleared))[:count]]
        if left[:count].sum() > few or not cleared.size:
            waits = min(2 * int(steps[left].max()), most)
            continue
        waits = min(max(least, group.patience * int(cleared.max())), most)
        lanes = _stopped(lanes, jnp.asarray(left & (steps >= waits)))
        lanes = lanes if group.mesh is None else group.placed(lanes)


@program("what stops the batch's stragglers", once=True)
def _stopped(lanes: Lane, late: Array) -> Lane:
    def one(carry: Carry, late: Array) -> Carry:
        return replace(carry, status=either(late, Status.stopped, carry.status))

    return replace(lanes, carry=jax.vmap(one)(lanes.carry, late))


def _until_stalled(group: Group, markets: Market, whole: Lane, limit: Array, waits: Array) -> Lane:
    """Step until all scenarios have ended, done `limit`, or stall after `waits` steps or more.

    Those that take longer than others go on in narrower programs.
    """
    solver, tol, mesh = group.solver, group.tol, group.mesh
    live = np.asarray(_onward(whole, limit, waits))
    if not live.any():
        return whole
    in_turn = jax.local_devices()[0].platform in _IN_TURN
    lanes, here = whole, np.arange(live.size)
    width = here.size // group.devices  # of each device
    while True:
        narrower = width // _NARROWER if width >= _NARROWEST * _NARROWER and not in_turn else 0
        stop = limit if narrower and here.size == whole.steps.size else waits  # too many are left
        few = jnp.asarray(narrower)
        lanes = _until(markets, lanes, solver, tol, limit, stop, few, in_turn, mesh=mesh)
        if here.size == whole.steps.size:
            whole = lanes
        else:
            whole = jax.tree.map(lambda a, b: a.at[here].set(b), whole, lanes)  # noqa: B023
        live, width = np.asarray(_onward(lanes, limit, waits)), narrower
        if not live.any():
            return whole
        pick = np.argsort(~live, kind="stable")[: width * group.devices]
        markets, lanes = group.placed(jax.tree.map(lambda a: a[pick], (markets, lanes)))  # noqa: B023
        here = here[pick]


def _on_each(words: str, once: bool) -> Callable[[Callable[..., Any]], Any]:
    """Compiled; over a mesh each device runs it on the scenarios that it holds, by itself.

    Solvers and numbers are the same for all, everything else is cut by scenario.
    """

    def on_each(body: Callable[..., Any]) -> Any:
        @wraps(body)
        def run(*arguments: Any, mesh: Mesh | None) -> Any:
            if mesh is None:
                return body(*arguments)
            arrays, rest = eqx.partition(arguments, eqx.is_array)
            shared = (AbstractSolver, Array)
            cut = PartitionSpec(*mesh.axis_names)
            specs = tuple(PartitionSpec() if isinstance(a, shared) else cut for a in arguments)
            return jax.shard_map(
                lambda *arrays: body(*eqx.combine(arrays, rest)),
                mesh=mesh,
                in_specs=specs,
                out_specs=cut,
                check_vma=False,
            )(*arrays)

        del run.__wrapped__  # it takes a mesh, which the body does not
        return program(words, once=once)(run)

    return on_each


@program("what is left of the batch", once=True)
def _live(carry: Carry, limit: Array) -> Array:
    return jax.vmap(lambda c: going(c, limit))(carry)


@program("what is left of the batch but for what stalls", once=True)
def _onward(lanes: Lane, limit: Array, waits: Array) -> Array:
    return jax.vmap(lambda lane: _moves(lane, limit, waits))(lanes)


def _moves(lane: Lane, limit: Array, waits: Array) -> Array:
    """Whether a solve goes on: it has not ended, and does not stall after `waits` steps or more.

    It stalls if its error has not halved in half of all its steps.
    """
    steps = lane.carry.steps
    stalls = (steps >= waits) & (steps >= 2 * lane.steps)
    return going(lane.carry, limit) & ~stalls


@_on_each("the batch's steps", once=False)
def _until(
    markets: Market,
    lanes: Lane,
    solver: AbstractSolver,
    tol: Array,
    limit: Array,
    waits: Array,
    few: Array,
    in_turn: bool,
) -> Lane:
    """Step until all have ended or stall, one after the other `in_turn`; else all but `few`.

    Those that do stay as they are.
    """

    def further(market: Market, lane: Lane) -> Lane:
        carry = advance(market, solver, lane.carry, tol, limit)
        halved = carry.error <= lane.error / 2
        error = jnp.where(halved, carry.error, lane.error)
        return Lane(carry, error, jnp.where(halved, carry.steps, lane.steps))

    def alone(one: tuple[Market, Lane]) -> Lane:
        market, lane = one
        return jax.lax.while_loop(
            lambda lane: _moves(lane, limit, waits),
            lambda lane: further(market, lane),
            lane,
        )

    if in_turn:
        return jax.lax.map(alone, (markets, lanes))

    def step(lanes: Lane) -> Lane:
        live = _onward(lanes, limit, waits)
        fresh = jax.vmap(further)(markets, lanes)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(chosen, fresh, lanes)

    return jax.lax.while_loop(
        lambda lanes: jnp.sum(_onward(lanes, limit, waits)) > few, step, lanes
    )


@program("cold starts", once=True)
def _cold(markets: Market) -> tuple[Plan, Rows]:
    return jax.vmap(lambda market: ready(market, None, None)[2:])(markets)


@_on_each("the batch's start", once=True)
def _begin_all(markets: Market, plans: Plan, prices: Rows, solver: AbstractSolver) -> Carry:
    return jax.vmap(lambda m, u, y: begin(m, solver, u, y))(markets, plans, prices)


@_on_each("the batch's answers", once=True)
def _finish_all(markets: Market, carry: Carry, solver: AbstractSolver) -> Clearing:
    return jax.vmap(lambda m, c: checked(m, finish(m, solver, c)))(markets, carry)
