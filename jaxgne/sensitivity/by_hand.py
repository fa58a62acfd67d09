"""What the conditions of an equilibrium are by each number of its market, by hand, for NumPy too.

At the equilibrium itself, with flows that have not turned, and without a barrier: see `by_point`.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..curves import AbstractCurve
from ..incidence import seen
from ..market import Generators, Market
from ..model import (
    Plan,
    Rows,
    asked_by_caps,
    at_passive,
    at_prosumers,
    counted,
    curvature,
    curve_slopes,
    ended,
    grid_price,
    in_zones,
    loads,
    moved,
    own_gradient,
    pull,
    rows,
    terms,
    toll,
    weights,
    zone_slopes,
    zone_totals,
)
from ..record import changed
from ..runner import jnp, on_host, to_device, to_host
from ..succession import entered, roots
from ..tables import Buffers, Caps, has_caps, has_zones
from ..tangent import Tangent
from .active import HIGH, LOW, Active
from .by_point import direction, fed, net_moved, times, turned
from .lagrangian import Point, equations, net_of, plan_of


def by_market(
    market: Market, active: Active, base: Plan, point: Point, weight: Plan, move: Point
) -> Market:
    """d/dm of `weight` . plan - `move` . slope, at a point: a number for each of the market.

    `base` is the equilibrium's plan. Entries that bounds hold move with them.
    """
    ts, tariff, grid = counted(market), market.tariff, market.grid
    units, pairs = market.generators, market.trading
    given, scale, bend = equations(market), weights(market), curvature(market, base)
    u, v = plan_of(market, active, base, point.plan), turned(active, base, move.plan)
    y, dual = times(given, point.prices), times(given, move.prices)

    # rows of the plan, and of its move, by what they count
    count = jax.tree.map(jnp.subtract, fed(market, weight), dual)
    force = jax.tree.map(lambda w, h, m, p: w - h * m + p, weight, bend, v, pull(market, count))
    asked = ts * at_prosumers(market, move.price)
    force = replace(force, imports=force.imports - asked)
    r, s = times(scale, count), jax.tree.map(lambda w, a: -w * a, scale, y)
    low = jax.tree.map(lambda code, f: jnp.where(code == LOW, f, 0.0), active.plan, force)
    high = jax.tree.map(lambda code, f: jnp.where(code == HIGH, f, 0.0), active.plan, force)

    generators = changed(
        units,
        owner=None,
        bus=None,
        kind=None,
        power_min=low.generation,
        power_max=high.generation,
        quadratic=-2 * _each(ts * u.generation * v.generation),
        linear=-_each(ts * v.generation),
        curves=_by_curves(units, u.generation, -ts * v.generation),
    )
    trading = changed(
        pairs,
        buyer=None,
        seller=None,
        limit=_wide(pairs.limit, high.trades - low.trades),
        fee_buyer=_wide(pairs.fee_buyer, -ts * v.trades),
        fee_seller=_wide(pairs.fee_seller, ts * v.trades),
        toll=_wide(pairs.toll, -2 * ts * active.sign * v.trades),
        reluctance=_wide(pairs.reluctance, -ts * active.sign * v.trades),
        quadratic=-4 * _each(ts * u.trades * v.trades),
    )
    home = market.prosumers.bus
    asked = asked_by_caps(market, r.cap) if has_caps(market) else {"load": 0.0, "reactive": 0.0}
    drawn = r.bus_reactive[home] * (grid.model.networked and grid.reactive_balance)
    prosumers = changed(
        market.prosumers,
        bus=None,
        load=r.balance + r.bus[home] * grid.model.networked + asked["load"],
        reactive=drawn + asked["reactive"],
        import_max=high.imports,
        export_max=high.exports,
        curtail_max=high.curtailed,
        zone=None,
        import_adder=_wide(market.prosumers.import_adder, -ts * v.imports),
        export_adder=_wide(market.prosumers.export_adder, ts * v.exports),
    )
    seen, own = tariff.anticipation, in_zones(market, u.imports * v.imports)
    level, steep = -ts * move.total, -ts * (point.total * move.total + seen * own)
    zones = market.zones
    if has_zones(market):
        sold = _wide(zones.export, ts * in_zones(market, v.exports))
        more = _wide(zones.base, level), _wide(zones.slope, steep)
        zones = changed(zones, base=more[0], slope=more[1], export=sold)
    by_length, by_weight = _by_steps(market, active, point, move, (u, v), (y, dual))
    return changed(
        eqx.filter(market, eqx.is_inexact_array),
        prosumers=prosumers,
        generators=generators,
        buffers=_by_buffers(market, u, v, r, s, low, high),
        trading=trading,
        grid=_by_grid(market, active, u, v, r, s, low, high, force, move.price),
        tariff=changed(
            tariff,
            base=_hourly(level),
            slope=_hourly(steep),
            export=ts * _hourly(v.exports),
            total_min=jnp.where(active.net == LOW, ts * dual.aggregate, 0.0),
            total_max=jnp.where(active.net == HIGH, ts * dual.aggregate, 0.0),
            anticipation=-jnp.sum(ts * zone_slopes(market) * own),
        ),
        zones=zones,
        caps=_by_caps(market, u, v, r, s, low, high),
        hour_length=by_length,
        weight=by_weight,
    )


def _hourly(array: Any) -> Array:
    return jnp.sum(array, axis=0)


def _each(array: Any) -> Array:
    return jnp.sum(array, axis=1)


def _wide(field: Float[Array, "R #H"], each: Float[Array, "R H"]) -> Float[Array, "R #H"]:
    """Of a field by row and hour, or by row alone: then one number stands for all hours."""
    one = field.shape[1] == 1
    return jnp.sum(each, axis=1, keepdims=True) if one else each


def _by_steps(
    market: Market,
    active: Active,
    point: Point,
    move: Point,
    plans: tuple[Plan, Plan],
    prices: tuple[Rows, Rows],
) -> tuple[Float[Array, " H"], Float[Array, " H"]]:
    """The same for the lengths of steps, and for how often they count.

    A step's costs and rows are in proportion to both, but rows of contents and of caps.
    """
    ts, stores = counted(market), market.buffers
    (u, v), (y, dual), total = plans, prices, move.total
    value, felt = rows(market, u), moved(market, v)
    value = replace(value, aggregate=value.aggregate - net_of(market, active, point.net))
    felt = replace(felt, aggregate=felt.aggregate - net_moved(active, move.net))
    shared = grid_price(market, point.total) * total
    shared = shared + move.price * (zone_totals(market, u) - point.total)
    shared = _hourly(shared + point.price * (in_zones(market, v.imports) - total))
    dearer = own_gradient(market, u, jnp.zeros_like(move.price))
    still = jax.tree.map(jnp.zeros_like, (dearer.energy, dearer.rise))
    dearer = replace(dearer, energy=still[0], rise=still[1])
    worth = jax.tree.map(lambda a, b, c, d: a * b + c * d, dual, value, y, felt)
    tolls = _hourly(toll(market) * active.sign * v.trades)
    costs = (tolls + sum(_hourly(a) for a in jax.tree.leaves(times(dearer, v)))) / ts
    content = _hourly(worth.energy)  # whose rows are in kWh
    if worth.cap is not None:  # in units of their own
        content += _hourly(worth.cap + worth.level + market.caps.price[:, None] * v.rise)
    worth = replace(worth, energy=jnp.zeros_like(worth.energy), cap=None, level=None)
    shared = shared + costs + sum(_hourly(jnp.atleast_2d(a)) for a in jax.tree.leaves(worth))
    into, out = stores.charge_efficiency, stores.discharge_efficiency
    stored = [into * plan.charge - plan.discharge / out for plan in plans]
    grown = _hourly(dual.energy * stored[0] + y.energy * stored[1])
    gained = v.energy - entered(market.before, jnp.zeros_like(stores.energy_start), v.energy)
    left = _hourly(stores.final_value[:, None] * gained)
    return market.weight * (grown - shared), left - market.hour_length * shared - content


def _by_buffers(
    market: Market, u: Plan, v: Plan, r: Rows, s: Rows, low: Plan, high: Plan
) -> Buffers:
    """The same for the numbers of buffers."""
    ts, stores, long = counted(market), market.buffers, market.hour_length
    before = entered(market.before, stores.energy_start, u.energy)
    ahead = entered(market.before, jnp.zeros_like(stores.energy_start), v.energy)
    begun, out = roots(market.before, u.energy.shape[1]), stores.discharge_efficiency
    return changed(
        stores,
        owner=None,
        bus=None,
        kind=None,
        charge_max=high.charge,
        discharge_max=high.discharge,
        energy_min=low.energy,
        energy_max=high.energy,
        energy_start=-_each(begun * stores.retention * r.energy),
        drain=r.energy,
        retention=_wide(stores.retention, -(r.energy * before + s.energy * ahead)),
        charge_efficiency=_wide(
            stores.charge_efficiency, -long * (r.energy * u.charge + s.energy * v.charge)
        ),
        discharge_efficiency=_wide(
            out, -long * (r.energy * u.discharge + s.energy * v.discharge) / out**2
        ),
        quadratic=-2 * _each(ts * (u.charge * v.charge + u.discharge * v.discharge)),
        linear=-_each(ts * (v.charge + v.discharge)),
        final_value=_each(ended(market) * v.energy),
    )


def _by_caps(market: Market, u: Plan, v: Plan, r: Rows, s: Rows, low: Plan, high: Plan) -> Caps:
    """The same for the numbers of caps."""
    caps = market.caps
    real = eqx.filter(caps, eqx.is_inexact_array)
    if not has_caps(market):
        return real
    kept = r.level * entered(market.before, caps.start, u.level)
    kept += s.level * entered(market.before, 0 * caps.start, v.level)
    begun, summed = roots(market.before, u.energy.shape[1]), loads(market) + terms(market, u)
    return changed(
        real,
        level_min=low.level,
        level_max=high.level,
        rise_min=low.rise,
        rise_max=high.rise,
        base=r.cap,
        start=-caps.carry * jnp.sum(begun * r.level, axis=1),
        carry=-jnp.sum(kept, axis=1),
        slack=jnp.sum(high.spare, axis=1),
        price=-jnp.sum(market.weight * v.rise, axis=1),
        weight=r.cap[caps.cap] * summed + s.cap[caps.cap] * terms(market, v),
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
    price: Float[Array, "Z H"],
) -> Any:
    """The same for the grid's own numbers."""
    grid = market.grid
    networked = grid.model.networked
    power, states = grid.model.power, grid.model.states
    tight, cos, sin = direction(active, u)
    about = grid.tangent
    pressed = jnp.where(tight, cos * force.active + sin * force.reactive, 0.0)
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

    def mutual(resistance: float, reactance: float) -> Array:
        first, second = grid.model.beside(resistance, reactance)
        ends = (grid.coupled, grid.following)
        felt = jnp.zeros((grid.coupled.shape[0], u.active.shape[1]), u.active.dtype)
        for (row, column), found in ((ends, first), (ends[::-1], second)):
            for state, shares in found.items():
                price, dual = getattr(r, state)[row], getattr(s, state)[row]
                for share, flow in zip(shares, ("active", "reactive"), strict=True):
                    moved, turned = getattr(u, flow)[column], getattr(v, flow)[column]
                    felt = felt - share * (price * moved + dual * turned)
        return jnp.sum(felt, axis=1)

    def tap() -> Array:  # its power divides the source's voltage
        if "voltage" not in states:
            return jnp.zeros_like(grid.tap)
        felt = r.voltage * seen(grid, u.voltage)[0] + s.voltage * seen(grid, v.voltage)[0]
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
        phase_a=None,
        phase_b=None,
        phase_c=None,
        coupled=None,
        following=None,
        terminal=None,
        second=None,
        third=None,
        zone=None,
        mutual_resistance=mutual(1.0, 0.0),
        mutual_reactance=mutual(0.0, 1.0),
        resistance=line(1.0, 0.0),
        reactance=line(0.0, 1.0),
        tap=tap(),
        rating=jnp.sum(pressed, axis=1) * (about is None),
        tangent=None
        if about is None
        else Tangent(
            losses=jnp.zeros_like(about.losses),
            losses_reactive=jnp.zeros_like(about.losses),
            offset={state: -getattr(r, state) for state in about.offset},
            active=-counted(market) * v.active,
            reactive=-counted(market) * v.reactive,
            rating=pressed,
        ),
        voltage_min=volts(grid.voltage_min, inner * jnp.sum(low.voltage, axis=1)),
        voltage_max=volts(grid.voltage_max, inner * jnp.sum(high.voltage, axis=1)),
        angle_min=angle(low.angle),
        angle_max=angle(high.angle),
        feeder_voltage=volts(grid.feeder_voltage, outer),
        passive=networked * r.bus + r.aggregate - counted(market) * at_passive(market, price),
        passive_reactive=injected * r.bus_reactive,
        compensation_max=injected * inner[:, None] * (high.compensation - low.compensation),
    )
