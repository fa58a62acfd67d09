"""Leaders: prices of a closed form, of a grid, and none that CMA-ES finds better; ends are told."""

from typing import Any

import cma
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import mechanisms, objectives
from jaxgne.leader import Leading, MarginFloor, lead
from jaxgne.scenarios import stack

TOL = 1e-9
FIRST = np.array([0.5, 0.8])  # what a first kWh is worth in each hour, EUR/kWh
LESS = 0.1  # less for each kW more, EUR/kWh
WHOLESALE = np.array([0.1, 0.2])
BOUNDS = (0.02, 0.75)


def retail(trade: float = 0.0) -> jg.Market:
    """Who buys D = (first - p) / 0.1 of a retailer whose price is p0, beside a neighbor who may
    sell it up to `trade` kW of a generator with costs of 0.15 p + 0.05 p^2, at a toll of 0.02."""
    mine = jg.devices.elastic(
        [0, 0], power=[[9.0, 0.0], [0.0, 9.0]], worth=FIRST, slope=LESS, hours=2
    )
    plant = jg.Generators([1], 10.0, hours=2, linear=0.15, quadratic=0.05)
    return jg.Market(
        jg.Prosumers([0, 0], np.zeros((2, 2)), import_max=[[20.0], [0.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.3, anticipation=0.0),
        jg.devices.join(mine, plant),
        trading=jg.Trading([0], [1], trade, toll=0.02),
    )


def base(market: jg.Market) -> Any:
    return market.tariff.base


def led(market: jg.Market, floor: float, starts: int = 3) -> Leading:
    """The least that all pay while the retailer's margin is at least `floor`, EUR."""
    earn = [MarginFloor(WHOLESALE, floor)]
    return lead(
        market, objectives.social_cost, base, BOUNDS, constraints=earn, starts=starts, tol=TOL
    )


def priced(market: jg.Market, prices: np.ndarray) -> tuple[jg.Market, jg.Clearing]:
    """A batch of the market at base prices (S, 2), cleared together."""
    some = stack([eqx.tree_at(base, market, jnp.asarray(price)) for price in prices])
    return some, jg.clear_many(some, tol=TOL)


def judged(market: jg.Market, prices: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """What all pay at each of the prices, and what is missing of the floor, EUR."""
    some, found = priced(market, prices)
    margin = objectives.retail_margin(some, found, wholesale=WHOLESALE)
    return np.asarray(objectives.social_cost(some, found)), floor - np.asarray(margin)


def test_the_margin_is_what_is_received_above_wholesale():
    """At 0.3 EUR/kWh 2 kW and 5 kW are bought, of 0.1 and 0.2 EUR/kWh: 0.4 and 0.5 EUR are left."""
    market = retail()
    found = jg.clear(market, tol=TOL)
    margin = objectives.retail_margin(market, found, wholesale=WHOLESALE)
    assert float(margin) == pytest.approx(0.9, abs=1e-6)
    assert float(MarginFloor(WHOLESALE, 1.0)(market, found)) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("part", [0.3, 0.75, 0.9999])
def test_ramsey_prices(part: float):
    """All pay least at markups k / (1 + k) of first - wholesale in each hour, which earn

        k / (1 + k)^2 sum (first - wholesale)^2 / 0.1 = floor.

    A monopolist's, the mean of both prices, are those of k = 1, and earn the most there is.
    """
    room = FIRST - WHOLESALE
    most = np.sum(room**2) / LESS / 4
    floor = part * most
    markup = (1 - np.sqrt(1 - part)) / 2  # k / (1 + k), of k / (1 + k)^2 = part / 4
    found = led(retail(), floor)
    tight = 1e-5 if part < 0.99 else 2e-3  # near the most the floor hardly depends on prices
    np.testing.assert_allclose(found.market.tariff.base, WHOLESALE + markup * room, atol=tight)
    assert found.met.all() and found.spread < 1e-5 and found.missed.max() < 1e-5
    if part > 0.99:
        np.testing.assert_allclose(found.market.tariff.base, (FIRST + WHOLESALE) / 2, atol=1e-2)


def test_no_price_of_a_grid_and_none_of_cma_es_is_better():
    """A neighbor sells as well, from 0.19 EUR/kWh on, so that revenue has a kink: 9 prices an hour,
    and CMA-ES with as many equilibria as the leader took, and with ten times as many."""
    market, floor = retail(trade=4.0), 0.6
    found = led(market, floor, starts=1)
    best, used = float(found.value[0]), int(found.clears[0])
    assert found.met[0] and found.missed[0] < 1e-6
    side = np.linspace(0.1, 0.5, 9)
    cost, missing = judged(market, np.stack(np.meshgrid(side, side), -1).reshape(-1, 2), floor)
    assert best <= cost[missing <= 0].min() + 1e-6
    assert cost[missing <= 0].min() - best < 0.2  # the grid is near, so that it says something
    for clears in (used, 10 * used):
        assert best <= evolved(market, floor, clears) + 1e-5


def evolved(market: jg.Market, floor: float, clears: int) -> float:
    """The least that CMA-ES finds in so many equilibria, each generation one batch.

    A EUR that the floor is missed by counts 10 EUR, more than any price saves by it.
    """
    options = {"bounds": [0.0, 1.0], "seed": 1, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy([0.4, 0.4], 0.3, options)
    least, used = np.inf, 0
    while used < clears and not strategy.stop():
        asked = strategy.ask()
        shares = np.stack(asked)
        cost, missing = judged(market, BOUNDS[0] + np.ptp(BOUNDS) * shares, floor)
        strategy.tell(asked, list(cost + 10 * np.maximum(missing, 0.0)))
        least, used = min(least, cost[missing <= 1e-6].min(initial=np.inf)), used + len(asked)
    return least


def test_what_cannot_be_met_is_told():
    """No price earns twice what a monopolist's does; where that one is misses least."""
    most = np.sum((FIRST - WHOLESALE) ** 2) / LESS / 4
    found = led(retail(), 2 * most, starts=2)
    np.testing.assert_allclose(found.market.tariff.base, (FIRST + WHOLESALE) / 2, atol=1e-2)
    assert not found.met.any() and "2 starts do not meet the constraints" in str(found)
    assert found.missed[found.best] == pytest.approx(most, abs=1e-2)


def test_ends_are_compared_where_constraints_are_met():
    """By hand: four ends, of which the least misses its constraint."""
    ends = Leading(
        retail(), jax.tree.map(jnp.zeros_like, retail()), np.zeros((4, 2)),  # type: ignore
        np.array([1.0, 3.0, 2.0, 2.000001]), np.array([0.5, 0.0, -1.0, 0.0]),
        np.array([False, True, True, True]), np.array([4, 5, 6, 7]), np.array(["steps"] * 4), 0,
    )  # fmt: skip
    assert ends.best == 2 and ends.alike == 2 and ends.spread == pytest.approx(1.0)
    assert str(ends).splitlines() == [
        "4 starts, 22 equilibria",
        "objective 2 at best, 2 in the median, 3 at worst; 2 starts at the best",
        "1 starts do not meet the constraints",
    ]


def test_what_makes_no_sense_is_refused():
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=r"Tariff\.base starts outside of its bounds"):
        lead(retail(), objectives.social_cost, base, (0.4, 0.5))
    with pytest.raises(ValueError, match="starts=0; give a whole number"):
        lead(retail(), objectives.social_cost, base, BOUNDS, starts=0)
    with pytest.raises(ValueError, match=r"lead\(\) takes one market"):
        lead(stack([retail()] * 2), objectives.social_cost, base, BOUNDS)


def test_base_prices_by_hour_lower_a_peak_and_earn_no_less():
    """As far as the best of a grid over the two hours that matter, but for what 40 steps leave."""
    market = jg.synthetic(6, hours=4, degree=2.0, seed=1, stress=True)
    today = jg.clear(market)
    income = float(objectives.main_grid_revenue(market, today))
    tuned, _ = mechanisms.base_price(market, objectives.peak, steps=40)
    found = jg.clear(tuned)
    assert float(objectives.main_grid_revenue(tuned, found)) >= income - 1e-6
    tried = []
    for dearer in np.linspace(0.0, 0.02, 5):
        for cheaper in np.linspace(0.0, 0.02, 5):
            base = market.tariff.base + np.array([dearer, 0.0, 0.0, -cheaper])
            other = eqx.tree_at(lambda m: m.tariff.base, market, base)
            clearing = jg.clear(other)
            if float(objectives.main_grid_revenue(other, clearing)) >= income:
                tried.append(float(objectives.peak(other, clearing)))
    peak = float(objectives.peak(tuned, found))
    assert peak <= float(objectives.peak(market, today)) - 0.3
    assert peak <= min(tried) + 0.05
