"""The paper's mechanism: semi-decentralized, preconditioned proximal point (MODEL 9).

Sources: Belgioioso, Ananduta, Grammatico, Ocampo-Martinez, IEEE Trans. Smart Grid 13(4), 2022
(Algorithm 1); Ananduta, Grammatico, Games 13(5):66, 2022 (Algorithms 1-3). One round: prosumers
answer prices at the held total import, neighbors move the price of their trade, the operator
projects its state and moves the prices of its rows. Each side keeps its own copy of a trade.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..market import Market
from ..model import (
    Plan,
    Rows,
    aggregate,
    boxes,
    by_owner,
    curvature,
    drop_factor,
    grid_price,
    own_gradient,
    prox,
    pull,
    rows_like,
    trade_prices,
    zeros,
)
from ..model import rows as constraint_rows
from ..optimality import scales
from .base import AbstractSolver
from .local import Choice, Network, Prosumer, best_response, project_network

_MARGIN = 0.99  # how close step sizes go to their bounds
_LOOSE = 1e-3  # proximal weight of stored energy, per hour^2, against that of powers


class Slots(eqx.Module):
    """Where each item (device, or side of a pair) sits in its owner's padded row of slots."""

    owner: Int[Array, " I"]
    place: Int[Array, " I"]
    item: Int[Array, "N S"]  # I where the slot is empty

    def pad(self, values: Float[Array, "I ..."], empty: float = 0.0) -> Float[Array, "N S ..."]:
        """Values of items, slot by slot."""
        filler = jnp.full((1, *values.shape[1:]), empty, values.dtype)
        return jnp.concatenate([values, filler])[self.item]

    def take(self, padded: Float[Array, "N S ..."]) -> Float[Array, "I ..."]:
        """Values of slots, item by item."""
        return padded[self.owner, self.place]


class Point(eqx.Module):
    """What the mechanism iterates on: everyone's decisions and the shared multipliers."""

    choices: Choice  # leading axis N
    network: Float[Array, "V H"]  # active, reactive flows, voltages, angles
    exchange: Float[Array, "F H"]  # kW
    trade: Float[Array, "E H"]  # mu_tr, EUR/kWh
    above: Float[Array, " H"]  # lambda_max, EUR/kWh
    below: Float[Array, " H"]  # lambda_min, EUR/kWh
    bus: Float[Array, "B H"]  # mu_pb, EUR/kWh
    exchange_price: Float[Array, " H"]  # mu_tg, EUR/kWh


class Steps(eqx.Module):
    """Step sizes (MODEL 9): alpha in kW^2/EUR, the others in EUR/kWh per kW."""

    alpha: Float[Array, ""]
    trade: Float[Array, ""]
    limit: Float[Array, " H"]
    exchange: Float[Array, " H"]
    bus: Float[Array, " B"]


class Setting(eqx.Module):
    """What stays the same from round to round."""

    prosumers: Prosumer  # leading axis N
    generators: Slots
    buffers: Slots
    sides: Slots  # of pairs: all buyers, then all sellers
    network: Network  # offset with trailing axis H
    steps: Steps


class State(eqx.Module):
    """The mechanism between two rounds."""

    now: Point
    before: Point  # one round ago, for the inertial variant
    image: Point  # what the last round answered: inside all private sets
    private: Float[Array, "N 1+K H"]  # own energy values (times Ts) and water values
    rows: Float[Array, "R H"]  # multipliers of the operator's private rows (times Ts)
    setting: Setting


class SemiDecentralized(AbstractSolver):
    """The paper's mechanism; `relaxation` and `inertia` are the follow-up's variants.

    `balance` (omega, EUR/kWh per kW) weighs dual against primal steps; the default is the market's
    own price per power. `relaxation` in (1, 2) stretches each round, `inertia` in (0, 1/3) starts
    it from an extrapolated point; 1 and 0 are the basic mechanism. The last three are the number of
    slots a prosumer has for generators, buffers and trading pairs; `prepare` reads them off a
    market, without them every prosumer has room for all.
    """

    balance: float | Array | None = None
    relaxation: float | Array = 1.0
    inertia: float | Array = 0.0
    generators: int | None = eqx.field(default=None, static=True)
    buffers: int | None = eqx.field(default=None, static=True)
    pairs: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        for name, low, high in (("relaxation", 1.0, 2.0), ("inertia", 0.0, 1 / 3)):
            value = getattr(self, name)
            if isinstance(value, float | int) and not low <= value < high:
                raise ValueError(
                    f"SemiDecentralized.{name}: {value} is outside [{low:.3g}, {high:.3g})."
                )
        if isinstance(self.balance, float | int) and not self.balance > 0:
            raise ValueError(f"SemiDecentralized.balance: {self.balance} is not positive.")

    def prepare(self, market: Market) -> "SemiDecentralized":
        """With as many slots as the market's busiest prosumer needs."""
        pairs = market.trading
        owners = (market.generators.owner, market.buffers.owner)
        if any(isinstance(a, jax.core.Tracer) for a in (*owners, pairs.buyer, pairs.seller)):
            return self
        sides = np.concatenate([pairs.buyer, pairs.seller], axis=-1)
        most = [_busiest(np.asarray(a)) for a in (*owners, sides)]
        return replace(self, generators=most[0], buffers=most[1], pairs=most[2])

    def init(self, market: Market, plan: Plan, prices: Rows) -> State:
        """Start from a plan and prices."""
        setting = _setting(market, self)
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        start = Point(
            choices=choices_of(setting, plan, jnp.concatenate([plan.trades, -plan.trades])),
            network=jnp.concatenate([plan.active, plan.reactive, plan.voltage, plan.angle]),
            exchange=plan.exchange,
            trade=trade_prices(market, prices),
            above=jnp.maximum(prices.aggregate, 0.0),
            below=jnp.maximum(-prices.aggregate, 0.0),
            bus=prices.bus,
            exchange_price=prices.exchange,
        )
        ts = market.hour_length
        own, water = prices.balance[:, None], setting.buffers.pad(prices.energy)
        private = jnp.concatenate([ts * own, water], axis=1)
        names = _private_rows(market)
        rows = jnp.concatenate([start.bus[:0], *(ts * getattr(prices, name) for name in names)])
        return State(start, start, start, private, rows, setting)

    def step(self, market: Market, state: State) -> State:
        """One round, from an extrapolated point (inertia), stretched (over-relaxation)."""
        start = jax.tree.map(
            lambda now, before: now + self.inertia * (now - before), state.now, state.before
        )
        image, private, rows = play_round(market, state.setting, start, state.private, state.rows)
        now = jax.tree.map(lambda old, new: old + self.relaxation * (new - old), start, image)
        return State(now, state.now, image, private, rows, state.setting)

    def point(self, market: Market, state: State) -> tuple[Plan, Rows]:
        """The last round's answer: the mean of both sides' copies of each trade, all prices."""
        at, setting, ts = state.image, state.setting, market.hour_length
        prices = replace(
            _operator_prices(market, state.rows / ts),
            balance=state.private[:, 0] / ts,
            energy=setting.buffers.take(state.private[:, 1:]),
            aggregate=at.above - at.below,
            bus=at.bus,
            exchange=at.exchange_price,
        )
        return plan_of(market, setting, at), prices


def play_round(
    market: Market,
    setting: Setting,
    start: Point,
    private: Float[Array, "N 1+K H"],
    rows: Float[Array, "R H"],
) -> tuple[Point, Float[Array, "N 1+K H"], Float[Array, "R H"]]:
    """One round of the mechanism from a point (the follow-up, Algorithm 1; MODEL 9).

    `private` and `rows` warm-start the local programs; both come back solved.
    """
    steps, tariff = setting.steps, market.tariff
    priced, trade_priced = quote(market, setting, start)
    # 1. every prosumer answers prices at the held total import
    answers = jax.vmap(best_response)(
        setting.prosumers,
        choices_of(setting, priced, trade_priced),
        start.choices,
        private,
    )
    new = replace(start, choices=answers.answer)
    # 2. neighbors exchange what they want to trade and move its price
    gap, gap_before = mismatch(setting, new), mismatch(setting, start)
    new = replace(new, trade=move_price(start.trade, steps.trade, gap, gap_before))
    # 3. the operator projects its own state and moves the prices of the shared rows
    if market.grid.model != "copperplate":
        network, exchange, rows = operate(setting, priced, start, rows)
        new = replace(new, network=network, exchange=exchange)
    now, before = (constraint_rows(market, plan_of(market, setting, at)) for at in (new, start))
    s, s_before = now.aggregate, before.aggregate
    above = (s - tariff.total_max, s_before - tariff.total_max)
    below = (tariff.total_min - s, tariff.total_min - s_before)
    new = replace(
        new,
        above=move_limit(start.above, steps.limit, *above),
        below=move_limit(start.below, steps.limit, *below),
    )
    if market.grid.model != "copperplate":
        new = replace(
            new,
            bus=move_price(start.bus, steps.bus[:, None], now.bus, before.bus),
            exchange_price=move_price(
                start.exchange_price, steps.exchange, now.exchange, before.exchange
            ),
        )
    return new, answers.duals, rows


def move_price(price: Array, step: Array, now: Array, before: Array) -> Array:
    """Reflected dual step of a row that must be 0: price + step (2 now - before)."""
    return price + step * (2 * now - before)


def move_limit(price: Array, step: Array, now: Array, before: Array) -> Array:
    """Reflected dual step of a row that must not exceed 0: its price stays nonnegative."""
    return jnp.maximum(price + step * (2 * now - before), 0.0)


def quote(market: Market, setting: Setting, at: Point) -> tuple[Plan, Float[Array, "2E H"]]:
    """What each decision costs its player at a point's prices, its own curvature apart, EUR/kW.

    Trades come apart, once for each side: all buyers, then all sellers (MODEL 9.1).
    """
    shared = replace(
        rows_like(market), aggregate=at.above - at.below, bus=at.bus, exchange=at.exchange_price
    )
    sigma = aggregate(market, plan_of(market, setting, at))
    own = own_gradient(market, zeros(market), grid_price(market, sigma))
    priced = jax.tree.map(jnp.add, own, pull(market, shared))
    pairs = market.trading
    fees = jnp.concatenate([pairs.fee_buyer, pairs.fee_seller])[:, None]
    return priced, market.hour_length * (fees + jnp.concatenate([at.trade, at.trade]))


def operate(
    setting: Setting, priced: Plan, start: Point, rows: Float[Array, "R H"]
) -> tuple[Float[Array, "V H"], Float[Array, "F H"], Float[Array, "R H"]]:
    """The operator's projected step: its state, exchange with the main grid, private prices."""
    alpha, network = setting.steps.alpha, setting.network
    wish = start.network.at[: priced.active.shape[0]].add(-alpha * priced.active)
    axes = replace(jax.tree.map(lambda _: None, network), offset=1)
    found = jax.vmap(project_network, in_axes=(axes, 1, 1))(network, wish, rows)
    exchange = start.exchange - alpha * priced.exchange
    return found.answer.T, exchange, found.duals.T


def mismatch(setting: Setting, at: Point) -> Float[Array, "E H"]:
    """What both sides of each pair want to buy together, kW: 0 once they agree."""
    buyer, seller = jnp.split(setting.sides.take(at.choices.trades), 2)
    return buyer + seller


def paper_residual(market: Market, before: State, after: State) -> Float[Array, ""]:
    """The residual the authors stop at (1e-2 kW in their runs): the largest of

    reciprocity, bus balance and exchange after the round, and any entry's move in it, kW.
    """
    old, new, setting = before.now, after.now, after.setting
    value = constraint_rows(market, plan_of(market, setting, new))
    moved = jax.tree.leaves(
        jax.tree.map(
            lambda a, b: a - b,
            (new.choices, new.network, new.exchange),
            (old.choices, old.network, old.exchange),
        )
    )
    parts = (mismatch(setting, new), value.bus, value.exchange, *moved)
    return jnp.max(jnp.stack([jnp.max(jnp.abs(a), initial=0.0) for a in parts]))


def plan_of(market: Market, setting: Setting, at: Point) -> Plan:
    """A point's plan; of both copies of a trade the mean."""
    lines, buses = market.grid.source.shape[0], market.grid.passive.shape[0]
    buyer, seller = jnp.split(setting.sides.take(at.choices.trades), 2)
    active, reactive, voltage, angle = jnp.split(at.network, (lines, 2 * lines, 2 * lines + buses))
    return Plan(
        generation=setting.generators.take(at.choices.generation),
        charge=setting.buffers.take(at.choices.charge),
        discharge=setting.buffers.take(at.choices.discharge),
        energy=setting.buffers.take(at.choices.energy),
        imports=at.choices.imports,
        exports=at.choices.exports,
        curtailed=at.choices.curtailed,
        trades=(buyer - seller) / 2,
        active=active,
        reactive=reactive,
        voltage=voltage,
        angle=angle,
        exchange=at.exchange,
    )


def choices_of(setting: Setting, plan: Plan, sides: Float[Array, "2E H"]) -> Choice:
    """A plan's entries prosumer by prosumer, in slots; `sides` are trades seen from each side."""
    return Choice(
        generation=setting.generators.pad(plan.generation),
        charge=setting.buffers.pad(plan.charge),
        discharge=setting.buffers.pad(plan.discharge),
        energy=setting.buffers.pad(plan.energy),
        imports=plan.imports,
        exports=plan.exports,
        curtailed=plan.curtailed,
        trades=setting.sides.pad(sides),
    )


def step_sizes(market: Market, balance: Float[Array, ""]) -> Steps:
    """Step sizes from the paper's rule, derived from row and column sums (MODEL 9).

    With A the shared rows over everybody's decisions (entries 0 or 1 in size) and d the slope of
    the main grid's price, one round is a proximal point step in the metric

        [ 1/alpha - Ts d 1 1^T (imports)    -A^T    ]
        [ -A                                1/beta  ]

    which is positive definite if 1/alpha - N Ts d >= 3 omega Ts =: w (no decision enters more than
    3 rows: imports and exports both aggregate limits and the exchange) and every row's 1/beta
    exceeds the sum over its entries of (rows that the decision enters) / w. That gives, times omega
    each: 1/2 for a pair, 1 / (imports + exports) for a limit, 1 / (imports + exports + buses) for
    the exchange, and 1 / (1 + max(2 N_y, M_y / 3) + B_y) for bus y with its N_y prosumers, M_y
    device decisions and B_y lines. Decisions and shared rows only: private ones need no step.
    """
    grid, ts, dtype = market.grid, market.hour_length, market.prosumers.load.dtype
    lower, upper = boxes(market)
    live = jax.tree.map(lambda low, high: (high > low).astype(dtype), lower, upper)
    count = jnp.asarray(market.prosumers.bus.shape[0], dtype)
    traders = count + jnp.sum(live.exports, axis=0)
    devices = (
        by_owner(market, live.generation, market.generators.owner)
        + by_owner(market, live.charge + live.discharge, market.buffers.owner)
        + live.curtailed
    )
    nothing = jnp.zeros_like(grid.voltage_min)
    home = market.prosumers.bus
    prosumers = nothing.at[home].add(1.0)
    decisions = nothing.at[home].add(jnp.max(devices, axis=1))
    lines = nothing.at[grid.source].add(1.0).at[grid.target].add(1.0)
    rule = 1 + jnp.maximum(2 * prosumers, decisions / 3) + lines
    slope = jnp.max(market.tariff.slope)
    return Steps(
        alpha=_MARGIN / (ts * (3 * balance + count * slope)),
        trade=_MARGIN * balance / 2,
        limit=_MARGIN * balance / traders,
        exchange=_MARGIN * balance / (traders + nothing.shape[0]),
        bus=_MARGIN * balance / rule,
    )


def _busiest(owner: np.ndarray) -> int:
    """Most entries that one owner has, in any scenario."""
    rows = owner.reshape(-1, owner.shape[-1]) if owner.size else owner.reshape(0, 0)
    return max((int(np.bincount(row).max()) for row in rows), default=0)


def _slots(owner: Int[Array, " I"], count: int, size: int) -> Slots:
    """Give each item of `count` owners a place among its owner's items."""
    items = owner.shape[0]
    order = jnp.argsort(owner, stable=True)
    ranked = owner[order]
    place = jnp.arange(items) - jnp.searchsorted(ranked, ranked)
    place = jnp.zeros(items, jnp.int32).at[order].set(place.astype(jnp.int32))
    item = jnp.full((count, size), items, jnp.int32)
    return Slots(owner, place, item.at[owner, place].set(jnp.arange(items, dtype=jnp.int32)))


def _setting(market: Market, solver: SemiDecentralized) -> Setting:
    """Everything that rounds share, from the market and the solver's options."""
    pairs, stores, ts = market.trading, market.buffers, market.hour_length
    count, both = market.prosumers.bus.shape[0], 2 * pairs.buyer.shape[0]
    scale = scales(market, zeros(market))
    dtype = market.prosumers.load.dtype
    balance = scale.price / scale.power if solver.balance is None else solver.balance
    steps = step_sizes(market, jnp.asarray(balance, dtype))

    def slots(owner: Array, size: int | None, most: int) -> Slots:
        return _slots(owner, count, most if size is None else size)

    made = slots(market.generators.owner, solver.generators, market.generators.owner.shape[0])
    kept = slots(stores.owner, solver.buffers, stores.owner.shape[0])
    sides = jnp.concatenate([pairs.buyer, pairs.seller])
    traded = slots(sides, solver.pairs, min(both, max(count - 1, 0)))
    lower, upper = boxes(market)
    bend = curvature(market)
    toll = ts * jnp.concatenate([pairs.charge, pairs.charge])
    blank = Setting(None, made, kept, traded, None, steps)

    def padded(plan: Plan) -> Choice:
        return choices_of(blank, plan, jnp.concatenate([plan.trades, plan.trades]))

    low = padded(lower)
    weight = 1 / steps.alpha
    proximal = jax.tree.map(lambda a: jnp.full_like(a, weight), low)
    loose = weight * _LOOSE / ts**2
    prosumers = Prosumer(
        load=market.prosumers.load,
        lower=low,
        upper=padded(upper),
        curvature=padded(bend),
        proximal=replace(proximal, energy=jnp.full_like(low.energy, loose)),
        toll=traded.pad(toll),
        retention=kept.pad(stores.retention),
        into=kept.pad(ts * stores.charge_efficiency),
        out=kept.pad(ts / stores.discharge_efficiency),
        energy_start=kept.pad(stores.energy_start),
        drain=kept.pad(stores.drain),
        power_scale=jnp.full(count, scale.power, dtype),
        energy_scale=jnp.full(count, scale.energy, dtype),
    )
    return replace(blank, prosumers=prosumers, network=_network(market, lower, upper, weight))


def _private_rows(market: Market) -> tuple[str, ...]:
    """Names of the operator's private rows: its physics, as the grid model has it."""
    if market.grid.model == "copperplate":
        return ()
    angle = ("angle",) if market.grid.model == "paper" else ()
    return ("voltage", *angle, *(("bus_reactive",) if market.grid.reactive_balance else ()))


def _operator_prices(market: Market, values: Float[Array, "R H"]) -> Rows:
    """Prices of the operator's private rows, the others 0."""
    prices, start = rows_like(market), 0
    for name in _private_rows(market):
        size = getattr(prices, name).shape[0]
        prices = replace(prices, **{name: values[start : start + size]})
        start += size
    return prices


def _network(market: Market, lower: Plan, upper: Plan, weight: Array) -> Network:
    """The operator's private set; `offset` has a trailing axis of hours.

    Voltages and angles are weighed so lightly that only flows are held back by the proximal term.
    """
    grid, dtype = market.grid, market.prosumers.load.dtype
    names, empty = _private_rows(market), zeros(market)
    sizes = (empty.active, empty.reactive, empty.voltage, empty.angle)
    lines = grid.source.shape[0]

    def values(state: Float[Array, " V"]) -> Float[Array, " R"]:
        parts = jnp.split(state, np.cumsum([a.shape[0] for a in sizes])[:-1])
        spread = [part[:, None] + 0 * a for part, a in zip(parts, sizes, strict=True)]
        plan = replace(
            empty, **dict(zip(("active", "reactive", "voltage", "angle"), spread, strict=True))
        )
        found = constraint_rows(market, plan)
        found = replace(found, bus_reactive=found.bus_reactive.at[grid.feeder].set(0.0))
        return jnp.concatenate(
            [state[:0, None] * empty.imports[:1], *(getattr(found, n) for n in names)]
        )

    nothing = jnp.zeros(sum(a.shape[0] for a in sizes), dtype)
    matrix = jax.jacfwd(lambda z: values(z)[:, 0])(nothing)
    square = jnp.sum(grid.resistance**2 + grid.reactance**2)
    ease = 10 * jnp.where(square > 0, square, 1.0)
    buses = jnp.ones_like(grid.voltage_min)
    give = jnp.concatenate(
        [jnp.ones(2 * lines, dtype), drop_factor(market) ** 2 * ease * buses, ease * buses]
    )
    low, high = (
        jnp.concatenate([a.active, a.reactive, a.voltage, a.angle])[:, 0] for a in (lower, upper)
    )
    free = jnp.where(high > low, give / weight, 0.0)
    with jax.enable_x64(True):
        wide = matrix.astype(jnp.float64)
        full = (wide * free) @ wide.T
        full += jnp.diag(jnp.where(jnp.diag(full) > 0, 0.0, 1.0))
        size = jnp.sqrt(jnp.diag(full))
        inverse = jnp.linalg.inv(full / size[:, None] / size) / size[:, None] / size
    total = scales(market, empty).total
    units = {"voltage": 1.0, "angle": 1.0, "bus_reactive": total}
    scale = [jnp.full(getattr(rows_like(market), n).shape[0], units[n], dtype) for n in names]
    return Network(
        matrix=matrix,
        offset=-values(nothing),
        lower=low,
        upper=high,
        rating=grid.rating,
        proximal=weight / give,
        preconditioner=inverse.astype(dtype),
        row_scale=jnp.concatenate([nothing[:0], *scale]),
    )
