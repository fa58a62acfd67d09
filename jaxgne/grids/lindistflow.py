"""LinDistFlow, for radial feeders: Baran, Wu, IEEE Trans. Power Delivery 4, 1989."""

from typing import Any, ClassVar

from .base import AbstractGridModel


class LinDistFlow(AbstractGridModel):
    """Branch flows without losses: the squared voltage falls by 2 (r p + x q)."""

    name: ClassVar[str] = "lindistflow"
    networked: ClassVar[bool] = True
    radial: ClassVar[bool] = True
    squared: ClassVar[bool] = True

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {"voltage": (2 * resistance, 2 * reactance)}
