"""Preconditioned primal-dual hybrid gradient with reflected Halpern restarts.

Lagrangian: sum of the players' costs + prices . (rows - limits). The coupling through the price of
the main grid is split off: sigma becomes a variable of its own, z, with the row z = sum p_mg + b,
whose multiplier `price` is the main grid's marginal price. All else that is not linear is separable
and solved exactly by `prox`. One iteration, T, is

    u+ = prox(u - tau (F(u; price) + rows^T y)),   z+ alike,
    y+ = y + Sigma (rows(2 u+ - u) - limits)

(Chambolle, Pock, Math. Program. 159, 2016), with tau and Sigma of `preconditioner`, and the
anchored, reflected iteration w <- (k+1)/(k+2) (2 T w - w) + 1/(k+2) w_0 restarts at T w when its
residual has fallen far enough (Lu, Yang, arXiv 2407.16144). A restart sets each balance omega, of
groups and within them, anew and lets the steps follow the active set.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..curves import crossing, curvatures, slopes
from ..feasibility import existing
from ..market import Generators, Market, cast
from ..model import (
    Plan,
    Rows,
    counted,
    grid_price,
    in_zones,
    limits,
    moved,
    own_gradient,
    prox,
    pull,
    rows,
    without_curves,
    zone_bases,
    zone_slopes,
    zone_totals,
)
from ..optimality import pin
from ..record import Record
from ..scales import scales
from ..tables import has_caps
from .base import AbstractSolver
from .laggards import heard
from .polishing import polished
from .preconditioner import (
    Balance,
    Metric,
    Point,
    Steps,
    holds,
    metric,
    nowhere,
    rests,
    squared,
    squares,
    steps,
    wide_plan,
    wide_rows,
)

_MANY = 100_000  # prosumer-hours from which on polishing an answer, or hearing laggards, pays
_FINE = 1e-5  # tolerance up to which float64 is polished, and above which float32 hears laggards
_NEAR = {8: 20.0, 4: 100.0}  # relative KKT error over tolerance from which on, by bytes of a number
_HOPEFUL = {8: 30.0, 4: 100.0}  # the same for a look, where the error falls as the residual does
_LOOKS = 5  # residuals between looks in any case, as only looks find that there is no plan
_AGAIN = 1.05  # iterations over those at which it was polished, from which on it is again


class _State(Record):
    travel: Point  # from the anchor to 2 T w - w of the last point w, in float32
    image: Point  # T of the point at the last look: inside all private sets
    anchor: Point
    anchored: Rows  # rows of the anchor's plan
    drawn: Float[Array, "Z H"]  # what it imports, kW
    metric: Metric
    held: Bool[Array, " B"]  # buses whose voltage a bound has held; it only grows
    grown: Bool[Array, ""]  # whether it has since the metric was made
    resting: Plan  # columns that a bound holds: no numbers, but true or false
    omega: Balance
    steps: Steps
    usual: Balance  # price over power scale, by what a step counts, for all alike: EUR/kWh per kW
    age: Int[Array, ""]  # iterations since the restart
    begun: Int[Array, ""]  # iterations before it
    first: Float[Array, ""]  # residual when it was made
    last: Float[Array, ""]  # residual at the last look
    judged: Float[Array, ""]  # residual when its image was judged last
    polished: Int[Array, ""]  # iterations when it was polished last


class PrimalDual(AbstractSolver):
    """Restarted, reflected Halpern iteration of preconditioned PDHG, for markets of any size.

    Iterations cost O(H (N + E + B)) time and as much memory, where a grid that may have loops
    (`paper`) takes a dense matrix, O(H B^2), for its network. `sufficient` and
    `necessary` are the shares of the first residual since a restart below which a restart is made
    at once, or as soon as the residual rises; `stale` the share of all iterations after which one
    is made anyway; `lopsided` the ratio of squared relative primal to dual residuals, or its
    inverse, from which on a group's balance omega follows these.
    """

    sufficient: float = 0.6
    necessary: float = 0.9
    stale: float = 0.1
    lopsided: float = 1000.0

    def init(self, market: Market, plan: Plan, prices: Rows) -> _State:
        """Start from a plan and prices."""
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        prices = existing(market, pin(market, prices))
        # a feeder's exchange is free, so its row has no price and no part in the iteration
        prices = replace(prices, bus=prices.bus.at[market.grid.feeder].set(0.0))
        scale = scales(market, plan)
        market = _widened(market)
        sigma = zone_totals(market, plan)
        start = Point(wide_plan(plan), sigma, wide_rows(prices), grid_price(market, sigma))
        usual = scale.price.astype(jnp.float64) / _power(market)
        stores = (market.buffers.owner.shape[0], 1)
        hourly = usual * market.weight
        own = hourly[None].astype(jnp.float32)
        alike = Balance(own, hourly, hourly, jnp.broadcast_to(usual, stores))
        if has_caps(market):
            by_cap = jnp.broadcast_to(usual, market.caps.carry[:, None].shape)
            alike = replace(alike, caps=by_cap)
        omega = replace(alike, local=jnp.broadcast_to(own, market.prosumers.load.shape))
        free = jnp.zeros(market.grid.passive.shape[0], bool)
        geometry, resting = metric(market, free), nowhere(start.plan)
        count, none = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float64)
        state = _State(
            travel=_nothing(start),
            image=start,
            anchor=start,
            anchored=rows(market, start.plan),
            drawn=sigma,
            metric=geometry,
            held=free,
            grown=jnp.zeros((), bool),
            resting=resting,
            omega=omega,
            steps=steps(market, geometry, omega, resting),
            usual=alike,
            age=count,
            begun=count,
            first=none + jnp.inf,
            last=none + jnp.inf,
            judged=none + jnp.inf,
            polished=count,
        )
        image, _ = _iterate(market, state, start)
        return _stepped(market, state, resting=rests(market, start.plan, image.plan))

    def step(self, market: Market, state: _State) -> _State:
        """One iteration."""
        _, travel = _iterate(_widened(market), state, _current(state))
        return replace(state, travel=travel, age=state.age + 1)

    def look(self, market: Market, state: _State) -> _State:
        """One iteration and, where due, a restart."""
        market = _widened(market)
        current = _current(state)
        image, travel = _iterate(market, state, current)
        change = jax.tree.map(jnp.subtract, image, current)
        residual = jnp.sqrt(squared(market, state.metric, state.omega, state.steps, change))
        age = state.age + 1
        due = residual <= self.sufficient * state.first
        due |= (residual <= self.necessary * state.first) & (residual > state.last)
        due |= age >= self.stale * (state.begun + age)

        def restart() -> _State:
            resting = rests(market, state.anchor.plan, image.plan)
            held = state.held | holds(market, state.anchor.plan, image.plan)
            return _stepped(
                market,
                state,
                travel=_nothing(image),
                anchor=image,
                anchored=rows(market, image.plan),
                drawn=zone_totals(market, image.plan),
                held=held,
                grown=jnp.any(held != state.held),
                resting=resting,
                omega=self._balance(market, state, image, current),
                age=jnp.zeros_like(age),
                begun=state.begun + age,
                first=residual,
                last=jnp.full_like(residual, jnp.inf),
            )

        def go_on() -> _State:
            return replace(state, travel=travel, age=age, last=residual)

        return replace(jax.lax.cond(due, restart, go_on), image=image)

    def worth_a_look(
        self,
        market: Market,
        state: _State,
        steps: Int[Array, ""],
        error: Float[Array, ""],
        tol: Float[Array, ""],
    ) -> Bool[Array, ""]:
        """Where the error may have come near `tol`, as it falls about as fast as the residual."""
        load = market.prosumers.load
        hopeful = _HOPEFUL[load.dtype.itemsize if load.size >= _MANY else 8]
        far = error * _residual(state) > hopeful * tol * state.judged  # not where it is NaN
        return ~far | (steps % (_LOOKS * self.every) == 0)

    def nearer(
        self, market: Market, state: _State, error: Float[Array, ""], tol: Float[Array, ""]
    ) -> _State:
        """The image polished, or in float32 its laggards heard, where the last look was near `tol`.

        The iteration goes on as it was. Polishing takes about as long as the steps between two
        looks, and so do two hundred laggards of a market of 100,000.
        """
        load = market.prosumers.load
        state = replace(state, judged=_residual(state))
        if load.size < _MANY or market.committed is not None:
            return state
        iterations, fine = state.begun + state.age, load.dtype == jnp.float64
        due = (tol <= _FINE) if fine else (tol > _FINE)
        due &= (error > tol) & (error <= _NEAR[load.dtype.itemsize] * tol)
        due &= iterations >= _AGAIN * state.polished

        def better() -> _State:
            wide = state.image.plan, state.image.prices
            plan, prices = cast(wide, load.dtype)
            near = (market, plan, prices)
            found = polished(*near) if fine else heard(*near, tol)
            plan, prices = jax.tree.map(lambda a, b: a.astype(b.dtype), found, wide)
            image = replace(state.image, plan=plan, prices=prices)
            return replace(state, image=image, polished=iterations)

        return jax.lax.cond(due, better, lambda: state)

    def outdated(self, state: _State) -> Bool[Array, ""]:
        """Whether bounds hold the voltage of buses that the metric takes as free."""
        return state.grown

    def renew(self, market: Market, state: _State) -> _State:
        """The metric of the buses that bounds hold."""
        market = _widened(market)
        return _stepped(
            market,
            state,
            metric=metric(market, state.held),
            grown=jnp.zeros_like(state.grown),
        )

    def _balance(self, market: Market, state: _State, image: Point, current: Point) -> Balance:
        """New balances: halfway to the ratio of dual to primal travel since the restart.

        Where one of the two residuals is far larger than the other, each relative to the market's
        own magnitudes, omega does not move against it.
        """
        last = _squares(market, state, image, current)
        since = _squares(market, state, image, state.anchor)
        bound = jnp.log(self.lopsided)

        def pooled(squares: Array) -> Array:  # so that what rests follows the others
            return squares + 0.1 * jnp.mean(squares) + jnp.finfo(squares.dtype).tiny

        def change(
            omega: Array, usual: Array, primal: Array, dual: Array, step: Array, turn: Array
        ) -> Array:
            shift = 0.5 * (0.5 * jnp.log(pooled(dual) / pooled(primal)) - jnp.log(omega))
            excess = jnp.log(pooled(turn / omega**2) / pooled(step * omega**2) * usual**2)
            shift = jnp.where(excess > bound, jnp.maximum(shift, (excess - bound) / 4), shift)
            shift = jnp.where(excess < -bound, jnp.minimum(shift, (excess + bound) / 4), shift)
            return (omega * jnp.exp(jnp.clip(shift, -1.5, 1.5))).astype(omega.dtype)

        return jax.tree.map(change, state.omega, state.usual, *since, *last)

    def point(self, market: Market, state: _State) -> tuple[Plan, Rows]:
        """The latest image of the iteration; what the feeders exchange follows from it."""
        dtype = market.prosumers.load.dtype
        plan, prices = cast((state.image.plan, state.image.prices), dtype)
        exchange = rows(market, replace(plan, exchange=jnp.zeros_like(plan.exchange))).bus
        return replace(plan, exchange=exchange[market.grid.feeder]), prices


def _residual(state: _State) -> Float[Array, ""]:
    """That of the last look, which may have made a restart."""
    return jnp.where(jnp.isinf(state.last), state.first, state.last)


def _power(market: Market) -> Float[Array, ""]:
    """What one prosumer moves, kW: the largest load, or else device; however many they are."""
    devices = (market.generators.power_max, market.buffers.charge_max, market.buffers.discharge_max)
    load, *each = (jnp.max(jnp.abs(a), initial=0.0) for a in (market.prosumers.load, *devices))
    passive = jnp.max(jnp.abs(market.grid.passive), initial=0.0)
    power = jnp.maximum(load, 1e-2 * jnp.max(jnp.stack([*each, passive])))
    return jnp.where(power > 0, power, 1.0)


def _widened(market: Market) -> Market:
    """The market with grid, tariff and zones in float64.

    In float32 the network's rows are too ill-conditioned to converge; they and the totals are few
    numbers beside the prosumers', so these alone are kept in float64.
    """
    wide = cast((market.grid, market.tariff, market.zones), jnp.float64)
    return eqx.tree_at(lambda m: (m.grid, m.tariff, m.zones), market, wide)


def _iterate(market: Market, state: _State, at: Point) -> tuple[Point, Point]:
    """T of a point w, and the way from the anchor to 2 T w - w.

    Rows are the anchor's and what the way adds to them: the way shrinks as the iteration converges,
    so that float32 has digits enough for it in a market in float64.
    """
    (market, size), geometry = _each_time(market, state), state.metric
    ts = counted(market)
    own = own_gradient(without_curves(market), at.plan, at.price)
    slope = jax.tree.map(jnp.add, own, pull(market, at.prices))
    wish = jax.tree.map(lambda u, t, g: u - t * g.astype(u.dtype), at.plan, size.plan, slope)
    plan = prox(market, wish, size.plan)
    if market.generators.curves:
        made = _bent_prox(market.generators, wish.generation, ts * size.plan.generation)
        plan = replace(plan, generation=made)
    # z pays p0 + d z for the next kWh and earns `price`
    gained = at.total - size.total * ts * (zone_bases(market) - at.price)
    total = gained / (1 + size.total * ts * zone_slopes(market))

    way = _mirrored(plan, at.plan, state.anchor.plan, state.travel.plan)
    value = jax.tree.map(jnp.add, state.anchored, moved(_lean(market), way))
    low, high = limits(market)
    # y + Sigma (s - its projection)
    wanted = value.aggregate + at.prices.aggregate / size.link
    scarce = size.link * (wanted - jnp.clip(wanted, low.aggregate, high.aggregate))
    stored = ((value.energy @ geometry.modes) * size.energy) @ geometry.modes.T
    moves = jax.tree.map(lambda a: size.network * a, geometry.network(market, value))
    moves = replace(moves, balance=size.balance * value.balance, energy=stored / market.weight)
    if value.level is not None:
        by_cap: Any = (size.cap, size.level)
        level = ((value.level @ geometry.modes) * by_cap[1]) @ geometry.modes.T
        moves = replace(
            moves, cap=by_cap[0] * value.cap / market.weight, level=level / market.weight
        )
    prices = jax.tree.map(jnp.add, at.prices, moves)
    drawn = state.drawn + in_zones(market, way.imports) - (2 * total - at.total)
    image = Point(plan, total, replace(prices, aggregate=scarce), at.price + size.link * drawn)
    image = jax.tree.map(lambda new, old: new.astype(old.dtype), image, at)
    return image, replace(_mirrored(image, at, state.anchor, state.travel), plan=way)


def _each_time(market: Market, state: _State) -> tuple[Market, Steps]:
    """Market and step sizes, of which XLA computes nothing of pairs ahead of a loop of steps.

    It would keep tolls by hour, and step sizes in the market's dtype, as arrays that each step
    reads; made of the few numbers that they follow from they are no traffic.
    """
    held = (market.trading, state.steps, state.age)  # the age is another at each step
    trading, size, _ = jax.lax.optimization_barrier(held)
    return eqx.tree_at(lambda m: m.trading, market, trading), size


def _bent_prox(units: Generators, wish: Array, step: Array) -> Float[Array, "G H"]:
    """argmin of curves + (u - wish)^2 / (2 step) within bounds; `step` in kW per EUR/kWh."""

    def rise(power: Array) -> tuple[Array, Array]:
        slope, bend = slopes(units.curves, power), curvatures(units.curves, power)
        return power - wish + step * slope, 1 + step * bend

    return crossing(rise, units.power_min, units.power_max, wish)


def _mirrored(image: Any, at: Any, anchor: Any, travel: Any) -> Any:
    """The way from the anchor to the point mirrored at its image, as few bytes as `travel` has.

    A sum of what is rounded: a rounded sum XLA would make twice, to be kept and to be summed.
    """

    def way(new: Array, old: Array, rest: Array, kept: Array) -> Array:
        return (new - old).astype(kept.dtype) + (new - rest).astype(kept.dtype)

    return jax.tree.map(way, image, at, anchor, travel)


def _nothing(anchor: Point) -> Point:
    """No way from an anchor: in float32, but for totals and all that is the network's."""
    plan, prices = cast((anchor.plan, anchor.prices), jnp.float32)
    few = replace(anchor, plan=wide_plan(plan), prices=wide_rows(prices))
    return jax.tree.map(jnp.zeros_like, few)


def _lean(market: Market) -> Market:
    """The market with its tables in float32, but for the grid, tariff and zones."""
    wide = market.grid, market.tariff, market.zones
    return eqx.tree_at(lambda m: (m.grid, m.tariff, m.zones), cast(market, jnp.float32), wide)


def _current(state: _State) -> Point:
    """Where the iteration is: between the anchor and the last point mirrored, ever closer to it.

    Taken where it is used, not kept: so a step reads and writes each array once.
    """
    share = state.age / (state.age + 1)

    def at(rest: Array, way: Array) -> Array:
        return rest + share.astype(rest.dtype) * way

    return jax.tree.map(at, state.anchor, state.travel)


def _stepped(market: Market, state: _State, **changes: Any) -> _State:
    """The state with changes, and step sizes to match."""
    state = replace(state, **changes)
    sizes = steps(market, state.metric, state.omega, state.resting)
    return replace(state, steps=sizes)


def _squares(market: Market, state: _State, new: Point, old: Point) -> tuple[Balance, Balance]:
    change = jax.tree.map(jnp.subtract, new, old)
    return squares(market, state.metric, state.resting, change)
