"""Charts of a report over the hours, and of voltages along the feeder."""

from ..plots.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SCALE, SKY, VERMILLION, YELLOW
from .chart import (
    BEYOND,
    DARK,
    GRAY,
    LINE,
    Chart,
    Spec,
    by_hour,
    by_phase,
    now,
    spec_of,
    time_axis,
    tip,
    two_lines,
    y_axis,
)
from .people_data import SOURCES, USES

_KINDS = dict(
    zip(
        (*SOURCES, *USES),
        (BLUE, ORANGE, GREEN, SKY, YELLOW, GRAY, "#66c2a5", "#9ad0f0", "#005a94"),
        strict=True,
    )
)
_CHOSEN = "who >= 0 ? datum.who == who : who == -2 ? datum.place == place : datum.who == -1"


def voltages(title: str, count: int, span: tuple[float, float], phases: list[str]) -> Chart:
    """Voltages over the day: of the picked bus by both power flows, the range of all, limits."""
    y = y_axis("volt", "voltage (pu)", zero=False, domain=list(span), nice=False)
    x = time_axis(title, count)
    layers: list[Spec] = [
        {
            "data": {"name": "range"},
            "mark": {"type": "area", "color": SKY, "opacity": 0.35},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
        },
        now(),
        *_limits(),
        *two_lines(
            x,
            y,
            by_phase(phases, BLUE),
            "volt",
            "voltage (pu)",
            ".4f",
            "datum.place == place",
            "buses",
        ),
    ]
    note = (
        "The picked bus: solid by the AC power flow, dashed by the grid model; shaded, from the "
        "lowest to the highest bus; black dashes are limits."
    )
    return Chart("volts", "Voltage at the picked bus", note, spec_of(230, layers))


def _limits() -> list[Spec]:
    """Voltage limits of the picked place, as black dashed lines that are named."""
    rule = {"type": "rule", "color": BLACK, "strokeDash": [6, 4], "strokeWidth": 1.5}
    base = {"data": {"name": "buses"}, "transform": [{"filter": "datum.place == place"}]}
    layers = []
    for bound, words, dy in (("high", "upper limit", -7), ("low", "lower limit", 10)):
        y = {"field": bound, "type": "quantitative", "aggregate": "min"}
        layers.append(base | {"mark": rule, "encoding": {"y": y}})
        text = {"type": "text", "align": "left", "x": 4, "dy": dy, "text": f"{words} (pu)"}
        layers.append(base | {"mark": text, "encoding": {"y": y}})
    return layers


def profile(deep: float, span: tuple[float, float]) -> Chart:
    """Voltages at the hour along the feeder."""
    x = {"field": "x", "type": "quantitative", "title": "lines from the main grid (number)",
         "scale": {"domain": [-0.5, deep + 0.5], "nice": False}, "axis": {"grid": False,
         "tickMinStep": 1, "format": "d"}}  # fmt: skip
    y = y_axis("volt", "voltage (pu)", zero=False, domain=list(span), nice=False)
    told = tip(("name", "bus", ""), ("phase", "phase", ""))
    layers: list[Spec] = [
        {
            "data": {"name": "buses"},
            "mark": {"type": "tick", "orient": "horizontal", "size": 14, "color": BLACK,
                     "thickness": 1.5, "opacity": 1, "aria": False},
            "encoding": {"x": x, "y": y | {"field": bound}},
        }
        for bound in ("low", "high")
    ]  # fmt: skip
    for key, shape, words in (("model", "cross", "grid model"), ("ac", "circle", "AC")):
        layers.append({
            "data": {"name": "buses"},
            "transform": [
                {"calculate": f"datum.{key}[hour]", "as": "volt"},
                {"filter": "isValid(datum.volt)"},
                {"calculate": BEYOND,
                 "as": "beyond"},
                {"calculate": f"'{words}'", "as": "flow"},
            ],
            "mark": {"type": "point", "filled": True, "shape": shape, "opacity": 0.85,
                     "cursor": "pointer"},
            "encoding": {
                "x": x, "y": y,
                "size": {"condition": {"test": "datum.place == place", "value": 170}, "value": 42},
                "color": {
                    "condition": {"test": "datum.beyond", "value": VERMILLION},
                    "field": "flow", "type": "nominal", "title": None,
                    "scale": {"domain": ["AC", "grid model"], "range": [BLUE, SKY]},
                },
                "tooltip": [*told, *tip(("volt", f"voltage (pu), {words}", ".4f"))],
            },
        })  # fmt: skip
    note = (
        "All buses at the hour, the picked one larger: dark by the AC power flow, light by the "
        "grid model; red is beyond a limit. Black bars are the limits of each."
    )
    return Chart(
        "profile", "Voltage along the feeder at the hour", note, spec_of(230, layers), True
    )


def loadings(title: str, count: int, top: float, phases: list[str]) -> Chart:
    """Loading of the picked line, and of the fullest, over the day."""
    x = time_axis(title, count)
    y = y_axis("full", "loading (% of rating)", domain=[0, top], nice=False)
    rated = {"data": {"values": [{"full": 100}]}}
    level = {"y": {"field": "full", "type": "quantitative"}}
    rule = {"type": "rule", "color": BLACK, "strokeDash": [6, 4], "strokeWidth": 1.5}
    text = {"type": "text", "align": "left", "x": 4, "dy": -7, "text": "rating (100 %)"}
    layers: list[Spec] = [
        {
            "data": {"name": "range"},
            "transform": [{"filter": "isValid(datum.full)"}],
            "mark": {"type": "area", "color": GRAY, "opacity": 0.3},
            "encoding": {"x": x, "y": y,
                         "tooltip": tip(("fullest", "fullest line", ""), ("full", "loading (%)",
                                                                          ".1f"))},
        },
        now(),
        rated | {"mark": rule, "encoding": level},
        rated | {"mark": text, "encoding": level},
        *two_lines(x, y, by_phase(phases, DARK), "full", "loading (%)", ".1f", LINE, "lines"),
    ]  # fmt: skip
    note = (
        "The picked line: solid by the AC current, dashed by the grid model; shaded, the fullest."
    )
    return Chart("loads", "Loading of the picked line", note, spec_of(230, layers))


def price_map(title: str, count: int, rows: int, names: bool) -> Chart:
    """Prices of all buses over the day."""
    steps = {"labelExpr": "labels[datum.value]", "labelAngle": 0, "labelOverlap": True}
    x = {"field": "k", "type": "ordinal", "title": title, "axis": steps}
    y = {"field": "name", "type": "nominal", "sort": None, "title": "bus",
         "axis": {"labels": names, "ticks": names, "labelFontSize": 11}}  # fmt: skip
    layers: list[Spec] = [
        {
            "data": {"name": "buses"},
            "transform": by_hour("price"),
            "mark": {"type": "rect", "cursor": "pointer"},
            "encoding": {
                "x": x, "y": y,
                "color": {"field": "price", "type": "quantitative",
                          "scale": {"scheme": SCALE, "zero": False, "nice": False},
                          "legend": {"title": "price of energy (EUR/kWh)", "gradientLength": 220,
                                     "format": ".3f"}},
                "tooltip": tip(("name", "bus", ""), ("when", "time", ""),
                                ("price", "price (EUR/kWh)", ".4f")),
            },
        },
        {
            "data": {"name": "buses"},
            "transform": [{"filter": "datum.place == place"}, *by_hour("price"),
                          {"filter": "datum.k == hour"}],
            "mark": {"type": "rect", "filled": False, "stroke": VERMILLION, "strokeWidth": 2},
            "encoding": {"x": x, "y": y},
        },
    ]  # fmt: skip
    height = int(min(max(120, rows * (14 if names else 4)), 560))
    note = "What a kWh more costs at each bus. Click to pick its bus and hour, framed in red."
    return Chart("price_map", "Prices by bus and hour", note, spec_of(height, layers), canvas=True)


def prices(title: str, count: int, whose: str) -> Chart:
    """Prices over the day: the main grid's, and what energy is worth at the picked bus."""
    x = time_axis(title, count)
    y = y_axis("price", "price (EUR/kWh)", zero=False)
    scale = {"domain": ["main grid", whose], "range": [GRAY, PURPLE]}
    color = {"field": "of", "type": "nominal", "title": None, "scale": scale}
    mark = {"type": "line", "interpolate": "step", "strokeWidth": 2}
    told = tip(("when", "time", ""), ("price", "price (EUR/kWh)", ".4f"))
    main: Spec = {
        "data": {"name": "hours"},
        "transform": [{"calculate": "'main grid'", "as": "of"},
                      {"calculate": "labels[datum.k]", "as": "when"}],
        "mark": mark | {"strokeDash": [5, 4]},
        "encoding": {"x": x, "y": y, "color": color, "tooltip": told},
    }  # fmt: skip
    own: Spec = {
        "data": {"name": "buses"},
        "transform": [{"filter": "datum.place == place"}, *by_hour("price"),
                      {"calculate": f"'{whose}'", "as": "of"}],
        "mark": mark,
        "encoding": {"x": x, "y": y, "color": color, "detail": {"field": "name"},
                     "tooltip": [*tip(("name", "bus", "")), *told]},
    }  # fmt: skip
    note = f"Energy of the {whose}, and the price of the main grid."
    return Chart("prices", "Price over the day", note, spec_of(230, [now(), own, main]))


def _zero(field: str) -> Spec:
    """The line at zero, which is there where nobody is picked, too."""
    level = {"y": {"field": field, "type": "quantitative"}}
    mark = {"type": "rule", "color": DARK, "aria": False}
    return {"data": {"values": [{field: 0}]}, "mark": mark, "encoding": level}


def dispatch(title: str, count: int) -> Chart:
    """Power of whoever is picked: where it comes from, above zero, and goes to, below."""
    x = time_axis(title, count)
    layers: list[Spec] = [
        now(),
        {
            "data": {"name": "power"},
            "transform": [
                {"filter": _CHOSEN},
                *by_hour("kw"),
                {"aggregate": [{"op": "sum", "field": "kw", "as": "kw"}],
                 "groupby": ["k", "kind", "when"]},
                {"calculate": f"indexof({list(_KINDS)}, datum.kind)", "as": "at"},
            ],
            "mark": {"type": "bar", "orient": "vertical",
                     "width": {"expr": "0.8 * width / length(labels)"}},
            "encoding": {
                "x": x,
                "y": y_axis("kw", "power (kW)") | {"stack": "zero"},
                "order": {"field": "at", "type": "quantitative"},
                "color": {"field": "kind", "type": "nominal", "title": None,
                          "scale": {"domain": list(_KINDS), "range": list(_KINDS.values())},
                          "legend": {"columns": 3}},
                "tooltip": tip(("kind", "power", ""), ("when", "time", ""),
                                ("kw", "power (kW)", ",.2f")),
            },
        },
    ]  # fmt: skip
    layers.append(_zero("kw"))
    note = "Above zero where power comes from, below where it goes to; loads are net of own sun."
    return Chart("dispatch", "Power of whoever is picked", note, spec_of(260, layers))


def storage(title: str, count: int) -> Chart:
    """Content of the storage of whoever is picked, within its bounds."""
    x = time_axis(title, count)
    y = y_axis("value", "content (kWh)")
    sums = [{"op": "sum", "field": name, "as": name} for name in ("kwh", "low", "high")]
    rows = [
        {"filter": _CHOSEN},
        *by_hour("kwh", "low", "high"),
        {"aggregate": sums, "groupby": ["k", "when"]},
    ]
    base: Spec = {"data": {"name": "stores"}, "transform": rows}
    dashes = {"type": "line", "color": BLACK, "strokeDash": [6, 4], "strokeWidth": 1.5}
    told = tip(("when", "end of step", ""), ("kwh", "content (kWh)", ",.2f"),
               ("low", "at least (kWh)", ",.2f"), ("high", "at most (kWh)", ",.2f"))  # fmt: skip
    area = {"type": "area", "color": GREEN, "opacity": 0.45, "line": {"color": GREEN}}
    layers = [
        now(),
        base | {"mark": area, "encoding": {"x": x, "y": y | {"field": "kwh"}, "tooltip": told}},
        *(
            base | {"mark": dashes, "encoding": {"x": x, "y": y | {"field": bound}}}
            for bound in ("low", "high")
        ),
    ]
    layers.append(_zero("value"))
    note = "Content at the end of each step; black dashes are its bounds."
    return Chart("storage", "Storage of whoever is picked", note, spec_of(200, layers))


def fan(key: str, words: str, unit: str, title: str, count: int, which: str) -> Chart:
    """Quantiles by hour over scenarios, and over `which`."""
    x = time_axis(title, count)
    y = y_axis("q50", f"{words} ({unit})", zero=False)
    told = tip(("when", "time", ""), ("q05", f"5 % ({unit})", ",.5~g"),
               ("q25", f"25 % ({unit})", ",.5~g"), ("q50", f"median ({unit})", ",.5~g"),
               ("q75", f"75 % ({unit})", ",.5~g"), ("q95", f"95 % ({unit})", ",.5~g"))  # fmt: skip
    names = ("q05", "q25", "q50", "q75", "q95")
    base: Spec = {
        "data": {"name": "fans"},
        "transform": [{"filter": f"datum.key == '{key}'"}, *by_hour(*names)],
    }
    layers = [
        base | {"mark": {"type": "area", "color": BLUE, "opacity": opacity},
                "encoding": {"x": x, "y": y | {"field": low}, "y2": {"field": high}}}
        for low, high, opacity in (("q05", "q95", 0.2), ("q25", "q75", 0.35))
    ]  # fmt: skip
    line = {"type": "line", "color": BLUE, "strokeWidth": 2, "point": {"size": 26}}
    layers += [now(), base | {"mark": line, "encoding": {"x": x, "y": y, "tooltip": told}}]
    note = f"Median over {which}; shaded 25 to 75 % and, lighter, 5 to 95 %."
    return Chart(f"fan_{key}", words[:1].upper() + words[1:], note, spec_of(220, layers))
