"""Contracts of prosumers' own, and pairs whose limits, fees and tolls are by hour."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import scenarios
from tests.agreement import SOLVERS, check_agreement
from tests.markets import (
    SHAPES,
    lone_importer,
    priced_by_contract,
    random_contracts,
    random_market,
)
from tests.reference import solve

SEEDS = (0, 1, 4)  # which have a plan


def market_of(seed: int, grid: Any = None) -> jg.Market:
    return random_contracts(random_market(seed, shape=SHAPES[0], grid=grid), seed)


def test_one_number_for_all_hours_is_kept_as_one():
    """What is given by hour is by hour, all else one column; a list that may be either is none."""
    people = jg.Prosumers(
        [0, 0], [[1.0] * 3] * 2, import_adder=[0.1, 0.2], export_adder=[[0.0] * 3]
    )
    assert people.import_adder.shape == (2, 1) and people.export_adder.shape == (2, 3)
    pairs = jg.Trading([0], [1], 5.0, toll=[[0.01, 0.02, 0.03]])
    assert pairs.limit.shape == (1, 1) and pairs.toll.shape == (1, 3)
    assert jg.Trading([0, 1], [1, 2], [5.0, 6.0]).limit.shape == (2, 1)
    assert jg.Trading((), (), ()).limit.shape == (0, 1)
    with pytest.raises(ValueError, match=r"import_adder: shape \(2,\) may be by row or by hour"):
        jg.Prosumers([0, 0], [[1.0] * 2] * 2, import_adder=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"Trading.toll: 2 hours, but Prosumers.load has 3"):
        jg.Market(people, jg.Grid([[0.0] * 3]), jg.Tariff(0.1, hours=3),
                  trading=jg.Trading([0], [1], 5.0, toll=[[0.01, 0.02]]))  # fmt: skip


def test_own_contract_is_in_the_price_and_on_the_bill():
    """A lone importer of 4 kW pays 0.24 to the main grid and 0.1 beside: its energy is worth 0.38.

    That is the price with its own effect on it, of 0.01 a kW.
    """
    market = eqx.tree_at(lambda m: m.prosumers.import_adder, lone_importer(), jnp.full((1, 1), 0.1))
    clearing = jg.clear(market, tol=1e-8)
    paid = jg.settle(market, clearing)
    assert clearing.prices.balance == pytest.approx(0.2 + 0.1 + 0.02 * 4, abs=1e-6)
    assert [float(a[0, 0]) for a in (paid.main_grid, paid.adders)] == pytest.approx([0.96, 0.4])
    assert float(paid.fees[0]) == pytest.approx(0.4) and float(paid.sales[0]) == pytest.approx(0.96)
    assert float(jg.comparison.outcome(market, clearing).social) == pytest.approx(1.36)
    assert "own contracts add 0.1 EUR/kWh" in str(market)


def test_who_pays_more_for_the_main_grid_buys_next_door():
    """Of two alike it is the one with the dearer contract that takes the neighbor's energy."""
    load, costs = [[3.0], [3.0], [0.0]], [[0.0], [0.2], [0.0]]
    market = jg.Market(
        jg.Prosumers([0, 0, 0], load, import_max=[[9.0], [9.0], [0.0]], import_adder=costs),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.2),
        jg.Generators([2], 3.0, hours=1, linear=0.1, quadratic=0.001),
        trading=jg.Trading([0, 1], [2, 2], 8.0, toll=0.01),
    )
    np.testing.assert_allclose(jg.clear(market).plan.imports[:, 0], [3.0, 0.0, 0.0], atol=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_plan_and_costs_are_the_oracles(seed: int):
    """On random markets; and what is paid adds up for any plan."""
    market = market_of(seed)
    oracle, clearing = solve(market), jg.clear(market)
    check_agreement(market, clearing, oracle)
    np.testing.assert_allclose(jg.model.costs(market, oracle.plan), oracle.costs, atol=1e-9)
    paid = jg.settle(market, clearing)
    all_ = paid.prosumers.sum(axis=0) + paid.passive.sum(axis=0)
    np.testing.assert_allclose(all_, paid.sales + paid.fees + paid.receipts, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", SEEDS[1:])
def test_every_solver_finds_the_oracles(name: str, seed: int):
    market, (solver, tol, most) = market_of(seed), SOLVERS[name]
    clearing = jg.clear(market, solver, tol=tol, max_steps=most)
    check_agreement(market, clearing, solve(market))


def test_derivatives_are_differences():
    """Along random directions of all numbers that are new, by hour and not."""
    market, rng = market_of(0), np.random.default_rng(0)
    weight = rng.normal(size=market.prosumers.load.shape)

    def output(market: jg.Market, tol: float = 1e-9) -> Any:
        clearing = jg.clear(market, tol=tol)
        return jnp.sum(clearing.plan.imports * weight) + 3 * jnp.sum(clearing.prices.balance)

    fields = priced_by_contract(market)
    slopes = priced_by_contract(jax.grad(output, allow_int=True)(market))
    assert [a.shape for a in slopes] == [a.shape for a in fields]
    assert sum(bool(np.any(a)) for a in slopes) >= 4
    steps = [1e-4 * rng.uniform(-1, 1, a.shape) * np.abs(a) for a in fields]

    def at(sign: float) -> float:
        moved = tuple(a + sign * d for a, d in zip(fields, steps, strict=True))
        return float(output(eqx.tree_at(priced_by_contract, market, moved), 1e-10))

    told = sum(float(jnp.sum(g * d)) for g, d in zip(slopes, steps, strict=True))
    assert told == pytest.approx((at(1) - at(-1)) / 2, rel=1e-5, abs=1e-9)


def test_folder_gives_back_every_bit(tmp_path: Any):
    """Of what is by hour in a table of its own, which is not there without; all else by row."""
    plain = random_market(0, shape=SHAPES[0])
    for market, there in ((plain, False), (market_of(0), True), (market_of(1), True)):
        jg.save(tmp_path / "case", market)
        assert (tmp_path / "case" / "pair_hours.csv").exists() == there
        again, _ = jg.load(tmp_path / "case")
        assert jax.tree.structure(again) == jax.tree.structure(market)
        for one, other in zip(*map(jax.tree.leaves, (again, market)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_folder_names_what_stands_twice_or_nowhere(tmp_path: Any):
    folder = tmp_path / "case"
    jg.save(folder, market_of(0))
    pairs = folder / "pairs.csv"
    lines = pairs.read_text().splitlines()
    pairs.write_text(
        "\n".join([lines[0] + ",toll_eur_per_kwh", *(f"{a},0.1" for a in lines[1:])]) + "\n"
    )
    with pytest.raises(ValueError, match=r"'toll_eur_per_kwh' stands in pair_hours\.csv too"):
        jg.load(folder)
    (folder / "pair_hours.csv").unlink()
    with pytest.raises(
        ValueError, match=r"pairs.csv, line 1: column 'limit_kw' is missing; add it"
    ):
        jg.load(folder)


def test_scenarios_of_both_widths_stand_side_by_side():
    """What one of them has by hour all have; clearings are those of each alone."""
    plain, other = random_market(0, shape=SHAPES[0]), market_of(0)
    batch = scenarios.stack([plain, other])
    assert batch.trading.toll.shape == (2, 4, 4) and batch.trading.fee_seller.shape == (2, 4, 1)
    one = scenarios.lane(batch, 0)
    np.testing.assert_allclose(jg.model.costs(one, jg.clear(one).plan),
                               jg.clear(plain).costs, rtol=1e-9)  # fmt: skip
    swept = scenarios.sweep(plain, lambda m: m.trading.toll, np.ones((3, 1, 4)))
    assert swept.trading.toll.shape == (3, 4, 4)


def test_a_tree_has_by_step_what_its_branches_differ_in():
    plain = random_market(0, shape=SHAPES[0])
    dearer = eqx.tree_at(lambda m: m.prosumers.import_adder, plain,
                         0.1 * np.array([[0.0, 1.0, 1.0, 1.0]] * 4))  # fmt: skip
    joined = scenarios.tree([plain, dearer], [0.5, 0.5], 1)
    np.testing.assert_allclose(joined.prosumers.import_adder, [[0.0] * 4 + [0.1] * 3] * 4)
    assert joined.trading.toll.shape == (4, 1)
    path, _ = scenarios.branch(joined, jg.model.zeros(joined), 1)
    np.testing.assert_array_equal(path.prosumers.import_adder, dearer.prosumers.import_adder)


def test_who_is_paid_more_than_it_pays_is_named():
    """Its meter goes one way an hour; the other's, whose contract is another, is left alone."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[2.0, 2.0], [-3.0, -3.0]], export_max=5.0,
                     export_adder=[[0.0, 0.3], [0.0, 0.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2, base=0.2, export=0.1),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"export_adder row 0, hour 1: what it sells pays 0.4"):
        jg.validate(market)
    plan = jg.clear(market).plan
    np.testing.assert_allclose(plan.exports, [[0.0, 0.0], [3.0, 3.0]], atol=1e-4)
    np.testing.assert_allclose(plan.imports, [[2.0, 2.0], [0.0, 0.0]], atol=1e-4)


def test_a_limit_by_hour_gives_way_by_hour():
    """Two neighbors whose pair is shut in the second hour, in which the load has no other way."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[3.0, 3.0], [0.0, 0.0]], import_max=0.0),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2),
        jg.Generators([1], 10.0, hours=2, linear=0.1, quadratic=0.01),
        trading=jg.Trading([0], [1], [[8.0, 0.0]]),
    )
    found = jg.relax(market, limits=["Trading.limit"])
    assert [(row.limit, row.hours) for row in found.table] == [("Trading.limit", (1,))]
    np.testing.assert_allclose(found.market.trading.limit, [[8.0, 3.003]], rtol=1e-3)


def test_fees_that_run_in_a_circle_are_found_in_their_hour():
    """Only in the second hour is energy passed round worth more than its tolls."""
    fee = np.array([[0.0, -0.3], [0.0, -0.3], [0.0, -0.3]])
    market = jg.Market(
        jg.Prosumers([0, 0, 0], np.ones((3, 2))),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2),
        trading=jg.Trading([0, 1, 2], [1, 2, 0], 1.0, fee_buyer=fee, toll=0.1),
    )
    assert sorted(jg.validation.preference_cycle(market)) == [0, 1, 2]
    calm = eqx.tree_at(lambda m: m.trading.fee_buyer, market, jnp.zeros((3, 2)))
    assert jg.validation.preference_cycle(calm) == []
