"""The whole mathematics of the game: four pure functions of a market, and what they are made of.

A v-GNE is a `(plan, prices)` with

    0 in pseudo_gradient(plan) + rows^T prices + normal cone of the private sets,

`rows(plan)` inside `limits`, and `prices` normal to the limits there. Sources: Belgioioso,
Ananduta, Grammatico, Ocampo-Martinez, IEEE Trans. Smart Grid 13(4), 2022 (the paper); Ananduta,
Grammatico, Games 13(5):66, 2022 (the follow-up); LinDistFlow: Baran, Wu, IEEE Trans. Power
Delivery 4, 1989. `docs/model.md` has every symbol, sign and unit.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .curves import curvatures, slopes, totals
from .each import for_each
from .fields import Field, amount, described, optional
from .market import Generators, Grid, Market
from .record import Record, changed
from .runner import jnp, remembered
from .succession import entered, handed, leaves
from .tables import KINDS, has_caps, places, weighty


class Plan(Record):
    """What everyone does, hour by hour.

    `trades` is what `buyer` buys from `seller` (negative the other way). `voltage` is the squared
    magnitude under lindistflow (`voltages` gives pu); network fields are 0 under copperplate.
    """

    generation: Float[Array, "G H"] = amount("kW", "power")
    charge: Float[Array, "K H"] = amount("kW", "charging power")
    discharge: Float[Array, "K H"] = amount("kW", "discharging power")
    energy: Float[Array, "K H"] = amount("kWh", "content")  # at the end of the hour
    imports: Float[Array, "N H"] = amount("kW", "import")
    exports: Float[Array, "N H"] = amount("kW", "export")
    curtailed: Float[Array, "N H"] = amount("kW", "curtailment")
    trades: Float[Array, "E H"] = amount("kW", "trade")
    active: Float[Array, "L H"] = amount("kW", "active power")
    reactive: Float[Array, "L H"] = amount("kvar", "reactive power")
    voltage: Float[Array, "B H"] = amount("pu", "voltage")  # pu^2 under lindistflow
    angle: Float[Array, "B H"] = amount("rad", "angle")
    compensation: Float[Array, "B H"] = amount("kvar", "compensation")  # injected by inverters
    exchange: Float[Array, "F H"] = amount("kW", "exchange")
    level: Float[Array, "M H"] = optional("", "level")  # of caps, in units of their own
    rise: Float[Array, "M H"] = optional("", "change of the level")
    spare: Float[Array, "M H"] = optional("", "part of the level that no member makes")


class Rows(Record):
    """One entry per linear constraint, *demand minus supply*; as `prices`, EUR/kWh.

    `balance` (pi, own energy value), `energy` (water value), `aggregate` (lambda), `bus` and
    `bus_reactive` (mu_pb), `exchange` (mu_tg), `voltage` and `angle` (drops along lines; in pu or
    rad, so their multipliers are EUR/kWh times kW per unit). Rows that the grid model lacks are
    unlimited and their multipliers 0.
    """

    balance: Float[Array, "N H"] = amount("kW", "own balance")
    energy: Float[Array, "K H"] = amount("kWh", "content left by charging and draining")
    aggregate: Float[Array, " H"] = amount("kW", "limit on the total exchange")
    bus: Float[Array, "B H"] = amount("kW", "power balance")
    bus_reactive: Float[Array, "B H"] = amount("kvar", "reactive power balance")
    exchange: Float[Array, " H"] = amount("kW", "exchange with the main grid")
    voltage: Float[Array, "L H"] = amount("pu", "voltage drop")  # pu^2 under lindistflow
    angle: Float[Array, "L H"] = amount("rad", "angle")
    cap: Float[Array, "M H"] = optional("", "sum over the terms")  # EUR per unit
    level: Float[Array, "M H"] = optional("", "level left by its rise")


PLAN_FIELDS, ROW_FIELDS = (
    {name.split(".")[1]: field for name, field in described(kind).items()} for kind in (Plan, Rows)
)


def families(tables: Plan | Rows) -> dict[str, Field]:
    """What a plan, or rows, are made of: without what their market has nothing of."""
    fields = PLAN_FIELDS if isinstance(tables, Plan) else ROW_FIELDS
    return {name: field for name, field in fields.items() if getattr(tables, name) is not None}


@for_each
def aggregate(market: Market, plan: Plan) -> Float[Array, " H"]:
    """sigma: what prosumers and passive consumers draw from the main grid, kW (model.md: Costs)."""
    return jnp.sum(plan.imports, axis=0) + jnp.sum(market.grid.passive, axis=0)


@for_each
def net_exchange(market: Market, plan: Plan) -> Float[Array, " H"]:
    """s: what goes through the transformer, total import less all exports, kW."""
    return aggregate(market, plan) - jnp.sum(plan.exports, axis=0)


def counted(market: Market) -> Float[Array, " H"]:
    """What a kW of each step counts in costs and in the Lagrangian, h: w Ts (model.md: Time)."""
    return market.weight * market.hour_length


def ended(market: Market) -> Float[Array, " H"]:
    """What a kWh left at the end of each step counts: its weight where no step follows, or 0."""
    last = leaves(market.before, market.prosumers.load.shape[1])
    return jnp.where(last, market.weight, 0.0)


def toll(market: Market) -> Float[Array, "E H"]:
    """What a kW of a trade in either direction costs both sides together, EUR/kW: 2 Ts c_ta."""
    return 2 * counted(market) * market.trading.toll[:, None]


def grid_price(market: Market, sigma: Float[Array, " H"]) -> Float[Array, " H"]:
    """Price of the main grid at a total import `sigma`, EUR/kWh: p0 + d_mg sigma."""
    return market.tariff.base + market.tariff.slope * sigma


def by_owner(market: Market, values: Float[Array, "D H"], owner: Any) -> Float[Array, "N H"]:
    """Sum device values over each prosumer's devices."""
    count = market.prosumers.load.shape[0]
    return jnp.zeros((count, *values.shape[1:]), values.dtype).at[owner].add(values)


def by_side(market: Market, values: Float[Array, "E H"]) -> Float[Array, "N H"]:
    """Sum over each prosumer's trades, whichever side of them it is."""
    pairs = market.trading
    return by_owner(market, values, pairs.buyer) + by_owner(market, values, pairs.seller)


def bought(market: Market, trades: Float[Array, "E H"]) -> Float[Array, "N H"]:
    """What each prosumer buys from its neighbours in total, kW."""
    nothing = jnp.zeros((market.prosumers.load.shape[0], *trades.shape[1:]), trades.dtype)
    return _traded(market, nothing, -trades)


def _traded(market: Market, balance: Float[Array, "N H"], trades: Array) -> Float[Array, "N H"]:
    """Balances, demand minus supply, with the trades on top: one pass over pairs for each side."""
    less = balance.at[market.trading.buyer].subtract(trades)
    return less.at[market.trading.seller].add(trades)


@for_each
def net_load(market: Market, plan: Plan) -> Float[Array, "N H"]:
    """n_i: what each prosumer physically draws from its bus, kW (model.md: Decisions)."""
    return _net(market, plan, market.prosumers.load)


def _net(market: Market, plan: Plan, load: Float[Array, "N H"]) -> Float[Array, "N H"]:
    net = (load + plan.curtailed).at[market.generators.owner]
    net = net.subtract(plan.generation).at[market.buffers.owner]
    return net.add(plan.charge - plan.discharge)


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


def members(market: Market, plan: Plan) -> Float[Array, "M H"]:
    """Each cap's sum over what its members do, in its unit."""
    caps, tables = market.caps, [getattr(plan, name) for name in KINDS]
    each = caps.weight * jnp.concatenate(tables)[places(market)]
    return jnp.zeros(caps.level_max.shape, each.dtype).at[caps.cap].add(each)


def shared_out(market: Market, prices: Float[Array, "M H"]) -> dict[str, Array]:
    """The transpose: what a price of each cap's sum makes what its members do cost."""
    caps, like = market.caps, zeros(market)
    tables = [getattr(like, name) for name in KINDS]
    ends = np.cumsum([table.shape[0] for table in tables])
    nothing = jnp.zeros((ends[-1], prices.shape[1]), prices.dtype)
    each = nothing.at[places(market)].add(caps.weight * prices[caps.cap])
    return dict(zip(KINDS, jnp.split(each, ends[:-1].tolist()), strict=True))


def uncounted(market: Market, *names: str) -> Bool[Array, "R H"] | bool:
    """Which entries of these tables of a plan, of those of `KINDS`, no cap counts."""
    if not has_caps(market):
        return True
    counts = shared_out(weighty(market), jnp.ones_like(market.caps.level_max))
    return sum(counts[name] for name in names) == 0


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
    pairs = market.trading
    volume = pairs.toll[:, None] * jnp.abs(plan.trades)
    volume += pairs.quadratic[:, None] * plan.trades**2
    price = grid_price(market, aggregate(market, plan))
    hourly = (
        by_owner(market, pairs.fee_buyer[:, None] * plan.trades + volume, pairs.buyer)
        + by_owner(market, volume - pairs.fee_seller[:, None] * plan.trades, pairs.seller)
        + price * plan.imports
        - market.tariff.export * plan.exports
    )
    own = device_costs(market, plan) + charges(market, plan)[0]
    return own + jnp.sum(counted(market) * hourly, axis=1)


@for_each
def potential(market: Market, plan: Plan) -> Float[Array, ""]:
    """P(u), EUR: its constrained minimizers are the v-GNE (model.md: Equilibrium)."""
    sigma = aggregate(market, plan)
    tariff = market.tariff
    own = jnp.sum(plan.imports**2, axis=0)
    billed = grid_price(market, sigma) * jnp.sum(plan.imports, axis=0)
    shared = tariff.base * sigma + tariff.slope / 2 * (sigma**2 + tariff.anticipation * own)
    together = jnp.sum(costs(market, plan)) + charges(market, plan)[1]
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
    zero = zeros(market)
    return replace(
        zero,
        trades=zero.trades + 4 * ts * market.trading.quadratic[:, None],  # of both sides together
        generation=zero.generation + 2 * ts * units.quadratic[:, None],
        charge=zero.charge + 2 * ts * stores.quadratic[:, None],
        discharge=zero.discharge + 2 * ts * stores.quadratic[:, None],
        imports=zero.imports + ts * market.tariff.anticipation * market.tariff.slope,
    )


def own_gradient(market: Market, plan: Plan, price: Float[Array, " H"]) -> Plan:
    """Each player's marginal cost, smooth part, with the main grid's `price` (EUR/kWh) held.

    EUR/kW; the anticipated effect kappa d_mg p_mg of own purchases is included.
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
    making = bend.generation * plan.generation + ts * units.linear[:, None]
    if units.curves:
        making += ts * curve_slopes(units, plan.generation)
    return replace(
        zero,
        generation=making,
        charge=bend.charge * plan.charge + ts * stores.linear[:, None],
        discharge=bend.discharge * plan.discharge + ts * stores.linear[:, None],
        energy=zero.energy - ended(market) * stores.final_value[:, None],
        imports=bend.imports * plan.imports + ts * price,
        exports=zero.exports - ts * market.tariff.export,
        trades=bend.trades * plan.trades + ts * (pairs.fee_buyer - pairs.fee_seller)[:, None],
    )


def pseudo_gradient(market: Market, plan: Plan) -> Plan:
    """Each player's own marginal cost, smooth part, EUR/kW (`|trades|` is in `prox`)."""
    return own_gradient(market, plan, grid_price(market, aggregate(market, plan)))


@remembered
def falls(grid: Grid) -> Mapping[str, tuple[Float[Array, " L"], Float[Array, " L"]]]:
    """What a kW and a kvar on each line take of each state of its source (model.md: Grid)."""
    return grid.model.falls(grid.resistance, grid.reactance)


@remembered
def ratios(grid: Grid) -> Mapping[str, Float[Array, " L"]]:
    """What divides each state of a line's source in its row: 1 without a transformer."""
    return grid.model.ratios(grid.tap)


@remembered
def _line_rows(grid: Grid) -> Mapping[str, tuple[Float[Array, "L 1"], ...]]:
    """`ratios` and `falls` by state, as columns."""
    return {
        state: tuple(each[:, None] for each in (ratio, *falls(grid)[state]))
        for state, ratio in ratios(grid).items()
    }


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
    net = _net(market, plan, given(market.prosumers.load))
    s = jnp.sum(plan.imports, axis=0) + jnp.sum(passive, axis=0) - jnp.sum(plan.exports, axis=0)
    before = entered(market.before, start, plan.energy)
    stored = (
        stores.charge_efficiency[:, None] * plan.charge
        - plan.discharge / stores.discharge_efficiency[:, None]
    )
    zero = jnp.zeros_like(grid.passive)
    none = jnp.zeros_like(plan.active)
    lines = {"voltage": none, "angle": none}
    bus = bus_reactive = zero
    exchange = jnp.zeros_like(s)
    if grid.model.networked:
        ends = jnp.concatenate([grid.source, grid.target])

        def left(flow: Array) -> Array:  # what leaves each bus on lines, net
            return zero.at[ends].add(jnp.concatenate([flow, -flow]))

        at_bus = zero.at[market.prosumers.bus].add
        bus = passive + at_bus(net) + left(plan.active)
        bus = bus.at[grid.feeder].add(-plan.exchange)
        exchange = s - jnp.sum(plan.exchange, axis=0)
        for state, (ratio, by_active, by_reactive) in _line_rows(grid).items():
            near, far = jnp.split(getattr(plan, state)[ends], 2)
            fall = by_active * plan.active + by_reactive * plan.reactive
            lines[state] = near / ratio - far - fall
        if grid.reactive_balance:
            drawn = given(grid.passive_reactive) + at_bus(given(market.prosumers.reactive))
            bus_reactive = drawn + left(plan.reactive) - plan.compensation
    if plan.level is not None:
        caps = market.caps
        adds, kept = caps.adds[:, None] > 0, caps.carry[:, None]
        summed = given(caps.base) + members(market, plan) + plan.spare
        kept = kept * entered(market.before, given(caps.start), plan.level)
        lines["cap"] = summed - jnp.where(adds, plan.rise, plan.level)
        lines["level"] = plan.level - kept - plan.rise
    return Rows(
        balance=_traded(market, net - plan.imports + plan.exports, plan.trades),
        energy=plan.energy - stores.retention[:, None] * before - ts * stored + given(stores.drain),
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
    """Lower and upper bound of every entry of a plan (line ratings are in `prox`)."""
    grid, zero = market.grid, zeros(market)
    limit = zero.trades + market.trading.limit[:, None]
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
    return lower, upper


def length(first: Array, second: Array) -> Array:
    """sqrt(a^2 + b^2) with gradient 0 instead of NaN at the origin."""
    square = first**2 + second**2
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def prox(market: Market, plan: Plan, step: Plan) -> Plan:
    """The admissible plan closest to `plan` after paying for |trades|, entry by entry.

        argmin over the private sets of  Ts sum_e 2 c_ta_e |t_e| + sum (u - plan)^2 / (2 step)

    with one `step` per entry (kW per EUR/kW; equal for `active` and `reactive` of a line): boxes,
    a soft threshold for trades, a disc of radius `rating` for each line's (active, reactive).
    """
    lower, upper = boxes(market)
    paid = toll(market) * step.trades
    shrunk = plan.trades - jnp.clip(plan.trades, -paid, paid)
    boxed = jax.tree.map(
        lambda u, low, high: jnp.minimum(jnp.maximum(u, low), high),
        replace(plan, trades=shrunk),
        lower,
        upper,
    )
    load = length(boxed.active, boxed.reactive)
    rating = market.grid.rating[:, None]
    shrink = jnp.where(load > rating, rating / jnp.where(load > rating, load, 1.0), 1.0)
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
    kept = held - stores.retention[:, None] * handed(market.before, held)
    into, out = ts * stores.charge_efficiency[:, None], ts / stores.discharge_efficiency[:, None]
    owner = stores.owner
    pulled = replace(
        zeros(market),
        generation=-used[market.generators.owner],
        charge=used[owner] - into * water,
        discharge=out * water - used[owner],
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
    nothing, both = jnp.zeros_like(prices.bus), jnp.concatenate([grid.source, grid.target])

    def ends(ratio: Array, price: Array) -> Array:  # of what a line's row takes of its two ends
        return nothing.at[both].add(jnp.concatenate([price / ratio, -price]))

    def along(price: Array) -> Array:  # of what leaves the source of each line for its target
        near, far = jnp.split(price[both], 2)
        return ts * (near - far)

    active, reactive = along(prices.bus), jnp.zeros_like(pulled.reactive)
    if grid.reactive_balance:
        reactive = along(prices.bus_reactive)
        pulled = replace(pulled, compensation=-ts * prices.bus_reactive)
    for state, (ratio, by_active, by_reactive) in _line_rows(grid).items():
        drop = ts * getattr(prices, state)
        active, reactive = active - by_active * drop, reactive - by_reactive * drop
        pulled = replace(pulled, **{state: ends(ratio, drop)})
    exchange = -ts * (prices.bus[grid.feeder] + prices.exchange)
    return replace(pulled, active=active, reactive=reactive, exchange=exchange)


def weight(market: Market, field: Field) -> Float[Array, " H"]:
    """What a unit of an entry or a row counts in costs and in the Lagrangian: w Ts, of kWh w.

    And w of caps, whatever their unit.
    """
    return market.weight if field.unit in ("kWh", "") else counted(market)


@remembered
def weights(market: Market) -> Rows:
    """What a unit of each row counts in the Lagrangian."""
    present = families(rows_like(market))
    return Rows(**{name: weight(market, field) for name, field in present.items()})


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
def trade_prices(market: Market, prices: Rows) -> Float[Array, "E H"]:
    """mu_tr, EUR/kWh: (pi_i + pi_j - c_tr_(i,j) - c_tr_(j,i)) / 2 (model.md: Prices)."""
    pairs = market.trading
    fees = (pairs.fee_buyer + pairs.fee_seller)[:, None]
    return (prices.balance[pairs.buyer] + prices.balance[pairs.seller] - fees) / 2


@for_each
def energy_prices(market: Market, prices: Rows) -> Float[Array, "N H"]:
    """pi_i + mu_pb: the full marginal value of energy at each, EUR/kWh (model.md: Prices)."""
    return prices.balance + prices.bus[market.prosumers.bus]


@remembered
def zeros(market: Market) -> Plan:
    """The plan in which nothing happens."""
    prosumers, grid = market.prosumers, market.grid
    dtype, hours = prosumers.load.dtype, prosumers.load.shape[1]

    def table(size: int) -> Array:
        return jnp.zeros((size, hours), dtype)

    count, stores = prosumers.bus.shape[0], market.buffers.owner.shape[0]
    lines, buses = grid.source.shape[0], grid.passive.shape[0]
    caps: Any = table(market.caps.carry.shape[0]) if has_caps(market) else None
    return Plan(
        generation=table(market.generators.owner.shape[0]),
        charge=table(stores),
        discharge=table(stores),
        energy=table(stores),
        imports=table(count),
        exports=table(count),
        curtailed=table(count),
        trades=table(market.trading.buyer.shape[0]),
        active=table(lines),
        reactive=table(lines),
        voltage=table(buses),
        angle=table(buses),
        compensation=table(buses),
        exchange=table(grid.feeder.shape[0]),
        level=caps,
        rise=caps,
        spare=caps,
    )


@remembered
def rows_like(market: Market) -> Rows:
    """Prices of zero: the shape of `Rows` for this market."""
    plan = zeros(market)
    lines, buses, hour = plan.active, plan.voltage, market.tariff.slope
    nought = jnp.zeros_like(hour)
    return Rows(
        balance=plan.imports,
        energy=plan.energy,
        aggregate=nought,
        bus=buses,
        bus_reactive=buses,
        exchange=nought,
        voltage=lines,
        angle=lines,
        cap=plan.level,
        level=plan.level,
    )
