"""Tables rounded up to few sizes, so that compiled programs serve more markets than one.

There are eight sizes from each power of two to the next. The rows added take part in nothing.
Pairs are rounded wherever programs clear a market; prosumers and devices where these are many
enough that NumPy writes the answer, which is then one of the market itself.
"""

from dataclasses import replace
from typing import Any, TypeVar

import jax
import numpy as np

from .choosing import few_sizes
from .market import Market, Trading
from .model import Plan, Rows, families
from .padding import pad, sizes
from .record import changed
from .result import Clearing
from .runner import to_device

Tables = TypeVar("Tables", Plan, Rows)


def rounded(market: Market, start: Clearing | None = None) -> tuple[Market, Clearing | None]:
    """A concrete market, and a clearing of it to start from, with tables of the next size."""
    wanted = few_sizes(market)
    have = sizes(market)
    if all(have[name] == count for name, count in wanted.items()):
        return market, start
    pairs = wanted.pop("pairs")
    wide = pad(market, **wanted) if wanted else market
    wide = _with_pairs(wide, pairs - have["pairs"])
    if start is not None:
        plan, prices = fitted(wide, start.plan), fitted(wide, start.prices)
        start = replace(start, plan=plan, prices=prices)
    return wide, start


def fitted(market: Market, tables: Tables) -> Tables:
    """Plan or prices with as many rows as the market has, 0 in those that were not there."""
    have = sizes(market)
    fields = families(tables)
    table = {name: f"{field.row}s" for name, field in fields.items()}
    rows = {name: have[table[name]] for name in fields if table[name] in have}
    old = {name: getattr(tables, name) for name in rows}
    return changed(tables, **{k: _fitted(a, rows[k]) for k, a in old.items()})


def _fitted(table: Any, rows: int) -> Any:
    if len(table) == rows:
        return table
    found = np.zeros((rows, *table.shape[1:]), table.dtype)
    both = min(rows, len(table))
    found[:both] = np.asarray(table)[:both]
    return to_device(found)


def _with_pairs(market: Market, more: int) -> Market:
    """The market with pairs of neighbors by number, which may be there already, and trade nothing.

    As many at each prosumer: sums over pairs are as even as before.
    """
    people = market.prosumers.bus.shape[0]
    if more <= 0:
        return market
    first = np.arange(more) % people
    ends: dict[str, Any] = {"buyer": first, "seller": (first + 1) % people}

    def longer(name: str, table: Any) -> jax.Array:
        new = np.zeros((more, *table.shape[1:]), table.dtype)
        new[:] = ends.get(name, 0)
        return to_device(np.concatenate([np.asarray(table), new]))

    tables = {name: longer(name, table) for name, table in vars(market.trading).items()}
    trading: Trading = changed(market.trading, **tables)
    return changed(market, trading=trading)
