"""MATPOWER's case files and PYPOWER's dictionaries: read as text, nothing run, states as theirs."""

import re
from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.io import from_matpower, from_pypower, matlab_terms
from jaxgne.io.matlab import CONSTANTS, read, statements
from jaxgne.io.matlab_terms import worked_out
from jaxgne.runner import by_numpy, to_host

CASE = """function mpc = street
%STREET  Four buses. 'Quotes', [brackets and ; in comments % are nothing
%{
mpc.bus = [ 1 2 3 ];
%}
mpc.version = '2';
mpc.baseMVA = 50/5;   % ten
%% bus data
mpc.bus = [ %% (Pd and Qd in kW and kVAr, below in MW)
    7   3   0     0    0   0   1 1.0 0 12/1  1  1     1;   % row; of the source
    2   1   2e2   50   0   1/8 1 1   0 12    1  1.1   0.9
    30, 2,  -1e2, -20, 0.2, -0.1, 1, 1, 0, 12, 1, 1.1, 0.9
    4   1   300   ...  and so on
        1E+02  0 0 1 1 0 12 1 1.1 .9; 5 4 1000 0 0 0 1 1 0 12 1 1.1 0.9;
];
mpc.gen = [
    7   9 1 10 -10 1.04 100 1 10 0 0 0 0 0 0 0 0 0 0 0 0;
    30  0.15 0 Inf -Inf 1.02 100 1 10 0 0 0 0 0 0 0 0 0 0 0 0;
    4   0.05 0.01 1 -1 0.5 100 1 10 0 0 0 0 0 0 0 0 0 0 0 0;
    4   5 1 1 -1 0.5 100 0 10 0 0 0 0 0 0 0 0 0 0 0 0;
];
mpc.branch = [ % r and x in ohms, below in p.u.
    2  7 0.5 0.6 0     3 0 0 0.98  0   1 -360 360;
    2 30 0.7 0.4 0.002 0 0 0 1.02  -30 1 -360 360;
    4  2 0.3 0.2 0.001 Inf 0 0 0   0   1 -360 360;
    4 30 0.3 0.2 0.001 0 0 0 0     0   0 -360 360;
];
mpc.gencost = [ 2 0 0 3 0 20 0; ];
mpc.bus_name = {'Main; grid'; 'Mill'; 'Dam''s'; 'Quay'; 'Far'};
mpc.areas = [1 7];
[PQ, PV, REF, NONE, BUS_I, BUS_TYPE, PD, QD, GS, BS, BUS_AREA, VM, ...
    VA, BASE_KV, ZONE, VMAX, VMIN] = idx_bus;
[F_BUS, T_BUS, BR_R, BR_X] = idx_brch;
Vbase = mpc.bus(1, BASE_KV) * 1e3;  Sbase = mpc.baseMVA * 1e6;
mpc.branch(:, [BR_R BR_X]) = mpc.branch(:, [BR_R BR_X]) / (Vbase^2 / Sbase);
mpc.bus(:, [PD, QD]) = mpc.bus(:, [PD, QD]) / 1e3;
"""


def tables() -> dict[str, Any]:
    """The case's tables by hand, as they are in the end."""
    ohm = 12**2 / 10
    return {
        "baseMVA": 10.0,
        "bus": np.array([
            [7, 3, 0, 0, 0, 0, 1, 1, 0, 12, 1, 1, 1],
            [2, 1, 0.2, 0.05, 0, 0.125, 1, 1, 0, 12, 1, 1.1, 0.9],
            [30, 2, -0.1, -0.02, 0.2, -0.1, 1, 1, 0, 12, 1, 1.1, 0.9],
            [4, 1, 0.3, 0.1, 0, 0, 1, 1, 0, 12, 1, 1.1, 0.9],
            [5, 4, 1, 0, 0, 0, 1, 1, 0, 12, 1, 1.1, 0.9],
        ]),
        "gen": np.array([
            [7, 9, 1, 10, -10, 1.04, 100, 1, 10, 0],
            [30, 0.15, 0, np.inf, -np.inf, 1.02, 100, 1, 10, 0],
            [4, 0.05, 0.01, 1, -1, 0.5, 100, 1, 10, 0],
            [4, 5, 1, 1, -1, 0.5, 100, 0, 10, 0],
        ]),
        "branch": np.array([
            [2, 7, 0.5 / ohm, 0.6 / ohm, 0, 3, 0, 0, 0.98, 0, 1, -360, 360],
            [2, 30, 0.7 / ohm, 0.4 / ohm, 0.002, 0, 0, 0, 1.02, -30, 1, -360, 360],
            [4, 2, 0.3 / ohm, 0.2 / ohm, 0.001, np.inf, 0, 0, 0, 0, 1, -360, 360],
            [4, 30, 0.3 / ohm, 0.2 / ohm, 0.001, 0, 0, 0, 0, 0, 0, -360, 360],
        ]),
    }  # fmt: skip


def voltages(grid: jg.Grid) -> np.ndarray:
    with by_numpy():
        grid = to_host(grid)
        found = acflow.flow(grid, grid.passive, grid.passive_reactive)
    assert np.all(found.ok)
    return np.asarray(found.voltage)[:, 0]


def missing(case: dict[str, Any], volts: np.ndarray) -> np.ndarray:
    """What the format's own equations leave over at each bus (MW + j Mvar) at these voltages."""
    base, bus, branch, gen = (case[name] for name in ("baseMVA", "bus", "branch", "gen"))
    at = {number: k for k, number in enumerate(bus[:, 0])}
    sent = -(bus[:, 2] + 1j * bus[:, 3]) - (bus[:, 4] - 1j * bus[:, 5]) * np.abs(volts) ** 2
    for row in gen[gen[:, 7] > 0]:
        sent[at[row[0]]] += row[1] + 1j * row[2]
    for row in branch[branch[:, 10] > 0]:
        f, t = at[row[0]], at[row[1]]
        series, half = 1 / (row[2] + 1j * row[3]), 0.5j * row[4]
        tap = (row[8] or 1) * np.exp(1j * np.deg2rad(row[9]))
        into = (series + half) * volts[f] / abs(tap) ** 2 - series * volts[t] / np.conj(tap)
        out = (series + half) * volts[t] - series * volts[f] / tap
        sent[f] -= base * volts[f] * np.conj(into)
        sent[t] -= base * volts[t] * np.conj(out)
    return sent


def test_a_case_file_becomes_a_grid_with_its_state():
    """Units by its statements; taps, shunts, generators and what is off as the format has them."""
    grid, report = from_matpower(CASE)
    case = tables()
    turned = np.array([0, 0, 30, 0])  # behind a transformer of -30 degree
    volts = report.state[report.bus[:4]] * np.exp(1j * np.deg2rad(turned))
    left = missing({**case, "bus": case["bus"][:4]}, volts)
    np.testing.assert_allclose(left[[1, 3]], 0, atol=1e-9)
    assert abs(left[2].real) < 1e-9 and abs(left[2].imag) > 1e-3  # its own reactive power
    assert abs(volts[2]) == pytest.approx(1.02) and abs(volts[0]) == pytest.approx(1.04)
    np.testing.assert_allclose(voltages(grid), np.abs(report.state), atol=1e-9)
    assert report.source == "MATPOWER case street"
    assert [grid.names[k] for k in report.bus[:4]] == ["Main; grid", "Mill", "Dam's", "Quay"]
    assert report.bus[4] == -1 and report.line["branch"][3] == -1
    rating = np.asarray(grid.rating)[report.line["branch"][:3]]
    assert np.isinf(rating[1:]).all() and rating[0] == pytest.approx(3000 / 0.98)
    resistance = 0.3 / (1000 * 12**2)
    assert float(grid.resistance[report.line["branch"][2]]) == pytest.approx(resistance)


def test_the_report_says_what_a_case_has_besides():
    _, report = from_matpower(CASE)
    told = {note.code: (note.places, note.number) for note in report.notes}
    assert told["statement.done"] == (("line 35", "line 36"), None)
    assert told["cost.ignored"][0] == ("mpc.gencost",)
    assert told["table.ignored"][0] == ("mpc.areas",)
    assert told["source.power"] == (("gen 1 at bus 7",), pytest.approx(9000))
    assert told["element.off"] == (("gen 4 at bus 4",), pytest.approx(5000))
    assert told["load.negative"] == (("bus 30",), pytest.approx(100))
    assert told["bus.off"] == (("bus 5",), pytest.approx(1000))
    assert told["branch.no_rating"][0] == ("branch 2 (2-30)", "branch 3 (4-2)")
    assert told["branch.shift"][0] == ("branch 2 (2-30)",)
    assert told["units.sums"][0][0] == "load 0.5 MW is 0.05 baseMVA"
    assert report.totals["generation"].after == pytest.approx(300)
    assert report.count("units.load") == report.count("state.none") == 0


def test_a_dictionary_is_read_as_a_file_is():
    grid, report = from_matpower(CASE)
    case = tables()
    ppc, of_ppc = from_pypower({**case, "bus_name": grid.names, "areas": 0, "gencost": 0})
    assert ppc.line_names == grid.line_names and of_ppc.bus.tolist() == report.bus.tolist()
    for name in ("passive", "passive_reactive", "resistance", "reactance", "tap", "rating"):
        np.testing.assert_allclose(getattr(ppc, name), getattr(grid, name), rtol=1e-9, atol=1e-9)
    assert of_ppc.count("table.ignored") == of_ppc.count("cost.ignored") == 1
    assert of_ppc.count("statement.done") == 0 and "branch 1 (2-30)" in str(of_ppc)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_state_is_that_of_runpp():
    """Through pandapower's own reader of such dictionaries, with ratios and held voltages."""
    pandapower = pytest.importorskip("pandapower")
    from pandapower.converter.pypower.from_ppc import from_ppc

    case = tables()
    case["bus"], case["branch"] = case["bus"][:4], case["branch"][:3]
    case["gen"] = np.where(np.isinf(case["gen"]), 99, case["gen"])
    case["branch"][1, 4] = 0  # of a transformer, which that reader takes for an inductance
    net = from_ppc(case, f_hz=50)
    pandapower.runpp(net, tolerance_mva=1e-10, numba=False)
    _, report = from_pypower(case)
    right = net.res_bus.vm_pu.loc[case["bus"][:, 0]].to_numpy()
    np.testing.assert_allclose(np.abs(report.state[report.bus]), right, atol=1e-8)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_to_ppc_gives_is_read_with_the_iron_of_transformers():
    """pandapower keeps conductances beside the table of branches, and numbers buses from 0."""
    pp = pytest.importorskip("pandapower")
    from pandapower.converter.pypower.to_ppc import to_ppc

    net = pp.create_empty_network()
    a, b, c = (pp.create_bus(net, kv) for kv in (20.0, 0.4, 0.4))
    pp.create_ext_grid(net, a, vm_pu=1.02)
    pp.create_transformer(net, a, b, "0.25 MVA 20/0.4 kV")
    pp.create_line(net, b, c, 0.2, "NAYY 4x150 SE")
    pp.create_load(net, c, 0.06, 0.02)
    pp.runpp(net, trafo_model="pi", tolerance_mva=1e-11, numba=False)
    ppc = to_ppc(net, calculate_voltage_angles=True, trafo_model="pi", init="flat")
    _, report = from_pypower(ppc)
    right = net.res_bus.vm_pu.to_numpy()
    np.testing.assert_allclose(np.abs(report.state[report.bus]), right, atol=1e-9)
    assert report.constant.real.sum() == pytest.approx(0.8 * 1.02**2, rel=1e-2)  # kW of iron
    with pytest.raises(ValueError, match=r"branch_g has shape \(1,\); give one number per branch"):
        from_pypower({**ppc, "branch_g": [0.0]})


def bw33() -> tuple[str, Any]:
    """The feeder of Baran and Wu as MATPOWER's file tells it, from pandapower's tables."""
    networks = pytest.importorskip("pandapower.networks")
    net = networks.case33bw()
    kw, kvar = (1e3 * np.bincount(net.load.bus, net.load[name]) for name in ("p_mw", "q_mvar"))
    bus = [
        f"{k + 1} {1 + 2 * (k == 0)} {p:.10g} {q:.10g} 0 0 1 1 0 12.66 1 1.1 0.9;"
        for k, (p, q) in enumerate(zip(kw, kvar, strict=True))
    ]
    line = net.line
    ohm = line.r_ohm_per_km * line.length_km, line.x_ohm_per_km * line.length_km
    branch = [
        f"{f + 1} {t + 1} {r:.10g} {x:.10g} 0 0 0 0 0 0 {on:d} -360 360;"
        for f, t, r, x, on in zip(line.from_bus, line.to_bus, *ohm, line.in_service, strict=True)
    ]
    after = CASE[CASE.index("[PQ") :]
    tables = {"bus": bus, "gen": ["1 0 0 10 -10 1 100 1 10 0"], "branch": branch}
    told = "".join(
        f"mpc.{name} = [\n" + "\n".join(rows) + "\n];\n" for name, rows in tables.items()
    )
    return f"function mpc = case33bw\nmpc.baseMVA = 10;\n{told}{after}", net


def test_baran_and_wu_carry_3715_kw():
    """Not MW, as readers have it that leave out the statements; in the state of `runpp`."""
    pandapower = pytest.importorskip("pandapower")
    text, net = bw33()
    pandapower.runpp(net, tolerance_mva=1e-10, numba=False)
    grid, report = from_matpower(text)
    assert float(np.sum(grid.passive)) == pytest.approx(3715)
    assert float(np.sum(grid.passive_reactive)) == pytest.approx(2300)
    assert report.count("branch.off") == 5 and len(grid.source) == 32
    volts = net.res_bus.vm_pu.to_numpy()
    np.testing.assert_allclose(np.abs(report.state)[report.bus], volts, atol=1e-9)
    assert volts.min() == pytest.approx(0.91309, abs=1e-5)


def test_units_that_were_left_out_show():
    """As tables without their statements: no state, and a current that no source gives."""
    text, _ = bw33()
    _, report = from_matpower(text[: text.index("[PQ")])
    assert report.count("state.none") == report.count("units.load") == 1
    assert "load 3715 MW is 371.5 baseMVA" in str(report)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 ^ 2 / 4 - -1", 6.5),
        ("-2^2", -4),
        ("2^-1 + 4.^.5", 2.5),
        ("2^3^2", 64),
        ("10/4/5", 0.5),
        ("(1 + 2) * sqrt(3)^2", 9),
        ("sin(acos(0.6))", 0.8),
        ("pi - 1.5e-1 + 1d2", np.pi + 99.85),
        ("[1 -2 - 3, 4]", [[1, -5, 4]]),
        ("[1 -2; 3 (4)]", [[1, -2], [3, 4]]),
        ("[a(1, 2) b 2*b]", [[2, 7, 14]]),
        ("a(:, [2 1])", [[2, 1], [4, 3]]),
        ("a(end, 1:end) .* [10 100]", [[30, 400]]),
        ("[a; 5 6]", [[1, 2], [3, 4], [5, 6]]),
        ("4:-1.5:0", [[4, 2.5, 1]]),
        ("3.*a(1, :) ./ b", [[3 / 7, 6 / 7]]),
    ],
)
def test_arithmetic_is_matlabs(text, value):
    found = worked_out(text, {"a": np.array([[1.0, 2], [3, 4]]), "b": np.array([[7.0]])})
    np.testing.assert_allclose(found, np.atleast_2d(value), rtol=1e-14)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("mpc = scale_load(2, mpc);", "'mpc' as a whole is not read"),
        ("system('rm -rf /');", r"line 37: \"system\('rm -rf /'\)\": only arithmetic on tables"),
        ("eval('mpc.bus = 1')", "only arithmetic on tables is read, nothing is run"),
        ("if mpc.baseMVA > 1", "'if mpc.baseMVA > 1': only arithmetic"),
        ("for k = 1:3, mpc.bus(k, 3) = 1; end", "only arithmetic"),
        ("mpc.bus(find(mpc.bus(:, 3)), 3) = 1;", "'find' is not known here"),
        ("mpc.bus(mpc.bus(:, 2) == 1, 3) = 1;", "'== 1"),
        ("mpc.bus(9, 3) = 1;", "column 9 is not in 1 to 5"),
        ("mpc.bus(:, 3) = [1 2];", r"\(1, 2\) numbers do not fit \(5, 1\) places"),
        ("mpc.bus(:, 3) = mpc.bus(:, 3) * mpc.bus(:, 4);", "between two tables is not read"),
        ("mpc.bus(:, 3) = mpc.gencost(1, 1);", "'mpc.gencost' is not read"),
        ("mpc.bus(2, :) = [];", "do not fit"),
        ("mpc.branch(:, 3) = k;", "'k' is not known here"),
        ("mpc.bus(3) = 1;", "a place needs its row and its column"),
        ("mpc.bus(:, 3) = mpc.bus(:, 3)';", "is not read"),
        ("other.bus(:, 3) = 1;", "'other' is not what the file returns"),
        ("x = rand(3); mpc.bus(:, 3) = x;", "'x' .line 37. is not known: 'rand' is not known"),
        ("mpc.bus(:, 3) = 1:1e12;", "a range has a step and an end"),
        ("mpc.bus = (1:1e4) + ones;", "'ones' is not known here"),
        ("mpc.bus = [1; 2] * [1 2];", "between two tables"),
        ("mpc.bus(:, 3) = 1:2:1e4 + [1; 2];", "a range is from a number to a number"),
        ("mpc.bus(:, 3) = " + 50 * "(" + "1" + 50 * ")" + ";", "parentheses are too deep"),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_its_line(statement, sentence):
    with pytest.raises(ValueError, match=sentence) as said:
        from_matpower(CASE + statement + "\n")
    assert re.match(r"case, line 37: [^\n]*\.\Z", str(said.value))


@pytest.mark.parametrize(
    "statement",
    ["a = [a a]", "a = [a; a]", "a = a(:, [1:500 1:500])", "a = 0 .* (a(1, :) + [1; 2])"],
)
def test_tables_do_not_grow_beyond_any_grid(statement, monkeypatch):
    """A file of a few lines fills no memory."""
    monkeypatch.setattr(matlab_terms, "_MOST", 999)
    with pytest.raises(ValueError, match=r"'a' .line 38.* a table of 1000 numbers is too large"):
        from_matpower(f"{CASE}a = 1:500;\n{statement};\nmpc.bus = a;\n")


def test_what_touches_no_table_may_be_anything_that_assigns():
    """Values that nobody asks for, fields that are not read, and functions behind the case's."""
    more = "x = rand(3);\nmpc.note = upper('a');\nend\nfunction y = f(x)\ny = eval(x);\n"
    grid, report = from_matpower(CASE + more)
    assert grid == from_matpower(CASE)[0] and "mpc.note" in str(report)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("    2  7 0.5", "    2  8 0.5", "branch row 1 is at bus 8, which is not in the bus"),
        ("    2   1   2e2", "    4   1   2e2", "bus 4 is there twice"),
        ("2e2   50", "2e2   NaN", "bus row 2 has no number QD"),
        ("30, 2,  -1e2", "30, 2,  -1e2 -1", "line 9: .* row 3 has 14 columns and not 13"),
        ("0 0 0.98", "0 0 -0.98", "branch row 1 has TAP -0.98"),
        (" 1.02 100", " -1.02 100", "gen row 2 has VG -1.02"),
        ("mpc.baseMVA = 50/5", "mpc.baseMVA = 0", "baseMVA is .0.0.; give one positive"),
        ("mpc.gen = [", "mpc.gens = [", "case, it sets no mpc.gen"),
        ("7   3   0", "7   1   0", "no source is in service"),
        (" 0   0 -360", " 0   1 -360", r"branch 4 \(4-30\) closes a loop .* by -30 degree"),
    ],
)
def test_a_case_that_makes_no_grid_is_refused(old, new, sentence):
    assert old in CASE
    with pytest.raises(ValueError, match=sentence):
        from_matpower(CASE.replace(old, new, 1))


def test_powers_of_one_phase_are_asked_for():
    """Where a file divides nominal voltages by sqrt(3): three phases carry three times as much."""
    told = CASE.replace(" 12/1 ", " 12/sqrt(3) ").replace(" 12 ", " 12/sqrt(3) ")
    told = told.replace(" 12,", " 12/sqrt(3),")
    with pytest.raises(ValueError, match=r"street: nominal .* give per_phase=True .* or per_phase"):
        from_matpower(told)
    one, report = from_matpower(told, per_phase=False)
    three, whole = from_matpower(told, per_phase=True)
    assert float(report.nominal[0]) == pytest.approx(12 / np.sqrt(3))
    assert float(whole.nominal[0]) == pytest.approx(12)
    np.testing.assert_allclose(np.abs(report.state), np.abs(whole.state), atol=1e-12)
    np.testing.assert_allclose(three.passive, 3 * np.asarray(one.passive), rtol=1e-9)


def test_tables_may_stand_apart():
    """As in the first version of the format."""
    told = CASE.replace("function mpc = street", "function [baseMVA, bus, gen, branch] = street")
    grid, report = from_matpower(told.replace("mpc.", ""))
    assert grid == from_matpower(CASE)[0] and report.count("statement.done") == 2


def test_a_case_is_found_by_its_path(tmp_path):
    (tmp_path / "street.m").write_text(CASE, "utf-8")
    for path in (tmp_path / "street.m", str(tmp_path / "street")):
        assert from_matpower(path)[1].source == "MATPOWER case street"
    with pytest.raises(
        ValueError, match=r"street.xls is no case file; give a \.m file or its text"
    ):
        from_matpower(tmp_path / "street.xls")
    with pytest.raises(ValueError, match="from_pypower: the case has no gen, branch"):
        from_pypower({"baseMVA": 1, "bus": []})


def test_a_source_without_a_generator_holds_the_voltage_of_its_bus():
    case = tables()
    case["gen"][0, 7] = 0
    case["bus"][0, [0, 7, 12]] = 2010012, 1.03, 3.0
    case["gen"][0, 0] = case["branch"][0, 1] = 2010012
    grid, report = from_pypower(case)
    assert grid.names[int(grid.feeder[0])] == "bus 2010012"
    assert float(grid.feeder_voltage[0, 0]) == pytest.approx(1.03)
    assert report.count("source.voltage") == 1 and report.count("bus.limits") == 1


def test_limits_that_leave_no_room_are_none():
    """As case28da has them, 1 to 1 at all buses, where its own state is at 0.91."""
    case = tables()
    case["bus"][1:, [11, 12]] = 1.0
    grid, report = from_pypower(case, voltage=(0.95, 1.03))
    assert np.all(np.asarray(grid.voltage_min)[report.bus[1:4]] == 0.95)
    limits = next(note for note in report.notes if note.code == "bus.limits")
    assert limits.places == ("bus 2", "bus 30", "bus 4", "bus 5")


def test_a_line_of_next_to_no_impedance_has_a_state():
    """As case16am, whose first branch has 1e-8 ohm."""
    text, _ = bw33()
    _, report = from_matpower(re.sub(r"\n1 2 \S+ \S+ ", "\n1 2 0 1e-8 ", text))
    _, without = from_matpower(re.sub(r"\n1 2 \S+ \S+ ", "\n1 2 0 0 ", text))
    assert report.count("state.none") == 0 and without.count("bus.merged") == 1
    np.testing.assert_allclose(report.state[1:], without.state, atol=1e-9)


def test_statements_know_their_lines():
    text = "a = 1; b = [1, 2;\n3 4]; % c = 3;\n\nd = 'it''s; 5%'\ne = 1 + ... more\n 2,f=3"
    assert statements(text) == [
        (1, "a = 1"),
        (1, "b = [1, 2;\n3 4]"),
        (4, "d = 'it''s; 5%'"),
        (5, "e = 1 +   2"),
        (6, "f=3"),
    ]


def test_constants_are_matpowers():
    """The columns that the format's manual gives; `define_constants` has them all."""
    bus, branch, gen = (CONSTANTS[f"idx_{name}"] for name in ("bus", "brch", "gen"))
    assert [bus[k] for k in ("PD", "QD", "GS", "BASE_KV", "VMIN", "MU_VMIN")] == [
        3,
        4,
        5,
        10,
        13,
        17,
    ]
    assert [branch[k] for k in ("BR_R", "TAP", "BR_STATUS", "ANGMIN", "PF", "MU_ST")] == [
        3, 9, 11, 12, 14, 19,
    ]  # fmt: skip
    assert [gen[k] for k in ("PG", "VG", "GEN_STATUS", "PMIN", "APF", "MU_QMIN")] == [
        2, 6, 8, 10, 21, 25,
    ]  # fmt: skip
    space = read(
        "function mpc = f\ndefine_constants;\nmpc.bus = [1 2 3];\nmpc.bus(1, PD) = MU_ST;", ("bus",)
    )
    assert space.values["mpc.bus"].tolist() == [[1, 2, 19]]
