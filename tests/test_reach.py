"""A bound of 1e8 kW says what no bound says; a market of free energy clears like any other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.feasibility import implied_boxes
from jaxgne.model import potential
from jaxgne.reach import bounded
from tests.markets import HAND_MADE, random_market
from tests.reference import solve

SOLVERS = {"interior point": jg.InteriorPoint(), "primal-dual": jg.PrimalDual()}


def street(far: float = 1e3, **bounds: float) -> jg.Market:
    """Three houses, a generator, a battery, sun; only the bounds of the content matter.

    `far` stands for "no limit" wherever `bounds` say nothing else.
    """
    at = dict.fromkeys(BOUNDS, far) | bounds
    market = jg.Market(
        jg.Prosumers(
            [1, 2, 2],
            [[4.0, 3.0, 6.0], [2.0, 2.0, 1.0], [-5.0, 1.0, 3.0]],
            [[1.0], [0.5], [0.0]],
            import_max=at["Prosumers.import_max"],
            export_max=at["Prosumers.export_max"],
            curtail_max=at["Prosumers.curtail_max"],
        ),
        jg.Grid(
            [[0.0] * 3, [1.0, 2.0, 1.0], [0.0] * 3],
            [0, 1],
            [1, 2],
            4e-4,
            3e-4,
            rating=at["Grid.rating"],
            voltage_min=0.9,
            voltage_max=at["Grid.voltage_max"],
            compensation_max=at["Grid.compensation_max"],
        ),
        jg.Tariff(
            0.01,
            hours=3,
            base=[0.1, 0.2, 0.3],
            export=0.04,
            total_min=-at["Tariff.total_min"],
            total_max=at["Tariff.total_max"],
        ),
        jg.Generators([0], at["Generators.power_max"], hours=3, quadratic=0.02, linear=0.1),
        jg.Buffers(
            [1],
            at["Buffers.charge_max"],
            at["Buffers.discharge_max"],
            at["Buffers.energy_max"],
            2.0,
            hours=3,
            energy_min=[[0.0, 0.0, 2.0]],
            charge_efficiency=0.95,
            discharge_efficiency=0.95,
            linear=0.005,
        ),
        jg.Trading([0, 0, 1], [1, 2, 2], at["Trading.limit"], charge=0.004),
    )
    return market


BOUNDS = (
    *("Prosumers.import_max", "Prosumers.export_max", "Prosumers.curtail_max"),
    *("Generators.power_max", "Trading.limit", "Grid.rating", "Grid.voltage_max"),
    *("Grid.compensation_max", "Tariff.total_min", "Tariff.total_max"),
    *("Buffers.charge_max", "Buffers.discharge_max", "Buffers.energy_max"),
)
NEAR = dict.fromkeys(BOUNDS, 60.0) | {"Grid.voltage_max": 1.5}  # beyond what any plan needs


@pytest.fixture(scope="module")
def least() -> float:
    """The potential with bounds that are near and meet nothing, by the oracle."""
    market = street(**NEAR)
    return float(potential(market, solve(market).plan))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("far", [1e8, 1e9])
@pytest.mark.parametrize("name", [*BOUNDS, "all"])
def test_a_large_number_is_no_limit(name, far, solver, least):
    market = street(far) if name == "all" else street(**(NEAR | {name: far}))
    clearing = jg.clear(market, SOLVERS[solver], throw=False)
    assert bool(clearing.ok), str(clearing)
    assert float(potential(market, clearing.plan)) == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize("name", ["one bus", "feeder with tight lines", "exports", "many devices"])
def test_bounds_that_matter_keep_their_numbers(name):
    """Bit for bit, so that no market with bounds of its own size changes."""
    market = HAND_MADE[name]()
    for before, after in zip(*map(jax.tree.leaves, (market, bounded(market))), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("seed", range(40))
def test_random_markets_keep_theirs(seed):
    market = random_market(seed)
    for before, after in zip(*map(jax.tree.leaves, (market, bounded(market))), strict=True):
        assert np.array_equal(before, after)


def test_a_preference_that_pays_keeps_its_trades_limit():
    """Passed round at a profit of 0.1 EUR/kWh, trades run to 1e8 kW, were that the limit."""
    market = street(**NEAR)
    for fee, limit in ((0.0, False), (0.1, True)):
        paid = eqx.tree_at(
            lambda m: (m.trading.fee_buyer, m.trading.limit),
            market,
            (jnp.full(3, -fee), jnp.full(3, 1e8)),
        )
        assert np.all(np.asarray(bounded(paid).trading.limit) == 1e8) == limit


def test_implied_bounds_of_no_limit_are_of_the_market_s_size():
    """27 kW of load, all hours together: nobody trades, makes or draws 1e5 kW."""
    lower, upper = implied_boxes(street(1e8))
    for name in ("generation", "imports", "exports", "curtailed", "trades", "charge", "active"):
        for side in (lower, upper):
            assert np.abs(getattr(side, name)).max() < 1e5, name


def cottage(
    load: float = 2.0,
    base: float = 0.0,
    wear: float = 0.0,
    worth: float = 0.0,
    making: float = 0.0,
    bend: float = 0.0,
    charge: float = 0.0,
    fee: float = 0.0,
    curve: float = 0.0,
    export: float = -0.1,
) -> jg.Market:
    """Two homes with a battery and a generator; what costs nothing unless told."""
    return jg.Market(
        jg.Prosumers([0, 0], [[load, 2 * load], [load, 0.0]], import_max=30.0),
        jg.Grid([[0.0, 0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=base, export=export),
        jg.Generators([1], 1.0, hours=2, linear=making, quadratic=bend),
        jg.Buffers([0], 1.0, 1.0, 4.0, 2.0, hours=2, linear=wear, final_value=worth),
        jg.Trading([0], [1], 1.0, charge=charge, fee_buyer=fee, fee_seller=fee, quadratic=curve),
    )


# what costs, and the least cost of all: 2 kWh end in the battery where content is worth anything
FREE = {
    "nothing costs anything": ({"export": 0.0}, 0.0),
    "exports cost": ({}, 0.0),
    "wear": ({"wear": 0.01}, 0.0),
    "content": ({"worth": 0.2}, -0.4),
    "fuel": ({"making": 0.3}, 0.0),
    "fuel, ever more": ({"bend": 0.3}, 0.0),
    "charges on trades": ({"charge": 0.02}, 0.0),
    "fees": ({"fee": 0.02}, 0.0),
    "trades, ever more": ({"curve": 0.02}, 0.0),
    "a price of 1e-9": ({"base": 1e-9, "export": -1e-9}, 4e-9),
    "no load": ({"load": 0.0, "base": 0.2, "worth": 0.1}, -0.2),
    "no load, no cost": ({"load": 0.0, "export": 0.0}, 0.0),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", FREE)
def test_free_energy_clears(case, solver):
    """With a price of 1e-9: 8 kWh of load, 2 of them made for nothing and 2 from the battery."""
    numbers, least = FREE[case]
    market = cottage(**numbers)
    clearing = jg.clear(market, SOLVERS[solver], throw=False)
    assert bool(clearing.ok), str(clearing)
    assert float(clearing.costs.sum()) == pytest.approx(
        least, rel=1e-4, abs=1e-12 if case == "a price of 1e-9" else 1e-6
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("load", [0.0, 3.0])
def test_one_home_alone_clears(load, solver):
    market = jg.Market(
        jg.Prosumers([0], [[load]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1),
    )
    clearing = jg.clear(market, SOLVERS[solver], throw=False)
    assert bool(clearing.ok), str(clearing)
    assert float(clearing.plan.imports[0, 0]) == pytest.approx(load, abs=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", ["a generator", "a battery"])
def test_a_device_alone_clears(case, solver):
    """Nobody needs what a generator makes at 0.1; a battery is worth filling from 0.2 to 0.3."""
    none = jg.Prosumers([0], [[0.0, 0.0]])
    devices = {
        "a generator": {"generators": jg.Generators([0], 5.0, hours=2, linear=0.1)},
        "a battery": {"buffers": jg.Buffers([0], 1.0, 1.0, 4.0, 1.0, hours=2, final_value=0.3)},
    }[case]
    market = jg.Market(
        none, jg.Grid([[0.0, 0.0]], model="copperplate"), jg.Tariff(0.0, hours=2, base=0.2),
        **devices,
    )  # fmt: skip
    clearing = jg.clear(market, SOLVERS[solver], throw=False)
    assert bool(clearing.ok), str(clearing)
    least = 0.0 if case == "a generator" else -0.2
    assert float(clearing.costs.sum()) == pytest.approx(least, abs=1e-5)
