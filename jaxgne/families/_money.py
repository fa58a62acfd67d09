"""What steps and everybody's bills come to, limits that many share, and how good an answer is."""

from collections.abc import Callable
from operator import attrgetter as get
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..market import Market
from ..model import Plan, grid_price, in_zones, mean_price, passive_in_zones, zone_totals
from ._record import Column, Family, given
from ._told import Told


def _eur(name: str, means: str, of: str, written: str = "") -> Column:
    return Column(name, "EUR", means, get(of), written=written)


HOURS = Family(
    "hours",
    "",
    "",
    (
        Column("contracted_import", "kW", "bought of the main grid", get("clearing.aggregate")),
        Column(
            "transformer",
            "kW",
            "what flows in of the main grid, net of exports",
            lambda t: np.asarray(t.clearing.aggregate) - t.plan.exports.sum(axis=-2),
        ),
        Column(
            "exports", "kW", "sold to the main grid by all", lambda t: t.plan.exports.sum(axis=-2)
        ),
        Column(
            "passive",
            "kW",
            "load of passive consumers",
            lambda t: np.asarray(t.market.grid.passive).sum(axis=-2),
        ),
        Column("traded", "kW", "traded in pairs", lambda t: np.abs(t.plan.trades).sum(axis=-2)),
        Column(
            "grid_price",
            "EUR/kWh",
            "price of the main grid, on average over zones",
            lambda t: t.each(mean_price, t.clearing.plan),
        ),
        Column("limit_price", "EUR/kWh", "price of limits on the total", get("prices.aggregate")),
        Column(
            "exchange_price",
            "EUR/kWh",
            "price of the exchange with the main grid",
            get("prices.exchange"),
        ),
        _eur("sales", "what the main grid receives", "paid.sales"),
        _eur("losses_cost", "what the operator pays for losses", "paid.losses", "losses_eur"),
        _eur("receipts", "what the operator receives", "paid.receipts"),
        _eur("rent", "what the operator's limits and tariff are worth", "paid.rent"),
        _eur("passive_caps", "what passive consumers pay for caps", "paid.passive_caps"),
        _eur("passive_carbon", "what passive consumers pay for carbon", "paid.passive_carbon"),
        _eur("levies", "what is paid for rises of caps, to who asks it", "paid.levies"),
        _eur("fees", "what own contracts add, to who asks it", "paid.fees"),
    ),
)

BILLS = Family(
    "bills",
    "prosumer",
    "bill",
    (
        given("Prosumers.bus"),
        _eur("main_grid", "paid to the main grid, less its pay for exports", "paid.main_grid"),
        _eur("adders", "what its own contract adds", "paid.adders"),
        _eur("peers", "paid to other prosumers", "paid.peers"),
        _eur("tolls", "paid to the network for trades", "paid.tolls"),
        _eur("capacity", "paid for limits on the total exchange", "paid.capacity"),
        _eur("congestion", "paid to the network for active power", "paid.congestion"),
        _eur("reactive", "paid to the network for reactive power", "paid.reactive"),
        _eur("caps", "paid for caps, less what its own receive", "paid.caps"),
        _eur("carbon", "paid for carbon, of caps that count it", "paid.carbon"),
        _eur("charges", "paid for rises of its own caps", "paid.charges"),
        _eur("total", "all that the prosumer pays", "paid.prosumers"),
    ),
)

PASSIVE_BILLS = Family(
    "passive_bills",
    "bus",
    "passive_bill",
    (
        _eur("main_grid", "paid to the main grid", "paid.passive_main_grid"),
        _eur("capacity", "paid for limits on the total exchange", "paid.passive_capacity"),
        _eur("congestion", "paid to the network for active power", "paid.passive_congestion"),
        _eur("reactive", "paid to the network for reactive power", "paid.passive_reactive"),
        _eur(
            "total",
            "all that passive consumers at the bus pay, but for caps and carbon",
            "paid.passive",
        ),
    ),
)


def _or_nothing(dotted: str) -> Callable[[Told], np.ndarray]:
    """Of caps: nothing where a plan, or prices, have none."""

    def found(told: Told) -> Any:
        array = get(dotted)(told)
        return np.zeros(np.shape(told.market.caps.level_max)) if array is None else array

    return found


def _words(name: str, means: str, dotted: str) -> Column:
    return Column(name, None, means, lambda t: np.array(get(dotted)(t.market), str), hourly=False)


CAPS = Family(
    "caps",
    "cap",
    "cap",
    (
        _words("name", "what it is called", "caps.names"),
        _words("unit", "unit of its level", "caps.units"),
        given("Caps.level_min"),
        given("Caps.level_max"),
        Column(
            "level",
            "",
            "level at the end of the step, in the unit of the cap",
            _or_nothing("plan.level"),
        ),
        Column("rise", "", "change of the level", _or_nothing("plan.rise")),
        Column("spare", "", "part of the level that no member makes", _or_nothing("plan.spare")),
        Column("price", "EUR", "price of a unit counted", _or_nothing("prices.cap")),
        Column("level_price", "EUR", "price of a unit of the level", _or_nothing("prices.level")),
    ),
)


def _zone_price(market: Market, plan: Plan) -> Float[Array, "Z H"]:
    return grid_price(market, zone_totals(market, plan))


def _passive(market: Market) -> Float[Array, "Z H"]:
    return passive_in_zones(market, market.grid.passive)


def _one_zone(told: Told) -> str | None:
    return None if told.sizes["zone"] else "Market.zones: the market has one zone."


ZONES = Family(
    "zones",
    "zone",
    "zone",
    (
        _words("name", "what it is called", "zones.names"),
        Column(
            "imports",
            "kW",
            "bought of the main grid by prosumers of the zone",
            lambda t: t.each(in_zones, t.plan.imports),
        ),
        Column("passive", "kW", "load of passive consumers there", lambda t: t.each(_passive)),
        Column(
            "price",
            "EUR/kWh",
            "price of the main grid in the zone",
            lambda t: t.each(_zone_price, t.clearing.plan),
        ),
    ),
    _one_zone,
)


def _unjudged(told: Told) -> str | None:
    return "this clearing has no certificate." if told.clearing.certificate is None else None


def _judged(name: str, unit: str, means: str, dotted: str) -> Column:
    return Column(name, unit, means, get(f"clearing.certificate.{dotted}"), hourly=False)


GAINS = Family(
    "gains",
    "prosumer",
    "prosumer",
    (_judged("gap", "EUR", "most that it could gain by deviating", "residuals.gap"),),
    _unjudged,
)

CLEARING = Family(
    "clearing",
    "",
    "",
    (
        Column("iterations", "", "steps of the solver", get("clearing.steps"), hourly=False),
        _judged("relative_kkt_error", "", "relative KKT error, the largest of the next", "error"),
        _judged("infeasibility", "", "largest violation of a limit", "residuals.infeasibility"),
        _judged("regret", "", "what all could gain, of the gross bill", "residuals.regret"),
        _judged("price_error", "", "largest error of a price", "residuals.dual"),
        _judged(
            "operator_gap", "EUR", "most that the operator could gain", "residuals.operator_gap"
        ),
    ),
    _unjudged,
)
