"""Preconditioned primal-dual hybrid gradient with reflected Halpern restarts.

Lagrangian: sum of the players' costs + prices . (rows - limits). The coupling through the price of
the main grid is split off: sigma becomes a variable of its own, z, with the row z = sum p_mg + b,
whose multiplier `price` is the main grid's marginal price. All else that is not linear is separable
and solved exactly by `prox`. One iteration, T, is

    u+ = prox(u - tau (F(u; price) + rows^T y)),   z+ alike,
    y+ = y + Sigma (rows(2 u+ - u) - limits)

(Chambolle, Pock, Math. Program. 159, 2016; here Sigma is diagonal for private rows and one dense
block for the network), and the anchored, reflected iteration w <- (k+1)/(k+2) (2 T w - w) +
1/(k+2) w_0 restarts at T w when its residual has fallen far enough (Lu, Yang, arXiv 2407.16144).
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..market import Market, cast
from ..model import (
    Plan,
    Rows,
    aggregate,
    curvature,
    grid_price,
    limits,
    own_gradient,
    prox,
    pull,
    rows,
)
from ..optimality import pin, scales
from .base import AbstractSolver
from .preconditioner import Metric, network_rows, preconditioner, wide_plan, wide_rows, with_network

LOOK = 40  # iterations between two looks at the residual


class _Iterate(eqx.Module):
    """A primal-dual point: plan, total import, prices of rows, price of the main grid."""

    plan: Plan
    total: Float[Array, " H"]  # kW
    prices: Rows
    price: Float[Array, " H"]  # EUR/kWh


class _State(eqx.Module):
    current: _Iterate
    image: _Iterate  # T of the previous current point: inside all private sets
    anchor: _Iterate
    metric: Metric
    weight: Float[Array, ""]  # omega: dual against primal steps, EUR/kWh per kW
    usual: Float[Array, ""]  # price scale over power scale, EUR/kWh per kW
    age: Int[Array, ""]  # iterations since the restart
    steps: Int[Array, ""]
    first: Float[Array, ""]  # residual at the restart
    last: Float[Array, ""]  # residual one iteration ago


class PrimalDual(AbstractSolver):
    """Restarted, reflected Halpern iteration of preconditioned PDHG: the default solver.

    Iterations cost O(H (N + E + B^2)) time and O(H (N + E) + B^2) memory. `sufficient` and
    `necessary` are the shares of the residual at the last restart below which a restart is made at
    once, or as soon as the residual rises; `stale` the share of all iterations after which one is
    made anyway; `lopsided` the ratio of primal to dual moves, or its inverse, that calls for
    another balance omega at once: a price that must travel far would crawl otherwise.
    """

    sufficient: float = 0.6
    necessary: float = 0.9
    stale: float = 0.1
    lopsided: float = 200.0

    def init(self, market: Market, plan: Plan, prices: Rows) -> _State:
        """Start from a plan and prices."""
        dtype = market.prosumers.load.dtype
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        scale = scales(market, plan)
        market = _widened(market)
        sigma = aggregate(market, plan)
        start = _Iterate(plan, sigma, pin(market, prices), grid_price(market, sigma))
        start = replace(start, plan=wide_plan(start.plan), prices=wide_rows(start.prices))
        metric = preconditioner(market)
        nought = jnp.zeros((), dtype)
        count = jnp.zeros((), jnp.int32)
        return _State(
            current=start,
            image=start,
            anchor=start,
            metric=metric,
            weight=(scale.price / scale.power).astype(dtype),
            usual=(scale.price / scale.power).astype(dtype),
            age=count,
            steps=count,
            first=nought,
            last=nought + jnp.inf,
        )

    def step(self, market: Market, state: _State) -> _State:
        """One iteration and, where due, a restart."""
        market, dtype = _widened(market), state.weight.dtype
        image, primal, dual = _iterate(market, state.metric, state.weight, state.current)
        image = jax.tree.map(lambda new, old: new.astype(old.dtype), image, state.current)
        residual = jnp.sqrt(primal + dual).astype(dtype)
        tiny = jnp.finfo(dtype).tiny
        age, steps = state.age + 1, state.steps + 1
        first = jnp.where(state.age == 0, residual, state.first)
        last = jnp.where(age % LOOK == 0, residual, state.last)
        due = residual <= self.sufficient * first
        due |= (residual <= self.necessary * first) & (residual > state.last)
        due |= age >= self.stale * steps
        # squared primal against dual residual, each relative to the market's own magnitudes
        excess = (state.usual / state.weight) ** 2 * dual / jnp.maximum(primal, tiny)
        lopsided = (excess > self.lopsided) | (excess < 1 / self.lopsided)
        due |= lopsided
        due &= age % LOOK == 0
        share = (age / (age + 1.0)).astype(dtype)
        moved = jax.tree.map(
            lambda new, old, rest: share * (2 * new - old) + (1 - share) * rest,
            image,
            state.current,
            state.anchor,
        )

        def pick(new: _Iterate, old: _Iterate) -> _Iterate:
            return jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)

        shift = jnp.where(
            lopsided, 0.25 * jnp.log(jnp.maximum(excess, tiny)), _travel(market, state, image)
        )
        shift = jnp.where(excess > 9, jnp.maximum(shift, 0), shift)
        shift = jnp.where(excess < 1 / 9, jnp.minimum(shift, 0), shift)
        weight = (state.weight * jnp.exp(jnp.clip(shift, -1.5, 1.5))).astype(dtype)
        return _State(
            current=pick(image, moved),
            image=image,
            anchor=pick(image, state.anchor),
            metric=state.metric,
            weight=jnp.where(due, weight, state.weight),
            usual=state.usual,
            age=jnp.where(due, 0, age),
            steps=steps,
            first=first,
            last=jnp.where(due, jnp.inf, last),
        )

    def point(self, market: Market, state: _State) -> tuple[Plan, Rows]:
        """The latest image of the iteration; what the feeders exchange follows from it."""
        dtype = market.prosumers.load.dtype
        plan, prices = cast((state.image.plan, state.image.prices), dtype)
        exchange = rows(market, replace(plan, exchange=jnp.zeros_like(plan.exchange))).bus
        return replace(plan, exchange=exchange[market.grid.feeder]), prices


def _widened(market: Market) -> Market:
    """The market with grid and tariff in float64.

    In float32 the network's rows are too ill-conditioned to converge; they and the totals are few
    numbers beside the prosumers', so these alone are kept in float64.
    """
    wide = cast((market.grid, market.tariff), jnp.float64)
    return eqx.tree_at(lambda m: (m.grid, m.tariff), market, wide)


def _iterate(
    market: Market, metric: Metric, weight: Array, at: _Iterate
) -> tuple[_Iterate, Float[Array, ""], Float[Array, ""]]:
    """T of a point, and the squares of its primal and dual moves in the metric, EUR."""
    ts, tariff = market.hour_length, market.tariff
    slope = jax.tree.map(jnp.add, own_gradient(market, at.plan, at.price), pull(market, at.prices))
    bend = curvature(market)
    step = jax.tree.map(lambda tau, h: 1 / (weight / tau + h), metric.plan, bend)
    plan = prox(market, jax.tree.map(lambda u, t, g: u - t * g, at.plan, step, slope), step)
    # z pays p0 + d z for the next kWh and earns `price`
    mine = metric.total / weight
    bend_total = ts * tariff.slope
    total = (at.total - mine * ts * (tariff.base - at.price)) / (1 + mine * bend_total)

    ahead = jax.tree.map(lambda new, old: 2 * new - old, plan, at.plan)
    value = rows(market, ahead)
    low, high = limits(market)

    duals = jax.tree.map(lambda s: weight * s / ts, metric.rows)
    duals = replace(duals, energy=weight * metric.rows.energy)
    network = network_rows(market, value)
    prices = with_network(
        market,
        replace(
            at.prices,
            balance=at.prices.balance + duals.balance * value.balance,
            energy=at.prices.energy + duals.energy * value.energy,
            aggregate=_projected(at.prices, duals, value, low, high),
        ),
        weight / ts * (metric.network @ network),
    )
    drawn = aggregate(market, ahead) - (2 * total - at.total)
    price = at.price + weight / ts * metric.price * drawn
    image = _Iterate(plan, total, prices, price)
    return image, *_move(market, metric, weight, at, image, network)


def _projected(prices: Rows, step: Rows, value: Rows, low: Rows, high: Rows) -> Float[Array, " H"]:
    """Price of the aggregate limits after a dual step: y + step (s - its projection)."""
    wish = value.aggregate + prices.aggregate / step.aggregate
    return step.aggregate * (wish - jnp.clip(wish, low.aggregate, high.aggregate))


def _move(
    market: Market, metric: Metric, weight: Array, old: _Iterate, new: _Iterate, network: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squares of how far an iteration moved plan and prices, each in its part of the metric."""
    ts = market.hour_length
    primal, dual = _squares(metric, ts, old, new, network_too=False)
    change = network_rows(market, new.prices) - network_rows(market, old.prices)
    dual += weight * ts * jnp.sum(change * network)
    return weight * primal, dual / weight


def _squares(
    metric: Metric, ts: Array, old: _Iterate, new: _Iterate, *, network_too: bool
) -> tuple[Array, Array]:
    """Squared primal and dual distances, each entry measured by its own step size."""

    def squared(a: Array, b: Array, size: Array) -> Array:
        return jnp.sum((a - b) ** 2 / size)

    primal = sum(jax.tree.leaves(jax.tree.map(squared, new.plan, old.plan, metric.plan)))
    primal += squared(new.total, old.total, metric.total)
    names = ("balance", "aggregate", *(("bus", "bus_reactive", "voltage", "angle") * network_too))
    dual = squared(new.prices.energy, old.prices.energy, metric.rows.energy)
    dual += ts**2 * squared(new.price, old.price, metric.price)
    for name in names:
        sigma = getattr(metric.rows, name)
        dual += ts**2 * squared(getattr(new.prices, name), getattr(old.prices, name), sigma)
    return primal, dual


def _travel(market: Market, state: _State, image: _Iterate) -> Float[Array, ""]:
    """Half the logarithm of how much larger omega must be to fit the last epoch's travel."""
    primal, dual = _squares(state.metric, market.hour_length, state.anchor, image, network_too=True)
    travelled = (primal > 0) & (dual > 0)
    ratio = jnp.where(travelled, dual, 1.0) / jnp.where(travelled, primal, 1.0)
    return jnp.where(travelled, 0.25 * jnp.log(ratio) - 0.5 * jnp.log(state.weight), 0.0)
