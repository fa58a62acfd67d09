"""AC states in three phases: as other programs find them, in words, and with their limits."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxgne as jg
from jaxgne import acflow, acphases, frames
from jaxgne.indicators import summary
from jaxgne.phases import by_phase
from jaxgne.printed import table
from jaxgne.runner import by_numpy, to_host
from jaxgne.tight import spots
from tests import phase_cases
from tests.phase_cases import LOOP, needs_cases, without_zero_sequence
from tests.phased import PAIRS, TURN, Tree, market, random_tree, sweep


def solved(grid: jg.Grid, held: np.ndarray | None = None) -> acflow.Flow:
    """The AC state of what stands in a grid, by NumPy; `held` are other phasors of its feeders."""
    with by_numpy():
        grid = to_host(grid)
        drawn = grid.passive, grid.passive_reactive
        found = (
            acflow.flow(grid, *drawn) if held is None else acflow._flow(grid, to_host(held), *drawn)
        )
    assert np.all(found.ok)
    return found


def by_bus(found: acflow.Flow, phases: np.ndarray) -> np.ndarray:
    """Complex voltages (S, 3, H), nan where a phase is missing."""
    volts = np.asarray(found.voltage) * np.exp(1j * np.asarray(found.angle))
    whole = np.full((*phases.shape, volts.shape[1]), np.nan, complex)
    whole[phases] = volts[: phases.sum()]
    return whole


@pytest.mark.parametrize("seed", range(6))
def test_random_trees(seed):
    """Missing phases, taps by phase, what stands on two and three: as written with loops."""
    tree = random_tree(seed)
    grid = tree.grid()
    found = solved(grid)
    volts, current = sweep(tree)
    mine = by_bus(found, tree.phases)
    there = tree.phases
    np.testing.assert_allclose(mine[there], volts[there], atol=1e-9)
    conductors = int(there[1:].sum())
    size = np.abs(current[1:][there[1:]])
    np.testing.assert_allclose(found.current[:conductors], size, atol=1e-8)
    for k, (bus, kind) in enumerate(tree.spans):
        first = "abc".index(kind[0])
        seen = np.mean(np.abs(volts[bus]), axis=0)
        if kind != "abc":
            seen = np.abs(volts[bus, first] - volts[bus, (first + 1) % 3]) / np.sqrt(3)
        row, kva = int(there.sum()) + k, np.abs(tree.spanned[k])
        np.testing.assert_allclose(found.voltage[row], seen, atol=1e-9)
        np.testing.assert_allclose(found.apparent[conductors + k], kva, atol=1e-12)
        np.testing.assert_allclose(found.current[conductors + k], kva / seen, atol=1e-7)
    fall = np.einsum("spq,sqh->sph", tree.z[1:], current[1:])
    whole: Any = np.real(np.sum(fall * np.conj(current[1:]), axis=1))  # of each line
    power = found.active + 1j * found.reactive
    with by_numpy():
        host = to_host(grid)
        rows = acphases.of_lines(host, found.losses)[:conductors]
        neutral = acphases.neutrals(host, found.voltage, found.angle, power)[:conductors]
        factor = acphases.factors(host, found.voltage, found.angle)
    line = np.nonzero(there[1:])[0]
    np.testing.assert_allclose(rows, whole[line], atol=1e-8)
    drawn = tree.wye.sum(axis=(0, 1)) + tree.spanned.sum(axis=0)
    fed = np.sum(found.exchange, axis=0)
    np.testing.assert_allclose(fed, drawn.real + np.sum(found.losses, axis=0), atol=1e-9)
    returned: Any = np.abs(current[1:].sum(axis=1))
    np.testing.assert_allclose(neutral, returned[line], atol=1e-7)
    both: Any = [np.abs(np.einsum("p,sph->sh", np.conj(TURN) ** k, volts)) for k in (2, 1)]
    wanted: Any = np.where(np.all(there, axis=1, keepdims=True), both[0] / both[1], 0.0)
    first = np.nonzero(there)[1] == 0
    np.testing.assert_allclose(factor[: len(first)][first], wanted[there[:, 0]], atol=1e-9)
    assert not np.any(np.delete(factor, np.flatnonzero(first), axis=0))


@needs_cases
@pytest.mark.parametrize("name", phase_cases.names())
def test_reference_feeders(name):
    """Voltages to 1e-6 pu of OpenDSS, currents to 1e-3 A, powers to 1e-3 kVA, losses to 1e-4 kW.

    ieee37 has no neutral: only line voltages mean something, which three voltages 120 degrees apart
    have as well, and powers by phase go with the reference's own ground.
    """
    case = phase_cases.load(name)
    source, turn = (None, 1.0) if name != "ieee37" else without_zero_sequence(case.source)
    found = solved(case.grid(source))
    volts = turn * by_bus(found, case.phases)[..., 0]
    bus, phase = np.nonzero(case.phases[1:])
    near, far = (case.parent[1 + bus], phase), (1 + bus, phase)
    current = np.asarray(found.current)[: len(bus), 0] * case.ratio[far]
    np.testing.assert_allclose(current / case.kv[near[0]], case.ampere[far], 0, 1e-3)
    power = np.asarray(found.active + 1j * found.reactive)[: len(bus), 0]
    if name == "ieee37":
        np.testing.assert_allclose(volts @ LOOP.T, case.volts @ LOOP.T, 0, 1e-6)
        power = power * case.volts[near] / volts[near]
    else:
        np.testing.assert_allclose(volts[case.phases], case.volts[case.phases], 0, 1e-6)
    np.testing.assert_allclose(power, case.power[far], 0, 1e-3)
    assert float(found.losses.sum()) == pytest.approx(case.losses, abs=1e-4)


@needs_cases
def test_three_wires_as_pairs():
    """ieee37 in ab, bc, ca, from its source's own line voltages, not quite 120 degrees apart."""
    case = phase_cases.load("ieee37")
    lines = case.volts @ LOOP.T / np.sqrt(3)
    grid, held = case.pairs(), (LOOP @ case.source / np.sqrt(3))[:, None]
    found = solved(grid, held)
    volts = by_bus(found, case.phases)[..., 0]
    np.testing.assert_allclose(volts, lines, 0, 1e-6)
    power = np.asarray(found.active + 1j * found.reactive)[:, 0].reshape(-1, 3)
    pairs = np.conj(power / volts[case.parent[1:]]) / (np.sqrt(3) * case.kv[1:, None])
    np.testing.assert_allclose(np.abs(pairs @ LOOP), case.ampere[1:], 0, 1e-3)
    assert float(found.losses.sum()) == pytest.approx(case.losses, abs=1e-4)
    even = np.asarray(solved(grid).voltage)[:, 0].reshape(-1, 3)
    assert 1e-4 < np.max(np.abs(even - np.abs(lines))) < 5e-4  # what equal angles cost


@needs_cases
def test_what_the_balanced_equivalent_calls_safe():
    """At 1.8 times the load of European LV one phase is below 0.95 pu; the equivalent sees none."""
    case = phase_cases.load("european_lv")
    case = replace(case, wye=1.8 * case.wye, delta=1.8 * case.delta)
    own = np.trace(case.pu, axis1=1, axis2=2)
    one = (own / 3 - (case.pu.sum(axis=(1, 2)) - own) / 6)[1:] / 3
    load, size = case.wye.sum(axis=1, keepdims=True), len(case.kv)
    grid = jg.Grid(
        load.real, case.parent[1:], np.arange(1, size), one.real, one.imag,
        passive_reactive=load.imag, feeder_voltage=1.05,
    )  # fmt: skip
    assert float(solved(case.grid()).voltage.min()) < 0.945
    assert float(solved(grid).voltage.min()) > 1.0


@pytest.mark.parametrize("seed", range(4))
def test_as_opendss(seed):
    pytest.importorskip("dss", reason="needs dss-python")
    from tests.phase_power_flows import by_opendss

    tree = random_tree(seed)
    mine = by_bus(solved(tree.grid()), tree.phases)
    for hour in range(tree.hours):
        np.testing.assert_allclose(mine[:, :, hour], by_opendss(tree, hour), 0, 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_as_power_grid_model(seed):
    from tests.phase_power_flows import by_power_grid_model

    tree = random_tree(seed, whole=True, taps=False)
    three = [k for k, (_, kind) in enumerate(tree.spans) if kind == "abc"]
    spans = tuple(tree.spans[k] for k in three)
    tree = replace(tree, spans=spans, spanned=tree.spanned[three], source=np.full(3, 1.02))
    mine = by_bus(solved(tree.grid()), tree.phases)
    for hour in range(tree.hours):
        np.testing.assert_allclose(mine[:, :, hour], by_power_grid_model(tree, hour), 0, 1e-9)


def balanced(seed: int) -> tuple[Tree, jg.Grid]:
    """A tree of three equal phases, loads on each, between two and on three, and its equivalent.

    That has the impedance to the positive sequence, a third of it at the base of three phases.
    """
    rng, tree = np.random.default_rng(seed), random_tree(seed, whole=True)
    own, other = rng.uniform(2e-4, 6e-4, (2, 8, 2)) @ [1, 1.5j] * [[1.0], [0.4]]
    z = own[:, None, None] * np.eye(3) + other[:, None, None] * (1 - np.eye(3))
    z[0] = 0
    tap = np.repeat(np.mean(tree.tap, axis=1, keepdims=True), 3, axis=1)
    wye = np.repeat(tree.wye[:, :1], 3, axis=1)
    spans = (*((bus, kind) for bus in (3, 5) for kind in PAIRS), (4, "abc"))
    spanned = np.repeat(rng.uniform(0, 8, (3, 1, 2)) + 2j, 3, axis=1).reshape(9, 2)[:7]
    tree = replace(
        tree, z=z, tap=tap, wye=wye, spans=spans, spanned=spanned, source=np.full(3, 1.01)
    )
    load = wye.sum(axis=1)
    for (bus, _), power in zip(spans, spanned, strict=True):
        load[bus] += power
    one = (z[:, 0, 0] - z[:, 0, 1])[1:] / 3
    grid = jg.Grid(
        load.real, tree.parent[1:], np.arange(1, 8), one.real, one.imag, tap=1 / tap[1:, 0],
        passive_reactive=load.imag, feeder_voltage=1.01,
    )  # fmt: skip
    return tree, grid


@pytest.mark.parametrize("seed", range(3))
def test_three_equal_phases_are_the_balanced_equivalent(seed):
    tree, grid = balanced(seed)
    found, one = solved(tree.grid()), solved(grid)
    mine = by_bus(found, tree.phases)
    wanted = np.asarray(one.voltage * np.exp(1j * one.angle))
    np.testing.assert_allclose(mine, wanted[:, None] * TURN[:, None], 0, 1e-9)
    np.testing.assert_allclose(found.losses.sum(axis=0), one.losses.sum(axis=0), 0, 1e-8)
    np.testing.assert_allclose(found.exchange.sum(axis=0), one.exchange[0], 0, 1e-8)


def test_derivatives_and_lanes():
    """Through the conductors beside and what spans phases, against differences; by JAX as NumPy."""
    tree = random_tree(2, buses=5, hours=1)
    assert {kind for _, kind in tree.spans} >= {"ab", "abc"} and np.any(tree.tap != 1)
    grid = tree.grid()
    weight = np.random.default_rng(5).standard_normal(grid.passive.shape)

    def changed(scale):
        return replace(
            grid,
            resistance=grid.resistance * scale[0],
            mutual_reactance=grid.mutual_reactance * scale[1],
            feeder_voltage=grid.feeder_voltage * jnp.stack([scale[2], 1.0, 1.0])[:, None],
            tap=grid.tap * scale[3],
        ), grid.passive * scale[4]

    def outcome(scale):
        moved, active = changed(scale)
        found = acflow.flow(moved, active, grid.passive_reactive)
        return jnp.sum(weight * found.voltage) + 0.1 * jnp.sum(found.losses) + found.current[3, 0]

    at, step = jnp.ones(5), 1e-4
    points = jnp.concatenate([at + step * jnp.eye(5), at - step * jnp.eye(5), at[None]])
    values, slopes = jax.vmap(jax.value_and_grad(outcome))(points)
    differences = (values[:5] - values[5:10]) / (2 * step)
    np.testing.assert_allclose(slopes[-1], differences, rtol=1e-6, atol=1e-6)
    found = solved(grid)
    plain = np.sum(weight * found.voltage) + 0.1 * np.sum(found.losses) + found.current[3, 0]
    np.testing.assert_allclose(values[-1], plain, atol=1e-10)


def test_a_load_too_heavy_is_told():
    """An hour that asks for more than conductors carry has no state, the other has its own."""
    tree = random_tree(1, buses=4)
    heavy = replace(tree, wye=tree.wye * np.array([1.0, 400.0]))
    with by_numpy():
        grid = to_host(heavy.grid())
        found = acflow.flow(grid, grid.passive, grid.passive_reactive)
    np.testing.assert_array_equal(found.ok, [True, False])
    assert bool(found.examined)
    alone = by_bus(solved(tree.grid()), tree.phases)[..., 0]
    np.testing.assert_allclose(by_bus(found, tree.phases)[..., 0], alone, atol=1e-9)


def test_only_trees_are_examined():
    """A second conductor to a bus closes a loop, which sweeps in three phases do not take."""
    grid = random_tree(1, buses=4, whole=True).grid()
    lines = ("source", "target", "resistance", "reactance", "rating", "tap")
    twice = {name: jnp.append(getattr(grid, name), getattr(grid, name)[0]) for name in lines}
    looped = replace(grid, **twice)
    assert acflow.unexamined(grid) == ""
    assert "in three phases the AC power flow takes trees" in acflow.unexamined(looped)
    with by_numpy():
        host = to_host(looped)
        found = acflow.flow(host, host.passive, host.passive_reactive)
    assert not np.any(found.ok) and not bool(found.examined)


def test_a_plan_in_words():
    """The certificate names phases and hours, what is of all phases without one; files keep it."""
    one = market(3, rating=40.0, voltage_min=0.9, voltage_max=1.1)
    clearing = jg.clear(one)
    ac = clearing.certificate.ac
    assert ac is not None and ac.unbalance is not None
    flow = jg.ac_power_flow(one, clearing.plan)
    row, hour = divmod(int(ac.lowest_place), 3)
    assert float(ac.lowest) == float(flow.voltage[row, hour]) == float(flow.voltage.min())
    bus, then = divmod(int(ac.unbalance.factor_place), 3)
    name = one.grid.names[bus]
    volts = [
        flow.voltage[k, then] * np.exp(1j * flow.angle[k, then])
        for k in (one.grid.names.index(name[:-1] + p) for p in "abc")
    ]
    factor = abs(np.dot(np.conj(TURN) ** 2, volts)) / abs(np.dot(np.conj(TURN), volts))
    assert float(ac.unbalance.factor) == pytest.approx(factor, abs=1e-12)
    assert name.endswith(".a") and 0.005 < factor < 0.05
    words = str(clearing)
    assert "AC-safe (AC power flow of three phases)" in words
    assert f"(bus {one.grid.names[row]}, hour {hour})" in words
    assert f"unbalance up to {100 * factor:.2f} % (bus {name[:-2]}, hour {then})" in words
    facts = summary(one, clearing)["ac"]
    assert facts["lowest"]["bus"] == one.grid.names[row]
    assert facts["largest_unbalance"]["bus"] == name[:-2]
    line, _ = divmod(int(ac.unbalance.neutral_place), 3)
    assert "-".join(facts["largest_neutral"]["ends"]) == one.grid.line_names[line][:-2]
    lost = np.asarray(acphases.of_lines(one.grid, flow.losses))
    assert facts["largest_loss"]["kw"] == pytest.approx(lost.max(), abs=1e-12)
    console = Console(width=2000)
    with console.capture() as captured:
        console.print(table(one, clearing))
    assert "AC-safe (three phases)" in captured.get() and "neutrals up to" in captured.get()
    lines = frames.lines(one, clearing, kv=0.4)  # 40 kVA between a phase and ground at 231 V
    np.testing.assert_allclose(lines["rating_a"][0], 40 / (0.4 / np.sqrt(3)))


def test_three_wires_have_no_neutral():
    """ieee37 stands in pairs: nothing is told of a return; wires keep what pairs are rated at.

    A wire carries the difference of two pairs' currents, up to 2 / sqrt(3) of the larger in kVA.
    """
    one = jg.ieee37(6, hours=2, hour_length=6.0, grid="lindist3flow")
    clearing = jg.clear(one)
    ac = clearing.certificate.ac
    assert ac is not None and ac.unbalance is not None
    assert not bool(ac.unbalance.returns) and float(ac.unbalance.neutral) == 0
    words = str(clearing)
    assert "neutral" not in words and "% (bus 724, hour" in words
    assert "largest_neutral" not in summary(one, clearing)["ac"]
    console = Console(width=2000)
    with console.capture() as captured:
        console.print(table(one, clearing))
    assert "unbalance up to" in captured.get() and "neutral" not in captured.get()
    found, grid = jg.ac_power_flow(one, clearing.plan), one.grid
    volts = found.voltage * np.exp(1j * found.angle)
    power = np.asarray(found.active + 1j * found.reactive)
    current = np.conj(power / volts[grid.source]).reshape(-1, 3, 2)  # of ab, bc, ca
    np.testing.assert_allclose(np.abs(current).reshape(-1, 2), found.current, atol=1e-9)
    wires = np.abs(np.einsum("pw,lph->lwh", LOOP, current)) / np.sqrt(3)
    rating = np.asarray(grid.rating).reshape(-1, 3)
    np.testing.assert_array_equal(rating, rating[:, :1] + 0 * rating)
    most = np.abs(current).max(axis=1, keepdims=True)
    assert np.all(wires <= 2 / np.sqrt(3) * most + 1e-9)
    assert 0.5 < float(ac.loading) / np.max(wires / rating[..., None]) < 2
    assert np.max(wires / rating[..., None]) <= 2 / np.sqrt(3) * float(ac.loading)


def test_which_lines_have_a_return():
    """All in four wires; in pairs none, nor a single pair behind such, but a phase behind a wye."""
    tree = random_tree(0)
    with by_numpy():
        four = np.asarray(acphases.returning(to_host(tree.grid())))
    conductors = int(tree.phases[1:].sum())
    assert np.all(four[:conductors]) and not np.any(four[conductors:])
    z = np.array([np.diag([0.3 + 0.4j] * 3) + 0.1 + 0.2j] * 4) * 1e-4
    z[:2] = LOOP @ z[:2] @ LOOP.T / 3  # two lines in pairs, one of them ab alone; then phases
    phases = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1]], bool)
    grid = by_phase(phases, np.array([0, 1, 1, 3]), np.arange(1, 5), z.real, z.imag, hours=1)
    with by_numpy():
        found = np.asarray(acphases.returning(to_host(grid)))
    assert found.tolist() == [False] * 4 + [True] * 4


def test_files_keep_the_unbalance(tmp_path):
    one = market(3, rating=40.0, voltage_min=0.9, voltage_max=1.1)
    clearing = jg.clear(one)
    jg.io.save(tmp_path / "market", one, clearing)
    again = jg.io.load(tmp_path / "market")[1]
    assert again is not None
    assert eqx.tree_equal(again.certificate.ac, clearing.certificate.ac)


@pytest.mark.parametrize(("kind", "seed"), [("low", 4), ("high", 5), ("rating", 3)])
def test_ac_clearings_keep_limits_that_the_linear_model_breaks(kind, seed):
    """A limit that binds in the linear model, which errs both ways, holds on AC."""
    wide = market(seed, voltage_min=0.8, voltage_max=1.2)
    free = jg.clear(wide).plan
    volts = np.delete(np.asarray(jg.model.voltages(wide, free)), np.asarray(wide.grid.feeder), 0)
    limits: dict[str, Any] = {"voltage_min": 0.8, "voltage_max": 1.2} | {
        "low": {"voltage_min": volts.min() + 5e-4},
        "high": {"voltage_max": volts.max() - 5e-4},
        "rating": {"rating": 0.97 * np.hypot(free.active, free.reactive).max()},
    }[kind]
    one = market(seed, **limits)
    clearing = jg.clear(one)
    ac = clearing.certificate.ac
    assert ac is not None and not bool(ac.safe)
    found = spots(one, clearing.plan, 1)
    worst, each = ("line", ac.loading_place) if kind == "rating" else ("bus", ac.excess_place)
    at = found["what"].index(worst)
    names = one.grid.line_names if kind == "rating" else one.grid.names
    assert found["name"][at] == names[int(each) // 3]
    assert np.isnan(found["relief_kw"][at]) == (kind != "rating")
    flow, grid = jg.ac_power_flow(one, jg.clear_ac(one).clearing.plan), one.grid
    inside = np.delete(np.asarray(flow.voltage), np.asarray(grid.feeder), 0)
    assert limits["voltage_min"] - 2e-6 <= inside.min()
    assert inside.max() <= limits["voltage_max"] + 2e-6
    assert np.all(flow.current <= (1 + 1.1e-4) * np.asarray(grid.rating)[:, None])


@pytest.mark.slow
def test_a_batch_is_certified_by_jax_as_one_market_by_numpy():
    one = market(3, rating=40.0, voltage_min=0.9, voltage_max=1.1)
    clearing = jg.clear(one)
    twice = jax.tree.map(lambda a: jnp.stack([a, a]), (one, clearing.plan, clearing.prices))
    batch = jg.certify(*twice).ac
    wanted = jg.certify(one, clearing.plan, clearing.prices).ac
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, np.stack([b, b]), atol=1e-9)


def test_lines_of_houses_are_no_conductors_of_another_line():
    """What houses with lines of their own draw returns by these, and by none that is beside."""
    one = market(0, voltage_min=0.5, voltage_max=1.5)
    wired = jg.devices.connection(one, [0, 1], 80.0)
    lines, fresh = one.grid.source.shape[0], wired.grid.source.shape[0]
    assert fresh == lines + 2
    values = jnp.arange(1.0, fresh + 1)[:, None]
    before = acphases.of_lines(one.grid, values[:lines])
    after = acphases.of_lines(wired.grid, values)
    np.testing.assert_array_equal(after[:lines], before)
    np.testing.assert_array_equal(after[lines:], values[lines:])
