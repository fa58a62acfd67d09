"""A market in a few lines: how much of what there is, with units."""

from dataclasses import is_dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .fields import axes_of
from .kinds import KINDS

_TOLD = 5  # caps that are named
_MANY = {"battery": "batteries", "photovoltaic": "photovoltaic", "wind": "wind", "hydro": "hydro"}


def describe(market: Any) -> str:
    """Sizes, totals, prices and limits of `market`, one a line, for `print`.

    Of a batch or under a trace, where there are no single numbers, only the shapes.
    """
    if not _single(market):
        return _shapes(market)
    lines = {
        "prosumers": _prosumers(market),
        "hours": _hours(market),
        **_devices(market),
        **_energies(market),
        "grid": _grid(market),
        "tariff": _tariff(market),
        "limits": _limits(market),
        **_caps(market),
    }
    width = max(len(name) for name in lines)
    return "\n".join(["Market", *(f"  {name:<{width}}  {text}" for name, text in lines.items())])


def _arrays(market: Any) -> list[tuple[str, Any, tuple[str, ...]]]:
    """Every array field by name, with the axes of its annotation."""
    tables = [table for table in vars(market).values() if is_dataclass(table)]
    return [
        (f"{type(table).__name__}.{name}", getattr(table, name), axes)
        for table in (*tables, market)
        for name, axes in axes_of(type(table)).items()
    ]


def _single(market: Any) -> bool:
    return all(
        isinstance(array, jax.Array | np.ndarray | np.generic)
        and not isinstance(array, Tracer)
        and array.ndim == len(axes)
        for _, array, axes in _arrays(market)
    )


def _shapes(market: Any) -> str:
    arrays = _arrays(market)
    rows = [(name, str(getattr(array, "shape", array))) for name, array, _ in arrays]
    leads = {np.shape(array)[: np.ndim(array) - len(axes)] for _, array, axes in arrays}
    count = next(iter(leads), ()) if len(leads) == 1 else ()
    width = max(len(name) for name, _ in rows)
    what = f"a batch of {count[0]} scenarios" if count else "shapes only (traced)"
    head = f"Market, {what}"
    return "\n".join([head, *(f"  {name:<{width}}  {shape}" for name, shape in rows)])


def _numbers(*arrays: Any) -> list[np.ndarray]:
    return [np.asarray(array, float) for array in arrays]


def _number(value: float) -> str:
    """Three or more digits: 0.00123, 12.3, 1,234."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _range(values: Any, unit: str) -> str:
    """Smallest to largest, or the one number."""
    (values,) = _numbers(values)
    low, high = (_number(float(end)) for end in (np.min(values), np.max(values)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _prosumers(market: Any) -> str:
    buses = np.asarray(market.prosumers.bus)
    row = (
        ("phase or terminal", "phases or terminals")
        if market.grid.model.phased
        else ("bus", "buses")
    )
    return f"{len(buses):,} at {_count(len(np.unique(buses)), *row)}"


def _hours(market: Any) -> str:
    count = market.prosumers.load.shape[1]
    begin = "" if market.clock is None else f", from {market.clock}"
    return f"{_count(count, 'step')} of {_range(market.hour_length, 'h')}{begin}"


def _devices(market: Any) -> dict[str, str]:
    """Capacities at the hour in which they are largest, since bounds may vary."""
    units, stores, pairs = market.generators, market.buffers, market.trading
    made, charge, size = _numbers(units.power_max, stores.charge_max, stores.energy_max)
    peak = [float(np.max(np.sum(a, axis=0), initial=0.0)) for a in (made, charge, size)]
    degree = 2 * len(pairs.buyer) / max(len(market.prosumers.bus), 1)
    texts = {
        "generators": (len(units.owner), f"{_kinds('generator', units)}, {_number(peak[0])} kW"),
        "buffers": (
            len(stores.owner),
            f"{_kinds('buffer', stores)}, {_number(peak[2])} kWh, {_number(peak[1])} kW charging",
        ),
        "pairs": (len(pairs.buyer), f", mean degree {_number(degree)}"),
    }
    return {name: f"{count:,}{text}" if count else "none" for name, (count, text) in texts.items()}


def _kinds(one: str, table: Any) -> str:
    """How many there are of each kind, where a device says what it is."""
    words = KINDS[one]
    counts = np.bincount(np.asarray(table.kind), minlength=len(words)).tolist()
    if not any(counts[1:]):
        return ""
    told = [
        _count(n, word, _MANY.get(word, ""))
        for n, word in zip(counts[1:], words[1:], strict=True)
        if n
    ]
    others = [f"{counts[0]:,} without a kind"] if counts[0] else []
    return f": {', '.join(told + others)}"


def _energies(market: Any) -> dict[str, str]:
    """Load, passive demand and what renewables leave over (`load` is net of them)."""
    load, passive, ts = _numbers(market.prosumers.load, market.grid.passive, market.hour_length)

    def text(power: np.ndarray) -> str:
        total = np.sum(power, axis=0)
        peak, energy = float(np.max(total, initial=0.0)), float(np.sum(ts * total))
        return f"peak {_number(peak)} kW, {_number(energy)} kWh"

    wanted, surplus = np.maximum(load, 0), np.maximum(-load, 0)
    both = np.concatenate([wanted, passive])
    return {
        "load": text(both) + (f" (passive: {text(passive)})" if np.any(passive) else ""),
        "surplus": text(surplus) if np.any(surplus) else "none",
    }


def _grid(market: Any) -> str:
    grid = market.grid
    buses = _count(grid.passive.shape[0], "bus", "buses")
    about = " about an AC state" * (grid.tangent is not None)
    if grid.model.phased:
        return f"{grid.model.name}{about}, {_in_phases(grid)}"
    if not grid.model.networked:
        return f"copperplate (no network limits), {buses}"
    balance = "" if grid.model.radial or not grid.reactive_balance else " with reactive"
    lines, feeders = (
        _count(len(rows), name) for rows, name in ((grid.source, "line"), (grid.feeder, "feeder"))
    )
    return f"{grid.model.name}{balance}{about}, {buses}, {lines}, {feeders}"


def _in_phases(grid: Any) -> str:
    """Buses with all their phases, and what their lines are made of."""
    phases, ends = int(np.sum(np.asarray(grid.phases) >= 0)), len(grid.terminal)
    told = [
        f"{_count(len(grid.phase_a), 'bus', 'buses')} of {_count(phases, 'phase')}",
        *([f"{_count(ends, 'terminal')} between them"] if ends else []),
        _count(len(grid.source) - ends, "conductor"),
    ]
    return ", ".join(told)


def _tariff(market: Any) -> str:
    """Base price and slope, and the price if all load and no surplus were bought."""
    tariff = market.tariff
    base, slope, load, passive = _numbers(
        tariff.base, tariff.slope, market.prosumers.load, market.grid.passive
    )
    top = base + slope * (np.sum(np.maximum(load, 0), axis=0) + np.sum(passive, axis=0))
    kappa = float(tariff.anticipation)
    names = {1.0: "Nash", 0.0: "price taking"}
    text = f"{_range(base, 'EUR/kWh')} + {_range(slope, 'EUR/kWh per kW')} of total import"
    text += f", {_range(top, 'EUR/kWh')} at full load; "
    added = [np.asarray(getattr(market.prosumers, f"{way}_adder")) for way in ("import", "export")]
    for way, each in zip(("what is bought", "what is sold"), added, strict=True):
        if np.any(each):
            text += f"own contracts add {_range(each, 'EUR/kWh')} to the price of {way}; "
    if np.any(np.asarray(market.prosumers.export_max) > 0):
        text += f"export at {_range(tariff.export, 'EUR/kWh')}; "
    if zones := len(market.zones.names):
        more = {"base": "EUR/kWh", "slope": "EUR/kWh per kW", "export": "EUR/kWh"}
        each = {name: np.asarray(getattr(market.zones, name), float) for name in more}
        told = [f"{name} {_range(each[name], more[name])}" for name in more if np.any(each[name])]
        text += f"{_count(zones, 'zone')}, which add {', '.join(told) or 'nothing'}; "
    return text + names.get(kappa, f"anticipation {_number(kappa)}")


def _caps(market: Any) -> dict[str, str]:
    """Names of caps, and the tightest upper limit on the level of each that has one."""
    caps, texts = market.caps, []
    for name, unit, most in zip(caps.names, caps.units, np.asarray(caps.level_max), strict=True):
        limit = f" at most {_number(float(most.min()))} {unit}" * bool(np.isfinite(most).any())
        texts.append(f"{name}{limit}".strip())
    more = len(texts) - _TOLD
    told = [*texts[:_TOLD], *([f"{more} more"] if more > 0 else [])]
    return {"caps": "; ".join(told)} if texts else {}


def _limits(market: Any) -> str:
    """Which limits are set; voltages always are where there is a network."""
    tariff, grid, people = market.tariff, market.grid, market.prosumers
    low, high, rating, bought = _numbers(
        tariff.total_min, tariff.total_max, grid.rating, people.import_max
    )
    texts = [
        f"total {word} {_range(values[np.isfinite(values)], 'kW')}"
        for word, values in (("at least", low), ("at most", high))
        if np.any(np.isfinite(values))
    ]
    limited = int(np.sum(np.any(np.isfinite(bought), axis=1)))
    if limited:
        texts.append(f"import of {_count(limited, 'prosumer')}")
    if grid.model.networked:
        rated = rating[np.isfinite(rating)]
        if rated.size:
            texts.append(f"{_count(rated.size, 'line')} rated {_range(rated, 'kVA')}")
        edges = _range(np.stack([grid.voltage_min, grid.voltage_max]), "pu")
        held = np.asarray(grid.feeder_voltage)
        fed = f", fed at {_range(held, 'pu')}" if np.any(held != 1) else ""
        texts.append(f"voltage {edges}{fed}")
    return "; ".join(texts) or "none"
