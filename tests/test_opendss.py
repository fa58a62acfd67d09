"""Circuits of OpenDSS: balanced ones have the engine's voltages, others say how far they are."""

from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne.io import read_case
from jaxgne.io.opendss import from_opendss
from tests.circuits import END, START, said

pytest.importorskip("dss", reason="needs dss-python")


def solved(engine: Any, text: str, after: str = "") -> Any:
    return said(engine, f"{START}{text}\n{END}\n{after}")


def distance(engine: Any) -> tuple[jg.Grid, Any, float]:
    """The grid, the report, and how far its voltages are from the mean of the solved phases."""
    grid, report = from_opendss(engine)
    off = next(note.number for note in report.notes if note.code == "state.solved")
    assert off is not None
    return grid, report, off


LINES = "new line.a bus1=lv bus2=b linecode=c length=0.3 units=km\n"


@pytest.mark.parametrize("model", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_balanced_circuit_has_the_voltages_of_the_engine(engine, model):
    """Source impedance, delta-wye transformer with a tap, cable charging, loads of every model.

    Model 4 is a power of the voltage, of which this state has the exponents 1 and 2.
    """
    zipv = "zipv=(0.2 0.3 0.5 0.1 0.4 0.5 0.0)" if model == 8 else ""
    load = f"new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15 model={model} vminpu=0.7 {zipv}\n"
    grid, report, off = distance(solved(engine, LINES + load))
    assert off <= 1e-8
    assert report.totals["source"].after == pytest.approx(report.totals["source"].before, abs=1e-4)
    assert float(grid.passive.sum()) != 0.0
    assert report.count("branch.default_rating") == report.count("line.zero_sequence") == 0
    assert report.count("branch.shift") == 1  # of delta-wye, by 30 degree


def test_the_ac_flow_of_the_grid_is_that_state(engine):
    """By the package's own power flow, and the rating is what 270 A are at 230.9 V, three times."""
    load = "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    grid, report, _ = distance(solved(engine, LINES + load))
    market = jg.Market(jg.Prosumers([0], [[0.0]]), grid, jg.Tariff(0.0, hours=1, base=0.2))
    flow = jg.ac_power_flow(market, jg.model.zeros(market))
    np.testing.assert_allclose(np.asarray(flow.voltage)[:, 0], np.abs(report.state), atol=1e-8)
    line = grid.line_names.index("Line.a")
    assert float(grid.rating[line]) == pytest.approx(270 * 0.4 * 3**0.5, rel=1e-6)


@pytest.mark.parametrize(("step", "tol"), [(0.0, 1e-8), (0.00625, 3e-5)])
def test_three_regulators_are_one_bank(engine, step, tol):
    """Whose tap is that of each where all are alike, and else the mean, so to second order."""
    bank = "".join(
        f"new transformer.r{k} phases=1 windings=2 buses=(b.{k} c.{k}) conns=(wye wye) "
        f"kvs=(0.2309401 0.2309401) kvas=(50 50) xhl=1 taps=(1 {1.0125 + step * (k - 2)})\n"
        for k in (1, 2, 3)
    )
    load = "new load.x bus1=c phases=3 kv=0.4 kw=60 kvar=15\n"
    grid, report, off = distance(solved(engine, LINES + bank + load))
    assert off <= tol
    assert report.totals["source"].after == pytest.approx(report.totals["source"].before, rel=1e-6)
    assert report.count("phases.few") == 3
    name = "Transformer.r1; Transformer.r2; Transformer.r3"
    assert float(grid.rating[grid.line_names.index(name)]) == pytest.approx(150.0)


@pytest.mark.parametrize(("nodes", "kv"), [(".1", 0.2309401), (".1.2", 0.4)])
def test_a_lateral_of_fewer_phases_drops_what_its_phases_do(engine, nodes, kv):
    """Where what is above is stiff: the mean of the phases it has, by the same load on each."""
    stiff = (
        "edit vsource.source mvasc3=1e5 mvasc1=1e5\nedit transformer.t xhl=0.01 %rs=(0.001 0.001)\n"
    )
    few = len(nodes) // 2
    code = f"phases={few} r1=0.2 x1=0.08 r0=0.2 x0=0.08 c1=0 c0=0"
    line = f"{stiff}new line.a bus1=lv{nodes} bus2=b{nodes} {code} length=0.1\n"
    loads = "".join(
        f"new load.x{k} bus1=b.{k} phases=1 kv=0.2309401 kw=5 kvar=1\n" for k in range(1, few + 1)
    )
    _, report, off = distance(solved(engine, line + loads))
    assert report.count("phases.few") == 1
    assert report.count("load.phases") == few
    assert off <= 2e-6


def test_a_line_open_at_one_end_is_its_charging(engine):
    load = "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    spur = "new line.s bus1=b bus2=d linecode=c length=2 units=km\n"
    after = "open line.s 2\nsolve"
    grid, report, off = distance(solved(engine, LINES + load + spur, after))
    assert report.count("branch.off") == 1
    assert "Line.s" not in grid.line_names
    assert off <= 1e-8


def test_what_is_made_is_what_the_solution_sends(engine):
    text = (
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
        "new pvsystem.p bus1=b phases=3 kv=0.4 kva=30 pmpp=20 irradiance=0.8\n"
        "new generator.g bus1=b phases=3 kv=0.4 kw=10 kvar=2 model=1\n"
        "new capacitor.c bus1=b phases=3 kv=0.4 kvar=12\n"
    )
    _, report, off = distance(solved(engine, LINES + text))
    assert report.count("element.solved") == 2
    assert report.totals["generation"].before == pytest.approx(25.9, abs=0.5)
    assert off <= 1e-8


@pytest.mark.parametrize(("state", "kw"), [("discharging", 10.0), ("charging", -10.0)])
def test_a_storage_is_there(engine, state, kw):
    """With what it does in the solution, not at rest."""
    text = (
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
        "new storage.s bus1=b phases=3 kv=0.4 kwrated=20 kwhrated=50 %stored=50 "
        f"state={state} %discharge=50 %charge=50\n"
    )
    _, report, off = distance(solved(engine, LINES + text))
    assert report.totals["generation"].before == pytest.approx(kw, abs=1e-6)
    assert report.count("element.solved") == 1
    assert off <= 1e-8


@pytest.mark.parametrize("status", ["variable", "fixed", "exempt"])
def test_the_multiplier_of_loads_is_for_those_that_follow_it(engine, status):
    text = (
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
        f"new load.y bus1=b phases=3 kv=0.4 kw=30 status={status}\n"
    )
    _, report, off = distance(solved(engine, LINES + text, "set loadmult=0.5\nsolve"))
    kw = 45 if status == "variable" else 60
    assert off <= 1e-8 and report.totals["load"].before == pytest.approx(kw, abs=1)


def test_no_element_is_left_out_in_silence(engine):
    """Current sources send what the solution says; meters and controls need no word."""
    text = (
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
        "new isource.i bus1=b phases=3 amps=10\n"
        "new energymeter.m element=line.a\nnew monitor.n element=line.a\n"
        "new relay.r monitoredobj=line.a\n"
    )
    _, report, off = distance(solved(engine, LINES + text))
    assert report.count("element.solved") == 1 and report.count("element.ignored") == 0
    assert off <= 1e-8
    text += "new fault.f bus1=b phases=3 r=4\n"
    _, report, off = distance(solved(engine, LINES + text))
    note = next(note for note in report.notes if note.code == "element.ignored")
    assert note.places == ("Fault.f",) and off > 1e-3


def test_what_is_not_enabled_is_not_there(engine):
    """Though the engine still lists it: a load, and a line that would close a loop."""
    text = (
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
        "new load.y bus1=b phases=3 kv=0.4 kw=90 enabled=no\n"
        "new line.z bus1=lv bus2=b linecode=c length=1 enabled=no\n"
    )
    grid, _, off = distance(solved(engine, LINES + text))
    assert float(grid.passive[grid.names.index("b"), 0]) == pytest.approx(60, abs=1)
    assert "Line.z" not in grid.line_names and off <= 1e-8


@pytest.mark.parametrize(
    ("more", "after", "places", "kw", "tol"),
    [
        ("new load.y bus1=b phases=3 kv=0.4 kw=30", "open load.y 1", ("Load.y",), 0.0, 5e-5),
        ("new load.y bus1=b phases=3 kv=0.4 kw=30", "open load.y 1 2", ("Load.y",), 20.0, 9e-5),
        ("edit load.x daily=d", "set mode=daily number=1 hour=0", ("Load.x",), 12.0, 1e-8),
        ("", "set year=3", ("Load.x",), 60 * 1.025**2, 1e-8),
    ],
)
def test_loads_draw_what_the_solution_says_where_that_is_not_their_power(
    engine, more, after, places, kw, tol
):
    """Open at their terminal or one phase of it, by a shape (a fifth at one), and by 2.5 % a year.

    Of 30 kW that are open the engine keeps 0.06 kW.
    """
    text = (
        "new loadshape.d npts=3 interval=1 mult=(0.2 0.5 1)\n"
        "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    )
    _, report, off = distance(solved(engine, LINES + text + more, f"{after}\nsolve"))
    note = next(note for note in report.notes if note.code == "load.solved")
    assert note.places == places and note.number == pytest.approx(kw, rel=0.03, abs=1e-9)
    assert off <= tol


def test_lines_whose_zero_sequence_nobody_gave_are_named(engine):
    """R1 alone leaves the engine's R0, with which two phases help each other; a matrix does not."""
    text = "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    for name, told in {
        "short": "r1=0.2 x1=0.08",
        "given": "r1=0.2 x1=0.08 r0=0.8 x0=0.3",
        "matrix": "rmatrix=(0.3 | 0.1 0.3) xmatrix=(0.3 | 0.1 0.3)",
        "switch": "switch=yes",
    }.items():
        text += f"new line.{name} bus1=b.1.2 bus2={name}.1.2 phases=2 {told} length=0.1\n"
    text += "new line.all bus1=b bus2=all phases=3 r1=0.2 x1=0.08 length=0.1\n"
    text += "new line.one bus1=b.1 bus2=one.1 phases=1 r1=0.2 x1=0.08 length=0.1\n"
    _, report, off = distance(solved(engine, LINES + text))
    note = next(note for note in report.notes if note.code == "line.zero_sequence")
    assert note.places == ("Line.short", "Line.all") and off <= 1e-6
    assert report.count("branch.default_rating") == 6


def test_phases_are_kept_beside_the_balanced_grid(engine):
    """Which has a third of an uneven load in each phase, and says so."""
    loads = (
        "new load.x bus1=b.2 phases=1 kv=0.2309401 kw=6 kvar=1\n"
        "new load.y bus1=b.1.3 phases=1 conn=delta kv=0.4 kw=3\n"
    )
    _, report, _ = distance(solved(engine, LINES + loads))
    x, y = (report.data["phases"][f"Load.{name}"] for name in "xy")
    assert (x["nodes"], x["kw"], x["kvar"], x["delta"]) == ([2], 6, 1, False)
    assert (y["nodes"], y["kw"], y["delta"]) == ([1, 3], 3, True)
    note = next(note for note in report.notes if note.code == "load.phases")
    assert note.places == ("Load.x", "Load.y") and note.number == pytest.approx(9)
    assert next(n.number for n in report.notes if n.code == "state.phases") > 1e-3


def test_a_service_of_two_halves_is_one_transformer(engine):
    """Single-phase, 120/240 V: both halves loaded alike, seen from a stiff bus."""
    stiff = "edit vsource.source mvasc3=1e5 mvasc1=1e5\n"
    text = (
        "new transformer.h phases=1 windings=3 buses=(src.1 house.1.0 house.0.2) "
        "kvs=(11.547 0.12 0.12) kvas=(25 25 25) xhl=2.5 xht=2.5 xlt=1.7 %rs=(0.6 1.2 1.2)\n"
        "new load.one bus1=house.1 phases=1 kv=0.12 kw=8 kvar=1\n"
        "new load.two bus1=house.2 phases=1 kv=0.12 kw=8 kvar=1\n"
    )
    bases = "set voltagebases=[20 0.4 0.2078]\ncalcvoltagebases\nset tolerance=1e-10\nsolve"
    said(engine, f"{START}{stiff}{text}{bases}")
    _, _, off = distance(engine)
    assert off <= 1e-5


def test_what_cannot_be_read_is_said(engine):
    said(engine, f"{START}{LINES}solve")
    with pytest.raises(ValueError, match="no base voltage; run `set voltagebases"):
        from_opendss(engine)
    ring = (
        LINES
        + "new line.b bus1=lv bus2=c linecode=c length=1\nnew line.d bus1=b bus2=c linecode=c\n"
    )
    with pytest.raises(ValueError, match=r"close a loop, and lindistflow needs a tree"):
        from_opendss(solved(engine, ring))
    with pytest.raises(ValueError, match="is no file; give the master file"):
        from_opendss("nowhere.dss")


def test_a_file_is_compiled_and_solved(tmp_path):
    load = "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    path = tmp_path / "Master.dss"
    path.write_text(f"{START}{LINES}{load}{END}\n")
    grid, report = from_opendss(path)
    assert "OpenDSS, circuit 'street'" in str(report)
    assert set(grid.names) == {"src", "lv", "b", "Vsource.source"}
    assert read_case(path)[0].prosumers.names == ("x",)


def test_base_voltages_alone_are_no_solution(engine, tmp_path):
    """`calcvoltagebases` solves without loads and says it has converged: 75 kVA are not there."""
    load = "new load.x bus1=b phases=3 kv=0.4 kw=60 kvar=15\n"
    bases = END.removesuffix("solve")
    said(engine, f"{START}{LINES}{load}{bases}")
    assert engine.ActiveCircuit.Solution.Converged
    with pytest.raises(ValueError, match="the circuit is not solved, or was changed since"):
        from_opendss(engine)
    path = tmp_path / "Master.dss"
    path.write_text(f"{START}{LINES}{load}{bases}\n")
    _, report = from_opendss(path)
    assert report.totals["source"].before > 60
    said(engine, "solve\nedit load.x kw=70")
    with pytest.raises(ValueError, match="was changed since"):
        from_opendss(engine)
