"""Folders that appear whole: written under a hidden name, put in place in one step.

A writer holds a lock on its hidden folder while it lives, so that what a killed one left behind can
be told from what another is writing.
"""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ..files import held

_HERE = -100  # AT_FDCWD: names count from the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE


@contextmanager
def replacing(target: Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A fresh folder that takes the place of `target` when the block ends without an error.

    Readers find the old state or the new one, and so does whoever comes after a crash. Folders
    that killed writers left are removed, if `ours` says so of them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _restore(target)
    _remove_stale(target, ours)
    fresh, lock = _create(target)
    try:
        yield fresh
        _flush(fresh)
        _put(fresh, target)
        _flush_directory(target.parent)
    finally:
        _remove(fresh)
        os.close(lock)


def leftovers(target: Path) -> Iterator[Path]:
    """Hidden folders of writers of `target`, dead or alive."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}(\.old)?")
    with suppress(FileNotFoundError), os.scandir(target.parent) as entries:
        yield from [target.parent / e.name for e in entries if pattern.fullmatch(e.name)]


def _create(target: Path) -> tuple[Path, int]:
    """A new hidden folder beside `target`, and a descriptor that locks it."""
    while True:
        fresh = target.parent / f".{target.name}.{uuid4().hex}"
        try:
            fresh.mkdir()
        except OSError as error:  # told of what was asked for, not of what is hidden beside it
            raise OSError(error.errno, error.strerror, str(target)) from error
        try:
            lock = os.open(fresh, os.O_RDONLY)
        except FileNotFoundError:  # one who cleans up was faster
            continue
        held(lock, wait=True)
        if fresh.exists():  # else one who cleans up held it first
            return fresh, lock
        os.close(lock)


@contextmanager
def _abandoned(left: Path) -> Iterator[bool]:
    """Whether the writer of a hidden folder is dead; no other takes the folder in the block."""
    try:
        opened = os.open(left.with_suffix("") if left.suffix == ".old" else left, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield held(opened, wait=False)
    finally:
        os.close(opened)


def _remove_stale(target: Path, ours: Callable[[Path], bool]) -> None:
    for left in leftovers(target):
        with _abandoned(left) as free, suppress(FileNotFoundError):  # others may clean up too
            if free and not left.is_symlink() and ours(left):
                _remove(left)


def _remove(folder: Path) -> None:
    """Remove a folder, which another writer may be removing too."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _restore(target: Path) -> None:
    """Put back what a writer had moved aside when it was killed."""
    for left in leftovers(target):
        with _abandoned(left) as free:
            if free and left.suffix == ".old" and not target.exists():
                left.rename(target)


def _put(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target`, whose old state is then at `fresh` or gone."""
    while not _placed(fresh, target):  # else another writer was faster
        pass


def _placed(fresh: Path, target: Path) -> bool:
    """Whether `fresh` came in the place of what stood there; False where that changed meanwhile."""
    if not target.exists():
        return _renamed(fresh, target)
    if _exchange(fresh, target):
        return True
    old = fresh.with_name(f"{fresh.name}.old")
    try:
        os.rename(target, old)
    except FileNotFoundError:
        return False
    try:
        done = _renamed(fresh, target)
    except OSError:
        os.rename(old, target)
        raise
    _remove(old)
    return done


def _renamed(fresh: Path, target: Path) -> bool:
    """Rename a folder; False where another one stands in its way."""
    try:
        os.rename(fresh, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, where the system can: Linux on most file systems."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, TypeError, OSError):  # no such function in this C library
        return False
    if not rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def _flush(folder: Path) -> None:
    """Let the disk have all files below `folder`, before a name points to them."""
    for place, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())
        _flush_directory(Path(place))


def _flush_directory(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
