"""What prosumers and their devices do, and what pairs trade, with the prices that they see."""

from operator import attrgetter as get
from typing import Any

import numpy as np

from .. import settlement
from ..kinds import KINDS
from ..model import bought, by_owner, energy_prices, net_load, trade_prices
from ..tables import device_buses
from ._record import Column, Family, given
from ._told import Told


def _of_owners(table: str, name: str) -> Any:
    """What the devices of each prosumer do together."""

    def found(told: Told) -> Any:
        owner = get(f"{table}.owner")(told.market)
        return told.each(by_owner, getattr(told.clearing.plan, name), owner)

    return found


def _kind(table: str, one: str) -> Column:
    """The words for kinds of devices."""

    def words(told: Told) -> np.ndarray:
        return np.array(KINDS[one])[np.asarray(get(f"{table}.kind")(told.market))]

    return Column("kind", None, "what kind of device it is", words, hourly=False)


def _bus(which: int) -> Column:
    """Where devices are connected: as their owners, or where they say."""
    return Column(
        "bus", None, "where it is connected", lambda t: t.each(device_buses)[which], hourly=False
    )


PROSUMERS = Family(
    "prosumers",
    "prosumer",
    "prosumer",
    (
        given("Prosumers.bus"),
        given("Prosumers.load"),
        Column("imports", "kW", "bought of the main grid", get("plan.imports")),
        Column("exports", "kW", "sold to the main grid", get("plan.exports")),
        Column("curtailed", "kW", "generation left unused", get("plan.curtailed")),
        Column(
            "generation", "kW", "made by its generators", _of_owners("generators", "generation")
        ),
        Column("charge", "kW", "drawn to charge its buffers", _of_owners("buffers", "charge")),
        Column("discharge", "kW", "given by its buffers", _of_owners("buffers", "discharge")),
        Column(
            "bought",
            "kW",
            "bought of other prosumers, net of what is sold to them",
            lambda t: t.each(bought, t.clearing.plan.trades),
        ),
        Column("net", "kW", "physical net load", lambda t: t.each(net_load, t.clearing.plan)),
        Column("own_energy_value", "EUR/kWh", "price of its own balance", get("prices.balance")),
        Column(
            "energy_price",
            "EUR/kWh",
            "full marginal value of energy: own value and price of the bus",
            lambda t: t.each(energy_prices, t.clearing.prices),
        ),
    ),
)

GENERATORS = Family(
    "generators",
    "generator",
    "generator",
    (
        given("Generators.owner"),
        _bus(0),
        _kind("generators", "generator"),
        Column("power", "kW", "power made", get("plan.generation"), written="generation_kw"),
        given("Generators.power_min"),
        given("Generators.power_max"),
    ),
)

BUFFERS = Family(
    "buffers",
    "buffer",
    "buffer",
    (
        given("Buffers.owner"),
        _bus(1),
        _kind("buffers", "buffer"),
        Column("charge", "kW", "power drawn to charge", get("plan.charge")),
        Column("discharge", "kW", "power given by discharging", get("plan.discharge")),
        Column("energy", "kWh", "content at the end of the step", get("plan.energy")),
        given("Buffers.energy_min"),
        given("Buffers.energy_max"),
        Column("content_value", "EUR/kWh", "price of the content", get("prices.energy")),
    ),
)

TRADES = Family(
    "trades",
    "pair",
    "pair",
    (
        given("Trading.buyer"),
        given("Trading.seller"),
        Column(
            "trade",
            "kW",
            "what the buyer buys of the seller, negative the other way",
            get("plan.trades"),
        ),
        Column(
            "price",
            "EUR/kWh",
            "price of the trade",
            lambda t: t.each(trade_prices, t.clearing.prices),
        ),
        Column(
            "settled",
            "EUR/kWh",
            "price at which cash changes hands",
            lambda t: t.each(settlement.settled_prices, t.clearing.prices),
        ),
        given("Trading.toll"),
        Column(
            "network",
            "EUR/kWh",
            "what the network asks more at the buyer's bus than at the seller's",
            lambda t: t.each(settlement.network_prices, t.clearing.prices),
        ),
        Column("paid", "EUR", "what the buyer pays the seller in the step", get("paid.trades")),
    ),
)
