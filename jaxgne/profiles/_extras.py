"""Libraries that the core does without, imported when they are needed."""

from importlib import import_module
from typing import Any


def extra(caller: str, library: str, name: str) -> Any:
    """The library, of the extra `name`. `ImportError` that says how to get it."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f"{caller}: this needs {library.split('.')[0]}; pip install 'jaxgne[{name}]'."
        ) from error
