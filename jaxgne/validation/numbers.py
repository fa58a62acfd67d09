"""Numbers that no market may hold: what is not finite, negative, out of range, or out of order.

`suspects` finds the scenarios that hold one, all of a batch at once and reading each array twice;
`mistakes` says of one market what is wrong.
"""

import numpy as np
from jaxtyping import Bool

from ..market import FIELDS, Market
from .bends import crooked, crooked_rows
from .tables import Values, field

_RANGES = {name: one.ends for name, one in FIELDS.items() if not one.of}  # least and most
_BOUNDS = tuple(  # fields that stand in pairs, `_min` and `_max`
    name[:-4] for name in FIELDS if name.endswith("_min") and f"{name[:-4]}_max" in FIELDS
)


@np.errstate(all="ignore")
def suspects(market: Market) -> Bool[np.ndarray, " S"]:
    """Which scenarios of a batch, or whether the one market, `mistakes` would say something about.

    Shapes must be right, apart from the axis of scenarios.
    """
    arrays = {name: np.asarray(field(market, name)) for name in _RANGES}
    batch = arrays["Market.hour_length"].ndim == 2
    found = np.zeros(len(arrays["Market.hour_length"]) if batch else 1, bool)

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
    if seen("Zones.slope").shape[1]:
        found |= np.any(seen("Tariff.slope")[:, None] + seen("Zones.slope") < 0, axis=(-2, -1))
    if market.generators.curves:
        found |= np.any(crooked(market.generators), axis=(-2, -1))
    gain = seen("Buffers.charge_efficiency") * seen("Buffers.discharge_efficiency")
    if np.any(gain > 1):
        found |= np.any((gain > 1) & (seen("Buffers.discharge_max") > 0), axis=(-2, -1))
    return found


def mistakes(v: Values) -> list[str]:
    """What is wrong with the numbers of one market, one sentence each."""
    with np.errstate(all="ignore"):
        return _numbers(v) + _slopes(v) + _bounds(v) + crooked_rows(v.market)


def _numbers(v: Values) -> list[str]:
    """Numbers that are not finite where that is no limit, and those out of their field's range."""
    wrong = []
    for name, (low, high) in _RANGES.items():
        bad, finite = ~((v[name] >= low) & (v[name] <= high)), np.isfinite(v[name])
        unit = f" in {FIELDS[name].unit}".removesuffix(" in ")
        wrong += v.complain(
            name,
            bad & ~finite,
            lambda at, name=name, unit=unit: (
                f"{v[name][at]} is not a finite number; give one{unit}"
            ),
        ) + v.complain(
            name, bad & finite, lambda at, name=name: f"{v.text(name, at)} {FIELDS[name].otherwise}"
        )
    return wrong


def _slopes(v: Values) -> list[str]:
    """Prices of the main grid that fall with the import of their zone."""
    steep = v["Tariff.slope"] + v["Zones.slope"] if v.rows("Zones.slope") else v["Zones.slope"]
    return v.complain(
        "Zones.slope",
        steep < 0,
        lambda at: (
            f"with Tariff.slope it is {steep[at]:.6g} EUR/kWh per kW; a price must not fall with "
            "the import, give a sum of at least 0"
        ),
        axes=("Z", "H"),
    )


def _bounds(v: Values) -> list[str]:
    """Bounds out of order, and efficiencies that contradict one another."""
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
    gain = v["Buffers.charge_efficiency"] * v["Buffers.discharge_efficiency"]
    for name in ("Buffers.charge_efficiency", "Buffers.discharge_efficiency"):
        gain = np.where(v[name] > _RANGES[name][1], 0.0, gain)  # said by _numbers
    gives = v["Buffers.discharge_max"] > 0
    if gain.shape[-1] == 1:  # in all hours
        gives = np.any(gives, axis=1, keepdims=True)
    wrong += v.complain(
        "Buffers.charge_efficiency",
        (gain > 1) & gives,
        lambda at: (
            f"charging and discharging 1 kWh returns {gain[at]:.6g} kWh; lower an "
            "efficiency, or set discharge_max to 0 for a heat pump"
        ),
    )
    return wrong
