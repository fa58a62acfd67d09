"""Who pays whom for a plan at its prices, and what a price is made of (model.md: Money).

Trades settle at (pi_i + pi_j) / 2, the same for both sides. Beside its energy everyone pays the
operator for what it takes of limits that all share: the total exchange, lines, voltages and caps,
the last to their owner where they have one. Lines and voltages have prices of active and of
reactive power; about an AC state these carry losses, which the operator buys. The anticipated
effect on the main grid's price and the preferences of `Trading.fee_buyer`, `fee_seller` and
`reluctance` are no cash.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .arguments import bound, check_tables, of_tables
from .cap_money import cap_money, counts_carbon, prices_of
from .devices._inverter import settled_at
from .each import for_each
from .incidence import across, has_terminals, left
from .market import Market
from .model import (
    Plan,
    Rows,
    agreed_price,
    asked_at_buses,
    at_passive,
    at_prosumers,
    bought,
    by_owner,
    counted,
    grid_price,
    mean_price,
    net_exchange,
    net_load,
    offers,
    passive_prices,
    pull,
    rows_like,
    shared_out,
    sides,
    zone_totals,
)
from .radial import forest, radial
from .record import Record
from .result import Clearing
from .runner import jnp
from .status import Status, is_status
from .tables import has_zones

P = ParamSpec("P")
T = TypeVar("T")

_UNPRICED = ("infeasible", "nonfinite")


class Bills(Record):
    """What everyone pays, EUR by hour; negative where they are paid.

    Prosumers: to the main grid (less what it pays for exports), what their own contracts add to
    that (`adders`, which whoever asks them receives as `fees`), to each other, the network's
    `tolls` on trades, `capacity` for the limit on the total exchange, `congestion` for the network
    where they and their devices draw and `reactive` for reactive power at their bus. Who has an
    inverter settles at the bus that this is connected to, and is paid for the reactive power that
    it makes. `trades` is what the buyer of each pair pays its seller. Passive consumers: by bus.
    `losses` are the operator's, of a market about an AC state (`clear_ac`). Members of caps pay
    `caps` to the owner of each, less what they receive for caps of their own, or to the operator
    where nobody owns it, and `carbon` for those that count that; who owns a cap pays `charges` for
    its rise, the operator for those of nobody's, and whoever asks that price receives `levies`.
    """

    main_grid: Float[Array, "N H"]
    adders: Float[Array, "N H"]
    peers: Float[Array, "N H"]
    tolls: Float[Array, "N H"]
    capacity: Float[Array, "N H"]
    congestion: Float[Array, "N H"]
    reactive: Float[Array, "N H"]
    caps: Float[Array, "N H"]
    carbon: Float[Array, "N H"]
    charges: Float[Array, "N H"]
    trades: Float[Array, "E H"]
    passive_main_grid: Float[Array, "B H"]
    passive_capacity: Float[Array, "B H"]
    passive_congestion: Float[Array, "B H"]
    passive_reactive: Float[Array, "B H"]
    passive_caps: Float[Array, " H"]  # for what `Caps.base` counts, of all buses together
    passive_carbon: Float[Array, " H"]  # likewise
    sales: Float[Array, " H"]  # what the main grid receives
    losses: Float[Array, " H"]  # what the operator pays of that, about an AC state
    fees: Float[Array, " H"]  # what own contracts add to that, to whoever asks it
    levies: Float[Array, " H"]  # what is paid for rises of caps, to whoever asks their price
    receipts: Float[Array, " H"]  # what the operator receives
    rent: Float[Array, " H"]  # what limits and tariff are worth: receipts less losses, in the end

    @property
    def prosumers(self) -> Float[Array, "N H"]:
        """All that each prosumer pays."""
        own = self.main_grid + self.peers + self.tolls + self.capacity + self.congestion
        return own + self.reactive + self.caps + self.carbon + self.charges + self.adders

    @property
    def passive(self) -> Float[Array, "B H"]:
        """All that the passive consumers at each bus pay, but for caps and carbon."""
        network = self.passive_congestion + self.passive_reactive
        return self.passive_main_grid + self.passive_capacity + network


class PriceParts(Record):
    """What energy at a bus costs, EUR/kWh: the sum of five parts; and at which price pairs trade.

    `energy` is the main grid's price, `limit` the scarcity of the total exchange, `lines` and
    `voltage` what full lines and voltages at their limits on the way from the feeder add. `losses`
    is what lines lose more for a kWh there, with what else the AC state adds to the derivatives of
    its linear model, about one; 0 else. Caps are
    paid beside it by their members: `caps` is what they add to what each buys of the main grid,
    `carbon` what those do that count it, and `adder` what its own contract does.
    """

    energy: Float[Array, " H"] | Float[Array, "B H"]  # by bus where there are zones
    limit: Float[Array, "B H"]
    lines: Float[Array, "B H"]
    voltage: Float[Array, "B H"]
    losses: Float[Array, "B H"]
    trade: Float[Array, "E H"]  # (pi_i + pi_j) / 2, between buyer and seller
    toll: Float[Array, "E #H"]  # c_ta, paid by each of them
    network: Float[Array, "E H"]  # what the operator asks more at the buyer's bus than the seller's
    caps: Float[Array, "N H"]  # on imports of each prosumer, beside the total
    carbon: Float[Array, "N H"]  # likewise
    adder: Float[Array, "N #H"]  # likewise

    @property
    def total(self) -> Float[Array, "B H"]:
        """What passive consumers pay, and prosumers for what they draw from the main grid.

        Prosumers with an inverter pay that of the bus before it.
        """
        return self.energy + self.limit + self.lines + self.voltage + self.losses


def for_each_priced(function: Callable[P, T]) -> Callable[P, T]:
    """`for_each` for a function of market and clearing that needs prices."""
    each, signature = for_each(function), inspect.signature(function)

    @wraps(function)
    def run(*given: P.args, **options: P.kwargs) -> T:
        arguments = bound(function, signature, given, options).arguments
        check_tables(function, arguments)
        priced(function.__name__, arguments["clearing"])
        return each(*given, **options)

    return run


@for_each_priced
def settle(market: Market, clearing: Clearing) -> Bills:
    """Who pays whom, per prosumer, pair, bus and hour, EUR (model.md: Money).

    For any plan and prices, whatever the gauge, payments and receipts cancel: what all pay and the
    operator's `losses` are `sales`, `receipts`, `fees` and `levies`. At an equilibrium the
    operator's receipts less the losses it buys equal its rent to the certificate's tolerance:

        rent = Ts (sum_y mu_pb_y inflow_y + sum_y mu_qb_y (inflow of reactive power + q_co)_y
                   + lambda s + 2 sum_e c_ta |t_e|)

    less what losses are worth where they are, and what limits on levels of caps are worth
    (model.md: Money). That is what limits on lines, voltages and the total are worth.

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
    ts, people = counted(market), market.prosumers
    price, offered = grid_price(market, zone_totals(market, plan)), offers(market)
    asked, at_bus = at_prosumers(market, price), at_passive(market, price)
    scarce = prices.aggregate + prices.exchange
    share = ts * market.trading.toll * jnp.abs(plan.trades)
    buyer, seller = (side[:, None] * share for side in sides(market))
    paid = ts * settled_prices(market, prices) * plan.trades
    caps, network = cap_money(market, plan, prices), network_money(market, plan, prices)
    passive, lost = market.grid.consumed[0], network.lost
    adders = ts * (people.import_adder * plan.imports - people.export_adder * plan.exports)
    kept = 2 * jnp.sum(share, axis=0)
    s = net_exchange(market, plan)
    burnt = ts * _hourly(at_bus * lost_at(market))
    return Bills(
        main_grid=ts * (asked * plan.imports - offered * plan.exports),
        adders=adders,
        peers=bought(market, paid),
        tolls=by_owner(market, buyer, market.trading.buyer)
        + by_owner(market, seller, market.trading.seller),
        capacity=ts * scarce * (plan.imports - plan.exports),
        congestion=network.active,
        reactive=network.reactive,
        caps=caps.paid,
        carbon=caps.carbon,
        charges=caps.charges,
        trades=paid,
        passive_main_grid=ts * at_bus * passive,
        passive_capacity=ts * scarce * passive,
        passive_congestion=network.passive,
        passive_reactive=network.passive_reactive,
        passive_caps=caps.passive,
        passive_carbon=caps.passive_carbon,
        sales=ts * (_hourly(price * zone_totals(market, plan)) - _hourly(offered * plan.exports)),
        losses=burnt,
        fees=jnp.sum(adders, axis=0),
        levies=caps.levies,
        receipts=ts * scarce * (s - lost) + network.receipts + kept + caps.receipts,
        rent=ts * (prices.aggregate * s - scarce * lost) - burnt + network.rent + kept + caps.rent,
    )


def _hourly(each: Array) -> Float[Array, " H"]:
    return jnp.sum(each, axis=0)


class NetworkMoney(Record):
    """What is paid for power at buses, EUR by hour: the parts of `Bills` that it makes."""

    active: Float[Array, "N H"]
    reactive: Float[Array, "N H"]
    passive: Float[Array, "B H"]
    passive_reactive: Float[Array, "B H"]
    lost: Float[Array, " H"]  # kW of all lines that the operator buys
    receipts: Float[Array, " H"]
    rent: Float[Array, " H"]


def lost_at(market: Market) -> Float[Array, "B H"]:
    """The losses that the operator buys, by the bus whose balance has them, kW."""
    about = market.grid.tangent
    return jnp.zeros_like(market.grid.passive) if about is None else about.losses


def reactive_drawn(market: Market, plan: Plan) -> Float[Array, "N H"]:
    """The kvar that each prosumer pays for, less what an inverter of its own makes."""
    return market.prosumers.reactive - _owned(market, plan)[market.prosumers.bus]


def _owned(market: Market, plan: Plan) -> Float[Array, "B H"]:
    """What prosumers' inverters make at the buses that these have to themselves, kvar."""
    home = settled_at(market)
    owned = (home != jnp.arange(home.shape[0]))[:, None]
    return jnp.where(owned, plan.compensation, 0.0)


def network_money(market: Market, plan: Plan, prices: Rows) -> NetworkMoney:
    """Who pays for active and reactive power at buses; inverters are their owners'."""
    ts, grid, bus = counted(market), market.grid, market.prosumers.bus
    home = settled_at(market)
    mu, nu = ts * prices.bus[home], ts * prices.bus_reactive[home]
    by_active = asked_at_buses(market, mu, plan, net_load(market, plan))
    by_reactive = nu[bus] * reactive_drawn(market, plan)
    passive, passive_reactive = grid.consumed
    passive, passive_reactive = mu * passive, nu * passive_reactive
    parts = (by_active, by_reactive, passive, passive_reactive)
    rent = nu * (plan.compensation - _owned(market, plan))
    for price, out in zip((mu, nu), left(grid, plan.active, plan.reactive), strict=True):
        rent = rent - price * out
    lost = _hourly(lost_at(market))
    if grid.tangent is not None:
        rent = rent - mu * grid.tangent.losses - nu * grid.tangent.losses_reactive
    return NetworkMoney(
        *parts,
        lost=lost,
        receipts=sum((jnp.sum(part, axis=0) for part in parts), 0 * ts),
        rent=jnp.sum(rent, axis=0),
    )


@of_tables
def price_parts(market: Market, clearing: Clearing) -> PriceParts:
    """What energy costs at each bus and hour, and why (EUR/kWh); and what pairs trade at.

    With mu_pb the price of a bus, nu that of a line's voltage drop and rho that of its rating, a
    flow's optimality reads mu_pb_z - mu_pb_y = (what nu makes of it) + (what rho does), about an AC
    state + (what losses do), so that the parts are sums along the path from the feeder; what stands
    between phases has shares of theirs, and of what voltages make of reactive power. Their total is
    p0 + d_mg sigma + lambda + mu_tg + mu_pb for any prices, and the same on every gauge.

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
    limit, lines, voltage, losses = nothing + scarce, nothing, nothing, nothing
    if grid.model.networked:
        tree = forest(grid)
        drops = replace(rows_like(market), voltage=prices.voltage, angle=prices.angle)
        pulled, along = pull(market, drops), tree.ladder.along
        way = jnp.where(tree.outward[:, None], 1, -1)

        def ahead(by_active: Array, by_reactive: Array) -> Array:
            """What lines make of the price of active power, from the feeder on."""
            each = (way * by_active, way * by_reactive)
            found, turned = (along(nothing.at[tree.far].set(part)) for part in each)
            if has_terminals(grid):  # what a kW there takes of phases, and a kvar of them
                ends = grid.target[grid.terminal]
                less, _ = across(grid, found, turned)  # that of phases less that of terminals
                found += along(nothing.at[ends].set((less + each[0])[grid.terminal]))
            return found

        fed = along(nothing.at[grid.feeder].set(prices.bus[grid.feeder]))
        limit += fed
        ts, about = counted(market), grid.tangent
        voltage = ahead(pulled.active / ts, pulled.reactive / ts)
        if about is not None:
            losses = ahead(about.active, about.reactive)
        lines = prices.bus - fed - voltage - losses
    return PriceParts(
        energy=passive_prices(market, plan) if has_zones(market) else mean_price(market, plan),
        limit=limit,
        lines=lines,
        voltage=voltage,
        losses=losses,
        trade=settled_prices(market, prices),
        toll=market.trading.toll,
        network=network_prices(market, prices),
        caps=cap_prices(market, prices) - carbon_prices(market, prices),
        carbon=carbon_prices(market, prices),
        adder=market.prosumers.import_adder,
    )


@for_each
def cap_prices(market: Market, prices: Rows) -> Float[Array, "N H"]:
    """What caps add to a kWh that each prosumer buys of the main grid, EUR/kWh."""
    if prices.cap is None:
        return jnp.zeros_like(prices.balance)
    return shared_out(market, prices.cap)["imports"] / market.hour_length


@for_each
def carbon_prices(market: Market, prices: Rows) -> Float[Array, "N H"]:
    """What those of them do that count carbon, EUR/kWh."""
    if prices.cap is None:
        return jnp.zeros_like(prices.balance)
    return cap_prices(market, prices_of(prices, counts_carbon(market)))


@for_each
def settled_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """(pi_i + pi_j) / 2, at which pairs settle, EUR/kWh; of what is committed the expected one.

    Where one of the two is no party (`model.parties`), as a pool is, it is the price of that one.
    """
    pairs = market.trading
    buyer, seller = (side[:, None] for side in sides(market))
    own = prices.balance
    found = (seller * own[pairs.buyer] + buyer * own[pairs.seller]) / 2
    return found if market.committed is None else agreed_price(market, found)


@for_each
def network_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """What the operator asks more at the buyer's bus than at the seller's, EUR/kWh."""
    pairs, at = market.trading, prices.bus[market.prosumers.bus]
    return at[pairs.buyer] - at[pairs.seller]
