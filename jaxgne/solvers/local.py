"""A prosumer's part of the paper's mechanism: its exact answer to prices, written for one.

A strongly convex quadratic program, vmapped by callers. Its energy values balance each hour by a
root on a line; values of what buffers hold are multipliers that `dual` finds.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..curves import AbstractCurve, crossing, curvatures, slopes
from ..record import Record
from ..succession import Before, earlier, entered, handed, siblings
from .dual import Solution, maximize, tolerance

_REACH = 1e3  # longest step: what moves the stiffest variable so many times the market's power
_TINY = 1e-12  # of an entry of the Newton matrix: what is added to it
_BRACKETS = 80  # evaluations of one hour's root


class Choice(Record):
    """What one prosumer decides, in slots; or one number per decision (bounds, weights, costs).

    `trades` are the prosumer's own copies: power bought from each trading neighbor.
    """

    generation: Float[Array, "G H"]  # kW
    charge: Float[Array, "K H"]  # kW
    discharge: Float[Array, "K H"]  # kW
    energy: Float[Array, "K H"]  # kWh, at the end of the hour
    imports: Float[Array, " H"]  # kW
    exports: Float[Array, " H"]  # kW
    curtailed: Float[Array, " H"]  # kW
    trades: Float[Array, "D H"]  # kW


class Prosumer(Record):
    """One prosumer's private data: sets, own costs, buffers. Empty slots have bounds of 0."""

    load: Float[Array, " H"]  # kW
    lower: Choice
    upper: Choice
    curvature: Choice  # EUR/kW^2, second derivative of the own cost
    proximal: Choice  # EUR/kW^2 (energy: EUR/kWh^2), 1 / alpha; positive
    toll: Float[Array, "D H"]  # EUR/kW, cost of |trades|
    retention: Float[Array, "K H"]
    into: Float[Array, "K H"]  # kWh stored per kW charged: Ts eta_ch
    out: Float[Array, "K H"]  # kWh taken per kW discharged: Ts / eta_ds
    energy_start: Float[Array, " K"]  # kWh
    drain: Float[Array, "K H"]  # kWh
    power_scale: Float[Array, ""]  # kW, by which balance residuals are measured
    energy_scale: Float[Array, ""]  # kWh
    curves: tuple[AbstractCurve, ...] = ()  # EUR/h, further costs of generation
    step: Any = None  # h, of each hour, where there are curves
    before: Before = eqx.field(default=None, static=True)  # which hour each begins from


def best_response(
    prosumer: Prosumer,
    priced: Choice,
    center: Choice,
    multipliers: Float[Array, "1+K H"],
) -> Solution:
    """One prosumer's answer to prices: the paper, Algorithm 1, first step (model.md: Mechanism):

        argmin  priced . u + curvature/2 u^2 + toll |u_tr| + proximal/2 (u - center)^2
        s.t.    lower <= u <= upper
                load + cu + ch - ds - di - mg + ex - sum tr = 0                   (each hour)
                x_h - retention x_(h-1) - into ch + out ds + drain = 0    (each hour and buffer)

    `priced` is the marginal price of each decision in EUR/kW at the held aggregate, its own
    quadratic cost apart. `multipliers` starts the solve; the solution's `duals` are those at the
    answer: the first row is Ts pi (EUR/kW), the others water values (EUR/kWh).
    """

    respond = partial(_balanced, prosumer, priced, center)
    if prosumer.into.shape[0] == 0:
        return respond(multipliers)
    return maximize(respond, lambda at, damping: _newton(prosumer, at, damping), multipliers)


def _balanced(prosumer: Prosumer, priced: Choice, center: Choice, start: Array) -> Solution:
    """Every decision at given water values, each hour balanced by its own energy value.

    What an hour lacks falls as its own energy value rises: a root on the line, found by Newton
    steps kept inside a bracket, which is halved (or opened further) whenever they do not help.
    """
    enough = 0.1 * tolerance(start.dtype) * prosumer.power_scale
    reach = _reach(prosumer)

    def at_own(own: Array) -> Solution:
        return _respond(prosumer, priced, center, jnp.concatenate([own[None], start[1:]]))

    def open_hours(at: Solution, low: Array, high: Array) -> Bool[Array, " H"]:
        own, lack = at.duals[0], at.residual[0]
        near = jnp.abs(own - start[0]) < reach
        known = jnp.isfinite(jnp.where(lack > 0, high, low))  # the root lies before that
        return (jnp.abs(lack) > enough) & (near | known) & (low < own) & (own < high)

    def going(carry: tuple) -> Bool[Array, ""]:
        at, low, high, _, _, count = carry
        return jnp.any(open_hours(at, low, high)) & (count < _BRACKETS)

    def body(carry: tuple) -> tuple:
        at, low, high, stuck, stride, count = carry
        own, lack, slope = at.duals[0], at.residual[0], _across(at.slope)
        todo = open_hours(at, low, high)
        low, high = jnp.where(lack > 0, own, low), jnp.where(lack < 0, own, high)
        newton = own + lack / jnp.where(slope > 0, slope, 1.0)
        closed = jnp.isfinite(low) & jnp.isfinite(high)
        middle = jnp.where(closed, (low + high) / 2, own + jnp.sign(lack) * stride)
        helpful = (slope > 0) & (newton > low) & (newton < high) & ~stuck
        new = at_own(jnp.where(todo, jnp.where(helpful, newton, middle), own))
        stuck = jnp.abs(new.residual[0]) > jnp.abs(lack) / 2
        return new, low, high, stuck & helpful, 4 * stride, count + 1

    boundless = jnp.full_like(start[0], jnp.inf)
    first = (at_own(start[0]), -boundless, boundless, boundless < 0, 1e-6 * reach)
    at, *_ = jax.lax.while_loop(going, body, (*first, jnp.zeros((), jnp.int32)))
    return at


def _pull(prosumer: Prosumer, duals: Array) -> Choice:
    """rows^T duals: what private multipliers add to the price of each decision."""
    own, water = duals[0], duals[1:]
    after = handed(prosumer.before, prosumer.retention * water)
    lower = prosumer.lower
    return Choice(
        generation=jnp.broadcast_to(-own, lower.generation.shape),
        charge=own - prosumer.into * water,
        discharge=prosumer.out * water - own,
        energy=water - after,
        imports=-own,
        exports=own,
        curtailed=own,
        trades=jnp.broadcast_to(-own, lower.trades.shape),
    )


def _rows(prosumer: Prosumer, u: Choice) -> Float[Array, "1+K H"]:
    """Own balance (kW), then buffer dynamics (kWh), demand minus supply."""
    before = entered(prosumer.before, prosumer.energy_start, u.energy)
    demand = prosumer.load + u.curtailed + u.exports + jnp.sum(u.charge, axis=0)
    devices = jnp.sum(u.generation, axis=0) + jnp.sum(u.discharge, axis=0)
    balance = demand - devices - u.imports - jnp.sum(u.trades, axis=0)
    dynamics = (
        u.energy
        - prosumer.retention * before
        - prosumer.into * u.charge
        + prosumer.out * u.discharge
        + prosumer.drain
    )
    return jnp.concatenate([balance[None], dynamics])


def _respond(prosumer: Prosumer, priced: Choice, center: Choice, duals: Array) -> Solution:
    """Every decision at given private multipliers, in closed form but where costs are curves."""
    bend = jax.tree.map(jnp.add, prosumer.curvature, prosumer.proximal)
    wish = jax.tree.map(
        lambda price, own, m, c, a: (m * c - price - own) / a,
        *(priced, _pull(prosumer, duals), prosumer.proximal, center, bend),
    )
    if prosumer.curves:
        made, bent = _curved(prosumer, wish.generation, bend.generation)
        wish, bend = replace(wish, generation=made), replace(bend, generation=bent)
    threshold = prosumer.toll / bend.trades
    shrunk = jnp.sign(wish.trades) * jnp.maximum(jnp.abs(wish.trades) - threshold, 0.0)
    wish = eqx.tree_at(lambda u: u.trades, wish, shrunk)
    u = jax.tree.map(lambda w, lo, up: jnp.clip(w, lo, up), wish, prosumer.lower, prosumer.upper)
    slope = jax.tree.map(
        lambda w, lo, up, a: jnp.where((w > lo) & (w < up), 1 / a, 0.0),
        *(wish, prosumer.lower, prosumer.upper, bend),
    )
    slope = eqx.tree_at(lambda s: s.trades, slope, jnp.where(shrunk != 0, slope.trades, 0.0))
    residual = _rows(prosumer, u)
    error = jnp.maximum(
        jnp.max(jnp.abs(residual[0]), initial=0.0) / prosumer.power_scale,
        jnp.max(jnp.abs(residual[1:]), initial=0.0) / prosumer.energy_scale,
    )
    return Solution(duals, u, slope, residual, error)


def _curved(prosumer: Prosumer, wish: Array, bend: Array) -> tuple[Array, Array]:
    """Generation that is wished for with curves among its costs, and the curvature of all there."""

    def rise(power: Array) -> tuple[Array, Array]:
        slope, more = slopes(prosumer.curves, power), curvatures(prosumer.curves, power)
        return bend * (power - wish) + prosumer.step * slope, bend + prosumer.step * more

    made = crossing(rise, prosumer.lower.generation, prosumer.upper.generation, wish)
    return made, rise(made)[1]


def _across(u: Choice) -> Float[Array, " H"]:
    """Sum over all decisions that enter the own balance."""
    slots = (u.generation, u.charge, u.discharge, u.trades)
    return sum((jnp.sum(a, axis=0) for a in slots), u.imports + u.exports + u.curtailed)


def _newton(prosumer: Prosumer, at: Solution, damping: Array) -> Float[Array, "1+K H"]:
    """Damped Newton direction of the dual: (A diag(slope) A^T) d = residual.

    The own balances' block is diagonal and eliminated first; what remains is tridiagonal in time
    for one buffer, dense for several.
    """
    bend = jax.tree.map(jnp.add, prosumer.curvature, prosumer.proximal)
    w = jax.tree.map(
        lambda s, a, lo, up: s + damping * (jnp.where(up > lo, 1 / a, 0.0) - s),
        *(at.slope, bend, prosumer.lower, prosumer.upper),
    )
    into, out, keep = prosumer.into, prosumer.out, prosumer.retention
    before = entered(prosumer.before, jnp.zeros_like(prosumer.energy_start), w.energy)
    first, diagonal = _across(w), w.energy + keep**2 * before
    diagonal += into**2 * w.charge + out**2 * w.discharge
    first, diagonal = (a + jnp.where(a > 0, _TINY * a, 1.0) for a in (first, diagonal))
    cross = -(into * w.charge + out * w.discharge)
    aim = at.residual[1:] - cross * at.residual[0] / first
    water = _solve_in_time(prosumer, diagonal, before, cross, first, aim)
    own = (at.residual[0] - jnp.sum(cross * water, axis=0)) / first
    step = jnp.concatenate([own[None], water])
    reach = _reach(prosumer)
    return step * jnp.minimum(1.0, reach / jnp.maximum(jnp.max(jnp.abs(step)), reach))


def _reach(prosumer: Prosumer) -> Float[Array, ""]:
    """The farthest that a multiplier may go in one call, EUR/kW."""
    bend = jax.tree.map(jnp.add, prosumer.curvature, prosumer.proximal)
    powers = eqx.tree_at(lambda a: a.energy, bend, jnp.zeros_like(bend.energy))
    stiffest = jnp.max(jnp.stack([jnp.max(a, initial=0.0) for a in jax.tree.leaves(powers)]))
    return _REACH * prosumer.power_scale * stiffest


def _solve_in_time(
    prosumer: Prosumer,
    diagonal: Float[Array, "K H"],
    held: Float[Array, "K H"],
    cross: Float[Array, "K H"],
    first: Float[Array, " H"],
    aim: Float[Array, "K H"],
) -> Float[Array, "K H"]:
    """Solve (T - cross cross^T / first) y = aim, the second part of T per hour.

    T has for each buffer a `diagonal`; beside it hours meet in what they begin with, of slope
    `held`.
    """
    buffers, hours = aim.shape
    if buffers == 0 or hours == 0:
        return aim
    before, keep = prosumer.before, prosumer.retention
    beside = -keep * held
    if buffers == 1 and before is None:
        below, above = beside[0], handed(None, beside)[0]
        middle = diagonal[0] - cross[0] ** 2 / first
        return jax.lax.linalg.tridiagonal_solve(below, middle, above, aim[0][:, None])[:, 0][None]
    below = beside[:, :, None] * earlier(before, hours).astype(aim.dtype)
    band = jax.vmap(jnp.diag)(diagonal) + below + below.mT
    if before is not None:
        both = keep[:, :, None] * keep[:, None, :] * held[:, :, None]
        band += both * siblings(before, hours).astype(aim.dtype)
    same = jnp.eye(buffers, dtype=aim.dtype)
    hour = jnp.eye(hours, dtype=aim.dtype)
    full = jnp.einsum("kij,kl->kilj", band, same)
    full -= jnp.einsum("ki,li,ij->kilj", cross, cross / first, hour)
    size = buffers * hours
    root = jax.scipy.linalg.cho_factor(full.reshape(size, size))
    return jax.scipy.linalg.cho_solve(root, aim.reshape(size)).reshape(aim.shape)
