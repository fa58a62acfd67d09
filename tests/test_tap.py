"""Transformers: by hand, against the oracle and a dense power flow, as a change of base."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow, model
from tests.agreement import SOLVERS, check_agreement
from tests.markets import GRIDS, feeder, random_market
from tests.power_flows import meshed
from tests.reference import solve

TAPS = [0.97, 1.0, 1.02, 0.985]


def with_taps(grid: jg.Grid, seed: int) -> jg.Grid:
    rng = np.random.default_rng(seed)
    return replace(grid, tap=jnp.asarray(rng.uniform(0.96, 1.04, grid.source.shape)))


def by_newton(grid: jg.Grid, active: np.ndarray, reactive: np.ndarray) -> np.ndarray:
    """Complex voltages of one hour, by Newton's method on MATPOWER's admittances:

    y_ff = y / tap^2, y_ft = y_tf = -y / tap, y_tt = y.
    """
    source, target, tap = (np.asarray(a) for a in (grid.source, grid.target, grid.tap))
    y = 1 / (np.asarray(grid.resistance) + 1j * np.asarray(grid.reactance))
    matrix = np.zeros((len(active), len(active)), complex)
    np.add.at(matrix, (source, source), y / tap**2)
    np.add.at(matrix, (target, target), y)
    np.add.at(matrix, (source, target), -y / tap)
    np.add.at(matrix, (target, source), -y / tap)
    fed = np.asarray(grid.feeder)
    volts = np.ones(len(active), complex)
    volts[fed] = np.asarray(grid.feeder_voltage)[:, 0]
    inner = np.setdiff1d(np.arange(len(active)), fed)

    def lacking(x: np.ndarray) -> np.ndarray:
        volts[inner] = x[: len(inner)] + 1j * x[len(inner) :]
        off = (volts * np.conj(matrix @ volts) + active + 1j * reactive)[inner]
        return np.concatenate([off.real, off.imag])

    x = np.concatenate([np.ones(len(inner)), np.zeros(len(inner))])
    for _ in range(20):  # quadratic in x: central differences are exact
        at = lacking(x)
        steps = np.eye(len(x))
        slope = np.stack([(lacking(x + s) - lacking(x - s)) / 2 for s in steps], axis=1)
        x = x - np.linalg.solve(slope, at)
    assert np.abs(lacking(x)).max() < 1e-6
    return volts


@pytest.mark.parametrize("name", ["ring", "twins", "lattice", "two feeders"])
def test_ac_states(name):
    """Taps of any size, lines in any direction, also in loops; currents behind transformers."""
    rng = np.random.default_rng(3)
    grid = with_taps(meshed(name, rng), 4)
    active, reactive = rng.uniform(-30, 60, (2, 10, 3))
    found = acflow.flow(grid, jnp.asarray(active), jnp.asarray(reactive))
    one = replace(grid, feeder_voltage=grid.feeder_voltage[:, :1])
    volts = by_newton(one, active[:, 0], reactive[:, 0])
    mine = np.asarray(found.voltage * jnp.exp(1j * found.angle))[:, 0]
    np.testing.assert_allclose(mine, volts, 0, 1e-9)
    drop = volts[grid.source] / np.asarray(grid.tap) - volts[grid.target]
    current = drop / (np.asarray(grid.resistance) + 1j * np.asarray(grid.reactance))
    np.testing.assert_allclose(found.current[:, 0], np.abs(current), 1e-6)
    sent = volts[grid.source] / np.asarray(grid.tap) * np.conj(current)
    np.testing.assert_allclose(found.active[:, 0], sent.real, 1e-6, 1e-4)
    fed = active.sum(axis=0) + np.asarray(found.losses).sum(axis=0)
    np.testing.assert_allclose(np.asarray(found.exchange).sum(axis=0), fed, rtol=1e-7)


def test_pandapower_s_transformers():
    """A radial net of 20, 10 and 0.4 kV: taps of +5 % at one high side, -4.5 % at one low.

    A tap at the low side is one of 1 / (1 + step) at the high side, with an impedance (1 + step)^2
    times as large. The second transformer is also given the other way round: 1 / tap, z tap^2.
    """
    import pandapower as pp  # takes seconds

    net, kv = pp.create_empty_network(), [20.0, 10.0, 10.0, 0.4, 0.4]
    for vn in kv:
        pp.create_bus(net, vn_kv=vn)
    pp.create_ext_grid(net, 0, vm_pu=1.01)
    kind: Any = {"pfe_kw": 0.0, "i0_percent": 0.0, "tap_neutral": 0, "tap_changer_type": "Ratio"}
    pp.create_transformer_from_parameters(
        net, 0, 1, 2.0, 20.0, 10.0, vkr_percent=0.9, vk_percent=6.0,
        tap_side="hv", tap_step_percent=2.5, tap_pos=2, **kind)  # fmt: skip
    pp.create_transformer_from_parameters(
        net, 2, 3, 0.4, 10.0, 0.4, vkr_percent=1.4, vk_percent=4.0,
        tap_side="lv", tap_step_percent=1.5, tap_pos=-3, **kind)  # fmt: skip
    wires: Any = {"c_nf_per_km": 0.0, "max_i_ka": 1.0}
    pp.create_line_from_parameters(net, 1, 2, 1.0, 0.8, 0.4, **wires)
    pp.create_line_from_parameters(net, 3, 4, 1.0, 0.02, 0.01, **wires)
    active, reactive = [0.0, 300.0, 50.0, 80.0, 150.0], [0.0, 90.0, 10.0, 30.0, 60.0]
    for bus in range(1, 5):
        pp.create_load(net, bus, p_mw=1e-3 * active[bus], q_mvar=1e-3 * reactive[bus])
    pp.runpp(net, init="flat", tolerance_mva=1e-10, numba=False)

    high, low = 1 + 2 * 0.025, 1 - 3 * 0.015
    z = np.array(
        [
            (0.009 + 1j * np.sqrt(0.06**2 - 0.009**2)) / 2000,
            (0.8 + 0.4j) * 1e-3 / 10**2,
            (0.014 + 1j * np.sqrt(0.04**2 - 0.014**2)) / 400 * low**2,
            (0.02 + 0.01j) * 1e-3 / 0.4**2,
        ]
    )  # pu/kW
    turned = np.array([1.0, 1.0, 1 / low**2, 1.0])
    for source, target, tap, each in (
        ([0, 1, 2, 3], [1, 2, 3, 4], [high, 1.0, 1 / low, 1.0], z),
        ([0, 1, 3, 3], [1, 2, 2, 4], [high, 1.0, low, 1.0], z * turned),
    ):
        grid = jg.Grid(np.zeros((5, 1)), source, target, np.real(each), np.imag(each), tap=tap,
                       feeder_voltage=1.01)  # fmt: skip
        found = acflow.flow(grid, *(jnp.asarray(a)[:, None] for a in (active, reactive)))
        np.testing.assert_allclose(found.voltage[:, 0], net.res_bus.vm_pu, 0, 1e-6)
        np.testing.assert_allclose(np.rad2deg(found.angle[:, 0]), net.res_bus.va_degree, 0, 1e-5)
        lost = 1e3 * np.concatenate([net.res_trafo.pl_mw, net.res_line.pl_mw])[[0, 2, 1, 3]]
        np.testing.assert_allclose(found.losses[:, 0], lost, 1e-6)
        np.testing.assert_allclose(found.exchange[0, 0], 1e3 * net.res_ext_grid.p_mw[0], 1e-6)


@pytest.mark.parametrize("grid", GRIDS[:3])
@pytest.mark.parametrize("seed", range(4))
def test_random_markets(seed, grid):
    market = random_market(seed, grid=grid)
    market = replace(market, grid=with_taps(market.grid, seed))
    clearing = jg.clear(market, jg.InteriorPoint(), tol=1e-7, runner="numpy", throw=False)
    oracle = solve(market)
    assert bool(clearing.ok) == (oracle.status == "solved")
    if clearing.ok:
        check_agreement(market, clearing, oracle)


@pytest.mark.parametrize("name", ["primal-dual", pytest.param("mechanism", marks=pytest.mark.slow)])
def test_solvers(name):
    solver, tol, most = SOLVERS[name]
    market = feeder(tap=TAPS)
    check_agreement(market, jg.clear(market, solver, tol=tol, max_steps=most), solve(market))


def test_a_change_of_base():
    """A tap t on the first line is a base t times as high at all buses behind it."""
    market, t = feeder(tap=[0.97, 1.0, 1.0, 1.0], voltage_min=0.96), 0.97
    behind, lines = jnp.asarray([0, 1, 1, 1, 0]), jnp.asarray([1, 1, 1, 0])
    volts, ohms = jnp.where(behind, t, 1.0), jnp.where(lines, t**2, 1.0)
    grid = market.grid
    plain = replace(
        grid,
        tap=jnp.ones(4),
        resistance=grid.resistance * ohms,
        reactance=grid.reactance * ohms,
        voltage_min=grid.voltage_min * volts,
        voltage_max=grid.voltage_max * volts,
    )
    other = replace(market, grid=plain)
    one, two = (jg.clear(each, tol=1e-10, runner="numpy") for each in (market, other))
    np.testing.assert_allclose(one.costs, two.costs, 0, 1e-7)
    scale = volts[:, None]
    np.testing.assert_allclose(one.plan.voltage * scale**2, two.plan.voltage, 0, 1e-8)
    flows = [jg.ac_power_flow(each, one.plan) for each in (market, other)]
    np.testing.assert_allclose(flows[0].voltage * scale, flows[1].voltage, 0, 1e-10)
    np.testing.assert_allclose(flows[0].losses, flows[1].losses, 0, 1e-9)


def test_oriented_turns_transformers():
    """The AC state and the shares of ratings stay what they are."""
    grid = feeder(tap=TAPS, rating=60.0).grid
    turned = replace(grid, source=grid.target[::-1], target=grid.source[::-1], tap=grid.tap[::-1],
                     resistance=grid.resistance[::-1], reactance=grid.reactance[::-1])  # fmt: skip
    found = jg.oriented(turned)
    states = [acflow.flow(each, grid.passive, grid.passive_reactive) for each in (turned, found)]
    np.testing.assert_allclose(states[0].voltage, states[1].voltage, 0, 1e-10)
    used = [np.sort(s.current / g.rating[:, None], axis=0)
            for s, g in zip(states, (turned, found), strict=True)]  # fmt: skip
    np.testing.assert_allclose(used[0], used[1], 1e-7, 1e-9)


@pytest.mark.parametrize("runner", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
def test_derivatives(runner):
    """Of costs, where voltages bind, against clears a little to either side."""
    market = feeder(tap=TAPS, voltage_min=0.996)

    def costs(tap: jax.Array) -> jax.Array:
        there = replace(market, grid=replace(market.grid, tap=tap))
        return jnp.sum(jg.clear(there, tol=1e-9, runner=runner).costs)

    tap, step = market.grid.tap, 1e-5
    found = jax.grad(costs)(tap)
    moves = step * np.eye(4)
    wanted = [(costs(tap + move) - costs(tap - move)) / (2 * step) for move in moves]
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(found, wanted, 1e-3, 1e-4)
    if runner == "jax":
        along = jax.jvp(costs, (tap,), (jnp.ones(4),))[1]
        np.testing.assert_allclose(along, jnp.sum(found), 1e-4)


def test_kilovolts_are_refused():
    with pytest.raises(ValueError, match=r"Grid\.tap.*50 is no tap ratio per unit"):
        jg.validate(feeder(tap=20 / 0.4))
    with pytest.warns(UserWarning, match=r"Grid\.tap.*0\.6 is further from 1"):
        jg.validate(feeder(tap=[0.6, 1.0, 1.0, 1.0]))


def test_files_keep_them(tmp_path):
    market = feeder(tap=TAPS)
    jg.save(tmp_path / "day", market)
    np.testing.assert_array_equal(jg.load(tmp_path / "day")[0].grid.tap, TAPS)


def test_a_line_sees_what_its_transformer_makes():
    """v_source^2 / tap^2 - v_target^2 = 2 (r p + x q)."""
    market = feeder(tap=TAPS)
    clearing, grid = jg.clear(market, tol=1e-9, runner="numpy"), market.grid
    plan, square = clearing.plan, model.voltages(market, clearing.plan) ** 2
    fall = 2 * (grid.resistance[:, None] * plan.active + grid.reactance[:, None] * plan.reactive)
    behind = square[grid.source] / np.asarray(TAPS)[:, None] ** 2
    np.testing.assert_allclose(behind - square[grid.target], fall, 0, 1e-8)
