"""Names of people, devices, buses and lines: what they are called wherever they are told of."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.programs import program
from jaxgne.record import Unnamed, renamed, unnamed
from tests.folders import feeder, same

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def called(market: jg.Market, words: str) -> jg.Market:
    """The market in which all that can have a name has one that begins with `words`."""
    grid = market.grid
    buses, lines = (range(np.shape(a)[0]) for a in (grid.passive, grid.source))
    grid = replace(
        grid,
        names=tuple(f"{words} bus {k}" for k in buses),
        line_names=tuple(f"{words} line {k}" for k in lines),
    )
    return replace(market, grid=grid)


def test_programs_are_for_markets_of_any_names():
    """One program serves a market under two names and under none, and gives back those it had."""

    @program("an echo", once=True)
    def echo(market: jg.Market) -> tuple[jg.market.Grid, jax.Array]:
        assert isinstance(market.grid.names, Unnamed)
        return replace(market.grid, rating=2 * market.grid.rating), market.prosumers.load.sum()

    plain = replace(feeder(), grid=replace(feeder().grid, names=(), line_names=()))
    for market in (called(plain, "old"), called(plain, "new"), plain):
        grid, _ = echo(market)
        assert (grid.names, grid.line_names) == (market.grid.names, market.grid.line_names)
    assert len(echo._found) == 1  # pyright: ignore


def test_names_are_told_apart_by_what_they_are_of():
    """Two grids of the same names stand for one another, one of other names does not."""
    one, other = called(feeder(), "old"), called(feeder(), "new")
    (a, b, c), names = unnamed((one, one, other))
    assert a.grid.names == b.grid.names != c.grid.names
    assert renamed(c, names).grid.names == other.grid.names
    assert jax.tree.structure(unnamed(one)[0]) == jax.tree.structure(unnamed(other)[0])


@pytest.mark.slow
def test_names_change_no_number_and_compile_nothing():
    """All programs of a clearing and a derivative are there, and its sentences tell the names."""
    one, other = called(feeder(), "old"), called(feeder(), "new")
    first = jg.clear(one, runner="jax")
    jax.grad(lambda m: jg.clear(m, runner="jax").costs.sum(), allow_int=True)(one)
    before = len(compiled)
    second = jg.clear(other, runner="jax")
    jax.grad(lambda m: jg.clear(m, runner="jax").costs.sum(), allow_int=True)(other)
    assert len(compiled) == before
    assert same((first.plan, first.prices, first.costs), (second.plan, second.prices, second.costs))
    assert "new bus" in str(second.certificate) and "old" not in str(second.certificate)
