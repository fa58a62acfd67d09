"""The paper's mechanism: a semi-decentralized proximal point method (model.md: Mechanism).

Sources: Belgioioso, Ananduta, Grammatico, Ocampo-Martinez, IEEE Trans. Smart Grid 13(4), 2022
(Algorithm 1); Ananduta, Grammatico, Games 13(5):66, 2022 (Algorithms 1-3). One round: prosumers
answer prices at the held total import, neighbors move the price of their trade, the operator
projects its state and moves the prices of its rows. Each side keeps its own copy of a trade.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..commitments import refuse
from ..incidence import has_terminals
from ..market import Market
from ..model import (
    OF_CAPS,
    Plan,
    Rows,
    boxes,
    counted,
    grid_price,
    own_gradient,
    prox,
    pull,
    rows_like,
    shared_out,
    trade_prices,
    without_curves,
    zeros,
    zone_totals,
)
from ..model import rows as constraint_rows
from ..record import Record
from .base import AbstractSolver
from .local import Choice, best_response
from .projection import project_network
from .setting import (
    STATE,
    Rule,
    Setting,
    choices_of,
    default_balance,
    private_rows,
    settle_in,
    slots_needed,
    state_of,
)


class Ledger(Record):
    """What is counted for caps, and the prices of that, EUR per unit."""

    level: Float[Array, "M H"]
    rise: Float[Array, "M H"]
    spare: Float[Array, "M H"]
    cap: Float[Array, "M H"]
    levels: Float[Array, "M H"]


class Point(Record):
    """What the mechanism iterates on: everyone's decisions and the shared multipliers."""

    choices: Choice  # leading axis N
    network: Float[Array, "V H"]  # the operator's state, in the order of `STATE`
    exchange: Float[Array, "F H"]  # kW
    trade: Float[Array, "E H"]  # mu_tr, EUR/kWh
    above: Float[Array, " H"]  # lambda_max, EUR/kWh
    below: Float[Array, " H"]  # lambda_min, EUR/kWh
    bus: Float[Array, "B H"]  # mu_pb, EUR/kWh
    exchange_price: Float[Array, " H"]  # mu_tg, EUR/kWh
    ledger: Ledger | None


class State(Record):
    """The mechanism between two rounds."""

    now: Point
    before: Point  # one round ago, for the inertial variant
    image: Point  # what the last round answered: inside all private sets
    private: Float[Array, "N 1+K H"]  # own energy values times w Ts, water values times w
    rows: Float[Array, "R H"]  # multipliers of the operator's private rows
    setting: Setting
    rounds: Int[Array, ""]


class SemiDecentralized(AbstractSolver):
    """The paper's mechanism; `relaxation` and `inertia` are the follow-up's variants.

    `balance` (omega, EUR/kWh per kW) weighs dual against primal steps; the default is the market's
    own price per power. `relaxation` in (1, 2) stretches each round, `inertia` in (0, 1/3) starts
    it from an extrapolated point; 1 and 0 are the basic mechanism. `rule` says how step sizes
    follow from omega: by each decision's and row's own sums, or as in the paper.

    `preference`, a convex function of market and plan such as `jaxgne.selection.congestion`, makes
    it the follow-up's selecting variant: after round k every decision takes a step of
    `pace / k^fading` times (its alpha over that of flows) down the function's gradient (hybrid
    steepest descent: Yamada, in Inherently Parallel Algorithms, 2001), with `fading` in (0, 1].
    That disturbs each round by as much, so that it clears to a tolerance about as small as the
    step: give `max_steps`, and take `jaxgne.selection.select` for an exact answer.

    `generators`, `buffers` and `pairs` are the number of slots a prosumer has for each; `prepare`
    reads them off a market, without them every prosumer has room for all.
    """

    balance: float | Array | None = None
    relaxation: float | Array = 1.0
    inertia: float | Array = 0.0
    rule: Rule = eqx.field(default="columns", static=True)
    preference: Callable[[Market, Plan], Array] | None = eqx.field(default=None, static=True)
    pace: float | Array = 1.0
    fading: float | Array = 0.6
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
        if isinstance(self.fading, float | int) and not 0 < self.fading <= 1:
            raise ValueError(f"SemiDecentralized.fading: {self.fading} is outside (0, 1].")

    def prepare(self, market: Market) -> "SemiDecentralized":
        """With as many slots as the market's busiest prosumer needs, or more where given."""
        refuse("SemiDecentralized", market)
        found = slots_needed(market, (self.generators, self.buffers, self.pairs))
        return replace(self, generators=found[0], buffers=found[1], pairs=found[2])

    def init(self, market: Market, plan: Plan, prices: Rows) -> State:
        """Start from a plan and prices."""
        dtype = market.prosumers.load.dtype
        balance = default_balance(market) if self.balance is None else self.balance
        sizes = (self.generators, self.buffers, self.pairs)
        setting = settle_in(market, jnp.asarray(balance, dtype), self.rule, sizes)
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        start = Point(
            choices=choices_of(setting.places, plan, jnp.concatenate([plan.trades, -plan.trades])),
            network=state_of(plan),
            exchange=plan.exchange,
            trade=trade_prices(market, prices),
            above=jnp.maximum(prices.aggregate, 0.0),
            below=jnp.maximum(-prices.aggregate, 0.0),
            bus=prices.bus,
            exchange_price=prices.exchange,
            ledger=_ledger(plan, prices),
        )
        own = prices.balance[:, None]
        water = setting.buffers.pad(market.weight * prices.energy)
        private = jnp.concatenate([counted(market) * own, water], axis=1)
        names = private_rows(market)
        rows = jnp.concatenate([start.bus[:0], *(getattr(prices, name) for name in names)])
        none = jnp.zeros((), jnp.int32)
        return State(start, start, start, private, rows, setting, none)

    def step(self, market: Market, state: State) -> State:
        """One round, from an extrapolated point (inertia), stretched (over-relaxation)."""
        start = jax.tree.map(
            lambda now, before: now + self.inertia * (now - before), state.now, state.before
        )
        image, private, rows = play_round(market, state.setting, start, state.private, state.rows)
        now = jax.tree.map(lambda old, new: old + self.relaxation * (new - old), start, image)
        rounds = state.rounds + 1
        if self.preference is not None:
            length = self.pace / rounds.astype(now.above.dtype) ** self.fading
            now = descend(market, state.setting, self.preference, now, length)
        return State(now, state.now, image, private, rows, state.setting, rounds)

    def moved(self, market: Market, state: State, before: Market) -> State:
        """All decisions and shared prices as they are, steps and local programs made anew.

        A plan holds one trade for both copies, prices none of a trade: both are part of the point
        that rounds bring nearer to an equilibrium, in whatever market they are played.
        """
        anew = self.init(market, *self.point(before, state))
        return replace(anew, now=state.now, before=state.now, image=state.image)

    def point(self, market: Market, state: State) -> tuple[Plan, Rows]:
        """The last round's answer: the mean of both sides' copies of each trade, all prices."""
        at, setting = state.image, state.setting
        prices = replace(
            _operator_prices(market, state.rows),
            balance=state.private[:, 0] / counted(market),
            energy=setting.buffers.take(state.private[:, 1:]) / market.weight,
            aggregate=at.above - at.below,
            bus=at.bus,
            exchange=at.exchange_price,
            **_of_ledger(at, ("cap", "levels")),
        )
        return plan_of(market, setting, at), prices


def play_round(
    market: Market,
    setting: Setting,
    start: Point,
    private: Float[Array, "N 1+K H"],
    rows: Float[Array, "R H"],
) -> tuple[Point, Float[Array, "N 1+K H"], Float[Array, "R H"]]:
    """One round from a point: the follow-up, Algorithm 1 (model.md: Mechanism).

    `private` and `rows` warm-start the local programs; both come back solved.
    """
    steps, tariff = setting.steps, market.tariff
    priced, trade_priced = quote(market, setting, start)
    # 1. every prosumer answers prices at the held total import
    answers = jax.vmap(best_response)(
        setting.prosumers,
        choices_of(setting.places, priced, trade_priced),
        start.choices,
        private,
    )
    new = replace(start, choices=answers.answer)
    # 2. neighbors exchange what they want to trade and move its price
    gap, gap_before = mismatch(setting, new), mismatch(setting, start)
    new = replace(new, trade=move_price(start.trade, steps.trade, gap, gap_before))
    # 3. the operator projects its own state and moves the prices of the shared rows
    if market.grid.model.networked:
        state = start.network, start.exchange
        network, exchange, rows = operate(market, setting, priced, state, rows)
        new = replace(new, network=network, exchange=exchange)
    if start.ledger is not None:
        new = replace(new, ledger=count(market, setting, priced, start.ledger))
    now, before = (constraint_rows(market, plan_of(market, setting, at)) for at in (new, start))
    s, s_before = now.aggregate, before.aggregate
    ahead = 2 * s - s_before
    if start.ledger is not None:
        new = replace(new, ledger=settle(setting, start.ledger, new.ledger, now, before))
    new = replace(
        new,
        above=move_limit(start.above, steps.limit, ahead - tariff.total_max),
        below=move_limit(start.below, steps.limit, tariff.total_min - ahead),
    )
    if market.grid.model.networked:
        new = replace(
            new,
            bus=move_price(start.bus, steps.bus[:, None], now.bus, before.bus),
            exchange_price=move_price(
                start.exchange_price, steps.exchange, now.exchange, before.exchange
            ),
        )
    return new, answers.duals, rows


def count(market: Market, setting: Setting, priced: Plan, start: Ledger) -> Ledger:
    """Levels, rises and spares of caps, moved by their prices and kept within bounds."""
    lower, upper = boxes(market)

    def moved(name: str) -> Array:
        now = getattr(start, name) - getattr(priced, name) / getattr(setting.caps, name)
        return jnp.clip(now, getattr(lower, name), getattr(upper, name))

    return replace(start, **{name: moved(name) for name in OF_CAPS})


def settle(setting: Setting, start: Ledger, new: Any, now: Rows, before: Rows) -> Ledger:
    """Prices of caps, moved by what their sums and levels miss."""
    steps: Any = setting.caps
    return replace(
        new,
        cap=move_price(start.cap, steps.cap, now.cap, before.cap),
        levels=move_price(start.levels, steps.levels, now.level, before.level),
    )


def _ledger(plan: Plan, prices: Rows) -> Ledger | None:
    if plan.level is None:
        return None
    tables: Any = (plan.level, plan.rise, plan.spare, prices.cap, prices.level)
    return Ledger(*tables)


def _of_ledger(at: Point, names: tuple[str, ...]) -> dict[str, Array]:
    """What is in the ledger, by its name in `Plan` or `Rows`; nothing without caps."""
    if at.ledger is None:
        return {}
    return {name.replace("levels", "level"): getattr(at.ledger, name) for name in names}


def descend(
    market: Market,
    setting: Setting,
    preference: Callable[[Market, Plan], Array],
    at: Point,
    length: Float[Array, ""],
) -> Point:
    """A step of `length` down a function of the plan, each decision's scaled by its alpha.

    The proximal weights 1/alpha make the mechanism's metric: scaled so, the descent is along the
    gradient in that metric. Flows move by `length` times the gradient, as in the follow-up.
    """
    slope = jax.grad(lambda at: preference(market, plan_of(market, setting, at)))(at)
    flows = counted(market) * setting.steps.network
    share = jax.tree.map(lambda w: flows / w, setting.prosumers.proximal)
    slope = replace(slope, choices=jax.tree.map(jnp.multiply, share, slope.choices))
    return jax.tree.map(lambda value, down: value - length * down, at, slope)


def move_price(price: Array, step: Array, now: Array, before: Array) -> Array:
    """Reflected dual step of a row that must be 0: price + step (2 now - before)."""
    return price + step * (2 * now - before)


def move_limit(price: Array, step: Array, excess: Array) -> Array:
    """Dual step of a row by its reflected `excess` over the limit; the price stays nonnegative."""
    return jnp.maximum(price + step * excess, 0.0)


def quote(market: Market, setting: Setting, at: Point) -> tuple[Plan, Float[Array, "2E H"]]:
    """What each decision costs its player at a point's prices, its own curvature apart, EUR/kW.

    Trades come apart, once for each side: all buyers, then all sellers (model.md: Mechanism).
    """
    shared = replace(
        rows_like(market), aggregate=at.above - at.below, bus=at.bus, exchange=at.exchange_price
    )
    shared = replace(shared, **_of_ledger(at, ("cap", "levels")))
    sigma = zone_totals(market, plan_of(market, setting, at))
    own = own_gradient(without_curves(market), zeros(market), grid_price(market, sigma))
    priced = jax.tree.map(jnp.add, own, pull(market, shared))
    pairs = market.trading
    sides = counted(market) * jnp.stack([pairs.fee_buyer + at.trade, pairs.fee_seller + at.trade])
    if shared.cap is not None:  # which count the mean of both copies
        capped = shared_out(market, market.weight * shared.cap)["trades"] / 2
        sides = sides + jnp.stack([capped, -capped])
    return priced, jnp.concatenate([*sides])


def operate(
    market: Market,
    setting: Setting,
    priced: Plan,
    state: tuple[Float[Array, "V H"], Float[Array, "F H"]],
    rows: Float[Array, "R H"],
) -> tuple[Float[Array, "V H"], Float[Array, "F H"], Float[Array, "R H"]]:
    """The operator's projected step: its state, exchange with the main grid, private prices."""
    own, exchange = state
    alpha, network = 1 / (counted(market) * setting.steps.network), setting.network
    flows = priced.active
    if has_terminals(market.grid):  # of which phases draw active power for reactive power, too
        flows = jnp.concatenate([flows, priced.reactive])
    wish = own.at[: flows.shape[0]].add(-alpha * flows)
    axes = replace(jax.tree.map(lambda _: None, network), offset=1, lower=1, upper=1)
    found = jax.vmap(project_network, in_axes=(axes, 1, 1))(network, wish, rows)
    return found.answer.T, exchange - alpha * priced.exchange, found.duals.T


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
    sizes = [getattr(zeros(market), name).shape[0] for name in STATE]
    buyer, seller = jnp.split(setting.sides.take(at.choices.trades), 2)
    state = jnp.split(at.network, np.cumsum(sizes)[:-1])
    return Plan(
        generation=setting.generators.take(at.choices.generation),
        charge=setting.buffers.take(at.choices.charge),
        discharge=setting.buffers.take(at.choices.discharge),
        energy=setting.buffers.take(at.choices.energy),
        imports=at.choices.imports,
        exports=at.choices.exports,
        curtailed=at.choices.curtailed,
        trades=(buyer - seller) / 2,
        **dict(zip(STATE, state, strict=True)),
        exchange=at.exchange,
        **_of_ledger(at, OF_CAPS),
    )


def _operator_prices(market: Market, values: Float[Array, "R H"]) -> Rows:
    """Prices of the operator's private rows, the others 0."""
    prices, start = rows_like(market), 0
    for name in private_rows(market):
        size = getattr(prices, name).shape[0]
        prices = replace(prices, **{name: values[start : start + size]})
        start += size
    return prices
