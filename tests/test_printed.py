"""The report says what the arrays say, with the status first."""

import json
import math
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxgne as jg
from jaxgne import indicators, printed
from tests.folders import bare, feeder, unfinished


def plan_of(market: jg.Market, **fields: np.ndarray) -> jg.Clearing:
    """A clearing with the given fields of its plan and zeros elsewhere, all prices zero."""
    clearing = unfinished(market, jg.Status.cleared)
    plan = jg.model.zeros(market)
    for name, value in fields.items():
        like = getattr(plan, name)
        plan = eqx.tree_at(
            lambda p, name=name: getattr(p, name), plan, jnp.broadcast_to(value, like.shape)
        )
    prices = jg.model.rows_like(market)
    return eqx.tree_at(
        lambda c: (c.plan, c.prices, c.costs, c.aggregate, c.certificate),
        clearing,
        (
            plan,
            prices,
            jg.costs(market, plan),
            jg.aggregate(market, plan),
            eqx.filter_jit(jg.certify)(market, plan, prices),
        ),
    )


def text(market: jg.Market, clearing: jg.Clearing) -> str:
    """The table as a pipe sees it, 100 columns wide."""
    console = Console(width=100, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(printed.table(market, clearing), highlight=False)
    return capture.get()


def test_energies_are_power_times_hours():
    """2 hours of 15 minutes: 3 prosumers at 4 kW import 3 * 4 * 2 * 0.25 = 6 kWh; two pairs trade
    1 kW one way and 1 kW the other, 2 * 2 * 0.25 = 1 kWh; three buses draw 0.1 kW, 0.15 kWh."""
    market = feeder()
    clearing = plan_of(market, imports=np.array(4.0), trades=np.array([[1.0], [-1.0]]))
    energy = indicators.summary(market, clearing)["energy_kwh"]
    assert energy["imported"] == pytest.approx(6.0)
    assert energy["traded"] == pytest.approx(1.0)
    assert energy["passive"] == pytest.approx(0.15)
    assert energy["exported"] == 0.0


def test_contracted_peak_has_its_hour():
    """3 prosumers at 5 kW from hour 0.25 on and three buses at 0.1 kW: 15.3 kW."""
    market = feeder()
    clearing = plan_of(market, imports=np.array([4.0, 5.0]))
    facts = indicators.summary(market, clearing)
    assert facts["contracted_peak"]["hour"] == 0.25
    assert facts["contracted_peak"]["kw"] == pytest.approx(15.3)
    assert "15.3 kW in hour 0.25" in text(market, clearing)


def test_bills_are_total_mean_and_range():
    """Purchases of 1, 2 and 3 kW at the main grid's price and nothing else: bills are objectives.

    With a trade of 2 kW from prosumer 1 to 0 at 0.15 EUR/kWh, 0 pays 1 what no objective knows: in
    two quarter-hours 0.15 EUR, so that the total stays.
    """
    market = feeder()
    clearing = plan_of(market, imports=np.array([[1.0], [2.0], [3.0]]))
    facts = indicators.summary(market, clearing)
    bill = facts["bill_eur"]
    assert bill == pytest.approx(facts["objective_eur"])
    assert bill == pytest.approx(facts["cost_eur"])
    assert bill["total"] == pytest.approx(float(clearing.costs.sum()))
    assert bill["mean"] == pytest.approx(bill["total"] / 3)
    assert (bill["min"], bill["max"]) == pytest.approx(
        (float(clearing.costs[0]), float(clearing.costs[2]))
    )
    trading = eqx.tree_at(lambda c: c.plan.trades, clearing, jnp.asarray([[2.0, 2.0], [0.0, 0.0]]))
    priced = jnp.broadcast_to(jnp.asarray([[0.1], [0.2], [0.3]]), (3, 2))
    trading = eqx.tree_at(lambda c: c.prices.balance, trading, priced)
    paid = np.asarray(jg.settle(market, trading).prosumers.sum(axis=1))
    again = indicators.summary(market, trading)["bill_eur"]
    assert (again["min"], again["max"]) == pytest.approx((paid.min(), paid.max()))


def test_the_transformer_is_net_of_what_is_sold():
    """4 kW bought and 5 kW sold by each of three, 0.3 kW passive: 2.7 kW flow out at hour 0.25.

    In hour 0 nothing is sold and 12.3 kW flow in: in quarter-hours 3.075 kWh in, 0.675 kWh out.
    """
    market = feeder()
    clearing = plan_of(market, imports=np.array(4.0), exports=np.array([0.0, 5.0]))
    found = indicators.summary(market, clearing)["transformer"]
    assert found["in_kwh"] == pytest.approx(3.075)
    assert found["out_kwh"] == pytest.approx(0.675)
    assert (found["peak_in"]["kw"], found["peak_in"]["hour"]) == (pytest.approx(12.3), 0)
    assert (found["peak_out"]["kw"], found["peak_out"]["hour"]) == (pytest.approx(2.7), 0.25)
    assert "12.3 kW in hour 0" in text(market, clearing)


def test_what_the_model_does_not_determine_is_not_printed():
    """Without a reactive balance voltages and loadings mean nothing; the AC state is shown."""
    market = feeder()
    flat = replace(market.grid, model="paper", reactive_balance=False)
    market = eqx.tree_at(lambda m: m.grid, market, flat)
    clearing = plan_of(market)
    facts = indicators.summary(market, clearing)
    assert facts["voltage"] is None and facts["lines"] is None
    assert facts["by_hour"][0]["lowest_voltage_pu"] is None
    assert facts["ac"]["lowest"]["pu"] <= 1.0
    shown = text(market, clearing)
    assert "not determined by this grid model" in shown
    assert "lowest V" not in shown and "of the rating" not in shown
    full = indicators.summary(feeder(), plan_of(feeder()))
    assert full["voltage"] is not None and full["lines"] is not None


def test_voltages_are_magnitudes_with_bus_and_hour():
    """Squared 0.9604 at bus 2 in hour 0.25 is 0.98 pu; squared 1.0609 at bus 1 at first is 1.03."""
    squared = np.array([[1.0, 1.0], [1.0609, 1.0], [1.0, 0.9604]])
    facts = indicators.summary(feeder(), plan_of(feeder(), voltage=squared))["voltage"]
    assert facts["lowest"]["pu"] == pytest.approx(0.98)
    assert (facts["lowest"]["bus"], facts["lowest"]["hour"]) == ("Straße", 0.25)
    assert facts["highest"]["pu"] == pytest.approx(1.03)
    assert (facts["highest"]["bus"], facts["highest"]["hour"]) == ('bus, "two"', 0)
    assert facts["bus_hours_at_limit"] == 0


def test_voltage_at_a_limit_counts_outside_the_feeder_bus():
    """0.95 pu at bus 1 for a quarter of an hour; the feeder bus is held and never counts."""
    squared = np.array([[0.9025, 0.9025], [0.9025, 1.0], [1.0, 1.0]])
    facts = indicators.summary(feeder(), plan_of(feeder(), voltage=squared))["voltage"]
    assert facts["bus_hours_at_limit"] == 0.25


def test_full_lines_are_counted_and_named():
    """Line 0 is rated 20 kVA: (12, 16) fills it at first, (6, 8) half at hour 0.25; line 1 has no
    rating and does not count."""
    clearing = plan_of(
        feeder(), active=np.array([[12.0, 6.0]] * 2), reactive=np.array([[16.0, 8.0]] * 2)
    )
    facts = indicators.summary(feeder(), clearing)["lines"]
    assert facts["highest_loading"] == pytest.approx(1.0)
    assert (facts["line"], facts["hour"], facts["ends"]) == (0, 0, ["799", 'bus, "two"'])
    assert (facts["line_hours_at_limit"], facts["line_hours"]) == (0.25, 0.5)


def test_branches_that_begin_at_once_are_told_apart():
    """Quarter-hours that part after the first, of probability 0.2 and 0.8; 6 kW bought throughout.

    The limit is 6 kW in the second branch's only step, step 2, which counts 0.2 hours; all steps
    together count 0.5. Imports are 6 kW for 0.5 hours, 3 kWh.
    """
    each = [feeder(total_max=(9.0, limit)) for limit in (9.0, 6.3)]
    market = jg.scenarios.tree(each, [0.2, 0.8], 1)
    clearing = plan_of(market, imports=np.array(2.0))
    facts = indicators.summary(market, clearing)
    assert (facts["aggregate_limit_hours"], facts["aggregate_limit_steps"]) == ([0.25], [2])
    assert (facts["hours_at_aggregate_limit"], facts["hours"]) == (0.2, 0.5)
    assert facts["energy_kwh"]["imported"] == pytest.approx(3.0)
    assert [(at["hour"], at["step"]) for at in facts["by_hour"]] == [(0, 0), (0.25, 1), (0.25, 2)]
    assert "at its limit in 0.2 hours (0.25 (step 2))" in text(market, clearing)


def test_aggregate_limit_binds_on_net_exchange():
    """6.3 kW gross and 0.9 kW exported net 5.4 kW: at a limit of 5.4 kW from hour 0.25 on only."""
    market = feeder(total_max=(9.0, 5.4))
    clearing = plan_of(market, imports=np.array(2.0), exports=np.array(0.3))
    assert indicators.summary(market, clearing)["aggregate_limit_hours"] == [0.25]
    assert "at its limit in 0.25 hours (0.25)" in text(market, clearing)


def test_mean_price_weighs_by_what_prosumers_draw():
    """Prices 0.1, 0.2, 0.3 at net loads 3, 2 and -1 kW: (0.3 + 0.4 + 0.3) / 6 = 1/6."""
    market = feeder()
    clearing = plan_of(market)
    own = jnp.broadcast_to(jnp.array([[0.1], [0.2], [0.3]]), (3, 2))
    clearing = eqx.tree_at(lambda c: c.prices.balance, clearing, own)
    hour = indicators.summary(market, clearing)["by_hour"][0]
    assert hour["energy_price_mean_eur_per_kwh"] == pytest.approx(1 / 6)
    assert hour["energy_price_min_eur_per_kwh"] == pytest.approx(0.1)
    assert hour["energy_price_max_eur_per_kwh"] == pytest.approx(0.3)
    assert hour["grid_price_eur_per_kwh"] == pytest.approx(0.1 + 0.3 / 30)


def test_market_without_network_has_no_voltages():
    facts = indicators.summary(bare(), plan_of(bare()))
    assert facts["voltage"] is None
    assert facts["lines"] is None
    assert "Voltage" not in text(bare(), plan_of(bare()))


@pytest.mark.parametrize("status", ["cleared", "max_steps", "nonfinite"])
def test_summary_is_json_of_plain_numbers(status: str):
    """NaN and infinity become null: any JSON reader takes it."""
    market = feeder()
    clearing = unfinished(market, getattr(jg.Status, status))
    broken = eqx.tree_at(lambda c: c.plan.imports, clearing, clearing.plan.imports * np.nan)
    for each in (clearing, broken):
        facts = indicators.summary(market, each)
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert facts["status"] == status
    error = float(clearing.certificate.error)
    shown = indicators.summary(market, clearing)["certificate"]["relative_kkt_error"]
    assert shown == (error if math.isfinite(error) else None)


@pytest.mark.parametrize("status", ["max_steps", "nonfinite"])
def test_table_of_what_did_not_clear_says_so_first(status: str):
    first = text(feeder(), unfinished(feeder(), getattr(jg.Status, status))).splitlines()[0]
    assert first.startswith(f"NOT CLEARED ({status}) after 7 steps. ")


def test_table_of_what_cleared_says_so_first():
    shown = text(feeder(), plan_of(feeder()))
    assert shown.startswith("Cleared after 7 steps (3 prosumers, 0.5 hours, lindistflow)")
    assert "NOT CLEARED" not in shown


def test_table_fits_100_columns_without_colors():
    """Large numbers included; no escape codes, one row for each of 24 quarter hours."""
    market = feeder(hours=24)
    shown = text(market, plan_of(market, imports=np.array(1234567.8)))
    assert max(map(len, shown.splitlines())) <= 100
    assert "\x1b" not in shown
    hours = [line.split()[0] for line in shown.split("By hour")[1].splitlines() if line.split()]
    assert [h for h in hours if h[0].isdigit()] == [f"{0.25 * k:g}" for k in range(24)]
