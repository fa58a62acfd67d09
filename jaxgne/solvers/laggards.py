"""The last few prosumers: who is still far from an equilibrium answers its neighbors' prices.

Where all but some hundred of a million prosumer-hours have settled, those left are prosumers whose
own prices have a long way to go at a small step: a battery that alone serves its owner's load has
no price but its own, which creeps up until the main grid's is lower. Each of these, the farthest
first, takes the best plan that it has at the prices of the others, all else held, and the prices
that come with it: a round of Gauss and Seidel over a few small quadratic programs. What it trades
is drawn to what it traded, so that neighbors miss little, which polishing passes on; those who
then lag answer in the next round.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..market import Market
from ..model import (
    Plan,
    Rows,
    boxes,
    counted,
    curvature,
    grid_price,
    own_gradient,
    pull,
    rows,
    toll,
    zone_totals,
)
from ..optimality import misses
from ..record import Record
from ..scales import scales
from ..succession import earlier
from .boxed_qp import Boxed, solved
from .polishing import fitted

ROUNDS = 3  # of answers
MOST = 256  # prosumers that answer in one
UNITS = 2  # generators, and buffers, of one that takes part; what more there is stands
TRADES = 32  # and trades
_PAIRS = 16 * MOST  # trades of all that answer
_SHARE = 0.3  # of the tolerance: who misses more answers
_DRAWN = 10.0  # stiffness that draws trades to what they were, in the market's price over its power
_HOME = ("imports", "exports", "curtailed")  # columns of which everybody has one
_REACH = 10.0  # times the market's power: how far what has no bound may go


class _Table(NamedTuple):
    """Rows of one of a plan's tables that those who answer have; at last rows that are none."""

    row: Int[Array, " R"]  # its length, where there is none
    first: Int[Array, " R"]  # which of those who answer has it, or is its buyer; MOST, if none
    second: Int[Array, " R"]  # or is its seller

    def of(self, one: Array, size: int) -> Int[Array, " size"]:
        """Places in this table of what one of them has."""
        mine = (self.first == one) | (self.second == one)
        return jnp.nonzero(mine, size=size, fill_value=self.row.shape[0])[0]


class _Chosen(NamedTuple):
    """Who answers, the farthest first, and what of a plan's tables is theirs."""

    who: Int[Array, " P"]
    lagging: Int[Array, ""]  # how many of these lag
    people: _Table
    units: _Table
    stores: _Table
    trades: _Table

    def tables(self) -> dict[str, _Table]:
        """By the names of a plan's."""
        stored = dict.fromkeys(("charge", "discharge", "energy"), self.stores)
        own = dict.fromkeys(_HOME, self.people)
        return own | stored | {"generation": self.units, "trades": self.trades}

    def of(self, plan: Plan) -> dict[str, Float[Array, "R H"]]:
        """What of a plan, or of numbers of its entries, is theirs; in float64."""
        tables = self.tables().items()
        return {n: _taken(getattr(plan, n), t.row).astype(jnp.float64) for n, t in tables}


class _Terms(NamedTuple):
    """What stays as it is while they answer."""

    slope: dict[str, Array]  # EUR/kW, without own prices
    bend: dict[str, Array]
    lower: dict[str, Array]
    upper: dict[str, Array]
    tolls: Float[Array, "T H"]  # EUR/kW
    buyers: Float[Array, "T H"]  # prices of both sides of trades before, EUR/kWh
    sellers: Float[Array, "T H"]
    loss: tuple[Float[Array, "K H"], Float[Array, "K H"], Float[Array, "K H"]]
    drawn: Float[Array, ""]  # EUR/kW per kW
    size: Float[Array, ""]  # kW
    worth: Float[Array, ""]  # EUR/kW


class _Standing(NamedTuple):
    """Where those who answer stand: columns, prices of their rows, and what these miss."""

    plan: dict[str, Float[Array, "R H"]]
    balance: Float[Array, "P H"]
    energy: Float[Array, "K H"]
    missed: Float[Array, "P H"]
    emptied: Float[Array, "K H"]


class _Own(Record):
    """The rows of one prosumer: its balance, and the contents of its buffers."""

    supply: Float[Array, " C"]  # of each column in the balance
    feed: Float[Array, "K C H"]  # and in contents, of columns in the same step
    path: Float[Array, "K H H"]  # of contents, the last K columns, in contents

    def forth(self, x: Float[Array, "C H"]) -> Float[Array, "R H"]:
        kept = jnp.einsum("kab,kb->ka", self.path, x[-self.path.shape[0] :])
        fed = jnp.einsum("kch,ch->kh", self.feed, x)
        return jnp.concatenate([(self.supply @ x)[None], fed + kept])

    def back(self, y: Float[Array, "R H"]) -> Float[Array, "C H"]:
        pulled = self.supply[:, None] * y[0] + jnp.einsum("kch,kh->ch", self.feed, y[1:])
        kept = jnp.einsum("kab,ka->kb", self.path, y[1:])
        return pulled.at[-self.path.shape[0] :].add(kept)

    def normal(self, d: Float[Array, "C H"]) -> Float[Array, "RH RH"]:
        count, hours = self.path.shape[:2]
        every = jnp.broadcast_to(self.supply[None, :, None], (1, *d.shape))
        weights = jnp.concatenate([every, self.feed])
        meet = jnp.einsum("ach,bch,ch->abh", weights, weights, d)
        full = jnp.einsum("abh,hg->ahbg", meet, jnp.eye(hours))
        kept = jnp.einsum("kab,kb,kcb->kac", self.path, d[-count:], self.path)
        one = 1 + jnp.arange(count)
        full = full.at[one, :, one].add(kept)
        return full.reshape((1 + count) * hours, (1 + count) * hours)


def heard(market: Market, plan: Plan, prices: Rows, tol: Float[Array, ""]) -> tuple[Plan, Rows]:
    """A plan and prices nearby where those that lag have answered; as they are if too many do.

    On CPUs: on a GPU the launches of so many small kernels would take longer than the steps saved.
    """

    def on_cpu() -> tuple[Plan, Rows]:
        return _answered(market, plan, prices, tol)

    return jax.lax.platform_dependent(cpu=on_cpu, default=lambda: (plan, prices))


def _answered(market: Market, plan: Plan, prices: Rows, tol: Float[Array, ""]) -> tuple[Plan, Rows]:
    """Rounds of answers, as who deals with those who answered may lag after them."""

    def going(state: tuple) -> Bool[Array, ""]:
        turn, _, _, missed = state
        lag = jnp.sum(missed > tol)
        some = (turn == 0) | (lag > 0)
        return (turn < ROUNDS) & some & (lag <= min(MOST, missed.shape[0]))

    def answer(state: tuple) -> tuple:
        turn, plan, prices, missed = state
        plan, prices = _round(market, plan, prices, missed, tol)
        plan = fitted(market, plan)
        return turn + 1, plan, prices, misses(market, plan, prices)

    begun = jnp.zeros((), jnp.int32), plan, prices, misses(market, plan, prices)
    return jax.lax.while_loop(going, answer, begun)[1:3]


def _round(
    market: Market, plan: Plan, prices: Rows, missed: Float[Array, " N"], tol: Float[Array, ""]
) -> tuple[Plan, Rows]:
    """Each of those that miss has answered once, the farthest first."""
    chosen, value = _chosen(market, missed, tol), rows(market, plan)
    terms, who, stores = _terms(market, plan, prices, chosen), chosen.who, chosen.stores.row
    each = prices.balance[who], _taken(prices.energy, stores)
    each += value.balance[who], _taken(value.energy, stores)
    begun = _Standing(chosen.of(plan), *(a.astype(jnp.float64) for a in each))

    def answer(one: Array, now: _Standing) -> _Standing:
        return _answer(market, chosen, terms, one, now)

    now = jax.lax.fori_loop(0, chosen.lagging, answer, begun)

    def put(table: Array, row: Array, values: Array) -> Array:
        return table.at[row].set(values.astype(table.dtype), mode="drop")

    tables = chosen.tables().items()
    plan = replace(plan, **{n: put(getattr(plan, n), t.row, now.plan[n]) for n, t in tables})
    return plan, replace(
        prices,
        balance=put(prices.balance, who, now.balance),
        energy=put(prices.energy, stores, now.energy),
    )


def _chosen(market: Market, missed: Float[Array, " N"], tol: Float[Array, ""]) -> _Chosen:
    most, pairs = min(MOST, missed.shape[0]), market.trading
    far, who = jax.lax.top_k(missed, most)
    lags, each = far > _SHARE * tol, jnp.arange(most)
    rank = jnp.full(missed.shape, MOST).at[who].set(jnp.where(lags, each, MOST))

    def table(first: Array, second: Array, size: int) -> _Table:
        own = (rank[first] < MOST) | (rank[second] < MOST)
        row = jnp.nonzero(own, size=size, fill_value=first.shape[0])[0]
        return _Table(row, *(_taken(rank[side], row, MOST) for side in (first, second)))

    makers, keepers = market.generators.owner, market.buffers.owner
    return _Chosen(
        who=who,
        lagging=jnp.sum(lags),
        people=_Table(who, each, each),
        units=table(makers, makers, UNITS * MOST),
        stores=table(keepers, keepers, UNITS * MOST),
        trades=table(pairs.buyer, pairs.seller, _PAIRS),
    )


def _terms(market: Market, plan: Plan, prices: Rows, chosen: _Chosen) -> _Terms:
    scale, ts, stores, pairs = scales(market, plan), counted(market), market.buffers, market.trading
    slope = own_gradient(market, plan, grid_price(market, zone_totals(market, plan)))
    others = replace(prices, balance=0 * prices.balance, energy=0 * prices.energy)
    slope = jax.tree.map(jnp.add, slope, pull(market, others))
    reach, traded = _REACH * scale.power, chosen.trades.row

    def near(bound: Plan) -> Plan:
        return jax.tree.map(lambda b, u: jnp.clip(b, u - reach, u + reach), bound, plan)

    bounds = [near(bound) for bound in boxes(market)]
    if market.generators.curves:  # whose costs no parabola is
        bounds = [replace(b, generation=plan.generation) for b in bounds]
    lower, upper = (chosen.of(b) for b in bounds)
    nobody = prices.balance.shape[0]
    sides = (_taken(side, traded, nobody) for side in (pairs.buyer, pairs.seller))
    buyers, sellers = (_taken(prices.balance, side) for side in sides)
    into, out, kept = (
        _taken(jnp.broadcast_to(a, plan.energy.shape), chosen.stores.row, 1.0)
        for a in (stores.charge_efficiency, stores.discharge_efficiency, stores.retention)
    )
    return _Terms(
        slope=chosen.of(slope),
        bend=chosen.of(jax.tree.map(lambda h, u: h + 0 * u, curvature(market, plan), plan)),
        lower=lower,
        upper=upper,
        tolls=_taken(jnp.broadcast_to(toll(market), plan.trades.shape), traded),
        buyers=buyers,
        sellers=sellers,
        loss=(into, out, kept),
        drawn=_DRAWN * scale.price / scale.power * jnp.max(ts),
        size=scale.power,
        worth=scale.price * jnp.max(ts),
    )


def _answer(
    market: Market, chosen: _Chosen, terms: _Terms, one: Array, now: _Standing
) -> _Standing:
    """Where all stand once one of them has answered; where its program has no answer, as before.

    A trade is two columns, one for each direction, as each has its own price.
    """
    trades, ts = chosen.trades, counted(market)
    g, k, t = chosen.units.of(one, UNITS), chosen.stores.of(one, UNITS), trades.of(one, TRADES)
    buys = _taken(trades.first, t, MOST) == one
    other = jnp.where(buys, _taken(trades.second, t, MOST), _taken(trades.first, t, MOST))
    outside = jnp.where(buys[:, None], _taken(terms.sellers, t), _taken(terms.buyers, t))
    theirs = jnp.where((other < MOST)[:, None], _taken(now.balance, other), outside)
    sign = jnp.where(buys, -1.0, 1.0)

    def mine(table: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Of columns without a direction, of trades, and of contents."""
        each = [table[name][one][None] for name in _HOME]
        each.append(_taken(table["generation"], g))
        each += [_taken(table[name], k) for name in ("charge", "discharge")]
        return jnp.concatenate(each), _taken(table["trades"], t), _taken(table["energy"], k)

    def both(plain: Array, forward: Array, backward: Array, held: Array) -> Array:
        return jnp.concatenate([plain, forward, backward, held])

    def directed(plain: Array, forward: Array, backward: Array, held: Array) -> Array:
        return both(plain, jnp.maximum(forward, 0), jnp.maximum(-backward, 0), held)

    x, traded, held = mine(now.plan)
    (c, ct, ce), (h, ht, he) = mine(terms.slope), mine(terms.bend)
    (low, lowt, lowe), (high, hight, highe) = mine(terms.lower), mine(terms.upper)
    ht = ht + terms.drawn
    ct = ct - sign[:, None] * ts * theirs - ht * traded
    tolled = _taken(terms.tolls, t)
    own = _rows_of(market, sign, [_taken(a, k, 1.0) for a in terms.loss])
    before = directed(x, traded, traded, held)
    lacks = jnp.concatenate([now.missed[one][None], _taken(now.emptied, k)])
    program = Boxed(
        linear=both(c - h * x, ct + tolled, tolled - ct, ce - he * held),
        bend=both(h, ht, ht, he),
        low=directed(low, lowt, hight, lowe),
        high=directed(high, hight, lowt, highe),
        rows=own.forth(before) - lacks,
    )
    found, y, good = solved(program, own, terms.size, terms.worth)
    ends = np.cumsum([len(_HOME), UNITS, UNITS, UNITS, TRADES, TRADES])
    home, made, into, out, there, back, full = jnp.split(jnp.where(good, found, before), ends)
    plan = {name: now.plan[name].at[one].set(home[i]) for i, name in enumerate(_HOME)}
    for name, at, values in (
        ("generation", g, made), ("charge", k, into), ("discharge", k, out), ("energy", k, full),
        ("trades", t, there - back),
    ):  # fmt: skip
        plan[name] = now.plan[name].at[at].set(values, mode="drop")
    missed = now.missed.at[other].add(sign[:, None] * (traded - there + back), mode="drop")
    price, paid = now.balance[one], _taken(now.energy, k)
    water = jnp.where(good, y[1:] / market.weight, paid)
    return _Standing(
        plan=plan,
        balance=now.balance.at[one].set(jnp.where(good, y[0] / ts, price)),
        energy=now.energy.at[k].set(water, mode="drop"),
        missed=missed.at[one].set(jnp.where(good, 0.0, missed[one])),
        emptied=now.emptied.at[k].set(jnp.where(good, 0.0, lacks[1:]), mode="drop"),
    )


def _rows_of(market: Market, sign: Float[Array, " T"], loss: list[Float[Array, "K H"]]) -> _Own:
    """The rows of a prosumer with trades of a `sign`, and buffers that lose so much."""
    into, out, kept = loss
    ones, each, hours = jnp.ones(UNITS), jnp.eye(UNITS)[:, :, None], into.shape[1]
    supply = [jnp.array([-1.0, 1.0, 1.0]), -ones, ones, -ones, sign, -sign, jnp.zeros(UNITS)]
    gap = jnp.zeros((UNITS, len(_HOME) + UNITS, hours))
    rest = jnp.zeros((UNITS, 2 * TRADES + UNITS, hours))
    length = market.hour_length
    feed = [gap, -length * into * each, length / out * each, rest]
    return _Own(
        supply=jnp.concatenate(supply),
        feed=jnp.concatenate(feed, axis=1),
        path=jnp.eye(hours) - kept[:, :, None] * earlier(market.before, hours),
    )


def _taken(table: Array, row: Array, other: float = 0.0) -> Array:
    """Rows of a table, `other` where there is none."""
    return table.at[row].get(mode="fill", fill_value=other)
