"""The picture of each study, from its tables alone; matplotlib is imported when one is drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import whole
from ..plots.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILLION, name_rows
from ._horizon import NOISY, PERFECT, YESTERDAY
from ._line_limits import FREE, RATED
from ._participation import ACTIVE, PASSIVE
from ._phases import AC, BALANCED, LINEAR
from ._tariff import FORBIDDEN
from .rounds import SOLVERS
from .runner import Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = "osDv^<>"
_NOTHING = 0.01  # %: a change that no bar shows


def draw(study: Study, path: str | Path) -> None:
    """Draw the picture of a `study` into the file `path`, a .png, .svg or .pdf by its ending.

    Raises `ImportError` where matplotlib is missing, naming the extra.
    """
    figure = _FIGURES[study.name](study.tables)
    with whole(path) as fresh:
        figure.savefig(fresh, dpi=150)


def _figure(panels: int, width: float = 4.5) -> tuple["Figure", list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise ImportError(
            'jaxgne.studies draws with matplotlib: install the extra "plot" '
            '(pip install "jaxgne[plot]").'
        ) from missing
    figure = Figure(figsize=(width * panels, 3.6), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def _label(ax: Any, title: str, across: str, up: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(across)
    ax.set_ylabel(up)
    ax.grid(alpha=0.3)


def _cleared(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "cleared"]


def _column(rows: list[Row], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], float)


def _ends(begun: np.ndarray) -> np.ndarray:
    """When steps begin, and when the last ends, as if it were as long as the one before."""
    if not len(begun):
        return np.zeros(1)
    return np.append(begun, 2 * begun[-1] - begun[-2] if len(begun) > 1 else begun[-1] + 1)


def _paid(rows: list[Row], variant: str) -> np.ndarray:
    return _column([row for row in rows if row["variant"] == variant], "cost_eur")


def _by_prosumer(ax: Any, gains: np.ndarray, title: str, marked: np.ndarray | None = None) -> None:
    """What each prosumer saves, sorted; `marked` ones in another color."""
    order = np.argsort(gains)
    marked = np.zeros(len(gains), bool) if marked is None else marked
    colors = [GREEN if marked[k] else BLUE for k in order]
    ax.bar(np.arange(len(gains)), gains[order], color=colors)
    ax.axhline(0.0, color=BLACK, linewidth=0.8)
    _label(ax, title, "prosumers, sorted", "saved, EUR")


def _tariff(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    rows = _cleared(tables["tariff"])
    swept = [row for row in rows if row["variant"] != FORBIDDEN]
    shut = [row for row in rows if row["variant"] == FORBIDDEN]
    across, toll = "toll on either side, EUR/kWh", _column(swept, "toll_eur_per_kwh")
    left.plot(toll, _column(swept, "traded_kwh"), "o-", color=BLUE)
    _label(left, "Traded energy", across, "kWh")
    middle.plot(toll, _column(swept, "social_cost_eur"), "o-", color=BLACK, label="all")
    for row in shut:
        middle.axhline(
            row["social_cost_eur"], color=VERMILLION, linestyle="--", label="trades forbidden"
        )
    middle.legend()
    _label(middle, "Cost of all together", across, "EUR")
    right.plot(toll, _column(swept, "tariff_receipts_eur"), "s-", color=ORANGE, label="from trades")
    right.plot(toll, _column(swept, "operator_receipts_eur"), "D--", color=GREEN, label="in all")
    right.legend()
    _label(right, "Operator's receipts", across, "EUR")
    return figure


def _storage(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    shares = [v for v in ("none", "half", "all") if _paid(tables["costs"], v).size]
    for k, variant in enumerate(shares):
        hours = [row for row in tables["hours"] if row["variant"] == variant]
        ends = _ends(_column(hours, "hour"))
        left.stairs(
            _column(hours, "contracted_import_kw"), ends, baseline=None,
            color=(BLACK, ORANGE, BLUE)[k], label=f"batteries: {variant}",
        )  # fmt: skip
    left.legend()
    _label(left, "Total import", "time (h)", "kW")
    swept = [row for row in _cleared(tables["storage"]) if row["variant"].startswith("all")]
    cost = _column(swept, "battery_cost_eur_per_kwh")
    middle.plot(cost, _column(swept, "contracted_peak_kw"), "o-", color=BLUE)
    _label(middle, "Peak, batteries for all", "battery's cost, EUR per kWh in or out", "kW")
    none, half = _paid(tables["costs"], "none"), _paid(tables["costs"], "half")
    if none.size and half.size:
        owns = [row["has_battery"] for row in tables["costs"] if row["variant"] == "half"]
        _by_prosumer(right, none - half, "Half have one (green): saved", np.array(owns))
    return figure


def _line_limits(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    kinds = ((FREE, VERMILLION), (RATED, BLUE))
    for variant, color in kinds:
        rows = [row for row in tables["lines"] if row["variant"] == variant]
        loading = _column(rows, "highest_loading_percent")
        order = np.argsort(-loading)
        left.plot(loading[order], "o", markersize=4, color=color, label=variant)
        true = _column(rows, "ac_highest_loading_percent")[order]
        left.plot(true, "x", markersize=5, color=color, label=f"{variant}, AC")
        buses = [row for row in tables["buses"] if row["variant"] == variant]
        names = list(dict.fromkeys(row["bus"] for row in buses))
        price = _column(buses, "price_eur_per_kwh").reshape(len(names), -1)
        mean = price.mean(axis=1)
        middle.vlines(np.arange(len(names)), price.min(1), price.max(1), color=color, alpha=0.35)
        middle.plot(mean, "_", markersize=7, color=color, label=variant)
        name_rows(middle.xaxis, tuple(names), len(names))
    left.axhline(100.0, color=BLACK, linestyle="--", linewidth=1)
    left.legend(fontsize=8)
    _label(left, "Highest loading of each line", "lines, sorted", "% of the rating")
    middle.legend(fontsize=8)
    _label(middle, "Price at each bus: mean and range of hours", "bus", "EUR/kWh")
    saved = _paid(tables["costs"], FREE), _paid(tables["costs"], RATED)
    if all(each.size for each in saved):
        _by_prosumer(right, saved[0] - saved[1], "Saved by having ratings")
    return figure


def _participation(tables: dict[str, list[Row]]) -> "Figure":
    known = {row["variant"]: row for row in _cleared(tables["scenarios"])}
    both = {ACTIVE, PASSIVE} <= known.keys()
    figure, panels = _figure(1 + both, 5.5)
    rows = [row for row in tables["participation"] if row["gain_eur"] is not None]
    gains = _column(rows, "gain_eur")
    owns = np.array([row["generators"] + row["buffers"] > 0 for row in rows])
    _by_prosumer(panels[0], gains, "Trader against alone passive (green: owns a device)", owns)
    if both:
        right, active, passive = panels[1], known[ACTIVE], known[PASSIVE]
        costs = ("prosumers_cost_eur", "passive_cost_eur", "social_cost_eur")
        better = [passive[key] - active[key] for key in costs]
        better.append(active["operator_receipts_eur"] - passive["operator_receipts_eur"])
        right.bar(range(4), better, color=[BLUE, ORANGE, BLACK, GREEN])
        labels = ("prosumers\nsave", "passive con-\nsumers save", "all together\nsave")
        right.set_xticks(range(4), [*labels, "operator gets\nmore"])
        right.axhline(0.0, color=BLACK, linewidth=0.8)
        _label(right, "All active against all passive", "", "EUR")
    return figure


def _selection(tables: dict[str, list[Row]]) -> "Figure":
    figure, (ax,) = _figure(1, 7.5)
    rows = _cleared(tables["selection"])
    keys = ("congestion_kva2", "traded_kwh", "spread_eur", "norm_kw")
    names = ("congestion", "trade", "spread of costs", "norm")
    least = 0.0
    for k, (key, name) in enumerate(zip(keys, names, strict=True)):
        values = _column(rows, key)
        change = 100 * (values / values[0] - 1) if values[0] else np.zeros(len(values))
        color, place = (BLACK, ORANGE, SKY, GREEN)[k], np.arange(len(rows)) + 0.2 * (k - 1.5)
        ax.bar(place, change, 0.18, color=color, label=name)
        least = min(least, float(change.min(initial=0.0)))
    ax.axhline(0.0, color=BLACK, linewidth=0.8)
    if least > -_NOTHING:
        ax.set_ylim(-1.0, 1.0)
        ax.text(
            0.5,
            0.7,
            f"no choice lowers anything by {_NOTHING:g} %",
            transform=ax.transAxes,
            ha="center",
        )
    ax.set_xticks(range(len(rows)), [row["choice"] for row in rows])
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _label(ax, "What each choice leads to", "least", "change from the market as cleared, %")
    return figure


def _phases(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    rows = _cleared(tables["phases"])
    colors = {BALANCED: BLUE, LINEAR: ORANGE, AC: BLACK}
    for variant, color in colors.items():
        own = [row for row in rows if row["variant"] == variant]
        factor = _column(own, "factor")
        true = np.array([row.get("ac_lowest_pu") for row in own], float)
        if variant != AC:
            left.plot(factor, _column(own, "lowest_pu"), "o-", color=color, label=variant)
        label = "three phases, AC" if variant == AC else f"its plan by AC: {variant}"
        left.plot(factor, true, "x--", color=color, label=label)
    left.legend(fontsize=8)
    _label(left, "Lowest voltage that a market reads, and AC", "factor", "pu")
    models = [row for row in tables["hosting"] if row["factor"] is not None]
    names = [row["model"].replace(", ", ",\n") for row in models]
    middle.bar(names, [row["factor"] for row in models], color=SKY)
    middle.tick_params(axis="x", labelsize=8)
    _label(middle, "Room beside the balanced plan", "", "largest factor")
    told = [row for row in tables["by-phase"] if row["more_eur"] is not None]
    most = max((row["factor"] for row in told), default=None)
    last = [row for row in told if row["factor"] == most]
    right.bar([row["phase"] for row in last], [row["more_eur"] for row in last], color=ORANGE)
    right.axhline(0.0, color=BLACK, linewidth=0.8)
    title = "Three phases against balanced" + (f", factor {most:g}" if last else "")
    _label(right, title, "prosumers on", "paid more, EUR")
    return figure


def _horizon(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    known = [row for row in tables["spread"] if row["more_eur_mean"] is not None]
    seen = [row for row in known if row["forecast"] == PERFECT]
    left.plot(_column(seen, "ahead_h"), _column(seen, "more_eur_mean"), "o-", color=BLUE)
    _label(left, "Look-ahead, knowing what comes", "planned ahead, h", "beyond foresight, EUR")
    noise = [row for row in known if row["forecast"] == NOISY]
    x, y = 100 * _column(noise, "noise"), _column(noise, "more_eur_mean")
    low, high = _column(noise, "more_eur_min"), _column(noise, "more_eur_max")
    middle.errorbar(x, y, [y - low, high - y], capsize=3, marker="o", color=ORANGE, label="noisy")
    for row in known:
        if row["forecast"] == YESTERDAY:
            label = "the day before"
            middle.axhline(row["more_eur_mean"], color=VERMILLION, linestyle="--", label=label)
    for row in seen[-1:]:
        middle.axhline(row["more_eur_mean"], color=BLUE, linestyle=":", label="knowing what comes")
    middle.legend(fontsize=8)
    _label(middle, "Forecasts", "noise of loads a day ahead, %", "beyond foresight, EUR")
    runs = [row for row in tables["horizon"] if row["forecast"] == NOISY]
    size, kwh = 100 * _column(runs, "noise"), _column(runs, "imbalance_kwh")
    right.plot(size, kwh, "o", color=GREEN)
    _label(right, "Imbalances", "noise of loads a day ahead, %", "kWh")
    return figure


def _rounds(tables: dict[str, list[Row]], axis: str, across: str) -> "Figure":
    figure, panels = _figure(3)
    keys = (("rounds", "rounds"), ("seconds", "s"), ("traded_kwh", "kWh"))
    titles = ("Rounds or steps (dotted: the authors')", "Time once compiled", "Traded energy")
    for ax, (key, unit), title in zip(panels, keys, titles, strict=True):
        for k, solver in enumerate(SOLVERS):
            rows = [row for row in tables[axis] if row["solver"] == solver and row["cleared"]]
            if not rows or (key == "traded_kwh" and solver in list(SOLVERS)[1:-1]):
                continue
            x, y = _column(rows, axis), _column(rows, f"{key}_median")
            low, high = _column(rows, f"{key}_min"), _column(rows, f"{key}_max")
            style = {"color": (BLACK, ORANGE, GREEN, BLUE)[k], "marker": MARKS[k], "markersize": 4}
            ax.errorbar(x, y, [y - low, high - y], capsize=2, label=solver, **style)
            theirs = [row for row in tables["published"] if row["solver"] == solver]
            if key == "rounds" and theirs:
                _authors(ax, theirs, axis, style)
        _label(ax, title, across, unit)
    for ax in panels[:2]:
        ax.set_yscale("log")
    if axis == "prosumers":
        for ax in panels:
            ax.set_xscale("log")
        panels[2].set_yscale("log")
    panels[0].legend(fontsize=8)
    return figure


def _authors(ax: Any, theirs: list[Row], axis: str, style: dict[str, Any]) -> None:
    """The authors' mean counts, feeder by feeder."""
    for feeder in dict.fromkeys(row["feeder"] for row in theirs):
        rows = [row for row in theirs if row["feeder"] == feeder]
        x, y = _column(rows, axis), _column(rows, "rounds_mean")
        ax.plot(x, y, ":", **style | {"markerfacecolor": "none", "alpha": 0.7})


def _uncertainty(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, middle, right) = _figure(3)
    rows = _cleared(tables["uncertainty"])
    for ax, name in ((left, "spread"), (middle, "branches")):
        own = [row for row in rows if row["variant"].startswith(name)]
        across = _column(own, name)
        ax.plot(across, _column(own, "evpi_eur"), "o-", color=BLUE, label="to know the branch")
        ax.plot(across, _column(own, "vss_eur"), "s-", color=ORANGE, label="to plan for all")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8)
    _label(left, "What foresight is worth", "standard deviation of loads", "EUR a day")
    _label(middle, "and by how many branches", "branches", "EUR a day")
    wary = [row for row in rows if row["variant"].startswith("weight")]
    expected, worst = (_column(wary, f"{name}_eur") for name in ("expected_cost", "cvar"))
    right.plot(expected, worst, "D-", color=GREEN)
    for row, x, y in zip(wary, expected, worst, strict=True):
        near = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8}
        right.annotate(f"{row['risk_weight']:g}", (x, y), **near)
    right.ticklabel_format(useOffset=False)
    _label(right, "By the weight of risk", "expected cost, EUR", "of the worst quarter, EUR")
    return figure


def _stackelberg(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, right) = _figure(2)
    rows = _cleared(tables["stackelberg"])
    across, flat = _column(rows, "elasticity"), _column(rows, "uniform_cost_eur")
    for key, mark, color in (
        ("best", "o-", BLUE),
        ("median", "s--", GREEN),
        ("worst", "v:", ORANGE),
    ):
        left.plot(across, flat - _column(rows, f"{key}_cost_eur"), mark, color=color, label=key)
    left.legend(title="of the starts")
    _label(left, "Saved by markups by hour", "elasticity", "EUR, against the same in all hours")
    last = [row for row in tables["prices"] if rows and row["elasticity"] == across[-1]]
    ends = _ends(_column(last, "hour"))
    for key, color in (("wholesale", BLACK), ("uniform_price", ORANGE), ("best_price", BLUE)):
        price, label = _column(last, f"{key}_eur_per_kwh"), key.replace("_", " ")
        right.stairs(price, ends, baseline=None, color=color, label=label)
    right.legend()
    _label(right, "Prices at the highest elasticity", "time (h)", "EUR/kWh")
    return figure


def _near_potential(tables: dict[str, list[Row]]) -> "Figure":
    figure, (left, right) = _figure(2)
    rows = _cleared(tables["near-potential"])
    spread = _column(rows, "spread")
    kinds = (("largest_regret", "largest regret", BLUE), ("its_bound", "its bound", ORANGE),
             ("distance", "distance from the potential", BLACK))  # fmt: skip
    for key, label, color in kinds:
        left.plot(spread, _column(rows, f"{key}_eur"), "o-", color=color, label=label)
    left.set_yscale("symlog", linthresh=1e-3)
    left.legend()
    _label(left, "What one prosumer could save", "spread of slopes", "EUR")
    last = [row for row in tables["regrets"] if len(spread) and row["spread"] == spread[-1]]
    for key, label, color in (("bound", "bound", ORANGE), ("regret", "regret", BLUE)):
        right.bar(_column(last, "prosumer"), _column(last, f"{key}_eur"), color=color, label=label)
    right.legend()
    _label(right, "By prosumer, at the largest spread", "prosumer", "EUR")
    return figure


_FIGURES: dict[str, Callable[[dict[str, list[Row]]], "Figure"]] = {
    "tariff": _tariff,
    "storage": _storage,
    "line-limits": _line_limits,
    "participation": _participation,
    "selection": _selection,
    "phases": _phases,
    "horizon": _horizon,
    "uncertainty": _uncertainty,
    "stackelberg": _stackelberg,
    "near-potential": _near_potential,
    "connectivity": lambda tables: _rounds(tables, "connectivity", "share of pairs that may trade"),
    "prosumers": lambda tables: _rounds(tables, "prosumers", "prosumers"),
}
