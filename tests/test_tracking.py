"""Tracking an equilibrium that moves: what theory says of it, and what the grid would see."""

from functools import cache
from typing import Any

import equinox as eqx
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import frames, scenarios
from jaxgne.tracking import Tracking, _track
from tests.markets import one_bus

SOLVERS = {"mechanism": (jg.SemiDecentralized(), 10), "primal-dual": (jg.PrimalDual(), 40)}


def line() -> jg.Market:
    """A generator of 12 kW at the end of a line that takes 6 kW of a load of 10: v^2 = 1 - 2 r p.

    Below 0.97 pu, which is 5.91 kW over the line, the generator's own power is called for.
    """
    return jg.Market(
        jg.Prosumers([1], [[10.0]]),
        jg.Grid([[0.0], [0.0]], [0], [1], 5e-3, 1e-3, rating=6.0, voltage_min=0.97),
        jg.Tariff(0.004, hours=1, base=0.1),
        jg.Generators([0], 12.0, hours=1, quadratic=0.006, linear=0.2),
    )


def turning(market: jg.Market, speed: float, instants: int = 40) -> jg.Market:
    """Loads that rise and fall by `speed`, once in 20 instants."""
    turn = np.sin(2 * np.pi * np.arange(instants) / 20)[:, None, None]
    load = np.asarray(market.prosumers.load)
    return scenarios.sweep(market, lambda m: m.prosumers.load, load * (1 + speed * turn))


@cache
def tracked(speed: float, rounds: int) -> Tracking:
    return jg.track(turning(one_bus(), speed), jg.SemiDecentralized(), rounds=rounds)


def settled(found: Tracking) -> float:
    """The largest distance once the start is forgotten."""
    return float(np.max(np.asarray(found.distance)[20:]))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_market_that_stands_still_is_cleared_as_by_the_solver_alone(name: str):
    """The same errors as `trace` has, number by number."""
    solver, rounds = SOLVERS[name]
    market = one_bus()
    found = jg.track([market] * 6, solver, rounds=rounds)
    alone = jg.trace(market, solver, steps=6 * rounds, every=rounds)
    np.testing.assert_allclose(found.error, alone.error, rtol=1e-9, atol=1e-15)
    assert found.distance[-1] < 0.1 * found.distance[0]
    np.testing.assert_allclose(found.drift, 0.0)


def test_the_distance_falls_with_rounds_and_is_linear_in_how_fast_the_market_moves():
    """Half the speed, half the distance: rho^k / (1 - rho^k) times the drift, to 20 %."""
    slow, fast = tracked(0.04, 10), tracked(0.08, 10)
    assert settled(fast) == pytest.approx(2 * settled(slow), rel=0.2)
    moved = [float(np.max(np.asarray(found.drift))) for found in (slow, fast)]
    assert moved[1] == pytest.approx(2 * moved[0], rel=0.2)
    by_rounds = [settled(tracked(0.08, rounds)) for rounds in (3, 10, 30, 100)]
    assert np.all(np.diff(by_rounds) < 0)
    assert by_rounds[-1] < 1e-2 * by_rounds[0]
    assert tracked(0.08, 30).total_regret[-1] < tracked(0.08, 3).total_regret[-1]


@pytest.mark.parametrize("name", SOLVERS)
def test_with_many_rounds_it_is_at_the_equilibrium_of_each_instant(name: str):
    """Imports, total and prices are those of `clear`."""
    solver, _ = SOLVERS[name]
    markets = turning(one_bus(), 0.2, 5)
    found = jg.track(markets, solver, rounds=2000)
    assert np.max(found.distance) < 1e-5
    assert np.max(found.error) < 1e-5
    exact = jg.clear_many(markets, tol=1e-9)
    np.testing.assert_allclose(found.plan.imports, exact.plan.imports, atol=1e-3)
    one, other = (jg.model.energy_prices(markets, each.prices) for each in (found, exact))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_other_numbers_compile_nothing():
    """Neither other loads nor other rounds."""
    tracked(0.08, 10)
    before = len(_track._found)
    tracked(0.05, 7)
    assert len(_track._found) == before


def test_violations_are_those_of_what_devices_do():
    """One round after the load has risen the line carries what the generator does not make yet.

    The load of 5 kW becomes one of 10: 10 kW less the generator's own are drawn at bus 1.
    """
    calm = eqx.tree_at(lambda m: m.prosumers.load, line(), np.full((1, 1), 5.0))
    found = jg.track([calm] * 20 + [line()] * 60, jg.SemiDecentralized(), rounds=1)
    power = 10.0 - np.asarray(found.plan.generation)[20:, 0, 0]
    np.testing.assert_allclose(found.line[20:], np.maximum(power - 6.0, 0.0), atol=1e-6)
    volts = np.sqrt(1 - 2 * 5e-3 * power)
    np.testing.assert_allclose(found.voltage[20:], np.maximum(0.97 - volts, 0.0), atol=1e-8)
    assert found.line[20] > 1.0 and found.voltage[20] > 1e-3
    assert found.line[-1] < 1e-2 and found.voltage[-1] < 1e-4


def test_an_instant_without_an_equilibrium_has_no_distance():
    """The rest has: what is asked there does not stop the solver for good."""
    market = one_bus()
    least = eqx.tree_at(lambda m: m.tariff.total_max, market, np.full(3, 1.0))
    found = jg.track([market, least, market], jg.SemiDecentralized(), rounds=10)
    np.testing.assert_array_equal(found.ok, [True, False, True])
    np.testing.assert_array_equal(np.isnan(found.distance), [False, True, False])
    assert "1 instants have no equilibrium" in str(found)


def test_it_prints_and_is_a_table():
    found = tracked(0.08, 10)
    lines = str(found).splitlines()
    assert lines[0] == "40 instants, 10 rounds of SemiDecentralized() at each"
    assert f"{found.distance[-1]:.3g}" in lines[2]
    table = frames.tracking(found)
    np.testing.assert_allclose(table.total_regret_eur, np.cumsum(found.regret))
    assert len(table) == 40


def shifted(market: jg.Market) -> jg.Market:
    return eqx.tree_at(lambda m: m.buffers.owner, market, np.array([0]))


WRONG: dict[str, tuple[str, Any]] = {
    "one market": ("as a batch with one leading axis", lambda: jg.track(one_bus(), rounds=1)),
    "no rounds": ("rounds=0", lambda: jg.track([one_bus()] * 2, rounds=0)),
    "other rows": (
        "Buffers.owner of instant 1 is not that of instant 0",
        lambda: jg.track([one_bus(), shifted(one_bus())], rounds=1),
    ),
    "no markets": ("no markets; give at least one", lambda: jg.track([], rounds=1)),
    "other equilibria": (
        "equilibria of",
        lambda: jg.track([one_bus()] * 2, rounds=1, equilibria=jg.clear(one_bus())),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused(name: str):
    words, ask = WRONG[name]
    with pytest.raises(ValueError, match=words):
        ask()
