"""Ready studies of a mechanism: tariffs that are tuned, and what a grid's limits are worth.

The tuned ones return the market, its history and tables; the others read the multipliers of one
clearing. Tables are columns of equal length by name, units in the names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from . import objectives
from .clearing import clear, differentiable
from .clock import hours_of
from .coordinates import Bijection, Linear
from .descent import HowToTune
from .each import for_each, for_one
from .history import History
from .linear_flow import tree_state
from .market import Market
from .model import export_prices, grid_price, net_exchange, potential, voltages, zone_totals
from .programs import program
from .result import Clearing
from .runner import jnp
from .sensitivity.implicit import AbstractAdjoint, Implicit
from .settlement import price_parts
from .tuning import Outcome, tune

Table = dict[str, Any]

OBJECTIVES: dict[str, Outcome] = {
    "peak": objectives.peak,
    "transformer-peak": objectives.transformer_peak,
    "total-cost": objectives.total_cost,
    "worst-cost": objectives.worst_cost,
    "social-cost": objectives.social_cost,
    "welfare-loss": objectives.welfare_loss,
    "congestion-rent": objectives.congestion_rent,
    "gini": objectives.gini,
    "revenue": lambda market, clearing: -objectives.operator_revenue(market, clearing),
    "self-sufficiency": lambda market, clearing: -objectives.self_sufficiency(market, clearing),
}  # by the word of the command line, each to be made small

_SCAN = 16  # tariffs at which the one for all pairs is tried first
_DEAREST = 0.5  # of the highest energy value: trades that pay more on both sides do not happen


class Knob(NamedTuple):
    """What `tune` or `pareto` moves: fields `where`, within `bounds`, tied by a `bijection`."""

    where: Callable[[Market], Any]
    bounds: tuple[Any, Any]
    bijection: Bijection | None


class _Options(HowToTune, total=False):
    """What `tune` takes but what, from where and within which limits."""

    steps: int
    adjoint: AbstractAdjoint | None


@for_one()
def trading_knob(market: Market, solver: Any = None, tol: Any = None) -> Knob:
    """One tariff for all pairs, from 0 to half the highest energy value today."""
    pairs = market.trading.toll.shape[0]
    _need(pairs, "trading-tariff", "trading pairs")
    tied = Linear(jnp.ones((pairs, 1), market.trading.toll.dtype))
    return Knob(lambda m: m.trading.toll, (0.0, _dearest(market, solver, tol)), tied)


@for_one()
def slope_knob(market: Market, solver: Any = None, tol: Any = None) -> Knob:
    """The slope of the main grid's price in each hour, from 0 to three times the highest today."""
    if not float(market.tariff.slope.max()) > 0:
        raise ValueError(
            "price-slope: Tariff.slope is 0 in all hours, and it is tuned between 0 and three "
            "times its highest; start from a slope, such as 0.001 EUR/kWh per kW "
            "(slope_eur_per_kwh_per_kw in the table tariff), or tune trading-tariff."
        )
    return Knob(lambda m: m.tariff.slope, (0.0, 3 * float(market.tariff.slope.max())), None)


@for_one()
def locational_knob(market: Market, solver: Any = None, tol: Any = None) -> Knob:
    """A tariff by bus, each pair's the mean of its two, from 0 to half the highest energy value."""
    _need(market.trading.toll.shape[0], "locational-tariff", "trading pairs")
    tied = Linear(_by_bus(market))
    return Knob(lambda m: m.trading.toll, (0.0, _dearest(market, solver, tol)), tied)


@for_one()
def base_knob(market: Market, solver: Any = None, tol: Any = None) -> Knob:
    """The base price of each hour, from what exports bring to twice the highest price today."""
    today = clear(market, solver, tol=tol)
    highest = float(jnp.max(grid_price(market, zone_totals(market, today.plan))))
    if not highest > 0:
        raise ValueError(
            "base-price: the main grid's price is nowhere above 0, and it is tuned up to twice its "
            "highest; give Tariff.base (base_eur_per_kwh in the table tariff) a price."
        )
    sold = jnp.where(market.prosumers.export_max > 0, export_prices(market), 0.0)
    low = jnp.minimum(market.tariff.base, jnp.max(sold, axis=0, initial=0.0))
    return Knob(lambda m: m.tariff.base, (low, jnp.full_like(low, 2 * highest)), None)


@for_one()
def trading_tariff(
    market: Market, objective: Outcome = OBJECTIVES["revenue"], **options: Unpack[_Options]
) -> tuple[Market, History]:
    """One tariff c_ta for all pairs; its `objective` is by default the operator's highest revenue.

    Between 0 and half the highest energy value today. As trades end one after the other, objectives
    have kinks and several local optima along it: the best of a scan of 16 tariffs is improved,
    in steps that stay near it. `options` are those of `tune`; `folder` keeps steps, no scan.
    """
    import optax

    knob = trading_knob(market, options.get("solver"), options.get("tol"))
    most = knob.bounds[1]
    tariffs = np.linspace(0.0, most, _SCAN + 1)[:-1]
    markets = [_taxed(market, tariff) for tariff in tariffs]
    values, last = [], None
    for here in markets:
        last = clear(here, options.get("solver"), tol=options.get("tol"), start=last)
        values.append(float(objective(here, last)))
    rate = 1 / (4 * _SCAN)  # of the range: a quarter of what lies between two of the scan
    usual = optax.adam(optax.cosine_decay_schedule(rate, options.get("steps", 50)))
    options.setdefault("optimizer", usual)
    return tune(markets[int(np.nanargmin(values))], objective, **knob._asdict(), **options)


def _taxed(market: Market, tariff: float) -> Market:
    toll = jnp.full_like(market.trading.toll, tariff)
    return eqx.tree_at(lambda m: m.trading.toll, market, toll)


@for_one()
def price_slope(
    market: Market, objective: Outcome = objectives.peak, **options: Unpack[_Options]
) -> tuple[Market, History]:
    """The slope d_mg of the main grid's price by hour; its `objective` by default the lowest peak.

    Between 0 and three times the highest today, while the main grid receives no less than today,
    and the prosumers pay no more. `options` are those of `tune`. Raises `ValueError` where it is 0
    in all hours: of nothing there is no range.
    """
    knob = slope_knob(market)
    today = clear(market, options.get("solver"), tol=options.get("tol"))
    income = objectives.main_grid_revenue(market, today)
    paid = objectives.total_cost(market, today)
    return tune(
        market,
        objective,
        **knob._asdict(),
        constraints=[
            lambda m, c: income - objectives.main_grid_revenue(m, c),
            lambda m, c: objectives.total_cost(m, c) - paid,
        ],
        **options,
    )


@for_one()
def base_price(
    market: Market, objective: Outcome = objectives.social_cost, **options: Unpack[_Options]
) -> tuple[Market, History]:
    """The base price p0 by hour; its `objective` by default the least that all pay together.

    From what exports bring to twice the highest price today, while the main grid receives no less
    than today. `options` are those of `tune`; `jaxgne.leader.lead` goes on from several starts.
    """
    knob = base_knob(market, options.get("solver"), options.get("tol"))
    today = clear(market, options.get("solver"), tol=options.get("tol"))
    income = objectives.main_grid_revenue(market, today)
    return tune(
        market,
        objective,
        **knob._asdict(),
        constraints=[lambda m, c: income - objectives.main_grid_revenue(m, c)],
        **options,
    )


@for_one()
def locational_tariff(
    market: Market, objective: Outcome = objectives.congestion_rent, **options: Unpack[_Options]
) -> tuple[Market, History]:
    """A tariff on trades by bus; its `objective` is by default the least congestion rent.

    A market has no tariff by bus, but one by pair: here each pair's is the mean of those of its two
    buses, of which only buses with prosumers count. Between 0 and half the highest energy value,
    while the tariffs bring the operator no less than today. `options` are those of `tune`.
    """
    knob = locational_knob(market, options.get("solver"), options.get("tol"))
    today = clear(market, options.get("solver"), tol=options.get("tol"))
    income = objectives.trading_revenue(market, today)
    return tune(
        market,
        objective,
        **knob._asdict(),
        constraints=[lambda m, c: income - objectives.trading_revenue(m, c)],
        **options,
    )


@for_one()
def trading_buses(market: Market) -> np.ndarray:
    """The buses whose prosumers are in some pair."""
    pairs, bus = market.trading, np.asarray(market.prosumers.bus)
    return np.unique(bus[np.concatenate([np.asarray(pairs.buyer), np.asarray(pairs.seller)])])


@for_one()
def bus_tariffs(market: Market) -> Table:
    """The tariffs by bus that come closest to those of the pairs."""
    toll = Linear(_by_bus(market)).inverse(_mean(market.trading.toll))
    return {"bus": trading_buses(market), "toll_eur_per_kwh": np.asarray(toll)}


@for_one()
def pair_tariffs(market: Market) -> Table:
    """The tariff of each pair."""
    pairs = market.trading
    return {
        "buyer": np.asarray(pairs.buyer),
        "seller": np.asarray(pairs.seller),
        "toll_eur_per_kwh": np.asarray(_mean(pairs.toll)),
    }


@for_one()
def hourly_slopes(market: Market) -> Table:
    """The slope of each hour."""
    slope = np.asarray(market.tariff.slope)
    return {"hour": hours_of(market), "slope_eur_per_kwh_per_kw": slope}


@for_one()
def hourly_bases(market: Market) -> Table:
    """The base price of each hour."""
    return {"hour": hours_of(market), "base_eur_per_kwh": np.asarray(market.tariff.base)}


@for_one()
def reinforcement(market: Market, *, solver: Any = None, tol: Any = None) -> Table:
    """What one kVA more of each line's rating is worth over all hours, EUR per kVA, by line.

    That is -dP / d rating, P the potential that the equilibrium minimizes (model.md: Equilibrium):
    what all save in costs as the market reckons them, with preferences and, under Nash, the
    anticipated share of prices. By the implicit rule, through `clear`; 0 without a rating.

    Raises what `clear` raises, and `ValueError` for a market without lines.
    """
    grid = market.grid
    _need(0 if not grid.model.networked else grid.rating.shape[0], "reinforcement", "lines")
    market = jax.tree.map(jnp.asarray, market)
    found = clear(market, solver, tol=tol)
    value = np.asarray(_worth(market, found))
    plan = found.plan
    load = np.hypot(np.asarray(plan.active), np.asarray(plan.reactive)).max(axis=1)
    return {
        "line": np.arange(len(value)),
        "source": np.asarray(grid.source),
        "target": np.asarray(grid.target),
        "rating_kva": np.asarray(grid.rating),
        "highest_flow_kva": load,
        "value_eur_per_kva": value,
    }


@program("what lines are worth", once=True)
def _worth(market: Market, clearing: Clearing) -> Float[Array, " L"]:
    """-dP / d rating."""

    def worth(rating: Array) -> Array:
        here = eqx.tree_at(lambda m: m.grid.rating, market, rating)
        found = differentiable(here, clearing, Implicit(throw=False))
        return -potential(here, found.plan)

    slope = jax.grad(worth)(market.grid.rating)
    return jnp.where(jnp.isfinite(market.grid.rating), slope, 0.0)


@for_one()
def envelope(market: Market, *, solver: Any = None, tol: Any = None) -> Table:
    """How much more each bus may draw or feed in before a limit binds, kW, by bus and hour.

    One bus at a time, at unity power factor, all else as the market clears: by the linear grid, d
    kW more at bus y add d to the flows on the path from the feeder and lower the squared voltage at
    z by 2 d times the resistance that both paths share, as seen at z through the transformers on
    the way; in three phases it may raise that of other phases. The least room on ratings, voltages
    and the total counts. Beside it what energy costs there beyond the main grid's price, EUR/kWh:
    the multipliers of these limits, 0 where none binds.

    Raises what `clear` raises, and `ValueError` for grids that are no trees.
    """
    grid = market.grid
    if not grid.model.radial:
        raise ValueError(
            f"envelope: the grid is {grid.model.name}; it must be lindistflow or lindist3flow."
        )
    market = jax.tree.map(jnp.asarray, market)
    found = clear(market, solver, tol=tol)
    draw, feed = (np.asarray(a) for a in headroom(market, found))
    parts = price_parts(market, found)
    scarce = np.asarray(parts.total - parts.energy)
    buses, steps = draw.shape
    return {
        "bus": np.repeat(np.arange(buses), steps),
        "hour": np.tile(hours_of(market), buses),
        "draw_kw": draw.ravel(),
        "feed_in_kw": feed.ravel(),
        "scarcity_eur_per_kwh": scarce.ravel(),
    }


@for_each
@program("the room on lines", once=True)
def headroom(market: Market, clearing: Clearing) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What each bus may draw and feed in more, kW; never negative."""
    grid, plan = market.grid, clearing.plan
    each = jnp.eye(grid.passive.shape[0], dtype=grid.passive.dtype)  # a kW at one bus
    none = {state: jnp.zeros((grid.feeder.shape[0], 1), each.dtype) for state in grid.model.states}
    more = tree_state(grid, each, jnp.zeros_like(each), none)
    p, q, w = (more[name][:, :, None] for name in ("active", "reactive", "voltage"))
    square = voltages(market, plan) ** 2
    low, high = (a[:, None] ** 2 for a in (grid.voltage_min, grid.voltage_max))
    total = net_exchange(market, plan)

    def over(room: Array, by: Array) -> Array:
        """How far one may go to a limit, by what a kW takes of the room that there is."""
        felt = by > 0
        found = jnp.where(felt, room[:, None] / jnp.where(felt, by, 1.0), jnp.inf)
        return found.min(axis=0, initial=jnp.inf)

    # |flow + d more| = rating, of each line by each bus
    square_of = p**2 + q**2
    half = p * plan.active[:, None] + q * plan.reactive[:, None]
    left = (grid.rating[:, None] ** 2 - plan.active**2 - plan.reactive**2)[:, None]
    root = jnp.sqrt(jnp.maximum(half**2 + square_of * left, 0.0))

    def room(sign: int, all_: Array) -> Array:
        felt = square_of > 0
        lines = (root - sign * half) / jnp.where(felt, square_of, 1.0)
        found = jnp.where(felt, lines, jnp.inf).min(axis=0, initial=jnp.inf)
        volts = jnp.minimum(over(square - low, -sign * w), over(high - square, sign * w))
        return jnp.maximum(jnp.minimum(jnp.minimum(found, volts), all_), 0.0)

    return room(1, market.tariff.total_max - total), room(-1, total - market.tariff.total_min)


def _mean(toll: Float[Array, "E #H"]) -> Float[Array, " E"]:
    """Each pair's tariff, in the mean of all hours where it is by hour."""
    return jnp.mean(toll, axis=1)


def _by_bus(market: Market) -> Float[Array, "E P"]:
    """Half of each pair's tariff for each of its buses."""
    pairs, bus = market.trading, np.asarray(market.prosumers.bus)
    places = trading_buses(market)
    matrix = np.zeros((pairs.toll.shape[0], len(places)))
    for side in (pairs.buyer, pairs.seller):
        column = np.searchsorted(places, bus[np.asarray(side)])
        np.add.at(matrix, (np.arange(len(matrix)), column), 0.5)
    return jnp.asarray(matrix, pairs.toll.dtype)


def _dearest(market: Market, solver: Any, tol: Any) -> float:
    found = clear(market, solver, tol=tol)
    highest = _DEAREST * float(jnp.max(found.prices.balance))
    return max(highest, 2 * float(jnp.max(market.trading.toll)))


def _need(count: int, study: str, what: str) -> None:
    if not count:
        raise ValueError(f"{study}: the market has no {what}.")


TUNED: dict[str, tuple[Callable[..., tuple[Market, History]], Callable[[Market], Table]]] = {
    "trading-tariff": (trading_tariff, pair_tariffs),
    "price-slope": (price_slope, hourly_slopes),
    "locational-tariff": (locational_tariff, bus_tariffs),
    "base-price": (base_price, hourly_bases),
}  # by the word of the command line: what tunes, and the table of what was tuned
KNOBS: dict[str, Callable[..., Knob]] = {
    "trading-tariff": trading_knob,
    "price-slope": slope_knob,
    "locational-tariff": locational_knob,
    "base-price": base_knob,
}  # of the same: what may be traded off
READ: dict[str, Callable[..., Table]] = {"reinforcement": reinforcement, "envelope": envelope}
