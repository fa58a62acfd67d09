"""The voltage at which the main grid holds each feeder bus: in plans, AC states, files, words."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow, model
from tests.markets import feeder
from tests.power_flows import by_pandapower, by_power_grid_model

HELD = 1.04


def panels(voltage: float = HELD, **limits: Any) -> jg.Market:
    """60 kW of sun and 3 kW of load at the end of 0.06 + 0.03j ohm at 0.4 kV."""
    base = 1000 * 0.4**2
    return jg.Market(
        jg.Prosumers([1], [[-60.0]], import_max=100.0, export_max=60.0, curtail_max=60.0),
        jg.Grid(
            [[0.0], [3.0]], [0], [1], 0.06 / base, 0.03 / base, feeder_voltage=voltage, **limits
        ),
        jg.Tariff(1e-3, hours=1, base=0.3, export=0.08),
    )


def test_two_buses_by_hand():
    """Without reactive power |v|^2 solves w^2 - (2 r p + u^2) w + |z|^2 p^2 = 0, p fed in, u held.

    From u = 1.04 pu, 57 kW through 0.06 + 0.03j ohm make 1.0598 pu where u = 1 makes 1.0206.
    """
    market = panels()
    found = acflow.flow(market.grid, jnp.asarray([[0.0], [-57.0]]), jnp.zeros((2, 1)))
    r, x = float(market.grid.resistance[0]), float(market.grid.reactance[0])
    half = r * 57 + HELD**2 / 2
    square = half + np.sqrt(half**2 - (r**2 + x**2) * 57**2)
    assert bool(found.ok[0])
    assert float(found.voltage[1, 0]) == pytest.approx(np.sqrt(square), abs=1e-10)
    assert float(found.voltage[0, 0]) == pytest.approx(HELD, abs=1e-12)


def test_a_plan_starts_from_it():
    """LinDistFlow: w at the end is 1.04^2 + 2 r p, so 1.05 pu leave room for 27.87 kW of sun."""
    market = panels(voltage_max=1.05)
    clearing = jg.clear(market)
    sent = 60.0 - float(clearing.plan.curtailed[0, 0]) - 3.0
    room = (1.05**2 - HELD**2) / (2 * float(market.grid.resistance[0]))
    assert sent == pytest.approx(room, rel=1e-5)
    assert float(model.voltages(market, clearing.plan)[0, 0]) == pytest.approx(HELD, abs=1e-6)
    exact = jg.clear_ac(market).flow  # losses leave more room than that
    assert float(exact.voltage.max()) == pytest.approx(1.05, abs=1e-6)


def test_as_other_programs():
    """Two feeders at voltages of their own, by hour, against two other programs."""
    rng = np.random.default_rng(5)
    size = 10 ** rng.uniform(-5.0, -4.6, (2, 6))
    held = np.array([[1.04, 1.02, 0.97], [1.0, 1.05, 1.01]])
    grid = jg.Grid(
        np.zeros((8, 3)), [0, 1, 2, 2, 3, 4], [2, 3, 4, 5, 6, 7], *size, feeder=(0, 1),
        feeder_voltage=held,
    )  # fmt: skip
    active, reactive = rng.uniform(-60, 90, (2, 8, 3))
    found = acflow.flow(grid, jnp.asarray(active), jnp.asarray(reactive))
    mine = np.asarray(found.voltage * jnp.exp(1j * found.angle))
    np.testing.assert_allclose(mine, by_pandapower(grid, active, reactive), 0, 1e-10)
    np.testing.assert_allclose(mine, by_power_grid_model(grid, active, reactive), 0, 1e-10)


def test_numbers_a_feeder_or_an_hour():
    """One number, one a feeder as a column, or one an hour."""
    made = {"passive": np.zeros((3, 2)), "source": [0], "target": [2], "feeder": (0, 1)}
    column, row = [[1.02], [1.04]], [[1.01, 1.03]]
    assert np.all(jg.Grid(**made).feeder_voltage == 1.0)
    np.testing.assert_allclose(
        jg.Grid(**made, feeder_voltage=column).feeder_voltage, np.broadcast_to(column, (2, 2))
    )
    np.testing.assert_allclose(
        jg.Grid(**made, feeder_voltage=row).feeder_voltage, np.broadcast_to(row, (2, 2))
    )


def test_volts_are_refused():
    market = panels(400.0)
    with pytest.raises(ValueError, match=r"Grid.feeder_voltage .*400 pu.*like 1.04"):
        jg.validate(market)


def test_files_keep_it_and_older_ones_had_none(tmp_path):
    """A folder without the table is of the time when all feeders stood at 1 pu."""
    market = feeder(feeder_voltage=[[1.01, 1.02, 1.03]])
    jg.save(tmp_path / "day", market)
    again, _ = jg.load(tmp_path / "day")
    np.testing.assert_array_equal(again.grid.feeder_voltage, market.grid.feeder_voltage)
    (tmp_path / "day" / "feeder_hours.csv").unlink()
    head = tmp_path / "day" / "market.json"
    head.write_text(head.read_text().replace('"version": 3', '"version": 1'))
    older, _ = jg.load(tmp_path / "day")
    np.testing.assert_array_equal(older.grid.feeder_voltage, np.ones((1, 3)))


def test_described():
    assert "fed at 1.04 pu" in str(panels())
    assert "fed at" not in str(panels(1.0))


def test_case_makers_keep_it():
    """A day on a grid held at 1.03 pu serves a bus at 1.0 pu that one held at 1 pu could not."""
    grid = jg.Grid([[0.0], [40.0]], [0], [1], 2e-4, 0.0, voltage_min=1.0, feeder_voltage=1.03)
    market = jg.cases.populate(grid, 4, hours=3, hour_length=4.0)
    np.testing.assert_allclose(market.grid.feeder_voltage, np.full((1, 3), 1.03))
    with pytest.raises(ValueError, match="below its voltage_min"):
        jg.cases.populate(replace(grid, feeder_voltage=1.0), 4, hours=3, hour_length=4.0)
    wide = replace(grid, voltage_min=0.9)
    made = jg.synthetic(prosumers=4, buses=2, seed=1, feeder=wide, hours=6)
    np.testing.assert_allclose(made.grid.feeder_voltage, np.full((1, 6), 1.03))
    changing = jg.Grid(
        [[1.0, 1.0], [40.0, 30.0]], [0], [1], 2e-4, 0.0, feeder_voltage=[[1.0, 1.02]]
    )
    with pytest.raises(ValueError, match="changes from hour to hour"):
        jg.synthetic(prosumers=4, buses=2, seed=1, feeder=changing, hours=6)
