"""One market or many, JAX's arrays or NumPy's: what public functions do with either.

A batch is a market, plan, prices or clearing whose arrays all have a leading axis of scenarios, as
`jg.scenarios` and `clear_many` give them. Functions decorated with `for_each` compute each
scenario, those with `for_one` say what to do instead. One scenario out of a batch holds NumPy's
arrays, which both turn into JAX's.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from .arguments import bound as bound_to
from .arguments import check_tables
from .fields import axes_of
from .record import Record
from .runner import by_numpy, on_host, runs_here, to_device, to_host

P = ParamSpec("P")
T = TypeVar("T")

LANE = "take one of them, jg.scenarios.lane(markets, k)"


def for_each(function: Callable[P, T]) -> Callable[P, T]:
    """`function` of tables (markets, plans, clearings), by scenario where these are batches.

    Results then have the leading axis. Other arguments are the same for all scenarios. NumPy
    computes what is concrete, of one scenario and in float64: nothing is compiled for it.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def run(*given: P.args, **options: P.kwargs) -> T:
        if on_host():  # one market, in NumPy's arrays
            return function(*given, **options)
        bound = bound_to(function, signature, given, options)
        check_tables(function, bound.arguments)
        tables = _tables(bound)

        def once(tables: dict[str, Any]) -> T:
            bound.arguments.update(tables)
            return function(*bound.args, **bound.kwargs)

        lead = _scenarios(function.__name__.lstrip("_"), tables)
        if not lead and runs_here(bound.arguments):
            bound.arguments.update(to_host(bound.arguments))
            with by_numpy():
                return to_device(function(*bound.args, **bound.kwargs))
        for _ in lead:
            once = jax.vmap(once)
        return once(tables)

    return run


def for_one(remedy: str = LANE) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """`function` of tables, which refuses batches with a sentence that ends in `remedy`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @wraps(function)
        def run(*given: P.args, **options: P.kwargs) -> T:
            if on_host():
                return function(*given, **options)
            bound = bound_to(function, signature, given, options)
            check_tables(function, bound.arguments)
            tables = _tables(bound)
            refuse_batch(function.__name__, remedy, **tables)
            bound.arguments.update(tables)
            return function(*bound.args, **bound.kwargs)

        return run

    return decorate


def refuse_batch(caller: str, remedy: str = LANE, **tables: Any) -> None:
    """Say that `caller` takes one market, and the `remedy`, where `tables` are batches."""
    lead = _scenarios(caller, tables)
    if lead:
        raise ValueError(
            f"{caller}() takes one market, this one has a leading axis of {lead[0]} scenarios: "
            f"{remedy}."
        )


def leading(*tables: Any) -> set[tuple[int, ...]]:
    """The axes that arrays of tables have before those of their annotations: () but in batches."""
    return {lead for table in tables for _, lead, _ in _arrays(table)}


def _tables(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments that hold tables, with JAX's arrays."""
    tables = {
        name: value
        for name, value in bound.arguments.items()
        if isinstance(value, Record) and any(_arrays(value))
    }
    return jax.tree.map(
        lambda a: jax.device_put(a) if isinstance(a, np.ndarray | np.generic) else a, tables
    )


def _arrays(table: Any, deep: bool = True) -> Iterator[tuple[str, tuple[int, ...], dict[str, int]]]:
    """Every annotated array of a table and its parts: name, leading axes, sizes of the others.

    Not of the parts' own parts: a certificate's hold one number where tables have rows and hours.
    """
    kind = type(table)
    for field in kind.__dataclass_fields__:
        value, axes = getattr(table, field), axes_of(kind).get(field)
        if axes is not None and value is not None:
            shape = np.shape(value)
            lead = max(0, len(shape) - len(axes))
            sizes = dict(zip(axes, shape[lead:], strict=False))
            sizes.pop("#H", None)  # 1 in one table, the hours in another
            if kind.__name__ == "Certificate":  # a branch has that of its tree
                sizes.pop("H", None)
            yield f"{kind.__name__}.{field}", shape[:lead], sizes
        elif deep and isinstance(value, Record):
            yield from _arrays(value, deep=False)


def _scenarios(caller: str, tables: dict[str, Any]) -> tuple[int, ...]:
    """The leading axes of all tables; `ValueError` where these or the sizes of tables differ."""
    leads: dict[tuple[int, ...], str] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for table in tables.values():
        for name, lead, axes in _arrays(table):
            leads.setdefault(lead, name)
            for axis, size in axes.items():
                other, first = sizes.setdefault(axis, (size, name))
                if size != other:
                    raise ValueError(
                        f"{caller}(): {name} has {size} rows or hours where {first} has {other}; "
                        "give the market that this clearing is of."
                    )
    if len(leads) > 1:
        (one, first), (other, second) = list(leads.items())[:2]
        raise ValueError(
            f"{caller}(): {first} has {_words(one)}, {second} {_words(other)}; give all of "
            "a batch, or of one scenario, jg.scenarios.lane((markets, clearings), k)."
        )
    return next(iter(leads), ())


def _words(lead: tuple[int, ...]) -> str:
    return f"a leading axis of {lead[0]} scenarios" if lead else "no leading axis of scenarios"
