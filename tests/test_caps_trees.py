"""Limits that many share where steps make a tree: each path has levels of its own."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import model, scenarios
from jaxgne.succession import leaves, parents
from tests.agreement import SOLVERS
from tests.cap_checks import at_once, changed, check_ends, known, multipliers
from tests.infeasible import SMALL
from tests.markets import GRIDS, random_caps, random_market
from tests.reference import extensive, solve

SLOW = pytest.mark.slow
SHARE, SPLIT = (0.5, 0.3, 0.2), 2
FORK = (-1, 0, 1, 0)  # two branches after the first step, of two steps and of one


def growing(market: jg.Market, seed: int, before: tuple[int, ...] | None = None) -> jg.Market:
    """The market with steps of any length that make a tree, `before` or any, and probabilities."""
    rng, hours = np.random.default_rng([seed, 7]), market.prosumers.load.shape[1]
    if before is None:
        drawn = rng.integers(-1, np.arange(hours))
        before = tuple(np.where(rng.uniform(size=hours) < 0.6, drawn, np.arange(hours) - 1))
    weight, share = np.ones(hours + 1), rng.uniform(0.3, 1, hours)
    for h, parent in enumerate(before):  # of the start it is the last
        weight[h] = weight[parent] * share[h] / share[np.array(before) == parent].sum()
    length = rng.uniform(0.2, 1.0, hours)
    tree = eqx.tree_at(
        lambda m: (m.weight, m.hour_length),
        market,
        (jnp.asarray(weight[:-1]), jnp.asarray(length)),
    )
    return jg.record.changed(tree, before=before)


def days(seed: int, builders: Any, count: int = 3) -> list[jg.Market]:
    """Markets of four hours that differ in loads and prices from step 2 on, each with its caps."""
    first, rng = random_market(seed, shape=SMALL, grid="copperplate"), np.random.default_rng(seed)
    made = []
    for _ in range(count):
        later = np.where(np.arange(4) < SPLIT, 1.0, rng.uniform(0.8, 1.1, 4))
        base = jnp.asarray(np.asarray(first.tariff.base) * later**2)
        day = eqx.tree_at(
            lambda m: (m.prosumers.load, m.tariff.base), first, (first.prosumers.load * later, base)
        )
        made.append(jg.capped(day, *(build(day) for build in builders)))
    return made


MOST = 18.78  # kg, which two of three branches of seed 1 emit
EVERY = (
    lambda m: jg.caps.carbon(m, MOST, grid=0.4, generators=0.3),
    lambda m: jg.caps.ramp(m, 2.5),
    lambda m: jg.caps.total_demand_charge(m, 0.05),
)
UNIQUE = slice(2)  # whose prices are: peaks of alike steps share theirs in any way


def cleared(market: jg.Market, tol: float = 1e-10) -> jg.Clearing:
    return jg.clear(market, jg.InteriorPoint(), tol=tol, runner="numpy")


# By hand


def fork(load: list[float], **tables: Any) -> jg.Market:
    """One prosumer at 0.1 EUR/kWh for an hour, then for another in two ways, at 3 to 1."""
    return jg.Market(
        jg.Prosumers([0], [load]),
        jg.Grid([[0.0] * 3], model="copperplate"),
        jg.Tariff(0.0, hours=3, base=0.1),
        weight=[1.0, 0.75, 0.25],
        before=(-1, 0, 0),
        **tables,
    )


def test_each_path_pays_for_its_own_peak():
    """5 kW, then 8 or 2: at 0.3 EUR/kW 5 are paid for anyhow, and 3 more three times in four.

    The price of a kW is 0.3 in the step of 8 kW; after 5 kW it is due in the other branch alone,
    a quarter of 0.3.
    """
    market = fork([5.0, 8.0, 2.0])
    market = jg.capped(market, jg.caps.demand_charge(market, 0.3))
    found = cleared(market)
    np.testing.assert_allclose(found.plan.level, [[5.0, 8.0, 5.0]], atol=1e-6)
    np.testing.assert_allclose(found.prices.cap, [[0.075, 0.3, 0.0]], atol=1e-6)
    energy = 0.1 * (5 + 0.75 * 8 + 0.25 * 2)
    assert float(found.costs[0]) == pytest.approx(energy + 0.3 * (5 + 0.75 * 3), abs=1e-6)


def test_carbon_is_held_in_each_branch():
    """0.5 kg/kWh of the grid, 2 kW and then 6 or 2, a clean unit at 0.3 EUR: 3 kg on each path.

    Path one emits 4 kg, so 2 kWh are made, whenever; the other has room. A kg less costs 0.4 EUR
    where that branch comes, three times in four, and saves nothing ahead of that: 0.3 EUR.
    """
    unit = jg.Generators([0], 1.5, hours=3, linear=0.3)
    market = fork([2.0, 6.0, 2.0], generators=unit)
    market = jg.capped(market, jg.caps.carbon(market, 3.0, grid=0.5))
    np.testing.assert_array_equal(market.caps.level_max, [[np.inf, 3.0, 3.0]])
    found = cleared(market)
    np.testing.assert_allclose(found.plan.generation, [[0.5, 1.5, 0.0]], atol=1e-6)
    np.testing.assert_allclose(known(found.plan.level)[0, 1], 3.0, atol=1e-6)
    np.testing.assert_allclose(found.prices.cap[0, ::2], [0.4, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.prices.cap[0, 1], 0.4 / 0.75, atol=1e-6)


def test_a_ramp_is_against_the_step_that_one_begins_from():
    """From 4 kW by 2 at most, up to 6 of 8 kW in one branch, and down in the other."""
    unit = jg.Generators([0], 9.0, hours=3, linear=0.3)
    market = fork([4.0, 8.0, 3.0], generators=unit)
    market = jg.capped(market, jg.caps.ramp(market, 2.0))
    np.testing.assert_array_equal(market.caps.rise_max, [[np.inf, 2.0, 2.0]])
    found = cleared(market)
    np.testing.assert_allclose(found.plan.imports, [[4.0, 6.0, 3.0]], atol=1e-6)
    np.testing.assert_allclose(found.plan.rise, [[4.0, 2.0, -1.0]], atol=1e-6)


def test_a_peak_counts_as_often_as_its_path():
    market = fork([5.0, 8.0, 2.0])
    market = jg.record.changed(market, weight=jnp.asarray([1.0, 0.75, 0.5]))
    for build in (jg.caps.demand_charge, jg.caps.total_demand_charge):
        with pytest.raises(ValueError, match=r"step 0 has a weight of 1, the steps .* 1.25 in all"):
            build(market, 0.3)


def test_a_level_out_of_reach_is_told_by_its_step():
    """From 9 down by 1 a step: 7 in either branch, whatever is between them in the table."""
    caps = jg.Caps(
        [[np.inf, np.inf, 5.0, 9.0]], hours=4, start=9.0, carry=1.0, rise_min=-1.0, rise_max=0.0,
        cap=[0], quantity=[0], row=[0],
    )  # fmt: skip
    market = random_market(0, shape=SMALL)
    market = jg.record.changed(market, caps=caps, before=(-1, 0, 0, 2))
    with pytest.raises(
        ValueError, match=r"\(step 2\): 5 is out of reach .* lead to 7 at the least"
    ):
        jg.validate(market)


# Against the oracle


@pytest.mark.parametrize("seed", [2, *(pytest.param(s, marks=SLOW) for s in range(3, 120))])
def test_random_trees_end_as_the_oracle_says(seed: int):
    check_ends(
        random_caps(growing(random_market(seed), seed), seed), seed, "interior point", "numpy"
    )


@SLOW
@pytest.mark.parametrize("grid", GRIDS[:2])
@pytest.mark.parametrize("name", SOLVERS)
def test_programs_end_as_the_oracle_says(name: str, grid: Any):
    """Of one tree and shape: a program for each solver and grid."""
    if (name, grid) == ("mechanism", GRIDS[1]):
        pytest.skip("rounds take hours on a network")
    ended = Counter(
        check_ends(
            random_caps(growing(random_market(seed, shape=SMALL, grid=grid), seed, FORK), seed),
            *(seed, name, "jax"),
        )
        for seed in range(16)
    )
    assert ended["cleared"] > 4
    assert ended["max_steps"] < 2


def told(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
    """One number of plan and prices, of those that are unique."""
    return (
        jnp.sum(clearing.aggregate**2) / 100
        + jnp.sum(known_prices(clearing) * jnp.arange(1.0, 4))
        + model.potential(market, clearing.plan)
    )


def known_prices(clearing: jg.Clearing) -> jax.Array:
    """The price of carbon at three steps of the tree."""
    price = clearing.prices.cap
    assert price is not None
    return price[0, jnp.array([0, 3, 5])]


def test_prices_on_a_tree_are_slopes_of_the_potential():
    """Differences of the oracle's by what is counted beside terms, limits, starts and prices."""
    market = scenarios.tree(days(1, EVERY), SHARE, SPLIT)
    clearing, oracle = cleared(market), solve(market)
    slopes = multipliers(market, clearing.prices)
    slopes["price"] = (np.asarray(market.weight) * known(clearing.plan.rise)).sum(axis=1)
    step, seen = 1e-3, set()
    for name, slope in slopes.items():
        value = np.asarray(getattr(market.caps, name))
        found = np.argwhere(np.isfinite(value) & (np.abs(slope) > 1e-3) & (name != "slack"))
        for at in map(tuple, found[::6]):
            sides = []
            for sign in (1, -1):
                there = value.copy()
                there[at] += sign * step
                beside = solve(changed(market, **{name: there}))
                more = beside.potential if beside.status == "solved" else np.inf
                sides.append((more - oracle.potential) / (sign * step))
            assert min(sides) - 5e-4 < slope[at] < max(sides) + 5e-4, name
            seen.add(name)
    assert seen >= {"base", "level_max", "price"}


@SLOW
@pytest.mark.parametrize("name", ["level_max", "start", "base", "weight"])
def test_derivatives_on_a_tree_of_caps_are_differences_of_clears(name: str):
    market = scenarios.tree(days(1, EVERY), SHARE, SPLIT)
    value = np.asarray(getattr(market.caps, name))
    way = np.random.default_rng(3).uniform(0, 1, value.shape) * np.isfinite(value)
    if name == "start":
        way = way * (np.arange(len(way)) == 0)  # that of carbon

    def there(step: float) -> jg.Market:
        moved = np.where(np.isfinite(value), value + step * np.where(way != 0, way, 0.0), value)
        return changed(market, **{name: moved})

    slopes = jg.sensitivities(market, told, clearing=cleared(market, 1e-11))
    ends = [float(told(m, cleared(m, 1e-11))) for m in (there(1e-5), there(-1e-5))]
    found = float(jnp.sum(getattr(slopes.caps, name) * way))
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-4)


# What follows


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=SLOW) for s in range(2, 20))])
def test_a_tree_with_caps_is_its_extensive_form(seed: int):
    """Scenarios side by side, tied in what they decide in shared steps, levels included."""
    made = days(seed, EVERY)
    tree = scenarios.tree(made, SHARE, SPLIT)
    apart = extensive(scenarios.tree(made, SHARE, 0), 3, SPLIT)
    found = jg.clear(tree, jg.InteriorPoint(), tol=1e-9, runner="numpy", throw=False)
    assert bool(found.ok) == bool(np.isfinite(apart))
    if found.ok:
        value = float(at_once(model.potential, tree, found.plan))
        assert abs(value - apart) < 2e-6 * float(found.certificate.scales.bill)


def test_a_tree_with_one_branch_is_the_path():
    """Swept as a tree, and as a path: the same plan; and by `scenarios.tree` the market itself."""
    market = days(1, EVERY)[0]
    twig = jg.record.changed(market, before=(-1, 0, 1, 2))
    one, other = (cleared(m, 1e-11) for m in (market, twig))
    assert int(one.steps) == int(other.steps)
    np.testing.assert_allclose(one.aggregate, other.aggregate, atol=1e-6)
    ours, theirs = (known(c.prices.cap)[UNIQUE] for c in (one, other))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    alone = scenarios.tree([market], [1.0], SPLIT)
    assert alone.before is None
    assert jax.tree.all(jax.tree.map(np.array_equal, alone, market))


def test_paths_side_by_side_are_markets_by_themselves():
    """Nothing shared: each scenario's own plan and prices, whatever its weight."""
    made = days(1, EVERY, 2)
    both = scenarios.tree(made, (0.7, 0.3), 0)
    assert both.before == (-1, 0, 1, 2, -1, 4, 5, 6)
    whole = cleared(both)
    for k, market in enumerate(made):
        path, found = scenarios.branch(both, whole, k)
        assert jax.tree.all(jax.tree.map(np.array_equal, path, market))
        one = cleared(market)
        np.testing.assert_allclose(found.aggregate, one.aggregate, atol=1e-4)
        ours, theirs = (known(c.prices.cap)[UNIQUE] for c in (found, one))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_branches_go_back_with_their_caps():
    """Each scenario as it was, with a plan that keeps its limits; prices are those of the steps."""
    made = days(1, EVERY)
    tree = scenarios.tree(made, SHARE, SPLIT)
    whole = cleared(tree)
    for k, market in enumerate(made):
        path, found = scenarios.branch(tree, whole, k)
        assert jax.tree.all(jax.tree.map(np.array_equal, path, market))
        found = at_once(lambda m, c: jg.optimality.residuals(m, c.plan, c.prices), path, found)
        assert float(found.infeasibility) < 1e-6
    ends = leaves(tree.before, 8)
    np.testing.assert_allclose(np.sort(known(whole.plan.level)[0, ends])[1:], MOST, atol=1e-5)
    last = parents(tree.before, 8)
    carbon, weight = known(whole.prices.cap)[0], np.asarray(tree.weight)
    for step in (0, 1):
        after = weight[last == step] @ carbon[last == step]
        assert carbon[step] * weight[step] == pytest.approx(after, abs=1e-6)


def test_bills_on_a_tree_add_up():
    """What the operator receives is what its limits are worth, and all pay the levies."""
    market = scenarios.tree(days(1, EVERY), SHARE, SPLIT)
    found = cleared(market)
    paid = jg.settle(market, found)
    bill = float(found.certificate.scales.bill)
    assert float(paid.receipts.sum()) == pytest.approx(float(paid.rent.sum()), abs=1e-5 * bill)
    rises = np.asarray(market.caps.price)[:, None] * known(found.plan.rise)
    assert float(paid.levies.sum()) == pytest.approx(float((rises * market.weight).sum()), rel=1e-6)


def test_folders_keep_trees_of_caps(tmp_path: Any):
    market = scenarios.tree(days(1, EVERY), SHARE, SPLIT)
    found = cleared(market)
    jg.save(tmp_path / "a", market, found)
    loaded, clearing = jg.load(tmp_path / "a")
    assert clearing is not None
    assert loaded.before == market.before
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.caps, market.caps))
    np.testing.assert_allclose(clearing.plan.level, found.plan.level)


@SLOW
def test_what_must_give_way_is_the_limit_of_the_dirty_branch():
    """3 kg on each path, 4 and 2 are emitted: the first path's limit rises by 1 kg, no other."""
    market = fork([2.0, 6.0, 2.0])
    market = jg.capped(market, jg.caps.carbon(market, 3.0, grid=0.5))
    relaxed = jg.relax(market, limits=("Caps.level_max",))
    np.testing.assert_allclose(relaxed.market.caps.level_max[0, 1:], [4.0, 3.0], atol=2e-3)
