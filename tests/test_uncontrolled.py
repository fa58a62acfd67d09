"""Today as it is: habits of devices by hand, balances, limits, and what a market makes of it."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import devices, model, scenarios
from jaxgne.comparison import outcome
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from jaxgne.uncontrolled import habits, plan_today, today
from jaxgne.unmet import unmet
from tests.markets import SHAPES, feeder, many_devices, random_caps, random_market


def house(load: Any, buffers: Any = None, generators: Any = None, **options: Any) -> jg.Market:
    """One prosumer on a copperplate at a flat price of 0.3 EUR/kWh."""
    load = np.atleast_2d(np.asarray(load, float))
    steps = load.shape[1]
    bus = np.zeros(len(load), int)
    slope, base = options.pop("slope", 0.0), options.pop("base", 0.3)
    length = options.pop("hour_length", 1.0)
    return jg.Market(
        jg.Prosumers(bus, load, **options),
        jg.Grid(np.zeros((1, steps)), model="copperplate"),
        jg.Tariff(slope, hours=steps, base=base, export=0.08),
        generators,
        buffers,
        hour_length=length,
    )


def test_a_car_charges_when_it_arrives():
    """From 2 o'clock with 4 kW at 90 %: 30 of 40 kWh less a trip are 20, due are 32 kWh."""
    car = jg.Buffers(
        [0], [[0.0, 0.0, 4.0, 4.0, 4.0, 4.0, 0.0]], 0.0, 40.0, 30.0, hours=7,
        energy_min=[[4.0, 4.0, 4.0, 4.0, 4.0, 32.0, 4.0]],
        drain=[[0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0]], charge_efficiency=0.9,
    )  # fmt: skip
    market = house(np.ones((1, 7)), car)
    plan = plan_today(market)
    rest = (32 - 20 - 3 * 3.6) / 0.9
    np.testing.assert_allclose(plan.charge[0], [0, 0, 4, 4, 4, rest, 0], atol=1e-12)
    np.testing.assert_allclose(plan.imports[0], plan.charge[0] + 1)
    assert unmet(market, plan).fulfilled
    full = plan_today(market, until="full")
    np.testing.assert_allclose(full.charge[0], [0, 0, 4, 4, 4, 4, 0], atol=1e-12)
    slow = eqx.tree_at(lambda m: m.buffers.charge_max, market, market.buffers.charge_max / 2)
    short = unmet(slow, plan_today(slow))
    assert float(short.missing[0]) == pytest.approx(32 - 20 - 4 * 1.8)
    assert not short.fulfilled
    assert str(short) == "buffer 0 (prosumer 0) lacks 4.8 kWh that are due in it"


def test_a_heat_pump_holds_its_temperature():
    """As much as the building loses, as long as its power lasts."""
    outdoor = np.array([0.0, -5.0, 5.0, -30.0])
    pump = devices.heat_pump(
        0, power=3.0, cop=3.0, outdoor=outdoor, resistance=5.0, capacity=4.0, hours=4
    )
    plan = plan_today(house(np.zeros((1, 4)), pump))
    needed = (21 - outdoor) / 5 / 3
    np.testing.assert_allclose(plan.charge[0], np.minimum(needed, 3.0), rtol=1e-12)
    np.testing.assert_allclose(plan.energy[0, :3], 4.0)  # 1 K above the lowest comfort
    assert plan.energy[0, 3] < 4.0


def test_a_washing_machine_runs_at_once():
    machine = devices.shiftable(0, energy=3.0, power=2.0, earliest=1, latest=5, hours=6)
    plan = plan_today(house(np.zeros((1, 6)), machine))
    np.testing.assert_allclose(plan.charge[0], [0, 2, 1, 0, 0, 0])


def test_a_battery_keeps_the_own_sun():
    """4 kW of surplus for two hours at 3 kW and 90 %, then loads, its owner's alone."""
    load = [[-4.0, -4.0, 2.0, 6.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0]]
    battery = devices.battery(0, power=3.0, capacity=10.0, start=0.1, efficiency=0.9, hours=5)
    market = house(load, battery, export_max=[[0.5] * 5, [0.0] * 5], curtail_max=1e3)
    plan = plan_today(market)
    np.testing.assert_allclose(plan.charge[0], [3, 3, 0, 0, 0])
    content = 1 + 2 * 2.7
    left = (content - 1) * 0.9 - 2.0  # of what it gives back, after the 2 kW
    np.testing.assert_allclose(plan.discharge[0], [0, 0, 2, left, 0], atol=1e-12)
    np.testing.assert_allclose(plan.exports[0], [0.5, 0.5, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(plan.curtailed[0], [0.5, 0.5, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(plan.imports[0], [0, 0, 0, 6 - left, 1], atol=1e-12)
    np.testing.assert_allclose(plan.imports[1], 2.0)


def test_a_battery_keeps_what_is_due_but_for_what_the_sun_brings_back():
    """Half full at both ends: at night it gives what noon returns, in the evening no more."""
    load = np.array([[2.0, 2.0, -3.0, 2.0, 2.0]])
    battery = devices.battery(
        0, power=3.0, capacity=10.0, floor=0.0, final=0.5, efficiency=1.0, hours=5
    )
    plan = plan_today(house(load, battery))
    np.testing.assert_allclose(plan.discharge[0], [2, 1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(plan.energy[0], [3, 2, 5, 5, 5], atol=1e-12)
    dull = plan_today(house(np.abs(load), battery))
    np.testing.assert_allclose(dull.discharge, 0.0)


def test_generators_serve_their_house_where_they_are_cheaper():
    """At 0.3 EUR/kWh: the cheap one first, what is dearer not at all, and no more than the load."""
    units = jg.Generators(
        [0, 0, 0, 1], [[4.0], [3.0], [9.0], [5.0]], hours=1, linear=[0.2, 0.1, 0.4, 0.1],
        quadratic=[0.0, 0.0, 0.0, 0.05],
    )  # fmt: skip
    plan = plan_today(house([[5.0], [6.0]], None, units))
    np.testing.assert_allclose(plan.generation[:, 0], [2.0, 3.0, 0.0, 2.0])
    np.testing.assert_allclose(plan.imports[:, 0], [0.0, 4.0])
    dear = plan_today(house([[5.0], [6.0]], None, units), price=0.15)
    np.testing.assert_allclose(dear.generation[:, 0], [0.0, 3.0, 0.0, 0.5])


@pytest.mark.parametrize("curved", [False, True])
def test_elastic_consumers_use_what_is_worth_the_price(curved: bool):
    """A first kWh is worth 0.5, each kW more 0.1 less: 2 kW at 0.3. Or p = 0.3 (c / 1.5)^-2."""
    if curved:
        curve = jg.curves.Isoelastic(price=0.3, power=1.5, elasticity=0.5)
        used, device = 1.5, devices.elastic(0, power=3.0, least=0.2, utility=curve, hours=1)
    else:
        used, device = 2.0, devices.elastic(0, power=3.0, worth=0.5, slope=0.1, hours=1)
    plan = plan_today(house([[1.0]], None, device))
    np.testing.assert_allclose(plan.generation, -used, rtol=1e-9)
    np.testing.assert_allclose(plan.imports, 1.0 + used, rtol=1e-9)


def test_what_cannot_be_is_told():
    """6 kW are bought where 4 are allowed; 3 kW of sun have nowhere to go but the meter."""
    market = house([[6.0, -3.0]], import_max=4.0, hour_length=0.5)
    plan = plan_today(market)
    found = unmet(market, plan)
    assert float(found.imports[0]) == pytest.approx(1.0)
    assert float(found.exports[0]) == pytest.approx(1.5)
    assert "prosumer 0 buys 1 kWh more than import_max allows" in str(found)
    np.testing.assert_allclose(model.rows(market, plan).balance, 0.0)
    assert float(outcome(market, today(market)).bill[0]) == pytest.approx(0.9 - 0.08 * 1.5)


def test_who_has_which_habit():
    """By what they can do as by their kind, which counts where it is told."""
    steps: Any = {"hours": 24}
    car: Any = {"power": 11.0, "capacity": 60.0, "arrival": 18, "departure": 7}
    made = devices.join(
        devices.battery(0, power=2.0, capacity=8.0, **steps),
        devices.vehicle(0, **car, **steps),
        devices.heat_pump(
            0, power=3.0, cop=3.0, outdoor=0.0, resistance=5.0, capacity=4.0, **steps
        ),
        devices.shiftable(0, energy=3.0, power=2.0, earliest=1, latest=5, **steps),
        devices.vehicle(0, **car, **steps, v2g=True),
        devices.electrolyser(0, power=50.0, tank=400.0, demand=15.0, **steps),
    )
    told = habits(house(np.ones((1, 24)), made))
    found = habits(house(np.ones((1, 24)), changed(made, kind=0 * made.kind)))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, told))
    called = changed(made, kind=jnp.array([2, 1, 4, 3, 5, 0]))  # a battery called a car is one
    said = habits(house(np.ones((1, 24)), called))
    assert np.asarray(said.keeps).tolist() == [False, True, False, False, False, False]
    assert np.asarray(said.holds).tolist() == [False, False, False, True, True, True]
    assert np.asarray(found.keeps).tolist() == [True, False, False, False, False, False]
    assert np.asarray(found.holds).tolist() == [False, False, True, False, False, True]
    assert np.asarray(found.fills).tolist() == [False, True, False, True, True, False]


MARKETS = {
    "feeder": feeder,
    "paper": lambda: feeder("paper", tap=[1.0, 0.97, 1.0, 1.02], reactive_balance=True),
    "devices": many_devices,
    "random": lambda: random_market(3, shape=SHAPES[1], grid="lindistflow"),
    "caps": lambda: random_caps(random_market(4, shape=SHAPES[1], grid="lindistflow"), 4),
}


@pytest.mark.parametrize("name", MARKETS)
def test_balances_and_bills_close(name: str):
    """All equations of the model hold to rounding, and all that is paid is received."""
    market = MARKETS[name]()
    plan = plan_today(market)
    rows, (low, high) = model.rows(market, plan), model.limits(market)
    for field in model.families(rows):
        if field == "aggregate":  # a limit, which is told by `unmet`
            continue
        value, least, most = (np.asarray(getattr(r, field)) for r in (rows, low, high))
        size = 1e-12 * (1 + np.abs(np.asarray(market.prosumers.load)).sum())
        assert np.all((value >= least - size) & (value <= most + size)), field
    bills = jg.settle(market, today(market))
    paid = bills.prosumers.sum() + bills.passive.sum() + bills.passive_caps.sum()
    received = bills.receipts.sum() + bills.sales.sum() + bills.levies.sum()
    assert float(paid) == pytest.approx(float(received), abs=1e-9)
    lower, upper = model.boxes(market)
    kept = ("generation", "charge", "discharge", "curtailed", "trades")
    for field in kept:
        value = np.asarray(getattr(plan, field))
        assert np.all(value >= np.asarray(getattr(lower, field)) - 1e-12), field
        assert np.all(value <= np.asarray(getattr(upper, field)) + 1e-12), field


@pytest.mark.parametrize("seed", range(6))
def test_contents_stay_within_bounds_where_power_reaches(seed: int):
    """Floors that charging all the time cannot reach are missed, and no ceiling is."""
    rng = np.random.default_rng(seed)
    buffers, steps = 5, 6
    size = rng.uniform(4.0, 12.0, buffers)
    gives = rng.random(buffers) < 0.5
    stores = jg.Buffers(
        rng.integers(0, 3, buffers), rng.uniform(1.0, 3.0, (buffers, steps)),
        np.where(gives, 2.0, 0.0)[:, None], size[:, None], 0.5 * size, hours=steps,
        energy_min=rng.uniform(0.0, 0.5, (buffers, 1)) * size[:, None],
        retention=np.where(gives, 1.0, rng.uniform(0.9, 1.0, buffers)),
        drain=np.where(gives, 0.0, 0.3)[:, None], charge_efficiency=0.9,
    )  # fmt: skip
    market = house(rng.uniform(-4.0, 4.0, (3, steps)), stores, export_max=99.0)
    found = unmet(market, plan_today(market))
    assert found.fulfilled, str(found)


def test_the_market_is_no_dearer_than_today():
    """Where today's plan keeps all limits it is one of the market's: its social cost is no less."""
    market = eqx.tree_at(lambda m: (m.prosumers.export_max, m.tariff.anticipation), feeder(), (
        jnp.full((4, 3), 50.0), jnp.zeros(())))  # fmt: skip
    social = jg.comparison.baselines(market)["social optimum"]
    now = today(market)
    assert unmet(market, now.plan).fulfilled
    volts = np.sqrt(np.asarray(now.plan.voltage))
    assert 0.95 <= volts.min() <= volts.max() <= 1.05
    best = jg.clear(social, tol=1e-9)
    cheapest = float(outcome(market, best).social)
    assert float(outcome(market, now).social) >= cheapest - 1e-6
    assert float(outcome(market, now).social) > cheapest + 0.01


def test_a_tree_does_in_each_branch_what_the_path_does():
    """Two days that share their first step: contents go on from it."""
    days = [many_devices(), many_devices()]
    days[1] = eqx.tree_at(
        lambda m: m.prosumers.load, days[1], days[1].prosumers.load.at[:, 1:].add(1.0)
    )
    tree = scenarios.tree(scenarios.stack(days), [0.5, 0.5], 1)
    plan = plan_today(tree)
    for index, day in enumerate(days):
        branch = scenarios.branch(tree, replace(today(tree), run=None), index)
        alone = plan_today(day)
        for field in ("charge", "discharge", "energy", "generation", "imports"):
            np.testing.assert_allclose(
                getattr(branch[1].plan, field), getattr(alone, field), atol=1e-12
            )
    assert plan.charge.shape[1] == tree.prosumers.load.shape[1]


def test_levels_of_caps_rise_as_little_as_they_may():
    """Demand charges rise with new peaks alone; a ramp of 2 kW is missed by 1, the total by 3."""
    market = house([[2.0, 1.0, 5.0, 4.0]])
    market = jg.capped(market, jg.caps.demand_charge(market, 10.0), jg.caps.ramp(market, 2.0))
    market = eqx.tree_at(lambda m: m.tariff.total_min, market, jnp.full(4, 4.0))
    plan = plan_today(market)
    assert plan.level is not None and plan.rise is not None
    np.testing.assert_allclose(plan.level[0], [2, 2, 5, 5], atol=1e-12)
    np.testing.assert_allclose(plan.rise[0], [2, 0, 3, 0], atol=1e-12)
    rows = model.rows(market, plan)
    np.testing.assert_allclose(rows.cap, 0.0, atol=1e-12)
    np.testing.assert_allclose(rows.level, 0.0, atol=1e-12)
    found = unmet(market, plan)
    assert float(found.levels[1]) == pytest.approx(2.0)  # from 1 to 5 kW
    assert float(found.total) == pytest.approx(2.0 + 3.0)
    assert "beyond its limits" in str(found) and "out of its bounds by 2" in str(found)
    bills = jg.settle(market, today(market))
    assert float(bills.charges.sum()) == pytest.approx(50.0)


def test_lines_may_point_either_way():
    """The state of a grid of the paper's is the same, whichever end of a line is its source."""
    market = feeder("paper", tap=[1.0, 0.97, 1.0, 1.02], reactive_balance=True)
    grid = market.grid
    turned = replace(
        grid,
        source=jnp.asarray([1, 2, 1, 0]), target=jnp.asarray([0, 1, 3, 4]),
    )  # fmt: skip
    market = replace(market, grid=turned)
    rows = model.rows(market, plan_today(market))
    for name in ("bus", "bus_reactive", "voltage", "angle", "exchange"):
        at = np.asarray(getattr(rows, name))
        at = np.delete(at, 0, axis=0) if name == "bus_reactive" else at  # of the main grid
        np.testing.assert_allclose(at, 0.0, atol=1e-12)


def test_in_a_tree_a_battery_keeps_what_any_branch_asks():
    """Sun returns what is due in one branch and not in the other: nothing is given before."""
    battery = devices.battery(
        0, power=3.0, capacity=10.0, floor=0.0, final=0.5, efficiency=1.0, hours=3
    )
    days = [house([[2.0, sun, 0.0]], battery, export_max=9.0) for sun in (0.0, -3.0)]
    for order in (days, days[::-1]):
        tree = scenarios.tree(scenarios.stack(order), [0.5, 0.5], 1)
        plan = plan_today(tree)
        assert unmet(tree, plan).fulfilled
        np.testing.assert_allclose(plan.discharge[0, 0], 0.0, atol=1e-12)
    np.testing.assert_allclose(plan_today(days[1]).discharge[0, 0], 2.0)


@pytest.mark.slow
def test_runners_and_dtypes_agree():
    """NumPy's plan is JAX's, under jit and vmap; in float32 to its rounding."""
    market = many_devices()
    market = replace(market, grid=jg.Grid(market.grid.passive, model="copperplate"))
    plan = plan_today(market)
    many = scenarios.stack([market, market])
    compiled = eqx.filter_jit(plan_today)(market)
    single = plan_today(jax.tree.map(
        lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, market
    ))  # fmt: skip
    lanes = plan_today(many)
    for field in model.families(plan):
        value = np.asarray(getattr(plan, field))
        np.testing.assert_allclose(getattr(compiled, field), value, atol=1e-12)
        np.testing.assert_allclose(getattr(lanes, field)[1], value, atol=1e-12)
        np.testing.assert_allclose(getattr(single, field), value, atol=1e-4)
    with by_numpy():
        assert isinstance(plan_today(to_host(market)).imports, np.ndarray)


def test_nonsense_is_refused():
    market = many_devices()
    word: Any = "empty"
    with pytest.raises(ValueError, match="until='empty'; give 'due' or 'full'"):
        plan_today(market, until=word)
    with pytest.raises(ValueError, match=r"price of shape \(7,\)"):
        plan_today(market, price=np.ones(7))
    with pytest.raises(ValueError, match="not finite"):
        plan_today(market, price=np.nan)
