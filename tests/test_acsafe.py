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

KINDS = ("low voltage", "sun", "overload")


def stressed(kind: str, seed: int) -> jg.Market:
    """Five buses in a row of random loads, whose limits the linear model just meets.

    Generators at the ends can relieve lines and voltages at a price; surplus can be curtailed.
    """
    rng = np.random.default_rng(seed)
    buses, hours = 5, 3
    sun = kind == "sun"
    load = rng.uniform(10, 30, (4, hours)) * (-1.0 if sun else 1.0)
    size = 10 ** rng.uniform(-4.0, -3.6, (2, buses - 1))
    relief = np.abs(load)
    grid = {"voltage_max": 1.02} if sun else {"voltage_min": 0.97}
    if kind == "overload":
        grid = {"rating": 0.8 * np.cumsum(load.max(axis=1)[::-1])[::-1], "voltage_min": 0.8}
    return jg.Market(
        jg.Prosumers(
            np.arange(1, buses), load, 0.3 * np.abs(load),
            export_max=50.0 if sun else 0.0, curtail_max=relief if sun else 0.0,
        ),
        jg.Grid(np.zeros((buses, hours)), np.arange(buses - 1), np.arange(1, buses), *size, **grid),
        jg.Tariff(0.001, hours=hours, base=0.15, export=0.05),
        jg.Generators(np.arange(4), relief, hours=hours, quadratic=0.002, linear=0.3),
        trading=jg.Trading([0, 1, 2], [1, 2, 3], 5.0, charge=0.01),
    )  # fmt: skip


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
        assert bool(jnp.all(flow.apparent <= 1.001 * grid.rating[:, None]))
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
    """Every one ends AC-safe; how many plain clearings are, is printed."""
    plain = dict.fromkeys(KINDS, 0)
    for kind in KINDS:
        for seed in range(17):
            market = stressed(kind, 100 + seed)
            plain[kind] += bool(safety(market, jg.clear(market)).safe)
            assert bool(safety(market, jg.clear_ac_safe(market).clearing).safe)
    print(plain)


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
    with pytest.raises(jg.NotCleared, match=r"(?s)infeasible.*rating.*margins for the AC"):
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
