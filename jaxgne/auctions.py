"""Auctions of surpluses: what a community gains that plans alone and trades what is left over.

Every prosumer first plans alone at the tariff; hour by hour what is left over and what is lacking
is then auctioned. Plans of devices stand, and nobody asks what the network carries: baselines for
an equilibrium, which moves both (docs/auctions.md).
"""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from .clearing import clear
from .each import for_one
from .market import Grid, Market, Trading
from .model import (
    Plan,
    Rows,
    bought,
    export_prices,
    grid_price,
    import_prices,
    net_load,
    passive_in_zones,
    rows_like,
    zeros,
    zone_totals,
)
from .record import Record, changed
from .result import Clearing
from .runner import jnp
from .size import utmost
from .tables import refuse_ties
from .uncontrolled import told, with_state

ALONE = "alone"  # what benefits of auctions are measured against
_ROUNDING = 1e-5  # of the largest net load: less is left of 0 by tolerances, and makes no price
_OWN = ("generation", "charge", "discharge", "energy", "curtailed")  # what each plans for itself


class Offers(Record):
    """What prosumers bring to an auction, by hour; nobody both sells and buys in one."""

    left: Float[np.ndarray, "N H"]  # kW left over: what is fed in, and what is curtailed
    lacks: Float[np.ndarray, "N H"]  # kW bought of the main grid
    value: Float[np.ndarray, "N H"]  # EUR/kWh: the ask of who has left, the bid of who lacks


@for_one()
def alone(market: Market) -> Market:
    """The market that each prosumer plans alone in: price takers without pairs or network.

    What one cannot feed in by its own contract is curtailed; lines, voltages, the limit on the
    total and caps bind nobody. Raises `ValueError` where steps share their imports and trades,
    which an auction hour by hour does not keep.
    """
    if market.committed is not None:
        raise ValueError(
            "auctions: steps of the market share imports and trades (Market.committed), which "
            "auctions hour by hour do not keep; leave it out, or compare equilibria only."
        )
    people, tariff = market.prosumers, market.tariff
    hours = people.load.shape[1]
    own = changed(
        people,
        bus=jnp.zeros_like(people.bus),
        curtail_max=jnp.maximum(people.curtail_max, -people.load),
    )
    free = changed(
        tariff,
        anticipation=jnp.zeros_like(tariff.anticipation),
        total_min=jnp.full(hours, -jnp.inf),
        total_max=jnp.full(hours, jnp.inf),
    )
    passive = passive_in_zones(market, market.grid.consumed[0])  # a bus for each
    return Market(
        own,
        Grid(passive, model="copperplate", zone=np.arange(passive.shape[0])),
        free,
        changed(market.generators, bus=jnp.full_like(market.generators.bus, -1)),
        changed(market.buffers, bus=jnp.full_like(market.buffers.bus, -1)),
        hour_length=market.hour_length,
        clock=market.clock,
        weight=market.weight,
        before=market.before,
        zones=market.zones,
    )


@for_one()
def pooled(market: Market) -> Market:
    """The market in which every two prosumers are a pair: the pool of the uniform auction.

    Its toll is the highest of the market's pairs in each hour, its limit more than all can make or
    use together. Nobody prefers a partner. Of n prosumers there are n (n - 1) / 2 pairs. Raises
    `ValueError` where caps count trades, as tie lines do.
    """
    refuse_ties("pooled", market)
    buyer, seller = np.triu_indices(len(market.prosumers.bus), k=1)
    toll = np.max(np.asarray(market.trading.toll), axis=0, keepdims=True, initial=0.0)
    toll = np.broadcast_to(toll, (len(buyer), toll.shape[1]))
    return changed(market, trading=Trading(buyer, seller, utmost(market), toll=toll))


def offers(market: Market, plan: Plan, values: Any = None) -> Offers:
    """What a `plan` made alone leaves over and lacks, and at which prices.

    Price takers value a kWh that they lack at what the main grid asks for it, and one that is left
    over at what the main grid pays; what is curtailed at 0 or that, whichever is more. Other
    `values` (N H, EUR/kWh), as of bidders who do not tell the truth, count between these two.
    """
    net = np.asarray(net_load(market, plan))
    none = _ROUNDING * np.max(np.abs(net), initial=0.0)
    net = np.where(np.abs(net) > none, net, 0.0)
    asked = np.asarray(import_prices(market, grid_price(market, zone_totals(market, plan))))
    paid = np.broadcast_to(np.asarray(export_prices(market)), net.shape)
    spilled = np.where(np.asarray(plan.curtailed) > none, plan.curtailed, 0.0)
    least = np.where(spilled > 0, np.maximum(paid, 0.0), paid)
    own = np.where(net > 0, asked, least)
    if values is not None:
        if np.shape(values) != net.shape:
            raise ValueError(
                f"auctions: values have the shape {np.shape(values)}; give one by prosumer and "
                f"hour, {net.shape}."
            )
        if np.isnan(np.asarray(values, float)).any():
            raise ValueError("auctions: values has NaN; give EUR/kWh of every prosumer and hour.")
        own = np.clip(values, least, np.maximum(asked, least))
    surplus = np.where(net > 0, 0.0, np.maximum(-net, 0.0) + spilled)
    return Offers(surplus, np.maximum(net, 0.0), own)


class Crossing(Record):
    """Where the merit orders cross: one price an hour, and what each sells and buys at it."""

    price: Float[np.ndarray, " H"]  # EUR/kWh, NaN where nothing is traded
    volume: Float[np.ndarray, " H"]  # kW
    sold: Float[np.ndarray, "N H"]  # kW
    bought: Float[np.ndarray, "N H"]  # kW


def crossing(offered: Offers, toll: Any = 0.0) -> Crossing:
    """The uniform-price double auction of each hour.

    Asks in rising and bids in falling order cross at the most that can be traded among sellers who
    ask no more than buyers bid, max_p min(supply at p, demand at p). The price is halfway between
    the highest ask and the lowest bid that are traded. All who ask less, or bid more, trade all
    they offer; those at the margin share what remains in proportion to it. Each side pays the
    `toll` (EUR/kWh, one number or by hour) beside the price, so asks are that much higher and bids
    lower. What buyers pay is what sellers get, and nobody trades at a price worse than its own.
    """
    asks, bids = offered.value + toll, offered.value - toll
    level = np.concatenate([asks, bids])
    order = np.argsort(level, axis=0, kind="stable")  # of equals sellers first: all these trade
    nothing = np.zeros_like(asks)

    def sort(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, order, axis=0)

    supply = np.cumsum(sort(np.concatenate([offered.left, nothing])), axis=0)
    demand = np.cumsum(sort(np.concatenate([nothing, offered.lacks]))[::-1], axis=0)[::-1]
    volume = np.max(np.minimum(supply, demand), axis=0, initial=0.0)
    level = sort(level)
    last = np.argmax(supply >= volume, axis=0)[None]  # of those who sell
    least = len(level) - 1 - np.argmax(demand[::-1] >= volume, axis=0)[None]
    ask = np.take_along_axis(level, last, axis=0)[0]
    bid = np.take_along_axis(level, least, axis=0)[0]
    some = volume > 0
    price = np.where(some, (ask + bid) / 2, np.nan)
    sold = _rationed(offered.left, asks < ask, asks == ask, volume)
    taken = _rationed(offered.lacks, bids > bid, bids == bid, volume)
    return Crossing(price, volume, sold, taken)


def _rationed(
    amount: Float[np.ndarray, "N H"],
    before: Bool[np.ndarray, "N H"],
    margin: Bool[np.ndarray, "N H"],
    volume: Float[np.ndarray, " H"],
) -> Float[np.ndarray, "N H"]:
    """All of an amount that comes `before` the margin, and there the part that fills the volume."""
    first, at = np.where(before, amount, 0.0), np.where(margin, amount, 0.0)
    size = at.sum(axis=0)
    part = np.clip((volume - first.sum(axis=0)) / np.where(size > 0, size, 1.0), 0.0, 1.0)
    return np.where(volume > 0, first + part * at, 0.0)


def matched(
    pairs: Trading, offered: Offers, score: Float[np.ndarray, "E H"]
) -> Float[np.ndarray, "E H"]:
    """Greedy matching: pair by pair of falling `score` as much as both have left, up to its limit.

    Only pairs trade whose bid is at least the ask, both tolls and what they reckon with for dealing
    with one another; of equal scores the first pair comes first. Positive where the pair's `buyer`
    buys.
    """
    buyer, seller = np.asarray(pairs.buyer), np.asarray(pairs.seller)
    hours = np.arange(offered.left.shape[1])
    limit, asked = (
        np.broadcast_to(np.asarray(a), score.shape)
        for a in (pairs.limit, 2 * pairs.toll + pairs.reluctance)
    )
    forward = offered.lacks[buyer] > 0
    spread = np.where(forward, 1, -1) * (offered.value[buyer] - offered.value[seller])
    fits = spread >= asked
    order = np.argsort(-score, axis=0, kind="stable")
    left, lacks, trades = offered.left.copy(), offered.lacks.copy(), np.zeros(score.shape)
    for pair in order:  # the pair of this rank in each hour
        one, other, goes = buyer[pair], seller[pair], forward[pair, hours]
        buys, sells = np.where(goes, one, other), np.where(goes, other, one)
        power = np.minimum(np.minimum(lacks[buys, hours], left[sells, hours]), limit[pair, hours])
        power = np.where(fits[pair, hours], power, 0.0)
        lacks[buys, hours] -= power
        left[sells, hours] -= power
        trades[pair, hours] = np.where(goes, power, -power)
    return trades


@for_one()
def plan_alone(market: Market, *, tol: Any = None) -> Clearing:
    """What everyone does alone, and what it costs at the tariff: a clearing for tables and plots.

    The plan is that of the market `alone`, cleared to `tol`; what can neither be fed in nor
    curtailed by the market's limits is fed in all the same, as `unmet` tells. `prices.balance` is
    what a kWh is worth to each, and no limit has a price. The status is `uncontrolled`, and
    `certificate.ac` says what the grid makes of it. Raises `NotCleared` where somebody cannot do
    alone, as with less than it needs of the main grid.
    """
    found = clear(alone(market), tol=tol).plan
    nothing = np.zeros_like(zeros(market).trades)
    offered = offers(market, _contracted(market, found, nothing))
    return _told(market, found, nothing, offered.value)


@for_one()
def uniform(market: Market, planned: Clearing, *, values: Any = None) -> tuple[Market, Clearing]:
    """The uniform-price double auction of each hour, by `crossing`: the pool, and its clearing.

    All trade with all: the pool is `pooled(market)`, `planned` is `plan_alone(market)`, `values`
    (N H, EUR/kWh) are other asks and bids than true ones. Every buyer gets the same part of what
    each seller sells. The clearing is told as that of `plan_alone` is: `prices.balance` is the
    price of the auction where there is one, so that `jg.settle(*uniform(market, planned))` pays it.
    """
    pool = pooled(market)
    offered = offers(market, planned.plan, values)
    found = crossing(offered, np.max(np.asarray(pool.trading.toll), axis=0, initial=0.0))
    some = found.volume > 0
    parts = found.sold / np.where(some, found.volume, 1.0)
    buyer, seller = np.asarray(pool.trading.buyer), np.asarray(pool.trading.seller)
    trades = found.bought[buyer] * parts[seller] - parts[buyer] * found.bought[seller]
    price = np.where(some, found.price, offered.value)
    return pool, _told(pool, planned.plan, trades, price)


@for_one()
def pay_as_bid(
    market: Market,
    planned: Clearing,
    *,
    distance: Any = 0.0,
    reputation: Any = 0.0,
    values: Any = None,
) -> Clearing:
    """The auction of each hour in which pairs are matched greedily, by `matched`.

    Pairs of the market whose bid exceeds the ask the most come first, and each trades at the mean
    of the two. `distance` (EUR/kWh, one number, by pair or by pair and hour) is taken off for the
    order alone, and the `reputation` of both (EUR/kWh, one number or by prosumer) added to it;
    neither is paid. `planned` is `plan_alone(market)`, `values` (N H, EUR/kWh) other asks and bids
    than true ones. The clearing is told as `plan_alone` is: `prices.balance` are asks and bids,
    whose mean `jg.settle` pays. Raises `ValueError` for tables of other shapes.
    """
    pairs, hours = market.trading, market.prosumers.load.shape[1]
    offered = offers(market, planned.plan, values)
    buyer, seller = np.asarray(pairs.buyer), np.asarray(pairs.seller)
    far = _by_row("distance", distance, len(buyer), hours)
    known = _by_row("reputation", reputation, len(offered.value), hours)
    spread = np.abs(offered.value[buyer] - offered.value[seller])
    trades = matched(pairs, offered, spread - far + known[buyer] + known[seller])
    return _told(market, planned.plan, trades, offered.value)


def _by_row(name: str, values: Any, rows: int, hours: int) -> Float[np.ndarray, "R H"]:
    table = np.asarray(values, float)
    if table.shape not in ((), (rows,), (rows, 1), (rows, hours)):
        raise ValueError(
            f"auctions.pay_as_bid: {name} has the shape {table.shape}; give one number, {rows} of "
            f"them, or ({rows}, {hours})."
        )
    if np.isnan(table).any():
        raise ValueError(f"auctions.pay_as_bid: {name} has NaN; give EUR/kWh.")
    return np.broadcast_to(table[:, None] if table.ndim == 1 else table, (rows, hours))


def auctioned(
    market: Market, *, distance: Any = None, reputation: Any = None, tol: Any = None
) -> dict[str, tuple[Market, Clearing]]:
    """Everyone alone and the auctions of what is left over then: what `jg.compare` takes.

        print(jg.compare(jaxgne.auctions.auctioned(market), reference="alone"))

    "alone" is `plan_alone` cleared to `tol`, "uniform auction" `uniform` in the pool of all, "pay
    as bid" `pay_as_bid` among the market's pairs; "near first" and "trusted first" the same with
    `distance` and `reputation`, each where it is given.
    """
    planned = plan_alone(market, tol=tol)
    found = {
        ALONE: (market, planned),
        "uniform auction": uniform(market, planned),
        "pay as bid": (market, pay_as_bid(market, planned)),
    }
    if distance is not None:
        found["near first"] = (market, pay_as_bid(market, planned, distance=distance))
    if reputation is not None:
        found["trusted first"] = (market, pay_as_bid(market, planned, reputation=reputation))
    return found


def _contracted(market: Market, plan: Plan, trades: Float[np.ndarray, "E H"]) -> Plan:
    """The plan with these trades, of which the main grid sells and buys the rest.

    Who sells lets less go to waste first, then feeds in less.
    """
    people = market.prosumers
    plan = replace(zeros(market), **{name: getattr(plan, name) for name in _OWN})
    gained = np.asarray(bought(market, jnp.asarray(trades)))
    net, spilled = np.asarray(net_load(market, plan)), np.asarray(plan.curtailed)
    kept = np.clip(spilled + np.minimum(gained, 0.0), 0.0, np.asarray(people.curtail_max))
    rest = net - spilled + kept - gained
    return replace(
        plan,
        trades=jnp.asarray(trades),
        curtailed=jnp.asarray(kept),
        imports=jnp.asarray(np.maximum(rest, 0.0)),
        exports=jnp.asarray(np.maximum(-rest, 0.0)),
    )


def _told(
    market: Market, plan: Plan, trades: Float[np.ndarray, "E H"], value: Float[np.ndarray, "N H"]
) -> Clearing:
    """These trades beside a plan as a clearing, in which a kWh has this value to each."""
    prices: Rows = replace(rows_like(market), balance=jnp.asarray(value))
    return told(market, with_state(market, _contracted(market, plan, trades)), prices)
