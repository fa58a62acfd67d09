"""Records: immutable dataclasses that JAX goes through, the data of the package.

What equinox' modules are, without the checks that these make at each attribute and construction:
there are thousands a second where NumPy runs the mathematics, and as many in tracing. Solvers,
adjoints and measures, which have behavior and abstract parts, are equinox' modules.
"""

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import equinox as eqx
import jax

from .fields import amount, index, structure

R = TypeVar("R", bound="Record")


@dataclass_transform(eq_default=False, field_specifiers=(eqx.field, amount, index, structure))
class Record:
    """Base of a record: annotated fields are its leaves, `eqx.field(static=True)` its structure."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        dataclass(eq=False, repr=False, init="__init__" not in cls.__dict__)(cls)
        own: Any = fields(cls)  # pyright: ignore[reportArgumentType]
        names = tuple(f.name for f in own if not f.metadata.get("static"))
        fixed = tuple(f.name for f in own if f.metadata.get("static"))
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
