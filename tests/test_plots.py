"""Figures: what they show adds up, and a result that did not clear says so."""

from functools import cache

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch

import jaxgne as jg
from jaxgne import plots

mpl.use("Agg")

DRAW = [plots.prices, plots.voltages, plots.energy]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@cache
def solved() -> tuple[jg.Market, jg.Clearing]:
    """Six prosumers on the feeder, from 10 to 14 o'clock in half hours, to a coarse tolerance."""
    market = jg.ieee37(prosumers=6, hours=8, hour_length=0.5)
    return market, jg.clear(market, tol=1e-4)


def stairs(ax: Axes) -> dict[str, tuple[np.ndarray, ...]]:
    """Label to values, edges and baseline."""
    patches = {str(p.get_label()): p for p in ax.patches if isinstance(p, StepPatch)}
    return {label: tuple(np.asarray(part) for part in p.get_data()) for label, p in patches.items()}


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_a_figure_is_drawn_where_it_is_asked_for(draw):
    """On the given axes or on new ones; hours of 0.5 h end at 8 * 0.5 = 4."""
    market, clearing = solved()
    _, mine = plt.subplots()
    assert draw(market, clearing, ax=mine) is mine
    fresh = draw(market, clearing)
    assert fresh is not mine
    edges = [edges for _, edges, _ in stairs(fresh).values()]
    assert edges and all(edge[0] == 0.0 and edge[-1] == 4.0 for edge in edges)
    assert "NOT" not in fresh.get_title()
    assert fresh.get_ylabel() in ("EUR/kWh", "pu", "kW")


@pytest.mark.parametrize("draw", DRAW, ids=lambda draw: draw.__name__)
def test_a_result_that_did_not_clear_says_so(draw):
    market, _ = solved()
    ax = draw(market, jg.clear(market, max_steps=1, throw=False))
    assert "NOT CLEARED: max_steps" in ax.get_title()


def test_both_stacks_are_equally_high():
    """Own balance summed over prosumers: trades cancel, so what comes in goes out."""
    market, clearing = solved()
    parts = stairs(plots.energy(market, clearing)).values()
    total = sum(values - baseline for values, _, baseline in parts)
    size = max(np.abs(values).max() for values, _, _ in parts)
    assert size > 1.0
    np.testing.assert_allclose(total, 0.0, atol=1e-3 * size)


def test_the_price_band_spans_all_prosumers():
    market, clearing = solved()
    values = np.asarray(jg.energy_prices(market, clearing.prices))
    high, _, low = stairs(plots.prices(market, clearing))["prosumers, lowest to highest"]
    np.testing.assert_allclose(high, values.max(axis=0))
    np.testing.assert_allclose(low, values.min(axis=0))


def test_the_voltage_limits_are_those_of_the_buses_behind_the_feeder():
    """The feeder bus is pinned, so its own limits bind nobody."""
    market, clearing = solved()
    ax = plots.voltages(market, clearing)
    drawn = sorted(float(np.asarray(line.get_ydata())[0]) for line in ax.lines)
    inner = np.delete(np.arange(len(market.grid.voltage_min)), np.asarray(market.grid.feeder))
    expected = market.grid.voltage_min[inner].max(), market.grid.voltage_max[inner].min()
    np.testing.assert_allclose(drawn, expected)


def test_what_does_not_exist_is_not_drawn():
    """Copperplate has no voltages, an infeasible market no prices, a batch no single figure."""
    market, clearing = solved()
    flat = jg.ieee37(prosumers=3, hours=1, grid="copperplate")
    with pytest.raises(ValueError, match="copperplate market has no voltages"):
        plots.voltages(flat, jg.clear(flat, max_steps=1, throw=False))
    impossible = jg.Market(
        jg.Prosumers([0], [[4.0]], import_max=1.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.001, hours=1, base=0.1),
    )
    with pytest.raises(ValueError, match="infeasible market has no prices"):
        plots.prices(impossible, jg.clear(impossible, throw=False))
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), clearing)
    with pytest.raises(ValueError, match="batch of 2 clearings"):
        plots.energy(market, batch)
    assert plt.get_fignums() == []
