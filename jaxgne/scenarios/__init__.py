"""Many markets as one: every array with a leading scenario axis, for `clear_many` and `jax.vmap`.

What scenarios share is a view on the host, not a copy, until a chunk of them goes to the device.
"""

from ..padding import pad
from .branches import branch, committed, tree
from .calendar import days, days_by_length
from .noise import perturb
from .rows import lane, stack, sweep

__all__ = [
    "branch",
    "committed",
    "days",
    "days_by_length",
    "lane",
    "pad",
    "perturb",
    "stack",
    "sweep",
    "tree",
]
