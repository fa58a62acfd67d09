"""Heat pumps by outdoor temperature: what they draw as they are, and as devices of a market."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from ..arrays import by_row
from ..clock import lengths
from ._profiles import Profiles, by_step
from ._steps import steps_of

Ground = Literal["air", "ground"]
# Staffell, Brett, Brandon, Hawkes: A review of domestic heat pumps, Energy Environ. Sci. 5 (2012):
# COP = a + b dT + c dT^2, and the dT in K between flow and source for which it holds
_COP = {
    "air": (6.81, -0.121, 0.000630, 15.0, 60.0),
    "ground": (8.77, -0.150, 0.000734, 20.0, 60.0),
}


@dataclass(frozen=True)
class HeatPumps:
    """Heat pumps that hold the indoor temperature, and the same as arguments of a device.

    `jg.devices.heat_pump(owners, **pumps.device)` may heat earlier or later within its comfort.
    """

    load: Profiles  # kW of electricity
    heat: Float[np.ndarray, "R H"]  # kW
    cop: Float[np.ndarray, "R H"]  # heat over electricity
    device: dict[str, Any]  # arguments of `jg.devices.heat_pump`


def heat_pumps(
    design: Any,
    outdoor: Any,
    *,
    clock: Any,
    steps: int,
    hour_length: Any = 1.0,
    design_outdoor: Any = -12.0,
    limit: Any = 15.0,
    indoor: Any = 20.0,
    flow: Any = 40.0,
    source: Ground = "air",
    ground: Any = 8.0,
    inertia: Any = 50.0,
    reserve: float = 1.2,
) -> HeatPumps:
    """Heat pumps of buildings that need `design` kW of heat at `design_outdoor` degC.

    Heat falls linearly with `outdoor` (degC by row and step, as an array or from `series`) to none
    at `limit`, where sun and people warm a building to `indoor`. Heat over electricity is that of
    Staffell et al. (2012) by the difference to `flow`, the temperature of the heating (35 degC in
    floors, 50 of old radiators), from the outdoor air or where `source` is "ground" from `ground`
    degC. Only rooms are heated, no water. All but the last two may differ by row.

    `device` has what `jg.devices.heat_pump` takes: a building that cools with `inertia` h,
    within 2 K above `indoor`, where it starts; the mean of heat over electricity, weighted by
    heat; `reserve` times the power at `design`. Held at `indoor` it uses the same energy.

    Raises `ValueError` for shapes that do not fit and temperatures that are in no order.
    """
    if source not in get_args(Ground):
        raise ValueError(f'heat_pumps: source={source!r}: give "air" or "ground".')
    when = steps_of("heat_pumps", clock, steps, hour_length)
    hours = len(when.length)
    given = {"design": design, "design_outdoor": design_outdoor, "limit": limit, "indoor": indoor}
    given |= {"flow": flow, "ground": ground, "inertia": inertia}
    rows = np.shape(outdoor)[0] if np.ndim(outdoor) == 2 else 1
    count = max(rows, *(np.size(value) for value in given.values()))
    row = {name: _row(name, value, count) for name, value in given.items()}
    air = by_step("heat_pumps: outdoor", outdoor, "degC", count, when)
    _check(row, air)
    share = (row["limit"] - np.minimum(air, row["limit"])) / (row["limit"] - row["design_outdoor"])
    heat = row["design"] * share
    cop = _performance(row["flow"], air if source == "air" else row["ground"] + 0 * air, source)
    drawn = heat / cop
    used, warmed = (a @ when.length for a in (drawn, heat))
    usual = np.where(used > 0, warmed / np.where(used > 0, used, 1.0), cop.mean(axis=1))
    cold = row["design_outdoor"] if source == "air" else row["ground"]
    resistance = (row["limit"] - row["design_outdoor"]) / np.maximum(row["design"], 1e-9)
    even = np.unique(when.length)
    device = {
        "power": reserve * row["design"] / _performance(row["flow"], cold, source),
        "cop": usual[:, None],
        # what sun and people add makes it as warm outdoors
        "outdoor": np.minimum(air, row["limit"]) + row["indoor"] - row["limit"],
        "resistance": resistance,
        "capacity": row["inertia"] / resistance,
        "hours": hours,
        "comfort": (row["indoor"], row["indoor"] + 2.0),
        "start": row["indoor"],
        "hour_length": float(even[0]) if len(even) == 1 else when.length,
    }
    load = Profiles(
        drawn,
        "kW",
        tuple(f"heat pump {k}" for k in range(count)),
        when.clock,
        when.length,
        np.ones(count),
        f"heat pumps ({source}) by outdoor temperature, steps of {lengths(when.length)}",
    )
    return HeatPumps(load, heat, cop, device)


def _performance(flow: Any, source: Any, kind: str) -> Any:
    """Heat over electricity."""
    a, b, c, least, most = _COP[kind]
    apart = np.clip(flow - source, least, most)
    return a + b * apart + c * apart**2


def _row(name: str, value: Any, count: int) -> Float[np.ndarray, "R 1"]:
    """One number a row."""
    found = np.asarray(by_row(f"heat_pumps: {name}", value, count, "row"), float)
    low = 0.0 if name in ("design", "inertia") else -100.0
    if not np.all(np.isfinite(found) & (found >= low)):
        raise ValueError(f"heat_pumps: {name}={value!r:.40}: give finite numbers from {low:g} on.")
    return found[:, None]


def _check(row: dict[str, Any], air: np.ndarray) -> None:
    """`ValueError` for temperatures that cannot be."""
    if not np.all((air > -80) & (air < 60)):
        at = tuple(np.argwhere(~((air > -80) & (air < 60)))[0])
        raise ValueError(f"heat_pumps: outdoor={air[at]:.6g} in step {at[1]}: give degC.")
    if np.any(row["design_outdoor"] >= row["limit"]) or np.any(row["limit"] > row["indoor"]):
        raise ValueError("heat_pumps: give design_outdoor below limit, and limit up to indoor.")
    if np.any(row["inertia"] <= 0):
        raise ValueError("heat_pumps: inertia: give hours above 0.")
