"""Carbon: by hand, price and cap as duals, budgets that balance, content that trades carry."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import emissions, model
from jaxgne.cli import app
from jaxgne.settlement import price_parts
from tests.infeasible import SMALL
from tests.markets import random_market
from tests.reference import solve

GRID = [0.5, 0.3]  # kg/kWh


def cleared(market: jg.Market, tol: float = 1e-10) -> jg.Clearing:
    return jg.clear(market, jg.InteriorPoint(), tol=tol, runner="numpy")


def neighbors(**tables: Any) -> jg.Market:
    """Two of 4 kW at 0.20 EUR/kWh and 1 kW passive; the first has a unit of 6 kW at 0.30."""
    return jg.Market(
        jg.Prosumers([0, 0], [[4.0, 4.0], [4.0, 4.0]]),
        jg.Grid([[1.0, 1.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.20),
        jg.Generators([0], 6.0, hours=2, linear=0.30),
        trading=jg.Trading([1], [0], 10.0, toll=1e-3),
        **tables,
    )


def counted(market: jg.Market, most: float = np.inf, price: float = 0.0, **more: Any) -> jg.Market:
    cap = jg.caps.carbon(market, most, grid=GRID, generators=0.1, price=price, **more)
    return jg.capped(market, cap)


def test_an_allowance_costs_what_clean_power_does():
    """A kg less in hour 0 is 1 / (0.5 - 0.1) kWh at 0.10 EUR/kWh more: 0.25 EUR/kg.

    Without the unit 18 kWh emit 4.5 + 2.7 kg. 6.4 kg are reached by 2 kWh of it in hour 0.
    """
    market = counted(neighbors(), 6.4)
    found = cleared(market)
    np.testing.assert_allclose(found.plan.generation, [[2.0, 0.0]], atol=1e-6)
    for rule in ("equal", "load"):
        handed = emissions.allowances(market, found, rule)
        assert float(handed.price) == pytest.approx(0.10 / 0.4, rel=1e-6)
        given = float(handed.given.sum() + handed.passive_given)
        assert given == pytest.approx(6.4, abs=1e-12)
    np.testing.assert_allclose(handed.given, [6.4 * 8 / 18] * 2)
    assert float(handed.passive_paid) == pytest.approx(0.25 * (0.8 - 6.4 * 2 / 18), rel=1e-6)


def test_a_price_is_the_multiplier_of_its_cap():
    """The same plan by a limit, and by its price alone; the price is in the costs of both."""
    bent = eqx.tree_at(lambda m: m.generators.quadratic, neighbors(), jnp.asarray([0.01]))
    tight = counted(bent, 6.4)
    one = cleared(tight)
    price = float(one.prices.cap[0, 0])  # pyright: ignore[reportOptionalSubscript]
    priced = counted(bent, price=price)
    other = cleared(priced)
    np.testing.assert_allclose(one.plan.generation, other.plan.generation, atol=1e-6)
    np.testing.assert_allclose(one.aggregate, other.aggregate, atol=1e-6)
    np.testing.assert_allclose(other.prices.cap, price, rtol=1e-7)
    total = float(emissions.emissions_of(priced, other).total)
    assert total == pytest.approx(6.4, abs=1e-6)
    paid = jg.settle(priced, other)
    assert float(paid.levies.sum()) == pytest.approx(price * total, rel=1e-9)
    both = cleared(counted(bent, 6.4, price / 2))
    handed = emissions.allowances(counted(bent, 6.4, price / 2), both)
    assert float(handed.price) == pytest.approx(price / 2, rel=1e-5)
    with pytest.raises(ValueError, match="has no limit at the end"):
        emissions.allowances(priced, other)


def test_carbon_is_a_part_of_prices_and_bills():
    market = jg.capped(counted(neighbors(), price=0.2), jg.caps.group(neighbors(), 6.5))
    found = cleared(market)
    parts = price_parts(market, found)
    np.testing.assert_allclose(parts.carbon, [[0.1, 0.06]] * 2, atol=1e-9)
    assert float(parts.caps.max()) > 0.01
    paid = jg.settle(market, found)
    kg = emissions.emissions_of(market, found)
    np.testing.assert_allclose(paid.carbon, 0.2 * kg.prosumers, atol=1e-9)
    np.testing.assert_allclose(paid.passive_carbon, 0.2 * kg.passive, atol=1e-9)
    out = paid.prosumers.sum() + paid.passive.sum() + paid.passive_caps.sum()
    out += paid.passive_carbon.sum()
    assert float(out - (paid.sales + paid.receipts + paid.levies).sum()) == pytest.approx(
        0, abs=1e-9
    )
    lines = {line.what: line for line in jg.household_bill(market, found, 1).lines}
    assert lines["carbon"].quantity == pytest.approx(float(kg.prosumers[1].sum()))
    assert lines["carbon"].price == pytest.approx(0.2)


@pytest.mark.parametrize("rule", ["equal", "load", "history", "own"])
def test_allowances_are_traded_at_a_sum_of_nothing(rule: Any):
    """Payments sum to what the cap's price collects less what is handed out, by any rule."""
    market = counted(neighbors(), 6.4)
    found, numbers = cleared(market), None
    if rule in ("history", "own"):
        numbers = [3.0, 2.0, 1.4] if rule == "own" else [3.0, 1.0]
    handed = emissions.allowances(market, found, rule, numbers=numbers)
    paid = jg.settle(market, found)
    collected = float(paid.carbon.sum() + paid.passive_carbon.sum())
    assert float(handed.left) == pytest.approx(collected - float(handed.price) * 6.4, abs=1e-9)
    assert float(handed.paid.sum() + handed.passive_paid) == pytest.approx(0.0, abs=1e-8)
    bill, plain = (jg.household_bill(market, found, 0, allowances=a) for a in (handed, None))
    own = float(paid.carbon[0].sum())
    assert bill.total - plain.total == pytest.approx(float(handed.paid[0]) - own, abs=1e-9)
    assert "passive load" in str(handed)


def test_branches_have_allowances_each():
    """As many on each path; what they are worth is expected. Calls of a reserve need none.

    Both draw 0.5 kW more three times in four: there the unit saves 0.25 EUR/kg.
    """
    more = eqx.tree_at(lambda m: m.prosumers.load, neighbors(), neighbors().prosumers.load + 0.5)
    days = [counted(day, 7.4) for day in (more, neighbors())]
    tree = jg.scenarios.tree(days, (0.75, 0.25), 0)
    handed = emissions.allowances(tree, cleared(tree))
    assert float(handed.price) == pytest.approx(0.75 * 0.25, rel=1e-6)
    assert float(handed.left) == pytest.approx(0.0, abs=1e-7)
    called = jg.with_reserve(counted(neighbors(), 6.4), up=0.5)
    handed = emissions.allowances(called, cleared(called))
    assert float(handed.given.sum()) == pytest.approx(6.4)
    assert float(handed.left) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("seed", [2, *(pytest.param(s, marks=pytest.mark.slow) for s in range(20))])
def test_random_markets_agree_with_the_oracle(seed: int):
    """Price and cap on any market: the oracle's potential, content conserved, budgets balanced."""
    market = random_market(seed, shape=SMALL)
    free = solve(market)
    if free.status != "solved":
        pytest.skip("there is no plan of it")
    rng = np.random.default_rng(seed)
    content: Any = {"grid": rng.uniform(0.2, 0.6, 4), "generators": rng.uniform(0.0, 0.3, 3)}
    content["generators"] = rng.uniform(0.0, 0.3, len(market.generators.owner))
    open_ = jg.capped(market, jg.caps.carbon(market, price=0.05, **content))
    found = cleared(open_, 1e-9)
    bill = float(found.certificate.scales.bill)
    value = float(model.potential(open_, found.plan))
    assert abs(value - solve(open_).potential) < 2e-6 * bill
    total = float(emissions.emissions_of(open_, found).total)
    tight = jg.capped(market, jg.caps.carbon(market, total - 0.02 * abs(total), **content))
    oracle = solve(tight)
    clearing = jg.clear(tight, jg.InteriorPoint(), tol=1e-9, runner="numpy", throw=False)
    assert bool(clearing.ok) == (oracle.status == "solved")
    if not clearing.ok:
        return
    assert abs(float(model.potential(tight, clearing.plan)) - oracle.potential) < 2e-6 * bill
    direct, used = (f(tight, clearing) for f in (emissions.emissions_of, emissions.embodied))
    sums = (np.asarray(a.prosumers).sum(axis=0) for a in (direct, used))
    np.testing.assert_allclose(*sums, atol=1e-9)
    assert abs(float(emissions.allowances(tight, clearing).left)) < 1e-6 * bill


def test_trades_carry_content_along():
    """The unit makes 6 kWh of 0.1 kg, with 0 bought: of these 4 stay, 2 go to the neighbor.

    That buys 2 kWh of 0.5 kg beside: its own kWh have (2 x 0.5 + 2 x 0.1) / 4 = 0.3 kg.
    """
    market = counted(neighbors(), 5.0)
    market = eqx.tree_at(lambda m: m.generators.linear, market, jnp.asarray([0.05]))
    found = cleared(market)
    used = emissions.embodied(market, found)
    np.testing.assert_allclose(used.content[:, 0], [0.1, 0.3], atol=1e-6)
    np.testing.assert_allclose(used.prosumers[:, 0], [0.4, 1.2], atol=1e-6)
    direct = emissions.emissions_of(market, found)
    np.testing.assert_allclose(direct.prosumers[:, 0], [0.6, 1.0], atol=1e-6)
    assert float(used.average[0]) == pytest.approx((1.6 + 0.5) / 9, rel=1e-6)


def test_emissions_fall_by_their_price_as_differences_say():
    """With a bent cost: the slope of emissions in the price, against clears to either side."""
    bent = eqx.tree_at(lambda m: m.generators.quadratic, neighbors(), jnp.asarray([0.01]))
    market, step = counted(bent, price=0.4), 1e-4

    def total(m: jg.Market, c: jg.Clearing) -> Any:
        return emissions.emissions_of(m, c).total

    slopes = jg.sensitivities(market, total, clearing=cleared(market, 1e-11))
    ends = [
        total(m, cleared(m, 1e-11)) for m in (counted(bent, price=0.4 + s * step) for s in (1, -1))
    ]
    slope = float((ends[0] - ends[1]) / (2 * step))
    assert slope < -1.0
    assert float(slopes.caps.price[0]) == pytest.approx(slope, rel=1e-5)


def test_folders_and_commands_know_carbon(tmp_path: Path):
    market = counted(neighbors(), 6.4)
    found = cleared(market)
    jg.save(tmp_path / "day", market, found)
    loaded, clearing = jg.load(tmp_path / "day")
    assert clearing is not None
    np.testing.assert_array_equal(loaded.caps.carbon, [1])
    out = tmp_path / "bills"
    words = [
        "bills",
        str(tmp_path / "day"),
        "--allowances",
        "load",
        "--no-baseline",
        "-o",
        str(out),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "allowances handed out" in (out / "0.csv").read_text()


def test_what_does_not_fit_is_said():
    market = counted(neighbors(), 6.4)
    found = cleared(market)
    wrong: Any = (
        ({"rule": "sun"}, "choose one of equal"),
        ({"rule": "own"}, "needs numbers="),
        ({"rule": "load", "numbers": [1.0, 1.0]}, "takes no numbers="),
        ({"rule": "own", "numbers": [1.0, 1.0]}, r"numbers sum to 2 kg, the limit is 6.4"),
        ({"rule": "history", "numbers": [1.0]}, "give 2, one a prosumer"),
        ({"cap": "sun"}, "there is no cap 'sun'"),
    )
    for options, words in wrong:
        with pytest.raises(ValueError, match=words):
            emissions.allowances(market, found, **options)
    with pytest.raises(ValueError, match="no cap of this market counts carbon"):
        emissions.emissions_of(neighbors(), cleared(neighbors()))
    with pytest.raises(ValueError, match="price=-1"):
        counted(neighbors(), price=-1.0)
    assert jg.validation.problems(
        eqx.tree_at(lambda m: m.caps.carbon, market, jnp.asarray([2]))
    ) == ["Caps.carbon row 0 ('carbon'): 2 is neither 0 nor 1."]
