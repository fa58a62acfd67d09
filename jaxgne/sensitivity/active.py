"""Which bounds hold at an equilibrium, and how clearly."""

from dataclasses import replace

import jax
from jaxtyping import Array, Bool, Float, Int

from ..market import Market
from ..model import Plan, Rows, boxes, counted, length, net_exchange, pull, toll
from ..optimality import pushed
from ..record import Record
from ..runner import jnp
from ..scales import much, scales

FREE, LOW, HIGH, NONE = 0, -1, 1, 2  # NONE: a trade that does not happen, a line that is shut
TIE = 1e-7  # of a scale: below it from its switching, a bound is at it
TIGHT = 1  # of a line's `active`: its flow is as large as its rating


class Active(Record):
    """For each entry of a plan and each hour's net exchange: the bound that holds, or `FREE`.

    `margin` is how far the entry, or the price of its bound, is from the bound's switching on or
    off, relative to the market's scales; infinite where nothing can switch. What is held by a bound
    that is just about to switch is `weak`: it may also leave its bound, by as much as its entry of
    a `Point` says. A line's flow leaves its rating as an entry of `reactive`. What is `opened`
    may do so only for a price to be determined by it (`at_rest`).
    """

    plan: Plan  # codes
    net: Int[Array, " H"]
    sign: Float[Array, "E H"]  # of trades that happen
    margin: Plan
    net_margin: Float[Array, " H"]
    weak: Plan  # whether
    net_weak: Bool[Array, " H"]
    opened: Plan  # whether
    barrier: Float[Array, " H"] | None = None  # mu, EUR: bounds are smoothed instead of held

    @property
    def leaving(self) -> Plan:
        """Whether an entry may leave the bound that holds it."""
        return jax.tree.map(jnp.logical_or, self.weak, self.opened)

    @property
    def free(self) -> Plan:
        """Whether an entry may move."""
        return jax.tree.map(lambda code, may: (code == FREE) | may, self.plan, self.leaving)

    @property
    def net_free(self) -> Bool[Array, " H"]:
        """Whether each hour's net exchange may."""
        return (self.net == FREE) | self.net_weak


def active_set(
    market: Market, plan: Plan, prices: Rows, tie: Float[Array, ""] | float = TIE
) -> Active:
    """The bounds that hold: where `prox` ends of what marginal costs push each entry to.

    An entry whose two bounds are equal counts as held by the one that it is pushed against, so that
    derivatives with respect to that bound are those of opening it. A bound that is just about to
    switch, nearer than `tie` of a scale, counts as held, and its entry as weak.
    """
    scale = scales(market, plan)
    wish, rho = pushed(market, plan, pull(market, prices), scale)
    size, _ = much(market, scale)
    lower, upper = boxes(market)

    def code(w: Array, low: Array, high: Array, s: Array) -> Array:
        near = tie * s
        held = jnp.where(w >= high - near, HIGH, jnp.where(w <= low + near, LOW, FREE))
        shut = jnp.where(w > low, HIGH, LOW)
        return jnp.where(low < high, held, shut).astype(jnp.int32)

    def margin(w: Array, low: Array, high: Array, s: Array) -> Array:
        near = jnp.minimum(jnp.abs(w - low), jnp.abs(w - high)) / s
        return jnp.where(low < high, near, jnp.inf)

    codes = jax.tree.map(code, wish, lower, upper, size)
    margins = jax.tree.map(margin, wish, lower, upper, size)
    paid = toll(market) * rho.trades
    trades, kinks = _traded(wish.trades, paid, upper.trades, size.trades, tie)
    tight, shut, flow = _loaded(market, wish, size.active, tie)
    tariff = market.tariff
    s = net_exchange(market, plan)
    at = s + prices.aggregate * scale.total / scale.price
    margins = replace(
        margins,
        trades=kinks,
        active=flow,
    )
    net_margin = margin(at, tariff.total_min, tariff.total_max, scale.total)
    weak = jax.tree.map(lambda m: m <= tie, margins)
    return Active(
        plan=replace(
            codes,
            trades=trades,
            active=jnp.where(shut, NONE, jnp.where(tight, TIGHT, FREE)),
            reactive=jnp.where(shut, NONE, FREE),
        ),
        net=code(at, tariff.total_min, tariff.total_max, scale.total),
        sign=jnp.sign(wish.trades),
        margin=margins,
        net_margin=net_margin,
        weak=replace(weak, active=weak.reactive, reactive=weak.active & tight),
        net_weak=net_margin <= tie,
        opened=jax.tree.map(lambda m: jnp.zeros_like(m, bool), margins),
    )


def _traded(
    wish: Array, paid: Array, limit: Array, size: Array, tie: Float[Array, ""] | float
) -> tuple[Array, Array]:
    """What holds trades, one that does not happen or its limit; and how far it is from switching.

    `paid` is how far tolls push each toward 0.
    """
    beyond = jnp.abs(wish) - paid
    near = tie * size
    trades = jnp.where(beyond >= limit - near, jnp.sign(wish).astype(jnp.int32), FREE)
    none = (beyond < 0) | ((paid > 0) & (beyond <= near)) | (limit <= 0)
    kinks = jnp.where(paid > 0, jnp.abs(beyond), jnp.inf)
    kinks = jnp.minimum(kinks, jnp.abs(beyond - limit)) / size
    held = jnp.where(none, NONE, trades).astype(jnp.int32)
    return held, jnp.where(limit > 0, kinks, jnp.inf)


def _loaded(
    market: Market, wish: Plan, size: Array, tie: Float[Array, ""] | float
) -> tuple[Array, Array, Array]:
    """Lines that ratings hold, those that carry nothing, and how far each is from switching."""
    pushed_flow, rating = length(wish.active, wish.reactive), market.grid.radius
    tight = (pushed_flow >= rating - tie * size) & market.grid.model.networked
    shut = _shut(market, tight)
    flow = jnp.where(jnp.isfinite(rating), jnp.abs(pushed_flow - rating) / size, jnp.inf)
    return tight, shut, jnp.where(shut, jnp.inf, flow)


def inward(active: Active) -> tuple[Plan, Float[Array, " H"]]:
    """The sign with which entries of a plan, and each hour's net exchange, leave their bounds.

    A trade that does not happen leaves by its sign, and a line's flow its rating toward less.
    """
    signs = jax.tree.map(lambda code: -code.astype(active.sign.dtype), active.plan)
    trades = jnp.where(active.plan.trades == NONE, active.sign, signs.trades)
    inner = -jnp.ones_like(signs.reactive)
    return replace(signs, trades=trades, reactive=inner), -active.net.astype(active.sign.dtype)


def nearest(active: Active) -> Float[Array, ""]:
    """The least distance of a bound from its switching, relative to the market's scales."""
    margins = jax.tree.leaves((active.margin, active.net_margin))
    return jnp.min(jnp.stack([jnp.min(margin, initial=jnp.inf) for margin in margins]))


def ajar(market: Market, active: Active) -> Active:
    """The same with all that holds about to leave its bound, but what two equal bounds hold."""
    lower, upper = boxes(market)
    tariff, tight = market.tariff, active.plan.active == TIGHT
    weak = jax.tree.map(
        lambda code, opened, a, b: (code != FREE) & ~opened & (a < b),
        active.plan, active.opened, lower, upper,
    )  # fmt: skip
    return replace(
        active,
        weak=replace(weak, active=tight, reactive=tight),
        net_weak=(active.net != FREE) & (tariff.total_min < tariff.total_max),
    )


def firm(active: Active) -> Active:
    """The same with none that may leave its bound."""
    none, net = jax.tree.map(jnp.zeros_like, (active.weak, active.net_weak))
    return replace(active, weak=none, net_weak=net, opened=none)


def _shut(market: Market, flow: Array) -> Bool[Array, "L H"]:
    """Lines that carry nothing, whatever happens."""
    rating = market.grid.radius
    return jnp.broadcast_to((rating <= 0) | (not market.grid.model.networked), flow.shape)


def smoothed_set(
    market: Market, plan: Plan, prices: Rows, width: float
) -> tuple[Active, Plan, Float[Array, " H"]]:
    """An `Active` in which no bound holds, and a plan and net exchange inside all of them.

    Near a bound u >= l that marginal costs push against with z, the room is the root of
    r (r - c) = mu rho, with c = u - rho z - l (Chen, Harker, SIAM J. Matrix Anal. 14, 1993): so
    r = mu / z at a bound that holds, and the bound's own room where it does not. mu is such that a
    bound about to switch gives `width` of the market's scale.
    """
    scale = scales(market, plan)
    held = firm(active_set(market, plan, prices))
    wish, rho = pushed(market, plan, pull(market, prices), scale)
    lower, upper = boxes(market)
    mu = width**2 * scale.power * scale.price * counted(market)
    equal = jax.tree.map(lambda low, high: ~(low < high), lower, upper)

    def inside(w: Array, low: Array, high: Array, step: Array) -> Array:
        return _inside(mu * step, w, low, high)

    placed = jax.tree.map(inside, wish, lower, upper, rho)
    traded = _smooth_trades(mu * rho.trades, wish.trades, toll(market) * rho.trades, upper.trades)
    shut, share = _smooth_flows(market, mu * rho.active, wish)
    tariff = market.tariff
    step = scale.total / scale.price / counted(market)
    s = net_exchange(market, plan)
    at = s + prices.aggregate * counted(market) * step
    net = inside(at, tariff.total_min, tariff.total_max, step)
    codes = jax.tree.map(lambda code, shut: jnp.where(shut, code, FREE), held.plan, equal)
    codes = replace(codes, active=jnp.where(shut, NONE, FREE), reactive=jnp.where(shut, NONE, FREE))
    active = replace(
        held,
        plan=codes,
        net=jnp.where(tariff.total_min < tariff.total_max, FREE, held.net),
        barrier=mu,
    )
    plan = replace(
        placed,
        trades=traded,
        active=jnp.where(shut, 0.0, wish.active * share),
        reactive=jnp.where(shut, 0.0, wish.reactive * share),
        exchange=plan.exchange,
    )
    return active, plan, net


def _room(mu: Array, c: Array) -> Array:
    """The root of r (r - c) = mu: c where that is large, mu / -c where it is far below 0."""
    return (c + jnp.sqrt(c**2 + 4 * mu)) / 2


def _inside(mu: Array, wish: Array, low: Array, high: Array) -> Array:
    """Where entries are that are pushed to `wish`: inside bounds, not beyond their middle."""
    half = jnp.where(jnp.isfinite(high - low), (high - low) / 2, jnp.inf)
    above = jnp.minimum(_room(mu, wish - low), half)
    below = jnp.minimum(_room(mu, high - wish), half)
    near_low = (wish - low <= high - wish) & jnp.isfinite(low)
    from_low = jnp.where(jnp.isfinite(low), low, 0.0) + above
    from_high = jnp.where(jnp.isfinite(high), high, 0.0) - below
    bounded = jnp.where(near_low, from_low, jnp.where(jnp.isfinite(high), from_high, wish))
    return jnp.where(low < high, bounded, low)


def _smooth_trades(mu: Array, wish: Array, paid: Array, limit: Array) -> Array:
    """The same of trades: two sides, each at least 0 after what it pays, within the limit."""
    traded = _room(mu, wish - paid) - _room(mu, -wish - paid)
    least = jnp.minimum(_room(mu, limit - jnp.abs(traded)), limit / 2)
    return jnp.where(jnp.abs(traded) > limit - least, jnp.sign(traded) * (limit - least), traded)


def _smooth_flows(market: Market, mu: Array, wish: Plan) -> tuple[Array, Array]:
    """Lines that carry nothing, and the share of each line's flow that is inside of its rating."""
    rating, load = market.grid.radius, length(wish.active, wish.reactive)
    radius = jnp.where(jnp.isfinite(rating), rating, 0.0)
    shorter = radius - jnp.minimum(_room(mu, radius - load), radius / 2)
    share = jnp.where(jnp.isfinite(rating), shorter / jnp.where(load > 0, load, 1.0), 1.0)
    return _shut(market, load), share
