"""Pareto fronts are those of a closed form and of a grid of clears, and nothing compiles again."""

from pathlib import Path
from typing import Any

import equinox as eqx
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import monitoring

import jaxgne as jg
from jaxgne import frames, objectives, plots
from jaxgne.front import Front, nondominated
from jaxgne.stationary import compromise, nonnegative

from .markets import two_neighbors

TOL = 1e-9
HEIGHTS = np.array([0.26, 0.29])  # what a first kW traded is worth in each hour, EUR/kWh


def two_hours() -> jg.Market:
    """A price taker who buys t of a neighbor and the rest of the grid, for a toll in each hour.

    0.3 + 0.01 (load - t) - c = 0.1 + 0.04 t + c, so that t = (height - 2 c) / 0.05 for a height of
    0.2 + 0.01 load, and the operator receives 2 c t = height t - 0.05 t^2.
    """
    return jg.Market(
        jg.Prosumers([0, 0], [[6.0, 9.0], [0.0, 0.0]], import_max=[[30.0], [0.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2, base=0.3, anticipation=0.0),
        jg.Generators([1], 10.0, hours=2, quadratic=0.02, linear=0.10),
        trading=jg.Trading([0], [1], 8.0, toll=[[0.02, 0.02]]),
    )


def toll(market: jg.Market) -> Any:
    return market.trading.toll


def loss(market: jg.Market, clearing: jg.Clearing) -> Any:
    return -objectives.operator_revenue(market, clearing)


def untraded(market: jg.Market, clearing: jg.Clearing) -> Any:
    return 15.0 - jnp.sum(clearing.plan.trades)


def most_revenue(volume: float) -> tuple[float, float]:
    """The most that a volume of both hours brings, and what one kW more of it costs, EUR.

    Trades with 0.1 t - height the same in both, or at a toll of 0, where t = height / 0.05.
    """

    def trades(price: float) -> np.ndarray:
        return np.minimum((HEIGHTS + price) / 0.1, HEIGHTS / 0.05)

    low, high = -1.0, 1.0
    for _ in range(60):
        price = (low + high) / 2
        low, high = (price, high) if trades(price).sum() < volume else (low, price)
    return float(np.sum(HEIGHTS * trades(high) - 0.05 * trades(high) ** 2)), high


def test_a_front_is_that_of_the_closed_form(tmp_path: Path):
    """Revenue against traded volume: values, what one costs the other, and nothing compiled anew.

    A second call with the same folder takes no step.
    """
    compiled: list[Any] = []
    told: list[Any] = []
    monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )

    def front() -> Front:
        return jg.pareto(
            two_hours(),
            [loss, untraded],
            toll,
            bounds=(0.0, 0.15),
            points=6,
            starts=1,
            tol=TOL,
            folder=tmp_path,
            progress=lambda now: told.append((now.tuning, len(compiled))),
        )

    found = front()
    assert [tuning for tuning, _ in told] == [*range(8)]
    assert told[-1][1] == told[3][1] > told[0][1] > 0  # nothing after the ends of the front
    assert len(found.values) == 6 and found.dropped == 0
    assert np.all(np.diff(found.values[:, 0]) > 0) and np.all(np.diff(found.values[:, 1]) < 0)
    revenue, price = np.array([most_revenue(15.0 - g) for g in found.values[:, 1]]).T
    spread = np.ptp(found.values, axis=0)
    np.testing.assert_allclose(-found.values[:, 0], revenue, atol=1e-3 * spread[0])
    np.testing.assert_allclose(found.rates[1:-1], price[1:-1], atol=2e-3)
    assert np.all(found.residuals[1:-1] < 0.1)
    assert np.all(found.values[1:-1, 1] <= found.levels[1:-1] + 2e-3 * spread[1])
    assert np.all([bool(c.ok) for c in found.clearings])
    for market, clearing, values in zip(found.markets, found.clearings, found.values, strict=True):
        np.testing.assert_allclose([f(market, clearing) for f in (loss, untraded)], values)
    again = front()
    np.testing.assert_array_equal(again.values, found.values)
    assert again.stopped == found.stopped and len(again.seen) == len(found.seen)


def test_no_clear_of_a_grid_is_better():
    """What prosumers pay against what they import, over the slopes of two hours that count unlike.

    Of 225 clears none is better by more than a hundredth of the front's range, at any level.
    """

    def imported(market: jg.Market, clearing: jg.Clearing) -> Any:
        return jnp.dot(jnp.array([1.0, 3.0]), clearing.aggregate**2)

    def slope(market: jg.Market) -> Any:
        return market.tariff.slope

    market, start, outcomes = two_hours(), None, []
    both = (objectives.total_cost, imported)
    found = jg.pareto(market, both, slope, bounds=(0.002, 0.1), points=6, tol=TOL)
    for slopes in np.stack(np.meshgrid(*[np.linspace(0.002, 0.1, 15)] * 2), -1).reshape(-1, 2):
        here = eqx.tree_at(slope, market, jnp.asarray(slopes))
        start = jg.clear(here, tol=TOL, start=start)
        outcomes.append([float(f(here, start)) for f in both])
    grid, spread = np.array(outcomes), np.ptp(found.values, axis=0)
    assert nondominated(found.values).all() and len(found.values) == 6
    for cost, level in found.values:
        assert cost <= grid[grid[:, 1] <= level, 0].min(initial=np.inf) + 0.01 * spread[0]
    np.testing.assert_array_less(found.values.min(axis=0), grid.min(axis=0) + 0.01 * spread)


def test_scenarios_share_the_fields_of_a_front():
    """Of loads 5 and 7 the mean is that of 6: revenue 0.26 t - 0.05 t^2, and a constraint on t."""
    days = jg.scenarios.stack(
        [two_neighbors(load, behavior=0.0, toll=0.02, import_max=30.0) for load in (5.0, 7.0)]
    )
    found = jg.pareto(
        days,
        [loss, untraded],
        toll,
        bounds=(0.001, 0.12),
        points=3,
        starts=1,
        tol=TOL,
        constraints=[lambda m, c: jnp.sum(c.plan.trades) - 4.0],
    )
    traded = 15.0 - found.values[:, 1]
    np.testing.assert_allclose(-found.values[:, 0], 0.26 * traded - 0.05 * traded**2, atol=1e-4)
    np.testing.assert_allclose(found.rates[1], 0.1 * traded[1] - 0.26, atol=2e-3)
    np.testing.assert_allclose(traded[[0, -1]], [2.6, 4.0], atol=0.15)
    assert np.all(np.asarray(toll(found.markets[1]))[0] == np.asarray(toll(found.markets[1]))[1])


@given(
    hnp.arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 4))
)
def test_dominated_points_are_those_of_the_definition(values: np.ndarray):
    """Another is as good in all and better in one, or an earlier one is the same."""

    def beaten(k: int) -> bool:
        return any(
            all(values[j] <= values[k]) and (any(values[j] < values[k]) or j < k)
            for j in range(len(values))
            if j != k
        )

    assert nondominated(values).tolist() == [not beaten(k) for k in range(len(values))]


@given(st.integers(0, 10**6))
def test_nonnegative_least_squares_meets_its_conditions(seed: int):
    """The slope is 0 where x > 0 and points outward where x = 0: a convex program's optimum."""
    draw = np.random.default_rng(seed)
    matrix, target = draw.normal(size=(5, draw.integers(1, 8))), draw.normal(size=5)
    x = nonnegative(matrix, target)
    push = matrix.T @ (target - matrix @ x)
    assert np.all(x >= 0) and np.all(push <= 1e-9)
    assert np.all(np.abs(push[x > 0]) < 1e-9)


def test_a_compromise_knows_bounds_and_constraints():
    """Opposed slopes balance; a common descent is what is left of them, unless a bound is in it."""
    weights, left = compromise(np.array([[1.0, 0.0], [-3.0, 0.0]]), np.array([0.5, 0.5]))
    np.testing.assert_allclose([*weights, left], [0.75, 0.25, 0.0], atol=1e-12)
    both = np.array([[1.0, 1.0], [1.0, -1.0]])
    weights, left = compromise(both, np.array([0.5, 0.5]))
    np.testing.assert_allclose([*weights, left], [0.5, 0.5, 1.0], atol=1e-9)
    assert compromise(both, np.array([0.0, 0.5]))[1] == pytest.approx(0.0, abs=1e-12)
    assert compromise(both, np.array([1.0, 0.5]))[1] == pytest.approx(1.0)
    held = np.vstack([both, [-2.0, 0.0]])
    np.testing.assert_allclose(compromise(held, np.array([0.5, 0.5]))[0], [0.5, 0.5, 0.5])


def made_up() -> Front:
    """Three points over two numbers, of four asked for."""
    values = np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 1.0]])
    rates, tuned = np.array([0.0, 1.0, np.inf]), np.arange(6.0).reshape(3, 1, 2)
    return Front(
        values, values[:, 1], rates, np.zeros(3), tuned, (), (), values + 0.1,
        4, 1, ("steps", "infeasible"), ("cost", "peak"), ("Trading.toll",),
    )  # fmt: skip


def test_a_front_says_what_it_is():
    """In words, as a table, and as a frame."""
    front = made_up()
    said = str(front)
    assert "3 points of a front, of 4 asked for (1 dominated or the same, dropped)" in said
    assert "stopped early: infeasible" in said and "1 random starts did not clear" in said
    frame = frames.front(front)
    assert [*frame.columns] == [
        *("point", "cost", "peak", "level", "rate", "residual"),
        *("Trading.toll[0, 0]", "Trading.toll[0, 1]"),
    ]
    assert frame["Trading.toll[0, 1]"].tolist() == [1.0, 3.0, 5.0]
    ax = plots.front(front, labels=("cost (EUR)", "peak (kW)"))
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), front.values[:, ::-1])
    jax.tree.map(np.shape, front)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one point": ({"points": 1}, "points=1; give at least 2"),
    "half a point": ({"points": 2.5}, r"points=2\.5; give"),
    "no start": ({"starts": 0}, "starts=0; give"),
    "no bounds": ({"bounds": None}, r"give bounds=\(low, high\)"),
    "out of bounds": ({"bounds": (0.05, 0.1)}, r"Trading\.toll starts outside of its bounds"),
    "three objectives": ({"objectives": [loss] * 3}, r"give two objectives, \[f, g\]"),
    "one objective": ({"objectives": loss}, r"give two objectives, \[f, g\]"),
    "by hour": ({"objectives": [loss, lambda m, c: c.aggregate]}, r"objectives\[1\].*shape \(2,\)"),
    "a number": ({"objectives": [loss, 3.0]}, r"objectives\[1\] is no function"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_front_is_refused(name: str):
    """One sentence each, before anything clears."""
    options, words = REFUSED[name]
    call: dict[str, Any] = {"objectives": [loss, untraded], "where": toll, "bounds": (0.0, 0.15)}
    with pytest.raises(ValueError, match=words):
        jg.pareto(two_hours(), **(call | options))
