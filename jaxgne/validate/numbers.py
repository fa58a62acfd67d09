"""Numbers that no market may hold: what is not finite, negative, out of range, or out of order.

`suspects` finds the scenarios that hold one, all of a batch at once and reading each array twice;
`mistakes` says of one market what is wrong.
"""

import numpy as np
from jaxtyping import Bool

from ..market import Market
from .tables import POINTS_TO, TYPES, Values, field, unit

_TINY, _LARGE = np.nextafter(0.0, 1.0), np.finfo(float).max  # the least above 0, the most finite
_MAY_BE_INFINITE = {
    "Prosumers.import_max": np.inf,
    "Grid.rating": np.inf,
    "Tariff.total_max": np.inf,
    "Tariff.total_min": -np.inf,
}
_NOT_NEGATIVE = (
    *("Prosumers.import_max", "Prosumers.export_max", "Prosumers.curtail_max"),
    *("Generators.quadratic", "Buffers.charge_max", "Buffers.discharge_max", "Buffers.quadratic"),
    *("Trading.limit", "Trading.charge", "Trading.quadratic", "Tariff.slope"),
    *("Grid.resistance", "Grid.reactance", "Grid.rating", "Grid.compensation_max"),
)
_FACTORS = {  # above 0, up to and with the limit
    "Buffers.retention": (1.0, "give the share kept per step, at most 1"),
    "Buffers.charge_efficiency": (20.0, "give a share (0.95, not 95) or a COP"),
    "Buffers.discharge_efficiency": (1.0, "give a share, at most 1 (0.95, not 95)"),
    "Market.hour_length": (np.inf, "give the length of a step in hours, above 0"),
}
_BOUNDS = ("Generators.power", "Buffers.energy", "Grid.voltage", "Grid.angle", "Tariff.total")
_RANGES = {  # of every number that is no index: the least and the most it may be
    name: (-_LARGE, _LARGE) for name in TYPES if name not in POINTS_TO
}
_RANGES |= dict.fromkeys(_NOT_NEGATIVE, (0.0, _LARGE))
_RANGES |= {name: (_TINY, min(most, _LARGE)) for name, (most, _) in _FACTORS.items()}
_RANGES |= {
    name: (min(_RANGES[name][0], end), max(_RANGES[name][1], end))
    for name, end in _MAY_BE_INFINITE.items()
}
_RANGES["Tariff.anticipation"] = (0.0, 1.0)
_RANGES["Grid.voltage_min"] = (_TINY, 2.0)
_RANGES["Grid.feeder_voltage"] = (0.5, 1.5)


@np.errstate(all="ignore")
def suspects(market: Market) -> Bool[np.ndarray, " S"]:
    """Which scenarios of a batch, or whether the one market, `mistakes` would say something about.

    Shapes must be right, apart from the axis of scenarios.
    """
    arrays = {name: np.asarray(field(market, name)) for name in _RANGES}
    batch = arrays["Market.hour_length"].ndim == 1
    found = np.zeros(arrays["Market.hour_length"].size, bool)

    def seen(name: str) -> np.ndarray:
        """The numbers by scenario; once for all where `np.broadcast_to` made the scenarios."""
        array = arrays[name] if batch else arrays[name][None]
        return array[:1] if batch and array.strides[0] == 0 else array

    def over(array: np.ndarray, least: bool) -> np.ndarray:
        reduce = np.minimum if least else np.maximum
        return reduce.reduce(array, axis=tuple(range(1, array.ndim)))

    ends = {}
    for name, (low, high) in _RANGES.items():
        array = seen(name)
        if array.size:
            ends[name] = least, most = over(array, True), over(array, False)
            found |= ~((least >= low) & (most <= high))  # also where one is NaN
    for pair in _BOUNDS:
        low, high = f"{pair}_min", f"{pair}_max"
        if high in ends and not np.all(ends[low][1] <= ends[high][0]):
            found |= np.any(seen(high) < seen(low), axis=tuple(range(1, seen(high).ndim)))
    gain = seen("Buffers.charge_efficiency") * seen("Buffers.discharge_efficiency")
    if np.any(gain > 1):
        found |= np.any((gain > 1) & np.any(seen("Buffers.discharge_max") > 0, axis=-1), axis=-1)
    return found


def mistakes(v: Values) -> list[str]:
    """What is wrong with the numbers of one market, one sentence each."""
    with np.errstate(all="ignore"):
        return _factors(v) + _numbers(v) + _bounds(v)


def _factors(v: Values) -> list[str]:
    """Efficiencies, retention and the length of an hour outside their range."""
    wrong = []
    for name, (limit, fix) in _FACTORS.items():
        bad = (v[name] <= 0) | (v[name] > limit)
        wrong += v.complain(
            name, bad, lambda at, name=name, fix=fix: f"{v.text(name, at)} is out of range; {fix}"
        )
    return wrong


def _numbers(v: Values) -> list[str]:
    """Numbers that are not finite, or negative where they may not be."""
    wrong = []
    for name in (name for name in TYPES if name not in POINTS_TO):
        odd = ~np.isfinite(v[name])
        if name in _MAY_BE_INFINITE:
            odd &= v[name] != _MAY_BE_INFINITE[name]
        wrong += v.complain(
            name,
            odd,
            lambda at, name=name: (
                f"{v[name][at]} is not a finite number; give one"
                + f" in {unit(name)}" * bool(unit(name))
            ),
        )
    for name in _NOT_NEGATIVE:
        wrong += v.complain(
            name,
            (v[name] < 0) & (v[name] > -np.inf),  # that one is in the list already
            lambda at, name=name: f"{v.text(name, at)} is negative; give 0 or more",
        )
    return wrong


def _bounds(v: Values) -> list[str]:
    """Bounds out of order, and numbers that contradict one another or what they stand for."""
    wrong = []
    for pair in _BOUNDS:
        low, high = f"{pair}_min", f"{pair}_max"
        wrong += v.complain(
            high,
            v[high] < v[low],
            lambda at, low=low, high=high: (
                f"{v.text(high, at)} is below {low.split('.')[1]} "
                f"{v.text(low, at)}; swap or raise it"
            ),
        )
    wrong += v.complain(
        "Grid.voltage_min",
        (v["Grid.voltage_min"] <= 0) | (v["Grid.voltage_min"] > 2),
        lambda at: (
            f"{v.text('Grid.voltage_min', at)} is no voltage per unit; give a number like "
            "0.95, not volts or kV"
        ),
    )
    wrong += v.complain(
        "Grid.feeder_voltage",
        (v["Grid.feeder_voltage"] < 0.5) | (v["Grid.feeder_voltage"] > 1.5),
        lambda at: (
            f"{v.text('Grid.feeder_voltage', at)} is no voltage that a main grid holds; give a "
            "number per unit like 1.04, from 0.5 to 1.5"
        ),
    )
    anticipation = v["Tariff.anticipation"]
    wrong += v.complain(
        "Tariff.anticipation",
        (anticipation < 0) | (anticipation > 1),
        lambda at: (
            f"{anticipation:.6g} is not between 0 and 1; give 1 for Nash, 0 for price takers"
        ),
    )
    gain = v["Buffers.charge_efficiency"] * v["Buffers.discharge_efficiency"]
    for name in ("Buffers.charge_efficiency", "Buffers.discharge_efficiency"):
        gain = np.where(v[name] > _FACTORS[name][0], 0.0, gain)  # said by _factors
    wrong += v.complain(
        "Buffers.charge_efficiency",
        (gain > 1) & np.any(v["Buffers.discharge_max"] > 0, axis=1),
        lambda at: (
            f"charging and discharging 1 kWh returns {gain[at]:.6g} kWh; lower an "
            "efficiency, or set discharge_max to 0 for a heat pump"
        ),
    )
    return wrong
