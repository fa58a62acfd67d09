"""The last few prosumers: who is still far from an equilibrium answers its neighbors' prices.

Where all but some hundred of a million prosumer-hours have settled, those left are prosumers whose
own prices have a long way to go at a small step: a battery that alone serves its owner's load has
no price but its own, which creeps up until the main grid's is lower. Each of these, the farthest
first, takes the best plan that it has at the prices of the others, all else held, and the prices
that come with it: a round of Gauss and Seidel over a few small quadratic programs. What it trades
is drawn to what it traded, so that neighbors miss little, which polishing passes on.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
from ..optimality import price_misses
from ..record import Record
from ..scales import scales
from ..succession import earlier
from .boxed_qp import Boxed, solved
from .polishing import fitted

MOST = 256  # prosumers that answer
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
    missed = price_misses(market, plan, prices)
    few = jnp.sum(missed > tol) <= min(MOST, missed.shape[0])

    def answer() -> tuple[Plan, Rows]:
        new, priced = _round(market, plan, prices, missed, tol)
        return fitted(market, new), priced

    return jax.lax.cond(few, answer, lambda: (plan, prices))


def _round(
    market: Market, plan: Plan, prices: Rows, missed: Float[Array, " N"], tol: Float[Array, ""]
) -> tuple[Plan, Rows]:
    """Each of those that miss has answered once, the farthest first."""
    most, pairs = min(MOST, missed.shape[0]), market.trading
    far, who = jax.lax.top_k(missed, most)
    lags = far > _SHARE * tol
    rank = jnp.where(lags, jnp.arange(most), MOST)
    rank = jnp.full(missed.shape, MOST).at[who].set(rank)  # of who answers

    def table(first: Array, second: Array, size: int) -> _Table:
        own = (rank[first] < MOST) | (rank[second] < MOST)
        row = jnp.nonzero(own, size=size, fill_value=first.shape[0])[0]
        ranks = (_taken(rank[side], row, MOST) for side in (first, second))
        return _Table(row, *ranks)

    stores = market.buffers
    people = _Table(who, jnp.arange(most), jnp.arange(most))
    units = table(market.generators.owner, market.generators.owner, UNITS * MOST)
    kept = table(stores.owner, stores.owner, UNITS * MOST)
    trades = table(pairs.buyer, pairs.seller, _PAIRS)
    tables = {
        "imports": people, "exports": people, "curtailed": people, "generation": units,
        "charge": kept, "discharge": kept, "energy": kept, "trades": trades,
    }  # fmt: skip

    def some(of: Plan) -> dict[str, Array]:
        return {n: _taken(getattr(of, n), t.row).astype(jnp.float64) for n, t in tables.items()}

    scale, ts = scales(market, plan), counted(market)
    slope = own_gradient(market, plan, grid_price(market, zone_totals(market, plan)))
    none = replace(prices, balance=0 * prices.balance, energy=0 * prices.energy)
    slope = some(jax.tree.map(jnp.add, slope, pull(market, none)))
    bend = some(jax.tree.map(lambda h, u: h + 0 * u, curvature(market, plan), plan))
    reach = _REACH * scale.power

    def near(bound: Plan) -> Plan:
        return jax.tree.map(lambda b, u: jnp.clip(b, u - reach, u + reach), bound, plan)

    bounds = [near(bound) for bound in boxes(market)]
    if market.generators.curves:  # whose costs no parabola is
        bounds = [replace(b, generation=plan.generation) for b in bounds]
    lower, upper = (some(b) for b in bounds)
    value = rows(market, plan)
    tolls = _taken(jnp.broadcast_to(toll(market), plan.trades.shape), trades.row)
    sides = [_taken(side, trades.row, missed.shape[0]) for side in (pairs.buyer, pairs.seller)]
    outer = [_taken(prices.balance, side) for side in sides]
    loss = [
        _taken(jnp.broadcast_to(a, plan.energy.shape), kept.row, 1.0)
        for a in (stores.charge_efficiency, stores.discharge_efficiency, stores.retention)
    ]
    before = jnp.asarray(earlier(market.before, plan.imports.shape[1]))
    drawn = _DRAWN * scale.price / scale.power * jnp.max(ts)

    def answer(one: Array, state: tuple) -> tuple:
        now, price, water, off, empty = state
        g, k, t = units.of(one, UNITS), kept.of(one, UNITS), trades.of(one, TRADES)
        buys = _taken(trades.first, t, MOST) == one
        other = jnp.where(buys, _taken(trades.second, t, MOST), _taken(trades.first, t, MOST))
        outside = jnp.where(buys[:, None], _taken(outer[1], t), _taken(outer[0], t))
        theirs = jnp.where((other < MOST)[:, None], _taken(price, other), outside)
        sign = jnp.where(buys, -1.0, 1.0)
        lengths = [3, UNITS, UNITS, UNITS, TRADES, TRADES]
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]

        def mine(table: dict[str, Array]) -> tuple[Array, Array, Array]:
            """Of columns without a direction, of trades, and of contents."""
            each = [table[name][one][None] for name in _HOME]
            each.append(_taken(table["generation"], g))
            each += [_taken(table[name], k) for name in ("charge", "discharge")]
            return jnp.concatenate(each), _taken(table["trades"], t), _taken(table["energy"], k)

        def parts(plain: Array, forward: Array, backward: Array, held: Array) -> Array:
            return jnp.concatenate([plain, forward, backward, held])

        x, traded, held = mine(now)
        (c, ct, ce), (h, ht, he) = mine(slope), mine(bend)
        (low, lowt, lowe), (high, hight, highe) = mine(lower), mine(upper)
        ht = ht + drawn
        ct = ct - sign[:, None] * ts * theirs - ht * traded
        tolled = _taken(tolls, t)
        own = _rows_of(market, sign, [_taken(a, k, 1.0) for a in loss], before)
        begun = parts(x, jnp.maximum(traded, 0), jnp.maximum(-traded, 0), held)
        lacks = jnp.concatenate([off[one][None], _taken(empty, k)])
        program = Boxed(
            linear=parts(c - h * x, ct + tolled, tolled - ct, ce - he * held),
            bend=parts(h, ht, ht, he),
            low=parts(low, jnp.maximum(lowt, 0), jnp.maximum(-hight, 0), lowe),
            high=parts(high, jnp.maximum(hight, 0), jnp.maximum(-lowt, 0), highe),
            rows=own.forth(begun) - lacks,
        )
        found, y, good = solved(program, own, scale.power, scale.price * jnp.max(ts))
        plain, g_new, c_new, d_new, there, back, e_new = jnp.split(
            jnp.where(good, found, begun), ends
        )
        new = {name: now[name].at[one].set(plain[i]) for i, name in enumerate(_HOME)}
        for name, at, values in (
            ("generation", g, g_new), ("charge", k, c_new), ("discharge", k, d_new),
            ("energy", k, e_new), ("trades", t, there - back),
        ):  # fmt: skip
            new[name] = now[name].at[at].set(values, mode="drop")
        off = off.at[other].add(sign[:, None] * (traded - there + back), mode="drop")
        off = off.at[one].set(jnp.where(good, 0.0, off[one]))
        empty = empty.at[k].set(jnp.where(good, 0.0, lacks[1:]), mode="drop")
        price = price.at[one].set(jnp.where(good, y[0] / ts, price[one]))
        paid = jnp.where(good, y[1:] / market.weight, _taken(water, k))
        return new, price, water.at[k].set(paid, mode="drop"), off, empty

    start = [prices.balance[who], _taken(prices.energy, kept.row)]
    start += [value.balance[who], _taken(value.energy, kept.row)]
    begun = (some(plan), *(a.astype(jnp.float64) for a in start))
    now, price, water, *_ = jax.lax.fori_loop(0, jnp.sum(lags), answer, begun)

    def put(table: Array, row: Array, values: Array) -> Array:
        return table.at[row].set(values.astype(table.dtype), mode="drop")

    plan = replace(plan, **{n: put(getattr(plan, n), t.row, now[n]) for n, t in tables.items()})
    return plan, replace(
        prices,
        balance=put(prices.balance, who, price),
        energy=put(prices.energy, kept.row, water),
    )


def _rows_of(
    market: Market,
    sign: Float[Array, " T"],
    loss: list[Float[Array, "K H"]],
    before: Float[Array, "H H"],
) -> _Own:
    """The rows of a prosumer with trades of a `sign`, and buffers that lose so much."""
    into, out, kept = loss
    ones, each, hours = jnp.ones(UNITS), jnp.eye(UNITS)[:, :, None], into.shape[1]
    supply = [jnp.array([-1.0, 1.0, 1.0]), -ones, ones, -ones, sign, -sign, jnp.zeros(UNITS)]
    gap = jnp.zeros((UNITS, 3 + UNITS, hours))
    rest = jnp.zeros((UNITS, 2 * TRADES + UNITS, hours))
    length = market.hour_length
    feed = [gap, -length * into * each, length / out * each, rest]
    return _Own(
        supply=jnp.concatenate(supply),
        feed=jnp.concatenate(feed, axis=1),
        path=jnp.eye(hours) - kept[:, :, None] * before,
    )


def _taken(table: Array, row: Array, other: float = 0.0) -> Array:
    """Rows of a table, `other` where there is none."""
    return table.at[row].get(mode="fill", fill_value=other)
