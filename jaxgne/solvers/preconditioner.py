"""Step sizes of the primal-dual solver: a preconditioner that knows what the rows mean.

The rows fall into groups: what each prosumer balances, what the main grid's price links (total and
aggregate limit), the network, and the dynamics of storage. Every group has its own Sigma, and each
column a share of its step in every group that it enters: 1/tau = sum over groups of omega / tau_g,
with A_g tau_g A_g^T <= Sigma_g^-1. So each group, and within it each hour, buffer, or own balance
of a prosumer in an hour, may have a balance omega of dual against primal steps of its own, which
a congested hour needs, and prosumers whose price is held by a bound far away.

A column that rests at a bound keeps a small share of its step (`activity`), which leaves its rows
larger steps: the metric follows the active set, as the barrier of an interior point does.

What there is for each prosumer, device or pair is kept in few bytes, whatever the market's dtype:
balances and step sizes in float32, rounded down, and which columns rest as bits of a byte.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..market import Market
from ..model import (
    OF_CAPS,
    Plan,
    Rows,
    boxes,
    by_owner,
    by_side,
    counted,
    curvature,
    members,
    pull,
    rows_like,
    shared_out,
    without_curves,
    zeros,
)
from ..record import Record
from ..scales import scales, shares
from ..succession import earlier
from ..tables import device_buses, has_caps, kw_per_unit, weighty
from .network import Network, network

STEP = 0.5  # of powers, before the balance omega; dimensionless
TRADE = 0.5  # step of a trade in those of other powers
REST = 0.05  # activity of a column that rests at a bound


class Point(Record):
    """A primal-dual point: plan, import of each zone, prices of rows, those of the main grid."""

    plan: Plan
    total: Float[Array, "Z H"]  # kW
    prices: Rows
    price: Float[Array, "Z H"]  # EUR/kWh


_LINKED = ("imports", "exports")  # columns that the group of totals has
_NETWORKED = (  # and that of the network
    *("generation", "charge", "discharge", "curtailed"),
    *("active", "reactive", "voltage", "angle", "compensation", "exchange"),
)


class Balance(Record):
    """One entry per group of rows: an omega, EUR/kWh per kW, or a squared distance."""

    local: Float[Array, "N H"]  # omega in float32
    total: Float[Array, " H"]
    network: Float[Array, " H"]
    storage: Float[Array, "K 1"]
    caps: Float[Array, "M 1"] | None = None


class CapMetric(Record):
    """Of caps, in kW: what counts in their columns, and Sigma of their rows."""

    unit: Float[Array, "M 1"]  # kW per unit
    own: Plan  # 1/tau of level, rise and spare; of others 0
    rows: Float[Array, "M H"]  # Sigma of the sums
    damping: Float[Array, "M H"]  # Sigma of the levels, in the modes of storage


class Metric(Record):
    """1/tau of each group's columns, before omega and activity, and Sigma of its rows.

    That of own balances is `at_home`.
    """

    linked: Plan
    networked: Plan
    stored: Plan
    total: Float[Array, ""]  # tau of the import of a zone
    link: Float[Array, ""]  # Sigma of the price of the main grid and of the aggregate limit
    network: Network
    modes: Float[Array, "H H"]  # eigenvectors of storage dynamics without losses
    damping: Float[Array, "K H"]  # Sigma of storage dynamics in these
    smaller: Float[Array, "N 1"]  # times that each prosumer is smaller than the market's scale
    caps: CapMetric | None


class Steps(Record):
    """Step sizes with everything multiplied out: tau of the plan, Sigma of the rows."""

    plan: Plan  # in float32, but for what is the network's
    total: Float[Array, " H"]
    balance: Float[Array, "N H"]  # in float32
    energy: Float[Array, "K H"]  # in float32, in the modes
    link: Float[Array, " H"]
    network: Float[Array, " H"]  # omega
    cap: Float[Array, "M H"] | None
    level: Float[Array, "M H"] | None  # in the modes


def wide_plan(plan: Plan) -> Plan:
    """A plan with all that is the network's, and levels of caps, in float64."""
    return replace(plan, **{n: getattr(plan, n).astype(jnp.float64) for n in _few(plan)})


def _few(plan: Plan) -> tuple[str, ...]:
    """What of a plan is the network's, or of caps: few numbers beside the prosumers'."""
    names = ("active", "reactive", "voltage", "angle", "compensation", "exchange")
    return names + (() if plan.level is None else OF_CAPS)


def wide_rows(rows: Rows) -> Rows:
    """Rows with all but those of prosumers and buffers in float64."""
    names = ("aggregate", "bus", "bus_reactive", "exchange", "voltage", "angle")
    names += () if rows.cap is None else ("cap", "level")
    return replace(rows, **{name: getattr(rows, name).astype(jnp.float64) for name in names})


def movable(market: Market) -> Plan:
    """1 for columns that can move, 0 for those whose bounds leave no choice."""
    return jax.tree.map(lambda low, high: (high > low).astype(low.dtype), *boxes(market))


def metric(market: Market, held: Bool[Array, " B"]) -> Metric:
    """The metric of a market, all columns active; bounds have `held` the voltage of some buses."""
    live, stores = movable(market), market.buffers
    dtype, hours = live.imports.dtype, live.imports.shape[1]
    share = 1 / STEP
    limited = jnp.isfinite(market.tariff.total_max) | jnp.isfinite(market.tariff.total_min)
    bus = market.prosumers.bus
    grid = network(market, STEP * _at_buses(market, live), held)
    none = jax.tree.map(lambda _: jnp.zeros((), dtype), live)
    at_bus = jnp.asarray(share if market.grid.model.networked else 0.0, dtype)
    one = jnp.asarray(share, dtype)
    dynamics = np.eye(hours) - earlier(market.before, hours)
    stiffness, modes = np.linalg.eigh(dynamics @ dynamics.T)
    scale = scales(market, zeros(market))
    smaller = (scale.power / shares(market, scale).prosumer)[:, None].astype(dtype)
    held = smaller[stores.owner]
    total = jnp.asarray(bus.shape[0], market.tariff.slope.dtype)
    return Metric(
        linked=replace(none, imports=2 * one / share, exports=limited.astype(dtype)),
        networked=replace(
            none,
            generation=at_bus,
            charge=at_bus,
            discharge=at_bus,
            curtailed=at_bus,
            active=1 / grid.flow,
            reactive=1 / grid.flow,
            voltage=1 / grid.voltage,
            angle=1 / grid.angle,
            compensation=one,
            exchange=one,
        ),
        stored=replace(none, charge=one * held, discharge=one * held, energy=one * STEP * held),
        total=total,
        link=1 / (2 * total),
        network=grid,
        modes=jnp.asarray(modes, dtype),
        damping=held / _felt(market, live, jnp.asarray(stiffness, dtype)),
        smaller=smaller,
        caps=_cap_metric(market, live, stiffness) if has_caps(market) else None,
    )


def _at_buses(market: Market, live: Plan) -> Float[Array, "2 B"]:
    """How many columns enter the balance of each bus at most: devices, and inverters."""
    made, kept = device_buses(market)

    def columns(values: Array, bus: Array) -> Array:
        most = jnp.max(values, axis=1, initial=0.0)
        return jnp.zeros(market.grid.passive.shape[0], most.dtype).at[bus].add(most)

    devices = (
        columns(live.generation, made)
        + columns(live.charge + live.discharge, kept)
        + columns(live.curtailed, market.prosumers.bus)
    )
    return jnp.stack([devices, jnp.max(live.compensation, axis=1, initial=0.0)])


def _felt(market: Market, live: Plan, stiffness: Float[Array, " H"]) -> Float[Array, "K H"]:
    """What a row of contents feels of its columns, by mode: of contents, losses and charges.

    D_a D_a^T <= a D D^T + (1 - a) I, for a retention of a; on a path of several, by the most and
    the least of them. Steps that begin from one and keep unlike shares are not bounded so.
    """
    stores, ts = market.buffers, market.hour_length
    most, least = (bound(stores.retention, axis=1, keepdims=True) for bound in (jnp.max, jnp.min))
    into = ts * stores.charge_efficiency
    out = ts / stores.discharge_efficiency
    fed = into**2 * live.charge + out**2 * live.discharge
    fed = STEP * jnp.max(fed, axis=1, keepdims=True, initial=0.0)
    return most * stiffness + jnp.abs(1 - least) + fed


def _cap_metric(market: Market, live: Plan, stiffness: np.ndarray) -> CapMetric:
    """The metric of caps: each sum by the weights of its terms, levels like contents."""
    caps, unit = market.caps, kw_per_unit(market.caps)
    adds, kept = caps.adds[:, None] > 0, caps.carry[:, None]
    none, one = jax.tree.map(lambda _: jnp.zeros(()), live), unit**2
    each = unit * members(weighty(market), live)
    moving = jnp.max(live.rise, axis=1, keepdims=True)
    return CapMetric(
        unit=unit,
        own=replace(none, level=one * (2 - adds), rise=one * (1 + adds), spare=one),
        rows=one / (each + 2),
        damping=one / (kept * jnp.asarray(stiffness) + (1 - kept) + moving),
    )


def steps(market: Market, metric: Metric, omega: Balance, resting: Plan) -> Steps:
    """Step sizes for balances `omega`, where the columns `resting` are at bounds."""
    ts, activity = counted(market), activities(market, resting)

    def inverse(one: Array, two: Array, three: Array, active: Array) -> Array:
        held = one + omega.total * two + omega.network * three
        return held / jnp.where(active > 0, active, 1.0)

    own = at_home(market, metric, omega.local)
    total = jax.tree.map(inverse, own, metric.linked, metric.networked, activity)

    def with_storage(name: str) -> Array:
        active = getattr(activity, name)
        held = omega.storage * getattr(metric.stored, name)
        return getattr(total, name) + held / jnp.where(active > 0, active, 1.0)

    names = ("charge", "discharge", "energy")
    total = replace(total, **{name: with_storage(name) for name in names})
    cap = level = None
    if metric.caps is not None and omega.caps is not None:
        own = metric.caps
        total = _with_caps(market, own, omega.caps, activity, total)
        cap, level = omega.caps * own.rows, omega.caps * own.damping
    bend = curvature(without_curves(market), zeros(market))  # of curves `prox` takes its own
    tau = jax.tree.map(lambda i, h: 1 / (i + h), total, bend)
    own = jax.tree.map(_down, tau)
    return Steps(
        plan=replace(own, **{name: getattr(tau, name) for name in _few(tau)}),
        total=metric.total / omega.total,
        balance=_down(omega.local / ts / reach(market, metric, activity)),
        energy=_down(omega.storage * metric.damping),
        link=omega.total / ts * metric.link,
        network=omega.network / ts,
        cap=cap,
        level=level,
    )


def _down(step: Array) -> Array:
    """A step size in float32, never above what it is: steps hold to their bound in any dtype."""
    return (step * (1 - 2.0**-23)).astype(jnp.float32)


def at_home(market: Market, metric: Metric, omega: Float[Array, "N H"]) -> Plan:
    """1/tau that columns have for the own balances that they enter, a trade for both sides'."""
    each, pairs = omega * metric.smaller / STEP, market.trading
    held = each[market.buffers.owner]
    return replace(
        jax.tree.map(jnp.zeros_like, metric.linked),
        generation=each[market.generators.owner],
        charge=held,
        discharge=held,
        imports=each,
        exports=each,
        curtailed=each,
        trades=(each[pairs.buyer] + each[pairs.seller]) / (2 * TRADE),
    )


def _from_home(market: Market, metric: Metric, columns: Plan) -> Float[Array, "N H"]:
    """Numbers of columns by own balance, with the weights of `at_home`: its transpose."""
    own = by_owner(market, columns.generation, market.generators.owner)
    own += by_owner(market, columns.charge + columns.discharge, market.buffers.owner)
    own += columns.imports + columns.exports + columns.curtailed
    return metric.smaller / STEP * (own + by_side(market, columns.trades) / (2 * TRADE))


def _with_caps(
    market: Market, metric: CapMetric, omega: Float[Array, "M 1"], activity: Plan, total: Plan
) -> Plan:
    """1/tau with what caps add to it: for their own columns, and for their members'."""
    own = {name: omega * getattr(metric.own, name) for name in OF_CAPS}
    price = jnp.broadcast_to(omega * metric.unit, market.caps.level_max.shape)
    own |= shared_out(weighty(market), price)

    def more(name: str, held: Array) -> Array:
        active = getattr(activity, name)
        return getattr(total, name) + held / jnp.where(active > 0, active, 1.0)

    return replace(total, **{name: more(name, held) for name, held in own.items()})


def reach(market: Market, metric: Metric, activity: Plan) -> Float[Array, "N H"]:
    """1/Sigma of own balances: what their columns, each by its step, can do to them."""
    own = by_owner(market, activity.generation, market.generators.owner)
    own += by_owner(market, activity.charge + activity.discharge, market.buffers.owner)
    own += activity.imports + activity.exports + activity.curtailed
    degree = by_side(market, activity.trades)
    return STEP * jnp.maximum(own + 2 * TRADE * degree, REST) / metric.smaller


def activities(market: Market, resting: Plan) -> Plan:
    """Activity of each column, 0 to 1: 0 where bounds leave no choice, `REST` where it rests."""

    def one(rests: Array, moves: Array) -> Array:
        return jnp.where(rests, jnp.asarray(REST, moves.dtype), 1.0) * moves

    return jax.tree.map(one, resting, movable(market))


def nowhere(plan: Plan) -> Plan:
    """No column of a plan rests."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, bool), plan)


def rests(market: Market, before: Plan, now: Plan) -> Plan:
    """Which columns rested at one bound from `before` to `now`; of the network and energy none."""
    lower, upper = boxes(market)

    def still(a: Array, b: Array, low: Array, high: Array, kink: float = jnp.nan) -> Array:
        return (a == b) & ((b <= low) | (b >= high) | (b == kink))

    found = jax.tree.map(still, before, now, lower, upper)
    trades = still(before.trades, now.trades, lower.trades, upper.trades, 0.0)
    none = nowhere(now)
    names = ("energy", *_few(now))
    return replace(found, trades=trades, **{name: getattr(none, name) for name in names})


def holds(market: Market, before: Plan, now: Plan) -> Bool[Array, " B"]:
    """Buses whose voltage a bound held from `before` to `now` in some hour."""
    lower, upper = boxes(market)
    low = (before.voltage <= lower.voltage) & (now.voltage <= lower.voltage)
    high = (before.voltage >= upper.voltage) & (now.voltage >= upper.voltage)
    return jnp.any(low | high, axis=1)


def squares(
    market: Market, metric: Metric, resting: Plan, change: Point
) -> tuple[Balance, Balance]:
    """Squared length of a change of the plan, and of prices, in each group, before omega."""
    ts, activity = counted(market), activities(market, resting)
    sized = jax.tree.map(
        lambda u, active: u**2 / jnp.where(active > 0, active, 1.0), change.plan, activity
    )

    def hourly(share: Plan, names: tuple[str, ...]) -> Array:
        return _sum(jnp.sum(getattr(sized, n) * getattr(share, n), axis=0) for n in names)

    held = sized.charge + sized.discharge
    held = held * metric.stored.charge + sized.energy * metric.stored.energy
    primal = Balance(
        local=_from_home(market, metric, sized),
        total=hourly(metric.linked, _LINKED) + jnp.sum(change.total**2, axis=0) / metric.total,
        network=hourly(metric.networked, _NETWORKED),
        storage=jnp.sum(held, axis=1, keepdims=True),
    )
    prices = change.prices
    capped = None if metric.caps is None else _squared(market, metric, sized, prices)
    modes = (market.weight * prices.energy) @ metric.modes
    dual = Balance(
        local=ts**2 * prices.balance**2 * reach(market, metric, activity),
        total=ts**2 * (prices.aggregate**2 + jnp.sum(change.price**2, axis=0)) / metric.link,
        network=_along(market, metric, prices),
        storage=jnp.sum(modes**2 / metric.damping, axis=1, keepdims=True),
    )
    if capped is not None:
        primal, dual = replace(primal, caps=capped[0]), replace(dual, caps=capped[1])
    return primal, dual


def _squared(market: Market, metric: Metric, sized: Plan, prices: Rows) -> Any:
    """The same in the group of each cap, of squares of a plan by activity, and of prices."""
    own: Any = metric.caps
    moved = own.unit * members(weighty(market), sized)
    for name in OF_CAPS:
        moved += getattr(own.own, name) * getattr(sized, name)
    cap, level = market.weight * prices.cap, (market.weight * prices.level) @ metric.modes
    priced = cap**2 / own.rows + level**2 / own.damping
    return tuple(jnp.sum(a, axis=1, keepdims=True) for a in (moved, priced))


def squared(
    market: Market, metric: Metric, omega: Balance, size: Steps, change: Point
) -> Float[Array, ""]:
    """Squared length of a change in all groups: the sum of omega times and over its `squares`.

    By step sizes, whose bends it does not count: without the sums over each prosumer's columns.
    """
    ts, prices = counted(market), change.prices
    bend = curvature(without_curves(market), zeros(market))

    def stiff(u: Array, tau: Array, h: Array) -> Array:
        return jnp.sum(u**2 * (1 / tau - h))

    moved = jax.tree.leaves(jax.tree.map(stiff, change.plan, size.plan, bend))
    modes = (market.weight * prices.energy) @ metric.modes
    linked = prices.aggregate**2 + jnp.sum(change.price**2, axis=0)
    parts = [
        change.total**2 / size.total,
        ts * prices.balance**2 / size.balance,
        ts * linked / size.link,
        _along(market, metric, prices) / omega.network,
        modes**2 / size.energy,
    ]
    if size.cap is not None and size.level is not None:
        level = (market.weight * prices.level) @ metric.modes
        parts += [(market.weight * prices.cap) ** 2 / size.cap, level**2 / size.level]
    return _sum(moved) + _sum(jnp.sum(part) for part in parts)


def _along(market: Market, metric: Metric, prices: Rows) -> Float[Array, " H"]:
    """Squared length of prices of the network: y^T Sigma^-1 y, the sum of tau (A^T y)^2."""
    names = ("bus", "bus_reactive", "voltage", "angle")
    grid = replace(rows_like(market), **{name: getattr(prices, name) for name in names})
    pulled, live = pull(market, grid), movable(market)

    def through(name: str) -> Array:
        inverse, g = getattr(metric.networked, name), getattr(pulled, name)
        tau = jnp.where(inverse > 0, 1 / jnp.where(inverse > 0, inverse, 1.0), 0.0)
        return jnp.sum(jnp.where(getattr(live, name) > 0, tau * g**2, 0.0), axis=0)

    return _sum(through(name) for name in _NETWORKED)


def _sum(parts: Iterable[Array]) -> Array:
    return jnp.sum(jnp.stack([*parts]), axis=0)
