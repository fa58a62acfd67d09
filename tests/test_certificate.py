"""The certificate has a sentence for every row and bound, and for every prosumer a guarantee."""

from dataclasses import fields, replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.model import PLAN_FIELDS, ROW_FIELDS, Plan, Rows, rows_like, zeros
from tests.markets import feeder

WRONG = {  # what moving an entry of a plan by 1e6 is called
    "generation": "kW, bounds on the power of generator 0 (prosumer 1)",
    "charge": "kW, bounds on the charging power of buffer 0 (prosumer 2)",
    "discharge": "kW, bounds on the discharging power of buffer 0 (prosumer 2)",
    "energy": "kWh, bounds on the content of buffer 0 (prosumer 2)",
    "imports": "kW, own balance of prosumer 0",  # without a bound
    "exports": "kW, bounds on the export of prosumer 0",
    "curtailed": "kW, bounds on the curtailment of prosumer 0",
    "trades": "kW, bounds on the trade of pair 0 (prosumers 0 and 1)",
    "active": "kVA above the rating of line 0",
    "reactive": "kVA above the rating of line 0",
    "voltage": "pu, bounds on the voltage of bus 0",
    "angle": "rad, bounds on the angle of bus 0",
    "compensation": "kvar, bounds on the compensation of bus 0",
    "exchange": "kW, exchange with the main grid",  # without a bound
    "level": "kW, bounds on the level of cap 'group'",
    "rise": "kW, level left by its rise of cap 'group'",  # without a bound
    "spare": "kW, bounds on the part of the level that no member makes of cap 'group'",
}


@pytest.fixture(scope="module")
def cleared() -> tuple[jg.Market, jg.Clearing]:
    market = feeder("paper", reactive_balance=True, rating=50.0)
    market = jg.capped(market, jg.caps.group(market, 1e3))
    return market, jg.clear(market)


def test_every_family_of_rows_and_every_bound_has_words():
    assert set(ROW_FIELDS) == {field.name for field in fields(Rows)}
    assert set(PLAN_FIELDS) == set(WRONG) == {field.name for field in fields(Plan)}
    every = (ROW_FIELDS | PLAN_FIELDS).values()
    assert all(field.means and (field.unit or field.row == "cap") for field in every)


@pytest.mark.parametrize("field", WRONG)
def test_whatever_leaves_its_bounds_is_named(field, cleared):
    market, clearing = cleared
    entry = getattr(clearing.plan, field)
    plan = replace(clearing.plan, **{field: entry.at[0, 1].add(1e6)})
    found = jg.certify(market, plan, clearing.prices)
    said = [sentence for sentence in found.violations() if WRONG[field] in sentence]
    assert len(said) == 1
    assert said[0].startswith("1.0e+06 ")
    assert said[0].endswith("hour 1")


@pytest.mark.parametrize("family", [field.name for field in fields(Rows)])
def test_every_family_of_rows_is_among_what_is_said(family, cleared):
    """A random plan misses every row but the limit on the total, which is 1 kW then."""
    market, clearing = cleared
    market = replace_total(market, 1.0)
    rng = np.random.default_rng(0)
    plan = jg.Plan(**{
        field.name: getattr(clearing.plan, field.name)
        + rng.uniform(1, 2, getattr(clearing.plan, field.name).shape)
        for field in fields(Plan)
    })  # fmt: skip
    said = jg.certify(market, plan, clearing.prices).violations()
    row = ROW_FIELDS[family]
    unit = "kW" if row.row == "cap" else row.unit
    assert any(f" {unit}, {row.means}" in sentence for sentence in said)


def replace_total(market: jg.Market, limit: float) -> jg.Market:
    return eqx.tree_at(lambda m: m.tariff.total_max, market, jnp.full(3, limit))


def test_squared_voltages_are_in_pu_squared():
    """Under lindistflow 1.5 pu^2 at a bus of at most 1.05 pu is 1.5 - 1.1025 too much."""
    market = feeder()
    plan = zeros(market)
    plan = replace(plan, voltage=plan.voltage + 1.5)
    said = jg.certify(market, plan, rows_like(market)).violations()
    assert any("5.0e-01 pu^2, bounds on the voltage of bus 0" in sentence for sentence in said)


def test_a_prosumer_is_judged_by_its_own_size():
    """1e5 kW and 1 kW at 0.3 EUR/kWh; the small one's import is 0.5 kW short and its price 0.2.

    It misses 0.5 kW of 1 kW; its price is 0.1 below 0.3, as an import of 0.5 kW shows.
    """
    market = jg.Market(
        jg.Prosumers([0, 0], [[1e5], [1.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.3),
    )
    plan = replace(zeros(market), imports=jnp.array([[1e5], [0.5]]))
    prices = replace(rows_like(market), balance=jnp.array([[0.3], [0.2]]))
    found = jg.certify(market, plan, prices)
    own = found.residuals.own
    assert own.size.tolist() == [1e5, 1.0]
    assert own.missed.tolist() == [0.0, 0.5]
    # natural residual: the least of 0.1, and of 0.5 kW at 0.3 EUR/kWh per kW of its size
    assert own.price[1] == pytest.approx(0.1)
    assert own.share[1] == pytest.approx(0.5)
    assert float(found.error) == pytest.approx(0.5 / 100, rel=1e-6)
    assert "by its own size prosumer 1 (1 kW) fares worst: within 5.0e-01 kW" in str(found)


def test_who_has_nothing_is_measured_by_the_market():
    """A trader without load or device is as far off as others, not 1e298 times its own size."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[2.0], [0.0]], import_max=10.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.3),
        trading=jg.Trading([0], [1], 5.0, toll=0.01),
    )
    found = jg.clear(market)
    plan = replace(found.plan, imports=found.plan.imports + 0.02)  # both are off by as much
    own = jg.certify(market, plan, found.prices).residuals.own
    np.testing.assert_allclose(own.missed, 0.02, rtol=1e-3)
    assert 1e-3 < float(own.share[1]) < 1.0
