"""A market's columns with bounds as one array, hour by hour, and the rows' action on it.

Rows of the array: what `names` lists of a `Plan`, then each trade twice, as what its buyer and what
its seller buys, then the import sigma_z of each zone and the net exchange s. Flows are kept apart.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from ..feasibility import implied_boxes
from ..incidence import gathered, levelled
from ..market import Grid, Market
from ..model import (
    OF_CAPS,
    Plan,
    Rows,
    at_prosumers,
    boxes,
    counted,
    in_zones,
    moved,
    own_gradient,
    passive_in_zones,
    pull,
    toll,
    zeros,
    zone_bases,
    zone_slopes,
)
from ..radial import Ladder, climb
from ..reach import bounded
from ..record import Record
from ..runner import jnp
from ..scales import Shares, much, scales, shares, worths
from ..tables import has_caps
from .newton import Worth

_WIDER = 1.5  # how far beyond implied bounds those are that stand in for missing ones
_BEYOND = 1e6  # of the square of what lines may have to carry: a rating above is none
PROXIMAL = 1e-7  # least stiffness of a column, in price over power: free columns move that easily

_FIRM = 1e3  # times as stiff at least is what caps count: rows alone say what it is

NAMES = ("generation", "charge", "discharge", "energy", "imports", "exports", "curtailed")
NAMES += ("voltage", "angle", "compensation")  # then of caps, bought, sold, totals, net


def names(plan: Plan) -> tuple[str, ...]:
    """The tables of a plan whose rows are columns with bounds."""
    return NAMES if plan.level is None else (*NAMES, *OF_CAPS)


class Sets(Record):
    """Bounds, all of them finite, and which columns and lines can move."""

    lower: Float[Array, "C H"]
    upper: Float[Array, "C H"]
    free: Bool[Array, "C H"]
    square: Float[Array, "L H"]  # of the radius, kVA^2
    open: Bool[Array, "L H"]
    stiff: Float[Array, "C H"]  # least stiffness, EUR per unit^2
    stiff_line: Float[Array, " H"]
    unit: Float[Array, "C H"]  # what a unit of each column is worth, EUR
    share: Shares  # what is measured by its own size


def pack(market: Market, plan: Plan, total: Array, net: Array) -> Float[Array, "C H"]:
    """A plan's columns with bounds, one below the other; a trade by the side that buys.

    `total` is by zone, `net` of all.
    """
    sides = (jnp.maximum(plan.trades, 0.0), jnp.maximum(-plan.trades, 0.0))
    own = (getattr(plan, name) for name in names(plan))
    return jnp.concatenate([*own, *sides, total, net[None]])


def alike(market: Market, plan: Plan, total: Array, net: Array) -> Float[Array, "C H"]:
    """A number of each entry, or one for all its hours, by column: both sides of a trade alike."""
    empty, hour, zone = zeros(market), market.tariff.slope[None], zone_slopes(market)
    own = [(getattr(plan, name), getattr(empty, name)) for name in names(empty)]
    each = [*own, *2 * [(plan.trades, empty.trades)], (total, zone), (net, hour)]
    return jnp.concatenate([jnp.broadcast_to(number, like.shape) for number, like in each])


def parts(market: Market, columns: Float[Array, "C H"]) -> Sequence[Array]:
    """`pack` undone: `names`, then bought, sold, totals by zone, net."""
    empty = zeros(market)
    pairs, zones = empty.trades.shape[0], zone_slopes(market).shape[0]
    sizes = [getattr(empty, name).shape[0] for name in names(empty)] + [pairs, pairs, zones, 1]
    return jnp.split(columns, np.cumsum(sizes)[:-1])


def totals(market: Market, columns: Float[Array, "C H"]) -> Float[Array, "Z H"]:
    """The import of each zone among the columns."""
    return columns[-1 - zone_slopes(market).shape[0] : -1]


def unpack(market: Market, columns: Float[Array, "C H"], flows: Float[Array, "2 L H"]) -> Plan:
    *own, bought, sold, _, _ = parts(market, columns)
    empty = zeros(market)
    named = dict(zip(names(empty), own, strict=True))
    return replace(empty, **named, trades=bought - sold, active=flows[0], reactive=flows[1])


def sets_of(market: Market) -> Sets:
    """Bounds of all columns; missing ones stand where no feasible plan comes."""
    market = bounded(market)
    lower, upper = boxes(market)
    least, most = implied_boxes(market)
    passive = passive_in_zones(market, market.grid.passive)
    far = jnp.sum(most.imports + upper.exports, axis=0) + jnp.abs(jnp.sum(passive, axis=0))
    far = _some(_WIDER * (far + jnp.max(far)))
    reach = in_zones(market, most.imports + upper.exports) + jnp.abs(passive)
    reach = _some(_WIDER * (reach + jnp.max(reach, axis=1, keepdims=True)))
    beyond = _some(_WIDER * (most.imports + jnp.max(most.imports, initial=0.0)))
    imports = jnp.where(jnp.isfinite(upper.imports), upper.imports, beyond)
    tariff = market.tariff
    net = (
        jnp.where(jnp.isfinite(bound), bound, sign * far)
        for bound, sign in ((tariff.total_min, -1), (tariff.total_max, 1))
    )
    if has_caps(market):  # their bounds may be missing, too
        ends = ((_WIDER * getattr(least, n), _WIDER * getattr(most, n)) for n in OF_CAPS)
        ends = dict(zip(OF_CAPS, ends, strict=True))
        lower, upper = (
            replace(side, **{n: _stand_in(getattr(side, n), end[k]) for n, end in ends.items()})
            for k, side in enumerate((lower, upper))
        )
    low = pack(market, replace(lower, trades=jnp.zeros_like(upper.trades)), -reach, next(net))
    high = pack(market, replace(upper, imports=imports), reach, next(net))
    *before, bought, sold, total, exchanged = parts(market, high)
    high = jnp.concatenate([*before, bought, bought + sold, total, exchanged])
    rating = market.grid.radius
    radius = most.active**2 + most.reactive**2
    radius = _WIDER**2 * (radius + jnp.max(radius, initial=0.0))
    square = jnp.where(rating**2 > _BEYOND * radius, _some(radius), rating**2)
    scale = scales(market, zeros(market))
    share = shares(market, scale)
    worth, kwh = worths(market, scale), scale.price * counted(market)
    stiff = jax.tree.map(jnp.divide, worth, much(market, scale, share)[0])
    line = kwh / scale.total

    return Sets(
        lower=low,
        upper=high,
        free=high > low,
        square=square,
        open=(square > 0) & market.grid.model.networked,
        stiff=PROXIMAL * alike(market, stiff, line, line),
        stiff_line=PROXIMAL * line,
        unit=alike(market, worth, kwh, kwh),
        share=share,
    )


def proximal(market: Market, sets: Sets) -> Float[Array, "C H"]:
    """Least stiffness of columns, EUR per unit^2, that Newton's system takes for free ones.

    Levels and rises of caps often have no bounds, and join rows of many hours: as free as others
    they would leave nothing, after rounding, of what little their members can do.
    """
    if not has_caps(market):
        return sets.stiff
    plan, firm = zeros(market), np.ones((sets.stiff.shape[0], 1))
    first = sum(getattr(plan, name).shape[0] for name in NAMES)
    firm[first : first + sum(getattr(plan, name).shape[0] for name in OF_CAPS)] = _FIRM
    return sets.stiff * firm


def _stand_in(bound: Array, far: Array) -> Array:
    return jnp.where(jnp.isfinite(bound), bound, far)


def _some(bound: Array) -> Array:
    """A bound that stands in for a missing one; any will do where there is no load at all."""
    return jnp.where(bound > 0, bound, 1.0)


def linear(market: Market, columns: Array, flows: Array) -> Worth:
    """What a change of columns does to the rows."""
    change = unpack(market, columns, flows)
    value = moved(market, change)
    bought = in_zones(market, change.imports) - totals(market, columns)
    return Worth(replace(value, aggregate=value.aggregate - columns[-1]), bought)


def pulled_by(market: Market, prices: Rows, price: Array) -> tuple[Array, Array]:
    """The transpose of `linear` applied to prices, EUR per unit."""
    ts, pulled = counted(market), pull(market, prices)
    pulled = replace(pulled, imports=pulled.imports + ts * at_prosumers(market, price))
    own = [getattr(pulled, name) for name in names(pulled)]
    ends = (pulled.trades, -pulled.trades, -ts * price, -ts * prices.aggregate[None])
    return jnp.concatenate([*own, *ends]), jnp.stack([pulled.active, pulled.reactive])


def slopes(
    market: Market, columns: Array, flows: Array, prices: Rows, price: Array
) -> tuple[Array, Array]:
    """Slope of the Lagrangian without bounds, EUR per unit."""
    ts = counted(market)
    back, drift = pulled_by(market, prices, price)
    own = own_gradient(market, unpack(market, columns, flows), jnp.zeros_like(price))
    paid = ts * (zone_bases(market) + zone_slopes(market) * totals(market, columns))
    ends = (own.trades + toll(market), toll(market) - own.trades, paid, 0 * columns[-1:])
    if market.grid.tangent is not None:
        drift = drift + jnp.stack([own.active, own.reactive])
    return jnp.concatenate([*(getattr(own, name) for name in names(own)), *ends]) + back, drift


def reactive_flows(market: Market) -> Float[Array, "L H"]:
    """What the lines of a tree without inverters carry, kvar: all that is drawn behind them.

    Of a grid on which nothing stands between two phases.
    """
    grid = market.grid
    drawn = grid.passive_reactive.at[market.prosumers.bus].add(market.prosumers.reactive)
    _, drawn = gathered(grid, _ladder(grid), jnp.zeros_like(drawn), drawn)
    return _ladder(grid).behind(drawn)[grid.target]


def along_lines(market: Market, steps: Float[Array, "L H"]) -> Float[Array, "B H"]:
    """Values of buses that rise by `steps` along each line of a tree, from 0 at its feeder."""
    grid = market.grid
    found = _ladder(grid).along(jnp.zeros_like(grid.passive).at[grid.target].set(steps))
    return levelled(grid, _ladder(grid), jnp.ones_like(found[:, :1]), found)


def _ladder(grid: Grid) -> Ladder:
    fed = jnp.zeros(grid.passive.shape[0], bool).at[grid.feeder].set(True)
    return climb(grid.source, grid.target, grid.tap, fed)
