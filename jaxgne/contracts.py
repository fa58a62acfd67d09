"""Retail contracts: what a household pays its supplier, the network and the state, in a market.

    market = jg.with_contracts(market, Contract(energy=0.16, network=0.09, taxes=0.04, vat=0.19))

A `Contract` is plain numbers, net of VAT, as they stand on a bill, also read from a file
(`read_contracts`, docs/tariffs.md). `with_contracts` puts what depends on energy and power into the
market, where all prices are gross: `Tariff.base` and `export`, what each prosumer's own contract
adds to them, the tolls of trades and demand charges. What is fixed moves no decision, and is on the
bill alone (`jaxgne.household`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .caps import capped, demand_charge
from .clock import Clock
from .devices.windows import windows
from .each import for_one
from .market import Grid, Market
from .names import row_of
from .record import changed
from .runner import to_device
from .succession import leaves, way_to
from .tables import refuse_zones

Price = float | Sequence[Any]  # one number, one a step, or windows of the day

_WINDOW = {"from", "to", "price"}
_AMOUNTS = ("taxes", "trade_taxes", "fixed", "capacity", "connection", "demand", "free")
_PRICES = ("energy", "network", "trade_near", "trade_feeder", "trade_across", "feed_in")
_TRADES = ("trade_near", "trade_feeder", "trade_across")


@dataclass(frozen=True, kw_only=True, eq=False)
class Contract:
    """What one household, or many alike, pays: net of VAT, in EUR/kWh where nothing else is said.

    `energy` is the supplier's price for what comes from the main grid, by default that of the
    market; `network` and `taxes` come on top. `trade_near`, `trade_feeder` and `trade_across` are
    the network's fee for a kWh bought of or sold to somebody below the same transformer, on the
    same feeder, or beyond, by default `network`; `trade_taxes` are the taxes on it, by default
    `taxes`. `feed_in` is paid for what is sold to the main grid, without VAT. `fixed` is EUR a day,
    `capacity` EUR a day and kW of the `connection` (kW), `demand` EUR per kW of the highest import
    of the whole horizon, as far as that is above `free` kW. `vat` is a share.

    A price may be one number, a list of one a step, or a list of windows of the day by the market's
    clock: `{"from": "22:00", "to": "06:00", "price": 0.2}`, the first that fits counts, and one
    without `from` and `to` is for the rest. `prosumers` says whose contract it is, by number or
    name; None is everybody else's. Raises `ValueError` for what is no price.
    """

    energy: Price | None = None
    network: Price = 0.0
    taxes: float = 0.0
    trade_near: Price | None = None
    trade_feeder: Price | None = None
    trade_across: Price | None = None
    trade_taxes: float | None = None
    feed_in: Price | None = None
    fixed: float = 0.0
    capacity: float = 0.0
    connection: float = 0.0
    demand: float = 0.0
    free: float = 0.0
    vat: float = 0.0
    prosumers: tuple[int | str, ...] | None = None
    name: str = "contract"

    def __post_init__(self):
        for one in _AMOUNTS:
            value = getattr(self, one)
            if value is not None and not (_is_number(value) and 0 <= value < np.inf):
                raise ValueError(f"Contract.{one}: {value!r}; give a number of at least 0.")
        if not (_is_number(self.vat) and 0 <= self.vat < 1):
            raise ValueError(f"Contract.vat: {self.vat!r}; give a share, 0.19 for 19 %.")
        if self.capacity > 0 and not self.connection > 0:
            raise ValueError(
                f"Contract.connection: {self.connection!r}; capacity is a price per kW of it, give "
                "its kW."
            )
        if self.prosumers is not None:
            if isinstance(self.prosumers, str) or not np.iterable(self.prosumers):
                raise ValueError(
                    f"Contract.prosumers: {self.prosumers!r}; give a list of numbers or names."
                )
            object.__setattr__(self, "prosumers", tuple(self.prosumers))
        for one in _PRICES:
            _check_price(one, getattr(self, one))

    def price(self, field: str, market: Market) -> Float[np.ndarray, " H"]:
        """A price of this contract in each step of a market, EUR/kWh, net.

        Raises `ValueError` where a list is of other steps, or windows leave one without a price.
        """
        given: Any = getattr(self, field)
        given = self.network if given is None and field in _TRADES else given
        steps = market.prosumers.load.shape[-1]
        if _is_number(given):
            return np.full(steps, float(given))
        if _is_number(given[0]):
            if len(given) != steps:
                raise ValueError(
                    f"Contract.{field}: {len(given)} prices for {steps} steps; give one number, "
                    "one a step, or windows of the day."
                )
            return np.asarray(given, float)
        return _by_windows(field, given, market)

    def on_trades(self, field: str, market: Market) -> Float[np.ndarray, " H"]:
        """What a traded kWh bears in all by this contract, fee and taxes with VAT, EUR/kWh.

        `ValueError` where that is negative: a trade to and fro would then pay both.
        """
        net = self.price(field, market) + self.taxes_on_trades
        if np.any(net < 0):
            step = int(np.argmax(net < 0))
            raise ValueError(
                f"Contract.{field}: with taxes {net[step]:g} EUR/kWh in step {step}; a traded kWh "
                "may not be paid for being traded, give 0 or more."
            )
        return (1 + self.vat) * net

    @property
    def taxes_on_trades(self) -> float:
        """EUR/kWh, net: `trade_taxes`, or `taxes` where these are not given."""
        return self.taxes if self.trade_taxes is None else self.trade_taxes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _check_price(field: str, given: Any) -> None:
    """Refuse what is neither a number, a list of numbers, nor windows of the day."""
    if given is None or (_is_number(given) and np.isfinite(given)):
        return
    listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
    if listed and len(given):
        if all(_is_number(one) and np.isfinite(one) for one in given):
            return
        if all(isinstance(one, Mapping) for one in given):
            every: Any = given
            for one in every:
                strange = sorted(set(one) - _WINDOW)
                priced = _is_number(one.get("price")) and np.isfinite(one["price"])
                if strange or not priced or ("from" in one) != ("to" in one):
                    raise ValueError(
                        f"Contract.{field}: window {dict(one)!r}; give price, and from and to or "
                        'neither, as {from = "22:00", to = "06:00", price = 0.2}.'
                    )
            return
    raise ValueError(
        f"Contract.{field}: {given!r:.60}; give EUR/kWh, a list of one a step, or a list of "
        "windows of the day."
    )


def _by_windows(field: str, given: Sequence[Any], market: Market) -> Float[np.ndarray, " H"]:
    """The price of the first window that each step is in, by the time on its way there."""
    steps = market.prosumers.load.shape[-1]
    length = np.broadcast_to(np.asarray(market.hour_length, float), steps)
    found = np.full(steps, np.nan)
    for leaf in np.flatnonzero(leaves(market.before, steps)).tolist():
        way = np.array(way_to(market.before, steps, leaf))
        found[way] = _along(field, given, length[way], market.clock)
    if np.any(np.isnan(found)):
        raise ValueError(
            f"Contract.{field}: no window has a price for step {int(np.argmax(np.isnan(found)))}; "
            "add one without from and to, for the rest of the day."
        )
    return found


def _along(
    field: str, given: Sequence[Any], length: Float[np.ndarray, " H"], clock: Clock | None
) -> Float[np.ndarray, " H"]:
    """The same for steps that follow one another, from midnight where there is no clock."""
    steps, clock = len(length), clock or Clock("2001-01-01", "UTC")
    found = np.full(steps, np.nan)
    for one in given:
        inside = np.ones(steps, bool)
        if "from" in one:
            ends = ("from", one["from"]), ("to", one["to"])
            name = f"Contract.{field}"
            at = windows(name, *ends, rows=1, steps=steps, length=length, clock=clock)
            if at.order[0] == 0:
                raise ValueError(
                    f"{name}: window from {one['from']!r} to {one['to']!r} has no time; leave both "
                    "out for the whole day."
                )
            inside = at.inside(steps)[0]
        found = np.where(np.isnan(found) & inside, one["price"], found)
    return found


@for_one()
def with_contracts(
    market: Market,
    contracts: Contract | Sequence[Contract],
    *,
    transformers: Iterable[int | str] = (),
) -> Market:
    """The market at the prices of `contracts`: one for all, one a prosumer, or each with its own.

    `Tariff.base` and `Tariff.export` become those of the first contract, gross, and the adders of
    each prosumer make of them what its own asks and pays; `Tariff.slope` stays. Both sides of a
    trade pay half of what a traded kWh bears, the mean of their two contracts, as `Trading.toll`.
    A demand charge becomes a cap of its payer's own. `transformers` are lines, by number or name,
    behind which neighbors are near; without any all are near that one feeder bus supplies.

    What the market has of these, from contracts before too, is replaced, but for caps: demand
    charges stay, so put contracts into the market that has none.

    Runs on the host. Raises `ValueError` where contracts do not say for each prosumer which is its
    own, for prices that do not fit the steps, and for demand charges of whom has one already.
    """
    listed = [contracts] if isinstance(contracts, Contract) else list(contracts)
    refuse_zones("with_contracts", market)
    own = whose(market, listed)
    base, export = np.asarray(market.tariff.base, float), np.asarray(market.tariff.export, float)
    asked = [_gross(one, market, base) for one in listed]
    first = asked[0][0]
    adders = np.stack([energy - first + fees for energy, fees in asked])[own]
    sold = [export if one.feed_in is None else one.price("feed_in", market) for one in listed]
    fees = np.stack([[one.on_trades(kind, market) for kind in _TRADES] for one in listed])
    pairs, far = market.trading, distance(market, transformers)
    each = [fees[own[np.asarray(side)], far] for side in (pairs.buyer, pairs.seller)]

    def put(values: Any) -> Any:
        return to_device(np.asarray(values, market.prosumers.load.dtype))

    market = changed(
        market,
        prosumers=changed(
            market.prosumers,
            import_adder=put(_narrow(adders)),
            export_adder=put(_narrow(np.stack([one - sold[0] for one in sold])[own])),
        ),
        tariff=changed(market.tariff, base=put(first), export=put(sold[0])),
        trading=changed(pairs, toll=put(_narrow((each[0] + each[1]) / 4))),
    )
    price, free = (np.array([getattr(one, name) for one in listed]) for name in ("demand", "free"))
    price = (price * [1 + one.vat for one in listed])[own]
    payers = np.flatnonzero(price > 0)
    if not len(payers):
        return market
    charges = demand_charge(
        market, price[payers], prosumers=payers.tolist(), free=free[own][payers]
    )
    return capped(market, charges)


def _gross(contract: Contract, market: Market, base: Float[np.ndarray, " H"]) -> Any:
    """Energy, and network and taxes, with VAT, EUR/kWh by step."""
    more = 1 + contract.vat
    energy = base if contract.energy is None else more * contract.price("energy", market)
    return energy, more * (contract.price("network", market) + contract.taxes)


def _narrow(values: Float[np.ndarray, "R H"]) -> Float[np.ndarray, "R #H"]:
    """One column where all are alike."""
    return values[:, :1] if np.all(values == values[:, :1]) else values


def whose(market: Market, contracts: Sequence[Contract]) -> Int[np.ndarray, " N"]:
    """Which of the contracts is each prosumer's: that which names it, or the one for all others.

    Where none names any and there are as many as prosumers it is one each. `ValueError` where a
    prosumer has none or two.
    """
    count, names = len(market.prosumers.bus), market.prosumers.names
    if not contracts:
        raise ValueError("contracts: there are none; give one at least.")
    others = [k for k, one in enumerate(contracts) if one.prosumers is None]
    if len(others) == len(contracts) == count:
        return np.arange(count)
    if len(others) > 1:
        raise ValueError(
            f"contracts: {len(others)} of {len(contracts)} name no prosumers; give all but one "
            "theirs, or one contract each."
        )
    found = np.full(count, others[0] if others else -1)
    named = np.zeros(count, bool)
    for k, one in enumerate(contracts):
        for who in one.prosumers or ():
            row = row_of("contracts", "prosumer", who, names, count)
            if named[row]:
                raise ValueError(f"contracts: prosumer {who!r} has two; name it in one of them.")
            found[row], named[row] = k, True
    if np.any(found < 0):
        raise ValueError(
            f"contracts: prosumer {int(np.argmin(found))} has none; name it in one, or give one "
            "without prosumers, for all others."
        )
    return found


def distance(market: Market, transformers: Iterable[int | str] = ()) -> Int[np.ndarray, " E"]:
    """0 for pairs below one transformer, 1 for those on one feeder, 2 for others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    grid, bus = market.grid, np.asarray(market.prosumers.bus)
    ends = [bus[np.asarray(side)] for side in (market.trading.buyer, market.trading.seller)]
    cut = np.zeros(len(grid.source), bool)
    for line in transformers:
        if isinstance(line, str) and line not in grid.line_names:
            raise ValueError(f"transformers: there is no line {line!r}.")
        row = grid.line_names.index(line) if isinstance(line, str) else int(line)
        if not 0 <= row < len(cut):
            raise ValueError(f"transformers: there is no line {line}; give 0 to {len(cut) - 1}.")
        cut[row] = True
    if not grid.model.networked:
        return np.zeros(len(ends[0]), int)
    source, target, size = np.asarray(grid.source), np.asarray(grid.target), len(grid.passive)
    place, _ = places(grid)
    ends, (source, target) = [place[end] for end in ends], (place[source], place[target])
    if grid.model.phased:  # all conductors make one line
        line = np.minimum(source, target) * size + np.maximum(source, target)
        cut = np.isin(line, line[cut])

    def apart(kept: np.ndarray) -> np.ndarray:
        entries = (np.ones(kept.sum()), (source[kept], target[kept]))
        zone = connected_components(coo_matrix(entries, shape=(size, size)), directed=False)[1]
        return zone[ends[0]] != zone[ends[1]]

    return apart(~cut).astype(int) + apart(np.ones_like(cut))


def places(grid: Grid) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Which rows of buses are at one place, by a row of it, and the phase of each: 0, 1 or 2.

    All phases of a bus are at one place, and what stands between them. In grids of one phase each
    row is its own place, of phase 0.
    """
    place, phase = np.arange(len(grid.passive)), np.zeros(len(grid.passive), int)
    rows = np.asarray(grid.phases)
    of, which = np.nonzero(rows >= 0)
    place[rows[of, which]], phase[rows[of, which]] = rows.max(axis=1)[of], which
    within = np.asarray(grid.terminal)
    place[np.asarray(grid.target)[within]] = place[np.asarray(grid.source)[within]]
    return place, phase


def read_contracts(path: str | Path) -> tuple[Contract, ...]:
    """The contracts in a TOML file: a table `[contract]`, or several, `[[contract]]`.

    Their keys are the fields of `Contract`; `TEMPLATE` is such a file. Raises `ValueError` with the
    file, contract and key where anything is wrong, and `FileNotFoundError` where there is none.
    """
    import tomllib

    try:
        held = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no TOML: {error}.") from error
    listed = held.pop("contract", None)
    if held or listed is None:
        strange = f"key {next(iter(held))!r} is unknown; " if held else ""
        raise ValueError(f"{path}: {strange}give a table [contract], or several [[contract]].")
    listed = listed if isinstance(listed, list) else [listed]
    return tuple(_contract(f"{path}, contract {k}", table) for k, table in enumerate(listed))


def _contract(where: str, table: Mapping[str, Any]) -> Contract:
    known = [one.name for one in fields(Contract)]
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: key {key!r} is unknown; known: {', '.join(known)}.")
    whose = table.get("prosumers")
    if whose is not None and not isinstance(whose, list):
        raise ValueError(f"{where}: prosumers = {whose!r}; give a list of numbers or names.")
    try:
        return Contract(**{**table, **({} if whose is None else {"prosumers": tuple(whose)})})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


TEMPLATE = """\
# Contracts of a market, net of VAT. EUR/kWh where nothing else is said.
# One [contract] for all, or several [[contract]] with the prosumers whose each is.

[contract]
name = "household"
# prosumers = [0, 1]      # numbers or names; left out: all others
energy = [                # the supplier's price; left out: the market's own
  {from = "22:00", to = "06:00", price = 0.12},
  {price = 0.16},         # the rest of the day
]
network = 0.09            # on what comes from the main grid
taxes = 0.04
trade_near = 0.03         # network fee of a trade below the same transformer
trade_feeder = 0.06       # on the same feeder
trade_across = 0.09       # beyond
trade_taxes = 0.02
feed_in = 0.08            # paid for what is sold to the main grid, no VAT
fixed = 0.35              # EUR a day
capacity = 0.02           # EUR a day and kW of the connection
connection = 14.0         # kW
demand = 0.0              # EUR per kW of the highest import, above free kW
free = 0.0
vat = 0.19
"""
