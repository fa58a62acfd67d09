"""Gradients at once: by hand what autodiff derives, and what differences of clears say."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

import jaxgne as jg
from jaxgne import objectives
from jaxgne.model import Plan, energy_prices, potential
from jaxgne.runner import by_numpy, to_host
from jaxgne.sensitivity.active import TIGHT, Active, active_set
from jaxgne.sensitivity.by_hand import by_market
from jaxgne.sensitivity.by_point import hessian, unfolded_back
from jaxgne.sensitivity.lagrangian import Point, point_of, slope, unfold
from tests.directions import along, moved, square, stressed, varied
from tests.markets import two_neighbors

TOL = 1e-10
SLOW = pytest.mark.slow


def mixed(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
    """Of everything that is unique under both behaviors."""
    made, prices = clearing.plan.generation, energy_prices(market, clearing.prices)
    fed = jnp.sum(clearing.plan.exchange**2)  # what feeders exchange is not a price's or a row's
    return (
        jnp.sum(clearing.aggregate**2)
        + jnp.sum(jnp.sin(made))
        + jnp.sum(prices**2)
        + potential(market, clearing.plan)
        + (fed if market.grid.model.name != "copperplate" else 0.0)
    )


def cleared(market: jg.Market) -> jg.Clearing:
    return jg.clear(market, tol=TOL, runner="numpy")


def held(market: jg.Market) -> bytes:
    """Which bounds hold, and how."""
    clearing = cleared(market)
    with by_numpy():
        active = active_set(*to_host((market, clearing.plan, clearing.prices)))
    return b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves((active.plan, active.net)))


def close(one: Any, other: Any, tol: float) -> None:
    """Each number of two gradients, by the largest of its field."""
    pairs, _ = jax.tree.flatten_with_path(one)
    others = jax.tree.leaves(other)
    assert len(pairs) == len(others)
    for (path, a), b in zip(pairs, others, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        most = np.abs(b).max(initial=0.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * max(most, 1e-3), err_msg=str(path))


@pytest.mark.parametrize(
    ("grid", "behavior"),
    [
        *(("copperplate", "wardrop"), ("lindistflow", "nash"), ("paper", "nash")),
        pytest.param("copperplate", "nash", marks=SLOW),
        pytest.param("lindistflow", "wardrop", marks=SLOW),
        pytest.param("paper", "wardrop", marks=SLOW),
    ],
)
def test_gradients_are_differences_of_clears(grid: str, behavior: str):
    """Along random directions of all fields, where no bound switches."""
    step, done = 1e-5, 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        market = stressed(grid, behavior, seed)
        direction = along(market, rng)
        ends = [moved(market, direction, sign * step) for sign in (1, -1)]
        if len({held(there) for there in (market, *ends)}) > 1:
            continue
        done += 1
        clearing = cleared(market)
        slopes = jg.sensitivities(market, mixed, clearing=clearing)
        pairs = zip(varied(slopes), direction, strict=True)
        predicted = sum(float(np.vdot(np.asarray(a), np.asarray(b))) for a, b in pairs)
        ahead, behind = (float(mixed(end, cleared(end))) for end in ends)
        assert predicted == pytest.approx((ahead - behind) / (2 * step), rel=2e-5, abs=1e-4)
    assert done


@SLOW
@pytest.mark.parametrize("behavior", ["nash", "wardrop"])
@pytest.mark.parametrize("grid", ["copperplate", "lindistflow", "paper"])
def test_gradients_are_those_through_clear(grid: str, behavior: str):
    """Every number of the market, as `filter_grad` has it.

    Fees on trades that are not unique are spread over these, to rounding over the proximal term.
    """
    market = stressed(grid, behavior, 2)
    clearing = jg.clear(market, tol=TOL)
    found = jg.sensitivities(market, mixed, clearing=clearing)
    expected = eqx.filter_grad(lambda m: mixed(m, jg.clear(m, tol=TOL, runner="jax")))(market)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    close(found, expected, 1e-5)


def rated(market: jg.Market, clearing: jg.Clearing) -> tuple[jg.Market, Active, Point]:
    """The market with some flows just at their ratings, said to be at them."""
    plan = clearing.plan
    with by_numpy():
        active = active_set(*to_host((market, plan, clearing.prices)))
    active = jax.tree.map(jnp.asarray, active)
    if market.grid.model.name != "copperplate":
        size = jnp.hypot(plan.active[:, 0], plan.reactive[:, 0])
        market = eqx.tree_at(lambda m: m.grid.rating, market, size)
        codes = replace(active.plan, active=active.plan.active.at[:2, 0].set(TIGHT))
        active = replace(active, plan=codes)
    return market, active, point_of(market, active, plan, clearing.prices)


@pytest.mark.parametrize(
    "grid", ["lindistflow", *(pytest.param(grid, marks=SLOW) for grid in ("copperplate", "paper"))]
)
def test_what_is_derived_by_hand_is_what_autodiff_derives(grid: str):
    """K, the transpose of `unfold` and all of the market, at random numbers, lines at ratings."""
    market, rng = stressed(grid), np.random.default_rng(0)
    clearing = jg.clear(market)
    market, active, point = rated(market, clearing)
    plan = clearing.plan

    def random(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), tree)

    move, by_plan, by_prices = random(point), random(plan), random(clearing.prices)

    def dot(one: Any, other: Any) -> Any:
        return sum(map(jnp.vdot, jax.tree.leaves(one), jax.tree.leaves(other)))

    @eqx.filter_jit
    def derived(market: jg.Market) -> tuple[Point, Point, jg.Market]:
        def unfolded(point: Point) -> tuple[Plan, Any]:
            return unfold(market, active, plan, point)

        def weighed(market: jg.Market) -> Any:
            value, _ = unfold(market, active, plan, point)
            return dot(by_plan, value) - dot(move, slope(market, active, plan, point))

        _, bent = jax.jvp(lambda w: slope(market, active, plan, w), (point,), (move,))
        (back,) = jax.vjp(unfolded, point)[1]((by_plan, by_prices))
        return bent, back, eqx.filter_grad(weighed)(market)

    expected = derived(market)
    with by_numpy():
        given = to_host((market, active, plan, point, by_plan, by_prices, move))
        m, a, base, at, weight, worth, change = given
        bent = hessian(m, a, base, at)(change)
        back = unfolded_back(m, a, base, weight, worth)
        total = by_market(m, a, base, at, weight, change)
    close((bent, back, total), expected, 1e-10)


def test_nothing_but_the_output_is_compiled():
    """One program, whatever the market: the output's, once."""
    compiled: list[str] = []

    def heard(event: str, *_: Any, **__: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    def output(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
        return jnp.sum(clearing.costs)

    def base(market: jg.Market) -> Any:
        return market.tariff.base

    market = stressed(seed=7)
    clearing = cleared(market)
    monitoring.register_event_duration_secs_listener(heard)
    try:
        first = jg.sensitivities(market, output, clearing=clearing, where=base)
        assert len(compiled) <= 1
        again = jg.sensitivities(market, output, clearing=clearing, where=base)
        assert len(compiled) <= 1
    finally:
        monitoring.unregister_event_duration_listener(heard)
    assert first.shape == market.tariff.base.shape and np.array_equal(first, again)


def test_an_eager_gradient_compiles_no_rule(caplog: Any):
    """`filter_grad` of what NumPy clears is what `sensitivities` gives, by the same means."""
    market = stressed()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        found = eqx.filter_grad(lambda m: mixed(m, cleared(m)))(market)
    made = [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]
    assert made and not [line for line in made if "_tangent" in line]
    expected = jg.sensitivities(market, mixed, clearing=cleared(market))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    close(found, expected, 1e-12)


def test_what_numpy_derives_can_be_transposed_batched_and_compiled():
    """Rows of a Jacobian by the eager rule, columns by the compiled one."""
    market = two_neighbors(load=3.0)

    def prices(load: jax.Array) -> jax.Array:
        loaded = eqx.tree_at(lambda m: m.prosumers.load, market, load)
        return energy_prices(loaded, cleared(loaded).prices)[:, 0]

    at = market.prosumers.load
    columns = jax.jacfwd(prices)(at)
    assert np.abs(columns).max() > 0
    assert np.allclose(jax.jacrev(prices)(at), columns, rtol=1e-6)
    _, back = jax.vjp(prices, at)
    (rows,) = jax.jit(jax.vmap(back))(jnp.eye(2))
    assert np.allclose(rows, columns, rtol=1e-6)


def test_what_has_no_derivative_is_refused():
    """What is not unique, what did not clear, what is traced, and what is no scalar."""
    market = stressed(behavior="wardrop")
    clearing = jg.clear(market)
    with pytest.raises(RuntimeError, match="not determined"):
        jg.sensitivities(square(), lambda m, c: c.plan.trades[0, 0])
    failed = jg.clear(market, max_steps=1, throw=False)
    with pytest.raises(RuntimeError, match="did not clear means nothing"):
        jg.sensitivities(market, objectives.peak, clearing=failed)
    with pytest.raises(jg.NotCleared):
        jg.sensitivities(two_neighbors(load=1e4), objectives.peak)
    with pytest.raises(TypeError, match="runs on the host"):
        eqx.filter_jit(lambda m: jg.sensitivities(m, objectives.peak))(market)
    with pytest.raises(TypeError, match="scalar"):
        jg.sensitivities(market, lambda m, c: c.aggregate, clearing=clearing)
