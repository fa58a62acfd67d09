"""The AC power flow against other programs, against differences, and what certificates say."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import acflow, acloops, model
from jaxgne.cases.feeders import ieee37_feeder, ieee123_feeder, table
from tests.markets import feeder
from tests.power_flows import by_pandapower, by_power_grid_model

PUBLISHED = {"ieee37": ieee37_feeder, "ieee123": ieee123_feeder}
VOLTAGES = Path(__file__).parent / "data" / "ieee37_voltages.csv"

# Ohm per mile of one phase alone, by the positive-sequence resistance of IEEE 37's configurations.
SELF = {0.227: 0.2926 + 0.1973j, 0.317: 0.4751 + 0.2973j, 0.819: 1.2936 + 0.6713j}
SELF |= {1.588: 2.0952 + 0.7758j}


def checked(market: jg.Market, plan: jg.Plan) -> acflow.Safety:
    found = acflow.check(market, plan)
    assert found is not None
    return found


def grid_of(name: str, rng: np.random.Generator) -> tuple[jg.Grid, np.ndarray, np.ndarray]:
    """A feeder and its spot loads."""
    if name in PUBLISHED:
        made = PUBLISHED[name]()
        lines = (made.source, made.target, made.resistance, made.reactance)
        return jg.Grid(made.load[:, None], *lines), made.load, made.reactive
    buses = 30
    target = np.arange(2 if name == "two feeders" else 1, buses)
    parent = np.array([rng.integers(max(0, t - 3 if name == "deep" else 0), t) for t in target])
    size = 10 ** rng.uniform(-5.3, -4.6, (2, len(target)))
    size[:, 3] = 1e-8  # a line without impedance; the other program needs some
    fed = (0, 1) if name == "two feeders" else (0,)
    load = rng.uniform(0, 40, buses)
    return jg.Grid(load[:, None], parent, target, *size, feeder=fed), load, 0.4 * load


@pytest.mark.parametrize(("source", "target", "lines"), [([0], [1], 1), ([1], [0], -1)])
def test_a_line_between_feeders_is_fed_by_one_and_feeds_the_other(source, target, lines):
    """1.02 pu - 1 pu over 1e-3 pu/kW: 20 kVA at 1 pu leave bus 0, 20.4 kW, and 20 kW reach bus 1.

    They draw 5 and 3 kW, so that the main grid gives 25.4 kW to one and takes 17 kW at the other.
    """
    grid = jg.Grid(np.zeros((2, 1)), source, target, 1e-3, 0.0, feeder=[0, 1],
                   feeder_voltage=[1.02, 1.0])  # fmt: skip
    found = acflow.flow(grid, jnp.array([[5.0], [3.0]]), jnp.zeros((2, 1)))
    assert np.allclose(found.exchange[:, 0], [25.4, -17.0], atol=1e-9)
    assert np.allclose(found.active[0, 0], 20.4 if lines > 0 else -20.0, atol=1e-9)
    assert np.allclose(found.losses, 0.4, atol=1e-9)


@pytest.mark.parametrize("name", ["ieee37", "ieee123", "bush", "deep", "two feeders"])
def test_as_other_programs(name):
    """Voltages, angles and the power fed in, drawing and feeding back."""
    rng = np.random.default_rng(7)
    grid, load, reactive = grid_of(name, rng)
    factors = np.array([1.0, 0.0, -1.0, 1.4, *rng.uniform(-1.5, 1.5, 4)])
    spread = rng.uniform(0.3, 1.7, (len(load), len(factors)))
    active, other = load[:, None] * spread * factors, reactive[:, None] * spread
    found = acflow.flow(grid, jnp.asarray(active), jnp.asarray(other))
    assert np.all(found.ok)
    mine = np.asarray(found.voltage * jnp.exp(1j * found.angle))
    np.testing.assert_allclose(mine, by_pandapower(grid, active, other), 0, 1e-10)
    if name != "ieee123":  # its closed switches are lines without impedance
        volts = by_power_grid_model(grid, active, other)
        np.testing.assert_allclose(mine, volts, 0, 1e-10)
    fed = active.sum(axis=0) + np.asarray(found.losses).sum(axis=0)
    np.testing.assert_allclose(np.asarray(found.exchange).sum(axis=0), fed, rtol=1e-9, atol=1e-7)


def test_ieee37_at_spot_load():
    """The published balanced state: 0.9572 pu, losses of 58.9 kW (three other programs)."""
    grid, load, reactive = grid_of("ieee37", np.random.default_rng(0))
    found = acflow.flow(grid, jnp.asarray(load)[:, None], jnp.asarray(reactive)[:, None])
    assert float(found.voltage.min()) == pytest.approx(0.9572, abs=1e-4)
    assert float(found.losses.sum()) == pytest.approx(58.9, abs=0.05)
    assert float(found.apparent.max()) > float(jnp.hypot(load.sum(), reactive.sum()))


def test_ieee37_as_published():
    """The mean of the three published voltages, to 0.0006 pu of a fall of 0.041; no other grid's.

    Unbalance and the published loads of constant current or impedance explain that much, while one
    pair of phases falls by 0.009 pu more than the balanced equivalent. From the regulator on.
    """
    names, *columns = np.loadtxt(VOLTAGES, str, delimiter=",", skiprows=3, unpack=True)
    published = dict(zip(names.tolist(), np.array(columns, float).T, strict=True))
    made = ieee37_feeder()
    volts = np.array([published["RG7"], *(published[bus] for bus in made.names[1:])])
    base = volts[0].mean()
    impedance = made.resistance + 1j * made.reactance
    mile = np.array(table("ieee37_lines")["length_ft"], float) / 5280
    ours = 1000 * 4.8**2 * impedance / mile
    own = np.array([SELF[round(z.real, 3)] for z in ours]) * impedance / ours

    def found(impedance: np.ndarray) -> np.ndarray:
        ohms = impedance / base**2
        grid = jg.Grid(made.load[:, None], made.source, made.target, ohms.real, ohms.imag)
        drawn = (jnp.asarray(a)[:, None] for a in (made.load, made.reactive))
        return base * np.asarray(acflow.flow(grid, *drawn).voltage[:, 0])

    def error(impedance: np.ndarray) -> float:
        return np.abs(found(impedance) - volts.mean(axis=1)).max()

    assert error(impedance) < 6e-4
    for wrong in (0.7 * impedance, 0.9 * impedance, 1.1 * impedance, 1.3 * impedance, own):
        assert error(wrong) > 3e-3
    more = (volts[0] - volts).T - (base - found(impedance))
    assert more.max() == pytest.approx(0.009, abs=5e-4)


def test_lines_may_point_either_way():
    """What leaves a line's source is what its other end gets, less the loss, turned round."""
    grid, load, reactive = grid_of("bush", np.random.default_rng(3))
    turned = replace(grid, source=grid.target[::-1], target=grid.source[::-1])
    turned = replace(turned, resistance=grid.resistance[::-1], reactance=grid.reactance[::-1])
    found, other = (
        acflow.flow(g, jnp.asarray(load)[:, None], jnp.asarray(reactive)[:, None])
        for g in (grid, turned)
    )
    np.testing.assert_allclose(found.voltage, other.voltage, atol=1e-12)
    np.testing.assert_allclose(found.apparent, other.apparent[::-1], rtol=1e-9, atol=1e-9)
    got = -found.active + found.losses
    np.testing.assert_allclose(other.active[::-1], got, rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_derivatives(seed):
    """Of a voltage and the losses, by both modes, against central differences."""
    rng = np.random.default_rng(seed)
    grid, load, reactive = grid_of("bush", rng)
    active = jnp.asarray(load)[:, None] * jnp.asarray([1.0, -0.6])
    weight = jnp.asarray(rng.standard_normal(active.shape))

    def outcome(scale):
        changed = replace(grid, resistance=grid.resistance * scale[0])
        found = acflow.flow(changed, active * scale[1], reactive[:, None] * scale[2])
        return jnp.sum(weight * found.voltage) + 0.1 * jnp.sum(found.losses)

    at, step = jnp.ones(3), 1e-5
    found = jax.grad(outcome)(at)
    forward = jax.jacfwd(outcome)(at)
    for k in range(3):
        move = step * jnp.eye(3)[k]
        wanted = float((outcome(at + move) - outcome(at - move)) / (2 * step))
        assert float(found[k]) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert float(forward[k]) == pytest.approx(float(found[k]), rel=1e-9, abs=1e-9)


def test_of_two_states_it_is_the_one_that_a_load_grows_into():
    """Two buses: v^2 is a root of v^4 - (1 - 2 (r p + x q)) v^2 + |z s|^2 = 0, two of them or none.

    The product of both is |z s|, so a sweep, whose derivative is z s / v^2, comes nearer to the
    upper one and leaves the lower one, from however near. Beyond the nose there is none, and it is
    said. Also for power that is fed in, and reactive power that lifts voltages above 1 pu.
    """
    z, angles = 2e-3 + 1e-3j, np.exp(1j * np.array([0.1, 0.8, 1.5, -0.6, -1.5, 2.0, 3.0, -2.0]))
    tilt = (z * np.conj(angles)).real
    nose = 1 / (2 * (tilt + abs(z)))  # where the discriminant is 0
    power = (np.array([0.3, 0.6, 0.9, 1.05])[:, None] * nose * angles).ravel()
    grid = jg.Grid(np.zeros((2, power.size)), [0], [1], z.real, z.imag)
    draws = [jnp.asarray(np.stack([0 * a, a])) for a in (power.real, power.imag)]
    found = acflow.flow(grid, *draws)
    middle = 1 - 2 * (z * np.conj(power)).real
    square = middle**2 - 4 * abs(z * power) ** 2
    there = square > 0
    assert there.reshape(4, -1).all(axis=1).tolist() == [True, True, True, False]
    np.testing.assert_array_equal(found.ok, there)
    upper, lower = (
        np.sqrt((middle + sign * np.sqrt(np.maximum(square, 0))) / 2)[there] for sign in (1, -1)
    )
    np.testing.assert_allclose(found.voltage[1][there], upper, rtol=1e-8)
    # v = 1 - z conj(s / v) says |v|^2 = conj(v) - z conj(s): magnitude and load give the phasor
    low = np.conj(lower**2 + z * np.conj(power[there]))
    near = jnp.asarray(np.stack([np.ones_like(low), low * (1 + 1e-6)]))
    drawn = jnp.asarray(np.stack([0 * low, power[there]]))
    source = jnp.asarray(np.stack([np.ones_like(low), 0 * low]))
    after, _ = acloops.wires(grid).sweep(source, drawn, near)
    exact, _ = acloops.wires(grid).sweep(source, drawn, near.at[1].set(low))
    np.testing.assert_allclose(exact[1], low, rtol=1e-9)
    assert np.all(np.abs(after[1] - low) > 1e-6 * np.abs(low))


def test_lanes_are_markets():
    market = feeder()
    plans = [replace(model.zeros(market), imports=jnp.full((4, 3), k)) for k in (0.0, 1.0)]
    plans = [replace(p, curtailed=k * p.imports) for k, p in enumerate(plans, 5)]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *plans)
    found = jax.vmap(lambda plan: jg.ac_power_flow(market, plan))(both)
    for lane, plan in enumerate(plans):
        alone = jg.ac_power_flow(market, plan)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[lane], b, atol=1e-12)


def test_more_than_lines_carry():
    """Only the hour that asks for it fails, and the certificate says so."""
    market = feeder()
    grid, power = market.grid, jnp.zeros((5, 3)).at[2, 1].set(5e3)
    found = acflow.flow(grid, power, 0 * power)
    assert found.ok.tolist() == [True, False, True]
    passive = market.grid.passive.at[2, 1].set(5e3)
    loaded = eqx.tree_at(lambda m: m.grid.passive, market, passive)
    judged = eqx.filter_jit(jg.certify)(loaded, model.zeros(loaded), model.rows_like(loaded))
    assert judged.ac is not None
    assert not bool(judged.ac.safe)
    assert judged.ac.answer is False
    assert "does not converge; hour 1 asks more of the lines than they carry" in str(judged)


def test_the_certificate_names_the_worst():
    """Places and amounts are those of the flow; safe is what limits and slack say."""
    market = feeder(rating=60.0, voltage_min=0.97)
    clearing = jg.clear(market)
    found, flow = clearing.certificate.ac, jg.ac_power_flow(market, clearing.plan)
    assert found is not None
    volts, used = np.asarray(flow.voltage), np.asarray(flow.current) / 60.0
    assert float(found.lowest) == volts.min()
    assert int(found.lowest_place) == volts.argmin()
    assert float(found.highest) == volts.max()
    assert float(found.loading) == used.max()
    assert int(found.loading_place) == used.argmax()
    assert float(found.losses) == pytest.approx(float(flow.losses.sum()))
    assert float(found.excess) == pytest.approx(max(0.0, 0.97 - volts.min()), abs=1e-12)
    for least, safe in ((volts.min() + 2e-4, False), (volts.min() + 5e-5, True)):
        tight = eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(5, least))
        assert bool(checked(tight, clearing.plan).safe) == safe
    for most, safe in ((used.max() * 60 / 1.002, False), (used.max() * 60 / 1.0005, True)):
        wide = eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(5, 0.9))
        tight = eqx.tree_at(lambda m: m.grid.rating, wide, jnp.full(4, most))
        assert bool(checked(tight, clearing.plan).safe) == safe
    assert "balanced equivalent" in str(clearing)


def test_a_closed_line_may_carry_rounding():
    """Rated 0, it is full only by more than a millionth of the load."""
    market = feeder()
    shut = eqx.tree_at(lambda m: m.grid.rating, market, market.grid.rating.at[3].set(0.0))
    own = shut.prosumers.load[3] + shut.grid.passive[4]
    for noise, safe in ((1e-9, True), (1.0, False)):
        loads = shut.prosumers.load.at[3].add(noise - own)
        reactive = shut.prosumers.reactive.at[3].set(-shut.grid.passive_reactive[4])
        quiet = eqx.tree_at(
            lambda m: (m.prosumers.load, m.prosumers.reactive), shut, (loads, reactive)
        )
        assert bool(checked(quiet, model.zeros(quiet)).loading <= 1) == safe


def test_what_it_refuses():
    market = feeder()
    grid = jg.Grid(np.ones((5, 3)), model="copperplate")
    flat = jg.Market(market.prosumers, grid, market.tariff)
    with pytest.raises(ValueError, match="copperplate has no grid"):
        jg.ac_power_flow(flat, model.zeros(flat))
    for source, target in (([0, 1, 1, 0], [1, 2, 3, 3]), ([0, 1, 2, 0], [1, 2, 3, 3])):
        lines = (jnp.asarray(source), jnp.asarray(target))
        wrong = eqx.tree_at(lambda m: (m.grid.source, m.grid.target), market, lines)
        with pytest.raises(ValueError, match="has no path to a feeder bus; add the missing line"):
            jg.ac_power_flow(wrong, model.zeros(wrong))
        found = checked(wrong, model.zeros(wrong))
        assert found.answer is None and not bool(found.safe)


@pytest.mark.slow  # compiles for half a minute
def test_where_jax_is_in_32_bit_mode():
    """A market is built, cleared and checked by a process that never heard of float64."""
    script = """
import jaxgne as jg
people, tariff = jg.Prosumers([1], [[5.0, 4.0]]), jg.Tariff(0.01, hours=2)
grid = jg.Grid([[0.0, 0.0], [1.0, 1.0]], [0], [1], 1e-4, 1e-4, rating=50.0)
clearing = jg.clear(jg.Market(people, grid, tariff))
print(clearing.plan.imports.dtype, bool(clearing.certificate.ac.safe))
drawn = [[0.0, 0.0], [100.0, 100.0]]
hot = jg.Grid(grid.passive, [0], [1], 1e-4, 1e-4, rating=50.0, passive_reactive=drawn)
try:
    jg.clear(jg.Market(people, hot, tariff))
except jg.NotCleared as problem:
    print(problem)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    first, then = run.stdout.splitlines()
    assert first == "float32 True"
    assert then.startswith("infeasible: Grid.rating of line 0 (0-1) in hour")
    assert "raise it or Grid.compensation_max behind it." in then


def test_single_precision_markets():
    """The flow is in float64 whatever the market is."""
    market = feeder()
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, market)
    plan = jax.tree.map(lambda a: a.astype(jnp.float32), model.zeros(market))
    found = jg.ac_power_flow(narrow, plan)
    assert found.voltage.dtype == jnp.float64
    np.testing.assert_allclose(
        found.voltage, jg.ac_power_flow(market, model.zeros(market)).voltage, atol=1e-7
    )
