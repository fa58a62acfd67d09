"""Costs that are neither linear nor quadratic, a final class each, and how their slopes are met."""

from .base import AbstractCurve, Cones, crossing, curvatures, slopes, totals
from .exponential import Exponential
from .isoelastic import Isoelastic

FAMILIES: dict[str, type[AbstractCurve]] = {  # as files call them
    "isoelastic": Isoelastic,
    "exponential": Exponential,
}

__all__ = [
    "FAMILIES",
    "AbstractCurve",
    "Cones",
    "Exponential",
    "Isoelastic",
    "crossing",
    "curvatures",
    "slopes",
    "totals",
]
