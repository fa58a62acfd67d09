"""Memory that was freed goes back to the system, where the C library would keep it.

glibc keeps most arrays that were freed for later ones, of other sizes, so that a process holds two
to three times what its arrays take: of 20,000 prosumers 1.7 GB instead of 0.9.
"""

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Give back what is free, in some hundredths of a second; nothing on other systems."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
