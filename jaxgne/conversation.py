"""What rounds of messages come to and what they cost: errors and bytes, round by round."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .model import Plan, Rows
from .record import Record
from .result import Clearing

NUMBER = 8  # bytes of one number
LEVELS = (1e-2, 1e-3, 1e-4)  # relative KKT errors that are told


class Conversation(Record):
    """How good an answer is after so many rounds, and what was said until then.

    A row for each of `S` seeds, a column for each of `T` looks at the answer. `error` is the
    relative KKT error, by the judge of all solvers; what follows it is how far the answer is from
    `exact`, the clearing. `plan` and `prices` are those after the last round, leading axis `S`.
    """

    rounds: Int[Array, " T"]  # played until each look
    error: Float[Array, "S T"]
    distance: Float[Array, "S T"]  # relative: the largest of the next three
    power: Float[Array, "S T"]  # kW, the largest of what one prosumer buys in a step
    total: Float[Array, "S T"]  # kW, the largest of what all buy in a step
    price: Float[Array, "S T"]  # EUR/kWh, the largest of what energy is worth to one in a step
    regret: Float[Array, "S T"]  # EUR that prosumers could save at most by other plans of their own
    apart: Float[Array, "S T"]  # kW between copies of the total import, where there are several
    sent: Float[Array, "S T"]  # bytes so far, of messages that were sent, arrived or not
    epsilon: Float[Array, "S T"]  # privacy that the most talkative prosumer has spent, at `delta`
    delta: Float[Array, ""]  # probability at which `epsilon` may not hold
    plan: Plan
    prices: Rows
    exact: Clearing
    told: str = eqx.field(static=True)  # how the rounds were, in words

    def reached(self, level: float) -> Int[np.ndarray, " S"]:
        """The first look, by seed, at which the relative KKT error is at most `level`; else -1."""
        good = np.asarray(self.error) <= level
        return np.where(good.any(axis=1), good.argmax(axis=1), -1)

    def rounds_to(self, level: float) -> Float[np.ndarray, " S"]:
        """Rounds until the relative KKT error is at most `level`, by seed; NaN where it is not."""
        at = self.reached(level)
        return np.where(at < 0, np.nan, np.asarray(self.rounds, float)[at])

    def bytes_to(self, level: float) -> Float[np.ndarray, " S"]:
        """Bytes that are sent until then, by seed; NaN where that is never."""
        at = self.reached(level)
        return np.where(at < 0, np.nan, np.asarray(self.sent)[np.arange(at.size), at])

    def table(self, levels: Sequence[float] = LEVELS) -> dict[str, np.ndarray]:
        """Rounds and bytes to each of the `levels` of relative KKT error, a row for each.

        Medians and extremes over the seeds that come so far, whose number is `reached`.
        """
        columns: dict[str, list[float]] = {}
        for level in levels:
            found = self.rounds_to(level)
            row: dict[str, float] = {"error": level, "reached": float(np.isfinite(found).sum())}
            for name, values in (("rounds", found), ("bytes", self.bytes_to(level))):
                known = values[np.isfinite(values)]
                for word, of in (("median", np.median), ("least", np.min), ("most", np.max)):
                    row[f"{name}_{word}"] = float(of(known)) if known.size else np.nan
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in columns.items()}

    def __str__(self) -> str:
        seeds, last = np.shape(self.error)[0], np.asarray(self.rounds)[-1]
        lines = [f"{last} rounds, {seeds} {'seeds' if seeds > 1 else 'seed'}: {self.told}"]
        lines.append(f"{'relative KKT error':28}{'seeds':>8}{'rounds':>10}{'kB':>12}")
        table = self.table()
        for k, level in enumerate(table["error"]):
            count = int(table["reached"][k])
            row = f"{f'at most {level:g}':28}{f'{count}/{seeds}':>8}"
            kilo = table["bytes_median"][k] / 1e3
            more = f"{table['rounds_median'][k]:>10g}{kilo:>12.4g}"
            lines.append(row + (more if count else f"{'never':>10}"))
        lines.append(f"{'after the last round':28}{'median':>11}{'worst':>11}")
        rows = (
            ("relative KKT error", "", self.error),
            ("distance to the clearing", "", self.distance),
            ("of the total import", "kW", self.total),
            ("of the value of energy", "EUR/kWh", self.price),
            ("regret of all prosumers", "EUR", self.regret),
        )
        for name, unit, values in rows:
            ended = np.asarray(values)[:, -1]
            told = f"{name:28}{np.median(ended):>11.3g}{np.max(ended):>11.3g} {unit}"
            lines.append(told.rstrip())
        spent = float(np.max(np.asarray(self.epsilon)[:, -1]))
        if np.isfinite(spent):
            lines.append(f"differential privacy: epsilon {spent:.4g} at delta {self.delta:g}")
        return "\n".join(lines)
