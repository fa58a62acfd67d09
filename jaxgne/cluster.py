"""Work that falls apart: done here, or by Dask's workers, which come, go and die.

What is to be done is a function and what it takes, pickled once. Its key is made of these bytes, so
that the same work, asked for twice, is done once. What a worker had not finished when it died goes
to another one; what was handed over stays here. Workers run the code that they are sent, as all of
Dask's do: schedulers belong on networks whose users may run code there.
"""

import pickle
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from .arguments import named
from .fingerprint import digits
from .waiting import waiting

S = TypeVar("S")
T = TypeVar("T")

_AGAIN = 2  # times that work which raised is tried again, as memory may have been short
_A_WORKER = 2  # pieces of work for each of a worker's threads, so that none waits for the next
_AHEAD = 64  # and as many as this, so that the scheduler sees how many workers are needed,
_BYTES = 100_000_000  # as long as they are no larger together: it holds them in memory
_LOOK = 0.2  # s between looks for a first worker
_ALIKE = ("jaxgne", "jax", "numpy")  # packages whose versions decide on numbers
_AFTER = "the same call goes on after what its folder has, if it has one."
_GONE = f"the Dask scheduler is gone, or was restarted; {_AFTER}"
_INSTALL = 'pip install "jaxgne[cluster]"'


def each(
    client: Any, function: Callable[[S], T], items: Iterable[S]
) -> Generator[tuple[int, T], None, None]:
    """Values of a function, computed by the workers of a cluster: pairs (which item, value).

    `client` is a `distributed.Client` of any kind of cluster; with None all is done here, one item
    after the other. Else values come as they are done, not in the order of `items`, which are taken
    as workers have room; arrays in values are NumPy's. `function` takes one item, runs in the
    64-bit mode that JAX has here, and may be tried again: it gives the same value each time. No
    more is begun once the iterator is closed.

    Raises what the function raised, `OSError` where the scheduler is gone or workers died one after
    the other at the same item, `ValueError` for what is no such client and for a worker that
    has other versions of jaxgne, JAX or NumPy, and `ImportError` without the extra `cluster`.
    """
    if client is None:
        yield from ((at, function(item)) for at, item in enumerate(items))
        return
    check(client)
    distributed, config = _engine()
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    versions, pickled = _versions(), _pickled(function)
    ahead, done = enumerate(items), distributed.as_completed(loop=client.loop)
    held: dict[str, tuple[Any, int, list[int]]] = {}  # by key: under way, bytes, for which items
    try:
        while True:
            if client.status in ("closing", "closed"):
                raise ConnectionError(_GONE)
            threads = sum(client.nthreads().values())
            least = max(1, _A_WORKER * threads)
            size = sum(count for _, count, _ in held.values())
            while len(held) < least or (len(held) < _AHEAD and size < _BYTES):
                following = next(ahead, None)
                if following is None:
                    break
                at, item = following
                task = _Task(versions, wide, pickled, _pickled(item))
                key = f"jaxgne-{digits(*task)}"
                if key in held:
                    held[key][-1].append(at)
                    continue
                with config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
                    future = client.submit(_run, task, key=key, retries=_AGAIN)
                count = len(task.function) + len(task.content)
                held[key] = future, count, [at]
                size += count
                done.add(future)
            if not held:
                return
            if not threads:
                _await_workers(client, done)
            future, _, which = held.pop(next(done).key)
            try:
                value = future.result()
            except CancelledError as error:
                raise ConnectionError(_GONE) from error
            except distributed.KilledWorker as error:
                raise ChildProcessError(
                    "workers died one after the other at the same piece of work, mostly for lack "
                    f"of memory: give workers more memory, or a batch a smaller width; {_AFTER}"
                ) from error
            del future  # the workers need not keep it
            yield from ((at, value) for at in which)
    finally:
        if held and client.status == "running":
            client.cancel([future for future, *_ in held.values()])


def _await_workers(client: Any, done: Any) -> None:
    """Tell that nobody works, while that is so."""
    with waiting.on("the cluster has no worker yet"):
        while not (client.nthreads() or done.has_ready()) and client.status == "running":
            time.sleep(_LOOK)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the Dask scheduler at an `address`, such as tcp://node1:8786.

    Raises `OSError` where nobody answers there, `ImportError` without the extra `cluster`.
    """
    distributed, _ = _engine()
    from distributed.comm.addressing import get_address_host_port, normalize_address

    try:
        if not address.startswith("inproc:"):  # one that is none holds a client up for a minute
            get_address_host_port(normalize_address(address))
        client = distributed.Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        yield client


def check(client: Any) -> None:
    """Raises `ValueError` for what cannot hand out work: no `client`, or one that is awaited."""
    if not all(hasattr(client, name) for name in ("submit", "nthreads", "cancel", "loop")):
        raise ValueError(
            f"client is {named(client)}; give a distributed.Client, such as Client(cluster)."
        )
    if getattr(client, "asynchronous", False):
        raise ValueError("client is asynchronous, to be awaited; give a Client that is not.")


def shared(folder: str | Path | None) -> Path | None:
    """A folder that is made here, and in which workers write by themselves, by its whole name."""
    if folder is None:
        return None
    whole = Path(folder).resolve()
    whole.mkdir(parents=True, exist_ok=True)
    return whole


def within(folder: Path | None, name: str) -> Path | None:
    """A folder of its own in one that is `shared`.

    Raises `ValueError` on machines that do not see that.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(
            f"{socket.gethostname()} does not see {folder}; give a folder on a disk that all "
            "workers see, or none."
        )
    return folder and folder / name


class _Task(NamedTuple):
    """What a worker is sent."""

    versions: dict[str, str]
    wide: bool  # whether JAX has float64
    function: bytes  # both are unpickled in that mode, or JAX's arrays lose digits
    content: bytes


def _pickled(value: Any) -> bytes:
    import cloudpickle  # which comes with Dask

    return cloudpickle.dumps(value)


@lru_cache(maxsize=2)
def _function(pickled: bytes, wide: bool) -> Callable[[Any], Any]:
    """The same function whenever it is sent: programs are compiled once for each."""
    return pickle.loads(pickled)


def _run(task: _Task) -> Any:
    """What a worker does."""
    here, there = _versions(), task.versions
    for name in _ALIKE:
        if here[name] != there[name]:
            raise ValueError(
                f"the worker on {socket.gethostname()} has {name} {here[name]}, the client "
                f"{there[name]}; install the same version, or numbers differ."
            )
    with jax.enable_x64(task.wide):
        function = _function(task.function, task.wide)
        return _by_numpy(function(pickle.loads(task.content)))


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _ALIKE}


def _by_numpy(tree: Any) -> Any:
    """The same, JAX's arrays as NumPy's."""
    return jax.tree.map(lambda a: np.asarray(a) if isinstance(a, jax.Array) else a, tree)


def _engine() -> tuple[Any, Any]:
    """The modules `distributed` and `dask.config`."""
    try:
        import dask.config
        import distributed
    except ImportError as missing:
        raise ImportError(f"Dask is not installed; type: {_INSTALL}") from missing
    return distributed, dask.config
