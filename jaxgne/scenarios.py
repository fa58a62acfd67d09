"""Many markets as one: every array with a leading scenario axis, for `clear_many` and `jax.vmap`.

What scenarios share is a view on the host, not a copy, until a chunk of them goes to the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .market import Buffers, Generators, Grid, Market, Prosumers, Trading


def stack(markets: Sequence[Market]) -> Market:
    """Markets side by side, padded to the largest of each size.

    Raises `ValueError` if there are none, or if they differ in hours, grid model or feeders.
    """
    markets = list(markets)
    if not markets:
        raise ValueError("stack: no markets; give at least one.")
    first = markets[0]
    for index, market in enumerate(markets):
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


def lane(batch: Any, index: int) -> Any:
    """One scenario of a batch of markets or clearings."""
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
        return jnp.concatenate([leaf, jnp.broadcast_to(filler, (more, *leaf.shape[1:]))])

    lines = {
        "source": grown(grid.source, at_feeder),
        "target": grown(grid.target, fresh),
        **{name: grown(getattr(grid, name), 0.0) for name in ("resistance", "reactance")},
        "rating": grown(grid.rating, jnp.inf),
    }
    buses = {
        name: grown(getattr(grid, name), filler)
        for name, filler in (
            ("voltage_min", 0.0),
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


def sweep(market: Market, where: Callable[[Market], Any], values: Any) -> Market:
    """One scenario per value of a field: `sweep(market, lambda m: m.tariff.slope, [0.01, 0.02])`.

    `where` picks one array of the market, `values` has a leading axis of scenarios; each is spread
    over the field's shape. Raises `ValueError` where it does not fit.
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
    return eqx.tree_at(where, _shared(market, shape[0]), values)


def _shared(market: Market, scenarios: int) -> Market:
    """The same market in every scenario."""
    return jax.tree.map(lambda a: np.broadcast_to(np.asarray(a), (scenarios, *np.shape(a))), market)


def perturb(
    market: Market,
    key: PRNGKeyArray,
    scenarios: int,
    *,
    load: float = 0.0,
    renewable: float = 0.0,
    price: float = 0.0,
    persistence: float = 0.7,
    common: float = 0.3,
) -> Market:
    """Random variants of a market, each quantity times a lognormal factor of mean 1.

    `load`, `renewable` and `price` are the factors' standard deviations: of gross load (active and
    reactive, passive load too), of renewable generation, and of the main grid's prices. The factor
    of an hour correlates with the one before by `persistence`, those of two prosumers by `common`;
    prices are the same for all. Renewable generation is `curtail_max`, or the surplus of load below
    zero where nothing may be curtailed. The same key gives the same scenarios.

    Raises `ValueError` for a deviation below 0, or a correlation outside of 0 to 1.
    """
    for name, value in (("load", load), ("renewable", renewable), ("price", price)):
        if value < 0:
            raise ValueError(f"perturb: {name}={value:g} is below 0; give a standard deviation.")
    for name, value in (("persistence", persistence), ("common", common)):
        if not 0 <= value <= 1:
            raise ValueError(f"perturb: {name}={value:g}; give a correlation from 0 to 1.")
    people, grid, tariff = market.prosumers, market.grid, market.tariff
    hours, dtype = people.load.shape[-1], people.load.dtype
    keys = jax.random.split(key, 4)

    def factor(key: Array, rows: int, deviation: float) -> Float[Array, "S n H"]:
        spread = float(np.sqrt(np.log1p(deviation**2)))
        own, shared = (
            _persistent(k, (scenarios, size, hours), persistence, dtype)
            for k, size in zip(jax.random.split(key), (rows, 1), strict=True)
        )
        noise = np.sqrt(1 - common) * own + np.sqrt(common) * shared
        return jnp.exp(spread * noise - spread**2 / 2)

    count, buses = people.bus.shape[0], grid.passive.shape[0]
    drawn = factor(keys[0], count + buses, load)
    mine, theirs = drawn[:, :count], drawn[:, count:]
    sun, worth = factor(keys[1], count, renewable), factor(keys[2], 1, price)[:, 0]
    available = jnp.where(people.curtail_max > 0, people.curtail_max, jnp.maximum(-people.load, 0))
    changed = {
        lambda m: m.prosumers.load: (people.load + available) * mine - available * sun,
        lambda m: m.prosumers.reactive: people.reactive * mine,
        lambda m: m.prosumers.curtail_max: people.curtail_max * sun,
        lambda m: m.grid.passive: grid.passive * theirs,
        lambda m: m.grid.passive_reactive: grid.passive_reactive * theirs,
        lambda m: m.tariff.base: tariff.base * worth,
        lambda m: m.tariff.slope: tariff.slope * worth,
        lambda m: m.tariff.export: tariff.export * worth,
    }
    varied = _shared(market, scenarios)
    for where, values in changed.items():
        varied = eqx.tree_at(where, varied, np.asarray(values))
    return varied


def _persistent(
    key: Array, shape: tuple[int, int, int], persistence: float, dtype: Any
) -> Float[Array, "S n H"]:
    """Standard normal numbers, each correlated with the one an hour before (an AR(1) process)."""
    drawn = jax.random.normal(key, shape, dtype)
    fresh = jnp.sqrt(1 - jnp.asarray(persistence, dtype) ** 2)

    def step(before: Array, shock: Array) -> tuple[Array, Array]:
        now = persistence * before + fresh * shock
        return now, now

    first = drawn[..., 0]
    _, later = jax.lax.scan(step, first, jnp.moveaxis(drawn[..., 1:], -1, 0))
    return jnp.concatenate([first[..., None], jnp.moveaxis(later, 0, -1)], axis=-1)


def days(market: Market, load: Any, *, passive: Any = None, base: Any = None) -> Market:
    """One scenario a day: `load` (N, days H) kW instead of the market's, day after day.

    `passive` (B, days H) kW and `base` (days H,) EUR/kWh likewise, where given. Buffers start every
    day as the market says. Raises `ValueError` where hours are no whole days.
    """
    hours = market.prosumers.load.shape[-1]

    def split(name: str, series: Any, like: Array) -> np.ndarray:
        series = np.asarray(series, dtype=np.asarray(like).dtype)
        if series.shape[:-1] != like.shape[:-1] or series.shape[-1] % hours:
            raise ValueError(
                f"days: {name} has shape {series.shape}; give {like.shape[:-1]} rows of a multiple "
                f"of {hours} hours."
            )
        by_day = series.reshape(*series.shape[:-1], -1, hours)
        return np.moveaxis(by_day, -2, 0)

    loads = split("load", load, market.prosumers.load)
    varied = eqx.tree_at(lambda m: m.prosumers.load, _shared(market, loads.shape[0]), loads)
    for name, series, where in (
        ("passive", passive, lambda m: m.grid.passive),
        ("base", base, lambda m: m.tariff.base),
    ):
        if series is not None:
            parts = split(name, series, where(market))
            if parts.shape[0] != loads.shape[0]:
                raise ValueError(
                    f"days: {name} has {parts.shape[0]} days, load {loads.shape[0]}; give as many."
                )
            varied = eqx.tree_at(where, varied, parts)
    return varied
