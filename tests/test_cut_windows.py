"""Windows of long markets: what they hold, merged steps, idle steps, and days in a row."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import clock, model
from jaxgne.record import changed
from jaxgne.scenarios import chain, series
from jaxgne.windows import later, lengths_of, window, worth_at
from tests.markets import feeder, many_devices
from tests.simulated import STEPS, village


def same(one: jg.Market, other: jg.Market) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_whole_market_is_a_window_of_it():
    truth = village()
    same(window(truth, 0, np.ones(3 * STEPS, int)), truth)


def test_a_window_begins_where_it_is_cut():
    truth = village()
    found = window(truth, 5, [1, 1], energy=[1.0, 2.0], final_value=[0.1, 0.2])
    np.testing.assert_array_equal(found.prosumers.load, truth.prosumers.load[:, 5:7])
    np.testing.assert_array_equal(found.buffers.energy_start, [1.0, 2.0])
    np.testing.assert_array_equal(found.buffers.final_value, [0.1, 0.2])
    assert clock.times(found) == clock.times(truth)[5:7]


def test_merged_steps_hold_what_their_steps_do():
    """Means of powers weighted by length, sums of drains, limits on contents at the end."""
    truth = many_devices()
    truth = eqx.tree_at(
        lambda m: (m.hour_length, m.buffers.retention),
        truth,
        (jnp.array([0.25, 0.75, 1.0, 0.5]), jnp.ones((2, 1))),
    )
    found = window(truth, 0, [1, 2, 1])
    load = np.asarray(truth.prosumers.load)
    np.testing.assert_allclose(
        found.prosumers.load[:, 1], (0.75 * load[:, 1] + load[:, 2]) / 1.75, rtol=1e-12
    )
    np.testing.assert_allclose(found.hour_length, [0.25, 1.75, 0.5])
    np.testing.assert_allclose(found.buffers.drain, [[0, 0, 0], [0, 3, 0]])
    energy = np.asarray(truth.buffers.energy_max)
    np.testing.assert_array_equal(found.buffers.energy_max, energy[:, [0, 2, 3]])


def test_merged_steps_end_as_their_steps_do():
    """Contents that leak and are drained, charged at one power by what differs by step."""
    rng = np.random.default_rng(0)
    truth, stores = village(1), village(1).buffers
    shape = (2, STEPS)
    tables = {
        "retention": rng.uniform(0.8, 1, shape),
        "charge_efficiency": rng.uniform(1, 3, shape),
        "drain": rng.uniform(0, 1, shape),
        "discharge_max": np.zeros(shape),
    }
    truth = changed(truth, buffers=changed(stores, **tables))
    found = window(truth, 1, [1, 3, 1]).buffers
    each = window(truth, 1, [1] * 5).buffers
    content = np.array([3.0, 5.0])
    whole = found.retention[:, 1] * content - found.drain[:, 1]
    whole = whole + 12.0 * found.charge_efficiency[:, 1] * 0.3
    for k in (1, 2, 3):
        content = each.retention[:, k] * content - each.drain[:, k]
        content = content + 4.0 * each.charge_efficiency[:, k] * 0.3
    np.testing.assert_allclose(whole, content, rtol=1e-12)


def test_even_and_uneven_windows_agree_where_data_are_constant():
    """A day in which nothing changes costs the same in steps of one length and in merged ones."""
    day = village(1)
    flat = window(day, 2, [1])
    many = chain([flat] * 6)
    whole = jg.clear(to_jax(many), tol=1e-9, runner="numpy")
    uneven = window(many, 0, [1, 1, 4])
    merged = jg.clear(to_jax(uneven), tol=1e-9, runner="numpy")
    costs = [
        float(model.potential(to_jax(m), c.plan)) for m, c in ((many, whole), (uneven, merged))
    ]
    assert costs[0] == pytest.approx(costs[1], rel=1e-7)
    np.testing.assert_allclose(whole.aggregate[0], merged.aggregate[2], rtol=1e-5)


def to_jax(market: jg.Market) -> jg.Market:
    return jax.tree.map(jnp.asarray, market)


@pytest.mark.parametrize("leak", [1.0, 0.95])
def test_nothing_happens_beyond_the_end(leak):
    """Two real and four idle steps cost what two real ones do, and contents stay what they are."""
    truth = village(1, retention=leak, final_value=0.1)
    short = window(truth, 4, [1, 1])
    filled = window(truth, 4, [1] * 6)
    assert filled.prosumers.load.shape == (3, 6)
    alone, more = (jg.clear(to_jax(m), tol=1e-9, runner="numpy") for m in (short, filled))
    costs = [float(model.potential(to_jax(m), c.plan)) for m, c in ((short, alone), (filled, more))]
    assert costs[0] == pytest.approx(costs[1], rel=1e-7)
    np.testing.assert_allclose(more.plan.energy[:, :2], alone.plan.energy, atol=1e-5)
    still = np.repeat(more.plan.energy[:, 1:2], 5, axis=1)
    np.testing.assert_allclose(more.plan.energy[:, 1:], still, atol=1e-5)
    for name in ("charge", "discharge", "imports", "exports", "generation", "curtailed"):
        assert float(jnp.max(jnp.abs(getattr(more.plan, name)[:, 2:]), initial=0.0)) < 1e-5


def test_feeders_rest_within_the_limits_of_their_buses():
    """1.06 pu at the feeder is too much for buses that loads no longer lower."""
    truth = feeder(feeder_voltage=1.06)
    found = window(truth, 2, [1, 1])
    np.testing.assert_allclose(found.grid.feeder_voltage, [[1.06, 1.05]], rtol=1e-12)


def test_a_shift_goes_on_with_the_day_before():
    """Beyond the window's end comes what was at that hour a day earlier."""
    view = window(village(), 0, [1] * STEPS)
    assert later(view, 8.0).tolist() == [2, 3, 4, 5, 0, 1]
    assert later(window(village(), 0, [1, 1]), 4.0).tolist() == [1, 1]


def test_water_values_are_those_of_the_hour():
    view = window(village(), 0, [1] * STEPS)
    water = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(worth_at(view, water, 8.0), [1.0, 7.0])
    np.testing.assert_allclose(worth_at(view, water, -4.0), [2.5, 8.5])


def test_days_in_a_row_are_one_series():
    """`chain` of a market's days is `series` of their loads and sun."""
    day = village(1)
    sun = np.asarray(day.prosumers.curtail_max)
    gross = np.asarray(day.prosumers.load) + sun
    long = series(day, np.tile(gross, 2), generation=np.tile(sun, 2))
    both = chain([day, day])
    assert long.prosumers.load.shape == (3, 2 * STEPS)
    for a, b in zip(jax.tree.leaves(long), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_series_follow_the_clock():
    """The day on which clocks go forward has 23 hours, without the one that is skipped."""
    day = jg.Market(
        jg.Prosumers([0], np.arange(24.0)[None]),
        jg.Grid(np.zeros((1, 24)), model="copperplate"),
        jg.Tariff(0.01, hours=24, base=np.arange(24.0)),
        clock=jg.Clock("2025-03-29T00:00", "Europe/Berlin"),
    )
    long = series(day, np.ones((1, 47)))
    assert long.tariff.base[24:28].tolist() == [0.0, 1.0, 3.0, 4.0]
    assert clock.times(long)[-1].hour == 23


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda m: window(m, 99, [1]), "at=99"),
        (lambda m: lengths_of(0, 18), "window=0"),
        (lambda m: lengths_of([1, 0], 18), "how many steps"),
        (lambda m: window(eqx.tree_at(lambda a: a.weight, m, 2 * m.weight), 0, [1]), "weight"),
        (lambda m: chain([m, village(seed=1), eqx.tree_at(lambda a: a.grid.rating, m,
                                                          m.grid.rating * 2)]), "Grid.rating"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_told(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong(village())


def test_windows_are_never_longer_than_the_market():
    assert lengths_of(96, 18).tolist() == [1] * 18
    assert lengths_of((1, 1, 4, 4, 4, 4, 4), 12).tolist() == [1, 1, 4, 4, 2]
