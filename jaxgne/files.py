"""Files on disk that appear whole or not at all, whoever reads, writes or is killed meanwhile."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: what a killed writer left there stays
    fcntl = None


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end of the block.

    Where the block raises, or the process dies, `path` stays as it was. What killed writers of
    `path` have left is removed. Makes the folder, and follows links. Raises `OSError` with a
    sentence that names `path` where it cannot be written, as in the place of a folder or a device.
    """
    check_place(path)
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        fresh, handle = _begun(path)
        try:
            yield fresh
            os.fsync(handle)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
            os.close(handle)
    except OSError as error:
        if error.errno is None:
            raise
        words = f"{path} could not be written: {error.strerror}"
        raise OSError(error.errno, words) from error


def check_place(path: str | Path) -> None:
    """Raise `OSError` where something else than a file stands, which one must not replace."""
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(f"{path} is {kind}; give the name of a file.")


def _begun(path: Path) -> tuple[Path, int]:
    """An empty file that this process holds until it is closed, also by the process' end."""
    while True:
        fresh = path.with_name(f"{_prefix(path)}{uuid4().hex}{path.suffix}")
        handle = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        held(handle, wait=True)
        if fresh.exists():  # else another writer swept it away before it was held
            return fresh, handle
        os.close(handle)


def _prefix(path: Path) -> str:
    return f".{path.name}.writing-"


def held(handle: int, *, wait: bool) -> bool:
    """Whether this process holds the file from now on, and no other does."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a writer that lives, or a file system without locks
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left that do not live any more."""
    for left in path.parent.glob(f"{glob.escape(_prefix(path))}*"):
        try:
            handle = os.open(left, os.O_RDWR)
        except FileNotFoundError:  # another writer was quicker
            continue
        try:
            if held(handle, wait=False):
                left.unlink(missing_ok=True)
        finally:
            os.close(handle)
