"""Grids from pandapower nets: each part, and whole nets, beside `runpp`."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandapower
import pandapower.networks
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.io.notes import ImportReport
from jaxgne.runner import by_numpy, to_host

pp: Any = pandapower  # whose annotations are not what it takes
pn: Any = pandapower.networks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own old nets


def feeder() -> Any:
    return deepcopy(_feeder())


@cache
def _feeder() -> Any:
    """20 kV to 0.4 kV, Dyn5, and a street of three lines with a load at each end."""
    net = pp.create_empty_network()
    high = pp.create_bus(net, 20.0, name="station")
    low = pp.create_buses(net, 4, 0.4, name=["busbar", "a", "b", "c"])
    pp.create_ext_grid(net, high, vm_pu=1.02, va_degree=30)
    pp.create_transformer(net, high, low[0], "0.4 MVA 20/0.4 kV", name="transformer")
    for k in range(3):
        pp.create_line(net, low[k], low[k + 1], 0.1 + 0.05 * k, "NAYY 4x150 SE", name=f"cable {k}")
        pp.create_load(net, low[k + 1], 0.03, 0.01)
    return net


def put(table: Any, **values: Any) -> None:
    for name, value in values.items():
        table[name] = value


def solved(grid: jg.Grid) -> Any:
    with by_numpy():
        grid = to_host(grid)
        found = acflow.flow(grid, grid.passive, grid.passive_reactive)
    assert np.all(found.ok)
    return found


def beside(net: Any, tol: float = 1e-8, **options: Any) -> tuple[jg.Grid, ImportReport]:
    """The import, whose AC power flow has the voltages and the exchange that runpp finds.

    Buses are left out where runpp has no voltage.
    """
    grid, report = jg.from_pandapower(net, **options)
    pp.runpp(net, tolerance_mva=1e-10, max_iteration=50, numba=False)
    truth = net.res_bus.vm_pu.to_numpy()
    bus = report.bus[: len(truth)]
    np.testing.assert_array_equal(bus < 0, np.isnan(truth))
    found = solved(grid)
    alive = bus >= 0
    np.testing.assert_allclose(np.abs(report.state)[bus[alive]], truth[alive], atol=tol)
    np.testing.assert_allclose(np.asarray(found.voltage)[bus[alive], 0], truth[alive], atol=tol)
    assert report.count("state.other") == 0
    if not np.any(net.gen.slack == True):  # noqa: E712
        sent = 1e3 * net.res_ext_grid.p_mw.sum()
        assert float(np.sum(found.exchange)) == pytest.approx(sent, rel=1e-6, abs=1e-6)
    return grid, report


def test_two_voltage_levels_are_one_grid():
    """Dyn5 turns the phase by 150 degree and no voltage; names, places and nominal kV are kept."""
    net = feeder()
    grid, report = beside(net)
    assert grid.names == ("station", "busbar", "a", "b", "c")
    assert grid.line_names == ("transformer", "cable 0", "cable 1", "cable 2")
    assert report.line["line"].tolist() == [1, 2, 3] and report.line["trafo"].tolist() == [0]
    assert report.nominal.tolist() == [20.0, 0.4, 0.4, 0.4, 0.4]
    assert float(grid.feeder_voltage[0, 0]) == 1.02 and report.count("branch.shift") == 1
    load = report.totals["load"]
    assert load.before == load.after == pytest.approx(90) and "load" in str(report)


def test_hundred_metres_of_cable_by_hand():
    """NAYY 4x150: 0.0208 ohm at 0.4 kV are 1.3e-4 pu/kW, 270 A are 187 kVA."""
    grid, _ = jg.from_pandapower(feeder())
    assert float(grid.resistance[1]) == pytest.approx(0.0208 / 160)
    assert float(grid.rating[1]) == pytest.approx(np.sqrt(3) * 0.4 * 270, rel=1e-6)


def add_parallel(net: Any) -> None:
    net.line.loc[1, "parallel"] = 2
    net.trafo["parallel"] = 2


def add_twins(net: Any) -> None:
    pp.create_transformer(net, 0, 1, "0.63 MVA 20/0.4 kV")
    pp.create_line(net, 3, 2, 0.3, "NAYY 4x50 SE")


def add_open_ring(net: Any) -> None:
    line = pp.create_line(net, 4, 1, 2.0, "NA2XS2Y 1x185 RM/25 12/20 kV")
    pp.create_switch(net, 1, line, et="l", closed=False)


def add_line_switches(net: Any) -> None:
    """Open at both ends, and at the transformer's low side."""
    line = pp.create_line(net, 4, 1, 2.0, "NAYY 4x50 SE")
    for bus in (1, 4):
        pp.create_switch(net, bus, line, et="l", closed=False)
    trafo = pp.create_transformer(net, 0, 4, "0.63 MVA 20/0.4 kV")
    pp.create_switch(net, 4, trafo, et="t", closed=False)


def add_idle_transformer_behind_its_low_side(net: Any) -> None:
    trafo = pp.create_transformer(net, 0, 4, "0.63 MVA 20/0.4 kV")
    pp.create_switch(net, 0, trafo, et="t", closed=False)


def add_bus_switches(net: Any) -> None:
    extra = pp.create_buses(net, 3, 0.4)
    pp.create_switch(net, 4, extra[0], et="b")
    pp.create_switch(net, extra[0], extra[1], et="b")
    pp.create_switch(net, extra[1], extra[2], et="b", closed=False)
    for bus in extra:
        pp.create_load(net, bus, 0.02)


def add_switch_with_impedance(net: Any) -> None:
    bus = pp.create_bus(net, 0.4)
    pp.create_switch(net, 4, bus, et="b", z_ohm=0.02)
    pp.create_load(net, bus, 0.02)


def add_dead_bus(net: Any) -> None:
    """In the middle: the line to it hangs open, its load and all behind it are gone."""
    net.bus.loc[3, "in_service"] = False


def add_rows_out_of_service(net: Any) -> None:
    net.load.loc[1, "in_service"] = False
    line = pp.create_line(net, 4, 1, 2.0, "NAYY 4x50 SE")
    net.line.loc[line, "in_service"] = False
    pp.create_sgen(net, 2, 0.5, in_service=False)


def add_scaling(net: Any) -> None:
    net.load["scaling"] = [0.5, 1.5, 0.0]
    pp.create_sgen(net, 3, 0.05, q_mvar=-0.01, scaling=0.7)


def add_storage(net: Any) -> None:
    """Charging is consumption."""
    pp.create_storage(net, 3, p_mw=0.02, max_e_mwh=0.05, q_mvar=0.004, scaling=0.8)


def add_motor(net: Any) -> None:
    pp.create_motor(
        net,
        3,
        pn_mech_mw=0.03,
        cos_phi=0.85,
        efficiency_percent=93,
        loading_percent=70,
        scaling=0.9,
    )


def add_phases(net: Any) -> None:
    pp.create_asymmetric_load(net, 3, p_a_mw=0.01, p_b_mw=0.02, q_c_mvar=0.004, scaling=0.5)
    pp.create_asymmetric_sgen(net, 4, p_a_mw=0.005, q_b_mvar=0.001)


def add_zip(net: Any) -> None:
    """With scaling, at which other programs go wrong (2.7 MW for a load of 2)."""
    pp.create_load(
        net, 4, 0.05, 0.02, scaling=0.6, const_z_p_percent=30, const_i_p_percent=20,
        const_z_q_percent=10, const_i_q_percent=50,
    )  # fmt: skip
    net.load.drop(2, inplace=True)


def add_shunt(net: Any) -> None:
    pp.create_shunt(net, 3, q_mvar=-0.01, p_mw=0.001, vn_kv=0.41, step=2)
    pp.create_ward(net, 4, 0.005, 0.002, 0.003, 0.001)


def add_tap(net: Any) -> None:
    put(net.trafo, tap_pos=2, tap_changer_type="Ratio")


def add_tap_at_the_low_side(net: Any) -> None:
    put(net.trafo, tap_pos=-2, tap_changer_type="Symmetrical", tap_side="lv", tap_step_degree=30.0)


def add_ideal_phase_shift(net: Any) -> None:
    put(net.trafo, tap_pos=2, tap_changer_type="Ideal")


def add_other_rated_voltages(net: Any) -> None:
    """A transformer of 21 to 0.42 kV, its losses, and leakage that is not half and half."""
    put(net.trafo, vn_hv_kv=21.0, vn_lv_kv=0.42, pfe_kw=2.0, i0_percent=1.5)
    put(net.trafo, leakage_resistance_ratio_hv=0.3, leakage_reactance_ratio_hv=0.6)


def add_lines_with_losses_along_them(net: Any) -> None:
    put(net.line, g_us_per_km=900.0, c_nf_per_km=9e4)


def add_frequency(net: Any) -> None:
    net.f_hz = 60.0
    net.line["c_nf_per_km"] = 9e4


def add_impedance(net: Any) -> None:
    bus = pp.create_bus(net, 0.4)
    pp.create_impedance(net, 4, bus, 0.01, 0.02, sn_mva=0.3, gf_pu=0.01, bt_pu=0.02)
    pp.create_load(net, bus, 0.02)


def add_generator(net: Any) -> None:
    pp.create_gen(net, 3, 0.03, vm_pu=1.0, scaling=0.9)


def add_three_windings(net: Any) -> None:
    high, middle, low = pp.create_bus(net, 110), pp.create_bus(net, 20), pp.create_bus(net, 10)
    pp.create_transformer3w(net, high, 0, low, "63/25/38 MVA 110/20/10 kV")
    pp.create_ext_grid(net, high, vm_pu=1.03)
    net.ext_grid.drop(0, inplace=True)
    pp.create_load(net, low, 5.0, 1.0)
    pp.create_load(net, middle, 1.0)
    put(net.trafo3w, tap_pos=3, tap_changer_type="Ratio")


def add_switches_of_three_windings(net: Any) -> None:
    """Open at its low side; the line and the trafo of the same index stay."""
    add_three_windings(net)
    net.load.drop(net.load.index[net.load.bus == net.trafo3w.lv_bus[0]], inplace=True)
    pp.create_switch(net, net.trafo3w.lv_bus[0], 0, et="t3", closed=False)


def add_fed_from_below(net: Any) -> None:
    """The main grid at the low side: the transformer is told from its other end."""
    pp.create_load(net, 0, 0.05, 0.02)
    net.ext_grid.loc[0, "bus"] = 1
    add_tap(net)


def add_two_sources(net: Any) -> None:
    pp.create_ext_grid(net, 4, vm_pu=1.01)
    net.line.loc[1, "in_service"] = False


@cache
def unchanged() -> np.ndarray:
    return np.abs(jg.from_pandapower(feeder())[1].state)


PARTS: dict[str, Callable[[Any], None]] = {
    name[4:]: part for name, part in list(globals().items()) if name.startswith("add_")
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_is_what_runpp_has(part: Callable[[Any], None]):
    net = feeder()
    before = unchanged()
    part(net)
    _, report = beside(net)
    state = np.abs(report.state)
    moved = len(state) != len(before) or not np.allclose(state, before, atol=1e-9)
    assert moved or part in (add_ideal_phase_shift, add_line_switches)  # idle at a stiff bus


def test_a_line_without_length_joins_its_buses():
    """Which runpp divides by: the truth has a closed switch in its place."""
    net = feeder()
    net.line.loc[1, "length_km"] = 0.0
    _, report = jg.from_pandapower(net)
    net.line.loc[1, "in_service"] = False
    pp.create_switch(net, 2, 3, et="b")
    _, truth = beside(net)
    assert report.count("branch.no_impedance") == 1 and report.bus.tolist() == [0, 1, 2, 2, 3]
    np.testing.assert_allclose(report.state, truth.state, atol=1e-12)


def test_taps_without_a_type_are_asked_for():
    """runpp ignores them, other programs do not: 5 % of voltage, and all of SimBench's nets."""
    net = feeder()
    put(net.trafo, tap_pos=2, tap_changer_type=None)
    with pytest.raises(ValueError, match=r"trafo 0 \(transformer\) has a tap \+5 % off neutral"):
        jg.from_pandapower(net)
    _, report = beside(net, taps="pandapower")
    assert report.count("tap.ignored") == 1
    _, counted = jg.from_pandapower(net, taps="all")
    assert counted.count("tap.counted") == 1 and counted.count("tap.ignored") == 0
    put(net.trafo, tap_changer_type="Ratio")
    _, typed = beside(net)
    np.testing.assert_allclose(counted.state, typed.state)
    assert np.min(np.abs(report.state)) - np.min(np.abs(counted.state)) > 0.04
    with pytest.raises(ValueError, match="taps='some'"):
        jg.from_pandapower(net, taps="some")  # type: ignore[arg-type]


def test_ratings_are_those_of_loading_percent():
    """By ampere, df and parallel; a largest loading of 50 % halves them, 99999 kA are none."""
    net = feeder()
    put(net.line, df=[0.8, 1.0, 1.0], parallel=[1, 2, 1], c_nf_per_km=0.0)
    put(net.line, max_i_ka=[0.27, 0.27, 99999.0], max_loading_percent=[50.0, np.nan, 100.0])
    put(net.trafo, df=0.9, parallel=2, i0_percent=0.0, pfe_kw=0.0, vn_lv_kv=0.42, tap_pos=-2)
    put(net.trafo, tap_changer_type="Ratio", max_loading_percent=50.0)
    grid, report = beside(net)
    used = np.asarray(solved(grid).current)[:, 0] / np.asarray(grid.rating)
    line, trafo = report.line["line"], report.line["trafo"]
    loading = net.res_line.loading_percent.to_numpy() / 100 / [0.5, 1, 1]
    np.testing.assert_allclose(used[line[:2]], loading[:2], rtol=1e-9)
    np.testing.assert_allclose(used[trafo], net.res_trafo.loading_percent / 50, rtol=1e-9)
    assert np.isinf(grid.rating[line[2]])
    assert report.count("branch.no_rating") == 1 and report.count("branch.limit") == 2
    net.line.loc[2, "max_i_ka"] = np.nan
    assert np.isinf(jg.from_pandapower(net)[0].rating[line[2]])


def test_each_load_moves_with_voltage_by_its_own_shares():
    """runpp takes the plain mean of the percentages at a bus for the sum of all power there."""
    net = feeder()
    pp.create_load(net, 4, 0.060, const_z_p_percent=100)
    grid, _ = jg.from_pandapower(net)
    pp.runpp(net, numba=False)
    apart = abs(float(solved(grid).voltage[4, 0]) - net.res_bus.vm_pu[4])
    net.load.loc[3, "const_z_p_percent"] = 0.0
    pp.create_shunt(net, 4, q_mvar=0.0, p_mw=0.060)
    net.load.loc[3, "p_mw"] = 0.0
    same, _ = beside(net)
    np.testing.assert_allclose(solved(same).voltage, solved(grid).voltage, atol=1e-10)
    assert apart > 1e-4


def test_what_is_lost_is_said():
    net = feeder()
    pp.create_poly_cost(net, 0, "ext_grid", cp1_eur_per_mw=50)
    pp.create_pwl_cost(net, 0, "load", [[0, 0.5, -50], [0.5, 1, -10]])
    net["windmill"], net["spare"] = net.load.iloc[:2], net.load.iloc[:0]  # of a version to come
    pp.create_bus(net, 0.4, name="island")
    pp.create_load(net, 5, 0.007)
    add_phases(net)
    add_rows_out_of_service(net)
    _, report = jg.from_pandapower(net)
    counts = {code: report.count(code) for code in ("cost.ignored", "load.phases", "element.off")}
    assert counts == {"cost.ignored": 2, "load.phases": 2, "element.off": 2}
    unread = [note.places for note in report.notes if note.code == "table.ignored"]
    assert unread == [("windmill (2 rows)",)]
    lost = {note.code: note.number for note in report.of("lost")}
    assert lost["element.off"] == pytest.approx(530) and lost["bus.unsupplied"] == pytest.approx(7)
    assert "bus 5 (island)" in str(report)
    phases = report.data["phases"]
    np.testing.assert_allclose(phases[3], [5.0, 10.0, 2.0j])
    np.testing.assert_allclose(phases[4], [-5.0, -1.0j, 0.0])


def test_a_file_in_megawatts_taken_for_kilowatts_is_said():
    """As case33bw.m is where the statements after its tables do not run: 3715 MW at 12.66 kV."""
    net = pn.case33bw()
    net.load[["p_mw", "q_mvar"]] *= 1000
    _, report = jg.from_pandapower(net)
    assert (
        report.count("state.none") == 1 and "3,715,000 kW" in str(report) and "units" in str(report)
    )


def test_voltage_limits_are_the_buses_or_the_callers():
    net = feeder()
    net.bus["min_vm_pu"] = [0.95, np.nan, 0.0, 0.94, 0.94]
    net.bus["max_vm_pu"] = [1.05, np.nan, 3.0, 1.06, 1.06]
    grid, report = jg.from_pandapower(net, voltage=(0.93, 1.07))
    np.testing.assert_allclose(grid.voltage_min, [0.95, 0.93, 0.01, 0.94, 0.94])
    np.testing.assert_allclose(grid.voltage_max, [1.05, 1.07, 2.0, 1.06, 1.06])
    assert report.count("bus.limits") == 1


def closes_a_loop(net: Any) -> None:
    pp.create_line(net, 4, 2, 0.3, "NAYY 4x50 SE", name="ring")


def holds_a_voltage(net: Any) -> None:
    pp.create_xward(net, 3, 0, 0, 0, 0, 0.1, 0.1, 1.0)


def is_of_direct_current(net: Any) -> None:
    pp.create_dcline(net, 3, 4, 0.01, 1.0, 0.5, 1.0, 1.0)


def depends_on_a_table(net: Any) -> None:
    put(net.trafo, tap_dependency_table=True)


def differs_by_its_end(net: Any) -> None:
    pp.create_impedance(net, 4, pp.create_bus(net, 0.4), 0.01, 0.02, sn_mva=1, rtf_pu=0.02)


def stands_elsewhere(net: Any) -> None:
    pp.create_switch(net, 4, 2, et="l", closed=False)
    net.switch.loc[0, "bus"] = 0


def has_no_source(net: Any) -> None:
    net.ext_grid["in_service"] = False


def points_nowhere(net: Any) -> None:
    net.load.loc[0, "bus"] = 77


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (closes_a_loop, r"line 1 \(cable 1\), line 2 .*, line 3 \(ring\) close a loop"),
        (holds_a_voltage, "xward 0 is in service, which no grid model has"),
        (is_of_direct_current, "dcline 0 is in service, which no grid model has"),
        (depends_on_a_table, "set tap_dependency_table to False"),
        (differs_by_its_end, "impedance 0 has another impedance from each end"),
        (stands_elsewhere, "switch 0 stands at a bus that is no end of its line"),
        (has_no_source, "no source is in service"),
        (points_nowhere, "load row 0 points to 77"),
    ],
)
def test_what_no_grid_can_say_is_refused_by_name(fault: Callable[[Any], None], sentence: str):
    net = feeder()
    fault(net)
    with pytest.raises(ValueError, match=sentence):
        jg.from_pandapower(net)


def test_loops_are_kept_by_the_paper_model():
    net = feeder()
    closes_a_loop(net)
    grid, _ = beside(net, model="paper")
    assert len(grid.source) == 5


def test_files_are_read_and_steps_are_as_many_as_asked(tmp_path):
    net = feeder()
    pp.to_json(net, str(tmp_path / "net.json"))
    grid, _ = jg.from_pandapower(tmp_path / "net.json", hours=3)
    once, _ = jg.from_pandapower(net)
    assert grid.passive.shape == (5, 3) and grid.feeder_voltage.shape == (1, 3)
    np.testing.assert_allclose(grid.passive, np.repeat(np.asarray(once.passive), 3, axis=1))


def test_an_imported_market_clears_and_reports_the_source_s_voltages():
    """Its own AC check finds what runpp does, 1.0 to 1.02 pu; 1.01 is no limit at the source."""
    net = feeder()
    put(net.bus, min_vm_pu=0.9, max_vm_pu=[1.01, 1.1, 1.1, 1.1, 1.1])  # the source's does not count
    grid, _ = beside(net)
    people = jg.Prosumers([3, 4], [[0.0], [0.0]])
    market = jg.validate(jg.Market(people, grid, jg.Tariff(1e-3, hours=1, base=0.3)))
    found = jg.clear(market).certificate.ac
    assert found is not None
    assert float(found.lowest) == pytest.approx(net.res_bus.vm_pu.min(), abs=1e-8)


@pytest.mark.parametrize("net", [pn.create_cigre_network_lv, pn.create_cigre_network_mv])
def test_cigre_networks(net: Callable[[], Any]):
    """Three feeders behind bus switches; charging, half-open lines, 1.03 pu at the source."""
    beside(net())


def scaled_feeder(rows: int) -> Any:
    """A tree of `rows` buses, 20 behind one another."""
    net = pp.create_empty_network()
    bus = pp.create_buses(net, rows, 0.4)
    pp.create_ext_grid(net, bus[0])
    ends = np.maximum(
        0, np.arange(1, rows) - np.random.default_rng(0).integers(1, rows // 20, rows - 1)
    )
    pp.create_lines_from_parameters(
        net, bus[ends], bus[1:], 1e-3, r_ohm_per_km=0.2, x_ohm_per_km=0.08, c_nf_per_km=200,
        max_i_ka=0.27,
    )  # fmt: skip
    pp.create_loads(net, bus[1:], 1e-5, 1e-6)
    return net


def test_ten_thousand_buses():
    grid, report = jg.from_pandapower(scaled_feeder(10_000))
    assert len(grid.names) == 10_000 and report.count("state.other") == 0


KERBER = [
    f"create_kerber_{name}"
    for name in (
        *("landnetz_freileitung_1", "landnetz_freileitung_2", "landnetz_kabel_1"),
        *("landnetz_kabel_2", "dorfnetz", "vorstadtnetz_kabel_1", "vorstadtnetz_kabel_2"),
    )
]
RADIAL = [
    *KERBER, "case33bw", "mv_oberrhein", "create_dickert_lv_network", "ieee_european_lv_asymmetric",
    "panda_four_load_branch", "four_loads_with_branches_out", "simple_four_bus_system",
    "simple_mv_open_ring_net",
]  # fmt: skip
MESHED = [
    "create_cigre_network_hv", "example_simple", "case4gs", "case5", "case6ww", "case9", "case14",
    "case24_ieee_rts", "case30", "case_ieee30", "case39", "case57", "case89pegase", "case118",
    "case_illinois200",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RADIAL)
def test_radial_networks_of_pandapower(name: str):
    made = getattr(pn, name)()
    beside(made[0] if isinstance(made, tuple) else made, tol=1e-6, taps="pandapower")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rural_1", "rural_2", "village_1", "village_2", "suburb_1"])
def test_synthetic_networks_of_pandapower(kind: str):
    beside(pn.create_synthetic_voltage_control_lv_network(kind), tol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHED)
def test_meshed_networks_of_pandapower(name: str):
    """With generators that hold voltages, which are constant at the reactive power of that."""
    beside(getattr(pn, name)(), tol=1e-6, model="paper", taps="pandapower")


@pytest.mark.slow
def test_two_and_three_windings_switches_and_an_impedance_in_one_net():
    """One leg of the star has a resistance below 0, as the division by three windings makes."""
    net = pn.example_multivoltage()
    net.xward["in_service"] = False
    _, report = beside(net, model="paper")
    assert report.count("branch.negative") == 1 and len(report.line["trafo3w"]) == 3


@pytest.mark.slow
def test_all_generation_of_cigre_s_medium_voltage():
    beside(pn.create_cigre_network_mv(with_der="all"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["case145", "case300", "iceland"])
def test_a_power_flow_that_ends_elsewhere_is_said(name: str):
    """Transmission grids with constant powers have several states: the sweeps find another one."""
    net = getattr(pn, name)()
    grid, report = jg.from_pandapower(net, model="paper", taps="pandapower")
    pp.runpp(net, tolerance_mva=1e-9, max_iteration=50, numba=False)
    at = report.bus[: len(net.bus)]
    np.testing.assert_allclose(np.abs(report.state)[at], net.res_bus.vm_pu, atol=1e-8)
    assert report.count("state.other") == 1 and len(grid.source) > 100
