"""Bills in whole cents: each line to its nearest, and one line for what that leaves of the total.

So the two sides of a trade have the same cents on their bills, and the total of each bill is that
of the settlement, to its nearest cent.
"""

from typing import NamedTuple

from ..household import Account, Line

SHOWN = 5e-5  # EUR, below which a line is what solvers leave of 0
ROUNDING = "rounding of the lines to cents"


class Invoice(NamedTuple):
    """Lines with their cents; they and `rounding` sum to `total`."""

    lines: tuple[tuple[Line, int], ...]
    rounding: int
    total: int


def cents(eur: float) -> int:
    """The nearest cent; of -x it is minus that of x."""
    return round(100 * eur)


def invoiced(account: Account) -> Invoice:
    """An account in whole cents."""
    lines = tuple((line, cents(line.eur)) for line in account.lines if abs(line.eur) >= SHOWN)
    total = cents(account.total)
    return Invoice(lines, total - sum(amount for _, amount in lines), total)


def euros(amount: int) -> str:
    """Cents as EUR: 12.30, -0.05."""
    return f"{'-' * (amount < 0)}{abs(amount) // 100:,}.{abs(amount) % 100:02d}"
