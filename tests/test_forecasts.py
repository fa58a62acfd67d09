"""Forecasts: what they say of a window, the same whenever they are asked, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import forecasts, model
from jaxgne.fingerprint import fingerprint
from jaxgne.windows import past, window
from tests.simulated import STEPS, village


def asked(forecast, truth: jg.Market, at: int, lengths) -> jg.Market:
    return forecast(past(truth, at), window(truth, at, lengths), at)


def test_persistence_is_yesterday():
    """Also for merged steps, and two days ahead; what was never seen is known."""
    truth = village(3)
    load, base = (np.asarray(a) for a in (truth.prosumers.load, truth.tariff.base))
    found = asked(forecasts.persistence(), truth, STEPS + 1, [1] * STEPS + [2])
    np.testing.assert_allclose(found.prosumers.load[:, :6], load[:, 1:7], atol=1e-12)
    np.testing.assert_allclose(found.prosumers.load[:, 6], load[:, 1:3].mean(axis=1), atol=1e-12)
    np.testing.assert_array_equal(found.tariff.base[:6], base[7:13])
    early = asked(forecasts.persistence(), truth, 2, [1] * STEPS)
    np.testing.assert_allclose(early.prosumers.load, load[:, [2, 3, 4, 5, 0, 1]], atol=1e-12)
    later = asked(forecasts.persistence(), truth, STEPS + 2, [1] * STEPS)
    np.testing.assert_allclose(later.prosumers.load[:, :4], load[:, 2:6], atol=1e-12)


def test_noise_has_the_size_and_the_mean_that_were_asked_for():
    """Over many issues: the truth in the mean, a deviation that grows with the lead."""
    truth = village(2)
    here = window(truth, 0, [1] * STEPS)
    drawn = [
        asked(forecasts.noisy(0.3, 0.2, 0.1, growth=16.0, seed=s), truth, 0, [1] * STEPS)
        for s in range(600)
    ]
    ratio = np.stack([np.asarray(m.grid.passive[1] / here.grid.passive[1]) for m in drawn])
    np.testing.assert_allclose(ratio.mean(axis=0), 1.0, atol=0.06)
    size = np.log(ratio).std(axis=0)
    np.testing.assert_allclose(size, 0.3 * np.sqrt([0.25, 0.5, 0.75, 1, 1, 1]), rtol=0.15)
    prices = np.stack([np.asarray(m.tariff.base / here.tariff.base) for m in drawn])
    np.testing.assert_allclose(np.log(prices).std(axis=0)[-1], 0.1, rtol=0.15)
    step = np.corrcoef(np.log(ratio).T)
    assert step[3, 4] == pytest.approx(np.exp(-4 / 3), abs=0.15)


def test_errors_are_revised_as_time_goes_on_not_drawn_anew():
    """Of one step by three issues: each takes away a part that tells nothing of what is left."""
    truth = village(2)
    target, left = STEPS - 1, []
    for seed in range(600):
        guess = forecasts.noisy(0.3, growth=4.0 * STEPS, seed=seed)
        told = [asked(guess, truth, at, [1] * (STEPS - at)) for at in (0, 2, 4)]
        left.append(
            [float(np.log(m.grid.passive[1, -1] / truth.grid.passive[1, target])) for m in told]
        )
    issue = np.array(left)
    issue -= issue.mean(axis=0)
    np.testing.assert_allclose(issue.std(axis=0), 0.3 * np.sqrt([1, 4 / 6, 2 / 6]), rtol=0.15)
    revised = np.diff(issue, axis=1)
    seen = np.corrcoef(np.column_stack([revised, issue[:, 2]]).T)
    np.testing.assert_allclose(seen - np.eye(3), 0.0, atol=0.15)


def test_sun_moves_with_what_it_reaches():
    truth = village(1)
    found = asked(forecasts.noisy(0.0, 0.3, seed=1), truth, 0, [1] * STEPS)
    people, old = found.prosumers, truth.prosumers
    more = np.asarray(people.curtail_max - old.curtail_max)
    assert np.abs(more).max() > 0.1 and np.all(more[1] == 0)
    np.testing.assert_allclose(people.load, old.load - more, atol=1e-12)
    np.testing.assert_allclose(people.export_max, old.export_max + more, atol=1e-12)


def test_a_forecast_is_the_same_when_it_is_asked_again():
    truth = village(2)
    makers = [lambda s: forecasts.noisy(seed=s), lambda s: forecasts.persistence(24.0 + s)]
    for make in makers:
        one, other = (asked(make(3), truth, 7, [1, 2]) for _ in range(2))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)
        assert fingerprint(make(3)) == fingerprint(make(3)) != fingerprint(make(4))
    assert not np.array_equal(
        asked(makers[0](3), truth, 7, [1]).prosumers.load,
        asked(makers[0](3), truth, 8, [1]).prosumers.load,
    )


def test_forecasts_of_ones_own_are_by_issue():
    truth = village(1)
    loads = np.arange(3 * 3 * 4.0).reshape(3, 3, 4)
    forecast = forecasts.given(2, load=loads)
    found = asked(forecast, truth, 2, [1] * 4)
    np.testing.assert_array_equal(found.prosumers.load, loads[1])
    with pytest.raises(ValueError, match="4 issues or more"):
        asked(forecasts.given(1, load=loads), truth, 3, [1] * 4)
    run = jg.simulate(truth, window=4, step=2, forecast=forecasts.given(2, load=0 * loads + 2.0))
    assert run.ok and np.abs(run.imbalance).max() > 0.5


def test_a_tree_plans_for_all_its_branches():
    """Branches alike are one; branches that differ hedge: never better than to know which comes."""
    truth = village(1)
    lone = jg.simulate(truth, window=4, step=1, terminal="market", tol=1e-8, runner="numpy")
    alike = forecasts.tree([forecasts.perfect()] * 2, [0.4, 0.6])
    both = jg.simulate(
        truth, window=4, step=1, terminal="market", forecast=alike, tol=1e-8, runner="numpy"
    )
    np.testing.assert_allclose(both.plan.energy, lone.plan.energy, atol=2e-3)
    apart = forecasts.tree([forecasts.noisy(seed=s) for s in range(2)], [0.5, 0.5])
    hedged = jg.simulate(truth, window=4, step=2, forecast=apart, runner="numpy")
    assert hedged.ok
    uneven = jg.simulate(truth, window=5, step=4, forecast=apart, runner="numpy")  # and then two
    assert uneven.ok and uneven.plan.imports.shape[1] == STEPS


def test_noise_makes_it_dearer():
    """In the mean over seeds, against plans that know what comes."""
    market = village(2)
    costs = [
        float(model.potential(*jax.tree.map(jnp.asarray, (market, run.plan))))
        for run in (
            jg.simulate(market, window=STEPS, step=1, forecast=forecast, runner="numpy")
            for forecast in (
                forecasts.perfect(),
                *(forecasts.noisy(0.5, 0.5, 0.3, growth=8.0, seed=s) for s in range(4)),
            )
        )
    ]
    assert np.mean(costs[1:]) > costs[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: forecasts.persistence(0.0), "hours=0"),
        (lambda: forecasts.noisy(-0.1), "load=-0.1"),
        (lambda: forecasts.noisy(growth=0.0), "growth"),
        (lambda: forecasts.given(1, wind=0), "wind"),
    ],
)
def test_what_is_no_forecast_is_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()
