"""Files appear whole or not at all; arrays that were cut, edited or blown up are found out."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxgne import checkpoint
from jaxgne.files import whole

MARK = "a" * 64
TREE = (
    np.arange(6.0).reshape(2, 3),
    np.array(True),
    np.zeros((0, 3)),
    np.arange(4, dtype=np.int32),
)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "table.csv"
    with whole(path) as fresh:
        fresh.write_text("old")

    def fails() -> None:
        with whole(path) as fresh:
            fresh.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_never_replaced(tmp_path: Path):
    """A device may be one that the whole machine needs; a link stays one, to what was written."""
    pipe, link, end = tmp_path / "pipe", tmp_path / "link", tmp_path / "end.csv"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path, kind in ((pipe, "a device or a pipe"), (link, "a device"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=f"{path.name} is {kind}"), whole(path):
            pass
    assert pipe.is_fifo() and link.is_symlink()
    link.unlink()
    link.symlink_to(end)
    for words in ("new", "newer"):
        with whole(link) as fresh:
            fresh.write_text(words)
        assert link.is_symlink() and end.read_text() == words
    assert {*tmp_path.iterdir()} == {pipe, link, end}


def test_a_killed_writer_leaves_nothing_behind_the_next_write(tmp_path: Path):
    """What a writer that still lives has begun stays; what one killed in the middle left goes."""
    path = tmp_path / "table.csv"
    script = (
        "import os, signal, sys; from jaxgne.files import whole\n"
        "with whole(sys.argv[1]) as fresh:\n"
        "    fresh.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    with whole(path) as slow:
        slow.write_text("slow")
        with whole(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick" and sorted(tmp_path.iterdir()) == sorted([path, slow])
    assert path.read_text() == "slow" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "table.csv"
    with pytest.raises(OSError, match=r"table\.csv could not be written: "), whole(path):
        pass


def test_arrays_come_back_bit_by_bit(tmp_path: Path):
    path = tmp_path / "arrays.npz"
    assert checkpoint.read(path, MARK, TREE) is None
    checkpoint.write(path, MARK, TREE)
    for held, given in zip(checkpoint.read(path, MARK, TREE), TREE, strict=True):
        assert held.dtype == given.dtype and held.shape == given.shape
        assert held.tobytes() == given.tobytes()
    with pytest.raises(ValueError, match="holds other scenarios or settings"):
        checkpoint.read(path, "b" * 64, TREE)


@pytest.mark.filterwarnings("ignore:.*made anew")
def test_every_cut_and_every_flipped_bit_is_found(tmp_path: Path):
    """Prefixes of a file, and bytes with one bit changed: the arrays as they were, or none."""
    path = tmp_path / "arrays.npz"
    checkpoint.write(path, MARK, TREE)
    content, found = path.read_bytes(), 0
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        assert checkpoint.read(path, MARK, TREE) is None
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        held = checkpoint.read(path, MARK, TREE)
        found += held is None
        if held is not None:  # a date, or a field that nobody reads
            assert all(a.tobytes() == b.tobytes() for a, b in zip(held, TREE, strict=True))
    assert found > len(content) / 3 / 2


def _edited(content: bytes) -> bytes:
    """The same arrays, the first of another number, written by `np.savez`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    fresh = io.BytesIO()
    np.savez(fresh, allow_pickle=False, **{**arrays, "000": arrays["000"] + 1})
    return fresh.getvalue()


def _bomb(content: bytes) -> bytes:
    """A gigabyte of zeros in a megabyte."""
    fresh = io.BytesIO(content)
    with zipfile.ZipFile(fresh, "a", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as one:
        for _ in range(64):
            one.write(bytes(1 << 24))
    return fresh.getvalue()


def _claim(content: bytes) -> bytes:
    """A header that says 10^15 numbers, and no number."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**15},), }}\n".encode()
    fresh = io.BytesIO(content)
    with zipfile.ZipFile(fresh, "a") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    return fresh.getvalue()


def _objects(content: bytes) -> bytes:
    """An array of objects, which only unpickling would read."""
    fresh = io.BytesIO()
    np.savez(fresh, allow_pickle=True, mark=MARK, content="", **{"000": np.array([{}], object)})
    return fresh.getvalue()


DAMAGE = {
    "empty": lambda _: b"",
    "head": lambda _: b"PK",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda _: np.random.default_rng(0).bytes(999),
    "edited": _edited,
    "bomb": _bomb,
    "claim": _claim,
    "objects": _objects,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_counts_as_no_file_with_one_warning(name: str, tmp_path: Path):
    path = tmp_path / "arrays.npz"
    checkpoint.write(path, MARK, TREE)
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    with pytest.warns(UserWarning, match=r"arrays\.npz .*made anew") as told:
        assert checkpoint.read(path, MARK, TREE) is None
    assert len(told) == 1
    checkpoint.write(path, MARK, TREE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.read(path, MARK, TREE) is not None
