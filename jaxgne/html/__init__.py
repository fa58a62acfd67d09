"""Results as pages that anyone can open: a report of a clearing or a batch, one file each."""

from ._report import report

__all__ = ["report"]
