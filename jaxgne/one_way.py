"""One way an hour: a battery charges or discharges, a meter buys or sells, never both.

The game is convex, so an equilibrium may do both in one hour: where that costs nothing, and where
it pays, as at negative prices, or where the feed-in tariff is above the purchase price. What costs
nothing is taken out (`freed`), the rest is measured (`ways`). Both at once at a meter is income
that no meter pays, so `clear` never leaves it on a concrete market; of batteries it is decided on
demand (`decide`): cell by cell, from clears of a market in which one way is shut.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .each import for_each, for_one
from .market import Market
from .model import (
    Plan,
    Rows,
    at_prosumers,
    counted,
    device_prices,
    export_prices,
    grid_price,
    import_prices,
    uncounted,
    zone_bases,
    zone_slopes,
    zone_totals,
)
from .programs import program
from .record import Record
from .runner import jnp
from .surplus import given_away

_TOLD = 1e-3  # share of the smaller limit from which on both ways at once are no rounding
_SHUT = 1e-4  # and from which on one of them is shut
_ROUNDING = 1e-6  # by which prices that are equal may differ


class Both(Record):
    """Cells (row and hour) that go both ways at once: how many, how much, and the largest."""

    count: Int[Array, ""]
    energy: Float[Array, ""]  # kWh both in and out
    earned: Float[Array, ""]  # EUR
    row: Int[Array, ""]
    hour: Int[Array, ""]
    owner: Int[Array, ""]
    most: Float[Array, ""]  # kWh, of the largest
    worth: Float[Array, ""]  # EUR, of the largest


class Ways(Record):
    """What a plan does both ways in one hour: batteries, and meters of the main grid.

    `regret` is what all prosumers together gain at most by any other plan, EUR, where one way an
    hour was asked for, and `worst` the most that one gains.
    """

    batteries: Both
    meters: Both
    gifts: Both  # sold at a price of 0 what may be curtailed: kWh that are not unique
    regret: Float[Array, ""] | None = None
    worst: Float[Array, ""] | None = None

    def sentences(
        self, in_hour: Callable[[int], str], called: Callable[[str, int], str]
    ) -> list[str]:
        """In words; nothing of what does not happen. `called` says what people call a row."""
        told = []
        if int(self.batteries.count):
            told.append(
                _sentence(
                    self.batteries, "buffer", "charges and discharges at once", in_hour, called
                )
                + "; no battery can follow this plan, clear it with one_way=True"
            )
        if int(self.meters.count):
            told.append(
                _sentence(
                    self.meters,
                    "prosumer",
                    "buys from and sells to the main grid at once",
                    in_hour,
                    called,
                )
                + "; one meter pays for no such thing, clear it outside of jit"
            )
        if int(self.gifts.count):
            told.append(
                _sentence(
                    self.gifts,
                    "prosumer",
                    "sells for nothing what may be curtailed",
                    in_hour,
                    called,
                )
                + "; exports and curtailment are not unique"
            )
        if self.regret is not None and self.worst is not None:
            told.append(
                f"one way an hour: no prosumer gains more than {float(self.worst):.2g} EUR by any "
                f"other plan, all together {float(self.regret):.2g} EUR, also by batteries that "
                "charge and discharge at once"
            )
        return told


def _sentence(
    both: Both,
    each: str,
    does: str,
    in_hour: Callable[[int], str],
    called: Callable[[str, int], str],
) -> str:
    more = int(both.count) - 1

    def amount(energy: Array, earned: Array) -> str:
        return f"{float(energy):.3g} kWh" + f", worth {float(earned):.2g} EUR" * bool(earned != 0)

    who, when = called(each, int(both.row)), in_hour(int(both.hour))
    told = f"{who} {does} {when}: {amount(both.most, both.worth)}"
    if more:
        cases = f"{more} more such case{'s' * (more > 1)}"
        told += f" ({cases}, {amount(both.energy, both.earned)} in all)"
    return told


@for_each
def freed(market: Market, plan: Plan) -> Plan:
    """The plan without what goes both ways at once for nothing.

    In a battery without losses and wear, and at a meter where the main grid pays what it asks:
    taking the same from both changes no content, no net load and no cost, where no cap counts them.
    """
    stores = market.buffers
    ideal = stores.charge_efficiency * stores.discharge_efficiency == 1
    ideal &= ((stores.linear == 0) & (stores.quadratic == 0))[:, None]
    level = import_prices(market, zone_bases(market)) == export_prices(market)
    level &= at_prosumers(market, zone_slopes(market)) == 0
    level &= market.committed is None  # what was bought ahead is not undone
    ideal = ideal & uncounted(market, "charge", "discharge")
    level = level & uncounted(market, "imports", "exports")
    stored = jnp.where(ideal, _overlap(plan.charge, plan.discharge), 0.0)
    passed = jnp.where(level, _overlap(plan.imports, plan.exports), 0.0)
    return replace(
        plan,
        charge=plan.charge - stored,
        discharge=plan.discharge - stored,
        imports=plan.imports - passed,
        exports=plan.exports - passed,
    )


@for_each
@program("what flows both ways", once=True)
def ways(market: Market, plan: Plan, prices: Rows) -> Ways:
    """What the plan does both ways at once, and what that earns at the prices, EUR."""
    stores, people, ts = market.buffers, market.prosumers, counted(market)
    gain, loss = stores.charge_efficiency, stores.discharge_efficiency
    kept = gain * plan.charge - plan.discharge / loss
    alone = jnp.where(kept > 0, kept / gain, kept * loss)  # drawn for the same content, one way
    burnt = plan.charge - plan.discharge - alone
    linear, quadratic = stores.linear[:, None], stores.quadratic[:, None]
    worn = linear * (plan.charge + plan.discharge - jnp.abs(alone))
    worn += quadratic * (plan.charge**2 + plan.discharge**2 - alone**2)
    value = device_prices(market, prices)[1]
    least = jnp.minimum(stores.charge_max, stores.discharge_max)
    meter = _overlap(plan.imports, plan.exports)
    if market.committed is not None:  # what is bought ahead is no reading of a meter
        meter = jnp.zeros_like(meter)
    asked = import_prices(market, grid_price(market, zone_totals(market, plan)))
    paid = export_prices(market) - asked
    everyone = jnp.arange(people.bus.shape[0], dtype=people.bus.dtype)
    gifts = given_away(market, plan)
    return Ways(
        batteries=_both(
            ts * _overlap(plan.charge, plan.discharge),
            -ts * (value * burnt + worn),
            _TOLD * ts * least,
            stores.owner,
        ),
        meters=_both(
            ts * meter, ts * paid * meter, _TOLD * ts * _meter_size(market),
            everyone,
        ),
        gifts=_both(ts * gifts, 0 * gifts, _TOLD * ts * _meter_size(market), everyone),
    )  # fmt: skip


def _overlap(one: Array, other: Array) -> Array:
    return jnp.maximum(jnp.minimum(one, other), 0.0)


def _meter_size(market: Market) -> Float[Array, "N H"]:
    """kW: the smaller limit of import and export, at most what the devices are made for."""
    people = market.prosumers
    powers = (people.load, market.generators.power_max, market.buffers.discharge_max)
    most = sum(jnp.max(jnp.abs(power), initial=0.0) for power in powers)
    return jnp.minimum(jnp.minimum(people.import_max, people.export_max), most)


def _both(energy: Array, earned: Array, rounding: Array, owner: Array) -> Both:
    """What is above rounding, and the largest of it."""
    real = energy > rounding
    energy, earned = (jnp.where(real, a, 0.0) for a in (energy, earned))
    hours = energy.shape[1]
    none = jnp.zeros((), jnp.int32)
    if not energy.size:
        nothing = jnp.zeros((), energy.dtype)
        return Both(none, nothing, nothing, none, none, none, nothing, nothing)
    at = jnp.argmax(energy).astype(jnp.int32)
    return Both(
        count=jnp.sum(real, dtype=jnp.int32),
        energy=jnp.sum(energy),
        earned=jnp.sum(earned),
        row=at // hours,
        hour=at % hours,
        owner=owner[at // hours],
        most=energy.reshape(-1)[at],
        worth=earned.reshape(-1)[at],
    )


def metered(market: Market, plan: Plan) -> Market:
    """The market that judges a plan under one meter each: its own but where reselling would pay.

    Whom the main grid pays at least what it asks anybody for, may sell no more than it can have;
    whom it pays at least what it asks itself, may not go the way it does not go in the plan. A
    concrete market.
    """
    paid, resold = _paid(market, plan)
    if not np.any(resold & (_host(market.prosumers.export_max) > 0)):
        return market
    imports, exports = _host(plan.imports), _host(plan.exports)
    size = _host(_meter_size(market))
    either = paid & (size > 0)
    small = _SHUT * size
    return _shut_meters(market, either & (imports <= small), either & (exports <= small), resold)


@for_one()
def narrowed(market: Market, plan: Plan) -> Market:
    """The market in which each battery may go only the way it goes in the plan, hour by hour."""
    charge, discharge = _host(plan.charge), _host(plan.discharge)
    size = _smaller(market)
    small = _SHUT * size
    return _shut_batteries(
        market, (size > 0) & (charge <= small), (size > 0) & (discharge <= small)
    )


def decide(
    market: Market, solve: Callable[[Market, Any], Any], batteries: bool, start: Any
) -> tuple[Any, Any, Market]:
    """The market cleared by `solve(market, start)` as it is, and so that it goes one way an hour.

    Returns the first clearing, the last, and the market that this one clears.

    Meters always, `batteries` on demand. Where a clearing goes both ways the smaller is shut (of a
    battery: the one against its change of content), and the market cleared anew, until none does or
    what is left cannot be cleared. Each round shuts a way more, so it ends.
    """
    first = found = solve(market, start)
    steps = 0
    while bool(found.ok):
        tighter = _tighter(market, found.plan, batteries)
        if tighter is None:
            break
        steps, market = steps + found.steps, tighter
        found = solve(market, found)
    if found is not first:
        found = replace(found, steps=found.steps + steps)
    return first, found, market


def _tighter(market: Market, plan: Plan, batteries: bool) -> Market | None:
    """The market with what the plan does both ways at once shut one way; None if it does not."""
    (paid, resold), tighter = _paid(market, plan), market
    if np.any(resold):
        imports, exports = _host(plan.imports), _host(plan.exports)
        small = _SHUT * _host(_meter_size(market))
        twice = paid & (np.minimum(imports, exports) > small)
        hollow = resold & (exports > _surplus(market) + small)
        if np.any(twice | hollow):
            buys = imports >= exports
            wrong = np.any(twice | hollow, axis=0) & resold
            tighter = _shut_meters(market, twice & ~buys, twice & buys, wrong)
    if batteries and len(market.buffers.owner):
        charge, discharge = _host(plan.charge), _host(plan.discharge)
        both = np.minimum(charge, discharge) > _SHUT * _smaller(market)
        if np.any(both):
            gain, loss = (
                _host(a)
                for a in (market.buffers.charge_efficiency, market.buffers.discharge_efficiency)
            )
            fills = gain * charge >= discharge / loss
            tighter = _shut_batteries(tighter, both & ~fills, both & fills)
    return None if tighter is market else tighter


def _paid(market: Market, plan: Plan) -> tuple[Bool[np.ndarray, "N H"], Bool[np.ndarray, "N H"]]:
    """Whom the main grid pays for a kWh at least what it asks for one: itself, or somebody else.

    Nobody where steps are committed: imports are then bought ahead, and no reading of a meter.
    """
    if market.committed is not None:
        nobody = np.zeros(np.shape(market.prosumers.load), bool)
        return nobody, nobody
    price = _host(import_prices(market, grid_price(market, zone_totals(market, plan))))
    export = _host(export_prices(market))

    def above(price: np.ndarray) -> np.ndarray:
        return export >= price - _ROUNDING * (np.abs(price) + np.abs(export))

    return above(price), above(np.min(price, axis=0))


def _surplus(market: Market) -> Float[np.ndarray, "N H"]:
    """The most that each prosumer can have to sell, kW: from its own sun, units and batteries."""
    most = -_host(market.prosumers.load)
    for table, power in (
        (market.generators, market.generators.power_max),
        (market.buffers, market.buffers.discharge_max),
    ):
        np.add.at(most, _host(table.owner), _host(power))
    return np.maximum(most, 0.0)


def _smaller(market: Market) -> Float[np.ndarray, "K H"]:
    return np.minimum(_host(market.buffers.charge_max), _host(market.buffers.discharge_max))


def _shut_meters(
    market: Market,
    imports: Bool[np.ndarray, "N H"],
    exports: Bool[np.ndarray, "N H"],
    capped: Bool[np.ndarray, "N H"],
) -> Market:
    """Imports and exports shut in some cells; exports at most a surplus where they are `capped`."""
    people = market.prosumers
    export_max = np.where(exports, 0.0, _host(people.export_max))
    export_max = np.where(capped, np.minimum(export_max, _surplus(market)), export_max)
    import_max = np.where(imports, 0.0, _host(people.import_max))
    return _with(market, lambda m: (m.prosumers.import_max, m.prosumers.export_max),
                 (import_max, export_max))  # fmt: skip


def _shut_batteries(
    market: Market, charge: Bool[np.ndarray, "K H"], discharge: Bool[np.ndarray, "K H"]
) -> Market:
    stores = market.buffers
    limits = (
        np.where(charge, 0.0, _host(stores.charge_max)),
        np.where(discharge, 0.0, _host(stores.discharge_max)),
    )
    return _with(market, lambda m: (m.buffers.charge_max, m.buffers.discharge_max), limits)


def _with(market: Market, where: Callable[[Market], tuple], values: tuple) -> Market:
    dtype = market.prosumers.load.dtype
    return eqx.tree_at(where, market, tuple(jnp.asarray(a, dtype) for a in values))


def _host(array: Any) -> np.ndarray:
    return np.asarray(array)
