"""Derivatives of clearings: the oracle's differences, closed forms, degenerate points."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import jaxgne as jg
from jaxgne.model import energy_prices, potential
from jaxgne.sensitivity import preconditioner
from jaxgne.sensitivity.active import active_set
from jaxgne.sensitivity.lagrangian import point_of, sizes, slope, unfold
from jaxgne.sensitivity.linear import factored, iterated
from jaxgne.sensitivity.preconditioner import clusters
from jaxgne.sensitivity.refinement import refined
from tests.directions import along, moved, square, stressed
from tests.markets import two_neighbors
from tests.reference import solve

TOL = 1e-10


def seen(market: jg.Market, clearing: jg.Clearing) -> dict[str, Any]:
    """What is unique of an equilibrium: total import, generation, prices, the potential.

    And voltages, but on the paper's grid, where these cost nothing.
    """
    return {
        "powers": jnp.concatenate([clearing.aggregate[None], clearing.plan.generation]),
        "voltage": clearing.plan.voltage * (market.grid.model.name == "lindistflow"),
        "prices": energy_prices(market, clearing.prices),
        "potential": potential(market, clearing.plan),
    }


def told(market: jg.Market) -> dict[str, Any]:
    """The same from the oracle."""
    found = solve(market, tol=1e-11)
    assert found.status == "solved"
    return {
        "powers": jnp.concatenate([found.sigma[None], found.plan.generation]),
        "voltage": found.plan.voltage * (market.grid.model.name == "lindistflow"),
        "prices": energy_prices(market, found.prices),
        "potential": found.potential,
    }


def same_bounds(*markets: jg.Market) -> bool:
    """Whether the same bounds hold at the equilibria of all: nothing switches in between."""
    sets = []
    for market in markets:
        clearing = jg.clear(market, tol=TOL)
        active = active_set(market, clearing.plan, clearing.prices)
        sets.append([np.asarray(a) for a in jax.tree.leaves((active.plan, active.net))])
    return all(np.array_equal(a, b) for one in sets[1:] for a, b in zip(sets[0], one, strict=True))


@pytest.mark.parametrize(
    ("grid", "behavior", "seeds"),
    [
        ("lindistflow", "nash", (0,)),
        pytest.param("lindistflow", "nash", (2, 3), marks=pytest.mark.slow),
        pytest.param("copperplate", "wardrop", (0, 2, 3), marks=pytest.mark.slow),
        pytest.param("paper", "wardrop", (0, 2, 3), marks=pytest.mark.slow),
        pytest.param("paper", "nash", (0, 2, 3), marks=pytest.mark.slow),
        pytest.param("lindistflow", "wardrop", (0, 2, 3), marks=pytest.mark.slow),
        pytest.param("copperplate", "nash", (0, 2, 3), marks=pytest.mark.slow),
    ],
)
def test_derivatives_are_the_oracles_differences(grid: str, behavior: str, seeds: tuple[int, ...]):
    """Along a random direction of all fields, where no bound switches; both directions of AD."""
    step, done = 1e-4, 0
    for seed in seeds:  # at 1 the oracle knows powers to 1e-5 kW only
        rng = np.random.default_rng(seed)
        market = stressed(grid, behavior, seed)
        direction = along(market, rng)
        ends = [moved(market, direction, sign * step) for sign in (1, -1)]
        if not same_bounds(market, *ends):
            continue
        done += 1

        def found(t: Any, market: jg.Market = market, direction: Any = direction) -> Any:
            there = moved(market, direction, t)
            return seen(there, jg.clear(there, tol=TOL))

        _, forward = jax.jvp(found, (0.0,), (1.0,))
        ahead, behind = (told(end) for end in ends)
        for name, derivative in forward.items():
            expected = (ahead[name] - behind[name]) / (2 * step)
            close = 1e-5 * np.abs(expected).max() + 1e-6 * np.abs(ahead[name]).max()
            assert np.allclose(derivative, expected, atol=close, rtol=0), (seed, name)
        leaves, tree = jax.tree.flatten(forward)
        weights = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=a.shape)) for a in leaves])
        total = partial(_weighed, found=found, weights=weights)
        by_reverse = jax.grad(total)(0.0)
        by_forward = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, weights, forward)))
        assert by_reverse == pytest.approx(float(by_forward), rel=1e-5)
    assert done


def _weighed(t: Any, *, found: Any, weights: Any) -> Any:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, weights, found(t))))


def test_price_of_a_lone_generator_follows_its_cost():
    """Main grid shut: price = c + 2 q p with p = load, so d price / d load = 2 q, / d q = 2 p."""
    market = two_neighbors(load=3.0)

    def price(market: jg.Market) -> Any:
        clearing = jg.clear(market, tol=1e-10)
        return energy_prices(market, clearing.prices)[1, 0]

    slopes = eqx.filter_grad(price)(market)
    quadratic = float(market.generators.quadratic[0])
    assert float(slopes.prosumers.load[0, 0]) == pytest.approx(2 * quadratic, rel=1e-6)
    assert float(slopes.generators.quadratic[0]) == pytest.approx(6.0, rel=1e-6)
    assert float(slopes.generators.linear[0]) == pytest.approx(1.0, rel=1e-6)


def test_envelope_theorem_and_prices():
    """d potential / d load is what a kWh is worth to its owner, and of passive load, to all."""
    market = stressed()
    clearing = jg.clear(market, tol=TOL)
    total = eqx.filter_grad(lambda m: potential(m, jg.clear(m, tol=TOL).plan))(market)
    prices = market.hour_length * energy_prices(market, clearing.prices)
    assert np.allclose(total.prosumers.load, prices, atol=1e-7 * float(jnp.abs(prices).max()))
    at_buses = market.hour_length * (
        clearing.prices.bus
        + clearing.prices.aggregate
        + market.tariff.base
        + market.tariff.slope * clearing.aggregate
    )
    assert np.allclose(total.grid.passive, at_buses, atol=1e-6 * float(jnp.abs(at_buses).max()))


@pytest.mark.slow
def test_batches_and_second_derivatives():
    """vmap of grad, and grad through clear_many, are a loop; derivatives of slopes too."""
    markets = [stressed(), moved(stressed(), along(stressed(), np.random.default_rng(5)), 1e-4)]

    def peak(market: jg.Market) -> Any:
        return jnp.sum(jg.clear(market, tol=TOL).aggregate ** 2)

    slopes = eqx.filter_grad(peak)
    one_by_one = jax.tree.map(lambda *a: jnp.stack(a), *[slopes(market) for market in markets])
    batch = jg.scenarios.stack(markets)
    together = eqx.filter_vmap(slopes)(batch)
    many = eqx.filter_grad(lambda m: jnp.sum(jg.clear_many(m, tol=TOL).aggregate ** 2))(batch)
    most = max(float(jnp.abs(a).max(initial=0)) for a in jax.tree.leaves(one_by_one))
    for other in (together, many):
        for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(other), strict=True):
            assert np.allclose(a, b, rtol=1e-7, atol=1e-9 * most)

    market, step = markets[0], 1e-4

    def by_slope(slope: Any) -> Any:
        return peak(eqx.tree_at(lambda m: m.tariff.slope, market, slope))

    at, push = market.tariff.slope, market.tariff.slope
    _, bend = jax.jvp(jax.grad(by_slope), (at,), (push,))
    ahead, behind = (jax.grad(by_slope)(at + sign * step * push) for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    assert np.allclose(bend, expected, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("grid", "dense"),
    [
        ("lindistflow", 150),
        ("lindistflow", 0),  # by trees, as large grids are
        pytest.param("paper", 150, marks=pytest.mark.slow),
        pytest.param("copperplate", 150, marks=pytest.mark.slow),
    ],
)
def test_iterations_solve_what_elimination_does(grid: str, dense: int, monkeypatch: Any):
    """Conjugate gradients and the factored system agree, in far fewer steps than unknowns."""
    monkeypatch.setattr(preconditioner, "_DENSE", dense)
    market = stressed(grid)
    clearing = jg.clear(market, tol=TOL)
    plan = clearing.plan
    active = active_set(market, plan, clearing.prices)
    point = point_of(market, active, plan, clearing.prices)

    def output(point: Any) -> Any:
        plan, prices = unfold(market, active, clearing.plan, point)
        return jnp.sum(plan.imports**2) + jnp.sum(plan.generation) + jnp.sum(prices.balance)

    right = jax.grad(output)(point)

    @jax.jit
    def both(right: Any) -> Any:
        _, matvec = jax.linearize(lambda w: slope(market, active, plan, w), point)
        size = sizes(market, plan)
        exact = refined(matvec, factored(market, active, plan, matvec), right, size, 1e-12)
        inverse = iterated(market, active, plan, matvec, 300)
        return exact, refined(matvec, inverse, right, size, 1e-11)

    exact, found = both(right)
    assert float(exact.residual) < 1e-9
    assert float(found.residual) < 1e-8
    for a, b in ((exact.point.total, found.point.total), (exact.point.price, found.point.price)):
        assert np.allclose(a, b, atol=1e-6 * float(jnp.abs(a).max()))


def test_iterations_end_where_nothing_more_can_be_done():
    """A single trade of `square` is open: its right-hand side is out of reach of K, in part."""
    market = square()
    clearing = jg.clear(market, tol=TOL)
    plan = clearing.plan
    active = active_set(market, plan, clearing.prices)
    point = point_of(market, active, plan, clearing.prices)
    right = jax.grad(lambda w: unfold(market, active, plan, w)[0].trades[0, 0])(point)

    @jax.jit
    def found(right: Any) -> Any:
        _, matvec = jax.linearize(lambda w: slope(market, active, plan, w), point)
        inverse = iterated(market, active, plan, matvec, 1000)
        return refined(matvec, inverse, right, sizes(market, plan), 1e-8)

    solved = found(right)
    assert int(solved.steps) < 6
    assert float(solved.residual) > 1e-2
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(solved.point))


def test_clusters_are_what_pairs_tie_together():
    """Hour by hour, against a search from each prosumer."""
    rng = np.random.default_rng(3)
    count, first, second = 40, rng.integers(0, 40, 60), rng.integers(0, 40, 60)
    tied = rng.random((60, 5)) < 0.4
    found = np.asarray(clusters(jnp.asarray(first), jnp.asarray(second), jnp.asarray(tied), count))
    for hour in range(5):
        for start in range(count):
            seen, ahead = {start}, [start]
            while ahead:
                one = ahead.pop()
                ends = zip(first[tied[:, hour]], second[tied[:, hour]], strict=True)
                near = {b for a, b in ((i, j) for p in ends for i, j in (p, p[::-1])) if a == one}
                ahead += near - seen
                seen |= near
            assert found[start, hour] == min(seen)


@pytest.mark.slow  # compiles for half a minute
def test_smoothed_derivatives_become_exact():
    """As the barrier narrows: errors fall about in step with its width."""
    market = stressed()

    def peak(market: jg.Market, adjoint: Any) -> Any:
        return jnp.sum(jg.clear(market, tol=TOL, adjoint=adjoint).aggregate ** 2)

    exact = eqx.filter_grad(peak)(market, jg.Implicit()).prosumers.load
    errors = []
    for width in (1e-3, 1e-5):
        found = eqx.filter_grad(peak)(market, jg.Smoothed(width=width)).prosumers.load
        errors.append(float(jnp.abs(found - exact).max() / jnp.abs(exact).max()))
    assert errors[1] < 1e-2
    assert errors[1] < 0.3 * errors[0]


def test_what_is_not_unique_is_flagged_and_refused():
    """Two sellers of one price and two buyers: who sells to whom is open, what they make is not."""
    market = square()
    clearing = jg.clear(market, tol=TOL)
    one = jg.trust(market, clearing, lambda m, c: c.plan.trades[0, 0])
    assert not one.unique
    assert not one.ok
    assert "not unique" in str(one)
    whole = jg.trust(market, clearing, lambda m, c: jnp.sum(c.plan.generation**2), check=True)
    assert whole.unique
    assert whole.agrees
    grad = eqx.filter_grad(lambda m: jg.clear(m, tol=TOL).plan.trades[0, 0])
    with pytest.raises(Exception, match="not determined"):
        jax.block_until_ready(grad(market))
    free = jg.Implicit(throw=False)
    along_least = eqx.filter_grad(lambda m: jg.clear(m, tol=TOL, adjoint=free).plan.trades[0, 0])
    assert bool(jnp.all(jnp.isfinite(along_least(market).prosumers.load)))


@pytest.mark.parametrize("unique", [pytest.param(True, marks=pytest.mark.slow), False])
def test_trust_is_the_same_by_both_runners(unique: bool, monkeypatch: Any):
    """What is unique, what is about to switch, and which fields are not determined."""
    market = stressed() if unique else square()
    clearing = jg.clear(market, tol=TOL)

    def output(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
        return clearing.plan.generation**2 if unique else clearing.plan.trades[0, 0]

    at_once = jg.trust(market, clearing, output)
    monkeypatch.setattr(jg.reliability, "is_quick", lambda market: False)
    compiled = jg.trust(market, clearing, output)
    assert at_once.unique == compiled.unique == unique
    assert at_once.weak == compiled.weak
    assert set(at_once.undetermined) == set(compiled.undetermined)
    assert at_once.residual == pytest.approx(compiled.residual, abs=1e-6)


def test_trust_looks_at_one_output_without_compiling_again():
    """Traced once; afterwards the output is only evaluated, for its value."""
    seen = []

    def output(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
        seen.append(isinstance(market.prosumers.load, Tracer))
        return jnp.sum(clearing.plan.generation**2)

    market = square()
    clearing = jg.clear(market, tol=TOL)
    first = jg.trust(market, clearing, output)
    assert any(seen)
    seen.clear()
    assert jg.trust(market, clearing, output).value == first.value
    assert seen == [False]


@pytest.mark.slow  # compiles for half a minute
@pytest.mark.parametrize("apart", [0.0, pytest.param(1e-10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", [None, jg.PrimalDual()])
def test_twins_that_reach_a_limit_together(solver: Any, apart: float):
    """Two generators of 0.1 p + 0.02 p^2 beside a grid of 0.15 + 0.01 s serve 16 kW over pairs.

    At 3.28125 kW each their cost with that of trades, 0.1 + 0.044 p, is the grid's price. With that
    for their limit, kW more come from the grid alone, kW less from all three: derivatives lie
    between these two, of generation between 0 and 0.01 / (0.044 + 0.02), however rounding falls.
    """
    limit = 3.28125
    market = jg.Market(
        jg.Prosumers([0, 0, 0], [[16.0], [0.0], [0.0]], import_max=30.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.15, anticipation=0.0),
        jg.Generators(
            [1, 2], [[limit + apart], [limit - apart]], hours=1, quadratic=0.02, linear=0.1
        ),
        trading=jg.Trading([0, 0], [1, 2], 20.0, quadratic=0.001),
    )

    def moved(extra: Any) -> Any:
        load = market.prosumers.load.at[0, 0].add(extra)
        here = eqx.tree_at(lambda m: m.prosumers.load, market, load)
        found = jg.clear(here, solver, tol=1e-10)
        return jnp.concatenate([found.plan.generation[:, 0], found.prices.balance[:, 0]])

    step, middle = 1e-3, moved(0.0)
    sides = jnp.stack([(middle - moved(-step)) / step, (moved(step) - middle) / step])
    slope = jax.jacfwd(moved)(0.0)
    assert jnp.all(slope >= sides.min(axis=0) - 1e-4), (slope, sides)
    assert jnp.all(slope <= sides.max(axis=0) + 1e-4), (slope, sides)
    np.testing.assert_allclose(sides[:, 0], [0.01 / 0.064, 0.0], atol=1e-4)


def test_a_bound_about_to_switch_is_flagged():
    """A generator whose limit is just what it makes without one, beside an open main grid."""
    market = two_neighbors(load=8.0, import_max=10.0)
    clear = partial(jg.clear, tol=TOL)
    made = clear(market).plan.generation
    edge = eqx.tree_at(lambda m: m.generators.power_max, market, made)
    found = jg.trust(edge, clear(edge), lambda m, c: energy_prices(m, c.prices)[1, 0])
    assert found.weak.get("generation")
    assert not found.ok
    assert "about to switch" in str(found)


def test_fields_that_nothing_may_follow_are_named():
    """A store that may neither charge nor discharge: its bounds leave its content no choice."""
    base = stressed()
    none = jnp.zeros_like(base.buffers.charge_max)
    level = base.buffers.energy_start[:, None] + none
    stores = (none, none, level, level, jnp.ones_like(base.buffers.retention))
    stuck = eqx.tree_at(
        lambda m: (
            m.buffers.charge_max,
            m.buffers.discharge_max,
            m.buffers.energy_min,
            m.buffers.energy_max,
            m.buffers.retention,
        ),
        base,
        stores,
    )
    clearing = jg.clear(stuck, tol=1e-8, throw=False)
    found = jg.trust(stuck, clearing, lambda m, c: jnp.sum(c.aggregate**2))
    assert found.unique
    assert {"buffers.energy_max", "buffers.energy_start"} & set(found.undetermined)


def test_uncleared_markets_have_no_derivative():
    """Stopped early: refused, whether the clearing itself says so or not."""
    market = stressed()
    few = partial(jg.clear, tol=TOL, max_steps=3, throw=False)
    with pytest.raises(Exception, match="did not clear"):
        jax.block_until_ready(
            eqx.filter_grad(lambda m: jnp.sum(few(m).aggregate))(market).tariff.slope
        )
    with pytest.raises(jg.NotCleared):
        eqx.filter_grad(lambda m: jnp.sum(jg.clear(m, tol=TOL, max_steps=3).aggregate))(market)


@pytest.mark.slow
def test_derivatives_of_uncleared_markets_are_nan_when_asked_for():
    """And trust says that they are none."""
    market = stressed()
    few = partial(jg.clear, tol=TOL, max_steps=3, throw=False)
    quiet = jg.Implicit(throw=False)
    slopes = eqx.filter_grad(lambda m: jnp.sum(few(m, adjoint=quiet).aggregate))(market)
    assert bool(jnp.all(jnp.isnan(slopes.tariff.slope)))
    found = jg.trust(market, few(market), lambda m, c: jnp.sum(c.aggregate))
    assert not found.ok
    assert "max_steps" in str(found)


def test_gradients_do_not_compile_again(caplog: Any):
    """New numbers, same programs: outside of jit too."""

    def peak(market: jg.Market) -> Any:
        return jnp.sum(jg.clear(market, tol=TOL, runner="jax").aggregate ** 2)

    eqx.filter_grad(peak)(two_neighbors(load=3.0))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        eqx.filter_grad(peak)(two_neighbors(load=2.0))
    assert not [r for r in caplog.records if "Finished XLA compilation" in r.getMessage()]


@pytest.mark.slow
def test_float32_gradients_are_close():
    """The system is solved in float64 whatever the market is in."""
    wide = stressed()
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, wide)

    def peak(market: jg.Market) -> Any:
        return jnp.sum(jg.clear(market).aggregate ** 2)

    exact, found = eqx.filter_grad(peak)(wide), eqx.filter_grad(peak)(narrow)
    assert found.tariff.slope.dtype == jnp.float32
    assert np.allclose(exact.tariff.slope, found.tariff.slope, rtol=2e-2)
