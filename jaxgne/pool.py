"""A community pool beside pairs: one price for all who buy of it and sell to it (docs/pool.md).

    both = jg.pool.with_pool(market, fee=0.01)

A pool is a prosumer without load, devices and contracts, with whom each member makes a pair. Its
own balance says that it sells what it buys, and the price of that is the pool's, the same for all.
As nothing costs it anything, this is the market with one row more, purchases = sales of all
members, and its equilibria are those of that market.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from .arrays import by_either
from .clearing import clear
from .comparison import measured
from .each import for_each, for_one
from .fields import naming
from .market import Market, Trading
from .model import by_owner, counted, export_prices, import_prices, parties, zone_bases, zone_slopes
from .names import prosumer_name, row_of, rows_of
from .padding import pad
from .record import Record, changed
from .result import Clearing
from .runner import jnp, to_device
from .selection import least_norm
from .settlement import bills, for_each_priced
from .size import utmost
from .tables import refuse_ties

NAME = "pool"
ARRANGEMENTS = ("pairs only", "pool only", "both")
_LOOKS, _HALVINGS = 12, 12  # fees that are tried one by one, and then between two
_SHOWN = 5e-4  # kWh or EUR: who dealt less is left out of tables
_ROUNDING = 1e-6  # of all bills: less that pairs pay the network is tolerance, and nothing
_ENOUGH = 1e-4  # of the income that is wanted, what it may lack


@for_one()
def with_pool(
    market: Market,
    members: Iterable[int | str] | None = None,
    *,
    limit: Any = None,
    fee: Any = 0.0,
    pairs: bool = True,
    name: str = NAME,
) -> Market:
    """The market with a pool of its `members`, by number or name: everyone, unless given.

    The pool is the last prosumer, called `name`; prosumers without names are called by their
    numbers then. It stands at the first feeder bus, and at any it would be the same, as it draws
    nothing. Each member buys of it or sells to it up to `limit` kW (one number, by member, or by
    member and hour; without one, more than all can make or use). Whoever does pays the network
    `fee` EUR/kWh (likewise), a seller as well as a buyer, as both sides of a pair pay
    `Trading.toll`. `pairs=False` takes away the pairs that there were.

    Charges (`jg.charges`) and preferences (`jg.preferences`) are those of people's pairs, made
    before or after: a pool's pairs keep their fee. Raises `ValueError` for members that there are
    not, or twice, for a name that is taken, and for numbers below 0 or of other shapes.
    """
    count, hours = market.prosumers.load.shape
    names = market.prosumers.names or tuple(map(str, range(count)))
    if name in names:
        raise ValueError(
            f"with_pool: name={name!r} is taken; give the pool another name, or the "
            "market without it."
        )
    if members is None:
        rows = np.flatnonzero(np.asarray(parties(market)))
    else:
        rows = np.array(rows_of("with_pool", "prosumer", list(members), names, count), int)
    if len(np.unique(rows)) < len(rows):
        raise ValueError("with_pool: members names somebody twice; give each once.")
    if not len(rows):
        raise ValueError("with_pool: members are none; give one at least.")
    if not pairs:
        refuse_ties("with_pool: pairs=False", market)
    own = {"limit": utmost(market) if limit is None else limit, "toll": fee}
    dtype = market.prosumers.load.dtype
    for what, value in own.items():
        told = "fee" if what == "toll" else what
        read = by_either(f"with_pool: {told}", value, len(rows), hours, "member", dtype)
        if not np.all((np.asarray(read) >= 0) & np.isfinite(read)):
            raise ValueError(f"with_pool: {told}={value!r:.60}; give finite numbers, 0 or more.")
        own[what] = np.asarray(read) / 2 if what == "toll" else np.asarray(read)
    grown = pad(market, prosumers=count + 1)
    bus = np.array(grown.prosumers.bus)
    bus[count] = np.asarray(market.grid.feeder)[0]
    people = changed(grown.prosumers, bus=to_device(bus), names=(*names, name))
    own |= {"buyer": rows, "seller": np.full(len(rows), count)}
    return changed(grown, prosumers=people, trading=_joined(market.trading, own, pairs))


def _joined(pairs: Trading, own: dict[str, Any], kept: bool) -> Trading:
    """The pairs with those of the pool, or these alone; what `own` does not have is 0."""
    found, more = {}, len(own["buyer"])
    for field in fields(pairs):  # pyright: ignore[reportArgumentType]
        old = np.asarray(getattr(pairs, field.name))[: None if kept else 0]
        new = np.asarray(own.get(field.name, np.zeros((more, *old.shape[1:]))), old.dtype)
        wide = np.broadcast_shapes(old.shape[1:], new.shape[1:])
        both = [np.broadcast_to(part, (len(part), *wide)) for part in (old, new)]
        found[field.name] = to_device(np.concatenate(both))
    return changed(pairs, **found)


def _through(market: Market, pool: int | str) -> tuple[int, Array]:
    """The row of the pool, and by pair 1 where its buyer is a member, -1 where its seller is."""
    names, count = market.prosumers.names, market.prosumers.bus.shape[-1]
    row = row_of("pool", "prosumer", pool, names, count)
    pairs = market.trading
    return row, (pairs.seller == row) * 1.0 - (pairs.buyer == row) * 1.0


class Deals(Record):
    """What each prosumer dealt with a pool, at the one price that it has; prints as a table.

    `paid` is what is paid the pool for energy, negative where it pays; `charges` go to the network.
    Both are those of `jg.settle`.
    """

    price: Float[Array, " H"]  # EUR/kWh, before the network's fee
    bought: Float[Array, "N H"]  # kWh
    sold: Float[Array, "N H"]  # kWh
    paid: Float[Array, "N H"]  # EUR
    charges: Float[Array, "N H"]  # EUR
    names: tuple[str, ...] = naming("name of each prosumer, or nothing")

    def __str__(self) -> str:
        head = ("", "bought, kWh", "sold, kWh", "paid, EUR", "charges, EUR")
        rows = [
            (prosumer_name(self.names, row), *cells)
            for row, cells in enumerate(self._by_member())
            if np.any(np.abs(cells) > _SHOWN)
        ]
        return _table(head, [*rows, ("all", *self._by_member().sum(axis=0))])

    def _by_member(self) -> Float[np.ndarray, "N 4"]:
        parts = (self.bought, self.sold, self.paid, self.charges)
        return np.stack([np.asarray(part).sum(axis=1) for part in parts], axis=1)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    wide = max(len(str(row[0])) for row in rows) + 2
    lines = ["".join([head[0].ljust(wide), *(f"{word:>14}" for word in head[1:])])]
    for name, *cells in rows:
        shown = (round(float(cell), 3) + 0.0 for cell in cells)
        lines.append("".join([str(name).ljust(wide), *(f"{cell:>14.3f}" for cell in shown)]))
    return "\n".join(lines)


@for_each_priced
def price(market: Market, clearing: Clearing, pool: int | str = NAME) -> Float[Array, " H"]:
    """The price of a `pool`, by name or number, EUR/kWh by hour: the same for all its members.

    It is the energy value of the pool in the `clearing`; the network's fee comes on top for who
    buys, and off for who sells. Where nobody deals with the pool it is one at which nobody would.
    Raises `ValueError` where the market has no such pool.
    """
    row, _ = _through(market, pool)
    return clearing.prices.balance[row]


@for_each_priced
def deals(market: Market, clearing: Clearing, pool: int | str = NAME) -> Deals:
    """What each prosumer bought of a `pool` and sold to it, kWh, and what it paid, EUR.

    `market` and `clearing` may be batches. What all pay the pool sums to 0 in every step. Raises
    `ValueError` where the market has no such pool, and for a clearing without prices.
    """
    row, way = _through(market, pool)
    pairs, energy = market.trading, counted(market)
    member = jnp.where(pairs.seller == row, pairs.buyer, pairs.seller)
    got = way[:, None] * clearing.plan.trades
    asked = 2 * energy * pairs.toll * jnp.abs(got)

    def each(values: Array) -> Float[Array, "N H"]:
        return by_owner(market, values, member)

    one, both = clearing.prices.balance[row], (jnp.maximum(got, 0.0), jnp.maximum(-got, 0.0))
    bought, sold = (each(energy * part) for part in both)
    paid = one * (bought - sold)
    return Deals(one, bought, sold, paid, each(asked), market.prosumers.names)


class Member(Record):
    """What each prosumer pays and deals in one arrangement, over all hours."""

    cost: Float[Array, " N"]  # EUR: devices and bill
    paired: Float[Array, " N"]  # kWh, bought and sold of and to partners
    pooled: Float[Array, " N"]  # kWh, bought and sold of and to the pool
    charges: Float[Array, " N"]  # EUR, to the network for both


class Beside(Record):
    """A pool beside pairs: the same market with either alone, and with both; prints as a table.

    `cleared` has the market and clearing of each arrangement, which `jg.compare` takes, `members`
    what each prosumer pays and deals in it. The pool is the last prosumer in all of them, also
    where nobody can deal with it.
    """

    cleared: dict[str, tuple[Market, Clearing]]
    members: dict[str, Member]

    def __str__(self) -> str:
        head = ("", "costs, EUR", "pairs, kWh", "pool, kWh", "charges, EUR")
        return _table(head, [(name, *_totals(one)) for name, one in self.members.items()])

    def by_member(self, what: str = "cost") -> str:
        """A table of one number of a `Member`, `what`, by prosumer and arrangement."""
        rows = np.stack([np.asarray(getattr(one, what)) for one in self.members.values()], axis=1)
        market = next(iter(self.cleared.values()))[0]
        party = np.flatnonzero(np.asarray(parties(market))).tolist()
        named = [(prosumer_name(market.prosumers.names, row), *rows[row]) for row in party]
        return _table((f"{what}", *self.members), named)


def _totals(one: Member) -> tuple[float, ...]:
    """Of all: each trade counts once."""
    parts = (one.cost, one.paired / 2, one.pooled / 2, one.charges)
    return tuple(float(np.sum(np.asarray(part))) for part in parts)


@for_each
def _members(market: Market, clearing: Clearing) -> Member:
    row, way = _through(market, NAME)
    pairs, found = market.trading, measured(market, clearing)
    energy = jnp.abs(clearing.plan.trades) @ counted(market)
    dealt, pair = jnp.abs(way) * energy, (1 - jnp.abs(way)) * energy
    member = jnp.where(pairs.seller == row, pairs.buyer, pairs.seller)
    return Member(
        cost=found.cost,
        paired=by_owner(market, pair, pairs.buyer) + by_owner(market, pair, pairs.seller),
        pooled=by_owner(market, dealt, member),
        charges=jnp.sum(bills(market, clearing.plan, clearing.prices).tolls, axis=1),
    )


@for_one()
def beside(
    market: Market,
    members: Iterable[int | str] | None = None,
    *,
    limit: Any = None,
    fee: Any = 0.0,
    tol: Any = None,
) -> Beside:
    """Pairs only, the pool only, and both side by side, each cleared to `tol` by `least_norm`.

    Of all equilibria that is the one which trades least: who exports may as well sell to a free
    pool what another of its members exports. `market` is that of the pairs, with whatever these
    pay the network (`jg.charges`); `members`, `limit` and `fee` are those of `with_pool`. Raises
    `ValueError` as that does, and `NotCleared` where one of the three has no equilibrium.
    """
    whole = with_pool(market, members, limit=limit, fee=fee)
    pool, given = _is_pool(whole), whole.trading.limit
    shut = jnp.zeros_like(given)
    limits = (jnp.where(pool, shut, given), jnp.where(pool, given, shut), given)
    cleared = {}
    for name, one in zip(ARRANGEMENTS, limits, strict=True):
        arranged = changed(whole, trading=changed(whole.trading, limit=one))
        cleared[name] = arranged, least_norm(arranged, tol=tol)
    return Beside(cleared, {name: _members(*pair) for name, pair in cleared.items()})


def _is_pool(market: Market) -> Bool[Array, "E 1"]:
    """Which pairs are with the pool."""
    return _through(market, NAME)[1][:, None] != 0


class FlatFee(Record):
    """The fee of a pool that restores what the network earned; prints as a sentence."""

    fee: float  # EUR/kWh, of buyer and seller each
    income: float  # EUR, with that fee
    wanted: float  # EUR
    tried: Float[np.ndarray, " F"]  # EUR/kWh: the fees that were tried first, in rising order
    incomes: Float[np.ndarray, " F"]  # EUR, at these

    def __str__(self) -> str:
        return (
            f"A fee of {self.fee:.5f} EUR/kWh, of buyer and seller each, brings the network "
            f"{self.income:.4f} EUR of the {self.wanted:.4f} wanted."
        )


@for_one()
def restoring_fee(
    market: Market,
    members: Iterable[int | str] | None = None,
    *,
    limit: Any = None,
    income: float | None = None,
    most: float | None = None,
    tol: Any = None,
) -> FlatFee:
    """The lowest flat fee of a pool beside pairs at which the network earns an `income`, EUR.

    By default what it earns by the charges of pairs alone. `market`, `members`, `limit` and `tol`
    are those of `beside`. Twelve fees up to `most` EUR/kWh are tried, by default half of what
    import prices may exceed export prices by, or 0: above, no two have a deal through the pool. The
    income need not rise with the fee, as deals go back to pairs or are not made; between the first
    fee that brings enough and the one before it the lowest is found by halving. Raises `ValueError`
    where no fee that is tried brings enough.
    """
    whole = with_pool(market, members, limit=limit)
    pool, toll = _is_pool(whole), whole.trading.toll
    if income is None:
        found = beside(market, members, limit=limit, tol=tol)
        income = _totals(found.members["pairs only"])[3]
        bill = float(found.cleared["pairs only"][1].certificate.scales.bill)
        income = income if income > _ROUNDING * bill else 0.0
    if most is None:
        most = _dearest(market)
    if not 0 < most < np.inf:
        raise ValueError(f"restoring_fee: most={most!r}; give EUR/kWh above 0.")

    def earned(fee: float) -> float:
        """What the network earns with this fee, EUR."""
        asked = changed(whole, trading=changed(whole.trading, toll=jnp.where(pool, fee / 2, toll)))
        # from the start each: near the fee where deals change sides the last one misleads
        moved = counted(asked) * jnp.abs(clear(asked, tol=tol).plan.trades)
        return float(jnp.sum(2 * asked.trading.toll * moved))

    wanted = income - _ENOUGH * abs(income)
    tried: dict[float, float] = {}
    for fee in np.linspace(0.0, most, _LOOKS + 1).tolist():
        tried[fee] = earned(fee)
        if tried[fee] >= wanted:
            break
    else:
        best = max(tried, key=lambda fee: tried[fee])
        raise ValueError(
            f"restoring_fee: fees up to {most:.4g} EUR/kWh bring {tried[best]:.4g} EUR at most, "
            f"at {best:.4g}, and {income:.4g} are wanted; give a lower income."
        )
    low, high = max(0.0, fee - most / _LOOKS), fee
    found = tried[fee]
    for _ in range(_HALVINGS if fee > 0 else 0):
        middle = (low + high) / 2
        brings = earned(middle)
        if brings >= wanted:
            high, found = middle, brings
        else:
            low = middle
    return FlatFee(high, found, float(income), *map(np.array, (list(tried), list(tried.values()))))


def _dearest(market: Market) -> float:
    """Half of the most that a kWh may be worth to one beyond what it is to another, EUR/kWh."""
    asked = zone_bases(market) + zone_slopes(market) * 2 * utmost(market)
    high = np.max(np.asarray(import_prices(market, asked)))
    low = min(0.0, float(np.min(np.asarray(export_prices(market)))))
    return (float(high) - low) / 2
