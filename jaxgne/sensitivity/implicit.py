"""The derivative of a clearing: the implicit-function rule, forward and reverse."""

import abc
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import custom_linear_solve, platform_dependent, stop_gradient
from jaxtyping import Array, Bool

from ..commitments import refuse
from ..market import Market, cast
from ..model import Plan, Rows
from ..record import nameless
from ..runner import runs_here
from ..size import is_small
from .active import Active, active_set, ajar, firm, smoothed_set
from .at_once import Move
from .at_rest import begun
from .kinks import TORN, UNDETERMINED, Sided, sided
from .lagrangian import Point, point_of, slope, unfold
from .open_prices import FELT, LOOSE, SHARES, is_part, loosened, refused
from .polish import polished
from .refinement import LEFT

UNCLEARED = (
    "The derivative of a market that did not clear means nothing. Look at clearing.status, "
    "or pass adjoint=jaxgne.Implicit(throw=False) for NaN instead."
)
NO_DERIVATIVE = "take central differences of clears"


class AbstractAdjoint(eqx.Module):
    """How a clearing is differentiated: what holds at an equilibrium, and how K is solved with."""

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]
    throw: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def conditions(self, market: Market, plan: Plan, prices: Rows) -> tuple[Active, Plan, Rows]:
        """Which bounds hold, and how, in float64, and the plan and prices where they do so."""

    def point(self, market: Market, active: Active, plan: Plan, prices: Rows) -> Point:
        """Where the conditions are differentiated, with every bound ajar."""
        return point_of(market, ajar(market, active), plan, prices)

    def place(self, market: Market, plan: Plan, prices: Rows) -> tuple[Active, Plan, Point]:
        """Which bounds hold, the plan there and the point, in the market's own dtype."""
        refuse("derivatives of a clearing", market, NO_DERIVATIVE)
        dtype = market.prosumers.load.dtype
        with jax.enable_x64(True):
            still = cast(stop_gradient((market, plan, prices)), jnp.float64)
            found = cast(self.conditions(*still), dtype)
        active, *near = found
        plan, prices = jax.tree.map(lambda a, b: a + stop_gradient(b - a), (plan, prices), (*near,))
        return active, plan, self.point(market, active, plan, prices)

    def solve(
        self, market: Market, active: Active, plan: Plan, point: Point, right: Point
    ) -> Sided:
        """K w = right, in float64."""
        with jax.enable_x64(True):
            wide = cast((market, active, plan, point, right), jnp.float64)
            return sided(*wide, tol=self.tol, max_steps=self.max_steps)

    def loosened(
        self, market: Market, active: Active, plan: Plan, point: Point, loose: Point
    ) -> Market:
        """How much of what is loose each field feels, in float64."""
        with jax.enable_x64(True):
            return loosened(*cast((market, active, plan, point, loose), jnp.float64))


class Implicit(AbstractAdjoint):
    """Through the optimality conditions, with the bounds that hold held: exact, and the default.

    At an equilibrium where bounds are about to switch, a derivative lies between the one-sided
    ones; what is not unique has none (`jaxgne.trust` tells). `tol` is the relative residual of the
    linear system, `max_steps` the most conjugate gradients that one of its refinements takes where
    it is not factored. With `throw` a market that did not clear, a derivative that is not
    determined, and one of which no value is known to lie between the one-sided ones, raise; or are
    NaN where another device than a CPU computes them, as its programs do not wait for the host.
    Else the first gives NaN, the second is along the equilibria that move least, the third with all
    bounds held that are about to switch.
    """

    tol: float = 1e-7
    max_steps: int = 20_000
    throw: bool = True

    def conditions(self, market: Market, plan: Plan, prices: Rows) -> tuple[Active, Plan, Rows]:
        """The bounds that hold; in small markets as read after a few Newton steps.

        In larger ones, of which only the clearing is known, all that seem about to switch.
        """
        if is_small(market):
            return polished(market, plan, prices)
        active = firm(active_set(market, plan, prices))
        active, prices = begun(market, active, plan, prices)
        return active, plan, prices


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

    def conditions(self, market: Market, plan: Plan, prices: Rows) -> tuple[Active, Plan, Rows]:
        """No bound holds; all of them push."""
        return smoothed_set(market, plan, prices, self.width)[0], plan, prices

    def point(self, market: Market, active: Active, plan: Plan, prices: Rows) -> Point:
        """Inside all bounds, where the barrier's push is the bounds' price."""
        _, inside, net = smoothed_set(market, plan, prices, self.width)
        point = point_of(market, active, inside, prices)
        return eqx.tree_at(lambda p: p.net, point, net)


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
        move = Move(market, plan, prices, ahead, float(adjoint.tol))
        return (plan, prices), move(tangents[0])
    return (plan, prices), ahead(tangents[0])


@nameless
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
    active, plan, point = adjoint.place(market, plan, prices)
    asked = jax.tree.map(lambda a: a is not None, change, is_leaf=lambda a: a is None)
    moving, rest = eqx.partition(market, asked)
    here, wide = stop_gradient((market, active, plan, point)), ajar(market, active)

    def changed(moving: Market) -> Market:
        return eqx.combine(moving, rest)

    # what the rest of a battery, or of a level, is made of
    stored = jax.tree.leaves((moving.buffers, moving.caps, moving.hour_length))
    tell = bool(stored) and is_part(moving, market)

    def felt(loose: Point, by: Callable[[Market], Market]) -> Array:
        """The most that a number asked for feels of it."""
        effects = jax.tree.leaves(by(eqx.filter(adjoint.loosened(*here, loose), asked)))
        return jnp.max(jnp.stack(effects), initial=0.0) if effects else jnp.zeros(())

    def solve(_: Any, right: Point, alone: bool = False) -> Point:
        """The solution; `alone`, where each number that is asked for is to change alone."""
        found = adjoint.solve(*here, right)
        move = jax.tree.map(lambda a, b: a.astype(b.dtype), found.solved.point, right)
        move = _sound(move, ok, found, adjoint.throw)
        if not (alone and adjoint.throw and active.barrier is None):
            return move
        if tell:
            _warned(felt(found.resting, lambda effects: effects) > FELT)
        loose = felt(found.loose, refused) > FELT
        return _unless(loose, move, LOOSE.format("some of the numbers asked for"))

    _, drive = jax.jvp(lambda m: slope(changed(m), wide, plan, point), (moving,), (change,))
    _, matvec = jax.linearize(lambda w: slope(market, wide, plan, w), point)
    # JAX transposes a linear solve only if every array of its right-hand side is a tangent
    none = 0 * jnp.sum(jnp.ravel(jax.tree.leaves(change)[0])[:1])
    against = jax.tree.map(lambda a: none.astype(a.dtype) - a, drive)
    move = custom_linear_solve(matvec, against, solve, partial(solve, alone=True), symmetric=True)

    _, out = jax.jvp(
        lambda m, w: unfold(changed(m), wide, plan, w), (moving, point), (change, move)
    )
    return out


def _warned(shared: Array) -> None:
    """Tells of numbers that only count together, on a CPU."""
    tell = partial(jax.debug.callback, _tell_of_shares)
    platform_dependent(shared, cpu=tell, default=lambda _: None)


def _tell_of_shares(shared: Any) -> None:
    if np.any(shared):
        warnings.warn(SHARES.format("some of the numbers asked for"), stacklevel=2)


def _sound(move: Point, ok: Array, found: Sided, throw: bool) -> Point:
    """The solution, unless it means nothing."""
    if not throw:
        return jax.tree.map(lambda a: jnp.where(ok, a, jnp.nan), move)
    move = _unless(~ok, move, UNCLEARED)
    move = _unless(found.torn, move, TORN)
    return _unless(~(found.solved.residual <= LEFT), move, UNDETERMINED)


def _unless(bad: Array, move: Point, words: str) -> Point:
    """The solution; where it is `bad` an error, or NaN on devices that do not wait for the host."""
    raised = partial(eqx.error_if, msg=words)
    return platform_dependent(move, bad, cpu=raised, default=partial(raised, on_error="nan"))
