"""The interface of a curve: a convex, smooth cost of power, with its slope and curvature."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from ..runner import jnp, lax

_TURNS = 100  # steps of a search at most; some ten are usual


class Cones(NamedTuple):
    """What conic solvers take for a curve: a cone of three numbers a, b, c for each generator.

    `terms[g]` says them by rows: what each has of the power, kW, of a cost, EUR/h, and by itself.
    They lie in the cone where that cost is the curve's, and nowhere where it is less. With a share
    s that is the power cone, a^s b^(1-s) >= |c| and a, b >= 0; with the share NaN the exponential
    cone, b exp(a / b) <= c and b > 0, closed. A generator that is not `given` has no such cost.
    """

    given: Bool[np.ndarray, " G"]
    share: Float[np.ndarray, " G"]
    terms: Float[np.ndarray, "G 3 3"]


class AbstractCurve(eqx.Module):
    """A cost of generated power, beside a generator's linear and quadratic ones.

    Final subclasses hold a number for each generator, and none for single hours; their three
    functions take the powers of all generators in all hours, kW, and give a number for each. They
    are written for `jnp` of `jaxgne.runner`, so that NumPy runs them too, and bend upward within
    the bounds of power: slopes never fall. A generator whose numbers are all 0 has no such cost:
    the three are finite there, and 0. Consumption is negative power, so that the slope is what a
    kWh less of it loses, its marginal worth. Classes that have `cones` go to conic solvers too.
    """

    @abstractmethod
    def cost(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        """What an hour at this power costs, EUR/h."""

    @abstractmethod
    def slope(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        """What each kWh more costs, EUR/kWh."""

    @abstractmethod
    def curvature(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        """How much that rises with each kW, EUR/kWh per kW; at least 0."""

    def cones(self) -> Cones | None:
        """The same cost as cones, for `jaxgne.convex`; None of a class that says none."""
        return None


def totals(curves: Sequence[AbstractCurve], power: Array) -> Array:
    """What all curves together cost, EUR/h."""
    return sum((curve.cost(power) for curve in curves), jnp.zeros_like(power))


def slopes(curves: Sequence[AbstractCurve], power: Array) -> Array:
    """Their slopes together, EUR/kWh."""
    return sum((curve.slope(power) for curve in curves), jnp.zeros_like(power))


def curvatures(curves: Sequence[AbstractCurve], power: Array) -> Array:
    """Their curvatures together, EUR/kWh per kW."""
    return sum((curve.curvature(power) for curve in curves), jnp.zeros_like(power))


def crossing(
    rise: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, start: Array
) -> Array:
    """Where a rising function of each entry crosses 0 between two bounds, or the bound it leads to.

    `rise` gives its values and slopes. Newton's steps from `start`, kept inside a bracket that is
    halved where they leave it or do not halve from one to the next.
    """
    low, high = jnp.where(rise(high)[0] <= 0, high, low), jnp.where(rise(low)[0] >= 0, low, high)

    def going(carry: tuple) -> Array:
        at, _, _, moved, count = carry
        fine = 2 * jnp.finfo(at.dtype).eps * jnp.abs(at)
        return jnp.any(moved > fine) & (count < _TURNS)

    def step(carry: tuple) -> tuple:
        at, low, high, moved, count = carry
        value, slope = rise(at)
        low, high = jnp.where(value < 0, at, low), jnp.where(value > 0, at, high)
        change = -value / jnp.where(slope > 0, slope, 1.0)
        newton = at + change
        helpful = (slope > 0) & (low < newton) & (newton < high) & (jnp.abs(change) <= moved / 2)
        new = jnp.where(helpful, newton, (low + high) / 2)
        return new, low, high, jnp.abs(new - at), count + 1

    at = jnp.clip(start, low, high)
    none = jnp.zeros((), jnp.int32)
    return lax.while_loop(going, step, (at, low, high, 2 * (high - low), none))[0]
