"""Numbers by row and step, with their unit, their clock, and what was done to them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ..arrays import by_hour
from ..clock import Clock, lengths
from ._steps import Steps


@dataclass(frozen=True)
class Profiles:
    """One row for each customer, site or quantity, one column for each step.

    An array wherever one is asked for (`jg.Prosumers(bus, load)`), and `values` for arithmetic.
    `factor` is what each row was multiplied by to have a year's energy; 1 where none was asked for.
    """

    values: Float[np.ndarray, "R H"]
    unit: str  # of the values: kW, degC, W/m2, EUR/kWh or 1
    names: tuple[str, ...]  # of the rows
    clock: Clock  # when the first step begins
    hour_length: Float[np.ndarray, " H"]  # h in each step
    factor: Float[np.ndarray, " R"]
    note: str  # what was taken and done, in a sentence

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype, copy=copy)

    def energy(self) -> Float[np.ndarray, " R"]:
        """kWh of each row over the steps. `ValueError` for what is no power."""
        if self.unit != "kW":
            raise ValueError(f"energy: these are in {self.unit}, not in kW.")
        return self.values @ self.hour_length

    def take(self, rows: Any) -> "Profiles":
        """The same with these rows in this order, by name or number; one may come several times."""
        known = {name: row for row, name in enumerate(self.names)}
        at = []
        for row in rows:
            whole = not isinstance(row, str) and int(row) in range(len(self.names))
            if not whole and row not in known:
                raise ValueError(
                    f"take: there is no row {row!r}; give a name, such as {self.names[0]!r}, or a "
                    f"number from 0 to {len(self.names) - 1}."
                )
            at.append(int(row) if whole else known[row])
        return replace(
            self,
            values=self.values[at],
            names=tuple(self.names[row] for row in at),
            factor=self.factor[at],
        )

    def misfit(self, unit: str, clock: Clock | None, hour_length: Any) -> str | None:
        """Why they are not of this unit and these steps, as a sentence ends; None where they are.

        `clock` is None where any will do.
        """
        if self.unit != unit:
            return f"is in {self.unit}, not in {unit}"
        length = np.asarray(hour_length, float)
        if length.shape not in ((), self.hour_length.shape) or not np.allclose(
            length, self.hour_length, rtol=1e-6
        ):
            return (
                f"is for steps of {lengths(self.hour_length)}, not of {lengths(length)}; give "
                "hour_length= and steps alike"
            )
        if clock is not None and int(clock.start) != int(self.clock.start):
            return f"begins at {self.clock}, not at {clock}; give one clock"
        return None

    def __str__(self) -> str:
        rows, steps = self.values.shape
        said = f"{rows} profiles in {self.unit}, {steps} steps of {lengths(self.hour_length)}"
        lines = [f"{said} from {self.clock}", self.note]
        for row in range(min(rows, 8)):
            numbers = self.values[row]
            line = f"  {self.names[row]}: {numbers.min():.4g} to {numbers.max():.4g} {self.unit}"
            line += f", {self.energy()[row]:.6g} kWh" if self.unit == "kW" else ""
            told = self.factor[row] != 1
            lines.append(line + (f", times {self.factor[row]:.6g}" if told else ""))
        return "\n".join(lines + [f"  and {rows - 8} more"] * (rows > 8))


def by_step(name: str, value: Any, unit: str, rows: int, when: Steps) -> Float[np.ndarray, "R H"]:
    """Numbers by row and step; `ValueError` for profiles in another unit or of other steps."""
    why = value.misfit(unit, when.clock, when.length) if isinstance(value, Profiles) else None
    if why:
        raise ValueError(f"{name} {why}.")
    return np.asarray(by_hour(name, value, rows, len(when.length), "row"), float)
