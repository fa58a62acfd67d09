"""Scenarios that share a program: begun together, stepped until all have ended.

On a CPU, whose cores one scenario keeps busy, they are cleared one after the other, in one program.
Elsewhere they step together: one that has ended stays as it is, but still costs its share of each
step; so when three quarters of a program's scenarios have ended, the others go on in one of a
quarter its width.
"""

from collections.abc import Callable
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
from .record import unnamed
from .result import Clearing
from .runner import by_numpy, to_host
from .solve import Carry, advance, anew, begin, checked, decided, finish, going
from .solvers.base import AbstractSolver
from .status import Status

_IN_TURN = ("cpu",)  # platforms on which scenarios are cleared one after the other
_NARROWER = 4  # how much narrower each next program is
_NARROWEST = 4  # scenarios below which a program is not split


class Group(NamedTuple):
    """What all scenarios share: how they are cleared, and over which devices."""

    solver: AbstractSolver
    tol: Array
    limit: Array  # of steps
    mesh: Mesh | None

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
        carry = _begin_all(markets, plans, prices, group.solver, mesh=group.mesh)
        carry = _run(group, markets, carry, jnp.minimum(group.limit, group.solver.doubtful))
        carry = _decided(group, markets, carry, count)
        carry = _run(group, markets, carry, group.limit)
    return _finish_all(markets, carry, group.solver, mesh=group.mesh)


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


def _decided(group: Group, markets: Market, carry: Carry, count: int) -> Carry:
    """The same, with the proofs that linear programs find for scenarios in doubt."""
    lasted = (carry.status == Status.max_steps) & (carry.steps >= group.solver.doubtful)
    doubt = np.asarray(lasted | (carry.status == Status.nonfinite))
    for at in np.flatnonzero(doubt[:count]):
        same = at if at < count - 1 else slice(at, None)  # the last one fills the program up
        market, one = lanes_of((markets, carry), int(at))
        new = decided(market, one)
        if bool(going(new, group.limit)):
            new = anew(market, group.solver, new)
        if new is not one:
            carry = jax.tree.map(lambda a, b: a.at[same].set(b), carry, new)  # noqa: B023
            carry = carry if group.mesh is None else group.placed(carry)
    return carry


def _run(group: Group, markets: Market, whole: Carry, limit: Array) -> Carry:
    """Step until all scenarios have ended or done `limit`, stragglers in narrower programs."""
    if not np.asarray(_live(whole, limit)).any():
        return whole
    solver, tol, _, mesh = group
    in_turn = jax.local_devices()[0].platform in _IN_TURN
    carry, here = whole, np.arange(whole.steps.shape[0])
    width = here.size // group.devices  # of each device
    while True:
        width = width // _NARROWER if width >= _NARROWEST * _NARROWER else 0
        few = jnp.asarray(width)
        carry = _until(markets, carry, solver, tol, limit, few, in_turn, mesh=mesh)
        if here.size == whole.steps.shape[0]:
            whole = carry
        else:
            whole = jax.tree.map(lambda a, b: a.at[here].set(b), whole, carry)  # noqa: B023
        live = np.asarray(_live(carry, limit))
        if not live.any():
            return whole
        pick = np.argsort(~live, kind="stable")[: width * group.devices]
        markets, carry = group.placed(jax.tree.map(lambda a: a[pick], (markets, carry)))  # noqa: B023
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


@_on_each("the batch's steps", once=False)
def _until(
    markets: Market,
    carry: Carry,
    solver: AbstractSolver,
    tol: Array,
    limit: Array,
    few: Array,
    in_turn: bool,
) -> Carry:
    """Step until all have ended, one after the other `in_turn`; else until all but `few` have.

    Those that have ended stay as they are.
    """

    def alone(one: tuple[Market, Carry]) -> Carry:
        market, carry = one
        return jax.lax.while_loop(
            lambda c: going(c, limit), lambda c: advance(market, solver, c, tol, limit), carry
        )

    if in_turn:
        return jax.lax.map(alone, (markets, carry))

    def step(carry: Carry) -> Carry:
        live = _live(carry, limit)
        fresh = jax.vmap(lambda m, c: advance(m, solver, c, tol, limit))(markets, carry)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(chosen, fresh, carry)

    return jax.lax.while_loop(lambda c: jnp.sum(_live(c, limit)) > few, step, carry)


@program("cold starts", once=True)
def _cold(markets: Market) -> tuple[Plan, Rows]:
    return jax.vmap(lambda market: ready(market, None, None)[2:])(markets)


@_on_each("the batch's start", once=True)
def _begin_all(markets: Market, plans: Plan, prices: Rows, solver: AbstractSolver) -> Carry:
    return jax.vmap(lambda m, u, y: begin(m, solver, u, y))(markets, plans, prices)


@_on_each("the batch's answers", once=True)
def _finish_all(markets: Market, carry: Carry, solver: AbstractSolver) -> Clearing:
    return jax.vmap(lambda m, c: checked(m, finish(m, solver, c)))(markets, carry)
