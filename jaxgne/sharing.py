"""Who pays whom for one and the same plan by other rules than marginal prices (docs/sharing.md).

The plan, what everyone pays the main grid for its contracts, and what everyone pays the operator
stay as they are: a rule says what prosumers pay one another, which sums to 0 in every step.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Array, Float

from .arguments import named, of_tables
from .comparison import gini, measured
from .each import for_each, for_one
from .market import Market
from .model import (
    Plan,
    Rows,
    bought,
    counted,
    export_prices,
    import_prices,
    mean_price,
    net_load,
    parties,
)
from .record import Record
from .result import Clearing
from .runner import jnp
from .settlement import Bills, bills, for_each_priced
from .tables import has_zones, refuse_zones

Rule = Literal["marginal", "uniform", "mid-market", "supply-demand", "keys"]
Rent = Literal["kept", "by energy", "by head"]
RULES: tuple[Rule, ...] = get_args(Rule)
_ZONED: tuple[Rule, ...] = ("marginal", "uniform")  # these know a price of the main grid by zone


class Shared(Record):
    """What everyone pays by a rule, EUR by hour; negative where they are paid.

    `bills` are those of `settle` with what peers pay one another by the rule; `trades` are 0 where
    a pool takes the place of pairs, and `receipts` are what the operator keeps. Rent that it hands
    back comes to `rebates` of prosumers and, by bus, `passive_rebates`.
    """

    bills: Bills
    rebates: Float[Array, "N H"]
    passive_rebates: Float[Array, "B H"]

    @property
    def prosumers(self) -> Float[Array, "N H"]:
        """All that each prosumer pays, less what it is handed back."""
        return self.bills.prosumers - self.rebates

    @property
    def passive(self) -> Float[Array, "B H"]:
        """All that the passive consumers at each bus pay, less what they are handed back."""
        return self.bills.passive - self.passive_rebates


@of_tables
@for_each_priced
def share(
    market: Market,
    clearing: Clearing,
    rule: Rule = "marginal",
    *,
    rent: Rent = "kept",
    keys: Any = None,
) -> Shared:
    """What everyone pays for the plan of a clearing by a `rule`, EUR; of a batch by scenario.

    "marginal" is `settle`: each pair trades at the mean of its two prices of energy. "uniform"
    settles all trades of a step at one price, the mean of these by energy. The others are pools:
    what all draw that none buys of the main grid was fed in by others and has one price inside,
    and all who draw, and all who feed in, have the same part of it; the rest has the main grid's
    prices:

    - "mid-market": halfway between the main grid's price and what it pays for exports (Long et al.,
      Peer-to-peer energy trading in a community microgrid, IEEE PES General Meeting 2017);
    - "supply-demand": the nearer to the export price, the more is fed in for each kWh drawn (Liu et
      al., IEEE Trans. Power Syst. 32, 2017, equations 6 to 9);
    - "keys": the mid-market price, and who gets how much of what is fed in follows `keys`, one
      number a prosumer or one by prosumer and hour, at least 0: nobody more than it draws, and
      what some do not need the others get in proportion. Without `keys` all get alike.

    `rent` says what becomes of the operator's rent, its receipts but for tolls and what losses
    cost it: "kept", or handed back "by energy" drawn, passive consumers included, or "by head" of
    prosumers.

    For any plan payments cancel as in `settle`. Raises `ValueError` for a clearing without prices,
    another rule, or keys of another shape or below 0.
    """
    return shared(market, clearing.plan, clearing.prices, rule, rent=rent, keys=keys)


@for_each
def shared(
    market: Market,
    plan: Plan,
    prices: Rows,
    rule: Rule = "marginal",
    *,
    rent: Rent = "kept",
    keys: Any = None,
) -> Shared:
    """`share` for any plan and prices."""
    _check(rule, rent, keys, market)
    paid = bills(market, plan, prices)
    if rule == "uniform":
        paid = _uniform(market, plan, paid)
    elif rule != "marginal":
        refuse_zones(f"share: rule={rule!r}", market)
        paid = _pooled(market, plan, paid, rule, keys)
    return _handed_back(market, plan, paid, rent)


def _check(rule: str, rent: str, keys: Any, market: Market) -> None:
    for name, word, allowed in (("rule", rule, RULES), ("rent", rent, get_args(Rent))):
        if word not in allowed:
            raise ValueError(f"share: {name}={word!r}; choose one of {', '.join(allowed)}.")
    if keys is None:
        return
    if rule != "keys":
        raise ValueError(f"share: keys belong to rule='keys', not to {rule!r}; leave them out.")
    people, hours = market.prosumers.load.shape[-2:]
    shape = np.shape(keys)
    if shape not in ((people,), (people, hours)):
        raise ValueError(
            f"share: keys have the shape {shape}; give one a prosumer, ({people},), or one by "
            f"prosumer and hour, ({people}, {hours})."
        )
    if isinstance(keys, np.ndarray | list | tuple) and not np.all(np.asarray(keys) >= 0):
        raise ValueError("share: keys are at least 0; a prosumer that gets nothing has a key of 0.")


def _uniform(market: Market, plan: Plan, paid: Bills) -> Bills:
    """All trades of a step at the price at which they settle on average."""
    ts, trades = counted(market), plan.trades
    traded = jnp.sum(jnp.abs(trades), axis=0)
    # what a trade settles for is its energy's price, whichever way it goes
    total = jnp.sum(paid.trades * jnp.sign(trades), axis=0)
    price = jnp.where(traded > 0, total / jnp.where(traded > 0, traded, 1.0), 0.0) / ts
    trades = ts * price * trades
    return replace(paid, trades=trades, peers=bought(market, trades))


def _pooled(market: Market, plan: Plan, paid: Bills, rule: Rule, keys: Any) -> Bills:
    """What each owes the pool, less what it pays the main grid for its own contracts already.

    The price inside lies between what the main grid asks and pays, each with what contracts add to
    it in the mean of all that is drawn or fed in; beyond that everyone pays by its own contract.
    """
    ts, people = counted(market), market.prosumers
    net = net_load(market, plan)
    draws, feeds = jnp.maximum(net, 0.0), jnp.maximum(-net, 0.0)
    demand, supply = jnp.sum(draws, axis=0), jnp.sum(feeds, axis=0)
    contracted = jnp.sum(plan.imports, axis=0)
    inside = jnp.clip(demand - contracted, 0.0, jnp.minimum(demand, supply))
    main = mean_price(market, plan)
    buys = main + _share(jnp.sum(people.import_adder * draws, axis=0), demand)
    sells = market.tariff.export + _share(jnp.sum(people.export_adder * feeds, axis=0), supply)
    price = (buys + sells) / 2
    if rule == "supply-demand":
        price = _by_supply(jnp.minimum(_share(supply, demand), 1.0), buys, sells)
    if rule == "keys":
        weights = jnp.ones_like(draws) if keys is None else _by_hour(jnp.asarray(keys), draws)
        got = allotted(draws, weights, inside)
    else:
        got = draws * _share(inside, demand)
    gave = feeds * _share(inside, supply)
    asked, offered = import_prices(market, main[None]), export_prices(market)
    owed = ts * (price * (got - gave) + asked * (draws - got) - offered * (feeds - gave))
    contracts = paid.main_grid + paid.adders
    # what contracts that pass one another by cost beyond that falls on all by the energy they move
    moved, alike = draws + feeds, _heads(market)
    rest = jnp.sum(contracts, axis=0) - jnp.sum(owed, axis=0)
    total = jnp.sum(moved, axis=0)
    owed = owed + rest * jnp.where(total > 0, moved / jnp.where(total > 0, total, 1.0), alike)
    return replace(paid, peers=owed - contracts, trades=jnp.zeros_like(paid.trades))


def _heads(market: Market) -> Float[Array, "N 1"]:
    """The same part for everyone, none for who only passes energy on."""
    some = parties(market)[:, None] * 1.0
    return some / jnp.maximum(jnp.sum(some), 1.0)


def _by_supply(
    ratio: Float[Array, " H"], buys: Float[Array, " H"], sells: Float[Array, " H"]
) -> Float[Array, " H"]:
    """The price inside at a ratio of supply to demand: `buys` at 0, `sells` from 1 on.

    Where the export price is not above 0, or above the import price, the paper's formula has no
    meaning: then it is the straight line between the two.
    """
    fit = (sells > 0) & (buys >= sells)
    below = jnp.where(fit, (buys - sells) * ratio + sells, 1.0)
    return jnp.where(fit, sells * buys / below, buys + (sells - buys) * ratio)


def _share(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def _by_hour(keys: Array, like: Array) -> Array:
    return jnp.broadcast_to(keys[:, None] if keys.ndim == 1 else keys, like.shape)


def allotted(
    wants: Float[Array, "N H"], keys: Float[Array, "N H"], total: Float[Array, " H"]
) -> Float[Array, "N H"]:
    """min(theta key, wants) of each, theta by hour such that all add up to `total` (kW).

    `total` is at most the sum of `wants`. What is left where keys of 0 keep some from getting
    anything goes to these, in proportion to what they want.
    """
    some = keys > 0
    fills = jnp.where(some, wants / jnp.where(some, keys, 1.0), 0.0)  # theta from which one is full
    order = jnp.argsort(fills, axis=0)

    def sort(values: Array) -> Array:
        return jnp.take_along_axis(values, order, axis=0)

    want, key, full = (
        sort(jnp.where(some, wants, 0.0)),
        sort(jnp.where(some, keys, 0.0)),
        sort(fills),
    )
    filled = jnp.cumsum(want, axis=0)
    open_keys = jnp.sum(key, axis=0) - jnp.cumsum(key, axis=0) + key  # of those from here on
    at = filled - want + full * open_keys  # what all get at the theta that fills this one
    short = at >= total
    first = jnp.argmax(short, axis=0)[None]

    def pick(values: Array) -> Array:
        return jnp.take_along_axis(values, first, axis=0)[0]

    theta = _share(total - pick(filled - want), pick(open_keys))
    level = jnp.where(jnp.any(short, axis=0), theta, jnp.inf)
    got = jnp.where(some, jnp.minimum(jnp.where(some, level * keys, 0.0), wants), 0.0)
    left = jnp.maximum(total - jnp.sum(got, axis=0), 0.0)
    others = jnp.where(some, 0.0, wants)
    return got + others * _share(left, jnp.sum(others, axis=0))


def _handed_back(market: Market, plan: Plan, paid: Bills, rent: Rent) -> Shared:
    """The operator's receipts but for tolls and what losses cost, handed back by a key, or kept."""
    nothing, at_buses = jnp.zeros_like(paid.peers), jnp.zeros_like(paid.passive_main_grid)
    if rent == "kept":
        return Shared(paid, nothing, at_buses)
    tolls = jnp.sum(paid.tolls, axis=0)
    rents = paid.receipts - tolls - paid.losses
    people = _heads(market) + nothing
    if rent == "by head":
        rebates, passive = rents * people, at_buses
    else:
        draws = jnp.maximum(net_load(market, plan), 0.0)
        drawn = jnp.maximum(market.grid.consumed[0], 0.0)
        total = jnp.sum(draws, axis=0) + jnp.sum(drawn, axis=0)
        rebates = rents * jnp.where(total > 0, draws * _share(jnp.ones_like(total), total), people)
        passive = rents * drawn * _share(jnp.ones_like(total), total)
    return Shared(replace(paid, receipts=tolls + paid.losses), rebates, passive)


class Gains(Record):
    """What each rule costs everyone, and who gains by it; prints as a table."""

    bills: dict[str, Float[Array, " N"]]  # EUR that each prosumer pays
    gains: dict[str, Float[Array, " N"]]  # EUR that each saves against the reference

    def __str__(self) -> str:
        head = ("rule", "gain, EUR", "least", "most", "gain", "lose", "Gini")
        lines = ["{:<28}{:>11}{:>9}{:>9}{:>7}{:>7}{:>7}".format(*head)]
        for rule, gain in self.gains.items():
            gain = np.asarray(gain)
            cent = 0.005
            uneven = gini(np.where(np.abs(gain) < cent, 0.0, gain))
            shown = "-" if uneven is None else f"{uneven:.2f}"
            win, lose = int((gain >= cent).sum()), int((gain <= -cent).sum())
            lines.append(
                f"{rule:<28}{gain.sum():>11.2f}{gain.min():>9.2f}{gain.max():>9.2f}"
                f"{win:>7}{lose:>7}{shown:>7}"
            )
        return "\n".join(lines)


@for_one()
def who_gains(
    market: Market,
    clearing: Clearing,
    reference: tuple[Market, Clearing],
    *,
    rent: Rent = "kept",
    keys: Any = None,
) -> Gains:
    """What everyone pays by each rule, and saves against a `reference`, a market and its clearing.

    The reference is as a rule the market without trading, `comparison.baselines(market)`, whose
    prosumers pay by `settle`. `rent` and `keys` are those of `share`. Gains count what devices cost
    and storage gained, which differ between the two plans. Of a market with price zones there are
    the rules that know these, "marginal" and "uniform". Raises `ValueError` where one of the two
    has no prices, and for another reference.
    """
    if not (isinstance(reference, tuple | list) and len(reference) == 2):
        raise ValueError(
            f"who_gains: reference is {named(reference)}; give a market and its clearing, "
            "(market, clearing)."
        )
    now, before = (measured(*pair) for pair in ((market, clearing), reference))
    devices = now.cost - now.bill
    paid, gains = {}, {}
    for rule in _ZONED if has_zones(market) else RULES:
        found = share(market, clearing, rule, rent=rent, keys=keys if rule == "keys" else None)
        bill = jnp.sum(found.prosumers, axis=1)
        paid[rule], gains[rule] = bill, before.cost - devices - bill
    return Gains(paid, gains)
