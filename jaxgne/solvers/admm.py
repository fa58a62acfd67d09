"""The mechanism by the alternating direction method of multipliers: consensus, sharing, exchange.

    min sum_i f_i(x_i) + g(z)    such that what is shared of x is z

Prosumers hold x, with their own copies of trades; z are a trade for each pair, agreed on by its two
sides, and the operator's totals: what all import and export, and what each bus draws. The three
are consensus, sharing and exchange problems (Boyd, Parikh, Chu, Peleato, Eckstein, Distributed
Optimization and Statistical Learning via ADMM, 2011, section 7). f_i is what prosumer i pays by
itself, its anticipated effect on the price included; g is the rest of the game's potential, which
is convex (model.md: Equilibrium), within all that the network can bear.

What a bus draws is a sum of devices, of which the exact penalty would tie them to one another: it
is linearised, with a proximal term large enough (linearised ADMM). All other steps are exact.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..commitments import refuse
from ..market import Grid, Market
from ..model import (
    Plan,
    Rows,
    at_prosumers,
    boxes,
    by_owner,
    counted,
    grid_price,
    in_zones,
    net_load,
    own_gradient,
    passive_in_zones,
    prox,
    rows_like,
    trade_prices,
    without_curves,
    zeros,
    zone_slopes,
    zone_totals,
)
from ..record import Record
from ..scales import scales
from ..tables import has_caps
from .base import AbstractSolver
from .local import Choice, best_response
from .projection import Network, project_network
from .setting import (
    STATE,
    Setting,
    choices_of,
    default_balance,
    private_rows,
    settle_in,
    slots_needed,
    state_of,
)

_SHARE = 0.3  # of the market's own price per power: the default penalty, by trial
_LIGHT = 1e-3  # proximal weight of what costs nobody anything, against the penalty


class Totals(Record):
    """What the operator keeps of all prosumers: sums, kW, or the prices of these, EUR/kWh."""

    imports: Float[Array, "Z H"]  # by price zone
    exports: Float[Array, " H"]
    drawn: Float[Array, "B H"]


class State(Record):
    """Between two rounds: what prosumers decided, and what was agreed on since."""

    choices: Choice  # leading axis N
    trade: Float[Array, "E H"]  # mu_tr, EUR/kWh
    prices: Totals  # of what is shared with the operator
    beyond: Totals  # what prosumers decided less what the operator took, kW
    apart: Float[Array, "E H"]  # what both sides of a pair want to buy together, kW
    network: Float[Array, "V H"]  # the operator's state, in the order of `_parts`
    limit: Float[Array, " H"]  # lambda, EUR/kWh
    private: Float[Array, "N 1+K H"]  # own energy values times w Ts, water values times w
    rows: Float[Array, "R H"]  # multipliers of the operator's rows, in the order of `_rows`
    setting: Setting
    many: Totals  # how many share each sum: what does not move does not count
    penalty: Float[Array, ""]  # rho, EUR/kWh per kW


class ADMM(AbstractSolver):
    """Prosumers and operator in turn, by the alternating direction method of multipliers.

    `penalty` (rho, EUR/kWh per kW) is what a kW costs by which copies of a trade, or prosumers and
    operator, disagree; the default is 0.3 times the market's own price per power. Any converges.
    The rounds are those of the paper's mechanism, and so is what is sent: `jaxgne.admm`. For
    markets without caps, on balanced grids or on none, not about an AC state.

    `generators`, `buffers` and `pairs` are the number of slots a prosumer has for each; `prepare`
    reads them off a market, without them every prosumer has room for all.
    """

    penalty: float | Array | None = None
    generators: int | None = eqx.field(default=None, static=True)
    buffers: int | None = eqx.field(default=None, static=True)
    pairs: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if isinstance(self.penalty, float | int) and not 0 < self.penalty < np.inf:
            raise ValueError(f"ADMM.penalty: {self.penalty} is not a positive number.")

    def prepare(self, market: Market) -> "ADMM":
        """With as many slots as the market's busiest prosumer needs, or more where given."""
        refuse("ADMM", market)
        other = "take jaxgne.SemiDecentralized()"
        if has_caps(market):
            raise ValueError(f"ADMM: this market has caps, whose sums it does not share; {other}.")
        if market.grid.model.phased:
            raise ValueError(f"ADMM: this grid is in three phases, and shares are by bus; {other}.")
        if market.grid.tangent is not None:
            raise ValueError(f"ADMM: this market is about an AC state; {other}.")
        found = slots_needed(market, (self.generators, self.buffers, self.pairs))
        return replace(self, generators=found[0], buffers=found[1], pairs=found[2])

    def init(self, market: Market, plan: Plan, prices: Rows) -> State:
        """Start from a plan and prices, as if all had agreed on that plan."""
        dtype = market.prosumers.load.dtype
        given = _SHARE * default_balance(market) if self.penalty is None else self.penalty
        penalty = jnp.asarray(given, dtype)
        setting = settle_in(market, penalty, "columns", (self.generators, self.buffers, self.pairs))
        plan = prox(market, plan, jax.tree.map(jnp.zeros_like, plan))
        asked = prices.aggregate + prices.exchange
        drawn = _at_buses(market, net_load(market, plan))
        totals = Totals(in_zones(market, plan.imports), jnp.sum(plan.exports, axis=0), drawn)
        price = grid_price(market, zone_totals(market, plan))
        many, devices = _counts(market)
        own = setting.prosumers
        water = setting.buffers.pad(market.weight * prices.energy)
        names = private_rows(market)
        rows = [jnp.zeros_like(prices.bus[:0]), *(getattr(prices, name) for name in names)]
        rows += [prices.bus, prices.exchange[None]] if market.grid.model.networked else []
        return State(
            choices=choices_of(setting.places, plan, jnp.concatenate([plan.trades, -plan.trades])),
            trade=trade_prices(market, prices),
            prices=Totals(price + asked, -asked, prices.bus),
            beyond=jax.tree.map(jnp.zeros_like, totals),
            apart=jnp.zeros_like(plan.trades),
            network=_state(market, state_of(plan), plan.exchange, totals),
            limit=prices.aggregate,
            private=jnp.concatenate([(counted(market) * prices.balance)[:, None], water], axis=1),
            rows=jnp.concatenate([*rows, asked[None]]),
            setting=replace(
                setting,
                prosumers=replace(own, proximal=_held(market, own.proximal, penalty, devices)),
                network=_operator(market, setting.network, many, penalty),
            ),
            many=many,
            penalty=penalty,
        )

    def step(self, market: Market, state: State) -> State:
        """One round: all prosumers, then all pairs and the operator."""
        rho, setting = state.penalty, state.setting
        # 1. every prosumer answers the prices, beyond what the others would have it move
        ahead = jax.tree.map(
            lambda price, off, n: price + rho * off / n, state.prices, state.beyond, state.many
        )
        answers = jax.vmap(best_response)(
            setting.prosumers,
            _quote(market, setting, ahead, state.trade + rho * state.apart / 2),
            state.choices,
            state.private,
        )
        choices: Choice = answers.answer
        # 2. partners meet halfway
        buyer, seller = jnp.split(setting.sides.take(choices.trades), 2)
        apart = buyer + seller
        # 3. the operator takes the nearest totals that the grid can bear, and moves their prices
        plan = _plan(market, setting, choices, state.network)
        drawn = _at_buses(market, net_load(market, plan))
        sums = Totals(in_zones(market, plan.imports), jnp.sum(plan.exports, axis=0), drawn)
        found, limit = _operate(market, state, sums)
        beyond = jax.tree.map(jnp.subtract, sums, _totals(market, found.answer.T))
        moved = jax.tree.map(
            lambda price, off, n: price + rho * off / n, state.prices, beyond, state.many
        )
        return replace(
            state,
            choices=choices,
            trade=state.trade + rho * apart / 2,
            prices=moved,
            beyond=beyond,
            apart=apart,
            network=found.answer.T,
            limit=limit,
            private=answers.duals,
            rows=found.duals.T,
        )

    def point(self, market: Market, state: State) -> tuple[Plan, Rows]:
        """What prosumers decided, of both copies of a trade the mean; the operator's state."""
        setting, networked = state.setting, market.grid.model.networked
        plan = _plan(market, setting, state.choices, state.network)
        prices = replace(
            rows_like(market),
            balance=state.private[:, 0] / counted(market),
            energy=setting.buffers.take(state.private[:, 1:]) / market.weight,
            aggregate=state.limit,
        )
        names, start = (*private_rows(market), "bus") if networked else (), 0
        for name in names:
            size = getattr(prices, name).shape[0]
            prices = replace(prices, **{name: state.rows[start : start + size]})
            start += size
        if networked:
            prices = replace(prices, exchange=state.rows[start])
        return plan, prices


def _at_buses(market: Market, values: Float[Array, "N H"]) -> Float[Array, "B H"]:
    """Sums over the prosumers at each bus."""
    nothing = jnp.zeros((market.grid.voltage_min.shape[0], values.shape[1]), values.dtype)
    return nothing.at[market.prosumers.bus].add(values)


def _counts(market: Market) -> tuple[Totals, Float[Array, " N"]]:
    """How many prosumers move each sum, and how many decisions each has that move what it draws."""
    lower, upper = boxes(market)
    live = jax.tree.map(lambda low, high: (high > low).astype(low.dtype), lower, upper)
    made = by_owner(market, live.generation, market.generators.owner)
    made += by_owner(market, live.charge + live.discharge, market.buffers.owner) + live.curtailed
    each = jnp.max(made, axis=1)
    some = (each > 0).astype(each.dtype)[:, None] + jnp.zeros_like(market.prosumers.load)
    return Totals(
        jnp.maximum(in_zones(market, live.imports), 1.0),
        jnp.maximum(jnp.sum(live.exports, axis=0), 1.0),
        jnp.maximum(_at_buses(market, some), 1.0),
    ), each


def _held(market: Market, proximal: Choice, penalty: Array, devices: Float[Array, " N"]) -> Choice:
    """What holds prosumers to their last decisions, EUR/kW^2: rho by each that is shared.

    Of devices it has to be at least rho times how many of them there are, the square of the norm
    of their sum, where that is shared; else it is light.
    """
    rho = counted(market) * penalty
    each = jnp.maximum(devices, _LIGHT) if market.grid.model.networked else _LIGHT + 0 * devices
    own = rho * each[:, None]
    return replace(
        proximal,
        generation=own[:, None] + 0 * proximal.generation,
        charge=own[:, None] + 0 * proximal.charge,
        discharge=own[:, None] + 0 * proximal.discharge,
        curtailed=own + 0 * proximal.curtailed,
        imports=rho + 0 * proximal.imports,
        exports=rho + 0 * proximal.exports,
        trades=rho + 0 * proximal.trades,
    )


def _quote(market: Market, setting: Setting, prices: Totals, trade: Float[Array, "E H"]) -> Choice:
    """What each decision costs its prosumer at these prices, its own curvature apart, EUR/kW."""
    ts, pairs = counted(market), market.trading
    own = own_gradient(without_curves(market), zeros(market), jnp.zeros_like(prices.imports))
    at = ts * prices.drawn[market.prosumers.bus]
    if not market.grid.model.networked:
        at = 0 * at
    made, held = at[market.generators.owner], at[market.buffers.owner]
    priced = replace(
        own,
        generation=own.generation - made,
        charge=own.charge + held,
        discharge=own.discharge - held,
        curtailed=own.curtailed + at,
        imports=own.imports + ts * at_prosumers(market, prices.imports),
        exports=own.exports + ts * prices.exports,
    )
    sides = jnp.concatenate([pairs.fee_buyer + trade, pairs.fee_seller + trade])
    return choices_of(setting.places, priced, ts * sides)


class _Parts(NamedTuple):
    """Where things are in the operator's state: its grid, and then what is shared."""

    states: int
    drawn: slice  # what buses draw
    feeders: slice  # what these bring
    imports: slice  # by zone; then total exports, and last the net exchange
    size: int


def _parts(market: Market) -> _Parts:
    empty, grid = zeros(market), market.grid
    states = sum(getattr(empty, name).shape[0] for name in STATE)
    lined = grid.model.networked
    buses = states + grid.voltage_min.shape[0] * lined
    feeders = buses + grid.feeder.shape[0] * lined
    last = feeders + zone_slopes(market).shape[0]
    places = slice(states, buses), slice(buses, feeders), slice(feeders, last)
    return _Parts(states, *places, last + 2)


def _state(market: Market, state: Array, exchange: Array, totals: Totals) -> Float[Array, "V H"]:
    """The operator's state, in the order of `_Parts`."""
    sigma = jnp.sum(totals.imports, axis=0) + jnp.sum(market.grid.passive, axis=0)
    last = jnp.stack([totals.exports, sigma - totals.exports])
    network = [totals.drawn, exchange] if market.grid.model.networked else []
    return jnp.concatenate([state, *network, totals.imports, last])


def _totals(market: Market, state: Float[Array, "V H"]) -> Totals:
    """The operator's totals, of its state."""
    at = _parts(market)
    drawn = state[at.drawn]
    if not market.grid.model.networked:
        drawn = jnp.zeros((market.grid.voltage_min.shape[0], state.shape[1]), state.dtype)
    return Totals(state[at.imports], state[-2], drawn)


def _plan(market: Market, setting: Setting, choices: Choice, state: Float[Array, "V H"]) -> Plan:
    """What all decided and the operator's state, as a plan."""
    empty = zeros(market)
    sizes = [getattr(empty, name).shape[0] for name in STATE]
    at = _parts(market)
    buyer, seller = jnp.split(setting.sides.take(choices.trades), 2)
    parts = jnp.split(state[: at.states], np.cumsum(sizes)[:-1])
    return replace(
        empty,
        generation=setting.generators.take(choices.generation),
        charge=setting.buffers.take(choices.charge),
        discharge=setting.buffers.take(choices.discharge),
        energy=setting.buffers.take(choices.energy),
        imports=choices.imports,
        exports=choices.exports,
        curtailed=choices.curtailed,
        trades=(buyer - seller) / 2,
        exchange=state[at.feeders] if market.grid.model.networked else empty.exchange,
        **dict(zip(STATE, parts, strict=True)),
    )


def _operator(market: Market, grid: Network, many: Totals, penalty: Array) -> Network:
    """The operator's set and weights (EUR/kWh per kW) over its whole state, by hour.

    Rows: the grid's own (of `grid`), a balance for each bus, the exchange, and what is exchanged
    made of total imports and exports.
    """
    at, hours = _parts(market), market.prosumers.load.shape[1]
    states, size = at.states, at.size
    light, nothing = _LIGHT * penalty, jnp.zeros((size, hours), penalty.dtype)
    tall = [jnp.pad(grid.matrix, ((0, 0), (0, size - states)))]
    offset, scale = [grid.offset], [grid.row_scale]
    measure = scales(market, zeros(market)).total
    if market.grid.model.networked:
        buses = market.grid.voltage_min.shape[0]
        balance = jnp.zeros((buses, size), penalty.dtype)
        balance = balance.at[:, :states].set(_leaving(market, states))
        balance = balance.at[:, at.drawn].set(jnp.eye(buses, dtype=balance.dtype))
        balance = balance.at[market.grid.feeder, jnp.arange(size)[at.feeders]].set(-1.0)
        exchange = jnp.zeros((1, size), penalty.dtype).at[0, at.feeders].set(-1.0)
        tall += [balance, exchange.at[0, -1].set(1.0)]
        offset += [-market.grid.passive, jnp.zeros((1, hours), penalty.dtype)]
        scale += [jnp.full(buses + 1, measure)]
    total = jnp.zeros((1, size), penalty.dtype).at[0, at.imports].set(1.0).at[0, -2:].set(-1.0)
    matrix = jnp.concatenate([*tall, total])
    passive = jnp.sum(market.grid.passive, axis=0)
    held = _LIGHT * jnp.reshape(grid.proximal, (states, -1))
    weight = nothing.at[:states].set(held + nothing[:states])
    drawn = penalty / many.drawn if market.grid.model.networked else nothing[at.drawn]
    weight = weight.at[at.drawn].set(drawn).at[at.feeders].set(light)
    weight = weight.at[at.imports].set(zone_slopes(market) + penalty / many.imports)
    weight = weight.at[-2].set(penalty / many.exports).at[-1].set(light)
    lower = jnp.concatenate([grid.lower, nothing[states:] - jnp.inf])
    upper = jnp.concatenate([grid.upper, nothing[states:] + jnp.inf])
    lower = lower.at[-1].set(market.tariff.total_min)
    upper = upper.at[-1].set(market.tariff.total_max)
    free = jnp.where(jnp.any(upper > lower, axis=1), 1 / jnp.mean(weight, axis=1), 0.0)
    with jax.enable_x64(True):
        wide = matrix.astype(jnp.float64)
        full = (wide * free) @ wide.T
        full += jnp.diag(jnp.where(jnp.diag(full) > 0, 0.0, 1.0))
        root = jnp.sqrt(jnp.diag(full))
        inverse = jnp.linalg.inv(full / root[:, None] / root) / root[:, None] / root
    return Network(
        matrix=matrix,
        offset=jnp.concatenate([*offset, -passive[None]]),
        lower=lower,
        upper=upper,
        rating=grid.rating,
        proximal=weight,
        preconditioner=inverse.astype(penalty.dtype),
        row_scale=jnp.concatenate([*scale, measure[None]]),
    )


def _leaving(market: Market, states: int) -> Float[Array, "B V"]:
    """What leaves each bus on lines, of the operator's state."""
    grid: Grid = market.grid
    line = jnp.arange(grid.source.shape[0])
    nothing = jnp.zeros((grid.voltage_min.shape[0], states), grid.voltage_min.dtype)
    return nothing.at[grid.source, line].add(1.0).at[grid.target, line].add(-1.0)


def _operate(market: Market, state: State, sums: Totals) -> tuple[Any, Float[Array, " H"]]:
    """The operator's step, and the price of the limits on the total.

    It minimises what main grid and totals cost at their prices, with rho / 2n (sum - total)^2 for
    n who share a sum: the nearest admissible state to the one where each would be alone.
    """
    network, rho, at = state.setting.network, state.penalty, _parts(market)
    pulled = jax.tree.map(lambda a, price, n: rho * a / n + price, sums, state.prices, state.many)
    asked = grid_price(market, passive_in_zones(market, market.grid.passive))
    center, weight = state.network, network.proximal
    if market.grid.model.networked:
        center = center.at[at.drawn].set(pulled.drawn / weight[at.drawn])
    center = center.at[at.imports].set((pulled.imports - asked) / weight[at.imports])
    center = center.at[-2].set(pulled.exports / weight[-2])
    axes = jax.tree.map(lambda _: None, network)
    axes = replace(axes, offset=1, lower=1, upper=1, proximal=1)
    found = jax.vmap(project_network, in_axes=(axes, 1, 1))(network, center, state.rows)
    held = found.slope[:, -1] - found.answer[:, -1]  # the wish beyond its bounds
    return found, network.proximal[-1] * held
