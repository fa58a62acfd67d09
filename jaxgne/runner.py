"""One source, two runners: JAX compiles the mathematics, or NumPy runs it as it is written.

Modules of mathematics take `jnp`, `lax` and `vmap` from here. They are JAX's own, but inside
`by_numpy()`, where they are NumPy's and plain loops: nothing is traced or compiled, so the first
answer of a small market comes at once. There arrays are `HostArray`, which has JAX's `.at` and is
never changed in place. Where the two differ, they differ here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import ref

import jax
import numpy as np
from jax._src.core import trace_ctx  # no public name tells which trace is under way
from jax.core import Tracer

from .threads import one_thread

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_BY_NUMPY: ContextVar[Any] = ContextVar("by_numpy", default=None)  # the trace it was called in


def on_host() -> bool:
    """Whether NumPy runs what is called here; what JAX traces there it does not."""
    outside = _BY_NUMPY.get()
    return outside is not None and outside is trace_ctx.trace


@contextmanager
def by_numpy(run: bool = True) -> Iterator[None]:
    """While it lasts, NumPy runs the mathematics in this context; non-finite numbers as in JAX.

    `by_numpy(False)` gives the context back to JAX: for what users call.
    """
    token = _BY_NUMPY.set(trace_ctx.trace if run else None)
    try:
        with ExitStack() as manners:
            if run:
                manners.enter_context(np.errstate(all="ignore"))
                manners.enter_context(one_thread())
            yield
    finally:
        _BY_NUMPY.reset(token)


class HostArray(np.ndarray):
    """A NumPy array with JAX's manners: `.at[...]`, and `a += b` makes a new array."""

    @property
    def at(self) -> _At:
        return _At(self)

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))

    def __iadd__(self, other: Any) -> Any:
        return self + other

    def __isub__(self, other: Any) -> Any:
        return self - other

    def __imul__(self, other: Any) -> Any:
        return self * other

    def __itruediv__(self, other: Any) -> Any:
        return self / other

    def __iand__(self, other: Any) -> Any:
        return self & other

    def __ior__(self, other: Any) -> Any:
        return self | other


class _At:
    """`array.at`: updates that return a new array, each repeated index counted."""

    __slots__ = ("array", "index")

    def __init__(self, array: np.ndarray, index: Any = None):
        self.array, self.index = array, index

    def __getitem__(self, index: Any) -> _At:
        return _At(self.array, index)

    def set(self, values: Any) -> HostArray:
        new: Any = self.array.copy()
        new[self.index] = values
        return new

    def add(self, values: Any) -> HostArray:
        return self._each(np.add, values)

    def subtract(self, values: Any) -> HostArray:
        return self._each(np.subtract, values)

    def max(self, values: Any) -> HostArray:
        return self._each(np.maximum, values)

    def min(self, values: Any) -> HostArray:
        return self._each(np.minimum, values)

    def get(self, mode: str, fill_value: Any) -> HostArray:
        """Rows at an index, and `fill_value` where it is out of range."""
        index = np.asarray(self.index)
        inside = index < len(self.array)
        found = self.array[np.where(inside, index, 0)]
        inside = inside.reshape(inside.shape + (1,) * (found.ndim - inside.ndim))
        return _ours(np.where(inside, found, fill_value))

    def _each(self, operation: np.ufunc, values: Any) -> HostArray:
        new: Any = self.array.copy()
        index = self.index
        if isinstance(index, slice) or (
            isinstance(index, tuple) and all(isinstance(i, int | slice) for i in index)
        ):
            new[index] = operation(new[index], values)
            return new
        where = np.arange(new.size).reshape(new.shape)[self._kept(index)]  # flat: many times faster
        values = np.broadcast_to(np.asarray(values, new.dtype), self._shape(index, new))
        if where.shape != values.shape:
            values = values[self._inside(index)]
        operation.at(new.reshape(-1), where.reshape(-1), values.reshape(-1))
        return new

    def _inside(self, index: Any) -> np.ndarray:
        return np.asarray(index) < len(self.array)

    def _kept(self, index: Any) -> Any:
        """The index without rows out of range, which JAX drops."""
        if isinstance(index, tuple):
            return index
        index = np.asarray(index)
        inside = index < len(self.array)
        return index if inside.all() else index[inside]

    def _shape(self, index: Any, array: np.ndarray) -> tuple[int, ...]:
        if isinstance(index, tuple):
            return np.broadcast_to(0, array.shape)[index].shape
        return np.shape(index) + array.shape[1:]


def _ours(value: Any) -> Any:
    return value.view(HostArray) if type(value) is np.ndarray else value


class _Dispatch:
    """A name space that is JAX's, or inside `by_numpy` another."""

    def __init__(self, name: str, compiled: Any, host: dict[str, Any]):
        self.__name__ = name  # by which it is known, whatever it has looked up
        self._compiled, self._host = compiled, host

    def __getattr__(self, name: str) -> Any:
        if not on_host():
            return getattr(self._compiled, name)
        found = self._host.get(name)
        if found is None:
            found = self._host[name] = _as_numpy(getattr(np, name))
        return found


def _as_numpy(function: Any) -> Any:
    """A function of NumPy that returns our arrays; types, constants and ufuncs as they are."""
    if not callable(function) or isinstance(function, type | np.ufunc):
        return function

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        if type(found) is np.ndarray:
            return found.view(HostArray)
        return found

    return run


def _clip(value: Any, low: Any = None, high: Any = None) -> Any:
    value = value if low is None else np.maximum(value, low)
    return value if high is None else np.minimum(value, high)


def _or_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of matrices, NaN for those it has no answer for, where NumPy raises."""

    @wraps(function)
    def run(*matrices: Any) -> Any:
        try:
            return _ours(function(*matrices))
        except np.linalg.LinAlgError:
            if matrices[0].ndim == 2:
                return np.full_like(matrices[-1], math.nan)
            return _ours(np.stack([run(*each) for each in zip(*matrices, strict=True)]))

    return run


class _Linalg:
    solve = staticmethod(_or_nan(np.linalg.solve))
    inv = staticmethod(_or_nan(np.linalg.inv))


def _scan(
    step: Callable, init: Any, over: Any, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    count = len(jax.tree.leaves(over)[0]) if length is None else length
    leaves, tree = jax.tree.flatten(over)
    carry, found = init, []
    for k in reversed(range(count)) if reverse else range(count):
        carry, out = step(carry, tree.unflatten([leaf[k] for leaf in leaves]))
        found.append(out)
    if reverse:
        found.reverse()
    return carry, jax.tree.map(lambda *each: _ours(np.stack(each)), *found)


def _while_loop(going: Callable, step: Callable, carry: Any) -> Any:
    while going(carry):
        carry = step(carry)
    return carry


def _fori_loop(first: int, last: int, step: Callable, carry: Any) -> Any:
    for k in range(first, last):
        carry = step(k, carry)
    return carry


def _cond(chosen: Any, yes: Callable, no: Callable, *given: Any) -> Any:
    return yes(*given) if chosen else no(*given)


def _custom_root(change: Callable, start: Any, solve: Callable, tangent: Any) -> Any:
    return solve(change, start)


_LAX = {
    "scan": _scan,
    "while_loop": _while_loop,
    "fori_loop": _fori_loop,
    "cond": _cond,
    "custom_root": _custom_root,
    "stop_gradient": lambda a: a,
    "optimization_barrier": lambda a: a,
}

if TYPE_CHECKING:
    import jax.numpy as jnp
    from jax import lax
else:
    jnp = _Dispatch("jnp", jax.numpy, {"linalg": _Linalg, "clip": _clip})
    lax = _Dispatch("lax", jax.lax, dict(_LAX))


def vmap(function: Callable) -> Callable:
    """`jax.vmap`, or a loop over the leading axis."""

    def run(*given: Any) -> Any:
        if not on_host():
            return jax.vmap(function)(*given)
        leaves, tree = jax.tree.flatten(given)
        each = [
            function(*tree.unflatten([leaf[k] for leaf in leaves])) for k in range(len(leaves[0]))
        ]
        return jax.tree.map(lambda *found: _ours(np.stack(found)), *each)

    return run


def wide() -> AbstractContextManager[Any]:
    """JAX in 64-bit mode while it lasts; NumPy always is."""
    return nullcontext() if on_host() else jax.enable_x64(True)


def remembered(function: Callable[[T], R]) -> Callable[[T], R]:
    """`function` of one record, by NumPy computed once for each; JAX sees what is equal."""
    memory: dict[int, tuple[ref, R]] = {}  # by identity, while the record lives

    @wraps(function)
    def run(record: T) -> R:
        if not on_host():
            return function(record)
        key = id(record)
        known = memory.get(key)
        if known is None:
            forget = ref(record, lambda _: memory.pop(key, None))
            known = memory[key] = forget, function(record)
        return known[1]

    return run


@_or_nan
def inverse_factor(blocks: Any) -> Any:
    """L^-1 of each block's Cholesky factor L, by NumPy; NaN where there is none, as in JAX."""
    return np.linalg.inv(np.linalg.cholesky(blocks))


def to_host(tree: Any) -> Any:
    """`tree` with the arrays of `by_numpy` in place of JAX's and NumPy's."""
    kinds = jax.Array | np.ndarray | np.generic
    return jax.tree.map(lambda a: _ours(np.asarray(a)) if isinstance(a, kinds) else a, tree)


def to_device(tree: Any) -> Any:
    """`tree` with JAX's arrays in place of NumPy's, without compiling anything."""
    if isinstance(tree, dict):  # in its order: JAX would sort it
        return {key: to_device(value) for key, value in tree.items()}
    return jax.tree.map(
        lambda a: jax.device_put(np.asarray(a)) if isinstance(a, np.ndarray | np.generic) else a,
        tree,
    )


def runs_here(tree: Any) -> bool:
    """Whether NumPy can run what is asked of `tree`: concrete, in float64, on one CPU."""
    if not concrete(tree):
        return False
    for leaf in jax.tree.leaves(tree):
        if getattr(leaf, "dtype", None) == np.float32:
            return False
        if isinstance(leaf, jax.Array):
            devices = leaf.devices()
            if len(devices) > 1 or next(iter(devices)).platform != "cpu":
                return False
    return True


def hosted(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, of which no arrays come, run by NumPy where that can: words, tables, figures."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        if on_host() or not runs_here((args, options)):
            return function(*args, **options)
        with by_numpy():
            args, options = to_host((args, options))
            return function(*args, **options)

    return run


def built(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which makes tables, run by NumPy where that can; its arrays are then JAX's."""
    make = hosted(function)

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        found = make(*args, **options)
        return found if on_host() else to_device(found)

    return run


def held_here(array: Any) -> bool:
    """Whether this process holds all of an array; NumPy's it does."""
    return getattr(array, "is_fully_addressable", True)


def concrete(tree: Any) -> bool:
    """Whether no array of `tree` is traced, nor what is made of it: under `jit` all is."""
    staged = not trace_ctx.is_top_level() and isinstance(jax.device_put(0), Tracer)
    return not (staged or any(isinstance(a, Tracer) for a in jax.tree.leaves(tree)))
