"""Clearings on AC power flow equations: what they end at, by AC states and differences of these."""

from dataclasses import replace
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.acexact import AcExact, clear_ac, gradient
from jaxgne.acflow import drawn, flow
from jaxgne.model import mean_price
from jaxgne.record import changed
from tests import phased
from tests.nonlinear import local_optimum

WIDE: dict[str, Any] = {"voltage_min": 0.5, "voltage_max": 1.5}


def tight(seed: int) -> jg.Market:
    """A three-phase market in which the lowest voltage has to rise by a little."""
    market = phased.market(seed, voltage_min=0.5, voltage_max=1.5)
    volts = np.delete(np.asarray(clear_ac(market).flow.voltage), np.asarray(market.grid.feeder), 0)
    low = jnp.full_like(market.grid.voltage_min, volts.min() + 0.002)
    return replace(market, grid=replace(market.grid, voltage_min=low))


def energy(found: AcExact) -> np.ndarray:
    """What a kW costs at each bus, EUR/kWh: of the main grid, and what the bus adds."""
    answer = found.clearing
    price = mean_price(found.linear, answer.plan) + answer.prices.aggregate
    return np.asarray(price + answer.prices.exchange + answer.prices.bus)


@pytest.mark.parametrize("make", [lambda: jg.ieee37(8, hours=3), lambda: tight(3)])
def test_the_plan_is_an_ac_state_within_its_limits(make):
    """To rounding; the certificate's AC power flow, which is another call, agrees."""
    market = make()
    found = clear_ac(market)
    assert found.rounds <= 6 and float(found.clearing.certificate.error) <= 1e-6
    plan, grid = found.clearing.plan, market.grid
    state = flow(grid, *drawn(market, plan))
    for name in ("active", "reactive", "exchange"):
        np.testing.assert_allclose(getattr(plan, name), getattr(state, name), atol=1e-7)
    np.testing.assert_allclose(jnp.sqrt(plan.voltage), state.voltage, atol=1e-9)
    free = np.delete(np.arange(len(state.voltage)), np.asarray(grid.feeder))
    assert np.all(state.voltage[free] >= grid.voltage_min[free, None] - 1e-6)
    assert np.all(state.voltage[free] <= grid.voltage_max[free, None] + 1e-6)
    bought = found.clearing.aggregate - np.sum(plan.imports, 0) - np.sum(grid.passive, 0)
    np.testing.assert_allclose(bought, found.losses, atol=1e-7)


def test_batteries_that_cost_nothing_settle_by_how_losses_bend():
    """Without the bend of losses they change hours for ever; the answer's model is linear."""
    market = jg.synthetic(12, buses=12, hours=4)
    stores, tariff = market.buffers, market.tariff
    free = changed(stores, quadratic=0 * stores.quadratic, linear=0 * stores.linear)
    flat = changed(tariff, slope=0 * tariff.slope)
    found = clear_ac(changed(market, buffers=free, tariff=flat))
    assert found.rounds <= 4 and float(found.clearing.certificate.error) <= 1e-6
    assert found.linear.grid.tangent is not None and found.linear.grid.tangent.bend is None


def test_a_round_is_not_saved(tmp_path):
    """Files hold no bend, which would be lost in silence."""
    found = clear_ac(jg.ieee37(4, hours=2))
    about = found.linear.grid.tangent
    assert about is not None
    tangent = replace(about, bend=found.flow.active)
    bent = changed(found.linear, grid=changed(found.linear.grid, tangent=tangent))
    with pytest.raises(ValueError, match=r"save AcExact\.linear"):
        jg.save(tmp_path / "day", bent)


def test_without_limits_a_bus_is_dearer_by_its_marginal_losses():
    """By differences of AC power flows in kW drawn there: the price times 1 + dL/dp."""
    market = phased.market(3, voltage_min=0.5, voltage_max=1.5)
    found = clear_ac(market, tol=1e-8)
    active, reactive = drawn(market, found.clearing.plan)
    price = energy(found)
    bought = np.asarray(mean_price(found.linear, found.clearing.plan))
    for bus in (4, 9, active.shape[0] - 1):
        more, less = (
            flow(market.grid, active.at[bus].add(step), reactive).losses.sum(axis=0)
            for step in (1e-3, -1e-3)
        )
        marginal = np.asarray(more - less) / 2e-3
        np.testing.assert_allclose(price[bus], bought * (1 + marginal), rtol=1e-6)


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_price_is_what_a_kw_more_costs_all(seed: int):
    """The potential's difference when the passive load of a bus rises, a limit holding."""
    market = tight(seed)
    found = clear_ac(market, tol=1e-8)
    price, hour, bus = energy(found), 1, 7

    def worth(step: float) -> float:
        passive = market.grid.passive.at[bus, hour].add(step)
        moved = replace(market, grid=replace(market.grid, passive=passive))
        answer = clear_ac(moved, tol=1e-8)
        plain = replace(answer.linear, grid=replace(answer.linear.grid, tangent=None))
        return float(jg.model.potential(plain, answer.clearing.plan))

    difference = (worth(0.02) - worth(-0.02)) / 0.04
    np.testing.assert_allclose(difference, price[bus, hour], rtol=2e-4)


def test_what_cannot_be_cleared_so_is_refused():
    with pytest.raises(ValueError, match="copperplate has no grid"):
        clear_ac(jg.ieee37(5, hours=2, grid="copperplate"))
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda m: clear_ac(m).clearing.plan)(jg.ieee37(5, hours=2))
    with pytest.raises(jg.NotCleared, match="no local equilibrium of the AC game after 1 rounds"):
        clear_ac(jg.ieee37(8, hours=3), rounds=1)


def checked(seed: int) -> bool:
    """Whether a market with a voltage that binds has a plan; then it is another program's."""
    tree = phased.random_tree(seed, 6, 3)
    market = phased.market(seed, voltage_min=0.5, voltage_max=1.5)
    nodes, fed = int(tree.phases.sum()), int(tree.phases[0].sum())
    low = float(np.asarray(clear_ac(market).flow.voltage)[fed:nodes].min()) + 0.001
    limits = np.where(np.arange(market.grid.passive.shape[0]) < nodes, low, 0.3)
    market = replace(market, grid=replace(market.grid, voltage_min=jnp.asarray(limits)))
    try:
        found = clear_ac(market, tol=1e-8)
    except jg.NotCleared as stop:
        if "infeasible" not in str(stop):
            raise
        return False
    other = local_optimum(market, tree, low)
    plain = replace(found.linear, grid=replace(found.linear.grid, tangent=None))
    ours = float(jg.model.potential(plain, found.clearing.plan))
    assert ours == pytest.approx(other.potential, rel=1e-8)
    np.testing.assert_allclose(found.losses, other.losses, atol=1e-5)
    np.testing.assert_allclose(found.clearing.aggregate, other.decided["sigma"][0], atol=1e-4)
    assert other.lowest == pytest.approx(low, abs=1e-9)
    return True


def test_a_nonlinear_program_ends_at_the_same_plan():
    assert checked(3)


@pytest.mark.slow
def test_thirty_nonlinear_programs_end_at_the_same_plan():
    able = [checked(seed) for seed in range(20, 65)]
    print(f"{sum(able)} of {len(able)} have a plan")
    assert sum(able) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: phased.market(3, **WIDE), lambda: tight(3)])
def test_derivatives_are_differences_of_ac_clearings(make):
    """Along a random direction of each field; what is measured is unique."""

    def measure(market: jg.Market, answer: jg.Clearing) -> jax.Array:
        made = jnp.sum(answer.plan.generation**3) + jnp.sum(answer.aggregate**2)
        return made + jnp.sum(answer.prices.bus[5])

    market, rng = make(), np.random.default_rng(0)
    found = gradient(clear_ac(market, tol=1e-10), measure)
    for name, step in (
        ("prosumers.load", 1e-3), ("generators.linear", 1e-4), ("grid.resistance", 1e-7),
        ("grid.mutual_resistance", 1e-7), ("grid.voltage_min", 1e-5), ("grid.feeder_voltage", 1e-5),
    ):  # fmt: skip
        of = attrgetter(name)
        turn = jnp.asarray(rng.normal(size=of(market).shape)) * (of(market) != 0)

        def moved(size: float, of=of, turn=turn) -> float:
            other = eqx.tree_at(of, market, of(market) + size * turn)
            return float(measure(other, clear_ac(other, tol=1e-10).clearing))

        difference = (moved(step) - moved(-step)) / (2 * step)
        assert float(jnp.sum(of(found) * turn)) == pytest.approx(difference, rel=1e-3, abs=1e-6)
