"""Scenarios as one market: with first steps, or first decisions, that they share; the way back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..arguments import of_tables
from ..commitments import COMMITTED, Commitment, commitment
from ..each import for_one, leading
from ..fields import Field
from ..market import FIELDS, Market
from ..padding import pad, sizes
from ..record import changed
from ..runner import to_device
from ..size import utmost
from ..succession import leaves, order, way_to


@of_tables
def tree(markets: Sequence[Market] | Market, probability: Any, split: int) -> Market:
    """Markets that agree in their first `split` steps as one: these steps once, then a branch each.

    The market has split + S (H - split) steps. Those of a branch count by its `probability`, which
    sum to 1, so that costs are expected ones and prices those of the branch; what is decided in the
    shared steps is decided before anyone knows which branch comes. `split` 0 leaves each market by
    itself. `markets` may be a batch. Raises `ValueError` where they differ in what they share, in
    form, or are trees already.
    """
    each = _each(markets)
    share, first = np.asarray(probability, float), each[0] if each else None
    if first is None or share.shape != (len(each),):
        raise ValueError(f"tree: {share.size} probabilities for {len(each)} markets; give as many.")
    if not (np.all(share > 0) and abs(share.sum() - 1) < 1e-9):
        raise ValueError(f"tree: probability {share.tolist()}; give numbers above 0 that sum to 1.")
    steps = first.prosumers.load.shape[-1]
    if not isinstance(split, int | np.integer) or not 0 <= split < steps:
        raise ValueError(f"tree: split={split!r}; give a whole number from 0 to {steps - 1}.")
    _check_alike(each, split)
    moved = {}
    for name, field in FIELDS.items():
        parts, by_step = _parts(field, each)
        if name == "Market.weight":
            ahead = parts[0][:split]
            parts = [p * part for p, part in zip(share, parts, strict=True)]
            parts[0] = np.concatenate([ahead, parts[0][split:]])
        if by_step:
            rest = [part[..., split:] for part in parts]
            moved[field] = np.concatenate([parts[0][..., :split], *rest], axis=-1)
    dtype = first.prosumers.load.dtype
    values = [to_device(np.asarray(array, dtype)) for array in moved.values()]
    whole = eqx.tree_at(lambda m: [field.find(m) for field in moved], first, values)
    starts = split + (steps - split) * np.arange(len(each))
    before = np.arange(-1, len(values[-1]) - 1)
    before[starts] = split - 1
    return changed(whole, before=order("tree", before, len(before)))


@of_tables
def committed(
    markets: Sequence[Market] | Market,
    probability: Any,
    *,
    up: float,
    down: float,
    most: float | None = None,
    tables: Sequence[str] = COMMITTED,
) -> Market:
    """Markets as the branches of one in two stages: what is fixed a day ahead, and what follows.

    `markets` are the branches, each of its `probability`. Imports and trades of each hour are
    decided once for all branches, before anyone knows which will come; of `tables` "imports" or
    "trades" alone. Devices, curtailment and exports follow in each branch. What is then missing is
    bought, at `up` EUR/kWh, and what is left over sold, at `down`, of a balancing desk, a prosumer
    added as the last row: it has energy of the main grid at the first feeder bus, up to `most` kW
    (the sum of all loads and devices, unless given), and trades with everybody without a toll, in
    each branch. So prosumers whose forecasts err in opposite ways balance one another through it.
    Balancing energy is no part of total import, its price and its limits.

    The market has S H steps, as `tree` of no shared steps. Raises `ValueError` as `tree` does, and
    unless 0 <= `down` <= `up`.
    """
    each = _each(markets)
    if not 0 <= down <= up < np.inf:
        raise ValueError(f"committed: up={up}, down={down}; give prices with 0 <= down <= up.")
    if most is None:
        most = max((utmost(market) for market in each), default=0.0)
    if not 0 < most < np.inf:
        raise ValueError(f"committed: most={most}; give the desk some power, kW.")
    whole = tree([_with_desk(market, up, down, most) for market in each], probability, 0)
    people, steps = whole.prosumers.load.shape
    moment = np.tile(np.arange(steps // len(each)), len(each))
    given = Commitment(tuple(moment.tolist()), (people - 1,), tuple(tables))
    return changed(whole, committed=commitment("committed", given, steps, people))


def _with_desk(market: Market, up: float, down: float, most: float) -> Market:
    """The market with one prosumer more, who sells at `up` and buys at `down` in any hour."""
    have = sizes(market)
    desk, unit, pair = have["prosumers"], have["generators"], have["pairs"]
    grown = pad(market, prosumers=desk + 1, generators=unit + 2, pairs=pair + desk)
    people, units, pairs = grown.prosumers, grown.generators, grown.trading

    def ended(table: Any, values: Any) -> Any:
        found = np.array(table)
        found[len(found) - len(values) :] = np.reshape(values, (-1, *[1] * (found.ndim - 1)))
        return to_device(found)

    feeder = np.asarray(market.grid.feeder)[:1]
    everyone = np.arange(desk)
    return changed(
        grown,
        prosumers=changed(
            people,
            bus=ended(people.bus, feeder),
            names=people.names and (*people.names[:-1], "balancing desk"),
        ),
        generators=changed(
            units,
            owner=ended(units.owner, [desk, desk]),
            power_min=ended(units.power_min, [0.0, -most]),
            power_max=ended(units.power_max, [most, 0.0]),
            linear=ended(units.linear, [up, down]),
            names=units.names and (*units.names[:-2], "balancing up", "balancing down"),
        ),
        trading=changed(
            pairs,
            buyer=ended(pairs.buyer, everyone),
            seller=ended(pairs.seller, np.full(desk, desk)),
            limit=ended(pairs.limit, np.full(desk, most)),
        ),
    )


def _each(markets: Sequence[Market] | Market) -> list[Market]:
    """Markets one by one, also of a batch."""
    if isinstance(markets, Market):
        return [_lane(markets, k) for k in range(_count(markets))]
    return list(markets)


def _parts(field: Field, each: Sequence[Market]) -> tuple[list[np.ndarray], bool]:
    """A field of each market, and whether it is by step: if it may be, also where they differ."""
    parts, by_step = [np.asarray(field.find(market)) for market in each], field.hourly
    alike = all(np.array_equal(part, parts[0]) for part in parts)
    if field.either and not (alike and parts[0].shape[-1] == 1):
        steps, by_step = each[0].prosumers.load.shape[-1], True
        parts = [np.broadcast_to(part, (*part.shape[:-1], steps)) for part in parts]
    return parts, by_step


def _count(markets: Market) -> int:
    if leading(markets) == {()}:
        raise ValueError("tree: this is one market; give several, or a batch of them.")
    return np.shape(markets.prosumers.load)[0]


def _lane(markets: Market, k: int) -> Market:
    return jax.tree.map(lambda a: np.asarray(a)[k], markets)


def _check_alike(each: Sequence[Market], split: int) -> None:
    """Refuse markets that differ in more than their steps from `split` on."""
    first = each[0]
    for k, market in enumerate(each):
        if market.before is not None or market.committed is not None:
            raise ValueError(
                f"tree: market {k} is a tree already; give markets with a path of steps."
            )
        if jax.tree.structure(market) != jax.tree.structure(first):
            raise ValueError(
                f"tree: market {k} has another grid model, names or time zone than market 0; give "
                "markets of one form."
            )
        for name, field in FIELDS.items():
            (ours, theirs), by_step = _parts(field, (first, market))
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"tree: {name} has shape {theirs.shape} in market {k}, {ours.shape} in market "
                    "0; pad them to one size with jg.scenarios.stack."
                )
            cut = (..., slice(split)) if by_step else ...
            if not np.array_equal(ours[cut], theirs[cut]):
                where = np.argwhere(ours[cut] != theirs[cut])[0].tolist() if ours.ndim else [0]
                place = f" in step {where[-1]}" if by_step else ""
                raise ValueError(
                    f"tree: {name} of market {k} is not that of market 0{place}; markets may "
                    f"differ from step {split} on, in what they have by hour."
                )


@for_one()
def branch(market: Market, clearing: Any, number: int) -> tuple[Market, Any]:
    """The path to one of a tree's last steps: its market, and what of a `clearing` lies on it.

    Branches are counted in the order of their last steps, `number` from 0. Each step of the path
    counts once, and prices are as they were; what was committed is free in it. `clearing` is a
    `Clearing`, whose certificate stays that of the tree, or a plan or prices. Raises `ValueError`
    for a branch that there is not.
    """
    steps = market.prosumers.load.shape[-1]
    ends = np.flatnonzero(leaves(market.before, steps))
    if not 0 <= number < len(ends):
        raise ValueError(f"branch: {number}; this market has branches 0 to {len(ends) - 1}.")
    way = np.array(way_to(market.before, steps, int(ends[number])))

    def along(table: Any) -> Any:
        return jax.tree.map(lambda a: a[..., way], table)

    hourly = [field for field in FIELDS.values() if field.timed(market)]
    path = eqx.tree_at(
        lambda m: [field.find(m) for field in hourly],
        market,
        [field.find(market)[..., way] for field in hourly],
    )
    path = changed(path, before=None, committed=None, weight=path.weight * 0 + 1)
    if not hasattr(clearing, "plan"):
        return path, along(clearing)
    plan, prices, total = along((clearing.plan, clearing.prices, clearing.aggregate))
    return path, replace(clearing, plan=plan, prices=prices, aggregate=total)
