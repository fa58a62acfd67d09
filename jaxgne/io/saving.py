"""Writing a market and its clearing as a folder, complete or not at all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np

from ..certificate import Certificate
from ..clearing import Clearing, status_name
from ..market import Market
from ..model import energy_prices, grid_price, rows_like, trade_prices, voltages, zeros
from ..validate import structure
from .loading import fingerprint, read_head
from .schema import FORMAT, GAP, MARKET, OURS, TIME, VERSION, Table, clearing_tables
from .tables import write_hours, write_table


def save(
    path: str | Path,
    market: Market,
    clearing: Clearing | None = None,
    *,
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Write a market, and its clearing, as a folder of CSV and JSON that `load` reads back exactly.

    The folder appears complete or not at all; a folder of ours that stands there is replaced,
    anything else is refused with `ValueError`. `summary` is stored beside the result for readers.
    """
    wrong = structure(market)
    if wrong:
        raise ValueError("\n".join(wrong))
    if clearing is not None:
        _check_belongs(market, clearing)
    target = Path(path).resolve()
    check_replaceable(target)
    fresh = target.parent / f".{target.name}.{uuid4().hex}"
    fresh.mkdir(parents=True)
    try:
        _write_market(fresh, market)
        if clearing is not None:
            _write_clearing(fresh, market, clearing, summary)
        _swap(fresh, target)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


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
    if not target.is_dir():
        raise ValueError(f"{target} is a file; choose another name for the folder.")
    inside = [p for p in target.rglob("*") if p.name not in OURS.get(_parent(p, target), set())]
    if inside:
        raise ValueError(
            f"{target} holds {inside[0].relative_to(target)}, which is not part of a saved market; "
            "choose another folder, or move it away."
        )
    if any(target.iterdir()):
        read_head(target)


def _parent(path: Path, folder: Path) -> str:
    name = str(path.parent.relative_to(folder))
    return "" if name == "." else name


def _swap(fresh: Path, target: Path) -> None:
    """Put `fresh` in the place of `target`."""
    if not target.exists():
        fresh.rename(target)
        return
    old = fresh.with_name(f"{fresh.name}.old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _field(tree: Any, dotted: str) -> np.ndarray:
    for name in dotted.split("."):
        tree = getattr(tree, name)
    return np.asarray(tree)


def _number(value: Any) -> float | str:
    """A float for JSON, which knows no infinities: those become words that `float` reads."""
    number = float(value)
    return number if np.isfinite(number) else repr(number)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _write(
    folder: Path,
    table: Table,
    fields: Mapping[str, np.ndarray],
    hours: int,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write one table; `more` are columns for readers that `load` does not need."""
    columns = {column: fields[field] for column, field in table.columns.items()}
    count = len(next(iter(columns.values())))
    columns |= more or {}
    if table.hourly:
        write_hours(folder / table.file, table.row, columns, (count, hours))
    else:
        write_table(folder / table.file, {table.row: np.arange(count)} | columns)


def _write_market(folder: Path, market: Market) -> None:
    grid, clock = market.grid, market.clock
    head = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": str(market.prosumers.load.dtype),
        "hour_length_h": _number(market.hour_length),
        **({} if clock is None else {"start": clock.iso(), "zone": clock.zone}),
        "anticipation": _number(market.tariff.anticipation),
        "grid_model": grid.model,
        "reactive_balance": grid.reactive_balance,
        "feeder_buses": np.asarray(grid.feeder).tolist(),
    }
    _write_json(folder / "market.json", head)
    hours = market.prosumers.load.shape[1]
    for table in MARKET:
        fields = {field: _field(market, field) for field in table.columns.values()}
        named = {"name": grid.names} if table.row == "bus" and grid.names else {}
        _write(folder, table, fields, hours, {} if table.hourly else named)


def _write_clearing(
    folder: Path, market: Market, clearing: Clearing, summary: Mapping[str, Any] | None
) -> None:
    inside = folder / "clearing"
    inside.mkdir()
    judged = _certificate_leaves(clearing.certificate)
    head = {
        "status": status_name(clearing.status),
        "steps": int(clearing.steps),
        "market_sha256": fingerprint(folder),
        "certificate": {
            name: _number(leaf) if leaf.dtype.kind == "f" else int(leaf)
            for name, leaf in judged.items()
            if name != GAP and name not in TIME
        },
    }
    _write_json(inside / "clearing.json", head)
    if summary is not None:
        _write_json(inside / "summary.json", summary)
    hours, more = market.prosumers.load.shape[1], _derived(market, clearing)
    for table in clearing_tables(market.grid.model):
        fields = {
            field: judged[GAP] if field == "gap" else _field(clearing, field)
            for field in table.columns.values()
        }
        _write(inside, table, fields, hours, more.get(table.file))


def _derived(market: Market, clearing: Clearing) -> dict[str, dict[str, np.ndarray]]:
    """Columns that follow from plan and prices, for whoever opens the tables."""
    plan, prices = clearing.plan, clearing.prices
    more = {
        "hours.csv": {"grid_price_eur_per_kwh": grid_price(market, clearing.aggregate)},
        "prosumer_hours.csv": {"energy_price_eur_per_kwh": energy_prices(market, prices)},
        "pair_hours.csv": {"price_eur_per_kwh": trade_prices(market, prices)},
    }
    if market.grid.model == "lindistflow":
        more["bus_hours.csv"] = {"voltage_pu": voltages(market, plan)}
    return jax.tree.map(np.asarray, more)


def _certificate_leaves(certificate: Certificate) -> dict[str, np.ndarray]:
    """The numbers of a certificate by their dotted name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(certificate)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }
