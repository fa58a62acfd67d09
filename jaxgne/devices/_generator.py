"""Dispatchable generation."""

from typing import Any

from ..market import Generators
from ..runner import built
from .tables import Device


@built
def generator(
    owner: Any,
    *,
    power: Any,
    hours: int,
    linear: Any,
    quadratic: Any = 0.0,
    minimum: Any = 0.0,
    kind: Any = "generator",
    bus: Any = -1,
) -> Generators:
    """A unit that makes between `minimum` and `power` kW, one for each prosumer in `owner`.

    It costs `quadratic` p^2 + `linear` p EUR per hour (EUR/kW^2h, EUR/kWh; no factor 1/2). Every
    number may differ by device, the powers also by hour. `kind` is a word, or one a device: what
    people call it, of `generator`, `photovoltaic`, `wind`, `hydro` and `chp`; `bus` is where it is
    connected, of a grid in three phases (-1: as its owner).

        generator(3, power=40, hours=24, linear=0.12, quadratic=0.002, kind="chp")

    Raises `ValueError` for numbers that are negative or not finite, a `minimum` above `power`, a
    word that is no kind, and shapes that do not fit.
    """
    read = Device("generator", owner, hours)
    most, least = read.hour("power", power), read.hour("minimum", minimum)
    read.ordered(("minimum", least), ("power", most))
    return Generators(
        read.owners,
        most,
        hours=read.hours,
        power_min=least,
        linear=read.row("linear", linear, "number")[:, 0],
        quadratic=read.row("quadratic", quadratic)[:, 0],
        kind=kind,
        bus=read.buses(bus),
    )
