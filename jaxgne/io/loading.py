"""Reading a folder that holds a market and its clearing; nothing in it is ever executed."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..certificate import Certificate, certify, owners
from ..clock import Clock
from ..curves import FAMILIES, AbstractCurve
from ..grids import MODELS, LinDistFlow
from ..market import (
    Buffers,
    Caps,
    Commitment,
    Generators,
    Grid,
    Market,
    Prosumers,
    Tariff,
    Trading,
    Zones,
    cast,
)
from ..model import Plan, Rows, rows_like, zeros
from ..result import Clearing, Run
from ..runner import by_numpy, to_device, to_host
from ..status import Status
from ..tangent import Tangent
from .faults import Faults
from .json_text import Document, convert, place_of
from .reading import Content, Files, answer_marks, read_tables
from .schema import (
    ADDED,
    CAPS,
    CLEARING_ENTRIES,
    CURVES,
    FORMAT,
    MARKET,
    MARKET_ENTRIES,
    OPTIONAL,
    OURS,
    OWNERS,
    TIME,
    TOGETHER,
    VERSION,
    WITHOUT,
    Table,
    ac_tables,
    clearing_tables,
    present,
)
from .sheets import Workbook, is_book
from .snapshot import Snapshot


def load(path: str | Path) -> tuple[Market, Clearing | None]:
    """The market in the folder `path` that `save` wrote, and its clearing if there is one.

    Numbers come back bit by bit, in the precision they had (float32 where JAX has no float64).
    Whoever replaces the folder meanwhile: what is loaded is one state of it. Raises `ValueError`
    with a sentence for all that is wrong, each with file, line and column, also where market or
    clearing were edited since the market was cleared; `FileNotFoundError` where there is no folder.
    """
    answer = None
    files, faults = _opened(Path(path), OURS)
    with files:
        content = _read_market(files, faults)
        market = None if content is None or faults else _market(Path(path), content)
        if content is not None and "clearing" in files.folders:
            answer = _read_clearing(files, content, faults)
        faults.check()
    if market is None:
        raise ValueError(f"{path}: holds no market.")
    return market, None if answer is None else _clearing(market, answer)


def load_market(path: str | Path) -> Market:
    """The market in a folder that `save` wrote, whatever it says about a clearing."""
    files, faults = _opened(Path(path), {"": OURS[""]})
    with files:
        content = _read_market(files, faults)
        faults.check()
    if content is None:
        raise ValueError(f"{path}: holds no market.")
    return _market(Path(path), content)


def check_ours(path: Path) -> None:
    """Raise `ValueError` unless market.json tells of our format, in a version that we know."""
    files, faults = _opened(path, {"": {"market.json"}})
    with files:
        _head(files, faults)
    faults.check()


def _opened(path: Path, known: Mapping[str, Set[str]]) -> tuple[Files, Faults]:
    """A folder or a workbook to read, and where its faults go."""
    if is_book(path):
        return Workbook(path, known), Faults(sheets=True)
    return Snapshot(path, known), Faults()


def _head(files: Files, faults: Faults) -> tuple[Document, int] | None:
    """market.json, which is of our format, and its version."""
    if not files.has("market.json"):
        words = " does not exist: this is no folder that jaxgne.save wrote; check the path."
        faults.add(files.path("market.json"), words)
        return None
    document = files.document("market.json", faults)
    if document is None:
        return None
    kind, version = document.content.get("format"), document.content.get("version")
    if kind != FORMAT:
        faults.add(document.path, f": its format is not {FORMAT!r}; choose another folder.")
    elif type(version) is not int or version not in range(1, VERSION + 1):
        faults.add(
            document.path,
            f": version {version!r} of the format, this jaxgne reads versions 1 to {VERSION}; "
            "install the jaxgne that wrote it.",
        )
    else:
        return document, version
    return None


def _read_market(files: Files, faults: Faults) -> Content | None:
    found = _head(files, faults)
    for name in files.strange if files.has("market.json") else ():
        faults.add(files.path(name), " is no file of the format; move it away, or mend its name.")
    if found is None:
        return None
    document, version = found
    head = convert(document, MARKET_ENTRIES, version, faults)
    sizes, dtype = {}, np.float64
    if head is not None:
        own = {table.row for table in MARKET if not table.hourly and files.has(table.file)}
        sizes = dict.fromkeys(OPTIONAL - (own if "rows" not in head else set()), 0)
        sizes |= head.get("rows", {})
        sizes["feeder"] = len(head["feeder_buses"])
        dtype = jax.dtypes.canonicalize_dtype(head["dtype"]).type
        _check_head(document, head, dtype, faults)
    known = (*MARKET, *_about_ac(files, head, faults))
    tables = read_tables(files, "", known, sizes, version, dtype, faults)
    if head is not None and "tariff.csv" in tables:
        _check_length(files, head, tables["tariff.csv"], faults)
    _check_either(files, tables, version, faults)
    return None if head is None else Content(head, tables)


def _about_ac(files: Files, head: Mapping[str, Any] | None, faults: Faults) -> tuple[Table, ...]:
    """The tables of an AC state that the model is about, where one of them is there."""
    there = [t.file for t in ac_tables(LinDistFlow()) if files.has(t.file)]
    if head is None or not there:
        return ()
    found = ac_tables(MODELS[head["grid_model"]])
    if not found:
        words = f": {head['grid_model']!r} has no grid for an AC state; delete it."
        faults.add(files.path(there[0]), words)
    return found


def _check_head(document: Document, head: Mapping[str, Any], dtype: type, faults: Faults) -> None:
    """What entries mean together."""
    if "zone" in head and "start" not in head:
        at = place_of(document.text, "zone")
        faults.add(document.path, f"{at}: a zone without a start; add that, or remove it.")
    for name in ("hour_length_h", "anticipation"):
        if name in head and float(np.finfo(dtype).max) < abs(head[name]) < np.inf:
            at, value = place_of(document.text, name), f"{head[name]:g}"
            words = f"entry {name!r} is {value}, too large for {dtype.__name__}"
            faults.add(document.path, f"{at}: {words}; write a smaller number.")


def _check_length(
    files: Files, head: Mapping[str, Any], steps: Mapping[str, Any], faults: Faults
) -> None:
    """The length of steps stands in one place."""
    twice = ("hour_length_h" in head) + ("hour_length_h" in steps)
    if twice != 1:
        words = "stands in tariff.csv too; keep one" if twice else "is missing; add it"
        faults.add(files.path("market.json"), f": entry 'hour_length_h' {words}.")


def _check_either(
    files: Files, tables: Mapping[str, Mapping[str, Any]], version: int, faults: Faults
) -> None:
    """What may be by hour stands in one of the two tables of its rows."""
    row_files = {table.row: table.file for table in MARKET if not table.hourly}
    for table in MARKET:
        by_row = row_files.get(table.row, "")
        if not table.hourly or by_row not in tables:
            continue  # whose fault has been told
        for name, field in table.either.items():
            here = name in tables.get(table.file, {})
            there, path = name in tables[by_row], files.path(by_row)
            spare = field in WITHOUT or (field in ADDED and ADDED[field].version > version)
            if here and there:
                faults.add(path, f": column {name!r} stands in {table.file} too; keep one.")
            elif table.file in tables and not (here or there or spare):
                words = f": column {name!r} is missing, here and in {table.file}; add it."
                faults.add(path, words)


def _fields(
    content: Content, tables: tuple[Table, ...], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The columns by dotted field, by row and hour; those that an old folder lacks as well."""
    fields: dict[str, np.ndarray] = {}
    for table in tables:
        columns = content.tables.get(table.file, {})
        shape = (sizes[table.row], sizes["hour"]) if table.hourly else (sizes[table.row],)
        for name, field in (*table.columns.items(), *table.spare.items()):
            if name in columns:
                fields[field] = columns[name].reshape(shape)
            elif table.row in OPTIONAL:
                fields[field] = np.zeros(shape)
            elif name in table.columns:
                fields[field] = np.full(shape, ADDED[field].value)
        for name, field in table.either.items():
            if name in columns:
                shape = (sizes[table.row], sizes["hour"] if table.hourly else 1)
                fields[field] = columns[name].reshape(shape)
    for table in tables:
        for field in table.either.values():
            if field not in fields:
                value = WITHOUT[field] if field in WITHOUT else ADDED[field].value
                fields[field] = np.full((sizes[table.row], 1), value)
    return fields


def _part(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        field.removeprefix(f"{name}."): array
        for field, array in fields.items()
        if field.startswith(f"{name}.")
    }


def _market(folder: Path, content: Content) -> Market:
    head = content.head
    dtype = jax.dtypes.canonicalize_dtype(head["dtype"])  # float32 where JAX has no float64
    about = [t for t in ac_tables(MODELS[head["grid_model"]]) if t.file in content.tables]
    fields: dict[str, Any] = {
        name: array.astype(np.int32 if array.dtype.kind == "i" else dtype)
        for name, array in _fields(content, (*MARKET, *about), _sizes(content)).items()
    }
    if about:
        fields["grid.tangent"] = _tangent(fields)
    fields |= {
        "grid.feeder": np.asarray(head["feeder_buses"], np.int32),
        "grid.model": head["grid_model"],
        "grid.reactive_balance": head["reactive_balance"],
        "grid.names": tuple(content.tables["buses.csv"].get("name", ())),
        "grid.line_names": tuple(content.tables["lines.csv"].get("name", ())),
        "caps.names": tuple(content.tables.get("caps.csv", {}).get("name", ())),
        "caps.units": tuple(content.tables.get("caps.csv", {}).get("unit", ())),
        "zones.names": tuple(content.tables.get("zones.csv", {}).get("name", ())),
        "tariff.anticipation": np.asarray(head["anticipation"], dtype),
        "prosumers.names": tuple(content.tables["prosumers.csv"].get("name", ())),
        "generators.names": tuple(content.tables["generators.csv"].get("name", ())),
        "buffers.names": tuple(content.tables["buffers.csv"].get("name", ())),
        "generators.kind": content.tables["generators.csv"].get("kind", 0),
        "buffers.kind": content.tables["buffers.csv"].get("kind", 0),
        "generators.curves": _curves(content.tables["generators.csv"], dtype),
    }
    hours = len(content.tables["tariff.csv"]["base_eur_per_kwh"])
    before: Any = fields.get("before")
    moment, free = fields.get("moment"), head.get("uncommitted_prosumers", ())
    together = tuple(head.get("committed", TOGETHER[0]).split(" and "))
    try:
        return Market(
            Prosumers(**_part(fields, "prosumers")),
            Grid(**_part(fields, "grid")),
            Tariff(**_part(fields, "tariff"), hours=hours),
            Generators(**_part(fields, "generators"), hours=hours),
            Buffers(**_part(fields, "buffers"), hours=hours),
            Trading(**_part(fields, "trading")),
            hour_length=fields.get("hour_length", head.get("hour_length_h")),
            weight=fields.get("weight", 1.0),
            before=before,
            committed=None if moment is None else Commitment(moment, tuple(free), together),
            clock=Clock(head["start"], head.get("zone")) if "start" in head else None,
            caps=Caps(**_part(fields, "caps"), hours=hours),
            zones=Zones(**_part(fields, "zones")),
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _tangent(fields: dict[str, Any]) -> Tangent:
    """What the fields say of an AC state; they are taken out."""
    prefix = "grid.tangent."
    names = [name for name in fields if name.startswith(prefix)]
    found = {name.removeprefix(prefix): to_device(fields.pop(name)) for name in names}
    offset = {name.removeprefix("offset."): found.pop(name) for name in [*found] if "." in name}
    return Tangent(offset=offset, **found)


def _curves(columns: Mapping[str, Any], dtype: Any) -> tuple[AbstractCurve, ...]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, field in CURVES.items():
        if name in columns:
            family, number = field.split(".")
            found.setdefault(family, {})[number] = np.asarray(columns[name], dtype)
    return tuple(FAMILIES[family](**numbers) for family, numbers in found.items())


def _sizes(content: Content) -> dict[str, int]:
    """How many rows of each kind a market has that was read without a fault."""
    found = {"feeder": len(content.head["feeder_buses"])}
    for table in MARKET:
        if not table.hourly:
            columns = content.tables.get(table.file, {"": ()})
            found[table.row] = len(next(iter(columns.values())))
    return found


def _read_clearing(files: Files, market: Content, faults: Faults) -> Content | None:
    """What the folder inside says, where it is still what was saved of this very market."""
    inside, version = files.path("clearing"), market.head["version"]
    if version < 2:
        faults.add(
            inside,
            ": was written by version 1 of the format, which cannot tell whether it was edited "
            "since; delete it, and clear the market again.",
        )
        return None
    document = files.document("clearing/clearing.json", faults)
    if document is not None and "solver" not in document.content:
        faults.add(
            inside,
            ": does not say by which solver and to which tolerance it was found, as results of an "
            "earlier jaxgne; delete it, and clear the market again.",
        )
        return None
    head = None if document is None else convert(document, CLEARING_ENTRIES, version, faults)
    counted = [table for table in present(MARKET, market.head.get("rows", {})) if not table.hourly]
    if any(table.file not in market.tables for table in counted):
        return None  # how many rows there are is not known
    tables, rows = clearing_tables(MODELS[market.head["grid_model"]]), _sizes(market)
    found = read_tables(files, "clearing", tables, rows, version, np.float64, faults)
    if faults or head is None:
        return None
    answer = Content(head, found)
    expected, stored = answer_marks(market, answer), head["sha256"]
    if stored.get("market") != expected["market"]:
        faults.add(
            inside,
            f" belongs to another market: a file of {files.folder} was edited since; delete "
            f"{inside}, and clear the market again.",
        )
        return None
    for name, mark in expected.items():
        if stored.get(name) != mark:
            faults.add(
                files.path(f"clearing/{name}"),
                f" was edited since it was saved, and nothing proves it any more; delete {inside}, "
                "and clear the market again (jaxgne.certify judges any plan and prices).",
            )
    return answer


def _clearing(market: Market, content: Content) -> Clearing:
    dtype = market.prosumers.load.dtype
    sizes = {
        "prosumer": market.prosumers.bus.shape[0],
        "generator": market.generators.owner.shape[0],
        "buffer": market.buffers.owner.shape[0],
        "pair": market.trading.buyer.shape[0],
        "line": market.grid.source.shape[0],
        "bus": market.grid.passive.shape[0],
        "feeder": market.grid.feeder.shape[0],
        "hour": market.prosumers.load.shape[1],
        "cap": market.caps.carry.shape[0],
    }
    tables = present(clearing_tables(market.grid.model), sizes)
    fields, head = _fields(content, tables, sizes), content.head
    arrays = {name: to_device(array.astype(dtype)) for name, array in fields.items()}
    ran = {"tol": np.float64(head["tol"]), "compiled": np.bool_(head["runner"] == "jax")}
    return Clearing(
        plan=Plan(**_part(arrays, "plan")),
        prices=Rows(**_part(arrays, "prices")),
        costs=arrays["costs"],
        aggregate=arrays["aggregate"],
        certificate=_certificate(market, {**head["certificate"], **_part(fields, "certificate")}),
        steps=to_device(np.int32(head["steps"])),
        status=getattr(Status, head["status"]),
        run=Run(head["solver"], **to_device(ran)),
    )


def _certificate(market: Market, stored: Mapping[str, Any]) -> Certificate:
    """The certificate as stored; its form is that of any certificate of this market."""
    with by_numpy():
        exact = cast(to_host(market), np.float64)
        like = certify(exact, zeros(exact), rows_like(exact))
    real = jax.dtypes.canonicalize_dtype(float)
    clock = None if market.clock is None else int(market.clock.start)
    stored = {**stored, **dict(zip(TIME, (np.asarray(market.hour_length), clock), strict=True))}
    leaves, form = jax.tree_util.tree_flatten_with_path(like)
    with jax.enable_x64(True):
        filled = []
        for where, leaf in leaves:
            name = jax.tree_util.keystr(where, simple=True, separator=".")
            if name.startswith(OWNERS):
                filled.append(getattr(owners(market), name.removeprefix(OWNERS)))
                continue
            if name.startswith(CAPS):
                filled.append(to_device(np.asarray(leaf, real)))
                continue
            if name not in stored:
                raise ValueError(
                    f"the certificate was stored without {name!r} by another version of jaxgne; "
                    "clear the market again."
                )
            kind = np.asarray(leaf).dtype
            value = np.asarray(stored[name], real if kind == np.float64 else kind)
            filled.append(to_device(value))
    return jax.tree_util.tree_unflatten(form, filled)
