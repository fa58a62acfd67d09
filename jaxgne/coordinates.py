"""What of a market is tuned, and how an optimizer sees it."""

from collections.abc import Callable
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .market import Market
from .record import Record

_ROUNDING = 1e-6  # of a share: float32's


class Bijection(Protocol):
    """What is moved instead of the fields themselves."""

    def forward(self, moved: Any, /) -> Any:
        """The fields."""
        ...

    def inverse(self, fields: Any, /) -> Any:
        """What gives them."""
        ...


class Linear(Record):
    """A field that is `matrix @ u` of fewer numbers u, which are moved instead of it.

    A column of ones ties all rows of a field: one tariff for all pairs. Of a field with columns u
    has as many.
    """

    matrix: Float[Array, "n p"]

    def forward(self, moved: Float[Array, "p ..."]) -> Float[Array, "n ..."]:
        """The field."""
        return self.matrix @ moved

    def inverse(self, fields: Float[Array, "n ..."]) -> Float[Array, "p ..."]:
        """The numbers that come closest to it."""
        return jnp.linalg.pinv(self.matrix) @ fields


class Coordinates(Record):
    """How the optimizer sees what is tuned: as shares of the range between bounds, if there are."""

    low: Any
    width: Any
    forward: Callable[[Any], Any] | None  # of a bijection
    bounded: bool = eqx.field(static=True)

    def fields(self, shares: Any) -> Any:
        """The market's fields at the optimizer's numbers."""
        moved = jax.tree.map(lambda a, w, s: a + w * s, self.low, self.width, shares)
        return moved if self.forward is None else self.forward(moved)

    def project(self, shares: Any) -> Any:
        """Within the bounds."""
        return jax.tree.map(lambda s: jnp.clip(s, 0.0, 1.0), shares) if self.bounded else shares

    def steepness(self, shares: Any, slope: Any) -> float:
        """Norm of the gradient, without what only pushes against bounds."""

        def free(share: Array, push: Array) -> Array:
            held = ((share <= 0) & (push > 0)) | ((share >= 1) & (push < 0))
            return jnp.where(held & self.bounded, 0.0, push)

        return norm(jax.tree.map(free, shares, slope))


def is_batch(market: Market) -> bool:
    """Whether a market has a leading axis of scenarios."""
    return market.prosumers.load.ndim == 3


def with_fields(market: Market, where: Callable[[Market], Any], fields: Any) -> Market:
    """The market, or all scenarios of a batch, with these fields."""
    fitting = jax.tree.map(
        lambda old, new: jnp.broadcast_to(new, old.shape).astype(old.dtype), where(market), fields
    )
    return eqx.tree_at(where, market, fitting)


def names_of(market: Market, where: Callable[[Market], Any]) -> list[str]:
    """What `where` picks, in words: `Tariff.slope`."""
    named = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path).lstrip(".").capitalize(), market
    )
    return jax.tree.leaves(where(named))


def shared_fields(market: Market, where: Callable[[Market], Any]) -> Any:
    """The fields as they are; those of a batch, which its scenarios share.

    Raises `ValueError` for fields that are no floats, not finite, or differ between scenarios.
    """
    fields = where(market)
    for name, leaf in zip(names_of(market, where), jax.tree.leaves(fields), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"tune: {name} holds {leaf.dtype}; pick fields of real numbers.")
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(f"tune: {name} is not finite everywhere; give it numbers to start at.")
        if is_batch(market) and not bool(jnp.all(leaf == leaf[:1])):
            raise ValueError(
                f"tune: {name} differs between scenarios, which are to share it; give all one."
            )
    return jax.tree.map(lambda a: a[0], fields) if is_batch(market) else fields


def place(
    market: Market, where: Callable[[Market], Any], bounds: Any, bijection: Bijection | None
) -> tuple[Coordinates, Any]:
    """The optimizer's coordinates, and where in them the market stands."""
    fields = shared_fields(market, where)
    moved = fields if bijection is None else bijection.inverse(fields)
    forward = None if bijection is None else bijection.forward
    if bounds is None:
        zeros, ones = jax.tree.map(jnp.zeros_like, moved), jax.tree.map(jnp.ones_like, moved)
        return Coordinates(zeros, ones, forward, bounded=False), moved
    low, high = (_like(moved, bound) for bound in bounds)
    width = jax.tree.map(jnp.subtract, high, low)
    shares = jax.tree.map(lambda a, b, w: (a - b) / w, moved, low, width)
    names = (
        names_of(market, where)
        if bijection is None
        else ["u of the bijection"] * len(jax.tree.leaves(moved))
    )
    for name, share, wide in zip(
        names, jax.tree.leaves(shares), jax.tree.leaves(width), strict=True
    ):
        if not bool(jnp.all(wide > 0)):
            raise ValueError(f"tune: bounds of {name}: each low must be below its high.")
        if bool(jnp.any((share < -_ROUNDING) | (share > 1 + _ROUNDING))):
            raise ValueError(f"tune: {name} starts outside of its bounds; widen them, or move it.")
    coordinates = Coordinates(low, width, forward, bounded=True)
    return coordinates, coordinates.project(shares)


def _like(fields: Any, bound: Any) -> Any:
    """A bound for each number: one for all, or a pytree like the fields."""
    if jax.tree.structure(bound) != jax.tree.structure(fields):
        return jax.tree.map(lambda a: jnp.full_like(a, bound), fields)
    return jax.tree.map(lambda a, b: jnp.broadcast_to(b, a.shape).astype(a.dtype), fields, bound)


def norm(tree: Any) -> float:
    """Euclidean norm of all numbers."""
    return float(jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(tree))))
