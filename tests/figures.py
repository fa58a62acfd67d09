"""What is wrong with a figure: empty, without labels or units, cut off, crowded, colors unsafe."""

import re
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.patches import Patch

SAFE = ("000000", "E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")
UNIFORM = {"cividis", "viridis", "grays"}  # color maps in which equal steps look equal
_UNITS = r"kW|kWh|kB|EUR|EUR/kWh|pu|h|1|number|index|its unit|% of rating"
_UNIT = re.compile(rf"\(({_UNITS})\)|per unit of the field|per 1 %$|by 1 %$|per [\w/²]+$")
_ROWS = {"bus", "hour", "prosumer"}  # axes that count things need no unit


def faults(ax: Axes) -> list[str]:
    """Everything that is wrong with the figure of `ax`, in words; nothing where it is fine."""
    figure: Any = ax.figure
    ink = _ink(ax)
    found = [] if ink > 0.003 else [f"empty: its data colors {ink:.2%} of the axes"]
    if not _data(ax):
        found.append("empty: no artist with data")
    if not ax.get_title():
        found.append("no title")
    scales = [part for part in figure.axes if part.get_label() == "<colorbar>"]
    labels = [ax.get_xlabel(), ax.get_ylabel()] if ax.axison else []
    labels += [part.get_ylabel() or part.get_xlabel() for part in scales]
    found += [f"no unit: {label!r}" for label in labels if not _named(label)]
    if not labels:
        found.append("neither axes nor a scale")
    drawn = ax.get_legend()
    if drawn is None and len({label for part in _data(ax) if (label := _label(part))}) > 1:
        found.append("no legend")
    inside = ax.get_window_extent()
    if drawn is not None and _overlap(drawn.get_window_extent(), inside) > 4.0:
        found.append("legend over the data")
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    if min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) < -0.05:
        found.append("cut off at the edge")
    for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
        texts = [t for t in axis.get_ticklabels() if t.get_text() and t.get_visible()]
        boxes = [text.get_window_extent() for text in texts]
        if any(_overlap(one, other) > 1.0 for one, other in pairwise(boxes)):
            found.append(f"labels of {axis.axis_name} overlap")
    return found


def unsafe_colors(ax: Axes) -> set[str]:
    """Colors of what is drawn that are neither of the palette nor gray, and unsafe color maps."""
    found = set()
    key = ax.get_legend()
    parts: list[Any] = [*_data(ax), *(key.legend_handles if key else ())]
    for part in parts:
        if isinstance(part, ScalarMappable) and part.get_array() is not None:
            found |= {part.get_cmap().name} - UNIFORM
            edges: Any = part.get_edgecolor() if isinstance(part, Collection) else []
            mapped = part.to_rgba(np.ravel(np.asarray(part.get_array())))
            same = np.shape(edges) == np.shape(mapped) and np.allclose(edges, mapped)
            colors = [] if same else edges
        elif isinstance(part, Patch | Collection):
            colors = [*to_rgba_array(part.get_facecolor()), *to_rgba_array(part.get_edgecolor())]
        else:
            line: Any = part
            colors = [to_rgba(line.get_color())]
            marker = line.get_marker() not in ("", "None", None)
            colors += [to_rgba(line.get_markeredgecolor())] if marker else []
        found |= {_hex(color) for color in colors if not _safe(color)}
    return found


def _hex(color: Any) -> str:
    return "".join(f"{round(255 * value):02X}" for value in np.asarray(color)[:3])


def _safe(color: Any) -> bool:
    rgba = np.asarray(color)
    return rgba[3] == 0 or np.ptp(rgba[:3]) == 0 or _hex(color) in SAFE


def _named(label: str) -> bool:
    return label in _ROWS or bool(_UNIT.search(label))


def _label(part: Any) -> str:
    """What the legend calls an artist, if anything."""
    label = str(part.get_label())
    return "" if label.startswith("_") else label


def _data(ax: Axes) -> list[Any]:
    """Artists placed by data: not lines across the axes, which are reference levels."""
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    return [*lines, *ax.patches, *ax.collections]


def _ink(ax: Axes) -> float:
    """The share of pixels inside the axes that would look different without the data."""
    figure: Any = ax.figure
    shown = [part for part in _data(ax) if part.get_visible()]

    def pixels() -> np.ndarray:
        figure.canvas.draw()
        image = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)
        box = ax.get_window_extent()  # a layout knows it once it is drawn
        return image[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]

    figure.canvas.draw()
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")  # else the axes may move
    whole = pixels()
    for part in shown:
        part.set_visible(False)
    bare = pixels()
    for part in shown:
        part.set_visible(True)
    figure.set_layout_engine(layout)
    figure.canvas.draw()
    return float(np.any(np.abs(whole - bare) > 8, axis=2).mean())


def _overlap(one: Any, other: Any) -> float:
    """By how many pixels two boxes overlap in both directions."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(wide, high)
