"""Records: immutable dataclasses that JAX goes through, the data of the package.

What equinox' modules are, without the checks that these make at each attribute and construction:
there are thousands a second where NumPy runs the mathematics, and as many in tracing. Solvers,
adjoints and measures, which have behavior and abstract parts, are equinox' modules.
"""

from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError, dataclass, fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar, dataclass_transform

import equinox as eqx
import jax

from .fields import amount, index, naming, structure

R = TypeVar("R", bound="Record")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass_transform(
    eq_default=False, field_specifiers=(eqx.field, amount, index, naming, structure)
)
class Record:
    """Base of a record: annotated fields are its leaves, `eqx.field(static=True)` its structure."""

    _named: tuple[str, ...] = ()  # fields of names

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        dataclass(eq=False, repr=False, init="__init__" not in cls.__dict__)(cls)
        own: Any = fields(cls)  # pyright: ignore[reportArgumentType]
        names = tuple(f.name for f in own if not f.metadata.get("static"))
        fixed = tuple(f.name for f in own if f.metadata.get("static"))
        cls._named = tuple(f.name for f in own if f.metadata.get("names"))
        keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

        def leaves(record: Any) -> tuple[tuple, tuple]:
            values = record.__dict__
            return tuple([values[n] for n in names]), tuple([values[n] for n in fixed])

        def keyed(record: Any) -> tuple[tuple, tuple]:
            values, structure = leaves(record)
            return tuple(zip(keys, values, strict=True)), structure

        def made(structure: tuple, values: Any) -> Any:
            record = object.__new__(cls)
            record.__dict__.update(zip(names, values, strict=True))
            record.__dict__.update(zip(fixed, structure, strict=True))
            return record

        jax.tree_util.register_pytree_with_keys(cls, keyed, made, leaves)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or name not in self.__dataclass_fields__:  # pyright: ignore
            raise FrozenInstanceError(f"cannot assign to field '{name}'")
        self.__dict__[name] = value

    def __eq__(self, other: object) -> Any:  # so there is no hash
        return eqx.tree_equal(self, other)

    def __repr__(self) -> str:
        return eqx.tree_pformat(self)


def changed(record: R, **values: Any) -> R:
    """The record with other values of some fields, also where its class makes fields itself."""
    new = object.__new__(type(record))
    new.__dict__.update(record.__dict__ | values)
    return new


@dataclass(frozen=True)
class Unnamed:
    """Stands for the names in a field where programs are compiled, which are for any names."""

    field: str
    number: int  # among the different names of such a field


Names = dict[Unnamed, tuple[str, ...]]


def unnamed(tree: T) -> tuple[T, Names]:
    """The tree with `Unnamed` in place of the names in its records, and what these stand for."""
    known: dict[tuple[str, Any], Unnamed] = {}
    numbers: dict[str, int] = {}

    def stand_in(record: Record, field: str) -> Unnamed:
        own = f"{type(record).__name__}.{field}"
        key = own, record.__dict__[field]
        if key not in known:
            numbers[own] = numbers.get(own, -1) + 1
            known[key] = Unnamed(own, numbers[own])
        return known[key]

    tree = _renamed(tree, stand_in)
    return tree, {new: names for (_, names), new in known.items()}


def without_names(tree: T) -> T:
    """The tree whose records have no names, for what goes by numbers alone."""
    return _renamed(tree, lambda *_: ())


def renamed(tree: T, names: Names) -> T:
    """The tree with the names that `unnamed` took, wherever they have come to."""
    return _renamed(tree, lambda record, field: _back(names, record.__dict__[field]))


def nameless(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, called without the names in its arguments, which what it returns has again."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        (plain, options), names = unnamed((args, kwargs))
        return renamed(function(*plain, **options), names)

    return run


def words(names: Iterable[str] | Unnamed) -> Any:
    """Names as a record keeps them; what stands for them as it is."""
    return names if isinstance(names, Unnamed) else tuple(names)


def _back(names: Names, value: Any) -> Any:
    return names.get(value, value) if isinstance(value, Unnamed) else value


def _renamed(tree: T, of: Callable[[Record, str], Any]) -> T:
    """The tree whose records, and those within them, have other names."""

    def each(record: Record) -> Record:
        new = {field: of(record, field) for field in record._named}
        for field, value in record.__dict__.items():
            if isinstance(value, Record):
                new[field] = each(value)
        return changed(record, **new) if new else record

    def one(value: Any) -> Any:
        return each(value) if isinstance(value, Record) else value

    return jax.tree.map(one, tree, is_leaf=lambda value: isinstance(value, Record))
