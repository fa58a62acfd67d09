"""Reserve: by hand, against a program with reserve variables of devices, and called in earnest."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import jaxgne as jg
from jaxgne import model, reserve
from jaxgne.calls import at_steps
from jaxgne.record import changed
from jaxgne.settlement import bills
from tests.agreement import SOLVERS, check_agreement
from tests.infeasible import SMALL
from tests.markets import random_market
from tests.reference import solve

UP, DOWN, LASTS, CHANCE = np.array([0.0, 2.5, 2.0, 1.5]), 1.0, 0.5, 0.02


def cleared(market: jg.Market, tol: float = 1e-10) -> jg.Clearing:
    return jg.clear(market, jg.InteriorPoint(), tol=tol, runner="numpy")


def lone(unit: float = 5.0) -> jg.Market:
    """4 kW for two hours at 0.20 EUR/kWh, and a unit of 5 kW at 0.15."""
    return jg.Market(
        jg.Prosumers([0], [[4.0, 4.0]], export_max=9.0),
        jg.Grid([[1.0, 1.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.20, export=0.18),
        jg.Generators([0], unit, hours=2, linear=0.15),
    )


def pair(seed: int = 0) -> jg.Market:
    """Two houses behind a line: a unit, a battery, a trade; all costs linear, of random size."""
    rng, hours = np.random.default_rng(seed), 4
    base = rng.uniform(0.15, 0.4, hours)
    return jg.Market(
        jg.Prosumers([1, 1], rng.uniform(2.0, 4.0, (2, hours))),
        jg.Grid(np.array([[1.0] * hours, [0.5] * hours]), [0], [1], 1e-5, 1e-5, rating=8.5),
        jg.Tariff(0.0, hours=hours, base=base),
        jg.Generators([0], 3.0, hours=hours, linear=float(rng.uniform(0.25, 0.35))),
        jg.Buffers(
            [1], 2.0, 2.0, 5.0, 2.0, hours=hours, energy_min=0.5, charge_efficiency=0.9,
            discharge_efficiency=0.9, linear=0.01, final_value=0.25,
        ),
        jg.Trading([0], [1], 5.0),
    )  # fmt: skip


def held(market: jg.Market) -> jg.Market:
    return jg.with_reserve(market, up=UP, down=DOWN, duration=LASTS, probability=CHANCE)


def test_reserve_costs_what_is_forgone():
    """The unit sells 1 kW of its 5 at 0.18; 2 kW up leave it at 3, and buy 1 kW at 0.20.

    A kW of room more costs 0.05 EUR that it would have saved, less what the call saves: 0.05 as
    often as it comes. Sold to the grid it saves 0.03, so 1 kW of room costs 0.03.
    """
    for kw, price in ((2.0, 0.05), (0.5, 0.03)):
        market = jg.with_reserve(lone(), up=kw, probability=0.01)
        found = reserve.schedule(market, cleared(market))
        np.testing.assert_allclose(found.clearing.plan.generation, 5.0 - kw, atol=1e-6)
        np.testing.assert_allclose(found.generators_up, kw, atol=1e-6)
        np.testing.assert_allclose(found.price_up, price, atol=1e-6)
        np.testing.assert_allclose(found.income.sum(), 2 * kw * price, atol=1e-5)
        assert "hour 0: up " + f"{kw:.4g}" in str(found)


def test_energy_is_room_too():
    """A battery of 5 kW and 1 kWh gives 2 kW for half an hour at most, however strong it is."""
    market = lone(unit=0.0)
    store = jg.Buffers([0], 5.0, 5.0, 1.0, 1.0, hours=2, linear=0.3)
    market = changed(market, buffers=store)
    enough = jg.with_reserve(market, up=[2.0, 0.0], duration=0.5)
    assert bool(cleared(enough).ok)
    short = reserve.shortage(jg.with_reserve(market, up=[2.6, 0.0], duration=0.5))
    np.testing.assert_allclose(short.up, [0.6, 0.0], atol=1e-6)
    assert str(short) == "hour 0 (step 0): 0.6 kW of 2.6 kW reserve up are missing."


def by_devices(m: jg.Market) -> Any:
    """The same with variables for what each device holds, by HiGHS; all costs linear.

    For each hour g, charge c, discharge d, content x and import m; of a call up or down the change
    of the unit, and those of charge and discharge. The line bears what house and passive load draw
    behind it, before and in a call.
    """
    hours, g, k = 4, m.generators, m.buffers
    load = np.asarray(m.prosumers.load).sum(0)
    behind, rating = load + np.asarray(m.grid.passive)[1], float(m.grid.rating[0])
    own, wear, value = float(g.linear[0]), float(k.linear[0]), float(k.final_value[0])
    eta, out = float(k.charge_efficiency[0, 0]), float(k.discharge_efficiency[0, 0])
    price = np.asarray(m.tariff.base)
    calls = [("up", h) for h in range(hours) if UP[h] > 0] + [("down", h) for h in range(hours)]
    names = [f"{v}{h}" for h in range(hours) for v in "gcdxm"]
    names += [f"{v}{way}{h}" for way, h in calls for v in "gcd"]
    at = {name: i for i, name in enumerate(names)}
    cost = np.zeros(len(names))
    bounds: list[Any] = [(None, None)] * len(names)
    equal, side, less, most, asked = [], [], [], [], {}

    def row(**terms: float) -> np.ndarray:
        made = np.zeros(len(names))
        for name, number in terms.items():
            made[at[name]] += number
        return made

    constant = value * float(k.energy_start[0])
    for h in range(hours):
        cost[[at[f"{v}{h}"] for v in "gcdm"]] = own, wear, wear, price[h]
        for v, limit in (
            ("g", (0, 3)),
            ("c", (0, 2)),
            ("d", (0, 2)),
            ("x", (0.5, 5)),
            ("m", (0, None)),
        ):
            bounds[at[f"{v}{h}"]] = limit
        equal.append(row(**{f"g{h}": 1, f"d{h}": 1, f"c{h}": -1, f"m{h}": 1}))
        side.append(load[h])
        constant += price[h] * float(np.asarray(m.grid.passive)[:, h].sum())
        kept = {f"x{h}": 1.0, f"c{h}": -eta, f"d{h}": 1 / out} | ({f"x{h - 1}": -1.0} if h else {})
        equal.append(row(**kept))
        side.append(0.0 if h else float(k.energy_start[0]))
        draw = {f"g{h}": -1, f"d{h}": -1, f"c{h}": 1}
        less.append(row(**draw))
        most.append(rating - behind[h])
    cost[at["x3"]] -= value
    for way, h in calls:
        often = CHANCE * LASTS
        for v, limit in (("g", 3.0), ("c", 2.0), ("d", 2.0)):
            both = {f"{v}{h}": 1.0, f"{v}{way}{h}": 1.0}
            less += [row(**both), -row(**both)]
            most += [limit, 0.0]
        give = {f"g{way}{h}": 1.0, f"d{way}{h}": 1.0, f"c{way}{h}": -1.0}
        flow = {name: -number for name, number in give.items()}
        less.append(row(**flow, **{f"g{h}": -1, f"d{h}": -1, f"c{h}": 1}))
        most.append(rating - behind[h])
        drop = {f"c{h}": eta, f"c{way}{h}": eta, f"d{h}": -1 / out, f"d{way}{h}": -1 / out}
        ends = {name: LASTS * number for name, number in drop.items()} | {f"x{h}": 1.0}
        less += [row(**ends), -row(**ends)]
        most += [5.0, -0.5]
        asked[way, h] = len(less)
        less.append(-row(**give) if way == "up" else row(**give))
        most.append(-UP[h] if way == "up" else -DOWN)
        less.append(row(**give, **{f"m{h}": -1.0}))  # nothing is sold to the main grid
        most.append(0.0)
        for v, eur in (("g", own), ("c", wear), ("d", wear), ("m", price[h])):
            cost[at[f"{v}{h}"]] += often * eur
            if v != "m":
                cost[at[f"{v}{way}{h}"]] += often * eur
        for name, number in give.items():
            cost[at[name]] -= often * price[h] * number
        for name, number in drop.items():
            cost[at[name]] -= CHANCE * LASTS * value * number
        constant += often * price[h] * float(np.asarray(m.grid.passive)[:, h].sum())
    found = linprog(
        cost, np.array(less), np.array(most), np.array(equal), np.array(side), bounds,
        method="highs",
    )  # fmt: skip
    prices = {key: -found.ineqlin.marginals[i] for key, i in asked.items()} if found.success else {}
    return found.status, constant + (found.fun or 0.0), prices


@pytest.mark.parametrize("seed", range(6))
def test_calls_are_reserve_variables_of_devices(seed: int):
    """The same least cost; prices are slopes, or between those to either side."""
    market = pair(seed)
    status, least, prices = by_devices(market)
    found = jg.clear(held(market), jg.InteriorPoint(), tol=1e-10, runner="numpy", throw=False)
    assert bool(found.ok) == (status == 0)
    if not found.ok:
        return
    assert float(model.potential(held(market), found.plan)) == pytest.approx(least, abs=1e-6)
    got = reserve.schedule(held(market), found)
    assert float(solve(held(market)).potential) == pytest.approx(least, abs=1e-6)
    paid = float(got.price_up @ UP + got.price_down.sum() * DOWN)
    assert float(got.income.sum()) == pytest.approx(paid, abs=1e-5)
    ours = {"up": np.asarray(got.price_up), "down": np.asarray(got.price_down)}
    off = [abs(ours[way][h] - price) > 1e-7 for (way, h), price in prices.items()]
    assert sum(off) <= 2  # where one hour has a kink, both of its prices move together


@pytest.mark.parametrize("seed", [1, 4])
def test_prices_are_slopes_of_the_potential(seed: int):
    """By the requirement of each hour; where that has a kink, between those to either side."""
    market, step = pair(seed), 1e-4
    found = reserve.schedule(held(market), cleared(held(market)))
    here = solve(held(market)).potential
    for h in range(4):
        for word, price in (("up", found.price_up), ("down", found.price_down)):
            asked = {"up": UP.copy(), "down": np.full(4, DOWN)}
            if asked[word][h] == 0:
                continue
            sides = []
            for sign in (1, -1):
                there = {name: kw.copy() for name, kw in asked.items()}
                there[word][h] += sign * step
                other = jg.with_reserve(market, **there, duration=LASTS, probability=CHANCE)
                sides.append(sign * (solve(other).potential - here) / step)
            assert min(sides) - 2e-4 < float(price[h]) < max(sides) + 2e-4, (word, h)


@pytest.mark.parametrize(
    "name", ["interior point", pytest.param("primal-dual", marks=pytest.mark.slow)]
)
def test_solvers_find_what_the_oracle_finds(name: str):
    """Rounds of the mechanism take too long where calls count so little."""
    market = held(pair(1))
    by, tol, most = SOLVERS[name]
    check_agreement(market, jg.clear(market, by, tol=tol, max_steps=most), solve(market))


@pytest.mark.parametrize("seed", [3, *(pytest.param(s, marks=pytest.mark.slow) for s in range(30))])
def test_random_markets_hold_what_the_oracle_says(seed: int):
    market = jg.with_reserve(random_market(seed, shape=SMALL), up=0.5, down=[0.0, 0.4, 0.4, 0.0])
    oracle = solve(market)
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-9, runner="numpy", throw=False)
    assert bool(found.ok) == (oracle.status == "solved")
    if found.ok:
        bill = float(found.certificate.scales.bill)
        value = float(model.potential(market, found.plan))
        assert abs(value - oracle.potential) < 2e-6 * bill
        return
    free = {f"rise_{end}": jnp.full_like(market.caps.rise_max, way * jnp.inf)
            for end, way in (("max", 1), ("min", -1))}  # fmt: skip
    if solve(changed(market, caps=changed(market.caps, **free))).status == "solved":
        short = reserve.shortage(market)
        assert float(short.up.sum() + short.down.sum()) > 1e-6
    else:
        with pytest.raises(ValueError, match="no plan lasts until calls are over"):
            reserve.shortage(market)


def test_branches_hold_reserve_each():
    """A tree of scenarios, with what is committed of it: calls by their step's probability."""
    market = pair(1)
    less = eqx.tree_at(lambda m: m.prosumers.load, market, market.prosumers.load * 0.95)
    apart = jg.scenarios.tree([market, less], (0.6, 0.4), 0)
    asked: Any = {"up": [0, 1, 1, 1] * 2, "duration": LASTS, "probability": CHANCE}
    tree = jg.with_reserve(apart, **asked)
    found = cleared(tree)
    value = float(model.potential(tree, found.plan))
    assert value == pytest.approx(solve(tree).potential, abs=1e-6)
    got = reserve.schedule(tree, found)
    assert got.market.before == apart.before
    np.testing.assert_allclose(got.up.sum(axis=0), asked["up"], atol=1e-6)
    np.testing.assert_allclose(np.asarray(tree.weight)[8:], [0.012] * 3 + [0.008] * 3)
    shared = jg.scenarios.committed([market, less], (0.6, 0.4), up=0.6, down=0.05)
    again = jg.with_reserve(shared, **asked)
    assert again.committed is not None and shared.committed is not None
    assert again.committed.moment == (*shared.committed.moment, *[-1] * 6)


@pytest.mark.parametrize("hour", [1, 3])
def test_a_call_can_be_met(hour: int):
    """The path to an hour as planned, then a step in which all draw so much less: it clears."""
    market = pair(1)
    found = reserve.schedule(held(market), cleared(held(market)))
    plan, at = found.clearing.plan, np.append(np.arange(hour + 1), hour)
    day = at_steps(market, at)
    met = np.asarray(model.net_exchange(market, plan))[at]
    met[-1] -= UP[hour]
    fixed = np.asarray(plan.energy)[:, at]
    low, high = (np.array(getattr(day.buffers, f"energy_{end}")) for end in ("min", "max"))
    low[:, :-1], high[:, :-1] = fixed[:, :-1], fixed[:, :-1]
    day = eqx.tree_at(
        lambda m: (m.hour_length, m.tariff.total_min, m.tariff.total_max, m.buffers.energy_min,
                   m.buffers.energy_max),
        day,
        (jnp.append(jnp.ones(hour + 1), LASTS), jnp.asarray(met - 1e-3), jnp.asarray(met + 1e-3),
         jnp.asarray(low - 1e-3), jnp.asarray(high + 1e-3)),
    )  # fmt: skip
    called = jg.clear(day, tol=1e-6, runner="numpy")
    assert float(called.plan.active[0].max()) <= 8.5 + 1e-3
    assert float(model.net_exchange(day, called.plan)[-1]) == pytest.approx(met[-1], abs=2e-3)


def test_money_is_that_of_the_whole_tree():
    """Bills by the requirement's price are bills of energy less what reserve earns; all cancel."""
    market = held(pair(1))
    found = cleared(market)
    got = reserve.schedule(market, found)
    whole = bills(market, found.plan, found.prices).prosumers.sum(axis=1)
    energy = bills(*reserve.without(market, found.plan, found.prices)).prosumers.sum(axis=1)
    np.testing.assert_allclose(whole, energy - got.income.sum(axis=1), atol=1e-6)
    for payer in reserve.Payer.__args__:
        paid = reserve.payments(got, payer)
        left = paid.income.sum(0) - paid.prosumers.sum(0) - paid.passive.sum(0) - paid.operator
        np.testing.assert_allclose(left, 0.0, atol=1e-12)
    assert float(reserve.payments(got, "load").operator.sum()) == 0.0
    np.testing.assert_allclose(got.buffers_up.sum(0) + got.generators_up.sum(0), got.up.sum(0))
    assert "prosumer" in str(got.clearing)
    assert jg.indicators.summary(got.market, got.clearing)["bill_eur"]["total"] is not None
    own = jg.settle(got.market, got.clearing)
    assert float(own.receipts.sum()) == pytest.approx(float(own.rent.sum()), abs=1e-5)


def test_content_is_worth_the_same_with_calls():
    """Calls for next to nothing, on a strong line: the plan, and what is left, as without any."""
    market = eqx.tree_at(lambda m: m.grid.rating, pair(2), jnp.asarray([50.0]))
    none = jg.with_reserve(market, up=1e-3, down=1e-3, duration=0.01, probability=0.05)
    plain, found = cleared(market), reserve.schedule(none, cleared(none, 1e-9))
    np.testing.assert_allclose(found.clearing.plan.energy, plain.plan.energy, atol=0.03)
    np.testing.assert_allclose(found.clearing.costs.sum(), plain.costs.sum(), atol=0.01)
    assert np.asarray(model.ended(none))[:4].tolist() == pytest.approx([-0.1] * 3 + [0.9])


def test_caps_of_the_horizon_do_not_count_calls():
    """Carbon, a ramp, a peak: as tight as without calls; a group's kW holds in them."""
    market = pair(1)
    market = jg.capped(
        market,
        jg.caps.carbon(market, 11.6, grid=0.4, generators=0.6),
        jg.caps.ramp(market, 3.0),
        jg.caps.total_demand_charge(market, 0.05),
        jg.caps.group(market, 1.5, of="charge"),
    )
    tree = held(market)
    assert jg.validation.problems(tree) == []
    found = cleared(tree)
    level = np.asarray(found.plan.level)
    np.testing.assert_allclose(level[0, 4:], level[0, np.array(tree.before)[4:]], atol=1e-6)
    np.testing.assert_allclose(level[2, 4:], level[2, np.array(tree.before)[4:]], atol=1e-6)
    assert level[3].max() <= 1.5 + 1e-6
    got = reserve.schedule(tree, found)
    assert got.market.caps.names == market.caps.names
    assert jg.Market is type(got.market)
    np.testing.assert_array_equal(got.market.caps.weight, market.caps.weight)


def test_what_is_away_stands_still():
    """A trip is made once; a tank that is drained goes on being so, by the length of a call."""
    market = pair(0)
    stores = market.buffers
    away = [[2.0, 0.0, 2.0, 2.0]]
    car = changed(stores, charge_max=jnp.asarray(away), discharge_max=jnp.asarray(away),
                  drain=jnp.asarray([[0.1, 0.8, 0.0, 0.0]]))  # fmt: skip
    tree = jg.with_reserve(changed(market, buffers=car), down=DOWN, duration=LASTS)
    np.testing.assert_allclose(tree.buffers.drain[0], [0.1, 0.8, 0, 0, 0.05, 0, 0, 0])


def test_half_a_call_leaks_half_as_long():
    """A heat pump in calls of half an hour is that of a market of half hours."""
    hours, outdoor = 4, [2.0, -3.0, 0.0, 5.0]
    house = {"power": 3.0, "cop": 3.0, "outdoor": outdoor, "resistance": 6.0, "capacity": 4.0}
    whole, half = (
        jg.devices.heat_pump([1], **house, hours=hours, hour_length=length) for length in (1.0, 0.5)
    )
    market = changed(pair(0), buffers=whole.made_for(None))
    called = jg.with_reserve(market, down=DOWN, duration=0.5).buffers
    for name in ("drain", "retention", "charge_efficiency", "energy_min"):
        full = np.broadcast_to(getattr(half, name), (1, hours))
        np.testing.assert_allclose(np.asarray(getattr(called, name))[:, 4:], full, rtol=1e-12)


def test_what_does_not_fit_is_said():
    market = pair(0)
    for options, words in (
        ({}, "nothing is asked"),
        ({"up": -1.0}, "up is -1 in step 0"),
        ({"up": [1.0, 2.0]}, "with_reserve: up"),
        ({"up": 1.0, "probability": 1.5}, "probability 1.5"),
        ({"up": 1.0, "duration": 0.0}, "duration is 0 in step 0; give numbers above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            jg.with_reserve(market, **options)
    with pytest.raises(ValueError, match="has reserve already"):
        jg.with_reserve(held(market), up=1.0)
    with pytest.raises(ValueError, match="no reserve; make it by"):
        reserve.shortage(market)
    both = jg.scenarios.stack([held(market)] * 2)
    for each in (jg.with_reserve, reserve.shortage):
        with pytest.raises(ValueError, match="takes one market, this one has a leading axis of 2"):
            each(both)
    with pytest.raises(ValueError, match="neither"):
        reserve.payments(reserve.schedule(held(market), cleared(held(market))), "sun")  # pyright: ignore
