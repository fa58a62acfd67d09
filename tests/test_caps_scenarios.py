"""Caps in batches: stacked, padded, swept, perturbed, cut into days, placed, tuned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.coordinates import names_of, with_fields
from jaxgne.padding import pad
from tests.capped import capped_market
from tests.markets import random_market


def test_rows_added_count_nothing():
    """More terms, prosumers and devices leave plan and prices of caps as they were."""
    market = capped_market()
    wide = pad(market, prosumers=5, generators=4, buffers=5, terms=30)
    assert wide.caps.cap.shape == (30,) and float(jnp.abs(wide.caps.weight[24:]).max()) == 0
    jg.validate(wide)
    one: Any = jg.clear(market, tol=1e-9)
    other: Any = jg.clear(wide, tol=1e-9)
    np.testing.assert_allclose(other.plan.level, one.plan.level, atol=1e-4)
    np.testing.assert_allclose(other.prices.cap, one.prices.cap, atol=1e-4)


def test_markets_of_other_terms_are_stacked():
    """Carbon of all and of one, side by side; other caps are refused by name."""
    base = random_market(0)
    every, one = (
        jg.capped(base, jg.caps.carbon(base, 100.0, grid=0.4, members=who)) for who in (None, [0])
    )
    both = jg.scenarios.stack([every, one])
    assert both.caps.weight.shape == (2, *every.caps.weight.shape)
    ramp = jg.capped(base, jg.caps.ramp(base, 5.0))
    with pytest.raises(ValueError, match=r"market 1 has caps \('ramp',\), market 0 \('carbon',\)"):
        jg.scenarios.stack([every, ramp])


def test_a_swept_limit_has_a_price_that_rises_as_it_tightens():
    market = capped_market()
    most = np.asarray(market.caps.level_max)
    limits = np.stack(
        [np.where(np.arange(7)[:, None] == 0, s * most, most) for s in (1.0, 1.03, 2.0)]
    )
    days = jg.scenarios.sweep(market, lambda m: m.caps.level_max, limits)
    many: Any = jg.clear_many(days)
    assert np.all(many.ok)
    carbon = np.asarray(many.prices.cap)[:, 0, 0]
    assert carbon[0] > carbon[1] > carbon[2] - 1e-6
    alone: Any = jg.clear(jg.scenarios.lane(days, 0))
    assert carbon[0] == pytest.approx(float(alone.prices.cap[0, 0]), rel=1e-3)


def test_what_is_counted_beside_the_terms_moves_with_the_passive_load():
    """Twice the passive load in the first hour emits twice as much there."""
    base = random_market(0)
    market = jg.capped(base, jg.caps.carbon(base, 100.0, grid=0.4))
    load, passive = (np.asarray(a) for a in (base.prosumers.load, base.grid.passive))
    more = passive * np.where(np.arange(6) == 0, 2.0, 1.0)
    twice: Any = {
        "reactive": np.tile(base.prosumers.reactive, 2),
        "curtail_max": np.tile(base.prosumers.curtail_max, 2),
        "export_max": np.tile(base.prosumers.export_max, 2),
        "passive": np.hstack([passive, more]),
        "passive_reactive": np.tile(base.grid.passive_reactive, 2),
    }
    days = jg.scenarios.days(market, np.tile(load, 2), **twice)
    np.testing.assert_allclose(days.caps.base[1, 0, 0], 2 * market.caps.base[0, 0])
    np.testing.assert_allclose(days.caps.base[1, 0, 1:], market.caps.base[0, 1:])
    noisy = jg.scenarios.perturb(market, jax.random.key(0), 3, load=0.2)
    emitted = 0.4 * np.asarray(noisy.grid.passive).sum(axis=1)
    np.testing.assert_allclose(noisy.caps.base[:, 0], emitted, rtol=1e-6)


def test_caps_are_on_every_device():
    """A market cut by prosumer has its caps whole, and clears to the same prices."""
    market = capped_market()
    placed = jg.spread(market, "prosumers", jax.devices()[:1])
    np.testing.assert_array_equal(placed.caps.weight, market.caps.weight)
    assert placed.caps.names == market.caps.names


def test_a_limit_may_be_tuned():
    """Names say what is tuned, bounds hold it."""
    market = capped_market()
    assert names_of(market, lambda m: m.caps.price) == ["Caps.price"]
    dearer = with_fields(market, lambda m: m.caps.price, 2 * market.caps.price)
    assert float(dearer.caps.price[3]) == pytest.approx(0.6)
