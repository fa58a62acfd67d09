"""Clearings with margins: AC-safe wherever that can be, and honest where it cannot."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import acflow
from jaxgne.acsafe import with_margin
from tests.markets import feeder
from tests.stressed import KINDS, excess, relieved, stressed


@pytest.mark.parametrize("kind", KINDS)
def test_safe_where_plain_clearings_are_not(kind):
    """Within limits to 1e-4 pu and 0.1 %, and an equilibrium of the market with margins."""
    broken = 0
    for seed in range(3):
        market = stressed(kind, seed)
        broken += not bool(safety(market, jg.clear(market)).safe)
        found = jg.clear_ac_safe(market)
        flow = jg.ac_power_flow(market, found.clearing.plan)
        grid = market.grid
        assert float(flow.voltage.min()) >= float(grid.voltage_min.min()) - 1e-4
        assert float(flow.voltage.max()) <= float(grid.voltage_max.max()) + 1e-4
        assert bool(jnp.all(flow.current <= 1.001 * grid.rating[:, None]))
        again = jg.certify(found.market, found.clearing.plan, found.clearing.prices)
        assert float(again.error) <= 1e-6
        assert found.clearing.certificate.ac is not None
        assert bool(found.clearing.certificate.ac.safe)
        assert found.rounds <= 4
    assert broken >= (0 if kind == "sun" else 2)  # the linear model errs on the safe side of sun


def safety(market: jg.Market, clearing: jg.Clearing) -> acflow.Safety:
    assert clearing.certificate.ac is not None
    return clearing.certificate.ac


@pytest.mark.slow
def test_fifty_stressed_markets():
    """AC-safe where a plan can be, by another program's AC power flow; else it is refused."""
    print("\n| markets | can be AC-safe | plain clearing is | `clear_ac_safe` is |", end="")
    print(" worst violation before | after | rounds, mean (most) |")
    for kind in KINDS:
        able, plain, before, after, rounds = 0, 0, [], [], []
        for seed in range(17):
            share = np.random.default_rng(seed).uniform(0.1, 0.9)
            market = stressed(kind, 100 + seed, share)
            best = excess(market, relieved(market))
            if not best.within(1e-4, 1e-3):
                with pytest.raises(jg.NotCleared, match="infeasible"):
                    jg.clear_ac_safe(market)
                continue
            if best.share > -1e-3:  # one margin for all hours cannot spare so little
                continue
            able += 1
            before.append(excess(market, jg.clear(market).plan))
            plain += before[-1].within(1e-4, 1e-3)
            found = jg.clear_ac_safe(market)
            after.append(excess(market, found.clearing.plan))
            assert after[-1].within(1e-4, 1e-3)
            rounds.append(found.rounds)
        worst = [np.max(some, axis=0, initial=0.0) for some in (before, after)]
        told = " | ".join(f"{volts:.5f} pu, {100 * share:.2f} %" for volts, share in worst)
        print(f"| {kind} | {able} of 17 | {plain} | {len(after)} | {told} |", end="")
        print(f" {np.mean(rounds):.1f} ({max(rounds)}) |")


def test_half_way_back():
    """All relief there is leaves 2e-5 pu: the first margin is too wide, a narrower one is not."""
    market = stressed("low voltage", 1, 0.5)
    lowest = jg.ac_power_flow(market, relieved(market)).voltage.min()
    edge = eqx.tree_at(lambda m: m.grid.voltage_min, market, jnp.full(5, lowest - 2e-5))
    found = jg.clear_ac_safe(edge)
    assert excess(edge, found.clearing.plan).within(1e-4, 1e-3)
    assert 2 < found.rounds <= 8


def test_a_margin_tightens_all_limits():
    market = feeder(rating=40.0)
    tight = with_margin(market, voltage=0.01, loading=0.25)
    np.testing.assert_allclose(tight.grid.voltage_min, 0.96)
    np.testing.assert_allclose(tight.grid.voltage_max, 1.04)
    np.testing.assert_allclose(tight.grid.rating, 32.0)
    narrow = with_margin(market, voltage=0.2)
    np.testing.assert_allclose(narrow.grid.voltage_min, narrow.grid.voltage_max)


def test_it_says_why_not():
    """Passive load alone breaks the limit on the AC grid, though not in the linear model."""
    market = feeder()
    grid = jg.Grid([[0.0], [60.0]], [0], [1], 4e-4, 3e-4, rating=60.0)
    people = jg.Prosumers([1], [[0.0]])
    stuck = jg.Market(people, grid, jg.Tariff(0.001, hours=1))
    assert bool(jg.clear(stuck).ok)
    with pytest.raises(jg.NotCleared, match=r"(?s)not AC-safe.*Wider.*infeasible.*rating"):
        jg.clear_ac_safe(stuck)
    far = jg.Grid([[0.0], [0.0]], [0], [1], 1e-4, 1e-2, voltage_min=0.1)
    heavy = jg.Market(jg.Prosumers([1], [[100.0]]), far, jg.Tariff(0.001, hours=1))
    with pytest.raises(jg.NotCleared, match="does not converge"):
        jg.clear_ac_safe(heavy)
    with pytest.raises(ValueError, match="copperplate has no grid"):
        jg.clear_ac_safe(eqx.tree_at(lambda m: m.grid, market, flat(market)))
    with pytest.raises(TypeError, match="host"):
        jax.jit(lambda m: jg.clear_ac_safe(m).clearing)(market)


def flat(market: jg.Market) -> jg.Grid:
    return jg.Grid(market.grid.passive, model="copperplate")
