"""Markets put side by side, padded to one size, taken apart, and swept by one field."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ..each import for_one, leading, refuse_batch
from ..market import Buffers, Generators, Grid, Market, Prosumers, Trading
from ..record import Record
from ..runner import built, jnp


def stack(markets: Sequence[Market]) -> Market:
    """Markets side by side, padded to the largest of each size.

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
    most = {name: max(_sizes(m)[name] for m in markets) for name in _sizes(first)}
    padded = [pad(market, **most) for market in markets]
    names = first.grid.names if all(m.grid.names == first.grid.names for m in markets) else ()
    if len(names) != most["buses"]:
        names = ()
    padded = [eqx.tree_at(lambda m: m.grid, m, replace(m.grid, names=names)) for m in padded]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(a) for a in leaves]), *padded)


def lane(batch: Any, index: Any) -> Any:
    """One scenario of a batch of markets or clearings, or of several: `lane((days, many), k)`.

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
        "grid model": grid.model,
        "reactive_balance": grid.reactive_balance,
        "number of feeders": grid.feeder.shape[-1],
        "dtype": str(market.prosumers.load.dtype),
        "time zone": market.clock and market.clock.zone,
    }


def _sizes(market: Market) -> dict[str, int]:
    return {
        "prosumers": market.prosumers.bus.shape[0],
        "generators": market.generators.owner.shape[0],
        "buffers": market.buffers.owner.shape[0],
        "pairs": market.trading.buyer.shape[0],
        "buses": market.grid.passive.shape[0],
    }


@for_one()
@built
def pad(
    market: Market,
    *,
    prosumers: int = 0,
    generators: int = 0,
    buffers: int = 0,
    pairs: int = 0,
    buses: int = 0,
) -> Market:
    """The market with rows added, up to the sizes given, that take part in nothing.

    New prosumers stand at bus 0 without load; new devices and pairs have no power; new buses hang
    on the first feeder by a line without impedance. The other rows keep their plan and prices.
    Raises `ValueError` for more pairs than the prosumers can form.
    """
    have = _sizes(market)
    more = {
        name: max(0, wanted - have[name])
        for name, wanted in (
            ("prosumers", prosumers),
            ("generators", generators),
            ("buffers", buffers),
            ("pairs", pairs),
            ("buses", buses),
        )
    }
    if not any(more.values()):
        return market

    def longer(table: Any, rows: int, **fillers: float) -> Any:
        def extend(path: Any, leaf: Array) -> Array:
            filler = fillers.get(path[-1].name, 0)
            new = jnp.full((rows, *leaf.shape[1:]), filler, leaf.dtype)
            return jnp.concatenate([leaf, new])

        return jax.tree_util.tree_map_with_path(extend, table)

    people: Prosumers = longer(market.prosumers, more["prosumers"])
    units: Generators = longer(market.generators, more["generators"])
    stores: Buffers = longer(
        market.buffers,
        more["buffers"],
        retention=1.0,
        charge_efficiency=1.0,
        discharge_efficiency=1.0,
    )
    trading: Trading = longer(market.trading, more["pairs"])
    ends = jnp.asarray(_strangers(market.trading, people.bus.shape[0], more["pairs"]), jnp.int32)
    trading = eqx.tree_at(
        lambda t: (t.buyer, t.seller),
        trading,
        (
            trading.buyer.at[have["pairs"] :].set(ends[0]),
            trading.seller.at[have["pairs"] :].set(ends[1]),
        ),
    )
    return eqx.tree_at(
        lambda m: (m.prosumers, m.generators, m.buffers, m.trading, m.grid),
        market,
        (people, units, stores, trading, _with_buses(market.grid, more["buses"])),
    )


def _strangers(trading: Trading, prosumers: int, more: int) -> np.ndarray:
    """Pairs (2, more) that are not in the table yet."""
    have = trading.buyer.shape[0]
    if have + more > prosumers * (prosumers - 1) // 2:
        raise ValueError(
            f"pad: {have + more} pairs are more than {prosumers} prosumers can form; "
            "ask for fewer, or for more prosumers."
        )
    ends = np.sort(np.asarray([trading.buyer, trading.seller]), axis=0)
    fresh, first = np.zeros((2, 0), np.int64), 0
    while fresh.shape[1] < more:
        second = np.arange(first + 1, prosumers)
        second = second[~np.isin(second, ends[1][ends[0] == first])]
        fresh = np.concatenate([fresh, [np.full_like(second, first), second]], axis=1)
        first += 1
    return fresh[:, :more]


def _with_buses(grid: Grid, more: int) -> Grid:
    if not more:
        return grid
    count = grid.passive.shape[0]
    fresh = count + jnp.arange(more, dtype=grid.target.dtype)
    at_feeder = jnp.full(more, grid.feeder[0], grid.source.dtype)
    lined = grid.model != "copperplate"

    def grown(leaf: Array, filler: Any) -> Array:
        return jnp.concatenate([leaf, jnp.full((more, *leaf.shape[1:]), filler, leaf.dtype)])

    lines = {
        "source": grown(grid.source, at_feeder),
        "target": grown(grid.target, fresh),
        **{name: grown(getattr(grid, name), 0.0) for name in ("resistance", "reactance")},
        "rating": grown(grid.rating, jnp.inf),
    }
    buses = {
        name: grown(getattr(grid, name), filler)
        for name, filler in (
            ("voltage_min", 0.1),
            ("voltage_max", 2.0),
            ("angle_min", -1.0),
            ("angle_max", 1.0),
            ("passive", 0.0),
            ("passive_reactive", 0.0),
            ("compensation_max", 0.0),
        )
    }
    names = grid.names and (*grid.names, *(f"pad{k}" for k in range(more)))
    return replace(grid, **(lines if lined else {}), **buses, names=names)


@for_one()
def sweep(market: Market, where: Callable[[Market], Any], values: Any) -> Market:
    """One scenario per value of a field: `sweep(market, lambda m: m.tariff.slope, [0.01, 0.02])`.

    `where` picks one array of the market, `values` has a leading axis of scenarios; each is spread
    over the field's shape. Nothing else moves: of loads use `days` or `perturb`, which move sun,
    reactive power and caps with them. Raises `ValueError` where it does not fit.
    """
    field = where(market)
    values = np.asarray(values, dtype=np.asarray(field).dtype)
    if values.ndim == 0:
        raise ValueError("sweep: values has no axis of scenarios; give a list or an array.")
    shape = (values.shape[0], *field.shape)
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


def shared(market: Market, scenarios: int) -> Market:
    """The same market in every scenario."""
    return jax.tree.map(lambda a: np.broadcast_to(np.asarray(a), (scenarios, *np.shape(a))), market)
