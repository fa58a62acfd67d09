"""Awkward markets: no false word about any, few left undecided, and prices right for the smallest.

Against the convex solver where it has an answer, and against the first-order conditions
(model.md: Prices), written out here prosumer by prosumer in units of that prosumer's own size.
"""

from collections import Counter

import equinox as eqx
import jax
import numpy as np
import pytest

import jaxgne as jg
from tests.agreement import potential
from tests.markets import ADVERSE, GRIDS, adversarial_market
from tests.reference import solve

SPOKEN_FOR = 1e-6  # of the market's largest: smaller prosumers are not promised anything
SOLVERS = {"interior point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}
MOST = {"interior point": None, "primal-dual": 100_000}


def own_sizes(market: jg.Market) -> np.ndarray:
    """The largest power of each prosumer: of its load or a device, kW."""
    size = np.abs(np.asarray(market.prosumers.load)).max(axis=1)
    for owner, power in (
        (market.generators.owner, market.generators.power_max),
        (market.buffers.owner, market.buffers.charge_max),
        (market.buffers.owner, market.buffers.discharge_max),
    ):
        np.maximum.at(size, np.asarray(owner), np.asarray(power).max(axis=1, initial=0.0))
    return size


def is_a_plan(market: jg.Market, plan: jg.Plan) -> bool:
    """Whether each prosumer's own balance and bounds hold to 1e-4 of its size.

    The convex solver calls a market solved whose smallest prosumer it misses by its whole load.
    """
    size = own_sizes(market)[:, None]
    low, high = jg.model.boxes(market)
    missed = [np.abs(np.asarray(jg.model.rows(market, plan).balance))]
    for name in ("imports", "exports", "curtailed"):
        power = np.asarray(getattr(plan, name))
        missed += [np.asarray(getattr(low, name)) - power, power - np.asarray(getattr(high, name))]
    return all(bool(np.all(off <= 1e-4 * size)) for off in missed)


def check_own(market: jg.Market, clearing: jg.Clearing) -> int:
    """Balances to 1e-4 of a prosumer's size, and prices where they are unique; how many those are.

    A purchase inside its bounds costs what energy is worth to its owner: p0 + d (sigma + kappa p)
    + a + lambda = pi; so does a generator: c + 2 q p = pi + mu_pb.
    """
    plan, prices = clearing.plan, clearing.prices
    size = own_sizes(market)
    heard = (size > 0) & (size >= SPOKEN_FOR * size.max())
    missed = np.abs(np.asarray(jg.model.rows(market, plan).balance)).max(axis=1)
    assert np.all(missed[heard] <= 1e-4 * size[heard])
    tariff, units = market.tariff, market.generators
    dearest = float(clearing.certificate.scales.price)
    sigma = np.asarray(jg.aggregate(market, plan))
    bought = np.asarray(plan.imports)
    cost = np.asarray(tariff.base + tariff.slope * (sigma + tariff.anticipation * bought))
    cost = cost + np.asarray(market.prosumers.import_adder)
    gap = cost + np.asarray(prices.aggregate - prices.balance)
    least, most = 1e-2 * size[:, None], np.asarray(market.prosumers.import_max)
    inside = heard[:, None] & (bought > least) & (bought < most - least)
    assert np.all(np.abs(gap[inside]) <= 1e-4 * dearest)
    owner = np.asarray(units.owner)
    made = np.asarray(plan.generation)
    value = np.asarray(jg.model.energy_prices(market, prices))[owner]
    steep = np.asarray(units.linear[:, None] + 2 * units.quadratic[:, None] * plan.generation)
    room = least[owner]
    free = heard[owner][:, None] & (made > np.asarray(units.power_min) + room)
    free &= made < np.asarray(units.power_max) - room
    assert np.all(np.abs(steep - value)[free] <= 1e-4 * dearest)
    return int(inside.sum() + free.sum())


def held_to_the_oracle(market: jg.Market, clearing: jg.Clearing, seed: int) -> tuple[str, int]:
    """How a market ended, which the convex solver does not deny, and how many prices are right."""
    word, oracle = jg.status.status_name(clearing.status), solve(market)
    assert word != "nonfinite", seed
    if word == "infeasible":
        assert oracle.status != "solved" or not is_a_plan(market, oracle.plan), seed
    if word != "cleared":
        return word, 0
    assert oracle.status != "infeasible", seed
    if oracle.status == "solved":
        bill = float(clearing.certificate.scales.bill)
        assert abs(float(potential(market, clearing.plan)) - oracle.potential) < 5e-6 * bill
    return word, check_own(market, clearing)


def judged(seeds: list[int], shape: int, grid: int, name: str) -> Counter[str]:
    """How markets of one shape and grid end, each held to the convex solver's word."""
    markets = [adversarial_market(s, shape=ADVERSE[shape], grid=GRIDS[grid]) for s in seeds]
    stacked = jg.scenarios.stack(markets)
    many = jg.clear_many(stacked, SOLVERS[name], max_steps=MOST[name])
    counts: Counter[str] = Counter()
    for lane, market in enumerate(markets):
        clearing = jax.tree.map(lambda a, lane=lane: a[lane], many)
        word, prices = held_to_the_oracle(market, clearing, seeds[lane])
        counts.update({word: 1, "prices checked": prices})
    return counts


@pytest.mark.parametrize("name", SOLVERS)
def test_awkward_markets(name):
    """A dozen, of four prosumers and an hour."""
    counts = judged(list(range(12)), 2, 0, name)
    assert counts["max_steps"] == 0
    assert counts["cleared"] > 3 and counts["prices checked"] > 10


@pytest.mark.parametrize(
    ("shape", "grid", "seed"),
    [(4, 0, 1013), (4, 0, 1073), (2, 1, 1077), (2, 3, 1077)],
)
def test_small_ones_that_may_resell_any_amount_clear(shape, grid, seed):
    """In 20 steps: a mW prosumer with a limit of 1e6 to 1e9 kW, and costs that rise steeply."""
    market = adversarial_market(seed, shape=ADVERSE[shape], grid=GRIDS[grid])
    clearing = jg.clear(market, jg.InteriorPoint(), max_steps=20, throw=False)
    word, prices = held_to_the_oracle(market, clearing, seed)
    assert word == "cleared" and prices > 0


def test_a_surplus_of_a_millionth_is_infeasible():
    """A prosumer of 1e-6 kW beside one of 8 kW can neither sell nor curtail its surplus."""
    market = adversarial_market(1032, shape=ADVERSE[1], grid=GRIDS[3])
    own = market.prosumers.import_adder, market.prosumers.export_adder  # none: other scales
    market = eqx.tree_at(lambda m: (m.prosumers.import_adder, m.prosumers.export_adder), market,
                         (0 * own[0], 0 * own[1]))  # fmt: skip
    oracle = solve(market)
    assert oracle.status == "solved" and not is_a_plan(market, oracle.plan)
    clearing = jg.clear(market, jg.InteriorPoint(), throw=False)
    word, _ = held_to_the_oracle(market, clearing, 1032)
    assert word == "infeasible"
    assert "Prosumers row 0" in clearing.why(market=market)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("shape", range(len(ADVERSE)))
@pytest.mark.parametrize("grid", range(len(GRIDS)))
def test_two_thousand_awkward_markets(shape, grid, name):
    """100 of each of 20 kinds by each solver: no false word, at most 1 % undecided."""
    counts = judged(list(range(1000, 1100)), shape, grid, name)
    print(counts)
    assert counts["max_steps"] <= 1
