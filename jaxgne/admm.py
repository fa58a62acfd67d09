"""Rounds by alternating directions of multipliers: how good the answer is, and what was said.

    print(jaxgne.admm.run(market, rounds=300))

Who says what in a round of `jg.ADMM` is as in one of the paper's mechanism: every prosumer tells
its partners what it would trade with them, and the operator what it imports, exports and draws;
that answers with a price of each of the three (docs/admm.md).
"""

import numpy as np
from jaxtyping import Float, Int

from .each import for_one
from .market import Market
from .record import Record
from .result import Clearing
from .solvers.admm import ADMM
from .solvers.semidecentralized import SemiDecentralized
from .tracing import trace

_NUMBER = 8  # bytes of one number
_LEVELS = (1e-2, 1e-3, 1e-4)  # relative KKT errors that are told


class Rounds(Record):
    """How good an answer is after so many rounds, and what was said until then; prints as a table.

    One entry per look, after so many `rounds`. `error` is the relative KKT error, by the judge of
    all solvers, and `sent` are bytes.
    """

    rounds: Int[np.ndarray, " T"]
    error: Float[np.ndarray, " T"]
    sent: Float[np.ndarray, " T"]  # bytes so far

    def reached(self, level: float) -> int:
        """The first look at which the relative KKT error is at most `level`, else -1."""
        good = self.error <= level
        return int(good.argmax()) if good.any() else -1

    def rounds_to(self, level: float) -> float:
        """Rounds until the relative KKT error is at most `level`; NaN where it never is."""
        at = self.reached(level)
        return float(self.rounds[at]) if at >= 0 else np.nan

    def bytes_to(self, level: float) -> float:
        """Bytes that are sent until then; NaN where that never is."""
        at = self.reached(level)
        return float(self.sent[at]) if at >= 0 else np.nan

    def __str__(self) -> str:
        lines = [f"{'relative KKT error':24}{'rounds':>10}{'kB':>12}"]
        for level in _LEVELS:
            if self.reached(level) < 0:
                lines.append(f"{f'at most {level:g}':24}{'never':>10}")
                continue
            kilo = self.bytes_to(level) / 1e3
            lines.append(f"{f'at most {level:g}':24}{self.rounds_to(level):>10g}{kilo:>12.4g}")
        last = f"{self.error[-1]:.1e} after {self.rounds[-1]} rounds, {self.sent[-1] / 1e3:.4g} kB"
        return "\n".join([*lines, last])


@for_one()
def run(
    market: Market,
    *,
    rho: float | None = None,
    rounds: int = 400,
    every: int | None = None,
    start: Clearing | None = None,
) -> Rounds:
    """How so many `rounds` of `jg.ADMM` go on a `market`: errors and bytes, round by round.

    `rho` is its `penalty`, EUR/kWh per kW. One look at the answer comes `every` so many rounds, by
    default 100 in all. Rounds begin from `start`, a clearing, or cold. All is one compiled program,
    that of `jg.trace`. Raises `ValueError` for options that make no sense and for markets that
    `ADMM` does not take.
    """
    return _traced(market, ADMM(rho), rounds, every, start)


@for_one()
def beside(
    market: Market, *, rho: float | None = None, rounds: int = 400, every: int | None = None
) -> dict[str, Rounds]:
    """Rounds of `jg.ADMM`, "ADMM", and of the paper's mechanism, "mechanism", on one `market`.

    `rho`, `rounds` and `every` are those of `run`; the mechanism has its default steps. Both begin
    cold.
    """
    return {
        "ADMM": run(market, rho=rho, rounds=rounds, every=every),
        "mechanism": _traced(market, SemiDecentralized(), rounds, every, None),
    }


def _traced(
    market: Market,
    solver: ADMM | SemiDecentralized,
    rounds: int,
    every: int | None,
    start: Clearing | None,
) -> Rounds:
    every = max(1, rounds // 100) if every is None else every
    found = trace(market, solver, steps=rounds, every=every, start=start)
    answers = 0 if isinstance(solver, ADMM) else 1 * market.grid.model.networked
    counts = np.asarray(found.steps)
    return Rounds(counts, np.asarray(found.error), _NUMBER * numbers(market, answers) * counts)


def numbers(market: Market, more: int = 0) -> int:
    """How many numbers are sent in a round of `jg.ADMM`.

    By hour those of a report, p_mg, p_ex and on a network n_i, a price of each in answer, and for
    each pair what both sides would trade. `more` are further ones in an answer: the mechanism's
    has one on a network, of sigma, lambda, mu_tg and mu_pb.
    """
    shared = 3 if market.grid.model.networked else 2
    people, hours = market.prosumers.load.shape
    return hours * ((2 * shared + more) * people + 2 * market.trading.buyer.shape[0])
