"""Lines have names where the grid gives them: in sentences, tables and grids made of it."""

from dataclasses import replace

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import devices, frames, scenarios
from tests import markets

NAMES = ("trunk", "end", "side", "mill")


def named(rating: float) -> jg.Market:
    market = markets.feeder(rating=rating)
    return replace(market, grid=replace(market.grid, line_names=NAMES))


def test_tables_and_certificates_name_lines():
    """Of the lines from 0 the one to bus 1 carries most; a plan of more is beyond its rating."""
    market = named(60.0)
    clearing = jg.clear(market)
    table = frames.lines(market, clearing)
    assert list(table["line"].unique()) == list(NAMES)
    assert f"line {NAMES[0]}" in str(clearing.certificate)
    beyond = replace(clearing.plan, active=clearing.plan.active.at[3].add(500.0))
    found = "\n".join(jg.certify(market, beyond, clearing.prices).violations())
    assert "rating of line mill" in found and "voltage drop of line mill" in found


def test_what_cannot_be_carried_is_named():
    """20 kVA cannot serve what lies behind the trunk: the sentence and the way out name it."""
    with pytest.raises(jg.NotCleared, match=r"line trunk \(0-1\)"):
        jg.clear(named(20.0))
    assert "line trunk (0-1)" in str(jg.relax(named(20.0)))


def test_names_stay_with_their_lines():
    """Sorted anew, behind an inverter's line, padded and in a batch: each line keeps its name."""
    market = named(60.0)
    grid, order = market.grid, np.array([1, 3, 0, 2])
    lines = {
        name: np.asarray(getattr(grid, name))[order]
        for name in ("source", "target", "resistance", "reactance", "rating")
    }
    mixed = replace(grid, **lines, line_names=tuple(NAMES[k] for k in order))
    found = jg.oriented(mixed)
    where = {name: k for k, name in enumerate(found.line_names)}
    assert [int(found.target[where[name]]) for name in NAMES] == [1, 2, 3, 4]
    behind = devices.inverter(market, [0, 2], rating=9.0)
    assert behind.grid.line_names == (*NAMES, "inverter 0", "inverter 2")
    assert scenarios.stack([market, market]).grid.line_names == NAMES
    assert scenarios.stack([market, behind]).grid.line_names == ()
    assert behind.grid.source.shape[0] == len(behind.grid.line_names)
