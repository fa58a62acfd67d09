"""Markets with rows added that take part in nothing."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from .each import for_one
from .market import Buffers, Generators, Grid, Market, Prosumers, Trading
from .record import changed
from .runner import built, jnp
from .tables import has_caps


def sizes(market: Market) -> dict[str, int]:
    """How many rows its tables have."""
    return {
        "prosumers": market.prosumers.bus.shape[0],
        "generators": market.generators.owner.shape[0],
        "buffers": market.buffers.owner.shape[0],
        "pairs": market.trading.buyer.shape[0],
        "buses": market.grid.passive.shape[0],
        "terms": market.caps.cap.shape[0],
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
    terms: int = 0,
) -> Market:
    """The market with rows added, up to the sizes given, that take part in nothing.

    Sizes are those of `prosumers`, `generators`, `buffers`, `pairs`, `buses` and `terms` of caps;
    what is left out stays. New prosumers stand at bus 0 without load; new devices and pairs have no
    power; new buses hang on the first feeder by a line without impedance; new terms of caps, where
    there are any, count nothing. The other rows keep their plan and prices. Raises `ValueError` for
    more pairs than the prosumers can form.
    """
    have = sizes(market)
    more = {
        name: max(0, wanted - have[name])
        for name, wanted in (
            ("prosumers", prosumers),
            ("generators", generators),
            ("buffers", buffers),
            ("pairs", pairs),
            ("buses", buses),
            ("terms", terms if has_caps(market) else 0),
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
    people = changed(people, names=_more(people.names, more["prosumers"]))
    units: Generators = longer(market.generators, more["generators"], bus=-1)
    units = changed(units, names=units.names and (*units.names, *[""] * more["generators"]))
    stores: Buffers = longer(
        market.buffers,
        more["buffers"],
        bus=-1,
        retention=1.0,
        charge_efficiency=1.0,
        discharge_efficiency=1.0,
    )
    stores = changed(stores, names=stores.names and (*stores.names, *[""] * more["buffers"]))
    trading: Trading = longer(market.trading, more["pairs"])
    counted = {name: getattr(market.caps, name) for name in ("cap", "quantity", "row", "weight")}
    fresh = {name: jnp.zeros((more["terms"], *a.shape[1:]), a.dtype) for name, a in counted.items()}
    counted = {name: jnp.concatenate([a, fresh[name]]) for name, a in counted.items()}
    caps = changed(market.caps, **counted)
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
        lambda m: (m.prosumers, m.generators, m.buffers, m.trading, m.grid, m.caps),
        market,
        (people, units, stores, trading, _with_buses(market.grid, more["buses"]), caps),
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
    lined = grid.model.networked

    def grown(leaf: Array, filler: Any) -> Array:
        return jnp.concatenate([leaf, jnp.full((more, *leaf.shape[1:]), filler, leaf.dtype)])

    lines = {
        "source": grown(grid.source, at_feeder),
        "target": grown(grid.target, fresh),
        **{name: grown(getattr(grid, name), 0.0) for name in ("resistance", "reactance")},
        "rating": grown(grid.rating, jnp.inf),
        "tap": grown(grid.tap, 1.0),
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
            ("zone", 0),
        )
    }
    if grid.model.phased:  # buses of one phase, that of the feeder's row
        at = jnp.stack([grid.phase_a, grid.phase_b, grid.phase_c])
        on = jnp.any(at == grid.feeder[0], axis=1)
        own = jnp.concatenate([at, jnp.where(on[:, None], fresh, -1).astype(at.dtype)], axis=1)
        buses |= dict(zip(("phase_a", "phase_b", "phase_c"), own, strict=True))
    names, line_names = (_more(known, more) for known in (grid.names, grid.line_names))
    lines |= {"line_names": line_names}
    return replace(grid, **(lines if lined else {}), **buses, names=names)


def _more(names: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """Names, and such for the rows that were added."""
    return names and (*names, *(f"pad{k}" for k in range(rows)))
