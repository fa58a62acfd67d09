"""How wrong forecasts may be: closed forms, and errors that are drawn and break nothing."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import scenarios
from jaxgne.acflow import drawn
from jaxgne.linear_flow import grid_state
from jaxgne.margins import Errors, margins, tightened, with_errors
from jaxgne.record import changed
from jaxgne.robust import Robustness, outlay
from tests.markets import feeder

FINE = 1e-3  # to which radii are found


def one(load: Any, base: Any, *, slope: float = 0.0, **people: Any) -> jg.Market:
    """One prosumer that buys what it needs, and nothing else."""
    hours = len(load)
    return jg.Market(
        jg.Prosumers([0], [load], **people),
        jg.Grid([[0.0] * hours], model="copperplate"),
        jg.Tariff(slope, hours=hours, base=base, export=0.0),
    )


def lit() -> tuple[jg.Market, np.ndarray]:
    """Five buses, four prosumers with sun of their own, two generators and a battery."""
    market = feeder(voltage_min=0.96)
    return market, np.maximum(-np.asarray(market.prosumers.load), 0.0) + 3.0


@cache
def found(budget: float) -> Robustness:
    market, sun = lit()
    return jg.robustness(market, budget, generation=sun, precision=1e-2)


CLOSED: dict[str, tuple[jg.Market, float, Any, float]] = {
    # 0.2 * 4 + 0.3 * 2 = 1.4 EUR, a share a more of both
    "load": (one([4.0, 2.0], [0.2, 0.3]), 1.75, None, 0.25),
    # 5 kW of load, 2 kW of sun: 0.2 (3 + 7 a) = 0.95
    "sun": (one([3.0], [0.2]), 0.95, 2.0, 0.25),
    # (0.1 + 0.1 L) L at L = 4 (1 + a): 3.0 at L = 5
    "rising price": (one([4.0], [0.1], slope=0.1), 3.0, None, 0.25),
    # paid for what is drawn in hour 1, so less of it is dear: 1.2 (1 + a) - 0.2 (1 - a) = 1.35
    "a price below 0": (one([4.0, 2.0], [0.3, -0.1]), 1.35, None, 0.25),
    # of 5 kW that may be imported 4 are: no plan beyond
    "a limit": (one([4.0], [0.1], import_max=5.0), 99.0, None, 0.25),
    "too dear as foreseen": (one([4.0], [0.1]), 0.3, None, 0.0),
}


@pytest.mark.parametrize("name", CLOSED)
def test_radii_that_are_known(name: str):
    """Budgets in closed form; what ends the radius is told."""
    market, budget, sun, radius = CLOSED[name]
    told = jg.robustness(market, budget, generation=sun)
    assert radius - FINE <= told.radius <= radius + 1e-6
    ends = "it may import" if name == "a limit" else "budget: "
    assert ends in told.ended and told.ended in str(told)
    if radius and name != "a limit":
        # 5 (1 - a) kW of load take no more than 2 (1 + a) kW of sun: a is 3 / 7 at most
        assert told.limits == (1.0 if sun is None else pytest.approx(3 / 7, abs=FINE))
        assert told.safe == 1.0
        assert told.worst_bill == pytest.approx(budget, rel=1e-2)
        assert float(told.worst_errors.load[0, 0]) == pytest.approx(told.radius)
    if name == "a price below 0":
        assert float(told.worst_errors.load[0, 1]) == pytest.approx(-told.radius)


def test_by_default_a_tenth_more_may_be_paid():
    told = jg.robustness(one([4.0, 2.0], [0.2, 0.3]), common=True)
    assert told.budget == pytest.approx(1.1 * 1.4)
    assert told.radius == pytest.approx(0.1, abs=FINE)
    assert told.worst_errors.load.shape == (1, 2)


def test_programs_find_what_numpy_does():
    """Sizes are then tried eight at once, in batches of one width."""
    market = one([4.0, 2.0], [0.2, 0.3])
    told = jg.robustness(market, 1.75, solver=jg.InteriorPoint())
    assert told.radius == pytest.approx(0.25, abs=FINE)
    assert told.limits == told.safe == 1.0


def test_no_error_within_the_radius_breaks_anything():
    """Drawn anywhere in the box, and at its corners; the worst that was found is not exceeded."""
    market, sun = lit()
    told = found(20.0)
    assert 0 < told.radius < 0.3 and "budget" in told.ended
    draw = np.random.default_rng(1)
    inside = draw.uniform(-1, 1, (2, 12, *sun.shape))
    corners = draw.choice([-1.0, 1.0], (2, 12, *sun.shape))
    signs = told.radius * np.concatenate([inside, corners], axis=1)
    errors = [Errors(*map(jnp.asarray, each)) for each in zip(*signs, strict=True)]
    markets = scenarios.stack([with_errors(market, jnp.asarray(sun), each) for each in errors])
    cleared = jg.clear_many(markets, runner="numpy")
    assert cleared.ok.all()
    paid = np.array([outlay(*scenarios.lane((markets, cleared), k)) for k in range(24)])
    assert paid.max() <= told.worst_bill * (1 + 1e-5)
    assert told.worst_bill <= 20.0 * (1 + 1e-5)


def test_the_worst_error_is_that_of_all_corners():
    """Of 2^6 corners of a small market, with a generator and a rising price, none costs more."""
    market = eqx.tree_at(
        lambda m: m.prosumers.load, small(), np.array([[3.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    )
    told = jg.robustness(market, precision=1e-2)
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T.reshape(-1, 3, 2)
    nothing = jnp.zeros((3, 2))
    errors = [Errors(jnp.asarray(told.radius * e), nothing) for e in signs]
    markets = scenarios.stack([with_errors(market, nothing, e) for e in errors])
    cleared = jg.clear_many(markets, tol=1e-8, runner="numpy")
    paid = [float(outlay(*scenarios.lane((markets, cleared), k))) for k in range(len(signs))]
    assert told.worst_bill == pytest.approx(max(paid), rel=1e-5)


def small() -> jg.Market:
    return jg.Market(
        jg.Prosumers([0, 0, 0], np.ones((3, 2))),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=2, base=[0.1, 0.2]),
        jg.Generators([1], 2.0, hours=2, quadratic=0.01, linear=0.1),
        trading=jg.Trading([0, 1], [1, 2], limit=10.0, toll=0.02),
    )


def test_a_larger_budget_has_no_smaller_radius():
    radii = [found(budget).radius for budget in (18.5, 20.0, 30.0, 1000.0)]
    assert np.all(np.diff(radii) >= 0) and radii[0] < radii[2]
    assert found(1000.0).radius == found(1000.0).limits
    assert "get rid of its surplus" in found(1000.0).ended


def test_a_plan_for_tightened_limits_is_safe():
    """Devices as planned, errors of any kind up to `safe`: flows and voltages by the grid's model.

    At the corner that draws most the lowest voltage is what it may be, as margins are exact.
    """
    market, sun = lit()
    told = found(20.0)
    assert told.safe > 0.1 and "voltage_min" in told.safe_ended
    plan = jg.clear(told.tightened, tol=1e-8).plan
    grid = market.grid
    draw = np.random.default_rng(2)
    signs = draw.uniform(-1, 1, (100, 2, *sun.shape))
    signs[:50] = np.sign(signs[:50])
    signs[0], signs[1] = (np.array([s, -s])[:, None, None] for s in (1.0, -1.0))
    lowest = []
    for load, shine in told.safe * signs:
        errors = Errors(jnp.asarray(load), jnp.asarray(shine))
        real = with_errors(market, jnp.asarray(sun), errors)
        state = grid_state(real, *drawn(real, plan))
        volts = np.sqrt(np.asarray(state["voltage"]))[1:]
        assert np.all(volts >= np.asarray(grid.voltage_min)[1:, None] - 1e-7)
        assert np.all(volts <= np.asarray(grid.voltage_max)[1:, None] + 1e-7)
        flow = np.hypot(state["active"], state["reactive"])
        assert np.all(flow <= np.asarray(grid.rating)[:, None] + 1e-6)
        lowest.append(volts.min())
    assert min(lowest) == lowest[0] == pytest.approx(0.96, abs=2e-3)


def two_buses() -> jg.Market:
    """A house of 10 kW and 2 kvar net of 4 kW of sun, another of 5 kW, both behind one line."""
    return jg.Market(
        jg.Prosumers([1, 1], [[10.0], [5.0]], [[2.0], [0.0]]),
        jg.Grid([[0.0], [1.0]], [0], [1], 1e-3, 2e-3, rating=40.0),
        jg.Tariff(0.004, hours=1, base=0.1, total_max=50.0),
    )


def test_margins_are_those_of_one_line():
    """Squared voltage falls by 2 (r p + x q): loads of 14 and 5 kW, 2 kvar and sun of 4 kW."""
    sun = [[4.0], [0.0]]
    less = margins(two_buses(), 0.1, generation=sun)
    np.testing.assert_allclose(less.total, [0.1 * 23])
    np.testing.assert_allclose(less.line, [0.1 * np.hypot(23, 2)])
    np.testing.assert_allclose(less.voltage_min, [0, 0.1 * 2 * (1e-3 * 23 + 2e-3 * 2)])
    tight = tightened(two_buses(), less)
    np.testing.assert_allclose(tight.grid.voltage_min[1] ** 2, 0.95**2 + less.voltage_min[1])
    np.testing.assert_allclose(tight.grid.voltage_max[1] ** 2, 1.05**2 - less.voltage_max[1])
    np.testing.assert_allclose(tight.tariff.total_max, [50 - 2.3])


def test_errors_that_all_have_in_common_are_as_bad_on_a_balanced_feeder():
    """Whoever draws more lowers every voltage behind it, so none makes up for another."""
    each, common = (
        margins(two_buses(), 0.1, generation=[[4.0], [0.0]], common=c) for c in (False, True)
    )
    jax.tree.map(np.testing.assert_allclose, each, common)


def test_errors_that_all_have_in_common_make_up_for_one_another():
    """2 kvar of one and -2 of the other: apart 4 may come together, in common never any."""
    opposite = changed(two_buses().prosumers, reactive=jnp.asarray([[2.0], [-2.0]]))
    market = changed(two_buses(), prosumers=opposite)
    each, common = (
        margins(market, 0.1, generation=[[4.0], [0.0]], common=c) for c in (False, True)
    )
    np.testing.assert_allclose(each.line, [0.1 * np.hypot(23, 4)])
    np.testing.assert_allclose(common.line, [0.1 * 23])


def test_numbers_of_errors_are_told():
    market = two_buses()
    moved = with_errors(
        market, jnp.asarray([[4.0], [0.0]]), Errors(jnp.full((2, 1), 0.1), jnp.full((2, 1), -0.5))
    )
    np.testing.assert_allclose(moved.prosumers.load, [[14 * 1.1 - 2.0], [5.5]])
    np.testing.assert_allclose(moved.prosumers.reactive, [[2.2], [0.0]])


def looped() -> jg.Market:
    grid = jg.Grid([[0.0]] * 3, [0, 1, 0], [1, 2, 2], 1e-3, 1e-3, model="paper")
    return jg.Market(jg.Prosumers([1], [[1.0]]), grid, jg.Tariff(0.01, hours=1, base=0.1))


WRONG: dict[str, tuple[str, Any]] = {
    "loops": ("1 lines close loops", lambda: jg.robustness(looped())),
    "sun": ("part of its sun is unknown", lambda: jg.robustness(feeder())),
    "most": ("most=2; give a share", lambda: jg.robustness(two_buses(), most=2.0)),
    "error": ("error=-1; give a share", lambda: margins(two_buses(), -1.0)),
    "starts": ("starts=0", lambda: jg.robustness(two_buses(), starts=0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused(name: str):
    words, ask = WRONG[name]
    with pytest.raises(ValueError, match=words):
        ask()


def test_what_is_traced_is_refused():
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda m: jg.robustness(m).radius)(two_buses())
