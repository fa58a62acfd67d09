"""How far a derivative of an equilibrium can be trusted: what is unique, what may switch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from .certificate import Certificate
from .clearing import clear
from .each import for_one
from .gradients import by_parts
from .market import Market
from .model import Plan, Rows, aggregate, costs
from .programs import program
from .record import Record
from .result import Clearing
from .runner import by_numpy, concrete, jnp, lax, runs_here, to_host
from .sensitivity.active import Active, active_set, firm
from .sensitivity.by_point import hessian, unfolded_back
from .sensitivity.implicit import AbstractAdjoint, Implicit
from .sensitivity.lagrangian import Point, point_of, sizes, slope, unfold
from .sensitivity.linear import factored
from .sensitivity.open_prices import effects, loosened, named
from .sensitivity.refinement import add, dot, refined
from .size import is_quick
from .status import status_name
from .validation import gate

_SOLVED = 1e-5  # relative residual up to which a derivative counts as solved for
_MOVES = 1e-5  # share of an output, or a parameter's effect, that tells it from rounding
_NEAR = 0.1  # share of the root of a clearing's error that is no distance from a bound
_STEP = 1e-4  # of the spot check, relative to the numbers that it moves
_NOISE = 1e-6  # what clearings' tolerance leaves of a difference, relative to the output itself
_CLOSE = 1e-3  # relative difference that the spot check may find

Output = Callable[[Market, Clearing], Any]


def _loads_and_prices(market: Market) -> Any:
    return market.prosumers.load, market.grid.passive, market.tariff.base, market.tariff.slope


class Trust(Record):
    """What is known of a derivative of `output`; prints as sentences.

    `residual` is that of the linear system behind it, relative. `freedom` is how much of the output
    changes along a random equilibrium nearby, relative: 0 where unique. `weak` counts bounds
    that are about to switch: at them derivatives are one-sided. `undetermined` names fields whose
    changes no equilibrium nearby may follow: a derivative with respect to them means little.
    With a spot check, `predicted` and `measured` are the output's change along a random direction,
    by derivative and by central differences.
    """

    status: str = eqx.field(static=True)
    residual: float
    freedom: float
    weak: dict[str, int]
    undetermined: tuple[str, ...] = eqx.field(static=True)
    value: float  # of the output
    predicted: float | None
    measured: float | None

    @property
    def unique(self) -> bool:
        """Whether the output is the same at all equilibria nearby."""
        return self.freedom <= _MOVES and self.residual <= _SOLVED

    @property
    def agrees(self) -> bool | None:
        """Whether the spot check agrees; None without one."""
        if self.predicted is None or self.measured is None:
            return None
        size = _CLOSE * max(abs(self.predicted), abs(self.measured))
        return abs(self.predicted - self.measured) <= size + _NOISE * abs(self.value)

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the derivative."""
        sound = self.status == "cleared" and self.unique and not self.weak
        return sound and self.agrees is not False

    def __str__(self) -> str:
        lines = ["The derivative can be trusted." if self.ok else "The derivative is in doubt:"]
        if self.status != "cleared":
            lines.append(f"- the market did not clear ({self.status})")
        if self.freedom > _MOVES:
            lines.append("- the output is not unique: equilibria nearby differ in it")
        elif self.residual > _SOLVED:
            lines.append(f"- its linear system is solved to {self.residual:.0e} only")
        if self.weak:
            counts = ", ".join(f"{count} of {name}" for name, count in self.weak.items())
            lines.append(f"- bounds about to switch, where derivatives are one-sided: {counts}")
        if self.agrees is False:
            lines.append(
                f"- along a random direction it says {self.predicted:.6g}, differences say "
                f"{self.measured:.6g}"
            )
        if self.undetermined:
            names = ", ".join(self.undetermined)
            lines.append(f"Not determined, whatever the output: derivatives by {names}.")
        lines.append(f"Relative residual {self.residual:.0e}.")
        return "\n".join(lines)


@for_one()
def trust(
    market: Market,
    clearing: Clearing,
    output: Output,
    *,
    adjoint: AbstractAdjoint | None = None,
    where: Callable[[Market], Any] = _loads_and_prices,
    check: bool = False,
    seed: int = 0,
) -> Trust:
    """Whether derivatives of `output(market, clearing)` mean something at this equilibrium.

    `output` returns a scalar, or an array of which a random combination, that of `seed`, is looked
    at. `adjoint` is how they are taken, by default `Implicit()`. With `check`, two markets that
    differ by a small random change of the fields `where` (loads and tariff, unless given) are
    cleared, and the difference is set beside the derivative.

    Runs on the host. Raises `TypeError` when traced.
    """
    if not concrete((market, clearing)):
        raise TypeError("trust() runs on the host: call it outside of jit, grad and vmap.")
    gate(market, "trust")
    adjoint = Implicit() if adjoint is None else adjoint
    key = jax.random.key(seed)

    combined = eqx.Partial(_combined, output, key)  # the same one compiles once
    if isinstance(adjoint, Implicit) and is_quick(market) and runs_here((market, clearing)):
        found = _look_at_once(market, clearing, combined, adjoint, seed)
    else:
        found = _look(market, clearing, combined, adjoint, key)
    residual, freedom, near, moved = jax.tree.map(np.asarray, found)
    predicted = measured = None
    if check:
        predicted, measured = _spot(market, clearing, combined, adjoint, where, key)
    weak = {name: int(count) for name, count in near.items() if count}
    return Trust(
        status=status_name(clearing.status),
        residual=float(residual),
        freedom=float(freedom),
        weak=weak,
        undetermined=tuple(named(moved)),
        value=float(combined(market, clearing)),
        predicted=predicted,
        measured=measured,
    )


def _combined(output: Output, key: Array, market: Market, clearing: Clearing) -> Array:
    """The output, or a random combination of an array's entries."""
    value = jnp.ravel(jnp.asarray(output(market, clearing)))
    if value.size == 1:
        return value[0]
    return jnp.vdot(jax.random.normal(key, value.shape, value.dtype), value)


@program("what can be trusted", named=True)
def _look(
    market: Market, clearing: Clearing, output: Output, adjoint: AbstractAdjoint, key: Array
) -> Any:
    """Residual, freedom of the output, bounds about to switch, effect of fields on what is free."""
    plan, prices = clearing.plan, clearing.prices
    active, plan, point = adjoint.place(market, plan, prices)
    active = firm(active)

    def seen(point: Point) -> Array:
        return output(market, _with(clearing, market, *unfold(market, active, plan, point)))

    pull = jax.grad(seen)(point)
    size = sizes(market, plan)
    leaves, tree = jax.tree.flatten(point)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
    wild = jax.tree.map(
        lambda k, a, s: s * jax.random.normal(k, a.shape, a.dtype), keys, point, size
    )
    _, matvec = jax.linearize(lambda w: slope(market, active, plan, w), point)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), pull, matvec(wild))
    found = lax.map(lambda right: adjoint.solve(market, active, plan, point, right).solved, both)
    ahead = jax.tree.map(lambda a: a[1], found.point)
    loose = add(wild, -1.0, jax.tree.map(lambda a, b: a.astype(b.dtype), ahead, wild))
    real, rest = eqx.partition(market, eqx.is_inexact_array)

    def felt(real: Market) -> Array:
        return dot(slope(eqx.combine(real, rest), active, plan, point), loose)

    felt_by = effects(market, plan, jax.grad(felt)(real))
    near = _near(active_set(market, plan, prices), clearing.certificate)
    return found.residual[0], _freedom(pull, wild, loose), near, felt_by


def _look_at_once(
    market: Market, clearing: Clearing, output: Output, adjoint: Implicit, seed: int
) -> Any:
    """The same by NumPy, in which nothing is compiled but the derivative of the output."""
    _, by_plan, by_prices = by_parts(output, market, clearing)
    rng = np.random.default_rng(seed)
    with by_numpy():
        market, clearing, by_plan, by_prices = to_host((market, clearing, by_plan, by_prices))
        plan, prices = clearing.plan, clearing.prices
        active = firm(active_set(market, plan, prices))
        point, size = point_of(market, active, plan, prices), sizes(market, plan)
        matvec = hessian(market, active, plan, point)
        inverse = factored(market, active, plan, matvec)
        pull = unfolded_back(market, active, plan, by_plan, by_prices)
        wild = jax.tree.map(lambda a, s: s * to_host(rng.normal(size=a.shape)), point, size)
        ahead = refined(matvec, inverse, matvec(wild), size, adjoint.tol).point
        loose = add(wild, -1.0, ahead)
        return (
            refined(matvec, inverse, pull, size, adjoint.tol).residual,
            _freedom(pull, wild, loose),
            _near(active, clearing.certificate),
            loosened(market, active, plan, point, loose),
        )


def _freedom(pull: Point, wild: Point, loose: Point) -> Array:
    """How much of an output that changes by `pull` what is `loose` of a random move changes."""
    pairs = zip(*map(jax.tree.leaves, (pull, wild)), strict=True)
    most = sum(jnp.sum(jnp.abs(a * b)) for a, b in pairs)
    return jnp.abs(dot(pull, loose)) / jnp.where(most > 0, most, 1.0)


def _near(active: Active, certificate: Certificate) -> dict[str, Array]:
    """How many bounds of each family are closer to switching than the clearing can tell.

    Where a bound just holds, an error of e leaves room and price of about sqrt(e).
    """
    close = _NEAR * jnp.sqrt(jnp.maximum(certificate.error, jnp.finfo(jnp.float32).eps ** 2))
    counts = jax.tree.map(lambda margin: jnp.sum(margin < close), active.margin)
    return {**vars(counts), "total": jnp.sum(active.net_margin < close)}


def _with(clearing: Clearing, market: Market, plan: Plan, prices: Rows) -> Clearing:
    """The clearing with another plan and other prices."""
    return eqx.tree_at(
        lambda c: (c.plan, c.prices, c.costs, c.aggregate),
        clearing,
        (plan, prices, costs(market, plan), aggregate(market, plan)),
    )


def _spot(
    market: Market,
    clearing: Clearing,
    output: Output,
    adjoint: AbstractAdjoint,
    where: Callable[[Market], Any],
    key: Array,
) -> tuple[float, float]:
    """The output's change along a random direction, by derivative and by differences."""
    leaves, tree = jax.tree.flatten(where(market))
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    moves = [
        jnp.where(jnp.isfinite(a), a * jax.random.uniform(k, a.shape, a.dtype, -1, 1), 0.0)
        for k, a in zip(keys, leaves, strict=True)
    ]

    def moved(step: Any) -> Market:
        new = jax.tree.unflatten(tree, [a + step * d for a, d in zip(leaves, moves, strict=True)])
        return eqx.tree_at(where, market, new)

    adjoint = replace(adjoint, throw=False)  # also where the direction is one that nothing follows
    least = 1e-10 if market.prosumers.load.dtype == jnp.float64 else 1e-5
    tol = jnp.minimum(least, clearing.certificate.error)

    def at(step: Any) -> Array:
        there = moved(step)
        return output(
            there, clear(there, tol=max(float(tol), least), start=clearing, adjoint=adjoint)
        )

    _, predicted = jax.jvp(at, (0.0,), (1.0,))
    ahead, behind = at(_STEP), at(-_STEP)
    return float(predicted), float((ahead - behind) / (2 * _STEP))
