"""Digits that differ wherever an answer may: over numbers, settings and the code of functions.

What resumes from a folder asks here whether the folder is its own. Functions count by their byte
code, constants, defaults, what they close over, and the global names that they use, as far as the
code is not that of an installed package, which counts by its version. An object counts by how it
would be copied; what cannot be told (an open file, a generator) is refused.
"""

import builtins
import dis
import enum
import functools
import hashlib
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_OWN = __name__.split(".")[0]
_PLAIN = (type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME")
_TABLES = (dict, types.MappingProxyType)
_METHODS = (property, staticmethod, classmethod)
_DEEPEST = 150  # steps from one value into the next
_AT_ONCE = 1 << 24  # bytes of an array


def fingerprint(*parts: Any) -> str:
    """64 digits that differ where any number, word or function of `parts` does.

    They also depend on the version of jaxgne and on JAX's 64-bit mode. Raises `ValueError` with a
    sentence for what cannot be told apart from another of its kind.
    """
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return digits(metadata.version(_OWN), wide, parts)


def digits(*parts: Any) -> str:
    """The same of the parts alone."""
    return _Walk().of(parts).hex()


class _Walk:
    """One walk through values, each of which it digests once."""

    def __init__(self):
        self.known: dict[int, bytes] = {}
        self.path: list[int] = []
        self.names: list[str] = []  # of functions on the way here, for people
        self.kept: list[Any] = []  # so that no id comes twice

    def of(self, value: Any) -> bytes:
        """The digest of a value."""
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            return _digest(type(value).__name__, repr(value))
        if id(value) in self.known:
            return self.known[id(value)]
        if id(value) in self.path:
            return _digest("again", str(len(self.path) - self.path.index(id(value))))
        if len(self.path) > _DEEPEST:
            raise self.refused(value)
        self.path.append(id(value))
        self.kept.append(value)
        found = self.within(value)
        self.path.pop()
        self.known[id(value)] = found
        return found

    def all(self, word: str, *values: Any) -> bytes:
        """The digest of several values."""
        return _digest(word, *map(self.of, values))

    def within(self, value: Any) -> bytes:
        """The digest of a value that has parts."""
        if type(value) is np.ndarray or isinstance(value, (np.generic, jax.Array)):
            return self.array(value)
        if isinstance(value, types.ModuleType):
            return self.module(value)
        if isinstance(value, types.CodeType):
            return self.code(value)
        if isinstance(value, types.CellType):
            return self.all("cell", *_contents(value))
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return self.all(type(value).__name__, *value)
        if isinstance(value, (dict, types.MappingProxyType)) and type(value) in _TABLES:
            return self.all("dict", *(part for pair in value.items() for part in pair))
        if type(value) in (set, frozenset):
            return _digest("set", *sorted(map(self.of, value)))
        if named := _installed_name(value):
            return _digest("installed", *named)
        if isinstance(value, type):
            return self.kind(value)
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.MethodType):
            return self.all("method", value.__func__, value.__self__)
        if isinstance(value, functools.partial):
            return self.all("partial", value.func, value.args, value.keywords)
        if isinstance(value, _METHODS):
            parts = (getattr(value, name, None) for name in ("fget", "fset", "__func__"))
            return self.all(type(value).__name__, *parts)
        if isinstance(value, enum.Enum):
            return self.all("member", type(value), value.name, value.value)
        if callable(inner := getattr(value, "__wrapped__", None)):  # jax.jit, functools.cache
            return self.all(
                "wrapped", type(value).__qualname__, inner, getattr(value, "__dict__", {})
            )
        return self.copied(value)

    def array(self, value: Any) -> bytes:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return self.all("key", str(value.dtype), jax.random.key_data(value))
        array = np.asarray(value)
        if array.dtype.hasobject:
            return self.all("objects", array.shape, array.ravel().tolist())
        digest = hashlib.sha256(f"{array.dtype} {array.shape}:".encode())
        rows = array.reshape(1) if array.ndim == 0 else array
        many = max(
            1, _AT_ONCE // max(1, rows[:1].nbytes)
        )  # of a view on few numbers, no whole copy
        for first in range(0, len(rows), many):
            digest.update(np.ascontiguousarray(rows[first : first + many]).tobytes())
        return digest.digest()

    def function(self, value: types.FunctionType) -> bytes:
        """A function's code, and all values that it reaches for."""
        self.names.append(value.__qualname__)
        used = [(name, part) for name, part in _reached(value)]
        found = self.all(
            "function",
            value.__code__,
            value.__defaults__,
            value.__kwdefaults__,
            value.__closure__,
            used,
        )
        self.names.pop()
        return found

    def code(self, value: types.CodeType) -> bytes:
        """What code does, wherever it stands and whatever its lines are."""
        counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        body = (value.co_code, value.co_flags, getattr(value, "co_exceptiontable", b""))
        return self.all("code", counts, names, body, value.co_consts)

    def kind(self, value: type) -> bytes:
        """A class: its name, its bases, and what its body says."""
        own = {
            name: part
            for name, part in vars(value).items()
            if not name.startswith("__") or isinstance(part, _METHODS) or _acts(part)
            if name != "_abc_impl"
        }
        return self.all("class", value.__module__, value.__qualname__, value.__bases__, own)

    def module(self, value: types.ModuleType) -> bytes:
        """An installed module by its version; of others functions name what they use of them."""
        return _digest("module", value.__name__, _version(value.__name__) or "")

    def copied(self, value: Any) -> bytes:
        """Any other object by what a copy of it would be made of."""
        try:
            recipe = value.__reduce_ex__(4)
        except TypeError as error:  # open files, locks, generators
            raise self.refused(value) from error
        if isinstance(recipe, str):  # a name, which only that of an installed package is known by
            raise self.refused(value)
        listed, paired = (list(part or ()) for part in (*recipe[3:5], None, None)[:2])
        return self.all("object", type(value), *recipe[:3], listed, paired)

    def refused(self, value: Any) -> ValueError:
        inside = f" {self.names[-1]} uses" if self.names else ""
        what = getattr(value, "__qualname__", type(value).__qualname__)
        return ValueError(
            f"folder:{inside} {what}, of which nobody can tell whether a later call's is the same; "
            "use plain functions and numbers there, or leave folder out."
        )


def _digest(*parts: Any) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        piece = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(f"{len(piece)}:".encode())
        digest.update(piece)
    return digest.digest()


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    """What a function closes over; nothing yet where the function is still being defined.

    A whole number counts as a float: schedules of optax make one of the other in their first run.
    """
    try:
        inside = cell.cell_contents
    except ValueError:
        return ()
    return (float(inside) if type(inside) is int and abs(inside) < 1 << 53 else inside,)


def _reached(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The global names that a function's code uses, in order, and what they are now.

    Of a module that is not installed: what in it the code may mean.
    """
    seen, known = set(), function.__globals__
    for code in _nested(function.__code__):
        for step in dis.get_instructions(code):
            name = step.argval
            if step.opname not in _GLOBAL or name in seen:
                continue
            seen.add(name)
            if step.opname == "IMPORT_NAME":
                value = _imported(name, known.get("__package__") or "")
            else:
                value = known.get(name, vars(builtins).get(name))
            yield name, value
            if isinstance(value, types.ModuleType):
                yield from _of_module(value, code.co_names, set())


def _imported(name: str, package: str) -> Any:
    """The module that an import inside a function gives, as far as it is known yet."""
    if _version(name):
        return name
    places = (name, f"{package}.{name}".rstrip("."), package)
    return next((sys.modules[place] for place in places if place in sys.modules), name)


def _of_module(
    module: types.ModuleType, names: tuple[str, ...], seen: set[str]
) -> Iterator[tuple[str, Any]]:
    """What code may take of a module of the user's own, and of such modules in it."""
    if _version(module.__name__) or module.__name__ in seen:
        return
    seen.add(module.__name__)
    for name in names:
        value = vars(module).get(name)
        if isinstance(value, types.ModuleType):
            yield from _of_module(value, names, seen)
        elif name in vars(module):
            yield f"{module.__name__}.{name}", value


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _nested(part)


def _acts(part: Any) -> bool:
    return callable(part) and not isinstance(part, type)


def _installed_name(value: Any) -> tuple[str, ...] | None:
    """Module, name and version of what an installed package holds under its own name."""
    module = getattr(value, "__module__", None)
    if module is None and isinstance(value, np.ufunc):
        module = "numpy"
    if not isinstance(module, str) or not (version := _version(module)):
        return None
    for attribute in ("__qualname__", "__name__"):
        name = getattr(value, attribute, None)
        if isinstance(name, str) and _found(sys.modules.get(module), name) is value:
            return module, name, version
    return None


def _found(place: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        place = getattr(place, name, None)
    return place


@cache
def _version(module: str) -> str | None:
    """The version of the installed package that a module belongs to; None for the user's own."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return sys.version
    if top == _OWN:
        return metadata.version(_OWN)
    spec = importlib.util.find_spec(top) if top and top != "__main__" else None
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    homes = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    inside = [place for place in places if place and homes & {*Path(place).resolve().parents}]
    if not inside:
        return None
    with suppress(metadata.PackageNotFoundError):  # mostly both have one name
        return metadata.version(top)
    names = metadata.packages_distributions().get(top, [top])  # reads all that is installed
    return ",".join(metadata.version(name) for name in names)
