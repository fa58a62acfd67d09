"""Derivatives of the Lagrangian's slope by hand: NumPy can run them, and JAX traces less.

The Lagrangian is quadratic in a plan and its prices, but for flows at their rating, which turn.
Everything is taken where these have not turned, at the equilibrium itself, and without a barrier.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..curves import AbstractCurve
from ..market import Generators, Market
from ..model import (
    Plan,
    Rows,
    aggregate,
    counted,
    curvature,
    curve_slopes,
    ended,
    length,
    moved,
    own_gradient,
    pull,
    rows,
    rows_like,
    terms,
    toll,
    weights,
)
from ..record import changed
from ..runner import jnp, on_host, to_device, to_host
from ..succession import entered, leaves, roots
from ..tables import Caps, has_caps
from .active import HIGH, LOW, TIGHT, Active
from .lagrangian import Point, equations, net_of, plan_of


def _direction(active: Active, base: Plan) -> tuple[Array, Array, Array]:
    """Whether each line's flow is at its rating, and the cosine and sine of where it points."""
    tight = active.plan.active == TIGHT
    size = jnp.where(tight, length(base.active, base.reactive), 1.0)
    return tight, base.active / size, base.reactive / size


def turned(active: Active, base: Plan, change: Plan) -> Plan:
    """How a plan moves with its free entries (`plan_of`), but for what the feeders exchange."""
    tight, cos, sin = _direction(active, base)
    free = _free(active, change)
    grown = jnp.where(active.weak.reactive, change.reactive, 0.0)
    return replace(
        free,
        active=jnp.where(tight, cos * grown - sin * change.active, free.active),
        reactive=jnp.where(tight, sin * grown + cos * change.active, free.reactive),
    )


def turned_back(active: Active, base: Plan, force: Plan) -> Plan:
    """The transpose: what forces on a plan are on its free entries."""
    tight, cos, sin = _direction(active, base)
    free = _free(active, force)
    around = cos * force.reactive - sin * force.active
    outward = jnp.where(active.weak.reactive, cos * force.active + sin * force.reactive, 0.0)
    return replace(
        free,
        active=jnp.where(tight, around, free.active),
        reactive=jnp.where(tight, outward, free.reactive),
    )


def moving(active: Active, point: Point) -> Point:
    """Its entries that can move, 0 for all others; and its prices."""
    tight = active.plan.active == TIGHT
    free = _free(active, point.plan)
    round_only = tight & ~active.weak.reactive
    free = replace(
        free,
        active=jnp.where(tight, point.plan.active, free.active),
        reactive=jnp.where(round_only, 0.0, free.reactive),
    )
    return replace(point, plan=free, net=_net(active, point.net))


def _free(active: Active, plan: Plan) -> Plan:
    free = jax.tree.map(lambda may, u: jnp.where(may, u, 0.0), active.free, plan)
    return replace(free, exchange=jnp.zeros_like(free.exchange))


def gradient(market: Market, active: Active, base: Plan, point: Point) -> Point:
    """dL/dw: zero at the equilibrium."""
    ts, given, tariff = counted(market), equations(market), market.tariff
    plan, net = plan_of(market, active, base, point.plan), net_of(market, active, point.net)
    prices = _times(given, point.prices)
    own = own_gradient(market, plan, jnp.zeros_like(point.price))
    force = jax.tree.map(jnp.add, own, pull(market, prices))
    tolled = force.trades + toll(market) * active.sign
    force = replace(force, imports=force.imports + ts * point.price, trades=tolled)
    value = rows(market, plan)
    value = replace(value, aggregate=value.aggregate - net)
    return Point(
        plan=turned_back(active, base, force),
        total=ts * (tariff.base + tariff.slope * point.total - point.price),
        net=_net(active, -ts * prices.aggregate),
        prices=_times(weights(market), _times(given, value)),
        price=ts * (aggregate(market, plan) - point.total),
    )


def hessian(market: Market, active: Active, base: Plan, point: Point) -> Callable[[Point], Point]:
    """K, the second derivative of the Lagrangian at an equilibrium, as it acts on changes."""
    ts, given, weight, bend = (
        counted(market),
        equations(market),
        weights(market),
        curvature(market, base),
    )
    tight, cos, sin = _direction(active, base)
    push = pull(market, _times(given, point.prices))
    radius = jnp.where(tight, market.grid.rating[:, None], 1.0)
    curl = jnp.where(tight, -(cos * push.active + sin * push.reactive) / radius, 0.0)

    def apply(change: Point) -> Point:
        plan, net = turned(active, base, change.plan), _net(active, change.net)
        prices = _times(given, change.prices)
        force = jax.tree.map(lambda h, u, p: h * u + p, bend, plan, pull(market, prices))
        force = replace(force, imports=force.imports + ts * change.price)
        back = turned_back(active, base, force)
        value = moved(market, plan)
        value = replace(value, aggregate=value.aggregate - net)
        return Point(
            plan=replace(back, active=back.active + curl * change.plan.active),
            total=ts * (market.tariff.slope * change.total - change.price),
            net=_net(active, -ts * prices.aggregate),
            prices=_times(weight, _times(given, value)),
            price=ts * (jnp.sum(plan.imports, axis=0) - change.total),
        )

    return apply


def _net(active: Active, net: Float[Array, " H"]) -> Float[Array, " H"]:
    return jnp.where(active.net_free, net, 0.0)


def _times(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.multiply, one, other)


def fed(market: Market, weight: Plan) -> Rows:
    """Prices of the feeders' buses that count what they exchange by a `weight`."""
    none, feeder = rows_like(market), market.grid.feeder
    bus = none.bus.at[feeder].add(weight.exchange / counted(market))
    return replace(none, bus=bus)


def unfolded_back(market: Market, active: Active, base: Plan, plan: Plan, prices: Rows) -> Point:
    """The transpose of `unfold` in a point: what weights of plan and prices are on it."""
    force = jax.tree.map(jnp.add, plan, pull(market, fed(market, plan)))
    hour = jnp.zeros_like(market.tariff.slope)
    priced = _times(equations(market), prices)
    return Point(turned_back(active, base, force), hour, hour, priced, hour)


def by_market(
    market: Market, active: Active, base: Plan, point: Point, weight: Plan, move: Point
) -> Market:
    """d/dm of `weight` . plan - `move` . slope, at a point: a number for each of the market.

    `base` is the equilibrium's plan. Entries that bounds hold move with them.
    """
    ts, tariff, grid = counted(market), market.tariff, market.grid
    units, stores, pairs = market.generators, market.buffers, market.trading
    given, scale, bend = equations(market), weights(market), curvature(market, base)
    u, v = plan_of(market, active, base, point.plan), turned(active, base, move.plan)
    net = _net(active, move.net)
    y, dual = _times(given, point.prices), _times(given, move.prices)
    total, price = move.total, move.price
    value, felt = rows(market, u), moved(market, v)
    value = replace(value, aggregate=value.aggregate - net_of(market, active, point.net))
    felt = replace(felt, aggregate=felt.aggregate - net)

    def hourly(array: Array) -> Array:
        return jnp.sum(array, axis=0)

    def each(array: Array) -> Array:
        return jnp.sum(array, axis=1)

    # rows of the plan, and of its move, by what they count
    count = jax.tree.map(jnp.subtract, fed(market, weight), dual)
    force = jax.tree.map(lambda w, h, m, p: w - h * m + p, weight, bend, v, pull(market, count))
    force = replace(force, imports=force.imports - ts * price)
    r, s = _times(scale, count), jax.tree.map(lambda w, a: -w * a, scale, y)
    low = jax.tree.map(lambda code, f: jnp.where(code == LOW, f, 0.0), active.plan, force)
    high = jax.tree.map(lambda code, f: jnp.where(code == HIGH, f, 0.0), active.plan, force)

    before = entered(market.before, stores.energy_start, u.energy)
    ahead = entered(market.before, jnp.zeros_like(stores.energy_start), v.energy)
    begun, long = roots(market.before, u.energy.shape[1]), market.hour_length
    into, out = stores.charge_efficiency[:, None], stores.discharge_efficiency[:, None]
    stored = [into * plan.charge - plan.discharge / out for plan in (u, v)]
    buffers = changed(
        stores,
        owner=None,
        charge_max=high.charge,
        discharge_max=high.discharge,
        energy_min=low.energy,
        energy_max=high.energy,
        energy_start=-stores.retention * each(begun * r.energy),
        drain=r.energy,
        retention=-each(r.energy * before + s.energy * ahead),
        charge_efficiency=-each(long * (r.energy * u.charge + s.energy * v.charge)),
        discharge_efficiency=-each(
            long * (r.energy * u.discharge + s.energy * v.discharge) / out**2
        ),
        quadratic=-2 * each(ts * (u.charge * v.charge + u.discharge * v.discharge)),
        linear=-each(ts * (v.charge + v.discharge)),
        final_value=each(ended(market) * v.energy),
    )
    generators = changed(
        units,
        owner=None,
        power_min=low.generation,
        power_max=high.generation,
        quadratic=-2 * each(ts * u.generation * v.generation),
        linear=-each(ts * v.generation),
        curves=_by_curves(units, u.generation, -ts * v.generation),
    )
    trading = changed(
        pairs,
        buyer=None,
        seller=None,
        limit=each(high.trades - low.trades),
        fee_buyer=-each(ts * v.trades),
        fee_seller=each(ts * v.trades),
        toll=-2 * each(ts * active.sign * v.trades),
        quadratic=-4 * each(ts * u.trades * v.trades),
    )
    networked = grid.model.networked
    home = market.prosumers.bus
    prosumers = changed(
        market.prosumers,
        bus=None,
        load=r.balance + r.bus[home] * networked,
        reactive=r.bus_reactive[home] * (networked and grid.reactive_balance),
        import_max=high.imports,
        export_max=high.exports,
        curtail_max=high.curtailed,
    )
    own = hourly(u.imports * v.imports)
    shared = tariff.base * total + tariff.slope * point.total * total
    shared = shared + price * (aggregate(market, u) - point.total)
    shared = shared + point.price * (hourly(v.imports) - total)
    dearer = own_gradient(market, u, jnp.zeros_like(price))
    still = jax.tree.map(jnp.zeros_like, (dearer.energy, dearer.rise))
    dearer = replace(dearer, energy=still[0], rise=still[1])
    worth = jax.tree.map(lambda a, b, c, d: a * b + c * d, dual, value, y, felt)
    tolls = hourly(toll(market) * active.sign * v.trades)
    costs = (tolls + sum(hourly(a) for a in jax.tree.leaves(_times(dearer, v)))) / ts
    content = hourly(worth.energy)  # whose rows are in kWh
    if worth.cap is not None:  # in units of their own
        content += hourly(worth.cap + worth.level + market.caps.price[:, None] * v.rise)
    worth = replace(worth, energy=jnp.zeros_like(worth.energy), cap=None, level=None)
    shared = shared + costs + sum(hourly(jnp.atleast_2d(a)) for a in jax.tree.leaves(worth))
    grown = hourly(dual.energy * stored[0] + y.energy * stored[1])
    last = leaves(market.before, u.energy.shape[1])
    left = jnp.where(last, hourly(stores.final_value[:, None] * v.energy), 0.0)
    return changed(
        eqx.filter(market, eqx.is_inexact_array),
        prosumers=prosumers,
        generators=generators,
        buffers=buffers,
        trading=trading,
        grid=_by_grid(market, active, u, v, r, s, low, high, force, ts * price),
        tariff=changed(
            tariff,
            base=-ts * total,
            slope=-ts * (point.total * total + tariff.anticipation * own),
            export=ts * hourly(v.exports),
            total_min=jnp.where(active.net == LOW, ts * dual.aggregate, 0.0),
            total_max=jnp.where(active.net == HIGH, ts * dual.aggregate, 0.0),
            anticipation=-jnp.sum(ts * tariff.slope * own),
        ),
        caps=_by_caps(market, u, v, r, s, low, high),
        hour_length=market.weight * (grown - shared),
        weight=left - long * shared - content,
    )


def _by_caps(market: Market, u: Plan, v: Plan, r: Rows, s: Rows, low: Plan, high: Plan) -> Caps:
    """The same for the numbers of caps."""
    caps = market.caps
    real = eqx.filter(caps, eqx.is_inexact_array)
    if not has_caps(market):
        return real
    kept = r.level * entered(None, caps.start, u.level)
    kept += s.level * entered(None, 0 * caps.start, v.level)
    return changed(
        real,
        level_min=low.level,
        level_max=high.level,
        rise_min=low.rise,
        rise_max=high.rise,
        base=r.cap,
        start=-caps.carry * r.level[:, 0],
        carry=-jnp.sum(kept, axis=1),
        slack=jnp.sum(high.spare, axis=1),
        price=-jnp.sum(market.weight * v.rise, axis=1),
        weight=r.cap[caps.cap] * terms(market, u) + s.cap[caps.cap] * terms(market, v),
    )


def _by_curves(units: Generators, power: Array, weight: Array) -> tuple[AbstractCurve, ...]:
    """What a weighted sum of the slopes of curves is by their numbers: JAX knows, for NumPy too."""

    def felt(curves: Any, units: Generators, power: Array, weight: Array) -> Array:
        return jnp.sum(weight * curve_slopes(changed(units, curves=curves), power))

    given = units.curves, units, power, weight
    if not units.curves:
        return ()
    if not on_host():
        return jax.grad(felt)(*given)
    with jax.enable_x64(True):
        return to_host(jax.grad(felt)(*to_device(given)))


def _by_grid(
    market: Market,
    active: Active,
    u: Plan,
    v: Plan,
    r: Rows,
    s: Rows,
    low: Plan,
    high: Plan,
    force: Plan,
    drawn: Float[Array, " H"],
) -> Any:
    """The same for the grid's own numbers."""
    grid = market.grid
    networked = grid.model.networked
    power, states = grid.model.power, grid.model.states
    tight, cos, sin = _direction(active, u)
    inner = jnp.ones_like(grid.voltage_min).at[grid.feeder].set(0.0)
    outer = (low.voltage + high.voltage)[grid.feeder]

    def line(resistance: float, reactance: float) -> Array:
        felt = jnp.zeros_like(u.active)
        for state, shares in grid.model.falls(resistance, reactance).items():
            row, dual = getattr(r, state), getattr(s, state)
            for share, flow in zip(shares, ("active", "reactive"), strict=True):
                if share:
                    felt = felt - share * (row * getattr(u, flow) + dual * getattr(v, flow))
        return jnp.sum(felt, axis=1)

    def tap() -> Array:  # its power divides the source's voltage
        if "voltage" not in states:
            return jnp.zeros_like(grid.tap)
        felt = r.voltage * u.voltage[grid.source] + s.voltage * v.voltage[grid.source]
        return -power * jnp.sum(felt, axis=1) / grid.tap ** (power + 1)

    def volts(bound: Array, held: Array) -> Array:
        return ("voltage" in states) * power * bound ** (power - 1) * held

    def angle(held: Array) -> Array:
        return ("angle" in states) * inner * jnp.sum(held, axis=1)

    injected = networked and grid.reactive_balance
    return changed(
        grid,
        source=None,
        target=None,
        feeder=None,
        resistance=line(1.0, 0.0),
        reactance=line(0.0, 1.0),
        tap=tap(),
        rating=jnp.sum(jnp.where(tight, cos * force.active + sin * force.reactive, 0.0), axis=1),
        voltage_min=volts(grid.voltage_min, inner * jnp.sum(low.voltage, axis=1)),
        voltage_max=volts(grid.voltage_max, inner * jnp.sum(high.voltage, axis=1)),
        angle_min=angle(low.angle),
        angle_max=angle(high.angle),
        feeder_voltage=volts(grid.feeder_voltage, outer),
        passive=networked * r.bus + r.aggregate - drawn,
        passive_reactive=injected * r.bus_reactive,
        compensation_max=injected * inner[:, None] * (high.compensation - low.compensation),
    )
