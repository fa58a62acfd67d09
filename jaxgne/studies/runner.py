"""What all studies share: runs that are kept when done, and what a study found.

With a folder, each finished run is a file in its folder `runs`, under a fingerprint of all that its
answer depends on: the same call goes on after the last one, another call does its own runs. Runs do
not know of one another, so the workers of a cluster may do them.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..batch import BatchProgress, clear_many
from ..cluster import check, each
from ..comparison import Comparison, compare
from ..files import whole
from ..fingerprint import fingerprint
from ..io.tables import write_table
from ..market import Market
from ..model import potential
from ..result import Clearing
from ..scenarios import lane, stack
from ..status import status_name

Row = dict[str, Any]  # one line of a table: words, numbers, or None where there is none
Watch = Callable[[BatchProgress], None] | None
S = TypeVar("S")

_DIGITS = 16  # of a fingerprint, in the name of a file
_LEFT_OUT = ("price_of_anarchy", "co2_kg")  # of `compare`: nothing to tell in any study


@dataclass(frozen=True)
class Study:
    """What a study found: tidy tables with units in the names of columns, and one sentence.

    Prints as the columns `shown` of its first table and the sentence.
    """

    name: str
    tables: dict[str, list[Row]]  # by name, a row a line
    shown: tuple[str, ...]
    finding: str  # in a sentence or two
    missed: int = 0  # markets that did not clear

    def __str__(self) -> str:
        rows = next(iter(self.tables.values()))
        heads = [column.split("_") for column in self.shown]
        deep = max(map(len, heads))
        lines = [[""] * (deep - len(head)) + head for head in heads]
        cells = [[_cell(row.get(column)) for column in self.shown] for row in rows]
        wide = [max(map(len, both)) for both in zip(*zip(*lines, strict=True), *cells, strict=True)]
        text = [*zip(*lines, strict=True), *cells]
        table = ["  ".join(map(str.rjust, line, wide)).rstrip() for line in text]
        return "\n".join([*table, "", self.finding])

    def save(self, folder: str | Path) -> None:
        """Write each table to `folder` as CSV, and what is printed as text, each file whole."""
        for name, rows in self.tables.items():
            names = list(dict.fromkeys(column for row in rows for column in row))
            columns = {column: [row.get(column) for row in rows] for column in names}
            with whole(Path(folder) / f"{name.replace('-', '_')}.csv") as fresh:
                write_table(fresh, columns)
        with whole(Path(folder) / f"{self.name}.txt") as fresh:
            fresh.write_text(f"{self}\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


class Runs:
    """Runs, each kept as a line of JSON; done by the workers of a cluster where there is one.

    Raises `ValueError` for a `client` that is none.
    """

    def __init__(self, total: int, folder: str | Path | None, progress: Watch, client: Any = None):
        if client is not None:
            check(client)
        self.total, self.progress, self.client = total, progress, client
        self.folder = None if folder is None else Path(folder) / "runs"
        self.done, self.begun = 0, time.perf_counter()

    def __call__(self, run: Callable[[S], Row], asked: Iterable[tuple[str, S]]) -> list[Row]:
        """Rows in the order of `asked`: of each run its fingerprint, and what `run` makes it of.

        A row that is known is not made again. What a later run is made of is asked for when
        somebody has time for it.
        """
        rows: dict[int, Row] = {}
        left: list[tuple[int, str]] = []  # those that are not known: which, and the fingerprint

        def unknown() -> Iterator[S]:
            for at, (mark, item) in enumerate(asked):
                row = self._known(mark)
                if row is None:
                    left.append((at, mark))
                    yield item
                else:
                    rows[at] = row
                    self._tell()

        with closing(each(self.client, run, unknown())) as made:
            for which, row in made:
                at, mark = left[which]
                if path := self._path(mark):
                    with whole(path) as fresh:
                        line = json.dumps(row, allow_nan=False) + "\n"
                        fresh.write_text(line, encoding="utf-8")
                rows[at] = row
                self._tell()
        return [rows[at] for at in sorted(rows)]

    def _path(self, mark: str) -> Path | None:
        return self.folder and self.folder / f"{mark[:_DIGITS]}.json"

    def _tell(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(BatchProgress(self.done, self.total, time.perf_counter() - self.begun))

    def _known(self, mark: str) -> Row | None:
        """A row that was kept; None where there is none, with a warning where it was damaged."""
        path = self._path(mark)
        return _kept(path) if path and path.is_file() else None


def _kept(path: Path) -> Row | None:
    """A row that was kept; None, with a warning, of a file that was damaged since."""
    try:
        row = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        warnings.warn(f"{path} is cut or damaged; its run is made anew.", stacklevel=3)
        return None
    return row


@dataclass(frozen=True)
class Variants:
    """One market with something changed, all variants cleared together."""

    markets: dict[str, Market]
    clearings: dict[str, Clearing]
    compared: Comparison  # of those that cleared

    def rows(self, **columns: Sequence[Any]) -> list[Row]:
        """A line each: `columns`, how it ended, its potential, and what `compare` says of it."""
        rows = []
        for k, (name, market) in enumerate(self.markets.items()):
            found, known = self.clearings[name], self.compared.rows.get(name, {})
            plan = found.plan
            value = float(potential(market, plan)) if name in self.compared.rows else None
            row = {"variant": name, **{key: values[k] for key, values in columns.items()}}
            row |= {"status": status_name(found.status), "potential_eur": value}
            rows.append(row | {key: v for key, v in known.items() if key not in _LEFT_OUT})
        return rows

    def costs(self) -> dict[str, np.ndarray]:
        """What every prosumer (N) pays in each variant that cleared, EUR."""
        return {name: np.asarray(one.cost) for name, one in self.compared.outcomes.items()}

    @property
    def missed(self) -> int:
        """How many did not clear."""
        return len(self.markets) - len(self.compared.rows)


def clear_variants(
    markets: Mapping[str, Market],
    *,
    reference: str,
    tol: float,
    folder: str | Path | None,
    progress: Watch,
    client: Any = None,
) -> Variants:
    """Clear variants of one market as a batch, and compare those that clear with `reference`.

    Where that does not clear itself, with the first that does. Workers of a `client` clear one
    variant at a time. Raises `ValueError` where none clears.
    """
    batch = stack(list(markets.values()))
    kept = None if folder is None else Path(folder) / "runs" / fingerprint(batch, tol)[:_DIGITS]
    width = None if client is None else 1
    found = clear_many(batch, tol=tol, folder=kept, width=width, progress=progress, client=client)
    clearings = {name: jax.tree.map(jnp.asarray, lane(found, k)) for k, name in enumerate(markets)}
    cleared = {name: (markets[name], one) for name, one in clearings.items() if bool(one.ok)}
    if not cleared:
        raise ValueError(
            "study: no variant of this market cleared; `jaxgne clear` of the case says why."
        )
    beside = reference if reference in cleared else next(iter(cleared), reference)
    return Variants(dict(markets), clearings, compare(cleared, reference=beside))


def percent(part: float, of: float) -> str:
    """A share for a sentence: 12.3 %."""
    return f"{100 * part / of:.1f} %" if of else "-"
