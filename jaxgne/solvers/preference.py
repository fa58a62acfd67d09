"""A second objective over part of a market's columns: what an interior point method selects by."""

from dataclasses import replace

from jaxtyping import Array, Bool, Float

from ..record import Record
from ..runner import jnp
from .columns import Sets


class Preference(Record):
    """A convex quadratic cost on top of a market's own, and columns and lines that may not move.

        linear . x + 1/2 stiff . x^2 + 1/2 line . (f^2 + q^2) + 1/2 sum_r (parts_r . x + offset_r)^2

    in EUR, of the columns x and flows (f, q) of `columns`. `held` columns stay at `columns`,
    `shut` lines at `flows`.
    """

    columns: Float[Array, "C H"]
    flows: Float[Array, "2 L H"]
    held: Bool[Array, "C H"]
    shut: Bool[Array, "L H"]
    linear: Float[Array, "C H"]
    stiff: Float[Array, "C H"]
    line: Float[Array, "L H"]
    parts: Float[Array, "R C H"]
    offset: Float[Array, " R"]

    def narrow(self, sets: Sets) -> Sets:
        """The sets with what is held in place."""
        return replace(
            sets,
            lower=jnp.where(self.held, self.columns, sets.lower),
            upper=jnp.where(self.held, self.columns, sets.upper),
            free=sets.free & ~self.held,
            open=sets.open & ~self.shut,
        )

    def along(self, columns: Float[Array, "C H"]) -> Float[Array, " R"]:
        """parts . x"""
        return jnp.einsum("rch,ch->r", self.parts, columns)

    def across(self, amounts: Float[Array, " R"]) -> Float[Array, "C H"]:
        """The transpose of `along`."""
        return jnp.einsum("rch,r->ch", self.parts, amounts)

    def slopes(
        self, columns: Float[Array, "C H"], flows: Float[Array, "2 L H"]
    ) -> tuple[Float[Array, "C H"], Float[Array, "2 L H"]]:
        """The gradient, EUR per unit."""
        shared = self.across(self.along(columns) + self.offset)
        return self.linear + self.stiff * columns + shared, self.line * flows
