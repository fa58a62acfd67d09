"""The report as a page: what a browser shows, and that its numbers are those of the result."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, frames
from jaxgne.comparison import baselines, outcome
from jaxgne.html.facts import figures
from jaxgne.html.map_names import ALWAYS, least_widths
from jaxgne.html.shrunk import short, text_of
from jaxgne.html.zones import zones_of
from jaxgne.indicators import summary
from tests.browser import CONTRAST, Browser, opened

EVIL = '</script><script>document.title="broken"</script><b>"&\u2028'
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA
LARGEST = 10e6  # bytes
WIDTHS = (360, 1440)


def named(market: jg.Market) -> jg.Market:
    """With names for prosumers, of which the first is an attack, and for buses."""
    count, buses = len(market.prosumers.bus), len(market.grid.passive)
    names = (EVIL, "=1+1", *(f"Miller {k}" for k in range(2, count)))
    market = eqx.tree_at(lambda m: m.prosumers, market, replace(market.prosumers, names=names))
    places = (f"{EVIL} 0", *(f"bus {k}" for k in range(1, buses)))
    return eqx.tree_at(lambda m: m.grid, market, replace(market.grid, names=places))


@pytest.fixture(scope="module")
def day() -> tuple[jg.Market, jg.Clearing]:
    """Eight prosumers behind limits that bind, with names."""
    market = named(jg.ieee37(prosumers=8, hours=6, stress=True))
    return market, jg.clear(market)


@pytest.fixture(scope="module")
def page(day: tuple[jg.Market, jg.Clearing], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return jg.report(*day, out=folder / "day.html", title=f"Day of {EVIL}")


@pytest.fixture(scope="module")
def browser() -> Any:
    with opened() as found:
        yield found


def held(page: Path) -> dict[str, Any]:
    """The data that a page holds."""
    text = page.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_numbers_are_those_of_tables(day: tuple[jg.Market, jg.Clearing], page: Path):
    """Voltages, loadings and prices are those of `frames`, to the digits that are shown."""
    data, hours = held(page), day[0].prosumers.load.shape[1]
    for name, column, digits in (
        ("ac", "ac_voltage_pu", 5e-6), ("model", "voltage_pu", 5e-6),
        ("price", "energy_price_eur_per_kwh", 5e-5),
    ):  # fmt: skip
        wanted = frames.buses(*day)[column].to_numpy().reshape(-1, hours)
        shown = [row[name] for row in data["rows"]["buses"]]
        np.testing.assert_allclose(shown, wanted, atol=digits)
    wanted = frames.lines(*day)["ac_loading_percent"].to_numpy().reshape(-1, hours)
    shown = np.array([row["ac"] for row in data["rows"]["lines"]])
    np.testing.assert_allclose(shown, wanted, atol=5e-3)
    assert data["hour"] == int(frames.hot_spots(*day, top=1)["step"].iloc[0])


def test_power_in_is_power_out(page: Path):
    """Of everybody, and of each: sources and uses sum to 0 in each hour, and so do trades."""
    rows = held(page)["rows"]["power"]
    for who in {row["who"] for row in rows}:
        total = np.sum([row["kw"] for row in rows if row["who"] == who], axis=0)
        np.testing.assert_allclose(total, 0.0, atol=0.02)
    peers = [row["kw"] for row in rows if "peers" in row["kind"]]
    np.testing.assert_allclose(np.sum(peers, axis=0), 0.0, atol=0.05)


def test_bills_are_those_of_settlement(day: tuple[jg.Market, jg.Clearing], page: Path):
    """To the cent, and beside them the same market without trades."""
    table = held(page)["tables"]["bills"]
    heads = [head["name"] for head in table["heads"]]
    column = {name: [row[k] for row in table["rows"]] for k, name in enumerate(heads)}
    bills = np.asarray(jg.settle(*day).prosumers).sum(axis=1)
    np.testing.assert_allclose(column["bill"], bills, atol=5.001e-3)
    alone = baselines(day[0])["no trading"]
    cost = np.asarray(outcome(day[0], jg.clear(alone)).cost)
    np.testing.assert_allclose(column["cost without P2P"], cost, atol=5.1e-3)
    saved = np.array(column["cost without P2P"]) - column["cost"]
    np.testing.assert_allclose(column["saved by P2P"], saved, atol=0.0151)
    assert column["prosumer"][0] == EVIL


def test_tight_places_have_their_price(day: tuple[jg.Market, jg.Clearing], page: Path):
    """What a kWh costs more behind a line is the difference of the prices at its ends."""
    rows = held(page)["tables"]["tight"]["rows"]
    price = frames.buses(*day)["energy_price_eur_per_kwh"].to_numpy().reshape(37 - 1, -1)
    lines = [row for row in rows if row[0].startswith("line ")]
    assert lines and len(rows) > len(lines)
    worst = frames.hot_spots(*day, top=1).iloc[0]
    line = int(worst["name"]) if not day[0].grid.line_names else 0
    grid, step = day[0].grid, int(worst["step"])
    ends = int(grid.source[line]), int(grid.target[line])
    assert lines[0][1]["step"] == step
    assert lines[0][6] == pytest.approx(price[ends[1], step] - price[ends[0], step], abs=1e-5)


def test_opens_without_errors_or_requests(browser: Browser, page: Path):
    """Nothing is asked for but the page; names are shown as they are and run nowhere."""
    browser.requested()
    browser.open(page)
    assert browser.said() == []
    assert browser.requested() == [page.resolve().as_uri()]
    assert browser.run('return performance.getEntriesByType("resource").length') == 0
    assert browser.chrome.title.startswith("Day of </script>")
    assert browser.run("return document.querySelector('h1').textContent").endswith(EVIL)
    assert browser.run("return document.querySelectorAll('td b').length") == 0
    assert "BSD" in page.read_text("utf-8") or "Redistribution" in page.read_text("utf-8")
    browser.shot("day")


def test_slider_by_keyboard_moves_what_is_shown(browser: Browser, page: Path):
    """Tab reaches the slider and shows that; arrows change the hour, charts and words follow."""
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    start = browser.run("return state.hour")
    key = Keys.ARROW_LEFT if start else Keys.ARROW_RIGHT
    focused = "return document.activeElement.id"
    for _ in range(3):
        browser.chrome.switch_to.active_element.send_keys(Keys.TAB)
        if browser.run(focused) == "hour":
            break
    assert browser.run(focused) == "hour"
    style = "const s = getComputedStyle(document.activeElement);"
    assert browser.run(style + "return [s.outlineStyle, s.outlineWidth]") == ["solid", "3px"]
    marks = "return document.querySelector('#chart-map svg').innerHTML"
    before, words = browser.run(marks), browser.run("return byId('when').textContent")
    browser.chrome.switch_to.active_element.send_keys(key)
    assert browser.wait("return state.hour !== arguments[0]", start)
    assert browser.wait(f"{marks} !== arguments[0]", before)
    now = browser.run("return [byId('when').textContent, state.hour]")
    assert now[0] != words and now[0] == held(page)["labels"][now[1]]


def test_picks_change_what_is_shown(browser: Browser, page: Path):
    """A prosumer, a line, a bus by list; a bus by a click on the map; an hour by one on a table."""
    browser.open(page)
    title = "return [...document.querySelectorAll('.now')].map((s) => s.textContent).join('|')"
    seen = [browser.run(title)]
    volts = "return document.querySelector('#chart-volts svg').innerHTML"
    curves = [browser.run(volts)]
    for key in ("p1", "l4", "b30"):
        browser.run("byId('pick').value = arguments[0]", key)
        browser.run("byId('pick').dispatchEvent(new Event('change'))")
        seen.append(
            browser.wait(f"const t = {title[7:]}; return t !== arguments[0] && t", seen[-1])
        )
        curves.append(browser.wait(f"{volts} !== arguments[0] && {volts[7:]}", curves[-1]))
    assert "=1+1" in seen[1] and len(set(curves)) == 4
    mark = "#chart-map svg .mark-symbol.role-mark path[aria-label*='bus 12']"
    browser.run("document.querySelector('#map, #chart-map').scrollIntoView({block: 'center'})")
    from selenium.webdriver.common.action_chains import ActionChains

    node = browser.chrome.find_element("css selector", mark)
    ActionChains(browser.chrome).move_to_element(node).click().perform()
    assert browser.wait("return byId('pick').value === 'b12'")
    browser.run("document.querySelector('[data-table=tight] td button').click()")
    step = held(page)["tables"]["tight"]["rows"][0][1]["step"]
    assert browser.wait("return state.hour === arguments[0]", step)
    assert browser.said() == []


def test_tables_sort_and_save(browser: Browser, page: Path):
    """By bill, up and down; the CSV has all rows, units in its heads, and no formula."""
    browser.open(page)
    table = held(page)["tables"]["bills"]
    at = [head["name"] for head in table["heads"]].index("bill")
    column = f"return [...document.querySelectorAll('[data-table=bills] tbody tr')].map((r) => r.children[{at}].textContent)"  # noqa: E501
    button = f"document.querySelectorAll('[data-table=bills] th button')[{at}].click();"
    down = [float(text.replace(",", "")) for text in browser.run(button + column)]
    up = [float(text.replace(",", "")) for text in browser.run(button + column)]
    assert down == sorted((row[at] for row in table["rows"]), reverse=True) and up == down[::-1]
    sort = f"return document.querySelectorAll('[data-table=bills] th')[{at}].ariaSort"
    assert browser.run(sort) == "ascending"
    text = browser.run("return csv(data.tables.bills.heads, data.tables.bills.rows)")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0][at] == "bill (EUR)" and len(rows) == 1 + len(table["rows"])
    assert rows[1][0] == EVIL and rows[2][0] == "'=1+1"
    assert [float(row[at]) for row in rows[1:]] == [row[at] for row in table["rows"]]


@pytest.mark.parametrize("width", WIDTHS)
def test_is_readable(browser: Browser, page: Path, width: int):
    """No sideways scrolling at either width, and no text below the contrast of WCAG's AA."""
    browser.open(page, width)
    inner, needed = browser.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width and needed <= width
    assert browser.run(CONTRAST)[0][0] >= LEAST_CONTRAST, browser.run(CONTRAST)
    sizes = "return Math.min(...[...document.querySelectorAll('svg text, p, td, li')].map((t) => parseFloat(getComputedStyle(t).fontSize)))"  # noqa: E501
    assert browser.run(sizes) >= 11.0
    browser.shot("day")


def test_refusals(day: tuple[jg.Market, jg.Clearing], tmp_path: Path):
    """One sentence each, and no file."""
    market, clearing = day
    out = tmp_path / "never.html"
    with pytest.raises(ValueError, match=r"^report: loads of shape \(3, 6\) but imports .* of\.$"):
        jg.report(jg.ieee37(prosumers=3, hours=6), clearing, out=out)
    with pytest.raises(ValueError, match=r"^report: baseline='today'; give 'no trading', a clear"):
        jg.report(market, clearing, baseline="today", out=out)  # type: ignore[arg-type]
    lost = replace(clearing, status=jg.Status.infeasible)
    with pytest.raises(ValueError, match="is infeasible, so there is neither a plan"):
        jg.report(market, lost, out=out)
    assert not out.exists()


def test_missing_extra_is_told(
    day: tuple[jg.Market, jg.Clearing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r'extra "report" \(pip install "jaxgne\[report'):
        jg.report(*day, out=tmp_path / "never.html")


def test_command_writes_and_refuses(day: tuple[jg.Market, jg.Clearing], tmp_path: Path):
    """`jaxgne report RESULT`: with a baseline that is saved, and with none."""
    jg.save(tmp_path / "day", *day)
    out = tmp_path / "page.html"
    words = ["report", str(tmp_path / "day"), "-o", str(out)]
    told = CliRunner().invoke(cli.app, [*words, "--baseline", str(tmp_path / "day")])
    assert told.exit_code == 0, told.output
    assert re.search(
        r"written to .*page\.html \(1\.\d MB in \d+ s\)", told.output.replace("\n", "")
    )
    table = held(out)["tables"]["bills"]
    assert [row[-1] for row in table["rows"]] == [0.0] * len(table["rows"])
    told = CliRunner().invoke(cli.app, [*words, "--no-baseline"])
    assert told.exit_code == 0 and held(out)["tables"]["bills"]["heads"][-1]["name"] == "cost"
    both = [*words, "--no-baseline", "--baseline", str(tmp_path / "day")]
    assert CliRunner().invoke(cli.app, both).exit_code == 2
    jg.save(tmp_path / "bare", day[0])
    told = CliRunner().invoke(cli.app, ["report", str(tmp_path / "bare"), "-o", str(out)])
    assert told.exit_code == 1 and "holds no clearing; run jaxgne clear" in told.output


@pytest.mark.parametrize("digits", [3, 5])
def test_numbers_are_short(digits: int):
    """To so many digits of the largest; what is not finite is null, and -0 is 0."""
    values = np.array([[1234.5678, -0.0], [np.nan, 0.00001]])
    found = short(values, digits)
    assert found[1][0] is None and found[0][1] == 0.0 and str(found[0][1]) == "0.0"
    assert abs(found[0][0] - 1234.5678) <= 0.5 * 10.0 ** (4 - digits)
    assert text_of({"a": "</script>&"}) == '{"a":"\\u003c/script\\u003e\\u0026"}'


def test_large_grids_are_drawn_by_zone():
    """906 buses as fewer than 301: none without prosumers of its own that only passes power on."""
    market = jg.european_lv()
    zones = zones_of(market)
    assert len(zones.names) <= 300 and int(zones.merged.sum()) == len(zones.spots.names) == 907
    homes = zones.spots.of[np.asarray(market.prosumers.bus)]
    heads = {name: k for k, name in enumerate(zones.names)}
    for spot in np.unique(homes).tolist():  # 55 houses are few enough to be at a place each
        assert heads[zones.spots.names[spot]] == zones.of[spot]


OTHERS = {
    "ieee13": lambda: jg.ieee13(),
    "ieee37": lambda: jg.ieee37(),
    "copperplate": lambda: jg.ieee37(grid="copperplate", hours=6),
    "paper": lambda: jg.ieee37(grid="paper", hours=6),
    "european_lv": lambda: jg.european_lv(),
    "synthetic": lambda: jg.synthetic(prosumers=2000, buses=1000, hours=12),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_markets_open_too(name: str, browser: Browser, tmp_path: Path):
    """Three phases, no network, no voltages, hundreds of buses: below 10 MB, and shown soon."""
    market = OTHERS[name]()
    tol = 1e-3 if name == "synthetic" else None
    clearing = jg.clear(market, tol=tol)
    page = jg.report(market, clearing, out=tmp_path / f"{name}.html", baseline=None, title=name)
    assert page.stat().st_size < LARGEST
    for width in WIDTHS:
        browser.open(page, width)
        assert browser.said() == []
        needed = browser.run("return document.documentElement.scrollWidth")
        assert needed <= width
        browser.shot(name)
    print(name, page.stat().st_size, browser.run("return {...document.body.dataset}"))


def test_batches_have_fans(browser: Browser, tmp_path: Path):
    """Quantiles over what cleared, by hour and by household, against the same without trades."""
    market = jg.ieee37(prosumers=6, hours=4)
    markets = jg.scenarios.perturb(market, jax.random.key(0), 12, load=0.1)
    clearings = jg.clear_many(markets)
    page = jg.report(markets, clearings, out=tmp_path / "batch.html", title="batch")
    data = held(page)
    row = next(row for row in data["rows"]["fans"] if row["key"] == "transformer")
    sigma = np.asarray(clearings.aggregate) - np.asarray(clearings.plan.exports).sum(axis=1)
    np.testing.assert_allclose(row["q50"], np.median(sigma, axis=0), rtol=1e-4)
    saved = [each[-1] for each in data["tables"]["bills"]["rows"]]
    alone = jax.vmap(lambda m: baselines(m)["no trading"])(markets)
    costs = [np.asarray(outcome(markets, c).cost) for c in (clearings, jg.clear_many(alone))]
    np.testing.assert_allclose(saved, (costs[1] - costs[0]).mean(axis=0), atol=5.1e-3)
    for width in WIDTHS:
        browser.open(page, width)
        assert browser.said() == [] and browser.run(CONTRAST)[0][0] >= LEAST_CONTRAST
        assert browser.run("return document.documentElement.scrollWidth") <= width
        browser.shot("batch")


def test_names_on_a_map_do_not_overlap():
    """Of 12 places in a row each has room somewhere; where they crowd, those of weight first."""
    row = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    names = ["main grid", *(f"bus {k}" for k in range(1, 12))]
    weights = np.array([ALWAYS, *np.zeros(10), 1.0])
    least = np.array(least_widths(names, row, weights))
    assert np.sum(least <= 320) > 2 and np.all(least <= 740)
    assert least[0] == least[11] == least.min()
    for width in np.unique(least):
        shown = np.flatnonzero(least <= width)
        x = width * (row[shown, 0] + 0.7) / 12.4
        half = 3.3 * np.array([len(names[k]) for k in shown])
        assert np.all(np.diff(x) >= half[1:] + half[:-1])
    stack = np.stack([np.ones(80), np.arange(80) / 10], axis=1)
    many = np.array(least_widths(["a bus"] * 80, stack, np.zeros(80)))
    assert np.all(many > 1e6), "names that matter to nobody, where there are many"


def test_names_have_room_where_it_is_narrow(browser: Browser, page: Path):
    """At 360 px the map names more than the main grid, the picked bus too, and none on another."""
    browser.open(page, 360)
    boxes = (
        "return [...document.querySelectorAll('%s')].map((t) => { const r = "
        "t.getBoundingClientRect(); return [t.textContent, r.left, r.right, r.top, r.bottom, "
        "t.getAttribute('font-weight')]; })"
    )
    names = browser.run(boxes % "#chart-map svg .role-mark text")
    assert sum(name[0].startswith("</script>") for name in names) == 1 and len(names) > 4
    assert [name[0] for name in names if name[5] == "bold"] == [
        browser.run("return data.rows.places[data.pick].label")
    ]
    for k, (_, left, right, top, bottom, _) in enumerate(names):
        for other in names[:k]:
            assert left > other[2] or right < other[1] or top > other[4] or bottom < other[3]
    (limit,) = [t for t in browser.run(boxes % "#chart-volts svg text") if "lower" in t[0]]
    axes = browser.run(boxes % "#chart-volts svg .role-axis-domain line")
    assert limit[4] <= max(line[4] for line in axes)


def test_what_flows_out_is_told_without_a_sign():
    """One prosumer with 5 kW of sun too much."""
    home = jg.Prosumers([0], [[-5.0]], export_max=10.0)
    tariff = jg.Tariff(0.0, hours=1, base=0.3, export=0.1)
    market = jg.Market(home, jg.Grid([[0.0]], model="copperplate"), tariff)
    told = {row[0]: row[1] for row in figures(summary(market, jg.clear(market)), ["0"])}
    assert told["Transformer, highest export"] == "5.0 kW"
