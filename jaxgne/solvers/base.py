"""What a solver is: three pure functions. It has no tolerance, no status and no loop."""

import abc
from dataclasses import fields
from typing import Any, ClassVar, Literal

import equinox as eqx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from ..market import Market
from ..model import Plan, Rows
from ..record import Record
from ..runner import lax


def written(solver: Any) -> str:
    """How a solver, or one of its options, would be written: what is not the default."""
    if not isinstance(solver, eqx.Module):
        number = hasattr(solver, "dtype") or isinstance(solver, float)
        return f"{float(solver):g}" if number else repr(solver)
    told = []
    for field in fields(solver):
        value = getattr(solver, field.name)
        if isinstance(value, Record | Tracer):
            told.append(f"{field.name}=...")
        elif value is not field.default and value != field.default:
            told.append(f"{field.name}={written(value)}")
    return f"{type(solver).__name__}({', '.join(told)})"


class AbstractSolver(eqx.Module):
    """A fixed-point iteration on a market; its fields are its options.

    `clear` owns the loop and judges what `point` returns by the same yardstick for every solver,
    every `every` steps. What it promises a solver, and asks of it:

    - *Dtype.* The market, the plan and the prices that come in have the market's dtype, and so have
      options that are floats: they arrive as arrays. 64 bits are enabled throughout, so a solver
      may compute wider than the market (`arrays.cast`); `point` may return either.
    - *Start.* `init` gets a clearing's plan and prices, which need not fit the market, or, cold,
      what everyone buys of the main grid at the price that this makes; prices on any gauge.
    - *Size.* `prepare` reads what is static off the concrete market, once. Of a batch it gets all
      scenarios at once, as NumPy arrays with an axis more in front, and must answer for each.
      It may get a market that is traced, and must return itself then.
    - *Purity.* All else is pure and traceable in the market: it is jitted, vmapped over scenarios,
      and run under `lax.while_loop`, so a state keeps its shapes and dtypes. It is not
      differentiated: derivatives are those of the equilibrium.
    - *Failure.* Nothing raises. Where there is no plan, prices should run off along a ray, as
      `clear` takes any ray that proves it for a proof; numbers that are not finite end the run.

    `tests/test_transforms.py` holds each solver to this.
    """

    every: ClassVar[int] = 40
    most: ClassVar[int] = 200_000  # steps after which it is not worth to go on
    by_numpy: ClassVar[bool] = False  # whether its source runs by `runner.by_numpy`, fast enough
    doubtful: ClassVar[int] = 200_000  # steps after which to ask whether there is a plan at all

    def prepare(self, market: Market) -> "AbstractSolver":
        """The solver with whatever static sizes it reads off a concrete market; on the host."""
        return self

    @abc.abstractmethod
    def init(self, market: Market, plan: Plan, prices: Rows) -> Any:
        """The state from which to start, given a plan and prices: of an answer, or of autarky."""

    @abc.abstractmethod
    def step(self, market: Market, state: Any) -> Any:
        """One iteration."""

    def look(self, market: Market, state: Any) -> Any:
        """The last iteration before a look at the answer: where a solver may restart."""
        return self.step(market, state)

    def worth_a_look(
        self,
        market: Market,
        state: Any,
        steps: Int[Array, ""],
        error: Float[Array, ""],
        tol: Float[Array, ""],
    ) -> Bool[Array, ""] | Literal[True]:
        """Whether the state may be as good as `tol`: judging it takes time too.

        `error` is that of the last look that was worth it, infinite before the first.
        """
        return True

    def nearer(
        self, market: Market, state: Any, error: Float[Array, ""], tol: Float[Array, ""]
    ) -> Any:
        """The state before it is judged, given the `error` of the last look: where `point` may be
        improved upon without a step."""
        return state

    def moved(self, market: Market, state: Any, before: Market) -> Any:
        """The state with which to go on where the market `before` has become another.

        By default all but the plan and prices that it stands for is made anew. What else a solver
        keeps has to mean the same in both markets, as step sizes do not.
        """
        return self.init(market, *self.point(before, state))

    def outdated(self, state: Any) -> Bool[Array, ""] | Literal[False]:
        """Whether `renew` is due before the next step."""
        return False

    def renew(self, market: Market, state: Any) -> Any:
        """The state with what seldom changes computed anew; it is compiled apart from the steps."""
        return state

    def refreshed(self, market: Market, state: Any) -> Any:
        """The state, renewed where that is due."""
        due = self.outdated(state)
        if due is False:
            return state
        return lax.cond(due, lambda: self.renew(market, state), lambda: state)

    @abc.abstractmethod
    def point(self, market: Market, state: Any) -> tuple[Plan, Rows]:
        """The plan and prices that the state stands for."""
