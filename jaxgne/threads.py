"""BLAS on one thread: for systems of a hundred rows, threads wait longer than they compute.

BLAS knows no other limit than one for the whole process, so other threads of a user's program have
it too while NumPy or a compiled program runs; both ways to run mathematics, `runner.by_numpy` and
`programs.Program`, keep to it, and nothing else needs to.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any


class _OneThread:
    """How many are inside `one_thread`, and what the last of them to leave restores."""

    def __init__(self):
        self.lock, self.inside = Lock(), 0
        self.limits: Any = None


_ONE = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, BLAS and LAPACK run on one thread in this process; threads may overlap in it.

    Clears took 2 to 13 times as long on a busy machine with two.
    """
    with _ONE.lock:
        if _ONE.inside == 0:
            _ONE.limits = _libraries("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas")
        _ONE.inside += 1
    try:
        yield
    finally:
        with _ONE.lock:
            _ONE.inside -= 1
            if _ONE.inside == 0:
                _ONE.limits.restore_original_limits()


@cache
def _libraries(scipy: bool) -> Any:
    """What sets the threads of the libraries that are loaded; finding them takes milliseconds.

    JAX calls LAPACK in SciPy's, which it loads when it lowers the first program that does.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
