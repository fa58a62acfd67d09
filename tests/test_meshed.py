"""AC states of grids with loops, currents as shares of ratings, and the three answers to "safe"."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow, model
from jaxgne.acflow import MOST_LOOPS, unexamined
from jaxgne.indicators import summary
from tests.power_flows import (
    by_pandapower,
    by_power_grid_model,
    loading_by_pandapower,
    meshed,
)


@pytest.mark.parametrize("name", ["ring", "twins", "lattice", "two feeders"])
def test_as_other_programs(name):
    """Voltages and angles to 1e-9 pu; currents as shares of ratings in ampere; power balances."""
    rng = np.random.default_rng(11)
    grid = meshed(name, rng)
    active, reactive = rng.uniform(-30, 60, (2, 10, 3))
    found = acflow.flow(grid, jnp.asarray(active), jnp.asarray(reactive))
    assert np.all(found.ok)
    mine = np.asarray(found.voltage * jnp.exp(1j * found.angle))
    np.testing.assert_allclose(mine, by_pandapower(grid, active, reactive), 0, 1e-9)
    np.testing.assert_allclose(mine, by_power_grid_model(grid, active, reactive), 0, 1e-9)
    loading = 100 * np.asarray(found.current) / np.asarray(grid.rating)[:, None]
    theirs = loading_by_pandapower(grid, active, reactive)
    np.testing.assert_allclose(loading, theirs, rtol=1e-7, atol=1e-6)
    fed = active.sum(axis=0) + np.asarray(found.losses).sum(axis=0)
    np.testing.assert_allclose(np.asarray(found.exchange).sum(axis=0), fed, rtol=1e-9)


def test_a_tree_has_the_same_currents_as_elsewhere():
    """At 0.9 pu, x kVA are x / 0.9 of the ampere that a rating of x kVA at 1 pu stands for."""
    grid = jg.Grid([[0.0], [0.0]], [0], [1], 2e-3, 1e-3, rating=50.0)
    active, reactive = np.array([[0.0], [40.0]]), np.array([[0.0], [5.0]])
    found = acflow.flow(grid, jnp.asarray(active), jnp.asarray(reactive))
    kva = np.hypot(40.0, 5.0)
    assert float(found.voltage[1, 0]) < 0.92
    assert float(found.current[0, 0]) == pytest.approx(kva / float(found.voltage[1, 0]), rel=1e-9)
    theirs = loading_by_pandapower(grid, active, reactive)
    assert 2 * float(found.current[0, 0]) == pytest.approx(theirs[0, 0], rel=1e-8)


def test_equal_lines_side_by_side_are_one_of_half_the_impedance():
    """Each carries half of what the one does."""
    made = {"passive": np.zeros((3, 1)), "model": "paper"}
    both = jg.Grid(source=[0, 0, 1], target=[1, 1, 2], resistance=1e-4, reactance=6e-5, **made)
    ohms = {"resistance": [5e-5, 1e-4], "reactance": [3e-5, 6e-5]}
    one = jg.Grid(source=[0, 1], target=[1, 2], **ohms, **made)
    active, reactive = jnp.asarray([[0.0], [200.0], [90.0]]), jnp.asarray([[0.0], [20.0], [30.0]])
    found, merged = (acflow.flow(grid, active, reactive) for grid in (both, one))
    np.testing.assert_allclose(found.voltage, merged.voltage, atol=1e-12)
    np.testing.assert_allclose(found.current[:2, 0], merged.current[0, 0] / 2)
    np.testing.assert_allclose(found.current[2], merged.current[1])


def test_derivatives_and_lanes():
    """Through loops' currents too, against central differences; lanes are flows of their own."""
    rng = np.random.default_rng(3)
    grid = meshed("lattice", rng)
    active, reactive = jnp.asarray(rng.uniform(-30, 60, (2, 10, 3)))
    weight = jnp.asarray(rng.standard_normal(active.shape))

    def outcome(scale):
        changed = replace(
            grid,
            resistance=grid.resistance * scale[0],
            feeder_voltage=grid.feeder_voltage * scale[2],
        )
        found = acflow.flow(changed, active * scale[1], reactive)
        return jnp.sum(weight * found.voltage) + 0.1 * jnp.sum(found.losses)

    at, step = jnp.ones(3), 1e-5
    found, forward = jax.grad(outcome)(at), jax.jacfwd(outcome)(at)
    for k in range(3):
        move = step * jnp.eye(3)[k]
        wanted = float((outcome(at + move) - outcome(at - move)) / (2 * step))
        assert float(found[k]) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert float(forward[k]) == pytest.approx(float(found[k]), rel=1e-8, abs=1e-8)
    lanes = jax.vmap(lambda k: acflow.flow(grid, k * active, reactive))(jnp.asarray([0.5, 1.0]))
    alone = acflow.flow(grid, active, reactive)
    np.testing.assert_allclose(lanes.voltage[1], alone.voltage, atol=1e-11)


def ring(load: float = 20.0, rating: float = 60.0) -> jg.Market:
    """Three customers round a ring of four buses."""
    return jg.Market(
        jg.Prosumers([1, 2, 3], [[load, 30.0], [10.0, 20.0], [15.0, 5.0]]),
        jg.Grid(
            np.zeros((4, 2)), [0, 1, 2, 3], [1, 2, 3, 0], 1e-4, 5e-5, rating=rating,
            model="paper", reactive_balance=True,
        ),
        jg.Tariff(1e-3, hours=2, base=0.2),
        jg.Generators([1], [40.0], hours=2, linear=0.5),
    )  # fmt: skip


def test_yes_and_no():
    """A ring is examined; more than its lines carry is a no with its reason."""
    market = ring()
    clearing = jg.clear(market)
    ac = clearing.certificate.ac
    assert ac is not None and ac.answer is True
    assert summary(market, clearing)["ac"]["safe"] is True
    heavy = eqx.tree_at(lambda m: m.grid.passive, market, market.grid.passive.at[2, 0].set(1e5))
    judged = jg.certify(heavy, model.zeros(heavy), model.rows_like(heavy))
    assert judged.ac is not None and judged.ac.answer is False
    assert "does not converge; hour 0 asks more" in str(judged)


def test_a_ring_keeps_its_limits():
    """Its voltage limit lies between what the linear model says and the AC state is."""
    market = ring(load=200.0, rating=np.inf)
    clearing = jg.clear(market)
    linear = float(clearing.plan.voltage.min())
    true = float(jg.ac_power_flow(market, clearing.plan).voltage.min())
    assert true < linear - 2e-4
    edge = eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(4, linear - 5e-5))
    plain = jg.clear(edge).certificate.ac
    assert plain is not None and plain.answer is False
    found = jg.clear_ac(edge)
    low = float(jg.ac_power_flow(edge, found.clearing.plan).voltage.min())
    assert low == pytest.approx(linear - 5e-5, abs=1e-6)


def test_not_examined():
    """A bus that no line reaches and that uses nothing: the market clears, its AC state is open."""
    people, tariff = jg.Prosumers([1], [[3.0]]), jg.Tariff(1e-3, hours=1)
    grid = jg.Grid(np.zeros((3, 1)), [0], [1], 1e-4, 1e-4, model="paper", reactive_balance=True)
    market = jg.validate(jg.Market(people, grid, tariff))
    clearing = jg.clear(market)
    ac = clearing.certificate.ac
    assert ac is not None and ac.answer is None and not bool(ac.safe)
    assert "AC-safe: not examined" in str(clearing) and "NOT AC-safe" not in str(clearing)
    assert summary(market, clearing)["ac"] == {"safe": None, "examined": False}
    for call in (jg.clear_ac, lambda m: jg.ac_power_flow(m, clearing.plan)):
        with pytest.raises(ValueError, match="a path leads from a feeder bus to each other bus"):
            call(market)


def test_what_cannot_be_examined_says_why():
    """Loops without impedance have no determined currents; hundreds of loops are too many."""
    bare = jg.Grid(np.zeros((3, 1)), [0, 1, 2], [1, 2, 0], 0.0, 0.0, model="paper")
    assert "without impedance close a loop" in unexamined(bare)
    assert not np.any(acflow.flow(bare, jnp.ones((3, 1)), jnp.zeros((3, 1))).ok)
    many = [0] * (MOST_LOOPS + 2)
    crowd = jg.Grid(np.zeros((2, 1)), many, [1] * len(many), 1e-4, 1e-4, model="paper")
    assert f"{MOST_LOOPS + 1} lines close loops" in unexamined(crowd)
    assert unexamined(ring().grid) == ""


def test_lines_side_by_side_are_merged_by_whoever_asks():
    """The sentence gives the line that the three make: 1 / (1/2 + 1/2 + 1/4) of the impedance.

    At 1e-4 pu/kW that is 8e-5; the first line then has 0.4 of the current and is full at 25 kVA of
    62.5, before the second (40 of 100) and the third (20 of 100).
    """
    grid = jg.Grid(
        np.zeros((2, 1)), [0, 0, 1], [1, 1, 0], [2e-4, 2e-4, 4e-4], [1e-4, 1e-4, 2e-4],
        rating=[25.0, 40.0, 60.0],
    )  # fmt: skip
    market = jg.Market(jg.Prosumers([1], [[3.0]]), grid, jg.Tariff(1e-3, hours=1))
    with pytest.raises(
        ValueError, match=r"row 1: .*beside row 0; .* resistance 8e-05 and reactance 4e-05 .*62\.5"
    ):
        jg.validate(market)
