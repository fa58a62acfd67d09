"""Whether a market makes sense: every mistake at once, in the user's words, before anything runs.

All of it is NumPy on the host. `gate` is what everything passes that computes with a market: it
refuses nonsense, at the cost of reading each number twice. `validate` also says what no plan meets.
"""

import warnings
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Bool, Float

from ..arguments import of_tables
from ..each import for_one, leading
from ..market import Market
from ..runner import held_here
from ..succession import parents
from ..tables import has_caps
from .cycles import negative_cycle
from .doubtful import by_owner, doubts
from .levels import out_of_reach
from .numbers import mistakes, suspects
from .phases import in_phases
from .tables import (
    WHOLE,
    Values,
    caps,
    field,
    indices,
    kinds,
    lines,
    number,
    pairs,
    shapes,
    traced,
    uneven,
    walk,
)

__all__ = ["gate", "preference_cycle", "problems", "structure", "validate"]

_SHOWN = 5  # scenarios of a batch whose mistakes are told


def gate(market: Market, caller: str = "clear", *, batch: bool = False) -> None:
    """Refuse, one sentence a mistake, what `caller` cannot compute with: `ValueError`.

    Of a traced market, and of one that other processes hold parts of, only shapes are known.
    A batch is refused too, unless the caller computes with a `batch`.
    """
    known = not traced(market) and held_here(market.prosumers.load)
    if batch and leading(market) != {()}:
        if known:
            gate_many(jax.tree.map(np.asarray, market))
        return
    wrong = structure(market, caller) if known else shapes(market, caller)
    if wrong:
        raise ValueError("\n".join(wrong))


def gate_many(markets: Market, first: int = 0) -> None:
    """`gate` for a batch on the host: the same checks of every scenario, which is named.

    Integers (owners, buses, ends) are looked at again where they differ from the first scenario's.
    `first` is the number of the first scenario.
    """
    one = _scenario(markets, 0)
    doubtful = np.zeros(len(markets.prosumers.load), bool)
    doubtful[0] = True
    if not shapes(one):
        doubtful |= suspects(markets)
        for name in WHOLE:
            table = np.asarray(field(markets, name))
            if table.strides[0]:
                doubtful |= np.any(table != table[:1], axis=1)
        if markets.clock is not None:
            starts = np.asarray(markets.clock.start)
            doubtful[[starts.argmin(), starts.argmax()]] = True
    wrong = _named(
        (f"scenario {first + k}: ", structure(_scenario(markets, k)))
        for k in np.flatnonzero(doubtful).tolist()
    )
    if wrong:
        raise ValueError("\n".join(wrong))


def _scenario(markets: Market, index: int) -> Market:
    return jax.tree.map(lambda a: np.asarray(a)[index], markets)


def _named(found: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Sentences behind the words for their scenario; beyond a few only how many scenarios."""
    bad = [(where, sentences) for where, sentences in found if sentences]
    told = [where + sentence for where, sentences in bad[:_SHOWN] for sentence in sentences]
    more = len(bad) - _SHOWN
    return told + ([f"{more} more scenario{'s' * (more > 1)} likewise."] if more > 0 else [])


def structure(market: Market, caller: str = "clear") -> list[str]:
    """What makes any computation with `market` meaningless, one sentence each; empty if nothing.

    Shapes, indices, pairs, the lines of the grid, and numbers that are not finite, negative, out of
    range or out of order. What only leaves no plan is for the solver to find.
    """
    wrong = shapes(market, caller)
    if wrong or traced(market):
        return wrong
    v = Values(market)
    wrong = indices(v)
    wrong += [] if wrong else pairs(v) + (lines(v) or in_phases(v)) + caps(v) + kinds(v)
    wrong += [] if wrong else uneven(v)
    wrong += mistakes(v) if np.any(suspects(market)) else []
    made, steps = market.buffers.made, np.shape(market.prosumers.load)[-1]
    unreal = market.clock and market.clock.wrong()
    unfit = made and not unreal and made.unfit(market.hour_length, market.clock, steps)
    return wrong + [sentence for sentence in (unreal, unfit) if sentence]


@of_tables
def problems(market: Market) -> list[str]:
    """Everything wrong with `market`, one sentence each, `structure` first; empty if nothing.

    Besides `structure`: numbers that the grid model has no use for, buffers that can keep their
    bounds, and necessary conditions for demand to be met. Of a batch each scenario is looked at.
    """
    if len(leading(market) - {()}) == 1 and () not in leading(market) and not traced(market):
        return _named((where, problems(one)) for where, one in _each(market))
    wrong = structure(market, "validate")
    if traced(market) or shapes(market):
        return wrong
    v = Values(market)
    with np.errstate(all="ignore"):  # what is not finite is reported once, by `mistakes`
        if not indices(v):
            wrong += _paper(v) + _islands(v) + (out_of_reach(v) if has_caps(market) else [])
            give, take, unkept = _storage(v)
            wrong += unkept + _supply(v, give, take)
    return wrong


@of_tables
def validate(market: Market) -> Market:
    """`market` unchanged, or `ValueError` with all its `problems`, one sentence a line.

    Warns (`UserWarning`) of preferences that send trades round in a circle, of hours in which the
    main grid may pay more than it asks, and of numbers that look like another unit (volts, ohms, W,
    MVA, cents). A market with traced
    arrays has only its shapes checked. Of a batch every scenario is checked, and named.
    """
    wrong = problems(market)
    if wrong:
        raise ValueError("\n".join(wrong))
    for where, one in [] if traced(market) else _each(market):
        for doubt in doubts(Values(one)):
            warnings.warn(where + doubt, stacklevel=2)
        cycle = preference_cycle(one)
        if not cycle:
            continue
        shown = cycle if len(cycle) <= 8 else [*cycle[:6], "..."]
        warnings.warn(
            f"{where}Trading.fee_buyer and fee_seller: energy passed round prosumers "
            f"{' to '.join(str(i) for i in [*shown, cycle[0]])} is worth more to them than the "
            "tolls they pay, so these trades run to their limits; raise Trading.toll or bring "
            "the two fees of a pair closer together.",
            stacklevel=2,
        )
        break
    return market


def _each(market: Market) -> Iterator[tuple[str, Market]]:
    """The one market, or each scenario of a batch behind the words that name it."""
    if leading(market) == {()}:
        yield "", market
        return
    held = jax.tree.map(np.asarray, market)
    for k in range(len(held.prosumers.load)):
        yield f"scenario {k}: ", jax.tree.map(lambda a, k=k: a[k], held)


@for_one()
def preference_cycle(market: Market) -> list[int]:
    """Prosumers round whom energy is passed at a negative cost, seller first; empty if none.

    A kW more from seller to buyer costs the two `fee_buyer - fee_seller + 2 toll + reluctance`, one
    the other way as much with fees exchanged (model.md: Costs). A very long cycle may go unseen.
    """
    v = Values(market)
    limit, toll = v["Trading.limit"], 2 * v["Trading.toll"] + v["Trading.reluctance"]
    dislike = v["Trading.fee_buyer"] - v["Trading.fee_seller"]
    able, dislike, toll = np.broadcast_arrays(limit > 0, dislike, toll)
    fees = np.max(np.abs(dislike), initial=0.0, where=able)
    liked = np.any(able & v.beyond(np.abs(dislike), toll, fees), axis=0)
    found: list[int] = []
    for hour in np.flatnonzero(liked).tolist():  # but one where nothing is by hour
        kept = able[:, hour]
        buyer, seller = v["Trading.buyer"][kept], v["Trading.seller"][kept]
        likes, paid = dislike[kept, hour], toll[kept, hour]
        found = found or negative_cycle(
            np.concatenate([seller, buyer]),
            np.concatenate([buyer, seller]),
            np.concatenate([paid + likes, paid - likes]) + v.rounding() * fees,
            len(v["Prosumers.bus"]),
        )
    return found


def _paper(v: Values) -> list[str]:
    """What the paper's grid has no use for; it clears all the same."""
    wrong, grid = [], v.market.grid
    if grid.model.networked and not grid.reactive_balance:
        wrong += v.complain(
            "Grid.compensation_max",
            v["Grid.compensation_max"] > 0,
            lambda at: (
                f"{v.text('Grid.compensation_max', at)} does nothing where reactive power is not "
                "balanced; give the grid reactive_balance=True, or 0 here"
            ),
        )
    if grid.model.meshed:
        wrong += v.complain(
            "Grid.reactance",
            (v["Grid.resistance"] == 0) & (v["Grid.reactance"] == 0),
            lambda at: (
                "resistance and reactance are both 0, so the line has no admittance; give "
                "it an impedance or merge its two buses"
            ),
        )
    return wrong


def _islands(v: Values) -> list[str]:
    """Buses of the paper's grid that use power and have no path to a feeder bus."""
    if not v.market.grid.model.meshed or not len(v["Grid.feeder"]):
        return []
    used = np.any(v["Grid.passive"] != 0, axis=1)
    used[v["Prosumers.bus"]] = True
    return v.complain(
        "Grid.passive",
        used & (walk(v)[0] < 0),
        lambda at: (
            f"{v.bus(at[0])} has a load or a prosumer but no path to a feeder bus; add the "
            "missing line or feeder bus"
        ),
        axes="B",
    )


def _storage(v: Values) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What each prosumer's buffers can give and take per hour, kW; and bounds they cannot keep.

    The contents a buffer can have at the end of an hour form an interval, found hour by hour from
    `energy_start` with everything charged or discharged. From its top a buffer gives most, down to
    `energy_min`; from its bottom it takes most, up to `energy_max`, also by charging and
    discharging at once, which loses energy.
    """
    floor, ceiling = v["Buffers.energy_min"], v["Buffers.energy_max"]
    keep, gain, given = (
        np.broadcast_to(v[f"Buffers.{name}"], floor.shape)
        for name in ("retention", "charge_efficiency", "discharge_efficiency")
    )
    most_in, most_out, drain = (
        v[f"Buffers.{name}"] for name in ("charge_max", "discharge_max", "drain")
    )
    give, take, high, low = (np.empty_like(floor) for _ in range(4))
    start = v["Buffers.energy_start"]
    tops, bottoms = {-1: start}, {-1: start}  # by step, and at the start
    parent = parents(v.market.before, floor.shape[1])
    for h, ts in enumerate(v["Market.hour_length"]):
        gains, loss = gain[:, h], 1 / given[:, h]
        left = keep[:, h] * tops[parent[h]] - drain[:, h]
        least = keep[:, h] * bottoms[parent[h]] - drain[:, h]
        high[:, h] = left + ts * gains * most_in[:, h]
        low[:, h] = least - ts * loss * most_out[:, h]
        spare, room = (left - floor[:, h]) / ts, (ceiling[:, h] - least) / ts
        give[:, h] = np.minimum(np.where(spare > 0, spare / loss, spare / gains), most_out[:, h])
        charged = np.minimum(most_in[:, h], (room + loss * most_out[:, h]) / gains)
        take[:, h] = charged - np.maximum(gains * charged - room, 0) / loss
        tops[h] = np.clip(high[:, h], floor[:, h], ceiling[:, h])
        bottoms[h] = np.clip(low[:, h], floor[:, h], ceiling[:, h])
    scale = np.abs(floor) + np.abs(ceiling)
    unkept = v.complain(
        "Buffers.energy_min",
        v.beyond(floor, high, scale),
        lambda at: (
            f"{v.text('Buffers.energy_min', at)} is out of reach, be it a floor or due: charging "
            f"all the time gives {number(high[at], 'kWh')}, {number(floor[at] - high[at], 'kWh')} "
            "less; lower it (jg.devices.recover does), or raise energy_start or charge_max"
        ),
    ) + v.complain(
        "Buffers.energy_max",
        v.beyond(low, ceiling, scale),
        lambda at: (
            f"{v.text('Buffers.energy_max', at)} cannot be kept, discharging all the time "
            f"leaves {number(low[at], 'kWh')}; raise it or discharge_max, or lower energy_start"
        ),
    )
    return by_owner(v, "Buffers.owner", give), by_owner(v, "Buffers.owner", take), unkept


def _supply(v: Values, give: Float[np.ndarray, "N H"], take: Float[np.ndarray, "N H"]) -> list[str]:
    """Loads that cannot be met, surpluses that cannot go anywhere.

    Necessary conditions only, from what each prosumer and all together can at most do: the network
    may still forbid it.
    """
    load, ends = v["Prosumers.load"], ("buyer", "seller")
    trade = sum(by_owner(v, f"Trading.{end}", v["Trading.limit"]) for end in ends)
    made, forced = (
        by_owner(v, "Generators.owner", v[f"Generators.power_{end}"]) for end in ("max", "min")
    )
    drawn = {  # least and most that each prosumer takes from its bus
        "least": load - made - give,
        "most": load - forced + take + v["Prosumers.curtail_max"],
    }
    size = np.abs(load) + np.abs(made) + np.abs(forced) + np.abs(give) + np.abs(take)
    bought, sold = v["Prosumers.import_max"] + trade, v["Prosumers.export_max"] + trade
    lacking, spilling = drawn["least"] - bought, -sold - drawn["most"]
    short = v.beyond(drawn["least"], bought, size)
    stuck = v.beyond(-sold, drawn["most"], size)
    wrong = v.complain(
        "Prosumers.load",
        short,
        lambda at: (
            f"{v.text('Prosumers.load', at)} is {number(lacking[at], 'kW')} more than generators, "
            "buffers, trades and imports can serve; raise import_max, a trading limit or a device, "
            "or lower the load"
        ),
    ) + v.complain(
        "Prosumers.load",
        stuck,
        lambda at: (
            f"{v.text('Prosumers.load', at)} leaves a surplus {number(spilling[at], 'kW')} above "
            "what buffers, trades, exports and curtailment can take; raise export_max, "
            "curtail_max or a trading limit"
        ),
    )
    known = np.any(short | stuck, axis=0)
    return wrong + _totals(v, drawn["least"], drawn["most"], known)


def _totals(
    v: Values,
    least: Float[np.ndarray, "N H"],
    most: Float[np.ndarray, "N H"],
    known: Bool[np.ndarray, " H"],
) -> list[str]:
    """What all prosumers together draw, `least` to `most`, against imports, exports and limits.

    Trades cancel, so the net exchange is s = b + what all draw, and between b - exports and
    b + imports. Hours `known` to be wrong already are left out.
    """
    low, high = np.sum(least, axis=0), np.sum(most, axis=0)
    passive = np.sum(v["Grid.passive"], axis=0)
    imports, exports = (np.sum(v[f"Prosumers.{way}_max"], axis=0) for way in ("import", "export"))
    size = np.sum(np.abs(v["Prosumers.load"]), axis=0) + np.sum(np.abs(v["Grid.passive"]), axis=0)
    floor = passive + np.maximum(low, -exports)
    ceiling = passive + np.minimum(high, imports)
    deficit, surplus = v.beyond(low, imports, size), v.beyond(-exports, high, size)
    wrong = v.complain(
        "Prosumers.import_max",
        deficit & ~known,
        lambda at: (
            f"all prosumers together need {number(low[at], 'kW')} from the main grid and may "
            f"import {number(imports[at], 'kW')}; raise import_max or add generation"
        ),
        axes="H",
    ) + v.complain(
        "Prosumers.export_max",
        surplus & ~known,
        lambda at: (
            f"all prosumers together must send {number(-high[at], 'kW')} to the main grid and "
            f"may export {number(exports[at], 'kW')}; raise export_max or curtail_max"
        ),
        axes="H",
    )
    wrong += v.complain(
        "Tariff.total_max",
        v.beyond(floor, v["Tariff.total_max"], size),
        lambda at: (
            f"{v.text('Tariff.total_max', at)} is below {number(floor[at], 'kW')}, the least "
            "that load needs after generation, discharge and exports; raise it or add generation"
        ),
    )
    return wrong + v.complain(
        "Tariff.total_min",
        v.beyond(v["Tariff.total_min"], ceiling, size),
        lambda at: (
            f"{v.text('Tariff.total_min', at)} is above {number(ceiling[at], 'kW')}, the most "
            "that load, charging and curtailment can draw; lower it"
        ),
    )
