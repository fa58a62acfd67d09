"""Who clears a market, and how: NumPy at once, or JAX once its programs pay.

Compiling the programs of a shape of market takes as long as dozens of small clears by NumPy. So
NumPy runs the first ones; when they have taken `_PATIENCE` together, or `_LOADING` where the
programs lie on disk, JAX takes over. With the same solver neither changes an answer beyond
rounding; by default mid-sized markets (over 128 rows an hour) are cleared by few exact steps in
NumPy, by many cheap ones in JAX, both to the same tolerance.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
from jax.core import Tracer

from .market import Market
from .padding import sizes
from .record import unnamed
from .runner import runs_here
from .size import is_quick, is_small
from .solvers.base import AbstractSolver
from .solvers.interior_point import InteriorPoint
from .solvers.primal_dual import PrimalDual

Runner = Literal["numpy", "jax"]

_PATIENCE = 6.0  # seconds of NumPy's on one shape after which compiling it pays
_LOADING = 1.0  # and after which loading its programs does, where they are kept

_LEAST = 16  # rows from which on a table is rounded
_MOST = 1_000_000  # prosumer-hours from which on compiling counts for little

_BATCH = 20.0  # seconds of NumPy's on batches of one shape after which compiling them pays
_BATCH_LOADING = 3.0

_spent: dict[Any, float] = defaultdict(float)  # seconds, by `_shape`; infinite once compiled


def default_solver(market: Market) -> AbstractSolver:
    """The solver that is fastest for a market of this size; over several devices primal-dual.

    So it is where steps are committed, as only that one knows decisions for several steps.
    """
    load = market.prosumers.load
    known = isinstance(load, jax.Array) and not isinstance(load, Tracer)
    cut = known and len(load.sharding.device_set) > 1
    exact = is_small(market) and not cut and market.committed is None
    return InteriorPoint() if exact else PrimalDual()


def chosen(
    market: Market,
    solver: AbstractSolver | None,
    start: Any,
    runner: Runner | None,
    stored: Callable[[], bool],
) -> tuple[Runner, AbstractSolver]:
    """Who clears a concrete market, and how; what is given is kept.

    `stored` tells whether the programs of its shape need no compiling.

    Raises `ValueError` for a runner that cannot, or that there is not.
    """
    if runner not in (None, "numpy", "jax"):
        raise ValueError(f'clear: runner={runner!r}; give "numpy", "jax" or None.')
    compiled = default_solver(market) if solver is None else solver
    # few steps: NumPy's take long
    exact = InteriorPoint() if solver is None and market.committed is None else compiled
    obstacle = _obstacle(market, exact, start)
    if runner == "numpy" and obstacle:
        raise ValueError(f'clear: runner="numpy" {obstacle}.')
    early = _at_once(market, compiled, stored)
    if runner == "numpy" or (runner is None and not obstacle and early):
        return "numpy", exact
    return "jax", compiled


def batch_runner(
    market: Market,
    solver: AbstractSolver,
    start: Any,
    runner: Runner | None,
    count: int,
    pace: Callable[[], float],
    stored: Callable[[], bool],
) -> Runner:
    """Who clears `count` markets like this one; what is given is kept.

    `pace` tells how many seconds NumPy takes for one, `stored` whether the programs of the batch
    need no compiling. Raises `ValueError` for a runner that cannot, or that there is not.
    """
    if runner not in (None, "numpy", "jax"):
        raise ValueError(f'clear_many: runner={runner!r}; give "numpy", "jax" or None.')
    obstacle = _obstacle(market, solver, start)
    if runner == "numpy" and obstacle:
        raise ValueError(f'clear_many: runner="numpy" {obstacle}.')
    if runner is not None or obstacle or not is_quick(market):
        return runner or "jax"
    shape = "batch", _shape(market, solver)
    most = _BATCH_LOADING if stored() else _BATCH
    if _spent[shape] >= most:
        return "jax"
    _spent[shape] += count * pace()
    return "numpy" if _spent[shape] < most else "jax"


def _at_once(market: Market, solver: AbstractSolver, stored: Callable[[], bool]) -> bool:
    """Whether NumPy's answer is to come before programs pay."""
    spent = _spent[_shape(market, solver)]
    early = spent < _LOADING or (spent < _PATIENCE and not stored())
    return early and is_quick(market)


def few_sizes(market: Market) -> dict[str, int]:
    """To how many rows which tables of a concrete market are rounded up before JAX clears it.

    There are eight sizes from each power of two to the next. Pairs are rounded, and where NumPy
    writes the answer, prosumers and devices too; nothing is in the largest markets, nor where the
    arrays lie on another device than JAX's own, or on several.
    """
    have, load = sizes(market), market.prosumers.load
    away = isinstance(load, jax.Array) and load.devices() != {jax.devices()[0]}
    if load.size >= _MOST or away or have["prosumers"] < 2:
        return {}
    every = not is_quick(market) and runs_here(market)
    names = ("pairs", "prosumers", "generators", "buffers") if every else ("pairs",)
    return {name: _next(have[name]) for name in names}


def _next(count: int) -> int:
    if count < _LEAST:
        return count
    step = 2 ** (count.bit_length() - 4)
    return -(-count // step) * step


def note(market: Market, solver: AbstractSolver | None, runner: Runner, seconds: float) -> None:
    """Remember that a market of this shape was cleared by what `solver` asks for, and how long."""
    compiled = default_solver(market) if solver is None else solver
    _spent[_shape(market, compiled)] += seconds if runner == "numpy" else np.inf


def _obstacle(market: Market, solver: AbstractSolver, start: Any) -> str:
    """Why NumPy cannot clear a market; empty where it can."""
    if not solver.by_numpy:
        return f"runs InteriorPoint() only, not {type(solver).__name__}()"
    return "" if runs_here((market, start)) else "takes markets in float64, on one CPU"


def _shape(market: Market, solver: AbstractSolver) -> Any:
    """What the programs depend on by which JAX would clear a market."""
    few = few_sizes(market)
    tables = vars(market) | {"pairs": market.trading, "trading": None}
    arrays = {
        name: [(few.get(name, np.shape(a)[:1]), np.shape(a)[1:], getattr(a, "dtype", None))
               for a in jax.tree.leaves(table)]
        for name, table in tables.items()
    }  # fmt: skip
    return jax.tree.structure(unnamed((market, solver))[0]), str(arrays)
