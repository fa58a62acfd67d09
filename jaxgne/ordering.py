"""A large market's rows in another order: those who trade with one another lie near in memory.

A step gathers the prices of both sides of each trade and adds what they trade to both balances.
Where a market's tables do not fit into a processor's caches and come in any order, as a user's do,
that takes longer than all else. So prosumers are put in order by reverse Cuthill-McKee on the graph
of who trades with whom (Cuthill, McKee, Proc. 24th Nat. Conf. ACM, 1969; George, 1971), devices by
their owners, pairs by their sides. Answers are brought back into the order of the market given.
"""

from dataclasses import replace
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from .market import FIELDS, Market
from .model import Plan, Rows, families
from .record import changed, without_names
from .result import Clearing
from .runner import to_device
from .tables import QUANTITIES

Order = dict[str, Int[np.ndarray, " R"]]  # by what a row is called, the row at each new place
Tables = TypeVar("Tables", Plan, Rows)

_LEAST = 20_000  # prosumers from which on prices fall out of the caches between two uses
_MEMBERS = {"generation": "generator", "charge": "buffer", "discharge": "buffer", "trades": "pair"}


def ordered(
    market: Market, start: Clearing | None = None
) -> tuple[Market, Clearing | None, Order | None]:
    """A concrete market, and a clearing of it to start from, in an order for steps; and that order.

    None and both as they are where the market is small, nobody trades, rows are spread over
    devices, or steps are committed, whose rows programs know by number. The market in order has no
    names.
    """
    load, pairs = market.prosumers.load, market.trading.buyer.shape[0]
    away = isinstance(load, jax.Array) and load.devices() != {jax.devices()[0]}
    if load.shape[0] < _LEAST or not pairs or away or market.committed is not None:
        return market, start, None
    order = _order(market)
    market = _permuted(market, order)
    if start is not None:
        plan, prices = _taken(start.plan, order), _taken(start.prices, order)
        start = replace(start, plan=plan, prices=prices)
    return market, start, order


def restored(tables: Tables, order: Order | None) -> Tables:
    """A plan or prices of a market in order, in the order of the market that was given."""
    if order is None:
        return tables
    return _taken(tables, {each: _places(rows) for each, rows in order.items()})


def _order(market: Market) -> Order:
    """The rows of prosumers, generators, buffers and pairs in the order for steps."""
    from scipy.sparse import coo_array  # a quarter of a second, for large markets alone
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    ends = np.stack([np.asarray(market.trading.buyer), np.asarray(market.trading.seller)])
    people = market.prosumers.bus.shape[0]
    both = np.concatenate([ends, ends[::-1]], axis=1)
    graph = coo_array((np.ones(both.shape[1], np.int8), tuple(both)), (people, people)).tocsr()
    order = np.asarray(reverse_cuthill_mckee(graph, symmetric_mode=True))
    place = _places(order)
    low, high = np.sort(place[ends], axis=0)
    devices = {"generator": market.generators.owner, "buffer": market.buffers.owner}
    by_owner = {each: np.argsort(place[own], kind="stable") for each, own in devices.items()}
    return {"prosumer": order, "pair": np.lexsort((high, low)), **by_owner}


def _places(order: Int[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
    """The new place of each row."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order), dtype=order.dtype)
    return place


def _permuted(market: Market, order: Order) -> Market:
    """The market with its rows in order, and in all indices the new places of what they name."""
    place = {each: _places(rows) for each, rows in order.items()}
    tables: dict[str, dict[str, Any]] = {}
    for field in FIELDS.values():
        table, _, own = field.dotted.rpartition(".")
        value = None
        if field.of in ("prosumer", "payer"):
            old = np.asarray(field.find(market))
            value = np.where(old < 0, old, place["prosumer"][old]).astype(old.dtype)
        elif field.of == "member":
            value = _members(market, place)
        if field.row in order:
            value = np.asarray(field.find(market)) if value is None else value
            value = value[order[field.row]]
        if value is not None:
            tables.setdefault(table, {})[own] = value
    curves = jax.tree.map(lambda a: np.asarray(a)[order["generator"]], market.generators.curves)
    tables.setdefault("generators", {})["curves"] = curves
    parts = {name: changed(getattr(market, name), **own) for name, own in tables.items()}
    return without_names(to_device(changed(market, **parts)))


def _members(market: Market, place: Order) -> Int[np.ndarray, " C"]:
    """The new places of what the terms of caps count."""
    row, quantity = np.asarray(market.caps.row), np.asarray(market.caps.quantity)
    found = row.copy()
    for number, name in enumerate(QUANTITIES):
        its = quantity == number
        found[its] = place[_MEMBERS.get(name, "prosumer")][row[its]]
    return found


def _taken(tables: Tables, order: Order) -> Tables:
    """The rows of a plan or of prices in an order."""
    fields = families(tables)
    new = {
        name: np.asarray(getattr(tables, name))[order[field.row]]
        for name, field in fields.items()
        if field.row in order
    }
    return changed(tables, **to_device(new))
