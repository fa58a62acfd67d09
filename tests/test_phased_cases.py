"""Cases in three phases: the feeders are the published ones, every market clears, and what a
balanced equivalent is: the same market where phases are equal, and how far off it is elsewhere."""

import csv
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.acflow import flow
from jaxgne.cases import CASES, populate
from jaxgne.cases.circuits import PUBLISHED, published, rows
from jaxgne.cases.feeders import ieee37_feeder
from jaxgne.cases.phased import over_hours, possible
from jaxgne.linear_flow import grid_state
from jaxgne.phases import by_phase
from jaxgne.runner import by_numpy, to_host
from tests import phase_cases
from tests.phase_cases import needs_cases
from tests.phased import random_tree

FACTS = {  # buses, phases of them, kW, kvar, share of kW that is between two phases
    "ieee13": (15, 38, 3466, 2102, 0.45),
    "ieee34": (36, 92, 1769, 1044, 0.49),
    "ieee37": (36, 108, 2457, 1201, 0.0),
    "ieee123": (128, 268, 3490, 1920, 0.12),
    "european_lv": (907, 2721, 57.358, 18.853, 0.0),
}


def spot(name: str) -> jg.Market:
    """A published feeder at its spot load, with one prosumer who draws nothing. One hour."""
    feeder = rows(published(name))
    grid = over_hours(feeder, feeder.load[:, None], feeder.reactive[:, None])
    return jg.Market(jg.Prosumers([0], [[0.0]]), grid, jg.Tariff(1e-3, hours=1))


def ac(grid: jg.Grid) -> np.ndarray:
    """AC voltages of what stands in a grid, by row."""
    with by_numpy():
        grid = to_host(grid)
        return np.asarray(flow(grid, grid.passive, grid.passive_reactive).voltage)[:, 0]


def reference(name: str) -> dict[str, float]:
    """Errors at spot load, each model's voltages against a three-phase AC state."""
    with (phase_cases.folder() / "reference_errors.csv").open() as file:
        found = [r for r in csv.DictReader(file) if (r["case"], r["states"]) == (name, "spot")]
    return {row["quantity"]: float(row["value"]) for row in found}


@pytest.mark.parametrize("name", PUBLISHED)
def test_feeders_have_the_published_totals(name: str):
    circuit = published(name)
    drawn = circuit.wye.sum() + circuit.delta.sum()
    buses, phases, kw, kvar, share = FACTS[name]
    assert (len(circuit.names), circuit.phases.sum()) == (buses, phases)
    assert [drawn.real, drawn.imag] == pytest.approx([kw, kvar], rel=1e-4)
    assert circuit.delta.sum().real / drawn.real == pytest.approx(share, abs=0.005)
    feeder = rows(circuit)
    assert feeder.load.sum() == pytest.approx(drawn.real)
    assert feeder.reactive.sum() == pytest.approx(drawn.imag)


@needs_cases
@pytest.mark.parametrize("name", PUBLISHED)
def test_data_are_those_of_the_tables(name: str):
    """The European tables are line codes times lengths, rounded to nine digits."""
    circuit, case = published(name), phase_cases.load(name)
    z, wye, held = case.pu[1:], circuit.wye - 1j * circuit.capacitor, np.abs(case.source)
    if name == "ieee37":
        z = phase_cases.LOOP @ z @ phase_cases.LOOP.T / 3
        case.wye, case.delta = case.delta, case.wye
        held = np.abs(phase_cases.LOOP @ case.source) / np.sqrt(3)
    size = np.maximum(np.abs(z).max(axis=(1, 2), keepdims=True), 1e-30)
    assert np.max(np.abs(circuit.impedance - z) / size) < (5e-9 if name == "european_lv" else 1e-12)
    assert list(circuit.names) == case.names
    assert np.array_equal(circuit.source, case.parent[1:])
    assert np.array_equal(circuit.phases, case.phases)
    for mine, theirs in (
        (circuit.ratio, case.ratio[1:]),
        (circuit.voltage, held),
        (wye, case.wye),
        (circuit.delta, case.delta),
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@needs_cases
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_linear_model_is_as_far_off_as_published(name: str):
    market, case, known = spot(name), phase_cases.load(name), reference(name)
    with by_numpy():
        market = to_host(market)
        grid = market.grid
        state = grid_state(market, grid.passive, grid.passive_reactive)
    count = case.phases.sum()
    volts = case.volts
    if name == "ieee37":
        volts = volts @ phase_cases.LOOP.T / np.sqrt(3)
    error = np.sqrt(np.asarray(state["voltage"])[:count, 0]) - np.abs(volts[case.phases])
    assert np.max(np.abs(error)) == pytest.approx(known["LinDist3Flow largest |error|"], abs=1e-6)
    assert np.mean(np.abs(error)) == pytest.approx(known["LinDist3Flow mean |error|"], abs=1e-6)


@needs_cases
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_balanced_equivalent_is_as_far_off_as_published(name: str):
    """Both by AC power flows, so that only unbalance differs."""
    case, even = phase_cases.load(name), jg.grids.balanced(spot(name)).grid
    volts = case.volts
    if name == "ieee37":
        volts = volts @ phase_cases.LOOP.T / np.sqrt(3)
    above = ac(even) - np.nanmin(np.abs(volts), axis=1)
    known = reference(name)["balanced AC above worst phase by, largest"]
    assert np.max(above) == pytest.approx(known, abs=1e-6)


def test_the_three_wires_of_ieee37_are_the_balanced_feeder():
    """Pairs have D z D^T / 3 in their base: mean self less mean mutual is the positive sequence.

    The balanced feeder's ohms have eight digits, its shortest lines six.
    """
    market, feeder = spot("ieee37"), ieee37_feeder()
    assert market.grid.names[3:6] == ("701.ab", "701.bc", "701.ca")
    even = jg.grids.balanced(market).grid
    assert even.names[1:3] == ("701", "702") and even.line_names[0] == "l35"
    line = [even.names.index(feeder.names[bus]) - 1 for bus in feeder.target]
    np.testing.assert_allclose(np.asarray(even.resistance)[line], feeder.resistance, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(even.reactance)[line], feeder.reactance, rtol=1e-6)
    assert even.passive.sum() == feeder.load.sum()


def equal(seed: int, whole: bool, rating: float) -> jg.Market:
    """A random tree of transposed lines with three customers, `whole` ones on all three phases.

    Else each is three alike, one a phase; everybody may trade with everybody.
    """
    rng, buses, hours = np.random.default_rng(seed), 5, 2
    z = rng.uniform(0.5, 1.5, (buses - 1, 1, 1)) * 4e-4
    z = z * (np.eye(3) * (1 + 1.6j) + (1 - np.eye(3)) * (0.3 + 0.7j))
    parent = np.array([int(rng.integers(0, bus)) for bus in range(1, buses)])
    passive = np.repeat(rng.uniform(0, 8, (2, buses, 1, hours)), 3, axis=2)
    passive[:, 0] = 0
    grid = by_phase(
        np.ones((buses, 3), bool), parent, np.arange(1, buses), z.real, z.imag, hours=hours,
        passive=passive[0], passive_reactive=0.4 * passive[1], rating=rating,
        spans=[(bus, "abc") for bus in range(1, buses)] if whole else (),
        tap=rng.uniform(0.97, 1.03, buses - 1), voltage_min=0.9, feeder_voltage=1.02,
    )  # fmt: skip
    home, own = rng.integers(1, buses, 3), np.repeat(np.arange(3), 1 if whole else 3)
    bus = 3 * buses + home - 1 if whole else np.add.outer(3 * home, np.arange(3)).ravel()
    surplus, price = rng.uniform(-6, 8, (3, hours)), rng.uniform(0.05, 0.2, 3)
    units, stores = np.flatnonzero(own < 2), np.flatnonzero(own > 0)
    return jg.Market(
        jg.Prosumers(bus, surplus[own], 0.3 * np.abs(surplus[own]), export_max=20.0),
        grid,
        jg.Tariff(2e-4, hours=hours, base=rng.uniform(0.1, 0.3, hours), export=0.04),
        jg.Generators(units, 6.0, hours=hours, quadratic=0.004, linear=price[own[units]]),
        jg.Buffers(stores, 4.0, 4.0, 9.0, 3.0, hours=hours, charge_efficiency=0.95, quadratic=1e-3),
        jg.Trading(*np.triu_indices(len(own), 1), 4.0, toll=0.01),
    )


@pytest.mark.parametrize(
    ("seed", "whole", "rating"),
    [(0, False, 16.0), (0, True, 18.0), (1, False, 30.0), (3, True, 30.0)],
)
def test_where_phases_are_equal_the_balanced_market_is_the_same(
    seed: int, whole: bool, rating: float
):
    """Plan, prices and bills; of trades there are many as good.

    At a low rating a line is full, so that buses have different prices. Which of three conductors
    that are full alike costs, is as open where customers stand on all three.
    """
    market = equal(seed, whole, rating)
    even = jg.validate(jg.grids.balanced(market))
    mine, other = (jg.clear(each, tol=1e-10) for each in (market, even))
    for name in ("generation", "charge", "discharge", "energy"):
        mine_, other_ = getattr(mine.plan, name), getattr(other.plan, name)
        np.testing.assert_allclose(mine_, other_, atol=2e-9)
    np.testing.assert_allclose(mine.prices.balance, other.prices.balance, atol=1e-9)
    price = np.asarray(other.prices.bus)
    mean = np.asarray(mine.prices.bus)[:15].reshape(5, 3, 2).mean(axis=1)
    np.testing.assert_allclose(mean, price, atol=1e-9)
    assert (np.ptp(price, axis=0).max() > 0.05) == (rating < 30)
    paid, theirs = jg.settle(market, mine).prosumers, jg.settle(even, other).prosumers
    np.testing.assert_allclose(paid, theirs, atol=1e-9)


def test_the_balanced_market_keeps_lines_of_houses():
    """A house between phases behind a rated line, and one at a phase: both lines are there."""
    feeder = rows(published("ieee13").regulated(1.0))
    at = feeder.grid.names.index
    market = jg.Market(
        jg.Prosumers([at("671.ab"), at("652.a")], [[9.0], [5.0]], 1.0),
        over_hours(feeder, feeder.load[:, None], feeder.reactive[:, None], voltage_min=0.8),
        jg.Tariff(1e-3, hours=1),
    )
    even = jg.validate(jg.grids.balanced(jg.devices.connection(market, [0, 1], [10.0, 7.0]))).grid
    assert even.names[-2:] == even.line_names[-2:] == ("connection 0", "connection 1")
    assert [even.names[bus] for bus in even.source[-2:]] == ["671", "652"]
    assert np.asarray(even.rating)[-2:].tolist() == [10.0, 7.0]
    with pytest.raises(ValueError, match="balanced: a grid with model='lindist3flow' is needed"):
        jg.grids.balanced(jg.grids.balanced(market))


SMALL: dict[str, dict[str, Any]] = {
    "ieee13": {"hours": 3},
    "ieee34": {"hours": 2},
    "ieee37": {"hours": 2, "grid": "lindist3flow"},
    "ieee123": {"hours": 1, "grid": "lindist3flow", "prosumers": 20},
    "synthetic": {"prosumers": 12, "buses": 12, "hours": 3, "phases": 3},
}


@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_small_markets_clear(name: str, stress: bool):
    """In the hours of the day's evening peak, where limits are nearest."""
    market = CASES[name](**SMALL[name], hour_length=9.5, stress=stress)
    assert market.grid.model.name == "lindist3flow"
    assert jg.clear(market).status == jg.Status.cleared


@pytest.mark.parametrize(
    "name", ["ieee13", "ieee34", pytest.param("european_lv", marks=pytest.mark.slow)]
)
def test_other_models_have_the_balanced_equivalent(name: str):
    options = {} if name == "european_lv" else {"prosumers": 8}
    market, even = (
        CASES[name](hours=2, grid=grid, **options) for grid in ("lindist3flow", "lindistflow")
    )
    buses, phases = FACTS[name][:2]
    assert len(market.grid.phase_a) == len(even.grid.passive) == buses
    assert len(market.grid.passive) >= phases
    assert np.array_equal(market.prosumers.load, even.prosumers.load)
    assert jg.clear(even).status == jg.Status.cleared


def test_the_european_feeder_has_a_house_at_each_load():
    """55 houses on one phase each (21, 19 and 15 of them), whose highest loads are the published.

    Sun and batteries are a house's, cars charge with up to 7.5 kW.
    """
    market = jg.european_lv()
    people, names = market.prosumers, market.grid.names
    gross = np.asarray(people.load + people.curtail_max)
    by = [names[bus].rpartition(".")[2] for bus in np.asarray(people.bus)]
    assert len(set(np.asarray(people.bus).tolist())) == 55
    assert [by.count(phase) for phase in "abc"] == [21, 19, 15]
    assert 45 < gross.max(axis=1).sum() <= 57.358 and not np.any(market.grid.passive)
    owners = np.asarray(people.curtail_max).max(axis=1)
    assert (owners > 0).sum() == 33 and owners.max() < 4.6
    assert np.asarray(market.buffers.charge_max).max() < 7.6
    assert (market.grid.voltage_min.min(), market.grid.voltage_max.max()) == (0.9, 1.1)


def test_customers_stand_as_loads_do():
    market = jg.ieee13(60, hours=2)
    kinds = {market.grid.names[bus].rpartition(".")[2] for bus in np.asarray(market.prosumers.bus)}
    assert kinds == {"a", "b", "c", "ab", "bc", "ca"}
    three = jg.synthetic(200, buses=40, hours=1, phases=3, seed=1)
    assert not len(three.grid.terminal) and len(three.grid.feeder) == 3
    assert np.any(np.asarray(three.grid.phases) < 0)


@pytest.mark.parametrize("seed", range(3))
def test_what_may_be_holds_for_all_that_rows_may_draw(seed: int):
    """Lowest flows and highest voltages, against linear states drawn at random."""
    rng, tree = np.random.default_rng(seed), random_tree(seed)
    market = jg.Market(jg.Prosumers([0], [[0.0, 0.0]]), tree.grid(), jg.Tariff(1e-3, hours=2))
    shape = market.grid.passive.shape
    least, kvar, injected = (rng.uniform(*ends, shape) for ends in ((-4, 2), (-1, 2), (0, 1)))
    most = least + rng.uniform(0, 5, shape)
    carried, squared = possible(market.grid, least, most, kvar, injected)
    with by_numpy():
        host = to_host(market)
        for k in range(40):
            p, q = rng.uniform(size=(2, *shape))
            if k % 2:
                p, q = np.rint(p), np.rint(q)
            drawn = least + (most - least) * p, kvar + injected * (2 * q - 1)
            state = grid_state(host, *to_host(drawn))
            assert np.all(np.hypot(state["active"], state["reactive"]) > carried - 1e-9)
            assert np.all(state["voltage"] < squared + 1e-9)
    assert np.any(carried > 0)


def test_customers_are_put_on_a_grid_in_three_phases():
    """On the rows that have passive load; what no device could help is refused by row."""
    feeder = rows(published("ieee13").regulated(1.0))
    grid = over_hours(feeder, feeder.load[:, None], feeder.reactive[:, None], voltage_min=0.85)
    market = populate(grid, 10, hours=2, hour_length=6.0, vehicle=0.3)
    assert np.all(feeder.load[np.asarray(market.prosumers.bus)] > 0)
    for name in ("source", "mutual_resistance", "terminal", "phase_a", "rating", "names"):
        assert np.array_equal(getattr(market.grid, name), getattr(grid, name))
    wired = jg.equip(market, battery=0.5, connection_max=400.0)
    assert jg.clear(wired).status == jg.Status.cleared
    with pytest.raises(ValueError, match=r"bus '611\.c' has 0\.9\d+ pu at most in hour 6 whatever"):
        populate(replace(grid, voltage_min=np.full(43, 0.99)), 10, hours=2, hour_length=6.0)
    with pytest.raises(ValueError, match=r"from bus '650\.c' to bus 'rg60\.c' has to carry"):
        populate(replace(grid, rating=np.full(40, 300.0)), 10, hours=2, hour_length=6.0)


def test_a_given_grid_in_three_phases_keeps_its_lines():
    """Its capacitors stay, and do not scale with the day."""
    feeder = rows(published("ieee13").regulated(1.0))
    grid = over_hours(feeder, feeder.load[:, None], feeder.reactive[:, None])
    market = jg.synthetic(9, feeder=grid, hours=2)
    assert market.grid.names == grid.names and market.grid.model.name == "lindist3flow"
    assert np.array_equal(market.grid.mutual_reactance, grid.mutual_reactance)
    at = grid.names.index("611.c")
    idle = np.asarray(feeder.grid.passive_reactive)[:, 0]
    assert idle[at] == -100 and np.asarray(grid.passive_reactive)[at, 0] == -20


def test_a_market_in_three_phases_is_saved_bit_by_bit(tmp_path):
    market = jg.ieee13(6, hours=2)
    jg.save(tmp_path / "market", market)
    found = jg.load(tmp_path / "market")
    found = found[0] if isinstance(found, tuple) else found
    pairs = zip(jax.tree.leaves(market), jax.tree.leaves(found), strict=True)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert found.grid.names == market.grid.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": 2}, r"phases=2: give 1 or 3"),
        ({"phases": 3, "grid": "paper"}, r"phases=3 goes with grid='lindist3flow', not with"),
        ({"phases": 3, "feeder": jg.Grid([[1.0]])}, r"feeder: its model is lindistflow, which has"),
        ({"grid": "lindist3flow", "reactive_balance": False}, r"lindist3flow always balances"),
    ],
)
def test_what_does_not_agree_gets_a_sentence(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jg.synthetic(5, buses=3, hours=1, **options)
