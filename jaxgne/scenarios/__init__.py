"""Many markets as one: every array with a leading scenario axis, for `clear_many` and `jax.vmap`.

What scenarios share is a view on the host, not a copy, until a chunk of them goes to the device.
"""

from ..padding import pad
from .branches import branch, committed, tree
from .calendar import days, days_by_length
from .long import chain, series
from .noise import perturb
from .rows import lane, stack, sweep

__all__ = [
    "branch",
    "chain",
    "committed",
    "days",
    "days_by_length",
    "lane",
    "pad",
    "perturb",
    "series",
    "stack",
    "sweep",
    "tree",
]
