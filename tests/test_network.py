"""What all importers share: networks made smaller without moving a voltage, and reports on it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.io.assembly import grid_of, tree_of
from jaxgne.io.network import Branches, Buses, Network, distinct, joined, per_unit
from jaxgne.io.notes import CODES, ImportReport, Notebook
from jaxgne.io.reducing import reduce
from jaxgne.io.steady import steady
from jaxgne.runner import by_numpy, to_host

NONE = np.zeros((0, 2), int)


def network(ends: Any, ties: Any = NONE, *, seed: int = 0, **columns: Any) -> Network:
    """Load and charging on given branches of 0.4 kV, the first bus at 1.03 pu."""
    rng = np.random.default_rng(seed)
    source, target = np.array(ends).T
    count = int(max(source.max(), target.max())) + 1
    rows, first = np.arange(count), np.arange(count) == 0
    load = np.where(first, 0, rng.uniform(1, 9, count) + 1j * rng.uniform(0, 3, count))
    told = Buses(
        [f"bus {k}" for k in rows], ["street"] * count, 0.4, load=load,
        held=np.where(first, 1.03, np.nan), fed=first,
    )  # fmt: skip
    size = len(source)
    made: dict[str, Any] = {
        "impedance": rng.uniform(0.3, 2, size) * 1e-4 * np.exp(0.6j),
        "near": -1j * rng.uniform(0, 2, size), "far": -1j * rng.uniform(0, 2, size) + 0.1,
        "rating": rng.uniform(50, 90, size),
    }  # fmt: skip
    labels = [f"line {k}" for k in range(size)]
    return Network(told, Branches(labels, labels, source, target, **made | columns), np.array(ties))


def imported(told: Network, **options: Any) -> tuple[jg.Grid, ImportReport]:
    return grid_of(told, Notebook(), "a test", **options)


def voltages(grid: jg.Grid) -> np.ndarray:
    with by_numpy():
        grid = to_host(grid)
        found = acflow.flow(grid, grid.passive, grid.passive_reactive)
    assert np.all(found.ok)
    return np.asarray(found.voltage)[:, 0]


TREE = [(0, 1), (2, 1), (2, 3), (1, 4), (5, 4)]


def test_the_grid_has_the_state_of_its_source():
    """Charging, ratios either way, loads that move with voltage: the AC power flow has them all."""
    told = network(TREE, tap=[1.0, 0.95, 1.0, 1.05, 0.98], shift=[0, 150, 0, -30, 0])
    moving: Any = np.array([0, 1 + 0.5j, 0, 2 + 0.3j, 0, 0])
    told = replace(told, buses=replace(told.buses, current=moving, quadratic=2 * moving))
    grid, report = imported(told)
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-9)
    assert np.ptp(np.abs(report.state)) > 0.05 and report.count("state.other") == 0
    assert jg.oriented(grid) == grid
    assert report.count("branch.shift") == 2 and report.count("load.voltage") == 2
    assert report.count("shunt.constant") == report.count("iron.constant") == 1
    passive = np.asarray(grid.passive)[:, 0].sum()
    volts = np.abs(report.state)
    moved = np.sum((moving * volts + 2 * moving * volts**2).real)
    assert passive == pytest.approx(told.buses.load.real.sum() + moved + report.constant.real.sum())


def test_the_state_is_that_of_the_sweeps_where_there_are_no_shunts():
    """Newton's method with no help of the import's own constants."""
    told = network(TREE, near=0, far=0, tap=[1.0, 0.95, 1.0, 1.05, 0.98])
    grid, report = imported(told)
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-10)
    np.testing.assert_allclose(np.asarray(grid.passive)[:, 0], told.buses.load.real)


@pytest.mark.parametrize("end", ["source_on", "target_on"])
def test_a_half_open_branch_draws_what_it_does_at_its_closed_end(end):
    """As with a bus of its own at the open end, through impedance and ratio."""
    tap = [1.0, 1.0, 0.9]
    explicit = network([(0, 1), (1, 2), (2, 3) if end == "target_on" else (3, 2)], tap=tap)
    idle = explicit.buses.load * (np.arange(4) != 3)
    explicit = replace(explicit, buses=replace(explicit.buses, load=idle))
    half = replace(explicit.branches, **{end: [True, True, False]})
    grid, report = imported(replace(explicit, branches=half))
    _, whole = imported(explicit)
    assert len(grid.source) == 2 and report.count("branch.half_open") == 1
    np.testing.assert_allclose(np.abs(report.state), np.abs(whole.state[:3]), atol=1e-10)
    assert report.count("bus.unsupplied") == 1 and report.bus.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize("taps", [(1.0, 1.0), (0.95, 1.025)])
def test_branches_side_by_side_are_one(taps):
    """Also transformers of unequal ratios, told from either end: the same two-port."""
    told = network([(0, 1), (1, 2), (2, 1)], tap=[1.0, taps[0], 1 / taps[1]])
    grid, report = imported(told)
    start = np.array([1.03, 1.03, 1.03])
    apart = steady(told.buses, told.branches, start)
    assert apart is not None and report.count("branch.parallel") == 1
    np.testing.assert_allclose(np.abs(report.state), np.abs(apart), atol=1e-10)
    np.testing.assert_allclose(voltages(grid), np.abs(apart), atol=1e-9)
    assert report.line["branch"].tolist() == [0, 1, 1]


def test_the_rating_of_two_is_reached_where_the_first_of_them_is():
    told = network([(0, 1), (0, 1)], impedance=[1e-4, 3e-4], rating=[30.0, 20.0], near=0, far=0)
    grid, _ = imported(told)
    assert float(grid.rating[0]) == pytest.approx(40.0)  # three quarters go through the first
    assert float(grid.resistance[0]) == pytest.approx(0.75e-4)


def test_buses_without_impedance_between_them_are_one():
    """By closed switches and by lines: loads add up, the tighter limits count, all keep a place."""
    told = network([(0, 1), (1, 2), (3, 4)], ties=[(2, 3)], impedance=[1e-4, 0, 2e-4])
    limits = replace(
        told.buses, voltage_min=[0.9, 0.92, 0.95, 0.9, 0.9], voltage_max=[1.1, 1.1, 1.1, 1.04, 1.1]
    )
    grid, report = imported(replace(told, buses=limits))
    assert report.bus.tolist() == [0, 1, 1, 1, 2] and report.line["branch"].tolist() == [0, -1, 1]
    assert report.count("bus.merged") == 2 and report.count("branch.no_impedance") == 1
    assert float(grid.voltage_min[1]) == 0.95 and float(grid.voltage_max[1]) == 1.04
    load = told.buses.load.real[[1, 2, 3]].sum() + report.constant.real[1]
    assert float(grid.passive[1, 0]) == pytest.approx(load)
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-9)


def test_what_is_off_or_unsupplied_is_left_out_and_said():
    told = network(TREE, on=[True, True, True, False, True])
    told = replace(told, buses=replace(told.buses, on=np.arange(6) != 3))
    _, report = imported(told)
    assert report.bus.tolist() == [0, 1, 2, -1, -1, -1]
    lost = {note.code: note.number or 0.0 for note in report.of("lost")}
    assert lost["bus.off"] == pytest.approx(told.buses.load.real[3])
    assert lost["bus.unsupplied"] == pytest.approx(told.buses.load.real[4:].sum())
    assert report.count("branch.off") == 1 and "line 3" in str(report)
    after = report.totals["load"]
    assert after.before - after.after == pytest.approx(lost["bus.off"] + lost["bus.unsupplied"])


RING = [(0, 1), (1, 2), (2, 3), (3, 1), (0, 4)]


def test_a_loop_is_refused_by_the_names_of_its_lines_or_kept():
    with pytest.raises(ValueError, match=r"line \d, line \d, line \d close a loop, and lindist"):
        imported(network(RING))
    grid, report = imported(network(RING), model="paper")
    assert len(grid.source) == 5
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-9)
    two = network([(0, 1), (1, 2)])
    two = replace(two, buses=replace(two.buses, fed=[True, False, True], held=[1, np.nan, 1.0]))
    with pytest.raises(ValueError, match="line 0, line 1 join two sources"):
        imported(two)


def test_a_loop_that_turns_the_phase_is_refused_a_path_that_does_is_not():
    with pytest.raises(ValueError, match=r"closes a loop in which .* by -?30 degree"):
        imported(network(RING, shift=[0, 30, 0, 0, 0]), model="paper")
    imported(network(RING, shift=[150, 30, 0, -30, 0]), model="paper")


def test_a_generator_floats_at_the_reactive_power_it_had():
    """Its voltage is held in the state, and stays where all else does."""
    told = network(TREE)
    held, sent = told.buses.held.copy(), told.buses.generation.copy()
    held[3], sent[3] = 1.04, 6.0
    grid, report = imported(replace(told, buses=replace(told.buses, held=held, generation=sent)))
    assert abs(report.state[3]) == pytest.approx(1.04, abs=1e-12)
    assert report.count("generator.voltage") == 1
    np.testing.assert_allclose(voltages(grid)[report.bus], np.abs(report.state), atol=1e-9)


def test_what_is_in_the_market_is_in_the_state_and_not_passive():
    told = network(TREE)
    apart = np.where(np.arange(6) == 3, told.buses.load, 0)
    grid, report = imported(told, apart=apart, hours=2)
    whole, _ = imported(told, hours=2)
    at = report.bus[3]
    assert grid.passive.shape == (6, 2)
    left = np.asarray(whole.passive[at] - grid.passive[at])
    np.testing.assert_allclose(left, told.buses.load[3].real)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fed": False}, "no source is in service"),
        ({"nominal": [0.4, 0.4, 0.4, 20.0, 0.4, 0.4]}, r"bus 3 \(20 kV\) .* without a transformer"),
        ({"fed": [1, 0, 0, 1, 0, 0], "held": [1, *[np.nan] * 2, 1.02, *[np.nan] * 2]}, "one bus"),
    ],
)
def test_what_makes_no_network_is_refused(change, sentence):
    told = network(TREE, ties=[(3, 0)])
    with pytest.raises(ValueError, match=sentence):
        imported(replace(told, buses=replace(told.buses, **change)))


def test_a_ratio_without_impedance_is_refused():
    with pytest.raises(ValueError, match=r"line 1 has no impedance and a ratio of 0\.95"):
        imported(network(TREE, impedance=[1e-4, 0, 1e-4, 1e-4, 1e-4], tap=[1, 0.95, 1, 1, 1]))


def test_loads_that_no_grid_can_carry_are_said():
    """As a thousand times too much does, where MW were taken for kW."""
    told = network(TREE)
    _, report = imported(replace(told, buses=replace(told.buses, load=1e3 * told.buses.load)))
    assert report.count("state.none") == 1 and "units" in str(report)


def test_buses_out_of_their_limits_are_said():
    """Where the source itself has them; the main grid holds its own bus whatever the limits."""
    told = network(TREE)
    _, report = imported(told)
    volts = np.abs(report.state)
    at = [1.05, *volts[1:3], volts[3] + 0.01, *volts[4:]]
    _, report = imported(replace(told, buses=replace(told.buses, voltage_min=at)))
    note = next(note for note in report.notes if note.code == "state.limits")
    assert note.places == ("bus 3",) and note.number == pytest.approx(0.01)
    assert report.count("state.limits") == 1


def test_reports_count_by_code_and_know_theirs():
    _, report = imported(network(TREE))
    assert report.count("bus.off") == 0
    with pytest.raises(KeyError, match="no code of an importer"):
        report.count("bus.of")
    assert all(note.kind == CODES[note.code][0] for note in report.notes)


def test_the_page_has_all_codes():
    page = (Path(__file__).parent.parent / "docs" / "imports.md").read_text("utf-8")
    told = re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \| (\w+) \| (.*?) \| (.*?) \|$", page, re.M)
    assert told == [(c, kind, unit, sentence) for c, (kind, unit, sentence) in CODES.items()]


def test_names_differ_and_ohms_are_per_unit():
    assert distinct(["a", "b", "a", ""], ["r 0", "r 1", "r 2", "r 3"]) == (
        "a (r 0)", "b", "a (r 2)", "r 3",
    )  # fmt: skip
    assert per_unit(np.array(0.0208), np.array(0.4)) == pytest.approx(1.3e-4)  # 100 m NAYY 4x150
    one = network(TREE).branches
    assert len(joined([one, one])) == 10 and joined([one, one]).tap.shape == (10,)


def test_ten_thousand_buses_take_seconds():
    """A feeder of depth 3000; the sweeps' program has its own tests."""
    rng = np.random.default_rng(0)
    ends = [(int(rng.integers(max(0, k - 50), k)), k) for k in range(1, 10_000)]
    told = network(ends)
    size = told.branches.impedance / 1e4
    told = replace(told, branches=replace(told.branches, impedance=size, near=0, far=0))
    reduced = reduce(told, Notebook())
    tree = tree_of(reduced)
    assert tree.chords.size == 0 and np.sum(tree.line < 0) == 1
    assert steady(reduced.buses, reduced.branches, np.full(10_000, 1.03)) is not None
