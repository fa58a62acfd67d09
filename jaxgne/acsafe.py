"""Clearings that the AC power flow finds safe: limits with margins, as large as it takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer
from jaxtyping import Array, Float

from .acflow import ac_power_flow, check, unexamined
from .clearing import clear
from .each import LANE, for_each, for_one
from .market import Grid, Market
from .model import Plan, voltages
from .options import checked_options
from .record import Record
from .result import Clearing, NotCleared
from .runner import built, hosted, jnp
from .solve import Progress
from .solvers.base import AbstractSolver
from .status import Status, is_status

_BEYOND = 2e-5  # pu or share that a margin takes more than the last error, so that it is enough


class Margins(Record):
    """How much tighter limits are: voltages in pu by bus, ratings by a factor of at least 1."""

    low: Float[Array, " B"]
    high: Float[Array, " B"]
    loading: Float[Array, " L"]


class AcSafe(Record):
    """A clearing with an AC-safe plan, the market with margins that it clears, and the margins.

    The clearing's certificate judges it on `market`; its AC findings are against the limits as they
    were given.
    """

    clearing: Clearing
    market: Market
    margins: Margins
    rounds: int = eqx.field(static=True)


@for_each
def with_margin(market: Market, voltage: Any = 0.0, loading: Any = 0.0) -> Market:
    """The market with voltage limits `voltage` pu and ratings a share `loading` tighter.

    `docs/ac.md` has the errors of the linear models: 0.0025 pu cover LinDistFlow on IEEE 37.
    """
    grid = market.grid
    low = jnp.broadcast_to(jnp.asarray(voltage, grid.voltage_min.dtype), grid.voltage_min.shape)
    more = jnp.broadcast_to(jnp.asarray(1 + loading, grid.rating.dtype), grid.rating.shape)
    return _tightened(market, Margins(low, low, more))


@for_one(f"{LANE}, one after the other")
def clear_ac_safe(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    ac_margin: float = 0.0,
    rounds: int = 8,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AcSafe:
    """Clear with margins on voltages and ratings until an AC power flow finds the plan safe.

    The first clear takes the margin `ac_margin` (pu, and share of ratings) everywhere. Where the AC
    state breaks a limit, the limit is tightened there by what the linear model was wrong, and the
    market cleared again, from the last answer; where that is infeasible, half-way back to the last
    margins that were not. Takes what `clear` takes otherwise.

    Raises `NotCleared` where a market with margins does not clear, or after `rounds` clears;
    `ValueError` for a market without a grid, or with one whose AC state cannot be examined
    (`ac_power_flow`); `TypeError` when traced.
    """
    if isinstance(market.prosumers.load, Tracer):
        raise TypeError("clear_ac_safe() runs on the host: call it outside of jit and vmap.")
    checked_options(
        "clear_ac_safe", market, solver, max_steps=max_steps, start=start, progress=progress,
        rounds=rounds,
    )  # fmt: skip
    if not 0 <= ac_margin < 1:
        raise ValueError(f"clear_ac_safe: ac_margin={ac_margin:g}; give pu from 0 to below 1.")
    if not market.grid.model.networked:
        raise ValueError("clear_ac_safe: copperplate has no grid; build the market with one.")
    grid = market.grid
    reason = unexamined(grid)
    if reason:
        raise ValueError(f"clear_ac_safe: {reason}")
    margins = _alike(grid, ac_margin)
    now, last, tight, possible, beyond = start, None, market, None, ""
    for count in range(1, rounds + 1):
        tight = _tightened(market, margins)
        try:
            last = clear(tight, solver, tol=tol, max_steps=max_steps, start=now, progress=progress)
        except NotCleared as failed:
            if possible is not None and is_status(failed.clearing.status, Status.infeasible):
                margins = _halfway(possible, margins)
                beyond = f"\nWider margins are {failed}"
                continue
            words = f"{failed} This is with margins for the AC power flow: {_told(margins)}."
            raise NotCleared(
                words if count > 1 or ac_margin else str(failed), failed.clearing, tight
            ) from None
        found = built(check)(market, last.plan)
        last = now = replace(last, certificate=replace(last.certificate, ac=found))
        if found is not None and bool(found.safe):
            return AcSafe(last, tight, margins, count)
        if found is not None and not bool(found.converged):
            raise NotCleared(
                "clear_ac_safe: the AC power flow of the plan does not converge, so it does not "
                "tell which limits to tighten; give ac_margin, or lower ratings.",
                last,
                tight,
            )
        margins, possible = _wider(market, last.plan, margins), margins
    assert last is not None and possible is not None
    raise NotCleared(
        f"clear_ac_safe: not AC-safe after {rounds} clears with margins of {_told(possible)}: "
        f"{str(last.certificate).splitlines()[-1]}{beyond}",
        last,
        tight,
    )


@built
def _alike(grid: Grid, margin: float) -> Margins:
    """The same margin everywhere: pu, and share of ratings."""
    return Margins(
        low=jnp.full_like(grid.voltage_min, margin),
        high=jnp.full_like(grid.voltage_max, margin),
        loading=jnp.full_like(grid.rating, 1 + margin),
    )


@built
def _wider(market: Market, plan: Plan, margins: Margins) -> Margins:
    """Margins that also cover where the linear model of the plan was wrong beyond a limit.

    The AC state's currents are held to the ratings that the linear model holds kVA to.
    """
    flow, grid = ac_power_flow(market, plan), market.grid
    assumed, found = voltages(market, plan), flow.voltage
    kva = jnp.hypot(plan.active, plan.reactive)

    def most(error: Array, where: Array) -> Array:
        return jnp.max(jnp.where(where, error, 0.0), axis=1, initial=0.0)

    low = most(assumed - found + _BEYOND, found < grid.voltage_min[:, None])
    high = most(found - assumed + _BEYOND, found > grid.voltage_max[:, None])
    ratio = jnp.where(kva > 0, flow.current / jnp.where(kva > 0, kva, 1.0), 1.0)
    full = most(ratio + _BEYOND, flow.current > grid.rating[:, None])
    return Margins(
        low=jnp.maximum(margins.low, low.astype(margins.low.dtype)),
        high=jnp.maximum(margins.high, high.astype(margins.high.dtype)),
        loading=jnp.maximum(margins.loading, full.astype(margins.loading.dtype)),
    )


@built
def _halfway(one: Margins, other: Margins) -> Margins:
    return jax.tree.map(lambda a, b: (a + b) / 2, one, other)


@built
def _tightened(market: Market, margins: Margins) -> Market:
    """The market within margins; where both sides meet, at their middle."""

    def limits(grid: Grid) -> tuple[Array, Array, Array]:
        return grid.voltage_min, grid.voltage_max, grid.rating

    grid = market.grid
    low, high = grid.voltage_min + margins.low, grid.voltage_max - margins.high
    middle = (low + high) / 2
    tight = (jnp.minimum(low, middle), jnp.maximum(high, middle), grid.rating / margins.loading)
    return eqx.tree_at(lambda m: limits(m.grid), market, tight)


@hosted
def _told(margins: Margins) -> str:
    return (
        f"up to {float(jnp.maximum(margins.low.max(), margins.high.max())):.4f} pu and "
        f"{100 * (float(margins.loading.max(initial=1.0)) - 1):.2f} % of ratings"
    )
