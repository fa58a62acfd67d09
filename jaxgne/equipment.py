"""Devices for the customers that a market has: "60 % of cars" is one line."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from . import devices
from .clock import Clock, even
from .devices._inverter import connected
from .each import for_one
from .market import Buffers, Market
from .profiles import heat_pumps, vehicles
from .validation import validate

Kind = Literal["vehicle", "battery", "heat_pump"]
_SOME_DAY = Clock("2025-01-06T00:00", "UTC")  # steps of a market without a clock begin at midnight


@for_one()
def equip(
    market: Market,
    *,
    vehicle: float = 0.0,
    battery: float = 0.0,
    heat_pump: float = 0.0,
    power: Any = None,
    capacity: Any = None,
    outdoor: Any = None,
    connection_max: Any = None,
    seed: int = 0,
) -> Market:
    """The market in which a share of its customers own one more device, of one kind a call.

    Customers are prosumers with a load in some step. `vehicle` are cars of `power` kW (11) and
    `capacity` kWh (60), with the habits of `profiles.vehicles`; `battery` stationary ones of
    `power` kW (5) and `capacity` kWh (10), half full at both ends; `heat_pump` buildings that need
    `power` kW of heat (8) at -12 degC, at `outdoor` degC, one number or by step. `power` and
    `capacity` are one for all or one for each prosumer of the market (N).

        market = jg.equip(market, vehicle=0.6, power=11, connection_max=13.8)

    `connection_max`, also by itself, is what the house connection of each customer carries either
    way, kVA, one number or one for each prosumer: `devices.connection`, once a market.

    The same `seed` gives the same owners and habits, and a higher share keeps the owners of a lower
    one. Who owns such a device already may get another. Raises `ValueError` for shares that are
    not from 0 to 1, more than one kind or none, and arguments that the kind does not have.
    """
    if connection_max is not None:
        market = _wired(market, connection_max)
        if not (vehicle or battery or heat_pump):
            return market
    kind, share = _asked(vehicle=vehicle, battery=battery, heat_pump=heat_pump)
    for name, value, kinds in (("capacity", capacity, _SIZED), ("outdoor", outdoor, _WEATHER)):
        if value is not None and kind not in kinds:
            raise ValueError(f"equip: a {_called(kind)} has no {name}; leave {name}= out.")
    who = _owners(market, kind, share, seed)
    if not who.size:
        return market
    made = _MADE[kind](market, who, power, capacity, outdoor, seed)
    return validate(replace(market, buffers=devices.join(market.buffers, made)))


def _wired(market: Market, most: Any) -> Market:
    """The market with house connections for its customers."""
    count = market.prosumers.bus.shape[0]
    who = np.flatnonzero(np.asarray(market.prosumers.load).max(axis=1, initial=0.0) > 0)
    if connected(market)[who].any():
        raise ValueError(
            "equip: customers of this market have house connections already; give connection_max= "
            "once, or change Grid.rating of their lines."
        )
    return devices.connection(market, who, _each("connection_max", most, np.inf, count, who))


def _called(kind: str) -> str:
    return kind.replace("_", " ")


def _asked(**shares: float) -> tuple[Kind, float]:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"equip: {name}={share:g}; give a share from 0 to 1: 0.6, not 60.")
    asked = [name for name, share in shares.items() if share > 0]
    if len(asked) != 1:
        found = " and ".join(asked) or "none"
        raise ValueError(f"equip: one kind of device a call, not {found}; call it for each.")
    kind = next(kind for kind in get_args(Kind) if kind == asked[0])
    return kind, shares[kind]


def _owners(market: Market, kind: Kind, share: float, seed: int) -> Int[np.ndarray, " K"]:
    """Who owns one: the first of the customers, in an order that the seed and the kind make."""
    customers = np.flatnonzero(np.asarray(market.prosumers.load).max(axis=1, initial=0.0) > 0)
    if not customers.size:
        raise ValueError("equip: no prosumer has a load in any step; give the market customers.")
    order = np.random.default_rng([seed, get_args(Kind).index(kind)]).permutation(customers)
    return np.sort(order[: round(share * len(customers))])


def _each(name: str, value: Any, usual: float, count: int, who: np.ndarray) -> np.ndarray:
    """A number for each owner."""
    found = np.asarray(usual if value is None else value, float)
    if found.shape not in ((), (count,)):
        raise ValueError(
            f"equip: {name} has the shape {found.shape}; give one number, or one for each "
            f"prosumer, ({count},)."
        )
    return np.broadcast_to(found, count)[who]


def _when(market: Market) -> dict[str, Any]:
    """The steps of a market as devices take them."""
    steps = market.prosumers.load.shape[1]
    return {"steps": steps, "hour_length": even("equip", market)}


def _vehicles(
    market: Market, who: np.ndarray, power: Any, capacity: Any, _: Any, seed: int
) -> Buffers:
    count = market.prosumers.load.shape[0]
    cars = vehicles(
        count, seed, clock=market.clock or _SOME_DAY, **_when(market),
        power=_each("power", power, 11.0, count, np.arange(count)),
        capacity=_each("capacity", capacity, 60.0, count, np.arange(count)),
    )  # fmt: skip
    mine: dict[str, Any] = cars.device | {"clock": market.clock}
    for name, value in mine.items():
        mine[name] = value[who] if np.shape(value)[:1] == (count,) else value
    return devices.vehicle(who, **mine)


def _batteries(
    market: Market, who: np.ndarray, power: Any, capacity: Any, _: Any, __: int
) -> Buffers:
    count, steps = market.prosumers.load.shape
    limit = _each("power", power, 5.0, count, who)[:, None]
    size = _each("capacity", capacity, 10.0, count, who)
    return devices.battery(who, power=limit, capacity=size, hours=steps, final=0.5)


def _heat_pumps(
    market: Market, who: np.ndarray, power: Any, _: Any, outdoor: Any, __: int
) -> Buffers:
    if outdoor is None:
        raise ValueError("equip: a heat pump goes by the weather; give outdoor= in degC, by step.")
    count, steps = market.prosumers.load.shape
    air = np.asarray(outdoor, float)
    if air.shape not in ((), (steps,)):
        raise ValueError(
            f"equip: outdoor has the shape {air.shape}; give one number, or one a step, ({steps},)."
        )
    design = _each("power", power, 8.0, count, who)
    air = np.broadcast_to(air, (len(who), steps))
    found = heat_pumps(design, air, clock=market.clock or _SOME_DAY, **_when(market))
    return devices.heat_pump(who, **found.device)


_SIZED = ("vehicle", "battery")
_WEATHER = ("heat_pump",)
_MADE: dict[Kind, Callable[..., Buffers]] = {
    "vehicle": _vehicles,
    "battery": _batteries,
    "heat_pump": _heat_pumps,
}
