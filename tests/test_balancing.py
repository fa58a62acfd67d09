"""Balancing energy: its price, who delivers it, and that nobody who takes prices loses by it."""

from typing import Any

import numpy as np
import pytest

import jaxgne as jg
from jaxgne import balancing, model
from tests.reference import solve

HOURS = 3


def market(seed: int = 0, behavior: float = 0.0, **options: Any) -> jg.Market:
    """Three prosumers behind a tight line: two generators, two batteries, sun, three pairs."""
    rng = np.random.default_rng(seed)
    load = rng.uniform(1, 6, (3, HOURS)) - np.array([[0.0], [0.0], [4.0]])
    return jg.Market(
        jg.Prosumers([1, 1, 2], load, 0.2 * load, export_max=2.0,
                     curtail_max=np.maximum(-load, 0.0)),
        jg.Grid(np.full((3, HOURS), 0.5), [0, 1], [1, 2], 1e-4, 1e-5, rating=[12.0, 5.0]),
        jg.Tariff(0.004, hours=HOURS, base=rng.uniform(0.1, 0.4, HOURS), export=0.05,
                  anticipation=behavior),
        jg.Generators([0, 1], [[6.0], [5.0]], hours=HOURS, linear=[0.12, 0.2],
                      quadratic=[0.01, 0.02]),
        jg.Buffers([0, 2], 2.0, 2.0, 6.0, 3.0, hours=HOURS, charge_efficiency=0.9,
                   discharge_efficiency=0.9, linear=0.01, quadratic=0.002, final_value=0.2),
        jg.Trading([0, 1, 0], [1, 2, 2], 4.0, toll=0.01, fee_buyer=0.02),
        hour_length=0.5,
        **options,
    )  # fmt: skip


def one_generator(slope: float = 0.0, behavior: float = 0.0) -> jg.Market:
    """10 kW of load at 0.3 EUR/kWh, and a generator that costs 0.1 p + 0.02 p^2; one hour."""
    return jg.Market(
        jg.Prosumers([0, 0], [[10.0], [0.0]], import_max=[[np.inf], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(slope, hours=1, base=0.3, anticipation=behavior),
        jg.Generators([1], 20.0, hours=1, linear=0.1, quadratic=0.02),
        trading=jg.Trading([0], [1], 20.0),
    )


def test_a_generator_delivers_at_its_marginal_cost():
    """It makes 5 kW at 0.3. 1 kW less drawn is a sixth, at 0.1 + 0.04 x 6 = 0.34: 0.04 beyond 0.3.

    That kW costs 0.02 (36 - 25) + 0.1 = 0.32 EUR, of which 0.3 are saved; paid are 0.04.
    """
    given = one_generator()
    position = jg.clear(given, tol=1e-9)
    found = balancing.buy(given, position, -1.0, tol=1e-9)
    assert float(found.price[0]) == pytest.approx(0.04, abs=1e-6)
    np.testing.assert_allclose(found.generation, [[0.0], [-1.0]], atol=1e-6)
    np.testing.assert_allclose(found.bought, [[1.0], [-1.0]], atol=1e-6)
    assert float(found.added) == pytest.approx(0.02, abs=1e-6)
    assert float(found.paid[0]) == pytest.approx(0.04, abs=1e-6)
    np.testing.assert_allclose(found.gain, [0.0, 0.02], atol=1e-6)
    assert "hour 0: 1 kW less at 0.04 EUR/kWh, of 0 1\n" in str(found)


def test_a_battery_delivers_what_it_took_before():
    """0.2 EUR/kWh in both hours; a kWh given in hour 1 was 1 / 0.81 taken in hour 0.

    So 1 kW less is worth 0.2 / 0.81 - 0.2. Where hour 0 has to keep its total nobody can.
    """
    given = jg.Market(
        jg.Prosumers([0], [[5.0, 5.0]]),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.2),
        buffers=jg.Buffers([0], 3.0, 3.0, 6.0, 0.0, hours=2, charge_efficiency=0.9,
                           discharge_efficiency=0.9),
    )  # fmt: skip
    position = jg.clear(given, tol=1e-9)
    found = balancing.buy(given, position, [0.0, -1.0], hold=False, tol=1e-9)
    assert float(found.price[1]) == pytest.approx(0.2 / 0.81 - 0.2, abs=1e-6)
    np.testing.assert_allclose(found.storage, [[1 / 0.81, -1.0]], atol=1e-6)
    least, most = balancing.limits(given, position, 1)
    np.testing.assert_allclose([least, most], [0.0, 3.0], atol=1e-3)
    least, most = balancing.limits(given, position, 1, hold=False)
    np.testing.assert_allclose([least, most], [-3 * 0.81, 3.0], atol=1e-6)
    with pytest.raises(ValueError, match=r"draws 1 kW less in hour 1; limits leave .* hold=False"):
        balancing.buy(given, position, [0.0, -1.0])


@pytest.mark.parametrize("trades", ["free", "kept"])
def test_its_price_is_what_the_next_kw_costs(trades: Any):
    """By central differences of the potential, in a step; and what each does adds up."""
    given = market(behavior=1.0)
    position = jg.clear(given, tol=1e-10)
    asked, step = np.array([0.0, -0.8, 0.5]), 1e-3

    def at(deviation: Any) -> balancing.Balancing:
        return balancing.buy(given, position, deviation, trades=trades, tol=1e-10)

    found = at(asked)
    h = 1 if trades == "free" else 2
    move = step * (np.arange(HOURS) == h)
    slope = (float(at(asked + move).added) - float(at(asked - move).added)) / (2 * step)
    assert slope == pytest.approx(-0.5 * float(found.price[h]), abs=2e-6)
    own = np.asarray(found.drawn) - np.asarray(found.bought)
    np.testing.assert_allclose(own.sum(axis=0), asked, atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.drawn).sum(axis=0), asked, atol=1e-4)
    np.testing.assert_allclose(
        found.generation + found.storage + found.curtailment, found.drawn, atol=1e-9
    )
    np.testing.assert_allclose(found.payment, -0.5 * np.asarray(found.price) * own, atol=1e-7)
    assert float(found.paid.sum()) >= float(found.added)
    if trades == "kept":
        np.testing.assert_allclose(found.clearing.plan.trades, position.plan.trades, atol=1e-4)
    wrong = jg.certify(found.market, found.clearing.plan, found.clearing.prices)
    assert float(wrong.residuals.infeasibility) < 1e-7
    oracle = solve(found.market)
    if trades == "free":
        np.testing.assert_allclose(oracle.prices.aggregate[1:], found.price[1:], atol=1e-5)
        np.testing.assert_allclose(oracle.sigma, found.clearing.aggregate, atol=1e-4)
    else:  # fewer plans: it costs as much at least
        before = float(model.potential(given, position.plan))
        assert before + float(found.added) >= oracle.potential - 1e-6


@pytest.mark.parametrize("seed", [0, 2])
def test_nobody_who_takes_prices_loses(seed: int):
    """And who reckons with its effect on them loses no more than what it reckons with."""
    for behavior in (0.0, 1.0):
        given = market(seed, behavior)
        position = jg.clear(given, tol=1e-9)
        trades: Any = "kept" if seed == 0 else "free"
        found = balancing.buy(given, position, [0.7, -0.5, 0.0], trades=trades, tol=1e-9)
        before, after = (np.asarray(a.plan.imports) for a in (position, found.clearing))
        reckoned = 0.5 * 0.004 / 2 * behavior * (before**2 - after**2).sum(axis=1)
        assert np.all(np.asarray(found.gain) + reckoned > -1e-6)
        assert np.abs(found.gain).max() > 1e-4


def test_who_can_do_nothing_keeps_contracts():
    """The load of 10 kW has no device and buys all of its neighbor, who makes a kW more.

    At 0.3 the neighbor makes 5 kW and buys 5; 1 kW less drawn is worth 0.04 to it, as above.
    """
    given = one_generator()
    people = jg.Prosumers([0, 0], [[10.0], [0.0]], import_max=[[0.0], [np.inf]])
    given = jg.Market(people, given.grid, given.tariff, given.generators, trading=given.trading)
    position = jg.clear(given, tol=1e-9)
    found = balancing.buy(given, position, -1.0, trades="kept", tol=1e-9)
    assert float(found.price[0]) == pytest.approx(0.04, abs=1e-5)
    np.testing.assert_allclose(found.generation, [[0.0], [-1.0]], atol=1e-5)
    np.testing.assert_allclose(found.bought, 0.0, atol=2e-4)
    np.testing.assert_allclose(found.gain, [0.0, 0.02], atol=1e-5)


def test_contracts_and_caps_of_loads_go_together():
    """A cap that counts loads counts those of people, not what they have contracted."""
    given = market()
    given = jg.capped(given, jg.caps.group(given, 40.0, of="load", name="street"))
    position = jg.clear(given, tol=1e-9)
    found = balancing.buy(given, position, 0.5, 1, trades="kept", tol=1e-9)
    wrong = jg.certify(found.market, found.clearing.plan, found.clearing.prices)
    assert float(wrong.residuals.infeasibility) < 1e-7


@pytest.mark.parametrize("trades", ["free", "kept"])
def test_zones_and_tie_lines_keep_what_they_ask(trades: Any):
    """What is contracted across a border counts on its line, and in no zone's price."""
    given = jg.zones.with_zones(market(), [0, 0, 1], buses=[0, 0, 1], base=[0.1, 0.2],
                                slope=[0.004, 0.01])  # fmt: skip
    given = jg.zones.with_tie_lines(given, source=[0], target=[1], limit=3.0, fee=0.01)
    position = jg.clear(given, tol=1e-9)
    assert np.abs(position.plan.trades[1:]).max() > 0.1

    def at(kw: float) -> balancing.Balancing:
        return balancing.buy(given, position, kw, 1, trades=trades, tol=1e-9)

    found = at(-0.4)
    wrong = jg.certify(found.market, found.clearing.plan, found.clearing.prices)
    assert float(wrong.residuals.infeasibility) < 1e-6
    slope = (float(at(-0.399).added) - float(at(-0.401).added)) / 2e-3
    assert slope == pytest.approx(-0.5 * float(found.price[1]), abs=1e-5)
    assert np.all(np.asarray(found.gain) > -1e-5)
    if trades == "free":
        assert float(wrong.error) < 1e-6
    generators = np.asarray(found.clearing.plan.generation)[:, 1]
    value = np.asarray(model.device_prices(given, found.clearing.prices)[0])[:, 1]
    inside = (generators > 0.01) & (generators < np.array([5.99, 4.99]))
    cost = np.array([0.12, 0.2]) + 2 * np.array([0.01, 0.02]) * generators
    np.testing.assert_allclose(value[inside], cost[inside], atol=1e-5)
    added = model.potential(given, found.clearing.plan) - model.potential(given, position.plan)
    assert float(found.added) == pytest.approx(float(added), abs=1e-5)


def test_a_curve_is_what_each_deviation_costs():
    """Ever dearer; NaN beyond the limit, which the load of 5 kW that is left sets: 5 kW less.

    With 0.01 EUR/kWh a kW and Nash prosumers: 0.3 + 0.02 (10 - p) = 0.1 + 0.04 p, so p = 20 / 3.
    """
    given = one_generator(0.01, 1.0)
    position = jg.clear(given, tol=1e-9)
    kw = np.array([-4.0, -2.0, -1.0, 1.0, 2.0])
    found = balancing.curve(given, position, kw, 0, tol=1e-9)
    made = 20 / 3 - kw
    expected = 0.1 + 0.04 * made - (0.3 + 0.02 * (10 - made))
    reached = made <= 10
    np.testing.assert_allclose(found.price[reached, 0], expected[reached], atol=1e-5)
    assert np.isnan(np.asarray(found.price)[~reached]).all() and (~reached).sum() == 1
    np.testing.assert_allclose(found.paid[reached], -(expected * kw)[reached], atol=1e-5)
    np.testing.assert_allclose(found.added[reached], -(expected * kw / 2)[reached], atol=1e-4)
    least, most = balancing.limits(given, position)
    np.testing.assert_allclose([least, most], [-10 / 3, 20 / 3], atol=1e-5)
    assert "nan" in str(found).splitlines()[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deviation": np.nan}, "deviation must be finite"),
        ({"deviation": 1.0, "hours": 9}, "give numbers of steps, from 0 to 0"),
        ({"deviation": [1.0, 2.0]}, "deviation: shape"),
        ({"deviation": 1.0, "trades": "sold"}, "neither 'free' nor 'kept'"),
        ({"deviation": 50.0}, "draws 50 kW more in hour 0; limits leave 10 % .* 5 kW there"),
    ],
)
def test_what_cannot_be_asked_is_told(options: dict[str, Any], words: str):
    given = one_generator()
    with pytest.raises(ValueError, match=words):
        balancing.buy(given, jg.clear(given), **options)
