"""Devices at buses of their own: a car on another phase than the house, panels on all three."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.acflow import drawn
from jaxgne.model import (
    at_prosumers,
    device_prices,
    in_zones,
    moved,
    pull,
    rows,
    rows_like,
    weights,
    zeros,
    zone_slopes,
)
from jaxgne.padding import pad
from jaxgne.phases import by_phase
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from jaxgne.solvers.newton import Compliance, Worth, factor
from jaxgne.tables import device_buses
from tests import phased
from tests.agreement import check_agreement
from tests.folders import feeder, same
from tests.reference import solve

TOL = 1e-9


def apart(seed: int, market: jg.Market | None = None) -> jg.Market:
    """A market of `phased` with devices anywhere but on feeders; one is with its owner."""
    market = phased.market(seed) if market is None else market
    rng = np.random.default_rng(seed)
    made = np.array([rng.integers(3, market.grid.passive.shape[0]), -1], np.int32)
    kept = rng.integers(3, market.grid.passive.shape[0], 2).astype(np.int32)
    return changed(
        market,
        generators=changed(market.generators, bus=jnp.asarray(made)),
        buffers=changed(market.buffers, bus=jnp.asarray(kept)),
    )


def street(**limits: Any) -> jg.Market:
    """Two buses behind a feeder, four houses on a, b, a and c of them, three hours.

    The first house has panels on three phases and a car on c, where a conductor is full; the third
    a battery on b, where the voltage is low; the last a unit where it is itself.
    """
    shape = np.full((3, 3), 0.2) + 0.8 * np.eye(3)
    z = np.stack([3e-4 * (shape + 0.7j * shape), 5e-4 * (shape + 0.7j * shape)])
    passive = np.zeros((3, 3, 3))
    passive[2] = [[3.0, 3.0, 3.0], [14.0, 20.0, 16.0], [4.0, 2.0, 4.0]]
    grid = by_phase(
        np.ones((3, 3), bool), np.arange(2), np.arange(1, 3), z.real, z.imag, hours=3,
        passive=passive, passive_reactive=0.2 * passive,
        spans=[(1, "abc"), (2, "ab")], span_passive=1.0,
        rating=[[100.0, 100.0, 9.5], [np.inf] * 3], voltage_min=0.985, voltage_max=1.05,
        **limits,
    )  # fmt: skip
    at = {name: row for row, name in enumerate(grid.names)}
    return jg.Market(
        jg.Prosumers(
            [at["1.a"], at["1.b"], at["2.a"], at["2.c"]],
            [[3.0, 2.0, 4.0], [2.0, 3.0, 2.0], [4.0, 4.0, 5.0], [3.0, 2.0, 3.0]],
            0.3, export_max=20.0,
        ),
        grid,
        jg.Tariff(2e-3, hours=3, base=[0.2, 0.3, 0.25], export=0.05),
        jg.Generators(
            [0, 3], [[4.0, 9.0, 6.0], [8.0, 8.0, 8.0]], hours=3, quadratic=[1e-3, 6e-3],
            linear=[0.0, 0.25], bus=[at["1.abc"], -1], kind=["photovoltaic", "generator"],
        ),
        jg.Buffers(
            [0, 2], [[7.0] * 3, [6.0] * 3], [[0.0] * 3, [6.0] * 3], [20.0, 9.0], [2.0, 4.5],
            hours=3, energy_min=[[0.0, 0.0, 15.0], [0.0, 0.0, 4.5]], charge_efficiency=0.95,
            discharge_efficiency=0.95, quadratic=1e-3, bus=[at["1.c"], at["2.b"]],
            kind=["vehicle", "battery"],
        ),
        jg.Trading([0, 1, 2], [1, 2, 3], 6.0, toll=0.005),
    )  # fmt: skip


def capped(market: jg.Market) -> jg.Market:
    """With a cap on what buffers draw together, which binds."""
    return jg.capped(market, jg.caps.group(market, 9.0, of={"charge": 1.0, "discharge": -1.0}))


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), tree)


def inner(one: Any, other: Any) -> float:
    parts = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return sum(float(np.vdot(a, b)) for a, b in parts)


def test_prices_pull_on_plans_as_rows_see_them():
    """<rows(u) - rows(0), w Ts y> is <u, pull(y)>."""
    market = apart(0)
    with by_numpy():
        here = to_host(market)
        plan, prices = (to_host(random_like(f(here), 1)) for f in (zeros, rows_like))
        seen = jax.tree.map(lambda a, b: a * b, moved(here, plan), weights(here))
        assert inner(seen, prices) == pytest.approx(inner(plan, pull(here, prices)), rel=1e-12)


def test_what_buses_draw_is_where_devices_are():
    """Loads and curtailment at the bus of the prosumer, each device at its own; all together n."""
    market = apart(1)
    plan = random_like(zeros(market), 0)
    plan = replace(plan, **{name: 0 * getattr(plan, name) for name in ("active", "exchange")})
    expected = np.array(market.grid.passive)
    for i, bus in enumerate(np.asarray(market.prosumers.bus).tolist()):
        expected[bus] += np.asarray(market.prosumers.load)[i] + plan.curtailed[i]
    for k, bus in enumerate(np.asarray(device_buses(market)[0]).tolist()):
        expected[bus] -= plan.generation[k]
    for k, bus in enumerate(np.asarray(device_buses(market)[1]).tolist()):
        expected[bus] += plan.charge[k] - plan.discharge[k]
    with by_numpy():
        here, still = to_host((market, replace(plan, reactive=0 * plan.reactive)))
        np.testing.assert_allclose(drawn(here, still)[0], expected, atol=1e-12)
        np.testing.assert_allclose(rows(here, still).bus, expected, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: apart(2), lambda: capped(street())], ids=["", "caps"])
def test_newton_solves_the_system(make: Callable[[], jg.Market]):
    """A theta A^T y of random y and theta, given to the structured system, comes back as y."""
    market = make()
    rng = np.random.default_rng(0)
    with by_numpy():
        here = to_host(market)
        plan, hour, zone = zeros(here), here.tariff.slope, zone_slopes(here)
        theta = jax.tree.map(lambda a: to_host(rng.uniform(0.1, 3.0, a.shape)), plan)
        theta = replace(theta, exchange=0 * plan.exchange)
        cross = 0.05 * theta.active
        total, net = (to_host(rng.uniform(0.1, 3.0, a.shape)) for a in (zone, hour))
        newton = factor(here, Compliance(theta, cross, total, net))
        y = random_like(rows_like(here), 1)
        fed = here.grid.feeder
        y = replace(y, bus=to_host(y.bus).at[fed].set(0.0), exchange=0 * hour, angle=0 * y.angle)
        y = replace(y, bus_reactive=to_host(y.bus_reactive).at[fed].set(0.0))
        price = to_host(rng.normal(size=zone.shape))
        # the response of each column to prices, and of rows to these
        force = pull(here, jax.tree.map(lambda a, b: a / b, to_host(y), weights(here)))
        force = replace(force, imports=force.imports + at_prosumers(here, price))
        answer = jax.tree.map(lambda a, b: a * b, theta, force)
        answer = replace(
            answer,
            active=answer.active + cross * force.reactive,
            reactive=answer.reactive + cross * force.active,
        )
        felt = moved(here, answer)
        felt = replace(felt, aggregate=felt.aggregate + net * y.aggregate)
        right = Worth(felt, in_zones(here, answer.imports) + total * price)
        found = newton(here, right)
        for name, value in vars(y).items():
            if value is not None:
                np.testing.assert_allclose(getattr(found.rows, name), value, atol=1e-6)
        np.testing.assert_allclose(found.total, price, atol=1e-6)


def split(market: jg.Market) -> jg.Market:
    """Each device given to a prosumer of its own at the device's bus, which its owner supplies.

    It draws nothing else, buys nothing of the main grid, and trades with the owner at no cost.
    """
    people, (made, kept) = market.prosumers, device_buses(market)
    more, count = len(made) + len(kept), people.load.shape[0]

    def longer(values: Any) -> Any:
        return jnp.concatenate([values, jnp.zeros((more, *values.shape[1:]), values.dtype)])

    fresh = jnp.arange(count, count + more)
    owners = jnp.concatenate([market.generators.owner, market.buffers.owner])
    pairs, free = market.trading, jnp.zeros((more, 1))
    none = jnp.full(len(made), -1), jnp.full(len(kept), -1)
    return jg.Market(
        jg.Prosumers(
            jnp.concatenate([people.bus, made, kept]),
            longer(people.load),
            longer(people.reactive),
            import_max=longer(people.import_max),
            export_max=longer(people.export_max),
            curtail_max=longer(people.curtail_max),
        ),
        market.grid,
        market.tariff,
        changed(market.generators, owner=fresh[: len(made)], bus=none[0]),
        changed(market.buffers, owner=fresh[len(made) :], bus=none[1]),
        jg.Trading(
            jnp.concatenate([pairs.buyer, owners]),
            jnp.concatenate([pairs.seller, fresh]),
            jnp.concatenate([jnp.broadcast_to(pairs.limit, (len(pairs.buyer), 1)), free + 1e3]),
            toll=jnp.concatenate([jnp.broadcast_to(pairs.toll, (len(pairs.buyer), 1)), free]),
        ),
        market.hour_length,
    )


def test_a_household_is_two_that_trade_for_nothing():
    """Its devices elsewhere do as those of a prosumer there who trades with it alone and freely:
    the same generation and storage, prices of buses, and total, also where lines are full.
    """
    market = street()
    one, two = (jg.clear(each, tol=TOL) for each in (market, split(market)))
    for name in ("generation", "charge", "discharge", "energy"):
        np.testing.assert_allclose(
            getattr(one.plan, name), getattr(two.plan, name), atol=2e-4, err_msg=name
        )
    np.testing.assert_allclose(one.aggregate, two.aggregate, atol=2e-4)
    np.testing.assert_allclose(one.prices.bus, two.prices.bus, atol=2e-4)
    count = market.prosumers.load.shape[0]
    np.testing.assert_allclose(one.prices.balance, two.prices.balance[:count], atol=2e-4)


def test_devices_see_the_price_where_they_are():
    """Strictly inside its bounds a generator's marginal cost is pi of its owner and mu_pb of its
    own bus, and bills and receipts cancel; the operator receives the rent.
    """
    market = street()
    clearing = jg.clear(market, tol=TOL)
    units, made = market.generators, np.asarray(clearing.plan.generation)
    inside = (made > 1e-3) & (made < np.asarray(units.power_max) - 1e-3)
    cost = np.asarray(units.linear + 2 * units.quadratic * made.T).T
    prices, _ = device_prices(market, clearing.prices)
    assert inside.any()
    np.testing.assert_allclose(np.asarray(prices)[inside], cost[inside], atol=1e-6)
    paid = jg.settle(market, clearing)
    left = jnp.sum(paid.prosumers) + jnp.sum(paid.passive)
    left -= jnp.sum(paid.sales + paid.receipts + paid.fees)
    assert abs(float(left)) < 1e-9
    np.testing.assert_allclose(paid.receipts, paid.rent, atol=1e-6)
    assert float(jnp.max(jnp.abs(paid.congestion))) > 1e-3


def spread(seed: int) -> jg.Market:
    """A random market in which much binds, with devices anywhere."""
    return apart(seed, phased.busy_market(seed))


def agrees(market: jg.Market) -> jg.Clearing:
    """Its clearing, which agrees with Clarabel on the program written from the equations."""
    oracle, clearing = solve(market), jg.clear(market, tol=TOL, throw=False, runner="numpy")
    assert oracle.status == ("solved" if clearing.ok else "infeasible")
    if clearing.ok:
        check_agreement(market, clearing, oracle)
        np.testing.assert_allclose(clearing.plan.charge, oracle.plan.charge, atol=1e-3)
    return clearing


@pytest.mark.parametrize("make", [street, lambda: capped(street())], ids=["street", "caps"])
def test_the_oracle_agrees(make: Callable[[], jg.Market]):
    """Of prices it has multipliers."""
    market = make()
    clearing = agrees(market)
    assert clearing.ok
    np.testing.assert_allclose(clearing.prices.bus, solve(market).prices.bus, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_random_markets_agree(seed: int):
    agrees(apart(seed, phased.busy_market(seed)))


@pytest.mark.slow
def test_a_hundred_random_markets_agree():
    cleared = [agrees(apart(seed, phased.busy_market(seed))).ok for seed in range(100, 200)]
    assert 10 < sum(map(bool, cleared)) < 100


@pytest.mark.slow
@pytest.mark.parametrize("solver", [jg.PrimalDual(), jg.SemiDecentralized()])
def test_other_solvers_agree(solver: Any):
    market = street()
    one, two = jg.clear(market, tol=TOL), jg.clear(market, solver, tol=1e-6)
    np.testing.assert_allclose(one.plan.generation, two.plan.generation, atol=2e-2)
    np.testing.assert_allclose(one.aggregate, two.aggregate, atol=2e-2)
    prices = [device_prices(market, clearing.prices)[1] for clearing in (one, two)]
    np.testing.assert_allclose(prices[0], prices[1], atol=1e-3)


def test_gradients_are_differences_of_clears():
    """By loads, ratings, costs and efficiencies, along a random direction."""
    market = street()

    def outcome(market: jg.Market, clearing: jg.Clearing) -> Any:
        made, kept = device_prices(market, clearing.prices)
        return jnp.sum(clearing.aggregate**2) + jnp.sum(made**2) + jnp.sum(kept**2)

    slopes = jg.sensitivities(market, outcome, clearing=jg.clear(market, tol=TOL))
    rng, step = np.random.default_rng(0), 1e-5

    def put(sign: float) -> tuple[jg.Market, float]:
        found, predicted = market, 0.0
        for table, field in (
            ("prosumers", "load"), ("generators", "linear"), ("generators", "quadratic"),
            ("buffers", "charge_efficiency"), ("buffers", "drain"), ("grid", "rating"),
            ("grid", "passive"), ("grid", "voltage_min"),
        ):  # fmt: skip
            here = getattr(found, table)
            value = np.asarray(getattr(here, field))
            way = rng.normal(size=value.shape) * np.minimum(np.abs(value), 1.0)
            slope = np.asarray(getattr(getattr(slopes, table), field))
            predicted += float(np.vdot(np.where(way != 0, slope, 0.0), way))
            more = changed(here, **{field: jnp.asarray(value + sign * step * way)})
            found = changed(found, **{table: more})
        return found, predicted

    ends = []
    for sign in (1.0, -1.0):
        rng = np.random.default_rng(0)
        there, predicted = put(sign)
        ends.append(float(outcome(there, jg.clear(there, tol=TOL))))
    assert predicted == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_the_bus_of_the_owner_is_no_other():
    """-1, and the owner's bus by its number, are the same; on grids of one phase bit by bit."""
    market = feeder()
    home = jnp.asarray(market.prosumers.bus)[market.generators.owner]
    said = changed(market, generators=changed(market.generators, bus=home))
    one, two = jg.clear(market), jg.clear(said)
    assert same((one.plan, one.prices), (two.plan, two.prices))
    moved_out = jg.devices.connection(said, rating=50.0)
    assert np.asarray(moved_out.generators.bus).tolist() == [-1]


def test_other_buses_need_three_phases():
    market = feeder()
    away = changed(market, generators=changed(market.generators, bus=jnp.array([2], jnp.int32)))
    told = r"Generators.bus row 0: bus 'Straße' is not its owner's bus 'bus, \"two\"', but lindist"
    with pytest.raises(ValueError, match=told):
        jg.clear(away)
    lost = apart(0)
    lost = changed(lost, buffers=changed(lost.buffers, bus=jnp.array([99, -1], jnp.int32)))
    with pytest.raises(ValueError, match=r"Buffers.bus row 0: bus 99 does not exist; the grid has"):
        jg.validate(lost)
    with pytest.raises(ValueError, match=r"Buffers.bus: shape \(2,\) does not fit; give one for"):
        jg.Buffers([0], 1.0, 1.0, 2.0, 1.0, hours=2, bus=[1, 2])


def test_devices_say_where_they_are():
    day: Any = {"hours": 24}
    stores = jg.devices.join(
        jg.devices.battery(0, power=5, capacity=10, **day),
        jg.devices.vehicle([1, 2], power=11, capacity=60, arrival=18, departure=7, bus=7, **day),
    )
    assert np.asarray(stores.bus).tolist() == [-1, 7, 7]
    used = jg.devices.elastic([0, 1], power=3, utility=jnp.log1p, pieces=2, bus=[4, 5], **day)
    assert np.asarray(used.bus).tolist() == [4, 4, 5, 5]


def test_files_keep_buses(tmp_path: Path):
    """A column that is there where a device is elsewhere, and read back; padding is at home."""
    market = apart(0)
    jg.save(tmp_path / "apart", market)
    assert "bus" in (tmp_path / "apart" / "buffers.csv").read_text().splitlines()[0].split(",")
    assert same(jg.io.load_market(tmp_path / "apart"), market)
    jg.save(tmp_path / "plain", phased.market(0))
    assert "bus" not in (tmp_path / "plain" / "buffers.csv").read_text()
    assert np.asarray(pad(market, buffers=4).buffers.bus)[2:].tolist() == [-1, -1]
