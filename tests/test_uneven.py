"""Steps of unlike length: kWh are kWh at any length, and labels say when each begins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.clock import hour_name, hours_of, step_at, times
from jaxgne.record import changed
from tests.agreement import SOLVERS, check_agreement
from tests.infeasible import SMALL
from tests.markets import feeder, random_market
from tests.reference import solve

LENGTHS = np.array([0.25, 0.5, 2.0, 1.0])


def uneven(seed: int = 0, **options) -> jg.Market:
    """A random market of four steps of these lengths; it is feasible for the seeds used here.

    What buffers keep, take and give differs from step to step, too.
    """
    market = random_market(seed, shape=SMALL, **options)
    stores, count = market.buffers, len(market.buffers.owner)
    ways = np.array([1.0, 0.9, 0.95, 0.99])
    shares = stores.charge_efficiency * ways, stores.discharge_efficiency * ways[::-1]
    return eqx.tree_at(
        lambda m: (
            *(m.hour_length, m.buffers.retention),
            *(m.buffers.charge_efficiency, m.buffers.discharge_efficiency),
        ),
        market,
        (jnp.asarray(LENGTHS), jnp.full((count, 1), 0.98) ** LENGTHS, *shares),
    )


def doubled(market: jg.Market) -> jg.Market:
    """Each step cut in two of half the length; what buffers lose, and bounds, are by step's end."""
    twice = dict.fromkeys(("energy_min", "energy_max"))

    def cut(field):
        values = np.repeat(np.asarray(field.find(market)), 2, axis=-1)
        own = field.name.split(".")[1]
        if own in twice:  # bounds hold at the end of the whole step alone
            values[:, ::2] = -1e3 if own == "energy_min" else 1e3
        return jnp.asarray(values / 2 if own in ("hour_length", "drain") else values)

    fields = [field for field in jg.market.FIELDS.values() if field.timed(market)]
    where = [field.find for field in fields]
    return eqx.tree_at(lambda m: [f(m) for f in where], market, [cut(f) for f in fields])


@pytest.mark.parametrize("seed", range(1, 6))
def test_costs_are_those_of_the_same_hours_cut_in_two(seed: int):
    """With data that are constant within steps, without losses over time and with bounds on
    contents at the ends of steps alone, both halves do the same: potential and J_i are the same."""
    market = uneven(seed)
    market = eqx.tree_at(lambda m: m.buffers.retention, market, jnp.ones((2, 1)))
    one, two = (jg.clear(m, tol=1e-9, throw=False) for m in (market, doubled(market)))
    assert bool(one.ok) and bool(two.ok)
    whole = jg.model.potential(market, one.plan)
    half = jg.model.potential(doubled(market), two.plan)
    assert float(whole) == pytest.approx(float(half), rel=1e-6)
    np.testing.assert_allclose(np.repeat(one.aggregate, 2), two.aggregate, atol=1e-4)


@pytest.mark.parametrize(
    ("seed", "solver"),
    [
        pytest.param(seed, solver, marks=[pytest.mark.slow] if seed > least else [])
        for solver in SOLVERS
        for least in (5 if solver == "interior point" else 1,)
        for seed in (1, 2, 5)
    ],
)
def test_solvers_find_what_the_oracle_finds(seed: int, solver: str):
    grid = {1: "lindistflow", 2: "copperplate", 5: "paper with reactive power"}[seed]
    market = uneven(seed, grid=grid)
    truth = solve(market)
    assert truth.status == "solved"
    by, tol, most = SOLVERS[solver]
    check_agreement(market, jg.clear(market, by, tol=tol, max_steps=most), truth)


@pytest.mark.slow
def test_derivatives_by_the_length_of_a_step_are_those_of_differences():
    """Of the potential, forward, reverse and by NumPy, against central differences."""
    market = eqx.tree_at(lambda m: m.hour_length, feeder(), jnp.asarray([0.5, 2.0, 1.0]))

    def least(length, runner=None):
        here = eqx.tree_at(lambda m: m.hour_length, market, length)
        return jg.model.potential(here, jg.clear(here, tol=1e-10, runner=runner).plan)

    base, step = market.hour_length, 1e-4
    differences = [
        (least(base.at[h].add(step)) - least(base.at[h].add(-step))) / (2 * step) for h in range(3)
    ]
    np.testing.assert_allclose(jax.grad(least)(base), differences, rtol=1e-5, atol=1e-6)
    compiled = jax.grad(lambda a: least(a, "jax"))(base)
    np.testing.assert_allclose(compiled, differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["retention", "charge_efficiency", "discharge_efficiency"])
def test_derivatives_by_what_buffers_keep_and_take_are_those_of_differences(name: str):
    """In each step, of the potential, by NumPy."""
    market = uneven(1, grid="lindistflow")
    base = 0.999 * getattr(market.buffers, name) * jnp.ones(4)

    def least(shares):
        here = changed(market, buffers=changed(market.buffers, **{name: shares}))
        return jg.model.potential(here, jg.clear(here, tol=1e-10, runner="numpy").plan)

    slopes, step = jax.grad(least)(base), 1e-5
    for k in range(len(base)):
        for h in range(4):
            ends = least(base.at[k, h].add(step)), least(base.at[k, h].add(-step))
            np.testing.assert_allclose(
                slopes[k, h], (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-5
            )


def test_steps_are_called_by_when_they_begin():
    """Quarters and halves of an hour, then two hours: 0, 0.25, 0.75 and 2.75 hours on."""
    market = uneven(0)
    assert hours_of(market).tolist() == [0.0, 0.25, 0.75, 2.75]
    assert hour_name(market, 3) == "hour 2.75"
    assert step_at(market, 0.75) == 2
    begins = jg.Clock("2025-03-30T01:00", "Europe/Berlin")
    known = changed(market, clock=begins)
    assert [f"{at:%H:%M}" for at in times(known)] == ["01:00", "01:15", "01:45", "04:45"]
    with pytest.raises(ValueError, match=r"no step begins then; give one from hour 0 to hour 2.75"):
        step_at(market, 1.0)


def test_a_device_goes_by_the_length_of_its_steps():
    """Plugged in from 0:45 to 3:45, the last two of four steps; the tank gives 2 kW always."""
    options = {"hours": 4, "hour_length": LENGTHS}
    car = jg.devices.vehicle(
        0, power=7, capacity=50, arrival=0.75, departure=3.75, start=0.5, due=0.6, **options
    )
    assert (np.asarray(car.charge_max) > 0).tolist() == [[False, False, True, True]]
    tank = jg.devices.electrolyser(0, power=9, tank=99, demand=2.0, **options)
    assert np.asarray(tank.drain).tolist() == [[0.5, 1.0, 4.0, 2.0]]
    with pytest.raises(ValueError, match=r"between two steps of 0.25 to 2 h"):
        jg.devices.vehicle(0, power=7, capacity=50, arrival=1.0, departure=3.75, **options)
    grid, tariff = jg.Grid([[0.0] * 4], model="copperplate"), jg.Tariff(0.01, hours=4)
    people = jg.Prosumers([0], [[1.0] * 4])
    assert jg.Market(people, grid, tariff, buffers=car, hour_length=LENGTHS).buffers.made is None
    with pytest.raises(ValueError, match=r"made for steps of 0.25 to 2 h, the market's are 1 h"):
        jg.Market(people, grid, tariff, buffers=car)


def test_folders_keep_the_length_of_each_step(tmp_path):
    """As a column of tariff.csv, bit by bit; a folder that says it twice is refused."""
    market = eqx.tree_at(lambda m: m.hour_length, uneven(1), jnp.asarray(LENGTHS / 3))
    jg.save(tmp_path / "a", market, jg.clear(market))
    loaded, clearing = jg.load(tmp_path / "a")
    assert np.array_equal(loaded.hour_length, market.hour_length)
    assert clearing is not None
    assert np.array_equal(clearing.certificate.hour_length, market.hour_length)
    head = tmp_path / "a" / "market.json"
    head.write_text(head.read_text().replace('"dtype"', '"hour_length_h": 1.0,\n  "dtype"'))
    with pytest.raises(ValueError, match=r"'hour_length_h' stands in tariff.csv too; keep one"):
        jg.load(tmp_path / "a")


def test_what_needs_steps_of_one_length_says_so():
    with pytest.raises(ValueError, match=r"days: steps of 0.25 to 2 h"):
        jg.scenarios.days(uneven(0), load=np.ones((4, 8)))
    market = feeder()
    with pytest.raises(ValueError, match=r"Market.hour_length: shape \(2,\) does not fit"):
        jg.Market(market.prosumers, market.grid, market.tariff, hour_length=[1.0, 2.0])
