"""Blocks of a positive definite matrix, one by one or in batches: factored, and eliminated."""

import jax
from jax.custom_batching import sequential_vmap
from jax.lax import platform_dependent
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Float

from ..record import Record
from ..runner import inverse_factor, jnp, on_host

_HALF = 16  # rows from which on half a block is still factored apart
_ROUNDING = 1e-13  # share of its diagonal that is added to a block: keeps it positive definite


class Eliminated(Record):
    """Rows that were eliminated: L^-1 of their Cholesky factor, and that times their coupling."""

    inverse: Float[Array, "... n n"]
    coupling: Float[Array, "... n m"]

    def reduce(self, r: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """L^-1 r."""
        return jnp.einsum("...ij,...j->...i", self.inverse, r)

    def felt(self, reduced: Float[Array, "... n"]) -> Float[Array, "... m"]:
        """What the others' right-hand side loses."""
        return jnp.einsum("...nm,...n->...m", self.coupling, reduced)

    def restore(
        self, reduced: Float[Array, "... n"], others: Float[Array, "... m"]
    ) -> Float[Array, "... n"]:
        """The rows' solution, given that of the others."""
        rest = reduced - jnp.einsum("...nm,...m->...n", self.coupling, others)
        return jnp.einsum("...ji,...j->...i", self.inverse, rest)


def _inverse_factors(blocks: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """L^-1 of each block's Cholesky factor L."""
    factor = cholesky(blocks, symmetrize_input=False)
    unit = jnp.broadcast_to(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), blocks.shape)
    return triangular_solve(factor, unit, left_side=True, lower=True)


def _one_by_one(blocks: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """The same, never two blocks in one call of LAPACK.

    jaxlib spreads a batch over the threads that run the program and waits for them: two such calls
    at once, from two threads or two parts of a program, can wait for one another forever.
    """
    if on_host():
        return inverse_factor(blocks)
    alone = sequential_vmap(_inverse_factors)
    for _ in blocks.shape[:-2]:
        alone = jax.vmap(alone)
    return alone(blocks)


def diagonal(block: Float[Array, "... n n"]) -> Float[Array, "... n"]:
    return jnp.diagonal(block, axis1=-2, axis2=-1)


def factored(
    block: Float[Array, "... n n"], size: Float[Array, "... n"]
) -> Float[Array, "... n n"]:
    """L^-1 of the Cholesky factor of a block whose diagonal was `size` before others were left."""
    add = jnp.where(size > 0, _ROUNDING * size, 1.0)  # rows that nothing can move
    n = jnp.arange(block.shape[-1])
    block = block.at[..., n, n].add(add)
    if on_host():
        return _halved(block)
    return platform_dependent(block, cpu=_halved, default=_inverse_factors)


def _halved(block: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """L^-1 by halves: products are faster than LAPACK's triangular solves, and half the work."""
    half = block.shape[-1] // 2
    if half < _HALF:
        return _one_by_one(block)
    first = _halved(block[..., :half, :half])
    below = block[..., half:, :half] @ first.mT
    second = _halved(block[..., half:, half:] - below @ below.mT)
    corner = -second @ below @ first
    upper = jnp.concatenate([first, jnp.zeros_like(corner.mT)], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([corner, second], axis=-1)], axis=-2)


def eliminate(
    block: Float[Array, "... n n"], coupling: Float[Array, "... n m"], size: Float[Array, "... n"]
) -> Eliminated:
    """Eliminate a block whose diagonal was `size` before other rows were."""
    inverse = factored(block, size)
    return Eliminated(inverse, inverse @ coupling)
