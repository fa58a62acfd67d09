"""Every solver finds what the independent oracle finds, on markets of every kind."""

from collections import Counter
from functools import partial

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.causes import explain_infeasible
from jaxgne.scenarios.calendar import hours_of
from tests.agreement import SOLVERS, check_agreement, check_signs
from tests.markets import GRIDS, HAND_MADE, SHAPES, random_market
from tests.reference import solve


def alike(market: jg.Market) -> jg.Market:
    """A hand-made market padded to sizes that all share, so that each kind of grid compiles once.

    Its last hour comes again until there are four.
    """
    hours = market.prosumers.load.shape[1]
    market = hours_of(market, np.minimum(np.arange(4), hours - 1))
    buses = 1 if market.grid.model.name == "copperplate" else max(5, len(market.grid.passive))
    return jg.scenarios.pad(market, prosumers=4, generators=2, buffers=2, pairs=4, buses=buses)


# Markets of these kinds share programs, so that all are cleared by both solvers; of other kinds
# one solver's are compiled, the other's (of a mesh, of the paper's, both) only with -m slow.
SHARED = ("two", "exports", "curtailment", "unequal", "one bus", "feeder", "many")
ONE = {
    "one importer": "interior point",
    "paper feeder with reactive power": "interior point",
    "inverters": "primal-dual",
}
BOTH = [(kind, name) for kind in HAND_MADE for name in SOLVERS]
QUICK = {
    (kind, name)
    for kind, name in BOTH
    if ONE.get(kind) == name or (kind.startswith(SHARED) and name != "mechanism")
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in BOTH],
)
def test_hand_made_markets(kind, name):
    """By JAX; the lone importer as it is, with no device, partner or line."""
    solver, tol, most = SOLVERS[name]
    if name == "mechanism" and kind in ("paper feeder", "many devices", "unequal fees", "exports"):
        pytest.skip("the mechanism's own tests clear it; kept short")
    market = HAND_MADE[kind]()
    if kind != "one importer":
        market = alike(market)
    clearing = jg.clear(market, solver, tol=tol, max_steps=most, runner="jax")
    check_agreement(market, clearing, solve(market))
    price = float(clearing.certificate.scales.price)
    assert check_signs(market, clearing.plan, clearing.prices, atol=2e-3 * price)


INSIDE = {  # where markets are too simple for a generator, an import and a trade inside its bounds
    "two neighbors": {"generation", "trades"},
    "two price takers": {"generation", "trades"},
    "one importer": {"imports"},
    "exports": {"imports"},
    "curtailment": {"trades"},
}


@pytest.mark.parametrize("kind", HAND_MADE)
def test_hand_made_markets_by_numpy(kind):
    market = HAND_MADE[kind]()
    clearing = jg.clear(market, jg.InteriorPoint(), tol=1e-7, runner="numpy")
    check_agreement(market, clearing, solve(market))
    price = float(clearing.certificate.scales.price)
    looked_at = check_signs(market, clearing.plan, clearing.prices, atol=2e-3 * price)
    assert looked_at == INSIDE.get(kind, {"generation", "imports", "trades"})


@pytest.mark.parametrize("seed", range(40))
def test_random_markets_by_numpy(seed):
    """Also where there is no plan."""
    market = random_market(seed)
    clearing = jg.clear(market, jg.InteriorPoint(), tol=1e-7, runner="numpy", throw=False)
    oracle = solve(market)
    assert bool(clearing.ok) == (oracle.status == "solved")
    if clearing.ok:
        check_agreement(market, clearing, oracle)
    else:
        assert jg.status.status_name(clearing.status) == "infeasible"


@partial(jax.jit, static_argnums=(1, 2))
def clear_all(stacked: jg.Market, name: str, max_steps: int | None) -> jg.Clearing:
    solver = SOLVERS[name][0]
    return jax.vmap(lambda market: jg.clear(market, solver, max_steps=max_steps))(stacked)


def batch(
    seeds: list[int], shape: int, grid: int, name: str, max_steps: int | None
) -> tuple[list, jg.Clearing]:
    """Random markets of one shape, cleared in one call."""
    markets = [random_market(seed, shape=SHAPES[shape], grid=GRIDS[grid]) for seed in seeds]
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *markets)
    return markets, clear_all(stacked, name, max_steps)


def check_batch(markets: list, cleared: jg.Clearing) -> Counter[str]:
    """No false `cleared`, no false `infeasible`; counts of how all ended."""
    counts: Counter[str] = Counter()
    cleared = jax.tree.map(np.asarray, cleared)
    for lane, market in enumerate(markets):
        clearing = jax.tree.map(lambda a, lane=lane: a[lane], cleared)
        name, oracle = jg.status.status_name(clearing.status), solve(market)
        if oracle.status == "failed":
            counts["oracle failed"] += 1
            continue
        assert name != "nonfinite"
        if name == "cleared":
            assert oracle.status == "solved"
            check_agreement(market, clearing, oracle)
        if name == "infeasible":
            assert oracle.status == "infeasible"
            assert "." in explain_infeasible(market, clearing.prices)
        counts[name] += 1
    return counts


DEFAULTS = [("interior point", None), ("primal-dual", 20_000)]
RANDOM = [  # one solver on one grid; the others are slow
    pytest.param(grid, *one, marks=() if grid == k == 0 else pytest.mark.slow)
    for grid in range(len(GRIDS))
    for k, one in enumerate(DEFAULTS)
]


@pytest.mark.parametrize(("grid", "name", "most"), RANDOM)
def test_random_markets(grid, name, most):
    """Twenty of each grid; whoever ends does so as the oracle says, and almost all end."""
    markets, cleared = batch(list(range(20)), 1, grid, name, most)
    counts = check_batch(markets, cleared)
    assert counts["max_steps"] <= (most is not None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("interior point", None), ("primal-dual", 50_000)])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("grid", range(len(GRIDS)))
def test_ten_thousand_random_markets(shape, grid, name, most, record_property):
    """420 of each of 24 kinds, 42 at a time: 10,080 in all, by each solver."""
    counts = Counter()
    for first in range(100, 520, 42):
        counts += check_batch(*batch(list(range(first, first + 42)), shape, grid, name, most))
    record_property("counts", {name: int(count) for name, count in counts.items()})
    print(counts)
    assert counts["max_steps"] <= (10 if most else 0)


@pytest.mark.parametrize("stress", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_default_case(stress):
    """ieee37 as it comes, and stressed, where lines, voltages and the total bind."""
    market = jg.ieee37(stress=stress)
    clearing = jg.clear(market)
    assert float(clearing.certificate.error) <= 1e-6
    check_agreement(market, clearing, solve(market))
    plan = clearing.plan
    if not stress:  # exactly: no column stays a hair off the bound that holds it
        assert not np.any(plan.curtailed)
    load = np.hypot(plan.active, plan.reactive)
    full = np.mean(load > np.asarray(market.grid.rating)[:, None] * (1 - 1e-4))
    volts = np.asarray(jg.model.voltages(market, plan))
    low = volts < np.asarray(market.grid.voltage_min)[:, None] + 1e-6
    exchange = np.asarray(clearing.aggregate - plan.exports.sum(axis=0))
    capped = exchange > np.asarray(market.tariff.total_max) * (1 - 1e-5)
    if stress:
        assert 0.03 < full < 0.12
        assert low[1:].any()
        assert capped.any()
    else:
        assert full == 0
        assert not capped.any()


@pytest.mark.slow  # compiles for half a minute
def test_a_start_from_the_other_solver_is_as_good_as_its_answer():
    market = alike(HAND_MADE["feeder"]())
    first = jg.clear(market, jg.PrimalDual(), tol=1e-8)
    again = jg.clear(market, jg.SemiDecentralized(), start=first, tol=1e-4, max_steps=5_000)
    cold = jg.clear(market, jg.SemiDecentralized(), tol=1e-4, max_steps=5_000)
    assert int(again.steps) <= int(cold.steps)
    assert np.allclose(again.aggregate, first.aggregate, atol=0.1)


def test_primal_dual_goes_on_from_the_mechanism():
    """Prices that it has no part in, as of a feeder's own row, do not stay in the answer."""
    market = alike(HAND_MADE["feeder"]())
    first = jg.clear(market, jg.SemiDecentralized(), tol=1e-4, max_steps=5_000)
    solver = jg.PrimalDual()
    cold, warm = (jg.clear(market, solver, tol=1e-8, start=start) for start in (None, first))
    assert int(warm.steps) < int(cold.steps)
