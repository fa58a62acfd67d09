"""Caps: what each kind does to a market of one or two prosumers, against arithmetic by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.record import changed
from tests.markets import random_market

TOL = 1e-9


def market(load: list[list[float]], passive: float = 0.0, hour_length: float = 1.0) -> jg.Market:
    """Prosumers at one price of 0.10 EUR/kWh; the first has a generator at 0.30 and a battery.

    That is half full at both ends, and loses nothing.
    """
    hours = len(load[0])
    floor = [[0.0] * (hours - 1) + [10.0]]
    return jg.Market(
        jg.Prosumers([0] * len(load), load),
        jg.Grid([[passive] * hours], model="copperplate"),
        jg.Tariff(0.0, hours=hours, base=0.10),
        generators=jg.devices.generator(0, power=50.0, hours=hours, linear=0.30),
        buffers=jg.Buffers([0], 10.0, 10.0, 20.0, 10.0, hours=hours, energy_min=floor),
        hour_length=hour_length,
    )


def test_carbon_costs_what_cleaner_power_does():
    """10 kW for two half hours at 0.4 kg/kWh: 4 kg. A kg less is 2.5 kWh at 0.20 EUR/kWh more."""
    base = market([[10.0, 10.0]], hour_length=0.5)
    stores = changed(base.buffers, charge_max=0 * base.buffers.charge_max)
    base = changed(base, buffers=changed(stores, discharge_max=stores.charge_max))
    clean = jg.capped(base, jg.caps.carbon(base, 3.0, grid=0.4))
    found: Any = jg.clear(clean, tol=TOL)
    assert float(found.plan.level[0, -1]) == pytest.approx(3.0)
    assert float(found.plan.generation.sum()) * 0.5 == pytest.approx(2.5)
    np.testing.assert_allclose(found.prices.cap, 0.20 / 0.4, rtol=1e-6)


def test_emissions_of_all_count():
    """Members' own, generators' by row, the passive load's; of members alone without it."""
    base = market([[4.0, 6.0], [1.0, 3.0]], passive=5.0)
    every = jg.caps.carbon(base, 50.0, grid=[0.4, 0.2], generators=0.5)
    np.testing.assert_allclose(every.base, [[2.0, 1.0]])
    np.testing.assert_array_equal(every.quantity, [0, 0, 2])
    np.testing.assert_allclose(every.weight, [[0.4, 0.2], [0.4, 0.2], [0.5, 0.5]])
    one = jg.caps.carbon(base, 50.0, grid=0.4, members=[1], passive=False)
    assert (one.quantity.tolist(), one.row.tolist(), float(one.base.sum())) == ([0], [1], 0.0)


def test_steps_of_unlike_length_count_by_their_hours():
    """Half an hour and an hour and a half: kWh and kg by kW; kW are kW."""
    base = market([[4.0, 6.0]], passive=2.0)
    base = changed(base, hour_length=jnp.asarray([0.5, 1.5]))
    np.testing.assert_allclose(jg.caps.budget(base, 5.0).weight, [[0.5, 1.5]])
    clean = jg.caps.carbon(base, 5.0, grid=0.4, generators=0.2)
    np.testing.assert_allclose(clean.weight, [[0.2, 0.6], [0.1, 0.3]])
    np.testing.assert_allclose(clean.base, [[0.4, 1.2]])
    np.testing.assert_allclose(jg.caps.group(base, 5.0).weight, [[1.0, 1.0]])


def test_a_ramp_moves_demand():
    """From 2 to 8 kW at most 4 kW more: the battery moves 1 kW, at no cost."""
    base = market([[2.0, 8.0]], passive=3.0)
    found: Any = jg.clear(jg.capped(base, jg.caps.ramp(base, 4.0)), tol=TOL)
    step = np.diff(np.asarray(found.aggregate))[0]
    assert step <= 4.0 + 1e-6
    low: Any = jg.clear(jg.capped(base, jg.caps.ramp(base, 4.0, start=3.0)), tol=TOL)
    assert float(low.aggregate[0]) <= 7.0 + 1e-6
    np.testing.assert_allclose(low.plan.level[0], low.aggregate, atol=1e-6)


def test_a_ramp_of_one_unit_is_a_row_of_data():
    """No function of the package knows it: the unit's power is the level, its change the rise.

    At 0.03 EUR/kWh it would make all of 1 and 4 kW. From 0, by 2 kW an hour, it makes 1 and 3; a kW
    of ramp more would save the 0.07 EUR that the main grid costs more.
    """
    base = market([[1.0, 4.0]])
    cheap = changed(base.generators, linear=0 * base.generators.linear + 0.03)
    still = 0 * base.buffers.charge_max
    base = changed(
        base,
        generators=cheap,
        buffers=changed(base.buffers, charge_max=still, discharge_max=still),
    )

    def held(most: float) -> Any:
        row = jg.Caps(
            [[np.inf] * 2], hours=2, rise_min=-most, rise_max=most, carry=1.0, adds=[0],
            cap=[0], quantity=[2], row=[0], names=["ramp of unit 0"], units=["kW"],
        )  # fmt: skip
        return jg.clear(jg.capped(base, row), tol=TOL)

    found, more = held(2.0), held(2.5)
    np.testing.assert_allclose(found.plan.generation, [[1.0, 3.0]], atol=1e-6)
    np.testing.assert_allclose(found.aggregate, [0.0, 1.0], atol=1e-6)
    assert float(found.prices.cap[0, 1]) == pytest.approx(0.07, abs=1e-6)
    assert float(found.costs.sum() - more.costs.sum()) == pytest.approx(0.5 * 0.07, abs=1e-6)


def test_a_demand_charge_levels_imports():
    """2 and 6 kW become 4 and 4 at 0.30 EUR/kW; each hour bears half of it."""
    base = market([[2.0, 6.0], [1.0, 1.0]])
    caps = jg.caps.demand_charge(base, 0.30, prosumers=[0])
    found: Any = jg.clear(jg.capped(base, caps), tol=TOL)
    np.testing.assert_allclose(found.plan.imports[0], [4.0, 4.0], atol=1e-6)
    np.testing.assert_allclose(found.prices.cap, [[0.15, 0.15]], atol=1e-6)
    assert float(found.costs[0]) == pytest.approx(0.10 * 8 + 0.30 * 4, rel=1e-6)
    assert float(found.costs[1]) == pytest.approx(0.10 * 2, rel=1e-6)


def test_a_demand_charge_leaves_what_is_free():
    """A peak of 6 kW below 7 free ones costs nothing; each has a price and free kW of its own."""
    base = market([[2.0, 6.0], [1.0, 5.0]])
    caps = jg.caps.demand_charge(base, [0.5, 0.2], prosumers=[1, 0], free=[2.0, 7.0])
    assert caps.names == ("demand charge of prosumer 1", "demand charge of prosumer 0")
    found: Any = jg.clear(jg.capped(base, caps), tol=TOL)
    np.testing.assert_allclose(found.plan.rise.sum(axis=1), [3.0, 0.0], atol=1e-6)
    assert float(found.costs[1]) == pytest.approx(0.10 * 6 + 0.5 * 3, rel=1e-6)


def test_the_peak_of_all_has_one_price():
    """With 3 kW passive, 5 and 9 kW become 7 and 7: 7 kW at 0.30 EUR."""
    base = market([[2.0, 6.0]], passive=3.0)
    found: Any = jg.clear(jg.capped(base, jg.caps.total_demand_charge(base, 0.30)), tol=TOL)
    np.testing.assert_allclose(found.aggregate, [7.0, 7.0], atol=1e-6)
    assert float(found.plan.rise.sum()) == pytest.approx(7.0, rel=1e-6)
    assert float(found.prices.cap.sum()) == pytest.approx(0.30, rel=1e-6)


def test_groups_by_bus_and_device():
    """What is counted, of whom, and what a kW of it counts."""
    base = random_market(0)
    bus = np.asarray(base.prosumers.bus)
    one = jg.caps.group(base, 5.0, buses=[int(bus[0])])
    np.testing.assert_array_equal(one.row, np.flatnonzero(bus == bus[0]))
    net = jg.caps.group(base, 5.0, of={"imports": 1, "exports": -1}, members=[1])
    assert (net.quantity.tolist(), net.row.tolist()) == ([0, 1], [1, 1])
    np.testing.assert_array_equal(net.weight[:, 0], [1.0, -1.0])
    dimmed = jg.caps.group(base, [1.0] * 6, of="charge", devices=[2])
    assert (dimmed.quantity.tolist(), dimmed.row.tolist(), dimmed.units) == ([3], [2], ("kW",))
    owners = np.asarray(base.buffers.owner)
    energy = jg.caps.budget(base, 5.0, of="charge", members=[owners[0]])
    np.testing.assert_array_equal(energy.row, np.flatnonzero(owners == owners[0]))
    assert np.isinf(np.asarray(energy.level_max)[0, :-1]).all() and energy.level_max[0, -1] == 5.0


def test_a_group_is_held():
    """Two that import 8 kW together may import 6: the one with a generator makes 2 kW at 0.30."""
    base = market([[5.0], [3.0]])
    stores = changed(base.buffers, discharge_max=0 * base.buffers.discharge_max)
    base = changed(base, buffers=stores)
    found: Any = jg.clear(jg.capped(base, jg.caps.group(base, 6.0)), tol=TOL)
    np.testing.assert_allclose(found.plan.imports.sum(), 6.0, rtol=1e-6)
    np.testing.assert_allclose(found.prices.cap, 0.20, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: jg.caps.group(m, 3, of="watts"), "group: of='watts' is none of imports"),
        (lambda m: jg.caps.group(m, 3, members=[9]), "members: there is no prosumer 9; give"),
        (lambda m: jg.caps.group(m, 3, buses=["x"]), "buses: there is no bus 'x'; give"),
        (lambda m: jg.caps.group(m, 3, devices=[0]), "devices have no imports"),
        (lambda m: jg.caps.group(m, 3, of="charge", devices=[]), "nobody there has charge"),
        (lambda m: jg.caps.ramp(m, -1), "ramp: most must be 0 or more"),
        (lambda m: jg.caps.ramp(m, np.nan), "ramp: most must be 0 or more"),
        (lambda m: jg.caps.demand_charge(m, -1), "price .EUR/kW. and free .kW. must be 0 or more"),
        (lambda m: jg.caps.demand_charge(m, 1, prosumers=[4]), "prosumers: there is no prosumer 4"),
        (lambda m: jg.caps.carbon(m, 3, grid=[1, 2]), "carbon: grid: shape"),
        (lambda m: jg.capped(m, *[jg.caps.ramp(m, 3)] * 2), "two caps are called 'ramp'"),
        (lambda m: jg.capped(m, jg.Caps([1.0], hours=3)), "caps of 3 steps for 6"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make(random_market(0))


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        ({"level_max": [5.0]}, "no term of 'cap 0' counts anything"),
        ({"level_max": [5.0], "start": 9.0, "carry": 1.0, "rise_min": -1.0, "units": ["kg"]},
         r"row 0 \('cap 0'\), hour 0: 5 kg is out of reach from a start of 9 kg: .* lead to 8 kg"),
        ({"level_max": [50.0], "level_min": 12.0, "start": 9.0, "carry": 1.0, "rise_max": 1.0},
         "12 is out of reach from a start of 9: .* lead to 10 at the most; lower it"),
        ({"level_max": [5.0], "level_min": 9.0}, "5 is below level_min 9"),
        ({"level_max": [5.0, 4.0], "names": ["a", "a"]}, "1 different names and 2 units for 2"),
    ],
)  # fmt: skip
def test_caps_that_make_no_sense_are_told(caps: Any, words: str):
    terms: Any = {} if "no term" in words else {"cap": [0], "quantity": [0], "row": [0]}
    base = random_market(0)
    wrong = changed(base, caps=jg.Caps(**caps, **terms, hours=6))
    with pytest.raises(ValueError, match=words):
        jg.validate(wrong)


def test_joined_tables_are_one():
    """Terms point to their own caps, which keep names and units; rows come one below the other."""
    base = random_market(0)
    tables = [
        jg.caps.carbon(base, 9.0, grid=0.4),
        jg.caps.ramp(base, 3.0),
        jg.caps.group(base, 5.0),
    ]
    once = jg.caps.joined(*tables)
    twice = jg.capped(jg.capped(base, tables[0]), *tables[1:]).caps
    assert all(map(np.array_equal, jax.tree.leaves(once), jax.tree.leaves(twice)))
    assert once.names == ("carbon", "ramp", "group") and once.units == ("kg", "kW", "kW")
    for k, table in enumerate(tables):
        mine = np.asarray(once.cap) == k
        np.testing.assert_array_equal(np.asarray(once.weight)[mine], table.weight)
        np.testing.assert_array_equal(once.level_max[k], table.level_max[0])


def test_violations_are_in_units_of_the_cap():
    """A level of 2 kg more than its rises: so many kg, of the cap by name."""
    base = random_market(0)
    capped = jg.capped(base, jg.caps.carbon(base, 200.0, grid=0.4))
    found: Any = jg.clear(capped)
    more = changed(found.plan, level=found.plan.level.at[0, 2:].add(2.0))
    told = jg.certify(capped, more, found.prices).violations()
    assert told[0] == "2.0e+00 kg, level left by its rise of cap 'carbon', hour 2"
    beyond = changed(found.plan, level=found.plan.level * 0 + 207.0)
    told = jg.certify(capped, beyond, found.prices).violations()
    assert "7.0e+00 kg, bounds on the level of cap 'carbon', hour 5" in told


def test_steps_that_count_twice_change_no_price():
    """Costs double with `Market.weight`, plan and prices stay, EUR per unit."""
    day = market([[4.0, 8.0, 2.0], [1.0, 3.0, 5.0]])
    day = jg.capped(day, jg.caps.carbon(day, 6.0, grid=0.4), jg.caps.demand_charge(day, 0.5))
    twice = changed(day, weight=2 * day.weight)
    one, two = (jg.clear(m, tol=TOL) for m in (day, twice))
    assert float(jnp.sum(two.costs)) == pytest.approx(2 * float(jnp.sum(one.costs)), rel=1e-6)
    np.testing.assert_allclose(two.prices.cap[0], one.prices.cap[0], atol=1e-6)
    np.testing.assert_allclose(two.plan.imports.sum(), one.plan.imports.sum(), atol=1e-5)
