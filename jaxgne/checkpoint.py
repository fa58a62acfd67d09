"""Arrays on disk that a later call goes on from: one file, whole, of one origin, and undamaged."""

import io
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .files import whole
from .fingerprint import digits

_BROKEN = (  # what zipfile and NumPy raise for a file that is none of theirs
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Broken(ValueError):
    """A file of arrays that is cut, edited, or none at all."""


def write(path: Path, mark: str, tree: Any) -> None:
    """Save the arrays of `tree`, whole; `mark` is a fingerprint of all that they depend on."""
    write_named(path, mark, {f"{k:03d}": a for k, a in enumerate(jax.tree.leaves(tree))})


def read(path: Path, mark: str, like: Any) -> Any:
    """What `write` saved under `mark`, in the structure of `like`; None where there is no file.

    A damaged file counts as none, with a warning: what it held is to be made anew. Raises
    `ValueError` for a file with another mark.
    """
    try:
        return read_like(path, mark, like) if path.is_file() else None
    except Broken as damage:
        warnings.warn(f"{damage}; what it held is made anew.", stacklevel=2)
        return None


def read_like(path: Path, mark: str, like: Any) -> Any:
    """What `write` saved under `mark`, in the structure of `like`, whose lengths may differ.

    Raises what `read_named` raises.
    """
    leaves, kind = jax.tree.flatten(like)
    found = read_named(path, mark)
    held = [found.get(f"{k:03d}") for k in range(max(len(found), len(leaves)))]
    if [_kind(a) for a in held] != [_kind(a) for a in leaves]:
        raise Broken(f"{path} holds other arrays than it should")
    return jax.tree.unflatten(kind, held)


def _kind(array: Any) -> tuple[int, str] | None:
    if array is None:
        return None
    return len(np.shape(array)), np.dtype(getattr(array, "dtype", type(array))).kind


def write_named(path: Path, mark: str, arrays: Mapping[str, Any]) -> None:
    """Save arrays by name, whole."""
    leaves = {name: np.asarray(a) for name, a in arrays.items()}
    content = digits(mark, leaves)
    with whole(path) as fresh, fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, mark=mark, content=content, **leaves)


def read_named(path: Path, mark: str) -> dict[str, np.ndarray]:
    """Arrays by name that were saved under `mark`.

    Raises `Broken` for a damaged file, `ValueError` for one with another mark, `OSError` where it
    cannot be read.
    """
    found = _read_all(path)
    if str(found.pop("mark", "")) != mark:
        raise ValueError(
            f"{path}: holds other scenarios or settings; delete it, or give another folder."
        )
    if str(found.pop("content", "")) != digits(mark, found):
        raise Broken(f"{path} was changed after it was written")
    return found


def mark_of(path: Path) -> str:
    """The mark under which a file was saved. Raises `Broken`, and `OSError`."""
    return str(_read_all(path, ("mark",)).get("mark", ""))


def _read_all(path: Path, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of these names, or all, by name; unpacked only as far as the file is long.

    `np.savez` does not compress: what claims to be longer than the file was not written here.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = file.infolist()
            stored = all(one.compress_type == zipfile.ZIP_STORED for one in members)
            if not stored or sum(one.file_size for one in members) > len(content):
                raise ValueError("more than was written")
            named = {one.filename.removesuffix(".npy"): one for one in members}
            return {
                k: _array(file.read(one)) for k, one in named.items() if not names or k in names
            }
    except _BROKEN as error:
        raise Broken(f"{path} is cut or damaged") from error


def _array(content: bytes) -> np.ndarray:
    """One array, whose header must fit its length; an array of objects is refused unread."""
    member = io.BytesIO(content)
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("another version")
    shape, fortran, kind = np.lib.format.read_array_header_1_0(member)
    rest = bytearray(member.read())
    if kind.hasobject or math.prod(shape) * kind.itemsize != len(rest):
        raise ValueError(f"{shape} of {kind} in {len(rest)} bytes")
    return np.frombuffer(rest, kind).reshape(shape, order="F" if fortran else "C")
