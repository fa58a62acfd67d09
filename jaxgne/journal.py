"""A folder of a simulation: its truth, what was done chunk by chunk, and where it stands.

    truth/first/            the first window, as `save` writes a market
    truth/steps.npz         the tables of all steps
    steps-FIRST-END.npz ... what was done in steps FIRST to END, each file whole
    state.npz               from where to go on, written after each chunk

Each file bears the fingerprint of all that its numbers depend on. What is killed leaves at most a
chunk that the state does not know of yet, which is then written anew.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import checkpoint
from .fields import Field
from .fingerprint import fingerprint
from .imbalance import Closed
from .io import load_market, save
from .market import FIELDS, Market, replaced
from .model import Plan, Rows
from .receding import Part, Setting, Start, State, begin
from .record import without_names
from .windows import window

_FIRST, _STEPS, _STATE = Path("truth", "first"), Path("truth", "steps.npz"), Path("state.npz")
_SECONDS, _WINDOWS = 30.0, 96  # after which a chunk is written
_HORIZON, _WHY = "horizon", "why"


class Memory:
    """What a simulation has done, kept in memory."""

    def __init__(self, setting: Setting):
        self.state = begin(setting)
        self.parts: list[Part] = []
        self.notes: list[str] = []

    def add(self, state: State, part: Part, notes: list[str]) -> None:
        """Take what a window did."""
        self.state = state
        self.parts.append(part)
        self.notes += notes

    def flush(self, why: str = "") -> None:
        """Nothing is to be written."""

    def all(self) -> tuple[Part | None, list[str]]:
        """What was done, and what gave way."""
        return (joined(self.parts) if self.parts else None), self.notes


class Journal:
    """What a simulation has done, on disk. Raises `ValueError` for another simulation's folder."""

    def __init__(self, folder: str | Path, setting: Setting):
        self.folder, self.setting = Path(folder), setting
        if (self.folder / "market.json").exists() or (
            self.folder.exists() and not self.folder.is_dir()
        ):
            raise ValueError(f"{folder} is a saved market or a file; give a folder of its own.")
        asked = setting._replace(truth=without_names(setting.truth))
        self.mark = fingerprint(*asked)
        self.parts: list[Part] = []
        self.notes: list[str] = []
        self.written = time.monotonic()
        self.state = self._begun()
        self.first = int(self.state.at)

    def _begun(self) -> State:
        """From where to go on: what was written last, or the beginning."""
        found = None
        try:
            if (self.folder / _STATE).is_file():
                _owned(self.folder / _STATE, self.mark)
                found = checkpoint.read_named(self.folder / _STATE, self.mark)
        except checkpoint.Broken as damage:
            warnings.warn(f"{damage}; the simulation begins anew.", stacklevel=4)
        if found is not None:
            at = int(found["at"])
            for path, _, last in _chunks(self.folder):
                if last > at:  # written as the process was killed
                    path.unlink()
            if _reached(_chunks(self.folder)) == at:
                return _state(found)
            warnings.warn(f"{self.folder} lacks what was done; it begins anew.", stacklevel=4)
        truth = self.setting.truth
        first = window(truth, 0, self.setting.lengths)
        tables = {field.dotted: np.asarray(field.find(truth)) for field in _tables()}
        extra = {_HORIZON: np.asarray(self.setting.horizon)}
        if (self.folder / _STEPS).is_file():  # of the same simulation, or it is refused
            _owned(self.folder / _STEPS, self.mark)
        checkpoint.write_named(self.folder / _STEPS, self.mark, tables | extra)
        save(self.folder / _FIRST, first)
        return begin(self.setting)

    def add(self, state: State, part: Part, notes: list[str]) -> None:
        """Take what a window did, and write it with those before where it is time."""
        self.state = state
        self.parts.append(part)
        self.notes += notes
        late = time.monotonic() - self.written > _SECONDS
        if len(self.parts) >= _WINDOWS or late or int(state.at) >= self.setting.horizon:
            self.flush()

    def flush(self, why: str = "") -> None:
        """Write what was done and where it stands; and `why` it ended, where it did."""
        end = int(self.state.at)
        if self.parts:
            tables = _named(joined(self.parts)) | {"notes": np.asarray(self.notes, dtype=np.str_)}
            checkpoint.write_named(_chunk(self.folder, self.first, end), self.mark, tables)
        stands = _named(self.state) | {_WHY: np.asarray(why)}
        checkpoint.write_named(self.folder / _STATE, self.mark, stands)
        self.parts, self.notes, self.first = [], [], end
        self.written = time.monotonic()

    def all(self) -> tuple[Part | None, list[str]]:
        """What was done since the first step, read from the folder, and what gave way."""
        _, _, done, notes, _ = read(self.folder)
        return done, notes


def is_simulation(folder: str | Path) -> bool:
    """Whether a folder is one that `simulate(out=)` writes."""
    return (Path(folder) / _STEPS).is_file()


def read(folder: str | Path) -> tuple[Market, int, Part | None, list[str], str]:
    """Truth, horizon, what was done, what gave way, and why it ended, "" if it did not yet.

    Raises `ValueError` with a sentence for a folder that is damaged.
    """
    folder = Path(folder)
    try:
        mark = checkpoint.mark_of(folder / _STEPS)
        tables = checkpoint.read_named(folder / _STEPS, mark)
        horizon = int(tables.pop(_HORIZON))
        first = jax.tree.map(np.asarray, load_market(folder / _FIRST))
        truth = replaced(first, tables)
        end, why = 0, ""
        if (folder / _STATE).is_file():
            stands = checkpoint.read_named(folder / _STATE, mark)
            end, why = int(stands["at"]), str(stands[_WHY])
        kept = [chunk for chunk in _chunks(folder) if chunk[2] <= end]
        if _reached(kept) != end:
            raise checkpoint.Broken(f"{folder} lacks what was done from step {_reached(kept)} on")
        parts, notes = [], []
        for path, _, _ in kept:
            found = checkpoint.read_named(path, mark)
            notes += found.pop("notes").tolist()
            parts.append(_part(found))
    except checkpoint.Broken as damage:
        raise ValueError(f"{damage}; the call that wrote {folder} makes it whole.") from damage
    return truth, horizon, joined(parts) if parts else None, notes, why


def joined(parts: list[Part]) -> Part:
    """What several windows did, one after the other."""
    return jax.tree.map(lambda *each: np.concatenate(each, axis=-1), *parts)


def _tables() -> list[Field]:
    """Fields that have numbers by step, or may have."""
    return [field for field in FIELDS.values() if field.hourly or field.either]


def _chunk(folder: Path, first: int, end: int) -> Path:
    return folder / f"steps-{first:07d}-{end:07d}.npz"


def _chunks(folder: Path) -> list[tuple[Path, int, int]]:
    """The chunks in a folder, by their first step, and which steps they hold."""
    found = []
    for path in folder.glob("steps-*.npz"):
        words = path.stem.split("-")[1:]
        if len(words) == 2 and all(word.isascii() and word.isdigit() for word in words):
            found.append((path, *map(int, words)))
    return sorted(found, key=lambda one: one[1:])


def _reached(chunks: list[tuple[Path, int, int]]) -> int:
    """Up to which step chunks follow one another without a gap."""
    end = 0
    for _, first, last in chunks:
        end = last if first == end else end
    return end


def _owned(path: Path, mark: str) -> None:
    """Refuse a file of another simulation; a damaged one is nobody's."""
    try:
        other = checkpoint.mark_of(path) != mark
    except checkpoint.Broken:
        return
    if other:
        raise ValueError(
            f"{path}: holds another simulation or other settings; delete its folder, "
            "or give another."
        )


def _named(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): np.asarray(a) for k, a in leaves}


def _within(tables: dict[str, Any], head: str) -> dict[str, Any]:
    """The tables whose names begin with `head`, without it."""
    return {name.removeprefix(head): a for name, a in tables.items() if name.startswith(head)}


def _state(found: dict[str, Any]) -> State:
    start = None
    if any(name.startswith("start.") for name in found):
        plan, prices = (_within(found, f"start.{part}.") for part in ("plan", "prices"))
        start = Start(Plan(**plan), Rows(**prices))
    own = {name: found[name] for name in ("at", "energy", "level", "value")}
    return State(**own, start=start)


def _part(found: dict[str, Any]) -> Part:
    done = {name: a for name, a in _within(found, "done.").items() if not name.startswith("plan.")}
    own = {name: a for name, a in found.items() if "." not in name}
    return Part(
        done=Closed(plan=Plan(**_within(found, "done.plan.")), **done),
        prices=Rows(**_within(found, "prices.")),
        **own,
    )
