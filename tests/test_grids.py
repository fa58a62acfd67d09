"""A new grid model is one class: grids of the tests' own, against the oracle and by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.grids import AbstractGridModel, LinDistFlow
from jaxgne.model import energy_prices
from tests import markets
from tests.agreement import check_agreement, check_signs
from tests.reference import solve

SOLVERS = [jg.InteriorPoint(), jg.PrimalDual()]
FACTOR = 1.3


class Transport(AbstractGridModel):
    """Lines carry up to their rating, and buses have no state."""

    name: ClassVar[str] = "transport"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = False
    squared: ClassVar[bool] = False

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {}


class Steeper(AbstractGridModel):
    """LinDistFlow with `factor` times the drop."""

    factor: float = eqx.field(static=True)
    name: ClassVar[str] = "steeper"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = True
    squared: ClassVar[bool] = True

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {"voltage": (2 * self.factor * resistance, 2 * self.factor * reactance)}


class AnyOrder(AbstractGridModel):
    """LinDistFlow's rows on lines in any order, either way round."""

    name: ClassVar[str] = "any order"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = False
    squared: ClassVar[bool] = True

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {"voltage": (2 * resistance, 2 * reactance)}


def steeper() -> tuple[jg.Market, jg.Market]:
    """A feeder with `FACTOR` times the drop, and LinDistFlow's with as many times the impedance."""
    market = markets.feeder(voltage_min=0.97)
    grid = market.grid
    more = {name: FACTOR * getattr(grid, name) for name in ("resistance", "reactance")}
    return (
        replace(market, grid=replace(grid, model=Steeper(FACTOR))),
        replace(market, grid=replace(grid, **more)),
    )


def of(solver: Any) -> str:
    return type(solver).__name__


@pytest.mark.parametrize(
    "solver", [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)], ids=of
)
def test_a_grid_without_states_limits_lines_alone(solver: Any):
    """Behind a line of 4 kW a load of 6 has 2 made beside it: 0.10 + 0.04 * 2 = 0.18 EUR/kWh.

    The main grid asks 0.05, so the line's price is 0.13; buses are 1 pu, as none has a state.
    """
    market = jg.Market(
        jg.Prosumers([1], [[6.0]]),
        jg.Grid([[0.0], [0.0]], [0], [1], rating=4.0, model=Transport()),
        jg.Tariff(0.0, hours=1, base=0.05),
        jg.Generators([0], 10.0, hours=1, quadratic=0.02, linear=0.10),
    )
    clearing = jg.clear(market, solver, tol=1e-7)
    assert clearing.ok and float(clearing.plan.generation[0, 0]) == pytest.approx(2.0, abs=1e-4)
    assert float(energy_prices(market, clearing.prices)[0, 0]) == pytest.approx(0.18, abs=1e-4)
    assert float(np.diff(clearing.prices.bus[:, 0])[0]) == pytest.approx(0.13, abs=1e-4)
    assert np.all(jg.model.voltages(market, clearing.plan) == 1)


@pytest.mark.parametrize(
    "solver", [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)], ids=of
)
def test_a_grid_with_another_drop_agrees_with_the_oracle(solver: Any):
    """`FACTOR` times the drop is as many times the impedance, which the oracle knows."""
    market, scaled = steeper()
    oracle, clearing = solve(scaled), jg.clear(market, solver, tol=1e-8)
    assert clearing.ok and np.abs(clearing.prices.voltage).max() > 1e-3
    check_agreement(market, clearing, oracle)
    assert check_signs(market, clearing.plan, clearing.prices, 1e-4)
    assert np.allclose(clearing.plan.voltage, oracle.plan.voltage, atol=1e-4)


@pytest.mark.parametrize(
    "solver", [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)], ids=of
)
def test_a_grid_with_lines_in_any_order_agrees_with_the_oracle(solver: Any):
    """Flows have the other sign where a line points the other way; all else is the same."""
    market = markets.feeder(voltage_min=0.97)
    oracle, grid = solve(market), market.grid
    order, turned = np.array([2, 0, 3, 1]), np.array([True, False, True, True])
    source, target = (np.asarray(a)[order] for a in (grid.source, grid.target))
    lines = {n: np.asarray(getattr(grid, n))[order] for n in ("resistance", "reactance", "rating")}
    ends = {"source": np.where(turned, target, source), "target": np.where(turned, source, target)}
    mixed = replace(grid, **lines, **ends, model=AnyOrder(), reactive_balance=True)
    clearing = jg.clear(replace(market, grid=mixed), solver, tol=1e-8)
    assert clearing.ok
    check_agreement(market, clearing, oracle)
    flows = np.where(turned, -1, 1)[:, None] * np.asarray(clearing.plan.active)
    assert np.allclose(flows, oracle.plan.active[order], atol=1e-2)
    assert np.allclose(clearing.plan.voltage, oracle.plan.voltage, atol=1e-4)


def test_derivatives_by_impedances_follow_from_the_class():
    """By r where the drop has a factor: that many times the one by a scaled r; reactance alike."""
    found, scaled = (
        jg.sensitivities(
            market,
            lambda _, clearing: clearing.plan.generation[0].sum(),
            clearing=jg.clear(market, tol=1e-10),
            where=lambda market: market.grid,
        )
        for market in steeper()
    )
    for name in ("resistance", "reactance"):
        own, other = (np.asarray(getattr(one, name)) for one in (found, scaled))
        assert np.abs(own).max() > 1 and np.allclose(own, FACTOR * other, rtol=1e-5)


def test_equal_models_share_programs():
    """Equal instances are one structure: nothing is compiled again; another factor is another."""
    market, _ = steeper()
    traced = []

    @jax.jit
    def drop(market: jg.Market) -> Any:
        traced.append(market.grid.model)
        return jg.model.rows(market, jg.model.zeros(market)).voltage

    for model in (Steeper(FACTOR), Steeper(FACTOR), "lindistflow", LinDistFlow(), Steeper(2.0)):
        drop(replace(market, grid=replace(market.grid, model=model)))
    assert traced == [Steeper(FACTOR), LinDistFlow(), Steeper(2.0)]


def test_files_refuse_a_model_that_no_reader_knows(tmp_path: Path):
    """Only the package's own have names that `load` can read back."""
    with pytest.raises(ValueError, match=r"Grid.model is Steeper.*files know only copperplate"):
        jg.save(tmp_path / "market", steeper()[0])
