"""Functions that are compiled once for each shape, and kept for the processes to come.

`@program("what it computes")` stands where `eqx.filter_jit` would, on functions that are called
from the host. Under a trace it is `eqx.filter_jit`, inside `by_numpy` the function as it is. With
plain arrays on a CPU it runs an executable: from memory, from the store on disk, or compiled ahead
of time and put there.
"""

import importlib
import os
import pickle
import platform
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, update_wrapper
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.experimental import serialize_executable

from . import store
from .fingerprint import digits
from .freed import give_back
from .record import nameless, unnamed
from .runner import concrete, on_host
from .threads import one_thread
from .waiting import waiting

P = ParamSpec("P")
T = TypeVar("T")

# What runs once takes less time to run than to optimize: kernels compile 3 to 4 times as fast.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# Above LLVM's first level kernels compile a quarter longer, and run no faster.
_FAST: dict[str, Any] = {"xla_backend_optimization_level": 1}
# Kernels in the order that needs the fewest arrays at once: half the memory, in the same time.
_FRUGAL: dict[str, Any] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_UNKNOWN: set[str] = set()  # options that this XLA turned out not to have
_MAPS = 40_000  # in memory at once, of the 65,530 that Linux allows a process
_PROGRAMS: "list[Program[Any, Any]]" = []


def program(
    words: str, *, once: bool = False, named: bool = False
) -> "Callable[[Callable[P, T]], Program[P, T]]":
    """Compile a function as `eqx.filter_jit` does, and keep the executables on disk.

    `words` say what it computes, to people who wait for the compiler. `once` is for what runs too
    seldom to be worth optimizing: on a CPU it compiles 3 to 4 times as fast and may run slower.
    Programs are for markets of any names, which the function does not see unless it is `named`, as
    where users' functions are called.
    """
    return lambda fn: Program(fn, words, once, named)


class _Executable(NamedTuple):
    """What computes the arrays of a function's value from those of its arguments."""

    run: Callable[..., list[Any]]
    tree: Any  # structure of the value
    leaves: list[Any]  # of the value: `_Hole` for an array, others as they are
    stored: str | None  # the name of the entry that it was loaded from, until it has run once

    def __call__(self, arrays: list[Any]) -> Any:
        with one_thread():
            found = iter(jax.block_until_ready(self.run(*arrays)))
        return self.tree.unflatten([next(found) if x is _Hole else x for x in self.leaves])


class _Hole:
    """Stands for an array in the structure of a value."""


class _Call(NamedTuple):
    """Arguments, taken apart."""

    here: bool  # on one CPU device
    key: tuple[Any, ...]
    arrays: list[Any]
    leaves: list[Any]
    tree: Any

    def rebuilt(self, arrays: Iterable[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, with other arrays."""
        given = iter(arrays)
        return self.tree.unflatten([next(given) if eqx.is_array(x) else x for x in self.leaves])


class Program(Generic[P, T]):
    """A function with its executables; see `program`."""

    def __init__(self, fn: Callable[P, T], words: str, once: bool = False, named: bool = False):
        self.fn, self.words, self.once, self.named = fn, words, once, named
        self._nameless = self._run if named else nameless(self._run)
        self._jitted = eqx.filter_jit(fn)
        self._found: dict[Any, _Executable] = {}
        self._making: dict[Any, threading.Lock] = {}
        self._elsewhere: set[Any] = set()  # calls that `jax.jit` has seen to
        update_wrapper(self, fn)
        _PROGRAMS.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return (self.fn if on_host() else self._nameless)(*args, **kwargs)

    def _run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        call = _taken_apart(args, kwargs)
        if call is None:
            return self._jitted(*args, **kwargs)
        if not call.here:
            new = call.key not in self._elsewhere
            self._elsewhere.add(call.key)
            with self._told(call) if new else nullcontext(), one_thread():
                return jax.block_until_ready(self._jitted(*args, **kwargs))
        found = self._found.get(call.key) or self._made(call)
        try:
            value = found(call.arrays)
        except Exception:
            if found.stored is None:
                raise
            store.drop(found.stored)
            del self._found[call.key]
            return self._made(call)(call.arrays)
        if found.stored is not None:
            self._found[call.key] = found._replace(stored=None)
        return value

    def ready(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether a call with these arguments would find its program in memory or on disk."""
        call = self._apart(args, kwargs)
        if call is None or not call.here:
            return False
        name = self._name(call)
        return call.key in self._found or (name is not None and store.has(name))

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Load or compile what a call with these arguments needs, and do not run it.

        It may be called from a thread. Nothing happens where arguments are traced, or on other
        devices than one CPU.
        """
        call = self._apart(args, kwargs)
        if call is not None and call.here:
            self._made(call)

    def _apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Call | None":
        return _taken_apart(*((args, kwargs) if self.named else unnamed((args, kwargs))[0]))

    def forget(self) -> None:
        """Drop the programs in memory; those on disk stay."""
        self._found.clear()
        self._making.clear()
        self._elsewhere.clear()

    def _made(self, call: _Call) -> _Executable:
        """The executable for a call, loaded or compiled by the first thread that asks for it."""
        with self._making.setdefault(call.key, threading.Lock()):
            found = self._found.get(call.key)
            if found is None:
                name = self._name(call)
                with self._told(call):
                    found = _loaded(name, call) or self._compiled(name, call)
                if crowded(_MAPS):
                    forget()
                self._found[call.key] = found
        return found

    def _told(self, call: _Call) -> AbstractContextManager[None]:
        """Tells whoever waits what is compiled, and for how large a market."""
        args, _ = call.rebuilt(call.arrays)
        return waiting.on(f"compiling {self.words}{_sizes(args)}")

    def _compiled(self, name: str | None, call: _Call) -> _Executable:
        value: list[Any] = []

        def flat(*arrays: Any) -> list[Any]:
            args, kwargs = call.rebuilt(arrays)
            leaves, tree = jax.tree.flatten(self.fn(*args, **kwargs))
            value[:] = tree, [_Hole if eqx.is_array(x) else x for x in leaves]
            return [x for x in leaves if eqx.is_array(x)]

        flat.__name__ = flat.__qualname__ = getattr(self.fn, "__name__", "program")
        options = (_QUICK if self.once else _FAST) | _FRUGAL
        lowered, before = jax.jit(flat).lower(*call.arrays), _hits()
        run = _compiled(lowered, options)
        tree, leaves = value
        if name is not None and _hits() == before:  # else it serializes without its functions
            with suppress(Exception):  # callbacks, or what does not pickle: of this process alone
                machine, _, _ = serialize_executable.serialize(run)
                store.write(name, pickle.dumps((machine, tree.unflatten(leaves))))
        give_back()  # what the compiler took
        return _Executable(run, tree, leaves, None)

    def _name(self, call: _Call) -> str | None:
        """The name of a call's entry in the store; None where there is none of it.

        What a function closes over, or does where it is an argument, is not known well enough.
        """
        name = (self.fn.__module__, self.fn.__qualname__)
        own = name[0].partition(".")[0] == __package__ and "<locals>" not in name[1]
        vague = [x for x in call.leaves if callable(x)]
        if not own:  # else `_here` knows all of its source
            vague += getattr(self.fn, "__closure__", None) or ()
        if vague or store.folder() is None:
            return None
        kinds = [
            (x.shape, str(x.dtype), bool(getattr(x, "weak_type", False))) if eqx.is_array(x) else x
            for x in call.leaves
        ]
        asked = (self.once, call.key[:2], call.tree.unflatten(kinds))
        try:
            return digits(name, None if own else self.fn, asked, _here())
        except (ValueError, metadata.PackageNotFoundError):  # told from no other; not installed
            return None


_HEARD = threading.local()


def _hits() -> int:
    """How many programs JAX's own cache, where a user has one, gave this thread."""
    return getattr(_HEARD, "hits", 0)


def _hear(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _HEARD.hits = _hits() + 1


jax.monitoring.register_event_listener(_hear)


def forget() -> None:
    """Drop all programs in memory, of all functions; those on disk stay."""
    for each in _PROGRAMS:
        each.forget()


def crowded(most: int) -> bool:
    """Whether the process has more than `most` memory maps, one a kernel: programs have to go."""
    try:
        with open("/proc/self/maps", "rb") as lines:
            return sum(1 for _ in lines) > most
    except OSError:  # not on Linux, which alone counts them
        return False


def _taken_apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    """A call by what its program depends on; None under a trace and while debugging."""
    config: Any = jax.config
    devices = jax.devices()
    if config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs:
        return None
    leaves, tree = jax.tree.flatten((args, kwargs))
    if not concrete(leaves):
        return None
    kinds, arrays = [], []
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            kinds.append(leaf.aval)
            arrays.append(leaf)
        elif eqx.is_array(leaf):
            kinds.append((leaf.shape, leaf.dtype))
            arrays.append(leaf)
        else:
            kinds.append((type(leaf), leaf))
    key = (config.jax_enable_x64, config.jax_default_matmul_precision, tree, *kinds)
    here = len(devices) == 1 and devices[0].platform == "cpu"
    return _Call(here, key, arrays, leaves, tree)


def _loaded(name: str | None, call: _Call) -> _Executable | None:
    """The executable of an entry in the store; deletes one that cannot be read."""
    data = None if name is None else store.read(name)
    if name is None or data is None:
        return None
    try:
        machine, value = pickle.loads(data)
        if b"lapack" in machine:
            lapack: Any = importlib.import_module("jaxlib.lapack")
            lapack._lapack.initialize()  # else the first call of LAPACK ends the process
        leaves, tree = jax.tree.flatten(value)
        inside = jax.tree.structure((tuple(call.arrays), {}))
        outside = jax.tree.structure([x for x in leaves if x is _Hole])
        run = serialize_executable.deserialize_and_load(
            machine, inside, outside, execution_devices=jax.devices()
        )
    except Exception:
        store.drop(name)
        return None
    return _Executable(run, tree, leaves, name)


@cache
def _here() -> tuple[Any, ...]:
    """What a compiled program depends on besides its function and arguments.

    The package's files, versions, flags of XLA, and the processor.
    """
    home = Path(__file__).parent
    files = [(path, path.stat()) for path in sorted(home.rglob("*.py"))]
    sources = [(str(path), found.st_size, found.st_mtime_ns) for path, found in files]
    versions = tuple(metadata.version(name) for name in ("jaxgne", "jax", "jaxlib", "equinox"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return sources, versions, os.environ.get("XLA_FLAGS", ""), cores, _processor()


def _processor() -> str:
    """The model of the processor and what it can do; of a machine without /proc its name."""
    try:
        with open("/proc/cpuinfo") as lines:
            first = takewhile(str.strip, lines)
            return "".join(line for line in first if line.startswith(_TOLD))
    except OSError:
        return " ".join(platform.uname())


_TOLD = ("vendor_id", "model", "stepping", "flags", "CPU ", "Features")  # x86 and ARM


def _sizes(args: Iterable[Any]) -> str:
    """How large the market among the arguments is, in words."""
    for table in args:
        people = getattr(table, "prosumers", None)
        if people is not None:
            *lead, prosumers, hours = people.load.shape
            many = f"{lead[0]} times " if lead else ""
            return f" for {many}{prosumers} prosumers x {hours} steps, once per shape"
    return ""


def _compiled(lowered: Any, options: dict[str, Any]) -> Any:
    """Compiled with those of the options that this XLA has: they come and go between releases."""
    while True:
        known = {name: value for name, value in options.items() if name not in _UNKNOWN}
        try:
            return lowered.compile(compiler_options=known)
        except jax.errors.JaxRuntimeError as error:
            missing = {name for name in known if name in str(error)}
            if not missing:
                raise
            _UNKNOWN.update(missing)
