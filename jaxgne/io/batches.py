"""A folder of a batch: its markets, and the clearings of its scenarios, block by block.

    scenarios-FIRST-END.npz ...    the clearings of scenarios FIRST to END, each file whole
    markets/first/                 the first scenario, as `save` writes a market
    markets/FIRST-END.npz          the tables of the markets that are not the first's

`clear_many(folder=)` writes it and goes on from it; `load` reads it once all blocks are there.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .. import checkpoint
from ..clearing import blank, with_regret
from ..fingerprint import digits
from ..market import Market
from ..result import Clearing
from .loading import load as load_one
from .loading import load_market
from .saving import save

_FIRST = Path("markets", "first")
# in the file of markets: scenarios a block, digits of the first, and how all were cleared
_BLOCK, _BASE, _SOLVER, _ONE_WAY = "block", "first", "solver", "one_way"


class Blocks:
    """Finished blocks of a batch, which all have one origin: the fingerprint `mark`.

    `block` scenarios each, unless the folder was begun with another number, which it then keeps.
    Raises `ValueError` for a folder with other scenarios or settings.
    """

    def __init__(
        self,
        folder: Path,
        markets: Market,
        mark: str,
        block: int,
        offset: int,
        solver: str,
        one_way: bool,
    ):
        self.folder, self.mark, self.offset, self.block = folder, mark, offset, block
        if (folder / "market.json").exists() or (folder.exists() and not folder.is_dir()):
            raise ValueError(f"{folder} is a saved market or a file; give a folder of its own.")
        self.like = _like(markets, solver, one_way)
        end = offset + markets.prosumers.load.shape[0]
        path = _markets(folder, offset, end)
        for other, first, last in _held(folder):
            if other != path and first < end and offset < last:
                raise ValueError(
                    f"{folder}: holds other scenarios or settings; delete it, or give another "
                    "folder."
                )
        try:
            found = checkpoint.read_named(path, mark) if path.is_file() else {}
        except checkpoint.Broken as damage:
            warnings.warn(f"{damage}; what it held is written anew.", stacklevel=2)
            found = {}
        if _BLOCK in found and (offset or (folder / _FIRST).is_dir()):
            self.block = int(found[_BLOCK])
            return
        first, other = _split(markets) if offset == 0 else (None, _named(markets))
        if first is not None:
            save(folder / _FIRST, first)
        base = "" if first is None else _digits(first)
        how = {_BLOCK: block, _BASE: base, _SOLVER: solver, _ONE_WAY: one_way}
        checkpoint.write_named(path, mark, how | other)

    def _block(self, lanes: slice) -> tuple[Path, str]:
        first, end = lanes.start + self.offset, lanes.stop + self.offset
        return _block(self.folder, self.mark, first, end)

    def write(self, lanes: slice, clearing: Clearing) -> None:
        """Save a block's clearing."""
        checkpoint.write(*self._block(lanes), clearing)

    def read(self, lanes: slice) -> Clearing | None:
        """A block's clearing if it was finished, and is as it was written."""
        found = checkpoint.read(*self._block(lanes), self.like)
        whole = found is not None and found.steps.shape[0] == lanes.stop - lanes.start
        return found if whole else None


def is_batch(folder: str | Path) -> bool:
    """Whether a folder is one that `clear_many(folder=)` writes."""
    return bool(_held(Path(folder)))


def load(path: str | Path) -> tuple[Market, Clearing | None]:
    """The market in the folder `path` that `save` wrote, and its clearing if there is one.

    Numbers come back bit by bit, in the precision they had (float32 where JAX has no float64). Of a
    folder that `clear_many` or `jaxgne batch` wrote: the markets and their clearings, each array
    with a leading axis of scenarios, as they were given and returned.

    Raises `ValueError`, or `FileNotFoundError`, with a sentence that names the file and the fix.
    """
    return _load_batch(Path(path)) if is_batch(path) else load_one(path)


def _load_batch(folder: Path) -> tuple[Market, Clearing]:
    try:
        files = [(path, first, end, checkpoint.mark_of(path)) for path, first, end in _held(folder)]
        reached, base, parts, found = 0, load_market(folder / _FIRST), [], []
        for path, first, end, mark in files:
            if first != reached:
                raise ValueError(f"{folder}: the markets of scenarios {reached} to {first} miss")
            tables = checkpoint.read_named(path, mark)
            block, told = int(tables.pop(_BLOCK)), str(tables.pop(_BASE))
            if told and told != _digits(base):
                raise ValueError(
                    f"{folder / _FIRST} was changed since the batch was cleared, or JAX is not in "
                    "its precision (64-bit mode)"
                )
            solver, one_way = str(tables.pop(_SOLVER, "")), bool(tables.pop(_ONE_WAY, False))
            parts.append(_joined(base, tables, end - first))
            like, reached = _like(parts[-1], solver, one_way), end
            for at in range(first, end, block):
                last = min(at + block, end)
                name, origin = _block(folder, mark, at, last)
                if not name.is_file():
                    raise ValueError(f"{folder}: {at} of its {files[-1][2]} scenarios are cleared")
                found.append(checkpoint.read_like(name, origin, like))
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}; the call that wrote {folder} makes it whole."
        ) from error
    return _together(parts), _together(found)


def _together(parts: list[Any]) -> Any:
    """Parts of a batch one after the other; of a single one its views stay views."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: np.concatenate(a), *parts)


def refuse_batch(path: str | Path) -> None:
    """Raise `ValueError` for a folder of a batch, where one market is asked for."""
    if is_batch(path):
        raise ValueError(
            f"{path} holds a batch of markets, which jaxgne.load reads; its first is in "
            f"{Path(path) / _FIRST}."
        )


def _markets(folder: Path, first: int, end: int) -> Path:
    return folder / _FIRST.parent / f"{first:07d}-{end:07d}.npz"


def _block(folder: Path, mark: str, first: int, end: int) -> tuple[Path, str]:
    """A block's file, and the mark that it must bear."""
    return folder / f"scenarios-{first:07d}-{end:07d}.npz", digits(mark, first, end)


def _held(folder: Path) -> list[tuple[Path, int, int]]:
    """The files of markets in a folder, and which scenarios they hold."""
    found = []
    for path in (folder / _FIRST.parent).glob("*.npz"):
        words = path.stem.split("-")
        if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
            found.append((path, *map(int, words)))
    return sorted(found, key=lambda one: one[1:])


def _like(markets: Market, solver: str, one_way: bool) -> Clearing:
    """A batch of clearings of these markets by a solver, in shapes only."""
    one = jax.tree.map(lambda a: a[:1], markets)
    more = with_regret if one_way else lambda clearing: clearing
    like = eqx.filter_eval_shape(jax.vmap(lambda market: more(blank(market, None))), one)
    return replace(like, run=replace(like.run, solver=solver))


def _named(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): np.asarray(a) for k, a in leaves}


def _digits(market: Market) -> str:
    return digits(list(_named(market).values()))


def _split(markets: Market) -> tuple[Market, dict[str, np.ndarray]]:
    """The first market, and the tables of all in which any other differs from it."""
    first = jax.tree.map(lambda a: np.asarray(a[0]), markets)
    other = {
        name: table
        for name, table in _named(markets).items()
        if table.tobytes() != np.broadcast_to(table[:1], table.shape).tobytes()
    }
    return first, other


def _joined(first: Market, tables: dict[str, np.ndarray], count: int) -> Market:
    """Markets of these tables, with those of the first for what is not among them."""
    leaves, kind = jax.tree.flatten(first)
    held = [
        tables[name] if name in tables else np.broadcast_to(leaf, (count, *np.shape(leaf)))
        for name, leaf in zip(_named(first), leaves, strict=True)
    ]
    return jax.tree.unflatten(kind, held)
