"""Who pays whom for a plan at its prices, and what a price is made of (model.md: Money).

Trades settle at (pi_i + pi_j) / 2, the same for both sides. Beside its energy everyone pays the
operator for what it takes of limits that all share: the total exchange, lines, voltages and caps,
the last to their owner where they have one. The
anticipated effect on the main grid's price and the preferences of `Trading.fee_buyer` and
`fee_seller` are no cash; reactive power is not billed.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .each import for_each
from .incidence import across, has_terminals, left
from .market import Market
from .model import (
    Plan,
    Rows,
    aggregate,
    asked_at_buses,
    bought,
    by_owner,
    by_side,
    counted,
    grid_price,
    members,
    net_exchange,
    net_load,
    pull,
    rows_like,
    shared_out,
    toll,
    with_draws,
)
from .radial import forest, radial
from .record import Record
from .result import Clearing
from .runner import jnp
from .status import Status, is_status

P = ParamSpec("P")
T = TypeVar("T")

_UNPRICED = ("infeasible", "nonfinite")


class Bills(Record):
    """What everyone pays, EUR by hour; negative where they are paid.

    Prosumers: to the main grid (less what it pays for exports), what their own contracts add to
    that (`adders`, which whoever asks them receives as `fees`), to each other, the network's
    `tolls` on trades, `capacity` for the limit on the total exchange and `congestion` for the
    network where they and their devices draw. `trades` is what the buyer of each pair pays its
    seller. Passive consumers: by bus. Members of caps pay `caps` to the owner of each, less what
    they receive for caps of their own, or to the operator where nobody owns it; who owns a cap pays
    `charges` for its rise, the operator for those of nobody's, and whoever asks that price receives
    `levies`.
    """

    main_grid: Float[Array, "N H"]
    adders: Float[Array, "N H"]
    peers: Float[Array, "N H"]
    tolls: Float[Array, "N H"]
    capacity: Float[Array, "N H"]
    congestion: Float[Array, "N H"]
    caps: Float[Array, "N H"]
    charges: Float[Array, "N H"]
    trades: Float[Array, "E H"]
    passive_main_grid: Float[Array, "B H"]
    passive_capacity: Float[Array, "B H"]
    passive_congestion: Float[Array, "B H"]
    passive_caps: Float[Array, " H"]  # for what `Caps.base` counts, of all buses together
    sales: Float[Array, " H"]  # what the main grid receives
    fees: Float[Array, " H"]  # what own contracts add to that, to whoever asks it
    levies: Float[Array, " H"]  # what is paid for rises of caps, to whoever asks their price
    receipts: Float[Array, " H"]  # what the operator receives
    rent: Float[Array, " H"]  # what its limits and tariff are worth: the receipts at an equilibrium

    @property
    def prosumers(self) -> Float[Array, "N H"]:
        """All that each prosumer pays."""
        own = self.main_grid + self.peers + self.tolls + self.capacity + self.congestion
        return own + self.caps + self.charges + self.adders

    @property
    def passive(self) -> Float[Array, "B H"]:
        """All that the passive consumers at each bus pay, but for caps."""
        return self.passive_main_grid + self.passive_capacity + self.passive_congestion


class PriceParts(Record):
    """What energy at a bus costs, EUR/kWh: the sum of four parts; and at which price pairs trade.

    `energy` is the main grid's price, `limit` the scarcity of the total exchange, `lines` and
    `voltage` what full lines and voltages at their limits on the way from the feeder add. Caps are
    paid beside it by their members: `caps` is what they add to what each buys of the main grid, and
    `adder` what its own contract does.
    """

    energy: Float[Array, " H"]
    limit: Float[Array, "B H"]
    lines: Float[Array, "B H"]
    voltage: Float[Array, "B H"]
    trade: Float[Array, "E H"]  # (pi_i + pi_j) / 2, between buyer and seller
    toll: Float[Array, "E #H"]  # c_ta, paid by each of them
    network: Float[Array, "E H"]  # what the operator asks more at the buyer's bus than the seller's
    caps: Float[Array, "N H"]  # on imports of each prosumer, beside the total
    adder: Float[Array, "N #H"]  # likewise

    @property
    def total(self) -> Float[Array, "B H"]:
        """What passive consumers pay, and prosumers for what they draw from the main grid."""
        return self.energy + self.limit + self.lines + self.voltage


def for_each_priced(function: Callable[P, T]) -> Callable[P, T]:
    """`for_each` for a function of market and clearing that needs prices."""
    each, signature = for_each(function), inspect.signature(function)

    @wraps(function)
    def run(*given: P.args, **options: P.kwargs) -> T:
        priced(function.__name__, signature.bind(*given, **options).arguments["clearing"])
        return each(*given, **options)

    return run


@for_each_priced
def settle(market: Market, clearing: Clearing) -> Bills:
    """Who pays whom, per prosumer, pair, bus and hour, EUR (model.md: Money).

    For any plan and prices, whatever the gauge, payments and receipts cancel. At an equilibrium the
    operator's receipts equal its rent to the certificate's tolerance:

        rent = Ts (sum_y mu_pb_y inflow_y + lambda s + 2 sum_e c_ta |t_e|)

    and what limits on levels of caps are worth (model.md: Money).

    Traceable and differentiable. Of a batch the bills have its leading axis. Raises `ValueError`
    for a clearing without prices: infeasible or non-finite.
    """
    return bills(market, clearing.plan, clearing.prices)


def priced(caller: str, clearing: Clearing) -> None:
    """Refuse a clearing whose prices are none: a proof of infeasibility, or not finite.

    What stopped at `max_steps` is as good as its certificate says, and not refused.
    """
    if isinstance(clearing.steps, Tracer):
        return
    status = clearing.status
    ended = {word: np.asarray(is_status(status, getattr(Status, word))) for word in _UNPRICED}
    bad = np.logical_or(*ended.values())
    if not bad.any():
        return
    word = next(word for word, found in ended.items() if found.any())
    if not bad.ndim:
        raise ValueError(
            f"{caller}: the clearing is {word}, so there are no prices to pay; clear the market "
            "first, after what jg.validate(market) says."
        )
    first = np.flatnonzero(bad)
    more = f" and {len(first) - 5} more" if len(first) > 5 else ""
    raise ValueError(
        f"{caller}: scenarios {', '.join(map(str, first[:5]))}{more} did not clear ({word}), so "
        "they have no prices to pay; keep the others, "
        "jg.scenarios.lane((markets, clearings), clearings.ok)."
    )


@for_each
def bills(market: Market, plan: Plan, prices: Rows) -> Bills:
    """`settle` for any plan and prices."""
    ts, grid = counted(market), market.grid
    price = grid_price(market, aggregate(market, plan))
    scarce = prices.aggregate + prices.exchange
    net = net_load(market, plan)
    share = toll(market) / 2 * jnp.abs(plan.trades)
    paid = ts * settled_prices(market, prices) * plan.trades
    s = net_exchange(market, plan)
    caps = cap_money(market, plan, prices)
    outflow, _ = left(grid, plan.active, plan.reactive)
    people = market.prosumers
    drawn = with_draws(market, grid.passive, plan, people.load, net)
    adders = ts * (people.import_adder * plan.imports - people.export_adder * plan.exports)
    return Bills(
        main_grid=ts * (price * plan.imports - market.tariff.export * plan.exports),
        adders=adders,
        peers=bought(market, paid),
        tolls=by_side(market, share),
        capacity=ts * scarce * (plan.imports - plan.exports),
        congestion=asked_at_buses(market, ts * prices.bus, plan, net),
        caps=caps.paid,
        charges=caps.charges,
        trades=paid,
        passive_main_grid=ts * price * grid.passive,
        passive_capacity=ts * scarce * grid.passive,
        passive_congestion=ts * prices.bus * grid.passive,
        passive_caps=caps.passive,
        sales=ts
        * (price * aggregate(market, plan) - market.tariff.export * jnp.sum(plan.exports, axis=0)),
        fees=jnp.sum(adders, axis=0),
        levies=caps.levies,
        receipts=ts * (scarce * s + jnp.sum(prices.bus * drawn, axis=0))
        + 2 * jnp.sum(share, axis=0)
        + caps.receipts,
        rent=ts * (prices.aggregate * s - jnp.sum(prices.bus * outflow, axis=0))
        + 2 * jnp.sum(share, axis=0)
        + caps.rent,
    )


class CapMoney(Record):
    """What is paid for caps, EUR by hour: the parts of `Bills` that they make."""

    paid: Float[Array, "N H"]
    charges: Float[Array, "N H"]
    passive: Float[Array, " H"]
    levies: Float[Array, " H"]
    receipts: Float[Array, " H"]
    rent: Float[Array, " H"]


def cap_money(market: Market, plan: Plan, prices: Rows) -> CapMoney:
    """Who pays whom for caps: members and passive consumers the owner, the owner for its rise."""
    none = jnp.zeros_like(market.prosumers.load)
    if prices.cap is None or plan.rise is None or plan.level is None or plan.spare is None:
        return CapMoney(none, none, *[jnp.sum(none, axis=0)] * 4)
    caps, nobody = market.caps, market.caps.owner[:, None] < 0
    paid = shares_of_caps(market, plan, prices)
    price = market.weight * prices.cap
    base = price * caps.base
    received = price * members(market, plan) + base
    rises = market.weight * caps.price[:, None] * plan.rise

    def owned(values: Array) -> Array:
        kept = jnp.where(nobody, 0.0, values)
        return none.at[jnp.maximum(caps.owner, 0)].add(kept)

    def unowned(values: Array) -> Array:
        return jnp.sum(jnp.where(nobody, values, 0.0), axis=0)

    summed = jnp.where(caps.adds[:, None] > 0, plan.rise, plan.level) - plan.spare
    return CapMoney(
        paid=paid - owned(received),
        charges=owned(rises),
        passive=jnp.sum(base, axis=0),
        levies=jnp.sum(rises, axis=0),
        receipts=unowned(received - rises),
        rent=unowned(price * summed - rises),
    )


def shares_of_caps(market: Market, plan: Plan, prices: Rows) -> Float[Array, "N H"]:
    """What each prosumer's part in the sums of caps comes to at their prices, EUR by hour."""
    if prices.cap is None:
        return jnp.zeros_like(market.prosumers.load)
    asked = shared_out(market, market.weight * prices.cap)
    units, stores = market.generators, market.buffers
    moved = asked["charge"] * plan.charge + asked["discharge"] * plan.discharge
    return (
        asked["imports"] * plan.imports
        + asked["exports"] * plan.exports
        + by_owner(market, asked["generation"] * plan.generation, units.owner)
        + by_owner(market, moved, stores.owner)
    )


def price_parts(market: Market, clearing: Clearing) -> PriceParts:
    """What energy costs at each bus and hour, and why (EUR/kWh); and what pairs trade at.

    With mu_pb the price of a bus, nu that of a line's voltage drop and rho that of its rating, a
    flow's optimality reads mu_pb_z - mu_pb_y = (what nu makes of it) + (what rho does), so that the
    parts are sums along the path from the feeder; what stands between phases has shares of theirs,
    and of what voltages make of reactive power. Their total is p0 + d_mg sigma + lambda + mu_tg +
    mu_pb for any prices, and the same on every gauge.

    Of a batch the parts have its leading axis. Raises `ValueError` for a grid that is not radial:
    with loops there is no one path; and for a clearing without prices, as `settle` does.
    """
    priced("price_parts", clearing)
    if market.grid.model.networked:
        radial("price_parts", market)
    return _price_parts(market, clearing.plan, clearing.prices)


@for_each
def _price_parts(market: Market, plan: Plan, prices: Rows) -> PriceParts:
    """`price_parts` of a radial grid."""
    grid = market.grid
    scarce = prices.aggregate + prices.exchange
    nothing = jnp.zeros_like(prices.bus)
    limit, lines, voltage = nothing + scarce, nothing, nothing
    if grid.model.networked:
        tree = forest(grid)
        drops = replace(rows_like(market), voltage=prices.voltage, angle=prices.angle)
        pulled, along = pull(market, drops), tree.ladder.along
        each = jnp.where(tree.outward[:, None], 1, -1) / counted(market)
        lean = (each * pulled.active, each * pulled.reactive)  # of both powers
        fed = along(nothing.at[grid.feeder].set(prices.bus[grid.feeder]))
        limit += fed
        voltage, turned = (along(nothing.at[tree.far].set(part)) for part in lean)
        if has_terminals(grid):  # what a kW there takes of phases, and a kvar of them
            ends = grid.target[grid.terminal]
            less, _ = across(grid, voltage, turned)  # that of phases less that of terminals
            voltage += along(nothing.at[ends].set((less + lean[0])[grid.terminal]))
        lines = prices.bus - fed - voltage
    return PriceParts(
        energy=grid_price(market, aggregate(market, plan)),
        limit=limit,
        lines=lines,
        voltage=voltage,
        trade=settled_prices(market, prices),
        toll=market.trading.toll,
        network=network_prices(market, prices),
        caps=cap_prices(market, prices),
        adder=market.prosumers.import_adder,
    )


@for_each
def cap_prices(market: Market, prices: Rows) -> Float[Array, "N H"]:
    """What caps add to a kWh that each prosumer buys of the main grid, EUR/kWh."""
    if prices.cap is None:
        return jnp.zeros_like(prices.balance)
    return shared_out(market, prices.cap)["imports"] / market.hour_length


@for_each
def settled_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """(pi_i + pi_j) / 2, at which pairs settle, EUR/kWh."""
    return (prices.balance[market.trading.buyer] + prices.balance[market.trading.seller]) / 2


@for_each
def network_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """What the operator asks more at the buyer's bus than at the seller's, EUR/kWh."""
    pairs, at = market.trading, prices.bus[market.prosumers.bus]
    return at[pairs.buyer] - at[pairs.seller]
