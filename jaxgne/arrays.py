"""What people give for a field, as arrays: the one rule for numbers by row, by hour, or for all.

Every table and device passes through here, so that a shape means the same everywhere and what does
not fit is said in one sentence that names the field.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from .runner import on_host, to_host


def floats(name: str, value: Any, dtype: Any = None) -> Array:
    """`value` as floating numbers, in `dtype` or its own. `ValueError` where it is no numbers."""
    return put(_floats(name, value, dtype))


def _floats(name: str, value: Any, dtype: Any = None) -> Any:
    """The same, by NumPy where `value` is on the host."""
    try:
        library = jnp if _is_jax(value) else np
        return library.asarray(value, wide(value) if dtype is None else dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r:.60} is not all numbers; give numbers.") from error


def _is_jax(value: Any) -> bool:
    """Whether JAX holds numbers of `value`, or they are traced."""
    return any(isinstance(a, jax.Array) for a in jax.tree.leaves(value))


def put(array: Any) -> Array:
    """An array of NumPy's on the device, without a program of its shape; JAX's as it is.

    Where NumPy runs it stays on the host.
    """
    if isinstance(array, jax.Array):
        return array
    array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    return to_host(array) if on_host() else jax.device_put(array)


def wide(*values: Any) -> Any:
    """The widest floating dtype among arrays; plain numbers have none. JAX's default without."""
    given = (getattr(value, "dtype", None) for value in values if np.ndim(value))
    found = [dtype for dtype in given if dtype is not None and jnp.issubdtype(dtype, jnp.floating)]
    known = [jax.dtypes.canonicalize_dtype(dtype) for dtype in found or [float]]
    return jnp.result_type(*known)


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` with every floating array in `dtype`, NumPy's too as JAX arrays; itself if all are."""

    if on_host():
        kinds = {a.dtype for a in jax.tree.leaves(tree) if a.dtype.kind == "f"}
        if kinds <= {np.dtype(dtype)}:
            return tree
        return jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, tree)

    def converted(a: Any) -> Any:
        # looking is faster than converting; a weak type would compile again
        if isinstance(a, jax.Array) and a.dtype == dtype and not a.weak_type:
            return a
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return a
        return jnp.asarray(a, dtype) if isinstance(a, jax.Array) else put(np.asarray(a, dtype))

    leaves, structure = jax.tree.flatten(tree)
    found = [converted(a) for a in leaves]
    same = all(a is b for a, b in zip(found, leaves, strict=True))
    return tree if same else structure.unflatten(found)


def promoted(tree: Any, dtype: Any) -> Any:
    """`tree` with the floating arrays of any other dtype in `dtype`."""

    def converted(a: Any) -> Any:
        other = jnp.issubdtype(a.dtype, jnp.floating) and a.dtype != dtype
        return a.astype(dtype) if other else a

    return jax.tree.map(converted, tree)


def whole(name: str, value: Any) -> Int[Array, " R"]:
    """`value` as indices, one a row. `ValueError` for fractions and for what is no list."""
    array = value if isinstance(value, (Tracer, jax.Array)) else np.asarray(value)
    kind = np.dtype(array.dtype).kind
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}; give a list of whole numbers, one a row.")
    if isinstance(array, jax.Array) and kind in "iu":
        return jnp.asarray(array, jnp.int32)
    if kind in "iu":
        return put(array.astype(np.int32))
    numbers = np.asarray(_floats(name, array), float)
    bad = ~(np.isfinite(numbers) & (numbers == np.round(numbers)) & (np.abs(numbers) < 2**31))
    if kind == "b" or np.any(bad):
        found = value if kind == "b" else f"{numbers[bad][0]:g}"
        raise ValueError(f"{name}: {found} is no index; give whole numbers, the first row is 0.")
    return put(numbers.astype(np.int32))


def whole_row(name: str, value: Any, rows: int, one: str) -> Int[Array, " R"]:
    """`value` as indices for each of `rows` rows, each called a `one`: one for all, or one a row.

    `ValueError` for another number of rows, and as `whole`.
    """
    given = value if isinstance(value, jax.Array) else np.asarray(value)
    if given.shape not in ((), (rows,)):
        raise ValueError(
            f"{name}: shape {given.shape} does not fit; give one for all, or one per {one}, "
            f"({rows},)."
        )
    library = jnp if isinstance(given, jax.Array) else np
    return whole(name, given if given.ndim else library.broadcast_to(given, (rows,)))


def by_row(name: str, value: Any, rows: int, one: str, dtype: Any = None) -> Array:
    """`value` for each of `rows` rows, each called a `one`: a number for all, or one a row.

    `ValueError` for any shape but (), `(rows,)` and `(rows, 1)`, as for numbers by hour.
    """
    array = _floats(name, value, dtype)
    if array.shape == (rows, 1):
        array = array[:, 0]
    if array.shape not in ((), (1,), (rows,)):
        raise ValueError(
            f"{name}: shape {array.shape} does not fit; give one number, or one per {one}, "
            f"shape ({rows},)" + (", for all hours." if one != "hour" else ".")
        )
    return _spread(array, (rows,))


def by_hour(name: str, value: Any, rows: int, hours: int, one: str, dtype: Any = None) -> Array:
    """`value` for each of `rows` rows, each called a `one`, and each hour.

    A number is for all; `(hours,)` or `(1, hours)` is by hour, `(rows,)` or `(rows, 1)` by row,
    `(rows, hours)` both. Where there are as many rows as hours a plain list could be either:
    `ValueError`, as for any other shape.
    """
    array = _floats(name, value, dtype)
    twice = array.shape == (rows,) == (hours,) != (1,)
    fits = ((), (1,), (hours,), (rows,), (1, 1), (1, hours), (rows, 1), (rows, hours))
    if twice or array.shape not in fits:
        why = "may be by row or by hour, there are as many" if twice else "does not fit"
        plain = "" if twice else f"({hours},) or "
        raise ValueError(
            f"{name}: shape {array.shape} {why}; give one number, {plain}(1, {hours}) by hour, "
            f"({rows}, 1) one per {one}, or both, ({rows}, {hours})."
        )
    if array.shape == (rows,) != (hours,):
        array = array[:, None]
    return _spread(array, (rows, hours))


def by_either(
    name: str, value: Any, rows: int, hours: int | None, one: str, dtype: Any = None
) -> Array:
    """`value` for each of `rows` rows, in one column, or one an hour where it is given by hour.

    As `by_hour`, but nothing is spread over hours. Where nobody knows the `hours` a plain list is
    by row, and as many columns are taken as there are.
    """
    array = _floats(name, value, dtype)
    if hours is None:
        hours = array.shape[1] if array.ndim == 2 else 0
        if array.shape == (rows,):
            array = array[:, None]
    twice = array.shape == (rows,) == (hours,) != (1,)
    fits = ((), (1,), (hours,), (rows,), (1, 1), (1, hours), (rows, 1), (rows, hours))
    if twice or array.shape not in fits:
        many = hours or "hours"
        why = "may be by row or by hour, there are as many" if twice else "does not fit"
        raise ValueError(
            f"{name}: shape {array.shape} {why}; give one number, ({rows}, 1) one per {one}, "
            f"(1, {many}) by hour, or both, ({rows}, {many})."
        )
    if array.shape == (rows,) != (hours,):
        array = array[:, None]
    width = array.shape[-1] if array.ndim == 2 or array.shape == (hours,) else 1
    return _spread(array, (rows, width))


def _spread(array: Any, shape: tuple[int, ...]) -> Array:
    """`array` in that shape, as JAX's."""
    if isinstance(array, jax.Array):
        return array if array.shape == shape else jnp.broadcast_to(array, shape)
    return put(np.broadcast_to(array, shape))


def step_count(name: str, hours: Any) -> int:
    """`hours` as the number of steps. `ValueError` unless it is whole and at least 1."""
    number = np.asarray(hours)
    if number.ndim or number.dtype.kind not in "iuf" or not number >= 1 or number % 1:
        raise ValueError(f"{name}={hours!r:.60}: give a whole number of at least 1.")
    return int(number)


class Reader:
    """Reads what people give for the fields of one table, all in the widest of their dtypes.

    `name` goes before each field, as in `Grid.`; its rows are called a `one`.
    """

    def __init__(self, name: str, one: str, rows: int, hours: int, *values: Any):
        self.name, self.one, self.rows, self.hours = name, one, rows, hours
        self.dtype = wide(*values)

    def row(self, field: str, value: Any) -> Float[Array, " R"]:
        """One number a row."""
        return by_row(self.name + field, value, self.rows, self.one, self.dtype)

    def hour(self, field: str, value: Any) -> Float[Array, "R H"]:
        """One number a row and hour."""
        return by_hour(self.name + field, value, self.rows, self.hours, self.one, self.dtype)

    def either(self, field: str, value: Any, hours: int | None = None) -> Float[Array, "R #H"]:
        """One number a row, or one a row and hour where it is given so."""
        return by_either(self.name + field, value, self.rows, hours, self.one, self.dtype)
