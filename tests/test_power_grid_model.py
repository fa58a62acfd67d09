"""Inputs of power-grid-model: from its JSON and its arrays, in the state that it finds."""

import json
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.io import from_power_grid_model
from jaxgne.runner import by_numpy, to_host

LINE = {"from_status": 1, "to_status": 1, "r1": 0.2, "x1": 0.1, "c1": 4e-7, "tan1": 0.01}
TRAFO = {
    "from_status": 1, "to_status": 1, "u1": 10.5e3, "u2": 410.0, "sn": 4e5, "uk": 0.05, "pk": 4e3,
    "i0": 0.01, "p0": 600.0, "winding_from": 2, "winding_to": 1, "clock": 11, "tap_side": 0,
    "tap_pos": 3, "tap_min": 5, "tap_max": -5, "tap_nom": 0, "tap_size": 250.0,
}  # fmt: skip


def told(**more: Any) -> dict[str, Any]:
    """Medium voltage, a transformer, a street; `more` are rows that are added, by component."""
    data: dict[str, list[Any]] = {
        "node": [{"id": k, "u_rated": 10e3 if k < 3 else 400.0} for k in range(1, 6)],
        "line": [
            {"id": 10, "from_node": 1, "to_node": 2, **LINE, "i_n": 200.0},
            {"id": 11, "from_node": 4, "to_node": 3, **LINE, "r1": 0.03, "x1": 0.01},
            {"id": 12, "from_node": 4, "to_node": 5, **LINE, "r1": 0.02, "to_status": 0},
        ],
        "transformer": [{"id": 20, "from_node": 2, "to_node": 3, **TRAFO}],
        "source": [{"id": 30, "node": 1, "status": 1, "u_ref": 1.03, "sk": 2e8}],
        "sym_load": [
            {"id": 40 + k, "node": node, "status": int(k < 4), "type": k % 3,
             "p_specified": 2e4 + 1e3 * k, "q_specified": 5e3}
            for k, node in enumerate((3, 4, 4, 2, 4))
        ],
        "sym_gen": [
            {"id": 50 + k, "node": 4, "status": 1, "type": k,
             "p_specified": 8e3, "q_specified": -1e3}
            for k in range(3)
        ],
        "asym_load": [
            {"id": 60, "node": 4, "status": 1, "type": 0, "p_specified": [1e3, 5e3, 2e3],
             "q_specified": [0, 100.0, 200.0]},
        ],
        "shunt": [{"id": 70, "node": 3, "status": 1, "g1": 0.001, "b1": 0.02}],
    }  # fmt: skip
    for name, rows in more.items():
        data[name] = [*data.get(name, []), *rows]
    return {"version": "1.0", "type": "input", "is_batch": False, "attributes": {}, "data": data}


def oracle(data: dict[str, Any], hz: float = 50.0) -> np.ndarray:
    """Magnitudes at the nodes, as power-grid-model itself has them."""
    pgm = pytest.importorskip("power_grid_model")
    from power_grid_model import utils

    arrays = utils.json_deserialize(json.dumps(data))  # pyright: ignore[reportPrivateImportUsage]
    found = pgm.PowerGridModel(arrays, hz).calculate_power_flow(error_tolerance=1e-9)
    return found["node"]["u_pu"]


def voltages(grid: jg.Grid) -> np.ndarray:
    with by_numpy():
        grid = to_host(grid)
        found = acflow.flow(grid, grid.passive, grid.passive_reactive)
    assert np.all(found.ok)
    return np.asarray(found.voltage)[:, 0]


def compare(data: dict[str, Any], **options: Any) -> tuple[jg.Grid, Any]:
    """The grid of an input, whose state is power-grid-model's at all supplied nodes."""
    grid, report = from_power_grid_model(data, **options)
    kept = report.bus[: len(data["data"]["node"])]
    right = oracle(data, options.get("frequency", 50.0))
    np.testing.assert_allclose(np.abs(report.state)[kept][kept >= 0], right[kept >= 0], atol=1e-9)
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-9)
    return grid, report


def test_an_input_becomes_a_grid_with_the_state_of_its_own_power_flow():
    """Charging, iron, taps, half-open lines, loads of all types, phases, the source's impedance."""
    grid, report = compare(told())
    assert report.count("branch.half_open") == report.count("element.off") == 1
    assert report.count("load.phases") == report.count("source.impedance") == 1
    assert report.count("bus.unsupplied") == 1 and report.bus.tolist() == [0, 1, 2, 3, -1, 4]
    assert np.ptp(np.abs(report.state)) > 0.04
    assert float(grid.rating[report.line["line"][0]]) == pytest.approx(np.sqrt(3) * 10 * 200)
    rated = 400 * 400 / 410  # the current of 400 kVA at 410 V, at 1 pu of 400 V
    assert float(grid.rating[report.line["transformer"][0]]) == pytest.approx(rated)
    assert report.nominal.tolist() == [10, 10, 0.4, 0.4, 10]
    assert grid.names[int(grid.feeder[0])] == "source 30"
    assert report.totals["load"].before == pytest.approx(20 + 21 + 22 + 23 + 8 - 16)


@pytest.mark.parametrize(
    "change",
    [
        {"tap_pos": -4},
        {"tap_pos": 9},  # beyond its end, where it stays
        {"tap_min": -5, "tap_max": 5, "tap_nom": 1},
        {"tap_side": 1, "tap_size": 10.0, "clock": 5},
        {"tap_nom": -1, "uk_min": 0.04, "uk_max": 0.08, "pk_min": 3e3, "pk_max": 6e3},
        {"tap_pos": -4, "uk_min": 0.04, "uk_max": 0.08, "pk_min": 3e3, "pk_max": 6e3},
        {"from_status": 0},
        {"i0": 0.0001},  # less than iron alone draws
    ],
)
def test_transformers_are_those_of_the_format(change):
    data = told()
    data["data"]["transformer"][0].update(change)
    compare(data)


THREE = {
    "status_1": 1, "status_2": 1, "status_3": 1, "u1": 10.2e3, "u2": 3.1e3, "u3": 405.0,
    "sn_1": 1e6, "sn_2": 8e5, "sn_3": 3e5, "uk_12": 0.09, "uk_13": 0.06, "uk_23": 0.05,
    "pk_12": 7e3, "pk_13": 3e3, "pk_23": 2e3, "i0": 0.01, "p0": 900.0, "winding_1": 2,
    "winding_2": 1, "winding_3": 1, "clock_12": 5, "clock_13": 11, "tap_side": 0, "tap_pos": 2,
    "tap_min": -4, "tap_max": 4, "tap_nom": 0, "tap_size": 100.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tap_side": 1, "tap_size": 40.0},
        {"tap_side": 2, "tap_size": 5.0, "tap_min": 4, "tap_max": -4},
        {"status_3": 0},
        {"uk_12_max": 0.12, "uk_13_max": 0.09, "pk_23_max": 2.5e3, "sn_2": 12e5},
    ],
)
def test_three_windings_meet_at_a_star(change):
    """Each with its own power; the state is power-grid-model's at all three."""
    nodes = [{"id": 6, "u_rated": 3e3}, {"id": 7, "u_rated": 400.0}]
    row = {"id": 85, "node_1": 2, "node_2": 6, "node_3": 7, **THREE, **change}
    load = {"status": 1, "type": 0, "p_specified": 1e5, "q_specified": 4e4}
    loads = [{"id": 86, "node": 6, **load}, {"id": 87, "node": 7, **load}]
    grid, report = compare(told(node=nodes, three_winding_transformer=[row], sym_load=loads))
    winding = report.line["three_winding_transformer"]
    assert winding.shape == (3,) and "star of three_winding_transformer 85" in grid.names
    own = 3100 + (80 if row["tap_side"] == 1 else 0)
    rating = float(grid.rating[winding[1]])  # its rated current, at 1 pu of 3 kV
    assert rating == pytest.approx(1e-3 * row["sn_2"] * 3000 / own)


def test_generic_branches_and_links_are_read():
    """A link joins its nodes; power-grid-model gives it 0.7e-6 pu at 1 MVA."""
    nodes = [{"id": 6, "u_rated": 3e3}, {"id": 7, "u_rated": 3e3}]
    ends = {"from_status": 1, "to_status": 1}
    branch = {"id": 80, "from_node": 2, "to_node": 6, **ends, "r1": 0.1, "x1": 0.4, "g1": 1e-4,
              "b1": 2e-4, "k": 0.97, "theta": 0.5, "sn": 1e6}  # fmt: skip
    link = {"id": 81, "from_node": 6, "to_node": 7, **ends}
    load = {"id": 82, "node": 7, "status": 1, "type": 0, "p_specified": 10.0, "q_specified": 5.0}
    grid, report = compare(told(node=nodes, generic_branch=[branch], link=[link], sym_load=[load]))
    assert report.bus[5] == report.bus[6] and report.count("bus.merged") == 1
    assert float(grid.tap[report.line["generic_branch"][0]]) == pytest.approx(0.97)
    link["to_status"] = 0
    _, report = compare(told(node=nodes, generic_branch=[branch], link=[link], sym_load=[load]))
    assert report.bus[6] == -1 and report.count("branch.off") == 1


def test_charging_goes_with_the_frequency():
    """Of 60 Hz, which an input does not tell."""
    line = {"id": 13, "from_node": 2, "to_node": 6, **LINE, "c1": 4e-6}
    data = told(node=[{"id": 6, "u_rated": 10e3}], line=[line])
    _, report = compare(data, frequency=60.0)
    assert np.max(np.abs(np.abs(report.state) - np.abs(compare(data)[1].state))) > 1e-4


def test_rings_are_refused_or_kept():
    ring = told(line=[{"id": 13, "from_node": 3, "to_node": 4, **LINE, "r1": 0.1, "c1": 0.0}])
    ring["data"]["line"] += [{"id": 14, "from_node": 5, "to_node": 3, **LINE, "r1": 0.1}]
    ring["data"]["line"][2]["to_status"] = 1
    with pytest.raises(ValueError, match=r"line 1\d.* close a loop, and lindistflow needs a tree"):
        from_power_grid_model(ring)
    _, report = compare(ring, model="paper")
    assert report.count("branch.parallel") == 1


def test_files_compact_lists_arrays_and_columns_are_the_same(tmp_path):
    """And a source without its short-circuit power has the format's 10 GVA."""
    pytest.importorskip("power_grid_model")
    from power_grid_model import utils

    data = told()
    del data["data"]["source"][0]["sk"]
    grid, _ = compare(data)
    arrays = utils.json_deserialize(json.dumps(data))  # pyright: ignore[reportPrivateImportUsage]
    utils.json_serialize_to_file(tmp_path / "a.json", arrays, use_compact_list=True)
    columns = {k: {name: v[name] for name in v.dtype.names} for k, v in arrays.items()}
    for other in (tmp_path / "a.json", str(tmp_path / "a.json"), arrays, columns):
        assert from_power_grid_model(other)[0] == grid


def test_what_is_not_read_is_said():
    regulator = {"id": 90, "regulated_object": 20, "status": 1, "control_side": 1, "u_set": 400.0,
                 "u_band": 10.0}  # fmt: skip
    sensor = {"id": 91, "measured_object": 1, "u_measured": 1e4, "u_sigma": 1.0}
    _, report = compare(told(transformer_tap_regulator=[regulator], sym_voltage_sensor=[sensor]))
    assert report.count("controller.ignored") == report.count("table.ignored") == 1
    assert "transformer_tap_regulator 90" in str(report)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(is_batch=True), "is_batch True; give one input of version '1.0'"),
        (lambda d: d["data"].pop("source"), "the input has no source"),
        (lambda d: d["data"]["source"][0].update(status=0), "no source is in service"),
        (lambda d: d["data"]["line"][0].update(to_node=99), "line 10 is at node 99, which is not"),
        (lambda d: d["data"]["sym_load"][1].pop("p_specified"), "sym_load 41 has no number p_spec"),
        (lambda d: d["data"]["source"][0].update(u_ref=0), "source 30 has u_ref 0; give more"),
        (lambda d: d["data"]["line"][1].update(r1="x"), "line row 1: r1 is 'x'; give a number"),
        (
            lambda d: d["data"]["asym_load"][0].update(p_specified=5.0),
            "asym_load row 0: p_specified is 5.0; give three numbers",
        ),
        (lambda d: d["data"]["line"].append([1]), "line row 3 has 1 values for 0 attributes"),
        (lambda d: d["data"]["node"][1].update(id=1), "two nodes have the same id"),
        (lambda d: d["data"].update(windmill=[{"id": 1}]), "'windmill' is no component"),
        (lambda d: d["data"].update(asym_line=[{"id": 8}]), "asym_line 8 is not read; give a line"),
    ],
)
def test_what_makes_no_grid_is_refused(change, sentence):
    data = told()
    change(data)
    with pytest.raises(ValueError, match=sentence):
        from_power_grid_model(data)
