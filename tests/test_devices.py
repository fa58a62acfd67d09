"""Devices: the tables they become, row by row, and what joining them refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgne.devices import battery, generator, join
from jaxgne.market import Generators


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
    """As many hours as devices: a list still means one number a device."""
    table = battery([2, 0], power=[5, 7], capacity=[10, 20], hours=2, floor=[0.1, 0.2], final=0.5)
    assert table.charge_max.tolist() == [[5.0, 5.0], [7.0, 7.0]]
    assert jnp.allclose(table.energy_max, jnp.asarray([[10.0, 10.0], [20.0, 20.0]]))
    assert jnp.allclose(table.energy_min, jnp.asarray([[1.0, 5.0], [4.0, 10.0]]))


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
    with pytest.raises(ValueError, match="2 and of 3 hours"):
        join(one, generator(0, power=5, hours=3, linear=0.1))
    with pytest.raises(ValueError, match="Generators and Buffers are different tables"):
        join(one, battery(0, power=5, capacity=1, hours=2))  # type: ignore[type-var]


def test_a_battery_can_be_differentiated():
    """d(sum of energy_max) / d capacity = ceiling times hours = 0.9 4."""
    slope = jax.grad(
        lambda size: jnp.sum(battery(0, power=1.0, capacity=size, hours=4, ceiling=0.9).energy_max)
    )(10.0)
    assert jnp.allclose(slope, 3.6)
