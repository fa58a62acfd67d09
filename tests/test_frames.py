"""Tables for pandas: the numbers of plan, prices and bills, in long form, with their units.

Of a plan and prices that nobody asked for, so that no column is zero and no two are alike.
"""

import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxgne as jg
from jaxgne import acflow, frames, model, settlement
from jaxgne.grids import LinDistFlow
from jaxgne.io.schema import MARKET, clearing_tables
from jaxgne.scenarios import lane
from tests.told import NAMES, Cleared, day, found, stacked

UNITS = ("_kw", "_kvar", "_kva", "_kwh", "_pu", "_percent", "_eur", "_eur_per_kwh")
KEYS = {"prosumer", "generator", "buffer", "pair", "bus", "line", "hour", "scenario"}
KEYS |= {"owner", "buyer", "seller", "source", "target", "status", "payer", "kind"}
ROWS = {
    "prosumer": frames.prosumers,
    "generator": frames.generators,
    "buffer": frames.buffers,
    "pair": frames.trades,
    "bus": frames.buses,
    "line": frames.lines,
    "hour": frames.hours,
}
TABLES = [*ROWS.values(), frames.bills, frames.price_parts]


@pytest.fixture(scope="module")
def cleared() -> Cleared:
    market = day()
    return market, found(market, 0)


@pytest.fixture(scope="module")
def batch(cleared: Cleared) -> Cleared:
    """That clearing, another one, and one of a scenario that is infeasible."""
    market, first = cleared
    lanes = [first, found(market, 1), found(market, 2, jg.Status.infeasible)]
    return stacked([market] * 3), stacked(lanes)


def wide(frame: Any, row: str, column: str) -> np.ndarray:
    """A column back in the shape (rows, hours), buses in their order in the grid."""
    table = frame.pivot(index=row, columns="hour", values=column)
    return (table.loc[list(NAMES)] if row == "bus" else table).to_numpy()


def field(tree: Any, dotted: str) -> np.ndarray:
    return np.asarray(reduce(getattr, dotted.split("."), tree))


@pytest.mark.parametrize("row", ROWS)
def test_columns_are_those_of_the_files(row: str, cleared: Cleared):
    """Pivoted back, a column holds the array that the file's column of that name holds."""
    frame, seen = ROWS[row](*cleared), 0
    assert not frame.duplicated(subset=list({row, "hour"})).any()
    for tree, tables in zip(cleared, (MARKET, clearing_tables(LinDistFlow())), strict=True):
        for table in (table for table in tables if table.row == row):
            planned = {c for c, of in table.columns.items() if of.startswith("plan.")}
            assert planned - set(frame.columns) <= {"angle_rad", "voltage_squared_pu2"}
            for column in table.columns.keys() & set(frame.columns):
                array = field(tree, table.columns[column])
                if column in ("bus", "source", "target"):
                    array = np.asarray(NAMES)[array]
                if row == "hour":
                    np.testing.assert_array_equal(frame[column], array)
                else:
                    array = array if table.hourly else np.stack([array] * 3, axis=1)
                    np.testing.assert_array_equal(wide(frame, row, column), array)
                seen += 1
    assert seen >= 2


def test_what_follows_from_plan_and_prices(cleared: Cleared):
    """Prices as the library gives them, both sides of each prosumer's balance, and totals."""
    market, clearing = cleared
    own, pairs, totals = (f(*cleared) for f in (frames.prosumers, frames.trades, frames.hours))
    expected = jg.model.energy_prices(market, clearing.prices)
    np.testing.assert_allclose(
        wide(own, "prosumer", "energy_price_eur_per_kwh"), expected, atol=1e-12
    )
    expected = model.trade_prices(market, clearing.prices)
    np.testing.assert_allclose(wide(pairs, "pair", "price_eur_per_kwh"), expected, atol=1e-12)
    made = own.load_kw + own.curtailed_kw - own.generation_kw + own.charge_kw - own.discharge_kw
    np.testing.assert_allclose(made, own.net_kw)
    bought = own.imports_kw - own.exports_kw + own.bought_kw
    np.testing.assert_allclose(bought, own.net_kw)
    by_hour = own.groupby("hour").sum(numeric_only=True)
    assert totals.hour.tolist() == [0.0, 0.5, 1.0]
    totals = totals.set_index("hour", drop=False)
    np.testing.assert_allclose(totals.contracted_import_kw, by_hour.imports_kw + totals.passive_kw)
    np.testing.assert_allclose(totals.exports_kw, by_hour.exports_kw)
    np.testing.assert_allclose(totals.traded_kw, pairs.trade_kw.abs().groupby(pairs.hour).sum())


@pytest.mark.parametrize("grid", ["lindistflow", "paper", "copperplate"])
def test_bills_sum_to_what_is_settled(grid: str, cleared: Cleared):
    """By prosumer, bus and hour; all of it is what main grid and operator receive."""
    market, clearing = day(grid), cleared[1]
    paid, frame = jg.settle(market, clearing), frames.bills(market, clearing)
    own, passive = (frame.groupby("payer").get_group(kind) for kind in ("prosumer", "passive"))
    parts = ["main_grid", "peers", "tolls", "capacity", "congestion", "reactive"]
    for part in parts:
        expected = getattr(paid, part)
        np.testing.assert_allclose(wide(own, "prosumer", f"{part}_eur"), expected, atol=1e-12)
    summed = frame[[f"{part}_eur" for part in parts]].sum(axis=1)
    np.testing.assert_allclose(summed, frame.total_eur, atol=1e-12)
    np.testing.assert_allclose(wide(passive, "bus", "total_eur"), paid.passive, atol=1e-12)
    assert passive.prosumer.isna().all() and own.prosumer.dtype == "Int64"
    totals = frames.hours(market, clearing)
    received = totals.sales_eur + totals.receipts_eur
    np.testing.assert_allclose(frame.groupby("hour").total_eur.sum(), received)


def test_a_trade_is_paid_at_what_it_settles_at(cleared: Cleared):
    """Half an hour of kW at EUR/kWh; what sellers get is what `peers_eur` says they are paid."""
    pairs, bills = frames.trades(*cleared), frames.bills(*cleared)
    np.testing.assert_allclose(pairs.paid_eur, 0.5 * pairs.trade_kw * pairs.settled_eur_per_kwh)
    gap = pairs.settled_eur_per_kwh - pairs.price_eur_per_kwh
    np.testing.assert_allclose(gap, 0.03)  # the fee of either side
    bought, sold = (pairs.groupby(side).paid_eur.sum() for side in ("buyer", "seller"))
    peers = bills.groupby("prosumer").peers_eur.sum()
    np.testing.assert_allclose(bought.sub(sold, fill_value=0.0), peers)


def test_network_by_the_model_and_by_ac(cleared: Cleared):
    """Voltages of the plan, and extremes that an AC check of it finds."""
    market, clearing = cleared
    buses, lines = frames.buses(*cleared), frames.lines(*cleared)
    safety = acflow.check(market, clearing.plan)
    assert safety is not None
    expected = np.sqrt(np.asarray(clearing.plan.voltage))
    np.testing.assert_allclose(wide(buses, "bus", "voltage_pu"), expected)
    assert buses.ac_voltage_pu.min() == pytest.approx(float(safety.lowest))
    assert lines.ac_loading_percent.max() == pytest.approx(100 * float(safety.loading))
    assert 0.5 * lines.ac_losses_kw.sum() == pytest.approx(float(safety.losses))
    apparent = np.hypot(lines.active_kw, lines.reactive_kvar)
    np.testing.assert_allclose(lines.loading_percent, 100 * apparent / 31.0)
    bought = clearing.aggregate - clearing.plan.exports.sum(axis=0)
    np.testing.assert_allclose(buses.groupby("hour").drawn_kw.sum(), bought)


def test_what_does_not_exist_is_not_a_number(cleared: Cleared):
    """An AC power flow beyond what lines carry, the share of no rating, a grid that is none."""
    market, clearing = cleared
    heavy = eqx.tree_at(lambda m: m.grid.passive, market, market.grid.passive.at[:, 2].mul(500))
    buses = frames.buses(heavy, clearing)
    assert set(buses[buses.ac_voltage_pu.isna()].hour) == {1.0}
    assert buses.voltage_pu.notna().all()
    ratings = jnp.asarray([jnp.inf, 0.0, 31.0, 31.0])
    lines = frames.lines(eqx.tree_at(lambda m: m.grid.rating, market, ratings), clearing)
    assert set(lines[lines.loading_percent.isna()].line) == {1}
    assert (lines[lines.line == 0].loading_percent == 0).all()
    flat = day("copperplate")
    assert frames.buses(flat, clearing)[["voltage_pu", "ac_voltage_pu"]].isna().to_numpy().all()
    with pytest.raises(ValueError, match="copperplate market has no lines"):
        frames.lines(flat, clearing)


def test_parts_of_prices(cleared: Cleared):
    """Five parts, by bus and hour, that sum to the price of energy at the bus."""
    market, clearing = cleared
    frame, pairs = frames.price_parts(*cleared), frames.trades(*cleared)
    expected = eqx.filter_jit(settlement.price_parts)(market, clearing)
    for part in ("limit", "lines", "voltage", "losses", "total"):
        column = wide(frame, "bus", f"{part}_eur_per_kwh")
        np.testing.assert_allclose(column, getattr(expected, part), atol=1e-12)
    np.testing.assert_allclose(frame.energy_eur_per_kwh[:3], expected.energy, atol=1e-12)
    whole = frames.buses(market, clearing).energy_price_eur_per_kwh
    np.testing.assert_allclose(whole, frame.total_eur_per_kwh)
    np.testing.assert_allclose(
        wide(pairs, "pair", "network_eur_per_kwh"), expected.network, atol=1e-12
    )
    np.testing.assert_allclose(
        wide(pairs, "pair", "settled_eur_per_kwh"), expected.trade, atol=1e-12
    )


def test_parts_need_one_path(cleared: Cleared, batch: Cleared):
    """In any scenario."""
    for (market, clearing), last in ((cleared, (3,)), (batch, (2, 3))):
        looped = market.grid.target.at[last].set(3)
        wrong = eqx.tree_at(lambda m: m.grid.target, market, looped)
        with pytest.raises(ValueError, match="give a radial grid"):
            frames.price_parts(wrong, clearing)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_a_batch_is_its_scenarios(table: Callable[..., pd.DataFrame], batch: Cleared):
    """The same columns behind `scenario` and `status`; what is infeasible has no numbers."""
    whole = table(*batch)
    assert list(whole.columns[:2]) == ["scenario", "status"]
    for s, word in enumerate(("cleared", "cleared", "infeasible")):
        part = whole[whole.scenario == s].reset_index(drop=True)
        assert set(part.status) == {word}
        if word == "infeasible":
            assert part.select_dtypes("float").drop(columns="hour").isna().to_numpy().all()
            continue
        single = table(*(lane(tree, s) for tree in batch))
        pd.testing.assert_frame_equal(part.drop(columns=["scenario", "status"]), single)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_numbers_have_units(table: Callable[..., pd.DataFrame], cleared: Cleared):
    """In the name of every column but keys and words."""
    frame = table(*cleared)
    numbers = set(frame.select_dtypes("float").columns) - {"hour"}
    assert numbers and [name for name in numbers if not name.endswith(UNITS)] == []
    assert set(frame.columns) - numbers <= KEYS
    assert len(frame)
    frame["hour"] += 1  # the table is the user's own


def test_a_market_without_devices_has_empty_tables():
    """No generator, buffer, pair or line: no rows, the same columns; indices where no names are."""
    market = jg.Market(jg.Prosumers([0], [[1.0] * 3]), jg.Grid([[0.0] * 3]), jg.Tariff(0, hours=3))
    clearing = found(market, 0)
    for row in ("generator", "buffer", "pair", "line"):
        frame = ROWS[row](market, clearing)
        assert len(frame) == 0 and {row, "hour"} < set(frame.columns)
    assert list(frames.prosumers(market, clearing).bus) == [0, 0, 0]


def test_no_table_of_what_has_no_numbers(cleared: Cleared, batch: Cleared):
    with pytest.raises(ValueError, match="infeasible market has neither plan nor prices"):
        frames.hours(cleared[0], lane(batch[1], 2))
    for mixed in ((cleared[0], batch[1]), (batch[0], cleared[1])):
        with pytest.raises(
            ValueError,
            match=r"frames: loads of shape \(.* batch of markets, that this clearing is of",
        ):
            frames.bills(*mixed)


def test_a_comparison_is_a_row_each(cleared: Cleared):
    compared = jg.compare({"market": cleared, "no trading": cleared})
    frame = frames.comparison(compared)
    assert list(frame.market) == ["market", "no trading"]
    assert list(frame.columns[1:]) == list(compared.rows["market"])
    assert frame.contracted_peak_kw[0] == compared.rows["market"]["contracted_peak_kw"]
    assert frame.price_of_anarchy.isna().all()  # None: no social optimum among them


def test_pandas_is_asked_for_in_a_sentence(cleared: Cleared, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'needs pandas: .* \(pip install "jaxgne\[tables\]"\)'):
        frames.generators(*cleared)
