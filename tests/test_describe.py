"""A market in a few lines, and what a batch or a trace prints instead."""

import jax
import pytest

import jaxgne as jg
from jaxgne.describe import describe
from tests.good import GOOD, batch, good


@pytest.mark.parametrize("name", GOOD)
def test_a_market_describes_itself(name):
    market = GOOD[name]()
    text = describe(market)
    assert f"{len(market.prosumers.bus)} at" in text
    assert market.grid.model.name in text
    assert "Nash" in text


def test_a_description_has_totals_with_units():
    """12 kW of load and 4 kW of passive demand over 4 hours of 1 h: 64 kWh; 2 kW surplus: 8 kWh."""
    text = describe(good())
    assert "peak 16 kW, 64 kWh (passive: peak 4 kW, 16 kWh)" in text
    assert "peak 2 kW, 8 kWh" in text
    assert "3 lines rated 100 kVA" in text
    assert "export at 0.05 EUR/kWh" in text


def test_a_batch_and_a_trace_describe_their_shapes():
    assert "(8, 4, 4)" in describe(batch(8))
    seen = []
    jax.jit(lambda market: seen.append(describe(market)))(good())
    assert "Prosumers.load" in seen[0]
    assert "shapes only" in describe(jax.tree.map(lambda a: None, good()))


def test_a_grid_in_three_phases_is_told_by_buses_and_phases():
    told = describe(jg.ieee13(prosumers=5, hours=1))
    assert "lindist3flow, 15 buses of 38 phases, 5 terminals between them, 35 conductors" in told
    assert "phases or terminals" in told
