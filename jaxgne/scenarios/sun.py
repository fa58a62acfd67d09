"""What belongs to a load: the sun in it, and the caps that the sun or the load reaches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ..clock import hour, hours_of, in_hour
from ..market import Market
from ..names import owners

_CLOSE = 1e-5  # relative: what float32 tables agree to
Table = Float[np.ndarray, "N H"]
Tables = Float[np.ndarray, "S N H"]
CAPS = ("import_max", "export_max", "curtail_max")


def sun_of(who: str, market: Market, generation: Any = None) -> Table:
    """The renewable power within a market's loads, kW: `generation`, or what the market says of it.

    That is `curtail_max`, of which all can be left unused, or minus the load of a plant, which
    never has a load above 0. Raises `ValueError` for a surplus of unknown sun: part of it is used
    at home, and the market does not say how much.
    """
    people = market.prosumers
    load = np.asarray(people.load, float)
    if generation is not None:
        sun = series(who, "generation", generation, load.shape)
        if np.any(sun < 0):
            raise ValueError(f"{who}: generation is negative somewhere; give 0 kW or more.")
    else:
        sun = told_sun(market)
    unknown = load + sun < -_CLOSE * (np.abs(load) + sun)
    if np.any(unknown):
        row, step = np.argwhere(unknown)[0]
        name = "curtail_max" if generation is None else "generation"
        raise ValueError(
            f"{who}: {owners(market).prosumer(row)} has a load of {load[row, step]:.6g} kW "
            f"{in_hour(market, step)} and a {name} of {sun[row, step]:.6g} kW, so part of its sun "
            "is unknown; give generation=, all of it in kW by prosumer."
        )
    return sun


def told_sun(market: Market) -> Table:
    """What a market says of its sun, kW: `curtail_max`, or all that a plant feeds in."""
    people = market.prosumers
    load, curtail = (np.asarray(a, float) for a in (people.load, people.curtail_max))
    plant = np.all(load <= 0, axis=1, keepdims=True) & ~np.any(curtail, axis=1, keepdims=True)
    return np.where(plant, -load, curtail)


def series(who: str, name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`values` over `shape`: all of it, one number a row as `(rows, 1)`, or one number."""
    array = np.asarray(values, float)
    fits = [n in (1, m) for n, m in zip(array.shape, shape, strict=False)]
    if array.ndim and not (array.ndim == len(shape) and all(fits)):
        raise ValueError(
            f"{who}: {name} has shape {array.shape}; give shape {shape}, one number a row as "
            f"({shape[0]}, 1), or one number."
        )
    spread = np.broadcast_to(array, shape)
    if np.any(np.isnan(spread)):
        raise ValueError(f"{who}: {name} has NaN; give numbers.")
    return spread


def moved_caps(
    who: str, market: Market, before: Table, after: Tables, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`curtail_max` and `export_max` for other sun, where not `given`.

    What of the sun may be left unused stays the same share of it. A cap on exports that is the sun,
    or the sun and a constant, stays so; a constant stays what it is. Raises `ValueError` for any
    other, which nobody knows how to move.
    """
    people, caps = market.prosumers, dict(given)
    curtail, export = (np.asarray(a, float) for a in (people.curtail_max, people.export_max))
    if "curtail_max" not in given:
        shining = before > 0
        share = np.divide(curtail, before, out=np.zeros_like(curtail), where=shining)
        share = np.where(shining, share, np.max(share, axis=1, keepdims=True))
        caps["curtail_max"] = share * after
    if "export_max" not in given:
        rest = export - np.where(np.isfinite(export), before, 0.0)
        holds = _level(rest) & np.any(before > 0, axis=1) & np.all(rest >= -_CLOSE * before, axis=1)
        fixed = _level(export)
        holds &= ~fixed | np.all(np.isclose(export, before, rtol=_CLOSE), axis=1)
        lost = np.flatnonzero(~(holds | fixed))
        if lost.size:
            raise ValueError(
                f"{who}: export_max of {owners(market).prosumer(lost[0])} varies by hour and "
                "is not its sun, so it is not known what becomes of it; give export_max=, "
                "kW by prosumer."
            )
        caps["export_max"] = np.where(holds[:, None], np.maximum(rest, 0.0) + after, export)
    return caps


def _level(table: Table) -> np.ndarray:
    """Rows that are the same in every hour."""
    first = table[:, :1]
    finite = np.where(np.isfinite(table), np.abs(table), 0.0)
    size = np.max(finite, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.all((table == first) | (np.abs(table - first) <= _CLOSE * size), axis=1)


def reactive_of(who: str, name: str, active: Any, reactive: Any, wanted: np.ndarray) -> np.ndarray:
    """Reactive power of other loads, `wanted` kW, at the power factor that each row has all day.

    Raises `ValueError` for a row without such a factor.
    """
    active, reactive = np.asarray(active, float), np.asarray(reactive, float)
    energy = np.sum(active, axis=1)
    ratio = np.divide(np.sum(reactive, axis=1), energy, out=np.zeros_like(energy), where=energy > 0)
    size = np.max(np.abs(reactive), axis=1)
    off = np.max(np.abs(reactive - ratio[:, None] * active), axis=1) > 1e-3 * size
    off |= (size > 0) & np.any(wanted < 0, axis=(0, 2))
    if np.any(off):
        raise ValueError(
            f"{who}: {name} of row {np.argmax(off)} does not follow from the new load, as its "
            f"power factor varies by hour or the load is net of sun; give {name}=, kvar."
        )
    return ratio[:, None] * wanted


def check_caps(
    who: str, market: Market, load: Tables, caps: Mapping[str, np.ndarray], given: Any
) -> None:
    """Refuse caps that no plan can keep with these loads, though the market's own can be kept.

    Counted beside them is all that a prosumer's generators, buffers and trades may do at most. Caps
    that were `given` are the caller's own.
    """
    people, pairs, stores = market.prosumers, market.trading, market.buffers
    units = market.generators
    limit = np.asarray(pairs.limit, float)
    trade = sum(_by_owner(market, owner, limit) for owner in (pairs.buyer, pairs.seller))
    give = _by_owner(market, units.owner, units.power_max)
    give = give + _by_owner(market, stores.owner, stores.discharge_max) + trade
    take = _by_owner(market, stores.owner, stores.charge_max) + trade
    take = take - _by_owner(market, units.owner, units.power_min)
    old = {name: np.asarray(getattr(people, name), float) for name in CAPS}
    new = {**old, **caps}
    now = np.asarray(people.load, float)
    for name, sign, more, old_cap, new_cap in (
        ("import_max", 1.0, give, old["import_max"], new["import_max"]),
        ("export_max", -1.0, take, *(c["export_max"] + c["curtail_max"] for c in (old, new))),
    ):
        if name in given:
            continue
        room = _CLOSE * np.abs(load)
        kept = np.all(sign * now - more <= old_cap + _CLOSE * np.abs(now), axis=1, keepdims=True)
        over = (sign * load - more - new_cap > room) & kept
        if np.any(over):
            scenario, row, step = np.argwhere(over)[0]
            count = int(np.sum(np.any(over, axis=(1, 2))))
            raise ValueError(
                f"{who}: {name} of {owners(market).prosumer(row)} is too low for its load of "
                f"{load[scenario, row, step]:.6g} kW in {count} of {len(load)} scenarios (first "
                f"{scenario}, hour {hour(float(hours_of(market)[step]))}), whatever its "
                f"devices and trades do; give {name}= (np.inf, or the market's own to keep it and "
                "have these end infeasible)."
            )


def _by_owner(market: Market, owner: Any, values: Any) -> Table:
    shape = np.shape(market.prosumers.load)
    total = np.zeros(shape)
    np.add.at(total, np.asarray(owner), np.broadcast_to(values, (len(owner), shape[1])))
    return total
