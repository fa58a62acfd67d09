"""One way to get a market by name: a built-in case, or a folder on disk."""

import inspect
from pathlib import Path
from typing import Any

from ..cases import CASES
from ..market import Market
from ..validation import validate
from .batches import refuse_batch
from .loading import load_market


def load_case(case: str | Path, **options: Any) -> Market:
    """The market called `case`: a built-in one, made with `options`, or a folder `save` wrote.

    Raises `ValueError` for an unknown case or option, naming those that exist, and for a folder
    whose market makes no sense, naming all that is wrong with it.
    """
    names = ", ".join(CASES)
    builder = CASES.get(str(case))
    if builder is not None:
        known = inspect.signature(builder).parameters
        for option in options:
            if option not in known:
                raise ValueError(f"{case} has no option {option!r}; it takes {', '.join(known)}.")
        for name, option in known.items():
            if name not in options and option.default is inspect.Parameter.empty:
                raise ValueError(f"{case} needs the option {name!r}; give a value.")
        return builder(**options)
    if not Path(case).is_dir():
        raise ValueError(
            f"no case or folder {str(case)!r}; the built-in cases are {names}, or give a folder "
            "that jaxgne.save wrote."
        )
    if options:
        raise ValueError(
            f"{case} is a saved market, which takes no options (got {', '.join(options)}); they "
            f"are for the built-in cases {names}."
        )
    refuse_batch(case)
    return validate(load_market(case))
