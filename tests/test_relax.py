"""What must give way: against the oracle's elastic program, and by hand."""

import jax
import numpy as np
import pytest

import jaxgne as jg
from tests.infeasible import KINDS, PRICES, infeasible_market, least_cost
from tests.markets import GRIDS, HAND_MADE, GridWord

LOST = PRICES["Prosumers.load"]
OTHERS = {name: price for name, price in PRICES.items() if name != "Prosumers.load"}


def kinds(grid: GridWord) -> list[str]:
    """Those that a grid has limits for."""
    return [k for k in KINDS if grid != "copperplate" or k not in ("rating", "voltage")]


def held_to_the_oracle(grid: GridWord, seeds: range) -> int:
    """How many markets cost what Clarabel says; tables add up, and what was relaxed clears."""
    relaxed, dear = [], 0
    for kind in kinds(grid):
        for seed in seeds:
            market = infeasible_market(kind, seed, grid)
            found = jg.relax(market, prices=OTHERS, value_of_lost_load=LOST)
            oracle = least_cost(market)
            assert oracle is not None
            assert found.cost == pytest.approx(oracle, rel=1e-6, abs=1e-6), (kind, seed)
            assert found.cost == pytest.approx(sum(row.eur for row in found.table))
            assert (found.cost == 0) == (not found.table)
            relaxed.append(found.market)
            dear += found.cost > 0
    many = jg.clear_many(jg.scenarios.stack(relaxed), jg.InteriorPoint())
    assert np.all(many.ok)
    return dear


@pytest.mark.parametrize("grid", ["lindistflow"])
def test_least_costs_are_the_convex_solvers(grid):
    assert held_to_the_oracle(grid, range(1)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
def test_three_hundred_markets_without_a_plan(grid):
    """Seven of each of 12 kinds (10 without a network) on each grid: 322 in all."""
    assert held_to_the_oracle(grid, range(7)) >= 65


def house(**limits: float) -> jg.Market:
    """A load of 5, 8 and 3 kW for half an hour each."""
    return jg.Market(
        jg.Prosumers([0], [[5.0, 8.0, 3.0]], import_max=limits.get("import_max", np.inf)),
        jg.Grid(np.zeros((1, 3)), model="copperplate"),
        jg.Tariff(0.01, hours=3, base=0.1, total_max=limits.get("total_max", np.inf)),
        hour_length=0.5,
    )


def test_a_limit_below_the_load_gives_way_by_the_difference():
    """At 4 kW: 1 and 4 kW for half an hour are 2.5 kWh, at 2 EUR/kWh 5 EUR."""
    found = jg.relax(house(import_max=4.0), prices={"Prosumers.import_max": 2.0})
    assert [(row.limit, row.row, row.hours, row.unit) for row in found.table] == [
        ("Prosumers.import_max", 0, (0,), "kW"),
        ("Prosumers.import_max", 0, (1,), "kW"),
    ]
    assert [row.amount for row in found.table] == pytest.approx([1.0, 4.0])
    assert [row.eur for row in found.table] == pytest.approx([1.0, 4.0])
    assert found.cost == pytest.approx(5.0)
    assert np.allclose(found.market.prosumers.import_max, [[5.0, 8.0, 4.0]], atol=0.01)
    assert str(found).splitlines() == [
        "raise Prosumers.import_max of prosumer 0 in hours 0 to 0.5 by up to 4 kW, 2.5 kWh: 5 EUR",
        "in all 5 EUR",
    ]


def test_load_is_shed_where_that_is_cheaper_or_all_there_is():
    """The same 2.5 kWh are not served, at 0.5 EUR/kWh; two limits would cost 2 EUR/kWh."""
    market = house(import_max=4.0, total_max=4.0)
    found = jg.relax(market, value_of_lost_load=0.5)
    assert {row.limit for row in found.table} == {"Prosumers.load"}
    assert found.cost == pytest.approx(1.25)
    assert np.allclose(found.market.prosumers.load, [[4.0, 4.0, 3.0]], atol=0.01)
    only = jg.relax(market, limits=["Prosumers.load"])
    assert only.cost == pytest.approx(25.0)


def test_the_fewest_are_one_limit_for_all():
    """Three houses of 4 kW may import 3 kW each, or the one unit behind them make 3 kW more.

    By cost the three cheap limits give way; one generator is fewer.
    """
    market = jg.Market(
        jg.Prosumers([0] * 3, [[4.0]] * 3, import_max=3.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.1),
        jg.Generators([0], 0.0, hours=1, linear=0.3),
        trading=jg.Trading([1, 2], [0, 0], 5.0, toll=0.01),
    )
    prices = {"Generators.power_max": 9.0}
    cheap = jg.relax(market, prices=prices)
    few = jg.relax(market, prices=prices, how="fewest")
    assert cheap.cost == pytest.approx(3.0) and few.cost <= 3.0 + 1e-6
    assert len({(row.limit, row.row) for row in few.table}) == 1
    assert bool(jg.clear(few.market).ok)


def test_lines_and_voltages_give_way_once_for_all_hours():
    """3 kW over a line of 2 kVA cost 1 kVA once, not hour by hour."""
    market = jg.Market(
        jg.Prosumers([1], [[1.0, 3.0, 2.5]]),
        jg.Grid(np.zeros((2, 3)), [0], [1], 1e-4, 1e-4, rating=2.0),
        jg.Tariff(0.01, hours=3, base=0.1),
    )
    found = jg.relax(market, prices={"Grid.rating": 6.0})
    (row,) = found.table
    assert (row.limit, row.place, row.hours) == ("Grid.rating", "line 0 (0-1)", (1, 2))
    assert (row.amount, row.eur) == pytest.approx((1.0, 6.0), rel=1e-8)


def test_a_market_with_a_plan_needs_nothing():
    for name in ("feeder with tight lines", "paper feeder", "exports"):
        found = jg.relax(HAND_MADE[name]())
        assert found.table == () and found.cost == 0.0
        assert "Nothing need give way" in str(found)


def test_a_batch_tells_by_scenario():
    markets = [house(import_max=limit) for limit in (9.0, 7.0, 4.0)]
    found = jg.relax(jg.scenarios.stack(markets))
    assert found.cost == pytest.approx([0.0, 0.5, 2.5])
    assert [row.scenario for row in found.table] == [1, 2, 2]
    assert str(found).startswith("scenario 1: raise Prosumers.import_max of prosumer 0")
    assert np.shape(found.market.prosumers.load) == (3, 1, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prices": {"rating": 1.0}}, "'rating' is no limit that can give way; take of Prosumers"),
        ({"prices": {"Grid.rating": 0.0}}, "a price of 0.0 for Grid.rating; give one above 0"),
        ({"how": "best"}, "how='best' is neither"),
        ({"limits": "Grid.rating"}, "no plan even where Grid.rating give way"),
    ],
)
def test_what_makes_no_sense_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        jg.relax(house(import_max=4.0), **options)


def test_under_a_trace_it_says_to_go_outside():
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda m: jg.relax(m).cost)(house())
