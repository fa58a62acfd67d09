"""Built-in markets: published feeders, synthetic ones of any size, and customers for any grid."""

from ._populate import populate
from .builders import CASES, ieee37, ieee123, synthetic
from .template import street

__all__ = ["CASES", "ieee37", "ieee123", "populate", "street", "synthetic"]
