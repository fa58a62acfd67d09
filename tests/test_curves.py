"""Consumption whose worth is a curve, against closed forms, the oracle and finite differences."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.curves import Exponential, Isoelastic, crossing
from jaxgne.devices import elastic, join
from jaxgne.validation import structure
from tests.agreement import SOLVERS, check_agreement
from tests.curved import Shifted, with_curves
from tests.markets import random_market
from tests.reference import solve

FAMILIES = {
    "isoelastic": Isoelastic(0.3, 1.2, 0.4),
    "logarithm": Isoelastic(0.3, 1.2, 1.0),
    "root": Isoelastic(0.3, 1.2, 2.0),
    "exponential": Exponential(0.6, 1.2),
}


def taker(devices: jg.Generators, slope: float = 0.0, base: Any = 0.25) -> jg.Market:
    """One prosumer who takes the main grid's price as it is, at a load of 1 kW."""
    return jg.Market(
        jg.Prosumers([0], [[1.0, 1.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(slope, hours=2, base=base, anticipation=0.0),
        devices,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_slope_and_curvature_are_derivatives(name: str):
    """Of the cost and of the slope, entry by entry, and 0 for a row of zeros."""
    curve = jax.tree.map(lambda a: jnp.array([float(a), 0.0]), FAMILIES[name])
    power = -jnp.array([[0.2, 1.2, 7.0], [0.2, 1.2, 7.0]])
    for of, derivative in ((curve.cost, curve.slope), (curve.slope, curve.curvature)):
        slope = jax.grad(lambda p, of=of: jnp.sum(of(p)))(power)
        assert np.allclose(slope, derivative(power), rtol=1e-12, atol=0)
        assert np.all(of(power)[1] == 0) and np.all(derivative(power)[1] == 0)


def test_the_logarithm_is_where_its_neighbors_meet():
    """Elasticities from 1 - 1e-4 to 1 + 1e-4 differ by as much, also closer than rounding tells."""
    near = 1 + np.array([-1e-4, -1e-7, 0.0, 1e-9, 1e-4])
    cost = Isoelastic(np.full(5, 0.3), np.full(5, 1.2), near).cost(jnp.full((5, 1), -3.0))[:, 0]
    assert np.allclose(cost, -0.36 * np.log(2.5), rtol=1e-4)
    assert np.all(np.diff(cost) < 0)


@settings(max_examples=50, deadline=None)
@given(steep=st.floats(0.1, 20), least=st.floats(1e-3, 0.5), price=st.floats(1e-3, 1e3))
def test_a_crossing_is_found_or_the_bound_it_lies_beyond(steep: float, least: float, price: float):
    """c^-steep = price at c = price^(-1 / steep), within least and 5."""
    c = np.clip(price ** (-1 / steep), least, 5.0)

    def rise(p: Any) -> Any:
        return (-p) ** -steep - price, steep * (-p) ** (-steep - 1)

    found = crossing(rise, jnp.array([-5.0]), jnp.array([-least]), jnp.array([0.0]))
    assert np.allclose(-found, c, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_used_is_worth_its_price(solver: str):
    """Isoelastic: 1.2 (p / 0.3)^-0.4 kW at a price p, exponential 1.2 log(0.6 / p).

    In the first hour the price is 0.25 EUR/kWh; in the second it is 0.9, and 0.7 kW and none are
    used, as little as may be.
    """
    devices = join(
        elastic(0, power=5.0, least=0.8, hours=2, utility=FAMILIES["isoelastic"]),
        elastic(0, power=5.0, hours=2, utility=FAMILIES["exponential"]),
    )
    method, tol, steps = SOLVERS[solver]
    market = taker(devices, base=[0.25, 0.9])
    clearing = jg.clear(market, method, tol=tol, max_steps=steps)
    first = [1.2 * (0.25 / 0.3) ** -0.4, 1.2 * np.log(0.6 / 0.25)]
    assert np.allclose(-clearing.plan.generation, np.stack([first, [0.8, 0.0]], axis=1), atol=1e-5)


@settings(derandomize=True, max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_curves_among_others_against_the_oracle(seed: int):
    """Consumers of both families in a random market on any grid, by the cones of Clarabel."""
    market = random_market(seed)
    clearing, reference = (
        jg.clear(with_curves(market, seed), throw=False),
        solve(with_curves(market, seed)),
    )
    if reference.status == "infeasible":
        assert clearing.status == jg.Status.infeasible
    else:
        assert reference.status == "solved"
        check_agreement(with_curves(market, seed), clearing, reference)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", [1, 3])
def test_every_solver_meets_the_oracle(solver: str, seed: int):
    market = with_curves(random_market(seed), seed)
    method, tol, steps = SOLVERS[solver]
    clearing = jg.clear(market, method, tol=tol, max_steps=steps)
    check_agreement(market, clearing, solve(market))


def test_pieces_come_to_the_curve():
    """A hundred pieces of 0.2 log(1 + c), and the exponent's curve, cut and whole."""
    curve = Exponential(0.6, 1.2)
    cut = elastic(
        0, power=4.0, hours=2, utility=lambda c: -curve.cost(jnp.reshape(-c, (1, 1)))[0, 0],
        pieces=100,
    )  # fmt: skip
    whole = elastic(0, power=4.0, hours=2, utility=curve)
    one, other = (jg.clear(taker(d, 0.02, 0.2), tol=1e-9) for d in (cut, whole))
    used = one.plan.generation.sum(axis=0), other.plan.generation[0]
    assert np.allclose(*used, atol=2e-4)
    assert np.allclose(one.prices.balance, other.prices.balance, atol=1e-5)


@pytest.mark.parametrize("runner", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["isoelastic", "exponential"])
def test_derivatives_by_the_numbers_of_a_curve(name: str, runner: Any):
    """And by tariff, bounds and length of a step, against central differences."""
    market = taker(
        elastic(0, power=1.3, least=0.1, hours=2, utility=FAMILIES[name]), 0.1, [0.1, 0.3]
    )

    def measure(change: Any) -> Any:
        units = jax.tree.map(jnp.add, market.generators.curves, change[0])
        moved = eqx.tree_at(
            lambda m: (m.generators.curves, m.generators.power_min, m.tariff.base, m.hour_length),
            market,
            (
                units,
                market.generators.power_min + change[1],
                market.tariff.base + change[2],
                market.hour_length * (1 + change[3]),
            ),
        )
        clearing = jg.clear(moved, tol=1e-11, runner=runner)
        weights = jnp.array([1.0, 2.0])
        return jnp.sum(weights * (clearing.plan.generation[0] + 3 * clearing.prices.balance[0]))

    at = (
        jax.tree.map(jnp.zeros_like, market.generators.curves),
        jnp.zeros((1, 2)),
        jnp.zeros(2),
        jnp.zeros(()),
    )
    found = jax.tree.leaves(jax.grad(measure)(at))
    leaves, tree = jax.tree.flatten(at)
    for k, leaf in enumerate(leaves):
        for place in np.ndindex(leaf.shape):
            step = [leaf.at[place].add(1e-5) if j == k else a for j, a in enumerate(leaves)]
            back = [leaf.at[place].add(-1e-5) if j == k else a for j, a in enumerate(leaves)]
            slope = (measure(tree.unflatten(step)) - measure(tree.unflatten(back))) / 2e-5
            assert np.allclose(found[k][place], slope, rtol=1e-5, atol=1e-6)


def test_a_class_of_ones_own_is_cleared():
    """0.6 / (1 + c) = 0.25 at 1.4 kW, by NumPy and by JAX; files do not know the class."""
    market = taker(elastic(0, power=3.0, hours=2, utility=Shifted(jnp.array(0.6))))
    for runner in ("numpy", "jax"):
        used = -jg.clear(market, tol=1e-9, runner=runner).plan.generation
        assert np.allclose(used, 1.4, atol=1e-6)
    with pytest.raises(ValueError, match=r"Generators.curves has Shifted; files know only Isoel"):
        jg.save("nowhere", market)


def test_batches_and_files_keep_curves(tmp_path: Path):
    """Scenarios with other elasticities clear as each alone; a folder gives the market back."""
    market = taker(elastic(0, power=3.0, least=0.1, hours=2, utility=FAMILIES["isoelastic"]), 0.02)
    other = eqx.tree_at(lambda m: m.generators.curves[0].elasticity, market, jnp.array([0.9]))
    markets = jg.scenarios.stack([market, other])
    together = jg.clear_many(markets)
    for k, one in enumerate((market, other)):
        assert np.allclose(together.plan.generation[k], jg.clear(one).plan.generation, atol=1e-6)
    jg.save(tmp_path / "one", market, jg.clear(market))
    assert jg.load(tmp_path / "one")[0] == market
    table = tmp_path / "one" / "generators.csv"
    table.write_text(table.read_text().replace(",isoelastic_elasticity", "").replace(",0.4", ""))
    with pytest.raises(ValueError, match=r"column 'isoelastic_elasticity' is missing; add it"):
        jg.load(tmp_path / "one")
    worse = eqx.tree_at(
        lambda m: m.generators.power_max, markets, np.array([[[-0.1, -0.1]], [[-0.1, 0.0]]])
    )
    with pytest.raises(ValueError, match=r"scenario 1: Generators.curves row 0, hour 1: Isoelas"):
        jg.clear_many(worse)


@pytest.mark.slow
def test_single_precision_meets_double():
    market = taker(elastic(0, power=3.0, least=0.1, hours=2, utility=FAMILIES["root"]), 0.02)
    exact = jg.clear(market).plan.generation
    narrow = jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, market
    )
    for solver in (jg.InteriorPoint(), jg.PrimalDual()):
        assert np.allclose(jg.clear(narrow, solver).plan.generation, exact, atol=1e-3)


def test_what_is_no_convex_cost_is_refused():
    """By the device where a worth has no slope, else by name, place and fix."""
    with pytest.raises(ValueError, match=r"slope of utility is inf at least=0 kW; give a least"):
        elastic(0, power=3.0, hours=1, utility=FAMILIES["isoelastic"])
    with pytest.raises(ValueError, match=r"least=4 is above power=3"):
        elastic(0, power=3.0, least=4.0, hours=1, worth=0.1)
    with pytest.raises(ValueError, match=r"one of a kind, with a number a generator"):
        jg.Generators([0], 0.0, hours=1, curves=(Exponential(0.1, 1.0), Exponential(0.2, 1.0)))
    for curve, words in (
        (Isoelastic(0.3, 1.0, 0.5), "is not finite everywhere"),
        (Exponential(-0.3, 1.0), "bends downward"),
        (Exponential(0.3, 0.0), "is not finite everywhere"),
    ):
        units = jg.Generators([0], 0.0, power_min=-3.0, hours=2, curves=(curve,))
        (sentence,) = structure(taker(units))
        assert f"Generators.curves row 0, hour 0: {type(curve).__name__} {words}" in sentence


def test_least_use_in_pieces():
    """Of 3 kW in three pieces 1.5 kW are used at any price."""
    table = elastic(0, power=3.0, least=1.5, hours=1, utility=lambda c: -((c - 4) ** 2), pieces=3)
    assert table.power_max.tolist() == [[-1], [-0.5], [0]]
