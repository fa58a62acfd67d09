"""What `clear` and its like are asked for: a sentence for each option that makes no sense.

All is read on the host, off shapes and types, before anything runs.
"""

import operator
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge  # no public name tells whether JAX has started its threads
from jax.core import Tracer
from jaxtyping import Array

from .arguments import named, refuse
from .market import Market
from .model import Plan
from .runner import jnp, wide
from .sensitivity.implicit import AbstractAdjoint
from .solvers.base import AbstractSolver

MOST = 2**31 - 1  # steps, which are counted in 32 bits
_forked: list[int] = []  # this process, if it was forked off one whose JAX had threads


def checked_options(
    name: str,
    market: Any,
    solver: Any = None,
    *,
    max_steps: Any = None,
    start: Any = None,
    adjoint: Any = None,
    progress: Any = None,
    **counts: Any,
) -> None:
    """Raise `ValueError` in one sentence for the first option of `name` that makes no sense.

    `counts` are further whole numbers, at least 1 where they are given. Raises `RuntimeError` in a
    process that was forked after JAX ran, where it would wait for ever.
    """
    if os.getpid() in _forked:
        raise RuntimeError(
            f"{name}: this process was forked after JAX ran, whose threads a fork does not have; "
            'start processes with multiprocessing.get_context("spawn").'
        )
    if not isinstance(market, Market):
        refuse(name, "market", market, Market)
    dtype = market.prosumers.load.dtype
    if dtype == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            f"{name}: this market is in float64, but JAX is in 32-bit mode; type "
            'jax.config.update("jax_enable_x64", True), or make it float32 with '
            'jaxgne.market.cast(market, "float32").'
        )
    _check_kind(name, "solver", solver, AbstractSolver, "jaxgne.InteriorPoint()")
    _check_kind(name, "adjoint", adjoint, AbstractAdjoint, "jaxgne.Implicit()")
    for word, count in {"max_steps": max_steps, **counts}.items():
        _check_count(name, word, count)
    if progress is not None and not callable(progress):
        raise ValueError(f"{name}: progress is {named(progress)}; give a function of one argument.")
    if start is not None:
        _check_start(name, market, start)


def tolerance(tol: Any, dtype: Any) -> Array:
    """`tol` as a float64 array; refuses what is no error below 1, or what the dtype cannot give."""
    single = jnp.finfo(dtype).bits < 64
    least, usual = (1e-5, 1e-4) if single else (1e-11, 1e-6)
    tol = usual if tol is None else tol
    if not isinstance(tol, Tracer):
        tol = _number(tol)
        if not tol >= least:
            advice = (
                'type jax.config.update("jax_enable_x64", True) before building the market.'
                if single
                else f"ask for {least:g} or more."
            )
            raise ValueError(f"tol={tol:g} is below what {dtype} can give ({least:g}): {advice}")
        if tol >= 1:
            raise ValueError(f"tol={tol:g} is no small relative error; ask for less than 1.")
    with wide():
        return jnp.asarray(tol, jnp.float64)


def _number(tol: Any) -> float:
    known = isinstance(tol, (int, float, np.generic, np.ndarray, jax.Array))
    if (
        isinstance(tol, bool)
        or not known
        or np.shape(tol)
        or np.asarray(tol).dtype.kind not in "iuf"
    ):
        raise ValueError(f"tol={tol!r}: give one number, such as 1e-6.")
    return float(tol)


def _check_kind(name: str, word: str, value: Any, kind: type, example: str) -> None:
    if value is None or isinstance(value, kind):
        return
    made = f"{value.__name__}()" if isinstance(value, type) and issubclass(value, kind) else ""
    raise ValueError(
        f"{name}: {word} is {named(value)}; give an object, such as {made or example}."
    )


def _check_count(name: str, word: str, count: Any) -> None:
    if count is None or isinstance(count, Tracer):
        return
    try:
        whole = not isinstance(count, bool) and operator.index(count)
    except TypeError:
        whole = False
    if not whole or not 1 <= whole <= MOST:
        raise ValueError(f"{name}: {word}={count!r}; give a whole number from 1 to {MOST}.")


def _check_start(name: str, market: Market, start: Any) -> None:
    """Whether a clearing is one of a market of this shape, or of each of a batch of them."""
    plan = getattr(start, "plan", None)
    if not isinstance(plan, Plan):
        raise ValueError(f"{name}: start is {named(start)}; give a clearing of such a market.")
    hours = market.prosumers.load.shape[-1:]
    tables: Mapping[str, Any] = {
        "imports": market.prosumers.load.shape,
        "generation": market.generators.power_max.shape,
        "energy": market.buffers.energy_max.shape,
        "trades": (*market.trading.buyer.shape, *hours),
        "active": (*market.grid.source.shape, *hours),
        "exchange": (*market.grid.feeder.shape, *hours),
    }
    for word, shape in tables.items():
        found = np.shape(getattr(plan, word))
        if found not in (shape, shape[-2:]):
            raise ValueError(
                f"{name}: start is of another market: its {word} has shape {found}, here it is "
                f"{shape}; give a clearing of such a market, or none."
            )


def _note_fork() -> None:
    if xla_bridge.backends_are_initialized():
        _forked[:] = [os.getpid()]


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_note_fork)
