"""One round of the paper's mechanism as messages: who answers, who is told what, who moves prices.

Every shared price has one keeper: the operator (or, without one, everybody's agreed copy) those of
the shared rows, and the buyer of a pair that of its trade. So whatever messages are lost or late, a
dialogue that comes to rest does so at an equilibrium of the market: all then know one and the same
prices, answer them, and nothing is left that would move these. With every message in time it is
Algorithm 1 of the paper.
"""

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .channels import Channel, Medium, either, opened, told
from .consensus import Graph
from .keepers import Desk, Keeper, Report, View, ahead, centre_of, peers_of
from .market import Market
from .model import (
    Plan,
    Rows,
    counted,
    grid_price,
    net_load,
    own_gradient,
    pull,
    rows_like,
    without_curves,
    zeros,
)
from .privacy import Noise, spoken
from .record import Record
from .solvers.local import Choice, best_response
from .solvers.semidecentralized import Point, SemiDecentralized, State, mismatch
from .solvers.setting import Setting, choices_of

Answer = tuple[Plan, Rows, Float[Array, ""]]


class Ways(Record):
    """How prosumers talk: how messages fare, how often anyone acts, what is hidden by noise."""

    medium: Medium
    participation: Float[Array, ""]  # probability that a prosumer acts in a round
    noise: Float[Array, ""]  # kW
    clip: Float[Array, ""]  # kW, how far words may be from what was known at first
    step: Float[Array, ""]  # of the way that everyone goes in a round


class Talk(Record):
    """A dialogue between two rounds."""

    choices: Choice  # leading axis N: what prosumers mean to do
    private: Float[Array, "N 1+K H"]
    known: Report  # of the start
    said: Report
    keeper: Any  # a `Keeper` of shared prices
    trade: Float[Array, "E H"]  # mu_tr, as buyers keep it, EUR/kWh
    gap: Float[Array, "E H"]  # what both sides were last known to want together, kW
    offers: Channel  # what sellers want, to buyers, kW
    prices: Channel  # of pairs, to sellers, EUR/kWh
    acted: Int[Array, " N"]  # rounds so far
    numbers: Float[Array, ""]  # sent so far
    rounds: Int[Array, ""]


def begun(market: Market, state: State, graph: Graph | None, depth: int) -> Talk:
    """A dialogue that goes on from a state of the mechanism, which everyone knows."""
    at, setting = state.now, state.setting
    desk = Desk(at.network, at.exchange, at.above, at.below, at.bus, at.exchange_price)
    said = report_of(market, setting, at.choices)
    if graph is None:
        keeper: Keeper = centre_of(market, desk, state.rows, said, depth)
    else:
        keeper = peers_of(market, graph, desk, state.rows, said, depth)
    offers = jnp.split(setting.sides.take(said.trades), 2)[1]
    return Talk(
        choices=at.choices,
        private=state.private,
        known=said,
        said=said,
        keeper=keeper,
        trade=at.trade,
        gap=mismatch(setting, at),
        offers=opened(offers, depth),
        prices=opened(at.trade, depth),
        acted=jnp.zeros(market.prosumers.bus.shape, jnp.int32),
        numbers=jnp.zeros((), float),
        rounds=jnp.zeros((), jnp.int32),
    )


def talked(
    market: Market, setting: Setting, talk: Talk, ways: Ways, key: Array, kind: Noise
) -> Talk:
    """The dialogue after one round more."""
    keys = jax.random.split(key, 5)
    now, pairs = talk.rounds, market.trading
    acts = jax.random.uniform(keys[0], talk.acted.shape) < ways.participation
    # 1. whoever acts answers the prices that it knows of
    sides = jnp.concatenate([talk.trade, talk.prices.held])
    priced = asked(market, setting, talk.keeper.views(market), sides)
    answers = jax.vmap(best_response)(setting.prosumers, priced, talk.choices, talk.private)
    onward = jax.tree.map(lambda u, to: u + ways.step * (to - u), talk.choices, answers.answer)
    choices, private = either(acts, (onward, answers.duals), (talk.choices, talk.private))
    meant = report_of(market, setting, choices)
    said = either(acts, hidden(market, setting, talk.known, meant, ways, kind, keys[1]), talk.said)
    # 2. sellers offer, buyers move the price of the trade and tell it
    own, offered = jnp.split(setting.sides.take(said.trades), 2)
    sells, buys = acts[pairs.seller], acts[pairs.buyer]
    offers = told(talk.offers, offered, sells, ways.medium, now, keys[2])
    gap = own + offers.held
    moved = talk.trade + setting.steps.trade * ahead(ways.step, gap, talk.gap)
    trade, gap = either(buys, (moved, gap), (talk.trade, talk.gap))
    prices = told(talk.prices, trade, buys, ways.medium, now, keys[3])
    # 3. whoever keeps the shared prices hears of it, moves them and tells them
    keeper, numbers = talk.keeper.heard(
        market, setting, ways.step, (said, talk.said), acts, (ways.medium, now, keys[4])
    )
    bilateral = (jnp.sum(sells) + jnp.sum(buys)) * market.hour_length.size
    return Talk(
        choices=choices,
        private=private,
        known=talk.known,
        said=said,
        keeper=keeper,
        trade=trade,
        gap=gap,
        offers=offers,
        prices=prices,
        acted=talk.acted + acts,
        numbers=talk.numbers + numbers + bilateral,
        rounds=now + 1,
    )


def asked(market: Market, setting: Setting, view: View, trade: Float[Array, "2E H"]) -> Choice:
    """What each decision costs its player at the prices that it knows of, EUR/kW, in slots.

    `trade` is the price of each pair as its buyer knows it, then as its seller does. What a
    prosumer's devices draw counts at the price of its bus.
    """
    pairs, ts = market.trading, counted(market)
    price: Any = grid_price(market, view.sigma)
    own = own_gradient(without_curves(market), zeros(market), price)
    drawn = pull(market, replace(rows_like(market), balance=view.bus))
    priced = jax.tree.map(jnp.add, own, drawn)
    shared = ts * (view.limit + view.exchange)
    priced = replace(priced, imports=own.imports + shared, exports=own.exports - shared)
    buyer, seller = jnp.split(trade, 2)
    sides = jnp.concatenate([pairs.fee_buyer + buyer, pairs.fee_seller + seller])
    return choices_of(setting.places, priced, ts * sides)


def report_of(market: Market, setting: Setting, choices: Choice) -> Report:
    """What prosumers would say of their choices, were nothing to hide."""
    makes, keeps = setting.generators.take, setting.buffers.take
    plan = replace(
        zeros(market),
        generation=makes(choices.generation),
        charge=keeps(choices.charge),
        discharge=keeps(choices.discharge),
        curtailed=choices.curtailed,
    )
    drawn = net_load(market, plan) if market.grid.model.networked else plan.imports
    return Report(choices.imports, choices.exports, drawn, choices.trades)


def hidden(
    market: Market,
    setting: Setting,
    known: Report,
    meant: Report,
    ways: Ways,
    kind: Noise,
    key: Array,
) -> Report:
    """What prosumers say: their report, clipped around what was known, noise on each number."""
    sides = 2 * market.trading.buyer.shape[0]
    there = jnp.ones_like(known.imports, dtype=bool)
    traded = (setting.sides.item < sides)[..., None] & jnp.ones_like(known.trades, dtype=bool)
    networked = there & market.grid.model.networked
    used = Report(there, there, networked, traded)

    def line(one: Report) -> Float[Array, "D"]:
        return ravel_pytree(one)[0]

    back = ravel_pytree(jax.tree.map(lambda a: a[0], known))[1]
    flat = [jax.vmap(line)(one) for one in (known, meant, used)]
    spoke = spoken(flat[0], flat[1], flat[2], ways.noise, ways.clip, kind, key)
    return jax.vmap(back)(spoke)


def point_of(market: Market, solver: SemiDecentralized, setting: Setting, talk: Talk) -> Answer:
    """The plan that prosumers mean and the prices that keepers stand for, and how far apart

    copies of the total import are, kW.
    """
    desk, private, apart = talk.keeper.stands(market)
    state = {field.name: getattr(desk, field.name) for field in fields(Desk)}
    at = Point(choices=talk.choices, trade=talk.trade, ledger=None, **state)
    whole = State(at, at, at, talk.private, private, setting, talk.rounds)
    return *solver.point(market, whole), apart
