"""What is known when a window is cleared: forecasts, functions of the past and of the truth.

A forecast is called as `forecast(seen, window, at)`: `seen` is the truth up to step `at`, where the
window begins, `window` the truth of the window, with the contents and levels it begins with. It
returns the market that is cleared in its place: another load, sun or price, the rest as it is. What
it returns may depend on nothing else, so that a simulation that was stopped goes on as it would
have.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .clock import begun
from .market import Market, replaced
from .scenarios.rows import moved_base
from .scenarios.sun import told_sun

_PAST = (  # what is taken from the past
    *("prosumers.load", "prosumers.reactive", "prosumers.export_max", "prosumers.curtail_max"),
    *("grid.passive", "grid.passive_reactive"),
)
_GIVEN = {  # what may be given, and where it is
    **dict.fromkeys(("load", "reactive", "import_max", "export_max", "curtail_max"), "prosumers"),
    **dict.fromkeys(("passive", "passive_reactive"), "grid"),
    **dict.fromkeys(("base", "export"), "tariff"),
}


class Branches(NamedTuple):
    """Several forecasts of one window, `markets` of its form, each with a `probability`."""

    markets: tuple[Market, ...]  # one of the window's form each
    probability: Any  # of each


Forecast = Callable[[Market, Market, int], Market | Branches]


def perfect() -> Forecast:
    """Everyone knows what comes."""

    def forecast(seen: Market, window: Market, at: int) -> Market:
        return window

    return forecast


def persistence(hours: float = 24.0) -> Forecast:
    """Loads, sun and passive loads come again after so many `hours`; prices are known.

    What was never seen, before the simulation has lasted that long, is known. Raises `ValueError`
    for hours that are not above 0.
    """
    if not 0 < hours < np.inf:
        raise ValueError(f"persistence: hours={hours!r}; give a number above 0.")

    def forecast(seen: Market, window: Market, at: int) -> Market:
        length = np.asarray(window.hour_length, float)
        edges = np.concatenate([[0.0], np.cumsum(np.asarray(seen.hour_length, float))])
        first = edges[-1] + begun(length)
        back = hours * np.ceil((first - edges[-1] + length) / hours - 1e-9)
        known = first - back >= -1e-9
        old = max(int(np.searchsorted(edges, np.min(first - back), "right")) - 1, 0)
        edges = edges[old:]  # nothing before is asked for

        def before(name: str) -> np.ndarray:
            table = np.asarray(attrgetter(name)(seen), float)[..., old:]
            summed = np.cumsum(table * np.diff(edges), axis=-1)
            summed = np.concatenate([np.zeros((*table.shape[:-1], 1)), summed], axis=-1)
            ends = (_between(edges, summed, first - back + length), _between(
                edges, summed, first - back))  # fmt: skip
            return np.where(known, (ends[0] - ends[1]) / length, attrgetter(name)(window))

        return _moved(window, {name: before(name) for name in _PAST} if np.any(known) else {})

    return forecast


def noisy(
    load: float = 0.1,
    renewable: float = 0.2,
    price: float = 0.0,
    *,
    growth: float = 24.0,
    correlation: float = 3.0,
    seed: int = 0,
) -> Forecast:
    """The truth times lognormal noise that grows with how far ahead it is told.

    `load`, `renewable` and `price` are relative standard deviations `growth` hours ahead, from
    where on they stay so; before they grow with the root of the hours to the end of the step. The
    noise of each prosumer's gross load is its own, that of the passive load is one, of all sun
    another, of the main grid's price a third; each is correlated over `correlation` hours. Told
    numbers are revised as their hour comes nearer, not drawn anew: from issue to issue a part of
    the error goes, which tells nothing of what is left (the martingale model of Heath and Jackson,
    IIE Transactions 26(3), 1994). The mean of a forecast is the truth. It depends on `seed` and the
    step at which it is made alone. Reactive power, curtailable sun and caps on exports that vary
    move along; sun is what may be curtailed, or is fed in.

    Raises `ValueError` for sizes below 0.
    """
    for name, size in {"load": load, "renewable": renewable, "price": price}.items():
        if not 0 <= size < np.inf:
            raise ValueError(f"noisy: {name}={size!r}; give a relative deviation of 0 or more.")
    if not (growth > 0 and correlation > 0):
        raise ValueError("noisy: growth and correlation are hours; give numbers above 0.")

    def forecast(seen: Market, window: Market, at: int) -> Market:
        people, count = window.prosumers, len(window.prosumers.bus)
        now = float(np.sum(np.asarray(seen.hour_length, float)))
        noise, reach = _unrevealed(seed, count + 3, now, window, growth, correlation)
        of_load, of_sun, of_price = (
            np.exp(size * z - (size * reach) ** 2 / 2)
            for size, z in ((load, noise[:-2]), (renewable, noise[-2]), (price, noise[-1]))
        )
        net = np.asarray(people.load, float)
        sun = np.maximum(told_sun(window), np.maximum(-net, 0.0))
        more = sun * (of_sun - 1)
        sold = np.asarray(people.export_max, float)
        varies = np.isfinite(sold) & np.any(sold != sold[:, :1], axis=1, keepdims=True)
        return _moved(
            window,
            {
                "prosumers.load": (net + sun) * of_load[:-1] - sun - more,
                "prosumers.reactive": np.asarray(people.reactive) * of_load[:-1],
                "prosumers.curtail_max": np.asarray(people.curtail_max) * of_sun,
                "prosumers.export_max": np.where(varies, np.maximum(sold + more, 0.0), sold),
                "grid.passive": np.asarray(window.grid.passive) * of_load[-1],
                "grid.passive_reactive": np.asarray(window.grid.passive_reactive) * of_load[-1],
                "tariff.base": np.asarray(window.tariff.base) * of_price,
            },
        )

    return forecast


def given(every: int, **tables: Any) -> Forecast:
    """Forecasts of your own: arrays by issue, one issue each `every` steps of the truth.

    `tables` are `load`, `reactive`, `import_max`, `export_max` and `curtail_max`
    (issues, N, W), `passive` and `passive_reactive` (issues, B, W), `base` and `export`
    (issues, W): W steps of the window, kW, kvar and EUR/kWh. Loads are net of sun. A window that
    begins in step `at` is told by issue `at // every`.

    Raises `ValueError` for tables that there are not, `every` below 1, and in the simulation where
    an issue is missing or does not fit.
    """
    strange = [name for name in tables if name not in _GIVEN]
    if strange or not tables:
        raise ValueError(f"given: {', '.join(strange) or 'nothing'}; give of {', '.join(_GIVEN)}.")
    if not every >= 1:
        raise ValueError(f"given: every={every!r}; give a whole number of steps, 1 or more.")
    held = {name: np.asarray(table, float) for name, table in tables.items()}

    def forecast(seen: Market, window: Market, at: int) -> Market:
        issue, found = at // every, {}
        for name, table in held.items():
            dotted = f"{_GIVEN[name]}.{name}"
            shape = np.shape(attrgetter(dotted)(window))
            if issue >= len(table) or table.shape[1:] != shape:
                raise ValueError(
                    f"given: {name} has shape {table.shape}; give {issue + 1} issues or more, each "
                    f"of shape {shape}."
                )
            found[dotted] = table[issue]
        return _moved(window, found)

    return forecast


def tree(forecasts: Sequence[Forecast], probability: Any) -> Forecast:
    """Several forecasts at once, of `probability` each: a tree whose root is what is done.

    The steps that are done are decided before anyone knows which of the `forecasts` comes, for
    their mean; after them each has a branch of its own (`jaxgne.scenarios.tree`).
    """

    def forecast(seen: Market, window: Market, at: int) -> Branches:
        found = [one(seen, window, at) for one in forecasts]
        markets = tuple(one for one in found if isinstance(one, Market))
        if len(markets) < len(found):
            raise ValueError("tree: a branch is a tree itself; give forecasts of one market each.")
        return Branches(markets, probability)

    return forecast


def _between(edges: np.ndarray, summed: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Sums up to `times`, of which those up to `edges` are known."""
    place = np.clip(np.searchsorted(edges, times, "right") - 1, 0, max(len(edges) - 2, 0))
    part = (times - edges[place]) / (edges[place + 1] - edges[place])
    return summed[..., place] + part * (summed[..., place + 1] - summed[..., place])


def _unrevealed(
    seed: int, rows: int, now: float, window: Market, growth: float, correlation: float
) -> tuple[Float[np.ndarray, "R W"], Float[np.ndarray, " W"]]:
    """What of each row's noise is not known `now`, and its standard deviation, at most 1.

    Time is in cells, as long as the shortest step. In each of the `growth` hours before its end a
    cell's noise loses a part, drawn for all cells to come together, with a correlation that falls
    to 1/e over so many hours; a step of several cells has the noise of the one in its middle.
    """
    from scipy.signal import lfilter

    length = np.asarray(window.hour_length, float)
    cell = float(np.min(length))
    whole, first = max(round(growth / cell), 1), round(now / cell)
    target = first + np.floor((begun(length) + length / 2) / cell + 1e-9).astype(int)
    last = int(target[-1])
    found = np.zeros((last - first + 1, rows))
    kept = np.exp(-cell / correlation)
    for each in range(first, last + 1):  # what is revealed in a cell
        part = np.random.default_rng([seed, each]).standard_normal(
            (min(whole, last - each + 1), rows)
        )
        part[1:] *= np.sqrt(1 - kept**2)
        found[each - first : each - first + len(part)] += lfilter([1.0], [1.0, -kept], part, axis=0)
    reach = np.sqrt(np.minimum(target - first + 1, whole) / whole)
    return found[target - first].T / np.sqrt(whole), reach


def _moved(window: Market, tables: dict[str, np.ndarray]) -> Market:
    """The window with other tables, and what caps count of a passive load in proportion to it."""
    if "grid.passive" in tables:
        tables = tables | {"caps.base": moved_base(window, tables["grid.passive"])}
    return replaced(window, tables)
