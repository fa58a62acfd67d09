"""Clearings as xarray: the numbers of plan, prices and bills over named axes, with units."""

import sys
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jaxgne as jg
from jaxgne import families, frames, scenarios
from jaxgne.cases import ieee13
from jaxgne.phases import connections
from jaxgne.record import changed
from tests import phased
from tests.capped import capped_market
from tests.markets import feeder
from tests.told import NAMES, Cleared, day, found, stacked

UNITS = {"kW", "kvar", "kVA", "kWh", "EUR", "EUR/kWh", "percent", "1"}
PEOPLE = ("Miller", "Bakery", "School", "Mill")


@pytest.fixture(scope="module")
def cleared() -> Cleared:
    """Half hours on the morning on which clocks go forward, everybody with a name."""
    market = day()
    people = changed(market.prosumers, names=PEOPLE)
    market = changed(market, prosumers=people, clock=jg.Clock("2025-03-30T01:00", "Europe/Berlin"))
    return market, found(market, 0, judged=True)


def branching() -> jg.Market:
    """Two branches from the second step on."""
    return scenarios.tree([feeder(), feeder()], [0.25, 0.75], 1)


@pytest.mark.parametrize(
    "make",
    [day, lambda: day("copperplate"), lambda: day("paper"), capped_market, branching,
     lambda: phased.market(0)],
    ids=["feeder", "copperplate", "paper", "caps", "tree", "phases"],
)  # fmt: skip
def test_arrays_have_the_numbers_of_tables(make: Any):
    """Variable by variable and row by row; what a market has no rows of has no variables."""
    market = make()
    clearing = found(market, 1, judged=True)
    whole, tables, seen = clearing.to_xarray(market), frames.tables(market, clearing), 0
    theirs = tables["bills"].payer == "passive"
    tables["passive_bills"] = tables["bills"].loc[theirs]
    tables["bills"] = tables["bills"].loc[~theirs]
    for family in families.FAMILIES:
        table = tables.get(family.name)
        if table is None or table.empty:
            own = f"{family.prefix}_"
            assert not any(str(name).startswith(own) for name in whole.variables), own
            continue
        for column in family.columns:
            name = family.variable(column)
            if column.unit is None and family.prefix != family.row:
                continue
            axes = [family.row] * bool(family.row) + ["step"] * column.hourly
            shape = [whole.sizes[axis] for axis in axes]
            assert whole[name].dims == tuple(axes)
            written = table[column.column].to_numpy()
            each = len(written) // int(np.prod(shape))  # of what is the same in all steps
            np.testing.assert_array_equal(whole[name].to_numpy().ravel(), written[::each])
            seen += 1
    assert seen > 50 and set(whole.data_vars) <= {
        family.variable(column) for family in families.FAMILIES for column in family.columns
    }


def test_variables_are_what_the_package_computes(cleared: Cleared):
    """Plan, prices, bills and gaps as they are; sums over axes keep balances."""
    market, clearing = cleared
    whole, paid = clearing.to_xarray(market), jg.settle(market, clearing)
    expected = {
        "prosumer_imports": clearing.plan.imports,
        "pair_trade": clearing.plan.trades,
        "buffer_energy": clearing.plan.energy,
        "prosumer_own_energy_value": clearing.prices.balance,
        "contracted_import": clearing.aggregate,
        "bill_total": paid.prosumers,
        "passive_bill_total": paid.passive,
        "receipts": paid.receipts,
        "prosumer_gap": clearing.certificate.residuals.gap,
        "relative_kkt_error": clearing.certificate.error,
        "line_rating": market.grid.rating,
        "bus_voltage": np.sqrt(np.asarray(clearing.plan.voltage)),
    }
    for name, array in expected.items():
        np.testing.assert_allclose(whole[name], array, rtol=1e-14)
    at_buses = whole.prosumer_net.groupby("prosumer_bus").sum()
    drawn = (whole.bus_drawn - whole.bus_passive).sel(bus=at_buses.prosumer_bus.to_numpy())
    np.testing.assert_allclose(drawn, at_buses.transpose("prosumer_bus", "step"), atol=1e-12)
    energy = (whole.prosumer_imports * whole.duration * whole.weight).sum()
    assert float(energy) == pytest.approx(0.5 * float(clearing.plan.imports.sum()))


def test_rows_are_told_by_name(cleared: Cleared):
    whole = cleared[1].to_xarray(cleared[0])
    assert whole.bus.to_numpy().tolist() == list(NAMES)
    own = whole.sel(prosumer="Bakery")
    np.testing.assert_array_equal(own.prosumer_load, cleared[0].prosumers.load[1])
    assert str(own.prosumer_bus.item()) == NAMES[int(cleared[0].prosumers.bus[1])]
    assert set(whole.pair_buyer.to_numpy()) <= set(PEOPLE)
    assert set(whole.generator_kind.to_numpy()) == {"generator"} and whole.status == "cleared"


def test_everything_says_what_it_is(cleared: Cleared):
    """Units that programs know, a long name, and nothing that files of arrays cannot hold."""
    whole = cleared[1].to_xarray(cleared[0])
    for name, array in whole.data_vars.items():
        assert array.attrs["units"] in UNITS and array.attrs["long_name"], name
    assert all(whole[n].attrs["long_name"] for n in set(whole.coords) - set(whole.dims))
    for attributes in (whole.attrs, *(array.attrs for array in whole.variables.values())):
        assert all(isinstance(value, str | float) for value in attributes.values())
    assert whole.attrs["grid_model"] == "lindistflow"


def test_times_are_in_utc_and_local(cleared: Cleared):
    """Local clocks skip an hour, the others do not."""
    market, clearing = cleared
    whole = clearing.to_xarray(market)
    index = pd.DatetimeIndex(jg.clock.times(market))
    np.testing.assert_array_equal(whole.time, index.tz_convert("UTC").tz_localize(None))
    np.testing.assert_array_equal(whole.local_time, index.tz_localize(None))
    assert whole.local_time.dt.hour.to_numpy().tolist() == [1, 1, 3]
    assert whole.local_time.attrs["time_zone"] == whole.attrs["time_zone"] == "Europe/Berlin"
    assert "time" not in clearing.to_xarray(changed(market, clock=None)).coords


def test_steps_of_a_tree_tell_where_they_begin():
    market = branching()
    whole = found(market, 0).to_xarray(market)
    assert whole.before.to_numpy().tolist() == list(market.before or ())
    np.testing.assert_array_equal(whole.weight, market.weight)
    assert len(set(whole.hour.to_numpy())) < whole.sizes["step"]
    assert "relative_kkt_error" not in whole  # without a certificate


def test_phases_are_coordinates():
    """Of buses, lines and whoever stands there; unstacked, phases are an axis."""
    market = ieee13(hours=2)
    whole = found(market, 0).to_xarray(market)
    assert set(whole.groupby("phase").groups) == {"a", "b", "c", "ab", "bc", "ca"}
    apart = whole[["bus_voltage"]].set_index(bus=["bus_name", "phase"]).unstack("bus")
    row = whole.bus_voltage.sel(bus="632.b").drop_vars(["bus", "bus_name", "phase"])
    found_there = apart.bus_voltage.sel(bus_name="632", phase="b").drop_vars(["bus_name", "phase"])
    xr.testing.assert_identical(row, found_there)
    own = dict(zip(whole.bus.to_numpy(), whole.phase.to_numpy(), strict=True))
    assert [own[bus] for bus in whole.prosumer_bus.to_numpy()] == list(whole.prosumer_phase)
    assert set(whole.buffer_phase.to_numpy()) <= set(own.values())
    assert [own[bus] for bus in whole.line_target.to_numpy()] == list(whole.line_phase)


@pytest.mark.parametrize("seed", range(4))
def test_connections_are_read_off_rows_or_names(seed: int):
    """Names say what the tables of phases and terminals do; of three wires only names can."""
    grid = phased.random_tree(seed).grid()
    assert connections(grid) == connections(changed(grid, names=()))
    three = phased.random_tree(seed, whole=True).grid()
    turned = {"a": "ab", "b": "bc", "c": "ca"}
    pairs = tuple(f"{n[:-1]}{turned[n[-1]]}" for n in three.names if n[-2] == ".")
    wires = changed(three, names=pairs, passive=three.passive[: len(pairs)])
    assert set(connections(wires)[1]) == set(phased.PAIRS)


def test_a_batch_has_an_axis_of_scenarios():
    """Each is what it is alone, and what is infeasible has no numbers."""
    market = day()
    lanes = [found(market, 0), found(market, 1), found(market, 2, jg.Status.infeasible)]
    whole = stacked(lanes).to_xarray(stacked([market] * 3))
    assert whole.status.to_numpy().tolist() == ["cleared", "cleared", "infeasible"]
    assert whole.hour.dims == ("step",) and whole.prosumer_bus.dims == ("prosumer",)
    for k, clearing in enumerate(lanes[:2]):
        one = clearing.to_xarray(market)
        xr.testing.assert_allclose(whole.isel(scenario=k).drop_vars("scenario"), one, rtol=1e-12)
    numbers = [array for array in whole.data_vars.values() if array.dtype.kind == "f"]
    assert all(array.isel(scenario=2).isnull().all() for array in numbers)
    kept = whole.where(whole.status == "cleared", drop=True)
    assert kept.sizes["scenario"] == 2


def test_days_of_a_batch_have_their_own_times():
    """A time for each scenario and step, as days begin apart."""
    clocks = [jg.Clock(f"2025-03-{start}T12:00", "UTC") for start in (29, 30)]
    markets = stacked([changed(day(), clock=clock) for clock in clocks])
    whole = stacked([found(day(), k) for k in (0, 1)]).to_xarray(markets)
    assert whole.time.dims == ("scenario", "step")
    apart = whole.time.isel(scenario=1) - whole.time.isel(scenario=0)
    assert (apart == np.timedelta64(1, "D")).all()


def test_an_ac_clearing_has_the_voltages_of_ac():
    """Of its linear model, whose state is that of an AC power flow."""
    exact = jg.clear_ac(feeder())
    whole = exact.to_xarray()
    np.testing.assert_allclose(whole.bus_voltage, whole.bus_ac_voltage, atol=1e-6)
    lost = (whole.line_ac_losses.sum("line") * whole.duration).sum()
    assert float(lost) == pytest.approx(float(jnp.sum(exact.losses)), rel=1e-3)
    assert float(whole.losses_cost.sum()) > 0


def test_what_cannot_be_told_is_refused(cleared: Cleared, monkeypatch: pytest.MonkeyPatch):
    market, clearing = cleared
    with pytest.raises(ValueError, match=r"^to_xarray: an infeasible market has neither plan"):
        replace(clearing, status=jg.Status.infeasible).to_xarray(market)
    with pytest.raises(ValueError, match=r"^to_xarray: loads of shape .* pass the market"):
        clearing.to_xarray(stacked([market] * 2))
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"needs xarray: pip install 'jaxgne\[xarray\]'"):
        clearing.to_xarray(market)
