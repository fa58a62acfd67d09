"""No network: power goes anywhere, and only its total is limited."""

from typing import Any, ClassVar

from .base import AbstractGridModel


class Copperplate(AbstractGridModel):
    """All prosumers at one place, behind one transformer."""

    name: ClassVar[str] = "copperplate"
    networked: ClassVar[bool] = False
    radial: ClassVar[bool] = False
    squared: ClassVar[bool] = False

    def falls(self, resistance: Any, reactance: Any) -> dict[str, tuple[Any, Any]]:
        return {}
