"""The interface of a grid model: a few facts, and how the state of buses falls along lines."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx

if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class AbstractGridModel(eqx.Module):
    """A kind of grid: which states buses have, and what power on a line takes from them.

    Final subclasses hold no arrays: instances are part of a program's structure, and equal ones
    share it. All else follows from `falls`, and `ratios` of transformers: rows, their transpose,
    A theta A^T and its inverses, derivatives by impedances and taps (model.md: Grid).
    """

    name: AbstractClassVar[str]  # in files, reports and messages
    networked: AbstractClassVar[bool]  # whether buses are balanced one by one, over lines
    # trees, lines parents first and away from the feeder; the voltage alone is a state, and
    # reactive power is always balanced
    radial: AbstractClassVar[bool]
    squared: AbstractClassVar[bool]  # whether `Plan.voltage` is the square of the magnitude
    phased: ClassVar[bool] = False  # whether a bus of `Grid` is one phase, a line one conductor

    @abstractmethod
    def falls(self, resistance: Any, reactance: Any) -> Mapping[str, tuple[Any, Any]]:
        """What a kW and a kvar on a line take of each state, `voltage` or `angle`, to its target.

        In units of the state per kW and kvar; linear in the impedances, in pu/kW, line by line.
        """

    def beside(
        self, resistance: Any, reactance: Any
    ) -> tuple[Mapping[str, tuple[Any, Any]], Mapping[str, tuple[Any, Any]]]:
        """What a kW and a kvar on the conductor beside take of each state, by mutual impedances.

        First of the conductor that leads, by what the one with the next phase carries; then the
        other way round. With phasors 120 degrees apart, conj(v_p) i_q is conj(S_q) times
        exp(j (theta_p - theta_q)): as `falls`, by z exp(-j (theta_p - theta_q)).
        """
        cos, sin = -0.5, math.sqrt(3) / 2

        def turned(sin: float) -> Mapping[str, tuple[Any, Any]]:
            return self.falls(
                cos * resistance + sin * reactance, cos * reactance - sin * resistance
            )

        return turned(sin), turned(-sin)

    def ratios(self, tap: Any) -> Mapping[str, Any]:
        """What divides each state of a line's source in its row, by the ratio `tap` of voltages.

        Behind an ideal transformer there are voltage / tap, and the angle as it was.
        """
        divided = {"voltage": tap**self.power, "angle": tap**0}
        return {state: divided[state] for state in self.states}

    @property
    def states(self) -> tuple[str, ...]:
        """What buses have beside their balances, by its name in `Plan` and in `Rows`."""
        return tuple(self.falls(1.0, 1.0))

    @property
    def meshed(self) -> bool:
        """Whether its lines may close loops."""
        return self.networked and not self.radial

    @property
    def power(self) -> int:
        """Of the magnitude in pu that `Plan.voltage` is: 2 where it is squared, else 1."""
        return 2 if self.squared else 1
