"""What the network asks of a trade by how far it goes, by what it loses, or by whose area it is in.

    market = charges.by_distance(market, mean=0.02)

Each function returns the market with `Trading.toll` filled, which both sides of a pair pay for a
kWh that they trade, whichever way; a toll that the market had is replaced, but the fee of a pool,
which is at no place. Sources: Baroche,
Pinson, Le Goff Latimier, Ben Ahmed, "Exogenous cost allocation in peer-to-peer electricity
markets", IEEE Trans. Power Systems 34(4), 2019 (unique, electrical distance and zonal charges);
Klein, Randic, "Resistance distance", Journal of Mathematical Chemistry 12, 1993.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .acflow import ac_power_flow
from .arrays import floats
from .contracts import distance, places
from .each import for_one
from .losses import losses_by_draw
from .market import Grid, Market, bus_name, line_name
from .model import mean_price, pairs_of_parties
from .record import changed
from .result import Clearing
from .runner import to_device
from .tables import refuse_zones

Fee = float | Sequence[float]  # EUR/kWh: one number, or one a step

_AT_ONCE = 256  # pairs whose distances are solved for together
_IDLE = 1e-3  # kW: who trades less has not said which way


@for_one()
def by_distance(market: Market, mean: float) -> Market:
    """The market whose tolls are in proportion to the electrical distance of each pair's buses.

    Distances are those of `distances`. Both sides of a pair pay the same; what they pay together
    for a kWh is `mean` EUR/kWh on the average over all pairs, each counted once and none with a
    pool, so the mean of `Trading.toll` is half of that.

    Runs on the host. Raises `ValueError` as `distances` does, for a `mean` that is below 0, and
    where all pairs are at one place, so that no toll by distance has a mean above 0.
    """
    if not 0 <= mean < np.inf:
        raise ValueError(f"by_distance: mean={mean!r}; give EUR/kWh, 0 or more.")
    apart, counted = distances(market), np.asarray(pairs_of_parties(market))
    if not counted.any():
        return market
    average = np.mean(apart[counted])
    if mean > 0 and not average > 0:
        raise ValueError(
            "by_distance: all pairs trade within one place, at distance 0; use by_area for a fee."
        )
    scale = mean / average if mean > 0 else 0.0
    return _tolled(market, scale * apart[:, None] / 2)


@for_one()
def distances(market: Market) -> Float[np.ndarray, " E"]:
    """The electrical distance between the two buses of each pair, pu/kW.

    It is the effective resistance of the lines between them: on a feeder without loops the sum of
    resistances along the path, with loops less, as current has several ways. Feeder buses count as
    one, which the main grid holds. In three phases buses are taken with all their phases, and a
    line has the mean conductance of its phases. Taps are left out, as ratios of per unit are. What
    a line without resistance joins, as a regulator, is at one place.

    Runs on the host: one sparse factorization, and a solve for each pair. Raises `ValueError` for a
    grid without network, for a resistance below 0, and for a bus that no line leads to.
    """
    from scipy.sparse.linalg import splu

    grid, pairs = market.grid, market.trading
    if not grid.model.networked:
        raise ValueError(
            f"distances: Grid.model {grid.model.name!r} has no lines, so nobody is far from "
            "anybody; use a grid with lines, or by_area for one fee."
        )
    node, matrix = _laplacian(grid)
    bus = np.asarray(market.prosumers.bus)
    at = [bus[np.asarray(side)] for side in (pairs.buyer, pairs.seller)]
    lost = np.concatenate([there[node[there] < 0] for there in at])
    if len(lost):
        raise ValueError(
            f"distances: no line leads from a feeder to bus {bus_name(grid, int(lost[0]))}."
        )
    ends = [node[there] for there in at]
    factor, apart = splu(matrix), np.zeros(len(ends[0]))
    for first in range(0, len(apart), _AT_ONCE):
        a, b = (end[first : first + _AT_ONCE] for end in ends)
        pair = np.arange(len(a))
        current = np.zeros((matrix.shape[0], len(a)))
        np.add.at(current, (a, pair), 1.0)
        np.add.at(current, (b, pair), -1.0)
        voltage = factor.solve(current)
        apart[first : first + _AT_ONCE] = voltage[a, pair] - voltage[b, pair]
    return np.maximum(apart, 0.0)


def _laplacian(grid: Grid) -> tuple[Int[np.ndarray, " B"], Any]:
    """The node of each row of buses, -1 where no line leads, and the Laplacian of nodes, sparse.

    The last node is the feeders', which is also tied to ground: no current between two nodes takes
    that way, and the matrix is regular.
    """
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.csgraph import connected_components

    place, phase = places(grid)
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    fed = np.isin(place, place[np.asarray(grid.feeder)])
    _, node = np.unique(np.where(fed, len(place), place), return_inverse=True)
    resistance = np.asarray(grid.resistance, float)
    node = _without_resistance(node, source[resistance == 0], target[resistance == 0])
    size, between = int(node.max()) + 1, node[source] != node[target]
    resistance, phase = resistance[between], phase[target[between]]
    source, target = node[source[between]], node[target[between]]
    if not np.all(resistance > 0):
        line = int(np.flatnonzero(between)[np.argmin(resistance)])
        raise ValueError(
            f"distances: Grid.resistance of line {line_name(grid, line)} is "
            f"{np.min(resistance):.3g}; electrical distance needs 0 or more."
        )
    line = np.minimum(source, target) * size + np.maximum(source, target)
    conductors = np.unique(3 * line + phase) // 3  # one for each phase
    _, phases = np.unique(conductors, return_counts=True)
    value = 1 / (resistance * phases[np.unique(line, return_inverse=True)[1]])
    matrix = coo_matrix((value, (source, target)), shape=(size, size)).tocsr()
    matrix = matrix + matrix.T
    zone = connected_components(matrix, directed=False)[1]
    reached, total = zone == zone[-1], np.asarray(matrix.sum(axis=1)).ravel()
    total[-1] += total[-1] or 1.0
    number = np.where(reached, np.cumsum(reached) - 1, -1)
    return number[node], (diags(total) - matrix).tocsc()[reached][:, reached]


def _without_resistance(
    node: Int[np.ndarray, " B"], source: Int[np.ndarray, " R"], target: Int[np.ndarray, " R"]
) -> Int[np.ndarray, " B"]:
    """The node of each bus where these lines make two buses one place, the feeders' still last."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    size = int(node.max()) + 1
    ends = node[source], node[target]
    place = connected_components(coo_matrix((np.ones(len(source)), ends), (size, size)))[1]
    return np.unique(np.where(place == place[-1], size, place), return_inverse=True)[1][node]


@for_one()
def by_loss(market: Market, clearing: Clearing) -> Market:
    """The market whose tolls are what a further kWh of each trade costs in losses of the grid.

    At the plan of `clearing`, by hour: what all lines lose more, by the AC power flow, where the
    side that buys draws a kW more and the other one less; 2 r p of each line on the way, to first
    order. That at the main grid's price, half to each side; 0 where the trade relieves the grid. A
    pair that is idle in that hour, below a watt, may come to trade either way, and is asked for the
    dearer one. Losses of other trades follow from these tolls: clear again, and ask again, where
    that matters.

    Runs on the host, but for the power flow. Raises `ValueError` for a grid without network or one
    that `ac_power_flow` does not take, and where the power flow of the plan has no solution.
    """
    refuse_zones("by_loss", market)
    ok = np.asarray(ac_power_flow(market, clearing.plan).ok)
    if not np.all(ok):
        raise ValueError(
            f"by_loss: the AC power flow of this plan has no solution in step {int(np.argmin(ok))};"
            " limit what lines carry (Grid.rating)."
        )
    pairs, bus = market.trading, np.asarray(market.prosumers.bus)
    each = np.asarray(losses_by_draw(market, clearing.plan)[0])
    bought, sold = (each[bus[np.asarray(side)]] for side in (pairs.buyer, pairs.seller))
    trades, price = (
        np.asarray(clearing.plan.trades),
        np.asarray(mean_price(market, clearing.plan)),
    )
    way = np.where(np.abs(trades) < _IDLE, np.sign(bought - sold), np.sign(trades))
    return _tolled(market, np.maximum(price * way * (bought - sold), 0.0) / 2)


@for_one()
def by_area(
    market: Market,
    near: Fee,
    feeder: Fee,
    across: Fee | None = None,
    *,
    transformers: Iterable[int | str] = (),
) -> Market:
    """The market whose tolls are a fee by area, reduced for neighbors, as communities have it.

    Both sides together pay `near` EUR/kWh below one transformer, `feeder` on one feeder, `across`
    beyond, by default `feeder`; each is a number, or one a step. `transformers` are lines, by
    number or name, behind which neighbors are near; without any all are near that one feeder bus
    supplies. For fees with taxes and VAT there is `with_contracts`.

    Runs on the host. Raises `ValueError` for fees below 0 or of other steps, and for lines that
    there are not.
    """
    steps = market.prosumers.load.shape[-1]
    given = {"near": near, "feeder": feeder, "across": feeder if across is None else across}
    fees = np.empty((3, steps))
    for row, (name, fee) in enumerate(given.items()):
        value = np.asarray(floats(f"by_area: {name}", fee), float)
        if value.shape not in ((), (steps,)) or not np.all((value >= 0) & (value < np.inf)):
            raise ValueError(
                f"by_area: {name}={fee!r:.60}; give EUR/kWh of at least 0, one number or one for "
                f"each of {steps} steps."
            )
        fees[row] = value
    fees = fees[:, :1] if np.all(fees == fees[:, :1]) else fees
    return _tolled(market, fees[distance(market, transformers)] / 2)


def _tolled(market: Market, toll: Float[np.ndarray, "E #H"]) -> Market:
    both = np.asarray(pairs_of_parties(market))[:, None]
    made = toll if both.all() else np.where(both, toll, np.asarray(market.trading.toll))
    made = made.astype(market.prosumers.load.dtype)
    return changed(market, trading=changed(market.trading, toll=to_device(made)))
