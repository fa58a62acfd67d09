"""Solving symmetric systems whose unknowns are pytrees."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .lagrangian import Point

Linear = Callable[[Point], Point]

_REFINED = 20  # times at most that a solution is improved
_FELT = 1e-2  # share of the tolerance below which K feels nothing of what is left, relative to K


class Solved(eqx.Module):
    """A solution of K x = b and what is left of b."""

    point: Point
    residual: Float[Array, ""]  # relative
    steps: Int[Array, ""]


def add(x: Any, a: Array | float, y: Any) -> Any:
    """x + a y."""
    return jax.tree.map(lambda u, v: u + a * v, x, y)


def dot(x: Any, y: Any) -> Float[Array, ""]:
    """x . y."""
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y))))


def refined(matvec: Linear, inverse: Linear, right: Point, tol: float) -> Solved:
    """K x = right by an approximate inverse, improved as long as that halves what is left."""
    size = norm(right)

    def going(carry: tuple[Point, Point, Array, Array, Array]) -> Array:
        _, _, left, before, count = carry
        return (left > tol) & (left <= before / 2) & (count < _REFINED)

    def improve(carry: Any) -> Any:
        x, left, error, _, count = carry
        ahead = add(x, 1.0, inverse(left))
        still = add(right, -1.0, matvec(ahead))
        return ahead, still, norm(still) / size, error, count + 1

    size = jnp.where(size > 0, size, 1.0)
    nothing = jax.tree.map(jnp.zeros_like, right)
    one, count = norm(right) / size, jnp.zeros((), jnp.int32)
    start = improve((nothing, right, one, one, count))
    x, _, left, _, count = jax.lax.while_loop(going, improve, start)
    return Solved(x, left, count)


def norm(point: Point) -> Float[Array, ""]:
    return jnp.sqrt(dot(point, point))


def minres(matvec: Linear, inverse: Linear, right: Point, tol: float, most: int) -> Solved:
    """K x = right for symmetric K, preconditioned by a positive definite `inverse`.

    Minimal residuals in its norm (Paige, Saunders, SIAM J. Numer. Anal. 12, 1975): also of singular
    systems, for which it ends where K times what is left is as good as nothing.
    """
    nothing = jax.tree.map(jnp.zeros_like, right)
    y = inverse(right)
    first = jnp.sqrt(jnp.maximum(dot(right, y), 0.0))
    one = jnp.ones_like(first)
    start = {
        "x": nothing,
        "r1": right,
        "r2": right,
        "y": y,
        "w": nothing,
        "w1": nothing,
        "old": 0 * one,
        "beta": first,
        "dbar": 0 * one,
        "epsilon": 0 * one,
        "phi": first,
        "cs": -one,
        "sn": 0 * one,
        "square": 0 * one,
        "felt": one,
        "count": jnp.zeros((), jnp.int32),
    }

    def going(s: dict[str, Any]) -> Array:
        return (s["phi"] > tol * first) & (s["felt"] > _FELT * tol) & (s["count"] < most)

    def step(s: dict[str, Any]) -> dict[str, Any]:
        beta = s["beta"]
        v = jax.tree.map(lambda a: a / beta, s["y"])
        y = matvec(v)
        y = add(
            y,
            -jnp.where(s["count"] > 0, beta / jnp.where(s["old"] > 0, s["old"], 1.0), 0.0),
            s["r1"],
        )
        alpha = dot(v, y)
        y = add(y, -alpha / beta, s["r2"])
        z = inverse(y)
        new = jnp.sqrt(jnp.maximum(dot(y, z), 0.0))
        delta = s["cs"] * s["dbar"] + s["sn"] * alpha
        gbar = s["sn"] * s["dbar"] - s["cs"] * alpha
        epsilon, dbar = s["sn"] * new, -s["cs"] * new
        root = jnp.sqrt(gbar**2 + dbar**2)
        gamma = jnp.sqrt(gbar**2 + new**2)
        gamma = jnp.maximum(gamma, jnp.finfo(gamma.dtype).tiny)
        cs, sn = gbar / gamma, new / gamma
        w = jax.tree.map(
            lambda v, w1, w2: (v - s["epsilon"] * w1 - delta * w2) / gamma, v, s["w1"], s["w"]
        )
        square = s["square"] + alpha**2 + beta**2 + new**2
        return {
            "x": add(s["x"], cs * s["phi"], w),
            "r1": s["r2"],
            "r2": y,
            "y": z,
            "w": w,
            "w1": s["w"],
            "old": beta,
            "beta": new,
            "dbar": dbar,
            "epsilon": epsilon,
            "phi": sn * s["phi"],
            "cs": cs,
            "sn": sn,
            "square": square,
            "felt": root / jnp.sqrt(square),
            "count": s["count"] + 1,
        }

    done = jax.lax.while_loop(going, step, start)
    left = done["phi"] / jnp.where(first > 0, first, 1.0)
    return Solved(done["x"], left, done["count"])
