"""Hot spots of a grid, and whether what they say would relieve them does."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxgne as jg
from jaxgne import frames
from jaxgne.tight import spots
from jaxgne.uncontrolled import today
from tests.markets import feeder


def overloaded() -> jg.Market:
    """Line 1 and bus 2 behind it are beyond their limits where nobody heeds them."""
    return eqx.tree_at(
        lambda m: (m.grid.rating, m.grid.voltage_min, m.buffers.charge_max),
        feeder(),
        (jnp.asarray([90.0, 12.0, 30.0, 20.0]), jnp.full(5, 0.98), jnp.zeros((1, 3))),
    )


def test_the_worst_come_first_with_their_step():
    market = replace(overloaded(), clock=jg.Clock("2026-01-20T18:00", "Europe/Berlin"))
    clearing = today(market)
    table, ac = frames.hot_spots(market, clearing, top=2), clearing.certificate.ac
    assert ac is not None
    assert table["what"].tolist() == ["line", "line", "bus", "bus"]
    line, bus = (table[table.what == what].iloc[0] for what in ("line", "bus"))
    assert line.loading_percent == pytest.approx(100 * float(ac.loading))
    assert 3 * int(line["name"]) + line.step == int(ac.loading_place)
    assert bus.beyond_pu == pytest.approx(float(ac.excess))
    assert 3 * int(bus["name"]) + bus.step == int(ac.excess_place)
    assert line.time == pd.Timestamp("2026-01-20T18:00", tz="Europe/Berlin") + pd.Timedelta(
        hours=line.hour
    )
    every = spots(market, clearing.plan, 99)
    hours = np.nansum(every["hours_over_80_percent"])
    assert hours == pytest.approx(float(ac.tight))
    assert np.nansum(every["hours_outside_limits"]) == pytest.approx(float(ac.outside))


@pytest.mark.parametrize("what", ["line", "bus"])
def test_so_much_less_power_relieves(what: str):
    """Taken off the load at bus 2: the line is at its rating, the voltage at its limit."""
    market = overloaded()
    clearing = today(market)
    table = frames.hot_spots(market, clearing)
    row = table[table.what == what].iloc[0]
    assert row["name"] == {"line": "1", "bus": "2"}[what]
    assert row.relief_kw > 1.0
    load = market.prosumers.load.at[1, row.step].add(-row.relief_kw)
    eased = eqx.tree_at(lambda m: m.prosumers.load, market, load)
    state = jg.ac_power_flow(eased, clearing.plan)
    if what == "line":
        assert float(state.current[1, row.step]) == pytest.approx(12.0, rel=0.01)
    else:
        assert float(state.voltage[2, row.step]) == pytest.approx(0.98, abs=3e-4)


def test_without_a_grid_there_are_none():
    market = overloaded()
    flat = replace(market, grid=jg.Grid(market.grid.passive, model="copperplate"))
    assert frames.hot_spots(flat, today(flat)).empty


def test_ratings_in_ampere_are_those_that_currents_are_held_to():
    """Three phases of 270 A at 0.4 kV are 187 kVA; a line at its rating carries its ampere."""
    assert float(jg.grids.rating(270, kv=0.4)) == pytest.approx(3 * 270 * 0.4 / np.sqrt(3))
    np.testing.assert_allclose(jg.grids.ampere(jg.grids.rating([270, 142], 0.4), 0.4), [270, 142])
    market = overloaded()
    market = eqx.tree_at(
        lambda m: m.grid.rating, market, jnp.asarray(jg.grids.rating([130, 20, 40, 30], kv=0.4))
    )
    clearing = today(market)
    table = frames.lines(market, clearing, kv=0.4)
    assert table["rating_a"][:3].tolist() == pytest.approx([130.0] * 3)
    share = table["ac_current_a"] / table["rating_a"]
    np.testing.assert_allclose(100 * share, table["ac_loading_percent"])
    assert "rating_a" not in frames.lines(market, clearing)
    for wrong in ((-1.0, 0.4), (270, 0.0), (np.nan, 0.4)):
        with pytest.raises(ValueError, match="rating: "):
            jg.grids.rating(*wrong)
