"""What comes out of clearing a market, and what it says of itself in words."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from .certificate import Certificate
from .choosing import Runner
from .market import Market
from .model import Plan, Rows
from .reasons import said_by_ray, why_infeasible
from .record import Record
from .runner import held_here, hosted, jnp
from .status import STATUSES, Status, is_status, status_message, status_name

if TYPE_CHECKING:
    from xarray import Dataset

_SHOWN = 8  # scenarios of a batch that are named


class NotCleared(RuntimeError):
    """Raised by `clear` when a market did not clear, by a `message`; `.clearing` is what there is.

    `.market` is the market of that clearing where it is not the one given: with margins.
    """

    def __init__(
        self,
        message: str | Callable[[], str],
        clearing: "Clearing",
        market: Market | None = None,
    ):
        super().__init__()
        self.clearing, self.market, self._message = clearing, market, message

    def __reduce__(self) -> Any:
        return NotCleared, (str(self), self.clearing, self.market)

    def __str__(self) -> str:
        if callable(self._message):  # it may take a linear program, so only when it is read
            self._message = self._message()
        return self._message


class Stopped(KeyboardInterrupt):
    """Raised by a `message` where Ctrl-C stops markets that clear; `.clearing` is what there is.

    Of one market that is plan and prices as good as they were, of status `stopped`, to go on from
    with `start=`; of a batch the scenarios that were done, in order, None where none was. `.market`
    is the market of that clearing where it is not the one given.
    """

    def __init__(self, message: str, clearing: "Clearing | None", market: Market | None = None):
        super().__init__(message)
        self.clearing, self.market = clearing, market


class Run(Record):
    """How a clearing was found: by which solver, to which tolerance, compiled by JAX or not."""

    solver: str = eqx.field(static=True)
    tol: Float[Array, ""]  # relative KKT error asked for
    compiled: Bool[Array, ""]


class Clearing(Record):
    """A cleared market: what everyone does, at which prices, and how good that is.

    Only a `status` of `cleared` (`.ok`) makes plan and prices an equilibrium. When it is
    `infeasible`, `prices` are the proof: a ray along which no plan meets all limits.
    """

    plan: Plan  # what everyone does
    prices: Rows  # EUR/kWh, on the gauge exchange = 0
    costs: Float[Array, " N"]  # EUR, J_i: what each minimizes, which is no bill (`settle`)
    aggregate: Float[Array, " H"]  # kW, sigma
    certificate: Certificate  # how good plan and prices are
    steps: Int[Array, ""]  # of the solver
    status: Status  # how it ended
    run: Run | None  # what ran it; None while it is made

    @property
    def runner(self) -> Runner:
        """What ran it: "numpy", at once, or "jax", compiled."""
        return "jax" if self.run is None or np.all(np.asarray(self.run.compiled)) else "numpy"

    @property
    def ok(self) -> Bool[Array, ""]:
        """Whether the market cleared."""
        return is_status(self.status, Status.cleared)

    def why(self, index: int | None = None, market: Market | None = None) -> str:
        """Why it ended as it did, in words; of a batch, scenario `index`.

        With `market`, the one that was cleared or the batch of them, an infeasible one also says
        what lacks and the cheapest way out. Raises `ValueError` for a batch without an index.
        """
        if np.ndim(self.steps):
            if index is None or not -len(self.steps) <= index < len(self.steps):
                raise ValueError(
                    f"why: {len(self.steps)} scenarios; give one of 0 to {len(self.steps) - 1}."
                )
            one, market = jax.tree.map(lambda a: jnp.asarray(a[index]), (self, market))
            return one.why(market=market)
        if bool(self.ok):
            return f"cleared after {int(self.steps)} steps"
        if market is not None or not is_status(self.status, Status.infeasible):
            return complaint(market, self)
        return f"infeasible: no plan meets all limits; {said_by_ray(self.certificate, self.prices)}"

    def to_xarray(self, market: Market) -> "Dataset":
        """Plan, prices, bills, AC power flow and certificate as one xarray `Dataset`.

        With `market`, the one that was cleared or the batch of them: `jaxgne.dataset.to_xarray`.
        """
        from .dataset import to_xarray

        return to_xarray(market, self)

    @hosted
    def __str__(self) -> str:
        if isinstance(self.steps, Tracer) or np.ndim(self.steps) > 1:
            return f"Clearing of a batch of shape {self.steps.shape}"
        if np.ndim(self.steps):
            return self._by_scenario()
        name = status_name(self.status)
        head = f"{name} after {int(self.steps)} steps"
        if name != "cleared":
            head += f". {status_message(self.status)}"
        if name == "infeasible":  # there is no plan whose numbers would say anything
            return f"{head}\n{said_by_ray(self.certificate, self.prices)}"
        sigma, price = np.asarray(self.aggregate), np.asarray(self.prices.balance)
        return "\n".join(
            [
                head,
                f"contracted import {sigma.min():.1f} to {sigma.max():.1f} kW",
                f"own energy value {price.min():.4f} to {price.max():.4f} EUR/kWh",
                str(self.certificate),
            ]
        )

    def _by_scenario(self) -> str:
        """How the scenarios of a batch ended, and which did not clear."""
        ended = {
            word: np.flatnonzero(is_status(self.status, getattr(Status, word))) for word in STATUSES
        }
        lines = [f"Clearing of {np.size(self.steps)} scenarios"]
        for word, which in ended.items():
            shown = ", ".join(map(str, which[:_SHOWN])) + ", ..." * (len(which) > _SHOWN)
            if len(which):
                lines.append(f"  {len(which)} {word}" + f": {shown}" * (word != "cleared"))
        good = ended["cleared"]
        if len(good):
            error, cost = np.asarray(self.certificate.error)[good], np.asarray(self.costs)[good]
            most = int(error.argmax())
            total = cost.sum(axis=1)
            lines += [
                f"largest relative KKT error of the cleared {error[most]:.1e} "
                f"(scenario {good[most]})",
                f"cost of all prosumers {total.min():.2f} to {total.max():.2f} EUR",
            ]
        late = stragglers(self)
        return "\n".join(lines + [late] * bool(late))


def stragglers(clearing: Clearing) -> str:
    """Which scenarios of a batch were stopped because others had long cleared; "" for none."""
    late = np.flatnonzero(is_status(clearing.status, Status.stopped))
    if not late.size:
        return ""
    steps, error = np.asarray(clearing.steps), np.asarray(clearing.certificate.error)
    told = [f"{k} (relative KKT error {error[k]:.1e} after {steps[k]:,} steps)" for k in late]
    told = ", ".join(told[:_SHOWN]) + ", ..." * (late.size > _SHOWN)
    slowest = steps[np.asarray(clearing.ok)].max(initial=0)
    return (
        f"stopped as stragglers: scenario {told}; the slowest that cleared took {slowest:,} steps, "
        "and patience=inf waits for all."
    )


def complaint(market: Market | None, clearing: Clearing) -> str:
    """Why a market did not clear, in words."""
    if market is not None and is_status(clearing.status, Status.infeasible):
        if not held_here(market.prosumers.load):
            return "infeasible: no plan meets all limits."
        return f"infeasible: {why_infeasible(market, clearing.prices)}"
    name = status_name(clearing.status)
    error = float(clearing.certificate.error)
    return (
        f"{name} after {int(clearing.steps)} steps, relative KKT error {error:.1e}. "
        f"{status_message(clearing.status)}"
    )
