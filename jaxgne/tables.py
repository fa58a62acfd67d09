"""Tables of a market that stand by themselves: limits that many share.

A carbon cap, an energy budget, a limit on the chargers of a street, a ramp of the total, a demand
charge: all are rows of one table. What its members do in a step is summed, and the sum either adds
to a level, as emissions do, or is the level, as a power is (model.md: Caps).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from .arrays import Reader, step_count, whole
from .fields import amount, index, structure
from .record import Record, changed
from .runner import jnp

KINDS = ("imports", "exports", "generation", "charge", "discharge")  # what can be summed


class Caps(Record):
    """Shared limits, one row each, in units of their own; and the terms of their sums.

    A term is what one prosumer imports or exports, one generator makes, or one buffer charges or
    discharges, in kW, times a `weight` by step. With s_h the sum of a cap's terms and `base`, its
    level is

        level_h = carry level_(h-1) + rise_h,   from `start`
        rise_h = s_h + spare_h where `adds` is 1, level_h = s_h + spare_h where it is 0

    with `level_min <= level <= level_max`, `rise_min <= rise <= rise_max`, 0 <= spare <= `slack`.
    Each unit of rise costs `price`, which its `owner` pays; of a cap of nobody's (-1) all its
    members do, by the price of the sum (`Rows.cap`).
    """

    level_min: Float[Array, "M H"] = amount("", "least level at the end of a step", "[-inf, inf)")
    level_max: Float[Array, "M H"] = amount("", "most level at the end of a step", "(-inf, inf]")
    rise_min: Float[Array, "M H"] = amount("", "least change of the level", "[-inf, inf)")
    rise_max: Float[Array, "M H"] = amount("", "most change of the level", "(-inf, inf]")
    base: Float[Array, "M H"] = amount("", "what is counted beside the terms")
    start: Float[Array, " M"] = amount("", "level at the start")
    carry: Float[Array, " M"] = amount(
        "", "share of the level kept per step", "[0, 1]", "is out of range; give a share, at most 1"
    )
    slack: Float[Array, " M"] = amount(
        "", "most by which more may be counted than is summed", "[0, inf]"
    )
    price: Float[Array, " M"] = amount("EUR", "cost of a unit of rise")
    adds: Int[Array, " M"] = index("switch", "1: the sum is the rise, 0: it is the level")
    owner: Int[Array, " M"] = index("payer", "prosumer who pays for the rise, or -1")
    cap: Int[Array, " C"] = index("cap", "whose term it is")
    kind: Int[Array, " C"] = index("quantity", f"what is summed, of {', '.join(KINDS)}")
    row: Int[Array, " C"] = index("member", "row of the prosumer, generator or buffer")
    weight: Float[Array, "C H"] = amount("per kW", "what a kW counts")
    names: tuple[str, ...] = structure("name of each cap")
    units: tuple[str, ...] = structure("unit of each cap's level")

    def __init__(
        self,
        level_max: Any,
        *,
        hours: int,
        level_min: Any = -np.inf,
        rise_min: Any = -np.inf,
        rise_max: Any = np.inf,
        base: Any = 0.0,
        start: Any = 0.0,
        carry: Any = 0.0,
        slack: Any = 0.0,
        price: Any = 0.0,
        adds: Any = None,
        owner: Any = None,
        cap: Any = (),
        kind: Any = (),
        row: Any = (),
        weight: Any = 1.0,
        names: Sequence[str] = (),
        units: Sequence[str] = (),
    ):
        count, steps = len(level_max), step_count("Caps: hours", hours)
        given = (level_max, level_min, rise_min, rise_max, base, start, carry, slack, price, weight)
        read = Reader("Caps.", "cap", count, steps, *given)
        self.level_min = read.hour("level_min", level_min)
        self.level_max = read.hour("level_max", level_max)
        self.rise_min = read.hour("rise_min", rise_min)
        self.rise_max = read.hour("rise_max", rise_max)
        self.base = read.hour("base", base)
        self.start = read.row("start", start)
        self.carry = read.row("carry", carry)
        self.slack = read.row("slack", slack)
        self.price = read.row("price", price)
        self.adds = whole("Caps.adds", np.ones(count, int) if adds is None else adds)
        self.owner = whole("Caps.owner", np.full(count, -1) if owner is None else owner)
        self.cap, self.kind, self.row = (
            whole(f"Caps.{name}", a) for name, a in (("cap", cap), ("kind", kind), ("row", row))
        )
        self.weight = Reader("Caps.", "term", len(self.cap), steps, *given).hour("weight", weight)
        self.names = tuple(names) or tuple(f"cap {k}" for k in range(count))
        self.units = tuple(units) or ("",) * count


def has_caps(market: Any) -> bool:
    """Whether a market, or each of a batch, has any."""
    return market.caps.carry.shape[-1] > 0


def weighty(market: Any) -> Any:
    """The market with caps whose terms count as much as they may, whatever their sign."""
    return changed(market, caps=changed(market.caps, weight=jnp.abs(market.caps.weight)))


def kw_per_unit(caps: Caps) -> Float[Array, "M 1"]:
    """How many kW a unit of each cap stands for: one by its heaviest term."""
    weight = jnp.max(jnp.abs(caps.weight), axis=1, initial=0.0)
    most = jnp.zeros_like(caps.price).at[caps.cap].max(weight)[:, None]
    return 1 / jnp.where(most > 0, most, 1.0)


def places(market: Any) -> Int[Array, " C"]:
    """Row of each term where the tables of `KINDS` stand one below the other."""
    people = market.prosumers.bus.shape[0]
    stores = market.buffers.owner.shape[0]
    counts = (people, people, market.generators.owner.shape[0], stores)
    first = np.concatenate([[0], np.cumsum(counts)])
    return jnp.asarray(first, market.caps.row.dtype)[market.caps.kind] + market.caps.row
