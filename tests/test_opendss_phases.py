"""OpenDSS circuits as grids in three phases: the AC power flow of the grid is the engine's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli
from jaxgne.io import read_case
from jaxgne.io.opendss import from_opendss
from jaxgne.phases import row
from tests.circuits import END, START, said

pytest.importorskip("dss", reason="needs dss-python")

CONSTANT = "model=1 vminpu=0.05 vmaxpu=5"
MATRICES = "rmatrix=(0.30 | 0.10 0.33) xmatrix=(0.20 | 0.08 0.25) cmatrix=(200 | -30 210)"
STREET = f"""
new line.a bus1=lv bus2=b linecode=c length=0.3 units=km
new transformer.r1 phases=1 windings=2 buses=(b.1 r.1) kvs=(0.2309 0.2309) kvas=(50 50) xhl=1
~ taps=(1 1.025)
new transformer.r2 like=r1 buses=(b.2 r.2) taps=(1 1.0125)
new transformer.r3 like=r1 buses=(b.3 r.3) taps=(1 0.9875)
new line.two bus1=r.3.1 bus2=two.3.1 phases=2 {MATRICES} length=0.2 units=km normamps=90
new line.one bus1=two.3 bus2=one.3 phases=1 rmatrix=(0.4) xmatrix=(0.1) cmatrix=(0) length=0.1
new load.wye bus1=b phases=3 kv=0.4 kw=30 kvar=9 {CONSTANT}
new load.house bus1=one.3 phases=1 kv=0.2309 kw=6 kvar=1 {CONSTANT}
new load.pair bus1=two.1.3 phases=1 conn=delta kv=0.4 kw=4 kvar=1 {CONSTANT}
new load.delta bus1=r phases=3 conn=delta kv=0.4 kw=15 kvar=3 {CONSTANT}
new load.open bus1=r.1.2.3 phases=2 conn=delta kv=0.4 kw=5 kvar=2 {CONSTANT}
new capacitor.k bus1=r.2 phases=1 kv=0.2309 kvar=5
"""


def phased(engine: Any, text: str, start: str = START) -> tuple[jg.Grid, Any]:
    end = END.replace("1e-10", "1e-12")
    return from_opendss(said(engine, f"{start}{text}\n{end}"), model="lindist3flow")


def voltages(grid: jg.Grid) -> dict[str, float]:
    """Of all rows, by the package's own AC power flow."""
    market = jg.validate(
        jg.Market(jg.Prosumers([0], [[0.0]]), grid, jg.Tariff(0.0, hours=1, base=0.2))
    )
    flow = jg.ac_power_flow(market, jg.model.zeros(market))
    assert np.all(flow.ok)
    return dict(zip(grid.names, np.asarray(flow.voltage)[:, 0].tolist(), strict=True))


def solved(engine: Any) -> dict[str, dict[int, complex]]:
    """Voltages of nodes by the engine, pu."""
    found = {}
    for name in engine.ActiveCircuit.AllBusNames:
        engine.ActiveCircuit.SetActiveBus(name)
        bus = engine.ActiveCircuit.ActiveBus
        volts = np.asarray(bus.Voltages).reshape(-1, 2) @ [1, 1j] / (1000 * bus.kVBase)
        found[name] = dict(zip(bus.Nodes, volts.tolist(), strict=True))
    return found


def compare(engine: Any, grid: jg.Grid, tol: float = 1e-6) -> int:
    """How many rows of phases and pairs have the engine's voltages."""
    mine, theirs, count = voltages(grid), solved(engine), 0
    for bus, nodes in theirs.items():
        for one, volts in nodes.items():
            name = f"{bus}.{'abc'[one - 1]}"
            if name in mine:
                assert mine[name] == pytest.approx(abs(volts), abs=tol), name
                count += 1
            other = one % 3 + 1
            pair = f"{bus}.{'abc'[one - 1]}{'abc'[other - 1]}"
            if pair in mine:
                between = abs(volts - nodes[other]) / np.sqrt(3)
                assert mine[pair] == pytest.approx(between, abs=tol), pair
                count += 1
    return count


def test_a_street_of_all_connections_is_the_engines_state(engine):
    """Delta-wye, unequal regulators, laterals, charging, a capacitor, loads of all connections."""
    grid, report = phased(engine, STREET)
    assert compare(engine, grid) == 3 + 9 + 2 + 1 + 4  # src in pairs, three buses of three, pairs
    source = report.totals["source"]
    assert source.after == pytest.approx(source.before, rel=1e-6)
    assert report.totals["net load"].after == pytest.approx(60, abs=1e-6)
    drawn = dict(zip(grid.names, np.asarray(grid.passive)[:, 0].tolist(), strict=True))
    assert drawn["b.abc"] == pytest.approx(30) and drawn["two.ca"] == pytest.approx(4)
    assert [drawn[f"r.{ends}"] for ends in ("ab", "bc", "ca")] == pytest.approx([7.5, 7.5, 5])
    assert {name for name, _ in report.data["loads"]} == {"wye", "house", "pair", "delta", "open"}
    assert report.count("transformer.phases") == report.count("load.voltage") == 0


def test_conductors_have_their_own_ratings_taps_and_impedances(engine):
    grid, _ = phased(engine, STREET)
    line = dict(zip(grid.line_names, range(len(grid.line_names)), strict=True))
    kva = np.asarray(grid.rating)
    assert kva[line["Line.two.c"]] == pytest.approx(90 * 0.4 / 3**0.5, rel=1e-6)
    bank = "Transformer.r1; Transformer.r2; Transformer.r3"
    assert kva[line[f"{bank}.b"]] == pytest.approx(50)
    taps = [1 / float(grid.tap[line[f"{bank}.{phase}"]]) for phase in "abc"]
    assert taps == pytest.approx([1.025, 1.0125, 0.9875], rel=1e-5)
    ohm = 1000 * (0.4**2 / 3)
    assert float(grid.resistance[line["Line.two.c"]]) * ohm == pytest.approx(0.30 * 0.2, rel=1e-6)
    k = np.asarray(grid.coupled).tolist().index(line["Line.two.c"])
    assert int(grid.following[k]) == line["Line.two.a"]
    assert float(grid.mutual_reactance[k]) * ohm == pytest.approx(0.08 * 0.2, rel=1e-6)


def test_with_other_loads_it_is_the_engines_state_still(engine):
    """Without shunts and charging nothing but loads draws: all of the fall is the grid's."""
    street = STREET.replace("cmatrix=(200 | -30 210)", "cmatrix=(0 | 0 0)").split("new capacitor")[
        0
    ]
    start = START.replace("c1=300 c0=150", "c1=0 c0=0").replace("%imag=0.3 %noloadloss=0.2", "")
    grid, report = phased(engine, street, start)
    assert np.max(np.abs(report.constant)) < 1e-3
    other = {"wye": (10, 2), "house": (-5, 0.5), "pair": (9, 2), "delta": (3, 1), "open": (-6, 1)}
    for name, (kw, kvar) in other.items():
        engine.Text.Command = f"edit load.{name} kw={kw} kvar={kvar}"
    engine.Text.Command = "solve"
    drawn = report.constant.copy()
    rows: dict[str, list[int]] = {}
    for name, k in report.data["loads"]:
        rows.setdefault(name, []).append(k)
    for name, at in rows.items():
        np.add.at(drawn, report.bus[at], complex(*other[name]) / len(at))
    moved = replace(grid, passive=drawn.real[:, None], passive_reactive=drawn.imag[:, None])
    compare(engine, moved)


@pytest.mark.parametrize("model", [2, 3, 5])
def test_loads_that_move_with_voltage_draw_what_they_do(engine, model):
    grid, report = phased(engine, STREET.replace("model=1", f"model={model}"))
    compare(engine, grid)
    assert report.count("load.voltage") == 5


def test_what_is_made_is_on_its_phases(engine):
    """A panel on one phase, a battery on three, a generator between two."""
    more = (
        "new pvsystem.p bus1=one.3 phases=1 kv=0.2309 kva=6 pmpp=5 irradiance=0.8\n"
        "new storage.s bus1=b phases=3 kv=0.4 kwrated=9 kwhrated=50 %stored=50 "
        "state=discharging\n"
        "new generator.g bus1=r.1.2 phases=1 kv=0.4 kw=3 kvar=1 model=1\n"
    )
    grid, report = phased(engine, STREET + more)
    compare(engine, grid)
    assert report.count("element.solved") == 3
    drawn = dict(zip(grid.names, np.asarray(grid.passive)[:, 0].tolist(), strict=True))
    assert drawn["one.c"] == pytest.approx(2, abs=0.3)
    assert drawn["b.abc"] == pytest.approx(21, abs=0.1)
    assert drawn["r.ab"] == pytest.approx(7.5 - 3, abs=0.1)


WIRES = f"""
clear
new circuit.delta basekv=20 pu=1.02 bus1=src mvasc3=200 mvasc1=210
new transformer.t phases=3 windings=2 buses=(src top) conns=(delta delta) kvs=(20 4.8)
~ kvas=(2500 2500) xhl=4 %rs=(0.5 0.5)
new line.a bus1=top bus2=b phases=3 rmatrix=(0.3 | 0.1 0.33 | 0.12 0.09 0.28) length=1
~ xmatrix=(0.5 | 0.2 0.6 | 0.22 0.19 0.55) cmatrix=(0 | 0 0 | 0 0 0)
new line.b bus1=b.2.3 bus2=c.2.3 phases=2 rmatrix=(0.3 | 0.1 0.33) xmatrix=(0.5 | 0.2 0.6)
~ cmatrix=(0 | 0 0) length=1
new load.x bus1=b.1.2 phases=1 conn=delta kv=4.8 kw=300 kvar=100 {CONSTANT}
new load.y bus1=c.2.3 phases=1 conn=delta kv=4.8 kw=100 kvar=50 {CONSTANT}
new load.o bus1=b.1.2.3 phases=2 conn=delta kv=4.8 kw=60 kvar=20 {CONSTANT}
new load.z bus1=b phases=3 conn=delta kv=4.8 kw=900 kvar=300 {CONSTANT}
"""


def test_three_wires_have_rows_between_phases(engine):
    """Without ground: what draws on three stands once, and line voltages are the engine's."""
    bases = END.replace("0.4", "4.8")
    grid, report = from_opendss(said(engine, WIRES + bases), model="lindist3flow")
    assert compare(engine, grid) == 3 + 3 + 3 + 1
    assert report.count("rows.pairs") == 4 and report.count("transformer.phases") == 0
    drawn = dict(zip(grid.names, np.asarray(grid.passive)[:, 0].tolist(), strict=True))
    assert drawn["b.abc"] == pytest.approx(900) and drawn["b.ab"] == pytest.approx(330)
    assert drawn["b.bc"] == pytest.approx(30) and abs(drawn["b.ca"]) < 1e-3
    assert float(report.nominal[row(grid, "c", "bc")]) == pytest.approx(4.8)
    source = report.totals["source"]
    assert source.after == pytest.approx(source.before, rel=1e-6)


def test_a_grounded_wye_before_a_delta_is_a_ratio_and_said_to_be(engine):
    """What goes round in the delta is no current of the phases in front of it."""
    text = WIRES.replace("conns=(delta delta)", "conns=(wye delta)") + END.replace("0.4", "4.8")
    grid, report = from_opendss(said(engine, text), model="lindist3flow")
    note = next(note for note in report.notes if note.code == "transformer.phases")
    assert note.places == ("Transformer.t",) and report.count("rows.pairs") == 3
    compare(engine, grid, tol=1e-4)


def test_a_delta_beside_loads_to_ground_is_a_ratio_and_said_to_be(engine):
    """What its loads do to other phases is drawn there as solved, so that state is right."""
    more = (
        "new transformer.d phases=3 windings=2 buses=(b low) conns=(delta wye) kvs=(0.4 0.2)\n"
        "~ kvas=(50 50) xhl=2\n"
        f"new load.l bus1=low.2 phases=1 kv=0.11547 kw=8 kvar=2 {CONSTANT}\n"
    )
    bases = END.replace("20 0.4", "20 0.4 0.2")
    circuit = said(engine, START + STREET + more + bases)
    grid, report = from_opendss(circuit, model="lindist3flow")
    note = next(note for note in report.notes if note.code == "transformer.phases")
    assert note.places == ("Transformer.d",)
    compare(engine, grid, tol=1e-4)


def test_halves_of_a_service_are_one_row(engine):
    """Of the phase that feeds them, loaded alike; behind a line of two conductors."""
    text = (
        "new line.a bus1=src bus2=pole phases=3 r1=0.2 x1=0.4 r0=0.6 x0=1.2 c1=0 c0=0 length=2\n"
        "new transformer.h phases=1 windings=3 buses=(pole.2 box.1.0 box.0.2) "
        "kvs=(11.547 0.12 0.12) kvas=(25 25 25) xhl=2.5 xht=2.5 xlt=1.7 %rs=(0.6 1.2 1.2)\n"
        "new line.t bus1=box.1.2 bus2=home.1.2 phases=2 rmatrix=(0.5 | 0.2 0.5) normamps=100\n"
        "~ xmatrix=(0.3 | 0.1 0.3) cmatrix=(0 | 0 0) length=0.05\n"
        f"new load.one bus1=home.1 phases=1 kv=0.12 kw=3 kvar=1 {CONSTANT}\n"
        f"new load.two bus1=home.2 phases=1 kv=0.12 kw=3 kvar=1 {CONSTANT}\n"
        f"new load.stove bus1=home.1.2 phases=1 kv=0.24 kw=4 {CONSTANT}\n"
    )
    circuit = said(engine, START + text + END.replace("0.4]", "0.4 0.2078]"))
    grid, report = from_opendss(circuit, model="lindist3flow")
    assert report.count("service.halves") == 2
    mine, theirs = voltages(grid), solved(engine)
    for bus in ("box", "home"):
        half = abs(theirs[bus][1] - theirs[bus][2]) / 2
        assert mine[f"{bus}.b"] == pytest.approx(half, abs=1e-6)
    assert float(grid.passive[row(grid, "home", "b"), 0]) == pytest.approx(10)
    kva = float(grid.rating[grid.line_names.index("Line.t.b")])
    assert kva == pytest.approx(2 * 100 * 0.12, rel=1e-3)


def test_conductors_may_end_at_other_nodes(engine):
    """A node keeps its own letter; where in the grid it stands is what feeds it."""
    more = (
        f"new line.x bus1=b.2 bus2=x.1 phases=1 rmatrix=0.3 xmatrix=0.1 cmatrix=0 length=0.1\n"
        f"new load.x bus1=x.1 phases=1 kv=0.2309 kw=5 kvar=1 {CONSTANT}\n"
    )
    grid, _ = phased(engine, STREET + more)
    compare(engine, grid)
    at = row(grid, "x", "a")
    assert at in np.asarray(grid.phase_b) and at not in np.asarray(grid.phase_a)


def test_an_open_conductor_ends_its_phase(engine):
    """What stood there is named; between it and a live one it is what the engine says, nothing."""
    said(engine, f"{START}{STREET}{END.replace('1e-10', '1e-12')}\nopen line.two 2 1\nsolve")
    grid, report = from_opendss(engine, model="lindist3flow")
    compare(engine, grid)
    assert "two.a" in grid.names and "two.c" not in grid.names and "one.c" not in grid.names
    note = next(note for note in report.notes if note.code == "bus.unsupplied")
    assert note.places == ("Load.house", "Load.pair") and note.number == pytest.approx(10)


def test_a_neutral_with_a_voltage_is_told(engine):
    more = (
        "new line.n bus1=b.1.2.3.4 bus2=n.1.2.3.4 phases=4\n"
        "~ rmatrix=(0.3 | 0.1 0.3 | 0.1 0.1 0.3 | 0.1 0.1 0.1 0.4) length=0.2\n"
        "~ xmatrix=(0.2 | 0.1 0.2 | 0.1 0.1 0.2 | 0.1 0.1 0.1 0.3)\n"
        "~ cmatrix=(0 | 0 0 | 0 0 0 | 0 0 0 0)\n"
        "new reactor.g phases=1 bus1=b.4 r=0.5 x=0\n"
        f"new load.n bus1=n.1.4 phases=1 kv=0.2309 kw=5 {CONSTANT}\n"
    )
    grid, report = phased(engine, STREET + more)
    note = next(note for note in report.notes if note.code == "neutral.grounded")
    assert note.places == ("bus b", "bus n") and note.number > 1e-3
    assert next(n.number for n in report.notes if n.code == "state.solved") > 1e-4
    assert row(grid, "n", "a") >= 0


def test_three_sources_of_one_phase_are_one(engine):
    """Each with its own voltage, which keeps rows of phases."""
    sources = "".join(
        f"new vsource.s{k} phases=1 bus1=lv.{k} basekv=0.2309401 pu={pu} angle={-120 * (k - 1)} "
        "r1=0.01 x1=0.02 r0=0.01 x0=0.02\n"
        for k, pu in ((2, 1.01), (3, 0.99))
    )
    start = (
        "clear\nnew circuit.c phases=1 bus1=lv.1 basekv=0.2309401 pu=1.03 r1=0.01 x1=0.02 "
        "r0=0.01 x0=0.02\nnew linecode.c nphases=3 r1=0.2 x1=0.08 r0=0.8 x0=0.3 units=km\n"
    )
    grid, _ = phased(engine, sources + STREET, start)
    compare(engine, grid)
    np.testing.assert_allclose(np.asarray(grid.feeder_voltage)[:, 0], [1.03, 1.01, 0.99], 1e-6)
    source = from_opendss(engine)[1].totals["source"]  # balanced
    assert source.after == pytest.approx(source.before, rel=5e-3)
    wrong = sources.replace("angle=-120", "angle=-117")
    with pytest.raises(ValueError, match="phases that are not 120 degrees apart"):
        phased(engine, wrong + STREET, start)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "new transformer.w phases=1 windings=2 buses=(b.1.2 w.1) kvs=(0.4 0.2309)\n"
            "new load.w bus1=w.1 phases=1 kv=0.2309 kw=1",
            "Transformer.w makes of phases of bus b what is no phase of its own",
        ),
        (
            "new line.z bus1=lv bus2=r linecode=c length=1",
            "close a loop, and lindist3flow needs a tree",
        ),
        (
            "new line.y bus1=b bus2=y linecode=c length=1\n"
            "new line.z bus1=y bus2=z linecode=c length=1\nopen line.y 1\n"
            "new vsource.v bus1=y basekv=0.4",
            "are sources of different buses",
        ),
    ],
)
def test_what_rows_cannot_say_is_refused(engine, more, message):
    with pytest.raises(ValueError, match=message):
        phased(engine, STREET + more)


def test_a_file_is_a_market_in_three_phases(tmp_path: Path):
    """Customers stand at phases, pairs and all three; the command takes `--grid`."""
    path, out = tmp_path / "Master.dss", tmp_path / "street"
    path.write_text(f"{START}{STREET}{END}\n")
    market, report = read_case(path, grid="lindist3flow")
    assert report is not None
    at = dict(zip(market.prosumers.names, np.asarray(market.prosumers.bus).tolist(), strict=True))
    assert at["house"] == row(market.grid, "one", "c") and at["wye"] == row(market.grid, "b", "abc")
    assert jg.clear(market, tol=1e-6).ok
    found = CliRunner().invoke(
        cli.app, ["import", str(path), "--grid", "lindist3flow", "--out", str(out)]
    )
    assert found.exit_code == 0, found.output
    assert jg.load(out)[0].grid.names == market.grid.names
    with pytest.raises(ValueError, match="is read as a balanced grid"):
        jg.from_pypower(
            {
                "baseMVA": 1.0,
                "bus": np.array([[1, 3, 0, 0, 0, 0, 1, 1, 0, 0.4, 1, 1.1, 0.9]]),
                "gen": np.array([[1, 0, 0, 1, -1, 1.02, 1, 1, 1, 0.0]]),
                "branch": np.zeros((0, 13)),
            },
            model="lindist3flow",
        )
