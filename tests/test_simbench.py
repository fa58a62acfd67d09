"""Markets from SimBench: clock, profiles, storages and study cases, beside its own package."""

from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandapower
import pandas as pd
import pytest
import simbench  # pyright: ignore[reportMissingImports]

import jaxgne as jg
from jaxgne import acflow
from jaxgne.runner import by_numpy, to_host

pp: Any = pandapower
CODE, SUBNET, DAY = "1-LV-semiurb4--1-sw", "LV4.101", "2016-06-20"
SPRING, AUTUMN = 8264, 29084  # rows of 2016-03-27 03:00 and 2016-10-30 00:00

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """SimBench's tables without most of the rows of other nets, read in a third of the time."""
    made = tmp_path_factory.mktemp("simbench")
    for file in Path(simbench.complete_data_path(1)).glob("*.csv"):
        if file.name.endswith(("LoadProfile.csv", "RESProfile.csv", "Node.csv")):
            (made / file.name).symlink_to(file)
            continue
        with file.open(encoding="utf-8") as lines:
            few = list(islice(lines, 4))
            rows = list(lines) if not file.name.endswith("Profile.csv") else []
        if not file.name.endswith(("Type.csv", "Cases.csv")) and rows:
            at = few[0].strip().split(";").index("subnet")
            joint = next((row for row in rows if "_" in row.split(";")[at]), "")
            rows = [joint, *(row for row in rows if SUBNET in row)]
        (made / file.name).write_text("".join([*few, *rows]), "utf-8")
    return made


@pytest.fixture(scope="module")
def net(folder) -> Any:
    return simbench.get_simbench_net(CODE, input_path=str(folder))


@pytest.fixture(scope="module")
def absolute(net) -> Any:
    """MW and Mvar of the year, by the row of the table."""
    return simbench.get_absolute_values(deepcopy(net), profiles_instead_of_study_cases=True)


@pytest.fixture(scope="module")
def told(net) -> tuple[jg.Market, Any]:
    return jg.from_simbench(net, DAY)


def flown(market: jg.Market) -> Any:
    """The AC state of what customers draw and make, storages at rest."""
    with by_numpy():
        grid, people = to_host((market.grid, market.prosumers))
        active: Any = np.array(grid.passive)
        reactive: Any = np.array(grid.passive_reactive)
        np.add.at(active, people.bus, people.load)
        np.add.at(reactive, people.bus, people.reactive)
        return acflow.flow(grid, active, reactive)


def solved(net: Any, powers: dict[tuple[str, str], Any], row: int) -> Any:
    """The net that runpp has solved for the powers of a row, storages at rest."""
    net = deepcopy(net)
    net.storage["p_mw"] = 0.0
    for (kind, name), frame in powers.items():
        if kind in ("load", "sgen", "ext_grid"):
            net[kind][name] = frame.iloc[row].to_numpy()
    pp.runpp(net, tolerance_mva=1e-10, numba=False)
    return net


def beside(market: jg.Market, report: Any, truth: Any, step: int) -> None:
    found = flown(market)
    volts = np.asarray(found.voltage)[report.bus, step]
    np.testing.assert_allclose(volts, truth.res_bus.vm_pu, atol=1e-9)
    sent = 1e3 * truth.res_ext_grid.p_mw.sum()
    assert float(found.exchange[:, step].sum()) == pytest.approx(sent, abs=1e-6)


def test_each_step_has_the_voltages_of_runpp(net, absolute, told):
    market, report = told
    first = net.profiles["load"].time.tolist().index("20.06.2016 00:00")
    for step in (8, 52):
        beside(market, report, solved(net, absolute, first + step), step)


def test_nothing_of_the_day_is_lost(net, absolute, told):
    """Rows of the 20th of June, found by their text, as kWh; the net given stays as it was."""
    market, report = told
    rows = net.profiles["load"].time.str.startswith("20.06.2016").to_numpy()
    assert rows.sum() == market.hour_length.shape[0] == 96
    load, made = (250 * absolute[kind, "p_mw"][rows].to_numpy().sum() for kind in ("load", "sgen"))
    people = market.prosumers
    assert 0.25 * float(people.curtail_max.sum()) == pytest.approx(made)
    assert 0.25 * float(people.load.sum()) == pytest.approx(load - made)
    for kind, sum_ in (("load", load), ("generation", made)):
        total = report.totals[f"energy of {kind}"]
        assert total.before == pytest.approx(sum_) and total.after == pytest.approx(sum_)
    assert str(market.clock) == "2016-06-20 00:00 Europe/Berlin"
    assert net.storage.p_mw[0] == pytest.approx(-0.0137) and net.ext_grid.vm_pu[0] == 1.025


@pytest.mark.parametrize(
    ("day", "first", "steps"), [("2016-03-27", SPRING - 8, 92), ("2016-10-30", AUTUMN, 100)]
)
def test_days_on_which_clocks_change_have_all_their_quarter_hours(
    net, absolute, day: str, first: int, steps: int
):
    """In spring two o'clock is missing, in autumn it comes twice, in the order of the rows."""
    market, _ = jg.from_simbench(net, day)
    assert market.hour_length.shape == (steps,)
    assert len({str(t) for t in jg.clock.times(market)}) == steps
    truth = 1e3 * absolute["load", "p_mw"].to_numpy()[first : first + steps].T
    load = np.asarray(market.prosumers.load) + np.asarray(market.prosumers.curtail_max)
    np.testing.assert_allclose(load, truth, atol=1e-9)
    assert net.profiles["load"].time[first].endswith("00:00")


def test_hours_are_means_of_quarter_hours_and_days_go_on(net, told):
    market, _ = jg.from_simbench(net, DAY, days=2, hour_length=1.0)
    assert market.hour_length.shape == (48,)
    fine = np.asarray(told[0].prosumers.load).reshape(-1, 24, 4).mean(axis=2)
    np.testing.assert_allclose(np.asarray(market.prosumers.load)[:, :24], fine, atol=1e-9)


def test_storages_are_batteries_of_their_energy_and_power(net, told):
    """13.687 kW and 27.4 kWh; 0.95 is a share; what their profiles draw is nowhere."""
    market, report = told
    stores = market.buffers
    assert float(stores.energy_max[0, 0]) == pytest.approx(27.4)
    assert float(stores.discharge_max[0, 0]) == float(stores.charge_max[0, 0])
    assert float(stores.charge_max[0, 0]) == pytest.approx(13.687)
    assert float(stores.charge_efficiency[0, 0]) == float(stores.discharge_efficiency[0, 0]) == 0.95
    assert report.count("storage.profile") == report.count("storage.leak") == 1
    owner = report.data["customers"][int(stores.owner[0])]
    assert net.load.bus[int(owner.split()[1])] == net.storage.bus[0]


def test_customers_are_the_loads_and_own_the_panels_at_their_bus(net, told):
    market, report = told
    assert len(report.data["customers"]) == len(net.load) == 44
    fixed = net.load.profile.str.contains("Air|Soil|HLS|APLS").sum()
    assert report.count("customer.device") == fixed == 3  # scenario 0 has 41 loads
    owner = int(report.data["owner"]["sgen 0 (LV4.101 SGen 1)"].split()[1])
    assert net.load.bus[owner] == net.sgen.bus[0]
    assert np.flatnonzero(np.asarray(market.prosumers.curtail_max).any(axis=1)).tolist() == [owner]
    peak = next(note for note in report.notes if note.code == "profile.peak")
    assert peak.number == pytest.approx(net.profiles["renewables"].PV5.max())
    assert peak.number == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("case", ["hL", "lPV"])
def test_a_study_case_is_that_of_simbench(net, case: str):
    """With its factors of load and generation, and its voltage of the main grid."""
    powers = simbench.get_absolute_values(deepcopy(net), profiles_instead_of_study_cases=False)
    row = powers["load", "p_mw"].index.tolist().index(case)
    market, report = jg.from_simbench(net, case=case)
    beside(market, report, solved(net, powers, row), 0)
    assert float(market.grid.feeder_voltage[0, 0]) == {"hL": 0.965, "lPV": 1.055}[case]
    assert market.clock is None


def test_a_tap_counts_as_in_runpp_and_is_named(net):
    """Its type is nowhere: one step off neutral is nothing to runpp, and 2.5 % to others."""
    net = deepcopy(net)
    assert net.trafo.tap_changer_type.isna().all()
    net.trafo["tap_pos"] = net.trafo.tap_neutral - 1
    powers = simbench.get_absolute_values(deepcopy(net), profiles_instead_of_study_cases=False)
    row = powers["load", "p_mw"].index.tolist().index("hL")
    market, report = jg.from_simbench(net, case="hL")
    beside(market, report, solved(net, powers, row), 0)
    assert report.count("tap.ignored") == 1 and report.count("tap.counted") == 0
    other, report = jg.from_simbench(net, case="hL", taps="all")
    assert report.count("tap.counted") == 1
    assert np.max(np.abs(np.asarray(other.grid.tap) - np.asarray(market.grid.tap))) > 0.02


def test_tariff_and_trading_are_the_callers_or_told(net, told):
    market, report = told
    assert report.count("tariff.default") == 1 and len(market.trading.limit) == 44 * 43 // 2
    own = jg.Tariff(0.0, hours=1, base=0.25)
    market, report = jg.from_simbench(
        net, case="hL", tariff=own, trading=jg.Trading([0], [1], 2.0, toll=0.03)
    )
    assert float(market.tariff.base[0]) == 0.25 and report.count("tariff.default") == 0
    assert market.trading.limit.tolist() == [[2.0]] and market.trading.toll.tolist() == [[0.03]]


def test_a_code_is_read_from_the_package_or_a_folder(net, monkeypatch):
    asked = []
    monkeypatch.setattr(
        simbench, "get_simbench_net", lambda code, input_path: asked.append(input_path) or net
    )
    for place in (None, "here"):
        market, report = jg.from_simbench(CODE, case="hPV", data=place)
        assert report.source == f"SimBench {CODE}, study case hPV"
    assert asked == [None, "here"]
    jg.validate(market)


def without_a_row(net: Any) -> None:
    for name in ("load", "renewables"):
        net.profiles[name] = net.profiles[name].drop(index=16500).reset_index(drop=True)


def without_a_profile(net: Any) -> None:
    net.load.loc[3, "profile"] = "H9-Z"


def apart_in_time(net: Any) -> None:
    net.profiles["load"] = net.profiles["load"].iloc[::-1]


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (without_a_row, {"day": DAY}, "row 16500 .* is 30 min after .* 1 rows are missing"),
        (without_a_profile, {"day": DAY}, "load 3 has the profile 'H9-Z_pload', which"),
        (apart_in_time, {"day": DAY}, "tables of profiles differ in time"),
        (None, {"day": "2017-01-20"}, "the series has 2016-01-01 00:00 to 2017-01-01 00:00"),
        (None, {"day": DAY, "hour_length": 0.7}, "a length that divides it"),
        (None, {"day": DAY, "days": 0}, "at least one day"),
        (None, {"case": "hX"}, "no study case 'hX'; there are hL, n1, hW, hPV"),
        (None, {}, 'give day="2016-01-20", or a study case'),
        (None, {"day": DAY, "case": "hL"}, 'give day="2016-01-20", or a study case'),
    ],
)
def test_what_is_not_there_is_refused(net, change: Any, options: Any, sentence: str):
    if change is not None:
        net = deepcopy(net)
        net.profiles = dict(net.profiles)
        change(net)
    with pytest.raises(ValueError, match=sentence):
        jg.from_simbench(net, **options)


def test_rows_without_a_profile_are_the_same_all_day(net, told):
    net = deepcopy(net)
    net.load.loc[3, "profile"] = None
    market, report = jg.from_simbench(net, DAY)
    assert report.count("profile.none") == 1
    load = np.asarray(market.prosumers.load)
    assert load[3].tolist() == [1e3 * net.load.p_mw[3]] * 96
    np.testing.assert_array_equal(load[4], np.asarray(told[0].prosumers.load)[4])
    assert isinstance(net.profiles["load"], pd.DataFrame)
