"""Derivatives of an output with respect to a market, as bars."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ..clock import hour_name
from ..each import for_one
from ..fields import ROWS
from ..market import FIELDS, Market
from .style import BLACK, GAIN, LOSS, begin, legend, name_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 12  # fields shown at most


class _Slopes(NamedTuple):
    """Derivatives with respect to one field of a market."""

    unit: str  # of the field
    axes: tuple[str, ...]  # what rows and columns of the field are: bus, hour, ...
    values: np.ndarray


@for_one()
def sensitivities(
    gradient: Market,
    ax: "Axes | None" = None,
    *,
    field: str | None = None,
    by: str | None = None,
    output: str = "output",
    market: Market | None = None,
    percent: bool = False,
) -> "Axes":
    """How an output changes per unit of each field of a market, or per 1 % of it.

    `gradient` is a `Market` of derivatives, as `jax.grad(..., allow_int=True)` and
    `equinox.filter_grad` of a scalar function of a market give; leaves of whole numbers do not
    count. Without `field`: of each field the entry of the largest derivative, at most twelve, on a
    logarithmic scale since units differ; the unit is in the label. With it ("tariff.slope"): every
    entry by hour, or `by` what a row of it is ("bus"), summed over the other as if all of them
    changed. `output` names the output and its unit: "peak import (kW)". Hours are counted as if
    each step were one, unless the `market` is given, whose step length or clock names them.

    Derivatives by fields of different units cannot be compared; with `percent`, which needs the
    `market`, bars can: what 1 % more of all entries of a field does to the output, in its unit.

    Raises `ValueError` for `percent` without a market, for a field or an axis that there is not,
    for derivatives that are not finite, and where all are zero.
    """
    if percent and market is None:
        raise ValueError("plots.sensitivities: percent=True needs the market: give market=.")
    found = dict(_slopes(gradient, market if percent else None))
    for name, slopes in found.items():
        if not np.all(np.isfinite(slopes.values)):
            raise ValueError(f"plots.sensitivities: derivatives of {name} are not finite.")
    if field is None and percent:
        return _by_percent(ax, found, output)
    if field is None:
        return _largest(ax, found, gradient, output, _hours(market))
    if field not in found:
        raise ValueError(f"plots.sensitivities: field {field!r} is none of {', '.join(found)}.")
    return _entries(ax, field, found[field], gradient, by, output, _hours(market))


def _hours(market: Market | None) -> tuple[str, ...]:
    """What steps are called, without the word; nothing where they are counted."""
    if market is None:
        return ()
    steps = range(np.shape(market.prosumers.load)[-1])
    return tuple(hour_name(market, k).removeprefix("hour ") for k in steps)


def _slopes(gradient: Market, market: Market | None) -> Iterator[tuple[str, _Slopes]]:
    """Every field that has a derivative; per 1 % of the number that a `market` has there."""
    for field in FIELDS.values():
        values = field.find(gradient)
        if field.of or values is None or getattr(values, "dtype", None) == jax.dtypes.float0:
            continue
        values, kept, unit = np.asarray(values, float), field.axes, field.symbol
        if market is not None:
            present, unit = 0.01 * np.asarray(field.find(market), float), "1 %"
            values = np.multiply(values, present, out=np.zeros_like(values), where=values != 0)
        if field.either and not field.timed(gradient):  # one number for all hours
            values, kept = values[..., 0], kept[:-1]
        axes = tuple(ROWS[axis] for axis in kept)
        yield field.dotted, _Slopes(unit, axes, values)


def _largest(
    ax: "Axes | None", found: dict[str, _Slopes], names: Market, output: str, hours: tuple[str, ...]
) -> "Axes":
    bars = []
    for name, (unit, axes, values) in found.items():
        if np.any(values):
            flat = np.abs(values).argmax()
            at = tuple(int(k) for k in np.unravel_index(flat, values.shape))
            place = ", ".join(_called(names, hours, *p) for p in zip(axes, at, strict=True))
            bars.append((float(values[at]), f"{name}{', ' * bool(place)}{place} ({unit})"))
    if not bars:
        raise ValueError("plots.sensitivities: all derivatives are zero.")
    bars = sorted(bars, key=lambda bar: -abs(bar[0]))[:_MOST]
    across, size = f"change of {output} per unit of the field", (9.5, 1.5 + 0.3 * len(bars))
    ax = begin(ax, f"Largest sensitivities of {output}", across, "", size=size)
    places = np.arange(len(bars))
    slopes = np.array([slope for slope, _ in bars])
    _signed(ax, places, np.abs(slopes), slopes, across=True)
    ax.set_xscale("log")
    least, most = np.abs(slopes).min(), np.abs(slopes).max()
    ax.set_xlim(least / 3.0, most * 3.0 * (most / least) ** 0.3)  # with room for the numbers
    for place, slope in enumerate(slopes.tolist()):
        ax.text(abs(slope) * 1.1, place, f"{slope:+.2g}", va="center", fontsize="small")
    ax.set_yticks(places, [label for _, label in bars])
    ax.set_ylabel("field (its unit)")
    ax.invert_yaxis()
    legend(ax)
    return ax


def _by_percent(ax: "Axes | None", found: dict[str, _Slopes], output: str) -> "Axes":
    bars = [(float(slopes.values.sum()), name) for name, slopes in found.items()]
    bars = sorted((bar for bar in bars if bar[0]), key=lambda bar: -abs(bar[0]))[:_MOST]
    if not bars:
        raise ValueError("plots.sensitivities: all derivatives are zero.")
    across, size = f"change of {output} per 1 %", (9.5, 1.5 + 0.3 * len(bars))
    ax = begin(ax, f"Sensitivities of {output}", across, "", size=size)
    places, slopes = np.arange(len(bars)), np.array([slope for slope, _ in bars])
    _signed(ax, places, slopes, slopes, across=True)
    ax.axvline(0.0, color=BLACK, linewidth=1)
    ax.set_yticks(places, [name for _, name in bars])
    ax.set_ylabel("field, all of it by 1 %")
    ax.invert_yaxis()
    legend(ax)
    return ax


def _entries(
    ax: "Axes | None",
    field: str,
    slopes: _Slopes,
    names: Market,
    by: str | None,
    output: str,
    hours: tuple[str, ...],
) -> "Axes":
    if not slopes.axes:
        raise ValueError(f"plots.sensitivities: {field} is one number; leave out field.")
    by = slopes.axes[-1] if by is None else by
    if by not in slopes.axes:
        words = " or ".join(slopes.axes)
        raise ValueError(f"plots.sensitivities: {field} is by {words}, not by {by!r}.")
    others = tuple(k for k, axis in enumerate(slopes.axes) if axis != by)
    values = slopes.values.sum(axis=others)
    over = "".join(f", summed over {slopes.axes[k]}s" for k in others).replace("buss", "buses")
    ax = begin(ax, f"Sensitivity to {field}{over}", by, f"change of {output} per {slopes.unit}")
    places = np.arange(len(values))
    _signed(ax, places, values, values, across=False)
    ax.axhline(0.0, color=BLACK, linewidth=1)
    known = _known(names, hours).get(by, ())
    name_rows(ax.xaxis, known, len(values))
    return ax


def _signed(
    ax: "Axes", places: np.ndarray, lengths: np.ndarray, signs: np.ndarray, *, across: bool
) -> None:
    """Bars in two colors, that of rises and that of falls; across, where no axis tells the sign,
    with entries for the legend."""
    for kept, color, hatch, label in (
        (signs > 0, GAIN, "", "raises it"),
        (signs < 0, LOSS, "//", "lowers it"),
    ):
        if kept.any():
            look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white"}
            if across:
                ax.barh(places[kept], lengths[kept], label=label, **look)
            else:
                ax.bar(places[kept], lengths[kept], **look)


def _called(names: Market, hours: tuple[str, ...], axis: str, index: int) -> str:
    """One row or hour by name: bus 742, hour 18."""
    known = _known(names, hours).get(axis)
    return f"{axis} {known[index] if known else index}"


def _known(names: Market, hours: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """What rows and hours are called, where they are not numbers."""
    people, grid = names.prosumers.names, names.grid
    return {"bus": grid.names, "line": grid.line_names, "prosumer": people, "hour": hours}
