"""Clearings on AC power flow equations keep limits wherever a plan can, by another program."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.aclinear import about, eased, point_of, solved
from tests.stressed import KINDS, excess, relieved, stressed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_limits_are_kept_where_they_can_be(kind: str) -> None:
    """Seventeen markets; with all relief at once none could, where it is said that none can."""
    able, plain, worst, rounds = 0, 0, [], []
    for seed in range(17):
        share = np.random.default_rng(seed).uniform(0.1, 0.9)
        market = stressed(kind, 100 + seed, share)
        best = excess(market, relieved(market))
        if not best.within(1e-6, 1e-4):
            with pytest.raises(jg.NotCleared, match=r"infeasible: Grid\.(rating|voltage_min)"):
                jg.clear_ac(market)
            continue
        if best.share > -1e-3:  # relief at other buses spares it, which the linear model leaves out
            continue
        able += 1
        plain += excess(market, jg.clear(market).plan).within(2e-6, 1.1e-4)
        found = jg.clear_ac(market)
        worst.append(excess(market, found.clearing.plan))
        assert worst[-1].within(2e-6, 1.1e-4)
        rounds.append(found.rounds)
    most = np.max(worst, axis=0)
    print(f"\n| {kind} | {able} of 17 | {plain} | {most[0]:.1e} pu, {100 * most[1]:.1e} % ", end="")
    print(f"| {np.mean(rounds):.1f} ({max(rounds)}) |")


def edge(spare: float) -> jg.Market:
    """All relief there is leaves so many pu at the lowest bus."""
    market = stressed("low voltage", 1, 0.5)
    lowest = jg.ac_power_flow(market, relieved(market)).voltage.min()
    return eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(5, lowest - spare))


def test_limits_give_way_until_a_plan_keeps_them():
    """The model about the first plan's AC state has none, as its losses are those of that."""
    market = edge(2e-6)
    first = jg.clear(market, tol=1e-3)
    at = point_of(market, first.plan, first.prices)
    with pytest.raises(jg.NotCleared, match="infeasible"):
        jg.clear(about(market, at, solved(at, first, market)))
    found = jg.clear_ac(market)
    assert excess(market, found.clearing.plan).within(1e-6, 0.0)
    assert float(found.clearing.certificate.error) <= 1e-6


def test_limits_that_give_way_for_good_are_named():
    with pytest.raises(
        jg.NotCleared, match=r"by 2\.\de-05 pu.*infeasible: Grid\.voltage_min.*bus 4"
    ):
        jg.clear_ac(edge(-2e-5))


@pytest.mark.parametrize("kind", ["low voltage", "overload"])
def test_limits_give_way_by_a_share_of_what_is_missed(kind: str) -> None:
    """Where all of it, the AC state itself is a plan of the model about it."""
    market = stressed(kind, 2)
    idle = jg.clear(eqx.tree_at(lambda m: m.grid.rating, edge_free(market), jnp.full(4, jnp.inf)))
    at = point_of(market, idle.plan, idle.prices)
    state = solved(at, idle, market)
    linear, grid = about(market, at, state), market.grid
    half, whole = (eased(linear, state, share).grid for share in (0.5, 1.0))
    lowest = jnp.minimum(grid.voltage_min, state.voltage.min(axis=1))
    np.testing.assert_allclose(whole.voltage_min, lowest, rtol=1e-12)
    np.testing.assert_allclose(half.voltage_min, (grid.voltage_min + lowest) / 2, rtol=1e-12)
    carried = jnp.hypot(state.active, state.reactive)
    assert bool(jnp.all(carried <= whole.radius * (1 + 1e-12)))
    missed = carried > linear.grid.radius
    assert bool(jnp.any(missed) | jnp.any(lowest < grid.voltage_min))
    middle = (linear.grid.radius + carried) / 2
    np.testing.assert_allclose(half.radius, jnp.where(missed, middle, linear.grid.radius))


def edge_free(market: jg.Market) -> jg.Market:
    """The market without limits on voltages."""
    return eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(5, 0.5))
