"""Lines in any order, sorted and turned as `lindistflow` wants them."""

from dataclasses import replace

import numpy as np
import pytest

import jaxgne as jg
from tests import markets


def shuffled(grid: jg.Grid, seed: int) -> jg.Grid:
    """The same lines in another order, some the other way round."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(grid.source))
    turned = rng.uniform(size=len(order)) < 0.5
    source, target = (np.asarray(a)[order] for a in (grid.source, grid.target))
    names = ("resistance", "reactance", "rating")
    return replace(
        grid,
        source=np.where(turned, target, source),
        target=np.where(turned, source, target),
        **{name: np.asarray(getattr(grid, name))[order] for name in names},
    )


def lines(grid: jg.Grid) -> list[tuple[float, ...]]:
    """What each line joins and is, without order and direction."""
    ends = np.sort(np.stack([grid.source, grid.target]), axis=0)
    return sorted(zip(*ends.tolist(), *(np.asarray(a).tolist() for a in own(grid)), strict=True))


def own(grid: jg.Grid) -> tuple:
    return grid.resistance, grid.reactance, grid.rating


@pytest.mark.parametrize("seed", range(4))
def test_lines_are_sorted_and_turned_and_stay_what_they_are(seed: int):
    """`validate` names `oriented` before and finds nothing after; a second time changes nothing."""
    market = jg.ieee37(seed=1)
    mixed = shuffled(market.grid, seed)
    with pytest.raises(ValueError, match=r"Grid\.source.*jg\.oriented\(grid\)"):
        jg.validate(replace(market, grid=mixed))
    found = jg.oriented(mixed)
    jg.validate(replace(market, grid=found))
    assert lines(found) == lines(mixed)
    assert np.array_equal(found.passive, mixed.passive) and found.names == mixed.names
    assert jg.oriented(found) == found


def test_an_oriented_grid_clears_as_the_one_it_was_made_of():
    """Buses keep their voltages, prosumers what they import."""
    market = markets.feeder(voltage_min=0.97, rating=60.0)
    found = jg.oriented(shuffled(market.grid, 3))
    other = replace(market, grid=found)
    one, two = (jg.clear(each, tol=1e-9) for each in (market, other))
    assert np.allclose(one.plan.voltage, two.plan.voltage, atol=1e-7)
    assert np.allclose(one.plan.imports, two.plan.imports, atol=1e-4)
    assert np.allclose(one.prices.bus, two.prices.bus, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "target", "buses"),
    [([0, 1, 2], [1, 2, 0], 3), ([0], [1], 3), ([0, 0, 1], [1, 1, 2], 3), ([0, 2], [1, 3], 4)],
    ids=["loop", "no path", "twins", "island"],
)
def test_a_grid_that_is_no_forest_is_refused(source: list[int], target: list[int], buses: int):
    """No order makes a tree of a loop, or a path to a bus without lines."""
    grid = jg.Grid(np.zeros((buses, 1)), source, target, 1e-4, 1e-4)
    with pytest.raises(ValueError, match=r"oriented: Grid\.source/target: give a radial grid"):
        jg.oriented(grid)
