"""Bills cancel for any plan and prices, receipts are rent, and prices are worth what they say."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.devices._inverter import settled_at
from jaxgne.model import counted, mean_price, net_exchange, own_gradient, pull, toll
from jaxgne.runner import hosted
from jaxgne.settlement import bills, price_parts
from tests.golden import golden_market, names, needs_golden
from tests.markets import (
    GRIDS,
    HAND_MADE,
    SHAPES,
    anything,
    feeder,
    random_market,
    tight_inverter,
)
from tests.reference import solve

CLOSE = 1e-9
SEEDS = (10, 26)  # of random markets with inverters that earn


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from(GRIDS))
def test_transfers_cancel(seed, grid):
    """Whatever is paid is received, pair by pair and all together, for any plan and prices."""
    market = random_market(seed, shape=SHAPES[0], grid=grid)
    paid = bills(market, *anything(market, seed))
    np.testing.assert_allclose(np.asarray(paid.peers).sum(axis=0), 0.0, atol=1e-9)
    out = np.asarray(paid.prosumers).sum(axis=0) + np.asarray(paid.passive).sum(axis=0)
    np.testing.assert_allclose(out, np.asarray(paid.sales + paid.receipts), atol=1e-9)


TIGHT = [
    *("feeder with tight lines", "feeder with tight voltages"),
    *("exports", "many devices", "inverters"),
]


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(k, marks=() if "feeder" in k else pytest.mark.slow) for k in TIGHT),
        "paper feeder with reactive power",
    ],
)
def test_receipts_are_rent(kind):
    """At an equilibrium, on any gauge of the prices."""
    market = HAND_MADE[kind]()
    clearing = jg.clear(market, tol=CLOSE)
    same_rent(market, clearing)


@needs_golden
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if "congested" in n else pytest.mark.slow) for n in names()],
)
def test_receipts_are_rent_on_published_instances(name):
    market = golden_market(name)
    same_rent(market, jg.clear(market, tol=1e-8))


def worth_of_limits(market: jg.Market, clearing: jg.Clearing) -> np.ndarray:
    """Multipliers times limits, EUR by hour: of all that is not an inverter's owner's.

    How hard flows press on their discs, compensators, voltages and angles on their bounds, times
    what they are there; voltages at feeders, which lines begin at, count likewise. And tolls.
    """
    plan, price = clearing.plan, mean_price(market, clearing.plan)
    force = hosted(own_gradient)(market, plan, price)
    force = jax.tree.map(
        lambda a, b: np.asarray(a + b), force, hosted(pull)(market, clearing.prices)
    )
    home = np.asarray(settled_at(market))
    own = home != np.arange(len(home))
    worth = -(force.active * plan.active + force.reactive * plan.reactive)
    worth = worth[~own[np.asarray(market.grid.target)]].sum(axis=0)
    worth -= (force.compensation * plan.compensation)[~own].sum(axis=0)
    worth -= (force.voltage * plan.voltage + force.angle * plan.angle).sum(axis=0)
    total = clearing.prices.aggregate * net_exchange(market, plan)
    tolls = 2 * np.sum(np.asarray(toll(market)) / 2 * np.abs(plan.trades), axis=0)
    return np.asarray(worth + np.asarray(counted(market)) * total + tolls)


def same_rent(market: jg.Market, clearing: jg.Clearing) -> None:
    prices, shift = clearing.prices, 0.05 if market.grid.model.name != "copperplate" else 0.0
    moved = replace(
        prices,
        bus=prices.bus + shift,
        balance=prices.balance - shift,
        exchange=prices.exchange - shift,
    )
    paid, same = jg.settle(market, clearing), bills(market, clearing.plan, moved)
    bill = float(jnp.abs(paid.main_grid).sum() + jnp.abs(paid.passive_main_grid).sum())
    error = float(clearing.certificate.error) * 10 * bill + 1e-9 * bill
    assert float(jnp.abs(paid.receipts - paid.rent).max()) <= error
    np.testing.assert_allclose(paid.rent, worth_of_limits(market, clearing), atol=error)
    assert float(jnp.abs(same.receipts - paid.receipts).max()) <= error
    assert float(jnp.abs(same.rent - paid.rent).max()) <= error
    # trades settle at pi, which is on the gauge; what each pays in all is not
    shifted = np.asarray(market.hour_length) * shift * np.asarray(clearing.plan.trades)
    np.testing.assert_allclose(np.asarray(paid.trades - same.trades), shifted, atol=1e-9)
    np.testing.assert_allclose(paid.prosumers, same.prosumers, atol=error)


@pytest.mark.parametrize("seed", SEEDS)
def test_receipts_are_rent_with_inverters(seed: int):
    """Ratings of inverters bind, and are worth something to their owners alone."""
    market = random_market(seed, shape=SHAPES[0], grid="lindistflow")
    size = 0.8 * np.abs(np.asarray(market.prosumers.load)).max(axis=1)[:2] + 1
    market = jg.devices.inverter(market, [0, 1], size)
    clearing = jg.clear(market, tol=CLOSE)
    same_rent(market, clearing)
    assert float(jg.settle(market, clearing).reactive.min()) < -1e-3


def test_an_inverter_earns_what_its_kvar_are_worth_before_it():
    """8 kvar at the price of reactive power at the load's bus, and its 6 kW the price there.

    r = x, so that both prices are the same beyond the main grid's. At the inverter's own bus kvar
    have no price, as they are free until the rating binds, and kW are the cheaper by as much as one
    less of them leaves room for kvar.
    """
    market = tight_inverter()
    clearing = jg.clear(market, tol=CLOSE)
    paid, prices, plan = jg.settle(market, clearing), clearing.prices, clearing.plan
    assert np.asarray(settled_at(market)).tolist() == [0, 1, 1]
    kvar = float(plan.compensation[2, 0])
    assert kvar == pytest.approx(8.0, rel=1e-6)
    price = float(prices.bus_reactive[1, 0])
    assert price > 0.01 and abs(float(prices.bus_reactive[2, 0])) < 1e-8
    assert price == pytest.approx(float(prices.bus[1, 0] - prices.bus[0, 0]), rel=1e-6)
    assert np.asarray(paid.reactive)[:, 0] == pytest.approx([10 * price, -8 * price], rel=1e-6)
    bus = np.asarray(prices.bus)[:, 0]
    assert float(paid.congestion[1, 0]) == pytest.approx(-6 * bus[1], rel=1e-6)
    pressed = price * 10 / 8  # of the rating, EUR/kVA
    assert bus[2] - bus[1] == pytest.approx(-pressed * 6 / 10, rel=1e-5)


def test_who_owns_an_inverter():
    """A compensator of the operator, passive load beside, or a second prosumer: none of it pays."""
    market = tight_inverter()
    grid, people = market.grid, market.prosumers
    others = [
        replace(
            market, grid=replace(grid, compensation_max=jnp.full_like(grid.passive, 5.0)[:, :])
        ),
        replace(market, grid=replace(grid, passive=grid.passive.at[2].set(1.0))),
        replace(market, grid=replace(grid, resistance=grid.resistance.at[1].set(1e-4))),
        replace(market, grid=replace(grid, compensation_max=jnp.zeros_like(grid.passive))),
        replace(market, prosumers=replace(people, bus=jnp.full_like(people.bus, 2))),
    ]
    found = [np.asarray(settled_at(other)).tolist() for other in others]
    assert found == [[0, 1, 1], *[[0, 1, 2]] * 4]


def test_a_pair_settles_between_its_sides():
    """Two neighbors: 3 kW at 0.22, each pays the network 0.02 a kWh."""
    market = HAND_MADE["two neighbors"]()
    market = eqx.tree_at(lambda m: m.trading.toll, market, jnp.asarray([[0.02]]))
    paid = jg.settle(market, jg.clear(market, tol=CLOSE))
    made = 0.10 + 0.04 * 3.0  # the seller's marginal cost
    assert np.asarray(paid.trades) == pytest.approx(np.full((1, 1), 3 * (made + 0.02)), rel=1e-6)
    assert np.asarray(paid.tolls)[:, 0] == pytest.approx([0.06, 0.06], rel=1e-6)
    assert np.asarray(paid.prosumers).sum() == pytest.approx(0.12, rel=1e-5)


def potential(market: jg.Market) -> float:
    found = solve(market, tol=1e-11)
    assert found.status == "solved"
    return found.potential


def difference(market: jg.Market, where: Callable, change: Any, step: float = 1e-3) -> float:
    """Central difference of the potential as numbers of the market move along `change`."""
    up, down = (
        potential(eqx.tree_at(where, market, where(market) + sign * step * jnp.asarray(change)))
        for sign in (1, -1)
    )
    return (up - down) / (2 * step)


@pytest.mark.parametrize("kind", ["feeder with tight voltages", "paper feeder"])
def test_parts_of_a_price(kind):
    """The whole price is what one more kWh of passive load costs."""
    market = HAND_MADE[kind]()
    clearing = jg.clear(market, tol=CLOSE)
    parts = price_parts(market, clearing)
    whole = clearing.prices.bus + clearing.prices.aggregate + parts.energy
    np.testing.assert_allclose(parts.total, whole, atol=1e-12)
    scarce = parts.lines if kind == "paper feeder" else parts.voltage
    assert float(jnp.abs(scarce).max()) > 0.01
    for bus, hour in ((2, 1), (4, 0)):
        spot = jnp.zeros_like(market.grid.passive).at[bus, hour].set(1.0)
        worth = difference(market, lambda m: m.grid.passive, spot)
        assert worth == pytest.approx(float(parts.total[bus, hour]), rel=1e-4)


def far_load(**limits: Any) -> jg.Market:
    """A prosumer with a dear generator behind one line without reactive power; one hour."""
    most = {"total_max": limits.pop("total_max", np.inf)}
    return jg.Market(
        jg.Prosumers([1], [[30.0]]),
        jg.Grid([[5.0], [0.0]], [0], [1], 8e-4, 4e-4, **limits),
        jg.Tariff(0.002, hours=1, base=0.1, **most),
        jg.Generators([0], 20.0, hours=1, quadratic=0.004, linear=0.25),
    )


def test_what_each_part_is_worth():
    """Each limit alone makes its part of the price, of the size that loosening it saves."""
    cases = {
        "limit": (far_load(total_max=28.0), lambda m: m.tariff.total_max, 1.0),
        "lines": (far_load(rating=24.0), lambda m: m.grid.rating, 1.0),
        "voltage": (far_load(voltage_min=0.98), lambda m: m.grid.voltage_min, -1.0),
    }
    for part, (market, where, sign) in cases.items():
        found = price_parts(market, jg.clear(market, tol=CLOSE))
        parts = {name: float(getattr(found, name)[1, 0]) for name in cases}
        others = [value for name, value in parts.items() if name != part]
        assert max(map(abs, others)) < 1e-7
        assert parts[part] > 0.01
        saved = -difference(market, where, jnp.full(where(market).shape, sign), 1e-5)
        if part == "voltage":  # one kW more of flow lowers the square by 2 r, which has its price
            saved *= 2 * 8e-4 / (2 * 0.98)
        assert saved == pytest.approx(parts[part], rel=1e-3)


def test_parts_need_one_path():
    market = feeder("paper")
    wrong = eqx.tree_at(lambda m: m.grid.target, market, jnp.asarray([1, 2, 3, 3]))
    with pytest.raises(ValueError, match="radial grid"):
        price_parts(wrong, jg.clear(market))
