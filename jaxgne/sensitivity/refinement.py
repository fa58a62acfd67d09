"""Solving K x = b by an approximate inverse of K, improved."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from ..record import Record
from ..runner import jnp, lax
from .lagrangian import Point

Linear = Callable[[Point], Point]

LEFT = 1e-3  # relative residual from which on a solution is refused
_REFINED = 20  # times at most that a solution is improved
_FALLS = 0.8  # what each time has to leave, at most, of the residual


class Solved(Record):
    """A solution of K x = b and what is left of b."""

    point: Point
    residual: Float[Array, ""]  # relative, in EUR
    steps: Int[Array, ""]


def add(x: Any, a: Array | float, y: Any) -> Any:
    """x + a y."""
    return jax.tree.map(lambda u, v: u + a * v, x, y)


def dot(x: Any, y: Any) -> Float[Array, ""]:
    """x . y."""
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y))))


def norm(left: Point, size: Point) -> Float[Array, ""]:
    """Of what is left of a right-hand side, EUR: entries count by their `size` in a solution."""
    counted = jax.tree.map(jnp.multiply, left, size)
    return jnp.sqrt(dot(counted, counted))


def refined(matvec: Linear, inverse: Linear, right: Point, size: Point, tol: float) -> Solved:
    """K x = right by an approximate inverse, improved as long as that helps."""

    def going(carry: tuple[Point, Point, Array, Array, Array]) -> Array:
        _, _, left, before, count = carry
        return (left > tol) & ((left <= _FALLS * before) | (count < 2)) & (count < _REFINED)

    def improve(carry: Any) -> Any:
        x, left, error, _, count = carry
        ahead = add(x, 1.0, inverse(left))
        still = add(right, -1.0, matvec(ahead))
        return ahead, still, norm(still, size) / whole, error, count + 1

    whole = norm(right, size)
    whole = jnp.where(whole > 0, whole, 1.0)
    nothing = jax.tree.map(jnp.zeros_like, right)
    one = norm(right, size) / whole
    start = (nothing, right, one, one, jnp.zeros((), jnp.int32))
    x, _, left, _, count = lax.while_loop(going, improve, start)
    return Solved(x, left, count)


def largest(tree: Any, sign: float = 0.0) -> Array:
    """The largest entry, with its `sign` or whatever it has."""
    each = [jnp.max(sign * a if sign else jnp.abs(a), initial=0.0) for a in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(each))
