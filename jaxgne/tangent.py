"""What the AC state of a grid makes of its linear model, which is then exact there."""

from jaxtyping import Array, Float

from .record import Record


class Tangent(Record):
    """A grid's linear model about one AC state; its `passive` loads are with the `losses`.

    Rows hold where the AC state is; flows have costs of the operator's own, so that prices of buses
    are those of the AC state's own derivatives; ratings are of the current there.
    """

    losses: Float[Array, "B H"]  # kW that lines take at buses, and what else the flows are wrong by
    losses_reactive: Float[Array, "B H"]  # kvar
    offset: dict[str, Float[Array, "L H"]]  # of the rows of each state, in its unit
    active: Float[Array, "L H"]  # EUR/kWh, cost of active power on each line
    reactive: Float[Array, "L H"]  # EUR/kvarh, of reactive power
    rating: Float[Array, "L H"]  # kVA
    bend: Float[Array, "L H"] | None = None  # EUR/kW^2h, of both powers' costs; none: linear
