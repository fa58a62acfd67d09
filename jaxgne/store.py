"""Compiled programs on disk, so that the next process need not compile them.

Entries lie in `~/.cache/jaxgne` (`$XDG_CACHE_HOME/jaxgne`, on macOS `~/Library/Caches/jaxgne`), no
more than 200 MB of them. The environment variable `JAXGNE_CACHE` names another folder, or is `off`.
An entry is code: a folder that is not the user's own, or that others may write, is left alone.
"""

import os
import stat
import sys
import zlib
from contextlib import suppress
from pathlib import Path

from .files import whole

_MOST = 200 << 20  # bytes of all entries together


def folder() -> Path | None:
    """Where entries lie, made where it is missing; None where there is no safe place for them."""
    named = os.environ.get("JAXGNE_CACHE", "")
    if named.lower() in ("off", "0"):
        return None
    try:
        place = Path(named).expanduser() if named else _usual()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.stat()
    except (OSError, RuntimeError):  # read-only, or a user without a home
        return None
    ours = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return place if ours else None


def _usual() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):
        return Path(home) / "jaxgne"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "jaxgne"


def has(name: str) -> bool:
    """Whether there is an entry of this name."""
    place = folder()
    return place is not None and (place / name).is_file()


def read(name: str) -> bytes | None:
    """What was written under this name; None where nothing was, or not all of it is there."""
    place = folder()
    if place is None:
        return None
    try:
        data = zlib.decompress((place / name).read_bytes())
    except OSError:
        return None
    except zlib.error:
        drop(name)
        return None
    with suppress(OSError):
        os.utime(place / name)  # the oldest go first
    return data


def write(name: str, data: bytes) -> None:
    """Keep `data` under a name, whole or not at all; silently not where nothing can be written."""
    place = folder()
    if place is None:
        return
    with suppress(OSError):
        with whole(place / name) as fresh:
            fresh.write_bytes(zlib.compress(data, 1))
        _prune(place)


def drop(name: str) -> None:
    """Delete an entry."""
    place = folder()
    if place is not None:
        with suppress(OSError):
            (place / name).unlink()


def _prune(place: Path) -> None:
    """Delete what was not used for longest, down to the size that all may have."""
    found = []
    for entry in os.scandir(place):
        with suppress(OSError):  # another process deletes too
            size = entry.stat()
            found.append((size.st_mtime, size.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= _MOST:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size
