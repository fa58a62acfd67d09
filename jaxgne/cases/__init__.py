"""Built-in markets: a real feeder, and synthetic ones of any size."""

from .builders import CASES, ieee37, ieee123, synthetic

__all__ = ["CASES", "ieee37", "ieee123", "synthetic"]
