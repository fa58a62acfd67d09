"""What an interior point method iterates on, and its Newton step: a market linearized there.

Columns with bounds and their multipliers are those of `columns`; the step is solved exactly by
`newton`, after columns and flows have been eliminated, each by itself.
"""

from dataclasses import replace

import jax
from jaxtyping import Array, Float

from ..market import Market
from ..model import Rows, counted, curvature, rows, weights, zeros, zone_slopes, zone_totals
from ..record import Record
from ..runner import jnp, vmap
from .columns import Sets, linear, names, pack, parts, proximal, pulled_by, slopes, totals, unpack
from .newton import Compliance, Newton, Worth, factor
from .preference import Preference


class Products(Record):
    """Of multipliers and the room to their bounds, EUR."""

    low: Float[Array, "C H"]
    high: Float[Array, "C H"]
    disc: Float[Array, "L H"]


class State(Record):
    columns: Float[Array, "C H"]
    below: Float[Array, "C H"]  # room to the bounds, kept apart: close to a bound, a difference of
    above: Float[Array, "C H"]  # the column and the bound is all rounding; 1 for what cannot move
    flows: Float[Array, "2 L H"]  # active, reactive
    disc: Float[Array, "L H"]  # c, kVA^2
    low: Float[Array, "C H"]  # multipliers of lower bounds, EUR per unit
    high: Float[Array, "C H"]
    tight: Float[Array, "L H"]  # multipliers of the discs, EUR/kVA^2
    prices: Rows
    price: Float[Array, "Z H"]  # of the main grid


def all_slopes(
    market: Market,
    preference: Preference | None,
    columns: Array,
    flows: Array,
    prices: Rows,
    price: Array,
) -> tuple[Array, Array]:
    """Slope of the Lagrangian without bounds, with that of a preference, EUR per unit."""
    own = slopes(market, columns, flows, prices, price)
    if preference is None:
        return own
    return jax.tree.map(jnp.add, own, preference.slopes(columns, flows))


class System(Record):
    """The market linearized at a state, and its Newton system."""

    slope: Float[Array, "C H"]  # of the Lagrangian without bounds, EUR per unit
    drift: Float[Array, "2 L H"]
    give: Float[Array, "C H"]  # compliance of each column by itself
    bend: Float[Array, "E H"]  # what links both sides of a trade
    lines: Float[Array, "3 L H"]  # compliance of flows: active, reactive, cross
    residual: Worth
    newton: Newton
    preference: Preference | None
    linked: Float[Array, "R R"]  # how parts of the preference move one another: parts K^-1 parts^T

    def respond(self, market: Market, force: Array, pulled: Array) -> tuple[Array, Array]:
        """How columns and flows move under forces."""
        moved = self.give * force
        *before, buy, sell, total, net = parts(market, moved)
        *_, buys, sells, _, _ = parts(market, self.give)
        bent = self.bend * (buy - sell)
        moved = jnp.concatenate([*before, buy - buys * bent, sell + sells * bent, total, net])
        active, reactive, cross = self.lines
        return moved, jnp.stack(
            [
                active * pulled[0] + cross * pulled[1],
                cross * pulled[0] + reactive * pulled[1],
            ]
        )

    def solve(
        self, market: Market, force: Array, pulled: Array, residual: Worth
    ) -> tuple[Rows, Array, Array, Array]:
        """How prices, the main grid's price, columns and flows move under forces."""
        moved = linear(market, *self.respond(market, force, pulled))
        solved = self.newton(market, jax.tree.map(jnp.add, residual, moved))
        prices = jax.tree.map(jnp.divide, solved.rows, weights(market))
        price = solved.total / counted(market)
        back, drift = pulled_by(market, prices, price)
        return prices, price, *self.respond(market, force - back, pulled - drift)

    def moved_along(
        self, market: Market, force: Array, pulled: Array, residual: Worth
    ) -> Float[Array, " R"]:
        """How far forces move the parts of the preference, were these no force themselves."""
        columns = self.solve(market, force, pulled, residual)[2]
        return jnp.zeros(0) if self.preference is None else self.preference.along(columns)

    def direction(self, market: Market, sets: Sets, state: State, products: Products) -> State:
        """Newton's step to these products."""
        below, above, disc = state.below, state.above, state.disc
        force = -self.slope + products.low / below - products.high / above
        pulled = -self.drift - 2 * state.flows * products.disc / disc
        if self.preference is not None and self.linked.size:
            # with K the system without these parts: (1 + parts K^-1 parts^T)^-1 parts K^-1 force is
            # how far they move (Woodbury), and what they take of the force
            alone = self.moved_along(market, force, pulled, self.residual)
            amounts = jnp.linalg.solve(jnp.eye(alone.shape[0]) + self.linked, alone)
            force = force - self.preference.across(amounts)
        prices, price, columns, flows = self.solve(market, force, pulled, self.residual)

        def multiplier(
            product: Array, room: Array, now: Array, change: Array, free: Array
        ) -> Array:
            return jnp.where(free, (product - now * change) / room - now, 0.0)

        closed = -2 * jnp.sum(state.flows * flows, axis=0)
        return State(
            columns=columns,
            below=columns,
            above=-columns,
            flows=flows,
            disc=closed,
            low=multiplier(products.low, below, state.low, columns, sets.free),
            high=multiplier(products.high, above, state.high, -columns, sets.free),
            tight=multiplier(products.disc, disc, state.tight, closed, sets.open),
            prices=prices,
            price=price,
        )


def linearize(
    market: Market,
    sets: Sets,
    state: State,
    preference: Preference | None,
    reactive: bool = True,
) -> System:
    """The market at a state; without `reactive`, reactive flows stay what they are."""
    ts, columns = counted(market), state.columns
    plan = unpack(market, columns, state.flows)
    slope, drift = all_slopes(market, preference, columns, state.flows, state.prices, state.price)
    below, above, disc = state.below, state.above, state.disc
    bend, nothing = curvature(market, plan), jnp.zeros_like(plan.imports[0])
    curved = ts * zone_slopes(market)
    curved = pack(market, replace(bend, trades=0 * bend.trades), curved, nothing)
    stiff = state.low / below + state.high / above + proximal(market, sets) + curved
    tight = state.tight + sets.stiff_line + bend.active / 2
    if preference is not None:
        stiff, tight = stiff + preference.stiff, tight + preference.line / 2
    give = jnp.where(sets.free, 1 / stiff, 0.0)
    *own, buys, sells, total, net = parts(market, give)
    soft = buys + sells
    # inverse of 2 m I + 4 m / c (f, q) (f, q)^T, or of its first entry
    f, q = state.flows
    scale = jnp.where(sets.open, 1 / (2 * tight), 0.0)
    if reactive:
        bulge = 2 * state.tight / (tight * disc + 2 * state.tight * (f**2 + q**2))
        lines = scale * jnp.stack([1 - bulge * f**2, 1 - bulge * q**2, -bulge * f * q])
    else:
        alone = tight * disc / (tight * disc + 2 * state.tight * f**2)
        lines = scale * jnp.stack([alone, 0 * q, 0 * q])
    theta = Compliance(
        plan=replace(
            zeros(market),
            **dict(zip(names(plan), own, strict=True)),
            trades=soft / (1 + soft * bend.trades),
            active=lines[0],
            reactive=lines[1],
        ),
        cross=lines[2],
        total=total,
        net=net[0],
    )
    value = rows(market, plan)
    system = System(
        slope=slope,
        drift=drift,
        give=give,
        bend=bend.trades / (1 + soft * bend.trades),
        lines=lines,
        residual=Worth(
            replace(value, aggregate=value.aggregate - columns[-1]),
            zone_totals(market, plan) - totals(market, columns),
        ),
        newton=factor(market, theta, reactive),
        preference=preference,
        linked=jnp.zeros((0, 0)),
    )
    if preference is None or not preference.offset.size:
        return system
    none = jax.tree.map(jnp.zeros_like, (drift, system.residual))
    linked = vmap(lambda part: system.moved_along(market, part, *none))(preference.parts)
    return replace(system, linked=linked)
