"""What steps share in contents of buffers and levels of caps, swept over their path or tree."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ..market import Market
from ..record import Record
from ..runner import jnp, lax
from ..succession import blank, to_leaves, to_roots
from ..tables import has_caps, retained
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


class Ends(Record):
    """What steps end with, contents and levels, and how rows see it: their own, and the next.

    The rows of a step are those of contents, sums of caps and levels, or of contents alone.
    """

    keep: Float[Array, " X"]  # share that the rows of the next step see
    sums: Float[Array, " M"] | None  # what a cap's sum sees of its level: -1, or 0 where it adds

    def own(self, ends: Float[Array, "... X"]) -> Float[Array, "... S"]:
        """What their own rows see."""
        if self.sums is None:
            return ends
        content, level = jnp.split(ends, [self._stores], axis=-1)
        return jnp.concatenate([content, self.sums * level, level], axis=-1)

    def own_back(self, prices: Float[Array, "... S"]) -> Float[Array, "... X"]:
        """The transpose: what prices of their own rows come to."""
        if self.sums is None:
            return prices
        content, cap, level = self._parts(prices)
        return jnp.concatenate([content, level + self.sums * cap], axis=-1)

    def next(self, ends: Float[Array, "... X"]) -> Float[Array, "... S"]:
        """What the rows of the next steps see, less."""
        kept = self.keep * ends
        if self.sums is None:
            return kept
        content, level = jnp.split(kept, [self._stores], axis=-1)
        return jnp.concatenate([content, jnp.zeros_like(level), level], axis=-1)

    def next_back(self, prices: Float[Array, "... S"]) -> Float[Array, "... X"]:
        """The transpose."""
        if self.sums is None:
            return self.keep * prices
        content, _, level = self._parts(prices)
        return self.keep * jnp.concatenate([content, level], axis=-1)

    @property
    def _stores(self) -> int:
        return self.keep.shape[-1] - (0 if self.sums is None else self.sums.shape[0])

    def _parts(self, rows: Float[Array, "... S"]) -> list[Array]:
        return jnp.split(rows, [self._stores, self.keep.shape[-1]], axis=-1)


class Branches(Record):
    """The same where hours make a tree, eliminated from its leaves.

    What an hour ends with, x = W (E^T y - the sum of F^T y of all that begin from it), is seen by
    its own rows by E and by theirs by -F. W is theta at first. Each of them, eliminated with
    P = M + F W F^T, leaves W - W F^T P^-1 F W of it to the others: next to nothing, where it cannot
    do with another x. So that difference is made as a sum of squares (Bucy and Joseph, Filtering
    for Stochastic Processes, 1968), and M^-1, which is huge then, is never met alone.
    """

    inverse: Float[Array, "H S S"]  # P^-1
    handed: Float[Array, "H X S"]  # W F^T
    keep: Float[Array, "H X"]
    sums: Float[Array, " M"] | None
    before: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, right: Float[Array, "H S"]) -> Float[Array, "H S"]:
        """The prices of contents, and of caps."""

        def forward(felt: Array, there: Array, now: tuple[Array, ...]) -> Any:
            r, inverse, handed, keep = now
            ends = Ends(keep, self.sums)
            alone = inverse @ (r + ends.own(felt) - ends.next(there))
            return there + handed @ alone, alone

        def backward(there: Array, now: tuple[Array, ...]) -> Any:
            alone, inverse, handed, keep = now
            ends = Ends(keep, self.sums)
            solved = alone + inverse @ (handed.T @ there)
            return ends.own_back(solved), there - ends.next_back(solved), solved

        table = blank(self.before, jnp.zeros_like(self.handed, shape=self.handed.shape[1:2]))
        blocks = self.inverse, self.handed, self.keep
        alone = to_roots(self.before, forward, table, (right, *blocks))
        return to_leaves(self.before, backward, table, (alone, *blocks))


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


def branches(
    market: Market, content: Float[Array, "H S S"], theta: Float[Array, "X H"], own: Array
) -> Branches:
    """The same over a tree, whose blocks `content` are without what ends, of `theta`, add."""
    assert market.before is not None
    keep, sums = retained(market), None
    if has_caps(market):
        carry = market.caps.carry
        wide = jnp.broadcast_to(carry[:, None], (len(carry), keep.shape[1]))
        keep = jnp.concatenate([keep, wide])
        sums = jnp.where(market.caps.adds > 0, 0.0, -jnp.ones_like(carry))
    keep, one = keep.T, jnp.eye(len(keep), dtype=content.dtype)

    def sweep(give: Array, there: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Any]:
        here, size, keep = now
        ends = Ends(keep, sums)
        alone, handed = here + ends.own(ends.own(give).mT), ends.next(there)
        root = factored(alone + ends.next(handed.mT), size)
        inverse = root.mT @ root
        gain = handed @ inverse
        rest = one - ends.next_back(gain)
        return rest @ there @ rest.T + gain @ alone @ gain.T, (inverse, handed)

    table = blank(market.before, one)
    table = table.at[:-1].set(theta.T[:, :, None] * one)
    inverse, handed = to_roots(market.before, sweep, table, (content, own.T, keep))
    return Branches(inverse, handed, keep, sums, market.before)
