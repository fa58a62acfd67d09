"""Results as pages that anyone can open: a report of a clearing or a batch, bills to send."""

from ._bills import write_bills
from ._report import report

__all__ = ["report", "write_bills"]
