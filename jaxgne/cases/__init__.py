"""Built-in markets: published feeders, synthetic ones of any size, and customers for any grid."""

from ._populate import populate
from .builders import CASES, ieee13, ieee34, ieee37, ieee123, synthetic
from .european import european_lv
from .template import street

__all__ = ["CASES", "european_lv", "ieee13", "ieee34", "ieee37", "ieee123", "populate", "street"]
__all__ += ["synthetic"]
