"""A clearing as one xarray Dataset: arrays with named axes, units and times.

`jaxgne.families` says which; xarray (extra `xarray`) is imported when one is made.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .arguments import of_tables
from .families import FAMILIES, Column, Family, Told
from .market import Grid, Market
from .phases import connections
from .result import Clearing

if TYPE_CHECKING:
    from xarray import Dataset

_ROWS = ("prosumer", "generator", "buffer", "pair", "bus", "line", "cap", "zone")
_Array = tuple[tuple[str, ...], np.ndarray, dict[str, str]]  # axes, values, attributes


@of_tables
def to_xarray(market: Market, clearing: Clearing) -> "Dataset":
    """Plan, prices, bills, what an AC power flow finds and the certificate as one `Dataset`.

    Variables are called by what they are of: `prosumer_imports`, `bus_voltage`, `bill_total`,
    totals of a step by themselves, and have `units` and a `long_name` (docs/tables.md lists them).
    Axes are `step`, the rows (`prosumer`, `generator`, `buffer`, `pair`, `bus`, `line`, `cap`,
    `zone`, by name where the market has names), and `scenario` of a batch, NaN in infeasible ones,
    which `status` tells. A market with a clock has the `time` of each step in UTC, as no file
    format of arrays knows time zones, and its `local_time`. On a grid in three phases `bus_name`
    and `phase` say what a row of buses is. What a market has no rows of has no variables.

    Raises `ValueError` for the clearing of another market and for one without prices, infeasible
    or non-finite, `ImportError` without xarray.
    """
    try:
        import xarray
    except ImportError as missing:
        raise ImportError(
            "to_xarray: this needs xarray: pip install 'jaxgne[xarray]'."
        ) from missing
    told = Told("to_xarray", market, clearing)
    labels, variables = _steps(told) | _rows(told), {}
    for family in FAMILIES:
        if not told.sizes.get(family.row, 1) or family.lacks(told) is not None:
            continue
        for column in family.columns:
            if column.unit is not None:
                variables[family.variable(column)] = _array(told, family, column)
            elif family.prefix == family.row:  # else others of these rows say it
                labels[family.variable(column)] = _array(told, family, column)
    labels |= _phases(told)
    return xarray.Dataset(variables, labels, _attributes(told))


def _array(told: Told, family: Family, column: Column) -> _Array:
    """A column over its axes."""
    axes = ["scenario"] * told.batch + [family.row] * bool(family.row) + ["step"] * column.hourly
    values = np.asarray(column.of(told))
    values = np.broadcast_to(values, [told.sizes[axis] for axis in axes])
    if column.unit is None:
        values = told.names[column.name][values] if column.name in told.names else values
        return _common(told, axes, values, column.attributes)
    if told.batch and values.dtype.kind == "f":
        known = np.reshape(told.known, (-1, *[1] * (len(axes) - 1)))
        values = np.where(known, values, np.nan)
    return tuple(axes), values, column.attributes


def _common(told: Told, axes: Any, values: Any, says: dict[str, str]) -> _Array:
    """Once for all scenarios, where they have the same."""
    values = np.asarray(values)
    if axes[0] == "scenario" and np.all(values == values[:1]):
        return tuple(axes[1:]), values[0], says
    return tuple(axes), values, says


def _steps(told: Told) -> dict[str, _Array]:
    """What tells steps from one another, and scenarios."""
    market, sizes = told.market, told.sizes
    axes = ("scenario", "step") if told.batch else ("step",)
    found: dict[str, _Array] = {
        "step": (("step",), np.arange(sizes["step"]), {"long_name": "number of the step"}),
    }

    def add(name: str, values: Any, means: str, **says: str) -> None:
        found[name] = _common(told, axes, values, {"long_name": means} | says)

    start = "when the step begins"
    add("hour", told.hours.astype(float), f"{start}, since the start", units="h")
    if market.clock is not None:
        from pandas import DatetimeIndex

        moments = told.seconds.astype("datetime64[s]")
        local = DatetimeIndex(moments.ravel(), tz="UTC").tz_convert(market.clock.tz)
        wall = local.tz_localize(None).to_numpy().reshape(moments.shape)
        add("time", moments.astype("datetime64[ns]"), f"{start}, in UTC", time_zone="UTC")
        add(
            "local_time",
            wall.astype("datetime64[ns]"),
            f"{start}, by local clocks",
            time_zone=market.clock.zone,
        )
    add("duration", market.hour_length, "length of the step", units="h")
    add("weight", market.weight, "how often the step counts", units="1")
    if market.before is not None:
        before = np.broadcast_to(np.array(market.before), told.hours.shape)
        add("before", before, "the step that it begins from, -1 the start")
    ended = {"long_name": "how the clearing ended"}
    if told.batch:
        found["scenario"] = ("scenario",), np.arange(sizes["scenario"]), {}
    found["status"] = ("scenario",) if told.batch else (), np.asarray(told.status), ended
    return found


def _rows(told: Told) -> dict[str, _Array]:
    """What rows are called: by name where they have names, else by number."""
    return {
        row: ((row,), told.names.get(row, np.arange(told.sizes[row])), {})
        for row in _ROWS
        if told.sizes[row]
    }


def _phases(told: Told) -> dict[str, _Array]:
    """The bus and the phases that rows are of, and the phases of what stands there."""
    market = told.market
    if not market.grid.model.phased:
        return {}
    first: Grid = (
        jax.tree.map(lambda a: np.asarray(a)[0], market.grid) if told.batch else (market.grid)
    )
    buses, phases = (np.array(words) for words in connections(first))
    says = {"long_name": "phase, or phases, that it is connected to"}
    found: dict[str, _Array] = {
        "bus_name": (("bus",), buses, {"long_name": "bus of which the row is a phase"}),
        "phase": (("bus",), phases, {"long_name": "phase, or phases, of the bus"}),
        "line_phase": (("line",), phases[np.asarray(first.target)], says),
    }
    for family in FAMILIES:
        own = next((column for column in family.columns if column.name == "bus"), None)
        if own is not None and family.prefix == family.row and told.sizes[family.row]:
            axes = ["scenario"] * told.batch + [family.row]
            at = np.asarray(own.of(told))
            found[f"{family.row}_phase"] = _common(told, axes, phases[at], says)
    return found


def _attributes(told: Told) -> dict[str, Any]:
    """What the whole is, and where it comes from."""
    market, run = told.market, told.clearing.run
    found: dict[str, Any] = {
        "title": "Clearing of a peer-to-peer energy market",
        "source": f"jaxgne {version('jaxgne')}",
        "grid_model": market.grid.model.name,
    }
    if run is not None:
        found |= {"solver": run.solver, "tolerance": float(np.max(np.asarray(run.tol)))}
    if market.clock is not None:
        found["time_zone"] = market.clock.zone
    return found
