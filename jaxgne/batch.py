"""Clearing many markets: chunks that fit the memory, stragglers in ever smaller programs.

On a CPU, whose cores one scenario keeps busy, the scenarios of a chunk are cleared one after the
other, in one program. Elsewhere they step together: one that has ended stays as it is, but still
costs its share of each step; so when three quarters of a program's scenarios have ended, the others
go on in one of a quarter its width.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from .choosing import Runner, batch_runner, default_solver
from .clearing import clear, differentiable, ready, run_of, with_regret
from .fingerprint import fingerprint
from .io.batches import Blocks
from .market import Market
from .model import Plan, Rows, rows_like, zeros
from .options import checked_options, tolerance
from .placement import local_mesh, mesh_of, own_part, place, whole
from .programs import program
from .record import Record
from .result import Clearing, Run
from .runner import by_numpy, concrete, to_host
from .sensitivity.implicit import AbstractAdjoint
from .solve import Carry, advance, anew, begin, checked, decided, finish, going
from .solvers.base import AbstractSolver
from .status import Status
from .validation import gate_many

_IN_TURN = ("cpu",)  # platforms on which scenarios are cleared one after the other
_NARROWER = 4  # how much narrower each next program is
_NARROWEST = 4  # scenarios below which a program is not split
_COPIES = 12  # of market and state that a step holds at once, for the memory budget
_SHARE = 0.5  # of the device's free memory that a chunk may take
_WIDEST = {"cpu": 8}  # scenarios a chunk where it need not be wide


class BatchProgress(Record):
    """What a progress callback of `clear_many` is told."""

    done: int
    total: int
    seconds: float


class Stopped(KeyboardInterrupt):
    """Ctrl-C during `clear_many`; `.clearing` holds the scenarios that were done, in order."""

    def __init__(self, clearing: Clearing | None, done: int):
        super().__init__(f"stopped after {done} scenarios")
        self.clearing = clearing


def clear_many(
    markets: Market,
    solver: AbstractSolver | None = None,
    *,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    width: int | None = None,
    folder: str | Path | None = None,
    adjoint: AbstractAdjoint | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
    one_way: bool = False,
    runner: Runner | None = None,
) -> Clearing:
    """Clear a batch of markets: every array of `markets` has a leading axis of scenarios.

    Takes what `clear` takes and gives the same answers, one per scenario, with a status each; it
    never raises for a market that does not clear. `start` is a clearing of as many scenarios, or of
    one market for all to start from.
    `width` scenarios share a program, by default as many as the device's memory allows, or 8 a
    device on CPUs; where memory runs out after all, half as many. With `folder` each finished chunk
    is written there, and a later call with the same arguments goes on after the last one; a chunk
    that was damaged since is cleared again, with a warning. `jaxgne.load(folder)` gives markets and
    clearing once all are done. Ctrl-C raises `Stopped`, which holds what was done.

    `one_way` is that of `clear`, for each scenario: those that cleared are cleared again from
    there, one after the other. `certificate.ways.regret` then has one number each, EUR, which is
    NaN where a scenario did not clear.

    `runner` is "numpy", one scenario after the other without compiling anything, "jax", or None for
    whichever is sooner done: NumPy for few small markets, and never with `one_way`
    (`docs/runners.md`). `clearing.runner` tells which it was.

    A batch that `spread` has cut over several devices is cleared on all of them, `width` being what
    all hold together. With several processes each clears its own scenarios, and the clearing is
    spread as the batch was.

    Runs on the host; under `jax.jit` use `jax.vmap(clear)`. Under `jax.grad` and its like outside
    of jit it gives the derivatives that `clear` does, by `adjoint`. Raises `TypeError` traced, and
    `ValueError` for arrays without one leading axis, markets that make no sense, `one_way` over
    several devices, a `runner` that cannot, or a folder that holds other scenarios.
    """
    checked_options(
        "clear_many", markets, solver, max_steps=max_steps, start=start, adjoint=adjoint,
        progress=progress, width=width,
    )  # fmt: skip
    given, (markets, start) = markets, stop_gradient((markets, start))
    if not concrete((markets, start)):
        raise TypeError("clear_many() runs on the host: under jit use jax.vmap(jaxgne.clear).")
    _scenarios(markets)
    mesh = mesh_of(markets)
    if one_way and mesh is not None:
        raise ValueError(
            "clear_many(one_way=True) clears scenarios one after the other on one device: give a "
            "batch that `spread` has not cut."
        )
    if mesh is not None and not markets.prosumers.load.is_fully_addressable:
        pieces = markets.prosumers.load.addressable_shards
        offset = min(piece.index[0].start or 0 for piece in pieces)
        part = partial(_clear_all, mesh=local_mesh(mesh), offset=offset)
        if start is not None and np.ndim(start.steps):
            start = own_part(start)
        found = part(own_part(markets), solver, tol, max_steps, start, width, folder, progress)
        found = whole(found, mesh)
    else:
        found = _clear_all(
            markets, solver, tol, max_steps, start, width, folder, progress,
            mesh=mesh, offset=0, one_way=one_way, runner=runner,
        )  # fmt: skip
    if concrete(given):
        return found
    found = jax.tree.map(jnp.asarray, found)
    return jax.vmap(lambda m, c: differentiable(m, c, adjoint))(given, found)


def _clear_all(
    markets: Market,
    solver: AbstractSolver | None,
    tol: Any,
    max_steps: int | None,
    start: Clearing | None,
    width: int | None,
    folder: str | Path | None,
    progress: Callable[[BatchProgress], None] | None,
    *,
    mesh: Mesh | None,
    offset: int,
    one_way: bool = False,
    runner: Runner | None = None,
) -> Clearing:
    """`clear_many` of what this process holds: scenarios from `offset` on."""
    total = _scenarios(markets)
    if start is not None and np.ndim(start.steps) == 0:
        start = jax.tree.map(lambda a: np.broadcast_to(a, (total, *np.shape(a))), start)
    markets = jax.tree.map(np.asarray, markets)  # of which each chunk takes its own
    gate_many(markets, offset)
    one = jax.tree.map(lambda a: jnp.asarray(a[0]), markets)
    solver = default_solver(one) if solver is None else solver
    tol = tolerance(tol, one.prosumers.load.dtype)
    run = run_of(one, solver, tol)
    # what any scenario needs, not the first alone
    _, solver, _, _ = ready(one, solver.prepare(markets), None)
    job = _Job(markets, solver, start, tol, run, max_steps, mesh, offset, one_way)
    block = min(total, job.whole(width or _width(job)))
    store = None if folder is None else _store(Path(folder), job, block)
    wide = block  # scenarios of a program
    if store:
        block = store.block
        wide = job.whole(min(wide, block))
    job.at_once = _at_once(job, one, runner, wide)
    begun, found = time.perf_counter(), []
    try:
        for at in range(0, total, block):
            lanes = slice(at, min(at + block, total))
            known = store and store.read(lanes)
            if not known:
                known = _with_room(job, lanes, wide)
                if store:
                    store.write(lanes, known)
            found.append(known)
            if progress:
                progress(BatchProgress(lanes.stop, total, time.perf_counter() - begun))
    except KeyboardInterrupt:
        done = sum(part.steps.shape[0] for part in found)
        raise Stopped(_joined(found) if found else None, done) from None
    return _joined(found)


class _Job:
    """What all chunks share."""

    def __init__(
        self,
        markets: Market,
        solver: AbstractSolver,
        start: Clearing | None,
        tol: Array,
        run: Run,
        max_steps: int | None,
        mesh: Mesh | None,
        offset: int,
        one_way: bool,
    ):
        self.markets, self.solver, self.start = markets, solver, start
        self.tol, self.run = tol, run
        self.mesh, self.offset, self.one_way = mesh, offset, one_way
        self.devices = 1 if mesh is None else mesh.size
        self.in_turn = jax.local_devices()[0].platform in _IN_TURN
        self.limit = jnp.asarray(solver.most if max_steps is None else max_steps, jnp.int32)
        self.widest: int | None = None  # scenarios at once that memory has been found to hold
        self.at_once = False  # whether NumPy clears them, one after the other
        self.first: Clearing | None = None  # of the first scenario, by NumPy

    def whole(self, width: int) -> int:
        """A width that the devices divide."""
        return -(-width // self.devices) * self.devices

    def placed(self, tree: Any) -> Any:
        """A chunk on its devices."""
        return jax.tree.map(jnp.asarray, tree) if self.mesh is None else place(tree, self.mesh)


def _scenarios(markets: Market) -> int:
    shape = markets.prosumers.load.shape
    if len(shape) != 3:
        raise ValueError(
            f"clear_many: Prosumers.load has shape {shape}; give (scenarios, prosumers, hours), "
            "as stack, sweep or perturb do."
        )
    for path, leaf in jax.tree_util.tree_flatten_with_path(markets)[0]:
        if np.shape(leaf)[:1] != shape[:1]:
            name = jax.tree_util.keystr(path).lstrip(".")
            raise ValueError(
                f"clear_many: {name} has shape {np.shape(leaf)}; its first axis must be the "
                f"{shape[0]} scenarios."
            )
    return shape[0]


def _lanes(tree: Any, lanes: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a[lanes]), tree)


def _width(job: _Job) -> int:
    """Scenarios that step at once: what memory allows, and no more than caches like."""
    device = jax.local_devices()[0]
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), job.markets)
    leaves, structure = jax.tree.flatten((one, eqx.filter_eval_shape(lambda s: s, job.solver)))
    size = _bytes(structure, tuple(leaves))
    free = (device.memory_stats() or {}).get("bytes_limit")
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    room = max(1, int(_SHARE * free / (_COPIES * size)))
    return job.devices * min(room, _WIDEST.get(device.platform, 1 << 20))


@cache
def _bytes(structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    """What market and state of one scenario take; cached, as finding out takes 60 ms."""

    def both(market: Market, solver: AbstractSolver) -> tuple[Market, Carry]:
        market, solver, plan, prices = ready(market, solver, None)
        return market, begin(market, solver, plan, prices)

    with jax.enable_x64(True):
        found = eqx.filter_eval_shape(both, *jax.tree.unflatten(structure, leaves))
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(found))


def _with_room(job: _Job, lanes: slice, width: int) -> Clearing:
    """A block's clearing, in narrower chunks where the device runs out of memory."""
    job.widest = min(width, job.widest or width)
    while True:
        try:
            parts = []
            for at in range(lanes.start, lanes.stop, job.widest):
                chunk = slice(at, min(at + job.widest, lanes.stop))
                parts.append(_chunk(job, chunk, job.widest))
            return _joined(parts)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or job.widest <= job.devices:
                raise
            job.widest = job.whole((job.widest + 1) // 2)


def _at_once(job: _Job, one: Market, runner: Runner | None, width: int) -> bool:
    """Whether NumPy clears the batch, of which `one` is the first; it is cleared to find out."""
    if job.one_way or job.mesh is not None:
        if runner == "numpy":
            raise ValueError(
                'clear_many: runner="numpy" works on one device, without one_way; leave it out.'
            )
        return False

    def pace() -> float:
        begun = time.perf_counter()
        job.first = _alone(job, 0)
        return time.perf_counter() - begun

    def stored() -> bool:
        with by_numpy():
            nothing = zeros(to_host(one)), rows_like(to_host(one))
        lane = np.zeros(width, int)
        plans, prices = job.placed(jax.tree.map(lambda a: np.stack([a])[lane], nothing))
        with jax.enable_x64(True):
            markets = job.placed(_lanes(job.markets, lane))
            return _begin_all.ready(markets, plans, prices, job.solver, mesh=None)

    count = job.markets.prosumers.load.shape[0]
    return batch_runner(one, job.solver, job.start, runner, count, pace, stored) == "numpy"


def _alone(job: _Job, at: int) -> Clearing:
    """A scenario's clearing by NumPy."""
    market = jax.tree.map(jnp.asarray, _lanes(job.markets, at))
    start = None if job.start is None else jax.tree.map(jnp.asarray, _lanes(job.start, at))
    limit = int(job.limit)
    found = clear(
        market, job.solver, tol=job.tol, max_steps=limit, start=start, throw=False, runner="numpy"
    )
    return replace(found, run=replace(job.run, compiled=jnp.zeros((), bool)))


def _chunk(job: _Job, lanes: slice, width: int) -> Clearing:
    """Scenarios `lanes` in a program `width` wide, filled up with copies of the last."""
    if job.at_once:
        found = [
            _alone(job, at) if at or job.first is None else job.first
            for at in range(lanes.start, lanes.stop)
        ]
        return jax.tree.map(lambda *each: np.stack(each), *found)
    count = lanes.stop - lanes.start
    index = np.minimum(np.arange(lanes.start, lanes.start + width), lanes.stop - 1)
    markets = job.placed(_lanes(job.markets, index))
    if job.start is None:
        plans, prices = _cold(markets)
    else:
        plans, prices = job.placed(_lanes((job.start.plan, job.start.prices), index))
    with jax.enable_x64(True):
        carry = _begin_all(markets, plans, prices, job.solver, mesh=job.mesh)
        carry = _run(job, markets, carry, jnp.minimum(job.limit, job.solver.doubtful))
        carry = _decided(job, markets, carry, count)
        carry = _run(job, markets, carry, job.limit)
    clearing = _finish_all(markets, carry, job.solver, mesh=job.mesh)
    told = clearing.certificate.ways
    alone = np.zeros(0, int)
    if told is not None and job.mesh is None:
        ruled = (told.meters.count > 0) | job.one_way
        alone = np.flatnonzero(np.asarray(ruled & clearing.ok)[:count])
    clearing = jax.tree.map(lambda a: np.asarray(a)[:count], clearing)
    run = jax.tree.map(lambda a: np.full(count, a), job.run)
    clearing = replace(clearing, run=run)
    if job.one_way:
        clearing = with_regret(clearing)
    return _ruled(job, lanes.start, clearing, alone) if alone.size else clearing


def _ruled(job: _Job, first: int, found: Clearing, alone: np.ndarray) -> Clearing:
    """The same, scenarios that rules of meters and batteries change cleared alone, by `clear`."""
    found = jax.tree.map(np.array, found)
    options = {"tol": job.tol, "max_steps": int(job.limit), "throw": False, "one_way": job.one_way}
    for at in alone.tolist():
        market = jax.tree.map(jnp.asarray, _lanes(job.markets, first + at))
        one = clear(market, job.solver, start=_lanes(found, at), **options)
        for all_, new in zip(*(jax.tree.leaves(c) for c in (found, one)), strict=True):
            all_[at] = np.asarray(new)
    return found


def _decided(job: _Job, markets: Market, carry: Carry, count: int) -> Carry:
    """The same, with the proofs that linear programs find for scenarios in doubt."""
    lasted = (carry.status == Status.max_steps) & (carry.steps >= job.solver.doubtful)
    doubt = np.asarray(lasted | (carry.status == Status.nonfinite))
    for at in np.flatnonzero(doubt[:count]):
        same = at if at < count - 1 else slice(at, None)  # the last one fills the program up
        market, one = _lanes((markets, carry), int(at))
        new = decided(market, one)
        if bool(going(new, job.limit)):
            new = anew(market, job.solver, new)
        if new is not one:
            carry = jax.tree.map(lambda a, b: a.at[same].set(b), carry, new)  # noqa: B023
            carry = carry if job.mesh is None else job.placed(carry)
    return carry


def _run(job: _Job, markets: Market, whole: Carry, limit: Array) -> Carry:
    """Step until all scenarios have ended or done `limit`, stragglers in narrower programs."""
    if not np.asarray(_live(whole, limit)).any():
        return whole
    carry, here = whole, np.arange(whole.steps.shape[0])
    width = here.size // job.devices  # of each device
    while True:
        width = width // _NARROWER if width >= _NARROWEST * _NARROWER else 0
        few = jnp.asarray(width)
        carry = _until(markets, carry, job.solver, job.tol, limit, few, job.in_turn, mesh=job.mesh)
        if here.size == whole.steps.shape[0]:
            whole = carry
        else:
            whole = jax.tree.map(lambda a, b: a.at[here].set(b), whole, carry)  # noqa: B023
        live = np.asarray(_live(carry, limit))
        if not live.any():
            return whole
        pick = np.argsort(~live, kind="stable")[: width * job.devices]
        markets, carry = job.placed(jax.tree.map(lambda a: a[pick], (markets, carry)))  # noqa: B023
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


def _joined(parts: list[Clearing]) -> Clearing:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _store(folder: Path, job: _Job, block: int) -> Blocks:
    """A folder of finished blocks, under a fingerprint of all that their answers depend on."""
    start = job.start and (job.start.plan, job.start.prices)
    mark = fingerprint(job.markets, job.solver, job.tol, job.limit, start, job.one_way)
    solver = job.run.solver
    return Blocks(folder, job.markets, mark, block, job.offset, solver, job.one_way)
