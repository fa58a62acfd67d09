"""Markets of pandapower nets: who is a customer, and what follows a profile."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandapower
import pandas as pd
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.runner import by_numpy, to_host

pp: Any = pandapower
TARIFF = jg.Tariff(1e-3, hours=3, base=0.3, export=0.08)


@cache
def _street() -> Any:
    """Three loads at two buses, an sgen at one of them, one alone, two storages, a motor."""
    net = pp.create_empty_network()
    bus = pp.create_buses(net, 5, 0.4)
    pp.create_ext_grid(net, bus[0], vm_pu=1.01)
    for k in range(4):
        pp.create_line(net, bus[k], bus[k + 1], 0.1, "NAYY 4x150 SE", name=f"cable {k}")
    pp.create_load(net, bus[1], 0.004, 0.001, name="first")
    pp.create_load(net, bus[2], 0.006, name="second")
    pp.create_load(net, bus[1], 0.008, name="third", scaling=0.5)
    pp.create_sgen(net, bus[1], 0.005, 0.0005)
    pp.create_sgen(net, bus[4], 0.010)
    pp.create_storage(net, bus[2], 0.001, max_e_mwh=0.012, min_e_mwh=0.0012, soc_percent=40)
    put = {"min_p_mw": -0.005, "max_p_mw": 0.0, "efficiency_percent": 0.95}  # as SimBench has them
    for name, value in put.items():
        net.storage[name] = value
    pp.create_storage(net, bus[3], 0.002, max_e_mwh=np.nan)
    pp.create_motor(net, bus[3], pn_mech_mw=0.002, cos_phi=0.9, efficiency_percent=80)
    return net


def street() -> Any:
    return deepcopy(_street())


def profiles(net: Any) -> dict[tuple[str, str], pd.DataFrame]:
    """Three steps, columns in another order than the table's rows, the third load has none."""
    return {
        ("load", "p_mw"): pd.DataFrame({1: [0.001, 0.002, 0.003], 0: [0.004, 0.005, 0.006]}),
        ("sgen", "p_mw"): pd.DataFrame({1: [0.0, 0.010, 0.005]}),
    }


def test_customers_are_the_rows_of_loads_and_what_stands_at_their_buses():
    net = street()
    market, report = jg.from_pandapower(net, tariff=TARIFF, hours=3, toll=0.02)
    jg.validate(market)
    people = market.prosumers
    named = ("load 0 (first)", "load 1 (second)", "load 2 (third)", "sgen 1")
    assert report.data["customers"] == named
    assert people.names == ("first", "second", "third", "sgen 1")  # which has no name
    assert report.count("customer.name") == 1
    np.testing.assert_allclose(people.load[:, 0], [4 - 5, 6, 4, -10], atol=1e-12)
    np.testing.assert_allclose(people.curtail_max[:, 0], [5, 0, 0, 10])
    np.testing.assert_allclose(people.reactive[:, 0], [1 - 0.5, 0, 0, 0], atol=1e-12)
    assert people.bus.tolist() == report.bus[[1, 2, 1, 4]].tolist()
    assert len(market.trading.buyer) == 6 and np.all(np.asarray(market.trading.toll) == 0.02)
    assert report.data["owner"]["sgen 0"] == "load 0 (first)"
    assert report.data["owner"]["motor 0"] is None
    several = next(note for note in report.notes if note.code == "customer.several")
    assert several.places == ("sgen 0",)  # two loads are at its bus
    assert report.totals["customers"].after == 4


def test_a_storage_is_a_battery_where_its_energy_and_power_are_known():
    """An efficiency of 0.95 percent is 95 %; the charging limit of 0 is the discharging one's.

    At the end it holds what it did at first: what was stored before pays no bill.
    """
    net = street()
    net.storage["name"] = ["Cellar", None]
    market, report = jg.from_pandapower(net, tariff=TARIFF, hours=3)
    store = market.buffers
    assert store.names == ("Cellar",)
    assert store.owner.tolist() == [1] and report.count("storage.passive") == 1
    assert float(store.charge_max[0, 0]) == float(store.discharge_max[0, 0]) == 5
    assert float(store.energy_max[0, 0]) == 12 and float(store.energy_min[0, 0]) == 1.2
    assert float(store.energy_start[0]) == pytest.approx(4.8)
    assert store.energy_min[0].tolist() == pytest.approx([1.2, 1.2, 4.8])
    assert float(store.charge_efficiency[0, 0]) == 0.95
    assert report.count("storage.efficiency") == 0


def test_only_who_is_supplied_takes_part_and_a_load_below_zero_sells():
    """Rows out of service and on an island are no customers; a plant told as a load is one."""
    net = street()
    island = pp.create_bus(net, 0.4)
    pp.create_load(net, island, 0.007)
    pp.create_sgen(net, island, 0.003)
    pp.create_storage(net, island, 0.001, max_e_mwh=0.01, min_p_mw=-0.005, max_p_mw=0.005)
    net.load.loc[1, "in_service"] = False
    pp.create_load(net, 3, -0.003, name="sun")
    market, report = jg.from_pandapower(net, tariff=TARIFF, hours=3)
    named = ("load 0 (first)", "load 2 (third)", "load 4 (sun)", "sgen 1", "storage 0")
    assert report.data["customers"] == named
    people = market.prosumers
    assert people.bus.tolist() == report.bus[[1, 1, 3, 4, 2]].tolist()
    np.testing.assert_allclose(people.load[:, 0], [-1, 4, -3, -10, 0], atol=1e-12)
    np.testing.assert_allclose(people.export_max[:, 0], [5, 0, 3, 10, 0])
    assert market.buffers.owner.tolist() == [4] and report.bus[island] == -1


def test_a_generator_sells_at_the_price_of_exports():
    """As an sgen, not at that of imports as a load below zero; the main grid's is no one's."""
    net = street()
    net.load["in_service"] = net.sgen["in_service"] = net.motor["in_service"] = False
    net.storage["in_service"] = False
    pp.create_gen(net, 3, 0.01, vm_pu=1.005, scaling=0.5)
    pp.create_gen(net, 0, 0.9, vm_pu=1.01, slack=True)
    market, report = jg.from_pandapower(net, tariff=TARIFF, hours=3)
    assert report.data["customers"] == ("gen 0",) and report.data["owner"] == {"gen 0": "gen 0"}
    np.testing.assert_allclose(market.prosumers.curtail_max, [[5, 5, 5]])
    np.testing.assert_allclose(market.grid.passive, 0, atol=1e-9)
    paid = jg.settle(market, jg.clear(market)).main_grid
    np.testing.assert_allclose(paid, [[-0.4, -0.4, -0.4]], rtol=0.02)


def test_costs_of_a_net_move_no_market():
    """pandapower's runopp turns some of them round for loads and storages: none is read."""
    plain, _ = jg.from_pandapower(street(), tariff=TARIFF, hours=3)
    net = street()
    pp.create_poly_cost(net, 0, "storage", cp1_eur_per_mw=-50, cp2_eur_per_mw2=40)
    pp.create_poly_cost(net, 1, "load", cp1_eur_per_mw=-50, cp2_eur_per_mw2=40)
    pp.create_pwl_cost(net, 0, "load", [[0, 0.5, -50], [0.5, 1, -10]])
    market, report = jg.from_pandapower(net, tariff=TARIFF, hours=3)
    assert market == plain and report.count("cost.ignored") == 3


def test_nothing_is_drawn_twice_or_lost():
    """With everyone at rest but the storages, buses draw what the grid without customers has."""
    net = street()
    net.load["const_z_p_percent"] = 40.0
    grid, _ = jg.from_pandapower(net, hours=3, profiles=profiles(net))
    market, report = jg.from_pandapower(net, tariff=TARIFF, profiles=profiles(net))
    drawn = np.asarray(market.grid.passive).copy()
    np.add.at(drawn, np.asarray(market.prosumers.bus), np.asarray(market.prosumers.load))
    drawn[report.bus[2]] += 1.0  # the storage that is a battery now
    np.testing.assert_allclose(drawn, grid.passive, atol=1e-12)
    assert float(market.grid.passive[report.bus[4], 0]) == 0  # to the last bit


def test_profiles_go_by_the_names_of_rows():
    """In MW by time; rows without one stay, and scaling counts on top."""
    net = street()
    net.load.loc[1, "scaling"] = 2.0
    market, _ = jg.from_pandapower(net, tariff=TARIFF, profiles=profiles(net))
    load = np.asarray(market.prosumers.load)
    np.testing.assert_allclose(load[0], np.array([4, 5, 6]) - 5, atol=1e-12)
    np.testing.assert_allclose(load[1], [2, 4, 6])
    np.testing.assert_allclose(load[2], 4)
    np.testing.assert_allclose(load[3], [0, -10, -5])
    np.testing.assert_allclose(market.prosumers.curtail_max[3], [0, 10, 5])


def test_a_profile_has_the_voltages_of_runpp_in_each_step():
    net = street()
    told = profiles(net)
    grid, report = jg.from_pandapower(net, profiles=told)
    with by_numpy():
        host = to_host(grid)
        found = np.asarray(acflow.flow(host, host.passive, host.passive_reactive).voltage)
    for step in range(3):
        for (kind, name), frame in told.items():
            net[kind].loc[frame.columns, name] = frame.iloc[step].to_numpy()
        pp.runpp(net, tolerance_mva=1e-10, numba=False)
        np.testing.assert_allclose(found[report.bus, step], net.res_bus.vm_pu, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({("load", "p_mw"): pd.DataFrame({7: [1.0] * 3})}, "column 7 is no row of net.load"),
        ({("load", "p_mw"): pd.DataFrame({1: [1.0, np.nan, 1]})}, "no number for load 1 in row 1"),
        ({("gen", "p_mw"): pd.DataFrame({1: [1.0] * 3})}, "profiles are of load, sgen, storage"),
        ({("load", "q_mvar"): pd.DataFrame({1: [1.0] * 2})}, "have 2, 3 steps"),
    ],
)
def test_profiles_that_fit_nothing_are_refused(change: Any, sentence: str):
    net = street()
    with pytest.raises(ValueError, match=sentence):
        jg.from_pandapower(net, profiles=profiles(net) | change)


def test_customers_of_unknown_tables_are_refused():
    with pytest.raises(ValueError, match="customers='loads': give some of load"):
        jg.from_pandapower(street(), tariff=TARIFF, hours=3, customers=("loads",))


def test_a_net_to_bills():
    """Ten lines: the net, a tariff, who trades, and what each pays."""
    net = street()
    market, report = jg.from_pandapower(net, tariff=TARIFF, profiles=profiles(net), toll=0.02)
    clearing = jg.clear(market)
    bills = jg.settle(market, clearing)
    assert bills.main_grid.shape == (len(report.data["customers"]), 3)
    assert clearing.certificate.ac is not None and bool(clearing.certificate.ac.safe)


def hourly(rows: list[list[float]], names: tuple[str, ...]) -> jg.profiles.Profiles:
    """Three hours of kW, on a clock."""
    values = np.array(rows)
    clock = jg.Clock("2026-01-20T06:00", "Europe/Berlin")
    ones = np.ones(len(rows))
    return jg.profiles.Profiles(values, "kW", names, clock, np.ones(3), ones, "by hand")


def test_profiles_of_customers_go_by_name_and_bring_their_clock():
    """The third load is scaled by half in its table, and draws what its own profile says; the
    first keeps a quarter of its power as kvar, the second has no profile and stays."""
    net = street()
    own = hourly([[1.0, 2.0, 3.0], [4.0, 0.0, 8.0]], ("third", "0"))
    sun = hourly([[0.0, 3.0, 1.0], [0.5, 2.0, 0.0]], ("a", "b"))
    market, _ = jg.from_pandapower(net, tariff=TARIFF, profiles={"load": own, "sgen": sun})
    made = np.asarray(market.prosumers.curtail_max)
    load = np.asarray(market.prosumers.load) + made
    np.testing.assert_allclose(load, [[4, 0, 8], [6, 6, 6], [1, 2, 3], [0, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(made[[0, 3]], sun.values, atol=1e-9)
    kvar = np.asarray(market.prosumers.reactive)[0] + [0, 0.3, 0.1]  # the sgen sends a tenth
    np.testing.assert_allclose(kvar, [1, 0, 2], atol=1e-9)
    assert market.clock is not None and str(market.clock) == "2026-01-20 06:00 Europe/Berlin"


def test_profiles_of_all_loads_go_in_order():
    net = street()
    own = hourly([[1.0] * 3, [2.0] * 3, [3.0] * 3], ("h25", "h25", "h25"))
    market, _ = jg.from_pandapower(net, tariff=TARIFF, profiles=own)
    load = np.asarray(market.prosumers.load + market.prosumers.curtail_max)
    np.testing.assert_allclose(load[:3, 0], [1, 2, 3])


@pytest.mark.parametrize(
    ("profiles", "options", "sentence"),
    [
        (hourly([[1.0] * 3], ("fourth",)), {}, "'fourth' is the name or index of no load"),
        (hourly([[1.0] * 3] * 2, ("0", "first")), {}, "'first' is the name or index of no load"),
        (hourly([[1.0] * 3], ("0",)), {"hour_length": 0.25}, "is for steps of 1 h, not of 0.25 h"),
        (hourly([[1.0] * 3], ("0",)), {"clock": jg.Clock("2026-01-20", "UTC")}, "give one clock"),
        ({"storage": hourly([[1.0] * 3], ("0",))}, {}, "give those of load and sgen"),
    ],
)
def test_profiles_that_fit_no_load_are_refused(profiles: Any, options: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        jg.from_pandapower(street(), tariff=TARIFF, profiles=profiles, **options)
