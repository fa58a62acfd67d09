"""Nets by their files: what a name is, whose market it becomes, and that loads stay as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandapower
import pytest
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io
from jaxgne.cases.customers import shape
from jaxgne.io import sources
from tests.folders import feeder, same, unfinished

pp: Any = pandapower
CASE = """
mpc.baseMVA = 1;
mpc.bus = [
    1 3 0    0    0 0 1 1 0 0.4 1 1.1 0.9;
    2 1 0.03 0.01 0 0.002 1 1 0 0.4 1 1.1 0.9;
    3 1 0.02 0    0 0 1 1 0 0.4 1 1.1 0.9;
];
mpc.gen = [
    1 0    0 1 -1 1.02 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0;
    3 0.05 0 1 -1 1    1 1 1 0 0 0 0 0 0 0 0 0 0 0 0;
];
mpc.branch = [1 2 0.2 0.1 0 0.1 0 0 0 0 1 -360 360; 2 3 0.2 0.1 0 0 0 0 0 0 1 -360 360];
"""
WORKS: dict[str, Any] = {  # of power-grid-model
    "node": [{"id": 1, "u_rated": 400.0}, {"id": 2, "u_rated": 400.0}],
    "line": [{"id": 3, "from_node": 1, "to_node": 2, "from_status": 1, "to_status": 1, "r1": 0.03,
              "x1": 0.01, "c1": 0.0, "tan1": 0.0, "i_n": 200.0}],
    "source": [{"id": 4, "node": 1, "status": 1, "u_ref": 1.0}],
    "sym_load": [{"id": 5, "node": 2, "status": 1, "type": 0, "p_specified": 9e3,
                  "q_specified": 1e3}],
}  # fmt: skip


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street of two loads and an sgen in the files of three programs."""
    folder = tmp_path_factory.mktemp("nets")
    net = pp.create_empty_network()
    bus = pp.create_buses(net, 3, 0.4)
    pp.create_ext_grid(net, bus[0], vm_pu=1.01)
    for k in range(2):
        pp.create_line(net, bus[k], bus[k + 1], 0.1, "NAYY 4x150 SE")
        pp.create_load(net, bus[k + 1], 0.02 + 0.01 * k, 0.004)
    pp.create_sgen(net, bus[2], 0.006)
    pp.to_json(net, str(folder / "street.json"))
    (folder / "case.m").write_text(CASE)
    told = {"version": "1.0", "type": "input", "is_batch": False, "attributes": {}, "data": WORKS}
    (folder / "works.json").write_text(json.dumps(told))
    return folder


def test_a_name_says_whose_net_it_is(nets: Path):
    kinds = {
        "street.json": "pandapower",
        "works.json": "power-grid-model",
        "case.m": "matpower",
        "Master.dss": "opendss",
        "day": "",
        "day.xlsx": "",
    }
    assert {name: sources.kind_of(nets / name) for name in kinds} == kinds
    assert sources.kind_of("1-LV-rural1--0-sw") == "simbench"
    assert sources.kind_of("ieee37") == ""


@pytest.mark.parametrize(
    ("name", "load"),
    [("street.json", [20.0, 24.0]), ("case.m", [30.0, -30.0]), ("works.json", [9.0])],
)
def test_the_loads_of_a_net_are_its_customers(nets: Path, name: str, load: list[float]):
    """In one step what the file says; over a day they peak there, the sun by its own hours."""
    market, report = io.read_case(nets / name)
    assert report is not None
    assert market.prosumers.load[:, 0].tolist() == pytest.approx(load, abs=1e-6)
    assert float(market.grid.passive.sum()) == pytest.approx(0, abs=1e-6)
    assert market.trading.buyer.shape == (len(load) * (len(load) - 1) // 2,)
    assert {"tariff.default", "trading.default"} <= {note.code for note in report.notes}
    day, _ = io.read_case(nets / name, hours=24, hour_length=0.5, start="2026-01-20")
    sun, use = shape("sun", 48, 0.5), shape("passive", 48, 0.5)
    drawn = day.prosumers.load + day.prosumers.curtail_max
    made = np.asarray(day.prosumers.curtail_max)
    assert np.allclose(drawn, np.outer(np.max(drawn, axis=1), use))
    assert np.allclose(made, np.outer(np.max(made, axis=1), sun))
    assert day.clock is not None and day.clock.iso() == "2026-01-20T00:00:00+00:00"
    assert jg.clear(market).ok


def test_a_bus_keeps_its_shunt_as_passive_load(nets: Path):
    """2 kvar of a capacitor at bus 2 stay there, at its voltage; the customer has its 10 kvar."""
    market, report = io.read_case(nets / "case.m")
    assert report is not None
    assert market.prosumers.reactive[:, 0].tolist() == pytest.approx([10.0, 0.0], abs=1e-6)
    kvar = np.asarray(market.grid.passive_reactive)[:, 0]
    assert kvar[market.prosumers.bus[0]] == pytest.approx(-2.0, rel=0.1)
    assert report.count("customer.bus") == 2


NAMES = "mpc.bus_name = {'Station'; 'Bakery'; 'Mill'};"


def test_customers_have_the_names_that_a_net_has(nets: Path, tmp_path: Path):
    """Of their load, or of their bus where that has several; of no load, no names."""
    (tmp_path / "named.m").write_text(CASE + NAMES)
    two = WORKS | {"sym_load": [*WORKS["sym_load"], WORKS["sym_load"][0] | {"id": 6}]}
    told = {"version": "1.0", "type": "input", "is_batch": False, "attributes": {}, "data": two}
    (tmp_path / "two.json").write_text(json.dumps(told))
    expected = {
        nets / "case.m": (),
        tmp_path / "named.m": ("Bakery", "Mill"),
        nets / "works.json": ("sym_load 5",),
        tmp_path / "two.json": ("node 2",),
    }
    assert {path: io.read_case(path)[0].prosumers.names for path in expected} == expected


@pytest.mark.parametrize("name", ["street.json", "case.m", "works.json"])
def test_customers_of_a_net_are_behind_house_connections(nets: Path, tmp_path: Path, name: str):
    """In Python and on the command line: a line of 40 kVA for each customer."""
    plain, (wired, _) = io.read_case(nets / name)[0], io.read_case(nets / name, connection_max=40)
    assert same(wired, jg.devices.connection(plain, rating=40))
    count = len(plain.prosumers.bus)
    assert np.asarray(wired.grid.rating)[-count:].tolist() == [40.0] * count
    done = call("import", nets / name, "--connection-max", 40, "--out", tmp_path / "street")
    assert done.exit_code == 0, done.output
    shown, _ = jg.load(tmp_path / "street")
    fed = np.asarray(plain.prosumers.load).max(axis=1) > 0
    assert (np.asarray(shown.grid.rating) == 40).sum() == fed.sum()


def test_populate_puts_others_on_a_net(nets: Path):
    market, _ = io.read_case(nets / "street.json", populate=7, vehicle=0.5, seed=3)
    grid, _ = jg.from_pandapower(str(nets / "street.json"))
    assert same(market, jg.cases.populate(grid, 7, 3, hours=24, vehicle=0.5))


def test_many_customers_trade_with_some_others(monkeypatch, nets: Path):
    monkeypatch.setattr(sources, "_ALL", 1)
    market, _ = io.read_case(nets / "street.json")
    assert market.trading.buyer.tolist() == [0] and market.trading.seller.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("street.json", {"vehicle": 0.5}, "are of customers that `populate` makes"),
        ("street.json", {"hours": 0.7}, "give whole steps of 1 h"),
        ("street.json", {"stress": 2}, "has no option 'stress'; it takes populate, "),
        ("lost.m", {}, "does not exist; check the path"),
        ("lost.json", {}, "no case or folder"),
        ("1-LV-rural1--0-sw", {}, "give the day as start"),
        ("1-LV-rural1--0-sw", {"start": "2016-01-20", "hours": 7}, "give whole days"),
        ("1-LV-rural1--0-sw", {"populate": 7}, "customers of their own"),
    ],
)
def test_what_does_not_go_together_is_said(nets: Path, name: str, options: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        io.read_case(name if "LV" in name else nets / name, **options)


def test_convert_and_clear_take_a_net(nets: Path, tmp_path: Path):
    """What became of the net is told; the folder is the market that `read_case` gives."""
    result = call("import", nets / "street.json", "--out", tmp_path / "day", "--hours", 3)
    assert result.exit_code == 0, result.output
    assert "3 buses -> 3, net load 44 kW" in result.stdout
    assert "assumed: tariff.default [0.3 EUR/kWh]" in result.stdout
    market, _ = io.read_case(nets / "street.json", hours=3)
    assert same(market, io.load_market(tmp_path / "day"))
    words = ("clear", nets / "street.json", "--hours", 3, "--json")
    told = call(*words)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["prosumers"] == 2
    cars = json.loads(call(*words, "--vehicles", 1.0, "--start", "2026-01-20").stdout)
    assert cars["energy_kwh"]["charged"] >= 0 and cars["start"].startswith("2026-01-20")
    refused = call("clear", nets / "street.json", "--pv", 0.5)
    assert refused.exit_code == 1 and "--photovoltaic goes with --populate" in refused.stderr


def test_convert_changes_the_form_and_keeps_the_result(tmp_path: Path):
    market = feeder()
    clearing = unfinished(market, jg.Status.cleared)
    io.save(tmp_path / "case", market, clearing)
    steps = [
        ("case", "book", "xlsx"),
        ("book.xlsx", "other", "parquet"),
        ("other", "end.xlsx", None),
    ]
    for source, out, form in steps:
        words = ["--format", form] if form else []
        result = call("import", tmp_path / source, "--out", tmp_path / out, *words)
        assert result.exit_code == 0, result.output
    loaded, again = io.load(tmp_path / "end.xlsx")
    assert again is not None
    assert same(market, loaded) and same(clearing, again)
    assert (tmp_path / "other" / "clearing" / "pair_hours.parquet").is_file()
    wrong = call("import", tmp_path / "case", "--out", tmp_path / "a.xlsx", "--format", "csv")
    assert wrong.exit_code == 2 and "is a workbook; leave --format csv out" in wrong.stderr


def test_contracts_of_a_file_are_the_prices(nets: Path, tmp_path: Path):
    """0.1 of energy and 0.1 of network make 0.24 with a VAT of a fifth, in place of 0.30."""
    told = "[contract]\nenergy = 0.1\nnetwork = 0.1\nvat = 0.2\nfeed_in = 0.05\n"
    (tmp_path / "tariff.toml").write_text(told)
    words = ("--tariff", tmp_path / "tariff.toml")
    result = call("import", nets / "works.json", "--out", tmp_path / "day", *words)
    assert result.exit_code == 0, result.output
    market = io.load_market(tmp_path / "day")
    people, tariff = market.prosumers, market.tariff
    assert float(tariff.base[0] + people.import_adder[0, 0]) == pytest.approx(0.24)
    assert float(tariff.export[0] + people.export_adder[0, 0]) == pytest.approx(0.05)
    again = call("import", tmp_path / "day", "--out", tmp_path / "day.xlsx", *words)
    assert again.exit_code == 0, again.output
