"""A folder as it is at one moment, though writers may put another in its place meanwhile."""

import os
import stat
import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path

from .faults import Faults
from .json_text import LARGEST as LARGEST_JSON
from .json_text import Document, parse
from .parquet import ParquetTable
from .parsing import LARGEST, LONGEST, TextTable
from .swap import leftovers

_TRIES = 100
_PAUSE = 0.01  # s, between them
_KINDS = (".csv", ".json", ".parquet")  # endings of files that must be known


def as_parquet(name: str) -> str:
    """What a table is called in Parquet; JSON stays as it is."""
    return f"{name.removesuffix('.csv')}.parquet" if name.endswith(".csv") else name


class Snapshot:
    """The files of a folder that a reader asks for, all opened before the first is read.

    What is open stays readable when the folder is replaced and deleted: the reader has the old
    state whole. Where it was replaced while files were being opened, they are opened again.
    """

    def __init__(self, folder: Path, known: Mapping[str, Set[str]]):
        """The `known` files by folder: "" is `folder` itself, others may be missing inside it.

        Each CSV may be Parquet instead.
        """
        self.folder = folder
        self._known = {name: {*files, *map(as_parquet, files)} for name, files in known.items()}
        self._stack = ExitStack()
        self._files: dict[str, int | OSError] = {}
        self.folders: set[str] = set()
        self.strange: list[str] = []  # tables and JSON that are not known, files for folders

    def __enter__(self) -> "Snapshot":
        for _ in range(_TRIES):
            try:
                if self._open():
                    return self
            except FileNotFoundError:
                self.close()
                if not any(leftovers(self.folder.absolute())) and not self.folder.exists():
                    raise FileNotFoundError(
                        f"{self.folder} does not exist; check the path."
                    ) from None
            except NotADirectoryError:
                raise ValueError(
                    f"{self.folder} is no folder that jaxgne.save wrote; check the path."
                ) from None
            self.close()
            time.sleep(_PAUSE)
        raise OSError(f"{self.folder} is replaced again and again while it is read; try later.")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()
        self._files.clear()
        self.folders.clear()
        self.strange.clear()

    def _open(self) -> bool:
        """Open all files; whether they are of one state."""
        top = self._directory(self.folder)
        for name, files in self._known.items():
            try:
                place = self._directory(name, top) if name else top
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                self.strange.append(name)
                continue
            self.folders.add(name)
            self._open_files(f"{name}/" if name else "", place, files)
        now, then = os.stat(self.folder), os.fstat(top)
        return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)

    def _directory(self, name: str | Path, top: int | None = None) -> int:
        opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=top)
        self._stack.callback(os.close, opened)
        return opened

    def _open_files(self, prefix: str, directory: int, known: Set[str]) -> None:
        for name in sorted(os.listdir(directory)):
            if name in known and name.endswith(_KINDS):
                try:  # a pipe would wait for a writer
                    opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
                except FileNotFoundError:  # removed since, or a link to nothing
                    continue
                except OSError as error:
                    self._files[prefix + name] = error
                    continue
                self._stack.callback(os.close, opened)
                self._files[prefix + name] = opened
            elif name.endswith(_KINDS) and not name.startswith("."):
                self.strange.append(prefix + name)

    def path(self, name: str) -> str:
        return str(self.folder / self._called(name))

    def has(self, name: str) -> bool:
        return self._called(name) in self._files

    def _called(self, name: str) -> str:
        """What a table is called here: it may be Parquet in place of CSV."""
        parquet = as_parquet(name)
        return parquet if parquet in self._files else name

    def document(self, name: str, faults: Faults) -> Document | None:
        """The object in a JSON file, its entries as they stand."""
        data = self._read(name, LARGEST_JSON, faults)
        return None if data is None else parse(data, self.path(name), faults)

    def table(self, name: str, rows: int | None, faults: Faults) -> TextTable | ParquetTable | None:
        """A table as it stands, of so many rows if that is known."""
        called = self._called(name)
        if called != name and name in self._files:
            faults.add(self.path(name), f" is there beside {Path(name).name}; remove one of them.")
            return None
        most = LARGEST if rows is None else min(LARGEST, (rows + 100) * LONGEST)
        data = self._read(called, most, faults)
        if data is None:
            return None
        kind = TextTable if called == name else ParquetTable
        return kind(data, self.path(name), faults)

    def _read(self, name: str, most: int, faults: Faults) -> bytes | None:
        """The bytes of a file; None and a fault where it is missing, no file or too large."""
        opened = self._files.get(name)
        if opened is None:
            faults.add(self.path(name), " is missing; put it back, or save again.")
            return None
        if isinstance(opened, OSError):
            faults.add(self.path(name), f" cannot be read: {opened.strerror}.")
            return None
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            faults.add(self.path(name), " is no plain file; put a file there, or save again.")
            return None
        if about.st_size > most:
            faults.add(
                self.path(name), f": {about.st_size} bytes, it may have {most} here; shorten it."
            )
            return None
        with os.fdopen(os.dup(opened), "rb") as file:
            file.seek(0)
            return file.read(most)
