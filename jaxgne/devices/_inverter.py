"""What a prosumer meets the grid through: inverters, house connections."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Int

from ..each import for_one
from ..market import Grid, Market
from ..names import row_of
from ..record import changed
from ..runner import built, jnp
from .tables import Devices

_FIRST = "give it to the market first, then make scenarios of that"


@for_one(_FIRST)
@built
def inverter(market: Market, prosumers: Any, rating: Any) -> Market:
    """The market in which each of `prosumers` meets the grid through an inverter of `rating` kVA.

    All that it draws and feeds in passes the inverter, which makes or takes reactive power q beside
    the active power p while `p^2 + q^2 <= rating^2`: the operator chooses q, to hold voltages. So
    `rating` also limits p. As a grid it is a bus behind a line without impedance; the line's flow
    is what the prosumer exchanges with its old bus. Panels or a battery whose house stands outside
    are a prosumer of their own, that trades with it without a toll.

    The AC check holds that line's current to `rating`: at 0.95 pu an inverter has 95 % of it.
    The inverter is its owner's: `settle` bills what passes it, p and q, at the prices of the old
    bus, so reactive power is paid there as it is billed. Where the rating binds, its scarcity is in
    the prices of the inverter's own bus, at which the owner plans, and what the rating is worth
    stays with the owner.

        market = inverter(market, [0, 4], rating=12)

    Raises `ValueError` for other grids than lindistflow, prosumers that do not exist or are named
    twice, and ratings that are not positive.
    """
    return _behind("inverter", market, prosumers, rating, reactive=True)


@for_one(_FIRST)
@built
def connection(market: Market, prosumers: Any = None, rating: Any = np.inf) -> Market:
    """The market in which the house connection of each of `prosumers` carries up to `rating` kVA.

    `None` are all; a rating that is infinite is no limit, and adds no line. `cases.populate`,
    `equip` and importers take it as `connection_max`. Both ways, and all that flows: what it draws
    for itself, for its neighbors' trades and into buffers, with its reactive power.
    `Prosumers.import_max` limits what it buys of the main grid, not what its wire carries. Devices
    that are at another bus than their owner stay there. As a grid it is a bus behind a line without
    impedance; where its rating binds, the scarcity is in the price of that bus and the operator
    collects it.

        market = connection(market, rating=13.8)  # 3 x 20 A at 230 V for all
        market = connection(market, [0, 4], rating=jg.grids.rating([35, 63], kv=0.4))

    Raises `ValueError` for other grids than lindistflow, prosumers that do not exist or are named
    twice, and ratings that are not positive.
    """
    count, size = market.prosumers.bus.shape[0], np.asarray(rating, float)
    who = np.arange(count) if prosumers is None else prosumers
    who = _numbered("connection", market, who)
    if size.shape in ((), who.shape):
        size = np.broadcast_to(size, who.shape)
        who, rating = who[~np.isposinf(size)], size[~np.isposinf(size)]
        if size.size and not who.size:
            return market
    return _behind("connection", market, who, rating, reactive=False)


def connected(market: Market) -> Bool[np.ndarray, " N"]:
    """Who is behind a line of its own as `connection` makes it, or behind an inverter there.

    That is a line with a rating and without impedance, beyond which no other prosumer is, and
    nothing passive.
    """
    grid, bus = market.grid, np.asarray(market.prosumers.bus)
    free = (np.asarray(grid.resistance) == 0) & (np.asarray(grid.reactance) == 0)
    free &= np.isfinite(np.asarray(grid.rating))
    source, target = np.asarray(grid.source), np.asarray(grid.target)
    over = np.full(np.shape(grid.passive)[0], -1)  # the bus that such a line comes from
    over[target[free]] = source[free]
    idle = ~np.any(np.asarray(grid.passive) != 0, axis=1)
    still = ~np.any(np.asarray(grid.compensation_max) != 0, axis=1)
    above = over[bus]
    home = np.where(still[bus], bus, np.where(above >= 0, above, bus))  # an inverter's is beyond
    alone = np.bincount(bus, minlength=len(idle)) <= 1
    return (over[home] >= 0) & still[home] & idle[home] & alone[home]


def settled_at(market: Market) -> Int[Array, " B"]:
    """The bus at whose prices what each draws is paid: its own, of an inverter that before it.

    An inverter's bus has reactive power to give, one prosumer, nothing passive, and one line, which
    has a rating and no impedance.
    """
    grid = market.grid
    one = jnp.arange(grid.voltage_min.shape[0], dtype=grid.source.dtype)
    free = (grid.resistance == 0) & (grid.reactance == 0) & jnp.isfinite(grid.rating)
    over = jnp.full_like(one, -1).at[grid.target].max(jnp.where(free, grid.source, -1))
    nothing = jnp.zeros_like(one)
    ends = nothing.at[grid.source].add(1).at[grid.target].add(1)
    alone = (nothing.at[market.prosumers.bus].add(1) == 1) & (ends == 1) & (over >= 0)
    passive, reactive = grid.consumed
    idle = ~jnp.any((passive != 0) | (reactive != 0), axis=1)
    able = jnp.any(grid.compensation_max > 0, axis=1)
    return jnp.where(alone & idle & able, over, one)


def _numbered(device: str, market: Market, prosumers: Any) -> np.ndarray:
    """Prosumers by number, in an array; names are looked up."""
    names = market.prosumers.names
    each = [prosumers] if isinstance(prosumers, str) else np.atleast_1d(prosumers).tolist()
    return np.array(
        [row_of(device, "prosumer", one, names) if isinstance(one, str) else one for one in each]
    )


def _behind(device: str, market: Market, prosumers: Any, rating: Any, *, reactive: bool) -> Market:
    """The market with each prosumer at a bus of its own, behind a line of that rating.

    With `reactive` power that is made or drawn there.
    """
    grid, people = market.grid, market.prosumers
    if not grid.model.radial:
        raise ValueError(
            f"{device}: a grid with model='lindistflow' is needed, this one is {grid.model.name!r}."
        )
    count = people.bus.shape[0]
    who = _numbered(device, market, prosumers)
    called = dict(enumerate(people.names))
    new = [f"{device} {called.get(i, i)}" for i in who.tolist()]
    known = (*grid.names, *grid.line_names)
    if not np.all(np.isin(who, np.arange(count))) or len({*new} - {*known}) < len(who):
        raise ValueError(f"{device}: prosumers={prosumers}: give each of 0 to {count - 1} once.")
    who = who.astype(int)
    size = np.asarray(rating, float)
    if size.shape not in ((), who.shape) or not np.all((size > 0) & np.isfinite(size)):
        raise ValueError(
            f"{device}: rating={rating}: give positive kVA, one number or one per prosumer."
        )
    size = np.broadcast_to(size, who.shape)
    home = people.bus[who]
    fresh = jnp.arange(len(who), dtype=people.bus.dtype) + grid.passive.shape[0]

    def behind(table: jnp.ndarray) -> jnp.ndarray:
        return jnp.concatenate([table, table[home]])

    def added(table: jnp.ndarray, rows: Any) -> jnp.ndarray:
        new = jnp.broadcast_to(jnp.asarray(rows, table.dtype), (len(who), *table.shape[1:]))
        return jnp.concatenate([table, new])

    # in three phases each is a bus of one phase, that of its home
    on = _phases(grid)[home]
    phases = {
        f"phase_{letter}": jnp.concatenate([rows, jnp.where(on == k, fresh, -1)])
        for k, (letter, rows) in enumerate(zip("abc", grid.phases.T, strict=True))
        if grid.model.phased
    }
    # twice what could be used: never what holds, the disc is
    most = 2 * (size[:, None] + jnp.abs(people.reactive[who])) if reactive else 0.0
    wired = replace(
        grid,
        source=added(grid.source, home),
        target=added(grid.target, fresh),
        resistance=added(grid.resistance, 0.0),
        reactance=added(grid.reactance, 0.0),
        rating=added(grid.rating, size),
        tap=added(grid.tap, 1.0),
        voltage_min=behind(grid.voltage_min),
        voltage_max=behind(grid.voltage_max),
        angle_min=behind(grid.angle_min),
        angle_max=behind(grid.angle_max),
        passive=added(grid.passive, 0.0),
        passive_reactive=added(grid.passive_reactive, 0.0),
        compensation_max=added(grid.compensation_max, most),
        zone=behind(grid.zone),
        **phases,
        names=grid.names and (*grid.names, *new),
        line_names=grid.line_names and (*grid.line_names, *new),
    )
    return replace(
        market,
        prosumers=replace(people, bus=people.bus.at[who].set(fresh)),
        generators=_with_owners(market, market.generators),
        buffers=_with_owners(market, market.buffers),
        grid=wired,
    )


def _with_owners(market: Market, table: Devices) -> Devices:
    """Devices that go along with their owners, but for those at other buses."""
    at_home = table.bus == jnp.asarray(market.prosumers.bus)[table.owner]
    return changed(table, bus=jnp.where(at_home, -1, table.bus))


def _phases(grid: Grid) -> jnp.ndarray:
    """Which phase each row of buses is, a terminal its first; -1 of grids without phases."""
    rows, count = grid.phases, grid.voltage_min.shape[0]
    phase = jnp.full(count + 1, -1, rows.dtype)
    phase = phase.at[jnp.where(rows < 0, count, rows)].set(jnp.arange(3, dtype=rows.dtype))[:count]
    at = grid.terminal
    return phase.at[grid.target[at]].set(phase[grid.source[at]])
