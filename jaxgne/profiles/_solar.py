"""What panels make, from place, tilt and sky, by pvlib."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..arrays import by_row
from ._extras import extra
from ._profiles import Profiles, by_step
from ._steps import HOUR, Steps, steps_of

_FINEST = 0.25  # h between looks at a clear sky
_ROWS = 64  # at once, for memory
_NOMINAL, _REFERENCE = 0.96, 0.9637  # efficiencies of PVWatts' inverter
_UNITS = dict.fromkeys(("ghi", "dni", "dhi"), "W/m2") | {"temperature": "degC", "wind": "m/s"}
_RANGES = {
    "kwp": (0.0, np.inf, "give kW of peak power, at least 0"),
    "latitude": (-90.0, 90.0, "give degrees to the north, -90 to 90"),
    "longitude": (-180.0, 180.0, "give degrees to the east, -180 to 180"),
    "tilt": (0.0, 90.0, "give degrees from flat, 0, to upright, 90"),
    "azimuth": (0.0, 360.0, "give degrees from north by east: 90 is east, 180 south, 270 west"),
    "altitude": (-500.0, 9000.0, "give m above the sea"),
    "inverter": (0.0, np.inf, "give kW of AC power, at least 0"),
    "losses": (0.0, 1.0, "give a share from 0 to 1: 0.14, not 14"),
    "ghi": (0.0, 1600.0, "give W/m2 of at least 0"),
    "dni": (0.0, 1600.0, "give W/m2 of at least 0"),
    "dhi": (0.0, 1600.0, "give W/m2 of at least 0"),
    "temperature": (-80.0, 60.0, "give degC"),
    "wind": (0.0, 120.0, "give m/s of at least 0"),
}


def solar(
    kwp: Any,
    *,
    latitude: Any,
    longitude: Any,
    tilt: Any,
    azimuth: Any,
    clock: Any,
    steps: int,
    hour_length: Any = 1.0,
    altitude: Any = 0.0,
    ghi: Any = None,
    dni: Any = None,
    dhi: Any = None,
    temperature: Any = 15.0,
    wind: Any = 1.0,
    losses: Any = 0.14,
    inverter: Any = None,
) -> Profiles:
    """AC power of panels of `kwp` kW each, kW by row and step.

    Panels stand at `latitude` and `longitude` (degrees north and east), tilted from flat by `tilt`
    and turned to `azimuth`, degrees from north by east (180 is south). Without `ghi` the sky is
    clear (Ineichen and Perez with pvlib's monthly turbidity at `altitude` m), the mean over a step
    of the sun in the middle of each part of at most 15 min. With `ghi`, W/m2 on a flat plane by
    step, the sun is that of the middle of each step; `dni` and `dhi`, direct and diffuse, come with
    it or follow from it (Erbs). Sky diffuse is that of Hay and Davies, reflection at the
    glass physical, cells as warm as open glass modules (Sandia) at `temperature` degC and `wind`
    m/s; power by PVWatts with `losses` of soiling, wiring and the like, and an `inverter` of so
    many kW AC (by default `kwp`).

    Everything may differ by row; `ghi` to `wind` by step, too, as arrays or as `series` gives them.
    Rows are as many as the longest of `kwp` to `azimuth`.

        sun = solar([5, 8], latitude=51.3, longitude=9.5, tilt=35, azimuth=[180, 90],
                    clock=jg.Clock("2025-06-21", "Europe/Berlin"), steps=96, hour_length=0.25)

    Raises `ValueError` for numbers out of range and shapes that do not fit, `ImportError` without
    pvlib (extra `profiles`).
    """
    when = steps_of("solar", clock, steps, hour_length)
    place = {"kwp": kwp, "latitude": latitude, "longitude": longitude, "tilt": tilt}
    place |= {"azimuth": azimuth, "altitude": altitude, "losses": losses}
    place["inverter"] = kwp if inverter is None else inverter
    count = max(np.size(value) for value in place.values())
    site = {name: _row(name, value, count) for name, value in place.items()}
    if (dni is None) != (dhi is None) or (ghi is None and dni is not None):
        raise ValueError("solar: give ghi alone, or ghi with both dni and dhi.")
    given = {"ghi": ghi, "dni": dni, "dhi": dhi, "temperature": temperature, "wind": wind}
    sky = {
        name: _checked(name, by_step(f"solar: {name}", value, _UNITS[name], count, when))
        for name, value in given.items()
        if value is not None
    }
    parts = int(np.ceil(np.max(when.length) / _FINEST - 1e-9)) if ghi is None else 1
    made = np.zeros((count, len(when.length)))
    places = np.stack([site[name] for name in ("latitude", "longitude", "altitude")], axis=1)
    _, which = np.unique(places, axis=0, return_inverse=True)
    for place_number in range(which.max() + 1):
        rows = np.flatnonzero(which.reshape(-1) == place_number)
        sun = _Sun(when, parts, *places[rows[0]])
        for some in np.array_split(rows, -(-len(rows) // _ROWS)):
            made[some] = _power(sun, some, site, sky).reshape(len(some), -1, parts).mean(axis=2)
    return Profiles(
        made,
        "kW",
        tuple(f"{size:g} kWp" for size in site["kwp"]),
        when.clock,
        when.length,
        np.ones(count),
        "PV by pvlib: " + ("a clear sky" if ghi is None else "irradiance as given"),
    )


class _Sun:
    """Where the sun is at a place in the middle of each part of each step, and a clear sky."""

    def __init__(self, when: Steps, parts: int, latitude: float, longitude: float, altitude: float):
        pandas, pvlib = (extra("solar", name, "profiles") for name in ("pandas", "pvlib"))
        middle = (np.arange(parts) + 0.5) / parts
        at = when.edges[:-1, None] + np.rint(when.length[:, None] * middle * HOUR).astype(np.int64)
        self.parts = parts
        self.times = pandas.DatetimeIndex(at.reshape(-1).astype("datetime64[us]"), tz="UTC")
        place = pvlib.location.Location(latitude, longitude, altitude=altitude)
        where = place.get_solarposition(self.times)
        self.zenith, self.apparent, self.azimuth = (
            where[name].to_numpy() for name in ("zenith", "apparent_zenith", "azimuth")
        )
        self.extra = np.asarray(pvlib.irradiance.get_extra_radiation(self.times))
        self._clear = lambda: place.get_clearsky(self.times, solar_position=where)

    def clear(self) -> dict[str, Float[np.ndarray, " T"]]:
        """W/m2 under a clear sky."""
        found = self._clear()
        return {name: found[name].to_numpy() for name in ("ghi", "dni", "dhi")}


def _power(
    sun: _Sun, rows: Int[np.ndarray, " r"], site: dict[str, Any], sky: dict[str, Any]
) -> Float[np.ndarray, "r T"]:
    """AC power of these rows, kW."""
    pvlib = extra("solar", "pvlib", "profiles")
    weather = {name: np.repeat(values[rows], sun.parts, axis=1) for name, values in sky.items()}
    if "ghi" not in weather:
        weather |= sun.clear()
    elif "dni" not in weather:
        split = pvlib.irradiance.erbs(weather["ghi"], sun.zenith, sun.times.day_of_year.to_numpy())
        weather |= {"dni": split["dni"], "dhi": split["dhi"]}
    size, tilt, azimuth, losses, inverter = (
        site[name][rows, None] for name in ("kwp", "tilt", "azimuth", "losses", "inverter")
    )
    falls = pvlib.irradiance.get_total_irradiance(
        tilt, azimuth, sun.apparent, sun.azimuth, weather["dni"], weather["ghi"], weather["dhi"],
        dni_extra=sun.extra, model="haydavies",
    )  # fmt: skip
    through = pvlib.iam.physical(pvlib.irradiance.aoi(tilt, azimuth, sun.apparent, sun.azimuth))
    used = np.nan_to_num(falls["poa_direct"] * through + falls["poa_diffuse"])
    warm = pvlib.temperature.TEMPERATURE_MODEL_PARAMETERS["sapm"]["open_rack_glass_glass"]
    cells = pvlib.temperature.sapm_cell(
        np.nan_to_num(falls["poa_global"]), weather["temperature"], weather["wind"], **warm
    )
    direct = pvlib.pvsystem.pvwatts_dc(used, cells, size, -0.0035) * (1 - losses)
    return np.where(
        (direct > 0) & (inverter > 0),
        pvlib.inverter.pvwatts(direct, np.maximum(inverter, 1e-9) / _NOMINAL, _NOMINAL, _REFERENCE),
        0.0,
    )


def _row(name: str, value: Any, count: int) -> Float[np.ndarray, " R"]:
    """One number a row, within its range."""
    return _checked(name, by_row(f"solar: {name}", value, count, "row"))


def _checked(name: str, numbers: Any) -> np.ndarray:
    """The same as floating numbers, within their range."""
    found = np.asarray(numbers, float)
    low, high, advice = _RANGES[name]
    bad = ~(np.isfinite(found) & (found >= low) & (found <= high))
    if np.any(bad):
        at = tuple(np.argwhere(bad)[0])
        where = " in " + ", ".join(
            f"{one} {k}" for one, k in zip(("row", "step"), at, strict=False)
        )
        raise ValueError(f"solar: {name}={found[at]:.6g}{where}: {advice}.")
    return found
