"""Objectives: derivatives against differences of clearings, values against comparison."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import comparison, objectives

from .markets import feeder

TOL = 1e-10
OBJECTIVES = {
    "peak": objectives.peak,
    "transformer's peak": objectives.transformer_peak,
    "total cost": objectives.total_cost,
    "worst cost": objectives.worst_cost,
    "social cost": objectives.social_cost,
    "operator's revenue": objectives.operator_revenue,
    "revenue of tariffs": objectives.trading_revenue,
    "operator's budget": partial(objectives.operator_budget, cost=2.0),
    "main grid's revenue": objectives.main_grid_revenue,
    "retail margin": partial(objectives.retail_margin, wholesale=0.04),
    "congestion rent": objectives.congestion_rent,
    "CO2": partial(objectives.carbon, grid_carbon=0.4, generator_carbon=0.7),
    "self-sufficiency": objectives.self_sufficiency,
    "gini": partial(objectives.gini, tol=TOL),
    "jain": partial(objectives.jain, tol=TOL),
    "welfare loss": partial(objectives.welfare_loss, tol=TOL),
}


@pytest.fixture(scope="module")
def market() -> jg.Market:
    """A feeder with a full line; small quadratic costs make trades and storage unique.

    Without trades it clears too, as surplus may be curtailed; no load is what a battery just can.
    """
    return eqx.tree_at(
        lambda m: (
            m.trading.quadratic,
            m.buffers.quadratic,
            m.prosumers.curtail_max,
            m.buffers.discharge_max,
        ),
        feeder(rating=31.0),
        (jnp.full(4, 2e-3), jnp.full(1, 1e-3), jnp.full((4, 3), 9.0), jnp.full((1, 3), 3.5)),
    )


@pytest.fixture(scope="module")
def slopes(market: jg.Market) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of all objectives along one direction: by the implicit rule, and by central differences."""
    rng = np.random.default_rng(0)

    def fields(m: jg.Market) -> tuple:
        return (m.tariff.slope, m.tariff.base, m.trading.toll, m.generators.linear,
                m.prosumers.load, m.grid.rating)  # fmt: skip

    start = fields(market)
    way = tuple(0.1 * a * rng.uniform(0.2, 1.0, a.shape) for a in start)

    def outcomes(values: Any) -> dict[str, Any]:
        here = eqx.tree_at(fields, market, values)
        found = jg.clear(here, tol=TOL)
        return {name: objective(here, found) for name, objective in OBJECTIVES.items()}

    exact = jax.jvp(outcomes, (start,), (way,))[1]
    step = 1e-4
    ahead, behind = (
        outcomes(jax.tree.map(lambda a, b, s=s: a + s * b, start, way)) for s in (step, -step)
    )
    return exact, jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_derivative(slopes: tuple[dict[str, Any], dict[str, Any]], name: str):
    """The implicit rule agrees with central differences of clears to 1e-10."""
    exact, differences = slopes
    assert abs(differences[name]) > 1e-6
    assert exact[name] == pytest.approx(float(differences[name]), rel=1e-4)


def test_values_are_those_of_the_comparison(market: jg.Market):
    """Gini, Jain, peak and costs as `compare` tells them, and welfare lost is not negative."""
    markets = comparison.baselines(market)
    found = {name: (market, jg.clear(markets[name])) for name in ("market", "no trading")}
    row, clearing = jg.compare(found).rows["market"], found["market"][1]
    for key, objective in (
        ("gini", objectives.gini),
        ("jain", objectives.jain),
        ("contracted_peak_kw", objectives.peak),
        ("transformer_peak_in_kw", objectives.transformer_peak),
        ("prosumers_cost_eur", objectives.total_cost),
        ("social_cost_eur", objectives.social_cost),
        ("operator_receipts_eur", objectives.operator_revenue),
        ("physical_self_sufficiency", objectives.self_sufficiency),
    ):
        assert objective(market, clearing) == pytest.approx(row[key], rel=1e-5), key
    assert objectives.welfare_loss(market, clearing) > 0
