"""The derivative of an equilibrium that NumPy computes: a linear operation of JAX, never compiled.

It stands in for the compiled rule where NumPy cleared the market, as under an eager `jax.grad`.
JAX transposes and batches it like any other; forward, and inside `jit`, it compiles after all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..market import Market
from ..model import Plan, Rows
from ..runner import by_numpy, to_device, to_host
from .reverse import reverse


@dataclass(frozen=True, eq=False)
class Move:
    """How plan and prices of an equilibrium move with its market.

    `ahead` computes that by JAX, and NumPy what it is in reverse, to a relative residual of `tol`.
    """

    market: Market
    plan: Plan
    prices: Rows
    ahead: Callable[[Market], tuple[Plan, Rows]]
    tol: float

    def __call__(self, change: Market) -> tuple[Plan, Rows]:
        """The moves with a change of the market, which is None where nothing changes."""
        given, tree = jax.tree.flatten(change)
        found = _move_p.bind(*given, move=self, tree=tree, back=False)
        return jax.tree.unflatten(jax.tree.structure((self.plan, self.prices)), found)

    def forward(self, tree: Any, given: Any) -> list[Any]:
        """The moves with the changes `given`."""
        return jax.tree.leaves(self.ahead(tree.unflatten(given)))

    def reverse(self, tree: Any, given: Any) -> list[Any]:
        """An output's derivatives by what changes, from those by plan and prices."""
        outside = jax.tree.structure((self.plan, self.prices))
        with by_numpy():
            market, plan, prices = to_host((self.market, self.plan, self.prices))
            by_plan, by_prices = outside.unflatten(to_host(list(given)))
            asked = partial(_asked, tree)
            found = reverse(market, plan, prices, by_plan, by_prices, self.tol, asked)
        return to_device(asked(found))


def _asked(tree: Any, market: Any) -> list[Any]:
    """Its leaves where `tree` has one."""
    asked = tree.unflatten([True] * tree.num_leaves)
    pairs = zip(*map(_with_none, (asked, market)), strict=True)
    return [leaf for wanted, leaf in pairs if wanted]


def _with_none(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda a: a is None)


_move_p = Primitive("move_of_an_equilibrium")
_move_p.multiple_results = True


@_move_p.def_impl
def _run(*given: Any, move: Move, tree: Any, back: bool) -> list[Any]:
    return move.reverse(tree, given) if back else move.forward(tree, given)


@_move_p.def_abstract_eval
def _shapes(*_: Any, move: Move, tree: Any, back: bool) -> list[Any]:
    if not back:
        return [jax.typeof(a) for a in jax.tree.leaves((move.plan, move.prices))]
    return [jax.typeof(a) for a in _asked(tree, move.market)]


def _transposed(slopes: Any, *_: Any, back: bool, **others: Any) -> list[Any]:
    return _move_p.bind(*map(_written_out, slopes), back=not back, **others)


def _written_out(slope: Any) -> Any:
    aval: Any = slope.aval
    return np.zeros(aval.shape, aval.dtype) if isinstance(slope, ad.Zero) else slope


def _batched(given: Any, axes: Any, **job: Any) -> tuple[list[Any], list[int]]:
    """One after the other, as whoever takes a Jacobian by `vmap` asks for."""
    count = next(a.shape[d] for a, d in zip(given, axes, strict=True) if d is not None)
    rows = [
        np.broadcast_to(a, (count, *np.shape(a))) if d is None else jax.numpy.moveaxis(a, d, 0)
        for a, d in zip(given, axes, strict=True)
    ]
    if any(isinstance(a, Tracer) for a in rows):
        found = jax.lax.map(lambda row: _move_p.bind(*row, **job), rows)
    else:
        each = [_move_p.bind(*[a[k] for a in rows], **job) for k in range(count)]
        found = [jax.numpy.stack(column) for column in zip(*each, strict=True)]
    return found, [0] * len(found)


def _called_back(*given: Any, **job: Any) -> list[Any]:
    """The operation inside a program."""
    if not job["back"]:
        return _run(*given, **job)
    avals: list[Any] = _shapes(*given, **job)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    return jax.pure_callback(lambda *a: _run(*a, **job), shapes, *given)


ad.deflinear2(_move_p, _transposed)
batching.primitive_batchers[_move_p] = _batched
mlir.register_lowering(_move_p, mlir.lower_fun(_called_back, multiple_results=True))
