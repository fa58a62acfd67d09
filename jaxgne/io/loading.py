"""Reading a folder that holds a market and its clearing; nothing in it is ever executed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..certificate import Certificate, certify
from ..clearing import Clearing, Status
from ..clock import Clock
from ..market import Buffers, Generators, Grid, Market, Prosumers, Tariff, Trading
from ..model import Plan, Rows, rows_like, zeros
from .schema import (
    ADDED,
    FORMAT,
    GAP,
    MARKET,
    STATUSES,
    TIME,
    VERSION,
    WHOLE,
    Table,
    clearing_tables,
)
from .tables import header, read_hours, read_names, read_rows, whole


def load(path: str | Path) -> tuple[Market, Clearing | None]:
    """The market in a folder that `save` wrote, and its clearing if there is one.

    Numbers come back bit by bit, in the precision they had (float32 where JAX has no float64).
    Raises `ValueError`, or `FileNotFoundError`, with a sentence that names the file and the fix.
    """
    folder = Path(path)
    market = load_market(folder)
    if not (folder / "clearing").is_dir():
        return market, None
    return market, _read_clearing(folder, market)


def load_market(path: str | Path) -> Market:
    """The market in a folder that `save` wrote, whatever it says about a clearing."""
    folder = Path(path)
    return _read_market(folder, read_head(folder))


def fingerprint(folder: Path) -> str:
    """A digest of all files that describe the market."""
    digest = hashlib.sha256()
    for name in ("market.json", *(table.file for table in MARKET)):
        if (folder / name).is_file():  # tables of later versions are not in older folders
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: this is no folder that jaxgne.save wrote; check the path."
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); save the market again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object; save the market again.")
    return content


def read_head(folder: Path) -> dict[str, Any]:
    """The content of market.json, whose format is one we know."""
    path = folder / "market.json"
    head = read_json(path)
    if head.get("format") != FORMAT:
        raise ValueError(f"{path}: its format is not {FORMAT!r}; choose another folder.")
    if head.get("version") not in range(1, VERSION + 1):
        raise ValueError(
            f"{path}: version {head.get('version')} of the format, this jaxgne reads versions 1 to "
            f"{VERSION}; install the jaxgne that wrote it."
        )
    return head


def entry(path: Path, content: Mapping[str, Any], name: str, convert: Any) -> Any:
    """One entry of a JSON file, converted."""
    if name not in content:
        raise ValueError(f"{path}: entry {name!r} is missing; save the market again.")
    try:
        return convert(content[name])
    except (TypeError, ValueError, LookupError) as error:
        raise ValueError(
            f"{path}: entry {name!r} is {content[name]!r}, which makes no sense; save the market "
            "again."
        ) from error


def _added(folder: Path, table: Table, version: int) -> list[str]:
    """The columns of `table` that a folder of this version may lack, and does."""
    young = [
        name
        for name, field in table.columns.items()
        if field in ADDED and ADDED[field].version > version
    ]
    if len(young) == len(table.columns) and not (folder / table.file).is_file():
        return young
    present = header(folder / table.file) if young else ()
    return [name for name in young if name not in present]


def _read_tables(
    folder: Path,
    tables: tuple[Table, ...],
    counts: Mapping[str, int],
    dtype: type,
    version: int = VERSION,
) -> dict[str, np.ndarray]:
    """All fields of `tables`; how many lines each has is checked where `counts` says so."""
    fields: dict[str, np.ndarray] = {}
    found = dict(counts)
    for table in sorted(tables, key=lambda table: table.hourly):
        path, lacking = folder / table.file, _added(folder, table, version)
        names = [name for name in table.columns if name not in lacking]
        if not names:
            columns = {}
        elif table.hourly:
            shape = (found[table.row], found["hour"])
            columns = read_hours(path, table.row, names, shape)
        else:
            columns = read_rows(path, table.row, names)
            lines = len(columns[names[0]])
            if found.setdefault(table.row, lines) != lines:
                raise ValueError(
                    f"{path}: {lines} lines, but the market has {found[table.row]} of {table.row}; "
                    "clear the market again."
                )
        for name, column in columns.items():
            fields[table.columns[name]] = (
                whole(path, name, column) if name in WHOLE else column.astype(dtype)
            )
        for name in lacking:
            field = table.columns[name]
            rows = found[table.row]
            shape = (rows, found["hour"]) if table.hourly else (rows,)
            fields[field] = np.full(shape, ADDED[field].value, dtype)
    return fields


def _read_market(folder: Path, head: Mapping[str, Any]) -> Market:
    path = folder / "market.json"
    dtype = entry(path, head, "dtype", _dtype)
    feeder = entry(path, head, "feeder_buses", lambda bus: np.asarray(bus, np.int32))
    fields = _read_tables(folder, MARKET, {"feeder": len(feeder)}, dtype, head["version"])
    hours = len(fields["tariff.slope"])

    def part(name: str) -> dict[str, Any]:
        return {
            field.removeprefix(f"{name}."): array
            for field, array in fields.items()
            if field.startswith(f"{name}.")
        }

    grid = {
        "feeder": feeder,
        "model": entry(path, head, "grid_model", str),
        "reactive_balance": entry(
            path, head, "reactive_balance", {True: True, False: False}.__getitem__
        ),
        "names": read_names(folder / "buses.csv", "bus", "name"),
    }
    anticipation = entry(path, head, "anticipation", lambda a: np.asarray(float(a), dtype))
    hour_length = entry(path, head, "hour_length_h", lambda a: np.asarray(float(a), dtype))
    try:
        return Market(
            Prosumers(**part("prosumers")),
            Grid(**part("grid"), **grid),
            Tariff(**part("tariff"), hours=hours, anticipation=anticipation),
            Generators(**part("generators"), hours=hours),
            Buffers(**part("buffers"), hours=hours),
            Trading(**part("trading")),
            hour_length=hour_length,
            clock=Clock(head["start"], head.get("zone")) if "start" in head else None,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _dtype(name: Any) -> type:
    return {"float32": np.float32, "float64": np.float64}[name]


def _read_clearing(folder: Path, market: Market) -> Clearing:
    inside = folder / "clearing"
    path = inside / "clearing.json"
    head = read_json(path)
    if entry(path, head, "market_sha256", str) != fingerprint(folder):
        raise ValueError(
            f"{inside} belongs to another market: a table of {folder} was edited since; delete "
            f"{inside} and clear the market again."
        )
    dtype = entry(folder / "market.json", read_head(folder), "dtype", _dtype)
    counts = {
        "prosumer": market.prosumers.bus.shape[0],
        "generator": market.generators.owner.shape[0],
        "buffer": market.buffers.owner.shape[0],
        "pair": market.trading.buyer.shape[0],
        "line": market.grid.source.shape[0],
        "bus": market.grid.passive.shape[0],
        "feeder": market.grid.feeder.shape[0],
        "hour": market.prosumers.load.shape[1],
    }
    fields = _read_tables(inside, clearing_tables(market.grid.model), counts, np.float64)
    gap = fields.pop("gap")
    arrays = {name: jnp.asarray(array.astype(dtype)) for name, array in fields.items()}
    word = entry(path, head, "status", str)
    if word not in STATUSES:
        raise ValueError(f"{path}: status {word!r} is none of {', '.join(STATUSES)}; clear again.")

    def part(name: str) -> dict[str, Any]:
        return {f.removeprefix(name): a for f, a in arrays.items() if f.startswith(name)}

    return Clearing(
        plan=Plan(**part("plan.")),
        prices=Rows(**part("prices.")),
        costs=arrays["costs"],
        aggregate=arrays["aggregate"],
        certificate=_read_certificate(path, head, market, gap),
        steps=jnp.asarray(entry(path, head, "steps", int), jnp.int32),
        status=getattr(Status, word),
    )


def _read_certificate(
    path: Path, head: Mapping[str, Any], market: Market, gap: np.ndarray
) -> Certificate:
    """The certificate as stored; its form is that of any certificate of this market."""
    like = eqx.filter_eval_shape(certify, market, zeros(market), rows_like(market))
    stored = entry(path, head, "certificate", dict)
    clock = None if market.clock is None else int(market.clock.start)
    stored |= dict(zip(TIME, (float(market.hour_length), clock), strict=True))
    # version 1 did not tell a flow that fails from a grid that is not examined
    stored = {"ac.examined": stored.get("ac.converged"), "ac.residual_place": 0} | stored
    leaves, form = jax.tree_util.tree_flatten_with_path(like)
    with jax.enable_x64(True):
        filled = []
        for where, leaf in leaves:
            name = jax.tree_util.keystr(where, simple=True, separator=".")
            value = gap if name == GAP else entry(path, stored, name, float)
            filled.append(jnp.asarray(np.asarray(value, leaf.dtype)))
    return jax.tree_util.tree_unflatten(form, filled)
