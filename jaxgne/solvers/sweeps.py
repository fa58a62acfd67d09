"""What steps share in contents of buffers and levels of caps, swept over their path or tree."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ..market import Market
from ..record import Record
from ..runner import jnp, lax
from ..succession import blank, to_leaves, to_roots
from .blocks import Eliminated, eliminate, factored


class Path(Record):
    """Dynamics of storage, eliminated hour by hour; the coupling is to the next hour."""

    blocks: Eliminated

    def __call__(self, right: Float[Array, "H K"]) -> Float[Array, "H K"]:
        """The prices of contents."""

        def forward(felt: Array, now: tuple[Eliminated, Array]) -> tuple[Array, Array]:
            block, r = now
            reduced = block.reduce(r - felt)
            return block.felt(reduced), reduced

        def backward(later: Array, now: tuple[Eliminated, Array]) -> tuple[Array, Array]:
            block, reduced = now
            solved = block.restore(reduced, later)
            return solved, solved

        nothing = jnp.zeros_like(right[0])
        _, swept = lax.scan(forward, nothing, (self.blocks, right))
        return lax.scan(backward, nothing, (self.blocks, swept), reverse=True)[1]


class Branches(Record):
    """The same where hours make a tree, eliminated from its leaves.

    What an hour ends with, x = W (y - a sum of the y behind it), is felt by all that begin from it.
    W is theta at first. Each of them, eliminated with P = M + a W a, leaves W - W a P^-1 a W of it
    to the others: next to nothing, where it cannot do with another x. So that difference is made as
    a sum of squares (Bucy and Joseph, Filtering for Stochastic Processes, 1968), and M^-1, which is
    huge then, is never met alone.
    """

    inverse: Float[Array, "H K K"]  # P^-1
    handed: Float[Array, "H K K"]  # W a
    keep: Float[Array, " K"]  # a
    before: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, right: Float[Array, "H K"]) -> Float[Array, "H K"]:
        """The prices of contents."""

        def forward(felt: Array, there: Array, now: tuple[Array, Array, Array]) -> Any:
            r, inverse, handed = now
            alone = inverse @ (r + felt - self.keep * there)
            return there + handed @ alone, alone

        def backward(there: Array, now: tuple[Array, Array, Array]) -> Any:
            alone, inverse, handed = now
            solved = alone + inverse @ (handed.T @ there)
            return solved, there - self.keep * solved, solved

        table = blank(self.before, right[0])
        alone = to_roots(self.before, forward, table, (right, self.inverse, self.handed))
        return to_leaves(self.before, backward, table, (alone, self.inverse, self.handed))


def path(content: Array, held: Array, own: Array) -> Path:
    """The sweep over hours, whose blocks are `content`, of diagonal `own` at first.

    `held` is what couples each to the next, a diagonal or a matrix an hour. Of a matrix, of caps,
    what the next hour feels is h^T P^-1 h as the largest of 2 z^T h - z^T P z, which errors of z
    make smaller, and by their squares alone: a level that little can move keeps that little.
    """

    def sweep(felt: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Eliminated]:
        here, ahead, size = now
        alone, link = here - felt, jnp.diag(ahead) if ahead.ndim == 1 else ahead
        block = eliminate(alone, link, size)
        if ahead.ndim == 1:
            return block.coupling.T @ block.coupling, block
        solved = block.inverse.T @ block.coupling
        return solved.T @ (2 * link - alone @ solved), block

    return Path(lax.scan(sweep, jnp.zeros_like(content[0]), (content, held, own.T))[1])


def branches(market: Market, content: Array, energy: Array, own: Array) -> Branches:
    """The same over a tree, whose blocks `content` are without what contents add to them."""
    assert market.before is not None
    keep, one = market.buffers.retention, jnp.eye(content.shape[-1], dtype=content.dtype)

    def sweep(give: Array, there: Array, now: tuple[Array, Array]) -> tuple[Array, Any]:
        here, size = now
        alone, handed = here + give, there * keep
        root = factored(alone + keep[:, None] * handed, size)
        inverse = root.mT @ root
        gain = handed @ inverse
        rest = one - gain * keep
        return rest @ there @ rest.T + gain @ alone @ gain.T, (inverse, handed)

    table = blank(market.before, content[0])
    table = table.at[:-1].set(energy.T[:, :, None] * one)
    inverse, handed = to_roots(market.before, sweep, table, (content, own.T))
    return Branches(inverse, handed, keep, market.before)
