"""Calls of a reserve: leaves of the tree of steps that hang below those that must have some.

In a call the net exchange of all is so many kW lower, or higher, than in its step, whose loads,
limits and prices go on. It has all rows of a step, so whoever answers has room in power and in
content, and the network bears it (docs/reserve.md).
"""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .arrays import by_hour
from .caps import capped, ramp
from .commitments import Commitment
from .each import for_one
from .market import FIELDS, Market
from .record import changed
from .runner import to_device
from .succession import order, parents
from .tables import Buffers, Caps

NAME = "reserve"  # of the cap
RAREST = 1e-3  # probability of a call that solvers still see beside its step
_ENDS = (("max", 1), ("min", -1))


@for_one()
def with_reserve(
    market: Market,
    *,
    up: Any = 0.0,
    down: Any = 0.0,
    duration: Any = None,
    probability: Any = 0.01,
) -> Market:
    """The market that holds `up` kW and `down` kW of reserve: one number, or by step.

    At the end of a step the main grid may call for as much: for `duration` hours (the step's own
    length by default; one number, or by step) all together then draw `up` kW less than in the step,
    or `down` kW more, while its loads, sun, limits and prices go on. What devices do in a call is
    for them to choose, from the content that the step leaves. Calls are steps of the market that
    follow its own, and count in costs by their `probability`; content that a call takes counts by
    `Buffers.final_value`. Steps of which nothing is asked have no calls.

    Limits of a step hold in its calls, floors of buffers and a group's kW among them. A buffer that
    can neither charge nor discharge in the step stands still in its calls; else what drains it goes
    on. Caps whose level goes on from step to step (carbon, budgets, ramps, peaks) do not count
    calls, and what is committed (`Market.committed`) is not in them.

    Raises `ValueError` for numbers that do not fit, where nothing is asked, and for a market that
    has reserve already.
    """
    steps = np.shape(market.prosumers.load)[-1]
    asked = {
        word: _numbers(word, value, steps, 0.0) for word, value in (("up", up), ("down", down))
    }
    length = np.broadcast_to(np.asarray(market.hour_length, float), steps)
    lasts = length if duration is None else _numbers("duration", duration, steps, 1e-9)
    chance = _numbers("probability", probability, steps, 1e-9)
    odd = (chance < RAREST) | (chance > 1)
    if np.any(odd):
        raise ValueError(
            f"with_reserve: probability {chance[odd][0]:.6g}; give a share from {RAREST} to 1, as "
            "solvers lose what counts less."
        )
    if NAME in market.caps.names:
        raise ValueError(
            "with_reserve: this market has reserve already; give the one that it was made of."
        )
    of = [np.flatnonzero(kw > 0) for kw in asked.values()]
    called = np.concatenate(of)
    if not len(called):
        raise ValueError("with_reserve: nothing is asked; give up= or down= above 0 in some step.")
    at = np.concatenate([np.arange(steps), called])
    found = at_steps(market, at)
    before = np.concatenate([parents(market.before, steps), called])
    ratio = np.concatenate([np.ones(steps), lasts[called] / length[called]])
    often = np.concatenate([np.ones(steps), chance[called]])
    calls = np.arange(len(at)) >= steps
    found = changed(
        found,
        before=order("with_reserve", before, len(at)),
        committed=committed_in(market, len(at)),
        hour_length=like(np.asarray(found.hour_length) * ratio, market),
        weight=like(np.asarray(found.weight) * often, market),
        buffers=_lasting(found.buffers, ratio, calls),
        caps=_uncalled(market.caps, found.caps, calls),
    )
    least, most = (np.full((1, len(at)), limit) for limit in (-np.inf, np.inf))
    ups = len(of[0])
    most[0, steps : steps + ups] = -asked["up"][of[0]]
    least[0, steps + ups :] = asked["down"][of[1]]
    exchange = ramp(found, np.inf, name=NAME)
    return capped(found, changed(exchange, rise_min=least, rise_max=most))


def _numbers(word: str, value: Any, steps: int, least: float) -> Float[np.ndarray, " H"]:
    """Numbers by step that are finite and not below the least."""
    found = np.array(by_hour(f"with_reserve: {word}", value, 1, steps, "market"), float)[0]
    if not np.all(np.isfinite(found) & (found >= least)):
        step = int(np.argmin(np.isfinite(found) & (found >= least)))
        raise ValueError(
            f"with_reserve: {word} is {found[step]:.6g} in step {step}; give numbers "
            f"{'above' if least else 'from'} 0."
        )
    return found


def at_steps(market: Market, at: Int[np.ndarray, " T"]) -> Market:
    """The market with its steps `at` these places, one after the other."""
    hourly = [field for field in FIELDS.values() if field.timed(market)]
    return eqx.tree_at(
        lambda m: [field.find(m) for field in hourly],
        market,
        [to_device(np.asarray(field.find(market))[..., at]) for field in hourly],
    )


def committed_in(market: Market, steps: int) -> Commitment | None:
    """What is committed of the first of `steps`: what there is more decides by itself."""
    kept = market.committed
    if kept is None:
        return None
    return kept._replace(moment=(*kept.moment, *[-1] * steps)[:steps])


def like(values: np.ndarray, market: Market) -> Array:
    """Numbers in the market's dtype."""
    return to_device(values.astype(market.prosumers.load.dtype))


def _lasting(
    stores: Buffers, ratio: Float[np.ndarray, " T"], calls: Bool[np.ndarray, " T"]
) -> Buffers:
    """Buffers in steps that last so many times as long, and without drain in calls while away.

    What leaks by a share a per step leaks by a^r in r of them. It loses (1 - a^r) / (1 - a) times
    as much of what is drained, and as much stays of what charges buffers that never discharge:
    content that leaks evenly, as that of `devices.heat_pump`.
    """
    shape, dtype = stores.energy_max.shape, np.asarray(stores.drain).dtype
    power = np.asarray(stores.charge_max), np.asarray(stores.discharge_max)
    away = calls & (power[0] <= 0) & (power[1] <= 0)
    kept = np.broadcast_to(np.asarray(stores.retention, float), shape)
    leaks = kept < 1
    times = np.where(leaks, (1 - kept**ratio) / np.where(leaks, 1 - kept, 1.0), ratio)
    fields = {"drain": np.where(away, 0.0, np.asarray(stores.drain) * times)}
    if np.any(leaks & (ratio != 1)):
        heat = leaks & ~np.any(power[1] > 0, axis=1, keepdims=True)
        fields["retention"] = kept**ratio
        fields["charge_efficiency"] = np.asarray(stores.charge_efficiency) * np.where(
            heat, times / ratio, 1.0
        )
    return changed(stores, **{name: to_device(a.astype(dtype)) for name, a in fields.items()})


def _uncalled(own: Caps, caps: Caps, calls: Bool[np.ndarray, " T"]) -> Caps:
    """Caps that do not count calls where their level goes on from step to step."""
    goes_on, adds = np.asarray(caps.carry) > 0, np.asarray(caps.adds) > 0
    loose = np.isinf(np.asarray(caps.slack))
    wrong = goes_on & ~adds & ~loose & (np.asarray(caps.price) != 0)
    if np.any(wrong):
        raise ValueError(
            f"with_reserve: cap {own.names[int(np.argmax(wrong))]!r} has a price on how a power "
            "changes, which a call would change; leave it out, or its price."
        )
    free = goes_on[:, None] & calls
    held = free & (loose & ~adds)[:, None]  # peaks stay as they are

    limits: dict[str, Any] = {"level_max": np.inf, "level_min": -np.inf}
    limits |= {f"rise_{end}": np.where(held, 0.0, way * np.inf) for end, way in _ENDS}
    fields = {name: np.where(free, limit, getattr(caps, name)) for name, limit in limits.items()}
    fields["base"] = np.where(free, 0.0, caps.base)
    fields["weight"] = np.where(free[np.asarray(caps.cap)], 0.0, caps.weight)
    dtype = np.asarray(caps.base).dtype
    return changed(caps, **{name: to_device(a.astype(dtype)) for name, a in fields.items()})
