"""At a flat tariff total import is not unique: certificates say so, and a tie-break settles it."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.selection import select


def flat(slope: float = 0.0, base: float = 0.3) -> jg.Market:
    """8 kWh of load over four hours at one price, and a lossless battery of 2 kWh that must end
    as it began: it may charge in any hour.
    """
    return jg.Market(
        jg.Prosumers([0, 0], [[1.0, 2.0, 3.0, 1.0], [0.0, 0.0, 0.5, 0.5]]),
        jg.Grid([[0.0] * 4], model="copperplate"),
        jg.Tariff(slope, hours=4, base=base),
        buffers=jg.Buffers([0], 1.0, 1.0, 2.0, 1.0, hours=4, energy_min=[[0.0, 0.0, 0.0, 1.0]]),
        trading=jg.Trading([0], [1], 1.0, toll=0.01),
    )


def test_the_tie_break_levels_the_power_at_the_transformer():
    """Loads of 1, 2, 3.5 and 1.5 kW: the battery gives all it can, 1 kW, in hour 2, which leaves
    2.5, and takes that 1 kWh in the others, which makes each (1 + 2 + 1.5 + 1) / 3 kW.
    """
    market = flat()
    found = select(market, "import")
    s = np.asarray(found.aggregate) - np.asarray(found.plan.exports.sum(axis=0))
    np.testing.assert_allclose(s, [5.5 / 3, 5.5 / 3, 2.5, 5.5 / 3], atol=1e-3)
    other = select(market, "import", start=jg.clear(market, jg.PrimalDual()))
    np.testing.assert_allclose(other.aggregate, found.aggregate, atol=1e-3)
    assert bool(found.ok)


def test_a_flat_hour_is_said_where_something_may_move():
    market = flat()
    assert "total import need not be unique in 4 hours of a flat tariff" in str(jg.clear(market))
    assert "unique" not in str(jg.clear(flat(0.01)))
    still = jnp.zeros((1, 4))
    fixed = eqx.tree_at(
        lambda m: (m.buffers.charge_max, m.buffers.discharge_max), market, (still, still)
    )
    assert "unique" not in str(jg.clear(fixed))


@pytest.mark.filterwarnings("default")
def test_float32_says_what_it_cannot_tell():
    """10 kW of load, 9.9995 kW to be had: 5e-5 too little, which 1e-4 cannot tell from enough."""
    market = jg.Market(
        jg.Prosumers([0], np.array([[10.0]], np.float32)),
        jg.Grid(np.zeros((1, 1), np.float32), model="copperplate"),
        jg.Tariff(np.float32(0.01), hours=1, total_max=np.float32(9.9995)),
    )
    clearing = jg.clear(market, jg.PrimalDual(), throw=False)
    if bool(clearing.ok):
        assert "ones that are out of reach by less look the same" in str(clearing)
    wide = jg.clear(jg.market.cast(market, jnp.float64), throw=False)
    assert not bool(wide.ok)
