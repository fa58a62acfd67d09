"""The map of a report: the grid at the hour, with voltages, loadings and trades."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..plots.style import BLACK, ORANGE, VERMILLION, YELLOW
from .chart import APART, BEYOND, GRAY, LINE, Chart, Spec, spec_of, tip
from .map_names import BELOW, LONGEST, extent

_ROOMY = 60  # places up to which things on the map are large


class _Frame(NamedTuple):
    """Where the map is, and how large things are on it."""

    low: NDArray[np.float64]  # its lower left, in steps of the map
    high: NDArray[np.float64]
    height: int  # px
    small: float  # size of things, 1 where there is room

    def axis(self, field: str, name: str = "") -> Spec:
        """The axis `x` or `y`, of the column `name`."""
        k = "xy".index(field)
        domain = [float(self.low[k]), float(self.high[k])]
        scale = {"domain": domain, "nice": False}
        return {"field": name or field, "type": "quantitative", "axis": None, "scale": scale}

    def at(self, x: str = "x", y: str = "y") -> dict[str, Any]:
        """Both, of columns with these names."""
        return {"x": self.axis("x", x), "y": self.axis("y", y)}


def feeder_map(places: NDArray[np.float64], volts: tuple[float, float], phases: list[str]) -> Chart:
    """The grid at the hour: voltages of buses between `volts`, loadings of lines, trades as arcs.

    `places` (Z, 2) are those of buses; with `phases` each is a disk of three sectors.
    """
    low, high, height = extent(places)
    frame = _Frame(low, high, height, 1.0 if len(places) <= _ROOMY else 0.6)
    layers = [*_lines(frame), *_arcs(frame), *_buses(frame, volts, bool(phases))]
    note = (
        "Buses by voltage, ringed in black where prosumers are, square at the main grid; lines "
        "darker and wider the fuller they are, dotted without a rating; orange arrows go from who "
        "sells to who buys, the 60 largest. Red is beyond a limit. Lengths mean "
        "nothing. Names stand where they have room. Click a bus or a line to pick it."
    )
    if phases:
        note += f" Sectors of a bus are its phases: {phases[0]} on top, then clockwise."
    spec = spec_of(height, layers, resolve=APART)
    return Chart("map", "Feeder at the hour", note, spec, wide=True)


def _lines(frame: _Frame) -> list[Spec]:
    """Lines by loading, and below them what is picked."""
    ends = {**frame.at(), "x2": {"field": "x2"}, "y2": {"field": "y2"}}
    small = frame.small
    state = [
        {"calculate": "isValid(datum.ac[hour]) ? datum.ac[hour] : datum.model[hour]", "as": "full"},
        {"calculate": "datum.kw[hour]", "as": "power"},
    ]
    return [
        {  # what is picked
            "data": {"name": "lines"},
            "transform": [{"filter": LINE}],
            "mark": {"type": "rule", "color": YELLOW, "strokeWidth": 16, "strokeCap": "round"},
            "encoding": ends,
        },
        {
            "data": {"name": "lines"},
            "transform": [*state, {"filter": "datum.rated && isValid(datum.full)"}],
            "mark": {"type": "rule", "strokeCap": "round", "cursor": "pointer"},
            "encoding": {
                **ends,
                "strokeWidth": {
                    "field": "full", "type": "quantitative", "legend": None,
                    "scale": {"domain": [0, 100], "range": [2 * small, 8 * small], "clamp": True},
                },
                "color": {
                    "condition": {"test": "datum.full > 100", "value": VERMILLION},
                    "field": "full", "type": "quantitative",
                    "scale": {"domain": [0, 100], "range": ["#c4c4c4", "#1a1a1a"], "clamp": True},
                    "legend": {"title": "line loading (% of rating)", "type": "symbol",
                               "symbolType": "stroke", "values": [0, 25, 50, 75, 100]},
                },
                "tooltip": tip(("name", "line", ""), ("phase", "phase", ""),
                                ("full", "loading (%)", ".1f"), ("power", "flow (kW)", ",.1f")),
            },
        },
        {
            "data": {"name": "lines"},
            "transform": [*state, {"filter": "!datum.rated || !isValid(datum.full)"}],
            "mark": {"type": "rule", "color": GRAY, "strokeDash": [2, 3], "strokeWidth": 2 * small,
                     "cursor": "pointer"},
            "encoding": {**ends, "tooltip": tip(("name", "line, without a rating", ""),
                                                 ("power", "flow (kW)", ",.1f"))},
        },
    ]  # fmt: skip


def _arcs(frame: _Frame) -> list[Spec]:
    """Trades between places, with an arrow halfway."""
    sold = [{"calculate": "datum.kw[hour]", "as": "power"}, {"filter": "datum.power > 0"}]
    return [
        {
            "data": {"name": "trades"},
            "transform": [
                *sold,
                {"calculate": "datum.seller + ' to ' + datum.buyer", "as": "pair"},
                {"calculate": "[0, 1, 2]", "as": "step"},
                {"flatten": ["xs", "ys", "step"]},
            ],
            "mark": {"type": "line", "interpolate": "basis", "color": ORANGE, "opacity": 0.75,
                     "clip": True},
            "encoding": {
                **frame.at("xs", "ys"),
                "order": {"field": "step"}, "detail": {"field": "pair"},
                "strokeWidth": {
                    "field": "power", "type": "quantitative",
                    "scale": {"type": "sqrt", "range": [0.8, 5], "domainMin": 0},
                    "legend": {"title": "trade (kW)", "symbolStrokeColor": ORANGE,
                               "symbolType": "stroke", "tickCount": 3, "format": ",.3~g"},
                },
                "tooltip": tip(("pair", "sold from bus to bus", ""),
                               ("power", "trade (kW)", ",.2f")),
            },
        },
        {
            "data": {"name": "trades"},
            "transform": [*sold, *_halfway(frame)],
            "mark": {"type": "point", "filled": True, "shape": "triangle-right", "color": "#b37400",
                     "opacity": 1, "size": 110 * frame.small, "aria": False},
            "encoding": {**frame.at("mx", "my"),
                         "angle": {"field": "turn", "type": "quantitative", "scale": None}},
        },
    ]  # fmt: skip


def _buses(frame: _Frame, volts: tuple[float, float], phased: bool) -> list[Spec]:
    """Buses by voltage, rings where prosumers are, the main grid, and names."""
    volt = "isValid(datum.ac[hour]) ? datum.ac[hour] : datum.model[hour]"
    size = (480 if phased else 170) * frame.small**2
    edge = {} if phased else {"stroke": "white", "strokeWidth": 0.7}
    return [
        {
            "data": {"name": "places"},
            "transform": [{"filter": "datum.place == place"}],
            "mark": {"type": "point", "filled": True, "color": YELLOW, "opacity": 1, "size": 620},
            "encoding": frame.at(),
        },
        {
            "data": {"name": "buses"},
            "transform": [
                {"calculate": volt, "as": "volt"},
                {"calculate": "datum.price[hour]", "as": "cost"},
            ],
            "mark": {"type": "point", "filled": True, "opacity": 1, "size": size,
                     "cursor": "pointer", **edge},
            "encoding": {
                **frame.at(),
                "shape": {"field": "shape", "type": "nominal", "scale": None, "legend": None},
                "fill": {
                    "condition": {
                        "test": BEYOND,
                        "value": VERMILLION,
                    },
                    "field": "volt", "type": "quantitative",
                    "scale": {"range": ["#08306b", "#e3eef9"], "domain": list(volts)},
                    "legend": {"title": "voltage (pu)", "gradientLength": 140, "padding": 14,
                               "format": ".3f",
                               "tickCount": 4},
                },
                "tooltip": tip(("name", "bus", ""), ("phase", "phase", ""),
                                ("volt", "voltage (pu)", ".4f"), ("low", "at least (pu)", ".3f"),
                                ("high", "at most (pu)", ".3f"),
                                ("cost", "price (EUR/kWh)", ".4f")),
            },
        },
        {
            "data": {"name": "places"},
            "transform": [{"filter": "datum.homes > 0 || datum.fed"}],
            "mark": {"type": "point", "filled": False, "opacity": 1, "strokeWidth": 1.6,
                     "cursor": "pointer"},
            "encoding": {
                **frame.at(),
                "size": {"condition": {"test": "datum.fed", "value": 420 * frame.small},
                         "value": 1.3 * size},
                "shape": {"condition": {"test": "datum.fed", "value": "square"},
                          "value": "circle"},
                "stroke": {"value": BLACK},
                "tooltip": tip(("name", "bus", ""), ("homes", "prosumers", "d")),
            },
        },
        {
            "data": {"name": "places"},
            "transform": [
                {"filter": "datum.place == place || width >= datum.room"},
                {"calculate": "datum.place == place ? 'bold' : 'normal'", "as": "weight"},
            ],
            "mark": {"type": "text", "dy": BELOW, "fontSize": 11, "limit": LONGEST, "aria": False,
                     "fontWeight": {"expr": "datum.weight"}},
            "encoding": {**frame.at(), "text": {"field": "label"}},
        },
    ]  # fmt: skip


def _halfway(frame: _Frame) -> list[Spec]:
    """Where the arc of a trade is halfway, and its direction there on the screen, degrees."""
    across, up = (float(frame.high[k] - frame.low[k]) for k in (0, 1))
    middle = [
        {"calculate": f"(datum.{name}s[0] + 4 * datum.{name}s[1] + datum.{name}s[2]) / 6",
         "as": f"m{name}"}
        for name in ("x", "y")
    ]  # fmt: skip
    right = f"(datum.xs[2] - datum.xs[0]) * width / {across:.6g}"
    down = f"(datum.ys[0] - datum.ys[2]) * {frame.height} / {up:.6g}"
    return [*middle, {"calculate": f"atan2({down}, {right}) * 180 / PI", "as": "turn"}]
