"""Writing a market and its clearing as a folder, complete or not at all."""

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ..arguments import of_tables
from ..certificate import Certificate
from ..comparison import measured
from ..each import refuse_batch
from ..files import whole
from ..grids import MODELS
from ..market import Market
from ..model import energy_prices, mean_price, rows_like, trade_prices, voltages, zeros
from ..result import Clearing
from ..runner import hosted
from ..status import status_name
from ..validation import structure
from .loading import check_ours
from .parquet import check_parquet, write_parquet
from .parsing import CONTROL
from .reading import Content, answer_marks
from .schema import (
    CAPS,
    CURVES,
    FAMILY_OF,
    FORMAT,
    KIND_OF,
    MARKET,
    NOTES,
    OURS,
    OWNERS,
    TIME,
    VERSION,
    WITHOUT,
    Table,
    ac_tables,
    clearing_tables,
    ordered,
    present,
)
from .sheets import is_book, notes_of, write_book
from .snapshot import as_parquet
from .swap import replacing
from .tables import by_hour, write_table

_BATCH = "save one, jg.scenarios.lane(markets, k), or keep all, jg.clear_many(markets, folder=...)"
_NAME = 1000  # bytes of the name of a bus


@of_tables
def save(
    path: str | Path,
    market: Market,
    clearing: Clearing | None = None,
    *,
    summary: Mapping[str, Any] | None = None,
    tables: Literal["csv", "parquet"] = "csv",
    notes: str = "",
    counted: bool = True,
) -> None:
    """Write a market, and its clearing, as a folder of CSV and JSON that `load` reads back exactly.

    `tables` may be Parquet instead; a `path` that ends in `.xlsx` is one workbook, with a sheet for
    each. It appears complete or not at all; a folder or a workbook of ours that stands there is
    replaced, anything else is refused with `ValueError`. `summary` is stored beside the result for
    readers of a folder. `notes` for people are README.txt, or the sheet `notes`; those that are
    there stay where none are given. Not `counted`, market.json leaves out how many rows there are,
    so that who adds some edits their tables only.
    """
    if tables not in ("csv", "parquet"):
        raise ValueError(f"save(): tables={tables!r}; give 'csv' or 'parquet'.")
    refuse_batch("save", _BATCH, market=market)
    wrong = structure(market) or _unwritable(market)
    if wrong:
        raise ValueError("\n".join(wrong))
    if clearing is not None:
        _check_belongs(market, clearing)
    target = Path(path).resolve()
    check_replaceable(target)
    entries, lines = _files(market, clearing)
    if not counted:
        entries["market.json"].pop("rows")
    notes = notes or _notes(target)
    if is_book(target):
        with whole(target) as fresh:
            write_book(
                fresh, {name: _spelled(head) for name, head in entries.items()}, lines, notes
            )
        return
    if tables == "parquet":
        check_parquet()
    with replacing(target, _is_ours) as fresh:
        if notes:
            (fresh / NOTES).write_text(notes, encoding="utf-8")
        if clearing is not None:
            (fresh / "clearing").mkdir()
        for name, head in entries.items():
            _write_json(fresh / name, head)
        for name, columns in lines.items():
            if tables == "parquet":
                write_parquet(fresh / as_parquet(name), columns)
            else:
                write_table(fresh / name, columns)
        if clearing is not None and summary is not None:
            _write_json(fresh / "clearing" / "summary.json", summary)


def _notes(target: Path) -> str:
    """What people noted beside a market that is replaced."""
    if is_book(target):
        return notes_of(target) if target.exists() else ""
    try:
        return (target / NOTES).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _files(market: Market, clearing: Clearing | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What JSON and tables hold, each by its file."""
    content = _market_content(market)
    hours = market.prosumers.load.shape[1]
    entries: dict[str, Any] = {"market.json": dict(content.head)}
    lines: dict[str, Any] = {}
    for table in (*present(MARKET, content.head["rows"]), *ac_tables(market.grid.model)):
        if table.file in content.tables:  # else nothing is by hour, or about an AC state
            lines[table.file] = _lines(table, content.tables[table.file], hours)
    if clearing is not None:
        files = present(clearing_tables(market.grid.model), content.head["rows"])
        answer = _answer_content(market, content, clearing, files)
        entries["clearing/clearing.json"] = dict(answer.head)
        for table in files:
            lines[f"clearing/{table.file}"] = _lines(table, answer.tables[table.file], hours)
    return entries, lines


def tables_of(market: Market) -> dict[str, Any]:
    """The columns of each table that `save` writes of a market, by its file."""
    return _files(market, None)[1]


def written_alike(one: Market, other: Market) -> bool:
    """Whether two markets are the same in all that `save` writes of them."""
    (heads, tables), (theirs, others) = _files(one, None), _files(other, None)
    if heads != theirs or tables.keys() != others.keys():
        return False
    return all(
        columns.keys() == others[file].keys()
        and all(np.array_equal(column, others[file][name]) for name, column in columns.items())
        for file, columns in tables.items()
    )


def _unwritable(market: Market) -> list[str]:
    """Names that could be written but not read again."""
    wrong, model = [], market.grid.model
    if model not in MODELS.values():
        wrong.append(f"save(): Grid.model is {model}; files know only {', '.join(MODELS)}.")
    if market.grid.tangent is not None and market.grid.tangent.bend is not None:
        wrong.append("save(): Grid.tangent.bend is a round's own; save AcExact.linear instead.")
    for kind in map(type, market.generators.curves):
        if kind not in FAMILY_OF:
            wrong.append(
                f"save(): Generators.curves has {kind.__name__}; files know only "
                f"{', '.join(kind.__name__ for kind in FAMILY_OF)}."
            )
    caps = market.caps
    devices = (*market.generators.names, *market.buffers.names)
    people = (*market.prosumers.names, *devices)
    places = (*market.grid.names, *market.grid.line_names, *market.zones.names)
    for name in (*places, *people, *caps.names, *caps.units):
        encoded = name.encode(errors="replace")
        if CONTROL.search(name) or encoded.decode() != name or len(encoded) > _NAME:
            wrong.append(
                f"save(): the name {name[:40]!r} holds a control character or is longer than "
                f"{_NAME} bytes; choose a plain one."
            )
    return wrong


@hosted
def _check_belongs(market: Market, clearing: Clearing) -> None:
    if np.ndim(clearing.steps):
        raise ValueError(
            f"save() takes one clearing, this one has a leading axis of {clearing.steps.shape[0]}: "
            "save them one by one."
        )
    expected = jax.tree.map(np.shape, (zeros(market), rows_like(market)))
    found = jax.tree.map(np.shape, (clearing.plan, clearing.prices))
    if found != expected:
        raise ValueError("save(): this clearing is of another market; pass the one it came from.")


def check_replaceable(path: str | Path) -> None:
    """Raise `ValueError` where `save` would overwrite anything but what `save` wrote."""
    target = Path(path).resolve()
    if not target.exists():
        return
    if is_book(target):
        check_ours(target)
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; choose another name for the folder.")
    alien = _alien(target)
    if alien is not None:
        raise ValueError(
            f"{target} holds {alien}, which is not part of a saved market; choose another folder, "
            "or move it away."
        )
    with _listed(target) as entries:
        empty = next(iter(entries), None) is None
    if not empty:
        check_ours(target)


def _listed(folder: Path) -> Any:
    """The entries of a folder; none where another writer has just replaced it."""
    try:
        return os.scandir(folder)
    except FileNotFoundError:
        return nullcontext(())


def _alien(folder: Path, inside: str = "") -> str | None:
    """The first entry that `save` did not write; looks no deeper than `save` does."""
    with _listed(folder / inside) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            place = name in OURS
            known = {*OURS[inside], *map(as_parquet, OURS[inside])}
            if entry.is_symlink() or entry.name not in known or place != entry.is_dir():
                return name
            deeper = _alien(folder, name) if place else None
            if deeper is not None:
                return deeper
    return None


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and _alien(folder) is None


def _field(tree: Any, dotted: str) -> np.ndarray:
    for name in dotted.split("."):
        tree = tree[name] if isinstance(tree, Mapping) else getattr(tree, name)
    return np.asarray(tree)


def _spelled(value: Any) -> Any:
    """For JSON, which knows no infinities: those become words, at any depth."""
    if isinstance(value, Mapping):
        return {name: _spelled(one) for name, one in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return repr(float(value))
    return value


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(_spelled(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _lines(table: Table, columns: Mapping[str, Any], hours: int) -> dict[str, Any]:
    """The columns of a table with those that count its rows and hours before them."""
    count = len(next(iter(columns.values())))
    if table.hourly:
        return by_hour(table.row, columns, (count, hours))
    return {table.row: np.arange(count)} | dict(columns)


def _market_content(market: Market) -> Content:
    grid, clock = market.grid, market.clock
    counts = {"cap": len(market.caps.names), "term": market.caps.cap.shape[0]}
    counts |= {"coupling": grid.coupled.shape[0], "terminal": grid.terminal.shape[0]}
    counts |= {"site": grid.phase_a.shape[0], "zone": market.zones.base.shape[0]}
    files = present(MARKET, counts)
    tables: dict[str, dict[str, Any]] = {}
    for table in files:
        columns = tables[table.file] = {}
        for name, field in ordered(table).items():
            array = _field(market, field)
            if name in table.columns:
                columns[name] = array
                continue
            told = field not in WITHOUT or np.any(array) or np.any(np.signbit(array))
            if told and table.hourly == (array.shape[1] > 1):
                columns[name] = array if table.hourly else array[:, 0]
    for table in ac_tables(grid.model) if grid.tangent is not None else ():
        tables[table.file] = {name: _field(market, own) for name, own in table.columns.items()}
    own = {FAMILY_OF[type(curve)]: curve for curve in market.generators.curves}
    for name, field in CURVES.items():
        family, number = field.split(".")
        if family in own:
            tables["generators.csv"][name] = np.asarray(getattr(own[family], number))
    for table in files:
        for column, field in table.names.items():
            if words := _words(market, field):
                tables[table.file][column] = words
    length = np.asarray(market.hour_length)
    even = bool(np.all(length == length[0]))
    if not even:
        tables["tariff.csv"]["hour_length_h"] = length
    for table in ("generators", "buffers"):
        if np.any((own := _field(market, f"{table}.bus")) != -1):
            tables[f"{table}.csv"]["bus"] = own
    for file, own in (("prosumers.csv", "prosumers.zone"), ("buses.csv", "grid.zone")):
        if np.any(zone := _field(market, own)):
            tables[file]["zone"] = zone
    if np.any(carbon := _field(market, "caps.carbon")):
        tables["caps.csv"]["carbon"] = carbon
    if np.any(np.asarray(market.weight) != 1):
        tables["tariff.csv"]["weight"] = np.asarray(market.weight)
    if market.before is not None:
        tables["tariff.csv"]["before"] = np.array(market.before, float)
    committed = market.committed
    if committed is not None:
        tables["tariff.csv"]["moment"] = np.array(committed.moment, float)
    tables = {file: columns for file, columns in tables.items() if columns}
    head = {
        "format": FORMAT,
        "version": VERSION,
        "rows": {
            table.row: len(next(iter(tables[table.file].values())))
            for table in files
            if not table.hourly
        },
        "dtype": str(market.prosumers.load.dtype),
        **({"hour_length_h": float(length[0])} if even else {}),
        **({} if clock is None else {"start": clock.iso(), "zone": clock.zone}),
        "anticipation": float(market.tariff.anticipation),
        "grid_model": grid.model.name,
        "reactive_balance": grid.reactive_balance,
        "feeder_buses": np.asarray(grid.feeder).tolist(),
        **(
            {}
            if committed is None
            else {
                "committed": " and ".join(committed.tables),
                "uncommitted_prosumers": [*committed.free],
            }
        ),
    }
    return Content(head, tables)


def _words(market: Market, field: str) -> list[str]:
    """A column of text; none where there are no names, and all devices of no kind."""
    found = attrgetter(field)(market)
    if field not in KIND_OF:
        return list(found)
    kinds = np.asarray(found).tolist()
    return [KIND_OF[field][k] for k in kinds] if any(kinds) else []


def _answer_content(
    market: Market, content: Content, clearing: Clearing, files: tuple[Table, ...]
) -> Content:
    judged, run = _certificate_leaves(clearing.certificate), clearing.run
    if run is None:
        raise ValueError("save(): this clearing does not say how it was found; clear the market.")
    more, tables = _derived(market, clearing), {}
    for table in files:
        columns = tables[table.file] = {}
        for name, field in table.columns.items():
            judgment = field.removeprefix("certificate.")
            columns[name] = _field(clearing, field) if judgment == field else judged.pop(judgment)
        columns |= {name: more[table.file, name] for name in table.derived}
    head: dict[str, Any] = {
        "status": status_name(clearing.status),
        "steps": int(clearing.steps),
        "solver": run.solver,
        "tol": float(run.tol),
        "runner": clearing.runner,
        "certificate": {
            n: float(leaf)
            for n, leaf in judged.items()
            if n not in TIME and not n.startswith((OWNERS, CAPS))
        },
    }
    marks = answer_marks(content, Content(head, tables))
    return Content(head | {"sha256": marks}, tables)


@hosted
def _derived(market: Market, clearing: Clearing) -> dict[tuple[str, str], np.ndarray]:
    """Columns by file and name that follow from plan and prices, for whoever opens the tables."""
    plan, prices = clearing.plan, clearing.prices
    meant = measured(market, clearing)
    known = status_name(clearing.status) != "infeasible"  # whose proof is no price
    bill, cost = (np.where(known, paid, np.nan) for paid in (meant.bill, meant.cost))
    more = {
        ("prosumers.csv", "bill_eur"): bill,
        ("prosumers.csv", "cost_eur"): cost,
        ("hours.csv", "transformer_kw"): clearing.aggregate - np.sum(plan.exports, axis=0),
        ("hours.csv", "grid_price_eur_per_kwh"): mean_price(market, plan),
        ("prosumer_hours.csv", "energy_price_eur_per_kwh"): energy_prices(market, prices),
        ("pair_hours.csv", "price_eur_per_kwh"): trade_prices(market, prices),
    }
    if market.grid.model.squared:
        more["bus_hours.csv", "voltage_pu"] = voltages(market, plan)
    return {place: np.asarray(column) for place, column in more.items()}


def _certificate_leaves(certificate: Certificate) -> dict[str, np.ndarray]:
    """The numbers of a certificate by their dotted name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(certificate)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }
