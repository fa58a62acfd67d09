"""The linear model of the paper: voltage magnitudes and angles, on any grid."""

from typing import Any, ClassVar

from .base import AbstractGridModel


class Paper(AbstractGridModel):
    """Small angles and voltages near 1 pu: r p + x q of the magnitude, x p - r q of the angle."""

    name: ClassVar[str] = "paper"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = False
    squared: ClassVar[bool] = False

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {"voltage": (resistance, reactance), "angle": (reactance, -resistance)}
