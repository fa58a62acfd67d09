"""A bill to send to each household: one page to print and one CSV, in whole cents."""

import csv
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from io import StringIO
from pathlib import Path
from string import Template

import numpy as np

from ..arguments import of_tables
from ..comparison import REFERENCE, outcome
from ..contracts import Contract
from ..each import refuse_batch
from ..emissions import Allowances
from ..household import household_bills
from ..io.swap import replacing
from ..market import Market, bus_name
from ..names import prosumer_name
from ..result import Clearing
from .baseline import Baseline, Compared, against
from .cents import ROUNDING, Invoice, cents, euros, invoiced
from .facts import period

_INDEX = "bills.csv"
_COLUMNS = ("part", "what", "quantity", "unit", "price_eur_per_unit", "eur")
_OVERVIEW = (
    "prosumer",
    "bus",
    "page",
    "bill_eur",
    "own_devices_eur",
    "without_p2p_eur",
    "saved_eur",
)


@of_tables
def write_bills(
    market: Market,
    clearing: Clearing,
    *,
    contracts: Contract | Sequence[Contract] | None = None,
    baseline: Baseline = REFERENCE,
    allowances: Allowances | None = None,
    out: str | Path = "bills",
) -> list[Path]:
    """Write a page (HTML) and a CSV for each household into the folder `out`; the pages.

    Lines are those of `household_bill`: energy bought and sold, from and to whom and at what price,
    network fees, taxes, credits; with the `contracts` of `with_contracts` net, with fixed fees and
    VAT, and with `allowances` (`jaxgne.emissions`) those that were handed out. Below stands what
    the household would pay without trades, or at another `baseline` (as for `report`). `bills.csv`
    has a line for each household. Each line is rounded to cents, a line of its own says what that
    leaves of the total, which is that of `household_bill` to the cent.

    The folder appears whole, in the place of bills that were there, or not at all. Raises
    `ValueError` for a folder that holds anything else, for a batch, a clearing without prices, and
    contracts of another market.
    """
    refuse_batch("write_bills", market=market, plan=clearing.plan)
    target = Path(out).resolve()
    _check_replaceable(target)
    accounts = household_bills(market, clearing, contracts, allowances)
    found = [invoiced(account) for account in accounts]
    other = against("write_bills", market, clearing, baseline)
    one = outcome(market, clearing)
    devices = np.asarray(one.cost, float) - np.asarray(one.bill, float)
    alone = None
    if other.pair is not None:
        fixed = [account.total for account in accounts] - np.asarray(one.bill, float)
        alone = np.asarray(outcome(*other.pair).cost, float) + fixed  # fees that move no decision
    when, names, overview = period(market), [], []
    digits = len(str(max(len(found) - 1, 0)))
    with replacing(target, _ours) as folder:
        for row, invoice in enumerate(found):
            name = prosumer_name(market.prosumers.names, row)
            place = bus_name(market.grid, int(market.prosumers.bus[row]))
            own, without = cents(devices[row]), None if alone is None else cents(alone[row])
            compared = _compared(invoice, own, without, other)
            path = folder / f"{row:0{digits}d}{_slug(market, row)}.html"
            _write(path, _page(name, place, when, invoice, compared, other.missing))
            _write(path.with_suffix(".csv"), _table(_COLUMNS, _lines(invoice, compared)))
            names.append(path.name)
            saved = None if without is None else without - invoice.total - own
            amounts = [_plain(amount) for amount in (invoice.total, own, without, saved)]
            overview.append([_safe(name), _safe(place), path.name, *amounts])
        _write(folder / _INDEX, _table(_OVERVIEW, overview))
    return [target / name for name in names]


def _ours(folder: Path) -> bool:
    """Whether a folder holds bills, perhaps not all of them, and nothing else."""
    return all(entry.suffix in (".html", ".csv") for entry in folder.iterdir())


def _check_replaceable(target: Path) -> None:
    """Raise `ValueError` where bills would take the place of anything but bills."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target.is_dir() and (target / _INDEX).is_file() and _ours(target)):
        raise ValueError(
            f"write_bills: {target} holds something else than bills; give a folder of its own."
        )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def _slug(market: Market, row: int) -> str:
    """What of a name any file system takes."""
    names = market.prosumers.names
    word = re.sub(r"[^A-Za-z0-9]+", "-", names[row]).strip("-").lower()[:40] if names else ""
    return f"-{word}" if word else ""


def _lines(invoice: Invoice, compared: list[tuple[str, int]]) -> Iterator[list[str]]:
    """Rows of the CSV of one household."""
    for line, amount in invoice.lines:
        price = "" if line.price is None else f"{line.price:.6g}"
        quantity = "" if line.quantity is None else f"{line.quantity:.4f}"
        yield ["bill", _safe(line.what), quantity, line.unit, price, _plain(amount)]
    if invoice.rounding:
        yield ["bill", ROUNDING, "", "", "", _plain(invoice.rounding)]
    yield ["total", "bill", "", "", "", _plain(invoice.total)]
    for what, amount in compared:
        yield ["comparison", what, "", "", "", _plain(amount)]


def _compared(
    invoice: Invoice, own: int, without: int | None, other: Compared
) -> list[tuple[str, int]]:
    """What own devices cost beside the bill, and all that without trades; sums add up."""
    found = [("this bill", invoice.total), ("cost of own devices", own)]
    found.append(("together", invoice.total + own))
    if without is not None:
        found.append((f"together {other.called}", without))
        found.append((other.saved, without - invoice.total - own))
    return found


def _table(heads: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    held = StringIO(newline="")
    writer = csv.writer(held)
    writer.writerow(heads)
    writer.writerows(rows)
    return held.getvalue()


def _plain(amount: int | None) -> str:
    return "" if amount is None else euros(amount).replace(",", "")


def _safe(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if re.match(r"[=+\-@\t\r]", text) else text


def _page(
    name: str,
    bus: str,
    when: str,
    invoice: Invoice,
    compared: list[tuple[str, int]],
    missing: str,
) -> str:
    """The HTML of a bill; `missing` says why nothing is compared."""
    rows = []
    for line, amount in invoice.lines:
        quantity = "" if line.quantity is None else f"{line.quantity:,.3f}"
        price = "" if line.price is None else f"{line.price:,.5f}"
        rows.append(_row((line.what, quantity, line.unit, price, euros(amount))))
    if invoice.rounding:
        rows.append(_row((ROUNDING, "", "", "", euros(invoice.rounding))))
    rows.append(_row(("total", "", "", "", euros(invoice.total)), "total"))
    return Template(files("jaxgne.html").joinpath("bill.html").read_text("utf-8")).substitute(
        name=escape(name),
        bus=f"bus {escape(bus)}",
        period=escape(when),
        total=euros(invoice.total),
        credit=" (a credit)" if invoice.total < 0 else "",
        lines="".join(rows),
        comparison=_comparison(compared) + (f"<p>{escape(missing)}</p>" if missing else ""),
    )


def _row(cells: Sequence[str], kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _comparison(rows: list[tuple[str, int]]) -> str:
    body = "".join(_row((what, euros(amount))) for what, amount in rows)
    head = '<thead><tr><th scope="col">For</th><th scope="col">EUR</th></tr></thead>'
    return f"<h2>With own devices, and compared</h2><table>{head}<tbody>{body}</tbody></table>"
