"""What charts of a report share: Vega-Lite with one look, an axis of steps, what is picked.

Signals that all charts have: `hour`, a step; `place`, `line` and `who`, which are picked. A line of
-1 stands for all that lead to the place; of `who` -1 is everybody, -2 all at the place. One color
for one thing: blue is voltage, black a limit, orange a trade, purple a price, green storage,
vermillion what is beyond a limit; dashed is the grid model's, solid the AC power flow's. The colors
are those of Okabe and Ito, as in `jaxgne.plots`.
"""

from typing import Any, NamedTuple

from ..acflow import VOLTAGE_SLACK
from ..plots.style import BLUE, GREEN, PURPLE

Spec = dict[str, Any]

GRAY, DARK = "#8c8c8c", "#333333"
PHASES = (BLUE, GREEN, PURPLE)  # a, b, c
SIGNALS = {"hour": 0, "place": -1, "line": -1, "who": -1}
BEYOND = f"datum.volt < datum.low - {VOLTAGE_SLACK} || datum.volt > datum.high + {VOLTAGE_SLACK}"
LINE = "line >= 0 ? datum.line == line : datum.place == place"  # or all that lead to a bus
APART = {"scale": {"strokeWidth": "independent", "color": "independent"}}
_HALF = 0.5


class Chart(NamedTuple):
    """A chart with what stands above and below it."""

    key: str
    title: str
    note: str
    spec: Spec
    wide: bool = False
    canvas: bool = False  # many marks: drawn as pixels


def spec_of(height: int, layers: list[Spec], **more: Any) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": name, "value": value} for name, value in SIGNALS.items()]
        + [{"name": "labels", "value": []}],
        "config": {
            "font": "system-ui, sans-serif",
            "view": {"stroke": None},
            "axis": {"labelColor": DARK, "titleColor": DARK, "labelFontSize": 12,
                     "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#e6e6e6"},
            "legend": {"labelColor": DARK, "titleColor": DARK, "labelFontSize": 12,
                       "titleFontSize": 12, "titleFontWeight": "normal", "orient": "bottom",
                       "labelLimit": 240, "padding": 6},
            "text": {"color": DARK, "fontSize": 12},
        },
        "layer": layers,
        **more,
    }  # fmt: skip


def time_axis(title: str, count: int) -> Spec:
    """The axis of steps, named as people call them; half a step of room on both sides."""
    axis = {"title": title, "labelExpr": "labels[datum.value]", "format": "d", "tickMinStep": 1,
            "labelOverlap": True, "grid": False}  # fmt: skip
    scale = {"domain": [-_HALF, count - _HALF], "nice": False}
    return {"field": "k", "type": "quantitative", "axis": axis, "scale": scale}


def y_axis(field: str, title: str, *, zero: bool = True, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title,
            "scale": {"zero": zero, **more}}  # fmt: skip


def tip(*fields: tuple[str, str, str]) -> list[Spec]:
    """What is told where a pointer rests: field, title with unit, format."""
    return [
        {"field": field, "title": title, "type": "quantitative", "format": form}
        if form
        else {"field": field, "title": title, "type": "nominal"}
        for field, title, form in fields
    ]


def now() -> Spec:
    """The hour that is picked, as an upright line."""
    return {
        "data": {"values": [{}]},
        "transform": [{"calculate": "hour", "as": "k"}, {"filter": "datum.k >= 0"}],
        "mark": {"type": "rule", "color": DARK, "opacity": 0.35, "strokeWidth": 4, "aria": False},
        "encoding": {"x": {"field": "k", "type": "quantitative"}},
    }


def by_hour(*lists: str) -> list[Spec]:
    """Rows with lists by hour as one row an hour, `k`, with the name of the hour."""
    return [
        {"calculate": "sequence(length(labels))", "as": "k"},
        {"flatten": ["k", *lists]},
        {"calculate": "labels[datum.k]", "as": "when"},
    ]


def by_phase(phases: list[str], one: str) -> Spec:
    """A color for each phase, or that of what has none."""
    if not phases:
        return {"value": one}
    scale = {"domain": phases, "range": list(PHASES)[: len(phases)]}
    return {"field": "phase", "type": "nominal", "scale": scale, "title": "phase"}


def two_lines(
    x: Spec, y: Spec, color: Spec, value: str, words: str, form: str, picked: str, data: str
) -> list[Spec]:
    """A quantity by the AC power flow (solid) and by the grid model (dashed)."""
    layers = []
    for key, dash, source in (("ac", [1, 0], "AC"), ("model", [5, 4], "grid model")):
        layers.append({
            "data": {"name": data},
            "transform": [{"filter": picked}, *by_hour(key),
                          {"filter": f"isValid(datum.{key})"}],
            "mark": {"type": "line", "strokeWidth": 2, "strokeDash": dash,
                     "point": {"size": 26, "filled": True} if key == "ac" else False},
            "encoding": {
                "x": x, "y": y | {"field": key}, "color": color, "detail": {"field": "name"},
                "tooltip": tip(("name", "of", ""), ("when", "time", ""),
                                (key, f"{words}, {source}", form)),
            },
        })  # fmt: skip
    return layers
