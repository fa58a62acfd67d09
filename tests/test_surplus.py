"""No feed-in for nothing: surplus at a price of 0 is curtailed, whoever solves the market."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.model import rows
from jaxgne.surplus import unsold
from tests.reference import solve

SUN = np.array([[0.0, 6.0, 8.0]])  # kW


def sunny(export: float = 0.0, model: Any = "lindistflow") -> jg.Market:
    """A roof at bus 2 whose neighbor at bus 1 takes 2 kW of it; 5 kW more at bus 1."""
    people = jg.Prosumers([2, 1], [[1.0] * 3, [2.0] * 3], import_max=30.0)
    return jg.Market(
        jg.devices.photovoltaic(people, 0, generation=SUN),
        jg.Grid(
            [[0.0] * 3, [5.0] * 3, [0.0] * 3], [0, 1], [1, 2], [2e-3, 1e-3], 1e-3, model=model,
            voltage_min=0.9, voltage_max=1.1,
        ),
        jg.Tariff(1e-3, hours=3, base=0.2, export=export),
        trading=jg.Trading([1], [0], limit=4.0, toll=0.01),
    )  # fmt: skip


@pytest.mark.parametrize(
    "model", ["copperplate", pytest.param("lindistflow", marks=pytest.mark.slow)]
)
def test_surplus_that_earns_nothing_is_curtailed(model):
    """Of 5 and 7 kW over 2 go to the neighbor, so 3 and 5 kW are left unused and none is sold."""
    market = sunny(model=model)
    clearing = jg.clear(market)
    np.testing.assert_allclose(clearing.plan.exports, 0.0, atol=1e-5)
    np.testing.assert_allclose(clearing.plan.curtailed, [[0, 3, 5], [0, 0, 0]], atol=1e-3)
    assert float(jg.certify(market, clearing.plan, clearing.prices).error) <= 1e-6
    assert float(clearing.costs.sum()) == pytest.approx(float(solve(market).costs.sum()), abs=1e-4)
    assert "not unique" not in str(clearing.certificate)


def test_curtailing_moves_what_the_grid_carries():
    """Any mixture of both becomes the same plan, whose rows all hold."""
    market = sunny()
    clearing = jg.clear(market)
    ladder = {}
    for kept in (0.0, 1.0, 2.0):  # kW sold in hour 1 and 2
        sold = jnp.asarray([[0.0, kept, kept], [0.0, 0.0, 0.0]])
        shifted = eqx.tree_at(
            lambda p: (p.exports, p.curtailed),
            clearing.plan,
            (clearing.plan.exports + sold, clearing.plan.curtailed - sold),
        )
        power, volt = sold[0], 2 * jnp.asarray([2e-3, 1e-3])[:, None] * sold[0]
        shifted = eqx.tree_at(
            lambda p: (p.active, p.voltage, p.exchange),
            shifted,
            (
                shifted.active - power,
                shifted.voltage.at[1:].add(jnp.cumsum(volt, axis=0)),
                shifted.exchange - power,
            ),
        )
        back = unsold(market, shifted, clearing.prices) if kept else clearing.plan
        assert back is not None
        ladder[kept] = back
        total = shifted.imports.sum(axis=0) + 5.0  # of which no limit is near
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9),
            rows(market, back),
            replace(rows(market, shifted), aggregate=total - back.exports.sum(axis=0)),
        )
    for plan in ladder.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), plan, clearing.plan)


def test_what_earns_or_holds_a_limit_is_sold():
    """At 0.01 EUR/kWh all is sold; for nothing, too, where the total may not exceed 2 kW."""
    paid = jg.clear(sunny(export=0.01))
    np.testing.assert_allclose(paid.plan.exports[0], [0, 3, 5], atol=1e-3)
    held = eqx.tree_at(lambda m: m.tariff.total_max, sunny(), jnp.asarray([np.inf, 3.0, np.inf]))
    sold = jg.clear(held)  # 5 kW of passive load, less 2 sold
    np.testing.assert_allclose(sold.plan.exports[0], [0, 2, 0], atol=1e-3)
    assert float(jg.certify(held, sold.plan, sold.prices).error) <= 1e-6


def test_what_is_not_unique_is_told():
    """Under jit, and on a grid of the paper, the certificate says what else the plan could be."""
    for clearing in (jax.jit(jg.clear)(sunny()), jg.clear(sunny(model="paper"))):
        words = str(clearing.certificate)
        assert "prosumer 0 sells for nothing what may be curtailed in hour" in words
        assert "exports and curtailment are not unique" in words
