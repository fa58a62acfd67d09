"""What one prosumer could do best at given prices, its on/off units included: a small MILP.

The total import and all prices of rows that others share are held, and the prosumer's own rows, its
balance and the contents of its buffers, are met exactly. Costs that bend are met from below by
tangents, added where the answer lies above them, so that what HiGHS proves of the program holds of
the prosumer's costs; of a unit that may be off they are those of the perspective,

    f(p) >= f(v) z + f'(v) (p - v z),   z in {0, 1},   low z <= p <= high z.

Minimum up- and down-times are by starts and stops in each step (Rajan, Takriti, IBM Research Report
RC23628, 2005).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from .feasibility import implied_boxes
from .market import Market
from .matrix import Linear, flat, linear
from .model import (
    Plan,
    Rows,
    counted,
    curvature,
    curve_costs,
    curve_slopes,
    grid_price,
    own_gradient,
    pull,
    shared_out,
    toll,
    trade_prices,
    without_curves,
    zeros,
    zone_totals,
)
from .patterns import Units

_TANGENTS = 6  # to each cost that bends to begin with
_ROUNDS = 40  # of further ones
_PRECISE = 1e-7  # of what everything costs, that tangents may be below costs
_PATIENCE = 60.0  # seconds of each program


class Answer(NamedTuple):
    """What a prosumer's plan costs at the prices, what no plan costs less than, and a plan's own.

    In EUR, starts of units not counted in `cost`, and counted in both others.
    """

    cost: float
    least: float  # -inf where nothing was proved in time
    found: float  # inf where no plan was found in time


@dataclass(frozen=True)
class Priced:
    """Each entry of a plan as it is to its owner: bounds, and costs at a plan's prices.

    An entry v costs linear v + bend v^2 / 2 + toll |v| and what curves say, EUR. Of a trade that is
    so to each side, in `linear` by the other's copy of the plan: the buyer's, then the seller's.
    """

    market: Market
    units: Units
    of: Linear
    plan: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    linear: tuple[np.ndarray, np.ndarray]
    bend: np.ndarray
    toll: np.ndarray
    curved: np.ndarray
    owner: np.ndarray  # -1 of nobody
    other: np.ndarray  # the seller of a trade; -1 of all else

    def bent(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What entries cost beside their linear costs, EUR, and the slopes of that."""
        cost, slope = self.bend / 2 * values**2, self.bend * values
        units = self.market.generators
        if units.curves:
            made = self.of.columns["generation"]
            power: Any = values[made].reshape(-1, self.of.hours)
            ts = np.asarray(counted(self.market))
            cost[made] += (ts * np.asarray(curve_costs(units, power))).ravel()
            slope[made] += (ts * np.asarray(curve_slopes(units, power))).ravel()
        return cost, slope


def priced(market: Market, units: Units, plan: Plan, prices: Rows) -> Priced:
    """What a `market`, whose `units` take any power, says of each entry at a plan and its prices.

    The own effect on the main grid's price counts as kappa d_mg p^2 / 2, as in the certificate's
    gap (model.md: Gaps). Trades are at the price mu_tr of their pair.
    """
    flat_costs, zero = without_curves(market), zeros(market)
    price = grid_price(market, zone_totals(market, plan))
    shared = replace(prices, balance=0 * prices.balance, energy=0 * prices.energy)
    slope = own_gradient(flat_costs, zero, price)
    slope = jax.tree.map(lambda a, b: a + b, slope, pull(market, shared))
    pairs, ts, traded = market.trading, counted(market), trade_prices(market, prices)
    capped = 0.0  # what caps that count trades ask, half of each side
    if prices.cap is not None:
        capped = shared_out(market, market.weight * prices.cap)["trades"] / 2
    sides = (
        replace(slope, trades=ts * (pairs.fee_buyer + traded) + capped),
        replace(slope, trades=-ts * (pairs.fee_seller + traded) + capped),
    )
    bend = curvature(flat_costs, plan)
    bend = replace(bend, trades=bend.trades / 2)
    lower, upper = implied_boxes(market)

    def spread(table: Plan) -> np.ndarray:
        return flat(jax.tree.map(lambda a, b: np.broadcast_to(a, np.shape(b)), table, zero))

    whose = jax.tree.map(lambda a: np.full(np.shape(a), -1), zero)
    rows = {"generation": market.generators.owner, "imports": np.arange(len(market.prosumers.bus))}
    rows |= dict.fromkeys(("charge", "discharge", "energy"), market.buffers.owner)
    rows |= dict.fromkeys(("exports", "curtailed"), rows["imports"])
    if zero.level is not None:
        rows |= dict.fromkeys(("level", "rise", "spare"), market.caps.owner)
    columns = {name: np.asarray(row)[:, None] for name, row in rows.items()}
    curved = zero.generation * 0
    for curve in market.generators.curves:
        for numbers in jax.tree.leaves(curve):
            curved = np.maximum(curved, np.abs(np.sign(np.asarray(numbers)))[:, None])
    return Priced(
        market=market,
        units=units,
        of=linear(market),
        plan=np.clip(spread(plan), spread(lower), spread(upper)),
        lower=spread(lower),
        upper=spread(upper),
        linear=(spread(sides[0]), spread(sides[1])),
        bend=spread(bend),
        toll=spread(replace(zero, trades=zero.trades + toll(market) / 2)),
        curved=spread(replace(zero, generation=curved)) > 0,
        owner=spread(replace(whose, **columns, trades=np.asarray(pairs.buyer)[:, None])),
        other=spread(replace(whose, trades=np.asarray(pairs.seller)[:, None])),
    )


class _Rows:
    """Rows of a program: sums of number times column, entry by entry, between two limits."""

    def __init__(self, width: int):
        self.width, self.blocks = width, []

    def add(self, terms: list[tuple[Any, Any]], low: Any, high: Any) -> None:
        from scipy import sparse

        count = len(terms[0][0])
        numbers = np.concatenate([np.broadcast_to(number, count) for _, number in terms])
        columns = np.concatenate([column for column, _ in terms])
        at = np.tile(np.arange(count), len(terms))
        matrix = sparse.csr_array((numbers, (at, columns)), shape=(count, self.width))
        self.blocks.append((matrix, *(np.broadcast_to(np.asarray(a), count) for a in (low, high))))

    def constraint(self) -> Any:
        from scipy import optimize as module
        from scipy import sparse

        optimize: Any = module
        matrices, lows, highs = zip(*self.blocks, strict=True)
        return optimize.LinearConstraint(
            sparse.vstack(matrices, format="csr"), np.concatenate(lows), np.concatenate(highs)
        )


def best_response(given: Priced, prosumer: int) -> Answer:
    """What `prosumer` could do best at the prices, all else held.

    Its plan's cost, a bound below which no plan of it costs, and what the best found costs, which
    is higher by 1e-7 of its gross costs at most, or by what HiGHS left open in its time. Both count
    to the 1e-6 or so that HiGHS keeps of bounds and whole numbers.
    """
    from scipy import optimize as module

    optimize: Any = module  # whose annotations know no arrays
    of, hours = given.of, given.of.hours
    sold = given.other == prosumer
    mine = np.flatnonzero((given.owner == prosumer) | sold)
    place = np.full(given.owner.size, -1)
    place[mine] = np.arange(mine.size)
    cost = np.where(sold, given.linear[1], given.linear[0])[mine]
    cost_of_size = given.toll[mine]
    sized = np.flatnonzero(cost_of_size > 0)
    bent = np.flatnonzero((given.bend[mine] > 0) | given.curved[mine])
    own = np.flatnonzero(
        np.asarray(given.market.generators.owner)[given.units.generator] == prosumer
    )
    size = mine.size + np.arange(sized.size)
    above = size.size + mine.size + np.arange(bent.size)
    first = mine.size + size.size + above.size
    is_on, starts, stops = (
        first + part + np.arange(own.size * hours).reshape(-1, hours)
        for part in np.arange(3) * own.size * hours
    )
    width = first + 3 * own.size * hours

    # of each unit's power, the column of its being on
    powers = (
        of.columns["generation"].start + np.asarray(given.units.generator)[own][:, None] * hours
    )
    powers = place[powers + np.arange(hours)]
    switch = np.full(mine.size, -1)
    switch[powers] = is_on

    whole = _Rows(width)
    _private(whole, given, mine, prosumer)
    for sign in (1.0, -1.0):
        whole.add([(size, 1.0), (sized, sign)], 0.0, np.inf)
    _commit(whole, given.units, own, powers, is_on, starts, stops)

    values = given.plan.copy()
    at_plan = given.bent(values)[0][mine]
    x = given.plan[mine]
    paid = float(np.sum(cost * x + cost_of_size * np.abs(x)) + at_plan.sum())
    gross = float(np.sum(np.abs(cost * x) + cost_of_size * np.abs(x) + np.abs(at_plan)))
    per_start = np.asarray(given.units.start_cost, float)[own]
    objective = np.zeros(width)
    objective[: mine.size] = cost
    objective[size], objective[above] = cost_of_size[sized], 1.0
    objective[starts] = per_start[:, None]
    steep = float(np.abs(np.delete(objective, above)).max(initial=0.0))
    unit = min(gross / hours, steep) or 1.0  # EUR, in which the program counts
    objective[above] = unit

    def touch(points: np.ndarray, entries: np.ndarray) -> None:
        """Tangents at these points of those of the entries that bend."""
        everything = given.plan.copy()
        everything[mine[bent]] = points
        value, slope = (a[mine[bent]][entries] / unit for a in given.bent(everything))
        v, on = points[entries], switch[bent[entries]]
        off = on >= 0
        ends = value - slope * v
        terms = [(bent[entries], slope), (above[entries], -1.0)]
        terms.append((np.where(off, on, 0), np.where(off, ends, 0.0)))
        whole.add(terms, -np.inf, np.where(off, 0.0, -ends))

    lower, upper = given.lower[mine], given.upper[mine]
    every = np.arange(bent.size)
    for share in np.linspace(0.0, 1.0, _TANGENTS):
        touch(lower[bent] + share * (upper[bent] - lower[bent]), every)
    touch(x[bent], every)

    none = np.zeros(width - first)
    floor = np.concatenate([lower, 0.0 * size, np.full(bent.size, -np.inf), none])
    ceiling = np.concatenate([upper, np.full(sized.size + bent.size, np.inf), none + 1.0])
    integers = np.zeros(width)
    integers[is_on] = 1
    least, best = -np.inf, np.inf
    for _ in range(_ROUNDS):
        answer = optimize.milp(
            objective / unit,
            integrality=integers,
            bounds=optimize.Bounds(floor, ceiling),
            constraints=[whole.constraint()],
            options={"time_limit": _PATIENCE, "mip_rel_gap": 0.0},
        )
        proved = answer.fun if answer.mip_dual_bound is None else answer.mip_dual_bound
        least = max(least, -np.inf if proved is None else unit * float(proved))
        if answer.x is None:
            break
        values[mine] = answer.x[: mine.size]
        bends = given.bent(values)[0][mine[bent]]
        short = bends - unit * answer.x[above]
        best = min(best, float(objective @ answer.x) + float(short.sum()))
        if short.sum() <= _PRECISE * gross or answer.status == 1:
            break
        touch(answer.x[bent], np.flatnonzero(short > 0))
    return Answer(paid, least, best)


def _private(whole: _Rows, given: Priced, mine: Int[np.ndarray, " V"], prosumer: int) -> None:
    """The rows that a prosumer meets itself: its balance, and the contents of its buffers."""
    from scipy import sparse

    of, hours = given.of, given.of.hours
    stores = np.flatnonzero(np.asarray(given.market.buffers.owner) == prosumer)
    rows = [of.rows["balance"].start + prosumer * hours + np.arange(hours)]
    rows += [of.rows["energy"].start + k * hours + np.arange(hours) for k in stores]
    at = np.concatenate(rows)
    matrix = sparse.csr_array(of.matrix[at][:, mine])
    matrix.resize((at.size, whole.width))
    whole.blocks.append((matrix, -of.constant[at], -of.constant[at]))


def _commit(
    whole: _Rows,
    units: Units,
    own: Int[np.ndarray, " U"],
    powers: Int[np.ndarray, "U H"],
    is_on: Int[np.ndarray, "U H"],
    starts: Int[np.ndarray, "U H"],
    stops: Int[np.ndarray, "U H"],
) -> None:
    """Power by being on, starts and stops by its changes, and how long either lasts."""
    from scipy import sparse

    if not own.size:
        return
    low, high = (np.asarray(end, float)[own] for end in (units.low, units.high))
    may = low <= high
    on = is_on.ravel()
    for end, limits in ((low, (0.0, np.inf)), (high, (-np.inf, 0.0))):
        whole.add([(powers.ravel(), 1.0), (on, -np.where(may, end, 0.0).ravel())], *limits)
    whole.add([(on, 1.0)], 0.0, may.astype(float).ravel())
    before = np.asarray(units.on, float)[own]
    change = [(is_on[:, 1:].ravel(), 1.0), (is_on[:, :-1].ravel(), -1.0)]
    change += [(starts[:, 1:].ravel(), -1.0), (stops[:, 1:].ravel(), 1.0)]
    whole.add(change, 0.0, 0.0)
    whole.add([(is_on[:, 0], 1.0), (starts[:, 0], -1.0), (stops[:, 0], 1.0)], before, before)
    step = np.arange(is_on.shape[1])
    gone = step[:, None] - step[None, :]
    for lasts, events, sign, most in (
        (units.up, starts, -1.0, 0.0),
        (units.down, stops, 1.0, 1.0),
    ):
        unit, now, then = np.nonzero((gone >= 0) & (gone < np.asarray(lasts)[own][:, None, None]))
        at = unit * len(step) + now
        matrix = sparse.csr_array(
            (
                np.concatenate([np.ones(at.size), np.full(on.size, sign)]),
                (
                    np.concatenate([at, np.arange(on.size)]),
                    np.concatenate([events[unit, then], on]),
                ),
            ),
            shape=(on.size, whole.width),
        )
        whole.blocks.append((matrix, np.full(on.size, -np.inf), np.full(on.size, most)))
