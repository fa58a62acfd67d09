"""Steps that make a tree: scenarios with shared first steps, against their extensive form."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import foresight, model, scenarios
from jaxgne.clock import hour_name, hours_of
from jaxgne.gradients import sensitivities
from jaxgne.matrix import flat, linear
from jaxgne.record import changed
from tests.agreement import SOLVERS, check_agreement
from tests.branched import SHARE, SPLIT, drawn
from tests.markets import GRIDS
from tests.reference import extensive, solve

QUICK = [
    pytest.param(grid, solver, marks=[pytest.mark.slow] if programs else [])
    for grid in GRIDS
    for solver, programs in ((name, name != "interior point") for name in SOLVERS)
]
ALIKE = [
    pytest.param(solver, marks=[] if solver == "interior point" else [pytest.mark.slow])
    for solver in SOLVERS
]


@cache
def whole(seed: int, grid: str) -> jg.Market:
    """These as one market of 2 shared steps and 3 branches of 2."""
    return scenarios.tree(drawn(seed, grid=grid), SHARE, SPLIT)


def test_a_tree_shares_its_first_steps():
    """Two steps once, then three branches of two, each of which begins from the second."""
    market = whole(1, "lindistflow")
    assert market.before == (-1, 0, 1, 2, 1, 4, 1, 6)
    np.testing.assert_allclose(market.weight, [1, 1, 0.5, 0.5, 0.3, 0.3, 0.2, 0.2])
    assert hours_of(market).tolist() == [0.0, 0.5, 1.5, 1.75, 1.5, 1.75, 1.5, 1.75]
    assert hour_name(market, 5) == "hour 1.75 (step 5)"


@pytest.mark.parametrize(("grid", "solver"), QUICK)
def test_solvers_find_what_the_oracle_finds(grid: str, solver: str):
    market = whole(1, grid)
    by, tol, most = SOLVERS[solver]
    check_agreement(market, jg.clear(market, by, tol=tol, max_steps=most), solve(market))


def extended(seed: int) -> None:
    """Scenarios side by side, tied in what they decide in shared steps: the same expected cost."""
    made = drawn(seed)
    apart = extensive(scenarios.tree(made, SHARE, 0), 3, SPLIT)
    found = jg.clear(scenarios.tree(made, SHARE, SPLIT), tol=1e-9, throw=False)
    assert bool(found.ok) == np.isfinite(apart)
    if not found.ok:
        return
    value = float(model.potential(scenarios.tree(made, SHARE, SPLIT), found.plan))
    assert abs(value - apart) < 2e-6 * float(found.certificate.scales.bill)


@pytest.mark.parametrize("seed", [*range(20), 49, 279])
def test_a_tree_is_its_extensive_form(seed: int):
    extended(seed)


@pytest.mark.slow
@given(st.integers(20, 400))
@settings(max_examples=100, deadline=None)
def test_random_trees_are_their_extensive_forms(seed: int):
    extended(seed)


@pytest.mark.parametrize("solver", ALIKE)
def test_branches_that_are_alike_are_the_path(solver: str):
    """Three branches of one market, of any probability: plan and prices of the market itself."""
    market = drawn(1, 1)[0]
    by, tol, most = SOLVERS[solver]
    alike = scenarios.tree([market] * 3, SHARE, SPLIT)
    one, all_ = (jg.clear(m, by, tol=tol, max_steps=most) for m in (market, alike))
    for k in range(3):
        path, found = scenarios.branch(alike, all_, k)
        assert np.isfinite(float(jg.settle(path, found).prosumers.sum()))
        assert jax.tree.all(jax.tree.map(np.array_equal, path, market))
        np.testing.assert_allclose(found.aggregate, one.aggregate, atol=2e-3)
        np.testing.assert_allclose(found.prices.balance, one.prices.balance, atol=2e-4)
    assert float(jnp.sum(one.costs)) == pytest.approx(float(jnp.sum(all_.costs)), rel=1e-4)


def test_a_tree_with_one_branch_is_the_path():
    """Swept as a tree, and as a path: the same plan; rows and their transpose to 1e-12."""
    market = drawn(1, 1)[0]
    twig = changed(market, before=(-1, 0, 1, 2))
    one, other = (jg.clear(m, tol=1e-10) for m in (market, twig))
    for name in ("imports", "generation", "energy", "voltage"):
        a, b = getattr(one.plan, name), getattr(other.plan, name)
        np.testing.assert_allclose(a, b, atol=1e-6 * (1 + float(jnp.abs(a).max())))
    rng = np.random.default_rng(0)
    plan, prices = (
        jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), like(market))
        for like in (model.zeros, model.rows_like)
    )
    for of in (lambda m: model.rows(m, plan), lambda m: model.pull(m, prices)):
        for a, b in zip(*(jax.tree.leaves(of(m)) for m in (market, twig)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
    assert scenarios.tree([market], [1.0], SPLIT).before is None


@pytest.mark.parametrize("grid", GRIDS)
def test_prices_are_those_of_the_branch(grid: str):
    """By a load the potential changes by weight times hours times price, by a drain by weight times
    the value of content; against central differences."""
    market = whole(1, grid)
    found = jg.clear(market, tol=1e-10)

    def least(where, step):
        moved = eqx.tree_at(where, market, where(market).at[1, 6].add(step))
        return float(model.potential(moved, jg.clear(moved, tol=1e-10).plan))

    count = float(market.weight[6]) * float(market.hour_length[6])
    worth = count * float(model.energy_prices(market, found.prices)[1, 6])
    stored = float(market.weight[6]) * float(found.prices.energy[1, 6])
    for where, expected in (
        (lambda m: m.prosumers.load, worth),
        (lambda m: m.buffers.drain, stored),
    ):
        difference = (least(where, 1e-4) - least(where, -1e-4)) / 2e-4
        assert difference == pytest.approx(expected, rel=2e-4, abs=1e-6)


def test_pull_is_the_transpose_of_rows():
    """<pull(y), u> = sum of y (rows(u) - rows(0)), times w Ts, of contents times w."""
    market, rng = whole(1, "lindistflow"), np.random.default_rng(0)
    plan, prices = (
        jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), like(market))
        for like in (model.zeros, model.rows_like)
    )
    value, weight = model.moved(market, plan), market.weight
    counted = dict.fromkeys(model.families(value), weight * market.hour_length) | {"energy": weight}
    right = sum(
        float(jnp.sum(counted[n] * getattr(prices, n) * getattr(value, n))) for n in counted
    )
    pulled = jax.tree.map(jnp.multiply, model.pull(market, prices), plan)
    assert sum(float(jnp.sum(a)) for a in jax.tree.leaves(pulled)) == pytest.approx(right)
    found = linear(market)
    nothing = np.zeros(found.matrix.shape[1] - flat(plan).size)
    rows = found.matrix @ np.concatenate([flat(plan), nothing]) + found.constant
    np.testing.assert_allclose(rows, flat(model.rows(market, plan)), atol=1e-10)


@pytest.mark.slow
def test_derivatives_on_a_tree_are_those_of_differences():
    """By weight and by length of steps, by NumPy and by JAX."""
    market = whole(1, "lindistflow")

    def least(m, clearing):
        return model.potential(m, clearing.plan) + jnp.sum(clearing.aggregate**2)

    slopes = sensitivities(market, least, clearing=jg.clear(market, tol=1e-11))
    compiled = eqx.filter_grad(lambda m: least(m, jg.clear(m, tol=1e-11, runner="jax")))(market)
    # weights that are apart by 1e-5 of themselves are taken for equal (`model.ended`)
    for name, step in (("weight", 1e-4), ("hour_length", 1e-5)):
        for h in (1, 3, 6):
            ends = []
            for sign in (1, -1):
                moved = getattr(market, name).at[h].add(sign * step)
                there = changed(market, **{name: moved})
                ends.append(float(least(there, jg.clear(there, tol=1e-11))))
            difference = (ends[0] - ends[1]) / (2 * step)
            for found in (slopes, compiled):
                assert float(getattr(found, name)[h]) == pytest.approx(
                    difference, rel=1e-3, abs=1e-3
                )


@pytest.mark.slow
def test_batches_float32_and_proofs():
    """Two trees of other prices side by side; in float32; and one without a plan in a branch."""
    market = whole(1, "copperplate")
    base = np.asarray(market.tariff.base)
    batch = scenarios.sweep(market, lambda m: m.tariff.base, np.stack([base, 1.1 * base]))
    many, one = jg.clear_many(batch), jg.clear(market)
    assert np.all(many.ok)
    np.testing.assert_allclose(many.aggregate[0], one.aggregate, atol=1e-3)
    single = jg.clear(jg.market.cast(market, "float32"))
    assert bool(single.ok)
    np.testing.assert_allclose(single.aggregate, one.aggregate, atol=0.3)
    due = market.buffers.energy_min.at[0, 7].set(market.buffers.energy_max[0, 7])
    most = jnp.zeros_like(market.buffers.charge_max)
    shut = eqx.tree_at(lambda m: (m.buffers.energy_min, m.buffers.charge_max), market, (due, most))
    with pytest.raises(
        ValueError, match=r"energy_min hour 1.75 \(step 7\)|row 0, hour 1.75 \(step 7"
    ):
        jg.validate(shut)
    lost = jg.clear(shut, throw=False)
    assert jg.status.status_name(lost.status) == "infeasible"


def test_folders_keep_trees(tmp_path):
    """Weights and the step before each as columns of tariff.csv; a step that is none is refused."""
    market = whole(1, "lindistflow")
    jg.save(tmp_path / "a", market, jg.clear(market))
    loaded, clearing = jg.load(tmp_path / "a")
    assert loaded.before == market.before
    assert np.array_equal(loaded.weight, market.weight)
    assert clearing is not None
    assert clearing.certificate.before == market.before
    jg.save(tmp_path / "b", market)
    table = tmp_path / "b" / "tariff.csv"
    table.write_text(table.read_text().replace(",-1.0\n", ",3\n", 1))
    with pytest.raises(ValueError, match=r"Market.before: .* an earlier one"):
        jg.load(tmp_path / "b")


def test_what_makes_no_tree_is_refused():
    made = drawn(1)
    with pytest.raises(
        ValueError, match=r"Prosumers.load of market 1 is not that of market 0 in step 2"
    ):
        scenarios.tree(made, SHARE, 3)
    with pytest.raises(ValueError, match="numbers above 0 that sum to 1"):
        scenarios.tree(made, (0.5, 0.2, 0.2), SPLIT)
    with pytest.raises(ValueError, match="2 probabilities for 3 markets"):
        scenarios.tree(made, (0.5, 0.5), SPLIT)
    with pytest.raises(ValueError, match="split=4; give a whole number from 0 to 3"):
        scenarios.tree(made, SHARE, 4)
    with pytest.raises(ValueError, match="market 0 is a tree already"):
        scenarios.tree([whole(1, "lindistflow")] * 2, (0.5, 0.5), 1)
    with pytest.raises(ValueError, match="branch: 3; this market has branches 0 to 2"):
        scenarios.branch(whole(1, "lindistflow"), model.zeros(whole(1, "lindistflow")), 3)
    people, grid = jg.Prosumers([0], [[1.0, 1.0]]), jg.Grid([[0.0] * 2], model="copperplate")
    with pytest.raises(ValueError, match=r"Market.before: \(0, 0\)"):
        jg.Market(people, grid, jg.Tariff(0.1, hours=2), before=(0, 0))


def test_a_battery_waits_for_what_it_does_not_know():
    """A battery of 4 kWh, bought full at 0.1 and of use if step 1 is dear, at 0.5, one time in two:
    worth 0.4 a kWh then, and less than nothing where step 1 costs 0.02. Flat tariffs, 9 kW of load:

        knowing     9 (0.1 + (0.5 + 0.02) / 2) - 4 (0.5 - 0.1) / 2           = 2.44 EUR
        not knowing 9 (0.1 + 0.26) - 4 (0.26 - 0.1), as 0.26 is above 0.1     = 2.6 EUR

    The mean price is 0.26 too, so the plan for the mean is the best one: it is worth nothing more.
    """

    def day(price: float) -> jg.Market:
        return jg.Market(
            jg.Prosumers([0], [[9.0, 9.0]]),
            jg.Grid([[0.0] * 2], model="copperplate"),
            jg.Tariff(0.0, hours=2, base=[0.1, price]),
            buffers=jg.Buffers([0], 4.0, 4.0, 4.0, 0.0, hours=2),
        )

    found = foresight.value([day(0.5), day(0.02)], [0.5, 0.5], 1)
    assert float(found.wait_and_see) == pytest.approx(2.44, abs=1e-5)
    assert float(found.stochastic) == pytest.approx(2.6, abs=1e-5)
    assert float(found.value_of_stochastic_solution) == pytest.approx(0.0, abs=1e-5)
    assert float(found.value_of_perfect_information) == pytest.approx(0.16, abs=1e-5)
    assert "value of perfect information" in str(found)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_foresight_has_a_value(seed: int):
    """Known ahead is no dearer than decided for all, and that no dearer than for the mean."""
    found = foresight.value(drawn(seed), SHARE, SPLIT, tol=1e-9)
    slack = 1e-7 * float(found.clearing.certificate.scales.bill)
    assert float(found.value_of_perfect_information) > -slack
    assert float(found.value_of_stochastic_solution) > -slack
