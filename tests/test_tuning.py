"""Tuning finds known optima, keeps constraints, goes on where it stopped, and says why it stops."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgne as jg
from jaxgne import objectives
from jaxgne.coordinates import Linear

from .markets import feeder, two_neighbors

TOL = 1e-9


def taxed(load: float = 6.0, toll: float = 0.02) -> jg.Market:
    """A price taker who buys t of a neighbor and the rest of the grid: one hour, one bus.

    0.3 + 0.01 (load - t) - c = 0.1 + 0.04 t + c, so that t = (0.2 + 0.01 load - 2 c) / 0.05, and
    the operator receives 2 c t: most of it, 5 (0.2 + 0.01 load)^2, at c = (0.2 + 0.01 load) / 4.
    """
    return two_neighbors(load, behavior=0.0, toll=toll, import_max=30.0)


def revenue(market: jg.Market, clearing: jg.Clearing) -> Any:
    return -objectives.operator_revenue(market, clearing)


def toll(market: jg.Market) -> Any:
    return market.trading.toll


def adam(steps: int, rate: float = 0.1) -> Any:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def test_the_best_tariff_is_found_and_nothing_compiles_again():
    """c = 0.26 / 4 brings 5 * 0.26^2 EUR; the objective is traced once for all steps."""
    traced = []

    def counted(market: jg.Market, clearing: jg.Clearing) -> Any:
        traced.append(None)
        return revenue(market, clearing)

    told = []
    tuned, history = jg.tune(
        taxed(),
        counted,
        where=toll,
        optimizer=adam(100),
        steps=100,
        bounds=(0.0, 0.1),
        tol=TOL,
        progress=told.append,
    )
    np.testing.assert_allclose(tuned.trading.toll, 0.065, atol=1e-4)
    assert history.value[history.best] == pytest.approx(-5 * 0.26**2, abs=1e-6)
    assert len(traced) == 1
    assert history.stopped == "steps" and len(history.value) == len(told) == 100
    assert np.all(history.solver_steps[20:] <= 0.6 * history.solver_steps[0])  # warm starts
    made, said = history.made, history.foretold[:-1]
    assert np.abs(made - said).max() < 0.3 * np.abs(said).max()
    assert history.tuned.shape == (100, 1, 1) and "best" in str(history)


@pytest.mark.slow  # compiles for half a minute
def test_constraints_are_met():
    """The least cost while the operator receives 0.24 EUR: x (0.26 - x) = 0.012 for x = 2 c.

    The smaller root is 0.06, so c = 0.03 and 4 kW are traded; without the constraint c falls to 0.
    """
    tuned, history = jg.tune(
        taxed(toll=0.05),
        objectives.total_cost,
        where=toll,
        optimizer=adam(150),
        steps=150,
        bounds=(0.0, 0.065),
        constraints=[lambda m, c: 0.24 - objectives.operator_revenue(m, c)],
        tol=TOL,
    )
    np.testing.assert_allclose(tuned.trading.toll, 0.03, atol=5e-4)
    assert history.violation[history.best] < 1e-3 * 0.24
    assert history.weights[-1, 0] > 0


def test_tuning_goes_on_where_it_stopped(tmp_path: Any):
    """20 steps at once and 8 + 12 with a folder give the same numbers, to the last bit."""
    call = {"where": toll, "optimizer": optax.adam(0.05), "bounds": (0.0, 0.1), "tol": TOL}
    _, whole = jg.tune(taxed(), revenue, steps=20, **call)
    folder = tmp_path / "run"
    jg.tune(taxed(), revenue, steps=8, folder=folder, **call)
    told = []
    _, both = jg.tune(taxed(), revenue, steps=20, folder=folder, progress=told.append, **call)
    assert len(told) == 12
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(both), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="other scenarios or settings"):
        jg.tune(taxed(7.0), revenue, steps=20, folder=folder, **call)


def weighed(weight: float) -> Any:
    return lambda m, c: weight * revenue(m, c)


LIMIT = [lambda m, c: 0.1 - objectives.operator_revenue(m, c)]
OTHERS = {
    "another objective": ({}, lambda m, c: revenue(m, c) + 0.001),
    "what it closes over": ({}, weighed(2.0)),
    "where": ({"where": lambda m: m.trading.limit}, weighed(1.0)),
    "constraints": ({"constraints": LIMIT}, weighed(1.0)),
    "bounds": ({"bounds": (0.0, 0.2)}, weighed(1.0)),
    "optimizer": ({"optimizer": optax.adam(0.06)}, weighed(1.0)),
    "steps of its schedule": ({"optimizer": None, "steps": 3}, weighed(1.0)),
    "tol": ({"tol": 1e-8}, weighed(1.0)),
    "solver": ({"solver": jg.PrimalDual()}, weighed(1.0)),
    "adjoint": ({"adjoint": jg.Smoothed()}, weighed(1.0)),
}


def test_another_tuning_is_refused_its_folder(tmp_path: Any):
    """Whatever the answer depends on, code included; a damaged file is told of and begun anew."""
    call = {"where": toll, "optimizer": optax.adam(0.05), "bounds": (0.0, 10.0), "tol": TOL}
    market, objective = taxed(), weighed(1.0)
    first = jg.tune(market, objective, steps=2, folder=tmp_path, **call)[1]
    for options, other in OTHERS.values():
        with pytest.raises(ValueError, match="other scenarios or settings"):
            jg.tune(market, other, folder=tmp_path, **{**call, "steps": 2, **options})
    again = jg.tune(market, weighed(1.0), steps=2, folder=tmp_path, **call)[1]
    assert np.array_equal(again.value, first.value)
    kept = tmp_path / "tuning.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"tuning\.npz is cut or damaged; .* made anew"):
        anew = jg.tune(market, objective, steps=2, folder=tmp_path, **call)[1]
    assert np.array_equal(anew.value, first.value)
    pages = open(kept, "rb")  # noqa: SIM115
    with pages, pytest.raises(ValueError, match=r"folder: .*leave folder out"):
        jg.tune(market, lambda m, c: len(pages.name), folder=tmp_path, **call)


def test_a_step_that_does_not_clear_is_halved():
    """The total may not fall below 4 kW: 12 kW of load, 8 of which the pair can carry.

    From 10 in steps of 2.5 down to 5; from there 5/8 of a kW is a fourth of a step, and so on until
    a 32nd, 0.08 kW, is too much.
    """
    market = eqx.tree_at(lambda m: m.tariff.total_max, taxed(12.0), jnp.array([10.0]))
    tuned, history = jg.tune(
        market,
        lambda m, c: jnp.sum(m.tariff.total_max),
        where=lambda m: m.tariff.total_max,
        optimizer=optax.sgd(2.5),
        bounds=None,
        steps=20,
        tol=TOL,
    )
    assert history.stopped == "infeasible"
    np.testing.assert_allclose(history.tuned[:4, 0], [10.0, 7.5, 5.0, 4.375])
    np.testing.assert_allclose(history.halved[:3], [1.0, 1.0, 0.25])
    np.testing.assert_allclose(history.foretold[:-1], np.diff(history.tuned[:, 0]), rtol=1e-9)
    assert 4.0 <= float(tuned.tariff.total_max[0]) < 4.08 and bool(jg.clear(tuned).ok)
    assert "Tariff.total_max" in history.limit[2] and history.limit[1] == ""
    assert "steps were cut short, the last by: infeasible: Tariff.total_max" in str(history)
    hopeless = eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.array([3.0]))
    with pytest.raises(jg.NotCleared, match="infeasible"):
        jg.tune(hopeless, revenue, where=toll, bounds=(0.0, 0.1))


@pytest.mark.slow
def test_scenarios_share_what_is_tuned_and_patience_ends_it():
    """Of loads 5, 6 and 7 the mean revenue is highest at (0.2 + 0.01 * 6) / 4."""
    days = jg.scenarios.stack([taxed(load) for load in (5.0, 6.0, 7.0)])
    tuned, history = jg.tune(
        days,
        revenue,
        where=toll,
        optimizer=adam(100),
        steps=200,
        bounds=(0.0, 0.1),
        patience=15,
        tol=TOL,
    )
    np.testing.assert_allclose(tuned.trading.toll, np.full((3, 1), 0.065), atol=1e-4)
    assert history.stopped == "patience" and len(history.value) < 150
    other = eqx.tree_at(toll, days, jnp.array([[0.0], [0.01], [0.02]]))
    with pytest.raises(ValueError, match=r"Trading\.toll differs between scenarios"):
        jg.tune(other, revenue, where=toll, bounds=(0.0, 0.1))


@pytest.mark.slow
def test_several_fields_by_a_bijection():
    """exp keeps a tariff positive; `Linear` ties rows; both reach the same optimum."""
    positive: Any = SimpleNamespace(forward=jnp.exp, inverse=jnp.log)
    by_exp, _ = jg.tune(
        taxed(),
        revenue,
        where=toll,
        bijection=positive,
        optimizer=adam(100, 0.3),
        steps=100,
        tol=TOL,
    )
    np.testing.assert_allclose(by_exp.trading.toll, 0.065, atol=1e-4)
    tied, _ = jg.tune(
        taxed(),
        revenue,
        where=toll,
        bijection=Linear(jnp.array([[2.0]])),
        bounds=(0.0, 0.05),
        steps=100,
        tol=TOL,
    )
    np.testing.assert_allclose(tied.trading.toll, 0.065, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": toll}, "give bounds, or an optimizer"),
        ({"where": toll, "bounds": (0.05, 0.1)}, r"Trading\.toll starts outside of its bounds"),
        ({"where": toll, "bounds": (0.1, 0.1)}, "each low must be below its high"),
        ({"where": lambda m: m.trading.buyer, "bounds": (0, 1)}, "Trading.buyer holds int32"),
        ({"where": lambda m: m.tariff.total_max, "bounds": (0, 1)}, "not finite everywhere"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options: dict[str, Any], words: str):
    """One sentence each, before anything clears."""
    with pytest.raises(ValueError, match=words):
        jg.tune(taxed(), revenue, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "least"), [(objectives.gini, None), (objectives.welfare_loss, 0.0)]
)
def test_objectives_that_clear_another_market(objective: Any, least: float | None):
    """Benefits against no trading, welfare against the optimum: tuned with that clear inside."""
    market = eqx.tree_at(
        lambda m: (m.trading.quadratic, m.trading.toll, m.prosumers.curtail_max),
        feeder(rating=31.0),
        (jnp.full(4, 2e-3), jnp.full(4, 0.02), jnp.full((4, 3), 9.0)),
    )
    measured = partial(objective, tol=TOL)
    tuned, history = jg.tune(
        market, measured, where=toll, optimizer=adam(12), steps=12, bounds=(0.0, 0.05), tol=TOL
    )
    value = float(measured(tuned, jg.clear(tuned, tol=TOL)))
    assert value < float(history.value[0]) - 1e-4
    assert value == pytest.approx(float(history.value[history.best]), abs=1e-6)
    if least is not None:
        assert value >= least - 1e-8
