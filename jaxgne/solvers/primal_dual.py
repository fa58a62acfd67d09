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
    limits,
    own_gradient,
    prox,
    pull,
    rows,
)
from ..optimality import cast, pin, scales
from .base import AbstractSolver

LOOK = 40  # iterations between two looks at the residual
STEP = 0.5  # of powers, before the balance omega; dimensionless


class _Iterate(eqx.Module):
    """A primal-dual point: plan, total import, prices of rows, price of the main grid."""

    plan: Plan
    total: Float[Array, " H"]  # kW
    prices: Rows
    price: Float[Array, " H"]  # EUR/kWh


class _Metric(eqx.Module):
    """Step sizes: tau per entry of the plan, Sigma per row; `network` is Sigma's dense block."""

    plan: Plan
    total: Float[Array, ""]
    rows: Rows  # Sigma; for rows of the network, the inverse of Sigma^-1's diagonal
    price: Float[Array, ""]
    network: Float[Array, "R R"]


class _State(eqx.Module):
    current: _Iterate
    image: _Iterate  # T of the previous current point: inside all private sets
    anchor: _Iterate
    metric: _Metric
    weight: Float[Array, ""]  # omega: dual against primal steps, EUR/kWh per kW
    age: Int[Array, ""]  # iterations since the restart
    steps: Int[Array, ""]
    first: Float[Array, ""]  # residual at the restart
    last: Float[Array, ""]  # residual one iteration ago


class PrimalDual(AbstractSolver):
    """Restarted, reflected Halpern iteration of preconditioned PDHG: the default solver.

    Iterations cost O(H (N + E + B^2)) time and O(H (N + E) + B^2) memory. `sufficient` and
    `necessary` are the shares of the residual at the last restart below which a restart is made at
    once, or as soon as the residual rises; `stale` the share of all iterations after which one is
    made anyway.
    """

    sufficient: float = 0.6
    necessary: float = 0.9
    stale: float = 0.2
    lopsided: float = 20.0

    def init(self, market: Market, plan: Plan, prices: Rows) -> _State:
        """Start from a plan and prices."""
        dtype = market.prosumers.load.dtype
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        scale = scales(market, plan)
        market = _widened(market)
        sigma = aggregate(market, plan)
        start = _Iterate(plan, sigma, pin(market, prices), grid_price(market, sigma))
        start = replace(start, plan=_wide_plan(start.plan), prices=_wide_rows(start.prices))
        metric = _metric(market)
        nought = jnp.zeros((), dtype)
        count = jnp.zeros((), jnp.int32)
        return _State(
            current=start,
            image=start,
            anchor=start,
            metric=metric,
            weight=(scale.price / scale.power).astype(dtype),
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
        age, steps = state.age + 1, state.steps + 1
        first = jnp.where(state.age == 0, residual, state.first)
        last = jnp.where(age % LOOK == 0, residual, state.last)
        due = residual <= self.sufficient * first
        due |= (residual <= self.necessary * first) & (residual > state.last)
        due |= age >= self.stale * steps
        due |= jnp.maximum(primal, dual) > self.lopsided * jnp.minimum(primal, dual)
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

        weight = _rebalanced(market, state, image).astype(dtype)
        return _State(
            current=pick(image, moved),
            image=image,
            anchor=pick(image, state.anchor),
            metric=state.metric,
            weight=jnp.where(due, weight, state.weight),
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


def _wide_plan(plan: Plan) -> Plan:
    """A plan with flows, voltages and exchange in float64."""
    names = ("active", "reactive", "voltage", "angle", "exchange")
    return replace(plan, **{name: getattr(plan, name).astype(jnp.float64) for name in names})


def _wide_rows(rows: Rows) -> Rows:
    """Rows with all but those of prosumers and buffers in float64."""
    names = ("aggregate", "bus", "bus_reactive", "exchange", "voltage", "angle")
    return replace(rows, **{name: getattr(rows, name).astype(jnp.float64) for name in names})


def _iterate(
    market: Market, metric: _Metric, weight: Array, at: _Iterate
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
    network = _network_rows(market, value)
    prices = _with_network(
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
    market: Market, metric: _Metric, weight: Array, old: _Iterate, new: _Iterate, network: Array
) -> Float[Array, ""]:
    """Squares of how far an iteration moved plan and prices, each in its part of the metric."""
    ts = market.hour_length
    primal, dual = _squares(metric, ts, old, new, network_too=False)
    change = _network_rows(market, new.prices) - _network_rows(market, old.prices)
    dual += weight * ts * jnp.sum(change * network)
    return weight * primal, dual / weight


def _squares(
    metric: _Metric, ts: Array, old: _Iterate, new: _Iterate, *, network_too: bool
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


def _rebalanced(market: Market, state: _State, image: _Iterate) -> Float[Array, ""]:
    """omega moved halfway (in logarithm, at most by 1.5) to what the last epoch suggests."""
    primal, dual = _squares(state.metric, market.hour_length, state.anchor, image, network_too=True)
    travelled = (primal > 0) & (dual > 0)
    ratio = jnp.where(travelled, dual, 1.0) / jnp.where(travelled, primal, 1.0)
    shift = jnp.clip(0.25 * jnp.log(ratio) - 0.5 * jnp.log(state.weight), -1.5, 1.5)
    return state.weight * jnp.exp(jnp.where(travelled, shift, 0.0))


def _network_rows(market: Market, value: Rows) -> Float[Array, "R H"]:
    """The rows of the network, stacked; 0 for feeders, whose rows free variables meet."""
    feeder = market.grid.feeder
    if market.grid.model == "copperplate":
        return value.bus[:0]
    parts = [value.bus.at[feeder].set(0.0), value.bus_reactive.at[feeder].set(0.0)]
    parts += [value.voltage, value.angle]
    return jnp.concatenate(parts)


def _with_network(market: Market, prices: Rows, change: Float[Array, "R H"]) -> Rows:
    """Prices with those of the network moved by `change`."""
    if market.grid.model == "copperplate":
        return prices
    bus, bus_reactive, voltage, angle = _split(market, change)
    return replace(
        prices,
        bus=prices.bus + bus,
        bus_reactive=prices.bus_reactive + bus_reactive,
        voltage=prices.voltage + voltage,
        angle=prices.angle + angle,
    )


def _split(market: Market, values: Float[Array, "R H"]) -> list[Array]:
    """The network's rows apart again: bus, bus_reactive, voltage, angle."""
    buses, lines = market.grid.passive.shape[0], market.grid.source.shape[0]
    return jnp.split(values, (buses, 2 * buses, 2 * buses + lines))


def _metric(market: Market) -> _Metric:
    """Step sizes with A^T Sigma A <= 1/tau: every group of rows takes its share of 1/tau.

    Groups: own balances, buffer dynamics, the link of the main grid's price and the aggregate limit
    (Sigma diagonal, rows bounded by their sums), and the network, whose Sigma is the exact inverse
    of A tau A^T. Entries that cannot move take no part.
    """
    lower, upper = boxes(market)
    live = jax.tree.map(lambda low, high: (high > low).astype(low.dtype), lower, upper)
    ts, stores, pairs = market.hour_length, market.buffers, market.trading
    own = by_owner(market, live.generation, market.generators.owner) + by_owner(
        market, live.charge + live.discharge, stores.owner
    )
    degree = by_owner(market, live.trades, pairs.buyer) + by_owner(
        market, live.trades, pairs.seller
    )
    terms = own + live.imports + live.exports + live.curtailed + 2 * degree
    into, out = ts * stores.charge_efficiency, ts / stores.discharge_efficiency
    dynamics = (1 + stores.retention) ** 2 + STEP * (into**2 + out**2)
    limited = jnp.isfinite(market.tariff.total_max) | jnp.isfinite(market.tariff.total_min)
    network, flow, volt, turn, diagonal = _network_metric(market, live)
    share, ones = 1 / STEP, jax.tree.map(jnp.ones_like, lower)
    networked = 0.0 if market.grid.model == "copperplate" else share
    plan = Plan(
        generation=ones.generation / (share + networked),
        charge=ones.charge / (2 * share + networked),
        discharge=ones.discharge / (2 * share + networked),
        energy=ones.energy,
        imports=ones.imports / (share + 1 + limited),
        exports=ones.exports / (share + limited),
        curtailed=ones.curtailed / (share + networked),
        trades=ones.trades / share,
        active=ones.active * flow[:, None],
        reactive=ones.reactive * flow[:, None],
        voltage=ones.voltage * volt[:, None],
        angle=ones.angle * turn[:, None],
        exchange=ones.exchange,
    )
    total = jnp.asarray(market.prosumers.bus.shape[0], market.tariff.slope.dtype)
    bus, bus_reactive, voltage, angle = _split(market, 1 / diagonal[:, None])
    rows = Rows(
        balance=1 / (STEP * jnp.maximum(terms, 1.0)),
        energy=jnp.broadcast_to(1 / dynamics[:, None], lower.energy.shape),
        aggregate=jnp.full_like(market.tariff.slope, 1 / (2 * total)),
        bus=bus,
        bus_reactive=bus_reactive,
        exchange=jnp.ones_like(market.tariff.slope),
        voltage=voltage,
        angle=angle,
    )
    return _Metric(_wide_plan(plan), total, _wide_rows(rows), 1 / (2 * total), network)


def _network_metric(
    market: Market, live: Plan
) -> tuple[Float[Array, "R R"], Array, Array, Array, Float[Array, " R"]]:
    """Sigma of the network's rows; steps of flows, voltages and angles; the diagonal of 1/Sigma.

    A flow's step is a dozen times the prosumers behind its line (the flow that one kW at each of
    them causes), a voltage's what such flows do to it. Feeders' rows and rows that the model lacks
    meet free variables: they are left out (0 in Sigma).
    """
    grid, dtype = market.grid, market.grid.passive.dtype
    buses, lines = grid.passive.shape[0], grid.source.shape[0]
    if grid.model == "copperplate":
        ones = (jnp.ones(lines, dtype), jnp.ones(buses, dtype), jnp.ones(buses, dtype))
        return jnp.zeros((0, 0), dtype), *ones, jnp.ones(2 * (buses + lines), dtype)
    with jax.enable_x64(True):
        r, x = grid.resistance.astype(jnp.float64), grid.reactance.astype(jnp.float64)
        line, owners = jnp.arange(lines), market.prosumers.bus
        leaving = jnp.zeros((buses, lines), jnp.float64)
        leaving = leaving.at[grid.source, line].add(1.0).at[grid.target, line].add(-1.0)
        fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
        tied = jnp.where(fed[:, None], 0.0, leaving)
        laplacian = tied @ tied.T + jnp.diag(fed.astype(jnp.float64))
        at = jnp.zeros(buses, jnp.float64).at[owners].add(1.0)
        behind = tied.T @ jnp.linalg.solve(laplacian, jnp.where(fed, 0.0, at))
        flow = 12 * jnp.maximum(jnp.abs(behind), 1.0)
        square, k = (r**2 + x**2) * flow, drop_factor(market)
        turn = jnp.abs(jnp.linalg.solve(laplacian, tied @ square))

        def movable(values: Array, owner: Array) -> Array:  # devices at each bus
            most = jnp.max(values, axis=1).astype(jnp.float64)
            return jnp.zeros(buses, jnp.float64).at[owners[owner]].add(most)

        devices = (
            movable(live.generation, market.generators.owner)
            + movable(live.charge, market.buffers.owner)
            + movable(live.discharge, market.buffers.owner)
            + movable(live.curtailed, jnp.arange(owners.shape[0]))
        )
        along = tied * flow
        balance = along @ tied.T
        spread = tied.T @ (jnp.where(fed, 0.0, turn)[:, None] * tied) + jnp.diag(square)
        nothing, apart = jnp.zeros_like(balance), jnp.zeros_like(spread)
        inverse = jnp.block(
            [
                [balance + STEP * jnp.diag(devices), nothing, -k * along * r, -along * x],
                [nothing, balance, -k * along * x, along * r],
                [-k * (along * r).T, -k * (along * x).T, k**2 * spread, apart],
                [-(along * x).T, (along * r).T, apart, spread],
            ]
        )
        used = jnp.concatenate(
            [
                ~fed,
                ~fed & grid.reactive_balance,
                jnp.ones(lines, bool),
                jnp.full(lines, grid.model == "paper"),
            ]
        )
        both = used[:, None] & used[None, :]
        inverse = jnp.where(both, inverse, jnp.eye(used.shape[0], dtype=jnp.float64))
        diagonal = jnp.diag(inverse)
        size = jnp.sqrt(diagonal)
        sigma = jnp.linalg.inv(inverse / size[:, None] / size) / size[:, None] / size
        sigma = jnp.where(both, sigma, 0.0)
        steps = (flow, jnp.where(fed, 1.0, k**2 * turn), jnp.where(fed, 1.0, turn))
        return sigma.astype(dtype), *(a.astype(dtype) for a in steps), diagonal.astype(dtype)
