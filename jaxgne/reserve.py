"""Reserve: power held back, up and down, what it costs, and who is paid for it (docs/reserve.md).

A call is a step of its own. Below each step that must have reserve hang two leaves of the tree of
steps, "called up" and "called down", with the loads, limits and prices of that step, in which the
net exchange of all is so many kW lower, or higher. Calls have all rows of a step, so whoever holds
reserve has room in power and in content, and the network bears the call; the price of reserve is
the multiplier of that one requirement. The model is that of joint energy and reserve markets (Chen
et al., 2024; Xia et al., 2024), with calls as scenarios.
"""

from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .arrays import by_hour
from .caps import capped, ramp
from .clock import hour_name
from .each import for_one
from .elastic import program
from .market import FIELDS, Market
from .model import Plan, Rows, costs, net_load
from .record import Record, changed
from .result import Clearing
from .runner import hosted, to_device
from .settlement import priced
from .slack import NOTHING, give, only
from .succession import order, parents
from .tables import Buffers, Caps, has_caps

NAME = "reserve"  # of the cap
RAREST = 1e-3  # probability of a call that solvers still see beside its step
Payer = Literal["operator", "load"]
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
    calls. Raises `ValueError` for numbers that do not fit, where nothing is asked, for a market
    that has reserve already.
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
    found = _spread(market, at)
    before = np.concatenate([parents(market.before, steps), called])
    ratio = np.concatenate([np.ones(steps), lasts[called] / length[called]])
    often = np.concatenate([np.ones(steps), chance[called]])
    calls = np.arange(len(at)) >= steps
    found = changed(
        found,
        before=order("with_reserve", before, len(at)),
        hour_length=_like(np.asarray(found.hour_length) * ratio, market),
        weight=_like(np.asarray(found.weight) * often, market),
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


def _spread(market: Market, at: Int[np.ndarray, " T"]) -> Market:
    """The market with its steps `at` these places, one after the other."""
    hourly = [field for field in FIELDS.values() if field.timed(market)]
    return eqx.tree_at(
        lambda m: [field.find(m) for field in hourly],
        market,
        [to_device(np.asarray(field.find(market))[..., at]) for field in hourly],
    )


def _like(values: np.ndarray, market: Market) -> Array:
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


class Schedule(Record):
    """The plan of a market with reserve, and what is held in each of its steps.

    `market` and `clearing` are those of its own steps, without calls and without the requirement:
    prices are those of energy, so that who draws more before a call is not paid for drawing less in
    it. `clearing.costs` are those of these steps; its certificate is that of the whole.

    `up` and `down` are what each prosumer draws less, or more, where it is called (kW); so
    `generators_up` is what a generator makes more, and `buffers_up` what a buffer gives more or
    takes less. Prices are what a kW more of the requirement would cost, EUR per kW and step, as
    often as the step counts (`Market.weight`).
    """

    market: Market
    clearing: Clearing
    required_up: Float[Array, " H"]
    required_down: Float[Array, " H"]
    price_up: Float[Array, " H"]
    price_down: Float[Array, " H"]
    up: Float[Array, "N H"]
    down: Float[Array, "N H"]
    generators_up: Float[Array, "G H"]
    generators_down: Float[Array, "G H"]
    buffers_up: Float[Array, "K H"]
    buffers_down: Float[Array, "K H"]

    @property
    def income(self) -> Float[Array, "N H"]:
        """What each prosumer is paid for what it does in calls, EUR; negative where it pays."""
        return self.price_up * self.up + self.price_down * self.down

    def __str__(self) -> str:
        rows = []
        for h in range(len(np.asarray(self.required_up))):
            parts = [
                f"{word} {float(kw[h]):.4g} kW at {float(price[h]):.4g} EUR/kW"
                for word, kw, price in (
                    ("up", self.required_up, self.price_up),
                    ("down", self.required_down, self.price_down),
                )
                if float(kw[h]) > 0
            ]
            rows += [f"{hour_name(self.market, h)}: {', '.join(parts)}"] if parts else []
        return "\n".join([*rows, f"paid in all {float(np.sum(self.income)):.4g} EUR"])


@for_one()
def schedule(market: Market, clearing: Clearing) -> Schedule:
    """What a market of `with_reserve` cleared to: its own steps, its reserve, and prices of it.

    Runs on the host. Raises `ValueError` for a market without reserve, and for a clearing without
    prices.
    """
    priced("schedule", clearing)
    row, steps, of, asked = _calls("schedule", market)
    plan, weight = clearing.plan, np.asarray(market.weight, float)
    worth = weight * np.asarray(clearing.prices.cap, float)[row]
    net = np.asarray(net_load(market, plan))
    given = np.asarray(plan.discharge) - np.asarray(plan.charge)
    tables = {"": -net, "generators_": np.asarray(plan.generation), "buffers_": given}
    before, found = parents(market.before, len(weight)), {}
    for word, calls in of.items():
        sign, hours = 1 if word == "up" else -1, before[calls]

        def placed(values: np.ndarray, hours: np.ndarray = hours) -> Array:
            whole = np.zeros((*values.shape[:-1], steps))
            whole[..., hours] = values
            return _like(whole, market)

        found[f"required_{word}"] = placed(asked[calls])
        found[f"price_{word}"] = placed(sign * worth[calls])
        for name, table in tables.items():
            found[name + word] = placed(sign * (table[..., calls] - table[..., hours]))
    plain, plan, prices = without(market, plan, clearing.prices)
    own = changed(_spread(plain, np.arange(steps)), before=order("schedule", before[:steps], steps))
    plan, prices, total = (
        jax.tree.map(lambda a: a[..., :steps], table)
        for table in (plan, prices, clearing.aggregate)
    )
    cleared = replace(
        clearing,
        plan=plan,
        prices=prices,
        aggregate=total,
        costs=costs(own, plan),
        certificate=changed(
            clearing.certificate,
            hour_length=clearing.certificate.hour_length[:steps],
            hours=steps,
            before=own.before,
        ),
    )
    return Schedule(market=own, clearing=cleared, **found)


def without(market: Market, plan: Plan, prices: Rows) -> tuple[Market, Plan, Rows]:
    """The tree without the requirement: prices of trades are those of energy alone.

    The requirement may as well count what everyone draws at its buses, whose sum is the net
    exchange. Then the value of a prosumer's own balance is less by the requirement's price, which
    it pays on what it draws instead.
    """
    row = _calls("without", market)[0]
    caps, count = market.caps, len(market.caps.names)
    kept, terms = np.arange(count) != row, np.asarray(market.caps.cap) != row
    number = np.cumsum(kept) - 1
    by_cap = ("level_max", "level_min", "rise_min", "rise_max", "base", "start", "carry", "slack")
    by_cap += ("price", "adds", "owner", "carbon")
    fields = {name: getattr(caps, name)[kept] for name in by_cap}
    fields |= {name: getattr(caps, name)[terms] for name in ("quantity", "row", "weight")}
    for name in ("names", "units"):
        fields[name] = tuple(one for k, one in enumerate(getattr(caps, name)) if kept[k])
    fields["cap"] = to_device(
        number[np.asarray(caps.cap)[terms]].astype(np.asarray(caps.cap).dtype)
    )
    plain = changed(market, caps=changed(caps, **fields))
    assert prices.cap is not None
    price = prices.cap[row] / market.hour_length

    def left(table: Any, *names: str) -> dict[str, Any]:
        each = {name: getattr(table, name) for name in names}
        return {name: a[kept] if has_caps(plain) else None for name, a in each.items()}

    return (
        plain,
        replace(plan, **left(plan, "level", "rise", "spare")),
        replace(prices, balance=prices.balance - price, **left(prices, "cap", "level")),
    )


class Payments(Record):
    """Who is paid for reserve and who pays, EUR by step: income less all else is 0."""

    income: Float[Array, "N H"]  # of who provides
    prosumers: Float[Array, "N H"]  # what they pay
    passive: Float[Array, "B H"]  # what passive consumers pay
    operator: Float[Array, " H"]  # what the operator pays


def payments(schedule: Schedule, payer: Payer = "operator") -> Payments:
    """By a `schedule`, each prosumer is paid the price of reserve for what it does in calls.

    Who pays that is the operator, or with `payer="load"` all consumers by what they draw in the
    step, without their devices; the operator where nobody draws. Raises `ValueError` for others.
    """
    if payer not in ("operator", "load"):
        raise ValueError(f"payments: payer={payer!r} is neither 'operator' nor 'load'.")
    income = np.asarray(schedule.income)
    cost, market = income.sum(axis=0), schedule.market
    drawn = [np.maximum(np.asarray(a), 0.0) for a in (market.prosumers.load, market.grid.passive)]
    total = sum(a.sum(axis=0) for a in drawn)
    all_ = (payer == "load") & (total > 0)
    each = np.where(all_, cost / np.where(all_, total, 1.0), 0.0)
    return Payments(
        income=schedule.income,
        prosumers=_like(each * drawn[0], market),
        passive=_like(each * drawn[1], market),
        operator=_like(np.where(all_, 0.0, cost), market),
    )


class Shortage(Record):
    """By how much the requirement must fall in each step for a market to have a plan, kW."""

    up: Float[Array, " H"]
    down: Float[Array, " H"]
    lines: tuple[str, ...] = eqx.field(static=True)

    def __str__(self) -> str:
        return "\n".join(self.lines) or "There is a plan that holds all reserve."


@for_one()
def shortage(market: Market) -> Shortage:
    """Which steps lack how much reserve: the least in all, of a market of `with_reserve`.

    By a linear program, on the host. Raises `ValueError` for a market without reserve, and where
    no hour could go on as long as a call lasts, whatever is asked.
    """
    row, steps, of, asked = _calls("shortage", market)
    made = hosted(program)(market)
    slacks = [s for way in ("rise_max", "rise_min") for s in give(made, f"Caps.{way}", 1.0)]
    only(made, slacks, {int(c) for s in slacks for c in s.columns[s.rows == row]})
    found = made.solve()
    if found.x is None:
        raise ValueError(
            "shortage: no plan lasts until calls are over, however little is asked of them; give a "
            "shorter duration=, or see what must give way, jg.relax(market)."
        )
    lack = np.zeros(len(np.asarray(market.weight)))
    for slack in slacks:
        ours, unit = slack.rows == row, np.broadcast_to(slack.unit, slack.columns.shape)
        amount = found.x[slack.columns]
        np.add.at(lack, slack.hours[ours], np.where(amount > NOTHING, amount * unit, 0.0)[ours])
    before, short, lines = parents(market.before, len(lack)), {}, []
    for word, calls in of.items():
        short[word] = np.zeros(steps)
        short[word][before[calls]] = lack[calls]
        lines += [
            f"{hour_name(market, int(before[c]))}: {lack[c]:.4g} kW of {asked[c]:.4g} kW reserve "
            f"{word} are missing."
            for c in calls[lack[calls] > 0]
        ]
    return Shortage(**{word: _like(kw, market) for word, kw in short.items()}, lines=tuple(lines))


def _calls(
    caller: str, market: Market
) -> tuple[int, int, dict[str, Int[np.ndarray, " C"]], Float[np.ndarray, " T"]]:
    """The row of the requirement, how many steps are no calls, those called up and down, and kW."""
    if NAME not in market.caps.names:
        raise ValueError(f"{caller}: this market has no reserve; make it by jg.with_reserve.")
    row = market.caps.names.index(NAME)
    most, least = (np.asarray(getattr(market.caps, f"rise_{end}"))[row] for end in ("max", "min"))
    of = {"up": np.flatnonzero(np.isfinite(most)), "down": np.flatnonzero(np.isfinite(least))}
    asked = np.where(np.isfinite(most), -most, np.where(np.isfinite(least), least, 0.0))
    return row, len(asked) - len(of["up"]) - len(of["down"]), of, asked
