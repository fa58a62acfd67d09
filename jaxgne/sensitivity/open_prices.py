"""Prices that are open at an equilibrium, and numbers of a market that depend on them.

Where nothing that moves holds a price, as where a limit on the total is just at a demand that does
not give way, bounds let it rise and fall some way, and no output of the plan depends on it. Numbers
that change what this price is of cannot change without another bound that lets go: on either side
the one that the price meets first. A linear derivative with all held spreads such a change over all
of these bounds. It lies between the one-sided derivatives if what each of them misses has one sign
(`kinks`), for then so have both ends of what the open price adds; where there are two, for a load
that can only be less has one side.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from ..market import Market
from ..model import Plan, counted, rows_like, zeros, zone_slopes
from ..record import changed
from ..runner import jnp
from ..scales import scales
from .active import NONE, Active
from .by_hand import by_market
from .lagrangian import Point
from .refinement import Linear

FELT = 1e-5  # effect on what is loose that tells it from rounding
_TOLD = 1e-6  # share of the whole that has a sign

LOOSE = (
    "The derivative by {} is not known to lie between those on both sides: at this equilibrium a "
    "price that it depends on is open, and limits let go that differ. Ask for derivatives by other "
    "fields only, or pass adjoint=jaxgne.Implicit(throw=False) for a value all the same."
)
SHARES = (
    "Derivatives by {} count together: at this equilibrium a battery rests full or empty, or a "
    "level of a cap rests, and what one of its numbers does depends on the others. A change of all "
    "hours alike, as of a capacity, is right as their sum; each alone may be on neither side of "
    "this equilibrium. adjoint=jaxgne.Smoothed() has a value for each."
)


def effects(market: Market, plan: Plan, felt: Market) -> Market:
    """The largest effect of each field, as large as it is, on what is loose; no unit.

    `felt` is the derivative of the conditions' slope along what is loose.
    """
    scale = scales(market, plan)
    unit = jnp.max(counted(market)) * scale.power * scale.price
    real = eqx.filter(market, eqx.is_inexact_array)

    def largest(g: Array, m: Array) -> Array:
        much = jnp.max(jnp.where(jnp.isfinite(m), jnp.abs(m), 0.0), initial=0.0)
        return much * jnp.max(jnp.abs(g), initial=0.0) / unit

    return jax.tree.map(largest, felt, real)


def loosened(market: Market, active: Active, plan: Plan, point: Point, loose: Point) -> Market:
    """These effects, where `loose` is a change that the conditions do not notice."""
    felt = by_market(market, active, plan, point, zeros(market), loose)
    return effects(market, plan, felt)


def shared(
    market: Market, wide: Active, pushed: Any, size: Point, every: Linear, sign: Array
) -> Point:
    """Prices that bounds of one `sign` count, or of both where it is 0, each by another factor.

    `pushed` is what each bound misses, inward, as a share of the whole, where `wide` lets all leave
    and `every` is K.
    """
    unit = jnp.max(counted(market) * size.price * size.plan.imports)
    plan, net = jax.tree.map(
        lambda here, a: (here & (jnp.where(sign == 0, jnp.abs(a), sign * a) > _TOLD)) * 1.0,
        (wide.weak, wide.net_weak), pushed,
    )  # fmt: skip
    none = wide.weak.trades & (wide.plan.trades == NONE)  # a trade can begin either way
    either = (none & (jnp.abs(pushed[0].trades) > _TOLD)) * 1.0
    plan = replace(plan, trades=jnp.maximum(plan.trades, either))
    plan, net = jax.tree.map(_spread, (plan, net), (size.plan, size.net))
    zone, rows = jnp.zeros_like(zone_slopes(market)), rows_like(market)
    seen = every(Point(plan, zone, net, rows, zone))
    return priced(jax.tree.map(lambda a, s: a * s**2 / unit, seen, size))


def torn_prices(size: Point, pushed: Point, pulled: Point, risen: Point, fallen: Point) -> Point:
    """A change of those open prices that bounds of both signs share, or that have no two ends.

    Each of what bounds share (`shared`), of which K does not notice what is given here: what they
    miss, `pushed` and `pulled`, and how these prices press them as they rise, and as they fall.
    """

    def torn(a: Array, b: Array, c: Array, d: Array) -> Array:
        return jnp.where((a != 0) & (b != 0) | (c == 0) | (d == 0), a + b, 0.0)

    ways = (told(way, size) for way in (pushed, pulled, risen, fallen))
    return jax.tree.map(torn, *ways)


def told(point: Point, size: Point) -> Point:
    """Those of its prices that can be told from rounding."""
    return priced(jax.tree.map(lambda a, s: jnp.where(jnp.abs(a) > FELT * s, a, 0.0), point, size))


def priced(point: Point) -> Point:
    """Its prices alone."""
    none = jax.tree.map(jnp.zeros_like, point)
    return replace(none, prices=point.prices, price=point.price)


def of_storage(point: Point) -> Point:
    """Prices of what is stored or counted alone: open where a battery, or a level, rests."""
    none = jax.tree.map(jnp.zeros_like, point)
    prices = replace(none.prices, energy=point.prices.energy, level=point.prices.level)
    return replace(none, prices=prices)


def _spread(numbers: Array, size: Array) -> Array:
    """Numbers of that `size`, each by another factor around 1."""
    wave = jnp.cos(2.4 * jnp.arange(numbers.size, dtype=numbers.dtype)).reshape(numbers.shape)
    return size * numbers * (1 + wave / 2)


def refused(effects: Market) -> Market:
    """Those that are refused: not of a buffer or a cap, which count together where it rests."""
    return changed(effects, buffers=None, caps=None)


def is_part(asked: Any, market: Market) -> bool:
    """Whether not all real numbers of the market are asked for."""
    counts = [len(jax.tree.leaves(eqx.filter(a, eqx.is_inexact_array))) for a in (asked, market)]
    return counts[0] < counts[1]


def named(effects: Market) -> dict[str, Array]:
    """The fields that are felt, and how much."""
    pairs = jax.tree_util.tree_flatten_with_path(effects)[0]
    return {jax.tree_util.keystr(at).lstrip("."): a for at, a in pairs if float(a) > FELT}
