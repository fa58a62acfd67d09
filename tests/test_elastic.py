"""Rows as a matrix, and what linear programs prove where the solvers come to no end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.elastic import proof
from jaxgne.feasibility import infeasibility_proof
from jaxgne.matrix import flat, linear
from tests.markets import ADVERSE, HAND_MADE, random_market
from tests.reference import solve

GRIDS = ("many devices", "feeder", "paper feeder", "paper feeder with reactive power", "exports")


@pytest.mark.parametrize("name", GRIDS)
def test_the_matrix_says_what_the_rows_say(name):
    """A u + c is `model.rows` at any plan, load, reactive load and content at the start."""
    market = HAND_MADE[name]()
    found, rng = linear(market), np.random.default_rng(1)
    hours = market.prosumers.load.shape[1]
    plan = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), jg.model.zeros(market))
    start = np.zeros((market.buffers.owner.shape[0], hours))
    start[:, 0] = rng.normal(size=len(start))
    load, reactive = rng.normal(size=(2, *market.prosumers.load.shape))
    there = jg.Market(
        jg.Prosumers(
            market.prosumers.bus, market.prosumers.load + load, market.prosumers.reactive + reactive
        ),
        market.grid,
        market.tariff,
        market.generators,
        jg.Buffers(
            market.buffers.owner, 1.0, 1.0, 1.0, market.buffers.energy_start + start[:, 0],
            hours=hours, drain=market.buffers.drain, retention=market.buffers.retention,
            charge_efficiency=market.buffers.charge_efficiency,
            discharge_efficiency=market.buffers.discharge_efficiency,
        ),
        market.trading,
        market.hour_length,
    )  # fmt: skip
    columns = np.concatenate([flat(plan), load.ravel(), reactive.ravel(), start.ravel()])
    there_rows = flat(jg.model.rows(there, plan))
    assert np.allclose(found.matrix @ columns + found.constant, there_rows, atol=1e-12)


def cars(rating: float, steps: int = 1) -> jg.Market:
    """Two cars that each lack 18 kWh by 6 o'clock behind one line; houses draw 1 kW.

    At an efficiency of 0.9 they draw 40 kWh in 6 hours beside 6 kWh of load: 46 / 6 = 7.667 kW.
    """
    hours = 8 * steps
    stores = jg.Buffers(
        [0, 1], 11.0, 0.0, 40.0, 12.0, hours=hours, charge_efficiency=0.9,
        energy_min=np.where(np.arange(hours) == 6 * steps - 1, 30.0, 0.0),
    )  # fmt: skip
    return jg.Market(
        jg.Prosumers([1, 1], np.full((2, hours), 0.5)),
        jg.Grid(np.zeros((2, hours)), [0], [1], 1e-4, 1e-4, rating=rating),
        jg.Tariff(0.01, hours=hours, base=0.2),
        buffers=stores,
        trading=jg.Trading([0], [1], 5.0, toll=0.01),
        hour_length=1 / steps,
    )


def full(total_max: float) -> jg.Market:
    """A storage of 10 kWh must end full from 4 kWh, beside a load of 2 kW for 6 hours.

    18 kWh in 6 hours: 3 kW.
    """
    floor = np.where(np.arange(6) == 5, 10.0, 0.0)
    return jg.Market(
        jg.Prosumers([0], np.full((1, 6), 2.0)),
        jg.Grid(np.zeros((1, 6)), model="copperplate"),
        jg.Tariff(0.01, hours=6, base=0.2, total_max=total_max),
        buffers=jg.Buffers([0], 5.0, 5.0, 10.0, 4.0, hours=6, energy_min=floor),
    )


def below_mean(total_max: float) -> jg.Market:
    """A day of 6 hours needs 4 kW on average; the storage may end as it began."""
    load = [[2.0, 6.0, 2.0, 6.0, 2.0, 6.0]]
    return jg.Market(
        jg.Prosumers([0], load),
        jg.Grid(np.zeros((1, 6)), model="copperplate"),
        jg.Tariff(0.01, hours=6, base=0.2, total_max=total_max),
        buffers=jg.Buffers(
            [0], 9.0, 9.0, 20.0, 10.0, hours=6,
            energy_min=np.where(np.arange(6) == 5, 10.0, 0.0),
        ),
    )  # fmt: skip


WORDS = {  # at 95 % of what would do
    # 5 % of 46 kWh are 2.3 kWh from the line, at an efficiency of 0.9
    cars: r"Grid.rating of line 0 \(0-1\) in hours 0 to 5: .* Lacking: 2.07 kWh in buffer . "
    r"\(prosumer .\) by the end of hour 5. Cheapest way out: raise Grid.rating of line 0 \(0-1\) "
    r"in hours 0 to 5 by 0.3833 kVA",
    full: r"Tariff.total_max in hours 0 to 5: .* Lacking: 0.9 kWh in buffer 0 \(prosumer 0\) by",
    below_mean: r"Tariff.total_max in hours 0 to 5: .* Lacking: 1.2 kWh in buffer 0 \(prosumer 0\)",
}


@pytest.mark.parametrize(
    ("make", "edge"), [(cars, 46 / 6), (full, 3.0), (below_mean, 4.0)], ids=["cars", "full", "mean"]
)
def test_energy_that_hours_cannot_bring_is_infeasible(make, edge):
    """The interior point is decided after 50 steps at most, on either side of the edge."""
    shares = (0.7, 0.95, 0.999, 1.001, 1.05)
    markets = [make(share * edge) for share in shares]
    many = jg.clear_many(jg.scenarios.stack(markets), jg.InteriorPoint())
    for k, share in enumerate(shares):
        word = jg.status.status_name(jg.scenarios.lane(many, k).status)
        assert word == ("cleared" if share > 1 else "infeasible"), share
        assert int(many.steps[k]) <= 50
        if share < 1:
            ray = jg.scenarios.lane(many, k).prices
            assert float(infeasibility_proof(markets[k], ray)) > 1e-9
    assert many.why(4).startswith("cleared after")
    assert "the proof rests on" in many.why(0) and " of buffer " in many.why(0)
    assert "Cheapest way out" in many.why(1, jg.scenarios.stack(markets))
    with pytest.raises(ValueError, match="why: 5 scenarios; give one of 0 to 4"):
        many.why()
    with pytest.raises(jg.NotCleared, match=WORDS[make]) as alone:
        jg.clear(markets[1], jg.InteriorPoint())
    assert int(alone.value.clearing.steps) <= 50


@pytest.mark.slow
def test_quarter_hours_of_energy_are_decided():
    """The same cars in 32 quarter-hours."""
    for share, word in ((0.9, "infeasible"), (0.999, "infeasible"), (1.001, "cleared")):
        found = jg.clear(cars(share * 46 / 6, 4), throw=False)
        assert jg.status.status_name(found.status) == word
        assert int(found.steps) <= 50


def test_no_proof_where_there_is_a_plan():
    """The linear program and the convex solver agree on random markets, either way."""
    words = set()
    for seed in range(12):
        market = random_market(seed, shape=ADVERSE[0], grid="lindistflow", hour_length=1.0)
        ray, oracle = proof(market, 1e-9), solve(market)
        assert oracle.status == ("solved" if ray is None else "infeasible")
        words.add(oracle.status)
    assert words == {"solved", "infeasible"}
