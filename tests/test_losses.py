"""Losses of clearings on AC: by whom they are caused, what they cost, and what is handed back."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.acexact import AcExact, clear_ac
from jaxgne.acflow import drawn as drawn_at
from jaxgne.acflow import flow
from jaxgne.devices._inverter import settled_at
from jaxgne.losses import Rebate, Rule, loss_money, loss_shares, marginal_losses
from jaxgne.model import mean_price, own_gradient, pull
from jaxgne.record import changed
from jaxgne.runner import hosted
from jaxgne.settlement import price_parts
from tests import phased
from tests.markets import tight_inverter


@pytest.fixture(scope="module", params=["phased", "ieee37"])
def found(request: pytest.FixtureRequest) -> AcExact:
    """Cleared on AC; in three phases two devices are at other buses than their owner."""
    if request.param == "ieee37":
        return clear_ac(jg.ieee37(8, hours=3), tol=1e-8)
    market = phased.market(3, voltage_min=0.5, voltage_max=1.5)
    away = (jnp.array([9, -1], jnp.int32), jnp.array([-1, 4], jnp.int32))
    units, stores = (
        changed(table, bus=bus)
        for table, bus in zip((market.generators, market.buffers), away, strict=True)
    )
    return clear_ac(changed(market, generators=units, buffers=stores), tol=1e-8)


def around(found: AcExact, way: np.ndarray, step: float = 1e-4) -> tuple[np.ndarray, ...]:
    """Central differences of losses (H), squared voltages and currents, both powers by `way`."""
    active, reactive = drawn_at(found.market, found.clearing.plan)
    up, down = (
        flow(found.market.grid, active + sign * step * way[0], reactive + sign * step * way[1])
        for sign in (1, -1)
    )
    pairs = (
        (np.sum(up.losses, axis=0), np.sum(down.losses, axis=0)),
        (up.voltage**2, down.voltage**2),
        (up.current, down.current),
    )
    return tuple(np.asarray(a - b) / (2 * step) for a, b in pairs)


def test_marginal_losses_are_differences_of_ac_states(found: AcExact):
    """In random directions of all kW and kvar at once."""
    by_active, by_reactive = marginal_losses(found)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = rng.normal(size=(2, *by_active.shape))
        expected = np.sum(by_active * way[0] + by_reactive * way[1], axis=0)
        np.testing.assert_allclose(around(found, way)[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_shares_sum_to_the_losses(found: AcExact, rule: Rule):
    """Of all lines, in each step."""
    shares = loss_shares(found, rule)
    total = np.sum(shares.prosumers, axis=0) + np.sum(shares.passive, axis=0)
    np.testing.assert_allclose(total, found.losses * found.market.hour_length, atol=1e-9)


def by_loops(found: AcExact) -> tuple[np.ndarray, np.ndarray]:
    """Proportional sharing bus by bus and hour by hour, kW of prosumers and of rows of buses.

    From the feeder on, each bus hands what falls on it to who draws there and to lines that lead on
    (or to who feeds in and to lines that bring power, if its own line carries power inward).
    """
    market, state, grid = found.market, found.flow, found.market.grid
    rows, ends = grid.passive.shape[0], np.stack([grid.source, grid.target], axis=1)
    bus_of = np.arange(rows)
    if grid.model.phased:
        for bus, phases in enumerate(np.asarray(grid.phases)):
            bus_of[phases[phases >= 0]] = rows + bus
        for line in np.asarray(grid.terminal):
            bus_of[ends[line, 1]] = bus_of[ends[line, 0]]
    lines: dict[tuple[int, int], list[int]] = {}
    for line, (near, far) in enumerate(ends):
        if bus_of[near] != bus_of[far]:
            lines.setdefault((int(bus_of[near]), int(bus_of[far])), []).append(line)
    passive, plan = np.asarray(grid.passive), found.clearing.plan
    net: dict[tuple[int, int], np.ndarray] = {}  # of each, by the row where it draws
    for i, bus in enumerate(np.asarray(market.prosumers.bus).tolist()):
        net[i, bus] = np.asarray(market.prosumers.load + plan.curtailed)[i]
    powers = (-plan.generation, plan.charge - plan.discharge)
    for table, power in zip((market.generators, market.buffers), powers, strict=True):
        for k, owner in enumerate(np.asarray(table.owner).tolist()):
            bus = int(table.bus[k]) if grid.model.phased else -1
            place = owner, bus if bus >= 0 else int(market.prosumers.bus[owner])
            net[place] = net.get(place, 0.0) + np.asarray(power)[k]
    at = np.array([bus_of[bus] for _, bus in net])
    drawn = np.stack(list(net.values()))
    laid, other = np.zeros_like(drawn), np.zeros_like(passive)
    for h in range(passive.shape[1]):
        todo = [(int(bus_of[np.asarray(grid.feeder)[0]]), 0.0, 1)]
        while todo:
            bus, burden, way = todo.pop()
            sent = {}
            for (near, far), which in lines.items():
                if near == bus:
                    lost = float(np.sum(np.asarray(state.losses)[which, h]))
                    power = float(np.sum(np.asarray(state.active)[which, h]))
                    sent[far] = power, lost, 1 if power >= lost else -1
            people = np.where(at == bus, np.maximum(way * drawn[:, h], 0), 0)
            others = np.where(bus_of == bus, np.maximum(way * passive[:, h], 0), 0)
            on = sum(abs(p) for p, _, its in sent.values() if its == way)
            total = people.sum() + others.sum() + on
            part = burden / total if total > 0 else 0.0
            laid[:, h] += part * people
            other[:, h] += part * others
            for far, (power, lost, its) in sent.items():
                todo.append((far, lost + part * abs(power) * (its == way), its))
    own = np.zeros(market.prosumers.load.shape)
    np.add.at(own, [who for who, _ in net], laid)
    return own, other


def test_proportional_shares_by_loops(found: AcExact):
    """Written from the rule; nothing is left over, as some draw or feed in behind every line."""
    own, other = by_loops(found)
    np.testing.assert_allclose(own.sum(axis=0) + other.sum(axis=0), found.losses, rtol=1e-9)
    shares, hours = loss_shares(found, "proportional"), np.asarray(found.market.hour_length)
    np.testing.assert_allclose(shares.prosumers, hours * own, atol=1e-9)
    np.testing.assert_allclose(shares.passive, hours * other, atol=1e-9)


def test_the_operator_buys_the_losses_and_all_payments_cancel(found: AcExact):
    """Passive consumers pay for what they draw, the losses' kWh have the main grid's price."""
    paid, market = found.bills, found.market
    out = np.sum(paid.prosumers, axis=0) + np.sum(paid.passive, axis=0) + np.asarray(paid.losses)
    np.testing.assert_allclose(out, paid.sales + paid.receipts + paid.fees, atol=1e-9)
    price = mean_price(found.linear, found.clearing.plan) * market.hour_length
    np.testing.assert_allclose(paid.losses, price * found.losses, rtol=1e-9)
    np.testing.assert_allclose(paid.passive_main_grid, price * market.grid.passive, atol=1e-9)
    bought = np.sum(found.clearing.plan.imports, axis=0) + np.sum(market.grid.passive, axis=0)
    sold = market.tariff.export * np.sum(found.clearing.plan.exports, axis=0) * market.hour_length
    np.testing.assert_allclose(paid.sales, price * (bought + found.losses) - sold, atol=1e-6)
    assert float(jg.comparison.outcome(found.linear, found.clearing).operator) == pytest.approx(
        float(np.sum(paid.receipts - paid.losses))
    )


def congestion(found: AcExact) -> np.ndarray:
    """What limits are worth: multipliers times how squared voltages and currents move with load.

    Of that, what currents of inverters are at is their owners'; what voltages make of these is not.
    """
    market, plan, prices = found.linear, found.clearing.plan, found.clearing.prices
    price = mean_price(market, found.clearing.plan)
    own, others = hosted(own_gradient)(market, plan, price), hosted(pull)(market, prices)
    force = jax.tree.map(lambda a, b: np.array(a + b), own, others)
    force.voltage[np.asarray(market.grid.feeder)] = 0.0
    there = np.stack(drawn_at(found.market, plan))
    _, square, current = around(found, there)
    pressed = -np.asarray(force.active * plan.active + force.reactive * plan.reactive)
    grown = current / np.where(found.flow.current > 0, found.flow.current, 1.0)
    home = np.asarray(settled_at(market))
    inverters = (home != np.arange(len(home)))[np.asarray(market.grid.target)]
    lines = pressed * grown - pressed * inverters[:, None]
    return np.sum(-force.voltage * square, axis=0) + np.sum(lines, axis=0)


def split(found: AcExact) -> None:
    """Receipts less losses are tolls, the surplus of marginal losses, and what limits are worth."""
    paid, money = found.bills, loss_money(found)
    error = 10 * float(found.clearing.certificate.error) * float(jnp.abs(paid.sales).sum())
    np.testing.assert_allclose(paid.receipts - paid.losses, paid.rent, atol=error)
    limits = np.asarray(paid.rent - money.surplus - np.sum(paid.tolls, axis=0))
    scarce = np.asarray(found.clearing.prices.aggregate * found.clearing.aggregate)
    np.testing.assert_allclose(limits, congestion(found) + scarce, atol=error + 1e-7)


def test_receipts_are_losses_and_their_surplus(found: AcExact):
    """About twice the losses are paid: in all by what they grow with all that is drawn."""
    split(found)
    money, paid = loss_money(found), found.bills
    grown = around(found, np.stack(drawn_at(found.market, found.clearing.plan)))[0]
    price = mean_price(found.linear, found.clearing.plan) + found.clearing.prices.aggregate
    price = price * found.market.hour_length
    np.testing.assert_allclose(money.surplus, price * (grown - found.losses), rtol=1e-5)
    np.testing.assert_allclose(money.cost, paid.losses, rtol=1e-9)
    assert np.all(money.surplus > 0.9 * money.cost) and np.all(money.surplus < 1.2 * money.cost)


def test_a_limit_is_worth_what_is_left(found: AcExact):
    """The lowest voltage has to rise by a little."""
    grid = found.market.grid
    volts = np.delete(np.asarray(found.flow.voltage), np.asarray(grid.feeder), 0)
    low = jnp.full_like(grid.voltage_min, volts.min() + 2e-4)
    tight = changed(found.market, grid=changed(grid, voltage_min=low))
    answer = clear_ac(tight, tol=1e-8)
    split(answer)
    assert np.max(congestion(answer)) > 1e-3


@pytest.mark.slow
def test_an_inverter_is_paid_for_losses_it_saves():
    """And for the voltage that it holds; it relieves the line that its neighbor's load fills."""
    found = clear_ac(tight_inverter(), tol=1e-8)
    split(found)
    money, shares = loss_money(found), loss_shares(found)
    assert float(money.paid[1, 0]) < 0 and float(shares.prosumers[1, 0]) < 0
    kvar, price = found.clearing.plan.compensation[2], found.clearing.prices.bus_reactive[1]
    np.testing.assert_allclose(found.bills.reactive[1], -price * kvar, rtol=1e-9)


@pytest.mark.parametrize("rebate", get_args(Rebate))
def test_the_surplus_is_handed_back(found: AcExact, rebate: Rebate):
    """All of it; "as paid", each has paid for its share of the losses, and no more."""
    money = loss_money(found, rebate)
    back = np.sum(money.rebates, axis=0) + np.sum(money.passive_rebates, axis=0)
    np.testing.assert_allclose(back, money.surplus, atol=1e-9)
    if rebate == "as paid":
        shares = loss_shares(found, "marginal")
        price = mean_price(found.linear, found.clearing.plan)
        np.testing.assert_allclose(money.paid - money.rebates, price * shares.prosumers, atol=1e-7)


def test_what_losses_add_to_prices(found: AcExact):
    """Of a kWh at each bus, between phases too; lines and voltages add nothing."""
    parts = price_parts(found.linear, found.clearing)
    price = mean_price(found.linear, found.clearing.plan) + found.clearing.prices.aggregate
    np.testing.assert_allclose(parts.losses, price * marginal_losses(found)[0], atol=1e-7)
    np.testing.assert_allclose(parts.total, parts.energy + parts.limit + parts.losses, atol=1e-7)


def test_what_cannot_be_shared(found: AcExact):
    with pytest.raises(ValueError, match="choose one of marginal, proportional, equal"):
        loss_shares(found, "fair")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="choose one of by energy, as paid, by head"):
        loss_money(found, "kept")  # pyright: ignore[reportArgumentType]
    grid = found.market.grid
    looped = changed(found.market, grid=changed(grid, target=grid.target.at[-1].set(4)))
    with pytest.raises(ValueError, match=r"loss_shares: Grid.source/target: give a radial"):
        loss_shares(changed(found, market=looped), "proportional")
