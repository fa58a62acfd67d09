"""The operator's part of the paper's mechanism: the admissible state of the grid in one hour.

Written for one hour, vmapped by callers. Its multipliers, one for each row, are what `dual` finds,
along directions of conjugate gradients.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..model import into_discs
from ..record import Record
from .dual import Solution, maximize

_CLOSE = 1e-8  # relative accuracy of a conjugate gradient solve
_INNER = 60  # conjugate gradient iterations of one call


class Network(Record):
    """The operator's private set in one hour: `matrix @ state = offset`, boxes, and line ratings.

    `state` stacks active and reactive flow of every line, voltage and angle of every bus (kW, kvar,
    pu or pu^2, rad). `proximal` is equal for both flows of a line; `preconditioner` inverts
    `matrix / proximal @ matrix.T` over the columns that bounds leave free to move.
    """

    matrix: Float[Array, "R V"]
    offset: Float[Array, " R"]
    lower: Float[Array, " V"]
    upper: Float[Array, " V"]
    rating: Float[Array, " L"]  # kVA
    proximal: Float[Array, " V"]
    preconditioner: Float[Array, "R R"]
    row_scale: Float[Array, " R"]  # by which residuals are measured


def project_network(
    network: Network, center: Float[Array, " V"], multipliers: Float[Array, " R"]
) -> Solution:
    """The operator's admissible state closest to `center`, in one hour (model.md: Mechanism):

        argmin  proximal/2 (u - center)^2
        s.t.    matrix u = offset,  lower <= u <= upper,  p^2 + q^2 <= rating^2 on every line

    `multipliers` starts the solve (one per row); the solution's `duals` are those at its `answer`.
    Where no bound binds, one step with `preconditioner` is exact.
    """

    def respond(duals: Array) -> Solution:
        wish = center - (duals @ network.matrix) / network.proximal
        state = _inside(network, wish)
        residual = network.matrix @ state - network.offset
        error = jnp.max(jnp.abs(residual) / network.row_scale, initial=0.0)
        return Solution(duals, state, wish, residual, error)

    return maximize(respond, lambda at, damping: _conjugate(network, at, damping), multipliers)


def _excess(network: Network, state: Float[Array, " V"]) -> tuple[Array, Array]:
    """By how much to shrink each line's flows to meet its rating (at most 1), and their norm."""
    lines = network.rating.shape[0]
    square = state[:lines] ** 2 + state[lines : 2 * lines] ** 2
    return into_discs(square, network.rating)


def _inside(network: Network, wish: Float[Array, " V"]) -> Float[Array, " V"]:
    """Boxes for voltages and angles, a disc for each line's flows."""
    shrink, _ = _excess(network, wish)
    boxed = jnp.clip(wish, network.lower, network.upper)
    lines = shrink.shape[0]
    return boxed.at[:lines].multiply(shrink).at[lines : 2 * lines].multiply(shrink)


def _conjugate(network: Network, at: Solution, damping: Array) -> Float[Array, " R"]:
    """Newton direction of the dual by preconditioned conjugate gradients.

    The Newton matrix differs from the preconditioner's by the few bounds that bind, and the method
    needs about one iteration for each.
    """
    wish, matrix = at.slope, network.matrix
    lines = network.rating.shape[0]
    free = ((wish > network.lower) & (wish < network.upper)).astype(wish.dtype)
    movable = (network.upper > network.lower).astype(wish.dtype)
    shrink, norm = _excess(network, wish)
    along = (wish[:lines] / norm, wish[lines : 2 * lines] / norm)  # unit vectors where binding
    bound = shrink < 1

    def newton(duals: Array) -> Array:
        pulled = (duals @ matrix) / network.proximal
        active, reactive = pulled[:lines], pulled[lines : 2 * lines]
        radial = jnp.where(bound, along[0] * active + along[1] * reactive, 0.0)
        kept = pulled * free
        kept = kept.at[:lines].set(shrink * (active - along[0] * radial))
        kept = kept.at[lines : 2 * lines].set(shrink * (reactive - along[1] * radial))
        return matrix @ (kept + damping * movable * (pulled - kept))

    aim = at.residual
    start = network.preconditioner @ aim
    size = jnp.sum(aim * start)

    def going(carry: tuple) -> Bool[Array, ""]:
        _, _, _, product, count = carry
        return (product > _CLOSE**2 * size) & (count < _INNER)

    def body(carry: tuple) -> tuple:
        solution, left, search, product, count = carry
        image = newton(search)
        length = product / jnp.maximum(jnp.sum(search * image), jnp.finfo(aim.dtype).tiny)
        left = left - length * image
        moved = network.preconditioner @ left
        new = jnp.sum(left * moved)
        return solution + length * search, left, moved + new / product * search, new, count + 1

    begin = (jnp.zeros_like(aim), aim, start, size, jnp.zeros((), jnp.int32))
    solution, *_ = jax.lax.while_loop(going, body, begin)
    return solution
