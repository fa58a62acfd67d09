"""Devices: the tables they become, row by row, and what joining them refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.devices import (
    battery,
    connection,
    elastic,
    electrolyser,
    generator,
    heat_pump,
    inverter,
    join,
    photovoltaic,
    shiftable,
    vehicle,
)
from jaxgne.market import Generators
from tests.agreement import check_agreement
from tests.markets import feeder, inverters
from tests.reference import solve


def test_a_battery_holds_its_shares_of_the_capacity():
    """10 kWh: starts at 0.4 10 = 4, between 0.2 10 = 2 and 0.9 10 = 9, and ends with 0.5 10 = 5."""
    table = battery(3, power=5, capacity=10, hours=4, start=0.4, floor=0.2, ceiling=0.9, final=0.5)
    assert table.owner.tolist() == [3]
    assert table.charge_max.tolist() == table.discharge_max.tolist() == [[5.0] * 4]
    assert jnp.allclose(table.energy_start, 4.0)
    assert jnp.allclose(table.energy_min, jnp.asarray([[2.0, 2.0, 2.0, 5.0]]))
    assert jnp.allclose(table.energy_max, 9.0)


def test_a_final_content_below_the_floor_changes_nothing():
    with_final = battery(0, power=1, capacity=10, hours=3, floor=0.3, final=0.1)
    assert jnp.allclose(with_final.energy_min, 3.0)


def test_efficiency_is_that_of_one_way():
    """10 kWh charged at 0.9 store 9 kWh, of which 0.9 9 = 8.1 kWh come back."""
    table = battery(0, power=5, capacity=20, hours=1, efficiency=0.9, wear=0.02)
    assert jnp.allclose(10 * table.charge_efficiency * table.discharge_efficiency, 8.1)
    assert jnp.allclose(table.linear, 0.02)
    assert jnp.allclose(table.quadratic, 0.0)


def test_every_number_may_differ_by_device():
    """As many hours as devices: powers, which may be by hour, then say which they are."""
    two: dict[str, Any] = {"capacity": [10, 20], "hours": 2, "floor": [0.1, 0.2], "final": 0.5}
    table = battery([2, 0], power=[[5], [7]], **two)
    assert table.charge_max.tolist() == [[5.0, 5.0], [7.0, 7.0]]
    assert jnp.allclose(table.energy_max, jnp.asarray([[10.0, 10.0], [20.0, 20.0]]))
    assert jnp.allclose(table.energy_min, jnp.asarray([[1.0, 5.0], [4.0, 10.0]]))
    hourly = battery([2, 0], power=[[5, 7]], **two)
    assert hourly.charge_max.tolist() == hourly.discharge_max.tolist() == [[5.0, 7.0]] * 2
    with pytest.raises(ValueError, match=r"battery: power: shape \(2,\) may be by row or by hour"):
        battery([2, 0], power=[5, 7], **two)


SERIES = np.array([1.0, 2.0, 3.0, 4.0])
BY_HOUR: dict[str, Callable[[int, Any], Any]] = {  # one hourly field of each table, one of a device
    "Prosumers.import_max": lambda rows, value: (
        jg.Prosumers([0] * rows, np.ones((rows, 4)), import_max=value).import_max
    ),
    "Generators.power_max": lambda rows, value: Generators([0] * rows, value, hours=4).power_max,
    "Buffers.drain": lambda rows, value: (
        jg.Buffers([0] * rows, 1.0, 1.0, 5.0, 2.0, hours=4, drain=value).drain
    ),
    "Grid.passive_reactive": lambda rows, value: (
        jg.Grid(np.ones((rows, 4)), passive_reactive=value).passive_reactive
    ),
    "vehicle: power": lambda rows, value: (
        vehicle([0] * rows, power=value, capacity=20, arrival=0, departure=4, hours=4).charge_max
    ),
    "photovoltaic: generation": lambda rows, value: (
        photovoltaic(
            jg.Prosumers([0] * rows, np.zeros((rows, 4))), range(rows), generation=value
        ).export_max
    ),
}


@pytest.mark.parametrize("name", BY_HOUR)
def test_a_list_by_hour_means_the_same_whatever_the_sizes(name):
    """By hour as (4,) or (1, 4); by row as (rows,) or (rows, 1); refused where both fit."""
    make = BY_HOUR[name]
    for rows in (1, 3, 5):
        for hourly in (SERIES, SERIES[None]):
            np.testing.assert_array_equal(make(rows, hourly), np.tile(SERIES, (rows, 1)))
        own = np.arange(1.0, rows + 1)
        for single in (own, own[:, None]):
            np.testing.assert_array_equal(make(rows, single), np.tile(own[:, None], (1, 4)))
    np.testing.assert_array_equal(make(4, SERIES[None]), np.tile(SERIES, (4, 1)))
    np.testing.assert_array_equal(make(4, SERIES[:, None]), np.tile(SERIES[:, None], (1, 4)))
    for value, rows in ((SERIES, 4), (SERIES[:3], 2), (np.ones((4, 3)), 3), ("three", 2)):
        with pytest.raises(ValueError, match=f"^{name}: [^\n]*; give [^\n]*$"):
            make(rows, value)


def test_what_holds_in_all_hours_is_not_taken_by_hour():
    for name, make in {
        "Buffers.linear": lambda: jg.Buffers([0], 1, 1, 5, 2, hours=4, linear=SERIES / 4),
        "Grid.voltage_min": lambda: jg.Grid(np.ones((3, 4)), voltage_min=SERIES),
        "Trading.quadratic": lambda: jg.Trading([0], [1], 5.0, quadratic=SERIES),
        "battery: capacity": lambda: battery(0, power=1.0, capacity=SERIES, hours=4),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: shape \(4,\) does not fit; .*all hours"):
            make()
    house: dict[str, Any] = {
        "power": 3.0,
        "outdoor": SERIES[None],
        "resistance": 6.0,
        "capacity": 4.0,
        "hours": 4,
    }
    with pytest.raises(ValueError, match=r"^heat_pump: cop: shape \(4,\) may be by row or by hour"):
        heat_pump([0] * 4, cop=SERIES, **house)
    hourly = heat_pump(0, cop=SERIES, **house)
    assert jnp.allclose(hourly.charge_efficiency / hourly.charge_efficiency[0, 0], SERIES)
    pumps = heat_pump([0] * 4, cop=SERIES[:, None], **house)
    assert jnp.allclose(pumps.charge_efficiency[:, 0] / pumps.charge_efficiency[0, 0], SERIES)


def test_one_narrow_table_does_not_narrow_the_market():
    """A load in float32 is widened where another table is float64, and stays where none is."""

    def dtypes(load, passive, slope):
        market = jg.Market(
            jg.Prosumers([0], np.ones((1, 3), load)),
            jg.Grid(np.ones((1, 3), passive)),
            jg.Tariff(np.ones(3, slope), hours=3),
        )
        return {str(a.dtype) for a in jax.tree.leaves(market)} - {"int32"}

    narrow, wide = np.float32, np.float64
    for kinds in ((narrow, wide, wide), (wide, narrow, narrow), (wide, wide, narrow)):
        assert dtypes(*kinds) == {"float64"}
    assert dtypes(narrow, narrow, narrow) == {"float32"}
    table = jg.Prosumers([0], np.ones((1, 3), narrow), import_max=np.ones((1, 3)))
    assert table.load.dtype == jnp.float64


def test_indices_and_hours_are_whole():
    for owner, words in (([0.5], "0.5 is no index"), ([np.nan], "nan is no index"), (0, "list")):
        with pytest.raises(ValueError, match=f"Generators.owner: .*{words}"):
            Generators(owner, 1.0, hours=4)
    with pytest.raises(ValueError, match="battery: owner=-1"):
        battery(-1, power=1.0, capacity=1.0, hours=4)
    odd: tuple[Any, ...] = (0, -1, 2.5, np.nan, "four")
    for hours in odd:
        with pytest.raises(ValueError, match=r"hours=.*: give a whole number of at least 1"):
            battery(0, power=1.0, capacity=1.0, hours=hours)
        with pytest.raises(ValueError, match=r"hours=.*: give a whole number of at least 1"):
            jg.Tariff(0.1, hours=hours)


GOOD: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {  # with what each takes
    "battery": (battery, {"power": 2, "capacity": 5, "hours": 24}),
    "vehicle": (vehicle, {"power": 9, "capacity": 60, "arrival": 18, "departure": 7, "hours": 24}),
    "elastic": (elastic, {"power": 3, "worth": 0.4, "slope": 0.1, "hours": 24}),
    "electrolyser": (electrolyser, {"power": 50, "tank": 400, "demand": 15, "hours": 24}),
    "generator": (generator, {"power": 9, "linear": 0.1, "hours": 24}),
    "heat_pump": (heat_pump, {"power": 3, "cop": 3, "outdoor": 5, "resistance": 6, "capacity": 4,
                              "hours": 24}),
    "shiftable": (shiftable, {"power": 2, "energy": 3, "earliest": 1, "latest": 9, "hours": 24}),
}  # fmt: skip
SHARES = {"battery": ("start", "floor", "ceiling", "final", "efficiency"),
          "vehicle": ("start", "floor", "due", "final", "efficiency"),
          "electrolyser": ("start", "efficiency")}  # fmt: skip
AMOUNTS = {"battery": ("power", "capacity", "wear"), "generator": ("power", "minimum", "quadratic"),
           "elastic": ("power", "worth", "slope"),
           "electrolyser": ("power", "tank", "demand", "wear"),
           "vehicle": ("power", "capacity", "trip", "wear"), "shiftable": ("power", "energy"),
           "heat_pump": ("power", "cop", "resistance", "capacity", "hour_length")}  # fmt: skip
NUMBERS = {"battery": ("value",), "generator": ("linear",), "heat_pump": ("outdoor", "start")}


@pytest.mark.parametrize("kind", GOOD)
def test_numbers_out_of_range_are_refused_by_name(kind):
    """Shares in percent or negative, amounts below 0, and what is not finite; in any row."""
    make, good = GOOD[kind]
    make(0, **good)
    wrong = [(name, bad) for name in SHARES.get(kind, ()) for bad in (50, 1.01, -0.2, np.nan)]
    wrong += [(name, bad) for name in AMOUNTS.get(kind, ()) for bad in (-1, np.nan, np.inf)]
    wrong += [(name, bad) for name in NUMBERS.get(kind, ()) for bad in (np.nan, -np.inf)]
    for name, bad in wrong:
        percent = ".*not (50|95)" if name in SHARES.get(kind, ()) else ""
        with pytest.raises(
            ValueError, match=rf"^{kind}: {name}={bad}: give [^\n]*{percent}[^\n]*$"
        ):
            make(0, **(good | {name: bad}))
    name = wrong[0][0]
    usual = good.get(name, 0.5)
    with pytest.raises(ValueError, match=rf"^{kind}: {name}=-1 of device 1: give"):
        make([0, 1, 2], **(good | {name: [usual, -1, usual]}))


def test_bounds_of_devices_are_in_order():
    bad: tuple[tuple[Callable[..., Any], dict[str, Any], str], ...] = (
        (battery, {"floor": 0.6, "ceiling": 0.5}, "floor=0.6 is above ceiling=0.5"),
        (battery, {"start": 0.95, "ceiling": 0.9}, "start=0.95 is above ceiling=0.9"),
        (battery, {"final": 0.95, "ceiling": 0.9}, "final=0.95 is above ceiling=0.9"),
        (generator, {"minimum": [[1.0] * 23 + [10.0]]}, "minimum=10 is above power=9"),
        (heat_pump, {"comfort": (22.0, 20.0)}, r"comfort\[0\]=22 is above comfort\[1\]=20"),
    )
    for make, wrong, words in bad:
        with pytest.raises(ValueError, match=words):
            make(0, **GOOD[make.__name__][1] | wrong)


def test_a_generator_is_a_row_of_the_table():
    table = generator([1, 4], power=[40, 60], hours=3, linear=0.12, quadratic=0.002, minimum=5)
    assert table.owner.tolist() == [1, 4]
    assert table.power_max.tolist() == [[40.0] * 3, [60.0] * 3]
    assert table.power_min.tolist() == [[5.0] * 3] * 2
    assert jnp.allclose(table.linear, 0.12)
    assert jnp.allclose(table.quadratic, 0.002)


def test_power_may_differ_by_hour():
    profile = np.array([[0.0, 3.0, 1.0]])
    assert generator(0, power=profile, hours=3, linear=0.0).power_max.tolist() == profile.tolist()


def test_joined_tables_keep_every_row_in_order():
    one = battery(2, power=5, capacity=10, hours=3)
    two = battery([0, 2], power=[1, 2], capacity=4, hours=3)
    joined = join(one, two, one)
    assert joined.owner.tolist() == [2, 0, 2, 2]
    for a, b, c in zip(*(jax.tree.leaves(table) for table in (joined, one, two)), strict=True):
        assert jnp.array_equal(a, jnp.concatenate([b, c, b]))


def test_an_empty_table_joins_as_nothing():
    one = generator(0, power=5, hours=2, linear=0.1)
    joined = join(Generators((), (), hours=2), one)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, joined, one))


def test_tables_of_other_hours_or_kinds_do_not_join():
    one = generator(0, power=5, hours=2, linear=0.1)
    with pytest.raises(ValueError, match="2 and of 3 steps"):
        join(one, generator(0, power=5, hours=3, linear=0.1))
    with pytest.raises(ValueError, match="Generators and Buffers are different tables"):
        join(one, battery(0, power=5, capacity=1, hours=2))  # type: ignore[type-var]


def test_a_battery_can_be_differentiated():
    """d(sum of energy_max) / d capacity = ceiling times hours = 0.9 4."""
    slope = jax.grad(
        lambda size: jnp.sum(battery(0, power=1.0, capacity=size, hours=4, ceiling=0.9).energy_max)
    )(10.0)
    assert jnp.allclose(slope, 3.6)


HOURS = 6


def household(buffers: jg.Buffers, prosumers: jg.Prosumers | None = None) -> jg.Market:
    """Three prosumers without a network; energy is cheap in hours 1 and 4, dear in hour 3."""
    load = [[2.0] * HOURS, [1.0] * HOURS, [3.0] * HOURS]
    return jg.Market(
        jg.Prosumers([0, 0, 0], load) if prosumers is None else prosumers,
        jg.Grid(np.zeros((1, HOURS)), model="copperplate"),
        jg.Tariff(0.002, hours=HOURS, base=[0.2, 0.1, 0.2, 0.4, 0.1, 0.2], export=0.03),
        buffers=buffers,
        trading=jg.Trading([0, 1], [1, 2], 5.0, toll=0.01),
    )


@pytest.mark.parametrize(("value", "left"), [(0.0, 0.0), (0.2, None), (2.0, 6.0)])
def test_what_is_left_in_a_battery_has_its_value(value, left):
    """Emptied for nothing, filled for much; between, the last kWh cost what they are worth."""
    store = battery(0, power=1.0, capacity=6.0, hours=HOURS, floor=0.0, wear=0.01, value=value)
    market = household(store)
    clearing = jg.clear(market, tol=1e-8)
    found = float(clearing.plan.energy[0, -1])
    if left is None:
        assert 0.1 < found < 5.9
        assert float(clearing.prices.energy[0, -1]) == pytest.approx(value, abs=1e-5)
    else:
        assert found == pytest.approx(left, abs=1e-5)
    check_agreement(market, clearing, solve(market))


def test_inverters_hold_voltages_within_their_ratings():
    """Infeasible without; with them p^2 + q^2 <= s^2, and the AC power flow sees them."""
    assert solve(feeder(voltage_min=0.985)).status == "infeasible"
    market = jg.validate(inverters())
    plan = solve(market).plan
    active = np.asarray(jg.model.net_load(market, plan))[[0, 2]]
    reactive = np.asarray(market.prosumers.reactive - plan.compensation[market.prosumers.bus])
    apparent = np.hypot(active, reactive[[0, 2]])
    assert np.all(apparent <= np.array([[25.0], [20.0]]) + 1e-6)
    assert np.all(np.asarray(plan.compensation)[:5] == 0)
    np.testing.assert_allclose(jg.ac_power_flow(market, plan).apparent[-2:], apparent, rtol=1e-6)
    lowest = float(jg.ac_power_flow(market, plan).voltage.min())
    without = replace(plan, compensation=0 * plan.compensation)
    assert float(jg.ac_power_flow(market, without).voltage.min()) < 0.98 < 0.984 < lowest
    small = inverter(feeder(), 2, rating=3.0)  # which limits what its owner draws, too
    drawn = np.asarray(jg.model.net_load(small, solve(small).plan))[2]
    assert np.all(np.abs(drawn) <= 3.0 + 1e-6) and np.max(np.abs(drawn)) > 2.9
    wrong = [(4, 1.0, "of 0 to 3 once"), ([1, 1], 1.0, "once"), (0.9, 1.0, "once")]
    for who, rating, words in [*wrong, (0, 0.0, "kVA"), (0, np.inf, "kVA"), (0, [1, 2], "kVA")]:
        with pytest.raises(ValueError, match=words):
            inverter(feeder(), who, rating)
    with pytest.raises(ValueError, match="this one is 'paper'"):
        inverter(feeder("paper"), 0, 1.0)


def test_a_connection_limits_the_wire_not_the_contract():
    """With imports of 3 kW it draws 10, of its neighbor; a connection of 5 kVA holds p and q."""
    market = jg.Market(
        jg.Prosumers([1, 1], [[2.0], [-9.0]], [[1.5], [0.0]], import_max=[[3.0], [0.0]],
                     curtail_max=[[9.0], [9.0]]),
        jg.Grid([[0.0], [0.0]], [0], [1], 1e-4, 1e-4),
        jg.Tariff(0.01, hours=1, base=0.2),
        buffers=battery(0, power=8.0, capacity=20.0, hours=1, start=0.2, value=1.0, wear=0.0),
        trading=jg.Trading([0], [1], 9.0, toll=0.01),
    )  # fmt: skip

    def drawn(market):
        return float(np.asarray(jg.model.net_load(market, solve(market).plan))[0, 0])

    assert drawn(market) == pytest.approx(10.0, abs=1e-5)  # 2 of load, 8 into the battery
    held = jg.validate(connection(market, 0, rating=5.0))
    assert drawn(held) == pytest.approx(np.sqrt(5.0**2 - 1.5**2), abs=1e-5)
    assert np.all(np.asarray(held.grid.compensation_max) == 0)
    check_agreement(held, jg.clear(held), solve(held))
    seller = eqx.tree_at(lambda m: m.prosumers.export_max, market, jnp.full((2, 1), 9.0))
    seller = connection(eqx.tree_at(lambda m: m.tariff.export, seller, jnp.full(1, 0.1)), 1, 4.0)
    fed_in = np.asarray(jg.model.net_load(seller, solve(seller).plan))[1, 0]
    assert fed_in == pytest.approx(-4.0, abs=1e-5)
    everyone = connection(market, rating=[5.0, np.inf])  # of whom one has no limit
    assert jax.tree.all(jax.tree.map(np.array_equal, everyone, connection(market, 0, 5.0)))
    assert connection(market).grid.source.shape == market.grid.source.shape
    with pytest.raises(ValueError, match=r"connection: prosumers=\[7\]: give each of 0 to 1 once"):
        connection(market, 7, 5.0)
    with pytest.raises(ValueError, match=r"connection: rating=\[nan nan\]: give positive kVA"):
        connection(market, rating=np.nan)
    with pytest.raises(ValueError, match="connection: a grid with model='lindistflow' is needed"):
        connection(household(battery(0, power=1.0, capacity=1.0, hours=HOURS)), 0, 5.0)


def test_a_vehicle_charges_while_it_is_plugged_in():
    """At home from hour 1 to before hour 4, and over midnight from 4 to before 2."""
    car = vehicle([0, 1], power=[4.0, 2.0], capacity=20.0, arrival=[1, 4], departure=[4, 2],
                  hours=HOURS, start=0.3, due=0.5, trip=[0.0, 3.0], final=0.4)  # fmt: skip
    home = [[0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1]]
    np.testing.assert_allclose(car.charge_max, np.array(home) * [[4.0], [2.0]])
    np.testing.assert_allclose(car.discharge_max, 0.0)
    np.testing.assert_allclose(car.energy_min[0], [2, 2, 2, 10, 2, 8])
    np.testing.assert_allclose(car.energy_min[1], [2, 10, 2, 2, 2, 8])
    np.testing.assert_allclose(car.drain, [[0] * 6, [0, 0, 0, 3, 0, 0]])
    both = vehicle(0, power=4.0, capacity=20.0, arrival=0, departure=6, hours=HOURS, v2g=True)
    np.testing.assert_allclose(both.discharge_max, both.charge_max)
    with pytest.raises(ValueError, match="departure=7: give an hour of the day from 0 to 6"):
        vehicle(0, power=4.0, capacity=20.0, arrival=0, departure=7, hours=HOURS)


def test_hours_at_the_ends_of_the_day():
    """Midnight ends the day, and a car that arrives as it leaves is refused."""
    car = vehicle(0, power=4.0, capacity=20.0, arrival=3, departure=0, hours=HOURS, due=0.6)
    np.testing.assert_allclose(car.charge_max[0], [0, 0, 0, 4, 4, 4])
    assert float(car.energy_min[0, -1]) == 12.0
    with pytest.raises(ValueError, match="arrival=2 is departure too"):
        vehicle(0, power=4.0, capacity=20.0, arrival=2, departure=2, hours=HOURS)


def test_a_vehicle_that_cannot_be_charged_in_time_is_named():
    """14 kWh in two hours with 4 kW: row 1, of prosumer 2, at the end of hour 2."""
    cars = [
        vehicle(owner, power=power, capacity=20.0, arrival=1, departure=3, hours=HOURS, start=0.1)
        for owner, power in ((0, 11.0), (2, 4.0))
    ]
    with pytest.raises(
        jg.NotCleared, match=r"infeasible: Buffers row 1 \(vehicle of prosumer 2\) in hour 2"
    ):
        jg.clear(household(join(*cars)))


def test_a_shiftable_load_is_done_in_time():
    load = shiftable([0, 2], energy=[3.0, 5.0], power=2.0, earliest=[0, 2], latest=[3, 6],
                     hours=HOURS)  # fmt: skip
    clearing = jg.clear(household(load))
    ran = np.asarray(clearing.plan.charge)
    np.testing.assert_allclose(ran.sum(axis=1), [3.0, 5.0], atol=1e-5)
    np.testing.assert_allclose(ran[0, 3:], 0.0, atol=1e-5)
    np.testing.assert_allclose(ran[1, :2], 0.0, atol=1e-5)
    assert ran[0, 1] == pytest.approx(2.0, abs=1e-4)  # the cheap hours first
    assert ran[1, 4] == pytest.approx(2.0, abs=1e-4)
    with pytest.raises(ValueError, match=r"latest=2 is not after earliest=2"):
        shiftable(0, energy=1.0, power=1.0, earliest=2, latest=2, hours=HOURS)


def test_a_heat_pump_keeps_the_comfort_band():
    """The building simulated with the plan's powers, by the differential equation's own steps."""
    outdoor, cop, loss, mass = np.array([2.0, 0.0, -3.0, 1.0, 4.0, 5.0]), 3.0, 5.0, 2.5
    pump = heat_pump(1, power=3.0, cop=cop, outdoor=outdoor, resistance=loss, capacity=mass,
                     hours=HOURS, comfort=(20.0, 22.0), start=20.5)  # fmt: skip
    clearing = jg.clear(household(pump), tol=1e-8)
    degrees, fine = 20.5, 2000
    for hour in range(HOURS):
        for _ in range(fine):
            heat = cop * float(clearing.plan.charge[0, hour])
            degrees += (heat - (degrees - outdoor[hour]) / loss) / mass / fine
        assert 20.0 - 2e-3 <= degrees <= 22.0 + 2e-3
        assert degrees - 20.0 == pytest.approx(
            float(clearing.plan.energy[0, hour]) / mass, abs=2e-3
        )
    assert float(clearing.plan.charge[0, 3]) < float(clearing.plan.charge[0, 1])  # dear, and cheap
    with pytest.raises(ValueError, match=r"heat_pump: outdoor: shape \(5,\)"):
        heat_pump(1, power=3.0, cop=3.0, outdoor=np.ones(5), resistance=5.0, capacity=2.0,
                  hours=HOURS)  # fmt: skip


def test_panels_may_be_curtailed_and_sold():
    people = jg.Prosumers([0, 0, 0], np.full((3, HOURS), 2.0))
    sun = np.array([0.0, 1.0, 5.0, 4.0, 0.0, 0.0])
    more = photovoltaic(people, [0, 2, 0], generation=sun)
    np.testing.assert_allclose(more.load, 2.0 - np.array([2 * sun, 0 * sun, sun]))
    np.testing.assert_allclose(more.curtail_max, [2 * sun, 0 * sun, sun])
    np.testing.assert_allclose(more.export_max, more.curtail_max)
    kept = photovoltaic(people, 1, generation=3.0, curtail=False, feed_in=False)
    np.testing.assert_allclose(kept.load[1], -1.0)
    np.testing.assert_allclose(kept.export_max, 0.0)
    with pytest.raises(ValueError, match=r"owner=7: give prosumers from 0 to 2"):
        photovoltaic(people, 7, generation=1.0)
    with pytest.raises(ValueError, match=r"generation: shape \(3, 6\)"):
        photovoltaic(people, [0, 1], generation=np.ones((3, HOURS)))
    with pytest.raises(ValueError, match=r"generation: shape \(5,\)"):
        photovoltaic(people, 1, generation=np.ones(5))


def test_an_electrolyser_fills_its_tank_while_power_is_cheap():
    """2 kW of hydrogen by hour and 4 kWh in a tank of 8: the two cheap hours make all 8 kWh.

    At 0.5 of it that is 16 kWh, 8 kW in either hour, of which the tank ends as full as it was.
    """
    made = electrolyser(0, power=10, tank=8.0, demand=2.0, hours=4, efficiency=0.5)
    market = jg.Market(
        jg.Prosumers([0], np.zeros((1, 4))),
        jg.Grid(np.zeros((1, 4)), model="copperplate"),
        jg.Tariff(0.01, hours=4, base=np.array([0.1, 0.1, 0.4, 0.4]), anticipation=0.0),
        buffers=made,
    )
    plan = jg.clear(market, tol=1e-9).plan
    assert np.allclose(plan.charge[0], [8.0, 8.0, 0.0, 0.0], atol=1e-5)
    assert np.allclose(plan.energy[0], [6.0, 8.0, 6.0, 4.0], atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_random_mixes_against_the_oracle(seed):
    """A battery, a car, a heat pump and a shiftable load at random owners, and panels."""
    rng = np.random.default_rng(seed)
    owner, arrival = rng.integers(0, 3, 4), rng.integers(0, 6)
    buffers = join(
        battery(owner[0], power=rng.uniform(1, 5), capacity=10.0, hours=HOURS),
        vehicle(owner[1], power=7.0, capacity=30.0, arrival=arrival, start=0.6,
                departure=(arrival + rng.integers(1, 7)) % 7, hours=HOURS, due=0.7,
                trip=rng.uniform(0, 5),
                v2g=bool(rng.integers(2)), wear=0.01),
        heat_pump(owner[2], power=4.0, cop=rng.uniform(2, 4), outdoor=rng.uniform(-5, 15, HOURS),
                  resistance=rng.uniform(4, 8), capacity=rng.uniform(2, 6), hours=HOURS),
        shiftable(owner[3], energy=3.0, power=2.0, earliest=1, latest=4, hours=HOURS),
    )  # fmt: skip
    people = jg.Prosumers([0, 0, 0], rng.uniform(1, 5, (3, HOURS)), import_max=30.0)
    people = photovoltaic(people, rng.integers(0, 3), generation=rng.uniform(0, 6, HOURS))
    market = household(buffers, people)
    clearing = jg.clear(market, throw=False)
    check_agreement(market, clearing, solve(market))
