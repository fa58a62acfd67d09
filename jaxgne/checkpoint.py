"""Arrays on disk that a later call goes on from: one file, written whole or not at all."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np


def write(path: Path, mark: str, tree: Any) -> None:
    """Save the arrays of `tree`; `mark` is a fingerprint of all that they depend on."""
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    leaves = {f"{k:03d}": np.asarray(a) for k, a in enumerate(jax.tree.leaves(tree))}
    try:
        with fresh.open("wb") as file:
            np.savez(file, allow_pickle=False, mark=mark, **leaves)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read(path: Path, mark: str, like: Any) -> Any:
    """What was saved, in the structure of `like`; None where there is no file.

    Raises `ValueError` for a file with another mark.
    """
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if str(file["mark"]) != mark:
            raise ValueError(
                f"{path}: holds other scenarios or settings; delete it, or give another folder."
            )
        leaves = [file[f"{k:03d}"] for k in range(len(file.files) - 1)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
