"""One file of HTML that needs nothing else: words, charts, their data and the library that draws.

The library is Vega (BSD-3, its licence goes along), embedded whole. It was measured against Plotly
7 and Bokeh 3.9, opened by Chromium from a file: Vega with vega-embed takes 0.9 MB and draws six
charts in 0.15 to 0.4 s, Plotly 4.8 MB and 0.2 to 1.0 s; Bokeh with its table widget is 2.0 MB.
Vega-Lite says what is drawn as data, so that one hour and one place are signals that all charts
share, moved by plain inputs of HTML, which a keyboard reaches. The charts are compiled to Vega
here, so that a browser need not. A content security policy forbids the page to load anything.
"""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..files import whole
from .charts import Chart
from .shrunk import text_of

VEGA_LITE = "6.4"
_BAD = ' class="bad"'


class Page:
    """A page that grows section by section, and is then written."""

    def __init__(self, title: str):
        self.title, self._parts, self._charts = title, [], {}

    def add(self, html: str) -> None:
        """Add HTML whose names are escaped already."""
        self._parts.append(html)

    def heading(self, ended: str, fine: bool, sentences: Sequence[str]) -> None:
        """Begin with the title, how it ended, and what is certain about it."""
        self.add(f"<header><h1>{escape(self.title)}</h1>")
        self.add(f'<p class="status{"" if fine else " bad"}">{escape(ended)}</p>')
        listed = "".join(
            f"<li{_BAD * words.startswith('NOT')}>{escape(words)}</li>" for words in sentences
        )
        self.add(f'<ul class="certificate">{listed}</ul></header>')

    def section(self, key: str, title: str, html: str) -> None:
        """Add a section with a heading."""
        self.add(f'<section id="{key}"><h2>{escape(title)}</h2>{html}</section>')

    def charts(self, charts: Sequence[Chart]) -> str:
        """The HTML of charts side by side, of which this page then holds the drawing."""
        return f'<div class="charts">{"".join(map(self._chart, charts))}</div>'

    def _chart(self, chart: Chart) -> str:
        self._charts[chart.key] = {"vega": _compiled(chart.spec), "canvas": chart.canvas}
        wide = " wide" if chart.wide else ""
        return (
            f'<figure class="chart{wide}"><h3>{escape(chart.title)} '
            f'<span class="now" data-chart="{chart.key}"></span></h3>'
            f'<div id="chart-{chart.key}" class="drawing"></div>'
            f"<figcaption>{escape(chart.note)}</figcaption></figure>"
        )

    def write(self, out: Path, data: dict[str, Any]) -> None:
        """Write the page, complete or not at all."""
        page = Template(_text("page.html")).substitute(
            title=escape(self.title),
            style=_text("page.css"),
            body="".join(self._parts),
            data=text_of(data),
            charts=text_of(self._charts),
            licence=escape(_text("vega-licence.txt")),
            library=_library() if self._charts else "",
            script=_text("page.js"),
        )
        with whole(out) as fresh:
            fresh.write_text(page, encoding="utf-8")


def table(key: str, name: str) -> str:
    """The HTML of a table that the page's script fills from `data.tables[key]`."""
    return f'<div class="table" data-table="{key}" data-name="{escape(name)}"></div>'


def _text(name: str) -> str:
    return files("jaxgne.html").joinpath(name).read_text("utf-8")


def converter() -> Any:
    """vl-convert, or `ImportError` that tells how to get it."""
    try:
        import vl_convert
    except ImportError as missing:
        raise ImportError(
            'jaxgne.report needs vl-convert-python and pandas: install the extra "report" '
            '(pip install "jaxgne[report]").'
        ) from missing
    return vl_convert


def _compiled(spec: dict[str, Any]) -> dict[str, Any]:
    return converter().vegalite_to_vega(spec, vl_version=VEGA_LITE)


def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, that may stand in a script element."""
    return (
        converter().javascript_bundle().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    )
