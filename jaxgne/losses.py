"""Who causes losses, what everyone pays for them, and what is handed back (docs/ac.md).

Prices about an AC state ask for marginal losses, of which people pay about twice what the operator
buys: losses grow with the square of what lines carry. What is left over is the surplus.
"""

from typing import Any, Literal, get_args

import jax
from jaxtyping import Array, Bool, Float, Int

from .acexact import AcExact
from .acflow import Flow, drawn, flow
from .acphases import of_lines
from .devices._inverter import settled_at
from .incidence import where
from .market import Grid, Market
from .model import Plan, asked_at_buses, counted, mean_price, net_load
from .programs import program
from .radial import Forest, forest, lookup, radial
from .record import Record
from .runner import built, jnp, lax, wide
from .tables import device_buses, refuse_zones

Rule = Literal["marginal", "proportional", "equal"]
Rebate = Literal["by energy", "as paid", "by head"]


class LossShares(Record):
    """Losses by whom they are laid to, kWh; below 0 for who makes them less.

    In each step they sum to the losses of all lines.
    """

    prosumers: Float[Array, "N H"]
    passive: Float[Array, "B H"]


class LossMoney(Record):
    """What people pay for marginal losses, and what of that the operator does not need, EUR.

    `paid` is part of what `settle` has as congestion and reactive power, and `cost` of its `losses`
    at the main grid's price; `surplus` is the difference less what losses take of a limit on the
    total exchange, and what `rebates` hand back.
    """

    paid: Float[Array, "N H"]
    passive_paid: Float[Array, "B H"]
    cost: Float[Array, " H"]
    surplus: Float[Array, " H"]
    rebates: Float[Array, "N H"]
    passive_rebates: Float[Array, "B H"]


class _People(Record):
    """What everyone draws, kW and kvar less what own inverters make."""

    active: Float[Array, "N H"]
    reactive: Float[Array, "N H"]
    passive: Float[Array, "B H"]
    passive_reactive: Float[Array, "B H"]


def marginal_losses(found: AcExact) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What all lines lose more for one more kW, and one more kvar, drawn at each bus, kW.

    Derivatives of the AC power flow, in float64; 0 at feeder buses.
    """
    return losses_by_draw(found.market, found.clearing.plan)


def losses_by_draw(market: Market, plan: Plan) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """The same of any plan of a market."""
    return _slopes(market.grid, *drawn(market, plan))


@program("the derivatives of the losses", once=True)
def _slopes(grid: Grid, active: Array, reactive: Array) -> tuple[Array, Array]:
    def lost(active: Array, reactive: Array) -> Array:
        return jnp.sum(flow(grid, active, reactive).losses)

    with wide():
        both = (jnp.asarray(each, jnp.float64) for each in (active, reactive))
        return jax.grad(lost, argnums=(0, 1))(*both)


def loss_shares(found: AcExact, rule: Rule = "marginal") -> LossShares:
    """The losses of a clearing on AC, kWh, by prosumer, passive consumers' bus and hour.

    `found` is what `clear_ac` returned, `rule` how its losses are laid to people:

    - "marginal": in proportion to marginal losses, dL/dp times the kW plus dL/dq times the kvar
      that each draws; below 0 for who relieves lines;
    - "proportional": line by line to those who use it. What a line carries away from the feeder is
      laid to who draws behind it, what it carries towards that to who feeds in behind it. At each
      bus all that comes in is mixed (proportional sharing: Bialek, Tracing the flow of electricity,
      IEE Proceedings - Generation, Transmission and Distribution 143(4):313-320, 1996,
      doi 10.1049/ip-gtd:19960461): so of what arrives, and the losses on its way, each who draws
      there, and each line that leads on, has a share by its kW. In three phases
      buses and lines are taken with all their phases, and devices at other buses than their owner
      count there for it. Reactive power does not count;
    - "equal": every kWh that is drawn or fed in alike.

    What a rule leaves for want of anybody to lay it to is shared as "equal". Raises `ValueError`
    for another rule, and for "proportional" on a grid with loops.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"loss_shares: rule={rule!r}; choose one of {', '.join(get_args(Rule))}.")
    if rule == "proportional":
        radial("loss_shares", found.market)
    slopes = marginal_losses(found) if rule == "marginal" else None
    return _shares(found.market, found.clearing.plan, found.flow, slopes, rule)


@built
def _shares(market: Market, plan: Plan, state: Flow, slopes: Any, rule: Rule) -> LossShares:
    people, lost = _people(market, plan), jnp.sum(state.losses, axis=0)
    if slopes is not None:
        own, passive = _scaled(lost, *_caused(market, plan, people, *slopes))
    elif rule == "proportional":
        own, passive = _traced(market, plan, state)
    else:
        own, passive = 0.0 * people.active, 0.0 * people.passive
    left = lost - jnp.sum(own, axis=0) - jnp.sum(passive, axis=0)
    more = _scaled(left, jnp.abs(people.active), jnp.abs(people.passive))
    hours = market.hour_length
    return LossShares(hours * (own + more[0]), hours * (passive + more[1]))


def loss_money(found: AcExact, rebate: Rebate = "by energy") -> LossMoney:
    """What people pay for losses of a clearing on AC, and the surplus handed back, EUR by hour.

    `found` is what `clear_ac` returned. `rebate` says to whom the surplus goes: "by energy" to all
    by the kWh that they draw or feed in, "as paid" in proportion to what they pay for losses, after
    which each has paid for its `loss_shares` by the marginal rule, or "by head" of prosumers. Who
    foresees a rebate by what it does pays other prices in truth; "by head" alone does not depend on
    that. Raises `ValueError` for another one.
    """
    if rebate not in get_args(Rebate):
        known = ", ".join(get_args(Rebate))
        raise ValueError(f"loss_money: rebate={rebate!r}; choose one of {known}.")
    refuse_zones("loss_money", found.linear)
    return _money(found.linear, found.clearing, marginal_losses(found), rebate)


@built
def _money(market: Market, clearing: Any, slopes: Any, rebate: Rebate) -> LossMoney:
    plan, prices, grid = clearing.plan, clearing.prices, market.grid
    ts, people = counted(market), _people(market, plan)
    price = mean_price(market, plan)
    own, passive = (
        ts * (price + prices.aggregate) * each for each in _caused(market, plan, people, *slopes)
    )
    lost = jnp.sum(grid.passive - grid.consumed[0], axis=0)
    both = jnp.sum(own, axis=0) + jnp.sum(passive, axis=0)
    surplus = both - ts * (price + prices.aggregate) * lost
    keys = {
        "by energy": (jnp.abs(people.active), jnp.abs(people.passive)),
        "as paid": (own, passive),
        "by head": (jnp.ones_like(own), jnp.zeros_like(passive)),
    }
    back = _scaled(surplus, *keys[rebate])
    return LossMoney(own, passive, ts * price * lost, surplus, *back)


def _people(market: Market, plan: Plan) -> _People:
    bus, home = market.prosumers.bus, settled_at(market)
    owned = (home != jnp.arange(home.shape[0]))[:, None]
    given = jnp.where(owned, plan.compensation, 0.0)[bus]
    reactive = market.prosumers.reactive - given
    return _People(net_load(market, plan), reactive, *market.grid.consumed)


def _caused(
    market: Market, plan: Plan, people: _People, by_active: Array, by_reactive: Array
) -> tuple[Array, Array]:
    """What each draws times its marginal losses, kW."""
    own = asked_at_buses(market, by_active, plan, people.active)
    own = own + by_reactive[market.prosumers.bus] * people.reactive
    return own, by_active * people.passive + by_reactive * people.passive_reactive


def _scaled(total: Array, own: Array, passive: Array) -> tuple[Array, Array]:
    """The same proportions, that sum to a total; 0 where all are 0."""
    both = jnp.sum(own, axis=0) + jnp.sum(passive, axis=0)
    scale = jnp.where(both != 0, total / jnp.where(both != 0, both, 1.0), 0.0)
    return scale * own, scale * passive


class _Lines(Record):
    """Lines of a tree with all their conductors: what they carry, which way, and what they lose."""

    near: Float[Array, "L H"]  # kW that leaves the end nearer to the feeder
    inward: Bool[Array, "L H"]  # whether power comes out of the far end
    lost: Float[Array, "L H"]  # kW
    node: Int[Array, " B"]  # the bus that each row is a phase of, or stands at
    first: Bool[Array, " L"]  # one conductor of each line
    within: Bool[Array, " L"]  # lines between a bus and what spans its phases


def _lines(grid: Grid, tree: Forest, state: Flow) -> _Lines:
    out = tree.outward[:, None]
    near = jnp.where(out, state.active, state.losses - state.active)
    rows = jnp.arange(grid.voltage_min.shape[0])
    if not grid.model.phased:
        none = jnp.zeros(near.shape[0], bool)
        return _Lines(near, near < state.losses, state.losses, rows, ~none, none)
    bus = where(grid).bus
    node = jnp.where(bus < 0, grid.phase_a.shape[0] + rows, bus)
    within = node[tree.near] == node[tree.far]
    near, lost = (of_lines(grid, each) for each in (near, state.losses))
    line = jnp.arange(near.shape[0])
    count = grid.phase_a.shape[0] + rows.shape[0]
    least = jnp.full(count, len(line)).at[node[tree.far]].min(jnp.where(within, len(line), line))
    return _Lines(near, near < lost, lost, node, least[node[tree.far]] == line, within)


def _draws(market: Market, plan: Plan) -> tuple[Array, Array, Array]:
    """What is drawn by whom and at which bus, kW: everyone's own, and devices at other buses."""
    people, (units, stores) = market.prosumers, (market.generators, market.buffers)
    own, drawn, where_ = people.load + plan.curtailed, [], [people.bus]
    owners = [jnp.arange(people.bus.shape[0]), units.owner, stores.owner]
    devices = zip(owners[1:], (-plan.generation, plan.charge - plan.discharge), strict=True)
    for (owner, power), at in zip(devices, device_buses(market), strict=True):
        home = (at == people.bus[owner])[:, None]
        own = own.at[owner].add(jnp.where(home, power, 0.0))
        drawn.append(jnp.where(home, 0.0, power))
        where_.append(at)
    return jnp.concatenate([own, *drawn]), jnp.concatenate(owners), jnp.concatenate(where_)


def _traced(market: Market, plan: Plan, state: Flow) -> tuple[Array, Array]:
    """Losses line by line to those who use it, kW.

    What falls on all behind a line, its own losses and a share of those before it, is an affine
    map of what falls on the line before; maps are composed along the path by pointer doubling.
    """
    grid, tree = market.grid, forest(market.grid)
    lines, passive = _lines(grid, tree, state), grid.consumed[0]
    drawn, owner, bus = _draws(market, plan)
    rows = jnp.zeros_like(passive)
    into = rows.astype(bool).at[tree.far].set(lines.inward)  # by the line that leads to a bus
    into = into.at[tree.far].set(jnp.where(lines.within[:, None], into[tree.near], lines.inward))
    count = int(lines.node.shape[0]) + int(grid.phase_a.shape[0])

    def summed(inward: bool) -> Array:
        """All at a bus that draws, or feeds in, and lines that lead on and do likewise."""
        sign = -1 if inward else 1
        total = jnp.zeros((count, rows.shape[1]), rows.dtype)
        on = lines.first[:, None] & (lines.inward == inward)
        passed = jnp.where(on, jnp.maximum(sign * lines.near, 0), 0)
        total = total.at[lines.node[tree.near]].add(passed)
        total = total.at[lines.node].add(jnp.maximum(sign * passive, 0))
        return total.at[lines.node[bus]].add(jnp.maximum(sign * drawn, 0))

    all_ = jnp.where(into, summed(True)[lines.node], summed(False)[lines.node])
    part = jnp.where(all_ > 0, 1 / jnp.where(all_ > 0, all_, 1.0), 0.0)
    alike = lines.inward == into[tree.near]
    passed = jnp.where(alike, jnp.abs(lines.near) * part[tree.near], 0.0)
    passed = jnp.where(lines.within[:, None], 1.0, passed)
    burden = rows.at[tree.far].set(jnp.where(lines.within[:, None], 0.0, lines.lost))
    share = rows.at[tree.far].set(passed)

    def double(carry: tuple[Array, Array], before: Array) -> tuple[tuple[Array, Array], None]:
        burden, share = carry
        return (burden + share * lookup(burden, before), share * lookup(share, before)), None

    (burden, _), _ = lax.scan(double, (burden, share), tree.ladder.ancestor)
    each = burden * part
    sign = jnp.where(into, -1, 1)
    laid = each[bus] * jnp.maximum(sign[bus] * drawn, 0)
    own = jnp.zeros_like(market.prosumers.load).at[owner].add(laid)
    return own, each * jnp.maximum(sign * passive, 0)
