"""The bill of one household line by line, quantity times price; and what the network earns by it.

All lines together are what `settle` says the household pays, and what its contract has besides:
fees by day and by kW, which move no decision, with VAT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from .arguments import of_tables
from .contracts import Contract, whose
from .each import refuse_batch
from .emissions import Allowances, emissions_of
from .market import Market
from .model import (
    Plan,
    at_prosumers,
    counted,
    grid_price,
    net_load,
    offers,
    sides,
    zone_bases,
    zone_totals,
)
from .names import row_of, rows_of
from .result import Clearing
from .runner import hosted
from .settlement import Bills, bills, priced, reactive_drawn, settled_prices

_FEW = 4  # prices that have a line each; more are one line at their mean
_HIDDEN = 5e-5  # EUR, below which a line is not printed
_AMONG = "trades among households"
_ALIKE = 1e-6  # EUR/kWh, by which prices of one line may differ: what float32 makes of one
_FITS = 1e-5  # EUR/kWh, by which the market's price may differ from that of a contract


class Line(NamedTuple):
    """One line: `eur` is `quantity` times `price`, where it is a product of two."""

    what: str
    quantity: float | None
    unit: str
    price: float | None
    eur: float


@dataclass(frozen=True)
class Account:
    """Lines of a bill, or of an income; prints as a table."""

    title: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> float:
        """The sum of all lines, EUR."""
        return float(sum(line.eur for line in self.lines))

    def __str__(self) -> str:
        rows = [self.title, f"{'':<40}{'quantity':>12}{'':6}{'price, EUR':>12}{'EUR':>10}"]
        for line in self.lines:
            if abs(line.eur) < _HIDDEN:  # what solvers leave of a price that is 0
                continue
            amount, price = (
                "" if value is None else f"{value:.{digits}f}"
                for value, digits in ((line.quantity, 3), (line.price, 5))
            )
            rows.append(f"{line.what:<40}{amount:>12} {line.unit:<5}{price:>12}{line.eur:>10.2f}")
        return "\n".join([*rows, f"{'total':<40}{'':>12} {'':<5}{'':>12}{self.total:>10.2f}"])

    def frame(self) -> Any:
        """The lines as a pandas table. `ImportError` without pandas."""
        import pandas

        return pandas.DataFrame([line._asdict() for line in self.lines])


@of_tables
def household_bill(
    market: Market,
    clearing: Clearing,
    prosumer: int | str,
    contract: Contract | Sequence[Contract] | None = None,
    allowances: Allowances | None = None,
) -> Account:
    """What one `prosumer`, by number or name, pays, EUR: a line for each quantity and its price.

    Without a `contract` prices are those of the game, gross. With the contracts of `with_contracts`
    they are net, energy, network and taxes each in its own line, then fixed fees and VAT. A price
    that changes in few hours has a line each, one that changes often one line at its mean. What
    neighbors pay each other, feed-in, and the operator's prices of limits bear no VAT.

    One contract is that of the prosumer, and of those that it trades with; of a list each has its
    own, and the half of a trade's fee and taxes that each pays is told by both. What `allowances`
    (`jaxgne.emissions`) were handed out to it is taken off what it pays for carbon.

    Raises `ValueError` for a prosumer that there is not, for a contract that is another's or whose
    prices are not those of the market, and for a clearing without prices.
    """
    refuse_batch("household_bill", market=market, plan=clearing.plan)
    priced("household_bill", clearing)
    count, names = len(market.prosumers.bus), market.prosumers.names
    row = row_of("household_bill", "prosumer", prosumer, names, count)
    facts = _facts(market, clearing, _each(market, contract, row))
    lines = _lines(market, clearing, row, facts) + _handed_out(allowances, row)
    return _account(names, row, lines)


@of_tables
def household_bills(
    market: Market,
    clearing: Clearing,
    contracts: Contract | Sequence[Contract] | None = None,
    allowances: Allowances | None = None,
) -> list[Account]:
    """`household_bill` of each prosumer, with the `contracts` of all of them, or without any.

    And with `allowances` likewise.
    """
    refuse_batch("household_bills", market=market, plan=clearing.plan)
    priced("household_bills", clearing)
    names, everyone = market.prosumers.names, None
    if contracts is not None:
        listed = [contracts] if isinstance(contracts, Contract) else list(contracts)
        everyone = [listed[k] for k in whose(market, listed)]
    facts = _facts(market, clearing, everyone)
    return [
        _account(names, row, _lines(market, clearing, row, facts) + _handed_out(allowances, row))
        for row in range(len(market.prosumers.bus))
    ]


def _account(names: tuple[str, ...], row: int, lines: list[Line]) -> Account:
    called = f" ({names[row]})" if names else ""
    return Account(f"Bill of prosumer {row}{called}", tuple(lines))


def _each(
    market: Market, contract: Contract | Sequence[Contract] | None, row: int
) -> list[Contract] | None:
    """The contract of each prosumer; one that is given alone is that of all, if it is the row's."""
    if contract is None:
        return None
    count, names = len(market.prosumers.bus), market.prosumers.names
    if not isinstance(contract, Contract):
        listed = list(contract)
        return [listed[k] for k in whose(market, listed)]
    theirs = contract.prosumers
    if theirs is not None and row not in rows_of(
        "household_bill", "prosumer", theirs, names, count
    ):
        raise ValueError(
            f"household_bill: contract {contract.name!r} is not that of prosumer {row}; give its "
            "own, or all contracts as a list."
        )
    return [contract] * count


def _check_fits(market: Market, row: int, own: Contract) -> None:
    """Refuse a contract whose price of a kWh is not what the market asks its owner for."""
    if own.energy is None:
        return
    adder = np.asarray(market.prosumers.import_adder, float)[row]
    base = np.asarray(zone_bases(market), float)
    asked = base[int(market.prosumers.zone[row]) if len(base) > 1 else 0] + adder
    net = own.price("energy", market) + own.price("network", market) + own.taxes
    off = np.abs(asked - (1 + own.vat) * net)
    if np.any(off > _FITS * np.maximum(1.0, np.abs(asked))):
        step = int(np.argmax(off))
        raise ValueError(
            f"household_bill: contract {own.name!r} asks {(1 + own.vat) * net[step]:.6g} EUR/kWh "
            f"in step {step}, the market {asked[step]:.6g}; clear the market that with_contracts "
            "makes of it."
        )


class _Facts(NamedTuple):
    """What bills of all prosumers of a market are read from, computed once, on the host."""

    everyone: list[Contract] | None  # the contract of each
    paid: Bills
    hours: Float[np.ndarray, " H"]  # that a kW of each step counts
    price: Float[np.ndarray, "#N H"]  # of the main grid, EUR/kWh
    offered: Float[np.ndarray, "#N H"]  # by it, for what is sold, EUR/kWh
    traded: Float[np.ndarray, "E H"]  # at what pairs trade, EUR/kWh
    sides: Float[np.ndarray, "2 E"]  # how much of the tolls buyer and seller pay
    drawn: Float[np.ndarray, "N H"]  # kW
    reactive: Float[np.ndarray, "N H"]  # kvar
    emitted: Float[np.ndarray, " N"]  # kg, where one cap counts them
    trade_taxes: Float[np.ndarray, " E"]  # gross, of each side, EUR/kWh


def _facts(market: Market, clearing: Clearing, everyone: list[Contract] | None) -> _Facts:
    plan, prices, pairs = clearing.plan, clearing.prices, market.trading
    gross = np.zeros(len(market.prosumers.bus))
    if everyone is not None:
        gross = np.array([(1 + one.vat) * one.taxes_on_trades for one in everyone])
    return _Facts(
        everyone,
        hosted(bills)(market, plan, prices),
        np.asarray(counted(market), float),
        np.asarray(hosted(_asked)(market, plan)),
        np.asarray(hosted(offers)(market)),
        np.asarray(hosted(settled_prices)(market, prices)),
        np.asarray(hosted(sides)(market)),
        np.asarray(hosted(net_load)(market, plan)),
        np.asarray(hosted(reactive_drawn)(market, plan)),
        _emitted(market, clearing),
        (gross[np.asarray(pairs.buyer)] + gross[np.asarray(pairs.seller)]) / 4,
    )


def _asked(market: Market, plan: Plan) -> Any:
    """What the main grid asks everyone, EUR/kWh."""
    return at_prosumers(market, grid_price(market, zone_totals(market, plan)))


def _emitted(market: Market, clearing: Clearing) -> Float[np.ndarray, " N"]:
    if np.sum(np.asarray(market.caps.carbon)) != 1:
        return np.zeros(len(market.prosumers.bus))
    return np.asarray(emissions_of(market, clearing).prosumers, float).sum(axis=1)


def _handed_out(allowances: Allowances | None, row: int) -> list[Line]:
    """Carbon that a household may emit for nothing, at the price of an allowance."""
    if allowances is None:
        return []
    kg, price = -float(allowances.given[row]), float(allowances.price)
    return [Line("allowances handed out", kg, "kg", price, kg * price)]


def _lines(market: Market, clearing: Clearing, row: int, facts: _Facts) -> list[Line]:
    own = None if facts.everyone is None else facts.everyone[row]
    if own is not None:
        _check_fits(market, row, own)
    plan, ts = clearing.plan, facts.hours
    main, offered = (each[row % len(each)] for each in (facts.price, facts.offered))
    vat = 0.0 if own is None else own.vat
    bought, sold = (ts * np.asarray(getattr(plan, way))[row] for way in ("imports", "exports"))
    adder, more = (
        np.broadcast_to(np.asarray(getattr(market.prosumers, f"{way}_adder"))[row], ts.shape)
        for way in ("import", "export")
    )
    if own is None:
        parts = {"energy from the main grid": main, "added by the own contract": adder}
    else:
        network, taxes = own.price("network", market), np.full(ts.shape, own.taxes)
        rest = (main + adder) / (1 + vat) - network - taxes
        parts = {"energy from the main grid": rest, "network fee": network, "taxes": taxes}
    taxed = [line for what, price in parts.items() for line in _by_price(what, bought, price)]
    mine = _pairs(market, row)
    toll = np.abs(np.asarray(plan.trades)[mine])
    part = np.where(np.asarray(market.trading.buyer)[mine] == row, *facts.sides[:, mine])
    each = part[:, None] * np.asarray(market.trading.toll)[mine] + 0 * toll
    if own is None:
        taxed += _mean("tolls on trades", ts * toll, each)
    else:  # each side pays half of the mean of both contracts
        tax = facts.trade_taxes[mine, None] / (1 + vat) + 0 * toll
        taxed += _mean("network fee on trades", ts * toll, each / (1 + vat) - tax)
        taxed += _mean("taxes on trades", ts * toll, tax)
    taxed += _charges(market, clearing, row, own)
    days = float(ts.sum()) / 24
    if own is not None:
        size = own.connection * days
        taxed += [Line("fixed fee", days, "d", own.fixed, own.fixed * days)] * (own.fixed > 0)
        fee = own.capacity * size
        taxed += [Line("capacity fee", size, "kW d", own.capacity, fee)] * (own.capacity > 0)
    free = _by_price("sold to the main grid", -sold, offered + more)
    free += _neighbors(market, clearing, row, mine, facts)
    free += _limits(clearing, row, facts)
    net = sum(line.eur for line in taxed)
    tax = [Line(f"VAT of {100 * vat:g} %", net, "EUR", vat, vat * net)] if vat else []
    return [*taxed, *tax, *free]


def _by_price(
    what: str, energy: Float[np.ndarray, " H"], price: Float[np.ndarray, " H"]
) -> list[Line]:
    """A line for each price, or one at their mean where they are many."""
    used = energy != 0
    if not np.any(used) or not np.any(price[used]):
        return []
    kinds = np.round(price / _ALIKE)
    different = np.unique(kinds[used])
    if len(different) > _FEW:
        return _mean(what, energy, price)
    return [
        line
        for kind in different.tolist()
        for line in _mean(what, energy[used & (kinds == kind)], price[used & (kinds == kind)])
    ]


def _mean(what: str, energy: Any, price: Any) -> list[Line]:
    """One line, at the mean price; none where there is nothing to pay."""
    quantity, eur = float(np.sum(energy)), float(np.sum(energy * price))
    if eur == 0:
        return []
    if quantity == 0:
        return [Line(what, None, "", None, eur)]
    return [Line(what, quantity, "kWh", eur / quantity, eur)]


def _pairs(market: Market, row: int) -> np.ndarray:
    """The pairs of a prosumer."""
    buyer, seller = np.asarray(market.trading.buyer), np.asarray(market.trading.seller)
    return np.flatnonzero((buyer == row) | (seller == row))


def _neighbors(
    market: Market, clearing: Clearing, row: int, mine: np.ndarray, facts: _Facts
) -> list[Line]:
    """What is bought of each neighbor, and sold to it, at its mean price."""
    names, price = market.prosumers.names, facts.traded[mine]
    ends = np.stack(
        [np.asarray(market.trading.buyer)[mine], np.asarray(market.trading.seller)[mine]]
    )
    sign = np.where(ends[0] == row, 1.0, -1.0)
    power = facts.hours * sign[:, None] * np.asarray(clearing.plan.trades)[mine]
    found = []
    for k, other in enumerate(np.where(ends[0] == row, ends[1], ends[0]).tolist()):
        called = names[other] if names else other
        found += _mean(f"bought from neighbor {called}", np.maximum(power[k], 0.0), price[k])
        found += _mean(f"sold to neighbor {called}", np.minimum(power[k], 0.0), price[k])
    return found


def _charges(market: Market, clearing: Clearing, row: int, own: Contract | None) -> list[Line]:
    """Rises of caps that the prosumer owns, as of a demand charge: kW times EUR per kW."""
    caps, rise = market.caps, clearing.plan.rise
    if rise is None:
        return []
    found, vat = [], 0.0 if own is None else own.vat
    for m in np.flatnonzero(np.asarray(caps.owner) == row).tolist():
        quantity = float(np.sum(np.asarray(market.weight) * np.asarray(rise)[m]))
        price = float(caps.price[m]) / (1 + vat)
        if price * quantity:
            name, unit = caps.names[m].partition(" of prosumer ")[0], caps.units[m]
            found.append(Line(name, quantity, unit, price, quantity * price))
    return found


def _limits(clearing: Clearing, row: int, facts: _Facts) -> list[Line]:
    """What limits that all share cost, at their mean prices."""
    plan, paid = clearing.plan, facts.paid
    drawn = facts.hours * facts.drawn[row]
    contract = facts.hours * np.asarray(plan.imports - plan.exports)[row]
    found: list[Line] = []
    reactive = facts.hours * facts.reactive[row]
    for what, energy, unit, eur in (
        ("limit on the total", contract, "kWh", paid.capacity),
        ("lines and voltages", drawn, "kWh", paid.congestion),
        ("reactive power", reactive, "kvarh", paid.reactive),
        ("caps", 0 * drawn, "", paid.caps),
        ("carbon", facts.emitted[row], "kg", paid.carbon),
    ):
        due, quantity = float(np.sum(np.asarray(eur)[row])), float(np.sum(energy))
        if due and quantity:
            found.append(Line(what, quantity, unit, due / quantity, due))
        elif due:
            found.append(Line(what, None, "", None, due))
    return found


@of_tables
def income(market: Market, clearing: Clearing, contracts: Contract | Sequence[Contract]) -> Account:
    """What all households pay by `contracts`, and for what, EUR: energy, network, and taxes.

    The network's fees, on what comes from the main grid and on trades, stand beside what it
    receives for scarce limits; these are the operator's `receipts` of `settle` less the tolls.
    Passive consumers, who have no contract, are not among them.
    """
    refuse_batch("income", market=market, plan=clearing.plan)
    priced("income", clearing)
    listed = [contracts] if isinstance(contracts, Contract) else list(contracts)
    everyone, sums = [listed[k] for k in whose(market, listed)], {}
    facts = _facts(market, clearing, everyone)
    for row in range(len(everyone)):
        for line in _lines(market, clearing, row, facts):
            kind = _AMONG if "neighbor" in line.what else line.what
            quantity, eur = sums.get(kind, (0.0, 0.0))
            sums[kind] = quantity + (line.quantity or 0.0), eur + line.eur
    lines = [
        Line(kind, quantity, "", eur / quantity if quantity else None, eur)
        for kind, (quantity, eur) in sums.items()
        if kind != _AMONG  # what one pays the other gets
    ]
    return Account("All households", tuple(lines))
