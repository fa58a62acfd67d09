"""A primal-dual interior point method for small markets: few steps, each an exact Newton step.

Every bound u >= l gets a multiplier z >= 0 with z (u - l) = mu, every line's disc
c = s^2 - f^2 - q^2 >= 0 one with m c = mu, and mu goes to 0: Mehrotra's predictor and corrector
(SIAM J. Optim. 2, 1992) and Gondzio's correctors of outlying products (Comput. Optim. Appl. 6,
1996), which cost little beside the factorization of `newton`. Hours meet in the content of buffers
alone, so each steps as far as its own bounds let it, unless rows would then be missed by more than
mu explains, or slopes be steep: in that case all go as far as the one that gets least far.

A trade is the difference of what either side buys, both >= 0, so that |t| is their sum. The total
import and the net exchange are columns of their own. All columns with bounds lie in one array, hour
by hour.
"""

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ..commitments import refuse
from ..feasibility import existing
from ..market import Market, cast
from ..model import Plan, Rows, counted, grid_price, net_exchange, rows, rows_like, zone_totals
from ..reach import bounded
from ..record import Record
from ..runner import jnp, lax
from ..scales import Scales, scales
from .base import AbstractSolver
from .columns import (
    PROXIMAL,
    Sets,
    along_lines,
    pack,
    reactive_flows,
    sets_of,
    slopes,
    unpack,
)
from .linearized import Products, State, all_slopes, linearize
from .preference import Preference
from .start import Guess, central, gauged, judged, missed, rooms, shrunk, with_given_flows

# where it starts
_ANEW = (
    0.1  # products where a preference is to be met: the most that a plan which is kept starts with
)

# how far a step goes
_BOUNDARY = 0.995  # share of the way to the boundary: at it products would be 0, and never leave it
_ASTRAY, _STEEP = 0.1, 1.0  # relative violation, and slope, up to which hours may step apart: what
# one hour hands to the next is then still a small part of what either has
_ROUNDING = 1e-13  # least c of a disc, as a share of its square: flows are no more precise

# what it aims at
_CENTRE = 5  # power of what the predictor leaves of mu: Mehrotra's is 3, correctors allow for more
_BEHIND = (
    1e-2  # least goal, as a share of the mean product of the hour that is furthest behind: one
)
# mu is aimed at in all hours, and one that is a hundred times behind would be thrown to its bounds
_END = 1e-22  # least goal, in the market's price times power: beyond it steps are all rounding

# correctors
_CORRECTORS = 2  # a step: each costs a solve with the factors of the step
_OUTLYING = 0.1  # products this far below, or as far above, the goal are outlying, as Gondzio's
_BEYOND = 0.3  # how much longer a step they aim at; Gondzio's is 0.1
_GROWN = 2.0  # times the mean product, from which on a step without second order is tried: a step
# that is any good leaves less than there was, one from end to end many times as much

_STUCK, _LATE = 0.1, 1e-2  # length of the hour that gets least far, and mean product, below which a
# step that only makes products alike is tried, as rows are then missed by more than mu explains

# when to look
_HOPEFUL = 0.1  # times what is wanted, up to which a relative gain is worth a look: the steps' own
# sum of products is an estimate of it, and far below when the error, which goes with its root, is
# small enough
_LOOKS = 3  # steps between looks for a proof that the market is infeasible, of which few find one;
# odd, as every other look is at prices and the others at their change
_TOUCHING = 1e-7  # room to a bound, per price, that is none: both relative to the market's scales,
# and far below any tolerance


class Inside(Record):
    """Where the method stands, inside of what; the bounds stay the same."""

    sets: Sets
    state: State


class InteriorPoint(AbstractSolver):
    """Predictor-corrector with structured Newton steps: for small markets, to any accuracy.

    Takes 10 to 30 steps of O(H (N^3 + B^3)) time and O(H (N^2 + B^2)) memory, always in float64.
    `preference` is what `selection` adds to the costs. `reactive` says whether reactive flows are
    for the method to find, or what the loads make them, as on trees without inverters; by default
    `clear` looks.
    """

    preference: Preference | None = None
    reactive: bool | None = eqx.field(default=None, static=True)

    every: ClassVar[int] = 1
    by_numpy: ClassVar[bool] = True
    most: ClassVar[int] = 150
    doubtful: ClassVar[int] = 50

    def prepare(self, market: Market) -> "InteriorPoint":
        """Reactive flows are given on trees without inverters, but for what is between phases."""
        refuse("InteriorPoint", market)
        grid = market.grid
        if self.reactive is not None or isinstance(grid.compensation_max, Tracer):
            return self
        inverters = bool(np.any(np.asarray(grid.compensation_max) > 0))
        between = bool(np.any(np.asarray(grid.third) < 0))
        return replace(self, reactive=not grid.model.radial or inverters or between)

    def init(self, market: Market, plan: Plan, prices: Rows) -> Inside:
        """Start with all products the same: near the plan if it is good, else by prices alone."""
        market, plan, prices = cast((market, plan, prices), jnp.float64)
        sets, scale, sigma = self._sets(market), scales(market, plan), zone_totals(market, plan)
        prices, price = gauged(market, prices), grid_price(market, sigma)
        if self.reactive is False:
            plan, prices = with_given_flows(market, plan, prices)
        wish = pack(market, plan, sigma, net_exchange(market, plan))
        flows = jnp.stack([plan.active, plan.reactive])
        inside = jnp.clip(wish, sets.lower, sets.upper)
        slope, drift = self._slopes(market, inside, flows, prices, price)
        given = flows.at[0].set(0.0) if self.reactive is False else jnp.zeros_like(flows)
        square = jnp.where(sets.open, sets.square - given[1] ** 2, 1.0)
        stiff, bulk = sets.stiff / PROXIMAL, sets.stiff_line / PROXIMAL
        guess = Guess(wish, flows - given, slope, drift, square, stiff, bulk)
        far, mu = judged(sets, guess, missed(market, plan, scale, sets.share), scale)
        if self.preference is not None:  # the plan meets the rows, and is to move far
            far, mu = jnp.zeros_like(far), jnp.full_like(mu, _ANEW)
        mu = mu * counted(market) * scale.price * scale.power
        room, flows = rooms(sets, guess, mu, far), shrunk(sets, guess, mu, far)
        if self.preference is not None:
            flows = jnp.where(self.preference.shut, self.preference.flows - given, flows)
        disc = square - jnp.sum(flows**2, axis=0)
        return Inside(sets, central(sets, room, flows + given, disc, mu, (prices, price)))

    def step(self, market: Market, state: Inside) -> Inside:
        """One predictor, one corrector and Gondzio's, all with one factorization."""
        market = cast(market, jnp.float64)
        sets, at = state.sets, state.state
        system = linearize(market, sets, at, self.preference, self.reactive is not False)
        products = _products(at)
        scale = scales(market, unpack(market, at.columns, at.flows))
        unit = counted(market) * scale.price * scale.power
        mu, by_hour = _means(sets, products, unit)
        none = jax.tree.map(jnp.zeros_like, products)
        affine = system.direction(market, sets, at, none)
        ahead = _moved(at, affine, _length(at, affine))
        goal = mu * jnp.clip(_means(sets, _products(ahead), unit)[0] / mu, 0.0, 1.0) ** _CENTRE
        goal = jnp.clip(_BEHIND * jnp.max(by_hour), goal, mu)
        goal = jnp.maximum(goal, _END) * unit
        curved = _second_order(at, affine)
        wanted = jax.tree.map(lambda c: goal - c, curved)
        move = system.direction(market, sets, at, wanted)
        length = _length(at, move)

        def after(move: State, length: Array) -> Float[Array, ""]:
            """The mean product that a step leaves."""
            return _means(sets, _products(_moved(at, move, _BOUNDARY * length)), unit)[0]

        def correct(_: Array, best: tuple[Products, State, Array]) -> Any:
            wanted, move, length = best
            ahead = _moved(at, move, jnp.minimum(1.0, length + _BEYOND))
            outliers = jax.tree.map(
                lambda p: jnp.clip(
                    jnp.clip(p, _OUTLYING * goal, goal / _OUTLYING) - p, -goal / _OUTLYING
                ),
                _products(ahead),
            )
            corrected = jax.tree.map(jnp.add, wanted, outliers)
            # what is predicted of second order may lead from one end to the other, for ever
            left = after(move, length)  # of a move that may be another in each hour
            grown = left > _GROWN * mu
            stuck = ~grown & (jnp.min(length) < _STUCK) & (mu < _LATE)
            aim = jnp.where(stuck, mu * unit, goal)  # who is stuck at bounds makes room first
            plain = jax.tree.map(lambda c: aim + 0 * c, curved)
            corrected = _where(grown | stuck, plain, corrected)
            tried = system.direction(market, sets, at, corrected)
            reached = _length(at, tried)
            better = lax.cond(
                grown,
                lambda: jnp.broadcast_to(after(tried, reached) < left, length.shape),
                lambda: jnp.where(stuck, jnp.min(reached) > jnp.min(length), reached > length),
            )
            return _where(better, (corrected, tried, reached), best)

        _, move, length = lax.fori_loop(0, _CORRECTORS, correct, (wanted, move, length))
        there = _moved(at, move, _BOUNDARY * length)
        apart = self._closer(market, sets, at, there, jnp.sqrt(mu), scale)
        there = _where(apart, there, _moved(at, move, _BOUNDARY * jnp.min(length)))
        there = replace(there, disc=jnp.maximum(there.disc, _ROUNDING * sets.square))
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(there)]))
        return Inside(sets, _where(sound, there, at))

    def worth_a_look(
        self,
        market: Market,
        state: Inside,
        steps: Int[Array, ""],
        error: Float[Array, ""],
        tol: Float[Array, ""],
    ) -> Bool[Array, ""]:
        """Products are what players could gain at most, if all rows are met."""
        market, at = cast(market, jnp.float64), state.state
        bill = scales(market, unpack(market, at.columns, at.flows)).bill
        gain = sum(jnp.sum(p) for p in jax.tree.leaves(_products(at)))
        return (gain <= _HOPEFUL * tol * bill) | (steps % _LOOKS == 0)

    def point(self, market: Market, state: Inside) -> tuple[Plan, Rows]:
        """The interior point, on those bounds that it all but touches; exchange follows from it."""
        dtype = market.prosumers.load.dtype
        wide = cast(market, jnp.float64)
        sets, at = state.sets, state.state
        touch = _TOUCHING * PROXIMAL / sets.stiff
        columns = jnp.where(at.below < touch * at.low, sets.lower, at.columns)
        columns = jnp.where(at.above < touch * at.high, sets.upper, columns)
        plan = unpack(wide, columns, at.flows)
        exchange = rows(wide, plan).bus[market.grid.feeder]
        prices = existing(bounded(wide), at.prices)
        if self.reactive is False:
            _, drift = slopes(wide, columns, at.flows, prices, at.price)
            steps = (drift[1] + 2 * at.tight * at.flows[1]) / counted(wide)
            prices = replace(prices, bus_reactive=along_lines(wide, steps))
            carried = reactive_flows(wide)
            over = jnp.abs(carried) > wide.grid.radius
            # of what lies behind such lines alone, the prices are a proof
            ray = along_lines(wide, jnp.where(over, jnp.sign(carried), 0.0))
            proof = replace(rows_like(wide), bus_reactive=ray)
            prices = _where(jnp.any(over), proof, prices)
        return cast((replace(plan, exchange=exchange), prices), dtype)

    def left(self, market: Market, state: Inside) -> Float[Array, ""]:
        """How far the state is from a minimum of costs and preference, relative to the market's

        scales: the largest of mean product, violation of a row, and slope that nothing balances.
        """
        market = cast(market, jnp.float64)
        sets, at = state.sets, state.state
        plan = unpack(market, at.columns, at.flows)
        scale = scales(market, plan)
        mu = _means(sets, _products(at), counted(market) * scale.price * scale.power)[0]
        steep = self._steep(market, sets, at, scale)
        return jnp.maximum(jnp.maximum(mu, steep), missed(market, plan, scale, sets.share))

    def _closer(
        self,
        market: Market,
        sets: Sets,
        at: State,
        there: State,
        excused: Float[Array, ""],
        scale: Scales,
    ) -> Bool[Array, ""]:
        """Whether neither rows nor slopes are further off than before or than may be."""
        plans = (unpack(market, a.columns, a.flows) for a in (at, there))
        off = [missed(market, plan, scale, sets.share) for plan in plans]
        steep = [self._steep(market, sets, a, scale) for a in (at, there)]
        near = off[1] <= jnp.maximum(off[0], jnp.minimum(excused, _ASTRAY))
        return near & (steep[1] <= jnp.maximum(steep[0], _STEEP))

    def _steep(self, market: Market, sets: Sets, at: State, scale: Scales) -> Float[Array, ""]:
        """The largest slope that nothing balances, relative to prices."""
        slope, drift = self._slopes(market, at.columns, at.flows, at.prices, at.price)
        slope = jnp.where(sets.free, slope - at.low + at.high, 0.0) / sets.unit
        drift = jnp.where(sets.open, drift + 2 * at.tight * at.flows, 0.0)
        drift = drift / (counted(market) * scale.price)
        each = [jnp.max(jnp.abs(a), initial=0.0) for a in (slope, drift)]
        return jnp.maximum(*each)

    def _slopes(
        self, market: Market, columns: Array, flows: Array, prices: Rows, price: Array
    ) -> tuple[Array, Array]:
        """Slopes of what can move: given reactive flows need no price to stay."""
        slope, drift = all_slopes(market, self.preference, columns, flows, prices, price)
        return slope, drift if self.reactive is not False else drift.at[1].set(0.0)

    def _sets(self, market: Market) -> Sets:
        sets = sets_of(market)
        return sets if self.preference is None else self.preference.narrow(sets)


def _products(state: State) -> Products:
    return Products(state.low * state.below, state.high * state.above, state.tight * state.disc)


def _means(
    sets: Sets, products: Products, unit: Float[Array, " H"]
) -> tuple[Float[Array, ""], Float[Array, " H"]]:
    """mu, the mean product, and that of each hour; in each hour's `unit`."""
    total = sum(jnp.sum(p, axis=0) for p in jax.tree.leaves(products)) / unit
    count = 2 * jnp.sum(sets.free, axis=0) + jnp.sum(sets.open, axis=0)
    return jnp.sum(total) / jnp.sum(count), total / jnp.maximum(count, 1)


def _second_order(state: State, move: State) -> Products:
    """What the products of a full step miss if they are taken to be linear."""
    f, d = state.flows, move.flows
    turned = -2 * jnp.sum(f * d, axis=0)
    return Products(
        low=move.low * move.columns,
        high=-move.high * move.columns,
        disc=move.tight * turned - state.tight * jnp.sum(d**2, axis=0),
    )


def _length(state: State, move: State) -> Float[Array, " H"]:
    """Longest step of each hour, at most 1, that keeps its multipliers and rooms at least 0."""

    def most(value: Array, change: Array) -> Array:
        return jnp.where(change < 0, -value / jnp.where(change < 0, change, 1.0), 1.0)

    columns = jnp.minimum(most(state.below, move.below), most(state.above, move.above))
    columns = jnp.minimum(
        columns, jnp.minimum(most(state.low, move.low), most(state.high, move.high))
    )
    # c(t) = disc - 2 b t - a t^2 falls to 0
    a = jnp.sum(move.flows**2, axis=0)
    b = jnp.sum(state.flows * move.flows, axis=0)
    moving = a * state.disc > 0
    root = state.disc / jnp.where(
        moving, b + jnp.sqrt(jnp.where(moving, b**2 + a * state.disc, 1.0)), 1.0
    )
    lines = jnp.minimum(most(state.tight, move.tight), jnp.where(moving, root, 1.0))
    return jnp.min(jnp.concatenate([columns, lines]), axis=0, initial=1.0)


def _where(chosen: Array, first: Any, second: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), first, second)


def _moved(state: State, move: State, length: Array) -> State:
    there = jax.tree.map(lambda a, d: a + length * d, state, move)
    return replace(there, disc=there.disc - length**2 * jnp.sum(move.flows**2, axis=0))
