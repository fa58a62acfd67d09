"""A small convex quadratic program with boxes, by a primal-dual interior point.

    min c.x + 1/2 sum_i h_i x_i^2   such that   A x = b,  low <= x <= high

Mehrotra's predictor and corrector (SIAM J. Optim. 2, 1992). Who calls says what A does and how to
make A diag(d) A^T, so that a program of a known shape costs what its rows do.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..record import Record

_MOST = 60  # iterations
_AIM = 1e-11  # of what is missed, and of complementarity, by the scales given
_ENOUGH = 1e-7  # where rounding lets it come no closer
_CLOSE = 1e-6  # of `size`, how near to a bound that has a price what ends there is
_LIFT = 1e-13  # of each diagonal entry of A diag(d) A^T, for rows that depend on others
_BACK = 0.995  # of the way to the nearest bound


class Boxed(Record):
    """The numbers of a program, in any shape that its A takes and gives. Bounds are finite."""

    linear: Float[Array, "*X"]
    bend: Float[Array, "*X"]
    low: Float[Array, "*X"]
    high: Float[Array, "*X"]
    rows: Float[Array, "*R"]


class Operator(Protocol):
    """The matrix A of a program."""

    def forth(self, x: Array) -> Array:
        """A x."""
        ...

    def back(self, y: Array) -> Array:
        """A^T y."""
        ...

    def normal(self, d: Array) -> Float[Array, "R R"]:
        """A diag(d) A^T, rows in the order in which they lie in memory."""
        ...


def solved(
    given: Boxed, matrix: Operator, size: Float[Array, ""], worth: Float[Array, ""]
) -> tuple[Float[Array, "*X"], Float[Array, "*R"], Bool[Array, ""]]:
    """Solution, multipliers y of A x = b in c + h x + A^T y, and whether it is one; in float64.

    `size` and `worth` are what is much of an x, and of a cost of one. What comes to a bound is at
    it, and where bounds leave no choice x is these.
    """
    moves = given.high > given.low
    count, shape = 2 * jnp.maximum(jnp.sum(moves), 1), given.rows.shape

    def only(values: Array, other: float = 0.0) -> Array:
        return jnp.where(moves, values, other)

    def missed(x: Array, y: Array, z: Array, v: Array) -> tuple[Array, Array, Array]:
        dual = only(given.linear + given.bend * x + matrix.back(y) - z + v)
        gap = jnp.stack([only((x - given.low) * z), only((given.high - x) * v)])
        return given.rows - matrix.forth(x), dual, gap

    def far(x: Array, y: Array, z: Array, v: Array) -> Float[Array, ""]:
        primal, dual, gap = missed(x, y, z, v)
        off = jnp.maximum(jnp.max(jnp.abs(primal)) / size, jnp.max(jnp.abs(dual)) / worth)
        return jnp.maximum(off, jnp.max(gap) / (size * worth))  # NaN, if anything is

    def turned(state: Any) -> Any:
        turn, off, (x, y, z, v) = state
        below, above = only(x - given.low, 1.0), only(given.high - x, 1.0)
        primal, dual, gap = missed(x, y, z, v)
        gap = jnp.sum(gap) / count
        loose = only(1 / (given.bend + z / below + v / above))
        normal = matrix.normal(loose)
        diagonal = jnp.diagonal(normal)
        lift = jnp.where(diagonal > 0, _LIFT * diagonal, 1.0)
        unit = 1 / jnp.sqrt(diagonal + lift)
        scaled = unit[:, None] * (normal + jnp.diag(lift)) * unit
        factor = jax.scipy.linalg.cho_factor(scaled)

        def solved_by(wanted: Array) -> Array:
            return unit * jax.scipy.linalg.cho_solve(factor, unit * wanted)

        def direction(low: Array, high: Array) -> tuple[Array, ...]:
            right = only(low / below - high / above - dual)
            wanted = matrix.forth(loose * right) - primal
            dy = solved_by(wanted.reshape(-1))
            dy += solved_by(wanted.reshape(-1) - normal @ dy)  # as the lift is not of the rows
            dy = dy.reshape(shape)
            dx = loose * (right - matrix.back(dy))
            return dx, dy, only((low - z * dx) / below), only((high + v * dx) / above)

        def furthest(*pairs: tuple[Array, Array]) -> Array:
            falls = [(value, change, moves & (change < 0)) for value, change in pairs]
            ends = [jnp.where(f, -a / jnp.where(f, b, -1.0), 1 / _BACK) for a, b, f in falls]
            return jnp.min(jnp.stack(ends))

        dx, _, dz, dv = direction(-below * z, -above * v)
        one = jnp.minimum(furthest((below, dx), (above, -dx)), 1.0)
        two = jnp.minimum(furthest((z, dz), (v, dv)), 1.0)
        ahead = (below + one * dx) * (z + two * dz) + (above - one * dx) * (v + two * dv)
        aim = gap * (jnp.sum(only(ahead)) / count / gap) ** 3
        dx, dy, dz, dv = direction(aim - below * z - dx * dz, aim - above * v + dx * dv)
        one = _BACK * furthest((below, dx), (above, -dx))
        two = _BACK * furthest((z, dz), (v, dv))

        def gone(one: Array, two: Array) -> tuple[Array, tuple[Array, ...]]:
            new = (x + one * dx, y + two * dy, z + two * dz, v + two * dv)
            return far(*new), new

        # bends tie prices to how far x goes: ways of their own may lead back and forth
        apart, both = gone(one, two), jnp.minimum(one, two)
        left, new = jax.lax.cond(apart[0] < off, lambda: apart, lambda: gone(both, both))
        sound = jnp.isfinite(left) & jnp.all(jnp.isfinite(new[0])) & jnp.all(jnp.isfinite(new[1]))
        kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), (left, new), (off, state[2]))
        return jnp.where(sound, turn + 1, _MOST), *kept

    middle = jnp.where(moves, (given.low + given.high) / 2, given.low)
    price = only(jnp.full_like(middle, worth))
    first = (middle, jnp.zeros(shape), price, price)
    begun = (jnp.zeros((), jnp.int32), far(*first), first)
    _, off, (x, y, z, v) = jax.lax.while_loop(
        lambda state: (state[0] < _MOST) & (state[1] > _AIM), turned, begun
    )

    def ends(room: Array, price: Array) -> Bool[Array, "*X"]:
        return (room / size < _CLOSE) & (room / size < price / worth)

    x = jnp.where(ends(x - given.low, z), given.low, x)
    return jnp.where(ends(given.high - x, v), given.high, x), y, off <= _ENOUGH
