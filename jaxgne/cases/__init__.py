"""Built-in markets: published feeders, synthetic ones of any size, and customers for any grid."""

from .builders import CASES, ieee37, ieee123, synthetic
from .populate import populate

__all__ = ["CASES", "ieee37", "ieee123", "populate", "synthetic"]
