"""Balancing energy: the operator buys a deviation of the total from a plan, and who delivers it.

A clearing is the position of all, as of the day before. Then so many kW more or less are asked of
the total exchange, and the market is cleared again with the total bound to that: the multiplier of
the bound is the price of the deviation, and everyone is paid it for what its own exchange changes.
Deviations are settled at the new prices and positions at the old, so that nobody who takes prices
as they are is worse off (docs/balancing.md). Buying deviations by a market's own clearing is after
Chen (2023).
"""

from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .arrays import by_hour
from .batch import clear_many
from .clearing import clear
from .clock import hour_name
from .each import for_one
from .elastic import program
from .market import Market
from .model import (
    Plan,
    Rows,
    aggregate,
    bought,
    burdens,
    by_owner,
    by_side,
    costs_at,
    counted,
    grid_price,
    members,
    net_exchange,
    net_load,
    passive_in_zones,
    potential,
    pull,
    trade_prices,
    zeros,
    zone_slopes,
    zone_totals,
)
from .names import prosumer_name
from .record import Record, changed
from .result import Clearing, NotCleared, complaint
from .runner import built, hosted, jnp, to_device
from .scenarios.rows import lane, shared
from .settlement import priced
from .status import Status, is_status
from .tables import has_caps, has_zones

Trades = Literal["free", "kept"]

_BAND = 1e-5  # of the largest total, that it may be beyond what is asked: then one price is right
_FAR = 1e4  # times a market's power, which no total reaches
_SHOWN = 0.01  # of a deviation, from which on it is told who delivers it
_SOURCES = ("generation", "storage", "curtailment")


class Balancing(Record):
    """What a deviation costs, who delivers it, and what each is paid.

    `market` is the one that was given with its total bound, `clearing` its plan and prices. `price`
    is the multiplier of that bound in each step, EUR/kWh: what a kWh drawn less is worth, negative
    where more is asked. `drawn` is what each prosumer draws more than in its position, kW, the sum
    of `generation` (made less), `storage` (charged more, or given less) and `curtailment`; `bought`
    is what it buys more of others. So `drawn` less `bought` is what its exchange with the main grid
    changes, all together the deviation, for which it is paid the price: `payment`, EUR by step.
    `cost` is what that costs it at the new prices: devices, energy of the main grid, trades, what
    the network and caps ask. `added` is what the deviation adds to the potential that equilibria
    minimize, EUR.
    """

    market: Market
    clearing: Clearing
    deviation: Float[Array, " H"]  # kW
    price: Float[Array, " H"]
    drawn: Float[Array, "N H"]
    generation: Float[Array, "N H"]
    storage: Float[Array, "N H"]
    curtailment: Float[Array, "N H"]
    bought: Float[Array, "N H"]
    payment: Float[Array, "N H"]
    cost: Float[Array, " N"]
    added: Float[Array, ""]

    @property
    def paid(self) -> Float[Array, " H"]:
        """What the operator pays in each step, EUR."""
        return jnp.sum(self.payment, axis=0)

    @property
    def gain(self) -> Float[Array, " N"]:
        """What each prosumer is paid beyond what its deviation costs it, EUR."""
        return jnp.sum(self.payment, axis=1) - self.cost

    def __str__(self) -> str:
        asked, price = np.asarray(self.deviation), np.asarray(self.price)
        own = np.asarray(self.drawn) - np.asarray(self.bought)
        lines, names = [], self.market.prosumers.names
        for h in np.flatnonzero(asked).tolist():
            most = np.argsort(-np.abs(own[:, h]))
            who = [
                f"{prosumer_name(names, i)} {abs(own[i, h]):.3g}"
                for i in most.tolist()
                if own[i, h] * asked[h] > _SHOWN * asked[h] ** 2
            ]
            lines.append(
                f"{hour_name(self.market, h)}: {abs(asked[h]):.4g} kW {_way(asked[h])} at "
                f"{price[h]:.4g} EUR/kWh, of {', '.join(who)}"
            )
        least = round(float(jnp.min(self.gain)), 5) + 0.0
        lines.append(
            f"paid in all {float(jnp.sum(self.paid)):.4g} EUR, for {float(jnp.sum(self.cost)):.4g} "
            f"EUR that it costs; nobody gains less than {least:.2g} EUR"
        )
        return "\n".join(lines)


class Curve(Record):
    """Prices of several deviations of the same steps, and what they cost: a merit order.

    One row for each of the `deviations`, kW in each of the `asked` steps. Rows that did not clear
    are NaN.
    """

    market: Market
    deviations: Float[Array, " S"]
    asked: Bool[Array, " H"]
    price: Float[Array, "S H"]  # EUR/kWh
    paid: Float[Array, " S"]  # EUR
    added: Float[Array, " S"]  # EUR

    def __str__(self) -> str:
        kwh = np.asarray(counted(self.market))[np.asarray(self.asked)]
        mean = np.asarray(self.price)[:, np.asarray(self.asked)] @ kwh / kwh.sum()
        numbers = (self.deviations, mean, self.paid, self.added)
        table = np.round(np.stack([np.asarray(a) for a in numbers], axis=1), 4) + 0.0
        head = f"{'kW':>10}{'EUR/kWh':>10}{'paid, EUR':>11}{'costs, EUR':>12}"
        rows = (f"{kw:>10.4g}{p:>10.4f}{eur:>11.4f}{cost:>12.4f}" for kw, p, eur, cost in table)
        return "\n".join([head, *rows])


@for_one()
def buy(
    market: Market,
    clearing: Clearing,
    deviation: Any,
    hours: Any = None,
    *,
    trades: Trades = "free",
    hold: bool = True,
    tol: Any = None,
) -> Balancing:
    """The `deviation` of the total exchange from a clearing's, kW, its price, and who delivers it.

    Positive is drawn more, negative less: one number, in the steps `hours` (by their numbers; all
    by default), or a number a step. In all others the total stays what it is in `clearing`, unless
    `hold` is False. Trades are cleared again, and what changes of them settles at the new prices;
    with `trades="kept"` they are contracts that stay as they are, to 1e-5 of the largest. The
    total is met to 1e-5 of its own largest, beyond what is asked. The market clears to `tol`, as by
    `jg.clear`.

    Runs on the host. Raises `ValueError` where limits leave less, with what they leave, for numbers
    and steps that do not fit, and for a clearing without prices; `NotCleared` where the solver does
    not get there.
    """
    priced("buy", clearing)
    asked = _asked("buy", market, deviation, hours)
    _word("buy", trades)
    bound = _bound("buy", market, clearing, asked[None], hold, trades)
    given = _base(market, clearing.plan, trades)
    there = _with_total(given, *(a[0] for a in bound))
    found = clear(there, start=clearing, tol=tol, throw=False)
    if is_status(found.status, Status.infeasible):
        raise ValueError(_too_much(market, clearing, asked, hold, trades))
    if not bool(found.ok):
        raise NotCleared(complaint(there, found), found, there)
    return _told(market, clearing, there, found, asked, trades)


@for_one()
def curve(
    market: Market,
    clearing: Clearing,
    deviations: Any,
    hours: Any = None,
    *,
    trades: Trades = "free",
    hold: bool = True,
    tol: Any = None,
) -> Curve:
    """What each of `deviations`, kW, costs in the steps `hours`: a merit order, by one batch.

    `market`, `clearing`, `hours`, `trades`, `hold` and `tol` are as in `balancing.buy`. What limits
    do not allow is NaN. Raises `ValueError` as that does.
    """
    priced("curve", clearing)
    _word("curve", trades)
    each = np.atleast_1d(np.asarray(deviations, float))
    if each.ndim != 1 or not np.all(np.isfinite(each)):
        raise ValueError("curve: give deviations as a list of finite numbers, kW.")
    asked = _asked("curve", market, 1.0, hours)
    given = _base(market, clearing.plan, trades)
    least, most = _bound(
        "curve", market, clearing, each[:, None] * asked, hold, trades, strict=False
    )
    possible = np.all(least <= most, axis=1)
    bound = [np.where(possible[:, None], end, (least + most) / 2) for end in (least, most)]
    many = eqx.tree_at(
        lambda m: (m.tariff.total_min, m.tariff.total_max), shared(given, len(each)), tuple(bound)
    )
    found = clear_many(many, start=clearing, tol=tol)
    good = np.asarray(found.ok) & possible
    before = float(hosted(potential)(given, _own(market, clearing.plan, trades)))
    price = np.where(good[:, None], np.asarray(found.prices.aggregate), np.nan)
    lanes = (lane((many, found.plan), k) for k in range(len(each)))
    cost = np.array([float(hosted(potential)(one, plan)) for one, plan in lanes])
    added = np.where(good, cost - before, np.nan)
    kwh = np.asarray(counted(market)) * asked
    return Curve(
        market=market,
        deviations=to_device(each),
        asked=to_device(asked > 0),
        price=to_device(price),
        paid=to_device(-(price @ kwh) * each),
        added=to_device(added),
    )


@for_one()
def limits(
    market: Market,
    clearing: Clearing,
    hours: Any = None,
    *,
    trades: Trades = "free",
    hold: bool = True,
) -> tuple[float, float]:
    """The least and the most that the total can deviate in the steps `hours`, in all alike, kW.

    By linear programs over all plans, at whatever cost. `market`, `clearing`, `hours`, `trades` and
    `hold` are as in `balancing.buy`. Raises `ValueError` as that does.
    """
    _word("limits", trades)
    asked = _asked("limits", market, 1.0, hours)
    least, most = (_reach(market, clearing, way * asked, hold, trades) for way in (-1.0, 1.0))
    return -least, most


def _word(caller: str, trades: str) -> None:
    if trades not in ("free", "kept"):
        raise ValueError(f"{caller}: trades={trades!r} is neither 'free' nor 'kept'.")


def _way(kw: float) -> str:
    return "more" if kw > 0 else "less"


def _asked(caller: str, market: Market, deviation: Any, hours: Any) -> Float[np.ndarray, " H"]:
    """The deviation of each step, kW."""
    steps = np.shape(market.prosumers.load)[-1]
    kw = np.array(by_hour(f"{caller}: deviation", deviation, 1, steps, "market"), float)[0]
    if not np.all(np.isfinite(kw)):
        raise ValueError(f"{caller}: deviation must be finite, in kW.")
    if hours is None:
        return kw
    chosen = np.atleast_1d(np.asarray(hours))
    if chosen.dtype.kind not in "iu" or np.any((chosen < 0) | (chosen >= steps)):
        raise ValueError(
            f"{caller}: hours={hours!r}; give numbers of steps, from 0 to {steps - 1}."
        )
    return np.where(np.isin(np.arange(steps), chosen), kw, 0.0)


def _bound(
    caller: str,
    market: Market,
    clearing: Clearing,
    asked: Float[np.ndarray, "S H"],
    hold: bool,
    trades: str,
    strict: bool = True,
) -> tuple[Float[np.ndarray, "S H"], Float[np.ndarray, "S H"]]:
    """Limits of the total: what is asked, and a little beyond it; `ValueError` where none is left.

    Between two equal limits a price is not unique where devices are at theirs, as they often are in
    the position itself. Of a little beyond, the price of what is asked is the least that does.
    """
    tariff = market.tariff
    total = np.asarray(net_exchange(market, clearing.plan), float)
    band = _BAND * max(float(np.abs(total).max(initial=0.0)), float(np.abs(asked).max(initial=0.0)))
    least = np.where(asked > 0, total + asked, total + asked - band)
    most = np.where(asked < 0, total + asked, total + asked + band)
    open_ = (asked == 0) & (not hold)
    low, high = (np.asarray(end, float) for end in (tariff.total_min, tariff.total_max))
    least = np.where(open_, low, np.clip(least, low, None))
    most = np.where(open_, high, np.clip(most, None, high))
    if strict and np.any(least > most):
        raise ValueError(_too_much(market, clearing, asked[0], hold, trades))
    return least, most


@built
def _base(market: Market, plan: Plan, trades: str) -> Market:
    """The market to clear: where trades are contracts, they are part of everyone's load.

    Passive load at the same bus makes up for it, so that buses draw what they did, and what is
    traded leaves no total. A little may be traded beside them: else whoever has no device and may
    not buy more could do nothing at all, and solvers need some room.
    """
    if trades == "free":
        return market
    people, grid, pairs, caps = market.prosumers, market.grid, market.trading, market.caps
    contracts, room = _contracts(market, plan)
    power = bought(market, contracts)
    loads = changed(people, load=people.load - power)
    found = changed(
        market,
        prosumers=loads,
        grid=changed(grid, passive=grid.passive.at[people.bus].add(power)),
        trading=changed(pairs, limit=room),
    )
    if has_zones(market):  # whose price rises with what they draw, and not with what is traded
        shift = passive_in_zones(market, found.grid.passive - grid.passive)
        base = market.zones.base - zone_slopes(market) * shift
        found = changed(found, zones=changed(market.zones, base=base))
    if not has_caps(market):
        return found
    counts = members(market, changed(zeros(market), trades=contracts))
    base = caps.base + burdens(market) - burdens(found) + counts
    return changed(found, caps=changed(caps, base=base))


def _contracts(market: Market, plan: Plan) -> tuple[Float[Array, "E H"], Float[Array, "E #H"]]:
    """What is traded by contract, and how much may be traded beside it within the pair's limit."""
    limit = market.trading.limit
    room = jnp.minimum(limit, _BAND * jnp.max(jnp.abs(plan.trades), initial=0.0))
    return jnp.clip(plan.trades, room - limit, limit - room), room


def _own(market: Market, plan: Plan, trades: str) -> Plan:
    """A plan of the market as one of the market to clear."""
    if trades == "free":
        return plan
    return changed(plan, trades=plan.trades - _contracts(market, plan)[0])


def _with_total(market: Market, least: Any, most: Any) -> Market:
    dtype = np.asarray(market.tariff.total_min).dtype
    ends = (to_device(np.asarray(end, dtype)) for end in (least, most))
    return changed(
        market,
        tariff=changed(market.tariff, **dict(zip(("total_min", "total_max"), ends, strict=True))),
    )


@built
def _told(
    market: Market,
    clearing: Clearing,
    there: Market,
    found: Clearing,
    asked: Float[Any, " H"],
    trades: str,
) -> Balancing:
    """Who delivers what, and what for, of a clearing of the market with its total bound."""
    added = potential(there, found.plan)
    added = added - potential(there, _own(market, clearing.plan, trades))
    plan, before = found.plan, clearing.plan
    if trades == "kept":
        plan = changed(plan, trades=plan.trades + _contracts(market, before)[0])
    own = _with_total(market, there.tariff.total_min, there.tariff.total_max)
    made = _more(own, before.generation, plan.generation, market.generators.owner)
    kept = [a.charge - a.discharge for a in (plan, before)]
    stored = _more(own, kept[1], kept[0], market.buffers.owner)
    drawn = net_load(own, plan) - net_load(own, before)
    exchange = plan.imports - plan.exports - before.imports + before.exports
    price = found.prices.aggregate
    cost, was = (_cost(own, a, plan, found.prices) for a in (plan, before))
    spent = costs_at(own, plan, grid_price(own, zone_totals(own, plan)))
    return Balancing(
        market=own,
        clearing=changed(found, plan=plan, costs=spent, aggregate=aggregate(own, plan)),
        deviation=asked.astype(price.dtype),
        price=price,
        drawn=drawn,
        generation=-made,
        storage=stored,
        curtailment=plan.curtailed - before.curtailed,
        bought=bought(own, plan.trades) - bought(own, before.trades),
        payment=-counted(own) * price * exchange,
        cost=cost - was,
        added=added,
    )


def _more(market: Market, before: Array, after: Array, owner: Array) -> Float[Array, "N H"]:
    return by_owner(market, after - before, owner)


def _cost(market: Market, plan: Plan, held: Plan, prices: Rows) -> Float[Array, " N"]:
    """What a plan costs each prosumer at prices and the total import of `held`, EUR.

    Without what the price of the total asks, and but for a constant: what loads pay.
    """
    none = 0 * prices.balance
    shared_prices = changed(
        prices, balance=none, energy=0 * prices.energy, aggregate=0 * prices.aggregate
    )
    asked, pairs = pull(market, shared_prices), market.trading
    own = costs_at(market, plan, grid_price(market, zone_totals(market, held)))
    traded = counted(market) * trade_prices(market, prices) * plan.trades
    hourly = asked.imports * plan.imports + asked.exports * plan.exports
    hourly += asked.curtailed * plan.curtailed
    hourly += by_owner(market, asked.generation * plan.generation, market.generators.owner)
    stored = asked.charge * plan.charge + asked.discharge * plan.discharge
    hourly += by_owner(market, stored, market.buffers.owner)
    hourly += by_owner(market, traded, pairs.buyer) - by_owner(market, traded, pairs.seller)
    hourly += by_side(market, asked.trades * plan.trades / 2)  # of caps that count these
    if plan.level is not None:
        caps = market.caps
        held_by = asked.level * plan.level + asked.rise * plan.rise + asked.spare * plan.spare
        owned = jnp.where(caps.owner[:, None] < 0, 0.0, held_by)
        hourly = hourly.at[jnp.maximum(caps.owner, 0)].add(owned)
    return own + hourly.sum(axis=1)


def _reach(
    market: Market, clearing: Clearing, asked: Float[np.ndarray, " H"], hold: bool, trades: str
) -> float:
    """How many times the deviation there is a plan of, by a linear program."""
    from scipy import sparse

    given = _base(market, clearing.plan, trades)
    total = np.asarray(net_exchange(market, clearing.plan), float)
    tariff = market.tariff
    far = _FAR * max(1.0, float(np.abs(total).max(initial=0.0)))
    ends = (
        np.clip(np.asarray(end, float), -far, far) for end in (tariff.total_min, tariff.total_max)
    )
    made = hosted(program)(_with_total(given, *ends))
    times = made.add(sparse.csr_array((made.equal.shape[0], 1)), 0.0, far, -1.0)
    bound = np.flatnonzero((asked != 0) | hold)
    column, number = made.total[bound], asked[bound] / made.power
    passive = made.of.constant[made.of.rows["aggregate"]]  # of which a column is without
    most = (total - passive)[bound] / made.power
    room = _BAND * np.abs(total).max(initial=0.0) / made.power * (number == 0)
    at = np.broadcast_to(times, bound.shape)
    for sign in (1.0, -1.0):
        made.below([(column, sign), (at, -sign * number)], sign * most + room)
    found = made.solve()
    return 0.0 if found.x is None else float(found.x[times[0]])


def _too_much(
    market: Market, clearing: Clearing, asked: Float[np.ndarray, " H"], hold: bool, trades: str
) -> str:
    share = min(_reach(market, clearing, asked, hold, trades), 1.0)
    worst = int(np.argmax(np.abs(asked)))
    kw = abs(asked[worst])
    more = " while all other steps keep their total; hold=False lets those change" * bool(hold)
    return (
        f"balancing.buy: no plan draws {kw:.4g} kW {_way(asked[worst])} in "
        f"{hour_name(market, worst)}; limits leave {100 * share:.3g} % of the deviation, "
        f"{share * kw:.4g} kW there{more}."
    )
