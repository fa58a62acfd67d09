"""The whole mathematics of the game: four pure functions of a market, and what they are made of.

A v-GNE is a `(plan, prices)` with

    0 in pseudo_gradient(plan) + rows^T prices + normal cone of the private sets,

`rows(plan)` inside `limits`, and `prices` normal to the limits there. Sources: Belgioioso,
Ananduta, Grammatico, Ocampo-Martinez, IEEE Trans. Smart Grid 13(4), 2022 (the paper); Ananduta,
Grammatico, Games 13(5):66, 2022 (the follow-up); LinDistFlow: Baran, Wu, IEEE Trans. Power
Delivery 4, 1989. `docs/model.md` has every symbol, sign and unit.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
from jaxtyping import Array, Float

from .commitments import COMMITTED, at_once, mean
from .each import for_each
from .incidence import across, fallen, handed_back, left, pulled_back, seen
from .incidence import falls as falls
from .incidence import ratios as ratios
from .market import Market
from .payoffs import at_passive as at_passive
from .payoffs import at_prosumers as at_prosumers
from .payoffs import charges as charges
from .payoffs import costs as costs
from .payoffs import costs_at as costs_at
from .payoffs import curvature as curvature
from .payoffs import curve_costs as curve_costs
from .payoffs import curve_slopes as curve_slopes
from .payoffs import device_costs as device_costs
from .payoffs import export_prices as export_prices
from .payoffs import grid_price as grid_price
from .payoffs import import_prices as import_prices
from .payoffs import mean_price as mean_price
from .payoffs import offers as offers
from .payoffs import own_gradient as own_gradient
from .payoffs import passive_prices as passive_prices
from .payoffs import potential as potential
from .payoffs import pseudo_gradient as pseudo_gradient
from .payoffs import toll as toll
from .payoffs import without_curves as without_curves
from .payoffs import zone_bases as zone_bases
from .payoffs import zone_slopes as zone_slopes
from .plan import OF_CAPS as OF_CAPS
from .plan import PLAN_FIELDS as PLAN_FIELDS
from .plan import ROW_FIELDS as ROW_FIELDS
from .plan import Plan as Plan
from .plan import Rows as Rows
from .plan import aggregate as aggregate
from .plan import asked_at_buses as asked_at_buses
from .plan import asked_by_caps as asked_by_caps
from .plan import at_buses as at_buses
from .plan import bought as bought
from .plan import burdens as burdens
from .plan import by_owner as by_owner
from .plan import by_side as by_side
from .plan import chosen as chosen
from .plan import counted as counted
from .plan import ended as ended
from .plan import families as families
from .plan import in_zones as in_zones
from .plan import loads as loads
from .plan import members as members
from .plan import net_exchange as net_exchange
from .plan import net_load as net_load
from .plan import net_with as net_with
from .plan import pairs_of_parties as pairs_of_parties
from .plan import parties as parties
from .plan import passive_in_zones as passive_in_zones
from .plan import rows_like as rows_like
from .plan import shared_out as shared_out
from .plan import sides as sides
from .plan import terms as terms
from .plan import traded as traded
from .plan import uncounted as uncounted
from .plan import weight as weight
from .plan import weights as weights
from .plan import with_draws as with_draws
from .plan import zeros as zeros
from .plan import zone_totals as zone_totals
from .runner import jnp, remembered
from .succession import entered, handed
from .tables import device_buses, has_caps

_NO_STEP = 1e-30  # kW per EUR/kW, for a step of 0: a mean by equal weights


def rows(market: Market, plan: Plan) -> Rows:
    """Every linear constraint, demand minus supply (model.md: Prices, Grid)."""
    return _rows(market, plan, lambda data: data)


def moved(market: Market, change: Plan) -> Rows:
    """What a change of plan does to `rows`: these without the market's loads and starts."""
    return _rows(market, change, jnp.zeros_like)


def _rows(market: Market, plan: Plan, given: Callable[[Array], Array]) -> Rows:
    """`rows` with what is `given` of the market's data."""
    stores, grid, ts = market.buffers, market.grid, market.hour_length
    passive, start = given(grid.passive), given(stores.energy_start)
    load = given(market.prosumers.load)
    net = net_with(market, plan, load)
    s = jnp.sum(plan.imports, axis=0) + jnp.sum(passive, axis=0) - jnp.sum(plan.exports, axis=0)
    before = entered(market.before, start, plan.energy)
    stored = stores.charge_efficiency * plan.charge - plan.discharge / stores.discharge_efficiency
    zero = jnp.zeros_like(grid.passive)
    none = jnp.zeros_like(plan.active)
    lines = {"voltage": none, "angle": none}
    bus = bus_reactive = zero
    exchange = jnp.zeros_like(s)
    if grid.model.networked:
        at_bus, out = zero.at[market.prosumers.bus].add, left(grid, plan.active, plan.reactive)
        bus = passive + with_draws(market, zero, plan, load, net) + out[0]
        bus = bus.at[grid.feeder].add(-plan.exchange)
        exchange = s - jnp.sum(plan.exchange, axis=0)
        for state, ratio in ratios(grid).items():
            near, far = seen(grid, getattr(plan, state))
            fall = fallen(grid, state, plan.active, plan.reactive)
            lines[state] = near / ratio[:, None] - far - fall
        if grid.tangent is not None:
            for state, offset in grid.tangent.offset.items():
                lines[state] = lines[state] - given(offset)
        if grid.reactive_balance:
            drawn = given(grid.passive_reactive) + at_bus(given(market.prosumers.reactive))
            bus_reactive = drawn + out[1] - plan.compensation
    if plan.level is not None:
        caps = market.caps
        adds, kept = caps.adds[:, None] > 0, caps.carry[:, None]
        summed = given(caps.base + burdens(market)) + members(market, plan) + plan.spare
        kept = kept * entered(market.before, given(caps.start), plan.level)
        lines["cap"] = summed - jnp.where(adds, plan.rise, plan.level)
        lines["level"] = plan.level - kept - plan.rise
    return Rows(
        balance=traded(market, net - plan.imports + plan.exports, plan.trades),
        energy=plan.energy - stores.retention * before - ts * stored + given(stores.drain),
        aggregate=s,
        bus=bus,
        bus_reactive=bus_reactive,
        exchange=exchange,
        **lines,
    )


@remembered
def limits(market: Market) -> tuple[Rows, Rows]:
    """Lower and upper limit of every row; equal for equations, infinite where there is none."""
    equal = jax.tree.map(jnp.zeros_like, rows_like(market))
    free = jax.tree.map(lambda a: jnp.full_like(a, jnp.inf), equal)
    grid = market.grid
    upper = replace(equal, aggregate=market.tariff.total_max)
    lower = replace(equal, aggregate=market.tariff.total_min)
    present = (*grid.model.states, *(("bus", "exchange") if grid.model.networked else ()))
    present += ("bus_reactive",) if has_state(market) else ()
    network = ("bus", "bus_reactive", "exchange", "voltage", "angle")
    absent = [name for name in network if name not in present]
    upper = replace(upper, **{name: getattr(free, name) for name in absent})
    lower = replace(lower, **{name: -getattr(free, name) for name in absent})
    if "bus_reactive" not in absent:  # the main grid supplies any reactive power
        open_ended = upper.bus_reactive.at[grid.feeder].set(jnp.inf)
        upper = replace(upper, bus_reactive=open_ended)
        lower = replace(lower, bus_reactive=-open_ended)
    return lower, upper


@remembered
def boxes(market: Market) -> tuple[Plan, Plan]:
    """Lower and upper bound of every entry of a plan (line ratings are in `prox`).

    One decision for several steps has the bounds of all of them.
    """
    grid, zero = market.grid, zeros(market)
    limit = zero.trades + market.trading.limit
    networked, states, power = grid.model.networked, grid.model.states, grid.model.power
    free = jnp.full_like(zero.active, jnp.inf if networked else 0.0)

    def at_buses(low: Array, high: Array, fed: Array, present: bool) -> tuple[Array, Array]:
        if not present:
            return zero.voltage, zero.voltage
        both = (zero.voltage + bound[:, None] for bound in (low, high))
        low, high = (bound.at[grid.feeder].set(fed) for bound in both)
        return low, high

    volts = (grid.voltage_min**power, grid.voltage_max**power)
    voltage_min, voltage_max = at_buses(*volts, grid.feeder_voltage**power, "voltage" in states)
    level = jnp.zeros_like(grid.feeder_voltage)
    angle_min, angle_max = at_buses(grid.angle_min, grid.angle_max, level, "angle" in states)
    shared = jnp.full_like(zero.exchange, jnp.inf if networked else 0.0)
    injected = zero.compensation
    if networked and grid.reactive_balance:  # the main grid supplies any reactive power
        injected = (injected + grid.compensation_max).at[grid.feeder].set(0.0)
    caps, none = market.caps, zero.spare
    least, most = {}, {}
    if has_caps(market):
        least = {"level": caps.level_min, "rise": caps.rise_min, "spare": none}
        most = {"level": caps.level_max, "rise": caps.rise_max, "spare": none + caps.slack[:, None]}
    lower = Plan(
        generation=market.generators.power_min,
        charge=zero.charge,
        discharge=zero.discharge,
        energy=market.buffers.energy_min,
        imports=zero.imports,
        exports=zero.exports,
        curtailed=zero.curtailed,
        trades=-limit,
        active=-free,
        reactive=-free,
        voltage=voltage_min,
        angle=angle_min,
        compensation=-injected,
        exchange=-shared,
        **least,
    )
    upper = Plan(
        generation=market.generators.power_max,
        charge=market.buffers.charge_max,
        discharge=market.buffers.discharge_max,
        energy=market.buffers.energy_max,
        imports=market.prosumers.import_max,
        exports=market.prosumers.export_max,
        curtailed=market.prosumers.curtail_max,
        trades=limit,
        active=free,
        reactive=free,
        voltage=voltage_max,
        angle=angle_max,
        compensation=injected,
        exchange=shared,
        **most,
    )
    return (lower, upper) if market.committed is None else agreed(market, lower, upper)


def agreed(market: Market, lower: Plan, upper: Plan) -> tuple[Plan, Plan]:
    """Bounds of which those of one decision are the tightest of its steps."""
    return (
        replace(lower, **{n: at_once(market, n, getattr(lower, n), "max") for n in COMMITTED}),
        replace(upper, **{n: at_once(market, n, getattr(upper, n), "min") for n in COMMITTED}),
    )


def together(market: Market, plan: Plan, step: Plan) -> tuple[Plan, Plan]:
    """The plan whose committed entries are their means by 1/step, and their common steps.

    What is decided once moves by 1 / sum(1/step), under the sum of all forces on it.
    """
    weight = {n: 1 / (getattr(step, n) + _NO_STEP) for n in COMMITTED}
    whole = {n: mean(market, n, getattr(plan, n), weight[n]) for n in COMMITTED}
    shared = {n: 1 / at_once(market, n, weight[n]) for n in COMMITTED}
    return replace(plan, **whole), replace(step, **shared)


def length(first: Array, second: Array) -> Array:
    """sqrt(a^2 + b^2) with gradient 0 instead of NaN at the origin."""
    square = first**2 + second**2
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def into_discs(square: Float[Array, "L *H"], radius: Float[Array, "L *#H"]) -> tuple[Array, Array]:
    """By how much to shrink flows of so large a `square` to meet their `radius`, which may be inf.

    And their length, of those inside another positive number. XLA computes a square anew wherever
    it is used, rounded one way or the other, so what is compared twice may be over in one place
    and not in the other: here both lead to the same flows but for rounding.
    """
    finite = jnp.where(jnp.isfinite(radius), radius, 1.0)
    length = jnp.sqrt(jnp.maximum(square, jnp.where(finite > 0, finite**2, 1.0)))
    return jnp.where(square > radius**2, finite / length, 1.0), length


def prox(market: Market, plan: Plan, step: Plan) -> Plan:
    """The admissible plan closest to `plan` after paying for |trades|, entry by entry.

        argmin over the private sets of  Ts sum_e 2 c_ta_e |t_e| + sum (u - plan)^2 / (2 step)

    with one `step` per entry (kW per EUR/kW; equal for `active` and `reactive` of a line): boxes,
    a soft threshold for trades, a disc of radius `rating` for each line's (active, reactive), and
    one number for what is committed.
    """
    lower, upper = boxes(market)
    tolls = toll(market)
    if market.committed is not None:
        plan, step = together(market, plan, step)
        tolls = at_once(market, "trades", tolls)
    paid = tolls * step.trades
    shrunk = plan.trades - jnp.clip(plan.trades, -paid, paid)
    boxed = jax.tree.map(
        lambda u, low, high: jnp.minimum(jnp.maximum(u, low), high),
        replace(plan, trades=shrunk),
        lower,
        upper,
    )
    shrink, _ = into_discs(boxed.active**2 + boxed.reactive**2, market.grid.radius)
    return replace(boxed, active=boxed.active * shrink, reactive=boxed.reactive * shrink)


def pull(market: Market, prices: Rows) -> Plan:
    """What prices make each entry of a plan cost: rows^T (w Ts prices), EUR/kW.

    A row in kW enters the Lagrangian times w Ts, a row in kWh (`energy`) times w.
    """
    ts, grid, stores, pairs = counted(market), market.grid, market.buffers, market.trading
    networked = grid.model.networked
    own, water = ts * prices.balance, prices.energy
    drawn = ts * prices.aggregate + (ts * prices.exchange if networked else 0.0)
    used = own + ts * prices.bus[market.prosumers.bus] if networked else own
    held = market.weight * water
    kept = held - handed(market.before, stores.retention * held)
    into, out = ts * stores.charge_efficiency, ts / stores.discharge_efficiency
    made, stored = used[market.generators.owner], used[stores.owner]
    if grid.model.phased:
        at, there = ts * prices.bus, device_buses(market)
        made = own[market.generators.owner] + at[there[0]]
        stored = own[stores.owner] + at[there[1]]
    pulled = replace(
        zeros(market),
        generation=-made,
        charge=stored - into * water,
        discharge=out * water - stored,
        energy=kept,
        imports=drawn - own,
        exports=own - drawn,
        curtailed=used,
        trades=own[pairs.seller] - own[pairs.buyer],
    )
    if prices.cap is not None:
        caps, own, level = market.caps, market.weight * prices.cap, market.weight * prices.level
        adds = caps.adds[:, None] > 0
        shared = shared_out(market, own)
        pulled = replace(
            pulled,
            **{name: getattr(pulled, name) + share for name, share in shared.items()},
            level=level - caps.carry[:, None] * handed(market.before, level) - own * ~adds,
            rise=-level - own * adds,
            spare=own,
        )
    if not networked:
        return pulled
    active, reactive = (ts * price for price in across(grid, prices.bus, prices.bus_reactive))
    if grid.reactive_balance:
        pulled = replace(pulled, compensation=-ts * prices.bus_reactive)
    for state, ratio in ratios(grid).items():
        drop = ts * getattr(prices, state)
        less = pulled_back(grid, state, drop)
        active, reactive = active - less[0], reactive - less[1]
        back = handed_back(grid, drop / ratio[:, None], -drop)
        pulled = replace(pulled, **{state: back})
    exchange = -ts * (prices.bus[grid.feeder] + prices.exchange)
    return replace(pulled, active=active, reactive=reactive, exchange=exchange)


@for_each
def voltages(market: Market, plan: Plan) -> Float[Array, "B H"]:
    """Voltage magnitudes in pu, whatever the grid model keeps; 1 where it keeps none."""
    if "voltage" not in market.grid.model.states:
        return jnp.ones_like(plan.voltage)
    if market.grid.model.squared:
        return jnp.sqrt(jnp.maximum(plan.voltage, 0.0))
    return plan.voltage


def has_state(market: Market) -> bool:
    """Whether the grid model determines voltages and reactive flows.

    Copperplate has none. Without a reactive balance any reactive flows do, at no cost: voltages and
    loadings are then whatever a solver ends with, and only the AC power flow tells them.
    """
    return market.grid.model.networked and market.grid.reactive_balance


@for_each
def exceeded(
    market: Market, plan: Plan
) -> tuple[Float[Array, "B H"], Float[Array, "L H"], Float[Array, " H"]]:
    """By how much a plan exceeds limits of voltages (pu), lines (kVA) and the total (kW); else 0.

    Of voltages where the grid model determines them, but at feeders, which the main grid holds.
    """
    grid, tariff, volts = market.grid, market.tariff, voltages(market, plan)
    out = jnp.maximum(volts - grid.voltage_max[:, None], grid.voltage_min[:, None] - volts)
    out = out.at[grid.feeder].set(0.0) if has_state(market) else jnp.zeros_like(out)
    over = length(plan.active, plan.reactive) - grid.radius
    s = net_exchange(market, plan)
    beyond = jnp.maximum(s - tariff.total_max, tariff.total_min - s)
    return jnp.maximum(out, 0.0), jnp.maximum(over, 0.0), jnp.maximum(beyond, 0.0)


@for_each
def trade_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """mu_tr, EUR/kWh: (pi_i + pi_j - c_tr_(i,j) - c_tr_(j,i)) / 2 (model.md: Prices).

    Of what is committed it is the mean over its steps, as often as each counts.
    """
    pairs = market.trading
    fees = pairs.fee_buyer + pairs.fee_seller
    found = (prices.balance[pairs.buyer] + prices.balance[pairs.seller] - fees) / 2
    return found if market.committed is None else agreed_price(market, found)


def agreed_price(market: Market, price: Float[Array, "E H"]) -> Float[Array, "E H"]:
    """Prices of pairs of which those of committed trades are means, as often as steps count."""
    return mean(market, "trades", price, counted(market))


@for_each
def energy_prices(market: Market, prices: Rows) -> Float[Array, "N H"]:
    """pi_i + mu_pb: the full marginal value of energy at each, EUR/kWh (model.md: Prices)."""
    return prices.balance + prices.bus[market.prosumers.bus]


@for_each
def device_prices(market: Market, prices: Rows) -> tuple[Float[Array, "G H"], Float[Array, "K H"]]:
    """The same where generators and buffers are connected, EUR/kWh."""
    units, stores = market.generators, market.buffers
    if not market.grid.model.phased:
        every = energy_prices(market, prices)
        return every[units.owner], every[stores.owner]
    made, kept = device_buses(market)
    own = prices.balance
    return own[units.owner] + prices.bus[made], own[stores.owner] + prices.bus[kept]
