"""What steps share in contents of buffers and levels of caps, swept over their path or tree."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ..market import Market
from ..record import Record
from ..runner import jnp, lax
from ..succession import to_leaves, to_roots
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

    Hours that begin from the same one meet in what it ends with, x = theta (y - a sum of their y).
    With all behind such an hour eliminated but its own y, inverse M^-1, they answer
    y = M^-1 (r + a x), so that x = W (y - g) with W = (1/theta + sum a M^-1 a)^-1.
    """

    inverse: Float[Array, "H K K"]  # M^-1
    give: Float[Array, "H K K"]  # W
    keep: Float[Array, " K"]
    before: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, right: Float[Array, "H K"]) -> Float[Array, "H K"]:
        """The prices of contents."""

        def forward(felt: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Any]:
            r, inverse, give = now
            alone = inverse @ (r + give @ felt)
            return self.keep * alone, (alone, felt)

        def backward(known: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            alone, felt, inverse, give = now
            solved = alone + inverse @ (self.keep * known)
            return give @ (solved - felt), solved

        nothing, both = jnp.zeros_like(right[0]), (self.inverse, self.give)
        alone = to_roots(self.before, forward, nothing, (right, *both))
        return to_leaves(self.before, backward, nothing, (*alone, *both))


def path(content: Array, held: Array, own: Array) -> Path:
    """The sweep over hours, whose blocks are `content`, of diagonal `own` at first.

    `held` is what couples each to the next, a diagonal or a matrix an hour.
    """

    def sweep(felt: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Eliminated]:
        here, ahead, size = now
        link = jnp.diag(ahead) if ahead.ndim == 1 else ahead
        block = eliminate(here - felt, link, size)
        return block.coupling.T @ block.coupling, block

    return Path(lax.scan(sweep, jnp.zeros_like(content[0]), (content, held, own.T))[1])


def branches(market: Market, content: Array, energy: Array, own: Array) -> Branches:
    """The same over a tree, whose blocks `content` are without what contents add to them."""
    assert market.before is not None
    keep, one = market.buffers.retention, jnp.eye(content.shape[-1], dtype=content.dtype)

    def sweep(felt: Array, now: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        here, half, size = now
        root = factored(one + half[:, None] * felt * half, jnp.ones_like(half)) * half
        give = root.mT @ root
        root = factored(here + give, size)
        inverse = root.mT @ root
        return keep[:, None] * inverse * keep, (inverse, give)

    nothing, half = jnp.zeros_like(content[0]), jnp.sqrt(energy)
    inverse, give = to_roots(market.before, sweep, nothing, (content, half.T, own.T))
    return Branches(inverse, give, keep, market.before)
