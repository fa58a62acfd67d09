"""Markets put side by side, padded to one size, taken apart, and swept by one field."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from ..arguments import of_tables
from ..each import for_one, leading, refuse_batch
from ..market import FIELDS, Market
from ..padding import pad, sizes
from ..record import Record, changed

_NAMES = (  # tables, and their fields of names
    ("grid", "names", "line_names"),
    ("prosumers", "names"),
    ("generators", "names"),
    ("buffers", "names"),
)


@of_tables
def stack(markets: Sequence[Market]) -> Market:
    """The `markets` side by side, padded to the largest of each size.

    Raises `ValueError` if there are none, or if they differ in hours, grid model or feeders.
    """
    markets = list(markets)
    if not markets:
        raise ValueError("stack: no markets; give at least one.")
    first = markets[0]
    join = "to join batches, jax.tree.map(lambda *a: np.concatenate(a), *batches)"
    for index, market in enumerate(markets):
        refuse_batch("stack", join, market=market)
        ours, theirs = _kind(first), _kind(market)
        for name in ours:
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"stack: market {index} has {name} {theirs[name]!r}, market 0 {ours[name]!r}; "
                    "only other sizes can be padded."
                )
    most = {name: max(sizes(m)[name] for m in markets) for name in sizes(first)}
    padded = spread([pad(market, **most) for market in markets])
    padded = [changed(m, **_alike(markets, padded, m)) for m in padded]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *padded)


def spread(markets: Sequence[Market]) -> list[Market]:
    """Markets that have by hour, where it may be either, what one of them has by hour."""
    hours, found = markets[0].prosumers.load.shape[-1], list(markets)
    for field in FIELDS.values():
        if any(field.timed(market) for market in markets) and not field.hourly:
            for k, market in enumerate(found):
                one = np.asarray(field.find(market))
                wide = np.broadcast_to(one, (*one.shape[:-1], hours))
                found[k] = eqx.tree_at(field.find, market, wide)
    return found


def _alike(markets: list[Market], padded: list[Market], one: Market) -> dict[str, Any]:
    """The tables of one market that have names, without those that are not the same in all."""
    tables = {}
    for table, *fields in _NAMES:
        names = {
            field: {getattr(getattr(m, table), field) for m in (*markets, *padded)}
            for field in fields
        }
        kept = {field: found.pop() if len(found) == 1 else () for field, found in names.items()}
        tables[table] = changed(getattr(one, table), **kept)
    return tables


def lane(batch: Any, index: Any) -> Any:
    """Scenario `index` of a `batch`: of markets, clearings or several, as `lane((days, many), k)`.

    With a list of numbers, a slice, or a mask like `many.ok`, those scenarios as a batch. Raises
    `ValueError` for what is no batch, and for a scenario that there is not.
    """
    whole = jax.tree.leaves(batch, is_leaf=lambda a: isinstance(a, Record))
    if leading(*(table for table in whole if isinstance(table, Record))) == {()}:
        raise ValueError("lane: this is one market, not a batch of them; take it as it is.")
    if not isinstance(index, slice | Tracer):
        count, chosen = np.shape(jax.tree.leaves(batch)[0])[0], np.asarray(index)
        beyond = chosen.dtype != bool and np.any((chosen < -count) | (chosen >= count))
        if beyond or (chosen.dtype == bool and chosen.shape != (count,)):
            raise ValueError(f"lane: scenario {index}; this batch has 0 to {count - 1}.")
        index = chosen if chosen.ndim else int(chosen)
    return jax.tree.map(lambda a: a[index], batch)


def _kind(market: Market) -> dict[str, Any]:
    grid = market.grid
    return {
        "hours": market.prosumers.load.shape[-1],
        "before": market.before,
        "committed": market.committed,
        "grid model": grid.model.name,
        "reactive_balance": grid.reactive_balance,
        "number of feeders": grid.feeder.shape[-1],
        "dtype": str(market.prosumers.load.dtype),
        "time zone": market.clock and market.clock.zone,
        "caps": market.caps.names,
        "units of caps": market.caps.units,
        "zones": market.zones.names,
    }


@for_one()
def sweep(market: Market, where: Callable[[Market], Any], values: Any) -> Market:
    """One scenario per value of a field: `sweep(market, lambda m: m.tariff.slope, [0.01, 0.02])`.

    `where` picks one array of the market, `values` has a leading axis of scenarios; each is spread
    over the field's shape, or where it may be by hour over that. Nothing else moves: of loads use
    `days` or `perturb`, which move sun, reactive power and caps with them. Raises `ValueError`
    where it does not fit.
    """
    field = where(market)
    values = np.asarray(values, dtype=np.asarray(field).dtype)
    if values.ndim == 0:
        raise ValueError("sweep: values has no axis of scenarios; give a list or an array.")
    shape = (values.shape[0], *field.shape)
    either = any(one.either and one.find(market) is field for one in FIELDS.values())
    if either and values.ndim == 3 and values.shape[-1] != 1:
        shape = (*shape[:-1], market.prosumers.load.shape[-1])
    if values.ndim == 1:
        values = values.reshape(-1, *([1] * field.ndim))
    try:
        values = np.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(
            f"sweep: values of shape {values.shape} do not fit a field of shape {field.shape}; "
            f"give one number a scenario, or shape {shape}."
        ) from error
    return eqx.tree_at(where, shared(market, shape[0]), values)


def moved_base(market: Market, passive: Any) -> Any:
    """`Caps.base` (S, M, H) where another passive load (S, B, H) makes it, in proportion."""
    old, new = np.sum(np.asarray(market.grid.passive), axis=-2), np.sum(passive, axis=-2)
    ratio = np.divide(new, old, out=np.ones_like(new), where=old != 0)
    return np.asarray(market.caps.base) * ratio[..., None, :]


def shared(market: Market, scenarios: int) -> Market:
    """The same market in every scenario."""
    return jax.tree.map(lambda a: np.broadcast_to(np.asarray(a), (scenarios, *np.shape(a))), market)
