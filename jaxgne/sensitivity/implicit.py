"""The derivative of a clearing: the implicit-function rule, forward and reverse."""

import abc
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import custom_linear_solve, stop_gradient
from jaxtyping import Array, Bool, Float

from ..market import Market, cast
from ..model import Plan, Rows
from ..runner import runs_here
from ..solvers.newton import is_small
from .active import Active, active_set, smoothed_set
from .at_once import Move
from .lagrangian import Point, lagrangian, point_of, sizes, unfold
from .linear import factored, iterated
from .refinement import LEFT, Solved, refined

UNCLEARED = (
    "The derivative of a market that did not clear means nothing. Look at clearing.status, "
    "or pass adjoint=jaxgne.Implicit(throw=False) for NaN instead."
)
UNDETERMINED = (
    "The derivative asked for is not determined: what is differentiated is not unique at this "
    "equilibrium, or the linear system did not converge. jaxgne.trust(market, clearing, "
    "output) says which; adjoint=jaxgne.Smoothed() gives a derivative all the same."
)


class AbstractAdjoint(eqx.Module):
    """How a clearing is differentiated: what holds at an equilibrium, and how K is solved with."""

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]
    throw: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def conditions(self, market: Market, plan: Plan, prices: Rows) -> Active:
        """Which bounds hold, and how."""

    def point(self, market: Market, active: Active, plan: Plan, prices: Rows) -> Point:
        """Where the conditions are differentiated."""
        return point_of(market, active, plan, prices)

    def solve(self, market: Market, plan: Plan, prices: Rows, right: Point) -> Solved:
        """K w = right, in float64."""
        with jax.enable_x64(True):
            market, plan, prices, right = cast((market, plan, prices, right), jnp.float64)
            active = self.conditions(market, plan, prices)
            point = self.point(market, active, plan, prices)
            _, matvec = jax.linearize(lambda w: slope(market, active, plan, w), point)
            if is_small(market):
                inverse = factored(market, active, plan, matvec)
            else:
                inverse = iterated(market, active, plan, matvec, self.max_steps)
            return refined(matvec, inverse, right, sizes(market, plan), self.tol)


class Implicit(AbstractAdjoint):
    """Through the optimality conditions, with the bounds that hold held: exact, and the default.

    At an equilibrium where a bound is about to switch, a derivative is one-sided; what is not
    unique has none (`jaxgne.trust` tells). `tol` is the relative residual of the linear system,
    `max_steps` the most conjugate gradients that one of its refinements takes where it is not
    factored. With `throw` a market that did not clear, or a derivative that is not determined,
    raises; else the former gives NaN and the latter is along the equilibria that move least.
    """

    tol: float = 1e-7
    max_steps: int = 20_000
    throw: bool = True

    def conditions(self, market: Market, plan: Plan, prices: Rows) -> Active:
        """The bounds that hold."""
        return active_set(market, plan, prices)


class Smoothed(AbstractAdjoint):
    """Through the conditions of an interior point near the equilibrium: defined everywhere.

    Every bound is a logarithmic barrier that gives way over `width` of the market's scales, so that
    a bound which is about to switch counts in part, and what is not unique moves with the analytic
    center. As `width` goes to 0 derivatives become those of `Implicit`, where these exist.
    """

    width: float = 1e-4
    tol: float = 1e-7
    max_steps: int = 20_000
    throw: bool = True

    def conditions(self, market: Market, plan: Plan, prices: Rows) -> Active:
        """No bound holds; all of them push."""
        return smoothed_set(market, plan, prices, self.width)[0]

    def point(self, market: Market, active: Active, plan: Plan, prices: Rows) -> Point:
        """Inside all bounds, where the barrier's push is the bounds' price."""
        _, inside, net = smoothed_set(market, plan, prices, self.width)
        point = point_of(market, active, inside, prices)
        return eqx.tree_at(lambda p: p.net, point, net)


def slope(market: Market, active: Active, base: Plan, point: Point) -> Point:
    """dL/dw: zero at the equilibrium."""
    return jax.grad(lambda w: lagrangian(market, active, base, w))(point)


@eqx.filter_custom_jvp
def equilibrium(
    market: Market,
    plan: Plan,
    prices: Rows,
    ok: Bool[Array, ""],
    adjoint: AbstractAdjoint,
    by_numpy: bool = False,
) -> tuple[Plan, Rows]:
    """Plan and prices of a cleared market, as a function of the market.

    They are returned as they are, and differentiated as the implicit function that they are a value
    of: in reverse `by_numpy` where that can. `ok` says whether the market cleared.
    """
    return plan, prices


@equilibrium.def_jvp
def _moves(primals: Any, tangents: Any) -> Any:
    market, plan, prices, ok, adjoint, by_numpy = primals
    plan, prices = equilibrium(market, plan, prices, ok, adjoint, by_numpy)
    ahead = partial(_tangent, market, plan, prices, ok, adjoint)
    exact = isinstance(adjoint, Implicit) and adjoint.throw
    if by_numpy and exact and runs_here((market, plan, prices, ok)):
        if not bool(ok):
            raise RuntimeError(UNCLEARED)
        move = Move(market, plan, prices, ahead, float(adjoint.tol), UNDETERMINED)
        return (plan, prices), move(tangents[0])
    return (plan, prices), ahead(tangents[0])


@eqx.filter_jit
def _tangent(
    market: Market,
    plan: Plan,
    prices: Rows,
    ok: Bool[Array, ""],
    adjoint: AbstractAdjoint,
    change: Market,
) -> tuple[Plan, Rows]:
    """How plan and prices move with a `change` of the market, None where there is none."""
    still = stop_gradient((market, plan, prices))
    active = adjoint.conditions(*still)
    point = adjoint.point(market, active, plan, prices)
    moving, rest = eqx.partition(
        market, jax.tree.map(lambda a: a is not None, change, is_leaf=lambda a: a is None)
    )

    def changed(moving: Market) -> Market:
        return eqx.combine(moving, rest)

    def solve(_: Any, right: Point) -> Point:
        found = adjoint.solve(*still, right)
        move = jax.tree.map(lambda a, b: a.astype(b.dtype), found.point, right)
        return _sound(move, ok, found.residual, adjoint.throw)

    _, drive = jax.jvp(lambda m: slope(changed(m), active, plan, point), (moving,), (change,))
    _, matvec = jax.linearize(lambda w: slope(market, active, plan, w), point)
    # JAX transposes a linear solve only if every array of its right-hand side is a tangent
    none = 0 * jnp.sum(jnp.ravel(jax.tree.leaves(change)[0])[:1])
    against = jax.tree.map(lambda a: none.astype(a.dtype) - a, drive)
    move = custom_linear_solve(matvec, against, solve, symmetric=True)

    _, out = jax.jvp(
        lambda m, w: unfold(changed(m), active, plan, w), (moving, point), (change, move)
    )
    return out


def _sound(move: Point, ok: Array, residual: Float[Array, ""], throw: bool) -> Point:
    """The solution, unless it means nothing."""
    if not throw:
        return jax.tree.map(lambda a: jnp.where(ok, a, jnp.nan), move)
    move = eqx.error_if(move, ~ok, UNCLEARED)
    return eqx.error_if(move, ~(residual <= LEFT), UNDETERMINED)
