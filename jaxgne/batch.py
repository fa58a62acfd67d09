"""Clearing many markets: in chunks that fit the memory, kept on disk as they are done.

How the scenarios of a chunk share a program is up to `lanes`.
"""

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.sharding import Mesh

from .arguments import of_tables
from .choosing import Runner, batch_runner, default_solver
from .clearing import clear, differentiable, ready, run_of, with_regret
from .cluster import check, each
from .fingerprint import fingerprint
from .io.batches import Blocks
from .lanes import Group, is_stored, lanes_of, size_of, together
from .market import Market
from .options import checked_options, tolerance
from .placement import local_mesh, mesh_of, own_part, whole
from .record import Record, without_names
from .result import Clearing, Run, Stopped
from .runner import concrete
from .sensitivity.implicit import AbstractAdjoint
from .solvers.base import AbstractSolver
from .validation import gate_many

_COPIES = 12  # of market and state that a step holds at once, for the memory budget
_SHARE = 0.5  # of the device's free memory that a chunk may take
PATIENCE = 10.0  # times the steps of the slowest that cleared, by default
_WIDEST = {"cpu": 8}  # scenarios a chunk where it need not be wide


class BatchProgress(Record):
    """What a progress callback of `clear_many` is told."""

    done: int
    total: int
    seconds: float


@of_tables
def clear_many(
    markets: Market,
    solver: AbstractSolver | None = None,
    *,
    tol: Any = None,
    max_steps: int | None = None,
    patience: float = PATIENCE,
    start: Clearing | None = None,
    width: int | None = None,
    folder: str | Path | None = None,
    adjoint: AbstractAdjoint | None = None,
    progress: Callable[[BatchProgress], None] | None = None,
    one_way: bool = False,
    runner: Runner | None = None,
    client: Any = None,
) -> Clearing:
    """Clear a batch of markets: every array of `markets` has a leading axis of scenarios.

    Takes what `clear` takes and gives the same answers, one per scenario, with a status each; it
    never raises for a market that does not clear. `start` is a clearing of as many scenarios, or of
    one market for all to start from.

    A straggler is stopped, with the status `stopped` and what it has reached: where at most a
    quarter of those that share a program is left, a scenario whose error has not halved in half of
    its steps, and that has taken `patience` times the steps of the slowest that cleared. `math.inf`
    waits for all (`docs/batches.md`).

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

    With a `client`, a `distributed.Client`, the workers of a Dask cluster clear the chunks, and all
    else is as without it: the same numbers, bit by bit where machines are alike, in the same
    `folder` (`docs/cluster.md`). After Ctrl-C `Stopped` then holds the scenarios before the first
    that was not done; the folder has all.

    Runs on the host; under `jax.jit` use `jax.vmap(clear)`. Under `jax.grad` and its like outside
    of jit it gives the derivatives that `clear` does, by `adjoint`. Raises `TypeError` traced, and
    `ValueError` for arrays without one leading axis, markets that make no sense, `one_way` over
    several devices, a `patience` below 1, a `runner` or a `client` that cannot, or a folder that
    holds other scenarios.
    """
    checked_options(
        "clear_many", markets, solver, max_steps=max_steps, start=start, adjoint=adjoint,
        progress=progress, width=width,
    )  # fmt: skip
    if not (isinstance(patience, int | float) and patience >= 1):
        raise ValueError(
            f"clear_many: patience={patience!r}; give how many times the steps of the slowest that "
            "cleared others may take, 1 or more, or math.inf."
        )
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
    if client is not None:
        check(client)
        if mesh is not None:
            raise ValueError(
                "clear_many: client hands out a batch that lies on one device; give one that "
                "`spread` has not cut, or no client."
            )
    if mesh is not None and not markets.prosumers.load.is_fully_addressable:
        pieces = markets.prosumers.load.addressable_shards
        offset = min(piece.index[0].start or 0 for piece in pieces)
        part = partial(_clear_all, mesh=local_mesh(mesh), offset=offset)
        if start is not None and np.ndim(start.steps):
            start = own_part(start)
        found = part(
            own_part(markets), solver, tol, max_steps, patience, start, width, folder, progress
        )
        found = whole(found, mesh)
    else:
        found = _clear_all(
            markets, solver, tol, max_steps, patience, start, width, folder, progress,
            mesh=mesh, offset=0, one_way=one_way, runner=runner, client=client,
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
    patience: float,
    start: Clearing | None,
    width: int | None,
    folder: str | Path | None,
    progress: Callable[[BatchProgress], None] | None,
    *,
    mesh: Mesh | None,
    offset: int,
    one_way: bool = False,
    runner: Runner | None = None,
    client: Any = None,
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
    limit = jnp.asarray(solver.most if max_steps is None else max_steps, jnp.int32)
    job = _Job(markets, start, run, Group(solver, tol, limit, mesh, patience), offset, one_way)
    block = min(total, job.group.whole(width or _width(job)))
    store = None if folder is None else _store(Path(folder), job, block)
    wide = block  # scenarios of a program
    if store:
        block = store.block
        wide = job.group.whole(min(wide, block))
    job.at_once = _at_once(job, one, runner, wide)
    blocks = [slice(at, min(at + block, total)) for at in range(0, total, block)]
    begun, done, found = time.perf_counter(), 0, {}
    try:
        with closing(_finished(job, blocks, wide, store, client)) as finished:
            for lanes, clearing in finished:
                found[lanes.start] = clearing
                done += lanes.stop - lanes.start
                if progress:
                    progress(BatchProgress(done, total, time.perf_counter() - begun))
    except KeyboardInterrupt:
        first = [found[lanes.start] for lanes in takewhile(lambda b: b.start in found, blocks)]
        words = f"stopped after {done} scenarios"
        raise Stopped(words, _joined(first) if first else None) from None
    return _joined([found[lanes.start] for lanes in blocks])


def _finished(
    job: "_Job", blocks: Sequence[slice], wide: int, store: Blocks | None, client: Any
) -> Generator[tuple[slice, Clearing], None, None]:
    """Blocks and their clearings as they are done: from the store, here, or by a cluster."""
    left = []
    for lanes in blocks:
        known = store and store.read(lanes)
        if known:
            yield lanes, known
        else:
            left.append(lanes)
    if client is None:
        cleared = ((lanes, _with_room(job, lanes, wide)) for lanes in left)
    else:
        parts = ((job.part(one), one.stop - one.start, wide) for one in left)
        cleared = ((left[at], found) for at, found in each(client, _of_part, parts))
    for lanes, clearing in cleared:
        if store:
            store.write(lanes, clearing)
        yield lanes, clearing


def _of_part(given: "tuple[_Job, int, int]") -> Clearing:
    """The clearing of a job's part of so many scenarios, in programs of a width, by a worker."""
    job, count, wide = given
    job.markets, job.start = jax.tree.map(
        lambda a: np.broadcast_to(a, (count, *a.shape[1:])), (job.markets, job.start)
    )
    return _with_room(job, slice(0, count), wide)


def _once(batch: Any) -> Any:
    """Arrays that are the same in all scenarios with one row: most, and they are sent."""
    return jax.tree.map(lambda a: a[:1] if _repeats(a) else a, batch)


def _repeats(array: np.ndarray) -> bool:
    """Whether all rows are the same bits."""
    return array[:1].tobytes() * len(array) == array.tobytes()


class _Job:
    """What all chunks share."""

    def __init__(
        self,
        markets: Market,
        start: Clearing | None,
        run: Run,
        group: Group,
        offset: int,
        one_way: bool,
    ):
        self.markets, self.start, self.run, self.group = markets, start, run, group
        self.offset, self.one_way = offset, one_way
        self.widest: int | None = None  # scenarios at once that memory has been found to hold
        self.at_once = False  # whether NumPy clears them, one after the other
        self.first: Clearing | None = None  # of the first scenario, by NumPy

    def part(self, lanes: slice) -> "_Job":
        """The same for some scenarios, of which a worker of a cluster is told."""
        one = copy(self)
        one.markets, one.start = _once(lanes_of((self.markets, self.start), lanes))
        one.first = self.first if lanes.start == 0 else None
        return one


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


def _width(job: _Job) -> int:
    """Scenarios that step at once: what memory allows, and no more than caches like."""
    device = jax.local_devices()[0]
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), job.markets)
    size = size_of(one, job.group.solver)
    free = (device.memory_stats() or {}).get("bytes_limit")
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    room = max(1, int(_SHARE * free / (_COPIES * size)))
    return job.group.devices * min(room, _WIDEST.get(device.platform, 1 << 20))


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
            if "RESOURCE_EXHAUSTED" not in str(error) or job.widest <= job.group.devices:
                raise
            job.widest = job.group.whole((job.widest + 1) // 2)


def _at_once(job: _Job, one: Market, runner: Runner | None, width: int) -> bool:
    """Whether NumPy clears the batch, of which `one` is the first; it is cleared to find out."""
    if job.one_way or job.group.mesh is not None:
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
        return is_stored(job.group, job.markets, width)

    count = job.markets.prosumers.load.shape[0]
    return batch_runner(one, job.group.solver, job.start, runner, count, pace, stored) == "numpy"


def _alone(job: _Job, at: int) -> Clearing:
    """A scenario's clearing by NumPy."""
    market = jax.tree.map(jnp.asarray, lanes_of(job.markets, at))
    start = None if job.start is None else jax.tree.map(jnp.asarray, lanes_of(job.start, at))
    solver, tol, limit, *_ = job.group
    found = clear(
        market, solver, tol=tol, max_steps=int(limit), start=start, throw=False, runner="numpy"
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
    start = None if job.start is None else (job.start.plan, job.start.prices)
    markets, start = lanes_of((job.markets, start), index)
    clearing = together(job.group, markets, start, count)
    told = clearing.certificate.ways
    alone = np.zeros(0, int)
    if told is not None and job.group.mesh is None:
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
    solver, tol, limit, *_ = job.group
    options = {"tol": tol, "max_steps": int(limit), "throw": False, "one_way": job.one_way}
    for at in alone.tolist():
        market = jax.tree.map(jnp.asarray, lanes_of(job.markets, first + at))
        one = clear(market, solver, start=lanes_of(found, at), **options)
        for all_, new in zip(*(jax.tree.leaves(c) for c in (found, one)), strict=True):
            all_[at] = np.asarray(new)
    return found


def _joined(parts: list[Clearing]) -> Clearing:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _store(folder: Path, job: _Job, block: int) -> Blocks:
    """A folder of finished blocks, under a fingerprint of all that their answers depend on."""
    start = job.start and (job.start.plan, job.start.prices)
    solver, tol, limit, _, patience = job.group
    mark = fingerprint(without_names(job.markets), solver, tol, limit, patience, start, job.one_way)
    written = job.run.solver
    return Blocks(folder, job.markets, mark, block, job.offset, written, job.one_way)
