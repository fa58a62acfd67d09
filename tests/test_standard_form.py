"""Outside solvers take a market by `jaxgne.convex`, and find what `clear` finds."""

from typing import Any

import clarabel
import jax
import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import assume, given, settings
from scipy.optimize import linprog

import jaxgne as jg
from jaxgne.curves import AbstractCurve, Exponential, Isoelastic
from jaxgne.devices import elastic, join
from jaxgne.model import aggregate, potential, rows_like
from tests.curved import Shifted, with_curves
from tests.markets import feeder, inverters, many_devices, markets, random_market, two_neighbors

cl: Any = clarabel

SLOW = pytest.mark.slow


def solved(market: jg.Market) -> tuple[Any, np.ndarray, np.ndarray]:
    """The program, and what Clarabel finds."""
    made = jg.convex(market)
    P, q, A, b, equal, above, discs = made.conic()
    assert made.cones[:2] == [("ZeroConeT", equal), ("NonnegativeConeT", above)]
    assert made.cones[2 : 2 + discs] == [("SecondOrderConeT", 3)] * discs
    options = cl.DefaultSettings()
    options.verbose = False
    options.tol_feas = options.tol_gap_abs = options.tol_gap_rel = 1e-10
    cones = [getattr(cl, kind)(*numbers) for kind, *numbers in made.cones]
    found = cl.DefaultSolver(sparse.triu(P, format="csc"), q, A, b, cones, options).solve()
    assert str(found.status) in ("Solved", "AlmostSolved")
    return made, np.array(found.x), made.multipliers(np.array(found.z))


@pytest.mark.parametrize(
    "market",
    [
        two_neighbors(),
        many_devices(),
        inverters(),
        feeder("paper", reactive_balance=True, rating=40.0),
        feeder("lindistflow", rating=40.0),
        jg.ieee37(12, 4, stress=True, grid="copperplate"),
    ],
    ids=["neighbors", "devices", "inverters", "paper", "lindistflow", "copperplate"],
)
def test_a_conic_solver_clears_the_market(market: jg.Market):
    """Its plan and prices have a small error by the yardstick, and its value is the potential."""
    made, x, y = solved(market)
    plan, prices = made.plan(x), made.prices(y)
    assert float(jg.certify(market, plan, prices).error) < 1e-5
    value = x @ (made.P @ x) / 2 + made.q @ x + made.constant
    assert value == pytest.approx(float(potential(market, plan)), rel=1e-6)
    cleared = jg.clear(market)
    assert np.allclose(aggregate(market, plan), cleared.aggregate, atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(market=markets())
def test_what_clear_finds_solves_the_program(market: jg.Market):
    """Within all limits to rounding, and no cheaper than the program's dual says."""
    cleared = jg.clear(market, throw=False)
    assume(bool(cleared.ok))
    made, x, _ = solved(market)
    best = x @ (made.P @ x) / 2 + made.q @ x + made.constant
    assert float(potential(market, cleared.plan)) == pytest.approx(best, rel=1e-5, abs=1e-5)


def test_a_line_rated_zero_carries_nothing():
    """Behind it 1 kW is made for 0.9 EUR/kWh, though the main grid asks for 0.2."""
    market = jg.Market(
        jg.Prosumers([1, 2], [[1.0], [1.0]]),
        jg.Grid(np.zeros((3, 1)), [0, 1], [1, 2], 1e-3, 1e-3, rating=[9.0, 0.0]),
        jg.Tariff(0.01, hours=1, base=0.2, anticipation=0.0),
        jg.Generators([1], 2.0, hours=1, linear=0.9),
        trading=jg.Trading([0], [1], 5.0),
    )
    made, x, y = solved(market)
    plan = made.plan(x)
    assert float(plan.generation[0, 0]) == pytest.approx(1.0, abs=1e-6)
    assert float(jg.certify(market, plan, made.prices(y)).error) < 1e-5


def test_rows_are_the_market_s():
    """Limits of both sides, in kW, and a linear solver takes it where nothing bends."""
    market = two_neighbors()
    made = jg.convex(market)
    assert made.A.shape == (len(made.l), len(made.q))
    assert np.all(made.l <= made.u)
    assert made.kept.size == sum(np.size(a) for a in jax.tree.leaves(rows_like(market)))
    found = linprog(
        made.q * 0,
        A_ub=sparse.vstack([made.A, -made.A]),
        b_ub=np.nan_to_num(np.concatenate([made.u, -made.l]), posinf=1e9),
        bounds=(None, None),
    )
    assert found.status == 0
    residual = jg.certify(market, made.plan(found.x), rows_like(market)).residuals
    assert float(residual.infeasibility) < 1e-9


@pytest.mark.parametrize(
    ("curve", "used"),
    [
        (Isoelastic(0.3, 1.2, 0.4), 1.2 * (0.25 / 0.3) ** -0.4),
        (Isoelastic(0.3, 1.2, 1.0), 1.2 * 0.3 / 0.25),
        (Isoelastic(0.3, 1.2, 1.0 + 1e-7), 1.2 * 0.3 / 0.25),
        (Isoelastic(0.3, 1.2, 1.0 - 1e-4), 1.2 * (0.25 / 0.3) ** (1e-4 - 1)),
        (Isoelastic(0.3, 1.2, 2.0), 1.2 * (0.25 / 0.3) ** -2.0),
        (Exponential(0.6, 1.2), 1.2 * np.log(0.6 / 0.25)),
        (Shifted(np.array(0.6)), 0.6 / 0.25 - 1),
    ],
    ids=["below", "log", "at log", "near log", "above", "exponential", "own"],
)
def test_a_curve_is_a_cone(curve: AbstractCurve, used: float):
    """At 0.25 EUR/kWh consumption is what the curve says in closed form, at the curve's cost.

    Beside it a generator without the curve stands still, at 0.9 EUR/kWh.
    """
    units = join(
        elastic(0, power=5.0, least=0.1, hours=2, utility=curve),
        jg.Generators([0], 0.5, hours=2, linear=0.9),
    )
    market = jg.Market(
        jg.Prosumers([0], [[1.0, 1.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.25, anticipation=0.0),
        units,
        hour_length=[0.5, 1.0],
    )
    made, x, y = solved(market)
    assert len(made.curved.share) == 2
    plan = made.plan(x)
    close = 1e-4 if 0 < abs(getattr(curve, "elasticity", 0) - 1) < 1e-3 else 1e-5  # 1 + k w
    assert np.allclose(plan.generation, [[-used, -used], [0.0, 0.0]], atol=close)
    cost = curve.cost(jax.numpy.asarray(plan.generation[:1]))
    assert np.allclose(x[made.curved.columns[:, 1]], cost, atol=1e-8)
    assert float(jg.certify(market, plan, made.prices(y)).error) < 1e-5


@pytest.mark.parametrize("seed", [0, 1, 4, *(pytest.param(s, marks=SLOW) for s in range(6, 33))])
def test_markets_with_curves_go_to_conic_solvers(seed: int):
    """Both families among others on any grid; where there is a plan, `clear` finds its value."""
    market = with_curves(random_market(seed), seed)
    cleared = jg.clear(market, throw=False)
    if not bool(cleared.ok):
        pytest.skip("no plan meets all limits")
    made, x, y = solved(market)
    value = x @ (made.P @ x) / 2 + made.q @ x + made.constant
    assert value == pytest.approx(float(potential(market, cleared.plan)), rel=1e-5, abs=1e-5)
    assert float(jg.certify(market, made.plan(x), made.prices(y)).error) < 1e-4


def test_a_curve_without_cones_is_refused():
    """With its name, and two ways on."""

    class Silent(AbstractCurve):
        price: Any
        cost = Shifted.cost
        slope = Shifted.slope
        curvature = Shifted.curvature

    market = jg.Market(
        jg.Prosumers([0], [[1.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.2),
        elastic(0, power=1.0, hours=1, utility=Silent(np.array(0.6))),
    )
    with pytest.raises(ValueError, match="convex: Silent costs have no cones; say them in a meth"):
        jg.convex(market)
