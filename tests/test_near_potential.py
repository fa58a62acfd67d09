"""Near-potential games: nobody saves where slopes are one, no more than bounds say where not."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

import jaxgne as jg
from jaxgne.near_potential import bounds, distance, regrets, settled
from jaxgne.plan import aggregate

from .markets import feeder, lone_importer

TOL = 1e-9
SPREAD = 1 + 0.6 * np.array([[-1.0], [0.4], [1.0], [-0.4]])


def congested(behavior: float = 1.0) -> jg.Market:
    """A feeder whose first line is full in some hours, where the fourth prosumer may export."""
    market = feeder(rating=31.0, behavior=behavior)
    return eqx.tree_at(
        lambda m: (m.prosumers.export_max, m.prosumers.curtail_max, m.tariff.export),
        market,
        (jnp.zeros((4, 3)).at[3].set(5.0), jnp.zeros((4, 3)).at[2].set(6.0), jnp.full(3, 0.01)),
    )


def own(market: jg.Market) -> np.ndarray:
    """Slopes that differ by prosumer, (4, 3)."""
    return SPREAD * np.asarray(market.tariff.slope)


@pytest.fixture(scope="module")
def cleared() -> tuple[jg.Market, jg.Clearing]:
    market = congested()
    return market, jg.clear(market, tol=TOL)


def test_nobody_saves_where_the_game_has_a_potential(cleared: tuple):
    """The same slope for all, and all know their effect on the price."""
    market, found = cleared
    same = np.tile(np.asarray(market.tariff.slope), (4, 1))
    bill = float(jnp.sum(jnp.abs(found.costs)))
    assert np.abs(regrets(market, found, same, tol=TOL)).max() < 1e-6 * bill
    assert np.abs(bounds(market, found.plan, same)).max() == 0.0 == distance(market, same)


def test_regrets_are_those_of_an_independent_program(cleared: tuple):
    """Each prosumer's own convex program, written out by hand and solved by SciPy."""
    market, found = cleared
    slopes = own(market)
    saved = regrets(market, found, slopes, tol=TOL)
    for prosumer in range(4):
        cost, least = by_hand(market, found, slopes[prosumer], prosumer)
        assert saved[prosumer] == pytest.approx(cost - least, abs=2e-6)
    assert saved.max() > 1e-3


def by_hand(
    market: jg.Market, found: jg.Clearing, slope: np.ndarray, i: int
) -> tuple[float, float]:
    """What prosumer i pays for its plan, and the least it could, others and prices held.

    Columns, of three hours each: imports, exports, curtailed; generators; charge, discharge and
    content of buffers; power bought and sold in each of its pairs, as both are paid a toll for.
    """
    plan, prices, m, k = found.plan, found.prices, market.prosumers, market.buffers
    g, e, t = market.generators, market.trading, market.tariff
    at_bus = np.asarray(prices.bus)[int(m.bus[i])]
    shared = np.asarray(prices.aggregate) + at_bus
    others = np.asarray(aggregate(market, plan) - plan.imports[i])
    base = np.asarray(t.base) + slope * others + shared
    units, stores = np.flatnonzero(g.owner == i), np.flatnonzero(k.owner == i)
    pairs = np.flatnonzero((np.asarray(e.buyer) == i) | (np.asarray(e.seller) == i))
    columns: list[tuple[Any, ...]] = []  # value now, least, most, linear, quadratic, in balance
    zero = np.zeros(3)

    def add(now: Any, low: Any, high: Any, linear: Any, quadratic: Any, gives: float) -> None:
        columns.append(
            (now + zero, low + zero, high + zero, linear + zero, quadratic + zero, gives)
        )

    add(plan.imports[i], 0.0, m.import_max[i], base, slope, 1.0)
    add(plan.exports[i], 0.0, m.export_max[i], -np.asarray(t.export) - shared, 0.0, -1.0)
    add(plan.curtailed[i], 0.0, m.curtail_max[i], 0.0, 0.0, -1.0)
    for row in units:
        add(plan.generation[row], g.power_min[row], g.power_max[row], g.linear[row],
            g.quadratic[row], 1.0)  # fmt: skip
    first = len(columns)
    for row in stores:
        add(plan.charge[row], 0.0, k.charge_max[row], k.linear[row], k.quadratic[row], -1.0)
        add(plan.discharge[row], 0.0, k.discharge_max[row], k.linear[row], k.quadratic[row], 1.0)
        add(plan.energy[row], k.energy_min[row], k.energy_max[row], 0.0, 0.0, 0.0)
    for pair in pairs:
        buyer, seller = int(e.buyer[pair]), int(e.seller[pair])
        fees = e.fee_buyer[pair] + e.fee_seller[pair]
        mu = (prices.balance[buyer] + prices.balance[seller] - fees) / 2
        fee, sign = (e.fee_buyer, 1.0) if buyer == i else (e.fee_seller, -1.0)
        price, bought = np.asarray(fee[pair] + mu) + at_bus, sign * np.asarray(plan.trades[pair])
        for way in (1.0, -1.0):
            add(np.maximum(way * bought, 0.0), 0.0, e.limit[pair],
                way * price + np.asarray(e.toll[pair]), 0.0, way)  # fmt: skip
    now, low, high, linear, quadratic = (np.stack([c[n] for c in columns]) for n in range(5))
    gives = np.array([c[5] for c in columns])

    def cost(u: np.ndarray) -> float:
        u = u.reshape(now.shape)
        return float(np.sum(linear * u + quadratic * u**2))

    rows = [np.kron(gives, np.eye(3))]
    sides = [np.asarray(m.load[i])]
    for at, row in enumerate(stores):
        rates = np.zeros((3, len(columns), 3))
        charge = first + 3 * at
        rates[:, charge] = -float(k.charge_efficiency[row, 0]) * np.eye(3)
        rates[:, charge + 1] = np.eye(3) / float(k.discharge_efficiency[row, 0])
        rates[:, charge + 2] = np.eye(3) - float(k.retention[row, 0]) * np.eye(3, k=-1)
        rows.append(rates.reshape(3, -1))
        sides.append(np.array([float(k.retention[row, 0] * k.energy_start[row]), 0.0, 0.0]))
    matrix, side = np.concatenate(rows), np.concatenate(sides)
    balanced = LinearConstraint(matrix, side, side)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(matrix @ now.ravel(), side, atol=1e-6)
    answer = minimize(
        cost, np.clip(now, low, np.minimum(high, 1e3)).ravel(),
        jac=lambda u: (linear + 2 * quadratic * u.reshape(now.shape)).ravel(), method="SLSQP",
        bounds=list(zip(low.ravel(), np.minimum(high, 1e3).ravel(), strict=True)),
        constraints=balanced, options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    assert answer.success, answer.message
    return cost(now.ravel()), float(answer.fun)


@pytest.mark.parametrize("behavior", [1.0, 0.0, 0.5])
def test_no_regret_is_above_its_bound(behavior: float):
    """And no bound above the distance; so it is too where all take prices at one slope."""
    market = congested(behavior)
    found = jg.clear(market, tol=TOL)
    same = np.tile(np.asarray(market.tariff.slope), (4, 1))
    for slopes in (own(market), same):
        saved, most = regrets(market, found, slopes, tol=TOL), bounds(market, found.plan, slopes)
        assert (saved > -1e-7).all() and (saved <= most + 1e-7).all()
        assert most.max() <= distance(market, slopes)
    assert behavior == 1.0 or saved.max() > 1e-5


def test_a_price_taker_with_an_elastic_load():
    """Of first worth 0.5, 0.05 less for each kW, at 0.2 + 0.01 D it uses D = 5 kW, and knew it its
    own effect 0.3 / 0.07 kW: it saves (0.05 / 2 + 0.01) of their difference squared; by the bound
    at most 0.01 / 2 of its import squared."""
    market = lone_importer(0.0, behavior=0.0)
    use = jg.devices.elastic(0, power=9.0, worth=0.5, slope=0.05, hours=1)
    market = eqx.tree_at(lambda m: m.generators, market, use)
    found = jg.clear(market, tol=TOL)
    slopes = np.full((1, 1), 0.01)
    assert regrets(market, found, slopes, tol=TOL)[0] == pytest.approx(
        0.035 * (5 - 0.3 / 0.07) ** 2, abs=1e-7
    )
    assert bounds(market, found.plan, slopes)[0] == pytest.approx(0.005 * 25, abs=1e-6)
    assert distance(market, slopes) == pytest.approx(0.005 * 81, abs=1e-9)
    assert settled(market, slopes, tol=TOL).clearing.aggregate[0] == pytest.approx(0.3 / 0.07)


def test_where_adders_stand_still_nobody_saves(cleared: tuple):
    """The equilibrium at own slopes, whose plan is another one."""
    market, found = cleared
    slopes = own(market)
    end = settled(market, slopes, tol=TOL)
    assert end.still and end.rounds < 30
    bill = float(jnp.sum(jnp.abs(found.costs)))
    assert np.abs(regrets(market, end.clearing, slopes, tol=1e-8)).max() < 1e-6 * bill
    assert float(jnp.abs(end.clearing.plan.imports - found.plan.imports).max()) > 0.1
    assert not settled(market, slopes, rounds=2, tol=TOL).still


def test_what_is_not_known_is_refused(cleared: tuple):
    """Before anything is cleared."""
    market, found = cleared
    with pytest.raises(ValueError, match=r"slopes have shape \(4,\); give one for each prosumer"):
        regrets(market, found, np.ones(4))
    with pytest.raises(ValueError, match="the slope of prosumer 1 is no number of at least 0"):
        bounds(market, found.plan, np.array([[1.0], [-1.0], [1.0], [np.nan]]))
    capped = jg.capped(market, jg.caps.ramp(market, 5.0))
    with pytest.raises(ValueError, match="distance: the market has caps; take one without"):
        distance(capped, np.ones((4, 1)))
