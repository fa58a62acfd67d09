"""Reserve: power held back, up and down, what it costs, and who is paid for it (docs/reserve.md).

Reserve is what can be called (`jaxgne.calls`), and its price the multiplier of that one
requirement. The model is that of joint energy and reserve markets (Chen et al., 2024; Xia et al.,
2024), with calls as scenarios.
"""

from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .calls import NAME, at_steps, committed_in, like
from .calls import with_reserve as with_reserve
from .clock import hour_name
from .each import for_one
from .elastic import program
from .market import Market
from .model import Plan, Rows, costs, net_load
from .record import Record, changed
from .result import Clearing
from .runner import hosted, to_device
from .settlement import priced
from .slack import NOTHING, give, only
from .succession import order, parents
from .tables import has_caps

Payer = Literal["operator", "load"]


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
            return like(whole, market)

        found[f"required_{word}"] = placed(asked[calls])
        found[f"price_{word}"] = placed(sign * worth[calls])
        for name, table in tables.items():
            found[name + word] = placed(sign * (table[..., calls] - table[..., hours]))
    plain, plan, prices = without(market, plan, clearing.prices)
    own = changed(
        at_steps(plain, np.arange(steps)),
        before=order("schedule", before[:steps], steps),
        committed=committed_in(plain, steps),
    )
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
        prosumers=like(each * drawn[0], market),
        passive=like(each * drawn[1], market),
        operator=like(np.where(all_, 0.0, cost), market),
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
    return Shortage(**{word: like(kw, market) for word, kw in short.items()}, lines=tuple(lines))


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
