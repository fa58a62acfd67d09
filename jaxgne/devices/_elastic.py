"""Consumption that falls with its price."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..arrays import step_count
from ..curves import AbstractCurve, slopes
from ..market import Generators
from ..runner import built, jnp
from .tables import Device


@built
def elastic(
    owner: Any,
    *,
    power: Any,
    hours: int,
    worth: Any = 0.0,
    slope: Any = 0.0,
    utility: Callable[[Any], Any] | AbstractCurve | None = None,
    pieces: int = 10,
    least: Any = 0.0,
    bus: Any = -1,
) -> Generators:
    """Up to `power` kW that are used as far as they are worth their price.

    A first kWh is worth `worth` EUR, each kW more by `slope` EUR/kWh less: c kW for an hour are
    worth `worth c - slope c^2 / 2` EUR. Or `utility` says what c kW are worth for an hour: a curve
    of `jaxgne.curves`, met exactly, or any concave function of JAX, EUR, cut into `pieces` of equal
    width whose marginal worth is right at both ends and falls evenly between. `least` kW are used
    at any price. Every number may differ by device, `power` and `least` also by hour.

    It stands in the table of generators, as one that makes less than nothing: what is used is
    `-plan.generation`, row by row, a device's pieces one below the other. `bus` is where it is
    connected, of a grid in three phases (-1: as its owner).

        elastic(2, power=3, worth=0.45, slope=0.1, hours=24)
        elastic(2, power=3, utility=lambda c: 0.6 * jnp.log1p(c), hours=24)
        curve = jg.curves.Isoelastic(price=0.3, power=1.2, elasticity=0.4)
        elastic(2, power=3, least=0.2, utility=curve, hours=24)

    Raises `ValueError` for numbers that are negative or not finite, a `least` above `power`, a
    `utility` beside `worth` or `slope`, one that is not concave, or whose slope is not finite from
    `least` to `power`, and shapes that do not fit.
    """
    read = Device("elastic", owner, hours)
    most, kept = read.hour("power", power), read.hour("least", least)
    read.ordered(("least", kept), ("power", most))
    first, less = read.row("worth", worth), read.row("slope", slope)
    if utility is None:
        return Generators(
            read.owners,
            0.0 - kept,
            hours=read.hours,
            power_min=-most,
            linear=first[:, 0],
            quadratic=less[:, 0] / 2,
            kind="elastic load",
            bus=read.buses(bus),
        )
    if np.any(first) or np.any(less):
        raise ValueError("elastic: give either utility, or worth and slope.")
    if isinstance(utility, AbstractCurve):
        return _curved(read, utility, kept, most, read.buses(bus))
    count = step_count("elastic: pieces", pieces)
    width = jnp.max(most, axis=1, keepdims=True) / count
    ends = width * np.arange(count + 1)
    marginal = _marginal(read, utility, ends)
    wide = jnp.where(width > 0, width, 1.0)  # of a device that may use nothing, any
    used, must = (
        jnp.clip(bound[:, None] - ends[:, :-1, None], 0.0, width[:, :, None])
        for bound in (most, kept)
    )
    rows = len(read.owners) * count
    return Generators(
        np.repeat(read.owners, count),
        0.0 - must.reshape(rows, read.hours),
        hours=read.hours,
        power_min=-used.reshape(rows, read.hours),
        linear=marginal[:, :-1].reshape(rows),
        quadratic=((marginal[:, :-1] - marginal[:, 1:]) / wide / 2).reshape(rows),
        kind="elastic load",
        bus=jnp.repeat(read.buses(bus), count),
    )


def _curved(
    read: Device,
    curve: AbstractCurve,
    least: Float[Array, "R H"],
    most: Float[Array, "R H"],
    bus: Int[Array, " R"],
) -> Generators:
    """Consumption whose worth is a curve, which has a slope at both bounds."""
    units = Generators(
        read.owners,
        0.0 - least,
        hours=read.hours,
        power_min=-most,
        kind="elastic load",
        bus=bus,
        curves=(curve,),
    )
    for name, bound in (("least", least), ("power", most)):
        slope = slopes(units.curves, -bound)
        if not isinstance(slope, Tracer) and not np.all(np.isfinite(slope)):
            row, hour = np.argwhere(~np.isfinite(np.asarray(slope)))[0]
            raise ValueError(
                f"elastic: the slope of utility is {float(slope[row, hour])} at {name}="
                f"{float(bound[row, hour]):.6g} kW{read.place(row)}; give a {name} at which it is "
                "finite" + (", above 0." if name == "least" else ".")
            )
    return units


def _marginal(
    read: Device, utility: Callable[[Any], Any], ends: Float[Array, "R P"]
) -> Float[Array, "R P"]:
    """What a kWh more is worth at the ends of pieces, EUR/kWh; it must not rise."""
    slopes = jax.vmap(jax.grad(lambda c: jax.numpy.reshape(utility(c), ())))
    found = slopes(jax.numpy.ravel(ends)).reshape(ends.shape)
    if isinstance(found, Tracer):
        return found
    known = np.asarray(found)
    wrong = ~np.isfinite(known)
    if np.any(wrong):
        row, at = np.argwhere(wrong)[0]
        raise ValueError(
            f"elastic: the slope of utility is {known[row, at]} at {float(ends[row, at]):.6g} kW; "
            "give a function with a finite one from 0 to power."
        )
    rises = np.diff(known, axis=1) > 1e-6 * np.abs(known).max()
    if np.any(rises):
        row, at = np.argwhere(rises)[0]
        raise ValueError(
            f"elastic: utility is not concave: a kWh more is worth {known[row, at]:.6g} EUR at "
            f"{float(ends[row, at]):.6g} kW and {known[row, at + 1]:.6g} EUR at "
            f"{float(ends[row, at + 1]):.6g} kW; give one whose slope does not rise."
        )
    return jnp.asarray(np.minimum.accumulate(known, axis=1))
