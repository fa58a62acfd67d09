"""What a plan costs, by prosumer and together, and the slopes and curvatures of that.

Sources: the paper, eq. 1-6; the potential of the follow-up (model.md: Costs, Equilibrium).
"""

from dataclasses import replace

from jaxtyping import Array, Float

from .curves import curvatures, slopes, totals
from .each import for_each
from .market import Generators, Market
from .plan import (
    PLAN_FIELDS,
    Plan,
    by_owner,
    counted,
    ended,
    in_zones,
    weight,
    zeros,
    zone_totals,
)
from .record import changed
from .runner import jnp, remembered
from .tables import has_zones


def toll(market: Market) -> Float[Array, "E H"]:
    """What a kW of a trade in either direction costs both together, EUR/kW: Ts (2 c_ta + c_rel)."""
    return counted(market) * (2 * market.trading.toll + market.trading.reluctance)


def zone_bases(market: Market) -> Float[Array, "Z H"]:
    """p0_z: the main grid's price at no import in each zone, EUR/kWh; one row without zones."""
    base = market.tariff.base[None]
    return base + market.zones.base if has_zones(market) else base


def zone_slopes(market: Market) -> Float[Array, "Z H"]:
    """d_z: how it rises with the import of the zone, EUR/kWh per kW."""
    slope = market.tariff.slope[None]
    return slope + market.zones.slope if has_zones(market) else slope


def grid_price(market: Market, sigma: Float[Array, "Z H"]) -> Float[Array, "Z H"]:
    """Price of the main grid in each zone at its import `sigma`, EUR/kWh: p0_z + d_z sigma_z."""
    return zone_bases(market) + zone_slopes(market) * sigma


@for_each
def mean_price(market: Market, plan: Plan) -> Float[Array, " H"]:
    """Price of the main grid, EUR/kWh: where there are zones, of what all draw, on average."""
    sigma = zone_totals(market, plan)
    price = grid_price(market, sigma)
    if not has_zones(market):
        return price[0]
    drawn = jnp.maximum(sigma, 0.0)
    drawn = jnp.where(jnp.sum(drawn, axis=0) > 0, drawn, 1.0)
    return jnp.sum(price * drawn, axis=0) / jnp.sum(drawn, axis=0)


def at_prosumers(market: Market, price: Float[Array, "Z H"]) -> Float[Array, "#N H"]:
    """A price by zone as each prosumer has it: one row for all where there are no zones."""
    return price[market.prosumers.zone] if has_zones(market) else price


def at_passive(market: Market, price: Float[Array, "Z H"]) -> Float[Array, "#B H"]:
    """The same for passive consumers of each bus."""
    return price[market.grid.zone] if has_zones(market) else price


@for_each
def passive_prices(market: Market, plan: Plan) -> Float[Array, "B H"]:
    """What passive consumers of each bus pay the main grid, EUR/kWh."""
    price = grid_price(market, zone_totals(market, plan))
    return at_passive(market, price) + jnp.zeros_like(market.grid.passive)


def import_prices(market: Market, price: Float[Array, "Z H"]) -> Float[Array, "N H"]:
    """What each prosumer pays for a kWh of the main grid, whose own `price` this is, EUR/kWh."""
    return at_prosumers(market, price) + market.prosumers.import_adder


def offers(market: Market) -> Float[Array, "#N H"]:
    """What the main grid pays each prosumer for a kWh, EUR/kWh; one row without zones."""
    export = market.tariff.export[None]
    return at_prosumers(market, export + market.zones.export) if has_zones(market) else export


def export_prices(market: Market) -> Float[Array, "N H"]:
    """What each prosumer is paid for a kWh that it sells to the main grid, EUR/kWh."""
    return offers(market) + market.prosumers.export_adder


def device_costs(market: Market, plan: Plan) -> Float[Array, " N"]:
    """What each prosumer's devices cost, less the value of what buffers gain in content, EUR."""
    units, stores = market.generators, market.buffers
    making = units.quadratic[:, None] * plan.generation**2 + units.linear[:, None] * plan.generation
    if units.curves:
        making += curve_costs(units, plan.generation)
    storing = stores.quadratic[:, None] * (plan.charge**2 + plan.discharge**2)
    storing += stores.linear[:, None] * (plan.charge + plan.discharge)
    gained = jnp.sum(ended(market) * (plan.energy - stores.energy_start[:, None]), axis=1)
    left = (stores.final_value * gained)[:, None]
    hourly = by_owner(market, making, units.owner) + by_owner(market, storing, stores.owner)
    gained = by_owner(market, left, stores.owner)[:, 0]
    return jnp.sum(counted(market) * hourly, axis=1) - gained


def charges(market: Market, plan: Plan) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """What rises of caps cost their owners, and those of nobody's, EUR."""
    nothing = jnp.zeros_like(market.prosumers.load[:, 0])
    if plan.rise is None:
        return nothing, jnp.sum(0 * nothing)
    caps = market.caps
    each = caps.price * jnp.sum(weight(market, PLAN_FIELDS["rise"]) * plan.rise, axis=1)
    owned = jnp.where(caps.owner < 0, 0.0, each)
    return nothing.at[jnp.maximum(caps.owner, 0)].add(owned), jnp.sum(each - owned)


@for_each
def costs(market: Market, plan: Plan) -> Float[Array, " N"]:
    """J_i, what each prosumer minimizes, EUR; the paper, eq. 1-6 (model.md: Costs)."""
    return costs_at(market, plan, grid_price(market, zone_totals(market, plan)))


def costs_at(market: Market, plan: Plan, price: Float[Array, "Z H"]) -> Float[Array, " N"]:
    """The same at a given `price` of the main grid, EUR/kWh, whatever the plan's total is."""
    pairs = market.trading
    volume = (pairs.toll + pairs.reluctance / 2) * jnp.abs(plan.trades)
    volume += pairs.quadratic[:, None] * plan.trades**2
    hourly = (
        by_owner(market, pairs.fee_buyer * plan.trades + volume, pairs.buyer)
        + by_owner(market, volume - pairs.fee_seller * plan.trades, pairs.seller)
        + import_prices(market, price) * plan.imports
        - export_prices(market) * plan.exports
    )
    own = device_costs(market, plan) + charges(market, plan)[0]
    return own + jnp.sum(counted(market) * hourly, axis=1)


@for_each
def potential(market: Market, plan: Plan) -> Float[Array, ""]:
    """P(u), EUR: its constrained minimizers are the v-GNE (model.md: Equilibrium)."""
    sigma, seen = zone_totals(market, plan), market.tariff.anticipation
    own = in_zones(market, plan.imports**2)
    billed = grid_price(market, sigma) * in_zones(market, plan.imports)
    shared = zone_bases(market) * sigma + zone_slopes(market) / 2 * (sigma**2 + seen * own)
    together = jnp.sum(costs(market, plan)) + charges(market, plan)[1]
    about = market.grid.tangent
    if about is not None:
        carried = about.active * plan.active + about.reactive * plan.reactive
        if about.bend is not None:
            carried += about.bend / 2 * (plan.active**2 + plan.reactive**2)
        together += jnp.sum(counted(market) * carried)
    return together + jnp.sum(counted(market) * (shared - billed))


def _within(units: Generators, power: Float[Array, "G H"]) -> Float[Array, "G H"]:
    """Where curves are taken: beyond their bounds they go on straight, being defined there only."""
    low, high = units.power_min, units.power_max
    return jnp.where(power < low, low, jnp.where(power > high, high, power))


def curve_costs(units: Generators, power: Float[Array, "G H"]) -> Float[Array, "G H"]:
    """What curves make each generator's power cost, EUR/h."""
    near = _within(units, power)
    return totals(units.curves, near) + (power - near) * slopes(units.curves, near)


def curve_slopes(units: Generators, power: Float[Array, "G H"]) -> Float[Array, "G H"]:
    """What they make each kWh more cost, EUR/kWh."""
    return slopes(units.curves, _within(units, power))


def without_curves(market: Market) -> Market:
    """The market with all costs linear or quadratic: for whoever meets curves by themselves."""
    units = market.generators
    return changed(market, generators=changed(units, curves=())) if units.curves else market


def curvature(market: Market, plan: Plan) -> Plan:
    """Second derivative of each player's cost at a held aggregate, entry by entry, EUR/kW^2."""
    steady, units = _steady(market), market.generators
    if not units.curves:
        return steady
    more = counted(market) * curvatures(units.curves, _within(units, plan.generation))
    return replace(steady, generation=steady.generation + more)


@remembered
def _steady(market: Market) -> Plan:
    """That of linear and quadratic costs, which is the same at any plan."""
    ts, units, stores = counted(market), market.generators, market.buffers
    zero, about = zeros(market), market.grid.tangent
    if about is not None and about.bend is not None:
        zero = replace(zero, active=ts * about.bend, reactive=ts * about.bend)
    return replace(
        zero,
        trades=zero.trades + 4 * ts * market.trading.quadratic[:, None],  # of both sides together
        generation=zero.generation + 2 * ts * units.quadratic[:, None],
        charge=zero.charge + 2 * ts * stores.quadratic[:, None],
        discharge=zero.discharge + 2 * ts * stores.quadratic[:, None],
        imports=zero.imports
        + ts * market.tariff.anticipation * at_prosumers(market, zone_slopes(market)),
    )


def own_gradient(market: Market, plan: Plan, price: Float[Array, "Z H"]) -> Plan:
    """Each player's marginal cost, smooth part, with the main grid's `price` (EUR/kWh) held.

    EUR/kW; the anticipated effect kappa d_mg p_mg of own purchases is included, and what the own
    contract adds to the price.
    """
    ts, units, stores, pairs = (
        counted(market),
        market.generators,
        market.buffers,
        market.trading,
    )
    bend = _steady(market)
    zero = zeros(market)
    if zero.rise is not None:
        paid = weight(market, PLAN_FIELDS["rise"]) * market.caps.price[:, None]
        zero = replace(zero, rise=paid)
    about = market.grid.tangent
    if about is not None:
        zero = replace(
            zero,
            active=bend.active * plan.active + ts * about.active,
            reactive=bend.reactive * plan.reactive + ts * about.reactive,
        )
    making = bend.generation * plan.generation + ts * units.linear[:, None]
    if units.curves:
        making += ts * curve_slopes(units, plan.generation)
    return replace(
        zero,
        generation=making,
        charge=bend.charge * plan.charge + ts * stores.linear[:, None],
        discharge=bend.discharge * plan.discharge + ts * stores.linear[:, None],
        energy=zero.energy - ended(market) * stores.final_value[:, None],
        imports=bend.imports * plan.imports + ts * import_prices(market, price),
        exports=zero.exports - ts * export_prices(market),
        trades=bend.trades * plan.trades + ts * (pairs.fee_buyer - pairs.fee_seller),
    )


def pseudo_gradient(market: Market, plan: Plan) -> Plan:
    """Each player's own marginal cost, smooth part, EUR/kW (`|trades|` is in `prox`)."""
    return own_gradient(market, plan, grid_price(market, zone_totals(market, plan)))
