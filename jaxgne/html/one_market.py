"""The report of one market: what its page holds, section by section."""

from html import escape
from typing import Any

import numpy as np

from ..clock import hour_name
from ..indicators import summary
from ..market import Market
from ..result import Clearing
from . import charts, people_data
from .baseline import Compared
from .chart import Chart
from .facts import figures, period, sentences, status_words, step_of
from .grid_data import network
from .map_chart import feeder_map
from .page import Page, table
from .shrunk import short
from .tightness import tight_places


def fill(
    page: Page,
    market: Market,
    clearing: Clearing,
    other: Compared,
) -> dict[str, Any]:
    facts, steps = summary(market, clearing), market.prosumers.load.shape[1]
    labels = _labels(market, steps)
    page.heading(*status_words(facts), sentences(facts))
    page.add(f'<p class="note">{escape(period(market))}</p>')
    tiles = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(where)}</small></dd></div>"
        for what, value, where in figures(
            facts, labels if market.clock is not None else [f"hour {h}" for h in labels]
        )
    )
    page.add(f'<dl class="figures">{tiles}</dl>')
    page.add(_controls(steps))
    networked, count = market.grid.model.networked, market.prosumers.load.shape[0]
    if networked:
        found = network(market, clearing)
        rows, at = dict(found.rows), found.at
    else:
        rows, at = _alone(market, clearing)
    people = people_data.dispatch(market, clearing, at)
    hourly = [entry["grid_price_eur_per_kwh"] for entry in facts["by_hour"]]
    rows |= people | {"hours": _rows(short(hourly))}
    extra = _range(rows) if networked else []
    rows["range"] = extra
    axis = f"time ({market.clock.zone})" if market.clock is not None else "hour"
    if networked:
        page.section("grid", "Feeder", _merged(rows) + page.charts(_grid_charts(rows, axis, steps)))
    page.section("prices", "Prices", page.charts(_price_charts(rows, axis, steps, networked)))
    kinds = [charts.dispatch(axis, steps)]
    kinds += [charts.storage(axis, steps)] if rows["stores"] else []
    each = "" if count <= people_data.EACH else _MERGED.format(count=count)
    page.section("power", "Dispatch and storage", each + page.charts(kinds))
    tight = tight_places(market, clearing, facts, labels)
    words = _TIGHT + table("tight", "tight places") if tight["rows"] else _LOOSE
    page.section("tight", "Where it is tight", words)
    words = _BILLS + (f'<p class="note">{escape(other.missing)}</p>' if other.missing else "")
    page.section("bills", "Bills by household", words + table("bills", "bills"))
    hour = _fullest(facts)
    named = market.prosumers.names or tuple(map(str, range(count)))
    persons = [{"who": k, "place": int(at[k]), "name": named[k]} for k in range(count)]
    return {
        "labels": labels,
        "networked": networked,
        "hour": hour,
        "pick": _outermost(rows, hour),
        "people": persons if count <= people_data.EACH else [],
        "rows": rows,
        "tables": {
            "tight": tight,
            "bills": people_data.households(market, clearing, other),
        },
    }


_MERGED = (
    '<p class="note">Of {count:,} prosumers power is shown by bus, of all that are there '
    "together.</p>"
)


def _merged(rows: dict[str, Any]) -> str:
    """That not every bus of a large grid is drawn, where that is so."""
    places = rows["places"]
    count = sum(row["merged"] for row in places)
    if count == len(places):
        return ""
    return (
        f'<p class="note">Of {count:,} buses {len(places):,} are drawn, each for those that only '
        "pass power on before it or lie behind it: what is told is their bus and line nearest to a "
        "limit, by name.</p>"
    )


_TIGHT = (
    '<p class="note">The fullest lines and the outermost voltages by the AC power flow, each in '
    "its worst hour, then limits on totals that bind. A line's price is what a kWh costs more "
    "behind it than before, a bus' what it costs more there than at the main grid; 0 where the "
    "limit does not bind. Tight are hours in which a line is above 80 % of its rating, or a bus "
    "outside its limits. Relief is how much less would have to flow for the limit to hold.</p>"
)
_LOOSE = '<p class="note">There is no network, and no limit on totals binds.</p>'
_BILLS = (
    '<p class="note">EUR and kWh of all hours. The cost is the bill and what own devices cost; '
    "P2P is trade among prosumers, which the same market does without. Below 0 is received.</p>"
)


def _labels(market: Market, steps: int) -> list[str]:
    """What people call each step, as short as it is told apart."""
    names = [hour_name(market, k).removeprefix("hour ") for k in range(steps)]
    days = {name[:10] for name in names}
    return [n[11:] for n in names] if market.clock is not None and len(days) == 1 else names


def _rows(prices: list[Any]) -> list[dict[str, Any]]:
    return [{"k": k, "price": price} for k, price in enumerate(prices)]


def _alone(market: Market, clearing: Clearing) -> tuple[dict[str, Any], Any]:
    """Rows of a market without a network: one place, at which everyone is."""
    price = np.asarray(clearing.prices.balance, float).mean(axis=0)
    bus = {"place": 0, "name": "all", "phase": "", "price": short(price)}
    rows = {"places": [{"place": 0, "name": "all"}], "buses": [bus]}
    return rows, np.zeros(market.prosumers.load.shape[0], int)


def _controls(steps: int) -> str:
    return (
        '<div class="controls"><div><label for="hour">Hour: <output id="when" for="hour"></output>'
        f'</label><input type="range" id="hour" min="0" max="{steps - 1}" step="1" value="0"></div>'
        '<div><label for="pick">Bus, line or prosumer</label><select id="pick"></select>'
        "</div></div>"
    )


def _grid_charts(rows: dict[str, Any], axis: str, steps: int) -> list[Chart]:
    places = np.array([[row["x"], row["y"]] for row in rows["places"]])
    deep = float(places[:, 0].max())
    volts = _numbers(rows["buses"], "ac", "model")
    span, shade = _span(rows["buses"], volts), (0.95, 1.05)
    if volts.size:
        shade = float(volts.min()), float(volts.max())
    phases = list(dict.fromkeys(row["phase"] for row in rows["buses"] if row["phase"]))
    found = [feeder_map(places, shade, phases)]
    if volts.size:
        found += [charts.voltages(axis, steps, span, phases), charts.profile(deep, span)]
    full = _numbers(rows["lines"], "ac", "model")
    if full.size:
        top = float(max(110.0, 1.05 * full.max()))
        found.insert(2, charts.loadings(axis, steps, top, phases))
    return found


def _price_charts(rows: dict[str, Any], axis: str, steps: int, networked: bool) -> list[Chart]:
    found = [charts.prices(axis, steps, "picked bus" if networked else "mean prosumer")]
    if networked:
        names = len(rows["buses"]) <= 45
        found.insert(0, charts.price_map(axis, steps, len(rows["buses"]), names))
    return found


def _numbers(rows: list[dict[str, Any]], *keys: str) -> np.ndarray:
    """All numbers of some lists of rows, without those that are not known."""
    values = np.array([row[key] for row in rows for key in keys], float)
    return values[np.isfinite(values)]


def _span(buses: list[dict[str, Any]], volts: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest voltage or limit, with some room, pu."""
    ends = np.array([row[key] for row in buses for key in ("low", "high")], float)
    ends = np.concatenate([ends[np.isfinite(ends)], volts])
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.9, 1.1)
    room = 0.12 * max(high - low, 1e-3)  # for the names of limits
    return low - room, high + room


def _range(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """The lowest and highest voltage and the fullest line of each hour, of what is drawn."""
    volts, loads = (_best(rows[key]) for key in ("buses", "lines"))
    names = [row["name"] for row in rows["lines"]]
    found = []
    for k in range(volts.shape[1]):
        some = volts[:, k][np.isfinite(volts[:, k])]
        entry: dict[str, Any] = {"k": k, "low": None, "high": None, "full": None}
        if some.size:
            entry |= {"low": float(some.min()), "high": float(some.max())}
        if loads.size and np.any(np.isfinite(loads[:, k])):
            line = int(np.nanargmax(loads[:, k]))
            entry |= {"full": float(loads[line, k]), "fullest": names[line]}
        found.append(entry)
    return found


def _best(rows: list[dict[str, Any]]) -> np.ndarray:
    """By the AC power flow, or else by the grid model; rows by hours."""
    ac, model = (np.array([row[key] for row in rows], float) for key in ("ac", "model"))
    return np.where(np.isfinite(ac), ac, model)


def _fullest(facts: dict[str, Any]) -> int:
    """The step of the highest loading, or else of the highest import."""
    ac, lines = facts["ac"], facts["lines"]
    if ac and ac["examined"] and ac["converged"] and ac["highest_loading"]["share"]:
        return step_of(facts, ac["highest_loading"])
    if lines and lines["highest_loading"] is not None:
        return step_of(facts, lines)
    return int(np.argmax([entry["transformer_kw"] for entry in facts["by_hour"]]))


def _outermost(rows: dict[str, Any], hour: int) -> int:
    """The place whose voltage is nearest to a limit then, or beyond it; the first without any."""
    if "low" not in rows["buses"][0]:
        return 0
    volts = _best(rows["buses"])[:, hour]
    low, high = (np.array([row[key] for row in rows["buses"]], float) for key in ("low", "high"))
    fed = {row["place"] for row in rows["places"] if row["fed"]}
    beyond = np.nan_to_num(np.maximum(low - volts, volts - high), nan=-np.inf)
    beyond[[row["place"] in fed for row in rows["buses"]]] = -np.inf
    return int(rows["buses"][int(np.argmax(beyond))]["place"])
