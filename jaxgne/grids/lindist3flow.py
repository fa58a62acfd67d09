"""LinDist3Flow, for radial feeders in three phases: Gan, Low, PSCC 2014."""

from typing import Any, ClassVar

from .base import AbstractGridModel


class LinDist3Flow(AbstractGridModel):
    """Branch flows without losses, phase by phase, at voltages that are 120 degrees apart.

    The squared voltage of a phase falls by 2 (r p + x q) of its own conductor and, with impedances
    that are turned by the angle between the phases, by as much of the line's others
    (`AbstractGridModel.beside`): Gan, Low, "Convex relaxations and linear approximation for optimal
    power flow in multiphase radial networks", PSCC 2014; Arnold, Sankur, Dobbe, Brady, Callaway,
    Von Meier, IEEE PES General Meeting 2016.
    """

    name: ClassVar[str] = "lindist3flow"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = True
    squared: ClassVar[bool] = True
    phased: ClassVar[bool] = True

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {"voltage": (2 * resistance, 2 * reactance)}
