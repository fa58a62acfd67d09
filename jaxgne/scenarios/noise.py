"""Random variants of a market."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..each import for_one
from ..market import Market
from ..programs import program
from ..tables import has_zones, zones_by_hour
from .rows import moved_base, shared
from .sun import CAPS, check_caps, moved_caps, series, sun_of, told_sun


@for_one()
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
    generation: Any = None,
    import_max: Any = None,
    export_max: Any = None,
    curtail_max: Any = None,
) -> Market:
    """Random variants of a market, each quantity times a lognormal factor of mean 1.

    `load`, `renewable` and `price` are the factors' standard deviations: of gross load (active and
    reactive, passive load too), of renewable generation, and of the main grid's prices. The factor
    of an hour correlates with the one before by `persistence`, those of two prosumers by `common`;
    prices are the same for all. What `Caps.base` counts moves with the passive load. The same `key`
    of `jax.random` gives the same `scenarios`, which are so many.

    Renewable generation is `generation`, kW by prosumer and hour; where it is left out it is
    `curtail_max`, or minus the load of a plant that has none. `curtail_max`, and an `export_max`
    that is the sun (and a constant), move with it; other caps stay. They may be given, `import_max`
    too, in kW. Without noise of renewables a surplus of unknown sun is taken to have no load beside
    it.

    Raises `ValueError` for a deviation below 0, a correlation outside of 0 to 1, caps that a
    scenario cannot keep, and where renewables vary for sun that is not known.
    """
    for name, value in (("load", load), ("renewable", renewable), ("price", price)):
        if not value >= 0:
            raise ValueError(f"perturb: {name}={value:g} is below 0; give a standard deviation.")
    for name, value in (("persistence", persistence), ("common", common)):
        if not 0 <= value <= 1:
            raise ValueError(f"perturb: {name}={value:g}; give a correlation from 0 to 1.")
    market = zones_by_hour(market) if price and has_zones(market) else market
    people, grid, tariff = market.prosumers, market.grid, market.tariff
    hours, dtype = people.load.shape[-1], people.load.dtype
    count, buses = people.bus.shape[0], grid.passive.shape[0]
    shocks = _shocks(key, scenarios, (count + buses, count, 1), hours, dtype)

    def factor(shocks: tuple[Array, Array], deviation: float) -> Float[np.ndarray, "S n H"]:
        spread = math.sqrt(math.log1p(deviation**2))
        own, common_to_all = (_persistent(np.array(shock), persistence) for shock in shocks)
        noise = math.sqrt(1 - common) * own + math.sqrt(common) * common_to_all
        return np.exp(spread * noise - spread**2 / 2)

    gross, sunny, worth = map(factor, shocks, (load, renewable, price))
    mine, theirs, worth = gross[:, :count], gross[:, count:], worth[:, 0]
    given = {
        name: series("perturb", name, value, people.load.shape)
        for name, value in zip(CAPS, (import_max, export_max, curtail_max), strict=True)
        if value is not None
    }
    moved = _moved(market, generation, mine if load else None, sunny if renewable else None, given)
    passive = np.asarray(grid.passive) * theirs
    changed = {
        **{lambda m, name=name: getattr(m.prosumers, name): a for name, a in moved.items()},
        lambda m: m.prosumers.reactive: np.asarray(people.reactive) * mine,
        lambda m: m.grid.passive: passive,
        lambda m: m.caps.base: moved_base(market, passive),
        lambda m: m.grid.passive_reactive: np.asarray(grid.passive_reactive) * theirs,
        lambda m: m.tariff.base: np.asarray(tariff.base) * worth,
        lambda m: m.tariff.slope: np.asarray(tariff.slope) * worth,
        lambda m: m.tariff.export: np.asarray(tariff.export) * worth,
    }
    for name in ("base", "slope", "export") if price and has_zones(market) else ():
        own = np.asarray(getattr(market.zones, name))
        changed[lambda m, name=name: getattr(m.zones, name)] = own * worth[:, None]
    varied = shared(market, scenarios)
    for where, values in changed.items():
        like = where(varied)
        values = np.broadcast_to(np.asarray(values, like.dtype), like.shape)
        varied = eqx.tree_at(where, varied, values)
    return varied


def _moved(
    market: Market,
    generation: Any,
    mine: np.ndarray | None,
    sunny: np.ndarray | None,
    given: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Loads and caps of prosumers with these factors of gross load and sun (None: all 1)."""
    if mine is None and sunny is None:
        return given
    now = np.asarray(market.prosumers.load, float)
    if sunny is None and generation is None:
        sun = np.maximum(told_sun(market), -now)  # at least this; it stays as it is
    else:
        sun = sun_of("perturb", market, generation)
    if sunny is not None and not np.any(sun):
        raise ValueError(
            "perturb: renewable noise needs to know the sun, and curtail_max is 0 everywhere; give "
            "generation=, kW by prosumer and hour."
        )
    ones = np.ones((1, 1, 1))
    after = sun * (ones if sunny is None else sunny)
    load = (now + sun) * (ones if mine is None else mine) - after
    caps = given if sunny is None else moved_caps("perturb", market, sun, after, given)
    check_caps("perturb", market, load, caps, given)
    return {"load": load, **caps}


@program("the noise of scenarios", once=True)
def _shocks(
    key: PRNGKeyArray, scenarios: int, rows: Sequence[int], hours: int, dtype: Any
) -> list[tuple[Array, Array]]:
    """Standard normal numbers (S, n, H) for each n of `rows`, and such for all rows (S, 1, H)."""

    def drawn(key: PRNGKeyArray, count: int) -> tuple[Array, Array]:
        own, of_all = jax.random.split(key)
        return (
            jax.random.normal(own, (scenarios, count, hours), dtype),
            jax.random.normal(of_all, (scenarios, 1, hours), dtype),
        )

    keys = jax.random.split(key, 4)
    return [drawn(keys[k], count) for k, count in enumerate(rows)]


def _persistent(
    shocks: Float[np.ndarray, "S n H"], persistence: float
) -> Float[np.ndarray, "S n H"]:
    """Numbers that correlate with the one an hour before (an AR(1) process), of these shocks."""
    fresh = math.sqrt(1 - persistence**2)
    for hour in range(1, shocks.shape[-1]):
        shocks[..., hour] = persistence * shocks[..., hour - 1] + fresh * shocks[..., hour]
    return shocks
