"""What a Pareto front found: points of which none is better than another in both objectives."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float

from .market import Market
from .record import Record
from .result import Clearing


class FrontProgress(Record):
    """What a progress callback of `pareto` is told after each tuning."""

    tuning: int  # from 0
    total: int  # more where the ends turn out to lie elsewhere
    value: float  # of what was made small
    steps: int
    seconds: float


class Front(Record):
    """A Pareto front of two objectives: `K` markets, from the least of the first to the second's.

    `rates` are -df/dg along the front, what one unit less of the second objective costs in units of
    the first; infinite where no price buys more of the second, and one of many where bounds leave a
    choice. `residuals` tell whether a point is one of a front at all, near by: the norm of the
    least weighted mean of both gradients, objectives in parts of the front's range and what is
    tuned in parts of its bounds'. It is 0 where nothing improves both, and stays above 0 at kinks
    and where a tuning ended too early.
    """

    values: Float[np.ndarray, "K 2"]  # of the objectives
    levels: Float[np.ndarray, " K"]  # what the second was to be at most; of the ends their own
    rates: Float[np.ndarray, " K"]
    residuals: Float[np.ndarray, " K"]
    tuned: Any  # the fields, each with a leading axis of points
    markets: tuple[Market, ...]
    clearings: tuple[Clearing, ...]
    seen: Float[np.ndarray, "S 2"]  # what all steps came to that meet the constraints
    asked: int = eqx.field(static=True)  # points
    unstarted: int = eqx.field(static=True)  # random starts that did not clear
    stopped: tuple[str, ...] = eqx.field(static=True)  # why each tuning ended, as in `History`
    names: tuple[str, str] = eqx.field(static=True)  # of the objectives
    fields: tuple[str, ...] = eqx.field(static=True)  # what is tuned

    @property
    def dropped(self) -> int:
        """Points that were asked for, and were dominated by others or the same."""
        return self.asked - len(self.values)

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row for each point; `jaxgne.frames.front` makes a frame of them."""
        first, second = self.names
        columns = {first: self.values[:, 0], second: self.values[:, 1], "level": self.levels}
        columns |= {"rate": self.rates, "residual": self.residuals}
        for name, leaf in zip(self.fields, jax.tree.leaves(self.tuned), strict=True):
            for index in np.ndindex(*leaf.shape[1:]):
                at = f"[{', '.join(map(str, index))}]" if leaf[0].size > 1 else ""
                columns[name + at] = leaf[(slice(None), *index)]
        return columns

    def __str__(self) -> str:
        early = sorted({*self.stopped} - {"steps", "patience"})
        lines = [
            f"{len(self.values)} points of a front, of {self.asked} asked for"
            f" ({self.dropped} dominated or the same, dropped)",
            f"{len(self.stopped)} tunings, {len(self.seen)} outcomes seen",
        ]
        lines += [f"some tunings stopped early: {', '.join(early)}"] * bool(early)
        lines += [f"{self.unstarted} random starts did not clear"] * bool(self.unstarted)
        names, digits = (*self.names, "rate", "residual"), (6, 6, 3, 2)
        widths = [max(len(name), 11) for name in names]
        lines.append("  ".join(f"{name:>{w}}" for name, w in zip(names, widths, strict=True)))
        for row in zip(*self.values.T, self.rates, self.residuals, strict=True):
            cells = zip(row, widths, digits, strict=True)
            lines.append("  ".join(f"{x:>{w}.{d}g}" for x, w, d in cells))
        return "\n".join(lines)


def nondominated(values: Float[np.ndarray, "K M"]) -> Bool[np.ndarray, " K"]:
    """Which points no other is as good as in all objectives; of equal ones the first."""
    no_worse = np.all(values[:, None] <= values, axis=2)  # of [j, k], j than k in each
    earlier = np.arange(len(values))[:, None] < np.arange(len(values))
    better = no_worse & (~no_worse.T | earlier)
    return ~better.any(axis=0)
