"""Bills to send: whole cents that sum to the settlement, on pages and in CSV."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli
from jaxgne.comparison import outcome
from jaxgne.household import Account, Line, household_bills
from jaxgne.html.cents import cents, euros, invoiced
from tests.browser import CONTRAST, opened

EVIL = "</td><script>alert(1)</script>"
CONTRACT = jg.Contract(energy=0.15, network=0.09, taxes=0.04, vat=0.19, trade_near=0.03,
                       trade_taxes=0.02, feed_in=0.06, fixed=0.35)  # fmt: skip


@pytest.fixture(scope="module")
def day() -> tuple[jg.Market, jg.Clearing]:
    """Eight households on a feeder whose limits bind, one called like an attack."""
    market = jg.ieee37(prosumers=8, hours=6, stress=True)
    names = (EVIL, "=1+1", "Miller & Co.", "Bakery", "Mill", "Ärzte", "Post", "School")
    market = eqx.tree_at(lambda m: m.prosumers, market, replace(market.prosumers, names=names))
    return market, jg.clear(market)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@given(st.lists(st.floats(-500.0, 500.0), max_size=12))
def test_lines_and_rounding_sum_to_the_total(amounts: list[float]):
    """In whole cents, for any lines; each is off by half a cent at most, and so is the total."""
    account = Account("", tuple(Line("x", None, "", None, eur) for eur in amounts))
    found = invoiced(account)
    assert sum(amount for _, amount in found.lines) + found.rounding == found.total
    assert abs(found.total - 100 * account.total) <= 0.5 + 1e-6
    assert all(abs(amount - 100 * line.eur) <= 0.5 + 1e-6 for line, amount in found.lines)
    assert [cents(-line.eur) for line, _ in found.lines] == [-amount for _, amount in found.lines]


def test_cents_read_as_euros():
    assert [euros(n) for n in (0, 5, -5, -123, 1234567)] == [
        "0.00", "0.05", "-0.05", "-1.23", "12,345.67"
    ]  # fmt: skip


def test_bills_agree_with_the_settlement_to_the_cent(
    day: tuple[jg.Market, jg.Clearing], tmp_path: Path
):
    """Each total is the settlement's, its lines sum to it, and what one pays the other receives."""
    market, clearing = day
    pages = jg.write_bills(market, clearing, out=tmp_path)
    paid = np.asarray(jg.settle(market, clearing).prosumers).sum(axis=1)
    traded: dict[tuple[str, str], float] = {}
    for row, page in enumerate(pages):
        lines = table(page.with_suffix(".csv"))
        amounts = [round(100 * float(line["eur"])) for line in lines if line["part"] == "bill"]
        total = next(line for line in lines if line["part"] == "total")
        assert sum(amounts) == round(100 * float(total["eur"])) == round(100 * paid[row])
        shown = re.findall(r"<td>(-?[\d,]+\.\d\d)</td></tr>", page.read_text("utf-8"))
        assert [float(text.replace(",", "")) for text in shown[: len(amounts)]] == [
            amount / 100 for amount in amounts
        ]
        for line in lines:
            way = re.fullmatch(r"(bought from|sold to) neighbor (.*)", line["what"])
            if way:
                product = float(line["quantity"]) * float(line["price_eur_per_unit"])
                assert product == pytest.approx(float(line["eur"]), abs=0.006)
                own = market.prosumers.names[row]
                ends = (own, way[2]) if way[1] == "bought from" else (way[2], own)
                traded[ends] = traded.get(ends, 0.0) + float(line["eur"])
    assert traded and all(abs(rest) < 1e-9 for rest in traded.values())
    overview = table(tmp_path / "bills.csv")
    assert [float(row["bill_eur"]) for row in overview] == np.round(paid, 2).tolist()


def test_saved_is_what_no_trading_would_cost_more(
    day: tuple[jg.Market, jg.Clearing], tmp_path: Path
):
    """Bill and own devices, there and here, add up in cents."""
    market, clearing = day
    jg.write_bills(market, clearing, out=tmp_path)
    alone = jg.clear(jg.comparison.baselines(market)["no trading"])
    wanted = np.asarray(outcome(market, alone).cost) - np.asarray(outcome(market, clearing).cost)
    for row, each in enumerate(table(tmp_path / "bills.csv")):
        parts = ("without_p2p_eur", "bill_eur", "own_devices_eur", "saved_eur")
        without, bill, own, saved = (round(100 * float(each[name])) for name in parts)
        assert saved == without - bill - own
        assert saved == pytest.approx(100 * wanted[row], abs=1.6)


def test_contracts_add_fees_taxes_and_vat(tmp_path: Path):
    """Lines are those of `household_bill` for each; a fixed fee and VAT are among them."""
    market = jg.with_contracts(jg.ieee37(prosumers=4, hours=6), CONTRACT)
    clearing = jg.clear(market)
    pages = jg.write_bills(market, clearing, contracts=CONTRACT, baseline=None, out=tmp_path)
    told: set[str] = set()
    for row, page in enumerate(pages):
        account = jg.household_bill(market, clearing, row, CONTRACT)
        lines = table(page.with_suffix(".csv"))
        total = next(line for line in lines if line["part"] == "total")
        assert round(100 * float(total["eur"])) == round(100 * account.total)
        told |= {line["what"] for line in lines}
        assert not any("P2P" in line["what"] for line in lines)
    fees = {"fixed fee", "VAT of 19 %", "network fee", "taxes", "energy from the main grid"}
    assert fees <= told


def test_a_clearing_of_another_market_is_refused(
    day: tuple[jg.Market, jg.Clearing], tmp_path: Path
):
    other = jg.ieee37(prosumers=2, hours=6)
    for bill in (
        lambda: jg.household_bill(other, day[1], 0),
        lambda: jg.write_bills(other, day[1], out=tmp_path / "bills"),
    ):
        with pytest.raises(ValueError, match="give the market that this clearing is of"):
            bill()


def test_all_bills_are_each_bill(day: tuple[jg.Market, jg.Clearing]):
    for row, account in enumerate(household_bills(*day)):
        assert account == jg.household_bill(*day, row)


def test_pages_open_in_a_browser(day: tuple[jg.Market, jg.Clearing], tmp_path: Path):
    """Names are shown as they are, nothing is asked for, text is readable at both widths."""
    pages = jg.write_bills(*day, out=tmp_path / "bills")
    assert pages[1].name == "1-1-1.html" and pages[2].name == "2-miller-co.html"
    with opened() as browser:
        for width in (360, 1440):
            browser.resize(width)
            browser.requested()
            browser.chrome.get(pages[0].as_uri())
            assert browser.said() == [] and browser.requested() == [pages[0].as_uri()]
            assert (
                browser.run("return document.querySelector('h1').textContent") == f"Bill of {EVIL}"
            )
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(CONTRAST)[0][0] >= 4.5
            browser.shot("bill")


def test_bills_take_the_place_of_bills_only(day: tuple[jg.Market, jg.Clearing], tmp_path: Path):
    """Those of an earlier market are gone; a folder of anything else stays as it is."""
    jg.write_bills(*day, baseline=None, out=tmp_path / "bills")
    few = jg.ieee37(prosumers=2, hours=2)
    jg.write_bills(few, jg.clear(few), baseline=None, out=tmp_path / "bills")
    names = ["0.csv", "0.html", "1.csv", "1.html", "bills.csv"]
    assert sorted(path.name for path in (tmp_path / "bills").iterdir()) == names
    (tmp_path / "bills" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else than bills; give a folder"):
        jg.write_bills(*day, baseline=None, out=tmp_path / "bills")
    assert len([*(tmp_path / "bills").iterdir()]) == 6


def test_command_writes_all(day: tuple[jg.Market, jg.Clearing], tmp_path: Path):
    jg.save(tmp_path / "day", *day)
    words = ["bills", str(tmp_path / "day"), "--out", str(tmp_path / "bills"), "--no-baseline"]
    told = CliRunner().invoke(cli.app, words)
    assert told.exit_code == 0, told.output
    assert "8 bills and bills.csv written to" in told.output
    assert len([*(tmp_path / "bills").glob("*.html")]) == 8
    assert len([*(tmp_path / "bills").glob("*.csv")]) == 9
