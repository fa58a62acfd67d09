"""Which equilibrium, where there are several: the one with the least of something.

Prices, and total import where the tariff rises with it, are as good as unique; single trades, and
schedules of storage that costs nothing, are not (model.md: Uniqueness). All equilibria at the same
prices are those feasible plans whose every entry is as cheap as it can be at these prices: what
would cost, or has a strictly convex cost, stands where it is, the rest is free. `select` minimizes
over what is free.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .certificate import certify
from .clearing import clear
from .commitments import refuse
from .each import for_each, for_one
from .market import Market, cast
from .model import (
    Plan,
    Rows,
    aggregate,
    by_side,
    costs,
    counted,
    potential,
    toll,
    zeros,
)
from .one_way import freed
from .options import checked_options, tolerance
from .programs import program
from .result import Clearing, NotCleared, Run
from .runner import concrete, jnp
from .scales import scales
from .solve import Progress
from .solvers.base import AbstractSolver, written
from .solvers.interior_point import InteriorPoint
from .solvers.second_stage import Preference, at_prices, evening, preferred, weighing
from .status import Status

Objective = Literal["congestion", "trade", "fairness", "norm", "import"]
CHOICES: tuple[Objective, ...] = ("congestion", "trade", "fairness", "norm")  # that tables compare

_EACH = "call it for each, jg.scenarios.lane(markets, k)"
_FIRST = 0.1  # weight of the norm, relative to the market's price over its power
_TIMES = 8  # it is divided by ten, at most
_FREE = 1 / 30  # of `tol`: what an entry may cost, relative to the market's price, and still move
_ENOUGH = 1e-7  # and that is taken, where rounding lets it come no closer


@for_each
def congestion(market: Market, plan: Plan) -> Float[Array, ""]:
    """Half the sum of squared flows, kVA^2: 1/2 sum over lines and hours of p^2 + q^2.

    The congestion cost of the follow-up's numerical study, each line counted once.
    """
    return jnp.sum(plan.active**2 + plan.reactive**2) / 2


@for_each
def traded(market: Market, plan: Plan) -> Float[Array, ""]:
    """Energy traded between peers, kWh."""
    return jnp.sum(counted(market) * jnp.abs(plan.trades))


@for_each
def spread(market: Market, plan: Plan) -> Float[Array, ""]:
    """Standard deviation of the prosumers' costs J_i, EUR."""
    return jnp.std(costs(market, plan))


@for_each
def norm(market: Market, plan: Plan) -> Float[Array, ""]:
    """Euclidean norm of trades and storage powers, kW."""
    entries = (plan.trades, plan.charge, plan.discharge)
    return jnp.sqrt(sum(jnp.sum(entry**2) for entry in entries))


MEASURES = {"congestion": congestion, "traded": traded, "spread": spread, "norm": norm}


@for_one(_EACH)
def select(
    market: Market,
    objective: Objective = "congestion",
    *,
    tol: Any = None,
    max_steps: int = 100,
    start: Clearing | None = None,
    throw: bool = True,
) -> Clearing:
    """Of all v-GNE at the market's equilibrium prices the one with the least of an `objective`.

    `congestion`, `trade`, `fairness` and `norm` are least `congestion`, `traded`, `spread` and
    `norm` of this module. `import` is least in the sum of squares of the power at the transformer,
    net of exports: at a flat tariff (`slope` 0) total import is not unique, and with this it is.
    Two stages, both by `InteriorPoint`: clear the market to a thousandth of
    `tol`; hold every entry that costs something at these prices, or whose cost is strictly convex,
    and minimize over the others within their bounds and all rows. Prices are those of the first
    stage, and the certificate, on the market itself, judges them with the plan of the second.

    What a prosumer pays in total, payments between peers and to the operator included, is the same
    at all equilibria with these prices if both sides of each pair reckon with the same fee: each
    buys its least-cost plan. So `fairness` evens out the costs J_i (model.md: Costs), which leave
    these payments out, and no bill.

    `start` warm-starts the first stage, `max_steps` bounds each of them, `steps` counts both. Runs
    on the host. Raises what `clear` raises, `NotCleared` if the certificate of the plan chosen is
    above `tol`, `ValueError` for an objective that does not exist, `TypeError` when traced.
    """
    if objective not in get_args(Objective):
        known = ", ".join(get_args(Objective))
        raise ValueError(f"select: objective {objective!r} does not exist; take one of {known}.")
    if not concrete((market, tol, start)):
        raise TypeError("select() runs on the host: call it outside of jit and vmap.")
    checked_options("select", market, max_steps=max_steps, start=start)
    refuse("select", market, "least_norm takes such markets")
    tol = float(tolerance(tol, market.prosumers.load.dtype))
    with jax.enable_x64(True):
        wide = cast(market, jnp.float64)
        first = clear(
            wide, InteriorPoint(), tol=max(tol / 1000, 1e-11), max_steps=max_steps, start=start,
            throw=throw,
        )  # fmt: skip
        if not bool(first.ok):
            return first
        preference = prefer(wide, first.plan, first.prices, objective, tol * _FREE)
        limit = jnp.asarray(max_steps, jnp.int32)
        plan, steps, left = preferred(wide, preference, first.plan, first.prices, limit)
        plan = freed(wide, plan)
        found = certify(wide, plan, first.prices)
    good = (found.error <= tol) & (left <= _ENOUGH)
    chosen = Clearing(
        plan=plan,
        prices=first.prices,
        costs=costs(wide, plan),
        aggregate=aggregate(wide, plan),
        certificate=found,
        steps=first.steps + steps,
        status=Status.where(good, Status.cleared, Status.max_steps),
        run=Run(written(InteriorPoint(preference)), jnp.asarray(tol), jnp.asarray(True)),
    )
    chosen = cast(chosen, market.prosumers.load.dtype)
    if throw and not bool(good):
        raise NotCleared(
            f"select: {int(steps)} steps of the second stage left a relative error of "
            f"{float(left):.1e}, the certificate's is {float(found.error):.1e} (tol={tol:g}); "
            "raise max_steps.",
            chosen,
        )
    return chosen


@program("the second stage", once=True)
def prefer(market: Market, plan: Plan, prices: Rows, objective: Objective, free: Any) -> Preference:
    """An objective, scaled to the market's prices, over the equilibria with these prices.

    An entry whose reduced cost at `prices` is above `free`, relative to the market's price, or
    whose cost is strictly convex, is held where `plan` has it.
    """
    scale, entries = scales(market, plan), zeros(market)
    among, kwh = at_prices(market, plan, prices, free), counted(market) * scale.price
    if objective == "congestion":
        return replace(among, line=among.line + kwh / scale.total)
    if objective == "import":
        return replace(among, stiff=weighing(market, entries, kwh / scale.total))
    if objective == "fairness":
        return evening(market, among, _cost_by_trades, scale.bill)
    one = {"norm": ("charge", "discharge", "trades"), "trade": ("trades",)}[objective]
    marked = replace(entries, **{name: jnp.ones_like(getattr(entries, name)) for name in one})
    weight = weighing(market, marked, jnp.zeros_like(kwh))
    if objective == "trade":
        return replace(among, linear=kwh * weight)
    return replace(among, stiff=kwh / scale.power * weight)


def _cost_by_trades(market: Market, plan: Plan, traded: Float[Array, "E H"]) -> Float[Array, " N"]:
    """J_i, EUR, its toll that of `traded` kW, which is linear where |t| is not."""
    pairs = market.trading
    tolled = eqx.tree_at(
        lambda m: (m.trading.toll, m.trading.reluctance),
        market,
        (0 * pairs.toll, 0 * pairs.reluctance),
    )
    paid = by_side(market, toll(market) / 2 * traded)
    return costs(tolled, plan) + jnp.sum(paid, axis=1)


@for_one(_EACH)
def selection_table(market: Market, *, tol: Any = None) -> dict[str, dict[str, float]]:
    """What each choice of equilibrium leads to, beside that of `clear` ("as cleared").

    By choice: `congestion` (kVA^2), `traded` (kWh), `spread` (EUR), `norm` (kW), `potential` (EUR),
    `error` (of the certificate) and `steps`. Raises what `select` raises.
    """
    plain = clear(market, InteriorPoint(), tol=tol)
    found = {"as cleared": plain}
    found |= {name: select(market, name, tol=tol, start=plain) for name in CHOICES}

    return {name: measured(market, chosen) for name, chosen in found.items()}


@for_one()
def measured(market: Market, clearing: Clearing) -> dict[str, float]:
    """What an equilibrium leads to: a line of `selection_table`."""
    values = {name: float(measure(market, clearing.plan)) for name, measure in MEASURES.items()}
    values["potential"] = float(potential(market, clearing.plan))
    return values | {"error": float(clearing.certificate.error), "steps": float(clearing.steps)}


@for_each
def smoothed(market: Market, weight: Any) -> Market:
    """The market with `weight / 2 (t^2 + p_ch^2 + p_ds^2)` EUR per hour added to its costs.

    For each pair's trade t and each buffer's powers, in kW; `weight` in EUR/kW^2h. Its trades and
    storage powers are unique.
    """

    def costlier(m: Market) -> tuple:
        return m.trading.quadratic, m.buffers.quadratic

    both_sides, own = costlier(market)
    return eqx.tree_at(costlier, market, (both_sides + weight / 4, own + weight / 2))


@for_one(_EACH)
def least_norm(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    throw: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Clearing:
    """The v-GNE whose trades and storage powers have the least Euclidean norm.

    Takes what `clear` takes, and ten times its accuracy inside. The prices are those of `clear`,
    the plan is that of the market with a small quadratic cost on trades and storage powers. If the
    cost is small enough, that plan is an equilibrium of the market itself, and then it is the one
    of least norm (exact regularization: Friedlander, Tseng, SIAM J. Optim. 18, 2007). So the cost
    is divided by ten until the certificate of plan and prices, without it, is at most `tol`.

    Runs on the host: not under `jax.jit` or `jax.vmap`. Raises what `clear` raises, and `TypeError`
    when traced.
    """
    if not concrete((market, tol, start)):
        raise TypeError("least_norm() runs on the host: call it outside of jit and vmap.")
    checked_options(
        "least_norm", market, solver, max_steps=max_steps, start=start, progress=progress
    )
    single = market.prosumers.load.dtype.itemsize < 8
    tol = float(tolerance(tol, market.prosumers.load.dtype))
    inner = max(tol / 10, 1e-5 if single else 1e-11)
    options = {"tol": inner, "max_steps": max_steps, "progress": progress}
    first = clear(market, solver, start=start, throw=throw, **options)
    if not bool(first.ok):
        return first
    scales = first.certificate.scales
    weight, now, steps = _FIRST * scales.price / scales.power, first, first.steps
    found, tries = first.certificate, 0
    while tries == 0 or (bool(found.error > tol) and tries < _TIMES):
        now = clear(smoothed(market, weight / 10**tries), solver, start=now, throw=False, **options)
        found = certify(market, now.plan, first.prices)
        steps, tries = steps + now.steps, tries + 1
    chosen = replace(
        now,
        prices=first.prices,
        costs=costs(market, now.plan),
        aggregate=aggregate(market, now.plan),
        certificate=found,
        steps=steps,
        status=Status.where(found.error <= tol, Status.cleared, Status.max_steps),
    )
    if throw and not bool(chosen.ok):
        raise NotCleared(
            f"least_norm: {tries} ever smaller weights of the norm gave no equilibrium within "
            f"tol={tol:g} (error {float(found.error):.1e}); raise max_steps.",
            chosen,
        )
    return chosen
